// SPDX-License-Identifier: MIT
// Limits and errors of BPF_MAP_TYPE_RINGBUF, and the rules of creation for both types, as tables.
#include <unistd.h>

#include <thread>

#include "fixture.hpp"

namespace conformance {
namespace {

class Creation : public Conformance {};
CONFORMANCE(Creation);

TEST_P(Creation, Rules) {
  const auto page = static_cast<std::uint32_t>(::sysconf(_SC_PAGESIZE));
  struct Row {
    const char* what;
    Spec spec;
    int result;
  };
  for (const std::uint32_t type : {kRingbuf, kUserRingbuf}) {
    const Row rows[] = {
        {"one page", {.type = type, .max_entries = page}, 0},
        {"16 MiB", {.type = type, .max_entries = 1 << 24}, 0},
        {"0 bytes", {.type = type, .max_entries = 0}, -EINVAL},
        {"1 byte", {.type = type, .max_entries = 1}, -EINVAL},
        {"half a page", {.type = type, .max_entries = page / 2}, -EINVAL},
        {"three pages", {.type = type, .max_entries = 3 * page}, -EINVAL},
        {"a page and a byte", {.type = type, .max_entries = page + 1}, -EINVAL},
        {"all bits", {.type = type, .max_entries = UINT32_MAX}, -EINVAL},
        {"key_size", {.type = type, .max_entries = page, .key_size = 4}, -EINVAL},
        {"value_size", {.type = type, .max_entries = page, .value_size = 4}, -EINVAL},
        {"map_extra", {.type = type, .max_entries = page, .extra = 1}, -EINVAL},
        {"any NUMA node", {.type = type, .max_entries = page, .flags = kNumaNode, .numa_node = UINT32_MAX}, 0},
        {"NUMA node 0", {.type = type, .max_entries = page, .flags = kNumaNode, .numa_node = 0}, 0},
        {"a NUMA node that is not there", {.type = type, .max_entries = page, .flags = kNumaNode, .numa_node = 4095}, -EINVAL},
        {"a NUMA node beyond all", {.type = type, .max_entries = page, .flags = kNumaNode, .numa_node = 1u << 30}, -EINVAL},
    };
    for (const Row& row : rows) {
      SCOPED_TRACE(std::string(row.what) + ", type " + std::to_string(type));
      std::unique_ptr<Ring> ring;
      EXPECT_EQ(GetParam()->create(row.spec, &ring), row.result);
    }
  }
}

TEST_P(Creation, NoOtherMapFlagIsKnown) {
  for (const std::uint32_t type : {kRingbuf, kUserRingbuf}) {
    for (unsigned bit = 0; bit < 32; ++bit) {
      const std::uint32_t flag = 1u << bit;
      if (flag == kNumaNode || (flag == kOverwrite && type == kRingbuf)) continue;
      SCOPED_TRACE("bit " + std::to_string(bit) + ", type " + std::to_string(type));
      std::unique_ptr<Ring> ring;
      EXPECT_EQ(GetParam()->create({.type = type, .flags = flag}, &ring), -EINVAL);
    }
  }
}

TEST_P(Creation, ElementsAreNotSupported) {
  for (const std::uint32_t type : {kRingbuf, kUserRingbuf}) {
    const auto ring = make({.type = type});
    SCOPED_TRACE("type " + std::to_string(type));
    EXPECT_EQ(ring->element(ElementOp::Lookup, true), -524);  // ENOTSUPP
    EXPECT_EQ(ring->element(ElementOp::Update, true), -524);
    EXPECT_EQ(ring->element(ElementOp::Delete, true), -524);
    EXPECT_EQ(ring->element(ElementOp::NextKey, true), -524);
    EXPECT_EQ(ring->element(ElementOp::Lookup, false), -EINVAL);
    EXPECT_EQ(ring->element(ElementOp::Update, false), -EINVAL);
    EXPECT_EQ(ring->element(ElementOp::Delete, false), -EINVAL);
    EXPECT_EQ(ring->element(ElementOp::NextKey, false), -EINVAL);
  }
}

TEST_P(Creation, InfoSaysHowItWasMade) {
  for (const std::uint32_t type : {kRingbuf, kUserRingbuf}) {
    const auto ring = make({.type = type, .max_entries = 8192, .flags = kNumaNode, .numa_node = UINT32_MAX});
    const Info info = ring->info();
    EXPECT_EQ(info.type, type);
    EXPECT_EQ(info.max_entries, 8192u);
    EXPECT_EQ(info.map_flags, kNumaNode);
    EXPECT_EQ(info.key_size, 0u);
    EXPECT_EQ(info.value_size, 0u);
  }
}

class Limits : public Conformance {};
CONFORMANCE(Limits);

TEST_P(Limits, OfReserve) {
  struct Row {
    std::uint64_t size, flags;
    bool fits;
  };
  const Row rows[] = {
      {0, 0, true},           {8, 0, true},           {4080, 0, true}, {4081, 0, false}, {4088, 0, false},       {4089, 0, false},
      {0x3fffffff, 0, false}, {0x40000000, 0, false}, {8, 1, false},   {8, 2, false},    {8, 1ull << 63, false},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE("size " + std::to_string(row.size) + ", flags " + std::to_string(row.flags));
    const auto ring = make();
    EXPECT_EQ(ring->record(row.size, row.flags, "", false, 0), row.fits);
    EXPECT_EQ(ring->image().producer_pos, row.fits ? (row.size + 15) / 8 * 8 : 0);
  }
}

TEST_P(Limits, ARingOf4096BytesHolds255RecordsOf8) {
  const auto ring = make();
  int n = 0;
  while (n < 1000 && ring->output(Bytes(8, 'x')) == 0) ++n;
  EXPECT_EQ(n, 255);
  EXPECT_EQ(ring->output(Bytes(8, 'x')), -EAGAIN);
  EXPECT_EQ(ring->query(kAvailData), 4080u);
  Gather got;
  EXPECT_EQ(ring->consume(got), 255);
  EXPECT_EQ(ring->output(Bytes(8, 'x')), 0);
}

TEST_P(Limits, RecordsStartAtMultiplesOf8AndKeepTheirExactSize) {
  for (std::uint32_t size = 0; size <= 40; ++size) {
    const auto ring = make();
    ASSERT_EQ(ring->output(Bytes(size, 'x')), 0);
    EXPECT_EQ(ring->image().producer_pos, (size + 15) / 8 * 8) << size;
    Gather got;
    EXPECT_EQ(ring->consume(got), 1);
    EXPECT_EQ(got.records.at(0).size(), size);
  }
}

TEST_P(Limits, OfOutput) {
  struct Row {
    std::uint32_t size;
    std::uint64_t flags;
    int result;
  };
  const Row rows[] = {
      {8, 0, 0},    {8, 1, 0},          {8, 2, 0},          {8, 3, 0}, {8, 4, -EINVAL},    {8, 1ull << 63, -EINVAL},
      {4080, 0, 0}, {4081, 0, -EAGAIN}, {5000, 0, -EAGAIN}, {0, 0, 0}, {5000, 4, -EINVAL},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE("size " + std::to_string(row.size) + ", flags " + std::to_string(row.flags));
    const auto ring = make();
    EXPECT_EQ(ring->output(Bytes(row.size, 'x'), row.flags), row.result);
  }
}

TEST_P(Limits, OfQuery) {
  const auto ring = make();
  ASSERT_EQ(ring->output("first"), 0);
  Gather got;
  ASSERT_EQ(ring->consume(got), 1);
  ASSERT_EQ(ring->output("second"), 0);
  ASSERT_EQ(ring->output("third"), 0);
  EXPECT_EQ(ring->query(kAvailData), 32u);
  EXPECT_EQ(ring->query(kRingSize), 4096u);
  EXPECT_EQ(ring->query(kConsPos), 16u);
  EXPECT_EQ(ring->query(kProdPos), 48u);
  EXPECT_EQ(ring->query(kOverwritePos), 0u);
  for (const std::uint64_t what : {5ull, 6ull, 100ull, 1ull << 32, 1ull << 63, ~0ull}) EXPECT_EQ(ring->query(what), 0u) << what;
}

TEST_P(Limits, AHeldReservationStopsOthersWhenTheRingHasFilledUpToIt) {
  const auto ring = make();
  ASSERT_TRUE(ring->reserve(0, 8));
  int n = 0;
  while (n < 1000 && ring->output(Bytes(8, 'x')) == 0) ++n;
  EXPECT_EQ(n, 254);
  Gather got;
  EXPECT_EQ(ring->consume(got), 0);  // nothing passes the one that is held
  EXPECT_EQ(ring->query(kAvailData), 4080u);
  ring->submit(0);
  EXPECT_EQ(ring->consume(got), 255);
  EXPECT_EQ(ring->output(Bytes(8, 'x')), 0);
}

TEST_P(Limits, PendingPosFollowsTheCommittedRecordsAtTheNextReserve) {
  const auto ring = make();
  ASSERT_TRUE(ring->reserve(0, 8));
  ASSERT_TRUE(ring->reserve(1, 8));
  ASSERT_TRUE(ring->reserve(2, 8));
  ring->submit(0);
  ring->submit(2);
  EXPECT_EQ(ring->image().pending_pos, 0u);  // commits do not move it
  ASSERT_TRUE(ring->reserve(0, 8));
  EXPECT_EQ(ring->image().pending_pos, 16u);
  ring->discard(1);
  EXPECT_FALSE(ring->record(4080, 0, "", false, 0));  // neither room nor a record, but pending_pos has moved
  EXPECT_EQ(ring->image().pending_pos, 48u);
  ring->submit(0);
}

TEST_P(Limits, TheHeaderOfARecord) {
  const auto ring = make({.max_entries = 16384});
  ASSERT_EQ(ring->output(Bytes(4096 - 8, 'x')), 0);
  ASSERT_TRUE(ring->reserve(0, 5));
  const auto header = [&](std::uint64_t at) { return ring->image().header(at); };
  EXPECT_EQ(header(0), 3ull << 32 | 4088);  // pg_off counts the three pages before the data
  EXPECT_EQ(header(4096), 4ull << 32 | kBusy | 5);
  ring->discard(0);
  EXPECT_EQ(header(4096), 4ull << 32 | kDiscard | 5);
}

class Wakeups : public Conformance {
 protected:
  // Commits a record of 8 bytes, and says whether that woke the consumer.
  bool commit(Ring& ring, bool discard, std::uint64_t flags) {
    EXPECT_TRUE(ring.record(8, 0, "x", discard, flags));
    return ring.woken();
  }
};
CONFORMANCE(Wakeups);

TEST_P(Wakeups, OfAConsumerThatHasCaughtUp) {
  struct Row {
    std::uint64_t flags;
    bool wakes;
  };
  const Row rows[] = {{0, true},    {kNoWakeup, false},        {kForceWakeup, true}, {kForceWakeup | kNoWakeup, true},
                      {0x44, true}, {0x44 | kNoWakeup, false}, {1ull << 63, true}};
  for (const bool discard : {false, true}) {
    for (const Row& row : rows) {
      SCOPED_TRACE((discard ? "discard " : "submit ") + std::to_string(row.flags));
      const auto ring = make();
      ring->woken();
      EXPECT_EQ(commit(*ring, discard, row.flags), row.wakes);
    }
  }
}

TEST_P(Wakeups, OfAConsumerThatIsBehind) {
  struct Row {
    std::uint64_t flags;
    bool wakes;
  };
  const Row rows[] = {{0, false}, {kNoWakeup, false}, {kForceWakeup, true}, {kForceWakeup | kNoWakeup, true}, {0x44, false}};
  for (const bool discard : {false, true}) {
    for (const Row& row : rows) {
      SCOPED_TRACE((discard ? "discard " : "submit ") + std::to_string(row.flags));
      const auto ring = make();
      ring->woken();
      commit(*ring, false, 0);
      EXPECT_EQ(commit(*ring, discard, row.flags), row.wakes);
    }
  }
}

TEST_P(Wakeups, OutputFollowsTheSameRule) {
  const auto ring = make();
  ring->woken();
  EXPECT_EQ(ring->output("a", kNoWakeup), 0);
  EXPECT_FALSE(ring->woken());
  EXPECT_EQ(ring->output("b"), 0);
  EXPECT_FALSE(ring->woken());
  EXPECT_EQ(ring->output("c", kForceWakeup), 0);
  EXPECT_TRUE(ring->woken());
  Gather got;
  EXPECT_EQ(ring->consume(got), 3);
  EXPECT_EQ(ring->output("d"), 0);
  EXPECT_TRUE(ring->woken());
}

TEST_P(Wakeups, ADiscardWithoutWakeupSwallowsTheOneOfTheRecordBehindIt) {
  const auto ring = make();
  ring->woken();
  EXPECT_FALSE(commit(*ring, true, kNoWakeup));
  EXPECT_FALSE(commit(*ring, false, 0));
}

TEST_P(Wakeups, CommittedOutOfOrder) {
  for (const bool silent : {false, true}) {
    const auto ring = make();
    ring->woken();
    ASSERT_TRUE(ring->reserve(0, 8));
    ASSERT_TRUE(ring->reserve(1, 8));
    EXPECT_FALSE(ring->woken());
    ring->submit(1);
    EXPECT_FALSE(ring->woken());
    ring->submit(0, silent ? kNoWakeup : 0);
    EXPECT_EQ(ring->woken(), !silent);  // silent: nobody is woken for the second one either
    Gather got;
    EXPECT_EQ(ring->consume(got), 2);
  }
}

TEST_P(Wakeups, AConsumerPosInsideARecordGetsNone) {
  const auto ring = make();
  ring->woken();
  commit(*ring, false, 0);
  ASSERT_TRUE(ring->reserve(0, 8));
  ring->forge_consumer_pos(12);  // 4 bytes behind
  ring->submit(0);
  EXPECT_FALSE(ring->woken());
  ASSERT_TRUE(ring->reserve(0, 8));
  ring->forge_consumer_pos(32);
  ring->submit(0);
  EXPECT_TRUE(ring->woken());
}

TEST_P(Wakeups, ThePositionIsComparedByItsOffset) {
  const auto ring = make();
  ring->woken();
  ASSERT_TRUE(ring->reserve(0, 8));
  ring->forge_consumer_pos(4096);  // a lap ahead
  ring->submit(0, 0);
  EXPECT_TRUE(ring->woken());
}

TEST_P(Wakeups, SeveralCommitsAreOneWakeup) {
  const auto ring = make();
  ring->woken();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(ring->record(8, 0, "x", false, kForceWakeup));
  EXPECT_TRUE(ring->woken());
  EXPECT_FALSE(ring->woken());
}

TEST_P(Wakeups, TheDescriptorIsReadableWhileThereIsSomethingToRead) {
  const auto ring = make();
  EXPECT_FALSE(ring->ready());
  ASSERT_EQ(ring->output("x"), 0);
  EXPECT_TRUE(ring->ready());
  Gather got;
  EXPECT_EQ(ring->consume(got), 1);
  EXPECT_FALSE(ring->ready());
}

TEST_P(Wakeups, TheDescriptorAfterASilentCommit) {
  const auto ring = make();
  EXPECT_FALSE(ring->ready());
  ASSERT_EQ(ring->output("x", kNoWakeup), 0);
  difference("silent-commit-not-readable");
  EXPECT_EQ(ring->ready(), on_kernel());
  Gather got;
  EXPECT_EQ(ring->consume(got), 1);
}

TEST_P(Wakeups, NoWakeupBesideAProducerThatWaitsForRoom) {
  difference("no-wakeup-beside-a-waiting-producer");
  if (on_kernel()) GTEST_SKIP() << "BPF programs cannot wait for room";
  const auto ring = make();
  ASSERT_TRUE(ring->reserve(0, 4000));
  ring->woken();
  std::thread waiting([&] { EXPECT_EQ(ring->user_reserve_blocking(1, 200, -1), 0); });
  while (!ring->room_awaited()) std::this_thread::yield();
  ring->woken();
  ring->submit(0, kNoWakeup);
  EXPECT_TRUE(ring->woken());  // else both would sleep for ever
  Gather got;
  EXPECT_EQ(ring->consume(got), 1);
  waiting.join();
  ring->submit(1);
}

TEST_P(Wakeups, ABusyRecordAtTheHead) {
  const auto ring = make();
  EXPECT_FALSE(ring->ready());
  ASSERT_TRUE(ring->reserve(0, 8));
  difference("busy-head-not-readable");
  EXPECT_EQ(ring->ready(), on_kernel());
  ring->submit(0);
  EXPECT_TRUE(ring->ready());
}

}  // namespace
}  // namespace conformance
