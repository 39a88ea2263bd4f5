# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by every install and run script. Needs bash, curl and the usual tools.
set -euo pipefail

# Where the servers are built: once per machine, whatever checkout asks.
BACKENDS_DIR="${BACKENDS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/bianque/backends}"
# Where running servers keep their pid file, log and data.
BACKENDS_RUN="${BACKENDS_RUN:-$BACKENDS_DIR/run}"
BACKENDS_NICE="${BACKENDS_NICE:-10}"
HERE="$(cd "$(dirname "${BASH_SOURCE[1]}")" && pwd)"

die() { echo "$*" >&2; exit 1; }
need() { command -v "$1" >/dev/null 2>&1 || die "$1 is missing: $2"; }

# installed NAME STAMP: true when NAME was installed by the same recipe.
installed() { [ "$(cat "$BACKENDS_DIR/$1/.stamp" 2>/dev/null)" = "$2" ]; }
stamp() { printf '%s' "$2" >"$BACKENDS_DIR/$1/.stamp"; }
# recipe FILE...: one hash over the files that decide what is built.
recipe() { cat "$@" | sha256sum | cut -d' ' -f1; }

# go_build NAME BINARIES TAGS PACKAGE...: builds from $HERE/go.mod and go.sum.
go_build() {
  local name=$1 tags=$2; shift 2
  need go "install Go 1.26.7 or newer"
  local out="$BACKENDS_DIR/$name/bin" src="$BACKENDS_DIR/$name/src"
  mkdir -p "$out" "$src"
  cp "$HERE/go.mod" "$HERE/go.sum" "$HERE/tools.go" "$src/"
  (cd "$src" && GOFLAGS=-mod=readonly nice -n "$BACKENDS_NICE" \
    go build -trimpath -buildvcs=false -tags "$tags" -ldflags='-s -w' -o "$out/" "$@")
}

pid_start() { awk '{sub(/^.*\) /, ""); print $20}' "/proc/$1/stat" 2>/dev/null || true; }

# The pid file holds the pid and the kernel's start time of that process, so a
# recycled pid is never taken for ours.
alive() {
  local f="$BACKENDS_RUN/$1/pid" pid st
  [ -r "$f" ] || return 1
  read -r pid st <"$f" || return 1
  [ -n "$pid" ] && [ -n "$st" ] && [ "$(pid_start "$pid")" = "$st" ]
}

# start NAME COMMAND...: in its own process group, output to $BACKENDS_RUN/NAME/log.
start() {
  local name=$1; shift
  local dir="$BACKENDS_RUN/$name" pid
  mkdir -p "$dir"
  (cd "$dir" && exec setsid "$@" >"$dir/log" 2>&1 </dev/null) &
  pid=$!
  echo "$pid $(pid_start "$pid")" >"$dir/pid"
}

# stop NAME: ends only the process that start began, and its own group.
stop() {
  local name=$1 pid st i
  if alive "$name"; then
    read -r pid st <"$BACKENDS_RUN/$name/pid"
    kill -TERM "$pid" 2>/dev/null || true
    for ((i = 0; i < 300; i++)); do alive "$name" || break; sleep 0.1; done
    if alive "$name"; then kill -KILL -- "-$pid" 2>/dev/null || true; fi
  fi
  rm -f "$BACKENDS_RUN/$name/pid"
}

# wait_http NAME SECONDS URL [CURL OPTIONS]: until URL answers 2xx, or NAME dies.
wait_http() {
  local name=$1 limit=$2 url=$3 end; shift 3
  end=$((SECONDS + limit))
  until curl -sf -m 5 -o /dev/null "$@" "$url" 2>/dev/null; do
    if ! alive "$name"; then
      tail -n 30 "$BACKENDS_RUN/$name/log" >&2 || true
      die "$name ended before it was ready"
    fi
    if [ $SECONDS -ge $end ]; then
      tail -n 30 "$BACKENDS_RUN/$name/log" >&2 || true
      stop "$name"
      die "$name was not ready within $limit s"
    fi
    sleep 0.3
  done
}

# main NAME [start|stop|status]: calls begin, then endpoints.
main() {
  local name=$1 verb="${2:-start}"
  case "$verb" in
    start) alive "$name" || begin; endpoints ;;
    stop) stop "$name" ;;
    status) alive "$name" || { echo "$name is not running"; exit 3; }; endpoints ;;
    *) die "usage: run [start|stop|status]" ;;
  esac
}
