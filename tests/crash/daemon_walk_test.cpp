// SPDX-License-Identifier: MIT
// ringbufd is killed at each system call, before and behind it, and after each store to the memory that it shares with clients or
// with the next daemon, while it does what a client has asked for. The next one takes over; its client has what it asked for or
// has it not, and nothing is lost, left or half there.
#include <gtest/gtest.h>

#include "kept_world.hpp"

namespace ringbuf::test {
namespace {

enum class Step { Call, Store };

class DaemonWalk : public ::testing::TestWithParam<Step> {
 protected:
  using Names = std::vector<std::string>;

  struct Round {
    std::function<void()> prepare = {};
    std::function<void()> act;                // sends, and waits for nothing
    std::function<void()> look = {};          // at what the killed one has left
    std::function<void(const Reply&)> check;  // of the next daemon, or of the same one if it was not killed; and gives all back
    bool answered = true;                     // the reply is the victim's; else there is none
    bool greets = true;                       // the victim has said HELLO before
    bool reaps = false;                       // for a while after it is ready, too
  };

  static bool broken() { return HasFailure(); }

  bool once(const Round& round, unsigned n) {
    if (round.greets) victim.emplace(world.socket());
    else victim.emplace(world.socket(), Client::Silent{});
    if (round.prepare) round.prepare();
    world.daemon.rest();  // what was only to prepare it is not counted
    if (GetParam() == Step::Store) world.die_after(n);
    const bool killed = world.daemon.kill_while(round.act, GetParam() == Step::Call ? n : KeptDaemon::kNever);
    world.die_after(0);
    Reply reply;
    reply.closed = true;
    if (round.answered) reply = victim->receive();
    if (killed) {
      if (round.look) round.look();
      world.restart({&*world.good});
      if (round.reaps) world.daemon.rest();
      world.is_consistent();
    }
    if (killed && victim && round.greets && victim_lives) {
      EXPECT_EQ(victim->reconnect(world.socket()).as<ringbuf_hello_reply>().resumed, 1u);
    }
    if (!killed && round.answered) {
      EXPECT_EQ(reply.err(), 0) << reply.text;
    }
    round.check(reply);
    reply.fds.clear();
    victim.reset();
    tokens.clear();
    victim_lives = true;
    return killed;
  }
  void walk(const char* name, const Round& round) {
    if (broken()) return;
    SCOPED_TRACE(name);
    world.daemon.kill();  // as all the others
    world.restart({&*world.good});
    once(round, 1000000);
    const std::string room = world.room(), at_rest = world.snapshot();
    unsigned n = 1;
    for (bool killed = true; killed && !broken(); ++n) {
      SCOPED_TRACE(n);
      killed = once(round, n);
      EXPECT_EQ(world.snapshot(), at_rest);
      world.is_sound();
      EXPECT_EQ(world.room(), room);
      EXPECT_EQ(world.snapshot(), at_rest);
    }
    EXPECT_GT(n, 2u) << "it was never killed";
    std::printf("%-36s killed %3u times\n", name, n - 2);
    std::fflush(stdout);
  }

  // The victim's.
  int token(const Reply& map) {
    tokens.push_back(victim->by_id(KeptWorld::id(map)));
    return KeptWorld::fd(tokens.back());
  }
  unsigned producers() { return world.info(world.work).producers; }
  unsigned consumers() { return world.info(world.work).consumers; }

