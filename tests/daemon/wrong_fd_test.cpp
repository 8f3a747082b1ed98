// SPDX-License-Identifier: MIT
// Descriptors that are no maps: of every kind, in every place, as many as fit. They are refused and closed, and closing them
// holds nobody up.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>

#include <atomic>
#include <fstream>

#include "daemon/descriptor_limit.hpp"
#include "daemon_of.hpp"
#include "support/stuck_file.hpp"

namespace ringbuf::test {
namespace {

class WrongFdTest : public ::testing::Test {
 protected:
  void expect_all_closed() {
    eventually([&] { return daemon.descriptors() == before_; });
  }

  FdLeakGuard leaks;
  DaemonOf daemon{::geteuid()};

 private:
  const unsigned before_ = daemon.descriptors_at_rest();
};

using Kinds = std::vector<std::pair<std::string, UniqueFd>>;

// What this system lets us have.
Kinds every_kind(const TempDir& dir) {
  Kinds all;
  const auto add = [&](const std::string& what, long fd) {
    if (fd >= 0) all.emplace_back(what, UniqueFd(static_cast<int>(fd)));
  };
  const auto pair = [&](const std::string& what, int type) {
    int ends[2];
    if (::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends) < 0) return;
    add(what, ends[0]);
    add(what + ", other end", ends[1]);
  };
  add("a directory", ::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  add("a file", ::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  add("a device", ::open("/dev/null", O_RDWR | O_CLOEXEC));
  add("a terminal", ::open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC));
  add("a path", ::open("/", O_PATH | O_CLOEXEC));
  add("a file of proc", ::open("/proc/self/mem", O_RDWR | O_CLOEXEC));
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) == 0) {
    add("a pipe to read", ends[0]);
    add("a pipe to write", ends[1]);
  }
  if (::mkfifo(dir.path("fifo").c_str(), 0600) == 0) add("a FIFO", ::open(dir.path("fifo").c_str(), O_RDWR | O_CLOEXEC));
  for (const auto& [type, name] : {std::pair{SOCK_STREAM, "stream"}, {SOCK_DGRAM, "datagram"}, {SOCK_SEQPACKET, "seqpacket"}}) {
    pair(fmt::format("a unix {} pair", name), type);
    add(fmt::format("a unix {} socket", name), ::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  }
  for (const int family : {AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_ALG, AF_VSOCK, AF_KEY})
    for (const int type : {SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET})
      add(fmt::format("a socket of family {}, type {}", family, type), ::socket(family, type | SOCK_CLOEXEC, 0));
  add("an unsealed memfd", ::memfd_create("wrong", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  add("a secret memfd", ::syscall(SYS_memfd_secret, O_CLOEXEC));
  add("an eventfd", ::eventfd(0, EFD_CLOEXEC));
  add("an epoll descriptor", ::epoll_create1(EPOLL_CLOEXEC));
  add("a timerfd", ::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
  sigset_t none;
  ::sigemptyset(&none);
  add("a signalfd", ::signalfd(-1, &none, SFD_CLOEXEC));
  add("an inotify descriptor", ::inotify_init1(IN_CLOEXEC));
  add("a pidfd", ::syscall(SYS_pidfd_open, ::getpid(), 0));
  add("a userfaultfd", ::syscall(SYS_userfaultfd, O_CLOEXEC));
  std::array<char, 256> params{};
  add("an io_uring", ::syscall(SYS_io_uring_setup, 2, params.data()));
  struct {
    std::uint32_t type, key_size, value_size, max_entries, more[20];
  } ring{27, 0, 0, 4096, {}};
  add("a ring of the kernel", ::syscall(SYS_bpf, 0, &ring, sizeof ring));
  return all;
}

// The kernel lets nobody send an io_uring since 6.7.
bool can_be_sent(int fd) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) std::abort();
  const UniqueFd a(ends[0]), b(ends[1]);
  return send_frame(a.get(), std::vector<std::byte>(1), std::span(&fd, 1)).has_value();
}

TEST_F(WrongFdTest, EveryKindIsRefusedEverywhereAndClosed) {
  const TempDir dir;
  DaemonOf other(::geteuid());
  {
    Kinds kinds = every_kind(dir);
    Client client(daemon.socket()), second(daemon.socket()), elsewhere(other.socket());
    const auto made = client.create();
    const int token = made.fds.at(0).get();
    const auto add = [&](const char* what, int fd) { kinds.emplace_back(what, UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 3))); };
    add("the session itself", client.fd());
    add("another session", second.fd());
    const auto foreign = elsewhere.create();
    add("a token of another daemon", foreign.fds.at(0).get());
    UniqueFd shut(::fcntl(client.create().fds.at(0).get(), F_DUPFD_CLOEXEC, 3));
    ::shutdown(shut.get(), SHUT_RDWR);
    kinds.emplace_back("a token that was shut down", std::move(shut));
    kinds.emplace_back("the path of the daemon's socket", UniqueFd(::open(daemon.socket().c_str(), O_PATH | O_CLOEXEC)));
    for (const unsigned role : {RINGBUF_PRODUCER, RINGBUF_CONSUMER}) {
      const auto a = client.attach(token, role);
      for (const char* part : {"C", "P", role == RINGBUF_PRODUCER ? "signal" : "wait"})
        add(fmt::format("a {}'s {}", wire::role_name(role), part).c_str(), a.fds.at(part[0] == 'C'   ? 0
                                                                                    : part[0] == 'P' ? 1
                                                                                                     : 2)
                                                                               .get());
    }
    std::erase_if(kinds, [](const auto& kind) { return !can_be_sent(kind.second.get()); });
    unsigned sent = 0;
    for (const auto& [what, fd] : kinds) {
      for (unsigned cmd = 1; std::string(wire::command_name(cmd)) != "?"; ++cmd)
        for (unsigned copies = 1; copies <= RINGBUF_WIRE_MAX_FDS; ++copies, ++sent) {
          // The request is as good as can be: only the descriptors are wrong.
          const auto r = client.call(cmd, std::uint32_t{cmd == RINGBUF_HELLO}, std::vector<int>(copies, fd.get()));
          ASSERT_EQ(r.err(), cmd == RINGBUF_HELLO && copies == 1 ? EALREADY : EINVAL)
              << what << ", " << copies << " with " << wire::command_name(cmd) << ": " << r.text;
        }
      ringbuf_elem_req key{};
      key.key_size = 4;
      const auto mixed = client.call(RINGBUF_MAP_UPDATE_ELEM, key, {token, fd.get()});
      ASSERT_EQ(mixed.err(), EINVAL) << what;
      EXPECT_EQ(mixed.text, "the second descriptor is not a map of this daemon") << what;
      ASSERT_EQ(client.info(token).err(), 0) << "the session stays";
    }
    std::printf("%zu kinds of descriptors, %u requests with 1 to 8 of them\n", kinds.size(), sent);
  }
  expect_all_closed();
}

