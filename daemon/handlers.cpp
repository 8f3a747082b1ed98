// SPDX-License-Identifier: MIT
#include "daemon/handlers.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

namespace ringbuf::daemon {
namespace {

struct Call {
  Core& core;
  MapTable& table;
  Caller& caller;
  const Peer& peer;
  wire::Bytes body;
  const Token* token;  // of commands that take one
  const Token* inner;  // the second one, or the first of those that need none; null: not sent
  int lease;           // HELLO: what was sent along, or -1

  Client& client() const { return *caller.client; }
};

template <class T>
Answer<T> read(const Call& call) {
  auto body = wire::decode_as<T>(call.body);
  if (!body) return refuse(body.error().err, "the message has fields that this daemon does not know; use a newer ringbufd");
  // Every struct that has such a field calls it so.
  if constexpr (requires { body->reserved; })
    if (body->reserved != 0) return refuse(EINVAL, "a reserved field is not zero");
  return *body;
}

template <class T>
Payload reply(const T& body) {
  const auto bytes = std::as_bytes(std::span(&body, 1));
  return {{bytes.begin(), bytes.end()}, {}};
}

// The text in a fixed field, or what is wrong with it.
template <std::size_t N>
Answer<std::string> read_text(const char (&field)[N], Result<std::string> (*decode)(const char (&)[N]),
                              std::string (*error_of)(std::string_view)) {
  auto text = decode(field);
  if (text) return *std::move(text);
  std::string why = error_of({field, ::strnlen(field, N)});
  return refuse(text.error().err, why.empty() ? "a name or path is followed by bytes that are not zero" : std::move(why));
}

Answer<std::string> read_name(const char (&name)[RINGBUF_NAME_LEN]) {
  return read_text(name, wire::decode_name, wire::name_error);
}
Answer<std::string> read_path(const ringbuf_path_req& req) { return read_text(req.path, wire::decode_path, wire::path_error); }

Answer<Payload> hello(const Call& call) {
  const auto req = read<ringbuf_hello_req>(call);
  if (!req) return tl::unexpected(req.error());
  if (req->version != RINGBUF_WIRE_VERSION)
    return refuse(
        EPROTONOSUPPORT,
        fmt::format("the client speaks version {} of the protocol and the daemon version {}; install the same release of both",
                    req->version, RINGBUF_WIRE_VERSION));
  if (call.caller.client) return refuse(EALREADY, "this session has said HELLO already");
  ringbuf_hello_reply out{};
  out.version = RINGBUF_WIRE_VERSION;
  out.page_size = static_cast<std::uint32_t>(shm::page_size());
  out.pid = static_cast<std::uint32_t>(::getpid());
  std::vector<UniqueFd> fds;
  if (auto known = call.lease < 0 ? nullptr : call.core.clients.find(call.lease)) {
    if (!known->peer.same_process(call.peer))
      return refuse(EPERM, fmt::format("this lease belongs to pid {}; open a session of your own", known->peer.pid));
    known->hang_up();         // a connection that broke, and that we have not seen break yet
    known->peer = call.peer;  // its rights may be others now
    call.caller.client = std::move(known);
    call.caller.charge = {};
    out.resumed = 1;
  } else {
    if (auto& charge = call.caller.charge; !charge) {
      auto counted = call.core.quota.charge(Resource::Sessions, call.peer.uid);
      if (!counted) return tl::unexpected(counted.error());
      charge = std::move(*counted);
    }
    auto welcome = call.core.clients.add(call.peer, call.caller.socket, req->pid_namespace, call.caller.charge);
    if (!welcome) return tl::unexpected(welcome.error());
    call.caller.client = std::move(welcome->client);
    fds.push_back(std::move(welcome->lease));
  }
  call.caller.client->on_end = call.caller.hang_up;
  Payload payload = reply(out);
  payload.fds = std::move(fds);
  return payload;
}

Answer<void> known_rights(unsigned wanted) {
  if (!(wanted & ~RINGBUF_RIGHT_ALL)) return {};
  return refuse(EINVAL, fmt::format("rights {:#x} has unknown bits; the known ones are {:#x}", wanted, RINGBUF_RIGHT_ALL));
}

// The rights that a new token gets.
Answer<unsigned> grant(const Map& map, const Peer& peer, unsigned wanted) {
  if (auto known = known_rights(wanted); !known) return tl::unexpected(known.error());
  const unsigned allowed = map.rights_of(peer);
  // Nothing of what it is called or whose it is: an id would be enough to list what one may not read.
  if (!allowed)
    return refuse(EACCES,
                  fmt::format("uid {} has no right on this map; ask its owner for a mode or a token that gives one", peer.uid));
  if (const unsigned missing = wanted & ~allowed)
    return refuse(EACCES, fmt::format("uid {} may not {} {} (owner uid {}, gid {}, mode {:04o})", peer.uid,
                                      wire::rights_name(missing), map.label(), map.spec.uid, map.spec.gid, map.spec.mode));
  return wanted ? wanted : allowed;
}

Answer<Payload> token_reply(const Call& call, const std::shared_ptr<Map>& map, unsigned rights) {
  auto fd = call.table.issue_token(map, rights, call.peer);
  if (!fd) return tl::unexpected(fd.error());
  Payload out = reply(ringbuf_map_id_reply{map->id, rights, map->spec.ring.map_type, map->spec.key_size});
  out.fds.push_back(std::move(*fd));
  return out;
}

Answer<Payload> open_map(const Call& call, const std::shared_ptr<Map>& map, unsigned wanted) {
  const auto rights = grant(*map, call.peer, wanted);
  if (!rights) return tl::unexpected(rights.error());
  return token_reply(call, map, *rights);
}

std::string size_error(std::uint32_t max_entries) {
  const std::uint64_t page = shm::page_size();
  const std::uint64_t fit = std::min(std::max(std::bit_ceil(std::uint64_t{max_entries}), page), std::uint64_t{1} << 31);
  return fmt::format("max_entries {} is not a power of two and a multiple of the page size {}; use {}", max_entries, page, fit);
}

// In the kernel's order; all of them are EINVAL.
std::string creation_error(const ringbuf_map_create_req& req, const shm::RingSpec& spec) {
  if (req.map_flags & ~(shm::kFlagNumaNode | shm::kFlagOverwrite))
    return fmt::format(
        "map_flags {:#x} has bits that ring buffers do not know; only BPF_F_NUMA_NODE (0x4) and, for a RINGBUF, "
        "BPF_F_RB_OVERWRITE (0x80000) may be set",
        req.map_flags);
  if (req.map_type != shm::kTypeRingbuf && req.map_type != shm::kTypeUserRingbuf)
    return fmt::format(
        "map_type {} is not offered; use 27 (BPF_MAP_TYPE_RINGBUF), 31 (BPF_MAP_TYPE_USER_RINGBUF) or, for a map of maps, 12 or "
        "13",
        req.map_type);
  if ((req.map_flags & shm::kFlagOverwrite) && req.map_type != shm::kTypeRingbuf)
    return "only a RINGBUF can be created with BPF_F_RB_OVERWRITE";
  if (req.key_size != 0 || req.value_size != 0)
    return fmt::format("key_size {} and value_size {} must be 0 for a ring buffer", req.key_size, req.value_size);
  if (!shm::is_power_of_two(req.max_entries) || req.max_entries % shm::page_size() != 0) return size_error(req.max_entries);
  if (req.map_extra != 0) return fmt::format("map_extra {:#x} must be 0 for a ring buffer", req.map_extra);
  if (req.ring_flags & ~RINGBUF_F_SINGLE_PRODUCER)
    return fmt::format("ring_flags {:#x} has unknown bits; only RINGBUF_F_SINGLE_PRODUCER (0x1) may be set", req.ring_flags);
  if (const char* wrong = shm::spec_error(spec)) return fmt::format("{} (numa_node {})", wrong, req.numa_node);
  if (req.mode & ~0666u) return fmt::format("mode {:o} has bits beyond 0666; only read and write can be given", req.mode);
  return {};
}

// The same for a map of maps. What an inner map is like, if all is well.
Answer<InnerMeta> outer_creation(const ringbuf_map_create_req& req, const Token* inner) {
  const shm::OuterSpec spec{req.map_type, req.key_size, req.max_entries, req.map_flags, req.numa_node, 0};
  if (const char* wrong = shm::spec_error(spec))
    return refuse(EINVAL, fmt::format("{} (map_flags {:#x}, key_size {}, max_entries {}, numa_node {})", wrong, req.map_flags,
                                      req.key_size, req.max_entries, req.numa_node));
  if (req.value_size != 4)
    return refuse(EINVAL, fmt::format("value_size {} of a map of maps must be 4, the size of a descriptor", req.value_size));
  if (req.map_extra != 0) return refuse(EINVAL, fmt::format("map_extra {:#x} must be 0 for a map of maps", req.map_extra));
  if (req.ring_flags != 0) return refuse(EINVAL, fmt::format("ring_flags {:#x} must be 0 for a map of maps", req.ring_flags));
  if (req.mode & ~0666u)
    return refuse(EINVAL, fmt::format("mode {:o} has bits beyond 0666; only read and write can be given", req.mode));
  if (req.key_size > RINGBUF_MAX_KEY_SIZE)
    return refuse(E2BIG, fmt::format("key_size {} is too large; keys have at most {} bytes", req.key_size, RINGBUF_MAX_KEY_SIZE));
  if (req.max_entries > RINGBUF_MAX_ELEMENTS)
    return refuse(E2BIG, fmt::format("max_entries {} is too large; a map of maps has at most {} elements", req.max_entries,
                                     RINGBUF_MAX_ELEMENTS));
  if (!inner) return refuse(EBADF, "a map of maps needs an inner map to be created with, one like those that it will hold");
  if (inner->map->elements())
    return refuse(EINVAL, fmt::format("{} is itself a map of maps; the inner map must be a ring", inner->map->label()));
  return inner->map->spec.meta();
}

Answer<Payload> map_create(const Call& call) {
  const auto req = read<ringbuf_map_create_req>(call);
  if (!req) return tl::unexpected(req.error());
  const Peer& peer = call.peer;
  MapSpec spec{shm::normal({req->max_entries, req->map_type, req->map_flags, req->ring_flags, req->numa_node}),
               {},
               req->mode ? req->mode : 0600,
               peer.uid,
               peer.gid};
  if (shm::is_map_of_maps(req->map_type)) {
    auto inner = outer_creation(*req, call.inner);
    if (!inner) return tl::unexpected(inner.error());
    spec.key_size = req->key_size;
    spec.value_size = req->value_size;
    spec.inner = *inner;
  } else {
    if (auto wrong = creation_error(*req, spec.ring); !wrong.empty()) return refuse(EINVAL, std::move(wrong));
  }
  auto name = read_name(req->name);
  if (!name) return tl::unexpected(name.error());
  spec.name = std::move(*name);
  const auto map = call.table.create(std::move(spec));
  if (!map) return tl::unexpected(map.error());
  return token_reply(call, *map, RINGBUF_RIGHT_ALL);
}

Answer<Payload> map_get_next_id(const Call& call) {
  const auto req = read<ringbuf_next_id_req>(call);
  if (!req) return tl::unexpected(req.error());
  const std::uint32_t id = call.table.next_id(req->start_id, call.peer);
  if (id == 0) return refuse(ENOENT, fmt::format("there is no map that you may use with an id above {}", req->start_id));
  return reply(ringbuf_next_id_reply{id, 0});
}

Answer<Payload> map_get_fd_by_id(const Call& call) {
  const auto req = read<ringbuf_fd_by_id_req>(call);
  if (!req) return tl::unexpected(req.error());
  const auto map = call.table.find(req->id);
  if (!map) return refuse(ENOENT, fmt::format("there is no map with id {}", req->id));
  return open_map(call, map, req->rights);
}

Answer<Payload> map_get_fd_by_name(const Call& call) {
  const auto req = read<ringbuf_fd_by_name_req>(call);
  if (!req) return tl::unexpected(req.error());
  const auto name = read_name(req->name);
  if (!name) return tl::unexpected(name.error());
  if (name->empty()) return refuse(EINVAL, "a name is needed to find a map by name");
  const auto found = call.table.find_by_name(*name, call.peer);
  if (found.empty()) return refuse(ENOENT, fmt::format("there is no map named '{}' that you may use", *name));
  if (found.size() == 1) return open_map(call, found.front(), req->rights);
  std::string ids;
  for (std::size_t i = 0; i < found.size() && i < 16; ++i) ids += fmt::format("{}{}", i ? ", " : "", found[i]->id);
  return refuse(ENOTUNIQ, fmt::format("{} maps are named '{}'; open one by id: {}{}", found.size(), *name, ids,
                                      found.size() > 16 ? ", ..." : ""));
}

Answer<Payload> obj_pin(const Call& call) {
  const auto req = read<ringbuf_path_req>(call);
  if (!req) return tl::unexpected(req.error());
  if (req->rights != 0) return refuse(EINVAL, "rights must be 0: a pin carries none");
  const auto path = read_path(*req);
  if (!path) return tl::unexpected(path.error());
  if (!(call.token->rights & RINGBUF_RIGHT_MANAGE))
    return refuse(EPERM, fmt::format("this descriptor of {} does not carry manage; only its owner and root may pin a map",
                                     call.token->map->label()));
  if (auto pinned = call.table.pin(call.token->map, *path, call.peer); !pinned) return tl::unexpected(pinned.error());
  return Payload{};
}

Answer<Payload> obj_get(const Call& call) {
  const auto req = read<ringbuf_path_req>(call);
  if (!req) return tl::unexpected(req.error());
  const auto path = read_path(*req);
  if (!path) return tl::unexpected(path.error());
  const auto map = call.table.find_pin(*path);
  if (!map) return refuse(ENOENT, fmt::format("nothing is pinned at {}", wire::printable(*path)));
  return open_map(call, map, req->rights);
}

Answer<Payload> obj_unpin(const Call& call) {
  const auto req = read<ringbuf_path_req>(call);
  if (!req) return tl::unexpected(req.error());
  if (req->rights != 0) return refuse(EINVAL, "rights must be 0");
  const auto path = read_path(*req);
  if (!path) return tl::unexpected(path.error());
  if (auto unpinned = call.table.unpin(*path, call.peer); !unpinned) return tl::unexpected(unpinned.error());
  return Payload{};
}

Answer<Payload> obj_get_info_by_fd(const Call& call) {
  for (const std::byte b : call.body)
    if (b != std::byte{0}) return refuse(E2BIG, "the message has fields that this daemon does not know; use a newer ringbufd");
  Map& map = *call.token->map;
  ringbuf_map_info out{};
  out.type = map.spec.ring.map_type;
  out.id = map.id;
  out.key_size = map.spec.key_size;
  out.value_size = map.spec.value_size;
  out.max_entries = map.spec.ring.max_entries;
  out.map_flags = map.spec.ring.map_flags;
  map.spec.name.copy(out.name, sizeof out.name - 1);
  out.bytes_memlock = map.size();
  out.ring_flags = map.spec.ring.ring_flags;
  out.mode = map.spec.mode;
  out.uid = map.spec.uid;
  out.gid = map.spec.gid;
  out.rights = call.token->rights;
  out.tokens = map.tokens;
  out.producers = map.count(RINGBUF_PRODUCER);
  out.consumers = map.count(RINGBUF_CONSUMER);
  out.observers = map.count(RINGBUF_OBSERVER);
  out.pins = static_cast<std::uint32_t>(map.pins.size());
  out.references = map.references;
  out.elements = map.elements() ? map.elements()->in_use() : 0;
  map.tell_who_is_in_the_way(out);
  return reply(out);
}

Answer<Payload> obj_get_pin(const Call& call) {
  const auto req = read<ringbuf_index_req>(call);
  if (!req) return tl::unexpected(req.error());
  const Map& map = *call.token->map;
  if (req->index >= map.pins.size()) return refuse(ENOENT, fmt::format("{} has {} pins", map.label(), map.pins.size()));
  ringbuf_path_reply out{};
  std::next(map.pins.begin(), req->index)->copy(out.path, sizeof out.path - 1);
  return reply(out);
}

Answer<Payload> map_get_attachment(const Call& call) {
  const auto req = read<ringbuf_index_req>(call);
  if (!req) return tl::unexpected(req.error());
  const Map& map = *call.token->map;
  if (req->index >= map.attachments().size())
    return refuse(ENOENT, fmt::format("{} has {} attachments", map.label(), map.attachments().size()));
  const Attachment& a = *map.attachments()[req->index];
  return reply(ringbuf_attachment_info{a.role, static_cast<std::uint32_t>(a.holder.pid), a.holder.uid, a.slot});
}

Answer<Payload> attach(const Call& call) {
  const auto req = read<ringbuf_attach_req>(call);
  if (!req) return tl::unexpected(req.error());
  constexpr std::array kNeeded{0u, RINGBUF_RIGHT_PRODUCE, RINGBUF_RIGHT_CONSUME, RINGBUF_RIGHT_OBSERVE};  // by role
  if (req->role == 0 || req->role >= kNeeded.size())
    return refuse(EINVAL, fmt::format("role {} is unknown; use 1 (producer), 2 (consumer) or 3 (observer)", req->role));
  const std::shared_ptr<Map>& map = call.token->map;
  if (map->elements() && req->role != RINGBUF_OBSERVER)
    return refuse(EINVAL, fmt::format("{} is a map of maps: only observers attach to it; attach to the ring at a key instead",
                                      map->label()));
  // The table of a map of maps says no more than MAP_LOOKUP_ELEM, which takes any right.
  if (!map->elements() && !(call.token->rights & kNeeded[req->role]))
    return refuse(EACCES, fmt::format("this descriptor of {} does not carry {}; open the map with that right", map->label(),
                                      wire::rights_name(kNeeded[req->role])));
  Client& client = call.client();
  std::uint32_t number = req->attachment;
  if (number != 0) {
    call.core.clients.detach(client, number);
  } else {
    do number = ++client.last_attachment;
    while (number == 0 || client.attachments.count(number));
  }
  call.core.reaper.go_on(*map);
  auto charge = call.table.quota().charge(Resource::Attachments, client.peer.uid);
  if (!charge) return tl::unexpected(charge.error());
  auto attached = map->attach(req->role, {client.peer.pid, client.peer.uid, client.cookie, client.same_pids}, std::move(*charge));
  if (!attached) return tl::unexpected(attached.error());
  const auto leave = [](Attachment* a) { a->leave(); };
  std::unique_ptr<Attachment, decltype(leave)> unless_done(attached->get(), leave);
  auto fds = (*attached)->descriptors();
  if (!fds) return refuse(fds.error());
  if (auto entered = (*attached)->enter(*call.core.state, number); !entered) return refuse(entered.error());

  ringbuf_attach_reply out{};
  out.attachment = number;
  out.id = map->id;
  out.max_entries = map->spec.ring.max_entries;
  out.slot_count = map->elements() ? 0 : RINGBUF_SLOT_COUNT;
  out.slot = (*attached)->slot;
  out.map_type = map->spec.ring.map_type;
  out.map_flags = map->spec.ring.map_flags;
  out.ring_flags = map->spec.ring.ring_flags;
  out.page_size = static_cast<std::uint32_t>(shm::page_size());
  if (req->role == RINGBUF_PRODUCER && client.same_pids) out.flags |= RINGBUF_ATTACHED_ROBUST;
  Payload payload = reply(out);
  payload.fds = std::move(*fds);
  auto& place = client.attachments[number];
  (void)unless_done.release();
  place = std::move(*attached);
  return payload;
}

Answer<Payload> detach(const Call& call) {
  const auto req = read<ringbuf_detach_req>(call);
  if (!req) return tl::unexpected(req.error());
  if (!call.core.clients.detach(call.client(), req->attachment))
    return refuse(ENOENT, fmt::format("this client has no attachment {}", req->attachment));
  return Payload{};
}

// --- elements of maps of maps ------------------------------------------------------------------------------------------------

struct ElementCall {
  ringbuf_elem_req req;
  ElementTable& table;
  std::string_view key() const { return {reinterpret_cast<const char*>(req.key), req.key_size}; }
};

Answer<ElementCall> read_element(const Call& call, bool may_lack_key = false) {
  const auto req = read<ringbuf_elem_req>(call);
  if (!req) return tl::unexpected(req.error());
  const Map& map = *call.token->map;
  if (!map.elements())
    return refuse(EINVAL, fmt::format("{} is a ring buffer and has no elements; only maps of maps do", map.label()));
  if (req->key_size != map.spec.key_size && !(may_lack_key && req->key_size == 0))
    return refuse(EINVAL,
                  fmt::format("keys of {} have {} bytes and this one has {}", map.label(), map.spec.key_size, req->key_size));
  if (std::any_of(req->key + req->key_size, std::end(req->key), [](unsigned char b) { return b != 0; }))
    return refuse(EINVAL, "the key is followed by bytes that are not zero");
  return ElementCall{*req, *map.elements()};
}

// Of a request that only names an element.
Answer<ElementCall> read_bare_element(const Call& call, bool may_lack_key = false) {
  auto e = read_element(call, may_lack_key);
  if (e && (e->req.flags != 0 || e->req.rights != 0)) return refuse(EINVAL, "flags and rights must be 0 in this request");
  return e;
}

Answer<void> needs_manage(const Call& call, const char* what) {
  if (call.token->rights & RINGBUF_RIGHT_MANAGE) return {};
  return refuse(EPERM, fmt::format("this descriptor of {} does not carry manage; only its owner and root may {} an element",
                                   call.token->map->label(), what));
}

// What a token of the outer map gives of an inner one: no more than it carries itself, nor than the token that was put in.
unsigned inner_rights(const Token& outer, const Element& element) {
  return outer.rights & element.rights & ~RINGBUF_RIGHT_MANAGE;
}

ringbuf_elem_reply element_reply(const Element& element, unsigned rights) {
  const Map& inner = *element.inner.map();
  return {inner.id, rights, inner.spec.ring.map_type, inner.spec.key_size, element.word};
}

tl::unexpected<Refusal> nothing_there(const Call& call) {
  return refuse(ENOENT, fmt::format("{} holds nothing at this key", call.token->map->label()));
}

Answer<Payload> map_lookup_elem(const Call& call) {
  const auto e = read_bare_element(call);
  if (!e) return tl::unexpected(e.error());
  const Element* element = e->table.find(e->key());
  if (!element) return nothing_there(call);
  return reply(element_reply(*element, inner_rights(*call.token, *element)));
}

Answer<void> fits(const Call& call) {
  if (!call.inner) return refuse(EBADF, "no inner map was sent along; an update takes a descriptor of one");
  const InnerMeta want = *call.token->map->spec.inner, is = call.inner->map->spec.meta();
  if (is == want) return {};
  return refuse(EINVAL,
                fmt::format("{} (map_type {}, key_size {}, value_size {}, map_flags {:#x}) is not like the inner map that {} was "
                            "created with (map_type {}, key_size {}, value_size {}, map_flags {:#x})",
                            call.inner->map->label(), is.map_type, is.key_size, is.value_size, is.map_flags,
                            call.token->map->label(), want.map_type, want.key_size, want.value_size, want.map_flags));
}

constexpr std::uint64_t kLock = 4;  // BPF_F_LOCK, which bpf(2) refuses before it looks at anything else

Answer<Payload> map_update_elem(const Call& call) {
  const auto e = read_element(call);
  if (!e) return tl::unexpected(e.error());
  if (e->req.rights != 0) return refuse(EINVAL, "rights must be 0: an element gets those of the inner map's descriptor");
  if (auto ok = needs_manage(call, "update"); !ok) return tl::unexpected(ok.error());
  if (e->req.flags & kLock) return refuse(EINVAL, "flags has BPF_F_LOCK; there is no lock in an element");
  // The kernel looks at the inner map first if the outer one is a hash, and last if it is an array.
  const bool hash = e->table.layout().hash();
  if (hash)
    if (auto ok = fits(call); !ok) return tl::unexpected(ok.error());
  if (auto ok = e->table.may_update(e->key(), e->req.flags); !ok) return tl::unexpected(ok.error());
  if (!hash)
    if (auto ok = fits(call); !ok) return tl::unexpected(ok.error());
  e->table.update(e->key(), call.inner->map, call.inner->rights);
  return Payload{};
}

Answer<Payload> map_delete_elem(const Call& call) {
  const auto e = read_bare_element(call);
  if (!e) return tl::unexpected(e.error());
  if (auto ok = needs_manage(call, "delete"); !ok) return tl::unexpected(ok.error());
  if (auto erased = e->table.erase(e->key()); !erased) return tl::unexpected(erased.error());
  return Payload{};
}

Answer<Payload> map_get_next_key(const Call& call) {
  const auto e = read_bare_element(call, true);
  if (!e) return tl::unexpected(e.error());
  const auto next = e->table.next_key(e->req.key_size ? std::optional(e->key()) : std::nullopt);
  if (!next) return refuse(ENOENT, fmt::format("{} has no key behind this one", call.token->map->label()));
  ringbuf_key_reply out{};
  out.key_size = static_cast<std::uint32_t>(next->size());
  std::memcpy(out.key, next->data(), next->size());
  return reply(out);
}

Answer<Payload> map_get_fd_by_key(const Call& call) {
  const auto e = read_element(call);
  if (!e) return tl::unexpected(e.error());
  if (e->req.flags != 0) return refuse(EINVAL, "flags must be 0 in this request");
  const unsigned wanted = e->req.rights;
  if (auto known = known_rights(wanted); !known) return tl::unexpected(known.error());
  const Element* element = e->table.find(e->key());
  if (!element) return nothing_there(call);
  const unsigned allowed = inner_rights(*call.token, *element);
  const unsigned missing = wanted ? wanted & ~allowed : allowed ? 0 : RINGBUF_RIGHT_ALL & ~RINGBUF_RIGHT_MANAGE;
  if (missing)
    return refuse(EACCES, fmt::format("this descriptor of {} does not give {} {} on {}, which was put there with {}",
                                      call.token->map->label(), wanted ? "the right to" : "any of", wire::rights_name(missing),
                                      element->inner.map()->label(), wire::rights_name(element->rights)));
  const unsigned rights = wanted ? wanted : allowed;
  Payload out = reply(element_reply(*element, rights));
  auto fd = call.table.issue_token(element->inner.map(), rights, call.peer);
  if (!fd) return tl::unexpected(fd.error());
  out.fds.push_back(std::move(*fd));
  return out;
}

// The token is the capability: whoever holds one may give away less, without being allowed to open the map.
Answer<Payload> map_narrow(const Call& call) {
  const auto req = read<ringbuf_narrow_req>(call);
  if (!req) return tl::unexpected(req.error());
  const Token& token = *call.token;
  if (req->rights == 0) return refuse(EINVAL, "rights must not be 0: a descriptor without any would be of no use");
  if (auto known = known_rights(req->rights); !known) return tl::unexpected(known.error());
  if (const unsigned missing = req->rights & ~token.rights)
    return refuse(EACCES,
                  fmt::format("this descriptor of {} does not carry {}, only {}; narrowing takes rights away and adds none",
                              token.map->label(), wire::rights_name(missing), wire::rights_name(token.rights)));
  return token_reply(call, token.map, req->rights);
}

struct Command {
  Answer<Payload> (*run)(const Call&);
  unsigned tokens;     // map descriptors that it needs
  unsigned inner = 0;  // and one more that it may have
  bool lease = false;  // which is no map's
};

// By enum ringbuf_cmd.
constexpr std::array<Command, 20> kCommands{{{nullptr, 0},
                                             {hello, 0, 1, true},
                                             {map_create, 0, 1},
                                             {map_get_next_id, 0},
                                             {map_get_fd_by_id, 0},
                                             {map_get_fd_by_name, 0},
                                             {obj_pin, 1},
                                             {obj_get, 0},
                                             {obj_unpin, 0},
                                             {obj_get_info_by_fd, 1},
                                             {obj_get_pin, 1},
                                             {map_get_attachment, 1},
                                             {attach, 1},
                                             {detach, 0},
                                             {map_lookup_elem, 1},
                                             {map_update_elem, 1, 1},
                                             {map_delete_elem, 1},
                                             {map_get_next_key, 1},
                                             {map_get_fd_by_key, 1},
                                             {map_narrow, 1}}};
static_assert(kCommands.size() == RINGBUF_MAP_NARROW + 1);

constexpr std::array kCounts{"no descriptor", "one map descriptor", "two map descriptors"};

}  // namespace

Answer<Payload> handle(Core& core, Caller& caller, const wire::Message& message, std::span<const UniqueFd> fds) {
  const unsigned cmd = message.hdr.cmd;
  if (message.hdr.err != 0) return tl::unexpected(Refusal{EPROTO, "a request must carry err 0", true});
  if (!caller.client && cmd != RINGBUF_HELLO)
    return tl::unexpected(Refusal{EPROTO, "the first message of a session must be HELLO", true});
  if (cmd == 0 || cmd >= kCommands.size()) return refuse(EOPNOTSUPP, fmt::format("command {} is unknown to this daemon", cmd));
  const Command& command = kCommands[cmd];
  if (fds.size() < command.tokens || fds.size() > command.tokens + command.inner)
    return refuse(EINVAL,
                  fmt::format("{} takes {}{}{} and came with {} descriptors", wire::command_name(cmd), kCounts[command.tokens],
                              command.inner ? " or " : "", command.inner ? kCounts[command.tokens + 1] : "", fds.size()));
  const bool greeted = caller.client != nullptr;
  core.maps.drop_dead_tokens();
  core.clients.bury_dead();
  if (greeted && !caller.client)  // and this connection with it, whatever it asks
    return tl::unexpected(Refusal{EPIPE, "this client has closed its lease or ended", true});
  std::array<const Token*, 2> tokens{};
  for (std::size_t i = 0; i < fds.size() && !command.lease; ++i)
    if (tokens[i] = core.maps.find_token(fds[i].get()); !tokens[i])
      return refuse(EINVAL, fmt::format("{} is not a map of this daemon", i ? "the second descriptor" : "the descriptor"));
  return command.run({core, core.maps, caller, caller.peer, message.body, command.tokens ? tokens[0] : nullptr,
                      tokens[command.tokens], command.lease && !fds.empty() ? fds[0].get() : -1});
}

}  // namespace ringbuf::daemon
