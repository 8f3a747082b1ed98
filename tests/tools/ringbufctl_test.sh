#!/bin/bash
# SPDX-License-Identifier: MIT
# ringbufctl_test.sh RINGBUFCTL RINGBUFD NAME: runs test_NAME against a private daemon. Waits only by blocking.
set -euo pipefail
export LC_ALL=C
ctl=$1
ringbufd=$2

die() {
  echo "FAILED: $*" >&2
  exit 1
}

dir=$(mktemp -d)
daemon=0
cleanup() {
  [[ $daemon -eq 0 ]] || kill "$daemon" 2>/dev/null || true
  wait
  rm -rf "$dir"
}
trap cleanup EXIT
cd "$dir"
export RINGBUFD_SOCKET="$dir/s"

# start_daemon OPTIONS...
start_daemon() {
  exec 3< <(exec "$ringbufd" --socket "$dir/s" "$@" 2>&1)
  daemon=$!
  local line=""
  while [[ $line != *ready* ]]; do
    read -r line <&3 || die "ringbufd ended: $line"
  done
  cat <&3 >daemon.log &
}

# run CODE ARGS...: runs ringbufctl; its output is in `out` and `err`, its exit code must be CODE.
run() {
  local expected=$1 code=0
  shift
  "$ctl" "$@" >out 2>err || code=$?
  [[ $code -eq $expected ]] || die "'ringbufctl $*' ended with $code, not $expected: $(cat out err)"
}

# same WHAT EXPECTED: compares a file with a text.
same() { diff -u <(printf '%s' "$2") "$1" >&2 || die "$1 is not as expected"; }

# error SENTENCE: the last run said this and nothing else.
error() {
  same err "Error: $1"$'\n'
  same out ""
}

# json FILTER EXPECTED: the last run's output, through jq.
json() {
  local got
  got=$(jq -c "$1" out) || die "not JSON: $(cat out)"
  [[ $got == "$2" ]] || die "$1 is $got, not $2"
}

# until_asleep PID: ends when it sleeps as a consumer of /m.
until_asleep() {
  until [[ $("$ctl" -j map show /m | jq .waiting) -gt 0 && $(cut -d ' ' -f 3 "/proc/$1/stat") == S ]]; do
    kill -0 "$1" || die "the consumer ended"
  done
}

test_version_and_help_need_no_daemon() {
  run 0 version
  grep -q '^ringbufctl v[0-9]' out
  grep -q '^using libringbuf v[0-9]' out
  run 0 -V
  grep -q '^ringbufctl v' out
  run 0 -j version
  json '.version == .libringbuf_version' true
  run 0 help
  cp out help
  run 0 map help
  cmp help out
  run 0 --help
  cmp help out
  for verb in show list create output consume drain dump snapshot update lookup delete pin unpin; do
    grep -q "^  $verb " help || die "help does not know $verb"
    run 0 map "$verb" --help
    grep -q "^Usage: ringbufctl \[OPTIONS\] map $verb" out || die "no usage of $verb"
    grep -q -- --socket out
  done
}

test_usage_errors() {
  run 2
  error "no command given: use 'ringbufctl map COMMAND'; see 'ringbufctl help'"
  run 2 --foo
  error "unknown option '--foo'; see 'ringbufctl help'"
  run 2 prog show
  error "unknown object 'prog': use one of map, version, help; see 'ringbufctl help'"
  run 2 map remove
  error "unknown command 'remove': use one of show, list, create, output, consume, drain, dump, snapshot, update, lookup, delete, pin, unpin, help; see 'ringbufctl help'"
  run 2 map c
  error "command 'c' is ambiguous: it may mean create, consume; see 'ringbufctl help'"
  run 2 map l
  error "command 'l' is ambiguous: it may mean list, lookup; see 'ringbufctl help'"
  run 2 map show id
  error "'id' needs a value after it; see 'ringbufctl map show --help'"
  run 2 map show id x1
  error "'x1' is not a map id; see 'ringbufctl map show --help'"
  run 2 map show tag 1
  error "unknown kind of map name 'tag': use one of id, name, pinned, as in 'name tag'; see 'ringbufctl help'"
  run 2 map show id 1 id 2
  error "'id' is one word too many; see 'ringbufctl map show --help'"
  run 2 map output
  error "no map given: use 'id N', 'name NAME' or 'pinned PATH'; see 'ringbufctl map output --help'"
  run 2 map unpin
  error "no path given: use one such as /events; see 'ringbufctl map unpin --help'"
  run 2 map create /a
  error "--size is required; see 'ringbufctl map create --help'"
  for size in 1Q 4G 5G 99999999999 -1 K ""; do
    run 2 map create /a --size "$size"
    error "--size: '$size' is not a size: give bytes below 4G, such as 65536, 64K or 1M; see 'ringbufctl map create --help'"
  done
  for mode in 999 0777 1000 rw 0; do
    run 2 map create /a --size 4K --mode "$mode"
    error "--mode: '$mode' is not an octal mode of r and w bits, such as 0660; see 'ringbufctl map create --help'"
  done
  run 2 map create /a --size 4K --type perf
  error "--type: 'perf' is not a map type: use one of ringbuf, user_ringbuf, array_of_maps, hash_of_maps; see 'ringbufctl map create --help'"
  run 2 map create /a --size 4K --type user_ringbuf --overwrite
  error "--overwrite does not go with --type user_ringbuf: only a ringbuf has it; see 'ringbufctl map create --help'"
  run 2 map create /a --type user_ringbuf
  error "--size is required; see 'ringbufctl map create --help'"
  # no_create SENTENCE OPTIONS...
  no_create() {
    run 2 map create /a "${@:2}"
    error "$1; see 'ringbufctl map create --help'"
  }
  local outer
  for outer in array_of_maps hash_of_maps; do
    no_create "--size does not go with --type $outer: give the number of --entries" --type "$outer" --size 4K
    no_create "--overwrite does not go with --type $outer: create its rings with it" --type "$outer" --entries 4 --overwrite
    no_create "--single-producer does not go with --type $outer: create its rings with it" --single-producer --type "$outer"
    no_create "--entries is required" --type "$outer" --inner /b
    no_create "--inner is required" --type "$outer" --entries 4
    no_create "'id' needs a value after it" --type "$outer" --entries 4 --key-size 4 --inner id
    no_create "'id' needs a value after it" --type "$outer" --key-size 4 --inner id --entries 4
    no_create "'x' is not a map id" --type "$outer" --key-size 4 --inner id x --entries 4
    no_create "--entries: '-1' is not a number, or is too large" --type "$outer" --entries -1
  done
  no_create "--key-size does not go with --type array_of_maps: its keys have 4 bytes" --type array_of_maps --key-size 8
  no_create "--key-size is required" --type hash_of_maps --entries 4 --inner /b
  for ring in ringbuf user_ringbuf; do
    no_create "--entries does not go with --type $ring: give the --size of its data" --type "$ring" --entries 4
    no_create "--inner does not go with --type $ring: only a map of maps has it" --type "$ring" --size 4K --inner id 1
    no_create "--key-size does not go with --type $ring: a ring has no keys" --type "$ring" --size 4K --key-size 4
  done
  run 2 map create /a --type array_of_maps --entries 4 --inner events
  error "unknown kind of map name 'events': use one of id, name, pinned, as in 'name events'; see 'ringbufctl help'"
  local command none="no key given: use 'key NUMBER', 'key BYTE...' or 'key text WORD'"
  for command in update lookup delete; do
    # no_element SENTENCE WORDS...
    no_element() {
      run 2 map "$command" "${@:2}"
      error "$1; see 'ringbufctl map $command --help'"
    }
    no_element "no map given: use 'id N', 'name NAME' or 'pinned PATH'"
    no_element "$none" /m
    no_element "$none" /m key
    no_element "$none" /m key hex
    no_element "'text' needs a word after it" /m key text
    no_element "'2x' is not a number" /m key 1 2x
    no_element "'0x' is not a number" /m key 0x
    no_element "'08' is not a number" /m key 08
    no_element "'99999999999999999999' is not a number" /m key 99999999999999999999
    no_element "'key' is one too many" /m key 1 key 2
    run 2 map "$command" /m key two
    error "unknown kind of key 'two': use one of hex, text, or a number; see 'ringbufctl help'"
  done
  run 2 map lookup /m key 1 value /a
  error "unknown word 'value': use one of key; see 'ringbufctl help'"
  run 2 map update /m key 1
  error "no value given: use 'value MAP', the ring to put there; see 'ringbufctl map update --help'"
  run 2 map update /m key 1 value
  error "no map given: use 'id N', 'name NAME' or 'pinned PATH'; see 'ringbufctl map update --help'"
  run 2 map update /m key 1 value /a any exist
  error "'exist' is one too many; see 'ringbufctl map update --help'"
  run 2 map update /m key 1 value /a always
  error "unknown word 'always': use one of key, value, any, exist, noexist; see 'ringbufctl help'"
  run 2 map create /events-2 --size 4K
  error "'events-2' cannot be a map's name: give one of at most 15 characters of [A-Za-z0-9_.] with --name"
  run 2 map consume /a --count many
  error "--count: 'many' is not a number, or is too large; see 'ringbufctl map consume --help'"
  run 2 map dump /a --format xml
  error "--format: 'xml' is not a format: use text, hex, json or raw; see 'ringbufctl map dump --help'"
  run 2 map output /a --nul --whole
  grep -q '^Error: .*excludes' err
  # An empty value is a value: it does not take the next word.
  run 2 --socket= map show id
  error "'id' needs a value after it; see 'ringbufctl map show --help'"
  run 2 map create --size= /a
  error "--size: '' is not a size: give bytes below 4G, such as 65536, 64K or 1M; see 'ringbufctl map create --help'"
  run 2 map create --json
  json . '{"error":"--size is required; see '"'ringbufctl map create --help'"'","errno":"EINVAL"}'
}

