// SPDX-License-Identifier: MIT
#include "writer.hpp"

#include <unistd.h>

#include <cerrno>

#include "signals.hpp"
#include "streams.hpp"

namespace ringbufctl {
namespace {

constexpr size_t kFlushAt = 64 * 1024;

}  // namespace

bool Writer::record_done() {
  ends_.push_back(buffer_.size());
  return buffer_.size() < kFlushAt ? err_ == 0 : flush();
}

bool Writer::flush() {
  if (err_) return false;
  size_t done = 0;
  while (done < buffer_.size()) {
    const ssize_t n = ::write(STDOUT_FILENO, buffer_.data() + done, buffer_.size() - done);
    if (n >= 0) {
      done += static_cast<size_t>(n);
    } else if (errno != EINTR || stop_requests() >= 2) {
      err_ = errno;
      std::erase_if(ends_, [&](size_t end) { return end <= done; });
      return false;
    }
  }
  buffer_.clear();
  ends_.clear();
  return true;
}

Result<void> print(const std::string& text) {
  Writer writer;
  writer.buffer() = text;
  if (writer.flush() || writer.err() == EPIPE) return {};
  return fail(kFailed, writer.err(), write_failure(writer.err()));
}

}  // namespace ringbufctl
