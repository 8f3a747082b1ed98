// SPDX-License-Identifier: MIT
// What a dead producer leaves, and what Recovery makes of it: here the dead just do not go on. tests/crash kills real ones.
#include "shm/recovery.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "support/test_ring.hpp"

namespace ringbuf::shm {
namespace {

using test::TestRing;

constexpr std::uint32_t kDead = 1, kOther = 2, kN = 4096;

struct RecoveryTest : ::testing::Test {
  TestRing ring_{kN, 2};
  Producer dead_ = ring_.producer(kDead), other_ = ring_.producer(kOther);
  Consumer consumer_ = ring_.consumer();

  // As the daemon maps it.
  static Recovery recovery(const Mapping& m) { return Recovery(m.view(), kDead); }
  Mapping mapping_ = ring_.map(Mapping::Access::ReadOnly, Mapping::Access::ReadWrite);

  void put(const Producer& p, const char* text) { ASSERT_EQ(p.output(text, std::strlen(text), 0), 0); }
  std::vector<void*> reserve_four() {
    std::vector<void*> open;
    for (int i = 0; i < 4; ++i) open.push_back(other_.reserve(8, 0));
    return open;
  }
  std::vector<std::string> consume() {
    std::vector<std::string> seen;
    EXPECT_GE(consumer_.consume(
                  [&](void* data, std::size_t size) {
                    seen.emplace_back(static_cast<char*>(data), size);
                    return 0;
                  },
                  UINT64_MAX),
              0);
    return seen;
  }
};

TEST_F(RecoveryTest, OnlyTheDeadSlotsBusyRecordsBecomeDiscarded) {
  put(dead_, "a");
  ASSERT_NE(dead_.reserve(100, 0), nullptr);
  void* open = other_.reserve(3, 0);
  ASSERT_NE(open, nullptr);
  ASSERT_NE(dead_.reserve(7, 0), nullptr);
  put(other_, "c");
  const std::uint32_t who = ring_.header(16).who;
  Recovery r = recovery(mapping_);
  EXPECT_TRUE(r.step(UINT32_MAX));
  EXPECT_EQ(r.records(), 2u);
  EXPECT_EQ(r.bytes(), 107u);
  EXPECT_EQ(r.corrupt(), nullptr);
  EXPECT_EQ(ring_.header(16).len, 100u | RINGBUF_DISCARD_BIT);
  EXPECT_EQ(ring_.header(16).who, who) << "whose it was stays";
  EXPECT_EQ(consume(), std::vector<std::string>{"a"}) << "the other's record is not committed";
  std::memcpy(open, "b!!", 3);
  other_.submit(open, 0);
  EXPECT_EQ(consume(), (std::vector<std::string>{"b!!", "c"}));
}

TEST_F(RecoveryTest, ARingWithoutOrphansIsLeftAsItIs) {
  for (int round = 0; round < 2; ++round) {
    Recovery r = recovery(mapping_);
    EXPECT_TRUE(r.step(1000));
    EXPECT_EQ(r.records() + r.bytes(), 0u);
    EXPECT_EQ(r.corrupt(), nullptr);
    put(other_, "x");
  }
  EXPECT_EQ(consume().size(), 2u);
}

TEST_F(RecoveryTest, GoesOnInSlices) {
  for (int i = 0; i < 100; ++i) ASSERT_NE(dead_.reserve(0, 0), nullptr);
  Recovery r = recovery(mapping_);
  for (unsigned i = 1; i < 10; ++i) {
    EXPECT_FALSE(r.step(10));
    EXPECT_EQ(r.records(), i * 10);
  }
  EXPECT_TRUE(r.step(10));
  EXPECT_EQ(r.records(), 100u);
  EXPECT_TRUE(r.step(10)) << "done stays done";
  EXPECT_EQ(r.records(), 100u);
}

// Between two slices others consume, reserve and reuse the place where the walk stands.
TEST_F(RecoveryTest, AWalkThatWasPassedByGoesOnAtPendingPos) {
  const auto open = reserve_four();
  ASSERT_NE(dead_.reserve(1000, 0), nullptr);
  Recovery r = recovery(mapping_);
  EXPECT_FALSE(r.step(2));
  for (void* p : open) other_.submit(p, 0);
  EXPECT_EQ(consume().size(), 4u);
  void* p = other_.reserve(2000, 0);  // moves pending_pos over the four
  ASSERT_NE(p, nullptr);
  EXPECT_EQ(ring_.ring().pending_pos(), 64u);
  // As if another lap had been written there: what looks like an orphan of the dead slot.
  ring_.header(32) = {8u | RINGBUF_BUSY_BIT, who(32, 12, kDead)};
  EXPECT_TRUE(r.step(100));
  EXPECT_EQ(ring_.header(32).len, 8u | RINGBUF_BUSY_BIT);
  EXPECT_EQ(r.records(), 1u);
  EXPECT_EQ(r.bytes(), 1000u);
  EXPECT_EQ(r.corrupt(), nullptr);
}

TEST_F(RecoveryTest, AWalkIsDoneWhenEverythingWasCommittedMeanwhile) {
  const auto open = reserve_four();
  Recovery r = recovery(mapping_);
  EXPECT_FALSE(r.step(2));
  for (void* p : open) other_.submit(p, 0);
  put(other_, "a");
  put(other_, "b");
  ASSERT_GT(ring_.ring().pending_pos(), 64u);
  EXPECT_TRUE(r.step(1));
  EXPECT_EQ(r.records(), 0u);
  EXPECT_EQ(r.corrupt(), nullptr);
}

TEST_F(RecoveryTest, TheOwnerWordIsTakenFromTheDeadSlotInEveryForm) {
  for (const std::uint32_t low : {4711u, 4711u | RINGBUF_OWNER_FOREIGN, RINGBUF_OWNER_DIED, RINGBUF_OWNER_DIED | 1u << 31}) {
    ring_.producer_page().owner = std::uint64_t{kDead} << 32 | low;
    EXPECT_TRUE(recovery(mapping_).step(1));
    EXPECT_EQ(ring_.producer_page().owner, 0u) << std::hex << low;
    const std::uint64_t others = std::uint64_t{kOther} << 32 | low;
    ring_.producer_page().owner = others;
    EXPECT_TRUE(recovery(mapping_).step(1));
    EXPECT_EQ(ring_.producer_page().owner, others);
  }
}

TEST_F(RecoveryTest, ItsNeedAndItsShareOfTheWaitersAreTakenBack) {
  ring_.producer_page().room_waiters = 2;
  ring_.slot(kDead).need = std::uint64_t{7} << 32 | 64;
  ring_.slot(kOther).need = 64;
  for (int round = 0; round < 2; ++round) {
    EXPECT_TRUE(recovery(mapping_).step(1));
    EXPECT_EQ(ring_.slot(kDead).need, std::uint64_t{7} << 32) << "turns go on where the slot's last holder stopped";
    EXPECT_EQ(ring_.producer_page().room_waiters, 1u) << "once";
  }
  EXPECT_EQ(ring_.slot(kOther).need, 64u);
  ring_.producer_page().room_waiters = 0;  // forged
  ring_.slot(kDead).need = 64;
  EXPECT_TRUE(recovery(mapping_).step(1));
  EXPECT_EQ(ring_.producer_page().room_waiters, 0u);
}

TEST_F(RecoveryTest, OneWalkIsForAllTheDead) {
  struct Told final : Recovery::Witness {
    void before(std::uint64_t, std::uint64_t, std::uint32_t slot) noexcept override { slots.push_back(slot); }
    void after(bool) noexcept override {}
    std::vector<std::uint32_t> slots;
  } told;
  for (int i = 0; i < 2; ++i) {
    ASSERT_NE(dead_.reserve(8, 0), nullptr);
    ASSERT_NE(other_.reserve(8, 0), nullptr);
  }
  ring_.producer_page().owner = std::uint64_t{kOther} << 32 | 1;
  ring_.producer_page().room_waiters = 2;
  for (const unsigned slot : {kDead, kOther}) ring_.slot(slot).need = 64;
  Recovery r(mapping_.view(), Recovery::Slots().set(kDead).set(kOther), &told);
  EXPECT_TRUE(r.step(UINT32_MAX));
  EXPECT_EQ(r.records(), 4u);
  EXPECT_EQ(told.slots, (std::vector<std::uint32_t>{kDead, kOther, kDead, kOther}));
  EXPECT_EQ(ring_.producer_page().owner, 0u);
  EXPECT_EQ(ring_.producer_page().room_waiters, 0u);
  for (const unsigned slot : {kDead, kOther}) EXPECT_EQ(ring_.slot(slot).need, 0u);
}

// What a step costs is what it touches: records, or the pages that large ones lie in.
TEST_F(RecoveryTest, AStepIsBoundedInRecordsAndInPages) {
  const auto steps = [&](std::size_t size) {
    TestRing ring(1 << 20, 2);
    const Producer p = ring.producer(kOther);
    EXPECT_NE(p.reserve(8, 0), nullptr);  // pending_pos stays there
    const std::vector<char> data(size);
    while (p.output(data.data(), size, 0) == 0) continue;
    const Mapping m = ring.map(Mapping::Access::ReadOnly, Mapping::Access::ReadWrite);
    Recovery r(m.view(), kDead);
    unsigned n = 1;
    while (!r.step(1024)) EXPECT_EQ(r.cost() / 1024, n++);
    return n;
  };
  EXPECT_EQ(steps(0), (1u << 20) / 8 / 1024);
  EXPECT_EQ(steps(4088), (1u << 20) / 65536);
  EXPECT_EQ(steps(65528), 1u);
}

TEST_F(RecoveryTest, ImpossiblePositionsEndItAndAreNamed) {
  ASSERT_NE(dead_.reserve(0, 0), nullptr);
  struct {
    std::uint64_t producer_pos, pending_pos;
    bool corrupt;
  } const cases[] = {{8, kN + 8 + 8, false},  // behind: committed meanwhile
                     {kN + 8, 0, true},
                     {12, 0, true},
                     {16, 4, true},
                     {0, 8, false}};
  for (const auto& c : cases) {
    ring_.producer_page().producer_pos = c.producer_pos;
    ring_.producer_page().pending_pos = c.pending_pos;
    ring_.slot(kDead).need = 64;
    Recovery r = recovery(mapping_);
    EXPECT_TRUE(r.step(UINT32_MAX));
    EXPECT_EQ(r.corrupt() != nullptr, c.corrupt) << c.producer_pos << ' ' << c.pending_pos;
    EXPECT_EQ(r.records(), 0u);
    EXPECT_EQ(ring_.slot(kDead).need, 0u) << "in any case";
  }
}

TEST_F(RecoveryTest, AHeaderThatLeadsBeyondProducerPosEndsItAndIsNamed) {
  ASSERT_NE(dead_.reserve(8, 0), nullptr);
  put(other_, "x");
  ASSERT_NE(dead_.reserve(8, 0), nullptr);
  ring_.header(16).len = 100;
  Recovery r = recovery(mapping_);
  EXPECT_TRUE(r.step(UINT32_MAX));
  EXPECT_EQ(r.records(), 1u);
  ASSERT_NE(r.corrupt(), nullptr);
  EXPECT_STREQ(r.corrupt(), "a record that leads beyond producer_pos");
}

TEST_F(RecoveryTest, APendingPosThatIsMovedToNowhereEndsIt) {
  for (int i = 0; i < 3; ++i) ASSERT_NE(dead_.reserve(8, 0), nullptr);
  Recovery r = recovery(mapping_);
  EXPECT_FALSE(r.step(1));
  ring_.producer_page().pending_pos = 17;
  EXPECT_TRUE(r.step(UINT32_MAX));
  ASSERT_NE(r.corrupt(), nullptr);
  EXPECT_EQ(r.records(), 1u);
}

TEST(RecoveryUserRing, EveryBusyRecordFromConsumerPosOnIsTheDeadOnes) {
  TestRing ring(kN, 1, RINGBUF_F_SINGLE_PRODUCER, kTypeUserRingbuf);
  const Producer dead = ring.producer();
  const Consumer consumer = ring.consumer();
  ASSERT_EQ(dead.output("a", 1, 0), 0);
  ASSERT_EQ(dead.output("b", 1, 0), 0);
  ASSERT_NE(dead.reserve(40, 0), nullptr);
  ASSERT_EQ(dead.output("c", 1, 0), 0);
  int taken = 0;
  const auto take_one = [&](void*, std::size_t) { return ++taken; };
  EXPECT_EQ(consumer.drain(take_one, 0), 1);
  const Mapping m = ring.map(Mapping::Access::ReadOnly, Mapping::Access::ReadWrite);
  ringbuf_view v = m.view();
  v.map_type = kTypeUserRingbuf;
  Recovery r(v, kDead);
  EXPECT_TRUE(r.step(UINT32_MAX));
  EXPECT_EQ(r.records(), 1u);
  EXPECT_EQ(r.bytes(), 40u);
  EXPECT_EQ(consumer.drain([&](void*, std::size_t) { return ++taken, 0; }, 0), 2);
  EXPECT_EQ(taken, 3);
}

// An owner that dies in overwrite mode after it has moved overwrite_pos, but before cached_pos: nothing is counted again.
TEST(RecoveryOverwrite, TheCountsOfWhatWasOverwrittenSurviveADeathBehindOverwritePos) {
  TestRing ring(kN, 1, 0, kTypeRingbuf, kFlagOverwrite);
  const Producer producer = ring.producer();
  for (int i = 0; i < 8; ++i) ASSERT_EQ(producer.output("12345678", 8, 0), 0);
  while (ring.producer_page().overwrite_pos == 0) ASSERT_EQ(producer.output("12345678", 8, 0), 0);
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(producer.output("12345678", 8, 0), 0);
    const ringbuf_overwritten before = ring.ring().overwritten();
    ASSERT_EQ(before.bytes, before.records * 8);
    // The place that the next record needs is free already; cached_pos does not say so.
    ring.producer_page().producer_pos -= 16;
    ring.producer_page().cached_pos -= 16;
    ASSERT_NE(producer.reserve(8, 0), nullptr);
    const ringbuf_overwritten after = ring.ring().overwritten();
    EXPECT_EQ(after.pos, before.pos);
    EXPECT_EQ(after.records, before.records);
    EXPECT_EQ(after.bytes, before.bytes);
    EXPECT_NE(ring.producer_page().overwritten[0].pos, ring.producer_page().overwritten[1].pos);
    producer.submit(ring.data() + offset(ring.producer_page().producer_pos - 8, kN - 1), 0);
  }
}

}  // namespace
}  // namespace ringbuf::shm
