// SPDX-License-Identifier: MIT
#include "wire/codec.hpp"

#include <algorithm>
#include <array>

namespace ringbuf::wire {
namespace {

bool all_zero(Bytes bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

// The string in a fixed field: NUL-terminated and zero behind the NUL.
template <std::size_t N>
Result<std::string> decode_field(const char (&field)[N], const char* op) {
  const auto* nul = static_cast<const char*>(std::memchr(field, 0, N));
  if (!nul || !all_zero(std::as_bytes(std::span(nul, field + N)))) return fail(EINVAL, op);
  return std::string(field, nul);
}

template <std::size_t N>
Result<void> encode_field(std::string_view text, char (&field)[N], const char* op) {
  if (text.size() >= N) return fail(ENAMETOOLONG, op);
  if (text.find('\0') != text.npos) return fail(EINVAL, op);
  std::memset(field, 0, N);
  std::memcpy(field, text.data(), text.size());
  return {};
}

bool name_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.';
}

}  // namespace

Result<Message> decode(Bytes frame) {
  Message m{};
  if (frame.size() < sizeof m.hdr) return fail(EPROTO, "read a message shorter than its header");
  std::memcpy(&m.hdr, frame.data(), sizeof m.hdr);
  if (m.hdr.reserved != 0 || m.hdr.reserved2 != 0) return fail(EPROTO, "read a header with reserved bits set");
  m.body = frame.subspan(sizeof m.hdr);
  return m;
}

Result<void> decode_body(Bytes body, void* out, std::size_t size) {
  if (body.size() > size && !all_zero(body.subspan(size))) return fail(E2BIG, "read fields that this version does not know");
  std::memset(out, 0, size);
  if (!body.empty()) std::memcpy(out, body.data(), std::min(size, body.size()));
  return {};
}

std::vector<std::byte> encode(const ringbuf_wire_hdr& hdr, Bytes body) {
  std::vector<std::byte> out;
  encode_into(out, hdr, body);
  return out;
}

void encode_into(std::vector<std::byte>& out, const ringbuf_wire_hdr& hdr, Bytes body) {
  out.resize(sizeof hdr + body.size());
  std::memcpy(out.data(), &hdr, sizeof hdr);
  if (!body.empty()) std::memcpy(out.data() + sizeof hdr, body.data(), body.size());
}

std::vector<std::byte> encode_error(ringbuf_wire_hdr hdr, int err, std::string_view text) {
  hdr.err = static_cast<std::uint32_t>(err);
  return encode(hdr, std::as_bytes(std::span(text.substr(0, 512))));
}

std::string printable(std::string_view text) {
  std::string out(text);
  std::replace_if(
      out.begin(), out.end(), [](unsigned char c) { return c < 0x20 || c > 0x7e; }, '?');
  return out;
}

std::string name_error(std::string_view name) {
  if (name.size() < RINGBUF_NAME_LEN && std::all_of(name.begin(), name.end(), name_char)) return {};
  return "'" + printable(name) + "' is not a map name: at most 15 of A-Z a-z 0-9 _ .";
}

std::string path_error(std::string_view path) {
  const auto wrong = [&](const char* why) { return "'" + printable(path) + "' is not a pin path: " + why; };
  if (!path.starts_with('/')) return wrong("it must begin with '/'");
  if (path.size() >= RINGBUF_PATH_LEN) return wrong("it may have at most 255 bytes");
  if (std::any_of(path.begin(), path.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }))
    return wrong("it may have no control characters");
  for (std::size_t at = 0; at < path.size();) {
    const std::size_t end = std::min(path.find('/', at + 1), path.size());
    const std::string_view part = path.substr(at + 1, end - at - 1);
    if (part.empty() || part == "." || part == "..") return wrong("no part may be empty, '.' or '..'");
    at = end;
  }
  return {};
}

Result<std::string> decode_name(const char (&field)[RINGBUF_NAME_LEN]) {
  auto name = decode_field(field, "use a name of more than 15 characters");
  if (name && !name_error(*name).empty()) return fail(EINVAL, "use a name with characters other than A-Z a-z 0-9 _ .");
  return name;
}

Result<void> encode_name(std::string_view name, char (&field)[RINGBUF_NAME_LEN]) {
  return encode_field(name, field, "use a name of more than 15 characters");
}

Result<std::string> decode_path(const char (&field)[RINGBUF_PATH_LEN]) {
  constexpr const char* kOp = "use a pin path that is not like /events or /app/events";
  auto path = decode_field(field, kOp);
  if (path && !path_error(*path).empty()) return fail(EINVAL, kOp);
  return path;
}

Result<void> encode_path(std::string_view path, char (&field)[RINGBUF_PATH_LEN]) {
  return encode_field(path, field, "use a pin path of more than 255 bytes");
}

const char* command_name(unsigned cmd) {
  constexpr std::array kNames{"?",
                              "HELLO",
                              "MAP_CREATE",
                              "MAP_GET_NEXT_ID",
                              "MAP_GET_FD_BY_ID",
                              "MAP_GET_FD_BY_NAME",
                              "OBJ_PIN",
                              "OBJ_GET",
                              "OBJ_UNPIN",
                              "OBJ_GET_INFO_BY_FD",
                              "OBJ_GET_PIN",
                              "MAP_GET_ATTACHMENT",
                              "ATTACH",
                              "DETACH",
                              "MAP_LOOKUP_ELEM",
                              "MAP_UPDATE_ELEM",
                              "MAP_DELETE_ELEM",
                              "MAP_GET_NEXT_KEY",
                              "MAP_GET_FD_BY_KEY",
                              "MAP_NARROW"};
  return cmd < kNames.size() ? kNames[cmd] : "?";
}

const char* role_name(unsigned role) {
  constexpr std::array kNames{"?", "producer", "consumer", "observer"};
  return role < kNames.size() ? kNames[role] : "?";
}

const char* lost_name(unsigned reason) {
  constexpr std::array kNames{"full", "too_big", "busy", "lock"};
  return reason < kNames.size() ? kNames[reason] : "?";
}

const char* map_type_name(unsigned type) {
  switch (type) {  // as bpftool
    case 12: return "array_of_maps";
    case 13: return "hash_of_maps";
    case 27: return "ringbuf";
    case 31: return "user_ringbuf";
    default: return "?";
  }
}

std::string rights_name(unsigned rights) {
  constexpr std::array kNames{"observe", "produce", "consume", "manage"};
  std::string out;
  for (std::size_t i = 0; i < kNames.size(); ++i)
    if (rights & (1u << i)) out += (out.empty() ? "" : ", ") + std::string(kNames[i]);
  return out.empty() ? "none" : out;
}

}  // namespace ringbuf::wire
