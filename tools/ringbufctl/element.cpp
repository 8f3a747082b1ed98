// SPDX-License-Identifier: MIT
// map update, map lookup, map delete: the elements of a map of maps.
#include <bit>
#include <cerrno>

#include "client.hpp"
#include "commands.hpp"
#include "map_type.hpp"
#include "output.hpp"
#include "writer.hpp"

namespace ringbufctl {
namespace {

bool is_integer_size(size_t size) { return size == 1 || size == 2 || size == 4 || size == 8; }

tl::unexpected<Failure> key_error(const std::string& sentence) { return fail(kUsage, EINVAL, sentence); }

// The key_size bytes that the words stand for: they may be bytes, one number in native order, or text with zeros behind it.
Result<std::string> key_of(const KeyWords& words, const ringbuf_map_info& outer) {
  const size_t size = outer.key_size;
  const std::string has = label(outer) + " has keys of " + std::to_string(size) + " bytes";
  if (words.text) {
    if (outer.type == RINGBUF_MAP_TYPE_ARRAY_OF_MAPS)
      return key_error(label(outer) + " is an array: its keys are numbers, as in 'key 2'");
    if (words.text->size() > size) return key_error(has + ", and '" + *words.text + "' is longer: use a shorter word");
    std::string key = *words.text;
    key.resize(size);
    return key;
  }
  if (words.numbers.size() == size) {
    std::string key;
    for (const uint64_t byte : words.numbers) {
      if (byte > UINT8_MAX) return key_error(std::to_string(byte) + " is not a byte: " + has);
      key += static_cast<char>(byte);
    }
    return key;
  }
  if (words.numbers.size() == 1 && is_integer_size(size)) {
    const uint64_t number = words.numbers[0];
    if (size < sizeof(number) && number >> (8 * size) != 0) return key_error(std::to_string(number) + " is too large: " + has);
    const size_t begin = std::endian::native == std::endian::little ? 0 : sizeof(number) - size;
    return std::string(reinterpret_cast<const char*>(&number) + begin, size);
  }
  return key_error(has + ", but the key given has " + std::to_string(words.numbers.size()) + ": give as many bytes" +
                   (is_integer_size(size) ? ", or one number" : ", or 'text WORD'"));
}

// What each of the three needs first.
struct Place {
  OpenMap outer;
  std::string key;
};

Result<Place> find_place(const Session& session, const Invocation& invocation, uint32_t rights) {
  Result<OpenMap> outer = open_map_for(session, invocation, rights);
  if (!outer) return tl::unexpected(outer.error());
  Result<std::string> key = key_of(invocation.element.key, outer->info);
  if (!key) return tl::unexpected(key.error());
  return Place{std::move(*outer), std::move(*key)};
}

Result<void> report(int ret, const Place& place, const std::string& success, std::string hint = "") {
  if (ret == 0) return success.empty() ? Result<void>{} : print(success);
  if (ret == -ENOENT && hint.empty())
    hint = "'ringbufctl map dump id " + std::to_string(place.outer.info.id) + "' shows what it holds";
  return library_failure(ret, hint);
}

}  // namespace

Result<void> run_update(const Invocation& invocation, const Globals& globals) {
  const Result<Session> session = connect(globals);
  if (!session) return tl::unexpected(session.error());
  const Result<Place> place = find_place(*session, invocation, RINGBUF_RIGHT_MANAGE);
  if (!place) return tl::unexpected(place.error());
  // Those who get at it through the outer map have at most the rights that we have.
  const Result<Map> inner = open_map(*session, *invocation.element.value, 0);
  if (!inner) return tl::unexpected(inner.error());
  const uint64_t flags = invocation.element.flags;
  const int ret = ringbuf_map_update_elem(place->outer.map.get(), place->key.data(), inner->get(), flags);
  const bool by_flags =
      ret == -EEXIST || ret == -ENOENT || (ret == -EINVAL && place->outer.info.type == RINGBUF_MAP_TYPE_ARRAY_OF_MAPS);
  std::string hint;
  if (flags != RINGBUF_ANY && by_flags) hint = std::string("leave '") + (flags == RINGBUF_EXIST ? "exist" : "noexist") + "' out";
  return report(ret, *place, globals.json ? null_json() : "", hint);
}

Result<void> run_lookup(const Invocation& invocation, const Globals& globals) {
  const Result<Session> session = connect(globals);
  if (!session) return tl::unexpected(session.error());
  const Result<Place> place = find_place(*session, invocation, 0);
  if (!place) return tl::unexpected(place.error());
  uint32_t id = 0;
  const int ret = ringbuf_map_lookup_elem(place->outer.map.get(), place->key.data(), &id);
  return report(ret, *place, globals.json ? element_json(place->key, id, globals.pretty) + "\n" : element_plain(place->key, id));
}

Result<void> run_delete(const Invocation& invocation, const Globals& globals) {
  const Result<Session> session = connect(globals);
  if (!session) return tl::unexpected(session.error());
  const Result<Place> place = find_place(*session, invocation, RINGBUF_RIGHT_MANAGE);
  if (!place) return tl::unexpected(place.error());
  const int ret = ringbuf_map_delete_elem(place->outer.map.get(), place->key.data());
  return report(ret, *place, globals.json ? null_json() : "");
}

}  // namespace ringbufctl
