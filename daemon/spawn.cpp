// SPDX-License-Identifier: MIT
#include "daemon/spawn.hpp"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <unordered_map>

namespace ringbuf::daemon {
namespace {

constexpr int kFirst = 3;
constexpr std::size_t kMaxVariable = 120 << 10;  // the kernel's limit for one is 128 KiB

// Makes fds[i] descriptor 3 + i, which exec keeps. What is in the way and still needed is moved.
bool place(std::vector<int> fds) {
  std::unordered_map<int, std::size_t> index;
  for (std::size_t i = 0; i < fds.size(); ++i) index[fds[i]] = i;
  for (std::size_t i = 0; i < fds.size(); ++i) {
    const int target = kFirst + static_cast<int>(i);
    if (fds[i] != target) {
      if (const auto in_the_way = index.find(target); in_the_way != index.end()) {
        const std::size_t other = in_the_way->second;
        const int moved = ::fcntl(target, F_DUPFD_CLOEXEC, kFirst);
        if (moved < 0) return false;
        index.erase(in_the_way);
        index[moved] = other;
        fds[other] = moved;
      }
      if (::dup2(fds[i], target) < 0) return false;
      ::close(fds[i]);
      index.erase(fds[i]);
    }
    if (::fcntl(target, F_SETFD, 0) < 0) return false;
  }
  return true;
}

// All names, in as many variables as it takes: systemd's own, and ours for what is too long for it.
void set_names(const std::vector<std::pair<std::string, int>>& fds) {
  std::string names, variable = "LISTEN_FDNAMES";
  int next = 1;
  for (std::size_t i = 0; i < fds.size(); ++i) {
    if (names.size() + fds[i].first.size() >= kMaxVariable) {
      ::setenv(variable.c_str(), names.c_str(), 1);
      variable = "RINGBUFD_FDNAMES_" + std::to_string(next++);
      names.clear();
    }
    names += (names.empty() ? "" : ":") + fds[i].first;
  }
  ::setenv(variable.c_str(), names.c_str(), 1);
}

[[noreturn]] void become(const Spawn& what) {
  std::vector<int> fds;
  for (const auto& [name, fd] : what.fds) fds.push_back(fd);
  if (!fds.empty()) {
    ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
    ::setenv("LISTEN_FDS", std::to_string(fds.size()).c_str(), 1);
    set_names(what.fds);
  }
  if (what.keeper >= 0) {
    ::setenv("RINGBUFD_KEEPER", std::to_string(kFirst + static_cast<int>(fds.size())).c_str(), 1);
    fds.push_back(what.keeper);
  }
  if (what.watchdog.count() > 0) {
    ::setenv("WATCHDOG_PID", std::to_string(::getpid()).c_str(), 1);
    ::setenv("WATCHDOG_USEC", std::to_string(what.watchdog.count()).c_str(), 1);
  }
  std::vector<char*> argv;
  for (const std::string& arg : what.args) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  if (place(std::move(fds))) {
    ::sigprocmask(SIG_SETMASK, &what.mask, nullptr);
    ::execv(what.path.c_str(), argv.data());
  }
  spdlog::critical("cannot run {}: {}", what.path, std::strerror(errno));
  ::_exit(1);
}

}  // namespace

pid_t spawn(const Spawn& what) {
  const pid_t pid = ::fork();
  if (pid == 0) become(what);
  return pid;
}

}  // namespace ringbuf::daemon
