//! Whether a unit keeps the offload off after this process.
//!
//! Owns the places to check.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use std::path::Path;

/// The links that `systemctl enable` creates.
const ENABLED: [&str; 3] = [
    "multi-user.target.wants/vxcsum.service",
    "multi-user.target.wants/vxcsum-watch.service",
    "timers.target.wants/vxcsum.timer",
];

/// True if a unit is enabled below this root.
pub fn enabled(root: &Path) -> bool {
    let enabled = |unit: &&str| {
        let directories = ["etc/systemd/system", "run/systemd/system"];
        let mut links = directories.iter().map(|dir| root.join(dir).join(unit));
        links.any(|link| link.symlink_metadata().is_ok())
    };
    ENABLED.iter().any(enabled)
}
