// SPDX-License-Identifier: MIT
// Who gets at a map, and how: id, name, pin, a token received or inherited; from other processes and as other users.
#include <grp.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <set>
#include <thread>

#include "daemon_process.hpp"
#include "ringbuf/ringbuf.hpp"

using namespace ringbuf::test;

namespace {

constexpr uid_t kStranger = 12345;

class Access : public ::testing::Test {
 protected:
  // fn runs in another process; `uid` 0 keeps ours.
  template <class F>
  int elsewhere(F&& fn, uid_t uid = 0) {
    return ChildProcess([&] {
             if (uid != 0 && (::setgroups(0, nullptr) < 0 || ::setresgid(uid, uid, uid) < 0 || ::setresuid(uid, uid, uid) < 0))
               return 99;
             return fn();
           })
        .exit_code();
  }

  FdLeakGuard guard;
  Daemon daemon;
  SessionPtr session = daemon.connect();
};

TEST_F(Access, ByIdNameAndPinFromAnotherProcess) {
  const auto map = create_map(session, "events");
  ASSERT_EQ(ringbuf_map_pin(map.get(), "/a/events"), 0);
  const std::uint32_t id = info_of(map).id;
  const auto producer = producer_of(map);
  EXPECT_EQ(elsewhere([&] {
              const auto own = daemon.connect();
              ringbuf_map* opened[3] = {};
              CHILD_CHECK(ringbuf_map_open_id(own.get(), id, 0, &opened[0]) == 0);
              CHILD_CHECK(ringbuf_map_open_name(own.get(), "events", 0, &opened[1]) == 0);
              CHILD_CHECK(ringbuf_map_open_pinned(own.get(), "/a/events", 0, &opened[2]) == 0);
              for (ringbuf_map* m : opened) {
                const MapPtr owned(m);
                CHILD_CHECK(info_of(owned).id == id);
                CHILD_CHECK(put(producer_of(owned), "from afar") == 0);
              }
              return 0;
            }),
            0);
  Gather got;
  EXPECT_EQ(ringbuf_consume(consumer_of(map, Gather::call, &got).get()), 3);
}

TEST_F(Access, WhatIsNotThereIsEnoent) {
  ringbuf_map* map = nullptr;
  std::uint32_t id = 0;
  EXPECT_EQ(ringbuf_map_open_id(session.get(), 4711, 0, &map), -ENOENT);
  EXPECT_EQ(ringbuf_map_open_name(session.get(), "nobody", 0, &map), -ENOENT);
  EXPECT_EQ(ringbuf_map_open_pinned(session.get(), "/nobody", 0, &map), -ENOENT);
  EXPECT_EQ(ringbuf_map_next_id(session.get(), 0, &id), -ENOENT);
  EXPECT_EQ(ringbuf_unpin(session.get(), "/nobody"), -ENOENT);
  EXPECT_EQ(map, nullptr);
}

TEST_F(Access, BadArgumentsAreRefusedWithASentence) {
  ringbuf_map* map = nullptr;
  EXPECT_EQ(ringbuf_map_create(session.get(), "m", 5000, nullptr, &map), -EINVAL);
  EXPECT_NE(std::string(ringbuf_last_error()).find("5000"), std::string::npos) << ringbuf_last_error();
  EXPECT_EQ(ringbuf_map_create(session.get(), "no spaces", 4096, nullptr, &map), -EINVAL);
  EXPECT_EQ(ringbuf_map_create(session.get(), "sixteen_chars_xx", 4096, nullptr, &map), -EINVAL);
  EXPECT_EQ(ringbuf_map_open_name(session.get(), "sixteen_chars_xx", 0, &map), -EINVAL);
  EXPECT_EQ(ringbuf_map_open_name(session.get(), nullptr, 0, &map), -EINVAL);
  EXPECT_EQ(ringbuf_map_open_pinned(session.get(), nullptr, 0, &map), -EINVAL);
  EXPECT_EQ(ringbuf_map_open_id(session.get(), 1, 0, nullptr), -EINVAL);
  EXPECT_EQ(ringbuf_map_open_name(session.get(), "m", 0, nullptr), -EINVAL);
  EXPECT_EQ(ringbuf_map_open_pinned(session.get(), "/m", 0, nullptr), -EINVAL);
  EXPECT_EQ(ringbuf_map_from_fd(session.get(), 0, nullptr), -EINVAL);
  EXPECT_EQ(ringbuf_map_next_id(session.get(), 0, nullptr), -EINVAL);
  const auto good = create_map(session, "m");
  EXPECT_EQ(ringbuf_map_open_id(session.get(), info_of(good).id, 1u << 20, &map), -EINVAL) << "unknown rights";
  for (const char* path : {"", "relative", "/", "//x", "/a/../b", "/a/", "/a b\n"})
    EXPECT_EQ(ringbuf_map_pin(good.get(), path), -EINVAL) << path;
  EXPECT_EQ(ringbuf_map_pin(good.get(), nullptr), -EINVAL);
  EXPECT_EQ(ringbuf_map_pin(good.get(), ("/" + std::string(255, 'x')).c_str()), -ENAMETOOLONG);
  EXPECT_EQ(ringbuf_map_pin(good.get(), ("/" + std::string(254, 'x')).c_str()), 0);
  EXPECT_EQ(map, nullptr);
}

TEST_F(Access, DescriptorsThatAreNoMapsAreRefused) {
  ringbuf_map* map = nullptr;
  EXPECT_EQ(ringbuf_map_from_fd(session.get(), -1, &map), -EBADF);
  const int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  EXPECT_EQ(ringbuf_map_from_fd(session.get(), null, &map), -EINVAL);
  ::close(null);
  const FdChannel pair;
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  EXPECT_EQ(ringbuf_map_from_fd(session.get(), ends[0], &map), -EINVAL) << "looks like a token, is none";
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST_F(Access, IdsAreListedInOrder) {
  std::set<std::uint32_t> expected;
  std::vector<MapPtr> maps;
  for (int i = 0; i < 20; ++i) expected.insert(info_of(maps.emplace_back(create_map(session, "listed"))).id);
  std::set<std::uint32_t> listed;
  for (std::uint32_t id = 0; ringbuf_map_next_id(session.get(), id, &id) == 0;) EXPECT_TRUE(listed.insert(id).second);
  EXPECT_EQ(listed, expected);
  ringbuf_map* map = nullptr;
  EXPECT_EQ(ringbuf_map_open_name(session.get(), "listed", 0, &map), -ENOTUNIQ);
}

TEST_F(Access, InfoPinsAndAttachmentsTellTheTruth) {
  const auto map = create_map(session, "info", 8192, 0640, RINGBUF_F_SINGLE_PRODUCER);
  ASSERT_EQ(ringbuf_map_pin(map.get(), "/b"), 0);
  ASSERT_EQ(ringbuf_map_pin(map.get(), "/a"), 0);
  EXPECT_EQ(ringbuf_map_pin(map.get(), "/a"), -EEXIST);
  const auto producer = producer_of(map);
  const auto consumer = consumer_of(map, Gather::call, nullptr);
  const auto observer = observer_of(map);
  const auto info = info_of(map);
  EXPECT_EQ(info.type, RINGBUF_MAP_TYPE_RINGBUF);
  EXPECT_STREQ(info.name, "info");
  EXPECT_EQ(info.max_entries, 8192u);
  EXPECT_EQ(info.mode, 0640u);
  EXPECT_EQ(info.ring_flags, RINGBUF_F_SINGLE_PRODUCER);
  EXPECT_EQ(info.uid, ::geteuid());
  EXPECT_EQ(info.rights, RINGBUF_RIGHT_ALL);
  EXPECT_EQ(info.producers, 1u);
  EXPECT_EQ(info.consumers, 1u);
  EXPECT_EQ(info.observers, 1u);
  EXPECT_EQ(info.pins, 2u);
  EXPECT_EQ(info.tokens, 1u);
  char path[RINGBUF_PATH_LEN];
  EXPECT_EQ(ringbuf_map_get_pin(map.get(), 0, path, sizeof path), 2);
  EXPECT_STREQ(path, "/a");
  EXPECT_EQ(ringbuf_map_get_pin(map.get(), 1, path, 2), -ENAMETOOLONG);
  EXPECT_EQ(ringbuf_map_get_pin(map.get(), 2, path, sizeof path), -ENOENT);
  const std::uint32_t roles[] = {RINGBUF_PRODUCER, RINGBUF_CONSUMER, RINGBUF_OBSERVER};
  ringbuf_attachment_info attachment;
  for (std::uint32_t i = 0; i < 3; ++i) {
    ASSERT_EQ(ringbuf_map_get_attachment(map.get(), i, &attachment), 0);
    EXPECT_EQ(attachment.role, roles[i]);
    EXPECT_EQ(attachment.pid, static_cast<std::uint32_t>(::getpid()));
    EXPECT_EQ(attachment.uid, ::geteuid());
  }
  EXPECT_EQ(ringbuf_map_get_attachment(map.get(), 3, &attachment), -ENOENT);
  ringbuf_producer* second = nullptr;
  EXPECT_EQ(ringbuf_producer_attach(map.get(), &second), -EBUSY);
  EXPECT_NE(std::string(ringbuf_last_error()).find(std::to_string(::getpid())), std::string::npos) << ringbuf_last_error();
  EXPECT_EQ(ringbuf_unpin(session.get(), "/a"), 0);
  EXPECT_EQ(info_of(map).pins, 1u);
}

TEST_F(Access, AMapLivesWhileAPinATokenOrAnAttachmentRefersToIt) {
  std::uint32_t id = 0, none = 0;
  auto map = create_map(session, "pinned");
  ASSERT_EQ(ringbuf_map_pin(map.get(), "/p"), 0);
  id = info_of(map).id;
  map.reset();
  auto producer = producer_of(open_id(session, id));
  ASSERT_EQ(ringbuf_unpin(session.get(), "/p"), 0);
  EXPECT_EQ(ringbuf_map_next_id(session.get(), 0, &none), 0) << "an attachment is left";
  EXPECT_EQ(put(producer, "still there"), 0);
  producer.reset();
  wait_until([&] { return ringbuf_map_next_id(session.get(), 0, &none) == -ENOENT; });  // the token's hang-up is on its way
}

TEST_F(Access, ASecondConsumerProcessIsToldWhoTheFirstIs) {
  const auto map = create_map(session, "exclusive");
  auto consumer = consumer_of(map, Gather::call, nullptr);
  const std::uint32_t id = info_of(map).id;
  const std::string mine = std::to_string(::getpid());
  const auto try_to_consume = [&](int expected) {
    return elsewhere([&, expected] {
      const auto other = open_id(daemon.connect(), id);
      ringbuf_consumer* c = nullptr;
      CHILD_CHECK(ringbuf_consumer_attach(other.get(), nullptr, nullptr, &c) == expected);
      CHILD_CHECK(expected == 0 || std::string(ringbuf_last_error()).find(mine) != std::string::npos);
      ringbuf_consumer_free(c);
      return 0;
    });
  };
  EXPECT_EQ(try_to_consume(-EBUSY), 0);
  auto second = consumer_of(map, Gather::call, nullptr);  // the same process may
  consumer.reset();
  EXPECT_EQ(try_to_consume(-EBUSY), 0);
  second.reset();
  EXPECT_EQ(try_to_consume(0), 0);
}

TEST_F(Access, ATokenWorksInTheProcessThatReceivesIt) {
  const auto map = create_map(session, "sent");
  FdChannel channel;
  ChildProcess child([&] {
    const int fd = channel.receive();
    CHILD_CHECK(fd >= 0);
    ringbuf_map* received = nullptr;
    const auto own = daemon.connect();
    CHILD_CHECK(ringbuf_map_from_fd(own.get(), fd, &received) == 0);
    ::close(fd);  // it was duplicated
    const MapPtr owned(received);
    CHILD_CHECK(put(producer_of(owned), "by token") == 0);
    return 0;
  });
  channel.send(ringbuf_map_fd(map.get()));
  EXPECT_EQ(child.exit_code(), 0);
  Gather got;
  EXPECT_EQ(ringbuf_consume(consumer_of(map, Gather::call, &got).get()), 1);
}

TEST_F(Access, AChildUsesTheSessionAndTheMapThatItInherits) {
  const auto map = create_map(session, "inherited");
  const auto parent_producer = producer_of(map);
  EXPECT_EQ(elsewhere([&] {
              CHILD_CHECK(info_of(map).id != 0);
              CHILD_CHECK(put(producer_of(map), "by the child") == 0);
              ringbuf_map* by_fd = nullptr;
              CHILD_CHECK(ringbuf_map_from_fd(session.get(), ringbuf_map_fd(map.get()), &by_fd) == 0);
              const MapPtr owned(by_fd);
              errno = 0;
              CHILD_CHECK(ringbuf_reserve_wait(parent_producer.get(), 8, -1) == nullptr && errno == EPERM);
              Gather got;
              CHILD_CHECK(ringbuf_consume(consumer_of(owned, Gather::call, &got).get()) == 1);
              return 0;
            }),
            0);
  EXPECT_EQ(info_of(map).producers, 1u) << "the child's detaching was its own";
  EXPECT_EQ(put(parent_producer, "the parent goes on"), 0);
}

// A reply's descriptors that find no room are lost; nothing else is.
TEST_F(Access, RunningOutOfDescriptorsLosesNoAttachment) {
  const auto map = create_map(session, "kept");
  const std::uint32_t id = info_of(map).id;
  ChildProcess child([&] {
    const auto own = daemon.connect();
    const auto mine = open_id(own, id);
    const auto producer = producer_of(mine);
    const int next = ::dup(0);
    ::close(next);
    rlimit before{};
    CHILD_CHECK(::getrlimit(RLIMIT_NOFILE, &before) == 0);
    const rlimit none{static_cast<rlim_t>(next), before.rlim_max};
    CHILD_CHECK(::setrlimit(RLIMIT_NOFILE, &none) == 0);
    ringbuf_map* another = nullptr;
    ringbuf_observer* observer = nullptr;
    ringbuf_consumer* consumer = nullptr;
    CHILD_CHECK(ringbuf_map_open_id(own.get(), id, 0, &another) == -EMFILE);
    CHILD_CHECK(ringbuf_observer_attach(mine.get(), &observer) == -EMFILE);
    CHILD_CHECK(ringbuf_consumer_attach(mine.get(), Gather::call, nullptr, &consumer) == -EMFILE);
    CHILD_CHECK(::setrlimit(RLIMIT_NOFILE, &before) == 0);
    const auto info = info_of(mine);
    CHILD_CHECK(info.producers == 1);
    CHILD_CHECK(info.observers == 0 && info.consumers == 0);
    CHILD_CHECK(info.tokens == 2);
    return 0;
  });
  EXPECT_EQ(child.exit_code(), 0);
}

// What a child closes of a session must be the session's: another thread may be ending it, and the number be another's already.
TEST_F(Access, AForkBesideEndingSessionsClosesNothingElseInTheChild) {
  std::atomic<bool> done{false};
  std::thread busy([&] {
    while (!done) daemon.connect();
  });
  for (int i = 0; i < 300; ++i) {
    int ends[2];
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    const int code = ChildProcess([&] { return ::fcntl(ends[0], F_GETFD) < 0 || ::fcntl(ends[1], F_GETFD) < 0; }).exit_code();
    ::close(ends[0]);
    ::close(ends[1]);
    ASSERT_EQ(code, 0) << "fork " << i;
  }
  done = true;
  busy.join();
}

TEST_F(Access, ThreadsShareASession) {
  const auto map = create_map(session, "threads");
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i) {
        EXPECT_NE(info_of(map).id, 0u);
        EXPECT_EQ(put(producer_of(map), ""), 0);
      }
    });
  for (auto& t : threads) t.join();
  EXPECT_EQ(info_of(map).producers, 0u);
}

