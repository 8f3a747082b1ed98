// SPDX-License-Identifier: MIT
#include "map.hpp"

#include <fcntl.h>

#include <algorithm>
#include <cstring>

namespace ringbuf {
namespace {

// A request that answers with a token becomes a map.
template <class Req>
int open_map(const std::shared_ptr<Session>& session, ringbuf_cmd cmd, const Req& req, ringbuf_map** ret_map, int fd = -1) {
  auto map = std::make_unique<ringbuf_map>();
  map->session = session;
  ringbuf_map_id_reply reply{};
  std::vector<UniqueFd> fds;
  if (int r = session->ask(cmd, req, fd, &reply, 1, &fds); r < 0) return r;
  map->token = std::move(fds[0]);
  map->map_type = reply.map_type;
  map->key_size = reply.key_size;
  *ret_map = map.release();
  return 0;
}

int no_daemon(const char* what) {
  return api_fail(EOPNOTSUPP, std::string(what) + " needs a daemon; this map or session is embedded");
}

// `in` as the caller's version knew it, into ours. As libbpf's opts: the size comes first, an unknown tail must be zero.
int read_opts(const ringbuf_map_create_opts* in, ringbuf_map_create_opts* out) {
  *out = {};
  if (!in) return 0;
  if (in->sz < sizeof in->sz) return api_fail(EINVAL, "opts->sz is not set; use sizeof(struct ringbuf_map_create_opts)");
  const auto* bytes = reinterpret_cast<const unsigned char*>(in);
  if (in->sz > sizeof *out && std::any_of(bytes + sizeof *out, bytes + in->sz, [](unsigned char b) { return b != 0; }))
    return api_fail(E2BIG, "opts has fields that this version of libringbuf does not know");
  std::memcpy(out, in, std::min(in->sz, sizeof *out));
  return 0;
}

int create_embedded(const char* name, const ringbuf_map_create_req& req, ringbuf_map** ret_map) {
  auto ring = std::make_shared<EmbeddedRing>();
  ring->spec = shm::normal({req.max_entries, req.map_type, req.map_flags, req.ring_flags, req.numa_node});
  ring->name = name;
  ring->mode = req.mode ? req.mode : 0600;
  if (auto checked = wire::decode_name(req.name); !checked) return api_fail(EINVAL, wire::name_error(name));
  if (req.key_size != 0 || req.value_size != 0 || req.map_extra != 0)
    return api_fail(EINVAL, "key_size, value_size and map_extra must be 0");
  if (req.mode & ~0666u) return api_fail(EINVAL, "mode may hold only read and write bits, at most 0666");
  auto memory = shm::create_ring(ring->spec);
  if (!memory) return memory.error().err == EINVAL ? api_fail(EINVAL, memory.error().op) : api_fail(memory.error());
  ring->memory = std::move(*memory);
  auto signal = make_eventfd();
  if (!signal) return api_fail(signal.error());
  ring->signal = std::move(*signal);
  using Access = Mapping::Access;
  auto mapping =
      Mapping::map_ring(ring->memory.c.get(), ring->memory.p.get(), ring->memory.layout, Access::ReadOnly, Access::ReadWrite);
  if (!mapping) return api_fail(mapping.error());
  ring->mapping = std::move(*mapping);
  auto map = std::make_unique<ringbuf_map>();
  map->map_type = ring->spec.map_type;
  map->embedded = std::move(ring);
  *ret_map = map.release();
  return 0;
}

int copy_text(const std::string& text, char* buf, size_t size) {
  if (!buf || text.size() >= size) return api_fail(ENAMETOOLONG, "the buffer is too small");
  std::memcpy(buf, text.c_str(), text.size() + 1);
  return static_cast<int>(text.size());
}

int path_request(const char* path, ringbuf_path_req* req) {
  if (!path) return api_fail(EINVAL, "path is NULL");
  auto ok = wire::encode_path(path, req->path);
  return ok ? 0 : api_fail(ok.error().err, wire::path_error(path));
}

}  // namespace
}  // namespace ringbuf

using namespace ringbuf;

