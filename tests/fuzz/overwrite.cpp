// SPDX-License-Identifier: MIT
// The readers of a ring in overwrite mode beside words that change: overwrite_pos, overwritten[], positions and headers, between
// the calls and while callbacks run. What is delivered is a copy of what was there.
#include "fuzz/witness.hpp"
#include "ringbuf/shm/consumer.hpp"
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
        witness_(ring, in) {}

  void consume() {
    const std::uint64_t limit = in_.flip() ? 1 + in_.below(8) : UINT64_MAX;
    witness_.can_skip_discarded = true;
    witness_.begin(oldest());
    bool left = false;
    const std::int64_t n =
        consumer_.consume([&](void* p, std::size_t size) { return witness_.take(p, size, true); }, limit, &left);
    if (witness_.result()) FUZZ_CHECK(n == witness_.result());
    else FUZZ_CHECK(n == -EBADMSG || (n >= 0 && static_cast<std::uint64_t>(n) == witness_.shown()));
    if (n >= 0) FUZZ_CHECK(static_cast<std::uint64_t>(n) <= limit);
    if (witness_.forged()) return;
    if (n >= 0 && !left && !witness_.result() && !before(witness_.end(), oldest())) {
      const std::uint64_t pos = witness_.pos();
      FUZZ_CHECK(pos == witness_.end() || witness_.busy());
      FUZZ_CHECK(ring_.c().consumer_pos == pos);
    }
  }

  void observe(bool snapshot) {
    witness_.can_skip_discarded = false;
    witness_.begin((snapshot ? ring_.p().overwrite_pos : oldest()) & ~std::uint64_t{7});
    const auto show = [&](std::uint64_t pos, std::uint32_t flags, std::uint32_t slot, const void* data, std::size_t size) {
      return witness_.show(pos, flags, slot, data, size);
    };
    const std::int64_t n = snapshot ? observer_.snapshot(show) : observer_.dump(show);
    if (witness_.result()) FUZZ_CHECK(n == witness_.result());
    else FUZZ_CHECK(n == -EBADMSG || (snapshot && n == -EAGAIN) || (n >= 0 && static_cast<std::uint64_t>(n) == witness_.shown()));
    if (n > 0 && !witness_.forged() && !witness_.result() && !before(witness_.end(), ring_.p().overwrite_pos))
      FUZZ_CHECK(witness_.pos() == witness_.end());
    const ringbuf_overwritten o = observer_.ring().overwritten();
    FUZZ_CHECK(o.pos == ring_.p().overwrite_pos);
  }

  void step() {
    switch (in_.below(8)) {
      case 0:
      case 1: return consume();
      case 2: return observe(false);
      case 3: return observe(true);
      case 4: {
        consumer_.must_not_sleep();
        (void)consumer_.maybe_work();
        return;
      }
      case 5: {
        FUZZ_CHECK(consumer_.reset() >= 0);
        return;
      }
      default: return ring_.forge(in_, in_.flip() ? ForgedRing::kInP : ForgedRing::kAnywhere);
    }
  }

 private:
  // Where a reader of what is there now begins.
  std::uint64_t oldest() const {
    const std::uint64_t cons = ring_.c().consumer_pos, over = ring_.p().overwrite_pos;
    return before(cons, over) ? over : cons;
  }
  static bool before(std::uint64_t a, std::uint64_t b) { return shm::Ring::is_before(a, b); }

  ForgedRing& ring_;
  Input& in_;
  const shm::Consumer consumer_;
  const shm::Observer observer_;
  Witness witness_;
};

}  // namespace
}  // namespace ringbuf::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ringbuf;
  static fuzz::ForgedRing ring;
  fuzz::Input in(data, size);
  ring.clear(shm::kTypeRingbuf, shm::kFlagOverwrite, 0);
  ring.fill(in);
  for (unsigned n = in.below(8); n > 0; --n) ring.forge(in);
  fuzz::Session session(ring, in);
  do session.step();
  while (!in.empty());
  return 0;
}
