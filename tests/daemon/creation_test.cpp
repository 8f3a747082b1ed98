// SPDX-License-Identifier: MIT
// MAP_CREATE: the kernel's rules and errno, ids, names, what OBJ_GET_INFO_BY_FD says.
#include "harness.hpp"

namespace ringbuf::test {
namespace {

using CreationTest = DaemonTest;

struct Bad {
  const char* what;
  void (*spoil)(ringbuf_map_create_req&);
  const char* sentence;  // part of it
};

TEST_F(CreationTest, BadInputIsRefusedAndChangesNothing) {
  const Bad cases[] = {
      {"flag 0", [](auto& r) { r.map_flags = 1; }, "map_flags 0x1"},
      {"overwrite flag of a user ring buffer", [](auto& r) { r.map_flags = 1u << 19, r.map_type = 31; }, "BPF_F_RB_OVERWRITE"},
      {"flags come before the type", [](auto& r) { r.map_flags = 1, r.map_type = 1; }, "map_flags"},
      {"type", [](auto& r) { r.map_type = 1; }, "map_type 1"},
      {"key", [](auto& r) { r.key_size = 4; }, "key_size 4"},
      {"value", [](auto& r) { r.value_size = 8; }, "value_size 8"},
      {"zero", [](auto& r) { r.max_entries = 0; }, "use 4096"},
      {"no power of two", [](auto& r) { r.max_entries = 5000; },
       "max_entries 5000 is not a power of two and a multiple of the page size 4096; use 8192"},
      {"three pages", [](auto& r) { r.max_entries = 3 * 4096; }, "use 16384"},
      {"less than a page", [](auto& r) { r.max_entries = 2048; }, "use 4096"},
      {"too large", [](auto& r) { r.max_entries = UINT32_MAX; }, "use 2147483648"},
      {"map_extra", [](auto& r) { r.map_extra = 1; }, "map_extra"},
      {"numa node", [](auto& r) { r.map_flags = 4, r.numa_node = 4000; }, "numa_node"},
      {"ring flags", [](auto& r) { r.ring_flags = 2; }, "ring_flags 0x2"},
      {"mode", [](auto& r) { r.mode = 0777; }, "mode 777"},
      {"setuid mode", [](auto& r) { r.mode = 04600; }, "mode 4600"},
      {"name without end", [](auto& r) { std::memset(r.name, 'a', sizeof r.name); }, "'aaaaaaaaaaaaaaaa' is not a map name"},
      {"name with a space", [](auto& r) { r.name[2] = ' '; }, "'ev nts' is not a map name"},
      {"name with bytes behind", [](auto& r) { r.name[10] = 'x'; }, "followed by bytes"},
  };
  Client client(daemon);
  for (const Bad& c : cases) {
    auto req = Client::spec();
    c.spoil(req);
    const auto reply = client.create(req);
    EXPECT_EQ(reply.err(), EINVAL) << c.what;
    EXPECT_NE(reply.text.find(c.sentence), std::string::npos) << c.what << ": " << reply.text;
    EXPECT_TRUE(reply.fds.empty());
  }
  EXPECT_EQ(client.next_id(0).err(), ENOENT);
}

TEST_F(CreationTest, EveryUnknownFlagBitIsRefused) {
  Client client(daemon);
  for (unsigned bit = 0; bit < 32; ++bit) {
    auto req = Client::spec();
    req.map_flags = 1u << bit;
    EXPECT_EQ(client.create(req).err(), bit == 2 || bit == 19 ? 0 : EINVAL) << bit;
  }
}

TEST_F(CreationTest, AUserRingHasASingleProducerByNature) {
  Client client(daemon);
  auto req = Client::spec();
  req.map_type = 31;
  const auto made = client.create(req);
  ASSERT_EQ(made.err(), 0);
  const auto info = client.info(made.fds[0].get()).as<ringbuf_map_info>();
  EXPECT_EQ(info.type, 31u);
  EXPECT_EQ(info.ring_flags, RINGBUF_F_SINGLE_PRODUCER);
  EXPECT_EQ(client.attach(made.fds[0].get(), RINGBUF_PRODUCER).err(), 0);
  EXPECT_EQ(client.attach(made.fds[0].get(), RINGBUF_PRODUCER).err(), EBUSY);
}

TEST_F(CreationTest, InfoTellsWhatWasCreated) {
  Client client(daemon);
  auto req = Client::spec(8192, "a.Name_15_chars");
  req.ring_flags = RINGBUF_F_SINGLE_PRODUCER;
  req.mode = 0640;
  req.map_flags = 4;
  req.numa_node = UINT32_MAX;
  const auto made = client.create(req);
  const auto id = made.as<ringbuf_map_id_reply>();
  ASSERT_EQ(made.fds.size(), 1u);
  EXPECT_EQ(id.rights, RINGBUF_RIGHT_ALL);
  const auto info = client.info(made.fds[0].get()).as<ringbuf_map_info>();
  EXPECT_EQ(info.type, 27u);
  EXPECT_EQ(info.id, id.id);
  EXPECT_EQ(info.key_size, 0u);
  EXPECT_EQ(info.value_size, 0u);
  EXPECT_EQ(info.max_entries, 8192u);
  EXPECT_EQ(info.map_flags, 4u);
  EXPECT_STREQ(info.name, "a.Name_15_chars");
  const shm::Layout layout{shm::page_size(), 8192};
  EXPECT_EQ(info.bytes_memlock, layout.c_size() + layout.p_size());
  EXPECT_EQ(info.ring_flags, RINGBUF_F_SINGLE_PRODUCER);
  EXPECT_EQ(info.mode, 0640u);
  EXPECT_EQ(info.uid, ::geteuid());
  EXPECT_EQ(info.gid, ::getegid());
  EXPECT_EQ(info.rights, RINGBUF_RIGHT_ALL);
  EXPECT_EQ(info.tokens, 1u);
  EXPECT_EQ(info.producers + info.consumers + info.observers + info.pins, 0u);
}

TEST_F(CreationTest, ModeZeroMeansOwnerOnlyAndNameMayBeEmpty) {
  Client client(daemon);
  const auto made = client.create(Client::spec(4096, ""));
  const auto info = client.info(made.fds.at(0).get()).as<ringbuf_map_info>();
  EXPECT_EQ(info.mode, 0600u);
  EXPECT_STREQ(info.name, "");
}

TEST_F(CreationTest, IdsGrowAndAreNotReused) {
  Client client(daemon);
  std::uint32_t last = 0;
  for (int i = 0; i < 10; ++i) {  // each map dies before the next one is made
    const auto id = client.create().as<ringbuf_map_id_reply>().id;
    EXPECT_GT(id, last);
    last = id;
  }
}

TEST_F(CreationTest, IdsAreWalkedInOrder) {
  Client client(daemon);
  std::vector<Reply> maps;
  for (int i = 0; i < 3; ++i) maps.push_back(client.create());
  maps.erase(maps.begin() + 1);
  std::vector<std::uint32_t> ids;
  for (Reply r = client.next_id(0); r.err() == 0; r = client.next_id(ids.back()))
    ids.push_back(r.as<ringbuf_next_id_reply>().next_id);
  EXPECT_EQ(ids, (std::vector<std::uint32_t>{maps[0].as<ringbuf_map_id_reply>().id, maps[1].as<ringbuf_map_id_reply>().id}));
  EXPECT_EQ(client.next_id(UINT32_MAX).err(), ENOENT);
}

TEST_F(CreationTest, NamesAreFoundAndAmbiguousOnesListed) {
  Client client(daemon);
  const auto a = client.create(Client::spec(4096, "alpha"));
  EXPECT_EQ(client.by_name("alpha").as<ringbuf_map_id_reply>().id, a.as<ringbuf_map_id_reply>().id);
  EXPECT_EQ(client.by_name("beta").err(), ENOENT);
  EXPECT_EQ(client.by_name("").err(), EINVAL);
  const auto b = client.create(Client::spec(4096, "alpha"));
  const auto both = client.by_name("alpha");
  EXPECT_EQ(both.err(), ENOTUNIQ);
  EXPECT_NE(both.text.find("1, 2"), std::string::npos) << both.text;
  EXPECT_EQ(client.by_id(77).err(), ENOENT);
  EXPECT_EQ(client.by_id(0).err(), ENOENT);
}

}  // namespace
}  // namespace ringbuf::test
