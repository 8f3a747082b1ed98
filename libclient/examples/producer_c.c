/* SPDX-License-Identifier: MIT */
/* producer_c PIN COUNT: sends COUNT events into the ring pinned at PIN, which it creates if it is not there. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "event.h"
#include "ringbuf/ringbuf.h"

static int die(void) {
  fprintf(stderr, "producer_c: %s\n", ringbuf_last_error());
  return 1;
}

int main(int argc, char** argv) {
  struct ringbuf_session* session;
  struct ringbuf_map* map;
  struct ringbuf_producer* producer;
  unsigned i, count;
  int err;

  if (argc != 3) {
    fprintf(stderr, "usage: producer_c PIN COUNT\n");
    return 2;
  }
  count = (unsigned)strtoul(argv[2], NULL, 10);
  if (ringbuf_connect(NULL, &session) < 0) return die();

  err = ringbuf_map_open_pinned(session, argv[1], RINGBUF_RIGHT_PRODUCE, &map);
  if (err == -ENOENT) {
    if (ringbuf_map_create(session, "example", 64 * 1024, NULL, &map) < 0) return die();
    err = ringbuf_map_pin(map, argv[1]);
  }
  if (err < 0 || ringbuf_producer_attach(map, &producer) < 0) return die();

  for (i = 0; i < count; ++i) {
    struct event* e = ringbuf_reserve_wait(producer, sizeof *e, -1);
    if (!e) {
      perror("producer_c: reserve");
      return 1;
    }
    e->pid = (int32_t)getpid();
    e->number = i;
    snprintf(e->text, sizeof e->text, "hello from C, %u", i);
    ringbuf_submit(producer, e, 0); /* wakes the consumer if it has caught up, and only then */
  }

  ringbuf_producer_free(producer);
  ringbuf_map_free(map);
  ringbuf_session_free(session);
  return 0;
}
