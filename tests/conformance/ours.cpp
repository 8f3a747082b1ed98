// SPDX-License-Identifier: MIT
// libringbuf, with embedded maps: no daemon, no privileges.
#include <poll.h>
#include <sys/epoll.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "backend.hpp"
#include "programs.h"
#include "ringbuf/ringbuf.h"
#include "system/daemon_process.hpp"

namespace conformance {
namespace {

void must(int result, const char* what) {
  if (result >= 0) return;
  std::fprintf(stderr, "our back end: %s: %s\n", what, ringbuf_last_error());
  std::abort();
}

template <class T>
std::atomic_ref<T> word(T& at) {
  return std::atomic_ref<T>(at);
}

class OurRing : public Ring {
 public:
  OurRing(ringbuf_map* map, const Spec& spec) : map_(map), n_(spec.max_entries), user_(spec.type == kUserRingbuf) {
    must(ringbuf_producer_attach(map_, &producer_), "ringbuf_producer_attach");
    must(ringbuf_consumer_attach(map_, &OurRing::on_sample, this, &consumer_), "ringbuf_consumer_attach");
    p_ = ringbuf_producer_view(producer_);
    c_ = ringbuf_consumer_view(consumer_);
  }
  ~OurRing() override {
    for (unsigned slot = 0; slot < kSlotCount; ++slot)
      if (slots_[slot].data) discard(slot, kNoWakeup);
    ringbuf_poller_free(poller_);
    ringbuf_consumer_free(consumer_);
    ringbuf_producer_free(producer_);
    ringbuf_map_free(map_);
  }

  bool reserve(unsigned slot, std::uint32_t size) override { return keep(slot, ringbuf_reserve(producer_, size, 0)); }
  int write(unsigned slot, std::uint32_t offset, const Bytes& bytes, std::uint64_t flags) override {
    Slot& s = slots_[slot];
    if (s.dynptr) return ringbuf_dynptr_write(&s.ptr, offset, bytes.data(), static_cast<std::uint32_t>(bytes.size()), flags);
    std::memcpy(static_cast<char*>(s.data) + offset, bytes.data(), bytes.size());
    return 0;
  }
  void submit(unsigned slot, std::uint64_t flags) override {
    Slot& s = slots_[slot];
    if (s.dynptr) ringbuf_submit_dynptr(&s.ptr, flags);
    else ringbuf_submit(producer_, s.data, flags);
    s = {};
  }
  void discard(unsigned slot, std::uint64_t flags) override {
    Slot& s = slots_[slot];
    if (s.dynptr) ringbuf_discard_dynptr(&s.ptr, flags);
    else ringbuf_discard(producer_, s.data, flags);
    s = {};
  }

  bool record(std::uint64_t size, std::uint64_t reserve_flags, const Bytes& payload, bool discard,
              std::uint64_t commit_flags) override {
    void* data = ringbuf_reserve(producer_, size, reserve_flags);
    if (!data) return false;
    std::memset(data, 0, std::min<std::uint64_t>(size, kBytes));
    std::memcpy(data, payload.data(), payload.size());
    if (discard) ringbuf_discard(producer_, data, commit_flags);
    else ringbuf_submit(producer_, data, commit_flags);
    return true;
  }
  int reserve_dynptr(unsigned slot, std::uint32_t size, std::uint64_t flags) override {
    slots_[slot].dynptr = true;
    const int r = ringbuf_reserve_dynptr(producer_, size, flags, &slots_[slot].ptr);
    slots_[slot].data = slots_[slot].ptr.data;
    return r;
  }
  int read_dynptr(std::uint32_t offset, std::uint32_t size, std::uint64_t flags, Bytes* ret_bytes) override {
    Bytes bytes(size, '\0');
    const int r = ringbuf_dynptr_read(bytes.data(), size, &slots_[0].ptr, offset, flags);
    if (r == 0) *ret_bytes = std::move(bytes);
    return r;
  }
  bool dynptr_data(std::uint32_t offset, std::uint32_t length) override {
    return ringbuf_dynptr_data(&slots_[0].ptr, offset, length) != nullptr;
  }
  std::int64_t dynptr_size() override { return ringbuf_dynptr_size(&slots_[0].ptr); }
  int output(const Bytes& payload, std::uint64_t flags) override {
    return ringbuf_output(producer_, payload.data(), payload.size(), flags);
  }
  std::uint64_t query(std::uint64_t what) override { return ringbuf_query(producer_, what); }