test_daemon_not_reachable() {
  local hint="start it with 'ringbufd --socket $dir/s' or name another with --socket"
  run 3 map list
  error "no ringbufd at $dir/s: No such file or directory; $hint"
  run 3 -j map list
  json . "{\"error\":\"no ringbufd at $dir/s: No such file or directory; $hint\",\"errno\":\"ENOENT\"}"
  start_daemon
  ln s gone
  kill "$daemon"
  wait "$daemon" || true
  mv gone s
  run 3 map list
  error "no ringbufd at $dir/s: Connection refused; $hint"
  echo >file
  run 3 map list --socket "$dir/file"
  error "$dir/file is not a socket; name ringbufd's with --socket"
  local code=0
  # shellcheck disable=SC2016 # the variables are Perl's
  perl -MIO::Socket::UNIX -e 'my $s = IO::Socket::UNIX->new(Local => "stream", Listen => 1) or die; exit(system(@ARGV) >> 8)' \
    "$ctl" map list --socket "$dir/stream" >out 2>err || code=$?
  [[ $code -eq 3 ]] || die "ended with $code: $(cat err)"
  error "$dir/stream is a socket of another kind, not ringbufd's; name ringbufd's with --socket"
  local long
  long=/$(printf '%0107d' 0)
  run 2 map list --socket "$long"
  error "the socket's path $long is too long; name one of at most 107 bytes with --socket"
  for verb in "create /a --size 4K" "output /a" "consume /a" "drain /a" "dump /a" "snapshot /a" "lookup /a key 1" "update /a key 1 value /b" "delete /a key 1" "create /a --type array_of_maps --entries 4 --inner /b" "pin id 1 /b" "unpin /a"; do
    # shellcheck disable=SC2086
    run 3 map $verb --socket "$dir/other" </dev/null
    grep -q "^Error: no ringbufd at $dir/other: " err
  done
}

test_a_daemon_with_too_many_sessions_says_so() {
  start_daemon --max-sessions 0
  run 3 map list
  error "the daemon holds 0 sessions and may hold 0; start ringbufd with a higher --max-sessions"
}

test_show_plain_is_bpftools_two_lines_and_ours() {
  start_daemon
  run 0 map list
  same out ""
  run 0 map create /m --size 64K --mode 0640
  run 0 map create /app/other --name o.1 --size 4096 --single-producer
  run 0 map pin name m /app/m
  same out ""
  local page memlock
  page=$(getconf PAGE_SIZE)
  memlock=$((page + 65536 + page + 65536)) # consumer page; slots, producer page, data
  local first
  first="1: ringbuf  name m  flags 0x0
	key 0B  value 0B  max_entries 65536  memlock ${memlock}B
	uid $(id -u)  gid $(id -g)  mode 0640
	pinned /app/m
	pinned /m
	consumer_pos 0  producer_pos 0  pending_pos 0  avail_data 0  waiting 0
	records 0  bytes 0  wakeups 0
	lost full 0  too_big 0  busy 0  lock 0
"
  for map in "id 1" "i 1" "name m" "pinned /m" "/app/m"; do
    # shellcheck disable=SC2086
    run 0 map show $map
    same out "$first"
  done
  for command in show list sh li ""; do
    # shellcheck disable=SC2086
    run 0 map $command
    head -n 8 out >first
    same first "$first"
    tail -n +9 out >second
    grep -q '^2: ringbuf  name o.1  flags 0x0$' second
    grep -q "mode 0600  single_producer$" second
  done
}

test_show_json_has_bpftools_keys() {
  start_daemon
  run 0 -j map list
  same out $'[]\n'
  run 0 -j map create /m --size 1M --mode 660
  json . '{"id":1,"name":"m","pinned":["/m"]}'
  printf 'one\ntwo\n' | "$ctl" map output /m 2>err
  run 0 -j map show id 1
  json '[keys_unsorted[]] | join(" ")' '"id type name flags bytes_key bytes_value max_entries bytes_memlock frozen pinned pids uid gid mode ring_flags overwrite consumer_pos producer_pos pending_pos avail_data waiting records bytes wakeups lost orphans head owner"'
  json '[.id, .type, .name, .flags, .bytes_key, .bytes_value, .max_entries, .frozen, .pinned, .pids, .mode]' \
    '[1,"ringbuf","m",0,0,0,1048576,0,["/m"],[],"0660"]'
  json '[.consumer_pos, .producer_pos, .avail_data, .records, .lost]' \
    '[0,32,32,0,{"full":0,"too_big":0,"busy":0,"lock":0}]'
  json '[.orphans, .head, .owner]' '[{"records":0,"bytes":0,"pid":null},null,null]'
  [[ $(wc -l <out) -eq 1 ]] || die "--json is one line"
  cp out compact
  run 0 --pretty map show id 1
  [[ $(wc -l <out) -gt 10 ]] || die "--pretty is many lines"
  cmp <(jq -c . compact) <(jq -c . out)
  run 0 map list -j
  json '[length, .[0].id]' '[1,1]'
  run 0 -j map pin id 1 /n
  json . null
  run 0 -j map unpin /n
  json . null
}

