// SPDX-License-Identifier: MIT
// One connection of a client: a request is read, answered, and only then the next one is read. At most one reply waits for a
// client that does not read; such a client costs nobody else anything.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "base/seqpacket.hpp"
#include "daemon/handlers.hpp"
#include "daemon/lanes.hpp"

namespace ringbuf::daemon {

class Session : public std::enable_shared_from_this<Session> {
 public:
  // `on_close` is called once, when the session has ended by itself. Throws what Asio throws.
  Session(boost::asio::io_context& io, ForeignFd socket, Peer peer, Charge charge, Core& core,
          std::function<void(Session*)> on_close);
  Session(const Session&) = delete;
  ~Session() { close(); }

  void read_next();
  void close();  // idempotent; does not call on_close
  uid_t uid() const { return caller_.peer.uid; }
  // It was let in because a client of its uid may come back by it.
  bool is_uncounted() const { return !caller_.client && !caller_.charge; }
  bool has_hung_up();  // and that has not been seen yet

 private:
  struct Reply {
    std::vector<std::byte> frame;
    bool last = false;    // the session ends when it is sent
    ForeignFds fds = {};  // to be sent
  };

  void on_readable();
  std::optional<Reply> take_request(std::vector<UniqueFd>& fds);  // none: there is none, or nobody to answer
  Reply answer(const Frame& frame, std::span<const UniqueFd> fds);
  Reply refusal(const ringbuf_wire_hdr& hdr, const Refusal& why);
  void answer_with(Reply reply, ForeignFds received);
  void send(Reply reply, ForeignFds received = {});
  void end();
  void warn(const std::string& text) { core_.log.write(spdlog::level::warn, caller_.peer.uid, text); }
  template <class F>
  void guarded(F&& f) noexcept;

  ForeignFd connection_;
  boost::asio::posix::stream_descriptor socket_;  // waits for it
  Caller caller_;
  Core& core_;
  const std::shared_ptr<Lane> lane_;
  std::function<void(Session*)> on_close_;
};

}  // namespace ringbuf::daemon
