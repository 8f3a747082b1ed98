// SPDX-License-Identifier: MIT
// S1, S2, S3 and S5 together: two producers put RECORDS records each through a ring of SLOTS, so that bytes are used again, and
// the consumer must find each record's own payload. Reserve, commit and consume as in Producer and Consumer, but for pending_pos
// (which an honest consumer never makes a difference to) and for waiting, which is polling here.
// WITHOUT_S1: the payload is read after consumer_pos was published. WITHOUT_S2, WITHOUT_S3, WITHOUT_S5: producer_pos, the
// commit, the owner word is stored plainly.

#define CPUS 3
#define CX 0
#define PX 1
#define OWNER 2
#define CACHED 3
#define HEADER 4
#define PAYLOAD (HEADER + SLOTS)
#define WORDS (PAYLOAD + SLOTS)
#define DEPTH 6
#define BUSY 1
#include "store_buffer.pml"

#ifdef WITHOUT_S2
#define publish store
#else
#define publish store_release
#endif
#ifdef WITHOUT_S3
#define commit store
#else
#define commit exchange
#endif
#ifdef WITHOUT_S5
#define disown store
#else
#define disown store_release
#endif

#define ALL (2 * RECORDS)

active [2] proctype producer() {
  byte record, pos, cached;
  bool mine;
  for (record : 1 .. RECORDS) {
again:
    do
    :: !mine -> compare_exchange(OWNER, 0, 1, mine)
    :: mine -> break
    od;
    load(PX, pos);
    load(CACHED, cached);
    if
    :: pos - cached == SLOTS ->
      load(CX, cached);
      store(CACHED, cached)
    :: else
    fi;
    if
    :: pos - cached == SLOTS ->
      disown(OWNER, 0);
      mine = false;
      goto again
    :: else
    fi;
    store(HEADER + pos % SLOTS, BUSY);
    publish(PX, pos + 1);
    disown(OWNER, 0);
    mine = false;
    store(PAYLOAD + pos % SLOTS, pos + 1);
    commit(HEADER + pos % SLOTS, 0)
  }
}

active proctype consumer() {
  byte pos, end, header, payload;
  bool wrong_payload;
  do
  :: pos == ALL -> break
  :: pos < ALL ->
    load(PX, end);
    if
    :: end != pos ->
      load(HEADER + pos % SLOTS, header);
      if
      :: header != BUSY ->
#ifdef WITHOUT_S1
        exchange(CX, pos + 1);
#endif
        load(PAYLOAD + pos % SLOTS, payload);
        wrong_payload = payload != pos + 1;
        assert(!wrong_payload);
#ifndef WITHOUT_S1
        exchange(CX, pos + 1);
#endif
        pos++
      :: else
      fi
    :: else
    fi
  od
}
