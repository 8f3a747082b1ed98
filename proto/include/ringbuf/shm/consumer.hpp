// SPDX-License-Identifier: MIT
// The consumer's half of a ring: libbpf's consume loop, made safe against producers that are other processes. One thread at a
// time (libringbuf holds a lock around it). Each header is read once into a local, checked, then used.
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

  Consumer() = default;
  explicit Consumer(const ringbuf_view& v)
      : ring_(v), room_told_(v.room_told), slot_count_(v.slot_count), publish_bytes_((v.mask + 1) / 8) {}

  const Ring& ring() const { return ring_; }
  // A cheap look, for callers that spin: false if consume would find nothing to do.
  bool maybe_work() const { return ring_.producer_pos() != ring_.consumer_pos_own() || ring_.room_waiters() != 0; }

  // Calls f(payload, size) -> int for each committed record until the ring is empty, its head is BUSY, `limit` records were
  // delivered or f returns a negative value. Returns the number delivered; or f's negative value (that record is consumed, as it
  // is when f throws); or -EBADMSG: the header at consumer_pos is impossible and nothing was consumed from there on. `left`, if
  // not null, is set to whether committed data may remain.
  template <class F>
  std::int64_t consume(F&& f, std::uint64_t limit, bool* left = nullptr) const {
    Batch batch(*this);
    std::uint64_t& pos = batch.pos;
    std::uint64_t delivered = 0;
    if (left) *left = true;
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

  // Before sleeping, after add_waiting: true if there is something to deliver now.
  bool must_not_sleep() const {
    const std::uint64_t pos = ring_.consumer_pos_own();
    tell_room(pos);
    return ring_.ready_at(pos);
  }

  // Gives up everything in the ring, after corruption: consumer_pos becomes producer_pos. Returns the bytes skipped; 0 if a
  // hostile producer has moved producer_pos back.
  std::int64_t reset() const {
    const std::uint64_t pos = ring_.consumer_pos_own(), end = ring_.producer_pos() & ~std::uint64_t{7};
    ring_.publish_consumer_pos(end);
    tell_room(end);
    return std::max<std::int64_t>(static_cast<std::int64_t>(end - pos), 0);
  }

 private:
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
    const Consumer& consumer;
    std::uint64_t pos, given;
    std::uint64_t records = 0, bytes = 0;
  };
  // Wakes the producers that wait for room if the bytes of one of them are free now and it was not told so yet.
  void tell_room(std::uint64_t pos) const {
    if (__builtin_expect(ring_.room_waiters() == 0, 1)) return;
    tell_room_slow(pos);
  }
  [[gnu::noinline, gnu::cold]] void tell_room_slow(std::uint64_t pos) const noexcept {
    const std::uint64_t end = ring_.producer_pos();
    const std::uint32_t limit = ring_.slot_limit();  // untrusted: read once
    bool tell = false;
    for (std::uint32_t slot = 1; slot < limit && slot < slot_count_; ++slot) {
      const std::uint64_t need = ring_.need(slot);  // untrusted: read once
      const std::uint64_t bytes = need & UINT32_MAX;
      if (bytes == 0 || need == room_told_[slot] || end + bytes - pos > ring_.mask()) continue;
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
};

}  // namespace ringbuf::shm
