// SPDX-License-Identifier: MIT
// The real ringbufd: start, signals, locks, and what it does when nobody wants anything (nothing).
#include <sys/resource.h>
#include <sys/wait.h>

#include <fstream>
#include <sstream>

#include "harness.hpp"

namespace ringbuf::test {
namespace {

class Ringbufd {
 public:
  explicit Ringbufd(const std::string& socket, std::vector<std::string> more = {}) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) < 0) std::abort();
    log_.reset(ends[0]);
    UniqueFd writer(ends[1]);
    child_ = std::make_unique<ChildProcess>([&] {
      ::dup2(writer.get(), 2);
      std::vector<std::string> args{RINGBUFD_PATH, "--socket", socket};
      args.insert(args.end(), more.begin(), more.end());
      std::vector<char*> argv;
      for (auto& a : args) argv.push_back(a.data());
      argv.push_back(nullptr);
      ::execv(argv[0], argv.data());
      return 127;
    });
  }
  pid_t pid() const { return child_->pid(); }
  // Reads its log until a line has this in it; false: it has ended first.
  bool says(const std::string& what) {
    char buffer[512];
    while (text_.find(what) == text_.npos) {
      const ssize_t n = ::read(log_.get(), buffer, sizeof buffer);
      if (n <= 0) return false;
      text_.append(buffer, static_cast<std::size_t>(n));
    }
    return true;
  }
  void kill(int signal) { child_->kill(signal); }
  int exit_code() { return child_->exit_code(); }
  const std::string& text() const { return text_; }

  // How often it slept, and the CPU time it used.
  std::string activity() const {
    std::ifstream status(fmt::format("/proc/{}/status", pid()));
    std::string out;
    for (std::string line; std::getline(status, line);)
      if (line.find("ctxt_switches") != line.npos) out += line + "\n";
    std::ifstream stat(fmt::format("/proc/{}/stat", pid()));
    std::string line;
    std::getline(stat, line);
    std::istringstream fields(line.substr(line.rfind(')') + 2));
    for (int i = 3; i <= 15 && fields >> line; ++i)
      if (i >= 14) out += line + " ";  // utime, stime
    return out;
  }
  char state() const {
    std::ifstream stat(fmt::format("/proc/{}/stat", pid()));
    std::string line;
    std::getline(stat, line);
    return line[line.rfind(')') + 2];
  }

 private:
  UniqueFd log_;
  std::unique_ptr<ChildProcess> child_;
  std::string text_;
};

class ProcessTest : public ::testing::Test {
 protected:
  FdLeakGuard leaks;
  TempDir dir;
  std::string socket = dir.path("s");
};

TEST_F(ProcessTest, StopsCleanlyOnASignal) {
  for (const int signal : {SIGTERM, SIGINT}) {
    Ringbufd d(socket);
    ASSERT_TRUE(d.says("ready, socket " + socket)) << d.text();
    Client client(socket);
    auto made = client.create();
    ASSERT_EQ(client.attach(made.fds.at(0).get(), RINGBUF_CONSUMER).err(), 0);
    d.kill(signal);
    EXPECT_TRUE(client.receive().closed);
    EXPECT_EQ(d.exit_code(), 0);
    EXPECT_NE(::access(socket.c_str(), F_OK), 0) << "the socket is left";
  }
}

TEST_F(ProcessTest, ClosedStandardDescriptorsAreNotReused) {
  ChildProcess daemon([&] {
    for (int fd = 0; fd <= 2; ++fd) ::close(fd);
    ::execl(RINGBUFD_PATH, RINGBUFD_PATH, "--socket", socket.c_str(), static_cast<char*>(nullptr));
    return 127;
  });
  eventually([&] { return connect_to(socket).has_value() || !daemon.running(); });
  EXPECT_EQ(Client(socket).hello().err(), 0);
  for (int fd = 0; fd <= 2; ++fd)
    EXPECT_EQ(std::filesystem::read_symlink(fmt::format("/proc/{}/fd/{}", daemon.pid(), fd)), "/dev/null") << fd;
  daemon.kill(SIGTERM);
  EXPECT_EQ(daemon.exit_code(), 0);
}

TEST_F(ProcessTest, ASecondOneIsRefused) {
  Ringbufd first(socket);
  ASSERT_TRUE(first.says("ready"));
  Ringbufd second(socket);
  EXPECT_TRUE(second.says("another ringbufd serves " + socket)) << second.text();
  EXPECT_EQ(second.exit_code(), 1);
  EXPECT_EQ(Client(socket).hello().err(), 0);
}

TEST_F(ProcessTest, AStaleSocketIsReplaced) {
  {
    Ringbufd d(socket);
    ASSERT_TRUE(d.says("ready"));
    d.kill(SIGKILL);
    EXPECT_EQ(d.exit_code(), -1);
  }
  ASSERT_EQ(::access(socket.c_str(), F_OK), 0);
  Ringbufd d(socket);
  ASSERT_TRUE(d.says("ready")) << d.text();
  EXPECT_EQ(Client(socket).hello().err(), 0);
}

