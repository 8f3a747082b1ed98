// SPDX-License-Identifier: MIT
#include "daemon/map.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <system_error>
#include <tuple>

#include "base/notify.hpp"
#include "ringbuf/shm/producer.hpp"
#include "wire/codec.hpp"

namespace ringbuf::daemon {
namespace {

// In a lane: anybody can keep everybody from looking into /proc/PID, by the lock of that directory. Then it has no name.
struct Comm : Lane::Work {
  explicit Comm(pid_t p) : pid(p) {}
  void run() noexcept override {
    char path[32];
    std::snprintf(path, sizeof path, "/proc/%d/comm", static_cast<int>(pid));
    const UniqueFd fd(::open(path, O_RDONLY | O_CLOEXEC));
    if (const ssize_t n = fd ? ::read(fd.get(), comm, sizeof comm) : 0; n > 1) size = static_cast<std::size_t>(n - 1);
  }
  const pid_t pid;
  char comm[16];
  std::size_t size = 0;
};

std::string comm_of(Lanes& lanes, pid_t pid) try {
  const auto lane = lanes.names();
  if (!lane->idle()) return "?";
  const auto work = std::make_shared<Comm>(pid);
  lane->run(work);
  return lane->idle() && work->size ? wire::printable({work->comm, work->size}) : "?";
} catch (const std::system_error&) {  // no thread can be started
  return "?";
}

std::string process_of(Lanes& lanes, const Holder& holder) {
  if (holder.pid == 0) return "a process of another pid namespace";
  return fmt::format("pid {} ({})", holder.pid, comm_of(lanes, holder.pid));
}

// Words of one page. By stores: pwrite(2) waits for the inode's lock, and who can write the file can hold that for ever.
template <class Word>
Result<void> clear_words(int fd, std::uint64_t at, std::size_t count = 1) {
  const std::uint64_t size = shm::page_size(), in_page = at % size;
  void* page = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, static_cast<off_t>(at - in_page));
  if (page == MAP_FAILED) return fail_errno("map shared words");
  // Want of memory is an error here, and would be SIGBUS below. Unknown (EINVAL) before Linux 5.14.
  const int err = ::madvise(page, size, MADV_POPULATE_WRITE) < 0 && errno != EINVAL ? errno : 0;
  auto* words = reinterpret_cast<volatile Word*>(static_cast<unsigned char*>(page) + in_page);
  for (std::size_t i = 0; i < count && !err; ++i) words[i] = 0;
  ::munmap(page, size);
  if (err) return fail(err, "clear shared words");
  return {};
}

template <class T>
bool peek(int fd, std::uint64_t at, T& to) {
  return ::pread(fd, &to, sizeof to, static_cast<off_t>(at)) == static_cast<ssize_t>(sizeof to);
}

// The mode of the memory, 0600, lets no other uid do this.
Result<UniqueFd> reopen_read_write(int fd) {
  UniqueFd copy(::open(fmt::format("/proc/self/fd/{}", fd).c_str(), O_RDWR | O_CLOEXEC));
  if (!copy) return fail_errno("reopen a memory file");
  return copy;
}

}  // namespace

std::string Map::label() const {
  return spec.name.empty() ? fmt::format("map {}", id) : fmt::format("map {} '{}'", id, spec.name);
}

unsigned Map::count(unsigned role) const {
  return static_cast<unsigned>(
      std::count_if(attachments_.begin(), attachments_.end(), [&](const Attachment* a) { return a->role == role; }));
}

// By one that has ended.
tl::unexpected<Refusal> Map::still_taken() const {
  return refuse(EAGAIN, fmt::format("what a producer has left in {} is still being discarded; try again", label()));
}

