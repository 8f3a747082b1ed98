// SPDX-License-Identifier: MIT
#include "daemon/closer.hpp"

#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <unistd.h>

#include <boost/asio/post.hpp>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>
#include <unordered_map>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

namespace ringbuf::daemon {
namespace {

constexpr std::size_t kMost = 32;             // of one uid, before its sessions wait
constexpr long kLingerNs = 200'000;           // then a signal comes, and again, until all is closed
constexpr std::chrono::seconds kPatience{1};  // at the end, for threads that are not stuck

bool is_socket(int fd) {
  int domain;
  socklen_t size = sizeof domain;
  return ::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0;
}

}  // namespace

struct Closer::Shared {
  struct Lane {
    std::deque<UniqueFd> fds;
    std::vector<std::function<void()>> waiting;
    bool running = false;
  };
  std::mutex mutex;
  std::condition_variable ended;
  boost::asio::io_context* io;            // guarded by mutex; null: nobody waits any more
  std::unordered_map<uid_t, Lane> lanes;  // guarded by mutex; of those that have something to close
};

Closer::Closer(boost::asio::io_context& io) : shared_(std::make_shared<Shared>()) { shared_->io = &io; }

Closer::~Closer() {
  std::unique_lock lock(shared_->mutex);
  shared_->io = nullptr;
  shared_->ended.wait_for(lock, kPatience, [&] { return shared_->lanes.empty(); });
  for (auto& [uid, lane] : shared_->lanes) lane.waiting.clear();
  if (timer_) ::timer_delete(*timer_);
}

void Closer::close(uid_t uid, std::vector<UniqueFd> fds) {
  if (fds.empty()) return;
  without_lingering([&] {
    for (UniqueFd& fd : fds)
      if (is_socket(fd.get())) fd.reset();
  });
  std::erase_if(fds, [](const UniqueFd& fd) { return !fd; });
  if (fds.empty()) return;
  std::lock_guard lock(shared_->mutex);
  auto& lane = shared_->lanes[uid];
  for (UniqueFd& fd : fds) lane.fds.push_back(std::move(fd));
  start(uid);
}

bool Closer::keeps_up(uid_t uid) const {
  std::lock_guard lock(shared_->mutex);
  const auto it = shared_->lanes.find(uid);
  return it == shared_->lanes.end() || it->second.fds.size() < kMost;
}

void Closer::when_it_keeps_up(uid_t uid, std::function<void()> then) {
  std::lock_guard lock(shared_->mutex);
  const auto it = shared_->lanes.find(uid);
  if (it == shared_->lanes.end()) return boost::asio::post(*shared_->io, std::move(then));
  it->second.waiting.push_back(std::move(then));
  start(uid);
}

// With the mutex held.
void Closer::start(uid_t uid) {
  auto& lane = shared_->lanes[uid];
  if (lane.running) return;
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);  // signals are for the thread of the io_context
  try {
    std::thread(work, shared_, uid).detach();
    lane.running = true;
  } catch (const std::system_error& e) {  // the next call tries again
    spdlog::error("cannot start a thread that closes what uid {} has sent: {}", uid, e.what());
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void Closer::work(std::shared_ptr<Shared> shared, uid_t uid) {
  std::unique_lock lock(shared->mutex);
  const auto it = shared->lanes.find(uid);
  auto& lane = it->second;
  while (!lane.fds.empty()) {
    {
      const UniqueFd fd = std::move(lane.fds.front());
      lane.fds.pop_front();
      lock.unlock();
    }  // closed here, without the mutex
    lock.lock();
  }
  if (shared->io)
    for (auto& then : lane.waiting) boost::asio::post(*shared->io, std::move(then));
  shared->lanes.erase(uid);
  shared->ended.notify_all();
}

void Closer::interrupt(bool on) {
  if (!timer_) {
    struct sigaction nothing {};
    nothing.sa_handler = [](int) {};
    ::sigaction(SIGRTMIN, &nothing, nullptr);
    sigevent e{};
    e.sigev_notify = SIGEV_THREAD_ID;
    e.sigev_signo = SIGRTMIN;
    e.sigev_notify_thread_id = ::gettid();
    timer_t made;
    if (::timer_create(CLOCK_MONOTONIC, &e, &made) < 0) return;
    timer_ = made;
  }
  const timespec t{0, on ? kLingerNs : 0};
  const itimerspec spec{t, t};
  ::timer_settime(*timer_, 0, &spec, nullptr);
}

}  // namespace ringbuf::daemon
