// SPDX-License-Identifier: MIT
// How internal functions fail: a positive errno and the literal name of the operation. Cheap, copyable, no allocation.
#pragma once

#include <cerrno>
#include <tl/expected.hpp>

namespace ringbuf {

struct Error {
  int err;         // positive errno
  const char* op;  // a literal: "mmap producer page"
};

template <class T>
using Result = tl::expected<T, Error>;

inline tl::unexpected<Error> fail(int err, const char* op) { return tl::unexpected<Error>(Error{err, op}); }
inline tl::unexpected<Error> fail_errno(const char* op) { return fail(errno, op); }

}  // namespace ringbuf
