// SPDX-License-Identifier: MIT
// The consumer's half of a ring: libbpf's consume loop, made safe against producers that are other processes, and the kernel's
// drain of user rings. One thread at a time (libringbuf holds a lock around it). Each header is read once into a local, checked,
// then used.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstdint>

#include "ringbuf/shm/producer.hpp"

namespace ringbuf::shm {

class Consumer {
 public:
  // consumer_pos is given back after so many records, or after an eighth of the ring, and at the end of each call: the bound of
  // what a successor sees again when this process dies.
  static constexpr std::uint64_t kPublishRecords = 32;
  // Overwrite mode: a consumer that is lapped so often, with no record between, comes back later.
  static constexpr unsigned kMaxLaps = 1000;

  Consumer() = default;
  explicit Consumer(const ringbuf_view& v)
      : ring_(v),
        room_told_(v.room_told),
        slot_count_(v.slot_count),
        publish_bytes_((v.mask + 1) / 8),
        copy_(v.copy),
        user_(v.map_type == kTypeUserRingbuf) {}

  const Ring& ring() const { return ring_; }
  bool user() const { return user_; }
  // A cheap look, for callers that spin: false if consume would find nothing to do.
  bool maybe_work() const { return ring_.producer_pos() != ring_.consumer_pos_own() || ring_.room_waiters() != 0; }

  // Calls f(payload, size) -> int for each committed record until the ring is empty, its head is BUSY, `limit` records were
  // delivered or f returns a negative value. Returns the number delivered; or f's negative value (that record is consumed, as it
  // is when f throws); or -EBADMSG: the header at consumer_pos, or consumer_pos itself (a former consumer's word), is impossible
  // and nothing was consumed from there on; or -EINVAL: a user ring, which is drained. `left`, if not null, is set to whether
  // committed data may remain.
  template <class F>
  std::int64_t consume(F&& f, std::uint64_t limit, bool* left = nullptr) const {
    if (__builtin_expect(ring_.overwrite(), 0)) return consume_copies(std::forward<F>(f), limit, left);
    if (__builtin_expect(user_, 0)) {
      if (left) *left = false;
      return -EINVAL;
    }
    Batch batch(*this);
    std::uint64_t& pos = batch.pos;
    std::uint64_t delivered = 0;
    if (left) *left = true;
    if (__builtin_expect((pos & 7) != 0, 0)) return -EBADMSG;
    do {
      const std::uint64_t begin = pos, end = ring_.producer_pos();
      while (pos != end) {
        const std::uint32_t len = ring_.header_len(pos);  // untrusted: read once
        if (len & RINGBUF_BUSY_BIT) break;
        const std::uint32_t size = len & RINGBUF_LEN_MASK;
        const std::uint64_t step = stride(size);
        if (__builtin_expect(step > end - pos || end - pos > ring_.capacity(), 0)) return -EBADMSG;
        const unsigned char* payload = ring_.at(pos) + RINGBUF_HEADER_SIZE;
        pos += step;
        if (!(len & RINGBUF_DISCARD_BIT)) {
          ++batch.records;
          batch.bytes += size;
          const int r = f(const_cast<unsigned char*>(payload), static_cast<std::size_t>(size));
          if (__builtin_expect(r < 0, 0)) return r;
          if (++delivered >= limit) return static_cast<std::int64_t>(delivered);
        }
        if (batch.records >= kPublishRecords || pos - batch.given >= publish_bytes_) batch.give_back();
      }
      if (pos == begin) {
        if (__builtin_expect(ring_.room_waiters() != 0, 0)) tell_room(pos);
        break;
      }
      if (pos != batch.given) batch.give_back();  // a batch may have ended with the last record; even then look again (S4)
    } while (ring_.waiting() != 0 && ring_.ready_at(pos));
    if (left) *left = false;
    return static_cast<std::int64_t>(delivered);
  }

