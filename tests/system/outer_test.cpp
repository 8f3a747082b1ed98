// SPDX-License-Identifier: MIT
// Maps of maps through the library and the real ringbufd: elements, lookups that see other processes' updates, attachments that
// are shared and given up, shards, threads and fork.
#include "ringbuf/shm/outer.hpp"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <set>
#include <thread>

#include "daemon_process.hpp"
#include "ringbuf/ringbuf.hpp"

using namespace ringbuf::test;

namespace {

using OuterPtr = std::unique_ptr<ringbuf_outer, Freer<ringbuf_outer_free>>;

constexpr std::uint32_t kArray = RINGBUF_MAP_TYPE_ARRAY_OF_MAPS, kHash = RINGBUF_MAP_TYPE_HASH_OF_MAPS;

ringbuf_map_create_opts outer_opts(std::uint32_t type, const MapPtr& inner, std::uint32_t key_size = 4) {
  ringbuf_map_create_opts opts{};
  opts.sz = sizeof opts;
  opts.map_type = type;
  opts.key_size = key_size;
  opts.value_size = 4;
  opts.inner_map = inner.get();
  return opts;
}
MapPtr create_outer(const SessionPtr& session, std::uint32_t type, const MapPtr& inner, std::uint32_t max_entries) {
  const auto opts = outer_opts(type, inner);
  ringbuf_map* map = nullptr;
  must(ringbuf_map_create(session.get(), "outer", max_entries, &opts, &map), "ringbuf_map_create");
  return MapPtr(map);
}
OuterPtr outer_of(const MapPtr& map) {
  ringbuf_outer* outer = nullptr;
  must(ringbuf_outer_attach(map.get(), &outer), "ringbuf_outer_attach");
  return OuterPtr(outer);
}
int put_map(const MapPtr& outer, std::uint32_t key, const MapPtr& inner, std::uint64_t flags = 0) {
  return ringbuf_map_update_elem(outer.get(), &key, inner.get(), flags);
}
int drop_map(const MapPtr& outer, std::uint32_t key) { return ringbuf_map_delete_elem(outer.get(), &key); }
ringbuf_producer* look(const OuterPtr& outer, std::uint32_t key) { return ringbuf_outer_lookup(outer.get(), &key); }
unsigned producers(const MapPtr& map) { return info_of(map).producers; }
std::string drained(const MapPtr& map) {
  Gather gather;
  const auto consumer = consumer_of(map, Gather::call, &gather);
  EXPECT_GE(ringbuf_consume(consumer.get()), 0);
  std::string all;
  for (const auto& r : gather.records) all += r + " ";
  return all;
}
int put_text(ringbuf_producer* producer, const char* text) { return ringbuf_output(producer, text, std::strlen(text), 0); }

class OuterTest : public ::testing::Test {
 private:
  FdLeakGuard leaks_;

