// SPDX-License-Identifier: MIT
// Who may do what, and how much of it: rights by owner, group and mode; limits in all and per uid.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "daemon/refusal.hpp"

namespace ringbuf::daemon {

// Who is at the other end of a session, as the kernel says.
struct Peer {
  pid_t pid = 0;  // 0: not visible in the daemon's pid namespace
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;  // supplementary ones

  // As far as numbers tell: who has the lease of a process that we cannot see is taken for it.
  bool same_process(const Peer& o) const { return pid == o.pid; }
};

Result<Peer> identify(int socket);

// What a map of this owner and mode gives to `peer`: RINGBUF_RIGHT_* bits.
unsigned rights_of(const Peer& peer, uid_t owner, gid_t group, unsigned mode);

enum class Resource : unsigned { Maps, Bytes, Tokens, Sessions, Attachments, Pins };
inline constexpr std::array kResourceNames{"maps", "bytes", "tokens", "sessions", "attachments", "pins"};
inline constexpr std::size_t kResources = kResourceNames.size();

struct Limit {
  std::uint64_t in_all;
  std::uint64_t per_uid;  // of every uid but 0
};
using Limits = std::array<Limit, kResources>;
inline constexpr Limits kDefaultLimits{
    {{4096, 1024}, {8ull << 30, 2ull << 30}, {16384, 4096}, {4096, 1024}, {16384, 4096}, {4096, 1024}}};

class Quota;

// Something that was counted; uncounted when this goes.
class Charge {
 public:
  Charge() = default;
  Charge(Charge&& other) noexcept
      : quota_(std::exchange(other.quota_, nullptr)), resource_(other.resource_), uid_(other.uid_), amount_(other.amount_) {}
  Charge& operator=(Charge&& other) noexcept {
    std::swap(quota_, other.quota_);
    std::swap(resource_, other.resource_);
    std::swap(uid_, other.uid_);
    std::swap(amount_, other.amount_);
    return *this;
  }
  ~Charge();
  explicit operator bool() const { return quota_ != nullptr; }

 private:
  friend class Quota;
  Charge(Quota* quota, Resource resource, uid_t uid, std::uint64_t amount)
      : quota_(quota), resource_(resource), uid_(uid), amount_(amount) {}

  Quota* quota_ = nullptr;
  Resource resource_ = Resource::Maps;
  uid_t uid_ = 0;
  std::uint64_t amount_ = 0;
};

// Outlives its charges.
class Quota {
 public:
  explicit Quota(const Limits& limits) : limits_(limits) {}
  Quota(const Quota&) = delete;
  // Who holds more than they allow keeps it, and gets no more.
  void set_limits(const Limits& limits) { limits_ = limits; }

  // EDQUOT: the uid's limit; ENOSPC: the limit in all.
  Answer<Charge> charge(Resource resource, uid_t uid, std::uint64_t amount = 1);
  // What is there already, whatever the limits say now.
  Charge charge_anyway(Resource resource, uid_t uid, std::uint64_t amount = 1);

 private:
  friend class Charge;
  using Used = std::array<std::uint64_t, kResources>;
  void release(Resource resource, uid_t uid, std::uint64_t amount);

  Limits limits_;
  Used used_{};
  std::unordered_map<uid_t, Used> by_uid_;
};

}  // namespace ringbuf::daemon
