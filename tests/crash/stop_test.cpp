// SPDX-License-Identifier: MIT
// A producer that is stopped is not dead: nothing is taken from it, at no instruction. Outside the section the others go on;
// inside it delays each of them once. When it goes on its record arrives intact.
#include <memory>

#include "crash/scene.hpp"

namespace ringbuf::test {
namespace {

class StopProducer : public ::testing::TestWithParam<Mode> {
 protected:
  std::unique_ptr<SteppedProcess> start() {
    scene_.reset();
    scene_ = std::make_unique<Scene>(GetParam(), kLarge);
    while (GetParam().overwrite() && scene_->ring.ring().producer_pos() + kStep < kLarge) EXPECT_TRUE(scene_->put(kLiving));
    return std::make_unique<SteppedProcess>([] {},
                                            [s = scene_.get()] {
                                              void* at = s->reserve(kVictim);
                                              if (at) s->commit(kVictim, at);
                                            });
  }
  void expect_all_there() {
    Scene& s = *scene_;
    s.consume();
    EXPECT_EQ(s.count[kVictim], 1u);
    EXPECT_EQ(s.seen[kSecond], s.written[kSecond]);
    s.others_go_on(100);
    EXPECT_EQ(s.ring.producer_page().owner, 0u);
  }

  static constexpr std::uint32_t kLarge = 256 * 1024;  // room for a record of the others at each instruction
  static constexpr std::uint64_t kStep = Scene::kSize + RINGBUF_HEADER_SIZE;
  std::unique_ptr<Scene> scene_;
};

TEST_P(StopProducer, AtEveryInstructionNothingIsTakenFromIt) {
  stay_on_this_cpu();
  const auto process = start();
  Scene& s = *scene_;
  const shm::Ring ring = s.ring.ring();
  std::size_t all = 0, inside = 0, waits = 0;
  do {
    ++all;
    s.consume();
    if (s.mode.single()) continue;
    const std::uint64_t owner = s.ring.producer_page().owner, begin = shm::now_ns();
    const bool put = s.put(kSecond);
    if (s.victim_inside()) {
      ++inside;
      ASSERT_FALSE(put) << "at instruction " << all;
      ASSERT_EQ(errno, EBUSY);
      ASSERT_EQ(ring.owner_tid(), static_cast<std::uint32_t>(process->pid()));
      waits += shm::now_ns() - begin >= shm::Section::kPatienceNs;
    } else {
      ASSERT_TRUE(put) << "at instruction " << all << ": " << errno;
    }
    ASSERT_EQ(s.ring.producer_page().owner, owner);
  } while (process->step() != SteppedProcess::State::Ended);
  expect_all_there();
  std::printf("%zu instructions, %zu of them inside; the other one waited %zu times\n", all, inside, waits);
  EXPECT_EQ(inside > 20, !s.mode.single());
  // Once before the victim's producer_pos and once behind it: the ring has changed, so it might have moved.
  EXPECT_LE(waits, 2u);
  EXPECT_EQ(waits != 0, !s.mode.single());
}

TEST_P(StopProducer, AtAnyInstructionItGoesOnWhereItStood) {
  stay_on_this_cpu();
  walk([&] { return start(); }, [] {},
       [&](SteppedProcess& process, std::size_t k) {
         SCOPED_TRACE("stopped before instruction " + std::to_string(k));
         Scene& s = *scene_;
         process.let_go(SIGSTOP);
         s.consume();
         if (!s.mode.single() && !s.victim_inside()) {
           for (int i = 0; i < 10; ++i) {
             ASSERT_TRUE(s.put(kSecond)) << errno;
             s.consume();
           }
         }
         ::kill(process.pid(), SIGCONT);
         while (!process.ended()) ::sched_yield();
         expect_all_there();
       });
}
INSTANTIATE_TEST_SUITE_P(Modes, StopProducer, ::testing::Values(kRobust, kForeign, kSingle, kOverwriting, kUser), mode_name);

}  // namespace
}  // namespace ringbuf::test
