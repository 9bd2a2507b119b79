#!/usr/bin/env bash
# The reason for vxcsum, in one script: a connection to a Kubernetes service stalls, because NAT corrupts the outer
# checksum of VXLAN.
#
#   node a                                        node b                      pod
#   client -> 10.96.0.10:80                                                   10.244.1.2:80
#     DNAT to the pod, marked, masqueraded
#   flannel.1 10.244.0.0 ===== VXLAN, VNI 1 ===== flannel.1 10.244.1.0 ------ eth0
#   eth0      192.168.50.1 ---------------------- eth0      192.168.50.2
#     the VXLAN packet kept the mark: masqueraded again
#
# nat-delay.sh run noudpcsum|udpcsum [COMMAND...]   up, COMMAND in node a, measure, down
# nat-delay.sh up noudpcsum|udpcsum                 builds the nodes
# nat-delay.sh rules                                takes node a's NAT rules away and loads $RULES
# nat-delay.sh device noudpcsum|udpcsum             makes node a's flannel.1 anew, without peers
# nat-delay.sh peers                                node b becomes a peer of it
# nat-delay.sh route noudpcsum|udpcsum              node a's packets get another outer checksum, with an external flannel.1
# nat-delay.sh measure                              prints: connect=SECONDS csum_errors=N
#                                                   (median of $CONNECTS connects; b's new Udp InCsumErrors over all of them)
#                                                   connect=none: one was not answered, which ends the measurement
# nat-delay.sh down                                 removes the nodes
#
# The nodes are network namespaces named $NS-a, $NS-b and $NS-pod. With NODE_A=here, node a is the namespace that the script runs in, which
# is for a guest, where services of the guest are to see flannel.1. UNDERLAY=virtio takes this guest's eth0 and eth1 (guest -n) for the
# nodes instead of a veth pair. KIND is what flannel.1 is: vxlan or geneve, or vxlan-external or geneve-external, where a route chooses the
# destination, the VNI and the outer checksum of each packet. STACK is what is between flannel.1 and the NIC (layers.sh). RULES is a file of tests/cases/exposure, or
# `none`, instead of the rules above; IPTABLES the command that loads it. Connects go to the service, or to the pod where the rules have
# none. A connect is tried 1 + $SYN_RETRIES times.
# Needs root, iproute2, iptables, ethtool, socat, and nft for RULES.
set -euo pipefail

NS=${NS:-vxcsum}
NODE_A=${NODE_A:-}
UNDERLAY=${UNDERLAY:-veth}
STACK=${STACK:-nic}
KIND=${KIND:-vxlan}
RULES=${RULES:-}
IPTABLES=${IPTABLES:-iptables}
CONNECTS=${CONNECTS:-10}
SYN_RETRIES=${SYN_RETRIES:-4}
. "$(dirname "$0")/layers.sh"
# The addresses of this node and its peer, their MAC addresses, and the networks of their pods.
A=(192.168.50.1 192.168.50.2 02:00:00:00:00:0a 02:00:00:00:00:0b 10.244.0.0 10.244.1.0)

in_a() { if [ "$NODE_A" = here ]; then "$@"; else ip netns exec "$NS-a" "$@"; fi; }
in_b() { ip netns exec "$NS-b" "$@"; }
in_pod() { ip netns exec "$NS-pod" "$@"; }

up() {
    local mode=$1
    [ "$NODE_A" = here ] || ip netns add "$NS-a"
    ip netns add "$NS-pod"

    "wire_$UNDERLAY"
    layers "$STACK"
    node in_a "$A_UNDER" "${A[@]}" "$mode"
    node in_b "$B_UNDER" 192.168.50.2 192.168.50.1 02:00:00:00:00:0b 02:00:00:00:00:0a 10.244.1.0 10.244.0.0 "$mode"
    # As through the default route. Not into a VRF: the connection would belong to the VRF.
    case $STACK in *vrf*) in_a ip route add 10.96.0.0/16 dev flannel.1 ;; *) in_a ip route add 10.96.0.0/16 dev "$A_UNDER" ;; esac
    load_rules
    # By default a connect without an answer fails after 31 seconds instead of 127.
    in_a sysctl -qw net.ipv4.tcp_syn_retries="$SYN_RETRIES"

    in_b ip -batch - <<BATCH
