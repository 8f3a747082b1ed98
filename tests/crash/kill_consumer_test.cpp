// SPDX-License-Identifier: MIT
// A consumer is killed after each single instruction of consume and of drain. Its successor goes on at consumer_pos: every record
// is seen by one of the two, and twice at most those of one batch, of a drain one.
#include <memory>

#include "crash/scene.hpp"

namespace ringbuf::test {
namespace {

class KillConsumer : public ::testing::TestWithParam<Mode> {
 protected:
  static constexpr std::uint64_t kRecords = 24, kStep = Scene::kSize + RINGBUF_HEADER_SIZE;

  std::unique_ptr<SteppedProcess> start() {
    scene_.reset();
    scene_ = std::make_unique<Scene>(GetParam());
    scene_->exact = false;
    for (std::uint64_t i = 0; i < kRecords; ++i) EXPECT_TRUE(scene_->put(kLiving));
    scene_->ring.ring().add_room_waiter();
    scene_->ring.ring().set_need(kVictim, Scene::kN / 2);
    *first_saw_ = 0;
    return std::make_unique<SteppedProcess>([] {}, [this] { operate(); });
  }
  void operate() {
    const auto take = [this](void* data, std::size_t) {
      std::uint64_t seq;
      std::memcpy(&seq, static_cast<char*>(data) + 1, sizeof seq);
      *first_saw_ = seq;
      return 0;
    };
    if (GetParam().user()) scene_->consumer.drain(take, 0);
    else scene_->consumer.consume(take, UINT64_MAX);
  }
  void visit(SteppedProcess& process, std::size_t k) {
    SCOPED_TRACE("killed before instruction " + std::to_string(k));
    process.kill();
    Scene& s = *scene_;
    const std::uint64_t pos = s.ring.ring().consumer_pos(), begin = pos / kStep;
    ASSERT_EQ(pos % kStep, 0u);
    EXPECT_LE(begin, *first_saw_) << "nobody has seen what is given back";
    const std::uint64_t twice = *first_saw_ - begin;
    EXPECT_LE(twice, s.mode.user() ? 1 : (Scene::kN / 8 + kStep - 1) / kStep);
    most_ = std::max(most_, twice);
    s.consumer = s.ring.consumer();
    s.consumer.tell_waiters();  // as the library does
    s.seen[kLiving] = begin;
    s.consume();
    EXPECT_EQ(s.seen[kLiving], kRecords);
    EXPECT_TRUE(s.ring.ring().room_seq() != 0 || s.mode.overwrite()) << "a producer that waits for room is told";
    if (s.ring.ring().clear_need(kVictim)) s.ring.ring().forget_room_waiter();
    s.others_go_on();
  }

  std::unique_ptr<Scene> scene_;
  Shared<std::uint64_t> first_saw_;
  std::uint64_t most_ = 0;
};

TEST_P(KillConsumer, AtAnyInstruction) {
  stay_on_this_cpu();
  const std::size_t all = walk([&] { return start(); }, [] {}, [&](SteppedProcess& p, std::size_t k) { visit(p, k); });
  std::printf("%zu instructions: %lu records at most were seen twice\n", all, static_cast<unsigned long>(most_));
  EXPECT_GT(most_, 0u);
}
INSTANTIATE_TEST_SUITE_P(Modes, KillConsumer, ::testing::Values(kRobust, kOverwriting, kUser), mode_name);

}  // namespace
}  // namespace ringbuf::test
