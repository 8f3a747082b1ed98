// SPDX-License-Identifier: MIT
// Who may open what: owner, group, other; r, w, both.
#include "harness.hpp"

namespace ringbuf::test {
namespace {

constexpr unsigned O = RINGBUF_RIGHT_OBSERVE, P = RINGBUF_RIGHT_PRODUCE, C = RINGBUF_RIGHT_CONSUME, M = RINGBUF_RIGHT_MANAGE;

TEST(RightsOf, FollowsModeAndClass) {
  const daemon::Peer root{1, 0, 0, {}}, owner{1, 10, 20, {}}, member{1, 11, 20, {}}, extra{1, 11, 21, {5, 20}},
      other{1, 12, 22, {6}};
  struct Case {
    const daemon::Peer& peer;
    unsigned mode, rights;
  } const cases[] = {
      {root, 0600, O | P | C | M},
      {root, 0, O | P | C | M},
      {owner, 0600, O | P | C | M},
      {owner, 0400, O | M},
      {owner, 0200, P | M},
      {owner, 0066, M},
      {member, 0640, O},
      {member, 0620, P},
      {member, 0660, O | P | C},
      {member, 0606, 0},
      {extra, 0660, O | P | C},
      {extra, 0600, 0},
      {other, 0660, 0},
      {other, 0664, O},
      {other, 0662, P},
      {other, 0666, O | P | C},
  };
  for (const Case& c : cases)
    EXPECT_EQ(daemon::rights_of(c.peer, 10, 20, c.mode), c.rights) << std::oct << c.mode << " uid " << c.peer.uid;
}

class RightsTest : public DaemonTest {
 protected:
  // The rights that this user gets by asking for all; -1: EACCES.
  int rights(uid_t uid, gid_t gid, std::vector<gid_t> groups, std::uint32_t id) {
    const int code = as_user(uid, gid, std::move(groups), [&] {
      Client c(daemon);
      const auto r = c.by_id(id);
      if (r.err() == EACCES) return 100;
      return r.err() ? 101 : static_cast<int>(r.as<ringbuf_map_id_reply>().rights);
    });
    return code == 100 ? -1 : code;
  }
};

TEST_F(RightsTest, CredentialsAreTheKernels) {
  RINGBUF_NEEDS_ROOT();
  Client root(daemon);
  auto req = Client::spec();
  req.mode = 0640;
  Reply token;
  // Owned by 1001:2001, kept by a pin.
  ASSERT_EQ(as_user(1001, 2001, {},
                    [&] {
                      Client c(daemon);
                      const auto made = c.create(req);
                      return c.pin("/events", made.fds.at(0).get()).err();
                    }),
            0);
  const auto id = root.next_id(0).as<ringbuf_next_id_reply>().next_id;
  EXPECT_EQ(rights(0, 0, {}, id), static_cast<int>(RINGBUF_RIGHT_ALL));
  EXPECT_EQ(rights(1001, 9, {}, id), static_cast<int>(RINGBUF_RIGHT_ALL));
  EXPECT_EQ(rights(1002, 2001, {}, id), static_cast<int>(O));
  EXPECT_EQ(rights(1002, 9, {7, 2001, 8}, id), static_cast<int>(O));
  EXPECT_EQ(rights(1002, 9, {7, 8}, id), -1);
}

TEST_F(RightsTest, WhatIsMissingIsNamed) {
  RINGBUF_NEEDS_ROOT();
  Client root(daemon);
  auto req = Client::spec();
  req.mode = 0644;
  const auto made = root.create(req);
  const auto id = made.as<ringbuf_map_id_reply>().id;
  ASSERT_EQ(root.pin("/events", made.fds.at(0).get()).err(), 0);
  EXPECT_EQ(as_user(1002, 1002, {},
                    [&] {
                      Client c(daemon);
                      int failed = 0;
                      const auto no = c.by_id(id, O | P | C);
                      failed += no.err() != EACCES || no.text.find("produce, consume") == std::string::npos;
                      failed += c.by_name("events", C).err() != EACCES;
                      failed += c.get("/events", M).err() != EACCES;
                      failed += c.by_id(id, 0x10).err() != EINVAL;
                      for (const auto& yes : {c.by_id(id, O), c.by_name("events"), c.get("/events", O)})
                        failed += yes.err() != 0 || yes.as<ringbuf_map_id_reply>().rights != O;
                      return failed;
                    }),
            0);
}

TEST_F(RightsTest, WhatOneMayNotUseIsNotListed) {
  RINGBUF_NEEDS_ROOT();
  Client root(daemon);
  auto req = Client::spec();
  const auto secret = root.create(req);
  req.mode = 0604;
  const auto open = root.create(req);
  const auto id = open.as<ringbuf_map_id_reply>().id;
  EXPECT_EQ(as_user(1002, 1002, {},
                    [&] {
                      Client c(daemon);
                      int failed = 0;
                      failed += c.next_id(0).as<ringbuf_next_id_reply>().next_id != id;
                      failed += c.next_id(id).err() != ENOENT;
                      failed += c.by_name("events").as<ringbuf_map_id_reply>().id != id;  // not ambiguous to whom one is hidden
                      return failed;
                    }),
            0);
}

TEST_F(RightsTest, AttachNeedsTheTokensRightAndNotTheUids) {
  RINGBUF_NEEDS_ROOT();
  Client root(daemon);
  const auto made = root.create();
  const auto produce = root.by_id(made.as<ringbuf_map_id_reply>().id, P);
  const auto refused = root.attach(produce.fds.at(0).get(), RINGBUF_CONSUMER);
  EXPECT_EQ(refused.err(), EACCES);
  EXPECT_NE(refused.text.find("consume"), std::string::npos);
  EXPECT_EQ(root.attach(produce.fds.at(0).get(), RINGBUF_OBSERVER).err(), EACCES);
  // Inherited by somebody to whom the mode (0600) gives nothing.
  EXPECT_EQ(as_user(1002, 1002, {}, [&] { return Client(daemon).attach(produce.fds.at(0).get(), RINGBUF_PRODUCER).err(); }), 0);
}

TEST_F(RightsTest, NarrowingTakesAwayAndAddsNothing) {
  Client client(daemon);
  const auto made = client.create();
  const auto id = made.as<ringbuf_map_id_reply>().id;
  for (unsigned held = 1; held <= RINGBUF_RIGHT_ALL; ++held) {
    const auto token = client.narrow(made.fds.at(0).get(), held);
    ASSERT_EQ(token.err(), 0) << token.text;
    for (unsigned wanted = 0; wanted <= RINGBUF_RIGHT_ALL + 1; ++wanted) {
      const auto r = client.narrow(token.fds.at(0).get(), wanted);
      if (wanted == 0 || wanted > RINGBUF_RIGHT_ALL) {
        EXPECT_EQ(r.err(), EINVAL) << wanted;
      } else if (const unsigned missing = wanted & ~held) {
        EXPECT_EQ(r.err(), EACCES) << held << " to " << wanted;
        EXPECT_TRUE(r.fds.empty());
        EXPECT_EQ(r.text,
                  fmt::format("this descriptor of map {} 'events' does not carry {}, only {}; narrowing takes rights away "
                              "and adds none",
                              id, wire::rights_name(missing), wire::rights_name(held)));
      } else {
        const auto reply = r.as<ringbuf_map_id_reply>();
        EXPECT_EQ(reply.id, id);
        EXPECT_EQ(reply.rights, wanted);
        EXPECT_EQ(reply.map_type, 27u);
        const auto info = client.info(r.fds.at(0).get()).as<ringbuf_map_info>();
        EXPECT_EQ(info.rights, wanted) << "what the token really carries";
        EXPECT_EQ(info.tokens, 3u);
      }
    }
  }
  EXPECT_EQ(client.info(made.fds.at(0).get()).as<ringbuf_map_info>().rights, RINGBUF_RIGHT_ALL) << "the one sent stays";
}

TEST_F(RightsTest, ANarrowedTokenIsAReferenceOfItsOwn) {
  Client client(daemon);
  auto made = client.create();
  auto narrow = client.narrow(made.fds.at(0).get(), O);
  made.fds.clear();
  EXPECT_EQ(client.info(narrow.fds.at(0).get()).as<ringbuf_map_info>().tokens, 1u);
  EXPECT_EQ(client.attach(narrow.fds.at(0).get(), RINGBUF_OBSERVER).err(), 0);
  EXPECT_EQ(client.attach(narrow.fds.at(0).get(), RINGBUF_PRODUCER).err(), EACCES);
  EXPECT_EQ(client.narrow(client.fd(), O).err(), EINVAL) << "not a map's";
}

// Whoever holds a token may narrow it, and pays for the new one.
TEST(RightsNarrow, NeedsNoRightByUidAndCountsForTheCaller) {
  RINGBUF_NEEDS_ROOT();
  FdLeakGuard leaks;
  daemon::Limits limits = daemon::kDefaultLimits;
  limits[static_cast<std::size_t>(daemon::Resource::Tokens)].per_uid = 2;
  InProcessDaemon daemon(limits);
  Client root(daemon);
  const auto made = root.create();  // 0600
  EXPECT_EQ(as_user(1002, 1002, {},
                    [&] {
                      Client c(daemon);
                      if (c.by_id(made.as<ringbuf_map_id_reply>().id).err() != EACCES) return 1;
                      const auto one = c.narrow(made.fds.at(0).get(), P | O), two = c.narrow(one.fds.at(0).get(), P);
                      if (two.as<ringbuf_map_id_reply>().rights != P) return 2;
                      return c.narrow(two.fds.at(0).get(), P).err() == EDQUOT ? 0 : 3;
                    }),
            0);
}

// Another uid must not turn a read-only descriptor into a writable one.
TEST_F(RightsTest, ReadOnlyStaysReadOnly) {
  RINGBUF_NEEDS_ROOT();
  Client root(daemon);
  const auto made = root.create();
  const int token = made.fds.at(0).get();
  for (const unsigned role : {RINGBUF_PRODUCER, RINGBUF_CONSUMER, RINGBUF_OBSERVER}) {
    const auto a = root.attach(token, role);
    ASSERT_EQ(a.err(), 0);
    EXPECT_EQ(
        as_user(1002, 1002, {},
                [&] {
                  int failed = 0;
                  for (std::size_t i = 0; i < 2; ++i) {
                    const bool writable = (role == RINGBUF_CONSUMER && i == 0) || (role == RINGBUF_PRODUCER && i == 1);
                    if (((::fcntl(a.fds.at(i).get(), F_GETFL) & O_ACCMODE) == O_RDWR) != writable) ++failed;
                    const UniqueFd again(::open(fmt::format("/proc/self/fd/{}", a.fds.at(i).get()).c_str(), O_RDWR | O_CLOEXEC));
                    if (again || errno != EACCES) ++failed;
                  }
                  return failed;
                }),
        0);
  }
}

}  // namespace
}  // namespace ringbuf::test
