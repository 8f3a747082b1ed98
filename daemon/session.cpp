// SPDX-License-Identifier: MIT
#include "daemon/session.hpp"

#include <poll.h>
#include <spdlog/spdlog.h>

#include <array>
#include <boost/asio/error.hpp>
#include <iterator>
#include <new>
#include <system_error>

namespace ringbuf::daemon {

using boost::asio::posix::descriptor_base;

Session::Session(boost::asio::io_context& io, ForeignFd socket, Peer peer, Charge charge, Core& core,
                 std::function<void(Session*)> on_close)
    : connection_(std::move(socket)),
      socket_(io),
      caller_{std::move(peer), connection_.get(), std::move(charge), nullptr, [this] { end(); }},
      core_(core),
      lane_(core.lanes.closing(caller_.peer.uid)),
      on_close_(std::move(on_close)) {
  socket_.assign(connection_.get());
  spdlog::debug("session opened: pid {}, uid {}, gid {}", caller_.peer.pid, caller_.peer.uid, caller_.peer.gid);
}

bool Session::has_hung_up() {
  pollfd p{socket_.native_handle(), POLLRDHUP, 0};
  return caller_.client && ::poll(&p, 1, 0) > 0;
}

void Session::close() {
  if (caller_.client) caller_.client->on_end = nullptr;  // ours: who resumes a client ends its session first
  caller_.client.reset();
  if (!socket_.is_open()) return;
  socket_.release();
  connection_.hang_up();
  spdlog::debug("session closed: pid {}, uid {}", caller_.peer.pid, caller_.peer.uid);
}

void Session::end() {
  close();
  if (auto on_close = std::exchange(on_close_, nullptr)) on_close(this);
}

// Whatever goes wrong in a handler ends this session and nothing else.
template <class F>
void Session::guarded(F&& f) noexcept {
  try {
    try {
      f();
    } catch (const std::exception& e) {
      warn(fmt::format("session of pid {}, uid {} ended: {}", caller_.peer.pid, caller_.peer.uid, e.what()));
      end();
    }
  } catch (...) {  // not even that could be said
    end();
  }
}

void Session::read_next() {
  if (!lane_->keeps_up()) {
    lane_->when_it_keeps_up([weak = weak_from_this()] {
      const auto self = weak.lock();
      if (self && self->socket_.is_open()) self->guarded([&] { self->read_next(); });
    });
    return;
  }
  socket_.async_wait(descriptor_base::wait_read, [weak = weak_from_this()](const boost::system::error_code& ec) {
    const auto self = weak.lock();
    if (!self || !self->socket_.is_open()) return;
    if (ec) return self->end();  // nobody would ever look at it again
    self->guarded([&] { self->on_readable(); });
  });
}

void Session::on_readable() {
  // Others of this uid may have sent much since the wait began, and all their sessions may have become readable at once.
  if (!lane_->keeps_up()) return read_next();
  ForeignFds received(lane_);  // whatever becomes of this session
  received.all().reserve(Frame::kMostFds + RINGBUF_WIRE_MAX_FDS);
  if (auto reply = take_request(received.all())) answer_with(std::move(*reply), std::move(received));
}

std::optional<Session::Reply> Session::take_request(std::vector<UniqueFd>& fds) {
  Frame frame;
  std::fill_n(frame.buffer.begin(), sizeof(ringbuf_wire_hdr), std::byte{0});
  frame.refuse_fds = [&](std::vector<UniqueFd> refused) { std::move(refused.begin(), refused.end(), std::back_inserter(fds)); };
  const auto got = recv_frame(socket_.native_handle(), frame, MSG_DONTWAIT);
  if (got && *got) {
    std::move(frame.fds.begin(), frame.fds.end(), std::back_inserter(fds));
    return answer(frame, fds);
  }
  const int err = got ? 0 : got.error().err;
  if (err == EAGAIN) {
    read_next();
    return {};
  }
  if (err != EMSGSIZE && err != EPROTO && err != EMFILE) {
    end();  // the client has closed the connection, or it broke
    return {};
  }
  // The frame is lost, but its header tells which request to answer.
  ringbuf_wire_hdr hdr;
  std::memcpy(&hdr, frame.buffer.data(), sizeof hdr);
  if (err == EMSGSIZE)
    return refusal(hdr, {EMSGSIZE, fmt::format("the message is longer than {} bytes", RINGBUF_WIRE_MAX), true});
  if (err == EMFILE) return refusal(hdr, {EMFILE, "the daemon has no descriptors left; try again later", false});
  return refusal(hdr, {EPROTO, fmt::format("the message carries more than {} descriptors", RINGBUF_WIRE_MAX_FDS), true});
}

Session::Reply Session::answer(const Frame& frame, std::span<const UniqueFd> fds) {
  const auto message = wire::decode(frame.bytes());
  if (!message) {
    ringbuf_wire_hdr hdr{};
    std::memcpy(&hdr, frame.buffer.data(), std::min(sizeof hdr, frame.size));
    return refusal(hdr, {message.error().err, "the message is shorter than its header or a reserved field is not zero", true});
  }
  const ringbuf_wire_hdr& hdr = message->hdr;
  // A child that inherited the connection is another process, with a life of its own.
  if (!frame.sender || frame.sender->pid != caller_.peer.pid)
    return refusal(hdr, {EPERM, fmt::format("this session belongs to pid {}; open your own", caller_.peer.pid), false});
  try {
    Reply reply;
    reply.frame.reserve(RINGBUF_WIRE_MAX);  // now: what has been done must not be answered with ENOMEM
    reply.fds = ForeignFds(lane_);
    auto payload = handle(core_, caller_, *message, fds);
    if (!payload) return refusal(hdr, payload.error());
    spdlog::debug("{} of pid {} done", wire::command_name(hdr.cmd), caller_.peer.pid);
    wire::encode_into(reply.frame, {hdr.cmd, 0, hdr.seq, 0, 0}, payload->body);
    reply.fds.all() = std::move(payload->fds);
    return reply;
  } catch (const std::bad_alloc&) {
    return refusal(hdr, {ENOMEM, "the daemon has no memory left; try again", false});
  } catch (const std::system_error&) {
    return refusal(hdr, {EAGAIN, "the daemon cannot start a thread now; try again", false});
  }
}

Session::Reply Session::refusal(const ringbuf_wire_hdr& hdr, const Refusal& why) {
  const Peer& peer = caller_.peer;
  const char* command = wire::command_name(hdr.cmd);
  if (why.fatal) {
    warn(fmt::format("pid {}, uid {} broke the protocol ({}), its session ends: {}", peer.pid, peer.uid, command, why.text));
  } else if (why.err == EDQUOT || why.err == ENOSPC) {
    warn(fmt::format("{} of pid {}, uid {} refused: {}", command, peer.pid, peer.uid, why.text));
  } else {
    spdlog::debug("{} of pid {}, uid {} refused: {}", command, peer.pid, peer.uid, why.text);
  }
  return {wire::encode_error({hdr.cmd, 0, hdr.seq, 0, 0}, why.err, why.text), why.fatal};
}

// A reply waits until the keeper has been told of what it speaks of: what a client knows of outlives the daemon.
void Session::answer_with(Reply reply, ForeignFds received) {
  if (!core_.keeper.present()) return send(std::move(reply), std::move(received));
  if (!core_.keeper.all_sent()) received.reset_soon();  // it may take long
  // Handlers have to be copyable.
  auto kept = std::make_shared<std::pair<Reply, ForeignFds>>(std::move(reply), std::move(received));
  core_.keeper.when_sent([weak = weak_from_this(), kept] {
    if (const auto self = weak.lock()) self->guarded([&] { self->send(std::move(kept->first), std::move(kept->second)); });
  });
}

// What was received is closed with what is sent, and after that: the lane is waited for once, and not by this client.
void Session::send(Reply reply, ForeignFds received) {
  if (!socket_.is_open()) return;  // the client was found to be gone
  std::array<int, RINGBUF_WIRE_MAX_FDS> fds;
  const auto given = reply.fds.get();
  const std::size_t count = given.size();
  for (std::size_t i = 0; i < count; ++i) fds[i] = given[i].get();
  const auto sent = send_frame(socket_.native_handle(), reply.frame, std::span(fds).first(count), MSG_DONTWAIT);
  if (reply.last) return end();
  if (sent) {
    received.take(std::move(reply.fds));
    received.reset_soon();
    return read_next();
  }
  if (sent.error().err != EAGAIN) {
    if (sent.error().err != EPIPE && sent.error().err != ECONNRESET)
      warn(fmt::format("cannot answer pid {}, uid {}, its session ends: {}", caller_.peer.pid, caller_.peer.uid,
                       std::strerror(sent.error().err)));
    return end();
  }
  received.reset_soon();
  auto kept = std::make_shared<Reply>(std::move(reply));  // handlers have to be copyable
  socket_.async_wait(descriptor_base::wait_write, [weak = weak_from_this(), kept](const boost::system::error_code& ec) {
    const auto self = weak.lock();
    if (!self || !self->socket_.is_open()) return;
    if (ec) return self->end();
    self->guarded([&] { self->send(std::move(*kept)); });
  });
}

}  // namespace ringbuf::daemon
