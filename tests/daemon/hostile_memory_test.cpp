// SPDX-License-Identifier: MIT
// A ring's memory is filled with arbitrary values by a thread that never stops, while the daemon serves and reaps its clients and
// another ring is used: the daemon answers as ever, and the other ring has what was put into it.
#include <sys/mman.h>

#include <atomic>

#include "base/mapping.hpp"
#include "harness.hpp"
#include "ringbuf/shm/consumer.hpp"
#include "ringbuf/shm/producer.hpp"
#include "support/payload.hpp"

namespace ringbuf::test {
namespace {

using Access = Mapping::Access;

Mapping map_of(const Reply& attached, Access c, Access p) {
  const auto out = attached.as<ringbuf_attach_reply>();
  auto mapped =
      Mapping::map_ring(attached.fds.at(0).get(), attached.fds.at(1).get(), shm::Layout{out.page_size, out.max_entries}, c, p);
  if (!mapped) std::abort();
  return std::move(*mapped);
}

// Every word of C and P of one ring.
class Vandal {
 public:
  Vandal(const ringbuf_view& c, const ringbuf_view& p)
      : c_(c), p_(p), thread_([this] {
          while (!stop_) step(), ++steps_;
        }) {}
  ~Vandal() {
    stop_ = true;
    thread_.join();
  }
  bool done() const { return steps_ > 3'000'000; }

 private:
  std::uint64_t random() { return seed_ = mix(seed_); }
  void step() {
    const std::uint64_t r = random(), pos = random() % 65536;
    const std::uint64_t value = r % 5 == 0 ? random() : r % 5 == 1 ? pos : r % 5 == 2 ? pos & ~7ull : r % 5 == 3 ? 0 : -pos;
    const auto word = [&](auto* part, std::size_t size) {
      return reinterpret_cast<std::uint64_t*>(part) + random() % (size / 8);
    };
    std::uint64_t* at = nullptr;
    switch (random() % 5) {
      case 0: at = word(c_.consumer_page, sizeof *c_.consumer_page); break;
      case 1: at = word(p_.producer_page, sizeof *p_.producer_page); break;
      case 2: at = word(p_.slots, RINGBUF_SLOT_COUNT * sizeof(ringbuf_slot)); break;
      default: at = word(p_.data, p_.mask + 1);
    }
    std::atomic_ref(*at).store(value, std::memory_order_relaxed);
  }

  const ringbuf_view c_, p_;
  std::uint64_t seed_ = 1;
  std::atomic<bool> stop_{false};
  std::atomic<std::uint64_t> steps_{0};
  std::thread thread_;
};

struct Kind {
  const char* name;
  std::uint32_t map_type, map_flags;
};
class HostileMemory : public DaemonTest, public ::testing::WithParamInterface<Kind> {};

TEST_P(HostileMemory, HurtsNobodyElse) {
  Client owner(daemon), villain(daemon);
  auto spec = Client::spec(65536, "bad");
  spec.map_type = GetParam().map_type;
  spec.map_flags = GetParam().map_flags;
  const auto bad = villain.create(spec), good = owner.create();
  const int bad_token = bad.fds.at(0).get(), good_token = good.fds.at(0).get();

  const auto p = owner.attach(good_token, RINGBUF_PRODUCER), c = owner.attach(good_token, RINGBUF_CONSUMER);
  const Mapping p_memory = map_of(p, Access::ReadOnly, Access::ReadWrite),
                c_memory = map_of(c, Access::ReadWrite, Access::ReadOnly);
  ringbuf_view p_view = p_memory.view(), c_view = c_memory.view();
  p_view.map_type = c_view.map_type = 27;
  p_view.slot = p.as<ringbuf_attach_reply>().slot;
  p_view.signal_fd = p.fds.at(2).get();
  std::vector<std::uint64_t> told(RINGBUF_SLOT_COUNT);
  c_view.room_told = told.data();
  const shm::Producer producer(p_view);
  const shm::Consumer consumer(c_view);

  const auto writes = villain.attach(bad_token, RINGBUF_PRODUCER), reads = villain.attach(bad_token, RINGBUF_CONSUMER);
  const Mapping its_p = map_of(writes, Access::ReadOnly, Access::ReadWrite),
                its_c = map_of(reads, Access::ReadWrite, Access::ReadOnly);
  ASSERT_EQ(villain.detach(writes.as<ringbuf_attach_reply>().attachment).err(), 0);  // a user ring has one; it keeps its mapping
  ASSERT_EQ(villain.detach(reads.as<ringbuf_attach_reply>().attachment).err(), 0);
  const Vandal vandal(its_c.view(), its_p.view());
  std::uint64_t sent = 0, received = 0, deaths = 0;
  for (; deaths < 200 || !vandal.done(); ++deaths) {
    {
      Client dies(daemon);
      const auto token = dies.by_id(bad.as<ringbuf_map_id_reply>().id);
      for (const unsigned role : {RINGBUF_PRODUCER, RINGBUF_CONSUMER, RINGBUF_OBSERVER})
        EXPECT_EQ(dies.attach(token.fds.at(0).get(), role).err(), 0);
      EXPECT_EQ(owner.info(token.fds.at(0).get()).err(), 0);
      dies.close();
      // It is buried before the next one may have the single producer's place.
      eventually([&] { return villain.info(bad_token).as<ringbuf_map_info>().producers == 0; });
    }
    for (int i = 0; i < 10; ++i) ASSERT_EQ(producer.output(&++sent, sizeof sent, 0), 0);
    consumer.consume(
        [&](void* data, std::size_t size) {
          std::uint64_t n = 0;
          EXPECT_EQ(size, sizeof n);
          std::memcpy(&n, data, sizeof n);
          EXPECT_EQ(n, ++received);
          return 0;
        },
        SIZE_MAX);
    ASSERT_EQ(received, sent);
  }
  std::printf("%llu deaths in a ring that changes all the time\n", static_cast<unsigned long long>(deaths));
}

INSTANTIATE_TEST_SUITE_P(Of, HostileMemory,
                         ::testing::Values(Kind{"ARing", 27, 0}, Kind{"AnOverwrittenRing", 27, shm::kFlagOverwrite},
                                           Kind{"AUserRing", 31, 0}),
                         [](const auto& kind) { return kind.param.name; });

}  // namespace
}  // namespace ringbuf::test
