#!/usr/bin/env bash
# The bug without any NAT, in one script: packets that a node forwards into a tunnel are segmented twice on their way
# down and have a wrong outer checksum.
#
#   client                 node a                                             node b
#   eth0 10.244.0.2 ------ cni0    10.244.0.1, GRO                            the server 10.244.1.1:5001
#   gso off, tso off       tun0    10.244.0.0 ==== VXLAN or Geneve, sums ==== tun0   10.244.1.1
#                          STACK   192.168.50.1                               its VLANs only, 192.168.50.2
#                          eth0    ------------------------------------------ eth0
#
# gso-csum.sh run STACK [COMMAND...]   up, COMMAND in node a, measure, down
# gso-csum.sh up STACK                 builds the nodes
# gso-csum.sh measure                  sends for $SECONDS_EACH; prints: packets=N csum_errors=N mbit=N
#                                      (b's new Udp InDatagrams and InCsumErrors; what came out of its tunnel)
# gso-csum.sh down                     removes the nodes
#
# STACK is what is between the tunnel and the NIC: see layers.sh. The NIC is a veth with what a plain NIC has: no
# tx-scatter-gather-fraglist, and no checksum offload that the next one would have to finish; NIC_FEATURES says otherwise. UNDERLAY=nics takes this guest's eth0 and eth1
# (guest -n) instead. KIND is vxlan or geneve, FAMILY 4 or 6 (of the outer packets), TRAFFIC tcp, or udp with rx-udp-gro-forwarding.
# The nodes are network namespaces named $NS-client, $NS-a, $NS-b. Needs root, iproute2, ethtool, socat.
set -euo pipefail

NS=${NS:-vxcsum-gso}
UNDERLAY=${UNDERLAY:-veth}
NIC_FEATURES=${NIC_FEATURES:-tx off tx-scatter-gather-fraglist off}
KIND=${KIND:-vxlan}
FAMILY=${FAMILY:-4}
TRAFFIC=${TRAFFIC:-tcp}
SECONDS_EACH=${SECONDS_EACH:-3}
. "$(dirname "$0")/layers.sh"

in_client() { ip netns exec "$NS-client" "$@"; }
in_a() { ip netns exec "$NS-a" "$@"; }
in_b() { ip netns exec "$NS-b" "$@"; }

case $FAMILY in
    4) a_outer=192.168.50.1 b_outer=192.168.50.2 bits=24 mib=Udp sums=udpcsum ;;
    6) a_outer=fd00:50::1 b_outer=fd00:50::2 bits=64 mib=Udp6 sums=noudp6zerocsumtx ;;
    *) echo "gso-csum: FAMILY=$FAMILY: 4 or 6" >&2; exit 64 ;;
esac

up() {
    ip netns add "$NS-client"
    ip netns add "$NS-a"
    for in in in_client in_a in_b; do
        "$in" ip link set lo up
        # An address is usable at once, without duplicate address detection.
        "$in" sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0
    done

    "wire_$UNDERLAY"
    layers "$1"
    in_a ip addr add "$a_outer/$bits" dev "$A_UNDER"
    in_b ip addr add "$b_outer/$bits" dev "$B_UNDER"
    tunnel in_a "$a_outer" "$b_outer" "$A_UNDER" 0a
    tunnel in_b "$b_outer" "$a_outer" "$B_UNDER" 0b
    in_a ip -batch - <<BATCH
addr add 10.244.0.0/32 dev tun0
route add 10.244.1.0/24 via 10.244.1.1 dev tun0 onlink
neigh add 10.244.1.1 lladdr 02:00:00:00:00:0b dev tun0
BATCH
    in_b ip -batch - <<BATCH
addr add 10.244.1.1/32 dev tun0
route add 10.244.0.0/24 via 10.244.0.0 dev tun0 onlink
neigh add 10.244.0.0 lladdr 02:00:00:00:00:0a dev tun0
BATCH

    in_client ip link add eth0 mtu 1400 type veth peer name cni0 mtu 1400 netns "$NS-a"
    # One packet at a time, as from a wire, so GRO can merge them.
    in_client ethtool -K eth0 gso off tso off > /dev/null
    in_a ethtool -K cni0 gro on > /dev/null
    [ "$TRAFFIC" = tcp ] || in_a ethtool -K cni0 rx-udp-gro-forwarding on > /dev/null
    in_client ip addr add 10.244.0.2/24 dev eth0
    in_client ip link set eth0 up
    in_client ip route add default via 10.244.0.1
    in_a ip addr add 10.244.0.1/24 dev cni0
    in_a ip link set cni0 up
    in_a sysctl -qw net.ipv4.ip_forward=1
    in_b setsid socat -u TCP-LISTEN:5001,fork,reuseaddr OPEN:/dev/null < /dev/null > /dev/null 2>&1 &
    await_answer
}

