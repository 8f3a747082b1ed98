// SPDX-License-Identifier: MIT
#include "cli.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <functional>
#include <map>
#include <memory>
#include <string_view>
#include <utility>

#include "map_type.hpp"

namespace ringbufctl {
namespace {

using Words = std::vector<std::string>;

struct VerbInfo {
  const char* name;
  Verb verb;
  const char* synopsis;
  const char* description;
  const char* details = "";  // for the verb's own help
};

constexpr VerbInfo kVerbs[] = {
    {"show", Verb::kShow, "[MAP]", "Show a map, or all maps that you may open.",
     "pids     who uses the map\n"
     "lost     reservations that failed, by reason\n"
     "orphans  what producers had reserved and not committed when they died, and was discarded\n"
     "head     whose uncommitted record holds delivery up, where, and for how many ms at least\n"
     "owner    who is inside reserve at this instant\n"
     "Lines with nothing to say are left out; in JSON head and owner are null then."},
    {"list", Verb::kShow, "[MAP]", "The same as show."},
    {"create", Verb::kCreate,
     "PATH [--type TYPE] { --size SIZE | --entries N --inner MAP [--key-size BYTES] } [--overwrite] [--name NAME]\n"
     "         [--mode MODE] [--single-producer] [--numa-node NODE]",
     "Create a map and pin it at PATH in the daemon's own namespace.",
     "ringbuf        many producers, one consumer, as bpf_ringbuf_output and ring_buffer__consume\n"
     "user_ringbuf   one producer, and records are drained, as user_ring_buffer__reserve and bpf_user_ringbuf_drain\n"
     "array_of_maps  up to --entries rings, found by number; all are like --inner, only their size may differ\n"
     "hash_of_maps   the same, found by keys of --key-size bytes\n"
     "With --overwrite a ringbuf is a flight recorder: producers never wait for a consumer, the oldest records make room,\n"
     "and 'map snapshot' shows what is left. A map of maps is empty at first, its --inner is only the model: put rings in\n"
     "with 'map update'.\n\n"
     "  ringbufctl map create /events --size 1M\n"
     "  ringbufctl map create /pool --type array_of_maps --entries 4 --inner /events\n"
     "  ringbufctl map create /by_name --type hash_of_maps --key-size 16 --entries 100 --inner name events\n"},
    {"output", Verb::kOutput, "MAP [--nul] [--whole] [--no-wait]",
     "Send standard input to a map, one record a line; wait for room in the ring."},
    {"consume", Verb::kConsume, "MAP [--follow] [--count N] [--format FORMAT]",
     "Take the records out of a ringbuf and write them to standard output, until the ring is empty.",
     "Of a map created with --overwrite, what was overwritten in the meantime is counted as missed; if there is any, the\n"
     "end says so on standard error, or with --json as a last object {\"missed\":{\"records\":N,\"bytes\":N}}.\n"
     "A user_ringbuf is not consumed but drained.\n"},
    {"drain", Verb::kDrain, "MAP [--follow] [--count N] [--format FORMAT]",
     "Take the records out of a user_ringbuf and write them to standard output, until the ring is empty."},
    {"dump", Verb::kDump, "MAP [--format FORMAT]",
     "Show the records that are in a map now, without consuming them; of a map of maps, keys and the ids of the maps there."},
    {"snapshot", Verb::kSnapshot, "MAP [--format FORMAT]",
     "Show the records that a map held at one moment, without gaps, and without consuming them.",
     "Where dump reads record by record and skips what was overwritten meanwhile, a snapshot is contiguous. Of a map created\n"
     "with --overwrite it has all that is left in the ring, consumed or not: what happened last.\n"},
    {"update", Verb::kUpdate, "MAP key KEY value MAP [any | exist | noexist]",
     "Put a ring into a map of maps: who looks KEY up from now on finds it.",
     "exist      only if a ring is there already; noexist: only if none is; any: in both cases, the default\n\n"
     "  ringbufctl map update /pool key 2 value /events\n"
     "  ringbufctl map update /by_name key text web value id 7 noexist\n"
     "  ringbufctl map update /pool key hex 02 00 00 00 value name events\n"},
    {"lookup", Verb::kLookup, "MAP key KEY", "Show the id of the ring that a map of maps holds at KEY."},
    {"delete", Verb::kDelete, "MAP key KEY", "Take the ring at KEY out of a map of maps."},
    {"pin", Verb::kPin, "MAP PATH", "Give a map a path: it then lives without users."},
    {"unpin", Verb::kUnpin, "PATH", "Remove a path; a map that nothing else refers to is freed."},
    {"help", Verb::kHelp, "", "Show the commands."},
};

const Words kMapKinds = {"id", "name", "pinned"};
constexpr const char* kMapGrammar = "MAP    := { id N | name NAME | pinned PATH | PATH }\n";
constexpr const char* kKeyGrammar = "KEY    := { [hex] BYTE... | NUMBER | text WORD }\n";
constexpr const char* kKeyHelp =
    "BYTE...    all bytes of the key, as in bpftool: each decimal, 0x.. or 0.. as in C; after 'hex' without 0x\n"
    "NUMBER     the key of an array, or of a hash with keys of 1, 2, 4 or 8 bytes\n"
    "text WORD  the key of a hash, with zeros behind it\n";

// Help with a usage line of our own: CLI11 knows nothing of MAP, which is two words.
class Formatter : public CLI::Formatter {
 public:
  explicit Formatter(std::string usage) : usage_(std::move(usage)) {}
  std::string make_usage(const CLI::App*, std::string) const override { return "Usage: ringbufctl " + usage_ + "\n"; }

