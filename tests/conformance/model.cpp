// SPDX-License-Identifier: MIT
// The kernel's algorithm (Linux 6.19) and libbpf's, without anything that makes them fast or safe: one thread, plain memory. The
// fuzzer's third opinion; where the live kernel has no overwrite mode, or cannot be asked at all, its second.
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <utility>

#include "backend.hpp"
#include "programs.h"

namespace conformance {
namespace {

std::uint64_t stride(std::uint64_t len) { return (len + 15) / 8 * 8; }

class ModelRing : public Ring {
 public:
  explicit ModelRing(const Spec& spec)
      : n_(spec.max_entries),
        mask_(n_ - 1),
        user_(spec.type == kUserRingbuf),
        overwrite_(spec.flags & kOverwrite),
        data_(n_, '\0') {}

  // --- producing ---
  bool reserve(unsigned slot, std::uint32_t size) override {
    if (user_) return user_reserve(slot, size) == 0;
    return reserve_dynptr(slot, size, 0) == 0;
  }
  int reserve_dynptr(unsigned slot, std::uint32_t size, std::uint64_t flags) override {
    slots_[slot] = {};
    if (flags) return -EINVAL;
    if (size > 0xffffff) return -E2BIG;
    std::uint64_t pos;
    if (!reserve_at(size, &pos)) return -EINVAL;
    slots_[slot] = {true, pos, size};
    return 0;
  }
  int write(unsigned slot, std::uint32_t offset, const Bytes& bytes, std::uint64_t flags) override {
    const Slot& s = slots_[slot];
    if (!s.valid) return -EINVAL;
    if (bytes.size() > s.size || offset > s.size - bytes.size()) return -E2BIG;
    if (flags) return -EINVAL;
    for (std::size_t i = 0; i < bytes.size(); ++i) at(s.pos + 8 + offset + i) = bytes[i];
    return 0;
  }
  int read_dynptr(std::uint32_t offset, std::uint32_t size, std::uint64_t flags, Bytes* ret_bytes) override {
    const Slot& s = slots_[0];
    if (!s.valid || flags) return -EINVAL;
    if (size > s.size || offset > s.size - size) return -E2BIG;
    *ret_bytes = bytes_at(s.pos + 8 + offset, size);
    return 0;
  }
  bool dynptr_data(std::uint32_t offset, std::uint32_t length) override {
    const Slot& s = slots_[0];
    return s.valid && length <= s.size && offset <= s.size - length;
  }
  std::int64_t dynptr_size() override { return slots_[0].valid ? std::int64_t{slots_[0].size} : -EINVAL; }
  void submit(unsigned slot, std::uint64_t flags) override { close(slot, 0, flags); }
  void discard(unsigned slot, std::uint64_t flags) override { close(slot, kDiscard, flags); }
  bool record(std::uint64_t size, std::uint64_t reserve_flags, const Bytes& payload, bool discard,
              std::uint64_t commit_flags) override {
    std::uint64_t pos;
    if (reserve_flags || !reserve_at(size, &pos)) return false;
    for (std::uint64_t i = 0; i < size && i < kBytes; ++i) at(pos + 8 + i) = i < payload.size() ? payload[i] : '\0';
    commit(pos, discard ? kDiscard : 0, commit_flags);
    return true;
  }
  int output(const Bytes& payload, std::uint64_t flags) override {
    if (flags & ~(kNoWakeup | kForceWakeup)) return -EINVAL;
    return record(payload.size(), 0, payload, false, flags) ? 0 : -EAGAIN;
  }
  std::uint64_t query(std::uint64_t what) override {
    switch (what) {
      case kAvailData: return prod_ - (overwrite_ && over_ > cons_ ? over_ : cons_);
      case kRingSize: return n_;
      case kConsPos: return cons_;
      case kProdPos: return prod_;
      case kOverwritePos: return over_;
      default: return 0;
    }
  }

  // --- consuming ---
  int consume(const OnSample& fn) override { return consume_n(SIZE_MAX, fn); }
  int consume_n(std::size_t n, const OnSample& fn) override {
    std::size_t delivered = 0;
    while (cons_ < prod_) {
      const std::uint32_t len = header(cons_);
      if (len & kBusy) break;
      const std::uint32_t size = len & ~kDiscard;
      int r = 0;
      if (!(len & kDiscard)) r = fn(bytes_at(cons_ + 8, size)), ++delivered;
      cons_ += stride(size);
      if (r < 0) return r;
      if (delivered >= n) break;
    }
    return static_cast<int>(delivered);
  }

