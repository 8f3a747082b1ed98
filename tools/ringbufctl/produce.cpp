// SPDX-License-Identifier: MIT
// map output: standard input into a ring, one record a line.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <optional>

#include "client.hpp"
#include "commands.hpp"
#include "output.hpp"
#include "signals.hpp"
#include "splitter.hpp"
#include "streams.hpp"
#include "writer.hpp"

namespace ringbufctl {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kProgressMs = 200;

// One line on a terminal that is written over again and again; nothing at all elsewhere.
class Progress {
 public:
  explicit Progress(bool wanted) : on_(wanted && ::isatty(STDERR_FILENO)), last_(Clock::now()) {}
  ~Progress() { clear(); }

  bool on() const { return on_; }

  void update(const SendSummary& sent) {
    if (!on_) return;
    const Clock::time_point now = Clock::now();
    const double seconds = std::chrono::duration<double>(now - last_).count();
    if (seconds * 1000 < kProgressMs) return;
    std::fprintf(stderr, "\r%llu records, %llu bytes, %.0f records/s\033[K", static_cast<unsigned long long>(sent.records),
                 static_cast<unsigned long long>(sent.bytes), static_cast<double>(sent.records - last_records_) / seconds);
    shown_ = true;
    last_ = now;
    last_records_ = sent.records;
  }

  void clear() {
    if (shown_) std::fputs("\r\033[K", stderr);
    shown_ = false;
  }

 private:
  const bool on_;
  bool shown_ = false;
  Clock::time_point last_;
  uint64_t last_records_ = 0;
};

// As the header of ringbuf_reserve has it: a RINGBUF always keeps 8 bytes free.
size_t largest_record(const ringbuf_map_info& info) {
  if (info.type == RINGBUF_MAP_TYPE_USER_RINGBUF) {
    return std::min<size_t>(info.max_entries - RINGBUF_HEADER_SIZE, RINGBUF_MAX_DYNPTR_SIZE);
  }
  return std::min<size_t>(info.max_entries - 2 * RINGBUF_HEADER_SIZE, RINGBUF_LEN_MASK);
}

// The library has no sentence for what fails on its hot path.
Failure reserve_failure(int err) {
  if (err == EBUSY)
    return {kFailed, err, "another producer of this map has stopped in the middle of a reservation; end or continue it"};
  return {kFailed, err, std::string("reserve a record: ") + std::strerror(err)};
}

class Sender {
 public:
  Sender(ringbuf_producer* producer, const OutputOptions& options, size_t largest, bool json)
      : producer_(producer), options_(options), largest_(largest), json_(json), progress_(!json) {}

  // After a signal or a failure nothing is sent any more, and what was read already counts as dropped.
  void send(const Splitter::Record& record) {
    if (++count_ % 256 == 0) progress_.update(sent_);
    if (stopped()) {
      sent_.dropped++;
    } else if (record.size > largest_) {
      refuse(record.size);
    } else if (const int ret = options_.no_wait ? ringbuf_output(producer_, record.data.data(), record.data.size(), 0)
                                                : wait_and_send(record.data);
               ret == 0) {
      sent_.records++;
      sent_.bytes += record.size;
    } else {
      sent_.dropped++;
      if (options_.no_wait && ret == -EAGAIN) {
        dropped_on_purpose_++;
        return;
      }
      stopped_ = true;
      if (ret != -EINTR) fail_with(reserve_failure(-ret));
    }
  }

  bool stopped() {
    if (stop_requests()) stopped_ = true;
    return stopped_;
  }

  void tick() { progress_.update(sent_); }

  Result<void> finish(const Globals& globals) {
    progress_.clear();
    if (stop_requests() && sent_.dropped > dropped_on_purpose_) {
      fail_with({kFailed, EINTR, "stopped by a signal with records that were read but not sent"});
    }
    const Failure* failure = failure_ ? &*failure_ : nullptr;
    if (json_) {
      const Result<void> printed = print(summary_json(sent_, failure, globals.pretty));
      if (!printed) return printed;
    } else {
      std::fputs(summary_plain(sent_).c_str(), stderr);
    }
    if (!failure) return {};
    Failure result = *failure;
    if (json_ || told_) result.sentence.clear();  // it was said already
    return tl::unexpected(result);
  }

  void fail_with(Failure failure) {
    if (!failure_) failure_ = std::move(failure);
  }

 private:
  // Sleeps until there is room; 0 or a negative errno.
  int wait_and_send(std::string_view data) {
    for (;;) {
      if (void* room = ringbuf_reserve_wait(producer_, data.size(), progress_.on() ? kProgressMs : -1)) {
        if (!data.empty()) std::memcpy(room, data.data(), data.size());
        ringbuf_submit(producer_, room, 0);
        return 0;
      }
      const int err = errno;
      if (err != EINTR && err != ETIMEDOUT && err != ENOSPC) return -err;  // ENOSPC: a user ring's ETIMEDOUT
      if (stop_requests()) return -EINTR;
      progress_.update(sent_);
    }
  }

  // A record that can never fit: the ring counts it as too_big, and the first one is reported.
  void refuse(uint64_t size) {
    ringbuf_reserve(producer_, size, 0);
    sent_.dropped++;
    if (failure_) return;
    failure_ = Failure{kFailed, E2BIG,
                       "record " + std::to_string(sent_.records + sent_.dropped) + " has " + std::to_string(size) +
                           " bytes, but this ring takes at most " + std::to_string(largest_) +
                           " in one; it and others like it are dropped: use a map of a larger --size"};
    if (json_) return;
    progress_.clear();
    std::fprintf(stderr, "Error: %s\n", failure_->sentence.c_str());
    told_ = true;
  }

  ringbuf_producer* producer_;
  const OutputOptions& options_;
  const size_t largest_;
  const bool json_;
  bool told_ = false;
  bool stopped_ = false;
  uint64_t count_ = 0;
  SendSummary sent_;
  uint64_t dropped_on_purpose_ = 0;
  std::optional<Failure> failure_;
  Progress progress_;
};

}  // namespace

Result<void> run_output(const Invocation& invocation, const Globals& globals) {
  if (const Result<void> readable = check_stdin(); !readable) return readable;
  const Result<Session> session = connect(globals);
  if (!session) return tl::unexpected(session.error());
  const Result<OpenMap> map = open_map_for(*session, invocation, RINGBUF_RIGHT_PRODUCE);
  if (!map) return tl::unexpected(map.error());
  ringbuf_producer* raw = nullptr;
  if (const int ret = ringbuf_producer_attach(map->map.get(), &raw); ret < 0) return library_failure(ret);
  const Producer producer(raw);

  const OutputOptions& options = invocation.output;
  const size_t largest = largest_record(map->info);
  Splitter splitter(options.whole ? std::nullopt : std::optional<char>(options.nul ? '\0' : '\n'), largest);
  Sender sender(producer.get(), options, largest, globals.json);

  int ret = 1;
  while (ret > 0 && !sender.stopped()) {
    ret = splitter.read_from(STDIN_FILENO);
    if (ret == -EINTR) ret = 1;  // stopped() tells
    while (const std::optional<Splitter::Record> record = splitter.next()) sender.send(*record);
    sender.tick();
  }
  if (ret < 0) sender.fail_with({kFailed, -ret, std::string("read standard input: ") + std::strerror(-ret)});
  if (const std::optional<Splitter::Record> last = splitter.rest()) sender.send(*last);
  return sender.finish(globals);
}

}  // namespace ringbufctl
