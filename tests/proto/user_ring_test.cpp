// SPDX-License-Identifier: MIT
// USER_RINGBUF: libbpf's user_ring_buffer on one side, the kernel's drain on the other, with every check in its order.
#include <gtest/gtest.h>
#include <pthread.h>

#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "shm/room.hpp"
#include "support/fd_leak_guard.hpp"
#include "support/test_ring.hpp"

namespace ringbuf::shm {
namespace {

using test::TestRing;

class UserRingTest : public ::testing::Test {
 protected:
  explicit UserRingTest(std::uint32_t size = 4096) : ring_(size, 1, 0, kTypeUserRingbuf) {}

  void* reserve(std::uint64_t size) const { return producer_.reserve(size, 0); }
  void put(std::uint64_t size) const {
    void* p = reserve(size);
    ASSERT_NE(p, nullptr);
    producer_.submit(p, 0);
  }
  std::int64_t drain(std::uint64_t flags = 0, std::int64_t stop_after = -1) {
    sizes_.clear();
    return consumer_.drain(
        [&](void*, std::size_t n) {
          sizes_.push_back(n);
          return static_cast<std::int64_t>(sizes_.size()) == stop_after;
        },
        flags);
  }
  // A header that a hostile or broken producer has written, and how far it says that it has come.
  void forge(std::uint32_t len, std::uint64_t advertised) {
    const std::uint64_t pos = ring_.ring().consumer_pos();
    ring_.header(pos).len = len;
    ring_.producer_page().producer_pos = pos + advertised;
  }
  // As a producer that sleeps for room is seen by the drain: was it told?
  struct Sleeper {
    explicit Sleeper(UserRingTest& t, std::uint64_t need = 8) : test(t), seq(t.ring_.ring().room_seq()) {
      test.ring_.ring().add_room_waiter();
      test.ring_.ring().set_need(1, need | std::uint64_t{++test.turn_} << 32);
    }
    ~Sleeper() {
      test.ring_.ring().set_need(1, 0);
      test.ring_.ring().sub_room_waiter();
    }
    bool told() const { return test.ring_.ring().room_seq() != seq; }
    UserRingTest& test;
    const std::uint32_t seq;
  };

