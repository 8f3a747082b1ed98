// SPDX-License-Identifier: MIT
// Producer processes and a consumer process through the daemon: nothing lost, doubled, torn or out of order.
#include <thread>
#include <tuple>

#include "daemon_process.hpp"
#include "support/payload.hpp"

using namespace ringbuf::test;

namespace {

// What producer `slot` does with its record number `seq`; both sides know.
struct Plan {
  std::uint32_t slot;
  std::uint64_t seq;
  std::uint32_t max_entries;

  std::uint64_t random() const { return mix(seq * 1024 + slot); }
  std::size_t size() const {
    const std::uint64_t r = random(), most = max_entries - 16;
    if (r % 64 == 0) return r / 64 % (most + 1);
    if (r % 1000 == 1) return most;
    return r / 64 % std::min<std::uint64_t>(200, most);
  }
  bool discarded() const { return random() >> 32 & 1 && random() >> 33 & 1 && random() >> 34 & 1; }
  std::uint64_t flags(bool last) const { return last ? RINGBUF_FORCE_WAKEUP : random() >> 40 & 1 ? RINGBUF_NO_WAKEUP : 0; }
  Payload payload() const { return {static_cast<std::uint8_t>(slot), seq, 0, 0}; }
};

struct Check {
  std::uint32_t max_entries;
  std::uint64_t records;
  std::uint64_t next[16] = {};
  std::uint64_t finished = 0;
  std::string wrong;

  static int call(void* ctx, void* data, std::size_t size) { return static_cast<Check*>(ctx)->record(data, size); }
  int record(const void* data, std::size_t size) {
    // The header in front of the payload says who reserved it, even of a record without payload.
    const std::uint32_t slot = static_cast<const std::uint32_t*>(data)[-1] >> RINGBUF_PG_OFF_BITS;
    if (slot == 0 || slot >= 16) return fail("a slot that nobody has", slot, 0);
    std::uint64_t& seq = next[slot];
    while (Plan{slot, seq, max_entries}.discarded()) ++seq;
    const Plan plan{slot, seq, max_entries};
    if (size != plan.size()) return fail("another size: lost, doubled or out of order", slot, seq);
    if (!plan.payload().verify(data, size)) return fail("torn", slot, seq);
    if (++seq == records) ++finished;
    return 0;
  }
  int fail(const char* what, std::uint32_t slot, std::uint64_t seq) {
    wrong = std::string(what) + ", slot " + std::to_string(slot) + ", record " + std::to_string(seq);
    return -1;
  }
};

class Patterns : public ::testing::TestWithParam<std::tuple<int, std::uint32_t>> {};

TEST_P(Patterns, AreWholeAndInOrder) {
  const auto [producers, max_entries] = GetParam();
  const std::uint64_t records = 12'000 / static_cast<std::uint64_t>(producers);
  Daemon daemon;
  const auto session = daemon.connect();
  const auto map = create_map(session, "patterns", max_entries);
  const std::uint32_t id = info_of(map).id, n = max_entries;
  std::vector<std::unique_ptr<ChildProcess>> children;
  const Gate all_there;  // else one that comes late gets the slot of one that is through
  for (int p = 0; p < producers; ++p)
    children.push_back(std::make_unique<ChildProcess>([&] {
      const auto producer = producer_of(open_id(daemon.connect(), id, RINGBUF_RIGHT_PRODUCE));
      all_there.pass();
      const std::uint32_t slot = ringbuf_producer_view(producer.get())->slot;
      for (std::uint64_t seq = 0; seq < records; ++seq) {
        Plan plan{slot, seq, n};
        const bool last = seq + 1 == records;
        void* data = ringbuf_reserve_wait(producer.get(), plan.size(), -1);
        CHILD_CHECK(data != nullptr);
        plan.payload().fill(data, plan.size());
        if (plan.discarded()) ringbuf_discard(producer.get(), data, plan.flags(last));
        else ringbuf_submit(producer.get(), data, plan.flags(last));
      }
      // Slots are given out anew when their holder leaves: stay until all of this slot's records were read.
      void* end = ringbuf_reserve_wait(producer.get(), n - 16, -1);
      CHILD_CHECK(end != nullptr);
      ringbuf_discard(producer.get(), end, RINGBUF_FORCE_WAKEUP);
      return 0;
    }));
  Check check{n, records, {}, 0, {}};
  const auto consumer = consumer_of(map, Check::call, &check);
  const auto observer = observer_of(map);
  const auto poller = poller_of({consumer.get()});
  while (info_of(map).producers < static_cast<std::uint32_t>(producers)) std::this_thread::yield();
  for (int p = 0; p < producers; ++p) all_there.open();
  const auto all_exited = [&] {
    for (auto& c : children) {
      siginfo_t info{};
      if (::waitid(P_PID, static_cast<id_t>(c->pid()), &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid == 0) return false;
    }
    return true;
  };
  while (!all_exited()) {
    const int r = ringbuf_poll(poller.get(), 20);
    ASSERT_GE(r, 0) << check.wrong << ringbuf_last_error();
  }
  EXPECT_GE(ringbuf_consume(consumer.get()), 0) << check.wrong;
  for (auto& c : children) EXPECT_EQ(c->exit_code(), 0);
  for (std::uint32_t slot = 1; slot <= static_cast<std::uint32_t>(producers); ++slot) {
    while (check.next[slot] < records && Plan{slot, check.next[slot], n}.discarded()) ++check.next[slot];
    EXPECT_EQ(check.next[slot], records) << "slot " << slot;
  }
  const auto s = stats_of(observer);
  EXPECT_EQ(s.consumer_pos, s.producer_pos);
  EXPECT_EQ(s.room_waiters, 0u);
  EXPECT_EQ(s.lost[RINGBUF_LOST_LOCK] + s.lost[RINGBUF_LOST_TOO_BIG], 0u);
}

INSTANTIATE_TEST_SUITE_P(Processes, Patterns,
                         ::testing::Combine(::testing::Values(1, 2, 4, 8), ::testing::Values(4096u, 262144u)), [](const auto& p) {
                           return std::to_string(std::get<0>(p.param)) + "_producers_" + std::to_string(std::get<1>(p.param)) +
                                  "_bytes";
                         });

}  // namespace
