// SPDX-License-Identifier: MIT
// consume: libbpf's loop, its limits, and what hostile producers can do to it.
#include "ringbuf/shm/consumer.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "support/fd_leak_guard.hpp"
#include "support/test_ring.hpp"

namespace ringbuf::shm {
namespace {

using test::TestRing;

class ConsumerTest : public ::testing::Test {
 protected:
  void submit(int value) {
    auto* p = static_cast<int*>(producer_.reserve(sizeof value, 0));
    ASSERT_NE(p, nullptr);
    *p = value;
    producer_.submit(p, 0);
  }
  void discard() { producer_.discard(producer_.reserve(4, 0), 0); }
  std::int64_t consume(std::uint64_t limit = INT32_MAX, int stop_at = -1, int with = 0) {
    got_.clear();
    return consumer_.consume(
        [&](void* d, std::size_t n) {
          EXPECT_EQ(n, sizeof(int));
          got_.push_back(*static_cast<int*>(d));
          return got_.back() == stop_at ? with : 0;
        },
        limit, &left_);
  }
  std::uint64_t consumer_pos() const { return ring_.ring().consumer_pos(); }

  static constexpr std::uint64_t kStride = 16;  // of an int
  test::FdLeakGuard leaks_;
  TestRing ring_;
  Producer producer_ = ring_.producer();
  Consumer consumer_ = ring_.consumer();
  std::vector<int> got_;
  bool left_ = false;
};

// What another producer may have done to the words that only the owner should write.
TEST_F(ConsumerTest, AnImpossiblePendingPosStopsNoProducer) {
  for (const std::uint64_t forged : {std::uint64_t{8}, std::uint64_t{16}, std::uint64_t{4096}, std::uint64_t{1} << 40,
                                     ~std::uint64_t{7}, std::uint64_t{3}, std::uint64_t{0} - (std::uint64_t{1} << 62)}) {
    for (const std::uint32_t flags : {0u, kFlagOverwrite}) {
      TestRing ring(4096, 1, 0, kTypeRingbuf, flags);
      const Producer producer = ring.producer();
      ring.producer_page().pending_pos = forged;
      for (int i = 0; i < 3; ++i) EXPECT_EQ(producer.output("x", 1, 0), 0) << forged;
      EXPECT_EQ(ring.consumer().consume([](void*, std::size_t) { return 0; }, UINT64_MAX), 3);
    }
  }
}

TEST_F(ConsumerTest, AProducerPosThatIsNotAlignedGivesNoMemory) {
  ring_.producer_page().producer_pos = 62;
  EXPECT_EQ(producer_.reserve(8, 0), nullptr);
  EXPECT_EQ(errno, EAGAIN);
}

TEST_F(ConsumerTest, AnEmptyRingDeliversNothing) {
  EXPECT_EQ(consume(), 0);
  EXPECT_FALSE(left_);
  EXPECT_FALSE(consumer_.maybe_work());
}

TEST_F(ConsumerTest, DeliversUpToTheFirstBusyRecord) {
  submit(1);
  submit(2);
  void* busy = producer_.reserve(4, 0);
  submit(4);
  EXPECT_EQ(consume(), 2);
  EXPECT_EQ(got_, (std::vector<int>{1, 2}));
  EXPECT_EQ(consumer_pos(), 2 * kStride);
  EXPECT_EQ(consume(), 0);
  producer_.discard(busy, 0);
  EXPECT_EQ(consume(), 1);
  EXPECT_EQ(got_, std::vector<int>{4});
}

TEST_F(ConsumerTest, DiscardedRecordsAreSkippedAndNotCounted) {
  discard();
  submit(1);
  discard();
  discard();
  submit(2);
  discard();
  EXPECT_EQ(consume(), 2);
  EXPECT_EQ(consumer_pos(), 6 * kStride);
  EXPECT_EQ(ring_.ring().records(), 2u);
  EXPECT_EQ(ring_.ring().bytes(), 8u);
}

TEST_F(ConsumerTest, OnlyDiscardedRecordsDeliverZeroAndAreConsumed) {
  for (int i = 0; i < 100; ++i) discard();
  EXPECT_EQ(consume(), 0);
  EXPECT_EQ(consumer_pos(), 100 * kStride);
}

TEST_F(ConsumerTest, AnAllZeroHeaderIsAValidEmptyRecord) {
  ring_.producer_page().producer_pos = 24;
  std::vector<std::size_t> sizes;
  EXPECT_EQ(consumer_.consume(
                [&](void*, std::size_t n) {
                  sizes.push_back(n);
                  return 0;
                },
                INT32_MAX),
            3);
  EXPECT_EQ(sizes, (std::vector<std::size_t>{0, 0, 0}));
  EXPECT_EQ(consumer_pos(), 24u);
}

TEST_F(ConsumerTest, ConsumesAtMostTheLimitAndSaysThatSomethingIsLeft) {
  for (int i = 0; i < 5; ++i) submit(i);
  EXPECT_EQ(consume(2), 2);
  EXPECT_TRUE(left_);
  EXPECT_EQ(consumer_pos(), 2 * kStride);
  EXPECT_EQ(consume(2), 2);
  EXPECT_EQ(got_, (std::vector<int>{2, 3}));
  EXPECT_EQ(consume(2), 1);
  EXPECT_FALSE(left_);
}

TEST_F(ConsumerTest, ALimitOfZeroDeliversOneAsLibbpfDoes) {
  submit(1);
  submit(2);
  EXPECT_EQ(consume(0), 1);
  EXPECT_EQ(consumer_pos(), kStride);
}

TEST_F(ConsumerTest, LeadingDiscardsAreSkippedFreeAndTrailingOnesAreLeft) {
  discard();
  discard();
  submit(1);
  discard();
  discard();
  EXPECT_EQ(consume(1), 1);
  EXPECT_EQ(consumer_pos(), 3 * kStride);
  EXPECT_EQ(consume(1), 0);
  EXPECT_EQ(consumer_pos(), 5 * kStride);
}

TEST_F(ConsumerTest, ANegativeResultStopsIsReturnedAndItsRecordIsConsumed) {
  for (int i = 0; i < 4; ++i) submit(i);
  EXPECT_EQ(consume(INT32_MAX, 1, -7777), -7777);
  EXPECT_TRUE(left_);
  EXPECT_EQ(consumer_pos(), 2 * kStride);
  EXPECT_EQ(consume(), 2);
  EXPECT_EQ(got_, (std::vector<int>{2, 3}));
}

TEST_F(ConsumerTest, APositiveResultIsLikeZero) {
  for (int i = 0; i < 3; ++i) submit(i);
  EXPECT_EQ(consume(INT32_MAX, 1, 5), 3);
}

TEST_F(ConsumerTest, ConsumerPosIsGivenBackAfterABatchAndAtTheEnd) {
  for (int i = 0; i < 100; ++i) submit(i);
  std::vector<std::uint64_t> seen;
  EXPECT_EQ(consumer_.consume(
                [&](void*, std::size_t) {
                  if (seen.empty() || seen.back() != consumer_pos()) seen.push_back(consumer_pos());
                  return 0;
                },
                INT32_MAX),
            100);
  EXPECT_EQ(seen, (std::vector<std::uint64_t>{0, 32 * kStride, 64 * kStride, 96 * kStride}));
  EXPECT_EQ(consumer_pos(), 100 * kStride);
}

TEST_F(ConsumerTest, ConsumerPosIsGivenBackAfterAnEighthOfTheRing) {
  for (int i = 0; i < 4; ++i) producer_.submit(producer_.reserve(504, 0), 0);
  std::uint64_t expected = 0;
  EXPECT_EQ(consumer_.consume(
                [&](void*, std::size_t) {
                  EXPECT_EQ(consumer_pos(), expected);
                  expected += 512;
                  return 0;
                },
                INT32_MAX),
            4);
}

TEST_F(ConsumerTest, ASuccessorStartsAtTheSharedConsumerPos) {
  for (int i = 0; i < 4; ++i) submit(i);
  EXPECT_EQ(consume(2), 2);
  consumer_ = ring_.consumer();
  EXPECT_EQ(consume(), 2);
  EXPECT_EQ(got_, (std::vector<int>{2, 3}));
}

TEST_F(ConsumerTest, DeliveriesAreCountedOnceWhateverEndsTheCall) {
  for (int i = 0; i < 100; ++i) submit(i);
  EXPECT_EQ(consume(40), 40);
  EXPECT_EQ(ring_.ring().records(), 40u);
  EXPECT_EQ(consume(INT32_MAX, 50, -1), -1);
  EXPECT_EQ(ring_.ring().records(), 51u) << "the record that stopped it was handed over and is consumed";
  EXPECT_EQ(consume(), 49);
  EXPECT_EQ(ring_.ring().records(), 100u);
  EXPECT_EQ(ring_.ring().bytes(), 100 * sizeof(int));
}

// --- hostile producers ---------------------------------------------------------------------------------------------------

class HostileProducer : public ConsumerTest {
 protected:
  void expect_corrupt_at(std::uint64_t pos) {
    const unsigned char before = ring_.data()[0];
    EXPECT_EQ(consumer_.consume(
                  [&](void*, std::size_t) {
                    ADD_FAILURE() << "delivered";
                    return 0;
                  },
                  INT32_MAX),
              -EBADMSG);
    EXPECT_EQ(consumer_pos(), pos) << "nothing is consumed";
    EXPECT_EQ(consumer_.consume([&](void*, std::size_t) { return 0; }, INT32_MAX), -EBADMSG) << "and it stays so";
    EXPECT_EQ(ring_.data()[0], before);
  }
};

TEST_F(HostileProducer, ALengthBeyondProducerPosIsCorruption) {
  for (const std::uint32_t len : {9u, 16u, 4080u, 4096u, RINGBUF_LEN_MASK}) {
    ring_.header(0).len = len;
    ring_.producer_page().producer_pos = 16;
    expect_corrupt_at(0);
    ring_.header(0).len = len | RINGBUF_DISCARD_BIT;
    expect_corrupt_at(0);
  }
}

TEST_F(HostileProducer, AProducerPosMoreThanARingAheadIsCorruption) {
  for (const std::uint64_t pos : {std::uint64_t{4104}, std::uint64_t{8192}, std::uint64_t{1} << 40, UINT64_MAX - 7}) {
    ring_.header(0).len = 8;
    ring_.producer_page().producer_pos = pos;
    expect_corrupt_at(0);
  }
}

TEST_F(HostileProducer, AProducerPosBehindTheConsumerIsCorruption) {
  submit(1);
  EXPECT_EQ(consume(), 1);
  ring_.producer_page().producer_pos = 0;
  ring_.header(16).len = 0;
  expect_corrupt_at(16);
}

TEST_F(HostileProducer, AMisalignedProducerPosIsCorruptionFromTheRecordThatItCuts) {
  submit(1);
  ring_.producer_page().producer_pos = 20;
  EXPECT_EQ(consume(), -EBADMSG);
  EXPECT_EQ(got_, std::vector<int>{1}) << "the whole record before it is delivered";
  EXPECT_EQ(consumer_pos(), kStride);
  expect_corrupt_at(kStride);
}

TEST_F(HostileProducer, ABusyHeaderWithAnImpossibleLengthIsNotYetRead) {
  ring_.header(0).len = RINGBUF_BUSY_BIT | RINGBUF_LEN_MASK;
  ring_.producer_page().producer_pos = 16;
  EXPECT_EQ(consume(), 0);
  EXPECT_EQ(consumer_pos(), 0u);
}

TEST_F(HostileProducer, ResetSkipsEverythingAndTheRingWorksAgain) {
  submit(1);
  submit(2);
  ring_.header(kStride).len = 4000;
  EXPECT_EQ(consume(), -EBADMSG);
  EXPECT_EQ(consumer_pos(), kStride);
  EXPECT_EQ(consumer_.reset(), kStride);
  EXPECT_EQ(consumer_pos(), 2 * kStride);
  EXPECT_EQ(consume(), 0);
  submit(3);
  EXPECT_EQ(consume(), 1);
  EXPECT_EQ(got_, std::vector<int>{3});
}

TEST_F(HostileProducer, ResetSkipsNothingIfProducerPosWasMovedBack) {
  for (int i = 0; i < 4; ++i) submit(i);
  EXPECT_EQ(consume(), 4);
  ring_.producer_page().producer_pos = kStride;
  EXPECT_EQ(consume(), -EBADMSG);
  EXPECT_EQ(consumer_.reset(), 0);
  EXPECT_EQ(consumer_pos(), kStride);
}

TEST_F(HostileProducer, ResetKeepsConsumerPosAligned) {
  ring_.producer_page().producer_pos = 21;
  consumer_.reset();
  EXPECT_EQ(consumer_pos() % 8, 0u);
}

TEST_F(HostileProducer, NoRingContentMakesTheConsumerReadOutsideOrHang) {
  std::uint64_t random = 7;
  for (int i = 0; i < 20000; ++i) {
    for (std::uint64_t at = 0; at < 4096; at += 512) {
      random = random * 6364136223846793005u + 1442695040888963407u;
      ring_.header(at + (random >> 40) % 64 * 8).len =
          static_cast<std::uint32_t>(random >> 16) & ((random >> 60) < 8 ? 0x7fu : ~0u);
    }
    random = random * 6364136223846793005u + 1442695040888963407u;
    ring_.producer_page().producer_pos = consumer_pos() + ((random >> 50) < 8192 ? (random >> 33) % 4097 : random);
    const std::uint64_t before = consumer_pos(), end = ring_.ring().producer_pos();
    const auto n = consumer_.consume(
        [&](void* d, std::size_t size) {
          const auto* p = static_cast<unsigned char*>(d);
          EXPECT_GE(p, ring_.data() + 8);
          EXPECT_LE(p + size, ring_.data() + 2 * 4096);
          EXPECT_LE(size, 4088u);
          return 0;
        },
        INT32_MAX);
    ASSERT_TRUE(n >= 0 || n == -EBADMSG);
    ASSERT_LE(consumer_pos() - before, 4096u);
    if (end - before <= 4096) {
      ASSERT_LE(consumer_pos() - before, end - before);
    }
    if (n < 0) consumer_.reset();
  }
}

TEST_F(HostileProducer, AHostileSlotLimitAndNeedAreHarmless) {
  ring_.producer_page().room_waiters = 1;
  ring_.producer_page().slot_limit = UINT32_MAX;
  ring_.slot(1).need = UINT64_MAX;
  ring_.slot(RINGBUF_SLOT_COUNT - 1).need = 16;
  submit(1);
  EXPECT_EQ(consume(), 1);
  EXPECT_EQ(ring_.ring().room_seq(), 1u) << "the last slot's need can be met";
}

// --- room for waiting producers --------------------------------------------------------------------------------------------

class RoomTest : public ConsumerTest {
 protected:
  void fill() {
    while (producer_.reserve(4, 0, &test::uncounted)) {}
  }
  void fill_committed() {
    while (void* p = producer_.reserve(4, 0, &test::uncounted)) producer_.submit(p, 0);
  }
  std::uint32_t room_seq() const { return ring_.ring().room_seq(); }
};

TEST_F(RoomTest, NobodyWaitsNothingIsTold) {
  fill_committed();
  EXPECT_EQ(consume(), 255);
  EXPECT_EQ(room_seq(), 0u);
}

TEST_F(RoomTest, AWaiterIsToldOnceItsBytesAreFreeAndNotBefore) {
  fill_committed();  // 4080 bytes: 8 may still be used
  const Ring r = ring_.ring();
  r.add_room_waiter();
  r.set_need(1, 72 | std::uint64_t{1} << 32);
  EXPECT_EQ(consume(3), 3);
  EXPECT_EQ(room_seq(), 0u) << "56 bytes free, 72 needed";
  EXPECT_EQ(consume(1), 1);
  EXPECT_EQ(room_seq(), 1u);
  EXPECT_EQ(consume(1), 1);
  EXPECT_EQ(room_seq(), 1u) << "the same need is told once";
  r.set_need(1, 72 | std::uint64_t{2} << 32);
  EXPECT_EQ(consume(1), 1);
  EXPECT_EQ(room_seq(), 2u) << "a new turn is a new need";
}

TEST_F(RoomTest, AConsumeThatMovesNothingStillTellsTheWaiters) {
  const Ring r = ring_.ring();
  r.add_room_waiter();
  r.set_need(1, 64 | std::uint64_t{1} << 32);
  EXPECT_TRUE(consumer_.maybe_work());
  EXPECT_EQ(consume(), 0);
  EXPECT_EQ(room_seq(), 1u);
}

TEST_F(RoomTest, AConsumerLooksAtTheNeedsBeforeItSleeps) {
  const Ring r = ring_.ring();
  r.add_room_waiter();
  r.set_need(1, 64 | std::uint64_t{1} << 32);
  EXPECT_FALSE(consumer_.must_not_sleep());
  EXPECT_EQ(room_seq(), 1u);
}

TEST_F(RoomTest, AStoppedCallAndAResetTellTheWaitersToo) {
  fill_committed();
  const Ring r = ring_.ring();
  r.add_room_waiter();
  r.set_need(1, 16 | std::uint64_t{1} << 32);
  EXPECT_EQ(consume(INT32_MAX, got_.empty() ? 0 : -1, 0), 255);
  EXPECT_EQ(room_seq(), 1u);
  submit(9);
  r.set_need(1, 4088 | std::uint64_t{2} << 32);
  EXPECT_EQ(consume(INT32_MAX, 9, -1), -1);
  EXPECT_EQ(room_seq(), 2u);
  fill();
  r.set_need(1, 4088 | std::uint64_t{3} << 32);
  consumer_.reset();
  EXPECT_EQ(room_seq(), 3u);
}

TEST_F(RoomTest, AForgedNeedBeyondTheRingIsNeverMet) {
  const Ring r = ring_.ring();
  r.add_room_waiter();
  r.set_need(1, UINT32_MAX);
  EXPECT_EQ(consume(), 0);
  EXPECT_EQ(room_seq(), 0u);
}

}  // namespace
}  // namespace ringbuf::shm
