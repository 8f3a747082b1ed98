// SPDX-License-Identifier: MIT
// SIGINT and SIGTERM end a command at the next record or sleep, with its summary and its output intact.
#pragma once

namespace ringbufctl {

// Blocking calls return EINTR on SIGINT and SIGTERM; a closed pipe is EPIPE, not a signal.
void catch_signals();

// How often a person or a service manager asked us to stop. Twice means: do not even finish writing.
int stop_requests();

}  // namespace ringbufctl
