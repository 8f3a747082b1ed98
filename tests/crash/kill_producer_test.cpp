// SPDX-License-Identifier: MIT
// A producer is killed after each single instruction of each operation, in each mode. What it has committed arrives, once; what
// it has not is counted; the others go on.
#include <memory>

#include "crash/scene.hpp"
#include "shm/room.hpp"

namespace ringbuf::test {
namespace {

enum class Op { Submit, Discard, Output, Wait };
constexpr const char* kOpNames[] = {"Submit", "Discard", "Output", "Wait"};

struct Case {
  Mode mode;
  Op op;
  bool crowded;  // beside records of a living producer, one of them BUSY
};
std::string name_of(const ::testing::TestParamInfo<Case>& info) {
  return std::string(info.param.mode.name) + kOpNames[static_cast<int>(info.param.op)] + (info.param.crowded ? "Crowded" : "");
}
void PrintTo(const Case& c, std::ostream* out) { *out << name_of({c, 0}); }

// How far the victim says that it has come.
enum Stage : int { kBegun = 0, kReserved = 1, kCommitting = 2, kCommitted = 3 };
// How far it has come, seen from outside.
enum Outcome : int { kNothing = 0, kOrphan = 1, kDone = 2 };

class KillProducer : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    stay_on_this_cpu();
    Payload{kVictim, 1, 0, 0}.fill(record_, sizeof record_);
  }

  std::unique_ptr<SteppedProcess> start() {
    const Case& c = GetParam();
    scene_.reset();
    scene_ = std::make_unique<Scene>(c.mode);
    *stage_ = kBegun;
    open_ = nullptr;
    if (c.op == Op::Wait || c.mode.overwrite()) {
      while (scene_->ring.ring().producer_pos() + Scene::kSize + RINGBUF_HEADER_SIZE <= scene_->ring.ring().limit())
        EXPECT_TRUE(scene_->put(kLiving));
    } else if (c.crowded) {
      for (int i = 0; i < 3; ++i) EXPECT_TRUE(scene_->put(kLiving));
    }
    if (c.crowded) {
      if (c.mode.overwrite()) scene_->consume();
      open_ = scene_->reserve(kLiving);
      EXPECT_NE(open_, nullptr);
      EXPECT_TRUE(scene_->put(kSecond));
    }
    before_ = scene_->ring.ring().producer_pos();
    const shm::Producer victim = scene_->producer[kVictim];
    auto waiter = std::make_shared<std::optional<shm::RoomWaiter>>();
    return std::make_unique<SteppedProcess>([=] { waiter->emplace(victim); },
                                            [this, victim, waiter] { operate(victim, **waiter); }, c.op == Op::Wait);
  }

  // In the victim.
  void operate(const shm::Producer& victim, shm::RoomWaiter& waiter) {
    const Op op = GetParam().op;
    if (op == Op::Output) {
      *stage_ = victim.output(record_, sizeof record_, 0) == 0 ? kCommitted : -1;
      return;
    }
    void* at = op == Op::Wait ? waiter.reserve(sizeof record_, -1) : victim.reserve(sizeof record_, 0);
    if (!at) {
      *stage_ = -1;
      return;
    }
    *stage_ = kReserved;
    std::memcpy(at, record_, sizeof record_);
    *stage_ = kCommitting;
    if (op == Op::Discard) victim.discard(at, 0);
    else victim.submit(at, 0);
    *stage_ = kCommitted;
  }