Answer<unsigned> Map::free_slot() const {
  if (spec.ring.ring_flags & RINGBUF_F_SINGLE_PRODUCER) {
    const auto it = std::find_if(attachments_.begin(), attachments_.end(), [](auto* a) { return a->role == RINGBUF_PRODUCER; });
    if (it != attachments_.end() && (*it)->ended()) return still_taken();
    if (it != attachments_.end())
      return refuse(EBUSY, fmt::format("{} was created for a single producer and {} is it", label(),
                                       process_of(waits_.lanes, (*it)->holder)));
  }
  for (unsigned slot = 1; slot < RINGBUF_SLOT_COUNT; ++slot)
    if (!slots_[slot]) return slot;
  if (std::any_of(attachments_.begin(), attachments_.end(), [](auto* a) { return a->slot && a->ended(); })) return still_taken();
  return refuse(EUSERS, fmt::format("{} has {} producers, as many as a map can have", label(), RINGBUF_SLOT_COUNT - 1));
}

const Attachment* Map::consumer_of_another(const Holder& holder) const {
  for (const Attachment* a : attachments_)
    if (a->role == RINGBUF_CONSUMER && !a->holder.same_process(holder)) return a;
  return nullptr;
}

Answer<std::unique_ptr<Attachment>> Map::attach(unsigned role, const Holder& holder, Charge charge) {
  unsigned slot = 0;
  if (role == RINGBUF_PRODUCER) {
    const auto found = free_slot();
    if (!found) return tl::unexpected(found.error());
    slot = *found;
  }
  if (role == RINGBUF_CONSUMER) {
    if (const Attachment* other = consumer_of_another(holder))
      return refuse(EBUSY, fmt::format("{} is consumed by {}; only one process may consume a map", label(),
                                       process_of(waits_.lanes, other->holder)));
    if (count(RINGBUF_CONSUMER) >= RINGBUF_MAX_CONSUMERS)  // each producer is in the wait of each
      return refuse(EUSERS, fmt::format("{} has {} consumers, as many as a map can have", label(), RINGBUF_MAX_CONSUMERS));
    if (waits_.unsettled(holder.uid) >= Waits::kMost)
      return refuse(EDQUOT, fmt::format("{} changes are left to do in epolls that uid {} got from the daemon: somebody holds "
                                        "their locks, or memory or watches are wanting",
                                        Waits::kMost, holder.uid));
  }
  attachments_.reserve(attachments_.size() + 1);  // joining must not fail half-way
  auto a = std::make_unique<Attachment>(shared_from_this(), role, slot, holder, std::move(charge));
  if (auto joined = join(*a); !joined) return refuse(joined.error());
  return a;
}

Result<void> Map::join(Attachment& a) {
  if (a.role == RINGBUF_PRODUCER) {
    // Not `need`: its turns go on from holder to holder (proto/shm/room.cpp).
    const std::uint64_t lost = a.slot * sizeof(ringbuf_slot) + offsetof(ringbuf_slot, lost);
    if (auto cleared = clear_words<std::uint64_t>(memory_.p.get(), lost, RINGBUF_LOST_REASONS); !cleared) return cleared;
    auto event = make_eventfd();
    if (!event) return tl::unexpected(event.error());
    a.signal_ = std::make_shared<ForeignFd>(waits_.lanes.closing(a.holder.uid), std::move(*event));
  } else if (a.role == RINGBUF_CONSUMER) {
    auto epoll = make_epoll();
    if (!epoll) return tl::unexpected(epoll.error());
    if (auto made = make_kick(); !made) return made;
    a.wait_ = std::make_shared<Wait>(waits_, a.holder.uid, std::move(*epoll), kick_);
    if (auto put = a.wait_->put(kick_); !put) return put;
    for (const Attachment* other : attachments_)
      if (other->signal_ && !other->ended())
        if (auto put = a.wait_->put(other->signal_); !put) return put;
  }
  return {};
}

Result<void> Map::make_kick() {
  if (kick_) return {};
  auto event = make_eventfd();
  if (!event) return tl::unexpected(event.error());
  kick_ = std::make_shared<ForeignFd>(waits_.lanes.closing(spec.uid), kept_.at_its_number(std::move(*event)));
  (void)kept_.hold(Held::Kick, kick_->get());  // if not, the next daemon makes another
  return {};
}