 private:
  std::string usage_;
};

void add_globals(CLI::App& app, Globals& globals, bool& version) {
  app.add_option("--socket", globals.socket, "The daemon's socket; default $RINGBUFD_SOCKET, else ringbufd's default")
      ->type_name("PATH")
      ->group("General options");
  app.add_flag("-j,--json", globals.json, "Print JSON")->group("General options");
  app.add_flag("-p,--pretty", globals.pretty, "Print JSON to be read by people")->group("General options");
  app.add_flag("-V,--version", version, "Show the version")->group("General options");
  app.set_help_flag("-h,--help", "Show this help")->group("General options");
}

std::string joined(const Words& words, const char* separator) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : separator) + word;
  return text;
}

std::string overview() {
  std::string text = "Usage: ringbufctl [OPTIONS] map COMMAND\n       ringbufctl version | help\n\nCOMMAND:\n";
  for (const VerbInfo& verb : kVerbs) {
    text += std::string("  ") + verb.name + (*verb.synopsis ? " " : "") + verb.synopsis + "\n        " + verb.description + "\n";
  }
  return text + "\n" + kMapGrammar + kKeyGrammar + "TYPE   := { " + joined(type_names(), " | ") +
         " }\n"
         "FORMAT := { text | hex | json | raw }\n"
         "SIZE   := bytes, or with K, M or G\n"
         "\n"
         "Commands may be shortened. 'ringbufctl map COMMAND --help' tells more.\n"
         "OPTIONS: --socket PATH, -j|--json, -p|--pretty, -V|--version, -h|--help\n"
         "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 daemon not reachable.\n";
}

bool takes_map(const VerbInfo& info) {
  const std::string_view synopsis = info.synopsis;
  return synopsis.starts_with("MAP") || synopsis.starts_with("[MAP]");
}

bool takes_element(const VerbInfo& info) { return std::string_view(info.synopsis).starts_with("MAP key"); }

tl::unexpected<Failure> usage_error(const std::string& sentence, const std::string& command = "") {
  const std::string help = command.empty() ? "ringbufctl help" : "ringbufctl map " + command + " --help";
  return fail(kUsage, EINVAL, sentence + "; see '" + help + "'");
}

