// SPDX-License-Identifier: MIT
// The library's calls that can fail for want of something, each with what it needs; for tests that let each of them fail.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "libclient/embedded.hpp"

namespace ringbuf::test {

inline constexpr const char* kPath = "/a/path/that/is/not/short";

inline int nothing(void*, void*, std::size_t) { return 0; }
inline int show_nothing(void*, std::uint64_t, std::uint32_t, std::uint32_t, const void*, std::size_t) { return 0; }

// What a call may need.
struct World {
  explicit World(const std::string& socket, bool embedded) {
    if (!embedded) session = connect(socket);
    ring = create(0, 0);
    user = create(RINGBUF_MAP_TYPE_USER_RINGBUF, 0);
    overwrite = create(0, RINGBUF_OVERWRITE);
    if (embedded) return;
    array = create(RINGBUF_MAP_TYPE_ARRAY_OF_MAPS, 0);
    hash = create(RINGBUF_MAP_TYPE_HASH_OF_MAPS, 0);
    const std::uint32_t key = 0;
    for (const MapPtr& outer : {std::cref(array), std::cref(hash)})
      must(ringbuf_map_update_elem(outer.get(), &key, ring.get(), 0), "ringbuf_map_update_elem");
  }
  static SessionPtr connect(const std::string& socket) {
    ringbuf_session* made = nullptr;
    must(ringbuf_connect(socket.c_str(), &made), "ringbuf_connect");
    return SessionPtr(made);
  }
  int create(std::uint32_t type, std::uint32_t flags, ringbuf_map** ret) const {
    ringbuf_map_create_opts opts{};
    opts.sz = sizeof opts;
    opts.map_type = type;
    opts.map_flags = flags;
    const bool outer = type == RINGBUF_MAP_TYPE_ARRAY_OF_MAPS || type == RINGBUF_MAP_TYPE_HASH_OF_MAPS;
    if (outer) opts.key_size = opts.value_size = 4, opts.inner_map = ring.get();
    return ringbuf_map_create(session.get(), "a_name_to_keep", outer ? 4 : 4096, &opts, ret);
  }
  MapPtr create(std::uint32_t type, std::uint32_t flags) const {
    ringbuf_map* made = nullptr;
    must(create(type, flags, &made), "ringbuf_map_create");
    return MapPtr(made);
  }

