// SPDX-License-Identifier: MIT
#include "base/seqpacket.hpp"

#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>

#include <cstring>

namespace ringbuf {
namespace {

Result<sockaddr_un> address(const std::string& path) {
  sockaddr_un a{};
  a.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof a.sun_path) return fail(path.empty() ? ENOENT : ENAMETOOLONG, "use the socket path");
  std::memcpy(a.sun_path, path.data(), path.size());
  return a;
}

}  // namespace

Result<UniqueFd> listen_at(const std::string& path, unsigned mode) {
  auto a = address(path);
  if (!a) return tl::unexpected(a.error());
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return fail_errno("create the socket");
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&*a), sizeof *a) < 0) return fail_errno("bind the socket");
  if (::chmod(path.c_str(), mode) < 0) return fail_errno("set the socket's mode");
  const int on = 1;
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0) return fail_errno("ask for credentials");
  if (::listen(fd.get(), 128) < 0) return fail_errno("listen on the socket");
  return fd;
}

Result<UniqueFd> connect_to(const std::string& path, int timeout_ms) {
  auto a = address(path);
  if (!a) return tl::unexpected(a.error());
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd) return fail_errno("create a socket");
  if (timeout_ms > 0) {
    const timeval t{timeout_ms / 1000, timeout_ms % 1000 * 1000};
    if (::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t) < 0 ||
        ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t) < 0)
      return fail_errno("set a socket's timeout");
  }
  while (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&*a), sizeof *a) < 0)
    if (errno != EINTR) return fail_errno("connect to the daemon");
  return fd;
}

Result<void> send_frame(int fd, std::span<const std::byte> bytes, std::span<const int> fds, int flags) {
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * RINGBUF_WIRE_MAX_FDS)] = {};
  iovec iov{const_cast<std::byte*>(bytes.data()), bytes.size()};
  msghdr msg{};
  msg.msg_iov = &iov;
  msg.msg_iovlen = 1;
  if (bytes.size() > RINGBUF_WIRE_MAX || fds.size() > RINGBUF_WIRE_MAX_FDS) return fail(EMSGSIZE, "send a message");
  if (!fds.empty()) {
    msg.msg_control = control;
    msg.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(c), fds.data(), fds.size_bytes());
  }
  while (::sendmsg(fd, &msg, flags | MSG_NOSIGNAL) < 0)
    if (errno != EINTR) return fail_errno("send a message");
  return {};
}

Result<bool> recv_frame(int fd, Frame& frame, int flags) {
  // Room for credentials and for as many descriptors as the kernel lets anybody send: what is cut the kernel closes, here and
  // now.
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred)) + CMSG_SPACE(sizeof(int) * Frame::kMostFds)];
  iovec iov{frame.buffer.data(), frame.buffer.size()};
  msghdr msg{};
  msg.msg_iov = &iov;
  msg.msg_iovlen = 1;
  msg.msg_control = control;
  msg.msg_controllen = sizeof control;
  frame.size = 0;
  frame.fds.clear();
  frame.fds.reserve(Frame::kMostFds);  // if somebody has taken the vector; before anything comes
  frame.sender.reset();
  ssize_t n;
  while ((n = ::recvmsg(fd, &msg, flags | MSG_CMSG_CLOEXEC)) < 0)
    if (errno != EINTR) return fail_errno("receive a message");
  for (cmsghdr* c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
    if (c->cmsg_level != SOL_SOCKET) continue;
    if (c->cmsg_type == SCM_CREDENTIALS && c->cmsg_len == CMSG_LEN(sizeof(ucred))) {
      std::memcpy(&frame.sender.emplace(), CMSG_DATA(c), sizeof(ucred));
    } else if (c->cmsg_type == SCM_RIGHTS) {
      const std::size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (std::size_t i = 0; i < count; ++i) {
        int received;
        std::memcpy(&received, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
        frame.fds.emplace_back(received);
      }
    }
  }
  const auto refuse_fds = [&] {
    if (frame.refuse_fds) frame.refuse_fds(std::exchange(frame.fds, {}));
    else frame.fds.clear();
  };
  if (frame.fds.size() > RINGBUF_WIRE_MAX_FDS) {
    refuse_fds();
    return fail(EPROTO, "receive descriptors");
  }
  if (msg.msg_flags & MSG_CTRUNC) {  // there was room for them in `control`, so it was this process that could not take them
    refuse_fds();
    frame.size = static_cast<std::size_t>(n);
    return fail(EMFILE, "receive descriptors");
  }
  if (msg.msg_flags & MSG_TRUNC) {
    refuse_fds();
    return fail(EMSGSIZE, "receive a message");
  }
  frame.size = static_cast<std::size_t>(n);
  // A SEQPACKET read of 0 is the end; an empty frame cannot be told from it and is none that anybody sends.
  return n != 0;
}

bool hang_up(int fd) {
  ::shutdown(fd, SHUT_RDWR);  // from now on nothing is added to the queue
  for (;;) {
    // Room for the credentials, which an empty message has and the end has not, and for no descriptor.
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred))];
    msghdr msg{};
    msg.msg_control = control;
    msg.msg_controllen = sizeof control;
    if (::recvmsg(fd, &msg, MSG_DONTWAIT | MSG_PEEK) < 0) {
      if (errno == ECONNRESET || errno == EINTR) continue;  // the former is told once, before what is in the queue
      return true;
    }
    if (msg.msg_controllen == 0) return true;
    if (msg.msg_flags & MSG_CTRUNC) return false;
    ::recv(fd, nullptr, 0, MSG_DONTWAIT);
  }
}

}  // namespace ringbuf
