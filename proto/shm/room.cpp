// SPDX-License-Identifier: MIT
#include "shm/room.hpp"

#include <algorithm>

#ifndef RINGBUF_TEST_ANNOUNCED
#define RINGBUF_TEST_ANNOUNCED(producer)  // for a test of what may happen between announcing and looking
#endif

namespace ringbuf::shm {
namespace {

constexpr int kSpins = 64;                           // about 2 us: waking a halted CPU costs ten times that
constexpr std::uint64_t kForgedSliceNs = 1'000'000;  // see below
constexpr std::uint64_t kForEverNs = 3600ull * 1'000'000'000u;

}  // namespace

// Turns go on where the slot's last holder stopped: the consumer remembers the needs that it has told.
RoomWaiter::RoomWaiter(const Producer& producer)
    : producer_(producer), pid_(::getpid()), turn_(static_cast<std::uint32_t>(producer.ring().need(producer.slot()) >> 32)) {}

void RoomWaiter::enlist(Waiter& w) {
  std::unique_lock lock(mutex_);
  w.next = waiters_;
  waiters_ = &w;
}

void RoomWaiter::delist(Waiter& w) {
  std::unique_lock lock(mutex_);
  Waiter** at = &waiters_;
  while (*at != &w) at = &(*at)->next;
  *at = w.next;
  announce(lock);
}

void RoomWaiter::announce(const std::unique_lock<std::mutex>&) {
  std::uint64_t least = 0;
  for (const Waiter* w = waiters_; w; w = w->next) least = least ? std::min(least, w->need) : w->need;
  const Ring& ring = producer_.ring();
  const bool counted = announced_;
  announced_ = least != 0;
  if (announced_ && !counted) ring.add_room_waiter();
  ring.set_need(producer_.slot(), least | std::uint64_t{++turn_} << 32);
  if (!announced_ && counted) ring.sub_room_waiter();
}

// Each turn of the loop loads room_seq, announces, looks, and sleeps while room_seq is what it was: whoever tells our need after
// the announcement ends that sleep. The least need of the process is at most ours, so whatever publish of the consumer makes room
// for us is told for that need, and our turn is new. docs/memory-ordering.md, S6, has the schedules.
void* RoomWaiter::reserve(std::uint64_t size, int timeout_ms) noexcept {
  const Ring& ring = producer_.ring();
  if (pid_ != ::getpid()) {
    errno = EPERM;
    return nullptr;
  }
  const int no_room = producer_.user() ? ENOSPC : EAGAIN, timed_out = producer_.user() ? ENOSPC : ETIMEDOUT;
  if (timeout_ms == 0) return producer_.reserve(size, 0);
  const std::uint64_t seen = ring.consumer_pos();
  ringbuf_lost why{};
  void* payload = producer_.reserve(size, 0, &why);
  if (payload) return payload;
  if (errno != no_room) return lost(errno, why);
  for (int i = 0; i < kSpins && ring.consumer_pos() == seen; ++i) cpu_relax();

  const std::uint64_t begin = now_ns();
  Waiter me{stride(size), nullptr};
  enlist(me);
  int err = 0;
  for (bool surprised = false;;) {
    const std::uint32_t seq = ring.room_seq();
    {
      std::unique_lock lock(mutex_);
      announce(lock);
    }
    RINGBUF_TEST_ANNOUNCED(producer_);
    payload = producer_.reserve(size, 0, &why);
    err = payload ? 0 : errno;
    if (err != no_room) break;
    const std::uint64_t waited = now_ns() - begin;
    std::uint64_t left = kForEverNs;
    if (timeout_ms >= 0) {
      const std::uint64_t most = static_cast<std::uint64_t>(timeout_ms) * 1'000'000u;
      if (waited >= most) {
        err = timed_out;
        break;
      }
      left = most - waited;
    }
    // S6: if the bytes came free since the reservation failed, try again. If it fails again although the consumer claims that
    // they are free, the claim is forged (a BUSY record is in the way): do not spin on it. In overwrite mode that is the only
    // reason to wait, and nobody tells when it goes.
    if (ring.overwrite() || ring.producer_pos() + me.need - ring.consumer_pos_total() <= ring.limit()) {
      if (!surprised) {
        surprised = true;
        continue;
      }
      left = std::min(left, kForgedSliceNs);
    }
    surprised = false;
    // Records committed with NO_WAKEUP may fill the ring while the consumer sleeps: both would sleep for ever.
    if (ring.waiting() != 0 && !ring.overwrite()) producer_.wake_consumer();
    if (futex_wait(ring.room_futex(), seq, left) < 0 && errno == EINTR) {
      err = EINTR;
      break;
    }
  }
  delist(me);
  return payload ? payload : lost(err, why);
}

void* RoomWaiter::lost(int err, ringbuf_lost why) const noexcept {
  if (err != EINTR) producer_.ring().count_lost(producer_.slot(), why);
  errno = err;
  return nullptr;
}

}  // namespace ringbuf::shm