  test::FdLeakGuard leaks_;
  TestRing ring_;
  Producer producer_ = ring_.producer();
  Consumer consumer_ = ring_.consumer();
  std::vector<std::size_t> sizes_;
  std::uint32_t turn_ = 0;
};

TEST_F(UserRingTest, ReserveHasLibbpfsLimitsAndErrors) {
  const auto fails = [&](std::uint64_t size, int err) {
    errno = 0;
    EXPECT_EQ(reserve(size), nullptr) << size;
    EXPECT_EQ(errno, err) << size;
  };
  fails(RINGBUF_BUSY_BIT, E2BIG);
  fails(RINGBUF_DISCARD_BIT, E2BIG);
  fails(4096 - 7, E2BIG);
  EXPECT_EQ(producer_.reserve(8, 1), nullptr);
  EXPECT_EQ(errno, EINVAL);
  put(4096 - 8);  // the whole ring
  fails(0, ENOSPC);
  EXPECT_EQ(ring_.ring().lost(RINGBUF_LOST_FULL), 1u);
  EXPECT_EQ(ring_.ring().lost(RINGBUF_LOST_TOO_BIG), 3u);
  EXPECT_EQ(drain(), 1);
  for (int i = 0; i < 256; ++i) put(8);
  fails(8, ENOSPC);
  EXPECT_EQ(drain(), 256);
}

TEST_F(UserRingTest, HeadersAndPositionsAreLibbpfs) {
  auto* p = static_cast<unsigned char*>(reserve(33));
  EXPECT_EQ(p, ring_.data() + 8);
  EXPECT_EQ(ring_.header(0).len, 33u | RINGBUF_BUSY_BIT);
  EXPECT_EQ(ring_.header(0).who, 0u);
  EXPECT_EQ(ring_.ring().producer_pos(), 48u);
  EXPECT_EQ(ring_.ring().pending_pos(), 0u);
  producer_.submit(p, 0);
  EXPECT_EQ(ring_.header(0).len, 33u);
  void* q = reserve(8);
  producer_.discard(q, 0);
  EXPECT_EQ(ring_.header(48).len, 8u | RINGBUF_DISCARD_BIT);
  EXPECT_EQ(drain(), 1);
  EXPECT_EQ(sizes_, std::vector<std::size_t>{33});
  EXPECT_EQ(ring_.ring().consumer_pos(), 64u);
}

class BigUserRing : public UserRingTest {
 protected:
  BigUserRing() : UserRingTest(32u << 20) {}
};

// Ours: libbpf accepts the sample, and draining fails for ever.
TEST_F(BigUserRing, ASampleThatNoDrainTakesIsRefused) {
  EXPECT_EQ(reserve(RINGBUF_MAX_DYNPTR_SIZE + 1), nullptr);
  EXPECT_EQ(errno, E2BIG);
  put(RINGBUF_MAX_DYNPTR_SIZE);
  EXPECT_EQ(drain(), 1);
  EXPECT_EQ(sizes_, std::vector<std::size_t>{RINGBUF_MAX_DYNPTR_SIZE});
}

TEST_F(BigUserRing, ADrainTakesAtMost131072SamplesDiscardedOnesIncluded) {
  for (int i = 0; i < 262144; ++i) {
    void* p = reserve(8);
    ASSERT_NE(p, nullptr);
    if (i % 3 == 2) producer_.discard(p, 0);
    else producer_.submit(p, 0);
  }
  EXPECT_EQ(drain(), 87382);  // of samples 0 to 131071 every third is discarded
  EXPECT_EQ(drain(), 87381);
  EXPECT_EQ(drain(), 0);
}

TEST_F(BigUserRing, AnOversizedSampleIsRefusedByDrainWhateverItsFlags) {
  for (const std::uint32_t bits : {0u, RINGBUF_DISCARD_BIT, RINGBUF_BUSY_BIT}) {
    forge((RINGBUF_MAX_DYNPTR_SIZE + 1) | bits, stride(RINGBUF_MAX_DYNPTR_SIZE + 1));
    EXPECT_EQ(drain(), -E2BIG) << bits;
  }
}

TEST_F(UserRingTest, DrainChecksHeadersInTheKernelsOrder) {
  const struct {
    std::uint32_t len;
    std::uint64_t advertised;
    std::int64_t result;
  } rows[] = {{39, 47, -EINVAL},
              {32, 32, -EINVAL},
              {4096, 4104, -E2BIG},
              {16, 16, -EINVAL},
              {0x3fffffff, 16, -EINVAL},
              {0x3fffffff, 0x40000008, -E2BIG},
              {4, 12, -EINVAL},
              {16 | RINGBUF_DISCARD_BIT, 16, -EINVAL},
              {16 | RINGBUF_BUSY_BIT, 16, -EINVAL},
              {5000 | RINGBUF_BUSY_BIT, 5008, -E2BIG},
              {8 | RINGBUF_BUSY_BIT, 16, 0},
              {5, 16, 1},
              {0, 8, 1},
              {8 | RINGBUF_BUSY_BIT | RINGBUF_DISCARD_BIT, 16, 0}};
  for (const auto& row : rows) {
    const std::uint64_t before = ring_.ring().consumer_pos();
    forge(row.len, row.advertised);
    EXPECT_EQ(drain(), row.result) << std::hex << row.len << ' ' << row.advertised;
    const bool skipped = row.result == 0 && (row.len & RINGBUF_DISCARD_BIT);
    EXPECT_EQ(ring_.ring().consumer_pos() - before, row.result > 0 || skipped ? row.advertised : 0u) << std::hex << row.len;
  }
}

TEST_F(UserRingTest, EightZeroBytesAreAnEmptySample) {
  ring_.producer_page().producer_pos = 64;
  EXPECT_EQ(drain(), 8);
  EXPECT_EQ(sizes_, std::vector<std::size_t>(8, 0));
}

TEST_F(UserRingTest, AProducerPosBehindTheConsumerIsAnEmptyRing) {
  put(8);
  drain();
  ring_.producer_page().producer_pos = 8;
  EXPECT_EQ(drain(), 0);
  EXPECT_EQ(ring_.ring().consumer_pos(), 16u);
}

TEST_F(UserRingTest, WhatCameBeforeABadSampleIsConsumedAndTheBadOneIsNotSkipped) {
  put(8);
  put(8);
  const std::uint64_t bad = ring_.ring().producer_pos();
  put(8);
  ring_.header(bad).len = 5000;
  EXPECT_EQ(drain(), -EINVAL);
  EXPECT_EQ(sizes_.size(), 2u);
  EXPECT_EQ(ring_.ring().consumer_pos(), bad);
  EXPECT_EQ(drain(), -EINVAL);
  ring_.header(bad).len = 8;  // repaired
  EXPECT_EQ(drain(), 1);
}

TEST_F(UserRingTest, TheSampleThatStopsADrainIsConsumedAndCounted) {
  for (int i = 0; i < 5; ++i) put(8);
  EXPECT_EQ(drain(0, 2), 2);
  EXPECT_EQ(ring_.ring().consumer_pos(), 32u);
  EXPECT_EQ(drain(), 3);
}

TEST_F(UserRingTest, InTheCallbackTheSampleIsNotYetGivenBack) {
  put(8);
  put(8);
  std::vector<std::uint64_t> seen;
  consumer_.drain(
      [&](void*, std::size_t) {
        seen.push_back(ring_.ring().consumer_pos());
        return 0;
      },
      0);
  EXPECT_EQ(seen, (std::vector<std::uint64_t>{0, 16}));
}

TEST_F(UserRingTest, AThrowingCallbackConsumesItsSample) {
  put(8);
  put(8);
  EXPECT_THROW(consumer_.drain([](void*, std::size_t) -> int { throw 1; }, 0), int);
  EXPECT_EQ(ring_.ring().consumer_pos(), 16u);
  EXPECT_EQ(drain(), 1);
}

TEST_F(UserRingTest, FlagsAndKindAreChecked) {
  EXPECT_EQ(drain(4), -EINVAL);
  EXPECT_EQ(drain(~std::uint64_t{3}), -EINVAL);
  EXPECT_EQ(consumer_.consume([](void*, std::size_t) { return 0; }, 1), -EINVAL);
  TestRing normal;
  EXPECT_EQ(normal.consumer().drain([](void*, std::size_t) { return 0; }, 0), -EINVAL);
}

// Kernel: a drain that moved anything wakes, FORCE always, NO_WAKEUP never; FORCE wins.
TEST_F(UserRingTest, WakeRuleOfADrain) {
  const auto told = [&](std::uint64_t flags) {
    const Sleeper sleeper(*this);
    drain(flags);
    return sleeper.told();
  };
  EXPECT_FALSE(told(0)) << "nothing moved";
  EXPECT_TRUE(told(RINGBUF_FORCE_WAKEUP));
  EXPECT_TRUE(told(RINGBUF_FORCE_WAKEUP | RINGBUF_NO_WAKEUP));
  put(8);
  EXPECT_TRUE(told(0));
  put(8);
  EXPECT_FALSE(told(RINGBUF_NO_WAKEUP));
  put(8);
  EXPECT_TRUE(told(RINGBUF_FORCE_WAKEUP | RINGBUF_NO_WAKEUP));
  producer_.discard(reserve(8), 0);
  EXPECT_TRUE(told(0)) << "discarded samples count";
  put(8);
  const std::uint64_t bad = ring_.ring().producer_pos();
  put(8);
  ring_.header(bad).len = 5000;
  EXPECT_TRUE(told(0)) << "an error after a good sample";
  EXPECT_FALSE(told(0)) << "an error at once";
}

// Ours: only when its bytes are there, and then at the first sample if the ring was full.
TEST_F(UserRingTest, ASleeperIsToldWhenItsBytesAreThere) {
  for (int i = 0; i < 256; ++i) put(8);
  const Sleeper sleeper(*this, 64);
  drain(0, 1);
  EXPECT_FALSE(sleeper.told());
  drain(0, 2);
  EXPECT_FALSE(sleeper.told());
  drain(0, 1);
  EXPECT_TRUE(sleeper.told());
}

TEST_F(UserRingTest, AFullRingTellsBeforeTheDrainIsOver) {
  for (int i = 0; i < 256; ++i) put(8);
  const Sleeper sleeper(*this);
  std::vector<bool> told;
  consumer_.drain(
      [&](void*, std::size_t) {
        told.push_back(sleeper.told());
        return told.size() == 3;
      },
      0);
  EXPECT_EQ(told, (std::vector<bool>{false, true, true}));
}

TEST_F(UserRingTest, BlockingReserve) {
  for (int i = 0; i < 256; ++i) put(8);
  RoomWaiter waiter(producer_);
  EXPECT_EQ(waiter.reserve(8, 0), nullptr);
  EXPECT_EQ(errno, ENOSPC);
  EXPECT_EQ(waiter.reserve(8, 10), nullptr);
  EXPECT_EQ(errno, ENOSPC);
  EXPECT_EQ(waiter.reserve(5000, -1), nullptr);
  EXPECT_EQ(errno, E2BIG);
  std::thread drainer([&] {
    while (ring_.ring().room_waiters() == 0) std::this_thread::yield();
    drain();
  });
  void* p = waiter.reserve(4000, -1);
  drainer.join();
  ASSERT_NE(p, nullptr);
  producer_.submit(p, 0);
  EXPECT_EQ(drain(), 1);
}

TEST_F(UserRingTest, SubmitWakesADrainerThatSleepsAndNobodyElse) {
  put(8);
  EXPECT_EQ(ring_.take_signals(), 0u);
  drain();
  ring_.ring().add_waiting();
  EXPECT_FALSE(consumer_.must_not_sleep());
  put(8);
  EXPECT_EQ(ring_.take_signals(), 1u);
  EXPECT_TRUE(consumer_.must_not_sleep());
}

TEST_F(UserRingTest, AProducerPosThatWasMovedBackKeepsTheDrainerAsleep) {
  put(8);
  drain();
  ring_.producer_page().producer_pos = 8;
  EXPECT_EQ(drain(), 0);
  EXPECT_FALSE(consumer_.must_not_sleep());
}

TEST_F(UserRingTest, AProducerPosThatIsNotAlignedGivesNoMemory) {
  ring_.producer_page().producer_pos = 62;
  EXPECT_EQ(reserve(8), nullptr);
  EXPECT_EQ(errno, ENOSPC);
}

TEST_F(UserRingTest, AConsumerPosFromNowhereIsNoRoom) {
  ring_.consumer_page().consumer_pos = 1 << 20;
  EXPECT_EQ(reserve(8), nullptr);
  EXPECT_EQ(errno, ENOSPC);
  ring_.consumer_page().consumer_pos = ~std::uint64_t{0} - 7;
  EXPECT_NE(reserve(8), nullptr);
}

}  // namespace
}  // namespace ringbuf::shm
