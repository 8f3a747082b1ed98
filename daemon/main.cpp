// SPDX-License-Identifier: MIT
// ringbufd(8): options, signals and the exit status; everything else is in the library.
#include <fcntl.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <boost/asio/signal_set.hpp>
#include <csignal>
#include <cstdio>
#include <exception>

#include "daemon/options.hpp"
#include "daemon/server.hpp"

namespace {

// What is closed must not become the number of a socket or a lock that the log is then written to. False: it cannot be done.
bool keep_standard_descriptors() {
  for (int fd = 0; fd <= 2; ++fd)
    if (::fcntl(fd, F_GETFD) < 0 && ::open("/dev/null", O_RDWR) != fd) return false;
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace ringbuf::daemon;
  try {
    if (!keep_standard_descriptors()) return 1;
    const auto options = parse_options(argc, argv);
    if (!options) {
      const Leave& leave = options.error();
      if (leave.status == 0) std::fputs(leave.text.c_str(), stdout);
      else std::fprintf(stderr, "ringbufd: %s\n", leave.text.c_str());
      return leave.status;
    }
    spdlog::set_default_logger(spdlog::stderr_color_st("ringbufd"));
    spdlog::set_level(spdlog::level::from_str(options->log_level));
    std::signal(SIGPIPE, SIG_IGN);

    boost::asio::io_context io(1);
    boost::asio::signal_set signals(io, SIGTERM, SIGINT);
    auto server = Server::start(io, options->server, keeper_from_environment(), Inherited::from_environment());
    if (!server) {
      spdlog::critical(server.error().text);
      return 1;
    }
    signals.async_wait([&](const boost::system::error_code& ec, int signal) {
      if (ec) return;
      spdlog::info("{}, stopping", signal == SIGTERM ? "SIGTERM" : "SIGINT");
      (*server)->stop();
    });
    io.run();
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "ringbufd: %s\n", e.what());
    return 1;
  }
}
