// SPDX-License-Identifier: MIT
// The reaper's turns: what one of them does is bounded, whoever and however many have ended, and requests are served in between.
#include <algorithm>
#include <chrono>

#include "daemon/handlers.hpp"
#include "harness.hpp"
#include "support/test_ring.hpp"

namespace ringbuf::test {
namespace {

using namespace daemon;
using Clock = std::chrono::steady_clock;

// A turn, and the last step of it: a page, or one attachment that is let go, which costs what there are others.
constexpr std::uint64_t kMost = Reaper::kTurn + 4 * RINGBUF_SLOT_COUNT + 64;

class ReaperTest : public ::testing::Test {
 protected:
  using Attachments = std::vector<std::unique_ptr<Attachment>>;

  ReaperTest() { spdlog::set_level(spdlog::level::off); }
  static std::unique_ptr<State> new_state(Keeper& keeper) { return std::move(State::create(keeper).value()); }
  static UniqueFd epoll() { return UniqueFd(::epoll_create1(EPOLL_CLOEXEC)); }
  std::shared_ptr<Map> ring(std::uint64_t size) {
    MapSpec spec{shm::normal({static_cast<std::uint32_t>(size), shm::kTypeRingbuf, 0, 0, 0}), "", 0600, ::getuid(), ::getgid()};
    return core.maps.create(std::move(spec)).value();
  }
  std::unique_ptr<Attachment> attach(const std::shared_ptr<Map>& map, unsigned role, std::uint64_t client = 1) {
    auto a = map->attach(role, {0, ::getuid(), client, false}, core.quota.charge(Resource::Attachments, ::getuid()).value());
    EXPECT_TRUE(a) << (a ? "" : a.error().text);
    EXPECT_TRUE((*a)->enter(*core.state, 1));
    return std::move(*a);
  }
  Attachments producers(const std::shared_ptr<Map>& map, unsigned n) {
    Attachments all;
    while (all.size() < n) all.push_back(attach(map, RINGBUF_PRODUCER));
    return all;
  }
  void end(Attachments& all) {
    for (auto& a : all) core.reaper.end(std::move(a));
  }
  // Until there is no room for `size` bytes any more, behind a record that keeps pending_pos where it is.
  void fill(const std::shared_ptr<Map>& map, unsigned slot, std::size_t size) {
    const Mapping m = map->map_memory().value();
    ringbuf_view v = map->view(m);
    std::vector<std::uint64_t> told(RINGBUF_SLOT_COUNT);
    v.slot = slot;
    v.signal_fd = -1;
    v.room_told = told.data();
    const shm::Producer p(v);
    const std::vector<char> data(size);
    ASSERT_NE(p.reserve(8, 0), nullptr);
    while (p.output(data.data(), size, 1 /* BPF_RB_NO_WAKEUP */) == 0) continue;
  }

  // An honest client's request. What the reaper has done before it was answered.
  std::uint64_t request() {
    const std::uint64_t before = core.reaper.work();
    const auto from = Clock::now();
    const auto frame = wire::encode_as({RINGBUF_MAP_GET_NEXT_ID, 0, 1, 0, 0}, ringbuf_next_id_req{0, 0});
    EXPECT_TRUE(handle(core, honest, *wire::decode(frame), {}));
    worst = std::max(worst, Clock::now() - from);
    ++requests;
    return core.reaper.work() - before;
  }
  // Requests until map has no producer any more.
  void serve_until_reaped(const char* name, const Map& map) {
    const auto from = Clock::now();
    std::uint64_t most = 0;
    while (map.count(RINGBUF_PRODUCER) != 0 && requests < 100000) most = std::max(most, request());
    EXPECT_LE(most, kMost);
    const auto us = [](Clock::duration d) { return std::chrono::duration<double, std::micro>(d).count(); };
    std::printf("%s: %u requests, at most %lu units of work before one, %.0f us the worst, %.1f ms in all\n", name, requests,
                most, us(worst), us(Clock::now() - from) / 1000);
  }

