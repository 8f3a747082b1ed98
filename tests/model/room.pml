// SPDX-License-Identifier: MIT
// S6, room: a producer that found the ring full sleeps until the consumer has freed what it needs. It must not sleep for ever.
// WAITERS producers wait for two units of a ring of two, ROUNDS times each, in a slot of their own. TAKERS others reserve one
// unit whenever there is one, RECORDS times, and give up otherwise. SINGLE_PRODUCER: there is no owner word, whose locked
// instruction would hide a weak announcement. The consumer sleeps as in S4, in poll or, with OWN_LOOP, in a loop of the
// application's; with BARE it runs whenever something is committed and no producer can wake it. With NO_WAKEUP the takers commit
// so.
// WITHOUT_PUBLISH, WITHOUT_NEED: consumer_pos, the need is a release store and no locked instruction. WITHOUT_TURN: a need of
// the same size is the same word. WITHOUT_SEQ_FIRST: room_seq is loaded behind the announcement (bad schedule 2).
// WITHOUT_KICK: a waiter does not wake the consumer before it sleeps. WITHOUT_RESCUE: NO_WAKEUP is obeyed although somebody
// waits.

#define CPUS (WAITERS + TAKERS + 1)
#define CAPACITY 2
#define UNITS (CAPACITY + 1) /* one stays free */
#define NEEDED 2
#define CX 0
#define PX 1
#define OWNER 2
#define WAITING 3
#define ROOM_WAITERS 4
#define ROOM_SEQ 5
#define NEED 6
#define HEADER (NEED + WAITERS) /* size, BUSY */
#define WORDS (HEADER + UNITS)
#define DEPTH 6
#define BUSY 4
#define SIZE(word) ((word) & 3)
#define TURN 4 /* the unit of a need's turn counter */
#include "store_buffer.pml"

#ifdef WITHOUT_PUBLISH
#define publish_consumer_pos(pos) store_release(CX, pos)
#else
#define publish_consumer_pos(pos) exchange(CX, pos)
#endif
#ifdef WITHOUT_NEED
#define set_need(need) store_release(NEED + ME, need)
#else
#define set_need(need) exchange(NEED + ME, need)
#endif
#ifdef WITHOUT_TURN
#define next_turn() skip
#else
#define next_turn() turn = turn + TURN
#endif

// Locals are set to 0 where their value is not needed any more: a quarter of the states remains.

bool edge;
bool asleep[WAITERS]; /* in FUTEX_WAIT on room_seq */
byte done;

// One step from taking the owner word to putting its release into the buffer: nobody else does anything between that matters,
// see owner.pml.
inline reserve(size) {
  atomic {
#ifndef SINGLE_PRODUCER
    buffer[ME].n == 0 && mem[OWNER] == 0 -> mem[OWNER] = 1;
#endif
    load(PX, pos);
    load(CX, consumed);
    got = pos + size - consumed <= CAPACITY;
    consumed = 0;
    if
    :: got ->
      store(HEADER + pos % UNITS, size + BUSY);
      store_release(PX, pos + size)
    :: else -> pos = 0
    fi;
#ifndef SINGLE_PRODUCER
    store_release(OWNER, 0)
#endif
  }
}

inline commit(size, no_wakeup) {
  exchange(HEADER + pos % UNITS, size);
  load(WAITING, waiting);
  if
  :: waiting != 0 ->
    load(CX, consumed);
    waiters = !no_wakeup;
    if
#ifndef WITHOUT_RESCUE
    :: no_wakeup -> load(ROOM_WAITERS, waiters)
#endif
    :: else
    fi;
    if
    :: consumed == pos && waiters != 0 -> edge = true
    :: else
    fi;
    waiting = 0; consumed = 0; waiters = 0
  :: else
  fi;
  pos = 0
}

