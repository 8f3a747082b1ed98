// SPDX-License-Identifier: MIT
#include "daemon/listener.hpp"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/seqpacket.hpp"

namespace ringbuf::daemon {
namespace {

std::string lock_of(const std::string& path) { return path + ".lock"; }

Answer<UniqueFd> lock_path(const std::string& path) {
  const std::string lock = lock_of(path);
  UniqueFd fd(::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return refuse(errno, fmt::format("cannot open {}: {}", lock, std::strerror(errno)));
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) < 0) {
    if (errno == EWOULDBLOCK) return refuse(EWOULDBLOCK, fmt::format("another ringbufd serves {}", path));
    return refuse(errno, fmt::format("cannot lock {}: {}", lock, std::strerror(errno)));
  }
  return fd;
}

bool is_lock_of(int fd, const std::string& path) {
  struct stat st;
  return ::fstat(fd, &st) == 0 && file_at(lock_of(path)) == FileId(st.st_dev, st.st_ino);
}

// A socket may be replaced if its daemon is dead, but nothing else.
Answer<void> check_path(const std::string& path) {
  struct stat st;
  if (::lstat(path.c_str(), &st) < 0 || S_ISSOCK(st.st_mode)) return {};
  return refuse(EEXIST, fmt::format("{} exists and is not a socket; remove it or choose another --socket", path));
}

// Who holds the lock may do so.
Answer<void> remove_stale_socket(const std::string& path) {
  if (auto checked = check_path(path); !checked) return checked;
  if (::unlink(path.c_str()) < 0 && errno != ENOENT)
    return refuse(errno, fmt::format("cannot remove the old socket {}: {}", path, std::strerror(errno)));
  return {};
}

int socket_option(int fd, int option) {
  int value = -1;
  socklen_t size = sizeof value;
  return ::getsockopt(fd, SOL_SOCKET, option, &value, &size) == 0 ? value : -1;
}

bool can_serve(int fd) {
  return socket_option(fd, SO_DOMAIN) == AF_UNIX && socket_option(fd, SO_TYPE) == SOCK_SEQPACKET &&
         socket_option(fd, SO_ACCEPTCONN) == 1;
}

// Names longer than a keeper's are a service manager's own; so is whatever listens, except what was kept.
Answer<UniqueFd> take_activated(Inherited& inherited) {
  UniqueFd listener;
  for (const std::string& name : inherited.names()) {
    if (name == Listener::kName) continue;
    UniqueFd fd = inherited.take(name);
    if (name.size() <= Keeper::kMaxName && socket_option(fd.get(), SO_ACCEPTCONN) != 1) {
      inherited.add(name, std::move(fd));
      continue;
    }
    if (!can_serve(fd.get()))
      return refuse(EINVAL, fmt::format("the descriptor '{}' of socket activation is no listening AF_UNIX SOCK_SEQPACKET socket; "
                                        "in a socket unit that is ListenSequentialPacket=",
                                        name));
    if (listener) return refuse(EINVAL, "there is more than one socket by socket activation; ringbufd serves one");
    listener = std::move(fd);
  }
  return listener;
}

Answer<Listener> adopt(UniqueFd fd, UniqueFd lock, bool activated) {
  Listener listener;
  listener.path = path_of(fd.get());
  listener.activated = activated;
  if (activated && socket_option(fd.get(), SO_PASSCRED) != 1)
    spdlog::warn("who connected to {} before now will be refused; its socket unit needs PassCredentials=yes", listener.path);
  const int on = 1;
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0) return refuse(Error{errno, "ask for credentials"});
  // A service manager may have made it blocking.
  if (const int flags = ::fcntl(fd.get(), F_GETFL); flags < 0 || ::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) < 0)
    return refuse(Error{errno, "use the inherited socket"});
  listener.fd = std::move(fd);
  if (!lock && listener.path.starts_with('/')) {
    auto locked = lock_path(listener.path);
    if (!locked && locked.error().err == EWOULDBLOCK) return tl::unexpected(locked.error());
    if (locked) lock = std::move(*locked);
  }
  listener.lock = std::move(lock);
  if (!activated && listener.lock && is_lock_of(listener.lock.get(), listener.path)) listener.file = file_at(listener.path);
  if (!activated && !listener.file)
    spdlog::warn("the socket {} was removed or replaced; nobody can connect until ringbufd is stopped and started",
                 listener.path);
  return listener;
}

Answer<Listener> bind_at(const std::string& path, unsigned mode, UniqueFd lock) {
  // Before there is a lock file, so that a wrong path leaves nothing behind.
  if (auto checked = check_path(path); !checked) return tl::unexpected(checked.error());
  if (!lock || !is_lock_of(lock.get(), path)) {
    auto locked = lock_path(path);
    if (!locked) return tl::unexpected(locked.error());
    lock = std::move(*locked);
  }
  if (auto removed = remove_stale_socket(path); !removed) return tl::unexpected(removed.error());
  auto fd = listen_at(path, mode);
  if (!fd) return refuse(fd.error().err, fmt::format("cannot {} {}: {}", fd.error().op, path, std::strerror(fd.error().err)));
  return Listener{std::move(*fd), std::move(lock), path, file_at(path)};
}

}  // namespace

std::optional<FileId> file_at(const std::string& path) {
  struct stat st;
  if (::lstat(path.c_str(), &st) < 0) return std::nullopt;
  return FileId(st.st_dev, st.st_ino);
}

std::string path_of(int socket) {
  sockaddr_un a{};
  socklen_t size = sizeof a;
  constexpr auto kHead = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path));
  if (::getsockname(socket, reinterpret_cast<sockaddr*>(&a), &size) < 0 || size <= kHead) return {};
  const std::string path(a.sun_path, size - kHead);
  return path[0] == '\0' ? "@" + path.substr(1) : path.c_str();
}

Answer<Listener> Listener::obtain(const std::string& path, unsigned mode, Inherited& inherited) {
  auto activated = take_activated(inherited);
  if (!activated) return tl::unexpected(activated.error());
  UniqueFd kept = inherited.take(kName), lock = inherited.take(kLockName);
  if (*activated) return adopt(std::move(*activated), std::move(lock), true);
  if (kept && !can_serve(kept.get()))
    return refuse(EINVAL, fmt::format("the kept descriptor '{}' is no listening AF_UNIX SOCK_SEQPACKET socket", kName));
  if (kept) return adopt(std::move(kept), std::move(lock), false);
  return bind_at(path, mode, std::move(lock));
}

void Listener::keep(Keeper& keeper) const {
  if (lock) keeper.store(kLockName, lock.get());
  if (activated) keeper.remove(kName);
  else keeper.store(kName, fd.get());
}

void Listener::remove_file() const {
  if (file && file_at(path) == file) ::unlink(path.c_str());
}

}  // namespace ringbuf::daemon
