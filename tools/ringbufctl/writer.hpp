// SPDX-License-Identifier: MIT
// Standard output, buffered, which knows how many records it did not get rid of.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "result.hpp"

namespace ringbufctl {

class Writer {
 public:
  // Where the next record's bytes go; call record_done() after them.
  std::string& buffer() { return buffer_; }
  // False: stop, a write failed.
  bool record_done();
  bool flush();

  // 0, or the positive errno of the first failed write.
  int err() const { return err_; }
  // Records that are not, or not wholly, written.
  uint64_t unwritten() const { return err_ ? ends_.size() : 0; }

 private:
  std::string buffer_;
  std::vector<size_t> ends_;  // of the records in it
  int err_ = 0;
};

// Writes all of `text` to standard output. A reader that has gone is not a failure: it had what it wanted.
Result<void> print(const std::string& text);

}  // namespace ringbufctl
