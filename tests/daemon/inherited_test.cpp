// SPDX-License-Identifier: MIT
// Descriptors that the daemon is started with, and which of them it listens on.
#include "daemon/inherited.hpp"

#include <sys/un.h>

#include "daemon/listener.hpp"
#include "harness.hpp"

namespace ringbuf::test {
namespace {

using daemon::Inherited;
using daemon::Listener;

// In a child, whose descriptors from 3 on are the ones that `listen_fds` says; 0 if f() is true.
template <class F>
int started_with(const std::vector<std::pair<const char*, std::string>>& environment, int present, F&& f) {
  ChildProcess child([&] {
    spdlog::set_level(spdlog::level::off);
    ::close_range(3, ~0u, 0);
    for (int i = 0; i < present; ++i)
      if (::open("/dev/null", O_RDONLY) != 3 + i) return 126;
    ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
    for (const auto& [name, value] : environment) ::setenv(name, value.c_str(), 1);
    return f() ? 0 : 1;
  });
  return child.exit_code();
}

TEST(Inherited, TakesDescriptorsByName) {
  EXPECT_EQ(started_with({{"LISTEN_FDS", "3"}, {"LISTEN_FDNAMES", "l:m1:m1"}}, 4,
                         [] {
                           auto in = Inherited::from_environment();
                           if (in.names() != std::vector<std::string>{"l", "m1", "m1"}) return false;
                           const auto l = in.take("l"), first = in.take("m1"), second = in.take("m1"), none = in.take("m1");
                           return l.get() == 3 && first.get() == 4 && second.get() == 5 && !none && in.empty() && !in.take("x");
                         }),
            0);
}

TEST(Inherited, NobodyInheritsThemFromUs) {
  EXPECT_EQ(started_with({{"LISTEN_FDS", "1"}, {"LISTEN_FDNAMES", "l"}}, 2,
                         [] {
                           const auto in = Inherited::from_environment();
                           return ::fcntl(3, F_GETFD) == FD_CLOEXEC && ::fcntl(4, F_GETFD) == 0 && !std::getenv("LISTEN_PID") &&
                                  !std::getenv("LISTEN_FDS") && !std::getenv("LISTEN_FDNAMES");
                         }),
            0);
}

TEST(Inherited, WhatIsNotTakenIsClosed) {
  EXPECT_EQ(started_with({{"LISTEN_FDS", "2"}, {"LISTEN_FDNAMES", "a:b"}}, 3,
                         [] {
                           UniqueFd a;
                           {
                             auto in = Inherited::from_environment();
                             a = in.take("a");
                           }
                           return ::fcntl(3, F_GETFD) >= 0 && ::fcntl(4, F_GETFD) < 0 && ::fcntl(5, F_GETFD) >= 0;
                         }),
            0);
}

TEST(Inherited, DescriptorsOfAnotherProcessAreNotTouched) {
  for (const char* pid : {"1", "", "x", "-1"})
    EXPECT_EQ(started_with({{"LISTEN_PID", pid}, {"LISTEN_FDS", "1"}}, 1,
                           [] {
                             { const auto in = Inherited::from_environment(); }
                             return ::fcntl(3, F_GETFD) == 0 && !std::getenv("LISTEN_FDS");
                           }),
              0)
        << pid;
}

TEST(Inherited, TheCountIsNotTrusted) {
  for (const char* count : {"2147483647", "3"})
    EXPECT_EQ(started_with({{"LISTEN_FDS", count}, {"LISTEN_FDNAMES", "a:b"}}, 2,
                           [] {
                             return Inherited::from_environment().names() == std::vector<std::string>{"a", "b"};
                           }),
              0)
        << count;
  for (const char* count : {"-1", "x", "", "99999999999", "0"})
    EXPECT_EQ(started_with({{"LISTEN_FDS", count}}, 1, [] { return Inherited::from_environment().empty(); }), 0) << count;
}

TEST(Inherited, NamesMayBeMissingOrContinued) {
  EXPECT_EQ(started_with({{"LISTEN_FDS", "2"}}, 2,
                         [] {
                           return Inherited::from_environment().names() == std::vector<std::string>{"unknown", "unknown"};
                         }),
            0);
  EXPECT_EQ(
      started_with({{"LISTEN_FDS", "4"}, {"LISTEN_FDNAMES", "a"}, {"RINGBUFD_FDNAMES_1", "b:c"}, {"RINGBUFD_FDNAMES_2", "d"}}, 4,
                   [] {
                     return Inherited::from_environment().names() == std::vector<std::string>{"a", "b", "c", "d"} &&
                            !std::getenv("RINGBUFD_FDNAMES_2");
                   }),
      0);
}

class ListenerTest : public ::testing::Test {
 private:
  FdLeakGuard leaks;