TEST_F(ProcessTest, ASuccessorsSocketIsNotRemoved) {
  Ringbufd first(socket);
  ASSERT_TRUE(first.says("ready"));
  std::filesystem::remove(socket);
  std::filesystem::remove(socket + ".lock");
  Ringbufd second(socket);
  ASSERT_TRUE(second.says("ready")) << second.text();
  first.kill(SIGTERM);
  EXPECT_EQ(first.exit_code(), 0);
  EXPECT_TRUE(connect_to(socket).has_value());
}

TEST_F(ProcessTest, OtherFilesAreNotReplaced) {
  std::ofstream(socket) << "precious";
  Ringbufd d(socket, {"--max-tokens", "99999999999"});  // more than any RLIMIT_NOFILE
  EXPECT_TRUE(d.says("is not a socket")) << d.text();
  EXPECT_EQ(d.exit_code(), 1);
  EXPECT_EQ(d.text().find("RLIMIT_NOFILE"), std::string::npos) << "no advice for a daemon that does not start: " << d.text();
  EXPECT_EQ(std::filesystem::file_size(socket), 8u);
  EXPECT_FALSE(std::filesystem::exists(socket + ".lock")) << "it leaves nothing";
}

TEST_F(ProcessTest, BadPathsAreExplained) {
  Ringbufd d(dir.path("no/such/dir/s"));
  EXPECT_TRUE(d.says("No such file or directory")) << d.text();
  EXPECT_EQ(d.exit_code(), 1);
}

TEST_F(ProcessTest, OptionsReachIt) {
  Ringbufd d(socket, {"--max-maps", "1", "--socket-mode", "0600"});
  ASSERT_TRUE(d.says("ready"));
  struct stat st;
  ASSERT_EQ(::stat(socket.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0600u);
  Client client(socket);
  const auto made = client.create();
  EXPECT_EQ(client.create().err(), ENOSPC);
  Ringbufd bad(dir.path("t"), {"--max-maps", "x"});
  EXPECT_TRUE(bad.says("--max-maps must be"));
  EXPECT_EQ(bad.exit_code(), 2);
}

TEST_F(ProcessTest, MapsAreLogged) {
  Ringbufd d(socket);
  ASSERT_TRUE(d.says("ready"));
  Client client(socket);
  auto made = client.create();
  client.pin("/events", made.fds.at(0).get());
  made.fds.clear();
  client.unpin("/events");
  for (const char* line : {"map 1 'events' created: 4096 bytes", "map 1 'events' pinned at /events", "unpinned from /events",
                           "map 1 'events' freed"})
    EXPECT_TRUE(d.says(line)) << line;
}

// A protocol error is logged with who it was; the daemon lives.
TEST_F(ProcessTest, OffendersAreNamed) {
  Ringbufd d(socket);
  ASSERT_TRUE(d.says("ready"));
  Client bad(socket);
  const std::byte one[1]{};
  ASSERT_TRUE(bad.send(one));
  EXPECT_TRUE(d.says(fmt::format("pid {}, uid {} broke the protocol", ::getpid(), ::geteuid()))) << d.text();
  EXPECT_EQ(Client(socket).hello().err(), 0);
}

TEST_F(ProcessTest, AShortageOfDescriptorsAndItsEndAreLogged) {
  Ringbufd d(socket);
  ASSERT_TRUE(d.says("ready"));
  Client client(socket);
  rlimit before{};
  ASSERT_EQ(::prlimit(d.pid(), RLIMIT_NOFILE, nullptr, &before), 0);
  const rlimit none{0, before.rlim_max};
  ASSERT_EQ(::prlimit(d.pid(), RLIMIT_NOFILE, &none, nullptr), 0);
  Client refused(socket, Client::Silent{});
  EXPECT_TRUE(d.says("cannot accept a connection: Too many open files"));
  ASSERT_EQ(::prlimit(d.pid(), RLIMIT_NOFILE, &before, nullptr), 0);
  EXPECT_EQ(Client(socket).hello().err(), 0);
  EXPECT_TRUE(d.says("connections are accepted again")) << d.text();
}

// With sessions, tokens, attachments, a detached peer and half-closed tokens: it sleeps and is not woken.
TEST_F(ProcessTest, AnIdleDaemonNeverWakesUp) {
  Ringbufd d(socket);
  ASSERT_TRUE(d.says("ready"));
  Client client(socket), silent(socket, Client::Silent{});
  const auto made = client.create();
  const int token = made.fds.at(0).get();
  ::shutdown(token, SHUT_WR);
  const auto c = client.attach(token, RINGBUF_CONSUMER), p = client.attach(token, RINGBUF_PRODUCER);
  { auto gone = client.create(); }
  EXPECT_EQ(client.next_id(0).err(), 0);
  // What it still had to do is done when it sleeps.
  std::string before;
  const UniqueFd never(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  pollfd nothing{-1, 0, 0};
  do {
    before = d.activity();
    ::poll(&nothing, 1, 100);  // observes for a while; if it settles later, observe again
  } while (d.state() != 'S' || d.activity() != before);
  const std::uint64_t one = 1;
  ASSERT_EQ(::write(p.fds.at(2).get(), &one, sizeof one), static_cast<ssize_t>(sizeof one));  // the data path is not its business
  ::poll(&nothing, 1, 1500);
  EXPECT_EQ(d.activity(), before);
  EXPECT_EQ(client.next_id(0).err(), 0);
}

}  // namespace
}  // namespace ringbuf::test