Result<void> Map::connect(const Attachment& producer) {
  for (const Attachment* other : attachments_)
    if (other->wait_) other->wait_->add(producer.signal_);
  Result<void> result;
  for (const Attachment* other : attachments_) {
    if (!other->wait_) continue;
    other->wait_->settle();
    if (auto added = other->wait_->added(producer.signal_); !added) result = added;
  }
  return result;
}

void Map::leave(Attachment& a) {
  // What follows tidies for others; that it fails (no memory behind a hole that a client has punched) is no reason to stay.
  const auto last = [&](unsigned role) {
    return std::none_of(attachments_.begin(), attachments_.end(),
                        [&](auto* other) { return other != &a && other->role == role; });
  };
  if (a.role == RINGBUF_PRODUCER) {
    for (const Attachment* other : attachments_)
      if (other->wait_) other->wait_->remove(a.signal_);
    for (const Attachment* other : attachments_)
      if (other->wait_) other->wait_->settle();
    if (last(RINGBUF_PRODUCER))
      (void)clear_words<std::uint32_t>(memory_.p.get(),
                                       memory_.layout.producer_page_off() + offsetof(ringbuf_producer_page, room_waiters));
    kick(kick_);
  } else if (a.role == RINGBUF_CONSUMER) {
    if (a.wait_) {
      a.wait_->remove_all();
      a.wait_->settle();
    }
    if (last(RINGBUF_CONSUMER)) (void)clear_words<std::uint64_t>(memory_.c.get(), offsetof(ringbuf_consumer_page, waiting));
  }
}

Result<Mapping> Map::map_memory() const {
  using Access = Mapping::Access;
  return Mapping::map_ring(memory_.c.get(), memory_.p.get(), memory_.layout, Access::ReadOnly, Access::ReadWrite);
}

ringbuf_view Map::view(const Mapping& mapping) const {
  ringbuf_view v = mapping.view();
  v.map_type = spec.ring.map_type;
  v.map_flags = spec.ring.map_flags;
  v.ring_flags = spec.ring.ring_flags;
  return v;
}

Result<void> Map::enter(State& state) {
  MapEntry e{};
  const shm::RingSpec& r = spec.ring;
  std::tie(e.id, e.map_type, e.max_entries, e.map_flags, e.ring_flags, e.numa_node) =
      std::tie(id, r.map_type, r.max_entries, r.map_flags, r.ring_flags, r.numa_node);
  std::tie(e.mode, e.uid, e.gid, e.key_size, e.value_size) =
      std::tie(spec.mode, spec.uid, spec.gid, spec.key_size, spec.value_size);
  if (spec.inner) {
    e.has_inner = 1;
    std::tie(e.inner_type, e.inner_key_size, e.inner_value_size, e.inner_flags) =
        std::tie(spec.inner->map_type, spec.inner->key_size, spec.inner->value_size, spec.inner->map_flags);
  }
  spec.name.copy(e.name, sizeof e.name - 1);
  auto kept = elements_ ? state.put(e, {{Held::Table, elements_->fd()}})
                        : state.put(e, {{Held::Consumer, memory_.c.get()}, {Held::Producer, memory_.p.get()}});
  if (!kept) return tl::unexpected(kept.error());
  kept_ = std::move(*kept);
  return {};
}

void Map::resume(Kept kept, UniqueFd kick) {
  kept_ = std::move(kept);
  if (kick) kick_ = std::make_shared<ForeignFd>(waits_.lanes.closing(spec.uid), kept_.at_its_number(std::move(kick)));
  auto* entry = kept_.entry<MapEntry>();
  if (!entry || elements_) return;
  if (const OrphanCount* last = Orphans::in_question(*entry)) Orphans::answer(*entry, !is_orphan(last->pos, last->slot));
}

