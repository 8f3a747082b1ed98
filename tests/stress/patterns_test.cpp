// SPDX-License-Identifier: MIT
// Many producers, random sizes, random submit, discard and output; threads over one mapping (what ThreadSanitizer can follow) and
// processes with mappings of their own. Each record says who wrote it, as which one, and between which two tickets it was
// reserved: nothing may be lost, doubled, torn or reordered. RINGBUF_STRESS_SECONDS prolongs each case.
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "support/child_process.hpp"
#include "support/fd_leak_guard.hpp"
#include "support/payload.hpp"
#include "support/test_ring.hpp"

namespace ringbuf::test {
namespace {

using shm::Consumer;
using shm::Producer;

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr std::uint64_t kRecords = 4000;
#else
constexpr std::uint64_t kRecords = 100000;  // of all producers together, a round
#endif

enum class Op { Submit, Discard, Output };
struct Plan {
  std::uint64_t size;
  Op op;
  std::uint64_t flags;
};

// What a producer does as its record number `seq`: known to both sides, so that the consumer can tell what is missing.
Plan plan(unsigned producer, std::uint64_t seq, std::uint64_t max_entries) {
  const std::uint64_t r = mix(seq << 8 | producer);
  const std::uint64_t largest = max_entries - 16, any = mix(r);
  const unsigned kind = r % 256;
  std::uint64_t size = any % 65;
  if (kind >= 250) size = any % (largest + 1);  // all that is possible
  else if (kind >= 200) size = any % (std::min<std::uint64_t>(largest, 1024) + 1);
  if (max_entries > 65536 && kind >= 252) size = any % 8192;  // a mebibyte each would take all the time
  if (kind == 255 && seq % 8 == 0) size = largest;
  const Op op = (r >> 8) % 8 == 0 ? Op::Discard : (r >> 8) % 8 == 1 ? Op::Output : Op::Submit;
  return {size, op, (r >> 16) % 4 == 0 ? RINGBUF_NO_WAKEUP : 0};
}

struct Case {
  unsigned producers;
  bool processes;
  std::uint32_t max_entries;
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.producers << (c.processes ? " processes, " : " threads, ") << c.max_entries << " bytes";
}

// Shared between processes.
struct Shared {
  std::atomic<std::uint64_t> ticket{1};
  std::atomic<unsigned> done{0};
};

void produce(const Producer& producer, unsigned id, std::uint64_t begin, std::uint64_t end, std::uint64_t max_entries,
             Shared& shared) {
  std::vector<unsigned char> copy(max_entries);
  for (std::uint64_t seq = begin; seq != end; ++seq) {
    const Plan p = plan(id, seq, max_entries);
    Payload payload;
    payload.producer = static_cast<std::uint8_t>(id);
    payload.seq = seq;
    if (p.op == Op::Output) {
      payload.ended = UINT64_MAX;  // output does not say when it has reserved
      do {
        payload.began = shared.ticket.fetch_add(1);
        payload.fill(copy.data(), p.size);
      } while (producer.output(copy.data(), p.size, p.flags) != 0 && ::sched_yield() == 0);
      continue;
    }
    void* to = nullptr;
    do {
      payload.began = shared.ticket.fetch_add(1);
      to = producer.reserve(p.size, 0, &test::uncounted);
    } while (!to && ::sched_yield() == 0);
    payload.ended = shared.ticket.fetch_add(1);
    payload.fill(to, p.size);
    if (p.op == Op::Submit) producer.submit(to, p.flags);
    else producer.discard(to, p.flags);
  }
  ++shared.done;
}

class Checker {
 public:
  Checker(const Case& c, std::uint64_t begin, std::uint64_t end) : case_(c), end_(end), next_(c.producers, begin) {
    for (unsigned id = 0; id < c.producers; ++id)
      for (std::uint64_t seq = begin; seq != end; ++seq) {
        const Plan p = plan(id, seq, c.max_entries);
        empty_expected_ += p.op != Op::Discard && p.size == 0;
      }
  }

  int take(const void* data, std::size_t size) {
    if (size == 0) {
      ++empty_;
      return 0;
    }
    const unsigned id = *static_cast<const unsigned char*>(data);
    if (id >= case_.producers) return fail("an unknown producer", id, size);
    skip(id);
    if (next_[id] == end_) return fail("a record too many", id, size);
    if (plan(id, next_[id], case_.max_entries).size != size)
      return fail("another size than expected: lost, doubled or reordered", id, size);
    Payload payload;
    payload.producer = static_cast<std::uint8_t>(id);
    payload.seq = next_[id];
    if (!payload.verify(data, size)) return fail("wrong bytes", id, size);
    if (size >= Payload::kHead) {
      if (payload.ended < newest_) return fail("it was reserved before one that was delivered earlier", id, size);
      newest_ = std::max(newest_, payload.began);
    }
    ++next_[id];
    return 0;
  }
  void finish() {
    for (unsigned id = 0; id < case_.producers; ++id) {
      skip(id);
      EXPECT_EQ(next_[id], end_) << "records of producer " << id << " are missing";
    }
    EXPECT_EQ(empty_, empty_expected_) << "empty records";
    EXPECT_EQ(error_, "");
  }
  bool failed() const { return !error_.empty(); }

