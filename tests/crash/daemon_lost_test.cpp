// SPDX-License-Identifier: MIT
// A keeper that has lost something: any one descriptor, any one entry of the state, or all that the next daemon could understand.
// What depended on it has gone, and only that; nobody crashes.
#include <gtest/gtest.h>

#include "kept_world.hpp"

namespace ringbuf::test {
namespace {

using daemon::Held;
using daemon::Kind;
using daemon::State;

// One map, as all who have something of it see it.
struct Seen {
  bool there = true, token = true;
  unsigned producers = 0, consumers = 0, observers = 0, pins = 0, references = 0, elements = 0;
  bool operator==(const Seen&) const = default;
};
std::ostream& operator<<(std::ostream& os, const Seen& s) {
  if (!s.there) return os << "gone";
  return os << (s.token ? "" : "no token, ") << s.producers << " " << s.consumers << " " << s.observers << ", " << s.pins
            << " pins, " << s.references << " references, " << s.elements << " elements";
}

// Good has what it always has; another, who came later, attaches to `work` as well.
struct Scene {
  KeptWorld world;
  Client other{world.socket()};
  Reply token = other.by_id(KeptWorld::id(world.work));
  Attached producer{other.attach(KeptWorld::fd(token), RINGBUF_PRODUCER), RINGBUF_PRODUCER};
  Attached consumer{other.attach(KeptWorld::fd(token), RINGBUF_CONSUMER), RINGBUF_CONSUMER};
  std::map<std::uint32_t, Seen> before = look();

  std::vector<const Reply*> tokens() const { return {&world.kept, &world.work, &world.array, &world.hash}; }
  std::map<std::uint32_t, Seen> look() {
    std::map<std::uint32_t, Seen> all;
    world.daemon.rest();  // what ended before has ended
    Client looker(world.socket());
    for (const Reply* t : tokens()) {
      Seen& seen = all[KeptWorld::id(*t)];
      const Reply own = looker.by_id(KeptWorld::id(*t));
      seen.there = own.err() == 0;
      seen.token = looker.info(KeptWorld::fd(*t)).err() == 0;
      if (!seen.there) continue;
      const auto i = looker.info(KeptWorld::fd(own)).as<ringbuf_map_info>();
      std::tie(seen.producers, seen.consumers, seen.observers) = std::tie(i.producers, i.consumers, i.observers);
      std::tie(seen.pins, seen.references, seen.elements) = std::tie(i.pins, i.references, i.elements);
    }
    return all;
  }

  // --- what should be left ---
  std::map<std::uint32_t, Seen> left = before;
  bool good_left = true, other_left = true;

  void lose_map(std::uint32_t id) {
    for (const auto& [at, inner] : world.elements) {
      if (at.first == id && left[inner].there) --left[inner].references;
      if (inner == id && left[at.first].there) --left[at.first].elements;
    }
    left[id] = Seen{false, false};
  }
  void lose_attachment(const daemon::AttachmentEntry& a) {
    Seen& of = left[a.map];
    --(a.role == RINGBUF_PRODUCER ? of.producers : a.role == RINGBUF_CONSUMER ? of.consumers : of.observers);
  }
  void lose_client(const std::vector<daemon::StateEntry>& state, std::uint64_t cookie) {
    std::uint64_t first = 0;
    for (const auto& e : state)
      if (e.kind == static_cast<std::uint64_t>(Kind::Client) && first == 0) first = e.client.cookie;
    (cookie == first ? good_left : other_left) = false;
    for (const auto& e : state)
      if (e.kind == static_cast<std::uint64_t>(Kind::Attachment) && e.attachment.client == cookie) lose_attachment(e.attachment);
  }
  void lose_token(std::uint64_t cookie) {
    for (const Reply* t : tokens()) {
      std::uint64_t is = 0;
      socklen_t size = sizeof is;
      ::getsockopt(KeptWorld::fd(*t), SOL_SOCKET, SO_COOKIE, &is, &size);
      if (is == cookie) left[KeptWorld::id(*t)].token = false;
    }
  }
  void lose(const std::vector<daemon::StateEntry>& state, const daemon::StateEntry& e, bool entry) {
    switch (static_cast<Kind>(e.kind)) {
      case Kind::Map: return lose_map(e.map.id);
      case Kind::Token: return lose_token(e.token.cookie);
      case Kind::Pin: return void(--left[e.pin.map].pins);
      case Kind::Client: return lose_client(state, e.client.cookie);
      case Kind::Attachment:
        if (entry) lose_attachment(e.attachment);
        return;
      default: return;
    }
  }

