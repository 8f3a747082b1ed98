// SPDX-License-Identifier: MIT
// User rings and overwrite mode between processes, through the daemon.
#include <poll.h>

#include "daemon_process.hpp"
#include "support/payload.hpp"

using namespace ringbuf::test;

namespace {

MapPtr create_kind(const SessionPtr& session, std::uint32_t map_type, std::uint32_t map_flags, std::uint32_t max_entries) {
  ringbuf_map_create_opts opts{};
  opts.sz = sizeof opts;
  opts.map_type = map_type;
  opts.map_flags = map_flags;
  ringbuf_map* map = nullptr;
  must(ringbuf_map_create(session.get(), "modes", max_entries, &opts, &map), "ringbuf_map_create");
  return MapPtr(map);
}

std::size_t size_of(std::uint64_t seq, std::size_t most) { return Payload::kHead + mix(seq) % (most - Payload::kHead); }

// Payloads of one producer in the order of their numbers, gaps allowed.
struct Stream {
  std::uint64_t next = 0, count = 0;
  std::string wrong;

  static int call(void* ctx, void* data, std::size_t size) { return static_cast<Stream*>(ctx)->take(data, size); }
  int take(const void* data, std::size_t size) {
    Payload p;
    if (size >= Payload::kHead) std::memcpy(&p.seq, static_cast<const char*>(data) + 1, sizeof p.seq);
    if (!p.verify(data, size)) wrong = "torn, after " + std::to_string(next);
    if (p.seq < next) wrong = "out of order: " + std::to_string(p.seq) + " after " + std::to_string(next);
    next = p.seq + 1;
    ++count;
    return wrong.empty() ? 0 : -1;
  }
};

TEST(UserRing, SamplesOfAnotherProcessArriveWholeAndInOrderAndBothSidesSleep) {
  constexpr std::uint64_t kRecords = 50'000;
  Daemon daemon;
  const auto session = daemon.connect();
  const auto map = create_kind(session, RINGBUF_MAP_TYPE_USER_RINGBUF, 0, 4096);
  const std::uint32_t id = info_of(map).id;
  const auto consumer = consumer_of(map, nullptr, nullptr);
  const int fd = ringbuf_consumer_epoll_fd(consumer.get());
  ASSERT_GE(fd, 0);
  ChildProcess child([&] {
    const auto producer = producer_of(open_id(daemon.connect(), id, RINGBUF_RIGHT_PRODUCE));
    for (std::uint64_t seq = 0; seq < kRecords; ++seq) {
      const std::size_t size = size_of(seq, 1000);
      void* data = ringbuf_reserve_wait(producer.get(), size, -1);
      CHILD_CHECK(data != nullptr);
      Payload{0, seq, 0, 0}.fill(data, size);
      if (seq % 10 == 9) ringbuf_discard(producer.get(), data, 0);
      else ringbuf_submit(producer.get(), data, 0);
    }
    // Leaves only when everything is drained.
    void* all = ringbuf_reserve_wait(producer.get(), 4096 - 8, -1);
    CHILD_CHECK(all != nullptr);
    ringbuf_discard(producer.get(), all, 0);
    return 0;
  });
  Stream stream;
  while (stream.count < kRecords / 10 * 9) {
    pollfd p{fd, POLLIN, 0};
    ASSERT_EQ(::poll(&p, 1, -1), 1);
    ASSERT_GE(ringbuf_drain(consumer.get(), Stream::call, &stream, 0), 0) << ringbuf_last_error();
    ASSERT_EQ(stream.wrong, "");
  }
  const auto observer = observer_of(map);
  while (stats_of(observer).room_waiters != 0) ASSERT_GE(ringbuf_drain(consumer.get(), Stream::call, &stream, 0), 0);
  EXPECT_EQ(child.exit_code(), 0);
  EXPECT_EQ(stream.count, kRecords / 10 * 9);
  EXPECT_EQ(stats_of(observer).records, stream.count);
}

TEST(UserRing, HasOneProducerAndItsPlaceIsFreeAgainWhenThatGoes) {
  Daemon daemon;
  const auto session = daemon.connect();
  const auto map = create_kind(session, RINGBUF_MAP_TYPE_USER_RINGBUF, 0, 4096);
  const std::uint32_t id = info_of(map).id;
  Gate attached, leave;
  ChildProcess child([&] {
    const auto producer = producer_of(open_id(daemon.connect(), id));
    attached.open();
    leave.pass();
    return 0;
  });
  attached.pass();
  ringbuf_producer* second = nullptr;
  EXPECT_EQ(ringbuf_producer_attach(map.get(), &second), -EBUSY);
  EXPECT_NE(std::string(ringbuf_last_error()).find(std::to_string(child.pid())), std::string::npos) << ringbuf_last_error();
  leave.open();
  EXPECT_EQ(child.exit_code(), 0);
  EXPECT_TRUE(producer_of(map));
}

// A flight recorder: nobody consumes; whoever may observe takes what is there, while it is written at full speed.
TEST(FlightRecorder, IsReadWhileItIsWritten) {
  constexpr std::uint64_t kRecords = 300'000;
  Daemon daemon;
  const auto session = daemon.connect();
  const auto map = create_kind(session, RINGBUF_MAP_TYPE_RINGBUF, RINGBUF_OVERWRITE, 65536);
  const std::uint32_t id = info_of(map).id;
  EXPECT_EQ(info_of(map).map_flags, RINGBUF_OVERWRITE);
  Gate attached, start;
  ChildProcess child([&] {
    const auto producer = producer_of(open_id(daemon.connect(), id, RINGBUF_RIGHT_PRODUCE));
    attached.open();
    start.pass();
    for (std::uint64_t seq = 0; seq < kRecords; ++seq) {
      const std::size_t size = size_of(seq, 300);
      void* data = ringbuf_reserve(producer.get(), size, 0);
      CHILD_CHECK(data != nullptr);  // it never waits and is never refused
      Payload{0, seq, 0, 0}.fill(data, size);
      ringbuf_submit(producer.get(), data, RINGBUF_NO_WAKEUP);
    }
    return 0;
  });
  attached.pass();
  const auto observer = observer_of(open_id(daemon.connect(), id, RINGBUF_RIGHT_OBSERVE));
  start.open();
  const auto show = [](void* ctx, std::uint64_t, std::uint32_t flags, std::uint32_t, const void* data, std::size_t size) {
    return flags ? 0 : static_cast<Stream*>(ctx)->take(data, size);
  };
  std::uint64_t last = 0;
  while (last + 1 < kRecords) {
    Stream stream;
    const std::int64_t n = ringbuf_observer_snapshot(observer.get(), show, &stream);
    ASSERT_TRUE(n >= 0 || n == -EAGAIN) << stream.wrong << n;
    if (n <= 0) continue;
    const std::uint64_t newest = stream.next - 1;
    ASSERT_GE(newest, last);
    last = newest;
  }
  EXPECT_EQ(child.exit_code(), 0);
  Stream stream;
  const std::int64_t n = ringbuf_observer_snapshot(observer.get(), show, &stream);
  EXPECT_EQ(stream.next, kRecords);
  EXPECT_EQ(static_cast<std::uint64_t>(n), stream.count);
  const ringbuf_stats s = stats_of(observer);
  EXPECT_EQ(s.overwritten_records + stream.count, kRecords);
  EXPECT_EQ(s.missed_records, 0u) << "nobody consumes, so nobody has missed anything yet";

  // One who comes late gets what is left and is told what is not.
  stream = {};
  const auto consumer = consumer_of(map, Stream::call, &stream);
  EXPECT_EQ(ringbuf_consume(consumer.get()), n);
  std::uint64_t records = 0, bytes = 0;
  EXPECT_EQ(ringbuf_consumer_missed(consumer.get(), &records, &bytes), 0);
  EXPECT_EQ(records + stream.count, kRecords);
  EXPECT_EQ(bytes, stats_of(observer).overwritten_bytes);
}

TEST(FlightRecorder, APollingConsumerIsWokenAndSeesEverythingInOrder) {
  constexpr std::uint64_t kRecords = 100'000;
  Daemon daemon;
  const auto session = daemon.connect();
  const auto map = create_kind(session, RINGBUF_MAP_TYPE_RINGBUF, RINGBUF_OVERWRITE, 4096);
  const std::uint32_t id = info_of(map).id;
  Stream stream;
  const auto consumer = consumer_of(map, Stream::call, &stream);
  const auto poller = poller_of({consumer.get()});
  ChildProcess child([&] {
    const auto producer = producer_of(open_id(daemon.connect(), id, RINGBUF_RIGHT_PRODUCE));
    for (std::uint64_t seq = 0; seq < kRecords; ++seq) {
      const std::size_t size = size_of(seq, 200);
      void* data = ringbuf_reserve(producer.get(), size, 0);
      CHILD_CHECK(data != nullptr);
      Payload{0, seq, 0, 0}.fill(data, size);
      ringbuf_submit(producer.get(), data, 0);
    }
    return 0;
  });
  std::uint64_t missed = 0, bytes = 0;
  while (stream.count + missed < kRecords) {
    ASSERT_GE(ringbuf_poll(poller.get(), -1), 0) << stream.wrong << ringbuf_last_error();
    ringbuf_consumer_missed(consumer.get(), &missed, &bytes);
  }
  EXPECT_EQ(stream.count + missed, kRecords);
  EXPECT_EQ(stream.next, kRecords);
  EXPECT_EQ(child.exit_code(), 0);
}

}  // namespace
