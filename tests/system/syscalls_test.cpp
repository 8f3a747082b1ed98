// SPDX-License-Identifier: MIT
// What a record costs through the library, in system calls: nothing beside a consumer that polls, one eventfd write for each
// sleep of one that sleeps. The producer is a child under ptrace; its calls are counted between two marks that nobody else makes.
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include <atomic>
#include <map>
#include <new>
#include <thread>

#include "daemon_process.hpp"
#include "ringbuf/ringbuf.hpp"

using namespace ringbuf::test;

namespace {

constexpr int kMarkArgument = 0x7ab5c3;
void mark() { ::syscall(SYS_getpgid, kMarkArgument); }

struct Counts {
  bool traced = false;
  int exit_code = -1;
  std::map<std::uint64_t, std::uint64_t> calls;  // between the marks, by number
  std::uint64_t total() const {
    std::uint64_t n = 0;
    for (const auto& [nr, count] : calls) n += count;
    return n;
  }
};

// In the thread that forked `child`.
Counts count_calls(const ChildProcess& child) {
  Counts c;
  int status = 0;
  bool between = false;
  if (::waitpid(child.pid(), &status, 0) < 0 || !WIFSTOPPED(status)) return c;
  c.traced = ::ptrace(PTRACE_SETOPTIONS, child.pid(), nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL) == 0;
  for (int signal = 0;;) {
    ::ptrace(PTRACE_SYSCALL, child.pid(), nullptr, signal);
    if (::waitpid(child.pid(), &status, 0) < 0) return c;
    if (!WIFSTOPPED(status)) break;
    signal = WSTOPSIG(status) == (SIGTRAP | 0x80) ? 0 : WSTOPSIG(status);
    if (signal) continue;
    __ptrace_syscall_info info{};
    ::ptrace(PTRACE_GET_SYSCALL_INFO, child.pid(), sizeof info, &info);
    if (info.op != PTRACE_SYSCALL_INFO_ENTRY) continue;
    if (info.entry.nr == SYS_getpgid && info.entry.args[0] == kMarkArgument) between = !between;
    else if (between) ++c.calls[info.entry.nr];
  }
  c.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return c;
}

class LibrarySyscalls : public ::testing::Test {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    GTEST_SKIP() << "sanitizers make system calls of their own";
#endif
  }
  static bool trace_me() { return ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0 && ::raise(SIGSTOP) == 0; }

  // body(map) makes the records, in a traced process; `consume` is what this process does meanwhile, until `done`.
  template <class Body, class Consume>
  Counts count(Body&& body, Consume&& consume) {
    std::atomic<bool> done{false};
    ChildProcess child([&] {
      const auto own = open_id(daemon.connect(), id);
      if (!trace_me()) return 77;
      return body(own);
    });
    std::thread consuming([&] { consume(done); });
    const Counts c = count_calls(child);
    done = true;
    consuming.join();
    return c;
  }

  Daemon daemon;
  SessionPtr session = daemon.connect();
  MapPtr map = create_map(session, "counted", 65536);
  const std::uint32_t id = info_of(map).id;
};

constexpr unsigned kRecords = 100'000;

TEST_F(LibrarySyscalls, TheCApiMakesNoneBesideAPollingConsumer) {
  const auto consumer = consumer_of(
      map, [](void*, void*, std::size_t) { return 0; }, nullptr);
  const Counts c = count(
      [](const MapPtr& own) {
        const auto producer = producer_of(own);
        ringbuf_discard(producer.get(), ringbuf_reserve(producer.get(), 0, 0), 0);  // a thread asks for its id once
        mark();
        for (unsigned i = 0; i < kRecords; ++i) {
          void* data;
          while (!(data = ringbuf_reserve(producer.get(), sizeof i, 0))) continue;
          std::memcpy(data, &i, sizeof i);
          ringbuf_submit(producer.get(), data, 0);
          while (ringbuf_output(producer.get(), &i, sizeof i, 0) != 0) continue;
        }
        mark();
        return 0;
      },
      [&](std::atomic<bool>& done) {
        while (!done) ringbuf_consume(consumer.get());
      });
  if (!c.traced || c.exit_code == 77) GTEST_SKIP() << "ptrace is not permitted here";
  EXPECT_EQ(c.exit_code, 0);
  EXPECT_EQ(c.total(), 0u) << "the first is number " << (c.calls.empty() ? 0 : c.calls.begin()->first);
}

TEST_F(LibrarySyscalls, TheCppApiMakesNoneBesideAPollingConsumer) {
  const auto consumer = consumer_of(
      map, [](void*, void*, std::size_t) { return 0; }, nullptr);
  const Counts c = count(
      [&](const MapPtr&) {
        auto own = ringbuf::Session::connect(daemon.socket().c_str());
        auto producer = ringbuf::Producer::attach(*ringbuf::Map::open_id(*own, id));
        CHILD_CHECK(producer);
        producer->reserve(0);  // discards itself
        mark();
        for (unsigned i = 0; i < kRecords; ++i) {
          ringbuf::Reservation r;
          while (!(r = producer->reserve(sizeof i))) continue;
          std::memcpy(r.data(), &i, sizeof i);
          if (i % 16 != 0) r.submit();
          while (producer->output(&i, sizeof i) != 0) continue;
        }
        mark();
        return 0;
      },
      [&](std::atomic<bool>& done) {
        while (!done) ringbuf_consume(consumer.get());
      });
  if (!c.traced || c.exit_code == 77) GTEST_SKIP() << "ptrace is not permitted here";
  EXPECT_EQ(c.exit_code, 0);
  EXPECT_EQ(c.total(), 0u) << "the first is number " << (c.calls.empty() ? 0 : c.calls.begin()->first);
}