// A TCP connection that lingers: to close the last descriptor of it takes until the other side has read everything.
class Lingering {
 public:
  Lingering() {
    UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof a;
    fd_.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (::bind(listener.get(), reinterpret_cast<sockaddr*>(&a), sizeof a) < 0 || ::listen(listener.get(), 1) < 0 ||
        ::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&a), &size) < 0 ||
        ::connect(fd_.get(), reinterpret_cast<sockaddr*>(&a), sizeof a) < 0)
      return;
    reader_.reset(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    std::vector<char> bytes(65536);
    while (::send(fd_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL) > 0) {}
    const linger ten_minutes{1, 600};
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_LINGER, &ten_minutes, sizeof ten_minutes);
  }
  ~Lingering() {
    const linger at_once{1, 0};
    if (fd_) ::setsockopt(fd_.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  }
  bool works() const { return static_cast<bool>(reader_); }
  int fd() const { return fd_.get(); }
  void give_away() { fd_.reset(); }   // a copy is in flight: this does not wait
  void let_go() { reader_.reset(); }  // it was read, or never will be

 private:
  UniqueFd reader_, fd_;
};

#define RINGBUF_NEEDS_TCP(l) \
  if (!(l).works()) GTEST_SKIP() << "needs TCP over the loopback interface"

