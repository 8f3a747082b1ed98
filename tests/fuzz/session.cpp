// SPDX-License-Identifier: MIT
// Whole conversations of several clients with a daemon in this process: valid, half valid and wild frames with descriptors of
// every kind, replies that nobody reads, connections that end at any time. When all clients are gone the daemon holds nothing of
// theirs, and it serves a well-behaved one.
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "fuzz/stepped_daemon.hpp"

namespace ringbuf::fuzz {
namespace {

// Takes away what outlives clients on purpose: the pins; all maps go with them. The first of the well-behaved clients.
void unpin_all(Daemon& daemon) {
  Connection root(daemon);
  root.hello();
  for (unsigned maps = 0;; ++maps) {
    const auto next = root.call(RINGBUF_MAP_GET_NEXT_ID, ringbuf_next_id_req{0, 0});
    if (next.hdr.err != 0) {
      FUZZ_CHECK(next.hdr.err == ENOENT);
      break;
    }
    FUZZ_CHECK(maps < kMaps);
    const std::uint32_t id = wire::decode_as<ringbuf_next_id_reply>(next.body)->next_id;
    std::vector<UniqueFd> token;
    root.must<ringbuf_map_id_reply>(RINGBUF_MAP_GET_FD_BY_ID, ringbuf_fd_by_id_req{id, 0}, &token);
    for (;;) {
      const auto pin = root.call(RINGBUF_OBJ_GET_PIN, ringbuf_index_req{0, 0}, {token.at(0).get()});
      if (pin.hdr.err != 0) break;
      ringbuf_path_req path{};
      std::memcpy(path.path, pin.body.data(), sizeof path.path);
      root.must<Nothing>(RINGBUF_OBJ_UNPIN, path);
    }
  }
}

class Conversation {
 public:
  Conversation(Daemon& daemon, Input& in) : daemon_(daemon), in_(in) {}

  void step() {
    const unsigned op = in_.below(16);
    if (op < 2) return connect(in_.flip());
    if (op == 2) return close_one(connections_);
    if (op < 8) return send(false);
    if (op == 8) return send(true);
    if (op < 11) return receive();
    if (op == 11) return close_one(fds_);
    if (op == 12) return make_descriptor();
    if (op == 13) return abuse();
    if (op == 14) return (void)::shutdown(connection(), static_cast<int>(in_.below(3)));
    daemon_.work();
  }

 private:
  template <class T>
  void close_one(std::vector<T>& some) {
    if (some.empty()) return;
    some.erase(some.begin() + static_cast<std::ptrdiff_t>(in_.byte() % some.size()));
  }
  void connect(bool greet) {
    if (connections_.size() == 8) return;
    connections_.push_back(std::make_unique<Connection>(daemon_));
    if (!greet) return;
    (void)connections_.back()->request(RINGBUF_HELLO, ringbuf_hello_req{RINGBUF_WIRE_VERSION, 0, 0});
    daemon_.work();
    Frame frame;
    (void)recv_frame(connections_.back()->fd(), frame, MSG_DONTWAIT);
    for (UniqueFd& lease : frame.fds) keep(std::move(lease));  // among the others: it is sent, and closed, at any time
  }
  // The newest ones are the most interesting, and 0 means that.
  template <class T>
  const T* choose(const std::vector<T>& some) {
    return some.empty() ? nullptr : &some[some.size() - 1 - in_.byte() % some.size()];
  }
  int connection() {
    if (connections_.empty()) connect(true);
    return (*choose(connections_))->fd();
  }

  std::vector<int> descriptors() {
    std::vector<int> fds;
    const unsigned n = in_.below(16);
    // Mostly what a request takes.
    const unsigned count = n < 6 ? 1 : n < 10 ? 0 : n < 13 ? 2 : n;
    for (unsigned i = 0; i < std::min(count, RINGBUF_WIRE_MAX_FDS + 4); ++i)
      if (const UniqueFd* fd = choose(fds_)) fds.push_back(fd->get());
    return fds;
  }
  // send_frame would refuse too many.
  void send_bytes(int to, std::span<const std::byte> bytes, const std::vector<int>& fds) {
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * 16)] = {};
    iovec iov{const_cast<std::byte*>(bytes.data()), bytes.size()};
    msghdr msg{};
    msg.msg_iov = &iov;
    msg.msg_iovlen = 1;
    if (!fds.empty()) {
      msg.msg_control = control;
      msg.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
      cmsghdr* c = CMSG_FIRSTHDR(&msg);
      c->cmsg_level = SOL_SOCKET;
      c->cmsg_type = SCM_RIGHTS;
      c->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
      std::memcpy(CMSG_DATA(c), fds.data(), fds.size() * sizeof(int));
    }
    (void)!::sendmsg(to, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
  }