// A word may be shortened to any prefix that only one choice has; an exact match always wins.
// `hint` ends the sentence about an unknown word.
Result<std::string> expand(const std::string& word, const Words& choices, const std::string& what, const std::string& hint = "") {
  Words matches;
  for (const std::string& choice : choices) {
    if (choice == word) return choice;
    if (choice.starts_with(word)) matches.push_back(choice);
  }
  if (matches.size() == 1) return matches[0];
  if (matches.empty()) return usage_error("unknown " + what + " '" + word + "': use one of " + joined(choices, ", ") + hint);
  return usage_error(what + " '" + word + "' is ambiguous: it may mean " + joined(matches, ", "));
}

// The first word of a MAP that is two words.
bool is_map_kind(const std::string& word) {
  return !word.empty() && std::any_of(kMapKinds.begin(), kMapKinds.end(), [&](auto& kind) { return kind.starts_with(word); });
}

// Takes the MAP in front of `words` away.
Result<MapName> take_map(Words& words, const std::string& command) {
  if (words.empty()) return usage_error("no map given: use 'id N', 'name NAME' or 'pinned PATH'", command);
  MapName map;
  if (words[0].starts_with('/')) {
    map.kind = MapName::Kind::kPinned;
    map.text = words[0];
    words.erase(words.begin());
    return map;
  }
  Result<std::string> kind = expand(words[0], kMapKinds, "kind of map name", ", as in 'name " + words[0] + "'");
  if (!kind) return tl::unexpected(kind.error());
  if (words.size() < 2) return usage_error("'" + *kind + "' needs a value after it", command);
  map.text = words[1];
  if (*kind == "id") {
    const char* end = map.text.data() + map.text.size();
    const auto [stop, error] = std::from_chars(map.text.data(), end, map.id);
    if (error != std::errc() || stop != end) return usage_error("'" + map.text + "' is not a map id", command);
  } else {
    map.kind = *kind == "name" ? MapName::Kind::kName : MapName::Kind::kPinned;
  }
  words.erase(words.begin(), words.begin() + 2);
  return map;
}

// A number as strtoul reads it with base 0, or with 16 after `hex`.
std::optional<uint64_t> key_number(std::string_view word, bool hex) {
  int base = hex ? 16 : 10;
  if (word.starts_with("0x") || word.starts_with("0X")) {
    base = 16;
    word.remove_prefix(2);
  } else if (!hex && word.size() > 1 && word[0] == '0') {
    base = 8;
  }
  uint64_t number = 0;
  const char* end = word.data() + word.size();
  const auto [stop, error] = std::from_chars(word.data(), end, number, base);
  return error == std::errc() && stop == end ? std::optional(number) : std::nullopt;
}

bool begins_a_number(const std::string& word) { return !word.empty() && std::isdigit(static_cast<unsigned char>(word[0])); }

// Takes the KEY in front of `words` away.
Result<KeyWords> take_key(Words& words, const std::string& command) {
  KeyWords key;
  bool hex = false;
  if (!words.empty() && !begins_a_number(words[0])) {
    const Result<std::string> kind = expand(words[0], {"hex", "text"}, "kind of key", ", or a number");
    if (!kind) return tl::unexpected(kind.error());
    words.erase(words.begin());
    hex = *kind == "hex";
    if (!hex) {
      if (words.empty()) return usage_error("'text' needs a word after it", command);
      key.text = words[0];
      words.erase(words.begin());
      return key;
    }
  }
  while (!words.empty()) {
    const std::optional<uint64_t> number = key_number(words[0], hex);
    if (!number && begins_a_number(words[0])) return usage_error("'" + words[0] + "' is not a number", command);
    if (!number) break;
    key.numbers.push_back(*number);
    words.erase(words.begin());
  }
  if (key.numbers.empty()) return usage_error("no key given: use 'key NUMBER', 'key BYTE...' or 'key text WORD'", command);
  return key;
}

