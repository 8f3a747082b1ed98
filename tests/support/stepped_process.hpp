// SPDX-License-Identifier: MIT
// A function in a process of its own that runs one machine instruction at a time, and can be killed, left standing or let go
// after any of them.
#pragma once

#include <elf.h>
#include <sched.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <string>
#include <utility>
#include <vector>

namespace ringbuf::test {

// One object that parent and children share.
template <class T>
class Shared {
 public:
  Shared() : at_(::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) {
    if (at_ == MAP_FAILED) std::abort();
    new (at_) T();
  }
  Shared(const Shared&) = delete;
  ~Shared() { ::munmap(at_, sizeof(T)); }
  volatile T& operator*() const { return *static_cast<volatile T*>(at_); }
  volatile T* operator->() const { return static_cast<volatile T*>(at_); }

 private:
  void* at_;
};

// Where a walk has been: the address of each instruction, in order.
using Trace = std::vector<std::uint64_t>;

// Parent and child take turns: on one CPU that costs a fifth of the time.
inline void stay_on_this_cpu() {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(static_cast<unsigned>(::sched_getcpu()), &cpus);
  ::sched_setaffinity(0, sizeof cpus, &cpus);
}

class SteppedProcess {
 public:
  enum class State {
    Stopped,  // before an instruction
    Asleep,   // in a system call that blocks
    Ended,    // fn has returned; the process is stopped still
  };

  // prepare() runs at full speed, fn() in steps. A step may meet Asleep only if `sleeps`.
  template <class Prepare, class F>
  SteppedProcess(Prepare&& prepare, F&& fn, bool sleeps = false) : sleeps_(sleeps) {
    const pid_t parent = ::getpid();
    sigset_t child;  // it is waited for, with a time limit
    ::sigemptyset(&child);
    ::sigaddset(&child, SIGCHLD);
    ::sigprocmask(SIG_BLOCK, &child, nullptr);
    pid_ = ::fork();
    if (pid_ < 0) fail("fork");
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      const pid_t now = ::getppid();  // 0: of another pid namespace
      if ((now != parent && now != 0) || ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) < 0) ::_exit(125);
      prepare();
      // By a bare system call, so that the first step is the first instruction behind it. To this thread: another one that
      // prepare() has begun is not traced and would stop them all.
      ::syscall(SYS_tgkill, ::getpid(), ::getpid(), SIGSTOP);
      fn();
      *ended_ = true;
      for (;;) ::pause();
    }
    wait();
    if (!WIFSTOPPED(status_) || WSTOPSIG(status_) != SIGSTOP) fail("a child stops itself");
  }
  SteppedProcess(const SteppedProcess&) = delete;
  ~SteppedProcess() { kill(); }

  pid_t pid() const { return pid_; }

  // One instruction more. A sleeper stays where it is; call it again when it may have been woken.
  State step() {
    if (!asleep_ && ::ptrace(PTRACE_SINGLESTEP, pid_, nullptr, nullptr) < 0) fail("PTRACE_SINGLESTEP");
    asleep_ = !wait_awake();
    if (asleep_) return State::Asleep;
    if (!WIFSTOPPED(status_) || WSTOPSIG(status_) != SIGTRAP) fail("a step ends with SIGTRAP");
    return *ended_ ? State::Ended : State::Stopped;
  }
  // Waits for a sleeper that somebody has woken.
  State wake() {
    wait();
    asleep_ = false;
    return *ended_ ? State::Ended : State::Stopped;
  }

  // Where it stands.
  std::uint64_t address() const { return registers().*kInstruction; }

  // From before the instruction trace[from], where it stands, to before trace[to], by a breakpoint where the machine's are known.
  // False if it ends or sleeps before, or takes another way: the trace is that of an earlier walk.
  bool run_to(const Trace& trace, std::size_t from, std::size_t to) {
#if defined(__x86_64__)
    if (from == to) return true;
    const std::uint64_t goal = trace[to];
    auto passes =
        std::count(trace.begin() + static_cast<std::ptrdiff_t>(from) + 1, trace.begin() + static_cast<std::ptrdiff_t>(to), goal);
    for (;; --passes) {
      // Off the goal first: what stands on a breakpoint does not move.
      if (single_step() == State::Ended) return false;
      if (address() != goal) {
        constexpr long kInt3 = 0xcc;
        const long code = peek(goal);
        poke(goal, (code & ~0xffl) | kInt3);
        if (::ptrace(PTRACE_CONT, pid_, nullptr, nullptr) < 0) fail("PTRACE_CONT");
        if (!wait_awake()) return false;
        if (!WIFSTOPPED(status_) || WSTOPSIG(status_) != SIGTRAP) return false;
        poke(goal, code);
        user_regs_struct r = registers();
        if (--(r.*kInstruction) != goal) return false;
        if (::ptrace(PTRACE_SETREGS, pid_, nullptr, &r) < 0) fail("PTRACE_SETREGS");
      }
      if (passes == 0) return true;
    }
#else
    for (; from != to; ++from)
      if (single_step() == State::Ended) return false;
    return true;
#endif
  }

  // Where the kernel's own code is in every process: what its clock does depends on the time.
  static bool in_vdso(std::uint64_t address) { return address - ::getauxval(AT_SYSINFO_EHDR) < 0x4000; }

  // At full speed from now on, with this signal; the rest of its life is not traced. A sleeper needs one to be let go.
  void let_go(int signal = 0) {
    if (asleep_) {
      ::kill(pid_, signal);
      wait();
      asleep_ = false;
    }
    if (::ptrace(PTRACE_DETACH, pid_, nullptr, static_cast<long>(signal)) < 0) fail("PTRACE_DETACH");
  }
  bool ended() const { return *ended_; }

  void kill() {
    if (dead_) return;
    ::kill(pid_, SIGKILL);
    while (!WIFSIGNALED(status_) && !WIFEXITED(status_)) wait();
    dead_ = true;
  }
  // Until it has died by itself; the wait status.
  int wait_dead() {
    while (!WIFSIGNALED(status_) && !WIFEXITED(status_)) wait();
    dead_ = true;
    return status_;
  }

 private:
  [[noreturn]] static void fail(const char* what) {
    std::perror(what);
    std::abort();
  }
  void wait() {
    while (::waitpid(pid_, &status_, __WALL) != pid_)
      if (errno != EINTR) fail("waitpid");
  }
  // Until it stops again; false if it sleeps.
  bool wait_awake() {
    if (!sleeps_) return wait(), true;
    sigset_t child;
    ::sigemptyset(&child);
    ::sigaddset(&child, SIGCHLD);
    const timespec slice{0, 1'000'000};
    while (!poll())
      if (::sigtimedwait(&child, nullptr, &slice) < 0 && errno == EAGAIN && blocked()) return poll();
    return true;
  }
  State single_step() {
    if (::ptrace(PTRACE_SINGLESTEP, pid_, nullptr, nullptr) < 0) fail("PTRACE_SINGLESTEP");
    wait();
    return *ended_ ? State::Ended : State::Stopped;
  }
