// SPDX-License-Identifier: MIT
// Floods of every kind beside an honest client: it is served, the daemon stays within its limits, and afterwards it holds
// nothing.
#include <sys/mman.h>

#include <algorithm>
#include <chrono>

#include "daemon_of.hpp"

namespace ringbuf::test {
namespace {

using daemon::Resource;

// Every session's turn comes once a round, however much the others have sent: the id that an honest client's map gets tells how
// many of the flood's were made before it.
TEST(Flood, TheHonestOneWaitsForOneMessageOfEachSession) {
  FdLeakGuard leaks;
  InProcessDaemon daemon;
  constexpr unsigned kSessions = 30, kQueued = 6;
  std::vector<std::unique_ptr<Client>> flood, strangers;
  for (unsigned i = 0; i < kSessions; ++i) flood.push_back(std::make_unique<Client>(daemon));
  Client honest(daemon);
  const auto base = honest.create().as<ringbuf_map_id_reply>().id;
  daemon.while_paused([&] {
    for (auto& c : flood)
      for (unsigned i = 0; i < kQueued; ++i) EXPECT_TRUE(c->request(RINGBUF_MAP_CREATE, Client::spec(), {}, MSG_DONTWAIT));
    for (unsigned i = 0; i < 100; ++i) strangers.push_back(std::make_unique<Client>(daemon.socket(), Client::Silent{}));
    EXPECT_TRUE(honest.request(RINGBUF_MAP_CREATE, Client::spec()));
  });
  const unsigned served = honest.receive().as<ringbuf_map_id_reply>().id - base - 1;
  std::printf("%u of %u messages were served before the one sent last\n", served, kSessions * kQueued);
  EXPECT_LE(served, 2 * kSessions);
  for (auto& c : flood)
    for (unsigned i = 0; i < kQueued; ++i) EXPECT_EQ(c->receive().err(), 0) << "and the flood is served as well";
}

TEST(Flood, MessagesOfEveryLength) {
  FdLeakGuard leaks;
  InProcessDaemon daemon;
  std::vector<std::byte> bytes(5000);
  const ringbuf_wire_hdr hdr{RINGBUF_MAP_GET_NEXT_ID, 0, 7, 0, 0};
  std::memcpy(bytes.data(), &hdr, sizeof hdr);
  Client lasting(daemon);
  for (std::size_t size = 0; size <= bytes.size(); ++size) {
    std::optional<Client> brief;
    const bool good = size >= sizeof hdr && size <= RINGBUF_WIRE_MAX;
    Client& c = good ? lasting : brief.emplace(daemon);
    ASSERT_EQ(::send(c.fd(), bytes.data(), size, MSG_NOSIGNAL), static_cast<ssize_t>(size));
    if (size != 0) {
      ASSERT_EQ(c.receive().err(), good ? ENOENT : size < sizeof hdr ? EPROTO : EMSGSIZE) << size;
    }
    if (!good) {
      ASSERT_TRUE(c.receive().closed) << size;
    }
  }
}

// --- floods without end, each in a process of its own
// ---------------------------------------------------------------------------

// A flood tells when it has gone round once: then it has met what limits it.
class Begun {
 public:
  Begun() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) < 0) std::abort();
    reader_.reset(ends[0]);
    writer_.reset(ends[1]);
    ::fcntl(writer_.get(), F_SETFL, O_NONBLOCK);
  }
  void tell() const { (void)!::write(writer_.get(), "x", 1); }
  void wait() const {
    char c;
    (void)!::read(reader_.get(), &c, 1);
  }

 private:
  UniqueFd reader_, writer_;
};

bool drain(Client& c) {
  char buffer[RINGBUF_WIRE_MAX];
  ssize_t n;
  while ((n = ::recv(c.fd(), buffer, sizeof buffer, MSG_DONTWAIT)) > 0) {}
  return n != 0;
}

using Sessions = std::vector<std::unique_ptr<Client>>;
Client& another(Sessions& all, const std::string& socket) {
  return *all.emplace_back(std::make_unique<Client>(socket, Client::Silent{}));
}

