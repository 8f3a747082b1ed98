// SPDX-License-Identifier: MIT
// A function in a process of its own. The child never returns into the test; the destructor never leaves one behind.
#pragma once

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>

namespace ringbuf::test {

class ChildProcess {
 public:
  // fn() -> int, the exit code.
  template <class F>
  explicit ChildProcess(F&& fn) {
    std::fflush(nullptr);
    const pid_t parent = ::getpid();
    pid_ = ::fork();
    if (pid_ != 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);                                          // a killed test leaves nobody behind
    if (const pid_t now = ::getppid(); now != parent && now != 0) ::_exit(125);  // 0: of another pid namespace
    const int code = fn();
    std::fflush(nullptr);
    ::_exit(code);
  }
  ChildProcess(ChildProcess&& other) noexcept : pid_(std::exchange(other.pid_, -1)), done_(other.done_), status_(other.status_) {}
  ChildProcess& operator=(ChildProcess&&) = delete;
  ~ChildProcess() {
    if (pid_ <= 0 || done_) return;
    kill(SIGKILL);
    wait();
  }

  pid_t pid() const { return pid_; }
  bool started() const { return pid_ > 0; }
  void kill(int signal) const { ::kill(pid_, signal); }

  bool running() {
    if (!done_ && ::waitpid(pid_, &status_, WNOHANG) == pid_) done_ = true;
    return !done_;
  }
  // The wait status, once the child has ended.
  int wait() {
    while (!done_) {
      if (::waitpid(pid_, &status_, 0) == pid_) done_ = true;
      else if (errno != EINTR) return -1;
    }
    return status_;
  }
  // The exit code, or -1 if a signal ended it.
  int exit_code() {
    const int status = wait();
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  pid_t pid_ = -1;
  bool done_ = false;
  int status_ = 0;
};

}  // namespace ringbuf::test