test_show_knows_the_types() {
  start_daemon
  run 0 map create /user --size 64K --type user_ringbuf
  run 0 map create /last --size 4K --type ringbuf --overwrite
  run 0 map show /user
  grep -q '^1: user_ringbuf  name user  flags 0x0$' out
  tail -n 3 out >state
  same state "	consumer_pos 0  producer_pos 0  avail_data 0  waiting 0
	records 0  bytes 0  wakeups 0
	lost full 0  too_big 0  lock 0
"
  run 0 -j map show /user
  json '[.type, .flags, has("overwrite"), has("pending_pos"), (.lost | keys_unsorted)]' \
    '["user_ringbuf",0,false,false,["full","too_big","lock"]]'
  seq 10000 10999 | "$ctl" map output /last 2>err # 16 bytes each; 255 fit
  run 0 map consume /last --count 5
  run 0 map show /last
  grep -q '^2: ringbuf  name last  flags 0x80000$' out
  grep -q '  mode 0600  overwrite$' out
  tail -n 5 out >state
  same state "	consumer_pos 12000  producer_pos 16000  pending_pos 15984  overwrite_pos 11920  avail_data 4000  waiting 0
	records 5  bytes 25  wakeups 0
	lost full 0  too_big 0  busy 0  lock 0
	overwritten records 745  bytes 3725
	missed records 745  bytes 3725
"
  run 0 -j map show /last
  json '[.type, .flags, .overwrite, .overwrite_pos, .avail_data, .overwritten, .missed]' \
    '["ringbuf",524288,true,11920,4000,{"records":745,"bytes":3725},{"records":745,"bytes":3725}]'
  # avail_data counts from the oldest record that is left.
  seq 255 | "$ctl" map output /last 2>err
  run 0 -j map show /last
  json '.avail_data == .producer_pos - .overwrite_pos' true
}

test_show_names_who_uses_a_map() {
  start_daemon
  run 0 map create /m --size 4K
  "$ctl" map consume /m --follow >received &
  local consumer=$!
  until_asleep "$consumer"
  run 0 -j map show /m
  json .pids "[{\"pid\":$consumer,\"comm\":\"ringbufctl\",\"role\":\"consumer\"}]"
  json .waiting 1
  run 0 map show /m
  grep -q "^	pids ringbufctl($consumer) consumer\$" out
  run 1 map consume /m
  grep -q "^Error: .*pid $consumer" err || die "EBUSY does not name the holder: $(cat err)"
  kill "$consumer"
  wait "$consumer"
}

test_errors_of_the_daemon() {
  start_daemon
  run 0 map create /m --size 4K
  run 1 map create /m --size 4K
  grep -q '^Error: .*/m.*pinned' err
  run 0 -j map list
  json length 1 # nothing is left behind of the map that could not be pinned
  run 2 map create /n --size 5000
  grep -q '^Error: .*5000.*8192' err
  run 2 -j map create /n --size 5000
  json '[has("error"), .errno]' '[true,"EINVAL"]'
  # What cannot be a pin costs no id.
  run 2 map create n --size 4K
  error "'n' is not a pin path: it must begin with '/'"
  run 2 map pin id 1 /a/../b
  error "'/a/../b' is not a pin path: no part may be empty, '.' or '..'"
  run 2 map show name "a b"
  error "'a b' is not a map name: at most 15 of A-Z a-z 0-9 _ ."
  run 2 map unpin $'/a\n'
  error "'/a?' is not a pin path: it may have no control characters"
  local long
  long=/$(printf '%0255d' 0)
  run 2 map create "$long" --name n --size 4K
  run 0 -j map create /next --size 4K
  json .id 2
  run 0 map unpin /next
  for map in "id 99" "name nobody" "pinned /nobody"; do
    for command in show output consume drain dump snapshot; do
      # shellcheck disable=SC2086
      run 1 map $command $map </dev/null
      [[ $(wc -l <err) -eq 1 ]] || die "not one sentence: $(cat err)"
      grep -q "^Error: .*'ringbufctl map list' shows those there are$" err
    done
    # shellcheck disable=SC2086
    run 1 -j map show $map
    json .errno '"ENOENT"'
  done
  run 1 map unpin /nobody
  grep -q '^Error: .*/nobody' err
  run 1 map pin /m /m
  grep -q '^Error: .*/m' err
  run 0 map create /two --name m --size 4K
  run 1 map show name m
  grep -q '^Error: .*m' err
  run 1 -j map show name m
  json .errno '"ENOTUNIQ"'
}

test_pin_and_unpin() {
  start_daemon
  run 0 map create /m --size 4K
  run 0 map pin id 1 /a/b
  run 0 map unpin /m
  run 0 -j map show pinned /a/b
  json .pinned '["/a/b"]'
  run 0 map unpin pinned /a/b
  run 0 -j map list
  json . '[]'
}

test_output_splits_lines() {
  start_daemon
  run 0 map create /m --size 64K
  printf 'a\n\nwith\ttab \r\nbytes \001\377\000.\nlast' >in
  run 0 map output /m <in
  same out ""
  same err $'sent 5 records, 25 bytes; dropped 0\n'
  run 0 map consume /m
  cmp out <(cat in && echo)
  run 0 map output /m </dev/null
  same err $'sent 0 records, 0 bytes; dropped 0\n'
  printf 'x\n' >in
  run 0 -j map output /m <in
  json . '{"sent":1,"bytes":1,"dropped":0}'
  same err ""
}

test_output_nul_and_whole() {
  start_daemon
  run 0 map create /m --size 64K
  printf 'a\nb\0\0c' >in
  run 0 map output /m --nul <in
  same err $'sent 3 records, 4 bytes; dropped 0\n'
  run 0 map output /m --whole <in
  same err $'sent 1 records, 6 bytes; dropped 0\n'
  run 0 map output /m --whole </dev/null
  same err $'sent 1 records, 0 bytes; dropped 0\n'
  run 0 map consume /m --format hex
  same out $'61 0a 62\n\n63\n61 0a 62 00 00 63\n\n'
}

test_output_drops_with_no_wait() {
  start_daemon
  run 0 map create /m --size 4K
  seq 10000 10999 >in
  run 0 map output /m --no-wait <in
  same err $'sent 255 records, 1275 bytes; dropped 745\n' # 16 bytes each, 8 stay free
  run 0 -j map show /m
  json '[.lost.full, .avail_data]' '[745,4080]'
  run 0 map consume /m
  cmp out <(head -n 255 in)
}

