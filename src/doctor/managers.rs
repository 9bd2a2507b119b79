//! Other settings of the feature: `.link` files, udev rules, scripts, units, Felix.
//!
//! Owns the decoding of such files. Pure: `doctor::read_io` reads them.

use std::collections::HashMap;

use serde::Serialize;

use crate::glob::Glob;
use crate::link::TunnelKind;
use crate::text::{IfName, escape};

codes! {
    /// The kind of program or file that sets the feature.
    pub enum ManagerKind {
        /// A .link file, see systemd.link(5).
        LinkFile = "link-file",
        /// A udev rule, see udev(7).
        UdevRule = "udev-rule",
        /// A systemd unit.
        SystemdUnit = "systemd-unit",
        /// A script of NetworkManager.
        Dispatcher = "dispatcher",
        /// The agent of Calico.
        Felix = "felix",
    }
}

/// Another program or file that sets the feature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Manager {
    pub kind: ManagerKind,
    /// The path of the file. Null if it is not a file.
    pub path: Option<String>,
    /// One sentence: what it sets, and where.
    pub text: String,
}

/// A file that may set the feature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub kind: ManagerKind,
    pub path: String,
    /// The content.
    pub text: String,
}

/// Finds other settings of the feature in these files, for these devices. Link files must be in the order in
/// which udev tries them.
pub fn managers(files: &[Candidate], devices: &[(IfName, TunnelKind)]) -> Vec<Manager> {
    let mut found = Vec::new();
    let links: Vec<&Candidate> = files
        .iter()
        .filter(|f| f.kind == ManagerKind::LinkFile)
        .collect();
    // For a file, the file that hides it, and its value: the devices.
    let mut set: Vec<(&Candidate, Option<&Candidate>, String, Vec<String>)> = Vec::new();
    for (device, kind) in devices {
        let matches = |file: &&&Candidate| link_matches(&file.text, device, *kind);
        let mut first: Option<&Candidate> = None;
        for &file in links.iter().filter(matches) {
            let before = first;
            first = first.or(Some(file));
            let Some(value) = link_setting(&file.text) else {
                continue;
            };
            let same = |known: &&mut (&Candidate, Option<&Candidate>, String, Vec<String>)| {
                known.0 == file && known.1 == before
            };
            match set.iter_mut().find(same) {
                Some((.., names)) => names.push(device.to_string()),
                None => set.push((file, before, value, vec![device.to_string()])),
            }
        }
        let name = device.as_bytes();
        if name.starts_with(b"vxlan.calico") || name.starts_with(b"vxlan-v6.calico") {
            found.push(Manager {
                kind: ManagerKind::Felix,
                path: None,
                text: format!(
                    "Calico's Felix turns it off on {device} every 10 seconds if it detects a kernel before 5.7.1, or if ChecksumOffloadBroken=true is set"
                ),
            });
        }
    }
    found.extend(set.into_iter().map(|(file, before, value, names)| {
        let (path, names) = (|file: &Candidate| escape(file.path.as_bytes()), names.join(", "));
        let text = match before {
            None => format!("TransmitChecksumOffload={value} for {names}"),
            Some(other) => format!(
                "TransmitChecksumOffload={value} is ignored for {names}: {} matches first, and .link files are not merged",
                path(other)
            ),
        };
        Manager {
            kind: file.kind,
            path: Some(path(file)),
            text,
        }
    }));
    for file in files
        .iter()
        .filter(|file| file.kind != ManagerKind::LinkFile)
    {
        if let Some(line) = file.text.lines().find(|line| sets_offload(line, devices)) {
            let known = if file.path.ends_with("/flannel-ethtool.service") {
                " (the name of kURL's unit)"
            } else if file.text.contains("sys-devices-virtual-net-flannel") {
                " (bound to flannel's device, as kops 1.17 and 1.18 did)"
            } else {
                ""
            };
            found.push(Manager {
                kind: file.kind,
                path: Some(escape(file.path.as_bytes())),
                text: format!("{}{known}", escape(line.trim().as_bytes())),
            });
        }
    }
    found
}

