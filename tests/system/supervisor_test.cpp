// SPDX-License-Identifier: MIT
// ringbufd --supervise: whatever happens to the daemon, there is one again; and nothing gathers: no zombie, no descriptor.
#include <sys/ptrace.h>
#include <sys/user.h>

#include <algorithm>
#include <thread>

#include "daemon_process.hpp"
#include "support/fake_service_manager.hpp"
#include "support/stuck_file.hpp"

using namespace ringbuf::test;

namespace {

class Supervisor : public ::testing::Test {
 private:
  FdLeakGuard guard;

 protected:
  // By a service manager that it can talk to; that is how its readiness is seen.
  void start(std::vector<std::string> more = {}) {
    more.insert(more.begin(), {RINGBUFD_PATH, "--supervise", "--socket", socket});
    manager.start(more);
  }
  void ready() { ASSERT_EQ(manager.told("STATUS=Serving "), socket); }
  pid_t daemon() const {
    const auto children = children_of(manager.pid());
    EXPECT_EQ(children.size(), 1u) << "no daemon, or a zombie";
    return children.empty() ? -1 : children.front();
  }
  bool answers() const {
    ringbuf_session* session = nullptr;
    const int r = ringbuf_connect(socket.c_str(), &session);
    const SessionPtr ends(session);
    return r == 0;
  }
  FakeServiceManager manager;
  std::string socket = manager.path("s");
};

TEST_F(Supervisor, StartsOneAndEndsWithIt) {
  for (const int signal : {SIGTERM, SIGINT}) {
    start();
    ready();
    EXPECT_TRUE(answers());
    const pid_t pid = daemon();
    manager.kill(signal);
    EXPECT_EQ(manager.told("STOPPING="), "1");
    EXPECT_EQ(manager.wait(), 0);
    EXPECT_EQ(::kill(pid, 0), -1) << "the daemon is left";
    EXPECT_FALSE(std::filesystem::exists(socket)) << "the socket is left";
  }
  EXPECT_TRUE(manager.store().empty()) << "it keeps them itself";
  EXPECT_EQ(manager.strangers(), 0);
}

TEST_F(Supervisor, KilledFiftyTimesInARowItIsThereAgain) {
  start();
  ready();
  const auto kill_it = [&] {
    const pid_t before = daemon();
    ::kill(before, SIGKILL);
    while (children_of(manager.pid()) == std::vector{before}) std::this_thread::yield();  // it dies when it comes to that
  };
  kill_it();
  ready();
  struct stat first {
  }, last{};
  ASSERT_EQ(::stat(socket.c_str(), &first), 0);
  const auto own = descriptors_at_rest(manager.pid()), theirs = descriptors_at_rest(daemon());
  for (int i = 0; i < 50; ++i) {
    kill_it();
    ASSERT_TRUE(answers()) << "who connects meanwhile waits, and no longer";
    ready();
  }
  kill_it();
  ready();
  EXPECT_EQ(descriptors_at_rest(manager.pid()), own);
  EXPECT_EQ(descriptors_at_rest(daemon()), theirs);
  ASSERT_EQ(::stat(socket.c_str(), &last), 0);
  EXPECT_EQ(first.st_ino, last.st_ino);
  EXPECT_EQ(manager.wait(SIGTERM), 0);
}

TEST_F(Supervisor, TheDaemonHasNoDescriptorThatIsNotItsOwn) {
  const auto foreign = manager.path("foreign");
  const int leak = ::open(foreign.c_str(), O_RDWR | O_CREAT, 0600);  // inherited by whatever is started
  start();
  ::close(leak);
  ready();
  const auto parents = descriptors_of(manager.pid());
  ASSERT_NE(std::find(parents.begin(), parents.end(), foreign), parents.end()) << "nothing is shown";
  const auto count = [&](pid_t pid) {
    const auto fds = descriptors_of(pid);
    EXPECT_EQ(std::count(fds.begin(), fds.end(), foreign), 0);
    EXPECT_EQ(std::count(fds.begin(), fds.end(), "anon_inode:[signalfd]"), 1) << "its own, not the supervisor's";
    return fds.size();
  };
  const auto first = count(daemon());
  ::kill(daemon(), SIGKILL);
  ready();
  EXPECT_EQ(count(daemon()), first) << "what is handed on is what the first one made";
}

TEST_F(Supervisor, WhatCannotServeIsNotTriedAgain) {
  start({"--max-maps", "x"});
  EXPECT_TRUE(manager.says("--max-maps must be"));
  EXPECT_EQ(manager.wait(), 2);
  manager.start({RINGBUFD_PATH, "--supervise", "--socket", manager.path("no/such/dir/s")});
  EXPECT_TRUE(manager.says("No such file or directory"));
  EXPECT_EQ(manager.wait(), 1);
  Daemon other;
  manager.start({RINGBUFD_PATH, "--supervise", "--socket", other.socket()});
  EXPECT_TRUE(manager.says("another ringbufd serves"));
  EXPECT_EQ(manager.wait(), 1);
  EXPECT_TRUE(std::filesystem::exists(other.socket()));
}

TEST_F(Supervisor, AnyOtherEndIsAReasonToStartAgain) {
  start();
  ready();
  ::kill(daemon(), SIGTERM);
  EXPECT_TRUE(manager.says("ended with status 0; starting it again in 100 ms"));
  ready();
  ::kill(daemon(), SIGABRT);
  EXPECT_TRUE(manager.says("was killed by signal 6; starting it again in 200 ms"));
  ready();
  ::kill(daemon(), SIGKILL);
  EXPECT_TRUE(manager.says("was killed by signal 9; starting it again\n")) << "nothing that it did itself";
  ready();
  EXPECT_FALSE(manager.was_told("STOPPING=1")) << "the service goes on";
  EXPECT_TRUE(answers());
}

TEST_F(Supervisor, SighupReachesTheDaemon) {
  const auto config = manager.path("ringbufd.toml");
  std::ofstream(config) << "log_level = \"warn\"\n";
  start({"--config", config});
  ready();
  std::ofstream(config) << "log_level = \"info\"\n";
  manager.kill(SIGHUP);
  EXPECT_EQ(manager.told("RELOADING="), "1");
  EXPECT_EQ(manager.told("READY="), "1");
  EXPECT_TRUE(manager.says("options read again"));
  const pid_t pid = daemon();
  ::kill(pid, SIGKILL);
  EXPECT_TRUE(manager.says("killed by signal 9")) << "its own log level has changed too";
}

// What a client had is closed by the daemon and by who keeps it, and one of them has the last copy.
TEST_F(Supervisor, WhatAClientKeepsItFromClosingDoesNotStopIt) {
  RINGBUF_NEEDS_FUSE();
  start();
  ready();
  const auto connect = [&] {
    ringbuf_session* session = nullptr;
    must(ringbuf_connect(socket.c_str(), &session), "ringbuf_connect");
    return SessionPtr(session);
  };
  const auto session = connect();
  const auto map = create_map(session, "events");
  const std::uint32_t id = info_of(map).id;
  for (int i = 0; i < 20; ++i) {
    const FdChannel channel;
    ChildProcess client([&] {
      const auto own = connect();
      const auto opened = open_id(own, id);
      const auto consumer = consumer_of(opened, nullptr, nullptr);
      channel.send(ringbuf_consumer_epoll_fd(consumer.get()));
      ::pause();
      return 0;
    });
    const ringbuf::UniqueFd ready_one(::eventfd(1, EFD_CLOEXEC));
    const auto epoll = epoll_of({ready_one.get(), ringbuf::UniqueFd(channel.receive()).get()});
    const StuckCall on_epoll(wait_on(epoll.get()));
    client.kill(SIGKILL);
    client.wait();
    eventually([&] { return info_of(map).consumers == 0; });
    manager.kill(SIGHUP);
    ASSERT_EQ(manager.told("RELOADING="), "1");
    ASSERT_EQ(manager.told("READY="), "1");
  }
}

TEST_F(Supervisor, WithoutItTheDaemonGoesOn) {
  start();
  ready();
  const pid_t pid = daemon();
  EXPECT_EQ(manager.wait(SIGKILL), 256 + SIGKILL);
  EXPECT_TRUE(manager.says("the keeper of this daemon's descriptors is gone"));
  EXPECT_TRUE(answers());
  ::kill(pid, SIGTERM);
  EXPECT_FALSE(manager.says("no such line")) << "its log has ended: so has it";
  EXPECT_FALSE(std::filesystem::exists(socket)) << "nobody else would remove it";
}

// One that is started again has its socket from the former one.
TEST_F(Supervisor, WithoutItALaterDaemonRemovesTheSocketToo) {
  start();
  ready();
  ::kill(daemon(), SIGKILL);
  ready();
  const pid_t pid = daemon();
  EXPECT_EQ(manager.wait(SIGKILL), 256 + SIGKILL);
  EXPECT_TRUE(manager.says("the keeper of this daemon's descriptors is gone"));
  ::kill(pid, SIGTERM);
  EXPECT_FALSE(manager.says("no such line"));
  EXPECT_FALSE(std::filesystem::exists(socket));
}

TEST_F(Supervisor, WhileThereIsNoDaemonItsPlaceIsTaken) {
  start();
  ready();
  ::kill(manager.pid(), SIGSTOP);
  int status = 0;
  ASSERT_EQ(::waitpid(manager.pid(), &status, WUNTRACED), manager.pid());
  const pid_t pid = daemon();
  ::kill(pid, SIGKILL);
  Program second({RINGBUFD_PATH, "--socket", socket}, STDERR_FILENO);
  EXPECT_NE(second.rest().find("another ringbufd serves"), std::string::npos);
  EXPECT_EQ(second.end(), 1);
  ::kill(manager.pid(), SIGCONT);
  ready();
  EXPECT_TRUE(answers());
}

TEST_F(Supervisor, AHungDaemonIsReplacedAndTheManagerHearsNothingOfIt) {
  manager.set_watchdog(400);
  start();
  ready();
  const pid_t hung = daemon();
  ::kill(hung, SIGSTOP);
  EXPECT_TRUE(manager.says("has given no sign of life"));
  ready();
  EXPECT_NE(daemon(), hung);
  EXPECT_TRUE(answers());
  for (int i = 0; i < 3; ++i) EXPECT_EQ(manager.told("WATCHDOG="), "1");
}

TEST_F(Supervisor, ActivatedSocketsGoToEachDaemon) {
  manager.listen_at(socket);
  ChildProcess early([&] { return answers() ? 0 : 1; });
  manager.start({RINGBUFD_PATH, "--supervise", "--socket", manager.path("unused")});
  ready();
  EXPECT_EQ(early.exit_code(), 0);
  ::kill(daemon(), SIGKILL);
  ready();
  EXPECT_TRUE(answers());
  EXPECT_EQ(manager.wait(SIGTERM), 0);
  EXPECT_TRUE(std::filesystem::exists(socket)) << "it belongs to the manager";
}

#ifdef __x86_64__
// recvmsg(2) says `err` to `pid`, once. f() is what makes it call that.
template <class F>
void fail_recvmsg(pid_t pid, int err, F&& f) {
  int status = 0;
  const auto await = [&] { return ::waitpid(pid, &status, 0) == pid && WIFSTOPPED(status); };
  ASSERT_EQ(::ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACESYSGOOD), 0);
  ASSERT_EQ(::ptrace(PTRACE_INTERRUPT, pid, 0, 0), 0);
  ASSERT_TRUE(await());
  f();
  user_regs_struct regs{};
  do {  // a stop before the call; its rax says so
    ASSERT_EQ(::ptrace(PTRACE_SYSCALL, pid, 0, 0), 0);
    ASSERT_TRUE(await());
    ASSERT_EQ(::ptrace(PTRACE_GETREGS, pid, 0, &regs), 0);
  } while (WSTOPSIG(status) != (SIGTRAP | 0x80) || regs.orig_rax != SYS_recvmsg || static_cast<long long>(regs.rax) != -ENOSYS);
  regs.orig_rax = ~0ull;  // no call
  ASSERT_EQ(::ptrace(PTRACE_SETREGS, pid, 0, &regs), 0);
  ASSERT_EQ(::ptrace(PTRACE_SYSCALL, pid, 0, 0), 0);
  ASSERT_TRUE(await());
  ASSERT_EQ(::ptrace(PTRACE_GETREGS, pid, 0, &regs), 0);
  regs.rax = static_cast<unsigned long long>(-static_cast<long long>(err));
  ASSERT_EQ(::ptrace(PTRACE_SETREGS, pid, 0, &regs), 0);
  ASSERT_EQ(::ptrace(PTRACE_DETACH, pid, 0, 0), 0);
}