test_output_reports_a_record_that_never_fits() {
  start_daemon
  run 0 map create /m --size 4K
  head -c 4080 /dev/zero >in
  run 0 map output /m --whole <in
  run 0 map consume /m --format raw
  cmp out in
  { echo a && head -c 4081 /dev/zero | tr '\0' x && echo && head -c 1000000 /dev/zero | tr '\0' y && echo && echo b; } >in
  run 1 map output /m <in
  same err "Error: record 2 has 4081 bytes, but this ring takes at most 4080 in one; it and others like it are dropped: use a map of a larger --size
sent 2 records, 2 bytes; dropped 2
"
  run 1 -j map output /m <in
  json '[.sent, .bytes, .dropped, .errno]' '[2,2,2,"E2BIG"]'
  run 0 -j map show /m
  json .lost.too_big 4
  run 0 map consume /m
  same out $'a\nb\na\nb\n'
}

test_output_waits_for_room() {
  start_daemon
  run 0 map create /m --size 4K
  seq 20000 >in
  "$ctl" map consume /m --count 20000 >received &
  local consumer=$!
  run 0 map output /m <in
  wait "$consumer"
  cmp in received
  run 0 -j map show /m
  json '[.records, .bytes, .lost.full]' "[20000,$(($(wc -c <in) - 20000)),0]"
}

test_output_ends_on_sigint_with_its_summary() {
  start_daemon
  run 0 map create /m --size 4K
  seq 10000 10999 >in
  # Nobody consumes: it fills the ring and waits.
  bash -c 'trap - INT; exec "$@"' _ "$ctl" map output /m <in 2>err &
  local producer=$!
  until [[ $("$ctl" -j map show /m | jq .avail_data) -eq 4080 ]]; do kill -0 "$producer" || die "it ended"; done
  kill -INT "$producer"
  local code=0
  wait "$producer" || code=$?
  [[ $code -eq 1 ]] || die "ended with $code"
  grep -q '^sent 255 records, 1275 bytes; dropped 745$' err || die "$(cat err)"
  grep -q '^Error: stopped by a signal' err || die "$(cat err)"
  # One that waits for standard input has lost nothing.
  run 0 map consume /m
  mkfifo fifo
  "$ctl" map output /m <fifo 2>err &
  producer=$!
  exec 4>fifo
  echo hello >&4
  "$ctl" map consume /m --count 1 >out
  same out $'hello\n'
  kill -TERM "$producer"
  wait "$producer" || die "ended with $?"
  same err $'sent 1 records, 5 bytes; dropped 0\n'
}

test_consume_formats() {
  start_daemon
  run 0 map create /m --size 64K
  printf 'plain\0\0caf\303\251 "\\"\0\377\001' >in
  local format
  for format in text hex json raw; do
    run 0 map output /m --nul <in
    run 0 map consume /m --format "$format"
    mv out "$format"
  done
  same text $'plain\n\ncaf\303\251 "\\"\n\377\001\n'
  same hex $'70 6c 61 69 6e\n\n63 61 66 c3 a9 20 22 5c 22\nff 01\n'
  same json $'{"size":5,"data":"plain"}\n{"size":0,"data":""}\n{"size":9,"data":"caf\303\251 \\"\\\\\\""}\n{"size":2,"hex":"ff 01"}\n'
  same raw $'plaincaf\303\251 "\\"\377\001'
  run 0 map output /m --nul <in
  run 0 -j map consume /m
  cmp out json
  run 0 map consume /m # it is empty
  same out ""
}

test_consume_count_is_exact_and_waits() {
  start_daemon
  run 0 map create /m --size 64K
  seq 10 >in
  run 0 map output /m <in
  run 0 map consume /m --count 0
  same out ""
  run 0 map consume /m --count 4
  same out $'1\n2\n3\n4\n'
  "$ctl" map consume /m --count 8 >received &
  local consumer=$!
  until_asleep "$consumer"
  run 0 map output /m <in
  wait "$consumer"
  same received $'5\n6\n7\n8\n9\n10\n1\n2\n'
  run 0 map consume /m
  same out $'3\n4\n5\n6\n7\n8\n9\n10\n'
  "$ctl" map consume /m --count 3 >received 2>err &
  consumer=$!
  until_asleep "$consumer"
  kill -TERM "$consumer"
  local code=0
  wait "$consumer" || code=$?
  [[ $code -eq 1 ]] || die "ended with $code"
  same err $'Error: stopped by a signal after 0 of 3 records\n'
}

test_a_producer_that_leaves_at_once_still_wakes_the_consumer() {
  start_daemon
  run 0 map create /m --size 64K
  # The commit's edge must survive that the daemon takes the producer's signal away before the consumer runs.
  for ((i = 0; i < 100; i++)); do
    "$ctl" map consume /m --count 1 >received &
    local consumer=$!
    until_asleep "$consumer"
    echo "$i" | "$ctl" map output /m 2>err
    wait "$consumer"
    same received "$i"$'\n'
  done
}

test_consume_follow_ends_on_a_signal() {
  start_daemon
  run 0 map create /m --size 64K
  for signal in TERM INT; do
    mkfifo "$signal"
    bash -c 'trap - INT; exec "$@"' _ "$ctl" map consume /m --follow >"$signal" &
    local consumer=$! line
    exec 5<"$signal"
    until_asleep "$consumer"
    echo "hello $signal" | "$ctl" map output /m 2>err
    read -r line <&5 # it does not keep back what it has
    [[ $line == "hello $signal" ]] || die "got '$line'"
    kill "-$signal" "$consumer"
    wait "$consumer" || die "ended with $?"
  done
  run 0 -j map show /m
  json '[.waiting, .wakeups > 0, .pids]' '[0,true,[]]'
}

test_consume_ends_quietly_when_its_reader_has_gone() {
  start_daemon
  run 0 map create /m --size 4K
  echo hello | "$ctl" map output /m 2>err
  mkfifo pipe
  { exec 6<pipe && exec 6<&-; } &
  exec 7>pipe
  wait $!
  local code=0
  "$ctl" map consume /m >&7 2>err || code=$?
  [[ $code -eq 0 ]] || die "ended with $code"
  same err $'ringbufctl: standard output was closed; 1 records were consumed but not wholly written\n'
  # After the first failed write it takes no more.
  run 0 map create /big --size 1M
  seq 100000 120000 | "$ctl" map output /big 2>err
  "$ctl" map consume /big >&7 2>err
  local taken
  taken=$(sed -n 's/.*; \([0-9]*\) records were.*/\1/p' err)
  run 0 map consume /big
  [[ $((taken + $(wc -l <out))) -eq 20001 ]] || die "$taken taken, $(wc -l <out) left"
  [[ $taken -lt 20001 ]] || die "it went on after a failed write"
  # What was wholly written is not counted.
  seq 1001 1500 | "$ctl" map output /big 2>err
  code=0
  (trap '' XFSZ && ulimit -f 1 && exec "$ctl" map consume /big) >half 2>err || code=$?
  [[ $code -eq 1 ]] || die "ended with $code"
  [[ $(wc -c <half) -eq 1024 ]] || die "$(wc -c <half) bytes were written" # 204 records of 5 bytes, and 4 bytes of another
  same err $'Error: write to standard output: File too large; 296 records were consumed but not wholly written\n'
  # A disk that is full is a failure, not a reader that has gone.
  echo hello | "$ctl" map output /m 2>err
  code=0
  "$ctl" map consume /m >/dev/full 2>err || code=$?
  [[ $code -eq 1 ]] || die "ended with $code"
  same err $'Error: write to standard output: No space left on device; 1 records were consumed but not wholly written\n'
}

