// SPDX-License-Identifier: MIT
// The reaper beside honest producers at full speed, whose payloads are made of words that look like the dead slot's BUSY headers.
// Again and again there are records of the dead slot among theirs. Those are discarded, all of them and nothing else: not one
// payload word may change, and each record of the honest arrives once and in order. reaper_stress threads|processes [--must-harm]
//
// --must-harm: for the program that is built without the second look at the walk's lower bound. It must change words, so that the
// silence of the other one means something. Both stand still before R1, R2 and R3 until the ring has been lapped.
#include <sys/mman.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "shm/recovery.hpp"
#include "support/child_process.hpp"
#include "support/test_ring.hpp"

namespace ringbuf::test {
namespace {

constexpr std::uint32_t kDead = 1, kProducers = 2, kN = 16 * 4096;
constexpr std::uint64_t kMaxWords = 128, kOpen = 8;  // of an honest record; records of one producer at a time
constexpr std::uint64_t kSeconds = 3, kMaxSeconds = 60;
constexpr std::size_t kReaper = kProducers, kConsumer = kReaper + 1;  // the parts behind the producers
constexpr std::uint64_t kEnough = 20;  // of each thing that must have happened; on an idle machine there are thousands

// Shared by all, also between processes.
struct Progress {
  const std::uint64_t begin = shm::now_ns();
  bool must_harm = false;
  std::atomic<bool> stop{false}, last{false};
  std::atomic<std::uint64_t> put[kProducers]{}, got[kProducers]{}, refused{0};
  std::atomic<std::uint64_t> words{0}, changed{0}, misplaced{0};
  std::atomic<std::uint64_t> walks{0}, left{0}, left_bytes{0}, discarded{0}, discarded_bytes{0}, inexact{0}, corrupt{0};
  std::atomic<std::uint64_t> met{0};                        // open records of the honest
  std::atomic<std::uint64_t> lapped[4]{}, orphan_ahead{0};  // how a wait before R1, R2, R3 has ended

