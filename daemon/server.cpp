// SPDX-License-Identifier: MIT
#include "daemon/server.hpp"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>

#include <chrono>

#include "base/notify.hpp"
#include "base/seqpacket.hpp"
#include "daemon/descriptor_limit.hpp"

namespace ringbuf::daemon {
namespace {

// Bounds what a client that does not read can have in flight, replies and their descriptors; the kernel doubles it.
constexpr int kSendBuffer = 4096;

void ensure_descriptors(const Limits& limits) {
  const rlim_t needed = descriptors_needed(limits);
  if (raise_descriptor_limit(needed)) return;
  rlimit r{};
  ::getrlimit(RLIMIT_NOFILE, &r);
  spdlog::warn("RLIMIT_NOFILE is {} and the limits allow for {} descriptors; raise it or lower --max-tokens and the like",
               r.rlim_max, needed);
}

UniqueFd spare_descriptor() { return UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)); }

}  // namespace

Server::Server(boost::asio::io_context& io, const ServerConfig& config, UniqueFd keeper, UniqueFd hangups)
    : io_(io),
      keeper_(io, std::move(keeper)),
      quota_(config.limits),
      table_(quota_, log_, std::move(hangups)),
      listener_(io),
      hangups_(io),
      retry_(io),
      spare_(spare_descriptor()) {}

Answer<std::unique_ptr<Server>> Server::start(boost::asio::io_context& io, const ServerConfig& config, UniqueFd keeper,
                                              Inherited inherited) {
  auto listening = Listener::obtain(config.socket, config.socket_mode, inherited);
  if (!listening) return tl::unexpected(listening.error());
  auto hangups = make_epoll();
  if (!hangups) return refuse(hangups.error());
  UniqueFd watched(::fcntl(hangups->get(), F_DUPFD_CLOEXEC, 0));
  if (!watched) return refuse(Error{errno, "copy a descriptor"});
  // Accepted sockets inherit it, so that no message can come without credentials.
  const int on = 1;
  if (::setsockopt(listening->fd.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0)
    return refuse(Error{errno, "ask for credentials"});

  std::unique_ptr<Server> server(new Server(io, config, std::move(keeper), std::move(*hangups)));
  server->listening_ = std::move(*listening);
  ensure_descriptors(config.limits);
  server->listening_.keep(server->keeper_);
  // Here what was kept is restored. What is still there then is nobody's.
  for (const std::string& name : inherited.names()) server->keeper_.remove(name);

  server->hangups_.assign(watched.release());
  server->listener_.assign(server->listening_.fd.release());
  server->watch_hangups();
  server->accept_next();
  spdlog::info("ready, socket {}", server->path());
  server->keeper_.say(fmt::format("READY=1\nSTATUS=Serving {}", server->path()));
  return server;
}

void Server::set_limits(const Limits& limits) {
  quota_.set_limits(limits);
  ensure_descriptors(limits);
}

void Server::stop() {
  if (!listener_.is_open()) return;
  boost::system::error_code ignored;
  if (keeper_.present()) {
    keeper_.say("STOPPING=1");
    keeper_.abandon();
  } else {
    listening_.remove_file();
  }
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
