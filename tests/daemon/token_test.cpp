// SPDX-License-Identifier: MIT
// The lifetime of a map descriptor is the kernel's: dup, fork, SCM_RIGHTS, last close.
#include <sys/eventfd.h>

#include "harness.hpp"

namespace ringbuf::test {
namespace {

using TokenTest = DaemonTest;

TEST_F(TokenTest, LastCloseFreesTheMapBeforeTheNextRequest) {
  Client client(daemon);
  for (int i = 0; i < 200; ++i) {
    auto made = client.create();
    const auto id = made.as<ringbuf_map_id_reply>().id;
    made.fds.clear();
    ASSERT_EQ(client.by_id(id).err(), ENOENT) << i;
  }
}

TEST_F(TokenTest, OutlivesTheSession) {
  auto first = std::make_unique<Client>(daemon);
  const auto made = first->create();
  first.reset();
  Client second(daemon);
  EXPECT_EQ(second.info(made.fds.at(0).get()).as<ringbuf_map_info>().tokens, 1u);
}

TEST_F(TokenTest, ACopyIsTheSameToken) {
  Client client(daemon);
  auto made = client.create();
  UniqueFd copy(::fcntl(made.fds.at(0).get(), F_DUPFD_CLOEXEC, 0));
  made.fds.clear();
  EXPECT_EQ(client.info(copy.get()).as<ringbuf_map_info>().tokens, 1u);
  copy.reset();
  EXPECT_EQ(client.next_id(0).err(), ENOENT);
}

TEST_F(TokenTest, AChildsCopyKeepsTheMap) {
  Client client(daemon);
  auto made = client.create();
  const auto id = made.as<ringbuf_map_id_reply>().id;
  int go[2];
  ASSERT_EQ(::pipe2(go, O_CLOEXEC), 0);
  UniqueFd reader(go[0]), writer(go[1]);
  {
    ChildProcess child([&] {
      writer.reset();
      char c;
      return static_cast<int>(::read(reader.get(), &c, 1));  // until the parent closes its end
    });
    made.fds.clear();
    EXPECT_EQ(client.by_id(id).err(), 0);
    writer.reset();
    EXPECT_EQ(child.exit_code(), 0);
  }
  EXPECT_EQ(client.by_id(id).err(), ENOENT);
}

TEST_F(TokenTest, InFlightDescriptorsCount) {
  Client client(daemon);
  auto made = client.create();
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  UniqueFd a(ends[0]), b(ends[1]);
  const std::byte byte[1]{};
  const int token = made.fds.at(0).get();
  ASSERT_TRUE(send_frame(a.get(), byte, std::span(&token, 1)));
  made.fds.clear();
  const auto walked = client.next_id(0);
  EXPECT_EQ(walked.err(), 0);
  Frame frame;
  ASSERT_TRUE(recv_frame(b.get(), frame).has_value());
  EXPECT_EQ(client.info(frame.fds.at(0).get()).err(), 0);
  frame.fds.clear();
  EXPECT_EQ(client.next_id(0).err(), ENOENT);
}

TEST_F(TokenTest, AnotherSessionMayUseIt) {
  Client a(daemon), b(daemon);
  const auto made = a.create();
  EXPECT_EQ(b.attach(made.fds.at(0).get(), RINGBUF_OBSERVER).err(), 0);
}

TEST_F(TokenTest, EachOpenIsAToken) {
  Client client(daemon);
  const auto made = client.create();
  const auto second = client.by_id(made.as<ringbuf_map_id_reply>().id);
  EXPECT_EQ(client.info(second.fds.at(0).get()).as<ringbuf_map_info>().tokens, 2u);
}

TEST_F(TokenTest, OtherDescriptorsAreNoMaps) {
  Client client(daemon);
  const UniqueFd file(::open("/dev/null", O_RDONLY | O_CLOEXEC)), event(::eventfd(0, EFD_CLOEXEC));
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  const UniqueFd a(ends[0]), b(ends[1]);
  for (const int fd : {file.get(), event.get(), a.get(), client.fd()}) {
    const auto reply = client.info(fd);
    EXPECT_EQ(reply.err(), EINVAL);
    EXPECT_EQ(reply.text, "the descriptor is not a map of this daemon");
  }
}

TEST_F(TokenTest, ATokenOfAnotherDaemonIsNoMap) {
  InProcessDaemon other;
  Client here(daemon), there(other);
  EXPECT_EQ(here.info(there.create().fds.at(0).get()).err(), EINVAL);
}

TEST_F(TokenTest, NothingCanBeHiddenInIt) {
  Client client(daemon);
  const auto made = client.create();
  const int token = made.fds.at(0).get();
  const std::byte byte[1]{};
  const auto sent = send_frame(token, byte, std::span(&token, 1), MSG_DONTWAIT);
  ASSERT_FALSE(sent.has_value());
  EXPECT_EQ(sent.error().err, EPIPE);
  EXPECT_EQ(client.info(token).err(), 0);
}

// Whoever shuts a token down has closed it for all who share it.
TEST_F(TokenTest, ShutdownIsClose) {
  for (const int how : {SHUT_RD, SHUT_RDWR}) {
    Client client(daemon);
    const auto made = client.create();
    ::shutdown(made.fds.at(0).get(), how);
    EXPECT_EQ(client.info(made.fds.at(0).get()).err(), EINVAL);
    EXPECT_EQ(client.next_id(0).err(), ENOENT);
  }
}

TEST_F(TokenTest, ShutdownForWritingChangesNothing) {
  Client client(daemon);
  const auto made = client.create();
  ::shutdown(made.fds.at(0).get(), SHUT_WR);
  EXPECT_EQ(client.info(made.fds.at(0).get()).err(), 0);
}

TEST_F(TokenTest, AnUnreadReplysTokenGoesWithTheSession) {
  Client watcher(daemon);
  {
    Client client(daemon);
    ASSERT_TRUE(client.request(RINGBUF_MAP_CREATE, Client::spec()));
    pollfd p{client.fd(), POLLIN, 0};
    ASSERT_EQ(::poll(&p, 1, -1), 1);
    EXPECT_EQ(watcher.next_id(0).err(), 0);
  }
  EXPECT_EQ(watcher.next_id(0).err(), ENOENT);
}

}  // namespace
}  // namespace ringbuf::test