  // bpf_user_ringbuf_drain: calls f(payload, size) -> int for each sample, at most RINGBUF_MAX_DRAIN of them with discarded ones,
  // until f returns non-zero (that sample is consumed and counted). Returns the number of samples without discarded ones, or
  // -EINVAL or -E2BIG as the kernel. Then wakes producers that wait for room: if anything moved, unless NO_WAKEUP; in any case
  // with FORCE_WAKEUP; and, before the end, as soon as a full ring is no longer full.
  template <class F>
  std::int64_t drain(F&& f, std::uint64_t flags) const {
    if ((flags & ~(RINGBUF_NO_WAKEUP | RINGBUF_FORCE_WAKEUP)) != 0 || !user_) return -EINVAL;
    if ((ring_.consumer_pos_own() & 7) != 0) return -EINVAL;
    Drain drained(*this, flags);
    std::int64_t samples = 0;
    for (bool stop = false; !stop && drained.moved < RINGBUF_MAX_DRAIN;) {
      const std::uint64_t pos = drained.pos, end = ring_.producer_pos();  // untrusted: read once
      if ((end & 7) != 0) return -EINVAL;
      if (pos >= end) break;                            // as plainly as the kernel
      const std::uint32_t len = ring_.header_len(pos);  // untrusted: read once
      const std::uint32_t size = len & RINGBUF_LEN_MASK;
      const std::uint64_t step = stride(size);
      if (step > end - pos) return -EINVAL;
      if (step > ring_.capacity() || size > RINGBUF_MAX_DYNPTR_SIZE) return -E2BIG;
      const bool discarded = len & RINGBUF_DISCARD_BIT;
      if (!discarded && (len & RINGBUF_BUSY_BIT)) break;
      const Drain::Step taken(drained, step, end - pos >= ring_.capacity());  // also if f throws
      if (discarded) continue;
      ++samples;
      ring_.count_delivered(1, size);
      stop = f(ring_.at(pos) + RINGBUF_HEADER_SIZE, static_cast<std::size_t>(size)) != 0;
    }
    return samples;
  }

  // Before sleeping, after add_waiting: true if there is something to deliver or to report now.
  bool must_not_sleep() const {
    const std::uint64_t pos = ring_.consumer_pos_own();
    tell_room(pos);
    if ((pos & 7) != 0 || ring_.ready_at(pos)) return true;
    if (ring_.producer_pos() != pos && !ring_.stalled_at(pos)) ring_.note_stall(pos, now_ns());
    return false;
  }

  // Once, when a consumer begins: a predecessor may have died after it had given bytes back and before it had told those who wait
  // for them. A drain that moves nothing would not tell them either.
  void tell_waiters() const noexcept { tell_room(ring_.consumer_pos_own(), true); }

  // Gives up everything in the ring, after corruption: consumer_pos becomes producer_pos. Returns the bytes skipped; 0 if a
  // hostile producer has moved producer_pos back.
  std::int64_t reset() const {
    const std::uint64_t pos = ring_.consumer_pos_own(), end = ring_.producer_pos() & ~std::uint64_t{7};
    ring_.publish_consumer_pos(end);
    tell_room(end);
    return std::max<std::int64_t>(static_cast<std::int64_t>(end - pos), 0);
  }

 private:
  // As consume, in overwrite mode: each record is copied, and f sees the copy if it was not overwritten meanwhile (S7).
  template <class F>
  std::int64_t consume_copies(F&& f, std::uint64_t limit, bool* left) const {
    Batch batch(*this);
    std::uint64_t& pos = batch.pos;
    std::uint64_t delivered = 0;
    unsigned laps = 0;
    if (left) *left = true;
    if (__builtin_expect((pos & 7) != 0, 0)) return -EBADMSG;
    do {
      std::uint64_t end = ring_.producer_pos();
      while (pos != end) {
        const std::uint32_t len = ring_.header_len(pos);  // untrusted: read once
        const std::uint32_t size = len & RINGBUF_LEN_MASK;
        const std::uint64_t step = stride(size);
        const bool whole = step <= end - pos && end - pos <= ring_.capacity();
        const bool wanted = whole && !(len & (RINGBUF_BUSY_BIT | RINGBUF_DISCARD_BIT));
        if (wanted) Ring::copy_out(copy_, ring_.at(pos) + RINGBUF_HEADER_SIZE, size);
        if (__builtin_expect(!ring_.still_there(pos), 0)) {
          if (++laps == kMaxLaps) return static_cast<std::int64_t>(delivered);
          if (!batch.skip_overwritten()) return -EBADMSG;
          end = ring_.producer_pos();
          continue;
        }
        if (len & RINGBUF_BUSY_BIT) break;
        if (__builtin_expect(!whole, 0)) return -EBADMSG;
        pos += step;
        if (!wanted) continue;
        laps = 0;
        ++batch.records;
        batch.bytes += size;
        const int r = f(copy_, static_cast<std::size_t>(size));
        if (__builtin_expect(r < 0, 0)) return r;
        if (++delivered >= limit) return static_cast<std::int64_t>(delivered);
        if (batch.records >= kPublishRecords || pos - batch.given >= publish_bytes_) batch.give_back();
      }
      if (pos == batch.given) break;
      batch.give_back();
    } while (ring_.waiting() != 0 && ring_.ready_at(pos));
    if (left) *left = false;
    return static_cast<std::int64_t>(delivered);
  }

