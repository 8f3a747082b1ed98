// SPDX-License-Identifier: MIT
// First figures, with Google Benchmark: the full wake rule, several producers allowed, libringbuf's public C++ API.
//   BackToBack/SIZE      one thread produces 500 records, then consumes them: no transfers between cores, no wakeups
//   OwnerWord/KIND       the same with 8 bytes, by who holds the right to reserve: 0 one producer, no owner word; 1 an owner word
//                        that the kernel does not know (another pid namespace); 2 a robust one
//   KernelBackToBack/SIZE  the same on the kernel's ring of this machine, where bpf(2) is permitted
//   CrossProcess/SIZE/RING  another process produces, this one polls; they sit on CPU 1 and CPU 0
// Every byte of a payload is written and every cache line of it is read. `ns_record` is the figure; `line_ns` is what one cache
// line costs one way between the two CPUs just before and just after, the larger of both: a host that has moved them apart shows
// there.
#include <benchmark/benchmark.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>

#include "kernel_ring.hpp"
#include "ringbuf/ringbuf.hpp"

namespace {

using ringbuf::shm::cpu_relax;
using ringbuf::shm::now_ns;

constexpr std::uint32_t kRing = 512 * 1024;
constexpr std::uint32_t kBatch = 500;

template <class T>
T must(ringbuf::Expected<T> made) {
  if (made) return std::move(*made);
  std::fprintf(stderr, "%s\n", made.error().what.c_str());
  std::exit(1);
}

void pin_to(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  ::sched_setaffinity(0, sizeof set, &set);
}

template <class T>
class Shared {  // one T in memory that children see
 public:
  Shared() : at_(new (::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) T{}) {}
  ~Shared() { ::munmap(at_, sizeof(T)); }
  Shared(const Shared&) = delete;
  T* operator->() { return at_; }

 private:
  T* at_;
};

template <class F>
pid_t child_on_cpu_1(F&& f) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    pin_to(1);
    f();
    ::_exit(0);
  }
  return pid;
}

// Nanoseconds that one cache line takes one way between CPU 0 and CPU 1.
double line_ns() {
  struct Lines {
    alignas(128) std::atomic<unsigned> ping{0};
    alignas(128) std::atomic<unsigned> pong{0};
  };
  constexpr unsigned kTurns = 100'000;
  Shared<Lines> lines;
  const pid_t pid = child_on_cpu_1([&] {
    for (unsigned i = 1; i <= kTurns; ++i) {
      while (lines->ping.load(std::memory_order_acquire) != i) {}
      lines->pong.store(i, std::memory_order_release);
    }
  });
  const std::uint64_t begin = now_ns();
  for (unsigned i = 1; i <= kTurns; ++i) {
    lines->ping.store(i, std::memory_order_release);
    while (lines->pong.load(std::memory_order_acquire) != i) {}
  }
  const double each = static_cast<double>(now_ns() - begin) / (2.0 * kTurns);
  ::waitpid(pid, nullptr, 0);
  return each;
}

// A callback that reads one word of each cache line.
struct Reader {
  std::uint64_t sum = 0;
  int operator()(void* data, std::size_t size) {
    const auto* words = static_cast<const volatile std::uint64_t*>(data);
    for (std::size_t i = 0; i < size / 8; i += 8) sum += words[i];
    return 0;
  }
};

void report(benchmark::State& state, std::uint64_t records, double seconds) {
  state.SetItemsProcessed(static_cast<std::int64_t>(records));
  state.counters["ns_record"] = seconds * 1e9 / static_cast<double>(records);
}

void BackToBack(benchmark::State& state) {
  const auto size = static_cast<std::size_t>(state.range(0));
  auto map = must(ringbuf::Map::create_embedded("bench", kRing));
  auto producer = must(ringbuf::Producer::attach(map));
  auto consumer = must(ringbuf::Consumer::attach(map));
  const std::size_t batch = std::min<std::size_t>(kBatch, kRing / (size + 16));
  Reader reader;
  std::uint64_t records = 0;
  const std::uint64_t begin = now_ns();
  for (auto _ : state) {
    for (std::size_t i = 0; i < batch; ++i) {
      auto r = producer.reserve(size);
      if (!r) return state.SkipWithError("the ring was full");
      std::memset(r.data(), static_cast<int>(i), size);
      r.submit();
    }
    records += static_cast<std::uint64_t>(consumer.consume(reader));
  }
  report(state, records, static_cast<double>(now_ns() - begin) * 1e-9);
  benchmark::DoNotOptimize(reader.sum);
}

