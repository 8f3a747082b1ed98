// SPDX-License-Identifier: MIT
// A stand-in for systemd: starts a service with NOTIFY_SOCKET, LISTEN_FDS and WATCHDOG_USEC, hears what it says, keeps its
// descriptors and hands them to the next one. Like systemd it listens to the main process only, and adds a descriptor that is
// stored under a name that it has. Waits are reads; nothing sleeps.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/eventually.hpp"

namespace ringbuf::test {

// Zombies too.
inline std::vector<pid_t> children_of(pid_t pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/task/" + std::to_string(pid) + "/children");
  std::vector<pid_t> all;
  for (pid_t child; in >> child;) all.push_back(child);
  return all;
}

// Where each descriptor of a process leads to.
inline std::vector<std::string> descriptors_of(pid_t pid) {
  std::vector<std::string> all;
  std::error_code gone;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fd", gone))
    all.push_back(std::filesystem::read_symlink(entry.path(), gone).string());
  return all;
}

inline std::size_t descriptors_at_rest(pid_t pid) {
  wait_until_at_rest(pid);
  return descriptors_of(pid).size();
}

class FakeServiceManager {
 public:
  FakeServiceManager() {
    char name[] = "/tmp/ringbufd-manager-XXXXXX";
    if (!::mkdtemp(name)) std::abort();
    directory_ = name;
    ::chmod(name, 0755);
    notify_ = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bind_to(notify_, path("notify"));
    const int on = 1;
    ::setsockopt(notify_, SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
    arrived_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    reader_ = std::thread([this] { read_all(); });
  }
  FakeServiceManager(const FakeServiceManager&) = delete;
  ~FakeServiceManager() {
    if (pid_ > 0) {
      const auto orphans = children_of(pid_);  // of a supervisor
      wait(SIGKILL);
      for (const pid_t orphan : orphans) ::kill(orphan, SIGKILL);
    }
    for (const auto& [name, fd] : activated_) ::close(fd);
    if (log_ >= 0) ::close(log_);
    ::shutdown(notify_, SHUT_RDWR);
    reader_.join();
    receive();
    for (const auto& [name, fd] : store_) ::close(fd);
    ::close(notify_);
    ::close(arrived_);
    std::filesystem::remove_all(directory_);
  }

  std::string path(const std::string& file) const { return directory_ + "/" + file; }
  pid_t pid() const { return pid_; }
  const std::vector<std::pair<std::string, int>>& store() {
    settle();
    return store_;
  }
  bool has(const std::string& name) {
    for (const auto& [n, fd] : store())
      if (n == name) return true;
    return false;
  }
  void put_into_store(const std::string& name, int fd) { store_.emplace_back(name, fd); }
  void set_watchdog(int milliseconds) { watchdog_ms_ = milliseconds; }

  // Socket activation: who connects now waits for the service.
  void listen_at(const std::string& socket, int type = SOCK_SEQPACKET, int pass_credentials = 1) {
    const int fd = ::socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    ::setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &pass_credentials, sizeof pass_credentials);
    bind_to(fd, socket);
    if (::listen(fd, 16) < 0) std::abort();
    activated_.emplace_back("ringbufd.socket", fd);
  }

  // Its standard error can be read with says().
  void start(const std::vector<std::string>& command) {
    int log[2];
    if (::pipe2(log, O_CLOEXEC) < 0) std::abort();
    if (log_ >= 0) ::close(log_);
    log_ = log[0];
    text_.clear();
    said_.clear();
    history_.clear();
    auto fds = activated_;
    fds.insert(fds.end(), store_.begin(), store_.end());
    std::fflush(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) run(command, fds, log[1]);
    ::close(log[1]);
  }
  void kill(int signal) const { ::kill(pid_, signal); }
  // Waits for its end, and reads its last words. The exit code, or 256 + the signal.
  int wait(int signal = 0) {
    if (signal) kill(signal);
    while (listen(-1) != Heard::End) continue;
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) continue;
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
  }

