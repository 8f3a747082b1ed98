// SPDX-License-Identifier: MIT
// S5, the reaper beside living producers, in a ring of four words. A record is a header, or a header and a payload word that
// looks like a BUSY header of the dead slot. The dead slot's only record is the third in the ring, behind two committed ones that
// pending_pos has not passed yet. PRODUCERS put RECORDS each, the reaper walks ROUNDS times as Recovery does: it must discard that
// one record and change no other word.
// WITHOUT_RECHECK: it does not look at pending_pos again. WITHOUT_FENCE: no release fence behind pending_pos.

#define CPUS (PRODUCERS + 2)
#define CX 0
#define PX 1
#define PENDING 2
#define OWNER 3
#define DATA 4
#define N 4
#define WORDS (DATA + N)
#define DEPTH 6
#include "store_buffer.pml"

/* Headers: committed, or BUSY, of one or two words; the dead one's, BUSY and of one word, and what the reaper makes of it. */
#define COMMITTED 0
#define BUSY 2
#define DEAD 5
#define DISCARDED 6
#define AT(position) (DATA + (position) % N)
#define IS_BUSY(header) (header > BUSY && header <= DEAD)
#define LENGTH(header) ((header == COMMITTED + 2 || header == BUSY + 2) -> 2 : 1)

#ifdef WITHOUT_FENCE
#define fence_pending() skip
#else
#define fence_pending() fence_release()
#endif

bool ready, harmed, wrong_payload;

active [PRODUCERS] proctype producer() {
  byte record, pos, before, pending, header, consumed, size;
  bool mine;
  ready;
  for (record : 1 .. RECORDS) {
    if
    :: size = 1
    :: size = 2
    fi;
again:
    do
    :: !mine -> compare_exchange(OWNER, 0, 1, mine)
    :: mine -> break
    od;
    load(PX, pos);
    load(PENDING, before);
    pending = before;
    do
    :: pending == pos -> break
    :: pending != pos ->
      load(AT(pending), header);
      if
      :: IS_BUSY(header) -> break
      :: else -> pending = pending + LENGTH(header)
      fi
    od;
    if
    :: pending != before ->
      store(PENDING, pending);
      fence_pending()
    :: else
    fi;
    load(CX, consumed);
    if
    :: pos + size - pending >= N || pos + size - consumed >= N ->
      store_release(OWNER, 0);
      mine = false;
      goto again
    :: else
    fi;
    store(AT(pos), BUSY + size);
    store_release(PX, pos + size);
    store_release(OWNER, 0);
    mine = false;
    if
    :: size == 2 -> store(AT(pos + 1), DEAD)
    :: else
    fi;
    exchange(AT(pos), COMMITTED + size)
  }
}

active proctype consumer() {
  byte records, pos, end, header, payload;
  ready;
  do
  :: records == 3 + PRODUCERS * RECORDS -> break
  :: else ->
    load(PX, end);
    if
    :: end != pos ->
      load(AT(pos), header);
      if
      :: !IS_BUSY(header) ->
        if
        :: LENGTH(header) == 2 ->
          load(AT(pos + 1), payload);
          wrong_payload = payload != DEAD;
          assert(!wrong_payload)
        :: else
        fi;
        pos = pos + LENGTH(header);
        exchange(CX, pos);
        records++
      :: else
      fi
    :: else
    fi
  od
}

active proctype reaper() {
  byte round, pos, end, header, bound;
  bool changed;
  ready;
  for (round : 1 .. ROUNDS) {
    load(PX, end);
    load(PENDING, pos);
    do
    :: pos >= end -> break
    :: else ->
      load(AT(pos), header);
#ifdef WITHOUT_RECHECK
      bound = pos;
#else
      load(PENDING, bound);
#endif
      if
      :: bound > pos -> pos = bound
      :: bound <= pos && LENGTH(header) > end - pos -> break
      :: bound <= pos && LENGTH(header) <= end - pos ->
        if
        :: header == DEAD ->
          compare_exchange(AT(pos), DEAD, DISCARDED, changed);
          harmed = changed && pos != 2;
          assert(!harmed);
          changed = false
        :: else
        fi;
        pos = pos + LENGTH(header)
      fi
    od
  }
}

init {
  atomic {
    mem[AT(0)] = COMMITTED + 1;
    mem[AT(1)] = COMMITTED + 1;
    mem[AT(2)] = DEAD;
    mem[PX] = 3;
    ready = true
  }
}
