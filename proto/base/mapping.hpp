// SPDX-License-Identifier: MIT
// Maps the two memory files of a ring into one contiguous view with the data twice (abi/shm.h), and the one file of a map of
// maps. The only user of Boost.Interprocess. Thread-safe.
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

// One file, anywhere: the table of a map of maps.
class FileMapping {
 public:
  // The descriptor may be closed afterwards. EINVAL: the file is not of this size.
  static Result<FileMapping> map(int fd, std::uint64_t size, Mapping::Access access);

  FileMapping();
  FileMapping(FileMapping&&) noexcept;
  FileMapping& operator=(FileMapping&&) noexcept;
  ~FileMapping();

  void* base() const { return base_; }

 private:
  struct Region;
  std::unique_ptr<Region> region_;
  void* base_ = nullptr;
};

}  // namespace ringbuf
