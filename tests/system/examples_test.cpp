// SPDX-License-Identifier: MIT
// The four examples against each other: every producer with every consumer, as a reader of the quickstart would run them.
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

}  // namespace
