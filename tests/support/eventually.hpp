// SPDX-License-Identifier: MIT
// For what another process, or thread, brings about. Nothing here ever gives up: the test's own time limit ends it.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <utility>

namespace ringbuf::test {

template <class F>
void eventually(F&& done) {
  while (!done()) std::this_thread::yield();
}

// Of a process's first thread, or of any thread: 'T' is stopped, 'D' in a system call that nothing interrupts; '?' is gone.
inline char state_of(pid_t tid) {
  std::ifstream stat("/proc/" + std::to_string(tid) + "/stat");
  const std::string text((std::istreambuf_iterator<char>(stat)), {});
  const auto at = text.rfind(") ");
  return at == text.npos ? '?' : text[at + 2];
}

// What it does after it has answered it has done then.
inline void wait_until_at_rest(pid_t pid) {
  // How often each of its threads has gone to sleep. False: one is awake.
  const auto asleep = [&](std::string& how_often) {
    how_often.clear();
    std::error_code gone;
    for (const auto& thread : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task", gone)) {
      std::ifstream status(thread.path() / "status");
      for (std::string line; std::getline(status, line);) {
        if (line.starts_with("State:\tR")) return false;
        if (line.starts_with("voluntary_ctxt_switches:")) how_often += thread.path().filename().string() + line;
      }
    }
    return true;
  };
  // Twice the same: in between nobody was awake, and so nobody about to wake another.
  std::string last, now;
  while (!asleep(now) || now != last) std::swap(last, now);
}

}  // namespace ringbuf::test
