/* SPDX-License-Identifier: MIT */
/*
 * The bytes on the socket: SOCK_SEQPACKET, one message a frame, native byte order, at most RINGBUF_WIRE_MAX bytes and
 * RINGBUF_WIRE_MAX_FDS descriptors (SCM_RIGHTS; their number and kind are fixed by the command). docs/protocol.md has the
 * conversations.
 *
 *     request:  [ ringbuf_wire_hdr, err 0 ][ struct of the command ]        + fds
 *     reply:    [ ringbuf_wire_hdr, err 0 ][ struct of the reply   ]        + fds
 *     refusal:  [ ringbuf_wire_hdr, err = errno ][ a sentence in UTF-8, not terminated ]
 *
 * Structs grow at their end, in the manner of bpf(2): a missing tail reads as zero, an unknown tail must be zero (else
 * E2BIG). Reserved fields must be zero (else EINVAL). One request is answered before the next is read; `seq` is returned.
 */
#ifndef RINGBUF_ABI_WIRE_H
#define RINGBUF_ABI_WIRE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RINGBUF_WIRE_VERSION 1u
#define RINGBUF_WIRE_MAX 4096u
#define RINGBUF_WIRE_MAX_FDS 8u
#define RINGBUF_NAME_LEN 16u        /* BPF_OBJ_NAME_LEN: 15 characters and a NUL */
#define RINGBUF_PATH_LEN 256u       /* pin paths: 255 bytes and a NUL */
#define RINGBUF_MAX_KEY_SIZE 512u   /* of a HASH_OF_MAPS; the kernel takes longer keys */
#define RINGBUF_MAX_CONSUMERS 64u   /* attachments of a map's one consuming process; the kernel knows no limit */
#define RINGBUF_MAX_ELEMENTS 65536u /* max_entries of a map of maps; the kernel takes more */

/* Commands carry bpf(2)'s names where bpf(2) has them.          fds in a request -> fds in its reply */
enum ringbuf_cmd {
  RINGBUF_HELLO = 1,               /* first on each session     lease or - -> lease if it is a new one */
  RINGBUF_MAP_CREATE = 2,          /* maps of maps: inner token; else - -> token                       */
  RINGBUF_MAP_GET_NEXT_ID = 3,     /*                           - -> -                                 */
  RINGBUF_MAP_GET_FD_BY_ID = 4,    /*                           - -> token                             */
  RINGBUF_MAP_GET_FD_BY_NAME = 5,  /* ours                      - -> token                             */
  RINGBUF_OBJ_PIN = 6,             /*                       token -> -                                 */
  RINGBUF_OBJ_GET = 7,             /*                           - -> token                             */
  RINGBUF_OBJ_UNPIN = 8,           /* ours: unlink(2)           - -> -                                 */
  RINGBUF_OBJ_GET_INFO_BY_FD = 9,  /*                       token -> -                                 */
  RINGBUF_OBJ_GET_PIN = 10,        /* ours: nth pin path    token -> -                                 */
  RINGBUF_MAP_GET_ATTACHMENT = 11, /* ours: nth attachment  token -> -                                 */
  RINGBUF_ATTACH = 12,             /* ours: mmap(2)         token -> C, P [, signal or wait]; or table */
  RINGBUF_DETACH = 13,             /* ours: munmap(2)           - -> -                                 */
  RINGBUF_MAP_LOOKUP_ELEM = 14,    /*                       token -> -                                 */
  RINGBUF_MAP_UPDATE_ELEM = 15,    /*          token, inner token -> -                                 */
  RINGBUF_MAP_DELETE_ELEM = 16,    /*                       token -> -                                 */
  RINGBUF_MAP_GET_NEXT_KEY = 17,   /*                       token -> -                                 */
  RINGBUF_MAP_GET_FD_BY_KEY = 18,  /* ours                  token -> inner token                       */
  RINGBUF_MAP_NARROW = 19          /* ours: fewer rights    token -> token                             */
};

