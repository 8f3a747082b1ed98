// SPDX-License-Identifier: MIT
// A producer's or a consumer's memory is filled with arbitrary values at arbitrary times by a thread that never stops, while
// consumers, drains, dumps, snapshots and an honest producer work: none of them crashes, hangs or is shown more than a ring can
// hold. Each maps the ring between inaccessible pages and with its own role's rights, so nothing outside the ring is touched
// either, and UBSan sees what is misaligned. A hang is the test's timeout.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <thread>
#include <tuple>

#include "support/guarded_ring.hpp"
#include "support/payload.hpp"
#include "support/test_ring.hpp"

namespace ringbuf::shm {
namespace {

using test::GuardedRing;
using test::mix;
using test::TestRing;

constexpr std::uint32_t kSize = 4096;

enum class Forges { P, C };

class Forger {
 public:
  // Works on a mapping of its own, as another process does; that also keeps ThreadSanitizer out of it.
  explicit Forger(const TestRing& ring, Forges what = Forges::P)
      : mapping_(ring.map(Mapping::Access::ReadWrite, Mapping::Access::ReadWrite)), view_(mapping_.view()), thread_([this, what] {
          while (!stop_) what == Forges::P ? step() : step_c(), ++steps_;
        }) {}
  ~Forger() {
    stop_ = true;
    thread_.join();
  }
  // Has been at it long enough; both sides run meanwhile.
  bool done() const { return steps_ > 3'000'000; }

 private:
  std::uint64_t random() { return seed_ = mix(seed_); }
  static std::uint64_t load(std::uint64_t& word) { return std::atomic_ref(word).load(std::memory_order_relaxed); }
  static void store(std::uint64_t& word, std::uint64_t value) { std::atomic_ref(word).store(value, std::memory_order_relaxed); }
  std::uint64_t position() {
    const std::uint64_t prod = load(view_.producer_page->producer_pos), cons = load(view_.consumer_page->consumer_pos);
    const std::uint64_t r = random();
    switch (r % 8) {
      case 0: return random();
      case 1: return prod + random() % 16384 - 8192;
      case 2: return cons + random() % 8192;
      case 3: return (cons + random() % 8192) & ~std::uint64_t{7};
      case 4: return prod;
      case 5: return ~std::uint64_t{0} - random() % 64;
      case 6: return std::uint64_t{1} << random() % 64;
      default: return (cons & ~std::uint64_t{7}) + random() % 512 * 8;
    }
  }
  std::uint32_t length() {
    const auto r = static_cast<std::uint32_t>(random());
    switch (random() % 5) {
      case 0: return r;
      case 1: return r % kSize;
      case 2: return kSize - 8 - r % 16;
      case 3: return r % 64;
      default: return r % kSize | (r >> 31 ? RINGBUF_BUSY_BIT : RINGBUF_DISCARD_BIT);
    }
  }
  void step() {
    ringbuf_producer_page& page = *view_.producer_page;
    switch (random() % 7) {
      case 0: return store(page.producer_pos, position());
      case 1: return store(page.overwrite_pos, position());
      case 2: return store(page.pending_pos, position());
      case 3: {  // any word but the owner's: who finds that taken waits for it, 250 ms each time
        const std::uint64_t word = random() % (sizeof page / 8);
        if (word != offsetof(ringbuf_producer_page, owner) / 8) store(reinterpret_cast<std::uint64_t*>(&page)[word], position());
        return;
      }
      case 4:
        return store(reinterpret_cast<std::uint64_t*>(view_.slots)[random() % (kForgedSlots * sizeof(ringbuf_slot) / 8)],
                     position());
      default: {
        auto& len = *reinterpret_cast<std::uint32_t*>(view_.data + random() % (kSize / 8) * 8);
        return std::atomic_ref(len).store(length(), std::memory_order_relaxed);
      }
    }
  }

  void step_c() {
    ringbuf_consumer_page& page = *view_.consumer_page;
    if (random() % 2) return store(page.consumer_pos, position());
    store(reinterpret_cast<std::uint64_t*>(&page)[random() % (sizeof page / 8)], position());
  }

