// SPDX-License-Identifier: MIT
#include "daemon/wait.hpp"

#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <exception>
#include <utility>

#include "base/notify.hpp"

namespace ringbuf::daemon {
namespace {

constexpr std::chrono::milliseconds kPause{10};  // between looks at those with something left to do

// Makes each write to `signal` an edge for those who wait on `epoll`; or errno. A consumer can fill its own or nest it too
// deeply; then it misses wakeups, and nobody else suffers.
int put_in(int epoll, int signal) {
  const auto added = epoll_add_edge(epoll, signal);
  if (added || added.error().err == EEXIST || added.error().err == EINVAL || added.error().err == ELOOP) return 0;
  return added.error().err;
}

}  // namespace

void kick(const Signal& kick) noexcept {
  const std::uint64_t one = 1;
  if (kick) (void)!::write(kick->get(), &one, sizeof one);
}

// --- Waits ---------------------------------------------------------------------------------------------------------------------

Waits::~Waits() {
  unsettled_.clear_and_dispose([](Wait* wait) { std::exchange(wait->self_, nullptr).reset(); });
}

std::size_t Waits::unsettled(uid_t uid) const {
  std::size_t n = 0;
  for (Wait& wait : unsettled_)
    if (wait.uid_ == uid) n += wait.changes();
  return n;
}

void Waits::watch(Wait& wait) noexcept {
  if (!wait.self_) {
    wait.self_ = wait.shared_from_this();
    unsettled_.push_back(wait);
  }
  if (!running_) look_again();
}

void Waits::stop() {
  stopped_ = true;
  timer_.cancel();
}

void Waits::look_again() noexcept {
  if (stopped_) return;
  try {
    timer_.expires_after(kPause);
    timer_.async_wait([this](const boost::system::error_code& ec) {
      if (!ec) look();
    });
    running_ = true;
  } catch (const std::exception&) {  // no memory: the next one that is watched tries again
  }
}

void Waits::look() noexcept {
  running_ = false;
  const Signal* kicked = nullptr;  // those of a map are mostly neighbours
  for (auto at = unsettled_.begin(); at != unsettled_.end();)
    if (Wait& wait = *at++; wait.unsettled()) {
      wait.begin();
      if (wait.over_ || (kicked && *kicked == wait.kick_)) continue;
      kicked = &wait.kick_;
      kick(wait.kick_);
    } else {
      unsettled_.erase(unsettled_.iterator_to(wait));
      std::exchange(wait.self_, nullptr).reset();
      kicked = nullptr;
    }
  if (!unsettled_.empty()) look_again();
}

// --- Wait ----------------------------------------------------------------------------------------------------------------------

Wait::Wait(Waits& waits, uid_t uid, UniqueFd epoll, Signal kick)
    : waits_(waits),
      uid_(uid),
      lane_(waits.lanes.waits(uid)),
      epoll_(waits.lanes.closing(uid), std::move(epoll)),
      kick_(std::move(kick)) {}

Result<void> Wait::put(const Signal& signal) {
  settled_.push_back({signal, true, true, 0, 0});
  const int err = put_in(fd(), signal->get());
  if (err == 0) return {};
  settled_.pop_back();
  return fail(err, "add to an epoll");
}

void Wait::add(const Signal& signal) {
  {
    std::lock_guard lock(mutex_);
    changing_.push_back({signal, true, false, 0, 0});
  }
  begin();
}

Result<void> Wait::added(const Signal& signal) noexcept {
  std::lock_guard lock(mutex_);
  const auto failed = std::find_if(changing_.begin(), changing_.end(),
                                   [&](const Item& item) { return item.signal == signal && item.error != 0; });
  if (failed == changing_.end()) return {};
  return fail(failed->error, "add to an epoll");
}

void Wait::expect(const Signal& signal, bool wanted) {
  std::lock_guard lock(mutex_);
  changing_.push_back({signal, wanted, true, 0, 0});
}

// Explicitly, because an eventfd lives on while a client has a copy of it. The client may have done it already.
void Wait::remove(const Signal& signal) noexcept {
  {
    std::lock_guard lock(mutex_);
    const auto is = [&](const Item& item) { return item.signal == signal; };
    const auto in = std::find_if(settled_.begin(), settled_.end(), is),
               changing = std::find_if(changing_.begin(), changing_.end(), is);
    if (in != settled_.end()) take_out(in);
    else if (changing == changing_.end()) return;
    else changing->wanted = false;
    changing_.remove_if([](const Item& item) { return !item.wanted && !item.in; });
  }
  begin();
}

// A copy of the epoll that the client keeps must not make the producers' signals dearer for ever.
void Wait::remove_all() noexcept {
  {
    std::lock_guard lock(mutex_);
    over_ = true;
    while (!settled_.empty()) take_out(settled_.begin());
    for (Item& item : changing_) item.wanted = false;
    changing_.remove_if([](const Item& item) { return !item.in; });
  }
  begin();
}

void Wait::take_out(std::list<Item>::iterator settled) noexcept {
  settled->wanted = false;
  changing_.splice(changing_.end(), settled_, settled);
}

// Has the lane look at it, once.
void Wait::begin() noexcept {
  {
    std::lock_guard lock(mutex_);
    if (changing_.empty() || std::exchange(scheduled_, true)) return;
  }
  lane_->give(shared_from_this());
}

void Wait::settle() noexcept {
  begin();
  lane_->wait();
  if (unsettled()) waits_.watch(*this);
}

std::size_t Wait::changes() noexcept {
  std::lock_guard lock(mutex_);
  return changing_.size();
}

bool Wait::unsettled() noexcept {
  std::lock_guard lock(mutex_);
  if (changing_.empty()) return false;
  if (const int err = changing_.front().error; err != 0 && !std::exchange(logged_, true))
    waits_.log_.tell(spdlog::level::err, uid_,
                     [&] { return fmt::format("uid {} has an epoll that cannot be added to: {}", uid_, std::strerror(err)); });
  return true;
}

void Wait::run() noexcept {
  std::list<Item> gone;  // let go of without the mutex
  std::unique_lock lock(mutex_);
  ++runs_;
  while (!changing_.empty() && changing_.front().tried != runs_) {
    const auto item = changing_.begin();  // stays in the list while it is worked at: others may change their minds
    const bool wanted = item->wanted;
    item->in = true;
    lock.unlock();
    int err = 0;
    if (wanted) err = put_in(fd(), item->signal->get());
    else ::epoll_ctl(fd(), EPOLL_CTL_DEL, item->signal->get(), nullptr);
    lock.lock();
    if (item->wanted != wanted) continue;
    item->error = err;
    item->tried = runs_;
    if (err != 0) changing_.splice(changing_.end(), changing_, item);  // memory or watches are wanting: in the next run
    else if (wanted) settled_.splice(settled_.end(), changing_, item);
    else gone.splice(gone.end(), changing_, item);
  }
  scheduled_ = false;
}

}  // namespace ringbuf::daemon
