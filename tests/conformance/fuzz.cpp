// SPDX-License-Identifier: MIT
// conformance_fuzz [--seconds S] [--seed S [--steps N]]: the same random things done to a ring of ours, to one of the live
// kernel, and to a model of it. After each step all must agree on the result, the bytes delivered, the positions, who was woken,
// and on every byte of the ring. A seed is one episode: one ring of each, some thousand steps. --seed does one episode, and stops
// after
// --steps. Without bpf(2), and for overwrite mode before Linux 6.19, the kernel is not asked.
#include <algorithm>
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <random>

#include "backend.hpp"
#include "difference.hpp"
#include "programs.h"
#include "support/payload.hpp"

namespace conformance {
namespace {

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() { return ringbuf::test::mix(state_++); }
  std::uint64_t below(std::uint64_t n) { return next() % n; }
  bool one_in(std::uint64_t n) { return below(n) == 0; }
  template <class T>
  T of(std::initializer_list<T> values) {
    return values.begin()[below(values.size())];
  }

 private:
  std::uint64_t state_;
};

std::string number(std::uint64_t n) {
  char text[32];
  std::snprintf(text, sizeof text, n > 0xffff ? "0x%" PRIx64 : "%" PRIu64, n);
  return text;
}

struct Counts {
  std::uint64_t episodes = 0, steps = 0, woken = 0, failed = 0, with_kernel = 0;
};

// Those who can make such a ring, ours first.
std::vector<Backend*> sides_for(const Spec& spec) {
  std::vector<Backend*> sides = {&ours(), &model()};
#ifdef CONFORMANCE_KERNEL
  static const bool permitted = kernel().unavailable().empty();
  static const bool overwrites = [] {
    std::unique_ptr<Ring> ring;
    return kernel().create(Spec{.flags = kOverwrite}, &ring) == 0;
  }();
  if (permitted && (overwrites || !(spec.flags & kOverwrite))) sides.push_back(&kernel());
#else
  (void)spec;
#endif
  return sides;
}

class Episode {
 public:
  Episode(std::uint64_t seed, std::uint64_t max_steps) : seed_(seed), random_(seed), max_steps_(max_steps) {
    Spec spec;
    spec.type = random_.one_in(3) ? kUserRingbuf : kRingbuf;
    spec.max_entries = random_.of({4096u, 4096u, 8192u, 65536u});
    n_ = spec.max_entries;
    user_ = spec.type == kUserRingbuf;
    overwrite_ = !user_ && random_.one_in(4);
    if (overwrite_) spec.flags = kOverwrite;
    for (Backend* backend : sides_for(spec)) sides_.push_back({backend, nullptr, "", {}, false});
    headers_.resize(n_ / 8);
    for (Side& side : sides_)
      if (const int r = side.backend->create(spec, &side.ring); r < 0) {
        std::fprintf(stderr, "%s: create: %s\n", side.backend->name(), std::strerror(-r));
        std::exit(1);
      }
    for (Side& side : sides_) side.ring->woken();
    log("a " + std::string(user_ ? "USER_RINGBUF" : overwrite_ ? "RINGBUF in overwrite mode" : "RINGBUF") + " of " + number(n_));
  }

  // Exits at the first difference.
  void run(Counts* counts) {
    const std::uint64_t steps = std::min<std::uint64_t>(max_steps_, 1000 + random_.below(8000));
    for (step_ = 1; step_ <= steps; ++step_) {
      for (Side& side : sides_) side.result.clear();
      if (user_) user_step();
      else ringbuf_step();
      compare();
      counts->woken += sides_[0].woken;
      counts->failed += sides_[0].result.starts_with('-');
    }
    counts->steps += steps;
    ++counts->episodes;
    if (sides_.size() == 3) counts->with_kernel += steps;
    for (unsigned slot = 0; slot < Ring::kSlotCount; ++slot)
      if (open_[slot]) close(slot);
  }

 private:
  // What one side did in a step, as text to compare and to show.
  struct Side {
    Backend* backend;
    std::unique_ptr<Ring> ring;
    std::string result;
    Image image;
    bool woken = false;
  };

  void log(std::string what) {
    steps_.push_back(number(step_) + ": " + std::move(what));
    if (steps_.size() > 40) steps_.pop_front();
  }
  // Does f(ring) -> anything that number() takes, or text, on both sides.
  template <class F>
  void both(const std::string& what, F&& f) {
    log(what);
    for (Side& side : sides_) side.result = text(f(*side.ring));
  }
  static std::string text(std::string s) { return s; }
  static std::string text(std::int64_t n) { return std::to_string(n); }
  static std::string text(std::uint64_t n) { return number(n); }
  static std::string text(int n) { return std::to_string(n); }
  static std::string text(bool b) { return b ? "true" : "false"; }

