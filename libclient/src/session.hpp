// SPDX-License-Identifier: MIT
// One connection with the daemon: a request, its reply. Any thread; requests take turns. After fork the child's first request
// opens a connection of its own.
#pragma once

#include <sys/types.h>

#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/seqpacket.hpp"
#include "base/unique_fd.hpp"
#include "error.hpp"
#include "fork_mutex.hpp"
#include "ringbuf/ringbuf.h"
#include "wire/codec.hpp"

namespace ringbuf {

struct Reply {
  std::uint64_t connection = 0;  // the session's how many-th connection answered
  std::vector<std::byte> body;
  std::vector<UniqueFd> fds;
};

// The descriptors that go with a request: none, one or two.
struct Fds {
  int fd[2];
  Fds(int first, int second = -1) : fd{first, second} {}  // NOLINT: one is passed as it is
  std::span<const int> all() const { return {fd, static_cast<std::size_t>(fd[0] < 0 ? 0 : fd[1] < 0 ? 1 : 2)}; }
};

class Session {
 public:
  explicit Session(std::string path) : path_(std::move(path)) {}
  ~Session();

  // Connects and greets. 0 or as api_fail.
  int open();

  // Sends one request and waits for its reply. 0 or as api_fail with the daemon's own sentence. ret_reply may be null.
  template <class Req>
  int call(ringbuf_cmd cmd, const Req& body, Fds fds, Reply* ret_reply) {
    return call_bytes(cmd, std::as_bytes(std::span(&body, 1)), fds, ret_reply);
  }
  // The same with the reply's struct decoded; ret_fds = how many descriptors it must have.
  template <class Rep, class Req>
  int ask(ringbuf_cmd cmd, const Req& body, Fds fds, Rep* ret_body, std::size_t n_fds = 0,
          std::vector<UniqueFd>* ret_fds = nullptr, std::uint64_t* ret_connection = nullptr) {
    Reply reply;
    if (int r = call(cmd, body, fds, &reply); r < 0) return r;
    auto decoded = wire::decode_as<Rep>(reply.body);
    if (!decoded) return api_fail(decoded.error());
    if (reply.fds.size() != n_fds) return api_fail(EPROTO, "the daemon answered with the wrong number of descriptors");
    *ret_body = *decoded;
    if (ret_fds) *ret_fds = std::move(reply.fds);
    if (ret_connection) *ret_connection = reply.connection;
    return 0;
  }
  // Gives back what `connection` got under this number; with that connection it has gone already.
  void detach(std::uint32_t attachment, std::uint64_t connection);

 private:
  int call_bytes(ringbuf_cmd cmd, wire::Bytes body, Fds fds, Reply* ret_reply);
  int open_locked();
  void give_back(ringbuf_cmd cmd, const Frame& frame);
  int exchange(ringbuf_cmd cmd, wire::Bytes body, Fds fds, Reply* ret_reply);

  const std::string path_;
  UniqueFd socket_;               // guarded by mutex_
  std::uint64_t connection_ = 0;  // guarded by mutex_
  std::uint32_t seq_ = 0;         // guarded by mutex_
  // A child closes its copy of the socket, so that the daemon notices when the parent goes.
  ForkMutex mutex_{[this] { socket_.reset(); }};
};

std::string default_socket();

}  // namespace ringbuf

struct ringbuf_session {
  std::shared_ptr<ringbuf::Session> impl;
};
