/* SPDX-License-Identifier: MIT */
/*
 * libringbuf: BPF ring buffer maps in user space. The C API; ringbuf.hpp is the C++ API over it, with an inline hot path.
 *
 * Conventions
 *  1. Objects are opaque. `..._free(NULL)` does nothing. Free what you made from a map before or after the map, in any order:
 *     objects hold what they need.
 *  2. Functions that return int give 0 or a count, or a negative errno, and then errno is set to it as well. Functions that
 *     return a pointer give NULL and set errno. Outputs are the last parameters, named ret_..., and untouched on failure.
 *  3. ringbuf_last_error() is the whole sentence for the calling thread's last failure; the hot path (reserve, reserve_wait,
 *     output) sets errno alone. The library never prints, never aborts, never touches signals.
 *     A call that asks the daemon may also give -ECONNREFUSED (it is not there; the next call tries again), -ECONNRESET (it went
 *     away: pinning, unpinning, updating and deleting may or may not have been done; the rest is asked again by itself, and this
 *     means that it went away each time), -ETIMEDOUT (it has not answered for 30 s, or $RINGBUFD_TIMEOUT_MS: it is stopped) or
 *     -EMFILE (no descriptor left in this process, or in the daemon).
 *  4. Sizes and positions are bytes. Times are milliseconds; -1 is for ever, 0 does not block.
 *  5. A session of NULL means no daemon: the map is embedded, private to this process and the children that it forks.
 *  6. Threads: a session and a map may be used by all threads at once. A producer too, unless its map was created with
 *     RINGBUF_F_SINGLE_PRODUCER. A consumer's calls exclude each other (also those of several consumers of one map in one
 *     process); a poller is for one thread at a time.
 *  7. fork: a child may use sessions and maps that it inherits (the library opens a connection of its own), but producers,
 *     consumers, observers and pollers it must make itself. exec: no descriptor survives; pass ringbuf_map_fd() on knowingly.
 *     fork waits while another thread's request to the daemon is under way.
 *  8. What blocks says so. Nothing else does, apart from waiting for the daemon's reply in calls that ask it something
 *     (all of "Sessions and maps", and attach and free below).
 *  9. Wakeups are hints: they may be spurious and one may stand for many commits.
 * 10. A callback may throw (C++): its record is consumed and the exception passes through. It may not free the object that
 *     called it. What blocks is no cancellation point to rely on: do not cancel (pthread_cancel) threads inside the library.
 */
#ifndef RINGBUF_RINGBUF_H
#define RINGBUF_RINGBUF_H

#include <stddef.h>
#include <stdint.h>

#include "ringbuf/abi/shm.h"
#include "ringbuf/abi/wire.h"

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

#define RINGBUF_VERSION_STRING "0.1.0"

/* The kernel's numbers, in case <linux/bpf.h> is not there or is older. */
#define RINGBUF_MAP_TYPE_ARRAY_OF_MAPS 12u /* BPF_MAP_TYPE_ARRAY_OF_MAPS */
#define RINGBUF_MAP_TYPE_HASH_OF_MAPS 13u  /* BPF_MAP_TYPE_HASH_OF_MAPS */
#define RINGBUF_MAP_TYPE_RINGBUF 27u       /* BPF_MAP_TYPE_RINGBUF */
#define RINGBUF_MAP_TYPE_USER_RINGBUF 31u  /* BPF_MAP_TYPE_USER_RINGBUF */
#define RINGBUF_NO_PREALLOC (1u << 0)      /* BPF_F_NO_PREALLOC */
#define RINGBUF_NUMA_NODE (1u << 2)        /* BPF_F_NUMA_NODE */
#define RINGBUF_OVERWRITE (1u << 19)       /* BPF_F_RB_OVERWRITE, Linux 6.19 */
#define RINGBUF_ANY 0ull                   /* update: BPF_ANY */
#define RINGBUF_NOEXIST 1ull               /* BPF_NOEXIST */
#define RINGBUF_EXIST 2ull                 /* BPF_EXIST */
#ifndef RINGBUF_NO_WAKEUP                  /* submit, discard, output: */
#define RINGBUF_NO_WAKEUP (1ull << 0)      /* BPF_RB_NO_WAKEUP: do not wake the consumer */
#define RINGBUF_FORCE_WAKEUP (1ull << 1)   /* BPF_RB_FORCE_WAKEUP: wake it even if it has not caught up */
#define RINGBUF_AVAIL_DATA 0ull            /* query: BPF_RB_AVAIL_DATA */
#define RINGBUF_RING_SIZE 1ull             /* BPF_RB_RING_SIZE */
#define RINGBUF_CONS_POS 2ull              /* BPF_RB_CONS_POS */
#define RINGBUF_PROD_POS 3ull              /* BPF_RB_PROD_POS */
#define RINGBUF_OVERWRITE_POS 4ull         /* BPF_RB_OVERWRITE_POS */
#endif

