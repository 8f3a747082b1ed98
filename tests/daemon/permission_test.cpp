// SPDX-License-Identifier: MIT
// Every command, as every class of user, with every kind of mode and of token: a table says what each may do, and the answers are
// compared with it. Real users: each asks in a process of its own.
#include <set>

#include "harness.hpp"

namespace ringbuf::test {
namespace {

constexpr unsigned O = RINGBUF_RIGHT_OBSERVE, P = RINGBUF_RIGHT_PRODUCE, C = RINGBUF_RIGHT_CONSUME, M = RINGBUF_RIGHT_MANAGE;
constexpr unsigned kEach[] = {O, P, C, M};
constexpr uid_t kOwner = 1001;
constexpr gid_t kGroup = 2001;

struct User {
  const char* name;
  enum Class { Owner, Member, Other, Root } is;
  uid_t uid;
  gid_t gid;
  std::vector<gid_t> groups;
};
const User kUsers[] = {{"the owner", User::Owner, kOwner, 9, {}},
                       {"the owner, in the group", User::Owner, kOwner, kGroup, {}},
                       {"a member by primary group", User::Member, 1002, kGroup, {}},
                       {"a member by supplementary group", User::Member, 1003, 9, {7, kGroup, 8}},
                       {"another", User::Other, 1004, 9, {7}},
                       {"another, of group 0", User::Other, 1005, 0, {0}},
                       {"root", User::Root, 0, 9, {}}};

struct Row {
  unsigned mode;
  unsigned owner, member, other;

  unsigned of(const User& u) const {
    switch (u.is) {
      case User::Owner: return owner;
      case User::Member: return member;
      case User::Other: return other;
      default: return O | P | C | M;
    }
  }
};
const Row kTable[] = {
    {0600, O | P | C | M, 0, 0},
    {0, O | P | C | M, 0, 0},  // means 0600
    {0400, O | M, 0, 0},
    {0200, P | M, 0, 0},
    {0640, O | P | C | M, O, 0},
    {0620, O | P | C | M, P, 0},
    {0660, O | P | C | M, O | P | C, 0},
    {0644, O | P | C | M, O, O},
    {0622, O | P | C | M, P, P},
    {0666, O | P | C | M, O | P | C, O | P | C},
    {0606, O | P | C | M, 0, O | P | C},
    {0446, O | M, O, O | P | C},
    {0060, M, O | P | C, 0},
    {0006, M, 0, O | P | C},
};

// In a child there is no test to fail: it says what is not as expected and exits with how much that was.
class Ledger {
 public:
  explicit Ledger(std::string who) : who_(std::move(who)) {}
  void at(std::string where) { where_ = std::move(where); }
  void check(unsigned cmd, const Reply& got, int want, const std::string& what = {}) {
    ++checks_;
    commands_.insert(cmd);
    if (got.err() == want) return;
    ++wrong_;
    std::fprintf(stderr, "%s, %s: %s %s gives %d (%s) instead of %d\n", who_.c_str(), where_.c_str(), wire::command_name(cmd),
                 what.c_str(), got.err(), got.text.c_str(), want);
  }
  void equal(unsigned cmd, unsigned got, unsigned want, const char* what) {
    ++checks_;
    commands_.insert(cmd);
    if (got == want) return;
    ++wrong_;
    std::fprintf(stderr, "%s, %s: %s: %s is %u instead of %u\n", who_.c_str(), where_.c_str(), wire::command_name(cmd), what, got,
                 want);
  }
  // Every command that has a name was asked for at least once.
  void expect_all_commands() {
    for (unsigned cmd = 1; std::string(wire::command_name(cmd)) != "?"; ++cmd)
      if (!commands_.count(cmd)) check(cmd, Reply{}, -2, "was never asked");
  }
  unsigned checks() const { return checks_; }
  int exit_code() const { return std::min(wrong_, 100); }