// What stands behind the MAP of update, lookup and delete; in any order, as in bpftool.
Result<ElementOptions> take_element(Words& words, Verb verb, const std::string& command) {
  ElementOptions element;
  Words choices{"key"};
  if (verb == Verb::kUpdate) choices.insert(choices.end(), {"value", "any", "exist", "noexist"});
  bool has_key = false, has_flags = false;
  while (!words.empty()) {
    const Result<std::string> word = expand(words[0], choices, "word");
    if (!word) return tl::unexpected(word.error());
    words.erase(words.begin());
    bool twice = false;
    if (*word == "key") {
      Result<KeyWords> key = take_key(words, command);
      if (!key) return tl::unexpected(key.error());
      twice = std::exchange(has_key, true);
      element.key = std::move(*key);
    } else if (*word == "value") {
      Result<MapName> map = take_map(words, command);
      if (!map) return tl::unexpected(map.error());
      twice = element.value.has_value();
      element.value = std::move(*map);
    } else {
      twice = std::exchange(has_flags, true);
      element.flags = *word == "any" ? RINGBUF_ANY : *word == "exist" ? RINGBUF_EXIST : RINGBUF_NOEXIST;
    }
    if (twice) return usage_error("'" + *word + "' is one too many", command);
  }
  if (!has_key) return usage_error("no key given: use 'key NUMBER', 'key BYTE...' or 'key text WORD'", command);
  if (verb == Verb::kUpdate && !element.value)
    return usage_error("no value given: use 'value MAP', the ring to put there", command);
  return element;
}

Result<std::string> take_path(Words& words, const std::string& command) {
  if (words.empty()) return usage_error("no path given: use one such as /events", command);
  std::string path = words[0];
  words.erase(words.begin());
  return path;
}

// Parsers of option values: they store the value and return "", or they return what is wrong with it, as CLI11 wants it.
template <class T>
std::string parse_number(const std::string& text, int base, T& value) {
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value, base);
  return error == std::errc() && stop == end ? "" : "'" + text + "' is not a number, or is too large";
}

std::string parse_size(const std::string& text, uint32_t& size) {
  const std::string complaint = "'" + text + "' is not a size: give bytes below 4G, such as 65536, 64K or 1M";
  constexpr std::string_view kUnits = "KMG";
  const size_t unit = text.empty() ? kUnits.npos : kUnits.find(static_cast<char>(std::toupper(text.back())));
  const size_t shift = unit == kUnits.npos ? 0 : 10 * (unit + 1);
  uint32_t number = 0;
  if (!parse_number(text.substr(0, text.size() - (shift ? 1 : 0)), 10, number).empty()) return complaint;
  if (uint64_t{number} << shift > UINT32_MAX) return complaint;
  size = number << shift;
  return "";
}

std::string parse_mode(const std::string& text, uint32_t& mode) {
  if (parse_number(text, 8, mode).empty() && (mode & ~0666u) == 0 && mode != 0) return "";
  return "'" + text + "' is not an octal mode of r and w bits, such as 0660";
}

std::string parse_type(const std::string& text, uint32_t& type) {
  const std::optional<uint32_t> known = type_of(text);
  if (!known) return "'" + text + "' is not a map type: use one of " + joined(type_names(), ", ");
  type = *known;
  return "";
}

std::string parse_format(const std::string& text, std::optional<Format>& format) {
  static const std::map<std::string, Format> kFormats = {
      {"text", Format::kText}, {"hex", Format::kHex}, {"json", Format::kJson}, {"raw", Format::kRaw}};
  const auto found = kFormats.find(text);
  if (found == kFormats.end()) return "'" + text + "' is not a format: use text, hex, json or raw";
  format = found->second;
  return "";
}

CLI::Option* add_parsed(CLI::App& app, const char* name, const char* type, const char* description,
                        std::function<std::string(const std::string&)> parse) {
  const auto check = [parse = std::move(parse)](std::string& text) { return parse(text); };
  return app
      .add_option_function<std::string>(
          name, [](const std::string&) {}, description)
      ->type_name(type)
      ->check(CLI::Validator(check, ""));
}