struct ringbuf_session;
struct ringbuf_map;
struct ringbuf_producer;
struct ringbuf_consumer;
struct ringbuf_observer;
struct ringbuf_poller;
struct ringbuf_outer;

const char* ringbuf_version(void);
/* "operation: reason" for the last failed call of this thread; valid until its next failed call. Never NULL. */
const char* ringbuf_last_error(void);

/* ---- Sessions and maps ------------------------------------------------------------------------------------------------ */

/**
 * Connects to ringbufd. One connection a process is enough.
 * @param socket_path  NULL: $RINGBUFD_SOCKET, else /run/ringbufd/ringbufd.sock for root, else
 *                     $XDG_RUNTIME_DIR/ringbufd.sock, else the former
 * @return 0; -ENOENT or -ECONNREFUSED no daemon there; -EACCES its socket may not be used; -ENAMETOOLONG;
 *         -EPROTONOSUPPORT it speaks another version; -EDQUOT or -ENOSPC it has too many sessions (of this user, in all)
 */
int ringbuf_connect(const char* socket_path, struct ringbuf_session** ret_session);
/** The path that ringbuf_connect(NULL) would use, into `buf`. @return its length, or -ENAMETOOLONG */
int ringbuf_default_socket(char* buf, size_t size);
void ringbuf_session_free(struct ringbuf_session* session);

struct ringbuf_map_create_opts {
  size_t sz;           /* sizeof(struct ringbuf_map_create_opts); an unknown non-zero tail is -E2BIG */
  uint32_t map_type;   /* 0 = RINGBUF_MAP_TYPE_RINGBUF */
  uint32_t map_flags;  /* RINGBUF_NUMA_NODE; RINGBUF_OVERWRITE for a RINGBUF; RINGBUF_NO_PREALLOC for a HASH_OF_MAPS */
  uint32_t numa_node;  /* with RINGBUF_NUMA_NODE; (uint32_t)-1 = any */
  uint32_t ring_flags; /* RINGBUF_F_SINGLE_PRODUCER, for a RINGBUF; a USER_RINGBUF has a single producer in any case */
  uint32_t mode;       /* who may open it; 0 = 0600. r: observe, w: produce, rw: consume too */
  uint32_t key_size;   /* rings: 0. ARRAY_OF_MAPS: 4. HASH_OF_MAPS: 1 to RINGBUF_MAX_KEY_SIZE */
  uint32_t value_size; /* rings: 0. Maps of maps: 4 */
  uint32_t reserved;
  uint64_t map_extra;                  /* must be 0 */
  const struct ringbuf_map* inner_map; /* maps of maps: a ring like those that it will hold; only its type and flags count */
};
/**
 * Creates a map: BPF_MAP_CREATE.
 * @param name         at most 15 of [A-Za-z0-9_.]; need not be unique; NULL = ""
 * @param max_entries  rings: bytes of data, a power of two and a multiple of the page size. Maps of maps: number of elements
 * @param opts         NULL = defaults
 * @return 0; -EINVAL as the kernel (size, flags, name, type; an inner map that is itself a map of maps); -EBADF a map of maps
 *         without inner_map; -E2BIG a key or a table that is too large; -ENOMEM; -EDQUOT or -ENOSPC a limit of the daemon;
 *         -EOPNOTSUPP an embedded map of maps
 */
int ringbuf_map_create(struct ringbuf_session* session, const char* name, uint32_t max_entries,
                       const struct ringbuf_map_create_opts* opts, struct ringbuf_map** ret_map);

