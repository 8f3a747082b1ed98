// SPDX-License-Identifier: MIT
// What stands for a map (token) or a client (lease) in other processes: one end of a socketpair, known by its cookie, which is
// unique, survives every way of passing it on and cannot be set. Nobody ever reads from it: our end is shut down for reading, so
// that nothing can hide in its queue, a token least of all. When the last copy of their end is closed, ours hangs up.
#pragma once

#include <sys/socket.h>

#include <cstdint>

#include "base/result.hpp"
#include "base/unique_fd.hpp"

namespace ringbuf::daemon {

inline Result<std::uint64_t> cookie_of(int fd) {
  std::uint64_t cookie = 0;
  socklen_t size = sizeof cookie;
  if (::getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size) < 0) return fail_errno("read a socket's cookie");
  return cookie;
}

struct TokenSocket {
  UniqueFd ours, theirs;
  std::uint64_t cookie;  // of their end
};

inline Result<TokenSocket> make_token_socket() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0) return fail_errno("create a token");
  TokenSocket made{UniqueFd(ends[0]), UniqueFd(ends[1]), 0};
  const auto cookie = cookie_of(made.theirs.get());
  if (!cookie) return tl::unexpected(cookie.error());
  made.cookie = *cookie;
  if (::shutdown(made.ours.get(), SHUT_RD) < 0) return fail_errno("shut down a token");
  return made;
}

}  // namespace ringbuf::daemon
