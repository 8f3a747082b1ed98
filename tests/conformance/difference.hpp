// SPDX-License-Identifier: MIT
// Where the emulation differs from the kernel on purpose is written in one place, the table of docs/compatibility.md. A test that
// expects different things of the two back ends names the row.
#pragma once

#include <string>
#include <vector>

namespace conformance {

// The names in that table.
std::vector<std::string> differences();
// Aborts if the table has no such row.
void difference(const std::string& name);

}  // namespace conformance
