// SPDX-License-Identifier: MIT
// ringbufd --supervise is killed, again and again: the next daemon has every map, id, name, pin, reference, right, attachment and
// unread record; who works does not notice; who died meanwhile is buried.
#include <sys/syscall.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/unique_fd.hpp"
#include "daemon_process.hpp"
#include "supervised.hpp"

using namespace ringbuf::test;

namespace {

class Takeover : public ::testing::Test {
 protected:
  FdLeakGuard guard;
  Supervised daemon;
  SessionPtr session = daemon.connect();
};

std::string str(const ringbuf_map_info& i) {
  return std::string(reinterpret_cast<const char*>(&i), offsetof(ringbuf_map_info, head_ms));
}

MapPtr create(const SessionPtr& session, const char* name, std::uint32_t type, std::uint32_t max_entries, std::uint32_t flags = 0,
              const MapPtr& inner = nullptr, std::uint32_t mode = 0) {
  ringbuf_map_create_opts opts{};
  opts.sz = sizeof opts;
  opts.map_type = type;
  opts.map_flags = flags;
  opts.mode = mode;
  if (inner) {
    opts.key_size = type == 13 ? 10 : 4;
    opts.value_size = 4;
    opts.inner_map = inner.get();
  }
  ringbuf_map* map = nullptr;
  must(ringbuf_map_create(session.get(), name, max_entries, &opts, &map), "ringbuf_map_create");
  return MapPtr(map);
}

TEST_F(Takeover, EverythingIsThereAgain) {
  std::vector<MapPtr> maps;
  maps.push_back(create(session, "ring", 27, 4096, 0, nullptr, 0640));
  maps.push_back(create(session, "flight", 27, 8192, 1u << 19));
  maps.push_back(create(session, "user", 31, 4096));
  maps.push_back(create(session, "array", 12, 8, 0, maps[0]));
  maps.push_back(create(session, "hash", 13, 8, 0, maps[0]));
  const MapPtr& ring = maps[0];
  must(ringbuf_map_pin(ring.get(), "/a/pin"), "pin");
  must(ringbuf_map_pin(ring.get(), "/b/pin"), "pin");
  const std::uint32_t at = 3;
  const MapPtr observe = open_id(session, info_of(ring).id, RINGBUF_RIGHT_OBSERVE | RINGBUF_RIGHT_PRODUCE);
  must(ringbuf_map_update_elem(maps[3].get(), &at, observe.get(), 0), "update");
  const char key[11] = "0123456789";
  for (const char last : {'a', 'b', 'c'}) {
    char k[11];
    std::memcpy(k, key, sizeof k);
    k[9] = last;
    must(ringbuf_map_update_elem(maps[4].get(), k, ring.get(), 0), "update");
    if (last == 'b') must(ringbuf_map_delete_elem(maps[4].get(), k), "delete");
  }
  const auto producer = producer_of(ring);
  const auto consumer = consumer_of(ring, nullptr, nullptr);
  ASSERT_EQ(ringbuf_output(producer.get(), "unread", 6, 0), 0);
  std::vector<std::string> before;
  for (const auto& m : maps) before.push_back(str(info_of(m)));

  for (int times = 0; times < 3; ++times) {
    daemon.kill();
    for (std::size_t i = 0; i < maps.size(); ++i) EXPECT_EQ(str(info_of(maps[i])), before[i]) << i;
    char path[256];
    must(ringbuf_map_get_pin(ring.get(), 0, path, sizeof path), "get_pin");
    EXPECT_STREQ(path, "/a/pin");
    must(ringbuf_map_get_pin(ring.get(), 1, path, sizeof path), "get_pin");
    EXPECT_STREQ(path, "/b/pin");
    ringbuf_map* found = nullptr;
    must(ringbuf_map_open_pinned(session.get(), "/b/pin", 0, &found), "open_pinned");
    EXPECT_EQ(info_of(MapPtr(found)).id, info_of(ring).id);
    // The element has the rights that it was put in with, and no more.
    ringbuf_map* inner = nullptr;
    must(ringbuf_map_open_inner(maps[3].get(), &at, RINGBUF_RIGHT_PRODUCE, &inner), "open_elem");
    EXPECT_EQ(info_of(MapPtr(inner)).id, info_of(ring).id);
    EXPECT_EQ(ringbuf_map_open_inner(maps[3].get(), &at, RINGBUF_RIGHT_CONSUME, &inner), -EACCES);
    for (const char last : {'a', 'b', 'c'}) {
      char k[11];
      std::memcpy(k, key, sizeof k);
      k[9] = last;
      std::uint32_t id = 0;
      EXPECT_EQ(ringbuf_map_lookup_elem(maps[4].get(), k, &id), last == 'b' ? -ENOENT : 0);
    }
    // A token still carries what it did.
    ringbuf_consumer* none = nullptr;
    EXPECT_EQ(ringbuf_consumer_attach(observe.get(), nullptr, nullptr, &none), -EACCES);
    // Ids go on.
    const std::uint32_t id = info_of(create(session, "next", 27, 4096)).id;
    EXPECT_EQ(id, info_of(maps.back()).id + 1 + static_cast<std::uint32_t>(times));
    // Wakeups still come through the descriptors of before.
    ASSERT_EQ(ringbuf_output(producer.get(), "more", 4, 0), 0);
  }
  EXPECT_EQ(ringbuf_query(producer.get(), RINGBUF_AVAIL_DATA), 16u + 3 * 16u);
  const auto late = producer_of(ring);  // and new producers wake the old consumer
  EXPECT_EQ(ringbuf_output(late.get(), "late", 4, 0), 0);
}

TEST_F(Takeover, AnotherProcessIsStillTheConsumer) {
  const auto map = create_map(session, "taken");
  const std::uint32_t id = info_of(map).id;
  Gate attached, done;
  ChildProcess child([&] {
    const auto own = daemon.connect();
    const auto consumer = consumer_of(open_id(own, id), nullptr, nullptr);
    attached.open();
    done.pass();
    return 0;
  });
  attached.pass();
  daemon.kill();
  ringbuf_consumer* none = nullptr;
  EXPECT_EQ(ringbuf_consumer_attach(map.get(), nullptr, nullptr, &none), -EBUSY);
  EXPECT_NE(std::string(ringbuf_last_error()).find(std::to_string(child.pid())), std::string::npos);
  done.open();
  EXPECT_EQ(child.exit_code(), 0);
  consumer_of(map, nullptr, nullptr);
}

// In all epolls of this process.
unsigned registrations() {
  unsigned n = 0;
  for (const auto& info : std::filesystem::directory_iterator("/proc/self/fdinfo")) {
    std::ifstream file(info.path());
    for (std::string line; std::getline(file, line);) n += line.starts_with("tfd:");
  }
  return n;
}

std::vector<ringbuf::UniqueFd> eventfds_of(pid_t pid) {
  std::vector<ringbuf::UniqueFd> copies;
  const ringbuf::UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  for (const auto& fd : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fd")) {
    std::error_code gone;
    if (std::filesystem::read_symlink(fd.path(), gone) != "anon_inode:[eventfd]") continue;
    copies.emplace_back(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), std::stoi(fd.path().filename().string()), 0)));
  }
  return copies;
}

