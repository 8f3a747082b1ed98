// SPDX-License-Identifier: MIT
// The kernel half's programs. Arguments and results are in `shared`.
//
// `produce` holds reservations open: one run of it lasts as long as the test's ring, takes operations from `shared.op` and
// sleeps between them. It sleeps by reading a user page that userfaultfd holds back. The other programs make one call and end.
#include "programs.h"

#include <bpf/bpf_helpers.h>
#include <linux/bpf.h>

struct bpf_iter_num {
  __u64 opaque;
};
extern int bpf_iter_num_new(struct bpf_iter_num* it, int start, int end) __ksym;
extern int* bpf_iter_num_next(struct bpf_iter_num* it) __ksym;
extern void bpf_iter_num_destroy(struct bpf_iter_num* it) __ksym;
extern __u32 bpf_dynptr_size(const struct bpf_dynptr* ptr) __ksym;

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 4096);
} ring SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_USER_RINGBUF);
  __uint(max_entries, 4096);
} user_ring SEC(".maps");

struct inner {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 4096);
};
struct {
  __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
  __uint(max_entries, 4);
  __type(key, __u32);
  __array(values, struct inner);
} array SEC(".maps");
struct {
  __uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
  __uint(max_entries, 4);
  __type(key, __u32);
  __array(values, struct inner);
} hash SEC(".maps");

struct shared shared;

// Two calls that differ in a constant or in a stack slot must stay two calls: the verifier wants both known.
#define KEEP_APART(n) asm volatile("r1 = %0" ::"i"(n) : "r1")
#define SLOTS(X) X(0) X(1) X(2) X(3)