  int consume(const OnSample& fn) override {
    fn_ = &fn;
    const int n = ringbuf_consume(consumer_);
    forget_leftovers();
    return n;
  }
  int consume_n(std::size_t n, const OnSample& fn) override {
    fn_ = &fn;
    const int delivered = ringbuf_consume_n(consumer_, n);
    forget_leftovers();
    return delivered;
  }
  int poll(int timeout_ms, const OnSample& fn) override {
    fn_ = &fn;
    return ringbuf_poll(poller(), timeout_ms);
  }

  int user_reserve(unsigned slot, std::uint32_t size) override {
    return keep(slot, ringbuf_reserve(producer_, size, 0)) ? 0 : errno;
  }
  int user_reserve_blocking(unsigned slot, std::uint32_t size, int timeout_ms) override {
    return keep(slot, ringbuf_reserve_wait(producer_, size, timeout_ms)) ? 0 : errno;
  }
  Drained drain(const DrainHow& how) override {
    struct State {
      OurRing* ring;
      const DrainHow* how;
      Drained d;
    } state{this, &how, {}};
    state.d.result = ringbuf_drain(
        consumer_,
        [](void* ctx, void* data, std::size_t size) {
          auto* s = static_cast<State*>(ctx);
          Drained& d = s->d;
          ++d.samples;
          if (d.samples <= kSamples) d.sizes.push_back(static_cast<std::uint32_t>(size));
          if (d.bytes.size() < kBytes && size < kBytes) d.bytes.append(static_cast<const char*>(data), size);
          if (d.samples == 1 && s->how->nested)
            d.nested = ringbuf_drain(
                s->ring->consumer_, [](void*, void*, std::size_t) { return 0; }, nullptr, 0);
          return d.samples == s->how->stop_at ? 1 : 0;
        },
        &state, how.flags);
    return state.d;
  }

  bool woken() override {
    if (user_) return room_woken();
    if (epoll_ < 0) {
      must(epoll_ = ringbuf_consumer_epoll_fd(consumer_), "ringbuf_consumer_epoll_fd");
      edges();
      return false;
    }
    return edges() && word(p_->producer_page->producer_pos).load() != word(p_->consumer_page->consumer_pos).load();
  }
  bool ready() override {
    must(epoll_ = ringbuf_consumer_epoll_fd(consumer_), "ringbuf_consumer_epoll_fd");
    pollfd p{epoll_, POLLIN, 0};
    return ::poll(&p, 1, 0) == 1;
  }

  Image image() override {
    ringbuf_producer_page& p = *p_->producer_page;
    return {word(p_->consumer_page->consumer_pos).load(),
            word(p.producer_pos).load(),
            word(p.pending_pos).load(),
            word(p.overwrite_pos).load(),
            Bytes(reinterpret_cast<const char*>(p_->data), n_),
            user_ ? 0 : p_->slot << RINGBUF_PG_OFF_BITS};
  }
  void see_consumer_pos() override { word(p_->producer_page->cached_pos).store(word(p_->consumer_page->consumer_pos).load()); }
  void forge_consumer_pos(std::uint64_t pos) override { word(c_->consumer_page->consumer_pos).store(pos); }
  void forge_producer_pos(std::uint64_t pos) override { word(p_->producer_page->producer_pos).store(pos); }
  void forge_data(std::uint64_t offset, const Bytes& bytes) override {
    std::memcpy(p_->data + offset, bytes.data(), bytes.size());
  }

  std::vector<Area> areas() override {
    const ringbuf_view& v = user_ ? *p_ : *c_;
    const std::size_t page = std::size_t{1} << v.page_shift;
    return {{"consumer page", v.consumer_page, page, !user_},
            {"producer page", v.producer_page, page, user_},
            {"data", v.data, n_, user_},
            {"data again", v.data + n_, n_, user_}};
  }
  int descriptor() override { return -1; }
  ringbuf_map* map() const { return map_; }