#if defined(__x86_64__)
  using Registers = user_regs_struct;
  static constexpr auto kInstruction = &Registers::rip;
#else
  using Registers = user_regs_struct;
  static constexpr auto kInstruction = &Registers::pc;
#endif
  Registers registers() const {
    Registers r{};
    iovec to{&r, sizeof r};
    if (::ptrace(PTRACE_GETREGSET, pid_, NT_PRSTATUS, &to) < 0) fail("PTRACE_GETREGSET");
    return r;
  }
  long peek(std::uint64_t at) const {
    errno = 0;
    const long word = ::ptrace(PTRACE_PEEKTEXT, pid_, at, nullptr);
    if (errno != 0) fail("PTRACE_PEEKTEXT");
    return word;
  }
  void poke(std::uint64_t at, long word) const {
    if (::ptrace(PTRACE_POKETEXT, pid_, at, word) < 0) fail("PTRACE_POKETEXT");
  }
  bool poll() { return ::waitpid(pid_, &status_, __WALL | WNOHANG) == pid_; }
  bool blocked() const {
    std::FILE* f = std::fopen(("/proc/" + std::to_string(pid_) + "/stat").c_str(), "re");
    if (!f) return false;
    char state = 0;
    const bool known = std::fscanf(f, "%*d (%*[^)]) %c", &state) == 1;
    std::fclose(f);
    return known && state == 'S';
  }

  const bool sleeps_;
  Shared<bool> ended_;
  pid_t pid_ = -1;
  bool asleep_ = false, dead_ = false;
  int status_ = 0;
};

}  // namespace ringbuf::test
