// SPDX-License-Identifier: MIT
// Consuming through the C API and through ringbuf.hpp: results, limits, callbacks that stop or misbehave, corruption.
#include <gtest/gtest.h>

#include <stdexcept>
#include <thread>

#include "embedded.hpp"
#include "ringbuf/ringbuf.hpp"

using namespace ringbuf::test;

namespace {

constexpr std::uint32_t kN = 4096;

class ConsumerTest : public ::testing::Test {
 protected:
  void put_all(std::initializer_list<const char*> texts) {
    for (const char* t : texts) ASSERT_EQ(put(producer, t), 0);
  }

  FdLeakGuard guard;
  MapPtr map = embedded_map(kN);
  ProducerPtr producer = producer_of(map);
  Gather got;
  ConsumerPtr consumer = consumer_of(map, Gather::call, &got);
};

TEST_F(ConsumerTest, EmptyRingDeliversNothing) {
  EXPECT_EQ(ringbuf_consume(consumer.get()), 0);
  EXPECT_EQ(ringbuf_consume_n(consumer.get(), 5), 0);
}

TEST_F(ConsumerTest, DeliversInReserveOrderUpToTheFirstBusyRecord) {
  void* a = ringbuf_reserve(producer.get(), 1, 0);
  void* b = ringbuf_reserve(producer.get(), 1, 0);
  std::memcpy(a, "a", 1);
  std::memcpy(b, "b", 1);
  ringbuf_submit(producer.get(), b, 0);
  EXPECT_EQ(ringbuf_consume(consumer.get()), 0);
  ringbuf_submit(producer.get(), a, 0);
  EXPECT_EQ(ringbuf_consume(consumer.get()), 2);
  EXPECT_EQ(got.records, (std::vector<std::string>{"a", "b"}));
}

TEST_F(ConsumerTest, ConsumeNTakesAtMostN) {
  put_all({"1", "2", "3", "4"});
  EXPECT_EQ(ringbuf_consume_n(consumer.get(), 0), 0);
  EXPECT_EQ(ringbuf_consume_n(consumer.get(), 1), 1);
  EXPECT_EQ(ringbuf_consume_n(consumer.get(), 2), 2);
  EXPECT_EQ(ringbuf_consume_n(consumer.get(), SIZE_MAX), 1);
  EXPECT_EQ(got.records.size(), 4u);
}

TEST_F(ConsumerTest, DiscardedRecordsAreSkippedAndNotCounted) {
  for (int i = 0; i < 3; ++i) ringbuf_discard(producer.get(), ringbuf_reserve(producer.get(), 10, 0), 0);
  put_all({"x"});
  EXPECT_EQ(ringbuf_consume_n(consumer.get(), 1), 1);
  for (int i = 0; i < 3; ++i) ringbuf_discard(producer.get(), ringbuf_reserve(producer.get(), 10, 0), 0);
  EXPECT_EQ(ringbuf_consume(consumer.get()), 0);
  EXPECT_EQ(ringbuf_consumer_query(consumer.get(), RINGBUF_AVAIL_DATA), 0u);
}

TEST_F(ConsumerTest, ANegativeCallbackStopsAndItsRecordIsConsumed) {
  put_all({"1", "2", "3"});
  got.result = -123;
  EXPECT_EQ(ringbuf_consume(consumer.get()), -123);
  EXPECT_EQ(got.records.size(), 1u);
  got.result = 7;  // positive goes on
  EXPECT_EQ(ringbuf_consume(consumer.get()), 2);
  EXPECT_EQ(got.records, (std::vector<std::string>{"1", "2", "3"}));
}

TEST_F(ConsumerTest, WithoutACallbackOnlyInlineCallersCanConsume) {
  const auto silent = consumer_of(map, nullptr, nullptr);
  put_all({"1"});
  EXPECT_EQ(ringbuf_consume(silent.get()), -EINVAL);
  EXPECT_EQ(ringbuf_consume_n(silent.get(), 1), -EINVAL);
  EXPECT_EQ(ringbuf_consume(consumer.get()), 1);
}

struct Nested {
  ringbuf_consumer* inner = nullptr;
  std::vector<std::int64_t> results;

