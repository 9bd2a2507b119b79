//! Bursts: the probe forwards segments of one TCP flow into a VXLAN device, to measure gso-lco-csum.
//!
//! Owns the injected frame, the devices on its path and the counts. Pure: `probe::forward_io` injects and counts,
//! `burst_verdict` judges.
//!
//! ```text
//!   one TCP flow ─► vxprobe2 ═══ vxprobe3 ─► GRO, forwarding ─► vxlan device ─► macvlan ─► vxprobe0 ═══ vxprobe1 ─► packet socket
//!                                                               adds headers    segments   segments again
//! ```

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};

use serde::{Deserialize, Serialize};

use super::frame::{self, Checksum, ETHERTYPE_IPV4, PROTOCOL_TCP, VXLAN_PORT, VxlanFrame};
use super::link_setup::{self, NewDevice, Vxlan};
use super::plan::{self, LOCAL, SRC_PORTS, Step, device_index, inner_address};
use super::{Cause, Family, Hex, Inconclusive};
use crate::ethtool::Feature;
use crate::link::OuterChecksum;
use crate::netlink::requests::Requests;

/// The segments of a burst. The NAPI of veth takes at most 64 at a time. GRO needs at least 2 x 17 for a packet that macvlan splits.
pub const SEGMENTS: u16 = 64;
/// Bytes of payload in a segment. No segment crosses a page, so each is one fragment. The whole frame is longer than a page of
/// 16 KiB: a packet socket does not put less than a page into fragments, and then GRO makes no packet that macvlan splits.
const SEGMENT_LEN: u16 = 256;

/// A veth pair: the probe injects segments at the first end, and forwards what the second end receives.
pub const OUTSIDE: NewDevice<'static> = NewDevice {
    name: "vxprobe2",
    ifindex: 1006,
};
pub const INGRESS: NewDevice<'static> = NewDevice {
    name: "vxprobe3",
    ifindex: 1007,
};
/// The MAC address of [`INGRESS`], locally administered.
const INGRESS_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The network of [`INGRESS`] (RFC 5737): its own address and the address of the sender.
const INGRESS_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const SENDER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 2), 9000);
/// The inner destination port of the first burst. Each burst has its own.
const FIRST_PORT: u16 = 9003;

/// The last part of destination addresses.
const REMOTE: u8 = 2;
/// The number of the first VXLAN device over a macvlan device, after those of `plan::VXLANS`.
const FIRST_INDEX: u8 = 4;

/// The macvlan device of each family, its MTU, and the VXLAN device over it. IPv6 needs an MTU of 1280. All devices but the
/// macvlan device over IPv6 have less, so that the kernel sends no IPv6 packets of its own, which would be counted.
const STACKS: [(Family, NewDevice<'static>, u32, NewDevice<'static>); 2] = [
    (
        Family::Ipv4,
        plan::new_device("vxprobe4m", 1008),
        1200,
        plan::new_device("vxprobe4s", 1010),
    ),
    (
        Family::Ipv6,
        plan::new_device("vxprobe6m", 1009),
        1340,
        plan::new_device("vxprobe6s", 1011),
    ),
];

codes! {
    /// The device through which a VXLAN device sends.
    #[derive(Deserialize)]
    pub enum Below {
        /// The underlay itself. This is the control, because the kernel segments packets once.
        Underlay = "underlay",
        /// A macvlan device on the underlay.
        Macvlan = "macvlan",
    }
}

/// The result of forwarding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Forwarding {
    /// Every burst, in the order of [`bursts`].
    Bursts(Vec<Burst>),
    /// VXLAN devices of this kernel do not have `tx-scatter-gather-fraglist`. They never pass on a packet that a device
    /// below can split, so nothing was sent.
    NoFraglist,
    /// Why nothing was forwarded.
    Failed(Inconclusive),
}

/// One burst that was forwarded into a VXLAN device with outer checksums.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Burst {
    /// The family of the underlay.
    pub family: Family,
    /// The device through which the VXLAN device sends.
    pub below: Below,
    /// The feature of the VXLAN device that is off. Null if none is.
    pub off: Option<Feature>,
    /// The packets at the other end.
    pub observed: BurstObserved,
}

/// The packets of a burst at the other end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum BurstObserved {
    /// Packets arrived.
    Counted(Counts),
    /// No packet arrived.
    Missing(Inconclusive),
}