/* Rights that a token carries. By the map's mode, for the class of the caller (owner, group, other): r gives OBSERVE, w gives
 * PRODUCE, both together give CONSUME. The owner and root have MANAGE as well; root has everything. */
#define RINGBUF_RIGHT_OBSERVE (1u << 0)
#define RINGBUF_RIGHT_PRODUCE (1u << 1)
#define RINGBUF_RIGHT_CONSUME (1u << 2)
#define RINGBUF_RIGHT_MANAGE (1u << 3)
#define RINGBUF_RIGHT_ALL 0xfu

struct ringbuf_wire_hdr {
  uint16_t cmd; /* enum ringbuf_cmd */
  uint16_t reserved;
  uint32_t seq;
  uint32_t err; /* replies: 0, or a positive errno and a sentence instead of the struct */
  uint32_t reserved2;
};

/* A lease stands for the client: one end of a socketpair, CLOEXEC, that nobody else may have. What the client has attached to
 * ends when the last copy of its lease is closed or when its process ends, not with the connection: a client whose connection
 * broke opens another one and sends its lease along. */
struct ringbuf_hello_req {
  uint32_t version; /* RINGBUF_WIRE_VERSION of the client; another one is answered EPROTONOSUPPORT */
  uint32_t reserved;
  uint64_t pid_namespace; /* inode of the client's /proc/self/ns/pid, or 0 */
};
struct ringbuf_hello_reply {
  uint32_t version;
  uint32_t page_size;
  uint32_t pid;     /* the daemon's */
  uint32_t resumed; /* 1: the lease that was sent is known and its attachments go on; 0: a new one comes with this reply */
};

struct ringbuf_map_create_req {
  uint32_t map_type; /* BPF_MAP_TYPE_* */
  uint32_t key_size;
  uint32_t value_size;
  uint32_t max_entries; /* rings: bytes of data; maps of maps: elements */
  uint32_t map_flags;   /* BPF_F_* */
  uint32_t numa_node;   /* with BPF_F_NUMA_NODE */
  uint64_t map_extra;
  char name[RINGBUF_NAME_LEN];
  uint32_t ring_flags; /* RINGBUF_F_* */
  uint32_t mode;       /* permission bits, at most 0666 */
};
struct ringbuf_map_id_reply { /* every command that answers with a token */
  uint32_t id;
  uint32_t rights; /* that the token carries */
  uint32_t map_type;
  uint32_t key_size;
};

struct ringbuf_next_id_req {
  uint32_t start_id;
  uint32_t reserved;
};
struct ringbuf_next_id_reply {
  uint32_t next_id;
  uint32_t reserved;
};

struct ringbuf_fd_by_id_req {
  uint32_t id;
  uint32_t rights; /* wanted; 0 = all that the caller may have */
};
struct ringbuf_fd_by_name_req {
  char name[RINGBUF_NAME_LEN];
  uint32_t rights;
  uint32_t reserved;
};

struct ringbuf_path_req { /* OBJ_PIN, OBJ_GET, OBJ_UNPIN */
  uint32_t rights;        /* OBJ_GET only */
  uint32_t reserved;
  char path[RINGBUF_PATH_LEN];
};

struct ringbuf_index_req { /* OBJ_GET_PIN, MAP_GET_ATTACHMENT: ENOENT past the last one */
  uint32_t index;
  uint32_t reserved;
};
struct ringbuf_path_reply {
  char path[RINGBUF_PATH_LEN];
};

