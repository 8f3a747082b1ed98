// SPDX-License-Identifier: MIT
// scale [CLIENTS]: what so many clients and twice as many maps cost a ringbufd that may have 20 000 descriptors: memory,
// descriptors, time per map and per attach. Without an argument: 1, 100 and 1000. docs/benchmarks.md has figures. A client is a
// session: at most 20 processes hold 50 each, and work at the same time. Client i creates and consumes maps 2i and 2i + 1 (rings
// of 4 KiB) and produces to those of the next one.
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <new>
#include <string>
#include <vector>

#include "ringbuf/ringbuf.hpp"
#include "support/eventually.hpp"

namespace {

constexpr unsigned kMostClients = 1000, kClientsAProcess = 50, kDescriptors = 20'000;

const pid_t main_pid = ::getpid();

pid_t fork_child() {
  const pid_t pid = ::fork();
  if (pid == 0) ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  return pid;
}

void require(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "scale: %s: %s\n", what, ringbuf_last_error());
  if (::getpid() != main_pid) ::kill(main_pid, SIGTERM);  // it waits for us
  std::_Exit(1);
}
void must(int r, const char* what) { require(r >= 0, what); }

// What the processes share.
struct Board {
  pthread_barrier_t barrier;
  std::uint32_t ids[2 * kMostClients];
  double create_us[2 * kMostClients];
  double attach_us[4 * kMostClients];

  void meet() { pthread_barrier_wait(&barrier); }
};

template <class F>
double timed_us(F&& f) {
  const auto begin = ringbuf::shm::now_ns();
  f();
  return static_cast<double>(ringbuf::shm::now_ns() - begin) * 1e-3;
}

struct Client {
  ringbuf_session* session = nullptr;
  ringbuf_map* made[2] = {};
};

// Clients first, first + 1, ... of `clients`. Frees nothing: the process ends.
void run_clients(Board& board, const std::string& socket, unsigned clients, unsigned first, unsigned count) {
  std::vector<Client> mine(count);
  for (Client& c : mine) must(ringbuf_connect(socket.c_str(), &c.session), "connect");
  board.meet();
  for (unsigned i = 0; i < count; ++i)
    for (unsigned k = 0; k < 2; ++k) {
      const unsigned n = 2 * (first + i) + k;
      board.create_us[n] =
          timed_us([&] { must(ringbuf_map_create(mine[i].session, "scale", 4096, nullptr, &mine[i].made[k]), "create a map"); });
      ringbuf_map_info info;
      must(ringbuf_map_get_info(mine[i].made[k], &info, sizeof info), "ask for a map");
      board.ids[n] = info.id;
    }
  board.meet();
  for (unsigned i = 0; i < count; ++i)
    for (unsigned k = 0; k < 2; ++k) {
      const unsigned n = 2 * (first + i) + k;
      ringbuf_consumer* consumer = nullptr;
      ringbuf_producer* producer = nullptr;
      ringbuf_map* other = nullptr;
      board.attach_us[2 * n] =
          timed_us([&] { must(ringbuf_consumer_attach(mine[i].made[k], nullptr, nullptr, &consumer), "attach a consumer"); });
      must(ringbuf_map_open_id(mine[i].session, board.ids[(n + 2) % (2 * clients)], 0, &other), "open a map");
      board.attach_us[2 * n + 1] = timed_us([&] { must(ringbuf_producer_attach(other, &producer), "attach a producer"); });
    }
  ringbuf_map_info info;  // when this is answered the daemon has closed its copies of what it sent before
  must(ringbuf_map_get_info(mine[0].made[0], &info, sizeof info), "ask for a map");
  board.meet();  // all is there: it is looked at
  board.meet();
}

struct Daemon {
  pid_t pid;
  std::string socket;

