// SPDX-License-Identifier: MIT
// Rings as elements of an ARRAY_OF_MAPS or HASH_OF_MAPS.
#include <set>

#include "fixture.hpp"

namespace conformance {
namespace {

class MapInMap : public Conformance {
 protected:
  std::unique_ptr<Ring> inner(std::uint32_t max_entries = 4096, std::uint32_t flags = 0, std::uint32_t type = kRingbuf) {
    return make({.type = type,
                 .max_entries = max_entries,
                 .flags = flags,
                 .numa_node = flags & kNumaNode ? UINT32_MAX : 0,
                 .shared = true});
  }
  std::unique_ptr<Outer> outer(std::uint32_t type, Ring& like, std::uint32_t max_entries = 4) {
    std::unique_ptr<Outer> made;
    const int r = GetParam()->create({.type = type, .max_entries = max_entries, .inner = &like}, &made);
    if (r < 0) {
      ADD_FAILURE() << "create: " << std::strerror(-r);
      std::abort();
    }
    return made;
  }
};
CONFORMANCE(MapInMap);

// Two rings in one manager, found through an array and through a hash.
TEST_P(MapInMap, EventsGoWhereTheyBelong) {
  for (const bool hashed : {false, true}) {
    SCOPED_TRACE(hashed ? "hash" : "array");
    const auto first = inner(), second = inner();
    const auto array = outer(kArrayOfMaps, *first);
    const auto hash = outer(kHashOfMaps, *first, 2);
    ASSERT_EQ(array->update(0, *first), 0);
    ASSERT_EQ(array->update(2, *second), 0);
    ASSERT_EQ(hash->update(0, *first), 0);
    ASSERT_EQ(hash->update(2, *second), 0);

    int skipped = 0, dropped = 0;
    const std::int64_t values[] = {333, 555, 777};
    for (std::uint32_t target = 0; target < 3; ++target) {
      const std::int64_t event[4] = {target, values[target], 0, 0};
      const int r = (hashed ? *hash : *array).output(target, Bytes(reinterpret_cast<const char*>(event), sizeof event));
      skipped += r == 1;
      dropped += r < 0;
    }
    EXPECT_EQ(skipped, 1);
    EXPECT_EQ(dropped, 0);

    std::vector<std::string> got;
    const auto note = [&](const char* who) {
      return OnSample([&got, who](const Bytes& bytes) {
        std::int64_t event[4];
        std::memcpy(event, bytes.data(), sizeof event);
        got.push_back(std::string(who) + " " + std::to_string(event[0]) + " " + std::to_string(event[1]));
        return 0;
      });
    };
    const OnSample one = note("first"), two = note("second");
    EXPECT_EQ(first->poll_both(-1, one, *second, two), 2);
    EXPECT_EQ(got, (std::vector<std::string>{"first 0 333", "second 2 777"}));
    EXPECT_EQ(first->poll_both(0, one, *second, two), 0);
  }
}

TEST_P(MapInMap, AProgramSeesAnUpdate) {
  for (const std::uint32_t type : {kArrayOfMaps, kHashOfMaps}) {
    const auto first = inner(), second = inner();
    const auto map = outer(type, *first);
    EXPECT_EQ(map->output(1, "x"), 1);
    ASSERT_EQ(map->update(1, *first), 0);
    EXPECT_EQ(map->output(1, "to the first"), 0);
    ASSERT_EQ(map->update(1, *second), 0);
    EXPECT_EQ(map->output(1, "to the second"), 0);
    ASSERT_EQ(map->erase(1), 0);
    EXPECT_EQ(map->output(1, "x"), 1);
    Gather a, b;
    EXPECT_EQ(first->consume(a), 1);
    EXPECT_EQ(second->consume(b), 1);
    EXPECT_EQ(a.records, std::vector<Bytes>{"to the first"});
    EXPECT_EQ(b.records, std::vector<Bytes>{"to the second"});
  }
}

TEST_P(MapInMap, WhatMayBeAnElement) {
  const auto small = inner(), large = inner(65536), numa = inner(4096, kNumaNode), user = inner(4096, 0, kUserRingbuf);
  struct Row {
    const char* what;
    Ring *like, *element;
    int result;
  };
  const Row rows[] = {
      {"the template itself", small.get(), small.get(), 0},
      {"a larger one", small.get(), large.get(), 0},
      {"a smaller one", large.get(), small.get(), 0},
      {"other flags", small.get(), numa.get(), -EINVAL},
      {"fewer flags", numa.get(), small.get(), -EINVAL},
      {"the same flags", numa.get(), numa.get(), 0},
      {"the other type", small.get(), user.get(), -EINVAL},
      {"the other type, turned round", user.get(), small.get(), -EINVAL},
      {"user rings", user.get(), user.get(), 0},
  };
  for (const std::uint32_t type : {kArrayOfMaps, kHashOfMaps}) {
    for (const Row& row : rows) {
      SCOPED_TRACE(row.what);
      EXPECT_EQ(outer(type, *row.like)->update(0, *row.element), row.result);
    }
  }
}

TEST_P(MapInMap, OverwritingRingsAndOthersDoNotMix) {
  Spec spec{.flags = kOverwrite, .shared = true};
  std::unique_ptr<Ring> overwriting;
  if (GetParam()->create(spec, &overwriting) < 0 && on_kernel()) GTEST_SKIP() << "no overwrite mode before Linux 6.19";
  ASSERT_TRUE(overwriting);
  const auto normal = inner();
  EXPECT_EQ(outer(kArrayOfMaps, *normal)->update(0, *overwriting), -EINVAL);
  EXPECT_EQ(outer(kArrayOfMaps, *overwriting)->update(0, *normal), -EINVAL);
  EXPECT_EQ(outer(kArrayOfMaps, *overwriting)->update(0, *overwriting), 0);
}

TEST_P(MapInMap, ElementsOfAnArray) {
  const auto ring = inner();
  const auto map = outer(kArrayOfMaps, *ring);
  std::uint32_t id = 0, key = 0;
  EXPECT_EQ(map->lookup(1, &id), -ENOENT);
  EXPECT_EQ(map->erase(1), -ENOENT);
  EXPECT_EQ(map->update(1, *ring, Outer::kNoExist), -EINVAL);
  EXPECT_EQ(map->update(1, *ring, Outer::kExist), -EINVAL);
  EXPECT_EQ(map->update(1, *ring, 8), -EINVAL);
  EXPECT_EQ(map->update(4, *ring), -E2BIG);
  EXPECT_EQ(map->lookup(4, &id), -ENOENT);
  EXPECT_EQ(map->erase(4), -E2BIG);
  EXPECT_EQ(map->update(1, *ring), 0);
  EXPECT_EQ(map->lookup(1, &id), 0);
  EXPECT_EQ(id, ring->id());
  EXPECT_EQ(map->erase(1), 0);
  EXPECT_EQ(map->lookup(1, &id), -ENOENT);
  // Its keys are all its indexes.
  EXPECT_EQ(map->next_key(nullptr, &key), 0);
  EXPECT_EQ(key, 0u);
  for (std::uint32_t at = 0; at < 3; ++at) {
    EXPECT_EQ(map->next_key(&at, &key), 0);
    EXPECT_EQ(key, at + 1);
  }
  const std::uint32_t last = 3, beyond = 100;
  EXPECT_EQ(map->next_key(&last, &key), -ENOENT);
  EXPECT_EQ(map->next_key(&beyond, &key), 0);
  EXPECT_EQ(key, 0u);
}

TEST_P(MapInMap, ElementsOfAHash) {
  const auto ring = inner(), other = inner();
  const auto map = outer(kHashOfMaps, *ring, 2);
  std::uint32_t id = 0, key = 0;
  EXPECT_EQ(map->next_key(nullptr, &key), -ENOENT);
  EXPECT_EQ(map->lookup(77, &id), -ENOENT);
  EXPECT_EQ(map->erase(77), -ENOENT);
  EXPECT_EQ(map->update(77, *ring, Outer::kExist), -ENOENT);
  EXPECT_EQ(map->update(77, *ring, 8), -EINVAL);
  EXPECT_EQ(map->update(77, *ring, Outer::kNoExist), 0);
  EXPECT_EQ(map->update(77, *ring, Outer::kNoExist), -EEXIST);
  EXPECT_EQ(map->update(77, *other, Outer::kExist), 0);
  EXPECT_EQ(map->lookup(77, &id), 0);
  EXPECT_EQ(id, other->id());
  EXPECT_EQ(map->update(88, *ring), 0);
  EXPECT_EQ(map->update(99, *ring), -E2BIG);
  std::set<std::uint32_t> keys;
  EXPECT_EQ(map->next_key(nullptr, &key), 0);
  keys.insert(key);
  const std::uint32_t first = key;
  EXPECT_EQ(map->next_key(&first, &key), 0);
  keys.insert(key);
  const std::uint32_t second = key;
  EXPECT_EQ(map->next_key(&second, &key), -ENOENT);
  EXPECT_EQ(keys, (std::set<std::uint32_t>{77, 88}));
  EXPECT_EQ(map->erase(77), 0);
  EXPECT_EQ(map->update(99, *ring), 0);
}

TEST_P(MapInMap, TheFirstOfTwoErrors) {
  const auto ring = inner(), user = inner(4096, 0, kUserRingbuf);
  const auto array = outer(kArrayOfMaps, *ring), hash = outer(kHashOfMaps, *ring, 1);
  EXPECT_EQ(array->update(4, *ring, Outer::kNoExist), -EINVAL);  // flags before the index
  EXPECT_EQ(array->update(4, *user), -E2BIG);                    // the index before what is to be there
  ASSERT_EQ(hash->update(7, *ring), 0);
  EXPECT_EQ(hash->update(7, *user, Outer::kNoExist), -EINVAL);  // what is to be there before the rest
  EXPECT_EQ(hash->update(8, *user, Outer::kExist), -EINVAL);
  EXPECT_EQ(hash->update(8, *user), -EINVAL);
  EXPECT_EQ(hash->update(8, *ring, Outer::kExist), -ENOENT);  // the flags before the limit
  EXPECT_EQ(hash->update(7, *ring, Outer::kNoExist), -EEXIST);
  EXPECT_EQ(hash->update(8, *ring, Outer::kNoExist), -E2BIG);
  EXPECT_EQ(array->update(4, *user, 4), -EINVAL);  // BPF_F_LOCK before all
  EXPECT_EQ(hash->update(8, *user, 5), -EINVAL);
}

TEST_P(MapInMap, AnElementKeepsItsRing) {
  std::uint32_t id = 0;
  auto ring = inner();
  const auto like = inner();
  const auto map = outer(kArrayOfMaps, *like);
  ASSERT_EQ(map->update(0, *ring), 0);
  const std::uint32_t kept = ring->id();
  ring.reset();
  EXPECT_EQ(map->lookup(0, &id), 0);
  EXPECT_EQ(id, kept);
  EXPECT_EQ(map->output(0, "x"), 0);
}

TEST_P(MapInMap, RulesOfCreation) {
  const auto ring = inner();
  const auto map = outer(kArrayOfMaps, *ring);
  std::unique_ptr<Outer> made;
  difference("map-of-maps-limits");
  const int beyond_ours = on_kernel() ? 0 : -E2BIG;
  difference("map-of-maps-access-flags");
  const int access = on_kernel() ? 0 : -EINVAL;
  struct Row {
    const char* what;
    OuterSpec spec;
    int result;
  };
  const Row rows[] = {
      {"no template", {.inner = nullptr}, -EBADF},
      {"no template, hash", {.type = kHashOfMaps, .inner = nullptr}, -EBADF},
      {"no elements", {.max_entries = 0, .inner = ring.get()}, -EINVAL},
      {"no elements, hash", {.type = kHashOfMaps, .max_entries = 0, .inner = ring.get()}, -EINVAL},
      {"key of 8", {.key_size = 8, .inner = ring.get()}, -EINVAL},
      {"key of 0", {.key_size = 0, .inner = ring.get()}, -EINVAL},
      {"key of 0, hash", {.type = kHashOfMaps, .key_size = 0, .inner = ring.get()}, -EINVAL},
      {"value of 8", {.value_size = 8, .inner = ring.get()}, -EINVAL},
      {"value of 8, hash", {.type = kHashOfMaps, .value_size = 8, .inner = ring.get()}, -EINVAL},
      {"no preallocation, array", {.flags = 1, .inner = ring.get()}, -EINVAL},
      {"no preallocation, hash", {.type = kHashOfMaps, .flags = 1, .inner = ring.get()}, 0},
      {"BPF_F_RDONLY", {.flags = 1u << 3, .inner = ring.get()}, access},
      {"BPF_F_WRONLY, hash", {.type = kHashOfMaps, .flags = 1u << 4, .inner = ring.get()}, access},
      {"BPF_F_ZERO_SEED, hash", {.type = kHashOfMaps, .flags = 1u << 6, .inner = ring.get()}, access},
      {"BPF_F_ZERO_SEED", {.flags = 1u << 6, .inner = ring.get()}, -EINVAL},
      {"BPF_F_RDONLY_PROG, hash", {.type = kHashOfMaps, .flags = 1u << 7, .inner = ring.get()}, access},
      {"BPF_F_RDONLY_PROG", {.flags = 1u << 7, .inner = ring.get()}, -EINVAL},
      {"key of 16, hash", {.type = kHashOfMaps, .key_size = 16, .inner = ring.get()}, 0},
      {"key of 512, hash", {.type = kHashOfMaps, .key_size = 512, .inner = ring.get()}, 0},
      {"key of 513, hash", {.type = kHashOfMaps, .key_size = 513, .inner = ring.get()}, beyond_ours},
      {"enormous key, hash", {.type = kHashOfMaps, .key_size = 0x7fffffff, .inner = ring.get()}, -E2BIG},
      {"65536 elements", {.max_entries = 65536, .inner = ring.get()}, 0},
      {"65537 elements", {.max_entries = 65537, .inner = ring.get()}, beyond_ours},
      {"maps of maps as elements", {.nested = map.get()}, -EINVAL},
      {"maps of maps as elements, hash", {.type = kHashOfMaps, .nested = map.get()}, -EINVAL},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.what);
    EXPECT_EQ(GetParam()->create(row.spec, &made), row.result);
    made.reset();
  }
}

}  // namespace
}  // namespace conformance
