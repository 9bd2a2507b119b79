# On removal, not on an upgrade: nothing starts any more, and the devices get back what vxcsum turned off.
if [ "$1" -eq 0 ]; then
    if [ -d /run/systemd/system ]; then
        # No event may start a unit while the rest goes.
        mkdir -p /run/udev/rules.d
        ln -sf /dev/null /run/udev/rules.d/90-vxcsum.rules
        udevadm control --reload >/dev/null 2>&1 || :
        systemctl stop vxcsum.timer vxcsum-watch.service vxcsum-probe.service vxcsum.service 'vxcsum@*.service' >/dev/null 2>&1 || :
    fi
    systemctl --no-reload disable vxcsum.service vxcsum.timer vxcsum-watch.service vxcsum-probe.service >/dev/null 2>&1 || :
    if [ -e /run/vxcsum/state.json ]; then
        /usr/sbin/vxcsum revert >/dev/null || echo "vxcsum: the devices named above did not get their offload back" >&2
    fi
fi
