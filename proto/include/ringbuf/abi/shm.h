/* SPDX-License-Identifier: MIT */
/*
 * The bytes in shared memory: what every process that maps a ring must agree on.
 * A long-term stable ABI, plain C, readable from any language. docs/shm-abi.md explains it at length.
 *
 * One map is two memory files, because one cannot carry two permissions:
 *
 *   C   [ consumer page ]                              written by the consumer, read by everybody else
 *   P   [ slot pages ][ producer page ][ N data bytes ]   written by producers, read by everybody else
 *
 * and a process maps them so that its view is the kernel's, with the data twice so that no record is ever cut in two:
 *
 *       slot pages        PG             PG              N                  N
 *   [ slots, from P ][ consumer page ][ producer page ][ data ][ the same data again ]
 *                     ^ from here on: exactly what mmap(2) of a BPF ring buffer map shows
 *
 * BPF_MAP_TYPE_USER_RINGBUF is laid out in the same way; its producer does not use pending_pos and writes 0 for `who`.
 *
 * N = max_entries: a power of two and a multiple of the page size PG. A *position* is a 64-bit byte count that only grows;
 * an *offset* is position & (N - 1). Positions are compared by unsigned subtraction only.
 */
#ifndef RINGBUF_ABI_SHM_H
#define RINGBUF_ABI_SHM_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RINGBUF_SHM_MAGIC 0x66756272u /* "rbuf", little endian */
#define RINGBUF_SHM_VERSION 1u

/* Record header: 8 bytes, 8-aligned, in front of each record.
 *
 *    31 30 29                            0     31       20 19               0
 *   +--+--+-------------------------------+   +-----------+------------------+
 *   |B |D |        payload length         |   |   slot    |      pg_off      |
 *   +--+--+-------------------------------+   +-----------+------------------+
 *           len                                 who
 *
 * B: reserved and not yet committed. D: committed by discard, readers skip it. pg_off: the kernel's page offset of this
 * header counted from its private page, 3 + offset / PG. slot: the producer attachment that reserved it, 0 = none.
 * The next header is round_up(length + 8, 8) bytes further. */
struct ringbuf_record_header {
  uint32_t len;
  uint32_t who;
};

#define RINGBUF_BUSY_BIT (1u << 31)
#define RINGBUF_DISCARD_BIT (1u << 30)
#define RINGBUF_LEN_MASK (RINGBUF_DISCARD_BIT - 1u)
#define RINGBUF_HEADER_SIZE 8u
#define RINGBUF_MAX_RECORD_SIZE (UINT32_MAX / 4u) /* the kernel's RINGBUF_MAX_RECORD_SZ */
#define RINGBUF_PG_OFF_BITS 20u
#define RINGBUF_META_PAGES 3u             /* private, consumer and producer page, as the kernel counts pg_off */
#define RINGBUF_MAX_DYNPTR_SIZE 0xffffffu /* the kernel's DYNPTR_MAX_SIZE: a USER_RINGBUF's samples are drained as dynptrs */
#define RINGBUF_MAX_DRAIN 131072u         /* the kernel's BPF_MAX_USER_RINGBUF_SAMPLES, discarded ones included */

/* Why a reservation failed: index of the loss counters. */
enum ringbuf_lost {
  RINGBUF_LOST_FULL = 0,    /* unread records fill the ring */
  RINGBUF_LOST_TOO_BIG = 1, /* the record can never fit */
  RINGBUF_LOST_BUSY = 2,    /* records from an uncommitted one on fill the ring */
  RINGBUF_LOST_LOCK = 3,    /* another producer did not leave reserve within 250 ms, or the thread met itself */
  RINGBUF_LOST_REASONS = 4
};

/* Written by the consumer; producers read it racily and never trust it. Each group has its own cache line. */
struct ringbuf_consumer_page {
  uint64_t consumer_pos; /* +0, as in the kernel */
  uint64_t pad0[7];
  uint64_t waiting; /* +64: sleepers in poll plus epoll descriptors handed to applications; 0 = no wakeup is needed */
  uint64_t pad1[7];
  uint32_t room_seq; /* +128: futex word, changes when a waiting producer's bytes have become free */
  uint32_t pad2[15];
  uint64_t records;        /* +192: delivered to the consumer, ever */
  uint64_t bytes;          /* +200: payload bytes of these */
  uint64_t wakeups;        /* +208: times that the consumer returned from sleep because it was notified */
  uint64_t missed_records; /* +216: overwrite mode: records that were overwritten before they could be delivered */
  uint64_t missed_bytes;   /* +224: payload bytes of these */
  uint64_t stalled_pos;    /* +232: where an uncommitted record was in the way when the consumer went to sleep last */
  uint64_t stalled_ns;     /* +240: since when, CLOCK_MONOTONIC; 0: never */
  uint64_t pad3;
};

/* What lies before `pos`, a value of overwrite_pos: records without discarded ones, and their payload bytes. */
struct ringbuf_overwritten {
  uint64_t pos;
  uint64_t records;
  uint64_t bytes;
};

/* Written by producers; consumers read it racily and never trust it. */
struct ringbuf_producer_page {
  uint64_t producer_pos;  /* +0, as in the kernel */
  uint64_t pending_pos;   /* +8, as in the kernel: everything before it is committed */
  uint64_t overwrite_pos; /* +16, as in Linux 6.19: overwrite mode: the oldest record that is left; else 0 */
  uint64_t pad0[5];
  uint64_t owner;      /* +64: who is inside reserve, see below; 0 = nobody */
  uint64_t cached_pos; /* +72: the newest consumer_pos that a producer has seen, or overwrite_pos; belongs to the owner */
  struct ringbuf_overwritten overwritten[2]; /* +80: overwrite mode: of overwrite_pos, and of the one before or after it */
  uint64_t lost[RINGBUF_LOST_REASONS];       /* +128: reservations that failed, by reason */
  uint64_t pad2[4];
  uint32_t room_waiters; /* +192: attachments that wait for room, as `need` says; may be too high after a death, never too low */
  uint32_t slot_limit;   /* +196: one more than the highest slot that was ever used; only grows */
  uint32_t pad3[14];
};

