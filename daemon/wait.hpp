// SPDX-License-Identifier: MIT
// What a consumer sleeps on: an epoll with the signals of all producers in it, and a kick. Whoever has an epoll can hold its lock
// for ever (in epoll_wait(2), with memory to be written whose page faults it answers itself), so from when its client has it on
// it is changed in that client's lane only. A signal that comes late is not lost: what is readable when it is put in is reported
// at once; and while something is left to do the consumer is kicked again and again, because its producers may come and go.
#pragma once

#include <boost/asio/steady_timer.hpp>
#include <boost/intrusive/list.hpp>
#include <list>
#include <memory>
#include <mutex>

#include "base/result.hpp"
#include "daemon/client_log.hpp"
#include "daemon/lanes.hpp"

namespace ringbuf::daemon {

class Waits;

// An eventfd: a producer's, or the kick of a map, which no client ever has.
using Signal = std::shared_ptr<ForeignFd>;

void kick(const Signal& kick) noexcept;  // null: nobody

class Wait : public Lane::Work, public std::enable_shared_from_this<Wait>, public boost::intrusive::list_base_hook<> {
 public:
  // Throws what Lane does.
  Wait(Waits& waits, uid_t uid, UniqueFd epoll, Signal kick);

  int fd() const { return epoll_.get(); }
  // Before its client is given it.
  Result<void> put(const Signal& signal);
  // From then on. What is to be changed in several is begun with all before any is settled: that waits. May throw bad_alloc.
  void add(const Signal& signal);
  void remove(const Signal& signal) noexcept;  // null: nothing
  void remove_all() noexcept;
  // Of one that another daemon has left: what should be in it, or should not and may be. May throw bad_alloc.
  void expect(const Signal& signal, bool wanted);
  // Takes no longer than Lane::wait. What has not been done then will be, sooner or later.
  void settle() noexcept;
  // Then: why it cannot be added. It is tried again until it is removed.
  Result<void> added(const Signal& signal) noexcept;

  void run() noexcept override;

 private:
  friend class Waits;
  struct Item {
    Signal signal;
    bool wanted;
    bool in;         // or may be
    int error;       // of the last attempt
    unsigned tried;  // the run in which that was
  };
  void take_out(std::list<Item>::iterator settled) noexcept;
  std::size_t changes() noexcept;
  void begin() noexcept;
  bool unsettled() noexcept;

  Waits& waits_;
  const uid_t uid_;
  const std::shared_ptr<Lane> lane_;
  const ForeignFd epoll_;
  const Signal kick_;
  std::shared_ptr<Wait> self_;  // while it is watched
  std::mutex mutex_;            // of all that follows
  std::list<Item> settled_, changing_;
  unsigned runs_ = 0;
  bool scheduled_ = false;
  bool over_ = false;  // nobody waits on it any more
  bool logged_ = false;
};

// Those that are not settled, for whatever reason. Thread of the io_context.
class Waits {
 public:
  Waits(boost::asio::io_context& io, Lanes& l, ClientLog& log) : lanes(l), log_(log), timer_(io) {}
  Waits(const Waits&) = delete;
  ~Waits();
  void stop();  // does nothing any more, so that the io_context runs out of work
  // Changes that are left to do in those of a uid's clients, the ones included that are gone; and with how many it gets no other.
  std::size_t unsettled(uid_t uid) const;
  static constexpr std::size_t kMost = 1024;

  Lanes& lanes;

 private:
  friend class Wait;
  void watch(Wait& wait) noexcept;
  void look_again() noexcept;
  void look() noexcept;

  ClientLog& log_;
  mutable boost::intrusive::list<Wait> unsettled_;
  boost::asio::steady_timer timer_;  // runs only while there are some
  bool running_ = false, stopped_ = false;
};

}  // namespace ringbuf::daemon