TEST_F(WrongFdTest, ASocketThatLingersHoldsNobodyUp) {
  Lingering l;
  RINGBUF_NEEDS_TCP(l);
  {
    Client bad(daemon.socket()), good(daemon.socket());
    daemon.while_stopped([&] {
      EXPECT_TRUE(bad.request(RINGBUF_OBJ_GET_INFO_BY_FD, std::uint32_t{0}, {l.fd()}));
      l.give_away();
    });
    EXPECT_EQ(bad.receive().err(), EINVAL);
    EXPECT_EQ(good.next_id(0).err(), ENOENT);
    EXPECT_EQ(bad.next_id(0).err(), ENOENT);
  }
  l.let_go();
  expect_all_closed();
}

TEST_F(WrongFdTest, NorDoesOneThatWasNeverRead) {
  for (const std::size_t count : {std::size_t{1}, std::size_t{100}}) {  // also more than a frame may carry
    Lingering l, m;
    RINGBUF_NEEDS_TCP(l);
    auto bad = std::make_unique<Client>(daemon.socket());
    daemon.while_stopped([&] {
      EXPECT_TRUE(bad->send(std::vector<std::byte>(1)));  // it ends the session; what follows is in the queue
      std::vector<char> control(CMSG_SPACE(count * sizeof(int)));
      char byte = 0;
      iovec io{&byte, 1};
      msghdr msg{};
      msg.msg_iov = &io;
      msg.msg_iovlen = 1;
      msg.msg_control = control.data();
      msg.msg_controllen = control.size();
      cmsghdr* c = CMSG_FIRSTHDR(&msg);
      c->cmsg_level = SOL_SOCKET;
      c->cmsg_type = SCM_RIGHTS;
      c->cmsg_len = CMSG_LEN(count * sizeof(int));
      for (std::size_t i = 0; i < count; ++i) {
        const int fd = l.fd();
        std::memcpy(CMSG_DATA(c) + i * sizeof fd, &fd, sizeof fd);
      }
      EXPECT_EQ(::sendmsg(bad->fd(), &msg, MSG_NOSIGNAL), 1);
      const int fd = m.fd();
      EXPECT_TRUE(bad->send(std::vector<std::byte>(8), {fd}));
      l.give_away();
      m.give_away();
    });
    EXPECT_EQ(bad->receive().err(), EPROTO);
    EXPECT_EQ(Client(daemon.socket()).next_id(0).err(), ENOENT);
    bad.reset();
    l.let_go();
    m.let_go();
    expect_all_closed();
  }
}

TEST_F(WrongFdTest, AFileWhoseServerDoesNotAnswerHoldsNobodyElseUp) {
  RINGBUF_NEEDS_ROOT();
  StuckFile file(FUSE_FLUSH);
  if (!file.works()) GTEST_SKIP() << "needs FUSE";
  {
    Client bad(daemon.socket());
    // No child does this: its own copy of the file would be closed when it ends, which waits as well.
    ASSERT_EQ(::seteuid(1002), 0);
    Client good(daemon.socket());
    ASSERT_EQ(::seteuid(0), 0);
    ASSERT_EQ(good.next_id(0).err(), ENOENT);  // so that it has closed what it sent with its welcome
    const unsigned before = daemon.descriptors_at_rest();
    EXPECT_EQ(bad.info(file.fd()).err(), EINVAL);
    for (int i = 0; i < 100; ++i) ASSERT_EQ(good.next_id(0).err(), ENOENT);
    // Who goes on like that is not read any more, so that what the daemon holds stays bounded.
    unsigned sent = 0;
    for (unsigned last = before;; last = daemon.descriptors()) {
      unsigned more = 0;
      while (bad.request(RINGBUF_OBJ_GET_INFO_BY_FD, std::uint32_t{0}, std::vector<int>(8, file.fd()), MSG_DONTWAIT)) ++more;
      sent += more;
      ASSERT_EQ(good.next_id(0).err(), ENOENT);
      if (more == 0 && daemon.descriptors() == last) break;
    }
    eventually([&] { return daemon.descriptors() >= before + 32; });
    for (int i = 0; i < 100; ++i) ASSERT_EQ(good.next_id(0).err(), ENOENT);
    EXPECT_LE(daemon.descriptors_at_rest(), before + 32 + 8);
    std::printf("%u messages with 8 descriptors sent, %u descriptors held\n", sent, daemon.descriptors() - before);
    file.let_go();
    // Everything that was sent is answered in the end.
    for (unsigned i = 0; i < sent; ++i) ASSERT_EQ(bad.receive().err(), EINVAL);
  }
  expect_all_closed();
}

