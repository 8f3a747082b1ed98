#!/bin/bash
# SPDX-License-Identifier: MIT
# install_test.sh SOURCE BUILD CC CXX GENERATOR: installs BUILD into a temporary prefix and builds the examples against it,
# through pkg-config and through find_package. Each pair then moves records with the installed daemon.
set -euo pipefail
source=$1 build=$2 cc=$3 cxx=$4 generator=$5
examples="$source/libclient/examples"

dir=$(mktemp -d)
daemon=""
cleanup() {
  [[ -z $daemon ]] || kill "$daemon" 2>/dev/null || true
  wait
  rm -rf "$dir"
}
trap cleanup EXIT
fail() {
  echo "install_test: $*" >&2
  exit 1
}

cmake --install "$build" --prefix "$dir/usr" >"$dir/log" || fail "cmake --install: $(cat "$dir/log")"
pc=$(find "$dir/usr" -name libringbuf.pc)
lib=$(dirname "$(dirname "$pc")")
for file in sbin/ringbufd bin/ringbufctl include/ringbuf/ringbuf.h include/ringbuf/ringbuf.hpp include/ringbuf/abi/shm.h \
  share/bash-completion/completions/ringbufctl lib/systemd/system/ringbufd.service lib/systemd/system/ringbufd.socket \
  lib/sysusers.d/ringbufd.conf; do
  [[ -f $dir/usr/$file ]] || fail "$file was not installed"
done
# Nothing of the build tree, and no private header.
if grep -rIl "$build" "$dir/usr" || find "$dir/usr/include" -type f | grep -v "^$dir/usr/include/ringbuf/"; then
  fail "this should not be installed"
fi
[[ $(LD_LIBRARY_PATH="$lib" "$dir/usr/bin/ringbufctl" --version) == *"$(sed -n 's/^Version: //p' "$pc")"* ]] ||
  fail "ringbufctl --version is not what libringbuf.pc says"

# 1. pkg-config. The prefix is another than the one configured.
flags=$(PKG_CONFIG_PATH="$(dirname "$pc")" pkg-config --define-variable=prefix="$dir/usr" --cflags --libs libringbuf)
mkdir "$dir/pc"
for name in producer_c consumer_c; do
  # shellcheck disable=SC2086
  "$cc" -Wall -Wextra -Werror -o "$dir/pc/$name" "$examples/$name.c" $flags || fail "$name with pkg-config"
done
for name in producer_cpp consumer_cpp; do
  # shellcheck disable=SC2086
  "$cxx" -std=c++20 -Wall -Wextra -Werror -o "$dir/pc/$name" "$examples/$name.cpp" $flags || fail "$name with pkg-config"
done

# 2. find_package.
sources=$(printf '%s;' "$examples"/{producer,consumer}_c.c "$examples"/{producer,consumer}_cpp.cpp)
{
  cmake -G "$generator" -S "$source/tests/install/project" -B "$dir/cmake" -DCMAKE_PREFIX_PATH="$dir/usr" -DSOURCES="$sources" \
    -DCMAKE_C_COMPILER="$cc" -DCMAKE_CXX_COMPILER="$cxx" && cmake --build "$dir/cmake"
} >"$dir/log" 2>&1 || fail "find_package: $(cat "$dir/log")"

# What was built runs with the installed library and daemon.
export LD_LIBRARY_PATH="$lib" RINGBUFD_SOCKET="$dir/ringbufd.sock"
exec 3< <(exec "$dir/usr/sbin/ringbufd" 2>&1)
daemon=$!
line=""
while [[ $line != *ready* ]]; do read -r line <&3 || fail "ringbufd did not start: $line"; done
cat <&3 >/dev/null &
for way in pc cmake; do
  for language in c cpp; do
    "$dir/$way/producer_$language" "/$way/$language" 100 || fail "$way/producer_$language"
    expected=100
    [[ $language == c ]] || expected=90 # it discards every tenth
    got=$("$dir/$way/consumer_$language" "/$way/$language" "$expected" | wc -l)
    [[ $got -eq $expected ]] || fail "$way/consumer_$language printed $got lines for $expected records"
  done
done
kill "$daemon"
echo "installed, and 8 programs built in two ways work"
