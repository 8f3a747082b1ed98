// SPDX-License-Identifier: MIT
// Cuts a stream of bytes into records without ever holding more than one record and a block.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace ringbufctl {

class Splitter {
 public:
  // A record of more than `limit` bytes is reported by its size alone. No delimiter: the whole stream is one record.
  Splitter(std::optional<char> delimiter, size_t limit) : delimiter_(delimiter), limit_(limit) {}

  struct Record {
    std::string_view data;  // valid until the next call; empty if size > limit
    uint64_t size;
  };

  // The next record that is complete, if there is one.
  std::optional<Record> next();
  // Reads one block. 1: go on with next(); 0: end of the stream; else a negative errno.
  int read_from(int fd);
  // After the end of the stream: what stands after the last delimiter. A whole stream counts even if it is empty.
  std::optional<Record> rest();

 private:
  Record take(size_t size);

  const std::optional<char> delimiter_;
  const size_t limit_;
  std::vector<char> buffer_;
  size_t begin_ = 0;      // of the record that is being read
  size_t scanned_ = 0;    // no delimiter before here
  size_t end_ = 0;        // of what was read
  uint64_t skipped_ = 0;  // bytes of an oversized record that were thrown away
};

}  // namespace ringbufctl
