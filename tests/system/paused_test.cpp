// SPDX-License-Identifier: MIT
// Paused is not dead: a producer that is stopped with an open record is named and waited for, without CPU time; nothing is taken
// from it. What ringbufctl says of those who are in the way, and of the dead.
#include <linux/futex.h>

#include <algorithm>
#include <fstream>
#include <regex>
#include <thread>

#include "daemon_process.hpp"
#include "supervised.hpp"
#include "support/stepped_process.hpp"

using namespace ringbuf::test;

namespace {

// How often it has run, and for how long.
std::string activity(pid_t pid) {
  std::string all;
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(status, line);)
    if (line.find("ctxt_switches") != line.npos) all += line + "\n";
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string text((std::istreambuf_iterator<char>(stat)), {});
  text.erase(0, text.rfind(')') + 2);
  std::istringstream fields(text);
  std::string field;
  for (int i = 0; fields >> field; ++i)
    if (i == 11 || i == 12) all += field + " ";  // utime, stime
  return all;
}
char state_of(pid_t pid) {
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string text((std::istreambuf_iterator<char>(stat)), {});
  const auto at = text.rfind(") ");
  return at == text.npos ? '?' : text[at + 2];
}

std::string numbered(unsigned n) {
  std::string text = std::to_string(n);
  return text + std::string(100 - text.size(), '.');
}

// What it costs to wait. The promise is a few microseconds of spinning, then sleep in slices of up to a millisecond: of each the
// CPU sees the system call and the timer, about a hundredth. Who spins has all the time that others leave it.
struct Cost {
  double waited, cpu, left;  // seconds; `left`: ready to run, but others did

  void expect_asleep(const char* what) const {
    std::printf("%-40s %3.0f ms, %5.2f ms of CPU time, %5.2f ms left to others\n", what, waited * 1e3, cpu * 1e3, left * 1e3);
    EXPECT_GE(waited, 0.25) << what;
    EXPECT_LT(cpu, (waited - left) / 10) << what;
  }
};
// The calling thread's, until wait() returns.
template <class F>
Cost cost_of(F&& wait) {
  const auto now = [] {
    const auto seconds = [](clockid_t clock) {
      timespec t;
      ::clock_gettime(clock, &t);
      return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) / 1e9;
    };
    double ran = 0, left = 0;  // nothing, if the kernel does not count it
    std::ifstream("/proc/thread-self/schedstat") >> ran >> left;
    return Cost{seconds(CLOCK_MONOTONIC), seconds(CLOCK_THREAD_CPUTIME_ID), left / 1e9};
  };
  const Cost begin = now();
  wait();
  const Cost end = now();
  return {end.waited - begin.waited, end.cpu - begin.cpu, end.left - begin.left};
}

class Paused : public ::testing::Test {
 protected:
  // A producer that has reserved and stopped; once it goes on it writes `text` and commits.
  std::unique_ptr<ChildProcess> stopped_producer(const std::string& text) {
    auto child = std::make_unique<ChildProcess>([&, text] {
      const auto own = daemon.connect();
      const auto producer = producer_of(open_id(own, id));
      void* data = ringbuf_reserve(producer.get(), text.size(), 0);
      CHILD_CHECK(data != nullptr);
      std::memcpy(data, text.data(), text.size() / 2);
      ::raise(SIGSTOP);
      std::memcpy(static_cast<char*>(data) + text.size() / 2, text.data() + text.size() / 2, text.size() - text.size() / 2);
      ringbuf_submit(producer.get(), data, 0);
      return 0;
    });
    int status = 0;
    EXPECT_EQ(::waitpid(child->pid(), &status, WUNTRACED), child->pid());
    EXPECT_TRUE(WIFSTOPPED(status));
    return child;
  }
  // A producer that goes to reserve and submit a record of 100 bytes.
  std::unique_ptr<SteppedProcess> stepped_producer() {
    struct Child {
      SessionPtr session;
      ProducerPtr producer;
    };
    const auto child = std::make_shared<Child>();
    return std::make_unique<SteppedProcess>(
        [this, child] {
          child->session = daemon.connect();
          child->producer = producer_of(open_id(child->session, id));
          (void)put(child->producer, "bound");  // by the dynamic linker
        },
        [child] {
          void* data = ringbuf_reserve(child->producer.get(), 100, 0);
          if (!data) return;
          std::memset(data, 'x', 100);
          ringbuf_submit(child->producer.get(), data, 0);
        });
  }
  // It stops where it has just become the owner.
  static void stop_inside(SteppedProcess& process, const ProducerPtr& mine) {
    const auto& word = ringbuf_producer_view(mine.get())->producer_page->owner;
    const auto owner = [&] { return static_cast<pid_t>(*const_cast<const volatile std::uint64_t*>(&word) & FUTEX_TID_MASK); };
    while (owner() != process.pid()) ASSERT_EQ(process.step(), SteppedProcess::State::Stopped);
    process.let_go(SIGSTOP);
    eventually([&] { return state_of(process.pid()) == 'T'; });
  }
  std::string show(std::vector<std::string> options = {}) {
    options.insert(options.begin(), RINGBUFCTL_PATH);
    for (const char* word : {"--socket", "", "map", "show", "name", "paused"}) options.push_back(*word ? word : daemon.socket());
    Program ctl(options);
    const std::string text = ctl.rest();
    EXPECT_EQ(ctl.end(), 0);
    return text;
  }

