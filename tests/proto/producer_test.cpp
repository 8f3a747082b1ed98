// SPDX-License-Identifier: MIT
// reserve, commit, output and query, row by row as the kernel does them (normal mode).
#include "ringbuf/shm/producer.hpp"

#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "support/fd_leak_guard.hpp"
#include "support/payload.hpp"
#include "support/test_ring.hpp"

namespace ringbuf::shm {
namespace {

using test::TestRing;

class ProducerTest : public ::testing::Test {
 protected:
  std::uint64_t lost(ringbuf_lost why) const { return ring_.ring().lost(why); }
  std::uint64_t all_lost() const {
    std::uint64_t n = 0;
    for (int why = 0; why < RINGBUF_LOST_REASONS; ++why) n += lost(static_cast<ringbuf_lost>(why));
    return n;
  }
  void expect_reserve_fails(std::uint64_t size, int err) {
    errno = 0;
    EXPECT_EQ(producer_.reserve(size, 0), nullptr) << size;
    EXPECT_EQ(errno, err) << size;
  }
  // Commits records until the position is `pos`, and consumes them, so that the next record begins there.
  void move_to(std::uint64_t pos) {
    while (ring_.ring().producer_pos() != pos) {
      const std::uint64_t left = pos - ring_.ring().producer_pos();
      void* p = producer_.reserve(std::min<std::uint64_t>(left, 2048) - RINGBUF_HEADER_SIZE, 0);
      ASSERT_NE(p, nullptr);
      producer_.submit(p, 0);
      consumer_.consume([](void*, std::size_t) { return 0; }, INT32_MAX);
    }
  }
  std::int64_t drain() {
    return consumer_.consume([](void*, std::size_t) { return 0; }, INT32_MAX);
  }

