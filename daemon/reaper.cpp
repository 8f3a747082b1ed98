// SPDX-License-Identifier: MIT
#include "daemon/reaper.hpp"

#include <chrono>

namespace ringbuf::daemon {

void Reaper::end(std::unique_ptr<Attachment> attachment) {
  Grave grave{std::move(attachment)};
  if (dig(grave)) return;
  graves_.push_back(std::move(grave));
  if (graves_.size() == 1) later();
}

// False as well if there is no memory for the mapping now: others may give some back.
bool Reaper::dig(Grave& grave) {
  Attachment& a = *grave.attachment;
  Map& map = *a.map;
  if (a.role == RINGBUF_PRODUCER) {
    if (!grave.recovery) {
      auto memory = map.map_memory();
      if (!memory) {
        log_.write(
            spdlog::level::err, a.holder.uid,
            fmt::format("cannot {} of {}: {}; trying again", memory.error().op, map.label(), std::strerror(memory.error().err)));
        return false;
      }
      grave.memory = std::move(*memory);
      grave.recovery.emplace(map.view(grave.memory), a.slot);
    }
    if (!grave.recovery->step(kSlice)) return false;
    map.bury(a.holder, grave.recovery->records(), grave.recovery->bytes());
    if (grave.recovery->records() != 0)
      log_.write(
          spdlog::level::info, a.holder.uid,
          fmt::format("{}: {} uncommitted records of pid {} discarded", map.label(), grave.recovery->records(), a.holder.pid));
    if (grave.recovery->corrupt())
      log_.write(spdlog::level::warn, a.holder.uid,
                 fmt::format("{} is corrupt; what pid {} left there could not be found", map.label(), a.holder.pid));
  }
  a.leave();
  grave.attachment.reset();
  return true;
}

void Reaper::later() {
  next_.expires_after(std::chrono::milliseconds(graves_.front().recovery ? 0 : 100));
  next_.async_wait([this](const boost::system::error_code& ec) {
    if (ec || graves_.empty()) return;
    if (dig(graves_.front())) graves_.pop_front();
    else graves_.splice(graves_.end(), graves_, graves_.begin());  // small rings need not wait for a large one
    if (!graves_.empty()) later();
  });
}

void Reaper::stop() {
  next_.cancel();
  graves_.clear();
}

}  // namespace ringbuf::daemon
