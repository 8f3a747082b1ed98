// SPDX-License-Identifier: MIT
// What dead producers have left in a ring: the owner word, records that nobody will commit, their wait for room. One walk does it
// for all that are dead when it begins. The daemon runs it on a mapping of its own, the consumer page read-only, beside producers
// and consumers at full speed. One thread at a time.
#pragma once

#include <bitset>
#include <cstdint>

#include "ringbuf/shm/ring.hpp"

namespace ringbuf::shm {

class Recovery {
 public:
  using Slots = std::bitset<RINGBUF_SLOT_COUNT>;

  // Told of each record before and after it is discarded: who is killed in between leaves behind which it was.
  struct Witness {
    // `slot`: of whom it was; in a user ring, whose records name nobody, 1.
    virtual void before(std::uint64_t pos, std::uint64_t bytes, std::uint32_t slot) noexcept = 0;
    virtual void after(bool discarded) noexcept = 0;

   protected:
    ~Witness() = default;
  };

  // REQUIRES: for each slot in `dead`, 0 < slot < v.slot_count; no thread of its process runs any more, and nobody else has it.
  Recovery(const ringbuf_view& v, const Slots& dead, Witness* witness = nullptr)
      : ring_(v), dead_(dead), user_(v.map_type == kTypeUserRingbuf), slot_count_(v.slot_count), witness_(witness) {}
  Recovery(const ringbuf_view& v, std::uint32_t slot, Witness* witness = nullptr) : Recovery(v, Slots().set(slot), witness) {}

  // Goes on for at most about `budget`, in units of 64 bytes: a record costs the bytes that it leads over, but at least one unit
  // and at most a page of 4096, because no more is touched. True when it is done: each BUSY record of the slots is a DISCARD,
  // their needs are cleared, and the owner word is none of theirs. Then the caller wakes the consumer, which may sleep before
  // such a record, and after that it may give the slots away. Does not block.
  bool step(std::uint32_t budget) noexcept;

  std::uint64_t pos() const { return pos_; }          // where it stands
  std::uint64_t cost() const { return cost_; }        // of all steps
  std::uint64_t records() const { return records_; }  // turned into DISCARD
  std::uint64_t bytes() const { return bytes_; }      // payload bytes of these
  // Null, or why the walk ended before the end of the ring: words that no honest producer has written.
  const char* corrupt() const { return corrupt_; }

 private:
  enum class Stage { Begin, Walk, Done };
  void begin() noexcept;
  void walk_one() noexcept;
  void finish(const char* corrupt) noexcept;
  bool is_dead(std::uint64_t slot) const noexcept { return slot < dead_.size() && dead_[slot]; }
  // Nothing at or behind it is reused. A user ring has no pending_pos.
  std::uint64_t lower_bound() const noexcept { return user_ ? ring_.consumer_pos() : ring_.pending_pos(); }

  const Ring ring_;
  const Slots dead_;
  const bool user_;
  const std::uint32_t slot_count_;
  Witness* const witness_;
  Stage stage_ = Stage::Begin;
  std::uint64_t pos_ = 0, end_ = 0;
  std::uint64_t cost_ = 0, records_ = 0, bytes_ = 0;
  const char* corrupt_ = nullptr;
};

}  // namespace ringbuf::shm
