// SPDX-License-Identifier: MIT
// Reads a ring without taking part: what is in it now, record by record, beside producers and a consumer at full speed. Needs
// no right to write. Any thread; each call has its own buffer.
#pragma once

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
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
    if (ring_.overwrite() && Ring::is_before(pos, ring_.overwrite_pos())) pos = ring_.overwrite_pos() & ~std::uint64_t{7};
    const std::uint64_t end = ring_.producer_pos();
    while (static_cast<std::int64_t>(end - pos) > 0) {
      const std::uint32_t len = ring_.header_len(pos);  // untrusted: read once
      const std::uint32_t size = len & RINGBUF_LEN_MASK;
      const std::uint64_t step = stride(size);
      const std::uint32_t slot = ring_.header_who(pos) >> RINGBUF_PG_OFF_BITS;  // 0 in a user ring
      const bool whole = step <= end - pos && end - pos <= ring_.capacity();
      const bool busy = len & RINGBUF_BUSY_BIT;
      if (whole && !busy) {
        copy.resize(size);
        Ring::copy_out(copy.data(), ring_.at(pos) + RINGBUF_HEADER_SIZE, size);
      }
      if (!ring_.still_there(pos)) {
        const std::uint64_t next = ring_.oldest_pos() & ~std::uint64_t{7};  // untrusted: read once
        if (!Ring::is_before(pos, next)) return -EBADMSG;                   // it moved back; always going on bounds the walk
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

  // Calls f as dump does for all records that were in the ring at one moment, oldest first and contiguous: in overwrite mode from
  // overwrite_pos on, consumed or not. Returns as dump, or -EAGAIN: producers went round the whole ring in each of 16 attempts.
  // May throw bad_alloc.
  template <class F>
  std::int64_t snapshot(F&& f) const {
    const std::unique_ptr<unsigned char[]> copy(new unsigned char[ring_.capacity()]);
    for (unsigned attempt = 0; attempt < 16; ++attempt) {
      const std::uint64_t end = ring_.producer_pos();  // before the oldest, so that they are at most N apart
      const std::uint64_t first = ring_.oldest_pos() & ~std::uint64_t{7};
      if (first == end && ring_.producer_pos() == end) return 0;
      if (!Ring::is_before(first, end)) continue;
      if (end - first > ring_.capacity() || !copy_records(first, end, copy.get())) return -EBADMSG;
      // What was overwritten since it was copied is gone; the rest was all there at this moment.
      std::uint64_t begin = ring_.oldest_after_copy() & ~std::uint64_t{7};
      if (Ring::is_before(begin, first)) begin = first;
      if (Ring::is_before(begin, end)) return show(std::forward<F>(f), begin, end, copy.get() + (begin - first));
    }
    return -EAGAIN;
  }

 private:
  // What is at [first, end) to `copy`, but for what is overwritten before its turn, and payloads that are not committed. False:
  // an impossible header.
  bool copy_records(std::uint64_t first, std::uint64_t end, unsigned char* copy) const {
    for (std::uint64_t pos = first; Ring::is_before(pos, end);) {
      const ringbuf_record_header header{ring_.header_len(pos), ring_.header_who(pos)};  // untrusted: read once
      const std::uint64_t step = stride(header.len & RINGBUF_LEN_MASK);
      const bool whole = step <= end - pos;
      if (whole) {
        std::memcpy(copy + (pos - first), &header, sizeof header);
        if (!(header.len & RINGBUF_BUSY_BIT))
          Ring::copy_out(copy + (pos - first) + sizeof header, ring_.at(pos) + sizeof header, step - sizeof header);
      }
      const std::uint64_t oldest = ring_.oldest_after_copy() & ~std::uint64_t{7};
      if (Ring::is_before(pos, oldest)) {
        pos = oldest;
        continue;
      }
      if (!whole) return false;
      pos += step;
    }
    return true;
  }

  template <class F>
  static std::int64_t show(F&& f, std::uint64_t begin, std::uint64_t end, const unsigned char* copy) {
    std::int64_t shown = 0;
    for (std::uint64_t pos = begin; pos != end; ++shown) {
      ringbuf_record_header header;
      std::memcpy(&header, copy + (pos - begin), sizeof header);
      const std::uint32_t size = header.len & RINGBUF_LEN_MASK;
      if (stride(size) > end - pos) return -EBADMSG;
      const unsigned char* data = header.len & RINGBUF_BUSY_BIT ? nullptr : copy + (pos - begin) + sizeof header;
      const int r = f(pos, header.len & ~RINGBUF_LEN_MASK, header.who >> RINGBUF_PG_OFF_BITS, data, std::size_t{size});
      if (r < 0) return r;
      pos += stride(size);
    }
    return shown;
  }

  Ring ring_;
};

}  // namespace ringbuf::shm