// --- as another user
// ---------------------------------------------------------------------------------------------------------------

class OtherUser : public Access {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "only root can become another user";
  }
};

struct Mode {
  std::uint32_t mode;
  bool observe, produce, consume;
};

TEST_F(OtherUser, TheModeDecidesWhatAStrangerMayDo) {
  for (const Mode& m : {Mode{0600, false, false, false}, Mode{0604, true, false, false}, Mode{0602, false, true, false},
                        Mode{0606, true, true, true}, Mode{0660, false, false, false}}) {
    const auto map = create_map(session, "moded", 4096, m.mode);
    const std::uint32_t id = info_of(map).id;
    EXPECT_EQ(elsewhere(
                  [&] {
                    const auto own = daemon.connect();
                    ringbuf_map* opened = nullptr;
                    const int r = ringbuf_map_open_id(own.get(), id, 0, &opened);
                    if (!m.observe && !m.produce) {
                      CHILD_CHECK(r == -EACCES);
                      return 0;
                    }
                    CHILD_CHECK(r == 0);
                    const MapPtr owned(opened);
                    ringbuf_producer* producer = nullptr;
                    ringbuf_consumer* consumer = nullptr;
                    ringbuf_observer* observer = nullptr;
                    CHILD_CHECK(ringbuf_producer_attach(opened, &producer) == (m.produce ? 0 : -EACCES));
                    CHILD_CHECK(ringbuf_consumer_attach(opened, nullptr, nullptr, &consumer) == (m.consume ? 0 : -EACCES));
                    CHILD_CHECK(ringbuf_observer_attach(opened, &observer) == (m.observe ? 0 : -EACCES));
                    CHILD_CHECK(ringbuf_map_pin(opened, "/mine") == -EPERM);
                    ringbuf_map* more = nullptr;
                    CHILD_CHECK(ringbuf_map_open_id(own.get(), id, RINGBUF_RIGHT_MANAGE, &more) == -EACCES);
                    ringbuf_producer_free(producer);
                    ringbuf_consumer_free(consumer);
                    ringbuf_observer_free(observer);
                    return 0;
                  },
                  kStranger),
              0)
        << std::oct << m.mode;
  }
}

