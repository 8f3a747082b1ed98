// SPDX-License-Identifier: MIT
// One function a command; each connects, acts and prints.
#pragma once

#include "cli.hpp"
#include "result.hpp"

namespace ringbufctl {

Result<void> run_show(const Invocation& invocation, const Globals& globals);
Result<void> run_create(const Invocation& invocation, const Globals& globals);
Result<void> run_pin(const Invocation& invocation, const Globals& globals);
Result<void> run_unpin(const Invocation& invocation, const Globals& globals);
Result<void> run_output(const Invocation& invocation, const Globals& globals);
Result<void> run_consume(const Invocation& invocation, const Globals& globals);
Result<void> run_drain(const Invocation& invocation, const Globals& globals);
Result<void> run_dump(const Invocation& invocation, const Globals& globals);
Result<void> run_snapshot(const Invocation& invocation, const Globals& globals);
Result<void> run_update(const Invocation& invocation, const Globals& globals);
Result<void> run_lookup(const Invocation& invocation, const Globals& globals);
Result<void> run_delete(const Invocation& invocation, const Globals& globals);
Result<void> run_complete(const Invocation& invocation);

}  // namespace ringbufctl
