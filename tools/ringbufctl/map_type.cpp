// SPDX-License-Identifier: MIT
#include "map_type.hpp"

#include <cerrno>

namespace ringbufctl {
namespace {

struct TypeName {
  uint32_t type;
  const char* name;
};

constexpr TypeName kTypes[] = {
    {RINGBUF_MAP_TYPE_RINGBUF, "ringbuf"},
    {RINGBUF_MAP_TYPE_USER_RINGBUF, "user_ringbuf"},
    {RINGBUF_MAP_TYPE_ARRAY_OF_MAPS, "array_of_maps"},
    {RINGBUF_MAP_TYPE_HASH_OF_MAPS, "hash_of_maps"},
};

}  // namespace

std::string type_name(uint32_t type) {
  for (const TypeName& known : kTypes) {
    if (known.type == type) return known.name;
  }
  return "type " + std::to_string(type);
}

std::optional<uint32_t> type_of(const std::string& name) {
  for (const TypeName& known : kTypes) {
    if (known.name == name) return known.type;
  }
  return std::nullopt;
}

std::vector<std::string> type_names() {
  std::vector<std::string> names;
  for (const TypeName& known : kTypes) names.emplace_back(known.name);
  return names;
}

bool is_map_of_maps(uint32_t type) { return type == RINGBUF_MAP_TYPE_ARRAY_OF_MAPS || type == RINGBUF_MAP_TYPE_HASH_OF_MAPS; }

std::string label(const ringbuf_map_info& info) {
  return "map " + std::to_string(info.id) + (info.name[0] ? std::string(" '") + info.name + "'" : "");
}

Result<void> check_verb(const ringbuf_map_info& info, Verb verb) {
  const bool of_elements = verb == Verb::kUpdate || verb == Verb::kLookup || verb == Verb::kDelete;
  const bool of_records = verb == Verb::kOutput || verb == Verb::kConsume || verb == Verb::kDrain || verb == Verb::kSnapshot;
  const std::string id = "id " + std::to_string(info.id);
  std::string wrong;
  if (is_map_of_maps(info.type) && of_records) {
    wrong = "which holds maps, not records: use one of them; 'ringbufctl map dump " + id + "' shows their ids";
  } else if (!is_map_of_maps(info.type) && of_elements) {
    wrong = "which holds records, not maps: use a map that was created with --type array_of_maps or hash_of_maps";
  } else if (verb == Verb::kConsume && info.type == RINGBUF_MAP_TYPE_USER_RINGBUF) {
    wrong = "which is not consumed but drained: use 'ringbufctl map drain " + id + "'";
  } else if (verb == Verb::kDrain && info.type == RINGBUF_MAP_TYPE_RINGBUF) {
    wrong = "which is not drained but consumed: use 'ringbufctl map consume " + id + "'";
  }
  if (wrong.empty()) return {};
  const std::string type = type_name(info.type);
  return fail(kUsage, EINVAL, label(info) + (type.starts_with('a') ? " is an " : " is a ") + type + ", " + wrong);
}

}  // namespace ringbufctl
