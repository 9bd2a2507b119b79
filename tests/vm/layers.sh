# shellcheck shell=bash
# Devices between a tunnel and the NIC, for nat-delay.sh and gso-csum.sh, which source this file and define in_a and
# in_b.
#
# layers STACK creates the devices in STACK, from the top, separated by commas, on eth0 of node a: bond (BOND_MODE),
# bridge, ipvlan, macvlan (MACVLAN_MODE), vlan, vrf (the device below becomes its port); `nic` stands for no device.
# Node b gets only the VLANs. A_UNDER and B_UNDER are then the underlays of the tunnels.
# layers_down removes the devices from node a.

BOND_MODE=${BOND_MODE:-active-backup}
MACVLAN_MODE=${MACVLAN_MODE:-vepa}

layers() {
    local stack i
    A_UNDER=eth0 B_UNDER=eth0
    in_a ip link set eth0 up
    in_b ip link set eth0 up
    IFS=, read -ra stack <<< "$1"
    for ((i = ${#stack[@]} - 1; i >= 0; i--)); do
        case ${stack[i]} in
            nic) ;;
            bond)
                in_a ip link add bond0 type bond mode "$BOND_MODE" miimon 100
                in_a ip link set "$A_UNDER" down
                in_a ip link set "$A_UNDER" master bond0
                layer bond0
                ;;
            bridge)
                in_a ip link add br0 type bridge
                in_a ip link set "$A_UNDER" master br0
                layer br0
                ;;
            ipvlan)
                in_a ip link add link "$A_UNDER" name ipvlan0 type ipvlan mode l2
                layer ipvlan0
                ;;
            macvlan)
                in_a ip link add link "$A_UNDER" name macvlan0 type macvlan mode "$MACVLAN_MODE"
                layer macvlan0
                ;;
            vlan)
                in_a ip link add link "$A_UNDER" name vlan100 type vlan id 100
                layer vlan100
                in_b ip link add link "$B_UNDER" name vlan100 type vlan id 100
                in_b ip link set vlan100 up
                B_UNDER=vlan100
                ;;
            vrf)
                in_a ip link add vrf-blue type vrf table 10
                in_a ip link set vrf-blue up
                in_a ip link set "$A_UNDER" master vrf-blue
                ;;
            *)
                echo "layers: STACK $1: ${stack[i]} is none of nic, bond, bridge, ipvlan, macvlan, vlan, vrf" >&2
                return 64
                ;;
        esac
    done
}

layer() {
    in_a ip link set "$1" up
    A_UNDER=$1
}

layers_down() {
    local name
    for name in macvlan0 ipvlan0 vlan100 br0 bond0 vrf-blue; do in_a ip link del "$name" 2> /dev/null || true; done
}
