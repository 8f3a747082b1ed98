// SPDX-License-Identifier: MIT
// libringbuf without memory: each allocation of each call fails once, then all from it on. The call says ENOMEM with a sentence,
// has left nothing behind, here or in the daemon, and does its work when it is called again.
#include <gtest/gtest.h>

#include <cstring>

#include "daemon/harness.hpp"
#include "fault/failing_alloc.hpp"
#include "fault/library_calls.hpp"

namespace ringbuf::test {
namespace {

class LibraryAlloc : public ::testing::TestWithParam<Fails> {
 protected:
  void expect_clean(int result) {
    EXPECT_EQ(result, -ENOMEM) << ringbuf_last_error();
    EXPECT_STRNE(ringbuf_last_error(), "no call has failed");
  }
  // Producers, consumers, observers and tokens of all rings, as the daemon has them.
  static std::vector<ringbuf_map_info> infos(const World& w) {
    std::vector<ringbuf_map_info> all;
    for (const MapPtr* map : {&w.ring, &w.user, &w.overwrite, &w.array, &w.hash}) {
      if (!*map) continue;
      must(ringbuf_map_get_info(map->get(), &all.emplace_back(), sizeof(ringbuf_map_info)), "ringbuf_map_get_info");
      all.back().elements = all.back().references = all.back().pins = 0;  // what calls change on purpose
    }
    return all;
  }
  // Of the library and of the daemon, which has seen all that came before the request.
  int fds_now(const World& w) {
    int n = 0;
    (void)infos(w);
    daemon_.while_paused([&] { n = open_fds(); });
    return n;
  }
  static bool same(const std::vector<ringbuf_map_info>& a, const std::vector<ringbuf_map_info>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof a[0]) == 0;
  }

  void fail_each(const Call& call, World& world) {
    SCOPED_TRACE(call.name);
    {
      const auto made = call.prepare(world);  // some things are made once
      ASSERT_GE(call.run(world, made.get()), 0) << ringbuf_last_error();
    }
    const auto before = infos(world);
    const int fds = fds_now(world), mappings = ring_mappings();
    unsigned nth = 1, refused = 0;
    for (bool failed = true; failed; ++nth) {
      SCOPED_TRACE(nth);
      std::shared_ptr<void> made = call.prepare(world);
      int r = 0;
      errno = 0;
      failed = with_failing_allocation(nth, GetParam(), [&] { r = call.run(world, made.get()); });
      if (r < 0) {
        ++refused;
        ASSERT_TRUE(failed) << ringbuf_last_error();
        expect_clean(r);
        EXPECT_EQ(errno, ENOMEM);
        r = call.run(world, made.get());
        ASSERT_GE(r, 0) << "again: " << ringbuf_last_error();
      }
      made.reset();
      EXPECT_TRUE(same(infos(world), before)) << "the daemon still has something";
      eventually([&] { return fds_now(world) == fds; });  // a session's end is noticed a little later
      EXPECT_EQ(ring_mappings(), mappings);
    }
    std::printf("%-42s %2u allocations, %2u times ENOMEM\n", call.name, nth - 2, refused);
  }

  InProcessDaemon daemon_;
};

TEST_P(LibraryAlloc, EachAllocationOfEachEmbeddedCallFails) {
  World world("", true);
  for (const Call& call : calls_of_any_map()) fail_each(call, world);
}

TEST_P(LibraryAlloc, EachAllocationOfEachCallFails) {
  World world(daemon_.socket(), false);
  for (const Call& call : calls_of_any_map()) fail_each(call, world);
  for (const Call& call : calls_of_the_daemon()) fail_each(call, world);
}

TEST_P(LibraryAlloc, EachAllocationOfConnectingFails) {
  World world(daemon_.socket(), false);
  const std::string socket = daemon_.socket();
  fail_each(makes<ringbuf_session_free, ringbuf_session>(
                "connect", [&](World&, ringbuf_session** ret) { return ringbuf_connect(socket.c_str(), ret); }),
            world);
}

// What must not fail: freeing, and all that is done with records.
TEST_P(LibraryAlloc, NothingElseNeedsMemoryToSucceed) {
  World world(daemon_.socket(), false);
  const auto before = infos(world);
  for (unsigned nth = 1; nth < 8; ++nth) {
    SCOPED_TRACE(nth);
    ProducerPtr producer = producer_of(world.ring);
    ConsumerPtr consumer = consumer_of(world.ring, nothing, nullptr);
    ObserverPtr observer = observer_of(world.ring);
    PollerPtr poller = poller_of({consumer.get()});
    std::int64_t dumped = 0, shown = 0;
    int put_result = 0, polled = 0;
    with_failing_allocation(nth, GetParam(), [&] {
      for (int i = 0; i < 3; ++i) put_result |= ringbuf_output(producer.get(), "abc", 3, 0);
      if (void* p = ringbuf_reserve_wait(producer.get(), 8, 10)) ringbuf_discard(producer.get(), p, 0);
      dumped = ringbuf_observer_dump(observer.get(), show_nothing, nullptr);
      shown = ringbuf_observer_snapshot(observer.get(), show_nothing, nullptr);
      polled = ringbuf_poll(poller.get(), 0);
      poller.reset();
      producer.reset();
      consumer.reset();
      observer.reset();
    });
    EXPECT_EQ(put_result, 0);
    EXPECT_EQ(polled, 3);
    EXPECT_TRUE(dumped == 4 || dumped == -ENOMEM) << dumped;
    EXPECT_TRUE(shown == 4 || shown == -ENOMEM) << shown;
    EXPECT_TRUE(same(infos(world), before)) << "the daemon still has something";
  }
}

INSTANTIATE_TEST_SUITE_P(Fails, LibraryAlloc, ::testing::Values(Fails::Once, Fails::FromThenOn),
                         [](const auto& how) { return how.param == Fails::Once ? "Once" : "FromThenOn"; });

}  // namespace
}  // namespace ringbuf::test
