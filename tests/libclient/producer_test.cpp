// SPDX-License-Identifier: MIT
// Producing through the C API and through ringbuf.hpp: every result of reserve, output and query; waiting for room.
#include <gtest/gtest.h>
#include <signal.h>

#include <thread>

#include "embedded.hpp"
#include "ringbuf/ringbuf.hpp"

using namespace ringbuf::test;

namespace {

constexpr std::uint32_t kN = 4096;

int count_only(void* ctx, void*, std::size_t) {
  if (ctx) ++*static_cast<std::uint64_t*>(ctx);
  return 0;
}

// A thread's handler that does nothing, so that a signal interrupts and nothing more.
void install_silent_handler(int signal) {
  struct sigaction action {};
  action.sa_handler = [](int) {};
  sigaction(signal, &action, nullptr);
}

TEST(Producer, MovesBytes) {
  FdLeakGuard guard;
  const auto map = embedded_map();
  const auto producer = producer_of(map);
  Gather got;
  const auto consumer = consumer_of(map, Gather::call, &got);
  void* data = ringbuf_reserve(producer.get(), 5, 0);
  ASSERT_NE(data, nullptr);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(data) % 8, 0u);
  std::memcpy(data, "hello", 5);
  ringbuf_submit(producer.get(), data, 0);
  void* none = ringbuf_reserve(producer.get(), 100, 0);
  ASSERT_NE(none, nullptr);
  ringbuf_discard(producer.get(), none, 0);
  EXPECT_EQ(put(producer, ""), 0);
  EXPECT_EQ(put(producer, "world"), 0);
  EXPECT_EQ(ringbuf_consume(consumer.get()), 3) << "the discarded one is not counted";
  EXPECT_EQ(got.records, (std::vector<std::string>{"hello", "", "world"}));
}

TEST(Producer, ReserveFailsWithTheDocumentedErrno) {
  const auto map = embedded_map();
  const auto producer = producer_of(map);
  const auto errno_of = [&](std::size_t size, std::uint64_t flags) {
    errno = 0;
    EXPECT_EQ(ringbuf_reserve(producer.get(), size, flags), nullptr) << size;
    return errno;
  };
  for (int bit = 0; bit < 64; ++bit) EXPECT_EQ(errno_of(8, std::uint64_t{1} << bit), EINVAL);
  for (std::size_t size : {std::size_t{kN - 15}, std::size_t{kN - 8}, std::size_t{kN}, (std::size_t{1} << 30) - 1,
                           std::size_t{1} << 30, std::size_t{0xffffffff}, std::size_t{1} << 32, SIZE_MAX - 7, SIZE_MAX})
    EXPECT_EQ(errno_of(size, 0), E2BIG) << size;
  void* most = ringbuf_reserve(producer.get(), kN - 16, 0);
  ASSERT_NE(most, nullptr);
  EXPECT_EQ(errno_of(0, 0), EAGAIN);
  ringbuf_submit(producer.get(), most, 0);
  EXPECT_EQ(errno_of(0, 0), EAGAIN) << "committed is not consumed";
  std::uint64_t lost[RINGBUF_LOST_REASONS];
  ASSERT_EQ(ringbuf_producer_lost(producer.get(), lost), 0);
  EXPECT_EQ(lost[RINGBUF_LOST_TOO_BIG], 9u);
  EXPECT_EQ(lost[RINGBUF_LOST_FULL] + lost[RINGBUF_LOST_BUSY], 2u);
  EXPECT_EQ(lost[RINGBUF_LOST_LOCK], 0u);
}

TEST(Producer, OutputFailsAsBpfRingbufOutput) {
  const auto map = embedded_map();
  const auto producer = producer_of(map);
  const std::string big(kN, 'x');
  EXPECT_EQ(put(producer, "x", 4), -EINVAL);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(put(producer, "x", RINGBUF_NO_WAKEUP | RINGBUF_FORCE_WAKEUP), 0);
  EXPECT_EQ(put(producer, big), -EAGAIN) << "the kernel has one answer for every failed reservation";
  EXPECT_EQ(put(producer, std::string(kN - 32, 'x')), 0);
  EXPECT_EQ(put(producer, "no room"), -EAGAIN);
  EXPECT_EQ(errno, EAGAIN);
}

