// SPDX-License-Identifier: MIT
// Bytes to header and structs, and back: what was understood is said again in the same way, and nothing else is understood.
// The input is a frame.
#include "fuzz/input.hpp"
#include "wire/codec.hpp"

namespace ringbuf::wire {
namespace {

bool same(Bytes a, Bytes b) { return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin()); }
bool zero(Bytes bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

template <class T>
void check_struct(const ringbuf_wire_hdr& hdr, Bytes body) {
  const auto got = decode_as<T>(body);
  const Bytes tail = body.size() > sizeof(T) ? body.subspan(sizeof(T)) : Bytes{};
  FUZZ_CHECK(got.has_value() == zero(tail));
  if (!got) {
    FUZZ_CHECK(got.error().err == E2BIG);
    return;
  }
  const auto frame = encode_as(hdr, *got);
  FUZZ_CHECK(frame.size() == sizeof hdr + sizeof(T) && frame.size() <= RINGBUF_WIRE_MAX);
  const std::size_t sent = std::min(body.size(), sizeof(T));
  FUZZ_CHECK(same(Bytes(frame).subspan(sizeof hdr, sent), body.first(sent)));
  FUZZ_CHECK(zero(Bytes(frame).subspan(sizeof hdr + sent)));
  const auto again = decode(frame);
  FUZZ_CHECK(again && std::memcmp(&again->hdr, &hdr, sizeof hdr) == 0);
  FUZZ_CHECK(decode_as<T>(again->body));
}

template <class... T>
void check_structs(const ringbuf_wire_hdr& hdr, Bytes body) {
  (check_struct<T>(hdr, body), ...);
}

// A text in a fixed field: accepted if and only if there is nothing to complain about, and then it survives the way back.
template <std::size_t N>
void check_text(Bytes body, Result<std::string> (*decode_text)(const char (&)[N]), std::string (*error_of)(std::string_view),
                Result<void> (*encode_text)(std::string_view, char (&)[N])) {
  char field[N] = {};
  std::memcpy(field, body.data(), std::min(N, body.size()));
  const auto text = decode_text(field);
  if (text) {
    char back[N];
    FUZZ_CHECK(encode_text(*text, back));
    FUZZ_CHECK(std::memcmp(back, field, N) == 0);
    FUZZ_CHECK(error_of(*text).empty() && text->size() < N);
  } else {
    FUZZ_CHECK(text.error().err == EINVAL);
  }
  // The same bytes as a text of any length.
  const std::string_view all(reinterpret_cast<const char*>(body.data()), body.size());
  const std::string why = error_of(all);
  for (const char c : why) FUZZ_CHECK(c >= 0x20 && c <= 0x7e);
  char back[N];
  if (why.empty()) FUZZ_CHECK(encode_text(all, back) && decode_text(back) && *decode_text(back) == all);
}

}  // namespace
}  // namespace ringbuf::wire

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace ringbuf::wire;
  const Bytes frame = std::as_bytes(std::span(data, size));
  const auto message = decode(frame);
  if (!message) {
    FUZZ_CHECK(message.error().err == EPROTO);
    ringbuf_wire_hdr hdr;
    if (size >= sizeof hdr) {
      std::memcpy(&hdr, data, sizeof hdr);
      FUZZ_CHECK(hdr.reserved != 0 || hdr.reserved2 != 0);
    }
    return 0;
  }
  FUZZ_CHECK(same(encode(message->hdr, message->body), frame));
  const Bytes body = message->body;
  check_structs<ringbuf_hello_req, ringbuf_hello_reply, ringbuf_map_create_req, ringbuf_map_id_reply, ringbuf_next_id_req,
                ringbuf_next_id_reply, ringbuf_fd_by_id_req, ringbuf_fd_by_name_req, ringbuf_path_req, ringbuf_index_req,
                ringbuf_path_reply, ringbuf_map_info, ringbuf_attachment_info, ringbuf_attach_req, ringbuf_attach_reply,
                ringbuf_detach_req, ringbuf_elem_req, ringbuf_elem_reply, ringbuf_key_reply>(message->hdr, body);
  check_text<RINGBUF_NAME_LEN>(body, decode_name, name_error, encode_name);
  check_text<RINGBUF_PATH_LEN>(body, decode_path, path_error, encode_path);

  const std::string_view text(reinterpret_cast<const char*>(body.data()), body.size());
  const auto refusal = encode_error(message->hdr, 22, text);
  const auto read = decode(refusal);
  FUZZ_CHECK(read && read->hdr.err == 22 && refusal.size() <= RINGBUF_WIRE_MAX);
  FUZZ_CHECK(same(read->body, body.first(std::min<std::size_t>(body.size(), 512))));
  const unsigned code = message->hdr.cmd;
  FUZZ_CHECK(command_name(code) && role_name(code) && lost_name(code) && map_type_name(code));
  FUZZ_CHECK(!rights_name(code).empty());
  return 0;
}
