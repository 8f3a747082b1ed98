// SPDX-License-Identifier: MIT
// What the suite is written against. Two back ends stand behind it: libringbuf, and the live kernel with libbpf; and a third for
// the fuzzer. A ring's methods are the calls of one or the other; what one of them lacks is made from what it has, in its own
// file.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace conformance {

using Bytes = std::string;
using OnSample = std::function<int(const Bytes&)>;

constexpr std::uint32_t kRingbuf = 27, kUserRingbuf = 31;  // BPF_MAP_TYPE_*
constexpr std::uint32_t kArrayOfMaps = 12, kHashOfMaps = 13;
constexpr std::uint32_t kNumaNode = 1u << 2, kOverwrite = 1u << 19;  // BPF_F_NUMA_NODE, BPF_F_RB_OVERWRITE
constexpr std::uint64_t kNoWakeup = 1, kForceWakeup = 2;             // BPF_RB_*
constexpr std::uint64_t kAvailData = 0, kRingSize = 1, kConsPos = 2, kProdPos = 3, kOverwritePos = 4;
constexpr std::uint32_t kBusy = 1u << 31, kDiscard = 1u << 30;

struct Spec {
  std::uint32_t type = kRingbuf;
  std::uint32_t max_entries = 4096;
  std::uint32_t flags = 0;
  std::uint32_t numa_node = 0;
  std::uint32_t key_size = 0;
  std::uint32_t value_size = 0;
  std::uint64_t extra = 0;
  bool shared = false;  // ours: made by a daemon, as other processes could use it, and not embedded
};

// The ring's memory at a moment when nobody works on it.
struct Image {
  std::uint64_t consumer_pos = 0, producer_pos = 0, pending_pos = 0, overwrite_pos = 0;
  Bytes data;
  std::uint32_t owner = 0;  // what is added to the second word of each header: the producer's slot, in the upper 12 bits

  // The header at an offset, both words, without the owner.
  std::uint64_t header(std::uint64_t offset) const {
    std::uint64_t both;
    std::memcpy(&both, data.data() + offset, 8);
    return both - (std::uint64_t{owner} << 32);
  }
};

struct Drained {
  std::int64_t result = 0;
  std::uint64_t samples = 0;         // that the callback saw
  std::vector<std::uint32_t> sizes;  // of the first 8192 of them
  Bytes bytes;                       // of all, one after the other, up to 128 KiB
  std::int64_t nested = 0;           // what a drain from the first sample's callback returned
};
struct DrainHow {
  std::uint64_t flags = 0;
  std::uint64_t stop_at = 0;  // the callback stops at this sample, counted from 1; 0 = never
  bool nested = false;
};

struct Info {
  std::uint32_t type, key_size, value_size, max_entries, map_flags;
};

// A part of a ring's memory as it is mapped for who consumes a RINGBUF or produces into a USER_RINGBUF.
struct Area {
  const char* name;
  void* at;
  std::size_t size;
  bool writable;  // as it should be
};

enum class ElementOp { Lookup, Update, Delete, NextKey };

// A RINGBUF or a USER_RINGBUF. `slot` names a reservation that is open, 0 to kSlotCount - 1.
class Ring {
 public:
  static constexpr unsigned kSlotCount = 4;
  virtual ~Ring() = default;

  // --- producing: both types ---
  virtual bool reserve(unsigned slot, std::uint32_t size) = 0;
  virtual int write(unsigned slot, std::uint32_t offset, const Bytes& bytes, std::uint64_t flags = 0) = 0;
  virtual void submit(unsigned slot, std::uint64_t flags = 0) = 0;
  virtual void discard(unsigned slot, std::uint64_t flags = 0) = 0;

  // --- producing: RINGBUF ---
  // bpf_ringbuf_reserve with one of CONSTANT_SIZES and any flags; if there is memory, fills it with `payload` and zeros, and
  // commits.
  virtual bool record(std::uint64_t size, std::uint64_t reserve_flags, const Bytes& payload, bool discard,
                      std::uint64_t commit_flags) = 0;
  // The dynptr must be submitted or discarded whatever the result.
  virtual int reserve_dynptr(unsigned slot, std::uint32_t size, std::uint64_t flags) = 0;
  // Of slot 0:
  virtual int read_dynptr(std::uint32_t offset, std::uint32_t size, std::uint64_t flags, Bytes* ret_bytes) = 0;
  virtual bool dynptr_data(std::uint32_t offset, std::uint32_t length) = 0;
  virtual std::int64_t dynptr_size() = 0;
  virtual int output(const Bytes& payload, std::uint64_t flags = 0) = 0;
  virtual std::uint64_t query(std::uint64_t what) = 0;