TEST(Producer, HoldsWhatTheKernelsRingHolds) {
  const auto map = embedded_map();
  const auto producer = producer_of(map);
  int n = 0;
  while (put(producer, "12345678") == 0) ++n;
  EXPECT_EQ(n, 255);
}

TEST(Producer, QueryAnswersAsTheKernel) {
  const auto map = embedded_map();
  const auto producer = producer_of(map);
  std::uint64_t n = 0;
  const auto consumer = consumer_of(map, count_only, &n);
  ASSERT_EQ(put(producer, "123"), 0);
  ASSERT_EQ(ringbuf_consume(consumer.get()), 1);
  ASSERT_EQ(put(producer, "1234567890"), 0);
  for (auto what : {RINGBUF_AVAIL_DATA, RINGBUF_RING_SIZE, RINGBUF_CONS_POS, RINGBUF_PROD_POS, 4ull, 5ull, ~0ull}) {
    const std::uint64_t expected = what == RINGBUF_AVAIL_DATA  ? 24
                                   : what == RINGBUF_RING_SIZE ? kN
                                   : what == RINGBUF_CONS_POS  ? 16
                                   : what == RINGBUF_PROD_POS  ? 40
                                                               : 0;
    EXPECT_EQ(ringbuf_query(producer.get(), what), expected) << what;
    EXPECT_EQ(ringbuf_consumer_query(consumer.get(), what), expected) << what;
  }
}

TEST(Producer, UnknownCommitFlagsAreIgnored) {
  const auto map = embedded_map();
  const auto producer = producer_of(map);
  Gather got;
  const auto consumer = consumer_of(map, Gather::call, &got);
  void* data = ringbuf_reserve(producer.get(), 1, 0);
  std::memcpy(data, "x", 1);
  ringbuf_submit(producer.get(), data, 0x44);
  EXPECT_EQ(ringbuf_consume(consumer.get()), 1);
}

TEST(Producer, SingleProducerMapHasOne) {
  FdLeakGuard guard;
  const auto map = embedded_map(kN, RINGBUF_F_SINGLE_PRODUCER);
  auto first = producer_of(map);
  ringbuf_producer* second = nullptr;
  EXPECT_EQ(ringbuf_producer_attach(map.get(), &second), -EBUSY);
  EXPECT_EQ(second, nullptr);
  first.reset();
  EXPECT_EQ(put(producer_of(map), "the next one"), 0);
}

TEST(Producer, EverySlotCanBeUsedAndIsGivenBack) {
  FdLeakGuard guard;
  const auto map = embedded_map();
  std::vector<ProducerPtr> all;
  std::vector<bool> taken(RINGBUF_SLOT_COUNT);
  for (unsigned i = 1; i < RINGBUF_SLOT_COUNT; ++i) {
    ringbuf_producer* p = nullptr;
    const int r = ringbuf_producer_attach(map.get(), &p);
    if (r == -EMFILE) GTEST_SKIP() << "this machine allows too few descriptors";
    ASSERT_EQ(r, 0) << i << ": " << ringbuf_last_error();
    all.emplace_back(p);
    const unsigned slot = ringbuf_producer_view(p)->slot;
    ASSERT_TRUE(slot > 0 && slot < RINGBUF_SLOT_COUNT);
    EXPECT_FALSE(taken[slot]) << "slot " << slot << " was given out twice";
    taken[slot] = true;
  }
  ringbuf_producer* more = nullptr;
  EXPECT_EQ(ringbuf_producer_attach(map.get(), &more), -EUSERS);
  EXPECT_EQ(more, nullptr);
  all[500].reset();
  EXPECT_EQ(ringbuf_producer_attach(map.get(), &more), 0);
  ringbuf_producer_free(more);
}

TEST(Producer, LossesAreOfTheAttachmentAndNotOfItsSlot) {
  const auto map = embedded_map();
  std::uint64_t lost[RINGBUF_LOST_REASONS];
  {
    const auto first = producer_of(map);
    EXPECT_EQ(ringbuf_reserve(first.get(), kN, 0), nullptr);
    ringbuf_producer_lost(first.get(), lost);
    EXPECT_EQ(lost[RINGBUF_LOST_TOO_BIG], 1u);
  }
  ringbuf_producer_lost(producer_of(map).get(), lost);
  EXPECT_EQ(lost[RINGBUF_LOST_TOO_BIG], 0u);
}

