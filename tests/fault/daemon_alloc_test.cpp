// SPDX-License-Identifier: MIT
// The daemon without memory: each allocation of each request fails once, then all from it on. The client gets ENOMEM with a
// sentence, or loses its session; it may ask again; nothing is left of it afterwards; and another client is served as before.
#include <gtest/gtest.h>

#include <optional>

#include "fault/failing_alloc.hpp"
#include "fuzz/stepped_daemon.hpp"

namespace ringbuf::test {
namespace {

using fuzz::Connection;
using fuzz::Daemon;
using Fd = std::vector<UniqueFd>;

ringbuf_map_create_req spec(std::uint32_t type) {
  ringbuf_map_create_req req{};
  req.map_type = type;
  req.max_entries = 4096;
  std::strcpy(req.name, "victim");
  if (type < 27) req.max_entries = 4, req.key_size = 4, req.value_size = 4;
  return req;
}
ringbuf_path_req path(const char* text) {
  ringbuf_path_req req{};
  std::strcpy(req.path, text);
  return req;
}
ringbuf_elem_req element() {
  ringbuf_elem_req req{};
  req.key_size = 4;
  return req;
}

template <class T>
std::vector<std::byte> bytes(const T& body) {
  const auto all = std::as_bytes(std::span(&body, 1));
  return {all.begin(), all.end()};
}

// A request, and what has to be there before it.
struct Request {
  const char* name;
  unsigned cmd;
  std::vector<std::byte> body;
  enum Needs { Nothing, Ring, User, Array, ArrayAndRing, FullArray, FullArrayAndRing } needs = Nothing;
  bool pinned = false;    // the ring is, at /victim
  bool attached = false;  // number 1, a producer
};

std::vector<Request> requests() {
  using R = Request;
  return {
      {"create a ring", RINGBUF_MAP_CREATE, bytes(spec(27))},
      {"create a user ring", RINGBUF_MAP_CREATE, bytes(spec(31))},
      {"create an array of maps", RINGBUF_MAP_CREATE, bytes(spec(12)), R::Ring},
      {"create a hash of maps", RINGBUF_MAP_CREATE, bytes(spec(13)), R::Ring},
      {"next id", RINGBUF_MAP_GET_NEXT_ID, bytes(ringbuf_next_id_req{0, 0}), R::Ring},
      {"open by name", RINGBUF_MAP_GET_FD_BY_NAME, bytes([] {
         ringbuf_fd_by_name_req req{};
         std::strcpy(req.name, "victim");
         return req;
       }()),
       R::Ring},
      {"pin", RINGBUF_OBJ_PIN, bytes(path("/victim")), R::Ring},
      {"get", RINGBUF_OBJ_GET, bytes(path("/victim")), R::Ring, true},
      {"unpin", RINGBUF_OBJ_UNPIN, bytes(path("/victim")), R::Ring, true},
      {"info", RINGBUF_OBJ_GET_INFO_BY_FD, {}, R::Ring},
      {"pin path", RINGBUF_OBJ_GET_PIN, bytes(ringbuf_index_req{0, 0}), R::Ring, true},
      {"attach a producer", RINGBUF_ATTACH, bytes(ringbuf_attach_req{RINGBUF_PRODUCER, 0}), R::Ring},
      {"attach a consumer", RINGBUF_ATTACH, bytes(ringbuf_attach_req{RINGBUF_CONSUMER, 0}), R::Ring, false, true},
      {"attach an observer", RINGBUF_ATTACH, bytes(ringbuf_attach_req{RINGBUF_OBSERVER, 0}), R::Ring},
      {"attach the producer of a user ring", RINGBUF_ATTACH, bytes(ringbuf_attach_req{RINGBUF_PRODUCER, 0}), R::User},
      {"attach to an array of maps", RINGBUF_ATTACH, bytes(ringbuf_attach_req{RINGBUF_OBSERVER, 0}), R::Array},
      {"an attachment's info", RINGBUF_MAP_GET_ATTACHMENT, bytes(ringbuf_index_req{0, 0}), R::Ring, false, true},
      {"detach", RINGBUF_DETACH, bytes(ringbuf_detach_req{1, 0}), R::Ring, false, true},
      {"update an element", RINGBUF_MAP_UPDATE_ELEM, bytes(element()), R::ArrayAndRing},
      {"replace an element", RINGBUF_MAP_UPDATE_ELEM, bytes(element()), R::FullArrayAndRing},
      {"look an element up", RINGBUF_MAP_LOOKUP_ELEM, bytes(element()), R::FullArray},
      {"next key", RINGBUF_MAP_GET_NEXT_KEY, bytes(ringbuf_elem_req{}), R::FullArray},
      {"open an inner map", RINGBUF_MAP_GET_FD_BY_KEY, bytes(element()), R::FullArray},
      {"delete an element", RINGBUF_MAP_DELETE_ELEM, bytes(element()), R::FullArray},
  };
}

class Victim {
 public:
  Victim(Daemon& daemon, const Request& request, bool hash) : request_(request), connection_(daemon) {
    connection_.hello();
    if (request.needs == Request::Nothing) return;
    make(spec(request.needs == Request::User ? 31 : 27), ring_);
    if (request.pinned) connection_.must<fuzz::Nothing>(RINGBUF_OBJ_PIN, path("/victim"), nullptr, {ring_.at(0).get()});
    if (request.attached)
      connection_.must<ringbuf_attach_reply>(RINGBUF_ATTACH, ringbuf_attach_req{RINGBUF_PRODUCER, 0}, &attachment_,
                                             {ring_.at(0).get()});
    if (request.needs < Request::Array) return;
    make(spec(hash ? 13 : 12), outer_, {ring_.at(0).get()});
    if (request.needs >= Request::FullArray)
      connection_.must<fuzz::Nothing>(RINGBUF_MAP_UPDATE_ELEM, element(), nullptr, {outer_.at(0).get(), ring_.at(0).get()});
  }

