// SPDX-License-Identifier: MIT
// A descriptor that is waited for as long as the daemon lives. Going on waiting needs no memory: it is all here. One thread.
#pragma once

#include <boost/asio/error.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <new>

#include "base/unique_fd.hpp"

namespace ringbuf::daemon {

class StandingWait {
 public:
  explicit StandingWait(boost::asio::io_context& io) : state_(std::make_shared<State>(io)) {}
  StandingWait(const StandingWait&) = delete;
  ~StandingWait() {
    close();
    state_->f = nullptr;
  }

  // f() whenever it is readable. What f throws is taken for want of memory: f is called again. Throws what Asio throws.
  void start(UniqueFd fd, std::function<void()> f) {
    state_->f = std::move(f);
    state_->descriptor.assign(fd.get());
    fd.release();
    resume();
  }
  bool is_open() const { return state_->descriptor.is_open(); }
  int fd() { return state_->descriptor.native_handle(); }
  void pause() { state_->paused = true; }  // in f: no more until resume()
  void resume() { wait(state_); }
  UniqueFd release() { return UniqueFd(state_->descriptor.release()); }
  void close() {
    boost::system::error_code ignored;
    state_->descriptor.close(ignored);
  }

 private:
  // Lives until Asio has let go of the last wait, which is after the descriptor was closed and may be after ~StandingWait.
  struct State {
    explicit State(boost::asio::io_context& io) : descriptor(io) {}
    boost::asio::posix::stream_descriptor descriptor;
    std::function<void()> f;
    bool paused = false, in_use = false;
    alignas(std::max_align_t) std::byte storage[256];
  };
  using StatePtr = std::shared_ptr<State>;

  // The one wait that is under way is kept in `storage`.
  template <class T>
  struct Storage {
    using value_type = T;
    State* state;

    explicit Storage(State* s) : state(s) {}
    template <class U>
    Storage(const Storage<U>& o) : state(o.state) {}  // NOLINT: allocators convert
    T* allocate(std::size_t n) {
      if (state->in_use || n * sizeof(T) > sizeof state->storage) throw std::bad_alloc();
      state->in_use = true;
      return reinterpret_cast<T*>(state->storage);
    }
    void deallocate(T*, std::size_t) { state->in_use = false; }
    template <class U>
    bool operator==(const Storage<U>& o) const {
      return state == o.state;
    }
  };
  struct Handler {
    using allocator_type = Storage<std::byte>;
    StatePtr state;
    allocator_type get_allocator() const { return allocator_type(state.get()); }
    void operator()(const boost::system::error_code& ec) const {
      if (ec != boost::asio::error::operation_aborted) ready(state);  // also if it could not wait: f looks for itself
    }
  };
  static void wait(const StatePtr& state) {
    state->paused = false;
    state->descriptor.async_wait(boost::asio::posix::descriptor_base::wait_read, Handler{state});
  }
  static void ready(const StatePtr& state) {
    try {
      if (state->f) state->f();
    } catch (const std::exception&) {}
    if (!state->paused && state->descriptor.is_open()) wait(state);
  }

  StatePtr state_;
};

}  // namespace ringbuf::daemon
