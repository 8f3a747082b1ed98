// SPDX-License-Identifier: MIT
// A descriptor that is waited for as long as the daemon lives. Going on waiting needs no memory: it is all here. One thread.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <cassert>
#include <cstddef>
#include <exception>
#include <functional>
#include <new>

#include "base/unique_fd.hpp"

namespace ringbuf::daemon {

class StandingWait {
 public:
  explicit StandingWait(boost::asio::io_context& io) : descriptor_(io) {}
  StandingWait(const StandingWait&) = delete;

  // f() whenever it is readable. What f throws is taken for want of memory: f is called again. Throws what Asio throws.
  void start(UniqueFd fd, std::function<void()> f) {
    f_ = std::move(f);
    descriptor_.assign(fd.get());
    fd.release();
    resume();
  }
  bool is_open() const { return descriptor_.is_open(); }
  int fd() { return descriptor_.native_handle(); }
  void pause() { paused_ = true; }  // in f: no more until resume()
  void resume() {
    paused_ = false;
    descriptor_.async_wait(boost::asio::posix::descriptor_base::wait_read, Handler{this});
  }
  void close() {
    boost::system::error_code ignored;
    descriptor_.close(ignored);
  }

 private:
  // The one wait that is under way is kept in `storage_`.
  template <class T>
  struct Storage {
    using value_type = T;
    StandingWait* wait;

    explicit Storage(StandingWait* w) : wait(w) {}
    template <class U>
    Storage(const Storage<U>& o) : wait(o.wait) {}  // NOLINT: allocators convert
    T* allocate(std::size_t n) {
      if (wait->in_use_ || n * sizeof(T) > sizeof wait->storage_) throw std::bad_alloc();
      wait->in_use_ = true;
      return reinterpret_cast<T*>(wait->storage_);
    }
    void deallocate(T*, std::size_t) { wait->in_use_ = false; }
    template <class U>
    bool operator==(const Storage<U>& o) const {
      return wait == o.wait;
    }
  };
  struct Handler {
    using allocator_type = Storage<std::byte>;
    StandingWait* wait;
    allocator_type get_allocator() const { return allocator_type(wait); }
    void operator()(const boost::system::error_code& ec) const {
      if (!ec) wait->ready();
    }
  };
  void ready() {
    try {
      f_();
    } catch (const std::exception&) {}
    if (!paused_ && is_open()) resume();
  }

  boost::asio::posix::stream_descriptor descriptor_;
  std::function<void()> f_;
  bool paused_ = false, in_use_ = false;
  alignas(std::max_align_t) std::byte storage_[256];
};

}  // namespace ringbuf::daemon
