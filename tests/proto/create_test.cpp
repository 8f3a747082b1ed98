// SPDX-License-Identifier: MIT
// The memory of a new ring: sizes, seals, modes, contents, and what is refused.
#include "shm/create.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <vector>

#include "support/fd_leak_guard.hpp"

namespace ringbuf::shm {
namespace {

RingSpec good() {
  RingSpec spec;
  spec.max_entries = static_cast<std::uint32_t>(page_size());
  spec.map_type = 27;
  return spec;
}

void expect_refused(const RingSpec& spec, const char* word) {
  const char* wrong = spec_error(spec);
  ASSERT_NE(wrong, nullptr);
  EXPECT_NE(std::string(wrong).find(word), std::string::npos) << wrong;
  const auto made = create_ring(spec);
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().err, EINVAL);
  EXPECT_STREQ(made.error().op, wrong);
}

TEST(SpecError, AGoodSpecHasNone) { EXPECT_EQ(spec_error(good()), nullptr); }

TEST(SpecError, OtherMapTypesAreRefused) {
  for (const std::uint32_t type : {0u, 1u, 12u, 13u, 26u, 28u, 30u, 32u, UINT32_MAX}) {
    RingSpec spec = good();
    spec.map_type = type;
    expect_refused(spec, "map_type");
  }
}

TEST(SpecError, EveryFlagButTheKernelsIsRefused) {
  for (const std::uint32_t type : {kTypeRingbuf, kTypeUserRingbuf}) {
    for (unsigned bit = 0; bit < 32; ++bit) {
      RingSpec spec = good();
      spec.map_type = type;
      spec.map_flags = 1u << bit;
      spec.numa_node = UINT32_MAX;
      if (bit == 2 || (bit == 19 && type == kTypeRingbuf)) EXPECT_EQ(spec_error(spec), nullptr);
      else expect_refused(spec, bit == 19 ? "BPF_F_RB_OVERWRITE" : "map_flags");
    }
  }
}

TEST(SpecError, EveryRingFlagButSingleProducerIsRefused) {
  for (unsigned bit = 0; bit < 32; ++bit) {
    RingSpec spec = good();
    spec.ring_flags = 1u << bit;
    if (bit == 0) EXPECT_EQ(spec_error(spec), nullptr);
    else expect_refused(spec, "ring_flags");
  }
}

TEST(SpecError, ANumaNodeThatDoesNotExistIsRefusedOnlyWithItsFlag) {
  RingSpec spec = good();
  spec.numa_node = 4000;
  EXPECT_EQ(spec_error(spec), nullptr);
  spec.map_flags = 1u << 2;
  expect_refused(spec, "numa_node");
}

TEST(SpecError, SizesMustBePowersOfTwoAndWholePages) {
  const auto pg = static_cast<std::uint32_t>(page_size());
  for (const std::uint32_t size : {0u, 1u, 8u, pg / 2, pg - 1, pg + 1, pg + 8, 3 * pg, UINT32_MAX, (1u << 31) + pg}) {
    RingSpec spec = good();
    spec.max_entries = size;
    expect_refused(spec, "max_entries");
  }
  for (std::uint64_t size = pg; size <= 1u << 31; size *= 2) {
    RingSpec spec = good();
    spec.max_entries = static_cast<std::uint32_t>(size);
    EXPECT_EQ(spec_error(spec), nullptr) << size;
  }
}

TEST(CreateRing, FilesHaveTheLayoutsSizesAndAreAllocated) {
  test::FdLeakGuard leaks;
  RingSpec spec = good();
  spec.max_entries = 1u << 20;
  const auto ring = create_ring(spec);
  ASSERT_TRUE(ring);
  struct stat st;
  ASSERT_EQ(::fstat(ring->c.get(), &st), 0);
  EXPECT_EQ(static_cast<std::uint64_t>(st.st_size), ring->layout.c_size());
  EXPECT_EQ(st.st_blocks * 512, st.st_size);
  ASSERT_EQ(::fstat(ring->p.get(), &st), 0);
  EXPECT_EQ(static_cast<std::uint64_t>(st.st_size), ring->layout.p_size());
  EXPECT_GE(static_cast<std::uint64_t>(st.st_blocks) * 512, (1u << 20) + page_size()) << "data and producer page";
}

TEST(CreateRing, FilesAreSealedCloexecAndReadOnlyForOthers) {
  const auto ring = create_ring(good());
  ASSERT_TRUE(ring);
  for (const int fd : {ring->c.get(), ring->p.get()}) {
    const int seals = ::fcntl(fd, F_GET_SEALS);
    EXPECT_EQ(seals & (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    EXPECT_EQ(seals & F_SEAL_WRITE, 0);
    EXPECT_EQ(::ftruncate(fd, 0), -1);
    EXPECT_EQ(::ftruncate(fd, 1 << 24), -1);
    EXPECT_EQ(::fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
    EXPECT_EQ(::fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    struct stat st;
    ASSERT_EQ(::fstat(fd, &st), 0);
    EXPECT_EQ(st.st_mode & 07777, 0600u);
  }
}

TEST(CreateRing, TheFileDescribesItselfAndIsEmptyOtherwise) {
  RingSpec spec = good();
  spec.max_entries = 65536;
  spec.ring_flags = RINGBUF_F_SINGLE_PRODUCER;
  const auto ring = create_ring(spec);
  ASSERT_TRUE(ring);
  ringbuf_shm_header h;
  ASSERT_EQ(::pread(ring->p.get(), &h, sizeof h, 0), static_cast<ssize_t>(sizeof h));
  EXPECT_EQ(h.magic, RINGBUF_SHM_MAGIC);
  EXPECT_EQ(h.version, RINGBUF_SHM_VERSION);
  EXPECT_EQ(h.max_entries, 65536u);
  EXPECT_EQ(h.slot_count, RINGBUF_SLOT_COUNT);
  EXPECT_EQ(h.producer_page, ring->layout.producer_page_off());
  EXPECT_EQ(h.page_size, page_size());
  EXPECT_EQ(h.map_type, 27u);
  EXPECT_EQ(h.ring_flags, RINGBUF_F_SINGLE_PRODUCER);
  std::vector<unsigned char> rest(ring->layout.p_size() - sizeof h);
  ASSERT_EQ(::pread(ring->p.get(), rest.data(), rest.size(), sizeof h), static_cast<ssize_t>(rest.size()));
  for (const unsigned char byte : rest) ASSERT_EQ(byte, 0);
}

TEST(CreateRing, ANumaNodeChangesNothingForTheThread) {
  unsigned long node = 1, mask[16];
  int mode = -1;
  if (::syscall(SYS_set_mempolicy, MPOL_BIND, &node, 64) < 0) GTEST_SKIP() << "memory policies are not permitted here";
  RingSpec spec = good();
  spec.map_flags = 4;  // BPF_F_NUMA_NODE
  EXPECT_TRUE(create_ring(spec));
  ASSERT_EQ(::syscall(SYS_get_mempolicy, &mode, mask, 1024, nullptr, 0), 0);
  ::syscall(SYS_set_mempolicy, MPOL_DEFAULT, nullptr, 0);
  EXPECT_EQ(mode, MPOL_BIND);
  EXPECT_EQ(mask[0], 1u);
}

TEST(CreateRing, RefusedSpecsLeaveNothingBehind) {
  test::FdLeakGuard leaks;
  for (int i = 0; i < 100; ++i) {
    RingSpec spec = good();
    spec.max_entries = 4097;
    EXPECT_FALSE(create_ring(spec));
  }
}

TEST(ReopenReadOnly, GivesADescriptorThatCannotWrite) {
  test::FdLeakGuard leaks;
  const auto ring = create_ring(good());
  ASSERT_TRUE(ring);
  const auto copy = reopen_read_only(ring->p.get());
  ASSERT_TRUE(copy);
  EXPECT_EQ(::fcntl(copy->get(), F_GETFL) & O_ACCMODE, O_RDONLY);
  EXPECT_EQ(::fcntl(copy->get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  char byte = 1;
  EXPECT_EQ(::pwrite(copy->get(), &byte, 1, 0), -1);
  EXPECT_EQ(::mmap(nullptr, page_size(), PROT_WRITE, MAP_SHARED, copy->get(), 0), MAP_FAILED);
  EXPECT_EQ(::pread(copy->get(), &byte, 1, 0), 1);
  EXPECT_FALSE(reopen_read_only(-1));
}

}  // namespace
}  // namespace ringbuf::shm
