/* SPDX-License-Identifier: MIT */
/* consumer_c PIN COUNT: prints COUNT events from the ring pinned at PIN, sleeping while there are none. */
#include <stdio.h>
#include <stdlib.h>

#include "event.h"
#include "ringbuf/ringbuf.h"

static int print_event(void* ctx, void* data, size_t size) {
  const struct event* e = data;
  unsigned* left = ctx;
  if (size != sizeof *e) return 0; /* not ours */
  printf("%u %s\n", e->number, e->text);
  return --*left == 0 ? -1 : 0; /* negative: stop here */
}

static int die(void) {
  fprintf(stderr, "consumer_c: %s\n", ringbuf_last_error());
  return 1;
}

int main(int argc, char** argv) {
  struct ringbuf_session* session;
  struct ringbuf_map* map;
  struct ringbuf_consumer* consumer;
  struct ringbuf_poller* poller;
  unsigned left;

  if (argc != 3) {
    fprintf(stderr, "usage: consumer_c PIN COUNT\n");
    return 2;
  }
  left = (unsigned)strtoul(argv[2], NULL, 10);
  if (ringbuf_connect(NULL, &session) < 0) return die();
  if (ringbuf_map_open_pinned(session, argv[1], 0, &map) < 0) return die();
  if (ringbuf_consumer_attach(map, print_event, &left, &consumer) < 0) return die();
  if (ringbuf_poller_new(&poller) < 0 || ringbuf_poller_add(poller, consumer) < 0) return die();

  while (left != 0)
    if (ringbuf_poll(poller, -1) < 0 && left != 0) return die();

  ringbuf_poller_free(poller);
  ringbuf_consumer_free(consumer);
  ringbuf_map_free(map);
  ringbuf_session_free(session);
  return 0;
}