  // --- user ring ---
  int user_reserve(unsigned slot, std::uint32_t size) override {
    slots_[slot] = {};
    if (size & (kBusy | kDiscard) || stride(size) > n_) return E2BIG;
    if (n_ - (prod_ - cons_) < stride(size)) return ENOSPC;
    set_header(prod_, size | kBusy, 0);
    slots_[slot] = {true, prod_, size};
    prod_ += stride(size);
    return 0;
  }
  Drained drain(const DrainHow& how) override {
    Drained d;
    if (how.flags & ~(kNoWakeup | kForceWakeup)) {
      d.result = -EINVAL;
      return d;
    }
    std::uint64_t moved = 0;
    for (bool stop = false; !stop && moved < 131072; ++moved) {
      if (prod_ % 8 != 0) d.result = -EINVAL;
      if (d.result < 0 || cons_ >= prod_) break;
      const std::uint32_t len = header(cons_), size = len & ~(kBusy | kDiscard);
      if (stride(size) > prod_ - cons_) d.result = -EINVAL;
      else if (stride(size) > n_ || size > 0xffffff) d.result = -E2BIG;
      if (d.result < 0 || (len & (kBusy | kDiscard)) == kBusy) break;
      if (!(len & kDiscard)) {
        ++d.samples;
        if (d.samples <= kSamples) d.sizes.push_back(size);
        if (d.bytes.size() < kBytes && size < kBytes) d.bytes += bytes_at(cons_ + 8, size);
        if (d.samples == 1 && how.nested) d.nested = -EBUSY;
        stop = d.samples == how.stop_at;
      }
      cons_ += stride(size);
    }
    if (d.result == 0) d.result = static_cast<std::int64_t>(d.samples);
    if (how.flags & kForceWakeup || (!(how.flags & kNoWakeup) && moved > 0)) edge_ = true;
    return d;
  }

  // --- the rest ---
  bool woken() override {
    const bool was = std::exchange(edge_, false);
    return was && (user_ ? prod_ - cons_ < n_ : prod_ != cons_);
  }
  Image image() override { return {cons_, prod_, pend_, over_, data_, 0}; }
  void see_consumer_pos() override {}
  void forge_consumer_pos(std::uint64_t pos) override { cons_ = pos; }
  void forge_producer_pos(std::uint64_t pos) override { prod_ = pos; }
  void forge_data(std::uint64_t offset, const Bytes& bytes) override { data_.replace(offset, bytes.size(), bytes); }

  // What the fuzzer does not ask.
  int poll(int, const OnSample&) override { std::abort(); }
  int user_reserve_blocking(unsigned, std::uint32_t, int) override { std::abort(); }
  bool ready() override { std::abort(); }
  std::vector<Area> areas() override { std::abort(); }
  int descriptor() override { std::abort(); }
  int element(ElementOp, bool) override { std::abort(); }
  std::uint32_t id() override { std::abort(); }
  Info info() override { std::abort(); }
  bool room_awaited() override { std::abort(); }
  int manage(Ring&) override { std::abort(); }
  unsigned consumers(unsigned) override { std::abort(); }
  int poll_both(int, const OnSample&, Ring&, const OnSample&) override { std::abort(); }

 private:
  struct Slot {
    bool valid = false;
    std::uint64_t pos = 0;
    std::uint32_t size = 0;
  };
  char& at(std::uint64_t pos) { return data_[pos & mask_]; }
  Bytes bytes_at(std::uint64_t pos, std::uint64_t size) {
    Bytes bytes(size, '\0');
    for (std::uint64_t i = 0; i < size; ++i) bytes[i] = at(pos + i);
    return bytes;
  }
  std::uint32_t header(std::uint64_t pos) const {
    std::uint32_t len;
    std::memcpy(&len, data_.data() + (pos & mask_), 4);
    return len;
  }
  void set_header(std::uint64_t pos, std::uint32_t len, std::uint32_t pg_off) {
    std::memcpy(&at(pos), &len, 4);
    std::memcpy(&at(pos + 4), &pg_off, 4);
  }
  bool reserve_at(std::uint64_t size, std::uint64_t* ret_pos) {
    if (size > 0x3fffffff || stride(size) > n_) return false;
    for (; pend_ < prod_ && !(header(pend_) & kBusy); pend_ += stride(header(pend_) & ~kDiscard)) continue;
    const std::uint64_t end = prod_ + stride(size);
    if (end - pend_ > mask_ || (!overwrite_ && end - cons_ > mask_)) return false;
    while (overwrite_ && end - over_ > mask_) over_ += stride(header(over_) & ~kDiscard);
    set_header(prod_, static_cast<std::uint32_t>(size) | kBusy, static_cast<std::uint32_t>(3 + (prod_ & mask_) / page_));
    *ret_pos = prod_;
    prod_ = end;
    return true;
  }
  void commit(std::uint64_t pos, std::uint32_t discard, std::uint64_t flags) {
    const std::uint32_t len = (header(pos) ^ kBusy) | discard;
    std::memcpy(&at(pos), &len, 4);
    if (!user_ && (flags & kForceWakeup || ((cons_ & mask_) == (pos & mask_) && !(flags & kNoWakeup)))) edge_ = true;
  }
  void close(unsigned slot, std::uint32_t discard, std::uint64_t flags) {
    const Slot s = std::exchange(slots_[slot], Slot{});
    if (s.valid) commit(s.pos, discard, flags);
  }

  const std::uint64_t n_, mask_, page_ = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const bool user_, overwrite_;
  Bytes data_;
  std::uint64_t cons_ = 0, prod_ = 0, pend_ = 0, over_ = 0;
  bool edge_ = false;
  Slot slots_[kSlotCount];
};

class Model : public Backend {
 public:
  const char* name() const override { return "Model"; }
  std::string unavailable() override { return ""; }
  int create(const Spec& spec, std::unique_ptr<Ring>* ret_ring) override {
    *ret_ring = std::make_unique<ModelRing>(spec);
    return 0;
  }
  int create(const OuterSpec&, std::unique_ptr<Outer>*) override { return -EOPNOTSUPP; }
};

}  // namespace

Backend& model() {
  static Model it;
  return it;
}

}  // namespace conformance
