// SPDX-License-Identifier: MIT
#include "session.hpp"

#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "base/seqpacket.hpp"

namespace ringbuf {

std::string default_socket() {
  const char* named = std::getenv("RINGBUFD_SOCKET");
  if (named && *named) return named;
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  if (::geteuid() != 0 && runtime && *runtime) return std::string(runtime) + "/ringbufd.sock";
  return "/run/ringbufd/ringbufd.sock";
}

Session::~Session() {
  std::lock_guard lock(mutex_);
  socket_.reset();
}

int Session::open() {
  std::lock_guard lock(mutex_);
  return open_locked();
}

int Session::open_locked() {
  auto fd = connect_to(path_);
  if (!fd) {
    char reason[128];
    return api_fail(fd.error().err, "no ringbufd at " + path_ + ": " + ::strerror_r(fd.error().err, reason, sizeof reason));
  }
  socket_ = std::move(*fd);
  ++connection_;
  const ringbuf_hello_req hello{RINGBUF_WIRE_VERSION, 0};
  Reply reply;
  if (int r = exchange(RINGBUF_HELLO, std::as_bytes(std::span(&hello, 1)), -1, &reply); r < 0) {
    socket_.reset();
    return r;
  }
  auto answer = wire::decode_as<ringbuf_hello_reply>(reply.body);
  if (!answer) return api_fail(answer.error());
  return 0;
}

int Session::call_bytes(ringbuf_cmd cmd, wire::Bytes body, Fds fds, Reply* ret_reply) {
  std::lock_guard lock(mutex_);
  if (!socket_)
    if (int r = open_locked(); r < 0) {
      if (r != -ENOENT) return r;
      errno = ECONNREFUSED;  // ENOENT says of a request that what it names is not there
      return -ECONNREFUSED;
    }
  return exchange(cmd, body, fds, ret_reply);
}

void Session::detach(std::uint32_t attachment, std::uint64_t connection) {
  std::lock_guard lock(mutex_);
  if (!socket_ || connection_ != connection) return;
  const ringbuf_detach_req body{attachment, 0};
  exchange(RINGBUF_DETACH, std::as_bytes(std::span(&body, 1)), -1, nullptr);
}

// Detaches what a reply to ATTACH would have given us.
void Session::give_back(ringbuf_cmd cmd, const Frame& frame) {
  const auto message = wire::decode(frame.bytes());
  if (cmd != RINGBUF_ATTACH || !message) return;
  const auto reply = wire::decode_as<ringbuf_attach_reply>(message->body);
  if (!reply) return;
  const ringbuf_detach_req body{reply->attachment, 0};
  exchange(RINGBUF_DETACH, std::as_bytes(std::span(&body, 1)), -1, nullptr);
}

int Session::exchange(ringbuf_cmd cmd, wire::Bytes body, Fds fds, Reply* ret_reply) {
  ringbuf_wire_hdr hdr{};
  hdr.cmd = static_cast<std::uint16_t>(cmd);
  hdr.seq = ++seq_;
  const auto message = wire::encode(hdr, body);
  auto frame = std::make_unique<Frame>();  // before anything is sent: a reply must not stay unread for want of memory
  auto sent = send_frame(socket_.get(), message, fds.all());
  if (!sent && sent.error().err != EPIPE) return api_fail(sent.error());
  // After EPIPE the daemon's last word may still be there to read.
  auto received = recv_frame(socket_.get(), *frame);
  if (!received && received.error().err == EMFILE) {  // the reply came, its descriptors could not
    give_back(cmd, *frame);
    return api_fail(received.error());
  }
  if (!received || !*received) {
    socket_.reset();
    return received ? api_fail(ECONNRESET, "the daemon at " + path_ + " closed the connection") : api_fail(received.error());
  }
  auto message_in = wire::decode(frame->bytes());
  if (!message_in) {
    socket_.reset();
    return api_fail(message_in.error());
  }
  const ringbuf_wire_hdr& answer = message_in->hdr;
  if (answer.err != 0 && answer.err < 4096)
    return api_fail(static_cast<int>(answer.err),
                    {reinterpret_cast<const char*>(message_in->body.data()), message_in->body.size()});
  if (answer.seq != hdr.seq || answer.cmd != hdr.cmd) {
    socket_.reset();
    return api_fail(EPROTO, "the daemon answered another request");
  }
  if (ret_reply) {
    ret_reply->connection = connection_;
    ret_reply->body.assign(message_in->body.begin(), message_in->body.end());
    ret_reply->fds = std::move(frame->fds);
  }
  return 0;
}

}  // namespace ringbuf

using namespace ringbuf;

int ringbuf_connect(const char* socket_path, ringbuf_session** ret_session) {
  if (!ret_session) return api_fail(EINVAL, "ret_session is NULL");
  return guarded([&] {
    auto session = std::make_shared<Session>(socket_path ? std::string(socket_path) : default_socket());
    if (int r = session->open(); r < 0) return r;
    *ret_session = new ringbuf_session{std::move(session)};
    return 0;
  });
}

int ringbuf_default_socket(char* buf, size_t size) {
  return guarded([&] {
    const std::string path = default_socket();
    if (!buf || path.size() >= size) return api_fail(ENAMETOOLONG, "the buffer is too small for the socket's path");
    std::memcpy(buf, path.c_str(), path.size() + 1);
    return static_cast<int>(path.size());
  });
}

void ringbuf_session_free(ringbuf_session* session) { delete session; }
