// SPDX-License-Identifier: MIT
// What the daemon does with clients that break the rules: it says so, and serves the others.
#include "harness.hpp"

namespace ringbuf::test {
namespace {

class ProtocolTest : public DaemonTest {
 protected:
  // The others are still served.
  void expect_alive() { EXPECT_EQ(Client(daemon).hello().err(), 0); }
  static std::vector<std::byte> frame(ringbuf_wire_hdr hdr, std::size_t body = 0) {
    return wire::encode(hdr, std::vector<std::byte>(body));
  }
};

TEST_F(ProtocolTest, Hello) {
  Client client(daemon);
  const auto hello = client.hello().as<ringbuf_hello_reply>();
  EXPECT_EQ(hello.version, RINGBUF_WIRE_VERSION);
  EXPECT_EQ(hello.page_size, shm::page_size());
  EXPECT_EQ(hello.pid, static_cast<unsigned>(::getpid()));
}

TEST_F(ProtocolTest, AnotherVersionIsNamed) {
  Client client(daemon.socket(), Client::Silent{});
  const auto r = client.call(RINGBUF_HELLO, ringbuf_hello_req{99, 0, 0});
  EXPECT_EQ(r.err(), EPROTONOSUPPORT);
  EXPECT_NE(r.text.find("99"), std::string::npos);
  EXPECT_NE(r.text.find("version 1"), std::string::npos);
}

TEST_F(ProtocolTest, HelloComesFirst) {
  for (const unsigned cmd : {unsigned{RINGBUF_MAP_CREATE}, unsigned{RINGBUF_DETACH}, 99u}) {
    Client client(daemon.socket(), Client::Silent{});
    EXPECT_EQ(client.call(cmd, Client::spec()).err(), EPROTO);
    EXPECT_TRUE(client.receive().closed);
  }
  expect_alive();
}

TEST_F(ProtocolTest, MalformedMessagesEndTheSession) {
  struct Case {
    const char* what;
    std::vector<std::byte> bytes;
    int err;
  } const cases[] = {
      {"one byte", std::vector<std::byte>(1), EPROTO},
      {"less than a header", std::vector<std::byte>(sizeof(ringbuf_wire_hdr) - 1), EPROTO},
      {"reserved", frame({RINGBUF_MAP_CREATE, 1, 7, 0, 0}), EPROTO},
      {"reserved2", frame({RINGBUF_MAP_CREATE, 0, 7, 0, 1}), EPROTO},
      {"err in a request", frame({RINGBUF_MAP_CREATE, 0, 7, 1, 0}), EPROTO},
  };
  for (const auto& c : cases) {
    Client client(daemon);
    ASSERT_TRUE(client.send(c.bytes));
    const auto r = client.receive();
    EXPECT_EQ(r.err(), c.err) << c.what;
    EXPECT_FALSE(r.text.empty()) << c.what;
    EXPECT_TRUE(client.receive().closed) << c.what;
  }
  expect_alive();
}

TEST_F(ProtocolTest, TheLastAnswerReachesWhoHasSentMore) {
  Client client(daemon);
  const UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  daemon.while_paused([&] {
    ASSERT_TRUE(client.send(std::vector<std::byte>(1)));
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(client.send(frame({RINGBUF_MAP_GET_NEXT_ID, 0, 1, 0, 0}), {null.get()}));
  });
  EXPECT_EQ(client.receive().err(), EPROTO);
  char c;
  EXPECT_EQ(::recv(client.fd(), &c, 1, 0), 0) << "an orderly end, not a reset";
  expect_alive();
}

TEST_F(ProtocolTest, OversizedMessagesEndTheSession) {
  for (const std::size_t size : {std::size_t{RINGBUF_WIRE_MAX} + 1, std::size_t{100000}}) {
    Client client(daemon);
    std::vector<std::byte> bytes(size);
    const ringbuf_wire_hdr hdr{RINGBUF_MAP_CREATE, 0, 42, 0, 0};
    std::memcpy(bytes.data(), &hdr, sizeof hdr);
    ASSERT_EQ(::send(client.fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(size));
    const auto r = client.receive();
    EXPECT_EQ(r.err(), EMSGSIZE);
    EXPECT_EQ(r.hdr.seq, 42u);
    EXPECT_TRUE(client.receive().closed);
  }
  expect_alive();
}

TEST_F(ProtocolTest, AnEmptyMessageIsTheEnd) {
  Client client(daemon);
  ASSERT_EQ(::send(client.fd(), "", 0, MSG_NOSIGNAL), 0);
  EXPECT_TRUE(client.receive().closed);
  expect_alive();
}

TEST_F(ProtocolTest, TheLargestFrameIsRead) {
  Client client(daemon);
  // An unknown tail of zeros is the future; of anything else it is too much.
  auto bytes = frame({RINGBUF_MAP_GET_NEXT_ID, 0, 1, 0, 0}, RINGBUF_WIRE_MAX - sizeof(ringbuf_wire_hdr));
  ASSERT_TRUE(client.send(bytes));
  EXPECT_EQ(client.receive().err(), ENOENT);
  bytes.back() = std::byte{1};
  ASSERT_TRUE(client.send(bytes));
  EXPECT_EQ(client.receive().err(), E2BIG);
  EXPECT_EQ(client.next_id(0).err(), ENOENT) << "the session stays";
}

TEST_F(ProtocolTest, AMissingTailIsZero) {
  Client client(daemon);
  ASSERT_TRUE(client.send(frame({RINGBUF_MAP_GET_NEXT_ID, 0, 1, 0, 0})));
  EXPECT_EQ(client.receive().err(), ENOENT);
  auto made = client.create();
  ASSERT_TRUE(client.send(frame({RINGBUF_MAP_GET_NEXT_ID, 0, 2, 0, 0})));
  EXPECT_EQ(client.receive().as<ringbuf_next_id_reply>().next_id, made.as<ringbuf_map_id_reply>().id);
}

TEST_F(ProtocolTest, ReservedFieldsMustBeZero) {
  Client client(daemon);
  const auto made = client.create();
  const int token = made.fds.at(0).get();
  auto path = Client::path_req("/x");
  path.reserved = 1;
  auto name = Client::name_req("events");
  name.reserved = 1;
  EXPECT_EQ(client.call(RINGBUF_HELLO, ringbuf_hello_req{1, 1, 0}).err(), EINVAL);
  EXPECT_EQ(client.call(RINGBUF_MAP_GET_NEXT_ID, ringbuf_next_id_req{0, 1}).err(), EINVAL);
  EXPECT_EQ(client.call(RINGBUF_MAP_GET_FD_BY_NAME, name).err(), EINVAL);
  EXPECT_EQ(client.call(RINGBUF_OBJ_PIN, path, {token}).err(), EINVAL);
  EXPECT_EQ(client.call(RINGBUF_OBJ_GET, path).err(), EINVAL);
  EXPECT_EQ(client.call(RINGBUF_OBJ_UNPIN, path).err(), EINVAL);
  EXPECT_EQ(client.call(RINGBUF_OBJ_GET_PIN, ringbuf_index_req{0, 1}, {token}).err(), EINVAL);
  EXPECT_EQ(client.call(RINGBUF_MAP_GET_ATTACHMENT, ringbuf_index_req{0, 1}, {token}).err(), EINVAL);
  EXPECT_EQ(client.call(RINGBUF_DETACH, ringbuf_detach_req{1, 1}).err(), EINVAL);
  EXPECT_EQ(client.call(RINGBUF_MAP_NARROW, ringbuf_narrow_req{1, 1}, {token}).err(), EINVAL);
  EXPECT_EQ(client.call(RINGBUF_OBJ_GET_INFO_BY_FD, std::array<char, 8>{1}, {token}).err(), E2BIG);
}

TEST_F(ProtocolTest, UnknownCommandsAreAnswered) {
  Client client(daemon);
  for (const unsigned cmd : {0u, 20u, 999u, 65535u}) EXPECT_EQ(client.call(cmd, Client::spec()).err(), EOPNOTSUPP) << cmd;
  EXPECT_EQ(client.create().err(), 0);
}

TEST_F(ProtocolTest, TheNumberOfDescriptorsIsTheCommands) {
  Client client(daemon);
  const auto made = client.create();
  const int token = made.fds.at(0).get();
  const auto none = client.call(RINGBUF_ATTACH, ringbuf_attach_req{RINGBUF_PRODUCER, 0});
  EXPECT_EQ(none.err(), EINVAL);
  EXPECT_EQ(none.text, "ATTACH takes one map descriptor and came with 0 descriptors");
  EXPECT_EQ(client.call(RINGBUF_ATTACH, ringbuf_attach_req{RINGBUF_PRODUCER, 0}, {token, token}).err(), EINVAL);
  EXPECT_EQ(client.call(RINGBUF_MAP_CREATE, Client::spec(), {token, token}).err(), EINVAL);
  EXPECT_EQ(client.call(RINGBUF_MAP_CREATE, Client::spec(), std::vector<int>(8, token)).err(), EINVAL);
  EXPECT_EQ(client.info(token).as<ringbuf_map_info>().producers, 0u);
}

TEST_F(ProtocolTest, TooManyDescriptorsEndTheSession) {
  Client client(daemon);
  ringbuf_wire_hdr hdr{RINGBUF_MAP_CREATE, 0, 3, 0, 0};
  for (const std::size_t count : {9u, 200u}) {
    Client bad(daemon);
    std::vector<int> fds(count, client.fd());
    std::vector<std::byte> control(CMSG_SPACE(count * sizeof(int)));
    iovec iov{&hdr, sizeof hdr};
    msghdr msg{};
    msg.msg_iov = &iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control.data();
    msg.msg_controllen = control.size();
    cmsghdr* c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(count * sizeof(int));
    std::memcpy(CMSG_DATA(c), fds.data(), count * sizeof(int));
    ASSERT_GT(::sendmsg(bad.fd(), &msg, MSG_NOSIGNAL), 0);
    const auto r = bad.receive();
    EXPECT_EQ(r.err(), EPROTO);
    EXPECT_EQ(r.hdr.seq, 3u);
    EXPECT_TRUE(bad.receive().closed);
  }
  expect_alive();
}

TEST_F(ProtocolTest, AForkedChildOpensItsOwnSession) {
  Client client(daemon);
  ChildProcess child([&] {
    const auto r = client.create();
    if (r.err() != EPERM) return 1;
    if (r.text != fmt::format("this session belongs to pid {}; open your own", ::getppid())) return 2;
    return Client(daemon).create().err();
  });
  EXPECT_EQ(child.exit_code(), 0);
  EXPECT_EQ(client.next_id(0).err(), ENOENT);
  EXPECT_EQ(client.call(RINGBUF_MAP_CREATE, Client::spec()).err(), 0) << "the session stays";
}

TEST_F(ProtocolTest, ASilentClientIsLeftAlone) {
  Client silent(daemon.socket(), Client::Silent{});
  for (int i = 0; i < 50; ++i) expect_alive();
  EXPECT_EQ(silent.call(RINGBUF_HELLO, Client::hello_req()).err(), 0);
}

TEST_F(ProtocolTest, AClientThatDoesNotReadBlocksOnlyItself) {
  Client bad(daemon), good(daemon);
  const auto made = bad.create();
  const int token = made.fds.at(0).get();
  const auto request = [&] {
    return bad.request(RINGBUF_ATTACH, ringbuf_attach_req{RINGBUF_PRODUCER, 0}, {token}, MSG_DONTWAIT);
  };
  const auto served = [&] { return good.info(token).as<ringbuf_map_info>().producers; };
  // Until the daemon has stopped reading: it takes from each session in turn, so a round trip of ours would have made room.
  unsigned sent = 0;
  for (unsigned before = 0;; before = served()) {
    unsigned more = 0;
    while (request()) ++more;
    sent += more;
    if (more == 0 && served() == before) break;
  }
  EXPECT_LT(served(), 64u) << "replies in flight are bounded";
  EXPECT_GT(sent, served()) << "requests were left unread";
  for (int i = 0; i < 100; ++i) EXPECT_EQ(good.next_id(0).err(), 0);
  // It begins to read: every request is answered, in order.
  std::uint32_t last = 0;
  for (unsigned answered = 0; answered < sent; ++answered) {
    const auto r = bad.receive();
    ASSERT_EQ(r.err(), 0) << r.text;
    EXPECT_GT(r.hdr.seq, last);
    last = r.hdr.seq;
    EXPECT_EQ(r.fds.size(), 3u);
  }
  EXPECT_EQ(served(), sent);
}

TEST_F(ProtocolTest, AClientThatDoesNotReadLeavesNothing) {
  Client good(daemon);
  const auto made = good.create();
  const int token = made.fds.at(0).get();
  {
    Client bad(daemon);
    while (bad.request(RINGBUF_ATTACH, ringbuf_attach_req{RINGBUF_CONSUMER, 0}, {token}, MSG_DONTWAIT)) {}
  }
  eventually([&] { return good.info(token).as<ringbuf_map_info>().consumers == 0; });
}

// Its own end of the connection lies in the queue that the daemon does not read: the daemon never sees it hang up.
TEST_F(ProtocolTest, ASessionHiddenInItsOwnQueueEndsWithItsProcess) {
  Client good(daemon);
  const auto made = good.create();
  const int token = made.fds.at(0).get();
  ChildProcess child([&] {
    Client bad(daemon);
    while (bad.request(RINGBUF_ATTACH, ringbuf_attach_req{RINGBUF_CONSUMER, 0}, {token}, MSG_DONTWAIT)) {}
    for (;;) {  // until it is no longer read
      unsigned more = 0;
      while (bad.request(RINGBUF_OBJ_GET_INFO_BY_FD, std::uint32_t{0}, {bad.fd()}, MSG_DONTWAIT)) ++more;
      if (Client(daemon).hello().err() == 0 && more == 0) break;
    }
    return 0;
  });
  EXPECT_EQ(child.exit_code(), 0);
  eventually([&] { return good.info(token).as<ringbuf_map_info>().consumers == 0; });
}

TEST_F(ProtocolTest, AFloodIsServedBesideOthers) {
  Client flood(daemon), good(daemon);
  for (int round = 0; round < 20; ++round) {
    for (int i = 0; i < 100; ++i) flood.request(RINGBUF_MAP_GET_NEXT_ID, ringbuf_next_id_req{0, 0}, {}, MSG_DONTWAIT);
    EXPECT_EQ(good.next_id(0).err(), ENOENT);
    pollfd p{flood.fd(), POLLIN, 0};
    while (::poll(&p, 1, 0) == 1) flood.receive();
  }
}

}  // namespace
}  // namespace ringbuf::test
