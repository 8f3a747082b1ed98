// SPDX-License-Identifier: MIT
// ringbufd under a service manager: ready, reload, watchdog, socket activation, stop, and a listener that outlives it.

#include "daemon_process.hpp"
#include "support/fake_service_manager.hpp"

using namespace ringbuf::test;

namespace {

class Service : public ::testing::Test {
 private:
  FdLeakGuard guard;

 protected:
  void start(std::vector<std::string> more = {}) {
    more.insert(more.begin(), {RINGBUFD_PATH, "--socket", socket});
    manager.start(more);
  }
  SessionPtr connect() const {
    ringbuf_session* session = nullptr;
    EXPECT_EQ(ringbuf_connect(socket.c_str(), &session), 0) << ringbuf_last_error();
    return SessionPtr(session);
  }
  int create(const SessionPtr& session, MapPtr& map) const {
    ringbuf_map* made = nullptr;
    const int r = ringbuf_map_create(session.get(), "reload", 4096, nullptr, &made);
    map.reset(made);
    return r;
  }
  void write(const std::string& text) const { std::ofstream(config) << text; }
  // SIGHUP, and what it says about it.
  void reload() {
    manager.kill(SIGHUP);
    ASSERT_EQ(manager.told("RELOADING="), "1");
    ASSERT_GT(std::stoll(manager.told("MONOTONIC_USEC=")), 0);
    ASSERT_EQ(manager.told("READY="), "1");
  }

