/* SPDX-License-Identifier: MIT */
/* The C header alone, as strict C99: compiles without a warning, and a record goes through. */
#include <stdio.h>
#include <string.h>

#include "ringbuf/ringbuf.h"

static int remember(void* ctx, void* data, size_t size) {
  memcpy(ctx, data, size);
  return 0;
}

int main(void) {
  struct ringbuf_map_create_opts opts;
  struct ringbuf_map* map;
  struct ringbuf_producer* producer;
  struct ringbuf_consumer* consumer;
  char got[8] = "";
  void* data;

  memset(&opts, 0, sizeof opts);
  opts.sz = sizeof opts;
  if (ringbuf_map_create(NULL, "c99", 4096, &opts, &map) < 0 || ringbuf_producer_attach(map, &producer) < 0 ||
      ringbuf_consumer_attach(map, remember, got, &consumer) < 0) {
    fprintf(stderr, "%s\n", ringbuf_last_error());
    return 1;
  }
  data = ringbuf_reserve(producer, 6, 0);
  if (!data) return 1;
  memcpy(data, "hello", 6);
  ringbuf_submit(producer, data, RINGBUF_NO_WAKEUP);
  if (ringbuf_query(producer, RINGBUF_AVAIL_DATA) != 16) return 1;
  if (ringbuf_consume(consumer) != 1 || strcmp(got, "hello") != 0) return 1;
  ringbuf_consumer_free(consumer);
  ringbuf_producer_free(producer);
  ringbuf_map_free(map);
  printf("%s says %s\n", ringbuf_version(), got);
  return 0;
}
