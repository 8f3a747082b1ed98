// SPDX-License-Identifier: MIT
// A reservation that sleeps until its bytes are free (S6). One object a producer attachment, for all threads of its process.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <mutex>

#include "ringbuf/shm/producer.hpp"

namespace ringbuf::shm {

class RoomWaiter {
 public:
  explicit RoomWaiter(const Producer& producer);
  RoomWaiter(const RoomWaiter&) = delete;

  // As Producer::reserve; instead of EAGAIN or ENOSPC it blocks, at most timeout_ms (-1: for ever). Also ETIMEDOUT (a user ring:
  // ENOSPC); EINTR: a signal was handled; EPERM: the attachment was inherited over fork, its slot is the parent's.
  void* reserve(std::uint64_t size, int timeout_ms) noexcept;

 private:
  struct Waiter {  // on its thread's stack
    std::uint64_t need;
    Waiter* next;
  };
  void enlist(Waiter& w);
  void delist(Waiter& w);
  void* lost(int err, ringbuf_lost why) const noexcept;  // counts the reservation that is given up; always null, with errno
  // Publishes the smallest need with a new turn, so that the consumer tells it even if it told the same need before. While there
  // is one, this attachment is one of room_waiters: counted before the need is set and until after it is cleared, so that who
  // finds a dead slot's need may take its count back.
  void announce(const std::unique_lock<std::mutex>& held);

  const Producer producer_;
  const pid_t pid_;
  std::mutex mutex_;
  Waiter* waiters_ = nullptr;  // guarded by mutex_
  std::uint32_t turn_;         // guarded by mutex_
  bool announced_ = false;     // guarded by mutex_
};

}  // namespace ringbuf::shm