/// True if a line calls `ethtool -K` for one of these devices and names a feature that vxcsum turns off. A variable
/// counts as any device.
fn sets_offload(line: &str, devices: &[(IfName, TunnelKind)]) -> bool {
    let line = line.trim_start();
    if line.starts_with(['#', ';']) {
        return false;
    }
    // Quotes and separators of shell, udev and unit files do not belong to a word.
    let mut words = line
        .split(|c: char| c.is_ascii_whitespace() || "\"';,&|()".contains(c))
        .filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        if word.rsplit(['/', '=']).next() != Some("ethtool") {
            continue;
        }
        if !matches!(words.next(), Some("-K" | "--features" | "--offload")) {
            continue;
        }
        let Some(device) = words.next() else {
            return false;
        };
        let any = device.contains(['$', '%', '{', '*', '`']);
        if !any
            && devices
                .iter()
                .all(|(name, _)| name.as_bytes() != device.as_bytes())
        {
            continue;
        }
        let mut rest = words.clone();
        while let Some(feature) = rest.next() {
            let named = matches!(feature, "tx" | "sg" | "tx-scatter-gather-fraglist")
                || feature.starts_with("tx-checksum");
            if named && matches!(rest.clone().next(), Some("on" | "off")) {
                return true;
            }
        }
    }
    false
}

/// The keys and values of one section of a .link file.
fn section<'a>(text: &'a str, wanted: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let mut inside = false;
    text.lines().filter_map(move |line| {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            inside = name == wanted;
        }
        let (key, value) = line.split_once('=')?;
        let comment = line.starts_with(['#', ';']);
        (inside && !comment).then(|| (key.trim(), value.trim()))
    })
}

/// True if every condition of `[Match]` holds for a device of this name and kind. Unknown conditions do not hold. A file
/// without conditions matches nothing (systemd.link(5)).
fn link_matches(text: &str, device: &IfName, kind: TunnelKind) -> bool {
    let globs = |value: &str, subject: &[u8]| {
        let (value, wanted) = match value.strip_prefix('!') {
            Some(rest) => (rest, false),
            None => (value, true),
        };
        let any = value
            .split_ascii_whitespace()
            .any(|word| Glob::new(word).is_ok_and(|glob| glob.matches(subject)));
        any == wanted
    };
    let mut conditions = HashMap::new();
    for (key, value) in section(text, "Match") {
        let holds = match key {
            "Type" | "Kind" | "Driver" => globs(value, kind.as_str().as_bytes()),
            "OriginalName" => globs(value, device.as_bytes()),
            _ => false,
        };
        // Repeated keys add to a list.
        *conditions.entry(key).or_insert(false) |= holds;
    }
    !conditions.is_empty() && conditions.values().all(|holds| *holds)
}

