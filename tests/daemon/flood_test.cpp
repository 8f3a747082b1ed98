// SPDX-License-Identifier: MIT
// Floods of every kind beside an honest client: it is served, the daemon stays within its limits, and afterwards it holds
// nothing.
#include <spdlog/sinks/base_sink.h>
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

[[noreturn]] void keep_asking(const std::string& socket, const Begun& begun) {
  Sessions held;
  for (int i = 0; i < 50; ++i) held.push_back(std::make_unique<Client>(socket));  // with its lease
  for (;; begun.tell())
    for (const auto& c : held) {
      drain(*c);
      while (c->request(RINGBUF_MAP_GET_NEXT_ID, ringbuf_next_id_req{0, 0}, {}, MSG_DONTWAIT)) {}
    }
}

struct Kind {
  const char* name;
  void (*run)(const std::string& socket, const Begun& begun);
};
const Kind kFloods[] = {{"sessions", open_sessions},     {"silence", never_speak},          {"unread answers", never_read},
                        {"everything", hold_everything}, {"descriptors", send_descriptors}, {"nonsense", send_nonsense},
                        {"requests", keep_asking}};

// Those of the daemon that they meet: they reach every one of them.
daemon::Limits tight_limits() {
  daemon::Limits limits = daemon::kDefaultLimits;
  for (const auto& [resource, limit] : {std::pair{Resource::Maps, daemon::Limit{400, 60}},
                                        {Resource::Tokens, {800, 120}},
                                        {Resource::Sessions, {400, 60}},
                                        {Resource::Attachments, {800, 120}},
                                        {Resource::Pins, {400, 60}}})
    limits[static_cast<std::size_t>(resource)] = limit;
  return limits;
}

