// SPDX-License-Identifier: MIT
// The standard descriptors, which whoever starts us may have closed.
#pragma once

#include "result.hpp"

namespace ringbufctl {

// Call it first: a closed standard descriptor must not become the number of a socket that output then goes to. False: it cannot
// be done.
bool keep_standard_descriptors();

// Ask before records are taken that could then go nowhere.
Result<void> check_stdout();
Result<void> check_stdin();

// A failed write to standard output as a sentence.
std::string write_failure(int err);

}  // namespace ringbufctl
