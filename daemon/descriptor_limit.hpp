// SPDX-License-Identifier: MIT
// RLIMIT_NOFILE: enough for what the limits allow clients to make us hold.
#pragma once

#include <sys/resource.h>

#include "daemon/policy.hpp"

namespace ringbuf::daemon {

constexpr rlim_t kMostToClose = 1024;  // that clients can put off being closed

rlim_t descriptors_needed(const Limits& limits);

// To the hard limit, or beyond it if that is not enough and we may. False: it is still too low.
bool raise_descriptor_limit(rlim_t needed);

}  // namespace ringbuf::daemon