 protected:
  Daemon daemon;
  SessionPtr session = daemon.connect();
  MapPtr a = create_map(session, "a"), b = create_map(session, "b");
};

class EitherOuter : public OuterTest, public ::testing::WithParamInterface<std::uint32_t> {
 protected:
  MapPtr map = create_outer(session, GetParam(), a, 4);
};
INSTANTIATE_TEST_SUITE_P(Type, EitherOuter, ::testing::Values(kArray, kHash),
                         [](const auto& type) { return type.param == kArray ? "Array" : "Hash"; });

// --- elements ------------------------------------------------------------------------------------------------------------------

TEST_P(EitherOuter, ElementsComeAndGo) {
  std::uint32_t id = 77, key = 2;
  EXPECT_EQ(ringbuf_map_lookup_elem(map.get(), &key, &id), -ENOENT);
  EXPECT_EQ(id, 77u);
  EXPECT_EQ(errno, ENOENT);
  EXPECT_EQ(put_map(map, 2, a), 0);
  EXPECT_EQ(ringbuf_map_lookup_elem(map.get(), &key, &id), 0);
  EXPECT_EQ(id, info_of(a).id);
  EXPECT_EQ(put_map(map, 2, b), 0);
  EXPECT_EQ(ringbuf_map_lookup_elem(map.get(), &key, &id), 0);
  EXPECT_EQ(id, info_of(b).id);
  ringbuf_map* raw = nullptr;
  EXPECT_EQ(ringbuf_map_open_inner(map.get(), &key, RINGBUF_RIGHT_MANAGE, &raw), -EACCES);
  EXPECT_EQ(raw, nullptr);
  ASSERT_EQ(ringbuf_map_open_inner(map.get(), &key, RINGBUF_RIGHT_OBSERVE, &raw), 0);
  const MapPtr opened(raw);
  EXPECT_EQ(info_of(opened).id, info_of(b).id);
  EXPECT_EQ(info_of(opened).rights, RINGBUF_RIGHT_OBSERVE);
  std::uint32_t next = 99;
  EXPECT_EQ(ringbuf_map_get_next_key(map.get(), nullptr, &next), 0);
  EXPECT_EQ(next, GetParam() == kArray ? 0u : 2u);
  key = 3;
  EXPECT_EQ(ringbuf_map_get_next_key(map.get(), &key, &next), GetParam() == kArray ? -ENOENT : 0);
  EXPECT_EQ(drop_map(map, 2), 0);
  EXPECT_EQ(drop_map(map, 2), -ENOENT);
  EXPECT_EQ(put_map(map, 2, a, RINGBUF_NOEXIST), GetParam() == kArray ? -EINVAL : 0);
  EXPECT_EQ(put_map(map, 1, a, RINGBUF_EXIST), GetParam() == kArray ? -EINVAL : -ENOENT);
}

TEST_P(EitherOuter, WhatIsMissingIsRefused) {
  std::uint32_t key = 0, id;
  ringbuf_map* raw = nullptr;
  EXPECT_EQ(ringbuf_map_update_elem(map.get(), nullptr, a.get(), 0), -EFAULT);
  EXPECT_EQ(ringbuf_map_lookup_elem(map.get(), nullptr, &id), -EFAULT);
  EXPECT_EQ(ringbuf_map_delete_elem(map.get(), nullptr), -EFAULT);
  EXPECT_EQ(ringbuf_map_update_elem(map.get(), &key, nullptr, 0), -EBADF);
  EXPECT_EQ(ringbuf_map_update_elem(nullptr, &key, a.get(), 0), -EINVAL);
  EXPECT_EQ(ringbuf_map_lookup_elem(map.get(), &key, nullptr), -EINVAL);
  EXPECT_EQ(ringbuf_map_get_next_key(map.get(), &key, nullptr), -EINVAL);
  EXPECT_EQ(ringbuf_map_open_inner(map.get(), &key, 0, nullptr), -EINVAL);
  EXPECT_EQ(ringbuf_outer_attach(nullptr, nullptr), -EINVAL);
  const auto embedded = embedded_map();
  EXPECT_EQ(ringbuf_map_update_elem(map.get(), &key, embedded.get(), 0), -EOPNOTSUPP);
  auto opts = outer_opts(GetParam(), embedded);
  EXPECT_EQ(ringbuf_map_create(session.get(), "x", 4, &opts, &raw), -EOPNOTSUPP);
  EXPECT_EQ(ringbuf_map_create(nullptr, "x", 4, &opts, &raw), -EOPNOTSUPP);
  EXPECT_NE(std::string(ringbuf_last_error()).find("needs a daemon"), std::string::npos);
  opts.inner_map = nullptr;
  EXPECT_EQ(ringbuf_map_create(session.get(), "x", 4, &opts, &raw), -EBADF);
  opts.inner_map = map.get();
  EXPECT_EQ(ringbuf_map_create(session.get(), "x", 4, &opts, &raw), -EINVAL);
  opts = outer_opts(RINGBUF_MAP_TYPE_RINGBUF, a);
  opts.key_size = opts.value_size = 0;
  EXPECT_EQ(ringbuf_map_create(session.get(), "x", 4096, &opts, &raw), 0) << "ignored, as by the kernel";
  ringbuf_map_free(raw);
  EXPECT_EQ(ringbuf_map_create(nullptr, "x", 4096, &opts, &raw), 0);
  ringbuf_map_free(raw);
}

TEST_F(OuterTest, ARingHasNoElements) {
  const auto embedded = embedded_map();
  for (ringbuf_map* ring : {a.get(), embedded.get()}) {
    std::uint32_t key = 0, id;
    ringbuf_map* raw;
    for (const bool null : {false, true}) {
      const void* k = null ? nullptr : &key;
      const int err = null ? -524 : -EINVAL;
      EXPECT_EQ(ringbuf_map_lookup_elem(ring, k, &id), err);
      EXPECT_EQ(ringbuf_map_update_elem(ring, k, b.get(), 0), err);
      EXPECT_EQ(ringbuf_map_delete_elem(ring, k), err);
      EXPECT_EQ(ringbuf_map_get_next_key(ring, k, &id), err);
      EXPECT_EQ(ringbuf_map_open_inner(ring, k, 0, &raw), err);
    }
    ringbuf_outer* outer;
    EXPECT_EQ(ringbuf_outer_attach(ring, &outer), -EINVAL);
  }
}

TEST_P(EitherOuter, IsNoRing) {
  ringbuf_producer* producer;
  ringbuf_consumer* consumer;
  ringbuf_observer* observer;
  EXPECT_EQ(ringbuf_producer_attach(map.get(), &producer), -EINVAL);
  EXPECT_EQ(ringbuf_consumer_attach(map.get(), nullptr, nullptr, &consumer), -EINVAL);
  EXPECT_EQ(ringbuf_observer_attach(map.get(), &observer), -EINVAL);
  EXPECT_EQ(info_of(map).observers, 0u);
  // However the handle was come by.
  ASSERT_EQ(ringbuf_map_pin(map.get(), "/outer"), 0);
  ringbuf_map* raw;
  for (int i = 0; i < 4; ++i) {
    ASSERT_EQ(i == 0   ? ringbuf_map_open_id(session.get(), info_of(map).id, 0, &raw)
              : i == 1 ? ringbuf_map_open_name(session.get(), "outer", 0, &raw)
              : i == 2 ? ringbuf_map_open_pinned(session.get(), "/outer", 0, &raw)
                       : ringbuf_map_from_fd(session.get(), ringbuf_map_fd(map.get()), &raw),
              0);
    const MapPtr other(raw);
    EXPECT_EQ(ringbuf_producer_attach(other.get(), &producer), -EINVAL);
    EXPECT_EQ(put_map(other, 0, a), 0);
    EXPECT_TRUE(outer_of(other));
  }
}

// --- lookups -------------------------------------------------------------------------------------------------------------------

TEST_P(EitherOuter, ALookupFindsTheProducerOfTheRing) {
  const auto outer = outer_of(map);
  EXPECT_EQ(look(outer, 1), nullptr);
  EXPECT_EQ(errno, ENOENT);
  ASSERT_EQ(put_map(map, 1, a), 0);
  ASSERT_EQ(put_map(map, 3, b), 0);
  ringbuf_producer* to_a = look(outer, 1);
  ASSERT_NE(to_a, nullptr) << ringbuf_last_error();
  EXPECT_EQ(put_text(to_a, "one"), 0);
  EXPECT_EQ(put_text(look(outer, 3), "three"), 0);
  EXPECT_EQ(look(outer, 1), to_a);
  EXPECT_EQ(look(outer, 2), nullptr);
  EXPECT_EQ(look(outer, 1000), nullptr);
  EXPECT_EQ(errno, ENOENT);
  EXPECT_EQ(drained(a), "one ");
  EXPECT_EQ(drained(b), "three ");
  EXPECT_EQ(producers(a), 1u);
  EXPECT_EQ(ringbuf_outer_lookup(outer.get(), nullptr), nullptr);
  EXPECT_EQ(errno, EINVAL);
}

TEST_P(EitherOuter, ALookupSeesWhatAnotherProcessHasPutThereAndLetsGoOfTheOldRing) {
  ASSERT_EQ(put_map(map, 1, a), 0);
  const auto outer = outer_of(map);
  ASSERT_NE(look(outer, 1), nullptr);
  EXPECT_EQ(producers(a), 1u);
  const auto in_other_process = [&](auto&& f) {
    ChildProcess child([&] {
      const auto own = daemon.connect();
      return f(open_id(own, info_of(map).id), open_id(own, info_of(b).id));
    });
    return child.exit_code();
  };
  ASSERT_EQ(in_other_process([](const MapPtr& m, const MapPtr& ring) {
              CHILD_CHECK(put_map(m, 1, ring) == 0);
              return 0;
            }),
            0);
  EXPECT_EQ(producers(a), 1u) << "nobody has looked yet";
  EXPECT_EQ(put_text(look(outer, 1), "new"), 0);
  EXPECT_EQ(producers(a), 0u);
  EXPECT_EQ(producers(b), 1u);
  EXPECT_EQ(drained(b), "new ");
  ASSERT_EQ(in_other_process([](const MapPtr& m, const MapPtr&) {
              CHILD_CHECK(drop_map(m, 1) == 0);
              return 0;
            }),
            0);
  EXPECT_EQ(look(outer, 1), nullptr);
  EXPECT_EQ(errno, ENOENT);
  EXPECT_EQ(producers(b), 0u);
}

TEST_P(EitherOuter, TheSameRingPutThereAgainStaysAttached) {
  ASSERT_EQ(put_map(map, 1, a), 0);
  const auto outer = outer_of(map);
  ringbuf_producer* producer = look(outer, 1);
  void* data = ringbuf_reserve(producer, 4, 0);
  EXPECT_EQ(ringbuf_reserve(producer, 1 << 20, 0), nullptr);
  ASSERT_EQ(put_map(map, 1, a), 0);
  ASSERT_EQ(drop_map(map, 1), 0);
  ASSERT_EQ(put_map(map, 1, a), 0);
  EXPECT_EQ(look(outer, 1), producer);
  std::uint64_t lost[RINGBUF_LOST_REASONS];
  ASSERT_EQ(ringbuf_producer_lost(producer, lost), 0);
  EXPECT_EQ(lost[RINGBUF_LOST_TOO_BIG], 1u) << "a new attachment begins with 0";
  std::memcpy(data, "kept", 4);
  ringbuf_submit(producer, data, 0);
  EXPECT_EQ(drained(a), "kept ");
  EXPECT_EQ(producers(a), 1u);
}

TEST_P(EitherOuter, OneRingAtSeveralKeysAndForSeveralOutersIsAttachedOnce) {
  ASSERT_EQ(put_map(map, 1, a), 0);
  ASSERT_EQ(put_map(map, 2, a), 0);
  auto first = outer_of(map), second = outer_of(map);
  EXPECT_EQ(info_of(map).observers, 1u);
  EXPECT_EQ(look(first, 1), look(first, 2));
  EXPECT_EQ(look(second, 1), look(first, 1));
  EXPECT_EQ(producers(a), 1u);
  ASSERT_EQ(drop_map(map, 1), 0);
  EXPECT_EQ(look(first, 1), nullptr);
  EXPECT_NE(look(first, 2), nullptr);
  EXPECT_EQ(producers(a), 1u);
  first.reset();
  EXPECT_EQ(producers(a), 1u);
  second.reset();
  EXPECT_EQ(producers(a), 0u);
  EXPECT_EQ(info_of(map).observers, 0u);
}

TEST_P(EitherOuter, AnOuterOutlivesItsMapHandleAndAnyFreeingOrderWorks) {
  ASSERT_EQ(put_map(map, 1, a), 0);
  auto outer = outer_of(map);
  ASSERT_EQ(ringbuf_map_pin(map.get(), "/keep"), 0);
  const std::uint32_t id = info_of(map).id;
  map.reset();
  ASSERT_NE(look(outer, 1), nullptr) << ringbuf_last_error();
  const auto other = open_id(session, id);
  const auto second = outer_of(other);
  EXPECT_NE(look(second, 1), look(outer, 1)) << "another handle, with rights of its own";
  EXPECT_EQ(producers(a), 2u);
  outer.reset();
  EXPECT_EQ(producers(a), 1u);
}

TEST_P(EitherOuter, ALookupNeedsTheRightToProduceOnBothSides) {
  ASSERT_EQ(put_map(map, 1, a), 0);
  const auto looking = open_id(session, info_of(map).id, RINGBUF_RIGHT_OBSERVE | RINGBUF_RIGHT_CONSUME | RINGBUF_RIGHT_MANAGE);
  const auto outer = outer_of(looking);
  EXPECT_EQ(look(outer, 1), nullptr);
  EXPECT_EQ(errno, EACCES);
  const auto narrow = open_id(session, info_of(b).id, RINGBUF_RIGHT_OBSERVE);
  ASSERT_EQ(put_map(map, 2, narrow), 0);
  const auto full = outer_of(map);
  EXPECT_EQ(look(full, 2), nullptr);
  EXPECT_EQ(errno, EACCES);
  EXPECT_NE(look(full, 1), nullptr);
  EXPECT_EQ(look(outer, 1), nullptr) << "what another handle of this process attached is not for this one";
  EXPECT_EQ(producers(b), 0u);
  // Put there again by a descriptor with the right.
  ASSERT_EQ(put_map(map, 2, b), 0);
  EXPECT_NE(look(full, 2), nullptr);
}

// Each thread has an outer of its own, and such a ring takes one thread at a time.
TEST_P(EitherOuter, ARingWithASingleProducerIsNotSharedByOuters) {
  const auto one = create_map(session, "one", 4096, 0, RINGBUF_F_SINGLE_PRODUCER);
  ASSERT_EQ(put_map(map, 1, one), 0);
  auto first = outer_of(map);
  const auto second = outer_of(map);
  EXPECT_NE(look(first, 1), nullptr);
  EXPECT_EQ(look(second, 1), nullptr);
  EXPECT_EQ(errno, EBUSY);
  EXPECT_NE(look(first, 1), nullptr);
  first.reset();
  EXPECT_NE(look(second, 1), nullptr);
}

TEST_P(EitherOuter, ASingleProducerRingChangesHandsWithinAProcess) {
  const auto one = create_map(session, "one", 4096, 0, RINGBUF_F_SINGLE_PRODUCER);
  ASSERT_EQ(put_map(map, 1, one), 0);
  ASSERT_EQ(put_map(map, 2, one), 0);
  auto outer = outer_of(map);
  EXPECT_NE(look(outer, 1), nullptr);
  EXPECT_NE(look(outer, 2), nullptr);
  const auto other = open_id(session, info_of(map).id);
  const auto second = outer_of(other);
  EXPECT_EQ(look(second, 1), nullptr);
  EXPECT_EQ(errno, EBUSY);
  outer.reset();
  EXPECT_NE(look(second, 1), nullptr);
}

TEST_P(EitherOuter, WhatWasLookedUpWorksOnWithoutTheDaemon) {
  ASSERT_EQ(put_map(map, 1, a), 0);
  const auto outer = outer_of(map);
  ASSERT_NE(look(outer, 1), nullptr);
  const auto observer = observer_of(a);
  daemon.kill();
  for (int i = 0; i < 10; ++i) EXPECT_EQ(put_text(look(outer, 1), "on"), 0);
  EXPECT_EQ(stats_of(observer).producer_pos, 10 * 16u);
  daemon.start();
}

// A hash's slot that has gone to another key does not take the first key's producer with it.
TEST_F(OuterTest, AProducerIsBorrowedUntilItsOwnKeyIsLookedUpAgain) {
  const auto map = create_outer(session, kHash, a, 1);
  ASSERT_EQ(put_map(map, 1, a), 0);
  const auto outer = outer_of(map);
  ringbuf_producer* producer = look(outer, 1);
  void* data = ringbuf_reserve(producer, 3, 0);
  ASSERT_NE(data, nullptr);
  for (std::uint32_t other = 2; other < 20; ++other) {
    ASSERT_EQ(drop_map(map, other == 2 ? 1 : other - 1), 0);
    ASSERT_EQ(put_map(map, other, b), 0);
    ASSERT_NE(look(outer, other), nullptr);
  }
  EXPECT_EQ(producers(a), 1u);
  std::memcpy(data, "old", 3);
  ringbuf_submit(producer, data, 0);
  EXPECT_EQ(drained(a), "old ");
  EXPECT_EQ(look(outer, 1), nullptr);
  EXPECT_EQ(producers(a), 0u);
}

// --- threads, processes --------------------------------------------------------------------------------------------------------

TEST_P(EitherOuter, ThreadsShareAttachmentsWhateverIsUpdatedMeanwhile) {
  constexpr int kThreads = 4;
  const MapPtr rings[] = {create_map(session, "r0"), create_map(session, "r1")};
  ASSERT_EQ(put_map(map, 0, rings[0]), 0);
  std::atomic<bool> done{false};
  std::atomic<int> wrong{0}, found{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&] {
      const auto outer = outer_of(map);
      while (!done) {
        if (look(outer, 0)) ++found;
        else if (errno != ENOENT) ++wrong;
      }
    });
  for (int i = 0; i < 400; ++i) {
    EXPECT_EQ(put_map(map, 0, rings[i % 2]), 0);
    if (i % 5 == 0) {
      EXPECT_EQ(drop_map(map, 0), 0);
    }
  }
  ASSERT_EQ(put_map(map, 0, rings[0]), 0);
  const int before = found;
  wait_until([&] { return found > before + 1000; });
  EXPECT_EQ(producers(rings[0]), 1u);
  done = true;
  for (auto& t : threads) t.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(producers(rings[0]) + producers(rings[1]), 0u);
}

