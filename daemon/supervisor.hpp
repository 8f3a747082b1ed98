// SPDX-License-Identifier: MIT
// `ringbufd --supervise`: a small parent that starts the daemon, keeps its descriptors while it is dead and starts it again. It
// knows nothing of maps: names and descriptors come by the keeper's protocol and go to the next daemon by LISTEN_FDS.
#pragma once

#include "daemon/options.hpp"

namespace ringbuf::daemon {

// Until SIGTERM or SIGINT, or the first daemon cannot serve. The exit status.
int supervise(int argc, const char* const* argv, const Options& options);

}  // namespace ringbuf::daemon
