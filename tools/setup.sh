#!/bin/bash
# SPDX-License-Identifier: MIT
# Installs what a Debian 12 machine lacks to build and test this project; with --build, not what only some of the tests use. Does
# nothing, and needs no root, if all is there.
set -euo pipefail

packages=(
  g++ cmake ninja-build ccache pkg-config
  libboost-dev libspdlog-dev libcli11-dev libtomlplusplus-dev nlohmann-json3-dev libexpected-dev
  libgtest-dev libbenchmark-dev
  jq
)
# The kernel half of the conformance tests, the models, systemd-analyze for the units, which are skipped without these; and the fuzz
# targets.
[[ ${1-} == --build ]] || packages+=(clang libbpf-dev spin systemd clang-14 libclang-rt-14-dev)

fail() {
  echo "setup: $*" >&2
  exit 1
}

command -v apt-get >/dev/null ||
  fail "this is not a Debian system; install by hand what stands for: ${packages[*]}"

missing=()
for package in "${packages[@]}"; do
  [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
done
[[ ${#missing[@]} -gt 0 ]] || exit 0

as_root=()
if [[ $(id -u) -ne 0 ]]; then
  command -v sudo >/dev/null || fail "these packages are missing: ${missing[*]}; install them as root, or install sudo"
  as_root=(sudo)
fi
as_root+=(env DEBIAN_FRONTEND=noninteractive)

echo "setup: installing ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
"${as_root[@]}" apt-get -q update >"$log" 2>&1 || {
  cat "$log" >&2
  fail "apt-get update failed (above): is there a network, and do the package sources work?"
}
"${as_root[@]}" apt-get -q -y --no-install-recommends install "${missing[@]}" >"$log" 2>&1 || {
  tail -n 30 "$log" >&2
  fail "apt-get install failed (above); these packages are missing: ${missing[*]}"
}