void add_options(CLI::App& app, Invocation& invocation) {
  switch (invocation.verb) {
    case Verb::kCreate: {
      CreateOptions& create = invocation.create;
      add_parsed(app, "--size", "SIZE", "Bytes of data: a power of two, at least a page; K, M, G are understood",
                 [&](auto& text) { return parse_size(text, create.max_entries); });
      add_parsed(app, "--type", "TYPE", "What kind of map, see below; default: ringbuf",
                 [&](auto& text) { return parse_type(text, create.type); });
      add_parsed(app, "--entries", "N", "How many rings a map of maps can hold",
                 [&](auto& text) { return parse_number(text, 10, create.max_entries); });
      app.add_option("--inner", create.inner_words, "A ring like those that a map of maps will hold")->type_name("MAP");
      add_parsed(app, "--key-size", "BYTES", "Of a hash_of_maps: 4 for numbers, or as much as the longest name",
                 [&](auto& text) { return parse_number(text, 10, create.key_size); });
      app.add_flag("--overwrite", create.overwrite, "A full ring gives up its oldest records for new ones");
      app.add_option("--name", create.name, "At most 15 of [A-Za-z0-9_.]; default: the last part of PATH")->type_name("NAME");
      add_parsed(app, "--mode", "MODE", "Who may open it, in octal: r observes, w produces, rw consumes too; default 0600",
                 [&](auto& text) { return parse_mode(text, create.mode); });
      app.add_flag("--single-producer", create.single_producer, "Admit one producer only, which is then faster");
      add_parsed(app, "--numa-node", "NODE", "Take the memory from this node",
                 [&](auto& text) { return parse_number(text, 10, create.numa_node.emplace()); });
      break;
    }
    case Verb::kOutput:
      app.add_flag("--nul", invocation.output.nul, "Records end with a NUL byte, not with a newline");
      app.add_flag("--whole", invocation.output.whole, "All of standard input is one record")->excludes("--nul");
      app.add_flag("--no-wait", invocation.output.no_wait, "Drop what finds no room in the ring");
      break;
    case Verb::kConsume:
    case Verb::kDrain:
      app.add_flag("--follow", invocation.consume.follow, "Wait for more until SIGINT or SIGTERM");
      add_parsed(app, "--count", "N", "Take exactly N records; wait for them",
                 [&](auto& text) { return parse_number(text, 10, invocation.consume.count.emplace()); });
      [[fallthrough]];
    case Verb::kDump:
    case Verb::kSnapshot:
      add_parsed(app, "--format", "text|hex|json|raw",
                 "text: one line a record; hex: bytes in hex; json: one object a line; raw: nothing but the bytes",
                 [&](auto& text) { return parse_format(text, invocation.format); });
      break;
    default: break;
  }
}

// Which options of `create` go with which type, and what CLI11 could not read.
Result<void> finish_create(const CLI::App& app, CreateOptions& create) {
  const bool outer = is_map_of_maps(create.type), hash = create.type == RINGBUF_MAP_TYPE_HASH_OF_MAPS;
  struct Rule {
    const char* option;
    bool fits;
    const char* instead;
    bool required = false;
  };
  const Rule rules[] = {
      {"--size", !outer, "give the number of --entries", !outer},
      {"--entries", outer, "give the --size of its data", outer},
      {"--inner", outer, "only a map of maps has it", outer},
      {"--key-size", hash || (outer && create.key_size == 4), outer ? "its keys have 4 bytes" : "a ring has no keys", hash},
      {"--overwrite", create.type == RINGBUF_MAP_TYPE_RINGBUF, outer ? "create its rings with it" : "only a ringbuf has it"},
      {"--single-producer", !outer, "create its rings with it"},
  };
  for (const Rule& rule : rules) {
    if (rule.fits || app.count(rule.option) == 0) continue;
    return usage_error(std::string(rule.option) + " does not go with --type " + type_name(create.type) + ": " + rule.instead,
                       "create");
  }
  for (const Rule& rule : rules) {
    if (rule.required && app.count(rule.option) == 0) {
      return usage_error(std::string(rule.option) + " is required", "create");
    }
  }
  if (!outer) return {};
  if (!hash) create.key_size = sizeof(uint32_t);
  const size_t space = create.inner_words.find(' ');
  Words words{create.inner_words.substr(0, space)};
  if (space != std::string::npos) words.push_back(create.inner_words.substr(space + 1));
  Result<MapName> inner = take_map(words, "create");
  if (!inner) return tl::unexpected(inner.error());
  create.inner = std::move(*inner);
  return {};
}

