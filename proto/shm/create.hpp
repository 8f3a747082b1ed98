// SPDX-License-Identifier: MIT
// Makes the memory of a new ring: two sealed, filled memfds; or of a new map of maps: one. Used by the daemon and, for embedded
// rings, by libringbuf.
#pragma once

#include <cstdint>

#include "base/result.hpp"
#include "base/unique_fd.hpp"
#include "ringbuf/shm/geometry.hpp"
#include "ringbuf/shm/outer.hpp"

namespace ringbuf::shm {

struct RingSpec {
  std::uint32_t max_entries = 0;
  std::uint32_t map_type = 0;
  std::uint32_t map_flags = 0;
  std::uint32_t ring_flags = 0;
  std::uint32_t numa_node = 0;  // with BPF_F_NUMA_NODE; UINT32_MAX = any
};

struct RingMemory {
  UniqueFd c;  // consumer page, read-write
  UniqueFd p;  // slots, producer page and data, read-write
  Layout layout{};
};

std::uint64_t page_size();

// What is wrong with the spec, as a sentence, or nullptr. All of it is EINVAL in the kernel: unknown type or flags, a size that
// is not a power of two or not a multiple of the page size, a NUMA node that does not exist.
const char* spec_error(const RingSpec& spec);

// What the spec implies: a user ring has a single producer.
RingSpec normal(RingSpec spec);

// EINVAL as spec_error; ENOMEM, EMFILE. The memory is allocated now, as the kernel does, so that no user of it meets SIGBUS.
Result<RingMemory> create_ring(const RingSpec& spec);

struct OuterSpec {
  std::uint32_t map_type = 0;  // kArrayOfMaps or kHashOfMaps
  std::uint32_t key_size = 0;
  std::uint32_t max_entries = 0;
  std::uint32_t map_flags = 0;
  std::uint32_t numa_node = 0;
  std::uint32_t inner_map_type = 0;

  OuterLayout layout() const { return {map_type, key_size, max_entries}; }
};

// Bytes of the table's file: whole pages.
std::uint64_t outer_file_size(const OuterLayout& layout);

// What is wrong with the spec, as a sentence, or nullptr: EINVAL in the kernel. What is merely too large for us is not looked at.
const char* spec_error(const OuterSpec& spec);

// The empty table, read-write. EINVAL as spec_error, E2BIG beyond RINGBUF_MAX_KEY_SIZE or _ELEMENTS; ENOMEM, EMFILE.
Result<UniqueFd> create_outer(const OuterSpec& spec);

// A second descriptor of the same memory, without the right to write. ENOENT: /proc is not mounted.
Result<UniqueFd> reopen_read_only(int fd);

}  // namespace ringbuf::shm
