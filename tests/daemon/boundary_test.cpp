// SPDX-License-Identifier: MIT
// The boundary between uids, attacked: what a client of another uid can do with the descriptors that it was given, and with the
// processes that have better ones. The daemon runs as root and as a user of its own.
#include <linux/fs.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/xattr.h>

#include <set>

#include "daemon_of.hpp"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

namespace ringbuf::test {
namespace {

constexpr uid_t kStranger = 1004, kNeighbour = 1005;

class BoundaryTest : public ::testing::TestWithParam<uid_t> {
 protected:
  void SetUp() override {
    RINGBUF_NEEDS_ROOT();
    daemon.emplace(GetParam());
  }

  // A ring and an array with it, both open to all.
  void make_maps() {
    Client root(daemon->socket());
    auto spec = Client::spec();
    spec.mode = 0666;
    const auto ring = root.create(spec);
    spec.map_type = 12;
    spec.key_size = spec.value_size = spec.max_entries = 4;
    const auto outer = root.call(RINGBUF_MAP_CREATE, spec, {ring.fds.at(0).get()});
    ASSERT_EQ(root.pin("/ring", ring.fds.at(0).get()).err() + root.pin("/outer", outer.fds.at(0).get()).err(), 0);
  }

  FdLeakGuard leaks;
  std::optional<DaemonOf> daemon;
};

INSTANTIATE_TEST_SUITE_P(DaemonUid, BoundaryTest, ::testing::Values(0u, 990u),
                         [](const auto& of) { return of.param == 0 ? "Root" : "Other"; });

std::string link_of(int fd) { return fmt::format("/proc/self/fd/{}", fd); }
bool opens(const std::string& path, int flags) { return static_cast<bool>(UniqueFd(::open(path.c_str(), flags | O_CLOEXEC))); }

struct Mapped {
  void* at;
  std::size_t size;
  Mapped(int fd, int prot, int flags = MAP_SHARED) : at(nullptr), size(static_cast<std::size_t>(::lseek(fd, 0, SEEK_END))) {
    at = ::mmap(nullptr, size, prot, flags, fd, 0);
  }
  ~Mapped() {
    if (*this) ::munmap(at, size);
  }
  explicit operator bool() const { return at != MAP_FAILED; }
};

// What is mapped read-only, made writable if that can be done.
struct Writable : Mapped {
  explicit Writable(int fd) : Mapped(fd, PROT_READ) {
    if (*this) (void)::mprotect(at, size, PROT_READ | PROT_WRITE);
  }
};

// In a user namespace of one's own, as its root.
bool as_root_of_a_namespace(bool (*attack)(int fd), int fd) {
  ChildProcess child([&] {
    const auto uid = ::geteuid(), gid = ::getegid();
    if (::unshare(CLONE_NEWUSER) < 0) return 0;  // not permitted here: nothing gained
    std::ofstream("/proc/self/setgroups") << "deny";
    std::ofstream("/proc/self/gid_map") << "0 " << gid << " 1";
    std::ofstream("/proc/self/uid_map") << "0 " << uid << " 1";
    return ::geteuid() == 0 && attack(fd) ? 1 : 0;
  });
  return child.exit_code() != 0;
}

struct Attack {
  const char* what;
  bool (*succeeds)(int fd);
};

// What nobody may do but the daemon's uid, with either kind of descriptor.
const Attack kOnAny[] = {
    {"chmod", [](int fd) { return ::fchmod(fd, 0666) == 0; }},
    {"chmod by path", [](int fd) { return ::chmod(link_of(fd).c_str(), 0666) == 0; }},
    {"chown", [](int fd) { return ::fchown(fd, ::geteuid(), ::getegid()) == 0; }},
    {"reopen to write", [](int fd) { return opens(link_of(fd), O_WRONLY); }},
    {"reopen to read and write", [](int fd) { return opens(link_of(fd), O_RDWR); }},
    {"reopen under the pid", [](int fd) { return opens(fmt::format("/proc/{}/fd/{}", ::getpid(), fd), O_RDWR); }},
    {"reopen by /dev/fd", [](int fd) { return opens(fmt::format("/dev/fd/{}", fd), O_RDWR); }},
    {"reopen and truncate",
     [](int fd) { return opens(link_of(fd), O_RDWR | O_TRUNC) || opens(link_of(fd), O_RDONLY | O_TRUNC); }},
    {"reopen what was opened as a path",
     [](int fd) {
       const UniqueFd path(::open(link_of(fd).c_str(), O_PATH | O_CLOEXEC));
       return path && opens(link_of(path.get()), O_RDWR);
     }},
    {"open by handle",
     [](int fd) {
       alignas(file_handle) char room[sizeof(file_handle) + MAX_HANDLE_SZ] = {};
       auto* handle = reinterpret_cast<file_handle*>(room);
       handle->handle_bytes = MAX_HANDLE_SZ;
       int mount = 0;
       if (::name_to_handle_at(fd, "", handle, &mount, AT_EMPTY_PATH) < 0) return false;
       return static_cast<bool>(UniqueFd(::open_by_handle_at(fd, handle, O_RDWR | O_CLOEXEC)));
     }},
    {"root of a namespace: chmod",
     [](int fd) { return as_root_of_a_namespace([](int f) { return ::fchmod(f, 0666) == 0 || ::fchown(f, 0, 0) == 0; }, fd); }},
    {"root of a namespace: reopen",
     [](int fd) { return as_root_of_a_namespace([](int f) { return opens(link_of(f), O_RDWR); }, fd); }},
    {"shrink", [](int fd) { return ::ftruncate(fd, 0) == 0; }},
    {"grow", [](int fd) { return ::ftruncate(fd, 1 << 24) == 0; }},
    {"shrink by path", [](int fd) { return ::truncate(link_of(fd).c_str(), 0) == 0; }},
    {"allocate beyond the end", [](int fd) { return ::fallocate(fd, 0, 1 << 24, 4096) == 0; }},
    {"seal",
     [](int fd) {
       for (const int seal : {F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE, F_SEAL_FUTURE_WRITE})
         if (::fcntl(fd, F_ADD_SEALS, seal) == 0) return true;
       return false;
     }},
    {"lease", [](int fd) { return ::fcntl(fd, F_SETLEASE, F_WRLCK) == 0 || ::fcntl(fd, F_SETLEASE, F_RDLCK) == 0; }},
    {"make immutable",
     [](int fd) {
       int flags = FS_IMMUTABLE_FL | FS_APPEND_FL;
       return ::ioctl(fd, FS_IOC_SETFLAGS, &flags) == 0;
     }},
    {"set an attribute", [](int fd) { return ::fsetxattr(fd, "user.a", "b", 1, 0) == 0; }},
    {"execute",
     [](int fd) {
       ChildProcess child([&] {
         char* const none[] = {nullptr};
         ::syscall(SYS_execveat, fd, "", none, none, AT_EMPTY_PATH);
         if (errno != EACCES) return 1;
         ::execve(link_of(fd).c_str(), none, none);
         return errno == EACCES ? 0 : 1;
       });
       return child.exit_code() != 0;
     }},
};

// And what a descriptor that was given read-only must not do besides.
const Attack kOnReadOnly[] = {
    {"write", [](int fd) { return ::write(fd, "x", 1) == 1 || ::pwrite(fd, "x", 1, 0) == 1; }},
    {"change the open mode",
     [](int fd) {
       (void)::fcntl(fd, F_SETFL, O_RDWR);
       return (::fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY;
     }},
    {"copy into it",
     [](int fd) {
       const UniqueFd from(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
       return ::sendfile(fd, from.get(), nullptr, 64) > 0 || ::copy_file_range(from.get(), nullptr, fd, nullptr, 64, 0) > 0;
     }},
    {"splice into it",
     [](int fd) {
       int ends[2];
       if (::pipe2(ends, O_CLOEXEC) < 0) return true;
       const UniqueFd a(ends[0]), b(ends[1]);
       return ::write(b.get(), "x", 1) != 1 || ::splice(a.get(), nullptr, fd, nullptr, 1, 0) > 0;
     }},
    {"punch a hole",
     [](int fd) {
       for (const int mode : {FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE, FALLOC_FL_COLLAPSE_RANGE, 0})
         if (::fallocate(fd, mode, 0, 4096) == 0) return true;
       return false;
     }},
    {"map to write", [](int fd) { return static_cast<bool>(Mapped(fd, PROT_READ | PROT_WRITE)); }},
    {"make a mapping writable",
     [](int fd) {
       const Mapped m(fd, PROT_READ);
       return !m || ::mprotect(m.at, m.size, PROT_READ | PROT_WRITE) == 0;
     }},
    {"write a mapping by /proc/self/mem",
     [](int fd) {
       const Writable m(fd);
       const UniqueFd mem(::open("/proc/self/mem", O_RDWR | O_CLOEXEC));
       return !m || !mem || ::pwrite(mem.get(), "x", 1, static_cast<off_t>(reinterpret_cast<std::uintptr_t>(m.at))) == 1;
     }},
    {"write a mapping by process_vm_writev",
     [](int fd) {
       const Writable m(fd);
       char x = 'x';
       const iovec from{&x, 1}, to{m.at, 1};
       return !m || ::process_vm_writev(::getpid(), &from, 1, &to, 1, 0) == 1;
     }},
    {"poke a child's mapping as its tracer",
     [](int fd) {
       const Writable m(fd);
       ChildProcess child([] {
         ::pause();
         return 0;
       });
       if (::ptrace(PTRACE_SEIZE, child.pid(), nullptr, nullptr) < 0) return false;  // not permitted here: nothing gained
       ::ptrace(PTRACE_INTERRUPT, child.pid(), nullptr, nullptr);
       ::waitpid(child.pid(), nullptr, __WALL);
       return !m || ::ptrace(PTRACE_POKEDATA, child.pid(), m.at, 0x5a5a5a5a) == 0;
     }},
    {"remove pages of a mapping",
     [](int fd) {
       const Writable m(fd);
       return !m || ::madvise(m.at, m.size, MADV_REMOVE) == 0;
     }},
    {"fill holes by userfaultfd",
     [](int fd) {
       const UniqueFd faults(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY)));
       uffdio_api api{};
       api.api = UFFD_API;
       if (!faults || ::ioctl(faults.get(), UFFDIO_API, &api) < 0) return false;  // not permitted here: nothing gained
       const Mapped m(fd, PROT_READ);
       uffdio_register reg{};
       reg.range = {reinterpret_cast<std::uintptr_t>(m.at), m.size};
       reg.mode = UFFDIO_REGISTER_MODE_MISSING;
       return !m || ::ioctl(faults.get(), UFFDIO_REGISTER, &reg) == 0;
     }},
    {"write through a private mapping",
     [](int fd) {
       const Mapped m(fd, PROT_READ | PROT_WRITE, MAP_PRIVATE), shared(fd, PROT_READ);
       if (!m || !shared) return true;
       auto* mine = static_cast<volatile unsigned char*>(m.at);
       const unsigned char before = *static_cast<volatile unsigned char*>(shared.at);
       *mine = static_cast<unsigned char>(before + 1);
       return *static_cast<volatile unsigned char*>(shared.at) != before;
     }},
};

// Everything about a file that an attack could have changed.
std::string state_of(int fd) {
  struct stat st;
  if (::fstat(fd, &st) < 0) return "gone";
  std::string bytes(static_cast<std::size_t>(st.st_size), '\0');
  if (::pread(fd, bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) return "unreadable";
  return fmt::format("mode {:o} uid {} size {} blocks {} seals {:#x} ", st.st_mode, st.st_uid, st.st_size, st.st_blocks,
                     ::fcntl(fd, F_GET_SEALS)) +
         bytes;
}

int attack(int fd, const char* whose, bool writable, unsigned& tried) {
  int succeeded = 0;
  const std::string before = state_of(fd);
  const auto all = [&](std::span<const Attack> attacks) {
    for (const Attack& a : attacks) {
      ++tried;
      if (!a.succeeds(fd)) continue;
      ++succeeded;
      std::fprintf(stderr, "%s: %s succeeds\n", whose, a.what);
    }
  };
  all(kOnAny);
  if (!writable) all(kOnReadOnly);
  if (state_of(fd) == before) return succeeded;
  std::fprintf(stderr, "%s: the file has changed\n", whose);
  return succeeded + 1;
}

TEST_P(BoundaryTest, DescriptorsGiveAnotherUidNoMoreThanWasGiven) {
  make_maps();
  const int succeeded = as_user(kStranger, kStranger, {}, [&] {
    ::prctl(PR_SET_DUMPABLE, 1);  // as a program that this user has started
    Client c(daemon->socket());
    const auto ring = c.get("/ring"), outer = c.get("/outer");
    unsigned tried = 0, read_only = 0;
    int wrong = 0;
    for (const unsigned role : {RINGBUF_PRODUCER, RINGBUF_CONSUMER, RINGBUF_OBSERVER}) {
      const auto a = c.attach(ring.fds.at(0).get(), role);
      for (std::size_t i = 0; i < 2; ++i) {
        const bool writable = (role == RINGBUF_CONSUMER && i == 0) || (role == RINGBUF_PRODUCER && i == 1);
        read_only += !writable;
        wrong += attack(a.fds.at(i).get(), fmt::format("{}'s {}", wire::role_name(role), i ? "P" : "C").c_str(), writable, tried);
      }
    }
    const auto table = c.attach(outer.fds.at(0).get(), RINGBUF_OBSERVER);
    wrong += attack(table.fds.at(0).get(), "the table", false, tried);
    std::printf("%u attacks on 7 descriptors, %u of them read-only\n", tried, read_only + 1);
    return wrong;
  });
  EXPECT_EQ(succeeded, 0);
}

// What the attacks above rest on: each of them works where it should.
TEST(Boundary, TheAttacksWorkOnAFileOfOnesOwn) {
  RINGBUF_NEEDS_ROOT();
  const auto own_file = [] {
    const UniqueFd made(static_cast<int>(::syscall(SYS_memfd_create, "own", MFD_CLOEXEC | MFD_ALLOW_SEALING)));
    if (::ftruncate(made.get(), 8192) < 0 || ::pwrite(made.get(), "own", 3, 0) != 3) std::abort();
    return UniqueFd(::open(link_of(made.get()).c_str(), O_RDWR | O_CLOEXEC));
  };
  // Some need more than that: a file system, a kernel or a namespace that lets one.
  const std::set<std::string> not_everywhere{
      "root of a namespace: chmod", "root of a namespace: reopen",    "open by handle", "lease", "set an attribute",
      "change the open mode",       "write through a private mapping"};
  for (const auto attacks : {std::span<const Attack>(kOnAny), std::span<const Attack>(kOnReadOnly)})
    for (const Attack& a : attacks) {
      if (not_everywhere.count(a.what)) continue;
      EXPECT_TRUE(a.succeeds(own_file().get())) << a.what;
    }
}

struct Reached {
  const char* what;
  bool (*succeeds)(pid_t pid);
};

const Reached kIntoProcess[] = {
    {"list its descriptors",
     [](pid_t pid) {
       DIR* dir = ::opendir(fmt::format("/proc/{}/fd", pid).c_str());
       if (dir) ::closedir(dir);
       return dir != nullptr;
     }},
    {"open its descriptors",
     [](pid_t pid) {
       for (int fd = 0; fd < 64; ++fd)
         if (opens(fmt::format("/proc/{}/fd/{}", pid, fd), O_RDONLY)) return true;
       return false;
     }},
    {"open its memory", [](pid_t pid) { return opens(fmt::format("/proc/{}/mem", pid), O_RDONLY); }},
    {"take its descriptors",
     [](pid_t pid) {
       const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
       for (int fd = 0; fd < 64; ++fd)
         if (UniqueFd(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), fd, 0)))) return true;
       return false;
     }},
    {"trace it",
     [](pid_t pid) {
       if (::ptrace(PTRACE_SEIZE, pid, nullptr, nullptr) < 0) return false;
       ::ptrace(PTRACE_INTERRUPT, pid, nullptr, nullptr);
       ::waitpid(pid, nullptr, __WALL);
       ::ptrace(PTRACE_DETACH, pid, nullptr, nullptr);
       return true;
     }},
    {"read and write its memory",
     [](pid_t pid) {
       static volatile char byte;  // at the same address in all processes that come from this one
       char x = 'x';
       const iovec mine{&x, 1}, its{const_cast<char*>(&byte), 1};
       return ::process_vm_readv(pid, &mine, 1, &its, 1, 0) == 1 || ::process_vm_writev(pid, &mine, 1, &its, 1, 0) == 1;
     }},
    {"signal it", [](pid_t pid) { return ::kill(pid, 0) == 0; }},
};