// CLI11's failure as our sentence.
tl::unexpected<Failure> cli_error(const CLI::ParseError& error, const std::string& command = "") {
  std::string sentence = error.what();
  std::replace(sentence.begin(), sentence.end(), '\n', ' ');
  return usage_error(sentence, command);
}

std::unique_ptr<CLI::App> verb_app(const VerbInfo& info, Invocation& invocation, Words& words, Globals& globals, bool& version) {
  auto app = std::make_unique<CLI::App>(info.description, "ringbufctl");
  app->formatter(std::make_shared<Formatter>(std::string("[OPTIONS] map ") + info.name + " " + info.synopsis));
  app->set_help_flag();  // the general options come last
  invocation.verb = info.verb;
  add_options(*app, invocation);
  app->add_option("words", words)->group("");
  add_globals(*app, globals, version);
  std::string footer = info.details;
  if (takes_element(info)) footer = std::string(kKeyGrammar) + kKeyHelp + footer;
  if (!footer.empty() && takes_map(info)) footer += "\n";
  app->footer(takes_map(info) ? footer + kMapGrammar : footer);
  return app;
}

// Options up to the next word, which is taken from the front of `words`; empty when there is none.
Result<std::string> next_word(Words& words, Globals& globals, bool& version) {
  CLI::App app;
  add_globals(app, globals, version);
  app.prefix_command();
  try {
    app.parse(Words(words.rbegin(), words.rend()));
  } catch (const CLI::CallForHelp&) {
    return std::string("help");
  } catch (const CLI::ParseError& error) {
    return cli_error(error);
  }
  words = app.remaining();
  if (words.empty() || version) return std::string();
  std::string word = words[0];
  words.erase(words.begin());
  if (word.starts_with('-')) return usage_error("unknown option '" + word + "'");
  return word;
}

Words verb_names() {
  Words names;
  for (const VerbInfo& verb : kVerbs) names.emplace_back(verb.name);
  return names;
}

const VerbInfo& verb_info(const std::string& name) {
  return *std::find_if(std::begin(kVerbs), std::end(kVerbs), [&](const VerbInfo& info) { return info.name == name; });
}

Result<Invocation> version_invocation() {
  Invocation invocation;
  invocation.verb = Verb::kVersion;
  return invocation;
}

Result<Invocation> help_invocation(std::string text = overview()) {
  Invocation invocation;
  invocation.help = std::move(text);
  return invocation;
}

// CLI11 reads `--option= word` as `--option word`: an empty value becomes a word of its own.
// The MAP of --inner becomes one word: behind an option CLI11 takes a fixed number of them.
Words normal(const Words& words) {
  Words split;
  for (const std::string& word : words) {
    if (split.size() >= 2 && split[split.size() - 2] == "--inner" && is_map_kind(split.back()) && !word.starts_with('-')) {
      split.back() += " " + word;
      continue;
    }
    const bool empty = word.starts_with("--") && word.find('=') == word.size() - 1;
    split.push_back(empty ? word.substr(0, word.size() - 1) : word);
    if (empty) split.emplace_back();
  }
  return split;
}

