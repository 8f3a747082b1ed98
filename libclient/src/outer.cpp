// SPDX-License-Identifier: MIT
// Maps of maps: elements by request; producers by key, which after the first time take no request, lock or allocation.
#include "ringbuf/shm/outer.hpp"

#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <string_view>
#include <unordered_map>

#include "map.hpp"

namespace ringbuf {
namespace {

constexpr std::uint64_t kLock = 4;  // BPF_F_LOCK, which bpf(2) refuses before it looks at anything else
constexpr int kEnotsupp = 524;      // the kernel's ENOTSUPP, which has no name outside of it

// Who we are, without a system call. A fork child is another process: what its parent attached is not its own.
struct Process {
  pid_t pid = ::getpid();
  unsigned forks = 0;
};
Process process;
ForkMutex process_watch{[] {
  process.pid = ::getpid();
  ++process.forks;
}};

int inherited() { return api_fail(EPERM, "this ringbuf_outer was inherited over fork; attach one in this process"); }

int element_request(const ringbuf_map* map, const void* key, ringbuf_elem_req* req) {
  if (!map) return api_fail(EINVAL, "the outer map is NULL");
  if (!map->is_map_of_maps()) return api_fail(key ? EINVAL : kEnotsupp, "a ring buffer has no elements; only maps of maps do");
  if (!key) return api_fail(EFAULT, "key is NULL; give the address of a key");
  req->key_size = map->key_size;
  std::memcpy(req->key, key, std::min<std::size_t>(map->key_size, sizeof req->key));
  return 0;
}

using ProducerRef = std::shared_ptr<ringbuf_producer>;

// What a ringbuf_outer found at a key.
struct Place {
  std::uint64_t word = 0;
  ProducerRef producer;
};

struct KeyView {
  std::uint64_t hash;
  std::string_view bytes;
};
struct Key {
  std::uint64_t hash;
  std::string bytes;
};
struct KeyHash {
  using is_transparent = void;
  template <class K>
  std::size_t operator()(const K& key) const {
    return key.hash;
  }
};
struct KeyEqual {
  using is_transparent = void;
  template <class A, class B>
  bool operator()(const A& a, const B& b) const {
    return std::string_view(a.bytes) == std::string_view(b.bytes);
  }
};

}  // namespace

// The mapped table and the attachments to inner maps, of all ringbuf_outer of one map handle.
class OuterShare {
 public:
  static int of(ringbuf_map& map, std::shared_ptr<OuterShare>* ret);
  ~OuterShare() {
    const int saved = errno;
    if (attachment_ != 0 && ours()) session_->detach(attachment_, lease_);
    errno = saved;
  }
  OuterShare(const OuterShare&) = delete;

  bool ours() const { return forks_ == process.forks; }
  const shm::Elements& table() const { return table_; }
  std::uint32_t inner_map_type() const { return static_cast<const ringbuf_outer_header*>(memory_.base())->inner_map_type; }

  // Brings `place` of `outer` up to date with `word`, or, if that is not sure, with what the daemon says. 0 or as api_fail.
  int settle(const ringbuf_outer* outer, const void* key, Place& place, shm::Elements::Found found);
  // Gives up what is there. Detaching is done under the mutex: who attaches to the same ring next finds its place free.
  void drop(Place& place) {
    std::lock_guard lock(mutex_);
    place = {};
  }

 private:
  OuterShare() = default;
  int attach(const ringbuf_map& map);
  struct Known {
    std::weak_ptr<ringbuf_producer> producer;
    const ringbuf_outer* outer;  // whose thread may use it if it is a single producer
  };

