// SPDX-License-Identifier: MIT
#include "session.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <new>
#include <utility>

#include "base/seqpacket.hpp"

namespace ringbuf {
namespace {

constexpr int kTries = 10;  // of one request: a daemon that is killed that often while it is answered is not to be had

// How long a request waits for a daemon that does not answer, because it was stopped or hangs.
int timeout_ms() {
  const char* named = std::getenv("RINGBUFD_TIMEOUT_MS");
  const int ms = named ? std::atoi(named) : 0;
  return ms > 0 ? ms : 30'000;
}

std::uint64_t pid_namespace() {
  struct stat st;
  return ::stat("/proc/self/ns/pid", &st) == 0 ? st.st_ino : 0;
}

// What may be done twice: tokens whose reply was lost are closed with it, and an attachment with the same number is made anew.
bool is_repeatable(ringbuf_cmd cmd) {
  switch (cmd) {
    case RINGBUF_OBJ_PIN:
    case RINGBUF_OBJ_UNPIN:
    case RINGBUF_MAP_UPDATE_ELEM:
    case RINGBUF_MAP_DELETE_ELEM: return false;
    default: return true;
  }
}

}  // namespace

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
  lease_.reset();
}

int Session::open() {
  std::lock_guard lock(mutex_);
  for (int tries = 1;; ++tries) {
    Lost lost = Lost::No;
    if (int r = ready(&lost); r >= 0 || !is_broken(lost) || tries == kTries) return r;
  }
}

int Session::connect(Lost* ret_lost) {
  auto fd = connect_to(path_, timeout_ms());
  if (!fd) {
    const int err = fd.error().err == EAGAIN ? ETIMEDOUT : fd.error().err;
    const bool none = err == ENOENT || err == ECONNREFUSED;
    char reason[128];
    return api_fail(err, (none ? "no ringbufd at " : "cannot connect to ringbufd at ") + path_ + ": " +
                             ::strerror_r(err, reason, sizeof reason));
  }
  socket_ = std::move(*fd);
  const ringbuf_hello_req hello{RINGBUF_WIRE_VERSION, 0, pid_namespace()};
  Reply reply;
  if (int r = exchange(RINGBUF_HELLO, std::as_bytes(std::span(&hello, 1)), lease_.get(), &reply, ret_lost); r < 0) {
    socket_.reset();
    return r;
  }
  auto answer = wire::decode_as<ringbuf_hello_reply>(reply.body);
  if (!answer || reply.fds.size() != (answer->resumed ? 0 : 1)) {
    socket_.reset();
    return answer ? api_fail(EPROTO, "the daemon answered HELLO with the wrong number of descriptors") : api_fail(answer.error());
  }
  if (!answer->resumed) {
    lease_ = std::move(reply.fds[0]);
    ++lease_number_;
    attached_ = 0;
    owed_.clear();
  }
  return 0;
}

// A connection, and nothing owed.
int Session::ready(Lost* ret_lost) {
  if (!socket_)
    if (int r = connect(ret_lost); r < 0) return r;
  for (; !owed_.empty(); owed_.pop_back()) {  // any answer, also ENOENT, settles it
    const ringbuf_detach_req body{owed_.back(), 0};
    const int r = exchange(RINGBUF_DETACH, std::as_bytes(std::span(&body, 1)), -1, nullptr, ret_lost);
    if (*ret_lost != Lost::No) return r;
  }
  return 0;
}

int Session::call_bytes(ringbuf_cmd cmd, wire::Bytes body, Fds fds, Reply* ret_reply) {
  std::lock_guard lock(mutex_);
  return call_locked(cmd, body, fds, ret_reply);
}