// Everything after `map COMMAND`.
Result<Invocation> parse_verb(const VerbInfo& info, const Words& rest, Globals& globals) {
  Invocation invocation;
  Words words;
  bool version = false;
  auto app = verb_app(info, invocation, words, globals, version);
  try {
    app->parse(Words(rest.rbegin(), rest.rend()));
  } catch (const CLI::CallForHelp&) {
    return help_invocation(info.verb == Verb::kHelp ? overview() : app->help());
  } catch (const CLI::ParseError& error) {
    return cli_error(error, info.name);
  }
  if (version) return version_invocation();
  if (info.verb == Verb::kHelp) return help_invocation();

  if (info.verb == Verb::kCreate) {
    if (const Result<void> fits = finish_create(*app, invocation.create); !fits) return tl::unexpected(fits.error());
  }
  if (takes_map(info) && (info.verb != Verb::kShow || !words.empty())) {
    Result<MapName> map = take_map(words, info.name);
    if (!map) return tl::unexpected(map.error());
    invocation.map = *map;
  }
  if (takes_element(info)) {
    Result<ElementOptions> element = take_element(words, info.verb, info.name);
    if (!element) return tl::unexpected(element.error());
    invocation.element = std::move(*element);
  }
  if (info.verb == Verb::kCreate || info.verb == Verb::kPin || info.verb == Verb::kUnpin) {
    // As bpftool, `unpin pinned PATH` is understood too.
    if (info.verb == Verb::kUnpin && words.size() == 2 && words[0] == "pinned") words.erase(words.begin());
    Result<std::string> path = take_path(words, info.name);
    if (!path) return tl::unexpected(path.error());
    invocation.path = *path;
  }
  if (!words.empty()) return usage_error("'" + words[0] + "' is one word too many", info.name);
  return invocation;
}

}  // namespace

Result<Invocation> parse_command_line(std::span<char*> args, Globals& globals) {
  Words words = normal({args.begin() + 1, args.end()});
  if (!words.empty() && words[0] == "__complete") {
    Invocation invocation;
    invocation.verb = Verb::kComplete;
    invocation.words.assign(words.begin() + 1, words.end());
    return invocation;
  }
  // Found before anything is parsed, so that parse errors come in the form asked for as well.
  const bool pretty = std::any_of(words.begin(), words.end(), [](auto& word) { return word == "-p" || word == "--pretty"; });
  globals.json = pretty || std::any_of(words.begin(), words.end(), [](auto& word) { return word == "-j" || word == "--json"; });
  globals.pretty = pretty;

  bool version = false;
  Result<std::string> object = next_word(words, globals, version);
  if (!object) return tl::unexpected(object.error());
  if (version) return version_invocation();
  if (object->empty()) return usage_error("no command given: use 'ringbufctl map COMMAND'");
  object = expand(*object, {"map", "version", "help"}, "object");
  if (!object) return tl::unexpected(object.error());
  if (*object == "help") return help_invocation();
  if (*object == "version") return version_invocation();

  Result<std::string> verb = next_word(words, globals, version);
  if (!verb) return tl::unexpected(verb.error());
  if (version) return version_invocation();
  if (verb->empty()) verb = "show";  // as bpftool
  verb = expand(*verb, verb_names(), "command");
  if (!verb) return tl::unexpected(verb.error());
  Result<Invocation> invocation = parse_verb(verb_info(*verb), words, globals);
  globals.json = globals.json || globals.pretty;
  return invocation;
}

std::vector<std::string> known_words(const std::vector<std::string>& words) {
  Globals globals;
  Invocation invocation;
  Words positionals;
  bool version = false;
  Words plain;  // the words that are not options
  std::copy_if(words.begin(), words.end(), std::back_inserter(plain), [](const std::string& w) { return !w.starts_with('-'); });

  Words known;
  const Words verbs = verb_names();
  const bool in_verb = plain.size() >= 2 && plain[0] == "map" && std::find(verbs.begin(), verbs.end(), plain[1]) != verbs.end();
  CLI::App general;
  add_globals(general, globals, version);
  const auto app = in_verb ? verb_app(verb_info(plain[1]), invocation, positionals, globals, version) : nullptr;
  for (const CLI::Option* option : (app ? *app : general).get_options()) {
    for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
  }
  if (plain.empty()) {
    known.insert(known.end(), {"map", "version", "help"});
  } else if (plain.size() == 1 && plain[0] == "map") {
    known.insert(known.end(), verbs.begin(), verbs.end());
  } else if (in_verb && plain.size() == 2 && takes_map(verb_info(plain[1]))) {
    known.insert(known.end(), kMapKinds.begin(), kMapKinds.end());
  } else if (in_verb && takes_element(verb_info(plain[1]))) {
    known.push_back("key");
    if (verb_info(plain[1]).verb == Verb::kUpdate) known.insert(known.end(), {"value", "any", "exist", "noexist"});
  }
  return known;
}

}  // namespace ringbufctl
