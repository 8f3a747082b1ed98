// SPDX-License-Identifier: MIT
// consumer_pos is a former consumer's word too, which may have been another user's: where no record can begin, nothing is read.
#include <gtest/gtest.h>

#include <cstring>

#include "support/fd_leak_guard.hpp"
#include "support/test_ring.hpp"

namespace ringbuf::shm {
namespace {

using test::TestRing;

class FormerConsumer : public ::testing::TestWithParam<std::uint64_t> {
 protected:
  // Three empty records, and a consumer_pos from nowhere.
  explicit FormerConsumer(std::uint32_t map_type = kTypeRingbuf, std::uint32_t map_flags = 0)
      : ring_(4096, 1, 0, map_type, map_flags) {
    const Producer producer = ring_.producer();
    for (int i = 0; i < 3; ++i) producer.submit(producer.reserve(0, 0), 0);
    ring_.consumer_page().consumer_pos = GetParam();
  }
  void expect_report_and_reset() {
    const Consumer consumer = ring_.consumer();
    const auto take = [&](void*, std::size_t) { return ++taken_, 0; };
    EXPECT_EQ(consumer.consume(take, 100), -EBADMSG);
    EXPECT_TRUE(consumer.must_not_sleep()) << "there is something to report";
    EXPECT_EQ(taken_, 0);
    EXPECT_EQ(ring_.consumer_page().consumer_pos, GetParam());
    consumer.reset();
    const Producer producer = ring_.producer();
    producer.submit(producer.reserve(0, 0), 0);
    EXPECT_EQ(consumer.consume(take, 100), 1);
  }
  test::FdLeakGuard leaks_;
  TestRing ring_;
  int taken_ = 0;
};
class FormerOverwriteConsumer : public FormerConsumer {
 protected:
  FormerOverwriteConsumer() : FormerConsumer(kTypeRingbuf, kFlagOverwrite) {}
};
class FormerDrainer : public FormerConsumer {
 protected:
  FormerDrainer() : FormerConsumer(kTypeUserRingbuf) {}
};

TEST_P(FormerConsumer, AMisalignedConsumerPosIsReportedAndResetHealsIt) { expect_report_and_reset(); }
TEST_P(FormerOverwriteConsumer, AMisalignedConsumerPosIsReportedAndResetHealsIt) { expect_report_and_reset(); }

TEST_P(FormerDrainer, AMisalignedConsumerPosIsInvalidAndResetHealsIt) {
  const Consumer consumer = ring_.consumer();
  const auto take = [&](void*, std::size_t) { return ++taken_, 0; };
  EXPECT_EQ(consumer.drain(take, 0), -EINVAL);
  EXPECT_TRUE(consumer.must_not_sleep());
  EXPECT_EQ(taken_, 0);
  EXPECT_EQ(ring_.consumer_page().consumer_pos, GetParam());
  consumer.reset();
  const Producer producer = ring_.producer();
  producer.submit(producer.reserve(0, 0), 0);
  EXPECT_EQ(consumer.drain(take, 0), 1);
}

TEST_P(FormerConsumer, DumpsAndSnapshotsReadOnlyWhereARecordCanBegin) {
  const auto show = [&](std::uint64_t pos, std::uint32_t, std::uint32_t, const void*, std::size_t) {
    EXPECT_EQ(pos % 8, 0u);
    return 0;
  };
  EXPECT_EQ(ring_.observer().dump(show), -EBADMSG);
  EXPECT_GE(ring_.observer().snapshot(show), 2);
}

INSTANTIATE_TEST_SUITE_P(Positions, FormerConsumer, ::testing::Values(1, 4, 9, 15));
INSTANTIATE_TEST_SUITE_P(Positions, FormerOverwriteConsumer, ::testing::Values(1, 4, 9, 15));
INSTANTIATE_TEST_SUITE_P(Positions, FormerDrainer, ::testing::Values(1, 4, 9, 15));

}  // namespace
}  // namespace ringbuf::shm
