// SPDX-License-Identifier: MIT
// Frames with descriptors over a Unix socket.
#include "base/seqpacket.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cstring>
#include <filesystem>

#include "support/child_process.hpp"
#include "support/fd_leak_guard.hpp"

namespace ringbuf {
namespace {

class Seqpacket : public ::testing::Test {
 protected:
  void SetUp() override {
    int fds[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
    a_.reset(fds[0]);
    b_.reset(fds[1]);
  }
  static std::span<const std::byte> bytes(std::string_view s) { return std::as_bytes(std::span(s)); }
  // sendmsg without any of our checks, as a hostile peer would.
  static ssize_t send_raw(int fd, std::size_t size, const std::vector<int>& fds) {
    std::vector<char> data(size, 'x'), control(CMSG_SPACE(sizeof(int) * std::max<std::size_t>(fds.size(), 1)));
    iovec iov{data.data(), size};
    msghdr msg{};
    msg.msg_iov = &iov;
    msg.msg_iovlen = 1;
    if (!fds.empty()) {
      msg.msg_control = control.data();
      msg.msg_controllen = control.size();
      cmsghdr* c = CMSG_FIRSTHDR(&msg);
      c->cmsg_level = SOL_SOCKET;
      c->cmsg_type = SCM_RIGHTS;
      c->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
      std::memcpy(CMSG_DATA(c), fds.data(), sizeof(int) * fds.size());
    }
    return ::sendmsg(fd, &msg, MSG_NOSIGNAL);
  }

  test::FdLeakGuard leaks_;
  UniqueFd a_, b_;
  Frame frame_;
};

TEST_F(Seqpacket, AFrameArrivesWholeWithItsDescriptorsCloexec) {
  const UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const int fds[] = {null.get(), a_.get()};
  ASSERT_TRUE(send_frame(a_.get(), bytes("hello"), fds));
  ASSERT_TRUE(recv_frame(b_.get(), frame_).value());
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(frame_.bytes().data()), frame_.size), "hello");
  ASSERT_EQ(frame_.fds.size(), 2u);
  struct stat sent, got;
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(::fcntl(frame_.fds[i].get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    ASSERT_EQ(::fstat(fds[i], &sent), 0);
    ASSERT_EQ(::fstat(frame_.fds[i].get(), &got), 0);
    EXPECT_EQ(sent.st_ino, got.st_ino) << "in the order sent";
  }
  EXPECT_FALSE(frame_.sender);
}

TEST_F(Seqpacket, FramesKeepTheirBoundsAndAFrameIsReused) {
  const int one[] = {a_.get()};
  ASSERT_TRUE(send_frame(a_.get(), bytes("first"), one));
  ASSERT_TRUE(send_frame(a_.get(), bytes("2"), {}));
  ASSERT_TRUE(recv_frame(b_.get(), frame_).value());
  EXPECT_EQ(frame_.size, 5u);
  ASSERT_TRUE(recv_frame(b_.get(), frame_).value());
  EXPECT_EQ(frame_.size, 1u);
  EXPECT_TRUE(frame_.fds.empty());
}

TEST_F(Seqpacket, TheLargestFrameWithTheMostDescriptorsPasses) {
  const std::vector<int> fds(RINGBUF_WIRE_MAX_FDS, a_.get());
  ASSERT_TRUE(send_frame(a_.get(), bytes(std::string(RINGBUF_WIRE_MAX, 'x')), fds));
  ASSERT_TRUE(recv_frame(b_.get(), frame_).value());
  EXPECT_EQ(frame_.size, RINGBUF_WIRE_MAX);
  EXPECT_EQ(frame_.fds.size(), RINGBUF_WIRE_MAX_FDS);
}

TEST_F(Seqpacket, SendingMoreIsRefused) {
  EXPECT_EQ(send_frame(a_.get(), bytes(std::string(RINGBUF_WIRE_MAX + 1, 'x')), {}).error().err, EMSGSIZE);
  const std::vector<int> fds(RINGBUF_WIRE_MAX_FDS + 1, a_.get());
  EXPECT_EQ(send_frame(a_.get(), bytes("x"), fds).error().err, EMSGSIZE);
  EXPECT_EQ(recv_frame(b_.get(), frame_, MSG_DONTWAIT).error().err, EAGAIN) << "nothing was sent";
}

TEST_F(Seqpacket, TooManyDescriptorsAreEprotoAndNoneLeaks) {
  const int before = test::open_fds();
  for (const std::size_t n : {std::size_t{9}, std::size_t{10}, std::size_t{17}, std::size_t{253}}) {
    ASSERT_GT(send_raw(a_.get(), 5, std::vector<int>(n, b_.get())), 0);
    const auto r = recv_frame(b_.get(), frame_);
    ASSERT_FALSE(r) << n;
    EXPECT_EQ(r.error().err, EPROTO);
    EXPECT_TRUE(frame_.fds.empty());
    EXPECT_EQ(test::open_fds(), before);
  }
}

TEST_F(Seqpacket, TooManyDescriptorsBesideCredentialsAreEprotoToo) {
  const int on = 1;
  ASSERT_EQ(::setsockopt(b_.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on), 0);
  const int before = test::open_fds();
  ASSERT_GT(send_raw(a_.get(), 5, std::vector<int>(9, b_.get())), 0);
  EXPECT_EQ(recv_frame(b_.get(), frame_).error().err, EPROTO);
  EXPECT_EQ(test::open_fds(), before);
}

TEST_F(Seqpacket, DescriptorsThatThisProcessHasNoRoomForAreEmfile) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const int open = test::open_fds();
  for (const rlim_t room : {0u, 1u}) {
    UniqueFd next(::fcntl(a_.get(), F_DUPFD_CLOEXEC, 0));
    const rlimit few{static_cast<rlim_t>(next.get()) + room, before.rlim_max};
    next.reset();
    ASSERT_EQ(send_raw(a_.get(), 5, {b_.get(), b_.get()}), 5);
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
    const auto r = recv_frame(b_.get(), frame_);
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().err, EMFILE);
    EXPECT_TRUE(frame_.fds.empty());
    EXPECT_EQ(test::open_fds(), open);
  }
  ASSERT_TRUE(send_frame(a_.get(), bytes("next"), {}));
  EXPECT_TRUE(recv_frame(b_.get(), frame_).value());
}

