// SPDX-License-Identifier: MIT
#include "stored.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdlib>

namespace {

// The descriptor is left for the next one to be started.
volatile std::uint32_t* counter() {
  const char* fd = std::getenv("RINGBUF_TEST_COUNTER");
  if (!fd) return nullptr;
  void* at = ::mmap(nullptr, 4, PROT_READ | PROT_WRITE, MAP_SHARED, std::atoi(fd), 0);
  return at == MAP_FAILED ? nullptr : static_cast<volatile std::uint32_t*>(at);
}

}  // namespace

void ringbuf_test_stored() noexcept {
  static volatile std::uint32_t* const left = counter();
  if (!left || *left == 0) return;
  *left = *left - 1;
  if (*left == 0) ::kill(::getpid(), SIGKILL);
}
