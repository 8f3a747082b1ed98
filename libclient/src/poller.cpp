// SPDX-License-Identifier: MIT
#include <sys/epoll.h>

#include <algorithm>
#include <climits>

#include "consumer.hpp"
#include "ringbuf/shm/producer.hpp"

using namespace ringbuf;

struct ringbuf_poller {
  UniqueFd epoll;  // holds the wait descriptors of all consumers, level-triggered
  std::vector<ringbuf_consumer*> consumers;
  bool handed_out = false;

  int consume();
  int sleep(int timeout_ms);
};

// Every ring in the order added. The first error ends it.
int ringbuf_poller::consume() {
  std::int64_t total = 0;
  for (ringbuf_consumer* c : consumers) {
    const int n = c->consume(UINT64_MAX);
    if (n < 0) return n;
    total += n;
  }
  return static_cast<int>(std::min<std::int64_t>(total, INT_MAX));
}

// Until something may be there (1), the time is over (0) or a signal was handled (-EINTR). S4: the sleepers are counted before
// the rings are looked at for the last time.
int ringbuf_poller::sleep(int timeout_ms) {
  bool awake = false;
  for (ringbuf_consumer* c : consumers) c->ring.ring().add_waiting();
  for (ringbuf_consumer* c : consumers) awake |= c->must_not_sleep();
  epoll_event events[16];
  const int n = awake ? 0 : ::epoll_wait(epoll.get(), events, 16, timeout_ms);
  const int err = errno;
  for (ringbuf_consumer* c : consumers) c->ring.ring().sub_waiting();
  if (n < 0) return api_fail(Error{err, "sleep"});
  for (int i = 0; i < n; ++i) {
    auto* c = static_cast<ringbuf_consumer*>(events[i].data.ptr);
    c->ring.ring().count_wakeup();
    clear_edges(c->attachment->wait_fd());
  }
  return awake || n > 0;
}

int ringbuf_poller_new(ringbuf_poller** ret_poller) {
  if (!ret_poller) return api_fail(EINVAL, "ret_poller is NULL");
  return guarded([&] {
    auto epoll = make_epoll();
    if (!epoll) return api_fail(epoll.error());
    *ret_poller = new ringbuf_poller{std::move(*epoll), {}, false};
    return 0;
  });
}

int ringbuf_poller_add(ringbuf_poller* poller, ringbuf_consumer* consumer) {
  if (!consumer) return api_fail(EINVAL, "consumer is NULL");
  return guarded([&] {
    if (std::find(poller->consumers.begin(), poller->consumers.end(), consumer) != poller->consumers.end())
      return api_fail(EEXIST, "the poller has this consumer already");
    poller->consumers.reserve(poller->consumers.size() + 1);
    if (poller->handed_out)
      if (int r = consumer->hand_out(); r < 0) return r;
    epoll_event e{};
    e.events = EPOLLIN;
    e.data.ptr = consumer;
    if (::epoll_ctl(poller->epoll.get(), EPOLL_CTL_ADD, consumer->attachment->wait_fd(), &e) < 0)
      return api_fail(Error{errno, "add a consumer to a poller"});
    poller->consumers.push_back(consumer);
    return 0;
  });
}

int ringbuf_poller_remove(ringbuf_poller* poller, ringbuf_consumer* consumer) {
  const auto at = std::find(poller->consumers.begin(), poller->consumers.end(), consumer);
  if (at == poller->consumers.end()) return api_fail(ENOENT, "the poller does not have this consumer");
  ::epoll_ctl(poller->epoll.get(), EPOLL_CTL_DEL, consumer->attachment->wait_fd(), nullptr);
  poller->consumers.erase(at);
  return 0;
}

void ringbuf_poller_free(ringbuf_poller* poller) { delete poller; }

int ringbuf_poll(ringbuf_poller* poller, int timeout_ms) {
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

int ringbuf_poller_consume(ringbuf_poller* poller) { return poller->consume(); }

int ringbuf_poller_epoll_fd(ringbuf_poller* poller) {
  return guarded([&] {
    for (ringbuf_consumer* c : poller->consumers)
      if (int r = c->hand_out(); r < 0) return r;
    poller->handed_out = true;
    return poller->epoll.get();
  });
}