/* The owner word. Its low half is a robust futex word (get_robust_list(2)): where thread ids are unique, the kernel replaces the
 * id of a thread that ends by DIED, and the next one may take the word over. FOREIGN keeps the kernel's hands off the words of
 * threads whose ids another pid namespace gave.
 *
 *    63                 32 31 30 29 28                  0
 *   +---------------------+--+--+--+---------------------+
 *   |        slot         |  |D |F |      thread id      |
 *   +---------------------+--+--+--+---------------------+
 */
#define RINGBUF_OWNER_DIED (1u << 30)    /* FUTEX_OWNER_DIED; the thread id is 0 then */
#define RINGBUF_OWNER_FOREIGN (1u << 29) /* inside FUTEX_TID_MASK, above every thread id */

/* One producer attachment. What slots say is advice; the daemon's own table is the truth. */
struct ringbuf_slot {
  uint64_t need; /* low half: bytes of room it waits for, 0 = none; high half: changes with each wait */
  uint64_t lost[RINGBUF_LOST_REASONS];
  uint64_t taken; /* embedded rings, which have no daemon to give slots out: 1 = in use */
  uint64_t pad[2];
};

/* Stands in the place of slot 0, which no producer has: the file describes itself. Written once, at creation. */
struct ringbuf_shm_header {
  uint32_t magic;
  uint32_t version;
  uint32_t max_entries;
  uint32_t slot_count;    /* including slot 0 */
  uint32_t producer_page; /* offset of the producer page in P, bytes */
  uint32_t page_size;
  uint32_t map_type;
  uint32_t ring_flags; /* RINGBUF_F_* */
  uint32_t map_flags;  /* BPF_F_* */
  uint32_t reserved;
  uint64_t pad[3];
};

#define RINGBUF_SLOT_COUNT 1024u /* 64 KiB of slots: a multiple of every page size up to 64 KiB */

/* ring_flags: properties of the shared memory, never a kernel flag bit. */
#define RINGBUF_F_SINGLE_PRODUCER (1u << 0) /* one producer attachment, one thread at a time: no owner word; any USER_RINGBUF */

/*
 * The table of a map of maps: one file, written by the daemon only and given out read-only.
 *
 *   0         64
 *   [ header ][ element 0 ][ element 1 ] ...                                  `slots` elements of `stride` bytes
 *
 *   ARRAY_OF_MAPS  [ word ]                        element i is index i; slots = max_entries
 *   HASH_OF_MAPS   [ word ][ key, zeros up to 8 ]  open addressing; slots = a power of two, at least 2 * max_entries
 *
 *    63                 32 31                  0
 *   +---------------------+---------------------+
 *   |     generation      |    inner map id     |   one 64-bit word: an update is one store
 *   +---------------------+---------------------+
 *
 * 0: never used; a search ends here. id 0: nothing there (deleted); a search goes on behind it. The generation is new with each
 * change of any element, so that no word comes back.
 *
 * Where a key is searched: from slot (h ^ (h >> 32)) & (slots - 1) on, upwards and round the end; h is FNV-1a, 64 bits, of the
 * key_size bytes. A reader loads the word, compares the key and loads the word again: only if it is the same was the key its.
 */
struct ringbuf_outer_header { /* written once, at creation */
  uint32_t magic;             /* RINGBUF_OUTER_MAGIC */
  uint32_t version;           /* RINGBUF_SHM_VERSION */
  uint32_t map_type;
  uint32_t key_size;
  uint32_t max_entries;
  uint32_t slots;
  uint32_t stride;         /* bytes from one element to the next: 8, or 8 + key_size rounded up to 8 */
  uint32_t inner_map_type; /* of all inner maps */
  uint64_t pad[4];
};

#define RINGBUF_OUTER_MAGIC 0x6f756272u /* "rbuo", little endian */
#define RINGBUF_FNV_OFFSET 0xcbf29ce484222325ull
#define RINGBUF_FNV_PRIME 0x100000001b3ull

/* How one process sees a ring that it has mapped. Not shared memory: filled in by libringbuf for its inline callers. */
struct ringbuf_view {
  uint32_t size; /* of this struct, as the library was built */
  uint32_t ring_flags;
  uint64_t mask; /* N - 1 */
  struct ringbuf_slot* slots;
  struct ringbuf_consumer_page* consumer_page;
  struct ringbuf_producer_page* producer_page;
  unsigned char* data; /* N bytes, and the same N bytes again */
  uint32_t page_shift;
  uint32_t slot;       /* producers */
  int32_t signal_fd;   /* producers: the eventfd that wakes the consumer */
  uint32_t slot_count; /* length of `slots` and of `room_told` */
  uint64_t* room_told; /* consumers: the needs that were answered already, one a slot */
  uint32_t map_type;
  uint32_t map_flags;
  unsigned char* copy; /* consumers in overwrite mode: N bytes of their own */
  uint32_t robust;     /* producers: 1 = the owner word may be put on the threads' robust lists */
  uint32_t reserved;
};

#ifdef __cplusplus
}
#endif
#endif
