// SPDX-License-Identifier: MIT
// The producer's half of a ring: reserve, submit, discard, output, query, as the kernel does them (kernel/bpf/ringbuf.c of
// Linux 6.19), and for a USER_RINGBUF as libbpf's user_ring_buffer does. Any number of threads of one process may share one
// Producer, unless the map was created with RINGBUF_F_SINGLE_PRODUCER: then one thread at a time. Trusts nothing that the
// consumer writes.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>

#include "ringbuf/shm/owner.hpp"

// The kernel's flag values.
#ifndef RINGBUF_NO_WAKEUP
#define RINGBUF_NO_WAKEUP (1ull << 0)    /* BPF_RB_NO_WAKEUP */
#define RINGBUF_FORCE_WAKEUP (1ull << 1) /* BPF_RB_FORCE_WAKEUP */
#define RINGBUF_AVAIL_DATA 0ull          /* BPF_RB_AVAIL_DATA */
#define RINGBUF_RING_SIZE 1ull           /* BPF_RB_RING_SIZE */
#define RINGBUF_CONS_POS 2ull            /* BPF_RB_CONS_POS */
#define RINGBUF_PROD_POS 3ull            /* BPF_RB_PROD_POS */
#define RINGBUF_OVERWRITE_POS 4ull       /* BPF_RB_OVERWRITE_POS */
#endif

namespace ringbuf::shm {

class Producer {
 public:
  static constexpr std::uint64_t kClaimBytes = 1024;  // measured, see claim_ahead

  Producer() = default;
  explicit Producer(const ringbuf_view& v)
      : ring_(v),
        id_(Section::id(v.slot, v.robust)),
        slot_(v.slot),
        page_shift_(v.page_shift),
        signal_fd_(v.signal_fd),
        single_(v.ring_flags & RINGBUF_F_SINGLE_PRODUCER),
        user_(v.map_type == kTypeUserRingbuf) {}

  const Ring& ring() const { return ring_; }
  std::uint32_t slot() const { return slot_; }
  bool user() const { return user_ != 0; }

  // Payload address, 8-aligned and contiguous, or nullptr with errno: EINVAL flags are not 0, E2BIG the record can never fit,
  // EAGAIN no room now, EDEADLK this thread (or its signal handler's host) is inside reserve already, EBUSY the owner
  // has been inside reserve for 250 ms; a user ring: ENOSPC no room now. With `ret_why` the failure is not counted as a loss, for
  // a caller that tries again: the reason goes there.
  void* reserve(std::uint64_t size, std::uint64_t flags, ringbuf_lost* ret_why = nullptr) const noexcept {
    if (__builtin_expect((flags | user_) != 0, 0)) return flags ? fail(EINVAL) : reserve_user(size, ret_why);
    const std::uint64_t total = stride(size);
    if (__builtin_expect(size > RINGBUF_MAX_RECORD_SIZE || total > ring_.capacity(), 0))
      return lose(RINGBUF_LOST_TOO_BIG, E2BIG, ret_why);
    Section section;
    if (__builtin_expect(!section.enter(ring_, single_, id_), 0)) return lose(RINGBUF_LOST_LOCK, errno, ret_why);
    const std::uint64_t pos = ring_.producer_pos_own();
    const std::uint64_t pending = advance_pending(pos);
    const std::uint64_t end = pos + total;
    if (__builtin_expect(end - pending > ring_.mask(), 0)) {
      section.leave(ring_, single_);
      return total > ring_.mask() ? lose(RINGBUF_LOST_TOO_BIG, E2BIG, ret_why)  // 8 bytes always stay free
                                  : lose(RINGBUF_LOST_BUSY, EAGAIN, ret_why);
    }
    if (__builtin_expect(end - ring_.cached_pos() > ring_.mask(), 0)) {
      if (ring_.overwrite()) {
        overwrite_oldest(end, pending);
      } else {
        const std::uint64_t consumed = ring_.consumer_pos();  // untrusted: read once
        ring_.set_cached_pos(consumed);
        if (end - consumed > ring_.mask()) {
          section.leave(ring_, single_);
          return lose(RINGBUF_LOST_FULL, EAGAIN, ret_why);
        }
      }
    }
    ring_.write_header(pos, static_cast<std::uint32_t>(size) | RINGBUF_BUSY_BIT,
                       who(offset(pos, ring_.mask()), page_shift_, slot_));
    ring_.publish_producer_pos(end);
    claim_ahead(pos, end, pending);
    section.leave(ring_, single_);
    return ring_.at(pos) + RINGBUF_HEADER_SIZE;
  }

