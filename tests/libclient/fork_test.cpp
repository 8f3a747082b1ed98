// SPDX-License-Identifier: MIT
// Embedded rings over fork, in every order of attaching and forking; what a child may not use.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "embedded.hpp"
#include "support/child_process.hpp"

using namespace ringbuf::test;

namespace {

constexpr int kRecords = 2000;

// In a child there is no test to fail: the exit code tells where it went wrong.
#define CHECK_OR_EXIT(condition) \
  if (!(condition)) return __LINE__ % 120 + 1

int produce(ringbuf_producer* producer, char who) {
  for (int i = 0; i < kRecords; ++i) {
    void* data = ringbuf_reserve_wait(producer, 5, -1);
    if (!data) return 1;
    std::memcpy(data, &who, 1);
    std::memcpy(static_cast<char*>(data) + 1, &i, 4);
    ringbuf_submit(producer, data, 0);
  }
  return 0;
}

// Counts each producer's records and checks their order.
struct Tally {
  int next[256] = {};
  int total = 0;
  bool ordered = true;

  static int call(void* ctx, void* data, std::size_t size) {
    auto* self = static_cast<Tally*>(ctx);
    int n;
    std::memcpy(&n, static_cast<char*>(data) + 1, 4);
    self->ordered &= size == 5 && self->next[static_cast<unsigned char*>(data)[0]]++ == n;
    ++self->total;
    return 0;
  }
  bool poll_all(ringbuf_consumer* consumer, int want) {
    const auto poller = poller_of({consumer});
    while (total < want)
      if (ringbuf_poll(poller.get(), -1) < 0) return false;
    return ordered;
  }
};

TEST(Fork, ChildProducesParentConsumesAttachedBefore) {
  FdLeakGuard guard;
  const auto map = embedded_map();
  Tally tally;
  const auto consumer = consumer_of(map, Tally::call, &tally);
  ChildProcess child([&] {
    const auto producer = producer_of(map);
    return produce(producer.get(), 'c');
  });
  EXPECT_TRUE(tally.poll_all(consumer.get(), kRecords));
  EXPECT_EQ(child.exit_code(), 0);
}

TEST(Fork, ChildProducesParentConsumesAttachedAfter) {
  FdLeakGuard guard;
  const auto map = embedded_map();
  ChildProcess child([&] {
    const auto producer = producer_of(map);
    return produce(producer.get(), 'c');
  });
  Tally tally;
  const auto consumer = consumer_of(map, Tally::call, &tally);
  EXPECT_TRUE(tally.poll_all(consumer.get(), kRecords));
  EXPECT_EQ(child.exit_code(), 0);
}

TEST(Fork, ParentProducesChildConsumesAttachedBefore) {
  FdLeakGuard guard;
  const auto map = embedded_map();
  const auto producer = producer_of(map);
  ChildProcess child([&] {
    Tally tally;
    const auto consumer = consumer_of(map, Tally::call, &tally);
    return tally.poll_all(consumer.get(), kRecords) ? 0 : 1;
  });
  EXPECT_EQ(produce(producer.get(), 'p'), 0);
  EXPECT_EQ(child.exit_code(), 0);
}

TEST(Fork, ParentProducesChildConsumesAttachedAfter) {
  FdLeakGuard guard;
  const auto map = embedded_map();
  ChildProcess child([&] {
    Tally tally;
    const auto consumer = consumer_of(map, Tally::call, &tally);
    return tally.poll_all(consumer.get(), kRecords) ? 0 : 1;
  });
  EXPECT_EQ(produce(producer_of(map).get(), 'p'), 0);
  EXPECT_EQ(child.exit_code(), 0);
}

TEST(Fork, ManyChildrenAndTheParentProduce) {
  FdLeakGuard guard;
  const auto map = embedded_map();
  const auto before = producer_of(map);
  std::vector<std::unique_ptr<ChildProcess>> children;
  for (int c = 0; c < 4; ++c)
    children.push_back(
        std::make_unique<ChildProcess>([&map, c] { return produce(producer_of(map).get(), static_cast<char>('a' + c)); }));
  Tally tally;
  const auto consumer = consumer_of(map, Tally::call, &tally);
  std::thread mine([&] { EXPECT_EQ(produce(before.get(), 'p'), 0); });
  EXPECT_TRUE(tally.poll_all(consumer.get(), 5 * kRecords));
  mine.join();
  for (auto& c : children) EXPECT_EQ(c->exit_code(), 0);
}

TEST(Fork, SlotsAreNeverSharedBetweenParentAndChild) {
  const auto map = embedded_map();
  for (int i = 0; i < 3; ++i) producer_of(map);  // attach and free
  int theirs[2], mine[2];
  ASSERT_EQ(::pipe2(theirs, O_CLOEXEC), 0);
  ASSERT_EQ(::pipe2(mine, O_CLOEXEC), 0);
  ChildProcess child([&] {
    const auto producer = producer_of(map);
    std::uint32_t slot = ringbuf_producer_view(producer.get())->slot;
    CHECK_OR_EXIT(::write(theirs[1], &slot, sizeof slot) == sizeof slot);
    CHECK_OR_EXIT(::read(mine[0], &slot, sizeof slot) == sizeof slot);  // holds its own until the parent has one
    return 0;
  });
  const auto producer = producer_of(map);
  const std::uint32_t own = ringbuf_producer_view(producer.get())->slot;
  std::uint32_t slot = 0;
  ASSERT_EQ(::read(theirs[0], &slot, sizeof slot), static_cast<ssize_t>(sizeof slot));
  EXPECT_NE(slot, own);
  ASSERT_EQ(::write(mine[1], &own, sizeof own), static_cast<ssize_t>(sizeof own));
  EXPECT_EQ(child.exit_code(), 0);
  for (const int fd : {theirs[0], theirs[1], mine[0], mine[1]}) ::close(fd);
}

TEST(Fork, SlotsComeBackFromChildrenThatFreedThem) {
  const auto map = embedded_map();
  const auto mine = producer_of(map);
  for (int i = 0; i < 3; ++i)
    ASSERT_EQ(ChildProcess([&] {
                const auto producer = producer_of(map);
                CHECK_OR_EXIT(ringbuf_producer_view(producer.get())->slot == 2);
                return 0;
              }).exit_code(),
              0);
}

TEST(Fork, ASingleProducerIsSingleInAllProcesses) {
  const auto map = embedded_map(4096, RINGBUF_F_SINGLE_PRODUCER);
  const auto attach = [&] {
    ringbuf_producer* producer = nullptr;
    const int r = ringbuf_producer_attach(map.get(), &producer);
    ringbuf_producer_free(producer);
    return -r;
  };
  auto mine = producer_of(map);
  EXPECT_EQ(ChildProcess(attach).exit_code(), EBUSY);
  mine.reset();
  EXPECT_EQ(ChildProcess(attach).exit_code(), 0);
  EXPECT_EQ(attach(), 0);
}

TEST(Fork, TheHandlersOfAChildMayUseTheLibrary) {
  static MapPtr map;
  static int result = 1;
  // Registered before any use of the library here; yet the library's own handlers run first in the child.
  ASSERT_EQ(::pthread_atfork(nullptr, nullptr,
                             [] {
                               ringbuf_map_info info;
                               if (map) result = ringbuf_map_get_info(map.get(), &info, sizeof info);
                             }),
            0);
  map = embedded_map();
  EXPECT_EQ(ChildProcess([&] { return result; }).exit_code(), 0);
  map.reset();
}

// fork copies locks as they are: one that another thread holds at that moment would stay locked in the child for ever.
TEST(Fork, AChildNeverInheritsALockThatIsHeld) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "AddressSanitizer's own allocator has locks that a child inherits";
#endif
  const auto map = embedded_map();
  std::atomic<bool> done{false};
  std::thread busy([&] {
    while (!done) consumer_of(map, Tally::call, nullptr);
  });
  for (int i = 0; i < 200; ++i) {
    ASSERT_EQ(ChildProcess([&] {
                ringbuf_map_info info;
                CHECK_OR_EXIT(ringbuf_map_get_info(map.get(), &info, sizeof info) == 0);
                CHECK_OR_EXIT(info.consumers == 0);
                consumer_of(map, Tally::call, nullptr);
                producer_of(map);
                return 0;
              }).exit_code(),
              0);
  }
  done = true;
  busy.join();
}