test_closed_standard_descriptors() {
  start_daemon
  run 0 map create /m --size 4K
  printf 'one\ntwo\n' | "$ctl" map output /m 2>err
  # closed CODE REDIRECTION ARGS...: runs ringbufctl with a descriptor closed; its exit code must be CODE.
  closed() {
    local expected=$1 redirection=$2 code=0
    shift 2
    bash -c "exec \"\$@\" $redirection" _ "$ctl" "$@" 2>err || code=$?
    [[ $code -eq $expected ]] || die "'ringbufctl $*' $redirection ended with $code, not $expected: $(cat err)"
  }
  local command sentence="Error: standard output is closed; redirect it to a file or a pipe"
  run 0 map create /outer --type array_of_maps --entries 4 --inner /m
  run 0 map update /outer key 0 value /m
  for command in "consume /m" "consume /m --follow" "drain /m" "dump /m" "snapshot /m" "dump /outer" "lookup /outer key 0" list "-j list" help; do
    # shellcheck disable=SC2086
    closed 1 '>&-' map $command
    same err "$sentence"$'\n'
  done
  closed 1 '>&- <&-' map consume /m
  same err "$sentence"$'\n'
  closed 1 '<&-' map output /m
  same err $'Error: standard input is closed; redirect it from a file or a pipe\n'
  closed 1 '>&-' -j map show id 99
  grep -q '^Error: .*99' err || die "the error is lost: $(cat err)"
  closed 0 '2>&-' map list >out
  grep -q '^1: ringbuf' out
  closed 0 '2>&-' map output /m --no-wait <<<three
  run 0 map consume /m
  same out $'one\ntwo\nthree\n'
}

test_drain_takes_what_output_sent() {
  start_daemon
  run 0 map create /u --size 64K --type user_ringbuf
  printf 'plain\0\0caf\303\251 "\\"\0\377\001' >in
  local format
  for format in text hex json raw; do
    run 0 map output /u --nul <in
    same err $'sent 4 records, 16 bytes; dropped 0\n'
    run 0 map drain /u --format "$format"
    mv out "$format"
  done
  same text $'plain\n\ncaf\303\251 "\\"\n\377\001\n'
  same hex $'70 6c 61 69 6e\n\n63 61 66 c3 a9 20 22 5c 22\nff 01\n'
  same json $'{"size":5,"data":"plain"}\n{"size":0,"data":""}\n{"size":9,"data":"caf\303\251 \\"\\\\\\""}\n{"size":2,"hex":"ff 01"}\n'
  same raw $'plaincaf\303\251 "\\"\377\001'
  run 0 map output /u --nul <in
  run 0 -j map drain /u
  cmp out json
  run 0 map drain /u # it is empty
  same out ""
  run 0 -j map show /u
  json '[.records, .bytes, .avail_data]' '[20,80,0]'
}

test_drain_count_is_exact_and_waits() {
  start_daemon
  run 0 map create /m --size 64K --type user_ringbuf
  seq 10 >in
  run 0 map output /m <in
  run 0 map drain /m --count 0
  same out ""
  run 0 map drain /m --count 4
  same out $'1\n2\n3\n4\n'
  "$ctl" map drain /m --count 8 >received &
  local consumer=$!
  until_asleep "$consumer"
  run 0 map output /m <in
  wait "$consumer"
  same received $'5\n6\n7\n8\n9\n10\n1\n2\n'
  run 0 map drain /m
  same out $'3\n4\n5\n6\n7\n8\n9\n10\n'
  "$ctl" map drain /m --count 3 >received 2>err &
  consumer=$!
  until_asleep "$consumer"
  kill -TERM "$consumer"
  local code=0
  wait "$consumer" || code=$?
  [[ $code -eq 1 ]] || die "ended with $code"
  same err $'Error: stopped by a signal after 0 of 3 records\n'
}

test_drain_takes_more_than_one_drain_may() {
  start_daemon
  run 0 map create /u --size 4M --type user_ringbuf
  seq 100001 240000 >in # bpf_user_ringbuf_drain takes 131072 at once
  run 0 map output /u <in
  run 0 map drain /u
  cmp out in
}

test_drain_follows_until_a_signal() {
  start_daemon
  run 0 map create /m --size 4K --type user_ringbuf
  mkfifo fifo
  "$ctl" map drain /m --follow >fifo &
  local consumer=$! line i
  exec 5<fifo
  for ((i = 0; i < 20; i++)); do
    until_asleep "$consumer"
    echo "hello $i" | "$ctl" map output /m 2>err
    read -r line <&5 # it does not keep back what it has
    [[ $line == "hello $i" ]] || die "got '$line'"
  done
  seq 20000 >in # many times what fits: producer and drain wake each other
  head -n 20000 <&5 >received &
  local reader=$!
  run 0 map output /m <in
  wait "$reader"
  cmp in received
  kill "$consumer"
  wait "$consumer" || die "ended with $?"
}

test_output_into_a_user_ring() {
  start_daemon
  run 0 map create /u --size 4K --type user_ringbuf
  seq 10000 10999 >in
  run 0 map output /u --no-wait <in
  same err $'sent 256 records, 1280 bytes; dropped 744\n' # 16 bytes each; nothing stays free
  run 0 -j map show /u
  json '[.lost.full, .avail_data]' '[744,4096]'
  run 0 map drain /u
  cmp out <(head -n 256 in)
  head -c 4088 /dev/zero >in
  run 0 map output /u --whole <in
  run 0 map drain /u --format raw
  cmp out in
  { echo a && head -c 4089 /dev/zero | tr '\0' x && echo && echo b; } >in
  run 1 map output /u <in
  same err "Error: record 2 has 4089 bytes, but this ring takes at most 4088 in one; it and others like it are dropped: use a map of a larger --size
sent 2 records, 2 bytes; dropped 1
"
  run 0 -j map show /u
  json .lost.too_big 1
  # However large the ring, a drain takes no sample of more than 2^24 - 1 bytes.
  run 0 map create /big --size 32M --type user_ringbuf
  head -c 16777216 /dev/zero >in
  run 1 -j map output /big --whole <in
  json '[.dropped, .errno, (.error | test("at most 16777215 in one"))]' '[1,"E2BIG",true]'
  head -c 16777215 in | "$ctl" map output /big --whole 2>err
  same err $'sent 1 records, 16777215 bytes; dropped 0\n'
  # It has one producer at a time.
  mkfifo fifo
  "$ctl" map output /u <fifo 2>first &
  local producer=$!
  exec 4>fifo
  echo hello >&4
  "$ctl" map drain /u --count 3 >out
  run 1 map output /u </dev/null
  grep -q '^Error: .*producer' err || die "$(cat err)"
  exec 4>&-
  wait "$producer"
}