  // `payload` is what reserve returned, not yet committed. Wakes the consumer if it had caught up to this record.
  void submit(void* payload, std::uint64_t flags) const noexcept { commit(payload, 0, flags); }
  void discard(void* payload, std::uint64_t flags) const noexcept { commit(payload, RINGBUF_DISCARD_BIT, flags); }

  // 0, -EINVAL for unknown flags, -EAGAIN for every failed reservation, as bpf_ringbuf_output.
  int output(const void* data, std::uint64_t size, std::uint64_t flags) const noexcept {
    if (flags & ~(RINGBUF_NO_WAKEUP | RINGBUF_FORCE_WAKEUP)) return -EINVAL;
    void* payload = reserve(size, 0);
    if (!payload) return -EAGAIN;
    if (size != 0) std::memcpy(payload, data, size);
    submit(payload, flags);
    return 0;
  }

  // As bpf_ringbuf_query: unknown selectors give 0.
  std::uint64_t query(std::uint64_t what) const noexcept {
    const std::uint64_t consumed = ring_.consumer_pos();
    const std::uint64_t oldest = ring_.overwrite() ? ring_.overwrite_pos() : 0;
    switch (what) {
      case RINGBUF_AVAIL_DATA: return ring_.producer_pos() - std::max(consumed, oldest);
      case RINGBUF_OVERWRITE_POS: return oldest;
      case RINGBUF_RING_SIZE: return ring_.capacity();
      case RINGBUF_CONS_POS: return consumed;
      case RINGBUF_PROD_POS: return ring_.producer_pos();
      default: return 0;
    }
  }

  // Writes this attachment's own eventfd. A full counter (ours alone: only this process holds it) is emptied first. Keeps errno.
  [[gnu::noinline, gnu::cold]] void wake_consumer() const noexcept {
    const int saved = errno;
    std::uint64_t one = 1;
    while (::write(signal_fd_, &one, sizeof one) < 0) {
      std::uint64_t drained;
      if (errno == EINTR) continue;
      if (errno != EAGAIN || ::read(signal_fd_, &drained, sizeof drained) < 0) break;
      one = 1;
    }
    errno = saved;
  }

 private:
  // As user_ring_buffer__reserve; besides, what no drain would ever take is refused here and does not block draining for ever.
  [[gnu::noinline]] void* reserve_user(std::uint64_t size, ringbuf_lost* ret_why) const noexcept {
    const std::uint64_t total = stride(size);
    if (size > RINGBUF_MAX_DYNPTR_SIZE || total > ring_.capacity()) return lose(RINGBUF_LOST_TOO_BIG, E2BIG, ret_why);
    Section section;
    if (!section.enter(ring_, single_, id_)) return lose(RINGBUF_LOST_LOCK, errno, ret_why);
    const std::uint64_t pos = ring_.producer_pos_own();
    if (pos + total - ring_.consumer_pos() > ring_.capacity() || (pos & 7) != 0) {  // untrusted: read once
      section.leave(ring_, single_);
      return lose(RINGBUF_LOST_FULL, ENOSPC, ret_why);
    }
    ring_.write_header(pos, static_cast<std::uint32_t>(size) | RINGBUF_BUSY_BIT, 0);
    ring_.publish_producer_pos(pos + total);
    section.leave(ring_, single_);
    return ring_.at(pos) + RINGBUF_HEADER_SIZE;
  }

  // Overwrite mode: gives up the oldest records, whole ones, until `end` fits. They are before pending_pos, so committed. What
  // is found there is other producers' words: a position or stride that cannot be costs all that is committed, and heals the
  // ring.
  void overwrite_oldest(std::uint64_t end, std::uint64_t pending) const noexcept {
    std::uint64_t pos = ring_.overwrite_pos(), records = 0, bytes = 0;
    if (__builtin_expect(pending - pos > ring_.capacity() || (pos & 7) != 0, 0)) pos = pending;
    while (end - pos > ring_.mask()) {
      const std::uint32_t len = ring_.header_len(pos), size = len & RINGBUF_LEN_MASK;
      if (__builtin_expect(stride(size) > pending - pos, 0)) {
        pos = pending;
        break;
      }
      pos += stride(size);
      if (len & RINGBUF_DISCARD_BIT) continue;
      ++records;
      bytes += size;
    }
    // Where an owner died between these two, nothing is to be published again.
    if (pos != ring_.overwrite_pos()) ring_.publish_overwrite_pos(pos, records, bytes);
    ring_.set_cached_pos(pos);
  }