TEST_P(EitherOuter, AForkChildMakesItsOwnAndTakesNothingFromItsParent) {
  ASSERT_EQ(put_map(map, 1, a), 0);
  auto outer = outer_of(map);
  ringbuf_producer* producer = look(outer, 1);
  ASSERT_NE(producer, nullptr);
  Gate attached, done;
  ChildProcess child([&] {
    CHILD_CHECK(look(outer, 1) == nullptr && errno == EPERM);
    CHILD_CHECK(look(outer, 2) == nullptr && errno == EPERM);
    {
      const auto own = outer_of(map);
      CHILD_CHECK(look(own, 1) != nullptr);
      CHILD_CHECK(put_text(look(own, 1), "child") == 0);
      attached.open();
      done.pass();
    }
    outer.reset();  // frees memory only
    CHILD_CHECK(info_of(a).producers == 1);
    return 0;
  });
  attached.pass();
  EXPECT_EQ(producers(a), 2u);
  done.open();
  EXPECT_EQ(child.exit_code(), 0);
  EXPECT_EQ(look(outer, 1), producer);
  EXPECT_EQ(put_text(producer, "parent"), 0);
  EXPECT_EQ(drained(a), "child parent ");
  EXPECT_EQ(producers(a), 1u);
}

// Keys that collide come and go at full speed, each with rings of its own. Producer processes write into whatever they find what
// key they looked for; each ring must hold nothing else.
TEST_F(OuterTest, AHashUnderChurnNeverLeadsToAnotherKeysRing) {
  constexpr std::uint32_t kKeys = 6, kSize = 4;
  const auto map = create_outer(session, kHash, a, kSize);
  const ringbuf::shm::OuterLayout layout{kHash, 4, kSize};
  std::vector<std::uint32_t> keys;  // that share their home
  for (std::uint32_t k = 1; keys.size() < kKeys; ++k)
    if (layout.home(ringbuf::shm::key_hash(&k, 4)) == 0) keys.push_back(k);
  std::vector<MapPtr> rings;
  for (std::uint32_t i = 0; i < 2 * kKeys; ++i) rings.push_back(create_map(session, "ring", 1 << 20));
  const std::uint32_t id = info_of(map).id;
  Gate go, stop[2];
  std::vector<std::unique_ptr<ChildProcess>> children;
  for (int c = 0; c < 2; ++c)
    children.push_back(std::make_unique<ChildProcess>([&, c] {
      const auto own = open_id(daemon.connect(), id, RINGBUF_RIGHT_PRODUCE);
      const auto outer = outer_of(own);
      std::atomic<bool> done{false};
      std::thread waiter([&] {
        stop[c].pass();
        done = true;
      });
      std::uint64_t written = 0, none = 0, full = 0;
      for (std::uint32_t i = 0; !done; ++i) {
        const std::uint32_t key = keys[i % kKeys];
        if (ringbuf_producer* producer = look(outer, key)) {
          const int r = ringbuf_output(producer, &key, sizeof key, 0);
          if (r == 0) ++written;
          else if (r == -EAGAIN) ++full;
          else return 2;
        } else if (errno == ENOENT) {
          ++none;
        } else {
          std::fprintf(stderr, "lookup: %s\n", ringbuf_last_error());
          return 1;
        }
      }
      waiter.join();
      return written > 100 && none > 0 ? 0 : 3;
    }));
  std::set<std::uint32_t> in;
  std::uint32_t random = 7;
  for (int i = 0; i < 20'000; ++i) {
    random = random * 1664525u + 1013904223u;
    const std::uint32_t k = (random >> 16) % kKeys;
    if (in.count(k) && random >> 31) {
      ASSERT_EQ(drop_map(map, keys[k]), 0);
      in.erase(k);
    } else {
      const int r = put_map(map, keys[k], rings[2 * k + (random >> 30 & 1)]);
      if (!in.count(k) && in.size() == kSize) {
        ASSERT_EQ(r, -E2BIG);
        ASSERT_EQ(drop_map(map, keys[*in.begin()]), 0);
        in.erase(in.begin());
      } else {
        ASSERT_EQ(r, 0) << ringbuf_last_error();
        in.insert(k);
      }
    }
  }
  for (const Gate& g : stop) g.open();
  for (auto& c : children) EXPECT_EQ(c->exit_code(), 0);
  std::uint64_t records = 0;
  for (std::uint32_t i = 0; i < 2 * kKeys; ++i) {
    Gather gather;
    const auto consumer = consumer_of(rings[i], Gather::call, &gather);
    ASSERT_GE(ringbuf_consume(consumer.get()), 0);
    records += gather.records.size();
    for (const auto& r : gather.records) ASSERT_EQ(std::memcmp(r.data(), &keys[i / 2], 4), 0) << "a record of another key";
    EXPECT_EQ(producers(rings[i]), 0u);
  }
  EXPECT_GT(records, 200u);
}

