// SPDX-License-Identifier: MIT
// producer_cpp PIN COUNT: sends COUNT events into the ring pinned at PIN, which it creates if it is not there.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "event.h"
#include "ringbuf/ringbuf.hpp"

namespace {

ringbuf::Expected<ringbuf::Map> open_or_create(ringbuf::Session& session, const char* pin) {
  auto map = ringbuf::Map::open_pinned(session, pin, RINGBUF_RIGHT_PRODUCE);
  if (map || map.error().err != ENOENT) return map;
  map = ringbuf::Map::create(session, "example", 64 * 1024);
  if (map)
    if (auto pinned = map->pin(pin); !pinned) return tl::unexpected(pinned.error());
  return map;
}

int die(const ringbuf::Failure& failure) {
  std::fprintf(stderr, "producer_cpp: %s\n", failure.what.c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: producer_cpp PIN COUNT\n");
    return 2;
  }
  const auto count = static_cast<unsigned>(std::strtoul(argv[2], nullptr, 10));
  auto session = ringbuf::Session::connect();
  if (!session) return die(session.error());
  auto map = open_or_create(*session, argv[1]);
  if (!map) return die(map.error());
  auto producer = ringbuf::Producer::attach(*map);
  if (!producer) return die(producer.error());

  for (unsigned i = 0; i < count; ++i) {
    auto reservation = producer->reserve_wait(sizeof(event));
    if (!reservation) return die({errno, std::strerror(errno)});
    auto* e = new (reservation.data()) event{};
    e->pid = ::getpid();
    e->number = i;
    std::snprintf(e->text, sizeof e->text, "hello from C++, %u", i);
    if (i % 10 == 9) continue;  // think better of it: the reservation discards itself
    reservation.submit();
  }
}