  // Takes the cache lines that the next reservations will write, a block at a time and beside each other. The consumer has read
  // them a lap ago, so otherwise each would come over from its core inside the next exchange, one after the other: 68 ns a
  // 64-byte record instead of 25 in a 512 KiB ring. (prefetchw does not take a line that the other core shares.) Rewrites words
  // of free space with their own values: what a forged consumer_pos calls free still ends at pending_pos + N, where nobody
  // writes.
  void claim_ahead(std::uint64_t pos, std::uint64_t end, std::uint64_t pending) const noexcept {
    if (((pos ^ end) & ~(kClaimBytes - 1)) == 0 || end - pos > kClaimBytes) return;
    const std::uint64_t from = (end & ~(kClaimBytes - 1)) + kClaimBytes, to = from + kClaimBytes;
    if (to - pending > ring_.capacity() || to - ring_.cached_pos() > ring_.capacity()) return;
    for (std::uint64_t at = from; at != to; at += 64) ring_.claim_line(at);
  }
  static void* fail(int err) noexcept {
    errno = err;
    return nullptr;
  }
  [[gnu::noinline, gnu::cold]] void* lose(ringbuf_lost why, int err, ringbuf_lost* ret_why) const noexcept {
    if (ret_why) *ret_why = why;
    else ring_.count_lost(slot_, why);
    return fail(err);
  }

  // Moves pending_pos over everything that is committed, as the kernel does in every reserve, and returns it. Headers are
  // other producers' words: a stride that leaves the reserved region ends the walk. So are the positions.
  std::uint64_t advance_pending(std::uint64_t pos) const noexcept {
    const std::uint64_t before = ring_.pending_pos();
    if (__builtin_expect(pos - before > ring_.capacity() || ((pos | before) & 7) != 0, 0)) return mend_pending(pos);
    std::uint64_t pending = before;
    while (pending != pos) {
      const std::uint32_t len = ring_.header_len(pending);
      if (len & RINGBUF_BUSY_BIT) break;
      const std::uint64_t step = stride(len & RINGBUF_LEN_MASK);
      if (__builtin_expect(step > pos - pending, 0)) break;
      pending += step;
    }
    if (pending != before) ring_.set_pending_pos(pending);
    return pending;
  }

  // Positions that cannot be. The next walk begins at the oldest record, or behind all; where no record can begin, nothing is
  // free.
  [[gnu::noinline, gnu::cold]] std::uint64_t mend_pending(std::uint64_t pos) const noexcept {
    if ((pos & 7) != 0) return pos - ring_.capacity();
    std::uint64_t pending = ring_.oldest_pos();
    if (pos - pending > ring_.capacity() || (pending & 7) != 0) pending = pos;
    ring_.set_pending_pos(pending);
    return pending;
  }

  void commit(void* payload, std::uint32_t discard, std::uint64_t flags) const noexcept {
    auto* h = reinterpret_cast<ringbuf_record_header*>(static_cast<unsigned char*>(payload) - RINGBUF_HEADER_SIZE);
    ring_.commit_header(h, (ring_.header_len_own(h) & ~RINGBUF_BUSY_BIT) | discard);
    if (__builtin_expect(ring_.waiting() == 0, 1)) return;
    const bool caught_up = offset(ring_.consumer_pos_total(), ring_.mask()) == ring_.offset_of(h);
    // A producer that sleeps for room wants the consumer awake whatever this one says: else a head committed with NO_WAKEUP would
    // leave both asleep.
    const bool may_wake = !(flags & RINGBUF_NO_WAKEUP) || (ring_.room_waiters() != 0 && !ring_.overwrite());
    if ((flags & RINGBUF_FORCE_WAKEUP) || (caught_up && may_wake)) wake_consumer();
  }

  Ring ring_;
  std::uint64_t id_ = 0;  // in the owner word, without the thread's
  std::uint32_t slot_ = 0;
  std::uint32_t page_shift_ = 12;
  int signal_fd_ = -1;
  bool single_ = false;
  std::uint64_t user_ = 0;  // 0 or 1: reserve looks at it and at its flags at once
};

}  // namespace ringbuf::shm
