// SPDX-License-Identifier: MIT
// map dump, map snapshot: what is in a map, without taking it out. Of a ring records, of a map of maps elements.
#include <cerrno>
#include <set>

#include "client.hpp"
#include "commands.hpp"
#include "map_type.hpp"
#include "output.hpp"
#include "signals.hpp"
#include "streams.hpp"
#include "writer.hpp"

namespace ringbufctl {
namespace {

// Items as a JSON array, or one after the other.
class Listing {
 public:
  Listing(bool array, bool pretty) : array_(array), pretty_(pretty) {
    if (array_) writer_.buffer() = "[";
  }

  bool array() const { return array_; }
  bool pretty() const { return pretty_; }

  // `append` writes one item to the string that it is given. False: stop.
  template <class F>
  bool add(F&& append) {
    if (array_ && count_ > 0) writer_.buffer() += ",";
    count_++;
    append(writer_.buffer());
    return writer_.record_done() && !stop_requests();
  }

  // `noun`: what was found, for people; nullptr: they get nothing but the items.
  Result<void> finish(std::optional<Failure> failure, const char* noun) {
    if (array_) {
      if (failure) add([&](std::string& out) { out += failure_json(*failure, pretty_); });  // as bpftool, inside what was begun
      writer_.buffer() += "]\n";
    } else if (!failure && noun) {
      writer_.buffer() += "Found " + std::to_string(count_) + " " + noun + (count_ == 1 ? "\n" : "s\n");
    }
    if (!writer_.flush() && writer_.err() != EPIPE) return fail(kFailed, writer_.err(), write_failure(writer_.err()));
    if (!failure) return {};
    if (array_) failure->sentence.clear();  // it was said already
    return tl::unexpected(*failure);
  }

 private:
  const bool array_;
  const bool pretty_;
  uint64_t count_ = 0;
  Writer writer_;
};

struct Records {
  Format format;
  Listing listing;
};

int on_record(void* ctx, uint64_t pos, uint32_t flags, uint32_t slot, const void* data, size_t size) {
  Listing& listing = static_cast<Records*>(ctx)->listing;
  const DumpRecord record{pos, flags, slot, size, {static_cast<const char*>(data), data ? size : 0}};
  const bool more = listing.add([&](std::string& out) {
    if (listing.array()) {
      out += dump_record_json(record, listing.pretty());
    } else {
      append_dump_record(out, static_cast<Records*>(ctx)->format, record);
    }
  });
  return more ? 0 : -ECANCELED;
}

Result<void> show_records(decltype(ringbuf_observer_dump)* walk, const Session& session, const Invocation& invocation,
                          const Globals& globals) {
  const Result<OpenMap> map = open_map_for(session, invocation, RINGBUF_RIGHT_OBSERVE);
  if (!map) return tl::unexpected(map.error());
  ringbuf_observer* raw = nullptr;
  if (const int ret = ringbuf_observer_attach(map->map.get(), &raw); ret < 0) return library_failure(ret);
  const Observer observer(raw);

  const bool array = globals.json && invocation.format.value_or(Format::kJson) == Format::kJson;
  Records records{invocation.format.value_or(Format::kText), Listing(array, globals.pretty)};
  const int64_t shown = walk(observer.get(), on_record, &records);
  std::optional<Failure> failure;
  if (shown < 0 && shown != -ECANCELED) {
    const char* hint = shown == -EAGAIN ? "try again when they are slower, or create the map with a larger --size" : "";
    failure = library_failure(static_cast<int>(shown), hint).value();
  }
  const bool for_people = records.format == Format::kText || records.format == Format::kHex;
  return records.listing.finish(failure, for_people ? "record" : nullptr);
}

Result<void> show_elements(const OpenMap& outer, const Invocation& invocation, const Globals& globals) {
  if (invocation.format) {
    return fail(kUsage, EINVAL, "--format is for records, and " + label(outer.info) + " holds maps: use --json, or leave it out");
  }
  Listing listing(globals.json, globals.pretty);
  std::optional<Failure> failure;
  std::set<std::string> seen;  // when a key is deleted under our hands, the walk begins again
  std::string key, next(outer.info.key_size, '\0');
  for (bool more = true; more && !stop_requests();) {
    int ret = ringbuf_map_get_next_key(outer.map.get(), key.empty() ? nullptr : key.data(), next.data());
    if (ret == -ENOENT) break;
    key = next;
    uint32_t id = 0;
    if (ret == 0 && seen.insert(key).second) ret = ringbuf_map_lookup_elem(outer.map.get(), key.data(), &id);
    if (ret < 0 && ret != -ENOENT) {
      failure = library_failure(ret).value();
      break;
    }
    if (id == 0) continue;  // an array's empty place, or seen
    more = listing.add(
        [&](std::string& out) { out += globals.json ? element_json(key, id, globals.pretty) : element_plain(key, id); });
  }
  return listing.finish(failure, "element");
}

}  // namespace

Result<void> run_dump(const Invocation& invocation, const Globals& globals) {
  if (const Result<void> writable = check_stdout(); !writable) return writable;
  const Result<Session> session = connect(globals);
  if (!session) return tl::unexpected(session.error());
  const Result<OpenMap> map = open_map_for(*session, invocation, 0);
  if (!map) return tl::unexpected(map.error());
  if (is_map_of_maps(map->info.type)) return show_elements(*map, invocation, globals);
  return show_records(ringbuf_observer_dump, *session, invocation, globals);
}

Result<void> run_snapshot(const Invocation& invocation, const Globals& globals) {
  if (const Result<void> writable = check_stdout(); !writable) return writable;
  const Result<Session> session = connect(globals);
  if (!session) return tl::unexpected(session.error());
  return show_records(ringbuf_observer_snapshot, *session, invocation, globals);
}

}  // namespace ringbufctl
