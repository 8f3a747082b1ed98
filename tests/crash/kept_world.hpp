// SPDX-License-Identifier: MIT
// A daemon that is killed and goes on, one client that lives through all of it and what that has, and the question whether
// everybody (the client, the daemon, its state, its keeper, the rings' memory) still says the same of it.
#pragma once

#include <sys/epoll.h>
#include <sys/mman.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "daemon/harness.hpp"
#include "kept_daemon.hpp"
#include "ringbuf/shm/consumer.hpp"
#include "ringbuf/shm/outer.hpp"
#include "ringbuf/shm/producer.hpp"

namespace ringbuf::test {

inline constexpr std::uint64_t kForce = 2;  // BPF_RB_FORCE_WAKEUP

// A client's view of the ring that it attached to.
class Attached {
 public:
  Attached(const Reply& reply, unsigned role) : told_(RINGBUF_SLOT_COUNT) {
    const auto out = reply.as<ringbuf_attach_reply>();
    using Access = Mapping::Access;
    const bool consumes = role == RINGBUF_CONSUMER;
    auto mapped =
        Mapping::map_ring(reply.fds.at(0).get(), reply.fds.at(1).get(), shm::Layout{out.page_size, out.max_entries},
                          consumes ? Access::ReadWrite : Access::ReadOnly, consumes ? Access::ReadOnly : Access::ReadWrite);
    if (!mapped) std::abort();
    mapping_ = std::move(*mapped);
    ringbuf_view v = mapping_.view();
    v.map_type = out.map_type;
    v.slot = slot = out.slot;
    v.room_told = told_.data();
    event.reset(::fcntl(reply.fds.at(2).get(), F_DUPFD_CLOEXEC, 0));
    v.signal_fd = event.get();
    if (consumes) consumer.emplace(v);
    else producer.emplace(v);
  }
  std::optional<shm::Producer> producer;
  std::optional<shm::Consumer> consumer;
  std::uint32_t slot = 0;
  UniqueFd event;

  std::vector<std::string> consume() {
    std::vector<std::string> all;
    consumer->consume(
        [&](void* data, std::size_t size) {
          if (size != 0) all.emplace_back(static_cast<const char*>(data), size);
          return 0;
        },
        SIZE_MAX);
    return all;
  }
  void forget_wakeups() {
    epoll_event events[8];
    while (::epoll_wait(event.get(), events, 8, 0) > 0) continue;
  }
  bool woken() {
    pollfd readable{event.get(), POLLIN, 0};
    return ::poll(&readable, 1, 0) == 1;
  }
  const Mapping& mapping() const { return mapping_; }

 private:
  Mapping mapping_;
  std::vector<std::uint64_t> told_;
};

class KeptWorld {
 public:
  static constexpr std::uint32_t kArray = 12, kHash = 13, kMost = 4;

  explicit KeptWorld(const char* program = RINGBUFD_PATH)
      : counter_(::memfd_create("counter", MFD_CLOEXEC)),
        daemon(program,
               {"--log-level", "error", "--socket", socket(), "--max-maps", "7", "--max-bytes", "12M", "--max-tokens", "12",
                "--max-sessions", "6", "--max-attachments", "10", "--max-pins", "3"},
               counter_.get()) {
    if (::ftruncate(counter_.get(), 4) < 0) std::abort();
    left_ = static_cast<volatile std::uint32_t*>(::mmap(nullptr, 4, PROT_READ | PROT_WRITE, MAP_SHARED, counter_.get(), 0));
    if (!daemon.start()) std::abort();
    good.emplace(socket());
    kept = make(27, 4096, "kept");
    work = make(27, 65536, "work");
    array = make(kArray, kMost, "array");
    hash = make(kHash, kMost, "hash");
    // Keys that have to pass each other, and one that has not.
    const shm::OuterLayout layout{kHash, 4, kMost};
    for (std::uint32_t key = 1; keys.size() < 3; ++key)
      if (layout.home(shm::key_hash(&key, 4)) == layout.home(shm::key_hash(&keys.emplace_back(key), 4)) &&
          layout.home(shm::key_hash(&keys.front(), 4)) != layout.home(shm::key_hash(&key, 4)))
        keys.pop_back();
    set(array, 0, kept);
    for (const std::uint32_t key : {keys[0], keys[1]}) set(hash, key, kept);
    EXPECT_EQ(good->pin("/good", fd(kept)).err(), 0);
    keeps.emplace(good->attach(fd(kept), RINGBUF_PRODUCER), RINGBUF_PRODUCER);
    producer.emplace(good->attach(fd(work), RINGBUF_PRODUCER), RINGBUF_PRODUCER);
    consumer.emplace(good->attach(fd(work), RINGBUF_CONSUMER), RINGBUF_CONSUMER);
    for (const char* text : {"un", "read", "records"}) EXPECT_EQ(keeps->producer->output(text, std::strlen(text), 0), 0);
    unread_ = data_of(*keeps);
    consumer->consumer->ring().add_waiting();  // it may sleep at any time
    tables_[0].emplace(table_of(array, kArray));
    tables_[1].emplace(table_of(hash, kHash));
  }
  ~KeptWorld() {
    if (::testing::Test::HasFailure()) std::fprintf(stderr, "%s", daemon.said().c_str());
    ::munmap(const_cast<std::uint32_t*>(left_), 4);
  }

