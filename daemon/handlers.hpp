// SPDX-License-Identifier: MIT
// The commands: one function each, which validates a request, acts and answers. They know nothing of sockets.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/unique_fd.hpp"
#include "daemon/client.hpp"
#include "daemon/client_log.hpp"
#include "daemon/lanes.hpp"
#include "daemon/map_table.hpp"
#include "daemon/reaper.hpp"
#include "wire/codec.hpp"

namespace ringbuf::daemon {

// What the daemon is made of. Thread of the io_context.
struct Core {
  Keeper& keeper;
  ClientLog log;
  Lanes lanes;
  Waits waits;
  Quota quota;
  std::unique_ptr<State> state;
  MapTable maps;
  Reaper reaper;
  Clients clients;

  Core(boost::asio::io_context& io, const Limits& limits, std::unique_ptr<State> s, UniqueFd token_hangups,
       UniqueFd client_hangups)
      : keeper(s->keeper()),
        lanes(io),
        waits(io, lanes, log),
        quota(limits),
        state(std::move(s)),
        maps(quota, log, *state, waits, std::move(token_hangups)),
        reaper(io, log),
        clients(quota, *state, reaper, std::move(client_hangups)) {}
};

// Who sends the requests of one connection.
struct Caller {
  Peer peer;
  int socket;
  Charge charge;                   // of the connection, until there is a client
  std::shared_ptr<Client> client;  // null: it has not said HELLO
  std::function<void()> hang_up;   // ends the connection
};

struct Payload {
  std::vector<std::byte> body;
  std::vector<UniqueFd> fds;
};

// `fds` came with the message and are closed by the caller. May throw bad_alloc; then nothing has changed.
Answer<Payload> handle(Core& core, Caller& caller, const wire::Message& message, std::span<const UniqueFd> fds);

}  // namespace ringbuf::daemon
