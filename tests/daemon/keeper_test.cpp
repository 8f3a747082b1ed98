// SPDX-License-Identifier: MIT
// What the daemon tells its keeper: everything, in order, and without ever waiting for it.
#include "daemon/keeper.hpp"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/un.h>

#include "harness.hpp"

namespace ringbuf::test {
namespace {

using daemon::Keeper;

UniqueFd some_file() { return UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)); }
UniqueFd new_file() { return UniqueFd(::memfd_create("keeper-test", MFD_CLOEXEC)); }
ino_t inode(int fd) {
  struct stat st {};
  EXPECT_EQ(::fstat(fd, &st), 0);
  return st.st_ino;
}
std::string stored(const std::string& name) { return "FDSTORE=1\nFDNAME=" + name + "\nFDPOLL=0"; }
std::string key(int i) { return fmt::format("{:05}", i); }

struct Told {
  std::string text;  // "" at the end
  std::vector<UniqueFd> fds;
};

// The keeper's end of the wire, which reads when the test says so.
class KeeperTest : public ::testing::TestWithParam<int> {
 private:
  FdLeakGuard leaks;

 protected:
  KeeperTest() {
    spdlog::set_level(spdlog::level::off);
    int ends[2];
    if (::socketpair(AF_UNIX, GetParam() | SOCK_CLOEXEC, 0, ends) < 0) std::abort();
    theirs.reset(ends[0]);
    const int small = 1;  // the kernel makes it its least
    ::setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    keeper.emplace(io, UniqueFd(ends[1]));
  }
  Told receive(int flags = MSG_DONTWAIT) {
    Frame frame;
    Told told;
    if (!recv_frame(theirs.get(), frame, flags).value_or(false)) return told;
    told.text.assign(reinterpret_cast<const char*>(frame.buffer.data()), frame.size);
    told.fds = std::move(frame.fds);
    return told;
  }
  // Lets the daemon do what it can do without waiting.
  void run() {
    io.restart();
    io.poll();
  }
  // More than the socket takes: how many.
  int fill() {
    int n = 0;
    const auto sent = std::make_shared<bool>();
    do {
      *sent = false;
      keeper->say(key(n++));
      keeper->when_sent([sent] { *sent = true; });
    } while (*sent);
    return n;
  }

  UniqueFd theirs;
  boost::asio::io_context io;
  std::optional<Keeper> keeper;
};

TEST_P(KeeperTest, SpeaksSystemdsWords) {
  const auto file = new_file();
  EXPECT_TRUE(keeper->store("m1", file.get()));
  keeper->remove("m1");
  keeper->say("READY=1");
  auto told = receive();
  EXPECT_EQ(told.text, stored("m1"));
  ASSERT_EQ(told.fds.size(), 1u);
  EXPECT_EQ(inode(told.fds[0].get()), inode(file.get()));
  told = receive();
  EXPECT_EQ(told.text, "FDSTOREREMOVE=1\nFDNAME=m1");
  EXPECT_TRUE(told.fds.empty());
  EXPECT_EQ(receive().text, "READY=1");
}

TEST_P(KeeperTest, WhatDoesNotFitWaitsInOrderAndBlocksNobody) {
  constexpr int kMany = 500;
  std::vector<ino_t> inodes;
  std::vector<int> called;
  for (int i = 0; i < kMany; ++i) {
    const auto file = new_file();  // closed at once: the queue has its own
    inodes.push_back(inode(file.get()));
    ASSERT_TRUE(keeper->store(key(i), file.get()));
    keeper->when_sent([&called, i] { called.push_back(i); });
  }
  const std::size_t at_once = called.size();
  ASSERT_LT(at_once, std::size_t{kMany}) << "the socket takes everything: nothing is shown";
  run();
  EXPECT_EQ(called.size(), at_once) << "nobody has read, and something was said to be sent";
  for (int i = 0; i < kMany; ++i) {
    auto told = receive();
    if (told.text.empty()) {
      run();
      told = receive();
    }
    ASSERT_EQ(told.text, stored(key(i)));
    ASSERT_EQ(told.fds.size(), 1u);
    EXPECT_EQ(inode(told.fds[0].get()), inodes[static_cast<std::size_t>(i)]);
    EXPECT_LE(called.size(), static_cast<std::size_t>(i) + 1 + at_once) << "called before what it waits for was sent";
  }
  run();
  ASSERT_EQ(called.size(), std::size_t{kMany});
  for (int i = 0; i < kMany; ++i) EXPECT_EQ(called[static_cast<std::size_t>(i)], i);
  EXPECT_EQ(receive().text, "");
}