  static int call(void* ctx, void*, std::size_t) {
    auto* self = static_cast<Nested*>(ctx);
    self->results.push_back(ringbuf_consume(self->inner));
    self->results.push_back(ringbuf_consume_n(self->inner, 1));
    self->results.push_back(ringbuf_consumer_reset(self->inner));
    self->results.push_back(ringbuf_consumer_begin(self->inner));
    return 0;
  }
};

TEST_F(ConsumerTest, ACallbackMayNotConsumeItsOwnRing) {
  Nested nested;
  const auto outer = consumer_of(map, Nested::call, &nested);
  for (ringbuf_consumer* inner : {outer.get(), consumer.get()}) {  // itself, and another consumer of the same ring
    nested = {inner, {}};
    put_all({"1"});
    EXPECT_EQ(ringbuf_consume(outer.get()), 1);
    EXPECT_EQ(nested.results, (std::vector<std::int64_t>{-EBUSY, -EBUSY, -EBUSY, -EBUSY}));
  }
  put_all({"2"});
  EXPECT_EQ(ringbuf_consume(consumer.get()), 1) << "the ring is free again";
}

TEST_F(ConsumerTest, ACallbackMayProduceIntoItsOwnRing) {
  struct Echo {
    ringbuf_producer* producer;
    int left = 3;
    static int call(void* ctx, void* data, std::size_t size) {
      auto* self = static_cast<Echo*>(ctx);
      return self->left-- > 0 ? ringbuf_output(self->producer, data, size, 0) : 0;
    }
  } echo{producer.get()};
  const auto echoing = consumer_of(map, Echo::call, &echo);
  put_all({"again"});
  std::int64_t n = 0;
  while (ringbuf_consumer_query(echoing.get(), RINGBUF_AVAIL_DATA) != 0) n += ringbuf_consume(echoing.get());
  EXPECT_EQ(n, 4);
}

TEST_F(ConsumerTest, CorruptionIsReportedAndResetSkipsIt) {
  put_all({"good"});
  const ringbuf_view* view = ringbuf_producer_view(producer.get());
  auto* second = reinterpret_cast<std::uint32_t*>(view->data + 16);
  put_all({"bad"});
  *second = kN * 2;  // a length beyond producer_pos
  EXPECT_EQ(ringbuf_consume(consumer.get()), -EBADMSG);
  EXPECT_EQ(got.records, std::vector<std::string>{"good"});
  EXPECT_EQ(ringbuf_consume(consumer.get()), -EBADMSG) << "it stays where it is";
  EXPECT_EQ(ringbuf_consumer_query(consumer.get(), RINGBUF_CONS_POS), 16u);
  EXPECT_NE(std::string(ringbuf_last_error()).find("corrupt"), std::string::npos);
  EXPECT_EQ(ringbuf_consumer_reset(consumer.get()), 16);
  EXPECT_EQ(ringbuf_consume(consumer.get()), 0);
}

TEST_F(ConsumerTest, ResetGivesUpWhatIsUnread) {
  put_all({"1", "2", "3"});
  EXPECT_EQ(ringbuf_consumer_reset(consumer.get()), 48);
  EXPECT_EQ(ringbuf_consumer_reset(consumer.get()), 0);
  EXPECT_EQ(ringbuf_consume(consumer.get()), 0);
  put_all({"4"});
  EXPECT_EQ(ringbuf_consume(consumer.get()), 1);
}

TEST_F(ConsumerTest, ANewConsumerGoesOnWhereTheLastStopped) {
  put_all({"1", "2"});
  EXPECT_EQ(ringbuf_consume_n(consumer.get(), 1), 1);
  consumer.reset();
  const auto next = consumer_of(map, Gather::call, &got);
  EXPECT_EQ(ringbuf_consume(next.get()), 1);
  EXPECT_EQ(got.records, (std::vector<std::string>{"1", "2"}));
}

TEST_F(ConsumerTest, RecordsAreReadOnlyAndAligned) {
  struct Look {
    static int call(void*, void* data, std::size_t) {
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(data) % 8, 0u);
      return 0;
    }
  };
  const auto looking = consumer_of(map, Look::call, nullptr);
  for (std::size_t size : {0, 1, 7, 8, 9, 100}) ASSERT_EQ(put(producer, std::string(size, 'x')), 0);
  EXPECT_EQ(ringbuf_consume(looking.get()), 6);
  EXPECT_DEATH(*ringbuf_consumer_view(looking.get())->data = 1, "");
}

