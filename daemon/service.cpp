// SPDX-License-Identifier: MIT
#include "daemon/service.hpp"

#include <spdlog/spdlog.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <csignal>
#include <cstring>
#include <ctime>

#include "daemon/inherited.hpp"
#include "daemon/server.hpp"
#include "daemon/standing_wait.hpp"

namespace ringbuf::daemon {
namespace {

class Service {
 public:
  Service(int argc, const char* const* argv, const Options& options)
      : argc_(argc), argv_(argv), options_(options), watchdog_(watchdog_from_environment()) {}

  int run() {
    // Not a handler: a signal is there until it has been read, and a second one cannot end a daemon that is stopping.
    sigset_t ours;
    ::sigemptyset(&ours);
    for (const int signal : {SIGTERM, SIGINT, SIGHUP}) ::sigaddset(&ours, signal);
    ::sigprocmask(SIG_BLOCK, &ours, nullptr);
    UniqueFd signals(::signalfd(-1, &ours, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!signals) {
      spdlog::critical("cannot watch for signals: {}", std::strerror(errno));
      return 1;
    }
    signals_.start(std::move(signals), [this] { on_signal(); });  // what may fail is done before READY=1
    auto server = Server::start(io_, options_.server, keeper_from_environment(), Inherited::from_environment());
    if (!server) {
      spdlog::critical(server.error().text);
      return 1;
    }
    server_ = std::move(*server);
    if (watchdog_.count() > 0) next_ping();
    io_.run();
    return 0;
  }

 private:
  void on_signal() {
    signalfd_siginfo info;
    if (::read(signals_.fd(), &info, sizeof info) != static_cast<ssize_t>(sizeof info)) return;
    if (info.ssi_signo == SIGHUP) return reload();
    spdlog::info("{}, stopping", info.ssi_signo == SIGTERM ? "SIGTERM" : "SIGINT");
    stopping_ = true;
    signals_.close();
    timer_.cancel();
    server_->stop();
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
  StandingWait signals_{io_};
  boost::asio::steady_timer timer_{io_};
  std::unique_ptr<Server> server_;
};

}  // namespace

int serve(int argc, const char* const* argv, const Options& options) { return Service(argc, argv, options).run(); }

}  // namespace ringbuf::daemon
