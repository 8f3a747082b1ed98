// SPDX-License-Identifier: MIT
// Reads a ring without taking part: what is in it now, record by record, beside producers and a consumer at full speed. Needs
// no right to write. Any thread; each call has its own buffer.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
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
    std::uint64_t pos = ring_.consumer_pos() & ~std::uint64_t{7};
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
        copy.resize(std::max<std::size_t>(size, 1));  // data() of an empty one may be null, which says BUSY
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

  // Calls f as dump does for a contiguous run of records, oldest first, all of which were in the ring at one moment: in overwrite
  // mode from overwrite_pos on, consumed or not. Returns as dump, or -EAGAIN: producers went round the whole ring in each of 16
  // attempts. May throw bad_alloc.
  template <class F>
  std::int64_t snapshot(F&& f) const {
    // Zeros, of which only what is copied to takes memory: hostile words must not show what was there before.
    const std::unique_ptr<unsigned char, decltype(&std::free)> copy(static_cast<unsigned char*>(std::calloc(ring_.capacity(), 1)),
                                                                    &std::free);
    if (!copy) throw std::bad_alloc();
    for (unsigned attempt = 0; attempt < 16; ++attempt) {
      const std::uint64_t end = ring_.producer_pos();  // before the oldest, so that they are at most N apart
      const std::uint64_t first = ring_.oldest_pos() & ~std::uint64_t{7};
      if (first == end && ring_.producer_pos() == end) return 0;
      if (!Ring::is_before(first, end)) continue;
      std::uint64_t begin = first;
      if (end - first > ring_.capacity() || !copy_records(begin, end, copy.get())) return -EBADMSG;
      // What was overwritten since it was copied is gone; the rest was all there at this moment.
      begin = ring_.oldest_after_copy(begin) & ~std::uint64_t{7};
      if (begin != end && end - begin <= end - first) return show(std::forward<F>(f), begin, end, copy.get() + (begin - first));
    }
    return -EAGAIN;
  }

 private:
  // What is at [begin, end) to `copy`, but for payloads that are not committed. What is overwritten before its turn moves `begin`
  // behind it. False: an impossible header.
  bool copy_records(std::uint64_t& begin, std::uint64_t end, unsigned char* copy) const {
    const std::uint64_t first = begin;
    for (std::uint64_t pos = first; pos != end && end - pos <= end - first;) {
      const ringbuf_record_header header{ring_.header_len(pos), ring_.header_who(pos)};  // untrusted: read once
      const std::uint64_t step = stride(header.len & RINGBUF_LEN_MASK);
      const bool whole = step <= end - pos;
      if (whole) {
        std::memcpy(copy + (pos - first), &header, sizeof header);
        if (!(header.len & RINGBUF_BUSY_BIT))
          Ring::copy_out(copy + (pos - first) + sizeof header, ring_.at(pos) + sizeof header, step - sizeof header);
      }
      const std::uint64_t oldest = ring_.oldest_after_copy(pos) & ~std::uint64_t{7};
      if (oldest != pos) {
        pos = begin = oldest;
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
