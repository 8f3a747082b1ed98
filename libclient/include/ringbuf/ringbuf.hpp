// SPDX-License-Identifier: MIT
// libringbuf for C++20: owners for the C API's objects, and the hot path (reserve, submit, consume) inline. Header-only; link
// libringbuf. The rules of ringbuf.h hold (threads, fork, what blocks, every errno); nothing here throws but what callbacks do,
// and the standard library when memory is out.
//
//   auto session = ringbuf::Session::connect();                       // tl::expected
//   auto map = ringbuf::Map::open_pinned(*session, "/events");
//   auto producer = ringbuf::Producer::attach(*map);
//   if (auto r = producer->reserve(sizeof(Event))) {                  // a Reservation; empty when the ring is full
//     new (r.data()) Event{...};
//     r.submit();                                                     // forgotten: it discards itself
//   }
#pragma once

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <tl/expected.hpp>
#include <type_traits>
#include <utility>

#include "ringbuf/ringbuf.h"
#include "ringbuf/shm/consumer.hpp"
#include "ringbuf/shm/producer.hpp"

namespace ringbuf {

struct Failure {
  int err;           // positive errno
  std::string what;  // the whole sentence
};
template <class T>
using Expected = tl::expected<T, Failure>;

namespace detail {

template <auto Free>
struct Deleter {
  template <class T>
  void operator()(T* object) const {
    Free(object);
  }
};

inline tl::unexpected<Failure> failure(std::int64_t negative_errno) {
  return tl::unexpected<Failure>(Failure{static_cast<int>(-negative_errno), ringbuf_last_error()});
}

// A C function that fills in a handle becomes an Expected owner of it.
template <class Owner, class Handle, class F>
Expected<Owner> own(F&& make) {
  Handle* handle = nullptr;
  if (const int r = make(&handle); r < 0) return failure(r);
  return Owner(handle);
}

inline Expected<int> checked(int r) {
  if (r < 0) return failure(r);
  return r;
}

}  // namespace detail

// A connection with ringbufd. All threads.
class Session {
 public:
  static Expected<Session> connect(const char* socket_path = nullptr) {
    return detail::own<Session, ringbuf_session>([&](auto** h) { return ringbuf_connect(socket_path, h); });
  }
  ringbuf_session* get() const { return handle_.get(); }
  Expected<int> unpin(const char* path) { return detail::checked(ringbuf_unpin(get(), path)); }
  explicit Session(ringbuf_session* handle) : handle_(handle) {}

 private:
  std::unique_ptr<ringbuf_session, detail::Deleter<ringbuf_session_free>> handle_;
};

// A reference to a map. All threads.
class Map {
 public:
  static Expected<Map> create(Session& session, const char* name, std::uint32_t max_entries,
                              const ringbuf_map_create_opts* opts = nullptr) {
    if (!session.get()) return tl::unexpected<Failure>(Failure{EINVAL, "the session was moved from"});
    return detail::own<Map, ringbuf_map>([&](auto** h) { return ringbuf_map_create(session.get(), name, max_entries, opts, h); });
  }
  // Without a daemon: for this process and the children that it forks.
  static Expected<Map> create_embedded(const char* name, std::uint32_t max_entries,
                                       const ringbuf_map_create_opts* opts = nullptr) {
    return detail::own<Map, ringbuf_map>([&](auto** h) { return ringbuf_map_create(nullptr, name, max_entries, opts, h); });
  }
  static Expected<Map> open_id(Session& session, std::uint32_t id, std::uint32_t rights = 0) {
    return detail::own<Map, ringbuf_map>([&](auto** h) { return ringbuf_map_open_id(session.get(), id, rights, h); });
  }
  static Expected<Map> open_name(Session& session, const char* name, std::uint32_t rights = 0) {
    return detail::own<Map, ringbuf_map>([&](auto** h) { return ringbuf_map_open_name(session.get(), name, rights, h); });
  }
  static Expected<Map> open_pinned(Session& session, const char* path, std::uint32_t rights = 0) {
    return detail::own<Map, ringbuf_map>([&](auto** h) { return ringbuf_map_open_pinned(session.get(), path, rights, h); });
  }
  static Expected<Map> from_fd(Session& session, int fd) {
    return detail::own<Map, ringbuf_map>([&](auto** h) { return ringbuf_map_from_fd(session.get(), fd, h); });
  }

  // The same map with fewer rights, to be given away.
  Expected<Map> narrow(std::uint32_t rights) const {
    return detail::own<Map, ringbuf_map>([&](auto** h) { return ringbuf_map_narrow(get(), rights, h); });
  }

