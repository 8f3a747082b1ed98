// SPDX-License-Identifier: MIT
#include "daemon/element_table.hpp"

#include <cstring>

#include "daemon/map.hpp"

#ifndef RINGBUF_TEST_STORED
#define RINGBUF_TEST_STORED()  // for a test that kills the daemon at each store
#endif

namespace ringbuf::daemon {
namespace {

constexpr std::uint64_t kNoexist = 1, kExist = 2;  // BPF_NOEXIST, BPF_EXIST

std::uint32_t index_of(std::string_view key) {
  std::uint32_t index;
  std::memcpy(&index, key.data(), sizeof index);
  return index;
}

std::string key_of(std::uint32_t index) { return {reinterpret_cast<const char*>(&index), sizeof index}; }

}  // namespace

InnerReference::InnerReference(std::shared_ptr<Map> map) : map_(std::move(map)) { ++map_->references; }

InnerReference& InnerReference::operator=(InnerReference&& other) noexcept {
  std::swap(map_, other.map_);
  return *this;
}

InnerReference::~InnerReference() {
  if (map_) --map_->references;
}

Result<std::unique_ptr<ElementTable>> ElementTable::create(const shm::OuterSpec& spec) {
  auto fd = shm::create_outer(spec);
  if (!fd) return tl::unexpected(fd.error());
  auto memory = FileMapping::map(fd->get(), shm::outer_file_size(spec.layout()), Mapping::Access::ReadWrite);
  if (!memory) return tl::unexpected(memory.error());
  return std::unique_ptr<ElementTable>(new ElementTable(std::move(*fd), std::move(*memory), spec.layout()));
}

ElementTable::ElementTable(UniqueFd fd, FileMapping memory, const shm::OuterLayout& layout)
    : fd_(std::move(fd)), memory_(std::move(memory)), words_(memory_.base(), layout) {
  if (layout.hash()) slots_.resize(layout.slots());
  else array_.resize(layout.max_entries);
}

Answer<void> ElementTable::may_update(std::string_view key, std::uint64_t flags) const {
  const std::uint32_t max = layout().max_entries;
  if (!layout().hash()) {
    if (flags != 0) return refuse(EINVAL, fmt::format("flags {:#x} must be 0 (BPF_ANY) for an array of maps", flags));
    if (const std::uint32_t index = index_of(key); index >= max)
      return refuse(E2BIG, fmt::format("index {} is beyond the array; the last one is {}", index, max - 1));
    return {};
  }
  if (flags > kExist)
    return refuse(EINVAL, fmt::format("flags {:#x} is unknown; use 0 (BPF_ANY), 1 (BPF_NOEXIST) or 2 (BPF_EXIST)", flags));
  const bool there = find(key) != nullptr;
  if (there && flags == kNoexist) return refuse(EEXIST, "the key is in use already and flags is BPF_NOEXIST");
  if (!there && flags == kExist) return refuse(ENOENT, "the key is not in use and flags is BPF_EXIST");
  if (!there && in_use_ == max)
    return refuse(E2BIG, fmt::format("all {} elements are in use; delete one, or create the map with more", max));
  return {};
}

void ElementTable::update(std::string_view key, std::shared_ptr<Map> inner, unsigned rights) {
  const std::uint32_t id = inner->id;
  // What was there goes at the end, when everything is in place.
  Element element{InnerReference(std::move(inner)), rights, 0};
  if (!layout().hash()) {
    const std::uint32_t index = index_of(key);
    element.word = new_word(id);
    if (!array_[index].inner.map()) ++in_use_;
    std::swap(array_[index], element);
    set(index, array_[index]);
    return;
  }
  const auto [it, added] = hash_.try_emplace(std::string(key));
  HashElement& place = it->second;
  element.word = new_word(id);
  if (added) {
    place.slot = take_slot(key);
    ++in_use_;
    words_.set_key(place.slot, key.data());
    RINGBUF_TEST_STORED();
  }
  std::swap(place.element, element);
  set(place.slot, place.element);
}

const Element* ElementTable::find(std::string_view key) const {
  if (layout().hash()) {
    const auto it = hash_.find(key);
    return it == hash_.end() ? nullptr : &it->second.element;
  }
  const std::uint32_t index = index_of(key);
  return index < array_.size() && array_[index].inner.map() ? &array_[index] : nullptr;
}

Answer<void> ElementTable::erase(std::string_view key) {
  if (!layout().hash()) {
    const std::uint32_t index = index_of(key);
    if (index >= array_.size())
      return refuse(E2BIG, fmt::format("index {} is beyond the array; the last one is {}", index, array_.size() - 1));
    if (!array_[index].inner.map()) return refuse(ENOENT, fmt::format("there is no map at index {}", index));
    const Element gone = std::exchange(array_[index], {});
    --in_use_;
    words_.set(index, new_word(0));
    RINGBUF_TEST_STORED();
    return {};
  }
  const auto it = hash_.find(key);
  if (it == hash_.end()) return refuse(ENOENT, "there is no map at this key");
  const auto gone = hash_.extract(it);
  --in_use_;
  give_slot(key, gone.mapped().slot);
  return {};
}

std::optional<std::string> ElementTable::next_key(std::optional<std::string_view> key) const {
  if (!layout().hash()) {
    const std::uint32_t index = key ? index_of(*key) : UINT32_MAX;
    if (index >= layout().max_entries) return key_of(0);
    if (index == layout().max_entries - 1) return std::nullopt;
    return key_of(index + 1);
  }
  auto it = key ? hash_.find(*key) : hash_.end();
  if (it == hash_.end()) it = hash_.begin();
  else ++it;
  if (it == hash_.end()) return std::nullopt;
  return it->first;
}

// The first slot of the search that holds nothing: half of them at least do not.
std::uint32_t ElementTable::take_slot(std::string_view key) {
  std::uint32_t slot = home(key);
  for (; slots_[slot].in_use; slot = next(slot)) ++slots_[slot].passed;
  slots_[slot].in_use = true;
  return slot;
}

// Searches must go on behind a slot for as long as an element lies there that had to pass it, and no longer: else the table would
// fill with deleted elements, and the search for a key that is not there would become one of the whole table.
void ElementTable::give_slot(std::string_view key, std::uint32_t slot) {
  slots_[slot].in_use = false;
  words_.set(slot, slots_[slot].passed ? new_word(0) : 0);
  RINGBUF_TEST_STORED();
  for (std::uint32_t i = home(key); i != slot; i = next(i)) {
    if (--slots_[i].passed != 0 || slots_[i].in_use) continue;
    words_.set(i, 0);
    RINGBUF_TEST_STORED();
  }
}

// Kept before it is used: no word may come back, not even after a restart.
std::uint64_t ElementTable::new_word(std::uint32_t id) {
  std::uint32_t next = static_cast<std::uint32_t>(shm::ElementWord::load(last_generation())) + 1;
  if (next == 0) ++next;
  shm::ElementWord::store(last_generation(), next);
  RINGBUF_TEST_STORED();
  return shm::element_word(id, next);
}

// The rights go beside those of the element that is there now, known by its word's generation, so that there is no moment at
// which an element has another's.
void ElementTable::set(std::uint32_t slot, const Element& element) {
  std::uint64_t* cells = rights_cells(slot);
  const std::uint32_t now = shm::element_generation(words_.at(slot));
  const bool first = shm::element_generation(shm::ElementWord::load(&cells[0])) != now;
  shm::ElementWord::store(&cells[first ? 0 : 1], shm::element_word(element.rights, shm::element_generation(element.word)));
  RINGBUF_TEST_STORED();
  words_.set(slot, element.word);
  RINGBUF_TEST_STORED();
}

unsigned ElementTable::rights_of(std::uint32_t slot, std::uint64_t word) const {
  for (const unsigned cell : {0, 1}) {
    const std::uint64_t kept = shm::ElementWord::load(rights_cells(slot) + cell);
    if (shm::element_generation(kept) == shm::element_generation(word)) return shm::element_id(kept);
  }
  return 0;
}

Result<std::unique_ptr<ElementTable>> ElementTable::resume(UniqueFd fd, const shm::OuterSpec& spec, const Find& find) {
  auto memory = FileMapping::map(fd.get(), shm::outer_file_size(spec.layout()), Mapping::Access::ReadWrite);
  if (!memory) return tl::unexpected(memory.error());
  std::unique_ptr<ElementTable> table(new ElementTable(std::move(fd), std::move(*memory), spec.layout()));
  table->resume_elements(find);
  return table;
}

// Once through the slots: with keys that all begin at one of them, following each search would take seconds.
void ElementTable::resume_elements(const Find& find) {
  const std::uint32_t slots = layout().slots();
  std::uint32_t passing = 0;  // searches; those that come round pass the first slot too
  for (std::uint32_t slot = 0; slot < slots; ++slot) {
    const std::uint64_t word = words_.at(slot);
    auto inner = shm::element_id(word) ? find(shm::element_id(word)) : nullptr;
    if (!inner) continue;
    ++in_use_;
    Element element{InnerReference(std::move(inner)), rights_of(slot, word), word};
    if (!layout().hash()) {
      array_[slot] = std::move(element);
      continue;
    }
    const std::string key(static_cast<const char*>(words_.key_at(slot)), layout().key_size);
    const std::uint32_t begin = home(key);
    ++slots_[begin].passed;  // so far, by how many more than the slot before
    --slots_[slot].passed;
    if (begin > slot) ++passing;
    slots_[slot].in_use = true;
    hash_.emplace(key, HashElement{std::move(element), slot});
  }
  for (Slot& slot : slots_) slot.passed = passing += slot.passed;
  // The rest as if it had been deleted in the usual way, also what was half deleted.
  for (std::uint32_t slot = 0; slot < slots; ++slot) {
    const std::uint64_t word = words_.at(slot);
    const bool in_use = layout().hash() ? slots_[slot].in_use : array_[slot].inner.map() != nullptr;
    if (in_use || word == 0) continue;
    const bool passed = !layout().hash() || slots_[slot].passed != 0;
    if (!passed) words_.set(slot, 0);
    else if (shm::element_id(word) != 0) words_.set(slot, new_word(0));
    RINGBUF_TEST_STORED();
  }
}

}  // namespace ringbuf::daemon
