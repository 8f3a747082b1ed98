// SPDX-License-Identifier: MIT
// Frames to structs and back: every struct, every bound.
#include "wire/codec.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

namespace ringbuf::wire {
namespace {

template <class T>
class Struct : public ::testing::Test {
 protected:
  static T pattern() {
    T t;
    auto* bytes = reinterpret_cast<unsigned char*>(&t);
    for (std::size_t i = 0; i < sizeof t; ++i) bytes[i] = static_cast<unsigned char>(i + 1);
    return t;
  }
  static Bytes bytes_of(const std::vector<unsigned char>& v) { return std::as_bytes(std::span(v)); }
};
using AllStructs = ::testing::Types<ringbuf_hello_req, ringbuf_hello_reply, ringbuf_map_create_req, ringbuf_map_id_reply,
                                    ringbuf_next_id_req, ringbuf_next_id_reply, ringbuf_fd_by_id_req, ringbuf_fd_by_name_req,
                                    ringbuf_path_req, ringbuf_index_req, ringbuf_path_reply, ringbuf_map_info,
                                    ringbuf_attachment_info, ringbuf_attach_req, ringbuf_attach_reply, ringbuf_detach_req>;
TYPED_TEST_SUITE(Struct, AllStructs);

TYPED_TEST(Struct, SurvivesEncodingAndDecoding) {
  const TypeParam sent = this->pattern();
  const ringbuf_wire_hdr hdr{RINGBUF_ATTACH, 0, 77, 0, 0};
  const auto frame = encode_as(hdr, sent);
  ASSERT_LE(frame.size(), RINGBUF_WIRE_MAX);
  const auto message = decode(frame);
  ASSERT_TRUE(message);
  EXPECT_EQ(message->hdr.cmd, RINGBUF_ATTACH);
  EXPECT_EQ(message->hdr.seq, 77u);
  const auto got = decode_as<TypeParam>(message->body);
  ASSERT_TRUE(got);
  EXPECT_EQ(std::memcmp(&*got, &sent, sizeof sent), 0);
}

TYPED_TEST(Struct, AMissingTailReadsAsZero) {
  const TypeParam sent = this->pattern();
  for (std::size_t size = 0; size <= sizeof sent; ++size) {
    const auto got = decode_as<TypeParam>(std::as_bytes(std::span(&sent, 1)).first(size));
    ASSERT_TRUE(got);
    TypeParam want{};
    std::memset(static_cast<void*>(&want), 0, sizeof want);
    std::memcpy(static_cast<void*>(&want), &sent, size);
    EXPECT_EQ(std::memcmp(&*got, &want, sizeof want), 0) << size;
  }
}

TYPED_TEST(Struct, AnUnknownTailMustBeZero) {
  const TypeParam sent = this->pattern();
  for (const std::size_t more : {std::size_t{1}, std::size_t{7}, std::size_t{64}}) {
    std::vector<unsigned char> body(sizeof sent + more);
    std::memcpy(body.data(), &sent, sizeof sent);
    ASSERT_TRUE(decode_as<TypeParam>(this->bytes_of(body)));
    for (std::size_t i = sizeof sent; i < body.size(); ++i) {
      body[i] = 1;
      const auto got = decode_as<TypeParam>(this->bytes_of(body));
      ASSERT_FALSE(got);
      EXPECT_EQ(got.error().err, E2BIG);
      body[i] = 0;
    }
  }
}

TEST(Codec, StructsHaveNoPaddingAndFixedSizes) {
  EXPECT_EQ(sizeof(ringbuf_wire_hdr), 16u);
  EXPECT_EQ(sizeof(ringbuf_map_create_req), 56u);
  EXPECT_EQ(sizeof(ringbuf_map_info), 184u);
  EXPECT_EQ(sizeof(ringbuf_map_id_reply), 16u);
  EXPECT_EQ(sizeof(ringbuf_narrow_req), 8u);
  EXPECT_EQ(sizeof(ringbuf_elem_req), 528u);
  EXPECT_EQ(sizeof(ringbuf_elem_reply), 24u);
  EXPECT_EQ(sizeof(ringbuf_key_reply), 520u);
  EXPECT_EQ(sizeof(ringbuf_path_req), 264u);
  EXPECT_EQ(sizeof(ringbuf_attach_reply), 40u);
}

TEST(Codec, AFrameShorterThanItsHeaderIsRefused) {
  const std::byte zeros[sizeof(ringbuf_wire_hdr)] = {};
  for (std::size_t size = 0; size < sizeof zeros; ++size) {
    const auto m = decode(Bytes(zeros, size));
    ASSERT_FALSE(m) << size;
    EXPECT_EQ(m.error().err, EPROTO);
  }
  const auto m = decode(zeros);
  ASSERT_TRUE(m);
  EXPECT_TRUE(m->body.empty());
}

TEST(Codec, ReservedHeaderFieldsMustBeZero) {
  for (const ringbuf_wire_hdr hdr : {ringbuf_wire_hdr{1, 1, 0, 0, 0}, ringbuf_wire_hdr{1, 0x8000, 0, 0, 0},
                                     ringbuf_wire_hdr{1, 0, 0, 0, 1}, ringbuf_wire_hdr{1, 0, 0, 0, 1u << 31}}) {
    const auto m = decode(encode(hdr, {}));
    ASSERT_FALSE(m);
    EXPECT_EQ(m.error().err, EPROTO);
  }
}

TEST(Codec, AnErrorCarriesItsTextCutToFiveHundredAndTwelveBytes) {
  const ringbuf_wire_hdr hdr{RINGBUF_OBJ_PIN, 0, 9, 0, 0};
  auto m = decode(encode_error(hdr, EEXIST, "pin '/events': there is one"));
  std::vector<std::byte> frame = encode_error(hdr, EEXIST, "pin '/events': there is one");
  m = decode(frame);
  ASSERT_TRUE(m);
  EXPECT_EQ(m->hdr.err, static_cast<std::uint32_t>(EEXIST));
  EXPECT_EQ(m->hdr.seq, 9u);
  EXPECT_EQ(m->hdr.cmd, RINGBUF_OBJ_PIN);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(m->body.data()), m->body.size()), "pin '/events': there is one");
  for (const std::size_t size : {std::size_t{511}, std::size_t{512}, std::size_t{513}, std::size_t{100000}}) {
    frame = encode_error(hdr, EIO, std::string(size, 'x'));
    EXPECT_EQ(frame.size(), sizeof hdr + std::min<std::size_t>(size, 512));
  }
  EXPECT_EQ(encode_error(hdr, EIO, "").size(), sizeof hdr);
}

