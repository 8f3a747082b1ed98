#!/bin/bash
# SPDX-License-Identifier: MIT
# Rules that no compiler checks: where atomics may be, that each sync point has both its ends, who may include whom, and which
# third-party library stays in which room. Usage: source_rules.sh SOURCE_DIR
set -u
cd "${1:?usage: source_rules.sh SOURCE_DIR}" || exit 2

ring=proto/include/ringbuf/shm/ring.hpp
failed=0
complain() {
  echo "source_rules: $1" >&2
  [ -z "${2-}" ] || printf '    %s\n' "${2//$'\n'/$'\n    '}" >&2
  failed=1
}

# sources DIR...: the C and C++ files there.
sources() {
  local dirs=()
  for d in "$@"; do [ -d "$d" ] && dirs+=("$d"); done
  [ ${#dirs[@]} -eq 0 ] || find "${dirs[@]}" -name '*.[ch]' -o -name '*.[ch]pp' | sort
}
# matches PATTERN FILE...: like grep -nE, silent without files.
matches() {
  local pattern=$1
  shift
  [ $# -eq 0 ] || grep -nHE "$pattern" "$@"
}

mapfile -t all < <(sources proto libclient daemon tools)
[ ${#all[@]} -gt 0 ] || complain "no sources found in $PWD"
[ -f "$ring" ] || complain "$ring is missing"

# 1. Atomics are in ring.hpp only.
mapfile -t others < <(printf '%s\n' "${all[@]}" | grep -vxF "$ring")
found=$(matches 'memory_order|__atomic_|__sync_|atomic_(thread|signal)_fence|std::atomic|<atomic>|<stdatomic\.h>' "${others[@]}")
[ -z "$found" ] || complain "atomics belong into $ring" "$found"

# 2. In ring.hpp each atomic operation carries its tag; the test-only weakened variants are none of it.
ops=$(awk '/^#if.*RINGBUF_TEST_WEAKEN/ {skip = 1} /^#(else|endif)/ {skip = 0}
           !skip && /memory_order|atomic_(thread|signal)_fence/ {print NR ": " $0}' "$ring")
untagged=$(grep -vE '// S[0-8]' <<<"$ops")
[ -z "$untagged" ] || complain "an atomic operation without its sync point's tag (// S0 .. // S8)" "$untagged"

# 3. Each sync point has a reading and a writing end.
rmw='exchange|fetch_(add|sub|or|and)|compare_exchange'
for tag in S1 S2 S3 S4 S5 S6 S7 S8; do
  tagged=$(grep -E "// .*\\b$tag\\b" <<<"$ops")
  grep -qE "\\.load\\(|$rmw" <<<"$tagged" || complain "$tag has no reading end in $ring"
  grep -qE "\\.store\\(|$rmw" <<<"$tagged" || complain "$tag has no writing end in $ring"
done
# The two stores that must be full barriers (S4, S6), and nothing weaker.
grep -qE 'consumer_pos\)\.exchange\(.*seq_cst.*S4.*S6' <<<"$ops" || complain "publish_consumer_pos must be a seq_cst exchange (S4 S6)"
grep -qE 'waiting\)\.fetch_add\(.*seq_cst.*S4' <<<"$ops" || complain "add_waiting must be a seq_cst read-modify-write (S4)"
grep -qE 'h->len\)\.exchange\(.*seq_cst.*S4' <<<"$ops" || complain "commit_header must be a seq_cst exchange (S3 S4)"

# 4. Layers: an include in FROM must not resolve to a file of TO.
no_include() {
  local from=$1 file line name
  shift
  mapfile -t files < <(sources "$from")
  while IFS=: read -r file line name; do
    [ -n "$name" ] || continue
    name=$(sed -E 's/.*#[[:space:]]*include[[:space:]]*["<]([^">]+)[">].*/\1/' <<<"$name")
    [ -e "$(dirname "$file")/$name" ] && [[ $name != ../* ]] && continue
    for to in "$@"; do
      for root in "$to" "$to/src" "$to/include"; do
        [ -e "$root/$name" ] && complain "$file:$line includes $root/$name: $from and $to never meet"
      done
      [[ $name == *"$to/"* ]] && complain "$file:$line includes $name: $from and $to never meet"
    done
  done < <(matches '^[[:space:]]*#[[:space:]]*include' "${files[@]}")
}
no_include proto libclient daemon tools
no_include libclient daemon tools
no_include daemon libclient tools
no_include tools daemon

# 5. Third-party libraries stay where they belong. only PATTERN NAME ALLOWED...: ALLOWED are extended regular expressions.
only() {
  local pattern=$1 name=$2 found allowed
  shift 2
  allowed=$(IFS='|'; echo "$*")
  found=$(matches "#[[:space:]]*include[[:space:]]*[<\"]$pattern" "${all[@]}" | grep -vE "^($allowed):")
  [ -z "$found" ] || complain "$name is for $* only" "$found"
}
only 'boost/interprocess/' Boost.Interprocess 'proto/base/mapping\.cpp'
only 'spdlog/' spdlog 'daemon/[^:]*'
only 'CLI/' CLI11 '[^:]*/(main|cli|options)\.[ch]pp'
only 'nlohmann/' nlohmann 'tools/[^:]*'

# 6. Every source says its licence first.
for f in "${all[@]}"; do
  head -n 1 "$f" | grep -q 'SPDX-License-Identifier: MIT' || complain "$f does not begin with its SPDX line"
done

[ $failed -eq 0 ] && echo "source_rules: ${#all[@]} files, all rules kept"
exit $failed
