// SPDX-License-Identifier: MIT
// libringbuf while the kernel says no: each system call of each of its calls fails once, for want of something or because it was
// interrupted. The call says so with an errno and a sentence, leaves nothing behind, and does its work when it is called again.
#include <gtest/gtest.h>

#include <cstring>

#include "fault/library_calls.hpp"
#include "fault/tracer.hpp"
#include "system/daemon_process.hpp"

namespace ringbuf::test {
namespace {

// Calls that do not exist tell the tracer where the call under test begins and ends.
constexpr long kBegin = 100'001, kEnd = 100'002;

// 0: as it should be, with `stay` descriptors more than before.
int once(const Call& call, World& world, int stay) {
  const int fds = open_fds() + stay, mappings = ring_mappings();
  auto made = call.prepare(world);
  ::syscall(kBegin);
  const int r = call.run(world, made.get());
  const int err = errno;
  ::syscall(kEnd);
  const auto bad = [&](const char* what) {
    std::fprintf(stderr, "%s: %s (%d, %s)\n", call.name, what, r, ringbuf_last_error());
    return 1;
  };
  if (r < 0 && (err != -r || !std::strcmp(ringbuf_last_error(), "no call has failed"))) return bad("no clean error");
  if (r < 0 && call.run(world, made.get()) < 0) {
    // A request whose reply was lost was done.
    const bool lost = r == -ENOMEM && (errno == ENOENT || errno == EEXIST);
    if (!lost) return bad("not when it is called again");
  }
  made.reset();
  if (ring_mappings() != mappings) return bad("a mapping is left");
  if (open_fds() != fds) return bad("a descriptor is left");
  return 0;
}

class LibrarySyscalls : public ::testing::TestWithParam<Trouble> {
 protected:
  // run() in a child, each time another.
  template <class F>
  void fail_each_of(const char* name, F run) {
    SCOPED_TRACE(name);
    unsigned nth = 1;
    for (bool failed = true; failed; ++nth) {
      SCOPED_TRACE(nth);
      std::fflush(nullptr);
      const pid_t child = ::fork();
      if (child == 0) {
        ::ptrace(PTRACE_TRACEME, 0, 0, 0);
        ::raise(SIGSTOP);
        ::_exit(run());
      }
      Tracer tracer;
      long which = -1;
      const int status = tracer.follow(child, [&](long nr, const std::uint64_t*) {
        if (nr == kBegin) tracer.fail(nth, GetParam());
        if (nr == kEnd) which = tracer.stop();
      });
      failed = which >= 0;
      EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "call " << which << ", status " << status;
    }
    std::printf("%-42s %2u calls\n", name, nth - 2);
  }
  void fail_each(const Call& call, bool embedded) {
    fail_each_of(call.name, [&] {
      World world(daemon_.socket(), embedded);
      {
        const auto warm = call.prepare(world);
        if (call.run(world, warm.get()) < 0) return 2;
      }
      return once(call, world, 0);
    });
  }
  Daemon daemon_;
};

TEST_P(LibrarySyscalls, EachOfEachEmbeddedCallFails) {
  for (const Call& call : calls_of_any_map()) fail_each(call, true);
}

TEST_P(LibrarySyscalls, EachOfEachCallFails) {
  for (const Call& call : calls_of_any_map()) fail_each(call, false);
  for (const Call& call : calls_of_the_daemon()) fail_each(call, false);
}

TEST_P(LibrarySyscalls, EachOfConnectingFails) {
  const std::string socket = daemon_.socket();
  fail_each(makes<ringbuf_session_free, ringbuf_session>(
                "connect", [&](World&, ringbuf_session** ret) { return ringbuf_connect(socket.c_str(), ret); }),
            false);
}

TEST_P(LibrarySyscalls, EachOfAForkChildsFirstRequestFails) {
  World parents(daemon_.socket(), false);
  for (const Call& call : calls_of_any_map()) {
    const bool asks = std::strcmp(call.name, "make a poller") != 0;
    fail_each_of(call.name, [&] { return once(call, parents, asks ? 2 : 0); });  // its own socket and lease
    ringbuf_map_info info;
    EXPECT_EQ(ringbuf_map_get_info(parents.ring.get(), &info, sizeof info), 0) << "the parent's session is its own";
  }
}

// Killed before each system call, which is after each one before it, of attaching, working, and detaching.
TEST(LibraryDeath, AtEachCallOfAttachAndDetach) {
  Daemon daemon;
  const SessionPtr session = World::connect(daemon.socket());
  ringbuf_map* made = nullptr;
  must(ringbuf_map_create(session.get(), "deaths", 4096, nullptr, &made), "ringbuf_map_create");
  const MapPtr map(made);
  const auto info = [&] {
    ringbuf_map_info i{};
    must(ringbuf_map_get_info(map.get(), &i, sizeof i), "ringbuf_map_get_info");
    return i;
  };
  std::size_t seen = 0;
  ringbuf_consumer* consumer = nullptr;
  const auto count = [](void* n, void*, std::size_t size) {
    *static_cast<std::size_t*>(n) += size == 4;
    return 0;
  };
  must(ringbuf_consumer_attach(map.get(), count, &seen, &consumer), "ringbuf_consumer_attach");
  ringbuf_producer* producer = nullptr;
  must(ringbuf_producer_attach(map.get(), &producer), "ringbuf_producer_attach");

  const auto work = [](ringbuf_map* m) {
    ringbuf_consumer* c = nullptr;
    ringbuf_observer* o = nullptr;
    ringbuf_producer* p = nullptr;
    ringbuf_consumer_attach(m, nothing, nullptr, &c);
    ringbuf_observer_attach(m, &o);
    ringbuf_producer_attach(m, &p);
    ringbuf_output(p, "kept", 4, 0);
    (void)!ringbuf_reserve(p, 100, 0);
    ringbuf_output(p, "kept", 4, 0);
    ringbuf_producer_free(p);
    ringbuf_observer_free(o);
    ringbuf_consumer_free(c);
  };
  const std::uint32_t id = info().id;
  unsigned nth = 1;
  for (bool killed = true; killed; ++nth) {
    SCOPED_TRACE(nth);
    const pid_t child = ::fork();
    if (child == 0) {
      ::ptrace(PTRACE_TRACEME, 0, 0, 0);
      ::raise(SIGSTOP);
      const SessionPtr mine = World::connect(daemon.socket());
      ringbuf_map* theirs = nullptr;
      must(ringbuf_map_open_id(mine.get(), id, 0, &theirs), "ringbuf_map_open_id");
      ::syscall(kBegin);
      work(theirs);
      ::syscall(kEnd);
      ::_exit(0);
    }
    Tracer tracer;
    bool inside = false;
    unsigned calls = 0;
    const auto orphans = info().orphan_records;
    const int status = tracer.follow(child, [&](long nr, const std::uint64_t*) {
      if (nr == kBegin || nr == kEnd) inside = nr == kBegin;
      else if (inside && ++calls == nth) ::kill(child, SIGKILL);
    });
    killed = WIFSIGNALED(status);
    EXPECT_TRUE(killed || WEXITSTATUS(status) == 0);
    wait_until([&] { return info().producers == 1 && info().consumers == 1 && info().observers == 0; });
    EXPECT_EQ(info().head_slot, 0u);
    EXPECT_EQ(info().owner_slot, 0u);
    EXPECT_LE(info().orphan_records - orphans, 1u);
    for (int i = 0; i < 10; ++i) EXPECT_EQ(ringbuf_output(producer, "next", 4, 0), 0);
    seen = 0;
    EXPECT_GE(ringbuf_consume(consumer), 10);
    EXPECT_TRUE(seen >= 10 && seen <= 12) << seen;
    if (!killed) {
      EXPECT_EQ(seen, 12u);
    }
  }
  std::printf("killed at %u calls\n", nth - 2);
  ringbuf_producer_free(producer);
  ringbuf_consumer_free(consumer);
}

INSTANTIATE_TEST_SUITE_P(Trouble, LibrarySyscalls, ::testing::Values(Trouble::Want, Trouble::Interruption),
                         [](const auto& kind) { return kind.param == Trouble::Want ? "Want" : "Interruption"; });

}  // namespace
}  // namespace ringbuf::test
