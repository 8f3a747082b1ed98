// SPDX-License-Identifier: MIT
// One map and those who have attached to it. The daemon touches memory and descriptors that clients can write by pwrite(2) and
// epoll_ctl(2) only: it never maps them, never reads an answer from them and never writes an eventfd that a client holds.
#pragma once

#include <bitset>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/unique_fd.hpp"
#include "daemon/policy.hpp"
#include "ringbuf/abi/wire.h"
#include "shm/create.hpp"

namespace ringbuf::daemon {

class Attachment;

// Which process an attachment belongs to. A pid that the daemon cannot see is 0: then each session counts as a process.
struct Holder {
  pid_t pid;
  uid_t uid;
  const void* session;

  bool same_process(const Holder& o) const { return pid == o.pid && (pid != 0 || session == o.session); }
};

struct MapSpec {
  shm::RingSpec ring;
  std::string name;
  unsigned mode;
  uid_t uid;  // owner
  gid_t gid;
};

class Map : public std::enable_shared_from_this<Map> {
 public:
  Map(std::uint32_t map_id, MapSpec s, shm::RingMemory memory, Charge maps, Charge bytes)
      : id(map_id), spec(std::move(s)), memory_(std::move(memory)), maps_(std::move(maps)), bytes_(std::move(bytes)) {}
  Map(const Map&) = delete;

  // EUSERS: no slot is free; EBUSY: the place is taken; or what the kernel says.
  Answer<std::unique_ptr<Attachment>> attach(unsigned role, const Holder& holder, Charge charge);

  unsigned rights_of(const Peer& peer) const { return daemon::rights_of(peer, spec.uid, spec.gid, spec.mode); }
  std::string label() const;  // map 7 'events'
  std::uint64_t size() const { return memory_.layout.c_size() + memory_.layout.p_size(); }
  unsigned count(unsigned role) const;
  const std::vector<Attachment*>& attachments() const { return attachments_; }

  const std::uint32_t id;
  const MapSpec spec;
  unsigned tokens = 0;
  std::set<std::string> pins;

 private:
  friend class Attachment;
  Answer<unsigned> free_slot() const;
  const Attachment* consumer_of_another(const Holder& holder) const;
  Result<void> join(Attachment& a);
  void leave(Attachment& a);
  // Makes all consumers look again: a signal that is disconnected takes with it the wakeup that it was about to deliver.
  void kick() const;

  shm::RingMemory memory_;
  Charge maps_, bytes_;
  std::vector<Attachment*> attachments_;  // in the order of attaching
  std::bitset<RINGBUF_SLOT_COUNT> slots_;
  UniqueFd kick_;  // an eventfd that no client ever holds, in each consumer's wait; from the first consumer on
};

// A client's place at a map; leaving is destruction.
class Attachment {
 public:
  Attachment(std::shared_ptr<Map> map, unsigned role, unsigned slot, const Holder& holder, Charge charge);
  Attachment(const Attachment&) = delete;
  ~Attachment();

  // What the client is given: C, P and, for a producer its signal, for a consumer its wait. C and P are new open files: flags
  // that a client sets on its own (O_APPEND would redirect pwrite) do not reach the daemon's.
  Result<std::vector<UniqueFd>> descriptors() const;

  const std::shared_ptr<Map> map;
  const unsigned role;
  const unsigned slot;  // of a producer, else 0
  const Holder holder;

 private:
  friend class Map;
  Charge charge_;
  UniqueFd event_;  // producer: the eventfd that it signals; consumer: the epoll fd that it waits on
};

}  // namespace ringbuf::daemon
