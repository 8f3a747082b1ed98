// SPDX-License-Identifier: MIT
// Payloads that tell who wrote them, as which record, and whether a byte is wrong. A payload too short for the whole head
// carries what fits of it. Any thread.
//
//   offset  0  producer, u8        17  began, u64: ticket taken before reserve; 0 in a payload without room for both
//           1  seq, u64            25  ended, u64: ticket taken after reserve
//           9  size, u32           33  bytes of a generator seeded with producer and seq
//          13  checksum of 0..12 and 17..32
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace ringbuf::test {

inline std::uint64_t mix(std::uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

struct Payload {
  static constexpr std::size_t kHead = 33;

  std::uint8_t producer = 0;
  std::uint64_t seq = 0;
  std::uint64_t began = 0;
  std::uint64_t ended = 0;

  void fill(void* to, std::size_t size) const {
    auto* out = static_cast<unsigned char*>(to);
    unsigned char head[kHead];
    make_head(head, size);
    if (size != 0) std::memcpy(out, head, std::min(size, kHead));
    std::uint64_t state = seed();
    for (std::size_t at = kHead; at < size; at += 8) {
      const std::uint64_t word = next(state);
      std::memcpy(out + at, &word, std::min<std::size_t>(8, size - at));
    }
  }

  // Is this exactly what fill wrote? Takes the tickets, where they fit, from the bytes; producer and seq must be expected ones.
  bool verify(const void* from, std::size_t size) {
    const auto* in = static_cast<const unsigned char*>(from);
    if (size >= kHead) {
      std::memcpy(&began, in + 17, 8);
      std::memcpy(&ended, in + 25, 8);
    }
    unsigned char head[kHead];
    make_head(head, size);
    if (size != 0 && std::memcmp(in, head, std::min(size, kHead)) != 0) return false;
    std::uint64_t state = seed();
    for (std::size_t at = kHead; at < size; at += 8) {
      const std::uint64_t word = next(state);
      if (std::memcmp(in + at, &word, std::min<std::size_t>(8, size - at)) != 0) return false;
    }
    return true;
  }

 private:
  std::uint64_t seed() const { return mix(seq * 256 + producer); }
  static std::uint64_t next(std::uint64_t& state) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
  }
  void make_head(unsigned char* head, std::size_t size) const {
    const auto size32 = static_cast<std::uint32_t>(size);
    head[0] = producer;
    std::memcpy(head + 1, &seq, 8);
    std::memcpy(head + 9, &size32, 4);
    const std::uint64_t tickets[2] = {size < kHead ? 0 : began, size < kHead ? 0 : ended};
    std::memcpy(head + 17, tickets, 16);
    std::uint32_t sum = 2166136261u;  // FNV-1a
    for (std::size_t i = 0; i < kHead; ++i)
      if (i < 13 || i >= 17) sum = (sum ^ head[i]) * 16777619u;
    std::memcpy(head + 13, &sum, 4);
  }
};

}  // namespace ringbuf::test
