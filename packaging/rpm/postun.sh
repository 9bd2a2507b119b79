if [ "$1" -eq 0 ]; then
    rm -rf /run/vxcsum
    # The mask of the scriptlet before.
    rm -f /run/udev/rules.d/90-vxcsum.rules
    # cargo-generate-rpm 0.21.1 cannot make a package own a directory. Files of users stay.
    rmdir /etc/vxcsum/policy.d /etc/vxcsum /usr/lib/vxcsum /usr/share/vxcsum /usr/share/doc/vxcsum/docs/evidence /usr/share/doc/vxcsum/docs /usr/share/doc/vxcsum 2>/dev/null || :
    systemctl reset-failed 'vxcsum*' >/dev/null 2>&1 || :
elif [ -d /run/systemd/system ]; then
    # An upgrade: the new version is complete only after the old version was removed.
    systemctl try-restart vxcsum-watch.service >/dev/null 2>&1 || :
fi
[ ! -d /run/systemd/system ] || systemctl daemon-reload >/dev/null 2>&1 || :
journalctl --update-catalog >/dev/null 2>&1 || :
