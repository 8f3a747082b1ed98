// SPDX-License-Identifier: MIT
// Pins keep maps alive; paths are names, not files.
#include "harness.hpp"

namespace ringbuf::test {
namespace {

using PinTest = DaemonTest;

TEST_F(PinTest, KeepsTheMapAndGivesItBack) {
  Client client(daemon);
  auto made = client.create();
  const auto id = made.as<ringbuf_map_id_reply>().id;
  EXPECT_EQ(client.get("/events").err(), ENOENT);
  ASSERT_EQ(client.pin("/events", made.fds.at(0).get()).err(), 0);
  EXPECT_EQ(client.pin("/events", made.fds.at(0).get()).err(), EEXIST);
  made.fds.clear();
  auto got = client.get("/events");
  EXPECT_EQ(got.as<ringbuf_map_id_reply>().id, id);
  const auto info = client.info(got.fds.at(0).get()).as<ringbuf_map_info>();
  EXPECT_EQ(info.tokens, 1u);
  EXPECT_EQ(info.pins, 1u);
  got.fds.clear();
  EXPECT_EQ(client.unpin("/events").err(), 0);
  EXPECT_EQ(client.unpin("/events").err(), ENOENT);
  EXPECT_EQ(client.next_id(0).err(), ENOENT);
}

TEST_F(PinTest, PathsOfAMapAreListedInOrder) {
  Client client(daemon);
  const auto made = client.create();
  const int token = made.fds.at(0).get();
  for (const char* path : {"/b", "/a/x", "/c"}) ASSERT_EQ(client.pin(path, token).err(), 0);
  std::vector<std::string> paths;
  for (std::uint32_t i = 0;; ++i) {
    const auto reply = client.call(RINGBUF_OBJ_GET_PIN, ringbuf_index_req{i, 0}, {token});
    if (reply.err() == ENOENT) break;
    paths.push_back(reply.as<ringbuf_path_reply>().path);
  }
  EXPECT_EQ(paths, (std::vector<std::string>{"/a/x", "/b", "/c"}));
}

TEST_F(PinTest, BadPathsAreRefused) {
  Client client(daemon);
  const auto made = client.create();
  const int token = made.fds.at(0).get();
  for (const char* path : {"", "/", "events", "/a/", "//a", "/a/../b", "/./a", "/a\nb", "/a\x7f"}) {
    EXPECT_EQ(client.pin(path, token).err(), EINVAL) << path;
    EXPECT_EQ(client.get(path).err(), EINVAL) << path;
    EXPECT_EQ(client.unpin(path).err(), EINVAL) << path;
  }
  ringbuf_path_req endless{};
  std::memset(endless.path, '/', 1);
  std::memset(endless.path + 1, 'a', sizeof endless.path - 1);
  EXPECT_EQ(client.call(RINGBUF_OBJ_PIN, endless, {token}).err(), EINVAL);
  EXPECT_EQ(client.pin("/" + std::string(254, 'a'), token).err(), 0);
  EXPECT_EQ(client.call(RINGBUF_OBJ_PIN, Client::path_req("/x", RINGBUF_RIGHT_OBSERVE), {token}).err(), EINVAL);
}

TEST_F(PinTest, NeedsManage) {
  Client client(daemon);
  const auto made = client.create();
  const auto narrow = client.by_id(made.as<ringbuf_map_id_reply>().id, RINGBUF_RIGHT_OBSERVE | RINGBUF_RIGHT_PRODUCE);
  EXPECT_EQ(client.pin("/events", narrow.fds.at(0).get()).err(), EPERM);
  EXPECT_EQ(client.get("/events").err(), ENOENT);
}

TEST_F(PinTest, OnlyRootTheOwnerAndThePinnerUnpin) {
  RINGBUF_NEEDS_ROOT();
  Client root(daemon);
  auto req = Client::spec();
  req.mode = 0666;
  // 1001 owns the map and pins it twice; the token it leaves to nobody.
  EXPECT_EQ(as_user(1001, 1001, {},
                    [&] {
                      Client c(daemon);
                      const auto made = c.create(req);
                      return c.pin("/one", made.fds.at(0).get()).err() | c.pin("/two", made.fds.at(0).get()).err();
                    }),
            0);
  EXPECT_EQ(as_user(1002, 1002, {}, [&] { return Client(daemon).unpin("/one").err(); }), EPERM);
  EXPECT_EQ(as_user(1001, 1001, {}, [&] { return Client(daemon).unpin("/one").err(); }), 0);
  // Root gives 1002 a token that may manage; what 1002 pins, 1002 and the owner may unpin.
  const auto token = root.get("/two");
  for (const uid_t unpinner : {1002u, 1001u}) {
    EXPECT_EQ(as_user(1002, 1002, {}, [&] { return Client(daemon).pin("/three", token.fds.at(0).get()).err(); }), 0);
    EXPECT_EQ(as_user(1003, 1003, {}, [&] { return Client(daemon).unpin("/three").err(); }), EPERM);
    EXPECT_EQ(as_user(unpinner, unpinner, {}, [&] { return Client(daemon).unpin("/three").err(); }), 0);
  }
  EXPECT_EQ(root.unpin("/two").err(), 0);
}

}  // namespace
}  // namespace ringbuf::test