 private:
  std::string who_, where_;
  std::set<unsigned> commands_;
  unsigned checks_ = 0;
  int wrong_ = 0;
};

ringbuf_elem_req at_key(std::uint32_t key, unsigned rights = 0) {
  ringbuf_elem_req req{};
  req.rights = rights;
  req.key_size = sizeof key;
  std::memcpy(req.key, &key, sizeof key);
  return req;
}

ringbuf_map_create_req array_spec(const char* name, unsigned mode) {
  auto req = Client::spec(4, name);
  req.map_type = 12;
  req.key_size = req.value_size = 4;
  req.mode = mode;
  return req;
}

// What a token of a ring with `rights` is good for: all commands that take one.
void use_ring(Ledger& ledger, Client& c, int token, unsigned rights, const std::string& pin) {
  const auto info = c.info(token);
  ledger.check(RINGBUF_OBJ_GET_INFO_BY_FD, info, 0);
  ledger.equal(RINGBUF_OBJ_GET_INFO_BY_FD, info.as<ringbuf_map_info>().rights, rights, "rights");
  ledger.check(RINGBUF_OBJ_GET_PIN, c.call(RINGBUF_OBJ_GET_PIN, ringbuf_index_req{0, 0}, {token}), 0);
  ledger.check(RINGBUF_MAP_GET_ATTACHMENT, c.call(RINGBUF_MAP_GET_ATTACHMENT, ringbuf_index_req{0, 0}, {token}), ENOENT);
  for (const auto& [role, right] : {std::pair{RINGBUF_PRODUCER, P}, {RINGBUF_CONSUMER, C}, {RINGBUF_OBSERVER, O}}) {
    const auto a = c.attach(token, role);
    ledger.check(RINGBUF_ATTACH, a, rights & right ? 0 : EACCES, wire::role_name(role));
    if (a.err() == 0) ledger.check(RINGBUF_DETACH, c.detach(a.as<ringbuf_attach_reply>().attachment), 0);
  }
  ledger.check(RINGBUF_OBJ_PIN, c.pin(pin, token), rights & M ? 0 : EPERM);
  if (rights & M) ledger.check(RINGBUF_OBJ_UNPIN, c.unpin(pin), 0, "one's own");
  for (unsigned wanted = 1; wanted <= RINGBUF_RIGHT_ALL; ++wanted) {
    const auto narrow = c.narrow(token, wanted);
    ledger.check(RINGBUF_MAP_NARROW, narrow, wanted & ~rights ? EACCES : 0, wire::rights_name(wanted));
    if (narrow.err() == 0)
      ledger.equal(RINGBUF_MAP_NARROW, c.info(narrow.fds.at(0).get()).as<ringbuf_map_info>().rights, wanted, "rights");
  }
  // Anybody may use a ring as a template.
  ledger.check(RINGBUF_MAP_CREATE, c.call(RINGBUF_MAP_CREATE, array_spec("own", 0600), {token}), 0, "of a map of maps");
}

// The same for a token of an array that holds a ring at 0, put in with `lent`, and nothing at 1. `ring` is any token of such a
// ring.
void use_outer(Ledger& ledger, Client& c, int token, unsigned rights, unsigned lent, int ring) {
  const unsigned given = rights & lent & ~M;
  const auto element = c.call(RINGBUF_MAP_LOOKUP_ELEM, at_key(0), {token});
  ledger.check(RINGBUF_MAP_LOOKUP_ELEM, element, 0);
  ledger.equal(RINGBUF_MAP_LOOKUP_ELEM, element.as<ringbuf_elem_reply>().rights, given, "rights");
  ledger.check(RINGBUF_MAP_GET_NEXT_KEY, c.call(RINGBUF_MAP_GET_NEXT_KEY, ringbuf_elem_req{}, {token}), 0);
  for (unsigned wanted = 0; wanted <= RINGBUF_RIGHT_ALL; ++wanted) {
    const auto inner = c.call(RINGBUF_MAP_GET_FD_BY_KEY, at_key(0, wanted), {token});
    const bool may = wanted ? !(wanted & ~given) : given != 0;
    ledger.check(RINGBUF_MAP_GET_FD_BY_KEY, inner, may ? 0 : EACCES, wire::rights_name(wanted));
    if (inner.err() == 0)
      ledger.equal(RINGBUF_MAP_GET_FD_BY_KEY, c.info(inner.fds.at(0).get()).as<ringbuf_map_info>().rights,
                   wanted ? wanted : given, "rights");
  }
  const int change = rights & M ? 0 : EPERM;
  ledger.check(RINGBUF_MAP_UPDATE_ELEM, c.call(RINGBUF_MAP_UPDATE_ELEM, at_key(1), {token, ring}), change);
  ledger.check(RINGBUF_MAP_DELETE_ELEM, c.call(RINGBUF_MAP_DELETE_ELEM, at_key(1), {token}), change);
  ledger.check(RINGBUF_ATTACH, c.attach(token, RINGBUF_OBSERVER), 0, "the table");
  ledger.check(RINGBUF_ATTACH, c.attach(token, RINGBUF_PRODUCER), EINVAL, "the table");
}

class PermissionTest : public DaemonTest {
 protected:
  void SetUp() override { RINGBUF_NEEDS_ROOT(); }

