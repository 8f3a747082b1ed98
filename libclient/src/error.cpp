// SPDX-License-Identifier: MIT
#include "error.hpp"

#include <cstdio>
#include <cstring>

#include "ringbuf/ringbuf.h"

namespace ringbuf {
namespace {
thread_local char last_error[640] = "no call has failed";
}

int api_fail(int err, std::string_view what) noexcept {
  std::snprintf(last_error, sizeof last_error, "%.*s", static_cast<int>(what.size()), what.data());
  errno = err;
  return -err;
}

int api_fail(const Error& e) noexcept {
  char reason[128];
  std::snprintf(last_error, sizeof last_error, "could not %s: %s", e.op, ::strerror_r(e.err, reason, sizeof reason));
  errno = e.err;
  return -e.err;
}

}  // namespace ringbuf

const char* ringbuf_last_error(void) { return ringbuf::last_error; }
const char* ringbuf_version(void) { return RINGBUF_VERSION_STRING; }
