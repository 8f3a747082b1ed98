// SPDX-License-Identifier: MIT
// Closes what clients have sent. close(2) of a stranger's descriptor can block for as long as that stranger likes: a file of its
// own FUSE file system is flushed by its own server, a TCP socket lingers. Used in the thread of the io_context.
#pragma once

#include <sys/types.h>

#include <boost/asio/io_context.hpp>
#include <ctime>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "base/unique_fd.hpp"

namespace ringbuf::daemon {

class Closer {
 public:
  explicit Closer(boost::asio::io_context& io);
  Closer(const Closer&) = delete;
  // Threads that are not stuck have closed everything.
  ~Closer();

  // What is no socket is closed by a thread, one for each uid that has sent such things.
  void close(uid_t uid, std::vector<UniqueFd> fds);
  // False: too much of what this uid has sent waits to be closed. Its sessions are not read until it is: who gets a thread stuck
  // waits for it, and nobody else does.
  bool keeps_up(uid_t uid) const;
  void when_it_keeps_up(uid_t uid, std::function<void()> then);

  // f(), in which sockets are closed, or queues that hold some. A signal ends their lingering.
  template <class F>
  void without_lingering(F&& f) {
    interrupt(true);
    f();
    interrupt(false);
  }

 private:
  struct Shared;
  static void work(std::shared_ptr<Shared> shared, uid_t uid);
  void start(uid_t uid);
  void interrupt(bool on);

  std::shared_ptr<Shared> shared_;  // with the threads, which outlive this if they are stuck
  std::optional<timer_t> timer_;
};

}  // namespace ringbuf::daemon
