# SPDX-License-Identifier: Apache-2.0
# Two network namespaces $a and $b joined by veth: pva with $net.1, pvb with $net.2. With $pid, $b is that
# process's own namespace. Undone at the end.
# shellcheck shell=bash
a=pv-a.$$ b=pv-b.$$
ip netns add "$a" && later ip netns del "$a"
if [ -n "${pid:-}" ]; then ip netns attach "$b" "$pid" || skip "no network namespace of process $pid"; else ip netns add "$b"; fi
later ip netns del "$b"
ip -n "$a" link add name pva type veth peer name pvb netns "$b" 2>/dev/null || { modprobe veth; ip -n "$a" link add name pva type veth peer name pvb netns "$b" || skip "no veth"; }
later ip -n "$a" link del pva
# shellcheck disable=SC2154
ip -n "$a" addr add "$net.1/24" dev pva; ip -n "$b" addr add "$net.2/24" dev pvb
for n in "$a pva" "$b pvb"; do
  # shellcheck disable=SC2086
  set -- $n; ip -n "$1" link set lo up; ip -n "$1" link set "$2" up
done
