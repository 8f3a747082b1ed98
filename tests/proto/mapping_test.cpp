// SPDX-License-Identifier: MIT
// One contiguous view of two memory files.
#include "base/mapping.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>

#include <cstring>
#include <fstream>
#include <utility>

#include "shm/create.hpp"
#include "support/child_process.hpp"
#include "support/fd_leak_guard.hpp"

namespace ringbuf {
namespace {

using Access = Mapping::Access;

shm::RingMemory memory(std::uint32_t max_entries) {
  shm::RingSpec spec;
  spec.max_entries = max_entries;
  spec.map_type = 27;
  auto m = shm::create_ring(spec);
  EXPECT_TRUE(m.has_value());
  return std::move(*m);
}

std::uint64_t address_space_kib() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;)
    if (word == "VmSize:") {
      std::uint64_t kib = 0;
      status >> kib;
      return kib;
    }
  return 0;
}

TEST(Mapping, ShowsTheKernelsViewBehindTheSlots) {
  test::FdLeakGuard leaks;
  const auto m = memory(16384);
  const auto map = Mapping::map_ring(m.c.get(), m.p.get(), m.layout, Access::ReadWrite, Access::ReadWrite);
  ASSERT_TRUE(map);
  const ringbuf_view v = map->view();
  auto* base = reinterpret_cast<unsigned char*>(v.slots);
  EXPECT_EQ(v.mask, 16383u);
  EXPECT_EQ(v.size, sizeof v);
  EXPECT_EQ(v.slot_count, RINGBUF_SLOT_COUNT);
  EXPECT_EQ(1u << v.page_shift, m.layout.page);
  EXPECT_EQ(reinterpret_cast<unsigned char*>(v.consumer_page), base + m.layout.slots_size());
  EXPECT_EQ(reinterpret_cast<unsigned char*>(v.producer_page), base + m.layout.slots_size() + m.layout.page);
  EXPECT_EQ(v.data, base + m.layout.slots_size() + 2 * m.layout.page);
  for (std::uint64_t i = 0; i < 16384; ++i) v.data[i] = static_cast<unsigned char>(i * 7 + (i >> 8));
  EXPECT_EQ(std::memcmp(v.data, v.data + 16384, 16384), 0);
  v.data[16384 + 5] = 0xaa;
  EXPECT_EQ(v.data[5], 0xaa);
}

TEST(Mapping, EachPieceComesFromItsFile) {
  const auto m = memory(4096);
  const auto map = Mapping::map_ring(m.c.get(), m.p.get(), m.layout, Access::ReadWrite, Access::ReadWrite);
  ASSERT_TRUE(map);
  map->view().consumer_page->consumer_pos = 0x1111;
  map->view().producer_page->producer_pos = 0x2222;
  map->view().slots[3].need = 0x3333;
  map->view().data[0] = 0x44;
  const auto word = [](int fd, std::uint64_t off) {
    std::uint64_t w = 0;
    EXPECT_EQ(::pread(fd, &w, sizeof w, static_cast<off_t>(off)), 8);
    return w;
  };
  EXPECT_EQ(word(m.c.get(), 0), 0x1111u);
  EXPECT_EQ(word(m.p.get(), m.layout.producer_page_off()), 0x2222u);
  EXPECT_EQ(word(m.p.get(), 3 * 64), 0x3333u);
  EXPECT_EQ(word(m.p.get(), m.layout.data_off()), 0x44u);
  EXPECT_EQ(map->header()->magic, RINGBUF_SHM_MAGIC);
}

TEST(Mapping, TwoMappingsShowTheSameRing) {
  const auto m = memory(4096);
  const auto one = Mapping::map_ring(m.c.get(), m.p.get(), m.layout, Access::ReadWrite, Access::ReadWrite);
  const auto two = Mapping::map_ring(m.c.get(), m.p.get(), m.layout, Access::ReadOnly, Access::ReadOnly);
  ASSERT_TRUE(one && two);
  one->view().data[100] = 0x5a;
  EXPECT_EQ(two->view().data[100], 0x5a);
  EXPECT_NE(one->view().data, two->view().data);
}

TEST(Mapping, OutlivesItsDescriptors) {
  test::FdLeakGuard leaks;
  auto m = memory(4096);
  const auto map = Mapping::map_ring(m.c.get(), m.p.get(), m.layout, Access::ReadWrite, Access::ReadWrite);
  ASSERT_TRUE(map);
  m.c.reset();
  m.p.reset();
  map->view().data[0] = 1;
  EXPECT_EQ(map->view().data[4096], 1);
}