  int element(ElementOp op, bool null_key) override {
    std::uint32_t key = 0, value = 0;
    void* k = null_key ? nullptr : &key;
    switch (op) {
      case ElementOp::Lookup: return ringbuf_map_lookup_elem(map_, k, &value);
      case ElementOp::Update: return ringbuf_map_update_elem(map_, k, map_, 0);
      case ElementOp::Delete: return ringbuf_map_delete_elem(map_, k);
      case ElementOp::NextKey: return ringbuf_map_get_next_key(map_, k, &value);
    }
    return 0;
  }

  std::uint32_t id() override { return map_info().id; }
  Info info() override {
    const ringbuf_map_info i = map_info();
    return {i.type, i.key_size, i.value_size, i.max_entries, i.map_flags};
  }
  bool room_awaited() override { return word(p_->producer_page->room_waiters).load() != 0; }
  int manage(Ring& other) override { return ringbuf_poller_add(poller(), static_cast<OurRing&>(other).consumer_); }
  unsigned consumers(unsigned most) override {
    std::vector<ringbuf_consumer*> all;
    ringbuf_consumer* next = nullptr;
    while (all.size() < most && ringbuf_consumer_attach(
                                    map_, [](void*, void*, std::size_t) { return 0; }, nullptr, &next) == 0)
      all.push_back(next);
    for (ringbuf_consumer* consumer : all) ringbuf_consumer_free(consumer);
    return static_cast<unsigned>(all.size());
  }
  int poll_both(int timeout_ms, const OnSample& fn, Ring& other_ring, const OnSample& other_fn) override {
    auto& other = static_cast<OurRing&>(other_ring);
    fn_ = &fn;
    other.fn_ = &other_fn;
    ringbuf_poller* poller = nullptr;
    must(ringbuf_poller_new(&poller), "ringbuf_poller_new");
    must(ringbuf_poller_add(poller, consumer_), "ringbuf_poller_add");
    must(ringbuf_poller_add(poller, other.consumer_), "ringbuf_poller_add");
    const int n = ringbuf_poll(poller, timeout_ms);
    ringbuf_poller_free(poller);
    return n;
  }

 private:
  struct Slot {
    void* data = nullptr;
    bool dynptr = false;
    ringbuf_dynptr ptr{};
  };
  ringbuf_map_info map_info() {
    ringbuf_map_info info{};
    must(ringbuf_map_get_info(map_, &info, sizeof info), "ringbuf_map_get_info");
    return info;
  }
  ringbuf_poller* poller() {
    if (poller_) return poller_;
    must(ringbuf_poller_new(&poller_), "ringbuf_poller_new");
    must(ringbuf_poller_add(poller_, consumer_), "ringbuf_poller_add");
    return poller_;
  }
  static int on_sample(void* ctx, void* data, std::size_t size) {
    return (*static_cast<OurRing*>(ctx)->fn_)(Bytes(static_cast<const char*>(data), size));
  }
  bool keep(unsigned slot, void* data) {
    slots_[slot] = {};
    slots_[slot].data = data;
    return data != nullptr;
  }
  // Takes the edges of the epoll descriptor that an application would have.
  bool edges() {
    epoll_event e[4];
    return ::epoll_wait(epoll_, e, 4, 0) > 0;
  }
  // A consumer that leaves data behind makes its own descriptor readable again: no producer's wakeup.
  void forget_leftovers() {
    if (epoll_ >= 0) edges();
  }
  // A producer waits in the slot for 8 bytes, which is what the kernel's EPOLLOUT stands for; no thread need sleep for that.
  bool room_woken() {
    ringbuf_producer_page& page = *p_->producer_page;
    const std::uint32_t seq = word(p_->consumer_page->room_seq).load();
    const bool told = armed_ && seq != room_seq_;
    if (!armed_) word(page.room_waiters).fetch_add(1);
    armed_ = true;
    room_seq_ = seq;
    word(p_->slots[p_->slot].need).store(++turn_ << 32 | 8);
    return told && word(page.producer_pos).load() - word(p_->consumer_page->consumer_pos).load() < n_;
  }

