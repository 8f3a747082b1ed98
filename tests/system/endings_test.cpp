// SPDX-License-Identifier: MIT
// What counts as the end of a client, and what does not: docs/security.md has the table.
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include <algorithm>
#include <optional>

#include "daemon_process.hpp"
#include "supervised.hpp"
#include "support/stepped_process.hpp"

using namespace ringbuf::test;

namespace {

// The descriptors of a library session, which it shows to nobody.
struct Connected {
  explicit Connected(const Supervised& daemon) {
    const auto before = sockets();
    session = daemon.connect();
    for (const int fd : sockets()) {
      if (std::find(before.begin(), before.end(), fd) != before.end()) continue;
      sockaddr_un peer{};
      socklen_t size = sizeof peer;
      const bool named = ::getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) == 0 && peer.sun_path[0] != '\0';
      (named && size > sizeof(sa_family_t) ? connection : lease) = fd;
    }
  }
  static std::vector<int> sockets() {
    std::vector<int> all;
    for (int fd = 0; fd < 1024; ++fd) {
      struct stat st;
      if (::fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode)) all.push_back(fd);
    }
    return all;
  }
  SessionPtr session;
  int connection = -1, lease = -1;
};

// HELLO with a lease. A negative errno, or whether it was resumed.
int hello_with(const std::string& path, int lease) {
  const int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  sockaddr_un to{};
  to.sun_family = AF_UNIX;
  path.copy(to.sun_path, sizeof to.sun_path - 1);
  if (::connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) < 0) return -errno;
  struct {
    ringbuf_wire_hdr hdr;
    ringbuf_hello_req body;
  } request{};
  request.hdr.cmd = RINGBUF_HELLO;
  request.body.version = RINGBUF_WIRE_VERSION;
  struct {
    ringbuf_wire_hdr hdr;
    ringbuf_hello_reply body;
  } reply{};
  const bool answered = send_with(fd, &request, sizeof request, lease) >= 0 && ::recv(fd, &reply, sizeof reply, 0) > 0;
  ::close(fd);
  if (!answered) return -EPROTO;
  return reply.hdr.err ? -static_cast<int>(reply.hdr.err) : static_cast<int>(reply.body.resumed);
}

class Endings : public ::testing::Test {
 protected:
  void until_producers_are(std::uint32_t n) {
    eventually([&] { return info_of(map).producers == n; });
  }
  // All is as if it had never been, but for its open record.
  void expect_buried(pid_t pid, std::uint64_t records = 1) {
    until_producers_are(0);
    const auto info = info_of(map);
    EXPECT_EQ(info.orphan_records, records);
    EXPECT_EQ(info.orphan_pid, static_cast<std::uint32_t>(pid));
    EXPECT_EQ(info.head_slot, 0u);
    const auto next = producer_of(map);
    EXPECT_EQ(ringbuf_producer_view(next.get())->slot, 1u);
    EXPECT_EQ(put(next, "next"), 0);
    Gather got;
    EXPECT_GE(ringbuf_consume(consumer_of(map, Gather::call, &got).get()), 1);
    ASSERT_FALSE(got.records.empty());
    EXPECT_EQ(got.records.back(), "next");
  }
  // Until it has stopped itself: it is alive.
  static void until_stopped(const ChildProcess& child) {
    siginfo_t info{};
    ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child.pid()), &info, WSTOPPED | WEXITED | WNOWAIT), 0);
    ASSERT_EQ(info.si_code, CLD_STOPPED);
  }

  FdLeakGuard guard;
  Supervised daemon{"error"};
  SessionPtr session = daemon.connect();
  MapPtr map = create_map(session, "endings");
  std::uint32_t id = info_of(map).id;
};

TEST_F(Endings, ExecIsOne) {
  ChildProcess child([&] {
    const auto own = daemon.connect();
    const auto producer = producer_of(open_id(own, id));
    CHILD_CHECK(ringbuf_reserve(producer.get(), 100, 0) != nullptr);
    ::execl("/bin/sh", "sh", "-c", "kill -STOP $$", nullptr);
    return 1;
  });
  until_stopped(child);
  expect_buried(child.pid());
  EXPECT_TRUE(child.running());
}

TEST_F(Endings, ClosingAllDescriptorsIsOne) {
  ChildProcess child([&] {
    const auto own = daemon.connect();
    const auto producer = producer_of(open_id(own, id));
    CHILD_CHECK(ringbuf_reserve(producer.get(), 100, 0) != nullptr);
    ::closefrom(3);
    ::raise(SIGSTOP);
    return 0;
  });
  until_stopped(child);
  expect_buried(child.pid());
  EXPECT_TRUE(child.running());
}

