// SPDX-License-Identifier: MIT
// Threads that clients can get stuck, and the waits of consumers, which are changed by them.
#include "daemon/lanes.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <atomic>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <latch>

#include "base/notify.hpp"
#include "daemon/wait.hpp"
#include "support/fd_leak_guard.hpp"

namespace ringbuf::test {
namespace {

using daemon::Lane;
using daemon::Lanes;
using daemon::Signal;
using daemon::Wait;
using daemon::Waits;
using Clock = std::chrono::steady_clock;

class LanesTest : public ::testing::Test {
 protected:
  struct Count : Lane::Work {
    explicit Count(std::atomic<int>& c) : count(c) {}
    void run() noexcept override { ++count; }
    std::atomic<int>& count;
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

  // In the end, when the lanes have come round to it.
  struct AllClosed {
    ~AllClosed() {
      while (open_fds() != before) std::this_thread::yield();
    }
    const int before = open_fds();
  } all_closed;
  boost::asio::io_context io;
  Lanes lanes{io};
};

TEST_F(LanesTest, WhatIsGivenIsDoneOnReturnAndInOrder) {
  const auto lane = lanes.closing(1);
  std::atomic<int> count = 0;
  for (int i = 1; i <= 1000; ++i) {
    const auto begin = Clock::now();
    lane->run(std::make_shared<Count>(count));
    if (count == i) continue;
    // This machine does not get round to it.
    ASSERT_GE(Clock::now() - begin, std::chrono::milliseconds(100));
    wait_for(*lane);
    EXPECT_EQ(count, i);
    return;
  }
}

TEST_F(LanesTest, WaitingInVainIsChargedToAllThatShareAPatience) {
  const auto patience = std::make_shared<Lane::Patience>();
  const auto stuck = std::make_shared<Stuck>();
  Lane lane(io, patience);
  const auto begin = Clock::now();
  lane.run(stuck);
  const auto end = Clock::now();
  EXPECT_GE(end - begin, std::chrono::milliseconds(100));
  EXPECT_GE(patience->back_at, begin + std::chrono::seconds(1)) << "a tenth of the time";
  EXPECT_LE(patience->back_at, end + std::chrono::seconds(1));
  stuck->on.count_down();
  wait_for(lane);
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
  std::atomic<int> own = 0, others = 0;
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

TEST_F(LanesTest, WhatIsClosedSoonIsSoBeforeAnythingElseIsSeenToBeReady) {
  boost::asio::posix::stream_descriptor first(io, ::eventfd(1, EFD_CLOEXEC)), second(io, ::eventfd(0, EFD_CLOEXEC));
  const int before = open_fds();
  const auto lane = lanes.closing(1);
  int closed = 0;
  first.async_wait(first.wait_read, [&](boost::system::error_code) {
    for (int i = 0; i < 5; ++i) lane->close_soon(descriptors(2));
    EXPECT_EQ(open_fds(), before + 10);
    eventfd_write(second.native_handle(), 1);
  });
  second.async_wait(second.wait_read, [&](boost::system::error_code) {
    wait_for(*lane);
    EXPECT_EQ(open_fds(), before);
    ++closed;
  });
  io.run();
  EXPECT_EQ(closed, 1);
}

TEST_F(LanesTest, ThirtyTwoAreClosedAtOnce) {
  const auto stuck = std::make_shared<Stuck>();
  const auto lane = lanes.closing(1);
  lane->close_soon(descriptors(31));
  EXPECT_TRUE(lane->keeps_up());
  EXPECT_TRUE(lane->idle());
  lane->run(stuck);
  lane->close_soon(descriptors(1));
  EXPECT_FALSE(lane->keeps_up());
  stuck->on.count_down();
  wait_for(*lane);
  EXPECT_TRUE(lane->keeps_up());
  io.run();  // what was to be closed soon is not any more
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

class WaitTest : public LanesTest {
 protected:
  static constexpr uid_t kUid = 1;

  Signal signal() { return std::make_shared<daemon::ForeignFd>(lanes.closing(kUid), make_eventfd().value()); }
  // That can be put into no epoll.
  Signal wrong() {
    return std::make_shared<daemon::ForeignFd>(lanes.closing(kUid), UniqueFd(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC)));
  }
  void hold() { lanes.waits(kUid)->run(stuck); }
  void let_go() { stuck->on.count_down(); }
  Result<void> add(const Signal& s) {
    wait->add(s);
    wait->settle();
    return wait->added(s);
  }
  void remove(const Signal& s) {
    wait->remove(s);
    wait->settle();
  }
  void settle() {
    while (waits.unsettled(kUid) != 0) io.run_one();
    io.run();  // and there is nothing more to do
    io.restart();
  }
  // A write since the last time.
  bool reported() const {
    epoll_event e;
    return ::epoll_wait(epoll, &e, 1, 0) == 1;
  }

  daemon::ClientLog log;
  Waits waits{io, lanes, log};
  const std::shared_ptr<Stuck> stuck = std::make_shared<Stuck>();
  const Signal kick_signal = signal(), first = signal(), second = signal();
  std::shared_ptr<Wait> wait = std::make_shared<Wait>(waits, kUid, make_epoll().value(), kick_signal);
  const int epoll = wait->fd();
};

TEST_F(WaitTest, WhatIsAddedWakesUntilItIsRemoved) {
  EXPECT_TRUE(wait->put(first));
  EXPECT_TRUE(add(second));
  settle();
  for (const auto& s : {first, second}) {
    kick(s);
    EXPECT_TRUE(reported());
    EXPECT_FALSE(reported());
    remove(s);
    settle();
    kick(s);
    EXPECT_FALSE(reported());
  }
}

TEST_F(WaitTest, WhatCannotBeAddedIsAnErrorUntilItIsRemoved) {
  const auto bad = wrong();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(add(bad).error().err, EPERM);
  EXPECT_EQ(waits.unsettled(kUid), 3u);
  for (int i = 0; i < 3; ++i) remove(bad);
  EXPECT_EQ(wait->put(wrong()).error().err, EPERM);
  EXPECT_EQ(waits.unsettled(kUid), 0u);
}

TEST_F(WaitTest, WhatComesLateIsReportedAndTheConsumerIsKickedMeanwhile) {
  EXPECT_TRUE(wait->put(kick_signal));
  hold();
  EXPECT_TRUE(add(first));
  EXPECT_EQ(waits.unsettled(kUid), 1u);
  EXPECT_EQ(waits.unsettled(kUid + 1), 0u);
  kick(first);
  EXPECT_FALSE(reported());
  for (int i = 0; i < 3; ++i) {
    io.run_one();
    EXPECT_TRUE(reported()) << "a kick";
  }
  let_go();
  settle();
  while (reported()) {}
  kick(first);
  EXPECT_TRUE(reported());
}

TEST_F(WaitTest, WhatGoesBeforeItIsInIsForgotten) {
  hold();
  EXPECT_TRUE(add(first));
  EXPECT_TRUE(add(second));
  remove(first);
  EXPECT_EQ(waits.unsettled(kUid), 1u);
  wait->remove_all();
  wait->settle();
  EXPECT_EQ(waits.unsettled(kUid), 0u);
  let_go();
  settle();
}

TEST_F(WaitTest, WithItsEndAllIsTakenOutAndNobodyKicked) {
  EXPECT_TRUE(wait->put(kick_signal));
  EXPECT_TRUE(wait->put(first));
  hold();
  wait->remove_all();
  wait->settle();
  EXPECT_EQ(waits.unsettled(kUid), 2u);
  wait.reset();
  const UniqueFd copy(::fcntl(epoll, F_DUPFD_CLOEXEC, 0));  // its client's
  epoll_event e;
  io.run_one();
  EXPECT_EQ(::epoll_wait(copy.get(), &e, 1, 0), 0);
  let_go();
  settle();
  for (const auto& s : {kick_signal, first}) kick(s);
  EXPECT_EQ(::epoll_wait(copy.get(), &e, 1, 0), 0);
}

// The lane works at them all the while.
TEST_F(WaitTest, WhatFailsIsTriedAgainUntilItIsRemoved) {
  hold();
  let_go();
  std::vector<Signal> good(20);
  for (auto& s : good) s = signal();
  for (int i = 0; i < 2000; ++i) {
    const auto bad = wrong();
    wait->expect(bad, true);
    for (const auto& s : good) wait->expect(s, true);
    wait->settle();  // does not wait: it has just been in vain
    if (i % 2) std::this_thread::yield();
    wait->remove(bad);
    for (const auto& s : good) wait->remove(s);
    wait->settle();
  }
  settle();
}

TEST_F(WaitTest, WhatIsLeftToDoKeepsNobodyWhoStops) {
  hold();
  EXPECT_TRUE(add(first));
  waits.stop();
  io.run();
  EXPECT_EQ(waits.unsettled(kUid), 1u);
  let_go();
}

}  // namespace
}  // namespace ringbuf::test
