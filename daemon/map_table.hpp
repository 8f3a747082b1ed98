// SPDX-License-Identifier: MIT
// All maps, and what keeps them alive besides attachments and maps of maps: tokens and pins. A map goes with the last of them.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/unique_fd.hpp"
#include "daemon/client_log.hpp"
#include "daemon/hangups.hpp"
#include "daemon/map.hpp"
#include "daemon/policy.hpp"

namespace ringbuf::daemon {

// A map descriptor, as the daemon sees it (token_socket.hpp).
struct Token {
  std::shared_ptr<Map> map;
  unsigned rights;
  UniqueFd end;
  Charge charge;
  Kept kept;

  Token(std::shared_ptr<Map> m, unsigned r, UniqueFd e, Charge c, Kept k)
      : map(std::move(m)), rights(r), end(std::move(e)), charge(std::move(c)), kept(std::move(k)) {
    ++map->tokens;
  }
  Token(const Token&) = delete;
  ~Token() { --map->tokens; }
};

// A reference from a name in the daemon's own tree of paths; no file is made.
struct Pin {
  std::shared_ptr<Map> map;
  uid_t uid;  // who pinned it
  Charge charge;
  Kept kept;
};

class MapTable {
 public:
  // `epoll` is an epoll descriptor.
  MapTable(Quota& quota, ClientLog& log, State& state, Waits& waits, UniqueFd epoll)
      : quota_(quota), log_(log), state_(state), waits_(waits), hangups_(std::move(epoll)) {}
  MapTable(const MapTable&) = delete;
  ~MapTable();

  Quota& quota() { return quota_; }
  ClientLog& log() { return log_; }

  Answer<std::shared_ptr<Map>> create(MapSpec spec);
  std::shared_ptr<Map> find(std::uint32_t id) const;  // null: there is none
  std::vector<std::shared_ptr<Map>> find_by_name(const std::string& name, const Peer& peer) const;
  std::uint32_t next_id(std::uint32_t after, const Peer& peer) const;  // 0: there is none
  // What another daemon has left. Nothing is refused for its limits. Throws for want of something.
  std::shared_ptr<Map> resume(const MapEntry& entry, shm::RingMemory memory, UniqueFd kick, Kept kept);
  std::shared_ptr<Map> resume(const MapEntry& entry, UniqueFd table, Kept kept);
  void resume(const TokenEntry& entry, UniqueFd end, Kept kept);
  void resume(const PinEntry& entry, Kept kept);

  // Returns the client's end.
  Answer<UniqueFd> issue_token(const std::shared_ptr<Map>& map, unsigned rights, const Peer& peer);
  const Token* find_token(int fd) const;  // null: the descriptor is no token of ours
  // Those that have hung up.
  void drop_dead_tokens();

  Answer<void> pin(const std::shared_ptr<Map>& map, const std::string& path, const Peer& peer);
  Answer<void> unpin(const std::string& path, const Peer& peer);
  std::shared_ptr<Map> find_pin(const std::string& path) const;

 private:
  std::uint32_t new_id();
  std::shared_ptr<Map> keep(std::unique_ptr<Map> made);
  void forget(Map* map);

  Quota& quota_;
  ClientLog& log_;
  State& state_;
  Waits& waits_;
  Hangups hangups_;  // every token's end, by cookie
  std::map<std::uint32_t, Map*> maps_;
  std::unordered_map<std::uint64_t, std::unique_ptr<Token>> tokens_;  // by cookie of the client's end
  std::map<std::string, Pin> pins_;
};

}  // namespace ringbuf::daemon
