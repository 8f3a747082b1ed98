// SPDX-License-Identifier: MIT
// The scenarios of the kernel's own ring buffer selftests, step by step, on our ring.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "support/fd_leak_guard.hpp"
#include "support/test_ring.hpp"

namespace ringbuf::shm {
namespace {

using test::TestRing;

struct Sample {
  int pid;
  int seq;
  long value;
  char comm[16];
};
static_assert(sizeof(Sample) == 32);

class Selftest : public ::testing::Test {
 protected:
  // What the BPF program does for each event: even ones are submitted, odd ones are output and the original is discarded.
  void event(long value, std::uint64_t flags) {
    auto* s = static_cast<Sample*>(producer_.reserve(sizeof(Sample), 0));
    if (!s) {
      ++dropped_;
      return;
    }
    *s = Sample{1, seq_++, value, "selftest"};
    ++total_;
    if (s->seq % 2 == 0) {
      producer_.submit(s, flags);
    } else {
      EXPECT_EQ(producer_.output(s, sizeof *s, flags), 0);
      producer_.discard(s, flags);
      ++discarded_;
    }
    avail_ = producer_.query(RINGBUF_AVAIL_DATA);
    ring_size_ = producer_.query(RINGBUF_RING_SIZE);
    cons_ = producer_.query(RINGBUF_CONS_POS);
    prod_ = producer_.query(RINGBUF_PROD_POS);
  }
  void trigger(std::uint64_t flags = 0) {
    dropped_ = total_ = discarded_ = seq_ = 0;
    event(333, flags);
    event(777, flags);
  }
  std::int64_t consume() {
    return consumer_.consume(
        [&](void* data, std::size_t size) -> int {
          ++samples_;
          EXPECT_EQ(size, sizeof(Sample));
          const auto& s = *static_cast<Sample*>(data);
          if (s.seq == 0) {
            EXPECT_EQ(s.value, 333);
            return 0;
          }
          if (s.seq == 1) {
            EXPECT_EQ(s.value, 777);
            return -7777;
          }
          return 0;
        },
        INT32_MAX);
  }

  test::FdLeakGuard leaks_;
  TestRing ring_{static_cast<std::uint32_t>(page_size())};
  Producer producer_ = ring_.producer();
  Consumer consumer_ = ring_.consumer();
  int seq_ = 0, samples_ = 0;
  int dropped_ = 0, total_ = 0, discarded_ = 0;
  std::uint64_t avail_ = 0, ring_size_ = 0, cons_ = 0, prod_ = 0;
};

TEST_F(Selftest, RingbufStepByStep) {
  trigger();
  EXPECT_EQ(avail_, 120u);
  EXPECT_EQ(ring_size_, page_size());
  EXPECT_EQ(cons_, 0u);
  EXPECT_EQ(prod_, 120u);
  EXPECT_EQ(consume(), -7777) << "the odd sample's output comes after the discarded original";
  EXPECT_EQ(samples_, 2);
  EXPECT_EQ(dropped_, 0);
  EXPECT_EQ(total_, 2);
  EXPECT_EQ(discarded_, 1);
  samples_ = 0;
  EXPECT_EQ(consume(), 0);
  EXPECT_EQ(samples_, 0);

  trigger();
  EXPECT_EQ(cons_, 120u);
  EXPECT_EQ(consume(), -7777);
  EXPECT_EQ(samples_, 2);

  // A consumer sleeps: NO_WAKEUP leaves it asleep, then it is behind, so that flags 0 does too, and FORCE_WAKEUP wakes it.
  ring_.ring().add_waiting();
  samples_ = 0;
  trigger(RINGBUF_NO_WAKEUP);
  EXPECT_EQ(ring_.take_signals(), 0u);
  EXPECT_EQ(dropped_, 0);
  EXPECT_EQ(total_, 2);
  EXPECT_EQ(discarded_, 1);
  trigger(0);
  EXPECT_EQ(ring_.take_signals(), 0u);
  dropped_ = total_ = discarded_ = seq_ = 0;
  event(333, 0);
  EXPECT_EQ(ring_.take_signals(), 0u);
  event(777, RINGBUF_FORCE_WAKEUP);
  EXPECT_GT(ring_.take_signals(), 0u);
  EXPECT_EQ(samples_, 0);
  ring_.ring().sub_waiting();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(consume(), -7777);
  EXPECT_EQ(consume(), 0);
  EXPECT_EQ(samples_, 6);
  EXPECT_EQ(dropped_, 0);
  EXPECT_EQ(total_, 2);
  EXPECT_EQ(discarded_, 1);
}

TEST_F(Selftest, RingbufNConsumesFourAtATime) {
  for (int i = 0; i < 32; ++i) {
    const Sample s{1, i, 42, ""};
    ASSERT_EQ(producer_.output(&s, sizeof s, 0), 0);
  }
  for (int i = 0; i < 8; ++i)
    EXPECT_EQ(consumer_.consume(
                  [](void* d, std::size_t) {
                    EXPECT_EQ(static_cast<Sample*>(d)->value, 42);
                    return 0;
                  },
                  4),
              4);
  EXPECT_EQ(consumer_.consume([](void*, std::size_t) { return 0; }, 4), 0);
}

// What a process may do with its mapping: the descriptors that it gets decide, as the kernel's map_mmap does.
TEST_F(Selftest, MappingsGiveTheRightsOfTheKernelsMappings) {
  const auto c_ro = reopen_read_only(ring_.memory().c.get());
  const auto p_ro = reopen_read_only(ring_.memory().p.get());
  ASSERT_TRUE(c_ro && p_ro);
  const auto pg = page_size();
  void* page = ::mmap(nullptr, pg, PROT_READ | PROT_WRITE, MAP_SHARED, ring_.memory().c.get(), 0);
  ASSERT_NE(page, MAP_FAILED) << "the consumer page is the consumer's to write";
  EXPECT_EQ(::munmap(page, pg), 0);
  for (const int fd : {c_ro->get(), p_ro->get()}) {
    EXPECT_EQ(::mmap(nullptr, pg, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
    EXPECT_EQ(errno, EACCES);
    page = ::mmap(nullptr, pg, PROT_READ, MAP_SHARED, fd, 0);
    ASSERT_NE(page, MAP_FAILED);
    EXPECT_EQ(::mprotect(page, pg, PROT_READ | PROT_WRITE), -1);
    EXPECT_EQ(errno, EACCES);
    EXPECT_EQ(::munmap(page, pg), 0);
  }
}

}  // namespace
}  // namespace ringbuf::shm
