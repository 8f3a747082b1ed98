// SPDX-License-Identifier: MIT
// The real ringbufd in a directory of its own, and the other things that a test of several processes needs: programs whose output
// is caught, gates between processes, descriptors sent from one to another. Waits are reads; nothing sleeps.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "libclient/embedded.hpp"
#include "support/child_process.hpp"

namespace ringbuf::test {

// A program with its standard output (or standard error) in a pipe.
class Program {
 public:
  Program(const std::vector<std::string>& argv, int caught = STDOUT_FILENO) {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) < 0) std::abort();
    ::fcntl(fds[0], F_SETPIPE_SZ, 1 << 20);  // nobody reads while the program works
    out_ = fds[0];
    std::vector<char*> args;
    for (const auto& a : argv) args.push_back(const_cast<char*>(a.c_str()));
    args.push_back(nullptr);
    std::fflush(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::dup2(fds[1], caught);
      ::execv(args[0], args.data());
      ::_exit(127);
    }
    ::close(fds[1]);
  }
  Program(const Program&) = delete;
  ~Program() {
    if (pid_ > 0) end(SIGKILL);
    ::close(out_);
  }

  pid_t pid() const { return pid_; }
  // The next line without its newline, or "" at the end.
  std::string line() {
    std::string text;
    char c;
    while (::read(out_, &c, 1) == 1 && c != '\n') text += c;
    return text;
  }
  // All that it still says, up to its end.
  std::string rest() {
    std::string text;
    char buf[4096];
    for (ssize_t n; (n = ::read(out_, buf, sizeof buf)) > 0;) text.append(buf, static_cast<std::size_t>(n));
    return text;
  }
  // Waits for it to end by itself, or with `signal`. Its exit code, or 256 + the signal that ended it.
  int end(int signal = 0) {
    if (pid_ <= 0) return -1;
    if (signal) ::kill(pid_, signal);
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) continue;
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
  }

 private:
  pid_t pid_ = -1;
  int out_ = -1;
};

class Daemon {
 public:
  Daemon() {
    char name[] = "/tmp/ringbufd-system-XXXXXX";
    if (!::mkdtemp(name)) std::abort();
    directory_ = name;
    ::chmod(name, 0755);  // other uids come in too
    start();
  }
  Daemon(const Daemon&) = delete;
  ~Daemon() {
    if (program_) stop();
    std::filesystem::remove_all(directory_);
  }

  std::string socket() const { return directory_ + "/ringbufd.sock"; }
  void start() {
    program_ = std::make_unique<Program>(std::vector<std::string>{RINGBUFD_PATH, "--socket", socket()}, STDERR_FILENO);
    std::string line;
    do {
      line = program_->line();
      if (line.empty()) {
        std::fprintf(stderr, "ringbufd ended before it was ready\n");
        std::abort();
      }
    } while (line.find("ready") == line.npos);
  }
  void kill() {
    program_->end(SIGKILL);
    program_.reset();
  }
  void stop() {
    EXPECT_EQ(program_->end(SIGTERM), 0);
    program_.reset();
  }
  SessionPtr connect() const {
    ringbuf_session* session = nullptr;
    must(ringbuf_connect(socket().c_str(), &session), "ringbuf_connect");
    return SessionPtr(session);
  }

 private:
  std::string directory_;
  std::unique_ptr<Program> program_;
};

inline MapPtr create_map(const SessionPtr& session, const char* name, std::uint32_t max_entries = 4096, std::uint32_t mode = 0,
                         std::uint32_t ring_flags = 0) {
  ringbuf_map_create_opts opts{};
  opts.sz = sizeof opts;
  opts.mode = mode;
  opts.ring_flags = ring_flags;
  ringbuf_map* map = nullptr;
  must(ringbuf_map_create(session.get(), name, max_entries, &opts, &map), "ringbuf_map_create");
  return MapPtr(map);
}
inline ringbuf_map_info info_of(const MapPtr& map) {
  ringbuf_map_info info{};
  must(ringbuf_map_get_info(map.get(), &info, sizeof info), "ringbuf_map_get_info");
  return info;
}
inline MapPtr open_id(const SessionPtr& session, std::uint32_t id, std::uint32_t rights = 0) {
  ringbuf_map* map = nullptr;
  must(ringbuf_map_open_id(session.get(), id, rights, &map), "ringbuf_map_open_id");
  return MapPtr(map);
}

// Lets another process through. Survives fork; opens once.
class Gate {
 public:
  Gate() {
    if (::pipe2(fds_, O_CLOEXEC) < 0) std::abort();
  }
  Gate(const Gate&) = delete;
  ~Gate() {
    ::close(fds_[0]);
    ::close(fds_[1]);
  }
  void open() const { (void)!::write(fds_[1], "x", 1); }
  bool is_open() const {
    pollfd p{fds_[0], POLLIN, 0};
    return ::poll(&p, 1, 0) == 1;
  }
  void pass() const {
    char c;
    while (::read(fds_[0], &c, 1) < 0 && errno == EINTR) continue;
  }

 private:
  int fds_[2];
};

// A message with a descriptor, as sendmsg.
inline ssize_t send_with(int socket, const void* data, std::size_t size, int fd) {
  iovec io{const_cast<void*>(data), size};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)] = {};
  msghdr m{};
  m.msg_iov = &io;
  m.msg_iovlen = 1;
  m.msg_control = control;
  m.msg_controllen = sizeof control;
  cmsghdr* c = CMSG_FIRSTHDR(&m);
  c->cmsg_level = SOL_SOCKET;
  c->cmsg_type = SCM_RIGHTS;
  c->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(c), &fd, sizeof fd);
  return ::sendmsg(socket, &m, MSG_NOSIGNAL);
}

// SCM_RIGHTS, one descriptor at a time.
class FdChannel {
 public:
  FdChannel() {
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds_) < 0) std::abort();
  }
  FdChannel(const FdChannel&) = delete;
  ~FdChannel() {
    ::close(fds_[0]);
    ::close(fds_[1]);
  }
  void send(int fd) const {
    if (send_with(fds_[0], "f", 1, fd) != 1) std::abort();
  }
  int receive() const {
    char byte;
    iovec io{&byte, 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr m{};
    m.msg_iov = &io;
    m.msg_iovlen = 1;
    m.msg_control = control;
    m.msg_controllen = sizeof control;
    if (::recvmsg(fds_[1], &m, MSG_CMSG_CLOEXEC) != 1) return -1;
    const cmsghdr* c = CMSG_FIRSTHDR(&m);
    int fd = -1;
    if (c && c->cmsg_type == SCM_RIGHTS) std::memcpy(&fd, CMSG_DATA(c), sizeof fd);
    return fd;
  }

 private:
  int fds_[2];
};

// In a child there is no test to fail: it says where it went wrong and exits with 1.
#define CHILD_CHECK(condition)                                                                                        \
  do {                                                                                                                \
    if (!(condition)) {                                                                                               \
      std::fprintf(stderr, "%s:%d: %s: errno %d, %s\n", __FILE__, __LINE__, #condition, errno, ringbuf_last_error()); \
      return 1;                                                                                                       \
    }                                                                                                                 \
  } while (0)

}  // namespace ringbuf::test
