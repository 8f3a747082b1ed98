// SPDX-License-Identifier: MIT
// A daemon in this process, and a client that speaks to it in raw frames.
#pragma once

#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <cstring>
#include <filesystem>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/seqpacket.hpp"
#include "daemon/server.hpp"
#include "support/child_process.hpp"
#include "support/eventually.hpp"
#include "support/fd_leak_guard.hpp"
#include "wire/codec.hpp"

namespace ringbuf::test {

// Where other uids can reach the socket.
class TempDir {
 public:
  TempDir() {
    char name[] = "/tmp/ringbufd-test-XXXXXX";
    if (!::mkdtemp(name)) std::abort();
    path_ = name;
    ::chmod(name, 0755);
  }
  TempDir(const TempDir&) = delete;
  ~TempDir() { std::filesystem::remove_all(path_); }
  std::string path(const std::string& file) const { return path_ + "/" + file; }

 private:
  std::string path_;
};

class InProcessDaemon {
 public:
  explicit InProcessDaemon(const daemon::Limits& limits = daemon::kDefaultLimits) {
    spdlog::set_level(spdlog::level::off);
    auto server = daemon::Server::start(io_, {socket(), 0666, limits});
    if (!server) {
      ADD_FAILURE() << server.error().text;
      std::abort();
    }
    server_ = std::move(*server);
    thread_ = std::thread([this] { io_.run(); });
  }
  ~InProcessDaemon() {
    boost::asio::post(io_, [this] { server_->stop(); });
    thread_.join();
  }
  std::string socket() const { return dir_.path("ringbufd.sock"); }
  // f() while the daemon does nothing: what it sends then waits to be read.
  template <class F>
  void while_paused(F&& f) {
    std::promise<void> paused, done;
    boost::asio::post(io_, [&, go_on = done.get_future()]() mutable {
      paused.set_value();
      go_on.wait();
    });
    paused.get_future().wait();
    f();
    done.set_value();
  }

 private:
  TempDir dir_;
  boost::asio::io_context io_;
  std::unique_ptr<daemon::Server> server_;
  std::thread thread_;
};

struct Reply {
  bool closed = false;  // the daemon has ended the session
  ringbuf_wire_hdr hdr{};
  std::string text;  // of a refusal
  std::vector<std::byte> body;
  std::vector<UniqueFd> fds;

  int err() const { return closed ? -1 : static_cast<int>(hdr.err); }
  template <class T>
  T as() const {
    EXPECT_EQ(err(), 0) << text;
    auto t = wire::decode_as<T>(body);
    return t ? *t : T{};
  }
};

class Client {
 public:
  struct Silent {};
  Client(const std::string& path, Silent) {
    auto fd = connect_to(path);
    if (!fd) std::abort();
    fd_ = std::move(*fd);
    const timeval patience{60, 0};  // a daemon that does not answer fails the test instead of stopping it
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  }
  explicit Client(const std::string& path) : Client(path, Silent{}) { hello_ = call(RINGBUF_HELLO, hello_req()); }
  explicit Client(const InProcessDaemon& d) : Client(d.socket()) {}

  static ringbuf_hello_req hello_req() { return {RINGBUF_WIRE_VERSION, 0, 0}; }
  const Reply& hello() const { return hello_; }
  int fd() const { return fd_.get(); }
  // The connection, and the lease: as a process that ends.
  void close() {
    fd_.reset();
    hello_.fds.clear();
  }
  // The connection breaks, and this client comes back with its lease.
  Reply reconnect(const std::string& path) {
    fd_ = std::move(*connect_to(path));
    Reply again = call(RINGBUF_HELLO, hello_req(), {lease()});
    return again;
  }
  void disconnect() { fd_.reset(); }
  void end_lease() { hello_.fds.clear(); }
  int lease() const { return hello_.fds.at(0).get(); }

