// SPDX-License-Identifier: MIT
// Who keeps the daemon's descriptors while it is dead: the supervisor, or systemd's descriptor store. Both are spoken to in
// systemd's protocol, one datagram a message. Nothing here ever blocks, loses or reorders. One thread.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <variant>

#include "base/unique_fd.hpp"

namespace ringbuf::daemon {

class Keeper {
 public:
  // What keeps all names of 20 000 descriptors within the 128 KiB that one environment variable may have.
  static constexpr std::size_t kMaxName = 5;

  // `socket` is a connected datagram or SEQPACKET socket; with none there is no keeper, and everything here does nothing.
  Keeper(boost::asio::io_context& io, UniqueFd socket);
  Keeper(const Keeper&) = delete;

  // False once the keeper is gone.
  bool present() const { return socket_.is_open(); }

  // Keeps a copy of `fd`. A name is used once until it is removed: the supervisor would replace, systemd add. False: no
  // descriptor is left for the copy that has to wait in the queue; it will not be kept.
  bool store(const std::string& name, int fd);
  void remove(const std::string& name) noexcept;
  void say(std::string state);  // "READY=1", "STATUS=..."

  // Calls f when all that was queued before has been sent: at once if nothing is queued, else from the io_context.
  void when_sent(std::function<void()> f);

  // f() once, as soon as the keeper is found to be gone: nothing that was said last need have arrived. Null: nothing.
  void when_lost(std::function<void()> f) { when_lost_ = std::move(f); }
  bool all_sent() const { return queue_.empty(); }

  // The daemon ends and another will take over what is kept: from now on nothing is stored, removed or said, and what waits to be
  // sent or called is dropped. Destructors can go on as ever.
  void abandon();

 private:
  struct Message {
    std::string text;
    UniqueFd fd;  // may be none
  };

  bool post(std::string text, int fd);
  int send(const std::string& text, int fd);  // 0 or errno
  void flush();
  void flush_later(int err);
  void lose(int err);
  void watch();
  template <class F>
  auto unless_destroyed(F f);

  boost::asio::posix::stream_descriptor socket_;
  boost::asio::steady_timer retry_;  // runs only when the kernel has no room for more descriptors in flight
  std::deque<std::variant<Message, std::function<void()>>> queue_;
  std::function<void()> when_lost_;
  bool abandoned_ = false;
  std::shared_ptr<char> alive_ = std::make_shared<char>();
};

// $RINGBUFD_KEEPER, a descriptor's number, which the supervisor sets; else $NOTIFY_SOCKET. Unsets both. Logs why if one is set
// and cannot be used; then, or if neither is set, the result is empty.
UniqueFd keeper_from_environment();

// $WATCHDOG_USEC, if it is meant for this process by $WATCHDOG_PID: how long the keeper waits for WATCHDOG=1 before it thinks
// that we hang; 0: for ever. Unsets both.
std::chrono::microseconds watchdog_from_environment();

}  // namespace ringbuf::daemon
