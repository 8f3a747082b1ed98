// SPDX-License-Identifier: MIT
#include "streams.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace ringbufctl {
namespace {

constexpr const char* kStdoutClosed = "standard output is closed; redirect it to a file or a pipe";

bool open_to(int fd, int unwanted) {
  const int flags = ::fcntl(fd, F_GETFL);
  return flags >= 0 && (flags & O_ACCMODE) != unwanted;
}

}  // namespace

bool keep_standard_descriptors() {
  for (int fd = 0; fd <= 2; ++fd) {
    if (::fcntl(fd, F_GETFD) >= 0) continue;
    // Open the wrong way round, so that using it is EBADF as it was.
    if (::open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY) != fd) return false;
  }
  return true;
}

Result<void> check_stdout() {
  if (open_to(STDOUT_FILENO, O_RDONLY)) return {};
  return fail(kFailed, EBADF, kStdoutClosed);
}

Result<void> check_stdin() {
  if (open_to(STDIN_FILENO, O_WRONLY)) return {};
  return fail(kFailed, EBADF, "standard input is closed; redirect it from a file or a pipe");
}

std::string write_failure(int err) {
  return err == EBADF ? kStdoutClosed : std::string("write to standard output: ") + std::strerror(err);
}

}  // namespace ringbufctl
