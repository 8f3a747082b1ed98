// SPDX-License-Identifier: MIT
// A ring without a daemon, composed as the daemon composes one: two memfds, an eventfd a producer, an epoll descriptor a
// consumer.
#pragma once

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "base/mapping.hpp"
#include "base/unique_fd.hpp"
#include "ringbuf/shm/consumer.hpp"
#include "ringbuf/shm/observer.hpp"
#include "ringbuf/shm/producer.hpp"
#include "shm/create.hpp"

namespace ringbuf::test {

// For reservations that are tried again: where the reason of a failure goes, so that it is not counted.
inline thread_local ringbuf_lost uncounted;

// For what must work before a test can begin.
inline void require(bool ok, const char* what) {
  if (ok) return;
  std::perror(what);
  std::abort();
}

// Readable now? Does not take the edge away, as epoll_wait would.
inline bool readable(int fd) {
  pollfd p{fd, POLLIN, 0};
  return ::poll(&p, 1, 0) == 1 && (p.revents & POLLIN);
}

class TestRing {
 public:
  explicit TestRing(std::uint32_t max_entries = 4096, std::uint32_t producers = 1, std::uint32_t ring_flags = 0,
                    std::uint32_t map_type = shm::kTypeRingbuf, std::uint32_t map_flags = 0)
      : spec_(shm::normal({max_entries, map_type, map_flags, ring_flags, 0})), room_told_(RINGBUF_SLOT_COUNT) {
    if (map_flags & shm::kFlagOverwrite) copy_.resize(max_entries);
    auto memory = shm::create_ring(spec_);
    require(memory.has_value(), "create_ring");
    memory_ = std::move(*memory);
    mapping_ = map(Mapping::Access::ReadWrite, Mapping::Access::ReadWrite);
    for (std::uint32_t i = 0; i < producers; ++i) {
      signals_.emplace_back(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
      require(bool(signals_.back()), "eventfd");
    }
    ring().raise_slot_limit(producers + 1);
    wait_ = make_wait();
  }

  std::uint32_t robust = 1;  // of the producers made from now on: all tests share one pid namespace

  const shm::RingMemory& memory() const { return memory_; }
  // Another view of the same memory, as another process would have.
  Mapping map(Mapping::Access c, Mapping::Access p) const {
    auto m = Mapping::map_ring(memory_.c.get(), memory_.p.get(), memory_.layout, c, p);
    require(m.has_value(), "map_ring");
    return std::move(*m);
  }

  // Threads share one mapping: only so does ThreadSanitizer see that two of them touch the same bytes.
  ringbuf_view producer_view(std::uint32_t slot = 1) const { return producer_view(mapping_, slot); }
  ringbuf_view producer_view(const Mapping& m, std::uint32_t slot) const {
    ringbuf_view v = view_of(m);
    v.slot = slot;
    v.robust = robust;
    v.signal_fd = signals_.at(slot - 1).get();
    return v;
  }
  ringbuf_view consumer_view() { return consumer_view(mapping_); }
  ringbuf_view consumer_view(const Mapping& m) {
    ringbuf_view v = view_of(m);
    v.room_told = room_told_.data();
    v.copy = copy_.data();
    return v;
  }
  shm::Producer producer(std::uint32_t slot = 1) const { return shm::Producer(producer_view(slot)); }
  shm::Consumer consumer() { return shm::Consumer(consumer_view()); }
  shm::Ring ring() const { return shm::Ring(view_of(mapping_)); }
  shm::Observer observer() const { return observer(mapping_); }
  shm::Observer observer(const Mapping& m) const { return shm::Observer(view_of(m)); }

  // The raw words, for tests that forge them while nobody else runs.
  ringbuf_consumer_page& consumer_page() const { return *mapping_.view().consumer_page; }
  ringbuf_producer_page& producer_page() const { return *mapping_.view().producer_page; }
  ringbuf_slot& slot(std::uint32_t n) const { return mapping_.view().slots[n]; }
  unsigned char* data() const { return mapping_.view().data; }
  ringbuf_record_header& header(std::uint64_t pos) const {
    return *reinterpret_cast<ringbuf_record_header*>(data() + shm::offset(pos, mapping_.view().mask));
  }

  // What the daemon hands to one consumer: an epoll descriptor that holds every producer's eventfd, edge-triggered.
  UniqueFd make_wait() const {
    UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
    require(bool(epoll), "epoll_create1");
    for (const auto& signal : signals_) {
      epoll_event e{};
      e.events = EPOLLIN | EPOLLET;
      require(::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, signal.get(), &e) == 0, "epoll_ctl");
    }
    return epoll;
  }
  int wait_fd() const { return wait_.get(); }
  int signal_fd(std::uint32_t slot = 1) const { return signals_.at(slot - 1).get(); }
  // How often this producer has written its eventfd since the last call.
  std::uint64_t take_signals(std::uint32_t slot = 1) const {
    std::uint64_t n = 0;
    return ::read(signal_fd(slot), &n, sizeof n) == sizeof n ? n : 0;
  }

 private:
  ringbuf_view view_of(const Mapping& m) const {
    ringbuf_view v = m.view();
    v.map_type = spec_.map_type;
    v.map_flags = spec_.map_flags;
    v.ring_flags = spec_.ring_flags;
    return v;
  }

  shm::RingSpec spec_;
  shm::RingMemory memory_;
  Mapping mapping_;
  std::vector<UniqueFd> signals_;
  UniqueFd wait_;
  std::vector<std::uint64_t> room_told_;
  std::vector<unsigned char> copy_;
};

}  // namespace ringbuf::test