  void send() {
    wire::Bytes body = request_.body;
    const auto frame = wire::encode({static_cast<std::uint16_t>(request_.cmd), 0, ++seq_, 0, 0}, body);
    ASSERT_TRUE(send_frame(connection_.fd(), frame, fds(), MSG_DONTWAIT));
  }
  // The reply's errno and sentence; nothing: the session was ended.
  std::optional<std::pair<int, std::string>> reply() {
    Frame frame;
    const auto got = recv_frame(connection_.fd(), frame, MSG_DONTWAIT);
    if (!got || !*got) {
      EXPECT_TRUE(got || got.error().err == ECONNRESET) << "no reply";
      return std::nullopt;
    }
    const auto message = wire::decode(frame.bytes());
    EXPECT_TRUE(message && message->hdr.seq == seq_ && message->hdr.cmd == request_.cmd);
    const auto* text = reinterpret_cast<const char*>(message->body.data());
    const int err = static_cast<int>(message->hdr.err);
    return std::pair(err, err ? std::string(text, message->body.size()) : std::string());
  }
  ringbuf_map_info info(bool outer = false) {
    return connection_.must<ringbuf_map_info>(RINGBUF_OBJ_GET_INFO_BY_FD, fuzz::Nothing{}, nullptr,
                                              {(outer ? outer_ : ring_).at(0).get()});
  }
  bool has_ring() const { return !ring_.empty(); }
  bool has_outer() const { return !outer_.empty(); }

