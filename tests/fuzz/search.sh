#!/bin/bash
# SPDX-License-Identifier: MIT
# Lets one fuzz target search for some seconds, from its corpus on, and tells how far it came. What it finds fails the run and is
# kept in crashes/ beside the target. Usage: search.sh TARGET CORPUS SECONDS
set -u
target=${1:?usage: search.sh TARGET CORPUS SECONDS} corpus=${2:?} seconds=${3:?}
name=$(basename "$target")
crashes=$(dirname "$target")/crashes
mkdir -p "$crashes"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/new"

dictionary=$(dirname "$corpus")/../${name#fuzz_}.dict
options=(-max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=1024 -print_final_stats=1 -artifact_prefix="$crashes/$name-")
[[ ! -e $dictionary ]] || options+=(-dict="$dictionary")
if ! "$target" "${options[@]}" "$work/new" "$corpus" >"$work/log" 2>&1; then
  tail -n 60 "$work/log"
  echo "$name: the input is $(sed -n 's/.*Test unit written to //p' "$work/log" | tail -n 1)"
  exit 1
fi
executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/log")
rate=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$work/log")
features=$(sed -n 's/.* ft: \([0-9]*\) .*/\1/p' "$work/log" | tail -n 1)
known=$(sed -n 's/.*INITED.* ft: \([0-9]*\) .*/\1/p' "$work/log" | tail -n 1)
echo "$name: ${executions:?} executions, $rate a second; $features features, the corpus has ${known:-0} of them"
