// SPDX-License-Identifier: MIT
#include "daemon/server.hpp"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>

#include "base/notify.hpp"
#include "base/seqpacket.hpp"

namespace ringbuf::daemon {
namespace {

// Bounds what a client that does not read can have in flight, replies and their descriptors; the kernel doubles it.
constexpr int kSendBuffer = 4096;

Answer<UniqueFd> lock_path(const std::string& path) {
  const std::string lock = path + ".lock";
  UniqueFd fd(::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return refuse(errno, fmt::format("cannot open {}: {}", lock, std::strerror(errno)));
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) < 0) {
    if (errno == EWOULDBLOCK) return refuse(EWOULDBLOCK, fmt::format("another ringbufd serves {}", path));
    return refuse(errno, fmt::format("cannot lock {}: {}", lock, std::strerror(errno)));
  }
  return fd;
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

// To the hard limit, or beyond it if that is not enough and we may.
void raise_descriptor_limit(const Limits& limits) {
  const auto in_all = [&](Resource resource) { return limits[static_cast<std::size_t>(resource)].in_all; };
  const rlim_t need =
      64 + 2 * in_all(Resource::Maps) + in_all(Resource::Tokens) + in_all(Resource::Sessions) + in_all(Resource::Attachments);
  rlimit r{};
  if (::getrlimit(RLIMIT_NOFILE, &r) < 0) return;
  rlimit enough{std::max(need, r.rlim_max), std::max(need, r.rlim_max)};
  if (::setrlimit(RLIMIT_NOFILE, &enough) == 0) return;
  r.rlim_cur = r.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &r);
  spdlog::warn("RLIMIT_NOFILE is {} and the limits allow for {} descriptors; raise it or lower --max-tokens and the like",
               r.rlim_max, need);
}

// Which file a path leads to, as device and inode.
std::optional<std::pair<dev_t, ino_t>> file_at(const std::string& path) {
  struct stat st;
  if (::lstat(path.c_str(), &st) < 0) return std::nullopt;
  return std::pair(st.st_dev, st.st_ino);
}

UniqueFd spare_descriptor() { return UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)); }

}  // namespace

Server::Server(boost::asio::io_context& io, const ServerConfig& config, UniqueFd hangups)
    : io_(io),
      path_(config.socket),
      quota_(config.limits),
      table_(quota_, log_, std::move(hangups)),
      listener_(io),
      hangups_(io),
      retry_(io),
      spare_(spare_descriptor()) {}

Answer<std::unique_ptr<Server>> Server::start(boost::asio::io_context& io, const ServerConfig& config) {
  // Before there is a lock file, so that a wrong path leaves nothing behind.
  if (auto checked = check_path(config.socket); !checked) return tl::unexpected(checked.error());
  auto lock = lock_path(config.socket);
  if (!lock) return tl::unexpected(lock.error());
  if (auto removed = remove_stale_socket(config.socket); !removed) return tl::unexpected(removed.error());
  auto hangups = make_epoll();
  if (!hangups) return refuse(hangups.error());
  UniqueFd watched(::fcntl(hangups->get(), F_DUPFD_CLOEXEC, 0));
  if (!watched) return refuse(Error{errno, "copy a descriptor"});
  auto listener = listen_at(config.socket, config.socket_mode);
  if (!listener)
    return refuse(listener.error().err,
                  fmt::format("cannot {} {}: {}", listener.error().op, config.socket, std::strerror(listener.error().err)));
  // Accepted sockets inherit it, so that no message can come without credentials.
  const int on = 1;
  if (::setsockopt(listener->get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0)
    return refuse(Error{errno, "ask for credentials"});

  std::unique_ptr<Server> server(new Server(io, config, std::move(*hangups)));
  server->lock_ = std::move(*lock);
  server->bound_ = file_at(config.socket);
  server->hangups_.assign(watched.release());
  server->listener_.assign(listener->release());
  server->watch_hangups();
  server->accept_next();
  raise_descriptor_limit(config.limits);
  spdlog::info("ready, socket {}", config.socket);
  return server;
}

void Server::stop() {
  if (!listener_.is_open()) return;
  boost::system::error_code ignored;
  // A successor's socket is left alone: somebody may have removed ours, and the lock file, while we served. Looked at before ours
  // is closed, so that no other file can have got its inode.
  if (const auto now = file_at(path_); now && now == bound_) ::unlink(path_.c_str());
  listener_.close(ignored);
  hangups_.close(ignored);
  retry_.cancel(ignored);
  for (auto& [session, owner] : sessions_) session->close();
  sessions_.clear();
}

void Server::watch_hangups() {
  hangups_.async_wait(boost::asio::posix::descriptor_base::wait_read, [this](const boost::system::error_code& ec) {
    if (ec) return;
    table_.drop_dead_tokens();
    watch_hangups();
  });
}

void Server::accept_next() {
  listener_.async_wait(boost::asio::posix::descriptor_base::wait_read, [this](const boost::system::error_code& ec) {
    if (!ec) on_acceptable();
  });
}

void Server::on_acceptable() {
  UniqueFd socket(::accept4(listener_.native_handle(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (socket) {
    if (std::exchange(shortage_logged_, false)) spdlog::info("connections are accepted again");
    open_session(std::move(socket));
    return accept_next();
  }
  if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) return accept_next();
  if (!std::exchange(shortage_logged_, true))
    spdlog::error("cannot accept a connection: {}; clients are turned away until that has changed", std::strerror(errno));
  if (errno == EMFILE || errno == ENFILE) return turn_away_one();
  accept_later();
}

// Without a descriptor for it a connection would stay in the queue and wake us for ever.
void Server::turn_away_one() {
  spare_.reset();
  const bool accepted =
      static_cast<bool>(UniqueFd(::accept4(listener_.native_handle(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)));
  spare_ = spare_descriptor();
  if (accepted && spare_) return accept_next();
  accept_later();
}

void Server::accept_later() {
  retry_.expires_after(std::chrono::milliseconds(100));
  retry_.async_wait([this](const boost::system::error_code& ec) {
    if (ec) return;
    if (!spare_) spare_ = spare_descriptor();
    on_acceptable();
  });
}

void Server::open_session(UniqueFd socket) {
  auto peer = identify(socket.get());
  if (!peer) {
    spdlog::warn("cannot {}: {}", peer.error().op, std::strerror(peer.error().err));
    return;
  }
  const uid_t uid = peer->uid;
  const int buffer = kSendBuffer;
  ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
  try {
    auto charge = quota_.charge(Resource::Sessions, peer->uid);
    if (!charge) {
      log_.write(spdlog::level::warn, peer->uid,
                 fmt::format("connection of pid {}, uid {} refused: {}", peer->pid, peer->uid, charge.error().text));
      const auto frame = wire::encode_error({RINGBUF_HELLO, 0, 0, 0, 0}, charge.error().err, charge.error().text);
      (void)send_frame(socket.get(), frame, {}, MSG_DONTWAIT);
      hang_up(socket.get());
      return;
    }
    const auto session = std::make_shared<Session>(io_, std::move(socket), std::move(*peer), std::move(*charge), table_,
                                                   [this](Session* ended) { sessions_.erase(ended); });
    sessions_.emplace(session.get(), session);
    session->read_next();
  } catch (const std::exception& e) {
    log_.write(spdlog::level::err, uid, fmt::format("cannot open a session of uid {}: {}", uid, e.what()));
  }
}

}  // namespace ringbuf::daemon
