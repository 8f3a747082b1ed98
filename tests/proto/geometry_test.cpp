// SPDX-License-Identifier: MIT
// Where things are in a ring.
#include "ringbuf/shm/geometry.hpp"

#include <gtest/gtest.h>

namespace ringbuf::shm {
namespace {

TEST(Geometry, StrideIsHeaderAndPayloadRoundedUpToEight) {
  EXPECT_EQ(stride(0), 8u);
  EXPECT_EQ(stride(1), 16u);
  EXPECT_EQ(stride(8), 16u);
  EXPECT_EQ(stride(9), 24u);
  EXPECT_EQ(stride(32), 40u);
  EXPECT_EQ(stride(RINGBUF_LEN_MASK), 0x40000008u) << "the largest length must not wrap";
  EXPECT_EQ(stride(UINT32_MAX), 0x100000008u);
}

TEST(Geometry, OffsetIsThePositionWithinTheRing) {
  EXPECT_EQ(offset(0, 4095), 0u);
  EXPECT_EQ(offset(4096, 4095), 0u);
  EXPECT_EQ(offset(3 * 4096 + 40, 4095), 40u);
  EXPECT_EQ(offset(UINT64_MAX, 4095), 4095u);
}

TEST(Geometry, WhoCarriesTheKernelsPageOffsetAndTheSlot) {
  EXPECT_EQ(who(0, 12, 0), 3u) << "page 0 is the kernel's third";
  EXPECT_EQ(who(4088, 12, 0), 3u);
  EXPECT_EQ(who(4096, 12, 0), 4u);
  EXPECT_EQ(who(8192 + 16, 12, 1), 0x00100005u);
  EXPECT_EQ(who(0, 12, 1023), 0x3ff00003u);
  EXPECT_EQ(who(65536, 16, 2), 0x00200004u) << "64 KiB pages";
}

TEST(Geometry, ThePageOffsetOfTheLargestRingFitsItsBits) {
  EXPECT_LT(RINGBUF_META_PAGES + ((std::uint64_t{1} << 31) >> 12), std::uint64_t{1} << RINGBUF_PG_OFF_BITS);
  EXPECT_LT(RINGBUF_SLOT_COUNT, 1u << (32 - RINGBUF_PG_OFF_BITS));
}

TEST(Geometry, PowersOfTwoAreKnown) {
  EXPECT_FALSE(is_power_of_two(0));
  EXPECT_TRUE(is_power_of_two(1));
  EXPECT_TRUE(is_power_of_two(4096));
  EXPECT_FALSE(is_power_of_two(12288));
  EXPECT_TRUE(is_power_of_two(1u << 31));
}

TEST(Geometry, LayoutPutsThePiecesBehindEachOther) {
  const Layout l{4096, 65536};
  EXPECT_EQ(l.slots_size(), 65536u);
  EXPECT_EQ(l.producer_page_off(), 65536u);
  EXPECT_EQ(l.data_off(), 65536u + 4096);
  EXPECT_EQ(l.c_size(), 4096u);
  EXPECT_EQ(l.p_size(), 65536u + 4096 + 65536);
  EXPECT_EQ(l.view_size(), 65536u + 2 * 4096 + 2 * 65536);
}

TEST(Geometry, TheSharedWordsAreWhereTheAbiSaysTheyAre) {
  EXPECT_EQ(offsetof(ringbuf_consumer_page, consumer_pos), 0u);
  EXPECT_EQ(offsetof(ringbuf_consumer_page, waiting), 64u);
  EXPECT_EQ(offsetof(ringbuf_consumer_page, room_seq), 128u);
  EXPECT_EQ(offsetof(ringbuf_consumer_page, records), 192u);
  EXPECT_EQ(offsetof(ringbuf_producer_page, producer_pos), 0u);
  EXPECT_EQ(offsetof(ringbuf_producer_page, pending_pos), 8u);
  EXPECT_EQ(offsetof(ringbuf_producer_page, overwrite_pos), 16u);
  EXPECT_EQ(offsetof(ringbuf_producer_page, owner), 64u);
  EXPECT_EQ(offsetof(ringbuf_producer_page, cached_pos), 72u);
  EXPECT_EQ(offsetof(ringbuf_producer_page, lost), 128u);
  EXPECT_EQ(offsetof(ringbuf_producer_page, room_waiters), 192u);
  EXPECT_EQ(offsetof(ringbuf_producer_page, slot_limit), 196u);
}

}  // namespace
}  // namespace ringbuf::shm
