// SPDX-License-Identifier: MIT
// ringbufd while the kernel says no: each system call of each request fails once, for want of something or because it was
// interrupted. The client gets an errno with a sentence, or loses its session; nothing is left of it; others are served as
// before. Likewise for the daemon's start and end, and for its start with what another one has left.
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <thread>

#include "crash/kept_world.hpp"
#include "daemon/harness.hpp"
#include "fault/tracer.hpp"

namespace ringbuf::test {
namespace {

class TracedDaemon {
 public:
  // With `nth` the nth call of main() fails.
  explicit TracedDaemon(const std::string& socket, unsigned nth = 0, Trouble trouble = Trouble::Want) {
    int log[2];
    if (::pipe2(log, O_CLOEXEC) < 0) std::abort();
    log_.reset(log[0]);
    std::promise<pid_t> pid;
    auto started = pid.get_future();
    thread_ = std::thread([this, &pid, socket, nth, trouble, out = UniqueFd(log[1])]() mutable {
      const pid_t child = ::fork();
      if (child == 0) {
        ::ptrace(PTRACE_TRACEME, 0, 0, 0);
        ::dup2(out.get(), STDERR_FILENO);
        ::execl(RINGBUFD_PATH, RINGBUFD_PATH, "--socket", socket.c_str(), nullptr);
        ::_exit(127);
      }
      out.reset();
      pid.set_value(child);
      // main() begins by looking at the standard descriptors; what comes before is the loader's.
      status_ = tracer.follow(child, [&, begun = false](long nr, const std::uint64_t* args) mutable {
        if (begun || nr != SYS_fcntl || args[0] != 0 || args[1] != F_GETFD) return;
        begun = true;
        if (nth) tracer.fail(nth, trouble);
      });
    });
    pid_ = started.get();
  }
  ~TracedDaemon() {
    if (thread_.joinable()) end(SIGKILL);
  }

  // Up to a line with `word`, or to the end of what it says: false.
  bool says(const char* word) {
    char c;
    for (std::string line; ::read(log_.get(), &c, 1) == 1;) {
      said += c;
      line += c;
      if (c != '\n') continue;
      if (line.find(word) != line.npos) return true;
      line.clear();
    }
    return false;
  }
  // The exit status, or 256 + the signal.
  int end(int signal = 0) {
    if (signal) ::kill(pid_, signal);
    thread_.join();
    says("\1");
    return WIFEXITED(status_) ? WEXITSTATUS(status_) : 256 + WTERMSIG(status_);
  }
  int fds() const {
    int n = 0;
    std::error_code ec;
    for ([[maybe_unused]] const auto& e : std::filesystem::directory_iterator("/proc/" + std::to_string(pid_) + "/fd", ec)) ++n;
    return n;
  }

  Tracer tracer;
  std::string said;

