//! Whether a unit or a running `vxcsum watch` keeps the offload off after this process.
//!
//! Owns the places to check.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use std::fs;
use std::path::Path;

/// The links that `systemctl enable` creates.
const ENABLED: [&str; 3] = [
    "multi-user.target.wants/vxcsum.service",
    "multi-user.target.wants/vxcsum-watch.service",
    "timers.target.wants/vxcsum.timer",
];

/// True if a unit is enabled below this root, or `vxcsum watch` runs in this network namespace.
pub fn persistent(root: &Path) -> bool {
    let enabled = |unit: &&str| {
        let directories = ["etc/systemd/system", "run/systemd/system"];
        let mut links = directories.iter().map(|dir| root.join(dir).join(unit));
        links.any(|link| link.symlink_metadata().is_ok())
    };
    ENABLED.iter().any(enabled) || watch_runs()
}

fn watch_runs() -> bool {
    let Ok(ours) = fs::read_link("/proc/self/ns/net") else {
        return false;
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut watchers = processes.filter(|process| {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        words.next().is_some_and(|name| name.ends_with(b"vxcsum"))
            && words.any(|word| word == b"watch")
    });
    watchers.any(|process| fs::read_link(process.path().join("ns/net")).is_ok_and(|of| of == ours))
}