TEST_F(WrongFdTest, NorDoesWhoGoesAndComesAgain) {
  RINGBUF_NEEDS_ROOT();
  StuckFile file(FUSE_FLUSH);
  if (!file.works()) GTEST_SKIP() << "needs FUSE";
  {
    ASSERT_EQ(::seteuid(1002), 0);
    Client good(daemon.socket());
    ASSERT_EQ(::seteuid(0), 0);
    ASSERT_EQ(good.next_id(0).err(), ENOENT);
    const unsigned before = daemon.descriptors_at_rest();
    constexpr unsigned kTimes = 20;
    for (unsigned i = 0; i < kTimes; ++i) {
      Client bad(daemon.socket(), Client::Silent{});
      for (int k = 0; k < 5; ++k)
        (void)bad.request(RINGBUF_OBJ_GET_INFO_BY_FD, std::uint32_t{0}, std::vector<int>(8, file.fd()), MSG_DONTWAIT);
      ASSERT_EQ(good.next_id(0).err(), ENOENT);
    }
    for (int i = 0; i < 100; ++i) ASSERT_EQ(good.next_id(0).err(), ENOENT);
    EXPECT_GE(daemon.descriptors_at_rest(), before + 32) << "the file is not stuck: this shows nothing";
    EXPECT_LE(daemon.descriptors_at_rest(), before + 32 + 8 + kTimes) << "each connection adds itself, and nothing else";
    file.let_go();
  }
  expect_all_closed();
}

TEST_F(WrongFdTest, ManySessionsOfAUidHaveNoMoreOfThemOpenThanOne) {
  RINGBUF_NEEDS_ROOT();
  StuckFile file(FUSE_FLUSH);
  if (!file.works()) GTEST_SKIP() << "needs FUSE";
  {
    std::vector<std::unique_ptr<Client>> bad;
    for (int i = 0; i < 100; ++i) bad.push_back(std::make_unique<Client>(daemon.socket()));
    ASSERT_EQ(::seteuid(1002), 0);
    Client good(daemon.socket());
    ASSERT_EQ(::seteuid(0), 0);
    ASSERT_EQ(good.next_id(0).err(), ENOENT);
    const unsigned before = daemon.descriptors_at_rest();
    daemon.while_stopped([&] {
      for (const auto& b : bad)
        ASSERT_TRUE(b->request(RINGBUF_OBJ_GET_INFO_BY_FD, std::uint32_t{0}, std::vector<int>(8, file.fd())));
    });
    for (int i = 0; i < 100; ++i) ASSERT_EQ(good.next_id(0).err(), ENOENT);
    std::printf("100 sessions sent 8 descriptors each, %u are held\n", daemon.descriptors() - before);
    EXPECT_GE(daemon.descriptors_at_rest(), before + 24) << "the file is not stuck: this shows nothing";
    EXPECT_LE(daemon.descriptors_at_rest(), before + 32 + 8);
    file.let_go();
    for (const auto& b : bad) ASSERT_EQ(b->receive().err(), EINVAL);
  }
  expect_all_closed();
}

TEST_F(WrongFdTest, NobodyWaitsForTheLockOfAnInodeThatAClientHolds) {
  RINGBUF_NEEDS_FUSE();
  {
    Client bad(daemon.socket()), good(daemon.socket());
    const auto made = bad.create();
    const int token = made.fds.at(0).get();
    const auto p = bad.attach(token, RINGBUF_PRODUCER), c = bad.attach(token, RINGBUF_CONSUMER);
    const auto write_to = [](int fd) { return [fd](void* page) { (void)!::pwrite(fd, page, StuckFile::kPage, 0); }; };
    const StuckCall on_p(write_to(p.fds.at(1).get())), on_c(write_to(c.fds.at(0).get()));
    for (const unsigned role : {RINGBUF_PRODUCER, RINGBUF_CONSUMER, RINGBUF_OBSERVER}) {
      const auto a = bad.attach(token, role);
      ASSERT_EQ(a.err(), 0) << a.text;
      EXPECT_EQ(bad.detach(a.as<ringbuf_attach_reply>().attachment).err(), 0);
      EXPECT_EQ(good.info(token).err(), 0);
    }
    // The last ones of their roles: words are cleared.
    for (const auto* a : {&p, &c}) EXPECT_EQ(bad.detach(a->as<ringbuf_attach_reply>().attachment).err(), 0);
    EXPECT_EQ(good.create().err(), 0);
  }
  expect_all_closed();
}

