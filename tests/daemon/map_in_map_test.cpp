// SPDX-License-Identifier: MIT
// Maps of maps by their wire: creation, elements and their errno as bpf(2) on Linux 6.18 gives them, what fits into which,
// references, and the rights that an outer map gives and does not give.
#include <algorithm>
#include <map>
#include <set>

#include "base/mapping.hpp"
#include "harness.hpp"
#include "ringbuf/shm/outer.hpp"

namespace ringbuf::test {
namespace {

constexpr unsigned O = RINGBUF_RIGHT_OBSERVE, P = RINGBUF_RIGHT_PRODUCE, C = RINGBUF_RIGHT_CONSUME, M = RINGBUF_RIGHT_MANAGE;
constexpr std::uint32_t kArray = 12, kHash = 13;

std::string key_of(std::uint32_t k) { return {reinterpret_cast<const char*>(&k), sizeof k}; }

ringbuf_elem_req elem_req(std::string_view key, std::uint64_t flags = 0, unsigned rights = 0) {
  ringbuf_elem_req req{};
  req.flags = flags;
  req.rights = rights;
  req.key_size = static_cast<std::uint32_t>(key.size());
  std::memcpy(req.key, key.data(), key.size());
  return req;
}

ringbuf_map_create_req outer_spec(std::uint32_t type, std::uint32_t max_entries = 4, std::uint32_t key_size = 4) {
  ringbuf_map_create_req req{};
  req.map_type = type;
  req.key_size = key_size;
  req.value_size = 4;
  req.max_entries = max_entries;
  return req;
}

// A map, and the client that made it.
struct Held {
  Held(Client& c, const Reply& made) : client(&c), id(made.as<ringbuf_map_id_reply>().id) {
    if (!made.fds.empty()) token.reset(::fcntl(made.fds[0].get(), F_DUPFD_CLOEXEC, 0));
  }
  Client* client;
  std::uint32_t id;
  UniqueFd token;

  int fd() const { return token.get(); }
  ringbuf_map_info info() const { return client->info(fd()).as<ringbuf_map_info>(); }
  Reply update(std::string_view key, int inner, std::uint64_t flags = 0) const {
    return client->call(RINGBUF_MAP_UPDATE_ELEM, elem_req(key, flags), {fd(), inner});
  }
  Reply update(std::uint32_t key, const Held& inner, std::uint64_t flags = 0) const {
    return update(key_of(key), inner.fd(), flags);
  }
  Reply lookup(std::uint32_t key) const { return client->call(RINGBUF_MAP_LOOKUP_ELEM, elem_req(key_of(key)), {fd()}); }
  Reply erase(std::uint32_t key) const { return client->call(RINGBUF_MAP_DELETE_ELEM, elem_req(key_of(key)), {fd()}); }
  Reply next(std::string_view key) const { return client->call(RINGBUF_MAP_GET_NEXT_KEY, elem_req(key), {fd()}); }
  Reply open(std::uint32_t key, unsigned rights = 0) const {
    return client->call(RINGBUF_MAP_GET_FD_BY_KEY, elem_req(key_of(key), 0, rights), {fd()});
  }
};

std::uint32_t id_of(const Reply& r) { return r.as<ringbuf_elem_reply>().id; }

class MapInMap : public DaemonTest {
 protected:
  Held ring(std::uint32_t max_entries = 4096, std::uint32_t map_flags = 0, std::uint32_t type = 27) {
    auto req = Client::spec(max_entries, "ring");
    req.map_type = type;
    req.map_flags = map_flags;
    req.numa_node = UINT32_MAX;
    return Held(client, client.create(req));
  }
  Held outer(std::uint32_t type, const Held& inner, std::uint32_t max_entries = 4, std::uint32_t key_size = 4) {
    return Held(client, client.call(RINGBUF_MAP_CREATE, outer_spec(type, max_entries, key_size), {inner.fd()}));
  }
  bool exists(std::uint32_t id) { return client.by_id(id).err() == 0; }

