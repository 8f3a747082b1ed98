// SPDX-License-Identifier: MIT
// S8, a slot of a hash of maps that goes from key to key under a reader: whoever finds key K there has K's map. The daemon gives
// the slot to keys 1 and 2 in turn, ROUNDS times; a key is two words. The word in front of it is generation * 4 + id, and the
// map of key K has id K; id 0: deleted.
// WITHOUT_RECHECK: the reader does not look at the word again. WITHOUT_GENERATION: words come back. WITHOUT_WORD: the new word is
// no release store. WITHOUT_KEY: those of the key are none.

#define CPUS 2
#define WORD 0
#define KEY 1
#define WORDS (KEY + 2)
#define DEPTH 6
#include "store_buffer.pml"

#ifdef WITHOUT_GENERATION
#define word(generation, id) (id)
#else
#define word(generation, id) ((generation) * 4 + (id))
#endif
#ifdef WITHOUT_WORD
#define store_word store
#else
#define store_word store_release
#endif
#ifdef WITHOUT_KEY
#define store_key store
#else
#define store_key store_release
#endif

bool wrong_map;

active proctype daemon() {
  byte round;
  for (round : 1 .. ROUNDS) {
    buffer[ME].n <= 2; /* as many as a buffer holds here */
    store_word(WORD, word(2 * round, 0));
    store_key(KEY, 1 + round % 2);
    store_key(KEY + 1, 1 + round % 2);
    store_word(WORD, word(2 * round + 1, 1 + round % 2))
  }
}

active proctype reader() {
  byte key, before, first, second, after, looks;
  for (looks : 1 .. 2) {
    select (key : 1 .. 2);
    load(WORD, before);
    if
    :: before % 4 != 0 ->
      load(KEY, first);
      load(KEY + 1, second);
      after = before;
#ifndef WITHOUT_RECHECK
      load(WORD, after);
#endif
      if
      :: first == key && second == key && after == before ->
        wrong_map = before % 4 != key;
        assert(!wrong_map)
      :: else
      fi
    :: else
    fi
  }
}
