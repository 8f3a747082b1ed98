// SPDX-License-Identifier: MIT
// A peer that mistreats the descriptors it was given harms itself at most: the other side of the ring, its fellows and the daemon
// go on.
#include <sys/epoll.h>
#include <sys/resource.h>

#include <thread>

#include "daemon_process.hpp"

using namespace ringbuf::test;

namespace {

class Abuse : public ::testing::Test {
 protected:
  // A consumer that sleeps gets `n` records from an honest producer process, and the daemon still answers.
  void expect_all_is_well(int n = 300) {
    struct Count {
      int seen = 0;
      static int call(void* ctx, void*, std::size_t size) {
        static_cast<Count*>(ctx)->seen += size == 5;
        return 0;
      }
    } count;
    const auto consumer = consumer_of(map, Count::call, &count);
    const auto observer = observer_of(map);
    ChildProcess honest([&] {
      const auto producer = producer_of(open_id(daemon.connect(), id));
      for (int i = 0; i < n; ++i) {
        // Each record meets a consumer that sleeps or is about to, so each needs a wakeup.
        wait_until(
            [&] { return stats_of(observer).waiting > 0 && stats_of(observer).consumer_pos == stats_of(observer).producer_pos; });
        CHILD_CHECK(put(producer, "honor") == 0);
      }
      return 0;
    });
    const auto poller = poller_of({consumer.get()});
    while (count.seen < n) ASSERT_GE(ringbuf_poll(poller.get(), -1), 0);
    EXPECT_EQ(honest.exit_code(), 0);
    EXPECT_EQ(info_of(map).id, id);
    const auto another = daemon.connect();
    EXPECT_EQ(info_of(open_id(another, id)).id, id);
  }

  // fn(producer) mistreats what a producer process has; then it stays until the test is over.
  template <class F>
  void beside_bad_producer(F&& fn) {
    Gate ready, done;
    ChildProcess bad([&] {
      auto producer = producer_of(open_id(daemon.connect(), id));
      const int r = fn(producer);
      ready.open();
      done.pass();
      return r;
    });
    ready.pass();
    expect_all_is_well();
    done.open();
    EXPECT_EQ(bad.exit_code(), 0);
    expect_all_is_well();  // also after it left
  }