  KeptWorld world{GetParam() == Step::Call ? RINGBUFD_PATH : RINGBUFD_STORED_PATH};
  std::optional<Client> victim;
  std::vector<Reply> tokens;
  bool victim_lives = true;
};

TEST_P(DaemonWalk, HelloAndCreate) {
  walk("HELLO", {.prepare = {},
                 .act = [&] { victim->request(RINGBUF_HELLO, Client::hello_req()); },
                 .check =
                     [&](const Reply& r) {
                       if (r.err() == 0) {
                         EXPECT_EQ(r.fds.size(), 1u);
                         victim.emplace(world.socket(), Client::Silent{});
                         const Reply again = victim->call(RINGBUF_HELLO, Client::hello_req(), {r.fds[0].get()});
                         EXPECT_EQ(again.as<ringbuf_hello_reply>().resumed, 1u);
                       }
                     },
                 .greets = false});
  for (const std::uint32_t type : {27u, 31u, KeptWorld::kArray, KeptWorld::kHash}) {
    const bool outer = type < 27;
    auto spec = Client::spec(outer ? 4 : 4096, "new");
    spec.map_type = type;
    if (outer) spec.key_size = spec.value_size = 4;
    const auto fds = [&] { return outer ? std::vector<int>{token(world.kept)} : std::vector<int>{}; };
    std::vector<int> given;
    walk(fmt::format("create a map of type {}", type).c_str(),
         {.prepare = [&] { given = fds(); },
          .act = [&] { victim->request(RINGBUF_MAP_CREATE, spec, given); },
          .check =
              [&](const Reply& r) {
                EXPECT_EQ(world.maps(), r.err() == 0 ? 5u : 4u);
                if (r.err() == 0) {
                  EXPECT_EQ(victim->info(KeptWorld::fd(r)).as<ringbuf_map_info>().tokens, 1u);
                }
                const Reply again = victim->call(RINGBUF_MAP_CREATE, spec, given);
                EXPECT_EQ(again.err(), 0) << again.text;
              }});
  }
}

TEST_P(DaemonWalk, OpenAndClose) {
  walk("open by id", {.act =
                          [&] {
                            victim->request(RINGBUF_MAP_GET_FD_BY_ID, ringbuf_fd_by_id_req{KeptWorld::id(world.kept), 0});
                          },
                      .check = [&](const Reply& r) { EXPECT_EQ(world.info(world.kept).tokens, r.err() == 0 ? 2u : 1u); }});
  walk("close the last token of a map", {.prepare = [&] { tokens.push_back(victim->create()); },
                                         .act = [&] { tokens.clear(); },
                                         .check = [&](const Reply&) { EXPECT_EQ(world.maps(), 4u); },
                                         .answered = false});
  walk("pin", {.prepare = [&] { token(world.kept); },
               .act = [&] { victim->request(RINGBUF_OBJ_PIN, Client::path_req("/new"), {KeptWorld::fd(tokens[0])}); },
               .check =
                   [&](const Reply& r) {
                     const int there = victim->get("/new").err();
                     EXPECT_TRUE(there == 0 || (there == ENOENT && r.err() != 0));
                     EXPECT_EQ(world.info(world.kept).pins, there == 0 ? 2u : 1u);
                     EXPECT_EQ(victim->pin("/new", KeptWorld::fd(tokens[0])).err(), there == 0 ? EEXIST : 0);
                     EXPECT_EQ(victim->unpin("/new").err(), 0);
                   }});
  walk("unpin", {.prepare =
                     [&] {
                       tokens.push_back(victim->create());
                       victim->pin("/new", KeptWorld::fd(tokens[0]));
                       tokens.clear();
                     },
                 .act = [&] { victim->request(RINGBUF_OBJ_UNPIN, Client::path_req("/new")); },
                 .check =
                     [&](const Reply& r) {
                       const int there = victim->get("/new").err();
                       EXPECT_TRUE(there == ENOENT || (there == 0 && r.err() != 0));
                       EXPECT_EQ(world.maps(), there == 0 ? 5u : 4u);
                       EXPECT_EQ(victim->unpin("/new").err(), there);
                       EXPECT_EQ(world.maps(), 4u);
                     }});
}

TEST_P(DaemonWalk, AttachAndDetach) {
  const auto attach = [&](unsigned role) {
    return [&, role] { victim->request(RINGBUF_ATTACH, ringbuf_attach_req{role, 77}, {KeptWorld::fd(tokens[0])}); };
  };
  const auto again = [&](unsigned role) {
    return victim->call(RINGBUF_ATTACH, ringbuf_attach_req{role, 77}, {KeptWorld::fd(tokens[0])});
  };
  walk("attach a producer", {.prepare = [&] { token(world.work); },
                             .act = attach(RINGBUF_PRODUCER),
                             .check =
                                 [&](const Reply& r) {
                                   if (r.err() == 0) {
                                     EXPECT_EQ(producers(), 2u);
                                   }
                                   const Attached mine(again(RINGBUF_PRODUCER), RINGBUF_PRODUCER);
                                   EXPECT_EQ(mine.slot, 2u);
                                   EXPECT_EQ(producers(), 2u);
                                   world.consumer->forget_wakeups();
                                   EXPECT_EQ(mine.producer->output("mine", 4, kForce), 0);
                                   EXPECT_TRUE(world.consumer->woken());
                                   EXPECT_EQ(world.consumer->consume(), Names{"mine"});
                                   EXPECT_EQ(victim->detach(77).err(), 0);
                                   EXPECT_EQ(producers(), 1u);
                                 }});
  walk("attach a consumer", {.prepare = [&] { token(world.work); },
                             .act = attach(RINGBUF_CONSUMER),
                             .check =
                                 [&](const Reply& r) {
                                   if (r.err() == 0) {
                                     EXPECT_EQ(consumers(), 2u);
                                   }
                                   Attached mine(again(RINGBUF_CONSUMER), RINGBUF_CONSUMER);
                                   EXPECT_EQ(consumers(), 2u);
                                   mine.forget_wakeups();
                                   EXPECT_EQ(world.producer->producer->output("yours", 5, kForce), 0);
                                   EXPECT_TRUE(mine.woken());
                                   EXPECT_EQ(mine.consume(), Names{"yours"});
                                   EXPECT_EQ(victim->detach(77).err(), 0);
                                   EXPECT_EQ(consumers(), 1u);
                                 }});
  walk("attach to a map of maps", {.prepare = [&] { token(world.hash); },
                                   .act = attach(RINGBUF_OBSERVER),
                                   .check =
                                       [&](const Reply& r) {
                                         if (r.err() == 0) {
                                           EXPECT_EQ(world.info(world.hash).observers, 2u);
                                         }
                                         EXPECT_EQ(again(RINGBUF_OBSERVER).err(), 0);
                                         EXPECT_EQ(world.info(world.hash).observers, 2u);
                                       }});
  std::uint64_t orphans = 0;
  walk("detach a producer", {.prepare =
                                 [&] {
                                   orphans = world.info(world.work).orphan_records;
                                   token(world.work);
                                   const Attached mine(again(RINGBUF_PRODUCER), RINGBUF_PRODUCER);
                                   EXPECT_NE(mine.producer->reserve(100, 0), nullptr);
                                   EXPECT_EQ(mine.producer->output("behind", 6, 0), 0);
                                 },
                             .act =
                                 [&] {
                                   victim->request(RINGBUF_DETACH, ringbuf_detach_req{77, 0});
                                 },
                             .check =
                                 [&](const Reply& r) {
                                   const int left = producers() == 2 ? 0 : ENOENT;
                                   if (r.err() == 0) {
                                     EXPECT_EQ(left, ENOENT);
                                   }
                                   EXPECT_EQ(victim->detach(77).err(), left);
                                   EXPECT_EQ(producers(), 1u);
                                   EXPECT_EQ(world.consumer->consume(), Names{"behind"});
                                   EXPECT_EQ(world.info(world.work).orphan_records, orphans + 1);
                                 }});
  walk("detach a consumer", {.prepare =
                                 [&] {
                                   token(world.work);
                                   again(RINGBUF_CONSUMER);
                                 },
                             .act =
                                 [&] {
                                   victim->request(RINGBUF_DETACH, ringbuf_detach_req{77, 0});
                                 },
                             .check =
                                 [&](const Reply& r) {
                                   const int left = consumers() == 2 ? 0 : ENOENT;
                                   if (r.err() == 0) {
                                     EXPECT_EQ(left, ENOENT);
                                   }
                                   EXPECT_EQ(victim->detach(77).err(), left);
                                   EXPECT_EQ(consumers(), 1u);
                                 }});
}

// The new one is there before the reaper has been through what the old one has left. At the restart there are two entries of one
// number and client, and one of them lives.
TEST_P(DaemonWalk, AttachByANumberThatIsStillBeingReaped) {
  constexpr unsigned kBehind = 100'000;
  const auto attach = [&](std::uint32_t number, unsigned role) {
    return victim->call(RINGBUF_ATTACH, ringbuf_attach_req{role, number}, {KeptWorld::fd(tokens[0])});
  };
  const auto large = [&] { return victim->info(KeptWorld::fd(tokens[0])).as<ringbuf_map_info>(); };
  unsigned beside = 0;
  walk("attach by the number of another",
       {.prepare =
            [&] {
              tokens.push_back(victim->create(Client::spec(2 << 20, "large")));
              const Attached old(attach(77, RINGBUF_PRODUCER), RINGBUF_PRODUCER);
              EXPECT_NE(old.producer->reserve(100, 0), nullptr);
              for (unsigned i = 0; i < kBehind; ++i) EXPECT_EQ(old.producer->output("behind", 6, 0), 0);
            },
        .act =
            [&] {
              victim->request(RINGBUF_ATTACH, ringbuf_attach_req{RINGBUF_PRODUCER, 77}, {KeptWorld::fd(tokens[0])});
            },
        .look =
            [&] {
              unsigned living = 0, ended = 0;
              for (const auto& e : world.state())
                if (e.kind == static_cast<std::uint64_t>(daemon::Kind::Attachment) && e.attachment.number == 77)
                  ++(e.attachment.ended ? ended : living);
              EXPECT_LE(living, 1u);
              beside += living == 1 && ended == 1;
            },
        .check =
            [&](const Reply& r) {
              Reply later;  // than the one whose answer was lost, if there was one
              if (r.err() != 0) later = attach(77, RINGBUF_PRODUCER);
              const Attached mine(r.err() == 0 ? r : later, RINGBUF_PRODUCER);
              void* const open = mine.producer->reserve(4, 0);
              ASSERT_NE(open, nullptr);
              eventually([&] { return large().producers == 1; });
              EXPECT_EQ(large().orphan_records, 1u);
              Attached reads(attach(78, RINGBUF_CONSUMER), RINGBUF_CONSUMER);
              reads.consumer->ring().add_waiting();
              reads.forget_wakeups();
              std::memcpy(open, "mine", 4);
              mine.producer->submit(open, kForce);
              EXPECT_TRUE(reads.woken());
              const Names all = reads.consume();
              EXPECT_EQ(all.size(), kBehind + 1);
              EXPECT_EQ(all.back(), "mine");
              EXPECT_EQ(victim->detach(77).err(), 0);
              EXPECT_EQ(victim->detach(77).err(), ENOENT);
              EXPECT_EQ(large().producers, 0u);
            },
        .reaps = true});
  std::printf("%u times beside the one before\n", beside);
  EXPECT_GT(beside, 0u);
}

TEST_P(DaemonWalk, UpdateAndDelete) {
  const std::uint32_t third = world.keys[2], first = world.keys[0];
  const auto update = [&](const Reply& outer, std::uint32_t key, const Reply& inner) {
    token(outer);
    token(inner);
    return [&, key] {
      victim->request(RINGBUF_MAP_UPDATE_ELEM, KeptWorld::element(key), {KeptWorld::fd(tokens[0]), KeptWorld::fd(tokens[1])});
    };
  };
  const auto erase = [&](const Reply& outer, std::uint32_t key) {
    return world.good->call(RINGBUF_MAP_DELETE_ELEM, KeptWorld::element(key), {KeptWorld::fd(outer)}).err();
  };
  const auto put = [&](const Reply& outer, std::uint32_t key, const Reply& inner) {
    world.set(outer, key, inner);
    world.elements.erase({KeptWorld::id(outer), key});
  };
  for (const Reply* outer : {&world.array, &world.hash}) {
    const bool hash = outer == &world.hash;
    const std::uint32_t fresh = hash ? third : 2, used = hash ? first : 0;
    const char* kind = hash ? "a hash" : "an array";
    std::function<void()> act;
    const auto go = [&] { act(); };
    walk(fmt::format("add to {}", kind).c_str(),
         {.prepare = [&] { act = update(*outer, fresh, world.kept); },
          .act = go,
          .check =
              [&](const Reply& r) {
                const std::uint32_t there = world.lookup(*outer, fresh);
                EXPECT_TRUE(there == KeptWorld::id(world.kept) || (there == 0 && r.err() != 0));
                put(*outer, fresh, world.kept);
                EXPECT_EQ(world.lookup(*outer, fresh), KeptWorld::id(world.kept));
                EXPECT_EQ(erase(*outer, fresh), 0);
              }});
    walk(fmt::format("replace in {}", kind).c_str(),
         {.prepare = [&] { act = update(*outer, used, world.work); },
          .act = go,
          .check =
              [&](const Reply& r) {
                const std::uint32_t there = world.lookup(*outer, used);
                EXPECT_TRUE(there == KeptWorld::id(world.work) || (there == KeptWorld::id(world.kept) && r.err() != 0));
                world.set(*outer, used, world.kept);
              }});
    walk(fmt::format("delete from {}", kind).c_str(),
         {.prepare = [&] { token(*outer); },
          .act = [&] { victim->request(RINGBUF_MAP_DELETE_ELEM, KeptWorld::element(used), {KeptWorld::fd(tokens[0])}); },
          .check =
              [&](const Reply& r) {
                const std::uint32_t there = world.lookup(*outer, used);
                EXPECT_TRUE(there == 0 || (there == KeptWorld::id(world.kept) && r.err() != 0));
                EXPECT_EQ(erase(*outer, used), there == 0 ? ENOENT : 0);
                if (hash) {
                  EXPECT_EQ(world.lookup(*outer, world.keys[1]), KeptWorld::id(world.kept));
                }
                world.set(*outer, used, world.kept);
              }});
    // The element was all that kept a map.
    walk(fmt::format("replace the last of a map in {}", kind).c_str(),
         {.prepare =
              [&] {
                put(*outer, fresh, victim->create());
                act = update(*outer, fresh, world.work);
              },
          .act = go,
          .check =
              [&](const Reply& r) {
                const std::uint32_t there = world.lookup(*outer, fresh);
                EXPECT_NE(there, 0u);
                EXPECT_TRUE(there == KeptWorld::id(world.work) || r.err() != 0);
                EXPECT_EQ(world.maps(), there == KeptWorld::id(world.work) ? 4u : 5u);
                EXPECT_EQ(erase(*outer, fresh), 0);
                EXPECT_EQ(world.maps(), 4u);
              }});
  }
}

TEST_P(DaemonWalk, Death) {
  ringbuf_map_info before{};
  std::optional<Attached> dead, other;
  walk("a producer dies", {.prepare =
                               [&] {
                                 before = world.info(world.work);
                                 token(world.work);
                                 dead.emplace(victim->attach(KeptWorld::fd(tokens[0]), RINGBUF_PRODUCER), RINGBUF_PRODUCER);
                                 EXPECT_EQ(dead->slot, 2u);
                                 for (const std::uint64_t size : {8u, 100u, 28u}) {
                                   EXPECT_NE(dead->producer->reserve(size, 0), nullptr);
                                   EXPECT_EQ(dead->producer->output("between", 7, 0), 0);
                                 }
                                 tokens.clear();
                               },
                           .act =
                               [&] {
                                 victim_lives = false;
                                 victim->close();
                               },
                           .check =
                               [&](const Reply&) {
                                 dead.reset();
                                 world.daemon.rest();
                                 EXPECT_EQ(producers(), 1u);
                                 EXPECT_EQ(world.consumer->consume(), (Names{"between", "between", "between"}));
                                 const auto now = world.info(world.work);
                                 EXPECT_EQ(now.orphan_records, before.orphan_records + 3);
                                 EXPECT_EQ(now.orphan_bytes, before.orphan_bytes + 136);
                               },
                           .answered = false});
  // Where a record names no slot, or another store says where it ends.
  struct Kind {
    const char* name;
    std::uint32_t type, map_flags, ring_flags;
  };
  for (const Kind& kind :
       {Kind{"the producer of a user ring dies", 31, 0, 0}, Kind{"a single producer dies", 27, 0, RINGBUF_F_SINGLE_PRODUCER},
        Kind{"a producer of an overwritten ring dies", 27, shm::kFlagOverwrite, 0}}) {
    Reply ring;
    const auto now = [&] { return world.good->info(KeptWorld::fd(ring)).as<ringbuf_map_info>(); };
    walk(kind.name, {.prepare =
                         [&] {
                           ring = world.make(kind.type, 4096, "other", kind.map_flags, kind.ring_flags);
                           token(ring);
                           dead.emplace(victim->attach(KeptWorld::fd(tokens[0]), RINGBUF_PRODUCER), RINGBUF_PRODUCER);
                           EXPECT_EQ(dead->producer->output("before", 6, 0), 0);
                           for (const std::uint64_t size : {24u, 40u}) EXPECT_NE(dead->producer->reserve(size, 0), nullptr);
                           tokens.clear();
                         },
                     .act =
                         [&] {
                           victim_lives = false;
                           victim->close();
                         },
                     .check =
                         [&](const Reply&) {
                           world.daemon.rest();
                           EXPECT_EQ(now().producers, 0u);
                           EXPECT_EQ(now().orphan_records, 2u);
                           EXPECT_EQ(now().orphan_bytes, 64u);
                           EXPECT_EQ(now().head_slot, 0u);
                           dead.reset();
                           ring.fds.clear();
                         },
                     .answered = false});
  }
  std::optional<Attached> reader;
  Reply big;
  int once_too_many = 0;
  walk("a producer dies in a large ring",
       {.prepare =
            [&] {
              big = world.good->create(Client::spec(4 << 20));
              token(big);
              dead.emplace(victim->attach(KeptWorld::fd(tokens[0]), RINGBUF_PRODUCER), RINGBUF_PRODUCER);
              tokens.clear();
              other.emplace(world.good->call(RINGBUF_ATTACH, ringbuf_attach_req{RINGBUF_PRODUCER, 70}, {KeptWorld::fd(big)}),
                            RINGBUF_PRODUCER);
              reader.emplace(world.good->call(RINGBUF_ATTACH, ringbuf_attach_req{RINGBUF_CONSUMER, 71}, {KeptWorld::fd(big)}),
                             RINGBUF_CONSUMER);
              // Both wait for room, and somebody sleeps.
              other->producer->ring().add_room_waiter();
              dead->producer->ring().add_room_waiter();
              dead->producer->ring().set_need(dead->slot, 64);
              reader->consumer->ring().add_waiting();
              EXPECT_NE(dead->producer->reserve(8, 0), nullptr);
              for (int i = 0; i < 150000; ++i) dead->producer->output("behind", 6, 0);
              EXPECT_NE(dead->producer->reserve(8, 0), nullptr);
            },
        .act =
            [&] {
              victim_lives = false;
              victim->close();
            },
        .check =
            [&](const Reply&) {
              const std::uint32_t slot = dead->slot;
              dead.reset();
              const auto fd = KeptWorld::fd(big);
              const auto now = [&] { return world.good->info(fd).as<ringbuf_map_info>(); };
              world.daemon.rest();
              EXPECT_EQ(now().producers, 1u);
              EXPECT_EQ(now().orphan_records, 2u);
              EXPECT_EQ(other->producer->ring().need(slot) & UINT32_MAX, 0u);
              const std::uint32_t waiters = other->producer->ring().room_waiters();
              EXPECT_TRUE(waiters == 1 || waiters == 2) << waiters;
              once_too_many += waiters == 2;
              EXPECT_EQ(reader->consumer->ring().waiting(), 1u);
              EXPECT_TRUE(reader->woken());
              EXPECT_EQ(reader->consume().size(), 150000u);
              other.reset();
              reader.reset();
              for (const std::uint32_t a : {70u, 71u}) EXPECT_EQ(world.good->detach(a).err(), 0);
              big.fds.clear();
            },
        .answered = false,
        .reaps = true});
  // What was answered stays so, although the search goes on for long after that.
  walk("detach in a large ring",
       {.prepare =
            [&] {
              big = world.good->create(Client::spec(4 << 20));
              token(big);
              dead.emplace(victim->call(RINGBUF_ATTACH, ringbuf_attach_req{RINGBUF_PRODUCER, 77}, {KeptWorld::fd(tokens[0])}),
                           RINGBUF_PRODUCER);
              tokens.clear();
              reader.emplace(world.good->call(RINGBUF_ATTACH, ringbuf_attach_req{RINGBUF_CONSUMER, 71}, {KeptWorld::fd(big)}),
                             RINGBUF_CONSUMER);
              EXPECT_NE(dead->producer->reserve(8, 0), nullptr);
              for (int i = 0; i < 150000; ++i) dead->producer->output("behind", 6, 0);
              EXPECT_NE(dead->producer->reserve(8, 0), nullptr);
            },
        .act =
            [&] {
              victim->request(RINGBUF_DETACH, ringbuf_detach_req{77, 0});
            },
        .check =
            [&](const Reply& r) {
              dead.reset();
              const int left = victim->detach(77).err();
              EXPECT_TRUE(left == ENOENT || (left == 0 && r.err() != 0)) << left;
              const auto now = [&] { return world.good->info(KeptWorld::fd(big)).as<ringbuf_map_info>(); };
              world.daemon.rest();
              EXPECT_EQ(now().producers, 0u);
              EXPECT_EQ(now().orphan_records, 2u);
              EXPECT_EQ(reader->consume().size(), 150000u);
              reader.reset();
              EXPECT_EQ(world.good->detach(71).err(), 0);
              big.fds.clear();
            },
        .reaps = true});
  // Killed between the dead one's need and its share of the count.
  EXPECT_EQ(once_too_many, GetParam() == Step::Store ? 1 : 0);
}

TEST_P(DaemonWalk, Restore) {
  // Who died and what was closed while there was no daemon, and who lives through all of it.
  unsigned n = 1;
  std::string room, at_rest;
  for (bool killed = true; killed && !broken(); ++n) {
    SCOPED_TRACE(n);
    const auto before = world.info(world.work);
    victim.emplace(world.socket());
    std::optional<Client> other(world.socket());
    Reply theirs = other->by_id(KeptWorld::id(world.work));
    token(world.work);
    const Attached dead(victim->attach(KeptWorld::fd(tokens[0]), RINGBUF_PRODUCER), RINGBUF_PRODUCER);
    const Attached lives(other->attach(KeptWorld::fd(theirs), RINGBUF_PRODUCER), RINGBUF_PRODUCER);
    EXPECT_NE(dead.producer->reserve(100, 0), nullptr);
    EXPECT_EQ(lives.producer->output("between", 7, 0), 0);
    EXPECT_NE(dead.producer->reserve(28, 0), nullptr);
    lives.producer->ring().add_room_waiter();
    tokens.push_back(victim->create());
    // Something that must be tidied in the table.
    const std::uint32_t key = world.keys[0];
    world.set(world.hash, key, tokens.back());
    world.elements[{KeptWorld::id(world.hash), key}] = world.lookup(world.hash, key);
    world.daemon.rest();
    world.daemon.kill();
    victim->close();
    tokens.clear();
    if (GetParam() == Step::Store) world.die_after(n);
    killed = world.daemon.start_and_kill(GetParam() == Step::Call ? n : KeptDaemon::kNever);
    world.die_after(0);
    if (killed) {
      ASSERT_TRUE(world.daemon.start()) << world.daemon.said();
      world.is_consistent();
    }
    for (Client* c : {&*world.good, &*other}) EXPECT_EQ(c->reconnect(world.socket()).as<ringbuf_hello_reply>().resumed, 1u);
    EXPECT_EQ(producers(), 2u);
    EXPECT_EQ(lives.producer->ring().room_waiters(), 1u);
    lives.producer->ring().sub_room_waiter();
    EXPECT_EQ(world.maps(), 5u);
    world.set(world.hash, key, world.kept);
    EXPECT_EQ(world.maps(), 4u);
    EXPECT_EQ(world.consumer->consume(), Names{"between"});
    const auto now = world.info(world.work);
    EXPECT_EQ(now.orphan_records, before.orphan_records + 2);
    EXPECT_EQ(now.orphan_bytes, before.orphan_bytes + 128);
    victim.reset();
    other.reset();
    theirs.fds.clear();
    const std::string now_at_rest = world.snapshot();
    if (n == 1) at_rest = now_at_rest;
    EXPECT_EQ(now_at_rest, at_rest);
    world.is_sound();
    if (n == 1) room = world.room();
    EXPECT_EQ(world.room(), room);
  }
  std::printf("%-36s killed %3u times\n", "restore", n - 2);
}

INSTANTIATE_TEST_SUITE_P(Each, DaemonWalk, ::testing::Values(Step::Call, Step::Store),
                         [](const auto& step) { return step.param == Step::Call ? "Call" : "Store"; });

}  // namespace
}  // namespace ringbuf::test