TEST_P(KeeperTest, WhatIsQueuedByACallIsSentAfterWhatWasThere) {
  const int n = fill();
  keeper->when_sent([&] {
    keeper->say("from the call");
    keeper->when_sent([&] { keeper->say("at last"); });
  });
  keeper->say("behind the call");
  std::vector<std::string> texts;
  for (int idle = 0; idle < 2;) {
    run();
    if (auto told = receive(); told.text.empty()) ++idle;
    else texts.push_back(told.text), idle = 0;
  }
  ASSERT_EQ(texts.size(), static_cast<std::size_t>(n) + 3);
  EXPECT_EQ(texts[texts.size() - 3], "behind the call");
  EXPECT_EQ(texts[texts.size() - 2], "from the call");
  EXPECT_EQ(texts.back(), "at last");
}

TEST_P(KeeperTest, AKeeperThatIsGoneIsTalkedToNoMore) {
  theirs.reset();
  keeper->say("READY=1");
  EXPECT_FALSE(keeper->present());
  const auto file = some_file();
  EXPECT_TRUE(keeper->store("m1", file.get()));
  bool called = false;
  keeper->when_sent([&] { called = true; });
  EXPECT_TRUE(called) << "nothing to wait for";
}

TEST_P(KeeperTest, WhoWaitsIsCalledWhenTheKeeperIsGone) {
  fill();
  std::vector<int> called;
  for (int i = 0; i < 3; ++i) {
    const auto file = some_file();
    keeper->store(key(i), file.get());
    keeper->when_sent([&called, i] { called.push_back(i); });
  }
  theirs.reset();
  eventually([&] {
    run();
    return !keeper->present();
  });
  run();
  EXPECT_EQ(called, (std::vector{0, 1, 2}));
}

// The one who says it is in the middle of something.
TEST_P(KeeperTest, NobodyIsCalledFromWithinAnothersStore) {
  fill();
  bool called = false;
  keeper->when_sent([&] { called = true; });
  while (!receive().text.empty()) {}
  theirs.reset();
  const auto file = some_file();
  keeper->store("m1", file.get());
  EXPECT_FALSE(called);
  eventually([&] {
    run();
    return called;
  });
}

TEST_P(KeeperTest, AnAbandonedOneIsToldNothing) {
  const int n = fill();
  bool called = false;
  keeper->when_sent([&] { called = true; });
  keeper->abandon();
  keeper->remove("l");
  keeper->when_sent([&] { called = true; });
  EXPECT_TRUE(keeper->present()) << "it still keeps";
  io.run();  // there is nothing left to wait for
  for (int i = 0; i + 1 < n; ++i) EXPECT_EQ(receive().text, key(i));
  EXPECT_EQ(receive().text, "");
  EXPECT_FALSE(called);
}

TEST_P(KeeperTest, AShortageOfDescriptorsIsSaid) {
  fill();
  const auto file = some_file();
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{0, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  EXPECT_FALSE(keeper->store("m1", file.get()));
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_TRUE(keeper->store("m1", file.get()));
}

INSTANTIATE_TEST_SUITE_P(Sockets, KeeperTest, ::testing::Values(SOCK_DGRAM, SOCK_SEQPACKET),
                         [](const auto& p) { return p.param == SOCK_DGRAM ? "Datagram" : "Seqpacket"; });

class KeeperAlone : public ::testing::Test {
 private:
  FdLeakGuard leaks;

 protected:
  KeeperAlone() { spdlog::set_level(spdlog::level::off); }
  ~KeeperAlone() override {
    ::unsetenv("NOTIFY_SOCKET");
    ::unsetenv("RINGBUFD_KEEPER");
  }
  boost::asio::io_context io;
};

TEST_F(KeeperAlone, WithNoneEverythingIsSentAtOnce) {
  Keeper keeper(io, UniqueFd());
  EXPECT_FALSE(keeper.present());
  EXPECT_TRUE(keeper.store("m1", 0));
  bool called = false;
  keeper.when_sent([&] { called = true; });
  EXPECT_TRUE(called);
  EXPECT_EQ(io.run(), 0u) << "no work of its own";
}

// The supervisor may die while nothing is to be said.
TEST_F(KeeperAlone, TheEndOfASupervisorIsNoticed) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  Keeper keeper(io, UniqueFd(ends[1]));
  UniqueFd(ends[0]).reset();
  io.run();
  EXPECT_FALSE(keeper.present());
}

