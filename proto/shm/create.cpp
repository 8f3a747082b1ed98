// SPDX-License-Identifier: MIT
#include "shm/create.hpp"

#include <fcntl.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>

#include "ringbuf/abi/wire.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

namespace ringbuf::shm {
namespace {

constexpr std::uint32_t kNoPrealloc = 1u << 0;  // BPF_F_NO_PREALLOC
constexpr std::uint32_t kAnyNode = UINT32_MAX;

bool node_exists(std::uint32_t node) {
  struct stat st;
  return ::stat(("/sys/devices/system/node/node" + std::to_string(node)).c_str(), &st) == 0;
}

// While it lives, pages that this thread allocates come from `node` if possible.
class PreferNode {
 public:
  PreferNode(std::uint32_t map_flags, std::uint32_t node) {
    if (!(map_flags & kFlagNumaNode) || node >= kMaxNodes) return;  // kAnyNode, too
    if (::syscall(SYS_get_mempolicy, &mode_, before_, kMaxNodes, nullptr, 0) < 0) return;
    Nodes nodes{};
    nodes[node / kBits] = 1ul << (node % kBits);
    on_ = ::syscall(SYS_set_mempolicy, MPOL_PREFERRED, nodes, kMaxNodes) == 0;
  }
  PreferNode(const PreferNode&) = delete;
  ~PreferNode() {
    if (on_) ::syscall(SYS_set_mempolicy, mode_, before_, kMaxNodes);
  }

 private:
  static constexpr unsigned kMaxNodes = 1024;  // as CONFIG_NODES_SHIFT allows
  static constexpr unsigned kBits = 8 * sizeof(unsigned long);
  using Nodes = unsigned long[kMaxNodes / kBits];

  bool on_ = false;
  int mode_ = 0;
  Nodes before_{};
};

Result<UniqueFd> memfd(const char* name) {
  UniqueFd fd(static_cast<int>(::syscall(SYS_memfd_create, name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL)));
  if (!fd && errno == EINVAL) fd.reset(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));  // before Linux 6.3
  if (!fd) return fail_errno("create a memory file");
  return fd;
}

Result<UniqueFd> sealed_memfd(const char* name, std::uint64_t size, std::uint64_t filled_from) {
  auto fd = memfd(name);
  if (!fd) return fd;
  if (::ftruncate(fd->get(), static_cast<off_t>(size)) < 0) return fail_errno("size a memory file");
  if (::fallocate(fd->get(), 0, static_cast<off_t>(filled_from), static_cast<off_t>(size - filled_from)) < 0)
    return fail(errno == ENOSPC ? ENOMEM : errno, "allocate a map's memory");
  // Another uid that is given a read-only descriptor must not reopen it for writing. Now, for ever: chmod waits for the inode's
  // lock, which whoever can write the file can hold.
  if (::fchmod(fd->get(), 0600) < 0) return fail_errno("protect a memory file");
  if (::fcntl(fd->get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) return fail_errno("seal a memory file");
  return fd;
}

}  // namespace

std::uint64_t page_size() { return static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)); }

const char* spec_error(const RingSpec& spec) {
  if (spec.map_type != kTypeRingbuf && spec.map_type != kTypeUserRingbuf)
    return "map_type must be 27 (BPF_MAP_TYPE_RINGBUF) or 31 (BPF_MAP_TYPE_USER_RINGBUF)";
  if (spec.map_flags & ~(kFlagNumaNode | kFlagOverwrite)) return "map_flags may hold only BPF_F_NUMA_NODE and BPF_F_RB_OVERWRITE";
  if ((spec.map_flags & kFlagOverwrite) && spec.map_type != kTypeRingbuf) return "only a RINGBUF knows BPF_F_RB_OVERWRITE";
  if (spec.ring_flags & ~RINGBUF_F_SINGLE_PRODUCER) return "ring_flags may hold only RINGBUF_F_SINGLE_PRODUCER";
  if ((spec.map_flags & kFlagNumaNode) && spec.numa_node != kAnyNode && !node_exists(spec.numa_node))
    return "numa_node does not exist";
  if (!is_power_of_two(spec.max_entries) || spec.max_entries % page_size() != 0)
    return "max_entries must be a power of two and a multiple of the page size";
  return nullptr;
}

RingSpec normal(RingSpec spec) {
  if (spec.map_type == kTypeUserRingbuf) spec.ring_flags |= RINGBUF_F_SINGLE_PRODUCER;
  return spec;
}

