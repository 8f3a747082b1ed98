// SPDX-License-Identifier: MIT
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "map.hpp"

namespace ringbuf {
namespace {

using Access = Mapping::Access;

Access c_access(ringbuf_role role) { return role == RINGBUF_CONSUMER ? Access::ReadWrite : Access::ReadOnly; }
Access p_access(ringbuf_role role) { return role == RINGBUF_PRODUCER ? Access::ReadWrite : Access::ReadOnly; }

}  // namespace

bool Attachment::ours() const { return pid_ == ::getpid(); }

int Attachment::map_memory(int c_fd, int p_fd, const shm::RingSpec& spec) {
  struct stat st;
  if (::fstat(p_fd, &st) < 0) return api_fail(Error{errno, "look at a ring's memory"});
  identity_ = {st.st_dev, st.st_ino};
  auto mapping = Mapping::map_ring(c_fd, p_fd, shm::Layout{shm::page_size(), spec.max_entries}, c_access(role_), p_access(role_));
  if (!mapping) return api_fail(mapping.error());
  mapping_ = std::move(*mapping);
  view_ = mapping_.view();
  view_.robust = robust_;
  view_.ring_flags = spec.ring_flags;
  view_.map_type = spec.map_type;
  view_.map_flags = spec.map_flags;
  view_.slot = slot_;
  if (role_ == RINGBUF_PRODUCER) {
    view_.signal_fd = notify_.get();
    shm::Ring(view_).raise_slot_limit(slot_ + 1);
  }
  return 0;
}

int Attachment::from_daemon(const ringbuf_map& map) {
  ringbuf_attach_reply reply{};
  std::vector<UniqueFd> fds;
  const std::size_t n_fds = role_ == RINGBUF_OBSERVER ? 2 : 3;
  if (int r = map.session->ask(RINGBUF_ATTACH, ringbuf_attach_req{role_, map.session->new_attachment()}, map.token.get(), &reply,
                               n_fds, &fds, &lease_);
      r < 0)
    return r;
  session_ = map.session;
  id_ = reply.attachment;
  const shm::RingSpec spec{reply.max_entries, reply.map_type, reply.map_flags, reply.ring_flags, 0};
  if (reply.page_size != shm::page_size() || !shm::is_power_of_two(reply.max_entries) ||
      reply.max_entries % reply.page_size != 0 || reply.slot_count != RINGBUF_SLOT_COUNT || reply.slot >= reply.slot_count ||
      (role_ == RINGBUF_PRODUCER) != (reply.slot != 0))
    return api_fail(EPROTO, "the daemon described a ring that cannot be");
  slot_ = reply.slot;
  if (n_fds == 3) notify_ = std::move(fds[2]);
  robust_ = (reply.flags & RINGBUF_ATTACHED_ROBUST) != 0;
  return map_memory(fds[0].get(), fds[1].get(), spec);
}

int Attachment::from_embedded(const ringbuf_map& map) {
  EmbeddedRing& ring = *map.embedded;
  robust_ = true;  // who shares it descends from one process, in one pid namespace
  if (role_ == RINGBUF_PRODUCER) {
    notify_.reset(::fcntl(ring.signal.get(), F_DUPFD_CLOEXEC, 3));
    if (!notify_) return api_fail(Error{errno, "duplicate an eventfd"});
    const bool single = ring.spec.ring_flags & RINGBUF_F_SINGLE_PRODUCER;
    slot_ = ring.ring().take_slot(single ? 2 : RINGBUF_SLOT_COUNT);
    if (slot_ == 0)
      return single ? api_fail(EBUSY, "the map has its single producer already")
                    : api_fail(EUSERS, "the map has " + std::to_string(RINGBUF_SLOT_COUNT - 1) + " producers; no slot is left");
  } else if (role_ == RINGBUF_CONSUMER) {
    auto epoll = make_epoll();
    if (!epoll) return api_fail(epoll.error());
    if (auto ok = epoll_add_edge(epoll->get(), ring.signal.get()); !ok) return api_fail(ok.error());
    notify_ = std::move(*epoll);
  }
  embedded_ = map.embedded;
  {
    std::lock_guard lock(ring.mutex);
    ++ring.attached[role_];
  }
  return map_memory(ring.memory.c.get(), ring.memory.p.get(), ring.spec);
}

int Attachment::make(const ringbuf_map& map, ringbuf_role role, std::unique_ptr<Attachment>* ret) {
  if (map.is_map_of_maps())
    return api_fail(EINVAL, "a map of maps is not a ring; open the inner map at a key, or attach a ringbuf_outer");
  std::unique_ptr<Attachment> a(new Attachment);
  a->role_ = role;
  a->pid_ = ::getpid();
  if (int r = map.session ? a->from_daemon(map) : a->from_embedded(map); r < 0) return r;
  *ret = std::move(a);
  return 0;
}

Attachment::~Attachment() {
  if (!ours()) return;
  const int saved = errno;
  if (session_) session_->detach(id_, lease_);
  if (embedded_) {
    std::lock_guard lock(embedded_->mutex);
    --embedded_->attached[role_];
    if (slot_ != 0) embedded_->ring().give_slot(slot_);
  }
  errno = saved;
}

}  // namespace ringbuf