  static std::string name(char kind, const Row& row) { return fmt::format("{}{:04o}", kind, row.mode); }
  static std::string pin(char kind, const Row& row, std::size_t user) { return fmt::format("/{}/{}", name(kind, row), user); }

  // A ring and an array that holds it, both of this mode, owned by kOwner:kGroup and kept by pins: one for each user to remove.
  int make_maps() {
    Client c(daemon);
    for (const Row& row : kTable) {
      auto spec = Client::spec(4096, name('r', row).c_str());
      spec.mode = row.mode;
      const auto ring = c.create(spec);
      const auto outer = c.call(RINGBUF_MAP_CREATE, array_spec(name('o', row).c_str(), row.mode), {ring.fds.at(0).get()});
      if (outer.err() || c.call(RINGBUF_MAP_UPDATE_ELEM, at_key(0), {outer.fds.at(0).get(), ring.fds.at(0).get()}).err())
        return 1;
      if (c.pin(pin('o', row, 0), outer.fds.at(0).get()).err()) return 2;
      for (std::size_t u = 0; u <= std::size(kUsers); ++u)
        if (c.pin(pin('r', row, u), ring.fds.at(0).get()).err()) return 3;
    }
    return 0;
  }

  // Everything that opens a map, for the ids that make_maps() made.
  void open(Ledger& ledger, Client& c, const Row& row, std::uint32_t id, unsigned rights) {
    for (unsigned wanted = 0; wanted <= RINGBUF_RIGHT_ALL; ++wanted) {
      const int want = (wanted ? wanted & ~rights : !rights) ? EACCES : 0;
      const std::string what = wanted ? wire::rights_name(wanted) : "with all rights";
      const std::pair<unsigned, Reply> tries[] = {
          {RINGBUF_MAP_GET_FD_BY_ID, c.by_id(id, wanted)},
          {RINGBUF_OBJ_GET, c.get(pin('r', row, std::size(kUsers)), wanted)},
          {RINGBUF_MAP_GET_FD_BY_NAME, c.by_name(name('r', row).c_str(), wanted)},
      };
      for (const auto& [cmd, got] : tries) {
        // By name, what one has no right on is not there.
        ledger.check(cmd, got, cmd == RINGBUF_MAP_GET_FD_BY_NAME && !rights ? ENOENT : want, what);
        // By id or pin one learns that it is there, and nothing else.
        if (!rights && cmd != RINGBUF_MAP_GET_FD_BY_NAME)
          for (const std::string& secret :
               {name('r', row), std::to_string(kOwner), fmt::format("{:04o}", row.mode ? row.mode : 0600)})
            ledger.equal(cmd, got.text.find(secret) != got.text.npos, 0, "what the refusal tells of the map");
        if (got.err() == 0)
          ledger.equal(cmd, c.info(got.fds.at(0).get()).as<ringbuf_map_info>().rights, wanted ? wanted : rights, "rights");
        ledger.equal(cmd, static_cast<unsigned>(got.fds.size()), got.err() == 0, "the number of descriptors");
      }
    }
    std::set<std::uint32_t> listed;
    for (std::uint32_t at = 0;;) {
      const auto next = c.next_id(at);
      if (next.err() == ENOENT) break;
      listed.insert(at = next.as<ringbuf_next_id_reply>().next_id);
    }
    ledger.equal(RINGBUF_MAP_GET_NEXT_ID, listed.count(id), rights != 0, "listed");
  }
};

TEST_F(PermissionTest, EveryCommandForEveryUserAndMode) {
  ASSERT_EQ(as_user(kOwner, kGroup, {}, [&] { return make_maps(); }), 0);
  Client root(daemon);
  std::vector<std::pair<std::uint32_t, std::uint32_t>> ids;  // ring, outer
  for (const Row& row : kTable)
    ids.emplace_back(root.by_name(name('r', row).c_str()).as<ringbuf_map_id_reply>().id,
                     root.by_name(name('o', row).c_str()).as<ringbuf_map_id_reply>().id);
  for (std::size_t u = 0; u < std::size(kUsers); ++u) {
    const User& user = kUsers[u];
    const int wrong = as_user(user.uid, user.gid, user.groups, [&] {
      Ledger ledger(user.name);
      Client c(daemon);
      ledger.check(RINGBUF_HELLO, c.hello(), 0);
      ledger.check(RINGBUF_MAP_CREATE, c.create(), 0);
      ledger.check(RINGBUF_DETACH, c.detach(1), ENOENT, "what it has not");
      for (std::size_t i = 0; i < std::size(kTable); ++i) {
        const Row& row = kTable[i];
        const unsigned rights = row.of(user);
        ledger.at(fmt::format("mode {:04o}", row.mode));
        open(ledger, c, row, ids[i].first, rights);
        ledger.check(RINGBUF_MAP_GET_FD_BY_ID, c.by_id(ids[i].second), rights ? 0 : EACCES, "the outer map");
        if (rights) {
          const auto ring = c.by_id(ids[i].first), outer = c.by_id(ids[i].second);
          use_ring(ledger, c, ring.fds.at(0).get(), rights, fmt::format("/mine/{:o}", row.mode));
          use_outer(ledger, c, outer.fds.at(0).get(), rights, O | P | C | M, ring.fds.at(0).get());
        }
        ledger.check(RINGBUF_OBJ_UNPIN, c.unpin(pin('r', row, u)), user.is == User::Owner || user.is == User::Root ? 0 : EPERM);
      }
      ledger.expect_all_commands();
      std::printf("%s: %u answers compared\n", user.name, ledger.checks());
      return ledger.exit_code();
    });
    EXPECT_EQ(wrong, 0) << user.name;
  }
}

// The token decides and not the uid: to this stranger the mode gives nothing.
TEST_F(PermissionTest, EveryCommandForEveryTokenInAStrangersHands) {
  Client root(daemon);
  const auto ring = root.create();
  ASSERT_EQ(root.pin("/ring", ring.fds.at(0).get()).err(), 0);
  for (unsigned held = 1; held <= RINGBUF_RIGHT_ALL; ++held)
    for (const unsigned lent : kEach) {
      const auto narrow = root.narrow(ring.fds.at(0).get(), held), put_in = root.narrow(ring.fds.at(0).get(), lent | held);
      const auto made = root.call(RINGBUF_MAP_CREATE, array_spec("outer", 0600), {ring.fds.at(0).get()});
      ASSERT_EQ(root.call(RINGBUF_MAP_UPDATE_ELEM, at_key(0), {made.fds.at(0).get(), put_in.fds.at(0).get()}).err(), 0);
      const auto outer = root.narrow(made.fds.at(0).get(), held);
      const int wrong = as_user(1004, 9, {}, [&] {
        Ledger ledger("a stranger");
        ledger.at(fmt::format("with {} of what was put in with {}", wire::rights_name(held), wire::rights_name(lent | held)));
        Client c(daemon);
        use_ring(ledger, c, narrow.fds.at(0).get(), held, "/stranger");
        use_outer(ledger, c, outer.fds.at(0).get(), held, lent | held, narrow.fds.at(0).get());
        return ledger.exit_code();
      });
      ASSERT_EQ(wrong, 0);
    }
}

// All tokens that a stranger can get from two that it was given, by any sequence of commands.
class Reach {
 public:
  Reach(Client& c, std::uint32_t ring) : c_(c), ring_(ring) {}