  void send(bool wild) {
    const int to = connection();
    std::vector<std::byte> frame;
    if (wild) {
      const auto raw = in_.take_bytes(in_.below(8) == 7 ? 5000 : in_.byte());
      frame.assign(reinterpret_cast<const std::byte*>(raw.data()), reinterpret_cast<const std::byte*>(raw.data() + raw.size()));
      if (in_.below(4) == 3) frame.resize(RINGBUF_WIRE_MAX + in_.below(3) - 1);
    } else {
      frame = request();
    }
    send_bytes(to, frame, descriptors());
    if (in_.below(4) != 3) daemon_.work();
  }

  static std::vector<std::byte> bytes_of(const void* body, std::size_t size) {
    const auto* at = static_cast<const std::byte*>(body);
    return {at, at + size};
  }
  template <class T>
  static std::vector<std::byte> bytes_of(const T& body) {
    return bytes_of(&body, sizeof body);
  }

  std::uint32_t number() {
    const unsigned n = in_.byte();
    if (n < 200) return n % 8;
    if (n < 240) return 1u << n % 32;
    return in_.take<std::uint32_t>();
  }
  ringbuf_map_create_req spec() {
    ringbuf_map_create_req req{};
    static constexpr std::uint32_t kTypes[] = {27, 31, 12, 13};
    req.map_type = kTypes[in_.below(4)];
    const bool outer = req.map_type < 27;
    req.max_entries = outer ? 1 + in_.below(8) : 4096u << in_.below(3);
    if (outer) req.key_size = 4, req.value_size = 4;
    if (req.map_type == 13 && in_.flip()) req.key_size = in_.byte();
    if (req.map_type == 27 && in_.below(4) == 3) req.map_flags = 1u << 19;
    if (!outer) req.ring_flags = in_.flip();
    req.mode = in_.take<std::uint16_t>() & 0777;
    if (in_.flip()) req.name[0] = static_cast<char>('a' + in_.below(3));
    if (in_.below(8) == 7) {  // one field is something else
      const std::size_t at = in_.byte() % (sizeof req / 4);
      const std::uint32_t value = number();
      std::memcpy(reinterpret_cast<unsigned char*>(&req) + at * 4, &value, sizeof value);
    }
    return req;
  }
  std::vector<std::byte> path() {
    ringbuf_path_req req{};
    static constexpr const char* kPaths[] = {"/a", "/b", "/a/b", "/../a", "a", "/c", "/d", "/e"};
    std::strcpy(req.path, kPaths[in_.below(8)]);
    if (in_.below(4) == 3) req.rights = number();
    if (in_.below(16) == 15) req.path[in_.byte()] = static_cast<char>(in_.byte());
    return bytes_of(req);
  }
  std::vector<std::byte> element() {
    ringbuf_elem_req req{};
    req.key_size = in_.below(8) == 7 ? number() : 4;
    req.key[0] = static_cast<unsigned char>(in_.below(8));
    if (in_.below(4) == 3) req.flags = number();
    if (in_.below(4) == 3) req.rights = number();
    return bytes_of(req);
  }
  std::vector<std::byte> request() {
    const std::uint16_t cmd = in_.below(32) == 31 ? in_.take<std::uint16_t>() : static_cast<std::uint16_t>(1 + in_.below(19));
    std::vector<std::byte> body;
    switch (cmd) {
      case RINGBUF_HELLO: body = bytes_of(ringbuf_hello_req{in_.below(8) == 7 ? number() : RINGBUF_WIRE_VERSION, 0, 0}); break;
      case RINGBUF_MAP_CREATE: body = bytes_of(spec()); break;
      case RINGBUF_MAP_GET_FD_BY_NAME: {
        ringbuf_fd_by_name_req req{};
        req.name[0] = static_cast<char>('a' + in_.below(3));
        if (in_.below(4) == 3) req.rights = number();
        body = bytes_of(req);
        break;
      }
      case RINGBUF_OBJ_PIN:
      case RINGBUF_OBJ_GET:
      case RINGBUF_OBJ_UNPIN: body = path(); break;
      case RINGBUF_OBJ_GET_INFO_BY_FD: break;
      case RINGBUF_MAP_LOOKUP_ELEM:
      case RINGBUF_MAP_UPDATE_ELEM:
      case RINGBUF_MAP_DELETE_ELEM:
      case RINGBUF_MAP_GET_NEXT_KEY:
      case RINGBUF_MAP_GET_FD_BY_KEY: body = element(); break;
      default: {  // one or two numbers
        body = bytes_of(number());
        const auto second = bytes_of(in_.below(4) == 3 ? number() : 0);
        body.insert(body.end(), second.begin(), second.end());
      }
    }
    if (in_.below(16) == 15) body.resize(body.size() / 2);
    if (in_.below(16) == 15) body.resize(body.size() + in_.byte(), static_cast<std::byte>(in_.flip()));
    ringbuf_wire_hdr hdr{cmd, 0, 7, 0, 0};
    if (in_.below(32) == 31) hdr.err = number();
    if (in_.below(32) == 31) hdr.reserved = 1;
    return wire::encode(hdr, body);
  }