link add cni0 type veth peer name eth0 netns $NS-pod
addr add 10.244.1.1/24 dev cni0
link set cni0 up
BATCH
    in_b sysctl -qw net.ipv4.ip_forward=1
    in_pod ip -batch - <<BATCH
link set lo up
addr add 10.244.1.2/24 dev eth0
link set eth0 up
route add default via 10.244.1.1
BATCH
    in_pod setsid socat TCP-LISTEN:80,fork,reuseaddr OPEN:/dev/null < /dev/null > /dev/null 2>&1 &
    await_server
}

# Replaces real NICs: checksums are finished before the wire, and the receiver checks them.
wire_veth() {
    in_b ip link add eth0 type veth peer name "$NS-eth0"
    if [ "$NODE_A" = here ]; then in_b ip link set "$NS-eth0" netns $$; else in_b ip link set "$NS-eth0" netns "$NS-a"; fi
    in_a ip link set "$NS-eth0" name eth0
    in_a ethtool -K eth0 tx off > /dev/null
    in_b ethtool -K eth0 tx off > /dev/null
}

# These NICs offer no offload: qemu's hub cannot mark the checksum of a frame as unfinished.
wire_virtio() { ip link set eth1 name eth0 netns "$NS-b"; }

# node IN DEVICE ADDRESS PEER MAC PEER_MAC PODS PEER_PODS MODE: one node as flannel sets it up.
node() {
    "$1" ip link set lo up
    "$1" ip addr add "$3/24" dev "$2"
    device "$@"
    [ "$KIND" != vxlan ] || "$1" bridge fdb add "$6" dst "$4" dev flannel.1
}

# As above, without address and peer.
device() {
    local in=$1 device=$2 address=$3 peer=$4 mac=$5 peer_mac=$6 pods=$7 peer_pods=$8 mode=$9 kind
    case $KIND in
        vxlan) kind="vxlan id 1 dstport 8472 local $address dev $device nolearning" ;;
        geneve) kind="geneve id 1 remote $peer" ;;
        vxlan-external) kind="vxlan external dstport 8472" mode= ;;
        geneve-external) kind="geneve external" mode= ;;
        *) echo "nat-delay: KIND=$KIND: vxlan, geneve, or one of them with -external" >&2; return 64 ;;
    esac
    "$in" ip -batch - <<BATCH
link add flannel.1 address $mac type $kind $mode
addr add $pods/32 dev flannel.1
link set flannel.1 up
$(route "$peer" "$peer_pods" "$9")
neigh add $peer_pods lladdr $peer_mac dev flannel.1
BATCH
}

# route PEER PEER_PODS MODE: the route to a peer's pods, for ip -batch.
route() {
    local encap=
    [[ $KIND != *-external ]] || { encap="encap ip id 1 dst $1 key"; [ "$3" != udpcsum ] || encap+=' csum'; }
    echo "route replace $2/24 $encap via $2 dev flannel.1 onlink"
}

load_rules() {
    case $RULES in
        '') kube_proxy ;;
        none) ;;
        *)
            [ -r "$RULES" ] || { echo "nat-delay: read $RULES: give a file of tests/cases/exposure as RULES" >&2; return 1; }
            if grep -qx '# tools: nft' "$RULES"; then
                in_a nft -f - < "$RULES"
            else
                in_a "$IPTABLES-restore" < "$RULES"
            fi
            ;;
    esac
}

clear_rules() {
    # Includes the rules of iptables-nft. A kernel without nf_tables has none.
    in_a nft flush ruleset 2> /dev/null || true
    in_a "$IPTABLES" -t nat -F
    in_a "$IPTABLES" -t nat -X
}

