// SPDX-License-Identifier: MIT
#include "output.hpp"

#include <string.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <utility>

#include "map_type.hpp"

namespace ringbufctl {
namespace {

using Json = nlohmann::ordered_json;

// Names and comms come from others: bytes that are not UTF-8 are replaced, never an exception.
std::string text_of(const Json& json, bool pretty) {
  return json.dump(pretty ? 4 : -1, ' ', false, Json::error_handler_t::replace);
}

std::string line_of(const Json& json, bool pretty) { return text_of(json, pretty) + "\n"; }

std::string format_mode(uint32_t mode) {
  char buf[16];
  std::snprintf(buf, sizeof(buf), "%04o", mode);
  return buf;
}

const char* role_name(uint32_t role) {
  switch (role) {
    case RINGBUF_PRODUCER: return "producer";
    case RINGBUF_CONSUMER: return "consumer";
    case RINGBUF_OBSERVER: return "observer";
    default: return "unknown";
  }
}

std::string number(uint64_t value) { return std::to_string(value); }

// RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF.
bool is_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const size_t length = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
    if (length == 0 || text.size() - i < length) return false;
    for (size_t k = 1; k < length; k++) {
      const auto byte = static_cast<unsigned char>(text[i + k]);
      unsigned char low = 0x80, high = 0xbf;
      if (k == 1 && lead == 0xe0) low = 0xa0;
      if (k == 1 && lead == 0xed) high = 0x9f;
      if (k == 1 && lead == 0xf0) low = 0x90;
      if (k == 1 && lead == 0xf4) high = 0x8f;
      if (byte < low || byte > high) return false;
    }
    i += length;
  }
  return true;
}

void append_hex(std::string& out, std::string_view data, const char* separator) {
  constexpr char kDigits[] = "0123456789abcdef";
  for (size_t i = 0; i < data.size(); i++) {
    const auto byte = static_cast<unsigned char>(data[i]);
    if (i) out += separator;
    out += kDigits[byte >> 4];
    out += kDigits[byte & 15];
  }
}

// As bpftool breaks long keys: 16 bytes a line, with a gap in the middle.
void append_hex_lines(std::string& out, std::string_view data) {
  for (size_t i = 0; i < data.size(); i += 8) {
    if (i) out += i % 16 == 0 ? "\n" : "  ";
    append_hex(out, data.substr(i, 8), " ");
  }
}

Json hex_array(std::string_view data) {
  Json array = Json::array();
  for (const char& byte : data) {
    std::string text = "0x";
    append_hex(text, std::string_view(&byte, 1), "");
    array.push_back(text);
  }
  return array;
}

// For the eye: control characters and bytes above ASCII that are not UTF-8 cannot disturb a terminal.
void append_escaped(std::string& out, std::string_view data) {
  const bool utf8 = is_utf8(data);
  for (const char c : data) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c == '\\') {
      out += "\\\\";
    } else if (byte < 0x20 || byte == 0x7f || (byte >= 0x80 && !utf8)) {
      out += "\\x";
      append_hex(out, std::string_view(&c, 1), "");
    } else {
      out += c;
    }
  }
}

void add_data(Json& json, std::string_view data) {
  if (is_utf8(data)) {
    json["data"] = data;
  } else {
    std::string hex;
    append_hex(hex, data, " ");
    json["hex"] = hex;
  }
}

// What a map's state says beyond bpftool's keys. One list for both forms, so that they say the same: in plain text a group is a
// line, in JSON a named one is an object.
struct Group {
  const char* name;  // "": none
  std::vector<std::pair<const char*, uint64_t>> fields;
};

