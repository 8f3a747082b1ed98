// SPDX-License-Identifier: MIT
// S5, the owner word of a reservation: PRODUCERS threads reserve RECORDS regions each, none gets a region that another has.
// What owners share (producer_pos, cached_pos) is read and written plainly between taking and leaving.
// WITHOUT_ATOMIC: the compare-exchange is a load and a store. WITHOUT_RELEASE: leaving is a plain store.

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
bool taken[REGIONS];
bool two_writers, stale_cache;
byte done;

inline try_own() {
#ifdef WITHOUT_ATOMIC
  load(OWNER, owner);
  if
  :: owner == 0 -> store(OWNER, ME + 1); mine = true
  :: else
  fi
#else
  compare_exchange(OWNER, 0, ME + 1, mine)
#endif
}

active [PRODUCERS] proctype producer() {
  byte record, pos, cached;
#ifdef WITHOUT_ATOMIC
  byte owner;
#endif
  bool mine;
  for (record : 1 .. RECORDS) {
    do
    :: !mine -> try_own()
    :: mine -> break
    od;
    load(PX, pos);
    load(CACHED, cached);
    d_step {
      two_writers = pos == REGIONS || taken[pos];
      stale_cache = cached != pos;
      assert(!two_writers);
      assert(!stale_cache);
      taken[pos] = true
    }
    store(CACHED, pos + 1);
    store_release(PX, pos + 1);
    disown(OWNER, 0);
    mine = false
  }
  done++
}

active proctype judge() {
  timeout;
  assert(done == PRODUCERS && mem[PX] == REGIONS && mem[OWNER] == 0)
}