// Each of another user; all of them have gone round once.
std::vector<ChildProcess> start(std::span<const Kind> kinds, const std::string& socket) {
  std::vector<ChildProcess> floods;
  std::vector<Begun> begun(kinds.size());
  for (const Kind& kind : kinds)
    floods.emplace_back([&] {
      const uid_t uid = 3000 + static_cast<uid_t>(&kind - kFloods);
      if (!become(uid)) return 126;
      kind.run(socket, begun[static_cast<std::size_t>(&kind - kinds.data())]);
      return 0;
    });
  for (const Begun& b : begun) b.wait();
  return floods;
}

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
  // A map: C, P, kick; a token, a session: one; an attachment: one. An answer that waits for its reader: three. What a uid's
  // thread has to close: 40. And the daemon's own.
  constexpr unsigned kBound = 3 * 400 + 800 + 400 + 800 + 3 * 400 + 40 * std::size(kFloods) + 64;
  DaemonOf daemon(0, tight_limits());
  const unsigned before = daemon.descriptors_at_rest();
  print_times("alone", honest_work(daemon.socket(), 100));
  const auto flooded = [&](const char* name, std::span<const Kind> kinds) {
    auto floods = start(kinds, daemon.socket());
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

// Counts the requests that the daemon has answered, by its log.
class Answered : public spdlog::sinks::base_sink<spdlog::details::null_mutex> {
 public:
  std::uint64_t n = 0;

 private:
  void sink_it_(const spdlog::details::log_msg& line) override {
    const std::string_view text(line.payload.data(), line.payload.size());
    n += text.ends_with(" done") || text.find(" refused: ") != text.npos;
  }
  void flush_() override {}
};

// A daemon that counts what it does: answers, and steps, in each of which it looks at one session, lets one connection in, or has
// one turn of the reaper, whose work is bounded as well (ReaperTest). The honest client is in its process and looks for the
// answer after each step: who else has the CPU meanwhile does not count.
class CountedDaemon {
 public:
  struct Requests {
    unsigned n, failed;
    std::uint64_t steps, answers;  // the most before one of them was answered
  };

  explicit CountedDaemon(const daemon::Limits& limits) {
    int order[2], told[2];
    if (::pipe2(order, O_CLOEXEC | O_NONBLOCK) < 0 || ::pipe2(told, O_CLOEXEC) < 0) std::abort();
    const UniqueFd ordered(order[0]);
    UniqueFd tell(told[1]);
    order_.reset(order[1]);
    told_.reset(told[0]);
    child_ = std::make_unique<ChildProcess>([&] {
      const auto answered = std::make_shared<Answered>();
      spdlog::set_default_logger(std::make_shared<spdlog::logger>("", answered));
      spdlog::set_level(spdlog::level::debug);
      boost::asio::io_context io;
      const auto server = daemon::Server::start(io, {socket(), 0666, limits});
      return server ? serve(io, answered->n, ordered.get(), tell.get()) : 1;
    });
  }
  std::string socket() const { return dir_.path("s"); }
  // What the honest client has asked for, and what it has waited for, in at least so many steps.
  Requests requests(std::uint32_t least) {
    Requests r{};
    if (::write(order_.get(), &least, sizeof least) != sizeof least || ::read(told_.get(), &r, sizeof r) != sizeof r)
      ADD_FAILURE() << "it has ended";
    return r;
  }

 private:
  int serve(boost::asio::io_context& io, const std::uint64_t& answers, int ordered, int tell) const {
    Requests all{};
    std::uint64_t total = 0;
    const auto step = [&] { return io.run_one_for(std::chrono::milliseconds(10)); };
    Client honest(socket(), Client::Silent{});
    const auto call = [&](unsigned cmd, const auto& body, std::vector<int> fds = {}) {
      honest.request(cmd, body, std::move(fds));
      std::uint64_t steps = 0;
      const std::uint64_t before = answers;
      for (pollfd answered{honest.fd(), POLLIN, 0}; ::poll(&answered, 1, 0) == 0;) steps += step();
      Reply r = honest.receive();
      ++all.n;
      all.failed += r.err() != 0;
      total += steps;
      all.steps = std::max(all.steps, steps);
      all.answers = std::max(all.answers, answers - before);
      return r;
    };
    const Reply lease = call(RINGBUF_HELLO, Client::hello_req());
    for (std::uint32_t least;; step()) {
      if (::read(ordered, &least, sizeof least) != sizeof least) continue;
      all = {};
      total = 0;
      for (int round = 0; (round < 30 || total < least) && all.failed == 0; ++round) {
        const Reply map = call(RINGBUF_MAP_CREATE, Client::spec());
        if (map.fds.empty()) break;
        const int token = map.fds[0].get();
        for (const std::uint32_t role : {RINGBUF_PRODUCER, RINGBUF_CONSUMER, RINGBUF_OBSERVER}) {
          call(RINGBUF_ATTACH, ringbuf_attach_req{role, role}, {token});
          call(RINGBUF_DETACH, ringbuf_detach_req{role, 0});
        }
        call(RINGBUF_OBJ_GET_INFO_BY_FD, std::uint32_t{0}, {token});
      }
      if (::write(tell, &all, sizeof all) != sizeof all) return 1;
    }
  }

  TempDir dir_;
  UniqueFd order_, told_;
  std::unique_ptr<ChildProcess> child_;
};

// Two turns: its request may come when its own has just been.
TEST(Flood, AnHonestClientWaitsForTwoTurnsOfEachSession) {
  RINGBUF_NEEDS_ROOT();
  FdLeakGuard leaks;
  const daemon::Limits limits = tight_limits();
  CountedDaemon daemon(limits);
  const auto flooded = [&](const char* name, std::span<const Kind> kinds) {
    auto floods = start(kinds, daemon.socket());
    const auto r = daemon.requests(kinds.empty() ? 0 : 5000);
    std::printf("%-16s %u requests, each answered after at most %lu steps, with %lu answers\n", name, r.n, r.steps, r.answers);
    EXPECT_GE(r.n, 30u * 8);
    EXPECT_EQ(r.failed, 0u);
    const std::uint64_t turns = 2 * kinds.size() * limits[static_cast<std::size_t>(Resource::Sessions)].per_uid;
    EXPECT_LE(r.answers, turns + 2) << name;
    EXPECT_LE(r.steps, turns + 16) << name;  // and those of what it always waits for
    for (ChildProcess& f : floods) EXPECT_TRUE(f.running()) << "the flood did not last";
  };
  flooded("nobody", {});
  for (const Kind& kind : kFloods) flooded(kind.name, std::span(&kind, 1));
  flooded("all at once", kFloods);
}

}  // namespace
}  // namespace ringbuf::test