# The rules of kube-proxy 1.16 for one service: --random-fully came with 1.16, clearing the mark only with 1.16.13,
# 1.17.9 and 1.18.6.
kube_proxy() {
    in_a "$IPTABLES-restore" <<'RULES'
*nat
:KUBE-SERVICES - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp --dport 80 -j KUBE-MARK-MASQ
-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp --dport 80 -j DNAT --to-destination 10.244.1.2:80
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully
COMMIT
RULES
}

await_server() {
    local i
    for ((i = 0; i < 50; i++)); do
        if in_pod timeout 1 bash -c ': < /dev/tcp/127.0.0.1/80' 2> /dev/null; then return; fi
        sleep 0.1
    done
    echo "nat-delay: the server in $NS-pod did not start" >&2
    return 1
}

measure() {
    local before after times target=10.244.1.2/80
    if [ -z "$RULES" ] || { [ "$RULES" != none ] && grep -q '10\.96\.0\.10' "$RULES"; }; then target=10.96.0.10/80; fi
    before=$(csum_errors)
    # One shell for all connects: the time must not include its start.
    # shellcheck disable=SC2016  # expanded by the inner shell
    times=$(in_a env LC_ALL=C CONNECTS="$CONNECTS" TARGET="$target" bash -euc '
        for ((i = 0; i < CONNECTS; i++)); do
            start=${EPOCHREALTIME/./}
            if ! { : 3<> "/dev/tcp/$TARGET"; } 2> /dev/null; then
                echo none
                break
            fi
            echo $((${EPOCHREALTIME/./} - start))
        done')
    after=$(csum_errors)
    printf 'connect=%s csum_errors=%s\n' "$(median <<< "$times")" $((after - before))
}

csum_errors() { in_b nstat -asz UdpInCsumErrors | awk '$1 == "UdpInCsumErrors" { print $2 }'; }

# Converts microseconds, one in each line, to seconds.
median() {
    sort -n | awk '{ row[NR] = $1; none += $1 == "none" }
        END { if (none) printf "none"; else printf "%.3f", row[int((NR + 1) / 2)] / 1e6 }'
}

down() {
    local name
    # A NIC returns from a deleted namespace, but with another name.
    [ "$UNDERLAY" != virtio ] || in_b ip link set eth0 down name eth1 netns $$ || true
    for name in "$NS-pod" "$NS-b" "$NS-a"; do
        [ -e "/run/netns/$name" ] || continue
        ip netns pids "$name" | xargs -r kill || true
        ip netns del "$name" || true
    done
    [ "$NODE_A" = here ] || return 0
    ip link del flannel.1 || true
    layers_down
    # A veth disappeared together with b's end.
    [ "$UNDERLAY" != virtio ] || { ip addr flush dev eth0 && ip link set eth0 down; } || true
    clear_rules || true
}

usage() { echo "usage: nat-delay.sh run|up noudpcsum|udpcsum [COMMAND...] | rules | device noudpcsum|udpcsum | peers | route noudpcsum|udpcsum | measure | down" >&2; exit 64; }

# Removes the namespaces at any end of the script. Only after b was created: existing namespaces belong to others.
claim() {
    [[ ${1:-} =~ ^(no)?udpcsum$ ]] || usage
    [[ $UNDERLAY == veth || ( $UNDERLAY == virtio && $NODE_A == here ) ]] \
        || { echo "nat-delay: UNDERLAY=$UNDERLAY: veth, or with NODE_A=here virtio" >&2; exit 64; }
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
        claim "${2:-}"
        up "$2"
        trap - EXIT
        ;;
    rules)
        clear_rules
        load_rules
        ;;
    device)
        # On the same underlay as the device before.
        A_UNDER=$(in_a ip -d -j link show flannel.1 | sed -n 's/.*"link":"\([^"]*\)".*/\1/p')
        in_a ip link del flannel.1
        device in_a "$A_UNDER" "${A[@]}" "$2"
        ;;
    route) route "${A[1]}" "${A[5]}" "$2" | in_a ip -batch - ;;
    peers) in_a bridge fdb add "${A[3]}" dst "${A[1]}" dev flannel.1 ;;
    measure) measure ;;
    down) down ;;
    *) usage ;;
esac
