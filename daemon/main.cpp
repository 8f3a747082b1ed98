// SPDX-License-Identifier: MIT
// ringbufd(8): from the command line to the exit status; everything else is in the library.
#include <fcntl.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <csignal>
#include <cstdio>
#include <exception>

#include "daemon/options.hpp"
#include "daemon/service.hpp"
#include "daemon/supervisor.hpp"

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
    spdlog::set_default_logger(spdlog::stderr_color_st(options->supervise ? "ringbufd --supervise" : "ringbufd"));
    spdlog::set_level(spdlog::level::from_str(options->log_level));
    std::signal(SIGPIPE, SIG_IGN);
    return options->supervise ? supervise(argc, argv, *options) : serve(argc, argv, *options);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "ringbufd: %s\n", e.what());
    return 1;
  }
}
