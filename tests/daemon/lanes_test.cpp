// SPDX-License-Identifier: MIT
#include "daemon/lanes.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <latch>

#include "support/fd_leak_guard.hpp"

namespace ringbuf::test {
namespace {

using daemon::Lane;
using daemon::Lanes;

class LanesTest : public ::testing::Test {
 protected:
  struct Count : Lane::Work {
    explicit Count(int& c) : count(c) {}
    void run() noexcept override { ++count; }
    int& count;
  };
  // Until somebody lets it go on.
  struct Stuck : Lane::Work {
    void run() noexcept override { on.wait(); }
    std::latch on{1};
  };
  static std::shared_ptr<Lane::Fds> descriptors(int n) {
    auto fds = std::make_shared<Lane::Fds>();
    for (int i = 0; i < n; ++i) fds->all.emplace_back(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    return fds;
  }
  // For all that was given to it before.
  static void wait_for(Lane& lane) {
    while (!lane.idle()) std::this_thread::yield();
  }

  boost::asio::io_context io;
  Lanes lanes{io};
};

TEST_F(LanesTest, WhatIsGivenIsDoneOnReturnAndInOrder) {
  const auto lane = lanes.closing(1);
  int count = 0;
  for (int i = 1; i <= 1000; ++i) {
    lane->run(std::make_shared<Count>(count));
    ASSERT_EQ(count, i);
  }
}

TEST_F(LanesTest, AUidHasOneForEachPurpose) {
  const auto lane = lanes.closing(1);
  EXPECT_EQ(lanes.closing(1), lane);
  EXPECT_NE(lanes.waits(1), lane);
  EXPECT_NE(lanes.closing(2), lane);
}

TEST_F(LanesTest, AStuckOneStopsNoOther) {
  const auto stuck = std::make_shared<Stuck>();
  const auto lane = lanes.closing(1);
  lane->run(stuck);  // comes back, or this test never ends
  int own = 0, others = 0;
  for (int i = 1; i <= 100; ++i) {
    lane->run(std::make_shared<Count>(own));
    lanes.closing(2)->run(std::make_shared<Count>(others));
    lanes.waits(1)->run(std::make_shared<Count>(others));
    EXPECT_EQ(own, 0);
  }
  wait_for(*lanes.closing(2));
  wait_for(*lanes.waits(1));
  EXPECT_EQ(others, 200);
  stuck->on.count_down();
  wait_for(*lane);
  EXPECT_EQ(own, 100);
}

TEST_F(LanesTest, WhoGoesAndComesAgainFindsItStuck) {
  const auto stuck = std::make_shared<Stuck>();
  lanes.closing(1)->run(stuck);
  const Lane* const first = lanes.closing(1).get();
  (void)lanes.closing(2);  // a new one: those that nobody has go
  EXPECT_EQ(lanes.closing(1).get(), first);
  EXPECT_FALSE(first->idle());
  stuck->on.count_down();
  wait_for(*lanes.closing(1));
}

TEST_F(LanesTest, BehindThirtyTwoDescriptorsItDoesNotKeepUp) {
  const int before = open_fds();
  const auto stuck = std::make_shared<Stuck>();
  const auto lane = lanes.closing(1);
  lane->run(stuck);
  lane->run(descriptors(31));
  EXPECT_TRUE(lane->keeps_up());
  lane->run(descriptors(1));
  EXPECT_FALSE(lane->keeps_up());
  bool again = false;
  lane->when_it_keeps_up([&] { again = true; });
  io.poll();
  EXPECT_FALSE(again);
  stuck->on.count_down();
  wait_for(*lane);
  EXPECT_TRUE(lane->keeps_up());
  while (!again) io.restart(), io.poll();
  EXPECT_EQ(open_fds(), before);
}

TEST_F(LanesTest, WhatWaitsIsDoneWhenNobodyHasItAnyMore) {
  const auto stuck = std::make_shared<Stuck>();
  struct Last : Lane::Work {
    explicit Last(std::latch& l) : done(l) {}
    void run() noexcept override { done.count_down(); }
    std::latch& done;
  };
  std::latch done(1);
  {
    Lane lane(io, std::make_shared<Lane::Patience>());
    lane.run(stuck);
    lane.run(std::make_shared<Last>(done));
  }
  EXPECT_FALSE(done.try_wait());
  stuck->on.count_down();
  done.wait();
}

}  // namespace
}  // namespace ringbuf::test
