// SPDX-License-Identifier: MIT
// ATTACH and DETACH: places, descriptors, wakeups; and peers that abuse what they were given.
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

#include "harness.hpp"

namespace ringbuf::test {
namespace {

class AttachTest : public DaemonTest {
 protected:
  AttachTest() : client(daemon) { reset_map(Client::spec()); }
  void reset_map(const ringbuf_map_create_req& req) { made = client.create(req); }
  int token() const { return made.fds.at(0).get(); }
  ringbuf_map_info info() { return client.info(token()).as<ringbuf_map_info>(); }

  static bool woken(int wait) {
    epoll_event ev;
    return ::epoll_wait(wait, &ev, 1, 0) == 1;
  }
  static bool signal(int event) {
    const std::uint64_t one = 1;
    return ::write(event, &one, sizeof one) == sizeof one;
  }
  template <class T>
  static T peek(int fd, std::uint64_t at) {
    T t{};
    EXPECT_EQ(::pread(fd, &t, sizeof t, static_cast<off_t>(at)), static_cast<ssize_t>(sizeof t));
    return t;
  }
  template <class T>
  static void poke(int fd, std::uint64_t at, T t) {
    EXPECT_EQ(::pwrite(fd, &t, sizeof t, static_cast<off_t>(at)), static_cast<ssize_t>(sizeof t));
  }
  static std::uint64_t slot_at(unsigned slot) { return slot * sizeof(ringbuf_slot); }

