// SPDX-License-Identifier: MIT
// A daemon in this process and in this thread, which works when it is told to; and a raw client of it. Nothing blocks and nothing
// is left to chance. What must hold and does not ends the process.
#pragma once

#include <signal.h>
#include <spdlog/spdlog.h>

#include <boost/asio/io_context.hpp>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/seqpacket.hpp"
#include "daemon/server.hpp"
#include "fuzz/input.hpp"
#include "wire/codec.hpp"

namespace ringbuf::fuzz {

// What is open in this process.
inline std::set<int> open_fds() {
  std::set<int> fds;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) fds.insert(std::stoi(entry.path().filename()));
  return fds;
}
// The daemon has threads that close what a client has sent; `work` is what it then does.
template <class F>
void require_only(const std::set<int>& before, F&& work) {
  for (int looks = 0; looks < 10'000 && open_fds() != before; ++looks) work(), std::this_thread::yield();
  const auto now = open_fds();
  if (now == before) return;
  for (const int fd : now) {
    std::error_code ec;
    if (!before.count(fd))
      std::fprintf(stderr, "left: %d %s\n", fd, std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(fd), ec).c_str());
  }
  FUZZ_CHECK(now == before);
}

class Daemon {
 public:
  explicit Daemon(const daemon::Limits& limits = daemon::kDefaultLimits) {
    spdlog::set_level(spdlog::level::off);
    ::signal(SIGPIPE, SIG_IGN);
    char name[] = "/tmp/ringbufd-fuzz-XXXXXX";
    FUZZ_CHECK(::mkdtemp(name));
    directory_ = name;
    auto server = daemon::Server::start(io_, {socket(), 0600, limits});
    FUZZ_CHECK(server);
    server_ = std::move(*server);
    work();
  }
  ~Daemon() {
    server_->stop();
    work();
    std::filesystem::remove_all(directory_);
  }
  std::string socket() const { return directory_ + "/s"; }
  // Until it has nothing left to do.
  void work() {
    for (unsigned i = 0; io_.poll() != 0; ++i) FUZZ_CHECK(i < 100'000);
    io_.restart();
  }

 private:
  std::string directory_;
  boost::asio::io_context io_;
  std::unique_ptr<daemon::Server> server_;
};

class Connection {
 public:
  explicit Connection(Daemon& daemon) : daemon_(daemon) {
    auto fd = connect_to(daemon.socket());
    FUZZ_CHECK(fd);
    fd_ = std::move(*fd);
    daemon.work();
  }
  ~Connection() {
    if (copied) ::shutdown(fd_.get(), SHUT_RDWR);
  }
  int fd() const { return fd_.get(); }
  // A copy may have been sent over the connection itself. There, behind replies that nobody reads, it would keep the session open
  // for as long as the process lives; this one lives on.
  bool copied = false;

  template <class T>
  bool request(unsigned cmd, const T& body, const std::vector<int>& fds = {}) {
    return send_frame(fd_.get(), wire::encode_as({static_cast<std::uint16_t>(cmd), 0, ++seq_, 0, 0}, body), fds, MSG_DONTWAIT)
        .has_value();
  }
  // The reply of a daemon that has done its work; of a well-behaved client there is always one.
  struct Reply {
    ringbuf_wire_hdr hdr;
    std::vector<std::byte> body;
    std::vector<UniqueFd> fds;
  };
  template <class T>
  Reply call(unsigned cmd, const T& body, const std::vector<int>& fds = {}) {
    FUZZ_CHECK(request(cmd, body, fds));
    daemon_.work();
    Frame frame;
    const auto got = recv_frame(fd_.get(), frame, MSG_DONTWAIT);
    FUZZ_CHECK(got && *got);
    const auto message = wire::decode(frame.bytes());
    FUZZ_CHECK(message && message->hdr.cmd == cmd && message->hdr.seq == seq_);
    return {message->hdr, {message->body.begin(), message->body.end()}, std::move(frame.fds)};
  }
  template <class T, class Body>
  T must(unsigned cmd, const Body& body, std::vector<UniqueFd>* ret_fds = nullptr, const std::vector<int>& fds = {}) {
    Reply r = call(cmd, body, fds);
    FUZZ_CHECK(r.hdr.err == 0);
    if (ret_fds) *ret_fds = std::move(r.fds);
    const auto t = wire::decode_as<T>(r.body);
    FUZZ_CHECK(t);
    return *t;
  }
  void hello() { must<ringbuf_hello_reply>(RINGBUF_HELLO, ringbuf_hello_req{RINGBUF_WIRE_VERSION, 0, 0}, &lease_); }

 private:
  Daemon& daemon_;
  UniqueFd fd_;
  std::vector<UniqueFd> lease_;
  std::uint32_t seq_ = 0;
};

struct Nothing {
  std::uint32_t zero = 0;
};

// Small, so that a well-behaved client can use all of it.
inline constexpr unsigned kMaps = 8, kTokens = 2 * kMaps, kSessions = 5, kAttachments = 12, kPins = 4;
inline constexpr std::uint64_t kBytes = kMaps * (shm::Layout{4096, 4096}.c_size() + shm::Layout{4096, 4096}.p_size());
inline constexpr daemon::Limits kSmallLimits{
    {{kMaps, kMaps}, {kBytes, kBytes}, {kTokens, kTokens}, {kSessions, kSessions}, {kAttachments, kAttachments}, {kPins, kPins}}};

// As many of everything as the limits allow, so that nothing can have been left behind.
inline void use_up_all_limits(Daemon& daemon) {
  Connection good(daemon);
  good.hello();
  ringbuf_map_create_req spec{};
  spec.map_type = shm::kTypeRingbuf;
  spec.max_entries = 4096;
  std::vector<std::vector<UniqueFd>> kept;
  for (unsigned i = 0; i < kMaps; ++i) {
    const auto map = good.must<ringbuf_map_id_reply>(RINGBUF_MAP_CREATE, spec, &kept.emplace_back());
    good.must<ringbuf_map_id_reply>(RINGBUF_MAP_GET_FD_BY_ID, ringbuf_fd_by_id_req{map.id, 0}, &kept.emplace_back());
  }
  const int map = kept[0].at(0).get();
  for (unsigned i = 0; i < kAttachments; ++i) {
    const auto a = good.must<ringbuf_attach_reply>(RINGBUF_ATTACH, ringbuf_attach_req{1 + i % 3, 0}, &kept.emplace_back(), {map});
    FUZZ_CHECK(a.max_entries == 4096 && kept.back().size() >= 2);
  }
  for (const bool pin : {true, false})
    for (unsigned i = 0; i < kPins; ++i) {
      ringbuf_path_req req{};
      FUZZ_CHECK(wire::encode_path("/good" + std::to_string(i), req.path));
      good.must<Nothing>(pin ? RINGBUF_OBJ_PIN : RINGBUF_OBJ_UNPIN, req, nullptr,
                         pin ? std::vector<int>{map} : std::vector<int>{});
    }
  std::vector<std::unique_ptr<Connection>> sessions;
  for (unsigned i = 1; i < kSessions; ++i) {
    sessions.push_back(std::make_unique<Connection>(daemon));
    sessions.back()->hello();
  }
}

}  // namespace ringbuf::fuzz
