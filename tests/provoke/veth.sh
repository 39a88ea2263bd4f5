# SPDX-License-Identifier: Apache-2.0
# Two network namespaces $a and $b joined by veth: pva with $net.1, pvb with $net.2; in IPv6, for 10.77.N, the ends
# are fd77:N::1 and fd77:N::2. $one and $two are the ends in the IP that --ip asks for. With $pid, $b is that
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
net6=fd77:${net##*.}: one=$net.1 two=$net.2
# An address that is still being checked for duplicates cannot be used.
if [ "${ip:-4}" = 6 ]; then
  ip -n "$a" addr add "$net6:1/64" dev pva nodad; ip -n "$b" addr add "$net6:2/64" dev pvb nodad
  one=$net6:1 two=$net6:2
fi
# A neighbour that is not found yet cannot be used, and what asks for it may be lost as anything else.
ip -n "$a" neigh replace "$two" lladdr "$(ip -n "$b" -br link show pvb | awk '{print $3}')" dev pva nud permanent
ip -n "$b" neigh replace "$one" lladdr "$(ip -n "$a" -br link show pva | awk '{print $3}')" dev pvb nud permanent