TEST(Producer, HandlesOfNullAreRefused) {
  errno = 0;
  EXPECT_EQ(ringbuf_reserve(nullptr, 8, 0), nullptr);
  EXPECT_EQ(errno, EINVAL);
  errno = 0;
  EXPECT_EQ(ringbuf_reserve_wait(nullptr, 8, 0), nullptr);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(ringbuf_output(nullptr, "x", 1, 0), -EINVAL);
}

// --- waiting for room ------------------------------------------------------------------------------------------------------

class RoomTest : public ::testing::Test {
 protected:
  // No room for anything: `size` bytes unread.
  void fill(std::size_t size) { ASSERT_EQ(put(producer, std::string(size, 'f')), 0); }

  FdLeakGuard guard;
  MapPtr map = embedded_map();
  ProducerPtr producer = producer_of(map);
  std::uint64_t delivered = 0;
  ConsumerPtr consumer = consumer_of(map, count_only, &delivered);
  ObserverPtr observer = observer_of(map);
};

TEST_F(RoomTest, ThereIsRoomAtOnce) {
  void* data = ringbuf_reserve_wait(producer.get(), 8, -1);
  ASSERT_NE(data, nullptr);
  ringbuf_discard(producer.get(), data, 0);
}

TEST_F(RoomTest, RefusesABadTimeoutAndWhatCanNeverFit) {
  errno = 0;
  EXPECT_EQ(ringbuf_reserve_wait(producer.get(), 8, -2), nullptr);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(ringbuf_reserve_wait(producer.get(), 8, INT32_MIN), nullptr);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(ringbuf_reserve_wait(producer.get(), kN - 15, -1), nullptr);
  EXPECT_EQ(errno, E2BIG);
}

TEST_F(RoomTest, TimeoutOfZeroTriesOnce) {
  fill(kN - 16);
  errno = 0;
  EXPECT_EQ(ringbuf_reserve_wait(producer.get(), 8, 0), nullptr);
  EXPECT_TRUE(errno == EAGAIN || errno == ETIMEDOUT) << errno;
}

