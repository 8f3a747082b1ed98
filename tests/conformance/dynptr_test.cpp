// SPDX-License-Identifier: MIT
// bpf_ringbuf_reserve_dynptr and the helpers on what it gives.
#include "fixture.hpp"

namespace conformance {
namespace {

class Dynptr : public Conformance {};
CONFORMANCE(Dynptr);

TEST_P(Dynptr, LimitsOfReserve) {
  struct Row {
    std::uint32_t size;
    std::uint64_t flags;
    int result;
  };
  const Row rows[] = {
      {0, 0, 0},
      {8, 0, 0},
      {4080, 0, 0},
      {4081, 0, -EINVAL},  // no room, and every other failure of bpf_ringbuf_reserve
      {4088, 0, -EINVAL},
      {0xffffff, 0, -EINVAL},
      {0x1000000, 0, -E2BIG},
      {0x3fffffff, 0, -E2BIG},
      {UINT32_MAX, 0, -E2BIG},
      {8, 1, -EINVAL},
      {8, 1ull << 63, -EINVAL},
      {0x1000000, 1, -EINVAL},  // flags come first
  };
  for (const Row& row : rows) {
    SCOPED_TRACE("size " + std::to_string(row.size) + ", flags " + std::to_string(row.flags));
    const auto ring = make();
    ring->woken();
    EXPECT_EQ(ring->reserve_dynptr(0, row.size, row.flags), row.result);
    ring->submit(0, kForceWakeup);  // of a null dynptr: nothing, and no wakeup
    EXPECT_EQ(ring->woken(), row.result == 0);
    EXPECT_EQ(ring->image().producer_pos, row.result == 0 ? (row.size + 15) / 8 * 8 : 0);
  }
}

TEST_P(Dynptr, AFullRingIsEINVAL) {
  const auto ring = make();
  ASSERT_EQ(ring->reserve_dynptr(0, 4000, 0), 0);
  EXPECT_EQ(ring->reserve_dynptr(1, 100, 0), -EINVAL);
  ring->discard(1);
  ring->submit(0);
  EXPECT_EQ(ring->reserve_dynptr(0, 72, 0), 0);  // 4088 in all
  ring->discard(0);
}

TEST_P(Dynptr, AccessStaysInside) {
  const auto ring = make();
  ASSERT_EQ(ring->reserve_dynptr(0, 100, 0), 0);
  EXPECT_EQ(ring->dynptr_size(), 100);
  struct Row {
    std::uint32_t offset, size;
    std::uint64_t flags;
    int result;
  };
  const Row rows[] = {{0, 100, 0, 0},
                      {0, 101, 0, -E2BIG},
                      {99, 1, 0, 0},
                      {99, 2, 0, -E2BIG},
                      {100, 0, 0, 0},
                      {100, 1, 0, -E2BIG},
                      {101, 0, 0, -E2BIG},
                      {UINT32_MAX, 1, 0, -E2BIG},
                      {UINT32_MAX, 100, 0, -E2BIG},
                      {0, 1, 1, -EINVAL}};
  for (const Row& row : rows) {
    SCOPED_TRACE("offset " + std::to_string(row.offset) + ", size " + std::to_string(row.size));
    Bytes bytes;
    EXPECT_EQ(ring->write(0, row.offset, Bytes(row.size, 'x'), row.flags), row.result);
    EXPECT_EQ(ring->read_dynptr(row.offset, row.size, row.flags, &bytes), row.result);
    EXPECT_EQ(bytes, Bytes(row.result == 0 ? row.size : 0, 'x'));
  }
  // Two errors at once: reading looks at the flags first, writing at the bounds.
  Bytes bytes;
  EXPECT_EQ(ring->read_dynptr(0, 101, 1, &bytes), -EINVAL);
  EXPECT_EQ(ring->write(0, 0, Bytes(101, 'x'), 1), -E2BIG);
  ring->discard(0);
}

TEST_P(Dynptr, DataGivesMemoryInside) {
  const auto ring = make();
  ASSERT_EQ(ring->reserve_dynptr(0, 100, 0), 0);
  EXPECT_TRUE(ring->dynptr_data(0, 100));
  EXPECT_FALSE(ring->dynptr_data(0, 101));
  EXPECT_TRUE(ring->dynptr_data(92, 8));
  EXPECT_FALSE(ring->dynptr_data(93, 8));
  EXPECT_TRUE(ring->dynptr_data(99, 1));
  EXPECT_FALSE(ring->dynptr_data(100, 1));
  EXPECT_TRUE(ring->dynptr_data(100, 0));
  EXPECT_FALSE(ring->dynptr_data(101, 0));
  EXPECT_FALSE(ring->dynptr_data(UINT32_MAX, 8));
  ring->discard(0);
}

TEST_P(Dynptr, OfAFailedReservationIsNull) {
  const auto ring = make();
  ASSERT_EQ(ring->reserve_dynptr(0, 5000, 0), -EINVAL);
  Bytes bytes;
  EXPECT_EQ(ring->dynptr_size(), -EINVAL);
  EXPECT_EQ(ring->write(0, 0, "x"), -EINVAL);
  EXPECT_EQ(ring->read_dynptr(0, 1, 0, &bytes), -EINVAL);
  EXPECT_FALSE(ring->dynptr_data(0, 1));
  EXPECT_FALSE(ring->dynptr_data(0, 0));
  ring->submit(0);
  EXPECT_EQ(ring->image().producer_pos, 0u);
}

TEST_P(Dynptr, CarriesARecord) {
  const auto ring = make();
  ASSERT_EQ(ring->reserve_dynptr(0, 10, 0), 0);
  ASSERT_EQ(ring->reserve_dynptr(1, 4, 0), 0);
  EXPECT_EQ(ring->write(0, 0, "first"), 0);
  EXPECT_EQ(ring->write(0, 5, "half."), 0);
  EXPECT_EQ(ring->write(1, 0, "lost"), 0);
  Bytes bytes;
  EXPECT_EQ(ring->read_dynptr(3, 4, 0, &bytes), 0);
  EXPECT_EQ(bytes, "stha");
  ring->submit(0);
  ring->discard(1);
  Gather got;
  EXPECT_EQ(ring->consume(got), 1);
  EXPECT_EQ(got.records, std::vector<Bytes>{"firsthalf."});
}

}  // namespace
}  // namespace conformance
