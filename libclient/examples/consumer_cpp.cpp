// SPDX-License-Identifier: MIT
// consumer_cpp PIN COUNT: prints COUNT events from the ring pinned at PIN, sleeping while there are none.
#include <cstdio>
#include <cstdlib>

#include "event.h"
#include "ringbuf/ringbuf.hpp"

namespace {

int die(const ringbuf::Failure& failure) {
  std::fprintf(stderr, "consumer_cpp: %s\n", failure.what.c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: consumer_cpp PIN COUNT\n");
    return 2;
  }
  auto left = std::strtoul(argv[2], nullptr, 10);
  auto session = ringbuf::Session::connect();
  if (!session) return die(session.error());
  auto map = ringbuf::Map::open_pinned(*session, argv[1]);
  if (!map) return die(map.error());
  auto consumer = ringbuf::Consumer::attach(*map, [&left](std::span<const std::byte> record) {
    if (record.size() != sizeof(event)) return 0;  // not ours
    const auto* e = reinterpret_cast<const event*>(record.data());
    std::printf("%u %s\n", e->number, e->text);
    return --left == 0 ? -1 : 0;  // negative: stop here
  });
  if (!consumer) return die(consumer.error());
  auto poller = ringbuf::Poller::create();
  if (!poller) return die(poller.error());
  if (auto added = poller->add(*consumer); !added) return die(added.error());

  while (left != 0)
    if (poller->poll() < 0 && left != 0) return die({EIO, ringbuf_last_error()});
}
