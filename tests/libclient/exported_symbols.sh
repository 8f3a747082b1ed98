#!/bin/bash
# SPDX-License-Identifier: MIT
# exported_symbols.sh LIBRINGBUF.SO HEADER: the shared object exports exactly the functions that the header declares, all
# under one version, and needs nothing but the C and C++ run-times.
set -euo pipefail
library=$1 header=$2

declared=$(tr '\n' ' ' <"$header" | sed -E 's,/\*([^*]|\*+[^*/])*\*+/,,g' | grep -oE '\bringbuf_[a-z0-9_]+\(' | tr -d '(' | sort -u)
exported=$(nm -D --defined-only "$library" | awk '$2 != "A" { print $3 }' | sed 's/@.*//' | sort -u)
if ! diff <(echo "$declared") <(echo "$exported"); then
  echo "< is declared in $header only, > is exported by $library only"
  exit 1
fi

unversioned=$(nm -D --defined-only "$library" | awk '$2 != "A" { print $3 }' | grep -v '@@RINGBUF_[0-9]' || true)
if [[ -n $unversioned ]]; then
  echo "exported without a version: $unversioned"
  exit 1
fi

foreign=$(objdump -p "$library" | awk '$1 == "NEEDED" { print $2 }' |
  grep -vE '^(libc|libstdc\+\+|libgcc_s|libm|ld-linux-.*)\.so\.[0-9]+$' || true)
if [[ -n $foreign ]]; then
  echo "$library needs $foreign"
  exit 1
fi
echo "$(wc -l <<<"$exported") functions, as declared"
