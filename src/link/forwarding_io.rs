//! Reads whether this network namespace forwards packets between its devices.
//!
//! Owns the paths of these files. `link::segmentation` decides what follows.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// True if IPv4 or IPv6 packets that arrive at a device are forwarded. `None` if a file could not be read.
///
/// <https://docs.kernel.org/networking/ip-sysctl.html> (`conf/interface/forwarding`)
pub(crate) fn forwards() -> Option<bool> {
    for family in ["ipv4", "ipv6"] {
        match family_forwards(family) {
            Ok(true) => return Some(true),
            Ok(false) => {}
            // The kernel does not have this family.
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(_) => return None,
        }
    }
    Some(false)
}

fn family_forwards(family: &str) -> io::Result<bool> {
    let dir = Path::new("/proc/sys/net").join(family).join("conf");
    let on = |device: &OsStr| match fs::read_to_string(dir.join(device).join("forwarding")) {
        Ok(value) => Ok(value.trim() != "0"),
        // The device was deleted.
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    };
    // This file decides on most forwarding nodes.
    if on("all".as_ref())? {
        return Ok(true);
    }
    for entry in fs::read_dir(&dir)? {
        let name = entry?.file_name();
        // `default` is only the initial value of new devices.
        if name != "default" && on(&name)? {
            return Ok(true);
        }
    }
    Ok(false)
}
