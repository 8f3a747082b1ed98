// SPDX-License-Identifier: MIT
// The table of a map of maps (abi/shm.h): where things are, how a reader finds an element, how the writer changes one. Readers:
// any thread, any process, beside the writer; nothing blocks. The writer is one thread, the daemon's.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "ringbuf/abi/shm.h"
#include "ringbuf/shm/ring.hpp"

namespace ringbuf::shm {

static_assert(sizeof(ringbuf_outer_header) == 64);

inline constexpr std::uint32_t kArrayOfMaps = 12;  // BPF_MAP_TYPE_ARRAY_OF_MAPS
inline constexpr std::uint32_t kHashOfMaps = 13;   // BPF_MAP_TYPE_HASH_OF_MAPS

constexpr bool is_map_of_maps(std::uint32_t map_type) { return map_type == kArrayOfMaps || map_type == kHashOfMaps; }

constexpr std::uint64_t element_word(std::uint32_t id, std::uint32_t generation) {
  return (std::uint64_t{generation} << 32) | id;
}
constexpr std::uint32_t element_id(std::uint64_t word) { return static_cast<std::uint32_t>(word); }
constexpr std::uint32_t element_generation(std::uint64_t word) { return static_cast<std::uint32_t>(word >> 32); }

// FNV-1a, 64 bits. Part of the ABI.
inline std::uint64_t key_hash(const void* key, std::uint32_t size) {
  std::uint64_t h = RINGBUF_FNV_OFFSET;
  for (std::uint32_t i = 0; i < size; ++i) h = (h ^ static_cast<const unsigned char*>(key)[i]) * RINGBUF_FNV_PRIME;
  return h;
}

// Which of `n` rings a process' records go to, by splitmix64's finaliser: ids that are alike in their low bits, as those of a
// server's children often are, still spread.
constexpr std::uint32_t shard_of(std::uint32_t tgid, std::uint32_t n) {
  std::uint64_t x = tgid + 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return static_cast<std::uint32_t>((x ^ (x >> 31)) % n);
}

struct OuterLayout {
  std::uint32_t map_type;
  std::uint32_t key_size;
  std::uint32_t max_entries;

  constexpr bool hash() const { return map_type == kHashOfMaps; }
  constexpr std::uint32_t slots() const { return hash() ? std::bit_ceil(2 * max_entries) : max_entries; }
  constexpr std::uint32_t key_words() const { return hash() ? (key_size + 7) / 8 : 0; }
  constexpr std::uint32_t stride() const { return 8 + 8 * key_words(); }
  constexpr std::uint64_t size() const { return sizeof(ringbuf_outer_header) + std::uint64_t{slots()} * stride(); }
  // Is this what the header says? Then it is a table that we can read.
  constexpr bool matches(const ringbuf_outer_header& h) const {
    return h.magic == RINGBUF_OUTER_MAGIC && h.version == RINGBUF_SHM_VERSION && h.map_type == map_type &&
           is_map_of_maps(map_type) && h.key_size == key_size && key_size != 0 && (hash() || key_size == 4) &&
           h.max_entries == max_entries && max_entries != 0 && h.slots == slots() && h.stride == stride();
  }
  // The slot where the search for a key begins. FNV's low bits depend on the low bits of each byte only; the high ones help.
  constexpr std::uint32_t home(std::uint64_t hash) const {
    return static_cast<std::uint32_t>(hash ^ (hash >> 32)) & (slots() - 1);
  }
};

// Behind the elements, for the daemon only, what it needs to go on with the table after a restart: the last generation that was
// given out; then for each slot two words {generation, rights}, of which the one with the element's generation is its own.
constexpr std::uint64_t trailer_size(const OuterLayout& layout) { return 8 + 16 * std::uint64_t{layout.slots()}; }
inline std::uint64_t* trailer_of(void* base, const OuterLayout& layout) {
  return reinterpret_cast<std::uint64_t*>(static_cast<unsigned char*>(base) + layout.size());
}

class Elements {
 public:
  Elements() = default;
  // `base`: the mapped file, of at least layout.size() bytes.
  Elements(void* base, const OuterLayout& layout)
      : layout_(layout),
        slots_(layout.slots()),
        words_(layout.stride() / 8),
        first_(reinterpret_cast<std::uint64_t*>(static_cast<unsigned char*>(base) + sizeof(ringbuf_outer_header))) {}

  const OuterLayout& layout() const { return layout_; }

  // --- readers -----------------------------------------------------------------------------------------------------
  // An array's element; `index` is below max_entries.
  std::uint64_t at(std::uint32_t index) const { return ElementWord::load(slot(index)); }

  struct Found {
    std::uint64_t word;  // id 0: the key is not there
    bool sure;           // false: the slot changed under each of many looks; ask the daemon
  };
  // A hash's element. `key` has key_size bytes, `hash` is its key_hash.
  Found find(const void* key, std::uint64_t hash) const {
    std::uint32_t i = layout_.home(hash);
    for (std::uint32_t seen = 0; seen < slots_; ++seen, i = (i + 1) & (slots_ - 1)) {
      const std::uint64_t* at = slot(i);
      for (int looks = 0;; ++looks) {
        const std::uint64_t word = ElementWord::load(at);
        if (word == 0) return {0, true};
        // A deleted one, or another's: behind it. That another key is put here meanwhile does not matter: while it is being
        // moved, ours is nowhere.
        if (element_id(word) == 0 || !has_key(at, key)) break;
        if (ElementWord::load(at) == word) return {word, true};
        if (looks == kLooks) return {word, false};
      }
    }
    return {0, true};
  }

  // --- the writer ----------------------------------------------------------------------------------------------------
  void set(std::uint32_t index, std::uint64_t word) const { ElementWord::store(slot(index), word); }
  // What set_key has put there, key_size bytes.
  const void* key_at(std::uint32_t index) const { return slot(index) + 1; }
  // Only into a slot whose word is 0 or a deleted one's, which readers have been told by it to leave alone.
  void set_key(std::uint32_t index, const void* key) const {
    std::uint64_t* to = slot(index) + 1;
    for (std::uint32_t k = 0; k < layout_.key_words(); ++k) ElementWord::store_key(to + k, key_word(key, k));
  }

 private:
  static constexpr int kLooks = 1000;

  std::uint64_t* slot(std::uint32_t index) const { return first_ + std::size_t{index} * words_; }
  // Eight bytes of a key, zeros behind its end.
  std::uint64_t key_word(const void* key, std::uint32_t k) const {
    std::uint64_t word = 0;
    const std::uint32_t left = layout_.key_size - 8 * k;
    std::memcpy(&word, static_cast<const unsigned char*>(key) + 8 * std::size_t{k}, left < 8 ? left : 8);
    return word;
  }
  bool has_key(const std::uint64_t* at, const void* key) const {
    for (std::uint32_t k = 0; k < words_ - 1; ++k)
      if (ElementWord::load_key(at + 1 + k) != key_word(key, k)) return false;
    return true;
  }

  OuterLayout layout_{};
  std::uint32_t slots_ = 0;
  std::uint32_t words_ = 0;  // of an element
  std::uint64_t* first_ = nullptr;
};

}  // namespace ringbuf::shm