// An uncommitted record of a dead producer stays what it is, and the bytes what they are, until it is discarded.
bool Map::is_orphan(std::uint64_t pos, std::uint32_t slot) const {
  const bool user = spec.ring.map_type == shm::kTypeUserRingbuf;
  const std::uint64_t at = shm::offset(pos, memory_.layout.max_entries - 1);
  ringbuf_record_header header{};
  std::uint64_t bound = 0;
  const bool seen =
      peek(memory_.p.get(), memory_.layout.data_off() + at, header) &&
      (user ? peek(memory_.c.get(), offsetof(ringbuf_consumer_page, consumer_pos), bound)
            : peek(memory_.p.get(), memory_.layout.producer_page_off() + offsetof(ringbuf_producer_page, pending_pos), bound));
  return seen && !shm::Ring::is_before(pos, bound) && (header.len & RINGBUF_BUSY_BIT) &&
         (user || header.who >> RINGBUF_PG_OFF_BITS == slot);
}

std::unique_ptr<Attachment> Map::resume(const AttachmentEntry& e, UniqueFd event, Kept kept, Charge charge) {
  const Holder holder{static_cast<pid_t>(e.pid), e.uid, e.client, e.same_pids != 0};
  auto a = std::make_unique<Attachment>(shared_from_this(), e.role, e.slot, holder, std::move(charge));
  a->kept_ = std::move(kept);
  if (event && e.role == RINGBUF_PRODUCER)
    a->signal_ = std::make_shared<ForeignFd>(waits_.lanes.closing(e.uid), a->kept_.at_its_number(std::move(event)));
  if (event && e.role == RINGBUF_CONSUMER) {
    if (auto made = make_kick(); !made) throw std::system_error(made.error().err, std::generic_category(), made.error().op);
    a->wait_ = std::make_shared<Wait>(waits_, e.uid, std::move(event), kick_);
  }
  return a;
}

// The daemon before may have been killed between two of them. What is in already is so under the same number.
void Map::expect_connections() {
  for (const Attachment* a : attachments_) {
    if (!a->wait_) continue;
    a->wait_->expect(kick_, true);
    for (const Attachment* other : attachments_)
      if (other->signal_) a->wait_->expect(other->signal_, !other->ended());
  }
}

void Map::resume_connections() {
  for (const Attachment* a : attachments_)
    if (a->wait_) a->wait_->settle();
  // Whoever woke a consumer and ended before it had looked has taken the wakeup along.
  kick(kick_);
}

Result<void> Attachment::enter(State& state, std::uint32_t number) {
  const AttachmentEntry e{holder.client, number,           map->id, role, slot, static_cast<std::uint32_t>(holder.pid),
                          holder.uid,    holder.same_pids, 0,       0};
  auto kept = state.put(e, {{Held::Event, event()}});
  if (!kept) return tl::unexpected(kept.error());
  kept_ = std::move(*kept);
  if (!signal_) return {};
  signal_->file() = kept_.at_its_number(std::move(signal_->file()));
  return map->connect(*this);
}

void Attachment::end() noexcept {
  ended_ = true;
  if (auto* entry = kept_.entry<AttachmentEntry>()) State::commit(entry->ended, 1);
}

const Attachment* Map::producer_at(std::uint32_t slot) const {
  for (const Attachment* a : attachments_)
    if (a->role == RINGBUF_PRODUCER && a->slot == slot) return a;
  return nullptr;
}

// Every word is untrusted: it decides what is told, and nothing else. Since when a record is in the way is known to a consumer
// that went to sleep before it, and to whoever asked before.
void Map::look_at_head() {
  const std::uint64_t page = memory_.layout.producer_page_off(), now = shm::now_ns();
  ringbuf_consumer_page consumer{};
  struct {
    std::uint64_t producer_pos, pending_pos;
  } producer{};
  ringbuf_record_header header{};
  if (!peek(memory_.c.get(), 0, consumer) || !peek(memory_.p.get(), page, producer)) return;
  Head head;
  head.pos = (spec.ring.map_flags & shm::kFlagOverwrite ? producer.pending_pos : consumer.consumer_pos) & ~std::uint64_t{7};
  const std::uint64_t unread = producer.producer_pos - head.pos, at = shm::offset(head.pos, memory_.layout.max_entries - 1);
  if (unread != 0 && unread <= memory_.layout.max_entries && peek(memory_.p.get(), memory_.layout.data_off() + at, header) &&
      (header.len & RINGBUF_BUSY_BIT))
    head.slot = spec.ring.map_type == shm::kTypeUserRingbuf ? 1 : header.who >> RINGBUF_PG_OFF_BITS;
  head.since_ns = head.slot == head_.slot && head.pos == head_.pos ? head_.since_ns : now;
  if (consumer.stalled_pos == head.pos && consumer.stalled_ns != 0) head.since_ns = std::min(head.since_ns, consumer.stalled_ns);
  head_ = head;
}