  void visit(SteppedProcess& process, std::size_t k) {
    const Case& c = GetParam();
    const std::string where = "killed before instruction " + std::to_string(k);
    SCOPED_TRACE(where);
    Scene& s = *scene_;
    const shm::Ring ring = s.ring.ring();
    const int stage = *stage_;
    ASSERT_GE(stage, 0) << "the operation failed";
    const bool was_inside = s.victim_inside();
    process.kill();
    inside_ += was_inside;
    const std::uint64_t owner = s.ring.producer_page().owner;
    if (was_inside) {
      const auto tid = static_cast<std::uint32_t>(process.pid());
      EXPECT_EQ(static_cast<std::uint32_t>(owner), c.mode.robust ? RINGBUF_OWNER_DIED : tid | RINGBUF_OWNER_FOREIGN);
    }
    const bool reserved = ring.producer_pos() != before_;
    const std::uint32_t need = static_cast<std::uint32_t>(ring.need(kVictim)), waiters = ring.room_waiters();

    // Nobody has reaped it yet, and nobody waits for that.
    if (!c.mode.single() && (c.mode.robust || !was_inside)) {
      const bool put = s.put(kSecond);
      ASSERT_TRUE(put || errno == EAGAIN) << errno;
    }
    const shm::Recovery recovery = s.recover();
    EXPECT_FALSE(s.victim_inside());
    const Outcome outcome = !reserved ? kNothing : recovery.records() != 0 ? kOrphan : kDone;
    EXPECT_LE(recovery.records(), 1u);
    EXPECT_EQ(recovery.bytes(), recovery.records() * Scene::kSize);
    EXPECT_LE(outcome, stage == kReserved || (stage == kBegun && c.op != Op::Output) ? kOrphan : kDone);
    EXPECT_GE(outcome, stage == kBegun ? kNothing : stage == kCommitted ? kDone : kOrphan);
    ++outcomes_[outcome];

    EXPECT_EQ(static_cast<std::uint32_t>(ring.need(kVictim)), 0u);
    EXPECT_EQ(ring.room_waiters(), need ? waiters - 1 : waiters);
    EXPECT_LE(ring.room_waiters(), 1u);
    needed_ += need != 0;

    if (open_) {
      const bool delivered = s.seen[kVictim] != 0;
      s.consume();
      EXPECT_EQ(s.seen[kVictim] != 0, delivered) << "behind an uncommitted record";
      s.commit(kLiving, open_);
    }
    s.consume();
    EXPECT_EQ(s.count[kVictim], outcome == kDone && c.op != Op::Discard ? 1u : 0u);
    s.others_go_on();
    EXPECT_EQ(s.seen[kLiving], s.written[kLiving]);
    EXPECT_EQ(ring.lost(RINGBUF_LOST_LOCK), 0u);
    if (k != SIZE_MAX) steps_[k].push_back(outcome);
  }

  unsigned char record_[Scene::kSize];
  std::unique_ptr<Scene> scene_;
  Shared<int> stage_;
  void* open_ = nullptr;
  std::uint64_t before_ = 0;
  std::size_t inside_ = 0, needed_ = 0, outcomes_[3] = {};
  std::map<std::size_t, std::vector<Outcome>> steps_;
};

TEST_P(KillProducer, AtAnyInstruction) {
  const Case& c = GetParam();
  const std::size_t all = walk([&] { return start(); }, [&] { EXPECT_GT(scene_->consume(), 0); },
                               [&](SteppedProcess& p, std::size_t k) { visit(p, k); });
  std::printf(
      "%zu instructions: killed before reserving %zu times, with an open record %zu, when committed %zu; %zu of them inside "
      "the section, %zu waiting\n",
      all, outcomes_[kNothing], outcomes_[kOrphan], outcomes_[kDone], inside_, needed_);
  for (const std::size_t n : outcomes_) EXPECT_GT(n, 0u);
  EXPECT_EQ(inside_ > 20 / kStride, !c.mode.single());
  EXPECT_EQ(needed_ > 20, c.op == Op::Wait);
  Outcome last = kNothing;
  for (const auto& [k, outcomes] : steps_)
    for (const Outcome outcome : outcomes) {
      EXPECT_GE(outcome, last) << "one instruction more, and it has come less far: " << k;
      last = outcome;
    }
}

std::vector<Case> all_cases() {
  std::vector<Case> all;
  for (const Mode& mode : {kRobust, kForeign, kSingle, kOverwriting, kUser})
    for (const Op op : {Op::Submit, Op::Discard, Op::Output, Op::Wait}) {
      if (op == Op::Wait && mode.overwrite()) continue;  // there it waits for a BUSY record only, which nobody tells
      all.push_back({mode, op, false});
      if (op != Op::Wait && !mode.single()) all.push_back({mode, op, true});
    }
  return all;
}
INSTANTIATE_TEST_SUITE_P(Modes, KillProducer, ::testing::ValuesIn(all_cases()), name_of);

}  // namespace
}  // namespace ringbuf::test
