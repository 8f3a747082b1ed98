// SPDX-License-Identifier: MIT
// What attachments leave behind when they end, above all those of the dead: producers' uncommitted records are discarded, their
// hold on the ring is freed, others are woken. All of it is done in turns of bounded work, whoever and however many have ended:
// between two turns the daemon serves its clients. One thread.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/intrusive/list.hpp>
#include <memory>

#include "daemon/client_log.hpp"
#include "daemon/map.hpp"

namespace ringbuf::daemon {

// One search of a ring, for all producers that had ended there when it began.
struct Remains::Walk {
  Walk(Mapping m, const ringbuf_view& v, const shm::Recovery::Slots& d, const Orphans& o)
      : memory(std::move(m)), data(v.data), mask(v.mask), dead(d), orphans(o), recovery(v, d, &orphans) {}
  Walk(const Walk&) = delete;

  // Unmaps what has been searched, or all of a large ring would have to be unmapped at once in the end.
  void forget(std::uint64_t from, std::uint64_t to) const noexcept;

  std::optional<Mapping> memory;  // none: it is done
  unsigned char* const data;
  const std::uint64_t mask;
  shm::Recovery::Slots dead;  // without those who have been let go since
  Orphans orphans;
  shm::Recovery recovery;
};

class Reaper {
 public:
  // Work is counted as shm::Recovery::step does: in 64 bytes walked over, each about 10 ns.
  static constexpr std::uint32_t kTurn = 32768;       // 2 MiB of large records, or 256 KiB of the smallest
  static constexpr std::uint32_t kShare = kTurn / 8;  // of one map, before the next one's: a small ring is done in one

  Reaper(boost::asio::io_context& io, ClientLog& log) : log_(log), next_(io) {}
  Reaper(const Reaper&) = delete;
  ~Reaper() { let_go(); }

  // It waits for its turn. Needs no memory of its own.
  void end(std::unique_ptr<Attachment> attachment) noexcept;
  // A turn, by all maps where something has ended. Before a request is looked at, so that it finds places free that can be.
  void go_on() noexcept;
  // A turn by this map alone, for a request that needs a place there. Who has ended there may be done after it, or not.
  void go_on(Map& map) noexcept;
  void stop();

  std::uint64_t work() const { return work_; }  // in all turns so far

 private:
  bool dig(Remains& remains, std::uint32_t budget) noexcept;
  bool begin_walk(Map& map) noexcept;
  bool step(Remains::Walk& walk, std::uint64_t budget) noexcept;
  void tell(const Attachment& a, const Remains::Walk& walk);
  void later(bool soon) noexcept;
  void let_go() noexcept;

  ClientLog& log_;
  boost::asio::steady_timer next_;
  bool armed_ = false;  // the timer runs; false with a queue: there was no memory for that
  std::uint64_t work_ = 0;
  boost::intrusive::list<Remains, boost::intrusive::constant_time_size<false>> queue_;
};

}  // namespace ringbuf::daemon