  ringbuf_map* get() const { return handle_.get(); }
  int fd() const { return ringbuf_map_fd(get()); }
  Expected<int> pin(const char* path) { return detail::checked(ringbuf_map_pin(get(), path)); }
  Expected<ringbuf_map_info> info() const {
    ringbuf_map_info i;
    if (const int r = ringbuf_map_get_info(get(), &i, sizeof i); r < 0) return detail::failure(r);
    return i;
  }

  // Elements of a map of maps. `key` points to key_size bytes: of an array, a std::uint32_t.
  Expected<int> update(const void* key, const Map& inner, std::uint64_t flags = RINGBUF_ANY) {
    return detail::checked(ringbuf_map_update_elem(get(), key, inner.get(), flags));
  }
  Expected<int> erase(const void* key) { return detail::checked(ringbuf_map_delete_elem(get(), key)); }
  // The id of the map there.
  Expected<std::uint32_t> lookup(const void* key) const {
    std::uint32_t id = 0;
    if (const int r = ringbuf_map_lookup_elem(get(), key, &id); r < 0) return detail::failure(r);
    return id;
  }
  Expected<Map> open_inner(const void* key, std::uint32_t rights = 0) const {
    return detail::own<Map, ringbuf_map>([&](auto** h) { return ringbuf_map_open_inner(get(), key, rights, h); });
  }
  explicit Map(ringbuf_map* handle) : handle_(handle) {}

 private:
  std::unique_ptr<ringbuf_map, detail::Deleter<ringbuf_map_free>> handle_;
};

// Reserved bytes of a ring. What the verifier guarantees in the kernel, the destructor does here: a reservation that is
// neither submitted nor discarded is discarded. Must not outlive its Producer. May move to another thread.
class Reservation {
 public:
  Reservation() = default;
  Reservation(Reservation&& other) noexcept
      : ring_(other.ring_), borrowed_(other.borrowed_), data_(std::exchange(other.data_, nullptr)), size_(other.size_) {}
  Reservation& operator=(Reservation&& other) noexcept {
    if (this != &other) {
      discard();
      ring_ = other.ring_;
      borrowed_ = other.borrowed_;
      data_ = std::exchange(other.data_, nullptr);
      size_ = other.size_;
    }
    return *this;
  }
  ~Reservation() { discard(); }

  explicit operator bool() const { return data_ != nullptr; }
  void* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::span<std::byte> bytes() const { return {static_cast<std::byte*>(data_), size_}; }

  void submit(std::uint64_t flags = 0) {
    if (void* d = std::exchange(data_, nullptr)) borrowed_ ? ringbuf_submit(borrowed_, d, flags) : ring_->submit(d, flags);
  }
  void discard(std::uint64_t flags = 0) {
    if (void* d = std::exchange(data_, nullptr)) borrowed_ ? ringbuf_discard(borrowed_, d, flags) : ring_->discard(d, flags);
  }

 private:
  friend class Producer;
  friend class BorrowedProducer;
  friend class ShardedProducer;
  Reservation(const shm::Producer* ring, void* data, std::size_t size) : ring_(ring), data_(data), size_(size) {}
  Reservation(ringbuf_producer* borrowed, void* data, std::size_t size) : borrowed_(borrowed), data_(data), size_(size) {}

  const shm::Producer* ring_ = nullptr;   // or
  ringbuf_producer* borrowed_ = nullptr;  // of an Outer
  void* data_ = nullptr;
  std::size_t size_ = 0;
};

// A ring mapped for producing. All threads at once, unless the map is RINGBUF_F_SINGLE_PRODUCER.
class Producer {
 public:
  static Expected<Producer> attach(const Map& map) {
    return detail::own<Producer, ringbuf_producer>([&](auto** h) { return ringbuf_producer_attach(map.get(), h); });
  }

  // Empty on failure, with errno as ringbuf_reserve.
  Reservation reserve(std::size_t size, std::uint64_t flags = 0) { return {ring_.get(), ring_->reserve(size, flags), size}; }
  // Sleeps until there is room: ringbuf_reserve_wait.
  Reservation reserve_wait(std::size_t size, int timeout_ms = -1) {
    return {ring_.get(), ringbuf_reserve_wait(handle_.get(), size, timeout_ms), size};
  }
  // 0 or a negative errno, as bpf_ringbuf_output.
  int output(const void* data, std::size_t size, std::uint64_t flags = 0) { return ring_->output(data, size, flags); }
  std::uint64_t query(std::uint64_t what) const { return ring_->query(what); }
  // This attachment's failed reservations, by enum ringbuf_lost.
  std::array<std::uint64_t, RINGBUF_LOST_REASONS> lost() const {
    std::array<std::uint64_t, RINGBUF_LOST_REASONS> counts{};
    ringbuf_producer_lost(handle_.get(), counts.data());
    return counts;
  }
  ringbuf_producer* get() const { return handle_.get(); }
  explicit Producer(ringbuf_producer* handle)
      : handle_(handle), ring_(std::make_unique<shm::Producer>(*ringbuf_producer_view(handle))) {}

