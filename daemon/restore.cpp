// SPDX-License-Identifier: MIT
#include "daemon/restore.hpp"

#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <system_error>

namespace ringbuf::daemon {
namespace {

class Restorer {
 public:
  Restorer(Core& core, Inherited& inherited) : core_(core), inherited_(inherited) {}

  void run() {
    // Maps of maps refer to rings, clients to nothing, the rest to both. Who is not referred to in the end goes with maps_.
    each(Kind::Map, [this](auto& e, auto n) {
      if (!shm::is_map_of_maps(e.map.map_type)) ring(e.map, n);
    });
    each(Kind::Map, [this](auto& e, auto n) {
      if (shm::is_map_of_maps(e.map.map_type)) table(e.map, n);
    });
    each(Kind::Client, [this](auto& e, auto n) { client(e.client, n); });
    each(Kind::Attachment, [this](auto& e, auto n) { attachment(e.attachment, n); });
    each(Kind::Token, [this](auto& e, auto n) { token(e.token, n); });
    each(Kind::Pin, [this](auto& e, auto n) { pin(e.pin, n); });
    for (const auto& map : maps_) map->expect_connections();
    for (auto& attachment : nobodys_) core_.reaper.end(std::move(attachment));
    core_.clients.bury_dead();
    core_.maps.drop_dead_tokens();
    for (const auto& map : maps_) map->resume_connections();
    spdlog::info("took over {} maps of the daemon before", maps_.size());
  }

 private:
  template <class F>
  void each(Kind kind, F&& f) {
    const State& state = *core_.state;
    for (std::uint32_t n = 0; n < state.size(); ++n)
      if (state.at(n).kind == static_cast<std::uint64_t>(kind)) f(state.at(n), n);
  }
  UniqueFd take(Held what, std::uint32_t number) { return inherited_.take(State::name_of(what, number)); }
  // Memory of another size cannot be what was stored: it is as good as lost.
  static bool has_size(const UniqueFd& fd, std::uint64_t size) {
    struct stat st {};
    if (fd && ::fstat(fd.get(), &st) < 0)
      throw std::system_error(errno, std::generic_category(), "cannot look at a map's memory");
    return fd && static_cast<std::uint64_t>(st.st_size) == size;
  }
  // An entry is taken out again by its Kept, unless that is given to the one that it describes.
  Kept kept(std::uint32_t number, std::initializer_list<std::pair<Held, const UniqueFd*>> fds) {
    std::string held;
    for (const auto& [what, fd] : fds)
      if (*fd) held += static_cast<char>(what);
    return Kept(*core_.state, number, std::move(held));
  }

  void ring(const MapEntry& e, std::uint32_t n) {
    UniqueFd kick = take(Held::Kick, n);
    const shm::Layout layout{shm::page_size(), e.max_entries};
    shm::RingMemory memory{take(Held::Consumer, n), take(Held::Producer, n), layout};
    auto k = kept(n, {{Held::Kick, &kick}, {Held::Consumer, &memory.c}, {Held::Producer, &memory.p}});
    if (has_size(memory.c, layout.c_size()) && has_size(memory.p, layout.p_size()))
      maps_.push_back(core_.maps.resume(e, std::move(memory), std::move(kick), std::move(k)));
  }
  void table(const MapEntry& e, std::uint32_t n) {
    UniqueFd fd = take(Held::Table, n);
    auto k = kept(n, {{Held::Table, &fd}});
    if (has_size(fd, shm::outer_file_size({e.map_type, e.key_size, e.max_entries})))
      maps_.push_back(core_.maps.resume(e, std::move(fd), std::move(k)));
  }
  void client(const ClientEntry& e, std::uint32_t n) {
    UniqueFd lease = take(Held::Lease, n), process = take(Held::Process, n);
    auto k = kept(n, {{Held::Lease, &lease}, {Held::Process, &process}});
    core_.clients.resume(e, std::move(lease), std::move(process), std::move(k));
  }
  void attachment(const AttachmentEntry& e, std::uint32_t n) {
    UniqueFd event = take(Held::Event, n);
    auto k = kept(n, {{Held::Event, &event}});
    const auto map = core_.maps.find(e.map);
    if (!map) return;
    auto charge = core_.quota.charge_anyway(Resource::Attachments, e.uid);
    auto left = core_.clients.resume(e, map->resume(e, std::move(event), std::move(k), std::move(charge)));
    if (left) nobodys_.push_back(std::move(left));
  }
  void token(const TokenEntry& e, std::uint32_t n) {
    UniqueFd end = take(Held::Token, n);
    auto k = kept(n, {{Held::Token, &end}});
    if (end) core_.maps.resume(e, std::move(end), std::move(k));
  }
  void pin(const PinEntry& e, std::uint32_t n) { core_.maps.resume(e, kept(n, {})); }

  Core& core_;
  Inherited& inherited_;
  std::vector<std::shared_ptr<Map>> maps_;
  std::vector<std::unique_ptr<Attachment>> nobodys_;
};

}  // namespace

Answer<void> restore(Core& core, Inherited& inherited) {
  try {
    Restorer(core, inherited).run();
  } catch (const std::exception& e) {
    return refuse(EAGAIN, fmt::format("cannot take over from the daemon before: {}; all of it is kept", e.what()));
  }
  return {};
}

}  // namespace ringbuf::daemon
