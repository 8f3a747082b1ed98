// SPDX-License-Identifier: MIT
// One map, a ring or a map of maps, and those who have attached to it. The daemon touches memory and descriptors that clients
// can write by pread(2) and through mappings only (anything that takes the lock of an inode can wait for ever: chmod, pwrite,
// fallocate; epoll_ctl(2) too, hence wait.hpp; and a directory of /proc), and never writes an eventfd that a client holds. Every
// word of a mapping is untrusted.
#pragma once

#include <bitset>
#include <boost/intrusive/list.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/mapping.hpp"
#include "base/unique_fd.hpp"
#include "daemon/element_table.hpp"
#include "daemon/orphans.hpp"
#include "daemon/policy.hpp"
#include "daemon/state.hpp"
#include "daemon/wait.hpp"
#include "ringbuf/abi/wire.h"
#include "shm/create.hpp"
#include "shm/recovery.hpp"

namespace ringbuf::daemon {

class Attachment;

// Which process an attachment belongs to. A pid that the daemon cannot see is 0: then each client counts as a process.
struct Holder {
  pid_t pid;
  uid_t uid;
  std::uint64_t client;  // cookie of its lease
  bool same_pids;        // its thread ids mean the same to us

  bool same_process(const Holder& o) const { return pid == o.pid && (pid != 0 || client == o.client); }
};

// What all inner maps of a map of maps have in common; their sizes may differ.
struct InnerMeta {
  std::uint32_t map_type, key_size, value_size, map_flags;
  bool operator==(const InnerMeta&) const = default;
};

struct MapSpec {
  shm::RingSpec ring;  // of a map of maps: type, flags, node, and max_entries is a number of elements
  std::string name;
  unsigned mode;
  uid_t uid;  // owner
  gid_t gid;
  std::uint32_t key_size = 0;
  std::uint32_t value_size = 0;
  std::optional<InnerMeta> inner = {};  // maps of maps

  InnerMeta meta() const { return {ring.map_type, key_size, value_size, ring.map_flags}; }
  shm::OuterSpec outer() const {
    return {ring.map_type, key_size, ring.max_entries, ring.map_flags, ring.numa_node, inner ? inner->map_type : 0};
  }
};

// What has ended at a map and still has its place there. The reaper's, in whose queue it is then.
struct Remains : boost::intrusive::list_base_hook<boost::intrusive::link_mode<boost::intrusive::auto_unlink>> {
  Remains();
  ~Remains();
  std::unique_ptr<Attachment> first;  // linked by next_
  Attachment* last = nullptr;
  struct Walk;
  std::unique_ptr<Walk> walk;  // under way
};

class Map : public std::enable_shared_from_this<Map> {
 public:
  Map(Waits& waits, std::uint32_t map_id, MapSpec s, shm::RingMemory memory, Charge maps, Charge bytes)
      : id(map_id),
        spec(std::move(s)),
        waits_(waits),
        memory_(std::move(memory)),
        maps_(std::move(maps)),
        bytes_(std::move(bytes)) {}
  Map(Waits& waits, std::uint32_t map_id, MapSpec s, std::unique_ptr<ElementTable> elements, Charge maps, Charge bytes)
      : id(map_id),
        spec(std::move(s)),
        waits_(waits),
        elements_(std::move(elements)),
        maps_(std::move(maps)),
        bytes_(std::move(bytes)) {}
  Map(const Map&) = delete;

  // EUSERS: no slot is free; EBUSY: the place is taken; EAGAIN: only until the reaper is done; or what the kernel says. A map of
  // maps has observers only.
  Answer<std::unique_ptr<Attachment>> attach(unsigned role, const Holder& holder, Charge charge);

