// SPDX-License-Identifier: MIT
// User rings, overwrite mode and dynptrs through the public faces.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <fstream>
#include <functional>
#include <thread>

#include "libclient/embedded.hpp"
#include "ringbuf/ringbuf.hpp"

namespace ringbuf::test {
namespace {

class UserRing : public ::testing::Test {
 protected:
  void put(const std::string& text) {
    void* p = ringbuf_reserve(producer_.get(), text.size(), 0);
    ASSERT_NE(p, nullptr);
    std::memcpy(p, text.data(), text.size());
    ringbuf_submit(producer_.get(), p, 0);
  }
  std::int64_t drain(std::uint64_t flags = 0) {
    got_.records.clear();
    return ringbuf_drain(consumer_.get(), Gather::call, &got_, flags);
  }

  FdLeakGuard leaks_;
  MapPtr map_ = embedded_map(4096, 0, RINGBUF_MAP_TYPE_USER_RINGBUF);
  ProducerPtr producer_ = producer_of(map_);
  ConsumerPtr consumer_ = consumer_of(map_, nullptr, nullptr);
  Gather got_;
};

TEST_F(UserRing, SamplesArriveInOrder) {
  put("one");
  put("two");
  EXPECT_EQ(drain(), 2);
  EXPECT_EQ(got_.records, (std::vector<std::string>{"one", "two"}));
  EXPECT_EQ(drain(), 0);
}

TEST_F(UserRing, IsNotConsumedAndInNoPoller) {
  EXPECT_EQ(ringbuf_consume(consumer_.get()), -EINVAL);
  EXPECT_NE(std::string(ringbuf_last_error()).find("ringbuf_drain"), std::string::npos);
  auto poller = poller_of({});
  EXPECT_EQ(ringbuf_poller_add(poller.get(), consumer_.get()), -EINVAL);
  auto normal = embedded_map();
  auto consumer = consumer_of(normal, Gather::call, &got_);
  EXPECT_EQ(ringbuf_drain(consumer.get(), Gather::call, &got_, 0), -EINVAL);
  EXPECT_EQ(ringbuf_drain(consumer_.get(), nullptr, nullptr, 0), -EINVAL);
  EXPECT_EQ(drain(4), -EINVAL);
}

TEST_F(UserRing, HasOneProducer) {
  ringbuf_producer* second = nullptr;
  EXPECT_EQ(ringbuf_producer_attach(map_.get(), &second), -EBUSY);
}

struct Nested {
  ringbuf_consumer* consumer;
  std::int64_t inner = 0;
  static int call(void* ctx, void*, std::size_t) {
    auto* self = static_cast<Nested*>(ctx);
    self->inner = ringbuf_drain(self->consumer, call, ctx, 0);
    return 0;
  }
};

TEST_F(UserRing, ANestedDrainIsBusy) {
  put("x");
  Nested nested{consumer_.get()};
  EXPECT_EQ(ringbuf_drain(consumer_.get(), Nested::call, &nested, 0), 1);
  EXPECT_EQ(nested.inner, -EBUSY);
  auto second = consumer_of(map_, nullptr, nullptr);  // another consumer of the same map
  nested = {second.get()};
  put("x");
  EXPECT_EQ(ringbuf_drain(consumer_.get(), Nested::call, &nested, 0), 1);
  EXPECT_EQ(nested.inner, -EBUSY);
}

TEST_F(UserRing, AConcurrentDrainIsBusyAndDoesNotWait) {
  put("x");
  std::int64_t other = 0;
  const std::function<void()> elsewhere = [&] {
    std::thread([&] { other = ringbuf_drain(consumer_.get(), Gather::call, &got_, 0); }).join();
  };
  EXPECT_EQ(ringbuf_drain(
                consumer_.get(),
                [](void* ctx, void*, std::size_t) {
                  (*static_cast<const std::function<void()>*>(ctx))();
                  return 0;
                },
                const_cast<void*>(static_cast<const void*>(&elsewhere)), 0),
            1);
  EXPECT_EQ(other, -EBUSY);
}

TEST_F(UserRing, AnOwnLoopIsToldOfSamples) {
  const int fd = ringbuf_consumer_epoll_fd(consumer_.get());
  ASSERT_GE(fd, 0);
  EXPECT_FALSE(readable(fd));
  put("one");
  put("two");
  EXPECT_TRUE(readable(fd));
  got_.result = 1;  // stop after each
  EXPECT_EQ(drain(), 1);
  EXPECT_TRUE(readable(fd)) << "one is left";
  EXPECT_EQ(drain(), 1);
  EXPECT_FALSE(readable(fd));
  void* busy = ringbuf_reserve(producer_.get(), 8, 0);
  EXPECT_EQ(drain(), 0);
  EXPECT_FALSE(readable(fd));
  ringbuf_submit(producer_.get(), busy, 0);
  EXPECT_TRUE(readable(fd));
}

TEST_F(UserRing, OnlyADrainMakesADrainBusy) {
  std::atomic<bool> done{false};
  std::thread other([&] {
    while (!done) ringbuf_consumer_epoll_fd(consumer_.get());
  });
  for (int i = 0; i < 20'000; ++i) {
    put("x");
    ASSERT_EQ(drain(), 1);
  }
  done = true;
  other.join();
}

// Handed out in the middle of a drain by another thread: it must be readable if something was left.
TEST_F(UserRing, AnEpollDescriptorThatIsAskedForDuringADrainMissesNothing) {
  put("one");
  put("two");
  int fd = -1;
  const std::function<int()> ask = [&] {
    std::thread([&] { fd = ringbuf_consumer_epoll_fd(consumer_.get()); }).join();
    return 1;  // stop: one sample is left
  };
  EXPECT_EQ(ringbuf_drain(
                consumer_.get(), [](void* ctx, void*, std::size_t) { return (*static_cast<const std::function<int()>*>(ctx))(); },
                const_cast<void*>(static_cast<const void*>(&ask)), 0),
            1);
  ASSERT_GE(fd, 0);
  EXPECT_TRUE(readable(fd));
  EXPECT_EQ(drain(), 1);
  EXPECT_FALSE(readable(fd));
}

TEST_F(UserRing, BlockingReserveSleepsUntilADrain) {
  for (int i = 0; i < 256; ++i) put("12345678");
  EXPECT_EQ(ringbuf_reserve_wait(producer_.get(), 8, 10), nullptr);
  EXPECT_EQ(errno, ENOSPC);
  EXPECT_EQ(ringbuf_reserve_wait(producer_.get(), 8, -2), nullptr);
  EXPECT_EQ(errno, EINVAL);
  auto observer = observer_of(map_);
  std::thread drainer([&] {
    wait_until([&] { return stats_of(observer).room_waiters == 1; });
    EXPECT_EQ(drain(), 256);
  });
  void* p = ringbuf_reserve_wait(producer_.get(), 8, -1);
  drainer.join();
  ASSERT_NE(p, nullptr);
  ringbuf_discard(producer_.get(), p, 0);
  EXPECT_EQ(drain(), 0);
}

// As after the death of a consumer that had given bytes back and not yet said so: here it keeps silent because it was asked to.
TEST_F(UserRing, ANewConsumerTellsThoseWhoWait) {
  for (int i = 0; i < 256; ++i) put("12345678");
  std::atomic<pid_t> tid{0};
  void* p = nullptr;
  std::thread waiter([&] {
    tid = ::gettid();
    p = ringbuf_reserve_wait(producer_.get(), 8, -1);
  });
  auto observer = observer_of(map_);
  const auto asleep = [&] {
    std::ifstream stat("/proc/self/task/" + std::to_string(tid.load()) + "/stat");
    std::string line;
    std::getline(stat, line);
    return line.find(") S ") != std::string::npos;
  };
  wait_until([&] { return stats_of(observer).room_waiters == 1 && asleep(); });
  EXPECT_EQ(drain(RINGBUF_NO_WAKEUP), 256);
  EXPECT_EQ(drain(), 0) << "moves nothing, so it tells nobody, as the kernel";
  EXPECT_EQ(stats_of(observer).room_waiters, 1u);
  consumer_.reset();
  consumer_ = consumer_of(map_, nullptr, nullptr);
  waiter.join();
  ASSERT_NE(p, nullptr);
  ringbuf_discard(producer_.get(), p, 0);
}

TEST_F(UserRing, CountsAndDumps) {
  put("one");
  put("two");
  auto observer = observer_of(map_);
  std::vector<std::string> seen;
  const auto show = [](void* ctx, std::uint64_t, std::uint32_t, std::uint32_t slot, const void* data, std::size_t size) {
    EXPECT_EQ(slot, 0u);
    static_cast<std::vector<std::string>*>(ctx)->emplace_back(static_cast<const char*>(data), size);
    return 0;
  };
  EXPECT_EQ(ringbuf_observer_dump(observer.get(), show, &seen), 2);
  EXPECT_EQ(seen, (std::vector<std::string>{"one", "two"}));
  drain();
  EXPECT_EQ(stats_of(observer).records, 2u);
  EXPECT_EQ(stats_of(observer).bytes, 6u);
}

TEST(UserRingCpp, Drains) {
  ringbuf_map_create_opts opts{};
  opts.sz = sizeof opts;
  opts.map_type = RINGBUF_MAP_TYPE_USER_RINGBUF;
  auto map = Map::create_embedded("user", 4096, &opts);
  ASSERT_TRUE(map);
  auto producer = Producer::attach(*map);
  auto consumer = Consumer::attach(*map);
  ASSERT_TRUE(producer && consumer);
  {
    auto r = producer->reserve(4);
    ASSERT_TRUE(r);
    std::memcpy(r.data(), "abcd", 4);
    r.submit();
  }
  { auto forgotten = producer->reserve(4); }
  std::string got;
  const auto take = [&](void* data, std::size_t size) {
    got.append(static_cast<const char*>(data), size);
    return 0;
  };
  EXPECT_EQ(consumer->drain(take), 1);
  EXPECT_EQ(got, "abcd");
  const auto fd = consumer->epoll_fd();
  ASSERT_TRUE(fd);
  EXPECT_EQ(consumer->consume(take), -EINVAL);
  EXPECT_FALSE(readable(*fd));
  (void)producer->reserve(4).submit();
  EXPECT_THROW(consumer->drain([](void*, std::size_t) -> int { throw 1; }), int);
  EXPECT_EQ(consumer->drain(take), 0);
}

TEST(Overwrite, ConsumersAreToldWhatTheyMissed) {
  FdLeakGuard leaks;
  auto map = embedded_map(4096, 0, 0, RINGBUF_OVERWRITE);
  auto producer = producer_of(map);
  Gather got;
  auto consumer = consumer_of(map, Gather::call, &got);
  auto poller = poller_of({consumer.get()});
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(put(producer, std::to_string(100000 + i)), 0);
  EXPECT_EQ(ringbuf_poll(poller.get(), -1), 255);
  EXPECT_EQ(got.records.front(), "100745");
  EXPECT_EQ(got.records.back(), "100999");
  std::uint64_t records = 0, bytes = 0;
  EXPECT_EQ(ringbuf_consumer_missed(consumer.get(), &records, &bytes), 0);
  EXPECT_EQ(records, 745u);
  EXPECT_EQ(bytes, 745u * 6);
  auto observer = observer_of(map);
  const ringbuf_stats s = stats_of(observer);
  EXPECT_EQ(s.overwrite_pos, 745u * 16);
  EXPECT_EQ(s.overwritten_records, 745u);
  EXPECT_EQ(s.overwritten_bytes, 745u * 6);
  EXPECT_EQ(s.missed_records, 745u);
  EXPECT_EQ(s.missed_bytes, 745u * 6);
  EXPECT_EQ(s.lost[RINGBUF_LOST_FULL], 0u);
  EXPECT_EQ(ringbuf_query(producer.get(), RINGBUF_OVERWRITE_POS), 745u * 16);
  EXPECT_EQ(ringbuf_consumer_query(consumer.get(), RINGBUF_AVAIL_DATA), 0u);

  std::vector<std::string> seen;
  const auto show = [](void* ctx, std::uint64_t, std::uint32_t, std::uint32_t, const void* data, std::size_t size) {
    static_cast<std::vector<std::string>*>(ctx)->emplace_back(static_cast<const char*>(data), size);
    return 0;
  };
  EXPECT_EQ(ringbuf_observer_snapshot(observer.get(), show, &seen), 255) << "consumed ones too";
  EXPECT_EQ(seen, got.records);
  EXPECT_EQ(ringbuf_observer_dump(observer.get(), show, &seen), 0);
}

TEST(OverwriteCpp, SnapshotAndMissed) {
  ringbuf_map_create_opts opts{};
  opts.sz = sizeof opts;
  opts.map_flags = RINGBUF_OVERWRITE;
  auto map = Map::create_embedded("recorder", 4096, &opts);
  ASSERT_TRUE(map);
  auto producer = Producer::attach(*map);
  auto observer = Observer::attach(*map);
  auto consumer = Consumer::attach(*map);
  ASSERT_TRUE(producer && observer && consumer);
  for (int i = 0; i < 300; ++i) ASSERT_EQ(producer->output(&i, sizeof i), 0);
  int first = -1, last = -1;
  EXPECT_EQ(observer->snapshot([&](std::uint64_t, std::uint32_t, std::uint32_t, const void* data, std::size_t) {
    std::memcpy(first < 0 ? &first : &last, data, sizeof last);
    return 0;
  }),
            255);
  EXPECT_EQ(first, 45);
  EXPECT_EQ(last, 299);
  EXPECT_EQ(consumer->consume([](void*, std::size_t) { return 0; }), 255);
  EXPECT_EQ(consumer->missed().records, 45u);
  EXPECT_EQ(consumer->missed().bytes, 45u * 4);
}

TEST(Dynptr, HasTheKernelsResults) {
  FdLeakGuard leaks;
  auto map = embedded_map(4096);
  auto producer = producer_of(map);
  ringbuf_dynptr d{};
  char buf[16] = {};
  const auto is_null = [&] {
    EXPECT_EQ(ringbuf_dynptr_size(&d), -EINVAL);
    EXPECT_EQ(ringbuf_dynptr_data(&d, 0, 0), nullptr);
    EXPECT_EQ(ringbuf_dynptr_read(buf, 1, &d, 0, 0), -EINVAL);
    EXPECT_EQ(ringbuf_dynptr_write(&d, 0, buf, 1, 0), -EINVAL);
    ringbuf_submit_dynptr(&d, 0);
    ringbuf_discard_dynptr(&d, 0);
  };
  EXPECT_EQ(ringbuf_reserve_dynptr(producer.get(), 8, 1, &d), -EINVAL);
  is_null();
  EXPECT_EQ(ringbuf_reserve_dynptr(producer.get(), RINGBUF_MAX_DYNPTR_SIZE + 1, 0, &d), -E2BIG);
  is_null();
  EXPECT_EQ(ringbuf_reserve_dynptr(producer.get(), 5000, 0, &d), -EINVAL);
  is_null();
  ASSERT_EQ(ringbuf_reserve_dynptr(producer.get(), 10, 0, &d), 0);
  EXPECT_EQ(ringbuf_dynptr_size(&d), 10);
  EXPECT_EQ(ringbuf_dynptr_write(&d, 0, "0123456789", 10, 0), 0);
  EXPECT_EQ(ringbuf_dynptr_write(&d, 1, "0123456789", 10, 0), -E2BIG);
  EXPECT_EQ(ringbuf_dynptr_write(&d, 0, "0123456789", 10, 1), -EINVAL);
  EXPECT_EQ(ringbuf_dynptr_read(buf, 3, &d, 7, 0), 0);
  EXPECT_EQ(std::string(buf, 3), "789");
  EXPECT_EQ(ringbuf_dynptr_read(buf, 3, &d, 8, 0), -E2BIG);
  EXPECT_EQ(ringbuf_dynptr_read(buf, UINT32_MAX, &d, 8, 0), -E2BIG);
  EXPECT_EQ(ringbuf_dynptr_read(buf, 1, &d, UINT32_MAX, 0), -E2BIG);
  EXPECT_EQ(ringbuf_dynptr_read(buf, 3, &d, 0, 1), -EINVAL);
  EXPECT_EQ(ringbuf_dynptr_data(&d, 4, 6), static_cast<char*>(d.data) + 4);
  EXPECT_EQ(ringbuf_dynptr_data(&d, 5, 6), nullptr);
  ringbuf_submit_dynptr(&d, 0);
  is_null();
  ASSERT_EQ(ringbuf_reserve_dynptr(producer.get(), 10, 0, &d), 0);
  ringbuf_discard_dynptr(&d, 0);
  is_null();
  Gather got;
  auto consumer = consumer_of(map, Gather::call, &got);
  EXPECT_EQ(ringbuf_consume(consumer.get()), 1);
  EXPECT_EQ(got.records, std::vector<std::string>{"0123456789"});
}

}  // namespace
}  // namespace ringbuf::test
