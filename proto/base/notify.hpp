// SPDX-License-Identifier: MIT
// The two descriptors of a wakeup: a producer writes an eventfd, a consumer sleeps on an epoll that has it, edge-triggered, so
// that nobody has to read the eventfd and no waiter takes another's wakeup.
#pragma once

#include "base/result.hpp"
#include "base/unique_fd.hpp"

namespace ringbuf {

Result<UniqueFd> make_eventfd();  // non-blocking
Result<UniqueFd> make_epoll();
Result<void> epoll_add_edge(int epoll_fd, int event_fd);

}  // namespace ringbuf
