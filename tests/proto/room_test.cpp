// SPDX-License-Identifier: MIT
// S6: what may happen between a waiter's announcement and its look at the ring, made to happen there by a hook in room.cpp, which
// this test compiles for itself.
#include <gtest/gtest.h>

#include <functional>

#include "support/test_ring.hpp"

static thread_local std::function<void()> on_announced;
#define RINGBUF_TEST_ANNOUNCED(producer) \
  if (on_announced) on_announced()
#include "../../proto/shm/room.cpp"

namespace ringbuf::shm {
namespace {

using test::TestRing;

// docs/memory-ordering.md, S6, bad schedule 2: the need is told and somebody else takes the room, all before the waiter looks. It
// must announce anew: the same need is not told twice.
TEST(RoomOrder, ANeedThatWasToldBeforeTheLookIsAnnouncedAgain) {
  TestRing ring(4096, 2);
  const Producer producer = ring.producer(1), thief = ring.producer(2);
  const Consumer consumer = ring.consumer();
  const auto fill = [&] {
    void* p = thief.reserve(4096 - 16, 0);
    ASSERT_NE(p, nullptr);
    thief.submit(p, 0);
  };
  const auto consume = [&] { EXPECT_EQ(consumer.consume([](void*, std::size_t) { return 0; }, UINT64_MAX), 1); };
  fill();
  RoomWaiter waiter(producer);
  constexpr int kTimeoutMs = 20'000;
  const std::uint64_t begin = now_ns();
  int announced = 0;
  std::uint64_t needs[2] = {};
  on_announced = [&] {
    ASSERT_LT(announced, 2);
    needs[announced++] = ring.ring().need(1);
    if (now_ns() - begin >= kTimeoutMs * 1'000'000ull) return;  // it slept: nobody comes any more
    consume();                                                  // tells this need
    if (announced == 1) fill();                                 // and the room is gone again
  };
  void* payload = waiter.reserve(1000, kTimeoutMs);
  on_announced = nullptr;
  ASSERT_NE(payload, nullptr) << "it slept although its need had been told";
  EXPECT_EQ(announced, 2);
  EXPECT_EQ(needs[0] & UINT32_MAX, 1008u);
  EXPECT_EQ(needs[1] & UINT32_MAX, 1008u);
  EXPECT_NE(needs[0], needs[1]);
  EXPECT_EQ(ring.ring().room_waiters(), 0u);
}

}  // namespace
}  // namespace ringbuf::shm
