#!/bin/bash
# SPDX-License-Identifier: MIT
# model_test.sh MODEL holds[=FINALS]|fails=FLAG [-D...]: searches every state of a Promela model with spin. `holds`: no
# assertion fails and nothing ends where it must not, with FINALS different final states, for a model that prints them. `fails`:
# the assertion !FLAG does, and nothing before it. Prints one line; exits 77 if there is no spin or no C compiler (CC).
set -euo pipefail
export LC_ALL=C
model=$(readlink -f "$1") mode=$2
shift 2
cc=${CC:-cc}
name="$(basename "$model" .pml)${*:+ $*}"

skip() {
  echo "$name: skipped, $1"
  exit 77
}
command -v spin >/dev/null || skip "spin is not installed"
command -v "$cc" >/dev/null || skip "there is no C compiler $cc"

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
defines=("$@")
die() {
  cat generate search 2>/dev/null || true
  local trail=$dir/${model##*/}.trail
  [[ ! -f $trail ]] || spin -P"$cc -std=gnu99 -E -x c" -k "$trail" -p "${defines[@]}" "$model" | tail -n 60 || true
  echo "$name: FAILED, $1"
  exit 1
} >&2

spin -P"$cc -std=gnu99 -E -x c" -a "$@" "$model" >generate 2>&1 || die "spin refuses the model"
if [[ ! -f pan.c ]] || grep -qi error generate; then die "spin refuses the model"; fi
"$cc" -O1 -w -DSAFETY -DPRINTF -DMEMLIM=1024 -o pan pan.c >>generate 2>&1 || die "what spin wrote does not compile"
status=0
./pan -m100000 -w22 >search 2>&1 || status=$?

count=$(sed -n 's/^ *\([0-9]*\) states, stored.*/\1/p' search)
errors=$(sed -n 's/^State-vector .* errors: \([0-9]*\)$/\1/p' search)
[[ -n $count && -n $errors ]] || die "the search gave no result (exit $status)"
grep -q '^Full statespace search for:' search || die "the search was not a full one"
for check in 'assertion violations' 'invalid end states'; do
  grep -qE "^\s+$check\s+\+$" search || die "the search did not look for $check"
done

case $mode in
holds | holds=*)
  [[ $errors -eq 0 ]] || die "spin found an error"
  ! grep -qE 'max search depth too small|[Ss]earch not completed|MEMLIM|out of memory|truncated|aborted' search ||
    die "the search was cut short"
  [[ $status -eq 0 ]] || die "pan exits $status"
  finals=$(sed -n 's/^ *final: //p' search | sort -u)
  [[ $mode == holds || $(grep -c . <<<"$finals") -eq ${mode#*=} ]] || die "not ${mode#*=} final states: ${finals//$'\n'/; }"
  echo "$name: holds in all $count states${finals:+; finals: ${finals//$'\n'/; }}"
  ;;
fails=*)
  violation=$(grep '^pan:[0-9]*:' search) || die "spin found no error in $count states"
  [[ $errors -eq 1 && $violation =~ ^pan:1:\ assertion\ violated\ +!\(${mode#*=}\)\ \(at\ depth\ [0-9]+\)$ ]] ||
    die "the wrong error: $violation"
  echo "$name: fails as it must, ${mode#*=}, after $count states"
  ;;
*) die "unknown mode $mode" ;;
esac
