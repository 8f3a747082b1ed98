// SPDX-License-Identifier: MIT
// Lost wakeups, S4 (a sleeping consumer) and S6 (a producer that waits for room). Built three times from this source: as it is,
// and with one of ring.hpp's barriers weakened, which must lose: so we know that this test can fail.
//
//   wakeup_stress SCENARIO [--must-lose]
//
// A loss is found by state, never by time: a record is committed and not consumed (or a producer waits although the ring is
// empty), every thread that could do something about it is asleep, no descriptor that one of them sleeps on is readable, and
// all this is so when looked at again. A loss is counted, the sleeper rescued, and the run goes on.
// RINGBUF_STRESS_SECONDS (default 3) is how long a run without losses takes; --must-lose ends at the first, after 60 s at most.
#include <fcntl.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "shm/room.hpp"
#include "support/payload.hpp"
#include "support/test_ring.hpp"

namespace ringbuf::test {
namespace {

using shm::Consumer;
using shm::Producer;
using shm::Ring;

void pin(unsigned cpu) {
  cpu_set_t allowed, one;
  if (::sched_getaffinity(0, sizeof allowed, &allowed) < 0) return;
  const int count = CPU_COUNT(&allowed);
  for (int i = 0, n = 0; i < CPU_SETSIZE; ++i) {
    if (!CPU_ISSET(i, &allowed)) continue;
    if (n++ != static_cast<int>(cpu) % count) continue;
    CPU_ZERO(&one);
    CPU_SET(i, &one);
    ::sched_setaffinity(0, sizeof one, &one);
    return;
  }
}

// A thread that sleeps now and then, seen from outside.
class Sleeper {
 public:
  explicit Sleeper(int fd = -1) : fd_(fd) {}
  void here() { tid_ = static_cast<pid_t>(::syscall(SYS_gettid)); }
  void going_to_sleep() { asleep_.store(true); }
  void woke() { asleep_.store(false), turns_.fetch_add(1); }
  // Away: will not look at the ring until it is called.
  void leave() { away_ = true; }
  void come_back() { away_ = false, turns_.fetch_add(1); }
  std::uint64_t turns() const { return turns_.load(); }
  int fd() const { return fd_; }

  // Blocked between going_to_sleep and woke, and nothing that would end the sleep has happened to its descriptor.
  bool stuck() const {
    return away_ || (asleep_.load() && tid_ != 0 && state() == 'S' && asleep_.load() && (fd_ < 0 || !readable(fd_)));
  }

 private:
  char state() const {
    char path[64], line[256] = {};
    std::snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid_.load());
    const UniqueFd fd(::open(path, O_RDONLY | O_CLOEXEC));
    if (!fd || ::read(fd.get(), line, sizeof line - 1) <= 0) return '?';
    const char* paren = std::strrchr(line, ')');
    return paren && paren[1] == ' ' ? paren[2] : '?';
  }

  const int fd_;
  std::atomic<pid_t> tid_{0};
  std::atomic<bool> asleep_{false}, away_{false};
  std::atomic<std::uint64_t> turns_{0};
};

bool all_stuck(const std::vector<Sleeper*>& sleepers) {
  std::uint64_t before = 0, after = 0;
  for (const Sleeper* s : sleepers) before += s->turns();
  for (int look = 0; look < 2; ++look)
    for (const Sleeper* s : sleepers)
      if (!s->stuck()) return false;
  for (const Sleeper* s : sleepers) after += s->turns();
  return before == after;
}

// Makes the consumer's stores late: its CPU gives them to the others in order, and those to these lines, which the producer's CPU
// owns, come before the one to consumer_pos or `waiting`. The window that a missing barrier leaves grows from 50 ns to about a
// microsecond; with the barrier there is none, however late they are.
class LateStores {
 public:
  void own() {
    for (auto& l : lines_) l.word.store(1, std::memory_order_relaxed);
  }
  void write(unsigned count) {
    for (unsigned i = 0; i < count && i < kLines; ++i) lines_[i].word.store(2, std::memory_order_relaxed);
  }

