// SPDX-License-Identifier: MIT
#include "daemon/lanes.hpp"

#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <condition_variable>
#include <csignal>
#include <exception>
#include <iterator>
#include <new>
#include <utility>

#include "base/seqpacket.hpp"

namespace ringbuf::daemon {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kMost = 32;  // descriptors that wait, before no more should be given
constexpr std::chrono::milliseconds kPatience{100}, kFree{1};
constexpr std::chrono::milliseconds kUsual{20};  // on a busy machine
constexpr std::chrono::seconds kPause{1};
constexpr std::chrono::milliseconds kRetry{100};  // when memory was wanting
thread_local bool in_a_lane = false;

}  // namespace

std::thread start_thread(std::function<void()> f) {
  struct Blocked {
    Blocked() {
      sigset_t all;
      ::sigfillset(&all);
      ::pthread_sigmask(SIG_SETMASK, &all, &before);
    }
    ~Blocked() { ::pthread_sigmask(SIG_SETMASK, &before, nullptr); }
    sigset_t before;
  } blocked;
  return std::thread(std::move(f));
}

// --- Lane ----------------------------------------------------------------------------------------------------------------------

struct Lane::State {
  std::mutex mutex;
  std::condition_variable more, one_done;
  boost::asio::io_context* io = nullptr;  // null: nobody has the lane any more
  std::shared_ptr<Patience> patience;
  std::shared_ptr<Work> first;
  Work* last = nullptr;
  std::uint64_t given = 0, done = 0;
  std::size_t waiting = 0;  // descriptors, with those that are being closed
  std::vector<std::function<void()>> when_it_keeps_up;
  Clock::time_point waited_for_from{};
};

Lane::Lane(boost::asio::io_context& io, std::shared_ptr<Patience> patience) : state_(std::make_shared<State>()) {
  state_->io = &io;
  state_->patience = std::move(patience);
  start_thread([state = state_] { serve(*state); }).detach();
}

void Lane::Fds::run() noexcept {
  while (drain && !ringbuf::hang_up(all.front().get())) ::recv(all.front().get(), nullptr, 0, MSG_DONTWAIT);
  all.clear();
}

void Lane::leave() noexcept {
  if (soon_) run(std::exchange(soon_, nullptr));
  std::lock_guard lock(state_->mutex);
  state_->io = nullptr;
  state_->when_it_keeps_up.clear();
  state_->more.notify_one();
}

void Lane::give(std::shared_ptr<Work> work) noexcept {
  State& s = *state_;
  std::lock_guard lock(s.mutex);
  Work* const before = std::exchange(s.last, work.get());
  s.waiting += work->descriptors();
  (s.first ? before->next_ : s.first) = std::move(work);
  ++s.given;
  s.more.notify_one();
}

void Lane::wait() noexcept {
  State& s = *state_;
  const auto begin = Clock::now();
  std::unique_lock lock(s.mutex);
  if (in_a_lane || s.done == s.given || begin < s.waited_for_from) return;
  std::unique_lock shared(s.patience->mutex);
  const auto spent = std::max<Clock::duration>(s.patience->back_at - begin, {}) / 10;
  shared.unlock();
  const auto until = begin + std::max<Clock::duration>(kPatience - spent, kFree);
  const bool done = s.one_done.wait_until(lock, until, [&, number = s.given] { return s.done >= number; });
  const auto end = Clock::now();
  if (!done) s.waited_for_from = end + kPause;
  const auto waited = end - begin;
  if (done && waited <= kFree) return;
  shared.lock();
  s.patience->back_at =
      std::min(std::max(s.patience->back_at, begin) + (done && waited <= kUsual ? 2 : 10) * waited, end + kPause);
}

void Lane::close_soon(std::shared_ptr<Fds> fds) noexcept {
  try {
    if (!soon_) {
      boost::asio::post(*state_->io, [self = shared_from_this()] {
        if (self->soon_) self->run(std::exchange(self->soon_, nullptr));
      });
      soon_ = std::move(fds);
    } else {
      soon_->all.reserve(soon_->all.size() + fds->all.size());
      std::move(fds->all.begin(), fds->all.end(), std::back_inserter(soon_->all));
    }
  } catch (const std::exception&) {
    return run(std::move(fds));
  }
  if (soon_->all.size() >= kMost) run(std::exchange(soon_, nullptr));
}

