#!/bin/bash
# SPDX-License-Identifier: MIT
# units_test.sh SERVICE DIRECTORY RINGBUFD: the units pass systemd's own checks: nothing that it does not understand, and an exposure
# below 2.0. SERVICE is the configured one; DIRECTORY has the rest.
set -euo pipefail
service=$(realpath "$1") directory=$(realpath "$2") ringbufd=$3
command -v systemd-analyze >/dev/null || {
  echo "units_test: there is no systemd-analyze; skipped"
  exit 77
}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
fail() {
  echo "units_test: $*" >&2
  exit 1
}

sed "s|^ExecStart=[^ ]*/ringbufd |ExecStart=$ringbufd |" "$service" >"$dir/ringbufd.service"
grep -q "^ExecStart=$ringbufd --supervise " "$dir/ringbufd.service" || fail "ringbufd is not started as expected"
cp "$directory/ringbufd.socket" "$dir"
cd "$dir"

said=$(systemd-analyze verify ./ringbufd.service ./ringbufd.socket 2>&1) || fail "verify: $said"
# Of other units of this machine it may say what it likes.
! grep ringbufd <<<"$said" || fail "verify is not content (above)"

# 20 is 2.0.
systemd-analyze security --offline=true --threshold=20 ./ringbufd.service >report 2>&1 ||
  fail "security: $(grep -v '^✓' report)"
grep -i 'exposure level' report

# The checks check.
sed -i 's/^ProtectSystem=/ProtectSystems=/' ringbufd.service
grep -q ProtectSystems < <(systemd-analyze verify ./ringbufd.service 2>&1) || fail "a misspelt setting is not noticed"
grep -vE '^(Protect|Private|Restrict|SystemCall|Capability)' ringbufd.service >open.service
! systemd-analyze security --offline=true --threshold=20 ./open.service >/dev/null 2>&1 || fail "an open service is not noticed"

# Every user that a unit names is one that sysusers makes.
user=$(sed -n 's/^User=//p' ringbufd.service)
grep -q "^u $user " "$directory/ringbufd.sysusers" || fail "nobody makes the user $user"
