// SPDX-License-Identifier: MIT
#include "daemon/map_table.hpp"

#include <sys/socket.h>

#include <array>

#include "wire/codec.hpp"

namespace ringbuf::daemon {
namespace {

Result<std::uint64_t> cookie_of(int fd) {
  std::uint64_t cookie = 0;
  socklen_t size = sizeof cookie;
  if (::getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size) < 0) return fail_errno("read a socket's cookie");
  return cookie;
}

}  // namespace

MapTable::~MapTable() {
  pins_.clear();
  tokens_.clear();
}

std::uint32_t MapTable::new_id() {
  do ++last_id_;
  while (last_id_ == 0 || maps_.count(last_id_));
  return last_id_;
}

Answer<std::shared_ptr<Map>> MapTable::create(MapSpec spec) {
  const shm::Layout layout{shm::page_size(), spec.ring.max_entries};
  const std::uint64_t size = spec.inner ? ElementTable::memory_size(spec.outer().layout()) : layout.c_size() + layout.p_size();
  auto maps = quota_.charge(Resource::Maps, spec.uid);
  if (!maps) return tl::unexpected(maps.error());
  auto bytes = quota_.charge(Resource::Bytes, spec.uid, size);
  if (!bytes) return tl::unexpected(bytes.error());
  if (spec.inner) {
    auto elements = ElementTable::create(spec.outer());
    if (!elements) return refuse(elements.error());
    return keep(std::make_unique<Map>(new_id(), std::move(spec), std::move(*elements), std::move(*maps), std::move(*bytes)));
  }
  auto memory = shm::create_ring(spec.ring);
  if (!memory) return refuse(memory.error());
  return keep(std::make_unique<Map>(new_id(), std::move(spec), std::move(*memory), std::move(*maps), std::move(*bytes)));
}

std::shared_ptr<Map> MapTable::keep(std::unique_ptr<Map> made) {
  const std::shared_ptr<Map> map(made.release(), [this](Map* m) { forget(m); });
  maps_.emplace(map->id, map.get());
  log_.write(spdlog::level::info, map->spec.uid,
             fmt::format("{} created: {} {}, {} bytes in all, mode {:04o}, uid {}", map->label(), map->spec.ring.max_entries,
                         map->elements() ? "elements" : "bytes of data", map->size(), map->spec.mode, map->spec.uid));
  return map;
}

void MapTable::forget(Map* map) {
  if (maps_.erase(map->id)) log_.write(spdlog::level::info, map->spec.uid, map->label() + " freed");
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
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0)
    return refuse(Error{errno, "create a token"});
  UniqueFd ours(ends[0]), theirs(ends[1]);
  const auto cookie = cookie_of(theirs.get());
  if (!cookie) return refuse(cookie.error());
  if (::shutdown(ours.get(), SHUT_RD) < 0) return refuse(Error{errno, "shut down a token"});
  epoll_event ev{};  // no events: a hang-up is always reported
  ev.data.u64 = *cookie;
  const int end = ours.get();
  tokens_.emplace(*cookie, std::make_unique<Token>(map, rights, std::move(ours), std::move(*charge)));
  if (::epoll_ctl(hangups_.get(), EPOLL_CTL_ADD, end, &ev) < 0) {
    const int err = errno;
    tokens_.erase(*cookie);
    return refuse(Error{err, "watch a token"});
  }
  return theirs;
}

const Token* MapTable::find_token(int fd) const {
  const auto cookie = cookie_of(fd);
  if (!cookie) return nullptr;
  const auto it = tokens_.find(*cookie);
  return it == tokens_.end() ? nullptr : it->second.get();
}

void MapTable::drop_dead_tokens() {
  std::array<epoll_event, 64> events;
  for (;;) {
    const int n = ::epoll_wait(hangups_.get(), events.data(), static_cast<int>(events.size()), 0);
    if (n <= 0) return;
    for (int i = 0; i < n; ++i) {
      const std::uint64_t cookie = events[static_cast<std::size_t>(i)].data.u64;  // a copy: epoll_event is packed
      const auto it = tokens_.find(cookie);
      if (it == tokens_.end()) return;  // cannot be; but never loop on it
      // Explicitly: a copy of our end elsewhere (over fork) would keep it in the set and report it for ever.
      ::epoll_ctl(hangups_.get(), EPOLL_CTL_DEL, it->second->end.get(), nullptr);
      tokens_.erase(it);
    }
  }
}

Answer<void> MapTable::pin(const std::shared_ptr<Map>& map, const std::string& path, const Peer& peer) {
  if (pins_.count(path))
    return refuse(EEXIST, fmt::format("{} is pinned already; unpin it or use another path", wire::printable(path)));
  auto charge = quota_.charge(Resource::Pins, peer.uid);
  if (!charge) return tl::unexpected(charge.error());
  map->pins.insert(path);
  try {
    pins_.emplace(path, Pin{map, peer.uid, std::move(*charge)});
  } catch (...) {
    map->pins.erase(path);
    throw;
  }
  log_.write(spdlog::level::info, peer.uid,
             fmt::format("{} pinned at {} by uid {}", map->label(), wire::printable(path), peer.uid));
  return {};
}

Answer<void> MapTable::unpin(const std::string& path, const Peer& peer) {
  const auto it = pins_.find(path);
  if (it == pins_.end()) return refuse(ENOENT, fmt::format("nothing is pinned at {}", wire::printable(path)));
  const Pin& pin = it->second;
  if (peer.uid != 0 && peer.uid != pin.uid && peer.uid != pin.map->spec.uid)
    return refuse(EPERM, fmt::format("{} belongs to uid {}; only it, the map's owner or root may unpin it", wire::printable(path),
                                     pin.uid));
  log_.write(spdlog::level::info, peer.uid,
             fmt::format("{} unpinned from {} by uid {}", pin.map->label(), wire::printable(path), peer.uid));
  pin.map->pins.erase(path);
  pins_.erase(it);
  return {};
}

std::shared_ptr<Map> MapTable::find_pin(const std::string& path) const {
  const auto it = pins_.find(path);
  return it == pins_.end() ? nullptr : it->second.map;
}

}  // namespace ringbuf::daemon