[[noreturn]] void open_sessions(const std::string& socket, const Begun& begun) {
  for (;; begun.tell()) {
    Sessions held;
    for (int i = 0; i < 200; ++i) another(held, socket).request(RINGBUF_HELLO, Client::hello_req(), {}, MSG_DONTWAIT);
  }
}

[[noreturn]] void never_speak(const std::string& socket, const Begun& begun) {
  for (;; begun.tell()) {
    Sessions held;
    for (int i = 0; i < 200; ++i) another(held, socket);
  }
}

[[noreturn]] void never_read(const std::string& socket, const Begun& begun) {
  for (;; begun.tell()) {
    Sessions held;
    for (int i = 0; i < 20; ++i) {
      Client& c = another(held, socket);
      c.request(RINGBUF_HELLO, Client::hello_req(), {}, MSG_DONTWAIT);
      while (c.request(RINGBUF_MAP_CREATE, Client::spec(), {}, MSG_DONTWAIT)) {}
    }
  }
}

[[noreturn]] void hold_everything(const std::string& socket, const Begun& begun) {
  for (unsigned n = 0;; begun.tell()) {
    Client c(socket);
    std::vector<Reply> held;
    if (!c.hello().closed) {
      for (int i = 0; i < 200 && !(held.size() && held.back().closed); ++i, ++n) {
        held.push_back(c.create());
        if (held.back().fds.empty()) continue;
        const int token = held.back().fds[0].get();
        const auto id = held.back().as<ringbuf_map_id_reply>().id;
        for (int k = 0; k < 3; ++k) held.push_back(c.by_id(id));
        held.push_back(c.attach(token, RINGBUF_PRODUCER));
        held.push_back(c.attach(token, RINGBUF_CONSUMER));
        (void)c.pin(fmt::format("/flood/{}", n % 200), token);
      }
    }
  }
}

[[noreturn]] void send_descriptors(const std::string& socket, const Begun& begun) {
  int pipe[2], pair[2];
  if (::pipe2(pipe, O_CLOEXEC) < 0 || ::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) std::abort();
  const int mem = ::memfd_create("flood", MFD_CLOEXEC), dir = ::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  for (;; begun.tell()) {
    Client c(socket, Client::Silent{});
    c.request(RINGBUF_HELLO, Client::hello_req());
    for (int i = 0; i < 1000 && drain(c); ++i)
      c.request(RINGBUF_OBJ_GET_INFO_BY_FD, std::uint32_t{0}, {pipe[0], pipe[1], pair[0], pair[1], mem, dir, mem, c.fd()},
                MSG_DONTWAIT);
  }
}

[[noreturn]] void send_nonsense(const std::string& socket, const Begun& begun) {
  std::vector<std::byte> bytes(5001);
  for (std::size_t i = 0, x = 1; i < bytes.size(); ++i, x = x * 6364136223846793005u + 1) bytes[i] = std::byte(x >> 56);
  for (std::size_t n = 0;; n = (n + 1) % 5001, n % 100 ? void() : begun.tell()) {
    Client c(socket, Client::Silent{});
    if (n % 2) c.request(RINGBUF_HELLO, Client::hello_req(), {}, MSG_DONTWAIT);
    (void)!::send(c.fd(), bytes.data(), n, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n % 3) drain(c);  // else it is closed in the middle
  }
}

struct Kind {
  const char* name;
  void (*run)(const std::string& socket, const Begun& begun);
};
const Kind kFloods[] = {{"sessions", open_sessions},     {"silence", never_speak},          {"unread answers", never_read},
                        {"everything", hold_everything}, {"descriptors", send_descriptors}, {"nonsense", send_nonsense}};

