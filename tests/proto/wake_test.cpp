// SPDX-License-Identifier: MIT
// When a commit wakes the consumer: the kernel's rule, seen as writes to the producer's eventfd.
#include <fcntl.h>
#include <gtest/gtest.h>

#include "support/fd_leak_guard.hpp"
#include "support/test_ring.hpp"

namespace ringbuf::shm {
namespace {

using test::TestRing;

class WakeTest : public ::testing::Test {
 protected:
  void SetUp() override { ring_.ring().add_waiting(); }
  std::uint64_t woken(std::uint32_t slot = 1) { return ring_.take_signals(slot); }
  void* reserve(std::uint64_t size = 8) { return producer_.reserve(size, 0); }
  std::int64_t drain() {
    return consumer_.consume([](void*, std::size_t) { return 0; }, INT32_MAX);
  }

  test::FdLeakGuard leaks_;
  TestRing ring_{4096, 2};
  Producer producer_ = ring_.producer(1);
  Producer second_ = ring_.producer(2);
  Consumer consumer_ = ring_.consumer();
};

TEST_F(WakeTest, ACommitWakesAConsumerThatHasCaughtUp) {
  producer_.submit(reserve(), 0);
  EXPECT_EQ(woken(), 1u);
}

TEST_F(WakeTest, OnlyTheFirstOfSeveralCommitsWakesAConsumerThatDoesNotMove) {
  for (int i = 0; i < 5; ++i) producer_.submit(reserve(), 0);
  EXPECT_EQ(woken(), 1u);
  EXPECT_EQ(drain(), 5);
  producer_.submit(reserve(), 0);
  EXPECT_EQ(woken(), 1u);
}

TEST_F(WakeTest, NothingIsWrittenWhenNobodyWaits) {
  ring_.ring().sub_waiting();
  producer_.submit(reserve(), 0);
  producer_.submit(reserve(), RINGBUF_FORCE_WAKEUP);
  producer_.discard(reserve(), RINGBUF_FORCE_WAKEUP);
  EXPECT_EQ(woken(), 0u);
}

TEST_F(WakeTest, NoWakeupWakesNobody) {
  producer_.submit(reserve(), RINGBUF_NO_WAKEUP);
  EXPECT_EQ(woken(), 0u);
}

// Both would sleep: the producer for room, the consumer for a wakeup.
TEST_F(WakeTest, NoWakeupOfTheHeadWakesWhileAProducerWaitsForRoom) {
  ring_.ring().add_room_waiter();
  producer_.submit(reserve(), RINGBUF_NO_WAKEUP);
  EXPECT_EQ(woken(), 1u);
  producer_.submit(reserve(), RINGBUF_NO_WAKEUP);
  EXPECT_EQ(woken(), 0u) << "only of the record that the consumer has caught up to";
}

TEST_F(WakeTest, ForceWakeupWakesAConsumerThatIsBehind) {
  producer_.submit(reserve(), RINGBUF_NO_WAKEUP);
  producer_.submit(reserve(), RINGBUF_FORCE_WAKEUP);
  EXPECT_EQ(woken(), 1u);
}

TEST_F(WakeTest, ForceAndNoTogetherWake) {
  producer_.submit(reserve(), RINGBUF_FORCE_WAKEUP | RINGBUF_NO_WAKEUP);
  EXPECT_EQ(woken(), 1u);
  producer_.submit(reserve(), RINGBUF_FORCE_WAKEUP | RINGBUF_NO_WAKEUP);
  EXPECT_EQ(woken(), 1u) << "behind";
}

TEST_F(WakeTest, UnknownFlagBitsOfACommitAreIgnored) {
  producer_.submit(reserve(), 0x44);
  EXPECT_EQ(woken(), 1u) << "caught up";
  producer_.submit(reserve(), 0x44);
  EXPECT_EQ(woken(), 0u) << "behind";
}

TEST_F(WakeTest, DiscardFollowsTheSameRule) {
  producer_.discard(reserve(), 0);
  EXPECT_EQ(woken(), 1u);
  producer_.discard(reserve(), 0);
  EXPECT_EQ(woken(), 0u) << "behind";
  producer_.discard(reserve(), RINGBUF_FORCE_WAKEUP);
  EXPECT_EQ(woken(), 1u);
  EXPECT_EQ(drain(), 0);
  producer_.discard(reserve(), RINGBUF_NO_WAKEUP);
  EXPECT_EQ(woken(), 0u);
}

TEST_F(WakeTest, ADiscardWithoutWakeupHidesTheNextSubmitFromTheConsumer) {
  producer_.discard(reserve(), RINGBUF_NO_WAKEUP);
  producer_.submit(reserve(), 0);
  EXPECT_EQ(woken(), 0u) << "the consumer is one record behind";
}

TEST_F(WakeTest, OutOfOrderCommitsWakeOnceWithTheFirstRecord) {
  void* a = reserve();
  void* b = reserve();
  producer_.submit(b, 0);
  EXPECT_EQ(woken(), 0u);
  producer_.submit(a, 0);
  EXPECT_EQ(woken(), 1u);
}

TEST_F(WakeTest, OutOfOrderCommitsWakeNobodyIfTheFirstSaysNoWakeup) {
  void* a = reserve();
  void* b = reserve();
  producer_.submit(b, 0);
  producer_.submit(a, RINGBUF_NO_WAKEUP);
  EXPECT_EQ(woken(), 0u);
}

TEST_F(WakeTest, AConsumerPosThatIsNotOnTheRecordWakesNobody) {
  producer_.submit(reserve(), 0);
  EXPECT_EQ(drain(), 1);
  EXPECT_EQ(woken(), 1u);
  ring_.consumer_page().consumer_pos = 12;
  producer_.submit(reserve(), 0);
  EXPECT_EQ(woken(), 0u);
}

TEST_F(WakeTest, TheConsumerPosIsComparedWithinTheRing) {
  ring_.consumer_page().consumer_pos = 4096;  // a lap ahead: the same offset
  producer_.submit(reserve(), 0);
  EXPECT_EQ(woken(), 1u);
}

TEST_F(WakeTest, TheReserversAttachmentDoesNotMatterTheCommittersSignalIsWritten) {
  second_.submit(reserve(), 0);
  EXPECT_EQ(woken(1), 0u);
  EXPECT_EQ(woken(2), 1u);
}

TEST_F(WakeTest, OutputTakesTheSameFlags) {
  EXPECT_EQ(producer_.output("x", 1, RINGBUF_NO_WAKEUP), 0);
  EXPECT_EQ(woken(), 0u);
  EXPECT_EQ(producer_.output("x", 1, RINGBUF_FORCE_WAKEUP), 0);
  EXPECT_EQ(woken(), 1u);
  EXPECT_EQ(drain(), 2);
  EXPECT_EQ(producer_.output("x", 1, 0), 0);
  EXPECT_EQ(woken(), 1u);
}

TEST_F(WakeTest, EveryCommitIsAnEdgeForEveryConsumersEpoll) {
  const UniqueFd other = ring_.make_wait();
  epoll_event e;
  for (int i = 0; i < 3; ++i) {
    producer_.submit(reserve(), 0);
    EXPECT_EQ(::epoll_wait(ring_.wait_fd(), &e, 1, 0), 1);
    EXPECT_EQ(::epoll_wait(ring_.wait_fd(), &e, 1, 0), 0) << "an edge is seen once";
    EXPECT_EQ(::epoll_wait(other.get(), &e, 1, 0), 1) << "and by each waiter";
    EXPECT_EQ(drain(), 1);
  }
}

TEST_F(WakeTest, AnEpollDescriptorStaysReadableInAnotherUntilItIsWaitedOn) {
  const UniqueFd loop(::epoll_create1(EPOLL_CLOEXEC));
  epoll_event e{};
  e.events = EPOLLIN;
  ASSERT_EQ(::epoll_ctl(loop.get(), EPOLL_CTL_ADD, ring_.wait_fd(), &e), 0);
  producer_.submit(reserve(), 0);
  EXPECT_EQ(::epoll_wait(loop.get(), &e, 1, 0), 1);
  EXPECT_EQ(::epoll_wait(loop.get(), &e, 1, 0), 1);
  EXPECT_EQ(::epoll_wait(ring_.wait_fd(), &e, 1, 0), 1);
  EXPECT_EQ(::epoll_wait(loop.get(), &e, 1, 0), 0);
}

TEST_F(WakeTest, AFullCounterIsEmptiedAndTheConsumerWoken) {
  const std::uint64_t full = UINT64_MAX - 1;
  ASSERT_EQ(::write(ring_.signal_fd(), &full, sizeof full), 8);
  epoll_event e;
  while (::epoll_wait(ring_.wait_fd(), &e, 1, 0) == 1) {}
  errno = E2BIG;
  producer_.submit(reserve(), 0);
  EXPECT_EQ(errno, E2BIG) << "commit keeps errno";
  EXPECT_EQ(::epoll_wait(ring_.wait_fd(), &e, 1, 0), 1);
  EXPECT_EQ(woken(), 1u);
}

TEST_F(WakeTest, ASignalThatCannotBeWrittenHurtsNobody) {
  ringbuf_view v = ring_.producer_view();
  v.signal_fd = -1;
  const Producer mute(v);
  errno = 0;
  mute.submit(mute.reserve(8, 0), 0);
  EXPECT_EQ(errno, 0);
  EXPECT_EQ(drain(), 1);
}

// --- the consumer's side -----------------------------------------------------------------------------------------------

TEST_F(WakeTest, AConsumerMustNotSleepOverACommittedRecord) {
  EXPECT_FALSE(consumer_.must_not_sleep());
  void* p = reserve();
  EXPECT_FALSE(consumer_.must_not_sleep()) << "a BUSY head is nothing to deliver";
  producer_.submit(p, RINGBUF_NO_WAKEUP);
  EXPECT_TRUE(consumer_.must_not_sleep());
  drain();
  EXPECT_FALSE(consumer_.must_not_sleep());
}

TEST_F(WakeTest, ARecordCommittedDuringTheLastCallbackIsDeliveredByTheSameCall) {
  // For every number of records, so that the batches in which consumer_pos is published end before, at and after the last.
  for (int n = 1; n <= 100; ++n) {
    for (int i = 0; i < n; ++i) producer_.submit(reserve(), 0);
    int calls = 0;
    bool left = true;
    (void)woken();
    const auto delivered = consumer_.consume(
        [&](void*, std::size_t) {
          if (++calls == n) producer_.submit(reserve(), 0);  // consumer_pos is behind: wakes nobody
          return 0;
        },
        INT32_MAX, &left);
    EXPECT_EQ(woken(), 0u);
    EXPECT_EQ(delivered, n + 1) << "a record was committed, nobody was woken and the consumer has gone to sleep";
    EXPECT_FALSE(left);
    drain();
  }
}

TEST_F(WakeTest, ALargeRecordCommittedDuringTheLastCallbackIsDeliveredByTheSameCall) {
  for (const std::uint64_t size : {256u, 496u, 504u, 512u, 1024u, 2000u}) {
    producer_.submit(reserve(size), 0);
    int calls = 0;
    (void)woken();
    const auto delivered = consumer_.consume(
        [&](void*, std::size_t) {
          if (++calls == 1) producer_.submit(reserve(), 0);
          return 0;
        },
        INT32_MAX);
    EXPECT_EQ(woken(), 0u);
    EXPECT_EQ(delivered, 2) << size;
    drain();
  }
}

}  // namespace
}  // namespace ringbuf::shm