 private:
  std::unique_ptr<ringbuf_producer, detail::Deleter<ringbuf_producer_free>> handle_;
  std::unique_ptr<const shm::Producer> ring_;  // at a fixed address: reservations point to it
};

// A producer that an Outer found, and that stays the Outer's: valid until it finds another ring at the same key, or is gone.
class BorrowedProducer {
 public:
  BorrowedProducer() = default;
  explicit BorrowedProducer(ringbuf_producer* handle) : handle_(handle) {}
  explicit operator bool() const { return handle_ != nullptr; }
  ringbuf_producer* get() const { return handle_; }

  // As Producer's.
  Reservation reserve(std::size_t size, std::uint64_t flags = 0) const {
    return {handle_, ringbuf_reserve(handle_, size, flags), size};
  }
  Reservation reserve_wait(std::size_t size, int timeout_ms = -1) const {
    return {handle_, ringbuf_reserve_wait(handle_, size, timeout_ms), size};
  }
  int output(const void* data, std::size_t size, std::uint64_t flags = 0) const {
    return ringbuf_output(handle_, data, size, flags);
  }

 private:
  ringbuf_producer* handle_ = nullptr;
};

// Finds the producers of a map of maps by key: ringbuf_outer_lookup. One thread at a time; make one a thread.
class Outer {
 public:
  static Expected<Outer> attach(const Map& map) {
    return detail::own<Outer, ringbuf_outer>([&](auto** h) { return ringbuf_outer_attach(map.get(), h); });
  }
  // Empty, with errno, if there is none. `key` points to key_size bytes.
  BorrowedProducer lookup(const void* key) { return BorrowedProducer(ringbuf_outer_lookup(handle_.get(), key)); }
  BorrowedProducer at(std::uint32_t index) { return lookup(&index); }  // of an array
  ringbuf_outer* get() const { return handle_.get(); }
  explicit Outer(ringbuf_outer* handle) : handle_(handle) {}

 private:
  std::unique_ptr<ringbuf_outer, detail::Deleter<ringbuf_outer_free>> handle_;
};

// An array of rings as one stream: each record goes to the ring of this CPU, or of this process. One thread at a time.
class ShardedProducer {
 public:
  static Expected<ShardedProducer> attach(const Map& map, ringbuf_shard shard) {
    auto outer = Outer::attach(map);
    if (!outer) return tl::unexpected(outer.error());
    return ShardedProducer(std::move(*outer), shard);
  }
  // Empty on failure, with errno as ringbuf_shard_reserve. Submit before the next reserve.
  Reservation reserve(std::size_t size, std::uint64_t flags = 0) {
    ringbuf_producer* producer = nullptr;
    void* data = ringbuf_shard_reserve(outer_.get(), shard_, size, flags, &producer);
    return {producer, data, size};
  }

 private:
  ShardedProducer(Outer outer, ringbuf_shard shard) : outer_(std::move(outer)), shard_(shard) {}

  Outer outer_;
  ringbuf_shard shard_;
};

// A ring mapped for consuming.
class Consumer {
 public:
  using Handler = std::function<int(std::span<const std::byte>)>;

  // For consume and consume_n with a callable of their own.
  static Expected<Consumer> attach(const Map& map) { return attach(map, nullptr); }
  // With a handler, which pollers call: 0 goes on, a negative value stops and is returned.
  static Expected<Consumer> attach(const Map& map, Handler handler) {
    auto kept = std::make_unique<Handler>(std::move(handler));
    ringbuf_consumer* h = nullptr;
    if (const int r = ringbuf_consumer_attach(map.get(), *kept ? call : nullptr, kept.get(), &h); r < 0)
      return detail::failure(r);
    return Consumer(h, std::move(kept));
  }

