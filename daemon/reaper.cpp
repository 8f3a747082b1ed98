// SPDX-License-Identifier: MIT
#include "daemon/reaper.hpp"

#include <chrono>

namespace ringbuf::daemon {

void Reaper::end(std::unique_ptr<Attachment> attachment) noexcept {
  if (!dig(*attachment)) append(std::move(attachment));
  if (queue_ && !armed_) later();
}

void Reaper::append(std::unique_ptr<Attachment> a) noexcept {
  std::unique_ptr<Attachment>* at = &queue_;
  while (*at) at = &(*at)->next_;
  *at = std::move(a);
}

// False as well if there is no memory for the mapping now: others may give some back.
bool Reaper::dig(Attachment& a) noexcept {
  Map& map = *a.map;
  if (a.role == RINGBUF_PRODUCER) {
    if (!a.recovery_) {
      auto memory = map.map_memory();
      if (!memory) {
        log_.tell(spdlog::level::err, a.holder.uid, [&] {
          return fmt::format("cannot {} of {}: {}; trying again", memory.error().op, map.label(),
                             std::strerror(memory.error().err));
        });
        return false;
      }
      a.memory_ = std::move(*memory);
      a.orphans_.emplace(map.orphans_of(a.holder, a.slot));
      a.recovery_.emplace(map.view(a.memory_), a.slot, &*a.orphans_);
    }
    if (!a.recovery_->step(kSlice)) return false;
    const shm::Recovery& found = *a.recovery_;
    if (found.records() != 0)
      log_.tell(spdlog::level::info, a.holder.uid, [&] {
        return fmt::format("{}: {} uncommitted records of pid {} discarded", map.label(), found.records(), a.holder.pid);
      });
    if (found.corrupt())
      log_.tell(spdlog::level::warn, a.holder.uid, [&] {
        return fmt::format("{} is corrupt ({}); not all that pid {} left there could be found", map.label(), found.corrupt(),
                           a.holder.pid);
      });
  }
  a.leave();
  return true;
}

void Reaper::later() noexcept {
  try {
    next_.expires_after(std::chrono::milliseconds(queue_->recovery_ ? 0 : 100));
    next_.async_wait([this](const boost::system::error_code& ec) {
      if (ec) return;
      armed_ = false;
      go_on();
    });
    armed_ = true;
  } catch (const std::exception&) {  // the next end of an attachment tries again
  }
}

void Reaper::go_on() noexcept {
  for (auto left = std::move(queue_); left;) {
    auto a = std::move(left);
    left = std::move(a->next_);
    if (!dig(*a)) append(std::move(a));
  }
  if (queue_ && !armed_) later();
}

void Reaper::stop() {
  next_.cancel();
  while (queue_) queue_ = std::move(queue_->next_);
}

}  // namespace ringbuf::daemon
