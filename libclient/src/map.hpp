// SPDX-License-Identifier: MIT
// A map as this process holds it: a token of the daemon's, or an embedded ring. Attaching works the same for both.
#pragma once

#include <algorithm>
#include <memory>
#include <string>

#include "base/mapping.hpp"
#include "base/notify.hpp"
#include "ringbuf/shm/ring.hpp"
#include "session.hpp"
#include "shm/create.hpp"

namespace ringbuf {

// A ring without a daemon: shared by this process and the children that it forks, who trust each other. One eventfd for all
// producers, so that it does not matter who attached before whose fork.
struct EmbeddedRing {
  shm::RingMemory memory;
  shm::RingSpec spec;
  std::string name;
  unsigned mode = 0;
  UniqueFd signal;
  Mapping mapping;            // gives out producers' slots, to children as well
  unsigned attached[4] = {};  // guarded by mutex: by role, of this process
  ForkMutex mutex{[this] { std::fill(std::begin(attached), std::end(attached), 0); }};

  shm::Ring ring() const { return shm::Ring(mapping.view()); }
};

class OuterShare;

// One attachment: the mapped ring and what it takes to leave it. Detaches when destroyed.
class Attachment {
 public:
  static int make(const ringbuf_map& map, ringbuf_role role, std::unique_ptr<Attachment>* ret);
  ~Attachment();
  Attachment(const Attachment&) = delete;

  // Complete but for room_told.
  const ringbuf_view& view() const { return view_; }
  // Consumers: the epoll descriptor that producers' eventfds are in.
  int wait_fd() const { return notify_.get(); }
  // Two attachments with the same identity are of the same map.
  std::pair<std::uint64_t, std::uint64_t> identity() const { return identity_; }
  // False in a child that inherited this over fork.
  bool ours() const;

 private:
  Attachment() = default;
  int from_daemon(const ringbuf_map& map);
  int from_embedded(const ringbuf_map& map);
  int map_memory(int c_fd, int p_fd, const shm::RingSpec& spec);

  std::shared_ptr<Session> session_;
  std::shared_ptr<EmbeddedRing> embedded_;
  ringbuf_role role_{};
  std::uint32_t id_ = 0;
  std::uint64_t lease_ = 0;
  pid_t pid_ = 0;
  std::uint32_t slot_ = 0;
  bool robust_ = false;
  UniqueFd notify_;  // producers: eventfd; consumers: epoll
  Mapping mapping_;
  ringbuf_view view_{};
  std::pair<std::uint64_t, std::uint64_t> identity_{};
};

}  // namespace ringbuf

struct ringbuf_map {
  std::shared_ptr<ringbuf::Session> session;  // or
  std::shared_ptr<ringbuf::EmbeddedRing> embedded;
  ringbuf::UniqueFd token;
  std::uint32_t map_type = 0;
  std::uint32_t key_size = 0;
  std::weak_ptr<ringbuf::OuterShare> outer;  // what its ringbuf_outer share; guarded as outer.cpp says

  bool is_map_of_maps() const { return ringbuf::shm::is_map_of_maps(map_type); }
};
