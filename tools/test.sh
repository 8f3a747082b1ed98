#!/bin/bash
# SPDX-License-Identifier: MIT
# Builds the project three times and runs all tests each time: as shipped, with AddressSanitizer and UBSan, with
# ThreadSanitizer. Then lets each fuzz target search for half a minute. Stops at the first failure.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

presets=(dev asan tsan fuzz)
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Runs a command quietly; what it said is shown only if it fails.
quietly() {
  "$@" >"$log" 2>&1 || {
    tail -n 60 "$log" >&2
    echo "== failed: $*" >&2
    exit 1
  }
}

echo "== setup"
./tools/setup.sh
counts="" conformance=""
for preset in "${presets[@]}"; do
  echo "== $preset: building"
  quietly cmake --preset "$preset"
  quietly cmake --build --preset "$preset" -j "$(nproc)"
  echo "== $preset: testing"
  ctest --preset "$preset" -j "$(nproc)" --output-on-failure --no-tests=error | tee "$log"
  summary=$(sed -n 's/.*tests passed.* out of \([0-9]*\)$/\1/p' "$log")
  counts+="${counts:+, }$preset $summary"
  # The first preset is the one that has both sides.
  conformance=${conformance:-$(./tests/conformance/summary.sh "build/$preset/Testing/Temporary/LastTest.log")}
done
sed -n 's/^fuzz_\([a-z]*: .* executions, .*\)/fuzz \1/p' build/fuzz/Testing/Temporary/LastTest.log
echo "$conformance"
echo "== all tests passed: $counts"
