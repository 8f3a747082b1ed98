// SPDX-License-Identifier: MIT
#include "shm/recovery.hpp"

#include <algorithm>

#ifndef RINGBUF_TEST_STORED
#define RINGBUF_TEST_STORED()  // for a test that kills the daemon at each store
#endif
#ifndef RINGBUF_TEST_BEFORE
#define RINGBUF_TEST_BEFORE(r, ring, pos)  // for a test that passes the walk by before R1, R2, R3 of docs/memory-ordering.md
#endif

namespace ringbuf::shm {
namespace {

constexpr std::uint64_t kUnit = 64, kPage = 4096;  // of what a step costs

}  // namespace

bool Recovery::step(std::uint32_t budget) noexcept {
  if (stage_ == Stage::Begin) begin();
  for (const std::uint64_t end = cost_ + budget; stage_ == Stage::Walk && cost_ < end;) {
    const std::uint64_t from = pos_;
    walk_one();
    cost_ += std::clamp<std::uint64_t>((pos_ - from) / kUnit, 1, kPage / kUnit);
  }
  return stage_ == Stage::Done;
}

void Recovery::begin() noexcept {
  stage_ = Stage::Walk;
  // One of the dead has it or none, and none gets it any more.
  if (const std::uint64_t owner = ring_.owner() >> 32; is_dead(owner)) ring_.disown_dead(static_cast<std::uint32_t>(owner));
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
  RINGBUF_TEST_BEFORE(1, ring_, pos_);
  const std::uint64_t header = ring_.header_word(pos_);  // untrusted: read once
#if !defined(RINGBUF_TEST_WEAKEN_REAPER)
  RINGBUF_TEST_BEFORE(2, ring_, pos_);
  const std::uint64_t bound = lower_bound();  // untrusted: read once
  if (Ring::is_before(pos_, bound)) {
    if (!Ring::is_before(bound, end_)) return finish(nullptr);
    if ((bound & 7) != 0) return finish("a position that cannot be");
    pos_ = bound;
    return;
  }
#endif
  RINGBUF_TEST_BEFORE(3, ring_, pos_);
  const auto len = static_cast<std::uint32_t>(header), size = len & RINGBUF_LEN_MASK;
  // A user ring's records name nobody: it has one producer, which is dead and has slot 1.
  const std::uint32_t slot = user_ ? 1 : static_cast<std::uint32_t>(header >> 32) >> RINGBUF_PG_OFF_BITS;
  if (stride(size) > end_ - pos_) return finish("a record that leads beyond producer_pos");
  if ((len & RINGBUF_BUSY_BIT) && (user_ || is_dead(slot))) {
    if (witness_) witness_->before(pos_, size, slot);
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
  for (std::uint32_t slot = 1; slot < std::min<std::size_t>(slot_count_, dead_.size()); ++slot) {
    if (!dead_[slot]) continue;
    const bool waited = ring_.clear_need(slot);
    RINGBUF_TEST_STORED();
    if (!waited) continue;
    ring_.forget_room_waiter();
    RINGBUF_TEST_STORED();
  }
}

}  // namespace ringbuf::shm