struct ringbuf_map_info { /* OBJ_GET_INFO_BY_FD takes an empty struct */
  uint32_t type;
  uint32_t id;
  uint32_t key_size;
  uint32_t value_size;
  uint32_t max_entries;
  uint32_t map_flags;
  char name[RINGBUF_NAME_LEN];
  uint64_t bytes_memlock; /* memory that the map holds */
  uint32_t ring_flags;
  uint32_t mode;
  uint32_t uid; /* owner */
  uint32_t gid;
  uint32_t rights; /* of the token asked with */
  uint32_t tokens;
  uint32_t producers;
  uint32_t consumers;
  uint32_t observers;
  uint32_t pins;
  uint32_t references; /* elements of maps of maps that hold this map */
  uint32_t elements;   /* maps of maps: how many are in use */
  /* What dead producers had reserved and not committed, and was discarded for them. */
  uint64_t orphan_records;
  uint64_t orphan_bytes; /* payload bytes */
  uint32_t orphan_pid;   /* whose the last one was; 0: none, or a process of another pid namespace */
  /* Who is in the way: the uncommitted record at consumer_pos (in overwrite mode at pending_pos), and who is inside reserve. */
  uint32_t head_pid; /* whose the record is */
  uint64_t head_pos;
  uint64_t head_ms;    /* it has been seen there for at least so long */
  uint32_t head_slot;  /* 0: no uncommitted record is in the way, and all head_* are 0 */
  uint32_t owner_slot; /* 0: nobody is inside reserve */
  uint32_t owner_pid;
  uint32_t owner_tid;               /* as the owner sees it */
  char head_comm[RINGBUF_NAME_LEN]; /* name of head_pid's program, or empty */
  char owner_comm[RINGBUF_NAME_LEN];
};

enum ringbuf_role { RINGBUF_PRODUCER = 1, RINGBUF_CONSUMER = 2, RINGBUF_OBSERVER = 3 };

struct ringbuf_attachment_info {
  uint32_t role;
  uint32_t pid;
  uint32_t uid;
  uint32_t slot; /* of a producer */
};

struct ringbuf_attach_req {
  uint32_t role;
  uint32_t attachment; /* the number that it shall have; 0: any. One that the client has already is ended first: the client lost
                          the reply that told of it */
};
struct ringbuf_attach_reply {
  uint32_t attachment; /* for DETACH; ends with the lease in any case */
  uint32_t id;
  uint32_t max_entries;
  uint32_t slot_count;
  uint32_t slot; /* of a producer, else 0 */
  uint32_t map_type;
  uint32_t map_flags;
  uint32_t ring_flags;
  uint32_t page_size;
  uint32_t flags; /* RINGBUF_ATTACHED_* */
};
#define RINGBUF_ATTACHED_ROBUST (1u << 0) /* producers: thread ids are the daemon's: the kernel may free the owner word */

struct ringbuf_detach_req {
  uint32_t attachment;
  uint32_t reserved;
};

struct ringbuf_narrow_req {
  uint32_t rights; /* of the new token; a part of what the one sent along carries, and not 0 */
  uint32_t reserved;
};

struct ringbuf_elem_req {                  /* MAP_LOOKUP_ELEM, _UPDATE_ELEM, _DELETE_ELEM, _GET_NEXT_KEY, _GET_FD_BY_KEY */
  uint64_t flags;                          /* MAP_UPDATE_ELEM: BPF_ANY, BPF_NOEXIST, BPF_EXIST; else 0 */
  uint32_t rights;                         /* MAP_GET_FD_BY_KEY: wanted, 0 = all that may be had; else 0 */
  uint32_t key_size;                       /* the map's; MAP_GET_NEXT_KEY: 0 asks for the first key */
  unsigned char key[RINGBUF_MAX_KEY_SIZE]; /* zeros behind it */
};
struct ringbuf_elem_reply { /* MAP_LOOKUP_ELEM, MAP_GET_FD_BY_KEY: of the inner map; begins as ringbuf_map_id_reply */
  uint32_t id;
  uint32_t rights; /* that the token carries; MAP_LOOKUP_ELEM: that it could */
  uint32_t map_type;
  uint32_t key_size;
  uint64_t word; /* what stands in the table now */
};
struct ringbuf_key_reply { /* MAP_GET_NEXT_KEY */
  uint32_t key_size;
  uint32_t reserved;
  unsigned char key[RINGBUF_MAX_KEY_SIZE];
};

#ifdef __cplusplus
}
#endif
#endif