  Bytes payload(std::size_t size) {
    Bytes bytes(size, '\0');
    const std::uint64_t seed = random_.next();
    for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(ringbuf::test::mix(seed + i / 8) >> (i % 8 * 8));
    return bytes;
  }
  std::uint32_t any_size() {
    const auto n = static_cast<std::uint32_t>(n_);
    switch (random_.below(12)) {
      case 0: return n - 32 + static_cast<std::uint32_t>(random_.below(48));
      case 1: return random_.of({0xffffffu, 0x1000000u, 0x3fffffffu, 0x40000000u, 0x7fffffffu, 0x80000000u, 0xffffffffu});
      case 2:
      case 3: return static_cast<std::uint32_t>(random_.below(n / 4));
      default: return static_cast<std::uint32_t>(random_.below(64));
    }
  }
  std::uint64_t any_flags() {
    return random_.one_in(8) ? random_.next()
                             : random_.of<std::uint64_t>({0, 0, 0, kNoWakeup, kForceWakeup, kNoWakeup | kForceWakeup, 4});
  }
  int any_slot(bool open) {
    const auto from = static_cast<unsigned>(random_.below(Ring::kSlotCount));
    for (unsigned i = 0; i < Ring::kSlotCount; ++i)
      if (const unsigned slot = (from + i) % Ring::kSlotCount; open_[slot] == open) return static_cast<int>(slot);
    return -1;
  }
  void close(unsigned slot) {
    const bool discard = random_.one_in(3);
    const std::uint64_t flags = any_flags();
    both(std::string(discard ? "discard" : "submit") + "(slot " + number(slot) + ", flags " + number(flags) + ")", [&](Ring& r) {
      discard ? r.discard(slot, flags) : r.submit(slot, flags);
      return 0;
    });
    open_[slot] = false;
  }

