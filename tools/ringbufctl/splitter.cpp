// SPDX-License-Identifier: MIT
#include "splitter.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace ringbufctl {
namespace {

constexpr size_t kBlock = 256 * 1024;

}  // namespace

Splitter::Record Splitter::take(size_t size) {
  const uint64_t total = skipped_ + size;
  const Record record{total > limit_ ? std::string_view() : std::string_view(buffer_.data() + begin_, size), total};
  begin_ += size;
  skipped_ = 0;
  return record;
}

std::optional<Splitter::Record> Splitter::next() {
  if (!delimiter_ || scanned_ == end_) return std::nullopt;
  const void* found = std::memchr(buffer_.data() + scanned_, *delimiter_, end_ - scanned_);
  if (!found) {
    scanned_ = end_;
    return std::nullopt;
  }
  const size_t at = static_cast<size_t>(static_cast<const char*>(found) - buffer_.data());
  const Record record = take(at - begin_);
  scanned_ = begin_ = at + 1;
  return record;
}

int Splitter::read_from(int fd) {
  if (skipped_ + (end_ - begin_) > limit_) {  // it can never be sent: keep its size only
    skipped_ += end_ - begin_;
    begin_ = end_;
  }
  if (begin_ > 0) {
    std::copy(buffer_.begin() + static_cast<ptrdiff_t>(begin_), buffer_.begin() + static_cast<ptrdiff_t>(end_), buffer_.begin());
    end_ -= begin_;
    begin_ = 0;
    scanned_ = end_;
  }
  if (buffer_.size() < end_ + kBlock) buffer_.resize(std::max(end_ + kBlock, buffer_.size() * 2));
  const ssize_t n = ::read(fd, buffer_.data() + end_, buffer_.size() - end_);
  if (n < 0) return -errno;
  end_ += static_cast<size_t>(n);
  return n > 0;
}

std::optional<Splitter::Record> Splitter::rest() {
  if (delimiter_ && end_ == begin_ && skipped_ == 0) return std::nullopt;
  scanned_ = end_;
  return take(end_ - begin_);
}

}  // namespace ringbufctl
