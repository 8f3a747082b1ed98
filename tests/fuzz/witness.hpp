// SPDX-License-Identifier: MIT
// What a reader is shown, held against the ring's own words. Its callback is also where memory changes under the reader, as the
// input wants; what was not touched since the call began must be shown as it is.
#pragma once

#include <cerrno>

#include "fuzz/forged_ring.hpp"

namespace ringbuf::fuzz {

class Witness {
 public:
  Witness(ForgedRing& ring, Input& in) : ring_(ring), in_(in) {}

  // A call begins, at what it must take for the oldest record.
  void begin(std::uint64_t pos) {
    pos_ = pos;
    end_ = ring_.p().producer_pos;
    forged_ = false;
    result_ = 0;
    shown_ = 0;
    forging_ = in_.flip();
  }

  // Of consume and drain.
  int take(void* payload, std::size_t size, bool copied) {
    if (!copied) FUZZ_CHECK(reinterpret_cast<std::uintptr_t>(payload) % 8 == 0);
    if (!forged_) {
      skip_discarded();
      const std::uint32_t len = ring_.header(pos_).len;
      FUZZ_CHECK(pos_ != end_ && whole() && (len & ~RINGBUF_LEN_MASK) == 0 && size == len);
      FUZZ_CHECK(std::memcmp(payload, ring_.bytes(pos_ + RINGBUF_HEADER_SIZE), std::min(size, until_end(size))) == 0);
      if (!copied)
        FUZZ_CHECK(ring_.offset_of_payload(ForgedRing::kConsumer, payload, size) ==
                   shm::offset(pos_, ForgedRing::kSize - 1) + RINGBUF_HEADER_SIZE);
      pos_ += shm::stride(size);
    }
    if (!copied) ring_.offset_of_payload(ForgedRing::kConsumer, payload, size);
    return look(payload, size);
  }
  // Of dump and snapshot.
  int show(std::uint64_t pos, std::uint32_t flags, std::uint32_t slot, const void* data, std::size_t size) {
    FUZZ_CHECK((flags & RINGBUF_LEN_MASK) == 0 && (data == nullptr) == ((flags & RINGBUF_BUSY_BIT) != 0));
    FUZZ_CHECK(size <= ForgedRing::kSize - RINGBUF_HEADER_SIZE && (pos & 7) == 0);
    if (!forged_) {
      const ringbuf_record_header h = ring_.header(pos_);
      FUZZ_CHECK(pos == pos_ && pos_ != end_ && whole() && (size | flags) == h.len && slot == h.who >> RINGBUF_PG_OFF_BITS);
      if (data) FUZZ_CHECK(std::memcmp(data, ring_.bytes(pos_ + RINGBUF_HEADER_SIZE), std::min(size, until_end(size))) == 0);
      pos_ += shm::stride(size);
    }
    return look(data, data ? size : 0);
  }

  bool forged() const { return forged_; }
  std::uint64_t shown() const { return shown_; }
  std::uint64_t end() const { return end_; }
  int result() const { return result_; }  // of the callback, if negative
  // Where the reader stopped.
  std::uint64_t pos() {
    skip_discarded();
    return pos_;
  }
  // Fits what is at pos() between it and producer_pos?
  bool whole() const {
    return shm::stride(ring_.header(pos_).len & RINGBUF_LEN_MASK) <= end_ - pos_ && end_ - pos_ <= ForgedRing::kSize;
  }
  bool busy() const { return ring_.header(pos_).len & RINGBUF_BUSY_BIT; }
  bool can_skip_discarded = true;  // not in a dump, which shows them

 private:
  void skip_discarded() {
    if (!can_skip_discarded) return;
    for (std::uint32_t len; pos_ != end_ && whole(); pos_ += shm::stride(len & RINGBUF_LEN_MASK)) {
      len = ring_.header(pos_).len;
      if (!(len & RINGBUF_DISCARD_BIT) || (len & RINGBUF_BUSY_BIT)) return;
    }
  }
  // Bytes of the payload before the end of the data: what the forger's own view, which has them once, can tell.
  std::size_t until_end(std::size_t size) const {
    const std::uint64_t at = shm::offset(pos_ + RINGBUF_HEADER_SIZE, ForgedRing::kSize - 1);
    return std::min<std::size_t>(size, ForgedRing::kSize - at);
  }
  int look(const void* data, std::size_t size) {
    for (std::size_t i = 0; i < size; ++i) sum_ = sum_ + static_cast<const unsigned char*>(data)[i];
    ++shown_;
    if (in_.empty()) return 0;
    if (forging_ && in_.flip()) {
      forged_ = true;
      ring_.forge(in_);
    }
    if (in_.below(16) == 15) result_ = -1 - static_cast<int>(in_.below(200));
    return result_;
  }

  ForgedRing& ring_;
  Input& in_;
  std::uint64_t pos_ = 0, end_ = 0, shown_ = 0;
  int result_ = 0;
  bool forged_ = false, forging_ = false;
  volatile unsigned sum_ = 0;  // so that every byte is read
};

}  // namespace ringbuf::fuzz