int ringbuf_map_create(ringbuf_session* session, const char* name, uint32_t max_entries, const ringbuf_map_create_opts* opts,
                       ringbuf_map** ret_map) {
  if (!ret_map) return api_fail(EINVAL, "ret_map is NULL");
  return guarded([&] {
    ringbuf_map_create_opts o;
    if (int r = read_opts(opts, &o); r < 0) return r;
    ringbuf_map_create_req req{};
    req.map_type = o.map_type ? o.map_type : RINGBUF_MAP_TYPE_RINGBUF;
    req.key_size = o.key_size;
    req.value_size = o.value_size;
    req.max_entries = max_entries;
    req.map_flags = o.map_flags;
    req.numa_node = o.numa_node;
    req.map_extra = o.map_extra;
    req.ring_flags = o.ring_flags;
    req.mode = o.mode;
    if (o.reserved != 0) return api_fail(EINVAL, "opts->reserved must be 0");
    if (auto ok = wire::encode_name(name ? name : "", req.name); !ok) return api_fail(EINVAL, wire::name_error(name));
    if (session) {
      const ringbuf_map* inner = shm::is_map_of_maps(req.map_type) ? o.inner_map : nullptr;  // rings: ignored, as by the kernel
      if (inner && !inner->session) return no_daemon("an inner map");
      return open_map(session->impl, RINGBUF_MAP_CREATE, req, ret_map, ringbuf_map_fd(inner));
    }
    if (shm::is_map_of_maps(req.map_type)) return no_daemon("a map of maps");
    return create_embedded(name ? name : "", req, ret_map);
  });
}

int ringbuf_map_open_id(ringbuf_session* session, uint32_t id, uint32_t rights, ringbuf_map** ret_map) {
  if (!session) return no_daemon("opening a map by id");
  if (!ret_map) return api_fail(EINVAL, "ret_map is NULL");
  return guarded([&] { return open_map(session->impl, RINGBUF_MAP_GET_FD_BY_ID, ringbuf_fd_by_id_req{id, rights}, ret_map); });
}

int ringbuf_map_open_name(ringbuf_session* session, const char* name, uint32_t rights, ringbuf_map** ret_map) {
  if (!session) return no_daemon("opening a map by name");
  if (!ret_map || !name) return api_fail(EINVAL, "name or ret_map is NULL");
  return guarded([&] {
    ringbuf_fd_by_name_req req{};
    req.rights = rights;
    if (auto ok = wire::encode_name(name, req.name); !ok) return api_fail(EINVAL, wire::name_error(name));
    return open_map(session->impl, RINGBUF_MAP_GET_FD_BY_NAME, req, ret_map);
  });
}

int ringbuf_map_open_pinned(ringbuf_session* session, const char* path, uint32_t rights, ringbuf_map** ret_map) {
  if (!session) return no_daemon("opening a pinned map");
  if (!ret_map) return api_fail(EINVAL, "ret_map is NULL");
  return guarded([&] {
    ringbuf_path_req req{};
    req.rights = rights;
    if (int r = path_request(path, &req); r < 0) return r;
    return open_map(session->impl, RINGBUF_OBJ_GET, req, ret_map);
  });
}

