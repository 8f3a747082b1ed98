// SPDX-License-Identifier: MIT
// sharded_producer PIN cpu|tgid COUNT: sends COUNT events into the array of rings pinned at PIN: each to the ring of the CPU that
// it happens on, or all to the ring that this process' id leads to.
#include <sched.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "event.h"
#include "ringbuf/ringbuf.hpp"

namespace {

int die(const ringbuf::Failure& failure) {
  std::fprintf(stderr, "sharded_producer: %s\n", failure.what.c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  const bool by_cpu = argc == 4 && std::strcmp(argv[2], "cpu") == 0;
  if (argc != 4 || (!by_cpu && std::strcmp(argv[2], "tgid") != 0)) {
    std::fprintf(stderr, "usage: sharded_producer PIN cpu|tgid COUNT\n");
    return 2;
  }
  const auto count = static_cast<unsigned>(std::strtoul(argv[3], nullptr, 10));
  auto session = ringbuf::Session::connect();
  if (!session) return die(session.error());
  auto shards = ringbuf::Map::open_pinned(*session, argv[1], RINGBUF_RIGHT_PRODUCE);
  if (!shards) return die(shards.error());
  auto producer = ringbuf::ShardedProducer::attach(*shards, by_cpu ? RINGBUF_SHARD_CPU : RINGBUF_SHARD_TGID);
  if (!producer) return die(producer.error());

  for (unsigned i = 0; i < count; ++i) {
    ringbuf::Reservation reservation;
    while (!(reservation = producer->reserve(sizeof(event)))) {
      if (errno != EAGAIN) return die({errno, std::strerror(errno)});
      ::sched_yield();  // this ring is full; who can drop events would count and go on
    }
    auto* e = new (reservation.data()) event{};
    e->pid = ::getpid();
    e->number = i;
    std::snprintf(e->text, sizeof e->text, "from one of many");
    reservation.submit();
  }
}
