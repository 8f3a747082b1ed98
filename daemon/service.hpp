// SPDX-License-Identifier: MIT
// The daemon as a process: signals, reload, watchdog; from its options to its exit status.
#pragma once

#include "daemon/options.hpp"

namespace ringbuf::daemon {

// Until SIGTERM or SIGINT. SIGHUP reads the options that `argc` and `argv` lead to again. The exit status.
int serve(int argc, const char* const* argv, const Options& options);

}  // namespace ringbuf::daemon
