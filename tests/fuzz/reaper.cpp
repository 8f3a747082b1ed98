// SPDX-License-Identifier: MIT
// The reaper's walk over arbitrary ring memory, which also changes between its steps. It ends, stays inside, and changes nothing
// but BUSY headers of the dead slot, the owner word if that was its, its need and its share of room_waiters; and of a ring that
// nobody forges meanwhile nothing is forgotten.
#include "fuzz/forged_ring.hpp"
#include "shm/recovery.hpp"

namespace ringbuf::fuzz {
namespace {

struct Memory {
  explicit Memory(const ForgedRing& ring) : c(ring.c()), p(ring.p()) {
    for (unsigned i = 0; i < ForgedRing::kSlots; ++i) slots[i] = ring.slot(i);
    for (unsigned i = 0; i < words.size(); ++i) std::memcpy(&words[i], ring.bytes(i * 8), 8);
  }
  ringbuf_consumer_page c;
  ringbuf_producer_page p;
  std::array<ringbuf_slot, ForgedRing::kSlots> slots;
  std::array<std::uint64_t, ForgedRing::kSize / 8> words;
};

bool same(const void* a, const void* b, std::size_t size) { return std::memcmp(a, b, size) == 0; }

// What one step may have done. Returns the records and bytes that became DISCARD.
std::pair<std::uint64_t, std::uint64_t> check_step(const Memory& before, Memory after, std::uint32_t slot, bool user) {
  std::pair<std::uint64_t, std::uint64_t> orphans{};
  for (std::size_t i = 0; i < before.words.size(); ++i) {
    const std::uint64_t was = before.words[i];
    if (after.words[i] == was) continue;
    FUZZ_CHECK((was & RINGBUF_BUSY_BIT) && (user || was >> 52 == slot));
    FUZZ_CHECK(after.words[i] == ((was & ~std::uint64_t{RINGBUF_BUSY_BIT}) | RINGBUF_DISCARD_BIT));
    ++orphans.first;
    orphans.second += was & RINGBUF_LEN_MASK;
  }
  FUZZ_CHECK(same(&before.c, &after.c, sizeof after.c));

  const std::uint64_t need = before.slots[slot].need;
  const bool cleared = after.slots[slot].need != need;
  if (cleared) FUZZ_CHECK(after.slots[slot].need == (need & ~std::uint64_t{UINT32_MAX}));
  after.slots[slot].need = need;
  FUZZ_CHECK(same(&before.slots, &after.slots, sizeof after.slots));

  if (after.p.owner != before.p.owner)
    FUZZ_CHECK(after.p.owner == 0 && before.p.owner >> 32 == slot && static_cast<std::uint32_t>(before.p.owner) != 0);
  after.p.owner = before.p.owner;
  const std::uint32_t waiters = before.p.room_waiters;
  FUZZ_CHECK(after.p.room_waiters == (cleared && waiters != 0 ? waiters - 1 : waiters));
  after.p.room_waiters = waiters;
  FUZZ_CHECK(same(&before.p, &after.p, sizeof after.p));
  return orphans;
}

// Nobody else has touched the ring: a plain walk finds nothing left of the dead.
void check_all_found(const ForgedRing& ring, std::uint32_t slot, bool user) {
  const std::uint64_t end = ring.p().producer_pos;
  std::uint64_t pos = user ? ring.c().consumer_pos : ring.p().pending_pos;
  while (pos != end && !shm::Ring::is_before(end, pos)) {
    const ringbuf_record_header h = ring.header(pos);
    FUZZ_CHECK(!(h.len & RINGBUF_BUSY_BIT) || !(user || h.who >> RINGBUF_PG_OFF_BITS == slot));
    pos += shm::stride(h.len & RINGBUF_LEN_MASK);
  }
  FUZZ_CHECK(ring.p().owner >> 32 != slot || static_cast<std::uint32_t>(ring.p().owner) == 0);
}

}  // namespace
}  // namespace ringbuf::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ringbuf;
  using namespace ringbuf::fuzz;
  static ForgedRing ring;
  Input in(data, size);
  const bool user = in.flip();
  const std::uint32_t slot = user || in.flip() ? 1 : 1 + in.byte() % (ForgedRing::kSlots - 1);
  ring.clear(user ? shm::kTypeUserRingbuf : shm::kTypeRingbuf, 0, 0);
  ring.fill(in);
  if (in.flip()) ring.p().owner = std::uint64_t{slot} << 32 | in.byte();
  if (in.flip()) ring.slot(slot).need = in.take<std::uint64_t>();
  ring.p().room_waiters = in.byte();
  for (unsigned n = in.below(8); n > 0; --n) ring.forge(in);

  shm::Recovery recovery(ring.view(ForgedRing::kProducer), slot);
  std::uint64_t records = 0, bytes = 0;
  bool forged = false;
  for (unsigned rounds = 0;; ++rounds) {
    FUZZ_CHECK(rounds < 100'000);
    const Memory before(ring);
    const bool done = recovery.step(in.empty() ? 1000 : in.below(16));
    const auto [r, b] = check_step(before, Memory(ring), slot, user);
    records += r, bytes += b;
    if (done) break;
    if (in.flip()) {
      forged = true;
      ring.forge(in);
    }
  }
  FUZZ_CHECK(recovery.records() == records && recovery.bytes() == bytes);
  FUZZ_CHECK((ring.slot(slot).need & UINT32_MAX) == 0 || forged);
  if (!forged && !recovery.corrupt()) check_all_found(ring, slot, user);
  return 0;
}
