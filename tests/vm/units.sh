#!/usr/bin/env bash
# tests/vm/units.sh [DEB]: the units, the udev rule and the package's scripts in a booted machine with systemd.
#
# On the host it installs the .deb in a copy of the root and boots it; in the guest (as /vm/run) it does the checks. The policy says
# "always", so that what is tested does not depend on the kernel's bugs.
# shellcheck disable=SC2016,SC2317  # expanded by inner shells; called through `check`
set -euo pipefail

if [ "${0##*/}" = units.sh ]; then
    . "$(dirname "$0")/lib.sh"
    deb=${1:-$(ls "$VM_DIR"/../../build/packages/vxcsum_*.deb)}
    [ -f "$deb" ] || vm_die "find the package $deb: make deb"
    vm_copy full units
    vm_share units
    cp "$0" "$VM_SHARE/run"
    chmod 755 "$VM_SHARE/run"
    cp "$deb" "$VM_ROOT/vxcsum.deb"
    vm_chroot "$VM_ROOT" dpkg -i /vxcsum.deb >&2
    mkdir -p "$VM_ROOT/etc/vxcsum/policy.d"
    printf '[[rule]]\nname = "all"\ndevice = ["*"]\nwhen = "always"\n\n[[rule]]\nname = "new"\ndevice = ["new*"]\nwhen = "never"\n' \
        > "$VM_ROOT/etc/vxcsum/policy.d/10-test.toml"
    "$VM_DIR/guest" -t "${VXCSUM_VM_SECONDS:-400}" systemd plain "$VM_ROOT" "$VM_SHARE"
    exit
fi

failed=0
check() {
    local what=$1
    shift
    if "$@" > /tmp/said 2>&1; then echo "ok      $what"; else failed=1; echo "FAILED  $what"; cat /tmp/said; fi
}
state() { ethtool --show-features "$1" 2>/dev/null | sed -n 's/^[[:space:]]*tx-checksum-ip-generic: \(on\|off\).*/\1/p'; }
# Seconds, in tenths, until the feature has this state; a unit is started within a few of them.
within() {
    local name=$1 wanted=$2 n
    for ((n = 0; n < ${3:-150}; n++)); do
        [ "$(state "$name")" != "$wanted" ] || return 0
        sleep 0.1
    done
    echo "$name: $(state "$name"), not $wanted"
    return 1
}
add() { ip link add "$1" type vxlan id "$2" dstport "$((20000 + $2))" local 127.0.0.1; }
no_failed() { [ -z "$(systemctl --failed --no-legend --plain 'vxcsum*')" ] || { systemctl --failed; return 1; }; }
# All instances have ended, so what is off now was not missed but late.
settled() {
    local n
    udevadm settle
    for ((n = 0; n < 300; n++)); do
        [ -n "$(systemctl list-jobs --no-legend 'vxcsum*'; systemctl list-units --no-legend --plain --state=activating 'vxcsum*')" ] || return 0
        sleep 0.1
    done
    systemctl list-jobs
    return 1
}

check "vxcsum.service ran at boot" test "$(systemctl show -p Result --value vxcsum.service)" = success
check "vxcsum.timer is active" systemctl --quiet is-active vxcsum.timer
check "vxcsum-watch.service is not enabled" bash -c '! systemctl --quiet is-enabled vxcsum-watch.service'
systemctl stop vxcsum.timer # what follows is to be done by events alone

add flannel.1 1
check "a new device is treated" within flannel.1 off
check "its unit ended" settled
add 'h"$\*;&' 2
check "a device with a hostile name is treated" within 'h"$\*;&' off
add new0 3
settled
check "a rule keeps a device as it is" test "$(state new0)" = on
ip link set new0 name vx3
check "a renamed device is treated" within vx3 off
add again 4
for n in 5 6 7 8 9; do add "many$n" "$n"; done
for n in 5 6 7 8 9; do check "many$n, one of five at once, is treated" within "many$n" off; done

# As fast as ip can.
for ((n = 0; n < 50; n++)); do
    ip link del flannel.1
    add flannel.1 1
done
settled
check "after fifty re-creations the feature is off" test "$(state flannel.1)" = off
# At many moments of the run of a unit.
missed=0
for ((n = 0; n < 12; n++)); do
    ip link del again
    add again 4
    sleep "0.0$((RANDOM % 90 + 10))"
    ip link del again
    add again 4
    settled
    [ "$(state again)" = off ] || missed=$((missed + 1))
done
check "no re-creation at a random moment is missed ($missed of 12)" test "$missed" -eq 0
missed=0
for ((n = 0; n < 6; n++)); do
    ip link del vx3
    add new3 3
    sleep "0.0$((RANDOM % 90 + 10))"
    ip link set new3 name vx3
    settled
    [ "$(state vx3)" = off ] || missed=$((missed + 1))
done
check "no renaming at a random moment is missed ($missed of 6)" test "$missed" -eq 0

ethtool --features flannel.1 tx-checksum-ip-generic on
systemctl start vxcsum.timer
check "systemctl start vxcsum.service repairs drift" bash -c 'systemctl start vxcsum.service; ethtool -k flannel.1 | grep -q "tx-checksum-ip-generic: off"'
check "no unit has failed" no_failed
check "no start limit was hit" bash -c '! journalctl -b --no-pager | grep -i "start request repeated"'
check "the journal explains (MESSAGE_ID)" bash -c 'journalctl -b --no-pager -x | grep -q "Checksum offload turned off on VXLAN device flannel.1"'
check "the state is recorded" grep -q flannel.1 /run/vxcsum/state.json

check "vxcsum-watch.service starts and says that it is ready" systemctl start vxcsum-watch.service
check "it reloads" systemctl reload vxcsum-watch.service
ethtool --features flannel.1 tx-checksum-ip-generic on
check "it repairs drift" within flannel.1 off 50
check "it stops cleanly" bash -c 'systemctl stop vxcsum-watch.service && test "$(systemctl show -p Result --value vxcsum-watch.service)" = success'

check "the package is removed" dpkg -r vxcsum
check "removal gives the offload back" test "$(state flannel.1)" = on
add after 30
udevadm settle
sleep 2
check "a device after the removal is left alone" test "$(state after)" = on
check "the package comes back" dpkg -i /vxcsum.deb
check "and takes effect at once" test "$(state flannel.1)" = off
check "it is purged" dpkg -P vxcsum
check "nothing is left" bash -c '! find /etc /run /usr /lib /var/lib/systemd -name "*vxcsum*" | grep .'
exit $failed