  SessionPtr session;
  MapPtr ring, user, overwrite, array, hash;
};

// One call: a negative errno or not; what it made is freed with `made`.
struct Call {
  const char* name;
  std::function<int(World&, void* made)> run;
  std::function<std::shared_ptr<void>(World&)> prepare = [](World&) { return nullptr; };
};

// run(&handle), and the handle's owner, which is made before.
template <auto Free, class T, class F>
Call makes(const char* name, F run) {
  struct Slot {
    T* handle = nullptr;
    ~Slot() { Free(handle); }
  };
  return {name, [run](World& world, void* made) { return run(world, &static_cast<Slot*>(made)->handle); },
          [](World&) { return std::make_shared<Slot>(); }};
}
// The same, done once before each time.
inline Call after(std::function<void(World&)> first, Call call) {
  return {call.name, call.run, [first, prepare = call.prepare](World& w) {
            first(w);
            return prepare(w);
          }};
}

template <class F>
Call attaches_consumer(const char* name, F map_of) {
  return makes<ringbuf_consumer_free, ringbuf_consumer>(
      name, [=](World& w, ringbuf_consumer** ret) { return ringbuf_consumer_attach(map_of(w), nothing, nullptr, ret); });
}

struct Watching {
  explicit Watching(World& w) {
    must(ringbuf_consumer_attach(w.ring.get(), nothing, nullptr, &consumer), "ringbuf_consumer_attach");
    must(ringbuf_poller_new(&poller), "ringbuf_poller_new");
  }
  ~Watching() {
    ringbuf_poller_free(poller);
    ringbuf_consumer_free(consumer);
  }
  ringbuf_consumer* consumer = nullptr;
  ringbuf_poller* poller = nullptr;
};
template <class F>
Call watches(const char* name, F run) {
  return {name, [run](World&, void* made) { return run(*static_cast<Watching*>(made)); },
          [](World& w) { return std::make_shared<Watching>(w); }};
}

inline std::vector<Call> calls_of_any_map() {
  return {
      makes<ringbuf_map_free, ringbuf_map>("create a ring", [](World& w, ringbuf_map** ret) { return w.create(0, 0, ret); }),
      makes<ringbuf_producer_free, ringbuf_producer>(
          "attach a producer", [](World& w, ringbuf_producer** ret) { return ringbuf_producer_attach(w.ring.get(), ret); }),
      makes<ringbuf_producer_free, ringbuf_producer>(
          "attach a single producer",
          [](World& w, ringbuf_producer** ret) { return ringbuf_producer_attach(w.user.get(), ret); }),
      attaches_consumer("attach a consumer", [](World& w) { return w.ring.get(); }),
      attaches_consumer("attach a consumer of an overwritten ring", [](World& w) { return w.overwrite.get(); }),
      attaches_consumer("attach a drainer", [](World& w) { return w.user.get(); }),
      makes<ringbuf_observer_free, ringbuf_observer>(
          "attach an observer", [](World& w, ringbuf_observer** ret) { return ringbuf_observer_attach(w.ring.get(), ret); }),
      makes<ringbuf_poller_free, ringbuf_poller>("make a poller",
                                                 [](World&, ringbuf_poller** ret) { return ringbuf_poller_new(ret); }),
      watches("add to a poller", [](Watching& w) { return ringbuf_poller_add(w.poller, w.consumer); }),
      watches("epoll descriptor of a consumer", [](Watching& w) { return ringbuf_consumer_epoll_fd(w.consumer); }),
      watches("epoll descriptor of a poller", [](Watching& w) { return ringbuf_poller_epoll_fd(w.poller); }),
      {"info",
       [](World& w, void*) {
         ringbuf_map_info info;
         return ringbuf_map_get_info(w.ring.get(), &info, sizeof info);
       }},
  };
}

inline std::vector<Call> calls_of_the_daemon() {
  return {
      makes<ringbuf_map_free, ringbuf_map>(
          "create an array of maps",
          [](World& w, ringbuf_map** ret) { return w.create(RINGBUF_MAP_TYPE_ARRAY_OF_MAPS, 0, ret); }),
      makes<ringbuf_map_free, ringbuf_map>("open by id",
                                           [](World& w, ringbuf_map** ret) {
                                             std::uint32_t id = 0;
                                             const int r = ringbuf_map_next_id(w.session.get(), 0, &id);
                                             return r < 0 ? r : ringbuf_map_open_id(w.session.get(), id, 0, ret);
                                           }),
      makes<ringbuf_map_free, ringbuf_map>(
          "from a descriptor",
          [](World& w, ringbuf_map** ret) { return ringbuf_map_from_fd(w.session.get(), ringbuf_map_fd(w.ring.get()), ret); }),
      makes<ringbuf_map_free, ringbuf_map>(
          "narrow", [](World& w, ringbuf_map** ret) { return ringbuf_map_narrow(w.ring.get(), RINGBUF_OBSERVER, ret); }),
      {"attachment",
       [](World& w, void*) {
         ringbuf_attachment_info info;
         const int r = ringbuf_map_get_attachment(w.ring.get(), 0, &info);
         return r == -ENOENT ? 0 : r;  // nobody is attached
       }},
      {"next key",
       [](World& w, void*) {
         std::uint32_t key;
         return ringbuf_map_get_next_key(w.hash.get(), nullptr, &key);
       }},
      after([](World& w) { ringbuf_unpin(w.session.get(), kPath); },
            {"pin", [](World& w, void*) { return ringbuf_map_pin(w.ring.get(), kPath); }}),
      makes<ringbuf_map_free, ringbuf_map>(
          "open pinned", [](World& w, ringbuf_map** ret) { return ringbuf_map_open_pinned(w.session.get(), kPath, 0, ret); }),
      after([](World& w) { ringbuf_map_pin(w.ring.get(), kPath); },
            {"unpin", [](World& w, void*) { return ringbuf_unpin(w.session.get(), kPath); }}),
      {"update an element",
       [](World& w, void*) {
         const std::uint32_t key = 1;
         return ringbuf_map_update_elem(w.hash.get(), &key, w.ring.get(), 0);
       }},
      {"look an element up",
       [](World& w, void*) {
         const std::uint32_t key = 0;
         std::uint32_t id;
         return ringbuf_map_lookup_elem(w.hash.get(), &key, &id);
       }},
      makes<ringbuf_map_free, ringbuf_map>("open an inner map",
                                           [](World& w, ringbuf_map** ret) {
                                             const std::uint32_t key = 0;
                                             return ringbuf_map_open_inner(w.hash.get(), &key, 0, ret);
                                           }),
      after(
          [](World& w) {
            const std::uint32_t key = 1;
            ringbuf_map_update_elem(w.hash.get(), &key, w.ring.get(), 0);
          },
          {"delete an element",
           [](World& w, void*) {
             const std::uint32_t key = 1;
             return ringbuf_map_delete_elem(w.hash.get(), &key);
           }}),
      makes<ringbuf_outer_free, ringbuf_outer>(
          "attach to a hash of maps", [](World& w, ringbuf_outer** ret) { return ringbuf_outer_attach(w.hash.get(), ret); }),
      makes<ringbuf_outer_free, ringbuf_outer>("find a producer by key",
                                               [](World& w, ringbuf_outer** ret) {
                                                 const std::uint32_t key = 0;
                                                 if (!*ret)
                                                   if (int r = ringbuf_outer_attach(w.hash.get(), ret); r < 0) return r;
                                                 return ringbuf_outer_lookup(*ret, &key) ? 0 : -errno;
                                               }),
      makes<ringbuf_outer_free, ringbuf_outer>("find a producer by index",
                                               [](World& w, ringbuf_outer** ret) {
                                                 const std::uint32_t key = 0;
                                                 if (!*ret)
                                                   if (int r = ringbuf_outer_attach(w.array.get(), ret); r < 0) return r;
                                                 return ringbuf_outer_lookup(*ret, &key) ? 0 : -errno;
                                               }),
  };
}

}  // namespace ringbuf::test
