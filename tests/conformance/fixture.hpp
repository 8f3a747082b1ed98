// SPDX-License-Identifier: MIT
// Every test of the suite runs once on each back end: Suite.Test/Ours and Suite.Test/Kernel.
#pragma once

#include <gtest/gtest.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "backend.hpp"
#include "difference.hpp"

namespace conformance {

class Conformance : public testing::TestWithParam<Backend*> {
 protected:
  void SetUp() override {
    if (const std::string why = GetParam()->unavailable(); !why.empty()) GTEST_SKIP() << why;
  }
  bool on_kernel() const { return std::string("Kernel") == GetParam()->name(); }

  std::unique_ptr<Ring> make(const Spec& spec = {}) {
    std::unique_ptr<Ring> ring;
    const int r = GetParam()->create(spec, &ring);
    if (r < 0) {
      ADD_FAILURE() << "create: " << std::strerror(-r);
      std::abort();
    }
    return ring;
  }
  std::unique_ptr<Ring> make_user(std::uint32_t max_entries = 4096) {
    Spec spec;
    spec.type = kUserRingbuf;
    spec.max_entries = max_entries;
    return make(spec);
  }
  // Overwrite mode came with Linux 6.19.
  std::unique_ptr<Ring> make_overwrite(std::uint32_t max_entries = 4096) {
    Spec spec;
    spec.flags = kOverwrite;
    spec.max_entries = max_entries;
    std::unique_ptr<Ring> ring;
    if (GetParam()->create(spec, &ring) < 0 && !on_kernel()) ADD_FAILURE() << "create";
    return ring;
  }
};

// What a consumer was given, as one value to compare with.
struct Gather {
  std::vector<Bytes> records;
  int result = 0;
  OnSample fn = [this](const Bytes& bytes) {
    records.push_back(bytes);
    return result;
  };
  operator const OnSample&() const { return fn; }
};

#define CONFORMANCE(Suite)                                   \
  INSTANTIATE_TEST_SUITE_P(                                  \
      , Suite, testing::ValuesIn(::conformance::backends()), \
      [](const testing::TestParamInfo<::conformance::Backend*>& i) { return std::string(i.param->name()); })

}  // namespace conformance
