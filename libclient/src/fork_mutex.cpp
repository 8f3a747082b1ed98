// SPDX-License-Identifier: MIT
#include "fork_mutex.hpp"

#include <pthread.h>

#include <set>

namespace ringbuf {

struct ForkMutex::Registry {
  std::mutex mutex;
  std::set<ForkMutex*> all;  // guarded by mutex

  // Never destroyed: handlers and static ForkMutexes may still need it at exit.
  static Registry& get() {
    static Registry* const registry = new Registry;
    return *registry;
  }
  // When the library is loaded: so our locks are taken after the handlers of the application have run, and in the child are free
  // before its handlers run.
  [[gnu::constructor]] static void watch() { ::pthread_atfork(prepare, parent, child); }
  static void prepare() {
    get().mutex.lock();
    for (ForkMutex* m : get().all) m->lock();
  }
  static void parent() {
    for (ForkMutex* m : get().all) m->unlock();
    get().mutex.unlock();
  }
  static void child() {
    for (ForkMutex* m : get().all)
      if (m->in_child_) m->in_child_();
    parent();
  }
};

ForkMutex::ForkMutex(std::function<void()> in_child) : in_child_(std::move(in_child)) {
  std::lock_guard lock(Registry::get().mutex);
  Registry::get().all.insert(this);
}

ForkMutex::~ForkMutex() {
  std::lock_guard lock(Registry::get().mutex);
  Registry::get().all.erase(this);
}

}  // namespace ringbuf
