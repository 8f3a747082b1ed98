// SPDX-License-Identifier: MIT
#include "base/notify.hpp"

#include <sys/epoll.h>
#include <sys/eventfd.h>

namespace ringbuf {

Result<UniqueFd> make_eventfd() {
  UniqueFd fd(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!fd) return fail_errno("create an eventfd");
  return fd;
}

Result<UniqueFd> make_epoll() {
  UniqueFd fd(::epoll_create1(EPOLL_CLOEXEC));
  if (!fd) return fail_errno("create an epoll descriptor");
  return fd;
}

Result<void> epoll_add_edge(int epoll_fd, int event_fd) {
  epoll_event e{};
  e.events = EPOLLIN | EPOLLET;
  e.data.fd = event_fd;
  if (::epoll_ctl(epoll_fd, EPOLL_CTL_ADD, event_fd, &e) < 0) return fail_errno("add an eventfd to an epoll descriptor");
  return {};
}

}  // namespace ringbuf