  boost::asio::io_context io;
  Keeper keeper{io, {}};
  Core core{io, kDefaultLimits, new_state(keeper), epoll(), epoll()};
  Caller honest{{::getpid(), ::getuid(), ::getgid(), {}}, -1, {}, std::make_shared<daemon::Client>(), [] {}};
  Clock::duration worst{};
  unsigned requests = 0;
};

TEST_F(ReaperTest, ManyDeadInALargeRingOfLargeRecordsHoldNobodyUp) {
  const auto map = ring(64 << 20);
  auto dead = producers(map, 200);
  fill(map, 1, 4080);
  end(dead);
  serve_until_reaped("200 dead, 64 MiB of 4 KiB records", *map);
  EXPECT_LE(core.reaper.work(), (64u << 20) / 64 + 200 * 1024) << "one walk is for all of them";
  EXPECT_EQ(honest.client->attachments.size(), 0u);
}

// Positions that say that the ring is full, over memory that nobody has ever written: headers of empty records.
TEST_F(ReaperTest, AsManyDeadAsThereAreSlotsInASparseRingHoldNobodyUp) {
  const auto map = ring(64 << 20);
  auto dead = producers(map, RINGBUF_SLOT_COUNT - 1);
  map->map_memory().value().view().producer_page->producer_pos = 64 << 20;
  end(dead);
  serve_until_reaped("1023 dead, 64 MiB of nothing", *map);
  EXPECT_LE(core.reaper.work(), (64u << 20) / 8 + 1023 * 5000) << "one walk is for all of them";
}

TEST_F(ReaperTest, ASmallRingIsDoneAtOnce) {
  const auto map = ring(4096);
  Attachments dead = producers(map, 2);
  dead.push_back(attach(map, RINGBUF_CONSUMER));
  fill(map, 2, 8);
  end(dead);
  EXPECT_LE(request(), kMost);
  EXPECT_EQ(map->attachments().size(), 0u);
}

TEST_F(ReaperTest, ASmallRingDoesNotWaitForTheLargeOnesBeforeIt) {
  std::vector<std::shared_ptr<Map>> large;
  for (int i = 0; i < 4; ++i) {
    large.push_back(ring(16 << 20));
    auto dead = producers(large.back(), 1);
    fill(large.back(), 1, 8);
    end(dead);
  }
  const auto map = ring(4096);
  auto dead = producers(map, 1);
  end(dead);
  request();
  EXPECT_EQ(map->count(RINGBUF_PRODUCER), 0u);
  for (const auto& l : large) EXPECT_EQ(l->count(RINGBUF_PRODUCER), 1u);
  for (const auto& l : large) serve_until_reaped("one of 4 large rings", *l);
}

// It ends while the others' walk is under way, or has been made and not all of them are gone: its records are found all the same.
TEST_F(ReaperTest, WhoEndsDuringAWalkGetsOneOfItsOwn) {
  const auto map = ring(16 << 20);
  auto dead = producers(map, 300);
  auto late = attach(map, RINGBUF_PRODUCER);
  fill(map, late->slot, 8);
  end(dead);
  request();
  core.reaper.end(std::move(late));
  serve_until_reaped("300 dead and a late one", *map);
  ringbuf_map_info info{};
  map->tell_who_is_in_the_way(info);
  EXPECT_EQ(info.orphan_records, 1u);
  EXPECT_EQ(info.head_slot, 0u);
}

TEST_F(ReaperTest, ASlotThatIsGivenAwayAgainBeforeTheWalkIsForgottenIsAnothers) {
  const auto map = ring(4096);
  auto dead = producers(map, RINGBUF_SLOT_COUNT - 1);
  end(dead);
  request();  // some are gone
  ASSERT_GT(map->count(RINGBUF_PRODUCER), 0u);
  auto next = attach(map, RINGBUF_PRODUCER);
  ASSERT_EQ(next->slot, 1u);
  fill(map, 1, 8);
  core.reaper.end(std::move(next));
  serve_until_reaped("1023 dead in a small ring", *map);
  ringbuf_map_info info{};
  map->tell_who_is_in_the_way(info);
  EXPECT_EQ(info.orphan_records, 1u);
}

}  // namespace
}  // namespace ringbuf::test
