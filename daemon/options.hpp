// SPDX-License-Identifier: MIT
// What the daemon is told: command line, then environment, then configuration file, then defaults.
#pragma once

#include <string>
#include <tl/expected.hpp>

#include "daemon/server.hpp"

namespace ringbuf::daemon {

struct Options {
  ServerConfig server;
  std::string log_level = "info";
  bool supervise = false;  // of the command line only
};

// There is nothing to serve: help was asked for (status 0, for stdout), or something is wrong (status 2, for stderr).
struct Leave {
  int status;
  std::string text;
};

tl::expected<Options, Leave> parse_options(int argc, const char* const* argv);

}  // namespace ringbuf::daemon
