// SPDX-License-Identifier: MIT
#include "client.hpp"

#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "map_type.hpp"

namespace ringbufctl {

tl::unexpected<Failure> library_failure(int negative_errno, const std::string& hint) {
  const int err = -negative_errno;
  const bool gone = err == ECONNRESET || err == EPIPE || err == ENOTCONN;
  const bool wrong = err == EINVAL || err == ENAMETOOLONG;  // what was asked for, not what there is
  return fail(gone ? kUnreachable : wrong ? kUsage : kFailed, err, ringbuf_last_error() + (hint.empty() ? "" : "; " + hint));
}

Result<Session> connect(const Globals& globals) {
  ringbuf_session* session = nullptr;
  const int ret = ringbuf_connect(globals.socket.empty() ? nullptr : globals.socket.c_str(), &session);
  if (ret == 0) return Session(session);

  std::string path = globals.socket;
  if (char buf[256]; path.empty() && ringbuf_default_socket(buf, sizeof(buf)) >= 0) path = buf;
  const std::string reason = std::strerror(-ret);
  switch (-ret) {
    case ECONNREFUSED:
      if (struct stat st; ::stat(path.c_str(), &st) == 0 && !S_ISSOCK(st.st_mode)) {
        return fail(kUnreachable, -ret, path + " is not a socket; name ringbufd's with --socket");
      }
      [[fallthrough]];
    case ENOENT:
      return fail(kUnreachable, -ret,
                  "no ringbufd at " + path + ": " + reason + "; start it with 'ringbufd --socket " + path +
                      "' or name another with --socket");
    case EACCES:
    case EPERM:
      return fail(kUnreachable, -ret,
                  "ringbufd's socket " + path + " may not be used: " + reason + "; ask its owner or name another with --socket");
    case EPROTOTYPE:
      return fail(kUnreachable, -ret, path + " is a socket of another kind, not ringbufd's; name ringbufd's with --socket");
    case ENAMETOOLONG:
      return fail(kUsage, -ret, "the socket's path " + path + " is too long; name one of at most 107 bytes with --socket");
    default: return fail(kUnreachable, -ret, ringbuf_last_error());  // the daemon's own sentence, or a broken connection
  }
}

Result<Map> open_map(const Session& session, const MapName& name, uint32_t rights) {
  ringbuf_map* map = nullptr;
  int ret = 0;
  std::string hint;
  switch (name.kind) {
    case MapName::Kind::kId: ret = ringbuf_map_open_id(session.get(), name.id, rights, &map); break;
    case MapName::Kind::kName: ret = ringbuf_map_open_name(session.get(), name.text.c_str(), rights, &map); break;
    case MapName::Kind::kPinned: ret = ringbuf_map_open_pinned(session.get(), name.text.c_str(), rights, &map); break;
  }
  if (ret == 0) return Map(map);
  if (ret == -ENOENT) hint = "'ringbufctl map list' shows those there are";
  return library_failure(ret, hint);
}

Result<ringbuf_map_info> map_info(const Map& map) {
  ringbuf_map_info info{};
  const int ret = ringbuf_map_get_info(map.get(), &info, sizeof(info));
  if (ret < 0) return library_failure(ret);
  return info;
}

Result<OpenMap> open_map_for(const Session& session, const Invocation& invocation, uint32_t rights) {
  Result<Map> map = open_map(session, *invocation.map, rights);
  if (!map) return tl::unexpected(map.error());
  const Result<ringbuf_map_info> info = map_info(*map);
  if (!info) return tl::unexpected(info.error());
  if (const Result<void> works = check_verb(*info, invocation.verb); !works) return tl::unexpected(works.error());
  return OpenMap{std::move(*map), *info};
}

}  // namespace ringbufctl
