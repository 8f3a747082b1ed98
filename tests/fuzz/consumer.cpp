// SPDX-License-Identifier: MIT
// Arbitrary ring memory under consume, drain, dump and snapshot: honest records, then words that are not, also while callbacks
// run. Nothing outside the ring is touched, what is delivered is there, and a reader stops only where it must.
#include "ringbuf/shm/consumer.hpp"

#include "fuzz/witness.hpp"
#include "ringbuf/shm/observer.hpp"

namespace ringbuf::fuzz {
namespace {

class Session {
 public:
  Session(ForgedRing& ring, Input& in)
      : ring_(ring),
        in_(in),
        consumer_(ring.view(ForgedRing::kConsumer)),
        observer_(ring.view(ForgedRing::kObserver)),
        witness_(ring, in),
        watcher_(ring, in) {
    watcher_.can_skip_discarded = false;
  }

  void consume() {
    const std::uint64_t limit = in_.flip() ? 1 + in_.below(8) : UINT64_MAX;
    witness_.begin(ring_.c().consumer_pos);
    bool left = false;
    const std::int64_t n =
        consumer_.consume([&](void* p, std::size_t size) { return witness_.take(p, size, false); }, limit, &left);
    if (consumer_.user()) {
      FUZZ_CHECK(n == -EINVAL && !left);
      return;
    }
    if (witness_.result()) FUZZ_CHECK(n == witness_.result());
    else FUZZ_CHECK(n == -EBADMSG || (n >= 0 && static_cast<std::uint64_t>(n) == witness_.shown()));
    if (n >= 0) FUZZ_CHECK(static_cast<std::uint64_t>(n) <= limit);
    if (witness_.forged() || witness_.result()) return;
    if (n == -EBADMSG) {
      const std::uint64_t pos = witness_.pos();
      FUZZ_CHECK((pos & 7) != 0 || (pos != witness_.end() && !witness_.busy() && !witness_.whole()));
      FUZZ_CHECK(ring_.c().consumer_pos == pos);
    } else if (static_cast<std::uint64_t>(n) < limit) {
      const std::uint64_t pos = witness_.pos();
      FUZZ_CHECK(pos == witness_.end() || witness_.busy());
      FUZZ_CHECK(ring_.c().consumer_pos == pos && !left);
    }
  }

  void drain() {
    const std::uint64_t flags = in_.below(5);
    const std::uint64_t before = ring_.c().consumer_pos;
    std::uint64_t taken = 0;
    const std::int64_t n = consumer_.drain(
        [&](void* p, std::size_t size) {
          ring_.offset_of_payload(ForgedRing::kConsumer, p, size);
          ++taken;
          if (in_.empty()) return static_cast<int>(taken >= 4096);  // a forged producer_pos leads round and round
          if (in_.flip()) ring_.forge(in_, ForgedRing::kInP);
          return static_cast<int>(in_.below(8) == 7);
        },
        flags);
    const std::int64_t moved = static_cast<std::int64_t>(ring_.c().consumer_pos - before);
    if (!consumer_.user() || flags > 3) {
      FUZZ_CHECK(n == -EINVAL && taken == 0 && moved == 0);
      return;
    }
    FUZZ_CHECK(n == -EINVAL || n == -E2BIG || static_cast<std::uint64_t>(n) == taken);
    FUZZ_CHECK(taken <= RINGBUF_MAX_DRAIN && (moved & 7) == 0);
    FUZZ_CHECK(moved >= 0 && static_cast<std::uint64_t>(moved) >= taken * RINGBUF_HEADER_SIZE);
  }

  void observe(bool snapshot) {
    watcher_.begin(ring_.c().consumer_pos & ~std::uint64_t{7});
    const auto show = [&](std::uint64_t pos, std::uint32_t flags, std::uint32_t slot, const void* data, std::size_t size) {
      return watcher_.show(pos, flags, slot, data, size);
    };
    const std::int64_t n = snapshot ? observer_.snapshot(show) : observer_.dump(show);
    if (watcher_.result()) FUZZ_CHECK(n == watcher_.result());
    else FUZZ_CHECK(n == -EBADMSG || (snapshot && n == -EAGAIN) || (n >= 0 && static_cast<std::uint64_t>(n) == watcher_.shown()));
  }

  void step() {
    switch (in_.below(8)) {
      case 0:
      case 1: return consume();
      case 2: return drain();
      case 3: return observe(false);
      case 4: return observe(true);
      case 5: {
        consumer_.must_not_sleep();
        (void)consumer_.maybe_work();
        return;
      }
      case 6: {
        FUZZ_CHECK(consumer_.reset() >= 0);
        FUZZ_CHECK((ring_.c().consumer_pos & 7) == 0);
        return;
      }
      default: return ring_.forge(in_);
    }
  }

 private:
  ForgedRing& ring_;
  Input& in_;
  const shm::Consumer consumer_;
  const shm::Observer observer_;
  Witness witness_, watcher_;
};

}  // namespace
}  // namespace ringbuf::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ringbuf;
  static fuzz::ForgedRing ring;
  fuzz::Input in(data, size);
  const bool user = in.flip();
  ring.clear(user ? shm::kTypeUserRingbuf : shm::kTypeRingbuf, 0, user ? RINGBUF_F_SINGLE_PRODUCER : 0);
  ring.fill(in);
  for (unsigned n = in.below(8); n > 0; --n) ring.forge(in);
  fuzz::Session session(ring, in);
  do session.step();
  while (!in.empty());
  return 0;
}
