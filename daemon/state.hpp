// SPDX-License-Identifier: MIT
// What the daemon knows and that is no descriptor, in a memory file of its own: with it and the descriptors that the keeper has,
// the next daemon goes on where this one was killed (restore.cpp). Entries have one size, and each is put in and taken out by one
// store, so that there is no moment at which it is half there. Only daemons of one build version read each other's. One thread.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/mapping.hpp"
#include "base/result.hpp"
#include "base/unique_fd.hpp"
#include "daemon/inherited.hpp"
#include "daemon/keeper.hpp"
#include "ringbuf/abi/wire.h"

namespace ringbuf::daemon {

enum class Kind : std::uint64_t { Free, Map, Token, Pin, Client, Attachment };

// What dead producers had reserved and was discarded (orphans.hpp).
struct OrphanCount {
  std::uint64_t records, bytes;
  std::uint64_t pos;  // of the last one
  std::uint32_t pid, slot;
};
struct MapEntry {
  static constexpr Kind kKind = Kind::Map;
  std::uint32_t id, map_type, max_entries, map_flags, ring_flags, numa_node, mode, uid, gid, key_size, value_size;
  std::uint32_t has_inner, inner_type, inner_key_size, inner_value_size, inner_flags;
  char name[RINGBUF_NAME_LEN];
  OrphanCount orphans[2];
  std::uint64_t orphan_phase;
};
struct TokenEntry {
  static constexpr Kind kKind = Kind::Token;
  std::uint64_t cookie;
  std::uint32_t map, rights, uid, reserved;
};
struct PinEntry {
  static constexpr Kind kKind = Kind::Pin;
  std::uint32_t map, uid;
  char path[RINGBUF_PATH_LEN];
};
struct ClientEntry {
  static constexpr Kind kKind = Kind::Client;
  std::uint64_t cookie;
  std::uint32_t pid, uid, gid, same_pids;
};
struct AttachmentEntry {
  static constexpr Kind kKind = Kind::Attachment;
  std::uint64_t client;  // cookie
  std::uint32_t number, map, role, slot, pid, uid, same_pids, reserved;
  std::uint64_t ended;  // not 0: only the reaper has still to do with it
};

struct StateEntry {
  std::uint64_t kind;
  union {
    MapEntry map;
    TokenEntry token;
    PinEntry pin;
    ClientEntry client;
    AttachmentEntry attachment;
  };
};
static_assert(sizeof(StateEntry) == 272);

// The descriptors of an entry are known to the keeper by a letter and the entry's number.
enum class Held : char {
  Consumer = 'c',  // maps: C
  Producer = 'p',  //       P
  Kick = 'k',
  Table = 'o',    // maps of maps
  Token = 't',    // the daemon's end
  Lease = 'e',    // likewise
  Process = 'd',  // a pidfd
  Event = 's',    // of an attachment
};

class State;

// An entry and what the keeper has for it, as long as its owner lives.
class Kept {
 public:
  Kept() = default;
  Kept(State& state, std::uint32_t number, std::string held) : state_(&state), number_(number), held_(std::move(held)) {}
  Kept(Kept&& o) noexcept : state_(std::exchange(o.state_, nullptr)), number_(o.number_), held_(std::move(o.held_)) {}
  Kept& operator=(Kept&& o) noexcept {
    std::swap(state_, o.state_);
    std::swap(number_, o.number_);
    std::swap(held_, o.held_);
    return *this;
  }
  ~Kept();

  // To be changed by State::commit(), and what that makes count before it.
  template <class T>
  T* entry() const;
  // False: it will not be kept, which the log says. What there is again without it may be used all the same.
  bool hold(Held what, int fd);
  // The same file under this entry's number, which is the same with every daemon, or another if that is taken or too high: epoll
  // knows a file by its number, too.
  UniqueFd at_its_number(UniqueFd fd) const noexcept;

 private:
  State* state_ = nullptr;
  std::uint32_t number_ = 0;
  std::string held_;  // letters
};

class State {
 public:
  // Descriptors that have their entries' numbers begin here, or in the middle of RLIMIT_NOFILE if that is lower.
  static constexpr int kNumbersFrom = 32768;
  static constexpr const char* kName = "state";  // of the file itself, with the keeper

  // An empty one. ENOMEM, EMFILE.
  static Result<std::unique_ptr<State>> create(Keeper& keeper);
  // What another daemon has left. EPROTO: of another build version, or one that nobody may go on with. ENOMEM.
  static Result<std::unique_ptr<State>> adopt(Keeper& keeper, UniqueFd file);
  State(const State&) = delete;
  ~State() { keeper_.when_lost(nullptr); }

  template <class T>
  Result<Kept> put(const T& entry, std::initializer_list<std::pair<Held, int>> fds) {
    static_assert(sizeof(T) <= sizeof(StateEntry) - sizeof(StateEntry::kind));
    return put_bytes(T::kKind, &entry, sizeof entry, fds);
  }
  // The daemon is ready. What has gone since it began is taken out now, and from now on at once; before, nothing is, so that a
  // start that fails half-way leaves everything to the next one.
  void serve() noexcept;
  // The daemon leaves and the next one is to find everything: nothing is taken out any more.
  void abandon() { phase_ = Phase::Abandoned; }

  // One word of it, after all that was written before: the stores of a process that is killed are there in its order.
  static void commit(std::uint64_t& word, std::uint64_t value) noexcept;

  std::uint32_t size() const { return size_; }
  StateEntry& at(std::uint32_t number) const { return entries_[number]; }
  Keeper& keeper() const { return keeper_; }
  std::uint32_t last_map_id() const;
  void set_last_map_id(std::uint32_t id);
  static std::string name_of(Held what, std::uint32_t number);

 private:
  friend class Kept;
  struct Header;
  State(Keeper& keeper, UniqueFd file);
  Result<void> map(std::uint32_t size);
  Result<Kept> put_bytes(Kind kind, const void* body, std::size_t size, std::initializer_list<std::pair<Held, int>> fds);
  void take_out(std::uint32_t number, std::string held) noexcept;
  Header* header() const { return static_cast<Header*>(memory_.base()); }

  Keeper& keeper_;
  UniqueFd file_;
  FileMapping memory_;
  StateEntry* entries_ = nullptr;
  std::uint32_t size_ = 0;
  std::vector<std::uint32_t> free_;   // taken from the end
  std::vector<std::uint32_t> freed_;  // the keeper may still have what these held
  enum class Phase { Starting, Serving, Abandoned } phase_ = Phase::Starting;
  std::vector<std::pair<std::uint32_t, std::string>> gone_;  // while starting
};

template <class T>
T* Kept::entry() const {
  return state_ ? reinterpret_cast<T*>(&state_->at(number_).map) : nullptr;
}

}  // namespace ringbuf::daemon