/* `rights`: RINGBUF_RIGHT_* that the handle must have; 0 = all that the caller may have.
 * -ENOENT no such map; -EACCES not permitted; name: -ENOTUNIQ several maps have it; -EOPNOTSUPP session is NULL. */
int ringbuf_map_open_id(struct ringbuf_session* session, uint32_t id, uint32_t rights, struct ringbuf_map** ret_map);
int ringbuf_map_open_name(struct ringbuf_session* session, const char* name, uint32_t rights, struct ringbuf_map** ret_map);
int ringbuf_map_open_pinned(struct ringbuf_session* session, const char* path, uint32_t rights, struct ringbuf_map** ret_map);
/** A map from a descriptor of ringbuf_map_fd() that was received or inherited; `fd` is duplicated.
 * @return 0; -EINVAL not a map's; -EBADF */
int ringbuf_map_from_fd(struct ringbuf_session* session, int fd, struct ringbuf_map** ret_map);
/** The same map by a new descriptor with fewer rights, to be given away (ringbuf_map_fd). Whoever holds a descriptor may narrow
 * it, whether or not the map's mode would let it open the map.
 * @param rights  RINGBUF_RIGHT_*: some of those that `map` has, see ringbuf_map_get_info
 * @return 0; -EACCES `map` does not have all of them; -EINVAL 0 or unknown bits; -EDQUOT, -ENOSPC; -EOPNOTSUPP embedded */
int ringbuf_map_narrow(struct ringbuf_map* map, uint32_t rights, struct ringbuf_map** ret_map);
/** Smallest id above `start_id` of a map that the caller may open: BPF_MAP_GET_NEXT_ID. @return 0; -ENOENT none */
int ringbuf_map_next_id(struct ringbuf_session* session, uint32_t start_id, uint32_t* ret_id);

/** Drops this reference. The map lives while a descriptor, an attachment or a pin refers to it. */
void ringbuf_map_free(struct ringbuf_map* map);
/** The token that stands for the map: dup, inherit or send it like a BPF map fd. Borrowed, CLOEXEC. Embedded: -1. */
int ringbuf_map_fd(const struct ringbuf_map* map);
/** @return 0; `*ret_info` is filled up to `size` = sizeof(*ret_info) */
int ringbuf_map_get_info(struct ringbuf_map* map, struct ringbuf_map_info* ret_info, size_t size);

/** Gives the map a path in the daemon's own namespace ("/a/b"): it then outlives its users. Needs RINGBUF_RIGHT_MANAGE.
 * @return 0; -EEXIST; -EINVAL not an absolute, plain path; -ENAMETOOLONG; -EPERM; -EDQUOT, -ENOSPC */
int ringbuf_map_pin(struct ringbuf_map* map, const char* path);
/** Removes a pin: its owner, the map's owner or root may. @return 0; -ENOENT; -EPERM */
int ringbuf_unpin(struct ringbuf_session* session, const char* path);
/** The map's pin number `index` (0, 1, ...), into `buf`. @return length; -ENOENT past the last; -ENAMETOOLONG */
int ringbuf_map_get_pin(struct ringbuf_map* map, uint32_t index, char* buf, size_t size);
/** The map's attachment number `index`: who produces, consumes, observes. @return 0; -ENOENT past the last */
int ringbuf_map_get_attachment(struct ringbuf_map* map, uint32_t index, struct ringbuf_attachment_info* ret_info);

/* ---- Maps of maps -------------------------------------------------------------------------------------------------------
 * An ARRAY_OF_MAPS or HASH_OF_MAPS (the outer map) holds references to rings (its inner maps). `key` points to key_size bytes: of
 * an array, a uint32_t index. Updating and deleting need RINGBUF_RIGHT_MANAGE of the outer map. Whoever holds a descriptor of the
 * outer map gets at its inner maps with the rights of that descriptor, as far as the descriptor had them that put the map in;
 * never with MANAGE. For a ring these calls give -EINVAL, or with a NULL key -524 (ENOTSUPP), as the kernel's do. */

