// SPDX-License-Identifier: MIT
// The live kernel: rings by bpf(2), producers by the programs of programs.bpf.c, consumers by libbpf. What is newer than Debian's
// libbpf 1.1.2 (consume_n, the ring__ accessors) is written here over an own mapping of the map, as libbpf 1.5 does it.
#include <linux/bpf.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "backend.hpp"
#include "kernel_programs.hpp"

namespace conformance {
namespace {

template <class T>
std::atomic_ref<T> word(void* at) {
  return std::atomic_ref<T>(*static_cast<T*>(at));
}

class KernelRing : public Ring {
 public:
  KernelRing(Fd map, const Spec& spec)
      : map_(std::move(map)), n_(spec.max_entries), page_(page_size()), user_(spec.type == kUserRingbuf) {
    const auto map_at = [&](std::size_t at, std::size_t size, bool write) {
      void* p = ::mmap(nullptr, size, write ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, map_.get(), static_cast<off_t>(at));
      must(p != MAP_FAILED, "mmap of the ring");
      return static_cast<char*>(p);
    };
    consumer_ = map_at(0, page_, !user_);
    producer_ = map_at(page_, page_ + 2 * std::size_t{n_}, user_);
    data_ = producer_ + page_;
    if (user_) {
      user_ring_ = user_ring_buffer__new(map_.get(), nullptr);
      must(user_ring_ != nullptr, "user_ring_buffer__new");
    } else {
      ring_ = ring_buffer__new(map_.get(), &KernelRing::on_sample, this, nullptr);
      must(ring_ != nullptr, "ring_buffer__new");
    }
  }
  ~KernelRing() override {
    interpreter_.reset();
    user_ring_buffer__free(user_ring_);
    ring_buffer__free(ring_);
    ::munmap(consumer_, page_);
    ::munmap(producer_, page_ + 2 * std::size_t{n_});
  }

  bool reserve(unsigned slot, std::uint32_t size) override {
    if (user_) return user_reserve(slot, size) == 0;
    if (reserve_dynptr(slot, size, 0) == 0) return true;
    discard(slot, 0);
    return false;
  }
  int write(unsigned slot, std::uint32_t offset, const Bytes& bytes, std::uint64_t flags) override {
    if (user_) {
      std::memcpy(static_cast<char*>(samples_[slot]) + offset, bytes.data(), bytes.size());
      return 0;
    }
    std::memcpy(memory()->in, bytes.data(), bytes.size());
    return static_cast<int>(call({OP_WRITE, slot, bytes.size(), offset, flags, 0}));
  }
  void submit(unsigned slot, std::uint64_t flags) override {
    if (user_) user_ring_buffer__submit(user_ring_, samples_[slot]);
    else call({OP_SUBMIT, slot, 0, 0, flags, 0});
  }
  void discard(unsigned slot, std::uint64_t flags) override {
    if (user_) user_ring_buffer__discard(user_ring_, samples_[slot]);
    else call({OP_DISCARD, slot, 0, 0, flags, 0});
  }

  bool record(std::uint64_t size, std::uint64_t reserve_flags, const Bytes& payload, bool discard,
              std::uint64_t commit_flags) override {
    shared* m = memory();
    m->size = size;
    m->flags = reserve_flags;
    m->commit_flags = commit_flags;
    m->discard = discard;
    std::memset(m->in, 0, std::min<std::uint64_t>(size, kBytes));
    std::memcpy(m->in, payload.data(), payload.size());
    programs_->run("record");
    must(m->result == 0 || m->result == 1, "a size that is not in CONSTANT_SIZES");
    return m->result == 1;
  }
  int reserve_dynptr(unsigned slot, std::uint32_t size, std::uint64_t flags) override {
    return static_cast<int>(call({OP_RESERVE, slot, size, 0, flags, 0}));
  }
  int read_dynptr(std::uint32_t offset, std::uint32_t size, std::uint64_t flags, Bytes* ret_bytes) override {
    const int r = static_cast<int>(call({OP_READ, 0, size, offset, flags, 0}));
    if (r == 0) ret_bytes->assign(memory()->out, size);
    return r;
  }
  bool dynptr_data(std::uint32_t offset, std::uint32_t length) override { return call({OP_DATA, 0, length, offset, 0, 0}) != 0; }
  std::int64_t dynptr_size() override { return call({OP_SIZE, 0, 0, 0, 0, 0}); }
  int output(const Bytes& payload, std::uint64_t flags) override {
    std::memcpy(memory()->in, payload.data(), payload.size());
    memory()->size = payload.size();
    memory()->flags = flags;
    programs_->run("output");
    return static_cast<int>(memory()->result);
  }
  std::uint64_t query(std::uint64_t what) override {
    memory()->flags = what;
    programs_->run("query");
    return static_cast<std::uint64_t>(memory()->result);
  }

