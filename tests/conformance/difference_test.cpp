// SPDX-License-Identifier: MIT
// The table of wanted differences, and the tests that use it, hold each other up.
#include "difference.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>

namespace conformance {
namespace {

// The names that the sources of this suite call difference() with.
std::set<std::string> named() {
  std::set<std::string> names;
  const std::regex call("difference\\(\"([^\"]*)\"\\)");
  for (const auto& entry : std::filesystem::directory_iterator(CONFORMANCE_SOURCES)) {
    if (entry.path().extension() != ".cpp") continue;
    std::stringstream text;
    text << std::ifstream(entry.path()).rdbuf();
    const std::string source = text.str();
    for (std::sregex_iterator at(source.begin(), source.end(), call), end; at != end; ++at) names.insert((*at)[1]);
  }
  return names;
}

TEST(Differences, EachRowOfTheTableIsUsedByATest) {
  const auto used = named();
  const auto rows = differences();
  EXPECT_FALSE(rows.empty()) << CONFORMANCE_DOC " has lost its table";
  for (const auto& row : rows) EXPECT_TRUE(used.count(row)) << "no test uses the difference '" << row << "'";
}

TEST(Differences, EachThatATestUsesIsARowOfTheTable) {
  const auto rows = differences();
  for (const auto& name : named())
    EXPECT_NE(std::find(rows.begin(), rows.end(), name), rows.end()) << "'" << name << "' is no row of " CONFORMANCE_DOC;
}

TEST(Differences, NoRowIsThereTwice) {
  auto rows = differences();
  std::sort(rows.begin(), rows.end());
  EXPECT_EQ(std::adjacent_find(rows.begin(), rows.end()), rows.end());
}

}  // namespace
}  // namespace conformance