TEST_F(WrongFdTest, NobodyWaitsForTheLockOfAWaitThatItsConsumerHolds) {
  RINGBUF_NEEDS_FUSE();
  {
    Client bad(daemon.socket());
    ASSERT_EQ(::seteuid(1002), 0);
    Client good(daemon.socket());
    ASSERT_EQ(::seteuid(0), 0);
    const auto made = bad.create();
    const int token = made.fds.at(0).get();
    const auto c = bad.attach(token, RINGBUF_CONSUMER), p = good.attach(token, RINGBUF_PRODUCER);
    ASSERT_EQ(::eventfd_write(p.fds.at(2).get(), 1), 0);
    const unsigned before = daemon.descriptors_at_rest();
    StuckCall on_wait(wait_on(c.fds.at(2).get()));
    std::vector<std::uint32_t> numbers;
    for (int i = 0; i < 100; ++i) {
      const auto a = good.attach(token, RINGBUF_PRODUCER);
      ASSERT_EQ(a.err(), 0) << a.text;
      if (i % 2) numbers.push_back(a.as<ringbuf_attach_reply>().attachment);
      else EXPECT_EQ(good.detach(a.as<ringbuf_attach_reply>().attachment).err(), 0);
    }
    EXPECT_LE(daemon.descriptors_at_rest(), before + 50 + 1) << "nothing of those that have left is kept for the consumer";
    const auto late = good.attach(token, RINGBUF_PRODUCER);
    for (const auto number : numbers) EXPECT_EQ(good.detach(number).err(), 0);
    EXPECT_EQ(good.detach(p.as<ringbuf_attach_reply>().attachment).err(), 0);
    const auto reported = [&] {
      epoll_event e;
      return ::epoll_wait(c.fds.at(2).get(), &e, 1, 0) == 1;
    };
    on_wait.let_go();
    eventually([&] { return daemon.descriptors() <= before; });  // p is out, late is in
    while (reported()) {}                                        // and nothing kicks any more
    EXPECT_EQ(::eventfd_write(late.fds.at(2).get(), 1), 0);
    eventually(reported);
    EXPECT_EQ(good.detach(late.as<ringbuf_attach_reply>().attachment).err(), 0);
    EXPECT_EQ(bad.detach(c.as<ringbuf_attach_reply>().attachment).err(), 0);
    EXPECT_EQ(good.create().err(), 0);
  }
  expect_all_closed();
}

TEST_F(WrongFdTest, WhoHoldsTheLockOfAWaitGetsNoMoreOfThem) {
  RINGBUF_NEEDS_FUSE();
  {
    Client bad(daemon.socket());
    ASSERT_EQ(::seteuid(1002), 0);
    Client good(daemon.socket());
    ASSERT_EQ(::seteuid(0), 0);
    const auto made = bad.create(), other = good.create();
    const int token = made.fds.at(0).get();
    constexpr unsigned kConsumers = 60, kChanges = 1024;
    const auto c = bad.attach(token, RINGBUF_CONSUMER), p = good.attach(token, RINGBUF_PRODUCER);
    for (unsigned i = 1; i < kConsumers; ++i) ASSERT_EQ(bad.attach(token, RINGBUF_CONSUMER).err(), 0);
    ASSERT_EQ(::eventfd_write(p.fds.at(2).get(), 1), 0);
    StuckCall on_wait(wait_on(c.fds.at(2).get()));
    for (unsigned changes = 0; changes < kChanges; changes += kConsumers) {
      EXPECT_EQ(bad.attach(other.fds.at(0).get(), RINGBUF_CONSUMER).err(), 0);
      ASSERT_EQ(good.attach(token, RINGBUF_PRODUCER).err(), 0);
    }
    const auto refused = bad.attach(token, RINGBUF_CONSUMER);
    EXPECT_EQ(refused.err(), EDQUOT);
    EXPECT_NE(refused.text.find("1024 changes"), refused.text.npos) << refused.text;
    EXPECT_EQ(bad.attach(token, RINGBUF_PRODUCER).err(), 0);
    const auto good_map = good.create();
    EXPECT_EQ(good.attach(good_map.fds.at(0).get(), RINGBUF_CONSUMER).err(), 0);
    on_wait.let_go();
    eventually([&] { return bad.attach(token, RINGBUF_CONSUMER).err() == 0; });
  }
  expect_all_closed();
}

