// SPDX-License-Identifier: MIT
// The log lines that clients cause, with a budget for each uid: nobody can fill the disk or bury what others have done.
#pragma once

#include <spdlog/spdlog.h>
#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <new>
#include <string>
#include <unordered_map>

namespace ringbuf::daemon {

class ClientLog {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr int kAtOnce = 100;
  static constexpr std::chrono::milliseconds kPerLine{100};

  // Writes the line, or counts it if `uid` has used up its budget; the next one that is written tells how many were left out.
  void write(spdlog::level::level_enum level, uid_t uid, const std::string& text, Clock::time_point now = Clock::now());
  // The same for the line that text() returns, of what has been done already and cannot fail any more: a line for which there is
  // no memory is not written.
  template <class F>
  void tell(spdlog::level::level_enum level, uid_t uid, F&& text) noexcept {
    try {
      write(level, uid, text());
    } catch (const std::bad_alloc&) {}
  }
  // At the end: tells what no next line has told.
  ~ClientLog();

 private:
  struct Budget {
    Clock::time_point full_at;  // when all lines that were written are paid for
    std::uint64_t left_out = 0;
  };
  std::unordered_map<uid_t, Budget> budgets_;  // of those whose budget is not full
};

}  // namespace ringbuf::daemon
