// SPDX-License-Identifier: MIT
// The real ringbufd and who keeps its descriptors, all in the hands of one thread: it is killed at any of its system calls, and
// the next one is started with what it has left. Keeps as systemd does: adds what is stored under a name that it has, unless it
// is the same open file; hands out all of it.
#pragma once

#include <fcntl.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "base/seqpacket.hpp"
#include "daemon/state.hpp"

namespace ringbuf::test {

class KeptDaemon {
 public:
  static constexpr unsigned kNever = 0;
  enum class Start { Free, Traced };

  // `counter`: of ringbufd_stored, how many stores it has left to live.
  KeptDaemon(std::string program, std::vector<std::string> arguments, int counter = -1)
      : program_(std::move(program)), arguments_(std::move(arguments)), counter_(counter) {}
  KeptDaemon(const KeptDaemon&) = delete;
  ~KeptDaemon() { kill(); }

  pid_t pid() const { return pid_; }
  bool lives() const { return pid_ > 0; }
  std::vector<std::pair<std::string, UniqueFd>> store;

  int kept(const std::string& name) const {
    for (const auto& [n, fd] : store)
      if (n == name) return fd.get();
    return -1;
  }
  // What it has logged since it was started.
  std::string said() const {
    std::string text(1 << 16, '\0');
    const ssize_t n = ::pread(log_.get(), text.data(), text.size(), 0);
    text.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
    return text;
  }

  // Waits until it is ready; false: it has ended before.
  bool start() {
    launch(Start::Free);
    while (!ready_) {
      pollfd readable{wire_.get(), POLLIN, 0};
      ::poll(&readable, 1, -1);
      if (!hear()) {
        bury();
        return false;
      }
    }
    return true;
  }
  // Kills it at the nth stop of main() and after it, before or behind a system call. False: it has come to rest before, and goes
  // on untraced.
  bool start_and_kill(unsigned nth) {
    launch(Start::Traced);
    ::waitpid(pid_, nullptr, 0);
    ::ptrace(PTRACE_SETOPTIONS, pid_, 0, kOptions);
    return follow(nth, false);
  }
  // With the nth call of main() failing (fault/tracer.hpp); killed as soon as it is ready. False: it has ended before.
  template <class Tracer, class Trouble>
  bool start_failing(Tracer& tracer, unsigned nth, Trouble trouble) {
    launch(Start::Traced);
    tracer.follow(pid_, [&, begun = false](long nr, const std::uint64_t* args) mutable {
      hear();
      if (ready_) ::kill(pid_, SIGKILL);
      if (begun || nr != SYS_fcntl || args[0] != 0 || args[1] != F_GETFD) return;
      begun = true;
      tracer.fail(nth, trouble);
    });
    pid_ = -1;
    hear();
    return ready_;
  }
  // f() makes it busy, which is no more than to send something. Killed at the nth stop since, or by itself: true.
  template <class F>
  bool kill_while(F&& f, unsigned nth) {
    seize();
    if (follow(kNever, true, Rest::Held)) std::abort();
    f();
    return follow(nth, true);
  }
  // Until it has done all that it has to do.
  void rest() {
    seize();
    follow(kNever, true);
    hear();
  }
  // Hears nothing more of this one, but has what it has.
  void hang_up() { wire_.reset(); }
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    bury();
  }
  // Takes all that was said. False: it has ended.
  bool hear() {
    for (Frame frame;;) {
      const auto got = recv_frame(wire_.get(), frame, MSG_DONTWAIT);
      if (!got && got.error().err == EAGAIN) return true;
      if (!got || !*got) return false;
      take({reinterpret_cast<const char*>(frame.buffer.data()), frame.size}, frame.fds);
    }
  }

 private:
  static constexpr long kOptions = PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL;

  enum class Rest { Free, Held };

