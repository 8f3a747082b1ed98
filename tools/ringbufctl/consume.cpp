// SPDX-License-Identifier: MIT
// map consume: records out of a ring to standard output.
#include <cerrno>
#include <cstdio>

#include "client.hpp"
#include "commands.hpp"
#include "output.hpp"
#include "signals.hpp"
#include "streams.hpp"
#include "writer.hpp"

namespace ringbufctl {
namespace {

// What the callback needs. It ends the consumption by a negative return, after which its record counts as consumed: so it
// looks for reasons to stop only after it has put the record into the buffer.
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

}  // namespace

Result<void> run_consume(const Invocation& invocation, const Globals& globals) {
  if (const Result<void> writable = check_stdout(); !writable) return writable;
  const ConsumeOptions& options = invocation.consume;
  const Result<Session> session = connect(globals);
  if (!session) return tl::unexpected(session.error());
  const Result<Map> map = open_map(*session, *invocation.map, RINGBUF_RIGHT_CONSUME);
  if (!map) return tl::unexpected(map.error());

  Sink sink{invocation.format.value_or(globals.json ? Format::kJson : Format::kText), options.count, {}, false};
  ringbuf_consumer* raw_consumer = nullptr;
  int ret = ringbuf_consumer_attach(map->get(), on_record, &sink, &raw_consumer);
  if (ret < 0) return library_failure(ret);
  const Consumer consumer(raw_consumer);
  ringbuf_poller* raw_poller = nullptr;
  ret = ringbuf_poller_new(&raw_poller);
  if (ret < 0) return library_failure(ret);
  const Poller poller(raw_poller);  // freed before its consumer
  ret = ringbuf_poller_add(poller.get(), consumer.get());
  if (ret < 0) return library_failure(ret);

  const bool waits = options.follow || options.count;
  std::optional<Failure> failure;
  while (!sink.stopped && sink.left != 0 && !stop_requests()) {
    ret = waits ? ringbuf_poll(poller.get(), -1) : ringbuf_consume(consumer.get());
    if (ret < 0 && ret != -EINTR && !sink.stopped) {
      failure = library_failure(ret).value();
      break;
    }
    if (!sink.writer.flush()) break;
    if (ret == 0 && !waits) break;
  }
  sink.writer.flush();
  if (const Result<void> written = write_result(sink.writer); !written) return written;
  if (failure) return tl::unexpected(*failure);
  if (sink.left.value_or(0) > 0 && sink.writer.err() == 0) {
    return fail(kFailed, EINTR,
                "stopped by a signal after " + std::to_string(*options.count - *sink.left) + " of " +
                    std::to_string(*options.count) + " records");
  }
  return {};
}

}  // namespace ringbufctl