bool Lane::keeps_up() const {
  std::lock_guard lock(state_->mutex);
  return state_->waiting + (soon_ ? soon_->all.size() : 0) < kMost;
}

void Lane::when_it_keeps_up(std::function<void()> f) {
  std::lock_guard lock(state_->mutex);
  if (state_->waiting < kMost) boost::asio::post(*state_->io, std::move(f));
  else state_->when_it_keeps_up.push_back(std::move(f));
}

std::size_t Lane::descriptors() const {
  std::lock_guard lock(state_->mutex);
  return state_->waiting;
}

bool Lane::idle() const {
  std::lock_guard lock(state_->mutex);
  return state_->done == state_->given;
}

void Lane::serve(State& s) noexcept {
  in_a_lane = true;
  std::unique_lock lock(s.mutex);
  for (;;) {
    const auto called = [&] { return s.first || !s.io; };
    while (!s.when_it_keeps_up.empty() && !s.more.wait_for(lock, kRetry, called)) tell(s);
    s.more.wait(lock, called);
    if (!s.first) return;
    auto work = std::move(s.first);
    s.first = std::move(work->next_);
    const std::size_t descriptors = work->descriptors();
    lock.unlock();
    work->run();
    work.reset();  // whoever waits is not to find it half gone
    lock.lock();
    s.waiting -= descriptors;
    ++s.done;
    s.one_done.notify_all();
    tell(s);
  }
}

void Lane::tell(State& s) noexcept try {
  while (s.waiting < kMost && !s.when_it_keeps_up.empty()) {
    boost::asio::post(*s.io, s.when_it_keeps_up.back());
    s.when_it_keeps_up.pop_back();
  }
} catch (const std::bad_alloc&) {  // serve() tries again
}

// --- Lanes ---------------------------------------------------------------------------------------------------------------------

std::shared_ptr<Lane> Lanes::get(std::uint64_t number) {
  if (const auto it = lanes_.find(number); it != lanes_.end()) return it->second;
  // But for those that are stuck: who has gone and comes again is to find it so.
  std::erase_if(lanes_, [](const auto& lane) { return lane.second.use_count() == 1 && lane.second->idle(); });
  return lanes_.emplace(number, std::make_shared<Lane>(io_, patience_)).first->second;
}

std::size_t Lanes::descriptors() const {
  std::size_t n = 0;
  for (const auto& [number, lane] : lanes_) n += lane->descriptors();
  return n;
}

// --- ForeignFds, ForeignFd -----------------------------------------------------------------------------------------------------

ForeignFds& ForeignFds::operator=(ForeignFds&& other) noexcept {
  if (this == &other) return *this;
  reset();
  lane_ = std::move(other.lane_);
  fds_ = std::move(other.fds_);
  return *this;
}

void ForeignFds::take(ForeignFds&& other) noexcept {
  if (!fds_) {
    *this = std::move(other);
  } else if (const auto fds = std::exchange(other.fds_, nullptr)) {
    for (UniqueFd& fd : fds->all) fds_->all.push_back(std::move(fd));
  }
}

void ForeignFds::reset() noexcept {
  if (const auto fds = std::exchange(fds_, nullptr); fds && !fds->all.empty()) lane_->run(fds);
  lane_.reset();
}

void ForeignFds::reset_soon() noexcept {
  if (const auto fds = std::exchange(fds_, nullptr); fds && !fds->all.empty()) lane_->close_soon(fds);
  lane_.reset();
}

ForeignFd::ForeignFd(std::shared_ptr<Lane> lane, UniqueFd fd) {
  if (!fd) return;
  fds_ = std::make_shared<Lane::Fds>();
  fds_->all.push_back(std::move(fd));
  lane_ = std::move(lane);
}

void ForeignFd::hang_up() noexcept {
  if (!fds_) return;
  if (ringbuf::hang_up(get())) fds_ = nullptr;  // nothing of the client's is closed with it
  else fds_->drain = true;
  reset();
}

}  // namespace ringbuf::daemon