test_output_waits_for_room_in_a_user_ring_on_a_terminal() {
  command -v script >/dev/null || exit 77
  start_daemon
  run 0 map create /u --size 4K --type user_ringbuf
  seq 2000 >in # with progress each wait has a timeout, which is ENOSPC here
  script -qefc "$ctl map output /u <in" typescript >/dev/null &
  local sender=$!
  until grep -qa 'records/s' typescript 2>/dev/null; do kill -0 "$sender" || die "it ended: $(cat typescript)"; done
  run 0 map drain /u --count 2000
  cmp in out
  wait "$sender"
  grep -qa 'sent 2000 records' typescript
}

test_each_ring_has_its_command() {
  start_daemon
  run 0 map create /r --size 4K
  run 0 map create /u --size 4K --type user_ringbuf
  echo hello | "$ctl" map output /r 2>err
  echo hello | "$ctl" map output /u 2>err
  run 2 map consume /u
  error "map 2 'u' is a user_ringbuf, which is not consumed but drained: use 'ringbufctl map drain id 2'"
  run 2 map drain name r
  error "map 1 'r' is a ringbuf, which is not drained but consumed: use 'ringbufctl map consume id 1'"
  run 2 -j map drain /r
  json .errno '"EINVAL"'
  run 0 map consume /r # nothing was taken
  same out $'hello\n'
  run 0 map dump /u
  same out $'pos 0  size 5  slot 0  data hello\nFound 1 record\n'
  run 0 map snapshot /u
  same out $'pos 0  size 5  slot 0  data hello\nFound 1 record\n'
  run 0 map drain /u
  same out $'hello\n'
}

# outer NAME OPTIONS...: rings /a (id 1), /b (id 2) and /u (id 3, a user ring), and a map of maps (id 4) for rings like /a.
outer() {
  run 0 map create /a --size 4K
  run 0 map create /b --size 64K
  run 0 map create /u --size 4K --type user_ringbuf
  run 0 map create "/$1" --inner /a "${@:2}"
}

test_an_array_of_maps_by_number() {
  start_daemon
  outer pool --type array_of_maps --entries 300
  run 0 map dump /pool
  same out $'Found 0 elements\n'
  run 0 -j map dump /pool
  same out $'[]\n'
  run 0 map update /pool key 2 value /b
  same out ""
  run 0 -j map update /pool key 0x103 value name a # in native order
  json . null
  run 0 map lookup /pool key 259
  same out $'key: 03 01 00 00  inner_map_id: 1\n'
  run 0 -j map lookup /pool key 2 0 0 0
  same out '{"key":["0x02","0x00","0x00","0x00"],"value":["0x02","0x00","0x00","0x00"],"inner_map_id":2}'$'\n'
  run 0 map dump /pool
  cp out dump
  same dump $'key: 02 00 00 00  inner_map_id: 2\nkey: 03 01 00 00  inner_map_id: 1\nFound 2 elements\n'
  run 0 -j map dump /pool
  json '[.[] | [.key[0], .key[1], .inner_map_id]]' '[["0x02","0x00",2],["0x03","0x01",1]]'
  cp out compact
  run 0 -p map dump /pool
  cmp <(jq -c . compact) <(jq -c . out)
  # Each way to say 259.
  local key
  for key in "3 1 0 0" "0x3 0x01 0x0 0" "03 01 00 00" "hex 3 1 0 0" "h 03 01 00 00" "hex 0x3 1 0 0" "hex 103" "0403"; do
    # shellcheck disable=SC2086
    run 0 map lookup /pool key $key
    same out $'key: 03 01 00 00  inner_map_id: 1\n'
  done
  run 0 map update /pool value id 1 key 2 # in any order, and what was there is replaced
  run 0 map update /pool any key 2 value id 1
  run 0 -j map lookup /pool key 2
  json .inner_map_id 1
  run 0 map delete /pool key hex 02 00 00 00
  same out ""
  run 0 -j map delete /pool key 259
  json . null
  run 0 map dump /pool
  same out $'Found 0 elements\n'
}

test_a_hash_of_maps_by_key() {
  start_daemon
  outer names --type hash_of_maps --entries 3 --key-size 20 --name names
  run 0 map update /names key text web value /a noexist
  run 0 map update /names key text web value /b exist
  run 0 map lookup /names key text web
  same out $'key:\n77 65 62 00 00 00 00 00  00 00 00 00 00 00 00 00\n00 00 00 00\ninner_map_id:\n2\n'
  run 0 -j map lookup /names key hex 77 65 62 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
  json '[.key[0:4], (.key | length), .inner_map_id]' '[["0x77","0x65","0x62","0x00"],20,2]'
  run 0 map update /names key text exist value /a # a word of the grammar may be a name
  run 0 map update /names key text 12345678901234567890 value /a
  run 0 map dump /names
  [[ $(tail -n 1 out) == "Found 3 elements" ]] || die "$(cat out)"
  run 1 map update /names key text more value /a
  error "all 3 elements are in use; delete one, or create the map with more"
  run 0 map delete /names key text exist
  run 1 -j map lookup /names key text exist
  json .errno '"ENOENT"'
  run 2 map lookup /names key text 123456789012345678901
  error "map 4 'names' has keys of 20 bytes, and '123456789012345678901' is longer: use a shorter word"
  run 2 map lookup /names key 7
  error "map 4 'names' has keys of 20 bytes, but the key given has 1: give as many bytes, or 'text WORD'"
  # One number for keys of any size that numbers have.
  local size
  for size in 1 2 4 8; do
    run 0 map create "/h$size" --type hash_of_maps --entries 4 --key-size "$size" --inner name a
    run 0 map update "/h$size" key 200 value id 2
    run 0 -j map lookup "/h$size" key hex c8
    json '[.key[0], (.key | length), .inner_map_id]' "[\"0xc8\",$size,2]"
  done
  run 2 map lookup /h1 key 256
  error "256 is not a byte: map 5 'h1' has keys of 1 bytes"
  run 2 map lookup /h2 key 65536
  error "65536 is too large: map 6 'h2' has keys of 2 bytes"
  run 0 map update /h8 key 0xffffffffffffffff value /a
  run 0 map lookup /h8 key 18446744073709551615
  same out $'key: ff ff ff ff ff ff ff ff  inner_map_id: 1\n'
}

