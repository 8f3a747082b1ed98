// SPDX-License-Identifier: MIT
// How kernel.cpp runs the programs of programs.bpf.c: loads those that it needs, bound to maps that exist, and keeps `produce`
// going from one operation of the test to the next.
#pragma once

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "programs.h"

namespace conformance {

// Where the test itself cannot go on.
inline void must(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "kernel back end: %s: %s\n", what, std::strerror(errno));
  std::abort();
}

class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

inline std::size_t page_size() { return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)); }

// libbpf says why a program was refused; kept until somebody wants to know.
inline std::string& said() {
  static std::string text;
  return text;
}
inline int keep_said(libbpf_print_level level, const char* format, va_list args) {
  if (level == LIBBPF_DEBUG) return 0;
  char line[4096];
  std::vsnprintf(line, sizeof line, format, args);
  said() += line;
  return 0;
}

// Some of the programs of programs.bpf.c, bound to maps that exist.
class Programs {
 public:
  Programs(const std::vector<std::string>& programs, const std::vector<std::pair<std::string, int>>& maps) {
    libbpf_set_print(keep_said);
    object_ = bpf_object__open_file(CONFORMANCE_PROGRAMS, nullptr);
    must(object_ != nullptr, "open " CONFORMANCE_PROGRAMS);
    bpf_program* program;
    bpf_object__for_each_program(program, object_) bpf_program__set_autoload(
        program, std::find(programs.begin(), programs.end(), bpf_program__name(program)) != programs.end());
    bpf_map* map;
    bpf_object__for_each_map(map, object_) {
      const std::string name = bpf_map__name(map);
      const auto known = std::find_if(maps.begin(), maps.end(), [&](const auto& m) {
        return name == m.first || (m.first == ".bss" && name.ends_with(".bss"));
      });
      if (known != maps.end()) must(bpf_map__reuse_fd(map, known->second) == 0, "bpf_map__reuse_fd");
      else if (!name.ends_with(".bss")) bpf_map__set_autocreate(map, false);
    }
    said().clear();
    if (bpf_object__load(object_) != 0) {
      std::fprintf(stderr, "%s", said().c_str());
      must(false, "bpf_object__load");
    }
    memory_ = ::mmap(nullptr, sizeof(shared), PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd(), 0);
    must(memory_ != MAP_FAILED, "mmap of the programs' memory");
  }
  Programs(const Programs&) = delete;
  ~Programs() {
    ::munmap(memory_, sizeof(shared));
    bpf_object__close(object_);
  }

  shared* memory() const { return static_cast<shared*>(memory_); }
  int memory_fd() const { return bpf_object__find_map_fd_by_name(object_, ".bss"); }
  int program(const char* name) const { return bpf_program__fd(bpf_object__find_program_by_name(object_, name)); }
  void run(const char* name) const { run(program(name)); }
  static void run(int fd) {
    bpf_test_run_opts opts{};
    opts.sz = sizeof opts;
    must(bpf_prog_test_run_opts(fd, &opts) == 0, "BPF_PROG_TEST_RUN");
  }

 private:
  bpf_object* object_ = nullptr;
  void* memory_ = nullptr;
};

inline int make_faults() { return static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)); }

// One long run of `produce`, in a thread that the program stops in by touching a page that is not there.
class Interpreter {
 public:
  Interpreter(int ring, int memory_fd, shared* memory)
      : programs_({"produce"}, {{"ring", ring}, {".bss", memory_fd}}), memory_(memory) {
    faults_ = Fd(make_faults());
    must(faults_.get() >= 0, "userfaultfd");
    uffdio_api api{};
    api.api = UFFD_API;
    must(::ioctl(faults_.get(), UFFDIO_API, &api) == 0, "UFFDIO_API");
    page_ = page_size();
    gates_ = static_cast<char*>(::mmap(nullptr, 2 * page_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    must(gates_ != MAP_FAILED, "mmap");
    uffdio_register reg{};
    reg.range = {reinterpret_cast<std::uint64_t>(gates_), 2 * page_};
    reg.mode = UFFDIO_REGISTER_MODE_MISSING;
    must(::ioctl(faults_.get(), UFFDIO_REGISTER, &reg) == 0, "UFFDIO_REGISTER");
    memory_->gates[0] = reinterpret_cast<std::uint64_t>(gates_);
    memory_->gates[1] = reinterpret_cast<std::uint64_t>(gates_ + page_);
    memory_->waits = 0;
    memory_->op.code = OP_WAIT;
    ended_ = Fd(::eventfd(0, EFD_CLOEXEC));
    thread_ = std::thread([this] {
      sigset_t all;
      sigfillset(&all);
      ::pthread_sigmask(SIG_BLOCK, &all, nullptr);
      Programs::run(programs_.program("produce"));
      const std::uint64_t one = 1;
      (void)!::write(ended_.get(), &one, sizeof one);
    });
    wait();
  }
  ~Interpreter() {
    memory_->op.code = OP_END;
    open_gate();
    thread_.join();
    ::munmap(gates_, 2 * page_);
  }

  std::int64_t call(const op& what) {
    memory_->op = what;
    memory_->op.result = -1000;  // no helper's: the program refused to
    open_gate();
    wait();
    must(memory_->op.code == OP_WAIT, "an operation was not done");
    return memory_->op.result;
  }

 private:
  void open_gate() {
    char* closed = gates_ + page_ * (at_ ^ 1);
    must(::madvise(closed, page_, MADV_DONTNEED) == 0, "MADV_DONTNEED");
    uffdio_zeropage zero{};
    zero.range = {reinterpret_cast<std::uint64_t>(gates_ + page_ * at_), page_};
    must(::ioctl(faults_.get(), UFFDIO_ZEROPAGE, &zero) == 0, "UFFDIO_ZEROPAGE");
  }
  void wait() {
    pollfd p[2] = {{faults_.get(), POLLIN, 0}, {ended_.get(), POLLIN, 0}};
    uffd_msg msg{};
    while (::read(faults_.get(), &msg, sizeof msg) != sizeof msg) {
      must(errno == EAGAIN && ::poll(p, 2, -1) > 0 && p[1].revents == 0, "wait for the program");
    }
    at_ = msg.arg.pagefault.address >= reinterpret_cast<std::uint64_t>(gates_ + page_);
  }

  Programs programs_;
  shared* memory_;
  Fd faults_, ended_;
  std::size_t page_ = 0;
  char* gates_ = nullptr;
  unsigned at_ = 0;  // the gate that the program waits at
  std::thread thread_;
};

}  // namespace conformance