// What is kept is then not what the daemon has, so the next one must not be given it.
TEST_F(Supervisor, ADaemonThatCannotBeHeardIsReplacedByOneThatBeginsAfresh) {
  start();
  ready();
  ringbuf_session* connected = nullptr;
  must(ringbuf_connect(socket.c_str(), &connected), "ringbuf_connect");
  const SessionPtr session(connected);
  const auto map = create_map(session, "lost");
  ASSERT_EQ(ringbuf_map_pin(map.get(), "/lost"), 0);
  const auto producer = producer_of(map);
  Gather gather;
  const auto consumer = consumer_of(map, Gather::call, &gather);
  const pid_t unheard = daemon();
  fail_recvmsg(manager.pid(), ENOMEM, [&] { ::kill(unheard, SIGHUP); });  // it says that it reads its options again
  EXPECT_TRUE(manager.says("cannot hear ringbufd, pid " + std::to_string(unheard) + ": " + std::strerror(ENOMEM)));
  EXPECT_TRUE(manager.says("was killed by signal 9; starting it again"));
  ready();
  EXPECT_EQ(::kill(unheard, 0), -1) << "it is left";
  ringbuf_map_info info;
  int told = ringbuf_map_get_info(map.get(), &info, sizeof info);
  if (told == -ECONNRESET) told = ringbuf_map_get_info(map.get(), &info, sizeof info);
  EXPECT_EQ(told, -EINVAL) << "a token of the former daemon";
  EXPECT_NE(std::string(ringbuf_last_error()), "");
  ringbuf_map* pinned = nullptr;
  EXPECT_EQ(ringbuf_map_open_pinned(session.get(), "/lost", 0, &pinned), -ENOENT);
  EXPECT_EQ(put(producer, "goes on"), 0) << "the ring is theirs";
  EXPECT_EQ(ringbuf_consume(consumer.get()), 1);
  // What the next one makes is kept again.
  const auto fresh = create_map(session, "fresh");
  const auto id = info_of(fresh).id;
  ::kill(daemon(), SIGKILL);
  ready();
  EXPECT_EQ(info_of(fresh).id, id);
  EXPECT_EQ(manager.wait(SIGTERM), 0);
  EXPECT_FALSE(std::filesystem::exists(socket));
}
#endif

TEST_F(Supervisor, WhatItCannotKeepIsSaid) {
  manager.start({"/bin/sh", "-c", "ulimit -n 31; exec \"$0\" \"$@\"", RINGBUFD_PATH, "--supervise", "--socket", socket});
  EXPECT_TRUE(manager.says("RLIMIT_NOFILE is 31: descriptor 'state' and others are not kept"));
  ready();
  ::kill(daemon(), SIGKILL);
  ready();
  EXPECT_TRUE(answers()) << "a new one, on a new socket";
}

TEST_F(Supervisor, ADaemonThatDoesNotStopIsKilledWhenAskedTwice) {
  start();
  ready();
  const pid_t pid = daemon();
  ::kill(pid, SIGSTOP);
  manager.kill(SIGTERM);
  EXPECT_EQ(manager.told("STOPPING="), "1");
  manager.kill(SIGTERM);
  EXPECT_EQ(manager.wait(), 0);
  EXPECT_EQ(::kill(pid, 0), -1);
  EXPECT_FALSE(std::filesystem::exists(socket));
}

}  // namespace