  bool wrong() const { return changed != 0 || misplaced != 0 || inexact != 0 || corrupt != 0; }
  bool enough() const {
    return lapped[1] >= kEnough && lapped[2] >= kEnough && lapped[3] >= kEnough && orphan_ahead >= kEnough &&
           met >= 10 * kEnough && left >= 10 * kEnough && words > 1'000'000;
  }
  double seconds() const { return static_cast<double>(shm::now_ns() - begin) / 1e9; }
  // Asked by the reaper all the time; the others end when it does.
  bool over() const {
    return seconds() >= kMaxSeconds || (must_harm ? changed != 0 : wrong() || (seconds() >= kSeconds && enough()));
  }
};
Progress* shared = nullptr;

// The n-th record of a producer. What its payload has room for.
std::uint32_t id_of(std::uint64_t n, std::uint32_t producer) {
  return static_cast<std::uint32_t>(n * kProducers + producer) & ((1u << RINGBUF_PG_OFF_BITS) - 1);
}
std::uint64_t words_of(std::uint32_t id) { return 1 + (id * 2654435761u >> 16) % kMaxWords; }

// A header of the dead slot's with a short length: a walk that takes it for one goes on to the next. A header's page offset,
// which no walk looks at, is the record's id here.
std::uint64_t bait(std::uint64_t at, std::uint32_t id) {
  const std::uint32_t len = static_cast<std::uint32_t>(at % 3) * 8 | RINGBUF_BUSY_BIT;
  return std::uint64_t{kDead << RINGBUF_PG_OFF_BITS | id} << 32 | len;
}
std::uint32_t id_in(std::uint64_t word) { return static_cast<std::uint32_t>(word >> 32) & ((1u << RINGBUF_PG_OFF_BITS) - 1); }

// Several records are open at a time, so that there is something to walk over, and now and then while others run.
void produce(const shm::Producer& producer, std::uint32_t me, Progress& progress) {
  std::uint64_t n = 0;
  for (unsigned turn = 0; !progress.stop; ++turn) {
    std::uint64_t* payload[kOpen];
    std::uint64_t open = 0;
    for (; open < kOpen; ++open) {
      payload[open] = static_cast<std::uint64_t*>(producer.reserve(words_of(id_of(n + open, me)) * 8, 0, &uncounted));
      if (payload[open]) continue;
      progress.refused += errno != EAGAIN;
      break;
    }
    if (open == 0 || turn % 16 == 0) ::sched_yield();
    for (std::uint64_t i = 0; i < open; ++i) {
      const std::uint32_t id = id_of(n + i, me);
      for (std::uint64_t at = 0; at < words_of(id); ++at) payload[i][at] = bait(at, id);
      producer.submit(payload[i], 0);
    }
    n += open;
  }
  progress.put[me] = n;
}

// What a producer leaves that dies now: up to three records that nobody will commit. Others reserve in between.
void die(const shm::Producer& dead, std::minstd_rand& random, Progress& progress) {
  for (auto n = random() % 4; n != 0; --n) {
    const std::uint64_t size = random() % 2048;
    auto* payload = static_cast<std::uint64_t*>(dead.reserve(size, 0, &uncounted));
    if (!payload) return;
    for (std::uint64_t at = 0; at < size / 8; ++at) payload[at] = bait(at, 0);
    ++progress.left;
    progress.left_bytes += size;
    ::sched_yield();
  }
}

// In the smallest slices: others pass by between any two.
void reap(const ringbuf_view& view, const shm::Producer& dead, Progress& progress) {
  std::minstd_rand random(kDead);
  while (!progress.over()) {
    die(dead, random, progress);
    shm::Recovery recovery(view, kDead);
    while (!recovery.step(1)) {}
    progress.discarded += recovery.records();
    progress.discarded_bytes += recovery.bytes();
    progress.inexact += progress.discarded != progress.left || progress.discarded_bytes != progress.left_bytes;
    progress.corrupt += recovery.corrupt() != nullptr;
    ++progress.walks;
  }
}

void consume(const shm::Consumer& consumer, Progress& progress) {
  std::uint64_t changed = 0, words = 0, misplaced = 0, got[kProducers] = {};
  const auto check = [&](const void* data, std::size_t size) {
    std::uint64_t word[kMaxWords];
    if (size < sizeof *word || size > sizeof word) return ++misplaced, 0;
    std::memcpy(word, data, size);
    const std::uint32_t id = id_in(word[0]), producer = id % kProducers;
    misplaced += id != id_of(got[producer]++, producer) || size != words_of(id) * 8;
    for (std::uint64_t at = 0; at < size / 8; ++at) changed += word[at] != bait(at, id);
    words += size / 8;
    return 0;
  };
  for (bool last = false; !last;) {
    last = progress.last;
    // Half a ring behind: what is changed where the ring was lapped is still to be read.
    const bool behind = consumer.ring().producer_pos() - consumer.ring().consumer_pos_own() >= kN / 2;
    const std::int64_t n = last || behind ? consumer.consume(check, last ? UINT64_MAX : kOpen) : 0;
    if (n < 0) {  // a weakened reaper may hit headers, too
      ++changed;
      consumer.reset();
    }
    for (std::uint32_t i = 0; i < kProducers; ++i) progress.got[i] = got[i];
    progress.words = words;
    progress.misplaced = misplaced;
    progress.changed = changed;
    if (n == 0) ::sched_yield();
  }
}

// Is there an uncommitted record of the dead slot, or of another?
bool busy(const shm::Ring& ring, std::uint64_t pos, bool dead) {
  return (ring.header_len(pos) & RINGBUF_BUSY_BIT) && (ring.header_who(pos) >> RINGBUF_PG_OFF_BITS == kDead) == dead;
}

// No honest producer gets past the pending_pos, which stays before a record of the dead slot, and the ring is full but for what
// is too little for another record.
bool orphan_ahead(const shm::Ring& ring) {
  const std::uint64_t pending = ring.pending_pos();
  return busy(ring, pending, true) && ring.producer_pos() - pending >= kN - shm::stride(kMaxWords * 8);
}

int run(bool processes, bool must_harm) {
  TestRing ring(kN, kProducers + 1);
  void* memory = ::mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  require(memory != MAP_FAILED, "mmap");
  Progress& progress = *new (memory) Progress;
  shared = &progress;
  progress.must_harm = must_harm;
  const Mapping daemon = ring.map(Mapping::Access::ReadOnly, Mapping::Access::ReadWrite);

  std::vector<std::function<void()>> parts;
  for (std::uint32_t i = 0; i < kProducers; ++i) parts.push_back([&, i] { produce(ring.producer(kDead + 1 + i), i, progress); });
  parts.push_back([&] { reap(daemon.view(), ring.producer(kDead), progress); });
  parts.push_back([&] { consume(ring.consumer(), progress); });
  std::vector<std::unique_ptr<ChildProcess>> children;
  std::vector<std::thread> threads;
  for (const auto& part : parts) {
    if (processes) children.push_back(std::make_unique<ChildProcess>([&] { return part(), 0; }));
    else threads.emplace_back(part);
  }
  bool ok = true;
  const auto end_of = [&](std::size_t part) {
    if (processes) ok = children[part]->exit_code() == 0 && ok;
    else threads[part].join();
  };
  end_of(kReaper);
  const double took = progress.seconds();
  progress.stop = true;
  for (std::size_t i = 0; i < kReaper; ++i) end_of(i);
  progress.last = true;  // the consumer takes what is left when nobody adds to it
  end_of(kConsumer);

  const auto u = [](std::uint64_t n) { return static_cast<unsigned long>(n); };
  std::uint64_t put = 0, got = 0;
  for (std::uint32_t i = 0; i < kProducers; ++i) {
    ok = ok && progress.put[i] == progress.got[i];
    put += progress.put[i];
    got += progress.got[i];
  }
  const std::uint64_t unread = ring.ring().producer_pos() - ring.ring().consumer_pos();
  std::printf(
      "%s: %lu words of %lu changed; %lu of %lu records arrived, %lu not as expected, %lu bytes unread, %lu reservations "
      "refused\n",
      processes ? "processes" : "threads", u(progress.changed), u(progress.words), u(got), u(put), u(progress.misplaced),
      u(unread), u(progress.refused));
  std::printf(
      "  the dead left %lu records, %lu bytes; discarded %lu, %lu, in %lu walks that met %lu open ones of others; %lu "
      "inexact, %lu ended early\n",
      u(progress.left), u(progress.left_bytes), u(progress.discarded), u(progress.discarded_bytes), u(progress.walks),
      u(progress.met), u(progress.inexact), u(progress.corrupt));
  std::printf("  lapped %lu times before R1, %lu before R2, %lu before R3, stopped by the dead's %lu times; %.2f s\n",
              u(progress.lapped[1]), u(progress.lapped[2]), u(progress.lapped[3]), u(progress.orphan_ahead), took);
  if (must_harm) return progress.changed != 0 ? 0 : 1;
  return ok && unread == 0 && !progress.wrong() && progress.enough() ? 0 : 1;
}

}  // namespace
}  // namespace ringbuf::test

// Now and then; else there would be few walks. Until `pos` and up to a quarter of the ring behind it have been reused.
void ringbuf_test_passed_by(unsigned r, const ringbuf::shm::Ring& ring, std::uint64_t pos) noexcept {
  using namespace ringbuf::test;
  static std::minstd_rand random;
  if (r == 3 && busy(ring, pos, false)) ++shared->met;
  if (random() % 16 != 0) return;
  const std::uint64_t to = pos + kN + random() % (kN / 4);
  for (; !shared->over(); ::sched_yield()) {
    const bool lapped = !ringbuf::shm::Ring::is_before(ring.producer_pos(), to);
    if (!lapped && !orphan_ahead(ring)) continue;
    ++(lapped ? shared->lapped[r] : shared->orphan_ahead);
    return;
  }
}

int main(int argc, char** argv) {
  const bool processes = argc > 1 && std::strcmp(argv[1], "processes") == 0;
  if (argc < 2 || (!processes && std::strcmp(argv[1], "threads") != 0)) {
    std::fprintf(stderr, "usage: reaper_stress threads|processes [--must-harm]\n");
    return 2;
  }
  return ringbuf::test::run(processes, argc > 2 && std::strcmp(argv[2], "--must-harm") == 0);
}
