//! Whether software can segment the outer packets of a VXLAN device twice, which corrupts their outer checksum without
//! NAT.
//!
//! Owns the criterion. Pure: `link::underlay_io` and `link::forwarding_io` read the facts.
//!
//! GRO of a forwarding node builds packets with a `frag_list`. A VXLAN device that accepts them wraps each as one long
//! tunnel packet. The first device below that does not accept them segments it. If that device has segmentation offload
//! for tunnels, the pieces are still long (`skb_segment`), and their outer checksum is finished. A device further down
//! that segments them again treats that checksum as unfinished (`__skb_udp_tunnel_segment`).
//! <https://github.com/torvalds/linux/blob/v6.12/net/core/skbuff.c#L4654>
//! <https://github.com/torvalds/linux/blob/v6.12/net/ipv4/udp_offload.c#L153>
//!
//! The criterion does not know whether GRO builds such packets at all, and which packets tc or XDP redirects into the
//! device.

use std::collections::HashMap;
use std::fmt;

use super::underlay::{MAX_DEPTH, StackedDevice, is_hardware, is_paravirtual};
use super::{OuterChecksum, TunnelLink, Underlay};
use crate::text::IfName;

/// Whether the outer packets of a device can be segmented twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segmentation {
    /// They can be.
    Twice {
        /// The device that cuts them into pieces that are still too long.
        splitter: IfName,
        /// Its kind, such as `macvlan`.
        kind: String,
    },
    /// They cannot be.
    Once(OnceBecause),
    /// Not known.
    Unknown(SegmentationDoubt),
}

/// Why packets are not segmented twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnceBecause {
    /// They have no outer checksum.
    NoOuterChecksum,
    /// The device does not accept packets with a `frag_list`.
    NoFraglist,
    /// The device has no segmentation offload.
    NoSegmentation,
    /// The namespace forwards nothing into the device.
    NotForwarding,
    /// This device segments them completely, or is hardware.
    CompleteAt(IfName),
}

/// Why the answer is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentationDoubt {
    /// No decision depends on it.
    NotAsked,
    /// The features of the VXLAN device could not be read.
    Features,
    /// Reading whether this network namespace forwards failed.
    Forwarding,
    /// The underlay is not known, or it or a device below it could not be read.
    Underlay,
    /// Packets can leave through another device than the underlay.
    OtherEgress,
    /// The analysis does not understand how this device handles long packets, or which devices are below it.
    Device(IfName),
}

/// How a device handles a tunnel packet with a `frag_list`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LongPackets {
    /// `tx-scatter-gather-fraglist` and segmentation offload for tunnels are on: the device passes the packet on.
    HandsOn,
    /// Only segmentation offload for tunnels is on: the device cuts the packet into pieces that are still long.
    Splits,
    /// Segmentation offload for tunnels is off: the device segments the packet completely.
    Segments,
}

/// Features of the VXLAN device itself that are on, or that vxcsum turned off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnFeatures {
    /// `tx-scatter-gather-fraglist`.
    pub fraglist: bool,
    /// TSO of any kind, or USO.
    pub segmentation: bool,
}

/// Decides for the packets of one device. `forwards` is true if this network namespace forwards. `None` stands for
/// facts that could not be read.
pub fn segmentation(
    link: &TunnelLink,
    own: Option<OwnFeatures>,
    forwards: Option<bool>,
    underlay: Option<&Underlay>,
    other_egress: bool,
) -> Segmentation {
    use Segmentation::{Once, Twice, Unknown};
    if link.outer_checksum == OuterChecksum::Zero {
        return Once(OnceBecause::NoOuterChecksum);
    }
    match own {
        Some(own) if !own.fraglist => return Once(OnceBecause::NoFraglist),
        Some(own) if !own.segmentation => return Once(OnceBecause::NoSegmentation),
        _ => {}
    }
    if forwards == Some(false) && !link.enslaved {
        return Once(OnceBecause::NotForwarding);
    }
    match underlay.map(|underlay| &underlay.segmentation) {
        None => Unknown(SegmentationDoubt::Underlay),
        Some(Once(_)) if other_egress => Unknown(SegmentationDoubt::OtherEgress),
        Some(Twice { .. }) if own.is_none() => Unknown(SegmentationDoubt::Features),
        Some(Twice { .. }) if forwards.is_none() && !link.enslaved => {
            Unknown(SegmentationDoubt::Forwarding)
        }
        Some(found) => found.clone(),
    }
}