/// The packets of a burst.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// Packets that the VXLAN device sent. A packet counts once even if it has several segments.
    pub vxlan: u64,
    /// Packets that the device below it sent.
    pub below: u64,
    /// Packets that arrived with a correct outer checksum.
    pub right: u64,
    /// Packets that arrived with a wrong outer checksum.
    pub wrong: u64,
    /// Packets that arrived without an outer checksum.
    pub none: u64,
    /// Packets that arrived with a wrong inner checksum. The other counts do not include them.
    pub unfinished: u64,
    /// The first packet with a wrong outer checksum, or else the first packet, from its Ethernet header on.
    pub frame: Hex,
}

impl Burst {
    /// The counts. `None` if no packet arrived.
    pub fn counts(&self) -> Option<&Counts> {
        match &self.observed {
            BurstObserved::Counted(counts) => Some(counts),
            BurstObserved::Missing(_) => None,
        }
    }
}

impl Counts {
    /// Counts one packet of the burst.
    pub fn add(&mut self, frame: &VxlanFrame, bytes: &[u8]) {
        let wrong = is_wrong(frame);
        if self.arrived() == 0 || wrong && self.wrong == 0 {
            self.frame = Hex(bytes.to_vec());
        }
        let count = match frame.outer.checksum {
            _ if frame.inner.checksum != Checksum::Valid => &mut self.unfinished,
            Checksum::Valid => &mut self.right,
            Checksum::Invalid { .. } => &mut self.wrong,
            Checksum::Absent => &mut self.none,
        };
        *count += 1;
    }

    /// The number of packets that arrived.
    pub fn arrived(&self) -> u64 {
        self.right + self.wrong + self.none + self.unfinished
    }

    /// True if all segments of the burst arrived.
    pub fn whole(&self) -> bool {
        self.arrived() == u64::from(SEGMENTS)
    }

    /// True if GRO merged the segments into long packets.
    pub fn merged(&self) -> bool {
        self.vxlan < self.arrived()
    }

    /// Whether the device below the VXLAN device split packets, and the kernel segmented the parts again. One packet of 64
    /// segments becomes at least 4 parts (of 17 fragments each). The difference of 3 is more than the kernel sends of its own
    /// in the meantime.
    pub fn segmented_twice(&self) -> bool {
        self.vxlan + 3 <= self.below && self.below * 2 <= self.arrived()
    }

    /// Whether the parsed [`Self::frame`] agrees with the counts.
    pub fn shows(&self, frame: &VxlanFrame) -> bool {
        self.arrived() > 0 && is_wrong(frame) == (self.wrong > 0)
    }
}

fn is_wrong(frame: &VxlanFrame) -> bool {
    frame.inner.checksum == Checksum::Valid
        && matches!(frame.outer.checksum, Checksum::Invalid { .. })
}

/// All bursts in order, without observations. For each family: the control, all offloads on, each cure.
pub fn bursts() -> Vec<Burst> {
    let kinds = [
        (Below::Underlay, None),
        (Below::Macvlan, None),
        (Below::Macvlan, Some(Feature::Fraglist)),
        (Below::Macvlan, Some(Feature::Checksum)),
    ];
    STACKS
        .iter()
        .flat_map(|(family, ..)| kinds.map(|(below, off)| (*family, below, off)))
        .map(|(family, below, off)| Burst {
            family,
            below,
            off,
            observed: BurstObserved::Missing(Inconclusive {
                code: Cause::NoPacket,
                text: "probe: no packet was captured".to_owned(),
            }),
        })
        .collect()
}

