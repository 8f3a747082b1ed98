// SPDX-License-Identifier: MIT
// Frames to structs and back, every field checked for bounds before anybody sees it; and the names of codes. Pure functions.
#pragma once

#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "ringbuf/abi/shm.h"
#include "ringbuf/abi/wire.h"

namespace ringbuf::wire {

using Bytes = std::span<const std::byte>;

struct Message {
  ringbuf_wire_hdr hdr;
  Bytes body;  // points into the frame
};

// EPROTO: shorter than a header, or a reserved field is set.
Result<Message> decode(Bytes frame);

// A struct that grows at its end: a missing tail reads as zero, an unknown tail that is not zero is E2BIG.
Result<void> decode_body(Bytes body, void* out, std::size_t size);
template <class T>
Result<T> decode_as(Bytes body) {
  T t{};
  if (auto r = decode_body(body, &t, sizeof t); !r) return tl::unexpected(r.error());
  return t;
}

std::vector<std::byte> encode(const ringbuf_wire_hdr& hdr, Bytes body);
// The same into `out`, whose memory it uses if that is enough.
void encode_into(std::vector<std::byte>& out, const ringbuf_wire_hdr& hdr, Bytes body);
template <class T>
std::vector<std::byte> encode_as(const ringbuf_wire_hdr& hdr, const T& body) {
  return encode(hdr, std::as_bytes(std::span(&body, 1)));
}
// A refusal: errno and a sentence, cut to what a frame may carry.
std::vector<std::byte> encode_error(ringbuf_wire_hdr hdr, int err, std::string_view text);

// What is wrong with a map's name or a pin path, as a sentence; empty: nothing.
std::string name_error(std::string_view name);
std::string path_error(std::string_view path);
// For logs and sentences: what could move a terminal's cursor becomes '?'.
std::string printable(std::string_view text);

// The kernel's rule for object names: a NUL within the field, nothing but zeros behind it, only [A-Za-z0-9_.]. EINVAL.
Result<std::string> decode_name(const char (&field)[RINGBUF_NAME_LEN]);
// Copies a name in. ENAMETOOLONG.
Result<void> encode_name(std::string_view name, char (&field)[RINGBUF_NAME_LEN]);
// A pin path: absolute, no empty, "." or ".." part, no control characters, not "/" itself. EINVAL.
Result<std::string> decode_path(const char (&field)[RINGBUF_PATH_LEN]);
Result<void> encode_path(std::string_view path, char (&field)[RINGBUF_PATH_LEN]);

const char* command_name(unsigned cmd);    // "MAP_CREATE"; "?" for unknown ones
const char* role_name(unsigned role);      // "producer"
const char* lost_name(unsigned reason);    // "full"
const char* map_type_name(unsigned type);  // "ringbuf"
std::string rights_name(unsigned rights);  // "observe, produce"

}  // namespace ringbuf::wire
