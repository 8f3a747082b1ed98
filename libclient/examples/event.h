/* SPDX-License-Identifier: MIT */
/* What the examples send each other. */
#ifndef EXAMPLE_EVENT_H
#define EXAMPLE_EVENT_H

#include <stdint.h>

struct event {
  int32_t pid;
  uint32_t number;
  char text[40];
};

#endif
