// SPDX-License-Identifier: MIT
// A client is its lease: connections come and go, and what it has attached to stays until the lease or its process has gone.
#include <sys/socket.h>

#include "harness.hpp"
#include "support/test_ring.hpp"

namespace ringbuf::test {
namespace {

class LeaseTest : public DaemonTest {
 protected:
  LeaseTest() : owner(daemon), made(owner.create()) {}
  int token() const { return made.fds.at(0).get(); }
  ringbuf_map_info info() { return owner.info(token()).as<ringbuf_map_info>(); }
  void until_producers_are(unsigned n) {
    eventually([&] { return info().producers == n; });
  }

  Client owner;
  Reply made;
};

// A producer's view of the map that it attached to.
class Attached {
 public:
  explicit Attached(const Reply& reply) {
    const auto out = reply.as<ringbuf_attach_reply>();
    auto mapped = Mapping::map_ring(reply.fds.at(0).get(), reply.fds.at(1).get(), shm::Layout{out.page_size, out.max_entries},
                                    Mapping::Access::ReadOnly, Mapping::Access::ReadWrite);
    require(mapped.has_value(), "map_ring");
    mapping_ = std::move(*mapped);
    ringbuf_view v = mapping_.view();
    v.map_type = out.map_type;
    v.slot = out.slot;
    v.signal_fd = reply.fds.at(2).get();
    producer = shm::Producer(v);
  }
  shm::Producer producer;

 private:
  Mapping mapping_;
};

// A consumer's.
class Consuming {
 public:
  explicit Consuming(const Reply& reply) {
    const auto out = reply.as<ringbuf_attach_reply>();
    auto mapped = Mapping::map_ring(reply.fds.at(0).get(), reply.fds.at(1).get(), shm::Layout{out.page_size, out.max_entries},
                                    Mapping::Access::ReadWrite, Mapping::Access::ReadOnly);
    require(mapped.has_value(), "map_ring");
    mapping_ = std::move(*mapped);
    ringbuf_view v = mapping_.view();
    v.map_type = out.map_type;
    v.room_told = told_.data();
    consumer = shm::Consumer(v);
  }
  const ringbuf_consumer_page& page() const { return *mapping_.view().consumer_page; }
  shm::Consumer consumer;

