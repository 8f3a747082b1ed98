// SPDX-License-Identifier: MIT
// BPF_MAP_TYPE_USER_RINGBUF: user space produces, bpf_user_ringbuf_drain consumes.
#include "fixture.hpp"

namespace conformance {
namespace {

constexpr std::uint32_t kSample = 32;        // 40 bytes with its header
constexpr int kMost = 4096 / (kSample + 8);  // 102 of them fit

Bytes header(std::uint32_t len) {
  Bytes bytes(8, '\0');
  std::memcpy(bytes.data(), &len, 4);
  return bytes;
}

class UserRingbuf : public Conformance {
 protected:
  // As many samples as there is room for, at most n. Returns how many.
  static int produce(Ring& ring, int n, std::uint32_t size = kSample, bool discard = false) {
    for (int i = 0; i < n; ++i) {
      if (ring.user_reserve(0, size) != 0) return i;
      if (discard) ring.discard(0);
      else ring.submit(0);
    }
    return n;
  }
};
CONFORMANCE(UserRingbuf);

TEST_P(UserRingbuf, TwoSamplesAreDrained) {
  const auto ring = make_user();
  for (const char* text : {"first", "the second"}) {
    ASSERT_EQ(ring->user_reserve(0, static_cast<std::uint32_t>(std::strlen(text))), 0);
    ring->write(0, 0, text);
    ring->submit(0);
  }
  const Drained d = ring->drain();
  EXPECT_EQ(d.result, 2);
  EXPECT_EQ(d.samples, 2u);
  EXPECT_EQ(d.bytes, "firstthe second");
  EXPECT_EQ(d.sizes, (std::vector<std::uint32_t>{5, 10}));
  EXPECT_EQ(ring->drain().result, 0);
  const Image image = ring->image();
  EXPECT_EQ(image.consumer_pos, 16u + 24);
  EXPECT_EQ(image.producer_pos, 16u + 24);
}

TEST_P(UserRingbuf, ASampleMayFillTheWholeRing) {
  const auto ring = make_user();
  ASSERT_EQ(ring->user_reserve(0, 4088), 0);
  EXPECT_EQ(ring->drain().result, 0);
  ring->submit(0);
  EXPECT_EQ(ring->user_reserve(1, 0), ENOSPC);
  const Drained d = ring->drain();
  EXPECT_EQ(d.result, 1);
  EXPECT_EQ(d.bytes.size(), 4088u);
}

TEST_P(UserRingbuf, TheDescriptorIsWritableUnlessTheRingIsFull) {
  difference("no-descriptor-for-room");
  if (!on_kernel()) GTEST_SKIP() << "ringbuf_reserve_wait is the way to wait for room";
  const auto ring = make_user();
  EXPECT_TRUE(ring->ready());
  produce(*ring, 255, 8);
  EXPECT_TRUE(ring->ready());
  produce(*ring, 1, 8);
  EXPECT_FALSE(ring->ready());
  EXPECT_EQ(ring->drain({.stop_at = 1}).result, 1);
  EXPECT_TRUE(ring->ready());
}

TEST_P(UserRingbuf, SizesAreRoundedUpToMultiplesOf8) {
  const auto ring = make_user();
  EXPECT_EQ(produce(*ring, 1, 33), 1);
  EXPECT_EQ(ring->image().producer_pos, 48u);
  const Drained d = ring->drain();
  EXPECT_EQ(d.result, 1);
  EXPECT_EQ(d.sizes, std::vector<std::uint32_t>{33});
}

TEST_P(UserRingbuf, MoreThanFits) {
  const auto ring = make_user();
  EXPECT_EQ(produce(*ring, 5 * kMost), kMost);
  EXPECT_EQ(ring->user_reserve(0, kSample), ENOSPC);
  EXPECT_EQ(ring->drain().result, kMost);
  EXPECT_EQ(ring->user_reserve(0, kSample), 0);
  ring->discard(0);
}

TEST_P(UserRingbuf, DiscardedSamplesAreSkipped) {
  const auto ring = make_user();
  EXPECT_EQ(produce(*ring, 1000, 8, true), 256);  // the ring is full to its last byte
  EXPECT_EQ(ring->image().producer_pos, 4096u);
  const Drained d = ring->drain();
  EXPECT_EQ(d.result, 0);
  EXPECT_EQ(d.samples, 0u);
  EXPECT_EQ(ring->image().consumer_pos, 4096u);
  EXPECT_EQ(ring->user_reserve(0, 8), 0);
  ring->discard(0);
}

TEST_P(UserRingbuf, EightThousandSamplesInBatches) {
  const auto ring = make_user();
  for (int total = 0, read = 0; total < 8192;) {
    total += produce(*ring, std::min(kMost, 8192 - total));
    read += static_cast<int>(ring->drain().result);
    ASSERT_EQ(read, total);
  }
}

// Commands go one way through a user ring and the other way through a kernel ring, as two programs would talk.
TEST_P(UserRingbuf, AProtocolBesideARingOfTheOtherType) {
  enum Op : std::int64_t { Inc64, Inc32, Mul64, Mul32 };
  struct Message {
    std::int64_t op, operand;
  };
  const auto apply = [](std::int64_t& value, const Message& m) {
    switch (m.op) {
      case Inc64: value += m.operand; break;
      case Inc32: value += static_cast<std::int32_t>(m.operand); break;
      case Mul64: value *= m.operand; break;
      case Mul32: value *= static_cast<std::int32_t>(m.operand); break;
    }
  };
  const auto to = make_user();
  const auto from = make();
  std::int64_t here = 1, there = 1;
  for (std::int64_t i = 0; i < 64; ++i) {
    const Message m{i % 4, i % 4 == Inc64 ? 4 : 2};
    ASSERT_EQ(to->user_reserve(0, sizeof m), 0);
    to->write(0, 0, Bytes(reinterpret_cast<const char*>(&m), sizeof m));
    to->submit(0);
    apply(here, m);
    if (i % 8 != 0) continue;
    const Drained d = to->drain();
    EXPECT_EQ(d.result, i == 0 ? 1 : 8);
    for (std::size_t at = 0; at < d.bytes.size(); at += sizeof m) {
      Message got;
      std::memcpy(&got, d.bytes.data() + at, sizeof got);
      apply(there, got);
    }
    EXPECT_EQ(there, here);
    for (int n = 0; n < 8; ++n) EXPECT_EQ(from->output(Bytes(reinterpret_cast<const char*>(&there), sizeof there)), 0);
    Gather got;
    EXPECT_EQ(from->consume(got), 8);
    for (const Bytes& bytes : got.records) EXPECT_EQ(bytes, Bytes(reinterpret_cast<const char*>(&here), sizeof here));
  }
}

TEST_P(UserRingbuf, LimitsOfReserve) {
  struct Row {
    std::uint32_t size;
    int err;
  };
  const Row rows[] = {{0, 0},
                      {1, 0},
                      {8, 0},
                      {4088, 0},
                      {4089, E2BIG},
                      {4096, E2BIG},
                      {0x3fffffff, E2BIG},
                      {kDiscard, E2BIG},
                      {kBusy, E2BIG},
                      {kBusy | 8, E2BIG},
                      {UINT32_MAX, E2BIG}};
  for (const Row& row : rows) {
    SCOPED_TRACE(row.size);
    const auto ring = make_user();
    EXPECT_EQ(ring->user_reserve(0, row.size), row.err);
    if (row.err == 0) ring->submit(0);
  }
}

TEST_P(UserRingbuf, ASampleLargerThanADrainTakes) {
  const auto ring = make_user(1 << 25);
  EXPECT_EQ(ring->user_reserve(0, 0xffffff), 0);
  ring->submit(0);
  EXPECT_EQ(ring->drain().result, 1);
  difference("user-oversized-refused");
  EXPECT_EQ(ring->user_reserve(0, 0x1000000), on_kernel() ? 0 : E2BIG);
  if (on_kernel()) {
    ring->submit(0);
    EXPECT_EQ(ring->drain().result, -E2BIG);  // for ever
  }
}

TEST_P(UserRingbuf, ABusySampleHoldsUpThoseBehindIt) {
  const auto ring = make_user();
  ASSERT_EQ(ring->user_reserve(0, 8), 0);
  ASSERT_EQ(ring->user_reserve(1, 8), 0);
  ring->submit(1);
  EXPECT_EQ(ring->drain().result, 0);
  ring->discard(0);
  EXPECT_EQ(ring->drain().result, 1);
}

TEST_P(UserRingbuf, TheHeaderOfASample) {
  const auto ring = make_user();
  ASSERT_EQ(ring->user_reserve(0, 5), 0);
  const auto first = [&] { return ring->image().header(0); };
  EXPECT_EQ(first(), std::uint64_t{kBusy | 5});  // the second word is padding
  ring->discard(0);
  EXPECT_EQ(first(), std::uint64_t{kDiscard | 5});
}

class Drain : public UserRingbuf {};
CONFORMANCE(Drain);

TEST_P(Drain, HeadersAndPositionsThatCannotBe) {
  struct Row {
    const char* what;
    std::uint32_t len;
    std::uint64_t producer_pos;
    std::int64_t result;
    std::uint64_t consumer_pos;
  };
  const Row rows[] = {
      {"nothing", 0, 0, 0, 0},
      {"an empty sample", 0, 8, 1, 8},
      {"five zeroed headers", 0, 40, 5, 40},
      {"exact", 8, 16, 1, 16},
      {"rounded", 5, 16, 1, 16},
      {"the largest", 4088, 4096, 1, 4096},
      {"position not aligned", 39, 47, -EINVAL, 0},
      {"position not aligned, 12", 4, 12, -EINVAL, 0},
      {"longer than advertised", 32, 32, -EINVAL, 0},
      {"longer than advertised by its header", 16, 16, -EINVAL, 0},
      {"larger than the ring", 4096, 4104, -E2BIG, 0},
      {"much too long", 0x3fffffff, 16, -EINVAL, 0},
      {"much too long, and advertised", 0x3fffffff, 0x40000008, -E2BIG, 0},
      {"discarded and truncated", kDiscard | 16, 16, -EINVAL, 0},
      {"discarded and larger than the ring", kDiscard | 5000, 5008, -E2BIG, 0},
      {"busy and truncated", kBusy | 16, 16, -EINVAL, 0},
      {"busy and larger than the ring", kBusy | 5000, 5008, -E2BIG, 0},
      {"busy", kBusy | 8, 16, 0, 0},
      {"busy and discarded", kBusy | kDiscard | 8, 16, 0, 16},
      {"discarded", kDiscard | 8, 16, 0, 16},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.what);
    const auto ring = make_user();
    ring->woken();
    ring->forge_data(0, header(row.len));
    ring->forge_producer_pos(row.producer_pos);
    EXPECT_EQ(ring->drain().result, row.result);
    EXPECT_EQ(ring->image().consumer_pos, row.consumer_pos);
    EXPECT_EQ(ring->woken(), row.consumer_pos != 0);
    EXPECT_EQ(ring->drain().result, row.result < 0 ? row.result : 0);  // a bad sample is not skipped
  }
}

TEST_P(Drain, APositionBehindTheConsumerIsAnEmptyRing) {
  const auto ring = make_user();
  produce(*ring, 2);
  ASSERT_EQ(ring->drain().result, 2);
  ring->forge_producer_pos(40);
  EXPECT_EQ(ring->drain().result, 0);
  EXPECT_EQ(ring->image().consumer_pos, 80u);
}

TEST_P(Drain, APositionHalfOfAllPositionsAhead) {
  const auto ring = make_user();
  ring->forge_producer_pos((1ull << 63) + 8);
  EXPECT_EQ(ring->drain().result, 131072);  // as many empty samples as one drain takes
}

TEST_P(Drain, WhatCameBeforeABadSampleStaysConsumed) {
  const auto ring = make_user();
  produce(*ring, 3, 8);
  ring->forge_data(32, header(5000));
  ring->woken();
  const Drained d = ring->drain();
  EXPECT_EQ(d.result, -EINVAL);
  EXPECT_EQ(d.samples, 2u);
  EXPECT_EQ(ring->image().consumer_pos, 32u);
  EXPECT_TRUE(ring->woken());  // something moved
  EXPECT_EQ(ring->drain().result, -EINVAL);
  EXPECT_FALSE(ring->woken());
  ring->forge_data(32, header(8));
  EXPECT_EQ(ring->drain().result, 1);
}

TEST_P(Drain, AnOversizeSampleIsNotHelpedByDiscardingIt) {
  const auto ring = make_user(1 << 25);
  ring->forge_data(0, header(0x1000000));
  ring->forge_producer_pos(0x1000008);
  EXPECT_EQ(ring->drain().result, -E2BIG);
  ring->forge_data(0, header(kDiscard | 0x1000000));
  EXPECT_EQ(ring->drain().result, -E2BIG);
  ring->forge_data(0, header(0xffffff));
  EXPECT_EQ(ring->drain().result, 1);
}

TEST_P(Drain, UnknownFlags) {
  const auto ring = make_user();
  produce(*ring, 1);
  for (const std::uint64_t flags : {4ull, 5ull, 1ull << 32, 1ull << 63}) {
    EXPECT_EQ(ring->drain({.flags = flags}).result, -EINVAL) << flags;
    EXPECT_EQ(ring->image().consumer_pos, 0u);
  }
}

TEST_P(Drain, TheCallbackMayStop) {
  const auto ring = make_user();
  produce(*ring, 5);
  EXPECT_EQ(ring->drain({.stop_at = 2}).result, 2);  // the second one is consumed and counted
  EXPECT_EQ(ring->image().consumer_pos, 80u);
  EXPECT_EQ(ring->drain().result, 3);
}

TEST_P(Drain, InsideADrainIsBusy) {
  const auto ring = make_user();
  produce(*ring, 3);
  const Drained d = ring->drain({.nested = true});
  EXPECT_EQ(d.nested, -EBUSY);
  EXPECT_EQ(d.result, 3);
}

TEST_P(Drain, AtMost131072SamplesWithTheDiscardedOnes) {
  const auto ring = make_user(1 << 22);
  for (int i = 0; i < 262144; ++i) {
    ASSERT_EQ(ring->user_reserve(0, 8), 0);
    if (i % 3 == 2) ring->discard(0);
    else ring->submit(0);
  }
  EXPECT_EQ(ring->user_reserve(0, 8), ENOSPC);
  EXPECT_EQ(ring->drain().result, 131072 - 131072 / 3);
  EXPECT_EQ(ring->image().consumer_pos, 131072u * 16);
  EXPECT_EQ(ring->drain().result, 87381);
  EXPECT_EQ(ring->image().consumer_pos, 262144u * 16);
}

TEST_P(Drain, WakesProducers) {
  struct Row {
    const char* what;
    int submitted, discarded;
    std::uint64_t flags;
    bool wakes;
  };
  const Row rows[] = {
      {"nothing to do", 0, 0, 0, false},
      {"nothing to do, NO", 0, 0, kNoWakeup, false},
      {"nothing to do, FORCE", 0, 0, kForceWakeup, true},
      {"nothing to do, both", 0, 0, kForceWakeup | kNoWakeup, true},
      {"one sample", 1, 0, 0, true},
      {"one sample, NO", 1, 0, kNoWakeup, false},
      {"one sample, FORCE", 1, 0, kForceWakeup, true},
      {"one sample, both", 1, 0, kForceWakeup | kNoWakeup, true},
      {"a discarded one", 0, 1, 0, true},
      {"a discarded one, NO", 0, 1, kNoWakeup, false},
      {"a full ring", kMost, 0, 0, true},
      {"a full ring, NO", kMost, 0, kNoWakeup, false},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.what);
    const auto ring = make_user();
    EXPECT_EQ(produce(*ring, row.submitted), row.submitted);
    EXPECT_EQ(produce(*ring, row.discarded, kSample, true), row.discarded);
    ring->woken();
    EXPECT_EQ(ring->drain({.flags = row.flags}).result, row.submitted);
    EXPECT_EQ(ring->woken(), row.wakes);
    EXPECT_FALSE(ring->woken());
  }
}

