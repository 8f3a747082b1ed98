// SPDX-License-Identifier: MIT
// Reads a ring without taking part: what is in it now, record by record, beside producers and a consumer at full speed. Needs
// no right to write. Any thread; each call has its own buffer.
#pragma once

#include <cerrno>
#include <cstdint>
#include <vector>

#include "ringbuf/shm/ring.hpp"

namespace ringbuf::shm {

class Observer {
 public:
  Observer() = default;
  explicit Observer(const ringbuf_view& v) : ring_(v) {}
  const Ring& ring() const { return ring_; }

  // Calls f(pos, flags, slot, data, size) -> int for each record reserved before the call and not consumed meanwhile, oldest
  // first. flags: BUSY (data is null), DISCARD or 0. Returns the number shown, f's negative value, or -EBADMSG (impossible
  // header). Each record is copied first and shown only if its bytes could not have been reused while copying (S7). May throw
  // bad_alloc.
  template <class F>
  std::int64_t dump(F&& f) const {
    std::vector<unsigned char> copy;
    std::int64_t shown = 0;
    std::uint64_t pos = ring_.consumer_pos();
    const std::uint64_t end = ring_.producer_pos();
    while (static_cast<std::int64_t>(end - pos) > 0) {
      const std::uint32_t len = ring_.header_len(pos);  // untrusted: read once
      const std::uint32_t size = len & RINGBUF_LEN_MASK;
      const std::uint64_t step = stride(size);
      const std::uint32_t slot = ring_.header_who(pos) >> RINGBUF_PG_OFF_BITS;
      const bool whole = step <= end - pos && end - pos <= ring_.capacity();
      const bool busy = len & RINGBUF_BUSY_BIT;
      if (whole && !busy) {
        copy.resize(size);
        copy_out(copy.data(), ring_.at(pos) + RINGBUF_HEADER_SIZE, size);
      }
      if (!ring_.still_unread(pos)) {
        const std::uint64_t next = ring_.consumer_pos();                  // untrusted: read once
        if (static_cast<std::int64_t>(next - pos) <= 0) return -EBADMSG;  // it moved back; always going on bounds the walk
        pos = next;
        continue;
      }
      if (!whole) return -EBADMSG;
      const int r = f(pos, len & ~RINGBUF_LEN_MASK, slot, busy ? nullptr : copy.data(), static_cast<std::size_t>(size));
      if (r < 0) return r;
      ++shown;
      pos += step;
    }
    return shown;
  }

 private:
  // Races with the next lap's producer by design; S7 throws a torn copy away. Not memcpy, which TSan intercepts.
  __attribute__((no_sanitize("thread"))) static void copy_out(unsigned char* to, const volatile unsigned char* from,
                                                              std::size_t n) {
    std::size_t i = 0;
    for (; i + 8 <= n; i += 8) {
      const std::uint64_t word = *reinterpret_cast<const volatile std::uint64_t*>(from + i);
      __builtin_memcpy(to + i, &word, 8);
    }
    for (; i < n; ++i) to[i] = from[i];
  }

  Ring ring_;
};

}  // namespace ringbuf::shm
