// SPDX-License-Identifier: MIT
// Every atomic access of the project, and nothing else. Any thread, any process; nothing here blocks or fails.
//
// A ring's words are written by processes that do not trust each other. Invariants between honest ones:
//   I1  producer_pos - consumer_pos and producer_pos - pending_pos are in 0 .. N - 8 (pending_pos moves in reserve only, so the
//       consumer may be ahead of it); in a user ring 0 .. N; in overwrite mode overwrite_pos takes consumer_pos' place, and
//       overwrite_pos <= pending_pos <= producer_pos
//   I2  every byte in [consumer_pos, producer_pos) belongs to a whole record whose header was written before
//       producer_pos passed it
//   I3  only the owner (the thread that holds `owner`) writes producer_pos, pending_pos, cached_pos and new headers;
//       only the reserver of a record writes its payload and commits its header, or the reaper discards it when that is dead
//
// Sync points; both ends carry the tag, docs/memory-ordering.md has the argument and the bad schedules:
//   S1 space    consumer_pos release  ->  producer's acquire               else bytes are overwritten while read
//   S2 reserve  producer_pos release  ->  consumer's acquire               else a stale header is parsed
//   S3 publish  header exchange       ->  consumer's acquire               else an unfinished payload is read
//   S4 sleep    producer: header RMW, load waiting, load consumer_pos      else both see old values and the consumer
//               consumer: store consumer_pos, RMW waiting, load the ring   sleeps for ever
//   S5 owner    owner release, or the kernel's DIED  ->  the next          else two writers work on one region
//               owner's acquire
//      reaper   producer: pending_pos, release fence, the bytes            else a payload is taken for a dead one's header
//               reaper: the bytes, pending_pos
//   S6 room     producer: RMW need, load consumer_pos                      else a waiting producer sleeps for ever
//               consumer: exchange consumer_pos, load the needs
//   S7 copy     producer: overwrite_pos, release fence, the bytes          else a torn record is believed
//               reader: the bytes, acquire fence, overwrite_pos (not in overwrite mode: consumer_pos)
//   S8 element  element's word release  ->  reader's acquire               else a key is taken for another's map
//   S0 hint     no order needed: a value that only its writer or a statistic depends on
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "ringbuf/abi/shm.h"
#include "ringbuf/shm/geometry.hpp"

#if defined(__SANITIZE_THREAD__)
#define RINGBUF_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define RINGBUF_TSAN 1
#endif
#endif

namespace ringbuf::shm {

inline void cpu_relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
}

class Ring {
 public:
  Ring() = default;
  explicit Ring(const ringbuf_view& v)
      : c_(v.consumer_page),
        p_(v.producer_page),
        data_(v.data),
        slots_(v.slots),
        mask_(v.mask),
        limit_(v.map_type == kTypeUserRingbuf ? v.mask + 1 : v.mask),
        overwrite_(v.map_flags & kFlagOverwrite) {}

  std::uint64_t mask() const { return mask_; }
  std::uint64_t capacity() const { return mask_ + 1; }
  // Unread bytes are never more than this: the kernel's own rings keep 8 bytes free, user rings fill up.
  std::uint64_t limit() const { return limit_; }
  bool overwrite() const { return overwrite_; }
  unsigned char* at(std::uint64_t pos) const { return data_ + offset(pos, mask_); }
  std::uint64_t offset_of(const void* p) const {
    return offset(static_cast<std::uint64_t>(static_cast<const unsigned char*>(p) - data_), mask_);
  }

  // --- positions -------------------------------------------------------------------------------------------------
  std::uint64_t consumer_pos() const { return ref(c_->consumer_pos).load(std::memory_order_acquire); }        // S1
  std::uint64_t consumer_pos_own() const { return ref(c_->consumer_pos).load(std::memory_order_relaxed); }    // S0
  std::uint64_t consumer_pos_total() const { return ref(c_->consumer_pos).load(std::memory_order_seq_cst); }  // S4 S6
  // The consumer's one way to give bytes back: the exchange is the barrier of S4 (descriptor handed out) and of S6.
  void publish_consumer_pos(std::uint64_t pos) const {
#if defined(RINGBUF_TEST_WEAKEN_S4) || defined(RINGBUF_TEST_WEAKEN_S6)
    ref(c_->consumer_pos).store(pos, std::memory_order_release);  // S1 only: what libbpf does; loses wakeups here
#else
    ref(c_->consumer_pos).exchange(pos, std::memory_order_seq_cst);  // S1 S4 S6
#endif
  }

