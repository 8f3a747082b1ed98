// SPDX-License-Identifier: MIT
// What a map of maps holds: by key, a reference to an inner map and the rights with which it was put in. The shared table, which
// only the daemon can write, is enough to build the rest again: behind what clients read of it lie the rights. One thread.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/mapping.hpp"
#include "base/unique_fd.hpp"
#include "daemon/refusal.hpp"
#include "shm/create.hpp"

namespace ringbuf::daemon {

class Map;

// Keeps a map alive, and is counted there.
class InnerReference {
 public:
  InnerReference() = default;
  explicit InnerReference(std::shared_ptr<Map> map);
  InnerReference(InnerReference&&) noexcept = default;
  InnerReference& operator=(InnerReference&& other) noexcept;
  ~InnerReference();
  const std::shared_ptr<Map>& map() const { return map_; }

 private:
  std::shared_ptr<Map> map_;
};

struct Element {
  InnerReference inner;
  unsigned rights = 0;     // of the token that was put in
  std::uint64_t word = 0;  // as in the table
};

class ElementTable {
 public:
  // Errors as create_outer.
  static Result<std::unique_ptr<ElementTable>> create(const shm::OuterSpec& spec);
  // The table of another daemon. Elements whose map `find` does not find are deleted. EINVAL: the file is none.
  using Find = std::function<std::shared_ptr<Map>(std::uint32_t id)>;
  static Result<std::unique_ptr<ElementTable>> resume(UniqueFd fd, const shm::OuterSpec& spec, const Find& find);

  // The kernel's errno, in its words: a flag that is not for this type, a key beyond the array, a hash that is full, ... `key`
  // has key_size bytes everywhere.
  Answer<void> may_update(std::string_view key, std::uint64_t flags) const;
  // After may_update. May throw bad_alloc; then nothing has changed.
  void update(std::string_view key, std::shared_ptr<Map> inner, unsigned rights);
  const Element* find(std::string_view key) const;  // null: nothing is there
  Answer<void> erase(std::string_view key);
  // Empty: that was the last one. No key, or one that is not there: the first.
  std::optional<std::string> next_key(std::optional<std::string_view> key) const;

  const shm::OuterLayout& layout() const { return words_.layout(); }
  // What a table costs when it is full: its file, and what the daemon keeps beside it.
  static std::uint64_t memory_size(const shm::OuterLayout& layout) {
    constexpr std::uint64_t kNode = 5 * sizeof(void*);  // of a tree's node, and its key's allocation
    const std::uint64_t kept =
        layout.hash() ? layout.slots() * sizeof(Slot) + std::uint64_t{layout.max_entries} *
                                                            (sizeof(HashElement) + sizeof(std::string) + kNode + layout.key_size)
                      : std::uint64_t{layout.max_entries} * sizeof(Element);
    return shm::outer_file_size(layout) + kept;
  }
  std::uint32_t in_use() const { return in_use_; }
  int fd() const { return fd_.get(); }

 private:
  struct Slot {
    bool in_use = false;
    std::uint32_t passed = 0;  // by the searches for how many elements
  };
  struct HashElement {
    Element element;
    std::uint32_t slot;
  };

  ElementTable(UniqueFd fd, FileMapping memory, const shm::OuterLayout& layout);
  std::uint32_t home(std::string_view key) const { return layout().home(shm::key_hash(key.data(), layout().key_size)); }
  std::uint32_t next(std::uint32_t slot) const { return (slot + 1) & (layout().slots() - 1); }
  std::uint32_t take_slot(std::string_view key);
  void give_slot(std::string_view key, std::uint32_t slot);
  std::uint64_t new_word(std::uint32_t id);
  void resume_elements(const Find& find);
  void set(std::uint32_t slot, const Element& element);
  // Of the element that has this word, as set() has kept them.
  unsigned rights_of(std::uint32_t slot, std::uint64_t word) const;
  std::uint64_t* last_generation() const { return shm::trailer_of(memory_.base(), layout()); }
  std::uint64_t* rights_cells(std::uint32_t slot) const { return last_generation() + 1 + 2 * std::size_t{slot}; }

  UniqueFd fd_;
  FileMapping memory_;  // nobody else can write it
  shm::Elements words_;
  std::uint32_t in_use_ = 0;
  std::vector<Element> array_;                            // arrays: by index
  std::map<std::string, HashElement, std::less<>> hash_;  // hashes; a tree: whoever chooses the keys cannot make it slow
  std::vector<Slot> slots_;                               // hashes: the table's
};

}  // namespace ringbuf::daemon