TEST_F(Seqpacket, AnOversizedFrameIsEmsgsizeAndItsDescriptorsAreClosed) {
  const int before = test::open_fds();
  ASSERT_GT(send_raw(a_.get(), RINGBUF_WIRE_MAX + 1, {b_.get(), b_.get()}), 0);
  EXPECT_EQ(recv_frame(b_.get(), frame_).error().err, EMSGSIZE);
  EXPECT_TRUE(frame_.fds.empty());
  EXPECT_EQ(test::open_fds(), before);
  ASSERT_TRUE(send_frame(a_.get(), bytes("next"), {}));
  ASSERT_TRUE(recv_frame(b_.get(), frame_).value());
  EXPECT_EQ(frame_.size, 4u) << "the rest of it is gone";
}

TEST_F(Seqpacket, AnEmptySocketIsEagainAndAClosedOneTheEnd) {
  EXPECT_EQ(recv_frame(b_.get(), frame_, MSG_DONTWAIT).error().err, EAGAIN);
  a_.reset();
  const auto r = recv_frame(b_.get(), frame_);
  ASSERT_TRUE(r);
  EXPECT_FALSE(*r);
}

TEST_F(Seqpacket, HangingUpTakesNoDescriptor) {
  const int on = 1;
  ASSERT_EQ(::setsockopt(b_.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on), 0);
  const UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const int before = test::open_fds();
  const auto again = [&] { return hang_up(b_.get()); };
  ASSERT_GT(send_raw(a_.get(), 1, {}), 0);
  ASSERT_EQ(send_raw(a_.get(), 0, {}), 0);
  ASSERT_GT(send_raw(a_.get(), 5, {null.get()}), 0);
  ASSERT_TRUE(send_frame(b_.get(), bytes("not read"), {}));
  a_.reset();  // which resets the connection
  EXPECT_FALSE(again());
  EXPECT_FALSE(again());
  EXPECT_EQ(::recv(b_.get(), nullptr, 0, 0), 0);
  EXPECT_TRUE(again());
  EXPECT_EQ(test::open_fds(), before - 1);
}

