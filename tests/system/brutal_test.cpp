// SPDX-License-Identifier: MIT
// A thousand producers are killed at work, every other one right after the daemon itself, beside two that go on. Nobody is ever
// stuck, nothing is lost or doubled, nothing is left over; how long it takes until all is well again is printed.
#include <sys/prctl.h>
#include <time.h>

#include <algorithm>
#include <cinttypes>
#include <random>

#include "daemon_process.hpp"
#include "supervised.hpp"
#include "support/payload.hpp"
#include "support/stepped_process.hpp"

using namespace ringbuf::test;

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr unsigned kKills = 100;
#else
constexpr unsigned kKills = 1000;
#endif
constexpr unsigned kLiving = 2, kVictim = 2;  // producers 0 and 1 live
constexpr std::size_t kSize = 64;
constexpr int kStuckMs = 20'000;

std::uint64_t now_ns() {
  timespec t;
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<std::uint64_t>(t.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(t.tv_nsec);
}

// How a victim works.
enum class Habit { Waits, Tight, Holds, Outputs };

// Its next record. The tickets in it: when it began, by the clock of all, and of which victim it is.
void put(ringbuf_producer* producer, unsigned who, std::uint64_t seq, Habit habit, unsigned kill = 0) {
  Payload payload{static_cast<std::uint8_t>(who), seq, now_ns(), kill};
  if (habit == Habit::Outputs) {
    unsigned char record[kSize];
    payload.fill(record, kSize);
    while (ringbuf_output(producer, record, kSize, 0) < 0) ::sched_yield();
    return;
  }
  void* data = nullptr;
  while (!data) {
    data = habit == Habit::Waits ? ringbuf_reserve_wait(producer, kSize, -1) : ringbuf_reserve(producer, kSize, 0);
    if (!data) ::sched_yield();
  }
  for (unsigned fills = habit == Habit::Holds ? 100 : 1; fills != 0; --fills) payload.fill(data, kSize);
  ringbuf_submit(producer, data, 0);
}

class Quantiles {
 public:
  void add(std::uint64_t ns) { all_.push_back(ns); }
  void print(const char* what) {
    std::sort(all_.begin(), all_.end());
    if (all_.empty()) return;
    const auto at = [&](double share) {
      return static_cast<double>(all_[static_cast<std::size_t>(share * static_cast<double>(all_.size() - 1))]) / 1e6;
    };
    std::printf("%s: %zu kills; healed after: median %.3f ms, p99 %.3f, max %.3f\n", what, all_.size(), at(0.5), at(0.99), at(1));
  }

 private:
  std::vector<std::uint64_t> all_;
};

class Brutal : public ::testing::Test {
 protected:
  // Every record of the living exactly once, in order, intact; the victim's likewise, from its first on.
  int take(void* data, std::size_t size) {
    const unsigned who = size == kSize ? *static_cast<unsigned char*>(data) : 255;
    if (who > kVictim) return fail("no producer's record");
    Payload record{static_cast<std::uint8_t>(who), seen[who] + 1, 0, 0};
    if (!record.verify(data, size)) return fail("another record than the next one");
    if (who == kVictim && record.ended != kill) return fail("of a victim of before");
    ++seen[who];
    newest[who] = record.began;
    return 0;
  }
  static int take_it(void* self, void* data, std::size_t size) { return static_cast<Brutal*>(self)->take(data, size); }
  int fail(const char* what) {
    ADD_FAILURE() << what << ", at kill " << kill << ", after " << seen[0] << ", " << seen[1] << " and " << seen[kVictim];
    return -EBADMSG;
  }
  void poll(const PollerPtr& poller, int timeout_ms) {
    if (const int n = ringbuf_poll(poller.get(), timeout_ms); n < 0 && !HasFailure()) ADD_FAILURE() << n << ringbuf_last_error();
  }

  FdLeakGuard guard;
  Supervised daemon{"error"};
  SessionPtr session = daemon.connect();
  std::uint64_t seen[kLiving + 1] = {}, newest[kLiving + 1] = {};
  unsigned kill = 0;
};

TEST_F(Brutal, AThousandKillsOfProducersAndDaemonsStopNobody) {
  const auto map = create_map(session, "brutal", 65536);
  const std::uint32_t id = info_of(map).id;
  consumer_of(map, nullptr, nullptr);  // what is made for the first one, and at the first restart, is there
  daemon.kill();
  (void)info_of(map);
  const auto fds_before = daemon.descriptors(), kept_before = daemon.descriptors_kept();

  Quantiles alone, with_daemon;
  {
    const auto consumer = consumer_of(map, take_it, this);
    const auto poller = poller_of({consumer.get()});
    Shared<bool> stop;
    Shared<std::uint64_t> committed;
    std::unique_ptr<ChildProcess> living[kLiving];
    for (unsigned who = 0; who < kLiving; ++who)
      living[who] = std::make_unique<ChildProcess>([&, who] {
        const auto own = daemon.connect();
        const auto producer = producer_of(open_id(own, id));
        std::uint64_t seq = 0;
        // They give way, so that the victim is killed at work and not in front of a full ring.
        for (; !*stop; ::sched_yield()) put(producer.get(), who, ++seq, Habit::Waits);
        return 0;
      });
    std::mt19937 random(1);
    for (kill = 1; kill <= kKills && !HasFailure(); ++kill) {
      *committed = 0;
      seen[kVictim] = 0;
      ChildProcess victim([&] {
        const auto own = daemon.connect();
        const auto producer = producer_of(open_id(own, id));
        for (std::uint64_t seq = 1;; ++seq) {
          put(producer.get(), kVictim, seq, static_cast<Habit>(kill / 2 % 4), kill);
          *committed = seq;
        }
        return 0;
      });
      while (*committed == 0 && !HasFailure()) poll(poller, 10);
      for (const std::uint64_t until = now_ns() + random() % 500'000; now_ns() < until && !HasFailure();) poll(poller, 0);
      std::uint64_t killed = 0;
      const auto strike = [&] {
        victim.kill(SIGKILL);
        killed = now_ns();
      };
      if (kill % 2 == 0) daemon.kill_and(strike);
      else strike();
      victim.wait();
      std::uint64_t first = 0;
      while (!HasFailure() && std::min(newest[0], newest[1]) <= killed) {
        poll(poller, 10);
        if (first == 0 && std::max(newest[0], newest[1]) > killed) first = now_ns();
        if (now_ns() - killed < std::uint64_t{kStuckMs} * 1'000'000) continue;
        const auto info = info_of(map);
        ADD_FAILURE() << "wedged after kill " << kill << ": head slot " << info.head_slot << ", owner slot " << info.owner_slot;
      }
      (kill % 2 == 0 ? with_daemon : alone).add(first - killed);
      EXPECT_GE(seen[kVictim], *committed);
      EXPECT_LE(seen[kVictim], *committed + 1) << "it had no time to say so";
    }
    *stop = true;
    for (const auto& child : living)
      while (child->running() && !HasFailure()) poll(poller, 10);
    EXPECT_GE(ringbuf_consume(consumer.get()), 0);
    EXPECT_EQ(ringbuf_consumer_query(consumer.get(), RINGBUF_AVAIL_DATA), 0u);
  }
  alone.print("a producer");
  with_daemon.print("the daemon, then a producer");
  if (HasFailure()) return;  // what follows would wait for ever
  eventually([&] { return info_of(map).producers == 0; });
  const auto info = info_of(map);
  std::printf("%" PRIu64 " records of the living; orphans: %" PRIu64 " records, %" PRIu64 " bytes, the last of pid %u\n",
              seen[0] + seen[1], static_cast<std::uint64_t>(info.orphan_records), static_cast<std::uint64_t>(info.orphan_bytes),
              info.orphan_pid);
  EXPECT_GT(info.orphan_records, 0u) << "no victim held a record open when it died";
  EXPECT_EQ(info.orphan_bytes, info.orphan_records * kSize);
  EXPECT_EQ(info.consumers, 0u);
  EXPECT_EQ(info.tokens, 1u);
  EXPECT_EQ(info.owner_slot, 0u);
  EXPECT_EQ(ringbuf_producer_view(producer_of(map).get())->slot, 1u) << "a slot is left over";
  eventually([&] { return daemon.descriptors() == fds_before && daemon.descriptors_kept() == kept_before; });
  std::uint32_t next = 0;
  EXPECT_EQ(ringbuf_map_next_id(session.get(), id, &next), -ENOENT);
}

}  // namespace