TEST_F(KeeperAlone, NotifySocketsAreFoundByPathAndByName) {
  TempDir dir;
  for (const std::string& name : {dir.path("notify"), fmt::format("@ringbufd-test-{}", ::getpid())}) {
    UniqueFd theirs(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_un a{};
    a.sun_family = AF_UNIX;
    std::memcpy(a.sun_path, name.data(), name.size());
    if (name[0] == '@') a.sun_path[0] = '\0';
    ASSERT_EQ(::bind(theirs.get(), reinterpret_cast<sockaddr*>(&a),
                     static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size())),
              0);
    ::setenv("NOTIFY_SOCKET", name.c_str(), 1);
    Keeper keeper(io, daemon::keeper_from_environment());
    EXPECT_EQ(std::getenv("NOTIFY_SOCKET"), nullptr) << "inherited by others";
    ASSERT_TRUE(keeper.present()) << name;
    keeper.say("READY=1");
    char text[64];
    ASSERT_EQ(::recv(theirs.get(), text, sizeof text, MSG_DONTWAIT), 7) << name;
    EXPECT_EQ(std::string(text, 7), "READY=1");
  }
}

TEST_F(KeeperAlone, TheSupervisorGoesBeforeTheServiceManager) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
  const UniqueFd theirs(ends[0]);
  ::setenv("RINGBUFD_KEEPER", std::to_string(ends[1]).c_str(), 1);
  ::setenv("NOTIFY_SOCKET", "/nonexistent", 1);
  const auto fd = daemon::keeper_from_environment();
  EXPECT_EQ(fd.get(), ends[1]);
  EXPECT_TRUE(::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC);
  EXPECT_EQ(std::getenv("NOTIFY_SOCKET"), nullptr);
  EXPECT_EQ(std::getenv("RINGBUFD_KEEPER"), nullptr);
}

TEST_F(KeeperAlone, AWatchdogIsHeededIfItIsMeantForUs) {
  const auto patience = [](const char* usec, const std::string& pid) {
    ::setenv("WATCHDOG_USEC", usec, 1);
    if (!pid.empty()) ::setenv("WATCHDOG_PID", pid.c_str(), 1);
    const auto result = daemon::watchdog_from_environment().count();
    EXPECT_EQ(std::getenv("WATCHDOG_USEC"), nullptr);
    EXPECT_EQ(std::getenv("WATCHDOG_PID"), nullptr);
    return result;
  };
  EXPECT_EQ(patience("30000000", std::to_string(::getpid())), 30'000'000);
  EXPECT_EQ(patience("5000", ""), 5000);
  EXPECT_EQ(patience("5000", "1"), 0);
  EXPECT_EQ(patience("5000", "x"), 0);
  for (const char* wrong : {"", "x", "-5", "5s", "99999999999999999999"}) EXPECT_EQ(patience(wrong, ""), 0) << wrong;
}

TEST_F(KeeperAlone, WhatIsNoKeeperIsNotTakenForOne) {
  const auto file = some_file();
  UniqueFd stream(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  for (const std::string& number :
       {std::to_string(file.get()), std::to_string(stream.get()), std::string("2"), std::string("99999"), std::string("x"),
        std::string(""), std::string("-1"), std::to_string(stream.get()) + "x"}) {
    ::setenv("RINGBUFD_KEEPER", number.c_str(), 1);
    EXPECT_FALSE(daemon::keeper_from_environment()) << number;
  }
  for (const std::string& path : {std::string("relative"), std::string(""), std::string("@"), std::string("/nonexistent/notify"),
                                  "/" + std::string(200, 'x'), std::string("vsock:2:1")}) {
    ::setenv("NOTIFY_SOCKET", path.c_str(), 1);
    EXPECT_FALSE(daemon::keeper_from_environment()) << path;
    EXPECT_EQ(std::getenv("NOTIFY_SOCKET"), nullptr);
  }
}

}  // namespace
}  // namespace ringbuf::test
