// SPDX-License-Identifier: MIT
// A RINGBUF in overwrite mode (BPF_F_RB_OVERWRITE, Linux 6.19): the oldest records make room for new ones.
#include "fixture.hpp"

namespace conformance {
namespace {

class Overwrite : public Conformance {
 protected:
  void SetUp() override {
    Conformance::SetUp();
    if (IsSkipped()) return;
    ring = make_overwrite();
    if (!ring) GTEST_SKIP() << "no overwrite mode before Linux 6.19";
  }
  void TearDown() override { ring.reset(); }

  std::unique_ptr<Ring> ring;
};
CONFORMANCE(Overwrite);

TEST_P(Overwrite, TheOldestRecordsMakeRoom) {
  constexpr std::uint32_t n = 4096, l1 = n / 2, l2 = n / 4, l3 = n - l1 - l2 - 24, l4 = l3 - 8, l5 = l3;
  ASSERT_TRUE(ring->reserve(0, l1));
  ASSERT_TRUE(ring->reserve(1, l2));
  EXPECT_FALSE(ring->reserve(2, l3));  // what is not committed cannot be overwritten
  ASSERT_TRUE(ring->reserve(2, l4));
  EXPECT_EQ(ring->write(0, 0, Bytes(l1, '\xaa')), 0);
  EXPECT_EQ(ring->write(1, 0, Bytes(l2, '\xbb')), 0);
  EXPECT_EQ(ring->write(2, 0, Bytes(l4, '\xcc')), 0);
  ring->submit(0);
  ring->submit(1);
  ring->submit(2);
  ASSERT_TRUE(ring->reserve(3, l5));
  EXPECT_EQ(ring->write(3, 0, Bytes(l5, '\xdd')), 0);
  ring->submit(3);
  EXPECT_EQ(ring->query(kRingSize), n);
  EXPECT_EQ(ring->query(kAvailData), l2 + l4 + l5 + 24);
  EXPECT_EQ(ring->query(kConsPos), 0u);
  EXPECT_EQ(ring->query(kProdPos), l1 + l2 + l4 + l5 + 32);
  EXPECT_EQ(ring->query(kOverwritePos), l1 + 8);
  const Image image = ring->image();
  EXPECT_EQ(image.overwrite_pos, l1 + 8);
  EXPECT_EQ(image.data.substr(l1 + 16, l2), Bytes(l2, '\xbb'));
}

// The example of the patch that brought it; sizes are with their headers.
TEST_P(Overwrite, WholeRecordsAreGivenUpAndNoneThatIsBusy) {
  ASSERT_TRUE(ring->reserve(0, 512 - 8));
  ASSERT_TRUE(ring->reserve(1, 1024 - 8));
  ASSERT_TRUE(ring->reserve(2, 2048 - 8));
  EXPECT_EQ(ring->image().producer_pos, 3584u);
  ring->submit(0);
  ring->submit(1);
  ASSERT_TRUE(ring->reserve(3, 1536 - 8));
  EXPECT_EQ(ring->image().producer_pos, 5120u);
  EXPECT_EQ(ring->image().overwrite_pos, 1536u);  // 1024 bytes were needed; the second record is hit, so it goes as a whole
  EXPECT_EQ(ring->image().pending_pos, 1536u);
  EXPECT_FALSE(ring->reserve(0, 1024 - 8));
  EXPECT_EQ(ring->image().producer_pos, 5120u);
  ring->submit(2);
  ring->submit(3);
  ASSERT_TRUE(ring->reserve(0, 1024 - 8));
  const Image image = ring->image();
  EXPECT_EQ(image.producer_pos, 6144u);
  EXPECT_EQ(image.pending_pos, 5120u);
  EXPECT_EQ(image.overwrite_pos, 3584u);
  EXPECT_EQ(image.consumer_pos, 0u);
  ring->submit(0);
}

TEST_P(Overwrite, Limits) {
  EXPECT_EQ(ring->output(Bytes(4080, 'x')), 0);
  EXPECT_EQ(ring->output(Bytes(4081, 'x')), -EAGAIN);
  EXPECT_EQ(ring->output(Bytes(4080, 'y')), 0);
  EXPECT_EQ(ring->image().overwrite_pos, 4088u);
  EXPECT_EQ(ring->reserve_dynptr(0, 4081, 0), -EINVAL);
  ring->discard(0);
}

TEST_P(Overwrite, DiscardedRecordsAreOverwrittenLikeOthers) {
  for (int i = 0; i < 255; ++i) ASSERT_TRUE(ring->record(8, 0, "", i % 2 == 0, kNoWakeup));
  EXPECT_EQ(ring->image().overwrite_pos, 0u);
  ASSERT_EQ(ring->output(Bytes(24, 'x')), 0);
  EXPECT_EQ(ring->image().overwrite_pos, 32u);
}

TEST_P(Overwrite, AvailableIsWhatNeitherWasReadNorOverwritten) {
  for (int i = 0; i < 255; ++i) ASSERT_EQ(ring->output(Bytes(8, 'x')), 0);
  EXPECT_EQ(ring->query(kAvailData), 4080u);
  ring->forge_consumer_pos(160);
  EXPECT_EQ(ring->query(kAvailData), 3920u);
  for (int i = 0; i < 20; ++i) ASSERT_EQ(ring->output(Bytes(8, 'x')), 0);
  EXPECT_EQ(ring->query(kOverwritePos), 320u);
  EXPECT_EQ(ring->query(kAvailData), 4080u);
}

TEST_P(Overwrite, TheWakeRuleIsThatOfOtherRings) {
  ring->woken();
  EXPECT_EQ(ring->output(Bytes(8, 'x')), 0);
  EXPECT_TRUE(ring->woken());
  for (int i = 1; i < 256; ++i) {
    EXPECT_EQ(ring->output(Bytes(8, 'x')), 0);
    EXPECT_FALSE(ring->woken()) << i;
  }
  // A lap later a record starts at the offset of the consumer that has not moved.
  EXPECT_EQ(ring->output(Bytes(8, 'x')), 0);
  EXPECT_TRUE(ring->woken());
  EXPECT_EQ(ring->output(Bytes(8, 'x'), kForceWakeup), 0);
  EXPECT_TRUE(ring->woken());
  EXPECT_EQ(ring->output(Bytes(8, 'x'), kNoWakeup), 0);
  EXPECT_FALSE(ring->woken());
}

TEST_P(Overwrite, AConsumerThatWasLapped) {
  difference("overwrite-consumer");
  if (on_kernel()) GTEST_SKIP() << "libbpf has no consumer for overwrite mode";
  for (char i = 0; i < 100; ++i) ASSERT_EQ(ring->output(Bytes(120, i)), 0);
  Gather got;
  EXPECT_EQ(ring->consume(got), 31);
  ASSERT_EQ(got.records.size(), 31u);
  for (std::size_t i = 0; i < 31; ++i) EXPECT_EQ(got.records[i], Bytes(120, static_cast<char>(69 + i)));
  EXPECT_EQ(ring->image().consumer_pos, 12800u);
}

}  // namespace
}  // namespace conformance