  // What was handed to f since consumer_pos was published last; published at the latest when the call ends, however it does.
  struct Batch {
    explicit Batch(const Consumer& c) : consumer(c), pos(c.ring_.consumer_pos_own()), given(pos) {}
    ~Batch() {
      if (pos != given) give_back();
    }
    void give_back() {
      consumer.ring_.count_delivered(records, bytes);
      records = bytes = 0;
      given = pos;
      consumer.ring_.publish_consumer_pos(pos);
      consumer.tell_room(pos);
    }
    // Lapped: goes on at the oldest record that is left. What lies between was missed, but for what was delivered of it.
    // False: overwrite_pos cannot be.
    bool skip_overwritten() {
      const Ring& ring = consumer.ring_;
      const ringbuf_overwritten o = ring.overwritten();  // untrusted: read once
      if ((o.pos & 7) != 0 || !Ring::is_before(pos, o.pos) || Ring::is_before(ring.producer_pos(), o.pos)) return false;
      const auto more = [](std::uint64_t all, std::uint64_t known) { return Ring::is_before(known, all) ? all - known : 0; };
      ring.count_missed(more(o.records, ring.records() + records + ring.missed_records()),
                        more(o.bytes, ring.bytes() + bytes + ring.missed_bytes()));
      pos = o.pos;
      return true;
    }
    const Consumer& consumer;
    std::uint64_t pos, given;
    std::uint64_t records = 0, bytes = 0;
  };
  // A drain under way; however it ends, the position is given back and the kernel's wake rule applied.
  struct Drain {
    Drain(const Consumer& c, std::uint64_t f) : consumer(c), flags(f), pos(c.ring_.consumer_pos_own()) {}
    ~Drain() {
      const bool wake = flags & RINGBUF_FORCE_WAKEUP || (!(flags & RINGBUF_NO_WAKEUP) && moved != 0);
      consumer.ring_.publish_consumer_pos(pos);
      if (wake) consumer.tell_room(pos, flags & RINGBUF_FORCE_WAKEUP);
    }
    struct Step {
      Step(Drain& d, std::uint64_t s, bool full) : drain(d), step(s), was_full(full) {}
      ~Step() {
        const Ring& ring = drain.consumer.ring_;
        drain.pos += step;
        ++drain.moved;
        if (__builtin_expect(was_full && !(drain.flags & RINGBUF_NO_WAKEUP), 0)) {
          ring.publish_consumer_pos(drain.pos);
          drain.consumer.tell_room(drain.pos);
        } else {
          ring.step_consumer_pos(drain.pos);
        }
      }
      Drain& drain;
      const std::uint64_t step;
      const bool was_full;
    };
    const Consumer& consumer;
    const std::uint64_t flags;
    std::uint64_t pos;
    std::uint32_t moved = 0;
  };
  // Wakes the producers that wait for room if the bytes of one of them are free now and it was not told so yet, or `all`.
  void tell_room(std::uint64_t pos, bool all = false) const {
    if (__builtin_expect(ring_.room_waiters() == 0, 1)) return;
    tell_room_slow(pos, all);
  }
  [[gnu::noinline, gnu::cold]] void tell_room_slow(std::uint64_t pos, bool tell) const noexcept {
    const std::uint64_t end = ring_.producer_pos();
    const std::uint32_t limit = ring_.slot_limit();  // untrusted: read once
    for (std::uint32_t slot = 1; slot < limit && slot < slot_count_; ++slot) {
      const std::uint64_t need = ring_.need(slot);  // untrusted: read once
      const std::uint64_t bytes = need & UINT32_MAX;
      if (bytes == 0 || need == room_told_[slot] || end + bytes - pos > ring_.limit()) continue;
      room_told_[slot] = need;
      tell = true;
    }
    if (!tell) return;
    const int saved = errno;
    ring_.bump_room_seq();
    futex_wake_all(ring_.room_futex());
    errno = saved;
  }

  Ring ring_;
  std::uint64_t* room_told_ = nullptr;
  std::uint32_t slot_count_ = 0;
  std::uint64_t publish_bytes_ = 0;
  unsigned char* copy_ = nullptr;
  bool user_ = false;
};

}  // namespace ringbuf::shm
