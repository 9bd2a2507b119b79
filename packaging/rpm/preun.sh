# On removal, not on an upgrade: nothing starts any more, and vxcsum turns on again what it turned off.
if [ "$1" -eq 0 ]; then
    if [ -d /run/systemd/system ]; then
        # No event may start a unit while the files are being removed.
        mkdir -p /run/udev/rules.d
        ln -sf /dev/null /run/udev/rules.d/90-vxcsum.rules
        udevadm control --reload >/dev/null 2>&1 || :
        systemctl stop vxcsum.timer vxcsum-watch.service vxcsum-probe.service vxcsum.service 'vxcsum@*.service' >/dev/null 2>&1 || :
    fi
    systemctl --no-reload disable vxcsum.service vxcsum.timer vxcsum-watch.service vxcsum-probe.service >/dev/null 2>&1 || :
    # The record may be lost, and the nf_tables table is still there.
    if [ -e /run/vxcsum/state.json ] || [ -d /run/systemd/system ]; then
        if /usr/sbin/vxcsum revert >/dev/null; then
            echo "vxcsum: the offloads that vxcsum turned off are on again"
        else
            echo "vxcsum: not every offload is on again: see above" >&2
        fi
    fi
fi
