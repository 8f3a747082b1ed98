// SPDX-License-Identifier: MIT
// A mutex that no fork catches locked: fork waits until it is free, so the child, where other threads are gone, finds it free
// too. Declare it after what it guards, so that in_child never sees that half made or half gone; never construct or destroy one
// while holding another.
#pragma once

#include <functional>
#include <mutex>

namespace ringbuf {

class ForkMutex {
 public:
  // in_child: what the child does with what the mutex guards, before fork returns there.
  explicit ForkMutex(std::function<void()> in_child = {});
  ~ForkMutex();
  ForkMutex(const ForkMutex&) = delete;

  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  struct Registry;

  std::mutex mutex_;
  const std::function<void()> in_child_;
};

}  // namespace ringbuf