 private:
  void make(const ringbuf_map_create_req& req, Fd& token, const std::vector<int>& fds = {}) {
    connection_.must<ringbuf_map_id_reply>(RINGBUF_MAP_CREATE, req, &token, fds);
  }
  std::vector<int> fds() const {
    std::vector<int> fds;
    if (!outer_.empty()) fds.push_back(outer_[0].get());
    const bool names_nothing = request_.cmd == RINGBUF_MAP_GET_NEXT_ID || request_.cmd == RINGBUF_MAP_GET_FD_BY_NAME ||
                               request_.cmd == RINGBUF_OBJ_GET || request_.cmd == RINGBUF_OBJ_UNPIN ||
                               request_.cmd == RINGBUF_DETACH;
    const bool takes_ring =
        outer_.empty() || request_.needs == Request::ArrayAndRing || request_.needs == Request::FullArrayAndRing;
    if (!ring_.empty() && takes_ring && !names_nothing) fds.push_back(ring_[0].get());
    return fds;
  }

  const Request& request_;
  Connection connection_;
  std::uint32_t seq_ = 1000;
  Fd ring_, outer_, attachment_;
};

bool same(const ringbuf_map_info& a, const ringbuf_map_info& b) { return std::memcmp(&a, &b, sizeof a) == 0; }

class DaemonAlloc : public ::testing::TestWithParam<Fails> {
 protected:
  DaemonAlloc() { good_->hello(); }

  void fail_each(const Request& request, bool hash) {
    SCOPED_TRACE(request.name);
    unsigned refused = 0, ended = 0, nth = 1;
    for (bool failed = true; failed; ++nth) {
      SCOPED_TRACE(nth);
      const auto before = fuzz::open_fds();
      {
        Victim victim(*daemon_, request, hash);
        const auto ring = victim.has_ring() ? victim.info() : ringbuf_map_info{};
        const auto outer = victim.has_outer() ? victim.info(true) : ringbuf_map_info{};
        victim.send();
        failed = with_failing_allocation(nth, GetParam(), [&] { daemon_->work(); });
        const auto reply = victim.reply();
        if (!failed) {
          ASSERT_TRUE(reply && reply->first == 0) << (reply ? reply->second : "closed");
        } else if (!reply) {
          ++ended;
        } else if (reply->first != 0) {
          ++refused;
          EXPECT_EQ(reply->first, ENOMEM) << reply->second;
          EXPECT_NE(reply->second, "");
          // As if it had never been asked.
          if (victim.has_ring()) {
            EXPECT_TRUE(same(victim.info(), ring));
          }
          if (victim.has_outer()) {
            EXPECT_TRUE(same(victim.info(true), outer));
          }
          victim.send();
          daemon_->work();
          const auto again = victim.reply();
          ASSERT_TRUE(again && again->first == 0) << (again ? again->second : "closed");
        }
      }
      daemon_->work();
      (void)good_->call(RINGBUF_OBJ_UNPIN, path("/victim"));
      EXPECT_EQ(good_->call(RINGBUF_MAP_GET_NEXT_ID, ringbuf_next_id_req{0, 0}).hdr.err, ENOENT) << "a map is left";
      daemon_->work();
      fuzz::require_only(before, [&] { daemon_->work(); });
    }
    std::printf("%-36s %2u allocations: %u times ENOMEM, %u sessions ended\n", request.name, nth - 2, refused, ended);
  }

  void TearDown() override {
    good_.reset();
    daemon_->work();
    fuzz::use_up_all_limits(*daemon_);  // so nothing is still charged
  }