TEST_F(Endings, ClosingConnectionAndLeaseIsOne) {
  ChildProcess child([&] {
    const Connected own(daemon);
    const auto producer = producer_of(open_id(own.session, id));
    CHILD_CHECK(ringbuf_reserve(producer.get(), 100, 0) != nullptr);
    ::close(own.connection);
    ::close(own.lease);
    ::raise(SIGSTOP);
    return 0;
  });
  until_stopped(child);
  expect_buried(child.pid());
  EXPECT_TRUE(child.running());
}

TEST_F(Endings, FreeingTheSessionIsNone) {
  auto own = daemon.connect();
  auto mine = open_id(own, id);
  auto producer = producer_of(mine);
  void* data = ringbuf_reserve(producer.get(), 4, 0);
  ASSERT_NE(data, nullptr);
  mine.reset();
  own.reset();
  for (int times = 0; times < 2; ++times) {
    EXPECT_EQ(info_of(map).producers, 1u);
    EXPECT_EQ(info_of(map).orphan_records, 0u);
    daemon.kill();
  }
  ringbuf_submit(producer.get(), data, 0);
  EXPECT_EQ(ringbuf_query(producer.get(), RINGBUF_AVAIL_DATA), 16u);
  producer.reset();
  EXPECT_EQ(info_of(map).producers, 0u);
}

TEST_F(Endings, ALeaseThatWasSentAwayEndsWithItsLastCopy) {
  const FdChannel channel;
  ChildProcess child([&] {
    const Connected own(daemon);
    const auto producer = producer_of(open_id(own.session, id));
    CHILD_CHECK(ringbuf_reserve(producer.get(), 100, 0) != nullptr);
    channel.send(own.lease);
    ::close(own.connection);
    ::close(own.lease);
    ::raise(SIGSTOP);
    return 0;
  });
  until_stopped(child);
  EXPECT_EQ(info_of(map).producers, 1u) << "the copy is still in a queue";
  const int lease = channel.receive(), copy = ::dup(lease);
  daemon.kill();
  EXPECT_EQ(info_of(map).producers, 1u);
  EXPECT_EQ(hello_with(daemon.socket(), lease), -EPERM) << "it is another process'";
  ::close(lease);
  EXPECT_EQ(info_of(map).producers, 1u);
  ::close(copy);
  expect_buried(child.pid());
}

TEST_F(Endings, TheDeathOfAProcessIsOneWhoeverHasItsLease) {
  const FdChannel channel;
  ChildProcess child([&] {
    const Connected own(daemon);
    const auto producer = producer_of(open_id(own.session, id));
    CHILD_CHECK(ringbuf_reserve(producer.get(), 100, 0) != nullptr);
    channel.send(own.lease);
    ::raise(SIGSTOP);
    return 0;
  });
  until_stopped(child);
  const int lease = channel.receive();
  EXPECT_EQ(info_of(map).producers, 1u);
  child.kill(SIGKILL);
  child.wait();
  expect_buried(child.pid());
  EXPECT_EQ(hello_with(daemon.socket(), lease), 0) << "a new client";
  ::close(lease);
}

TEST_F(Endings, NothingCanBeHiddenInALease) {
  Connected own(daemon);
  auto mine = open_id(own.session, id);
  auto producer = producer_of(mine);
  for (const int hidden : {own.lease, ringbuf_map_fd(mine.get())}) {
    EXPECT_EQ(send_with(own.lease, "h", 1, hidden), -1);
    EXPECT_EQ(errno, EPIPE);
  }
  EXPECT_EQ(info_of(map).producers, 1u);
}

TEST_F(Endings, WhatAForkChildReservesWithAnInheritedProducerIsItsParents) {
  Gate forked, go;
  ChildProcess parent([&] {
    const auto own = daemon.connect();
    const auto producer = producer_of(open_id(own, id));
    ChildProcess child([&] {
      CHILD_CHECK(put(producer, "of the child") == 0);
      CHILD_CHECK(ringbuf_reserve(producer.get(), 100, 0) != nullptr);
      ::raise(SIGKILL);
      return 0;
    });
    CHILD_CHECK(WIFSIGNALED(child.wait()));
    CHILD_CHECK(put(producer, "of the parent") == 0);
    forked.open();
    go.pass();
    return 0;
  });
  forked.pass();
  Gather got;
  {
    const auto consumer = consumer_of(map, Gather::call, &got);
    EXPECT_EQ(ringbuf_consume(consumer.get()), 1);
    daemon.kill();
    const auto info = info_of(map);
    EXPECT_EQ(info.producers, 1u);
    EXPECT_EQ(info.orphan_records, 0u) << "a slot ends with the process that attached";
    EXPECT_EQ(info.head_pid, static_cast<std::uint32_t>(parent.pid()));
    go.open();
    EXPECT_EQ(parent.exit_code(), 0);
    until_producers_are(0);
    EXPECT_EQ(ringbuf_consume(consumer.get()), 1);
  }
  EXPECT_EQ(got.records, (std::vector<std::string>{"of the child", "of the parent"}));
  expect_buried(parent.pid());
}

