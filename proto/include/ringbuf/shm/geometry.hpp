// SPDX-License-Identifier: MIT
// Where things are in a ring, in bytes: the only code that turns a position into an offset. Pure arithmetic; any thread.
#pragma once

#include <cstdint>

#include "ringbuf/abi/shm.h"

namespace ringbuf::shm {

static_assert(sizeof(ringbuf_record_header) == RINGBUF_HEADER_SIZE);
static_assert(sizeof(ringbuf_consumer_page) == 256 && sizeof(ringbuf_producer_page) == 256);
static_assert(sizeof(ringbuf_slot) == 64 && sizeof(ringbuf_shm_header) == sizeof(ringbuf_slot));

// Bytes that a record of `len` payload bytes takes: its header, its payload, padding to 8.
constexpr std::uint64_t stride(std::uint64_t len) { return (len + RINGBUF_HEADER_SIZE + 7) & ~std::uint64_t{7}; }

constexpr std::uint64_t offset(std::uint64_t pos, std::uint64_t mask) { return pos & mask; }

// Second header word: the kernel's pg_off in the low 20 bits, the producer's slot above.
constexpr std::uint32_t who(std::uint64_t off, std::uint32_t page_shift, std::uint32_t slot) {
  return (slot << RINGBUF_PG_OFF_BITS) | static_cast<std::uint32_t>(RINGBUF_META_PAGES + (off >> page_shift));
}

constexpr std::uint32_t kTypeRingbuf = 27;          // BPF_MAP_TYPE_RINGBUF
constexpr std::uint32_t kTypeUserRingbuf = 31;      // BPF_MAP_TYPE_USER_RINGBUF
constexpr std::uint32_t kFlagNumaNode = 1u << 2;    // BPF_F_NUMA_NODE
constexpr std::uint32_t kFlagOverwrite = 1u << 19;  // BPF_F_RB_OVERWRITE

constexpr bool is_power_of_two(std::uint64_t v) { return v != 0 && (v & (v - 1)) == 0; }

// Sizes and file offsets of one map. C holds one page; P holds slots, producer page and data.
struct Layout {
  std::uint64_t page;
  std::uint64_t max_entries;

  static constexpr std::uint64_t slots_size() { return std::uint64_t{RINGBUF_SLOT_COUNT} * sizeof(ringbuf_slot); }
  constexpr std::uint64_t producer_page_off() const { return slots_size(); }
  constexpr std::uint64_t data_off() const { return slots_size() + page; }
  constexpr std::uint64_t c_size() const { return page; }
  constexpr std::uint64_t p_size() const { return data_off() + max_entries; }
  // The view of one process: slots, consumer page, producer page, data, data.
  constexpr std::uint64_t view_size() const { return slots_size() + 2 * page + 2 * max_entries; }
};

}  // namespace ringbuf::shm