TEST(Fork, AChildMayNotWaitForRoomThroughItsParentsProducer) {
  const auto map = embedded_map();
  const auto producer = producer_of(map);
  ChildProcess child([&] {
    errno = 0;
    CHECK_OR_EXIT(ringbuf_reserve_wait(producer.get(), 8, -1) == nullptr);
    CHECK_OR_EXIT(errno == EPERM);
    return 0;
  });
  EXPECT_EQ(child.exit_code(), 0);
}

TEST(Fork, AChildThatFreesWhatItInheritedChangesNothing) {
  FdLeakGuard guard;
  auto map = embedded_map();
  auto producer = producer_of(map);
  Tally tally;
  auto consumer = consumer_of(map, Tally::call, &tally);
  auto observer = observer_of(map);
  ASSERT_GE(ringbuf_consumer_epoll_fd(consumer.get()), 0);
  auto poller = poller_of({});
  ChildProcess child([&] {
    poller.reset();
    observer.reset();
    consumer.reset();
    producer.reset();
    map.reset();
    return 0;
  });
  ASSERT_EQ(child.exit_code(), 0);
  EXPECT_EQ(stats_of(observer).waiting, 1u) << "the parent's descriptor still counts";
  ringbuf_map_info info;
  ASSERT_EQ(ringbuf_map_get_info(map.get(), &info, sizeof info), 0);
  EXPECT_EQ(info.producers, 1u);
  EXPECT_EQ(info.consumers, 1u);
  EXPECT_EQ(put(producer, "x"), 0);
  EXPECT_TRUE(readable(ringbuf_consumer_epoll_fd(consumer.get())));
}

TEST(Fork, WaitingForRoomWorksAcrossProcesses) {
  const auto map = embedded_map();
  Tally tally;
  const auto consumer = consumer_of(map, Tally::call, &tally);
  const auto observer = observer_of(map);
  const auto mine = producer_of(map);
  while (put(mine, std::string(1000, 'x')) == 0) continue;
  ASSERT_EQ(ringbuf_consumer_reset(consumer.get()) > 0, true);
  ChildProcess child([&] { return produce(producer_of(map).get(), 'c'); });
  wait_until([&] { return stats_of(observer).room_waiters == 1; });  // the child has filled the ring and waits
  EXPECT_TRUE(tally.poll_all(consumer.get(), kRecords));
  EXPECT_EQ(child.exit_code(), 0);
}

}  // namespace