/** Puts `inner` at `key`: BPF_MAP_UPDATE_ELEM. Those who look the key up see it from their next lookup on.
 * @param flags  RINGBUF_ANY, _NOEXIST or _EXIST; an array takes RINGBUF_ANY only
 * @return 0; -EINVAL `inner` is not like the template (map type, key and value size, map flags; the size may differ), flags;
 *         -E2BIG beyond the array, or the hash is full; -EEXIST, -ENOENT as flags say; -EPERM; -ENOMEM */
int ringbuf_map_update_elem(struct ringbuf_map* outer, const void* key, const struct ringbuf_map* inner, uint64_t flags);
/** The id of the map at `key`: BPF_MAP_LOOKUP_ELEM. @return 0; -ENOENT none there */
int ringbuf_map_lookup_elem(struct ringbuf_map* outer, const void* key, uint32_t* ret_id);
/** BPF_MAP_DELETE_ELEM. @return 0; -ENOENT none there; -E2BIG beyond the array; -EPERM */
int ringbuf_map_delete_elem(struct ringbuf_map* outer, const void* key);
/** BPF_MAP_GET_NEXT_KEY: an array's keys are all its indexes, a hash's those in use, in no particular order.
 * @param key  NULL, or one that is not there: the first. `ret_next_key` gets key_size bytes
 * @return 0; -ENOENT that was the last */
int ringbuf_map_get_next_key(struct ringbuf_map* outer, const void* key, void* ret_next_key);
/** Opens the inner map at `key`, to produce, consume or observe. @return 0; -ENOENT none there; -EACCES */
int ringbuf_map_open_inner(struct ringbuf_map* outer, const void* key, uint32_t rights, struct ringbuf_map** ret_map);

/** Maps an outer map's table, to find producers by key. For one thread at a time; make one a thread: those of the same `map`
 * handle in a process share the attachments to the inner maps. @return 0; -EINVAL not a map of maps; -EACCES; -ENOMEM */
int ringbuf_outer_attach(struct ringbuf_map* map, struct ringbuf_outer** ret_outer);
/** Detaches from the inner maps that no other ringbuf_outer of this process uses: submit or discard first. */
void ringbuf_outer_free(struct ringbuf_outer* outer);
/** The producer of the ring at `key`. Attaches when a ring is found for the first time (blocks for the daemon's reply); after
 * that it is one load from shared memory, and sees updates by any process.
 * @return borrowed, until this `outer` looks the same key up again and finds another ring there, or is freed: submit or discard
 *         what was reserved through a key before looking that key up again. NULL with errno ENOENT none there, EBUSY a ring with
 * a single producer that another ringbuf_outer has, or as ringbuf_producer_attach */
struct ringbuf_producer* ringbuf_outer_lookup(struct ringbuf_outer* outer, const void* key);

/* Sharding: an array of maps as one stream cut into several rings. */
enum ringbuf_shard {
  RINGBUF_SHARD_CPU = 0, /* ring number (this CPU mod max_entries): no contention; order within a CPU only */
  RINGBUF_SHARD_TGID = 1 /* ring number (hash of this process' id mod max_entries): the order of each process is kept */
};
/** ringbuf_outer_lookup and ringbuf_reserve in one call. Submit to `*ret_producer`.
 * @return as ringbuf_reserve; also NULL with errno as ringbuf_outer_lookup, EINVAL not an array of RINGBUF */
void* ringbuf_shard_reserve(struct ringbuf_outer* outer, enum ringbuf_shard shard, size_t size, uint64_t flags,
                            struct ringbuf_producer** ret_producer);

/* ---- Producers ---------------------------------------------------------------------------------------------------------- */

/** Maps the ring for producing. @return 0; -EINVAL not a ring; -EACCES; -EBUSY single-producer map that has one; -EUSERS no slot
 * left; -EAGAIN there is none yet: what dead producers have left in a large ring is still being discarded, try again; -ENOMEM;
 * -EDQUOT */
int ringbuf_producer_attach(struct ringbuf_map* map, struct ringbuf_producer** ret_producer);
/** Reservations that are still open stay BUSY: submit or discard them first. */
void ringbuf_producer_free(struct ringbuf_producer* producer);

