// SPDX-License-Identifier: MIT
#include "base/mapping.hpp"

#include <sys/mman.h>
#include <sys/stat.h>

#include <array>
#include <boost/interprocess/mapped_region.hpp>
#include <new>

namespace ringbuf {
namespace {

namespace bip = boost::interprocess;

// What mapped_region wants of a thing that it maps.
class MemoryMappable {
 public:
  MemoryMappable(int fd, bip::mode_t mode) : fd_(fd), mode_(mode) {}
  bip::mapping_handle_t get_mapping_handle() const { return {fd_, false}; }
  bip::mode_t get_mode() const { return mode_; }

 private:
  int fd_;
  bip::mode_t mode_;
};

// Address space that nobody else gets while the pieces are put into it, front to back. Owns what is not covered yet.
class Reservation {
 public:
  explicit Reservation(std::size_t size)
      : at_(::mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)), left_(size) {}
  Reservation(const Reservation&) = delete;
  ~Reservation() {
    if (ok() && left_ != 0) ::munmap(at_, left_);
  }
  bool ok() const { return at_ != MAP_FAILED; }
  unsigned char* at() const { return static_cast<unsigned char*>(at_); }
  void covered(std::size_t size) {
    at_ = at() + size;
    left_ -= size;
  }

 private:
  void* at_;
  std::size_t left_;
};

bip::mode_t mode_of(Mapping::Access a) { return a == Mapping::Access::ReadWrite ? bip::read_write : bip::read_only; }

bool has_size(int fd, std::uint64_t size) {
  struct stat st;
  return ::fstat(fd, &st) == 0 && static_cast<std::uint64_t>(st.st_size) == size;
}

}  // namespace

struct Mapping::Regions {
  std::array<bip::mapped_region, 4> part;
};

Mapping::Mapping() = default;
Mapping::Mapping(Mapping&&) noexcept = default;
Mapping& Mapping::operator=(Mapping&&) noexcept = default;
Mapping::~Mapping() = default;

Result<Mapping> Mapping::map_ring(int c_fd, int p_fd, const shm::Layout& layout, Access c, Access p) {
  if (!has_size(c_fd, layout.c_size()) || !has_size(p_fd, layout.p_size()))
    return fail(EINVAL, "check the size of a ring's memory");
  const struct {
    int fd;
    Access access;
    std::uint64_t off, size;
  } parts[] = {
      {p_fd, p, 0, layout.slots_size()},
      {c_fd, c, 0, layout.c_size()},
      {p_fd, p, layout.producer_page_off(), layout.page + layout.max_entries},
      {p_fd, p, layout.data_off(), layout.max_entries},
  };
  Reservation space(layout.view_size());
  if (!space.ok()) return fail_errno("reserve address space for a ring");
  Mapping m;
  m.base_ = space.at();
  m.layout_ = layout;
  try {
    m.regions_ = std::make_unique<Regions>();
    for (std::size_t i = 0; i < std::size(parts); ++i) {
      const auto mode = mode_of(parts[i].access);
      m.regions_->part[i] = bip::mapped_region(MemoryMappable(parts[i].fd, mode), mode, static_cast<bip::offset_t>(parts[i].off),
                                               parts[i].size, space.at(), MAP_FIXED);
      space.covered(parts[i].size);
    }
  } catch (const bip::interprocess_exception& e) {
    return fail(e.get_native_error() ? e.get_native_error() : EINVAL, "map a ring's memory");
  } catch (const std::bad_alloc&) {
    return fail(ENOMEM, "map a ring's memory");
  }
  return m;
}

ringbuf_view Mapping::view() const {
  ringbuf_view v{};
  v.size = sizeof v;
  v.mask = layout_.max_entries - 1;
  v.slots = reinterpret_cast<ringbuf_slot*>(base_);
  unsigned char* pages = base_ + layout_.slots_size();
  v.consumer_page = reinterpret_cast<ringbuf_consumer_page*>(pages);
  v.producer_page = reinterpret_cast<ringbuf_producer_page*>(pages + layout_.page);
  v.data = pages + 2 * layout_.page;
  v.page_shift = static_cast<std::uint32_t>(__builtin_ctzll(layout_.page));
  v.slot_count = RINGBUF_SLOT_COUNT;
  v.signal_fd = -1;
  return v;
}

struct FileMapping::Region {
  bip::mapped_region region;
};

FileMapping::FileMapping() = default;
FileMapping::FileMapping(FileMapping&&) noexcept = default;
FileMapping& FileMapping::operator=(FileMapping&&) noexcept = default;
FileMapping::~FileMapping() = default;

Result<FileMapping> FileMapping::map(int fd, std::uint64_t size, Mapping::Access access) {
  if (size == 0 || !has_size(fd, size)) return fail(EINVAL, "check the size of a table's memory");
  const auto mode = mode_of(access);
  FileMapping m;
  try {
    m.region_ = std::make_unique<Region>(Region{bip::mapped_region(MemoryMappable(fd, mode), mode, 0, size)});
  } catch (const bip::interprocess_exception& e) {
    return fail(e.get_native_error() ? e.get_native_error() : EINVAL, "map a table's memory");
  } catch (const std::bad_alloc&) {
    return fail(ENOMEM, "map a table's memory");
  }
  m.base_ = m.region_->region.get_address();
  return m;
}

}  // namespace ringbuf