// --- shards --------------------------------------------------------------------------------------------------------------------

class Shards : public OuterTest {
 protected:
  static constexpr std::uint32_t kRings = 3;
  Shards() {
    for (std::uint32_t i = 0; i < kRings; ++i) {
      rings.push_back(create_map(session, "shard", 1 << 20));
      must(put_map(map, i, rings.back()), "put_map");
    }
  }
  MapPtr map = create_outer(session, kArray, a, kRings);
  std::vector<MapPtr> rings;
};

TEST_F(Shards, ByCpuEachCpuHasItsRing) {
  const auto outer = outer_of(map);
  cpu_set_t before;
  ASSERT_EQ(::sched_getaffinity(0, sizeof before, &before), 0);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &before)) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    ASSERT_EQ(::sched_setaffinity(0, sizeof one, &one), 0);
    ringbuf_producer* producer = nullptr;
    void* data = ringbuf_shard_reserve(outer.get(), RINGBUF_SHARD_CPU, 4, 0, &producer);
    ASSERT_NE(data, nullptr);
    EXPECT_EQ(producer, look(outer, static_cast<std::uint32_t>(cpu) % kRings));
    ringbuf_submit(producer, data, 0);
  }
  ::sched_setaffinity(0, sizeof before, &before);
}

TEST_F(Shards, ByTgidTheOrderOfEachProcessIsKept) {
  constexpr std::uint32_t kProcesses = 8, kRecords = 2000;
  struct Record {
    std::uint32_t pid, number;
  };
  const std::uint32_t id = info_of(map).id;
  std::vector<std::unique_ptr<ChildProcess>> children;
  for (std::uint32_t p = 0; p < kProcesses; ++p)
    children.push_back(std::make_unique<ChildProcess>([&] {
      auto own = ringbuf::Session::connect(daemon.socket().c_str());
      auto producer = ringbuf::ShardedProducer::attach(*ringbuf::Map::open_id(*own, id), RINGBUF_SHARD_TGID);
      CHILD_CHECK(producer);
      for (std::uint32_t i = 0; i < kRecords; ++i) {
        auto r = producer->reserve(sizeof(Record));
        CHILD_CHECK(r);
        new (r.data()) Record{static_cast<std::uint32_t>(::getpid()), i};
        if (i % 3) r.submit();
        else r.submit(RINGBUF_NO_WAKEUP);
      }
      return 0;
    }));
  std::map<std::uint32_t, std::uint32_t> ring_of;
  for (auto& c : children) {
    ring_of[static_cast<std::uint32_t>(c->pid())] = ringbuf::shm::shard_of(static_cast<std::uint32_t>(c->pid()), kRings);
    EXPECT_EQ(c->exit_code(), 0);
  }
  std::map<std::uint32_t, std::uint32_t> next;
  for (std::uint32_t i = 0; i < kRings; ++i) {
    Gather gather;
    const auto consumer = consumer_of(rings[i], Gather::call, &gather);
    ASSERT_GE(ringbuf_consume(consumer.get()), 0);
    for (const auto& bytes : gather.records) {
      Record r;
      std::memcpy(&r, bytes.data(), sizeof r);
      ASSERT_EQ(ring_of.at(r.pid), i);
      ASSERT_EQ(next[r.pid]++, r.number);
    }
  }
  for (const auto& [pid, ring] : ring_of) EXPECT_EQ(next[pid], kRecords);
}

