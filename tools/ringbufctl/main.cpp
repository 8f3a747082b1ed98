// SPDX-License-Identifier: MIT
// ringbufctl: look at BPF ring buffer maps of ringbufd, fill them and empty them.
#include <cstdio>
#include <span>

#include "cli.hpp"
#include "commands.hpp"
#include "output.hpp"
#include "signals.hpp"
#include "streams.hpp"
#include "writer.hpp"

namespace ringbufctl {
namespace {

Result<void> run(const Invocation& invocation, const Globals& globals) {
  switch (invocation.verb) {
    case Verb::kShow: return run_show(invocation, globals);
    case Verb::kCreate: return run_create(invocation, globals);
    case Verb::kOutput: return run_output(invocation, globals);
    case Verb::kConsume: return run_consume(invocation, globals);
    case Verb::kDrain: return run_drain(invocation, globals);
    case Verb::kDump: return run_dump(invocation, globals);
    case Verb::kSnapshot: return run_snapshot(invocation, globals);
    case Verb::kUpdate: return run_update(invocation, globals);
    case Verb::kLookup: return run_lookup(invocation, globals);
    case Verb::kDelete: return run_delete(invocation, globals);
    case Verb::kPin: return run_pin(invocation, globals);
    case Verb::kUnpin: return run_unpin(invocation, globals);
    case Verb::kVersion: return print(globals.json ? version_json(globals.pretty) : version_plain());
    case Verb::kHelp: return print(invocation.help);
    case Verb::kComplete: return run_complete(invocation);
  }
  return {};
}

// bpftool's way: a sentence on standard error, or an object on standard output for scripts.
int report(const Failure& failure, const Globals& globals) {
  if (failure.sentence.empty()) return failure.exit_code;  // said already
  // What standard output does not take is said on standard error.
  if (!globals.json || !print(failure_json(failure, globals.pretty)))
    std::fprintf(stderr, "Error: %s\n", failure.sentence.c_str());
  return failure.exit_code;
}

}  // namespace
}  // namespace ringbufctl

int main(int argc, char** argv) {
  using namespace ringbufctl;
  if (!keep_standard_descriptors()) return kFailed;
  catch_signals();
  Globals globals;
  const Result<Invocation> invocation = parse_command_line({argv, static_cast<size_t>(argc)}, globals);
  if (!invocation) return report(invocation.error(), globals);
  const Result<void> result = run(*invocation, globals);
  return result ? kDone : report(result.error(), globals);
}
