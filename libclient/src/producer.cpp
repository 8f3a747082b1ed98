// SPDX-License-Identifier: MIT
#include "ringbuf/shm/producer.hpp"

#include "map.hpp"
#include "shm/room.hpp"

using namespace ringbuf;

struct ringbuf_producer {
  explicit ringbuf_producer(std::unique_ptr<Attachment> a) : attachment(std::move(a)), ring(attachment->view()), room(ring) {}
  const std::unique_ptr<Attachment> attachment;
  const shm::Producer ring;
  shm::RoomWaiter room;
};

int ringbuf_producer_attach(ringbuf_map* map, ringbuf_producer** ret_producer) {
  if (!map || !ret_producer) return api_fail(EINVAL, "map or ret_producer is NULL");
  return guarded([&] {
    std::unique_ptr<Attachment> a;
    if (int r = Attachment::make(*map, RINGBUF_PRODUCER, &a); r < 0) return r;
    *ret_producer = new ringbuf_producer(std::move(a));
    return 0;
  });
}

void ringbuf_producer_free(ringbuf_producer* producer) { delete producer; }

void* ringbuf_reserve(ringbuf_producer* producer, size_t size, uint64_t flags) {
  if (producer) return producer->ring.reserve(size, flags);
  errno = EINVAL;
  return nullptr;
}

void* ringbuf_reserve_wait(ringbuf_producer* producer, size_t size, int timeout_ms) {
  if (!producer || timeout_ms < -1) {
    errno = EINVAL;
    return nullptr;
  }
  return producer->room.reserve(size, timeout_ms);
}

void ringbuf_submit(ringbuf_producer* producer, void* data, uint64_t flags) { producer->ring.submit(data, flags); }
void ringbuf_discard(ringbuf_producer* producer, void* data, uint64_t flags) { producer->ring.discard(data, flags); }

int ringbuf_output(ringbuf_producer* producer, const void* data, size_t size, uint64_t flags) {
  const int r = producer ? producer->ring.output(data, size, flags) : -EINVAL;
  if (r < 0) errno = -r;
  return r;
}

uint64_t ringbuf_query(const ringbuf_producer* producer, uint64_t what) { return producer ? producer->ring.query(what) : 0; }

int ringbuf_producer_lost(const ringbuf_producer* producer, uint64_t ret_lost[RINGBUF_LOST_REASONS]) {
  if (!producer || !ret_lost) return api_fail(EINVAL, "producer or ret_lost is NULL");
  for (unsigned i = 0; i < RINGBUF_LOST_REASONS; ++i)
    ret_lost[i] = producer->ring.ring().lost(producer->ring.slot(), static_cast<ringbuf_lost>(i));
  return 0;
}

const ringbuf_view* ringbuf_producer_view(const ringbuf_producer* producer) { return &producer->attachment->view(); }