// How long an honest client's requests take; empty: one of them failed.
std::vector<double> honest_work(const std::string& socket, int rounds) {
  std::vector<double> us;
  Client c(socket);
  const auto timed = [&](auto&& request) {
    const auto begin = std::chrono::steady_clock::now();
    Reply r = request();
    us.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count());
    EXPECT_EQ(r.err(), 0) << r.text;
    return r;
  };
  for (int i = 0; i < rounds && !::testing::Test::HasFailure(); ++i) {
    const auto map = timed([&] { return c.create(); });
    if (map.fds.empty()) break;
    const int token = map.fds[0].get();
    for (const unsigned role : {RINGBUF_PRODUCER, RINGBUF_CONSUMER, RINGBUF_OBSERVER}) {
      const auto a = timed([&] { return c.attach(token, role); });
      if (a.err() == 0) timed([&] { return c.detach(a.as<ringbuf_attach_reply>().attachment); });
    }
    timed([&] { return c.info(token); });
    timed([&] { return c.next_id(0); });
  }
  std::sort(us.begin(), us.end());
  return us;
}

void print_times(const char* what, const std::vector<double>& us) {
  const auto at = [&](double share) {
    return us[std::min(us.size() - 1, static_cast<std::size_t>(share * static_cast<double>(us.size())))];
  };
  std::printf("%-28s %5zu requests, us: median %.0f, p90 %.0f, p99 %.0f, longest %.0f\n", what, us.size(), at(0.5), at(0.9),
              at(0.99), us.back());
}

TEST(Flood, AnHonestClientIsServedBesideAllOfThemAndNothingStays) {
  RINGBUF_NEEDS_ROOT();
  FdLeakGuard leaks;
  daemon::Limits limits = daemon::kDefaultLimits;
  for (const auto& [resource, limit] : {std::pair{Resource::Maps, daemon::Limit{400, 60}},
                                        {Resource::Tokens, {800, 120}},
                                        {Resource::Sessions, {400, 60}},
                                        {Resource::Attachments, {800, 120}},
                                        {Resource::Pins, {400, 60}}})
    limits[static_cast<std::size_t>(resource)] = limit;
  // A map: C, P, kick; a token, a session: one; an attachment: one. An answer that waits for its reader: three. What a uid's
  // thread has to close: 40. And the daemon's own.
  constexpr unsigned kBound = 3 * 400 + 800 + 400 + 800 + 3 * 400 + 40 * std::size(kFloods) + 64;
  DaemonOf daemon(0, limits);
  const unsigned before = daemon.descriptors();
  print_times("alone", honest_work(daemon.socket(), 100));
  const auto flooded = [&](const char* name, std::span<const Kind> kinds) {
    std::vector<ChildProcess> floods;
    std::vector<Begun> begun(kinds.size());
    for (const Kind& kind : kinds)
      floods.emplace_back([&] {
        const uid_t uid = 3000 + static_cast<uid_t>(&kind - kFloods);
        if (!become(uid)) return 126;
        kind.run(daemon.socket(), begun[static_cast<std::size_t>(&kind - kinds.data())]);
        return 0;
      });
    for (const Begun& b : begun) b.wait();
    unsigned most = 0;
    std::vector<double> us;
    for (int part = 0; part < 5; ++part) {
      const auto more = honest_work(daemon.socket(), 30);
      us.insert(us.end(), more.begin(), more.end());
      most = std::max(most, daemon.descriptors());
    }
    std::sort(us.begin(), us.end());
    EXPECT_EQ(us.size(), 5u * 30 * 9) << "every request was served";
    print_times(name, us);
    EXPECT_LE(most, kBound);
    for (ChildProcess& f : floods) EXPECT_TRUE(f.running()) << "the flood did not last";
    std::printf("%-28s at most %u descriptors; %s\n", "", most, daemon.status("VmRSS").c_str());
  };
  for (const Kind& kind : kFloods) flooded(kind.name, std::span(&kind, 1));
  flooded("all at once", kFloods);
  {
    Client root(daemon.socket());
    for (unsigned n = 0; n < 200; ++n) (void)root.unpin(fmt::format("/flood/{}", n));
  }
  eventually([&] { return daemon.descriptors() == before; });
  std::printf("%-28s %u descriptors, as before; %s\n", "afterwards", daemon.descriptors(), daemon.status("VmRSS").c_str());
}

}  // namespace
}  // namespace ringbuf::test