/// Decides for a stack of devices, from the first device below the VXLAN device on.
pub(crate) fn below(ifindex: u32, devices: &HashMap<u32, StackedDevice>) -> Segmentation {
    walk(ifindex, devices, MAX_DEPTH)
}

fn walk(ifindex: u32, devices: &HashMap<u32, StackedDevice>, depth: u32) -> Segmentation {
    use LongPackets::{HandsOn, Segments, Splits};
    use Segmentation::{Once, Twice, Unknown};
    let Some(device) = devices.get(&ifindex).filter(|_| depth > 0) else {
        return Unknown(SegmentationDoubt::Underlay);
    };
    let complete = Once(OnceBecause::CompleteAt(device.name));
    let doubt = Unknown(SegmentationDoubt::Device(device.name));
    let passes_to_host = is_paravirtual(device) && device.tunnel_segmentation;
    match (device.kind.as_deref(), device.long_packets) {
        // Without checksum offload, as without segmentation offload, the kernel segments completely. A bridge has no
        // offloads for tunnel packets, so it segments completely too.
        // https://github.com/torvalds/linux/blob/v6.1/net/bridge/br_device.c#L484 (br_dev_setup)
        _ if device.checksums_off => complete,
        (Some("bridge"), _) | (_, Some(Segments)) => complete,
        _ if is_hardware(device) && !passes_to_host => complete,
        (Some("vlan" | "bond" | "team" | "macvlan"), Some(HandsOn)) => {
            let found = device
                .below
                .iter()
                .map(|ifindex| walk(*ifindex, devices, depth - 1));
            found.max_by_key(Segmentation::severity).unwrap_or(doubt)
        }
        // Measured: macvlan on 6.1 and 6.18, bond on 6.1. A VLAN is reported to split packets until the features of the
        // device below change for the first time. Nobody has looked at team.
        (Some(kind @ ("bond" | "macvlan")), Some(Splits)) if !device.below.is_empty() => Twice {
            splitter: device.name,
            kind: kind.to_owned(),
        },
        _ => doubt,
    }
}

impl Segmentation {
    /// For devices on which no decision depends.
    pub const NOT_ASKED: Self = Self::Unknown(SegmentationDoubt::NotAsked);

    /// With several paths, the worst counts.
    fn severity(&self) -> u8 {
        match self {
            Self::Once(_) => 0,
            Self::Unknown(_) => 1,
            Self::Twice { .. } => 2,
        }
    }

    /// The answer as a decision uses it. `None` if it is not known.
    pub fn twice(&self) -> Option<bool> {
        match self {
            Self::Twice { .. } => Some(true),
            Self::Once(_) => Some(false),
            Self::Unknown(_) => None,
        }
    }
}

