// SPDX-License-Identifier: MIT
// What the state and the keeper are told of the same thing, when the keeper is slow or has no room.
#include "daemon/state.hpp"

#include <sys/resource.h>

#include <set>

#include "harness.hpp"

namespace ringbuf::test {
namespace {

using daemon::Held;
using daemon::Keeper;
using daemon::Kept;
using daemon::PinEntry;
using daemon::State;

class StateTest : public ::testing::Test {
 protected:
  StateTest() {
    spdlog::set_level(spdlog::level::off);
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0) std::abort();
    theirs.reset(ends[0]);
    const int small = 1;  // the kernel makes it its least
    ::setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    keeper.emplace(io, UniqueFd(ends[1]));
    state = *State::create(*keeper);
    state->serve();
  }
  Result<Kept> put(std::initializer_list<std::pair<Held, int>> fds) { return state->put(PinEntry{}, fds); }
  void fill() {
    while (keeper->all_sent()) keeper->say("STATUS=");
  }
  // All that the keeper is told, as the names that it has in the end. f(name) for each that it is given a second time.
  template <class F>
  void hear(F&& twice) {
    for (;;) {
      io.restart();
      io.poll();
      Frame frame;
      if (!recv_frame(theirs.get(), frame, MSG_DONTWAIT).value_or(false)) return;
      const std::string text(reinterpret_cast<const char*>(frame.buffer.data()), frame.size);
      const auto at = text.find("FDNAME=");
      if (at == text.npos) continue;
      const std::string name = text.substr(at + 7, text.find('\n', at) - at - 7);
      if (text.starts_with("FDSTOREREMOVE")) has.erase(name);
      else if (!has.insert(name).second) twice(name);
    }
  }
  std::set<std::string> entries() const {
    std::set<std::string> names{State::kName};
    for (std::uint32_t n = 0; n < state->size(); ++n)
      if (state->at(n).kind != 0) names.insert({State::name_of(Held::Consumer, n), State::name_of(Held::Producer, n)});
    return names;
  }

  UniqueFd theirs, file{::open("/dev/null", O_RDONLY | O_CLOEXEC)};
  boost::asio::io_context io;
  std::optional<Keeper> keeper;
  std::unique_ptr<State> state;
  std::set<std::string> has;
};

// A daemon killed now would leave entries whose descriptors the keeper has never got, and others' under their names.
TEST_F(StateTest, ANumberIsNotUsedAgainBeforeTheKeeperKnows) {
  auto first = put({{Held::Consumer, file.get()}, {Held::Producer, file.get()}});
  ASSERT_TRUE(first);
  fill();
  *first = Kept();  // what waits in the queue: that it has gone
  const auto second = put({{Held::Consumer, file.get()}, {Held::Producer, file.get()}});
  ASSERT_TRUE(second);
  EXPECT_EQ(state->at(0).kind, 0u);
  hear([](const std::string& name) { ADD_FAILURE() << name; });
  EXPECT_EQ(has, entries());
  const auto third = put({{Held::Consumer, file.get()}, {Held::Producer, file.get()}});
  EXPECT_NE(state->at(0).kind, 0u) << "the number is never used again";
}

TEST_F(StateTest, WhatCannotBeKeptAsAWholeIsNotKept) {
  fill();
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  for (const rlim_t room : {0, 1}) {
    const UniqueFd lowest(::dup(0));
    const rlimit few{static_cast<rlim_t>(lowest.get()) + 1 + room, before.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
    const auto kept = put({{Held::Consumer, file.get()}, {Held::Producer, file.get()}});
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
    ASSERT_FALSE(kept);
    EXPECT_EQ(kept.error().err, EMFILE);
  }
  hear([](const std::string& name) { ADD_FAILURE() << name; });
  EXPECT_EQ(has, entries());
}

// Nothing is taken out by a daemon that is not ready.
TEST_F(StateTest, AStartThatFailsTakesNothingOut) {
  auto kept = put({{Held::Consumer, file.get()}, {Held::Producer, file.get()}});
  ASSERT_TRUE(kept);
  UniqueFd copy;
  for (const auto& e : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    if (std::filesystem::read_symlink(e.path(), gone).string().find("ringbufd:state") == std::string::npos) continue;
    copy.reset(::fcntl(std::stoi(e.path().filename()), F_DUPFD_CLOEXEC, 0));
  }
  state->abandon();
  *kept = Kept();
  for (const bool ready : {false, true}) {
    auto next = State::adopt(*keeper, UniqueFd(::fcntl(copy.get(), F_DUPFD_CLOEXEC, 0)));
    ASSERT_TRUE(next);
    { const Kept gone(**next, 0, "cp"); }
    EXPECT_NE((*next)->at(0).kind, 0u);
    if (ready) (*next)->serve();
    EXPECT_EQ((*next)->at(0).kind == 0, ready);
  }
  hear([](const std::string& name) { ADD_FAILURE() << name; });
  EXPECT_EQ(has, std::set<std::string>{State::kName});
}

}  // namespace
}  // namespace ringbuf::test
