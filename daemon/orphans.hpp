// SPDX-License-Identifier: MIT
// How much was discarded for the dead, counted in the state: the count that will be right after the next record is written beside
// the one that is, before the record is touched, and one store makes it the count. A daemon that is killed in between leaves the
// question whether it has touched the record, and that the record answers (Map::resume). One thread.
#pragma once

#include "daemon/state.hpp"
#include "shm/recovery.hpp"

namespace ringbuf::daemon {

class Orphans final : public shm::Recovery::Witness {
 public:
  // Of a producer's death; `map`: the map's place in the state, which outlives this.
  Orphans(const Kept& map, std::uint32_t pid, std::uint32_t slot) : map_(map), pid_(pid), slot_(slot) {}

  void before(std::uint64_t pos, std::uint64_t bytes) noexcept override;
  void after(bool discarded) noexcept override;

  static const OrphanCount& of(const MapEntry& e) { return e.orphans[e.orphan_phase & 1]; }
  // The record that a daemon was about to discard when it was killed, or nullptr.
  static const OrphanCount* in_question(const MapEntry& e);
  static void answer(MapEntry& e, bool discarded) noexcept;

 private:
  const Kept& map_;
  const std::uint32_t pid_, slot_;
};

}  // namespace ringbuf::daemon
