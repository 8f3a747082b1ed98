// SPDX-License-Identifier: MIT
// A ring whose words an input decides.
#pragma once

#include <array>
#include <vector>

#include "fuzz/input.hpp"
#include "ringbuf/shm/ring.hpp"
#include "shm/create.hpp"
#include "support/guarded_ring.hpp"

namespace ringbuf::fuzz {

class ForgedRing {
 public:
  static constexpr std::uint32_t kSize = 4096;  // N
  static constexpr std::uint32_t kSlots = 64;   // a page of them

  enum Role { kObserver = 0, kConsumer = 1, kProducer = 2 };

  ForgedRing() = default;
  ForgedRing(const ForgedRing&) = delete;

  // All zeros, as a new ring.
  void clear(std::uint32_t map_type, std::uint32_t map_flags, std::uint32_t ring_flags) {
    std::memset(static_cast<void*>(forger_.c), 0, sizeof *forger_.c);
    std::memset(static_cast<void*>(forger_.p), 0, sizeof *forger_.p);
    std::memset(static_cast<void*>(forger_.slots), 0, kSlots * sizeof(ringbuf_slot));
    std::memset(forger_.data, 0, kSize);
    room_told_.fill(0);
    std::fill(copy_.begin(), copy_.end(), 0);
    map_type_ = map_type, map_flags_ = map_flags, ring_flags_ = ring_flags;
  }

  // As libringbuf would fill it in.
  ringbuf_view view(Role role) {
    ringbuf_view v = victims_[role].in({});
    v.size = sizeof v;
    v.ring_flags = ring_flags_;
    v.mask = kSize - 1;
    v.page_shift = 12;
    v.slot = 1;
    v.signal_fd = -1;
    v.slot_count = kSlots;
    v.room_told = room_told_.data();
    v.map_type = map_type_;
    v.map_flags = map_flags_;
    v.copy = copy_.data();
    return v;
  }
  bool overwrite() const { return map_flags_ & shm::kFlagOverwrite; }

  ringbuf_consumer_page& c() const { return *forger_.c; }
  ringbuf_producer_page& p() const { return *forger_.p; }
  ringbuf_slot& slot(unsigned n) const { return forger_.slots[n]; }
  ringbuf_record_header header(std::uint64_t pos) const {
    ringbuf_record_header h;  // pos may be a forged one, without alignment
    std::memcpy(&h, forger_.data + shm::offset(pos, kSize - 1), sizeof h);
    return h;
  }
  void set_header(std::uint64_t pos, ringbuf_record_header h) const {
    std::memcpy(forger_.data + shm::offset(pos, kSize - 1), &h, sizeof h);
  }
  const unsigned char* bytes(std::uint64_t pos) const { return forger_.data + shm::offset(pos, kSize - 1); }

  // Where in the data this is; ends the process if it is not where the role sees a whole record's payload.
  std::uint64_t offset_of_payload(Role role, const void* payload, std::size_t size) const {
    const auto* at = static_cast<const unsigned char*>(payload);
    const unsigned char* data = victims_[role].data;
    FUZZ_CHECK(at >= data + RINGBUF_HEADER_SIZE && at <= data + kSize);
    FUZZ_CHECK(size <= kSize - RINGBUF_HEADER_SIZE);
    return static_cast<std::uint64_t>(at - data);
  }

  // What honest producers and consumers would have made: records from some position on.
  void fill(Input& in) const {
    const std::uint64_t begin = base(in);
    const unsigned records = in.below(24);
    std::uint64_t pos = begin;
    for (unsigned i = 0; i < records; ++i) {
      const std::uint16_t word = in.take<std::uint16_t>();
      const std::uint32_t size = word & (word & 0x1000 ? 0xfff : 0x7f);
      if (pos + shm::stride(size) - begin > kSize - 8) break;
      const std::uint32_t flags = (word & 0x8000 ? RINGBUF_BUSY_BIT : 0) | (word & 0x4000 ? RINGBUF_DISCARD_BIT : 0);
      const std::uint32_t slot = word & 0x2000 ? 2 : 1;
      set_header(pos, {size | flags, shm::who(shm::offset(pos, kSize - 1), 12, slot)});
      pos += shm::stride(size);
    }
    c().consumer_pos = begin;
    p().producer_pos = pos;
    p().pending_pos = p().cached_pos = begin;
    p().slot_limit = 3;
    if (overwrite()) {
      p().overwrite_pos = begin;
      p().overwritten[0].pos = begin;
    }
  }