TEST_F(Seqpacket, SendingToAClosedPeerIsEpipeWithoutASignal) {
  b_.reset();
  EXPECT_EQ(send_frame(a_.get(), bytes("x"), {}).error().err, EPIPE);
}

TEST_F(Seqpacket, APeerThatDoesNotReadIsEagain) {
  const std::string text(RINGBUF_WIRE_MAX, 'x');
  Result<void> r;
  int sent = 0;
  while ((r = send_frame(a_.get(), bytes(text), {}, MSG_DONTWAIT))) ++sent;
  EXPECT_EQ(r.error().err, EAGAIN);
  EXPECT_GT(sent, 0);
}

TEST_F(Seqpacket, CredentialsNameTheSender) {
  const int on = 1;
  ASSERT_EQ(::setsockopt(b_.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on), 0);
  const int fds[] = {a_.get()};
  ASSERT_TRUE(send_frame(a_.get(), bytes("x"), fds));
  ASSERT_TRUE(recv_frame(b_.get(), frame_).value());
  ASSERT_TRUE(frame_.sender);
  EXPECT_EQ(frame_.sender->pid, ::getpid());
  EXPECT_EQ(frame_.sender->uid, ::getuid());
  EXPECT_EQ(frame_.fds.size(), 1u);
  test::ChildProcess child([&] { return send_frame(a_.get(), bytes("y"), {}) ? 0 : 1; });
  ASSERT_TRUE(recv_frame(b_.get(), frame_).value());
  ASSERT_TRUE(frame_.sender);
  EXPECT_EQ(frame_.sender->pid, child.pid());
  EXPECT_EQ(child.exit_code(), 0);
}

class SeqpacketPath : public Seqpacket {
 protected:
  void SetUp() override {
    char dir[] = "/tmp/ringbuf-test-XXXXXX";
    ASSERT_NE(::mkdtemp(dir), nullptr);
    dir_ = dir;
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  std::string dir_;
};

TEST_F(SeqpacketPath, ListenAndConnectMeetAtAPath) {
  const std::string path = dir_ + "/s";
  const auto listener = listen_at(path, 0640);
  ASSERT_TRUE(listener) << listener.error().op;
  struct stat st;
  ASSERT_EQ(::stat(path.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0640u);
  EXPECT_EQ(::fcntl(listener->get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  EXPECT_EQ(::fcntl(listener->get(), F_GETFL) & O_NONBLOCK, O_NONBLOCK);
  const auto client = connect_to(path);
  ASSERT_TRUE(client);
  EXPECT_EQ(::fcntl(client->get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  const UniqueFd server(::accept4(listener->get(), nullptr, nullptr, SOCK_CLOEXEC));
  ASSERT_TRUE(bool(server));
  ASSERT_TRUE(send_frame(client->get(), bytes("hi"), {}));
  ASSERT_TRUE(recv_frame(server.get(), frame_).value());
  EXPECT_EQ(frame_.size, 2u);
  ASSERT_TRUE(frame_.sender) << "nobody can connect before credentials are asked for";
  EXPECT_EQ(frame_.sender->pid, ::getpid());
  EXPECT_EQ(listen_at(path, 0600).error().err, EADDRINUSE);
}

TEST_F(SeqpacketPath, PathsThatDoNotFitOrDoNotExistAreRefused) {
  EXPECT_EQ(connect_to(dir_ + "/none").error().err, ENOENT);
  EXPECT_EQ(connect_to("").error().err, ENOENT);
  EXPECT_EQ(connect_to("/" + std::string(107, 'x')).error().err, ENAMETOOLONG);
  EXPECT_EQ(listen_at("/" + std::string(107, 'x'), 0600).error().err, ENAMETOOLONG);
}

}  // namespace
}  // namespace ringbuf