TEST_P(BoundaryTest, NobodyReachesIntoTheDaemonOrAnotherUidsClient) {
  make_maps();
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  UniqueFd ready(ends[0]), tell(ends[1]);
  ChildProcess neighbour([&] {
    if (!become(kNeighbour)) return 126;
    Client c(daemon->socket());
    const auto a = c.attach(c.get("/ring").fds.at(0).get(), RINGBUF_PRODUCER);
    if (a.fds.size() != 3) return 1;
    (void)!::write(tell.get(), "x", 1);
    ::pause();
    return 0;
  });
  char c;
  ASSERT_EQ(::read(ready.get(), &c, 1), 1);
  const auto into = [&](uid_t as, pid_t pid) {
    return as_user(as, as, {}, [&] {
      int succeeded = 0;
      for (const Reached& r : kIntoProcess) {
        if (!r.succeeds(pid)) continue;
        ++succeeded;
        if (as == kStranger) std::fprintf(stderr, "%s succeeds\n", r.what);
      }
      return succeeded;
    });
  };
  EXPECT_EQ(into(kStranger, daemon->pid()), 0) << "the daemon";
  EXPECT_EQ(into(kStranger, neighbour.pid()), 0) << "another client";
  EXPECT_EQ(into(0, neighbour.pid()), static_cast<int>(std::size(kIntoProcess))) << "these are ways in for who may";
}

}  // namespace
}  // namespace ringbuf::test
