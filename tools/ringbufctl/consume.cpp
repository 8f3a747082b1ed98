// SPDX-License-Identifier: MIT
// map consume, map drain: records out of a ring to standard output.
#include <poll.h>

#include <cerrno>
#include <cstdio>
#include <functional>
#include <memory>

#include "client.hpp"
#include "commands.hpp"
#include "output.hpp"
#include "signals.hpp"
#include "streams.hpp"
#include "writer.hpp"

namespace ringbufctl {
namespace {

// What the callback needs. It ends the consumption by a negative return, after which its record counts as consumed: so it
// looks for reasons to stop only after it has put the record into the buffer. A drain stops at such a return as well.
struct Sink {
  Format format;
  std::optional<uint64_t> left;  // of --count
  Writer writer;
  bool stopped = false;

  int take(std::string_view data) {
    append_record(writer.buffer(), format, data);
    if (!writer.record_done() || (left && --*left == 0) || stop_requests()) stopped = true;
    return stopped ? -ECANCELED : 0;
  }
};

int on_record(void* ctx, void* data, size_t size) {
  return static_cast<Sink*>(ctx)->take(std::string_view(static_cast<const char*>(data), size));
}

// The two ways to take records out. `take` gives what the ring has to the sink; `take_or_sleep` sleeps if there is nothing. Both
// return a negative errno on failure.
struct Source {
  Consumer consumer;
  std::function<int64_t()> take, take_or_sleep;
};

Result<Source> attach(const Map& map, Sink& sink) {
  ringbuf_consumer* raw = nullptr;
  if (const int ret = ringbuf_consumer_attach(map.get(), on_record, &sink, &raw); ret < 0) return library_failure(ret);
  return Source{Consumer(raw), nullptr, nullptr};
}

Result<Source> consuming(const Map& map, Sink& sink) {
  Result<Source> source = attach(map, sink);
  if (!source) return source;
  ringbuf_consumer* const consumer = source->consumer.get();
  ringbuf_poller* raw = nullptr;
  int ret = ringbuf_poller_new(&raw);
  if (ret < 0) return library_failure(ret);
  const std::shared_ptr<ringbuf_poller> poller(raw, ringbuf_poller_free);
  ret = ringbuf_poller_add(raw, consumer);
  if (ret < 0) return library_failure(ret);
  source->take = [consumer] { return ringbuf_consume(consumer); };
  source->take_or_sleep = [poller] { return ringbuf_poll(poller.get(), -1); };
  return source;
}

Result<Source> draining(const Map& map, Sink& sink) {
  Result<Source> source = attach(map, sink);
  if (!source) return source;
  ringbuf_consumer* const consumer = source->consumer.get();
  source->take = [consumer, &sink] { return ringbuf_drain(consumer, on_record, &sink, 0); };
  source->take_or_sleep = [consumer, take = source->take]() -> int64_t {
    pollfd ready{ringbuf_consumer_epoll_fd(consumer), POLLIN, 0};
    if (ready.fd < 0) return ready.fd;
    if (::poll(&ready, 1, -1) < 0) return -errno;
    return take();
  };
  return source;
}

Loss missed_by(const Source& source) {
  Loss missed;
  ringbuf_consumer_missed(source.consumer.get(), &missed.records, &missed.bytes);
  return missed;
}

// Records that were overwritten before they could be consumed. In JSON an object of its own, after the records.
void report_missed(const Loss& missed, const Writer& writer, const Globals& globals) {
  if (missed.records == 0) return;
  if (globals.json && writer.err() == 0 && print(missed_json(missed, globals.pretty))) return;
  std::fputs(missed_plain(missed).c_str(), stderr);
}

// Records that left the ring and did not reach anybody are never passed over in silence.
Result<void> write_result(const Writer& writer) {
  if (writer.err() == 0) return {};
  const std::string lost = std::to_string(writer.unwritten()) + " records were consumed but not wholly written";
  if (writer.err() == EPIPE) {  // `| head`: the reader had what it wanted
    std::fprintf(stderr, "ringbufctl: standard output was closed; %s\n", lost.c_str());
    return {};
  }
  return fail(kFailed, writer.err(), write_failure(writer.err()) + "; " + lost);
}

Result<void> take_records(Result<Source> (*from)(const Map&, Sink&), const Invocation& invocation, const Globals& globals) {
  if (const Result<void> writable = check_stdout(); !writable) return writable;
  const ConsumeOptions& options = invocation.consume;
  const Result<Session> session = connect(globals);
  if (!session) return tl::unexpected(session.error());
  const Result<OpenMap> map = open_map_for(*session, invocation, RINGBUF_RIGHT_CONSUME);
  if (!map) return tl::unexpected(map.error());

  Sink sink{invocation.format.value_or(globals.json ? Format::kJson : Format::kText), options.count, {}, false};
  const Result<Source> source = from(map->map, sink);
  if (!source) return tl::unexpected(source.error());
  const Loss missed_before = missed_by(*source);

  const bool waits = options.follow || options.count;
  std::optional<Failure> failure;
  while (!sink.stopped && sink.left != 0 && !stop_requests()) {
    const uint64_t pos = ringbuf_consumer_query(source->consumer.get(), RINGBUF_CONS_POS);
    const int64_t ret = waits ? source->take_or_sleep() : source->take();
    if (ret < 0 && ret != -EINTR && !sink.stopped) {
      failure = library_failure(static_cast<int>(ret), "a producer has damaged the ring: create a new map").value();
      failure->exit_code = kFailed;  // EINVAL is what the kernel calls a damaged user ring
      break;
    }
    if (!sink.writer.flush()) break;
    // One call need not take all that is there, and may take nothing but discarded records.
    if (!waits && ringbuf_consumer_query(source->consumer.get(), RINGBUF_CONS_POS) == pos) break;
  }
  sink.writer.flush();
  const Loss missed = missed_by(*source);
  report_missed({missed.records - missed_before.records, missed.bytes - missed_before.bytes}, sink.writer, globals);
  if (const Result<void> written = write_result(sink.writer); !written) return written;
  if (failure) return tl::unexpected(*failure);
  if (sink.left.value_or(0) > 0 && sink.writer.err() == 0) {
    return fail(kFailed, EINTR,
                "stopped by a signal after " + std::to_string(*options.count - *sink.left) + " of " +
                    std::to_string(*options.count) + " records");
  }
  return {};
}

}  // namespace

Result<void> run_consume(const Invocation& invocation, const Globals& globals) {
  return take_records(consuming, invocation, globals);
}

Result<void> run_drain(const Invocation& invocation, const Globals& globals) {
  return take_records(draining, invocation, globals);
}

}  // namespace ringbufctl