  FdLeakGuard guard;
  Supervised daemon{"error"};
  SessionPtr session = daemon.connect();
  MapPtr map = create_map(session, "paused");
  std::uint32_t id = info_of(map).id;
};

TEST_F(Paused, NothingIsTakenFromAStoppedProducerAndNobodySpins) {
  const auto mine = producer_of(map);
  const auto observer = observer_of(map);
  struct Received {
    unsigned records, wrong;
  };
  Shared<Received> received;
  constexpr unsigned kBefore = 3;
  const std::string open = "this record is finished late, and whole";
  ChildProcess consumer([&] {
    struct Check {
      const Shared<Received>& received;
      const std::string& open;
      unsigned next = 0;
      static int call(void* ctx, void* data, std::size_t size) {
        auto& c = *static_cast<Check*>(ctx);
        const std::string text(static_cast<char*>(data), size);
        const unsigned nth = c.received->records;
        if (text != (nth == kBefore ? c.open : text == "last" ? text : numbered(c.next++)))
          c.received->wrong = c.received->wrong + 1;
        c.received->records = nth + 1;
        return text == "last" ? -ECANCELED : 0;
      }
    } check{received, open};
    const auto own = daemon.connect();
    const auto c = consumer_of(open_id(own, id), Check::call, &check);
    const auto poller = poller_of({c.get()});
    int r = 0;
    while (r >= 0) r = ringbuf_poll(poller.get(), -1);
    CHILD_CHECK(r == -ECANCELED);
    return 0;
  });
  unsigned n = 0;
  for (; n < kBefore; ++n) ASSERT_EQ(put(mine, numbered(n)), 0);
  eventually([&] { return received->records == kBefore; });
  const auto stopped = stopped_producer(open);
  for (; put(mine, numbered(n)) == 0; ++n) continue;
  EXPECT_EQ(errno, EAGAIN);
  EXPECT_EQ(n, kBefore + (4096 - 8 - 48) / 112u) << "until the ring is full up to it";
  ChildProcess waiter([&] {
    const auto own = daemon.connect();
    const auto producer = producer_of(open_id(own, id));
    void* data = ringbuf_reserve_wait(producer.get(), 100, -1);
    CHILD_CHECK(data != nullptr);
    std::memcpy(data, numbered(n).data(), 100);
    ringbuf_submit(producer.get(), data, 0);
    return 0;
  });
  eventually([&] { return stats_of(observer).room_waiters == 1 && stats_of(observer).waiting == 1; });

  // An event: a reservation that fails, and a reply of the daemon.
  const auto event = [&] {
    EXPECT_EQ(put(mine, numbered(0)), -EAGAIN);
    const auto info = info_of(map);
    EXPECT_EQ(info.head_pid, static_cast<std::uint32_t>(stopped->pid()));
    EXPECT_EQ(info.head_pos, kBefore * 112u);
    EXPECT_EQ(info.orphan_records, 0u);
    EXPECT_EQ(info.producers, 3u);
  };
  const auto both = [&] { return activity(consumer.pid()) + activity(waiter.pid()); };
  std::string before;
  do {  // what they still had to do is done when they sleep
    before = both();
    for (int i = 0; i < 100 && !HasFailure(); ++i) event();
  } while (!HasFailure() && (both() != before || state_of(consumer.pid()) != 'S' || state_of(waiter.pid()) != 'S'));
  for (int i = 0; i < 1000 && !HasFailure(); ++i) event();
  EXPECT_EQ(both(), before) << "the consumer's and the waiting producer's";
  daemon.kill();
  event();  // and the next daemon takes nothing from it either
  EXPECT_EQ(received->records, kBefore);

  stopped->kill(SIGCONT);
  EXPECT_EQ(stopped->exit_code(), 0);
  EXPECT_EQ(waiter.exit_code(), 0);
  while (put(mine, "last") < 0) ASSERT_EQ(errno, EAGAIN);
  EXPECT_EQ(consumer.exit_code(), 0);
  EXPECT_EQ(received->wrong, 0u);
  EXPECT_EQ(received->records, n + 3) << "those before, its own, those behind, the waiter's and the last";
  EXPECT_EQ(info_of(map).orphan_records, 0u);
}

