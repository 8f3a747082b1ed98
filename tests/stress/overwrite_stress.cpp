// SPDX-License-Identifier: MIT
// Overwrite mode under producers that lap their reader all the time: every record that is believed must be whole and in order,
// and every record must be delivered, missed or still in the ring. Built as shipped and, to show that the check can fail, without
// S7.
//
//   overwrite_stress_asbuilt SCENARIO              exits 1 if a record was torn, lost without count, or out of order
//   overwrite_stress_weak_s7 SCENARIO --must-tear  ends when a torn record was believed; exits 1 if none was in 60 s
//   RINGBUF_STRESS_SECONDS=60 ...                  for longer (default 3)
//
// SCENARIO: reader    a consumer that is slow, so that producers lap it
//           snapshot  an observer that takes one snapshot after the other
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "support/payload.hpp"
#include "support/test_ring.hpp"

namespace ringbuf::shm {
namespace {

using test::mix;
using test::Payload;
using test::TestRing;

constexpr std::uint32_t kProducers = 3;
constexpr std::uint32_t kSize = 8192;

double seconds() {
  const char* text = std::getenv("RINGBUF_STRESS_SECONDS");
  return text ? std::atof(text) : 3;
}

// Numbers its records and writes as fast as it can: 33 to 600 bytes, every 13th discarded.
struct Writer {
  std::uint64_t committed = 0, submitted = 0;

  void run(const Producer& producer, std::uint8_t id, const std::atomic<bool>& stop) {
    ringbuf_lost why;
    while (!stop.load(std::memory_order_relaxed)) {
      const std::uint64_t size = Payload::kHead + mix(committed * 8 + id) % 568;
      void* p = producer.reserve(size, 0, &why);
      if (!p) continue;  // an uncommitted record of another writer is in the way
      Payload{id, committed, 0, 0}.fill(p, size);
      if (committed++ % 13 == 12) {
        producer.discard(p, RINGBUF_NO_WAKEUP);
      } else {
        producer.submit(p, RINGBUF_NO_WAKEUP);
        ++submitted;
      }
    }
  }
};

// What readers have found.
struct Verdict {
  std::uint64_t seen = 0, disordered = 0, corrupt = 0;
  std::atomic<std::uint64_t> torn{0};  // also looked at while the reader runs

