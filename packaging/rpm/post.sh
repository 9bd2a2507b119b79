# Takes effect at once. In an image that is being built, nothing runs, and this only creates links.
if [ "$1" -eq 1 ]; then
    # The first installation follows the presets of the distribution or of the site.
    systemctl --no-reload preset vxcsum.service vxcsum.timer >/dev/null 2>&1 || :
fi
journalctl --update-catalog >/dev/null 2>&1 || :
if [ -d /run/systemd/system ]; then
    systemd-tmpfiles --create vxcsum.conf >/dev/null 2>&1 || :
    systemctl daemon-reload >/dev/null 2>&1 || :
    udevadm control --reload >/dev/null 2>&1 || :
    # Only enabled units: a preset or an administrator may have refused.
    for unit in vxcsum.service vxcsum.timer; do
        if systemctl --quiet is-enabled "$unit" 2>/dev/null; then
            systemctl start "$unit" >/dev/null 2>&1 || :
        fi
    done
    # Print the state of the node, and how to look and undo.
    /usr/sbin/vxcsum status 2>&1 | { read -r line && echo "vxcsum: $line"; } || :
    echo "vxcsum: for details: vxcsum status; to undo: vxcsum revert; to let no unit change a device: systemctl mask vxcsum.service vxcsum@.service vxcsum.timer"
fi
