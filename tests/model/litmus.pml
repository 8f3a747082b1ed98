// SPDX-License-Identifier: MIT
// The four litmus shapes that were posted with the kernel's ring buffer: PRODUCERS (1 or 2) push one record each, the consumer
// makes as many passes. BOUNDED: one slot. Holds S2 (a header that was not written yet is never read) and S5; the final states
// are those that herd7 found for the kernel's. WITHOUT_S2, WITHOUT_S5: producer_pos or the owner word is stored plainly.

#define CPUS (PRODUCERS + 1)
#define CX 0
#define PX 1
#define OWNER 2
#define LEN 3 /* 0: never written, BUSY, COMMITTED */
#define BUSY 2
#define COMMITTED 1
#ifdef BOUNDED
#define SLOTS 1
#else
#define SLOTS PRODUCERS
#endif
#define WORDS (LEN + SLOTS)
#define DEPTH 4
#include "store_buffer.pml"

#ifdef WITHOUT_S2
#define publish store
#else
#define publish store_release
#endif
#ifdef WITHOUT_S5
#define disown store
#else
#define disown store_release
#endif

byte dropped, done;
bool unwritten_header;

active [PRODUCERS] proctype producer() {
  byte cx, px;
  bool mine;
  load(CX, cx);
  do
  :: !mine -> compare_exchange(OWNER, 0, 1, mine)
  :: mine -> break
  od;
  load(PX, px);
  if
#ifdef BOUNDED
  :: px - cx >= SLOTS -> dropped++; disown(OWNER, 0)
#endif
  :: else ->
    store(LEN + px % SLOTS, BUSY);
    publish(PX, px + 1);
    disown(OWNER, 0);
    exchange(LEN + px % SLOTS, COMMITTED)
  fi;
  done++
}

active proctype consumer() {
  byte pass, cx, px, seen;
  for (pass : 1 .. PRODUCERS) {
    load(CX, cx);
    load(PX, px);
    if
    :: cx < px ->
      load(LEN + cx % SLOTS, seen);
      if
      :: seen == 0 -> unwritten_header = true
      :: seen == COMMITTED -> store_release(CX, cx + 1)
      :: seen == BUSY
      fi
    :: else
    fi
  }
  done++
}

active proctype judge() {
  byte i;
  bool record_lost;
  timeout; /* nobody can take a step, so the buffers are empty too */
  assert(done == CPUS);
  printf("final: dropped %d px %d cx %d\n", dropped, mem[PX], mem[CX]);
  assert(!unwritten_header);
  for (i : 0 .. SLOTS - 1) {
    record_lost = record_lost || mem[LEN + i] != COMMITTED
  }
#ifdef BOUNDED
  record_lost = record_lost || dropped == PRODUCERS || mem[PX] != PRODUCERS - dropped;
#else
  record_lost = record_lost || dropped != 0 || mem[PX] != PRODUCERS;
#endif
  assert(!record_lost);
#if defined(BOUNDED) && PRODUCERS == 2
  assert(mem[CX] == mem[PX] || mem[CX] == mem[PX] - 1)
#else
  assert(mem[CX] <= mem[PX])
#endif
}
