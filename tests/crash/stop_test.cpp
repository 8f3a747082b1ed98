// SPDX-License-Identifier: MIT
// A producer that is stopped is not dead: nothing is taken from it, at no instruction. Outside the section the others go on;
// inside it delays each of them once. When it goes on its record arrives intact, once.
#include <memory>

#include "crash/scene.hpp"
#include "shm/room.hpp"

namespace ringbuf::test {
namespace {

enum class Op { Submit, Output, Wait };
constexpr const char* kOpNames[] = {"Submit", "Output", "Wait"};

struct Case {
  Mode mode;
  Op op;
};
std::string name_of(const ::testing::TestParamInfo<Case>& info) {
  return std::string(info.param.mode.name) + kOpNames[static_cast<int>(info.param.op)];
}
void PrintTo(const Case& c, std::ostream* out) { *out << name_of({c, 0}); }

class StopProducer : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    stay_on_this_cpu();
    Payload{kVictim, 1, 0, 0}.fill(record_, sizeof record_);
  }

  bool waits() const { return GetParam().op == Op::Wait; }
  bool single() const { return GetParam().mode.single(); }

  std::unique_ptr<SteppedProcess> start(std::uint32_t n) {
    const Case& c = GetParam();
    scene_.reset();
    scene_ = std::make_unique<Scene>(c.mode, n);
    if (waits() || c.mode.overwrite()) {
      const shm::Ring ring = scene_->ring.ring();
      while (ring.producer_pos() + kStep <= ring.limit()) EXPECT_TRUE(scene_->put(kLiving));
    }
    const shm::Producer victim = scene_->producer[kVictim];
    auto waiter = std::make_shared<std::optional<shm::RoomWaiter>>();
    return std::make_unique<SteppedProcess>([=] { waiter->emplace(victim); },
                                            [this, victim, waiter] { operate(victim, **waiter); }, waits());
  }

  // In the victim.
  void operate(const shm::Producer& victim, shm::RoomWaiter& waiter) {
    if (GetParam().op == Op::Output) {
      victim.output(record_, sizeof record_, 0);
      return;
    }
    void* at = waits() ? waiter.reserve(sizeof record_, -1) : victim.reserve(sizeof record_, 0);
    if (!at) return;
    std::memcpy(at, record_, sizeof record_);
    victim.submit(at, 0);
  }

  void expect_all_there() {
    Scene& s = *scene_;
    s.consume();
    EXPECT_EQ(s.count[kVictim], 1u);
    EXPECT_EQ(s.seen[kSecond], s.written[kSecond]);
    EXPECT_EQ(s.seen[kLiving], s.written[kLiving]);
    s.others_go_on(100);
    EXPECT_EQ(s.count[kVictim], 1u);
    EXPECT_EQ(s.ring.producer_page().owner, 0u);
    EXPECT_EQ(s.ring.ring().room_waiters(), 0u);
    EXPECT_EQ(static_cast<std::uint32_t>(s.ring.ring().need(kVictim)), 0u);
  }

  static constexpr std::uint32_t kLarge = 256 * 1024;  // room for a record of the others at each instruction
  static constexpr std::uint64_t kStep = Scene::kSize + RINGBUF_HEADER_SIZE;
  unsigned char record_[Scene::kSize];
  std::unique_ptr<Scene> scene_;
};

TEST_P(StopProducer, AtEveryInstructionNothingIsTakenFromIt) {
  using State = SteppedProcess::State;
  const auto process = start(kLarge);
  Scene& s = *scene_;
  const shm::Ring ring = s.ring.ring();
  std::size_t all = 0, inside = 0, delays = 0;
  bool full = waits();  // until it sleeps
  for (State state = State::Stopped; state != State::Ended; state = process->step()) {
    if (state == State::Asleep) {
      ASSERT_TRUE(full) << "it sleeps twice";
      full = false;
      ASSERT_GT(s.consume(), 0);
      state = process->wake();
    }
    ++all;
    if (!full) s.consume();
    if (single()) continue;
    const std::uint64_t owner = s.ring.producer_page().owner, begin = shm::now_ns();
    const bool put = s.put(kSecond);
    const int err = put ? 0 : errno;
    if (s.victim_inside()) {
      ++inside;
      ASSERT_EQ(err, EBUSY) << "at instruction " << all;
      ASSERT_EQ(ring.owner_tid(), static_cast<std::uint32_t>(process->pid()));
      delays += shm::now_ns() - begin >= shm::Section::kPatienceNs;
    } else {
      ASSERT_EQ(err, full ? EAGAIN : 0) << "at instruction " << all;
    }
    ASSERT_EQ(s.ring.producer_page().owner, owner);
  }
  EXPECT_FALSE(full) << "it has not slept";
  expect_all_there();
  std::printf("%zu instructions, %zu of them inside; the other one was delayed %zu times\n", all, inside, delays);
  EXPECT_EQ(inside > 20, !single());
  // Once before the victim's producer_pos and once behind it: the ring has changed, so it might have moved. Who waits has been
  // inside before, when the ring was full.
  EXPECT_LE(delays, waits() ? 3u : 2u);
  EXPECT_EQ(delays != 0, !single());
}

TEST_P(StopProducer, AtAnyInstructionItGoesOnWhereItStood) {
  std::size_t stops = 0, needed = 0;
  const auto visit = [&](SteppedProcess& process, std::size_t k) {
    SCOPED_TRACE("stopped before instruction " + std::to_string(k));
    Scene& s = *scene_;
    process.let_go(SIGSTOP);
    ++stops;
    needed += s.ring.ring().room_waiters() != 0;
    const std::uint64_t owner = s.ring.producer_page().owner;
    s.consume();
    if (!single() && !s.victim_inside()) {
      for (int i = 0; i < 10; ++i) {
        ASSERT_TRUE(s.put(kSecond)) << errno;
        s.consume();
      }
    }
    ASSERT_EQ(s.ring.producer_page().owner, owner);
    ::kill(process.pid(), SIGCONT);
    while (!process.ended()) ::sched_yield();
    expect_all_there();
  };
  const std::size_t all =
      walk([&] { return start(waits() ? Scene::kN : kLarge); }, [&] { EXPECT_GT(scene_->consume(), 0); }, visit);
  std::printf("%zu instructions, %zu stops, %zu of them waiting for room\n", all, stops, needed);
  EXPECT_EQ(needed > 20, waits());
}

std::vector<Case> all_cases() {
  std::vector<Case> all;
  for (const Mode& mode : {kRobust, kForeign, kSingle, kOverwriting, kUser})
    for (const Op op : {Op::Submit, Op::Output, Op::Wait})
      if (op != Op::Wait || !mode.overwrite()) all.push_back({mode, op});  // there it waits for a BUSY record only
  return all;
}
INSTANTIATE_TEST_SUITE_P(Modes, StopProducer, ::testing::ValuesIn(all_cases()), name_of);

}  // namespace
}  // namespace ringbuf::test