std::vector<Group> state_groups(const MapState& map) {
  std::vector<Group> groups;
  if (is_map_of_maps(map.info.type)) groups.push_back({"", {{"used", map.info.elements}}});
  if (map.info.references > 0) groups.push_back({"", {{"references", map.info.references}}});  // in maps of maps: they keep it
  if (!map.stats) return groups;
  const ringbuf_stats& stats = *map.stats;
  const bool user = map.info.type == RINGBUF_MAP_TYPE_USER_RINGBUF;  // its producer has no pending_pos, and meets no BUSY record
  const bool overwrite = map.info.map_flags & RINGBUF_OVERWRITE;
  const uint64_t oldest = overwrite ? std::max(stats.consumer_pos, stats.overwrite_pos) : stats.consumer_pos;

  Group positions{"", {{"consumer_pos", stats.consumer_pos}, {"producer_pos", stats.producer_pos}}};
  if (!user) positions.fields.emplace_back("pending_pos", stats.pending_pos);
  if (overwrite) positions.fields.emplace_back("overwrite_pos", stats.overwrite_pos);
  positions.fields.emplace_back("avail_data", stats.producer_pos - oldest);
  positions.fields.emplace_back("waiting", stats.waiting);
  Group lost{"lost", {{"full", stats.lost[RINGBUF_LOST_FULL]}, {"too_big", stats.lost[RINGBUF_LOST_TOO_BIG]}}};
  if (!user) lost.fields.emplace_back("busy", stats.lost[RINGBUF_LOST_BUSY]);
  lost.fields.emplace_back("lock", stats.lost[RINGBUF_LOST_LOCK]);

  groups.push_back(std::move(positions));
  groups.push_back({"", {{"records", stats.records}, {"bytes", stats.bytes}, {"wakeups", stats.wakeups}}});
  groups.push_back(std::move(lost));
  if (overwrite) {
    groups.push_back({"overwritten", {{"records", stats.overwritten_records}, {"bytes", stats.overwritten_bytes}}});
    groups.push_back({"missed", {{"records", stats.missed_records}, {"bytes", stats.missed_bytes}}});
  }
  return groups;
}

// A process that holds others up; pid 0: one of a pid namespace that the daemon does not see.
struct Holder {
  uint32_t slot;
  uint32_t pid;
  std::string comm;
  std::vector<std::pair<const char*, uint64_t>> fields;
};

template <size_t N>
std::string text_in(const char (&field)[N]) {
  return std::string(field, strnlen(field, N));
}

// Whose uncommitted record is in the way, and since when; who is inside reserve.
std::vector<std::pair<const char*, Holder>> holders(const ringbuf_map_info& i) {
  return {{"head", {i.head_slot, i.head_pid, text_in(i.head_comm), {{"pos", i.head_pos}, {"ms", i.head_ms}}}},
          {"owner", {i.owner_slot, i.owner_pid, text_in(i.owner_comm), {{"tid", i.owner_tid}}}}};
}

Json pid_json(uint32_t pid) { return pid ? Json(pid) : Json(); }

// The dead, and those who are in the way. Always there, so that scripts need not ask for the key.
void add_holders(Json& json, const ringbuf_map_info& info) {
  json["orphans"] = {{"records", info.orphan_records}, {"bytes", info.orphan_bytes}, {"pid", pid_json(info.orphan_pid)}};
  for (const auto& [name, holder] : holders(info)) {
    if (holder.slot == 0) {
      json[name] = nullptr;
      continue;
    }
    json[name] = {{"pid", pid_json(holder.pid)}, {"comm", holder.comm}, {"slot", holder.slot}};
    for (const auto& [field, value] : holder.fields) json[name][field] = value;
  }
}

// A line for each, if there is something to say.
void append_holders(std::string& out, const ringbuf_map_info& info) {
  if (info.orphan_records > 0) {
    out += "\torphans records " + number(info.orphan_records) + "  bytes " + number(info.orphan_bytes);
    if (info.orphan_pid) out += "  pid " + number(info.orphan_pid);
    out += "\n";
  }
  for (const auto& [name, holder] : holders(info)) {
    if (holder.slot == 0) continue;
    out += std::string("\t") + name + " ";
    append_escaped(out, holder.comm.empty() ? "?" : holder.comm);
    out += "(" + number(holder.pid) + ")  slot " + number(holder.slot);
    for (const auto& [field, value] : holder.fields) out += std::string("  ") + field + " " + number(value);
    out += "\n";
  }
}