  // The next daemon, and whether all is as it should be.
  void check() {
    ASSERT_TRUE(world.daemon.start()) << world.daemon.said();
    world.is_consistent();
    EXPECT_EQ(look(), left);
    EXPECT_EQ(world.good->reconnect(world.socket()).as<ringbuf_hello_reply>().resumed, good_left);
    EXPECT_EQ(other.reconnect(world.socket()).as<ringbuf_hello_reply>().resumed, other_left);
    if (!left[KeptWorld::id(world.work)].there) return;
    // Who waits in the ring is not forgotten for the sake of one who has gone, and others are let in.
    EXPECT_EQ(producer.producer->ring().room_waiters(), 1u);
    EXPECT_EQ(consumer.consumer->ring().waiting(), 1u);
    Client late(world.socket());
    const Reply own = late.by_id(KeptWorld::id(world.work));
    Reply r = late.attach(KeptWorld::fd(own), RINGBUF_PRODUCER);
    ASSERT_EQ(r.err(), 0) << r.text;
    Attached writes(r, RINGBUF_PRODUCER);
    r = late.attach(KeptWorld::fd(own), RINGBUF_CONSUMER);
    ASSERT_EQ(r.err(), 0) << r.text;
    Attached reads(r, RINGBUF_CONSUMER);
    reads.forget_wakeups();
    EXPECT_EQ(writes.producer->output("late", 4, kForce), 0);
    EXPECT_TRUE(reads.woken());
    EXPECT_EQ(reads.consume(), std::vector<std::string>{"late"});
    // Another's end still wakes who may sleep behind its records.
    if (!kicked) return;
    consumer.forget_wakeups();
    late.detach(1);
    EXPECT_TRUE(consumer.woken());
  }
  bool kicked = true;
};

TEST(DaemonLost, AnyOneDescriptor) {
  std::size_t n = 0, all = 1;
  for (; n < all && !::testing::Test::HasFailure(); ++n) {
    Scene scene;
    KeptDaemon& daemon = scene.world.daemon;
    scene.producer.producer->ring().add_room_waiter();
    daemon.rest();
    daemon.kill();
    all = daemon.store.size();
    const std::string name = daemon.store[n].first;
    SCOPED_TRACE(name);
    const auto state = scene.world.state();
    daemon.store.erase(daemon.store.begin() + static_cast<std::ptrdiff_t>(n));
    if (name == State::kName) {
      for (const Reply* t : scene.tokens()) scene.lose_map(KeptWorld::id(*t));
      scene.good_left = scene.other_left = false;
    } else if (name != "l" && name != "lock") {
      scene.world.lost = name;
      for (std::uint32_t i = 0; i < state.size(); ++i) {
        const char letter = name[0];
        if (State::name_of(static_cast<Held>(letter), i) != name) continue;
        if (letter == 'd' || letter == 'k') continue;  // the lease is enough; a new one is made
        scene.lose(state, state[i], false);
        scene.kicked = letter != 's' && scene.other_left;  // whose consumer has ended is woken no more
      }
    }
    scene.check();
  }
  std::printf("%zu descriptors\n", n);
}

TEST(DaemonLost, AnyOneEntryOfTheState) {
  unsigned lost = 0;
  for (std::uint32_t n = 0; n < 32 && !::testing::Test::HasFailure(); ++n) {
    SCOPED_TRACE(n);
    Scene scene;
    scene.producer.producer->ring().add_room_waiter();
    scene.world.daemon.rest();
    scene.world.daemon.kill();
    const auto state = scene.world.state();
    if (state.at(n).kind == 0) continue;
    ++lost;
    const daemon::StateEntry nothing{};
    const int file = scene.world.daemon.kept(State::kName);
    ASSERT_EQ(::pwrite(file, &nothing, sizeof nothing, static_cast<off_t>(64 + n * sizeof nothing)),
              static_cast<ssize_t>(sizeof nothing));
    scene.lose(state, state[n], true);
    scene.kicked = false;
    scene.check();
  }
  std::printf("%u entries\n", lost);
  EXPECT_GT(lost, 15u);
}

// What was stored under the name is not what the entry speaks of.
TEST(DaemonLost, MemoryOfAnotherSize) {
  unsigned n = 0;
  for (std::size_t i = 0, all = 1; i < all && !::testing::Test::HasFailure(); ++i) {
    Scene scene;
    KeptDaemon& daemon = scene.world.daemon;
    scene.producer.producer->ring().add_room_waiter();
    daemon.rest();
    daemon.kill();
    all = daemon.store.size();
    auto& [name, fd] = daemon.store[i];
    SCOPED_TRACE(name);
    if (name == "lock" || (name[0] != 'c' && name[0] != 'p' && name[0] != 'o')) continue;
    ++n;
    fd.reset(::memfd_create("another", MFD_CLOEXEC));
    ASSERT_EQ(::ftruncate(fd.get(), 1 << 20), 0);
    const auto state = scene.world.state();
    for (std::uint32_t entry = 0; entry < state.size(); ++entry)
      if (State::name_of(static_cast<Held>(name[0]), entry) == name) scene.lose(state, state[entry], false);
    scene.check();
  }
  std::printf("%u memory files\n", n);
  EXPECT_EQ(n, 6u);
}

// The daemon lives and its keeper hears no more of what it does: what it has is not what there is.
TEST(DaemonLost, TheKeeperItself) {
  Scene scene;
  KeptDaemon& daemon = scene.world.daemon;
  daemon.hang_up();
  for (int i = 0; i < 3; ++i) {
    Reply map = scene.world.make(27, 8192, "later");
    EXPECT_EQ(map.err(), 0) << map.text;
  }
  daemon.kill();
  ASSERT_TRUE(daemon.start()) << daemon.said();
  EXPECT_NE(daemon.said().find("cannot take over from the daemon before"), std::string::npos) << daemon.said();
  scene.world.is_consistent();
  EXPECT_EQ(daemon.store.size(), 3u);  // listener, lock, state
  Client next(scene.world.socket());
  EXPECT_EQ(next.next_id(0).err(), ENOENT);
}

// Another build's state: it begins with nothing, says so, and nothing of before is kept. And it is the new state that the next
// one is given.
TEST(DaemonLost, AStateThatItCannotRead) {
  for (const bool cut : {false, true}) {
    Scene scene;
    KeptDaemon& daemon = scene.world.daemon;
    daemon.kill();
    const std::uint64_t other_version = 0x3939657461747372;
    const int file = daemon.kept(State::kName);
    if (cut) ASSERT_EQ(::ftruncate(file, 100), 0);
    else ASSERT_EQ(::pwrite(file, &other_version, 8, 0), 8);
    ASSERT_TRUE(daemon.start()) << daemon.said();
    EXPECT_NE(daemon.said().find("cannot take over from the daemon before"), std::string::npos) << daemon.said();
    scene.world.is_consistent();
    EXPECT_EQ(daemon.store.size(), 3u);  // listener, lock, state
    Client next(scene.world.socket());
    EXPECT_EQ(next.next_id(0).err(), ENOENT);
    const Reply map = next.create();
    daemon.kill();
    ASSERT_TRUE(daemon.start()) << daemon.said();
    EXPECT_EQ(daemon.said(), "");
    EXPECT_EQ(next.reconnect(scene.world.socket()).as<ringbuf_hello_reply>().resumed, 1u);
    EXPECT_EQ(next.info(KeptWorld::fd(map)).err(), 0);
  }
}

}  // namespace
}  // namespace ringbuf::test
