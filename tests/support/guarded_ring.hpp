// SPDX-License-Identifier: MIT
// A ring mapped in parts, each on its own, with the rights that a role has, between inaccessible pages: what reads or writes
// outside a part, or where the role may not, ends the process.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>

#include "ringbuf/shm/ring.hpp"
#include "shm/create.hpp"

namespace ringbuf::test {

struct GuardedRing {
  // More than the longest record that a header can tell of.
  static constexpr std::size_t kGuard = (std::size_t{1} << 30) + (1 << 20);

  ringbuf_slot* slots;
  ringbuf_consumer_page* c;
  ringbuf_producer_page* p;
  unsigned char* data;

  // `size`: N; `slot_count`: a multiple of a page of them. Both of at most kGuard bytes.
  GuardedRing(const shm::RingMemory& memory, std::size_t size, std::size_t slot_count, bool write_c, bool write_p) {
    const std::size_t page = memory.layout.page;
    const int c_fd = memory.c.get(), p_fd = memory.p.get();
    void* whole = ::mmap(nullptr, 10 * kGuard, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (whole == MAP_FAILED) std::abort();
    auto* at = static_cast<unsigned char*>(whole);
    slots = static_cast<ringbuf_slot*>(map(at += 2 * kGuard, p_fd, 0, slot_count * sizeof(ringbuf_slot), write_p));
    c = static_cast<ringbuf_consumer_page*>(map(at += 2 * kGuard, c_fd, 0, page, write_c));
    p = static_cast<ringbuf_producer_page*>(map(at += 2 * kGuard, p_fd, memory.layout.producer_page_off(), page, write_p));
    data = static_cast<unsigned char*>(map(at += 2 * kGuard, p_fd, memory.layout.data_off(), size, write_p));
    map(data + size, p_fd, memory.layout.data_off(), size, write_p);
    whole_ = whole;
  }
  GuardedRing(const GuardedRing&) = delete;
  ~GuardedRing() { ::munmap(whole_, 10 * kGuard); }

  ringbuf_view in(ringbuf_view v) const {
    v.slots = slots;
    v.consumer_page = c;
    v.producer_page = p;
    v.data = data;
    return v;
  }

 private:
  static void* map(void* at, int fd, std::uint64_t off, std::size_t size, bool write) {
    const int rights = PROT_READ | (write ? PROT_WRITE : 0);
    if (::mmap(at, size, rights, MAP_SHARED | MAP_FIXED, fd, static_cast<off_t>(off)) != at) std::abort();
    return at;
  }
  void* whole_;
};

}  // namespace ringbuf::test
