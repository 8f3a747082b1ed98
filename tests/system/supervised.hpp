// SPDX-License-Identifier: MIT
// A ringbufd --supervise whose daemon can be killed.
#pragma once

#include <dirent.h>

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "daemon_process.hpp"
#include "support/fake_service_manager.hpp"

namespace ringbuf::test {

class Supervised {
 public:
  explicit Supervised(const char* log_level = "warn") {
    char name[] = "/tmp/ringbufd-supervised-XXXXXX";
    if (!::mkdtemp(name)) std::abort();
    directory_ = name;
    ::chmod(name, 0755);
    program_ = std::make_unique<Program>(
        std::vector<std::string>{RINGBUFD_PATH, "--supervise", "--log-level", log_level, "--socket", socket()}, -1);
    eventually([&] {
      ringbuf_session* session = nullptr;
      const bool up = ringbuf_connect(socket().c_str(), &session) == 0;
      ringbuf_session_free(session);
      return up;
    });
  }
  Supervised(const Supervised&) = delete;
  ~Supervised() {
    EXPECT_EQ(program_->end(SIGTERM), 0);
    std::filesystem::remove_all(directory_);
  }

  std::string socket() const { return directory_ + "/s"; }
  SessionPtr connect() const {
    ringbuf_session* session = nullptr;
    must(ringbuf_connect(socket().c_str(), &session), "ringbuf_connect");
    return SessionPtr(session);
  }
  // The daemon that serves now: what is asked after this is answered by the next one.
  void kill() const {
    const pid_t pid = daemon();
    ::kill(pid, SIGKILL);
    eventually([&] { return !is_child(pid); });
  }
  // f() right after the daemon was killed, whatever the next one does meanwhile. Before the next use a client must have been
  // served.
  template <class F>
  void kill_and(F&& f) const {
    ::kill(daemon(), SIGKILL);
    f();
  }
  // f() while the daemon is stopped.
  template <class F>
  void while_stopped(F&& f) const {
    const pid_t pid = daemon();
    ::kill(pid, SIGSTOP);
    eventually([&] { return state_of(pid) == 'T'; });
    f();
    ::kill(pid, SIGCONT);
  }
  // f() while there is no daemon.
  template <class F>
  void while_down(F&& f) const {
    const pid_t pid = daemon();
    ::kill(program_->pid(), SIGSTOP);
    ::kill(pid, SIGKILL);
    eventually([&] { return state_of(pid) == 'Z'; });
    f();
    ::kill(program_->pid(), SIGCONT);
    eventually([&] { return !is_child(pid); });
  }
  std::size_t descriptors() const { return descriptors_at_rest(daemon()); }
  // What the supervisor keeps for the next daemon.
  std::size_t descriptors_kept() const { return descriptors_at_rest(program_->pid()); }

 private:
  bool is_child(pid_t pid) const {
    const auto all = children_of(program_->pid());
    return std::find(all.begin(), all.end(), pid) != all.end();
  }
  pid_t daemon() const {
    std::vector<pid_t> all;
    eventually([&] {
      all = children_of(program_->pid());
      return all.size() == 1 && state_of(all[0]) != 'Z';
    });
    return all[0];
  }

  std::string directory_;
  std::unique_ptr<Program> program_;
};

}  // namespace ringbuf::test