  int consume(const OnSample& fn) override {
    fn_ = &fn;
    return ring_buffer__consume(ring_);
  }
  int consume_n(std::size_t n, const OnSample& fn) override {
    std::uint64_t pos = word<std::uint64_t>(consumer_).load(std::memory_order_acquire);
    std::int64_t delivered = 0;
    for (bool found = true; found;) {
      found = false;
      const std::uint64_t end = word<std::uint64_t>(producer_).load(std::memory_order_acquire);
      while (pos < end) {
        char* header = data_ + (pos & (n_ - 1));
        const std::uint32_t len = word<std::uint32_t>(header).load(std::memory_order_acquire);
        if (len & kBusy) return static_cast<int>(delivered);
        found = true;
        const std::uint32_t size = len & ~kDiscard;
        pos += (std::uint64_t{size} + 15) / 8 * 8;
        int r = 0;
        if (!(len & kDiscard)) {
          r = fn(Bytes(header + 8, size));
          ++delivered;
        }
        word<std::uint64_t>(consumer_).store(pos, std::memory_order_release);
        if (r < 0) return r;
        if (delivered >= static_cast<std::int64_t>(n)) return static_cast<int>(delivered);
      }
    }
    return static_cast<int>(delivered);
  }
  int poll(int timeout_ms, const OnSample& fn) override {
    fn_ = &fn;
    return ring_buffer__poll(ring_, timeout_ms);
  }

  int user_reserve(unsigned slot, std::uint32_t size) override {
    samples_[slot] = user_ring_buffer__reserve(user_ring_, size);
    return samples_[slot] ? 0 : errno;
  }
  int user_reserve_blocking(unsigned slot, std::uint32_t size, int timeout_ms) override {
    samples_[slot] = user_ring_buffer__reserve_blocking(user_ring_, size, timeout_ms);
    return samples_[slot] ? 0 : errno;
  }
  Drained drain(const DrainHow& how) override {
    shared* m = memory();
    m->flags = how.flags;
    m->stop_at = how.stop_at;
    m->nested = how.nested;
    m->nested_result = 0;
    programs_->run("drain");
    Drained d;
    d.result = m->result;
    d.samples = m->sampled;
    d.sizes.assign(m->sizes, m->sizes + std::min<std::uint64_t>(m->sampled, kSamples));
    d.bytes.assign(m->samples, m->sampled_bytes);
    d.nested = m->nested_result;
    return d;
  }

  bool woken() override {
    epoll_event e{};
    if (edges_.get() < 0) {
      edges_ = Fd(::epoll_create1(EPOLL_CLOEXEC));
      e.events = (user_ ? EPOLLOUT : EPOLLIN) | EPOLLET;
      must(::epoll_ctl(edges_.get(), EPOLL_CTL_ADD, map_.get(), &e) == 0, "epoll_ctl");
      ::epoll_wait(edges_.get(), &e, 1, 0);
      return false;
    }
    return ::epoll_wait(edges_.get(), &e, 1, 0) == 1;
  }
  bool ready() override {
    pollfd p{map_.get(), static_cast<short>(user_ ? POLLOUT : POLLIN), 0};
    return ::poll(&p, 1, 0) == 1;
  }

