// SPDX-License-Identifier: MIT
// The map types by bpftool's names, and which commands work on which.
#pragma once

#include <ringbuf/ringbuf.h>

#include <optional>
#include <string>
#include <vector>

#include "cli.hpp"
#include "result.hpp"

namespace ringbufctl {

// "type N" for one that is not known.
std::string type_name(uint32_t type);
std::optional<uint32_t> type_of(const std::string& name);
std::vector<std::string> type_names();
bool is_map_of_maps(uint32_t type);

// As the daemon calls it in its sentences: "map 3 'events'".
std::string label(const ringbuf_map_info& info);

// A usage error that says what to use instead, if `verb` does not work on such a map.
Result<void> check_verb(const ringbuf_map_info& info, Verb verb);

}  // namespace ringbufctl
