// SPDX-License-Identifier: MIT
// Overwrite mode: the positions of the kernel (Linux 6.19), a consumer that is lapped, snapshots, and hostile words.
#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "shm/room.hpp"
#include "support/fd_leak_guard.hpp"
#include "support/test_ring.hpp"

namespace ringbuf::shm {
namespace {

using test::TestRing;

struct Shown {
  std::uint64_t pos;
  std::uint32_t flags;
  std::string data;
};

class OverwriteTest : public ::testing::Test {
 protected:
  void* reserve(std::uint64_t size) const { return producer_.reserve(size, 0); }
  void put(const std::string& text, std::uint64_t flags = 0) const {
    ASSERT_EQ(producer_.output(text.data(), text.size(), flags), 0);
  }
  // Of 64 bytes each in the ring.
  static std::string text(int n) { return std::to_string(100000 + n) + std::string(50, 'x'); }
  void put_numbered(int from, int to) const {
    for (int n = from; n < to; ++n) put(text(n));
  }
  std::int64_t consume(std::uint64_t limit = UINT64_MAX) {
    got_.clear();
    return consumer_.consume(
        [&](void* d, std::size_t n) {
          got_.emplace_back(static_cast<const char*>(d), n);
          return 0;
        },
        limit, &left_);
  }
  std::vector<Shown> snapshot() {
    std::vector<Shown> all;
    const auto r = observer_.snapshot([&](std::uint64_t pos, std::uint32_t flags, std::uint32_t, const void* d, std::size_t n) {
      all.push_back({pos, flags, d ? std::string(static_cast<const char*>(d), n) : ""});
      return 0;
    });
    EXPECT_EQ(r, static_cast<std::int64_t>(all.size()));
    return all;
  }
  std::uint64_t query(std::uint64_t what) const { return producer_.query(what); }
  void expect_positions(std::uint64_t over, std::uint64_t pend, std::uint64_t prod) const {
    EXPECT_EQ(ring_.ring().overwrite_pos(), over);
    EXPECT_EQ(ring_.ring().pending_pos(), pend);
    EXPECT_EQ(ring_.ring().producer_pos(), prod);
  }