 private:
  // Over records that are not delivered, or that carry no name.
  void skip(unsigned id) {
    while (next_[id] != end_) {
      const Plan p = plan(id, next_[id], case_.max_entries);
      if (p.op != Op::Discard && p.size != 0) return;
      ++next_[id];
    }
  }
  int fail(const char* what, unsigned id, std::size_t size) {
    error_ = std::string(what) + ": producer " + std::to_string(id) + ", expected record " +
             std::to_string(id < next_.size() ? next_[id] : 0) + ", got " + std::to_string(size) + " bytes";
    return -1;
  }

  const Case case_;
  const std::uint64_t end_;
  std::vector<std::uint64_t> next_;
  std::uint64_t newest_ = 0, empty_ = 0, empty_expected_ = 0;
  std::string error_;
};

class Patterns : public ::testing::TestWithParam<Case> {};

void round(const Case& c, std::uint64_t number, Shared& shared) {
  TestRing ring(c.max_entries, c.producers);
  const std::uint64_t each = kRecords / c.producers, begin = number * each, end = begin + each;
  shared.done = 0;
  Checker checker(c, begin, end);
  std::vector<ChildProcess> children;
  std::vector<std::thread> threads;
  for (unsigned id = 0; id < c.producers; ++id) {
    if (c.processes) {
      children.emplace_back([&] {
        const Mapping own = ring.map(Mapping::Access::ReadOnly, Mapping::Access::ReadWrite);
        produce(Producer(ring.producer_view(own, id + 1)), id, begin, end, c.max_entries, shared);
        return 0;
      });
    } else {
      threads.emplace_back([&, id] { produce(ring.producer(id + 1), id, begin, end, c.max_entries, shared); });
    }
  }
  Mapping own;
  if (c.processes) own = ring.map(Mapping::Access::ReadWrite, Mapping::Access::ReadOnly);
  const Consumer consumer = c.processes ? Consumer(ring.consumer_view(own)) : ring.consumer();
  const auto alive = [&] {
    bool any = !c.processes;
    for (auto& child : children) any |= child.running();
    return any;
  };
  const auto drain = [&] {
    return consumer.consume([&](void* data, std::size_t size) { return checker.take(data, size); }, INT32_MAX);
  };
  std::int64_t n = 0;
  bool all = false;
  while (n >= 0) {
    n = drain();
    if (n != 0) continue;
    if (all) break;
    all = shared.done == c.producers || !alive();  // then once more: the last ones committed before they said so
    if (!all) ::sched_yield();
  }
  EXPECT_GE(n, 0);
  // After a failure the rest is only taken away, so that threads come to their end.
  while (n < 0 && !c.processes && shared.done != c.producers)
    if (consumer.consume([](void*, std::size_t) { return 0; }, INT32_MAX) < 0) consumer.reset();
  for (auto& t : threads) t.join();
  for (auto& child : children) {  // after a failure their destructors kill them
    if (n >= 0) {
      EXPECT_EQ(child.exit_code(), 0);
    }
  }
  checker.finish();
  if (n < 0) return;
  EXPECT_EQ(ring.ring().consumer_pos(), ring.ring().producer_pos());
}

TEST_P(Patterns, NothingIsLostDoubledTornOrReordered) {
  FdLeakGuard leaks;
  void* page = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(page, MAP_FAILED);
  auto* shared = new (page) Shared;
  const char* seconds = std::getenv("RINGBUF_STRESS_SECONDS");
  const std::uint64_t until = shm::now_ns() + static_cast<std::uint64_t>((seconds ? std::atof(seconds) : 0) * 1e9);
  std::uint64_t number = 0;
  do round(GetParam(), number++, *shared);
  while (!HasFailure() && shm::now_ns() < until);
  ::munmap(page, sizeof(Shared));
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const std::uint32_t size : {static_cast<std::uint32_t>(shm::page_size()), 65536u, 1u << 20})
    for (const unsigned producers : {1u, 2u, 4u, 8u})
      for (const bool processes : {false, true}) all.push_back({producers, processes, size});
  return all;
}
INSTANTIATE_TEST_SUITE_P(Stress, Patterns, ::testing::ValuesIn(cases()), [](const auto& i) {
  return std::to_string(i.param.producers) + (i.param.processes ? "Processes" : "Threads") + std::to_string(i.param.max_entries);
});

}  // namespace
}  // namespace ringbuf::test