  const unsigned forks_ = process.forks;
  std::shared_ptr<Session> session_;
  UniqueFd token_;
  std::uint32_t attachment_ = 0;
  std::uint64_t lease_ = 0;
  FileMapping memory_;
  shm::Elements table_;
  // Held during requests, so it is no ForkMutex; a child does not use its parent's.
  std::mutex mutex_;
  std::map<std::uint32_t, Known> producers_;  // by id; guarded by mutex_
};

namespace {
ForkMutex shares_mutex;  // guards ringbuf_map::outer of all maps
}

int OuterShare::of(ringbuf_map& map, std::shared_ptr<OuterShare>* ret) {
  std::shared_ptr<OuterShare> known;
  const auto look = [&] {
    known = map.outer.lock();
    return known && known->ours();
  };
  {
    std::lock_guard lock(shares_mutex);
    if (look()) return *ret = std::move(known), 0;
  }
  std::shared_ptr<OuterShare> made(new OuterShare);  // destroyed, if another thread was faster, without the mutex
  if (int r = made->attach(map); r < 0) return r;
  std::lock_guard lock(shares_mutex);
  if (look()) return *ret = std::move(known), 0;
  map.outer = made;
  *ret = std::move(made);
  return 0;
}

int OuterShare::attach(const ringbuf_map& map) {
  token_.reset(::fcntl(map.token.get(), F_DUPFD_CLOEXEC, 3));
  if (!token_) return api_fail(Error{errno, "duplicate the map's descriptor"});
  ringbuf_attach_reply reply{};
  std::vector<UniqueFd> fds;
  session_ = map.session;
  if (int r = session_->ask(RINGBUF_ATTACH, ringbuf_attach_req{RINGBUF_OBSERVER, session_->new_attachment()}, token_.get(),
                            &reply, 1, &fds, &lease_);
      r < 0)
    return r;
  attachment_ = reply.attachment;
  struct stat st;
  if (::fstat(fds[0].get(), &st) < 0) return api_fail(Error{errno, "look at a table's memory"});
  const shm::OuterLayout layout{reply.map_type, map.key_size, reply.max_entries};
  auto memory = FileMapping::map(fds[0].get(), static_cast<std::uint64_t>(st.st_size), Mapping::Access::ReadOnly);
  if (!memory) return api_fail(memory.error());
  memory_ = std::move(*memory);
  if (static_cast<std::uint64_t>(st.st_size) < sizeof(ringbuf_outer_header) || reply.max_entries > RINGBUF_MAX_ELEMENTS ||
      !layout.matches(*static_cast<const ringbuf_outer_header*>(memory_.base())) ||
      static_cast<std::uint64_t>(st.st_size) != shm::outer_file_size(layout))
    return api_fail(EPROTO, "the daemon described a table that cannot be");
  table_ = shm::Elements(memory_.base(), layout);
  return 0;
}

int OuterShare::settle(const ringbuf_outer* outer, const void* key, Place& place, shm::Elements::Found found) {
  std::lock_guard lock(mutex_);
  const auto keep = [&](std::uint64_t word) {  // the same map, put there again
    if (!place.producer || shm::element_id(place.word) != shm::element_id(word)) return false;
    place.word = word;
    return true;
  };
  // 1: shared, 0: nobody has it, or as api_fail.
  const auto share = [&](std::uint64_t word) {
    const auto it = producers_.find(shm::element_id(word));
    ProducerRef producer = it == producers_.end() ? nullptr : it->second.producer.lock();
    if (!producer) return 0;
    if (it->second.outer != outer && (ringbuf_producer_view(producer.get())->ring_flags & RINGBUF_F_SINGLE_PRODUCER))
      return api_fail(EBUSY, "the ring at this key has a single producer, and another ringbuf_outer of this process is it");
    place = {word, std::move(producer)};
    return 1;
  };
  if (found.sure) {
    if (shm::element_id(found.word) != 0 && keep(found.word)) return 0;
    place = {};  // first: its place in a limit, or as the single producer, may be the one that is needed
    if (shm::element_id(found.word) == 0) return api_fail(ENOENT, "there is no map at this key");
    if (int r = share(found.word); r != 0) return std::min(r, 0);
  }
  ringbuf_elem_req req{};
  req.rights = RINGBUF_RIGHT_PRODUCE;
  req.key_size = table_.layout().key_size;
  std::memcpy(req.key, key, req.key_size);
  ringbuf_elem_reply reply{};
  std::vector<UniqueFd> fds;
  if (int r = session_->ask(RINGBUF_MAP_GET_FD_BY_KEY, req, token_.get(), &reply, 1, &fds); r < 0) return place = {}, r;
  if (keep(reply.word)) return 0;
  place = {};
  if (int r = share(reply.word); r != 0) return std::min(r, 0);
  ringbuf_map inner;
  inner.session = session_;
  inner.token = std::move(fds[0]);
  inner.map_type = reply.map_type;
  ringbuf_producer* producer = nullptr;
  if (int r = ringbuf_producer_attach(&inner, &producer); r < 0) return r;
  ProducerRef owned(producer, ringbuf_producer_free);
  std::erase_if(producers_, [](const auto& entry) { return entry.second.producer.expired(); });
  producers_[shm::element_id(reply.word)] = {owned, outer};
  place = {reply.word, std::move(owned)};
  return 0;
}

}  // namespace ringbuf