TEST_F(Shards, AForkChildHasAShardOfItsOwn) {
  for (int i = 0; i < 4; ++i) {
    ChildProcess child([&] {
      const auto own = outer_of(map);
      ringbuf_producer* producer = nullptr;
      void* data = ringbuf_shard_reserve(own.get(), RINGBUF_SHARD_TGID, 4, 0, &producer);
      CHILD_CHECK(data);
      ringbuf_discard(producer, data, 0);
      CHILD_CHECK(producer == look(own, ringbuf::shm::shard_of(static_cast<std::uint32_t>(::getpid()), kRings)));
      return 0;
    });
    EXPECT_EQ(child.exit_code(), 0);
  }
}

TEST_F(Shards, WhatIsNotAnArrayOfRingsOrHasAHoleIsRefused) {
  ringbuf_producer* const untouched = reinterpret_cast<ringbuf_producer*>(1);
  ringbuf_producer* producer = untouched;
  const auto reserve = [&](const OuterPtr& outer, ringbuf_shard shard, std::size_t size, std::uint64_t flags = 0) {
    void* data = ringbuf_shard_reserve(outer.get(), shard, size, flags, &producer);
    EXPECT_EQ(data, nullptr);
    EXPECT_EQ(producer, untouched);
    return errno;
  };
  const auto outer = outer_of(map);
  EXPECT_EQ(reserve(outer, static_cast<ringbuf_shard>(2), 4), EINVAL);
  EXPECT_EQ(reserve(outer, RINGBUF_SHARD_TGID, 4, 1), EINVAL);
  EXPECT_EQ(reserve(outer, RINGBUF_SHARD_TGID, 1 << 20), E2BIG);
  EXPECT_EQ(ringbuf_shard_reserve(outer.get(), RINGBUF_SHARD_TGID, 4, 0, nullptr), nullptr);
  EXPECT_EQ(errno, EINVAL);
  const auto hash = create_outer(session, kHash, a, 4);
  EXPECT_EQ(reserve(outer_of(hash), RINGBUF_SHARD_CPU, 4), EINVAL);
  ringbuf_map_create_opts opts{};
  opts.sz = sizeof opts;
  opts.map_type = RINGBUF_MAP_TYPE_USER_RINGBUF;
  ringbuf_map* raw = nullptr;
  ASSERT_EQ(ringbuf_map_create(session.get(), "user", 4096, &opts, &raw), 0);
  const MapPtr user(raw);
  const auto users = create_outer(session, kArray, user, 1);
  ASSERT_EQ(put_map(users, 0, user), 0);
  const auto user_outer = outer_of(users);
  EXPECT_NE(look(user_outer, 0), nullptr);
  EXPECT_EQ(reserve(user_outer, RINGBUF_SHARD_CPU, 4), EINVAL);
  for (std::uint32_t i = 0; i < kRings; ++i) ASSERT_EQ(drop_map(map, i), 0);
  EXPECT_EQ(reserve(outer, RINGBUF_SHARD_TGID, 4), ENOENT);
  EXPECT_EQ(reserve(outer, RINGBUF_SHARD_CPU, 4), ENOENT);
}

