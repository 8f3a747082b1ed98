// SPDX-License-Identifier: MIT
// What all walks share: a ring in each mode, what was in it before, and a reader that knows what must come out of it.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <optional>
#include <string>

#include "shm/recovery.hpp"
#include "support/payload.hpp"
#include "support/stepped_process.hpp"
#include "support/test_ring.hpp"

namespace ringbuf::test {

struct Mode {
  const char* name;
  std::uint32_t robust;
  std::uint32_t ring_flags;
  std::uint32_t map_type;
  std::uint32_t map_flags;

  bool single() const { return ring_flags & RINGBUF_F_SINGLE_PRODUCER; }
  bool user() const { return map_type == shm::kTypeUserRingbuf; }
  bool overwrite() const { return map_flags & shm::kFlagOverwrite; }
};
inline constexpr Mode kRobust{"Robust", 1, 0, shm::kTypeRingbuf, 0}, kForeign{"Foreign", 0, 0, shm::kTypeRingbuf, 0},
    kSingle{"Single", 1, RINGBUF_F_SINGLE_PRODUCER, shm::kTypeRingbuf, 0},
    kOverwriting{"Overwrite", 1, 0, shm::kTypeRingbuf, shm::kFlagOverwrite},
    kUser{"User", 1, RINGBUF_F_SINGLE_PRODUCER, shm::kTypeUserRingbuf, 0};
inline void PrintTo(const Mode& mode, std::ostream* out) { *out << mode.name; }

inline std::string mode_name(const ::testing::TestParamInfo<Mode>& mode) { return mode.param.name; }

// Who is meant by the first byte of a payload, and by the slot where there are several.
inline constexpr std::uint32_t kVictim = 1, kSecond = 2, kLiving = 3;

class Scene {
 public:
  static constexpr std::uint32_t kN = 4096;
  static constexpr std::size_t kSize = 40;

  explicit Scene(const Mode& m, std::uint32_t n = kN)
      : mode(m), ring(n, m.single() ? 1 : 3, m.ring_flags, m.map_type, m.map_flags), consumer(ring.consumer()) {
    ring.robust = m.robust;
    for (std::uint32_t who = kVictim; who <= kLiving; ++who) producer[who] = ring.producer(m.single() ? 1 : who);
  }

  void* reserve(std::uint32_t who) { return producer[who].reserve(kSize, 0, &uncounted); }
  void commit(std::uint32_t who, void* at) {
    Payload{static_cast<std::uint8_t>(who), ++written[who], 0, 0}.fill(at, kSize);
    producer[who].submit(at, 0);
  }
  bool put(std::uint32_t who) {
    void* at = reserve(who);
    if (at) commit(who, at);
    return at;
  }

  // All that can be had now. Each producer's records must come in order and untorn.
  std::int64_t consume() {
    const auto take = [&](void* data, std::size_t size) {
      see(data, size);
      return 0;
    };
    std::int64_t all = 0;
    for (std::int64_t n = 1; n > 0; all += n) {
      n = mode.user() ? consumer.drain(take, 0) : consumer.consume(take, UINT64_MAX);
      EXPECT_GE(n, 0) << "the consumer calls the ring corrupt";
      if (n < 0) break;
    }
    return all;
  }
  void see(const void* data, std::size_t size) {
    const std::uint8_t who = size == kSize ? *static_cast<const std::uint8_t*>(data) : 0;
    EXPECT_TRUE(who >= kVictim && who <= kLiving) << size;
    std::uint64_t& last = seen[who];
    std::uint64_t seq = last + 1;
    // What was there before may have been overwritten, from its beginning on.
    if (mode.overwrite() && who == kLiving && last == 0) std::memcpy(&seq, static_cast<const char*>(data) + 1, sizeof seq);
    EXPECT_TRUE((Payload{who, seq, 0, 0}).verify(data, size)) << "of " << unsigned{who} << ", after " << last;
    last = seq;
    ++count[who];
  }

