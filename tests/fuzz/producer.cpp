// SPDX-License-Identifier: MIT
// A producer beside arbitrary words of the consumer and of other producers: reserve, with and without waiting, submit, discard,
// output, query. It writes inside the ring only, ends, fails with a documented errno, and as long as only the consumer lies, no
// two open reservations overlap.
#include "ringbuf/shm/producer.hpp"

#include <sys/eventfd.h>

#include <memory>

#include "fuzz/forged_ring.hpp"
#include "fuzz/virtual_time.hpp"
#include "shm/room.hpp"

namespace ringbuf::fuzz {
namespace {

class Session {
 public:
  Session(ForgedRing& ring, Input& in, const ringbuf_view& view) : ring_(ring), in_(in), producer_(view), room_(producer_) {
    begin_time([this] {
      if (!in_.empty() && in_.flip()) forge();
    });
  }
  ~Session() { begin_time({}); }

  void forge() {
    if (in_.flip()) return ring_.forge(in_, ForgedRing::kInC);
    honest_ = false;
    ring_.forge(in_);
  }

  void step() {
    switch (in_.below(8)) {
      case 0: {
        const std::uint64_t n = size();
        return taken(n, producer_.reserve(n, in_.below(16) == 15));
      }
      case 1: {
        const unsigned timeout_ms = in_.flip() ? 0 : in_.byte();
        const std::uint64_t n = size(), begin = virtual_ns();
        taken(n, room_.reserve(n, static_cast<int>(timeout_ms)));
        FUZZ_CHECK(virtual_ns() - begin <= std::uint64_t{timeout_ms} * 1'000'000 + kMostNs);
        return;
      }
      case 2:
      case 3: {
        if (open_.empty()) return;
        const std::size_t i = in_.below(256) % open_.size();
        const Open gone = open_[i];
        open_.erase(open_.begin() + static_cast<std::ptrdiff_t>(i));
        const std::uint64_t flags = in_.below(4);
        in_.flip() ? producer_.submit(gone.payload, flags) : producer_.discard(gone.payload, flags);
        if (honest_) FUZZ_CHECK(!(ring_.header(gone.pos).len & RINGBUF_BUSY_BIT));
        return;
      }
      case 4: {
        unsigned char bytes[300] = {};
        const std::size_t n = in_.byte();
        const std::uint64_t flags = in_.below(8);
        const int r = producer_.output(bytes, n, flags);
        FUZZ_CHECK(flags > 3 ? r == -EINVAL : r == 0 || r == -EAGAIN);
        return;
      }
      case 5: {
        const std::uint64_t what = in_.below(8), answer = producer_.query(what);
        if (what == RINGBUF_RING_SIZE) FUZZ_CHECK(answer == ForgedRing::kSize);
        if (what == RINGBUF_CONS_POS) FUZZ_CHECK(answer == ring_.c().consumer_pos);
        if (what > RINGBUF_OVERWRITE_POS) FUZZ_CHECK(answer == 0);
        return;
      }
      default: return forge();
    }
  }

 private:
  struct Open {
    void* payload;
    std::uint64_t pos, size;
  };
  // Both looks may find the owner's word taken; and the clock moves when it is looked at.
  static constexpr std::uint64_t kMostNs = 2 * shm::Section::kPatienceNs + 20'000'000;

  std::uint64_t size() {
    switch (in_.below(4)) {
      case 0: return in_.take<std::uint64_t>();
      case 1: return in_.take<std::uint16_t>() % (2 * ForgedRing::kSize);
      case 2: return ForgedRing::kSize - in_.below(32);
      default: return in_.byte();
    }
  }
  bool documented(int err) const {
    const bool waits = err == ETIMEDOUT || err == EINTR;
    return err == EINVAL || err == E2BIG || err == EDEADLK || err == EBUSY || waits ||
           err == (producer_.user() ? ENOSPC : EAGAIN);
  }
  void taken(std::uint64_t size, void* payload) {
    if (!payload) {
      FUZZ_CHECK(documented(errno));
      return;
    }
    FUZZ_CHECK(reinterpret_cast<std::uintptr_t>(payload) % 8 == 0);
    const std::uint64_t pos = ring_.offset_of_payload(ForgedRing::kProducer, payload, size) - RINGBUF_HEADER_SIZE;
    if (honest_ && !producer_.user())
      for (const Open& other : open_)
        FUZZ_CHECK(shm::offset(pos - other.pos, ForgedRing::kSize - 1) >= shm::stride(other.size) &&
                   shm::offset(other.pos - pos, ForgedRing::kSize - 1) >= shm::stride(size));
    std::memset(payload, static_cast<int>(open_.size()), size);
    open_.push_back({payload, pos, size});
  }

  ForgedRing& ring_;
  Input& in_;
  const shm::Producer producer_;
  shm::RoomWaiter room_;
  bool honest_ = true;  // P was written by this producer only
  std::vector<Open> open_;
};

}  // namespace
}  // namespace ringbuf::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ringbuf;
  static fuzz::ForgedRing ring;
  static const int signal = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  fuzz::Input in(data, size);
  const unsigned mode = in.below(4);
  const bool user = mode == 3;
  ring.clear(user ? shm::kTypeUserRingbuf : shm::kTypeRingbuf, mode == 2 ? shm::kFlagOverwrite : 0,
             mode == 1 || user ? RINGBUF_F_SINGLE_PRODUCER : 0);
  ring.fill(in);
  ringbuf_view view = ring.view(fuzz::ForgedRing::kProducer);
  view.signal_fd = signal;
  view.robust = in.flip();
  shm::tls = {};
  fuzz::Session session(ring, in, view);
  do session.step();
  while (!in.empty());
  return 0;
}