 private:
  UniqueFd log_;
  pid_t pid_ = -1;
  int status_ = 0;
  std::thread thread_;
};

class DaemonSyscalls : public ::testing::TestWithParam<Trouble> {
 protected:
  // Does `request` as a client of its own, whose nth call fails, for each n.
  void fail_each(const char* name, const std::function<void(Client&)>& prepare, const std::function<Reply(Client&)>& request) {
    SCOPED_TRACE(name);
    Client good(socket_);
    const Reply mine = good.create(Client::spec(4096, "good"));
    ASSERT_EQ(mine.err(), 0) << mine.text;
    {
      Client warm(socket_);  // some things are made once
      prepare(warm);
      ASSERT_EQ(request(warm).err(), 0);
      kept_.clear();
    }
    tidy(good);
    unsigned nth = 1, refused = 0, ended = 0;
    const int fds = settled(good);
    for (bool failed = true; failed; ++nth) {
      SCOPED_TRACE(nth);
      {
        Client victim(socket_);
        kept_.clear();
        prepare(victim);
        daemon_.tracer.fail(nth, GetParam());
        Reply reply = request(victim);
        const long call = daemon_.tracer.stop();
        failed = call >= 0;
        SCOPED_TRACE(call);
        EXPECT_TRUE(failed || reply.err() == 0) << reply.text;
        if (reply.closed) {
          ++ended;
        } else if (reply.err() != 0) {
          ++refused;
          EXPECT_NE(reply.text, "");
          EXPECT_LT(reply.err(), 134);
          reply = request(victim);
          EXPECT_EQ(reply.err(), 0) << "again: " << reply.text;
        }
        kept_.clear();
      }
      tidy(good);
      eventually([&] { return settled(good) == fds; });  // else something has leaked
    }
    std::printf("%-28s %3u calls: %2u refusals, %2u sessions ended\n", name, nth - 2, refused, ended);
  }
  void tidy(Client& good) {
    good.unpin("/victim");
    eventually([&] {  // good's own map has the lowest id
      const Reply r = good.next_id(0);
      return r.err() == 0 && good.next_id(r.as<ringbuf_next_id_reply>().next_id).err() == ENOENT;
    });
  }
  int settled(Client& good) {
    EXPECT_EQ(good.next_id(0).err(), 0) << "another client is not served";
    return daemon_.fds();
  }
  // The first descriptor of a reply, held until the round is over.
  int keep(Reply r) {
    kept_.push_back(std::move(r));
    return kept_.back().fds.empty() ? -1 : kept_.back().fds[0].get();
  }
  int ring(Client& c) { return keep(c.create(Client::spec(4096, "victim"))); }
  int outer(Client& c, std::uint32_t type) {
    const int inner = ring(c);
    return keep(c.call(RINGBUF_MAP_CREATE, outer_spec(type), {inner}));
  }
  static ringbuf_map_create_req outer_spec(std::uint32_t type) {
    ringbuf_map_create_req req = Client::spec(4, "victim");
    req.map_type = type;
    req.key_size = req.value_size = 4;
    return req;
  }
  static ringbuf_elem_req element() {
    ringbuf_elem_req req{};
    req.key_size = 4;
    return req;
  }
  int kept(std::size_t i) const { return kept_.at(i).fds.at(0).get(); }