// Two consumers of one ring take turns: every record goes to exactly one of them.
TEST_F(ConsumerTest, TwoConsumersInTwoThreadsShareTheRecords) {
  constexpr std::uint64_t kTotal = 50'000;
  struct Count {
    std::vector<std::uint64_t> seen;
    static int call(void* ctx, void* data, std::size_t) {
      std::uint64_t n;
      std::memcpy(&n, data, sizeof n);
      static_cast<Count*>(ctx)->seen.push_back(n);
      return 0;
    }
  } counts[2];
  const ConsumerPtr consumers[2] = {consumer_of(map, Count::call, &counts[0]), consumer_of(map, Count::call, &counts[1])};
  std::atomic<bool> done{false};
  std::vector<std::thread> threads;
  for (const auto& c : consumers)
    threads.emplace_back([&] {
      for (bool last = false; !last;) {
        last = done;
        EXPECT_GE(ringbuf_consume(c.get()), 0);
      }
    });
  for (std::uint64_t i = 0; i < kTotal; ++i) {
    void* data = ringbuf_reserve_wait(producer.get(), 8, -1);
    std::memcpy(data, &i, 8);
    ringbuf_submit(producer.get(), data, 0);
  }
  done = true;
  for (auto& t : threads) t.join();
  std::vector<bool> seen(kTotal);
  for (const auto& count : counts)
    for (std::size_t i = 0; i < count.seen.size(); ++i) {
      EXPECT_TRUE(i == 0 || count.seen[i - 1] < count.seen[i]) << "out of order";
      ASSERT_FALSE(seen[count.seen[i]]) << "twice";
      seen[count.seen[i]] = true;
    }
  EXPECT_EQ(counts[0].seen.size() + counts[1].seen.size(), kTotal);
}

// --- the C++ API -------------------------------------------------------------------------------------------------------------

class CppConsumer : public ::testing::Test {
 protected:
  void put_all(std::initializer_list<const char*> texts) {
    for (const char* t : texts) ASSERT_EQ(producer.output(t, std::strlen(t)), 0);
  }
  static int nothing(void*, std::size_t) { return 0; }

  FdLeakGuard guard;
  ringbuf::Map map = std::move(*ringbuf::Map::create_embedded("cpp", kN));
  ringbuf::Producer producer = std::move(*ringbuf::Producer::attach(map));
  ringbuf::Consumer consumer = std::move(*ringbuf::Consumer::attach(map));
};

TEST_F(CppConsumer, ConsumesInline) {
  put_all({"1", "22", "333"});
  EXPECT_TRUE(consumer.maybe_work());
  std::size_t bytes = 0;
  EXPECT_EQ(consumer.consume_n([&](void*, std::size_t size) { return bytes += size, 0; }, 2), 2);
  EXPECT_EQ(consumer.consume([&](void*, std::size_t size) { return bytes += size, 0; }), 1);
  EXPECT_EQ(bytes, 6u);
  EXPECT_FALSE(consumer.maybe_work());
  EXPECT_EQ(consumer.consume_n(nothing, 0), 0);
}

TEST_F(CppConsumer, ANegativeHandlerStops) {
  put_all({"1", "2"});
  EXPECT_EQ(consumer.consume([](void*, std::size_t) { return -5; }), -5);
  EXPECT_EQ(consumer.consume(nothing), 1);
}

