// SPDX-License-Identifier: MIT
// A daemon in a process of its own, as any user: what it holds can be counted, and it can be stopped.
#pragma once

#include <sys/prctl.h>

#include <fstream>

#include "harness.hpp"

namespace ringbuf::test {

// Like a program that was started as this user: one that has only changed its uid cannot be looked into.
inline bool become(uid_t uid) {
  if (uid == ::geteuid()) return true;
  return ::setgroups(0, nullptr) == 0 && ::setresgid(uid, uid, uid) == 0 && ::setresuid(uid, uid, uid) == 0 &&
         ::prctl(PR_SET_DUMPABLE, 1) == 0;
}

class DaemonOf {
 public:
  explicit DaemonOf(uid_t uid, const daemon::Limits& limits = daemon::kDefaultLimits) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) < 0 || ::chown(dir_.path("").c_str(), uid, uid) < 0) std::abort();
    const UniqueFd ready(ends[0]);
    UniqueFd tell(ends[1]);
    child_ = std::make_unique<ChildProcess>([&] {
      if (!become(uid)) return 126;
      spdlog::set_level(spdlog::level::off);
      boost::asio::io_context io;
      const auto server = daemon::Server::start(io, {socket(), 0666, limits});
      if (!server) return 1;
      tell.reset();
      io.run();
      return 0;
    });
    tell.reset();
    char c;
    if (::read(ready.get(), &c, 1) != 0) std::abort();
  }
  std::string socket() const { return dir_.path("s"); }
  pid_t pid() const { return child_->pid(); }
  // While it stands still, what is sent to it waits to be read.
  template <class F>
  void while_stopped(F&& f) {
    ::kill(pid(), SIGSTOP);
    eventually([&] { return state_of(pid()) == 'T'; });  // a thread of it may be stuck
    f();
    ::kill(pid(), SIGCONT);
  }
  unsigned descriptors() const {
    unsigned n = 0;
    for ([[maybe_unused]] const auto& fd : std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", pid()))) ++n;
    return n;
  }
  // When it has closed what it was about to.
  unsigned descriptors_at_rest() const {
    wait_until_at_rest(pid());
    return descriptors();
  }
  // A line of /proc/PID/status, such as "VmRSS".
  std::string status(const std::string& key) const {
    std::ifstream file(fmt::format("/proc/{}/status", pid()));
    for (std::string line; std::getline(file, line);)
      if (line.starts_with(key + ":")) return line;
    return {};
  }

 private:
  TempDir dir_;
  std::unique_ptr<ChildProcess> child_;
};

}  // namespace ringbuf::test