TEST_F(Paused, RingbufctlNamesWhoIsInTheWayAndWhatTheDeadHaveLeft) {
  EXPECT_EQ(show().find("head"), std::string::npos);
  EXPECT_NE(show({"-j"}).find(R"("orphans":{"records":0,"bytes":0,"pid":null},"head":null,"owner":null)"), std::string::npos);
  const auto mine = producer_of(map);
  ASSERT_EQ(put(mine, "before"), 0);
  ASSERT_EQ(ringbuf_consume(consumer_of(
                                map, [](void*, void*, std::size_t) { return 0; }, nullptr)
                                .get()),
            1);
  const auto stopped = stopped_producer("open record");
  const std::string pid = std::to_string(stopped->pid());
  const auto in_the_way = [&](const std::string& text) {
    return std::regex_search(text, std::regex("\n\thead death_test\\(" + pid + "\\)  slot 2  pos 16  ms [0-9]+\n"));
  };
  EXPECT_TRUE(in_the_way(show())) << show();
  EXPECT_EQ(show().find("\towner"), std::string::npos);
  EXPECT_TRUE(std::regex_search(show({"-j"}), std::regex(R"("head":\{"pid":)" + pid +
                                                         R"(,"comm":"death_test","slot":2,"pos":16,"ms":[0-9]+\},"owner":null)")))
      << show({"-j"});
  stopped->kill(SIGKILL);
  stopped->wait();
  eventually([&] { return info_of(map).producers == 1; });
  const std::string text = show();
  EXPECT_NE(text.find("\n\torphans records 1  bytes 11  pid " + pid + "\n"), std::string::npos) << text;
  EXPECT_FALSE(in_the_way(text));
  EXPECT_NE(show({"-j"}).find(R"("orphans":{"records":1,"bytes":11,"pid":)" + pid + R"(},"head":null,"owner":null)"),
            std::string::npos);
}

TEST_F(Paused, WhoIsStoppedInsideReserveIsNamedAndWaitedFor) {
  const auto mine = producer_of(map);
  const auto stopped = stepped_producer();
  SteppedProcess& process = *stopped;
  ASSERT_NO_FATAL_FAILURE(stop_inside(process, mine));
  for (int times = 0; times < 3; ++times) {
    EXPECT_EQ(ringbuf_reserve(mine.get(), 8, 0), nullptr);
    EXPECT_EQ(errno, EBUSY);
    daemon.kill();
    const auto info = info_of(map);
    EXPECT_EQ(info.producers, 2u);
    EXPECT_EQ(info.owner_slot, 2u);
  }
  const std::string pid = std::to_string(process.pid());
  EXPECT_NE(show().find("\n\towner death_test(" + pid + ")  slot 2  tid " + pid + "\n"), std::string::npos) << show();
  EXPECT_NE(show({"-j"}).find(R"("owner":{"pid":)" + pid + R"(,"comm":"death_test","slot":2,"tid":)" + pid + "}"),
            std::string::npos);
  ::kill(process.pid(), SIGCONT);
  eventually([&] { return process.ended(); });
  EXPECT_EQ(put(mine, "after"), 0);
  Gather got;
  EXPECT_EQ(ringbuf_consume(consumer_of(map, Gather::call, &got).get()), 3);
  EXPECT_EQ(got.records, (std::vector<std::string>{"bound", std::string(100, 'x'), "after"}));
  EXPECT_EQ(info_of(map).orphan_records, 0u);
}