  Image image() override {
    return {word<std::uint64_t>(consumer_).load(),
            word<std::uint64_t>(producer_).load(),
            word<std::uint64_t>(producer_ + 8).load(),
            word<std::uint64_t>(producer_ + 16).load(),
            Bytes(data_, n_),
            0};
  }
  void see_consumer_pos() override {}
  void forge_consumer_pos(std::uint64_t pos) override { word<std::uint64_t>(consumer_).store(pos); }
  void forge_producer_pos(std::uint64_t pos) override { word<std::uint64_t>(producer_).store(pos); }
  void forge_data(std::uint64_t offset, const Bytes& bytes) override { std::memcpy(data_ + offset, bytes.data(), bytes.size()); }

  std::vector<Area> areas() override {
    return {{"consumer page", consumer_, page_, !user_},
            {"producer page", producer_, page_, user_},
            {"data", data_, n_, user_},
            {"data again", data_ + n_, n_, user_}};
  }
  int descriptor() override { return map_.get(); }

  int element(ElementOp op, bool null_key) override {
    std::uint32_t key = 0, value = 0;
    void* k = null_key ? nullptr : &key;
    switch (op) {
      case ElementOp::Lookup: return bpf_map_lookup_elem(map_.get(), k, &value);
      case ElementOp::Update: return bpf_map_update_elem(map_.get(), k, &value, 0);
      case ElementOp::Delete: return bpf_map_delete_elem(map_.get(), k);
      case ElementOp::NextKey: return bpf_map_get_next_key(map_.get(), k, &value);
    }
    return 0;
  }

  std::uint32_t id() override { return map_info().id; }
  Info info() override {
    const bpf_map_info i = map_info();
    return {i.type, i.key_size, i.value_size, i.max_entries, i.map_flags};
  }
  bool room_awaited() override { return false; }
  int manage(Ring& other_ring) override {
    auto& other = static_cast<KernelRing&>(other_ring);
    return ring_buffer__add(ring_, other.map_.get(), &KernelRing::on_sample, &other);
  }
  unsigned consumers(unsigned most) override {
    std::vector<ring_buffer*> all;
    while (all.size() < most)
      if (ring_buffer* next = ring_buffer__new(map_.get(), &KernelRing::on_sample, this, nullptr)) all.push_back(next);
      else break;
    for (ring_buffer* manager : all) ring_buffer__free(manager);
    return static_cast<unsigned>(all.size());
  }
  int poll_both(int timeout_ms, const OnSample& fn, Ring& other_ring, const OnSample& other_fn) override {
    auto& other = static_cast<KernelRing&>(other_ring);
    fn_ = &fn;
    other.fn_ = &other_fn;
    ring_buffer* manager = ring_buffer__new(map_.get(), &KernelRing::on_sample, this, nullptr);
    must(manager && ring_buffer__add(manager, other.map_.get(), &KernelRing::on_sample, &other) == 0, "ring_buffer__add");
    const int n = ring_buffer__poll(manager, timeout_ms);
    ring_buffer__free(manager);
    return n;
  }

 private:
  static int on_sample(void* ctx, void* data, std::size_t size) {
    return (*static_cast<KernelRing*>(ctx)->fn_)(Bytes(static_cast<const char*>(data), size));
  }
  bpf_map_info map_info() const {
    bpf_map_info info{};
    std::uint32_t size = sizeof info;
    must(bpf_obj_get_info_by_fd(map_.get(), &info, &size) == 0, "BPF_OBJ_GET_INFO_BY_FD");
    return info;
  }
  shared* memory() {
    if (!programs_) {
      if (user_) programs_ = std::make_unique<Programs>(std::vector<std::string>{"drain"}, maps("user_ring"));
      else programs_ = std::make_unique<Programs>(std::vector<std::string>{"record", "output", "query"}, maps("ring"));
      memory_ = programs_->memory();
    }
    return memory_;
  }
  std::vector<std::pair<std::string, int>> maps(const char* name) const { return {{name, map_.get()}}; }
  std::int64_t call(const op& what) {
    shared* m = memory();
    if (!interpreter_) interpreter_ = std::make_unique<Interpreter>(map_.get(), programs_->memory_fd(), m);
    return interpreter_->call(what);
  }

