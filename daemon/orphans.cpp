// SPDX-License-Identifier: MIT
#include "daemon/orphans.hpp"

namespace ringbuf::daemon {
namespace {

constexpr std::uint64_t kWhich = 1, kAsked = 2;  // of orphan_phase

}  // namespace

void Orphans::before(std::uint64_t pos, std::uint64_t bytes, std::uint32_t slot) noexcept {
  slot_ = slot;
  auto* e = map_.entry<MapEntry>();
  if (!e) return;
  const std::uint64_t which = e->orphan_phase & kWhich;
  const OrphanCount& is = e->orphans[which];
  e->orphans[which ^ kWhich] = {is.records + 1, is.bytes + bytes, pos, dead_[slot].pid, slot};
  State::commit(e->orphan_phase, which | kAsked);
}

void Orphans::after(bool discarded) noexcept {
  dead_[slot_].records += discarded;
  if (auto* e = map_.entry<MapEntry>()) answer(*e, discarded);
}

const OrphanCount* Orphans::in_question(const MapEntry& e) {
  return e.orphan_phase & kAsked ? &e.orphans[(e.orphan_phase & kWhich) ^ kWhich] : nullptr;
}

void Orphans::answer(MapEntry& e, bool discarded) noexcept {
  const std::uint64_t which = e.orphan_phase & kWhich;
  State::commit(e.orphan_phase, discarded ? which ^ kWhich : which);
}

}  // namespace ringbuf::daemon