test_errors_of_maps_of_maps() {
  start_daemon
  outer pool --type array_of_maps --entries 4
  run 0 map create /names --type hash_of_maps --entries 4 --key-size 8 --inner id 1
  run 1 map lookup /pool key 3
  error "map 4 'pool' holds nothing at this key; 'ringbufctl map dump id 4' shows what it holds"
  run 1 map delete /pool key 3
  grep -q "; 'ringbufctl map dump id 4' shows what it holds$" err || die "$(cat err)"
  run 1 map update /pool key 4 value /a
  grep -q '^Error: .*beyond' err || die "$(cat err)"
  run 2 map update /pool key 0 value /u
  grep -q "^Error: map 3 'u' .*is not like" err || die "$(cat err)"
  run 2 map update /pool key 0 value /names
  grep -q "^Error: map 5 'names' .*is not like" err || die "$(cat err)"
  run 2 map update /pool key 0 value /a noexist
  grep -q "^Error: .*; leave 'noexist' out$" err || die "$(cat err)"
  run 1 map update /names key text a value /a exist
  grep -q "^Error: .*; leave 'exist' out$" err || die "$(cat err)"
  run 0 map update /names key text a value /a
  run 1 -j map update /names key text a value /a noexist
  json '[.errno, (.error | endswith("; leave '"'noexist'"' out"))]' '["EEXIST",true]'
  run 1 map update /pool key 0 value /nobody
  error "nothing is pinned at /nobody; 'ringbufctl map list' shows those there are"
  run 2 map lookup /pool key text a
  error "map 4 'pool' is an array: its keys are numbers, as in 'key 2'"
  run 2 map lookup /pool key 1 2 3
  error "map 4 'pool' has keys of 4 bytes, but the key given has 3: give as many bytes, or one number"
  run 2 map lookup /pool key 1 2 3 256
  error "256 is not a byte: map 4 'pool' has keys of 4 bytes"
  run 2 map dump /pool --format text
  error "--format is for records, and map 4 'pool' holds maps: use --json, or leave it out"
  local command
  for command in output consume drain snapshot; do
    run 2 map "$command" /pool </dev/null
    error "map 4 'pool' is an array_of_maps, which holds maps, not records: use one of them; 'ringbufctl map dump id 4' shows their ids"
    run 2 map "$command" /names </dev/null
    grep -q "^Error: map 5 'names' is a hash_of_maps, " err
  done
  for command in "lookup /a key 1" "delete /u key 1" "update /a key 1 value /b"; do
    # shellcheck disable=SC2086
    run 2 map $command
    grep -q "^Error: map [13] '[au]' is a .*, which holds records, not maps: use a map that was created with --type array_of_maps or hash_of_maps$" err || die "$(cat err)"
  done
  run 2 map create /deep --type array_of_maps --entries 4 --inner /pool
  grep -q "^Error: map 4 'pool' .*must be a ring" err || die "$(cat err)"
  run 1 map create /large --type array_of_maps --entries 1000000 --inner /a
  grep -q '^Error: .*1000000 is too large' err || die "$(cat err)"
  run 1 map create /c --type array_of_maps --entries 4 --inner name nobody
  grep -q "^Error: .*'ringbufctl map list' shows those there are$" err || die "$(cat err)"
  run 0 -j map list
  json length 5
}

test_a_map_of_maps_keeps_its_rings() {
  start_daemon
  outer pool --type array_of_maps --entries 4 --mode 0640
  run 0 map update /pool key 1 value /b
  run 0 map update /pool key 3 value /b
  run 0 map show /pool
  grep -q '^4: array_of_maps  name pool  flags 0x0$' out
  grep -q '^	key 4B  value 4B  max_entries 4  memlock [0-9]*B$' out
  grep -q '  mode 0640$' out
  [[ $(tail -n 1 out) == "	used 2" ]] || die "$(cat out)"
  run 0 -j map show /pool
  json '[.type, .bytes_key, .bytes_value, .max_entries, .used, has("records")]' '["array_of_maps",4,4,4,2,false]'
  run 0 map unpin /b
  run 0 map show id 2
  grep -q '^	references 2$' out
  echo hello | "$ctl" map output id 2 2>err
  run 0 map consume id 2
  same out $'hello\n'
  run 0 map delete /pool key 1
  run 0 -j map show id 2
  json .references 1
  run 0 map update /pool key 3 value /a
  run 1 map show id 2
  run 0 map unpin /pool
  run 0 -j map list
  json '[.[] | [.name, has("references")]]' '[["a",false],["u",false]]'
}

test_dump_of_a_large_array_of_maps() {
  start_daemon
  outer pool --type array_of_maps --entries 2000
  local i
  for i in 0 7 1999; do run 0 map update /pool key "$i" value /a; done
  run 0 -j map dump /pool
  json '[.[].key | .[0] + .[1]]' '["0x000x00","0x070x00","0xcf0x07"]'
}

test_elements_and_rights() {
  [[ $(id -u) -eq 0 ]] && command -v setpriv >/dev/null || exit 77
  start_daemon
  chmod 755 "$dir"
  outer pool --type array_of_maps --entries 4 --mode 0604
  run 0 map update /pool key 0 value /a
  cp "$ctl" "$(ldd "$ctl" | awk '$1 ~ /^libringbuf/ { print $3 }')" .
  as_nobody() {
    LD_LIBRARY_PATH=$dir setpriv --reuid 65534 --regid 65534 --clear-groups ./ringbufctl "$@" >out 2>err
  }
  as_nobody map dump /pool || die "$(cat err)"
  same out $'key: 00 00 00 00  inner_map_id: 1\nFound 1 element\n'
  as_nobody map lookup /pool key 0 || die "$(cat err)"
  ! as_nobody map delete /pool key 0 || die "it may delete"
  grep -q "^Error: uid 65534 may not manage map 4 'pool'" err || die "$(cat err)"
  ! as_nobody map update /pool key 0 value /a || die "it may update"
  run 0 -j map dump /pool
  json length 1
}