TEST_F(WrongFdTest, NobodyWaitsForTheLockOfAnEpollThatHasWhatTheDaemonCloses) {
  RINGBUF_NEEDS_FUSE();
  {
    auto bad = std::make_unique<Client>(daemon.socket()), worse = std::make_unique<Client>(daemon.socket());
    ASSERT_EQ(::seteuid(1002), 0);
    Client good(daemon.socket());
    ASSERT_EQ(::seteuid(0), 0);
    const auto made = bad->create();
    const auto p = bad->attach(made.fds.at(0).get(), RINGBUF_PRODUCER);
    const auto c = bad->attach(made.fds.at(0).get(), RINGBUF_CONSUMER);
    UniqueFd ready(::eventfd(1, EFD_CLOEXEC)), sent(::eventfd(0, EFD_CLOEXEC)), queued(::eventfd(0, EFD_CLOEXEC));
    const auto epoll = epoll_of({ready.get(), sent.get(), queued.get(), p.fds.at(2).get(), c.fds.at(2).get()});
    const StuckCall on_epoll(wait_on(epoll.get()));
    daemon.while_stopped([&] {
      EXPECT_TRUE(bad->request(RINGBUF_OBJ_GET_INFO_BY_FD, std::uint32_t{0}, {sent.get()}));
      EXPECT_TRUE(worse->send(std::vector<std::byte>(1)));  // it ends the session; what follows is in the queue
      EXPECT_TRUE(worse->send({}));
      EXPECT_TRUE(worse->send(std::vector<std::byte>(8), {queued.get()}));
      EXPECT_TRUE(worse->send({}));
      sent.reset();
      queued.reset();
    });
    EXPECT_EQ(bad->receive().err(), EINVAL);
    EXPECT_EQ(worse->receive().err(), EPROTO);
    EXPECT_EQ(good.create().err(), 0);
    for (const auto* a : {&p, &c}) EXPECT_EQ(bad->detach(a->as<ringbuf_attach_reply>().attachment).err(), 0);
    EXPECT_EQ(good.create().err(), 0);
    EXPECT_EQ(bad->next_id(0).err(), 0) << "what it hears of is not what hangs";
    bad.reset();
    worse.reset();
    EXPECT_EQ(good.create().err(), 0);
  }
  expect_all_closed();
}