 private:
  Mapping mapping_;
  std::vector<std::uint64_t> told_ = std::vector<std::uint64_t>(RINGBUF_SLOT_COUNT);
};

TEST_F(LeaseTest, AttachmentsOutliveTheConnection) {
  Client client(daemon);
  const auto p = client.attach(token(), RINGBUF_PRODUCER);
  const auto again = client.reconnect(daemon.socket());
  EXPECT_EQ(again.as<ringbuf_hello_reply>().resumed, 1u);
  EXPECT_TRUE(again.fds.empty());
  EXPECT_EQ(info().producers, 1u);
  EXPECT_EQ(client.detach(p.as<ringbuf_attach_reply>().attachment).err(), 0);
  EXPECT_EQ(info().producers, 0u);
}

TEST_F(LeaseTest, ANewConnectionEndsTheOneBefore) {
  Client client(daemon);
  const UniqueFd before(::fcntl(client.fd(), F_DUPFD_CLOEXEC, 0));
  EXPECT_EQ(client.reconnect(daemon.socket()).as<ringbuf_hello_reply>().resumed, 1u);
  char byte;
  EXPECT_EQ(::recv(before.get(), &byte, 1, 0), 0);
  EXPECT_EQ(client.create().err(), 0);
}

TEST_F(LeaseTest, AnAttachmentThatIsAskedForAgainIsTheOnlyOne) {
  auto spec = Client::spec();
  spec.ring_flags = RINGBUF_F_SINGLE_PRODUCER;
  const auto single = owner.create(spec);
  const ringbuf_attach_req req{RINGBUF_PRODUCER, 77};
  for (int lost = 0; lost < 3; ++lost) {
    const auto p = owner.call(RINGBUF_ATTACH, req, {single.fds.at(0).get()});
    EXPECT_EQ(p.as<ringbuf_attach_reply>().attachment, 77u);
  }
  EXPECT_EQ(owner.info(single.fds.at(0).get()).as<ringbuf_map_info>().producers, 1u);
  EXPECT_EQ(owner.detach(77).err(), 0);
  EXPECT_EQ(owner.detach(77).err(), ENOENT);
}

TEST_F(LeaseTest, TheLastCopyOfALeaseEndsAllThatItsClientHad) {
  Client client(daemon);
  client.attach(token(), RINGBUF_PRODUCER);
  client.attach(token(), RINGBUF_CONSUMER);
  UniqueFd copy(::fcntl(client.lease(), F_DUPFD_CLOEXEC, 0));
  client.close();
  EXPECT_EQ(info().producers, 1u);
  copy.reset();
  EXPECT_EQ(info().producers, 0u);  // a close before a request is seen before the request
  EXPECT_EQ(info().consumers, 0u);
}

TEST_F(LeaseTest, WithoutALeaseThereIsNoConnection) {
  Client client(daemon);
  Client idle(daemon);
  ::shutdown(client.lease(), SHUT_RDWR);
  eventually([&] { return client.next_id(0).err() == -1; });
  EXPECT_EQ(idle.next_id(0).err(), 0);
}

TEST_F(LeaseTest, HelloDoesNotBringAClientBackThatHasJustGone) {
  Client client(daemon), other(daemon);
  daemon.while_paused([&] {
    ::shutdown(client.lease(), SHUT_RDWR);
    (void)client.request(RINGBUF_HELLO, Client::hello_req());
  });
  EXPECT_TRUE(client.receive().closed || client.receive().closed);
  EXPECT_EQ(other.create().err(), 0);
}

TEST_F(LeaseTest, AnUnknownLeaseIsNoLease) {
  Client client(daemon.socket(), Client::Silent{});
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
  const UniqueFd ends[2] = {UniqueFd(pair[0]), UniqueFd(pair[1])};
  const auto hello = client.call(RINGBUF_HELLO, Client::hello_req(), {pair[0]});
  EXPECT_EQ(hello.as<ringbuf_hello_reply>().resumed, 0u);
  EXPECT_EQ(hello.fds.size(), 1u);
}

TEST_F(LeaseTest, AnotherProcessCannotResumeIt) {
  Client client(daemon);
  ChildProcess child([&] {
    Client other(daemon.socket(), Client::Silent{});
    return other.call(RINGBUF_HELLO, Client::hello_req(), {client.lease()}).err();
  });
  EXPECT_EQ(child.exit_code(), EPERM);
  EXPECT_EQ(client.create().err(), 0);
}

TEST_F(LeaseTest, HelloIsSaidOnce) {
  EXPECT_EQ(owner.call(RINGBUF_HELLO, Client::hello_req()).err(), EALREADY);
  EXPECT_EQ(owner.create().err(), 0);
}

TEST_F(LeaseTest, TheDeathOfAProcessEndsItAlthoughItsChildHasACopy) {
  int gate[2];
  ASSERT_EQ(::pipe2(gate, O_CLOEXEC), 0);
  ChildProcess child([&] {
    Client client(daemon);
    client.attach(token(), RINGBUF_PRODUCER);
    if (::fork() == 0) {
      char byte;  // with copies of all, until the test is over
      ::close(gate[1]);
      (void)!::read(gate[0], &byte, 1);
      ::_exit(0);
    }
    ::raise(SIGKILL);
    return 0;
  });
  child.wait();
  until_producers_are(0);
  ::close(gate[0]);
  ::close(gate[1]);
}

TEST_F(LeaseTest, AZombieIsDead) {
  ChildProcess child([&] {
    Client client(daemon);
    client.attach(token(), RINGBUF_PRODUCER);
    ::_exit(0);
    return 0;
  });
  siginfo_t info{};
  ::waitid(P_PID, static_cast<id_t>(child.pid()), &info, WEXITED | WNOWAIT);  // nobody reaps it
  until_producers_are(0);
}

// The daemon finds out while it holds a request of the same session, with a descriptor.
TEST_F(LeaseTest, WhoIsGoneWhenItsRequestIsReadIsNotAnswered) {
  Client client(daemon);
  daemon.while_paused([&] {
    EXPECT_TRUE(client.request(RINGBUF_OBJ_GET_INFO_BY_FD, std::uint32_t{0}, {token()}));
    client.end_lease();
  });
  EXPECT_TRUE(client.receive().closed);
  EXPECT_EQ(info().producers, 0u);
}

TEST_F(LeaseTest, WhatTheDeadHadReservedIsDiscardedAndCounted) {
  ChildProcess child([&] {
    Client client(daemon);
    const Attached a(client.attach(token(), RINGBUF_PRODUCER));
    (void)!a.producer.reserve(100, 0);
    a.producer.output("kept", 4, 0);
    (void)!a.producer.reserve(28, 0);
    ::raise(SIGKILL);
    return 0;
  });
  const auto c = owner.attach(token(), RINGBUF_CONSUMER);
  child.wait();
  until_producers_are(0);
  const auto i = info();
  EXPECT_EQ(i.orphan_records, 2u);
  EXPECT_EQ(i.orphan_bytes, 128u);
  EXPECT_EQ(i.orphan_pid, static_cast<unsigned>(child.pid()));
  EXPECT_EQ(i.head_slot, 0u);
  pollfd woken{c.fds.at(2).get(), POLLIN, 0};
  EXPECT_EQ(::poll(&woken, 1, 0), 1);  // it may have slept before the first of them
  const Attached next(owner.attach(token(), RINGBUF_PRODUCER));
  EXPECT_EQ(next.producer.output("next", 4, 0), 0);
}

TEST_F(LeaseTest, WhoDetachesGivesUpWhatItHasReserved) {
  const auto p = owner.attach(token(), RINGBUF_PRODUCER);
  const Attached a(p);
  (void)!a.producer.reserve(64, 0);
  EXPECT_EQ(owner.detach(p.as<ringbuf_attach_reply>().attachment).err(), 0);
  EXPECT_EQ(info().orphan_records, 1u);
}

TEST_F(LeaseTest, WhoIsInTheWayIsNamed) {
  const auto p = owner.attach(token(), RINGBUF_PRODUCER);
  const Attached a(p);
  EXPECT_EQ(info().head_slot, 0u);
  a.producer.output("first", 5, 0);
  EXPECT_EQ(info().head_slot, 0u);
  void* open = a.producer.reserve(8, 0);
  a.producer.ring().publish_producer_pos(a.producer.ring().producer_pos());
  const auto c = owner.attach(token(), RINGBUF_CONSUMER);
  const Consuming consuming(c);
  const shm::Consumer& consumer = consuming.consumer;
  EXPECT_EQ(consumer.consume([](void*, std::size_t) { return 0; }, SIZE_MAX), 1);
  EXPECT_FALSE(consumer.must_not_sleep());
  const auto i = info();
  EXPECT_EQ(i.head_slot, p.as<ringbuf_attach_reply>().slot);
  EXPECT_EQ(i.head_pid, static_cast<unsigned>(::getpid()));
  EXPECT_EQ(i.head_pos, 16u);
  EXPECT_STRNE(i.head_comm, "");
  const std::uint64_t asleep = consuming.page().stalled_ns;
  eventually([&] { return shm::now_ns() - asleep > 3'000'000; });
  EXPECT_GE(info().head_ms, 3u);
  a.producer.submit(open, 0);
  EXPECT_EQ(info().head_slot, 0u);
}

TEST_F(LeaseTest, TheSuccessorOfASingleProducerComesWhenItIsBuried) {
  auto spec = Client::spec(16 << 20, "large");
  spec.ring_flags = RINGBUF_F_SINGLE_PRODUCER;
  const auto large = owner.create(spec);
  const int fd = large.fds.at(0).get();
  const auto p = owner.attach(fd, RINGBUF_PRODUCER);
  {
    const Attached a(p);
    EXPECT_NE(a.producer.reserve(8, 0), nullptr);
    for (int i = 0; i < 600'000; ++i) ASSERT_EQ(a.producer.output("behind", 6, 0), 0);
  }
  daemon.while_paused([&] {
    owner.request(RINGBUF_DETACH, ringbuf_detach_req{p.as<ringbuf_attach_reply>().attachment, 0});
    owner.request(RINGBUF_ATTACH, ringbuf_attach_req{RINGBUF_PRODUCER, 0}, {fd});
  });
  EXPECT_EQ(owner.receive().err(), 0);
  Reply next = owner.receive();
  EXPECT_EQ(next.err(), EAGAIN) << "it is buried already: this shows nothing";
  while (next.err() == EAGAIN) next = owner.attach(fd, RINGBUF_PRODUCER);
  EXPECT_EQ(next.err(), 0) << next.text;
  EXPECT_EQ(owner.info(fd).as<ringbuf_map_info>().orphan_records, 1u);
  EXPECT_EQ(owner.attach(fd, RINGBUF_PRODUCER).err(), EBUSY);
}

// Clients choose the numbers: one that was given up, or asked for again, is free at once. Who has it next is another than those
// whose records are still being searched for.
TEST_F(LeaseTest, ANumberIsAnothersBeforeItsLastHoldersAreBuried) {
  const auto large = owner.create(Client::spec(32 << 20, "large"));
  const int fd = large.fds.at(0).get();
  const auto c = owner.attach(fd, RINGBUF_CONSUMER);
  const Consuming consuming(c);
  const shm::Consumer& consumer = consuming.consumer;
  consumer.ring().add_waiting();  // it may sleep at any time
  const auto large_info = [&] { return owner.info(fd).as<ringbuf_map_info>(); };
  const ringbuf_attach_req again{RINGBUF_PRODUCER, 77};
  constexpr unsigned kBehind = 1'000'000;
  {
    const Attached first(owner.call(RINGBUF_ATTACH, again, {fd}));
    EXPECT_NE(first.producer.reserve(8, 0), nullptr);
    for (unsigned i = 0; i < kBehind; ++i) ASSERT_EQ(first.producer.output("behind", 6, 0), 0);
  }
  daemon.while_paused([&] {
    owner.request(RINGBUF_ATTACH, again, {fd});
    owner.request(RINGBUF_DETACH, ringbuf_detach_req{77, 0});
    owner.request(RINGBUF_ATTACH, again, {fd});
    owner.request(RINGBUF_OBJ_GET_INFO_BY_FD, std::uint32_t{0}, {fd});
  });
  const std::uint32_t second = owner.receive().as<ringbuf_attach_reply>().slot;
  EXPECT_EQ(owner.receive().err(), 0);
  const Reply mine = owner.receive();
  const std::uint32_t slot = mine.as<ringbuf_attach_reply>().slot;
  EXPECT_NE(slot, second);
  EXPECT_EQ(mine.as<ringbuf_attach_reply>().attachment, 77u);
  EXPECT_EQ(owner.receive().as<ringbuf_map_info>().producers, 3u) << "they are buried already: this shows nothing";

  const Attached a(mine);
  const shm::Ring& ring = a.producer.ring();
  void* const open = a.producer.reserve(4, 0);
  ASSERT_NE(open, nullptr);
  ring.set_need(slot, 4711);
  ring.add_room_waiter();
  eventually([&] { return large_info().producers == 1; });
  EXPECT_EQ(large_info().orphan_records, 1u);
  EXPECT_EQ(ring.need(slot), 4711u);
  EXPECT_EQ(ring.room_waiters(), 1u);
  std::memcpy(open, "mine", 4);
  epoll_event forgotten[4];
  while (::epoll_wait(c.fds.at(2).get(), forgotten, 4, 0) > 0) {}
  a.producer.submit(open, 2 /* BPF_RB_FORCE_WAKEUP */);
  pollfd woken{c.fds.at(2).get(), POLLIN, 0};
  EXPECT_EQ(::poll(&woken, 1, 0), 1);

  std::string last;
  const auto take = [&](void* data, std::size_t size) {
    last.assign(static_cast<const char*>(data), size);
    return 0;
  };
  EXPECT_EQ(consumer.consume(take, SIZE_MAX), kBehind + 1);
  EXPECT_EQ(last, "mine");
  EXPECT_EQ(owner.detach(77).err(), 0);
  EXPECT_EQ(owner.detach(77).err(), ENOENT);
  EXPECT_EQ(large_info().producers, 0u);
}

// Without FOREIGN: the kernel has missed it, as it does if a thread that is not the first one of its process calls exec.
TEST_F(LeaseTest, WhoIsInsideReserveIsNamedAndFreedWithItsSlot) {
  for (const std::uint64_t foreign : {std::uint64_t{RINGBUF_OWNER_FOREIGN}, std::uint64_t{0}}) {
    const auto p = owner.attach(token(), RINGBUF_PRODUCER);
    const Attached a(p);
    EXPECT_EQ(info().owner_slot, 0u);
    const std::uint32_t slot = p.as<ringbuf_attach_reply>().slot;
    ASSERT_TRUE(a.producer.ring().try_own(std::uint64_t{slot} << 32 | foreign | 4711));
    const auto i = info();
    EXPECT_EQ(i.owner_slot, slot);
    EXPECT_EQ(i.owner_tid, 4711u);
    EXPECT_EQ(i.owner_pid, static_cast<unsigned>(::getpid()));
    EXPECT_EQ(owner.detach(p.as<ringbuf_attach_reply>().attachment).err(), 0);
    EXPECT_EQ(info().owner_slot, 0u);
    const Attached next(owner.attach(token(), RINGBUF_PRODUCER));
    EXPECT_EQ(next.producer.output("next", 4, 0), 0);
  }
}

TEST_F(LeaseTest, ProducersOfThisPidNamespaceAreRobust) {
  struct stat st {};
  ASSERT_EQ(::stat("/proc/self/ns/pid", &st), 0);
  const auto flags = [&](std::uint64_t pid_namespace) {
    Client client(daemon.socket(), Client::Silent{});
    const auto lease = client.call(RINGBUF_HELLO, ringbuf_hello_req{RINGBUF_WIRE_VERSION, 0, pid_namespace});
    return client.attach(token(), RINGBUF_PRODUCER).as<ringbuf_attach_reply>().flags;
  };
  EXPECT_EQ(flags(st.st_ino), RINGBUF_ATTACHED_ROBUST);
  EXPECT_EQ(flags(st.st_ino + 1), 0u);
  EXPECT_EQ(flags(0), 0u);
}

}  // namespace
}  // namespace ringbuf::test