  // f(data, size) -> int for each record. Returns as ringbuf_consume, but not clamped, and sets neither errno nor the sentence.
  template <class F>
  std::int64_t consume(F&& f) {
    return consume_n(std::forward<F>(f), UINT64_MAX);
  }
  template <class F>
  std::int64_t consume_n(F&& f, std::uint64_t n) {
    if (n == 0) return 0;
    if (const int r = ringbuf_consumer_begin(handle_.get()); r < 0) return r;
    End end{handle_.get()};
    return ring_.consume(std::forward<F>(f), n, &end.left);
  }
  // A cheap look for loops that spin: false while there is nothing to consume and nobody waits for room.
  bool maybe_work() const { return ring_.maybe_work(); }
  // f(data, size) -> int for each sample of a USER_RINGBUF: ringbuf_drain.
  template <class F>
  std::int64_t drain(F&& f, std::uint64_t flags = 0) {
    using Callable = std::remove_reference_t<F>;
    const auto call_it = [](void* ctx, void* data, std::size_t size) -> int {
      return (*static_cast<Callable*>(ctx))(data, size);
    };
    return ringbuf_drain(handle_.get(), call_it, const_cast<void*>(static_cast<const void*>(std::addressof(f))), flags);
  }
  // Overwrite mode: what was overwritten before it could be delivered: ringbuf_consumer_missed.
  struct Missed {
    std::uint64_t records, bytes;
  };
  Missed missed() const {
    Missed m{};
    ringbuf_consumer_missed(handle_.get(), &m.records, &m.bytes);
    return m;
  }
  std::int64_t reset() { return ringbuf_consumer_reset(handle_.get()); }
  Expected<int> epoll_fd() { return detail::checked(ringbuf_consumer_epoll_fd(handle_.get())); }
  std::uint64_t query(std::uint64_t what) const { return ringbuf_consumer_query(handle_.get(), what); }
  ringbuf_consumer* get() const { return handle_.get(); }

 private:
  struct End {  // also when f throws
    ringbuf_consumer* consumer;
    bool left = true;
    ~End() { ringbuf_consumer_end(consumer, left); }
  };
  static int call(void* ctx, void* data, std::size_t size) {
    return (*static_cast<Handler*>(ctx))({static_cast<const std::byte*>(data), size});
  }
  Consumer(ringbuf_consumer* handle, std::unique_ptr<Handler> handler)
      : handler_(std::move(handler)), handle_(handle), ring_(*ringbuf_consumer_view(handle)) {}

  std::unique_ptr<Handler> handler_;
  std::unique_ptr<ringbuf_consumer, detail::Deleter<ringbuf_consumer_free>> handle_;
  shm::Consumer ring_;
};

// Several rings, one sleep. One thread at a time; the consumers, attached with handlers, must outlive it.
class Poller {
 public:
  static Expected<Poller> create() {
    return detail::own<Poller, ringbuf_poller>([](auto** h) { return ringbuf_poller_new(h); });
  }
  Expected<int> add(Consumer& consumer) { return detail::checked(ringbuf_poller_add(handle_.get(), consumer.get())); }
  Expected<int> remove(Consumer& consumer) { return detail::checked(ringbuf_poller_remove(handle_.get(), consumer.get())); }
  // Records delivered, 0 after the timeout, or a negative errno or handler's value: ringbuf_poll.
  int poll(int timeout_ms = -1) { return ringbuf_poll(handle_.get(), timeout_ms); }
  int consume() { return ringbuf_poller_consume(handle_.get()); }
  Expected<int> epoll_fd() { return detail::checked(ringbuf_poller_epoll_fd(handle_.get())); }
  explicit Poller(ringbuf_poller* handle) : handle_(handle) {}

 private:
  std::unique_ptr<ringbuf_poller, detail::Deleter<ringbuf_poller_free>> handle_;
};

// A ring mapped for looking only. All threads.
class Observer {
 public:
  static Expected<Observer> attach(const Map& map) {
    return detail::own<Observer, ringbuf_observer>([&](auto** h) { return ringbuf_observer_attach(map.get(), h); });
  }
  // Positions, and the losses, deliveries and wakeups of all: ringbuf_observer_stats.
  ringbuf_stats stats() const {
    ringbuf_stats s{};
    ringbuf_observer_stats(handle_.get(), &s, sizeof s);
    return s;
  }
  // f(pos, flags, slot, data, size) -> int for each record: ringbuf_observer_dump, ringbuf_observer_snapshot.
  template <class F>
  std::int64_t dump(F&& f) const {
    return ringbuf_observer_dump(handle_.get(), show<std::remove_reference_t<F>>, address_of(f));
  }
  template <class F>
  std::int64_t snapshot(F&& f) const {
    return ringbuf_observer_snapshot(handle_.get(), show<std::remove_reference_t<F>>, address_of(f));
  }
  ringbuf_observer* get() const { return handle_.get(); }
  explicit Observer(ringbuf_observer* handle) : handle_(handle) {}

 private:
  template <class F>
  static int show(void* ctx, std::uint64_t pos, std::uint32_t flags, std::uint32_t slot, const void* data, std::size_t size) {
    return (*static_cast<F*>(ctx))(pos, flags, slot, data, size);
  }
  template <class F>
  static void* address_of(F& f) {
    return const_cast<void*>(static_cast<const void*>(std::addressof(f)));
  }

  std::unique_ptr<ringbuf_observer, detail::Deleter<ringbuf_observer_free>> handle_;
};

}  // namespace ringbuf
