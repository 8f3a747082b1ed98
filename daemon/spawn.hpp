// SPDX-License-Identifier: MIT
// A child with exactly the descriptors that it is meant to have.
#pragma once

#include <signal.h>
#include <sys/types.h>

#include <chrono>
#include <string>
#include <utility>
#include <vector>

namespace ringbuf::daemon {

struct Spawn {
  std::string path;
  std::vector<std::string> args;                 // with args[0]
  std::vector<std::pair<std::string, int>> fds;  // name and descriptor, borrowed: LISTEN_FDS
  int keeper = -1;                               // RINGBUFD_KEEPER
  std::chrono::microseconds watchdog{};          // WATCHDOG_USEC; 0: none
  sigset_t mask{};                               // blocked signals
};

// fork and exec; all other descriptors of the caller must be CLOEXEC, and its other threads should be at rest: the child logs,
// sets its environment and allocates. -1 and errno. A child that cannot exec says why and exits with 1.
pid_t spawn(const Spawn& what);

}  // namespace ringbuf::daemon