  // One sample of a drain, whose end publishes for S6.
  void step_consumer_pos(std::uint64_t pos) const { ref(c_->consumer_pos).store(pos, std::memory_order_release); }  // S1

  std::uint64_t producer_pos() const { return ref(p_->producer_pos).load(std::memory_order_acquire); }      // S2
  std::uint64_t producer_pos_own() const { return ref(p_->producer_pos).load(std::memory_order_relaxed); }  // S5
  void publish_producer_pos(std::uint64_t pos) const {
    ref(p_->producer_pos).store(pos, std::memory_order_release);  // S2
  }

  std::uint64_t pending_pos() const { return ref(p_->pending_pos).load(std::memory_order_relaxed); }  // S5
  // Before the bytes before `pos` are reused: a reaper that has seen new bytes must see this, too.
  void set_pending_pos(std::uint64_t pos) const {
    ref(p_->pending_pos).store(pos, std::memory_order_relaxed);  // S5
    copy_fence(std::memory_order_release);                       // S5
  }
  std::uint64_t cached_pos() const { return ref(p_->cached_pos).load(std::memory_order_relaxed); }             // S5
  void set_cached_pos(std::uint64_t pos) const { ref(p_->cached_pos).store(pos, std::memory_order_relaxed); }  // S5

  // --- record headers --------------------------------------------------------------------------------------------
  std::uint32_t header_len(std::uint64_t pos) const {
    return ref(header(pos)->len).load(std::memory_order_acquire);  // S3
  }
  std::uint32_t header_len_total(std::uint64_t pos) const {
    return ref(header(pos)->len).load(std::memory_order_seq_cst);  // S4
  }
  std::uint32_t header_len_own(const ringbuf_record_header* h) const {
    return ref(const_cast<ringbuf_record_header*>(h)->len).load(std::memory_order_relaxed);  // S0: the reserver's own word
  }
  std::uint32_t header_who(std::uint64_t pos) const { return ref(header(pos)->who).load(std::memory_order_relaxed); }  // S0
  void write_header(std::uint64_t pos, std::uint32_t len, std::uint32_t who) const {
    ringbuf_record_header* h = header(pos);
    ref(h->who).store(who, std::memory_order_relaxed);  // S2: published by producer_pos
    ref(h->len).store(len, std::memory_order_relaxed);  // S2
  }
  // Writes a word of free space back to itself. Only the owner may: nobody else touches free space.
  void claim_line(std::uint64_t pos) const {
    auto word = ref(*reinterpret_cast<std::uint64_t*>(at(pos)));
    word.store(word.load(std::memory_order_relaxed), std::memory_order_relaxed);  // S5
  }
  void commit_header(ringbuf_record_header* h, std::uint32_t len) const {
    ref(h->len).exchange(len, std::memory_order_seq_cst);  // S3 S4
  }

  // By the reaper: both halves of a header at once, so that whose record it is belongs to what is written. False: it has changed.
  std::uint64_t header_word(std::uint64_t pos) const {
    return ref(*reinterpret_cast<std::uint64_t*>(at(pos))).load(std::memory_order_acquire);  // S5
  }
  bool discard_orphan(std::uint64_t pos, std::uint64_t seen) const {
    const std::uint64_t discarded = (seen & ~std::uint64_t{RINGBUF_BUSY_BIT}) | RINGBUF_DISCARD_BIT;
    return ref(*reinterpret_cast<std::uint64_t*>(at(pos)))
        .compare_exchange_strong(seen, discarded, std::memory_order_seq_cst);  // S3 S4 S5
  }

  // --- sleeping consumer (S4) --------------------------------------------------------------------------------------
  std::uint64_t waiting() const { return ref(c_->waiting).load(std::memory_order_seq_cst); }  // S4
  void add_waiting() const {
#if defined(RINGBUF_TEST_WEAKEN_S4)
    ref(c_->waiting).store(ref(c_->waiting).load(std::memory_order_relaxed) + 1, std::memory_order_release);
#else
    ref(c_->waiting).fetch_add(1, std::memory_order_seq_cst);        // S4
#endif
  }
  void sub_waiting() const { ref(c_->waiting).fetch_sub(1, std::memory_order_seq_cst); }  // S4
  // After publish_consumer_pos or add_waiting: is there something to deliver at `pos`? The first load is the S4 one; if it
  // saw the commit then producer_pos, loaded after it, is new enough too. An overwritten record was committed.
  bool ready_at(std::uint64_t pos) const {
    (void)header_len_total(pos);                        // S4
    if (!is_before(pos, producer_pos())) return false;  // S2; behind: a drain takes that for an empty ring
    if (overwrite_ && is_before(pos, overwrite_pos())) return true;
    return !(header_len(pos) & RINGBUF_BUSY_BIT);  // S3
  }

