// SPDX-License-Identifier: MIT
// The table of a map of maps as readers see it: layout, hash, searches, and a reader beside a writer at full speed.
#include "ringbuf/shm/outer.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/mapping.hpp"
#include "shm/create.hpp"
#include "support/fd_leak_guard.hpp"

namespace ringbuf::shm {
namespace {

using test::FdLeakGuard;

OuterSpec array_of(std::uint32_t n) { return {kArrayOfMaps, 4, n, 0, 0, 27}; }
OuterSpec hash_of(std::uint32_t n, std::uint32_t key_size = 4) { return {kHashOfMaps, key_size, n, 0, 0, 27}; }

TEST(OuterLayout, ArraysHaveBareWordsAndHashesTwiceTheRoom) {
  const OuterLayout array{kArrayOfMaps, 4, 5};
  EXPECT_EQ(array.slots(), 5u);
  EXPECT_EQ(array.stride(), 8u);
  EXPECT_EQ(array.size(), 64u + 5 * 8);
  const OuterLayout hash{kHashOfMaps, 4, 5};
  EXPECT_EQ(hash.slots(), 16u);
  EXPECT_EQ(hash.stride(), 16u);
  EXPECT_EQ((OuterLayout{kHashOfMaps, 8, 4}.stride()), 16u);
  EXPECT_EQ((OuterLayout{kHashOfMaps, 9, 4}.stride()), 24u);
  EXPECT_EQ((OuterLayout{kHashOfMaps, 512, 1}.slots()), 2u);
  EXPECT_EQ((OuterLayout{kHashOfMaps, 512, 65536}.size()), 64u + 131072ull * 520);
}

TEST(OuterLayout, TheHashIsFnv1a) {  // the vectors of its authors
  EXPECT_EQ(key_hash("", 0), 0xcbf29ce484222325ull);
  EXPECT_EQ(key_hash("a", 1), 0xaf63dc4c8601ec8cull);
  EXPECT_EQ(key_hash("foobar", 6), 0x85944171f73967e8ull);
}

TEST(OuterLayout, KeysThatAreAlikeInTheirLowBitsSpread) {
  const OuterLayout hash{kHashOfMaps, 4, 128};
  std::set<std::uint32_t> homes;
  for (std::uint32_t i = 0; i < 128; ++i) {
    const unsigned char key[4] = {static_cast<unsigned char>(i % 16 * 16), static_cast<unsigned char>(i / 16 * 16), 0, 0};
    homes.insert(hash.home(key_hash(key, 4)));
  }
  EXPECT_GT(homes.size(), 70u);  // of 256, by chance 101
}

TEST(Shards, ProcessIdsSpreadOverAnyNumberOfRings) {
  for (const std::uint32_t n : {1u, 2u, 3u, 8u, 64u})
    for (const std::uint32_t step : {1u, 2u, 8u, 64u}) {
      std::vector<unsigned> count(n);
      for (std::uint32_t i = 0; i < 1000 * n; ++i) ++count[shard_of(1000 + i * step, n)];
      for (const unsigned c : count) EXPECT_TRUE(c > 850 && c < 1150) << c << " of 1000 with " << n << " rings, step " << step;
    }
}

TEST(CreateOuter, TheFileDescribesItselfAndIsEmptyAndSealed) {
  FdLeakGuard guard;
  const auto fd = create_outer(hash_of(100, 12));
  ASSERT_TRUE(fd);
  const OuterLayout layout = hash_of(100, 12).layout();
  struct stat st;
  ASSERT_EQ(::fstat(fd->get(), &st), 0);
  EXPECT_EQ(static_cast<std::uint64_t>(st.st_size), outer_file_size(layout));
  EXPECT_EQ(outer_file_size(layout) % page_size(), 0u);
  EXPECT_EQ(st.st_mode & 0777, 0600u);
  EXPECT_EQ(::fcntl(fd->get(), F_GET_SEALS) & (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL),
            F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  ringbuf_outer_header h;
  ASSERT_EQ(::pread(fd->get(), &h, sizeof h, 0), static_cast<ssize_t>(sizeof h));
  EXPECT_TRUE(layout.matches(h));
  EXPECT_EQ(h.inner_map_type, 27u);
  for (auto spoil : std::vector<void (*)(ringbuf_outer_header&)>{[](auto& x) { x.magic++; }, [](auto& x) { x.version++; },
                                                                 [](auto& x) { x.map_type = 12; }, [](auto& x) { x.key_size++; },
                                                                 [](auto& x) { x.max_entries++; }, [](auto& x) { x.slots /= 2; },
                                                                 [](auto& x) { x.stride += 8; }}) {
    auto bad = h;
    spoil(bad);
    EXPECT_FALSE(layout.matches(bad));
  }
  const auto mapping = FileMapping::map(fd->get(), outer_file_size(layout), Mapping::Access::ReadOnly);
  ASSERT_TRUE(mapping);
  const Elements table(mapping->base(), layout);
  const char key[12] = {};
  EXPECT_EQ(table.find(key, key_hash(key, 12)).word, 0u);
  EXPECT_EQ(FileMapping::map(fd->get(), page_size() * 7, Mapping::Access::ReadOnly).error().err, EINVAL);
  const auto reader = reopen_read_only(fd->get());
  EXPECT_EQ(FileMapping::map(reader->get(), outer_file_size(layout), Mapping::Access::ReadWrite).error().err, EACCES);
}

TEST(CreateOuter, RefusesWhatTheKernelRefusesAndWhatIsTooLarge) {
  struct {
    OuterSpec spec;
    int err;
  } const cases[] = {
      {{27, 4, 4, 0, 0, 27}, EINVAL},
      {{kArrayOfMaps, 8, 4, 0, 0, 27}, EINVAL},
      {{kHashOfMaps, 0, 4, 0, 0, 27}, EINVAL},
      {array_of(0), EINVAL},
      {hash_of(0), EINVAL},
      {{kArrayOfMaps, 4, 4, 1, 0, 27}, EINVAL},
      {{kHashOfMaps, 4, 4, 2, 0, 27}, EINVAL},
      {{kArrayOfMaps, 4, 4, 4, 4000, 27}, EINVAL},
      {hash_of(4, 513), E2BIG},
      {array_of(65537), E2BIG},
      {hash_of(65537), E2BIG},
  };
  for (const auto& c : cases) {
    const auto made = create_outer(c.spec);
    ASSERT_FALSE(made);
    EXPECT_EQ(made.error().err, c.err) << made.error().op;
  }
  for (const OuterSpec& good : {array_of(65536), hash_of(1, 512), OuterSpec{kHashOfMaps, 1, 1, 5, UINT32_MAX, 27}})
    EXPECT_TRUE(create_outer(good));
}

// A table in this process' own memory.
struct Table {
  explicit Table(const OuterLayout& layout) : memory(layout.size() / 8), elements(memory.data(), layout) {}
  std::vector<std::uint64_t> memory;
  Elements elements;
  std::uint64_t find(std::uint32_t key) const { return elements.find(&key, key_hash(&key, 4)).word; }
};

TEST(Elements, ASearchPassesDeletedElementsAndEndsAtUnusedOnes) {
  const OuterLayout layout = hash_of(8).layout();
  Table table(layout);
  std::vector<std::uint32_t> keys;  // that begin at the last slot, so that searches go round the end
  for (std::uint32_t key = 0; keys.size() < 3; ++key)
    if (layout.home(key_hash(&key, 4)) == layout.slots() - 1) keys.push_back(key);
  const std::uint32_t slots[] = {layout.slots() - 1, 0, 1};
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(table.find(keys[i]), 0u);
    table.elements.set_key(slots[i], &keys[i]);
    table.elements.set(slots[i], element_word(10 + i, 1 + i));
  }
  for (int i = 0; i < 3; ++i) EXPECT_EQ(table.find(keys[i]), element_word(10 + i, 1 + i));
  table.elements.set(slots[1], element_word(0, 9));
  EXPECT_EQ(table.find(keys[1]), 0u);
  EXPECT_EQ(table.find(keys[2]), element_word(12, 3));
  table.elements.set(slots[1], 0);
  EXPECT_EQ(table.find(keys[2]), 0u);
}

TEST(Elements, AFullTableEndsASearch) {
  const OuterLayout layout = hash_of(4).layout();
  Table table(layout);
  for (std::uint32_t i = 0; i < layout.slots(); ++i) table.elements.set(i, element_word(0, 1 + i));
  EXPECT_EQ(table.find(5), 0u);
}

TEST(Elements, LongKeysDifferToTheirLastByte) {
  const OuterLayout layout = hash_of(4, 13).layout();
  Table table(layout);
  char key[13] = "abcdefghijkl";
  const std::uint32_t at = layout.home(key_hash(key, 13));
  table.elements.set_key(at, key);
  table.elements.set(at, element_word(7, 1));
  const std::uint64_t hash = key_hash(key, 13);
  EXPECT_EQ(table.elements.find(key, hash).word, element_word(7, 1));
  for (char& c : key) {
    c ^= 1;
    EXPECT_EQ(table.elements.find(key, hash).word, 0u);
    c ^= 1;
  }
}

// One slot changes hands between two keys at full speed. Whoever finds a key has its map. The keys are long and differ at their
// end only, so that often the word is old by the time that a reader has come there.
TEST(Elements, AReaderNeverTakesOneKeysMapForAnothers) {
  struct Key {
    std::uint64_t same[63];
    std::uint64_t id;
  };
  const OuterLayout layout{kHashOfMaps, sizeof(Key), 1};
  Table table(layout);
  std::vector<Key> keys;  // that share their home
  for (std::uint64_t id = 1; keys.size() < 2; ++id)
    if (const Key key{{}, id}; layout.home(key_hash(&key, sizeof key)) == 0) keys.push_back(key);
  std::uint64_t* const end_of_key = &table.memory[(sizeof(ringbuf_outer_header) + layout.stride()) / 8 - 1];
  std::atomic<bool> done{false};
  std::thread writer([&] {
    for (std::uint32_t generation = 0; !done;) {
      const Key& key = keys[generation / 2 % keys.size()];
      ElementWord::store_key(end_of_key, key.id);  // the rest of it is there
      table.elements.set(0, element_word(static_cast<std::uint32_t>(key.id), ++generation));
      for (int i = 0; i < 20; ++i) cpu_relax();
      table.elements.set(0, element_word(0, ++generation));
    }
  });
  std::uint64_t found = 0, wrong = 0;
  const std::uint64_t hashes[] = {key_hash(&keys[0], sizeof(Key)), key_hash(&keys[1], sizeof(Key))};
  for (std::size_t i = 0; i < 3'000'000 || (found < 1000 && i < 100'000'000); ++i) {
    const std::uint64_t word = table.elements.find(&keys[i % 2], hashes[i % 2]).word;
    found += word != 0;
    wrong += word != 0 && element_id(word) != keys[i % 2].id;
  }
  done = true;
  writer.join();
  EXPECT_EQ(wrong, 0u);
  EXPECT_GE(found, 1000u);
}

}  // namespace
}  // namespace ringbuf::shm
