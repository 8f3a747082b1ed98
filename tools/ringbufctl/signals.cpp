// SPDX-License-Identifier: MIT
#include "signals.hpp"

#include <unistd.h>

#include <csignal>

namespace ringbufctl {
namespace {

volatile std::sig_atomic_t requests = 0;

void on_stop(int) {
  requests = requests + 1;
  alarm(1);
}

// A signal that comes between the check of stop_requests() and the call that sleeps would be missed: keep knocking.
void on_alarm(int) { alarm(1); }

void handle(int signal, void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;  // and no SA_RESTART
  sigaction(signal, &action, nullptr);
}

}  // namespace

void catch_signals() {
  handle(SIGINT, on_stop);
  handle(SIGTERM, on_stop);
  handle(SIGALRM, on_alarm);
  handle(SIGPIPE, SIG_IGN);
}

int stop_requests() { return requests; }

}  // namespace ringbufctl