  test::FdLeakGuard leaks_;
  TestRing ring_{4096, 1, 0, kTypeRingbuf, kFlagOverwrite};
  Producer producer_ = ring_.producer();
  Consumer consumer_ = ring_.consumer();
  Observer observer_ = ring_.observer();
  std::vector<std::string> got_;
  bool left_ = false;
};

// The example of the kernel's commit text. Sizes include the headers.
TEST_F(OverwriteTest, TheWalkFromAToE) {
  void* a = reserve(512 - 8);
  void* b = reserve(1024 - 8);
  void* c = reserve(2048 - 8);
  ASSERT_TRUE(a && b && c);
  expect_positions(0, 0, 3584);
  producer_.submit(a, 0);
  producer_.submit(b, 0);
  void* d = reserve(1536 - 8);
  ASSERT_NE(d, nullptr);
  expect_positions(1536, 1536, 5120);  // the start of C: B is hit in part and goes as a whole
  EXPECT_EQ(reserve(1024 - 8), nullptr) << "C is not committed";
  EXPECT_EQ(errno, EAGAIN);
  EXPECT_EQ(ring_.ring().lost(RINGBUF_LOST_BUSY), 1u);
  expect_positions(1536, 1536, 5120);
  producer_.submit(c, 0);
  producer_.submit(d, 0);
  EXPECT_EQ(reserve(5000), nullptr);
  EXPECT_EQ(errno, E2BIG);
  expect_positions(1536, 1536, 5120);  // pending_pos moves in reserve
  void* e = reserve(1024 - 8);
  ASSERT_NE(e, nullptr);
  expect_positions(3584, 5120, 6144);
  producer_.submit(e, 0);
  EXPECT_EQ(query(RINGBUF_CONS_POS), 0u);
}

// The kernel's selftest, with its figures for a page.
TEST_F(OverwriteTest, FiguresOfTheKernelsSelftest) {
  void* first = reserve(2048);
  void* second = reserve(1024);
  ASSERT_TRUE(first && second);
  EXPECT_EQ(reserve(1000), nullptr);
  void* third = reserve(992);
  ASSERT_NE(third, nullptr);
  for (void* p : {first, second, third}) producer_.submit(p, 0);
  void* fourth = reserve(1000);
  ASSERT_NE(fourth, nullptr);
  std::memset(fourth, 0xdd, 1000);
  producer_.submit(fourth, 0);
  EXPECT_EQ(query(RINGBUF_RING_SIZE), 4096u);
  EXPECT_EQ(query(RINGBUF_AVAIL_DATA), 3040u);
  EXPECT_EQ(query(RINGBUF_CONS_POS), 0u);
  EXPECT_EQ(query(RINGBUF_PROD_POS), 5096u);
  EXPECT_EQ(query(RINGBUF_OVERWRITE_POS), 2056u);
  EXPECT_EQ(query(5), 0u);
}

TEST_F(OverwriteTest, TheLargestRecordIsTheSameAsInNormalMode) {
  EXPECT_EQ(reserve(4081), nullptr);
  EXPECT_EQ(errno, E2BIG);
  for (int i = 0; i < 3; ++i) {
    void* p = reserve(4080);
    ASSERT_NE(p, nullptr);
    producer_.submit(p, 0);
  }
  expect_positions(8176, 8176, 12264);
}

TEST_F(OverwriteTest, AConsumerThatKeepsUpMissesNothing) {
  for (int n = 0; n < 1000; ++n) {
    put(text(n));
    ASSERT_EQ(consume(), 1);
    EXPECT_EQ(got_[0], text(n));
  }
  EXPECT_EQ(ring_.ring().missed_records(), 0u);
  EXPECT_EQ(query(RINGBUF_AVAIL_DATA), 0u);
}

TEST_F(OverwriteTest, ALappedConsumerGoesOnAtTheOldestAndIsToldWhatItMissed) {
  put_numbered(0, 10);
  ASSERT_EQ(consume(4), 4);
  put_numbered(10, 100);
  ASSERT_EQ(consume(), 63);  // 64 bytes each, at most N - 8
  EXPECT_EQ(got_.front(), text(37));
  EXPECT_EQ(got_.back(), text(99));
  EXPECT_FALSE(left_);
  EXPECT_EQ(ring_.ring().missed_records(), 33u);
  EXPECT_EQ(ring_.ring().missed_bytes(), 33u * 56);
  EXPECT_EQ(ring_.ring().records(), 67u);
  EXPECT_EQ(ring_.ring().consumer_pos(), 6400u);
  const ringbuf_overwritten o = ring_.ring().overwritten();
  EXPECT_EQ(o.pos, 37u * 64);
  EXPECT_EQ(o.records, 37u);
  EXPECT_EQ(o.bytes, 37u * 56);
}

TEST_F(OverwriteTest, DiscardedRecordsAreNotMissed) {
  for (int n = 0; n < 200; ++n) {
    void* p = reserve(56);
    ASSERT_NE(p, nullptr);
    if (n % 2) producer_.discard(p, 0);
    else producer_.submit(p, 0);
  }
  consume();
  EXPECT_EQ(ring_.ring().missed_records() + ring_.ring().records(), 100u);
  EXPECT_EQ(ring_.ring().missed_bytes() + ring_.ring().bytes(), 100u * 56);
}

TEST_F(OverwriteTest, EveryRecordIsDeliveredOrMissedOrStillThere) {
  int put = 0;
  for (int round = 0; round < 200; ++round) {
    const int more = static_cast<int>((round * 7919u) % 150);
    put_numbered(put, put + more);
    put += more;
    consume(round % 3 == 0 ? UINT64_MAX : 5);
    for (const std::string& record : got_) EXPECT_EQ(record.size(), 56u);
  }
  consume();
  EXPECT_EQ(ring_.ring().records() + ring_.ring().missed_records(), static_cast<std::uint64_t>(put));
  EXPECT_GT(ring_.ring().missed_records(), 0u);
}

TEST_F(OverwriteTest, ARecordThatIsLappedInsideTheCallbackWasDeliveredAndIsNotMissed) {
  put_numbered(0, 3);
  int calls = 0;
  EXPECT_EQ(consumer_.consume(
                [&](void* d, std::size_t n) {
                  const std::string seen(static_cast<const char*>(d), n);
                  if (++calls == 1) {
                    put_numbered(3, 103);  // the copy is not touched
                    EXPECT_EQ(seen, std::string(static_cast<const char*>(d), n));
                    EXPECT_EQ(seen, text(0));
                  }
                  return 0;
                },
                UINT64_MAX),
            1 + 63);
  EXPECT_EQ(ring_.ring().missed_records(), 103u - 64);
}

// Kernel: the wake rule does not know about overwriting.
TEST_F(OverwriteTest, WakesTheConsumerThatHasCaughtUpOnly) {
  ring_.ring().add_waiting();
  put(text(0));
  EXPECT_EQ(ring_.take_signals(), 1u);
  put(text(1));
  EXPECT_EQ(ring_.take_signals(), 0u);
  put_numbered(2, 64);
  EXPECT_EQ(ring_.take_signals(), 0u);
  put(text(64));  // position 4096: the stopped consumer's masked position
  EXPECT_EQ(ring_.take_signals(), 1u);
}

TEST_F(OverwriteTest, ALappedConsumerDoesNotSleep) {
  for (int i = 0; i < 9; ++i) put(std::string(1000, '\xff'));  // what stands at its position now looks like a BUSY header
  EXPECT_TRUE(consumer_.must_not_sleep());
  consume();
  EXPECT_FALSE(consumer_.must_not_sleep());
}

TEST_F(OverwriteTest, ABusyHeadIsWaitedForAtItsOwnPosition) {
  ring_.ring().add_waiting();
  put_numbered(0, 40);
  void* busy = reserve(56);
  put_numbered(40, 100 - 2);
  ASSERT_EQ(reserve(56 * 8), nullptr);
  EXPECT_GT(consume(), 0);
  EXPECT_EQ(got_.back(), text(39));
  EXPECT_EQ(ring_.ring().consumer_pos(), 40u * 64);
  EXPECT_FALSE(consumer_.must_not_sleep());
  ring_.take_signals();
  producer_.submit(busy, 0);
  EXPECT_EQ(ring_.take_signals(), 1u);
}

TEST_F(OverwriteTest, ASnapshotShowsAllThatIsInTheRingConsumedOrNot) {
  EXPECT_TRUE(snapshot().empty());
  put_numbered(0, 10);
  consume();
  ASSERT_EQ(snapshot().size(), 10u);
  put_numbered(10, 70);
  void* busy = reserve(8);
  producer_.discard(reserve(8), 0);
  const auto all = snapshot();
  ASSERT_EQ(all.size(), 63u + 2);  // these two, of 16 bytes each, cost the record at 6 * 64
  for (std::size_t i = 0; i < 63; ++i) {
    EXPECT_EQ(all[i].data, text(7 + static_cast<int>(i)));
    EXPECT_EQ(all[i].pos, (7 + i) * 64);
  }
  EXPECT_EQ(all[63].flags, RINGBUF_BUSY_BIT);
  EXPECT_EQ(all[64].flags, RINGBUF_DISCARD_BIT);
  producer_.submit(busy, 0);
}

TEST_F(OverwriteTest, ASnapshotOfANormalRingBeginsAtConsumerPos) {
  TestRing ring;
  const Producer producer = ring.producer();
  for (int n = 0; n < 5; ++n) ASSERT_EQ(producer.output(&n, sizeof n, 0), 0);
  EXPECT_EQ(ring.consumer().consume([](void*, std::size_t) { return 0; }, 2), 2);
  std::vector<std::uint64_t> positions;
  EXPECT_EQ(ring.observer().snapshot([&](std::uint64_t pos, std::uint32_t, std::uint32_t, const void*, std::size_t) {
    positions.push_back(pos);
    return 0;
  }),
            3);
  EXPECT_EQ(positions, (std::vector<std::uint64_t>{32, 48, 64}));
}

TEST_F(OverwriteTest, ADumpShowsWhatAConsumerWouldGet) {
  put_numbered(0, 100);
  consume(10);
  std::vector<std::uint64_t> positions;
  EXPECT_EQ(observer_.dump([&](std::uint64_t pos, std::uint32_t, std::uint32_t, const void*, std::size_t) {
    positions.push_back(pos);
    return 0;
  }),
            53);
  EXPECT_EQ(positions.front(), 47u * 64);
}

TEST_F(OverwriteTest, AWaitingReservationGetsItsPlaceWhenTheBusyRecordIsCommitted) {
  void* busy = reserve(2048);
  put(std::string(2000, 'x'));
  RoomWaiter waiter(producer_);
  EXPECT_EQ(waiter.reserve(2048, 5), nullptr);
  EXPECT_EQ(errno, ETIMEDOUT);
  std::thread committer([&] {
    while (ring_.ring().room_waiters() == 0) std::this_thread::yield();
    ring_.ring().add_waiting();  // a consumer sleeps, too: nothing that it could do makes room
    ring_.take_signals();
    producer_.submit(busy, RINGBUF_NO_WAKEUP);
  });
  EXPECT_NE(waiter.reserve(2048, -1), nullptr);
  committer.join();
  EXPECT_EQ(ring_.take_signals(), 0u);
}

// --- hostile words -----------------------------------------------------------------------------------------------------

TEST_F(OverwriteTest, AForgedOverwritePosOrHeaderCostsTheRecordsAndHealsTheRing) {
  for (const std::uint64_t forged : {std::uint64_t{5}, std::uint64_t{1} << 40, ~std::uint64_t{0}, std::uint64_t{12800}}) {
    put_numbered(0, 100);
    ring_.producer_page().overwrite_pos = forged;
    ring_.producer_page().cached_pos = 0;
    put_numbered(0, 100);
    const std::uint64_t over = ring_.ring().overwrite_pos(), prod = ring_.ring().producer_pos();
    EXPECT_LE(prod - over, 4096u);
    consume();
    EXPECT_FALSE(got_.empty());
  }
  put_numbered(0, 100);
  ring_.header(ring_.ring().overwrite_pos()).len = 0x3fffffff;
  put_numbered(0, 100);
  EXPECT_EQ(consume(), 63);
}

TEST_F(OverwriteTest, AnImpossiblePositionIsReportedAndKeepsNobodyBusy) {
  for (const std::uint64_t forged : {std::uint64_t{1} << 40, std::uint64_t{3}, std::uint64_t{644}, ~std::uint64_t{7}}) {
    TestRing ring(4096, 1, 0, kTypeRingbuf, kFlagOverwrite);
    const Producer producer = ring.producer();
    const Consumer consumer = ring.consumer();
    const auto ignore = [](auto&&...) { return 0; };
    ring.producer_page().overwrite_pos = forged;
    EXPECT_FALSE(consumer.must_not_sleep()) << "nothing is there";
    for (int n = 0; n < 10; ++n) ASSERT_EQ(producer.output(text(n).data(), 56, 0), 0);
    const bool behind = static_cast<std::int64_t>(forged) <= 0;
    EXPECT_EQ(consumer.consume(ignore, UINT64_MAX), behind ? 10 : -EBADMSG) << forged;
    EXPECT_EQ(ring.ring().consumer_pos(), behind ? 640u : 0u) << forged;
    const std::int64_t shown = ring.observer().snapshot(ignore), dumped = ring.observer().dump(ignore);
    EXPECT_TRUE(shown == -EBADMSG || shown == -EAGAIN || (shown >= 0 && shown <= 11)) << forged << ' ' << shown;
    EXPECT_TRUE(dumped == -EBADMSG || (dumped >= 0 && dumped <= 10)) << forged << ' ' << dumped;
    ring.producer_page().overwrite_pos = 0;
    consumer.reset();
    ASSERT_EQ(producer.output("x", 1, 0), 0);
    EXPECT_EQ(consumer.consume(ignore, UINT64_MAX), 1);
  }
}

TEST_F(OverwriteTest, ASnapshotNeverShowsMemoryOfTheReader) {
  ring_.header(0).len = 4088;
  ring_.producer_page().producer_pos = 4096;
  ring_.producer_page().overwrite_pos = 0;
  ring_.header(0).len |= RINGBUF_BUSY_BIT;  // its payload is not copied
  const auto all = snapshot();
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].flags, RINGBUF_BUSY_BIT);
  EXPECT_EQ(all[0].data, "");
}

}  // namespace
}  // namespace ringbuf::shm