 protected:
  ListenerTest() { spdlog::set_level(spdlog::level::off); }
  static UniqueFd socket_of(int domain, int type) { return UniqueFd(::socket(domain, type | SOCK_CLOEXEC, 0)); }
  std::string refused(Inherited in) {
    const auto listener = Listener::obtain(path, 0666, in);
    return listener ? "" : listener.error().text;
  }
  static Inherited with(const char* name, UniqueFd fd) {
    Inherited in;
    in.add(name, std::move(fd));
    return in;
  }
  TempDir dir;
  std::string path = dir.path("s"), elsewhere = dir.path("elsewhere");
};

TEST_F(ListenerTest, AnActivatedSocketIsServedWhereItIs) {
  auto in = with("ringbufd.socket", std::move(*listen_at(elsewhere, 0600)));
  in.add("m1", socket_of(AF_UNIX, SOCK_SEQPACKET));
  const auto listener = Listener::obtain(path, 0666, in);
  ASSERT_TRUE(listener.has_value()) << listener.error().text;
  EXPECT_EQ(listener->path, elsewhere);
  EXPECT_TRUE(connect_to(elsewhere).has_value());
  EXPECT_FALSE(std::filesystem::exists(path)) << "bound although there is one";
  listener->remove_file();
  EXPECT_TRUE(std::filesystem::exists(elsewhere)) << "it belongs to the service manager";
  EXPECT_EQ(in.names(), std::vector<std::string>{"m1"}) << "what is kept is for others";
}

TEST_F(ListenerTest, AnActivatedSocketIsNonBlockingFromNowOn) {
  auto fd = std::move(*listen_at(elsewhere, 0600));
  ::fcntl(fd.get(), F_SETFL, 0);
  auto in = with("x", std::move(fd));
  const auto listener = Listener::obtain(path, 0666, in);
  ASSERT_TRUE(listener.has_value());
  EXPECT_TRUE(::fcntl(listener->fd.get(), F_GETFL) & O_NONBLOCK);
}

TEST_F(ListenerTest, AWrongSocketIsExplained) {
  const char* why = "no listening AF_UNIX SOCK_SEQPACKET socket";
  auto stream = socket_of(AF_UNIX, SOCK_STREAM);
  sockaddr_un any{AF_UNIX, {}};
  ASSERT_EQ(::bind(stream.get(), reinterpret_cast<sockaddr*>(&any), sizeof any.sun_family), 0);  // the kernel finds a name
  ASSERT_EQ(::listen(stream.get(), 1), 0);
  EXPECT_NE(refused(with("ringbufd.socket", std::move(stream))).find(why), std::string::npos);
  auto tcp = socket_of(AF_INET, SOCK_STREAM);
  ASSERT_EQ(::listen(tcp.get(), 1), 0);
  EXPECT_NE(refused(with("tcp", std::move(tcp))).find(why), std::string::npos) << "also with a name as short as ours";
  EXPECT_NE(refused(with("unknown", socket_of(AF_UNIX, SOCK_SEQPACKET))).find(why), std::string::npos) << "it does not listen";
  EXPECT_NE(refused(with("unknown", UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC)))).find(why), std::string::npos);
  EXPECT_NE(refused(with("l", socket_of(AF_UNIX, SOCK_SEQPACKET))).find("kept descriptor 'l'"), std::string::npos);
  auto in = with("one.socket", std::move(*listen_at(dir.path("1"), 0600)));
  in.add("two.socket", std::move(*listen_at(dir.path("2"), 0600)));
  EXPECT_NE(refused(std::move(in)).find("more than one"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST_F(ListenerTest, AKeptOneIsTakenOverWithItsLock) {
  Inherited none, kept;
  {
    auto first = Listener::obtain(path, 0666, none);
    ASSERT_TRUE(first.has_value());
    kept.add("l", std::move(first->fd));
    kept.add("lock", std::move(first->lock));
  }
  EXPECT_NE(refused({}).find("another ringbufd serves"), std::string::npos) << "while there is no daemon its place is taken";
  const auto second = Listener::obtain(elsewhere, 0666, kept);
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(second->path, path) << "not where the options say";
  EXPECT_TRUE(connect_to(path).has_value());
  second->remove_file();
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST_F(ListenerTest, ASuccessorsSocketIsLeftToIt) {
  Inherited none, kept;
  {
    auto first = Listener::obtain(path, 0666, none);
    ASSERT_TRUE(first.has_value());
    kept.add("l", std::move(first->fd));
    kept.add("lock", std::move(first->lock));
  }
  std::filesystem::remove(path);
  std::filesystem::remove(path + ".lock");
  const auto successor = Listener::obtain(path, 0666, none);
  ASSERT_TRUE(successor.has_value()) << successor.error().text;
  const auto late = Listener::obtain(path, 0666, kept);
  ASSERT_TRUE(late.has_value());
  late->remove_file();
  EXPECT_TRUE(connect_to(path).has_value());
}

TEST_F(ListenerTest, AnActivatedOneDoesNotTakeAPathThatIsServed) {
  Inherited none;
  const auto first = Listener::obtain(path, 0666, none);
  ASSERT_TRUE(first.has_value());
  std::filesystem::remove(path);
  EXPECT_NE(refused(with("ringbufd.socket", std::move(*listen_at(path, 0600)))).find("another ringbufd serves"),
            std::string::npos);
}

}  // namespace
}  // namespace ringbuf::test
