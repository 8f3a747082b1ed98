// SPDX-License-Identifier: MIT
// BPF_MAP_TYPE_RINGBUF: what its users rely on, in the figures of the kernel's own selftests.
#include "fixture.hpp"

namespace conformance {
namespace {

struct Sample {
  std::int32_t pid = 0;
  std::int32_t seq = 0;
  std::int64_t value = 0;
  char comm[16] = "conformance";
};
static_assert(sizeof(Sample) == 32);

Bytes bytes_of(const Sample& s) { return Bytes(reinterpret_cast<const char*>(&s), sizeof s); }
Sample sample_of(const Bytes& bytes) {
  Sample s;
  EXPECT_EQ(bytes.size(), sizeof s);
  if (bytes.size() == sizeof s) std::memcpy(&s, bytes.data(), sizeof s);
  return s;
}

// The event program of the selftest: even events are submitted, odd ones are put out as a copy and their reservation discarded.
class Events {
 public:
  explicit Events(Ring& ring) : ring_(ring) {}

  void event(std::int64_t value, std::uint64_t flags = 0) {
    const Sample s{.pid = 1, .seq = seq_, .value = value};
    if (!ring_.reserve(0, sizeof s)) {
      ++dropped;
      return;
    }
    EXPECT_EQ(ring_.write(0, 0, bytes_of(s)), 0);
    ++total;
    if (seq_++ % 2 == 0) {
      ring_.submit(0, flags);
    } else {
      EXPECT_EQ(ring_.output(bytes_of(s), flags), 0);
      ring_.discard(0, flags);
      ++discarded;
    }
    avail = ring_.query(kAvailData);
    size = ring_.query(kRingSize);
    cons = ring_.query(kConsPos);
    prod = ring_.query(kProdPos);
  }
  void trigger(std::uint64_t flags = 0) {
    restart();
    event(333, flags);
    event(777, flags);
  }
  void restart() { dropped = total = discarded = 0; }
  void expect_counts() const {
    EXPECT_EQ(dropped, 0);
    EXPECT_EQ(total, 2);
    EXPECT_EQ(discarded, 1);
  }

  int dropped = 0, total = 0, discarded = 0;
  std::uint64_t avail = 0, size = 0, cons = 0, prod = 0;

