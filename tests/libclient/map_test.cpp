// SPDX-License-Identifier: MIT
// Maps without a daemon: creation rules, option structs that grow, what needs a daemon, info, lifetime.
#include <gtest/gtest.h>

#include <cstdlib>

#include "embedded.hpp"

using namespace ringbuf::test;

namespace {

int create(const char* name, std::uint32_t max_entries, const ringbuf_map_create_opts* opts = nullptr) {
  ringbuf_map* map = nullptr;
  errno = 0;
  const int r = ringbuf_map_create(nullptr, name, max_entries, opts, &map);
  if (r < 0) {
    EXPECT_EQ(map, nullptr) << "outputs are untouched on failure";
    EXPECT_EQ(errno, -r);
    EXPECT_STRNE(ringbuf_last_error(), "");
  }
  ringbuf_map_free(map);
  return r;
}

ringbuf_map_create_opts options() {
  ringbuf_map_create_opts o{};
  o.sz = sizeof o;
  return o;
}

TEST(Map, IsCreatedInEverySizeThatTheKernelTakes) {
  FdLeakGuard guard;
  for (std::uint32_t n = 4096; n <= 16u << 20; n *= 2) EXPECT_EQ(create("m", n), 0) << n;
}

TEST(Map, RefusesSizesAsTheKernelDoes) {
  FdLeakGuard guard;
  for (std::uint32_t n : {0u, 1u, 8u, 2048u, 4095u, 4097u, 5000u, 3u * 4096u, 4096u * 1000u, ~0u})
    EXPECT_EQ(create("m", n), -EINVAL) << n;
}

TEST(Map, RefusesEveryFlagButTheKernels) {
  FdLeakGuard guard;
  for (const std::uint32_t type : {RINGBUF_MAP_TYPE_RINGBUF, RINGBUF_MAP_TYPE_USER_RINGBUF}) {
    const std::uint32_t known = RINGBUF_NUMA_NODE | (type == RINGBUF_MAP_TYPE_RINGBUF ? RINGBUF_OVERWRITE : 0);
    for (int bit = 0; bit < 32; ++bit) {
      auto o = options();
      o.map_type = type;
      o.map_flags = 1u << bit;
      o.numa_node = ~0u;
      EXPECT_EQ(create("m", 4096, &o), known & (1u << bit) ? 0 : -EINVAL) << "type " << type << " bit " << bit;
    }
  }
}

TEST(Map, NumaNodeMustExistIfItIsAskedFor) {
  auto o = options();
  o.map_flags = RINGBUF_NUMA_NODE;
  o.numa_node = 5000;
  EXPECT_EQ(create("m", 4096, &o), -EINVAL);
  o.map_flags = 0;  // then the kernel does not look at it
  EXPECT_EQ(create("m", 4096, &o), 0);
}

TEST(Map, RefusesWhatTheKernelWantsToBeZero) {
  FdLeakGuard guard;
  struct {
    const char* what;
    int expected;
    void (*set)(ringbuf_map_create_opts&);
  } const cases[] = {
      {"key_size", -EINVAL, [](auto& o) { o.key_size = 4; }},
      {"value_size", -EINVAL, [](auto& o) { o.value_size = 8; }},
      {"map_extra", -EINVAL, [](auto& o) { o.map_extra = 1; }},
      {"reserved", -EINVAL, [](auto& o) { o.reserved = 1; }},
      {"another map_type", -EINVAL, [](auto& o) { o.map_type = 1; }},
      {"this map_type", 0, [](auto& o) { o.map_type = RINGBUF_MAP_TYPE_RINGBUF; }},
      {"unknown ring_flags", -EINVAL, [](auto& o) { o.ring_flags = 1u << 31; }},
      {"single producer", 0, [](auto& o) { o.ring_flags = RINGBUF_F_SINGLE_PRODUCER; }},
      {"mode with an execute bit", -EINVAL, [](auto& o) { o.mode = 0700; }},
      {"mode with set-user-id", -EINVAL, [](auto& o) { o.mode = 04600; }},
      {"mode 0666", 0, [](auto& o) { o.mode = 0666; }},
  };
  for (const auto& c : cases) {
    auto o = options();
    c.set(o);
    EXPECT_EQ(create("m", 4096, &o), c.expected) << c.what << ": " << ringbuf_last_error();
  }
}

TEST(Map, NamesAreAsTheKernelsObjectNames) {
  FdLeakGuard guard;
  for (const char* good : {"", "a", "a.b_C9", "fifteen_chars_x"}) EXPECT_EQ(create(good, 4096), 0) << good;
  EXPECT_EQ(create(nullptr, 4096), 0);
  for (const char* bad : {"sixteen_chars_xx", "a very, very long name that is no name", "a b", "a-b", "a/b", "\xc3\xa4", "a\n"})
    EXPECT_EQ(create(bad, 4096), -EINVAL) << bad;
}

TEST(Map, OptionsOfAnOlderCallerAreCompletedWithZeroes) {
  auto o = options();
  o.map_extra = 1;  // beyond what this caller knows of
  o.sz = offsetof(ringbuf_map_create_opts, map_extra);
  EXPECT_EQ(create("m", 4096, &o), 0);
  o.sz = sizeof o.sz;
  EXPECT_EQ(create("m", 4096, &o), 0);
}

TEST(Map, OptionsOfANewerCallerAreTakenIfTheirTailIsZero) {
  struct {
    ringbuf_map_create_opts known;
    std::uint64_t unknown[4];
  } o{};
  o.known.sz = sizeof o;
  EXPECT_EQ(create("m", 4096, &o.known), 0);
  o.unknown[3] = std::uint64_t{1} << 56;  // the very last byte
  EXPECT_EQ(create("m", 4096, &o.known), -E2BIG);
}

TEST(Map, OptionsWithoutASizeAreRefused) {
  auto o = options();
  for (std::size_t sz : {0u, 1u, 7u}) {
    o.sz = sz;
    EXPECT_EQ(create("m", 4096, &o), -EINVAL) << sz;
  }
}

TEST(Map, NullArgumentsAreRefusedNotFollowed) {
  FdLeakGuard guard;
  const auto map = embedded_map();
  ringbuf_map_info info;
  ringbuf_attachment_info attachment;
  EXPECT_EQ(ringbuf_connect(nullptr, nullptr), -EINVAL);
  EXPECT_EQ(ringbuf_map_create(nullptr, "m", 4096, nullptr, nullptr), -EINVAL);
  EXPECT_EQ(ringbuf_map_get_info(nullptr, &info, sizeof info), -EINVAL);
  EXPECT_EQ(ringbuf_map_get_info(map.get(), nullptr, sizeof info), -EINVAL);
  EXPECT_EQ(ringbuf_map_pin(nullptr, "/a"), -EINVAL);
  EXPECT_EQ(ringbuf_map_get_pin(nullptr, 0, nullptr, 0), -EINVAL);
  EXPECT_EQ(ringbuf_map_get_attachment(nullptr, 0, &attachment), -EINVAL);
  EXPECT_EQ(ringbuf_map_get_attachment(map.get(), 0, nullptr), -EINVAL);
  EXPECT_EQ(ringbuf_producer_attach(nullptr, nullptr), -EINVAL);
  EXPECT_EQ(ringbuf_producer_attach(map.get(), nullptr), -EINVAL);
  EXPECT_EQ(ringbuf_consumer_attach(nullptr, nullptr, nullptr, nullptr), -EINVAL);
  EXPECT_EQ(ringbuf_consumer_attach(map.get(), nullptr, nullptr, nullptr), -EINVAL);
  EXPECT_EQ(ringbuf_observer_attach(nullptr, nullptr), -EINVAL);
  EXPECT_EQ(ringbuf_observer_attach(map.get(), nullptr), -EINVAL);
  EXPECT_EQ(ringbuf_poller_new(nullptr), -EINVAL);
  EXPECT_EQ(ringbuf_poller_add(poller_of({}).get(), nullptr), -EINVAL);
  EXPECT_EQ(ringbuf_observer_stats(observer_of(map).get(), nullptr, 0), -EINVAL);
  EXPECT_EQ(ringbuf_map_fd(nullptr), -1);
}

TEST(Map, FreeingNullDoesNothing) {
  errno = 77;
  ringbuf_session_free(nullptr);
  ringbuf_map_free(nullptr);
  ringbuf_producer_free(nullptr);
  ringbuf_consumer_free(nullptr);
  ringbuf_observer_free(nullptr);
  ringbuf_poller_free(nullptr);
  EXPECT_EQ(errno, 77);
}

TEST(Map, EmbeddedHasNoDaemonToAsk) {
  const auto map = embedded_map();
  ringbuf_map* other = nullptr;
  std::uint32_t id = 0;
  char path[RINGBUF_PATH_LEN];
  ringbuf_attachment_info attachment;
  EXPECT_EQ(ringbuf_map_open_id(nullptr, 1, 0, &other), -EOPNOTSUPP);
  EXPECT_EQ(ringbuf_map_open_name(nullptr, "m", 0, &other), -EOPNOTSUPP);
  EXPECT_EQ(ringbuf_map_open_pinned(nullptr, "/m", 0, &other), -EOPNOTSUPP);
  EXPECT_EQ(ringbuf_map_from_fd(nullptr, 0, &other), -EOPNOTSUPP);
  EXPECT_EQ(ringbuf_map_next_id(nullptr, 0, &id), -EOPNOTSUPP);
  EXPECT_EQ(ringbuf_unpin(nullptr, "/m"), -EOPNOTSUPP);
  EXPECT_EQ(ringbuf_map_pin(map.get(), "/m"), -EOPNOTSUPP);
  EXPECT_EQ(ringbuf_map_get_attachment(map.get(), 0, &attachment), -EOPNOTSUPP);
  EXPECT_EQ(ringbuf_map_get_pin(map.get(), 0, path, sizeof path), -ENOENT);
  EXPECT_EQ(ringbuf_map_fd(map.get()), -1);
  EXPECT_EQ(other, nullptr);
}

TEST(Map, InfoTellsWhatWasCreatedAndWhoIsAttached) {
  FdLeakGuard guard;
  const auto map = embedded_map(8192, RINGBUF_F_SINGLE_PRODUCER);
  const auto producer = producer_of(map);
  const auto consumer = consumer_of(map, Gather::call, nullptr);
  const auto second = consumer_of(map, Gather::call, nullptr);
  const auto observer = observer_of(map);
  ringbuf_map_info info;
  ASSERT_EQ(ringbuf_map_get_info(map.get(), &info, sizeof info), 0);
  EXPECT_EQ(info.type, RINGBUF_MAP_TYPE_RINGBUF);
  EXPECT_EQ(info.max_entries, 8192u);
  EXPECT_EQ(info.ring_flags, RINGBUF_F_SINGLE_PRODUCER);
  EXPECT_STREQ(info.name, "test");
  EXPECT_GE(info.bytes_memlock, 8192u);
  EXPECT_EQ(info.rights, RINGBUF_RIGHT_ALL);
  EXPECT_EQ(info.producers, 1u);
  EXPECT_EQ(info.consumers, 2u);
  EXPECT_EQ(info.observers, 1u);
  EXPECT_EQ(info.uid, ::geteuid());
}

TEST(Map, InfoFillsAsMuchAsTheCallerKnows) {
  const auto map = embedded_map();
  struct {
    ringbuf_map_info known;
    unsigned char unknown[32];
  } info;
  std::memset(&info, 0xee, sizeof info);
  ASSERT_EQ(ringbuf_map_get_info(map.get(), &info.known, offsetof(ringbuf_map_info, key_size)), 0);
  EXPECT_EQ(info.known.type, RINGBUF_MAP_TYPE_RINGBUF);
  EXPECT_EQ(info.known.key_size, 0xeeeeeeeeu) << "beyond the caller's size";
  ASSERT_EQ(ringbuf_map_get_info(map.get(), &info.known, sizeof info), 0);
  for (unsigned char byte : info.unknown) EXPECT_EQ(byte, 0) << "what this library does not know reads as zero";
}

TEST(Map, WhatWasMadeFromItOutlivesIt) {
  FdLeakGuard guard;
  auto map = embedded_map();
  Gather got;
  auto producer = producer_of(map);
  auto consumer = consumer_of(map, Gather::call, &got);
  map.reset();
  EXPECT_EQ(put(producer, "after the map"), 0);
  producer.reset();
  EXPECT_EQ(ringbuf_consume(consumer.get()), 1);
  EXPECT_EQ(got.records, std::vector<std::string>{"after the map"});
}

TEST(Map, InfoTellsTheModeThatWasAskedFor) {
  ringbuf_map_create_opts opts{};
  opts.sz = sizeof opts;
  opts.mode = 0660;
  ringbuf_map* map = nullptr;
  ASSERT_EQ(ringbuf_map_create(nullptr, "m", 4096, &opts, &map), 0);
  ringbuf_map_info info;
  EXPECT_EQ(ringbuf_map_get_info(map, &info, sizeof info), 0);
  EXPECT_EQ(info.mode, 0660u);
  ringbuf_map_free(map);
}

TEST(Map, EmbeddedMapsAreSeparate) {
  const auto a = embedded_map(), b = embedded_map();
  Gather got;
  const auto consumer = consumer_of(b, Gather::call, &got);
  EXPECT_EQ(put(producer_of(a), "for a"), 0);
  EXPECT_EQ(ringbuf_consume(consumer.get()), 0);
}

TEST(Library, TellsItsVersion) { EXPECT_STREQ(ringbuf_version(), RINGBUF_VERSION_STRING); }

TEST(Library, LastErrorIsASentenceAndPerThread) {
  ringbuf_map* map = nullptr;
  EXPECT_EQ(ringbuf_map_create(nullptr, "m", 5000, nullptr, &map), -EINVAL);
  EXPECT_NE(std::string(ringbuf_last_error()).find("power of two"), std::string::npos) << ringbuf_last_error();
}

class Environment {  // puts a variable back when it goes
 public:
  Environment(const char* name, const char* value) : name_(name) {
    if (const char* old = std::getenv(name)) had_ = true, old_ = old;
    value ? ::setenv(name, value, 1) : ::unsetenv(name);
  }
  ~Environment() { had_ ? ::setenv(name_, old_.c_str(), 1) : ::unsetenv(name_); }
  Environment(const Environment&) = delete;

