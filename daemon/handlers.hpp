// SPDX-License-Identifier: MIT
// The commands: one function each, which validates a request, acts and answers. They know nothing of sockets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "base/unique_fd.hpp"
#include "daemon/map_table.hpp"
#include "wire/codec.hpp"

namespace ringbuf::daemon {

// What the daemon knows of one session's client.
struct Client {
  Peer peer;
  bool greeted = false;
  std::map<std::uint32_t, std::unique_ptr<Attachment>> attachments;
  std::uint32_t last_attachment = 0;
};

struct Payload {
  std::vector<std::byte> body;
  std::vector<UniqueFd> fds;
};

// `fds` came with the message and are closed by the caller. May throw bad_alloc; then nothing has changed.
Answer<Payload> handle(MapTable& table, Client& client, const wire::Message& message, std::span<const UniqueFd> fds);

}  // namespace ringbuf::daemon
