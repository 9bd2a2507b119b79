#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Forwarded TCP packets that GRO has merged into a skb with a frag_list must
# leave a VXLAN or Geneve device with correct outer UDP checksums, also when
# devices below segment them twice. No NAT is involved.
#
#   client           forwarder                       receiver
#   eth0 ----------- ingress (GRO)
#                    tun0 over macvlan0 over eth0 -- eth0, tun0
#
# macvlan0 takes tunnel GSO but no frag_list: first segmentation. eth0 takes
# neither, as a plain NIC: second segmentation. The verdict is the receiver's
# UdpInCsumErrors.

source lib.sh

checktool "ethtool --version" "run test without ethtool"
checktool "socat -V" "run test without socat"

ret=0
seconds=4

cleanup()
{
	for ns in "$client" "$forwarder" "$receiver"; do
		ip netns pids "$ns" 2>/dev/null | xargs -r kill
	done
	cleanup_all_ns
}

snmp()
{
	ip netns exec "$receiver" nstat -asz "$1" |
		awk -v name="$1" '$1 == name { print $2 }'
}

rx_packets()
{
	ip netns exec "$receiver" cat /sys/class/net/tun0/statistics/rx_packets
}

# tunnel NS KIND FAMILY LOCAL REMOTE MAC
tunnel()
{
	local flags="udpcsum"

	[ "$3" = ip ] || flags="noudp6zerocsumtx"
	if [ "$2" = vxlan ]; then
		ip -n "$1" link add tun0 mtu 1400 address "$6" type vxlan id 1 \
			dstport 4789 local "$4" remote "$5" $flags
	else
		ip -n "$1" link add tun0 mtu 1400 address "$6" type geneve id 1 \
			remote "$5" $flags
	fi && ip -n "$1" link set tun0 up
}

# one KIND FAMILY
one()
{
	local kind=$1 family=$2
	local name="$kind, outer $family"
	local a1=192.0.2.1 a2=192.0.2.2 mib=UdpInCsumErrors errors packets

	if [ "$family" = ip6 ]; then
		a1=2001:db8::1 a2=2001:db8::2 mib=Udp6InCsumErrors
	fi

	if ! tunnel "$forwarder" "$kind" "$family" "$a1" "$a2" 02:00:00:00:00:01 2>/dev/null; then
		echo "SKIP: $name: no $kind"
		return
	fi
	tunnel "$receiver" "$kind" "$family" "$a2" "$a1" 02:00:00:00:00:02
	ip -n "$forwarder" addr add 198.51.100.1/24 dev tun0
	ip -n "$receiver" addr add 198.51.100.2/24 dev tun0
	ip -n "$receiver" route add 203.0.113.0/24 via 198.51.100.1

	errors=$(snmp "$mib")
	packets=$(rx_packets)
	ip netns exec "$client" timeout $seconds \
		socat -u OPEN:/dev/zero TCP:198.51.100.2:5001
	sleep 0.3
	errors=$(($(snmp "$mib") - errors))
	packets=$(($(rx_packets) - packets))

	if [ "$errors" -eq 0 ] && [ "$packets" -ge 100 ]; then
		echo "PASS: $name"
	else
		echo "FAIL: $name: $errors wrong outer checksums, $packets packets received"
		ret=1
	fi

	ip -n "$forwarder" link del tun0
	ip -n "$receiver" link del tun0
}

trap cleanup EXIT

setup_ns client forwarder receiver || exit "$ksft_skip"

ip -n "$client" link add eth0 mtu 1400 type veth peer name ingress mtu 1400 netns "$forwarder" &&
ip -n "$forwarder" link add eth0 type veth peer name eth0 netns "$receiver"
if [ $? -ne 0 ]; then
	echo "SKIP: no virtual ethernet pair device"
	exit "$ksft_skip"
fi
# Before the macvlan, which takes over what it finds.
for ns in "$forwarder" "$receiver"; do
	ip netns exec "$ns" ethtool -K eth0 tx off tx-scatter-gather-fraglist off >/dev/null
	ip -n "$ns" link set eth0 up
done
if ! ip -n "$forwarder" link add link eth0 name macvlan0 type macvlan; then
	echo "SKIP: no macvlan"
	exit "$ksft_skip"
fi

# As from a wire, packet by packet, for GRO to merge.
ip netns exec "$client" ethtool -K eth0 gso off tso off >/dev/null
ip netns exec "$forwarder" ethtool -K ingress gro on >/dev/null
ip -n "$client" link set eth0 up
ip -n "$forwarder" link set ingress up
ip -n "$forwarder" link set macvlan0 up

ip -n "$client" addr add 203.0.113.2/24 dev eth0
ip -n "$client" route add default via 203.0.113.1
ip -n "$forwarder" addr add 203.0.113.1/24 dev ingress
ip -n "$forwarder" addr add 192.0.2.1/24 dev macvlan0
ip -n "$forwarder" addr add 2001:db8::1/64 dev macvlan0 nodad
ip -n "$receiver" addr add 192.0.2.2/24 dev eth0
ip -n "$receiver" addr add 2001:db8::2/64 dev eth0 nodad
ip netns exec "$forwarder" sysctl -qw net.ipv4.ip_forward=1
ip netns exec "$receiver" socat -u TCP-LISTEN:5001,fork,reuseaddr OPEN:/dev/null &
sleep 1

for kind in vxlan geneve; do
	for family in ip ip6; do
		one $kind $family
	done
done

exit $ret
