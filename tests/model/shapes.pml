// SPDX-License-Identifier: MIT
// What store_buffer.pml itself allows, by the names that such shapes have in the literature. Each says what a machine of its kind
// never shows (`holds`) or must be able to show (`fails`).
//   SB        two CPUs each store a word, then load the other's; with LOCKED the store is an exchange
//   MP        data, then a flag; with RELEASE the flag is a release store, with FENCED a release fence is between them
//   COHERENT  two stores to one word
//   FORWARD   a CPU loads what it has just stored

#define CPUS 2
#define X 0
#define Y 1
#define WORDS 2
#define DEPTH 3
#include "store_buffer.pml"

#ifdef LOCKED
#define set exchange
#else
#define set store
#endif

byte seen[2];
byte done;

active [2] proctype program() {
#if defined(SB)
  set(X + ME, 1);
  load(X + 1 - ME, seen[ME]);
#elif defined(MP)
  if
  :: ME == 0 ->
    store(X, 1);
#ifdef FENCED
    fence_release();
#endif
#ifdef RELEASE
    store_release(Y, 1)
#else
    store(Y, 1)
#endif
  :: ME == 1 ->
    load(Y, seen[0]);
    load(X, seen[1])
  fi;
#elif defined(COHERENT)
  if
  :: ME == 0 ->
    store(X, 1);
    store(X, 2)
  :: ME == 1 ->
    load(X, seen[0]);
    load(X, seen[1])
  fi;
#else
  store(X + ME, 1);
  store(X + ME, 2);
  load(X + ME, seen[ME]);
#endif
  done++
}

active proctype judge() {
  bool odd;
  timeout;
  assert(done == 2);
#if defined(SB)
  odd = seen[0] == 0 && seen[1] == 0;
#elif defined(MP)
  odd = seen[0] == 1 && seen[1] == 0;
#elif defined(COHERENT)
  odd = seen[0] > seen[1] || mem[X] != 2;
#else
  odd = seen[0] != 2 || seen[1] != 2;
#endif
  assert(!odd)
}
