// SPDX-License-Identifier: MIT
// SOCK_SEQPACKET over a Unix socket with descriptors and credentials: every received descriptor is CLOEXEC and owned, and a frame
// that was cut, or lost descriptors, is an error and not a frame. Any thread; one thread a direction.
#pragma once

#include <sys/socket.h>
#include <sys/types.h>

#include <array>
#include <cstddef>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "base/unique_fd.hpp"
#include "ringbuf/abi/wire.h"

namespace ringbuf {

struct Frame {
  std::array<std::byte, RINGBUF_WIRE_MAX> buffer;
  std::size_t size = 0;
  std::vector<UniqueFd> fds;
  std::optional<ucred> sender;  // with SO_PASSCRED
  // Takes the descriptors of a frame that is none; empty: they are closed, which may block.
  std::function<void(std::vector<UniqueFd>)> refuse_fds;

  // Has room for all that may come, so that receiving does not fail for want of memory.
  Frame() { fds.reserve(kMostFds); }
  static constexpr std::size_t kMostFds = 253;  // SCM_MAX_FD

  std::span<const std::byte> bytes() const { return {buffer.data(), size}; }
};

// Connections have SO_PASSCRED from the first on: since Linux 6.16 a message has no credentials if its connection had not when it
// was made. ENAMETOOLONG: a socket path has at most 107 bytes.
Result<UniqueFd> listen_at(const std::string& path, unsigned mode);  // non-blocking; the path must not exist
// Blocking; with a timeout, connecting and every later send and receive fails with EAGAIN after so long. 0: none.
Result<UniqueFd> connect_to(const std::string& path, int timeout_ms = 0);

// Whole or not at all. EAGAIN: the peer does not read (only with MSG_DONTWAIT in `flags`). Never raises SIGPIPE.
Result<void> send_frame(int fd, std::span<const std::byte> bytes, std::span<const int> fds, int flags = 0);

// false: the peer has closed. EAGAIN. A frame was lost: EMSGSIZE: longer than a frame may be; EPROTO: more descriptors than a
// frame may carry; EMFILE: this process has no descriptors left for those that came (the bytes are there).
Result<bool> recv_frame(int fd, Frame& frame, int flags = 0);

// What to do before closing a connection, so that the peer still reads what it was sent last: closing a socket with unread
// messages in its queue resets the connection instead. False: some are left, with descriptors. REQUIRES: SO_PASSCRED.
bool hang_up(int fd);

}  // namespace ringbuf
