// SPDX-License-Identifier: MIT
// What can block for as long as a client likes is done by threads, one for each uid and purpose: close(2) of a file that a
// client may have too, and epoll_ctl(2) on an epoll that it has. Its own FUSE server flushes the file, or does not; a TCP socket
// lingers; a thread of its own sits on the lock of an epoll, with the file in it. The daemon waits for its threads, so that what
// was asked for is done when the next request is read, but not for long: who gets its thread stuck waits for it.
#pragma once

#include <sys/types.h>

#include <boost/asio/io_context.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/unique_fd.hpp"

namespace ringbuf::daemon {

// With all signals blocked: they are for the thread of the io_context. Throws std::system_error.
std::thread start_thread(std::function<void()> f);

class Lane : public std::enable_shared_from_this<Lane> {
 public:
  class Work {
   public:
    Work() = default;
    Work(const Work&) = delete;
    virtual ~Work() = default;
    virtual void run() noexcept = 0;
    virtual std::size_t descriptors() const { return 0; }  // that it will close

   private:
    friend class Lane;
    std::shared_ptr<Work> next_;
  };
  // Descriptors to be closed.
  struct Fds : Work {
    void run() noexcept override;
    std::size_t descriptors() const override { return all.size(); }
    std::vector<UniqueFd> all;
    bool drain = false;  // it is a connection: read it empty first
  };

  // How long lanes are waited for. The first millisecond is free each time. Beyond that, those that share one are waited for half
  // of the time in short waits, because on a busy machine it may take up to 20 ms, and for 100 ms together in a second in long
  // ones. One that was waited for in vain is not waited for again in the next second.
  struct Patience {
    std::mutex mutex;
    std::chrono::steady_clock::time_point back_at{};  // two or ten times what was waited, from when it was
  };

  // Throws std::system_error if no thread can be started, bad_alloc.
  Lane(boost::asio::io_context& io, std::shared_ptr<Patience> patience);
  Lane(const Lane&) = delete;
  ~Lane() { leave(); }

  // Has it run after what was given before. REQUIRES: it does not wait to be run already. Any thread.
  void give(std::shared_ptr<Work> work) noexcept;
  // On return all that was given has run, unless that takes longer than there is patience. Lanes do not wait for each other.
  void wait() noexcept;
  void run(std::shared_ptr<Work> work) noexcept {
    give(std::move(work));
    wait();
  }
  // Has them closed before what becomes ready from now on is handled, together with what others give until then: a thread is not
  // woken for each. Thread of the io_context.
  void close_soon(std::shared_ptr<Fds> fds) noexcept;
  // False: 32 descriptors or more wait to be closed. Then who gives more should not before `f`, which is called unless the lane
  // goes first. Thread of the io_context.
  bool keeps_up() const;
  void when_it_keeps_up(std::function<void()> f);
  bool idle() const;
  std::size_t descriptors() const;  // that wait to be closed
  // Nobody will use the io_context or wait for anything any more; what waits to be run will be. Thread of the io_context.
  void leave() noexcept;

 private:
  struct State;
  static void serve(State& s) noexcept;
  static void tell(State& s) noexcept;
  const std::shared_ptr<State> state_;  // with the thread, which outlives this if it is stuck
  std::shared_ptr<Fds> soon_;           // to be closed
};

class Lanes {
 public:
  explicit Lanes(boost::asio::io_context& io) : io_(io), patience_(std::make_shared<Lane::Patience>()) {}
  Lanes(const Lanes&) = delete;
  ~Lanes() {
    for (auto& [number, lane] : lanes_) lane->leave();
  }

  // Of a uid's clients; a thread each, until nobody has it and nothing is left to do. Throw what Lane does. Thread of the
  // io_context.
  std::shared_ptr<Lane> closing(uid_t uid) { return get(uid); }
  std::shared_ptr<Lane> waits(uid_t uid) { return get(uid | std::uint64_t{1} << 32); }  // closing is stuck by mere accident, too
  // Of all: to look at /proc, where anybody can hold any directory's lock; and to close what is nobody's.
  std::shared_ptr<Lane> names() { return get(std::uint64_t{2} << 32); }
  std::shared_ptr<Lane> nobodys() { return get(std::uint64_t{3} << 32); }
  std::size_t descriptors() const;  // that wait to be closed, in all

 private:
  std::shared_ptr<Lane> get(std::uint64_t number);
  boost::asio::io_context& io_;
  const std::shared_ptr<Lane::Patience> patience_;
  std::unordered_map<std::uint64_t, std::shared_ptr<Lane>> lanes_;
};

// Descriptors whose files a client may have too, or that have such in their queues: closed in the client's lane. Any thread.
class ForeignFds {
 public:
  ForeignFds() = default;
  explicit ForeignFds(std::shared_ptr<Lane> lane) : ForeignFds(std::move(lane), std::make_shared<Lane::Fds>()) {}
  ForeignFds(ForeignFds&&) noexcept = default;
  ForeignFds& operator=(ForeignFds&& other) noexcept;
  ~ForeignFds() { reset(); }

  std::span<const UniqueFd> get() const { return fds_ ? std::span<const UniqueFd>(fds_->all) : std::span<const UniqueFd>(); }
  std::vector<UniqueFd>& all() { return fds_->all; }  // REQUIRES: neither moved nor reset
  void take(ForeignFds&& other) noexcept;             // to be closed together. REQUIRES: room for them, if there are others
  void reset() noexcept;
  void reset_soon() noexcept;  // Lane::close_soon

 protected:
  ForeignFds(std::shared_ptr<Lane> lane, std::shared_ptr<Lane::Fds> fds) noexcept
      : lane_(std::move(lane)), fds_(std::move(fds)) {}
  std::shared_ptr<Lane> lane_;
  std::shared_ptr<Lane::Fds> fds_;
};

// One, or none.
class ForeignFd : private ForeignFds {
 public:
  ForeignFd() = default;
  ForeignFd(std::shared_ptr<Lane> lane, UniqueFd fd);
  ForeignFd(std::shared_ptr<Lane> lane, std::shared_ptr<Lane::Fds> one) noexcept : ForeignFds(std::move(lane), std::move(one)) {}

  int get() const { return fds_ ? fds_->all.front().get() : -1; }
  explicit operator bool() const { return get() >= 0; }
  UniqueFd& file() { return fds_->all.front(); }  // REQUIRES: there is one, and no client has it yet
  void use(std::shared_ptr<Lane> lane) noexcept { lane_ = std::move(lane); }
  void hang_up() noexcept;  // it is a connection (base/seqpacket.hpp): the peer reads what it was sent last, then the end
};

}  // namespace ringbuf::daemon
