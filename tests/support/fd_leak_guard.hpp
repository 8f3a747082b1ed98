// SPDX-License-Identifier: MIT
// Fails the test if it ends with other descriptors or mappings than it began with. Declare it first: it must be destroyed last.
#pragma once

#include <dirent.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>

namespace ringbuf::test {

inline int open_fds() {
  int n = 0;
  DIR* dir = ::opendir("/proc/self/fd");
  if (!dir) return -1;
  while (const dirent* e = ::readdir(dir)) n += e->d_name[0] != '.';
  ::closedir(dir);
  return n;
}

// Mappings of ring memory, by the names that create_ring gives its files. Others come and go with the allocator.
inline int ring_mappings() {
  int n = 0;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) n += line.find("memfd:ringbuf:") != line.npos;
  return n;
}

class FdLeakGuard {
 public:
  FdLeakGuard() = default;
  FdLeakGuard(const FdLeakGuard&) = delete;
  ~FdLeakGuard() {
    EXPECT_EQ(open_fds(), fds_) << "descriptors leaked";
    EXPECT_EQ(ring_mappings(), mappings_) << "mappings of ring memory leaked";
  }

 private:
  int fds_ = open_fds();
  int mappings_ = ring_mappings();
};

}  // namespace ringbuf::test