  FakeServiceManager manager;
  std::string socket = manager.path("s"), config = manager.path("ringbufd.toml");
};

TEST_F(Service, SaysReadyWhenItServes) {
  start();
  ASSERT_EQ(manager.told("READY="), "1");
  EXPECT_EQ(manager.told("STATUS="), "Serving " + socket);
  EXPECT_TRUE(connect());
  EXPECT_TRUE(manager.has("l") && manager.has("lock"));
}

TEST_F(Service, ReloadChangesLimitsAndTakesNothing) {
  write("[limits]\nmaps = 2\n");
  start({"--config", config});
  ASSERT_EQ(manager.told("READY="), "1");
  const auto session = connect();
  MapPtr first, second, third;
  ASSERT_EQ(create(session, first), 0);
  ASSERT_EQ(create(session, second), 0);
  ASSERT_EQ(create(session, third), -ENOSPC);
  write("[limits]\nmaps = 3\n");
  reload();
  EXPECT_EQ(create(session, third), 0);
  write("[limits]\nmaps = 1\n");
  reload();
  EXPECT_EQ(info_of(third).max_entries, 4096u) << "what somebody has is not taken";
  third.reset();
  second.reset();
  EXPECT_EQ(create(session, second), -ENOSPC);
  first.reset();
  EXPECT_EQ(create(session, second), 0);
}

TEST_F(Service, AReloadOfABrokenFileChangesNothing) {
  write("[limits]\nmaps = 1\n");
  start({"--config", config});
  ASSERT_EQ(manager.told("READY="), "1");
  const auto session = connect();
  MapPtr first, second;
  ASSERT_EQ(create(session, first), 0);
  write("log_level = \"off\"\n[limits]\nmaps = 5\nmaps = 6\n");
  reload();
  EXPECT_TRUE(manager.says("nothing is changed: " + config + ": line 4")) << "and the log level is what it was";
  EXPECT_EQ(create(session, second), -ENOSPC);
}

TEST_F(Service, AReloadChangesTheLogLevelAndNotTheSocket) {
  write("log_level = \"warn\"\n");
  start({"--config", config});
  ASSERT_EQ(manager.told("READY="), "1");
  write("log_level = \"info\"\nsocket_mode = \"0600\"\n");
  reload();
  EXPECT_TRUE(manager.says("socket and socket_mode cannot change"));
  EXPECT_TRUE(manager.says("[info] SIGHUP, options read again"));
  struct stat st {};
  ASSERT_EQ(::stat(socket.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0666u);
}

TEST_F(Service, TheWatchdogHearsItUntilItHangs) {
  constexpr int kPatience = 200;
  manager.set_watchdog(kPatience);
  start();
  for (int i = 0; i < 5; ++i) ASSERT_EQ(manager.told("WATCHDOG="), "1");
  manager.kill(SIGSTOP);
  int status = 0;
  ASSERT_EQ(::waitpid(manager.pid(), &status, WUNTRACED), manager.pid());
  EXPECT_TRUE(manager.silent_for(kPatience));
  EXPECT_EQ(manager.wait(SIGKILL), 256 + SIGKILL);
  start();
  EXPECT_EQ(manager.told("WATCHDOG="), "1");
}

TEST_F(Service, WithoutAWatchdogItIsNotWoken) {
  start();
  ASSERT_EQ(manager.told("STATUS="), "Serving " + socket);
  EXPECT_TRUE(manager.silent_for(300));
}

TEST_F(Service, SocketActivationServesWhoCameBefore) {
  manager.listen_at(socket);
  ChildProcess early([&] { return connect() ? 0 : 1; });  // no thread of ours: a fork waits for its request to be over
  manager.start({RINGBUFD_PATH, "--socket", manager.path("unused")});
  EXPECT_EQ(manager.told("STATUS="), "Serving " + socket);
  EXPECT_EQ(early.exit_code(), 0);
  EXPECT_FALSE(std::filesystem::exists(manager.path("unused")));
  EXPECT_FALSE(manager.has("l")) << "the manager has it already";
  EXPECT_EQ(manager.wait(SIGTERM), 0);
  EXPECT_TRUE(std::filesystem::exists(socket)) << "it belongs to the manager";
}

// What clients have sent before it is there would be from nobody.
TEST_F(Service, AnActivatedSocketWithoutCredentialsIsWarnedAbout) {
  manager.listen_at(socket, SOCK_SEQPACKET, 0);
  start();
  EXPECT_TRUE(manager.says("PassCredentials=yes"));
  EXPECT_EQ(manager.told("READY="), "1");
  EXPECT_TRUE(connect());
}

TEST_F(Service, AWrongActivatedSocketIsExplained) {
  manager.listen_at(socket, SOCK_STREAM);
  start();
  EXPECT_TRUE(manager.says("ListenSequentialPacket="));
  EXPECT_EQ(manager.wait(), 1);
  EXPECT_FALSE(manager.was_told("READY=1"));
}

TEST_F(Service, StopLeavesWhatIsKept) {
  start();
  ASSERT_EQ(manager.told("READY="), "1");
  manager.kill(SIGTERM);
  EXPECT_EQ(manager.told("STOPPING="), "1");
  EXPECT_EQ(manager.wait(), 0);
  EXPECT_TRUE(manager.has("l") && manager.has("lock"));
  EXPECT_TRUE(std::filesystem::exists(socket));
  start();
  EXPECT_EQ(manager.told("STATUS="), "Serving " + socket);
  EXPECT_TRUE(connect());
  EXPECT_EQ(manager.strangers(), 0);
}

TEST_F(Service, WhoConnectsWhileItIsDeadIsAnsweredByTheNext) {
  start();
  ASSERT_EQ(manager.told("READY="), "1");
  struct stat before {
  }, after{};
  ASSERT_EQ(::stat(socket.c_str(), &before), 0);
  EXPECT_EQ(manager.wait(SIGKILL), 256 + SIGKILL);
  ChildProcess waiting([&] { return connect() ? 0 : 1; });
  start();
  EXPECT_EQ(manager.told("STATUS="), "Serving " + socket);
  EXPECT_EQ(waiting.exit_code(), 0);
  ASSERT_EQ(::stat(socket.c_str(), &after), 0);
  EXPECT_EQ(after.st_ino, before.st_ino) << "not bound again";
}

// The manager's store is all that the next one has.
TEST_F(Service, WhoIsKilledIsFollowedByOneThatHasEverything) {
  start();
  ASSERT_EQ(manager.told("READY="), "1");
  const auto session = connect();
  MapPtr ring;
  ASSERT_EQ(create(session, ring), 0);
  ASSERT_EQ(ringbuf_map_pin(ring.get(), "/pinned"), 0);
  ringbuf_map_create_opts opts{};
  opts.sz = sizeof opts;
  opts.map_type = 13;
  opts.key_size = opts.value_size = 4;
  opts.inner_map = ring.get();
  ringbuf_map* made = nullptr;
  ASSERT_EQ(ringbuf_map_create(session.get(), "outer", 8, &opts, &made), 0) << ringbuf_last_error();
  const MapPtr outer(made);
  const std::uint32_t key = 5;
  ASSERT_EQ(ringbuf_map_update_elem(outer.get(), &key, ring.get(), 0), 0);
  const auto producer = producer_of(ring);
  Gather gather;
  const auto consumer = consumer_of(ring, Gather::call, &gather);
  const auto poller = poller_of({consumer.get()});
  ASSERT_EQ(put(producer, "before"), 0);
  const auto id = info_of(ring).id, outer_id = info_of(outer).id;
  for (int times = 1; times <= 2; ++times) {
    ASSERT_EQ(put(producer, "unread"), 0);
    EXPECT_EQ(manager.wait(SIGKILL), 256 + SIGKILL);
    ASSERT_EQ(put(producer, "meanwhile"), 0);
    start();
    ASSERT_EQ(manager.told("READY="), "1");
    const auto info = info_of(ring);
    EXPECT_EQ(info.id, id);
    EXPECT_EQ(info.producers, 1u);
    EXPECT_EQ(info.consumers, 1u);
    EXPECT_EQ(info.references, 1u);
    EXPECT_EQ(info_of(outer).id, outer_id);
    const auto other = connect();
    ringbuf_map* found = nullptr;
    ASSERT_EQ(ringbuf_map_open_pinned(other.get(), "/pinned", 0, &found), 0) << ringbuf_last_error();
    EXPECT_EQ(info_of(MapPtr(found)).id, id);
    ASSERT_EQ(ringbuf_map_open_inner(outer.get(), &key, 0, &found), 0) << ringbuf_last_error();
    EXPECT_EQ(info_of(MapPtr(found)).id, id);
    ASSERT_GT(ringbuf_poll(poller.get(), -1), 0);
    ASSERT_EQ(put(producer, "after"), 0);
    ASSERT_GT(ringbuf_poll(poller.get(), -1), 0) << "the new record wakes it";
    const std::vector<std::string> first{"before", "unread", "meanwhile", "after"}, next{"unread", "meanwhile", "after"};
    EXPECT_EQ(std::exchange(gather.records, {}), times == 1 ? first : next);
  }
  EXPECT_EQ(manager.strangers(), 0);
}

TEST_F(Service, WhatNobodyKnowsIsNotKept) {
  manager.put_into_store("zz9zz", ::open("/dev/null", O_RDONLY | O_CLOEXEC));
  start();
  ASSERT_EQ(manager.told("READY="), "1");
  EXPECT_FALSE(manager.has("zz9zz"));
  EXPECT_TRUE(manager.has("l"));
}

}  // namespace