  // What the daemon does when the victim is dead. A few records a step: the walk must not rely on being undisturbed.
  shm::Recovery recover() {
    const Mapping m = ring.map(Mapping::Access::ReadOnly, Mapping::Access::ReadWrite);
    ringbuf_view v = m.view();
    v.map_type = mode.map_type;
    v.map_flags = mode.map_flags;
    v.ring_flags = mode.ring_flags;
    shm::Recovery r(v, kVictim);
    unsigned steps = 0;
    while (!r.step(3) && steps < 10'000) ++steps;
    EXPECT_LT(steps, 10'000u) << "it does not end";
    EXPECT_EQ(r.corrupt(), nullptr);
    return r;
  }

  // The proof that nothing is stuck: `records` records of the second producer go through.
  void others_go_on(unsigned records = 1000) {
    for (unsigned i = 0; i < records && !::testing::Test::HasFailure(); ++i) {
      if (mode.overwrite()) consume();  // else it would overwrite its own
      if (put(kSecond)) continue;
      ASSERT_GT(consume(), 0) << "no room, and nothing to consume: errno " << errno;
      ASSERT_TRUE(put(kSecond)) << errno;
    }
    consume();
    EXPECT_EQ(seen[kSecond], written[kSecond]);
    if (mode.overwrite() && exact) {
      EXPECT_EQ(ring.ring().records() + ring.ring().missed_records(), written[kSecond] + written[kLiving] + count[kVictim]);
    }
  }

  bool victim_inside() const { return ring.producer_page().owner >> 32 == kVictim; }

  const Mode mode;
  bool exact = true;  // each record is delivered once, so the counts are those of what was written
  TestRing ring;
  shm::Producer producer[kLiving + 1];
  shm::Consumer consumer;
  std::uint64_t written[kLiving + 1] = {}, seen[kLiving + 1] = {}, count[kLiving + 1] = {};
};

// Under a sanitizer an operation has several times as many instructions, most of them not ours.
#if defined(__SANITIZE_ADDRESS__)
inline constexpr std::size_t kStride = 23;
#else
inline constexpr std::size_t kStride = 1;
#endif

// Rounds of one loop that are walked, and the last one. Those that only spin for a time have more.
inline constexpr unsigned kRounds = 20;

// Calls visit(process, k) for each number k of instructions: a new process of start() stands before instruction k. After the last
// one `at_end` is true. start() -> std::unique_ptr<SteppedProcess>; awaken(): what ends the sleep of such a process. A sleeper is
// visited, too, asleep.
template <class Start, class Awaken, class Visit>
std::size_t walk(Start&& start, Awaken&& awaken, Visit&& visit) {
  using State = SteppedProcess::State;
  Trace trace;
  std::optional<std::size_t> sleeper;
  {
    const auto process = start();
    for (State state = State::Stopped; state != State::Ended;) {
      trace.push_back(process->address());
      state = process->step();
      if (state == State::Asleep) {
        EXPECT_FALSE(sleeper) << "it sleeps twice";
        sleeper = trace.size() - 1;
        awaken();
        state = process->wake();
      }
    }
    visit(*process, trace.size());
  }
  std::map<std::uint64_t, unsigned> rounds, walked;
  for (const std::uint64_t address : trace) ++rounds[address];
  for (std::size_t k = 0; k < trace.size() && !::testing::Test::HasFailure(); ++k) {
    const unsigned round = ++walked[trace[k]];
    if ((round > kRounds && round != rounds[trace[k]]) || k % kStride != 0) continue;
    const auto process = start();
    std::size_t from = 0;
    if (sleeper && k > *sleeper) {
      EXPECT_TRUE(process->run_to(trace, 0, *sleeper));
      EXPECT_EQ(process->step(), State::Asleep);
      awaken();
      EXPECT_EQ(process->wake(), State::Stopped);
      from = *sleeper + 1;
    }
    if (process->run_to(trace, from, k)) visit(*process, k);
    else EXPECT_TRUE(SteppedProcess::in_vdso(trace[k])) << "instruction " << k << " of " << trace.size() << " is not met again";
  }
  if (sleeper && !::testing::Test::HasFailure()) {
    const auto process = start();
    EXPECT_TRUE(process->run_to(trace, 0, *sleeper));
    EXPECT_EQ(process->step(), State::Asleep);
    visit(*process, *sleeper);
  }
  return trace.size();
}

}  // namespace ringbuf::test
