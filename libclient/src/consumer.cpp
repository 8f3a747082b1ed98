// SPDX-License-Identifier: MIT
#include "consumer.hpp"

#include <sys/epoll.h>

#include <climits>
#include <map>

namespace ringbuf {
namespace {

// Not static in their function: a fork while another thread is on its way into it the first time would leave the child waiting
// for that thread. Keyed by process as well: a child must not share a mutex that its parent may have held during fork.
ForkMutex turns_mutex;
std::map<std::pair<pid_t, std::pair<std::uint64_t, std::uint64_t>>, std::weak_ptr<ConsumerTurn>> turns;  // guarded by turns_mutex

ringbuf_view with_turn(ringbuf_view v, ConsumerTurn& turn) {
  v.room_told = turn.room_told;
  v.copy = turn.copy.get();
  return v;
}

}  // namespace

std::shared_ptr<ConsumerTurn> ConsumerTurn::of(const Attachment& a) {
  std::lock_guard lock(turns_mutex);
  std::erase_if(turns, [](const auto& entry) { return entry.second.expired(); });
  auto& known = turns[{::getpid(), a.identity()}];
  auto turn = known.lock();
  if (!turn) {
    turn = std::make_shared<ConsumerTurn>();
    if (a.view().map_flags & RINGBUF_OVERWRITE) turn->copy.reset(new unsigned char[a.view().mask + 1]);
    known = turn;
  }
  return turn;
}

int clear_edges(int epoll_fd) {
  epoll_event events[16];
  int total = 0, n;
  do {
    n = ::epoll_wait(epoll_fd, events, 16, 0);
    if (n > 0) total += n;
  } while (n == 16);
  return total;
}

}  // namespace ringbuf

using namespace ringbuf;

ringbuf_consumer::ringbuf_consumer(std::unique_ptr<Attachment> a, ringbuf_sample_fn f, void* c)
    : attachment(std::move(a)),
      turn(ConsumerTurn::of(*attachment)),
      view(with_turn(attachment->view(), *turn)),
      ring(view),
      fn(f),
      ctx(c) {
  ring.tell_waiters();
}

ringbuf_consumer::~ringbuf_consumer() {
  if (handed_out && attachment->ours()) ring.ring().sub_waiting();
}

int ringbuf_consumer::begin(bool edges) {
  turn->mutex.lock();
  if (turn->taken) {
    turn->mutex.unlock();
    return api_fail(EBUSY, "a callback may not consume the ring that called it");
  }
  taken_now(edges);
  return 0;
}

void ringbuf_consumer::taken_now(bool edges) {
  turn->taken = true;
  took_edges = handed_out || edges;
  if (took_edges) clear_edges(attachment->wait_fd());
}

void ringbuf_consumer::end(bool left) {
  // Data stay behind: nobody will write an eventfd for them, but an own loop, or another poller of this consumer, must come back.
  if (left && took_edges) {
    const std::uint64_t one = 1;
    (void)!::write(again.get(), &one, sizeof one);
  }
  turn->taken = false;
  turn->mutex.unlock();
}

int ringbuf_consumer::consume(std::uint64_t limit, bool edges, bool* ret_corrupt) {
  if (user()) return api_fail(EINVAL, "a USER_RINGBUF is not consumed but drained: ringbuf_drain");
  if (!fn) return api_fail(EINVAL, "the consumer was attached without a callback");
  if (int r = begin(edges); r < 0) return r;
  std::int64_t n;
  int answer = 0;
  {
    struct Turn {  // given back also when a C++ callback throws
      ringbuf_consumer* consumer;
      bool left = true;
      ~Turn() { consumer->end(left); }
    } held{this};
    n = ring.consume([&](void* data, std::size_t size) { return answer = fn(ctx, data, size); }, limit, &held.left);
  }
  if (n >= 0) return static_cast<int>(std::min<std::int64_t>(n, INT_MAX));
  if (answer >= 0) {
    if (ret_corrupt) *ret_corrupt = true;
    return api_fail(EBADMSG, "the ring is corrupt at consumer_pos; ringbuf_consumer_reset skips what it holds");
  }
  errno = -answer;
  return answer;
}

int ringbuf_consumer::drain(ringbuf_sample_fn f, void* c, std::uint64_t flags, std::int64_t* ret_samples) {
  {  // the mutex is held for a moment only, so that who holds it is no reason to be busy
    std::lock_guard lock(turn->mutex);
    if (turn->taken) return api_fail(EBUSY, "the ring is being drained already");
    taken_now(false);
  }
  struct Turn {  // given back also when a C++ callback throws
    ringbuf_consumer* consumer;
    bool stuck = false;
    ~Turn() {
      const shm::Ring& r = consumer->ring.ring();
      consumer->turn->mutex.lock();
      consumer->took_edges |= consumer->handed_out;  // since we began
      consumer->end(!stuck && r.ready_at(r.consumer_pos_own()));
    }
  } held{this};
  *ret_samples = ring.drain([&](void* data, std::size_t size) { return f(c, data, size); }, flags);
  held.stuck = *ret_samples < 0;
  if (*ret_samples == -EINVAL) return api_fail(EINVAL, "producer_pos or the sample's header at consumer_pos cannot be");
  if (*ret_samples == -E2BIG) return api_fail(E2BIG, "the sample at consumer_pos is larger than a drain takes");
  return 0;
}