  // Hears it out until a line begins so, and returns the rest of that line; lines before it are gone. "(ended)" if it ends first.
  std::string told(const std::string& begin) {
    for (;;) {
      while (!said_.empty()) {
        const std::string line = said_.front();
        said_.pop_front();
        if (line.compare(0, begin.size(), begin) == 0) return line.substr(begin.size());
      }
      if (listen(-1) == Heard::End && said_.empty()) return "(ended)";
    }
  }
  // Has it ever said this line since it was started?
  bool was_told(const std::string& line) {
    while (listen(0) == Heard::Message) continue;
    return std::find(history_.begin(), history_.end(), line) != history_.end();
  }
  // Nothing at all for so long.
  bool silent_for(int milliseconds) {
    while (listen(0) == Heard::Message) continue;
    return listen(milliseconds) == Heard::Nothing;
  }
  // Reads its log until a line has this in it; false: whoever writes it, a supervised daemon too, has ended first.
  bool says(const std::string& what) {
    for (;;) {
      if (const auto at = text_.find(what); at != text_.npos) {
        text_.erase(0, at + what.size());
        return true;
      }
      if (log_ < 0) return false;
      listen(-1, false);
    }
  }
  // Of other processes than the main one; systemd would have ignored them.
  int strangers() const { return strangers_; }

 private:
  static void bind_to(int fd, const std::string& path) {
    sockaddr_un a{};
    a.sun_family = AF_UNIX;
    std::memcpy(a.sun_path, path.c_str(), path.size() + 1);
    if (::bind(fd, reinterpret_cast<sockaddr*>(&a), sizeof a) < 0) std::abort();
  }

