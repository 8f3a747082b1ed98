// SPDX-License-Identifier: MIT
#include "ringbuf/shm/producer.hpp"

#include <cstring>
#include <utility>

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

int ringbuf_reserve_dynptr(ringbuf_producer* producer, uint32_t size, uint64_t flags, ringbuf_dynptr* ptr) {
  if (!ptr) return api_fail(EINVAL, "ptr is NULL");
  *ptr = {};
  if (!producer || flags != 0) return errno = EINVAL, -EINVAL;
  if (size > RINGBUF_MAX_DYNPTR_SIZE) return errno = E2BIG, -E2BIG;
  void* data = producer->ring.reserve(size, 0);
  if (!data) return errno = EINVAL, -EINVAL;
  *ptr = {data, size, 0, producer};
  return 0;
}

void ringbuf_submit_dynptr(ringbuf_dynptr* ptr, uint64_t flags) {
  if (void* data = std::exchange(ptr->data, nullptr)) ptr->producer->ring.submit(data, flags);
}
void ringbuf_discard_dynptr(ringbuf_dynptr* ptr, uint64_t flags) {
  if (void* data = std::exchange(ptr->data, nullptr)) ptr->producer->ring.discard(data, flags);
}

void* ringbuf_dynptr_data(const ringbuf_dynptr* ptr, uint32_t offset, uint32_t len) {
  if (!ptr || !ptr->data || len > ptr->size || offset > ptr->size - len) return nullptr;
  return static_cast<unsigned char*>(ptr->data) + offset;
}

int64_t ringbuf_dynptr_size(const ringbuf_dynptr* ptr) { return ptr && ptr->data ? std::int64_t{ptr->size} : -EINVAL; }

int ringbuf_dynptr_read(void* dst, uint32_t len, const ringbuf_dynptr* src, uint32_t offset, uint64_t flags) {
  if (!src || !src->data || flags != 0) return errno = EINVAL, -EINVAL;
  const void* from = ringbuf_dynptr_data(src, offset, len);
  if (!from) return errno = E2BIG, -E2BIG;
  std::memmove(dst, from, len);
  return 0;
}

int ringbuf_dynptr_write(const ringbuf_dynptr* dst, uint32_t offset, const void* src, uint32_t len, uint64_t flags) {
  if (!dst || !dst->data) return errno = EINVAL, -EINVAL;
  void* to = ringbuf_dynptr_data(dst, offset, len);
  if (!to) return errno = E2BIG, -E2BIG;
  if (flags != 0) return errno = EINVAL, -EINVAL;  // in the kernel's order
  std::memmove(to, src, len);
  return 0;
}

uint64_t ringbuf_query(const ringbuf_producer* producer, uint64_t what) { return producer ? producer->ring.query(what) : 0; }

int ringbuf_producer_lost(const ringbuf_producer* producer, uint64_t ret_lost[RINGBUF_LOST_REASONS]) {
  if (!producer || !ret_lost) return api_fail(EINVAL, "producer or ret_lost is NULL");
  for (unsigned i = 0; i < RINGBUF_LOST_REASONS; ++i)
    ret_lost[i] = producer->ring.ring().lost(producer->ring.slot(), static_cast<ringbuf_lost>(i));
  return 0;
}

const ringbuf_view* ringbuf_producer_view(const ringbuf_producer* producer) { return &producer->attachment->view(); }