  std::unique_ptr<Daemon> daemon_ = std::make_unique<Daemon>(fuzz::kSmallLimits);
  std::unique_ptr<Connection> good_ = std::make_unique<Connection>(*daemon_);
};

TEST_P(DaemonAlloc, EachAllocationOfEachRequestFails) {
  for (const Request& request : requests()) {
    fail_each(request, false);
    if (request.needs >= Request::Array) fail_each(request, true);
    if (HasFatalFailure()) return;
  }
}

// It costs the client its connection at most: what the daemon needs to go on listening it has from the start.
TEST_P(DaemonAlloc, EachAllocationOfConnectingFails) {
  unsigned ended = 0, nth = 1;
  for (bool failed = true; failed; ++nth) {
    SCOPED_TRACE(nth);
    const auto before = fuzz::open_fds();
    auto socket = connect_to(daemon_->socket());
    ASSERT_TRUE(socket);
    const auto hello = wire::encode_as({RINGBUF_HELLO, 0, 1, 0, 0}, ringbuf_hello_req{RINGBUF_WIRE_VERSION, 0, 0});
    (void)send_frame(socket->get(), hello, {});
    bool alive = true;
    failed = with_failing_allocation(nth, GetParam(), [&] {
      try {
        daemon_->work();
      } catch (const std::bad_alloc&) {
        alive = false;
      }
    });
    if (!alive) {
      ++ended;
      good_.reset();
      daemon_ = std::make_unique<Daemon>(fuzz::kSmallLimits);
      good_ = std::make_unique<Connection>(*daemon_);
      good_->hello();
      continue;
    }
    Frame frame;
    const auto got = recv_frame(socket->get(), frame, MSG_DONTWAIT);
    EXPECT_TRUE(got || got.error().err == ECONNRESET) << "neither answered nor closed";
    EXPECT_TRUE(failed || (got && *got));
    socket->reset();
    frame.fds.clear();  // the lease
    daemon_->work();
    EXPECT_EQ(good_->call(RINGBUF_MAP_GET_NEXT_ID, ringbuf_next_id_req{0, 0}).hdr.err, ENOENT);
    fuzz::require_only(before, [&] { daemon_->work(); });
  }
  std::printf("connect and HELLO: %u allocations, the daemon ended %u times\n", nth - 2, ended);
  EXPECT_EQ(ended, 0u);
}

TEST_P(DaemonAlloc, EachAllocationOfAClientsEndFails) {
  const Request all{"", RINGBUF_OBJ_GET_INFO_BY_FD, {}, Request::FullArray, true, true};
  bool failed = true;
  for (unsigned nth = 1; failed; ++nth) {
    SCOPED_TRACE(nth);
    const auto before = fuzz::open_fds();
    std::make_unique<Victim>(*daemon_, all, true).reset();
    failed = with_failing_allocation(nth, GetParam(), [&] { daemon_->work(); });
    daemon_->work();
    EXPECT_EQ(good_->call(RINGBUF_OBJ_UNPIN, path("/victim")).hdr.err, 0);
    EXPECT_EQ(good_->call(RINGBUF_MAP_GET_NEXT_ID, ringbuf_next_id_req{0, 0}).hdr.err, ENOENT);
    fuzz::require_only(before, [&] { daemon_->work(); });
  }
}

TEST_P(DaemonAlloc, EachAllocationOfStartAndStopFails) {
  const std::string socket = daemon_->socket() + "2";
  unsigned nth = 1;
  for (bool failed = true; failed; ++nth) {
    SCOPED_TRACE(nth);
    bool started = false, ended = false;
    const auto before = fuzz::open_fds();
    auto io = std::make_unique<boost::asio::io_context>(1);
    failed = with_failing_allocation(nth, GetParam(), [&] {
      try {
        auto server = daemon::Server::start(*io, {socket, 0600, fuzz::kSmallLimits});
        started = server.has_value();
        if (started) (*server)->stop();
        io->poll();
      } catch (const std::bad_alloc&) {  // with which main() ends
        ended = true;
      } catch (const std::system_error&) {  // likewise: no memory for a thread
        ended = true;
      }
    });
    EXPECT_TRUE(failed || started);
    io.reset();
    if (!ended) fuzz::require_only(before, [] {});
  }
  std::printf("start and stop: %u allocations\n", nth - 2);
}

INSTANTIATE_TEST_SUITE_P(Fails, DaemonAlloc, ::testing::Values(Fails::Once, Fails::FromThenOn),
                         [](const auto& how) { return how.param == Fails::Once ? "Once" : "FromThenOn"; });

}  // namespace
}  // namespace ringbuf::test