// What the verifier keeps apart, for each operation: which slots are open. So nothing else may live in a register or on the stack
// from one turn of the loop to the next, and `op` is read where it is used.
SEC("syscall")
int produce(void* ctx) {
  struct bpf_iter_num it;
#define X(n)              \
  struct bpf_dynptr d##n; \
  _Bool open##n = 0;
  SLOTS(X)
#undef X

  bpf_iter_num_new(&it, 0, 1 << 23);
  while (bpf_iter_num_next(&it)) {
    volatile struct op* op = &shared.op;
    if (op->code == OP_WAIT) {
      const __u64 gate = shared.gates[shared.waits++ & 1];
      if (bpf_copy_from_user(&shared.byte, 1, (void*)gate)) break;
      continue;
    }
    if (op->code == OP_END) break;
    switch (op->code) {
#define ON_SLOT(n, wanted, action) \
  if (op->slot == n) {             \
    if (open##n == wanted) {       \
      action;                      \
      KEEP_APART(n);               \
    }                              \
    break;                         \
  }
      case OP_RESERVE:
#define X(n) ON_SLOT(n, 0, (op->result = bpf_ringbuf_reserve_dynptr(&ring, op->a, op->flags, &d##n), open##n = 1))
        SLOTS(X)
#undef X
        break;
      case OP_SUBMIT:
#define X(n) ON_SLOT(n, 1, (bpf_ringbuf_submit_dynptr(&d##n, op->flags), open##n = 0))
        SLOTS(X)
#undef X
        break;
      case OP_DISCARD:
#define X(n) ON_SLOT(n, 1, (bpf_ringbuf_discard_dynptr(&d##n, op->flags), open##n = 0))
        SLOTS(X)
#undef X
        break;
      case OP_WRITE:
#define X(n) ON_SLOT(n, 1, op->result = bpf_dynptr_write(&d##n, op->b, shared.in, op->a & (kBytes - 1), op->flags))
        SLOTS(X)
#undef X
        break;
      // One slot is enough for these, and saves the verifier work.
      case OP_READ:
        if (open0) op->result = bpf_dynptr_read(shared.out, op->a & (kBytes - 1), &d0, op->b, op->flags);
        break;
      case OP_SIZE:
        if (open0) op->result = (__s32)bpf_dynptr_size(&d0);
        break;
      case OP_DATA:
        if (!open0) break;
        switch (op->a) {
#define X(n)                                                 \
  case n:                                                    \
    op->result = bpf_dynptr_data(&d0, op->b, n) != (void*)0; \
    KEEP_APART(n);                                           \
    break;
          CONSTANT_LENGTHS(X)
#undef X
        }
        break;
    }
    op->code = OP_WAIT;
  }
  bpf_iter_num_destroy(&it);
#define X(n) \
  if (open##n) bpf_ringbuf_discard_dynptr(&d##n, BPF_RB_NO_WAKEUP);
  SLOTS(X)
#undef X
  return 0;
}

SEC("syscall")
int record(void* ctx) {
  const __u64 flags = shared.flags, commit_flags = shared.commit_flags;
  void* payload;
  switch (shared.size) {
#define X(n)                                                            \
  case n:                                                               \
    payload = bpf_ringbuf_reserve(&ring, n, flags);                     \
    KEEP_APART(n);                                                      \
    shared.result = payload != (void*)0;                                \
    if (!payload) return 0;                                             \
    bpf_probe_read_kernel(payload, n < kBytes ? n : kBytes, shared.in); \
    if (shared.discard) bpf_ringbuf_discard(payload, commit_flags);     \
    else bpf_ringbuf_submit(payload, commit_flags);                     \
    KEEP_APART(n);                                                      \
    return 0;
    CONSTANT_SIZES(X)
#undef X
  }
  shared.result = -1000;
  return 0;
}

SEC("syscall")
int output(void* ctx) {
  shared.result = bpf_ringbuf_output(&ring, shared.in, shared.size & (2 * kBytes - 1), shared.flags);
  return 0;
}

SEC("syscall")
int query(void* ctx) {
  shared.result = bpf_ringbuf_query(&ring, shared.flags);
  return 0;
}

static long on_nested_sample(struct bpf_dynptr* sample, void* ctx) { return 0; }

// Where the verifier sees it; the compiler would leave it out behind a test.
#define BOUNDED(value)                                          \
  ({                                                            \
    __u64 bounded = value;                                      \
    asm volatile("%0 &= %1" : "+r"(bounded) : "i"(kBytes - 1)); \
    bounded;                                                    \
  })

// `sample` may not be spilled to the stack: hence nothing but it lives across calls.
static long on_sample(struct bpf_dynptr* sample, void* ctx) {
  volatile struct shared* s = &shared;
  s->size = bpf_dynptr_size(sample);
  if (s->sampled < kSamples) s->sizes[s->sampled & (kSamples - 1)] = s->size;
  if (s->sampled_bytes < kBytes && s->size < kBytes) {
    bpf_dynptr_read(shared.samples + BOUNDED(s->sampled_bytes), BOUNDED(s->size), sample, 0, 0);
    s->sampled_bytes += s->size;
  }
  s->sampled += 1;
  if (s->sampled == 1 && s->nested) shared.nested_result = bpf_user_ringbuf_drain(&user_ring, on_nested_sample, (void*)0, 0);
  return s->sampled == s->stop_at;
}

SEC("syscall")
int drain(void* ctx) {
  shared.sampled = shared.sampled_bytes = 0;
  shared.result = bpf_user_ringbuf_drain(&user_ring, on_sample, (void*)0, shared.flags);
  return 0;
}

static __s64 put_out(void* map) { return map ? bpf_ringbuf_output(map, shared.in, shared.size & (2 * kBytes - 1), 0) : 1; }

SEC("syscall")
int put_by_index(void* ctx) {
  __u32 key = shared.key;
  shared.result = put_out(bpf_map_lookup_elem(&array, &key));
  return 0;
}

SEC("syscall")
int put_by_key(void* ctx) {
  __u32 key = shared.key;
  shared.result = put_out(bpf_map_lookup_elem(&hash, &key));
  return 0;
}

char programs_license[] SEC("license") = "Dual MIT/GPL";