TEST_F(CppConsumer, ConsumingFromAHandlerIsRefused) {
  put_all({"1"});
  std::int64_t inner = 0;
  EXPECT_EQ(consumer.consume([&](void*, std::size_t) { return inner = consumer.consume(nothing), 0; }), 1);
  EXPECT_EQ(inner, -EBUSY);
}

// As for a negative result, the record that was handed over is consumed: nothing comes twice, nobody is stuck behind it.
TEST_F(CppConsumer, AnExceptionFromAnInlineHandlerConsumesItsRecord) {
  put_all({"1", "2", "3", "4", "5"});
  int seen = 0;
  EXPECT_THROW(consumer.consume([&](void*, std::size_t) -> int { return ++seen == 3 ? throw std::runtime_error("no") : 0; }),
               std::runtime_error);
  std::int64_t n = 0;
  std::thread([&] { n = consumer.consume(nothing); }).join();  // another thread: a lock left behind would stop it
  EXPECT_EQ(n, 2);
}

TEST_F(CppConsumer, AnExceptionFromAKeptHandlerConsumesItsRecord) {
  bool angry = true;
  auto kept = ringbuf::Consumer::attach(map, [&](std::span<const std::byte>) -> int {
    if (angry) throw std::runtime_error("no");
    return 0;
  });
  ASSERT_TRUE(kept);
  auto poller = ringbuf::Poller::create();
  ASSERT_TRUE(poller->add(*kept));
  put_all({"1", "2"});
  EXPECT_THROW(poller->poll(0), std::runtime_error);
  angry = false;
  EXPECT_EQ(poller->poll(0), 1);
  std::int64_t n = -1;
  std::thread([&] { n = consumer.consume(nothing); }).join();
  EXPECT_EQ(n, 0);
}

TEST_F(CppConsumer, KeptHandlersServeThePollers) {
  std::vector<std::string> records;
  auto kept = ringbuf::Consumer::attach(map, [&](std::span<const std::byte> r) {
    records.emplace_back(reinterpret_cast<const char*>(r.data()), r.size());
    return 0;
  });
  ASSERT_TRUE(kept);
  ringbuf::Consumer moved = std::move(*kept);
  auto poller = ringbuf::Poller::create();
  ASSERT_TRUE(poller->add(moved));
  EXPECT_FALSE(poller->add(moved));
  put_all({"1", "2"});
  EXPECT_EQ(poller->poll(), 2);
  put_all({"3"});
  EXPECT_EQ(poller->consume(), 1);
  EXPECT_EQ(records, (std::vector<std::string>{"1", "2", "3"}));
  EXPECT_GE(*poller->epoll_fd(), 0);
  EXPECT_TRUE(poller->remove(moved));
  EXPECT_FALSE(poller->remove(moved));
}

TEST_F(CppConsumer, ResetReturnsWhatItSkipped) {
  put_all({"1", "2"});
  EXPECT_EQ(consumer.reset(), 32);
  EXPECT_EQ(consumer.query(RINGBUF_AVAIL_DATA), 0u);
}

TEST_F(CppConsumer, RecordsThatFillManyLapsAreWhole) {
  std::uint64_t sent = 0, got = 0;
  for (std::size_t lap = 0; lap < 5000; ++lap) {
    const std::size_t size = lap * 7 % (kN - 16);
    auto r = producer.reserve(size);
    ASSERT_TRUE(r) << size;
    std::memset(r.data(), static_cast<int>(lap), size);
    r.submit();
    ++sent;
    EXPECT_EQ(consumer.consume([&](void* data, std::size_t n) {
      const auto* bytes = static_cast<const unsigned char*>(data);
      EXPECT_EQ(n, size);
      for (std::size_t i = 0; i < n; ++i)
        if (bytes[i] != static_cast<unsigned char>(lap)) return -1;
      return ++got, 0;
    }),
              1);
  }
  EXPECT_EQ(sent, got);
}

}  // namespace
