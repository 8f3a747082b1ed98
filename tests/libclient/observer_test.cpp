// SPDX-License-Identifier: MIT
// Looking at a ring without taking part: statistics, and dumps beside producers and a consumer at work.
#include <gtest/gtest.h>

#include <thread>

#include "embedded.hpp"
#include "support/payload.hpp"

using namespace ringbuf::test;

namespace {

struct Shown {
  std::uint64_t pos;
  std::uint32_t flags, slot;
  std::string data;
  std::size_t size;
};

struct Dump {
  std::vector<Shown> records;
  int result = 0;

  static int call(void* ctx, std::uint64_t pos, std::uint32_t flags, std::uint32_t slot, const void* data, std::size_t size) {
    auto* self = static_cast<Dump*>(ctx);
    EXPECT_EQ(data == nullptr, (flags & RINGBUF_BUSY_BIT) != 0);
    self->records.push_back({pos, flags, slot, data ? std::string(static_cast<const char*>(data), size) : "", size});
    return self->result;
  }
};

class ObserverTest : public ::testing::Test {
 protected:
  FdLeakGuard guard;
  MapPtr map = embedded_map();
  ProducerPtr producer = producer_of(map);
  Gather got;
  ConsumerPtr consumer = consumer_of(map, Gather::call, &got);
  ObserverPtr observer = observer_of(map);
};

TEST_F(ObserverTest, DumpShowsEveryKindOfRecordAndConsumesNothing) {
  const auto second = producer_of(map);
  put(producer, "gone");
  ringbuf_consume(consumer.get());
  put(producer, "one");
  ringbuf_discard(second.get(), ringbuf_reserve(second.get(), 5, 0), 0);
  void* open = ringbuf_reserve(second.get(), 7, 0);
  put(producer, "last");
  for (int i = 0; i < 2; ++i) {
    Dump dump;
    ASSERT_EQ(ringbuf_observer_dump(observer.get(), Dump::call, &dump), 4);
    ASSERT_EQ(dump.records.size(), 4u);
    const std::uint32_t first_slot = ringbuf_producer_view(producer.get())->slot;
    const std::uint32_t second_slot = ringbuf_producer_view(second.get())->slot;
    EXPECT_NE(first_slot, second_slot);
    const Shown expected[] = {{16, 0, first_slot, "one", 3},
                              {32, RINGBUF_DISCARD_BIT, second_slot, "", 5},
                              {48, RINGBUF_BUSY_BIT, second_slot, "", 7},
                              {64, 0, first_slot, "last", 4}};
    for (int n = 0; n < 4; ++n) {
      EXPECT_EQ(dump.records[n].pos, expected[n].pos);
      EXPECT_EQ(dump.records[n].flags, expected[n].flags);
      EXPECT_EQ(dump.records[n].slot, expected[n].slot);
      EXPECT_EQ(dump.records[n].size, expected[n].size);
      if (expected[n].flags == 0) {
        EXPECT_EQ(dump.records[n].data, expected[n].data);
      }
    }
  }
  ringbuf_discard(second.get(), open, 0);
  EXPECT_EQ(ringbuf_consume(consumer.get()), 2);
}

TEST_F(ObserverTest, DumpStopsWhenItsCallbackSaysSo) {
  put(producer, "1");
  put(producer, "2");
  Dump dump;
  dump.result = -9;
  EXPECT_EQ(ringbuf_observer_dump(observer.get(), Dump::call, &dump), -9);
  EXPECT_EQ(dump.records.size(), 1u);
}

TEST_F(ObserverTest, DumpReportsCorruption) {
  put(producer, "1");
  put(producer, "2");
  *reinterpret_cast<std::uint32_t*>(ringbuf_producer_view(producer.get())->data + 16) = 0x3fffffff;
  Dump dump;
  EXPECT_EQ(ringbuf_observer_dump(observer.get(), Dump::call, &dump), -EBADMSG);
  EXPECT_EQ(dump.records.size(), 1u);
}

TEST_F(ObserverTest, StatsCount) {
  std::string text(10, 'x');
  for (int i = 0; i < 5; ++i) put(producer, text);
  EXPECT_EQ(put(producer, std::string(4096, 'x')), -EAGAIN);
  EXPECT_EQ(ringbuf_consume_n(consumer.get(), 3), 3);
  ringbuf_producer_free(nullptr);
  const auto s = stats_of(observer);
  EXPECT_EQ(s.producer_pos, 5u * 24);
  EXPECT_EQ(s.consumer_pos, 3u * 24);
  EXPECT_LE(s.pending_pos, s.producer_pos);
  EXPECT_EQ(s.overwrite_pos, 0u);
  EXPECT_EQ(s.records, 3u);
  EXPECT_EQ(s.bytes, 30u);
  EXPECT_EQ(s.lost[RINGBUF_LOST_TOO_BIG], 1u);
  EXPECT_EQ(s.waiting, 0u);
  EXPECT_EQ(s.room_waiters, 0u);
  EXPECT_EQ(s.owner_tid, 0u);
}

TEST_F(ObserverTest, StatsFillAsMuchAsTheCallerKnows) {
  put(producer, "x");
  struct {
    ringbuf_stats known;
    unsigned char unknown[16];
  } s;
  std::memset(&s, 0xee, sizeof s);
  ASSERT_EQ(ringbuf_observer_stats(observer.get(), &s.known, offsetof(ringbuf_stats, pending_pos)), 0);
  EXPECT_EQ(s.known.producer_pos, 16u);
  EXPECT_EQ(s.known.pending_pos, 0xeeeeeeeeeeeeeeeeu);
  ASSERT_EQ(ringbuf_observer_stats(observer.get(), &s.known, sizeof s), 0);
  for (unsigned char byte : s.unknown) EXPECT_EQ(byte, 0);
}

TEST_F(ObserverTest, WakeupsAreCounted) {
  const auto poller = poller_of({consumer.get()});
  for (std::uint64_t round = 1; round <= 20; ++round) {
    std::thread sleeper([&] { EXPECT_EQ(ringbuf_poll(poller.get(), -1), 1); });
    wait_until([&] { return stats_of(observer).waiting == 1; });
    put(producer, "x");
    sleeper.join();
    EXPECT_LE(stats_of(observer).wakeups, round) << "at most one a sleep";
  }
}

TEST_F(ObserverTest, ObserversCannotWrite) {
  // Through the observer's own mapping there is no way in; a dump's copies are private.
  put(producer, "text");
  const auto scribble = [](void*, std::uint64_t, std::uint32_t, std::uint32_t, const void* data, std::size_t size) {
    std::memset(const_cast<void*>(data), '!', size);
    return 0;
  };
  EXPECT_EQ(ringbuf_observer_dump(observer.get(), scribble, nullptr), 1);
  EXPECT_EQ(ringbuf_consume(consumer.get()), 1);
  EXPECT_EQ(got.records, std::vector<std::string>{"text"});
}

// Each payload names its producer, its number and its size, and the rest follows from them: a torn copy cannot pass.
TEST_F(ObserverTest, DumpsBesideWorkersShowOnlyWholeRecords) {
  constexpr int kProducers = 2;
  constexpr std::uint64_t kRecords = 20'000;
  std::vector<std::thread> workers;
  for (int p = 0; p < kProducers; ++p)
    workers.emplace_back([&, p] {
      const auto mine = producer_of(map);
      for (std::uint64_t i = 0; i < kRecords; ++i) {
        const std::size_t size = Payload::kHead + mix(i) % 300;
        void* data = ringbuf_reserve_wait(mine.get(), size, -1);
        ASSERT_NE(data, nullptr);
        Payload{static_cast<std::uint8_t>(p), i, 0, 0}.fill(data, size);
        if (i % 7 == 0) ringbuf_discard(mine.get(), data, 0);
        else ringbuf_submit(mine.get(), data, 0);
      }
    });
  std::uint64_t consumed = 0;
  const auto count = [](void* ctx, void*, std::size_t) {
    ++*static_cast<std::uint64_t*>(ctx);
    return 0;
  };
  const auto counting = consumer_of(map, count, &consumed);
  constexpr std::uint64_t kDelivered = kProducers * (kRecords - (kRecords + 6) / 7);
  struct Check {
    std::uint64_t whole = 0, last_pos = 0;
    static int call(void* ctx, std::uint64_t pos, std::uint32_t flags, std::uint32_t, const void* data, std::size_t size) {
      auto* self = static_cast<Check*>(ctx);
      EXPECT_GE(pos, self->last_pos) << "oldest first";
      self->last_pos = pos;
      if (flags & RINGBUF_BUSY_BIT) return 0;
      const auto* bytes = static_cast<const unsigned char*>(data);
      Payload expected;
      expected.producer = bytes[0];
      std::memcpy(&expected.seq, bytes + 1, 8);
      if (!expected.verify(data, size)) return -1;
      ++self->whole;
      return 0;
    }
  } check;
  const std::uint64_t end = [&] {
    std::uint64_t bytes = 0;
    for (std::uint64_t i = 0; i < kRecords; ++i) bytes += ((Payload::kHead + mix(i) % 300 + 8 + 7) & ~std::uint64_t{7});
    return bytes * kProducers;
  }();
  std::thread consuming([&] {  // the last records are discarded: nothing is delivered for them, so do not sleep for them
    const auto poller = poller_of({counting.get()});
    while (ringbuf_consumer_query(counting.get(), RINGBUF_CONS_POS) != end)
      ASSERT_GE(ringbuf_poll(poller.get(), consumed < kDelivered ? -1 : 0), 0);
  });
  std::int64_t dumps = 0;
  while (stats_of(observer).consumer_pos != end) {
    check.last_pos = 0;
    ASSERT_GE(ringbuf_observer_dump(observer.get(), Check::call, &check), 0) << "a torn record was shown";
    ++dumps;
  }
  for (auto& w : workers) w.join();
  consuming.join();
  EXPECT_GT(dumps, 0);
  RecordProperty("whole_records_shown", static_cast<int>(check.whole));
}

}  // namespace
