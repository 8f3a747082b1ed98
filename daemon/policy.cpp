// SPDX-License-Identifier: MIT
#include "daemon/policy.hpp"

#include <sys/socket.h>

#include <algorithm>
#include <new>

#include "ringbuf/abi/wire.h"

namespace ringbuf::daemon {

Result<Peer> identify(int socket) {
  ucred cred{};
  socklen_t size = sizeof cred;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &cred, &size) < 0) return fail_errno("read a peer's credentials");
  Peer peer{cred.pid, cred.uid, cred.gid, {}};
  size = 0;  // asks how many there are
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, nullptr, &size) < 0 && errno == ERANGE) {
    try {
      peer.groups.resize(size / sizeof(gid_t));
    } catch (const std::bad_alloc&) {
      return fail(ENOMEM, "read a peer's groups");
    }
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, peer.groups.data(), &size) < 0) return fail_errno("read a peer's groups");
    peer.groups.resize(size / sizeof(gid_t));
  }
  return peer;
}

unsigned rights_of(const Peer& peer, uid_t owner, gid_t group, unsigned mode) {
  if (peer.uid == 0) return RINGBUF_RIGHT_ALL;
  const bool in_group = peer.gid == group || std::find(peer.groups.begin(), peer.groups.end(), group) != peer.groups.end();
  const unsigned bits = (peer.uid == owner ? mode >> 6 : in_group ? mode >> 3 : mode) & 06;
  unsigned rights = peer.uid == owner ? RINGBUF_RIGHT_MANAGE : 0;
  if (bits & 04) rights |= RINGBUF_RIGHT_OBSERVE;
  if (bits & 02) rights |= RINGBUF_RIGHT_PRODUCE;
  if (bits == 06) rights |= RINGBUF_RIGHT_CONSUME;
  return rights;
}

Charge::~Charge() {
  if (quota_) quota_->release(resource_, uid_, amount_);
}

Answer<Charge> Quota::charge(Resource resource, uid_t uid, std::uint64_t amount) {
  const auto r = static_cast<std::size_t>(resource);
  const char* name = kResourceNames[r];
  const std::string wants = amount == 1 ? "" : fmt::format("wants {} {} more, ", amount, name);
  if (const auto limit = limits_[r].per_uid; uid != 0) {
    const auto it = by_uid_.find(uid);
    const auto used = it == by_uid_.end() ? 0 : it->second[r];
    if (used > limit || amount > limit - used)
      return refuse(EDQUOT, fmt::format("uid {} {}holds {} {} and may hold {}; {}start ringbufd with a higher --max-{}-per-uid",
                                        uid, wants, used, name, limit, used ? "give some back, or " : "", name));
  }
  if (const auto limit = limits_[r].in_all; used_[r] > limit || amount > limit - used_[r])
    return refuse(ENOSPC, fmt::format("{}the daemon holds {} {} and may hold {}; start ringbufd with a higher --max-{}",
                                      amount == 1 ? "" : fmt::format("uid {} {}", uid, wants), used_[r], name, limit, name));
  return charge_anyway(resource, uid, amount);
}

Charge Quota::charge_anyway(Resource resource, uid_t uid, std::uint64_t amount) {
  const auto r = static_cast<std::size_t>(resource);
  by_uid_[uid][r] += amount;
  used_[r] += amount;
  return Charge(this, resource, uid, amount);
}

void Quota::release(Resource resource, uid_t uid, std::uint64_t amount) {
  const auto r = static_cast<std::size_t>(resource);
  used_[r] -= amount;
  const auto it = by_uid_.find(uid);
  it->second[r] -= amount;
  if (it->second == Used{}) by_uid_.erase(it);
}

}  // namespace ringbuf::daemon