TEST_F(RoomTest, TimesOutNotBeforeItsTimeAndIsCountedOnce) {
  fill(kN - 16);
  timespec begin, end;
  ::clock_gettime(CLOCK_MONOTONIC, &begin);
  errno = 0;
  EXPECT_EQ(ringbuf_reserve_wait(producer.get(), 8, 30), nullptr);
  EXPECT_EQ(errno, ETIMEDOUT);
  ::clock_gettime(CLOCK_MONOTONIC, &end);
  EXPECT_GE((end.tv_sec - begin.tv_sec) * 1'000'000'000 + end.tv_nsec - begin.tv_nsec, 30'000'000);
  const auto s = stats_of(observer);
  EXPECT_EQ(s.lost[RINGBUF_LOST_FULL], 1u);
  EXPECT_EQ(s.room_waiters, 0u);
}

TEST_F(RoomTest, GivingUpBehindAnUncommittedRecordIsCountedAsBusy) {
  void* open = ringbuf_reserve(producer.get(), kN - 16, 0);
  ASSERT_NE(open, nullptr);
  EXPECT_EQ(ringbuf_reserve_wait(producer.get(), 8, 1), nullptr);
  EXPECT_EQ(errno, ETIMEDOUT);
  ringbuf_discard(producer.get(), open, 0);
  const auto s = stats_of(observer);
  EXPECT_EQ(s.lost[RINGBUF_LOST_BUSY], 1u);
  EXPECT_EQ(s.lost[RINGBUF_LOST_FULL], 0u);
}

TEST_F(RoomTest, ASignalInterruptsIt) {
  install_silent_handler(SIGUSR1);
  fill(kN - 16);
  std::atomic<bool> done{false};
  std::thread waiter([&] {
    errno = 0;
    EXPECT_EQ(ringbuf_reserve_wait(producer.get(), 8, -1), nullptr);
    EXPECT_EQ(errno, EINTR);
    done = true;
  });
  wait_until([&] {
    if (!done) pthread_kill(waiter.native_handle(), SIGUSR1);
    return done.load();
  });
  waiter.join();
  EXPECT_EQ(stats_of(observer).room_waiters, 0u);
}

TEST_F(RoomTest, IsWokenWhenItsBytesAreFree) {
  fill(kN - 16);
  std::thread waiter([&] {
    void* data = ringbuf_reserve_wait(producer.get(), 1000, -1);
    ASSERT_NE(data, nullptr);
    ringbuf_submit(producer.get(), data, 0);
  });
  wait_until([&] { return stats_of(observer).room_waiters == 1; });
  EXPECT_EQ(ringbuf_consume(consumer.get()), 1);
  waiter.join();
  EXPECT_EQ(ringbuf_consume(consumer.get()), 1);
}

// Several threads wait with needs of different sizes; records are taken out one at a time, so that small needs can be met long
// before large ones. Everybody must come through, whoever was told first.
void needs_of_every_size(const std::vector<ringbuf_producer*>& producers, ringbuf_consumer* consumer, ringbuf_observer* observer,
                         std::uint64_t* delivered) {
  constexpr int kRecords = 400;
  const std::size_t sizes[] = {0, 8, 120, 1000, 2000, kN - 16};
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < std::size(sizes); ++i)
    threads.emplace_back([&, i] {
      ringbuf_producer* producer = producers[i % producers.size()];
      for (int n = 0; n < kRecords; ++n) {
        void* data = ringbuf_reserve_wait(producer, sizes[i], -1);
        ASSERT_NE(data, nullptr) << errno;
        std::memset(data, static_cast<int>(i), sizes[i]);
        ringbuf_submit(producer, data, n % 3 == 0 ? RINGBUF_NO_WAKEUP : 0);
      }
    });
  while (*delivered < kRecords * std::size(sizes)) {
    ASSERT_GE(ringbuf_consume_n(consumer, 1), 0);
    ::sched_yield();
  }
  for (auto& t : threads) t.join();
  ringbuf_stats s;
  ASSERT_EQ(ringbuf_observer_stats(observer, &s, sizeof s), 0);
  EXPECT_EQ(s.room_waiters, 0u);
}

TEST_F(RoomTest, NeedsOfEverySizeOverOneHandleAreMet) {
  needs_of_every_size({producer.get()}, consumer.get(), observer.get(), &delivered);
}

TEST_F(RoomTest, NeedsOfEverySizeOverSeveralHandlesAreMet) {
  std::vector<ProducerPtr> owned;
  std::vector<ringbuf_producer*> producers;
  for (int i = 0; i < 6; ++i) producers.push_back(owned.emplace_back(producer_of(map)).get());
  needs_of_every_size(producers, consumer.get(), observer.get(), &delivered);
}

// A small need must be met while a large one, of the same handle, still cannot be.
TEST_F(RoomTest, ASmallNeedIsMetBesideALargeOne) {
  for (int i = 0; i < 4; ++i) fill(1000);  // 4032 bytes
  std::thread large([&] {
    void* data = ringbuf_reserve_wait(producer.get(), kN - 16, -1);
    ASSERT_NE(data, nullptr);
    ringbuf_submit(producer.get(), data, 0);
  });
  wait_until([&] { return stats_of(observer).room_waiters == 1; });
  std::thread small([&] {
    void* data = ringbuf_reserve_wait(producer.get(), 500, -1);
    ASSERT_NE(data, nullptr);
    ringbuf_submit(producer.get(), data, 0);
  });
  const ringbuf_view& view = *ringbuf_producer_view(producer.get());
  const auto* need = &view.slots[view.slot].need;
  wait_until([&] { return (__atomic_load_n(need, __ATOMIC_RELAXED) & UINT32_MAX) == 512; });
  EXPECT_EQ(stats_of(observer).room_waiters, 1u) << "one handle";
  EXPECT_EQ(ringbuf_consume_n(consumer.get(), 1), 1);
  small.join();
  EXPECT_EQ(stats_of(observer).room_waiters, 1u);
  wait_until([&] { return ringbuf_consume(consumer.get()) >= 0 && delivered == 6; });
  large.join();
}