/**
 * Reserves `size` bytes: bpf_ringbuf_reserve. Never blocks for room; at most 250 ms for another producer that is stopped inside.
 * In overwrite mode the oldest records make room, and only an uncommitted one can be in the way.
 * @param flags  must be 0
 * @return 8-aligned contiguous memory, to be submitted or discarded by any thread; NULL with errno
 *         EINVAL flags, E2BIG it can never fit (at most N - 16, and 2^30 - 1, bytes do), EAGAIN no room, EDEADLK called from a
 *         signal handler that interrupted a reservation, EBUSY another producer does not leave reserve.
 *         USER_RINGBUF (user_ring_buffer__reserve; one thread at a time): E2BIG more than N - 8 bytes, or than the 2^24 - 1 that
 *         a drain takes; ENOSPC no room now
 */
void* ringbuf_reserve(struct ringbuf_producer* producer, size_t size, uint64_t flags);
/** As ringbuf_reserve, but sleeps until there is room. Blocks, for timeout_ms and, as ringbuf_reserve does, up to 250 ms more
 * behind a producer that is stopped inside (EBUSY, also if timeout_ms is -1). Also NULL with ETIMEDOUT, EINTR a signal was
 * handled, EPERM inherited over fork. In overwrite mode it looks again each millisecond. USER_RINGBUF
 * (user_ring_buffer__reserve_blocking): after the timeout the error is ENOSPC. */
void* ringbuf_reserve_wait(struct ringbuf_producer* producer, size_t size, int timeout_ms);
/** Commits: bpf_ringbuf_submit. `data` as returned by reserve. Wakes the consumer if it had caught up to this record.
 * Async-signal-safe. Unknown flag bits are ignored, as in the kernel. */
void ringbuf_submit(struct ringbuf_producer* producer, void* data, uint64_t flags);
/** Commits a record that readers skip: bpf_ringbuf_discard. The same wakeup rule. */
void ringbuf_discard(struct ringbuf_producer* producer, void* data, uint64_t flags);
/** Copies a record in: bpf_ringbuf_output. @return 0; -EINVAL unknown flags; -EAGAIN no room, or any other failure of reserve */
int ringbuf_output(struct ringbuf_producer* producer, const void* data, size_t size, uint64_t flags);
/** bpf_ringbuf_query: RINGBUF_AVAIL_DATA, ... Anything unknown gives 0. */
uint64_t ringbuf_query(const struct ringbuf_producer* producer, uint64_t what);

/* A reservation as an object, whose size the ring knows: the kernel's bpf_dynptr. Fill in nothing yourself. */
struct ringbuf_dynptr {
  void* data; /* NULL: a null dynptr */
  uint32_t size;
  uint32_t reserved;
  struct ringbuf_producer* producer;
};
/** bpf_ringbuf_reserve_dynptr. On failure `*ptr` is a null dynptr.
 * @return 0; -EINVAL flags, or any failure of reserve, a full ring too; -E2BIG size is above 2^24 - 1 */
int ringbuf_reserve_dynptr(struct ringbuf_producer* producer, uint32_t size, uint64_t flags, struct ringbuf_dynptr* ptr);
/** Commits, and makes `*ptr` null. Of a null dynptr: nothing. */
void ringbuf_submit_dynptr(struct ringbuf_dynptr* ptr, uint64_t flags);
void ringbuf_discard_dynptr(struct ringbuf_dynptr* ptr, uint64_t flags);
/** Copies between memory and the dynptr. @return 0; -EINVAL null dynptr, flags are not 0; -E2BIG beyond its size */
int ringbuf_dynptr_read(void* dst, uint32_t len, const struct ringbuf_dynptr* src, uint32_t offset, uint64_t flags);
int ringbuf_dynptr_write(const struct ringbuf_dynptr* dst, uint32_t offset, const void* src, uint32_t len, uint64_t flags);
/** The address of `len` bytes at `offset`; NULL: null dynptr, or beyond its size. */
void* ringbuf_dynptr_data(const struct ringbuf_dynptr* ptr, uint32_t offset, uint32_t len);
/** @return bytes; -EINVAL null dynptr */
int64_t ringbuf_dynptr_size(const struct ringbuf_dynptr* ptr);

/* ---- Consumers ---------------------------------------------------------------------------------------------------------- */

/** One record; `data` is valid during the call only, 8-aligned, read-only memory. 0 or positive: go on. Negative: stop; the
 * record counts as consumed and the value is what consume or poll returns. */