TEST_F(Takeover, RestartsAddNothingToAConsumersWait) {
  const auto map = create_map(session, "map");
  const auto c = consumer_of(map, nullptr, nullptr);
  const unsigned before = registrations();
  std::vector<MapPtr> more;  // so that descriptors have other numbers in the next daemon
  for (int i = 1; i <= 30; ++i) {
    more.push_back(create_map(session, "more"));
    if (i % 7 == 0) more.erase(more.begin());
    daemon.kill();
    (void)info_of(map);
  }
  std::printf("%u registrations before 30 restarts, %u after them\n", before, registrations());
  EXPECT_EQ(registrations(), before);
}

TEST_F(Takeover, WhoDiedMeanwhileIsBuried) {
  const auto map = create_map(session, "meanwhile");
  const std::uint32_t id = info_of(map).id;
  std::uint64_t seen = 0;
  const auto consumer = consumer_of(
      map, [](void* ctx, void*, std::size_t) { return ++*static_cast<std::uint64_t*>(ctx), 0; }, &seen);
  const unsigned before = registrations();
  Gate reserved, go;
  ChildProcess child([&] {
    const auto own = daemon.connect();
    const auto gone = create_map(own, "gone");
    const auto producer = producer_of(open_id(own, id));
    CHILD_CHECK(ringbuf_reserve(producer.get(), 100, 0) != nullptr);
    CHILD_CHECK(ringbuf_output(producer.get(), "behind", 6, 0) == 0);
    reserved.open();
    go.pass();
    return 0;
  });
  reserved.pass();
  const std::uint32_t gone = info_of(map).id + 1;
  EXPECT_EQ(ringbuf_consume(consumer.get()), 0);
  eventually([&] { return registrations() == before + 1; });
  const auto signals = eventfds_of(child.pid());  // else they would leave the consumer's wait by themselves
  EXPECT_FALSE(signals.empty());
  daemon.while_down([&] {
    child.kill(SIGKILL);
    child.wait();
  });
  const auto info = info_of(map);
  EXPECT_EQ(info.producers, 0u);
  EXPECT_EQ(info.orphan_records, 1u);
  EXPECT_EQ(info.orphan_bytes, 100u);
  EXPECT_EQ(info.orphan_pid, static_cast<std::uint32_t>(child.pid()));
  ringbuf_map* none = nullptr;
  EXPECT_EQ(ringbuf_map_open_id(session.get(), gone, 0, &none), -ENOENT);
  eventually([&] { return registrations() == before; });
  const auto poller = poller_of({consumer.get()});
  while (seen == 0) ASSERT_GE(ringbuf_poll(poller.get(), -1), 0);  // it is woken for what lay behind
}

