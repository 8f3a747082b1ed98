// SPDX-License-Identifier: MIT
// Allocations of one thread that fail on demand: operator new and calloc of the whole program. For programs that link
// failing_alloc.cpp.
#pragma once

#include <utility>

namespace ringbuf::test {

enum class Fails { Once, FromThenOn };

// The nth allocation of this thread from now on fails (1 is the next one).
void fail_allocation(unsigned nth, Fails how);
// Called at each that fails; allocates nothing.
extern void (*on_failed_allocation)();
// How many there were meanwhile; none fails any more.
unsigned stop_failing();

// f() with its nth allocation failing. Returns whether it came to that.
template <class F>
bool with_failing_allocation(unsigned nth, Fails how, F&& f) {
  fail_allocation(nth, how);
  try {
    f();
  } catch (...) {
    stop_failing();
    throw;
  }
  return stop_failing() >= nth;
}

}  // namespace ringbuf::test