Result<RingMemory> create_ring(const RingSpec& spec) {
  if (const char* wrong = spec_error(spec)) return fail(EINVAL, wrong);
  RingMemory ring;
  ring.layout = Layout{page_size(), spec.max_entries};
  const PreferNode node(spec.map_flags, spec.numa_node);
  auto c = sealed_memfd("ringbuf:c", ring.layout.c_size(), 0);
  if (!c) return tl::unexpected(c.error());
  // Slots are touched one by one as producers come; the rest is needed by the first lap.
  auto p = sealed_memfd("ringbuf:p", ring.layout.p_size(), ring.layout.producer_page_off());
  if (!p) return tl::unexpected(p.error());
  ringbuf_shm_header h{};
  h.magic = RINGBUF_SHM_MAGIC;
  h.version = RINGBUF_SHM_VERSION;
  h.max_entries = spec.max_entries;
  h.slot_count = RINGBUF_SLOT_COUNT;
  h.producer_page = static_cast<std::uint32_t>(ring.layout.producer_page_off());
  h.page_size = static_cast<std::uint32_t>(ring.layout.page);
  h.map_type = spec.map_type;
  h.ring_flags = spec.ring_flags;
  h.map_flags = spec.map_flags;
  if (::pwrite(p->get(), &h, sizeof h, 0) != static_cast<ssize_t>(sizeof h)) return fail(ENOMEM, "write a ring's header");
  ring.c = std::move(*c);
  ring.p = std::move(*p);
  return ring;
}

std::uint64_t outer_file_size(const OuterLayout& layout) {
  return (layout.size() + trailer_size(layout) + page_size() - 1) / page_size() * page_size();
}

const char* spec_error(const OuterSpec& spec) {
  const bool hash = spec.map_type == kHashOfMaps;
  if (!hash && spec.map_type != kArrayOfMaps)
    return "map_type must be 12 (BPF_MAP_TYPE_ARRAY_OF_MAPS) or 13 (BPF_MAP_TYPE_HASH_OF_MAPS)";
  if (!hash && (spec.map_flags & ~kFlagNumaNode)) return "map_flags of an array of maps may hold only BPF_F_NUMA_NODE (0x4)";
  if (spec.map_flags & ~(kFlagNumaNode | kNoPrealloc))
    return "map_flags of a hash of maps may hold only BPF_F_NO_PREALLOC (0x1) and BPF_F_NUMA_NODE (0x4)";
  if (!hash && spec.key_size != 4) return "key_size of an array of maps must be 4";
  if (spec.key_size == 0) return "key_size of a hash of maps must not be 0";
  if (spec.max_entries == 0) return "max_entries must not be 0";
  if ((spec.map_flags & kFlagNumaNode) && spec.numa_node != kAnyNode && !node_exists(spec.numa_node))
    return "numa_node does not exist";
  return nullptr;
}

Result<UniqueFd> create_outer(const OuterSpec& spec) {
  if (const char* wrong = spec_error(spec)) return fail(EINVAL, wrong);
  if (spec.key_size > RINGBUF_MAX_KEY_SIZE || spec.max_entries > RINGBUF_MAX_ELEMENTS)
    return fail(E2BIG, "make a table that large");
  const PreferNode node(spec.map_flags, spec.numa_node);
  const OuterLayout layout = spec.layout();
  auto fd = sealed_memfd("ringbuf:o", outer_file_size(layout), 0);
  if (!fd) return fd;
  ringbuf_outer_header h{};
  h.magic = RINGBUF_OUTER_MAGIC;
  h.version = RINGBUF_SHM_VERSION;
  h.map_type = spec.map_type;
  h.key_size = spec.key_size;
  h.max_entries = spec.max_entries;
  h.slots = layout.slots();
  h.stride = layout.stride();
  h.inner_map_type = spec.inner_map_type;
  if (::pwrite(fd->get(), &h, sizeof h, 0) != static_cast<ssize_t>(sizeof h)) return fail(ENOMEM, "write a table's header");
  return fd;
}

Result<UniqueFd> reopen_read_only(int fd) {
  UniqueFd copy(::open(("/proc/self/fd/" + std::to_string(fd)).c_str(), O_RDONLY | O_CLOEXEC));
  if (!copy) return fail_errno("reopen a memory file read-only");
  return copy;
}

}  // namespace ringbuf::shm