  explicit Daemon(const std::string& directory) : socket(directory + "/s") {
    int log[2];
    require(::pipe2(log, O_CLOEXEC) == 0, "pipe");
    pid = fork_child();
    if (pid == 0) {
      const rlimit limit{kDescriptors, kDescriptors};
      ::setrlimit(RLIMIT_NOFILE, &limit);
      ::dup2(log[1], STDERR_FILENO);
      // Limits that fit: with them the daemon does not raise RLIMIT_NOFILE.
      ::execl(RINGBUFD_PATH, "ringbufd", "--socket", socket.c_str(), "--max-maps", "2000", "--max-maps-per-uid", "2000",
              "--max-tokens", "4200", "--max-tokens-per-uid", "4200", "--max-sessions", "1100", "--max-sessions-per-uid", "1100",
              "--max-attachments", "4000", "--max-attachments-per-uid", "4000", static_cast<char*>(nullptr));
      ::_exit(127);
    }
    ::close(log[1]);
    std::string text;
    char c;
    while (text.find("ready") == text.npos && ::read(log[0], &c, 1) == 1) text += c;
    require(text.find("ready") != text.npos, "ringbufd did not start");
    if (fork_child() == 0) {  // reads the log, so that it cannot block the daemon
      char rest[4096];
      while (::read(log[0], rest, sizeof rest) > 0) continue;
      ::_exit(0);
    }
    ::close(log[0]);
  }
  ~Daemon() {
    ::kill(pid, SIGTERM);
    while (::wait(nullptr) > 0) continue;
  }
  std::string proc(const char* file) const { return "/proc/" + std::to_string(pid) + "/" + file; }
  unsigned long status_kib(const std::string& key) const {
    std::ifstream status(proc("status"));
    for (std::string line; std::getline(status, line);)
      if (line.starts_with(key + ":")) return std::stoul(line.substr(key.size() + 1));
    return 0;
  }
  // How many, and the memory behind those that are files of rings.
  std::pair<unsigned, unsigned long> descriptors() const {
    ringbuf::test::wait_until_at_rest(pid);  // it closes its copies after it has answered
    unsigned n = 0;
    unsigned long shared_kib = 0;
    for (const auto& fd : std::filesystem::directory_iterator(proc("fd"))) {
      ++n;
      struct stat st;
      if (std::filesystem::read_symlink(fd.path()).string().find("memfd:ringbuf") != std::string::npos &&
          ::stat(fd.path().c_str(), &st) == 0)
        shared_kib += static_cast<unsigned long>(st.st_blocks) / 2;
    }
    return {n, shared_kib};
  }
};

double at(std::vector<double>& v, double share) {
  std::sort(v.begin(), v.end());
  return v[std::min(v.size() - 1, static_cast<std::size_t>(share * static_cast<double>(v.size())))];
}

void measure(unsigned clients) {
  char name[] = "/tmp/ringbuf-scale-XXXXXX";
  require(::mkdtemp(name) != nullptr, "mkdtemp");
  {
    Daemon daemon(name);
    const auto before = daemon.descriptors().first;
    const auto rss_before = daemon.status_kib("VmRSS");
    void* memory = ::mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    require(memory != MAP_FAILED, "mmap");
    auto& board = *new (memory) Board{};
    const unsigned processes = (clients + kClientsAProcess - 1) / kClientsAProcess;
    pthread_barrierattr_t shared;
    pthread_barrierattr_init(&shared);
    pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(&board.barrier, &shared, processes + 1);
    for (unsigned p = 0; p < processes; ++p)
      if (fork_child() == 0) {
        const unsigned first = p * kClientsAProcess;
        run_clients(board, daemon.socket, clients, first, std::min(kClientsAProcess, clients - first));
        std::_Exit(0);
      }
    for (int i = 0; i < 3; ++i) board.meet();
    const auto [descriptors, shared_kib] = daemon.descriptors();
    const auto rss = daemon.status_kib("VmRSS");
    board.meet();
    const unsigned maps = 2 * clients, tokens = 2 * maps, attachments = 2 * maps;
    std::vector<double> create(board.create_us, board.create_us + maps), attach(board.attach_us, board.attach_us + attachments);
    std::printf("%u clients in %u processes, %u maps, %u tokens, %u attachments\n", clients, processes, maps, tokens,
                attachments);
    std::printf("  create a map, us     median %8.1f   p99 %8.1f\n", at(create, 0.5), at(create, 0.99));
    std::printf("  attach, us           median %8.1f   p99 %8.1f\n", at(attach, 0.5), at(attach, 0.99));
    std::printf("  daemon's memory      %lu KiB (%lu when it had started)\n", rss, rss_before);
    std::printf("  memory of the rings  %lu KiB\n", shared_kib);
    const unsigned with_leases = before + 3 * clients + 3 * maps + tokens + attachments;
    std::printf("  daemon's descriptors %u (%u when it had started) of %u\n", descriptors, before, kDescriptors);
    std::printf("  with three a session (socket, lease, pidfd) and three a map (C, P, kick): %u, %s\n", with_leases,
                with_leases <= kDescriptors ? "which fit" : "which do NOT fit");
    std::fflush(stdout);
    pthread_barrier_destroy(&board.barrier);
    ::munmap(memory, sizeof(Board));
  }
  std::filesystem::remove_all(name);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) {
    const long clients = std::atol(argv[1]);
    if (clients < 1 || clients > static_cast<long>(kMostClients)) {
      std::fprintf(stderr, "usage: scale [CLIENTS], 1 to %u\n", kMostClients);
      return 2;
    }
    measure(static_cast<unsigned>(clients));
    return 0;
  }
  for (const unsigned clients : {1u, 100u, 1000u}) measure(clients);
}