  enum Where { kInC = 1, kInP = 2, kAnywhere = 3 };
  // One word of the ring becomes something else.
  void forge(Input& in, Where where = kAnywhere) const {
    const unsigned what = in.below(8);
    if (where == kInC || (where != kInP && what == 0)) return write_word(&c(), sizeof c(), in);
    switch (what) {
      case 1: return write_word(&slot(0), kSlots * sizeof(ringbuf_slot), in);
      case 2: {
        p().producer_pos = position(in);
        return;
      }
      case 3: {
        p().overwrite_pos = position(in);
        if (in.flip()) p().overwritten[in.flip()].pos = p().overwrite_pos;
        return;
      }
      case 4: return set_header(in.take<std::uint16_t>(), {length(in), in.take<std::uint32_t>()});
      case 5: return forge_record(in);
      case 6: {
        std::uint64_t at = in.take<std::uint16_t>();
        for (const std::uint8_t b : in.take_bytes(in.below(64))) forger_.data[shm::offset(at++, kSize - 1)] = b;
        return;
      }
      default: return write_word(&p(), sizeof p(), in);
    }
  }

 private:
  static std::uint64_t base(Input& in) {
    switch (in.below(4)) {
      case 0: return 0;
      case 1: return std::uint64_t{in.take<std::uint16_t>()} * 8;
      case 2: return in.take<std::uint64_t>() & ~std::uint64_t{7};
      default: return -std::uint64_t{in.take<std::uint16_t>()} * 8;  // soon to wrap round
    }
  }
  std::uint64_t position(Input& in) const {
    const std::uint64_t cons = c().consumer_pos, prod = p().producer_pos;
    switch (in.below(8)) {
      case 0: return in.take<std::uint64_t>();
      case 1: return prod + in.take<std::int16_t>();
      case 2: return cons + in.take<std::int16_t>();
      case 3: return prod + std::uint64_t{in.byte()} * 8;
      case 4: return prod - std::uint64_t{in.byte()} * 8;
      case 5: return cons + std::uint64_t{in.byte()} * 8;
      case 6: return prod - kSize + in.byte();
      default: return std::uint64_t{1} << in.below(64);
    }
  }
  static std::uint32_t length(Input& in) {
    switch (in.below(4)) {
      case 0: return in.take<std::uint32_t>();
      case 1: return in.take<std::uint16_t>() % kSize;
      case 2: return kSize - in.byte() % 32;
      default: return in.byte() | std::uint32_t{in.byte()} << 24;
    }
  }
  // The header of a record that a walk from consumer_pos would come to.
  void forge_record(Input& in) const {
    std::uint64_t pos = c().consumer_pos;
    for (unsigned n = in.below(24); n > 0; --n) pos += shm::stride(header(pos).len & RINGBUF_LEN_MASK);
    set_header(pos, {length(in), in.flip() ? header(pos).who : in.take<std::uint32_t>()});
  }
  void write_word(void* at, std::size_t size, Input& in) const {
    const std::size_t word = in.take<std::uint16_t>() % (size / 8);
    const std::uint64_t value = position(in);
    std::memcpy(static_cast<unsigned char*>(at) + word * 8, &value, sizeof value);
  }

  static shm::RingMemory create() {
    auto made = shm::create_ring({kSize, shm::kTypeRingbuf, 0, 0, 0});
    FUZZ_CHECK(made && made->layout.page == kSize);
    return std::move(*made);
  }
  const shm::RingMemory memory_ = create();
  test::GuardedRing forger_{memory_, kSize, kSlots, true, true};
  std::array<test::GuardedRing, 3> victims_{{{memory_, kSize, kSlots, false, false},  // by role
                                             {memory_, kSize, kSlots, true, false},
                                             {memory_, kSize, kSlots, false, true}}};
  std::array<std::uint64_t, kSlots> room_told_{};
  std::vector<unsigned char> copy_ = std::vector<unsigned char>(kSize);
  std::uint32_t map_type_ = 0, map_flags_ = 0, ring_flags_ = 0;
};

}  // namespace ringbuf::fuzz