// --- threads -----------------------------------------------------------------------------------------------------------------

class ThreadEndings : public Endings, public ::testing::WithParamInterface<bool> {};
INSTANTIATE_TEST_SUITE_P(How, ThreadEndings, ::testing::Bool(), [](const auto& of) { return of.param ? "Exit" : "PthreadExit"; });

TEST_P(ThreadEndings, AThreadThatDiesAloneLeavesItsRecordToItsProcess) {
#if defined(__SANITIZE_ADDRESS__)
  if (GetParam()) GTEST_SKIP() << "AddressSanitizer must see a thread end, or joining it takes for ever";
#endif
  Gate ready, detach, detached, done;
  ChildProcess child([&] {
    const auto own = daemon.connect();
    auto producer = producer_of(open_id(own, id));
    struct Both {
      ringbuf_producer* producer;
      void* data;
    } both{producer.get(), nullptr};
    const auto die = [](void* arg) -> void* {
      auto* b = static_cast<Both*>(arg);
      b->data = ringbuf_reserve(b->producer, 6, 0);
      if (GetParam()) ::syscall(SYS_exit, 0);
      pthread_exit(nullptr);
    };
    pthread_t thread;
    CHILD_CHECK(pthread_create(&thread, nullptr, die, &both) == 0 && pthread_join(thread, nullptr) == 0);
    void* const first = both.data;
    CHILD_CHECK(first != nullptr);
    // Another thread may commit what it has reserved; the second one stays open.
    std::memcpy(first, "shared", 6);
    CHILD_CHECK(pthread_create(&thread, nullptr, die, &both) == 0 && pthread_join(thread, nullptr) == 0);
    ringbuf_submit(producer.get(), first, 0);
    CHILD_CHECK(put(producer, "behind") == 0);
    ready.open();
    detach.pass();
    producer.reset();
    detached.open();
    done.pass();
    return 0;
  });
  ready.pass();
  Gather got;
  {
    const auto consumer = consumer_of(map, Gather::call, &got);
    EXPECT_EQ(ringbuf_consume(consumer.get()), 1);
    daemon.kill();
    const auto info = info_of(map);
    EXPECT_EQ(info.producers, 1u);
    EXPECT_EQ(info.orphan_records, 0u);
    EXPECT_EQ(info.head_pid, static_cast<std::uint32_t>(child.pid()));
    EXPECT_EQ(ringbuf_consume(consumer.get()), 0);
    detach.open();
    detached.pass();
    EXPECT_EQ(ringbuf_consume(consumer.get()), 1);
  }
  EXPECT_EQ(got.records, (std::vector<std::string>{"shared", "behind"}));
  expect_buried(child.pid());
  done.open();
  EXPECT_EQ(child.exit_code(), 0);
}

// --- pids --------------------------------------------------------------------------------------------------------------------

// fork, but the child's pid is this one. -1 with errno.
pid_t fork_as(pid_t pid) {
  clone_args args{};
  args.exit_signal = SIGCHLD;
  args.set_tid = reinterpret_cast<std::uint64_t>(&pid);
  args.set_tid_size = 1;
  return static_cast<pid_t>(::syscall(SYS_clone3, &args, sizeof args));
}

