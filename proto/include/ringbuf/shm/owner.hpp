// SPDX-License-Identifier: MIT
// The right to reserve: who may write producer_pos, pending_pos and new headers (S5). Taking it, waiting for it, taking it over
// from the dead, and telling the kernel where it is, so that it is not lost with its thread. Any thread, any process; in
// single-producer mode, which has no owner word, one thread at a time.
#pragma once

#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>

#include "ringbuf/shm/ring.hpp"

namespace ringbuf::shm {

// What a thread remembers between reservations. `stuck_*`: the owner that it has waited for in vain, and where.
struct ThreadState {
  std::uint32_t tid;
  bool inside;               // single-producer mode: this thread is inside reserve
  robust_list_head* robust;  // the kernel looks at it when this thread ends; null: the thread has none
  const void* stuck_ring;
  std::uint64_t stuck_owner;
  std::uint64_t stuck_pos;
};
__attribute__((tls_model("initial-exec"))) inline constinit thread_local ThreadState tls{};

// When the program is loaded: a thread that did it at its first reservation could be caught in the middle by another's fork.
inline const int forget_thread_in_child = ::pthread_atfork(nullptr, nullptr, [] { tls = ThreadState{}; });

[[gnu::noinline, gnu::cold]] inline std::uint32_t learn_thread() noexcept {
  std::size_t size = 0;
  if (::syscall(SYS_get_robust_list, 0, &tls.robust, &size) < 0 || size != sizeof *tls.robust) tls.robust = nullptr;
  return tls.tid = static_cast<std::uint32_t>(::syscall(SYS_gettid));
}

inline std::uint64_t now_ns() noexcept {
  timespec t;
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<std::uint64_t>(t.tv_sec) * 1000000000u + static_cast<std::uint64_t>(t.tv_nsec);
}

// Sleeps while *word == value, at most for timeout_ns. Returns for any reason; callers look again.
inline int futex_wait(std::uint32_t* word, std::uint32_t value, std::uint64_t timeout_ns) noexcept {
  const timespec t{static_cast<time_t>(timeout_ns / 1000000000u), static_cast<long>(timeout_ns % 1000000000u)};
  return static_cast<int>(::syscall(SYS_futex, word, FUTEX_WAIT, value, &t, nullptr, 0));
}
inline void futex_wake_all(std::uint32_t* word) noexcept {
  ::syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0);
}

// One passage through reserve. The kernel looks at the one word that list_op_pending of the thread's robust list points to when
// the thread ends or its image is replaced, and turns the thread's id in it into DIED. So the pointer is set before the id can be
// in the word and put back after it has gone. What stood there before is another's (a reservation in another ring or a robust
// mutex, whose thread a signal handler has interrupted here) and is put back, not cleared.
class Section {
 public:
  static constexpr std::uint64_t kPatienceNs = 250'000'000;  // the kernel's resilient lock

  // `id`: slot << 32, with FOREIGN if the kernel must not know the word.
  static constexpr std::uint64_t id(std::uint32_t slot, bool robust) {
    return std::uint64_t{slot} << 32 | (robust ? 0 : RINGBUF_OWNER_FOREIGN);
  }

  // False with errno: EDEADLK this thread, or the one that this signal handler has interrupted, is inside already; EBUSY the
  // owner has been inside for 250 ms.
  [[gnu::always_inline]] bool enter(const Ring& ring, bool single, std::uint64_t id) noexcept {
    if (single) {
      if (tls.inside) return errno = EDEADLK, false;
      tls.inside = true;
      Ring::signal_fence();
      return true;
    }
    const std::uint64_t me = id | (tls.tid ? tls.tid : learn_thread());
    head_ = id & RINGBUF_OWNER_FOREIGN ? nullptr : tls.robust;
    if (head_) {
      before_ = head_->list_op_pending;
      point(head_, reinterpret_cast<robust_list*>(reinterpret_cast<char*>(ring.owner_futex()) - head_->futex_offset));
    }
    if (__builtin_expect(ring.try_own(me), 1) || wait(ring, me)) return true;
    if (head_) point(head_, before_);
    return false;
  }
  [[gnu::always_inline]] void leave(const Ring& ring, bool single) noexcept {
    if (single) {
      Ring::signal_fence();
      tls.inside = false;
      return;
    }
    ring.disown();
    if (head_) point(head_, before_);
  }

 private:
  // In program order with the stores to the owner word; the kernel reads it for the thread that has written it.
  [[gnu::always_inline]] static void point(robust_list_head* head, robust_list* word) noexcept {
    Ring::signal_fence();
    *const_cast<robust_list* volatile*>(&head->list_op_pending) = word;
    Ring::signal_fence();
  }

  // Somebody else is inside, or has died there. Spins a little, then sleeps in short slices: nobody wakes us, so that leaving
  // stays one plain store. While an owner that was waited for in vain has not moved, later reservations of this thread only spin.
  [[gnu::noinline, gnu::cold]] static bool wait(const Ring& ring, std::uint64_t me) noexcept {
    std::uint64_t owner = ring.owner();
    if (owner == me) return errno = EDEADLK, false;
    for (unsigned spins = 1; spins <= 256; spins *= 2) {
      if (is_free(owner = ring.owner()) && ring.take_over(owner, me)) return true;
      for (unsigned i = 0; i < spins; ++i) cpu_relax();
    }
    owner = ring.owner();
    const bool moved = ring.producer_pos_own() != tls.stuck_pos;
    if (!is_free(owner) && owner == tls.stuck_owner && tls.stuck_ring == ring.owner_futex() && !moved)
      return errno = EBUSY, false;
    const std::uint64_t begin = now_ns();
    for (std::uint64_t slice = 20'000;; slice = slice < 1'000'000 ? slice * 2 : slice) {
      owner = ring.owner();
      if (is_free(owner) && ring.take_over(owner, me)) return true;
      if (now_ns() - begin >= kPatienceNs) break;  // also if somebody else is always faster, or only makes it look free
      if (!is_free(owner)) futex_wait(ring.owner_futex(), static_cast<std::uint32_t>(owner), slice);
    }
    tls.stuck_ring = ring.owner_futex();
    tls.stuck_owner = owner;
    tls.stuck_pos = ring.producer_pos_own();
    return errno = EBUSY, false;
  }
  // Nobody's, or a dead thread's. The kernel keeps the waiters bit, which we never set.
  static bool is_free(std::uint64_t owner) noexcept {
    return owner == 0 || (static_cast<std::uint32_t>(owner) & ~FUTEX_WAITERS) == RINGBUF_OWNER_DIED;
  }

  robust_list_head* head_ = nullptr;  // null: there is nothing to put back
  robust_list* before_ = nullptr;
};

}  // namespace ringbuf::shm
