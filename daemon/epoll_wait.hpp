// SPDX-License-Identifier: MIT
// An epoll that is waited for without lying in another one. If it did, each epoll_ctl(2) on it would take a lock of the kernel's
// that is one for all nested epolls, and that any user of the system can hold for ever (by nesting one whose lock it holds from
// memory whose page faults it answers itself). So a thread polls it, and tells the thread of the io_context.
#pragma once

#include <poll.h>
#include <sys/eventfd.h>

#include <cerrno>
#include <functional>
#include <semaphore>
#include <system_error>
#include <thread>

#include "daemon/lanes.hpp"
#include "daemon/standing_wait.hpp"

namespace ringbuf::daemon {

class EpollWait {
 public:
  explicit EpollWait(boost::asio::io_context& io) : told_(io) {}
  ~EpollWait() { close(); }

  // f() whenever it is readable, which f must end. Throws what Asio and std::thread throw, and for want of a descriptor.
  void start(UniqueFd epoll, std::function<void()> f) {
    epoll_ = std::move(epoll);
    UniqueFd told(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (told) end_.reset(::eventfd(0, EFD_CLOEXEC));
    if (!told || !end_) throw std::system_error(errno, std::generic_category(), "cannot create an eventfd");
    told_.start(std::move(told), [this, f = std::move(f)] {
      f();  // if it throws, it is called again
      eventfd_t count;
      if (::eventfd_read(told_.fd(), &count) == 0) handled_.release();
    });
    thread_ = start_thread([this] { wait(); });
  }
  void close() {
    if (thread_.joinable()) {
      while (::eventfd_write(end_.get(), 1) < 0) {}  // nothing can make it fail but an interruption
      handled_.release();
      thread_.join();
    }
    told_.close();
  }

 private:
  void wait() {
    for (;;) {
      pollfd p[2] = {{epoll_.get(), POLLIN, 0}, {end_.get(), POLLIN, 0}};
      if (::poll(p, 2, -1) < 0) continue;
      if (p[1].revents) return;
      if (!p[0].revents) continue;
      ::eventfd_write(told_.fd(), 1);
      handled_.acquire();
    }
  }

  StandingWait told_;
  UniqueFd epoll_, end_;
  std::counting_semaphore<> handled_{0};
  std::thread thread_;
};

}  // namespace ringbuf::daemon