bool ringbuf_consumer::must_not_sleep() {
  std::lock_guard lock(turn->mutex);
  return ring.must_not_sleep();
}

int ringbuf_consumer::make_again() {
  if (again) return 0;
  auto fd = make_eventfd();
  if (!fd) return api_fail(fd.error());
  if (auto ok = epoll_add_edge(attachment->wait_fd(), fd->get()); !ok) return api_fail(ok.error());
  again = std::move(*fd);
  return 0;
}

int ringbuf_consumer::hand_out() {
  std::lock_guard lock(turn->mutex);
  if (handed_out) return attachment->wait_fd();
  if (int r = make_again(); r < 0) return r;
  handed_out = true;
  ring.ring().add_waiting();
  if (turn->taken || ring.must_not_sleep()) {  // taken: by a drain in another thread, which does not hold the mutex
    const std::uint64_t one = 1;
    (void)!::write(again.get(), &one, sizeof one);
  }
  return attachment->wait_fd();
}

int ringbuf_consumer_attach(ringbuf_map* map, ringbuf_sample_fn fn, void* ctx, ringbuf_consumer** ret_consumer) {
  if (!map || !ret_consumer) return api_fail(EINVAL, "map or ret_consumer is NULL");
  return guarded([&] {
    std::unique_ptr<Attachment> a;
    if (int r = Attachment::make(*map, RINGBUF_CONSUMER, &a); r < 0) return r;
    *ret_consumer = new ringbuf_consumer(std::move(a), fn, ctx);
    return 0;
  });
}

void ringbuf_consumer_free(ringbuf_consumer* consumer) { delete consumer; }

int ringbuf_consume(ringbuf_consumer* consumer) { return ringbuf_consume_n(consumer, SIZE_MAX); }

int ringbuf_consume_n(ringbuf_consumer* consumer, size_t n) {
  if (!consumer) return api_fail(EINVAL, "consumer is NULL");
  return n == 0 ? 0 : consumer->consume(n);
}

int64_t ringbuf_drain(ringbuf_consumer* consumer, ringbuf_sample_fn fn, void* ctx, uint64_t flags) {
  if (!consumer || !fn) return api_fail(EINVAL, "consumer or fn is NULL");
  if (!consumer->user()) return api_fail(EINVAL, "only a USER_RINGBUF is drained; a RINGBUF is consumed: ringbuf_consume");
  if (flags & ~(RINGBUF_NO_WAKEUP | RINGBUF_FORCE_WAKEUP))
    return api_fail(EINVAL, "flags may hold only NO_WAKEUP and FORCE_WAKEUP");
  std::int64_t samples = 0;
  const int r = consumer->drain(fn, ctx, flags, &samples);
  return r < 0 ? r : samples;
}

int ringbuf_consumer_missed(const ringbuf_consumer* consumer, uint64_t* ret_records, uint64_t* ret_bytes) {
  if (!consumer || !ret_records || !ret_bytes) return api_fail(EINVAL, "consumer, ret_records or ret_bytes is NULL");
  *ret_records = consumer->ring.ring().missed_records();
  *ret_bytes = consumer->ring.ring().missed_bytes();
  return 0;
}

int64_t ringbuf_consumer_reset(ringbuf_consumer* consumer) {
  if (!consumer) return api_fail(EINVAL, "consumer is NULL");
  if (int r = consumer->begin(); r < 0) return r;
  const std::int64_t skipped = consumer->ring.reset();
  consumer->end(consumer->ring.ring().ready_at(consumer->ring.ring().consumer_pos_own()));
  return skipped;
}

int ringbuf_consumer_epoll_fd(ringbuf_consumer* consumer) {
  if (!consumer) return api_fail(EINVAL, "consumer is NULL");
  return guarded([&] { return consumer->hand_out(); });
}

uint64_t ringbuf_consumer_query(const ringbuf_consumer* consumer, uint64_t what) {
  if (!consumer) return 0;
  return shm::Producer(consumer->view).query(what);
}

const ringbuf_view* ringbuf_consumer_view(const ringbuf_consumer* consumer) { return &consumer->view; }
int ringbuf_consumer_begin(ringbuf_consumer* consumer) { return consumer->begin(); }
void ringbuf_consumer_end(ringbuf_consumer* consumer, int left) { consumer->end(left != 0); }
