// SPDX-License-Identifier: MIT
// Everything that a client can make the daemon hold is counted, in all and per uid, and given back.
#include <sys/resource.h>
#include <sys/un.h>

#include "harness.hpp"

namespace ringbuf::test {
namespace {

using daemon::Limit;
using daemon::Limits;
using daemon::Resource;

Limits with(Resource resource, Limit limit) {
  Limits limits = daemon::kDefaultLimits;
  limits[static_cast<std::size_t>(resource)] = limit;
  return limits;
}

TEST(Quota, CountsAndGivesBack) {
  daemon::Quota quota(with(Resource::Bytes, {100, 60}));
  auto a = quota.charge(Resource::Bytes, 1, 60);
  ASSERT_TRUE(a.has_value());
  const auto b = quota.charge(Resource::Bytes, 1, 1);
  ASSERT_FALSE(b.has_value());
  EXPECT_EQ(b.error().err, EDQUOT);
  EXPECT_EQ(b.error().text,
            "uid 1 holds 60 bytes and may hold 60; give some back, or start ringbufd with a higher --max-bytes-per-uid");
  EXPECT_EQ(quota.charge(Resource::Bytes, 1, 5).error().text,
            "uid 1 wants 5 bytes more, holds 60 bytes and may hold 60; give some back, or start ringbufd with a higher "
            "--max-bytes-per-uid");
  EXPECT_EQ(quota.charge(Resource::Bytes, 2, 61).error().text,
            "uid 2 wants 61 bytes more, holds 0 bytes and may hold 60; start ringbufd with a higher --max-bytes-per-uid")
      << "it has nothing to give back";
  const auto c = quota.charge(Resource::Bytes, 2, 41);
  ASSERT_FALSE(c.has_value());
  EXPECT_EQ(c.error().err, ENOSPC);
  EXPECT_EQ(c.error().text,
            "uid 2 wants 41 bytes more, the daemon holds 60 bytes and may hold 100; start ringbufd with a higher --max-bytes");
  EXPECT_FALSE(quota.charge(Resource::Bytes, 2, UINT64_MAX).has_value());
  EXPECT_TRUE(quota.charge(Resource::Bytes, 2, 40).has_value());
  *a = daemon::Charge();
  EXPECT_TRUE(quota.charge(Resource::Bytes, 0, 100).has_value()) << "no limit per uid for root";
  EXPECT_EQ(quota.charge(Resource::Bytes, 0, 101).error().err, ENOSPC);
}

struct Case {
  Resource resource;
  int (*take)(Client&, const Reply& map, unsigned n, std::vector<Reply>& held);  // errno
};

const Case kCases[] = {
    {Resource::Maps,
     [](Client& c, const Reply&, unsigned, std::vector<Reply>& held) {
       held.push_back(c.create());
       return held.back().err();
     }},
    {Resource::Tokens,
     [](Client& c, const Reply& map, unsigned, std::vector<Reply>& held) {
       held.push_back(c.by_id(map.as<ringbuf_map_id_reply>().id));
       return held.back().err();
     }},
    {Resource::Attachments,
     [](Client& c, const Reply& map, unsigned, std::vector<Reply>& held) {
       held.push_back(c.attach(map.fds.at(0).get(), RINGBUF_OBSERVER));
       return held.back().err();
     }},
    {Resource::Pins, [](Client& c, const Reply& map, unsigned n,
                        std::vector<Reply>&) { return c.pin(fmt::format("/{}", n), map.fds.at(0).get()).err(); }},
};

// How many could be taken before the refusal, and what that was: errno * 256 + count.
int take_all(const std::string& socket, const Case& c) {
  Client client(socket);
  const auto map = client.create();
  std::vector<Reply> held;
  for (unsigned n = 0; n < 200; ++n)
    if (const int err = c.take(client, map, n, held)) return err * 256 + static_cast<int>(n);
  return -1;
}

TEST(Limits, InAll) {
  FdLeakGuard leaks;
  for (const Case& c : kCases) {
    InProcessDaemon daemon(with(c.resource, {5, 1000}));
    // The first map, and its token, count too.
    const int first = c.resource == Resource::Maps || c.resource == Resource::Tokens;
    for (int round = 0; round < 2; ++round) {
      if (round && c.resource == Resource::Pins) continue;  // these stay
      EXPECT_EQ(take_all(daemon.socket(), c), ENOSPC * 256 + 5 - first);
      Client watcher(daemon);
      if (c.resource == Resource::Attachments) eventually([&] { return watcher.next_id(0).err() == ENOENT; });
    }
  }
}

TEST(Limits, PerUid) {
  RINGBUF_NEEDS_ROOT();
  FdLeakGuard leaks;
  for (const Case& c : kCases) {
    InProcessDaemon daemon(with(c.resource, {1000, 5}));
    const int first = c.resource == Resource::Maps || c.resource == Resource::Tokens;
    for (const uid_t uid : {1001u, 1002u}) {  // what one uid holds does not count for another
      int got[2];
      ASSERT_EQ(::pipe2(got, O_CLOEXEC), 0);
      UniqueFd reader(got[0]), writer(got[1]);
      as_user(uid, uid, {}, [&] {
        if (c.resource == Resource::Pins && uid == 1002) return 0;  // the paths are taken
        const int n = take_all(daemon.socket(), c);
        return ::write(writer.get(), &n, sizeof n) == sizeof n ? 0 : 1;
      });
      writer.reset();
      int n = EDQUOT * 256 + 5 - first;
      (void)!::read(reader.get(), &n, sizeof n);
      EXPECT_EQ(n, EDQUOT * 256 + 5 - first);
    }
    EXPECT_EQ(take_all(daemon.socket(), c) >> 8, c.resource == Resource::Pins ? EEXIST : -1) << "root has no limit of its own";
  }
}

TEST(Limits, Bytes) {
  FdLeakGuard leaks;
  const shm::Layout page{shm::page_size(), 4096};
  const auto one = page.c_size() + page.p_size();
  InProcessDaemon daemon(with(Resource::Bytes, {2 * one, 2 * one}));
  Client client(daemon);
  auto a = client.create(), b = client.create();
  EXPECT_EQ(b.err(), 0);
  const auto refused = client.create();
  EXPECT_EQ(refused.err(), ENOSPC);
  EXPECT_NE(refused.text.find("--max-bytes"), std::string::npos);
  b.fds.clear();
  EXPECT_EQ(client.create().err(), 0) << "given back at once";
}

TEST(Limits, Sessions) {
  FdLeakGuard leaks;
  InProcessDaemon daemon(with(Resource::Sessions, {3, 3}));
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 3; ++i) {
    clients.push_back(std::make_unique<Client>(daemon));
    EXPECT_EQ(clients.back()->hello().err(), 0);
  }
  for (int i = 0; i < 5; ++i) {
    Client refused(daemon.socket(), Client::Silent{});
    const auto r = refused.receive();
    EXPECT_EQ(r.err(), ENOSPC);
    EXPECT_EQ(r.hdr.cmd, RINGBUF_HELLO);
    EXPECT_EQ(r.hdr.seq, 0u);
    EXPECT_TRUE(refused.receive().closed);
  }
  EXPECT_EQ(clients[0]->next_id(0).err(), ENOENT);
  clients.pop_back();
  eventually([&] {
    Client next(daemon.socket(), Client::Silent{});
    next.request(RINGBUF_HELLO, Client::hello_req());
    return next.receive().err() == 0;
  });
}

TEST(Limits, WhoIsCountedMayComeBack) {
  FdLeakGuard leaks;
  InProcessDaemon daemon(with(Resource::Sessions, {2, 2}));
  Client a(daemon), b(daemon);
  for (int round = 0; round < 3; ++round) {
    for (Client* c : {&a, &b}) c->disconnect();
    for (Client* c : {&a, &b}) EXPECT_EQ(c->reconnect(daemon.socket()).as<ringbuf_hello_reply>().resumed, 1u);
    Client refused(daemon.socket(), Client::Silent{});
    EXPECT_EQ(refused.receive().err(), ENOSPC) << "nobody is away";
  }
  // Who comes by a place that is kept for another is refused when it turns out.
  a.disconnect();
  Client other(daemon.socket(), Client::Silent{});
  EXPECT_EQ(other.call(RINGBUF_HELLO, Client::hello_req()).err(), ENOSPC);
  Client third(daemon.socket(), Client::Silent{});
  EXPECT_EQ(third.receive().err(), ENOSPC) << "one is away, and one is here for it";
  other.disconnect();
  EXPECT_EQ(a.reconnect(daemon.socket()).as<ringbuf_hello_reply>().resumed, 1u);
}

TEST(Limits, TheRefusalReachesWhoHasSentAlready) {
  FdLeakGuard leaks;
  InProcessDaemon daemon(with(Resource::Sessions, {1, 1}));
  Client served(daemon);
  for (int round = 0; round < 2; ++round) {
    std::vector<std::unique_ptr<Client>> refused;
    daemon.while_paused([&] {
      for (int i = 0; i < 100; ++i) {
        refused.push_back(std::make_unique<Client>(daemon.socket(), Client::Silent{}));
        ASSERT_TRUE(refused.back()->request(RINGBUF_HELLO, Client::hello_req()));
      }
    });
    for (auto& client : refused) {
      const auto r = client->receive();
      ASSERT_EQ(r.err(), ENOSPC);
      EXPECT_NE(r.text.find("--max-sessions"), std::string::npos) << r.text;
    }
  }
}

TEST(Limits, OutOfDescriptors) {
  FdLeakGuard leaks;
  InProcessDaemon daemon;
  Client served(daemon);
  const auto made = served.create();
  EXPECT_EQ(served.next_id(1).err(), ENOENT);  // when it answers this, it has closed its copy of the token
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  std::vector<UniqueFd> sockets;  // made before there are none left, connected after
  for (int i = 0; i < 4; ++i) sockets.emplace_back(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  const int highest = sockets.back().get();
  std::vector<UniqueFd> holes;
  for (;;) {
    UniqueFd fd(::fcntl(0, F_DUPFD_CLOEXEC, 0));
    if (fd.get() > highest) break;
    holes.push_back(std::move(fd));
  }
  const rlimit none{static_cast<rlim_t>(highest + 1), before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, daemon.socket().c_str());
  for (const auto& s : sockets) {
    EXPECT_EQ(::connect(s.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    char c;
    EXPECT_LE(::recv(s.get(), &c, 1, 0), 0) << "turned away";
  }
  EXPECT_EQ(served.next_id(1).err(), ENOENT) << "who is in is served";
  const auto lost = served.info(made.fds.at(0).get());
  EXPECT_EQ(lost.err(), EMFILE);
  EXPECT_EQ(lost.text, "the daemon has no descriptors left; try again later");
  const auto refused = served.create();
  EXPECT_EQ(refused.err(), EMFILE) << refused.text;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(served.create().err(), 0);
  EXPECT_EQ(served.info(made.fds.at(0).get()).err(), 0) << "the session stays";
  EXPECT_EQ(Client(daemon).hello().err(), 0);
}

}  // namespace
}  // namespace ringbuf::test