  static constexpr unsigned kForgedSlots = 4;  // its own and others', and one that nobody has
  const Mapping mapping_;
  const ringbuf_view view_;
  std::uint64_t seed_ = 1;
  std::atomic<bool> stop_{false};
  std::atomic<std::uint64_t> steps_{0};
  std::thread thread_;
};

class Hostile : public ::testing::TestWithParam<std::tuple<std::uint32_t, std::uint32_t>> {
 protected:
  // Reads every byte.
  void look(const void* data, std::size_t size) {
    ASSERT_LE(size, kSize - 8);
    std::uint64_t sum = 0;
    for (std::size_t i = 0; data && i < size; ++i) sum += static_cast<const volatile unsigned char*>(data)[i];
    sum_ += sum;
  }
  GuardedRing guarded(bool write_c, bool write_p) { return {ring_.memory(), kSize, RINGBUF_SLOT_COUNT, write_c, write_p}; }
  void produce_beside(const Forger& forger) {
    const GuardedRing mine = guarded(false, true);
    const Producer producer(mine.in(ring_.producer_view()));
    for (unsigned i = 0; i < 50'000 || !forger.done(); ++i) {
      const std::size_t size = mix(i) % (kSize - 8);
      if (void* p = producer.reserve(size, 0)) {
        ASSERT_EQ(reinterpret_cast<std::uintptr_t>(p) % 8, 0u);
        std::memset(p, 'x', size);
        i % 2 ? producer.submit(p, 0) : producer.discard(p, 0);
      }
      producer.query(i % 5);
    }
  }
  TestRing ring_{kSize, 1, 0, std::get<0>(GetParam()), std::get<1>(GetParam())};
  std::uint64_t sum_ = 0;
};

TEST_P(Hostile, ConsumersAndDrainsSurvive) {
  const Forger forger(ring_);
  const GuardedRing mine = guarded(true, false);
  const Consumer consumer(mine.in(ring_.consumer_view()));
  const auto take = [&](void* data, std::size_t size) {
    look(data, size);
    return 0;
  };
  for (unsigned i = 0; i < 20'000 || !forger.done(); ++i) {
    const std::int64_t n = consumer.user() ? consumer.drain(take, i & 3) : consumer.consume(take, 1 + i % 50);
    ASSERT_TRUE(n >= 0 || n == -EBADMSG || (consumer.user() && (n == -EINVAL || n == -E2BIG))) << n;
    consumer.must_not_sleep();
    if (n < 0 || i % 100 == 0) consumer.reset();
  }
}

TEST_P(Hostile, ObserversSurvive) {
  const Forger forger(ring_);
  const GuardedRing mine = guarded(false, false);
  const Observer observer(mine.in(ring_.consumer_view()));
  const auto show = [&](std::uint64_t, std::uint32_t, std::uint32_t, const void* data, std::size_t size) {
    look(data, data ? size : 0);
    return 0;
  };
  for (unsigned i = 0; i < 5'000 || !forger.done(); ++i) {
    const std::int64_t shown = observer.snapshot(show), dumped = observer.dump(show);
    ASSERT_TRUE(shown >= 0 || shown == -EBADMSG || shown == -EAGAIN) << shown;
    ASSERT_TRUE(dumped >= 0 || dumped == -EBADMSG) << dumped;
  }
}

TEST_P(Hostile, AnHonestProducerSurvivesAnother) { produce_beside(Forger(ring_)); }

TEST_P(Hostile, AProducerSurvivesTheConsumer) { produce_beside(Forger(ring_, Forges::C)); }

INSTANTIATE_TEST_SUITE_P(Words, Hostile,
                         ::testing::Values(std::tuple{kTypeRingbuf, 0u}, std::tuple{kTypeRingbuf, kFlagOverwrite},
                                           std::tuple{kTypeUserRingbuf, 0u}),
                         [](const auto& spec) {
                           if (std::get<0>(spec.param) == kTypeUserRingbuf) return "User";
                           return std::get<1>(spec.param) ? "Overwrite" : "Normal";
                         });

}  // namespace
}  // namespace ringbuf::shm