  std::string socket() const { return dir_.path("s"); }
  // The next one, and those who come back to it.
  void restart(std::initializer_list<Client*> clients) {
    ASSERT_TRUE(daemon.start()) << daemon.said();
    for (Client* client : clients) {
      const auto again = client->reconnect(socket());
      EXPECT_EQ(again.as<ringbuf_hello_reply>().resumed, 1u);
    }
  }
  // ringbufd_stored is killed after so many stores from now on; 0: never.
  void die_after(std::uint32_t stores) { *left_ = stores; }

  // --- what good has ---
  static int fd(const Reply& token) { return token.fds.at(0).get(); }
  static std::uint32_t id(const Reply& token) { return token.as<ringbuf_map_id_reply>().id; }
  ringbuf_map_info info(const Reply& token) { return good->info(fd(token)).as<ringbuf_map_info>(); }
  Reply make(std::uint32_t type, std::uint32_t max_entries, const char* name, std::uint32_t map_flags = 0,
             std::uint32_t ring_flags = 0) {
    auto spec = Client::spec(max_entries, name);
    spec.map_type = type;
    spec.map_flags = map_flags;
    spec.ring_flags = ring_flags;
    const bool outer = type == kArray || type == kHash;
    if (outer) spec.key_size = spec.value_size = 4;
    return good->call(RINGBUF_MAP_CREATE, spec, outer ? std::vector<int>{fd(kept)} : std::vector<int>{});
  }
  static ringbuf_elem_req element(std::uint32_t key) {
    ringbuf_elem_req req{};
    req.key_size = 4;
    std::memcpy(req.key, &key, 4);
    return req;
  }
  void set(const Reply& outer, std::uint32_t key, const Reply& inner) {
    EXPECT_EQ(good->call(RINGBUF_MAP_UPDATE_ELEM, element(key), {fd(outer), fd(inner)}).err(), 0);
    elements[{id(outer), key}] = id(inner);
  }
  // The id there, by the daemon and by the shared table, which must agree; 0: nothing is there.
  std::uint32_t lookup(const Reply& outer, std::uint32_t key) {
    const Reply r = good->call(RINGBUF_MAP_LOOKUP_ELEM, element(key), {fd(outer)});
    EXPECT_TRUE(r.err() == 0 || r.err() == ENOENT) << r.text;
    const auto& table = *tables_[id(outer) == id(hash)];
    const auto layout = table.words.layout();
    const std::uint64_t word = layout.hash() ? table.words.find(&key, shm::key_hash(&key, 4)).word : table.words.at(key);
    const std::uint32_t found = r.err() == 0 ? r.as<ringbuf_elem_reply>().id : 0;
    EXPECT_EQ(shm::element_id(word), found);
    if (found) {
      EXPECT_EQ(r.as<ringbuf_elem_reply>().word, word);
    }
    if (found) {
      EXPECT_EQ(r.as<ringbuf_elem_reply>().rights, RINGBUF_RIGHT_ALL & ~RINGBUF_RIGHT_MANAGE);
    }
    return found;
  }
  unsigned maps() {
    unsigned n = 0;
    for (Reply r = good->next_id(0); r.err() == 0; r = good->next_id(r.as<ringbuf_next_id_reply>().next_id)) ++n;
    return n;
  }

  // --- what must always be so ---
  // Between the daemon's state, its keeper and the memory files.
  void is_consistent() {
    daemon.hear();
    EXPECT_EQ(kept_names(), names_in_state());
    for (const auto& [name, file] : daemon.store) {
      struct stat st {};
      if (name != "lock" && (name[0] == 'c' || name[0] == 'p')) {
        EXPECT_TRUE(::fstat(file.get(), &st) == 0 && (st.st_mode & 0777) == 0600) << name << " can be opened by others";
      }
    }
  }
  std::string lost = {};  // a descriptor that the keeper has lost, while its entry may live
  void is_sound() {
    is_consistent();
    EXPECT_EQ(data_of(*keeps), unread_);
    EXPECT_EQ(id(good->get("/good")), id(kept));
    for (const Reply* outer : {&array, &hash}) {
      std::uint32_t expected = 0;
      for (const auto& [at, inner] : elements) {
        if (at.first != id(*outer)) continue;
        EXPECT_EQ(lookup(*outer, at.second), inner) << at.second;
        ++expected;
      }
      EXPECT_EQ(info(*outer).elements, expected);
      const auto& words = tables_[outer == &hash]->words;
      std::uint32_t used = 0;
      for (std::uint32_t i = 0; i < words.layout().slots(); ++i) used += words.at(i) != 0;
      if (outer == &hash) {
        EXPECT_EQ(used, expected) << "deleted elements are left in the table";
      }
    }
    // The ring works.
    EXPECT_EQ(consumer->consumer->ring().waiting(), 1u);
    consumer->consume();
    consumer->forget_wakeups();
    EXPECT_EQ(producer->producer->output("ping", 4, kForce), 0);
    EXPECT_TRUE(consumer->woken());
    EXPECT_EQ(consumer->consume(), std::vector<std::string>{"ping"});
  }