  TempDir directory_;
  const std::string socket_ = directory_.path("s");
  TracedDaemon daemon_{socket_};
  std::vector<Reply> kept_;
};

TEST_P(DaemonSyscalls, EachOfEachRequestFails) {
  ASSERT_TRUE(daemon_.says("ready"));
  const auto nothing = [](Client&) {};
  const auto a_ring = [&](Client& c) { ring(c); };
  fail_each("connect and HELLO", nothing, [&](Client&) {
    Client c(socket_, Client::Silent{});
    return c.call(RINGBUF_HELLO, Client::hello_req());
  });
  fail_each("create a ring", nothing, [](Client& c) { return c.create(Client::spec(4096, "victim")); });
  for (const std::uint32_t type : {12u, 13u})
    fail_each("create a map of maps", a_ring, [&](Client& c) { return c.call(RINGBUF_MAP_CREATE, outer_spec(type), {kept(0)}); });
  for (const unsigned role : {RINGBUF_PRODUCER, RINGBUF_CONSUMER, RINGBUF_OBSERVER})
    fail_each("attach", a_ring, [&](Client& c) { return c.attach(kept(0), role); });
  fail_each(
      "attach beside others",
      [&](Client& c) {
        ring(c);
        keep(c.attach(kept(0), RINGBUF_PRODUCER));
      },
      [&](Client& c) { return c.attach(kept(0), RINGBUF_CONSUMER); });
  fail_each(
      "attach to a map of maps", [&](Client& c) { outer(c, 12); },
      [&](Client& c) { return c.attach(kept(1), RINGBUF_OBSERVER); });
  fail_each(
      "detach",
      [&](Client& c) {
        ring(c);
        keep(c.attach(kept(0), RINGBUF_PRODUCER));
      },
      [](Client& c) { return c.detach(1); });
  fail_each("pin", a_ring, [&](Client& c) {
    Reply r = c.pin("/victim", kept(0));
    if (r.err() == 0) c.unpin("/victim");
    return r;
  });
  fail_each(
      "get",
      [&](Client& c) {
        ring(c);
        c.pin("/victim", kept(0));
      },
      [](Client& c) { return c.get("/victim"); });
  fail_each(
      "update an element", [&](Client& c) { outer(c, 13); },
      [&](Client& c) {
        return c.call(RINGBUF_MAP_UPDATE_ELEM, element(), {kept(1), kept(0)});
      });
  fail_each(
      "open and delete an element",
      [&](Client& c) {
        outer(c, 13);
        c.call(RINGBUF_MAP_UPDATE_ELEM, element(), {kept(1), kept(0)});
      },
      [&](Client& c) {
        Reply r = c.call(RINGBUF_MAP_GET_FD_BY_KEY, element(), {kept(1)});
        return r;
      });
  fail_each("info", a_ring, [&](Client& c) { return c.info(kept(0)); });
  EXPECT_EQ(daemon_.end(SIGTERM), 0) << daemon_.said;
}

TEST_P(DaemonSyscalls, EachOfStartFails) {
  unsigned ended = 0, nth = 1;
  for (bool failed = true; failed; ++nth) {
    SCOPED_TRACE(nth);
    TracedDaemon daemon(directory_.path("t"), nth, GetParam());
    const bool ready = daemon.says("ready");
    const long call = daemon.tracer.stop();
    failed = call >= 0;
    SCOPED_TRACE(call);
    if (ready) {
      Client c(directory_.path("t"));
      EXPECT_EQ(c.hello().err(), 0);
      c.close();
      EXPECT_EQ(daemon.end(SIGTERM), 0) << daemon.said;
    } else {
      ++ended;
      EXPECT_EQ(daemon.end(), 1) << daemon.said;
      EXPECT_TRUE(failed);
      EXPECT_NE(daemon.said, "") << "it says why";
    }
  }
  std::printf("start: %u calls, %u times it did not start\n", nth - 2, ended);
}

// A start that fails takes nothing away: the next one finds all that was kept, and nobody who lives is taken for dead.
TEST_P(DaemonSyscalls, EachOfTakingOverFails) {
  KeptWorld world;
  Bystander other(world.socket());
  world.daemon.kill();  // as all the others
  world.restart({&*world.good, &other});
  const std::string room = world.room(), at_rest = world.snapshot();
  Tracer tracer;
  unsigned ended = 0, nth = 1;
  for (bool failed = true; failed && !HasFailure(); ++nth) {
    world.daemon.kill();
    const bool ready = world.daemon.start_failing(tracer, nth, GetParam());
    const long call = tracer.stop();
    failed = call >= 0;
    SCOPED_TRACE(fmt::format("{}: call {}, {}", nth, call, world.daemon.said()));
    if (!ready) {
      ++ended;
      EXPECT_TRUE(failed);
      EXPECT_NE(world.daemon.said(), "") << "it says why";
    }
    world.restart({&*world.good, &other});
    if (HasFatalFailure()) return;
    other.is_untouched();
    EXPECT_EQ(world.snapshot(), at_rest);
    world.is_sound();
  }
  EXPECT_EQ(world.room(), room);
  std::printf("take over: %u calls, %u times it did not start\n", nth - 2, ended);
}

TEST_P(DaemonSyscalls, EachOfStopFails) {
  unsigned nth = 1;
  for (bool failed = true; failed; ++nth) {
    SCOPED_TRACE(nth);
    TracedDaemon daemon(directory_.path("t"));
    ASSERT_TRUE(daemon.says("ready")) << daemon.said;
    {
      Client c(directory_.path("t"));
      const Reply map = c.create();
      const Reply attached = c.attach(map.fds.at(0).get(), RINGBUF_PRODUCER);
      EXPECT_EQ(attached.err(), 0);
      daemon.tracer.fail(nth, GetParam());
      const int status = daemon.end(SIGTERM);
      EXPECT_LE(status, 1) << daemon.said;
    }
    failed = daemon.tracer.stop() >= 0;
  }
  std::printf("stop: %u calls\n", nth - 2);
}

INSTANTIATE_TEST_SUITE_P(Trouble, DaemonSyscalls, ::testing::Values(Trouble::Want, Trouble::Interruption),
                         [](const auto& kind) { return kind.param == Trouble::Want ? "Want" : "Interruption"; });

}  // namespace
}  // namespace ringbuf::test
