// SPDX-License-Identifier: MIT
// Descriptors whose other end may go at any time, each known by a number. Asked before each request is looked at, so that a close
// that came before a request is seen before the request. One thread.
#pragma once

#include <sys/epoll.h>

#include <array>
#include <cstdint>

#include "base/unique_fd.hpp"
#include "daemon/refusal.hpp"

namespace ringbuf::daemon {

class Hangups {
 public:
  explicit Hangups(UniqueFd epoll) : epoll_(std::move(epoll)) {}

  // `events` besides hang-ups, which are always seen.
  Answer<void> watch(int fd, std::uint64_t number, std::uint32_t events = 0) {
    epoll_event ev{};
    ev.events = events;
    ev.data.u64 = number;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &ev) < 0) return refuse(Error{errno, "watch a descriptor"});
    return {};
  }
  // Explicitly, before it is closed: a copy elsewhere (over fork) would keep it in the set and report it for ever.
  void forget(int fd) { ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr); }
  // f(number) -> bool for each that has gone, which must forget it. false: it has forgotten it already; never loops on that.
  template <class F>
  void take(F&& f) {
    std::array<epoll_event, 64> events;
    for (;;) {
      const int n = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), 0);
      if (n <= 0) return;
      bool any = false;
      for (int i = 0; i < n; ++i) any |= f(events[static_cast<std::size_t>(i)].data.u64);
      if (!any) return;
    }
  }

 private:
  UniqueFd epoll_;
};

}  // namespace ringbuf::daemon