int ringbuf_map_from_fd(ringbuf_session* session, int fd, ringbuf_map** ret_map) {
  if (!session) return no_daemon("a map's descriptor");
  if (!ret_map) return api_fail(EINVAL, "ret_map is NULL");
  return guarded([&] {
    auto map = std::make_unique<ringbuf_map>();
    map->session = session->impl;
    map->token.reset(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
    if (!map->token) return api_fail(Error{errno, "duplicate the descriptor"});
    ringbuf_map_info info{};
    if (int r = ringbuf_map_get_info(map.get(), &info, sizeof info); r < 0) return r;
    map->map_type = info.type;
    map->key_size = info.key_size;
    *ret_map = map.release();
    return 0;
  });
}

int ringbuf_map_narrow(ringbuf_map* map, uint32_t rights, ringbuf_map** ret_map) {
  if (!map || !ret_map) return api_fail(EINVAL, "map or ret_map is NULL");
  if (!map->session) return no_daemon("narrowing a map");
  return guarded([&] {
    return open_map(map->session, RINGBUF_MAP_NARROW, ringbuf_narrow_req{rights, 0}, ret_map, map->token.get());
  });
}

int ringbuf_map_next_id(ringbuf_session* session, uint32_t start_id, uint32_t* ret_id) {
  if (!session) return no_daemon("listing maps");
  if (!ret_id) return api_fail(EINVAL, "ret_id is NULL");
  return guarded([&] {
    ringbuf_next_id_reply reply{};
    if (int r = session->impl->ask(RINGBUF_MAP_GET_NEXT_ID, ringbuf_next_id_req{start_id, 0}, -1, &reply); r < 0) return r;
    *ret_id = reply.next_id;
    return 0;
  });
}

void ringbuf_map_free(ringbuf_map* map) { delete map; }

int ringbuf_map_fd(const ringbuf_map* map) { return map ? map->token.get() : -1; }

int ringbuf_map_get_info(ringbuf_map* map, ringbuf_map_info* ret_info, size_t size) {
  if (!map || !ret_info) return api_fail(EINVAL, "map or ret_info is NULL");
  return guarded([&] {
    ringbuf_map_info info{};
    if (map->session) {
      if (int r = map->session->ask(RINGBUF_OBJ_GET_INFO_BY_FD, ringbuf_index_req{}, map->token.get(), &info); r < 0) return r;
    } else {
      EmbeddedRing& ring = *map->embedded;
      std::lock_guard lock(ring.mutex);
      info.type = ring.spec.map_type;
      info.max_entries = ring.spec.max_entries;
      info.map_flags = ring.spec.map_flags;
      info.ring_flags = ring.spec.ring_flags;
      std::memcpy(info.name, ring.name.data(), std::min(ring.name.size(), sizeof info.name - 1));
      info.bytes_memlock = ring.memory.layout.c_size() + ring.memory.layout.p_size();
      info.mode = ring.mode;
      info.uid = ::geteuid();
      info.gid = ::getegid();
      info.rights = RINGBUF_RIGHT_ALL;
      info.tokens = 1;
      info.producers = ring.ring().slots_taken(RINGBUF_SLOT_COUNT);
      info.consumers = ring.attached[RINGBUF_CONSUMER];
      info.observers = ring.attached[RINGBUF_OBSERVER];
    }
    std::memset(ret_info, 0, size);
    std::memcpy(ret_info, &info, std::min(size, sizeof info));
    return 0;
  });
}

int ringbuf_map_pin(ringbuf_map* map, const char* path) {
  if (!map) return api_fail(EINVAL, "map is NULL");
  if (!map->session) return no_daemon("a pin");
  return guarded([&] {
    ringbuf_path_req req{};
    if (int r = path_request(path, &req); r < 0) return r;
    return map->session->call(RINGBUF_OBJ_PIN, req, map->token.get(), nullptr);
  });
}

int ringbuf_unpin(ringbuf_session* session, const char* path) {
  if (!session) return no_daemon("a pin");
  return guarded([&] {
    ringbuf_path_req req{};
    if (int r = path_request(path, &req); r < 0) return r;
    return session->impl->call(RINGBUF_OBJ_UNPIN, req, -1, nullptr);
  });
}

int ringbuf_map_get_pin(ringbuf_map* map, uint32_t index, char* buf, size_t size) {
  if (!map) return api_fail(EINVAL, "map is NULL");
  if (!map->session) return api_fail(ENOENT, "an embedded map has no pins");
  return guarded([&] {
    ringbuf_path_reply reply{};
    if (int r = map->session->ask(RINGBUF_OBJ_GET_PIN, ringbuf_index_req{index, 0}, map->token.get(), &reply); r < 0) return r;
    auto path = wire::decode_path(reply.path);
    return path ? copy_text(*path, buf, size) : api_fail(path.error());
  });
}

int ringbuf_map_get_attachment(ringbuf_map* map, uint32_t index, ringbuf_attachment_info* ret_info) {
  if (!map || !ret_info) return api_fail(EINVAL, "map or ret_info is NULL");
  if (!map->session) return no_daemon("listing attachments");
  return guarded([&] {
    ringbuf_attachment_info info{};
    if (int r = map->session->ask(RINGBUF_MAP_GET_ATTACHMENT, ringbuf_index_req{index, 0}, map->token.get(), &info); r < 0)
      return r;
    *ret_info = info;
    return 0;
  });
}