  Daemon daemon;
  SessionPtr session = daemon.connect();
  MapPtr map = create_map(session, "abused");
  const std::uint32_t id = info_of(map).id;
};

int fill_and_block(int signal_fd) {
  std::uint64_t n = 0;
  (void)!::read(signal_fd, &n, sizeof n);
  CHILD_CHECK(::fcntl(signal_fd, F_SETFL, ::fcntl(signal_fd, F_GETFL) & ~O_NONBLOCK) == 0);
  n = UINT64_MAX - 1;
  CHILD_CHECK(::write(signal_fd, &n, sizeof n) == sizeof n);
  return 0;  // the next write to it would block for ever
}

TEST_F(Abuse, AProducerFillsItsEventfdAndMakesItBlock) {
  beside_bad_producer([](const ProducerPtr& p) { return fill_and_block(ringbuf_producer_view(p.get())->signal_fd); });
}

TEST_F(Abuse, AProducerDrainsItsEventfdAllTheTime) {
  Gate ready;
  ChildProcess bad([&] {
    const auto producer = producer_of(open_id(daemon.connect(), id));
    const int fd = ringbuf_producer_view(producer.get())->signal_fd;
    ready.open();
    for (std::uint64_t n = 1;;) {
      (void)!::write(fd, &n, sizeof n);  // and rings for nothing
      (void)!::read(fd, &n, sizeof n);
      n = 1;
    }
    return 0;
  });
  ready.pass();
  expect_all_is_well();
  bad.kill(SIGKILL);
  bad.wait();
  expect_all_is_well();
}

TEST_F(Abuse, AProducerClosesItsEventfd) {
  beside_bad_producer([](const ProducerPtr& p) {
    const int fd = ringbuf_producer_view(p.get())->signal_fd;
    CHILD_CHECK(::close(fd) == 0);
    CHILD_CHECK(put(p, "evil", RINGBUF_FORCE_WAKEUP) == 0);  // no one is told, and it does not hang
    CHILD_CHECK(::dup2(STDERR_FILENO, fd) == fd);            // so that freeing closes something harmless
    return 0;
  });
}

TEST_F(Abuse, AProducerPutsSomethingElseInItsEventfdsPlace) {
  beside_bad_producer([](const ProducerPtr& p) {
    const int fd = ringbuf_producer_view(p.get())->signal_fd;
    const int null = ::open("/dev/full", O_RDWR | O_CLOEXEC);
    CHILD_CHECK(::dup2(null, fd) == fd);
    CHILD_CHECK(put(p, "evil", RINGBUF_FORCE_WAKEUP) == 0);
    return 0;
  });
}

TEST_F(Abuse, AProducerKeepsCopiesAfterItDetached) {
  Gate ready, done;
  ChildProcess bad([&] {
    auto producer = producer_of(open_id(daemon.connect(), id));
    const int copy = ::fcntl(ringbuf_producer_view(producer.get())->signal_fd, F_DUPFD_CLOEXEC, 3);
    producer.reset();
    const int r = fill_and_block(copy);
    ready.open();
    done.pass();
    return r;
  });
  ready.pass();
  expect_all_is_well();
  done.open();
  EXPECT_EQ(bad.exit_code(), 0);
}

// A dead producer's eventfd that was left full, then its slot taken over.
TEST_F(Abuse, ABlockedEventfdGoesWithItsProducer) {
  ChildProcess([&] {
    const auto producer = producer_of(open_id(daemon.connect(), id));
    return fill_and_block(ringbuf_producer_view(producer.get())->signal_fd);
  }).wait();
  expect_all_is_well();
}

// --- consumers -----------------------------------------------------------------------------------------------------------------

class BadConsumer : public Abuse {
 protected:
  // While a consumer process has done fn(consumer) to itself, producers come, work and go; then a good consumer takes over.
  template <class F>
  void beside_bad_consumer(F&& fn) {
    Gate ready, done;
    ChildProcess bad([&] {
      const auto consumer = consumer_of(open_id(daemon.connect(), id), Gather::call, nullptr);
      const int fd = ringbuf_consumer_epoll_fd(consumer.get());
      CHILD_CHECK(fd >= 0);
      const int r = fn(fd);
      ready.open();
      done.pass();
      return r;
    });
    ready.pass();
    {
      const auto first = producer_of(map);
      for (int i = 0; i < 50; ++i) {  // each commit that finds the consumer caught up writes an eventfd
        const auto another = producer_of(map);
        EXPECT_EQ(put(another, "x", RINGBUF_FORCE_WAKEUP), 0);
        EXPECT_EQ(put(first, "x", RINGBUF_FORCE_WAKEUP), 0);
      }
    }
    EXPECT_EQ(info_of(map).producers, 0u);
    done.open();
    EXPECT_EQ(bad.exit_code(), 0);
    wait_until([&] { return info_of(map).consumers == 0; });
    EXPECT_EQ(ringbuf_consumer_reset(consumer_of(map, nullptr, nullptr).get()), 100 * 16);
    expect_all_is_well();
  }
};

TEST_F(BadConsumer, ClosesItsEpollDescriptor) {
  beside_bad_consumer([](int fd) {
    CHILD_CHECK(::close(fd) == 0);
    CHILD_CHECK(::dup2(STDERR_FILENO, fd) == fd);
    return 0;
  });
}

TEST_F(BadConsumer, FillsItsEpollDescriptorWithItsOwnThings) {
  beside_bad_consumer([](int fd) {
    for (int i = 0; i < 200; ++i) {
      int ends[2];
      CHILD_CHECK(::pipe2(ends, O_CLOEXEC) == 0);
      CHILD_CHECK(::write(ends[1], "x", 1) == 1);  // always ready
      epoll_event e{};
      e.events = EPOLLIN;
      CHILD_CHECK(::epoll_ctl(fd, EPOLL_CTL_ADD, ends[0], &e) == 0);
    }
    return 0;
  });
}

// The kernel limits how many wakeup paths a descriptor may have: with the consumer's epoll in hundreds of others, adding another
// producer's eventfd to it fails. That is the consumer's own affair.
TEST_F(BadConsumer, NestsItsEpollDescriptorInHundredsOfOthers) {
  beside_bad_consumer([](int fd) {
    int nested = 0;
    for (; nested < 700; ++nested) {
      const int outer = ::epoll_create1(EPOLL_CLOEXEC);
      if (outer < 0) break;
      epoll_event e{};
      e.events = EPOLLIN;
      if (::epoll_ctl(outer, EPOLL_CTL_ADD, fd, &e) < 0) break;
    }
    CHILD_CHECK(nested > 400);
    return 0;
  });
}

TEST_F(BadConsumer, NestsItsEpollDescriptorDeeply) {
  beside_bad_consumer([](int fd) {
    for (int depth = 0, inner = fd; depth < 10; ++depth) {
      const int outer = ::epoll_create1(EPOLL_CLOEXEC);
      epoll_event e{};
      e.events = EPOLLIN;
      if (::epoll_ctl(outer, EPOLL_CTL_ADD, inner, &e) < 0) break;
      inner = outer;
    }
    return 0;
  });
}

TEST_F(BadConsumer, IsKilledWhileItSleeps) {
  Gate ready;
  ChildProcess bad([&] {
    const auto consumer = consumer_of(open_id(daemon.connect(), id), Gather::call, nullptr);
    ready.open();
    return ringbuf_poll(poller_of({consumer.get()}).get(), -1);
  });
  ready.pass();
  const auto observer = observer_of(map);
  wait_until([&] { return stats_of(observer).waiting == 1; });
  bad.kill(SIGKILL);
  bad.wait();
  wait_until([&] { return info_of(map).consumers == 0; });
  EXPECT_EQ(stats_of(observer).waiting, 0u) << "nobody sleeps: commits must cost no system call";
  expect_all_is_well();
}

}  // namespace