  Fd map_, edges_;
  std::uint32_t n_;
  std::size_t page_;
  bool user_;
  char *consumer_ = nullptr, *producer_ = nullptr, *data_ = nullptr;
  ring_buffer* ring_ = nullptr;
  user_ring_buffer* user_ring_ = nullptr;
  const OnSample* fn_ = nullptr;
  void* samples_[kSlotCount] = {};
  std::unique_ptr<Programs> programs_;
  shared* memory_ = nullptr;
  std::unique_ptr<Interpreter> interpreter_;
};

class KernelOuter : public Outer {
 public:
  KernelOuter(Fd map, bool hash) : map_(std::move(map)), hash_(hash) {}

  int update(std::uint32_t key, Ring& inner, std::uint64_t flags) override {
    const int fd = inner.descriptor();
    return bpf_map_update_elem(map_.get(), &key, &fd, flags);
  }
  int descriptor() override { return map_.get(); }
  int erase(std::uint32_t key) override { return bpf_map_delete_elem(map_.get(), &key); }
  int lookup(std::uint32_t key, std::uint32_t* ret_id) override { return bpf_map_lookup_elem(map_.get(), &key, ret_id); }
  int next_key(const std::uint32_t* key, std::uint32_t* ret_key) override {
    return bpf_map_get_next_key(map_.get(), key, ret_key);
  }
  int output(std::uint32_t key, const Bytes& payload) override {
    const std::string program = hash_ ? "put_by_key" : "put_by_index";
    if (!programs_)
      programs_ = std::make_unique<Programs>(std::vector<std::string>{program},
                                             std::vector<std::pair<std::string, int>>{{hash_ ? "hash" : "array", map_.get()}});
    shared* m = programs_->memory();
    m->key = key;
    m->size = payload.size();
    std::memcpy(m->in, payload.data(), payload.size());
    programs_->run(program.c_str());
    return static_cast<int>(m->result);
  }

 private:
  Fd map_;
  const bool hash_;
  std::unique_ptr<Programs> programs_;
};

class Kernel : public Backend {
 public:
  const char* name() const override { return "Kernel"; }
  std::string unavailable() override {
    std::unique_ptr<Ring> ring;
    if (const int r = create(Spec{}, &ring); r < 0) return std::string("the kernel's bpf(2): ") + std::strerror(-r);
    utsname system{};
    unsigned major = 0, minor = 0;
    ::uname(&system);
    if (std::sscanf(system.release, "%u.%u", &major, &minor) != 2 || major * 1000 + minor < 6004)
      return "the kernel's half needs Linux 6.4, whose programs can hold reservations open in a loop";
    if (::access("/sys/kernel/btf/vmlinux", R_OK) != 0) return "the kernel's half needs /sys/kernel/btf/vmlinux";
    if (Fd(make_faults()).get() < 0) return std::string("the kernel's half needs userfaultfd: ") + std::strerror(errno);
    return "";
  }
  int create(const Spec& spec, std::unique_ptr<Ring>* ret_ring) override {
    bpf_attr attr{};
    attr.map_type = spec.type;
    attr.key_size = spec.key_size;
    attr.value_size = spec.value_size;
    attr.max_entries = spec.max_entries;
    attr.map_flags = spec.flags;
    attr.numa_node = spec.numa_node;
    attr.map_extra = spec.extra;
    Fd map(static_cast<int>(::syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof attr)));
    if (map.get() < 0) return -errno;
    *ret_ring = std::make_unique<KernelRing>(std::move(map), spec);
    return 0;
  }
  int create(const OuterSpec& spec, std::unique_ptr<Outer>* ret_outer) override {
    bpf_attr attr{};
    attr.map_type = spec.type;
    attr.key_size = spec.key_size;
    attr.value_size = spec.value_size;
    attr.max_entries = spec.max_entries;
    attr.map_flags = spec.flags;
    attr.inner_map_fd = static_cast<__u32>(spec.inner ? spec.inner->descriptor() : spec.nested ? spec.nested->descriptor() : -1);
    Fd map(static_cast<int>(::syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof attr)));
    if (map.get() < 0) return -errno;
    *ret_outer = std::make_unique<KernelOuter>(std::move(map), spec.type == kHashOfMaps);
    return 0;
  }
};

}  // namespace

Backend& kernel() {
  static Kernel it;
  return it;
}

}  // namespace conformance