  Client client;
  Reply made;
};

TEST_F(AttachTest, RepliesDescribeThePlace) {
  const auto p = client.attach(token(), RINGBUF_PRODUCER);
  const auto out = p.as<ringbuf_attach_reply>();
  EXPECT_EQ(out.id, info().id);
  EXPECT_EQ(out.max_entries, 4096u);
  EXPECT_EQ(out.slot_count, RINGBUF_SLOT_COUNT);
  EXPECT_EQ(out.slot, 1u);
  EXPECT_EQ(out.map_type, 27u);
  EXPECT_EQ(out.page_size, shm::page_size());
  EXPECT_EQ(p.fds.size(), 3u);
  EXPECT_EQ(client.attach(token(), RINGBUF_CONSUMER).fds.size(), 3u);
  EXPECT_EQ(client.attach(token(), RINGBUF_OBSERVER).fds.size(), 2u);
  EXPECT_EQ(client.attach(token(), 0).err(), EINVAL);
  EXPECT_EQ(client.attach(token(), 4).err(), EINVAL);
  const auto i = info();
  EXPECT_EQ(i.producers, 1u);
  EXPECT_EQ(i.consumers, 1u);
  EXPECT_EQ(i.observers, 1u);
}

TEST_F(AttachTest, MemoryIsTheSameForAll) {
  const auto p = client.attach(token(), RINGBUF_PRODUCER), c = client.attach(token(), RINGBUF_CONSUMER);
  const auto header = peek<ringbuf_shm_header>(c.fds.at(1).get(), 0);
  EXPECT_EQ(header.magic, RINGBUF_SHM_MAGIC);
  poke<std::uint64_t>(p.fds.at(1).get(), header.producer_page, 4711);
  EXPECT_EQ(peek<std::uint64_t>(c.fds.at(1).get(), header.producer_page), 4711u);
  poke<std::uint64_t>(c.fds.at(0).get(), 0, 17);
  EXPECT_EQ(peek<std::uint64_t>(p.fds.at(0).get(), 0), 17u);
  struct stat st;
  for (std::size_t i = 0; i < 2; ++i) {
    ASSERT_EQ(::fstat(c.fds.at(i).get(), &st), 0);
    EXPECT_EQ(st.st_mode & 07777, 0600u);
  }
}

TEST_F(AttachTest, SignalsWakeEveryConsumerWhateverTheOrder) {
  const auto c1 = client.attach(token(), RINGBUF_CONSUMER);
  const auto p1 = client.attach(token(), RINGBUF_PRODUCER);
  const auto c2 = client.attach(token(), RINGBUF_CONSUMER);
  const auto p2 = client.attach(token(), RINGBUF_PRODUCER);
  for (const Reply* p : {&p1, &p2}) {
    ASSERT_TRUE(signal(p->fds.at(2).get()));
    for (const Reply* c : {&c1, &c2}) {
      EXPECT_TRUE(woken(c->fds.at(2).get()));
      EXPECT_FALSE(woken(c->fds.at(2).get())) << "one write is one edge";
    }
  }
}

TEST_F(AttachTest, ADetachedProducerWakesNobody) {
  const auto c = client.attach(token(), RINGBUF_CONSUMER), p = client.attach(token(), RINGBUF_PRODUCER);
  EXPECT_EQ(client.detach(p.as<ringbuf_attach_reply>().attachment).err(), 0);
  woken(c.fds.at(2).get());
  ASSERT_TRUE(signal(p.fds.at(2).get()));  // its eventfd lives on with it
  EXPECT_FALSE(woken(c.fds.at(2).get()));
}

// Disconnecting a signal takes the edge that nobody has seen yet out of the epoll.
TEST_F(AttachTest, AWakeupOutlivesItsProducer) {
  const auto c = client.attach(token(), RINGBUF_CONSUMER), p = client.attach(token(), RINGBUF_PRODUCER);
  ASSERT_TRUE(signal(p.fds.at(2).get()));
  EXPECT_EQ(client.detach(p.as<ringbuf_attach_reply>().attachment).err(), 0);
  EXPECT_TRUE(woken(c.fds.at(2).get()));
  EXPECT_FALSE(woken(c.fds.at(2).get()));
}

TEST_F(AttachTest, ADetachedConsumerIsNotWoken) {
  const auto c = client.attach(token(), RINGBUF_CONSUMER), p = client.attach(token(), RINGBUF_PRODUCER);
  EXPECT_EQ(client.detach(c.as<ringbuf_attach_reply>().attachment).err(), 0);
  ASSERT_TRUE(signal(p.fds.at(2).get()));
  EXPECT_FALSE(woken(c.fds.at(2).get()));
}

TEST_F(AttachTest, SlotsAreReusedFromTheLowestAndCleared) {
  std::vector<Reply> ps;
  for (unsigned i = 1; i <= 3; ++i) {
    ps.push_back(client.attach(token(), RINGBUF_PRODUCER));
    EXPECT_EQ(ps.back().as<ringbuf_attach_reply>().slot, i);
  }
  const int memory = ps[0].fds.at(1).get();
  for (std::uint64_t at = slot_at(2); at < slot_at(3); at += 8) poke<std::uint64_t>(memory, at, UINT64_MAX);
  EXPECT_EQ(client.detach(ps[1].as<ringbuf_attach_reply>().attachment).err(), 0);
  EXPECT_EQ(peek<std::uint32_t>(memory, slot_at(2)), 0u) << "a need that nobody has any more";
  EXPECT_EQ(peek<std::uint32_t>(memory, slot_at(2) + 4), UINT32_MAX) << "turns go on: the consumer remembers what it told";
  EXPECT_EQ(peek<std::uint64_t>(memory, slot_at(2) + 8), UINT64_MAX) << "the loss counters stay to be read";
  const auto again = client.attach(token(), RINGBUF_PRODUCER);
  EXPECT_EQ(again.as<ringbuf_attach_reply>().slot, 2u);
  for (unsigned i = 0; i < RINGBUF_LOST_REASONS; ++i)
    EXPECT_EQ(peek<std::uint64_t>(memory, slot_at(2) + offsetof(ringbuf_slot, lost) + 8 * i), 0u);
}

TEST_F(AttachTest, TheLastOnesLeaveNoWaitersBehind) {
  const auto p1 = client.attach(token(), RINGBUF_PRODUCER), p2 = client.attach(token(), RINGBUF_PRODUCER);
  const auto c1 = client.attach(token(), RINGBUF_CONSUMER), c2 = client.attach(token(), RINGBUF_CONSUMER);
  const auto o = client.attach(token(), RINGBUF_OBSERVER);
  const auto room = RINGBUF_SLOT_COUNT * sizeof(ringbuf_slot) + offsetof(ringbuf_producer_page, room_waiters);
  const auto waiting = offsetof(ringbuf_consumer_page, waiting);
  poke<std::uint32_t>(p1.fds.at(1).get(), room, 3);
  poke<std::uint64_t>(c1.fds.at(0).get(), waiting, 5);
  client.detach(p1.as<ringbuf_attach_reply>().attachment);
  client.detach(c1.as<ringbuf_attach_reply>().attachment);
  EXPECT_EQ(peek<std::uint32_t>(o.fds.at(1).get(), room), 3u);
  EXPECT_EQ(peek<std::uint64_t>(o.fds.at(0).get(), waiting), 5u);
  client.detach(p2.as<ringbuf_attach_reply>().attachment);
  client.detach(c2.as<ringbuf_attach_reply>().attachment);
  EXPECT_EQ(peek<std::uint32_t>(o.fds.at(1).get(), room), 0u);
  EXPECT_EQ(peek<std::uint64_t>(o.fds.at(0).get(), waiting), 0u);
}

TEST_F(AttachTest, DetachIsOfTheOwnSessionOnly) {
  const auto p = client.attach(token(), RINGBUF_PRODUCER);
  const auto id = p.as<ringbuf_attach_reply>().attachment;
  Client other(daemon);
  EXPECT_EQ(other.detach(id).err(), ENOENT);
  EXPECT_EQ(client.detach(id).err(), 0);
  EXPECT_EQ(client.detach(id).err(), ENOENT);
}

TEST_F(AttachTest, EndsWithTheSessionAndKeepsTheMapTillThen) {
  auto other = std::make_unique<Client>(daemon);
  ASSERT_EQ(other->attach(token(), RINGBUF_PRODUCER).err(), 0);
  const auto id = info().id;
  made.fds.clear();
  ASSERT_EQ(client.by_id(id).err(), 0) << "an attachment keeps the map";
  other.reset();
  eventually([&] { return client.by_id(id).err() == ENOENT; });
}

TEST_F(AttachTest, AttachmentsAreListedInOrder) {
  client.attach(token(), RINGBUF_OBSERVER);
  const auto p = client.attach(token(), RINGBUF_PRODUCER);
  client.attach(token(), RINGBUF_CONSUMER);
  std::vector<unsigned> roles;
  for (std::uint32_t i = 0;; ++i) {
    const auto reply = client.call(RINGBUF_MAP_GET_ATTACHMENT, ringbuf_index_req{i, 0}, {token()});
    if (reply.err() == ENOENT) break;
    const auto a = reply.as<ringbuf_attachment_info>();
    roles.push_back(a.role);
    EXPECT_EQ(a.pid, static_cast<unsigned>(::getpid()));
    EXPECT_EQ(a.uid, ::geteuid());
    EXPECT_EQ(a.slot, a.role == RINGBUF_PRODUCER ? 1u : 0u);
  }
  EXPECT_EQ(roles, (std::vector<unsigned>{RINGBUF_OBSERVER, RINGBUF_PRODUCER, RINGBUF_CONSUMER}));
}

TEST_F(AttachTest, OneProcessConsumes) {
  const auto mine = client.attach(token(), RINGBUF_CONSUMER);
  Client same_process(daemon);
  const auto second = same_process.attach(token(), RINGBUF_CONSUMER);
  EXPECT_EQ(second.err(), 0);
  const auto other_process = [&] {
    ChildProcess child([&] {
      const auto r = Client(daemon).attach(token(), RINGBUF_CONSUMER);
      if (r.err() == EBUSY && r.text.find(fmt::format("pid {} (", ::getppid())) == std::string::npos) return 99;
      return r.err();
    });
    return child.exit_code();
  };
  EXPECT_EQ(other_process(), EBUSY);
  client.detach(mine.as<ringbuf_attach_reply>().attachment);
  EXPECT_EQ(other_process(), EBUSY);
  same_process.detach(second.as<ringbuf_attach_reply>().attachment);
  EXPECT_EQ(other_process(), 0);
}

TEST_F(AttachTest, ADeadConsumersPlaceIsFree) {
  ChildProcess child([&] {
    Client c(daemon);
    if (c.attach(token(), RINGBUF_CONSUMER).err() != 0) return 1;
    ::raise(SIGKILL);
    return 2;
  });
  const int status = child.wait();
  ASSERT_TRUE(WIFSIGNALED(status));
  eventually([&] { return client.attach(token(), RINGBUF_CONSUMER).err() == 0; });
}

TEST_F(AttachTest, ASingleProducerMapHasOne) {
  auto req = Client::spec();
  req.ring_flags = RINGBUF_F_SINGLE_PRODUCER;
  reset_map(req);
  const auto p = client.attach(token(), RINGBUF_PRODUCER);
  EXPECT_EQ(p.as<ringbuf_attach_reply>().ring_flags, RINGBUF_F_SINGLE_PRODUCER);
  const auto refused = client.attach(token(), RINGBUF_PRODUCER);
  EXPECT_EQ(refused.err(), EBUSY);
  EXPECT_NE(refused.text.find(fmt::format("pid {}", ::getpid())), std::string::npos) << refused.text;
  client.detach(p.as<ringbuf_attach_reply>().attachment);
  EXPECT_EQ(client.attach(token(), RINGBUF_PRODUCER).err(), 0);
}

TEST_F(AttachTest, SlotsRunOut) {
  for (unsigned i = 1; i < RINGBUF_SLOT_COUNT; ++i) ASSERT_EQ(client.attach(token(), RINGBUF_PRODUCER).err(), 0) << i;
  EXPECT_EQ(client.attach(token(), RINGBUF_PRODUCER).err(), EUSERS);
  EXPECT_EQ(client.attach(token(), RINGBUF_OBSERVER).err(), 0);
  EXPECT_EQ(info().producers, RINGBUF_SLOT_COUNT - 1);
}

// So that what a map costs the daemon's user in epoll watches, and its end in time, is not consumers times producers without end.
TEST_F(AttachTest, ConsumersRunOut) {
  std::uint32_t last = 0;
  for (unsigned i = 0; i < RINGBUF_MAX_CONSUMERS; ++i) {
    const auto c = client.attach(token(), RINGBUF_CONSUMER);
    ASSERT_EQ(c.err(), 0) << i;
    last = c.as<ringbuf_attach_reply>().attachment;
  }
  const auto refused = client.attach(token(), RINGBUF_CONSUMER);
  EXPECT_EQ(refused.err(), EUSERS);
  EXPECT_NE(refused.text.find("has 64 consumers"), std::string::npos) << refused.text;
  EXPECT_EQ(client.detach(last).err(), 0);
  EXPECT_EQ(client.attach(token(), RINGBUF_CONSUMER).err(), 0);
}

// --- Abuse -------------------------------------------------------------------------------------------------------------------

TEST_F(AttachTest, AFullBlockingSignalHurtsOnlyItsProducer) {
  const auto c = client.attach(token(), RINGBUF_CONSUMER);
  Client bad(daemon);
  const auto p = bad.attach(token(), RINGBUF_PRODUCER);
  const int event = p.fds.at(2).get();
  const std::uint64_t most = UINT64_MAX - 1;
  ASSERT_EQ(::write(event, &most, sizeof most), static_cast<ssize_t>(sizeof most));
  ASSERT_EQ(::fcntl(event, F_SETFL, 0), 0);  // now a write blocks
  EXPECT_TRUE(woken(c.fds.at(2).get()));
  const auto honest = client.attach(token(), RINGBUF_PRODUCER);
  ASSERT_TRUE(signal(honest.fds.at(2).get()));
  EXPECT_TRUE(woken(c.fds.at(2).get()));
  bad.close();
  eventually([&] { return info().producers == 1; });
  EXPECT_EQ(client.attach(token(), RINGBUF_CONSUMER).err(), 0);
}

TEST_F(AttachTest, AnEmptiedWaitHurtsOnlyItsConsumer) {
  // A process that has both ends can take its own signal out of its own epoll.
  const auto c = client.attach(token(), RINGBUF_CONSUMER), c2 = client.attach(token(), RINGBUF_CONSUMER);
  const auto p = client.attach(token(), RINGBUF_PRODUCER);
  const int wait = c.fds.at(2).get(), event = p.fds.at(2).get();
  // The daemon's registrations go by its own descriptor numbers: take those, here where it runs in the same process.
  int gone = 0;
  // (By syscall(2), so that ThreadSanitizer does not take it for a use of the daemon's descriptors.)
  for (int fd = 0; fd < 1 << 16; ++fd) gone += fd != event && ::syscall(SYS_epoll_ctl, wait, EPOLL_CTL_DEL, fd, nullptr) == 0;
  EXPECT_EQ(gone, 2) << "the producer's signal and the map's kick";
  ASSERT_TRUE(signal(event));
  EXPECT_FALSE(woken(wait));
  EXPECT_TRUE(woken(c2.fds.at(2).get()));
  EXPECT_EQ(client.detach(p.as<ringbuf_attach_reply>().attachment).err(), 0);
  EXPECT_EQ(client.attach(token(), RINGBUF_PRODUCER).err(), 0);
}

TEST_F(AttachTest, ADeeplyNestedWaitHurtsOnlyItsConsumer) {
  const auto c = client.attach(token(), RINGBUF_CONSUMER);
  std::vector<UniqueFd> nest;
  int inner = c.fds.at(2).get();
  for (;;) {  // as deep as the kernel allows
    UniqueFd outer(::epoll_create1(EPOLL_CLOEXEC));
    epoll_event ev{};
    ev.events = EPOLLIN;
    if (::epoll_ctl(outer.get(), EPOLL_CTL_ADD, inner, &ev) < 0) break;
    inner = outer.get();
    nest.push_back(std::move(outer));
  }
  std::vector<UniqueFd> wide;  // and wider than a wakeup may spread
  for (int i = 0; i < 1100; ++i) {
    UniqueFd outer(::epoll_create1(EPOLL_CLOEXEC));
    epoll_event ev{};
    ev.events = EPOLLIN;
    if (!outer || ::epoll_ctl(outer.get(), EPOLL_CTL_ADD, c.fds.at(2).get(), &ev) < 0) break;
    wide.push_back(std::move(outer));
  }
  const auto p = client.attach(token(), RINGBUF_PRODUCER);
  EXPECT_EQ(p.err(), 0) << p.text;
  const auto c2 = client.attach(token(), RINGBUF_CONSUMER);
  ASSERT_EQ(c2.err(), 0) << c2.text;
  ASSERT_TRUE(signal(p.fds.at(2).get()));
  EXPECT_TRUE(woken(c2.fds.at(2).get()));
}

// Clients must not share the daemon's open file: what they set on theirs is theirs.
TEST_F(AttachTest, FileFlagsOfAClientDoNotReachTheDaemon) {
  const auto p = client.attach(token(), RINGBUF_PRODUCER), c = client.attach(token(), RINGBUF_CONSUMER);
  poke<std::uint64_t>(p.fds.at(1).get(), slot_at(1), 123);
  poke<std::uint64_t>(p.fds.at(1).get(), slot_at(2) + offsetof(ringbuf_slot, lost), 456);
  poke<std::uint64_t>(c.fds.at(0).get(), offsetof(ringbuf_consumer_page, waiting), 9);
  for (const int fd : {p.fds.at(1).get(), c.fds.at(0).get()}) ASSERT_EQ(::fcntl(fd, F_SETFL, O_APPEND), 0);
  const auto p2 = client.attach(token(), RINGBUF_PRODUCER);
  ASSERT_EQ(p2.err(), 0) << p2.text;
  client.detach(p.as<ringbuf_attach_reply>().attachment);
  client.detach(c.as<ringbuf_attach_reply>().attachment);
  EXPECT_EQ(peek<std::uint64_t>(p2.fds.at(1).get(), slot_at(1)), 0u);
  EXPECT_EQ(peek<std::uint64_t>(p2.fds.at(1).get(), slot_at(2) + offsetof(ringbuf_slot, lost)), 0u);
  EXPECT_EQ(peek<std::uint64_t>(p2.fds.at(0).get(), offsetof(ringbuf_consumer_page, waiting)), 0u);
}

TEST_F(AttachTest, SharedMemoryCannotBeShrunk) {
  const auto p = client.attach(token(), RINGBUF_PRODUCER), c = client.attach(token(), RINGBUF_CONSUMER);
  EXPECT_LT(::ftruncate(p.fds.at(1).get(), 0), 0);
  EXPECT_LT(::ftruncate(c.fds.at(0).get(), 0), 0);
}

}  // namespace
}  // namespace ringbuf::test
