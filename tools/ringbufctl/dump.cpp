// SPDX-License-Identifier: MIT
// map dump, map snapshot: what is in a ring, without consuming it.
#include <cerrno>

#include "client.hpp"
#include "commands.hpp"
#include "output.hpp"
#include "signals.hpp"
#include "streams.hpp"
#include "writer.hpp"

namespace ringbufctl {
namespace {

struct Dump {
  Format format;
  bool array;  // JSON array of all records, else a line each
  bool pretty;
  uint64_t count = 0;
  Writer writer;

  void add(const std::string& json) { writer.buffer() += (count++ ? "," : "") + json; }

  int take(const DumpRecord& record) {
    if (array) {
      add(dump_record_json(record, pretty));
    } else {
      append_dump_record(writer.buffer(), format, record);
      count++;
    }
    return writer.record_done() && !stop_requests() ? 0 : -ECANCELED;
  }
};

int on_record(void* ctx, uint64_t pos, uint32_t flags, uint32_t slot, const void* data, size_t size) {
  const std::string_view bytes(static_cast<const char*>(data), data ? size : 0);
  return static_cast<Dump*>(ctx)->take({pos, flags, slot, size, bytes});
}

Result<void> show_records(decltype(ringbuf_observer_dump)* walk, const Invocation& invocation, const Globals& globals) {
  if (const Result<void> writable = check_stdout(); !writable) return writable;
  const Result<Session> session = connect(globals);
  if (!session) return tl::unexpected(session.error());
  const Result<OpenMap> map = open_map_for(*session, invocation, RINGBUF_RIGHT_OBSERVE);
  if (!map) return tl::unexpected(map.error());
  ringbuf_observer* raw = nullptr;
  int ret = ringbuf_observer_attach(map->map.get(), &raw);
  if (ret < 0) return library_failure(ret);
  const Observer observer(raw);

  const bool array = globals.json && invocation.format.value_or(Format::kJson) == Format::kJson;
  Dump dump{invocation.format.value_or(Format::kText), array, globals.pretty, 0, {}};
  if (array) dump.writer.buffer() = "[";
  const int64_t shown = walk(observer.get(), on_record, &dump);
  std::optional<Failure> failure;
  if (shown < 0 && shown != -ECANCELED) {
    const char* hint = shown == -EAGAIN ? "try again when they are slower, or create the map with a larger --size" : "";
    failure = library_failure(static_cast<int>(shown), hint).value();
  }
  if (array) {
    if (failure) dump.add(failure_json(*failure, globals.pretty));  // as bpftool, inside what was begun
    dump.writer.buffer() += "]\n";
  } else if (!failure && (dump.format == Format::kText || dump.format == Format::kHex)) {
    dump.writer.buffer() += "Found " + std::to_string(dump.count) + (dump.count == 1 ? " record\n" : " records\n");
  }
  if (!dump.writer.flush() && dump.writer.err() != EPIPE) {
    return fail(kFailed, dump.writer.err(), write_failure(dump.writer.err()));
  }
  if (failure && array) failure->sentence.clear();  // it was said already
  if (failure) return tl::unexpected(*failure);
  return {};
}

}  // namespace

Result<void> run_dump(const Invocation& invocation, const Globals& globals) {
  return show_records(ringbuf_observer_dump, invocation, globals);
}

Result<void> run_snapshot(const Invocation& invocation, const Globals& globals) {
  return show_records(ringbuf_observer_snapshot, invocation, globals);
}

}  // namespace ringbufctl