TEST_F(OtherUser, ATokenIsACapability) {
  const auto map = create_map(session, "private");  // 0600: the stranger could not open it
  FdChannel channel;
  channel.send(ringbuf_map_fd(map.get()));
  EXPECT_EQ(elsewhere(
                [&] {
                  const auto own = daemon.connect();
                  ringbuf_map* received = nullptr;
                  CHILD_CHECK(ringbuf_map_open_id(own.get(), info_of(map).id, 0, &received) == -EACCES);
                  const int fd = channel.receive();
                  CHILD_CHECK(ringbuf_map_from_fd(own.get(), fd, &received) == 0);
                  ::close(fd);
                  const MapPtr owned(received);
                  CHILD_CHECK(put(producer_of(owned), "by token") == 0);
                  return 0;
                },
                kStranger),
            0);
  Gather got;
  EXPECT_EQ(ringbuf_consume(consumer_of(map, Gather::call, &got).get()), 1);
}

TEST_F(OtherUser, ANarrowTokenStaysNarrow) {
  const auto map = create_map(session, "narrow");
  const auto narrow = open_id(session, info_of(map).id, RINGBUF_RIGHT_OBSERVE);
  ringbuf_producer* producer = nullptr;
  ringbuf_consumer* consumer = nullptr;
  EXPECT_EQ(info_of(narrow).rights, RINGBUF_RIGHT_OBSERVE);
  EXPECT_EQ(ringbuf_producer_attach(narrow.get(), &producer), -EACCES);
  EXPECT_EQ(ringbuf_consumer_attach(narrow.get(), nullptr, nullptr, &consumer), -EACCES);
  EXPECT_EQ(ringbuf_map_pin(narrow.get(), "/x"), -EPERM);
  observer_of(narrow);
}

