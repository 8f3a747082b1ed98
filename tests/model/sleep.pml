// SPDX-License-Identifier: MIT
// S4, sleep and wake: PRODUCERS commit RECORDS records between them, the consumer sleeps whenever it finds nothing. It must not
// sleep for ever while a committed record is there. The sleeper is in poll or, with OWN_LOOP, in a loop of the application's on
// the epoll descriptor. All producers' eventfds are in one epoll: `edge` is its being readable. No place is used twice.
// WITHOUT_PUBLISH, WITHOUT_WAITING, WITHOUT_COMMIT: consumer_pos, waiting, the header is a release store and no locked
// instruction.

#define CPUS (PRODUCERS + 1)
#define CX 0
#define PX 1
#define OWNER 2
#define WAITING 3
#define HEADER 4 /* BUSY or not; one behind the last is looked at too */
#define WORDS (HEADER + RECORDS + 1)
#define DEPTH 6
#define BUSY 1
#include "store_buffer.pml"

#ifdef WITHOUT_PUBLISH
#define publish_consumer_pos(pos) store_release(CX, pos)
#else
#define publish_consumer_pos(pos) exchange(CX, pos)
#endif
#ifdef WITHOUT_WAITING
#define add_waiting() store_release(WAITING, 1)
#else
#define add_waiting() fetch_add(WAITING, 1)
#endif
#ifdef WITHOUT_COMMIT
#define commit_header(pos) store_release(HEADER + pos, 0)
#else
#define commit_header(pos) exchange(HEADER + pos, 0)
#endif

bool edge;
bool committed[RECORDS]; /* or soon: the store may be on its way */
byte done;

active [PRODUCERS] proctype producer() {
  byte pos, waiting, consumed;
  bool mine;
  do
  :: do
    :: !mine -> compare_exchange(OWNER, 0, 1, mine)
    :: mine -> break
    od;
    load(PX, pos);
    if
    :: pos == RECORDS -> store_release(OWNER, 0); break
    :: else
    fi;
    store(HEADER + pos, BUSY);
    store_release(PX, pos + 1);
    store_release(OWNER, 0);
    mine = false;
    committed[pos] = true;
    commit_header(pos); /* P1 */
    load(WAITING, waiting); /* P2 */
    if
    :: waiting != 0 ->
      load(CX, consumed); /* P3 */
      if
      :: consumed == pos -> edge = true
      :: else
      fi
    :: else
    fi
  od;
  done++
}

inline ready_at() {
  load(HEADER + pos, header); /* C3 */
  load(PX, end);
  ready = false;
  if
  :: end != pos ->
    load(HEADER + pos, header);
    ready = header != BUSY
  :: else
  fi
}

inline consume() {
  given = pos;
  do
  :: begin = pos;
    load(PX, end);
    do
    :: pos == end -> break
    :: pos != end ->
      load(HEADER + pos, header);
      if
      :: header == BUSY -> break
      :: else
      fi;
      assert(committed[pos]);
      pos++;
      if /* a batch may end here */
      :: publish_consumer_pos(pos); given = pos
      :: skip
      fi
    od;
    if
    :: pos == begin -> break
    :: else
    fi;
    if
    :: pos != given -> publish_consumer_pos(pos); given = pos /* C1 */
    :: else
    fi;
    load(WAITING, waiting);
    if
    :: waiting == 0 -> break
    :: else
    fi;
    ready_at();
    if
    :: !ready -> break
    :: else
    fi
  od
}

active proctype consumer() {
  byte pos, begin, given, end, header, waiting;
  bool ready;
#ifdef OWN_LOOP
  add_waiting(); /* C2: the descriptor is handed out */
  ready_at();
  if
  :: ready -> edge = true
  :: else
  fi;
  do
  :: edge ->
    edge = false;
    consume();
    if
    :: pos == RECORDS -> break
    :: else
    fi
  od;
#else
  do
  :: consume();
    if
    :: pos == RECORDS -> break
    :: else
    fi;
    add_waiting(); /* C2 */
    ready_at();
    if
    :: ready -> fetch_add(WAITING, -1)
    :: else ->
      edge; /* epoll_wait */
      fetch_add(WAITING, -1);
      edge = false
    fi
  od;
#endif
  done++
}

active proctype judge() {
  bool asleep_for_ever;
  timeout;
  asleep_for_ever = mem[PX] == RECORDS && done < CPUS;
  assert(!asleep_for_ever);
  assert(done == CPUS)
}
