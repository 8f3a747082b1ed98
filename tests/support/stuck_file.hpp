// SPDX-License-Identifier: MIT
// System calls that never come back, with the locks they hold: what a hostile client does to others, by a FUSE server of its own.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <string>
#include <thread>

#include "base/unique_fd.hpp"
#include "support/eventually.hpp"

namespace ringbuf::test {

// A file system whose server answers everything but one thing: FLUSH, which close(2) waits for, or READ, which a page fault in
// its mapping waits for, with all the locks of the system call that meets it.
class StuckFile {
 public:
  explicit StuckFile(std::uint32_t unanswered) : unanswered_(unanswered), device_(::open("/dev/fuse", O_RDWR | O_CLOEXEC)) {
    if (UniqueFd(::mkstemp(path_.data())).get() < 0) std::abort();
    const std::string options = "fd=" + std::to_string(device_.get()) + ",rootmode=100000,user_id=0,group_id=0";
    if (!device_ || ::mount("test", path_.c_str(), "fuse", MS_NOSUID | MS_NODEV, options.c_str()) < 0) return;
    mounted_ = true;
    server_ = std::thread([this] { serve(); });
    fd_.reset(::open(path_.c_str(), O_RDWR | O_CLOEXEC));
    if (unanswered != FUSE_READ) return;
    // Its size must be known, and that it has no FLUSH, so that this process can be killed while it is stuck.
    struct stat st;
    (void)::fstat(fd_.get(), &st);
    UniqueFd(::fcntl(fd_.get(), F_DUPFD_CLOEXEC, 0));
    page_ = ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd_.get(), 0);
  }
  ~StuckFile() {
    let_go();
    if (page_ != MAP_FAILED) ::munmap(page_, kPage);
    if (mounted_) ::umount2(path_.c_str(), MNT_DETACH);
    fd_.reset();
    ::unlink(path_.c_str());
  }
  bool works() const { return static_cast<bool>(fd_); }
  int fd() const { return fd_.get(); }
  void* page() const { return page_; }
  bool anybody_waits() const { return waits_; }
  static constexpr std::size_t kPage = 4096;
  static constexpr int kPatience = 90'000;  // less than the test's time limit: what is stuck cannot be killed
  // The server ends: whoever waits for it goes on.
  void let_go() {
    if (!server_.joinable()) return;
    ::eventfd_write(end_.get(), 1);
    server_.join();
  }

 private:
  void serve() {
    alignas(8) char in[1 << 17];
    for (;;) {
      pollfd p[2] = {{device_.get(), POLLIN, 0}, {end_.get(), POLLIN, 0}};
      const int n = ::poll(p, 2, kPatience);
      if (n < 0 || (n == 0 && !waits_)) continue;  // seteuid() interrupts all threads
      if (n == 0) {
        ADD_FAILURE() << "nobody lets go of what waits here";
        break;
      }
      if (p[1].revents) break;
      if (::read(device_.get(), in, sizeof in) < static_cast<ssize_t>(sizeof(fuse_in_header))) break;
      fuse_in_header head;
      std::memcpy(&head, in, sizeof head);
      if (head.opcode == unanswered_) waits_ = true;
      if (head.opcode == unanswered_ || head.opcode == FUSE_INTERRUPT || head.opcode == FUSE_FORGET) continue;
      fuse_init_out init{};
      init.major = FUSE_KERNEL_VERSION;
      init.minor = FUSE_KERNEL_MINOR_VERSION;
      init.max_write = 4096;
      const fuse_open_out open{};
      fuse_attr_out attributes{};
      attributes.attr.ino = 1;
      attributes.attr.size = kPage;
      attributes.attr.mode = S_IFREG | 0600;
      attributes.attr.nlink = 1;
      fuse_out_header out{};
      out.unique = head.unique;
      iovec parts[2] = {{&out, sizeof out}, {nullptr, 0}};
      if (head.opcode == FUSE_INIT) parts[1] = {&init, sizeof init};
      else if (head.opcode == FUSE_OPEN) parts[1] = {const_cast<fuse_open_out*>(&open), sizeof open};
      else if (head.opcode == FUSE_GETATTR) parts[1] = {&attributes, sizeof attributes};
      else if (head.opcode != FUSE_RELEASE) out.error = -ENOSYS;
      out.len = static_cast<std::uint32_t>(sizeof out + parts[1].iov_len);
      if (::writev(device_.get(), parts, 2) < 0) break;
    }
    device_.reset();
  }

  const std::uint32_t unanswered_;
  std::atomic<bool> waits_ = false;
  void* page_ = MAP_FAILED;
  std::string path_ = "/tmp/ringbufd-stuck-XXXXXX";
  UniqueFd device_, fd_, end_{::eventfd(0, EFD_CLOEXEC)};
  bool mounted_ = false;
  std::thread server_;
};

// A system call that meets a page fault which is never answered, in a thread of its own.
class StuckCall {
 public:
  template <class F>
  explicit StuckCall(F&& call)
      : thread_([this, call] {
          call(file_.page());
          ended_ = true;
        }) {
    eventually([&] { return file_.anybody_waits() || ended_; });
    EXPECT_FALSE(ended_) << "it is not stuck: this shows nothing";
  }
  ~StuckCall() {
    let_go();
    thread_.join();
  }
  void let_go() { file_.let_go(); }

 private:
  StuckFile file_{FUSE_READ};
  std::atomic<bool> ended_ = false;
  std::thread thread_;
};

// epoll_wait(2) holds the epoll's lock while it writes the events.
inline auto wait_on(int epoll) {
  return [epoll](void* page) { (void)::epoll_wait(epoll, static_cast<epoll_event*>(page), 1, -1); };
}
inline UniqueFd epoll_of(std::initializer_list<int> fds) {
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  for (const int fd : fds) {
    epoll_event e{};
    e.events = EPOLLIN;
    EXPECT_EQ(::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &e), 0);
  }
  return epoll;
}

#define RINGBUF_NEEDS_FUSE() \
  if (!::ringbuf::test::StuckFile(FUSE_READ).works()) GTEST_SKIP() << "needs root and FUSE"

}  // namespace ringbuf::test
