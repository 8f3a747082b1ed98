// SPDX-License-Identifier: MIT
#include "kernel_ring.hpp"

#include <linux/bpf.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <vector>

namespace {

int bpf(int cmd, bpf_attr& attr) { return static_cast<int>(::syscall(SYS_bpf, cmd, &attr, sizeof attr)); }

bpf_insn insn(unsigned code, unsigned dst, unsigned src, int off, int imm) {
  bpf_insn i{};
  i.code = static_cast<__u8>(code);
  i.dst_reg = dst & 15;
  i.src_reg = src & 15;
  i.off = static_cast<__s16>(off);
  i.imm = imm;
  return i;
}

// for (r6 = batch, r7 = 0; r6 != 0; --r6) { p = reserve(map, size, 0); if (!p) break; *p = r6; submit(p, NO_WAKEUP); ++r7; }
// return r7;
std::vector<bpf_insn> program(int map, std::uint32_t size, std::uint32_t batch) {
  std::vector<bpf_insn> p;
  p.push_back(insn(BPF_ALU64 | BPF_MOV | BPF_K, 6, 0, 0, static_cast<int>(batch)));
  p.push_back(insn(BPF_ALU64 | BPF_MOV | BPF_K, 7, 0, 0, 0));
  const int loop = static_cast<int>(p.size());
  p.push_back(insn(BPF_LD | BPF_DW | BPF_IMM, 1, BPF_PSEUDO_MAP_FD, 0, map));
  p.push_back(insn(0, 0, 0, 0, 0));
  p.push_back(insn(BPF_ALU64 | BPF_MOV | BPF_K, 2, 0, 0, static_cast<int>(size)));
  p.push_back(insn(BPF_ALU64 | BPF_MOV | BPF_K, 3, 0, 0, 0));
  p.push_back(insn(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_ringbuf_reserve));
  const std::size_t out = p.size();
  p.push_back(insn(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 0, 0));  // to the end, patched below
  p.push_back(insn(BPF_STX | BPF_DW | BPF_MEM, 0, 6, 0, 0));
  p.push_back(insn(BPF_ALU64 | BPF_MOV | BPF_X, 1, 0, 0, 0));
  p.push_back(insn(BPF_ALU64 | BPF_MOV | BPF_K, 2, 0, 0, BPF_RB_NO_WAKEUP));
  p.push_back(insn(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_ringbuf_submit));
  p.push_back(insn(BPF_ALU64 | BPF_ADD | BPF_K, 7, 0, 0, 1));
  p.push_back(insn(BPF_ALU64 | BPF_SUB | BPF_K, 6, 0, 0, 1));
  p.push_back(insn(BPF_JMP | BPF_JNE | BPF_K, 6, 0, loop - static_cast<int>(p.size()) - 1, 0));
  p[out].off = static_cast<__s16>(p.size() - out - 1);
  p.push_back(insn(BPF_ALU64 | BPF_MOV | BPF_X, 0, 7, 0, 0));
  p.push_back(insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0));
  return p;
}

template <class T>
std::atomic_ref<T> word(void* at) {
  return std::atomic_ref<T>(*static_cast<T*>(at));
}

}  // namespace

KernelRing::KernelRing(std::uint32_t max_entries, std::uint32_t record_size, std::uint32_t batch)
    : mask_(max_entries - 1), page_(static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE))) {
  const auto refuse = [&](const char* what) { why_ = std::string(what) + ": " + std::strerror(errno); };
  bpf_attr attr{};
  attr.map_type = BPF_MAP_TYPE_RINGBUF;
  attr.max_entries = max_entries;
  if ((map_ = bpf(BPF_MAP_CREATE, attr)) < 0) {
    refuse("BPF_MAP_CREATE");
    return;
  }
  const auto insns = program(map_, record_size, batch);
  attr = {};
  attr.prog_type = BPF_PROG_TYPE_SYSCALL;
  attr.prog_flags = BPF_F_SLEEPABLE;
  attr.insns = reinterpret_cast<__u64>(insns.data());
  attr.insn_cnt = static_cast<__u32>(insns.size());
  attr.license = reinterpret_cast<__u64>("GPL");
  if ((prog_ = bpf(BPF_PROG_LOAD, attr)) < 0) {
    refuse("BPF_PROG_LOAD");
    return;
  }
  void* c = ::mmap(nullptr, page_, PROT_READ | PROT_WRITE, MAP_SHARED, map_, 0);
  if (c == MAP_FAILED) {
    refuse("mmap");
    return;
  }
  consumer_ = static_cast<unsigned char*>(c);
  void* p = ::mmap(nullptr, page_ + 2 * (mask_ + 1), PROT_READ, MAP_SHARED, map_, static_cast<off_t>(page_));
  if (p == MAP_FAILED) {
    refuse("mmap");
    return;
  }
  producer_ = static_cast<unsigned char*>(p);
}

KernelRing::~KernelRing() {
  if (consumer_) ::munmap(consumer_, page_);
  if (producer_) ::munmap(producer_, page_ + 2 * (mask_ + 1));
  if (prog_ >= 0) ::close(prog_);
  if (map_ >= 0) ::close(map_);
}

std::uint32_t KernelRing::produce() {
  bpf_attr attr{};
  attr.test.prog_fd = static_cast<__u32>(prog_);
  return bpf(BPF_PROG_TEST_RUN, attr) < 0 ? 0 : attr.test.retval;
}

std::uint64_t KernelRing::consume(std::uint64_t* sum) {
  auto consumer_pos = word<std::uint64_t>(consumer_);
  std::uint64_t pos = consumer_pos.load(std::memory_order_acquire), n = 0;
  const std::uint64_t end = word<std::uint64_t>(producer_).load(std::memory_order_acquire);
  unsigned char* data = producer_ + page_;
  while (pos < end) {
    unsigned char* header = data + (pos & mask_);
    const std::uint32_t len = word<std::uint32_t>(header).load(std::memory_order_acquire);
    if (len & BPF_RINGBUF_BUSY_BIT) break;
    *sum += *reinterpret_cast<volatile std::uint64_t*>(header + 8);
    pos += (len + 8 + 7) / 8 * 8;
    consumer_pos.store(pos, std::memory_order_release);
    ++n;
  }
  return n;
}