TEST_F(Endings, ANewProcessWithTheSamePidIsAnother) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to choose a pid";
  const FdChannel channel;
  ChildProcess child([&] {
    const Connected own(daemon);
    const auto producer = producer_of(open_id(own.session, id));
    CHILD_CHECK(ringbuf_reserve(producer.get(), 100, 0) != nullptr);
    channel.send(own.lease);
    ::raise(SIGSTOP);
    return 0;
  });
  until_stopped(child);
  const int lease = channel.receive();  // so that it does not tell
  Gate attached, done;
  pid_t reborn = -1;
  int err = 0;
  daemon.while_down([&] {
    child.kill(SIGKILL);
    child.wait();
    reborn = fork_as(child.pid());
    err = errno;
    if (reborn != 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const auto own = daemon.connect();
    if (hello_with(daemon.socket(), lease) != 0) ::_exit(1);  // not resumed: what the dead had has gone
    const auto producer = producer_of(open_id(own, id));
    attached.open();
    done.pass();
    ::_exit(0);
  });
  if (reborn < 0) {
    ::close(lease);
    GTEST_SKIP() << "the pid of the dead could not be had again: " << std::strerror(err);
  }
  EXPECT_EQ(reborn, child.pid());
  eventually([&] { return attached.is_open() || ::waitpid(reborn, nullptr, WNOHANG) == reborn; });
  ASSERT_TRUE(attached.is_open());
  const auto info = info_of(map);
  EXPECT_EQ(info.producers, 1u) << "the new one";
  EXPECT_EQ(info.orphan_records, 1u);
  EXPECT_EQ(info.orphan_pid, static_cast<std::uint32_t>(reborn));
  done.open();
  int status = -1;
  ASSERT_EQ(::waitpid(reborn, &status, 0), reborn);
  EXPECT_EQ(status, 0);
  ::close(lease);
  expect_buried(reborn);
}

// f() makes a process; it is the first of a pid namespace of its own.
template <class F>
auto in_pid_namespace(F&& f) {
  const int home = ::open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
  if (::unshare(CLONE_NEWPID) < 0) std::abort();
  auto made = f();
  if (::setns(home, CLONE_NEWPID) < 0) std::abort();
  ::close(home);
  return made;
}

class PidNamespace : public Endings {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root to make a pid namespace";
    mine = producer_of(map);
  }
  // A producer in a namespace of its own that stands inside reserve.
  std::unique_ptr<SteppedProcess> inside() {
    static SessionPtr own;
    static ProducerPtr producer;
    auto process = in_pid_namespace([&] {
      return std::make_unique<SteppedProcess>(
          [&] {
            own = daemon.connect();
            producer = producer_of(open_id(own, id));
            (void)put(producer, "bound");  // by the dynamic linker
          },
          [&] {
            void* data = ringbuf_reserve(producer.get(), 100, 0);
            std::memset(data, 'x', 100);
            ringbuf_submit(producer.get(), data, 0);
          });
    });
    while (owner() >> 32 == 0) EXPECT_EQ(process->step(), SteppedProcess::State::Stopped);
    EXPECT_EQ(owner() & 0xffffffffu, RINGBUF_OWNER_FOREIGN | 1) << "its thread's id there";
    return process;
  }
  std::uint64_t owner() const {
    return *const_cast<volatile std::uint64_t*>(&ringbuf_producer_view(mine.get())->producer_page->owner);
  }
  ProducerPtr mine;
};

TEST_F(PidNamespace, WhoDiesInsideReserveIsFoundByTheDaemon) {
  const auto process = inside();
  const auto info = info_of(map);
  EXPECT_EQ(info.owner_pid, static_cast<std::uint32_t>(process->pid())) << "as the daemon sees it";
  EXPECT_EQ(info.owner_tid, 1u);
  EXPECT_EQ(info.owner_slot, 2u);
  process->kill();
  until_producers_are(1);
  EXPECT_EQ(owner(), 0u);
  EXPECT_EQ(put(mine, "goes on"), 0);
  Gather got;
  EXPECT_EQ(ringbuf_consume(consumer_of(map, Gather::call, &got).get()), 2);
  EXPECT_EQ(got.records.back(), "goes on");
}

TEST_F(PidNamespace, EqualPidsAreNotTakenForEachOther) {
  const auto process = inside();
  Gate attached;
  const auto other = in_pid_namespace([&] {
    return std::make_unique<ChildProcess>([&] {
      const auto own = daemon.connect();
      const auto producer = producer_of(open_id(own, id));
      CHILD_CHECK(::getpid() == 1);
      attached.open();
      for (;;) ::pause();
      return 0;
    });
  });
  attached.pass();
  EXPECT_EQ(info_of(map).producers, 3u);
  other->kill(SIGKILL);
  other->wait();
  until_producers_are(2);
  EXPECT_EQ(info_of(map).owner_slot, 2u) << "the living one's";
  EXPECT_EQ(info_of(map).owner_pid, static_cast<std::uint32_t>(process->pid()));
  process->let_go();
  eventually([&] { return process->ended(); });
  Gather got;
  EXPECT_EQ(ringbuf_consume(consumer_of(map, Gather::call, &got).get()), 2);
  EXPECT_EQ(got.records, (std::vector<std::string>{"bound", std::string(100, 'x')}));
  EXPECT_EQ(info_of(map).orphan_records, 0u);
}

}  // namespace