  [[noreturn]] void run(const std::vector<std::string>& command, std::vector<std::pair<std::string, int>> fds, int log) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    constexpr int kHigh = 500;  // out of the way
    std::string names;
    for (auto& [name, fd] : fds) {
      fd = ::fcntl(fd, F_DUPFD_CLOEXEC, kHigh);
      names += (names.empty() ? "" : ":") + name;
    }
    ::dup2(log, STDERR_FILENO);
    for (std::size_t i = 0; i < fds.size(); ++i) ::dup2(fds[i].second, static_cast<int>(3 + i));
    ::setenv("NOTIFY_SOCKET", path("notify").c_str(), 1);
    if (!fds.empty()) {
      ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
      ::setenv("LISTEN_FDS", std::to_string(fds.size()).c_str(), 1);
      ::setenv("LISTEN_FDNAMES", names.c_str(), 1);
    }
    if (watchdog_ms_ > 0) {
      ::setenv("WATCHDOG_PID", std::to_string(::getpid()).c_str(), 1);
      ::setenv("WATCHDOG_USEC", std::to_string(watchdog_ms_ * 1000).c_str(), 1);
    }
    std::vector<char*> argv;
    for (const auto& arg : command) argv.push_back(const_cast<char*>(arg.c_str()));
    argv.push_back(nullptr);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }

  static constexpr char kMark[] = {'\0'};
  enum class Heard { Message, Log, End, Nothing };

  // Takes the datagrams that are there, or else a piece of the log: whoever waits for one of them reads both, so that the service
  // never has to wait for us. End: the main process has ended, and there is no message of it any more; unless that does not
  // matter.
  Heard listen(int timeout_ms, bool ends = true) {
    const int pidfd = ends && pid_ > 0 ? static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)) : -1;
    pollfd fds[] = {{arrived_, POLLIN, 0}, {log_, POLLIN, 0}, {pidfd, POLLIN, 0}};
    Heard heard = Heard::Nothing;
    do {
      ::poll(fds, 3, timeout_ms);
      if (fds[0].revents) heard = Heard::Message;
      else if (fds[2].revents || (ends && pid_ <= 0)) heard = Heard::End;
      if (fds[1].revents) {
        char buffer[4096];
        const ssize_t n = ::read(log_, buffer, sizeof buffer);
        if (n > 0) {
          text_.append(buffer, static_cast<std::size_t>(n));
        } else {
          ::close(log_);
          log_ = fds[1].fd = -1;
        }
        if (heard == Heard::Nothing && !ends) heard = Heard::Log;
      }
    } while (timeout_ms < 0 && heard == Heard::Nothing);
    if (pidfd >= 0) ::close(pidfd);
    if (heard == Heard::End && settle()) heard = Heard::Message;  // its last words
    if (heard == Heard::Message) receive();
    return heard;
  }
  // Takes all that was sent before now. True: there was something.
  bool settle() {
    const std::size_t before = history_.size();
    const int fd = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    sockaddr_un a{};
    a.sun_family = AF_UNIX;
    const std::string to = path("notify");
    std::memcpy(a.sun_path, to.c_str(), to.size() + 1);
    const bool sent = ::sendto(fd, kMark, sizeof kMark, 0, reinterpret_cast<sockaddr*>(&a), sizeof a) == sizeof kMark;
    ::close(fd);
    if (!sent) std::abort();
    for (++marks_; marks_ != 0; receive()) {
      pollfd arrived{arrived_, POLLIN, 0};
      ::poll(&arrived, 1, -1);
    }
    return history_.size() != before;
  }
  struct Datagram {
    std::string text;
    std::vector<int> fds;
    pid_t sender = 0;
  };
  // What has arrived, read by a thread, as a service manager that is never busy would: a daemon's answers wait for it.
  void receive() {
    std::uint64_t count;
    (void)!::read(arrived_, &count, sizeof count);
    std::deque<Datagram> all;
    {
      std::lock_guard lock(mutex_);
      all.swap(datagrams_);
    }
    for (const Datagram& d : all) {
      if (d.sender == ::getpid() && d.text[0] == kMark[0]) --marks_;
      else take(d.text, d.fds, d.sender);
    }
  }
  void read_all() {
    for (Datagram d; read_one(d); d = {}) {
      std::lock_guard lock(mutex_);
      datagrams_.push_back(std::move(d));
      const std::uint64_t one = 1;
      (void)!::write(arrived_, &one, sizeof one);
    }
  }
  bool read_one(Datagram& d) const {
    char text[4096];
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred)) + CMSG_SPACE(8 * sizeof(int))];
    iovec iov{text, sizeof text};
    msghdr m{};
    m.msg_iov = &iov;
    m.msg_iovlen = 1;
    m.msg_control = control;
    m.msg_controllen = sizeof control;
    ssize_t size;
    while ((size = ::recvmsg(notify_, &m, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR) continue;
    if (size <= 0) return false;  // shut down
    d.text.assign(text, static_cast<std::size_t>(size));
    for (cmsghdr* c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
      if (c->cmsg_type == SCM_CREDENTIALS) {
        ucred sender;
        std::memcpy(&sender, CMSG_DATA(c), sizeof sender);
        d.sender = sender.pid;
      }
      if (c->cmsg_type != SCM_RIGHTS) continue;
      d.fds.resize((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
      std::memcpy(d.fds.data(), CMSG_DATA(c), d.fds.size() * sizeof(int));
    }
    return true;
  }
  void take(const std::string& text, const std::vector<int>& received, pid_t sender) {
    std::istringstream lines(text);
    std::string name;
    bool keep = false, drop = false;
    if (sender != pid_) ++strangers_;
    for (std::string line; std::getline(lines, line);) {
      if (line.compare(0, 7, "FDNAME=") == 0) name = line.substr(7);
      keep |= line == "FDSTORE=1";
      drop |= line == "FDSTOREREMOVE=1";
      said_.push_back(line);
      history_.push_back(line);
    }
    for (const int fd : received) {
      if (keep && sender == pid_) store_.emplace_back(name, fd);
      else ::close(fd);
    }
    if (!drop) return;
    std::erase_if(store_, [&](const auto& entry) {
      if (entry.first != name) return false;
      ::close(entry.second);
      return true;
    });
  }

  std::string directory_;
  int notify_ = -1, log_ = -1, arrived_ = -1;
  std::thread reader_;
  std::mutex mutex_;
  std::deque<Datagram> datagrams_;  // guarded by mutex_
  pid_t pid_ = -1;
  int watchdog_ms_ = 0, strangers_ = 0, marks_ = 0;
  std::vector<std::pair<std::string, int>> activated_, store_;
  std::deque<std::string> said_;  // and not passed by told()
  std::vector<std::string> history_;
  std::string text_;
};

}  // namespace ringbuf::test