  std::set<unsigned> from(int ring, int outer) {
    add_inner(outer);
    add(ring);
    while (!fresh_.empty()) {
      const UniqueFd token = std::move(fresh_.back());
      fresh_.pop_back();
      spread(token.get());
    }
    return reached_;
  }

 private:
  void keep(Reply r) {
    if (r.err() != 0) return;
    const auto info = c_.info(r.fds.at(0).get()).as<ringbuf_map_info>();
    if (info.id == ring_ && reached_.insert(info.rights).second) fresh_.push_back(std::move(r.fds.at(0)));
  }
  void add(int ring) {
    for (unsigned wanted = 1; wanted <= RINGBUF_RIGHT_ALL; ++wanted) keep(c_.narrow(ring, wanted));
  }
  void add_inner(int outer) {
    for (unsigned wanted = 0; wanted <= RINGBUF_RIGHT_ALL; ++wanted) {
      keep(c_.call(RINGBUF_MAP_GET_FD_BY_KEY, at_key(0, wanted), {outer}));
      const auto narrow = c_.narrow(outer, wanted);
      if (narrow.err() == 0) keep(c_.call(RINGBUF_MAP_GET_FD_BY_KEY, at_key(0), {narrow.fds.at(0).get()}));
    }
  }
  void spread(int ring) {
    add(ring);
    // Through an outer map of one's own, on which one has all rights.
    const auto own = c_.call(RINGBUF_MAP_CREATE, array_spec("own", 0666), {ring});
    (void)c_.call(RINGBUF_MAP_UPDATE_ELEM, at_key(0), {own.fds.at(0).get(), ring});
    add_inner(own.fds.at(0).get());
    // Through a pin: where MANAGE is held one can be made.
    const bool pinned = c_.pin("/reach", ring).err() == 0;
    for (unsigned wanted = 0; wanted <= RINGBUF_RIGHT_ALL; ++wanted) {
      keep(c_.get("/reach", wanted));
      keep(c_.by_id(ring_, wanted));
      keep(c_.by_name("secret", wanted));
    }
    if (pinned) (void)c_.unpin("/reach");
    // Sent to another socket and back.
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) std::abort();
    const UniqueFd a(ends[0]), b(ends[1]);
    const std::byte byte[1]{};
    (void)send_frame(a.get(), byte, std::span(&ring, 1));
    Frame frame;
    if (recv_frame(b.get(), frame)) add(frame.fds.at(0).get());
  }