using namespace ringbuf;

struct ringbuf_outer {
  explicit ringbuf_outer(std::shared_ptr<OuterShare> s)
      : share(std::move(s)),
        table(share->table()),
        tgid_shard(shm::shard_of(static_cast<std::uint32_t>(process.pid), table.layout().max_entries)),
        indexes(table.layout().hash() ? 0 : table.layout().max_entries) {}
  ~ringbuf_outer() {
    if (!share->ours()) return;  // what it has is the parent's
    for (Place& place : indexes)
      if (place.producer) share->drop(place);
    for (auto& [key, place] : keys) share->drop(place);
  }

  ringbuf_producer* at(std::uint32_t index) {
    if (!share->ours()) return inherited(), nullptr;
    if (index >= indexes.size()) return none();
    Place& place = indexes[index];
    const std::uint64_t word = table.at(index);
    if (place.producer && place.word == word) return place.producer.get();
    if (!place.producer && shm::element_id(word) == 0) return none();
    return guarded([&] { return share->settle(this, &index, place, {word, true}); }) < 0 ? nullptr : place.producer.get();
  }

  ringbuf_producer* find(const void* key) {
    if (!share->ours()) return inherited(), nullptr;
    const std::uint32_t size = table.layout().key_size;
    const KeyView view{shm::key_hash(key, size), {static_cast<const char*>(key), size}};
    const shm::Elements::Found found = table.find(key, view.hash);
    auto it = keys.find(view);
    if (it != keys.end() && found.sure && it->second.producer && it->second.word == found.word) return it->second.producer.get();
    if (it == keys.end() && found.sure && shm::element_id(found.word) == 0) return none();
    const int r = guarded([&] {
      if (it == keys.end()) it = keys.try_emplace(Key{view.hash, std::string(view.bytes)}).first;
      return share->settle(this, key, it->second, found);
    });
    if (r == 0) return it->second.producer.get();
    if (it != keys.end()) keys.erase(it);
    return nullptr;
  }

  static ringbuf_producer* none() { return api_fail(ENOENT, "there is no map at this key"), nullptr; }

  const std::shared_ptr<OuterShare> share;
  const shm::Elements table;
  const std::uint32_t tgid_shard;
  std::vector<Place> indexes;                              // of an array
  std::unordered_map<Key, Place, KeyHash, KeyEqual> keys;  // of a hash: by key, as a slot of the table changes hands
};

int ringbuf_map_update_elem(ringbuf_map* outer, const void* key, const ringbuf_map* inner, uint64_t flags) {
  ringbuf_elem_req req{};
  if (flags & kLock) return api_fail(EINVAL, "flags has BPF_F_LOCK; there is no lock in an element");
  if (int r = element_request(outer, key, &req); r < 0) return r;
  if (inner && !inner->session) return api_fail(EOPNOTSUPP, "an embedded map cannot be put into a map of maps");
  req.flags = flags;
  return guarded([&] {
    return outer->session->call(RINGBUF_MAP_UPDATE_ELEM, req, {outer->token.get(), ringbuf_map_fd(inner)}, nullptr);
  });
}

int ringbuf_map_lookup_elem(ringbuf_map* outer, const void* key, uint32_t* ret_id) {
  ringbuf_elem_req req{};
  if (int r = element_request(outer, key, &req); r < 0) return r;
  if (!ret_id) return api_fail(EINVAL, "ret_id is NULL");
  return guarded([&] {
    ringbuf_elem_reply reply{};
    if (int r = outer->session->ask(RINGBUF_MAP_LOOKUP_ELEM, req, outer->token.get(), &reply); r < 0) return r;
    *ret_id = reply.id;
    return 0;
  });
}

