// SPDX-License-Identifier: MIT
// The command line: bpftool's grammar, `ringbufctl [OPTIONS] map COMMAND`.
#pragma once

#include <ringbuf/ringbuf.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "result.hpp"

namespace ringbufctl {

enum class Verb {
  kShow,
  kCreate,
  kOutput,
  kConsume,
  kDrain,
  kDump,
  kSnapshot,
  kUpdate,
  kLookup,
  kDelete,
  kPin,
  kUnpin,
  kVersion,
  kHelp,
  kComplete
};

enum class Format { kText, kHex, kJson, kRaw };

struct Globals {
  std::string socket;  // empty: the library's default
  bool json = false;
  bool pretty = false;
};

// MAP := { id N | name S | pinned PATH | PATH }
struct MapName {
  enum class Kind { kId, kName, kPinned } kind = Kind::kId;
  uint32_t id = 0;
  std::string text;  // the name or the path
};

struct CreateOptions {
  uint32_t type = RINGBUF_MAP_TYPE_RINGBUF;
  uint32_t max_entries = 0;  // --size, --entries
  uint32_t key_size = 0;
  std::string inner_words;
  std::optional<MapName> inner;  // of a map of maps always there
  std::string name;
  uint32_t mode = 0;
  bool overwrite = false;
  bool single_producer = false;
  std::optional<uint32_t> numa_node;
};

struct OutputOptions {
  bool nul = false;
  bool whole = false;
  bool no_wait = false;
};

struct ConsumeOptions {  // consume, drain
  bool follow = false;
  std::optional<uint64_t> count;
};

// KEY := { [hex] BYTE... | NUMBER | text WORD }: which of the first two it is depends on the map's key_size.
struct KeyWords {
  std::vector<uint64_t> numbers;
  std::optional<std::string> text;
};

struct ElementOptions {  // update, lookup, delete
  KeyWords key;
  std::optional<MapName> value;  // update
  uint64_t flags = RINGBUF_ANY;  // update
};

// What the person asked for; only the fields of `verb` mean something.
struct Invocation {
  Verb verb = Verb::kHelp;
  std::optional<MapName> map;
  std::string path;  // create, pin, unpin
  CreateOptions create;
  OutputOptions output;
  ConsumeOptions consume;
  ElementOptions element;
  std::optional<Format> format;    // of the commands that print records
  std::string help;                // help: the text
  std::vector<std::string> words;  // complete: the words typed so far
};

// `globals` is filled in as far as possible even on failure, so that the error can be shown as it was asked for.
Result<Invocation> parse_command_line(std::span<char*> args, Globals& globals);

// The options and the commands that may stand after `words`, for shell completion.
std::vector<std::string> known_words(const std::vector<std::string>& words);

}  // namespace ringbufctl