/// A part of a sentence. The text before it says what follows.
impl fmt::Display for Segmentation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Twice { splitter, kind } => write!(
                f,
                "{splitter} ({kind}) cuts long forwarded packets into pieces, and a device below it segments them again"
            ),
            Self::Once(OnceBecause::NoOuterChecksum) => {
                f.write_str("its packets have no outer checksum")
            }
            Self::Once(OnceBecause::NoFraglist) => f.write_str(
                "tx-scatter-gather-fraglist is off on it, so the kernel segments long packets before it wraps them",
            ),
            Self::Once(OnceBecause::NoSegmentation) => f.write_str(
                "segmentation offload is off on it, so the kernel segments packets before it wraps them",
            ),
            Self::Once(OnceBecause::NotForwarding) => {
                f.write_str("this node forwards nothing into it")
            }
            Self::Once(OnceBecause::CompleteAt(device)) => {
                write!(f, "only {device} below it segments them")
            }
            Self::Unknown(SegmentationDoubt::NotAsked) => {
                f.write_str("no decision depends on it")
            }
            Self::Unknown(SegmentationDoubt::Features) => {
                f.write_str("vxcsum could not read the features of the device")
            }
            Self::Unknown(SegmentationDoubt::Forwarding) => {
                f.write_str("vxcsum could not read whether this node forwards packets")
            }
            Self::Unknown(SegmentationDoubt::Underlay) => {
                f.write_str("the underlay is not known, or could not be read")
            }
            Self::Unknown(SegmentationDoubt::OtherEgress) => {
                f.write_str("packets can leave through another device than the underlay")
            }
            Self::Unknown(SegmentationDoubt::Device(device)) => write!(
                f,
                "it is not known how {device} below it treats long forwarded packets"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::LongPackets::{HandsOn, Segments, Splits};
    use super::*;

    fn name(text: &str) -> IfName {
        IfName::new(text.as_bytes()).unwrap()
    }

    fn device(kind: &str, long_packets: LongPackets, below: &[u32]) -> StackedDevice {
        let virtual_device = !kind.is_empty();
        StackedDevice {
            kind: virtual_device.then(|| kind.to_owned()),
            bus: (!virtual_device).then(|| "pci".to_owned()),
            long_packets: Some(long_packets),
            below: below.to_vec(),
            name: name(if virtual_device { kind } else { "eth0" }),
            driver: None,
            checksums_off: false,
            tunnel_segmentation: false,
            macvlan_mode: None,
        }
    }

    fn link(enslaved: bool, outer_checksum: OuterChecksum) -> TunnelLink {
        TunnelLink {
            kind: super::super::TunnelKind::Vxlan,
            ifindex: 7,
            name: name("vx0"),
            mac: None,
            vni: Some(1),
            dst_port: Some(4789),
            local: None,
            remote: None,
            learning: false,
            outer_checksum,
            udp_zero_csum6_tx: false,
            udp_zero_csum6_rx: false,
            underlay: super::super::UnderlayLink::NotSet,
            enslaved,
        }
    }

    #[test]
    #[allow(clippy::too_many_lines, reason = "a table")]
    fn what_a_stack_does() {
        let nic = || device("", Splits, &[]);
        let off = |device| StackedDevice {
            checksums_off: true,
            ..device
        };
        let unread = |device| StackedDevice {
            long_packets: None,
            ..device
        };
        let virtio = StackedDevice {
            bus: Some("virtio".to_owned()),
            tunnel_segmentation: true,
            ..nic()
        };
        let twice = |splitter: &str| Segmentation::Twice {
            splitter: name(splitter),
            kind: splitter.to_owned(),
        };
        let once = |device| Segmentation::Once(OnceBecause::CompleteAt(name(device)));
        let doubt = |device| Segmentation::Unknown(SegmentationDoubt::Device(name(device)));
        let not_read = Segmentation::Unknown(SegmentationDoubt::Underlay);
        for (title, devices, expected) in [
            ("not read", vec![], not_read.clone()),
            ("NIC", vec![nic()], once("eth0")),
            ("virtio that segments tunnels", vec![virtio], doubt("eth0")),
            ("veth", vec![device("veth", HandsOn, &[])], doubt("veth")),
            (
                "veth without fraglist",
                vec![device("veth", Splits, &[])],
                doubt("veth"),
            ),
            (
                "veth without checksums",
                vec![off(device("veth", Splits, &[]))],
                once("veth"),
            ),
            (
                "macvlan",
                vec![device("macvlan", Splits, &[2]), nic()],
                twice("macvlan"),
            ),
            (
                "macvlan that takes them, on a NIC",
                vec![device("macvlan", HandsOn, &[2]), nic()],
                once("eth0"),
            ),
            (
                "macvlan that segments",
                vec![device("macvlan", Segments, &[2]), nic()],
                once("macvlan"),
            ),
            (
                "macvlan that takes them, on one that does not",
                vec![
                    device("macvlan", HandsOn, &[2]),
                    device("macvlan", Splits, &[3]),
                    nic(),
                ],
                twice("macvlan"),
            ),
            (
                "macvlan of another namespace",
                vec![device("macvlan", Splits, &[])],
                doubt("macvlan"),
            ),
            (
                "features not read",
                vec![unread(device("macvlan", Splits, &[2])), nic()],
                doubt("macvlan"),
            ),
            (
                "bond",
                vec![device("bond", Splits, &[2]), nic()],
                twice("bond"),
            ),
            (
                "bond that takes them, one port not understood",
                vec![
                    device("bond", HandsOn, &[2, 3]),
                    nic(),
                    device("veth", Splits, &[]),
                ],
                doubt("veth"),
            ),
            (
                "bond without ports",
                vec![device("bond", HandsOn, &[])],
                doubt("bond"),
            ),
            (
                "VLAN",
                vec![device("vlan", Splits, &[2]), nic()],
                doubt("vlan"),
            ),
            (
                "VLAN that takes them",
                vec![device("vlan", HandsOn, &[2]), nic()],
                once("eth0"),
            ),
            (
                "team",
                vec![device("team", Splits, &[2]), nic()],
                doubt("team"),
            ),
            (
                "bridge",
                vec![device("bridge", HandsOn, &[])],
                once("bridge"),
            ),
            (
                "macvlan on a bridge",
                vec![
                    device("macvlan", Splits, &[2]),
                    device("bridge", HandsOn, &[]),
                ],
                twice("macvlan"),
            ),
            (
                "ipvlan",
                vec![device("ipvlan", Splits, &[2]), nic()],
                doubt("ipvlan"),
            ),
            ("a loop", vec![device("vlan", HandsOn, &[1])], not_read),
        ] {
            let devices = (1..).zip(devices).collect();
            assert_eq!(below(1, &devices), expected, "{title}");
        }
    }

    #[test]
    #[allow(clippy::too_many_lines, reason = "a table")]
    fn what_the_packets_of_a_device_meet() {
        use OuterChecksum::{External, Present, Zero};
        let own = |fraglist, segmentation| {
            Some(OwnFeatures {
                fraglist,
                segmentation,
            })
        };
        let on = own(true, true);
        let twice = Segmentation::Twice {
            splitter: name("macvlan0"),
            kind: "macvlan".to_owned(),
        };
        let complete = Segmentation::Once(OnceBecause::CompleteAt(name("eth0")));
        let once = Segmentation::Once;
        let unknown = Segmentation::Unknown;
        let (yes, no) = (Some(true), Some(false));
        for (title, checksum, own, forwards, enslaved, stack, elsewhere, expected) in [
            (
                "forwards over macvlan",
                Present,
                on,
                yes,
                false,
                Some(&twice),
                false,
                twice.clone(),
            ),
            (
                "external",
                External,
                on,
                yes,
                false,
                Some(&twice),
                false,
                twice.clone(),
            ),
            (
                "a port of a bridge",
                Present,
                on,
                no,
                true,
                Some(&twice),
                false,
                twice.clone(),
            ),
            (
                "forwards nothing",
                Present,
                on,
                no,
                false,
                Some(&twice),
                false,
                once(OnceBecause::NotForwarding),
            ),
            (
                "no outer checksum",
                Zero,
                on,
                yes,
                false,
                Some(&twice),
                false,
                once(OnceBecause::NoOuterChecksum),
            ),
            (
                "no fraglist",
                Present,
                own(false, true),
                yes,
                false,
                Some(&twice),
                false,
                once(OnceBecause::NoFraglist),
            ),
            (
                "no TSO, no USO",
                Present,
                own(true, false),
                yes,
                false,
                Some(&twice),
                false,
                once(OnceBecause::NoSegmentation),
            ),
            (
                "straight on the NIC",
                Present,
                on,
                yes,
                false,
                Some(&complete),
                false,
                complete.clone(),
            ),
            (
                "straight, and not only there",
                Present,
                on,
                yes,
                false,
                Some(&complete),
                true,
                unknown(SegmentationDoubt::OtherEgress),
            ),
            (
                "no underlay",
                Present,
                on,
                yes,
                false,
                None,
                false,
                unknown(SegmentationDoubt::Underlay),
            ),
            (
                "own features not read",
                Present,
                None,
                yes,
                false,
                Some(&twice),
                false,
                unknown(SegmentationDoubt::Features),
            ),
            (
                "not read, and straight on the NIC",
                Present,
                None,
                yes,
                false,
                Some(&complete),
                false,
                complete.clone(),
            ),
            (
                "forwarding not read",
                Present,
                on,
                None,
                false,
                Some(&twice),
                false,
                unknown(SegmentationDoubt::Forwarding),
            ),
            (
                "forwarding not read, a port",
                Present,
                on,
                None,
                true,
                Some(&twice),
                false,
                twice.clone(),
            ),
        ] {
            let underlay = stack.map(|stack| Underlay {
                ifindex: 2,
                name: name("eth0"),
                driver: None,
                finishes_checksums: true,
                segmentation: stack.clone(),
                vrf: None,
            });
            let link = link(enslaved, checksum);
            let found = segmentation(&link, own, forwards, underlay.as_ref(), elsewhere);
            assert_eq!(found, expected, "{title}");
        }
    }
}