TEST(Mapping, FilesOfOtherSizesAreRefusedAndNothingLeaks) {
  test::FdLeakGuard leaks;
  const auto m = memory(4096);
  const auto big = memory(8192);
  const std::uint64_t before = address_space_kib();
  for (int i = 0; i < 100; ++i) {
    for (const auto& [c, p, layout] : {std::tuple{m.c.get(), big.p.get(), m.layout},
                                       {m.c.get(), m.p.get(), big.layout},
                                       {m.p.get(), m.p.get(), m.layout},
                                       {m.c.get(), m.c.get(), m.layout},
                                       {-1, m.p.get(), m.layout},
                                       {m.c.get(), -1, m.layout}}) {
      const auto map = Mapping::map_ring(c, p, layout, Access::ReadWrite, Access::ReadWrite);
      ASSERT_FALSE(map);
      EXPECT_EQ(map.error().err, EINVAL);
    }
  }
  EXPECT_LT(address_space_kib(), before + 1024);
}

TEST(Mapping, AWritableViewOfAReadOnlyDescriptorIsRefusedAndNothingLeaks) {
  test::FdLeakGuard leaks;
  const auto m = memory(1u << 20);
  const auto c_ro = shm::reopen_read_only(m.c.get());
  const auto p_ro = shm::reopen_read_only(m.p.get());
  ASSERT_TRUE(c_ro && p_ro);
  const std::uint64_t before = address_space_kib();
  for (int i = 0; i < 100; ++i) {
    // The first fails at its first piece, the second when one piece is in place already.
    const auto p = Mapping::map_ring(m.c.get(), p_ro->get(), m.layout, Access::ReadOnly, Access::ReadWrite);
    ASSERT_FALSE(p);
    EXPECT_EQ(p.error().err, EACCES);
    const auto c = Mapping::map_ring(c_ro->get(), m.p.get(), m.layout, Access::ReadWrite, Access::ReadWrite);
    ASSERT_FALSE(c);
    EXPECT_EQ(c.error().err, EACCES);
  }
  EXPECT_LT(address_space_kib(), before + 3 * 1024) << "200 failures at 2 MiB each";
}

TEST(Mapping, AddressSpaceIsGivenBack) {
  test::FdLeakGuard leaks;
  const auto m = memory(1u << 20);
  const std::uint64_t before = address_space_kib();
  for (int i = 0; i < 100; ++i) {
    auto a = Mapping::map_ring(m.c.get(), m.p.get(), m.layout, Access::ReadWrite, Access::ReadWrite);
    ASSERT_TRUE(a);
    Mapping b = std::move(*a);
    *a = Mapping();
    EXPECT_EQ(b.view().data[0], 0);
  }
  EXPECT_LT(address_space_kib(), before + 3 * 1024);
}

struct Role {
  const char* name;
  Access c, p;
};
void PrintTo(const Role& role, std::ostream* out) { *out << role.name; }

class MappingAccess : public ::testing::TestWithParam<Role> {};

// Writes in a child with the default action, so that the fault is seen as the signal that ends it.
template <class Word>
bool write_faults(Word* word) {
  test::ChildProcess child([&] {
    ::signal(SIGSEGV, SIG_DFL);  // a sanitizer's handler would exit instead
    *const_cast<volatile Word*>(word) = 1;
    return 0;
  });
  const int status = child.wait();
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV;
}

TEST_P(MappingAccess, OnlyWritablePiecesCanBeWrittenAndProtectionCannotBeLifted) {
  const auto m = memory(4096);
  const Access c = GetParam().c, p = GetParam().p;
  const auto c_ro = shm::reopen_read_only(m.c.get());
  const auto p_ro = shm::reopen_read_only(m.p.get());
  ASSERT_TRUE(c_ro && p_ro);
  const bool c_write = c == Access::ReadWrite, p_write = p == Access::ReadWrite;
  const auto map = Mapping::map_ring(c_write ? m.c.get() : c_ro->get(), p_write ? m.p.get() : p_ro->get(), m.layout, c, p);
  ASSERT_TRUE(map);
  const ringbuf_view v = map->view();
  EXPECT_EQ(write_faults(&v.consumer_page->consumer_pos), !c_write);
  EXPECT_EQ(write_faults(&v.producer_page->producer_pos), !p_write);
  EXPECT_EQ(write_faults(&v.slots[1].need), !p_write);
  EXPECT_EQ(write_faults(&v.data[0]), !p_write);
  EXPECT_EQ(write_faults(&v.data[4096]), !p_write);
  EXPECT_EQ(::mprotect(v.consumer_page, m.layout.page, PROT_READ | PROT_WRITE) == 0, c_write);
  EXPECT_EQ(::mprotect(v.data, 4096, PROT_READ | PROT_WRITE) == 0, p_write);
}

INSTANTIATE_TEST_SUITE_P(Roles, MappingAccess,
                         ::testing::Values(Role{"Producer", Access::ReadOnly, Access::ReadWrite},
                                           Role{"Consumer", Access::ReadWrite, Access::ReadOnly},
                                           Role{"Observer", Access::ReadOnly, Access::ReadOnly},
                                           Role{"Embedded", Access::ReadWrite, Access::ReadWrite}),
                         [](const auto& role) { return role.param.name; });

}  // namespace
}  // namespace ringbuf
