// SPDX-License-Identifier: MIT
#include "ringbuf/shm/observer.hpp"

#include <cstring>

#include "map.hpp"

using namespace ringbuf;

struct ringbuf_observer {
  explicit ringbuf_observer(std::unique_ptr<Attachment> a) : attachment(std::move(a)), ring(attachment->view()) {}
  const std::unique_ptr<Attachment> attachment;
  const shm::Observer ring;
};

int ringbuf_observer_attach(ringbuf_map* map, ringbuf_observer** ret_observer) {
  if (!map || !ret_observer) return api_fail(EINVAL, "map or ret_observer is NULL");
  return guarded([&] {
    std::unique_ptr<Attachment> a;
    if (int r = Attachment::make(*map, RINGBUF_OBSERVER, &a); r < 0) return r;
    *ret_observer = new ringbuf_observer(std::move(a));
    return 0;
  });
}

void ringbuf_observer_free(ringbuf_observer* observer) { delete observer; }

int ringbuf_observer_stats(ringbuf_observer* observer, ringbuf_stats* ret_stats, size_t size) {
  if (!observer || !ret_stats) return api_fail(EINVAL, "observer or ret_stats is NULL");
  const shm::Ring& ring = observer->ring.ring();
  ringbuf_stats s{};
  s.consumer_pos = ring.consumer_pos();  // before producer_pos, so that the difference is never negative
  s.pending_pos = ring.pending_pos();
  const ringbuf_overwritten overwritten = ring.overwritten();
  s.overwrite_pos = overwritten.pos;
  s.overwritten_records = overwritten.records;
  s.overwritten_bytes = overwritten.bytes;
  s.missed_records = ring.missed_records();
  s.missed_bytes = ring.missed_bytes();
  s.producer_pos = ring.producer_pos();
  for (unsigned i = 0; i < RINGBUF_LOST_REASONS; ++i) s.lost[i] = ring.lost(static_cast<ringbuf_lost>(i));
  s.records = ring.records();
  s.bytes = ring.bytes();
  s.wakeups = ring.wakeups();
  s.waiting = ring.waiting();
  s.room_waiters = ring.room_waiters();
  s.owner_tid = ring.owner_tid();
  std::memset(ret_stats, 0, size);
  std::memcpy(ret_stats, &s, std::min(size, sizeof s));
  return 0;
}

namespace {

// f(show) calls one of shm::Observer's walks with `show` for each record.
template <class F>
std::int64_t walk(ringbuf_observer* observer, ringbuf_dump_fn fn, void* ctx, F&& f) {
  if (!observer || !fn) return api_fail(EINVAL, "observer or fn is NULL");
  std::int64_t shown = 0;
  int answer = 0;
  const int r = guarded([&] {
    shown = f([&](std::uint64_t pos, std::uint32_t flags, std::uint32_t slot, const void* data, std::size_t size) {
      return answer = fn(ctx, pos, flags, slot, data, size);
    });
    if (shown == -EBADMSG && answer >= 0) return api_fail(EBADMSG, "the ring is corrupt; its consumer can reset it");
    if (shown == -EAGAIN && answer >= 0)
      return api_fail(EAGAIN, "producers overwrite the whole ring faster than it can be copied");
    return 0;
  });
  return r < 0 ? r : shown;
}

}  // namespace

int64_t ringbuf_observer_dump(ringbuf_observer* observer, ringbuf_dump_fn fn, void* ctx) {
  return walk(observer, fn, ctx, [&](auto&& show) { return observer->ring.dump(show); });
}

int64_t ringbuf_observer_snapshot(ringbuf_observer* observer, ringbuf_dump_fn fn, void* ctx) {
  return walk(observer, fn, ctx, [&](auto&& show) { return observer->ring.snapshot(show); });
}
