// SPDX-License-Identifier: MIT
// What attachments leave behind when they end, above all those of the dead: a producer's uncommitted records are discarded, its
// hold on the ring is freed, others are woken. Large rings are done in slices, so that nobody waits for them. One thread.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <memory>

#include "daemon/client_log.hpp"
#include "daemon/map.hpp"

namespace ringbuf::daemon {

class Reaper {
 public:
  static constexpr std::uint32_t kSlice = 65536;  // records: a fraction of a millisecond

  Reaper(boost::asio::io_context& io, ClientLog& log) : log_(log), next_(io) {}
  Reaper(const Reaper&) = delete;

  // Its place at the map is free when this returns, or, for a large ring, some slices later. Needs no memory of its own.
  void end(std::unique_ptr<Attachment> attachment) noexcept;
  // Before a request is looked at, so that it finds the places free: one more slice of each that is not done.
  void go_on() noexcept;
  void stop();

 private:
  bool dig(Attachment& a) noexcept;  // one slice; true: done
  void append(std::unique_ptr<Attachment> a) noexcept;
  void later() noexcept;

  ClientLog& log_;
  boost::asio::steady_timer next_;
  bool armed_ = false;                 // the timer runs; false with a queue: there was no memory for that
  std::unique_ptr<Attachment> queue_;  // linked by Attachment::next_
};

}  // namespace ringbuf::daemon
