// SPDX-License-Identifier: MIT
#include "daemon/server.hpp"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>

#include "base/notify.hpp"
#include "base/seqpacket.hpp"
#include "daemon/descriptor_limit.hpp"
#include "daemon/restore.hpp"

namespace ringbuf::daemon {
namespace {

// Bounds what a client that does not read can have in flight, replies and their descriptors; the kernel doubles it.
constexpr int kSendBuffer = 4096;

void ensure_descriptors(const Limits& limits) {
  const rlim_t needed = descriptors_needed(limits);
  const bool enough = raise_descriptor_limit(needed);
  rlimit r{};
  ::getrlimit(RLIMIT_NOFILE, &r);
  if (!enough)
    spdlog::warn("RLIMIT_NOFILE is {} and the limits allow for {} descriptors; raise it or lower --max-tokens and the like",
                 r.rlim_max, needed);
  // The kernel's table of them grows to its size now. When there are threads each growth waits for all CPUs, 10 ms and more.
  UniqueFd(::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, static_cast<int>(std::min(r.rlim_cur, State::kNumbersFrom + needed) - 1)));
}

// A connection that was made before the daemon listened may not have it.
void ask_for_credentials(int socket) {
  const int on = 1;
  ::setsockopt(socket, SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
}

UniqueFd spare_descriptor() { return UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)); }

}  // namespace

Server::Server(boost::asio::io_context& io, std::unique_ptr<Keeper> keeper, std::unique_ptr<Core> core)
    : io_(io),
      keeper_(std::move(keeper)),
      core_(std::move(core)),
      listener_(io),
      token_hangups_(io),
      client_hangups_(io),
      own_descriptors_(::open("/proc/self/fd", O_PATH | O_CLOEXEC)),
      own_namespaces_(::open("/proc/self/ns", O_PATH | O_CLOEXEC)),
      retry_(io),
      lane_(core_->lanes.nobodys()),
      at_end_(std::make_shared<Lane::Fds>()),
      spare_(spare_descriptor()) {
  at_end_->all.reserve(1);
}

Answer<std::unique_ptr<Server>> Server::start(boost::asio::io_context& io, const ServerConfig& config, UniqueFd keeper_socket,
                                              Inherited inherited) {
  auto listening = Listener::obtain(config.socket, config.socket_mode, inherited);
  if (!listening) return tl::unexpected(listening.error());
  ensure_descriptors(config.limits);
  auto tokens = make_epoll(), clients = make_epoll();
  if (!tokens) return refuse(tokens.error());
  if (!clients) return refuse(clients.error());
  UniqueFd watched_tokens(::fcntl(tokens->get(), F_DUPFD_CLOEXEC, 0)),
      watched_clients(::fcntl(clients->get(), F_DUPFD_CLOEXEC, 0));
  if (!watched_tokens || !watched_clients) return refuse(Error{errno, "copy a descriptor"});

  auto keeper = std::make_unique<Keeper>(io, std::move(keeper_socket));
  Result<std::unique_ptr<State>> state;
  if (UniqueFd before = inherited.take(State::kName)) {
    // Its keeper would not learn of what changes, and yet give it to the next one.
    if (!keeper->present()) return refuse(ENOTCONN, "cannot take over from the daemon before without the keeper that has it");
    state = State::adopt(*keeper, std::move(before));
  }
  if (!state) {
    const std::string why =
        fmt::format("cannot take over from the daemon before: cannot {}: {}", state.error().op, std::strerror(state.error().err));
    if (state.error().err != EPROTO) return refuse(state.error().err, why);  // the next start may be luckier
    spdlog::error(why);
    keeper->remove(State::kName);  // or it would be the first that the next one is given
  }
  const bool taken_over = state && *state;
  if (!taken_over) state = State::create(*keeper);
  if (!state) return refuse(state.error());
  std::unique_ptr<Server> server(
      new Server(io, std::move(keeper),
                 std::make_unique<Core>(io, config.limits, std::move(*state), std::move(*tokens), std::move(*clients))));
  server->listening_ = std::move(*listening);
  server->listening_.keep(*server->keeper_);
  if (taken_over)
    if (auto restored = restore(*server->core_, inherited); !restored) return tl::unexpected(restored.error());
  const auto left = inherited.names();
  auto rest = std::make_shared<Lane::Fds>();
  rest->all.reserve(left.size());

  Server* self = server.get();
  self->token_hangups_.start(std::move(watched_tokens), [self] { self->core_->maps.drop_dead_tokens(); });
  self->client_hangups_.start(std::move(watched_clients), [self] { self->core_->clients.bury_dead(); });
  self->listener_.start(std::move(self->listening_.fd), [self] { self->on_acceptable(); });
  // Only now, when nothing can go wrong any more, is anything taken from what is kept. What is left of it is nobody's.
  server->core_->state->serve();
  for (const std::string& name : left) {
    server->keeper_->remove(name);
    rest->all.push_back(inherited.take(name));
  }
  server->lane_->run(std::move(rest));
  spdlog::info("ready, socket {}", server->path());
  server->keeper_->say(fmt::format("READY=1\nSTATUS=Serving {}", server->path()));
  return server;
}

