// SPDX-License-Identifier: MIT
// Owners for the C API's handles, and embedded maps that fail the test at once when they cannot be made.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "ringbuf/ringbuf.h"
#include "support/fd_leak_guard.hpp"

namespace ringbuf::test {

template <auto Free>
struct Freer {
  template <class T>
  void operator()(T* handle) const {
    Free(handle);
  }
};
using MapPtr = std::unique_ptr<ringbuf_map, Freer<ringbuf_map_free>>;
using ProducerPtr = std::unique_ptr<ringbuf_producer, Freer<ringbuf_producer_free>>;
using ConsumerPtr = std::unique_ptr<ringbuf_consumer, Freer<ringbuf_consumer_free>>;
using ObserverPtr = std::unique_ptr<ringbuf_observer, Freer<ringbuf_observer_free>>;
using PollerPtr = std::unique_ptr<ringbuf_poller, Freer<ringbuf_poller_free>>;
using SessionPtr = std::unique_ptr<ringbuf_session, Freer<ringbuf_session_free>>;

// For what must work before a test can begin.
inline void must(int result, const char* what) {
  if (result >= 0) return;
  std::fprintf(stderr, "%s: %s (%s)\n", what, ringbuf_last_error(), std::strerror(-result));
  std::abort();
}

inline MapPtr embedded_map(std::uint32_t max_entries = 4096, std::uint32_t ring_flags = 0, std::uint32_t map_type = 0,
                           std::uint32_t map_flags = 0) {
  ringbuf_map_create_opts opts{};
  opts.sz = sizeof opts;
  opts.ring_flags = ring_flags;
  opts.map_type = map_type;
  opts.map_flags = map_flags;
  ringbuf_map* map = nullptr;
  must(ringbuf_map_create(nullptr, "test", max_entries, &opts, &map), "ringbuf_map_create");
  return MapPtr(map);
}
inline ProducerPtr producer_of(const MapPtr& map) {
  ringbuf_producer* producer = nullptr;
  must(ringbuf_producer_attach(map.get(), &producer), "ringbuf_producer_attach");
  return ProducerPtr(producer);
}
inline ConsumerPtr consumer_of(const MapPtr& map, ringbuf_sample_fn fn, void* ctx) {
  ringbuf_consumer* consumer = nullptr;
  must(ringbuf_consumer_attach(map.get(), fn, ctx, &consumer), "ringbuf_consumer_attach");
  return ConsumerPtr(consumer);
}
inline ObserverPtr observer_of(const MapPtr& map) {
  ringbuf_observer* observer = nullptr;
  must(ringbuf_observer_attach(map.get(), &observer), "ringbuf_observer_attach");
  return ObserverPtr(observer);
}
inline PollerPtr poller_of(std::initializer_list<ringbuf_consumer*> consumers) {
  ringbuf_poller* poller = nullptr;
  must(ringbuf_poller_new(&poller), "ringbuf_poller_new");
  for (ringbuf_consumer* c : consumers) must(ringbuf_poller_add(poller, c), "ringbuf_poller_add");
  return PollerPtr(poller);
}
inline ringbuf_stats stats_of(const ObserverPtr& observer) {
  ringbuf_stats s{};
  must(ringbuf_observer_stats(observer.get(), &s, sizeof s), "ringbuf_observer_stats");
  return s;
}

// Gathers records; `result` is what the callback returns.
struct Gather {
  std::vector<std::string> records;
  int result = 0;

  static int call(void* ctx, void* data, std::size_t size) {
    auto* self = static_cast<Gather*>(ctx);
    self->records.emplace_back(static_cast<const char*>(data), size);
    return self->result;
  }
};

inline int put(const ProducerPtr& producer, const std::string& text, std::uint64_t flags = 0) {
  return ringbuf_output(producer.get(), text.data(), text.size(), flags);
}

// Level-triggered readiness, as an application's own loop sees it.
inline bool readable(int fd) {
  pollfd p{fd, POLLIN, 0};
  return ::poll(&p, 1, 0) == 1 && (p.revents & POLLIN);
}

// Until `ready()`; the test's timeout is the limit.
template <class F>
void wait_until(F&& ready) {
  while (!ready()) ::sched_yield();
}

}  // namespace ringbuf::test
