// SPDX-License-Identifier: MIT
// A process whose nth system call fails: the kernel stops it at each one (ptrace), the number is replaced by one that does not
// exist, and its result by an errno that the call may have. x86-64. All calls of one object come from the thread that made it.
//
// Left alone, because they cannot fail so that anybody could do something about it: exit, exit_group, munmap, madvise, mprotect,
// brk (malloc turns to mmap), futex, signals, clocks, ids, epoll_ctl DEL, writes to the standard error. close is really done, and
// then says EIO.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

namespace ringbuf::test {

// Which errno a call may have: of want, or EINTR of those that may be interrupted. 0: it is left alone.
inline int want_of(long nr, const std::uint64_t* args) {
  switch (nr) {
    case SYS_openat:
    case SYS_memfd_create:
    case SYS_socketpair:
    case SYS_socket:
    case SYS_eventfd2:
    case SYS_epoll_create1:
    case SYS_accept4:
    case SYS_timerfd_create:
    case SYS_pipe2:
    case SYS_pipe:
    case SYS_dup: return EMFILE;
    case SYS_fallocate:
    case SYS_write: return nr == SYS_write && args[0] == STDERR_FILENO ? 0 : ENOSPC;
    case SYS_epoll_ctl: return args[1] == EPOLL_CTL_DEL ? 0 : ENOSPC;
    case SYS_fcntl: return args[1] == F_DUPFD_CLOEXEC || args[1] == F_DUPFD ? EMFILE : args[1] == F_ADD_SEALS ? EBUSY : 0;
    case SYS_mmap:
    case SYS_ftruncate:
    case SYS_pwrite64:
    case SYS_getsockopt:
    case SYS_setsockopt:
    case SYS_recvmsg:
    case SYS_sendmsg:
    case SYS_recvfrom:
    case SYS_newfstatat:
    case SYS_fstat:
    case SYS_bind:
    case SYS_listen:
    case SYS_fchmod:
    case SYS_chmod:
    case SYS_unlink:
    case SYS_getdents64:
    case SYS_ioctl: return ENOMEM;
    case SYS_connect: return EAGAIN;
    case SYS_shutdown: return ENOTCONN;
    case SYS_read:
    case SYS_close: return EIO;
    case SYS_flock: return ENOLCK;
    case SYS_prlimit64: return EPERM;
    case SYS_readlink: return ENOENT;
    case SYS_get_mempolicy:
    case SYS_set_mempolicy: return ENOSYS;
    default: return 0;
  }
}
inline int interruption_of(long nr, const std::uint64_t* args) {
  switch (nr) {
    case SYS_write:
      if (args[0] == STDERR_FILENO) return 0;
      [[fallthrough]];
    case SYS_read:
    case SYS_openat:
    case SYS_recvmsg:
    case SYS_sendmsg:
    case SYS_accept4:
    case SYS_connect:
    case SYS_epoll_wait:
    case SYS_epoll_pwait:
    case SYS_fallocate:
    case SYS_flock: return EINTR;
    default: return 0;
  }
}

enum class Trouble { Want, Interruption };

class Tracer {
 public:
  // From the next call on; 0: none. Any thread.
  void fail(unsigned nth, Trouble trouble) {
    count_ = 0;
    failed_ = 0;
    trouble_ = trouble;
    nth_ = nth;
  }
  // Which call it was that failed, or -1.
  long failed() const { return static_cast<long>(failed_) - 1; }
  long stop() {
    nth_ = 0;
    return failed();
  }

  // Follows `pid`, a child that has asked to be traced and has stopped. f(number, args) is told of each call before it is made.
  // The wait status with which it ended.
  template <class F>
  int follow(pid_t pid, F&& f) {
    int status = 0;
    if (::waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status)) return status;
    ::ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
    for (long signal = 0;;) {
      if (::ptrace(PTRACE_SYSCALL, pid, 0, signal) < 0 && errno != ESRCH) return -1;
      signal = 0;
      if (::waitpid(pid, &status, 0) != pid) return -1;
      if (WIFEXITED(status) || WIFSIGNALED(status)) return status;
      if (WSTOPSIG(status) != (SIGTRAP | 0x80)) {
        if (WSTOPSIG(status) != SIGTRAP) signal = WSTOPSIG(status);
        continue;
      }
      __ptrace_syscall_info info{};
      if (::ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, &info) < 0) continue;
      if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
        f(static_cast<long>(info.entry.nr), reinterpret_cast<const std::uint64_t*>(info.entry.args));
        begin(pid, info);
      } else if (info.op == PTRACE_SYSCALL_INFO_EXIT && err_ != 0) {
        user_regs_struct regs;
        ::ptrace(PTRACE_GETREGS, pid, 0, &regs);
        regs.rax = static_cast<unsigned long long>(-static_cast<long long>(err_));
        ::ptrace(PTRACE_SETREGS, pid, 0, &regs);
        err_ = 0;
      }
    }
  }

 private:
  void begin(pid_t pid, const __ptrace_syscall_info& info) {
    const unsigned nth = nth_;
    if (nth == 0) return;
    const auto nr = static_cast<long>(info.entry.nr);
    const auto* args = reinterpret_cast<const std::uint64_t*>(info.entry.args);
    const int err = trouble_ == Trouble::Want ? want_of(nr, args) : interruption_of(nr, args);
    if (err == 0 || ++count_ != nth) return;
    err_ = err;
    failed_ = static_cast<unsigned long>(nr) + 1;
    if (nr == SYS_close) return;
    user_regs_struct regs;
    ::ptrace(PTRACE_GETREGS, pid, 0, &regs);
    regs.orig_rax = static_cast<unsigned long long>(-1);
    ::ptrace(PTRACE_SETREGS, pid, 0, &regs);
  }

  std::atomic<unsigned> nth_{0}, count_{0};
  std::atomic<unsigned long> failed_{0};
  std::atomic<Trouble> trouble_{Trouble::Want};
  int err_ = 0;  // of the call under way
};

}  // namespace ringbuf::test
