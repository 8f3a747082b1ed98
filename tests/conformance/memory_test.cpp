// SPDX-License-Identifier: MIT
// Who may write which page of a ring.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "fixture.hpp"

namespace conformance {
namespace {

// The permissions of the mapping that holds this address, as "rw-s".
std::string permissions(const void* at) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    std::uintptr_t from = 0, to = 0;
    char how[8] = "";
    std::sscanf(line.c_str(), "%lx-%lx %4s", &from, &to, how);
    const auto address = reinterpret_cast<std::uintptr_t>(at);
    if (from <= address && address < to) return how;
  }
  return "";
}
int protect(const Area& area, int how) { return ::mprotect(area.at, area.size, how) == 0 ? 0 : errno; }

class Memory : public Conformance {};
CONFORMANCE(Memory);

TEST_P(Memory, IsReadOnlyWhereTheOtherSideWrites) {
  for (const std::uint32_t type : {kRingbuf, kUserRingbuf}) {
    const auto ring = make({.type = type, .shared = true});
    for (const Area& area : ring->areas()) {
      SCOPED_TRACE(std::string(area.name) + ", type " + std::to_string(type));
      EXPECT_EQ(permissions(area.at), area.writable ? "rw-s" : "r--s");
      if (area.writable) continue;
      EXPECT_EQ(protect(area, PROT_READ | PROT_WRITE), EACCES);
      EXPECT_EQ(permissions(area.at), "r--s");
    }
  }
}

TEST_P(Memory, IsNotExecutable) {
  for (const std::uint32_t type : {kRingbuf, kUserRingbuf}) {
    const auto ring = make({.type = type, .shared = true});
    difference("memory-may-be-made-executable");
    for (const Area& area : ring->areas()) {
      SCOPED_TRACE(std::string(area.name) + ", type " + std::to_string(type));
      EXPECT_EQ(permissions(area.at)[2], '-');
      EXPECT_EQ(protect(area, PROT_READ | PROT_EXEC), on_kernel() ? EACCES : 0);
    }
  }
}

TEST_P(Memory, TheDataIsThereTwice) {
  const auto ring = make();
  ASSERT_EQ(ring->output(Bytes(4000, 'x')), 0);
  Gather got;
  ASSERT_EQ(ring->consume(got), 1);
  ASSERT_EQ(ring->output(Bytes(200, 'y')), 0);  // reaches over the end
  const auto areas = ring->areas();
  EXPECT_EQ(std::memcmp(areas[2].at, areas[3].at, areas[2].size), 0);
  EXPECT_EQ(static_cast<char*>(areas[2].at) + areas[2].size, areas[3].at);
  EXPECT_EQ(static_cast<char*>(areas[1].at) + areas[1].size, areas[2].at);
  ASSERT_EQ(ring->consume(got), 1);
  EXPECT_EQ(got.records[1], Bytes(200, 'y'));
}

// What mmap(2) of a BPF map's descriptor permits.
class MapDescriptor : public Conformance {
 protected:
  void SetUp() override {
    Conformance::SetUp();
    difference("map-descriptor-is-no-memory");
    if (!IsSkipped() && !on_kernel()) GTEST_SKIP() << "the descriptor of a map of ours cannot be mapped";
  }
  // 0 or errno; what was mapped is gone again.
  static int map(const Ring& ring, std::size_t first_page, std::size_t pages, int how, int flags = MAP_SHARED) {
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    void* p =
        ::mmap(nullptr, pages * page, how, flags, const_cast<Ring&>(ring).descriptor(), static_cast<off_t>(first_page * page));
    if (p == MAP_FAILED) return errno;
    ::munmap(p, pages * page);
    return 0;
  }
};
CONFORMANCE(MapDescriptor);

TEST_P(MapDescriptor, MayBeMappedAsTheTypeSays) {
  constexpr int r = PROT_READ, w = PROT_READ | PROT_WRITE, x = PROT_READ | PROT_EXEC;
  struct Row {
    std::size_t first_page, pages;
    int how, flags;
    int ring, user;
  };
  const Row rows[] = {
      {0, 1, w, MAP_SHARED, 0, EPERM},
      {0, 1, r, MAP_SHARED, 0, 0},
      {0, 2, w, MAP_SHARED, EPERM, EPERM},
      {1, 1, w, MAP_SHARED, EPERM, 0},
      {2, 1, w, MAP_SHARED, EPERM, 0},
      {3, 1, w, MAP_SHARED, EPERM, 0},
      {2, 2, w, MAP_SHARED, EPERM, 0},
      {1, 3, w, MAP_SHARED, EPERM, 0},
      {0, 4, r, MAP_SHARED, 0, 0},
      {1, 1, r, MAP_SHARED, 0, 0},
      {4, 1, r, MAP_SHARED, EINVAL, EINVAL},
      {0, 5, r, MAP_SHARED, EINVAL, EINVAL},
      {0, 1, r, MAP_PRIVATE, EINVAL, EINVAL},
      {0, 1, x, MAP_SHARED, EPERM, EPERM},
      {1, 1, x, MAP_SHARED, EPERM, EPERM},
  };
  const auto ring = make(), user = make_user();
  for (const Row& row : rows) {
    SCOPED_TRACE("page " + std::to_string(row.first_page) + " and " + std::to_string(row.pages - 1) + " more, how " +
                 std::to_string(row.how));
    EXPECT_EQ(map(*ring, row.first_page, row.pages, row.how, row.flags), row.ring);
    EXPECT_EQ(map(*user, row.first_page, row.pages, row.how, row.flags), row.user);
  }
}

TEST_P(MapDescriptor, AMappingCannotBeWidened) {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const auto ring = make(), user = make_user();
  const auto widen = [&](Ring& of, std::size_t first, std::size_t pages, int how, int grow_from) {
    void* p = ::mmap(nullptr, pages * page, how, MAP_SHARED, of.descriptor(), static_cast<off_t>(first * page));
    ASSERT_NE(p, MAP_FAILED);
    EXPECT_EQ(::mremap(p, static_cast<std::size_t>(grow_from) * page, (pages + 1) * page, MREMAP_MAYMOVE), MAP_FAILED);
    EXPECT_EQ(::mprotect(p, page, PROT_EXEC), -1);
    EXPECT_EQ(::mprotect(p, page, PROT_WRITE), how & PROT_WRITE ? 0 : -1);
    EXPECT_EQ(::munmap(p, pages * page), 0);
  };
  widen(*ring, 0, 1, PROT_READ | PROT_WRITE, 1);
  widen(*ring, 0, 4, PROT_READ, 0);
  widen(*ring, 1, 1, PROT_READ, 0);
  widen(*user, 0, 1, PROT_READ, 1);
  widen(*user, 1, 1, PROT_READ | PROT_WRITE, 1);
  widen(*user, 2, 1, PROT_READ | PROT_WRITE, 1);
}

TEST_P(MapDescriptor, IsNotReadOrWritten) {
  char byte = 0;
  for (const std::uint32_t type : {kRingbuf, kUserRingbuf}) {
    const auto ring = make({.type = type});
    EXPECT_EQ(::read(ring->descriptor(), &byte, 1), -1);
    EXPECT_EQ(errno, EINVAL);
    EXPECT_EQ(::write(ring->descriptor(), &byte, 1), -1);
    EXPECT_EQ(errno, EINVAL);
  }
}

}  // namespace
}  // namespace conformance