 private:
  Ring& ring_;
  std::int32_t seq_ = 0;
};

// The consumer of the selftest: it stops with -7777 at the second event.
struct Checks {
  std::atomic<int> samples{0};
  OnSample fn = [this](const Bytes& bytes) {
    const Sample s = sample_of(bytes);
    ++samples;
    switch (s.seq) {
      case 0: EXPECT_EQ(s.value, 333); return 0;
      case 1: EXPECT_EQ(s.value, 777); return -7777;
      default: return 0;
    }
  };
};

class Ringbuf : public Conformance {};
CONFORMANCE(Ringbuf);

TEST_P(Ringbuf, TwoEventsAreInTheRingUntilConsumed) {
  const auto ring = make();
  Events events(*ring);
  Checks checks;
  events.trigger();
  EXPECT_EQ(events.avail, 120u);
  EXPECT_EQ(events.size, 4096u);
  EXPECT_EQ(events.cons, 0u);
  EXPECT_EQ(events.prod, 120u);
  const Image image = ring->image();
  EXPECT_EQ(image.consumer_pos, 0u);
  EXPECT_EQ(image.producer_pos, 120u);

  EXPECT_EQ(ring->poll(-1, checks.fn), -7777);
  EXPECT_EQ(checks.samples, 2);
  EXPECT_EQ(ring->poll(0, checks.fn), 0);
  EXPECT_EQ(checks.samples, 2);
  events.expect_counts();

  events.trigger();
  EXPECT_EQ(events.cons, 120u);
  // The reservation that was discarded lies before its copy, so the callback's result ended the first poll at the end of the
  // ring.
  EXPECT_EQ(ring->image().consumer_pos, 120u);
}

TEST_P(Ringbuf, SamplesComeInTheOrderOfReservation) {
  const auto ring = make();
  Events events(*ring);
  Gather got;
  events.trigger();
  EXPECT_EQ(ring->consume(got), 2);
  ASSERT_EQ(got.records.size(), 2u);
  EXPECT_EQ(sample_of(got.records[0]).value, 333);
  EXPECT_EQ(sample_of(got.records[1]).value, 777);
  EXPECT_EQ(sample_of(got.records[1]).seq, 1);
}

TEST_P(Ringbuf, PollSleepsThroughNoWakeupAndUntilACommitThatForces) {
  const auto ring = make();
  Events events(*ring);
  std::atomic<int> samples{0};
  const OnSample count = [&](const Bytes&) {
    ++samples;
    return 0;
  };
  Blocked polling([&] { return ring->poll(-1, count); });
  polling.wait_asleep();

  events.trigger(kNoWakeup);
  EXPECT_TRUE(polling.asleep());
  EXPECT_EQ(samples, 0);
  events.expect_counts();

  events.trigger(0);  // the consumer is behind: it must not be woken
  EXPECT_TRUE(polling.asleep());
  EXPECT_EQ(samples, 0);
  events.expect_counts();

  events.restart();
  events.event(333, 0);
  EXPECT_TRUE(polling.asleep());
  events.event(777, kForceWakeup);
  EXPECT_GT(polling.join(), 0);
  EXPECT_GE(ring->consume(count), 0);
  EXPECT_GE(ring->consume(count), 0);
  EXPECT_EQ(samples, 6);
  events.expect_counts();
}

TEST_P(Ringbuf, PollWakesWhenTheConsumerHasCaughtUp) {
  const auto ring = make();
  Gather got;
  for (int i = 0; i < 100; ++i) {
    Blocked polling([&] { return ring->poll(-1, got); });
    polling.wait_asleep();
    EXPECT_EQ(ring->output("record"), 0);
    EXPECT_EQ(polling.join(), 1);
  }
}

TEST_P(Ringbuf, PollIsInterruptedBySignals) {
  const auto ring = make();
  Gather got;
  Blocked polling([&] { return ring->poll(-1, got); });
  polling.wait_asleep();
  polling.interrupt();
  EXPECT_EQ(polling.join(), -EINTR);
}

TEST_P(Ringbuf, PollOfTwoRingsStopsAtANegativeResult) {
  const auto first = make(), second = make();
  ASSERT_EQ(first->output("a"), 0);
  ASSERT_EQ(first->output("b"), 0);
  ASSERT_EQ(second->output("c"), 0);
  Gather one, two;
  one.result = -77;
  EXPECT_EQ(first->poll_both(-1, one, *second, two), -77);
  EXPECT_EQ(one.records, std::vector<Bytes>{"a"});
  EXPECT_EQ(two.records, std::vector<Bytes>{});
  one.result = 0;
  EXPECT_EQ(first->poll_both(-1, one, *second, two), 2);
  EXPECT_EQ(two.records, std::vector<Bytes>{"c"});
}

TEST_P(Ringbuf, ConsumeNDeliversExactlyThatMany) {
  const auto ring = make();
  Sample s{.value = 42};
  for (s.seq = 0; s.seq < 32; ++s.seq) ASSERT_EQ(ring->output(bytes_of(s)), 0);
  for (int round = 0; round < 8; ++round) {
    Gather got;
    EXPECT_EQ(ring->consume_n(4, got), 4);
    ASSERT_EQ(got.records.size(), 4u);
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(sample_of(got.records[static_cast<std::size_t>(i)]).value, 42);
      EXPECT_EQ(sample_of(got.records[static_cast<std::size_t>(i)]).seq, 4 * round + i);
    }
  }
  Gather got;
  EXPECT_EQ(ring->consume_n(4, got), 0);
}

TEST_P(Ringbuf, ConsumeNOfZero) {
  const auto ring = make();
  ASSERT_EQ(ring->output("a"), 0);
  ASSERT_EQ(ring->output("b"), 0);
  Gather got;
  difference("consume-n-zero");
  const std::size_t delivered = on_kernel() ? 1 : 0;
  EXPECT_EQ(ring->consume_n(0, got), static_cast<int>(delivered));
  EXPECT_EQ(got.records.size(), delivered);
  EXPECT_EQ(ring->image().consumer_pos, 16 * delivered);
}

TEST_P(Ringbuf, ConsumeNSkipsDiscardedRecordsBeforeButNotAfter) {
  const auto ring = make();
  for (const bool discard : {true, false, true, false, true}) ASSERT_TRUE(ring->record(8, 0, "x", discard, 0));
  Gather got;
  EXPECT_EQ(ring->consume_n(2, got), 2);
  EXPECT_EQ(ring->image().consumer_pos, 64u);
  EXPECT_EQ(ring->consume_n(1, got), 0);
  EXPECT_EQ(ring->image().consumer_pos, 80u);
}

TEST_P(Ringbuf, ACallbackThatStopsHasConsumedItsRecord) {
  const auto ring = make();
  for (int i = 0; i < 4; ++i) ASSERT_EQ(ring->output(Bytes(1, static_cast<char>('a' + i))), 0);
  int n = 0;
  EXPECT_EQ(ring->consume([&](const Bytes&) { return ++n == 2 ? -5 : 0; }), -5);
  EXPECT_EQ(n, 2);
  EXPECT_EQ(ring->image().consumer_pos, 32u);
  Gather got;
  EXPECT_EQ(ring->consume(got), 2);
  EXPECT_EQ(got.records, (std::vector<Bytes>{"c", "d"}));
}

TEST_P(Ringbuf, APositiveResultOfTheCallbackMeansGoOn) {
  const auto ring = make();
  for (int i = 0; i < 3; ++i) ASSERT_EQ(ring->output("x"), 0);
  Gather got;
  got.result = 5;
  EXPECT_EQ(ring->consume(got), 3);
}

TEST_P(Ringbuf, PollReportsDiscardedRecordsAsNothing) {
  const auto ring = make();
  ASSERT_TRUE(ring->record(8, 0, "x", true, 0));
  Gather got;
  EXPECT_EQ(ring->poll(0, got), 0);
  EXPECT_EQ(got.records.size(), 0u);
  EXPECT_EQ(ring->image().consumer_pos, 16u);
}

TEST_P(Ringbuf, PollAfterASilentCommit) {
  const auto ring = make();
  ASSERT_EQ(ring->output("x", kNoWakeup), 0);
  Gather got;
  difference("silent-commit-found-by-poll");
  EXPECT_EQ(ring->poll(0, got), on_kernel() ? 0 : 1);
  EXPECT_EQ(ring->output("y", kForceWakeup), 0);
  EXPECT_EQ(ring->poll(-1, got), on_kernel() ? 2 : 1);
  EXPECT_EQ(got.records, (std::vector<Bytes>{"x", "y"}));
}

TEST_P(Ringbuf, ConsumerPosInsideACall) {
  const auto ring = make();
  for (int i = 0; i < 10; ++i) ASSERT_EQ(ring->output("x"), 0);
  std::vector<std::uint64_t> seen;
  EXPECT_EQ(ring->consume([&](const Bytes&) {
    seen.push_back(ring->image().consumer_pos);
    return 0;
  }),
            10);
  difference("consumer-pos-batched");
  for (std::size_t i = 0; i < seen.size(); ++i) EXPECT_EQ(seen[i], on_kernel() ? 16 * i : 0);
  EXPECT_EQ(ring->image().consumer_pos, 160u);
}

TEST_P(Ringbuf, RecordsThatTheCallbackPutsOut) {
  const auto ring = make();
  ASSERT_EQ(ring->output("x"), 0);
  int left = 3;
  const OnSample again = [&](const Bytes&) { return left-- > 0 ? ring->output("x") : 0; };
  difference("consume-is-one-pass");
  EXPECT_EQ(ring->consume(again), on_kernel() ? 4 : 1);
  Gather got;
  EXPECT_EQ(ring->consume(got), on_kernel() ? 0 : 1);
}

TEST_P(Ringbuf, AConsumerPosInsideARecordMakesAHeaderOfItsBytes) {
  const auto ring = make();
  std::uint32_t words[16] = {1000};  // as a header: longer than all there is
  ASSERT_EQ(ring->output(Bytes(reinterpret_cast<const char*>(words), sizeof words)), 0);
  ring->forge_consumer_pos(8);
  Gather got;
  difference("corrupt-header-refused");
  EXPECT_EQ(ring->consume(got), on_kernel() ? 1 : -EBADMSG);
  EXPECT_EQ(ring->image().consumer_pos, on_kernel() ? 8u + 1008 : 8u);
  EXPECT_EQ(got.records.size(), on_kernel() ? 1u : 0u);
}

TEST_P(Ringbuf, AConsumerPosAheadOfTheProducerReadsNothing) {
  const auto ring = make();
  ASSERT_EQ(ring->output("x"), 0);
  ring->forge_consumer_pos(160);
  Gather got;
  difference("consumer-pos-ahead");
  EXPECT_EQ(ring->consume(got), on_kernel() ? 0 : -EBADMSG);
  EXPECT_EQ(got.records.size(), 0u);
  EXPECT_EQ(ring->image().consumer_pos, 160u);
}

TEST_P(Ringbuf, ManyConsumersOfOneProcess) {
  const auto ring = make({.shared = true});
  difference("consumers-of-a-map");
  EXPECT_EQ(1 + ring->consumers(99), on_kernel() ? 100u : 64u);
  ASSERT_EQ(ring->output("x"), 0);
  Gather got;
  EXPECT_EQ(ring->consume(got), 1);
}

TEST_P(Ringbuf, AManagerTakesARingOnce) {
  const auto ring = make(), other = make(), user = make_user();
  EXPECT_EQ(ring->manage(*other), 0);
  EXPECT_EQ(ring->manage(*other), -EEXIST);
  EXPECT_EQ(ring->manage(*ring), -EEXIST);
  EXPECT_EQ(ring->manage(*user), -EINVAL);
}

// The CVE-2024-41009 test: a consumer that claims to have read what is still reserved gets nothing written over it.
TEST_P(Ringbuf, AForgedConsumerPosDoesNotLetReservationsOverlap) {
  Spec spec;
  spec.max_entries = 0x40000;
  const auto ring = make(spec);
  ring->forge_consumer_pos(0x30000);
  int discarded = 0, passed = 0;
  for (int i = 0; i < 2; ++i) {
    // The first one is closer to 0 than the forged position: producers that look at it see a consumer ahead of them.
    ASSERT_TRUE(ring->reserve(0, 0x30000)) << i;
    if (ring->record(0x30000, 0, "", false, 0)) ++passed;
    ring->discard(0);
    ++discarded;
  }
  EXPECT_EQ(discarded, 2);
  EXPECT_EQ(passed, 0);
}

// A position ahead of producer_pos makes "unread bytes" a huge number.
TEST_P(Ringbuf, AConsumerPosAheadOfTheProducerStopsIt) {
  const auto ring = make();
  ring->forge_consumer_pos(1000);
  difference("consumer-pos-seen-late");
  EXPECT_EQ(ring->output("x"), on_kernel() ? -EAGAIN : 0);  // ours has seen 0, and that leaves room
  for (int i = 0; i < 1000 && ring->output(Bytes(8, 'x')) == 0; ++i) continue;
  // It looked when there was no room left behind 0, and took the claim for what it is: 1000 + N - 8.
  const std::uint64_t stopped = ring->image().producer_pos;
  EXPECT_EQ(stopped, on_kernel() ? 0u : 5088u);
  ring->forge_consumer_pos(stopped);
  EXPECT_EQ(ring->output(Bytes(8, 'x')), 0);
}

}  // namespace
}  // namespace conformance