// NO_WAKEUP records fill the ring; the consumer sleeps and was never told; the producer waits for room. Neither may sleep for
// ever.
TEST_F(RoomTest, NoWakeupRecordsThatFillTheRingDoNotDeadlock) {
  const auto poller = poller_of({consumer.get()});
  constexpr std::uint64_t kTotal = 20'000;
  std::thread sleeper([&] {
    while (delivered < kTotal) ASSERT_GE(ringbuf_poll(poller.get(), -1), 0);
  });
  for (std::uint64_t i = 0; i < kTotal - 1; ++i) {
    void* data = ringbuf_reserve_wait(producer.get(), 100, -1);
    ASSERT_NE(data, nullptr);
    ringbuf_submit(producer.get(), data, RINGBUF_NO_WAKEUP);
  }
  void* last = ringbuf_reserve_wait(producer.get(), 100, -1);
  ringbuf_submit(producer.get(), last, RINGBUF_FORCE_WAKEUP);
  sleeper.join();
}

// The same with the consumer in a loop of its own.
TEST_F(RoomTest, NoWakeupRecordsThatFillTheRingWakeAnOwnLoop) {
  const int fd = ringbuf_consumer_epoll_fd(consumer.get());
  ASSERT_GE(fd, 0);
  constexpr std::uint64_t kTotal = 20'000;
  std::thread loop([&] {
    while (delivered < kTotal) {
      pollfd p{fd, POLLIN, 0};
      ::poll(&p, 1, -1);
      ASSERT_GE(ringbuf_consume(consumer.get()), 0);
    }
  });
  for (std::uint64_t i = 0; i < kTotal; ++i) {
    void* data = ringbuf_reserve_wait(producer.get(), 100, -1);
    ASSERT_NE(data, nullptr);
    ringbuf_submit(producer.get(), data, i == kTotal - 1 ? RINGBUF_FORCE_WAKEUP : RINGBUF_NO_WAKEUP);
  }
  loop.join();
}

// --- a signal handler that meets its own thread inside reserve ----------------------------------------------------------------

TEST(Producer, ReserveFromWithinReserveFailsAtOnce) {
  const auto map = embedded_map();
  const auto producer = producer_of(map);
  ringbuf_view view = *ringbuf_producer_view(producer.get());
  // This thread's own word stands in the owner: as a handler finds it that interrupted reserve.
  const std::uint64_t me = std::uint64_t{view.slot} << 32 | static_cast<std::uint32_t>(::gettid());
  view.producer_page->owner = me;
  errno = 0;
  EXPECT_EQ(ringbuf_reserve(producer.get(), 8, 0), nullptr);
  EXPECT_EQ(errno, EDEADLK);
  EXPECT_EQ(ringbuf_reserve_wait(producer.get(), 8, -1), nullptr);
  EXPECT_EQ(errno, EDEADLK);
  view.producer_page->owner = 0;
  EXPECT_EQ(put(producer, "x"), 0);
}

TEST(Producer, AnOwnerThatDoesNotLeaveIsReported) {
  const auto map = embedded_map();
  const auto producer = producer_of(map);
  const auto observer = observer_of(map);
  ringbuf_producer_view(producer.get())->producer_page->owner = std::uint64_t{1} << 32 | 1;  // "init" holds it
  errno = 0;
  EXPECT_EQ(ringbuf_reserve(producer.get(), 8, 0), nullptr);
  EXPECT_EQ(errno, EBUSY);
  EXPECT_EQ(stats_of(observer).owner_tid, 1u);
  EXPECT_EQ(stats_of(observer).lost[RINGBUF_LOST_LOCK], 1u);
  ringbuf_producer_view(producer.get())->producer_page->owner = 0;
  EXPECT_EQ(put(producer, "x"), 0);
}

// --- the C++ API ---------------------------------------------------------------------------------------------------------------

class CppProducer : public ::testing::Test {
 protected:
  // What is in the ring, as the consumer gets it.
  std::vector<std::string> drain() {
    std::vector<std::string> records;
    EXPECT_GE(consumer.consume([&](void* data, std::size_t size) {
      records.emplace_back(static_cast<const char*>(data), size);
      return 0;
    }),
              0);
    return records;
  }
  static void write(ringbuf::Reservation& r, const char* text) { std::memcpy(r.data(), text, r.size()); }

