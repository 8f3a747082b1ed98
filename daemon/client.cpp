// SPDX-License-Identifier: MIT
#include "daemon/client.hpp"

#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <stdexcept>

#include "daemon/token_socket.hpp"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

namespace ringbuf::daemon {
namespace {

constexpr std::uint64_t kProcess = 1ull << 63;  // the number of a client's pidfd: that of its lease and this

// The process that connected. Before Linux 6.5 by its number, which the next message, with credentials that only a process of
// this number can send, confirms. None if it has gone or cannot be seen; an error only if something is wanting.
Result<UniqueFd> pidfd_of(int socket, pid_t pid) {
  int fd = -1;
  socklen_t size = sizeof fd;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &fd, &size) == 0) return UniqueFd(fd);
  if (errno == ENOPROTOOPT && pid != 0) fd = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
  if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM)) return fail_errno("watch a process");
  return UniqueFd(fd);
}

std::uint64_t own_pid_namespace() {
  struct stat st;
  return ::stat("/proc/self/ns/pid", &st) == 0 ? st.st_ino : 0;
}

}  // namespace

Answer<Clients::Welcome> Clients::add(const Peer& peer, int socket, std::uint64_t pid_namespace, Charge& charge) {
  auto lease = make_token_socket();
  if (!lease) return refuse(lease.error());
  auto client = std::make_shared<Client>();
  client->peer = peer;
  client->same_pids = pid_namespace != 0 && pid_namespace == own_pid_namespace();
  client->cookie = lease->cookie;
  client->lease = std::move(lease->ours);
  auto pidfd = pidfd_of(socket, peer.pid);
  if (!pidfd) return refuse(pidfd.error());
  client->pidfd = std::move(*pidfd);
  const ClientEntry entry{client->cookie, static_cast<std::uint32_t>(peer.pid), peer.uid, peer.gid, client->same_pids};
  auto kept = state_.put(entry, {{Held::Lease, client->lease.get()}, {Held::Process, client->pidfd.get()}});
  if (!kept) return refuse(kept.error());
  client->kept = std::move(*kept);
  if (auto watched = watch(*client); !watched) return tl::unexpected(watched.error());
  clients_.emplace(client->cookie, client);
  client->charge = std::move(charge);
  return Welcome{std::move(client), std::move(lease->theirs)};
}

std::size_t Clients::away(uid_t uid) const {
  return static_cast<std::size_t>(std::count_if(clients_.begin(), clients_.end(),
                                                [&](const auto& c) { return !c.second->on_end && c.second->peer.uid == uid; }));
}

Answer<void> Clients::watch(const Client& client) {
  if (auto watched = hangups_.watch(client.lease.get(), client.cookie); !watched) return watched;
  if (!client.pidfd) return {};
  return hangups_.watch(client.pidfd.get(), client.cookie | kProcess, EPOLLIN);
}

std::shared_ptr<Client> Clients::find(int lease) const {
  const auto cookie = cookie_of(lease);
  if (!cookie) return nullptr;
  const auto it = clients_.find(*cookie);
  return it == clients_.end() ? nullptr : it->second;
}

bool Clients::detach(Client& client, std::uint32_t attachment) {
  auto gone = client.attachments.extract(attachment);
  if (!gone) return false;
  const std::shared_ptr<Map> map = gone.mapped()->map;
  reaper_.end(std::move(gone.mapped()));
  reaper_.go_on(*map);
  return true;
}

void Clients::resume(const ClientEntry& e, UniqueFd lease, UniqueFd pidfd, Kept kept) {
  if (!lease) return;
  auto client = std::make_shared<Client>();
  client->peer = {static_cast<pid_t>(e.pid), e.uid, e.gid, {}};
  client->same_pids = e.same_pids != 0;
  client->cookie = e.cookie;
  client->lease = std::move(lease);
  client->pidfd = std::move(pidfd);
  client->charge = quota_.charge_anyway(Resource::Sessions, e.uid);
  client->kept = std::move(kept);
  if (auto watched = watch(*client); !watched) throw std::runtime_error(watched.error().text);
  clients_.emplace(e.cookie, std::move(client));
}

std::unique_ptr<Attachment> Clients::resume(const AttachmentEntry& e, std::unique_ptr<Attachment> attachment) {
  const auto it = clients_.find(e.client);
  if (it == clients_.end() || e.ended) return attachment;
  Client& client = *it->second;
  client.last_attachment = std::max(client.last_attachment, e.number);
  // Two of one number cannot be; if they are, the second one is ended as any other.
  client.attachments.try_emplace(e.number, std::move(attachment));
  return attachment;
}

void Clients::bury_dead() {
  hangups_.take([this](std::uint64_t number) {
    const auto it = clients_.find(number & ~kProcess);
    if (it == clients_.end()) return false;
    const auto client = it->second;
    clients_.erase(it);
    bury(client);
    return true;
  });
  reaper_.go_on();
}

void Clients::bury(const std::shared_ptr<Client>& client) {
  hangups_.forget(client->lease.get());
  if (client->pidfd) hangups_.forget(client->pidfd.get());
  spdlog::debug("client gone: pid {}, uid {}", client->peer.pid, client->peer.uid);
  client->hang_up();
  for (auto& [number, attachment] : std::exchange(client->attachments, {})) reaper_.end(std::move(attachment));
}

}  // namespace ringbuf::daemon