  // --- owner of the reservation ------------------------------------------------------------------------------------
  std::uint64_t owner() const { return ref(p_->owner).load(std::memory_order_relaxed); }  // S0: only to wait and to report
  // 0: nobody, or a thread that died there and whose id the kernel has taken out.
  std::uint32_t owner_tid() const { return static_cast<std::uint32_t>(owner()) & (RINGBUF_OWNER_FOREIGN - 1); }
  bool try_own(std::uint64_t me) const { return take_over(0, me); }
  // From nobody (0), or from a thread that died inside: the kernel's store of DIED comes after all of that thread's.
  bool take_over(std::uint64_t from, std::uint64_t me) const {
    return ref(p_->owner).compare_exchange_strong(from, me, std::memory_order_acquire, std::memory_order_relaxed);  // S5
  }
  // By the reaper: takes the word from a slot whose process is dead. Its threads cannot leave any more, others may have taken it
  // over meanwhile.
  void disown_dead(std::uint32_t slot) const {
    std::uint64_t owner = this->owner();
    if (owner >> 32 == slot && static_cast<std::uint32_t>(owner) != 0)
      ref(p_->owner).compare_exchange_strong(owner, 0, std::memory_order_acq_rel, std::memory_order_relaxed);  // S5
  }
  void disown() const { ref(p_->owner).store(0, std::memory_order_release); }  // S5
  std::uint32_t* owner_futex() const {
    static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the thread id is the low half of the owner word");
    return reinterpret_cast<std::uint32_t*>(&p_->owner);
  }

  // --- room for waiting producers (S6) -----------------------------------------------------------------------------
  std::uint32_t room_waiters() const { return ref(p_->room_waiters).load(std::memory_order_seq_cst); }             // S6
  void add_room_waiter() const { ref(p_->room_waiters).fetch_add(1, std::memory_order_seq_cst); }                  // S6
  void sub_room_waiter() const { ref(p_->room_waiters).fetch_sub(1, std::memory_order_seq_cst); }                  // S6
  std::uint64_t need(std::uint32_t slot) const { return ref(slots_[slot].need).load(std::memory_order_seq_cst); }  // S6
  void set_need(std::uint32_t slot, std::uint64_t need) const {
    ref(slots_[slot].need).exchange(need, std::memory_order_seq_cst);  // S6
  }
  // By the reaper: a dead slot's need, but not its turn; true: there was one, and then its share of room_waiters goes. Killed in
  // between, the daemon leaves the count too high, which does no harm, and never too low.
  bool clear_need(std::uint32_t slot) const {
    return ref(slots_[slot].need).fetch_and(~std::uint64_t{UINT32_MAX}, std::memory_order_seq_cst) & UINT32_MAX;  // S6
  }
  void forget_room_waiter() const {
    std::uint32_t n = room_waiters();
    while (n != 0 && !ref(p_->room_waiters).compare_exchange_weak(n, n - 1, std::memory_order_seq_cst)) {  // S6
    }
  }
  std::uint32_t slot_limit() const { return ref(p_->slot_limit).load(std::memory_order_seq_cst); }  // S6
  void raise_slot_limit(std::uint32_t limit) const {
    std::uint32_t seen = slot_limit();
    while (seen < limit && !ref(p_->slot_limit).compare_exchange_weak(seen, limit, std::memory_order_seq_cst)) {  // S6
    }
  }
  std::uint32_t* room_futex() const { return &c_->room_seq; }
  std::uint32_t room_seq() const { return ref(c_->room_seq).load(std::memory_order_seq_cst); }  // S6
  void bump_room_seq() const { ref(c_->room_seq).fetch_add(1, std::memory_order_seq_cst); }     // S6

