// SPDX-License-Identifier: MIT
// A signal comes while its thread is at any instruction of reserve and submit. Its handler ends the thread alone, replaces the
// image, or produces itself: to another ring, and to the same one, where it must not wait for the thread that it has interrupted.
#include <sys/syscall.h>

#include <memory>
#include <string_view>
#include <thread>

#include "crash/scene.hpp"

namespace ringbuf::test {
namespace {

struct Handled {
  int same_ring = -1, other_ring = -1;  // errno, or 0; -1: no signal came
  bool put_back = false;                // list_op_pending is what it was
  bool go = false;                      // for the thread that stays
};

class Interrupt : public ::testing::TestWithParam<Mode> {
 protected:
  // At each instruction: what the handler does in the victim, and what that looks like from outside. Another thread of the victim
  // lives on.
  template <class Prepare, class Visit>
  std::size_t at_any_instruction(void (*handler)(int), Prepare&& prepare, Visit&& visit) {
    stay_on_this_cpu();
    const auto start = [&] {
      current = this;
      scene_.reset();
      scene_ = std::make_unique<Scene>(GetParam());
      if (GetParam().overwrite()) {  // full, so that it must overwrite
        while (scene_->ring.ring().producer_pos() + Scene::kSize + RINGBUF_HEADER_SIZE < Scene::kN)
          EXPECT_TRUE(scene_->put(kSecond));
        scene_->consume();
      }
      other_.reset();
      other_ = std::make_unique<Scene>(kRobust);
      handled_ = std::make_unique<Shared<Handled>>();
      return std::make_unique<SteppedProcess>(
          [&, handler] {
            ::signal(SIGUSR1, handler);
            prepare();
            (void)shm::learn_thread();
            before_ = shm::tls.robust->list_op_pending;
          },
          [this] {
            void* at = scene_->reserve(kVictim);
            if (at) scene_->commit(kVictim, at);
            (**handled_).put_back = shm::tls.robust->list_op_pending == before_;
          });
    };
    return walk(
        start, [] {},
        [&](SteppedProcess& process, std::size_t k) {
          SCOPED_TRACE("interrupted before instruction " + std::to_string(k));
          const bool inside = scene_->victim_inside();
          inside_ += inside;
          process.let_go(SIGUSR1);
          visit(process, inside);
        });
  }

  static Interrupt* current;  // for handlers
  std::unique_ptr<Scene> scene_, other_;
  std::unique_ptr<Shared<Handled>> handled_;
  robust_list* before_ = nullptr;
  std::size_t inside_ = 0;

 public:
  static void end_thread(int) { ::syscall(SYS_exit, 0); }
  static void replace_image(int) { ::execl("/bin/sleep", "sleep", "1000", nullptr); }
  static void produce(int) {
    const int saved = errno;
    Shared<Handled>& handled = *current->handled_;
    (*handled).same_ring = put_another(*current->scene_);
    (*handled).other_ring = put_another(*current->other_);
    errno = saved;
  }
  void stay() {
    std::thread([this] {
      while (!(**handled_).go) ::sched_yield();
      (**handled_).same_ring = put_another(*scene_);
      for (;;) ::pause();
    }).detach();
  }
  // Of the same process and slot, told from the record of the thread that is interrupted. 0 or errno.
  static int put_another(Scene& s) {
    void* at = s.reserve(kVictim);
    if (!at) return errno;
    Payload{kLiving, 1, 0, 0}.fill(at, Scene::kSize);
    s.producer[kVictim].submit(at, 0);
    return 0;
  }
  static bool sleeps(pid_t pid) {
    char exe[64];
    const ssize_t n = ::readlink(("/proc/" + std::to_string(pid) + "/exe").c_str(), exe, sizeof exe);
    return std::string_view(exe, static_cast<std::size_t>(std::max<ssize_t>(n, 0))).ends_with("/sleep");
  }
};
Interrupt* Interrupt::current;

class Leave : public Interrupt {};  // robust only: elsewhere the daemon must find out

// The kernel has marked the word when the thread is gone, its process lives: nobody waits for a reaper.
TEST_P(Leave, AThreadThatDiesAloneHoldsNobodyUp) {
  const auto visit = [&](SteppedProcess& process, bool) {
    Scene& s = *scene_;
    ASSERT_TRUE(s.put(kSecond)) << errno;
    (**handled_).go = true;
    while ((**handled_).same_ring < 0) ::sched_yield();
    EXPECT_EQ((**handled_).same_ring, 0) << "the other thread of its process produces";
    EXPECT_EQ(s.ring.ring().lost(RINGBUF_LOST_LOCK), 0u);
    process.kill();
    EXPECT_LE(s.recover().records(), 1u) << "what the thread had reserved";
    s.written[kLiving] = 1;  // the other thread's
    s.consume();
    s.others_go_on(100);
  };
  const std::size_t all = at_any_instruction(
      end_thread, [this] { stay(); }, visit);
  std::printf("%zu instructions, %zu inside\n", all, inside_);
  EXPECT_GT(inside_, 20 / kStride);
}

TEST_P(Leave, AnImageThatIsReplacedHoldsNobodyUp) {
  const auto visit = [&](SteppedProcess& process, bool) {
    Scene& s = *scene_;
    ASSERT_TRUE(s.put(kSecond)) << errno;
    EXPECT_EQ(s.ring.ring().lost(RINGBUF_LOST_LOCK), 0u);
    while (!sleeps(process.pid())) ::sched_yield();  // alive, but nothing of it reaches the ring any more
    EXPECT_LE(s.recover().records(), 1u);
    s.consume();
    s.others_go_on(100);
  };
  const std::size_t all = at_any_instruction(
      replace_image, [] {}, visit);
  std::printf("%zu instructions, %zu inside\n", all, inside_);
  EXPECT_GT(inside_, 20 / kStride);
}

// Its thread is inside the section of this ring: EDEADLK at once. Anywhere else, and to another ring, it may produce; afterwards
// the kernel looks at the interrupted section's word again.
TEST_P(Interrupt, AHandlerThatProducesNeverWaits) {
  std::size_t met_itself = 0;
  const auto visit = [&](SteppedProcess& process, bool inside) {
    Scene& s = *scene_;
    volatile Handled& handled = **handled_;
    while (!process.ended() || handled.other_ring < 0) ::sched_yield();
    met_itself += handled.same_ring == EDEADLK;
    if (s.mode.single()) inside = handled.same_ring != 0;  // not to be seen from outside
    EXPECT_EQ(handled.same_ring, inside ? EDEADLK : 0);
    EXPECT_EQ(handled.other_ring, 0);
    EXPECT_TRUE(handled.put_back);
    s.consume();
    EXPECT_EQ(s.count[kVictim], 1u);
    EXPECT_EQ(s.count[kLiving], handled.same_ring == 0 ? 1u : 0u);
    EXPECT_EQ(other_->consume(), 1);
    s.written[kLiving] = s.count[kLiving];
    s.others_go_on(100);
  };
  const std::size_t all = at_any_instruction(
      produce, [] {}, visit);
  std::printf("%zu instructions, %zu inside; met itself %zu times\n", all, inside_, met_itself);
  EXPECT_GT(met_itself, 20 / kStride);
}

INSTANTIATE_TEST_SUITE_P(Modes, Interrupt, ::testing::Values(kRobust, kForeign, kSingle, kOverwriting, kUser), mode_name);
INSTANTIATE_TEST_SUITE_P(Modes, Leave, ::testing::Values(kRobust, kOverwriting), mode_name);

}  // namespace
}  // namespace ringbuf::test