  // --- RINGBUF -----------------------------------------------------------------------------------------------------
  void ringbuf_step() {
    const std::uint64_t what = random_.below(100);
    if (what < 20) reserve();
    else if (what < 30) write();
    else if (what < 50 && any_slot(true) >= 0) close(static_cast<unsigned>(any_slot(true)));
    else if (what < 54) dynptr();
    else if (what < 62) record();
    else if (what < 77) output();
    else if (what < 81) query();
    else if (what < 84 || (forged_ && what < 90)) forge();
    else if (!forged_ && !overwrite_) consume();
  }
  void reserve() {
    const int slot = any_slot(false);
    if (slot < 0) return;
    const std::uint32_t size = any_size();
    const std::uint64_t flags = random_.one_in(20) ? any_flags() : 0;
    // Filled at once: what lies there from the last lap has headers in it, and they have our slots.
    const Bytes bytes = payload(size < kBytes ? size : 0);
    both("reserve_dynptr(slot " + number(slot) + ", size " + number(size) + ", flags " + number(flags) + ")", [&](Ring& r) {
      const int result = r.reserve_dynptr(static_cast<unsigned>(slot), size, flags);
      if (result == 0) r.write(static_cast<unsigned>(slot), 0, bytes);
      return result;
    });
    open_[slot] = true;  // whatever the result
    size_[slot] = sides_[0].result == "0" ? size : 0;
  }
  void write() {
    const int slot = any_slot(true);
    if (slot < 0) return;
    const std::uint32_t size = size_[slot];
    const bool wrong = random_.one_in(8);
    const auto offset = static_cast<std::uint32_t>(wrong ? random_.below(2 * size + 16) : random_.below(size + 1));
    const Bytes bytes = payload(wrong ? random_.below(size + 16) : random_.below(size - std::min(offset, size) + 1));
    const std::uint64_t flags = random_.one_in(16) ? any_flags() : 0;
    both("write(slot " + number(slot) + ", offset " + number(offset) + ", " + number(bytes.size()) + " bytes, flags " +
             number(flags) + ")",
         [&](Ring& r) { return r.write(static_cast<unsigned>(slot), offset, bytes, flags); });
  }
  void dynptr() {
    if (!open_[0]) return;
    const auto offset = static_cast<std::uint32_t>(random_.below(size_[0] + 16));
    switch (random_.below(3)) {
      case 0: {
        const auto size = static_cast<std::uint32_t>(random_.below(size_[0] + 16));
        const std::uint64_t flags = random_.one_in(8) ? any_flags() : 0;
        both("read_dynptr(offset " + number(offset) + ", size " + number(size) + ", flags " + number(flags) + ")", [&](Ring& r) {
          Bytes bytes;
          const int result = r.read_dynptr(offset, size, flags, &bytes);
          return std::to_string(result) + bytes;
        });
        break;
      }
      case 1: {
        const std::uint32_t length = random_.of({0u, 1u, 8u, 100u, 101u});
        both("dynptr_data(offset " + number(offset) + ", length " + number(length) + ")",
             [&](Ring& r) { return r.dynptr_data(offset, length); });
        break;
      }
      case 2: both("dynptr_size()", [&](Ring& r) { return r.dynptr_size(); }); break;
    }
  }
  void record() {
#define X(n) n,
    static constexpr std::uint64_t sizes[] = {CONSTANT_SIZES(X)};
#undef X
    const std::uint64_t size = random_.one_in(3) ? sizes[random_.below(std::size(sizes))] : random_.of({0u, 8u, 32u, 100u});
    const std::uint64_t flags = random_.one_in(16) ? any_flags() : 0, commit_flags = any_flags();
    const bool discard = random_.one_in(3);
    const Bytes bytes = payload(random_.below(std::min<std::uint64_t>(size, kBytes) + 1));
    both("record(size " + number(size) + ", flags " + number(flags) + (discard ? ", discard" : ", submit") + " flags " +
             number(commit_flags) + ")",
         [&](Ring& r) { return r.record(size, flags, bytes, discard, commit_flags); });
  }
  void output() {
    const Bytes bytes = payload(any_size() & (2 * kBytes - 1));
    const std::uint64_t flags = any_flags();
    both("output(" + number(bytes.size()) + " bytes, flags " + number(flags) + ")",
         [&](Ring& r) { return r.output(bytes, flags); });
  }
  void query() {
    const std::uint64_t what = random_.one_in(4) ? random_.next() : random_.below(7);
    both("query(" + number(what) + ")", [&](Ring& r) { return r.query(what); });
  }
  void consume() {
    const std::uint64_t stop_at = random_.one_in(4) ? 1 + random_.below(8) : 0;
    const int stop_with = -static_cast<int>(1 + random_.below(9999));
    const std::size_t n = random_.one_in(3) ? 1 + random_.below(8) : 0;  // 0: all
    both((n ? "consume_n(" + number(n) : std::string("consume(")) + (stop_at ? ", stop at " + number(stop_at) : "") + ")",
         [&](Ring& r) {
           std::string got;
           std::uint64_t seen = 0;
           const OnSample fn = [&](const Bytes& bytes) {
             got += "[" + bytes + "]";
             return ++seen == stop_at ? stop_with : random_result_;
           };
           const int result = n ? r.consume_n(n, fn) : r.consume(fn);
           return std::to_string(result) + got;
         });
    random_result_ = static_cast<int>(random_.below(3));  // not negative: all mean the same
  }
  void forge() {
    const Image& image = sides_[0].image;
    std::uint64_t pos = image.producer_pos;
    if (!forged_ || !random_.one_in(3)) {
      switch (random_.below(6)) {
        case 0: pos = random_.next(); break;
        case 1: pos = image.producer_pos + random_.below(2 * n_); break;
        case 2: pos = image.producer_pos - random_.below(2 * n_); break;
        case 3: pos = image.consumer_pos + random_.below(32); break;
        case 4: pos = image.producer_pos + n_ * (1 + random_.below(4)); break;
        case 5: pos = random_.of({std::uint64_t{0}, ~std::uint64_t{0}, std::uint64_t{1} << 63, image.pending_pos}); break;
      }
      forged_ = true;
    } else {
      forged_ = false;
    }
    difference("consumer-pos-seen-late");
    both("forge_consumer_pos(" + number(pos) + ")" + (forged_ ? "" : ", true again"), [&](Ring& r) {
      r.forge_consumer_pos(pos);
      if (!overwrite_) r.see_consumer_pos();
      return 0;
    });
  }