active [WAITERS] proctype waiter() {
  byte record, pos, consumed, waiting, waiters, seq, turn;
  bool got, surprised;
  for (record : 1 .. ROUNDS) {
    reserve(NEEDED);
    if
    :: !got ->
      fetch_add(ROOM_WAITERS, 1); /* W0 */
      do
      ::
#ifndef WITHOUT_SEQ_FIRST
        load(ROOM_SEQ, seq); /* W1 */
#endif
        next_turn();
        set_need(NEEDED + turn); /* W2 */
#ifdef WITHOUT_SEQ_FIRST
        load(ROOM_SEQ, seq);
#endif
        reserve(NEEDED); /* W3 */
        if
        :: got -> break
        :: else
        fi;
        load(PX, pos);
        load(CX, consumed); /* W4 */
        if
        :: pos + NEEDED - consumed <= CAPACITY -> /* the second time in a row it is a short sleep */
          pos = 0; consumed = 0;
          surprised = !surprised
        :: else ->
          pos = 0; consumed = 0;
          surprised = false;
#ifndef WITHOUT_KICK
          load(WAITING, waiting);
          if
          :: waiting != 0 -> edge = true; waiting = 0
          :: else
          fi;
#endif
          atomic { asleep[ME] = mem[ROOM_SEQ] == seq }; /* W5 */
          !asleep[ME]
        fi
      od;
      next_turn();
      set_need(turn);
      fetch_add(ROOM_WAITERS, -1)
    :: else
    fi;
    commit(NEEDED, false)
  }
  done++
}

#if TAKERS
active [TAKERS] proctype taker() {
  byte record, pos, consumed, waiting, waiters;
  bool got;
  for (record : 1 .. RECORDS) {
    reserve(1);
    if
    :: got ->
#ifdef NO_WAKEUP
      commit(1, true)
#else
      commit(1, false)
#endif
    :: else
    fi
  }
  done++
}
#endif

inline tell_room() {
  load(ROOM_WAITERS, word); /* C2 */
  if
  :: word != 0 ->
    load(PX, end);
    for (slot : 0 .. WAITERS - 1) {
      load(NEED + slot, word); /* C3 */
      if
      :: SIZE(word) != 0 && word != told[slot] && end + SIZE(word) - pos <= CAPACITY ->
        told[slot] = word; /* C4 */
        tell = true
      :: else
      fi
    }
    slot = 0;
    if
    :: tell ->
      fetch_add(ROOM_SEQ, 1);
      d_step {
        for (slot : 0 .. WAITERS - 1) {
          asleep[slot] = false
        }
        slot = 0
      }
      tell = false
    :: else
    fi;
    end = 0; word = 0
  :: else
  fi
}

inline ready_at() {
  load(HEADER + pos % UNITS, word);
  load(PX, end);
  ready = false;
  if
  :: end != pos ->
    load(HEADER + pos % UNITS, word);
    ready = !(word & BUSY)
  :: else
  fi;
  end = 0; word = 0
}

inline consume() {
  given = pos;
  do
  :: begin = pos;
    load(PX, end);
    do
    :: pos == end -> break
    :: pos != end ->
      load(HEADER + pos % UNITS, word);
      if
      :: word & BUSY -> break
      :: else -> pos = pos + SIZE(word)
      fi
    od;
    if
    :: pos == begin -> tell_room(); break
    :: else
    fi;
    if
    :: pos != given -> publish_consumer_pos(pos); given = pos; tell_room() /* C1 */
    :: else
    fi;
    load(WAITING, word);
    if
    :: word == 0 -> break
    :: else
    fi;
    ready_at();
    if
    :: !ready -> break
    :: else
    fi
  od;
  given = 0; begin = 0; end = 0; word = 0; ready = false
}

active proctype consumer() {
  byte pos, begin, given, end, word, slot;
  byte told[WAITERS];
  bool ready, tell;
#ifdef BARE
end_without_data:
  do
  :: mem[PX] != pos && !(mem[HEADER + pos % UNITS] & BUSY) -> consume()
  od
#elif defined(OWN_LOOP)
  fetch_add(WAITING, 1);
  tell_room();
  ready_at();
  if
  :: ready -> edge = true
  :: else
  fi;
end_in_own_loop:
  do
  :: edge ->
    edge = false;
    consume()
  od
#else
  do
  :: consume();
    fetch_add(WAITING, 1);
    tell_room();
    ready_at();
    if
    :: ready -> fetch_add(WAITING, -1)
    :: else ->
end_in_poll:
      edge;
      fetch_add(WAITING, -1);
      edge = false
    fi
  od
#endif
}

active proctype judge() {
  bool asleep_for_ever;
  timeout;
  asleep_for_ever = asleep[0] || asleep[WAITERS - 1];
  assert(!asleep_for_ever);
  assert(done == WAITERS + TAKERS);
#ifndef NO_WAKEUP
  assert(mem[CX] == mem[PX])
#endif
}
