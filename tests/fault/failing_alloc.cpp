// SPDX-License-Identifier: MIT
#include "fault/failing_alloc.hpp"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>

namespace {

thread_local unsigned fails_at = 0;  // 0: never
thread_local unsigned allocations = 0;
thread_local bool and_later = false;

bool fails() {
  if (fails_at == 0) return false;
  ++allocations;
  const bool fails = allocations == fails_at || (and_later && allocations > fails_at);
  if (fails && ringbuf::test::on_failed_allocation) ringbuf::test::on_failed_allocation();
  if (fails) errno = ENOMEM;
  return fails;
}

void* allocate(std::size_t size, std::size_t align = 0) {
  if (fails()) return nullptr;
  if (size == 0) size = 1;
  return align == 0 ? std::malloc(size) : std::aligned_alloc(align, (size + align - 1) / align * align);
}
void* allocate_or_throw(std::size_t size, std::size_t align = 0) {
  if (void* p = allocate(size, align)) return p;
  throw std::bad_alloc();
}

}  // namespace

namespace ringbuf::test {

void (*on_failed_allocation)() = nullptr;

void fail_allocation(unsigned nth, Fails how) {
  allocations = 0;
  and_later = how == Fails::FromThenOn;
  fails_at = nth;
}
unsigned stop_failing() {
  fails_at = 0;
  return allocations;
}

}  // namespace ringbuf::test

void* operator new(std::size_t size) { return allocate_or_throw(size); }
void* operator new[](std::size_t size) { return allocate_or_throw(size); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return allocate(size); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept { return allocate(size); }
void* operator new(std::size_t size, std::align_val_t align) { return allocate_or_throw(size, static_cast<std::size_t>(align)); }
void* operator new[](std::size_t size, std::align_val_t align) {
  return allocate_or_throw(size, static_cast<std::size_t>(align));
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

// Zeros by hand, in a way that the compiler does not turn into a call of calloc.
extern "C" void* calloc(std::size_t count, std::size_t size) noexcept {
  std::size_t bytes;
  if (__builtin_mul_overflow(count, size, &bytes) || fails()) return nullptr;
  void* p = std::malloc(bytes);
  if (!p) return nullptr;
  asm volatile("" : "+r"(p) : : "memory");
  return std::memset(p, 0, bytes);
}
