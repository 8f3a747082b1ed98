// SPDX-License-Identifier: MIT
// The owner word as the kernel sees it: whose id is in it, what the robust list points at, and who takes it over from the dead.
#include "ringbuf/shm/owner.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include "support/test_ring.hpp"

namespace ringbuf::shm {
namespace {

using test::TestRing;

robust_list_head* my_head() {
  (void)learn_thread();
  return tls.robust;
}
robust_list* pointing_at(const TestRing& ring) {
  return reinterpret_cast<robust_list*>(reinterpret_cast<char*>(ring.ring().owner_futex()) - my_head()->futex_offset);
}

struct OwnerTest : ::testing::Test {
  TestRing ring_{4096, 2};
  Section section_;
  bool enter(std::uint32_t slot, bool robust) { return section_.enter(ring_.ring(), false, Section::id(slot, robust)); }
  void leave() { section_.leave(ring_.ring(), false); }
  std::uint64_t owner() { return ring_.producer_page().owner; }
};

TEST_F(OwnerTest, ARobustOwnerIsKnownToTheKernel) {
  ASSERT_NE(my_head(), nullptr);
  auto* const before = my_head()->list_op_pending;
  ASSERT_TRUE(enter(2, true));
  EXPECT_EQ(owner(), std::uint64_t{2} << 32 | static_cast<std::uint32_t>(::gettid()));
  EXPECT_EQ(my_head()->list_op_pending, pointing_at(ring_));
  EXPECT_EQ(ring_.ring().owner_tid(), static_cast<std::uint32_t>(::gettid()));
  leave();
  EXPECT_EQ(owner(), 0u);
  EXPECT_EQ(my_head()->list_op_pending, before);
}

TEST_F(OwnerTest, AForeignOwnersIdIsNoThreadsAndItsWordIsNotTheKernels) {
  auto* const before = my_head()->list_op_pending;
  ASSERT_TRUE(enter(2, false));
  const auto tid = static_cast<std::uint32_t>(::gettid());
  EXPECT_EQ(owner(), std::uint64_t{2} << 32 | RINGBUF_OWNER_FOREIGN | tid);
  EXPECT_EQ(my_head()->list_op_pending, before);
  EXPECT_EQ(ring_.ring().owner_tid(), tid);
  leave();
  EXPECT_EQ(owner(), 0u);
}

TEST_F(OwnerTest, AThreadThatMeetsItselfFailsInBothForms) {
  for (const bool robust : {true, false}) {
    ASSERT_TRUE(enter(1, robust));
    Section again;
    auto* const pending = my_head()->list_op_pending;
    EXPECT_FALSE(again.enter(ring_.ring(), false, Section::id(1, robust)));
    EXPECT_EQ(errno, EDEADLK);
    EXPECT_EQ(my_head()->list_op_pending, pending) << "a failure puts it back, too";
    leave();
  }
}

TEST_F(OwnerTest, SectionsNestAndEachPutsBackWhatItHasFound) {
  TestRing other;
  robust_list_head* const head = my_head();
  robust_list some{};  // as a robust mutex would have it
  auto* const before = head->list_op_pending;
  head->list_op_pending = &some;
  ASSERT_TRUE(enter(1, true));
  Section inner;
  ASSERT_TRUE(inner.enter(other.ring(), false, Section::id(1, true)));
  EXPECT_EQ(head->list_op_pending, pointing_at(other));
  inner.leave(other.ring(), false);
  EXPECT_EQ(head->list_op_pending, pointing_at(ring_));
  leave();
  EXPECT_EQ(head->list_op_pending, &some);
  head->list_op_pending = before;
}

TEST_F(OwnerTest, TheWordOfADeadThreadIsTakenOver) {
  for (const std::uint32_t died : {RINGBUF_OWNER_DIED, RINGBUF_OWNER_DIED | 1u << 31}) {
    ring_.producer_page().owner = std::uint64_t{1} << 32 | died;
    EXPECT_EQ(ring_.ring().owner_tid(), 0u);
    ASSERT_TRUE(enter(2, true));
    EXPECT_EQ(owner() >> 32, 2u);
    leave();
  }
  EXPECT_EQ(ring_.ring().lost(RINGBUF_LOST_LOCK), 0u);
}

// Who has its id beside DIED is no dead one: no kernel writes that, and nobody takes it away.
TEST_F(OwnerTest, AWordThatNoKernelHasWrittenIsNotTakenOver) {
  ring_.producer_page().owner = std::uint64_t{1} << 32 | RINGBUF_OWNER_DIED | 0x3ffff;
  EXPECT_FALSE(enter(2, true));
  EXPECT_EQ(errno, EBUSY);
}

TEST_F(OwnerTest, AForkChildLearnsItsOwnIdAndList) {
  (void)my_head();
  const pid_t child = ::fork();
  if (child == 0) {
    const bool forgot = tls.tid == 0 && tls.robust == nullptr;
    const bool entered = enter(1, true) && owner() == (std::uint64_t{1} << 32 | static_cast<std::uint32_t>(::gettid()));
    ::kill(::getpid(), forgot && entered ? SIGKILL : SIGTERM);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WTERMSIG(status), SIGKILL);
  EXPECT_EQ(owner(), std::uint64_t{1} << 32 | RINGBUF_OWNER_DIED) << "the kernel, which has the child's list";
}

}  // namespace
}  // namespace ringbuf::shm