// --- names and paths -------------------------------------------------------------------------------------------------------

template <std::size_t N>
struct Field {
  char text[N] = {};
  Field(std::string_view s) { std::memcpy(text, s.data(), std::min(s.size(), N)); }
};

TEST(CodecName, GoodNamesAreReturned) {
  for (const std::string name : {"", "a", "events", "Events_2.log", "0", "_", ".", "123456789012345"}) {
    const auto got = decode_name(Field<RINGBUF_NAME_LEN>(name).text);
    ASSERT_TRUE(got) << name;
    EXPECT_EQ(*got, name);
  }
}

TEST(CodecName, ANameMustEndWithinItsFieldAndBeZeroBehind) {
  EXPECT_FALSE(decode_name(Field<RINGBUF_NAME_LEN>("1234567890123456").text)) << "no NUL";
  Field<RINGBUF_NAME_LEN> behind("abc");
  behind.text[15] = 'x';
  const auto got = decode_name(behind.text);
  ASSERT_FALSE(got);
  EXPECT_EQ(got.error().err, EINVAL);
}

TEST(CodecName, OnlyTheKernelsCharactersAreAllowed) {
  for (int c = 1; c < 256; ++c) {
    const char ch = static_cast<char>(c);
    const bool good = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_' || c == '.';
    EXPECT_EQ(decode_name(Field<RINGBUF_NAME_LEN>(std::string("a") + ch).text).has_value(), good) << c;
  }
}

TEST(CodecName, AWrongNameIsShown) {
  EXPECT_EQ(name_error("events"), "");
  EXPECT_EQ(name_error("a b"), "'a b' is not a map name: at most 15 of A-Z a-z 0-9 _ .");
  EXPECT_EQ(name_error("1234567890123456"), "'1234567890123456' is not a map name: at most 15 of A-Z a-z 0-9 _ .");
  EXPECT_EQ(name_error("a\033["), "'a?[' is not a map name: at most 15 of A-Z a-z 0-9 _ .");
}

