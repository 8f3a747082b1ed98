// SPDX-License-Identifier: MIT
// The processes that are served: who they are and what they have attached to. A client begins with its first connection and ends
// when the last copy of its lease is closed or its process ends, whichever is first; connections may come and go meanwhile.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <unordered_map>

#include "base/unique_fd.hpp"
#include "daemon/hangups.hpp"
#include "daemon/map.hpp"
#include "daemon/policy.hpp"
#include "daemon/reaper.hpp"

namespace ringbuf::daemon {

struct Client {
  Peer peer;
  bool same_pids = false;  // its thread ids mean the same to us
  std::map<std::uint32_t, std::unique_ptr<Attachment>> attachments;
  std::uint32_t last_attachment = 0;
  std::function<void()> on_end;  // ends its connection, if it has one

  void hang_up() {
    if (const auto end = std::exchange(on_end, nullptr)) end();
  }

  std::uint64_t cookie = 0;  // of its end of the lease
  UniqueFd lease;            // our end: a socket that nobody reads, shut down for reading like a token
  UniqueFd pidfd;            // none: another pid namespace, or its process is gone already; the lease tells then
  Charge charge;
  Kept kept;
};

class Clients {
 public:
  // `epoll` is an epoll descriptor.
  Clients(Quota& quota, State& state, Reaper& reaper, UniqueFd epoll)
      : quota_(quota), state_(state), reaper_(reaper), hangups_(std::move(epoll)) {}
  Clients(const Clients&) = delete;

  struct Welcome {
    std::shared_ptr<Client> client;
    UniqueFd lease;  // the client's end
  };
  // `socket`: its connection. `pid_namespace`: as in HELLO. The charge is taken over if all goes well.
  Answer<Welcome> add(const Peer& peer, int socket, std::uint64_t pid_namespace, Charge& charge);
  std::shared_ptr<Client> find(int lease) const;  // null: the descriptor is no lease of ours
  // How many of `uid` have no connection and may come back with one.
  std::size_t away(uid_t uid) const;
  // Ends one of its attachments. False: it has none of this number.
  bool detach(Client& client, std::uint32_t attachment);

  // What another daemon has left. One whose lease the keeper has lost is taken for dead, with all that it had; who has died
  // meanwhile is buried by bury_dead(). Throws for want of something.
  void resume(const ClientEntry& entry, UniqueFd lease, UniqueFd pidfd, Kept kept);
  // Gives back one that has ended or whose client has gone: to be ended when all others are there again, for whom it tidies.
  std::unique_ptr<Attachment> resume(const AttachmentEntry& entry, std::unique_ptr<Attachment> attachment);

  // Ends clients that have gone, and gives the reaper a turn in any case.
  void bury_dead();

 private:
  void bury(const std::shared_ptr<Client>& client);
  Answer<void> watch(const Client& client);

  Quota& quota_;
  State& state_;
  Reaper& reaper_;
  Hangups hangups_;
  std::unordered_map<std::uint64_t, std::shared_ptr<Client>> clients_;  // by cookie
};

}  // namespace ringbuf::daemon