  // --- overwritten while copied? (S7) --------------------------------------------------------------------------------
  static bool is_before(std::uint64_t a, std::uint64_t b) { return static_cast<std::int64_t>(a - b) < 0; }
  std::uint64_t overwrite_pos() const { return ref(p_->overwrite_pos).load(std::memory_order_acquire); }  // S7
  // The oldest record whose bytes no producer may reuse.
  std::uint64_t oldest_pos() const { return overwrite_ ? overwrite_pos() : consumer_pos(); }
  // After copying bytes from `pos` on: those before this position, `pos` or a later one, may have been reused meanwhile.
  std::uint64_t oldest_after_copy(std::uint64_t pos) const {
#if defined(RINGBUF_TEST_WEAKEN_S7)
    return pos;
#else
    copy_fence(std::memory_order_acquire);                           // S7
    const std::uint64_t oldest = oldest_pos();
    return is_before(pos, oldest) ? oldest : pos;
#endif
  }
  bool still_there(std::uint64_t pos) const { return oldest_after_copy(pos) == pos; }
  // By the owner, before it touches the bytes before `pos`. `records` and `bytes` more are lost with them. The counts go to the
  // entry that is not overwrite_pos' own, so that a reader finds those of what it has seen, wherever the owner is stopped.
  void publish_overwrite_pos(std::uint64_t pos, std::uint64_t records, std::uint64_t bytes) const {
    const std::uint64_t before = overwrite_pos();
    const bool first = ref(p_->overwritten[0].pos).load(std::memory_order_relaxed) == before;  // S5
    const ringbuf_overwritten& from = p_->overwritten[first ? 0 : 1];
    ringbuf_overwritten& to = p_->overwritten[first ? 1 : 0];
    ref(to.pos).store(pos, std::memory_order_relaxed);                         // S7
    copy_fence(std::memory_order_release);                                     // S7
    ref(to.records).store(from.records + records, std::memory_order_relaxed);  // S7
    ref(to.bytes).store(from.bytes + bytes, std::memory_order_relaxed);        // S7
    ref(p_->overwrite_pos).store(pos, std::memory_order_release);              // S7
    copy_fence(std::memory_order_release);                                     // S7
  }
  // overwrite_pos and what lies before it. Counts that do not belong to it only if producers never stop interfering.
  ringbuf_overwritten overwritten() const {
    ringbuf_overwritten o{};
    for (unsigned tries = 0; tries < 64; ++tries) {
      o.pos = overwrite_pos();
      for (ringbuf_overwritten& e : p_->overwritten) {
        if (ref(e.pos).load(std::memory_order_acquire) != o.pos) continue;  // S7
        o.records = ref(e.records).load(std::memory_order_relaxed);         // S7
        o.bytes = ref(e.bytes).load(std::memory_order_relaxed);             // S7
        copy_fence(std::memory_order_acquire);                              // S7
        if (ref(e.pos).load(std::memory_order_relaxed) == o.pos) return o;  // S7
      }
    }
    return o;
  }
  // Copies bytes that a producer may be writing meanwhile; S7 throws a torn copy away. Not memcpy under TSan, which intercepts
  // it.
#if defined(RINGBUF_TSAN)
  __attribute__((no_sanitize("thread"), noinline)) static void copy_out(unsigned char* to, const volatile unsigned char* from,
                                                                        std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) to[i] = from[i];
  }
#else
  static void copy_out(unsigned char* to, const unsigned char* from, std::size_t n) { std::memcpy(to, from, n); }