fn link_setting(text: &str) -> Option<String> {
    section(text, "Link")
        .filter(|(key, _)| *key == "TransmitChecksumOffload")
        .last()
        .map(|(_, value)| escape(value.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> IfName {
        IfName::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn link_files_as_udev_tries_them() {
        let file = |path: &str, text: &str| Candidate {
            kind: ManagerKind::LinkFile,
            path: path.to_owned(),
            text: text.to_owned(),
        };
        let vxlan = "[Match]\nType=vxlan\n[Link]\nTransmitChecksumOffload=no\n";
        let default = "[Match]\nOriginalName=*\n[Link]\nNamePolicy=keep\n";
        let other = "[Match]\nOriginalName=eth* vx*\nMACAddress=00:11:22:33:44:55\n[Link]\nTransmitChecksumOffload=no\n";
        let negated = "[Match]\nType=!vxlan\n[Link]\nTransmitChecksumOffload=no\n";
        let geneve = "[Match]\nKind=geneve\n[Link]\nTransmitChecksumOffload=no\n";
        let empty = "# [Match]\n[Match]\n#Type=vxlan\n[Link]\nTransmitChecksumOffload=no\n";
        let sets = "TransmitChecksumOffload=no for flannel.1";
        let both = "TransmitChecksumOffload=no for flannel.1, vx2";
        let hidden = "is ignored for flannel.1, vx2: /0.link matches first";
        for (name_of, texts, expected) in [
            ("sets", vec![vxlan], vec![sets]),
            ("first wins", vec![vxlan, default], vec![sets]),
            ("hidden", vec![default, vxlan], vec![hidden]),
            ("both", vec![vxlan], vec![both]),
            (
                "no condition of a tunnel device",
                vec![other, vxlan],
                vec![sets],
            ),
            ("negated", vec![negated], vec![]),
            ("another kind", vec![geneve, vxlan], vec![sets]),
            ("no condition at all", vec![empty], vec![]),
            ("nothing to do with it", vec![default], vec![]),
        ] {
            let files = texts.iter().enumerate();
            let files: Vec<_> = files
                .map(|(n, text)| file(&format!("/{n}.link"), text))
                .collect();
            let found = managers(
                &files,
                &["flannel.1", "vx2"].map(|n| (name(n), TunnelKind::Vxlan)),
            );
            assert_eq!(found.len(), expected.len(), "{name_of}: {found:?}");
            for (found, expected) in found.iter().zip(expected) {
                assert!(found.text.contains(expected), "{name_of}: {found:?}");
            }
        }
    }

    #[test]
    fn only_calls_that_change_the_feature_of_a_device_count() {
        for (line, counts) in [
            ("ethtool -K flannel.1 tx-checksum-ip-generic off", true),
            ("ethtool -K flannel.1 tx-scatter-gather-fraglist on", true),
            ("ethtool -K flannel.1 sg on", true),
            ("  /usr/sbin/ethtool --offload flannel.1 rx on tx on", true),
            (
                "ethtool -K flannel.1 gso off; ethtool -K flannel.1 tx off",
                true,
            ),
            ("ExecStart=/bin/sh -c 'ethtool -K \"$DEV\" tx off'", true),
            (
                "RUN+=\"/sbin/ethtool -K $name tx-checksum-ip-generic off\"",
                true,
            ),
            ("PROGRAM=ethtool", false),
            ("# ethtool -K flannel.1 tx off", false),
            // The pause frames and the rings of a NIC, another device, other features, and a query.
            ("ethtool -A eth0 rx off tx off", false),
            ("ethtool -G eth0 rx 4096 tx 4096", false),
            ("ethtool -K eth0 tx off", false),
            ("ethtool -K flannel.1 tx-udp_tnl-segmentation off", false),
            (
                "ethtool -k flannel.1 | grep tx-checksum-ip-generic: on",
                false,
            ),
            ("echo the ethtool tx off trick is not needed", false),
        ] {
            assert_eq!(
                sets_offload(line, &[(name("flannel.1"), TunnelKind::Vxlan)]),
                counts,
                "{line}"
            );
        }
    }

    #[test]
    fn scripts_that_call_ethtool_and_felix() {
        let file = |kind, path: &str, text: &str| Candidate {
            kind,
            path: path.to_owned(),
            text: text.to_owned(),
        };
        let files = [
            file(
                ManagerKind::UdevRule,
                "/etc/udev/rules.d/90-flannel.rules",
                "# ethtool tx-checksum\nSUBSYSTEM==\"net\", RUN+=\"/sbin/ethtool -K $name tx-checksum-ip-generic off\"\n",
            ),
            file(
                ManagerKind::SystemdUnit,
                "/etc/systemd/system/flannel-ethtool.service",
                "ExecStart=/sbin/ethtool -K flannel.1 tx-checksum-ip-generic off\n",
            ),
            file(
                ManagerKind::SystemdUnit,
                "/etc/systemd/system/kops.service",
                "After=sys-devices-virtual-net-flannel.1.device\nExecStart=/sbin/ethtool -K flannel.1 tx-checksum-ip-generic off\n",
            ),
            file(
                ManagerKind::Dispatcher,
                "/etc/NetworkManager/dispatcher.d/99-x",
                "ethtool -K ens192 rx off\n",
            ),
            file(
                ManagerKind::UdevRule,
                "/etc/udev/rules.d/1.rules",
                "#ethtool -K x tx off\n",
            ),
        ];
        let found = managers(
            &files,
            &[
                (name("vxlan.calico"), TunnelKind::Vxlan),
                (name("flannel.1"), TunnelKind::Vxlan),
            ],
        );
        let seen: Vec<_> = found.iter().map(|m| (m.kind, m.path.as_deref())).collect();
        assert_eq!(
            seen,
            [
                (ManagerKind::Felix, None),
                (
                    ManagerKind::UdevRule,
                    Some("/etc/udev/rules.d/90-flannel.rules")
                ),
                (
                    ManagerKind::SystemdUnit,
                    Some("/etc/systemd/system/flannel-ethtool.service")
                ),
                (
                    ManagerKind::SystemdUnit,
                    Some("/etc/systemd/system/kops.service")
                ),
            ]
        );
        assert!(found[1].text.starts_with("SUBSYSTEM"), "{found:?}");
        assert!(
            found[2].text.contains("kURL") && found[3].text.contains("kops"),
            "{found:?}"
        );
    }
}
