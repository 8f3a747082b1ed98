// SPDX-License-Identifier: MIT
#include "daemon/client_log.hpp"

#include <algorithm>
#include <utility>

namespace ringbuf::daemon {
namespace {

void tell_left_out(uid_t uid, std::uint64_t lines) {
  if (lines) spdlog::warn("({} lines about uid {} were left out)", lines, uid);
}

}  // namespace

void ClientLog::write(spdlog::level::level_enum level, uid_t uid, const std::string& text, Clock::time_point now) {
  if (!spdlog::should_log(level)) return;
  std::erase_if(budgets_, [&](const auto& entry) {
    const auto& [of, budget] = entry;
    if (budget.full_at > now) return false;
    tell_left_out(of, budget.left_out);
    return true;
  });
  Budget& budget = budgets_[uid];
  const auto paid_at = std::max(budget.full_at, now) + kPerLine;
  if (paid_at - now > kAtOnce * kPerLine) {
    ++budget.left_out;
    return;
  }
  budget.full_at = paid_at;
  tell_left_out(uid, std::exchange(budget.left_out, 0));
  spdlog::log(level, text);
}

ClientLog::~ClientLog() {
  for (const auto& [uid, budget] : budgets_) tell_left_out(uid, budget.left_out);
}

}  // namespace ringbuf::daemon
