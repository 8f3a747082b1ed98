// SPDX-License-Identifier: MIT
#include "daemon/map_table.hpp"

#include <cstring>
#include <stdexcept>
#include <system_error>

#include "daemon/token_socket.hpp"
#include "wire/codec.hpp"

namespace ringbuf::daemon {
namespace {

MapSpec spec_of(const MapEntry& e) {
  MapSpec spec{{e.max_entries, e.map_type, e.map_flags, e.ring_flags, e.numa_node},
               std::string(e.name, ::strnlen(e.name, sizeof e.name)),
               e.mode,
               e.uid,
               e.gid,
               e.key_size,
               e.value_size};
  if (e.has_inner) spec.inner = InnerMeta{e.inner_type, e.inner_key_size, e.inner_value_size, e.inner_flags};
  return spec;
}

}  // namespace

MapTable::~MapTable() {
  pins_.clear();
  tokens_.clear();
}

std::uint32_t MapTable::new_id() {
  std::uint32_t id = state_.last_map_id();
  do ++id;
  while (id == 0 || maps_.count(id));
  state_.set_last_map_id(id);
  return id;
}

Answer<std::shared_ptr<Map>> MapTable::create(MapSpec spec) {
  const shm::Layout layout{shm::page_size(), spec.ring.max_entries};
  const std::uint64_t size = spec.inner ? ElementTable::memory_size(spec.outer().layout()) : layout.c_size() + layout.p_size();
  auto maps = quota_.charge(Resource::Maps, spec.uid);
  if (!maps) return tl::unexpected(maps.error());
  auto bytes = quota_.charge(Resource::Bytes, spec.uid, size);
  if (!bytes) return tl::unexpected(bytes.error());
  std::unique_ptr<Map> made;
  if (spec.inner) {
    auto elements = ElementTable::create(spec.outer());
    if (!elements) return refuse(elements.error());
    made = std::make_unique<Map>(waits_, new_id(), std::move(spec), std::move(*elements), std::move(*maps), std::move(*bytes));
  } else {
    auto memory = shm::create_ring(spec.ring);
    if (!memory) return refuse(memory.error());
    made = std::make_unique<Map>(waits_, new_id(), std::move(spec), std::move(*memory), std::move(*maps), std::move(*bytes));
  }
  if (auto entered = made->enter(state_); !entered) return refuse(entered.error());
  auto map = keep(std::move(made));
  log_.tell(spdlog::level::info, map->spec.uid, [&] {
    return fmt::format("{} created: {} {}, {} bytes in all, mode {:04o}, uid {}", map->label(), map->spec.ring.max_entries,
                       map->elements() ? "elements" : "bytes of data", map->size(), map->spec.mode, map->spec.uid);
  });
  return map;
}

std::shared_ptr<Map> MapTable::keep(std::unique_ptr<Map> made) {
  const std::shared_ptr<Map> map(made.release(), [this](Map* m) { forget(m); });
  maps_.emplace(map->id, map.get());
  return map;
}

void MapTable::forget(Map* map) {
  if (maps_.erase(map->id)) log_.tell(spdlog::level::info, map->spec.uid, [&] { return map->label() + " freed"; });
  delete map;
}

std::shared_ptr<Map> MapTable::find(std::uint32_t id) const {
  const auto it = maps_.find(id);
  return it == maps_.end() ? nullptr : it->second->shared_from_this();
}

std::vector<std::shared_ptr<Map>> MapTable::find_by_name(const std::string& name, const Peer& peer) const {
  std::vector<std::shared_ptr<Map>> found;
  for (const auto& [id, map] : maps_)
    if (map->spec.name == name && map->rights_of(peer)) found.push_back(map->shared_from_this());
  return found;
}

std::uint32_t MapTable::next_id(std::uint32_t after, const Peer& peer) const {
  for (auto it = maps_.upper_bound(after); it != maps_.end(); ++it)
    if (it->second->rights_of(peer)) return it->first;
  return 0;
}

Answer<UniqueFd> MapTable::issue_token(const std::shared_ptr<Map>& map, unsigned rights, const Peer& peer) {
  auto charge = quota_.charge(Resource::Tokens, peer.uid);
  if (!charge) return tl::unexpected(charge.error());
  auto made = make_token_socket();
  if (!made) return refuse(made.error());
  auto kept = state_.put(TokenEntry{made->cookie, map->id, rights, peer.uid, 0}, {{Held::Token, made->ours.get()}});
  if (!kept) return refuse(kept.error());
  const auto [it, added] = tokens_.emplace(
      made->cookie, std::make_unique<Token>(map, rights, std::move(made->ours), std::move(*charge), std::move(*kept)));
  if (auto watched = hangups_.watch(it->second->end.get(), made->cookie); !watched) {
    tokens_.erase(it);
    return tl::unexpected(watched.error());
  }
  return std::move(made->theirs);
}

const Token* MapTable::find_token(int fd) const {
  const auto cookie = cookie_of(fd);
  if (!cookie) return nullptr;
  const auto it = tokens_.find(*cookie);
  return it == tokens_.end() ? nullptr : it->second.get();
}

void MapTable::drop_dead_tokens() {
  hangups_.take([this](std::uint64_t cookie) {
    const auto it = tokens_.find(cookie);
    if (it == tokens_.end()) return false;
    hangups_.forget(it->second->end.get());
    tokens_.erase(it);
    return true;
  });
}

Answer<void> MapTable::pin(const std::shared_ptr<Map>& map, const std::string& path, const Peer& peer) {
  if (pins_.count(path))
    return refuse(EEXIST, fmt::format("{} is pinned already; unpin it or use another path", wire::printable(path)));
  auto charge = quota_.charge(Resource::Pins, peer.uid);
  if (!charge) return tl::unexpected(charge.error());
  PinEntry entry{map->id, peer.uid, {}};
  path.copy(entry.path, sizeof entry.path - 1);
  auto kept = state_.put(entry, {});
  if (!kept) return refuse(kept.error());
  map->pins.insert(path);
  try {
    pins_.emplace(path, Pin{map, peer.uid, std::move(*charge), std::move(*kept)});
  } catch (...) {
    map->pins.erase(path);
    throw;
  }
  log_.tell(spdlog::level::info, peer.uid,
            [&] { return fmt::format("{} pinned at {} by uid {}", map->label(), wire::printable(path), peer.uid); });
  return {};
}

Answer<void> MapTable::unpin(const std::string& path, const Peer& peer) {
  const auto it = pins_.find(path);
  if (it == pins_.end()) return refuse(ENOENT, fmt::format("nothing is pinned at {}", wire::printable(path)));
  const Pin& pin = it->second;
  if (peer.uid != 0 && peer.uid != pin.uid && peer.uid != pin.map->spec.uid)
    return refuse(EPERM, fmt::format("{} was pinned by another user; only it, the map's owner or root may unpin it",
                                     wire::printable(path)));
  log_.tell(spdlog::level::info, peer.uid,
            [&] { return fmt::format("{} unpinned from {} by uid {}", pin.map->label(), wire::printable(path), peer.uid); });
  pin.map->pins.erase(path);
  pins_.erase(it);
  return {};
}

std::shared_ptr<Map> MapTable::find_pin(const std::string& path) const {
  const auto it = pins_.find(path);
  return it == pins_.end() ? nullptr : it->second.map;
}

// --- what another daemon has left --------------------------------------------------------------------------------------------

std::shared_ptr<Map> MapTable::resume(const MapEntry& e, shm::RingMemory memory, UniqueFd kick, Kept kept) {
  MapSpec spec = spec_of(e);
  auto maps = quota_.charge_anyway(Resource::Maps, e.uid),
       bytes = quota_.charge_anyway(Resource::Bytes, e.uid, memory.layout.c_size() + memory.layout.p_size());
  auto map = std::make_unique<Map>(waits_, e.id, std::move(spec), std::move(memory), std::move(maps), std::move(bytes));
  map->resume(std::move(kept), std::move(kick));
  return keep(std::move(map));
}

std::shared_ptr<Map> MapTable::resume(const MapEntry& e, UniqueFd table, Kept kept) {
  MapSpec spec = spec_of(e);
  auto elements = ElementTable::resume(std::move(table), spec.outer(), [this](std::uint32_t id) { return find(id); });
  if (!elements) throw std::system_error(elements.error().err, std::generic_category(), "cannot take over a table");
  auto maps = quota_.charge_anyway(Resource::Maps, e.uid),
       bytes = quota_.charge_anyway(Resource::Bytes, e.uid, ElementTable::memory_size(spec.outer().layout()));
  auto map = std::make_unique<Map>(waits_, e.id, std::move(spec), std::move(*elements), std::move(maps), std::move(bytes));
  map->resume(std::move(kept), {});
  return keep(std::move(map));
}

void MapTable::resume(const TokenEntry& e, UniqueFd end, Kept kept) {
  const auto map = find(e.map);
  if (!map) return;
  if (auto watched = hangups_.watch(end.get(), e.cookie); !watched) throw std::runtime_error(watched.error().text);
  auto charge = quota_.charge_anyway(Resource::Tokens, e.uid);
  tokens_.emplace(e.cookie, std::make_unique<Token>(map, e.rights, std::move(end), std::move(charge), std::move(kept)));
}

void MapTable::resume(const PinEntry& e, Kept kept) {
  const auto map = find(e.map);
  const std::string path(e.path, ::strnlen(e.path, sizeof e.path));
  if (!map || !map->pins.insert(path).second) return;
  pins_.emplace(path, Pin{map, e.uid, quota_.charge_anyway(Resource::Pins, e.uid), std::move(kept)});
}

}  // namespace ringbuf::daemon
