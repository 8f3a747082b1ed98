// SPDX-License-Identifier: MIT
#include "daemon/service.hpp"

#include <spdlog/spdlog.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <csignal>
#include <ctime>

#include "daemon/inherited.hpp"
#include "daemon/server.hpp"

namespace ringbuf::daemon {
namespace {

class Service {
 public:
  Service(int argc, const char* const* argv, const Options& options)
      : argc_(argc), argv_(argv), options_(options), watchdog_(watchdog_from_environment()) {}

  int run() {
    signals_.add(SIGTERM);
    signals_.add(SIGINT);
    signals_.add(SIGHUP);
    auto server = Server::start(io_, options_.server, keeper_from_environment(), Inherited::from_environment());
    if (!server) {
      spdlog::critical(server.error().text);
      return 1;
    }
    server_ = std::move(*server);
    next_signal();
    if (watchdog_.count() > 0) next_ping();
    io_.run();
    return 0;
  }

 private:
  void next_signal() {
    signals_.async_wait([this](const boost::system::error_code& ec, int signal) {
      if (ec) return;
      if (signal == SIGHUP) {
        reload();
        return next_signal();
      }
      spdlog::info("{}, stopping", signal == SIGTERM ? "SIGTERM" : "SIGINT");
      stopping_ = true;
      timer_.cancel();
      server_->stop();
    });
  }

  void reload() {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    server_->keeper().say(fmt::format("RELOADING=1\nMONOTONIC_USEC={}", now.tv_sec * 1'000'000 + now.tv_nsec / 1000));
    if (auto fresh = parse_options(argc_, argv_)) {
      const auto& is = options_.server;
      const auto& wanted = fresh->server;
      if (wanted.socket != is.socket || wanted.socket_mode != is.socket_mode)
        spdlog::warn("socket and socket_mode cannot change while ringbufd runs; stop and start it");
      spdlog::set_level(spdlog::level::from_str(fresh->log_level));
      server_->set_limits(wanted.limits);
      spdlog::info("SIGHUP, options read again");
    } else {
      spdlog::error("SIGHUP, but nothing is changed: {}", fresh.error().text);
    }
    server_->keeper().say("READY=1");
  }

  void next_ping() {
    timer_.expires_after(watchdog_ / 2);
    timer_.async_wait([this](const boost::system::error_code& ec) {
      if (ec || stopping_) return;
      server_->keeper().say("WATCHDOG=1");
      next_ping();
    });
  }

  int argc_;
  const char* const* argv_;
  const Options& options_;  // that it was started with
  std::chrono::microseconds watchdog_;
  bool stopping_ = false;
  boost::asio::io_context io_{1};
  boost::asio::signal_set signals_{io_};
  boost::asio::steady_timer timer_{io_};
  std::unique_ptr<Server> server_;
};

}  // namespace

int serve(int argc, const char* const* argv, const Options& options) { return Service(argc, argv, options).run(); }

}  // namespace ringbuf::daemon
