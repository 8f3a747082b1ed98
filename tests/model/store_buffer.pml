// SPDX-License-Identifier: MIT
// Shared memory as x86-64 shows it. Each CPU has a buffer of stores that have not reached memory yet. They leave it in order, at
// any time; the CPU's own loads see them, nobody else's do. A locked instruction waits until the buffer is empty.
//
// With ANY_ORDER stores leave in any order: what a compiler or arm64 may do with plain stores. Then only these are ordered: two
// stores to one word, a release store behind everything before it, and both sides of a release fence.
//
// Before the include: CPUS programs, WORDS words of memory (all 0), DEPTH stores in a buffer (too few is an error, not a stall).
// The programs are the first CPUS active processes after it.

#define ME (_pid - CPUS)
#define FENCE WORDS /* in a buffer: a fence and no store */

typedef Buffer {
  byte n;
  byte word[DEPTH];
  byte value[DEPTH];
#ifdef ANY_ORDER
  bool last[DEPTH] /* leaves when no older store is left */
#endif
}
Buffer buffer[CPUS];
byte mem[WORDS + 1];
byte scratch; /* 0 between steps */

inline load(address, result) {
  d_step {
    scratch = buffer[ME].n;
    do
    :: scratch > 0 && buffer[ME].word[scratch - 1] != (address) -> scratch--
    :: else -> break
    od;
    if
    :: scratch > 0 -> result = buffer[ME].value[scratch - 1]
    :: else -> result = mem[address]
    fi;
    scratch = 0
  }
}

inline put(address, new, release) {
  d_step {
    assert(buffer[ME].n < DEPTH);
    buffer[ME].word[buffer[ME].n] = address;
    buffer[ME].value[buffer[ME].n] = new;
#ifdef ANY_ORDER
    buffer[ME].last[buffer[ME].n] = release;
#endif
    buffer[ME].n++
  }
}
inline store(address, new) { put(address, new, false) }
inline store_release(address, new) { put(address, new, true) }
inline fence_release() {
#ifdef ANY_ORDER
  put(FENCE, 0, true)
#else
  skip
#endif
}

// Locked instructions: full barriers.
inline exchange(address, new) { atomic { buffer[ME].n == 0 -> mem[address] = new } }
inline fetch_add(address, more) { atomic { buffer[ME].n == 0 -> mem[address] = mem[address] + (more) } }
inline compare_exchange(address, old, new, success) {
  atomic {
    buffer[ME].n == 0;
    if
    :: mem[address] == (old) -> mem[address] = new; success = true
    :: else -> success = false
    fi
  }
}

#ifdef ANY_ORDER
#define PASSES(i, j) (j >= i || (buffer[_pid].word[j] != buffer[_pid].word[i] && buffer[_pid].word[j] != FENCE))
#define MAY_LEAVE(i) \
  (i == 0 || (!buffer[_pid].last[i] && PASSES(i, 0) && PASSES(i, 1) && PASSES(i, 2) && PASSES(i, 3) && PASSES(i, 4)))
#if DEPTH > 6
#error "PASSES is spelt out for six stores"
#endif
#endif

active [CPUS] proctype store_buffer() {
  byte i;
end:
  do
  :: atomic {
      buffer[_pid].n > 0 ->
#ifdef ANY_ORDER
      do
      :: MAY_LEAVE(i) -> break
      :: i + 1 < buffer[_pid].n -> i++
      :: i + 1 == buffer[_pid].n && !MAY_LEAVE(i) -> i = 0; break
      od;
#endif
      d_step {
        mem[buffer[_pid].word[i]] = buffer[_pid].value[i];
        buffer[_pid].n--;
        do
        :: i < buffer[_pid].n ->
          buffer[_pid].word[i] = buffer[_pid].word[i + 1];
          buffer[_pid].value[i] = buffer[_pid].value[i + 1];
#ifdef ANY_ORDER
          buffer[_pid].last[i] = buffer[_pid].last[i + 1];
#endif
          i++
        :: else -> break
        od;
        buffer[_pid].word[i] = 0;
        buffer[_pid].value[i] = 0;
#ifdef ANY_ORDER
        buffer[_pid].last[i] = false;
#endif
        i = 0
      }
    }
  od
}