  void receive() {
    Frame frame;
    const auto got = recv_frame(connection(), frame, MSG_DONTWAIT);
    if (!got || !*got) return;
    const auto message = wire::decode(frame.bytes());
    FUZZ_CHECK(message);
    if (message->hdr.err != 0) {  // a refusal is a sentence
      const std::string_view text(reinterpret_cast<const char*>(message->body.data()), message->body.size());
      FUZZ_CHECK(message->hdr.err < 4096 && !text.empty() && text.size() <= 512 && frame.fds.empty());
    }
    for (UniqueFd& fd : frame.fds) keep(std::move(fd));
    if (in_.empty()) return;
    daemon_.work();
  }
  void keep(UniqueFd fd) {
    if (fd && fds_.size() < 64) fds_.push_back(std::move(fd));
  }

  void make_descriptor() {
    switch (in_.below(8)) {
      case 0: return keep(UniqueFd(::memfd_create("fuzz", MFD_CLOEXEC)));
      case 1: return keep(UniqueFd(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC)));
      case 2: return keep(UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC)));
      case 3: return keep(UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)));
      case 4: return keep(UniqueFd(::epoll_create1(EPOLL_CLOEXEC)));
      case 5: {
        int ends[2];
        FUZZ_CHECK(::pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0);
        keep(UniqueFd(ends[0]));
        return keep(UniqueFd(ends[1]));
      }
      case 6: {
        int ends[2];
        FUZZ_CHECK(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
        keep(UniqueFd(ends[0]));
        return keep(UniqueFd(ends[1]));
      }
      default: {
        if (connections_.empty()) connect(true);
        Connection& copied = **choose(connections_);
        copied.copied = true;
        return keep(UniqueFd(::fcntl(copied.fd(), F_DUPFD_CLOEXEC, 0)));
      }
    }
  }

  // What a holder can do to a descriptor that the daemon has a share in.
  void abuse() {
    const UniqueFd* held = choose(fds_);
    if (!held) return;
    const int fd = held->get();
    switch (in_.below(8)) {
      case 0: return send_bytes(fd, {}, descriptors());
      case 1: return (void)::shutdown(fd, static_cast<int>(in_.below(3)));
      case 2: return (void)!::ftruncate(fd, in_.byte());
      case 3: return (void)::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1 << 20);
      case 4: {
        const auto bytes = in_.take_bytes(in_.below(64));
        return (void)!::pwrite(fd, bytes.data(), bytes.size(), off_t{in_.byte()} * 512);  // slots, producer page, data
      }
      case 5: {
        const std::uint64_t full = UINT64_MAX - 1;
        const int flags = ::fcntl(fd, F_GETFL);
        if (flags >= 0 && (flags & O_NONBLOCK)) (void)!::write(fd, &full, sizeof full);
        return;
      }
      case 6: {
        epoll_event ev{};
        ev.events = EPOLLIN;
        const UniqueFd* other = choose(fds_);
        return (void)::epoll_ctl(fd, in_.flip() ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, other->get(), &ev);
      }
      default: return (void)::fcntl(fd, F_SETFL, in_.flip() ? O_APPEND | O_NONBLOCK : O_NONBLOCK);
    }
  }

  Daemon& daemon_;
  Input& in_;
  std::vector<std::unique_ptr<Connection>> connections_;
  std::vector<UniqueFd> fds_;
};

}  // namespace
}  // namespace ringbuf::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ringbuf::fuzz;
  static Daemon daemon(kSmallLimits);
  static unsigned inputs = 0;
  Input in(data, size);
  const auto before = open_fds();  // libFuzzer opens some of its own between inputs
  {
    Conversation conversation(daemon, in);
    while (!in.empty()) conversation.step();
  }
  daemon.work();
  unpin_all(daemon);
  daemon.work();
  require_only(before, [] { daemon.work(); });
  if (++inputs % 8 != 0) return 0;  // it costs as much as a short input
  use_up_all_limits(daemon);
  daemon.work();
  require_only(before, [] { daemon.work(); });
  return 0;
}