test_drain_reports_a_damaged_ring() {
  [[ $(id -u) -eq 0 ]] || exit 77
  start_daemon
  run 0 map create /u --size 4K --type user_ringbuf
  local fd memory=""
  for fd in "/proc/$daemon/fd"/*; do [[ $(readlink "$fd") != *ringbuf:p* ]] || memory=$fd; done
  [[ $memory ]] || die "the daemon has no memory of the ring"
  printf '\003' | dd of="$memory" bs=1 seek=65536 conv=notrunc status=none # producer_pos: not a multiple of 8
  local options
  for options in "" --follow "--count 1"; do
    # shellcheck disable=SC2086
    run 1 map drain /u $options
    grep -q '^Error: .*producer_pos.*: create a new map$' err || die "$(cat err)"
  done
}

test_snapshot_is_the_flight_recorders_last_lap() {
  start_daemon
  run 0 map create /f --size 4K --overwrite
  run 0 map snapshot /f
  same out $'Found 0 records\n'
  run 0 -j map snapshot /f
  same out $'[]\n'
  seq 10000 10999 >in
  run 0 map output /f <in # nobody consumes, and it does not wait
  same err $'sent 1000 records, 5000 bytes; dropped 0\n'
  tail -n 255 in >last # 16 bytes each, 8 stay free
  for _ in 1 2; do
    run 0 map snapshot /f --format raw
    cmp out <(tr -d '\n' <last)
  done
  run 0 map consume /f --count 5
  run 0 -j map dump /f
  json '[length, .[0].data]' '[250,"10750"]'
  run 0 -j map snapshot /f # what was consumed is still there
  json '[length, .[0], .[254].data]' '[255,{"pos":11920,"size":5,"slot":1,"flags":[],"data":"10745"},"10999"]'
  run 0 map snapshot /f --format hex
  [[ $(tail -n 1 out) == "Found 255 records" ]] || die "$(tail -n 1 out)"
  [[ $(head -n 1 out) == "pos 11920  size 5  slot 1  data 31 30 37 34 35" ]] || die "$(head -n 1 out)"
  # A ring that does not overwrite: what is not consumed.
  run 0 map create /m --size 4K
  printf 'one\ntwo\n' | "$ctl" map output /m 2>err
  run 0 map consume /m --count 1
  run 0 map snapshot /m
  same out $'pos 16  size 3  slot 1  data two\nFound 1 record\n'
}

test_consume_says_what_it_missed() {
  start_daemon
  run 0 map create /f --size 4K --overwrite
  seq 10000 10999 >in
  run 0 map output /f <in
  run 0 map consume /f
  cmp out <(tail -n 255 in)
  same err $'ringbufctl: missed 745 records, 3725 bytes: they were overwritten before they could be consumed\n'
  # Once each.
  run 0 map output /f </dev/null
  run 0 map consume /f
  same out ""
  same err ""
  seq 20000 20009 | "$ctl" map output /f 2>err
  run 0 map consume /f
  same err ""
  run 0 map output /f <in
  run 0 -j map consume /f --count 255
  tail -n 1 out >missed
  same missed $'{"missed":{"records":745,"bytes":3725}}\n'
  cmp <(head -n 255 out | jq -r .data) <(tail -n 255 in)
  same err ""
  # Records alone are what --format asks for; and a reader that has gone hides nothing.
  run 0 map output /f <in
  run 0 map consume /f --format json
  [[ $(wc -l <out) -eq 255 ]] || die "$(wc -l <out) lines"
  grep -q '^ringbufctl: missed 745 records' err
  run 0 map output /f <in
  local code=0
  "$ctl" -j map consume /f >/dev/full 2>err || code=$?
  [[ $code -eq 1 ]] || die "ended with $code"
  grep -q '^ringbufctl: missed 745 records' err || die "$(cat err)"
}

test_dump_does_not_consume() {
  start_daemon
  run 0 map create /m --size 64K
  run 0 map dump /m
  same out $'Found 0 records\n'
  run 0 -j map dump /m
  same out $'[]\n'
  printf 'one\n\ntab\there\n\033\377\n' >in
  run 0 map output /m <in
  for _ in 1 2; do
    run 0 map dump /m
    same out 'pos 0  size 3  slot 1  data one
pos 16  size 0  slot 1  data 
pos 24  size 8  slot 1  data tab\there
pos 40  size 2  slot 1  data \x1b\xff
Found 4 records
'
  done
  run 0 map dump /m --format hex
  grep -q '^pos 0  size 3  slot 1  data 6f 6e 65$' out
  run 0 map dump /m --format raw
  same out $'onetab\there\033\377'
  run 0 map dump /m --format json
  head -n 1 out >first
  same first '{"pos":0,"size":3,"slot":1,"flags":[],"data":"one"}'$'\n'
  jq -c . out >lines
  run 0 -j map dump /m
  json '[length, .[3]]' '[4,{"pos":40,"size":2,"slot":1,"flags":[],"hex":"1b ff"}]'
  cmp lines <(jq -c '.[]' out)
  run 0 -p map dump /m
  cmp lines <(jq -c '.[]' out)
  run 0 map consume /m
  cmp out in
  run 0 map dump /m
  same out $'Found 0 records\n'
}

test_another_user_without_rights() {
  [[ $(id -u) -eq 0 ]] && command -v setpriv >/dev/null || exit 77
  start_daemon
  chmod 755 "$dir"
  run 0 map create /private --size 4K
  run 0 map create /readable --size 4K --mode 0604
  run 0 map create /writable --size 4K --mode 0602
  # Copies: the build may be where nobody else may look.
  cp "$ctl" "$(ldd "$ctl" | awk '$1 ~ /^libringbuf/ { print $3 }')" .
  as_nobody() {
    LD_LIBRARY_PATH=$dir setpriv --reuid 65534 --regid 65534 --clear-groups ./ringbufctl "$@" >out 2>err
  }
  as_nobody -j map list || die "$(cat out err)"
  json '[.[].name]' '["readable","writable"]'
  json '[.[] | has("records")]' '[true,false]' # who may not observe sees no ring state
  ! as_nobody map show /private || die "it may see /private"
  same err "Error: uid 65534 has no right on this map; ask its owner for a mode or a token that gives one"$'\n'
  ! as_nobody map create /private --size 4K || die "it may create /private"
  same err $'Error: /private is pinned already; unpin it or use another path\n'
  ! as_nobody map output /readable </dev/null || die "it may produce into /readable"
  grep -q '^Error: ' err
  ! as_nobody map dump /writable || die "it may dump /writable"
  as_nobody map dump /readable || die "$(cat err)"
  echo hello | as_nobody map output /writable || die "$(cat err)"
  ! as_nobody map consume /readable || die "it may consume /readable"
  ! as_nobody map unpin /readable || die "it may unpin"
}

test_a_supplementary_group_counts() {
  [[ $(id -u) -eq 0 ]] && command -v setpriv >/dev/null || exit 77
  start_daemon
  chmod 755 "$dir"
  cp "$ctl" "$(ldd "$ctl" | awk '$1 ~ /^libringbuf/ { print $3 }')" .
  run 0 map create /m --size 4K --mode 0640
  as_member() { LD_LIBRARY_PATH=$dir setpriv --reuid 65534 --regid 65534 "$@" >out 2>err; }
  as_member --groups 0 ./ringbufctl map dump /m || die "$(cat err)"
  ! as_member --groups 0 ./ringbufctl map output /m </dev/null || die "the group may only observe"
  ! as_member --clear-groups ./ringbufctl map dump /m || die "a stranger may not observe"
}

test_output_shows_progress_on_a_terminal() {
  command -v script >/dev/null || exit 77
  start_daemon
  run 0 map create /m --size 4K
  seq 2000 >in # more than fits: it waits, and says so meanwhile
  script -qefc "$ctl map output /m <in" typescript >/dev/null &
  local sender=$!
  until grep -qa 'records/s' typescript 2>/dev/null; do kill -0 "$sender" || die "it ended: $(cat typescript)"; done
  run 0 map consume /m --count 2000
  wait "$sender"
  grep -qa 'sent 2000 records' typescript
}

test_completion_asks_the_tool() {
  start_daemon
  run 0 map create /m --size 4K
  run 0 __complete
  grep -qx map out
  run 0 __complete map
  for verb in show list create output consume drain dump snapshot update lookup delete pin unpin help; do grep -qx "$verb" out || die "$verb"; done
  run 0 __complete map consume
  for word in --follow --count --format --socket id name pinned; do grep -qx -- "$word" out || die "$word"; done
  run 0 __complete map create /n --type
  grep -qx user_ringbuf out
  grep -qx hash_of_maps out
  run 0 __complete map create /n --type array_of_maps --inner
  same out $'id\nname\npinned\n'
  run 0 __complete map create /n --inner id
  same out $'1\n'
  run 0 __complete map update /m
  for word in key value any exist noexist; do grep -qx "$word" out || die "$word"; done
  run 0 __complete map lookup /m
  grep -qx key out
  ! grep -qx value out || die "lookup takes no value"
  run 0 __complete map update /m key
  same out $'hex\ntext\n'
  run 0 __complete map update /m key 2 value
  same out $'id\nname\npinned\n'
  run 0 __complete map update /m key 2 value name
  same out $'m\n'
  run 0 __complete map show id
  same out $'1\n'
  run 0 __complete map show name
  same out $'m\n'
  run 0 __complete --socket "$dir/s" map show pinned
  same out $'/m\n'
  run 0 __complete --socket "$dir/nobody" map show id
  same out ""
}

declare -F "test_$3" >/dev/null || die "no test '$3'"
"test_$3"