  ringbuf_map* map_;
  std::uint32_t n_;
  bool user_;
  ringbuf_producer* producer_ = nullptr;
  ringbuf_consumer* consumer_ = nullptr;
  ringbuf_poller* poller_ = nullptr;
  const ringbuf_view *p_ = nullptr, *c_ = nullptr;
  int epoll_ = -1;
  const OnSample* fn_ = nullptr;
  Slot slots_[kSlotCount];
  bool armed_ = false;
  std::uint32_t room_seq_ = 0;
  std::uint64_t turn_ = 0;
};

// The daemon of the tests that need one, for as long as this process lives.
ringbuf_session* session() {
  static ringbuf::test::Daemon daemon;
  static const ringbuf::test::SessionPtr session = daemon.connect();
  return session.get();
}

class OurOuter : public Outer {
 public:
  explicit OurOuter(ringbuf_map* map) : map_(map) { must(ringbuf_outer_attach(map_, &outer_), "ringbuf_outer_attach"); }
  ~OurOuter() override {
    ringbuf_outer_free(outer_);
    ringbuf_map_free(map_);
  }

  int update(std::uint32_t key, Ring& inner, std::uint64_t flags) override {
    return ringbuf_map_update_elem(map_, &key, static_cast<OurRing&>(inner).map(), flags);
  }
  int descriptor() override { return -1; }
  ringbuf_map* map() const { return map_; }
  int erase(std::uint32_t key) override { return ringbuf_map_delete_elem(map_, &key); }
  int lookup(std::uint32_t key, std::uint32_t* ret_id) override { return ringbuf_map_lookup_elem(map_, &key, ret_id); }
  int next_key(const std::uint32_t* key, std::uint32_t* ret_key) override { return ringbuf_map_get_next_key(map_, key, ret_key); }
  int output(std::uint32_t key, const Bytes& payload) override {
    ringbuf_producer* producer = ringbuf_outer_lookup(outer_, &key);
    if (!producer && errno == ENOENT) return 1;
    must(producer ? 0 : -errno, "ringbuf_outer_lookup");
    return ringbuf_output(producer, payload.data(), payload.size(), 0);
  }

 private:
  ringbuf_map* map_;
  ringbuf_outer* outer_ = nullptr;
};

class Ours : public Backend {
 public:
  const char* name() const override { return "Ours"; }
  std::string unavailable() override { return ""; }
  int create(const Spec& spec, std::unique_ptr<Ring>* ret_ring) override {
    ringbuf_map_create_opts opts{};
    opts.sz = sizeof opts;
    opts.map_type = spec.type;
    opts.map_flags = spec.flags;
    opts.numa_node = spec.numa_node;
    opts.key_size = spec.key_size;
    opts.value_size = spec.value_size;
    opts.map_extra = spec.extra;
    ringbuf_map* map = nullptr;
    if (const int r = ringbuf_map_create(spec.shared ? session() : nullptr, "conformance", spec.max_entries, &opts, &map); r < 0)
      return r;
    *ret_ring = std::make_unique<OurRing>(map, spec);
    return 0;
  }
  int create(const OuterSpec& spec, std::unique_ptr<Outer>* ret_outer) override {
    ringbuf_map_create_opts opts{};
    opts.sz = sizeof opts;
    opts.map_type = spec.type;
    opts.map_flags = spec.flags;
    opts.key_size = spec.key_size;
    opts.value_size = spec.value_size;
    if (spec.inner) opts.inner_map = static_cast<OurRing*>(spec.inner)->map();
    if (spec.nested) opts.inner_map = static_cast<OurOuter*>(spec.nested)->map();
    ringbuf_map* map = nullptr;
    if (const int r = ringbuf_map_create(session(), "conformance", spec.max_entries, &opts, &map); r < 0) return r;
    *ret_outer = std::make_unique<OurOuter>(map);
    return 0;
  }
};

}  // namespace

Backend& ours() {
  static Ours it;
  return it;
}

std::vector<Backend*> backends() {
#ifdef CONFORMANCE_KERNEL
  return {&ours(), &kernel()};
#else
  return {&ours()};
#endif
}

}  // namespace conformance