Json json_of(const MapState& map) {
  const ringbuf_map_info& info = map.info;
  Json json = {{"id", info.id}, {"type", type_name(info.type)}};
  if (info.name[0]) json["name"] = info.name;
  json["flags"] = info.map_flags;
  json["bytes_key"] = info.key_size;
  json["bytes_value"] = info.value_size;
  json["max_entries"] = info.max_entries;
  json["bytes_memlock"] = info.bytes_memlock;
  json["frozen"] = 0;
  json["pinned"] = map.pins;
  json["pids"] = Json::array();
  for (const User& user : map.users) {
    json["pids"].push_back({{"pid", user.pid}, {"comm", user.comm}, {"role", role_name(user.role)}});
  }
  json["uid"] = info.uid;
  json["gid"] = info.gid;
  json["mode"] = format_mode(info.mode);
  json["ring_flags"] = info.ring_flags;
  if (info.type == RINGBUF_MAP_TYPE_RINGBUF) json["overwrite"] = (info.map_flags & RINGBUF_OVERWRITE) != 0;
  for (const Group& group : state_groups(map)) {
    Json& object = *group.name ? json[group.name] : json;
    for (const auto& [name, value] : group.fields) object[name] = value;
  }
  if (!is_map_of_maps(info.type)) add_holders(json, info);
  return json;
}

Json json_of(const Failure& failure) {
  Json json = {{"error", failure.sentence}};
  if (const char* name = strerrorname_np(failure.err)) json["errno"] = name;
  return json;
}

}  // namespace

std::string map_plain(const MapState& map) {
  const ringbuf_map_info& info = map.info;
  char flags[16];
  std::snprintf(flags, sizeof(flags), "0x%x", info.map_flags);
  std::string out = number(info.id) + ": " + type_name(info.type);
  if (info.name[0]) out += std::string("  name ") + info.name;
  out += std::string("  flags ") + flags + "\n\tkey " + number(info.key_size) + "B  value " + number(info.value_size) +
         "B  max_entries " + number(info.max_entries) + "  memlock " + number(info.bytes_memlock) + "B\n\tuid " +
         number(info.uid) + "  gid " + number(info.gid) + "  mode " + format_mode(info.mode);
  if (info.ring_flags & RINGBUF_F_SINGLE_PRODUCER) out += "  single_producer";
  if (info.map_flags & RINGBUF_OVERWRITE) out += "  overwrite";
  out += "\n";
  for (const std::string& path : map.pins) out += "\tpinned " + path + "\n";
  for (size_t i = 0; i < map.users.size(); i++) {
    const User& user = map.users[i];
    out += i ? ", " : "\tpids ";
    append_escaped(out, user.comm);
    out += "(" + number(user.pid) + ") " + role_name(user.role);
  }
  if (!map.users.empty()) out += "\n";
  for (const Group& group : state_groups(map)) {
    std::string line = group.name;
    for (const auto& [name, value] : group.fields) {
      line += std::string(line.empty() ? "" : line == group.name ? " " : "  ") + name + " " + number(value);
    }
    out += "\t" + line + "\n";
  }
  append_holders(out, info);
  return out;
}

std::string map_json(const MapState& map, bool pretty) { return line_of(json_of(map), pretty); }

std::string maps_json(const std::vector<MapState>& maps, bool pretty) {
  Json json = Json::array();
  for (const MapState& map : maps) json.push_back(json_of(map));
  return line_of(json, pretty);
}

std::string created_json(const ringbuf_map_info& info, const std::string& path, bool pretty) {
  return line_of({{"id", info.id}, {"name", info.name}, {"pinned", {path}}}, pretty);
}