TEST_F(OtherUser, AStrangerIsGivenLessByNarrowing) {
  const auto map = create_map(session, "private");
  ringbuf_map* raw = nullptr;
  ASSERT_EQ(ringbuf_map_narrow(map.get(), RINGBUF_RIGHT_PRODUCE | RINGBUF_RIGHT_OBSERVE, &raw), 0) << ringbuf_last_error();
  const MapPtr narrow(raw);
  FdChannel channel;
  channel.send(ringbuf_map_fd(narrow.get()));
  EXPECT_EQ(elsewhere(
                [&] {
                  const auto own = daemon.connect();
                  const int fd = channel.receive();
                  ringbuf_map* received = nullptr;
                  CHILD_CHECK(ringbuf_map_from_fd(own.get(), fd, &received) == 0);
                  ::close(fd);
                  const MapPtr owned(received);
                  ringbuf_map* again = nullptr;
                  CHILD_CHECK(ringbuf_map_narrow(received, RINGBUF_RIGHT_ALL, &again) == -EACCES);
                  CHILD_CHECK(std::string(ringbuf_last_error()).find("consume, manage") != std::string::npos);
                  CHILD_CHECK(ringbuf_map_narrow(received, RINGBUF_RIGHT_PRODUCE, &again) == 0);
                  const MapPtr producing(again);
                  ringbuf_observer* observer = nullptr;
                  CHILD_CHECK(ringbuf_observer_attach(again, &observer) == -EACCES);
                  CHILD_CHECK(put(producer_of(producing), "by a narrow token") == 0);
                  return 0;
                },
                kStranger),
            0);
  Gather got;
  EXPECT_EQ(ringbuf_consume(consumer_of(map, Gather::call, &got).get()), 1);
}

