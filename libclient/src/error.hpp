// SPDX-License-Identifier: MIT
// How the C API fails: errno, its negative as the result, and a sentence that ringbuf_last_error() returns. Per thread.
#pragma once

#include <new>
#include <string_view>

#include "base/result.hpp"

namespace ringbuf {

// Returns -err. `what` may be the daemon's own sentence.
int api_fail(int err, std::string_view what) noexcept;
// "could not <op>: <strerror>"
int api_fail(const Error& e) noexcept;

// Runs f; bad_alloc becomes -ENOMEM. Only what a caller's own callback throws passes through the C ABI.
template <class F>
int guarded(F&& f) {
  try {
    return f();
  } catch (const std::bad_alloc&) {
    return api_fail(Error{ENOMEM, "allocate memory"});
  }
}

}  // namespace ringbuf