std::string null_json() { return "null\n"; }

std::string version_plain() {
  return std::string("ringbufctl v") + RINGBUF_VERSION_STRING + "\nusing libringbuf v" + ringbuf_version() + "\n";
}

std::string version_json(bool pretty) {
  return line_of({{"version", RINGBUF_VERSION_STRING}, {"libringbuf_version", ringbuf_version()}}, pretty);
}

std::string failure_json(const Failure& failure, bool pretty) { return line_of(json_of(failure), pretty); }

std::string summary_plain(const SendSummary& summary) {
  return "sent " + number(summary.records) + " records, " + number(summary.bytes) + " bytes; dropped " + number(summary.dropped) +
         "\n";
}

std::string summary_json(const SendSummary& summary, const Failure* failure, bool pretty) {
  Json json = {{"sent", summary.records}, {"bytes", summary.bytes}, {"dropped", summary.dropped}};
  if (failure) json.update(json_of(*failure));
  return line_of(json, pretty);
}

std::string missed_plain(const Loss& missed) {
  return "ringbufctl: missed " + number(missed.records) + " records, " + number(missed.bytes) +
         " bytes: they were overwritten before they could be consumed\n";
}

std::string missed_json(const Loss& missed, bool pretty) {
  return line_of({{"missed", {{"records", missed.records}, {"bytes", missed.bytes}}}}, pretty);
}

std::string element_plain(std::string_view key, uint32_t inner_id) {
  const bool one_line = key.size() <= 16;
  std::string out = one_line ? "key: " : "key:\n";
  append_hex_lines(out, key);
  return out + (one_line ? "  inner_map_id: " : "\ninner_map_id:\n") + number(inner_id) + "\n";
}

std::string element_json(std::string_view key, uint32_t inner_id, bool pretty) {
  const std::string_view value(reinterpret_cast<const char*>(&inner_id), sizeof(inner_id));
  return text_of({{"key", hex_array(key)}, {"value", hex_array(value)}, {"inner_map_id", inner_id}}, pretty);
}

void append_record(std::string& out, Format format, std::string_view data) {
  switch (format) {
    case Format::kText: out.append(data); break;
    case Format::kHex: append_hex(out, data, " "); break;
    case Format::kJson: {
      Json json = {{"size", data.size()}};
      add_data(json, data);
      out += text_of(json, false);
      break;
    }
    case Format::kRaw: out.append(data); return;
  }
  out += '\n';
}

void append_dump_record(std::string& out, Format format, const DumpRecord& record) {
  if (format == Format::kJson) {
    out += dump_record_json(record, false) + "\n";
    return;
  }
  if (format == Format::kRaw) {  // what a consumer would get
    if (record.flags == 0) out.append(record.data);
    return;
  }
  out += "pos " + number(record.pos) + "  size " + number(record.size) + "  slot " + number(record.slot);
  if (record.flags & RINGBUF_BUSY_BIT) out += "  BUSY";
  if (record.flags & RINGBUF_DISCARD_BIT) out += "  DISCARD";
  if (!(record.flags & RINGBUF_BUSY_BIT)) {
    out += "  data ";
    if (format == Format::kHex) {
      append_hex(out, record.data, " ");
    } else {
      append_escaped(out, record.data);
    }
  }
  out += '\n';
}

std::string dump_record_json(const DumpRecord& record, bool pretty) {
  Json json = {{"pos", record.pos}, {"size", record.size}, {"slot", record.slot}, {"flags", Json::array()}};
  if (record.flags & RINGBUF_BUSY_BIT) json["flags"].push_back("BUSY");
  if (record.flags & RINGBUF_DISCARD_BIT) json["flags"].push_back("DISCARD");
  if (!(record.flags & RINGBUF_BUSY_BIT)) add_data(json, record.data);
  return text_of(json, pretty);
}

}  // namespace ringbufctl