int ringbuf_map_delete_elem(ringbuf_map* outer, const void* key) {
  ringbuf_elem_req req{};
  if (int r = element_request(outer, key, &req); r < 0) return r;
  return guarded([&] { return outer->session->call(RINGBUF_MAP_DELETE_ELEM, req, outer->token.get(), nullptr); });
}

int ringbuf_map_get_next_key(ringbuf_map* outer, const void* key, void* ret_next_key) {
  ringbuf_elem_req req{};
  if (key || !outer || !outer->is_map_of_maps())
    if (int r = element_request(outer, key, &req); r < 0) return r;
  if (!ret_next_key) return api_fail(EINVAL, "ret_next_key is NULL");
  return guarded([&] {
    ringbuf_key_reply reply{};
    if (int r = outer->session->ask(RINGBUF_MAP_GET_NEXT_KEY, req, outer->token.get(), &reply); r < 0) return r;
    if (reply.key_size != outer->key_size) return api_fail(EPROTO, "the daemon answered with a key of another size");
    std::memcpy(ret_next_key, reply.key, reply.key_size);
    return 0;
  });
}

int ringbuf_map_open_inner(ringbuf_map* outer, const void* key, uint32_t rights, ringbuf_map** ret_map) {
  ringbuf_elem_req req{};
  if (int r = element_request(outer, key, &req); r < 0) return r;
  if (!ret_map) return api_fail(EINVAL, "ret_map is NULL");
  req.rights = rights;
  return guarded([&] {
    auto map = std::make_unique<ringbuf_map>();
    map->session = outer->session;
    ringbuf_elem_reply reply{};
    std::vector<UniqueFd> fds;
    if (int r = map->session->ask(RINGBUF_MAP_GET_FD_BY_KEY, req, outer->token.get(), &reply, 1, &fds); r < 0) return r;
    map->token = std::move(fds[0]);
    map->map_type = reply.map_type;
    map->key_size = reply.key_size;
    *ret_map = map.release();
    return 0;
  });
}

int ringbuf_outer_attach(ringbuf_map* map, ringbuf_outer** ret_outer) {
  if (!map || !ret_outer) return api_fail(EINVAL, "map or ret_outer is NULL");
  if (!map->is_map_of_maps()) return api_fail(EINVAL, "a ring buffer is not a map of maps; attach a producer to it");
  return guarded([&] {
    std::shared_ptr<OuterShare> share;
    if (int r = OuterShare::of(*map, &share); r < 0) return r;
    *ret_outer = new ringbuf_outer(std::move(share));
    return 0;
  });
}

void ringbuf_outer_free(ringbuf_outer* outer) { delete outer; }

ringbuf_producer* ringbuf_outer_lookup(ringbuf_outer* outer, const void* key) {
  if (!outer || !key) return api_fail(EINVAL, "outer or key is NULL"), nullptr;
  if (outer->table.layout().hash()) return outer->find(key);
  std::uint32_t index;
  std::memcpy(&index, key, sizeof index);
  return outer->at(index);
}

void* ringbuf_shard_reserve(ringbuf_outer* outer, ringbuf_shard shard, size_t size, uint64_t flags,
                            ringbuf_producer** ret_producer) {
  if (!outer || !ret_producer) return api_fail(EINVAL, "outer or ret_producer is NULL"), nullptr;
  const shm::OuterLayout& layout = outer->table.layout();
  if (layout.hash() || outer->share->inner_map_type() != RINGBUF_MAP_TYPE_RINGBUF)
    return api_fail(EINVAL, "shards need an ARRAY_OF_MAPS of RINGBUF"), nullptr;
  std::uint32_t index;
  if (shard == RINGBUF_SHARD_CPU) {
    const int cpu = ::sched_getcpu();
    index = cpu < 0 ? 0 : static_cast<std::uint32_t>(cpu) % layout.max_entries;
  } else if (shard == RINGBUF_SHARD_TGID) {
    index = outer->tgid_shard;
  } else {
    return api_fail(EINVAL, "shard must be RINGBUF_SHARD_CPU or RINGBUF_SHARD_TGID"), nullptr;
  }
  ringbuf_producer* producer = outer->at(index);
  if (!producer) return nullptr;
  void* data = ringbuf_reserve(producer, size, flags);
  if (data) *ret_producer = producer;
  return data;
}
