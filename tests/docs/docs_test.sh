#!/bin/bash
# SPDX-License-Identifier: MIT
# docs_test.sh SOURCE CXX RINGBUFD RINGBUFCTL: the offsets of docs/shm-abi.md are those of the header, links lead somewhere,
# tests and functions that are named exist, options and defaults are those of --help.
set -euo pipefail
source=$1 cxx=$2 ringbufd=$3 ringbufctl=$4
cd "$source"
failed=0
complain() {
  echo "docs_test: $*" >&2
  failed=1
}
docs=(README.md docs/*.md)

# 1. Offset tables.
program=$(mktemp --suffix .cpp)
trap 'rm -f "$program"' EXIT
{
  printf '#include <stddef.h>\n#include "ringbuf/abi/shm.h"\n'
  awk -F ' *[|] *' '
    /^### struct / { split($0, word, " "); name = word[3] }
    /^The struct has [0-9]+ bytes/ { split($0, word, " "); print "static_assert(sizeof(" name ") == " word[4] ");" }
    name && NF >= 4 && $3 ~ /^[0-9]+$/ {
      print "static_assert(offsetof(" name ", " $2 ") == " $3 " && sizeof(" name "::" $2 ") == " $4 ");"
    }
    /^## / { name = "" }' docs/shm-abi.md
} >"$program"
[[ $(grep -c static_assert "$program") -ge 30 ]] || complain "docs/shm-abi.md has lost its offset tables"
"$cxx" -std=c++20 -fsyntax-only -Iproto/include "$program" || complain "docs/shm-abi.md does not say what shm.h says"

# 2. Links, without anchors.
for doc in "${docs[@]}"; do
  while read -r link; do
    [[ -e $(dirname "$doc")/$link ]] || complain "$doc links to $link, which is not there"
  done < <(grep -oP '\]\(\K[^)#:]+(?=[)#])' "$doc")
done

# 3. Test suites in the tables that say what shows a claim, and files of ours anywhere.
# shellcheck disable=SC2016 # the backticks are Markdown's
{
while read -r name; do
  grep -rqE "^TEST(_F|_P)?\($name,|^class $name\b" tests || complain "the docs name the tests $name, which are not there"
done < <(sed -n '/^## What shows it/,/^## /p; /^## Which test holds/,/^$/p' docs/security.md docs/memory-ordering.md |
  sed 's/^| [^|]*|//' | grep -oP '(?<=`)[A-Z][A-Za-z]+(?=`)' | sort -u)
while IFS=: read -r doc path; do
  [[ -e $path || -e $path.cpp ]] || complain "$doc names $path, which is not there"
done < <(grep -oHP '(?<=`)(tests|tools|proto|libclient|daemon)/[A-Za-z0-9_/.]+(?=`)' "${docs[@]}" | sort -u)
}

# 4. Functions of the C API.
while IFS=: read -r doc name; do
  grep -rqwE "$name" proto/include libclient/include || complain "$doc names $name, which no header has"
done < <(grep -oHP '\bringbuf_[a-z0-9_]+\b' "${docs[@]}" | grep -vE ':ringbuf_(poller::|bench$)' | sort -u)

# 5. The limits of the daemon and their defaults.
# shellcheck disable=SC2016
{
help=$("$ringbufd" --help)
while read -r option default; do
  grep -qE -- "$option (N|BYTES) .*\(default $default\)" <<<"$help" ||
    complain "docs/quickstart.md says $option is $default; ringbufd --help does not"
done < <(grep -oP '`--max-[a-z-]+` \| [0-9A-Z]+' docs/quickstart.md | tr -d '`|')
}

# 6. The command lines of ringbufctl: each option named is one of its help.
while read -r command option; do
  "$ringbufctl" map "$command" --help | grep -q -- "$option\b" || complain "no ringbufctl map $command $option"
done < <(cat "${docs[@]}" | grep -oP 'ringbufctl( -[jp])? map \K[a-z]+ .*' | sed 's/#.*//' |
  awk '{ for (i = 2; i <= NF; ++i) if ($i ~ /^--/) print $1, $i }' | sort -u)

[[ $failed -eq 0 ]] && echo "docs_test: ${#docs[@]} pages say what is so"
exit $failed
