// SPDX-License-Identifier: MIT
#include "shm/recovery.hpp"

#ifndef RINGBUF_TEST_STORED
#define RINGBUF_TEST_STORED()  // for a test that kills the daemon at each store
#endif

namespace ringbuf::shm {

bool Recovery::step(std::uint32_t budget) noexcept {
  if (stage_ == Stage::Begin) begin();
  for (; stage_ == Stage::Walk && budget != 0; --budget) walk_one();
  return stage_ == Stage::Done;
}

void Recovery::begin() noexcept {
  stage_ = Stage::Walk;
  ring_.disown_dead(slot_);
  RINGBUF_TEST_STORED();
  end_ = ring_.producer_pos();  // untrusted: read once; the dead reserve nothing more
  pos_ = lower_bound();         // untrusted: read once; behind end_ if everything up to there has been committed meanwhile
  if (Ring::is_before(end_, pos_) || end_ == pos_) return finish(nullptr);
  if (end_ - pos_ > ring_.capacity() || ((end_ | pos_) & 7) != 0) finish("positions that cannot be");
}

// While the lower bound has not passed a position, the bytes there are the header of a record: nobody reuses them. It is looked
// at after the header, so the header was one when it was read; and if that is a BUSY one of the dead, nobody changes it any more,
// so the bound stays and the exchange meets what was read.
void Recovery::walk_one() noexcept {
  const std::uint64_t header = ring_.header_word(pos_);  // untrusted: read once
#if !defined(RINGBUF_TEST_WEAKEN_REAPER)
  const std::uint64_t bound = lower_bound();  // untrusted: read once
  if (Ring::is_before(pos_, bound)) {
    if (!Ring::is_before(bound, end_)) return finish(nullptr);
    if ((bound & 7) != 0) return finish("a position that cannot be");
    pos_ = bound;
    return;
  }
#endif
  const auto len = static_cast<std::uint32_t>(header), size = len & RINGBUF_LEN_MASK;
  const auto slot = static_cast<std::uint32_t>(header >> 32) >> RINGBUF_PG_OFF_BITS;
  if (stride(size) > end_ - pos_) return finish("a record that leads beyond producer_pos");
  // A user ring's records name nobody: it has one producer, which is dead.
  if ((len & RINGBUF_BUSY_BIT) && (user_ || slot == slot_)) {
    if (witness_) witness_->before(pos_, size);
    const bool discarded = ring_.discard_orphan(pos_, header);
    RINGBUF_TEST_STORED();
    if (witness_) witness_->after(discarded);
    records_ += discarded;
    bytes_ += discarded ? size : 0;
  }
  pos_ += stride(size);
  if (pos_ == end_) finish(nullptr);
}

void Recovery::finish(const char* corrupt) noexcept {
  corrupt_ = corrupt;
  stage_ = Stage::Done;
  if (slot_ == 0 || slot_ >= slot_count_) return;
  const bool waited = ring_.clear_need(slot_);
  RINGBUF_TEST_STORED();
  if (!waited) return;
  ring_.forget_room_waiter();
  RINGBUF_TEST_STORED();
}

}  // namespace ringbuf::shm