// A request whose connection broke is sent again: surely if it has not been sent, else if it does no harm twice.
int Session::call_locked(ringbuf_cmd cmd, wire::Bytes body, Fds fds, Reply* ret_reply) {
  if (cmd == RINGBUF_ATTACH) owed_.reserve(owed_.size() + attached_ + 1);
  for (int tries = 1;; ++tries) {
    Lost lost = Lost::No;
    int r = ready(&lost);
    if (r < 0) {
      if (is_broken(lost) && tries < kTries) continue;  // nothing of it was sent
      if (r != -ENOENT) return r;
      errno = ECONNREFUSED;  // ENOENT says of a request that what it names is not there
      return -ECONNREFUSED;
    }
    r = exchange(cmd, body, fds, ret_reply, &lost);
    const bool again = lost == Lost::Unsent || (lost == Lost::Unanswered && is_repeatable(cmd));
    if (again && tries < kTries) continue;
    if (cmd == RINGBUF_ATTACH) {
      if (r == 0) ++attached_;
      else if (lost == Lost::Unanswered || lost == Lost::NoAnswer)
        std::memcpy(&owed_.emplace_back(), body.data() + offsetof(ringbuf_attach_req, attachment), sizeof owed_[0]);
    }
    return r;
  }
}

std::uint32_t Session::new_attachment() {
  std::lock_guard lock(mutex_);
  if (++attachments_ == 0) ++attachments_;
  return attachments_;
}

void Session::detach(std::uint32_t attachment, std::uint64_t lease) noexcept {
  std::lock_guard lock(mutex_);
  if (!lease_ || lease_number_ != lease) return;
  --attached_;
  owed_.push_back(attachment);  // room was made when it was attached
  try {
    Lost lost;
    int tries = 0;
    do lost = Lost::No, ready(&lost);
    while (is_broken(lost) && ++tries < kTries);
  } catch (const std::bad_alloc&) {  // for the sentence that nobody would have read
  }
}

// The reply may still come, so this connection is of no use any more.
int Session::no_answer(Lost* ret_lost) {
  *ret_lost = Lost::NoAnswer;
  socket_.reset();
  return api_fail(ETIMEDOUT, "the daemon at " + path_ + " does not answer; is it stopped?");
}

int Session::exchange(ringbuf_cmd cmd, wire::Bytes body, Fds fds, Reply* ret_reply, Lost* ret_lost) {
  ringbuf_wire_hdr hdr{};
  hdr.cmd = static_cast<std::uint16_t>(cmd);
  hdr.seq = ++seq_;
  // Before anything is sent: a reply must neither stay unread nor be lost for want of memory.
  wire::encode_into(message_, hdr, body);
  if (ret_reply) {
    ret_reply->body.reserve(RINGBUF_WIRE_MAX);
    ret_reply->fds.reserve(RINGBUF_WIRE_MAX_FDS);
  }
  auto sent = send_frame(socket_.get(), message_, fds.all());
  const bool broken = !sent && (sent.error().err == EPIPE || sent.error().err == ECONNRESET);
  if (!sent && sent.error().err == EAGAIN) return no_answer(ret_lost);
  if (!sent && !broken) {
    *ret_lost = Lost::NotSent;
    return api_fail(sent.error());
  }
  // After EPIPE the daemon's last word may still be there to read.
  auto received = recv_frame(socket_.get(), frame_);
  if (!received && received.error().err == EMFILE) {  // the reply came, its descriptors could not
    *ret_lost = Lost::NoAnswer;
    return api_fail(received.error());
  }
  if (!received && received.error().err == EAGAIN) return no_answer(ret_lost);
  if (!received || !*received) {
    socket_.reset();
    *ret_lost = broken ? Lost::Unsent : Lost::Unanswered;
    if (received || received.error().err == ECONNRESET)
      return api_fail(ECONNRESET, std::string("the daemon at ") + path_ + " went away" +
                                      (broken || is_repeatable(cmd) ? "" : "; the request may or may not have been done"));
    return api_fail(received.error());
  }
  auto message_in = wire::decode(frame_.bytes());
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
    ret_reply->lease = lease_number_;
    ret_reply->body.assign(message_in->body.begin(), message_in->body.end());
    ret_reply->fds.assign(std::move_iterator(frame_.fds.begin()), std::move_iterator(frame_.fds.end()));
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
