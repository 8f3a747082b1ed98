// SPDX-License-Identifier: MIT
#include "fuzz/virtual_time.hpp"

#include <errno.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <sys/syscall.h>

#include "fuzz/input.hpp"

// The linker leads the target's calls here (--wrap).
extern "C" {
long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...);
int __wrap_clock_gettime(clockid_t clock, timespec* ret);
}

namespace {

std::uint64_t now = 1'000'000'000;
std::uint64_t sleeps = 0;
std::function<void()> meanwhile;

}  // namespace

namespace ringbuf::fuzz {

void begin_time(std::function<void()> others) {
  meanwhile = std::move(others);
  sleeps = 0;
}
std::uint64_t virtual_ns() { return now; }

}  // namespace ringbuf::fuzz

int __wrap_clock_gettime(clockid_t, timespec* ret) {
  now += 100;  // looking at the clock takes time, so that no loop around it lasts for ever
  ret->tv_sec = static_cast<time_t>(now / 1'000'000'000);
  ret->tv_nsec = static_cast<long>(now % 1'000'000'000);
  return 0;
}

// As syscall(3): at most six arguments, all of a register's size, and not all of them were passed.
__attribute__((no_sanitize("address"))) long __wrap_syscall(long number, ...) {
  va_list args;
  va_start(args, number);
  long a[6];
  for (long& arg : a) arg = va_arg(args, long);
  va_end(args);
  if (number != SYS_futex) return __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
  const auto* word = reinterpret_cast<const std::uint32_t*>(a[0]);
  if ((a[1] & FUTEX_CMD_MASK) != FUTEX_WAIT) return 0;  // nobody sleeps
  if (*word != static_cast<std::uint32_t>(a[2])) {
    errno = EAGAIN;
    return -1;
  }
  FUZZ_CHECK(++sleeps < 100'000);
  const auto* timeout = reinterpret_cast<const timespec*>(a[3]);
  FUZZ_CHECK(timeout && timeout->tv_sec >= 0 && timeout->tv_nsec >= 0 && timeout->tv_nsec < 1'000'000'000);
  now += static_cast<std::uint64_t>(timeout->tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(timeout->tv_nsec);
  if (meanwhile) meanwhile();
  errno = ETIMEDOUT;
  return -1;
}