typedef int (*ringbuf_sample_fn)(void* ctx, void* data, size_t size);

/** Maps the ring for consuming, from consumer_pos on. All consumers of a map are in one process.
 * A USER_RINGBUF is not consumed but drained: `fn` is not used, and it can be in no poller.
 * @return 0; -EINVAL not a ring; -EACCES; -EBUSY another process consumes it (ringbuf_last_error() names its pid); -EUSERS the
 * map has 64 consumers; -ENOMEM; -EDQUOT too many attachments, or somebody holds the locks of this user's epolls, and 1024
 * changes to them are left to do */
int ringbuf_consumer_attach(struct ringbuf_map* map, ringbuf_sample_fn fn, void* ctx, struct ringbuf_consumer** ret_consumer);
void ringbuf_consumer_free(struct ringbuf_consumer* consumer);
/** Delivers what is committed, up to the first BUSY record. Waits only for another thread that consumes this ring now.
 * @return records delivered (discarded ones are skipped and not counted), clamped to INT_MAX; the callback's negative value;
 *         -EBADMSG the ring is corrupt at consumer_pos (see ringbuf_consumer_reset); -EBUSY called from its own callback;
 *         -EINVAL a USER_RINGBUF, or attached without a callback.
 * In overwrite mode `data` is a copy, made and checked before the callback sees it; a consumer that was lapped goes on at the
 * oldest record that is left, and ringbuf_consumer_missed() counts the others. */
int ringbuf_consume(struct ringbuf_consumer* consumer);
/** At most `n` records. n = 0: none. */
int ringbuf_consume_n(struct ringbuf_consumer* consumer, size_t n);
/** Overwrite mode: records (not counting discarded ones) and payload bytes that were overwritten before any consumer of the map
 * had them, as far as consuming has come. What a reset has given up counts when it is overwritten. @return 0 */
int ringbuf_consumer_missed(const struct ringbuf_consumer* consumer, uint64_t* ret_records, uint64_t* ret_bytes);
/** Drains a USER_RINGBUF: bpf_user_ringbuf_drain. At most 131072 samples, discarded ones included.
 * @param fn     0: go on; anything else: stop, this sample is consumed and counted
 * @param flags  RINGBUF_NO_WAKEUP: do not wake a producer that waits for room; RINGBUF_FORCE_WAKEUP: do so whatever happened
 * @return samples consumed; -EBUSY it is being drained, by another thread or by the caller of this callback; -EINVAL unknown
 * flags, not a USER_RINGBUF, producer_pos or consumer_pos is not a multiple of 8, or a sample reaches beyond it; -E2BIG a sample
 *         is larger than the ring or than 2^24 - 1 bytes. What was consumed before an error stays consumed; the bad sample is not
 *         skipped */
int64_t ringbuf_drain(struct ringbuf_consumer* consumer, ringbuf_sample_fn fn, void* ctx, uint64_t flags);
/** Skips everything up to producer_pos, e.g. after -EBADMSG.
 * @return bytes skipped (0 if a hostile producer has moved producer_pos back), or -EBUSY as above */
int64_t ringbuf_consumer_reset(struct ringbuf_consumer* consumer);
/** An epoll descriptor for one's own loop: readable (level) when there may be something to consume; then call
 * ringbuf_consume, which clears it. From the first call on every caught-up commit costs its producer an eventfd write. Borrowed.
 */
int ringbuf_consumer_epoll_fd(struct ringbuf_consumer* consumer);
uint64_t ringbuf_consumer_query(const struct ringbuf_consumer* consumer, uint64_t what);

/* ---- Pollers: several rings, one sleep ------------------------------------------------------------------------------------ */

int ringbuf_poller_new(struct ringbuf_poller** ret_poller);
/** The consumer must outlive the poller or its removal; it may be in several pollers. @return 0; -EEXIST; -ENOMEM; -EBUSY called
 * from a callback of this poller */