  void seize() const {
    ::ptrace(PTRACE_SEIZE, pid_, 0, kOptions);
    ::ptrace(PTRACE_INTERRUPT, pid_, 0, 0);
    ::waitpid(pid_, nullptr, 0);
  }
  void launch(Start how) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) std::abort();
    wire_.reset(ends[0]);
    const UniqueFd theirs(ends[1]);
    log_.reset(::memfd_create("log", MFD_CLOEXEC));
    ready_ = false;
    std::fflush(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) run(how, theirs.get());
    process_.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
    epolls_.clear();
  }
  [[noreturn]] void run(Start how, int keeper) const {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    constexpr int kHigh = 600;  // out of the way
    std::vector<int> fds;
    std::string names;
    const auto pass = [&](int fd) { fds.push_back(::fcntl(fd, F_DUPFD_CLOEXEC, kHigh)); };
    for (const auto& [name, fd] : store) {
      names += (names.empty() ? "" : ":") + name;
      pass(fd.get());
    }
    pass(keeper);
    const int log = ::fcntl(log_.get(), F_DUPFD_CLOEXEC, kHigh), counter = ::fcntl(counter_, F_DUPFD_CLOEXEC, kHigh);
    ::dup2(log, STDERR_FILENO);
    int next = 3;
    for (const int fd : fds) ::dup2(fd, next++);
    if (!store.empty()) {
      ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
      ::setenv("LISTEN_FDS", std::to_string(store.size()).c_str(), 1);
      ::setenv("LISTEN_FDNAMES", names.c_str(), 1);
    }
    ::setenv("RINGBUFD_KEEPER", std::to_string(next - 1).c_str(), 1);
    if (counter >= 0) {
      ::setenv("RINGBUF_TEST_COUNTER", std::to_string(counter).c_str(), 1);
      ::fcntl(counter, F_SETFD, 0);
    }
    std::vector<char*> argv{const_cast<char*>(program_.c_str())};
    for (const auto& arg : arguments_) argv.push_back(const_cast<char*>(arg.c_str()));
    argv.push_back(nullptr);
    if (how == Start::Traced) ::ptrace(PTRACE_TRACEME, 0, 0, 0);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  void bury() {
    ::waitpid(pid_, nullptr, 0);
    hear();  // its last words
    pid_ = -1;
  }

  bool follow(unsigned nth, bool begun, Rest rest = Rest::Free) {
    unsigned count = 0;
    int status = 0;
    for (long signal = 0;;) {
      if (::ptrace(PTRACE_SYSCALL, pid_, 0, signal) < 0 && errno != ESRCH) std::abort();
      signal = 0;
      if (::waitpid(pid_, &status, 0) != pid_) std::abort();
      hear();
      if (WIFEXITED(status) || WIFSIGNALED(status)) {
        pid_ = -1;
        return true;
      }
      if (WSTOPSIG(status) != (SIGTRAP | 0x80)) {
        if (WSTOPSIG(status) != SIGTRAP && (status >> 16) == 0) signal = WSTOPSIG(status);
        continue;
      }
      __ptrace_syscall_info info{};
      if (::ptrace(PTRACE_GET_SYSCALL_INFO, pid_, sizeof info, &info) < 0) continue;
      const bool entry = info.op == PTRACE_SYSCALL_INFO_ENTRY;
      // main() begins by looking at the standard descriptors; what comes before is the loader's.
      begun |= entry && info.entry.nr == SYS_fcntl && info.entry.args[0] == 0 && info.entry.args[1] == F_GETFD;
      if (begun && ++count == nth) {
        kill();
        return true;
      }
      if (!entry || !is_idle(info)) continue;
      if (rest == Rest::Free) ::ptrace(PTRACE_DETACH, pid_, 0, 0);
      return false;
    }
  }
  // About to wait for what has not happened yet.
  bool is_idle(const __ptrace_syscall_info& info) {
    if ((info.entry.nr != SYS_epoll_wait && info.entry.nr != SYS_epoll_pwait) || static_cast<int>(info.entry.args[3]) == 0)
      return false;
    UniqueFd& copy = epolls_[static_cast<int>(info.entry.args[0])];
    if (!copy) copy.reset(static_cast<int>(::syscall(SYS_pidfd_getfd, process_.get(), info.entry.args[0], 0)));
    pollfd readable{copy.get(), POLLIN, 0};
    bool asleep;
    do {
      asleep = others_sleep();
      if (::poll(&readable, 1, 0) != 0) return false;
    } while (!asleep);
    return true;
  }
  // Its other threads: none is about to tell it something.
  bool others_sleep() const {
    for (const auto& task : std::filesystem::directory_iterator("/proc/" + std::to_string(pid_) + "/task")) {
      if (task.path().filename() == std::to_string(pid_)) continue;
      std::ifstream stat(task.path() / "stat");
      std::string text;
      std::getline(stat, text);
      if (!text.empty() && text.find(") S ") == text.npos) return false;
    }
    return true;
  }

  void take(const std::string& text, std::vector<UniqueFd>& fds) {
    std::istringstream lines(text);
    std::string name;
    bool keep = false, drop = false;
    for (std::string line; std::getline(lines, line);) {
      if (line.compare(0, 7, "FDNAME=") == 0) name = line.substr(7);
      keep |= line == "FDSTORE=1";
      drop |= line == "FDSTOREREMOVE=1";
      ready_ |= line == "READY=1";
    }
    for (UniqueFd& fd : fds)
      if (keep && !has_file(name, fd.get())) store.emplace_back(name, std::move(fd));
    fds.clear();
    if (drop) std::erase_if(store, [&](const auto& entry) { return entry.first == name; });
  }
  bool has_file(const std::string& name, int file) const {
    for (const auto& [n, fd] : store)
      if (n == name && ::syscall(SYS_kcmp, ::getpid(), ::getpid(), KCMP_FILE, fd.get(), file) == 0) return true;
    return false;
  }

  const std::string program_;
  const std::vector<std::string> arguments_;
  const int counter_;
  pid_t pid_ = -1;
  UniqueFd wire_, log_, process_;
  std::map<int, UniqueFd> epolls_;
  bool ready_ = false;
};

}  // namespace ringbuf::test
