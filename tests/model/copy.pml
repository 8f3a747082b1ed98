// SPDX-License-Identifier: MIT
// S7, a copy that is made beside the writer and believed only if nobody may have overwritten it meanwhile: not torn then.
// As built: the observer, which looks at consumer_pos after its copy. With OVERWRITE: the reader of a ring whose producer goes on
// when it is full; overwrite_pos is stored, then a release fence, then the bytes. The producer writes RECORDS records, of a
// header and two words each, through two slots.
// WITHOUT_RECHECK: the position is loaded before the copy. WITHOUT_FENCE (with OVERWRITE): no fence behind overwrite_pos.
// WITHOUT_S1 (observer): the producer does not look at consumer_pos before it writes.

#ifdef OVERWRITE
#define CPUS 2
#else
#define CPUS 3
#endif
#define SLOTS 2
#define FREED 0 /* consumer_pos or overwrite_pos: bytes below it may be reused */
#define PX 1
#define HEADER 2
#define FIRST (HEADER + SLOTS)
#define SECOND (FIRST + SLOTS)
#define WORDS (SECOND + SLOTS)
#define DEPTH 6
#define BUSY 1
#include "store_buffer.pml"

active proctype producer() {
  byte pos, consumed;
  for (pos : 0 .. RECORDS - 1) {
#ifdef OVERWRITE
    if
    :: pos >= SLOTS ->
      store(FREED, pos + 1 - SLOTS);
#ifndef WITHOUT_FENCE
      fence_release()
#endif
    :: else
    fi;
#elif !defined(WITHOUT_S1)
    do
    :: pos - consumed == SLOTS -> load(FREED, consumed)
    :: else -> break
    od;
#endif
    store(HEADER + pos % SLOTS, BUSY);
    store_release(PX, pos + 1);
    store(FIRST + pos % SLOTS, pos + 1);
    store(SECOND + pos % SLOTS, pos + 1);
    exchange(HEADER + pos % SLOTS, 0)
  }
}

#ifndef OVERWRITE
active proctype consumer() {
  byte pos, end, header;
  do
  :: pos == RECORDS -> break
  :: pos < RECORDS ->
    load(PX, end);
    if
    :: end != pos ->
      load(HEADER + pos % SLOTS, header);
      if
      :: header != BUSY -> pos++; exchange(FREED, pos)
      :: else
      fi
    :: else
    fi
  od
}
#endif

bool torn;

active proctype reader() {
  byte pos, end, header, first, second, freed;
  do
  :: load(PX, end);
    load(FREED, pos);
    if
    :: pos < end -> /* any record that was there */
      do
      :: pos + 1 < end -> pos++
      :: break
      od;
#ifdef WITHOUT_RECHECK
      load(FREED, freed);
#endif
      load(HEADER + pos % SLOTS, header);
      load(FIRST + pos % SLOTS, first);
      load(SECOND + pos % SLOTS, second);
#ifndef WITHOUT_RECHECK
      load(FREED, freed);
#endif
      if
      :: header != BUSY && freed <= pos ->
        torn = first != pos + 1 || second != pos + 1;
        assert(!torn)
      :: else
      fi
    :: else
    fi;
    if
    :: end == RECORDS -> break
    :: else
    fi
  od
}