#endif

  // --- statistics ----------------------------------------------------------------------------------------------------
  void count_lost(std::uint32_t slot, ringbuf_lost why) const {
    ref(p_->lost[why]).fetch_add(1, std::memory_order_relaxed);           // S0
    ref(slots_[slot].lost[why]).fetch_add(1, std::memory_order_relaxed);  // S0
  }
  std::uint64_t lost(ringbuf_lost why) const { return ref(p_->lost[why]).load(std::memory_order_relaxed); }  // S0
  std::uint64_t lost(std::uint32_t slot, ringbuf_lost why) const {
    return ref(slots_[slot].lost[why]).load(std::memory_order_relaxed);  // S0
  }
  void count_delivered(std::uint64_t records, std::uint64_t bytes) const {  // the consumer is the only writer
    add(c_->records, records);
    add(c_->bytes, bytes);
  }
  void count_missed(std::uint64_t records, std::uint64_t bytes) const {  // likewise
    add(c_->missed_records, records);
    add(c_->missed_bytes, bytes);
  }
  std::uint64_t missed_records() const { return ref(c_->missed_records).load(std::memory_order_relaxed); }  // S0
  std::uint64_t missed_bytes() const { return ref(c_->missed_bytes).load(std::memory_order_relaxed); }      // S0
  // The consumer's first sleep before an uncommitted record at `pos`; it is the only writer.
  bool stalled_at(std::uint64_t pos) const {
    const std::uint64_t since = ref(c_->stalled_ns).load(std::memory_order_relaxed);   // S0
    return since != 0 && ref(c_->stalled_pos).load(std::memory_order_relaxed) == pos;  // S0
  }
  void note_stall(std::uint64_t pos, std::uint64_t now_ns) const {
    ref(c_->stalled_ns).store(0, std::memory_order_relaxed);       // S0
    ref(c_->stalled_pos).store(pos, std::memory_order_relaxed);    // S0
    ref(c_->stalled_ns).store(now_ns, std::memory_order_relaxed);  // S0
  }
  void count_wakeup() const { ref(c_->wakeups).fetch_add(1, std::memory_order_relaxed); }     // S0
  std::uint64_t records() const { return ref(c_->records).load(std::memory_order_relaxed); }  // S0
  std::uint64_t bytes() const { return ref(c_->bytes).load(std::memory_order_relaxed); }      // S0
  std::uint64_t wakeups() const { return ref(c_->wakeups).load(std::memory_order_relaxed); }  // S0

  // --- slots of embedded rings, which have no daemon that gives them out -----------------------------------------------
  // The lowest free one below slot_count, its losses zeroed; 0: all are taken.
  std::uint32_t take_slot(std::uint32_t slot_count) const {
    for (std::uint32_t slot = 1; slot < slot_count; ++slot) {
      std::uint64_t free = 0;
      if (!ref(slots_[slot].taken).compare_exchange_strong(free, 1, std::memory_order_acquire)) continue;  // S5
      for (std::uint64_t& lost : slots_[slot].lost) ref(lost).store(0, std::memory_order_relaxed);         // S0
      return slot;
    }
    return 0;
  }
  void give_slot(std::uint32_t slot) const { ref(slots_[slot].taken).store(0, std::memory_order_release); }  // S5
  std::uint32_t slots_taken(std::uint32_t slot_count) const {
    std::uint32_t n = 0;
    for (std::uint32_t slot = 1; slot < slot_count; ++slot)
      n += ref(slots_[slot].taken).load(std::memory_order_relaxed) != 0;  // S0
    return n;
  }

  // Keeps a thread's own flag on its side of the section, against its own signal handlers only.
  static void signal_fence() { std::atomic_signal_fence(std::memory_order_seq_cst); }  // S0

 private:
  template <class T>
  static std::atomic_ref<T> ref(T& word) {
    static_assert(std::atomic_ref<T>::is_always_lock_free, "the words are shared between processes");
    return std::atomic_ref<T>(word);
  }
  // For counters with one writer at a time.
  static void add(std::uint64_t& counter, std::uint64_t n) {
    ref(counter).store(ref(counter).load(std::memory_order_relaxed) + n, std::memory_order_relaxed);  // S0
  }
  static void copy_fence([[maybe_unused]] std::memory_order order) {  // S7
#if !defined(RINGBUF_TSAN)            // g++ 12 refuses fences under TSan, which does not follow the copy anyway
    std::atomic_thread_fence(order);  // S7
#endif
  }
  ringbuf_record_header* header(std::uint64_t pos) const { return reinterpret_cast<ringbuf_record_header*>(at(pos)); }

  ringbuf_consumer_page* c_ = nullptr;
  ringbuf_producer_page* p_ = nullptr;
  unsigned char* data_ = nullptr;
  ringbuf_slot* slots_ = nullptr;
  std::uint64_t mask_ = 0;
  std::uint64_t limit_ = 0;
  bool overwrite_ = false;
};

// The words of a map of maps' table (S8): 64-bit, 8-aligned, one writer. Words of keys are ordered as well, so that who has seen
// any part of a new key also sees that the word in front of it is no longer the old one's.
struct ElementWord {
  static std::uint64_t load(const std::uint64_t* at) { return ref(at).load(std::memory_order_acquire); }              // S8
  static void store(std::uint64_t* at, std::uint64_t word) { ref(at).store(word, std::memory_order_release); }        // S8
  static std::uint64_t load_key(const std::uint64_t* at) { return ref(at).load(std::memory_order_acquire); }          // S8
  static void store_key(std::uint64_t* at, std::uint64_t bytes) { ref(at).store(bytes, std::memory_order_release); }  // S8

 private:
  static std::atomic_ref<std::uint64_t> ref(const std::uint64_t* at) {
    return std::atomic_ref<std::uint64_t>(*const_cast<std::uint64_t*>(at));
  }
};

}  // namespace ringbuf::shm
