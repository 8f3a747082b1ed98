// SPDX-License-Identifier: MIT
// Sleeping for records: pollers over several rings, and the epoll descriptor in an application's own level-triggered loop.
#include <gtest/gtest.h>
#include <signal.h>

#include <thread>

#include "embedded.hpp"

using namespace ringbuf::test;

namespace {

struct Ring {
  explicit Ring(std::uint32_t max_entries = 4096) : map(embedded_map(max_entries)) {}
  MapPtr map;
  ProducerPtr producer = producer_of(map);
  Gather got;
  ConsumerPtr consumer = consumer_of(map, Gather::call, &got);
  ObserverPtr observer = observer_of(map);
};

class PollerTest : public ::testing::Test {
 protected:
  FdLeakGuard guard;
};

TEST_F(PollerTest, ReturnsZeroAfterItsTimeoutAndNotBefore) {
  Ring ring;
  const auto poller = poller_of({ring.consumer.get()});
  EXPECT_EQ(ringbuf_poll(poller.get(), 0), 0);
  timespec begin, end;
  ::clock_gettime(CLOCK_MONOTONIC, &begin);
  EXPECT_EQ(ringbuf_poll(poller.get(), 30), 0);
  ::clock_gettime(CLOCK_MONOTONIC, &end);
  EXPECT_GE((end.tv_sec - begin.tv_sec) * 1'000'000'000 + end.tv_nsec - begin.tv_nsec, 29'000'000);
  EXPECT_EQ(stats_of(ring.observer).waiting, 0u);
  EXPECT_EQ(ringbuf_poll(poller_of({}).get(), 1), 0) << "no rings at all";
}

TEST_F(PollerTest, RefusesABadTimeout) {
  EXPECT_EQ(ringbuf_poll(poller_of({}).get(), -2), -EINVAL);
  EXPECT_EQ(ringbuf_poll(poller_of({}).get(), INT32_MIN), -EINVAL);
}

TEST_F(PollerTest, AddsAConsumerOnce) {
  Ring ring;
  const auto poller = poller_of({ring.consumer.get()});
  EXPECT_EQ(ringbuf_poller_add(poller.get(), ring.consumer.get()), -EEXIST);
  EXPECT_EQ(ringbuf_poller_remove(poller.get(), ring.consumer.get()), 0);
  EXPECT_EQ(ringbuf_poller_remove(poller.get(), ring.consumer.get()), -ENOENT);
  EXPECT_EQ(ringbuf_poller_add(poller.get(), ring.consumer.get()), 0);
}

TEST_F(PollerTest, DeliversFromEveryRingInTheOrderAdded) {
  Ring a, b, c;
  Gather all;
  const auto ca = consumer_of(a.map, Gather::call, &all), cb = consumer_of(b.map, Gather::call, &all),
             cc = consumer_of(c.map, Gather::call, &all);
  const auto poller = poller_of({cb.get(), ca.get(), cc.get()});
  put(c.producer, "c");
  put(a.producer, "a");
  put(b.producer, "b");
  EXPECT_EQ(ringbuf_poll(poller.get(), -1), 3);
  EXPECT_EQ(all.records, (std::vector<std::string>{"b", "a", "c"}));
  put(c.producer, "c");
  EXPECT_EQ(ringbuf_poller_consume(poller.get()), 1);
  EXPECT_EQ(ringbuf_poller_consume(poller.get()), 0);
  ASSERT_EQ(ringbuf_poller_remove(poller.get(), ca.get()), 0);
  put(a.producer, "a");
  EXPECT_EQ(ringbuf_poller_consume(poller.get()), 0);
  EXPECT_EQ(ringbuf_consume(ca.get()), 1);
}

TEST_F(PollerTest, ReturnsWhatACallbackReturnsAndWhatARingReports) {
  Ring a, b;
  const auto poller = poller_of({a.consumer.get(), b.consumer.get()});
  a.got.result = -42;
  put(a.producer, "a");
  put(b.producer, "b");
  EXPECT_EQ(ringbuf_poll(poller.get(), -1), -42);
  EXPECT_EQ(b.got.records.size(), 0u);
  EXPECT_EQ(ringbuf_poll(poller.get(), -1), 1) << "the other ring's record was kept";
  put(b.producer, "bad");
  *reinterpret_cast<std::uint32_t*>(ringbuf_producer_view(b.producer.get())->data + 16) = 0x3fffffff;
  EXPECT_EQ(ringbuf_poll(poller.get(), -1), -EBADMSG);
  EXPECT_EQ(ringbuf_poll(poller.get(), -1), -EBADMSG);
  EXPECT_EQ(ringbuf_consumer_reset(b.consumer.get()), 16);
  EXPECT_EQ(ringbuf_poll(poller.get(), 0), 0);
}

// Who may write one ring may not stop another.
TEST_F(PollerTest, ACorruptRingDoesNotKeepTheOthersWaiting) {
  Ring a, b;
  const auto poller = poller_of({a.consumer.get(), b.consumer.get()});
  put(a.producer, "bad");
  *reinterpret_cast<std::uint32_t*>(ringbuf_producer_view(a.producer.get())->data) = 0x3fffffff;
  for (unsigned i = 1; i <= 3; ++i) {
    put(b.producer, "b");
    EXPECT_EQ(ringbuf_poll(poller.get(), -1), -EBADMSG);
    EXPECT_EQ(b.got.records.size(), i);
  }
  EXPECT_EQ(ringbuf_consume(a.consumer.get()), -EBADMSG) << "this tells which";
  EXPECT_EQ(ringbuf_consume(b.consumer.get()), 0);
}

TEST_F(PollerTest, ACallbacksEbadmsgIsItsOwn) {
  Ring a, b;
  const auto poller = poller_of({a.consumer.get(), b.consumer.get()});
  a.got.result = -EBADMSG;
  put(a.producer, "a");
  put(b.producer, "b");
  EXPECT_EQ(ringbuf_poll(poller.get(), -1), -EBADMSG);
  EXPECT_EQ(b.got.records.size(), 0u) << "it stopped the poller";
}

TEST_F(PollerTest, ACallbackMayNotChangeOrUseThePollerThatCalledIt) {
  Ring a, b;
  struct Context {
    ringbuf_poller* poller;
    ringbuf_consumer *self, *other;
    int results[4];
  } context{};
  const auto consumer = consumer_of(
      a.map,
      [](void* ctx, void*, std::size_t) {
        auto& c = *static_cast<Context*>(ctx);
        c.results[0] = ringbuf_poller_add(c.poller, c.other);
        c.results[1] = ringbuf_poller_remove(c.poller, c.self);
        c.results[2] = ringbuf_poll(c.poller, 0);
        c.results[3] = ringbuf_poller_consume(c.poller);
        return 0;
      },
      &context);
  const auto poller = poller_of({consumer.get()});
  context = {poller.get(), consumer.get(), b.consumer.get(), {}};
  put(a.producer, "a");
  EXPECT_EQ(ringbuf_poll(poller.get(), -1), 1);
  for (const int r : context.results) EXPECT_EQ(r, -EBUSY);
  EXPECT_EQ(ringbuf_poller_add(poller.get(), b.consumer.get()), 0) << "afterwards it may";
}

// The first ring's callback stops the poller; the second ring's edge, seen by the same sleep, must still be there for others.
TEST_F(PollerTest, WhatAStoppedPollDidNotLookAtStaysAnnounced) {
  Ring first, second;
  first.got.result = -1;
  const auto stopped = poller_of({first.consumer.get(), second.consumer.get()}), other = poller_of({second.consumer.get()});
  const int fd = ringbuf_poller_epoll_fd(other.get());
  for (int round = 0; round < 300; ++round) {
    void* one = ringbuf_reserve(first.producer.get(), 8, 0);
    void* two = ringbuf_reserve(second.producer.get(), 8, 0);
    std::thread sleeper([&] {
      while (ringbuf_poll(stopped.get(), -1) != -1) continue;
    });
    wait_until([&] { return stats_of(second.observer).waiting == 2; });
    ringbuf_submit(second.producer.get(), two, 0);
    ringbuf_submit(first.producer.get(), one, 0);
    sleeper.join();
    const auto s = stats_of(second.observer);
    ASSERT_TRUE(s.consumer_pos == s.producer_pos || readable(fd)) << "round " << round;
    ringbuf_poller_consume(other.get());
  }
}

// One poller takes the edges, its callback stops and it does not come back: the other one must hear of what is left. Tried often,
// since it depends on who wakes first.
TEST_F(PollerTest, WhatAStoppedPollLeavesBehindWakesAnotherPollerOfTheConsumer) {
  for (int round = 0; round < 300; ++round) {
    Ring ring;
    ring.got.result = -1;  // a record a call
    const auto once = poller_of({ring.consumer.get()}), rest = poller_of({ring.consumer.get()});
    void* one = ringbuf_reserve(ring.producer.get(), 8, 0);
    void* two = ringbuf_reserve(ring.producer.get(), 8, 0);
    void* three = ringbuf_reserve(ring.producer.get(), 8, 0);
    ringbuf_submit(ring.producer.get(), two, 0);
    ringbuf_submit(ring.producer.get(), three, 0);
    std::thread first([&] { ringbuf_poll(once.get(), -1); });
    std::thread second([&] {  // two records at least are for it
      for (int i = 0; i < 2; ++i) ringbuf_poll(rest.get(), -1);
    });
    wait_until([&] { return stats_of(ring.observer).waiting == 2; });
    ringbuf_submit(ring.producer.get(), one, 0);
    second.join();
    first.join();
  }
}

TEST_F(PollerTest, HandlesOfNullAreRefused) {
  const auto poller = poller_of({});
  EXPECT_EQ(ringbuf_poll(nullptr, 0), -EINVAL);
  EXPECT_EQ(ringbuf_poller_consume(nullptr), -EINVAL);
  EXPECT_EQ(ringbuf_poller_epoll_fd(nullptr), -EINVAL);
  EXPECT_EQ(ringbuf_poller_add(poller.get(), nullptr), -EINVAL);
  EXPECT_EQ(ringbuf_poller_remove(nullptr, nullptr), -EINVAL);
  EXPECT_EQ(ringbuf_consume(nullptr), -EINVAL);
  EXPECT_EQ(ringbuf_consume_n(nullptr, 1), -EINVAL);
  EXPECT_EQ(ringbuf_consumer_reset(nullptr), -EINVAL);
  EXPECT_EQ(ringbuf_consumer_epoll_fd(nullptr), -EINVAL);
  EXPECT_EQ(ringbuf_consumer_query(nullptr, RINGBUF_RING_SIZE), 0u);
  EXPECT_EQ(ringbuf_query(nullptr, RINGBUF_RING_SIZE), 0u);
  EXPECT_EQ(ringbuf_producer_lost(nullptr, nullptr), -EINVAL);
  EXPECT_EQ(ringbuf_observer_stats(nullptr, nullptr, 0), -EINVAL);
  EXPECT_EQ(ringbuf_observer_dump(nullptr, nullptr, nullptr), -EINVAL);
}

TEST_F(PollerTest, WithoutACallbackThereIsNothingToCall) {
  Ring ring;
  const auto silent = consumer_of(ring.map, nullptr, nullptr);
  EXPECT_EQ(ringbuf_poll(poller_of({silent.get()}).get(), 0), -EINVAL);
}

TEST_F(PollerTest, ASignalInterruptsIt) {
  struct sigaction action {};
  action.sa_handler = [](int) {};
  action.sa_flags = SA_RESTART;  // makes no difference to a sleep
  sigaction(SIGUSR1, &action, nullptr);
  Ring ring;
  const auto poller = poller_of({ring.consumer.get()});
  std::atomic<bool> done{false};
  std::thread sleeper([&] {
    errno = 0;
    EXPECT_EQ(ringbuf_poll(poller.get(), -1), -EINTR);
    EXPECT_EQ(errno, EINTR);
    done = true;
  });
  wait_until([&] {
    if (!done) pthread_kill(sleeper.native_handle(), SIGUSR1);
    return done.load();
  });
  sleeper.join();
  EXPECT_EQ(stats_of(ring.observer).waiting, 0u);
}

TEST_F(PollerTest, SleepsUntilAnyOfItsRingsHasSomething) {
  Ring rings[3];
  const auto poller = poller_of({rings[0].consumer.get(), rings[1].consumer.get(), rings[2].consumer.get()});
  for (int round = 0; round < 30; ++round) {
    Ring& ring = rings[round % 3];
    std::thread sleeper([&] { EXPECT_EQ(ringbuf_poll(poller.get(), -1), 1); });
    wait_until([&] { return stats_of(rings[2].observer).waiting == 1; });
    put(ring.producer, "x");
    sleeper.join();
  }
  for (Ring& ring : rings) {
    EXPECT_EQ(ring.got.records.size(), 10u);
    EXPECT_EQ(stats_of(ring.observer).waiting, 0u);
    EXPECT_EQ(stats_of(ring.observer).records, 10u);
  }
}

// A producer and a sleeper take turns many times: each record is committed to a consumer that sleeps or is about to.
TEST_F(PollerTest, NoRecordIsSleptOver) {
  Ring ring;
  const auto poller = poller_of({ring.consumer.get()});
  std::atomic<int> seen{0};
  constexpr int kRounds = 20'000;
  std::thread sleeper([&] {
    for (int n = 0; n < kRounds; n = seen) {
      const int r = ringbuf_poll(poller.get(), -1);
      ASSERT_GT(r, 0);
      seen += r;
    }
  });
  for (int i = 1; i <= kRounds; ++i) {
    ASSERT_EQ(put(ring.producer, "x"), 0);
    wait_until([&] { return seen == i; });
  }
  sleeper.join();
}

// Two pollers of one ring in two threads, of which one keeps timing out: its leaving must not silence the other's wakeup.
TEST_F(PollerTest, TwoPollersOfOneRingOfWhichOneTimesOut) {
  Ring ring;
  Gather unused;
  std::atomic<std::uint64_t> seen{0};
  const auto count = [](void* ctx, void*, std::size_t) {
    ++*static_cast<std::atomic<std::uint64_t>*>(ctx);
    return 0;
  };
  const auto a = consumer_of(ring.map, count, &seen), b = consumer_of(ring.map, count, &seen);
  const auto pa = poller_of({a.get()}), pb = poller_of({b.get()});
  constexpr std::uint64_t kRounds = 5000;
  std::thread restless([&] {
    while (seen < kRounds) ASSERT_GE(ringbuf_poll(pa.get(), 1), 0);
  });
  std::thread patient([&] {
    while (seen < kRounds) ASSERT_GE(ringbuf_poll(pb.get(), 20), 0);
  });
  for (std::uint64_t i = 1; i <= kRounds; ++i) {
    ASSERT_EQ(put(ring.producer, "x"), 0);
    wait_until([&] { return seen == i; });
  }
  restless.join();
  patient.join();
  EXPECT_EQ(stats_of(ring.observer).waiting, 0u);
}

// --- the epoll descriptor ------------------------------------------------------------------------------------------------------

class EpollFd : public PollerTest {
 protected:
  int hand_out() {
    const int fd = ringbuf_consumer_epoll_fd(ring.consumer.get());
    EXPECT_GE(fd, 0);
    return fd;
  }
  Ring ring;
};

TEST_F(EpollFd, IsReadableUntilConsumed) {
  const int fd = hand_out();
  EXPECT_EQ(hand_out(), fd) << "there is one";
  EXPECT_FALSE(readable(fd));
  put(ring.producer, "1");
  EXPECT_TRUE(readable(fd));
  EXPECT_TRUE(readable(fd)) << "looking does not take it away";
  EXPECT_EQ(ringbuf_consume(ring.consumer.get()), 1);
  EXPECT_FALSE(readable(fd));
  EXPECT_EQ(stats_of(ring.observer).waiting, 1u);
  ring.consumer.reset();
  EXPECT_EQ(stats_of(ring.observer).waiting, 0u);
}

TEST_F(EpollFd, IsCloseOnExec) { EXPECT_TRUE(::fcntl(hand_out(), F_GETFD) & FD_CLOEXEC); }

TEST_F(EpollFd, IsReadableAtOnceIfDataAreThere) {
  put(ring.producer, "1");
  EXPECT_TRUE(readable(hand_out()));
}

TEST_F(EpollFd, StaysReadableWhileDataAreLeft) {
  const int fd = hand_out();
  for (const char* t : {"1", "2", "3"}) put(ring.producer, t);
  for (int left = 2; left >= 0; --left) {
    EXPECT_EQ(ringbuf_consume_n(ring.consumer.get(), 1), 1);
    if (left > 0) {
      EXPECT_TRUE(readable(fd)) << left;
    }
  }
  EXPECT_EQ(ringbuf_consume(ring.consumer.get()), 0);  // a spurious wakeup is allowed after the last; it ends here
  EXPECT_FALSE(readable(fd));
}

TEST_F(EpollFd, StaysReadableWhenACallbackStops) {
  const int fd = hand_out();
  put(ring.producer, "1");
  put(ring.producer, "2");
  ring.got.result = -1;
  EXPECT_EQ(ringbuf_consume(ring.consumer.get()), -1);
  EXPECT_TRUE(readable(fd));
  ring.got.result = 0;
  EXPECT_EQ(ringbuf_consume(ring.consumer.get()), 1);
  EXPECT_FALSE(readable(fd));
}

TEST_F(EpollFd, StaysReadableWhileTheRingIsCorruptAndNotAfterReset) {
  const int fd = hand_out();
  put(ring.producer, "1");
  *reinterpret_cast<std::uint32_t*>(ringbuf_producer_view(ring.producer.get())->data) = 0x3fffffff;
  EXPECT_EQ(ringbuf_consume(ring.consumer.get()), -EBADMSG);
  EXPECT_TRUE(readable(fd));
  EXPECT_GT(ringbuf_consumer_reset(ring.consumer.get()), 0);
  EXPECT_FALSE(readable(fd));
  put(ring.producer, "2");
  EXPECT_TRUE(readable(fd));
}

TEST_F(EpollFd, NoWakeupAndNotCaughtUpDoNotRaiseIt) {
  const int fd = hand_out();
  put(ring.producer, "1", RINGBUF_NO_WAKEUP);
  EXPECT_FALSE(readable(fd));
  put(ring.producer, "2");
  EXPECT_FALSE(readable(fd)) << "the consumer had not caught up to this record";
  put(ring.producer, "3", RINGBUF_FORCE_WAKEUP);
  EXPECT_TRUE(readable(fd));
  EXPECT_EQ(ringbuf_consume(ring.consumer.get()), 3);
  put(ring.producer, "4", RINGBUF_FORCE_WAKEUP | RINGBUF_NO_WAKEUP);
  EXPECT_TRUE(readable(fd)) << "FORCE wins, as in the kernel";
}

TEST_F(EpollFd, ABusyHeadDoesNotRaiseItAndItsCommitDoes) {
  const int fd = hand_out();
  void* head = ringbuf_reserve(ring.producer.get(), 8, 0);
  put(ring.producer, "behind");
  EXPECT_FALSE(readable(fd));
  EXPECT_EQ(ringbuf_consume(ring.consumer.get()), 0);
  EXPECT_FALSE(readable(fd));
  ringbuf_submit(ring.producer.get(), head, 0);
  EXPECT_TRUE(readable(fd));
  EXPECT_EQ(ringbuf_consume(ring.consumer.get()), 2);
  EXPECT_FALSE(readable(fd));
}

TEST_F(EpollFd, ADiscardedHeadRaisesItToo) {
  const int fd = hand_out();
  ringbuf_discard(ring.producer.get(), ringbuf_reserve(ring.producer.get(), 8, 0), 0);
  EXPECT_TRUE(readable(fd));
  EXPECT_EQ(ringbuf_consume(ring.consumer.get()), 0);
  EXPECT_FALSE(readable(fd));
}

TEST_F(EpollFd, ManyProducersManyEdges) {
  const int fd = hand_out();
  std::vector<ProducerPtr> producers;
  for (int i = 0; i < 40; ++i) producers.push_back(producer_of(ring.map));
  for (const auto& p : producers) EXPECT_EQ(put(p, "x", RINGBUF_FORCE_WAKEUP), 0);
  EXPECT_TRUE(readable(fd));
  EXPECT_EQ(ringbuf_consume(ring.consumer.get()), 40);
  EXPECT_FALSE(readable(fd));
}

TEST_F(EpollFd, EachConsumerOfARingHasItsOwn) {
  Gather other_got;
  const auto other = consumer_of(ring.map, Gather::call, &other_got);
  const int a = hand_out(), b = ringbuf_consumer_epoll_fd(other.get());
  ASSERT_NE(a, b);
  put(ring.producer, "1");
  EXPECT_TRUE(readable(a));
  EXPECT_TRUE(readable(b));
  EXPECT_EQ(ringbuf_consume(ring.consumer.get()), 1);
  EXPECT_FALSE(readable(a));
  EXPECT_EQ(ringbuf_consume(other.get()), 0);  // spurious
  EXPECT_FALSE(readable(b));
  put(ring.producer, "2");
  EXPECT_TRUE(readable(a)) << "the other's reading took nothing away";
  EXPECT_TRUE(readable(b));
}

TEST_F(EpollFd, APollersDescriptorStandsForAllItsRings) {
  Ring second, late;
  const auto poller = poller_of({ring.consumer.get(), second.consumer.get()});
  const int fd = ringbuf_poller_epoll_fd(poller.get());
  ASSERT_GE(fd, 0);
  EXPECT_FALSE(readable(fd));
  put(second.producer, "1");
  EXPECT_TRUE(readable(fd));
  put(ring.producer, "2");
  EXPECT_EQ(ringbuf_poller_consume(poller.get()), 2);
  EXPECT_FALSE(readable(fd));
  put(late.producer, "3");
  ASSERT_EQ(ringbuf_poller_add(poller.get(), late.consumer.get()), 0);
  EXPECT_TRUE(readable(fd)) << "added after the descriptor was handed out, with data in it";
  EXPECT_EQ(ringbuf_poller_consume(poller.get()), 1);
  EXPECT_FALSE(readable(fd));
  put(late.producer, "4");
  ASSERT_EQ(ringbuf_poller_remove(poller.get(), late.consumer.get()), 0);
  EXPECT_FALSE(readable(fd)) << "not this poller's any more";
}

// The first ring's callback stops the call; the second ring's data must still be announced.
TEST_F(EpollFd, AStoppedPollerConsumeLeavesTheOtherRingsReadable) {
  Ring second;
  const auto poller = poller_of({ring.consumer.get(), second.consumer.get()});
  const int fd = ringbuf_poller_epoll_fd(poller.get());
  ring.got.result = -1;
  put(ring.producer, "1");
  put(second.producer, "2");
  EXPECT_EQ(ringbuf_poller_consume(poller.get()), -1);
  EXPECT_TRUE(readable(fd));
  ring.got.result = 0;
  EXPECT_EQ(ringbuf_poller_consume(poller.get()), 1);
  EXPECT_FALSE(readable(fd));
}

// The same after a poll that slept: what woke it was seen by the poller, but an own loop has not seen the second ring's data.
TEST_F(EpollFd, AStoppedPollLeavesTheOtherRingsReadable) {
  Ring second;
  const auto poller = poller_of({ring.consumer.get(), second.consumer.get()});
  const int fd = ringbuf_poller_epoll_fd(poller.get());
  ring.got.result = -1;
  std::thread sleeper([&] { EXPECT_EQ(ringbuf_poll(poller.get(), -1), -1); });
  wait_until([&] { return stats_of(second.observer).waiting == 2; });  // the descriptor and the sleeper
  put(second.producer, "NO_WAKEUP, so that the first ring's record is what ends the sleep", RINGBUF_NO_WAKEUP);
  put(ring.producer, "stop");
  sleeper.join();
  // Whatever order they were seen in: if the second ring still has data that were announced, the loop must hear of them.
  put(second.producer, "announced", RINGBUF_FORCE_WAKEUP);
  EXPECT_TRUE(readable(fd));
  ring.got.result = 0;
  EXPECT_GE(ringbuf_poller_consume(poller.get()), 1);
}

// An application's own level-triggered epoll, nested; every record is waited for.
TEST_F(EpollFd, NestsInAnOwnLoop) {
  const int loop = ::epoll_create1(EPOLL_CLOEXEC);
  epoll_event e{};
  e.events = EPOLLIN;
  ASSERT_EQ(::epoll_ctl(loop, EPOLL_CTL_ADD, hand_out(), &e), 0);
  constexpr int kRounds = 20'000;
  std::atomic<int> seen{0};
  std::thread own([&] {
    while (seen < kRounds) {
      epoll_event ready;
      ASSERT_EQ(::epoll_wait(loop, &ready, 1, -1), 1);
      seen += ringbuf_consume_n(ring.consumer.get(), 1 + seen % 2);
    }
  });
  for (int i = 1; i <= kRounds; ++i) {
    ASSERT_EQ(put(ring.producer, "x"), 0);
    if (i % 5 == 0) wait_until([&] { return seen == i; });
  }
  own.join();
  ::close(loop);
}

TEST_F(EpollFd, TwoLoopsOverOneRingMissNothing) {
  std::atomic<int> seen{0};
  const auto count = [](void* ctx, void*, std::size_t) {
    ++*static_cast<std::atomic<int>*>(ctx);
    return 0;
  };
  const ConsumerPtr consumers[2] = {consumer_of(ring.map, count, &seen), consumer_of(ring.map, count, &seen)};
  constexpr int kRounds = 10'000;
  std::vector<std::thread> loops;
  for (const auto& c : consumers)
    loops.emplace_back([&] {
      const int fd = ringbuf_consumer_epoll_fd(c.get());
      while (seen < kRounds) {
        pollfd p{fd, POLLIN, 0};
        ::poll(&p, 1, -1);
        ASSERT_GE(ringbuf_consume_n(c.get(), 1), 0);
      }
    });
  for (int i = 1; i <= kRounds; ++i) {
    ASSERT_EQ(put(ring.producer, "x"), 0);
    wait_until([&] { return seen >= i; });
  }
  wait_until([&] { return seen >= kRounds; });
  put(ring.producer, "so that both loops wake and see the end");
  for (auto& l : loops) l.join();
}

}  // namespace
