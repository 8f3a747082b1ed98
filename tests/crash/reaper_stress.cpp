// SPDX-License-Identifier: MIT
// The reaper beside honest producers at full speed, whose payloads are made of words that look like the dead slot's BUSY headers.
// Not one payload word may change. reaper_stress threads|processes [--must-harm]
//
// --must-harm: for the program that is built without the second look at the walk's lower bound. It must change words, so that the
// silence of the other one means something.
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
constexpr std::uint64_t kSeconds = 3, kMaxSeconds = 60;

// Shared by all, also between processes.
struct Progress {
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> records{0}, words{0}, changed{0}, walks{0}, discarded{0}, corrupt{0}, lost{0};
};

// A header of the dead slot's with a short length: a walk that takes it for one goes on to the next.
std::uint64_t bait(std::uint64_t at) {
  const std::uint32_t len = static_cast<std::uint32_t>(at % 3) * 8 | RINGBUF_BUSY_BIT;
  return std::uint64_t{shm::who(0, 12, kDead)} << 32 | len;
}

// Several records are open at a time, so that there is something to walk over.
void produce(const shm::Producer& producer, Progress& progress) {
  std::minstd_rand random(producer.slot());
  std::uint64_t put = 0;
  while (!progress.stop) {
    std::uint64_t* payload[8];
    std::size_t words[8], open = 0;
    for (; open < std::size(payload); ++open) {
      words[open] = 1 + random() % 128;
      payload[open] = static_cast<std::uint64_t*>(producer.reserve(words[open] * 8, 0, &uncounted));
      if (payload[open]) continue;
      progress.lost += errno != EAGAIN;
      break;
    }
    if (open == 0) ::sched_yield();
    for (std::size_t i = 0; i < open; ++i) {
      for (std::size_t at = 0; at < words[i]; ++at) payload[i][at] = bait(at);
      producer.submit(payload[i], 0);
    }
    put += open;
  }
  progress.records += put;
}

// From the beginning again and again, in the smallest slices: others pass by between any two.
void reap(const ringbuf_view& view, Progress& progress) {
  while (!progress.stop) {
    shm::Recovery recovery(view, kDead);
    while (!recovery.step(1)) {}
    progress.discarded += recovery.records();
    progress.corrupt += recovery.corrupt() != nullptr;
    ++progress.walks;
  }
}

void consume(const shm::Consumer& consumer, Progress& progress) {
  std::uint64_t changed = 0, words = 0;
  while (!progress.stop) {
    const std::int64_t n = consumer.consume(
        [&](void* data, std::size_t size) {
          for (std::uint64_t i = 0; i < size / 8; ++i) {
            std::uint64_t word;
            std::memcpy(&word, static_cast<char*>(data) + i * 8, sizeof word);
            changed += word != bait(i);
          }
          words += size / 8;
          return 0;
        },
        UINT64_MAX);
    if (n < 0) {  // a weakened reaper may hit headers, too
      ++changed;
      consumer.reset();
    }
    progress.changed = changed;
    progress.words = words;
    if (n == 0) ::sched_yield();
  }
}

int run(bool processes, bool must_harm) {
  TestRing ring(kN, kProducers + 1);
  void* memory = ::mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  require(memory != MAP_FAILED, "mmap");
  Progress& progress = *new (memory) Progress;
  const Mapping daemon = ring.map(Mapping::Access::ReadOnly, Mapping::Access::ReadWrite);

  std::vector<std::function<void()>> parts;
  for (std::uint32_t i = 0; i < kProducers; ++i) parts.push_back([&, i] { produce(ring.producer(kDead + 1 + i), progress); });
  parts.push_back([&] { reap(daemon.view(), progress); });
  parts.push_back([&] { consume(ring.consumer(), progress); });
  std::vector<std::unique_ptr<ChildProcess>> children;
  std::vector<std::thread> threads;
  for (const auto& part : parts) {
    if (processes) children.push_back(std::make_unique<ChildProcess>([&] { return part(), 0; }));
    else threads.emplace_back(part);
  }
  const std::uint64_t begin = shm::now_ns();
  const auto seconds = [&] { return (shm::now_ns() - begin) / 1'000'000'000u; };
  while (must_harm ? progress.changed == 0 && seconds() < kMaxSeconds : seconds() < kSeconds) ::usleep(10'000);
  const std::uint64_t took = seconds();
  progress.stop = true;
  for (auto& t : threads) t.join();
  bool ok = true;
  for (auto& c : children) ok = c->exit_code() == 0 && ok;

  const auto u = [](std::uint64_t n) { return static_cast<unsigned long>(n); };
  std::printf(
      "%s: %lu words of %lu changed; %lu walks beside %lu records, %lu discarded, %lu ended early, %lu reservations refused; %lu "
      "s\n",
      processes ? "processes" : "threads", u(progress.changed), u(progress.words), u(progress.walks), u(progress.records),
      u(progress.discarded), u(progress.corrupt), u(progress.lost), u(took));
  if (must_harm) return progress.changed != 0 ? 0 : 1;
  // Nobody has reserved with the dead slot, so whatever was discarded was not a record.
  ok = ok && progress.changed == 0 && progress.discarded == 0 && progress.corrupt == 0;
  return ok && progress.walks > 1000 && progress.words > 1'000'000 ? 0 : 1;
}

}  // namespace
}  // namespace ringbuf::test

int main(int argc, char** argv) {
  const bool processes = argc > 1 && std::strcmp(argv[1], "processes") == 0;
  if (argc < 2 || (!processes && std::strcmp(argv[1], "threads") != 0)) {
    std::fprintf(stderr, "usage: reaper_stress threads|processes [--must-harm]\n");
    return 2;
  }
  return ringbuf::test::run(processes, argc > 2 && std::strcmp(argv[2], "--must-harm") == 0);
}
