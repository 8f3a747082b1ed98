// SPDX-License-Identifier: MIT
// map show, map list.
#include <algorithm>
#include <cerrno>
#include <fstream>

#include "client.hpp"
#include "commands.hpp"
#include "map_type.hpp"
#include "output.hpp"
#include "writer.hpp"

namespace ringbufctl {
namespace {

std::string comm_of(uint32_t pid) {
  std::string comm;
  std::ifstream file("/proc/" + std::to_string(pid) + "/comm");
  std::getline(file, comm);
  return comm.empty() ? "?" : comm;
}

Result<MapState> map_state(const Map& map) {
  MapState state;
  Result<ringbuf_map_info> info = map_info(map);
  if (!info) return tl::unexpected(info.error());
  state.info = *info;

  char path[RINGBUF_PATH_LEN];
  for (uint32_t i = 0; ringbuf_map_get_pin(map.get(), i, path, sizeof(path)) >= 0; i++) state.pins.emplace_back(path);

  // Before we attach, so that we do not show ourselves.
  ringbuf_attachment_info attachment{};
  for (uint32_t i = 0; ringbuf_map_get_attachment(map.get(), i, &attachment) >= 0; i++) {
    const bool known = std::any_of(state.users.begin(), state.users.end(),
                                   [&](const User& user) { return user.pid == attachment.pid && user.role == attachment.role; });
    if (!known) state.users.push_back({attachment.pid, comm_of(attachment.pid), attachment.role});
  }

  if (is_map_of_maps(state.info.type) || !(state.info.rights & RINGBUF_RIGHT_OBSERVE)) return state;
  ringbuf_observer* raw = nullptr;
  if (const int ret = ringbuf_observer_attach(map.get(), &raw); ret < 0) return library_failure(ret);
  const Observer observer(raw);
  ringbuf_stats stats{};
  if (const int ret = ringbuf_observer_stats(observer.get(), &stats, sizeof(stats)); ret < 0) return library_failure(ret);
  state.stats = stats;
  return state;
}

Result<std::vector<MapState>> all_maps(const Session& session) {
  std::vector<MapState> maps;
  uint32_t id = 0;
  for (;;) {
    const int ret = ringbuf_map_next_id(session.get(), id, &id);
    if (ret == -ENOENT) return maps;
    if (ret < 0) return library_failure(ret);
    const Result<Map> map = open_map(session, {MapName::Kind::kId, id, ""}, 0);
    if (!map && map.error().err == ENOENT) continue;  // freed since next_id
    if (!map) return tl::unexpected(map.error());
    Result<MapState> state = map_state(*map);
    if (!state) return tl::unexpected(state.error());
    maps.push_back(std::move(*state));
  }
}

}  // namespace

Result<void> run_show(const Invocation& invocation, const Globals& globals) {
  const Result<Session> session = connect(globals);
  if (!session) return tl::unexpected(session.error());
  if (invocation.map) {
    const Result<Map> map = open_map(*session, *invocation.map, 0);
    if (!map) return tl::unexpected(map.error());
    const Result<MapState> state = map_state(*map);
    if (!state) return tl::unexpected(state.error());
    return print(globals.json ? map_json(*state, globals.pretty) : map_plain(*state));
  }
  const Result<std::vector<MapState>> maps = all_maps(*session);
  if (!maps) return tl::unexpected(maps.error());
  if (globals.json) return print(maps_json(*maps, globals.pretty));
  std::string text;
  for (const MapState& map : *maps) text += map_plain(map);
  return print(text);
}

}  // namespace ringbufctl
