// SPDX-License-Identifier: MIT
// What attachments leave behind when they end, above all those of the dead: a producer's uncommitted records are discarded, its
// hold on the ring is freed, others are woken. Large rings are done in slices, so that nobody waits for them. One thread.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <list>
#include <memory>
#include <optional>

#include "base/mapping.hpp"
#include "daemon/client_log.hpp"
#include "daemon/map.hpp"
#include "shm/recovery.hpp"

namespace ringbuf::daemon {

class Reaper {
 public:
  static constexpr std::uint32_t kSlice = 65536;  // records: a fraction of a millisecond

  Reaper(boost::asio::io_context& io, ClientLog& log) : log_(log), next_(io) {}
  Reaper(const Reaper&) = delete;

  // Its place at the map is free when this returns, or, for a large ring, some slices later.
  void end(std::unique_ptr<Attachment> attachment);
  void stop();

 private:
  struct Grave {
    std::unique_ptr<Attachment> attachment;
    Mapping memory = {};
    std::optional<shm::Recovery> recovery = {};
  };
  bool dig(Grave& grave);  // one slice; true: done
  void later();

  ClientLog& log_;
  boost::asio::steady_timer next_;
  std::list<Grave> graves_;
};

}  // namespace ringbuf::daemon
