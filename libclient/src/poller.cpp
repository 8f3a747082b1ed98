// SPDX-License-Identifier: MIT
#include <sys/epoll.h>

#include <algorithm>
#include <climits>

#include "consumer.hpp"
#include "ringbuf/shm/producer.hpp"

using namespace ringbuf;

struct ringbuf_poller {
  struct Member {
    ringbuf_consumer* consumer;
    bool edges;  // its wait descriptor was readable
  };
  UniqueFd epoll;  // holds the wait descriptors of all consumers, level-triggered
  std::vector<Member> members;
  bool handed_out = false;
  bool consuming = false;

  int consume();
  int sleep(int timeout_ms);
  std::vector<Member>::iterator find(const ringbuf_consumer* c) {
    return std::find_if(members.begin(), members.end(), [&](const Member& m) { return m.consumer == c; });
  }
};

// Every ring in the order added. A callback's negative value ends it; a corrupt ring does not keep the others waiting. Edges are
// taken from a ring only when it is looked at: another poller may sleep on them.
int ringbuf_poller::consume() {
  if (consuming) return api_fail(EBUSY, "a callback may not use the poller that called it");
  struct Consuming {
    bool& flag;
    ~Consuming() { flag = false; }
  } held{consuming = true};
  std::int64_t total = 0;
  bool corrupt = false;
  for (Member& m : members) {
    bool broken = false;
    const int n = m.consumer->consume(UINT64_MAX, m.edges, &broken);
    if (n < 0 && !broken) return n;
    m.edges = false;
    corrupt |= broken;
    if (!broken) total += n;
  }
  if (corrupt) return api_fail(EBADMSG, "a ring is corrupt at consumer_pos; ringbuf_consume of each of them tells which");
  return static_cast<int>(std::min<std::int64_t>(total, INT_MAX));
}

// Until something may be there (1), the time is over (0) or a signal was handled (-EINTR). S4: the sleepers are counted before
// the rings are looked at for the last time.
int ringbuf_poller::sleep(int timeout_ms) {
  bool awake = false;
  for (Member& m : members) m.consumer->ring.ring().add_waiting();
  for (Member& m : members) awake |= m.consumer->must_not_sleep();
  epoll_event events[16];
  const int n = awake ? 0 : ::epoll_wait(epoll.get(), events, 16, timeout_ms);
  const int err = errno;
  for (Member& m : members) m.consumer->ring.ring().sub_waiting();
  if (n < 0) return api_fail(Error{err, "sleep"});
  for (int i = 0; i < n; ++i) {
    const auto m = find(static_cast<ringbuf_consumer*>(events[i].data.ptr));
    m->consumer->ring.ring().count_wakeup();
    m->edges = true;
  }
  return awake || n > 0;
}

int ringbuf_poller_new(ringbuf_poller** ret_poller) {
  if (!ret_poller) return api_fail(EINVAL, "ret_poller is NULL");
  return guarded([&] {
    auto epoll = make_epoll();
    if (!epoll) return api_fail(epoll.error());
    *ret_poller = new ringbuf_poller{std::move(*epoll), {}};
    return 0;
  });
}

int ringbuf_poller_add(ringbuf_poller* poller, ringbuf_consumer* consumer) {
  if (!poller || !consumer) return api_fail(EINVAL, "poller or consumer is NULL");
  if (poller->consuming) return api_fail(EBUSY, "a callback may not change the poller that called it");
  if (consumer->user())
    return api_fail(EINVAL, "a USER_RINGBUF is drained: wait on ringbuf_consumer_epoll_fd, call ringbuf_drain");
  return guarded([&] {
    if (poller->find(consumer) != poller->members.end()) return api_fail(EEXIST, "the poller has this consumer already");
    poller->members.reserve(poller->members.size() + 1);
    {
      std::lock_guard lock(consumer->turn->mutex);
      if (int r = consumer->make_again(); r < 0) return r;
    }
    if (poller->handed_out)
      if (int r = consumer->hand_out(); r < 0) return r;
    epoll_event e{};
    e.events = EPOLLIN;
    e.data.ptr = consumer;
    if (::epoll_ctl(poller->epoll.get(), EPOLL_CTL_ADD, consumer->attachment->wait_fd(), &e) < 0)
      return api_fail(Error{errno, "add a consumer to a poller"});
    poller->members.push_back({consumer, false});
    return 0;
  });
}

int ringbuf_poller_remove(ringbuf_poller* poller, ringbuf_consumer* consumer) {
  if (!poller || !consumer) return api_fail(EINVAL, "poller or consumer is NULL");
  if (poller->consuming) return api_fail(EBUSY, "a callback may not change the poller that called it");
  const auto at = poller->find(consumer);
  if (at == poller->members.end()) return api_fail(ENOENT, "the poller does not have this consumer");
  ::epoll_ctl(poller->epoll.get(), EPOLL_CTL_DEL, consumer->attachment->wait_fd(), nullptr);
  poller->members.erase(at);
  return 0;
}

void ringbuf_poller_free(ringbuf_poller* poller) { delete poller; }

int ringbuf_poll(ringbuf_poller* poller, int timeout_ms) {
  if (!poller) return api_fail(EINVAL, "poller is NULL");
  if (timeout_ms < -1) return api_fail(EINVAL, "timeout_ms must be -1 or more");
  const std::uint64_t begin = shm::now_ns();
  for (;;) {
    const int n = poller->consume();
    if (n != 0 || timeout_ms == 0) return n;
    int left = timeout_ms;
    if (timeout_ms > 0) {
      const std::uint64_t waited_ms = (shm::now_ns() - begin) / 1'000'000u;
      if (waited_ms >= static_cast<std::uint64_t>(timeout_ms)) return 0;
      left = timeout_ms - static_cast<int>(waited_ms);
    }
    if (int r = poller->sleep(left); r < 0) return r;
  }
}

int ringbuf_poller_consume(ringbuf_poller* poller) { return poller ? poller->consume() : api_fail(EINVAL, "poller is NULL"); }

int ringbuf_poller_epoll_fd(ringbuf_poller* poller) {
  if (!poller) return api_fail(EINVAL, "poller is NULL");
  return guarded([&] {
    for (auto& m : poller->members)
      if (int r = m.consumer->hand_out(); r < 0) return r;
    poller->handed_out = true;
    return poller->epoll.get();
  });
}
