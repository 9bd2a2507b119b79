#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# NAT of locally generated VXLAN and Geneve packets must leave a correct outer
# UDP checksum, also while the inner checksum is still to be filled in
# (CHECKSUM_PARTIAL, local checksum offload).
#
#   ns1: tun0 over eth0, SNAT        ns2: tun0 over eth0
#
# "tx off" on the veth stands for a NIC: the inner checksum is filled in before
# the packet is received. The verdict is the receiver's UdpInCsumErrors.

source lib.sh

checktool "nft --version" "run test without nft tool"
checktool "ethtool --version" "run test without ethtool"

ret=0
count=5

cleanup()
{
	cleanup_all_ns
}

snmp()
{
	ip netns exec "$ns2" nstat -asz "$1" |
		awk -v name="$1" '$1 == name { print $2 }'
}

rx_packets()
{
	ip netns exec "$ns2" cat /sys/class/net/tun0/statistics/rx_packets
}

# tunnel NS KIND FAMILY SUMS LOCAL REMOTE MAC
tunnel()
{
	local flags

	case $3.$4 in
	ip.sums) flags="udpcsum" ;;
	ip.nosums) flags="noudpcsum" ;;
	ip6.sums) flags="noudp6zerocsumtx" ;;
	ip6.nosums) flags="udp6zerocsumtx udp6zerocsumrx" ;;
	esac

	if [ "$2" = vxlan ]; then
		ip -n "$1" link add tun0 address "$7" type vxlan id 1 \
			dstport 4789 local "$5" remote "$6" $flags
	else
		ip -n "$1" link add tun0 address "$7" type geneve id 1 \
			remote "$6" $flags
	fi
}

# one KIND FAMILY SUMS WHAT STATEMENT [ADDRESS]: ADDRESS is what the receiver
# sees as its peer, which Geneve goes by.
one()
{
	local kind=$1 family=$2 sums=$3 what=$4 statement=$5 seen=$6
	local name="$kind, outer $family, $sums, SNAT of the $what"
	local a1 a2 mib errors packets i

	a1=192.0.2.1 a2=192.0.2.2 mib=UdpInCsumErrors
	if [ "$family" = ip6 ]; then
		a1=2001:db8::1 a2=2001:db8::2 mib=Udp6InCsumErrors
	fi

	if ! tunnel "$ns1" "$kind" "$family" "$sums" "$a1" "$a2" 02:00:00:00:00:01 2>/dev/null; then
		echo "SKIP: $name: no $kind"
		return
	fi
	tunnel "$ns2" "$kind" "$family" "$sums" "$a2" "${seen:-$a1}" 02:00:00:00:00:02
	ip -n "$ns1" addr add 198.51.100.1/24 dev tun0
	ip -n "$ns2" addr add 198.51.100.2/24 dev tun0
	ip -n "$ns1" link set tun0 up
	ip -n "$ns2" link set tun0 up
	ip -n "$ns1" neigh add 198.51.100.2 lladdr 02:00:00:00:00:02 dev tun0

	ip netns exec "$ns1" nft -f - <<EOF
flush ruleset
table $family nat {
	chain postrouting {
		type nat hook postrouting priority 100
		oifname "eth0" udp dport { 4789, 6081 } $statement
	}
}
EOF
	if [ $? -ne 0 ]; then
		echo "SKIP: $name: no NAT for nf_tables"
	else
		errors=$(snmp "$mib")
		packets=$(rx_packets)
		for i in $(seq $count); do
			ip netns exec "$ns1" bash -c "echo > /dev/udp/198.51.100.2/9"
		done
		sleep 0.3
		errors=$(($(snmp "$mib") - errors))
		packets=$(($(rx_packets) - packets))

		if [ "$errors" -eq 0 ] && [ "$packets" -ge $count ]; then
			echo "PASS: $name"
		else
			echo "FAIL: $name: $errors wrong outer checksums, $packets packets received"
			ret=1
		fi
	fi

	ip -n "$ns1" link del tun0
	ip -n "$ns2" link del tun0
}

trap cleanup EXIT

setup_ns ns1 ns2 || exit "$ksft_skip"

if ! ip -n "$ns1" link add eth0 type veth peer name eth0 netns "$ns2"; then
	echo "SKIP: no virtual ethernet pair device"
	exit "$ksft_skip"
fi

for ns in "$ns1" "$ns2"; do
	ip netns exec "$ns" ethtool -K eth0 tx off >/dev/null
	ip netns exec "$ns" sysctl -qw net.ipv6.conf.eth0.accept_dad=0
	ip -n "$ns" link set eth0 up
done
ip -n "$ns1" addr add 192.0.2.1/24 dev eth0
ip -n "$ns2" addr add 192.0.2.2/24 dev eth0
ip -n "$ns1" addr add 2001:db8::1/64 dev eth0 nodad
ip -n "$ns2" addr add 2001:db8::2/64 dev eth0 nodad

for kind in vxlan geneve; do
	for sums in sums nosums; do
		one $kind ip $sums port "masquerade fully-random"
		one $kind ip $sums address "snat to 192.0.2.3" 192.0.2.3
		one $kind ip6 $sums port "masquerade fully-random"
		one $kind ip6 $sums address "snat to 2001:db8::3" 2001:db8::3
	done
done

exit $ret