int ringbuf_poller_add(struct ringbuf_poller* poller, struct ringbuf_consumer* consumer);
/** @return 0; -ENOENT; -EBUSY as above */
int ringbuf_poller_remove(struct ringbuf_poller* poller, struct ringbuf_consumer* consumer);
void ringbuf_poller_free(struct ringbuf_poller* poller);
/** Consumes from every ring, in the order added; if there is nothing, sleeps until there is. Blocks.
 * @return records delivered; 0 after timeout_ms; -EINTR a signal was handled; a callback's negative value, which ends the round;
 *         -EBADMSG a ring is corrupt: the others were consumed all the same, ringbuf_consume of each consumer tells which it is;
 *         -EBUSY called from a callback of this poller */
int ringbuf_poll(struct ringbuf_poller* poller, int timeout_ms);
/** The same without the sleep. Does not block. */
int ringbuf_poller_consume(struct ringbuf_poller* poller);
/** One descriptor for all the rings, as ringbuf_consumer_epoll_fd (of each of its consumers, until that is
 * freed); call ringbuf_poller_consume when it is readable. Borrowed. */
int ringbuf_poller_epoll_fd(struct ringbuf_poller* poller);

/* ---- Observers and statistics --------------------------------------------------------------------------------------------- */

struct ringbuf_stats {
  uint64_t consumer_pos, producer_pos, pending_pos, overwrite_pos;
  uint64_t lost[RINGBUF_LOST_REASONS];             /* failed reservations, by enum ringbuf_lost */
  uint64_t records, bytes, wakeups;                /* consumed, ever; times that a sleeping consumer was woken */
  uint64_t waiting;                                /* consumers asleep, plus epoll descriptors handed out */
  uint32_t room_waiters, owner_tid;                /* producers that wait; who is inside reserve at this instant, 0 = nobody */
  uint64_t overwritten_records, overwritten_bytes; /* overwrite mode: made room for others, consumed or not; payload bytes */
  uint64_t missed_records, missed_bytes;           /* overwrite mode: of these, what consumers found gone */
};
/** Maps the ring for looking only. @return 0; -EACCES; -ENOMEM; -EDQUOT */
int ringbuf_observer_attach(struct ringbuf_map* map, struct ringbuf_observer** ret_observer);
void ringbuf_observer_free(struct ringbuf_observer* observer);
/** @return 0; the words are read one after the other, so they need not fit together exactly */
int ringbuf_observer_stats(struct ringbuf_observer* observer, struct ringbuf_stats* ret_stats, size_t size);

/** One record of a dump. flags: RINGBUF_BUSY_BIT (data NULL, size as reserved), RINGBUF_DISCARD_BIT, or 0. */
typedef int (*ringbuf_dump_fn)(void* ctx, uint64_t pos, uint32_t flags, uint32_t slot, const void* data, size_t size);
/** Shows what is in the ring now, oldest first, without consuming it; safe beside working producers and consumers: each record is
 * copied and only shown if it was not overwritten meanwhile. Allocates the largest record's size.
 * @return records shown (of all kinds); the callback's negative value; -EBADMSG; -ENOMEM */
int64_t ringbuf_observer_dump(struct ringbuf_observer* observer, ringbuf_dump_fn fn, void* ctx);

/** Shows a contiguous run of records, oldest first, all of which were in the ring at one moment: in overwrite mode from
 * overwrite_pos on, consumed or not, else from consumer_pos on; up to producer_pos as it was during the call. Safe beside
 * producers at full speed. Allocates N bytes. @return as ringbuf_observer_dump; -EAGAIN producers went round the whole ring
 * during each of 16 attempts */
int64_t ringbuf_observer_snapshot(struct ringbuf_observer* observer, ringbuf_dump_fn fn, void* ctx);

/** This attachment's own losses. @return 0 */
int ringbuf_producer_lost(const struct ringbuf_producer* producer, uint64_t ret_lost[RINGBUF_LOST_REASONS]);

/* ---- For inline callers (ringbuf.hpp) ---------------------------------------------------------------------------------------
 */

const struct ringbuf_view* ringbuf_producer_view(const struct ringbuf_producer* producer);
const struct ringbuf_view* ringbuf_consumer_view(const struct ringbuf_consumer* consumer);
/* Take and give back the right to consume: 0 or -EBUSY (called from this consumer's own callback). `left`: committed data remain.
 */
int ringbuf_consumer_begin(struct ringbuf_consumer* consumer);
void ringbuf_consumer_end(struct ringbuf_consumer* consumer, int left);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
