// SPDX-License-Identifier: MIT
// The daemon as a whole: its socket, its sessions, its maps. Single-threaded; everything runs in the io_context that it was
// given.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>

#include "daemon/map_table.hpp"
#include "daemon/session.hpp"

namespace ringbuf::daemon {

struct ServerConfig {
  std::string socket;
  unsigned socket_mode = 0666;
  Limits limits = kDefaultLimits;
};

class Server {
 public:
  // Accepts from now on. EWOULDBLOCK: another daemon serves the path.
  static Answer<std::unique_ptr<Server>> start(boost::asio::io_context& io, const ServerConfig& config);
  Server(const Server&) = delete;
  ~Server() { stop(); }

  // Ends all sessions, frees all maps and removes the socket; the io_context then runs out of work.
  void stop();

 private:
  Server(boost::asio::io_context& io, const ServerConfig& config, UniqueFd hangups);

  void accept_next();
  void on_acceptable();
  void turn_away_one();
  void accept_later();
  void open_session(UniqueFd socket);
  void watch_hangups();

  boost::asio::io_context& io_;
  std::string path_;
  UniqueFd lock_;
  std::optional<std::pair<dev_t, ino_t>> bound_;  // our socket
  Quota quota_;
  ClientLog log_;
  MapTable table_;
  boost::asio::posix::stream_descriptor listener_;
  boost::asio::posix::stream_descriptor hangups_;
  boost::asio::steady_timer retry_;  // runs only while the system has no descriptors left
  UniqueFd spare_;                   // given up to be able to turn a client away
  bool shortage_logged_ = false;
  std::unordered_map<Session*, std::shared_ptr<Session>> sessions_;
};

}  // namespace ringbuf::daemon