  // Checks the record and returns who wrote it, as which one; false if it is not whole.
  bool check(const void* data, std::size_t size, Payload& p) {
    ++seen;
    p = {};
    if (size >= Payload::kHead) {
      p.producer = *static_cast<const unsigned char*>(data);
      std::memcpy(&p.seq, static_cast<const unsigned char*>(data) + 1, sizeof p.seq);
      if (p.producer >= 1 && p.producer <= kProducers && p.verify(data, size)) return true;
    }
    ++torn;
    return false;
  }
};

void work(std::uint64_t n) {
  for (volatile std::uint64_t i = 0; i < n;) i = i + 1;
}

void read_slowly(TestRing& ring, const Mapping& mapping, const std::atomic<bool>& stop, Verdict& verdict) {
  const Consumer consumer(ring.consumer_view(mapping));
  std::uint64_t next[kProducers + 1] = {};
  const auto take = [&](void* data, std::size_t size) {
    Payload p;
    if (verdict.check(data, size, p)) {
      verdict.disordered += p.seq < next[p.producer];
      next[p.producer] = p.seq + 1;
    }
    work(mix(verdict.seen) % 4000);
    return 0;
  };
  while (!stop.load(std::memory_order_relaxed)) {
    const std::int64_t n = consumer.consume(take, 100);
    verdict.corrupt += n < 0;
    if (n < 0) consumer.reset();
  }
}

// All that a ring holds is contiguous, so of each producer without a gap, discarded records included.
void take_snapshots(const TestRing& ring, const Mapping& mapping, const std::atomic<bool>& stop, Verdict& verdict) {
  const Observer observer = ring.observer(mapping);
  while (!stop.load(std::memory_order_relaxed)) {
    std::uint64_t next_pos = 0, next[kProducers + 1] = {};
    const std::int64_t n =
        observer.snapshot([&](std::uint64_t pos, std::uint32_t, std::uint32_t, const void* data, std::size_t size) {
          verdict.disordered += next_pos != 0 && pos != next_pos;
          next_pos = pos + stride(size);
          Payload p;
          if (!data) {
            std::memset(next, 0, sizeof next);  // not committed: nobody knows whose it will be
          } else if (verdict.check(data, size, p)) {
            verdict.disordered += next[p.producer] != 0 && p.seq != next[p.producer];
            next[p.producer] = p.seq + 1;
          }
          return 0;
        });
    verdict.corrupt += n == -EBADMSG;
  }
}

int run(std::string_view scenario, bool must_tear) {
  TestRing ring(kSize, kProducers, 0, kTypeRingbuf, kFlagOverwrite);
  // A mapping of its own, as another process has, also hides the races that S7 is for from ThreadSanitizer.
  const Mapping mapping = ring.map(Mapping::Access::ReadWrite, Mapping::Access::ReadWrite);
  std::atomic<bool> stop{false}, read_stop{false};
  std::vector<Writer> writers(kProducers);
  std::vector<std::thread> threads;
  for (std::uint32_t i = 0; i < kProducers; ++i)
    threads.emplace_back([&, i] { writers[i].run(ring.producer(i + 1), static_cast<std::uint8_t>(i + 1), stop); });
  Verdict verdict;
  std::thread reader([&] {
    scenario == "reader" ? read_slowly(ring, mapping, read_stop, verdict) : take_snapshots(ring, mapping, read_stop, verdict);
  });
  const std::uint64_t end = now_ns() + static_cast<std::uint64_t>((must_tear ? 60 : seconds()) * 1e9);
  while (now_ns() < end && !(must_tear && verdict.torn != 0)) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  stop = true;
  for (std::thread& t : threads) t.join();
  read_stop = true;
  reader.join();

  std::uint64_t committed = 0, submitted = 0;
  for (const Writer& w : writers) committed += w.committed, submitted += w.submitted;
  const Ring shared = ring.ring();
  std::uint64_t accounted = submitted;
  if (scenario == "reader") {
    ring.consumer().consume([](void*, std::size_t) { return 0; }, UINT64_MAX);
    accounted = shared.records() + shared.missed_records();
  }
  std::printf("%.*s:", static_cast<int>(scenario.size()), scenario.data());
  const auto print = [](std::uint64_t n, const char* what) { std::printf(" %llu %s", static_cast<unsigned long long>(n), what); };
  print(committed, "records committed,");
  print(shared.overwritten().records, "overwritten,");
  print(verdict.seen, "read,");
  print(shared.missed_records(), "missed;");
  print(verdict.torn, "torn,");
  print(verdict.disordered, "out of order,");
  print(verdict.corrupt, "corrupt,");
  print(submitted - accounted, "not accounted for\n");
  if (must_tear) return verdict.torn != 0 ? 0 : 1;
  const bool tried = verdict.seen > 1000 && shared.overwritten().records > 1000;  // else nothing was tested
  return verdict.torn == 0 && verdict.disordered == 0 && verdict.corrupt == 0 && submitted == accounted && tried ? 0 : 1;
}

}  // namespace
}  // namespace ringbuf::shm

int main(int argc, char** argv) {
  const std::string_view scenario = argc > 1 ? argv[1] : "";
  const bool must_tear = argc == 3 && std::string_view(argv[2]) == "--must-tear";
  if ((scenario != "reader" && scenario != "snapshot") || argc > (must_tear ? 3 : 2)) {
    std::fprintf(stderr, "usage: %s reader|snapshot [--must-tear]\n", argv[0]);
    return 2;
  }
  return ringbuf::shm::run(scenario, must_tear);
}