TEST_F(Takeover, AStoppedDaemonIsNotWaitedForForEver) {
  const auto map = create_map(session, "stopped");
  ::setenv("RINGBUFD_TIMEOUT_MS", "20", 1);
  const auto impatient = daemon.connect();
  const auto mine = open_id(impatient, info_of(map).id);
  ringbuf_producer* producer = nullptr;
  // A daemon that goes on may still take longer than that.
  const auto again = [](auto&& call) {
    int r;
    do r = call();
    while (r == -ETIMEDOUT);
    return r;
  };
  ringbuf_map_info now{};
  daemon.while_stopped([&] {
    for (int i = 0; i < 2; ++i) EXPECT_EQ(ringbuf_producer_attach(mine.get(), &producer), -ETIMEDOUT) << ringbuf_last_error();
    ringbuf_session* another = nullptr;
    EXPECT_EQ(ringbuf_connect(daemon.socket().c_str(), &another), -ETIMEDOUT);
  });
  // The daemon may have done what it was asked; the next request gives it back.
  ASSERT_EQ(again([&] { return ringbuf_map_get_info(mine.get(), &now, sizeof now); }), 0) << ringbuf_last_error();
  EXPECT_EQ(now.producers, 0u);
  // The same for what was to be given back, also by the next daemon.
  ASSERT_EQ(again([&] { return ringbuf_producer_attach(mine.get(), &producer); }), 0) << ringbuf_last_error();
  EXPECT_NE(ringbuf_reserve(producer, 8, 0), nullptr);
  daemon.while_stopped([&] {
    ringbuf_producer_free(producer);
    daemon.kill();
  });
  ::unsetenv("RINGBUFD_TIMEOUT_MS");
  ringbuf_map_info info{};
  ASSERT_EQ(again([&] { return ringbuf_map_get_info(mine.get(), &info, sizeof info); }), 0) << ringbuf_last_error();
  EXPECT_EQ(info.producers, 0u);
  EXPECT_EQ(info.orphan_records, 1u);
}

