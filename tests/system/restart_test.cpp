// SPDX-License-Identifier: MIT
// The daemon is killed while producers and a consumer work: records go on flowing, requests fail clearly, and work again with the
// next daemon.
#include <thread>

#include "daemon_process.hpp"

using namespace ringbuf::test;

namespace {

class Restart : public ::testing::Test {
 protected:
  // A request without a daemon: -ECONNRESET when the loss is noticed, -ECONNREFUSED from then on.
  static void expect_unreachable(int r) {
    EXPECT_TRUE(r == -ECONNRESET || r == -ECONNREFUSED) << r << ": " << ringbuf_last_error();
    EXPECT_STRNE(ringbuf_last_error(), "");
  }
  FdLeakGuard guard;
  Daemon daemon;
  SessionPtr session = daemon.connect();
};

TEST_F(Restart, RecordsGoOnWithoutTheDaemon) {
  const auto map = create_map(session, "going_on");
  const std::uint32_t id = info_of(map).id;
  constexpr std::uint64_t kRecords = 40'000;
  struct Count {
    std::uint64_t next = 0;
    static int call(void* ctx, void* data, std::size_t) {
      std::uint64_t n;
      std::memcpy(&n, data, sizeof n);
      return static_cast<Count*>(ctx)->next++ == n ? 0 : -1;
    }
  } count;
  const auto consumer = consumer_of(map, Count::call, &count);
  Gate started, done;
  ChildProcess child([&] {
    const auto own = daemon.connect();
    const auto producer = producer_of(open_id(own, id));
    for (std::uint64_t i = 0; i < kRecords; ++i) {
      if (i == kRecords / 4) started.open();
      void* data = ringbuf_reserve_wait(producer.get(), sizeof i, -1);
      CHILD_CHECK(data != nullptr);
      std::memcpy(data, &i, sizeof i);
      ringbuf_submit(producer.get(), data, 0);
    }
    std::uint32_t next;
    const int r = ringbuf_map_next_id(own.get(), 0, &next);
    CHILD_CHECK(r == -ECONNRESET || r == -ECONNREFUSED);
    done.pass();
    return 0;
  });
  const auto poller = poller_of({consumer.get()});
  while (count.next < kRecords / 4) ASSERT_GE(ringbuf_poll(poller.get(), -1), 0);
  started.pass();
  daemon.kill();
  while (count.next < kRecords) ASSERT_GE(ringbuf_poll(poller.get(), -1), 0);
  done.open();
  EXPECT_EQ(child.exit_code(), 0);
  ringbuf_map_info info;
  expect_unreachable(ringbuf_map_get_info(map.get(), &info, sizeof info));
  expect_unreachable(ringbuf_map_get_info(map.get(), &info, sizeof info));
  ringbuf_producer* producer = nullptr;
  expect_unreachable(ringbuf_producer_attach(map.get(), &producer));
  ringbuf_session* another = nullptr;
  expect_unreachable(ringbuf_connect(daemon.socket().c_str(), &another));
}

TEST_F(Restart, RequestsWorkAgainWithTheNextDaemon) {
  const auto before = create_map(session, "before");
  daemon.kill();
  daemon.start();
  std::uint32_t id = 0;
  int r = ringbuf_map_next_id(session.get(), 0, &id);
  if (r == -ECONNRESET) r = ringbuf_map_next_id(session.get(), 0, &id);  // the first may tell of the loss
  EXPECT_EQ(r, -ENOENT) << "connected again; this daemon has no maps";
  const auto after = create_map(session, "after");
  EXPECT_EQ(put(producer_of(after), "works"), 0);
  ringbuf_map_info info;
  EXPECT_EQ(ringbuf_map_get_info(before.get(), &info, sizeof info), -EINVAL) << "a token of the former daemon";
}

// What was attached with the former daemon must not detach, by its number, what was attached with the next.
TEST_F(Restart, FreeingWhatIsFromBeforeTouchesNothingNew) {
  auto before = create_map(session, "before");
  std::vector<ProducerPtr> old;
  for (int i = 0; i < 3; ++i) old.push_back(producer_of(before));
  daemon.kill();
  daemon.start();
  std::uint32_t id = 0;
  (void)ringbuf_map_next_id(session.get(), 0, &id);
  (void)ringbuf_map_next_id(session.get(), 0, &id);
  const auto after = create_map(session, "after");
  const auto consumer = consumer_of(after, Gather::call, nullptr);
  const auto producer = producer_of(after);
  const auto observer = observer_of(after);
  old.clear();
  before.reset();
  const auto info = info_of(after);
  EXPECT_EQ(info.producers, 1u);
  EXPECT_EQ(info.consumers, 1u);
  EXPECT_EQ(info.observers, 1u);
}

TEST_F(Restart, FreeingWithoutADaemonDoesNotHangOrLeak) {
  auto map = create_map(session, "orphan");
  auto producer = producer_of(map);
  auto consumer = consumer_of(map, Gather::call, nullptr);
  auto observer = observer_of(map);
  daemon.kill();
  EXPECT_EQ(put(producer, "x"), 0);
  errno = 77;
  producer.reset();
  consumer.reset();
  observer.reset();
  map.reset();
  session.reset();
  EXPECT_EQ(errno, 77) << "free keeps errno";
}

// A token that is sent to a daemon that did not make it is no map there.
TEST_F(Restart, ATokenIsOfOneDaemonOnly) {
  const auto map = create_map(session, "here");
  Daemon other;
  const auto there = other.connect();
  ringbuf_map* received = nullptr;
  EXPECT_EQ(ringbuf_map_from_fd(there.get(), ringbuf_map_fd(map.get()), &received), -EINVAL);
}

TEST_F(Restart, ADaemonThatStopsCleanlyRemovesItsSocket) {
  daemon.stop();
  std::uint32_t id = 0;
  expect_unreachable(ringbuf_map_next_id(session.get(), 0, &id));
  EXPECT_EQ(ringbuf_map_next_id(session.get(), 0, &id), -ECONNREFUSED) << "not the end of the list";
  ringbuf_session* another = nullptr;
  EXPECT_EQ(ringbuf_connect(daemon.socket().c_str(), &another), -ENOENT);
  daemon.start();
}

}  // namespace
