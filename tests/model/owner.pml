// SPDX-License-Identifier: MIT
// S5, the owner word of a reservation: PRODUCERS threads reserve RECORDS regions each, none gets a region that another has.
// What owners share (producer_pos, cached_pos) is read and written plainly between taking and leaving.
// WITHOUT_ATOMIC: the compare-exchange is a load and a store. WITHOUT_RELEASE: leaving is a plain store.
//
// DEATH: one of them may die at any step of its section. The kernel then turns its id in the word into DIED, and the next one
// takes the word over. WITHOUT_MARK: the kernel does not. WITHOUT_FLUSH: it does before the dead one's stores have left its CPU.
// FROM_THE_LIVING: the word is taken away although its owner goes on.

#define CPUS PRODUCERS
#define OWNER 0
#define PX 1
#define CACHED 2
#define WORDS 3
#define DEPTH 5
#include "store_buffer.pml"

#ifdef WITHOUT_RELEASE
#define disown store
#else
#define disown store_release
#endif

#define REGIONS (PRODUCERS * RECORDS)
#define DIED 100
bool taken[REGIONS];
bool two_writers, stale_cache, stuck;
byte done;

inline try_own() {
#ifdef WITHOUT_ATOMIC
  load(OWNER, owner);
  if
  :: owner == 0 -> store(OWNER, ME + 1); mine = true
  :: else
  fi
#else
  compare_exchange(OWNER, 0, ME + 1, mine);
#ifdef DEATH
  if
  :: !mine -> compare_exchange(OWNER, DIED, ME + 1, mine)
  :: else
  fi
#endif
#endif
}

// The first producer's last step, or not.
inline may_die() {
#ifdef DEATH
  if
  :: ME == 0 -> goto dead
  :: true
  fi
#else
  skip
#endif
}

active [PRODUCERS] proctype producer() {
  byte record, pos, cached;
#ifdef WITHOUT_ATOMIC
  byte owner;
#endif
  bool mine, published;
  for (record : 1 .. RECORDS) {
    do
    :: !mine -> try_own()
    :: mine -> break
    od;
    pos = REGIONS;
    published = false;
    may_die();
    load(PX, pos);
    load(CACHED, cached);
    d_step {
      two_writers = pos == REGIONS || taken[pos];
#ifdef DEATH
      stale_cache = cached < pos; /* one that died may have written it and nothing else */
#else
      stale_cache = cached != pos;
#endif
      assert(!two_writers);
      assert(!stale_cache);
      taken[pos] = true
    }
    may_die();
    store(CACHED, pos + 1);
    may_die();
    store_release(PX, pos + 1);
    published = true;
    may_die();
    disown(OWNER, 0);
    mine = false
  }
  goto out;
dead:
  // Its region is free again if it is not published, and nobody's for ever if it is.
  atomic {
#ifndef WITHOUT_FLUSH
    buffer[ME].n == 0;
#endif
    if
    :: pos < REGIONS && !published -> taken[pos] = false
    :: else
    fi;
#ifndef WITHOUT_MARK
    if
    :: mem[OWNER] == ME + 1 -> mem[OWNER] = DIED
    :: else
    fi
#endif
  }
#ifdef FROM_THE_LIVING
  if
  :: pos < REGIONS && !published ->
    two_writers = mem[PX] != pos; /* it goes on to write its header at pos */
    assert(!two_writers)
  :: else
  fi
#endif
out:
  done++
}

active proctype judge() {
  timeout;
#ifdef DEATH
  stuck = done != PRODUCERS || (mem[OWNER] != 0 && mem[OWNER] != DIED);
  assert(!stuck)
#else
  assert(done == PRODUCERS && mem[PX] == REGIONS && mem[OWNER] == 0)
#endif
}