  // All that can be said of it when it is at rest, without what changes with each round.
  std::string snapshot() {
    daemon.rest();
    std::string all = "kept:";
    std::map<char, int> letters;
    for (const auto& [name, fd] : daemon.store) ++letters[name[0]];
    for (const auto& [letter, n] : letters) all += fmt::format(" {} {}", n, letter);
    all += "\nstate:";
    for (const auto& line : entries()) all += "\n  " + line;
    all += "\ndescriptors:";
    std::map<std::string, int> fds;
    for (std::string target : links()) {
      std::erase_if(target, [](char c) { return c >= '0' && c <= '9'; });
      ++fds[target];
    }
    for (const auto& [target, n] : fds) all += fmt::format("\n  {} {}", n, target);
    for (const Reply* map : {&kept, &work, &array, &hash}) {
      const auto i = info(*map);
      all += fmt::format("\nmap {}: {} {} {} {} {} {} {}", i.id, i.tokens, i.producers, i.consumers, i.observers, i.pins,
                         i.references, i.elements);
    }
    return all;
  }
  // How much more of each thing good can have; it is given back.
  std::string room() {
    daemon.rest();
    std::string all;
    const auto fill = [&](const char* what, auto one, auto give_back) {
      std::vector<Reply> had;
      Reply r;
      while ((r = one(had.size())).err() == 0) had.push_back(std::move(r));
      all += fmt::format("{} {} {}, ", had.size(), what, r.err());
      for (std::size_t i = 0; i < had.size(); ++i) give_back(had[i], i);
      had.clear();
      daemon.hear();
    };
    const auto close = [](Reply&, std::size_t) {};
    fill(
        "maps", [&](std::size_t) { return good->create(); }, close);
    fill(
        "large maps", [&](std::size_t) { return good->create(Client::spec(4 << 20)); }, close);
    fill(
        "tokens", [&](std::size_t) { return good->by_id(id(kept)); }, close);
    fill(
        "attachments", [&](std::size_t) { return good->attach(fd(kept), RINGBUF_OBSERVER); },
        [&](Reply& r, std::size_t) { good->detach(r.as<ringbuf_attach_reply>().attachment); });
    fill(
        "pins", [&](std::size_t i) { return good->pin("/room/" + std::to_string(i), fd(kept)); },
        [&](Reply&, std::size_t i) { good->unpin("/room/" + std::to_string(i)); });
    fill(
        "elements",
        [&](std::size_t i) {
          return good->call(RINGBUF_MAP_UPDATE_ELEM, element(1000000 + static_cast<std::uint32_t>(i)), {fd(hash), fd(kept)});
        },
        [&](Reply&, std::size_t i) {
          good->call(RINGBUF_MAP_DELETE_ELEM, element(1000000 + static_cast<std::uint32_t>(i)), {fd(hash)});
        });
    std::vector<std::unique_ptr<Client>> clients;
    std::vector<Reply> hellos;
    do {
      clients.push_back(std::make_unique<Client>(socket(), Client::Silent{}));
      clients.back()->request(RINGBUF_HELLO, Client::hello_req());
      hellos.push_back(clients.back()->receive());
    } while (hellos.back().err() == 0);
    return all + fmt::format("{} sessions", clients.size() - 1);
  }

 private:
  struct Table {
    FileMapping memory;
    shm::Elements words;
  };
  TempDir dir_;
  UniqueFd counter_;
  volatile std::uint32_t* left_ = nullptr;

 public:
  KeptDaemon daemon;
  std::optional<Client> good;
  Reply kept, work, array, hash;
  std::optional<Attached> keeps, producer, consumer;
  std::vector<std::uint32_t> keys;
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::uint32_t> elements;

  std::vector<daemon::StateEntry> state() const {
    struct stat st {};
    const int fd = daemon.kept(daemon::State::kName);
    if (::fstat(fd, &st) < 0) return {};
    std::vector<daemon::StateEntry> all((static_cast<std::size_t>(st.st_size) - 64) / sizeof(daemon::StateEntry));
    const std::size_t size = all.size() * sizeof(daemon::StateEntry);
    if (::pread(fd, all.data(), size, 64) != static_cast<ssize_t>(size)) all.clear();
    return all;
  }