  Client& c_;
  const std::uint32_t ring_;
  std::set<unsigned> reached_;
  std::vector<UniqueFd> fresh_;
};

TEST_F(PermissionTest, WhatWasNarrowedCannotBeWidenedByAnyWayRound) {
  Client root(daemon);
  const auto ring = root.create(Client::spec(4096, "secret"));
  const auto id = ring.as<ringbuf_map_id_reply>().id;
  for (unsigned held = 1; held <= RINGBUF_RIGHT_ALL; ++held)
    for (const unsigned outer_rights : {O, P | M, O | C, O | P | C | M}) {
      const unsigned lent = O | P;
      const auto narrow = root.narrow(ring.fds.at(0).get(), held), put_in = root.narrow(ring.fds.at(0).get(), lent);
      const auto made = root.call(RINGBUF_MAP_CREATE, array_spec("outer", 0600), {ring.fds.at(0).get()});
      ASSERT_EQ(root.call(RINGBUF_MAP_UPDATE_ELEM, at_key(0), {made.fds.at(0).get(), put_in.fds.at(0).get()}).err(), 0);
      const auto outer = root.narrow(made.fds.at(0).get(), outer_rights);
      EXPECT_EQ(as_user(1004, 9, {},
                        [&] {
                          Client c(daemon);
                          std::set<unsigned> want;  // the parts of the one and of the other, no more and no less
                          for (unsigned r = 1; r <= RINGBUF_RIGHT_ALL; ++r)
                            if (!(r & ~held) || !(r & ~(outer_rights & lent))) want.insert(r);
                          return Reach(c, id).from(narrow.fds.at(0).get(), outer.fds.at(0).get()) == want ? 0 : 1;
                        }),
                0)
          << wire::rights_name(held) << " and an outer map's " << wire::rights_name(outer_rights);
    }
}

// Groups and uid are those of connect(2): a session keeps what it had, a new one has what its process has now.
TEST_F(PermissionTest, ChangesAfterConnectCountForNewSessionsOnly) {
  ASSERT_EQ(as_user(kOwner, kGroup, {},
                    [&] {
                      Client c(daemon);
                      auto spec = Client::spec();
                      spec.mode = 0640;
                      return c.pin("/m", c.create(spec).fds.at(0).get()).err();
                    }),
            0);
  ChildProcess child([&] {
    const gid_t group = kGroup;
    const auto become = [&](bool member, uid_t uid) {
      return ::seteuid(0) == 0 && ::setgroups(member, &group) == 0 && ::setresgid(9, 9, 9) == 0 && ::setresuid(uid, uid, 0) == 0;
    };
    if (!become(true, 1003)) return 126;
    Client member(daemon);
    if (member.get("/m").as<ringbuf_map_id_reply>().rights != O) return 1;
    if (!become(false, 1003)) return 126;
    if (member.get("/m").err() != 0) return 2;
    Client left(daemon);
    if (left.get("/m").err() != EACCES || left.next_id(0).err() != ENOENT) return 3;
    if (!become(true, 1003)) return 126;
    if (left.get("/m").err() != EACCES) return 4;
    if (!become(true, kOwner)) return 126;
    if (left.get("/m").err() != EACCES) return 5;
    return Client(daemon).get("/m").as<ringbuf_map_id_reply>().rights == (O | P | C | M) ? 0 : 6;
  });
  EXPECT_EQ(child.exit_code(), 0);
}

}  // namespace
}  // namespace ringbuf::test
