// SPDX-License-Identifier: MIT
// How the daemon says no: an errno and one sentence that says what to do.
#pragma once

#include <spdlog/fmt/fmt.h>

#include <cstring>
#include <string>
#include <tl/expected.hpp>
#include <utility>

#include "base/result.hpp"

namespace ringbuf::daemon {

struct Refusal {
  int err;
  std::string text;
  bool fatal = false;  // the client broke the protocol: its session ends after the reply
};

template <class T>
using Answer = tl::expected<T, Refusal>;

inline tl::unexpected<Refusal> refuse(int err, std::string text) {
  return tl::unexpected<Refusal>(Refusal{err, std::move(text)});
}
inline tl::unexpected<Refusal> refuse(const Error& e) {
  return refuse(e.err, fmt::format("cannot {}: {}", e.op, std::strerror(e.err)));
}

}  // namespace ringbuf::daemon
