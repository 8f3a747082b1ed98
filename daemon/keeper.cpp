// SPDX-License-Identifier: MIT
#include "daemon/keeper.hpp"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cassert>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <utility>

#include "base/seqpacket.hpp"

namespace ringbuf::daemon {

using boost::asio::posix::descriptor_base;

// Handlers outlive what they were made by.
template <class F>
auto Keeper::unless_destroyed(F f) {
  return [f = std::move(f), alive = std::weak_ptr(alive_)](const boost::system::error_code& ec) {
    if (!ec && !alive.expired()) f();
  };
}

Keeper::Keeper(boost::asio::io_context& io, UniqueFd socket) : socket_(io), retry_(io) {
  if (!socket) return;
  socket_.assign(socket.get());
  socket.release();
  watch();
}

bool Keeper::store(const std::string& name, int fd) {
  assert(!name.empty() && name.size() <= kMaxName);
  return post("FDSTORE=1\nFDNAME=" + name + "\nFDPOLL=0", fd);
}

void Keeper::remove(const std::string& name) noexcept {
  try {
    post("FDSTOREREMOVE=1\nFDNAME=" + name, -1);
  } catch (const std::exception&) {  // without memory the keeper keeps it, and the next daemon finds that it is nobody's
  }
}

void Keeper::say(std::string state) { post(std::move(state), -1); }

void Keeper::when_sent(std::function<void()> f) {
  if (abandoned_) return;
  if (queue_.empty()) return f();
  queue_.emplace_back(std::move(f));
}

void Keeper::abandon() {
  abandoned_ = true;
  queue_.clear();
  boost::system::error_code ignored;
  socket_.cancel(ignored);
  retry_.cancel(ignored);
}

bool Keeper::post(std::string text, int fd) {
  if (abandoned_ || !present()) return true;
  if (queue_.empty()) {
    const int err = send(text, fd);
    if (err == 0) return true;
    flush_later(err);
    if (!present()) return true;
  }
  UniqueFd copy(fd < 0 ? -1 : ::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (fd >= 0 && !copy) {
    spdlog::error("cannot keep a descriptor: {}", std::strerror(errno));
    return false;
  }
  queue_.emplace_back(Message{std::move(text), std::move(copy)});
  return true;
}

int Keeper::send(const std::string& text, int fd) {
  const auto sent = send_frame(socket_.native_handle(), std::as_bytes(std::span(text)),
                               fd < 0 ? std::span<const int>() : std::span(&fd, 1), MSG_DONTWAIT);
  return sent ? 0 : sent.error().err;
}

// From the io_context only, never from within store() or say(): their callers are in the middle of something.
void Keeper::flush() {
  while (!queue_.empty()) {
    if (auto* f = std::get_if<std::function<void()>>(&queue_.front())) {
      const auto call = std::move(*f);
      queue_.pop_front();
      call();
      continue;
    }
    const Message& message = std::get<Message>(queue_.front());
    if (const int err = send(message.text, message.fd.get())) return flush_later(err);
    queue_.pop_front();
  }
}

void Keeper::flush_later(int err) {
  if (err == EAGAIN) {
    socket_.async_wait(descriptor_base::wait_write, unless_destroyed([this] { flush(); }));
  } else if (err == ENOBUFS || err == ENOMEM || err == ETOOMANYREFS) {  // nothing tells when that has passed
    retry_.expires_after(std::chrono::milliseconds(10));
    retry_.async_wait(unless_destroyed([this] { flush(); }));
  } else {
    lose(err);
  }
}

// Within store() or say() the queue is empty.
void Keeper::lose(int err) {
  spdlog::error("the keeper of this daemon's descriptors is gone ({}); what it served would be lost with it", std::strerror(err));
  boost::system::error_code ignored;
  socket_.close(ignored);
  if (const auto f = std::exchange(when_lost_, nullptr)) f();
  std::erase_if(queue_, [](const auto& entry) { return std::holds_alternative<Message>(entry); });
  flush();
}

// A keeper says nothing; what can be read is its end.
void Keeper::watch() {
  socket_.async_wait(descriptor_base::wait_read, unless_destroyed([this] {
                       if (abandoned_ || !present()) return;
                       char byte;
                       const ssize_t n = ::recv(socket_.native_handle(), &byte, 1, MSG_DONTWAIT | MSG_TRUNC);
                       if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return lose(n == 0 ? EPIPE : errno);
                       watch();
                     }));
}

namespace {

// The variable, which nobody inherits from us.
std::optional<std::string> take_variable(const char* name) {
  const char* value = std::getenv(name);
  if (!value) return std::nullopt;
  std::string taken = value;
  ::unsetenv(name);
  return taken;
}

UniqueFd inherited_socket(const std::string& number) {
  int fd = -1;
  const auto [end, ec] = std::from_chars(number.data(), number.data() + number.size(), fd);
  int type = 0, domain = 0;
  socklen_t size = sizeof type;
  if (ec != std::errc{} || end != number.data() + number.size() || fd <= STDERR_FILENO ||
      ::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0 || ::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) < 0 ||
      domain != AF_UNIX || (type != SOCK_DGRAM && type != SOCK_SEQPACKET) || ::fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
    spdlog::error("RINGBUFD_KEEPER='{}' is no datagram socket; nobody keeps this daemon's descriptors", number);
    return {};
  }
  return UniqueFd(fd);
}

UniqueFd notify_socket(const std::string& path) {
  sockaddr_un a{};
  a.sun_family = AF_UNIX;
  int err = EAFNOSUPPORT;
  if (path.size() > 1 && path.size() < sizeof a.sun_path && (path[0] == '/' || path[0] == '@')) {
    std::memcpy(a.sun_path, path.data(), path.size());
    if (path[0] == '@') a.sun_path[0] = '\0';
    const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + (path[0] == '/'));
    UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (fd && ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&a), size) == 0) return fd;
    err = errno;
  }
  spdlog::error("cannot reach the service manager at NOTIFY_SOCKET='{}': {}", path, std::strerror(err));
  return {};
}

}  // namespace

UniqueFd keeper_from_environment() {
  const auto notify = take_variable("NOTIFY_SOCKET");
  if (const auto number = take_variable("RINGBUFD_KEEPER")) return inherited_socket(*number);
  return notify ? notify_socket(*notify) : UniqueFd();
}

std::chrono::microseconds watchdog_from_environment() {
  const auto number = [](const std::string& text) {
    std::int64_t n = -1;
    const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), n);
    return ec == std::errc{} && end == text.data() + text.size() ? n : -1;
  };
  const auto patience = take_variable("WATCHDOG_USEC"), pid = take_variable("WATCHDOG_PID");
  if (!patience || (pid && number(*pid) != ::getpid())) return {};
  return std::chrono::microseconds(std::max<std::int64_t>(number(*patience), 0));
}

}  // namespace ringbuf::daemon
