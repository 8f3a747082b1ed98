// SPDX-License-Identifier: MIT
// Options: which source wins, and what a mistake is told.
#include "daemon/options.hpp"

#include <fstream>

#include "harness.hpp"

namespace ringbuf::test {
namespace {

tl::expected<daemon::Options, daemon::Leave> parse(std::vector<const char*> args) {
  args.insert(args.begin(), "ringbufd");
  return daemon::parse_options(static_cast<int>(args.size()), args.data());
}

class OptionsTest : public ::testing::Test {
 protected:
  OptionsTest() { ::unsetenv("RINGBUFD_SOCKET"); }
  ~OptionsTest() override { ::unsetenv("RINGBUFD_SOCKET"); }
  std::string file(const std::string& text) {
    const auto path = dir.path("ringbufd.toml");
    std::ofstream(path) << text;
    return path;
  }
  TempDir dir;
};

TEST_F(OptionsTest, CommandLineBeatsEnvironmentBeatsFile) {
  const auto path =
      file("socket = '/file'\nsocket_mode = '0600'\nlog_level = 'debug'\n[limits]\nmaps = 7\nbytes = '3M'\npins_per_uid = 2\n");
  auto o = parse({"--config", path.c_str(), "--max-maps", "9"});
  ASSERT_TRUE(o.has_value()) << o.error().text;
  EXPECT_EQ(o->server.socket, "/file");
  EXPECT_EQ(o->server.socket_mode, 0600u);
  EXPECT_EQ(o->log_level, "debug");
  EXPECT_EQ(o->server.limits[0].in_all, 9u);
  EXPECT_EQ(o->server.limits[0].per_uid, 1024u);
  EXPECT_EQ(o->server.limits[1].in_all, 3u << 20);
  EXPECT_EQ(o->server.limits[5].per_uid, 2u);
  ::setenv("RINGBUFD_SOCKET", "/env", 1);
  EXPECT_EQ(parse({"--config", path.c_str()})->server.socket, "/env");
  EXPECT_EQ(parse({"--config", path.c_str(), "--socket", "/line"})->server.socket, "/line");
}

TEST_F(OptionsTest, Values) {
  const auto o = parse(
      {"--socket", "/s", "--max-bytes", "2g", "--max-bytes-per-uid=512K", "--max-sessions-per-uid", "0", "--socket-mode", "660"});
  ASSERT_TRUE(o.has_value()) << o.error().text;
  EXPECT_EQ(o->server.limits[1].in_all, 2ull << 30);
  EXPECT_EQ(o->server.limits[1].per_uid, 512u << 10);
  EXPECT_EQ(o->server.limits[3].per_uid, 0u);
  EXPECT_EQ(o->server.socket_mode, 0660u);
  EXPECT_EQ(parse({"--socket", "/s", "--config", file("socket_mode = 0o640\n").c_str()})->server.socket_mode, 0640u);
  const auto bytes = parse({"--socket", "/s", "--config", file("[limits]\nbytes = 4096\nbytes_per_uid = '4K'\n").c_str()});
  ASSERT_TRUE(bytes.has_value()) << bytes.error().text;
  EXPECT_EQ(bytes->server.limits[1].in_all, 4096u);
  EXPECT_EQ(bytes->server.limits[1].per_uid, 4096u);
}

TEST_F(OptionsTest, MistakesAreNamed) {
  struct Case {
    std::vector<const char*> args;
    const char* toml;
    const char* named;
  } const cases[] = {
      {{"--bogus"}, nullptr, "--bogus"},
      {{"extra"}, nullptr, "extra"},
      {{"--max-maps", "many"}, nullptr, "--max-maps must be a whole number, not 'many'"},
      {{"--max-maps", "-1"}, nullptr, "--max-maps"},
      {{"--max-maps", "4K"}, nullptr, "--max-maps"},
      {{"--max-bytes", "99999999999999G"}, nullptr, "--max-bytes"},
      {{"--socket-mode", "0999"}, nullptr, "--socket-mode"},
      {{"--socket-mode", "1777"}, nullptr, "--socket-mode"},
      {{"--log-level", "loud"}, nullptr, "--log-level"},
      {{"--supervise=no"}, nullptr, "supervise"},
      {{}, "supervise = true", "unknown key 'supervise'"},
      {{}, "sokcet = '/x'", "unknown key 'sokcet'"},
      {{}, "[limits]\nmap = 1", "unknown key 'limits.map'"},
      {{}, "maps = 1", "unknown key 'maps'"},
      {{}, "[other]\nmaps = 1", "'other'"},
      {{}, "limits = 3", "'limits'"},
      {{}, "[limits]\nmaps = -1", "'limits.maps'"},
      {{}, "[limits]\nmaps = 1.5", "'limits.maps'"},
      {{}, "[limits]\nmaps = true", "'limits.maps'"},
      {{}, "[limits]\nmaps = '4'", "key 'limits.maps' must be a whole number"},
      {{}, "socket = 1", "key 'socket' must be a path"},
      {{}, "log_level = 1", "key 'log_level' must be trace, debug"},
      {{"--config", "/tmp"}, nullptr, "/tmp is not a regular file"},
      {{"--config", "/dev/null"}, nullptr, "/dev/null is not a regular file"},
      {{}, "socket = '3'\nsocket = '4'", "line 2"},
      {{}, "socket_mode = 'rw'", "'socket_mode'"},
      {{"--config", "/nonexistent/file"}, nullptr, "/nonexistent/file"},
  };
  for (const auto& c : cases) {
    auto args = c.args;
    const auto path = c.toml ? file(c.toml) : "";
    if (c.toml) args.insert(args.end(), {"--config", path.c_str()});
    const auto o = parse(args);
    ASSERT_FALSE(o.has_value()) << c.named;
    EXPECT_EQ(o.error().status, 2);
    EXPECT_NE(o.error().text.find(c.named), std::string::npos) << o.error().text << " should name " << c.named;
    EXPECT_EQ(o.error().text.find('\n'), std::string::npos) << "one sentence: " << o.error().text;
  }
}

TEST_F(OptionsTest, HelpAndVersion) {
  const auto help = parse({"--help"});
  ASSERT_FALSE(help.has_value());
  EXPECT_EQ(help.error().status, 0);
  for (const char* word : {"--supervise", "SIGHUP", "--socket PATH", "--max-bytes-per-uid", "[limits]", "SIGTERM", "Exit status"})
    EXPECT_NE(help.error().text.find(word), std::string::npos) << word;
  const auto version = parse({"--version"});
  EXPECT_EQ(version.error().status, 0);
  EXPECT_EQ(version.error().text.find("ringbufd "), 0u);
}

}  // namespace
}  // namespace ringbuf::test