/// The requests for the devices that `plan::devices` does not create, and the step of each.
pub fn devices() -> (Requests, Vec<(u32, Step)>) {
    let mut requests = Requests::default();
    let ingress = IpAddr::from(INGRESS_ADDRESS);
    let mut steps = vec![
        link_setup::veth(&mut requests, OUTSIDE, INGRESS),
        link_setup::router(&mut requests, INGRESS.ifindex, INGRESS_MAC),
        link_setup::up(&mut requests, OUTSIDE.ifindex),
        // This makes a route to the sender, in case the namespace inherits a strict `rp_filter`.
        link_setup::address(&mut requests, INGRESS.ifindex, ingress, 24),
    ]
    .into_iter()
    .map(|seq| (seq, Step::Ingress))
    .collect::<Vec<_>>();
    for (index, (family, macvlan, mtu, device)) in (FIRST_INDEX..).zip(STACKS) {
        let seq = link_setup::macvlan(&mut requests, macvlan, plan::UNDERLAY.ifindex, mtu);
        steps.push((seq, Step::Macvlan));
        let local = stack_address(family, LOCAL);
        let prefix_len = if family == Family::Ipv4 { 24 } else { 64 };
        let seq = link_setup::address(&mut requests, macvlan.ifindex, local, prefix_len);
        steps.push((seq, Step::Underlay(family)));
        let vxlan = Vxlan {
            device,
            vni: u32::from(index) + 1,
            underlay: macvlan.ifindex,
            local,
            remote: stack_address(family, REMOTE),
            dst_port: VXLAN_PORT,
            src_ports: SRC_PORTS,
            udp_csum: true,
        };
        let own = IpAddr::from(inner_address(index, LOCAL));
        for seq in [
            link_setup::vxlan(&mut requests, &vxlan),
            link_setup::address(&mut requests, device.ifindex, own, 24),
        ] {
            steps.push((seq, Step::Vxlan(family)));
        }
    }
    (requests, steps)
}

/// The VXLAN device into which a burst is forwarded, and the device below it.
pub fn path(burst: &Burst) -> (NewDevice<'static>, NewDevice<'static>) {
    let (_, vxlan, below) = numbered(burst);
    (vxlan, below)
}

/// The inner destination of burst number `n` of [`bursts`].
pub fn destination(n: u16, burst: &Burst) -> SocketAddrV4 {
    let (index, ..) = numbered(burst);
    SocketAddrV4::new(inner_address(index, REMOTE), FIRST_PORT + n)
}

/// The number of the VXLAN device, which is part of its inner network, the device itself, and the device below it.
fn numbered(burst: &Burst) -> (u8, NewDevice<'static>, NewDevice<'static>) {
    match burst.below {
        Below::Underlay => {
            let index = device_index(burst.family, OuterChecksum::Present);
            let (.., vxlan) = plan::VXLANS[usize::from(index)];
            (index, vxlan, plan::UNDERLAY)
        }
        Below::Macvlan => {
            let nth = u8::from(burst.family == Family::Ipv6);
            let (_, macvlan, _, vxlan) = STACKS[usize::from(nth)];
            (FIRST_INDEX + nth, vxlan, macvlan)
        }
    }
}

/// An address of the network over the macvlan devices (RFC 5737, RFC 3849).
fn stack_address(family: Family, host: u8) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::new(203, 0, 113, host).into(),
        Family::Ipv6 => Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, host.into()).into(),
    }
}

/// True if a captured frame is a packet to this destination.
pub fn is_to(destination: SocketAddrV4, frame: &VxlanFrame) -> bool {
    frame.inner.protocol == PROTOCOL_TCP
        && frame.inner.dst == IpAddr::from(*destination.ip())
        && frame.inner.dst_port == destination.port()
}

/// A burst to this destination for a packet socket with `PACKET_VNET_HDR`: one frame, which the kernel segments when it leaves.
///
/// `struct virtio_net_hdr`:
/// <https://github.com/torvalds/linux/blob/v6.1/include/uapi/linux/virtio_net.h#L128>
pub fn injected(to: SocketAddrV4) -> Vec<u8> {
    const NEEDS_CSUM: u8 = 1;
    const GSO_TCPV4: u8 = 1;
    let payload = usize::from(SEGMENTS) * usize::from(SEGMENT_LEN);
    let mut out = vec![NEEDS_CSUM, GSO_TCPV4];
    // hdr_len, gso_size, csum_start, csum_offset.
    for value in [14 + 20 + 20, SEGMENT_LEN, 14 + 20, 16] {
        out.extend(value.to_ne_bytes());
    }
    out.extend([INGRESS_MAC, INGRESS_MAC].concat());
    out.extend(ETHERTYPE_IPV4.to_be_bytes());
    let total = u16::try_from(20 + 20 + payload).unwrap_or(u16::MAX);
    let mut ip = [0; 20];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    // Don't fragment; TTL 64.
    ip[6] = 0x40;
    ip[8] = 64;
    ip[9] = PROTOCOL_TCP;
    ip[12..16].copy_from_slice(&SENDER.ip().octets());
    ip[16..20].copy_from_slice(&to.ip().octets());
    let sum = !frame::fold(frame::words(&ip));
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    out.extend(ip);
    let mut tcp = [0; 20];
    tcp[..2].copy_from_slice(&SENDER.port().to_be_bytes());
    tcp[2..4].copy_from_slice(&to.port().to_be_bytes());
    // A header of five words; ACK; any window.
    tcp[12..16].copy_from_slice(&[0x50, 0x10, 0xff, 0xff]);
    let pseudo = frame::pseudo_header(
        (*SENDER.ip()).into(),
        (*to.ip()).into(),
        PROTOCOL_TCP,
        20 + payload,
    );
    tcp[16..18].copy_from_slice(&frame::fold(pseudo).to_be_bytes());
    out.extend(tcp);
    // No two segments have the same checksum.
    let text = (0..payload / 2).flat_map(|n| u16::try_from(n).unwrap_or(0).to_be_bytes());
    out.extend(text);
    out
}

