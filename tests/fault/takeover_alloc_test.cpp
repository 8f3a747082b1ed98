// SPDX-License-Identifier: MIT
// A daemon without memory takes over from another: each allocation of its start fails once, then all from it on. It starts, or it
// ends and says why; the next one finds all that was kept, and nobody who lives is taken for dead.
#include <gtest/gtest.h>

#include <cstdlib>

#include "crash/kept_world.hpp"

namespace ringbuf::test {
namespace {

class TakeOverAlloc : public ::testing::TestWithParam<bool> {};

TEST_P(TakeOverAlloc, EachFails) {
  KeptWorld world(RINGBUFD_STARVED_PATH);
  Bystander other(world.socket());
  world.daemon.kill();  // as all the others
  world.restart({&*world.good, &other});
  const std::string room = world.room(), at_rest = world.snapshot();
  unsigned ended = 0, nth = 0;
  for (bool failed = true; failed && !HasFailure();) {
    ++nth;
    {  // one who dies while there is no daemon, with a map of its own and a record that it has not committed
      Client dead(world.socket());
      const Reply own = dead.create(Client::spec(4096, "own")), work = dead.by_id(KeptWorld::id(world.work));
      const Attached attached(dead.attach(KeptWorld::fd(work), RINGBUF_PRODUCER), RINGBUF_PRODUCER);
      EXPECT_NE(attached.producer->reserve(8, 0), nullptr);
      world.daemon.rest();
      world.daemon.kill();
    }
    ::setenv("RINGBUF_TEST_ALLOCATION", std::to_string(nth).c_str(), 1);
    if (GetParam()) ::setenv("RINGBUF_TEST_ONCE", "", 1);
    const bool ready = world.daemon.start();
    world.daemon.kill();
    for (const char* name : {"RINGBUF_TEST_ALLOCATION", "RINGBUF_TEST_ONCE"}) ::unsetenv(name);
    const std::string said = world.daemon.said();
    SCOPED_TRACE(fmt::format("{}: {}", nth, said));
    failed = said.starts_with("no memory") || said.find("\nno memory") != said.npos;
    if (!ready) {
      ++ended;
      EXPECT_TRUE(failed);
      EXPECT_EQ(said.find("terminate called"), said.npos) << "it does not end in order";
      EXPECT_NE(said.find("ringbufd"), said.npos) << "it says why";
    }
    world.restart({&*world.good, &other});
    if (HasFatalFailure()) return;
    other.is_untouched();
    EXPECT_EQ(world.snapshot(), at_rest);
    EXPECT_EQ(world.info(world.work).orphan_records, nth) << "the dead one's record is counted once";
    world.is_sound();
  }
  EXPECT_EQ(world.room(), room);
  std::printf("take over: %u allocations, %u times it did not start\n", nth - 1, ended);
}

INSTANTIATE_TEST_SUITE_P(Fails, TakeOverAlloc, ::testing::Values(true, false),
                         [](const auto& once) { return once.param ? "Once" : "FromThenOn"; });

}  // namespace
}  // namespace ringbuf::test
