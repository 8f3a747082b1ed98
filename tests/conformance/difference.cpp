// SPDX-License-Identifier: MIT
#include "difference.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>

namespace conformance {

std::vector<std::string> differences() {
  std::vector<std::string> names;
  std::ifstream doc(CONFORMANCE_DOC);
  const std::regex row("\\| `([a-z0-9-]+)` \\|.*");
  std::smatch match;
  bool here = false;
  for (std::string line; std::getline(doc, line);) {
    if (line.starts_with("## ")) here = line == "## Wanted differences";
    else if (here && std::regex_match(line, match, row)) names.push_back(match[1]);
  }
  return names;
}

void difference(const std::string& name) {
  const auto names = differences();
  EXPECT_NE(std::find(names.begin(), names.end(), name), names.end())
      << "'" << name << "' is no row of the table of wanted differences in " CONFORMANCE_DOC;
}

namespace {

// What the sources of this suite name with difference("...").
std::set<std::string> named() {
  std::set<std::string> names;
  const std::regex call("difference\\(\"([^\"]*)\"\\)");
  for (const auto& entry : std::filesystem::directory_iterator(CONFORMANCE_SOURCES)) {
    if (entry.path().extension() != ".cpp" || entry.path().filename() == "difference.cpp") continue;
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
  for (const auto& name : named()) difference(name);
}

TEST(Differences, NoRowIsThereTwice) {
  auto rows = differences();
  std::sort(rows.begin(), rows.end());
  EXPECT_EQ(std::adjacent_find(rows.begin(), rows.end()), rows.end());
}

}  // namespace
}  // namespace conformance
