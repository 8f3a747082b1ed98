// SPDX-License-Identifier: MIT
// What a record costs in system calls: nothing beside a polling consumer, one eventfd write for each sleep of a sleeping one. The
// producer is a child under ptrace, its calls are counted between two calls that nobody else makes.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include <atomic>
#include <map>
#include <new>
#include <thread>

#include "support/child_process.hpp"
#include "support/fd_leak_guard.hpp"
#include "support/test_ring.hpp"

namespace ringbuf::test {
namespace {

using shm::Consumer;
using shm::Producer;

constexpr long kMark = SYS_getpgid;
constexpr int kMarkArgument = 0x7ab5c3;
void mark() { ::syscall(kMark, kMarkArgument); }

struct Counts {
  bool traced = false;
  int exit_code = -1;
  std::map<std::uint64_t, std::uint64_t> calls;  // between the marks, by number
};

// To be called by the thread that forked `child`, which has called trace_me.
Counts count_calls(ChildProcess& child) {
  Counts c;
  int status = 0;
  bool between = false;
  if (::waitpid(child.pid(), &status, 0) < 0 || !WIFSTOPPED(status)) return c;
  c.traced = true;
  ::ptrace(PTRACE_SETOPTIONS, child.pid(), nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
  int signal = 0;
  for (;;) {
    ::ptrace(PTRACE_SYSCALL, child.pid(), nullptr, signal);
    if (::waitpid(child.pid(), &status, 0) < 0) return c;
    if (!WIFSTOPPED(status)) break;
    signal = 0;
    if (WSTOPSIG(status) != (SIGTRAP | 0x80)) {
      signal = WSTOPSIG(status);
      continue;
    }
    __ptrace_syscall_info info{};
    ::ptrace(PTRACE_GET_SYSCALL_INFO, child.pid(), sizeof info, &info);
    if (info.op != PTRACE_SYSCALL_INFO_ENTRY) continue;
    if (info.entry.nr == static_cast<std::uint64_t>(kMark) && info.entry.args[0] == kMarkArgument) between = !between;
    else if (between) ++c.calls[info.entry.nr];
  }
  c.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return c;
}

bool trace_me() { return ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0 && ::raise(SIGSTOP) == 0; }

struct Shared {
  std::atomic<unsigned> sleeps{0}, bursts{0};
  std::atomic<bool> done{false};
};

class Syscalls : public ::testing::Test {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "ThreadSanitizer makes system calls of its own";
#endif
    void* page = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(page, MAP_FAILED);
    shared_ = new (page) Shared;
  }
  void TearDown() override {
    if (shared_) ::munmap(shared_, sizeof(Shared));
  }

  FdLeakGuard leaks_;
  TestRing ring_{65536, 1};
  Shared* shared_ = nullptr;
};

TEST_F(Syscalls, AProducerBesideAPollingConsumerMakesNone) {
  constexpr unsigned kRecords = 100'000;
  ChildProcess child([&] {
    if (!trace_me()) return 77;
    const Mapping own = ring_.map(Mapping::Access::ReadOnly, Mapping::Access::ReadWrite);
    const Producer producer(ring_.producer_view(own, 1));
    // The first reservation of a thread asks for its id, once.
    producer.discard(producer.reserve(0, 0), 0);
    mark();
    for (unsigned i = 0; i < kRecords; ++i) {
      void* p;
      while (!(p = producer.reserve(sizeof i, 0, &test::uncounted))) shm::cpu_relax();
      std::memcpy(p, &i, sizeof i);
      if (i % 16 == 0) producer.discard(p, 0);
      else producer.submit(p, 0);
      while (producer.output(&i, sizeof i, 0) != 0) shm::cpu_relax();
    }
    mark();
    return 0;
  });
  std::uint64_t records = 0;
  const Consumer consumer = ring_.consumer();
  std::thread polling([&] {
    const auto take = [&](void*, std::size_t) {
      ++records;
      return 0;
    };
    while (!shared_->done) consumer.consume(take, INT32_MAX);
    consumer.consume(take, INT32_MAX);
  });
  const Counts c = count_calls(child);
  shared_->done = true;
  polling.join();
  if (!c.traced || c.exit_code == 77) GTEST_SKIP() << "ptrace is not permitted";
  EXPECT_EQ(c.exit_code, 0);
  EXPECT_EQ(records, 2 * kRecords - kRecords / 16);
  for (const auto& [number, n] : c.calls) ADD_FAILURE() << n << " calls of number " << number;
  EXPECT_EQ(ring_.take_signals(), 0u);
}

TEST_F(Syscalls, ASleepingConsumerCostsOneEventfdWriteASleep) {
  constexpr unsigned kSleeps = 500, kBurst = 5;
  ChildProcess child([&] {
    if (!trace_me()) return 77;
    const Mapping own = ring_.map(Mapping::Access::ReadOnly, Mapping::Access::ReadWrite);
    const Producer producer(ring_.producer_view(own, 1));
    producer.discard(producer.reserve(0, 0), 0);
    mark();
    for (unsigned i = 1; i <= kSleeps; ++i) {
      while (shared_->sleeps != i) shm::cpu_relax();
      for (unsigned n = 0; n < kBurst; ++n) producer.output(&i, sizeof i, 0);
      shared_->bursts = i;
    }
    mark();
    return 0;
  });
  std::uint64_t records = 0;
  const Consumer consumer = ring_.consumer();
  std::thread sleeping([&] {
    const shm::Ring& ring = consumer.ring();
    while (ring.producer_pos() == 0 && !shared_->done) std::this_thread::yield();  // the record before the first mark
    for (unsigned i = 1; i <= kSleeps && !shared_->done; ++i) {
      while (consumer.consume(
                 [&](void*, std::size_t) {
                   ++records;
                   return 0;
                 },
                 INT32_MAX) != 0 ||
             consumer.must_not_sleep()) {}
      ring.add_waiting();
      ASSERT_FALSE(consumer.must_not_sleep()) << "the producer waits for this sleep";
      shared_->sleeps = i;
      epoll_event e;
      while (::epoll_wait(ring_.wait_fd(), &e, 1, 100) == 0 && !shared_->done) {}
      ring.sub_waiting();
      // Only now does the producer's burst end: its later records meet a consumer that has not caught up.
      while (shared_->bursts != i && !shared_->done) std::this_thread::yield();
    }
    consumer.consume(
        [&](void*, std::size_t) {
          ++records;
          return 0;
        },
        INT32_MAX);
  });
  const Counts c = count_calls(child);
  shared_->done = true;
  sleeping.join();
  if (!c.traced || c.exit_code == 77) GTEST_SKIP() << "ptrace is not permitted";
  EXPECT_EQ(c.exit_code, 0);
  EXPECT_EQ(records, kSleeps * kBurst);
  for (const auto& [number, n] : c.calls) {
    EXPECT_EQ(number, static_cast<std::uint64_t>(SYS_write)) << n << " times";
    EXPECT_EQ(n, kSleeps);
  }
  EXPECT_EQ(c.calls.size(), 1u);
  EXPECT_EQ(ring_.take_signals(), kSleeps);
}

}  // namespace
}  // namespace ringbuf::test
