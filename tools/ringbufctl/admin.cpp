// SPDX-License-Identifier: MIT
// map create, map pin, map unpin.
#include <algorithm>
#include <cerrno>

#include "client.hpp"
#include "commands.hpp"
#include "map_type.hpp"
#include "output.hpp"
#include "writer.hpp"

namespace ringbufctl {
namespace {

bool is_name(const std::string& name) {
  constexpr std::string_view kAllowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.";
  return name.size() < RINGBUF_NAME_LEN && name.find_first_not_of(kAllowed) == std::string::npos;
}

Result<void> done(const Globals& globals) {
  if (!globals.json) return {};
  return print(null_json());
}

}  // namespace

Result<void> run_create(const Invocation& invocation, const Globals& globals) {
  const CreateOptions& create = invocation.create;
  const std::string name = create.name.empty() ? invocation.path.substr(invocation.path.rfind('/') + 1) : create.name;
  if (!is_name(name)) {
    return fail(kUsage, EINVAL,
                "'" + name + "' cannot be a map's name: give one of at most 15 characters of [A-Za-z0-9_.] with --name");
  }
  const Result<Session> session = connect(globals);
  if (!session) return tl::unexpected(session.error());

  // Before a map is made: what cannot be pinned costs no id.
  ringbuf_map* raw = nullptr;
  int ret = ringbuf_map_open_pinned(session->get(), invocation.path.c_str(), 0, &raw);
  if (ret == 0) ringbuf_map_free(raw);
  if (ret == 0 || ret == -EACCES) {
    return fail(kFailed, EEXIST, invocation.path + " is pinned already; unpin it or use another path");
  }
  if (ret != -ENOENT) return library_failure(ret);

  ringbuf_map_create_opts opts{};
  opts.sz = sizeof(opts);
  opts.map_type = create.type;
  Map inner;
  if (is_map_of_maps(create.type)) {
    Result<Map> like = open_map(*session, *create.inner, 0);
    if (!like) return tl::unexpected(like.error());
    inner = std::move(*like);
    opts.inner_map = inner.get();
    opts.key_size = create.key_size;
    opts.value_size = sizeof(uint32_t);  // as the kernel has it: a descriptor goes in, an id comes out
  }
  opts.mode = create.mode;
  if (create.overwrite) opts.map_flags |= RINGBUF_OVERWRITE;
  if (create.single_producer) opts.ring_flags = RINGBUF_F_SINGLE_PRODUCER;
  if (create.numa_node) {
    opts.map_flags |= RINGBUF_NUMA_NODE;
    opts.numa_node = *create.numa_node;
  }
  ret = ringbuf_map_create(session->get(), name.c_str(), create.max_entries, &opts, &raw);
  if (ret < 0) return library_failure(ret);
  const Map map(raw);  // without the pin, nothing but this keeps the map
  ret = ringbuf_map_pin(map.get(), invocation.path.c_str());
  if (ret < 0) return library_failure(ret);

  if (!globals.json) return {};
  const Result<ringbuf_map_info> info = map_info(map);
  if (!info) return tl::unexpected(info.error());
  return print(created_json(*info, invocation.path, globals.pretty));
}

Result<void> run_pin(const Invocation& invocation, const Globals& globals) {
  const Result<Session> session = connect(globals);
  if (!session) return tl::unexpected(session.error());
  const Result<Map> map = open_map(*session, *invocation.map, 0);
  if (!map) return tl::unexpected(map.error());
  const int ret = ringbuf_map_pin(map->get(), invocation.path.c_str());
  if (ret < 0) return library_failure(ret);
  return done(globals);
}

Result<void> run_unpin(const Invocation& invocation, const Globals& globals) {
  const Result<Session> session = connect(globals);
  if (!session) return tl::unexpected(session.error());
  const int ret = ringbuf_unpin(session->get(), invocation.path.c_str());
  if (ret < 0) return library_failure(ret);
  return done(globals);
}

}  // namespace ringbufctl
