// SPDX-License-Identifier: MIT
// What consumers and pollers share.
#pragma once

#include "map.hpp"
#include "ringbuf/shm/consumer.hpp"

namespace ringbuf {

// All consumers of one map in this process: they take turns, and know which needs for room were answered.
struct ConsumerTurn {
  std::recursive_mutex mutex;  // recursive, so that a callback that consumes its own ring is refused and does not hang
  bool taken = false;          // guarded by mutex
  std::uint64_t room_told[RINGBUF_SLOT_COUNT] = {};  // guarded by mutex
  std::unique_ptr<unsigned char[]> copy;             // in overwrite mode N bytes; the bytes are guarded by mutex

  static std::shared_ptr<ConsumerTurn> of(const Attachment& a);
};

// Empties an epoll of edges, before the ring is looked at. Returns how many there were.
int clear_edges(int epoll_fd);

}  // namespace ringbuf

struct ringbuf_consumer {
  ringbuf_consumer(std::unique_ptr<ringbuf::Attachment> a, ringbuf_sample_fn f, void* c);
  ~ringbuf_consumer();

  // 0 or -EBUSY. While held, the ring is this thread's to consume. `edges`: the wait descriptor may be readable.
  int begin(bool edges = false);
  void end(bool left);
  void taken_now(bool edges);                                                                  // the second half of begin
  int drain(ringbuf_sample_fn fn, void* ctx, std::uint64_t flags, std::int64_t* ret_samples);  // 0 or as api_fail
  // Under begin: all or `limit` records to fn. *ret_corrupt is set if that, and not fn, is why the result is -EBADMSG.
  int consume(std::uint64_t limit, bool edges = false, bool* ret_corrupt = nullptr);
  bool must_not_sleep();
  bool user() const { return view.map_type == RINGBUF_MAP_TYPE_USER_RINGBUF; }
  int hand_out();    // the epoll descriptor, for the application's own loop
  int make_again();  // under turn->mutex; 0 or as api_fail

  const std::unique_ptr<ringbuf::Attachment> attachment;
  const std::shared_ptr<ringbuf::ConsumerTurn> turn;
  const ringbuf_view view;
  const ringbuf::shm::Consumer ring;
  const ringbuf_sample_fn fn;
  void* const ctx;
  // Once in a poller or handed out: an eventfd of our own in the same epoll, for data that are left behind although somebody may
  // sleep on the edges that we took.
  ringbuf::UniqueFd again;
  bool handed_out = false;
  bool took_edges = false;  // by the begin that is held
};
