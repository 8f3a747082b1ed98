// SPDX-License-Identifier: MIT
// The examples against each other: every producer with every consumer, as a reader of the quickstart would run them; and many
// producers of several rings.
#include <algorithm>
#include <map>

#include "daemon_process.hpp"

using namespace ringbuf::test;

namespace {

struct Pair {
  const char* producer;
  const char* consumer;
};

void PrintTo(const Pair& pair, std::ostream* out) { *out << pair.producer << " and " << pair.consumer; }

class Examples : public ::testing::TestWithParam<Pair> {
 protected:
  void SetUp() override { ::setenv("RINGBUFD_SOCKET", daemon_.socket().c_str(), 1); }
  void TearDown() override { ::unsetenv("RINGBUFD_SOCKET"); }

  std::string path(const char* name) const { return std::string(EXAMPLES_DIRECTORY "/example_") + name; }
  // producer_cpp discards every tenth event.
  static bool sent(const char* producer, unsigned number) {
    return std::strcmp(producer, "producer_cpp") != 0 || number % 10 != 9;
  }

  void run(unsigned count, bool together) {
    unsigned expected = 0;
    for (unsigned i = 0; i < count; ++i) expected += sent(GetParam().producer, i);
    Program producer({path(GetParam().producer), "/example", std::to_string(count)});
    if (!together) {
      EXPECT_EQ(producer.end(), 0);
    }
    Program consumer({path(GetParam().consumer), "/example", std::to_string(expected)});
    for (unsigned i = 0; i < count; ++i) {
      if (!sent(GetParam().producer, i)) continue;
      const std::string line = consumer.line();
      ASSERT_EQ(line.rfind(std::to_string(i) + " hello from ", 0), 0u) << "event " << i << ": '" << line << "'";
    }
    EXPECT_EQ(consumer.rest(), "");
    EXPECT_EQ(consumer.end(), 0);
    if (together) {
      EXPECT_EQ(producer.end(), 0);
    }
  }
  Daemon daemon_;
};

TEST_P(Examples, TheProducerCreatesTheRingAndTheConsumerFindsIt) { run(200, false); }

TEST_P(Examples, BothWorkAtOnceAndMoreThanTheRingHolds) {
  const auto session = daemon_.connect();
  const auto map = create_map(session, "example", 65536);
  ASSERT_EQ(ringbuf_map_pin(map.get(), "/example"), 0);
  run(5000, true);
}

INSTANTIATE_TEST_SUITE_P(InCAndCpp, Examples,
                         ::testing::Values(Pair{"producer_c", "consumer_c"}, Pair{"producer_c", "consumer_cpp"},
                                           Pair{"producer_cpp", "consumer_c"}, Pair{"producer_cpp", "consumer_cpp"}),
                         [](const auto& p) { return std::string(p.param.producer) + "_" + p.param.consumer; });

class ShardedExamples : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { ::setenv("RINGBUFD_SOCKET", daemon_.socket().c_str(), 1); }
  void TearDown() override { ::unsetenv("RINGBUFD_SOCKET"); }
  Daemon daemon_;
};

TEST_P(ShardedExamples, EveryEventArrivesOnceAndInTheOrderThatTheTopologyKeeps) {
  constexpr unsigned kProducers = 4, kEvents = 3000;  // more than the rings hold
  const bool by_tgid = GetParam() == std::string("tgid");
  Program consumer({EXAMPLES_DIRECTORY "/example_sharded_consumer", "/shards", "3", std::to_string(kProducers * kEvents)});
  ASSERT_EQ(consumer.line(), "ready");
  std::vector<std::unique_ptr<Program>> producers;
  for (unsigned i = 0; i < kProducers; ++i)
    producers.push_back(std::make_unique<Program>(std::vector<std::string>{EXAMPLES_DIRECTORY "/example_sharded_producer",
                                                                           "/shards", GetParam(), std::to_string(kEvents)}));
  std::map<int, std::map<unsigned, std::vector<unsigned>>> seen;  // by process and ring
  for (unsigned i = 0; i < kProducers * kEvents; ++i) {
    unsigned ring, number;
    int pid;
    const std::string line = consumer.line();
    ASSERT_EQ(std::sscanf(line.c_str(), "%u %d %u from one of many", &ring, &pid, &number), 3) << line;
    seen[pid][ring].push_back(number);
  }
  EXPECT_EQ(consumer.end(), 0);
  EXPECT_EQ(seen.size(), kProducers);
  for (const auto& [pid, rings] : seen) {
    std::vector<bool> had(kEvents);
    for (const auto& [ring, numbers] : rings) {
      EXPECT_TRUE(std::is_sorted(numbers.begin(), numbers.end())) << "within a ring";
      for (const unsigned n : numbers) had.at(n) = true;
    }
    EXPECT_EQ(std::count(had.begin(), had.end(), true), kEvents);
    EXPECT_TRUE(!by_tgid || rings.size() == 1) << "a process keeps to one ring";
  }
  for (auto& p : producers) EXPECT_EQ(p->end(), 0);
}

INSTANTIATE_TEST_SUITE_P(By, ShardedExamples, ::testing::Values("cpu", "tgid"),
                         [](const auto& p) { return std::string(p.param); });

}  // namespace