TEST(CodecName, EncodingRefusesLongNamesAndNulsAndClearsTheField) {
  char field[RINGBUF_NAME_LEN];
  std::memset(field, 'z', sizeof field);
  ASSERT_TRUE(encode_name("abc", field));
  EXPECT_EQ(std::memcmp(field, "abc\0\0\0\0\0\0\0\0\0\0\0\0\0", 16), 0);
  EXPECT_TRUE(encode_name("123456789012345", field));
  EXPECT_EQ(encode_name("1234567890123456", field).error().err, ENAMETOOLONG);
  EXPECT_EQ(encode_name(std::string_view("a\0b", 3), field).error().err, EINVAL);
}

TEST(CodecPath, PlainAbsolutePathsAreReturned) {
  for (const std::string path : {"/a", "/events", "/app/events", "/a/b/c/d", "/...", "/.hidden", "/with space", "/\xc3\xa9"}) {
    const auto got = decode_path(Field<RINGBUF_PATH_LEN>(path).text);
    ASSERT_TRUE(got) << path;
    EXPECT_EQ(*got, path);
  }
  const std::string longest = "/" + std::string(RINGBUF_PATH_LEN - 2, 'p');
  EXPECT_TRUE(decode_path(Field<RINGBUF_PATH_LEN>(longest).text));
}

TEST(CodecPath, OtherPathsAreRefused) {
  for (const std::string path : {"", "a", "a/b", "/", "//", "//a", "/a/", "/a//b", "/.", "/..", "/a/.", "/a/..", "/../a", "/./a",
                                 "/a/../b", "/a\nb", "/a\x7f", "/\x01"}) {
    const auto got = decode_path(Field<RINGBUF_PATH_LEN>(path).text);
    ASSERT_FALSE(got) << path;
    EXPECT_EQ(got.error().err, EINVAL);
  }
  EXPECT_FALSE(decode_path(Field<RINGBUF_PATH_LEN>(std::string(RINGBUF_PATH_LEN, '/')).text)) << "no NUL";
  Field<RINGBUF_PATH_LEN> behind("/a");
  behind.text[255] = 1;
  EXPECT_FALSE(decode_path(behind.text));
}

TEST(CodecPath, AWrongPathIsShownWithWhatIsWrong) {
  EXPECT_EQ(path_error("/a/b"), "");
  EXPECT_EQ(path_error("a"), "'a' is not a pin path: it must begin with '/'");
  EXPECT_EQ(path_error(""), "'' is not a pin path: it must begin with '/'");
  for (const std::string path : {"/", "/a/../b", "/a/.", "/a/", "//a"})
    EXPECT_EQ(path_error(path), "'" + path + "' is not a pin path: no part may be empty, '.' or '..'");
  EXPECT_EQ(path_error("/a\nb"), "'/a?b' is not a pin path: it may have no control characters");
  EXPECT_EQ(path_error("/" + std::string(254, 'p')), "");
  const std::string longer = "/" + std::string(255, 'p');
  EXPECT_EQ(path_error(longer), "'" + longer + "' is not a pin path: it may have at most 255 bytes");
}

TEST(CodecPath, EncodingRefusesLongPaths) {
  char field[RINGBUF_PATH_LEN];
  EXPECT_TRUE(encode_path("/" + std::string(254, 'p'), field));
  EXPECT_EQ(encode_path("/" + std::string(255, 'p'), field).error().err, ENAMETOOLONG);
}

// --- names of codes ----------------------------------------------------------------------------------------------------------

