// SPDX-License-Identifier: MIT
// Everything that people and scripts read: bpftool's two-line text and its JSON keys.
#pragma once

#include <ringbuf/ringbuf.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli.hpp"
#include "result.hpp"

namespace ringbufctl {

struct User {
  uint32_t pid;
  std::string comm;
  uint32_t role;  // enum ringbuf_role
};

struct MapState {
  ringbuf_map_info info{};
  std::vector<std::string> pins;
  std::vector<User> users;
  std::optional<ringbuf_stats> stats;  // of a ring, and only for those who may observe
};

struct DumpRecord {
  uint64_t pos;
  uint32_t flags;
  uint32_t slot;
  uint64_t size;
  std::string_view data;  // empty if BUSY
};

struct Loss {
  uint64_t records = 0;
  uint64_t bytes = 0;
};

struct SendSummary {
  uint64_t records = 0;
  uint64_t bytes = 0;
  uint64_t dropped = 0;
};

std::string map_plain(const MapState& map);
std::string map_json(const MapState& map, bool pretty);
std::string maps_json(const std::vector<MapState>& maps, bool pretty);
std::string created_json(const ringbuf_map_info& info, const std::string& path, bool pretty);
std::string null_json();
std::string version_plain();
std::string version_json(bool pretty);
std::string failure_json(const Failure& failure, bool pretty);

std::string summary_plain(const SendSummary& summary);
// With the failure, if there is one, in the same object.
std::string summary_json(const SendSummary& summary, const Failure* failure, bool pretty);

// What a consumer of an overwrite ring came too late for.
std::string missed_plain(const Loss& missed);
std::string missed_json(const Loss& missed, bool pretty);

// One element of a map of maps, as bpftool: lines, or an object.
std::string element_plain(std::string_view key, uint32_t inner_id);
std::string element_json(std::string_view key, uint32_t inner_id, bool pretty);

// One record as consume and drain print it.
void append_record(std::string& out, Format format, std::string_view data);
// One record as dump and snapshot print it.
void append_dump_record(std::string& out, Format format, const DumpRecord& record);
std::string dump_record_json(const DumpRecord& record, bool pretty);

}  // namespace ringbufctl