// Each of them is a thread of its own: one that has waited in vain does not wait for the same owner again.
TEST_F(Paused, WhoWaitsForOneStoppedInsideReserveSleeps) {
  const auto mine = producer_of(map);
  Gather got;
  const auto consumer = consumer_of(map, Gather::call, &got);
  const auto poller = poller_of({consumer.get()});
  const auto stopped = stepped_producer();
  ASSERT_EQ(ringbuf_consume(consumer.get()), 1);
  ASSERT_NO_FATAL_FAILURE(stop_inside(*stopped, mine));
  const auto in_vain = [&](const char* what, int err, auto&& reserve) {
    std::thread([&] {
      const auto try_it = [&] {
        errno = 0;
        EXPECT_FALSE(reserve());
        EXPECT_EQ(errno, err) << what;
      };
      const Cost first = cost_of(try_it);
      first.expect_asleep(what);
      EXPECT_LT(cost_of(try_it).cpu, first.waited / 10) << what << ", again";
    }).join();
  };
  in_vain("reserve", EBUSY, [&] { return ringbuf_reserve(mine.get(), 8, 0) != nullptr; });
  in_vain("output", EAGAIN, [&] { return put(mine, "8 bytes.") == 0; });
  in_vain("reserve_wait", EBUSY, [&] { return ringbuf_reserve_wait(mine.get(), 8, -1) != nullptr; });
  cost_of([&] { EXPECT_EQ(ringbuf_poll(poller.get(), 300), 0); }).expect_asleep("poll");
  ::kill(stopped->pid(), SIGCONT);
  eventually([&] { return stopped->ended(); });
  EXPECT_EQ(put(mine, "after"), 0);
  EXPECT_EQ(ringbuf_consume(consumer.get()), 2);
  EXPECT_EQ(got.records, (std::vector<std::string>{"bound", std::string(100, 'x'), "after"}));
}

// It sleeps because the ring is full; the consumer makes room while another one stands inside.
TEST_F(Paused, WhoIsWokenForRoomSleepsForOneStoppedInsideReserve) {
  const auto mine = producer_of(map);
  const auto observer = observer_of(map);
  Gather got;
  const auto consumer = consumer_of(map, Gather::call, &got);
  const auto stopped = stepped_producer();
  while (put(mine, numbered(0)) == 0) continue;
  ASSERT_EQ(errno, EAGAIN);
  std::thread sleeper([&] {
    cost_of([&] {
      EXPECT_EQ(ringbuf_reserve_wait(mine.get(), 100, -1), nullptr);
      EXPECT_EQ(errno, EBUSY);
    }).expect_asleep("reserve_wait, woken");
  });
  eventually([&] { return stats_of(observer).room_waiters == 1; });
  stop_inside(*stopped, mine);
  EXPECT_GT(ringbuf_consume(consumer.get()), 0);
  sleeper.join();
  ::kill(stopped->pid(), SIGCONT);
  eventually([&] { return stopped->ended(); });
  EXPECT_EQ(ringbuf_consume(consumer.get()), 1);
  EXPECT_EQ(got.records.back(), std::string(100, 'x'));
  EXPECT_EQ(stats_of(observer).room_waiters, 0u);
}

// Also where nobody tells that there is room: in overwrite mode.
TEST_F(Paused, WhoWaitsBehindAnOpenRecordSleeps) {
  ringbuf_map_create_opts opts{};
  opts.sz = sizeof opts;
  opts.map_flags = 1u << 19;  // BPF_F_RB_OVERWRITE
  for (const bool overwrite : {false, true}) {
    if (overwrite) {
      ringbuf_map* other = nullptr;
      must(ringbuf_map_create(session.get(), "overwriting", 4096, &opts, &other), "ringbuf_map_create");
      map.reset(other);
      id = info_of(map).id;
    }
    const auto mine = producer_of(map);
    const std::string open = "finished late, and whole";
    const auto stopped = stopped_producer(open);
    while (put(mine, numbered(0)) == 0) continue;
    ASSERT_EQ(errno, EAGAIN);
    Gather got;
    const auto consumer = consumer_of(map, Gather::call, &got);
    const auto poller = poller_of({consumer.get()});
    cost_of([&] { EXPECT_EQ(ringbuf_poll(poller.get(), 300), 0); }).expect_asleep("poll before an open record");
    cost_of([&] {
      EXPECT_EQ(ringbuf_reserve_wait(mine.get(), 100, 300), nullptr);
      EXPECT_EQ(errno, ETIMEDOUT);
    }).expect_asleep(overwrite ? "reserve_wait, overwriting" : "reserve_wait");
    stopped->kill(SIGCONT);
    EXPECT_EQ(stopped->exit_code(), 0);
    EXPECT_GT(ringbuf_consume(consumer.get()), 0);
    EXPECT_EQ(got.records.at(0), open);
  }
}

}  // namespace