  FdLeakGuard guard;
  ringbuf::Map map = std::move(*ringbuf::Map::create_embedded("cpp", kN));
  ringbuf::Producer producer = std::move(*ringbuf::Producer::attach(map));
  ringbuf::Consumer consumer = std::move(*ringbuf::Consumer::attach(map));
};

TEST_F(CppProducer, ForgottenReservationsAreDiscarded) {
  {
    auto r = producer.reserve(8);
    ASSERT_TRUE(r);
    EXPECT_EQ(r.size(), 8u);
    EXPECT_EQ(r.bytes().size(), 8u);
  }
  EXPECT_EQ(producer.output("next", 4), 0);
  EXPECT_EQ(drain(), std::vector<std::string>{"next"});
  EXPECT_EQ(producer.query(RINGBUF_AVAIL_DATA), 0u);
}

TEST_F(CppProducer, SubmitEndsTheReservation) {
  auto r = producer.reserve(1);
  write(r, "a");
  r.submit();
  EXPECT_FALSE(r);
  r.submit();
  r.discard();  // all no-ops now
  EXPECT_EQ(drain(), std::vector<std::string>{"a"});
}

TEST_F(CppProducer, ReservationsMove) {
  auto a = producer.reserve(1);
  auto b = producer.reserve(1);
  write(a, "a");
  write(b, "b");
  auto c = std::move(a);
  EXPECT_FALSE(a);
  EXPECT_TRUE(c);
  c = std::move(b);  // discards "a"
  auto& itself = c;
  c = std::move(itself);
  ASSERT_TRUE(c) << "a move onto itself keeps it";
  c.submit();
  EXPECT_EQ(drain(), std::vector<std::string>{"b"});
  ringbuf::Reservation none;
  EXPECT_FALSE(none);
  none.submit();
}

TEST_F(CppProducer, ReservationsMayBeCommittedByAnotherThread) {
  auto r = producer.reserve(1);
  write(r, "t");
  std::thread([moved = std::move(r)]() mutable { moved.submit(); }).join();
  EXPECT_EQ(drain(), std::vector<std::string>{"t"});
}

TEST_F(CppProducer, FailedReservationsAreEmptyAndHarmless) {
  errno = 0;
  auto r = producer.reserve(kN);
  EXPECT_FALSE(r);
  EXPECT_EQ(errno, E2BIG);
  r.submit();
  r.discard();
  auto all = producer.reserve(kN - 16);
  EXPECT_FALSE(producer.reserve_wait(8, 1));
  EXPECT_EQ(errno, ETIMEDOUT);
  EXPECT_EQ(producer.output("x", 1), -EAGAIN);
}

TEST_F(CppProducer, LossesAreCountedByReasonForItAndForTheRing) {
  auto other = ringbuf::Producer::attach(map);
  auto observer = ringbuf::Observer::attach(map);
  ASSERT_TRUE(other && observer);
  EXPECT_FALSE(producer.reserve(kN));
  EXPECT_FALSE(other->reserve(kN));
  EXPECT_EQ(producer.lost()[RINGBUF_LOST_TOO_BIG], 1u);
  EXPECT_EQ(producer.lost()[RINGBUF_LOST_FULL], 0u);
  EXPECT_EQ(observer->stats().lost[RINGBUF_LOST_TOO_BIG], 2u);
}

TEST_F(CppProducer, OwnersMove) {
  auto r = producer.reserve(1);
  write(r, "m");
  ringbuf::Producer moved = std::move(producer);
  r.submit();  // reservations follow the ring, not the object
  EXPECT_EQ(drain(), std::vector<std::string>{"m"});
  producer = std::move(moved);
  EXPECT_EQ(producer.output("n", 1), 0);
  ringbuf::Consumer other = std::move(consumer);
  consumer = std::move(other);
  EXPECT_EQ(drain(), std::vector<std::string>{"n"});
}

TEST_F(CppProducer, FailuresCarryErrnoAndASentence) {
  auto bad = ringbuf::Map::create_embedded("m", 5000);
  ASSERT_FALSE(bad);
  EXPECT_EQ(bad.error().err, EINVAL);
  EXPECT_FALSE(bad.error().what.empty());
  auto none = ringbuf::Session::connect("/nonexistent/ringbufd.sock");
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().err, ENOENT);
}

}  // namespace
