// SPDX-License-Identifier: MIT
// What a dead producer has left in a ring: the owner word, records that nobody will commit, its wait for room. The daemon runs it
// on a mapping of its own, the consumer page read-only, beside producers and consumers at full speed. One thread at a time.
#pragma once

#include <cstdint>

#include "ringbuf/shm/ring.hpp"

namespace ringbuf::shm {

class Recovery {
 public:
  // Told of each record before and after it is discarded: who is killed in between leaves behind which it was.
  struct Witness {
    virtual void before(std::uint64_t pos, std::uint64_t bytes) noexcept = 0;
    virtual void after(bool discarded) noexcept = 0;

   protected:
    ~Witness() = default;
  };

  // REQUIRES: 0 < slot < v.slot_count; no thread of the slot's process runs any more, and nobody else has the slot.
  Recovery(const ringbuf_view& v, std::uint32_t slot, Witness* witness = nullptr)
      : ring_(v), slot_(slot), user_(v.map_type == kTypeUserRingbuf), slot_count_(v.slot_count), witness_(witness) {}

  // Goes on, over at most `budget` records, so that a large ring of small records holds nobody up. True when it is done: each
  // BUSY record of the slot is a DISCARD, its need is cleared, and the owner word is not its. Then the caller wakes the consumer,
  // which may sleep before such a record, and after that it may give the slot away. Does not block.
  bool step(std::uint32_t budget) noexcept;

  std::uint64_t records() const { return records_; }  // turned into DISCARD
  std::uint64_t bytes() const { return bytes_; }      // payload bytes of these
  // Null, or why the walk ended before the end of the ring: words that no honest producer has written.
  const char* corrupt() const { return corrupt_; }

 private:
  enum class Stage { Begin, Walk, Done };
  void begin() noexcept;
  void walk_one() noexcept;
  void finish(const char* corrupt) noexcept;
  // Nothing at or behind it is reused. A user ring has no pending_pos.
  std::uint64_t lower_bound() const noexcept { return user_ ? ring_.consumer_pos() : ring_.pending_pos(); }

  const Ring ring_;
  const std::uint32_t slot_;
  const bool user_;
  const std::uint32_t slot_count_;
  Witness* const witness_;
  Stage stage_ = Stage::Begin;
  std::uint64_t pos_ = 0, end_ = 0;
  std::uint64_t records_ = 0, bytes_ = 0;
  const char* corrupt_ = nullptr;
};

}  // namespace ringbuf::shm