// Three producers and a consumer that check every record, while the daemon is killed a hundred times and each of them uses it.
struct Stamp {
  std::uint32_t producer;
  std::uint32_t last;
  std::uint64_t seq;
};

TEST_F(Takeover, AHundredRestartsUnderLoadLoseDoubleAndLeakNothing) {
  constexpr std::uint32_t kProducers = 3;
  const auto map = create_map(session, "load", 65536);
  const std::uint32_t id = info_of(map).id;
  consumer_of(map, nullptr, nullptr);  // once: what is made for the first one, and at the first restart, is there
  daemon.kill();
  (void)info_of(map);
  const auto fds_before = daemon.descriptors();
  {
    Gate stop;
    std::vector<std::unique_ptr<ChildProcess>> producers;
    for (std::uint32_t p = 0; p < kProducers; ++p)
      producers.push_back(std::make_unique<ChildProcess>([&, p] {
        const auto own = daemon.connect();
        const auto mine = open_id(own, id);
        auto producer = producer_of(mine);
        Stamp s{p, 0, 0};
        while (s.last == 0) {
          s.last = s.seq % 1000 == 999 && stop.is_open();
          void* data = ringbuf_reserve_wait(producer.get(), sizeof s, -1);
          CHILD_CHECK(data != nullptr);
          std::memcpy(data, &s, sizeof s);
          ringbuf_submit(producer.get(), data, 0);
          ++s.seq;
          if (s.seq % 5000 != 0) continue;
          ringbuf_map_info info{};
          CHILD_CHECK(ringbuf_map_get_info(mine.get(), &info, sizeof info) == 0);
          CHILD_CHECK(info.producers >= 1 && info.producers <= kProducers && info.consumers == 1);
          producer.reset();
          producer = producer_of(mine);
        }
        return 0;
      }));
    struct Check {
      std::uint64_t next[kProducers] = {};
      std::uint32_t ended = 0;
      static int call(void* ctx, void* data, std::size_t size) {
        auto& c = *static_cast<Check*>(ctx);
        Stamp s;
        if (size != sizeof s) return -EBADMSG;
        std::memcpy(&s, data, sizeof s);
        if (s.producer >= kProducers || s.seq != c.next[s.producer]++) return -EILSEQ;
        c.ended += s.last;
        return 0;
      }
    } check;
    int answer = 0;
    std::thread consumer_thread([&] {
      const auto own = daemon.connect();
      const auto consumer = consumer_of(open_id(own, id), Check::call, &check);
      const auto poller = poller_of({consumer.get()});
      while (check.ended < kProducers && answer >= 0) answer = ringbuf_poll(poller.get(), -1);
      if (answer >= 0) return;
      std::fprintf(stderr, "the consumer ends: %d, %s\n", answer, ringbuf_last_error());
      for (auto& p : producers) p->kill(SIGKILL);  // they would wait for room
    });
    for (int i = 0; i < 100; ++i) {
      daemon.kill();
      ringbuf_map_info info{};
      ASSERT_EQ(ringbuf_map_get_info(map.get(), &info, sizeof info), 0) << ringbuf_last_error();
      EXPECT_EQ(info.id, id);
      EXPECT_EQ(info_of(create_map(session, "brief")).tokens, 1u);
    }
    stop.open();
    for (auto& p : producers) EXPECT_EQ(p->exit_code(), 0);
    consumer_thread.join();
    EXPECT_GE(answer, 0) << ringbuf_last_error();
    std::uint64_t total = 0;
    for (const std::uint64_t n : check.next) total += n;
    std::printf("100 restarts, %llu records, none lost or doubled\n", static_cast<unsigned long long>(total));
  }
  eventually([&] {
    const auto info = info_of(map);
    return info.producers == 0 && info.consumers == 0 && info.tokens == 1;
  });
  EXPECT_EQ(info_of(map).orphan_records, 0u);
  eventually([&] { return daemon.descriptors() == fds_before; });
  std::uint32_t next = 0;
  EXPECT_EQ(ringbuf_map_next_id(session.get(), id, &next), -ENOENT);
}

}  // namespace