class BlockingReserve : public UserRingbuf {};
CONFORMANCE(BlockingReserve);

TEST_P(BlockingReserve, TakesWhatIsFree) {
  const auto ring = make_user();
  for (const int timeout_ms : {-1, 0, 1000}) {
    EXPECT_EQ(ring->user_reserve_blocking(0, 8, timeout_ms), 0);
    ring->submit(0);
  }
  EXPECT_EQ(ring->drain().result, 3);
}

TEST_P(BlockingReserve, GivesUpWithENOSPC) {
  const auto ring = make_user();
  EXPECT_EQ(produce(*ring, 1000, 8), 256);
  EXPECT_EQ(ring->user_reserve_blocking(0, 8, 0), ENOSPC);
  EXPECT_EQ(ring->user_reserve_blocking(0, 8, 20), ENOSPC);
}

TEST_P(BlockingReserve, GivesUpAtOnceWhereWaitingWouldNotHelp) {
  const auto ring = make_user();
  EXPECT_EQ(ring->user_reserve_blocking(0, 4089, -1), E2BIG);
  EXPECT_EQ(ring->user_reserve_blocking(0, 8, -2), EINVAL);
}

TEST_P(BlockingReserve, SleepsUntilTheRingIsDrained) {
  const auto ring = make_user();
  const int written = produce(*ring, 1000, 8);
  EXPECT_EQ(written, 256);
  EXPECT_EQ(ring->user_reserve_blocking(0, 8, 10), ENOSPC);
  Blocked reserving([&] { return ring->user_reserve_blocking(0, 8, -1); });
  reserving.wait_asleep();
  const Drained d = ring->drain();
  EXPECT_EQ(reserving.join(), 0);
  EXPECT_GT(d.result, 0);
  EXPECT_LE(d.result, written);
  ring->submit(0);
  EXPECT_EQ(ring->drain().result, 1);
}