 private:
  Table table_of(const Reply& outer, std::uint32_t type) {
    const Reply r = good->attach(fd(outer), RINGBUF_OBSERVER);
    const shm::OuterLayout layout{type, 4, kMost};
    auto memory = FileMapping::map(r.fds.at(0).get(), shm::outer_file_size(layout), Mapping::Access::ReadOnly);
    if (!memory) std::abort();
    const shm::Elements words(memory->base(), layout);
    return {std::move(*memory), words};
  }
  static std::string data_of(const Attached& a) {
    const ringbuf_view v = a.mapping().view();
    return std::string(reinterpret_cast<const char*>(v.data), 64) + std::to_string(v.producer_page->producer_pos) + " " +
           std::to_string(v.consumer_page->consumer_pos);
  }
  std::vector<std::string> links() const {
    std::vector<std::string> all;
    std::error_code gone;
    for (const auto& e : std::filesystem::directory_iterator("/proc/" + std::to_string(daemon.pid()) + "/fd", gone))
      all.push_back(std::filesystem::read_symlink(e.path(), gone).string());
    return all;
  }
  std::vector<std::string> kept_names() const {
    std::vector<std::string> all;
    for (const auto& [name, fd] : daemon.store) all.push_back(name);
    std::sort(all.begin(), all.end());
    return all;
  }
  // What the keeper should have by what the state says.
  std::vector<std::string> names_in_state() const {
    using namespace daemon;
    std::vector<std::string> all{"state", "l", "lock"};
    const auto entries = state();
    for (std::uint32_t n = 0; n < entries.size(); ++n) {
      const auto has = [&](Held what) {
        const std::string name = State::name_of(what, n);
        if (name != lost || this->daemon.kept(name) >= 0) all.push_back(name);
      };
      const StateEntry& e = entries[n];
      switch (static_cast<Kind>(e.kind)) {
        case Kind::Map:
          if (shm::is_map_of_maps(e.map.map_type)) {
            has(Held::Table);
          } else {
            has(Held::Consumer), has(Held::Producer);
            if (this->daemon.kept(State::name_of(Held::Kick, n)) >= 0) has(Held::Kick);  // from the first consumer on
          }
          break;
        case Kind::Token: has(Held::Token); break;
        case Kind::Client: has(Held::Lease), has(Held::Process); break;
        case Kind::Attachment:
          if (e.attachment.role != RINGBUF_OBSERVER) has(Held::Event);
          break;
        default: break;
      }
    }
    std::sort(all.begin(), all.end());
    return all;
  }
  std::vector<std::string> entries() const {
    using namespace daemon;
    std::vector<std::string> all;
    for (const StateEntry& e : state()) switch (static_cast<Kind>(e.kind)) {
        case Kind::Map: all.push_back(fmt::format("map {} {} {:o}", e.map.id, e.map.name, e.map.mode)); break;
        case Kind::Token: all.push_back(fmt::format("token {} {} of {}", e.token.cookie, e.token.rights, e.token.map)); break;
        case Kind::Pin: all.push_back(fmt::format("pin {} at {}", e.pin.map, e.pin.path)); break;
        case Kind::Client: all.push_back(fmt::format("client {}", e.client.cookie)); break;
        case Kind::Attachment:
          all.push_back(fmt::format("attachment {} of {} to {}: {} {}", e.attachment.number, e.attachment.client,
                                    e.attachment.map, e.attachment.role, e.attachment.slot));
          break;
        default: break;
      }
    std::sort(all.begin(), all.end());
    return all;
  }

  std::string unread_;
  std::optional<Table> tables_[2];
};

// One who lives on while daemons come and go: it consumes a map of its own and holds a record open there.
class Bystander : public Client {
 public:
  explicit Bystander(const std::string& socket) : Client(socket) { EXPECT_NE(producer_.producer->reserve(8, 0), nullptr); }
  void is_untouched() {
    const auto info = Client::info(KeptWorld::fd(map_)).as<ringbuf_map_info>();
    EXPECT_EQ(info.orphan_records, 0u) << "the open record of one who lives was discarded";
    EXPECT_EQ(info.producers, 1u);
    EXPECT_EQ(info.consumers, 1u);
  }

 private:
  const Reply map_ = create(spec(4096, "open"));
  const Attached producer_{attach(KeptWorld::fd(map_), RINGBUF_PRODUCER), RINGBUF_PRODUCER};
  const Attached consumer_{attach(KeptWorld::fd(map_), RINGBUF_CONSUMER), RINGBUF_CONSUMER};
};

}  // namespace ringbuf::test