  Client client{daemon};
};

class EitherMapInMap : public MapInMap, public ::testing::WithParamInterface<std::uint32_t> {};
INSTANTIATE_TEST_SUITE_P(Type, EitherMapInMap, ::testing::Values(kArray, kHash),
                         [](const auto& type) { return type.param == kArray ? "Array" : "Hash"; });

// --- creation ------------------------------------------------------------------------------------------------------------------

TEST_P(EitherMapInMap, CreationFollowsTheKernel) {
  const Held inner = ring();
  const Held nested = outer(GetParam(), inner);
  const bool hash = GetParam() == kHash;
  struct {
    const char* what;
    void (*spoil)(ringbuf_map_create_req&);
    int array_err, hash_err;
    const char* sentence;
  } const cases[] = {
      {"key 8", [](auto& r) { r.key_size = 8; }, EINVAL, 0, "key_size"},
      {"no key", [](auto& r) { r.key_size = 0; }, EINVAL, EINVAL, "key_size"},
      {"long key", [](auto& r) { r.key_size = 512; }, EINVAL, 0, "key_size"},
      {"longer key", [](auto& r) { r.key_size = 513; }, EINVAL, E2BIG, "key_size 513"},
      {"value 8", [](auto& r) { r.value_size = 8; }, EINVAL, EINVAL, "value_size 8"},
      {"no value", [](auto& r) { r.value_size = 0; }, EINVAL, EINVAL, "value_size 0"},
      {"no elements", [](auto& r) { r.max_entries = 0; }, EINVAL, EINVAL, "max_entries"},
      {"all elements", [](auto& r) { r.max_entries = 65536; }, 0, 0, ""},
      {"too many elements", [](auto& r) { r.max_entries = 65537; }, E2BIG, E2BIG, "65536"},
      {"far too many", [](auto& r) { r.max_entries = UINT32_MAX; }, E2BIG, E2BIG, "65536"},
      {"map_extra", [](auto& r) { r.map_extra = 1; }, EINVAL, EINVAL, "map_extra"},
      {"no such node", [](auto& r) { r.map_flags = 4, r.numa_node = 4000; }, EINVAL, EINVAL, "numa_node 4000"},
      {"any node", [](auto& r) { r.map_flags = 4, r.numa_node = UINT32_MAX; }, 0, 0, ""},
      {"ring_flags", [](auto& r) { r.ring_flags = 1; }, EINVAL, EINVAL, "ring_flags"},
      {"mode", [](auto& r) { r.mode = 0777; }, EINVAL, EINVAL, "mode 777"},
      {"name", [](auto& r) { r.name[0] = '/'; }, EINVAL, EINVAL, "is not a map name"},
  };
  for (const auto& c : cases) {
    auto req = outer_spec(GetParam());
    c.spoil(req);
    const auto made = client.call(RINGBUF_MAP_CREATE, req, {inner.fd()});
    EXPECT_EQ(made.err(), hash ? c.hash_err : c.array_err) << c.what << ": " << made.text;
    if (made.err()) {
      EXPECT_NE(made.text.find(c.sentence), std::string::npos) << c.what << ": " << made.text;
    }
  }
  for (unsigned bit = 0; bit < 32; ++bit) {
    auto req = outer_spec(GetParam());
    req.map_flags = 1u << bit;
    EXPECT_EQ(client.call(RINGBUF_MAP_CREATE, req, {inner.fd()}).err(), bit == 2 || (bit == 0 && hash) ? 0 : EINVAL) << bit;
  }
  // The inner map is looked at when the rest is right.
  EXPECT_EQ(client.call(RINGBUF_MAP_CREATE, outer_spec(GetParam())).err(), EBADF);
  EXPECT_EQ(client.call(RINGBUF_MAP_CREATE, outer_spec(GetParam()), {client.fd()}).err(), EINVAL);
  EXPECT_EQ(client.call(RINGBUF_MAP_CREATE, outer_spec(GetParam()), {nested.fd()}).err(), EINVAL);
  EXPECT_EQ(client.call(RINGBUF_MAP_CREATE, outer_spec(GetParam(), 0)).err(), EINVAL);
  EXPECT_EQ(client.call(RINGBUF_MAP_CREATE, outer_spec(GetParam()), {inner.fd(), inner.fd()}).err(), EINVAL);
  EXPECT_EQ(client.call(RINGBUF_MAP_CREATE, Client::spec(), {inner.fd()}).err(), 0) << "a ring's inner map is ignored";
}

TEST_P(EitherMapInMap, InfoTellsWhatWasCreatedAndWhatIsInUse) {
  const Held inner = ring();
  const Held map = outer(GetParam(), inner, 5);
  auto info = map.info();
  EXPECT_EQ(info.type, GetParam());
  EXPECT_EQ(info.key_size, 4u);
  EXPECT_EQ(info.value_size, 4u);
  EXPECT_EQ(info.max_entries, 5u);
  EXPECT_GT(info.bytes_memlock, 4096u);
  EXPECT_EQ(info.bytes_memlock, daemon::ElementTable::memory_size({GetParam(), 4, 5}));
  EXPECT_EQ(info.elements, 0u);
  EXPECT_EQ(inner.info().references, 0u) << "the template is not kept";
  EXPECT_EQ(map.update(1, inner).err(), 0);
  EXPECT_EQ(map.update(2, inner).err(), 0);
  EXPECT_EQ(map.info().elements, 2u);
  EXPECT_EQ(inner.info().references, 2u);
  EXPECT_EQ(map.update(2, inner).err(), 0);
  EXPECT_EQ(map.info().elements, 2u);
  EXPECT_EQ(inner.info().references, 2u);
  EXPECT_EQ(map.erase(1).err(), 0);
  EXPECT_EQ(map.info().elements, 1u);
  EXPECT_EQ(inner.info().references, 1u);
}

TEST_F(MapInMap, TheTablesMemoryIsCountedAndLimited) {
  const Held inner = ring();
  // The file, and what the daemon keeps beside it.
  EXPECT_EQ(outer(kArray, inner, 65536).info().bytes_memlock,
            64 + 65536 * 8 + 8 + 65536 * 16 + 4024u + 65536 * sizeof(daemon::Element));
  EXPECT_GE(outer(kHash, inner, 1000, 10).info().bytes_memlock,
            (64 + 2048 * 24 + 4095) / 4096 * 4096u + 2048 * 8 + 1000 * (sizeof(daemon::Element) + sizeof(std::string) + 10));
  daemon::Limits limits = daemon::kDefaultLimits;
  limits[static_cast<std::size_t>(daemon::Resource::Bytes)] = {200'000, 200'000};
  InProcessDaemon small(limits);
  Client other(small);
  const Held ring_of_other(other, other.create());
  EXPECT_EQ(other.call(RINGBUF_MAP_CREATE, outer_spec(kArray, 65536), {ring_of_other.fd()}).err(), ENOSPC);
  EXPECT_EQ(other.call(RINGBUF_MAP_CREATE, outer_spec(kArray, 1024), {ring_of_other.fd()}).err(), 0);
}

// --- elements ------------------------------------------------------------------------------------------------------------------

TEST_F(MapInMap, AnArraysElements) {
  const Held a = ring(), b = ring(65536), other = ring(4096, 4);
  const Held map = outer(kArray, a);
  EXPECT_EQ(map.lookup(0).err(), ENOENT);
  EXPECT_EQ(map.lookup(9).err(), ENOENT);
  EXPECT_EQ(map.erase(0).err(), ENOENT);
  EXPECT_EQ(map.erase(4).err(), E2BIG);
  for (const std::uint64_t flags : {1ull, 2ull, 3ull, 4ull, 8ull, 1ull << 40}) {
    EXPECT_EQ(map.update(0, a, flags).err(), EINVAL) << flags;
    EXPECT_EQ(map.update(9, a, flags).err(), EINVAL) << "flags come before the index";
  }
  EXPECT_EQ(map.update(4, a).err(), E2BIG);
  EXPECT_EQ(map.update(9, other).err(), E2BIG) << "the index comes before the inner map";
  EXPECT_EQ(map.update(0, other).err(), EINVAL);
  EXPECT_EQ(client.call(RINGBUF_MAP_UPDATE_ELEM, elem_req(key_of(9)), {map.fd()}).err(), E2BIG);
  EXPECT_EQ(client.call(RINGBUF_MAP_UPDATE_ELEM, elem_req(key_of(0)), {map.fd()}).err(), EBADF);
  EXPECT_EQ(map.update(0, a).err(), 0);
  EXPECT_EQ(id_of(map.lookup(0)), a.id);
  EXPECT_EQ(map.update(0, b).err(), 0);
  EXPECT_EQ(id_of(map.lookup(0)), b.id);
  EXPECT_EQ(map.update(3, a).err(), 0);
  EXPECT_EQ(map.erase(0).err(), 0);
  EXPECT_EQ(map.erase(0).err(), ENOENT);
  EXPECT_EQ(map.lookup(0).err(), ENOENT);
  EXPECT_EQ(id_of(map.lookup(3)), a.id);
}

TEST_F(MapInMap, AnArraysKeysAreAllItsIndexes) {
  const Held map = outer(kArray, ring());
  const auto next = [&](std::string_view key) {
    const auto r = map.next(key).as<ringbuf_key_reply>();
    EXPECT_EQ(r.key_size, 4u);
    std::uint32_t k;
    std::memcpy(&k, r.key, sizeof k);
    return k;
  };
  EXPECT_EQ(next(""), 0u);
  EXPECT_EQ(next(key_of(0)), 1u);
  EXPECT_EQ(next(key_of(2)), 3u);
  EXPECT_EQ(map.next(key_of(3)).err(), ENOENT);
  EXPECT_EQ(next(key_of(4)), 0u);
  EXPECT_EQ(next(key_of(UINT32_MAX)), 0u);
}

TEST_F(MapInMap, AHashesElements) {
  const Held a = ring(), b = ring(65536), other = ring(4096, 4);
  const Held map = outer(kHash, a, 2);
  EXPECT_EQ(map.lookup(0).err(), ENOENT);
  EXPECT_EQ(map.erase(0).err(), ENOENT);
  EXPECT_EQ(map.update(0, a, 2).err(), ENOENT);
  EXPECT_EQ(map.update(0, a, 1).err(), 0);
  EXPECT_EQ(map.update(0, b, 1).err(), EEXIST);
  EXPECT_EQ(id_of(map.lookup(0)), a.id);
  EXPECT_EQ(map.update(0, b, 2).err(), 0);
  EXPECT_EQ(id_of(map.lookup(0)), b.id);
  for (const std::uint64_t flags : {3ull, 4ull, 8ull, 1ull << 40}) EXPECT_EQ(map.update(0, a, flags).err(), EINVAL) << flags;
  EXPECT_EQ(map.update(0, other, 1).err(), EINVAL) << "the inner map comes before EEXIST";
  EXPECT_EQ(map.update(7, other, 2).err(), EINVAL);
  EXPECT_EQ(client.call(RINGBUF_MAP_UPDATE_ELEM, elem_req(key_of(0), 3), {map.fd()}).err(), EBADF);
  EXPECT_EQ(map.update(1, a).err(), 0);
  // Full.
  EXPECT_EQ(map.update(3, a).err(), E2BIG);
  EXPECT_EQ(map.update(3, a, 1).err(), E2BIG);
  EXPECT_EQ(map.update(3, a, 2).err(), ENOENT);
  EXPECT_EQ(map.update(0, a, 1).err(), EEXIST);
  EXPECT_EQ(map.update(0, a).err(), 0);
  EXPECT_EQ(map.update(0, b, 2).err(), 0);
  EXPECT_EQ(map.update(3, other).err(), EINVAL);
  EXPECT_EQ(map.erase(0).err(), 0);
  EXPECT_EQ(map.erase(0).err(), ENOENT);
  EXPECT_EQ(map.update(3, b).err(), 0);
  EXPECT_EQ(id_of(map.lookup(3)), b.id);
  EXPECT_EQ(id_of(map.lookup(1)), a.id);
}

TEST_F(MapInMap, AHashesKeysAreThoseInUse) {
  const Held a = ring();
  const Held map = outer(kHash, a, 8);
  EXPECT_EQ(map.next("").err(), ENOENT);
  EXPECT_EQ(map.next(key_of(1)).err(), ENOENT);
  for (const std::uint32_t k : {1u, 20u, 300u}) EXPECT_EQ(map.update(k, a).err(), 0);
  std::vector<std::uint32_t> keys;
  for (Reply r = map.next(""); r.err() == 0; r = map.next(key_of(keys.back()))) {
    std::uint32_t k;
    std::memcpy(&k, r.as<ringbuf_key_reply>().key, sizeof k);
    keys.push_back(k);
    ASSERT_LE(keys.size(), 3u);
  }
  const std::uint32_t first = keys.at(0);
  std::sort(keys.begin(), keys.end());
  EXPECT_EQ(keys, (std::vector<std::uint32_t>{1, 20, 300}));
  EXPECT_EQ(std::memcmp(map.next(key_of(77)).as<ringbuf_key_reply>().key, &first, 4), 0) << "one that is not there: the first";
}

TEST_F(MapInMap, KeysOfAHashMayBeLong) {
  const Held a = ring(), b = ring();
  const Held map = outer(kHash, a, 4, 512);
  std::string key(512, 'k');
  EXPECT_EQ(map.update(key, a.fd()).err(), 0);
  key.back() = 'l';
  EXPECT_EQ(map.update(key, b.fd()).err(), 0);
  EXPECT_EQ(id_of(client.call(RINGBUF_MAP_LOOKUP_ELEM, elem_req(key), {map.fd()})), b.id);
  key.back() = 'k';
  EXPECT_EQ(id_of(client.call(RINGBUF_MAP_LOOKUP_ELEM, elem_req(key), {map.fd()})), a.id);
}

TEST_P(EitherMapInMap, MalformedRequestsAreRefused) {
  const Held a = ring();
  const Held map = outer(GetParam(), a);
  ASSERT_EQ(map.update(0, a).err(), 0);
  for (const unsigned cmd : {RINGBUF_MAP_LOOKUP_ELEM, RINGBUF_MAP_UPDATE_ELEM, RINGBUF_MAP_DELETE_ELEM, RINGBUF_MAP_GET_NEXT_KEY,
                             RINGBUF_MAP_GET_FD_BY_KEY}) {
    const bool update = cmd == RINGBUF_MAP_UPDATE_ELEM;
    const auto call = [&](const ringbuf_elem_req& req) {
      return client.call(cmd, req, update ? std::vector<int>{map.fd(), a.fd()} : std::vector<int>{map.fd()});
    };
    auto req = elem_req(key_of(0));
    req.key_size = 3;
    EXPECT_EQ(call(req).err(), EINVAL) << cmd;
    req.key_size = UINT32_MAX;
    EXPECT_EQ(call(req).err(), EINVAL) << cmd;
    req.key_size = 0;
    req.key[0] = 1;
    EXPECT_EQ(call(req).err(), EINVAL) << cmd;
    req = elem_req(key_of(0));
    req.key[4] = 1;
    EXPECT_EQ(call(req).err(), EINVAL) << cmd << ": bytes behind the key";
    EXPECT_EQ(call(elem_req(key_of(0), 1ull << 63)).err(), EINVAL) << cmd;
    EXPECT_EQ(call(elem_req(key_of(0), 0, 0x10)).err(), EINVAL) << cmd;
    EXPECT_EQ(client.call(cmd, elem_req(key_of(0))).err(), EINVAL) << cmd << ": no descriptor";
    EXPECT_EQ(client.call(cmd, elem_req(key_of(0)), {map.fd(), a.fd(), a.fd()}).err(), EINVAL) << cmd;
    EXPECT_EQ(client.call(cmd, elem_req(key_of(0)), {client.fd()}).err(), EINVAL) << cmd << ": not a map";
    EXPECT_EQ(client.call(cmd, elem_req(key_of(0)), {a.fd()}).err(), EINVAL) << cmd << ": a ring";
  }
  EXPECT_EQ(map.update(key_of(0), client.fd()).err(), EINVAL);
  EXPECT_EQ(id_of(map.lookup(0)), a.id);
}

TEST_P(EitherMapInMap, OnlyWhatIsLikeTheTemplateFitsAndTheSizeDoesNotMatter) {
  constexpr std::uint32_t kOverwrite = 1u << 19;
  std::vector<Held> rings, outers;  // of each kind a small one and a large one
  for (const std::uint32_t size : {4096u, 65536u}) {
    rings.push_back(ring(size));
    rings.push_back(ring(size, 4));
    rings.push_back(ring(size, kOverwrite));
    rings.push_back(ring(size, 0, 31));
  }
  for (const Held& inner : rings) outers.push_back(outer(GetParam(), inner));
  for (std::size_t o = 0; o < outers.size(); ++o)
    for (std::size_t i = 0; i < rings.size(); ++i)
      EXPECT_EQ(outers[o].update(0, rings[i]).err(), o % 4 == i % 4 ? 0 : EINVAL) << o << ' ' << i;
  const auto refused = outers[0].update(0, rings[1]);
  EXPECT_NE(refused.text.find("map_flags 0x4"), std::string::npos) << refused.text;
  EXPECT_EQ(outers[0].update(0, outers[1]).err(), EINVAL) << "a map of maps";
  EXPECT_EQ(outers[0].update(0, outers[0]).err(), EINVAL) << "itself";
  EXPECT_EQ(id_of(outers[0].lookup(0)), rings[4].id);
}

// --- references ----------------------------------------------------------------------------------------------------------------

TEST_P(EitherMapInMap, AnInnerMapLivesAsLongAsItIsThere) {
  const Held keep = ring();
  auto map = std::make_unique<Held>(outer(GetParam(), keep));
  std::uint32_t replaced, deleted, left;
  {
    const Held a = ring(), b = ring(), c = ring();
    replaced = a.id, deleted = b.id, left = c.id;
    ASSERT_EQ(map->update(0, a).err(), 0);
    ASSERT_EQ(map->update(1, b).err(), 0);
    ASSERT_EQ(map->update(2, c).err(), 0);
  }
  EXPECT_TRUE(exists(replaced) && exists(deleted) && exists(left)) << "no token, pin or attachment holds them";
  EXPECT_EQ(map->update(0, keep).err(), 0);
  EXPECT_FALSE(exists(replaced));
  EXPECT_TRUE(exists(deleted));
  EXPECT_EQ(map->erase(1).err(), 0);
  EXPECT_FALSE(exists(deleted));
  EXPECT_TRUE(exists(left));
  map.reset();
  EXPECT_FALSE(exists(left)) << "it goes with the outer map";
  EXPECT_EQ(keep.info().references, 0u);
  EXPECT_TRUE(exists(keep.id));
}

TEST_P(EitherMapInMap, AnInnerMapThatIsAttachedOutlivesItsElement) {
  const Held keep = ring();
  const Held map = outer(GetParam(), keep);
  std::uint32_t id;
  Reply attached;
  {
    const Held a = ring();
    id = a.id;
    ASSERT_EQ(map.update(0, a).err(), 0);
    attached = client.attach(a.fd(), RINGBUF_PRODUCER);
  }
  EXPECT_EQ(map.erase(0).err(), 0);
  EXPECT_TRUE(exists(id));
  EXPECT_EQ(client.detach(attached.as<ringbuf_attach_reply>().attachment).err(), 0);
  EXPECT_FALSE(exists(id));
}

TEST_F(MapInMap, APinnedOuterMapKeepsItsInnerMapsWhenItsMakerHasGone) {
  std::uint32_t inner_id;
  {
    Client maker(daemon);
    const Held a(maker, maker.create());
    inner_id = a.id;
    const Held map(maker, maker.call(RINGBUF_MAP_CREATE, outer_spec(kArray), {a.fd()}));
    ASSERT_EQ(map.update(2, a).err(), 0);
    ASSERT_EQ(maker.pin("/rings", map.fd()).err(), 0);
  }
  {
    const Held map(client, client.get("/rings"));
    EXPECT_EQ(id_of(map.lookup(2)), inner_id);
    EXPECT_EQ(client.unpin("/rings").err(), 0);
    EXPECT_TRUE(exists(inner_id));
  }
  EXPECT_FALSE(exists(inner_id));
}

// --- rights --------------------------------------------------------------------------------------------------------------------

TEST_P(EitherMapInMap, UpdatingAndDeletingNeedManage) {
  const Held a = ring();
  const Held map = outer(GetParam(), a);
  ASSERT_EQ(map.update(0, a).err(), 0);
  const Held narrow(client, client.by_id(map.id, O | P | C));
  EXPECT_EQ(narrow.update(0, a).err(), EPERM);
  EXPECT_EQ(narrow.update(9, a, 7).err(), EPERM) << "before anything else";
  EXPECT_EQ(narrow.erase(0).err(), EPERM);
  for (const unsigned right : {O, P, C}) {
    const Held one(client, client.by_id(map.id, right));
    EXPECT_EQ(id_of(one.lookup(0)), a.id);
    EXPECT_EQ(one.next("").err(), 0);
    EXPECT_EQ(one.open(0).as<ringbuf_elem_reply>().rights, right);
  }
}

TEST_P(EitherMapInMap, OpeningGivesWhatBothDescriptorsHadAndNeverManage) {
  const Held a = ring();
  const Held map = outer(GetParam(), a);
  for (unsigned put = 1; put <= RINGBUF_RIGHT_ALL; ++put) {
    const Held inner(client, client.by_id(a.id, put));
    ASSERT_EQ(map.update(0, inner).err(), 0);
    for (unsigned have = 1; have <= RINGBUF_RIGHT_ALL; ++have) {
      const Held through(client, client.by_id(map.id, have));
      const unsigned most = put & have & ~M;
      EXPECT_EQ(through.lookup(0).as<ringbuf_elem_reply>().rights, most);
      for (unsigned want = 0; want <= RINGBUF_RIGHT_ALL; ++want) {
        const auto opened = through.open(0, want);
        const bool may = want ? (want & ~most) == 0 : most != 0;
        EXPECT_EQ(opened.err(), may ? 0 : EACCES) << put << ' ' << have << ' ' << want << ' ' << opened.text;
        if (opened.err()) continue;
        EXPECT_EQ(opened.as<ringbuf_elem_reply>().rights, want ? want : most);
        EXPECT_EQ(client.info(opened.fds.at(0).get()).as<ringbuf_map_info>().rights, want ? want : most)
            << "the token says so too";
      }
    }
  }
}

// Whoever may only look at a ring makes an outer map of its own, over which it has all rights, and gains nothing.
TEST_P(EitherMapInMap, AnOuterMapOfOnesOwnGivesNoMoreThanTheDescriptorThatWasPutIn) {
  RINGBUF_NEEDS_ROOT();
  auto req = Client::spec();
  req.mode = 0604;
  const Held secret(client, client.create(req));
  EXPECT_EQ(as_user(1002, 1002, {},
                    [&] {
                      Client c(daemon);
                      const Held mine(c, c.by_id(secret.id));
                      if (mine.info().rights != O) return 1;
                      const Held map(c, c.call(RINGBUF_MAP_CREATE, outer_spec(GetParam()), {mine.fd()}));
                      if (map.info().rights != RINGBUF_RIGHT_ALL) return 2;
                      if (map.update(0, mine).err() != 0) return 3;
                      if (map.open(0).as<ringbuf_elem_reply>().rights != O) return 4;
                      for (const unsigned more : {P, C, M, O | P, O | M})
                        if (map.open(0, more).err() != EACCES) return 5;
                      const auto opened = map.open(0, O);
                      if (c.attach(opened.fds.at(0).get(), RINGBUF_PRODUCER).err() != EACCES) return 6;
                      if (c.attach(opened.fds.at(0).get(), RINGBUF_CONSUMER).err() != EACCES) return 7;
                      if (c.pin("/mine", opened.fds.at(0).get()).err() != EPERM) return 8;
                      // Once more round through another outer map.
                      const Held again(c, opened);
                      if (map.update(1, again).err() != 0 || map.open(1).as<ringbuf_elem_reply>().rights != O) return 9;
                      // What others own it can neither change nor leave in the lurch.
                      return c.attach(opened.fds.at(0).get(), RINGBUF_OBSERVER).err();
                    }),
            0);
}

// The other way round: a uid that may do nothing with the ring itself, and is let at it by the outer map's mode.
TEST_P(EitherMapInMap, TheOuterMapsModeLetsOthersAtItsInnerMaps) {
  RINGBUF_NEEDS_ROOT();
  const Held a = ring();
  auto req = outer_spec(GetParam());
  req.mode = 0602;
  const Held map(client, client.call(RINGBUF_MAP_CREATE, req, {a.fd()}));
  ASSERT_EQ(map.update(0, a).err(), 0);
  EXPECT_EQ(as_user(1002, 1002, {},
                    [&] {
                      Client c(daemon);
                      if (c.by_id(a.id).err() != EACCES) return 1;
                      const Held through(c, c.by_id(map.id));
                      if (through.info().rights != P) return 2;
                      if (through.update(1, through).err() != EPERM) return 3;
                      if (through.erase(0).err() != EPERM) return 4;
                      if (through.open(0, O).err() != EACCES) return 5;
                      const auto opened = through.open(0);
                      if (opened.as<ringbuf_elem_reply>().rights != P) return 6;
                      return c.attach(opened.fds.at(0).get(), RINGBUF_PRODUCER).err();
                    }),
            0);
}

TEST_P(EitherMapInMap, TokensGotThroughAnOuterMapAreCounted) {
  daemon::Limits limits = daemon::kDefaultLimits;
  limits[static_cast<std::size_t>(daemon::Resource::Tokens)] = {3, 3};
  InProcessDaemon small(limits);
  Client c(small);
  const Held a(c, c.create());
  const Held map(c, c.call(RINGBUF_MAP_CREATE, outer_spec(GetParam()), {a.fd()}));
  ASSERT_EQ(map.update(0, a).err(), 0);
  {
    const auto opened = map.open(0);
    EXPECT_EQ(opened.err(), 0);
    EXPECT_EQ(map.open(0).err(), ENOSPC);
  }
  EXPECT_EQ(map.open(0).err(), 0);
}

// --- the table -----------------------------------------------------------------------------------------------------------------

struct TableView {
  TableView(const Held& map, std::uint32_t type, std::uint32_t max_entries) : layout{type, 4, max_entries} {
    attached = map.client->attach(map.fd(), RINGBUF_OBSERVER);
    EXPECT_EQ(attached.err(), 0) << attached.text;
    EXPECT_EQ(attached.fds.size(), 1u);
    auto m = FileMapping::map(attached.fds.at(0).get(), shm::outer_file_size(layout), Mapping::Access::ReadOnly);
    EXPECT_TRUE(m);
    mapping = std::move(*m);
    elements = shm::Elements(mapping.base(), layout);
    EXPECT_TRUE(layout.matches(*static_cast<const ringbuf_outer_header*>(mapping.base())));
  }
  std::uint64_t word(std::uint32_t key) const {
    return layout.hash() ? elements.find(&key, shm::key_hash(&key, 4)).word : elements.at(key);
  }
  shm::OuterLayout layout;
  Reply attached;
  FileMapping mapping;
  shm::Elements elements;
};

TEST_P(EitherMapInMap, TheTableFollowsEachChangeAndNoWordComesBack) {
  const Held a = ring(), b = ring();
  const Held map = outer(GetParam(), a, 8);
  const TableView table(map, GetParam(), 8);
  const auto reply = table.attached.as<ringbuf_attach_reply>();
  EXPECT_EQ(reply.map_type, GetParam());
  EXPECT_EQ(reply.max_entries, 8u);
  EXPECT_EQ(reply.slot_count, 0u);
  EXPECT_EQ(map.info().observers, 1u);
  std::set<std::uint64_t> words;
  for (int i = 0; i < 20; ++i) {
    for (std::uint32_t key = 0; key < 8; ++key) {
      const Held& inner = (i + key) % 2 ? a : b;
      ASSERT_EQ(map.update(key, inner).err(), 0);
      const std::uint64_t word = table.word(key);
      EXPECT_EQ(shm::element_id(word), inner.id);
      EXPECT_EQ(map.lookup(key).as<ringbuf_elem_reply>().word, word);
      EXPECT_EQ(map.open(key).as<ringbuf_elem_reply>().word, word);
      EXPECT_TRUE(words.insert(word).second);
    }
    for (std::uint32_t key = 0; key < 8; key += 1 + i % 3) {
      ASSERT_EQ(map.erase(key).err(), 0);
      EXPECT_EQ(shm::element_id(table.word(key)), 0u);
    }
  }
}

TEST_F(MapInMap, AHashOfManyKeysKeepsThemApartWhileTheyComeAndGo) {
  constexpr std::uint32_t kSize = 64;
  std::vector<Held> rings;
  for (int i = 0; i < 4; ++i) rings.push_back(ring());
  const Held map = outer(kHash, rings[0], kSize);
  const TableView table(map, kHash, kSize);
  std::map<std::uint32_t, std::uint32_t> truth;
  std::uint32_t random = 1;
  for (int i = 0; i < 6000; ++i) {
    random = random * 1664525u + 1013904223u;
    const std::uint32_t key = (random >> 8) % 400 * 1024;
    if (const auto known = truth.find(key); known != truth.end() && random >> 31) {
      ASSERT_EQ(map.erase(key).err(), 0);
      truth.erase(known);
    } else {
      const Held& inner = rings[(random >> 24) % 4];
      const bool fits = known != truth.end() || truth.size() < kSize;
      ASSERT_EQ(map.update(key, inner).err(), fits ? 0 : E2BIG);
      if (fits) {
        truth[key] = inner.id;
      } else {
        ASSERT_EQ(map.erase(truth.begin()->first).err(), 0);
        truth.erase(truth.begin());
      }
    }
    if (i % 16) continue;
    for (std::uint32_t k = 0; k < 400; ++k) {
      const auto known = truth.find(k * 1024);
      ASSERT_EQ(shm::element_id(table.word(k * 1024)), known == truth.end() ? 0u : known->second) << k;
    }
  }
  EXPECT_EQ(map.info().elements, truth.size());
  // The search for a key that is not there ends soon, however much was deleted; and where nothing is left, at once.
  const auto* words = static_cast<const std::uint64_t*>(table.mapping.base()) + sizeof(ringbuf_outer_header) / 8;
  const auto unused = [&] {
    unsigned n = 0;
    for (std::uint32_t i = 0; i < table.layout.slots(); ++i) n += words[2 * i] == 0;
    return n;
  };
  EXPECT_GT(unused(), table.layout.slots() / 4);
  for (const auto& [key, id] : truth) ASSERT_EQ(map.erase(key).err(), 0);
  EXPECT_EQ(unused(), table.layout.slots());
}

TEST_P(EitherMapInMap, OnlyObserversAttachToATableAndTheyCannotWriteIt) {
  const Held a = ring();
  const Held map = outer(GetParam(), a);
  for (const unsigned role : {RINGBUF_PRODUCER, RINGBUF_CONSUMER}) {
    const auto refused = client.attach(map.fd(), role);
    EXPECT_EQ(refused.err(), EINVAL);
    EXPECT_NE(refused.text.find("map of maps"), std::string::npos);
  }
  const Held producing(client, client.by_id(map.id, P));
  const auto attached = client.attach(producing.fd(), RINGBUF_OBSERVER);
  ASSERT_EQ(attached.err(), 0) << "any right will do";
  const int fd = attached.fds.at(0).get();
  EXPECT_EQ(::fcntl(fd, F_GETFL) & O_ACCMODE, O_RDONLY);
  EXPECT_EQ(::pwrite(fd, "x", 1, 64), -1);
  EXPECT_FALSE(FileMapping::map(fd, 4096, Mapping::Access::ReadWrite));
  if (::geteuid() == 0) {
    EXPECT_EQ(as_user(1002, 1002, {},
                      [&] {
                        const UniqueFd again(::open(fmt::format("/proc/self/fd/{}", fd).c_str(), O_RDWR | O_CLOEXEC));
                        return again || errno != EACCES ? 1 : 0;
                      }),
              0);
  }
}

}  // namespace
}  // namespace ringbuf::test
