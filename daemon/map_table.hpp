// SPDX-License-Identifier: MIT
// All maps, and what keeps them alive besides attachments and maps of maps: tokens and pins. A map goes with the last of them.
#pragma once

#include <sys/epoll.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/unique_fd.hpp"
#include "daemon/client_log.hpp"
#include "daemon/map.hpp"
#include "daemon/policy.hpp"

namespace ringbuf::daemon {

// A map descriptor is one end of a socketpair, known by its cookie; this is the daemon's side of it. It is shut down for reading,
// so that nothing (a token least of all) can hide in its queue, and it hangs up when the last copy of the client's end is closed.
struct Token {
  std::shared_ptr<Map> map;
  unsigned rights;
  UniqueFd end;
  Charge charge;

  Token(std::shared_ptr<Map> m, unsigned r, UniqueFd e, Charge c)
      : map(std::move(m)), rights(r), end(std::move(e)), charge(std::move(c)) {
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
};

class MapTable {
 public:
  // `hangups` is an epoll descriptor.
  MapTable(Quota& quota, ClientLog& log, UniqueFd hangups) : quota_(quota), log_(log), hangups_(std::move(hangups)) {}
  MapTable(const MapTable&) = delete;
  ~MapTable();

  Quota& quota() { return quota_; }
  ClientLog& log() { return log_; }

  Answer<std::shared_ptr<Map>> create(MapSpec spec);
  std::shared_ptr<Map> find(std::uint32_t id) const;  // null: there is none
  std::vector<std::shared_ptr<Map>> find_by_name(const std::string& name, const Peer& peer) const;
  std::uint32_t next_id(std::uint32_t after, const Peer& peer) const;  // 0: there is none

  // Returns the client's end.
  Answer<UniqueFd> issue_token(const std::shared_ptr<Map>& map, unsigned rights, const Peer& peer);
  const Token* find_token(int fd) const;  // null: the descriptor is no token of ours
  // Becomes readable when tokens have hung up; drop_dead_tokens() then drops them. Also called before each request is looked at:
  // a close that came before a request is seen before the request.
  int hangups() const { return hangups_.get(); }
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
  UniqueFd hangups_;  // an epoll fd with every token's end
  std::map<std::uint32_t, Map*> maps_;
  std::uint32_t last_id_ = 0;
  std::unordered_map<std::uint64_t, std::unique_ptr<Token>> tokens_;  // by cookie of the client's end
  std::map<std::string, Pin> pins_;
};

}  // namespace ringbuf::daemon