TEST(CodecNames, CodesHaveTheNamesOfTheAbi) {
  EXPECT_STREQ(command_name(RINGBUF_HELLO), "HELLO");
  EXPECT_STREQ(command_name(RINGBUF_MAP_CREATE), "MAP_CREATE");
  EXPECT_STREQ(command_name(RINGBUF_MAP_GET_NEXT_ID), "MAP_GET_NEXT_ID");
  EXPECT_STREQ(command_name(RINGBUF_MAP_GET_FD_BY_ID), "MAP_GET_FD_BY_ID");
  EXPECT_STREQ(command_name(RINGBUF_MAP_GET_FD_BY_NAME), "MAP_GET_FD_BY_NAME");
  EXPECT_STREQ(command_name(RINGBUF_OBJ_PIN), "OBJ_PIN");
  EXPECT_STREQ(command_name(RINGBUF_OBJ_GET), "OBJ_GET");
  EXPECT_STREQ(command_name(RINGBUF_OBJ_UNPIN), "OBJ_UNPIN");
  EXPECT_STREQ(command_name(RINGBUF_OBJ_GET_INFO_BY_FD), "OBJ_GET_INFO_BY_FD");
  EXPECT_STREQ(command_name(RINGBUF_OBJ_GET_PIN), "OBJ_GET_PIN");
  EXPECT_STREQ(command_name(RINGBUF_MAP_GET_ATTACHMENT), "MAP_GET_ATTACHMENT");
  EXPECT_STREQ(command_name(RINGBUF_ATTACH), "ATTACH");
  EXPECT_STREQ(command_name(RINGBUF_DETACH), "DETACH");
  EXPECT_STREQ(command_name(RINGBUF_MAP_LOOKUP_ELEM), "MAP_LOOKUP_ELEM");
  EXPECT_STREQ(command_name(RINGBUF_MAP_UPDATE_ELEM), "MAP_UPDATE_ELEM");
  EXPECT_STREQ(command_name(RINGBUF_MAP_DELETE_ELEM), "MAP_DELETE_ELEM");
  EXPECT_STREQ(command_name(RINGBUF_MAP_GET_NEXT_KEY), "MAP_GET_NEXT_KEY");
  EXPECT_STREQ(command_name(RINGBUF_MAP_GET_FD_BY_KEY), "MAP_GET_FD_BY_KEY");
  EXPECT_STREQ(command_name(RINGBUF_MAP_NARROW), "MAP_NARROW");
  EXPECT_STREQ(role_name(RINGBUF_PRODUCER), "producer");
  EXPECT_STREQ(role_name(RINGBUF_CONSUMER), "consumer");
  EXPECT_STREQ(role_name(RINGBUF_OBSERVER), "observer");
  EXPECT_STREQ(lost_name(RINGBUF_LOST_FULL), "full");
  EXPECT_STREQ(lost_name(RINGBUF_LOST_TOO_BIG), "too_big");
  EXPECT_STREQ(lost_name(RINGBUF_LOST_BUSY), "busy");
  EXPECT_STREQ(lost_name(RINGBUF_LOST_LOCK), "lock");
  EXPECT_STREQ(map_type_name(12), "array_of_maps");
  EXPECT_STREQ(map_type_name(13), "hash_of_maps");
  EXPECT_STREQ(map_type_name(27), "ringbuf");
  EXPECT_STREQ(map_type_name(31), "user_ringbuf");
  for (const unsigned code : {100u, UINT32_MAX}) {
    EXPECT_STREQ(command_name(code), "?");
    EXPECT_STREQ(role_name(code), "?");
    EXPECT_STREQ(lost_name(code), "?");
    EXPECT_STREQ(map_type_name(code), "?");
  }
  EXPECT_EQ(rights_name(0), "none");
  EXPECT_EQ(rights_name(RINGBUF_RIGHT_OBSERVE | RINGBUF_RIGHT_CONSUME), "observe, consume");
  EXPECT_EQ(rights_name(RINGBUF_RIGHT_ALL), "observe, produce, consume, manage");
}

TEST(Codec, ABodyThatIsNotThereReadsAsZero) {
  const auto got = decode_as<ringbuf_path_req>(Bytes{});
  ASSERT_TRUE(got);
  EXPECT_EQ(got->path[0], 0);
}

TEST(Codec, RandomFramesNeverDecodeToMoreThanTheyHold) {
  std::mt19937 random(1);
  for (int i = 0; i < 20000; ++i) {
    std::vector<std::byte> frame(random() % 128);
    for (auto& b : frame) b = static_cast<std::byte>(random() % 4 ? 0 : random());
    const auto m = decode(frame);
    if (!m) continue;
    EXPECT_EQ(m->body.size(), frame.size() - sizeof(ringbuf_wire_hdr));
    (void)decode_as<ringbuf_map_create_req>(m->body);
    (void)decode_as<ringbuf_path_req>(m->body);
  }
}

}  // namespace
}  // namespace ringbuf::wire
