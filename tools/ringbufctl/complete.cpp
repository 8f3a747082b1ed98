// SPDX-License-Identifier: MIT
// `ringbufctl __complete WORD...`: what may come next, one a line. The shell completion asks nothing but this, so that it
// cannot drift from the program.
#include <algorithm>

#include "client.hpp"
#include "commands.hpp"
#include "map_type.hpp"
#include "writer.hpp"

namespace ringbufctl {
namespace {

enum class Wanted { kIds, kNames, kPins };

// Ids, names or pins of all maps. A daemon that is not there has none.
std::vector<std::string> from_daemon(const Globals& globals, Wanted wanted) {
  std::vector<std::string> found;
  const Result<Session> session = connect(globals);
  if (!session) return found;
  for (uint32_t id = 0; ringbuf_map_next_id(session->get(), id, &id) == 0;) {
    if (wanted == Wanted::kIds) {
      found.push_back(std::to_string(id));
      continue;
    }
    const Result<Map> map = open_map(*session, {MapName::Kind::kId, id, ""}, 0);
    if (!map) continue;
    char path[RINGBUF_PATH_LEN];
    if (wanted == Wanted::kPins) {
      for (uint32_t i = 0; ringbuf_map_get_pin(map->get(), i, path, sizeof(path)) >= 0; i++) found.emplace_back(path);
    } else if (const Result<ringbuf_map_info> info = map_info(*map); info && info->name[0]) {
      found.emplace_back(info->name);
    }
  }
  return found;
}

}  // namespace

Result<void> run_complete(const Invocation& invocation) {
  const std::vector<std::string>& words = invocation.words;
  Globals globals;
  std::vector<std::string> before;  // the words without --socket and its value
  for (size_t i = 0; i < words.size(); i++) {
    if (words[i] == "--socket") {
      if (++i < words.size()) globals.socket = words[i];
    } else {
      before.push_back(words[i]);
    }
  }
  const std::string last = before.empty() ? "" : before.back();
  std::vector<std::string> candidates;
  if (last == "id") {
    candidates = from_daemon(globals, Wanted::kIds);
  } else if (last == "name") {
    candidates = from_daemon(globals, Wanted::kNames);
  } else if (last == "pinned" || last == "unpin") {
    candidates = from_daemon(globals, Wanted::kPins);
  } else if (last == "--format") {
    candidates = {"text", "hex", "json", "raw"};
  } else if (last == "--inner" || last == "value") {
    candidates = {"id", "name", "pinned"};
  } else if (last == "key") {
    candidates = {"hex", "text"};
  } else if (last == "--type") {
    candidates = type_names();
  } else {
    candidates = known_words(before);
  }
  std::string text;
  for (const std::string& candidate : candidates) text += candidate + "\n";
  return print(text);
}

}  // namespace ringbufctl