// By index, by key and by shard, in a map of maps.
TEST_F(LibrarySyscalls, LookupsInAMapOfMapsMakeNoneAfterTheFirst) {
  ringbuf_map_create_opts opts{};
  opts.sz = sizeof opts;
  opts.key_size = opts.value_size = 4;
  opts.inner_map = map.get();
  std::uint32_t ids[2];
  MapPtr outers[2];
  const std::uint32_t key = 0, none = 1;
  for (int i = 0; i < 2; ++i) {
    opts.map_type = i ? RINGBUF_MAP_TYPE_HASH_OF_MAPS : RINGBUF_MAP_TYPE_ARRAY_OF_MAPS;
    ringbuf_map* raw = nullptr;
    must(ringbuf_map_create(session.get(), "outer", i ? 2 : 1, &opts, &raw), "ringbuf_map_create");
    outers[i].reset(raw);
    must(ringbuf_map_update_elem(raw, &key, map.get(), 0), "ringbuf_map_update_elem");
    ids[i] = info_of(outers[i]).id;
  }
  const auto consumer = consumer_of(
      map, [](void*, void*, std::size_t) { return 0; }, nullptr);
  const Counts c = count(
      [&](const MapPtr&) {
        const auto own = daemon.connect();
        ringbuf_outer *array, *hash;
        CHILD_CHECK(ringbuf_outer_attach(open_id(own, ids[0]).get(), &array) == 0);
        CHILD_CHECK(ringbuf_outer_attach(open_id(own, ids[1]).get(), &hash) == 0);
        ringbuf_producer* producer = ringbuf_outer_lookup(array, &key);
        CHILD_CHECK(producer && ringbuf_outer_lookup(hash, &key));
        ringbuf_discard(producer, ringbuf_reserve(producer, 0, 0), 0);
        mark();
        for (unsigned i = 0; i < kRecords; ++i) {
          CHILD_CHECK(ringbuf_outer_lookup(array, &key) == producer);
          CHILD_CHECK(ringbuf_outer_lookup(hash, &key) != nullptr);
          CHILD_CHECK(ringbuf_outer_lookup(hash, &none) == nullptr && errno == ENOENT);
          void* data;
          while (!(data = ringbuf_shard_reserve(array, i % 2 ? RINGBUF_SHARD_CPU : RINGBUF_SHARD_TGID, sizeof i, 0, &producer)))
            continue;
          ringbuf_submit(producer, data, 0);
        }
        mark();
        return 0;
      },
      [&](std::atomic<bool>& done) {
        while (!done) ringbuf_consume(consumer.get());
      });
  if (!c.traced || c.exit_code == 77) GTEST_SKIP() << "ptrace is not permitted here";
  EXPECT_EQ(c.exit_code, 0);
  EXPECT_EQ(c.total(), 0u) << "the first is number " << (c.calls.empty() ? 0 : c.calls.begin()->first);
}

TEST_F(LibrarySyscalls, EachSleepCostsOneEventfdWrite) {
  constexpr std::uint64_t kSleeps = 500;
  const auto consumer = consumer_of(
      map, [](void*, void*, std::size_t) { return 0; }, nullptr);
  const auto observer = observer_of(map);
  const auto asleep = [](const ObserverPtr& o) {  // makes no call: reads shared memory
    ringbuf_stats s;
    ringbuf_observer_stats(o.get(), &s, sizeof s);
    return s.consumer_pos == s.producer_pos && s.waiting == 1;
  };
  const Counts c = count(
      [&](const MapPtr& own) {
        const auto producer = producer_of(own);
        const auto looking = observer_of(own);
        ringbuf_discard(producer.get(), ringbuf_reserve(producer.get(), 0, 0), 0);
        while (!asleep(looking)) continue;
        mark();
        for (std::uint64_t i = 0; i < kSleeps; ++i) {
          while (!asleep(looking)) continue;
          CHILD_CHECK(ringbuf_output(producer.get(), &i, sizeof i, 0) == 0);
        }
        mark();
        while (!asleep(looking)) continue;
        return 0;
      },
      [&](std::atomic<bool>& done) {
        const auto poller = poller_of({consumer.get()});
        std::uint64_t n = 0;
        while (n < kSleeps) n += static_cast<std::uint64_t>(ringbuf_poll(poller.get(), -1));
        while (!done) ringbuf_poll(poller.get(), 10);  // sleeping, so that the producer sees so
      });
  if (!c.traced || c.exit_code == 77) GTEST_SKIP() << "ptrace is not permitted here";
  EXPECT_EQ(c.exit_code, 0);
  ASSERT_EQ(c.calls.size(), 1u);
  EXPECT_EQ(c.calls.begin()->first, static_cast<std::uint64_t>(SYS_write));
  EXPECT_EQ(c.total(), kSleeps);
}

}  // namespace
