#!/bin/bash
# SPDX-License-Identifier: MIT
# summary.sh LASTTEST_LOG: one line about how many conformance cases ran on each side, from what ctest has written about its last
# run, with the reasons that the tests gave for those that were skipped.
set -euo pipefail
awk '
  function count() {
    if (side == "") return
    if (reason == "") ++ran[side]
    else if (++skipped[side, reason] == 1) reasons[side] = reasons[side] SUBSEP reason
    side = ""
  }
  function tell(side, name,    n, i, list, text, total) {
    n = split(reasons[side], list, SUBSEP)
    for (i = 2; i <= n; ++i) {
      total += skipped[side, list[i]]
      text = text (i > 2 ? "; " : "") (n > 2 ? skipped[side, list[i]] " " : "") list[i]
    }
    return name " " ran[side] + 0 (total ? " (" total " skipped: " text ")" : "")
  }
  /^[0-9]+\/[0-9]+ Testing: / {
    count()
    reason = ""
    if ($3 ~ /^conformance\..*\/(Ours|Kernel)$/) side = $3 ~ /Ours$/ ? "Ours" : "Kernel"
  }
  side != "" && take { reason = $0; take = 0 }
  /: Skipped$/ { take = 1 }
  END {
    count()
    print "== conformance: " tell("Ours", "ours") ", " tell("Kernel", "kernel")
  }' "$1"