 private:
  const char* name_;
  bool had_ = false;
  std::string old_;
};

TEST(Library, DefaultSocketIsFromTheEnvironmentFirst) {
  char buf[256];
  {
    const Environment e("RINGBUFD_SOCKET", "/x/y.sock");
    EXPECT_EQ(ringbuf_default_socket(buf, sizeof buf), 9);
    EXPECT_STREQ(buf, "/x/y.sock");
    EXPECT_EQ(ringbuf_default_socket(buf, 10), 9) << "exactly fits with its NUL";
    EXPECT_EQ(ringbuf_default_socket(buf, 9), -ENAMETOOLONG);
    EXPECT_EQ(ringbuf_default_socket(nullptr, 0), -ENAMETOOLONG);
  }
  const Environment e("RINGBUFD_SOCKET", ""), x("XDG_RUNTIME_DIR", "/run/user/42");
  ASSERT_GT(ringbuf_default_socket(buf, sizeof buf), 0);
  EXPECT_STREQ(buf, ::geteuid() == 0 ? "/run/ringbufd/ringbufd.sock" : "/run/user/42/ringbufd.sock");
}

TEST(Library, ConnectSaysThatNoDaemonIsThere) {
  FdLeakGuard guard;
  ringbuf_session* session = nullptr;
  EXPECT_EQ(ringbuf_connect("/nonexistent/ringbufd.sock", &session), -ENOENT);
  EXPECT_NE(std::string(ringbuf_last_error()).find("/nonexistent/ringbufd.sock"), std::string::npos) << ringbuf_last_error();
  EXPECT_EQ(ringbuf_connect(("/" + std::string(200, 'x')).c_str(), &session), -ENAMETOOLONG) << ringbuf_last_error();
  EXPECT_EQ(session, nullptr);
}

}  // namespace
