// SPDX-License-Identifier: MIT
#include "difference.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <regex>

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
  static const auto names = differences();
  if (std::find(names.begin(), names.end(), name) != names.end()) return;
  std::fprintf(stderr, "'%s' is no row of the table of wanted differences in %s\n", name.c_str(), CONFORMANCE_DOC);
  std::abort();
}

}  // namespace conformance