wire_veth() {
    in_a ip link add eth0 type veth peer name eth0 netns "$NS-b"
    # shellcheck disable=SC2086  # words
    in_a ethtool -K eth0 $NIC_FEATURES > /dev/null
    # shellcheck disable=SC2086
    in_b ethtool -K eth0 $NIC_FEATURES > /dev/null
}

wire_nics() {
    ip link set eth0 netns "$NS-a"
    ip link set eth1 name eth0 netns "$NS-b"
}

# tunnel IN LOCAL REMOTE UNDERLAY MAC
tunnel() {
    local kind
    case $KIND in
        vxlan) kind="vxlan id 1 dstport 8472 local $2 remote $3 dev $4" ;;
        geneve) kind="geneve id 1 remote $3" ;;
        *) echo "gso-csum: KIND=$KIND: vxlan or geneve" >&2; return 64 ;;
    esac
    # shellcheck disable=SC2086  # words
    "$1" ip link add tun0 mtu 1400 address "02:00:00:00:00:$5" type $kind "$sums"
    "$1" ip link set tun0 up
}

await_answer() {
    local i
    for ((i = 0; i < 50; i++)); do
        if in_client timeout 2 bash -c ': < /dev/tcp/10.244.1.1/5001' 2> /dev/null; then return; fi
        sleep 0.1
    done
    echo "gso-csum: the server in $NS-b does not answer" >&2
    return 1
}

measure() {
    local packets errors bytes
    packets=$(count "${mib}InDatagrams") errors=$(count "${mib}InCsumErrors") bytes=$(received)
    case $TRAFFIC in
        tcp) in_client timeout "$SECONDS_EACH" socat -u OPEN:/dev/zero TCP:10.244.1.1:5001 || true ;;
        udp) in_client timeout "$SECONDS_EACH" socat -u -b 1200 OPEN:/dev/zero UDP:10.244.1.1:5002 2> /dev/null || true ;;
    esac
    sleep 0.2
    packets=$(($(count "${mib}InDatagrams") - packets)) errors=$(($(count "${mib}InCsumErrors") - errors)) bytes=$(($(received) - bytes))
    echo "packets=$packets csum_errors=$errors mbit=$((bytes * 8 / SECONDS_EACH / 1000000))"
}

count() { in_b nstat -asz "$1" | awk -v name="$1" '$1 == name { print $2 }'; }
received() { in_b cat /sys/class/net/tun0/statistics/rx_bytes; }

down() {
    local name
    # A NIC returns from a deleted namespace, but with another name.
    if [ "$UNDERLAY" = nics ]; then
        in_b ip link set eth0 down name eth1 netns $$ || true
        in_a ip link set eth0 down netns $$ || true
    fi
    for name in client b a; do
        [ -e "/run/netns/$NS-$name" ] || continue
        ip netns pids "$NS-$name" | xargs -r kill || true
        ip netns del "$NS-$name" || true
    done
}

usage() { echo "usage: gso-csum.sh run|up STACK [COMMAND...] | measure | down" >&2; exit 64; }

# Removes the namespaces at any end of the script. Only after b was created: existing namespaces belong to others.
claim() {
    [ $# -ge 1 ] || usage
    ip netns add "$NS-b"
    trap down EXIT
    trap 'exit 1' HUP INT TERM
}

case ${1:-} in
    run)
        shift
        claim "$@"
        up "$1"
        shift
        [ $# -eq 0 ] || in_a "$@"
        measure
        ;;
    up)
        claim "${@:2}"
        up "$2"
        trap - EXIT
        ;;
    measure) measure ;;
    down) down ;;
    *) usage ;;
esac
