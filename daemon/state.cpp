// SPDX-License-Identifier: MIT
#include "daemon/state.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "ringbuf/shm/ring.hpp"

#ifndef RINGBUF_TEST_STORED
#define RINGBUF_TEST_STORED()  // for a test that kills the daemon at each store
#endif

namespace ringbuf::daemon {

struct State::Header {
  std::uint64_t magic;
  std::uint32_t entry_size;
  std::uint32_t reserved;
  std::uint64_t last_map_id;
  std::uint64_t pad[5];
};

namespace {

constexpr std::uint64_t kMagic = 0x3330657461747372;  // "rstate03": changes with every change of an entry's meaning
constexpr std::uint32_t kStep = 256;                  // entries that the file grows by, at least

// State::kNumbersFrom, or less. Other descriptors are below as long as there are fewer of them.
int numbers_from() {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  return static_cast<int>(std::min<rlim_t>(limit.rlim_cur / 2, State::kNumbersFrom));
}

std::uint64_t bytes_for(std::uint32_t size) { return 64 + std::uint64_t{size} * sizeof(StateEntry); }

}  // namespace

// A keeper that is gone may have what it was given, but is told no more: what changes here would no longer be what it has, and
// numbers that are used again would stand for other descriptors. So nobody may go on with it.
State::State(Keeper& keeper, UniqueFd file) : keeper_(keeper), file_(std::move(file)) {
  keeper_.when_lost([this] {
    if (memory_.base()) commit(header()->magic, 0);
  });
}

Result<std::unique_ptr<State>> State::create(Keeper& keeper) {
  static_assert(sizeof(Header) == 64);
  UniqueFd file(::memfd_create("ringbufd:state", MFD_CLOEXEC));
  if (!file) return fail_errno("create the state file");
  std::unique_ptr<State> state(new State(keeper, std::move(file)));
  if (auto mapped = state->map(kStep); !mapped) return tl::unexpected(mapped.error());
  state->header()->entry_size = sizeof(StateEntry);
  commit(state->header()->magic, kMagic);
  if (!keeper.store(kName, state->file_.get())) return fail(EMFILE, "have the state kept");
  return state;
}

Result<std::unique_ptr<State>> State::adopt(Keeper& keeper, UniqueFd file) {
  struct stat st;
  if (::fstat(file.get(), &st) < 0) return fail_errno("look at the state file");
  const std::uint64_t size = static_cast<std::uint64_t>(st.st_size);
  if (size < bytes_for(1) || (size - bytes_for(0)) % sizeof(StateEntry) != 0) return fail(EPROTO, "read the state file");
  std::unique_ptr<State> state(new State(keeper, std::move(file)));
  if (auto mapped = state->map(static_cast<std::uint32_t>((size - bytes_for(0)) / sizeof(StateEntry))); !mapped)
    return tl::unexpected(mapped.error());
  if (state->header()->magic != kMagic || state->header()->entry_size != sizeof(StateEntry))
    return fail(EPROTO, "read the state file");
  return state;
}

// Grows the file if it must, and maps all of it.
Result<void> State::map(std::uint32_t size) {
  if (size > size_ && ::ftruncate(file_.get(), static_cast<off_t>(bytes_for(size))) < 0) return fail_errno("grow the state file");
  auto memory = FileMapping::map(file_.get(), bytes_for(size), Mapping::Access::ReadWrite);
  if (!memory) return tl::unexpected(memory.error());
  free_.reserve(size);
  freed_.reserve(size);
  if (phase_ == Phase::Starting) gone_.reserve(size);
  memory_ = std::move(*memory);
  entries_ = reinterpret_cast<StateEntry*>(static_cast<unsigned char*>(memory_.base()) + sizeof(Header));
  for (std::uint32_t i = size; i-- > size_;)
    if (entries_[i].kind == static_cast<std::uint64_t>(Kind::Free)) free_.push_back(i);
  size_ = size;
  return {};
}

// Only the compiler could change the order.
void State::commit(std::uint64_t& word, std::uint64_t value) noexcept {
  shm::Ring::signal_fence();
  *static_cast<volatile std::uint64_t*>(&word) = value;
  shm::Ring::signal_fence();
  RINGBUF_TEST_STORED();
}

std::string State::name_of(Held what, std::uint32_t number) {
  constexpr char kDigits[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-";
  std::string name(1, static_cast<char>(what));
  do name += kDigits[number % 64];
  while (number /= 64);
  return name;
}

Result<Kept> State::put_bytes(Kind kind, const void* body, std::size_t size, std::initializer_list<std::pair<Held, int>> fds) {
  // A number means one thing to the keeper until it has been told that this is over.
  if (keeper_.all_sent()) free_.insert(free_.end(), freed_.begin(), freed_.end()), freed_.clear();
  if (free_.empty())
    if (auto mapped = map(size_ + std::max(kStep, size_ / 2)); !mapped) return tl::unexpected(mapped.error());
  const std::uint32_t number = free_.back();
  free_.pop_back();
  Kept kept(*this, number, {});  // if anything goes wrong, what was stored is taken back
  for (const auto& [what, fd] : fds)
    if (fd >= 0 && !kept.hold(what, fd)) return fail(EMFILE, "have a descriptor kept");
  StateEntry& entry = entries_[number];
  std::memcpy(&entry.map, body, size);
  RINGBUF_TEST_STORED();
  commit(entry.kind, static_cast<std::uint64_t>(kind));
  return kept;
}

void State::serve() noexcept {
  phase_ = Phase::Serving;
  for (auto& [number, held] : std::exchange(gone_, {})) take_out(number, std::move(held));
}

void State::take_out(std::uint32_t number, std::string held) noexcept {
  if (phase_ == Phase::Abandoned) return;
  if (phase_ == Phase::Starting) return void(gone_.emplace_back(number, std::move(held)));
  commit(entries_[number].kind, static_cast<std::uint64_t>(Kind::Free));
  for (const char what : held) keeper_.remove(name_of(static_cast<Held>(what), number));
  freed_.push_back(number);
}

std::uint32_t State::last_map_id() const { return static_cast<std::uint32_t>(header()->last_map_id); }
void State::set_last_map_id(std::uint32_t id) { commit(header()->last_map_id, id); }

Kept::~Kept() {
  if (state_) state_->take_out(number_, std::move(held_));
}

bool Kept::hold(Held what, int fd) {
  if (!state_ || held_.find(static_cast<char>(what)) != held_.npos) return true;
  held_ += static_cast<char>(what);  // before it is stored: a name too many can be removed
  return state_->keeper_.store(State::name_of(what, number_), fd);
}

UniqueFd Kept::at_its_number(UniqueFd fd) const noexcept {
  if (!state_ || !fd) return fd;
  UniqueFd there(::fcntl(fd.get(), F_DUPFD_CLOEXEC, numbers_from() + static_cast<int>(number_)));
  return there ? std::move(there) : std::move(fd);
}

}  // namespace ringbuf::daemon
