// SPDX-License-Identifier: MIT
// How a command fails: the exit code and one sentence that says what to do.
#pragma once

#include <string>
#include <tl/expected.hpp>
#include <utility>

namespace ringbufctl {

enum ExitCode { kDone = 0, kFailed = 1, kUsage = 2, kUnreachable = 3 };

struct Failure {
  ExitCode exit_code;
  int err;  // positive errno
  std::string sentence;
};

template <class T>
using Result = tl::expected<T, Failure>;

inline tl::unexpected<Failure> fail(ExitCode code, int err, std::string sentence) {
  return tl::unexpected<Failure>(Failure{code, err, std::move(sentence)});
}

}  // namespace ringbufctl
