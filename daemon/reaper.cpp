// SPDX-License-Identifier: MIT
#include "daemon/reaper.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <new>

namespace ringbuf::daemon {
namespace {

// What it costs to let an attachment go, and for each other one that must be told or looked at.
constexpr std::uint64_t kLeave = 64, kOther = 4;

}  // namespace

void Reaper::end(std::unique_ptr<Attachment> attachment) noexcept {
  attachment->end();
  Remains& at = attachment->map->remains_;
  if (attachment->role == RINGBUF_PRODUCER && at.first) {
    Attachment* const before = std::exchange(at.last, attachment.get());
    before->next_ = std::move(attachment);
  } else {  // others have nothing to be searched for
    if (!at.first) at.last = attachment.get();
    attachment->next_ = std::move(at.first);
    at.first = std::move(attachment);
  }
  if (!at.is_linked()) queue_.push_back(at);
}

void Reaper::go_on() noexcept {
  bool progress = false;
  for (const std::uint64_t end = work_ + kTurn; !queue_.empty() && work_ < end;) {
    Remains& at = queue_.front();
    queue_.splice(queue_.end(), queue_, queue_.begin());
    progress |= dig(at, static_cast<std::uint32_t>(std::min<std::uint64_t>(kShare, end - work_)));
  }
  if (!queue_.empty() && !armed_) later(progress);
}

void Reaper::go_on(Map& map) noexcept {
  if (!map.remains_.first) return;
  const bool progress = dig(map.remains_, kTurn);
  if (!queue_.empty() && !armed_) later(progress);
}

// False if there is no memory for the mapping now: others may give some back.
bool Reaper::dig(Remains& at, std::uint32_t budget) noexcept {
  const std::shared_ptr<Map> map = at.first->map;  // its last attachment may be all that keeps it
  for (const std::uint64_t end = work_ + budget; at.first && work_ < end;) {
    Attachment& a = *at.first;
    if (a.role == RINGBUF_PRODUCER) {
      if (!at.walk && !begin_walk(*map)) {
        work_ += budget;
        return false;
      }
      if (!step(*at.walk, end - work_)) return true;
      if (!at.walk->dead[a.slot]) {  // it has ended since
        at.walk.reset();
        continue;
      }
      at.walk->dead.reset(a.slot);  // who has it next is another
      tell(a, *at.walk);
    }
    work_ += kLeave + kOther * map->attachments().size();
    a.leave();
    at.first = std::move(a.next_);
  }
  if (!at.first) {
    at.walk.reset();
    at.unlink();
  }
  return true;
}

// For all that have ended there until now.
bool Reaper::begin_walk(Map& map) noexcept {
  Remains& at = map.remains_;
  auto memory = map.map_memory();
  if (memory) {
    shm::Recovery::Slots dead;
    Orphans orphans(map.kept_);
    for (const Attachment* a = at.first.get(); a; a = a->next_.get()) {
      if (a->role != RINGBUF_PRODUCER) continue;
      dead.set(a->slot);
      orphans.expect(a->slot, a->holder.pid);
    }
    const ringbuf_view view = map.view(*memory);
    at.walk.reset(new (std::nothrow) Remains::Walk(std::move(*memory), view, dead, orphans));
  }
  if (at.walk) return true;
  log_.tell(spdlog::level::err, at.first->holder.uid, [&] {
    const Error error = memory ? Error{ENOMEM, "search the memory"} : memory.error();
    return fmt::format("cannot {} of {}: {}; trying again", error.op, map.label(), std::strerror(error.err));
  });
  return false;
}

bool Reaper::step(Remains::Walk& walk, std::uint64_t budget) noexcept {
  if (!walk.memory) return true;  // done before
  const std::uint64_t from = walk.recovery.pos(), before = walk.recovery.cost();
  const bool done = walk.recovery.step(static_cast<std::uint32_t>(budget));
  work_ += walk.recovery.cost() - before;
  walk.forget(from, walk.recovery.pos());
  if (done) walk.memory.reset();
  return done;
}

void Reaper::tell(const Attachment& a, const Remains::Walk& walk) {
  if (const std::uint64_t records = walk.orphans.records_of(a.slot))
    log_.tell(spdlog::level::info, a.holder.uid, [&] {
      return fmt::format("{}: {} uncommitted records of pid {} discarded", a.map->label(), records, a.holder.pid);
    });
  if (const char* why = walk.recovery.corrupt())
    log_.tell(spdlog::level::warn, a.holder.uid, [&] {
      return fmt::format("{} is corrupt ({}); not all that pid {} left there could be found", a.map->label(), why, a.holder.pid);
    });
}

void Reaper::later(bool soon) noexcept {
  try {
    next_.expires_after(std::chrono::milliseconds(soon ? 0 : 100));
    next_.async_wait([this](const boost::system::error_code& ec) {
      if (ec) return;
      armed_ = false;
      go_on();
    });
    armed_ = true;
  } catch (const std::exception&) {  // the next turn tries again
  }
}

void Reaper::stop() {
  next_.cancel();
  let_go();
}

void Reaper::let_go() noexcept {
  while (!queue_.empty()) {
    Remains& at = queue_.front();
    const std::shared_ptr<Map> map = at.first->map;
    at.unlink();
    at.walk.reset();
    while (at.first) at.first = std::move(at.first->next_);
  }
}

Remains::Remains() = default;
Remains::~Remains() = default;

void Remains::Walk::forget(std::uint64_t from, std::uint64_t to) const noexcept {
  const std::uint64_t page = shm::page_size(), a = from & mask & ~(page - 1), b = to & mask & ~(page - 1);
  const auto unmap = [&](std::uint64_t at, std::uint64_t end) { ::madvise(data + at, end - at, MADV_DONTNEED); };
  if (a <= b && to - from <= mask) return unmap(a, b);
  unmap(a, mask + 1);
  unmap(0, b);
}

}  // namespace ringbuf::daemon
