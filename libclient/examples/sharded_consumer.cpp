// SPDX-License-Identifier: MIT
// sharded_consumer PIN RINGS COUNT: pins an array of RINGS rings at PIN (or uses the one that is there), prints COUNT events from
// all of them with the ring that each came from, sleeping while there are none. Serves both topologies of docs/topologies.md.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "event.h"
#include "ringbuf/ringbuf.hpp"

namespace {

int die(const ringbuf::Failure& failure) {
  std::fprintf(stderr, "sharded_consumer: %s\n", failure.what.c_str());
  return 1;
}

ringbuf::Expected<ringbuf::Map> create_shards(ringbuf::Session& session, const char* pin, std::uint32_t rings) {
  constexpr std::uint32_t kRingSize = 64 * 1024;
  auto first = ringbuf::Map::create(session, "shard", kRingSize);
  if (!first) return first;
  ringbuf_map_create_opts opts{};
  opts.sz = sizeof opts;
  opts.map_type = RINGBUF_MAP_TYPE_ARRAY_OF_MAPS;
  opts.key_size = opts.value_size = 4;
  opts.inner_map = first->get();  // what all of them are like
  auto shards = ringbuf::Map::create(session, "shards", rings, &opts);
  if (!shards) return shards;
  for (std::uint32_t i = 0; i < rings; ++i) {
    // The array keeps its rings; our own handles may go.
    auto ring = i == 0 ? std::move(first) : ringbuf::Map::create(session, "shard", kRingSize);
    if (!ring) return ring;
    if (auto put = shards->update(&i, *ring); !put) return tl::unexpected(put.error());
  }
  if (auto pinned = shards->pin(pin); !pinned) return tl::unexpected(pinned.error());  // the last step: it is complete
  return shards;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: sharded_consumer PIN RINGS COUNT\n");
    return 2;
  }
  auto left = std::strtoul(argv[3], nullptr, 10);
  auto session = ringbuf::Session::connect();
  if (!session) return die(session.error());
  auto shards = ringbuf::Map::open_pinned(*session, argv[1]);
  if (!shards && shards.error().err == ENOENT)
    shards = create_shards(*session, argv[1], static_cast<std::uint32_t>(std::strtoul(argv[2], nullptr, 10)));
  if (!shards) return die(shards.error());

  auto poller = ringbuf::Poller::create();
  if (!poller) return die(poller.error());
  std::vector<ringbuf::Consumer> consumers;
  const std::uint32_t rings = shards->info()->max_entries;
  consumers.reserve(rings);  // the poller remembers where they are
  for (std::uint32_t i = 0; i < rings; ++i) {
    auto ring = shards->open_inner(&i, RINGBUF_RIGHT_CONSUME);
    if (!ring) return die(ring.error());
    auto consumer = ringbuf::Consumer::attach(*ring, [&left, i](std::span<const std::byte> record) {
      if (record.size() != sizeof(event)) return 0;  // not ours
      const auto* e = reinterpret_cast<const event*>(record.data());
      std::printf("%u %d %u %s\n", i, e->pid, e->number, e->text);
      return --left == 0 ? -1 : 0;  // negative: stop here
    });
    if (!consumer) return die(consumer.error());
    consumers.push_back(std::move(*consumer));
    if (auto added = poller->add(consumers.back()); !added) return die(added.error());
  }
  std::printf("ready\n");
  std::fflush(stdout);
  while (left != 0)
    if (poller->poll() < 0 && left != 0) return die({EIO, ringbuf_last_error()});
}
