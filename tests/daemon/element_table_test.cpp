// SPDX-License-Identifier: MIT
// The table of a hash of maps with keys that somebody has chosen so that they are in each other's way.
#include "daemon/element_table.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <cstring>
#include <ctime>
#include <optional>

#include "daemon/map.hpp"

namespace ringbuf::test {
namespace {

using daemon::ElementTable;
using daemon::Map;

constexpr std::uint32_t kKeySize = 16;
constexpr shm::OuterSpec spec_for(std::uint32_t max_entries) { return {shm::kHashOfMaps, kKeySize, max_entries, 0, 0, 27}; }

std::string key_of(std::uint64_t first, std::uint64_t second) {
  std::string key(kKeySize, '\0');
  std::memcpy(&key[0], &first, 8);
  std::memcpy(&key[8], &second, 8);
  return key;
}
std::vector<std::string> any_keys(std::uint32_t n) {
  std::vector<std::string> keys;
  for (std::uint64_t i = 0; i < n; ++i) keys.push_back(key_of(i, i * i));
  return keys;
}
// The searches for all of them begin at the table's last slots and go on at its first ones.
std::vector<std::string> keys_of_one_home(std::uint32_t n) {
  const shm::OuterLayout layout = spec_for(n).layout();
  std::vector<std::string> keys;
  for (std::uint64_t i = 0; keys.size() < n; ++i) {
    std::string key = key_of(i, 0);
    if (layout.home(shm::key_hash(key.data(), kKeySize)) >= layout.slots() - n / 64) keys.push_back(std::move(key));
  }
  return keys;
}
// std::hash of libstdc++, which is no secret either (MurmurHash64A), is the same for all. Elsewhere they are just keys.
std::vector<std::string> keys_of_one_hash(std::uint32_t n) {
  constexpr std::uint64_t kMul = 0xc6a4a7935bd1e995, kInverse = 0x5f7a0ea7e59b19bd;
  static_assert(kMul * kInverse == 1);
  const auto shift = [](std::uint64_t x) { return x ^ (x >> 47); };
  std::vector<std::string> keys;
  for (std::uint64_t i = 0; i < n; ++i) {
    const std::uint64_t hash = (0xc70f6907 ^ (kKeySize * kMul) ^ (shift(i * kMul) * kMul)) * kMul;
    keys.push_back(key_of(i, shift(hash * kInverse) * kInverse));
  }
  return keys;
}

class ElementTableTest : public ::testing::Test {
  boost::asio::io_context io_;
  daemon::Lanes lanes_{io_};
  daemon::ClientLog log_;
  daemon::Waits waits_{io_, lanes_, log_};

 protected:
  ElementTableTest() {
    const shm::RingSpec ring{4096, 27, 0, 0, 0};
    auto memory = shm::create_ring(ring);
    if (!memory) std::abort();
    inner = std::make_shared<Map>(waits_, 7, daemon::MapSpec{ring, "inner", 0600, 0, 0}, std::move(*memory), daemon::Charge(),
                                  daemon::Charge());
  }
  std::unique_ptr<ElementTable> table_of(const std::vector<std::string>& keys) const {
    auto table = ElementTable::create(spec_for(static_cast<std::uint32_t>(keys.size())));
    if (!table) std::abort();
    for (const auto& key : keys) update(**table, key);
    return std::move(*table);
  }
  void update(ElementTable& table, const std::string& key) const {
    EXPECT_TRUE(table.may_update(key, 0));
    table.update(key, inner, RINGBUF_RIGHT_PRODUCE);
  }
  std::unique_ptr<ElementTable> resumed(const ElementTable& table) const {
    auto next = ElementTable::resume(UniqueFd(::fcntl(table.fd(), F_DUPFD_CLOEXEC, 0)), spec_for(table.layout().max_entries),
                                     [&](std::uint32_t id) { return id == inner->id ? inner : nullptr; });
    if (!next) std::abort();
    return std::move(*next);
  }
  // What a client sees.
  static shm::Elements words_of(const ElementTable& table, FileMapping& memory) {
    auto mapped = FileMapping::map(table.fd(), shm::outer_file_size(table.layout()), Mapping::Access::ReadOnly);
    if (!mapped) std::abort();
    memory = std::move(*mapped);
    return {memory.base(), table.layout()};
  }

  std::shared_ptr<Map> inner;
};

TEST_F(ElementTableTest, KeysOfOneHomeAreRestored) {
  const auto keys = keys_of_one_home(4096);
  FileMapping memory;
  std::unique_ptr<ElementTable> next;
  {
    const auto table = table_of(keys);
    for (std::size_t i = 0; i < keys.size(); i += 3) ASSERT_TRUE(table->erase(keys[i]));
    next = resumed(*table);
  }
  const auto words = words_of(*next, memory);
  const auto is_there = [&](const std::string& key) {
    const daemon::Element* element = next->find(key);
    EXPECT_EQ(words.find(key.data(), shm::key_hash(key.data(), kKeySize)).word, element ? element->word : 0);
    return element && element->inner.map() == inner && element->rights == RINGBUF_RIGHT_PRODUCE;
  };
  for (std::size_t i = 0; i < keys.size(); ++i) ASSERT_EQ(is_there(keys[i]), i % 3 != 0) << i;
  EXPECT_EQ(next->in_use(), 2730u);
  EXPECT_EQ(inner->references, 2730u);
  for (std::size_t i = 0; i < keys.size(); i += 3) update(*next, keys[i]);
  for (const auto& key : keys) ASSERT_TRUE(is_there(key));
  // Nothing is left of a deleted one when no search passes it any more.
  for (const auto& key : keys) ASSERT_TRUE(next->erase(key));
  for (std::uint32_t slot = 0; slot < words.layout().slots(); ++slot) ASSERT_EQ(words.at(slot), 0u) << slot;
  EXPECT_EQ(inner->references, 0u);
}

// As much work as any others: followed one by one, their searches take ten times as long and more.
TEST_F(ElementTableTest, ChosenKeysDoNotMakeARestartSlow) {
  constexpr std::uint32_t kMany = 16384;
  const auto work = [&](const std::vector<std::string>& keys) {
    const auto table = table_of(keys);
    const auto now = [] {
      timespec t;
      ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
      return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_nsec) / 1e6;
    };
    double least = 1e9;
    for (int i = 0; i < 3; ++i) {
      const double begin = now();
      const auto next = resumed(*table);
      least = std::min(least, now() - begin);
      EXPECT_EQ(next->in_use(), kMany);
    }
    return least;
  };
  const double any = work(any_keys(kMany)), home = work(keys_of_one_home(kMany)), hash = work(keys_of_one_hash(kMany));
  std::printf("%u elements: %.1f ms, of one home %.1f ms, of one hash %.1f ms\n", kMany, any, home, hash);
  EXPECT_LT(home, 5 * any);
  EXPECT_LT(hash, 5 * any);
}

}  // namespace
}  // namespace ringbuf::test
