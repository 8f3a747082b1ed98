// SPDX-License-Identifier: MIT
// A client of the daemon: a request, its reply. Any thread; requests take turns. The connection may break, because the daemon was
// killed or restarted: the next request opens another one, and with the lease all attachments go on, if the daemon that answers
// has taken over from the one before. After fork the child's first request makes it a client of its own.
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
  std::uint64_t lease = 0;  // the session's how many-th lease it came under
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
  explicit Session(std::string path) : path_(std::move(path)) { message_.reserve(RINGBUF_WIRE_MAX); }
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
          std::vector<UniqueFd>* ret_fds = nullptr, std::uint64_t* ret_lease = nullptr) {
    Reply reply;
    if (int r = call(cmd, body, fds, &reply); r < 0) return r;
    auto decoded = wire::decode_as<Rep>(reply.body);
    if (!decoded) return api_fail(decoded.error());
    if (reply.fds.size() != n_fds) return api_fail(EPROTO, "the daemon answered with the wrong number of descriptors");
    *ret_body = *decoded;
    if (ret_fds) *ret_fds = std::move(reply.fds);
    if (ret_lease) *ret_lease = reply.lease;
    return 0;
  }
  // The number for an ATTACH: ours to choose, so that we can name an attachment whose reply was lost.
  std::uint32_t new_attachment();
  // Gives back what it got under this number and lease; with that lease it has gone already.
  void detach(std::uint32_t attachment, std::uint64_t lease) noexcept;

 private:
  // What has become of a request: it was answered; its connection broke before or after it was sent; it could not be sent; its
  // answer did not come, or could not be taken.
  enum class Lost { No, Unsent, Unanswered, NotSent, NoAnswer };
  static bool is_broken(Lost lost) { return lost == Lost::Unsent || lost == Lost::Unanswered; }

  int call_bytes(ringbuf_cmd cmd, wire::Bytes body, Fds fds, Reply* ret_reply);
  int call_locked(ringbuf_cmd cmd, wire::Bytes body, Fds fds, Reply* ret_reply);
  int connect(Lost* ret_lost);
  int ready(Lost* ret_lost);
  int exchange(ringbuf_cmd cmd, wire::Bytes body, Fds fds, Reply* ret_reply, Lost* ret_lost);
  int no_answer(Lost* ret_lost);

  const std::string path_;
  UniqueFd socket_;                 // guarded by mutex_, as all of this
  UniqueFd lease_;                  // nobody else may have it
  std::uint64_t lease_number_ = 0;  // how many we had
  std::uint32_t attachments_ = 0;   // how many we asked for
  std::uint32_t attached_ = 0;      // how many we have heard of and still have
  // Attachments that the daemon may still think are ours: we have not heard of them, or it not that we gave them back. Given back
  // before anything else is asked.
  std::vector<std::uint32_t> owed_;
  std::uint32_t seq_ = 0;
  // A request and its reply. Here, so that neither detaching nor a reply that has come needs memory.
  std::vector<std::byte> message_;
  Frame frame_;
  // A child closes its copies, so that the daemon notices when the parent goes.
  ForkMutex mutex_{[this] {
    socket_.reset();
    lease_.reset();
  }};
};

std::string default_socket();

}  // namespace ringbuf

struct ringbuf_session {
  std::shared_ptr<ringbuf::Session> impl;
};