/// The number of packets that a device has sent, from `/proc/net/dev`. `None` if the device is not there.
pub fn tx_packets(proc_net_dev: &str, device: &str) -> Option<u64> {
    let (_, counters) = proc_net_dev
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim() == device)?;
    // Eight counters of reception, then bytes and packets of transmission.
    counters.split_whitespace().nth(9)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_is_injected_has_right_sums() {
        let to = SocketAddrV4::new(Ipv4Addr::new(198, 18, 4, 2), 9004);
        let bytes = injected(to);
        let payload = usize::from(SEGMENTS) * usize::from(SEGMENT_LEN);
        assert_eq!(bytes.len(), 10 + 54 + payload);
        // One IP packet that is longer than a page.
        assert!(payload > 16 * 1024 - 54 && u16::try_from(payload + 40).is_ok());
        assert_eq!(4096 % SEGMENT_LEN, 0);
        let header: Vec<u16> = bytes[2..10]
            .chunks(2)
            .map(|pair| u16::from_ne_bytes([pair[0], pair[1]]))
            .collect();
        assert_eq!(
            (&bytes[..2], &header[..]),
            (&[1, 1][..], &[54, 256, 34, 16][..])
        );
        let frame = &bytes[10..];
        assert_eq!(frame::fold(frame::words(&frame[14..34])), 0xffff);
        // As the kernel computes it: the sum from `csum_start` on, including the seed, inverted.
        let mut segment = frame[34..].to_vec();
        let seed = u16::from_be_bytes([segment[16], segment[17]]);
        let sum = !frame::fold(frame::words(&segment));
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        assert_ne!(seed, sum);
        let pseudo =
            frame::pseudo_header((*SENDER.ip()).into(), (*to.ip()).into(), 6, segment.len());
        assert_eq!(frame::fold(pseudo + frame::words(&segment)), 0xffff);
    }

    #[test]
    fn every_burst_has_a_place_of_its_own() {
        let bursts = bursts();
        let to = |n: usize| destination(u16::try_from(n).unwrap(), &bursts[n]);
        let destinations: BTreeSet<_> = (0..bursts.len()).map(to).collect();
        assert_eq!(destinations.len(), bursts.len());
        // In the network of the device through which it must leave.
        for burst in &bursts {
            let (index, vxlan, below) = numbered(burst);
            let straight = burst.below == Below::Underlay;
            assert_eq!(plan::VXLANS.iter().any(|(.., d)| *d == vxlan), straight);
            assert_eq!(below == plan::UNDERLAY, straight);
            assert_eq!(destination(0, burst).ip().octets()[2], index);
        }
    }

    #[test]
    fn every_request_is_acknowledged_and_has_its_step() {
        let (requests, steps) = devices();
        let seqs: Vec<u32> = steps.iter().map(|(seq, _)| *seq).collect();
        assert_eq!(seqs, requests.acks);
    }

    #[test]
    fn packets_that_a_device_has_sent() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
                     face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop\n    \
                     lo:       1       2    0    0    0     0          0         0      3       4    0    0\n\
                     vxprobe4s:     1       2    0    0    0     0          0         0      5       6    0    0\n\
                     short:     1       2\n";
        assert_eq!(tx_packets(text, "lo"), Some(4));
        assert_eq!(tx_packets(text, "vxprobe4s"), Some(6));
        assert_eq!(tx_packets(text, "vxprobe4"), None);
        assert_eq!(tx_packets(text, "short"), None);
    }
}
