// SPDX-License-Identifier: MIT
#include "daemon/handlers.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>

namespace ringbuf::daemon {
namespace {

struct Call {
  MapTable& table;
  Client& client;
  wire::Bytes body;
  const Token* token;  // of commands that take one
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
  call.client.greeted = true;
  ringbuf_hello_reply out{};
  out.version = RINGBUF_WIRE_VERSION;
  out.page_size = static_cast<std::uint32_t>(shm::page_size());
  out.pid = static_cast<std::uint32_t>(::getpid());
  return reply(out);
}

// The rights that a new token gets.
Answer<unsigned> grant(const Map& map, const Peer& peer, unsigned wanted) {
  if (wanted & ~RINGBUF_RIGHT_ALL)
    return refuse(EINVAL, fmt::format("rights {:#x} has unknown bits; the known ones are {:#x}", wanted, RINGBUF_RIGHT_ALL));
  const unsigned allowed = map.rights_of(peer);
  const unsigned missing = wanted ? wanted & ~allowed : allowed ? 0 : RINGBUF_RIGHT_ALL;
  if (missing)
    return refuse(EACCES, fmt::format("uid {} {} {} {} (owner uid {}, gid {}, mode {:04o})", peer.uid,
                                      wanted ? "may not" : "needs at least one of", wire::rights_name(missing),
                                      (wanted ? "" : "on ") + map.label(), map.spec.uid, map.spec.gid, map.spec.mode));
  return wanted ? wanted : allowed;
}

Answer<Payload> token_reply(const Call& call, const std::shared_ptr<Map>& map, unsigned rights) {
  auto fd = call.table.issue_token(map, rights, call.client.peer);
  if (!fd) return tl::unexpected(fd.error());
  Payload out = reply(ringbuf_map_id_reply{map->id, rights, map->spec.ring.map_type, 0});
  out.fds.push_back(std::move(*fd));
  return out;
}

Answer<Payload> open_map(const Call& call, const std::shared_ptr<Map>& map, unsigned wanted) {
  const auto rights = grant(*map, call.client.peer, wanted);
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
    return fmt::format("map_type {} is not offered; use 27 (BPF_MAP_TYPE_RINGBUF) or 31 (BPF_MAP_TYPE_USER_RINGBUF)",
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

Answer<Payload> map_create(const Call& call) {
  const auto req = read<ringbuf_map_create_req>(call);
  if (!req) return tl::unexpected(req.error());
  const shm::RingSpec spec = shm::normal({req->max_entries, req->map_type, req->map_flags, req->ring_flags, req->numa_node});
  if (auto wrong = creation_error(*req, spec); !wrong.empty()) return refuse(EINVAL, std::move(wrong));
  auto name = read_name(req->name);
  if (!name) return tl::unexpected(name.error());
  const Peer& peer = call.client.peer;
  const auto map = call.table.create({spec, std::move(*name), req->mode ? req->mode : 0600, peer.uid, peer.gid});
  if (!map) return tl::unexpected(map.error());
  return token_reply(call, *map, RINGBUF_RIGHT_ALL);
}

Answer<Payload> map_get_next_id(const Call& call) {
  const auto req = read<ringbuf_next_id_req>(call);
  if (!req) return tl::unexpected(req.error());
  const std::uint32_t id = call.table.next_id(req->start_id, call.client.peer);
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
  const auto found = call.table.find_by_name(*name, call.client.peer);
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
  if (auto pinned = call.table.pin(call.token->map, *path, call.client.peer); !pinned) return tl::unexpected(pinned.error());
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
  if (auto unpinned = call.table.unpin(*path, call.client.peer); !unpinned) return tl::unexpected(unpinned.error());
  return Payload{};
}

Answer<Payload> obj_get_info_by_fd(const Call& call) {
  for (const std::byte b : call.body)
    if (b != std::byte{0}) return refuse(E2BIG, "the message has fields that this daemon does not know; use a newer ringbufd");
  const Map& map = *call.token->map;
  ringbuf_map_info out{};
  out.type = map.spec.ring.map_type;
  out.id = map.id;
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
  if (!(call.token->rights & kNeeded[req->role]))
    return refuse(EACCES, fmt::format("this descriptor of {} does not carry {}; open the map with that right", map->label(),
                                      wire::rights_name(kNeeded[req->role])));
  Client& client = call.client;
  auto charge = call.table.quota().charge(Resource::Attachments, client.peer.uid);
  if (!charge) return tl::unexpected(charge.error());
  auto attached = map->attach(req->role, {client.peer.pid, client.peer.uid, &client}, std::move(*charge));
  if (!attached) return tl::unexpected(attached.error());
  auto fds = (*attached)->descriptors();
  if (!fds) return refuse(fds.error());

  ringbuf_attach_reply out{};
  do out.attachment = ++client.last_attachment;
  while (out.attachment == 0 || client.attachments.count(out.attachment));
  out.id = map->id;
  out.max_entries = map->spec.ring.max_entries;
  out.slot_count = RINGBUF_SLOT_COUNT;
  out.slot = (*attached)->slot;
  out.map_type = map->spec.ring.map_type;
  out.map_flags = map->spec.ring.map_flags;
  out.ring_flags = map->spec.ring.ring_flags;
  out.page_size = static_cast<std::uint32_t>(shm::page_size());
  Payload payload = reply(out);
  payload.fds = std::move(*fds);
  client.attachments.emplace(out.attachment, std::move(*attached));
  return payload;
}

Answer<Payload> detach(const Call& call) {
  const auto req = read<ringbuf_detach_req>(call);
  if (!req) return tl::unexpected(req.error());
  if (call.client.attachments.erase(req->attachment) == 0)
    return refuse(ENOENT, fmt::format("this session has no attachment {}", req->attachment));
  return Payload{};
}

struct Command {
  Answer<Payload> (*run)(const Call&);
  bool takes_token;
};

// By enum ringbuf_cmd.
constexpr std::array<Command, 14> kCommands{{{nullptr, false},
                                             {hello, false},
                                             {map_create, false},
                                             {map_get_next_id, false},
                                             {map_get_fd_by_id, false},
                                             {map_get_fd_by_name, false},
                                             {obj_pin, true},
                                             {obj_get, false},
                                             {obj_unpin, false},
                                             {obj_get_info_by_fd, true},
                                             {obj_get_pin, true},
                                             {map_get_attachment, true},
                                             {attach, true},
                                             {detach, false}}};
static_assert(kCommands.size() == RINGBUF_DETACH + 1);

}  // namespace

Answer<Payload> handle(MapTable& table, Client& client, const wire::Message& message, std::span<const UniqueFd> fds) {
  const unsigned cmd = message.hdr.cmd;
  if (message.hdr.err != 0) return tl::unexpected(Refusal{EPROTO, "a request must carry err 0", true});
  if (!client.greeted && cmd != RINGBUF_HELLO)
    return tl::unexpected(Refusal{EPROTO, "the first message of a session must be HELLO", true});
  if (cmd == 0 || cmd >= kCommands.size()) return refuse(EOPNOTSUPP, fmt::format("command {} is unknown to this daemon", cmd));
  const Command& command = kCommands[cmd];
  if (const std::size_t wanted = command.takes_token ? 1 : 0; fds.size() != wanted)
    return refuse(EINVAL, fmt::format("{} takes {} and came with {} descriptors", wire::command_name(cmd),
                                      wanted ? "one map descriptor" : "no descriptor", fds.size()));
  table.drop_dead_tokens();
  const Token* token = command.takes_token ? table.find_token(fds[0].get()) : nullptr;
  if (command.takes_token && !token) return refuse(EINVAL, "the descriptor is not a map of this daemon");
  return command.run({table, client, message.body, token});
}

}  // namespace ringbuf::daemon
