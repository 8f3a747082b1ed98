// SPDX-License-Identifier: MIT
// The kernel's own ring on this machine, for comparison: a BPF program that reserves and submits a batch, and a consumer loop
// over the mapped pages. Needs bpf(2); without it `ok()` is false and `why()` says so.
#pragma once

#include <cstdint>
#include <string>

class KernelRing {
 public:
  KernelRing(std::uint32_t max_entries, std::uint32_t record_size, std::uint32_t batch);
  ~KernelRing();
  KernelRing(const KernelRing&) = delete;

  bool ok() const { return why_.empty(); }
  const std::string& why() const { return why_; }
  // One batch of records of zeros, NO_WAKEUP. Returns the number reserved.
  std::uint32_t produce();
  // Everything committed, as libbpf does it: consumer_pos is stored after every record. Returns the number of records.
  std::uint64_t consume(std::uint64_t* sum);

 private:
  std::string why_;
  int map_ = -1, prog_ = -1;
  std::uint64_t mask_ = 0, page_ = 0;
  unsigned char *consumer_ = nullptr, *producer_ = nullptr;
};