  unsigned rights_of(const Peer& peer) const { return daemon::rights_of(peer, spec.uid, spec.gid, spec.mode); }
  std::string label() const;  // map 7 'events'
  std::uint64_t size() const {
    return elements_ ? ElementTable::memory_size(elements_->layout()) : memory_.layout.c_size() + memory_.layout.p_size();
  }
  ElementTable* elements() const { return elements_.get(); }  // null: a ring
  unsigned count(unsigned role) const;
  const std::vector<Attachment*>& attachments() const { return attachments_; }

  // The whole ring, for the reaper.
  Result<Mapping> map_memory() const;
  ringbuf_view view(const Mapping& mapping) const;
  // Fills in the part of `info` that tells of the dead and of who is in the way.
  void tell_who_is_in_the_way(ringbuf_map_info& info);

  // Its entry in the state. Before anybody hears of it.
  Result<void> enter(State& state);
  // What another daemon has left: the map, each attachment, and when these are there again what was between them; then those who
  // have gone are ended, and it is brought about. `kick` may be none. Throw for want of something.
  void resume(Kept kept, UniqueFd kick);
  std::unique_ptr<Attachment> resume(const AttachmentEntry& entry, UniqueFd event, Kept kept, Charge charge);
  void expect_connections();
  void resume_connections();

  const std::uint32_t id;
  const MapSpec spec;
  unsigned tokens = 0;
  unsigned references = 0;  // elements that hold this map
  std::set<std::string> pins;

 private:
  friend class Attachment;
  friend class Reaper;
  Answer<unsigned> free_slot() const;
  tl::unexpected<Refusal> still_taken() const;
  const Attachment* consumer_of_another(const Holder& holder) const;
  Result<void> join(Attachment& a);
  Result<void> make_kick();
  Result<void> connect(const Attachment& producer);
  void leave(Attachment& a);
  bool is_orphan(std::uint64_t pos, std::uint32_t slot) const;
  const Attachment* producer_at(std::uint32_t slot) const;
  Waits& waits_;
  shm::RingMemory memory_;                  // or
  std::unique_ptr<ElementTable> elements_;  // of a map of maps
  Charge maps_, bytes_;
  std::vector<Attachment*> attachments_;  // in the order of attaching
  std::bitset<RINGBUF_SLOT_COUNT> slots_;
  // What was at the head when somebody asked last.
  struct Head {
    std::uint64_t pos = 0;
    std::uint32_t slot = 0;  // 0: no uncommitted record
    std::uint64_t since_ns = 0;
  } head_;
  void look_at_head();
  Remains remains_;
  Signal kick_;  // in each consumer's wait, to make all of them look again; from the first consumer on
  Kept kept_;    // last: taken out of the state before its descriptors are closed
};

// A client's place at a map.
class Attachment {
 public:
  Attachment(std::shared_ptr<Map> map, unsigned role, unsigned slot, const Holder& holder, Charge charge);
  Attachment(const Attachment&) = delete;
  ~Attachment();  // its place is free

  // Before that, if the client or its attachment has ended (and not the daemon): tidies shared words and descriptors for others.
  void leave() { map->leave(*this); }
  // Before anybody is told that it has ended, though its place is not free yet. Does not come back when the daemon does.
  void end() noexcept;
  bool ended() const { return ended_; }

  // Its entry in the state, before the client hears of it.
  Result<void> enter(State& state, std::uint32_t number);

  // What the client is given: C, P and, for a producer its signal, for a consumer its wait; or the table. They are new open
  // files: flags that a client sets on its own do not reach the daemon's.
  Result<std::vector<UniqueFd>> descriptors() const;

  const std::shared_ptr<Map> map;
  const unsigned role;
  const unsigned slot;  // of a producer, else 0
  const Holder holder;

 private:
  friend class Map;
  friend class Reaper;
  Charge charge_;
  int event() const;            // what its client has of the following, or -1
  Signal signal_;               // of a producer; none if the keeper has lost it
  std::shared_ptr<Wait> wait_;  // of a consumer, likewise
  Kept kept_;
  bool ended_ = false;
  std::unique_ptr<Attachment> next_;  // who has ended after it
};

}  // namespace ringbuf::daemon
