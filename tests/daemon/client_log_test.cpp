// SPDX-License-Identifier: MIT
// However many lines a client causes, few are written, and what is left out is counted.
#include "daemon/client_log.hpp"

#include <spdlog/sinks/ostream_sink.h>

#include <sstream>

#include "harness.hpp"

namespace ringbuf::test {
namespace {

using daemon::ClientLog;
using namespace std::chrono_literals;

class ClientLogTest : public ::testing::Test {
 protected:
  ClientLogTest() {
    auto logger = std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::ostream_sink_mt>(text_));
    logger->set_pattern("%v");
    spdlog::set_default_logger(logger);
  }
  ~ClientLogTest() override { spdlog::set_default_logger(before_); }

  // What was written since the last call.
  std::vector<std::string> lines() {
    std::istringstream in(std::exchange(text_, {}).str());
    std::vector<std::string> all;
    for (std::string line; std::getline(in, line);) all.push_back(line);
    return all;
  }

 private:
  std::shared_ptr<spdlog::logger> before_ = spdlog::default_logger();
  std::ostringstream text_;
};

TEST_F(ClientLogTest, AUidHasABudgetThatIsRefilled) {
  ClientLog log;
  auto now = ClientLog::Clock::time_point(1h);
  const auto write = [&](uid_t uid, int n) {
    for (int i = 0; i < n; ++i) log.write(spdlog::level::warn, uid, "line", now);
  };
  write(0, 1000);
  EXPECT_EQ(lines().size(), 100u) << "root too";
  write(1, 1);
  EXPECT_EQ(lines().size(), 1u) << "another uid has a budget of its own";
  now += 99ms;
  write(0, 1);
  EXPECT_TRUE(lines().empty());
  now += 1ms;
  write(0, 2);
  EXPECT_EQ(lines(), (std::vector<std::string>{"(901 lines about uid 0 were left out)", "line"}));
  now += 10s;
  write(1, 1);
  EXPECT_EQ(lines(), (std::vector<std::string>{"(1 lines about uid 0 were left out)", "line"})) << "by whoever comes next";
  write(0, 101);
  EXPECT_EQ(lines().size(), 100u) << "full again";
}

TEST_F(ClientLogTest, LinesBelowTheLevelCostNothing) {
  spdlog::set_level(spdlog::level::warn);
  ClientLog log;
  const auto now = ClientLog::Clock::time_point(1h);
  for (int i = 0; i < 1000; ++i) log.write(spdlog::level::info, 0, "line", now);
  log.write(spdlog::level::warn, 0, "line", now);
  EXPECT_EQ(lines().size(), 1u);
}

TEST_F(ClientLogTest, AFloodOfBrokenMessagesIsAFewLines) {
  const auto begin = ClientLog::Clock::now();
  {
    InProcessDaemon daemon;
    spdlog::set_level(spdlog::level::info);
    for (int i = 0; i < 1000; ++i) {
      Client bad(daemon.socket(), Client::Silent{});
      ASSERT_TRUE(bad.send(std::vector<std::byte>(1)));
      EXPECT_EQ(bad.receive().err(), EPROTO);
    }
  }
  const auto refilled = (ClientLog::Clock::now() - begin) / ClientLog::kPerLine;
  const auto all = lines();
  const auto written = std::count_if(all.begin(), all.end(), [](auto& l) { return l.find("broke the protocol") != l.npos; });
  EXPECT_GE(written, 100);
  EXPECT_LE(written, std::min<long>(1000, 100 + refilled));
}

}  // namespace
}  // namespace ringbuf::test
