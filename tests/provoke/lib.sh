# SPDX-License-Identifier: Apache-2.0
# What all provocations share. A provocation makes one anomaly really happen, looks in the kernel's
# own trace that it did, says PROVOKED, NOT PROVOKED or SKIP, and undoes what it changed.
# shellcheck shell=bash
set -u
case " $* " in *" -h "*|*" --help "*) sed -n '3,/^here=/p' "$0" | sed -n 's/^# \{0,1\}//p'; exit 0 ;; esac
skip() { echo "SKIP: $*"; exit 77; }
ok() { echo "PROVOKED: $*"; exit 0; }
no() { echo "NOT PROVOKED: $*"; exit 1; }
# opt NAME DEFAULT "$@": the value that follows --NAME.
opt() {
  local name=$1 value=$2 arg previous=''; shift 2
  for arg in "$@"; do [ "$previous" != "--$name" ] || value=$arg; previous=$arg; done
  echo "$value"
}
# Commands that undo what was done, last first, whatever ends the script.
undo=()
later() { undo=("$*" "${undo[@]}"); }
trap 'for u in "${undo[@]}"; do eval "$u" >/dev/null 2>&1; done' EXIT
trap 'exit 130' INT TERM
[ "$(id -u)" = 0 ] || skip "needs root"
T=/sys/kernel/tracing; [ -d $T/events ] || mount -t tracefs tracefs $T 2>/dev/null
I=$T/instances/provoke.$$
# A trace instance of our own, so that nobody else's tracing is disturbed.
watch_events() {
  local e
  [ -d "$I" ] || { mkdir "$I" 2>/dev/null || return 1; later "rmdir $I"; }
  for e in "$@"; do
    later "echo 0 > $I/events/$e/enable"
    echo 1 > "$I/events/$e/enable" 2>/dev/null || echo "note: no tracepoint $e"
  done
}
seen() { grep -cE "$1" "$I/trace"; }
# keep FILE VALUE: writes VALUE, and the old one back at the end.
keep() { local o; o=$(cat "$1" 2>/dev/null) || return 1; later "echo '$o' > $1"; echo "$2" > "$1" 2>/dev/null; }
module=${BIANQUE_VM_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/bianque/vm}/provoke/$(uname -r)/provoke.ko
# The kernel module where it is built for this kernel, else a BPF program.
best_means() { if [ -e /sys/kernel/debug/provoke ] || [ -e "$module" ]; then echo module; else echo bpf; fi; }
load_module() { [ -e /sys/kernel/debug/provoke ] || { insmod "$module" || skip "module does not load"; later rmmod provoke; }; }