  // --- USER_RINGBUF ------------------------------------------------------------------------------------------------
  void user_step() {
    const std::uint64_t what = random_.below(100);
    if (forged_) {
      if (what < 60) drain();
      else if (what < 80) forge_header();
      else repair();
    } else if (what < 40) {
      user_reserve();
    } else if (what < 50) {
      user_write();
    } else if (what < 75 && any_slot(true) >= 0) {
      close(static_cast<unsigned>(any_slot(true)));
    } else if (what < 80 && any_slot(true) < 0) {
      forge_header();
    } else {
      drain();
    }
  }
  void user_reserve() {
    const int slot = any_slot(false);
    if (slot < 0) return;
    const std::uint32_t size = any_size();
    both("user_reserve(slot " + number(slot) + ", size " + number(size) + ")",
         [&](Ring& r) { return r.user_reserve(static_cast<unsigned>(slot), size); });
    open_[slot] = sides_[0].result == "0";
    size_[slot] = size;
  }
  void user_write() {
    const int slot = any_slot(true);
    if (slot < 0 || sides_[0].image.producer_pos % n_ + size_[slot] > 2 * n_) return;
    const auto offset = static_cast<std::uint32_t>(random_.below(size_[slot] + 1));
    const Bytes bytes = payload(random_.below(size_[slot] - offset + 1));
    both("write(slot " + number(slot) + ", offset " + number(offset) + ", " + number(bytes.size()) + " bytes)",
         [&](Ring& r) { return r.write(static_cast<unsigned>(slot), offset, bytes); });
  }
  void drain() {
    DrainHow how;
    how.flags = any_flags();
    how.stop_at = random_.one_in(3) ? 1 + random_.below(8) : 0;
    how.nested = random_.one_in(6);
    both("drain(flags " + number(how.flags) + ", stop at " + number(how.stop_at) + (how.nested ? ", nested)" : ")"),
         [&](Ring& r) {
           const Drained d = r.drain(how);
           std::string sizes;
           for (const std::uint32_t size : d.sizes) sizes += " " + number(size);
           return std::to_string(d.result) + ", " + number(d.samples) + " samples, nested " + std::to_string(d.nested) + ":" +
                  sizes + " " + d.bytes;
         });
  }
  // A header that may not be, at the next sample or anywhere, and a position beyond it or anywhere. Nobody reserves until the
  // producer has repaired it.
  void forge_header() {
    const std::uint64_t cons = sides_[0].image.consumer_pos;
    std::uint32_t len = any_size();
    if (random_.one_in(3)) len = (len & 0x3fffffff) | random_.of({kBusy, kDiscard, kBusy | kDiscard});
    Bytes header(8, '\0');
    std::memcpy(header.data(), &len, 4);
    const std::uint64_t at = (random_.one_in(4) ? random_.next() : cons) % n_ & ~std::uint64_t{7};
    const std::uint64_t stride = ((len & 0x3fffffff) + std::uint64_t{15}) / 8 * 8;
    std::uint64_t prod = cons;
    switch (random_.below(8)) {
      case 0: prod = cons - random_.below(n_); break;
      case 1: prod = cons + random_.below(4 * n_); break;
      case 2: prod = cons + random_.below(64) * 8; break;
      case 3: prod = random_.next(); break;
      case 4: prod = cons + stride - 8; break;
      default: prod = cons + stride + random_.below(3) * 8; break;
    }
    if (prod - cons > n_ * 16 && random_.below(8) != 0) prod = cons + stride;  // takes 131072 samples, so not too often
    forged_ = true;
    both("forge header " + number(len) + " at " + number(at) + ", producer_pos " + number(prod), [&](Ring& r) {
      r.forge_data(at, header);
      r.forge_producer_pos(prod);
      return 0;
    });
  }
  void repair() {
    const std::uint64_t cons = sides_[0].image.consumer_pos;
    forged_ = false;
    both("forge_producer_pos(" + number(cons) + "), true again", [&](Ring& r) {
      r.forge_producer_pos(cons);
      return 0;
    });
  }