  // --- consuming: RINGBUF ---
  virtual int consume(const OnSample& fn) = 0;
  virtual int consume_n(std::size_t n, const OnSample& fn) = 0;
  virtual int poll(int timeout_ms, const OnSample& fn) = 0;

  // --- producing and draining: USER_RINGBUF ---
  // 0 or the errno of failure; timeout_ms as user_ring_buffer__reserve_blocking.
  virtual int user_reserve(unsigned slot, std::uint32_t size) = 0;
  virtual int user_reserve_blocking(unsigned slot, std::uint32_t size, int timeout_ms) = 0;
  virtual Drained drain(const DrainHow& how = {}) = 0;

  // --- wakeups ---
  // Was who waits for this ring (RINGBUF: the consumer; USER_RINGBUF: the producer) notified since the last call, and is there
  // something for it to do? Edge-triggered. The first call arms this and says nothing.
  virtual bool woken() = 0;
  // Would poll(2) on the ring's descriptor report it readable (USER_RINGBUF of the kernel: writable)?
  virtual bool ready() = 0;

  // --- memory ---
  virtual Image image() = 0;
  // Producers look at consumer_pos when they next need it; this makes those that remember an older one look now.
  virtual void see_consumer_pos() = 0;
  virtual void forge_consumer_pos(std::uint64_t pos) = 0;                 // RINGBUF
  virtual void forge_producer_pos(std::uint64_t pos) = 0;                 // USER_RINGBUF
  virtual void forge_data(std::uint64_t offset, const Bytes& bytes) = 0;  // USER_RINGBUF

  virtual std::vector<Area> areas() = 0;
  virtual int descriptor() = 0;  // of the kernel's map; ours: -1

  // With a NULL key, or a pointer to something.
  virtual int element(ElementOp op, bool null_key) = 0;
  virtual std::uint32_t id() = 0;  // of a shared one
  virtual Info info() = 0;
  virtual bool room_awaited() = 0;  // ours: a producer sleeps for room
  // Adds another ring to this one's manager.
  virtual int manage(Ring& other) = 0;
  // One poll of a manager of this ring and another one, in this order.
  // How many more can be got ready to consume it, of `most`.
  virtual unsigned consumers(unsigned most) = 0;
  virtual int poll_both(int timeout_ms, const OnSample& fn, Ring& other, const OnSample& other_fn) = 0;
};

// An ARRAY_OF_MAPS or HASH_OF_MAPS with keys of four bytes, whose elements are shared RINGBUFs.
class Outer {
 public:
  static constexpr std::uint64_t kAny = 0, kNoExist = 1, kExist = 2;  // BPF_ANY, ...
  virtual ~Outer() = default;
  virtual int update(std::uint32_t key, Ring& inner, std::uint64_t flags = kAny) = 0;
  virtual int erase(std::uint32_t key) = 0;
  virtual int lookup(std::uint32_t key, std::uint32_t* ret_id) = 0;
  virtual int next_key(const std::uint32_t* key, std::uint32_t* ret_key) = 0;
  // As a program does it: looks the ring up and puts out to it. 1: no ring there.
  virtual int output(std::uint32_t key, const Bytes& payload) = 0;
  virtual int descriptor() = 0;
};
struct OuterSpec {
  std::uint32_t type = kArrayOfMaps;
  std::uint32_t max_entries = 4;
  std::uint32_t key_size = 4;
  std::uint32_t value_size = 4;
  std::uint32_t flags = 0;
  Ring* inner = nullptr;    // the template
  Outer* nested = nullptr;  // ... if it is not a ring
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual const char* name() const = 0;
  // Why it cannot run here; "" = it can.
  virtual std::string unavailable() = 0;
  virtual int create(const Spec& spec, std::unique_ptr<Ring>* ret_ring) = 0;
  virtual int create(const OuterSpec& spec, std::unique_ptr<Outer>* ret_outer) = 0;
};

std::vector<Backend*> backends();
Backend& ours();
Backend& kernel();  // only if CONFORMANCE_KERNEL
Backend& model();   // for the fuzzer

}  // namespace conformance
