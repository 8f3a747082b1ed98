// SPDX-License-Identifier: MIT
// How much was discarded for the dead, counted in the state: the count that will be right after the next record is written beside
// the one that is, before the record is touched, and one store makes it the count. A daemon that is killed in between leaves the
// question whether it has touched the record, and that the record answers (Map::resume). One thread.
#pragma once

#include <array>

#include "daemon/state.hpp"
#include "shm/recovery.hpp"

namespace ringbuf::daemon {

class Orphans final : public shm::Recovery::Witness {
 public:
  // Of one walk; `map`: the map's place in the state, which outlives this.
  explicit Orphans(const Kept& map) : map_(map) {}
  // The dead one that had this slot.
  void expect(std::uint32_t slot, pid_t pid) { dead_[slot].pid = static_cast<std::uint32_t>(pid); }
  std::uint64_t records_of(std::uint32_t slot) const { return dead_[slot].records; }

  void before(std::uint64_t pos, std::uint64_t bytes, std::uint32_t slot) noexcept override;
  void after(bool discarded) noexcept override;

  static const OrphanCount& of(const MapEntry& e) { return e.orphans[e.orphan_phase & 1]; }
  // The record that a daemon was about to discard when it was killed, or nullptr.
  static const OrphanCount* in_question(const MapEntry& e);
  static void answer(MapEntry& e, bool discarded) noexcept;

 private:
  const Kept& map_;
  struct Dead {
    std::uint32_t pid = 0;
    std::uint64_t records = 0;
  };
  std::array<Dead, RINGBUF_SLOT_COUNT> dead_{};
  std::uint32_t slot_ = 0;  // of the record in question
};

}  // namespace ringbuf::daemon
