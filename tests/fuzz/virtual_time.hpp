// SPDX-License-Identifier: MIT
// For targets that wait: sleeping on a futex takes no time, the clock moves on by as much, and whatever others do meanwhile
// happens then. For programs linked with --wrap=clock_gettime,--wrap=syscall; one thread.
#pragma once

#include <time.h>

#include <cstdint>
#include <functional>

namespace ringbuf::fuzz {

void begin_time(std::function<void()> others);
std::uint64_t virtual_ns();

}  // namespace ringbuf::fuzz
