// SPDX-License-Identifier: MIT
// Maps the two memory files of a ring into one contiguous view with the data twice (abi/shm.h). The only user of
// Boost.Interprocess. Thread-safe.
#pragma once

#include <cstdint>
#include <memory>

#include "base/result.hpp"
#include "ringbuf/abi/shm.h"
#include "ringbuf/shm/geometry.hpp"

namespace ringbuf {

class Mapping {
 public:
  enum class Access { ReadOnly, ReadWrite };

  // The descriptors may be closed afterwards. EINVAL or EOVERFLOW: the files are not of the layout's sizes.
  static Result<Mapping> map_ring(int c_fd, int p_fd, const shm::Layout& layout, Access c, Access p);

  Mapping();
  Mapping(Mapping&&) noexcept;
  Mapping& operator=(Mapping&&) noexcept;
  ~Mapping();

  // Pointers, mask and page shift filled in; the attachment's own fields are the caller's.
  ringbuf_view view() const;
  const ringbuf_shm_header* header() const { return reinterpret_cast<const ringbuf_shm_header*>(base_); }

 private:
  struct Regions;
  std::unique_ptr<Regions> regions_;
  unsigned char* base_ = nullptr;
  shm::Layout layout_{};
};

}  // namespace ringbuf