  test::FdLeakGuard leaks_;
  TestRing ring_{4096, 2};
  Producer producer_ = ring_.producer(1);
  Producer second_ = ring_.producer(2);
  Consumer consumer_ = ring_.consumer();
};

// --- limits ----------------------------------------------------------------------------------------------------------

TEST_F(ProducerTest, LargestPayloadInAnEmptyRingIsSixteenBytesLessThanTheRing) {
  void* p = producer_.reserve(4080, 0);
  ASSERT_NE(p, nullptr);
  EXPECT_EQ(ring_.ring().producer_pos(), 4088u);
  EXPECT_EQ(all_lost(), 0u);
}

TEST_F(ProducerTest, EveryLargerPayloadFailsAsTooBig) {
  for (std::uint64_t size = 4081; size <= 4104; ++size) expect_reserve_fails(size, E2BIG);
  EXPECT_EQ(lost(RINGBUF_LOST_TOO_BIG), 24u);
  EXPECT_EQ(all_lost(), 24u);
  EXPECT_EQ(ring_.ring().producer_pos(), 0u);
}

TEST_F(ProducerTest, PayloadsBeyondTheKernelsMaximumRecordFailAsTooBigWithoutWrapping) {
  for (const std::uint64_t size :
       {std::uint64_t{RINGBUF_MAX_RECORD_SIZE}, std::uint64_t{RINGBUF_MAX_RECORD_SIZE} + 1, std::uint64_t{UINT32_MAX},
        std::uint64_t{UINT32_MAX} + 1, UINT64_MAX - 15, UINT64_MAX - 7, UINT64_MAX})
    expect_reserve_fails(size, E2BIG);
  EXPECT_EQ(lost(RINGBUF_LOST_TOO_BIG), 7u);
}

TEST_F(ProducerTest, APageHoldsTwoHundredAndFiftyFiveRecordsOfEightBytes) {
  for (int i = 0; i < 255; ++i) ASSERT_NE(producer_.reserve(8, 0), nullptr) << i;
  EXPECT_EQ(ring_.ring().producer_pos(), 4080u);
  expect_reserve_fails(8, EAGAIN);
  EXPECT_NE(producer_.reserve(0, 0), nullptr) << "N - 8 bytes may be used";
  expect_reserve_fails(0, EAGAIN);
  EXPECT_EQ(ring_.ring().producer_pos(), 4088u);
}

TEST_F(ProducerTest, ARecordOfLengthZeroTakesEightBytesAndIsDelivered) {
  void* p = producer_.reserve(0, 0);
  ASSERT_NE(p, nullptr);
  EXPECT_EQ(ring_.ring().producer_pos(), 8u);
  producer_.submit(p, 0);
  std::vector<std::size_t> sizes;
  EXPECT_EQ(consumer_.consume(
                [&](void*, std::size_t n) {
                  sizes.push_back(n);
                  return 0;
                },
                INT32_MAX),
            1);
  EXPECT_EQ(sizes, std::vector<std::size_t>{0});
  EXPECT_EQ(ring_.ring().consumer_pos(), 8u);
}

TEST_F(ProducerTest, PayloadsAreEightAlignedAndAfterTheirHeader) {
  std::uint64_t pos = 0;
  for (const std::uint64_t size : {1u, 7u, 8u, 9u, 0u, 33u}) {
    auto* p = static_cast<unsigned char*>(producer_.reserve(size, 0));
    ASSERT_NE(p, nullptr);
    EXPECT_EQ(p, ring_.data() + pos + 8);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(p) % 8, 0u);
    pos += stride(size);
    EXPECT_EQ(ring_.ring().producer_pos(), pos);
  }
}

// --- header ----------------------------------------------------------------------------------------------------------

TEST_F(ProducerTest, HeaderHoldsTheExactLengthAndBusyUntilCommitted) {
  void* a = second_.reserve(13, 0);
  EXPECT_EQ(ring_.header(0).len, 13u | RINGBUF_BUSY_BIT);
  EXPECT_EQ(ring_.header(0).who, 2u << 20 | 3u);
  second_.submit(a, 0);
  EXPECT_EQ(ring_.header(0).len, 13u);
  EXPECT_EQ(ring_.header(0).who, 2u << 20 | 3u);
  void* b = producer_.reserve(5, 0);
  producer_.discard(b, 0);
  EXPECT_EQ(ring_.header(24).len, 5u | RINGBUF_DISCARD_BIT);
  EXPECT_EQ(ring_.header(24).who, 1u << 20 | 3u);
}

TEST_F(ProducerTest, HeaderIsTheseBytes) {
  void* p = second_.reserve(0x123, 0);
  const unsigned char busy[8] = {0x23, 0x01, 0x00, 0x80, 0x03, 0x00, 0x20, 0x00};
  EXPECT_EQ(std::memcmp(ring_.data(), busy, 8), 0);
  second_.discard(p, 0);
  const unsigned char discarded[8] = {0x23, 0x01, 0x00, 0x40, 0x03, 0x00, 0x20, 0x00};
  EXPECT_EQ(std::memcmp(ring_.data(), discarded, 8), 0);
}

TEST(ProducerHeader, PageOffsetCountsFromTheKernelsPrivatePage) {
  TestRing ring(16384);
  const Producer producer = ring.producer();
  std::uint64_t pos = 0;
  for (int i = 0; i < 3; ++i) {
    ASSERT_NE(producer.reserve(4088, 0), nullptr);
    EXPECT_EQ(ring.header(pos).who, 1u << 20 | static_cast<std::uint32_t>(3 + i));
    pos += 4096;
  }
}

TEST_F(ProducerTest, ARecordWhoseHeaderIsTheLastEightBytesHasItsPayloadInTheMirror) {
  move_to(4088);
  auto* p = static_cast<unsigned char*>(producer_.reserve(64, 0));
  ASSERT_EQ(p, ring_.data() + 4096);
  std::memset(p, 0x5a, 64);
  EXPECT_EQ(ring_.data()[0], 0x5a) << "the mirror is the same memory";
  producer_.submit(p, 0);
  EXPECT_EQ(ring_.header(4088).len, 64u) << "commit finds the header from the payload's address";
  EXPECT_EQ(drain(), 1);
}

TEST(ProducerMirror, RecordDataIsContiguousAcrossTheEndOfTheRingForEverySize) {
  constexpr std::uint64_t kN = 4096;
  TestRing ring(kN);
  const Producer producer = ring.producer();
  const Consumer consumer = ring.consumer();
  std::vector<unsigned char> sent(kN), got(kN);
  std::uint64_t crossed = 0;
  for (std::uint64_t size = 0; size <= kN - 16; ++size) {
    // Three places: as far before the end as it still crosses, half way, and the header as the very last bytes.
    const std::uint64_t total = stride(size);
    for (const std::uint64_t back :
         {std::max<std::uint64_t>(total - 8, 8), std::max<std::uint64_t>(total / 16 * 8, 8), std::uint64_t{8}}) {
      const std::uint64_t start = kN - back;
      ring.consumer_page().consumer_pos = start;
      ring.producer_page().producer_pos = ring.producer_page().pending_pos = ring.producer_page().cached_pos = start;
      std::memset(ring.data(), 0xee, kN);
      auto* p = static_cast<unsigned char*>(producer.reserve(size, 0));
      ASSERT_NE(p, nullptr) << size;
      test::Payload want;
      want.producer = static_cast<std::uint8_t>(size);
      want.seq = size << 16 | back;
      want.fill(sent.data(), size);
      if (size != 0) std::memcpy(p, sent.data(), size);
      producer.submit(p, 0);
      int calls = 0;
      const auto n = consumer.consume(
          [&](void* data, std::size_t got_size) {
            ++calls;
            EXPECT_EQ(got_size, size);
            if (size != 0) std::memcpy(got.data(), data, got_size);
            return 0;
          },
          INT32_MAX);
      ASSERT_EQ(n, 1);
      ASSERT_EQ(calls, 1);
      ASSERT_TRUE(test::Payload(want).verify(got.data(), size)) << size << " at " << start;
      // Byte by byte through offsets: what crossed the end is at the beginning of the one real copy, and nothing else changed.
      for (std::uint64_t i = 0; i < size; ++i) ASSERT_EQ(ring.data()[(start + 8 + i) % kN], sent[i]) << size << " at " << start;
      ASSERT_EQ(std::memcmp(ring.data(), ring.data() + kN, kN), 0) << "the mirror shows other bytes";
      const std::uint64_t free_byte = (start + total) % kN;
      ASSERT_EQ(ring.data()[free_byte], 0xee) << "written beyond the record";
      crossed += start + total > kN;
    }
  }
  EXPECT_GT(crossed, 8000u);
}

// --- failures --------------------------------------------------------------------------------------------------------

TEST_F(ProducerTest, ReserveRefusesFlagsFirstAndCountsNoLoss) {
  for (const std::uint64_t flags : {std::uint64_t{1}, std::uint64_t{2}, UINT64_MAX}) {
    errno = 0;
    EXPECT_EQ(producer_.reserve(1u << 30, flags), nullptr);
    EXPECT_EQ(errno, EINVAL) << "flags are looked at before the size";
  }
  EXPECT_EQ(all_lost(), 0u);
}

TEST_F(ProducerTest, LossesAreCountedByReasonForTheRingAndForTheSlot) {
  ASSERT_NE(producer_.reserve(4000, 0), nullptr);
  ring_.consumer_page().consumer_pos = 4008;  // claims to be past it although it is BUSY
  EXPECT_EQ(producer_.reserve(200, 0), nullptr);
  EXPECT_EQ(second_.reserve(5000, 0), nullptr);
  EXPECT_EQ(second_.reserve(5000, 0), nullptr);
  ring_.consumer_page().consumer_pos = 0;
  const Ring r = ring_.ring();
  EXPECT_EQ(r.lost(RINGBUF_LOST_BUSY), 1u);
  EXPECT_EQ(r.lost(1, RINGBUF_LOST_BUSY), 1u);
  EXPECT_EQ(r.lost(2, RINGBUF_LOST_BUSY), 0u);
  EXPECT_EQ(r.lost(RINGBUF_LOST_TOO_BIG), 2u);
  EXPECT_EQ(r.lost(1, RINGBUF_LOST_TOO_BIG), 0u);
  EXPECT_EQ(r.lost(2, RINGBUF_LOST_TOO_BIG), 2u);
  EXPECT_EQ(r.lost(RINGBUF_LOST_FULL), 0u);
  EXPECT_EQ(r.lost(RINGBUF_LOST_LOCK), 0u);
}

TEST_F(ProducerTest, AFullRingOfCommittedRecordsIsCountedAsFull) {
  producer_.submit(producer_.reserve(4080, 0), 0);
  expect_reserve_fails(0, EAGAIN);
  EXPECT_EQ(lost(RINGBUF_LOST_FULL), 1u);
  EXPECT_EQ(all_lost(), 1u);
  EXPECT_EQ(drain(), 1);
  EXPECT_NE(producer_.reserve(4080, 0), nullptr);
}

TEST_F(ProducerTest, AFailureIsNotCountedIfTheCallerTriesAgain) {
  producer_.submit(producer_.reserve(4080, 0), 0);
  EXPECT_EQ(producer_.reserve(0, 0, &test::uncounted), nullptr);
  EXPECT_EQ(errno, EAGAIN);
  EXPECT_EQ(all_lost(), 0u);
}

TEST_F(ProducerTest, PendingPosMovesOnlyInReserveAndOverCommittedRecordsOnly) {
  void* a = producer_.reserve(8, 0);
  void* b = producer_.reserve(8, 0);
  void* c = producer_.reserve(8, 0);
  producer_.submit(b, 0);
  EXPECT_EQ(ring_.ring().pending_pos(), 0u);
  (void)producer_.reserve(8, 0);
  EXPECT_EQ(ring_.ring().pending_pos(), 0u) << "the first record is BUSY";
  producer_.submit(a, 0);
  EXPECT_EQ(ring_.ring().pending_pos(), 0u) << "commit does not move it";
  (void)producer_.reserve(8, 0);
  EXPECT_EQ(ring_.ring().pending_pos(), 32u) << "over the first two, to the BUSY third";
  producer_.discard(c, 0);
  (void)producer_.reserve(8, 0);
  EXPECT_EQ(ring_.ring().pending_pos(), 48u) << "a discarded record is passed like any other";
}

TEST_F(ProducerTest, PendingPosMovesEvenIfTheReserveFails) {
  producer_.submit(producer_.reserve(2040, 0), 0);
  producer_.submit(producer_.reserve(2024, 0), 0);
  EXPECT_EQ(ring_.ring().pending_pos(), 2048u);
  expect_reserve_fails(1000, EAGAIN);
  EXPECT_EQ(ring_.ring().pending_pos(), 4080u);
  EXPECT_EQ(ring_.ring().producer_pos(), 4080u);
}

TEST_F(ProducerTest, AHostileHeaderCannotLeadPendingPosBeyondProducerPos) {
  ASSERT_NE(producer_.reserve(8, 0), nullptr);
  ring_.header(0).len = 4000;
  ASSERT_NE(producer_.reserve(8, 0), nullptr);
  EXPECT_EQ(ring_.ring().pending_pos(), 0u);
  ring_.header(0).len = RINGBUF_LEN_MASK;
  ASSERT_NE(producer_.reserve(8, 0), nullptr);
  EXPECT_EQ(ring_.ring().pending_pos(), 0u);
}

// --- forged consumer positions -----------------------------------------------------------------------------------------

TEST(ProducerForged, AConsumerThatClaimsToBeAheadGetsNoOverlappingReservation) {
  // The figures of the kernel's regression test of CVE-2024-41009.
  TestRing ring(0x40000);
  const Producer producer = ring.producer();
  for (int i = 0; i < 2; ++i) {
    const std::uint64_t start = ring.ring().producer_pos();
    ring.consumer_page().consumer_pos = start + 0x30000;
    void* first = producer.reserve(0x30000, 0);
    ASSERT_NE(first, nullptr);
    EXPECT_EQ(producer.reserve(0x30000, 0), nullptr) << "it would overlap the first";
    EXPECT_EQ(errno, EAGAIN);
    EXPECT_EQ(ring.ring().lost(RINGBUF_LOST_BUSY), static_cast<std::uint64_t>(i + 1));
    producer.discard(first, 0);
    ring.consumer_page().consumer_pos = ring.ring().producer_pos();
  }
}

TEST(ProducerForged, TheKernelsFiguresHoldWithTheForgeryLeftInPlace) {
  TestRing ring(0x40000);
  const Producer producer = ring.producer();
  ring.consumer_page().consumer_pos = 0x30000;
  int discarded = 0, passed = 0;
  for (int i = 0; i < 2; ++i) {
    void* first = producer.reserve(0x30000, 0);
    if (!first) continue;
    void* second = producer.reserve(0x30000, 0);
    if (second) {
      ++passed;
      producer.discard(second, 0);
    } else {
      ++discarded;
    }
    producer.discard(first, 0);
  }
  EXPECT_EQ(discarded, 2);
  EXPECT_EQ(passed, 0);
}

TEST_F(ProducerTest, AConsumerPosForgedSlightlyAheadSucceedsAsInTheKernel) {
  producer_.submit(producer_.reserve(4080, 0), 0);
  ring_.consumer_page().consumer_pos = 4088 + 8;  // ahead of producer_pos, not of where the record will end
  EXPECT_NE(producer_.reserve(8, 0), nullptr);
}

TEST_F(ProducerTest, AConsumerPosForgedFarAheadFailsOnceTheRingLooksFull) {
  producer_.submit(producer_.reserve(4080, 0), 0);
  ring_.consumer_page().consumer_pos = 1u << 20;
  expect_reserve_fails(8, EAGAIN);
  EXPECT_EQ(lost(RINGBUF_LOST_FULL), 1u);
  ring_.consumer_page().consumer_pos = UINT64_MAX - 7;  // behind by 16 or ahead by nearly everything: the same thing
  expect_reserve_fails(8, EAGAIN);
  ring_.consumer_page().consumer_pos = 4088;
  EXPECT_NE(producer_.reserve(8, 0), nullptr) << "an honest position repairs it";
}

// Different from the kernel, knowingly: producers look at consumer_pos only when the last one that they saw does not give room.
// A forged position therefore shows later than in the kernel, which reads it in every reserve. Memory is safe either way.
TEST_F(ProducerTest, AForgedConsumerPosIsNotSeenBeforeItIsNeeded) {
  ring_.consumer_page().consumer_pos = 1u << 20;
  EXPECT_NE(producer_.reserve(8, 0), nullptr) << "the kernel fails here";
  EXPECT_EQ(ring_.ring().cached_pos(), 0u);
  ring_.consumer_page().consumer_pos = 0;
  producer_.submit(producer_.reserve(4040, 0), 0);
  expect_reserve_fails(64, EAGAIN);
}

TEST_F(ProducerTest, AConsumerPosForgedBackwardsTakesNoRoomAwayBeforeItIsNeeded) {
  move_to(2048);
  producer_.submit(producer_.reserve(2000, 0), 0);
  ring_.consumer_page().consumer_pos = 0;
  // 40 bytes of the first lap and the 2048 that were consumed, of which cached_pos knows some at least.
  expect_reserve_fails(4000, EAGAIN);
  EXPECT_EQ(ring_.ring().producer_pos(), 2048u + 2008);
}

TEST_F(ProducerTest, EveryForgedConsumerPosLeavesABusyRecordAlone) {
  auto* held = static_cast<unsigned char*>(producer_.reserve(1000, 0));
  ASSERT_NE(held, nullptr);
  std::memset(held, 0xab, 1000);
  std::uint64_t random = 1;
  for (int i = 0; i < 20000; ++i) {
    random = test::mix(random);
    ring_.consumer_page().consumer_pos =
        (random >> 60) < 12 ? ring_.ring().producer_pos() + ((random & 0x3fff) - 0x2000) : random;
    const std::uint64_t size = (random >> 20) % 3000;
    if (void* p = second_.reserve(size, 0)) {
      if (size != 0) std::memset(p, 0, size);
      second_.submit(p, 0);
    }
    ASSERT_EQ(ring_.header(0).len, 1000u | RINGBUF_BUSY_BIT);
  }
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(held[i], 0xab) << i;
  EXPECT_LE(ring_.ring().producer_pos(), 4088u) << "not beyond N - 8 behind the BUSY record";
}

// --- positions near the end of their range --------------------------------------------------------------------------------

TEST_F(ProducerTest, PositionsMayWrapAroundTheirRange) {
  const std::uint64_t start = UINT64_MAX - 4095;  // a multiple of N, and one lap later the counters begin again
  ring_.consumer_page().consumer_pos = start;
  ring_.producer_page().producer_pos = ring_.producer_page().pending_pos = ring_.producer_page().cached_pos = start;
  for (int lap = 0; lap < 3; ++lap) {
    for (int i = 0; i < 255; ++i) {
      auto* p = static_cast<std::uint64_t*>(producer_.reserve(8, 0));
      ASSERT_NE(p, nullptr) << lap << " " << i;
      *p = static_cast<std::uint64_t>(i);
      producer_.submit(p, 0);
    }
    expect_reserve_fails(8, EAGAIN);
    std::uint64_t expected = 0;
    EXPECT_EQ(consumer_.consume(
                  [&](void* d, std::size_t) {
                    EXPECT_EQ(*static_cast<std::uint64_t*>(d), expected++);
                    return 0;
                  },
                  INT32_MAX),
              255);
  }
  EXPECT_LT(ring_.ring().producer_pos(), start);
}

// --- output and query ----------------------------------------------------------------------------------------------------

TEST_F(ProducerTest, OutputCopiesARecordIn) {
  EXPECT_EQ(producer_.output("hello", 5, 0), 0);
  std::string got;
  EXPECT_EQ(consumer_.consume(
                [&](void* d, std::size_t n) {
                  got.assign(static_cast<char*>(d), n);
                  return 0;
                },
                INT32_MAX),
            1);
  EXPECT_EQ(got, "hello");
  EXPECT_EQ(producer_.output(nullptr, 0, 0), 0) << "nothing is read of an empty record";
}

TEST_F(ProducerTest, OutputAnswersEagainForEveryFailedReservationAndEinvalForUnknownFlags) {
  const char byte = 0;
  EXPECT_EQ(producer_.output(&byte, 1, 4), -EINVAL);
  EXPECT_EQ(producer_.output(&byte, 1, RINGBUF_NO_WAKEUP | 0x44), -EINVAL);
  EXPECT_EQ(all_lost(), 0u);
  const volatile std::uint64_t too_big = 1u << 30;  // volatile: the compiler cannot know that nothing is copied
  EXPECT_EQ(producer_.output(&byte, too_big, 0), -EAGAIN) << "too big";
  EXPECT_EQ(lost(RINGBUF_LOST_TOO_BIG), 1u);
  producer_.submit(producer_.reserve(4080, 0), 0);
  EXPECT_EQ(producer_.output(&byte, 1, RINGBUF_NO_WAKEUP | RINGBUF_FORCE_WAKEUP), -EAGAIN) << "full";
  EXPECT_EQ(lost(RINGBUF_LOST_FULL), 1u);
}

TEST_F(ProducerTest, QueryAnswersTheKernelsSelectorsAndZeroForOthers) {
  producer_.submit(producer_.reserve(32, 0), 0);
  drain();
  (void)producer_.reserve(32, 0);
  EXPECT_EQ(producer_.query(RINGBUF_AVAIL_DATA), 40u) << "reserved bytes count";
  EXPECT_EQ(producer_.query(RINGBUF_RING_SIZE), 4096u);
  EXPECT_EQ(producer_.query(RINGBUF_CONS_POS), 40u);
  EXPECT_EQ(producer_.query(RINGBUF_PROD_POS), 80u);
  EXPECT_EQ(producer_.query(4), 0u) << "overwrite_pos, in a ring that does not overwrite";
  EXPECT_EQ(producer_.query(5), 0u);
  EXPECT_EQ(producer_.query(UINT64_MAX), 0u);
}

TEST_F(ProducerTest, OutOfOrderCommitsAreDeliveredInReserveOrder) {
  int* p[4];
  for (int i = 0; i < 4; ++i) {
    p[i] = static_cast<int*>((i % 2 ? second_ : producer_).reserve(sizeof(int), 0));
    *p[i] = i;
  }
  std::vector<int> got;
  const auto take = [&](void* d, std::size_t) {
    got.push_back(*static_cast<int*>(d));
    return 0;
  };
  second_.submit(p[3], 0);
  producer_.submit(p[2], 0);
  EXPECT_EQ(consumer_.consume(take, INT32_MAX), 0);
  producer_.submit(p[0], 0);
  EXPECT_EQ(consumer_.consume(take, INT32_MAX), 1);
  second_.submit(p[1], 0);
  EXPECT_EQ(consumer_.consume(take, INT32_MAX), 3);
  EXPECT_EQ(got, (std::vector<int>{0, 1, 2, 3}));
}

TEST_F(ProducerTest, ARecordMayBeCommittedByAnotherAttachmentThanItsReserver) {
  void* p = producer_.reserve(8, 0);
  second_.submit(p, 0);
  EXPECT_EQ(drain(), 1);
}

// --- the owner word --------------------------------------------------------------------------------------------------------

TEST_F(ProducerTest, AThreadThatMeetsItselfInReserveFailsWithEdeadlk) {
  (void)producer_.reserve(0, 0);  // learns the thread id
  ring_.producer_page().owner = std::uint64_t{1} << 32 | tls.tid;
  expect_reserve_fails(8, EDEADLK);
  EXPECT_EQ(lost(RINGBUF_LOST_LOCK), 1u);
  EXPECT_EQ(producer_.output("x", 1, 0), -EAGAIN);
  ring_.producer_page().owner = 0;
  EXPECT_NE(producer_.reserve(8, 0), nullptr);
}

const Producer* g_interrupted;
void* g_nested;
int g_nested_errno;
void reserve_in_handler(int) {
  const int saved = errno;
  errno = 0;
  g_nested = g_interrupted->reserve(8, 0);
  g_nested_errno = errno;
  errno = saved;
}

TEST_F(ProducerTest, ASignalHandlerThatInterruptsReserveFailsWithEdeadlk) {
  (void)producer_.reserve(0, 0);
  g_interrupted = &producer_;
  struct sigaction action {
  }, old{};
  action.sa_handler = reserve_in_handler;
  ASSERT_EQ(::sigaction(SIGUSR1, &action, &old), 0);
  ASSERT_TRUE(ring_.ring().try_own(std::uint64_t{1} << 32 | tls.tid));  // as reserve does first
  ::raise(SIGUSR1);
  EXPECT_EQ(g_nested, nullptr);
  EXPECT_EQ(g_nested_errno, EDEADLK);
  ring_.ring().disown();
  ::raise(SIGUSR1);
  EXPECT_NE(g_nested, nullptr) << "outside the section the handler may reserve";
  ::sigaction(SIGUSR1, &old, nullptr);
}

TEST(ProducerSingle, ASingleProducerThatMeetsItselfFailsWithEdeadlk) {
  TestRing ring(4096, 1, RINGBUF_F_SINGLE_PRODUCER);
  const Producer producer = ring.producer();
  ASSERT_NE(producer.reserve(8, 0), nullptr);
  EXPECT_EQ(ring.producer_page().owner, 0u) << "no owner word in this mode";
  tls.inside = true;
  EXPECT_EQ(producer.reserve(8, 0), nullptr);
  EXPECT_EQ(errno, EDEADLK);
  EXPECT_EQ(ring.ring().lost(RINGBUF_LOST_LOCK), 1u);
  tls.inside = false;
  EXPECT_NE(producer.reserve(8, 0), nullptr);
  EXPECT_FALSE(tls.inside);
}

TEST(ProducerSingle, EveryFailureLeavesTheSection) {
  TestRing ring(4096, 1, RINGBUF_F_SINGLE_PRODUCER);
  const Producer producer = ring.producer();
  producer.submit(producer.reserve(4080, 0), 0);
  EXPECT_EQ(producer.reserve(8, 0), nullptr);
  EXPECT_FALSE(tls.inside);
  ring.consumer_page().consumer_pos = 4088;
  ASSERT_NE(producer.reserve(4000, 0), nullptr);
  ring.consumer_page().consumer_pos = 8096;
  EXPECT_EQ(producer.reserve(4000, 0), nullptr);
  EXPECT_EQ(ring.ring().lost(RINGBUF_LOST_BUSY), 1u);
  EXPECT_FALSE(tls.inside);
}

TEST_F(ProducerTest, EveryFailureFreesTheOwnerWord) {
  producer_.submit(producer_.reserve(4080, 0), 0);
  expect_reserve_fails(8, EAGAIN);
  EXPECT_EQ(ring_.producer_page().owner, 0u);
  expect_reserve_fails(8000, E2BIG);
  EXPECT_EQ(ring_.producer_page().owner, 0u);
}

TEST_F(ProducerTest, AnOwnerThatNeverLeavesCostsOnePatienceAndThenFailsAtOnce) {
  ring_.producer_page().owner = std::uint64_t{2} << 32 | 0x3fffffff;  // a thread that nobody has
  const std::uint64_t begin = now_ns();
  expect_reserve_fails(8, EBUSY);
  EXPECT_GE(now_ns() - begin, Section::kPatienceNs);
  EXPECT_EQ(lost(RINGBUF_LOST_LOCK), 1u);
  // A thousand more would take four minutes if each waited again: the test's time limit would end them.
  for (int i = 0; i < 1000; ++i) expect_reserve_fails(8, EBUSY);
  EXPECT_EQ(lost(RINGBUF_LOST_LOCK), 1001u);
  EXPECT_EQ(ring_.ring().lost(1, RINGBUF_LOST_LOCK), 1001u);
  ring_.producer_page().owner = 0;
  EXPECT_NE(producer_.reserve(8, 0), nullptr) << "as soon as the word is free";
}

TEST_F(ProducerTest, AStuckOwnerOfOneRingIsNoVerdictOnAnother) {
  TestRing other;
  for (TestRing* ring : {&ring_, &other}) ring->producer_page().owner = std::uint64_t{2} << 32 | 0x3fffffff;
  expect_reserve_fails(8, EBUSY);
  const std::uint64_t begin = now_ns();
  EXPECT_EQ(other.producer().reserve(8, 0), nullptr);
  EXPECT_EQ(errno, EBUSY);
  EXPECT_GE(now_ns() - begin, Section::kPatienceNs);
}

TEST_F(ProducerTest, AWaiterSleepsOnTheFutexUntilTheOwnerLeaves) {
  const std::uint64_t other = std::uint64_t{2} << 32 | 0x3fffffff;
  const Ring r = ring_.ring();
  ASSERT_TRUE(r.try_own(other));
  std::atomic<bool> begun{false};
  void* got = nullptr;
  std::thread waiter([&] {
    begun = true;
    got = producer_.reserve(8, 0);
  });
  while (!begun) std::this_thread::yield();
  r.disown();
  waiter.join();
  EXPECT_NE(got, nullptr);
}

TEST_F(ProducerTest, TwoThreadsOfOneAttachmentExcludeEachOther) {
  constexpr int kEach = 20000;
  std::atomic<bool> done{false};
  std::uint64_t sum = 0, count = 0;
  std::thread consumer([&] {
    const auto take = [&](void* d, std::size_t) {
      sum += *static_cast<std::uint32_t*>(d), ++count;
      return 0;
    };
    while (!done) consumer_.consume(take, INT32_MAX), std::this_thread::yield();
    consumer_.consume(take, INT32_MAX);
  });
  const auto produce = [&] {
    for (std::uint32_t i = 1; i <= kEach; ++i)
      while (producer_.output(&i, sizeof i, 0) != 0) std::this_thread::yield();
  };
  std::thread a(produce), b(produce);
  a.join(), b.join();
  done = true;
  consumer.join();
  EXPECT_EQ(count, 2u * kEach);
  EXPECT_EQ(sum, std::uint64_t{kEach} * (kEach + 1));
}

}  // namespace
}  // namespace ringbuf::shm