TEST_F(Access, NarrowingThroughTheLibraryIsRefusedWithASentence) {
  const auto map = create_map(session, "narrow");
  ringbuf_map* none = nullptr;
  EXPECT_EQ(ringbuf_map_narrow(nullptr, 1, &none), -EINVAL);
  EXPECT_EQ(ringbuf_map_narrow(map.get(), 1, nullptr), -EINVAL);
  EXPECT_EQ(ringbuf_map_narrow(map.get(), 0, &none), -EINVAL);
  EXPECT_EQ(ringbuf_map_narrow(map.get(), 0x10, &none), -EINVAL);
  ASSERT_EQ(ringbuf_map_create(nullptr, "embedded", 4096, nullptr, &none), 0);
  const MapPtr embedded(std::exchange(none, nullptr));
  EXPECT_EQ(ringbuf_map_narrow(embedded.get(), RINGBUF_RIGHT_PRODUCE, &none), -EOPNOTSUPP);
  EXPECT_EQ(none, nullptr);
  auto own = ringbuf::Session::connect(daemon.socket().c_str());
  const auto wide = ringbuf::Map::open_id(*own, info_of(map).id);
  const auto observing = wide->narrow(RINGBUF_RIGHT_OBSERVE);
  ASSERT_TRUE(observing.has_value());
  EXPECT_EQ(observing->info()->rights, RINGBUF_RIGHT_OBSERVE);
  EXPECT_EQ(observing->narrow(RINGBUF_RIGHT_ALL).error().err, EACCES);
}

// A stranger's read-only descriptors cannot be reopened for writing.
TEST_F(OtherUser, WhatAStrangerReadsHeCannotWrite) {
  const auto map = create_map(session, "readonly", 4096, 0604);
  const std::uint32_t id = info_of(map).id;
  EXPECT_EQ(elsewhere(
                [&] {
                  const auto observer = observer_of(open_id(daemon.connect(), id));
                  std::ifstream maps("/proc/self/maps");
                  for (std::string line; std::getline(maps, line);)
                    CHILD_CHECK(line.find("memfd:ringbuf:") == line.npos || line.find(" rw") == line.npos);
                  return 0;
                },
                kStranger),
            0);
}

}  // namespace