void OwnerWord(benchmark::State& state) {
  ringbuf_map_create_opts opts{};
  opts.sz = sizeof opts;
  if (state.range(0) == 0) opts.ring_flags = RINGBUF_F_SINGLE_PRODUCER;
  auto map = must(ringbuf::Map::create_embedded("bench", kRing, &opts));
  auto attached = must(ringbuf::Producer::attach(map));
  auto consumer = must(ringbuf::Consumer::attach(map));
  ringbuf_view view = *ringbuf_producer_view(attached.get());
  view.robust = state.range(0) == 2;
  const ringbuf::shm::Producer producer(view);
  Reader reader;
  std::uint64_t records = 0;
  const std::uint64_t begin = now_ns();
  for (auto _ : state) {
    for (std::uint32_t i = 0; i < kBatch; ++i) {
      void* r = producer.reserve(8, 0);
      if (!r) return state.SkipWithError("the ring was full");
      std::memset(r, static_cast<int>(i), 8);
      producer.submit(r, 0);
    }
    records += static_cast<std::uint64_t>(consumer.consume(reader));
  }
  report(state, records, static_cast<double>(now_ns() - begin) * 1e-9);
  benchmark::DoNotOptimize(reader.sum);
}

void KernelBackToBack(benchmark::State& state) {
  const auto size = static_cast<std::uint32_t>(state.range(0));
  KernelRing ring(kRing, size, std::min(kBatch, kRing / (size + 16)));
  if (!ring.ok()) return state.SkipWithError(ring.why().c_str());
  std::uint64_t sum = 0, records = 0;
  const std::uint64_t begin = now_ns();
  for (auto _ : state) {
    if (ring.produce() == 0) return state.SkipWithError("the program reserved nothing");
    records += ring.consume(&sum);
  }
  report(state, records, static_cast<double>(now_ns() - begin) * 1e-9);
  benchmark::DoNotOptimize(sum);
}

// The consumer looks again some microseconds after it has caught up, so that it takes records by the hundred and does not pull at
// the lines that the producer is writing.
void CrossProcess(benchmark::State& state) {
  if (::sysconf(_SC_NPROCESSORS_ONLN) < 2) return state.SkipWithError("needs two CPUs");
  constexpr std::uint64_t kRecords = 1'000'000;
  const auto size = static_cast<std::size_t>(state.range(0));
  auto map = must(ringbuf::Map::create_embedded("bench", static_cast<std::uint32_t>(state.range(1))));
  auto consumer = must(ringbuf::Consumer::attach(map));
  struct Gate {
    std::atomic<unsigned> go{0};
    std::atomic<bool> end{false};
  };
  Shared<Gate> gate;
  const double line_before = line_ns();
  const pid_t pid = child_on_cpu_1([&] {
    auto producer = must(ringbuf::Producer::attach(map));
    for (unsigned round = 1; !gate->end; ++round) {
      while (gate->go.load(std::memory_order_acquire) != round)
        if (gate->end) return;
      for (std::uint64_t i = 0; i < kRecords; ++i) {
        void* data;
        auto r = producer.reserve(size);
        while (!r) {
          for (int spin = 0; spin < 10; ++spin) cpu_relax();
          r = producer.reserve(size);
        }
        data = r.data();
        std::memset(data, static_cast<int>(i), size);
        r.submit();
      }
    }
  });
  pin_to(0);
  Reader reader;
  std::uint64_t records = 0;
  double seconds = 0;
  unsigned round = 0;
  for (auto _ : state) {
    const std::uint64_t begin = now_ns();
    gate->go.store(++round, std::memory_order_release);
    for (std::uint64_t got = 0; got < kRecords;) {
      got += static_cast<std::uint64_t>(consumer.consume(reader));
      for (int spin = 0; spin < 400 && got < kRecords; ++spin) cpu_relax();
    }
    const double took = static_cast<double>(now_ns() - begin) * 1e-9;
    seconds += took;
    records += kRecords;
    state.SetIterationTime(took);
  }
  gate->end = true;
  ::waitpid(pid, nullptr, 0);
  report(state, records, seconds);
  state.counters["line_ns"] = std::max(line_before, line_ns());
  benchmark::DoNotOptimize(reader.sum);
}

BENCHMARK(BackToBack)->Arg(8)->Arg(64)->Arg(1024);
BENCHMARK(OwnerWord)->Arg(0)->Arg(1)->Arg(2);
BENCHMARK(KernelBackToBack)->Arg(8)->Arg(64)->Arg(1024);
BENCHMARK(CrossProcess)->ArgsProduct({{8, 64, 1024}, {512 * 1024, 4 * 1024 * 1024}})->UseManualTime();

}  // namespace

BENCHMARK_MAIN();