void Map::tell_who_is_in_the_way(ringbuf_map_info& info) {
  if (const auto* entry = kept_.entry<MapEntry>()) {
    const OrphanCount& count = Orphans::of(*entry);
    std::tie(info.orphan_records, info.orphan_bytes, info.orphan_pid) = std::tie(count.records, count.bytes, count.pid);
  }
  if (elements_) return;
  const auto name = [&](std::uint32_t slot, std::uint32_t& pid, char(&comm)[RINGBUF_NAME_LEN]) {
    const Attachment* a = producer_at(slot);
    if (!a || a->holder.pid == 0) return;
    pid = static_cast<std::uint32_t>(a->holder.pid);
    comm_of(waits_.lanes, a->holder.pid).copy(comm, sizeof comm - 1);
  };
  look_at_head();
  if (head_.slot != 0) {
    info.head_slot = head_.slot;
    info.head_pos = head_.pos;
    info.head_ms = (shm::now_ns() - head_.since_ns) / 1'000'000;
    name(head_.slot, info.head_pid, info.head_comm);
  }
  std::uint64_t owner = 0;
  if (!peek(memory_.p.get(), memory_.layout.producer_page_off() + offsetof(ringbuf_producer_page, owner), owner) || owner == 0)
    return;
  info.owner_slot = static_cast<std::uint32_t>(owner >> 32);
  info.owner_tid = static_cast<std::uint32_t>(owner) & (RINGBUF_OWNER_FOREIGN - 1);
  name(info.owner_slot, info.owner_pid, info.owner_comm);
}

Attachment::Attachment(std::shared_ptr<Map> m, unsigned r, unsigned s, const Holder& h, Charge charge)
    : map(std::move(m)), role(r), slot(s), holder(h), charge_(std::move(charge)) {
  map->attachments_.push_back(this);
  if (slot) map->slots_.set(slot);
}

int Attachment::event() const { return wait_ ? wait_->fd() : signal_ ? signal_->get() : -1; }

Attachment::~Attachment() {
  auto& all = map->attachments_;
  all.erase(std::remove(all.begin(), all.end(), this), all.end());
  if (slot) map->slots_.reset(slot);
}

Result<std::vector<UniqueFd>> Attachment::descriptors() const {
  std::vector<UniqueFd> fds;
  const auto add = [&](Result<UniqueFd> fd) -> Result<void> {
    if (!fd) return tl::unexpected(fd.error());
    fds.push_back(std::move(*fd));
    return {};
  };
  if (map->elements_) {
    if (auto r = add(shm::reopen_read_only(map->elements_->fd())); !r) return tl::unexpected(r.error());
    return fds;
  }
  const shm::RingMemory& memory = map->memory_;
  const auto c = role == RINGBUF_CONSUMER ? reopen_read_write : shm::reopen_read_only;
  const auto p = role == RINGBUF_PRODUCER ? reopen_read_write : shm::reopen_read_only;
  if (auto r = add(c(memory.c.get())); !r) return tl::unexpected(r.error());
  if (auto r = add(p(memory.p.get())); !r) return tl::unexpected(r.error());
  if (event() >= 0) {
    UniqueFd copy(::fcntl(event(), F_DUPFD_CLOEXEC, 0));
    if (!copy) return fail_errno("copy a descriptor");
    fds.push_back(std::move(copy));
  }
  return fds;
}

}  // namespace ringbuf::daemon