TEST_P(BlockingReserve, ADrainWithoutWakeupLeavesItAsleep) {
  const auto ring = make_user();
  produce(*ring, 1000, 8);
  Blocked reserving([&] { return ring->user_reserve_blocking(0, 8, -1); });
  reserving.wait_asleep();
  EXPECT_EQ(ring->drain({.flags = kNoWakeup}).result, 256);
  EXPECT_TRUE(reserving.asleep());
  EXPECT_EQ(ring->drain({.flags = kForceWakeup}).result, 0);
  EXPECT_EQ(reserving.join(), 0);
  ring->submit(0);
}

TEST_P(BlockingReserve, IsInterruptedBySignals) {
  const auto ring = make_user();
  produce(*ring, 1000, 8);
  Blocked reserving([&] { return ring->user_reserve_blocking(0, 8, -1); });
  reserving.wait_asleep();
  reserving.interrupt();
  EXPECT_EQ(reserving.join(), EINTR);
}

TEST_P(BlockingReserve, WhenALittleIsFree) {
  const auto ring = make_user();
  produce(*ring, 1000, 8);
  ASSERT_EQ(ring->drain({.stop_at = 2}).result, 2);  // 32 bytes
  difference("blocking-reserve-sleeps");
  Blocked reserving([&] { return ring->user_reserve_blocking(0, 100, 1'000'000); });
  if (!on_kernel()) {
    reserving.wait_asleep();
    EXPECT_EQ(ring->drain({.stop_at = 1}).result, 1);  // 48 bytes: not its bytes yet
    EXPECT_TRUE(reserving.asleep());
  }
  while (!reserving.done()) ring->drain({.stop_at = 1});
  EXPECT_EQ(reserving.join(), 0);
  ring->submit(0);
}

TEST_P(BlockingReserve, ForEver) {
  const auto ring = make_user();
  produce(*ring, 1000, 8);
  Blocked reserving([&] { return ring->user_reserve_blocking(0, 100, -1); });
  reserving.wait_asleep();
  difference("blocking-reserve-for-ever");
  EXPECT_EQ(ring->drain({.stop_at = 1}).result, 1);  // 16 bytes
  if (on_kernel()) {
    EXPECT_EQ(reserving.join(), ENOSPC);
  } else {
    EXPECT_TRUE(reserving.asleep());
    EXPECT_EQ(ring->drain().result, 255);
    EXPECT_EQ(reserving.join(), 0);
    ring->submit(0);
  }
}

}  // namespace
}  // namespace conformance
