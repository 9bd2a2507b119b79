//! Reads for `doctor` what the other commands do not need: counters, connection tracking, and files of other programs.
//!
//! Owns the paths. `doctor` decodes the content.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;

use super::managers::ManagerKind;
use super::{Candidate, Count, Flows, Manager};
use crate::fault::describe_io;
use crate::kernel::read_io::{proc_own, read_text};
use crate::link::TunnelKind;
use crate::text::IfName;

/// The checksum errors of the receiver in this network namespace. `None` if reading failed.
pub fn counters() -> Option<Count> {
    let read = |file: &str| read_text(&proc_own("net").join(file));
    // A kernel without IPv6 has no snmp6.
    Count::parse(&read("snmp").ok()?, &read("snmp6").unwrap_or_default())
}

/// The flows to these UDP ports in connection tracking of this network namespace.
pub fn rewritten_flows(ports: &[u16]) -> Flows {
    let mut flows = Flows::default();
    let lines = File::open(proc_own("net/nf_conntrack")).map(BufReader::new);
    let read = lines.and_then(|lines| {
        for line in lines.lines() {
            flows.add(&line?, ports);
        }
        Ok(())
    });
    flows.unreadable = read.err().map(|e| match e.kind() {
        ErrorKind::NotFound => "the kernel shows no /proc/net/nf_conntrack".to_owned(),
        _ => format!("read /proc/net/nf_conntrack: {}", describe_io(&e)),
    });
    flows
}

/// Other settings of the feature in files below `root`.
pub fn managers(root: &Path, devices: &[(IfName, TunnelKind)]) -> Vec<Manager> {
    let mut files = Vec::new();
    for (kind, suffix, dirs) in [
        (
            ManagerKind::LinkFile,
            ".link",
            &[
                "etc/systemd/network",
                "run/systemd/network",
                "usr/local/lib/systemd/network",
                "usr/lib/systemd/network",
                "lib/systemd/network",
            ][..],
        ),
        (
            ManagerKind::UdevRule,
            ".rules",
            &[
                "etc/udev/rules.d",
                "run/udev/rules.d",
                "usr/local/lib/udev/rules.d",
                "usr/lib/udev/rules.d",
                "lib/udev/rules.d",
            ],
        ),
        (
            ManagerKind::SystemdUnit,
            ".service",
            &[
                "etc/systemd/system",
                "run/systemd/system",
                "usr/local/lib/systemd/system",
                "usr/lib/systemd/system",
                "lib/systemd/system",
            ],
        ),
        (
            ManagerKind::Dispatcher,
            "",
            &[
                "etc/NetworkManager/dispatcher.d",
                "usr/lib/NetworkManager/dispatcher.d",
            ],
        ),
    ] {
        files.extend(in_order(root, kind, suffix, dirs));
    }
    crate::doctor::managers(&files, devices)
}

/// The files in the order of their names. A file hides files of the same name in later directories. A file that cannot
/// be read counts as empty.
fn in_order(root: &Path, kind: ManagerKind, suffix: &str, dirs: &[&str]) -> Vec<Candidate> {
    let mut found: BTreeMap<String, Candidate> = BTreeMap::new();
    for dir in dirs {
        let entries = fs::read_dir(root.join(dir)).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.ends_with(suffix) || found.contains_key(&name) {
                continue;
            }
            let path = entry.path();
            let text = read_text(&path).unwrap_or_default();
            found.insert(
                name,
                Candidate {
                    kind,
                    path: path.display().to_string(),
                    text,
                },
            );
        }
    }
    found.into_values().collect()
}