 private:
  static constexpr unsigned kLines = 32;
  struct alignas(64) Line {
    std::atomic<std::uint64_t> word{0};
  };
  Line lines_[kLines];
};

struct Options {
  std::string scenario;
  bool must_lose = false;
  double seconds = 3;
};

struct Run {
  explicit Run(const Options& o)
      : must_lose(o.must_lose), end(shm::now_ns() + static_cast<std::uint64_t>((o.must_lose ? 60 : o.seconds) * 1e9)) {}
  bool over() const { return stop || (must_lose && losses != 0) || shm::now_ns() >= end; }

  const bool must_lose;
  const std::uint64_t end;
  std::atomic<bool> stop{false};

  // The callback. Lets the producer go before consumer_pos is published.
  int take() {
    const std::uint64_t n = consumed.fetch_add(1);
    late.write(mix(n) % 48);
    return 0;
  }
  void call_visitor() {
    ++calls;
    calls.notify_all();
  }
  bool visited = false;
  std::atomic<std::uint32_t> calls{0}, timeouts{0};
  alignas(64) std::atomic<std::uint64_t> consumed{0};
  LateStores late;
  std::uint64_t iterations = 0, losses = 0;
};

void rescue(const TestRing& ring) {
  const std::uint64_t one = 1;
  require(::write(ring.signal_fd(1), &one, sizeof one) == sizeof one, "rescue");
}

int next_event(int fd, Sleeper& me, int timeout_ms = -1) {
  epoll_event events[4];
  me.going_to_sleep();
  const int n = ::epoll_wait(fd, events, 4, timeout_ms);
  me.woke();
  return n;
}

// As libringbuf's poll: consume; if there was nothing, count oneself as a sleeper, look once more, sleep. Alone it needs no lock,
// and must not have one: a lock is a barrier and would hide a missing one.
void poll_loop(Run& run, const Consumer& consumer, Sleeper& me) {
  pin(0);
  me.here();
  const Ring& ring = consumer.ring();
  const auto take = [&](void*, std::size_t) { return run.take(); };
  while (!run.stop) {
    if (consumer.consume(take, INT32_MAX) != 0) continue;
    ring.add_waiting();
    if (!consumer.must_not_sleep() && !run.stop) next_event(me.fd(), me);
    ring.sub_waiting();
  }
}

// Polls once for a millisecond at most whenever it is called, then stays away until it is called again.
void visitor_loop(Run& run, const Consumer& consumer, std::mutex& turn, Sleeper& me) {
  me.here();
  const Ring& ring = consumer.ring();
  const auto take = [&](void*, std::size_t) { return run.take(); };
  while (!run.stop) {
    const std::uint32_t call = run.calls;
    std::unique_lock lock(turn);
    consumer.consume(take, INT32_MAX);
    lock.unlock();
    ring.add_waiting();
    lock.lock();
    const bool stay = consumer.must_not_sleep();
    lock.unlock();
    if (!stay && next_event(me.fd(), me, 1) == 0) ++run.timeouts;
    ring.sub_waiting();
    lock.lock();
    consumer.consume(take, INT32_MAX);
    lock.unlock();
    me.leave();
    run.calls.wait(call);
    me.come_back();
  }
}

// All that is there: consumes a ring, drains a user ring until another look finds nothing (libringbuf's ringbuf_drain makes the
// epoll descriptor readable in that case).
template <class F>
void eat(const Consumer& consumer, F&& take) {
  if (!consumer.user()) {
    consumer.consume(take, INT32_MAX);
    return;
  }
  do consumer.drain(take, 0);
  while (consumer.ring().ready_at(consumer.ring().consumer_pos_own()));
}

// As an application's own loop around the epoll descriptor: it is counted as a sleeper for good, and looks only when told to.
void own_loop(Run& run, const Consumer& consumer, std::mutex& turn, Sleeper& me) {
  pin(0);
  me.here();
  const auto take = [&](void*, std::size_t) { return run.take(); };
  while (!run.stop) {
    {
      std::lock_guard lock(turn);
      eat(consumer, take);
    }
    if (!run.stop) next_event(me.fd(), me);
  }
}

// Commits a record, or a burst of records, and waits until all are consumed; the next commit, of a record that was reserved
// before the last one was committed, then meets the consumer on its way to sleep. The delay sweeps over that way.
void ping(Run& run, const TestRing& ring, const std::vector<Sleeper*>& consumers) {
  pin(1);
  const Producer producer = ring.producer(1);
  std::uint64_t random = 1, committed = 0;
  const auto wait_until = [&](auto done) {
    for (unsigned spins = 1; !done(); ++spins) {
      if (spins % 64 == 0) ::sched_yield();
      if (spins % 2048 != 0 || run.consumed == committed) {
        shm::cpu_relax();
        continue;
      }
      if (!all_stuck(consumers) || run.consumed == committed) continue;
      ++run.losses;
      rescue(ring);
      // Until one of them has got up, the same loss must not be counted twice.
      std::uint64_t turns = 0, now = 0;
      for (const Sleeper* s : consumers) turns += s->turns();
      while (run.consumed != committed && now <= turns) {
        now = 0;
        for (const Sleeper* s : consumers) now += s->turns();
        ::sched_yield();
      }
    }
  };
  const auto reserve = [&](std::uint64_t size) {
    void* payload = nullptr;
    wait_until([&] { return (payload = producer.reserve(size, 0, &test::uncounted)) != nullptr; });
    return payload;
  };
  void* next = reserve(8);
  while (!run.over()) {
    random = mix(random);
    void* now = next;
    const unsigned burst = (random >> 8) % 8 == 0 ? 1 + (random >> 16) % 40 : 1;
    if (burst == 1) {
      // In a page, 512 bytes are given back at once: large records and batches are published in the middle of a call.
      next = reserve((random >> 24) % 8 == 0 ? 600 : 8);
      run.late.own();
      ++committed;
      producer.submit(now, 0);
    } else {
      ++committed;
      producer.submit(now, 0);
      for (unsigned i = 1; i < burst; ++i) {
        void* payload = reserve((random >> (i % 32)) % 64);
        ++committed;
        producer.submit(payload, 0);
      }
      next = reserve(8);
      run.late.own();
    }
    wait_until([&] { return run.consumed == committed; });
    for (unsigned i = (random >> 48) % 4 ? (random >> 40) % 32 : (random >> 40) % 1024; i > 0; --i) asm volatile("");
    ++run.iterations;
    if (run.visited && run.iterations % 64 == 0) run.call_visitor();
    if (run.visited && run.iterations % 1024 == 0)  // quiet, until the visitor has slept for its whole time
      for (const std::uint32_t before = run.timeouts; run.timeouts == before; ::sched_yield()) run.call_visitor();
  }
  producer.discard(next, 0);
}

void wake_all(Run& run, const TestRing& ring, std::vector<std::thread>& threads) {
  run.stop = true;
  run.call_visitor();
  rescue(ring);
  for (auto& t : threads) t.join();
}

void sleep_in_poll(Run& run) {
  TestRing ring;
  const Consumer consumer = ring.consumer();
  Sleeper me(ring.wait_fd());
  std::vector<std::thread> threads;
  threads.emplace_back([&] { poll_loop(run, consumer, me); });
  ping(run, ring, {&me});
  wake_all(run, ring, threads);
}

void sleep_in_own_loop(Run& run) {
  TestRing ring;
  std::mutex turn;
  const Consumer consumer = ring.consumer();
  ring.ring().add_waiting();
  Sleeper me(ring.wait_fd());
  std::vector<std::thread> threads;
  threads.emplace_back([&] { own_loop(run, consumer, turn, me); });
  ping(run, ring, {&me});
  wake_all(run, ring, threads);
}

// Two managers of one ring: one sleeps in its own loop, the other comes, sleeps for a moment, times out and goes, and must not
// take the first one's place in the count with it.
void two_managers(Run& run) {
  TestRing ring;
  std::mutex turn;
  const Consumer consumer = ring.consumer();
  const UniqueFd other = ring.make_wait();
  ring.ring().add_waiting();
  Sleeper patient(ring.wait_fd()), visitor(other.get());
  std::vector<std::thread> threads;
  threads.emplace_back([&] { own_loop(run, consumer, turn, patient); });
  threads.emplace_back([&] { visitor_loop(run, consumer, turn, visitor); });
  run.visited = true;
  ping(run, ring, {&patient, &visitor});
  wake_all(run, ring, threads);
}

// The waiter of S6 and nothing more: announce, look, sleep. The library's RoomWaiter also wakes a sleeping consumer before it
// sleeps itself, which would hide a missing barrier; this one does not.
class BareWaiter {
 public:
  explicit BareWaiter(const Producer& p) : producer_(p) {}
  void* reserve(std::uint64_t size, Sleeper& me, const std::atomic<bool>& stop) {
    const Ring& ring = producer_.ring();
    void* payload = nullptr;
    ring.add_room_waiter();
    while (!stop) {
      const std::uint32_t seq = ring.room_seq();
      ring.set_need(producer_.slot(), shm::stride(size) | std::uint64_t{++turn_} << 32);
      if ((payload = producer_.reserve(size, 0, &test::uncounted))) break;
      if (ring.producer_pos() + shm::stride(size) - ring.consumer_pos_total() <= ring.limit()) continue;
      me.going_to_sleep();
      shm::futex_wait(ring.room_futex(), seq, 3600ull * 1'000'000'000u);
      me.woke();
    }
    ring.set_need(producer_.slot(), std::uint64_t{++turn_} << 32);
    ring.sub_room_waiter();
    return payload;
  }

 private:
  const Producer producer_;
  std::uint32_t turn_ = 0;
};

// Producers whose records never fit beside each other wait for room; the consumer sleeps in its own loop whenever it has emptied
// the ring. All of them asleep at once, with nothing under way, is a loss: there is always something that one of them could do.
template <class Reserve>
void wait_for_room(Run& run, unsigned producers, Reserve reserve, std::uint32_t map_type = shm::kTypeRingbuf) {
  TestRing ring(4096, producers, 0, map_type);
  std::mutex turn;
  const Consumer consumer = ring.consumer();
  ring.ring().add_waiting();
  Sleeper sleeper(ring.wait_fd());
  std::vector<std::unique_ptr<Sleeper>> waiters;
  std::vector<Sleeper*> everybody{&sleeper};
  for (unsigned i = 0; i < producers; ++i) everybody.push_back(waiters.emplace_back(std::make_unique<Sleeper>()).get());
  std::atomic<std::uint64_t> committed{0};
  std::atomic<unsigned> gone{0};
  const UniqueFd done(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  std::vector<std::thread> threads;
  threads.emplace_back([&] { own_loop(run, consumer, turn, sleeper); });
  for (unsigned i = 0; i < producers; ++i) {
    threads.emplace_back([&, i] {
      pin(1);
      Sleeper& me = *waiters[i];
      me.here();
      auto wait = reserve(ring.producer(i + 1));
      const Producer producer = ring.producer(i + 1);
      std::uint64_t random = mix(i + 1);
      while (!run.stop) {
        random = mix(random);
        void* payload = wait(2060 + random % 2000, me);
        if (!payload) break;
        const std::uint64_t before = run.consumed;
        run.late.own();
        producer.submit(payload, 0);
        committed.fetch_add(1, std::memory_order_relaxed);
        // Ask again when the consumer is about to give these bytes back, sooner or later.
        for (unsigned spins = 0; run.consumed == before && spins < 4096; ++spins) shm::cpu_relax();
        for (unsigned n = (random >> 20) % 64; n > 0; --n) asm volatile("");
      }
      ++gone;
    });
  }
  // The monitor looks every millisecond until the run is over.
  pollfd over{done.get(), POLLIN, 0};
  while (!run.over()) {
    ::poll(&over, 1, 1);
    if (!all_stuck(everybody)) continue;
    ++run.losses;
    const std::uint64_t turns = sleeper.turns();
    rescue(ring);
    while (sleeper.turns() == turns) ::sched_yield();
  }
  run.stop = true;
  rescue(ring);
  // Producers that wait now are let go: their sleep ends, and they see that the run is over or get the room that there is.
  while (gone != producers) {
    consumer.ring().bump_room_seq();
    shm::futex_wake_all(consumer.ring().room_futex());
    std::lock_guard lock(turn);
    eat(consumer, [](void*, std::size_t) { return 0; });
  }
  for (auto& t : threads) t.join();
  run.iterations = committed;
}

void room(Run& run) {
  wait_for_room(run, 3, [&run](const Producer& p) {
    return [&run, waiter = std::make_unique<shm::RoomWaiter>(p)](std::uint64_t size, Sleeper& me) -> void* {
      me.going_to_sleep();  // "asleep" is then what /proc says: it blocks nowhere but on room
      void* payload = run.stop ? nullptr : waiter->reserve(size, -1);
      me.woke();
      return payload;
    };
  });
}

void room_bare(Run& run) {
  // With several, one that waits already is told and gets the room, and its next record rescues the stranded one.
  wait_for_room(run, run.must_lose ? 1 : 3, [&run](const Producer& p) {
    return [&run, waiter = BareWaiter(p)](std::uint64_t size, Sleeper& me) mutable { return waiter.reserve(size, me, run.stop); };
  });
}

// A user ring: its producer waits for the drain to give bytes back, the drainer for samples.
void drain(Run& run) {
  wait_for_room(
      run, 1,
      [&run](const Producer& p) {
        return [&run, waiter = BareWaiter(p)](std::uint64_t size, Sleeper& me) mutable {
          return waiter.reserve(size, me, run.stop);
        };
      },
      shm::kTypeUserRingbuf);
}

int main_of(const Options& options) {
  const struct {
    const char* name;
    void (*run)(Run&);
  } scenarios[] = {{"poll", sleep_in_poll}, {"own-loop", sleep_in_own_loop}, {"two-managers", two_managers},
                   {"room", room},          {"room-bare", room_bare},        {"drain", drain}};
  for (const auto& s : scenarios) {
    if (options.scenario != s.name) continue;
    if (options.must_lose && std::thread::hardware_concurrency() < 2) {
      std::puts("skipped: a store can only be late for another CPU, and there is one");
      return 77;
    }
    Run run(options);
    const std::uint64_t begin = shm::now_ns();
    s.run(run);
    std::printf("%s: %llu iterations, %llu wakeups lost, %.1f s\n", s.name, static_cast<unsigned long long>(run.iterations),
                static_cast<unsigned long long>(run.losses), static_cast<double>(shm::now_ns() - begin) / 1e9);
    return (run.losses != 0) == options.must_lose ? 0 : 1;
  }
  std::fputs("usage: wakeup_stress poll|own-loop|two-managers|room|room-bare|drain [--must-lose]\n", stderr);
  return 2;
}

}  // namespace
}  // namespace ringbuf::test

int main(int argc, char** argv) {
  ringbuf::test::Options options;
  if (argc > 1) options.scenario = argv[1];
  options.must_lose = argc > 2 && std::strcmp(argv[2], "--must-lose") == 0;
  if (const char* s = std::getenv("RINGBUF_STRESS_SECONDS")) options.seconds = std::atof(s);
  return ringbuf::test::main_of(options);
}
