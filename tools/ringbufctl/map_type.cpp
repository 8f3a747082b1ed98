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

Result<void> check_verb(const ringbuf_map_info& info, Verb verb) {
  const std::string id = "id " + std::to_string(info.id);
  std::string wrong;
  if (verb == Verb::kConsume && info.type == RINGBUF_MAP_TYPE_USER_RINGBUF) {
    wrong = "which is not consumed but drained: use 'ringbufctl map drain " + id + "'";
  } else if (verb == Verb::kDrain && info.type == RINGBUF_MAP_TYPE_RINGBUF) {
    wrong = "which is not drained but consumed: use 'ringbufctl map consume " + id + "'";
  }
  if (wrong.empty()) return {};
  const std::string name = info.name[0] ? std::string(" '") + info.name + "'" : "";
  return fail(kUsage, EINVAL, "map " + std::to_string(info.id) + name + " is a " + type_name(info.type) + ", " + wrong);
}

}  // namespace ringbufctl
