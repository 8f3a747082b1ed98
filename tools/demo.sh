#!/bin/bash
# SPDX-License-Identifier: MIT
# Shows the whole thing at work: a private ringbufd, three producer processes that push real text files of this machine
# through one small ring, and a consumer that sleeps when there is nothing to do. Checks that every line arrived exactly
# once and each producer's lines in order. Leaves nothing behind but build/dev.
#
#   tools/demo.sh                   install what is missing, build, run
#   tools/demo.sh --build-dir DIR   run what is already built in DIR
set -euo pipefail
top=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
export LC_ALL=C

at_least=5000 # lines
producers=(p1 p2 p3)

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[[ -t 1 ]] || say() { printf '\n%s\n' "$*"; }
fail() {
  echo "demo: $*" >&2
  exit 1
}

case $# in
  0)
    say "1. Install what is missing, build"
    "$top/tools/setup.sh" --build
    build="$top/build/dev"
    cd "$top"
    cmake --preset dev >/dev/null
    cmake --build --preset dev -j "$(nproc)" --target ringbufd ringbufctl
    ;;
  2)
    [[ $1 == --build-dir ]] || fail "unknown option '$1': use --build-dir DIR or nothing"
    say "1. Use what is built in $2"
    build=$(cd "$2" && pwd)
    ;;
  *) fail "use --build-dir DIR or nothing" ;;
esac
PATH="$build/daemon:$build/tools/ringbufctl:$PATH"
command -v ringbufd ringbufctl >/dev/null || fail "no ringbufd and ringbufctl in $build: build them first"

dir=$(mktemp -d)
pids=()
cleanup() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait
  rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 1' INT TERM
cd "$dir"

say "2. Collect text that this machine already has"
# Deals the files out to the producers like cards, licence texts first. A file with NUL bytes is not text.
find /usr/share/common-licenses /var/log/dpkg.log /usr/share/perl /usr/share/doc -type f \
  \( -path '*/common-licenses/*' -o -name copyright -o -name dpkg.log -o -name '*.p[lm]' \) -readable -print0 2>/dev/null |
  xargs -0 -r grep -IlZ '' >files || true
number=0
while IFS= read -r -d '' file; do
  producer=${producers[number++ % ${#producers[@]}]}
  printf '%s\0' "$file" >>"$producer.files"
done <files
total=0
for producer in "${producers[@]}"; do
  [[ -s $producer.files ]] || fail "too few text files on this machine"
  # Each line says who sends it and which one it is; empty lines are records like all others.
  xargs -0 cat <"$producer.files" | awk -v who="$producer" '{ print who, NR, $0 }' >"$producer.sent"
  lines=$(wc -l <"$producer.sent")
  total=$((total + lines))
  echo "$producer: $lines lines of $(tr -cd '\0' <"$producer.files" | wc -c) files, such as $(head -z -n 1 "$producer.files" | tr -d '\0')"
done
[[ $total -ge $at_least ]] || fail "only $total lines of text on this machine; at least $at_least are needed"

say "3. Start ringbufd and create a ring of 64 KiB"
export RINGBUFD_SOCKET="$dir/ringbufd.sock"
exec 3< <(exec ringbufd --log-level info 2>&1)
pids+=($!)
line=""
while [[ $line != *ready* ]]; do
  read -r line <&3 || fail "ringbufd did not start: $line"
  echo "$line"
done
cat <&3 >ringbufd.log &
echo "$ ringbufctl map create /demo --size 64K"
ringbufctl map create /demo --size 64K

say "4. Start the consumer; nothing is there yet, so it sleeps"
echo "$ ringbufctl map consume /demo --count $total"
ringbufctl map consume /demo --count "$total" >received &
consumer=$!
pids+=("$consumer")
until [[ $(ringbufctl -j map show pinned /demo | jq .waiting) -gt 0 ]]; do
  kill -0 "$consumer" 2>/dev/null || fail "the consumer ended early"
done
ringbufctl map show pinned /demo

say "5. Three producers push their files, waiting for room when the ring is full"
begin=$(date +%s%N)
running=()
for producer in "${producers[@]}"; do
  echo "$ ringbufctl map output /demo < $producer.sent"
  ringbufctl map output /demo <"$producer.sent" 2>"$producer.summary" &
  running+=($!)
  pids+=($!)
done
for i in "${!producers[@]}"; do
  wait "${running[i]}" || fail "${producers[i]}: $(cat "${producers[i]}.summary")"
  echo "${producers[i]}: $(cat "${producers[i]}.summary")"
done
wait "$consumer" || fail "the consumer failed"
took=$(($(date +%s%N) - begin))

say "6. What happened"
state=$(ringbufctl -j map show pinned /demo)
jq -r --argjson ns "$took" '
  "records    \(.records)",
  "bytes      \(.bytes)",
  "wakeups    \(.wakeups)   (times that the consumer was woken from sleep)",
  "drops      \([.lost[]] | add)",
  "time       \($ns / 1e6 | floor) ms, start of the processes included",
  "rate       \(.records * 1e9 / $ns | floor) records/s, \(.bytes * 1e3 / $ns | floor) MB/s"' <<<"$state"
echo
echo "$ ringbufctl map show pinned /demo"
ringbufctl map show pinned /demo

say "7. Check"
bad=0
for producer in "${producers[@]}"; do
  if grep -a "^$producer " received | cmp -s - "$producer.sent"; then
    echo "$producer: every line arrived exactly once and in order"
  else
    echo "$producer: LINES ARE MISSING, DOUBLED OR OUT OF ORDER"
    bad=1
  fi
done
received=$(wc -l <received)
drops=$(jq '[.lost[]] | add' <<<"$state")
if [[ $received -ne $total || $drops -ne 0 ]]; then
  echo "$total lines sent, $received received, $drops dropped"
  bad=1
fi
[[ $bad -eq 0 ]] || fail "the ring did NOT do its work"
echo "All $total lines went through the ring: the demo passed."