  bool send(std::span<const std::byte> frame, std::vector<int> fds = {}, int flags = 0) {
    return send_frame(fd_.get(), frame, fds, flags).has_value();
  }
  template <class T>
  bool request(unsigned cmd, const T& body, std::vector<int> fds = {}, int flags = 0) {
    return send(wire::encode_as({static_cast<std::uint16_t>(cmd), 0, ++seq_, 0, 0}, body), std::move(fds), flags);
  }
  Reply receive() {
    Reply r;
    Frame frame;
    const auto got = recv_frame(fd_.get(), frame);
    if (!got || !*got) {
      EXPECT_TRUE(got || got.error().err != EAGAIN) << "the daemon did not answer";
      r.closed = true;
      return r;
    }
    const auto message = wire::decode(frame.bytes());
    if (!message) {
      ADD_FAILURE() << "malformed reply";
      return r;
    }
    r.hdr = message->hdr;
    r.body.assign(message->body.begin(), message->body.end());
    if (r.hdr.err) r.text.assign(reinterpret_cast<const char*>(r.body.data()), r.body.size());
    r.fds = std::move(frame.fds);
    return r;
  }
  template <class T>
  Reply call(unsigned cmd, const T& body, std::vector<int> fds = {}) {
    if (!request(cmd, body, std::move(fds))) return closed();
    Reply r = receive();
    if (!r.closed) {
      EXPECT_EQ(r.hdr.cmd, cmd);
      EXPECT_EQ(r.hdr.seq, seq_);
    }
    return r;
  }

  static ringbuf_map_create_req spec(std::uint32_t max_entries = 4096, const char* name = "events") {
    ringbuf_map_create_req req{};
    req.map_type = 27;
    req.max_entries = max_entries;
    (void)wire::encode_name(name, req.name);
    return req;
  }
  static ringbuf_path_req path_req(std::string_view path, unsigned rights = 0) {
    ringbuf_path_req req{};
    req.rights = rights;
    (void)wire::encode_path(path, req.path);
    return req;
  }
  static ringbuf_fd_by_name_req name_req(std::string_view name, unsigned rights = 0) {
    ringbuf_fd_by_name_req req{};
    req.rights = rights;
    (void)wire::encode_name(name, req.name);
    return req;
  }
  Reply create(const ringbuf_map_create_req& req = spec()) { return call(RINGBUF_MAP_CREATE, req); }
  Reply by_id(std::uint32_t id, unsigned rights = 0) { return call(RINGBUF_MAP_GET_FD_BY_ID, ringbuf_fd_by_id_req{id, rights}); }
  Reply by_name(const char* name, unsigned rights = 0) { return call(RINGBUF_MAP_GET_FD_BY_NAME, name_req(name, rights)); }
  Reply next_id(std::uint32_t after) { return call(RINGBUF_MAP_GET_NEXT_ID, ringbuf_next_id_req{after, 0}); }
  Reply pin(std::string_view path, int token) { return call(RINGBUF_OBJ_PIN, path_req(path), {token}); }
  Reply unpin(std::string_view path) { return call(RINGBUF_OBJ_UNPIN, path_req(path)); }
  Reply get(std::string_view path, unsigned rights = 0) { return call(RINGBUF_OBJ_GET, path_req(path, rights)); }
  Reply narrow(int token, unsigned rights) { return call(RINGBUF_MAP_NARROW, ringbuf_narrow_req{rights, 0}, {token}); }
  Reply info(int token) { return call(RINGBUF_OBJ_GET_INFO_BY_FD, std::uint32_t{0}, {token}); }
  Reply attach(int token, unsigned role) { return call(RINGBUF_ATTACH, ringbuf_attach_req{role, 0}, {token}); }
  Reply detach(std::uint32_t attachment) { return call(RINGBUF_DETACH, ringbuf_detach_req{attachment, 0}); }

 private:
  static Reply closed() {
    Reply r;
    r.closed = true;
    return r;
  }

  UniqueFd fd_;
  std::uint32_t seq_ = 0;
  Reply hello_;
};

// f() -> int in a process of another user; its exit code.
template <class F>
int as_user(uid_t uid, gid_t gid, std::vector<gid_t> groups, F&& f) {
  ChildProcess child([&] {
    if (::setgroups(groups.size(), groups.data()) < 0 || ::setresgid(gid, gid, gid) < 0 || ::setresuid(uid, uid, uid) < 0)
      return 126;
    return f();
  });
  return child.exit_code();
}

#define RINGBUF_NEEDS_ROOT() \
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to become other users"

class DaemonTest : public ::testing::Test {
 private:
  FdLeakGuard leaks_;

 protected:
  InProcessDaemon daemon;
};

}  // namespace ringbuf::test