TEST_F(Shards, TheCppApiDoesTheSame) {
  auto own = ringbuf::Session::connect(daemon.socket().c_str());
  auto inner = ringbuf::Map::create(*own, "inner", 4096);
  ringbuf_map_create_opts opts{};
  opts.sz = sizeof opts;
  opts.map_type = kHash;
  opts.key_size = 3;
  opts.value_size = 4;
  opts.map_flags = RINGBUF_NO_PREALLOC;
  opts.inner_map = inner->get();
  auto map_by_name = ringbuf::Map::create(*own, "by_name", 10, &opts);
  ASSERT_TRUE(map_by_name) << map_by_name.error().what;
  ASSERT_TRUE(map_by_name->update("abc", *inner, RINGBUF_NOEXIST));
  EXPECT_EQ(map_by_name->update("abc", *inner, RINGBUF_NOEXIST).error().err, EEXIST);
  EXPECT_EQ(*map_by_name->lookup("abc"), inner->info()->id);
  EXPECT_EQ(map_by_name->lookup("abd").error().err, ENOENT);
  auto outer = ringbuf::Outer::attach(*map_by_name);
  ASSERT_TRUE(outer);
  EXPECT_FALSE(outer->lookup("abd"));
  const ringbuf::BorrowedProducer producer = outer->lookup("abc");
  ASSERT_TRUE(producer);
  EXPECT_EQ(producer.output("one", 3), 0);
  {
    auto forgotten = producer.reserve(8);
    auto r = producer.reserve_wait(3);
    std::memcpy(r.data(), "two", 3);
    r.submit();
    ringbuf::Reservation moved = producer.reserve(5), target;
    target = std::move(moved);
    std::memcpy(target.data(), "three", 5);
    target.submit(RINGBUF_NO_WAKEUP);
  }
  auto opened = map_by_name->open_inner("abc", RINGBUF_RIGHT_CONSUME);
  ASSERT_TRUE(opened);
  std::string all;
  auto consumer = ringbuf::Consumer::attach(*opened);
  EXPECT_EQ(consumer->consume([&](const void* data, std::size_t size) {
    all += std::string(static_cast<const char*>(data), size) + " ";
    return 0;
  }),
            3);
  EXPECT_EQ(all, "one two three ");
  ASSERT_TRUE(map_by_name->erase("abc"));
  EXPECT_FALSE(outer->lookup("abc"));
  auto array = ringbuf::Map::open_id(*own, info_of(map).id);
  auto by_index = ringbuf::Outer::attach(*array);
  EXPECT_EQ(by_index->at(1).output("x", 1), 0);
  EXPECT_EQ(drained(rings[1]), "x ");
  EXPECT_EQ(ringbuf::ShardedProducer::attach(*inner, RINGBUF_SHARD_CPU).error().err, EINVAL);
}

}  // namespace
