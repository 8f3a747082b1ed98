// SPDX-License-Identifier: MIT
// Every test of the suite runs once on each back end: Suite.Test/Ours and Suite.Test/Kernel.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>

#include "backend.hpp"
#include "difference.hpp"

namespace conformance {

class Conformance : public testing::TestWithParam<Backend*> {
 protected:
  void SetUp() override {
    if (::sysconf(_SC_PAGESIZE) != 4096) GTEST_SKIP() << "the figures are those of pages of 4096 bytes";
    if (const std::string why = GetParam()->unavailable(); !why.empty()) GTEST_SKIP() << why;
  }
  bool on_kernel() const { return std::string("Kernel") == GetParam()->name(); }

  std::unique_ptr<Ring> make(const Spec& spec = {}) {
    std::unique_ptr<Ring> ring;
    const int r = GetParam()->create(spec, &ring);
    if (r < 0) {
      ADD_FAILURE() << "create: " << std::strerror(-r);
      std::abort();
    }
    return ring;
  }
  std::unique_ptr<Ring> make_user(std::uint32_t max_entries = 4096) {
    Spec spec;
    spec.type = kUserRingbuf;
    spec.max_entries = max_entries;
    return make(spec);
  }
  // Overwrite mode came with Linux 6.19.
  std::unique_ptr<Ring> make_overwrite(std::uint32_t max_entries = 4096) {
    Spec spec;
    spec.flags = kOverwrite;
    spec.max_entries = max_entries;
    std::unique_ptr<Ring> ring;
    if (GetParam()->create(spec, &ring) < 0 && !on_kernel()) ADD_FAILURE() << "create";
    return ring;
  }
};

// What a consumer was given, as one value to compare with.
struct Gather {
  std::vector<Bytes> records;
  int result = 0;
  OnSample fn = [this](const Bytes& bytes) {
    records.push_back(bytes);
    return result;
  };
  operator const OnSample&() const { return fn; }
};

// A call in a thread of its own, to be seen asleep in the kernel.
class Blocked {
 public:
  template <class F>
  explicit Blocked(F f)
      : thread_([this, f] {
          tid_ = static_cast<int>(::syscall(SYS_gettid));
          result_ = f();
          done_ = true;
        }) {}
  ~Blocked() {
    if (thread_.joinable()) thread_.join();
  }
  bool done() const { return done_; }
  // In epoll_wait or on a futex. A thread that was woken is so no longer, even before it has run.
  bool asleep() const {
    if (tid_ == 0 || done_) return false;
    const std::string task = "/proc/self/task/" + std::to_string(tid_);
    std::string stat;
    std::getline(std::ifstream(task + "/stat"), stat);
    const auto at = stat.rfind(") ");
    if (at == stat.npos || stat[at + 2] != 'S') return false;
    long call = -1;
    std::ifstream(task + "/syscall") >> call;
    return call == SYS_epoll_pwait || call == SYS_futex
#ifdef SYS_epoll_wait
           || call == SYS_epoll_wait
#endif
        ;
  }
  void wait_asleep() const {
    while (!asleep()) std::this_thread::yield();
  }
  // By a signal whose handler does nothing.
  void interrupt() {
    struct sigaction nothing {};
    nothing.sa_handler = [](int) {};
    ::sigaction(SIGUSR1, &nothing, nullptr);
    ::pthread_kill(thread_.native_handle(), SIGUSR1);
  }
  int join() {
    thread_.join();
    return result_;
  }

 private:
  std::atomic<int> tid_{0};
  std::atomic<bool> done_{false};
  int result_ = 0;
  std::thread thread_;
};

#define CONFORMANCE(Suite)                                   \
  INSTANTIATE_TEST_SUITE_P(                                  \
      , Suite, testing::ValuesIn(::conformance::backends()), \
      [](const testing::TestParamInfo<::conformance::Backend*>& i) { return std::string(i.param->name()); })

}  // namespace conformance
