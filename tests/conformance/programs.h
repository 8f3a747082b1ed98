/* SPDX-License-Identifier: MIT */
/* What the BPF programs of programs.bpf.c and kernel.cpp say to each other: the layout of the programs' global variables, which
 * both see through one mapping. */
#ifndef RINGBUF_TESTS_CONFORMANCE_PROGRAMS_H
#define RINGBUF_TESTS_CONFORMANCE_PROGRAMS_H

#include <linux/types.h>

enum {
  kBytes = 1 << 17,   /* room for payloads, each way */
  kSamples = 1 << 13, /* samples of one drain whose sizes are kept */
};

/* Sizes that bpf_ringbuf_reserve, which takes constants only, is called with. */
#define CONSTANT_SIZES(X) X(0) X(8) X(32) X(100) X(1000) X(4080) X(4081) X(4088) X(4089) X(0x30000) X(0x3fffffff) X(0x40000000)
/* Lengths for bpf_dynptr_data, constants too. */
#define CONSTANT_LENGTHS(X) X(0) X(1) X(8) X(100) X(101)

enum op_code {
  OP_WAIT,    /* the program sets this when the operation is done, and sleeps */
  OP_END,     /* the program discards what is open, and ends */
  OP_RESERVE, /* slot, a = size, flags: bpf_ringbuf_reserve_dynptr; opens the slot whatever the result */
  OP_SUBMIT,  /* slot, flags: bpf_ringbuf_submit_dynptr; closes the slot */
  OP_DISCARD, /* slot, flags: bpf_ringbuf_discard_dynptr; closes the slot */
  OP_WRITE,   /* slot, a = length of `in`, b = offset, flags: bpf_dynptr_write */
  OP_READ,    /* slot, a = length, b = offset, flags: bpf_dynptr_read into `out` */
  OP_DATA,    /* slot, a = length, b = offset: is there memory, by bpf_dynptr_data */
  OP_SIZE,    /* slot: bpf_dynptr_size */
};

struct op {
  __u32 code, slot;
  __u64 a, b, flags;
  __s64 result;
};

struct shared {
  /* produce */
  struct op op;
  __u64 gates[2]; /* addresses that it reads to wait, in turn */
  __u64 waits;
  char byte;
  /* the others */
  __u64 size;         /* record: one of CONSTANT_SIZES; output, put_by_*: bytes of `in` */
  __u64 flags;        /* record: of reserve; query: what; output, drain: flags */
  __u64 commit_flags; /* record: of submit or discard */
  __u32 discard;      /* record: discard it */
  __u32 nested;       /* drain: the callback of the first sample drains, too */
  __u64 stop_at;      /* drain: the callback returns 1 for this sample, counted from 1 */
  __u32 key;          /* put_by_*: where in `array` or `hash` the ring is */
  __s64 result;       /* what the helper returned. record: 1 if there was memory. put_by_*: 1 if there was no ring */
  __s64 nested_result;
  __u64 sampled, sampled_bytes;
  __u32 sizes[kSamples];
  char in[2 * kBytes];
  char out[2 * kBytes];
  char samples[2 * kBytes];
};

#endif
