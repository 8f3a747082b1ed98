// SPDX-License-Identifier: MIT
// The daemon as a whole: its socket, its sessions, its maps. Single-threaded; everything runs in the io_context that it was
// given.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <memory>
#include <string>
#include <unordered_map>

#include "daemon/epoll_wait.hpp"
#include "daemon/handlers.hpp"
#include "daemon/inherited.hpp"
#include "daemon/keeper.hpp"
#include "daemon/listener.hpp"
#include "daemon/session.hpp"
#include "daemon/standing_wait.hpp"

namespace ringbuf::daemon {

struct ServerConfig {
  std::string socket;
  unsigned socket_mode = 0666;
  Limits limits = kDefaultLimits;
};

class Server {
 public:
  // Accepts from now on, and tells the keeper so. EWOULDBLOCK: another daemon serves the path. `keeper` is the socket to it;
  // `inherited` what it kept.
  static Answer<std::unique_ptr<Server>> start(boost::asio::io_context& io, const ServerConfig& config, UniqueFd keeper = {},
                                               Inherited inherited = {});
  Server(const Server&) = delete;
  ~Server() { stop(); }

  const std::string& path() const { return listening_.path; }
  Keeper& keeper() { return *keeper_; }
  // Takes nothing from those who hold more than the new ones allow.
  void set_limits(const Limits& limits);
  // Ends all sessions, frees all maps and removes the socket; with a keeper, only lets go of them: another daemon may go on with
  // what is kept. The io_context then runs out of work.
  void stop();

 private:
  Server(boost::asio::io_context& io, std::unique_ptr<Keeper> keeper, std::unique_ptr<Core> core);

  void on_acceptable();
  void turn_away_one();
  void accept_later();
  ForeignFd accept();
  void open_session(ForeignFd socket);
  bool may_come_back(uid_t uid) const;

  boost::asio::io_context& io_;
  std::unique_ptr<Keeper> keeper_;  // outlives all that tells it what to keep
  Listener listening_;              // without its descriptor, which listener_ has
  std::unique_ptr<Core> core_;
  StandingWait listener_;
  EpollWait token_hangups_;
  EpollWait client_hangups_;
  // Of /proc/self: with them in use, what is in there is found without that directory's lock, which anybody can hold.
  const UniqueFd own_descriptors_, own_namespaces_;
  boost::asio::steady_timer retry_;    // runs only while no connection can be accepted
  const std::shared_ptr<Lane> lane_;   // for what is nobody's
  std::shared_ptr<Lane::Fds> at_end_;  // for the listener
  UniqueFd spare_;                     // given up to be able to turn a client away
  bool shortage_logged_ = false;
  std::unordered_map<Session*, std::shared_ptr<Session>> sessions_;
};

}  // namespace ringbuf::daemon