// Anybody can list /proc/PID, and then try to create something there: who looks a name up comes behind that.
TEST_F(WrongFdTest, NobodyWaitsForTheLockOfADirectoryOfProc) {
  RINGBUF_NEEDS_FUSE();
  {
    Client good(daemon.socket());
    const auto made = good.create();
    const int token = made.fds.at(0).get();
    ChildProcess holder([&] {
      Client consumer(daemon.socket());
      const auto own = consumer.by_id(made.as<ringbuf_map_id_reply>().id);
      const auto c = consumer.attach(own.fds.at(0).get(), RINGBUF_CONSUMER);
      ::pause();
      return 0;
    });
    eventually([&] { return good.info(token).as<ringbuf_map_info>().consumers == 1; });
    const std::string proc = fmt::format("/proc/{}", holder.pid());
    const UniqueFd directory(::open(proc.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    StuckCall list([&](void* page) { (void)::syscall(SYS_getdents64, directory.get(), page, StuckFile::kPage); });
    std::atomic<pid_t> tid = 0;
    std::thread creator([&] {
      tid = ::gettid();
      (void)::mkdir((proc + "/x").c_str(), 0700);
    });
    eventually([&] { return state_of(tid) == 'D'; });
    const auto refused = good.attach(token, RINGBUF_CONSUMER);
    EXPECT_EQ(refused.err(), EBUSY);
    EXPECT_NE(refused.text.find(" (?);"), refused.text.npos) << "it can be looked into, so this shows nothing: " << refused.text;
    for (int i = 0; i < 100; ++i) EXPECT_EQ(good.attach(token, RINGBUF_CONSUMER).err(), EBUSY);
    list.let_go();
    creator.join();
  }
  expect_all_closed();
}

// Each costs a descriptor as long as it cannot be closed.
TEST_F(WrongFdTest, WhoIsRefusedOverAndOverUsesNothingUp) {
  RINGBUF_NEEDS_FUSE();
  daemon::Limits limits = daemon::kDefaultLimits;
  limits[static_cast<std::size_t>(daemon::Resource::Sessions)] = {100, 1};
  DaemonOf few(0, limits);
  const unsigned before = few.descriptors_at_rest();
  {
    Client good(few.socket());
    ASSERT_EQ(::seteuid(1002), 0);
    Client bad(few.socket());
    ASSERT_EQ(::seteuid(0), 0);
    const UniqueFd ready(::eventfd(1, EFD_CLOEXEC));
    UniqueFd sent(::eventfd(0, EFD_CLOEXEC));
    const auto epoll = epoll_of({ready.get(), sent.get()});
    const StuckCall on_epoll(wait_on(epoll.get()));
    few.while_stopped([&] {  // so that it has the last copy
      EXPECT_TRUE(bad.request(RINGBUF_OBJ_GET_INFO_BY_FD, std::uint32_t{0}, {sent.get()}));
      sent.reset();
    });
    EXPECT_EQ(bad.receive().err(), EINVAL);
    const UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    sockaddr_un address{AF_UNIX, {}};
    few.socket().copy(address.sun_path, sizeof address.sun_path - 1);
    // Until nobody is let in any more, and after that.
    for (int more = 20; more > 0;) {
      few.while_stopped([&] {
        ASSERT_EQ(::syscall(SYS_setresuid, -1, 1002, -1), 0);  // of this thread: others are stuck
        for (const int one = null.get();;) {
          const UniqueFd again(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
          if (::connect(again.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0) break;  // no more wait
          (void)send_frame(again.get(), std::vector<std::byte>(8), std::span(&one, 1), MSG_DONTWAIT);
        }
        ASSERT_EQ(::syscall(SYS_setresuid, -1, 0, -1), 0);
      });
      ASSERT_EQ(good.next_id(0).err(), ENOENT);
      if (few.descriptors() >= before + daemon::kMostToClose) --more;
    }
    EXPECT_LE(few.descriptors(), before + daemon::kMostToClose + 64);
  }
  Client again(few.socket());
  EXPECT_EQ(again.create().err(), 0);
}

// The kernel has one lock for all epolls that lie in others, and walks through them with it.
TEST_F(WrongFdTest, NobodyWaitsForTheLockOfAllNestedEpolls) {
  RINGBUF_NEEDS_FUSE();
  {
    ASSERT_EQ(::seteuid(1002), 0);
    Client good(daemon.socket());
    ASSERT_EQ(::seteuid(0), 0);
    const auto made = good.create();
    const auto c = good.attach(made.fds.at(0).get(), RINGBUF_CONSUMER);
    const auto own_loop = epoll_of({c.fds.at(2).get()});
    const UniqueFd ready(::eventfd(1, EFD_CLOEXEC));
    const auto stuck = epoll_of({ready.get()}), around = epoll_of({stuck.get()}), more = epoll_of({});
    StuckCall on_epoll(wait_on(stuck.get()));
    std::atomic<pid_t> tid = 0;
    std::thread walker([&] {
      tid = ::gettid();
      epoll_event e{};
      ::epoll_ctl(more.get(), EPOLL_CTL_ADD, around.get(), &e);
    });
    eventually([&] { return state_of(tid) == 'D'; });
    EXPECT_EQ(Client(daemon.socket()).create().err(), 0);
    EXPECT_EQ(good.attach(made.fds.at(0).get(), RINGBUF_PRODUCER).err(), 0);
    EXPECT_EQ(good.create().err(), 0);
    on_epoll.let_go();
    walker.join();
  }
  expect_all_closed();
}

}  // namespace
}  // namespace ringbuf::test
