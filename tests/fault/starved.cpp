// SPDX-License-Identifier: MIT
// ringbufd, of which the RINGBUF_TEST_ALLOCATION-th allocation fails, or all from it on, once it has read its options. It says
// when it comes to that.
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>

#include "daemon/options.hpp"
#include "daemon/service.hpp"
#include "fault/failing_alloc.hpp"

int main(int argc, char** argv) {
  using namespace ringbuf::test;
  const auto options = ringbuf::daemon::parse_options(argc, argv);
  if (!options) return 2;
  spdlog::set_default_logger(spdlog::stderr_color_st("ringbufd"));
  spdlog::set_level(spdlog::level::from_str(options->log_level));
  on_failed_allocation = [] { (void)!::write(STDERR_FILENO, "no memory\n", 10); };
  if (const char* nth = std::getenv("RINGBUF_TEST_ALLOCATION"))
    fail_allocation(static_cast<unsigned>(std::atoi(nth)), std::getenv("RINGBUF_TEST_ONCE") ? Fails::Once : Fails::FromThenOn);
  try {
    return ringbuf::daemon::serve(argc, argv, *options);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "ringbufd: %s\n", e.what());
    return 1;
  }
}