void Server::set_limits(const Limits& limits) {
  core_->quota.set_limits(limits);
  ensure_descriptors(limits);
}

void Server::stop() {
  if (!listener_.is_open()) return;
  boost::system::error_code ignored;
  if (keeper_->present()) {
    keeper_->say("STOPPING=1");
    keeper_->abandon();
    core_->state->abandon();
  } else {
    listening_.remove_file();
  }
  // With connections that nobody has accepted, and all that they have been sent.
  at_end_->all.push_back(listener_.release());
  lane_->run(std::move(at_end_));
  token_hangups_.close();
  client_hangups_.close();
  retry_.cancel(ignored);
  core_->reaper.stop();
  core_->waits.stop();
  for (auto& [session, owner] : sessions_) session->close();
  sessions_.clear();
}

// Nobody's until it is known whose it is.
ForeignFd Server::accept() {
  std::shared_ptr<Lane::Fds> one;
  try {
    one = std::make_shared<Lane::Fds>();
    one->all.reserve(1);
  } catch (const std::bad_alloc&) {  // closed right here, rather than looked at over and over
  }
  UniqueFd fd(::accept4(listener_.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!fd) return {};
  if (!one || one->all.capacity() == 0) {
    fd.reset();
    errno = EAGAIN;
    return {};
  }
  one->all.push_back(std::move(fd));
  return {lane_, std::move(one)};
}

void Server::on_acceptable() {
  // Who is refused with something in its queue that cannot be closed costs a descriptor, and may come again.
  if (core_->lanes.descriptors() >= kMostToClose) {
    if (!std::exchange(shortage_logged_, true))
      spdlog::error("{} descriptors wait to be closed, which clients put off; no connection is accepted before that has changed",
                    kMostToClose);
    return accept_later();
  }
  if (ForeignFd socket = accept()) {
    if (std::exchange(shortage_logged_, false)) spdlog::info("connections are accepted again");
    return open_session(std::move(socket));
  }
  if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) return;
  if (!std::exchange(shortage_logged_, true))
    spdlog::error("cannot accept a connection: {}; clients are turned away until that has changed", std::strerror(errno));
  if (errno == EMFILE || errno == ENFILE) return turn_away_one();
  accept_later();
}

// Without a descriptor for it a connection would stay in the queue and wake us for ever.
void Server::turn_away_one() {
  spare_.reset();
  bool accepted = false;
  if (ForeignFd socket = accept()) {
    ask_for_credentials(socket.get());
    socket.hang_up();
    accepted = true;
  }
  spare_ = spare_descriptor();
  if (accepted && spare_) return;
  accept_later();
}

void Server::accept_later() {
  retry_.expires_after(std::chrono::milliseconds(100));
  retry_.async_wait([this](const boost::system::error_code& ec) {
    if (ec) return;
    if (!spare_) spare_ = spare_descriptor();
    listener_.resume();
  });
  listener_.pause();
}

void Server::open_session(ForeignFd socket) {
  auto peer = identify(socket.get());
  if (!peer) {
    spdlog::warn("cannot {}: {}", peer.error().op, std::strerror(peer.error().err));
    return;
  }
  const uid_t uid = peer->uid;
  ask_for_credentials(socket.get());
  const int buffer = kSendBuffer;
  ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
  try {
    socket.use(core_->lanes.closing(uid));
    auto charge = core_->quota.charge(Resource::Sessions, peer->uid);
    // At the limit those who are counted already must be able to come back.
    if (!charge && may_come_back(uid)) charge = Charge();
    if (!charge) {
      core_->log.write(spdlog::level::warn, peer->uid,
                       fmt::format("connection of pid {}, uid {} refused: {}", peer->pid, peer->uid, charge.error().text));
      const auto frame = wire::encode_error({RINGBUF_HELLO, 0, 0, 0, 0}, charge.error().err, charge.error().text);
      (void)send_frame(socket.get(), frame, {}, MSG_DONTWAIT);
      return socket.hang_up();
    }
    const auto session = std::make_shared<Session>(io_, std::move(socket), std::move(*peer), std::move(*charge), *core_,
                                                   [this](Session* ended) { sessions_.erase(ended); });
    session->read_next();  // if that fails, it is forgotten
    sessions_.emplace(session.get(), session);
  } catch (const std::exception& e) {
    core_->log.tell(spdlog::level::err, uid, [&] { return fmt::format("cannot open a session of uid {}: {}", uid, e.what()); });
  }
}

bool Server::may_come_back(uid_t uid) const {
  auto away = core_->clients.away(uid);
  std::size_t uncounted = 0;
  for (const auto& [session, owner] : sessions_) {
    if (session->uid() != uid) continue;
    if (session->is_uncounted()) ++uncounted;
    else if (session->has_hung_up()) ++away;
  }
  return uncounted < away;
}

}  // namespace ringbuf::daemon