  // --- agreement ---------------------------------------------------------------------------------------------------
  void compare() {
    for (Side& side : sides_) {
      side.woken = side.ring->woken();
      side.image = side.ring->image();
    }
    const Side& a = sides_[0];
    if (prod_ != a.image.producer_pos) headers_[prod_ % n_ / 8] = true;
    prod_ = a.image.producer_pos;
    for (const Side& b : sides_) {
      std::string differs;
      if (a.result != b.result) differs += " result";
      if (a.woken != b.woken) differs += " woken";
      if (a.image.consumer_pos != b.image.consumer_pos) differs += " consumer_pos";
      if (a.image.producer_pos != b.image.producer_pos) differs += " producer_pos";
      if (!user_ && a.image.pending_pos != b.image.pending_pos) differs += " pending_pos";
      if (overwrite_ && a.image.overwrite_pos != b.image.overwrite_pos) differs += " overwrite_pos";
      if (!same_data(a.image, b.image)) differs += " data";
      if (!differs.empty()) report(b, differs);
    }
  }
  // All bytes; but where there is, or once was, a header, our slot may stand in (what is left of) its second word.
  bool same_data(const Image& mine, const Image& other) const {
    if (mine.data == other.data) return true;
    for (std::uint64_t at = 0; at < n_; at += 8) {
      std::uint64_t a, b;
      std::memcpy(&a, mine.data.data() + at, 8);
      std::memcpy(&b, other.data.data() + at, 8);
      if (a == b) continue;
      const bool header = headers_[at / 8] && b >> 52 == 0 && a == (b | std::uint64_t{mine.owner} << 32);
      if (!header) return false;
    }
    return true;
  }
  [[noreturn]] void report(const Side& other, const std::string& differs) {
    std::printf("The last steps:\n");
    for (const auto& step : steps_) std::printf("  %s\n", step.c_str());
    std::printf("\nOurs and %s differ in:%s\n", other.backend->name(), differs.c_str());
    for (const Side& side : sides_) {
      std::printf("%-6s result %s, %s\n       consumer_pos %" PRIu64 ", producer_pos %" PRIu64 ", pending_pos %" PRIu64
                  ", overwrite_pos %" PRIu64 "\n",
                  side.backend->name(), printable(side.result).c_str(), side.woken ? "woken" : "not woken",
                  side.image.consumer_pos, side.image.producer_pos, side.image.pending_pos, side.image.overwrite_pos);
    }
    hex_diff(sides_[0].image.data, other.image.data);
    std::printf("\nseed %" PRIu64 ", step %" PRIu64 "; again: conformance_fuzz --seed %" PRIu64 " --steps %" PRIu64 "\n", seed_,
                step_, seed_, step_);
    std::fflush(stdout);
    std::_Exit(1);
  }
  static std::string printable(const std::string& result) {
    std::string out;
    for (const char c : result.substr(0, 200)) out += c >= ' ' && c <= '~' ? c : '.';
    return result.size() > 200 ? out + "... (" + number(result.size()) + " bytes)" : out;
  }
  static void hex_diff(const Bytes& a, const Bytes& b) {
    int lines = 0;
    for (std::size_t at = 0; at < a.size() && lines < 32; at += 16) {
      if (a.compare(at, 16, b, at, 16) == 0) continue;  // also shows what same_data excuses
      ++lines;
      for (const auto* side : {&a, &b}) {
        std::printf("%s %06zx ", side == &a ? "ours  " : "theirs", at);
        for (std::size_t i = at; i < at + 16; ++i)
          std::printf(a[i] == b[i] ? " %02x" : "*%02x", static_cast<unsigned char>((*side)[i]));
        std::printf("\n");
      }
    }
  }

  const std::uint64_t seed_;
  Random random_;
  const std::uint64_t max_steps_;
  std::uint64_t step_ = 0, n_ = 0, prod_ = 0;
  std::vector<bool> headers_;
  bool user_ = false, overwrite_ = false, forged_ = false;
  bool open_[Ring::kSlotCount] = {};
  std::uint32_t size_[Ring::kSlotCount] = {};
  int random_result_ = 0;
  std::vector<Side> sides_;
  std::deque<std::string> steps_;
};

int run(int argc, char** argv) {
  std::uint64_t seconds = 10, seed = std::random_device()(), steps = UINT64_MAX;
  bool once = false;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    const bool known = option == "--seconds" || option == "--seed" || option == "--steps";
    char* end = nullptr;
    const std::uint64_t value = i + 1 < argc ? std::strtoull(argv[++i], &end, 0) : 0;
    if (!known || !end || *end || end == argv[i]) {
      std::fprintf(stderr, "usage: conformance_fuzz [--seconds S] [--seed S [--steps N]]\n");
      return 2;
    }
    if (option == "--seconds") seconds = value;
    else if (option == "--seed") seed = value, once = true;
    else steps = value;
  }
  std::printf("seed %" PRIu64 "\n", seed);
  std::fflush(stdout);
  const auto begin = std::chrono::steady_clock::now();
  Counts n;
  do {
    Episode(seed++, steps).run(&n);
  } while (!once && std::chrono::steady_clock::now() - begin < std::chrono::seconds(seconds));
  const double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  std::printf("%" PRIu64 " episodes, %" PRIu64 " steps (%" PRIu64 " with the kernel; %" PRIu64 " woke somebody, %" PRIu64
              " failed) in %.0f s, %.0f a second: no difference\n",
              n.episodes, n.steps, n.with_kernel, n.woken, n.failed, took, static_cast<double>(n.steps) / took);
#ifdef CONFORMANCE_KERNEL
  if (const std::string why = kernel().unavailable(); !why.empty()) {
    std::printf("skipped: %s; compared with the model only\n", why.c_str());
    return 77;
  }
#endif
  return 0;
}

}  // namespace
}  // namespace conformance

int main(int argc, char** argv) { return conformance::run(argc, argv); }
