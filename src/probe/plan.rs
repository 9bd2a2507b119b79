//! The devices and packets of the probe.
//!
//! Owns the addresses, devices and rules of the probe's namespace, the order of the cases, and the assignment of
//! captured frames to cases. Pure. The namespace belongs to the probe alone, so its addresses collide with nothing.
//! They are from the ranges for documentation (RFC 5737, RFC 3849) and benchmarks (RFC 2544).
//!
//! ```text
//!   inner packet ─► vxlan device ─► postrouting: source NAT ─► vxprobe0 ═══ vxprobe1 ─► packet socket
//!                   (4 of them)     by outer destination       checksums finished here
//! ```

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::ops::RangeInclusive;

use rustix::io::Errno;

use super::frame::{PROTOCOL_TCP, PROTOCOL_UDP, Transport, VXLAN_PORT, VxlanFrame};
use super::link_setup::{self, NewDevice, Vxlan};
use super::nat_setup::{self, Rewrite, SourceNat};
use super::{Case, CaseNat, Cause, Family, Inconclusive, InnerProtocol, Observed};
use crate::fault::describe_errno;
use crate::link::OuterChecksum;
use crate::netlink::requests::Requests;

/// The end of the veth pair through which packets leave.
pub const UNDERLAY: NewDevice<'static> = NewDevice {
    name: "vxprobe0",
    ifindex: 1000,
};
/// The end of the veth pair at which packets arrive.
pub const PEER: NewDevice<'static> = NewDevice {
    name: "vxprobe1",
    ifindex: 1001,
};

/// The range from which the kernel chooses the outer source port.
pub(super) const SRC_PORTS: RangeInclusive<u16> = 40_000..=49_999;
/// The range from which NAT chooses the outer source port. No port of one range is congruent to a port of the other
/// modulo 65535, so a checksum that misses the change is never correct by chance.
const NAT_PORTS: RangeInclusive<u16> = 20_000..=29_999;
/// The destination ports of inner packets, with the feature on and off.
const PORT_ON: u16 = 9001;
const PORT_OFF: u16 = 9002;

/// All families, kinds of NAT and inner packets, in the order of the cases.
const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];
const NATS: [CaseNat; 3] = [CaseNat::None, CaseNat::Address, CaseNat::Port];
const INNERS: [InnerProtocol; 2] = [InnerProtocol::Udp, InnerProtocol::Tcp];

/// One VXLAN device for each family and outer checksum.
pub const VXLANS: [(Family, OuterChecksum, NewDevice<'static>); 4] = [
    (
        Family::Ipv4,
        OuterChecksum::Zero,
        new_device("vxprobe4z", 1002),
    ),
    (
        Family::Ipv4,
        OuterChecksum::Present,
        new_device("vxprobe4p", 1003),
    ),
    (
        Family::Ipv6,
        OuterChecksum::Zero,
        new_device("vxprobe6z", 1004),
    ),
    (
        Family::Ipv6,
        OuterChecksum::Present,
        new_device("vxprobe6p", 1005),
    ),
];

pub(super) const fn new_device(name: &'static str, ifindex: u32) -> NewDevice<'static> {
    NewDevice { name, ifindex }
}

/// A step before the first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Leaving the host's network namespace.
    Namespace,
    /// Opening a netlink socket or using it.
    Netlink,
    /// Creating the veth pair and setting it up.
    Veth,
    /// Adding an address to the underlay.
    Underlay(Family),
    /// Creating the veth pair from which packets are forwarded, and enabling forwarding on its end.
    Ingress,
    /// Creating a macvlan device.
    Macvlan,
    /// Creating a VXLAN device with its address, neighbours and forwarding entries.
    Vxlan(Family),
    /// Opening a socket for `nf_tables` and installing the rules.
    Nat(Family),
    /// Turning checksum offload off on the veth pair, or on or off on a VXLAN device.
    Offload,
    /// Opening a packet socket.
    Capture,
    /// Sending segments through a packet socket.
    Inject,
}

impl Step {
    /// The family whose cases need this step. `None` if all cases need it.
    pub fn family(self) -> Option<Family> {
        match self {
            Self::Underlay(family) | Self::Vxlan(family) | Self::Nat(family) => Some(family),
            _ => None,
        }
    }

    /// Why a run, or its half with an IPv6 underlay, ends at this step.
    pub fn failed(self, errno: Errno) -> Inconclusive {
        let missing = matches!(
            errno,
            Errno::NOENT | Errno::PROTONOSUPPORT | Errno::OPNOTSUPP | Errno::AFNOSUPPORT
        );
        let (code, advice) = match (self, errno) {
            // The kernel's answer if disable_ipv6 is set.
            (_, Errno::ACCESS) if self.family() == Some(Family::Ipv6) => (Cause::NoIpv6, ""),
            (_, Errno::PERM | Errno::ACCESS) => (
                Cause::NoPermission,
                "; the probe needs CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_NET_RAW, run it as root or under `unshare -r`",
            ),
            (Self::Namespace, Errno::INVAL | Errno::NOSYS) => (
                Cause::NoNetworkNamespace,
                "; the kernel has no network namespaces",
            ),
            _ if self.family() == Some(Family::Ipv6) => (Cause::NoIpv6, ""),
            (Self::Veth | Self::Ingress, _) if missing => {
                (Cause::NoVeth, "; the kernel has no veth module")
            }
            (Self::Macvlan, _) if missing => {
                (Cause::NoMacvlan, "; the kernel has no macvlan module")
            }
            (Self::Vxlan(_), _) if missing => (Cause::NoVxlan, "; the kernel has no vxlan module"),
            (Self::Nat(_), _) if missing => (
                Cause::NoNfTables,
                "; the kernel has no nf_tables NAT, or a module of it is missing",
            ),
            (Self::Capture, _) if missing => {
                (Cause::NoPacketSocket, "; the kernel has no packet sockets")
            }
            (Self::Offload, _) => (Cause::FeatureStuck, ""),
            _ => (Cause::SetupFailed, ""),
        };
        let cause = describe_errno(errno);
        Inconclusive {
            code,
            text: format!("probe: {}: {cause}{advice}", self.what()),
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::Namespace => "create a network namespace",
            Self::Netlink => "talk to rtnetlink",
            Self::Veth => "create a veth pair",
            Self::Underlay(Family::Ipv4) => "give the underlay an IPv4 address",
            Self::Underlay(Family::Ipv6) => "give the underlay an IPv6 address",
            Self::Ingress => "create a veth pair to forward from",
            Self::Macvlan => "create a macvlan device",
            Self::Vxlan(Family::Ipv4) => "create a VXLAN device over IPv4",
            Self::Vxlan(Family::Ipv6) => "create a VXLAN device over IPv6",
            Self::Nat(Family::Ipv4) => "install IPv4 NAT with nf_tables",
            Self::Nat(Family::Ipv6) => "install IPv6 NAT with nf_tables",
            Self::Offload => "switch checksum offload",
            Self::Capture => "open a packet socket",
            Self::Inject => "inject segments",
        }
    }
}

/// The requests for devices and addresses, for one send to rtnetlink, and the step of each request.
pub fn devices() -> (Requests, Vec<(u32, Step)>) {
    let mut requests = Requests::default();
    // The far end first: a device that is set up after its carrier can send at once. Otherwise a worker of the kernel
    // notices the carrier later, and the device drops all packets until then.
    let mut steps = vec![
        (link_setup::veth(&mut requests, UNDERLAY, PEER), Step::Veth),
        (link_setup::up(&mut requests, PEER.ifindex), Step::Veth),
        (link_setup::up(&mut requests, UNDERLAY.ifindex), Step::Veth),
    ];
    for family in FAMILIES {
        let prefix_len = if family == Family::Ipv4 { 24 } else { 64 };
        let local = underlay_address(family, LOCAL);
        let seq = link_setup::address(&mut requests, UNDERLAY.ifindex, local, prefix_len);
        steps.push((seq, Step::Underlay(family)));
    }
    for (index, (family, outer, device)) in (0u8..).zip(VXLANS) {
        let vxlan = Vxlan {
            device,
            vni: u32::from(index) + 1,
            underlay: UNDERLAY.ifindex,
            local: underlay_address(family, LOCAL),
            remote: underlay_address(family, remote(CaseNat::None)),
            dst_port: VXLAN_PORT,
            src_ports: SRC_PORTS,
            udp_csum: outer == OuterChecksum::Present,
        };
        let own = IpAddr::from(inner_address(index, LOCAL));
        let mut push = |seq| steps.push((seq, Step::Vxlan(family)));
        push(link_setup::vxlan(&mut requests, &vxlan));
        push(link_setup::address(&mut requests, device.ifindex, own, 24));
        // The control cases use the default destination of the device. The other cases need forwarding entries.
        for nat in [CaseNat::Address, CaseNat::Port] {
            let host = remote(nat);
            let mac = [2, 0, 0, 0, 0, host];
            let inner = IpAddr::from(inner_address(index, host));
            let outer = underlay_address(family, host);
            push(link_setup::neighbour(
                &mut requests,
                device.ifindex,
                inner,
                mac,
            ));
            push(link_setup::forwarding(
                &mut requests,
                device.ifindex,
                mac,
                outer,
            ));
        }
    }
    (requests, steps)
}

/// The NAT rules for one family.
pub fn nat(family: Family) -> Requests {
    let rule = |nat, rewrite| SourceNat {
        dst: underlay_address(family, remote(nat)),
        rewrite,
    };
    let other = Rewrite::Address(underlay_address(family, SECOND));
    nat_setup::source_nat(
        family == Family::Ipv6,
        &[
            rule(CaseNat::Address, other),
            rule(CaseNat::Port, Rewrite::Port(NAT_PORTS)),
        ],
    )
}

/// The half of the cases with the feature on or off, without observations.
pub fn cases(feature_on: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    for (family, outer_checksum, _) in VXLANS {
        for nat in NATS {
            for inner in INNERS {
                cases.push(Case {
                    outer_checksum,
                    feature_on,
                    family,
                    nat,
                    inner,
                    observed: Observed::Missing(Inconclusive {
                        code: Cause::NoPacket,
                        text: "probe: no packet was captured".to_owned(),
                    }),
                });
            }
        }
    }
    cases
}

/// The destination of the inner packet of a case.
pub fn destination(case: &Case) -> SocketAddrV4 {
    let port = if case.feature_on { PORT_ON } else { PORT_OFF };
    SocketAddrV4::new(inner_address(index_of(case), remote(case.nat)), port)
}

/// True if a captured frame is the packet of this case. Does not test fields that NAT can change.
pub fn is_of(case: &Case, frame: &VxlanFrame) -> bool {
    let protocol = match case.inner {
        InnerProtocol::Udp => PROTOCOL_UDP,
        InnerProtocol::Tcp => PROTOCOL_TCP,
    };
    let destination = destination(case);
    frame.vni == u32::from(index_of(case)) + 1
        && frame.inner.protocol == protocol
        && frame.inner.dst == IpAddr::from(*destination.ip())
        && frame.inner.dst_port == destination.port()
        && frame.outer.dst == underlay_address(case.family, remote(case.nat))
}

/// True if the outer source of a packet differs from the source that its device sets.
pub fn rewritten(family: Family, outer: &Transport) -> bool {
    outer.src != underlay_address(family, LOCAL) || !SRC_PORTS.contains(&outer.src_port)
}

/// The last byte of the sender's address, and of the address that NAT sets.
pub(super) const LOCAL: u8 = 1;
const SECOND: u8 = 9;

/// The last byte of the inner and outer destination of packets with this kind of NAT.
fn remote(nat: CaseNat) -> u8 {
    match nat {
        CaseNat::None => 2,
        CaseNat::Address => 3,
        CaseNat::Port => 4,
    }
}

fn underlay_address(family: Family, host: u8) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::new(192, 0, 2, host).into(),
        Family::Ipv6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host.into()).into(),
    }
}

/// Every VXLAN device has an inner network of its own.
pub(super) fn inner_address(device_index: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, device_index, host)
}

fn index_of(case: &Case) -> u8 {
    device_index(case.family, case.outer_checksum)
}

/// The number of a device in [`VXLANS`].
pub(super) fn device_index(family: Family, outer_checksum: OuterChecksum) -> u8 {
    let family = u8::from(family == Family::Ipv6);
    let outer = u8::from(outer_checksum == OuterChecksum::Present);
    family * 2 + outer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_has_a_place_of_its_own() {
        let cases = [cases(true), cases(false)].concat();
        assert_eq!(cases.len(), 48);
        for (n, case) in cases.iter().enumerate() {
            let protocol = match case.inner {
                InnerProtocol::Udp => PROTOCOL_UDP,
                InnerProtocol::Tcp => PROTOCOL_TCP,
            };
            let transport = |dst, protocol, dst_port| Transport {
                src: dst,
                dst,
                protocol,
                src_port: 1,
                dst_port,
                checksum: crate::probe::frame::Checksum::Valid,
            };
            let to = destination(case);
            let remote = underlay_address(case.family, remote(case.nat));
            let frame = VxlanFrame {
                outer: transport(remote, PROTOCOL_UDP, VXLAN_PORT),
                vni: u32::from(index_of(case)) + 1,
                inner: transport(IpAddr::from(*to.ip()), protocol, to.port()),
            };
            let owners: Vec<usize> = (0..cases.len())
                .filter(|i| is_of(&cases[*i], &frame))
                .collect();
            assert_eq!(owners, [n]);
        }
    }

    /// The device of a case is the device whose number is in the addresses.
    #[test]
    fn devices_are_in_the_order_of_their_numbers() {
        for case in cases(true) {
            let (family, outer, _) = VXLANS[usize::from(index_of(&case))];
            assert_eq!((family, outer), (case.family, case.outer_checksum));
        }
    }

    /// A checksum that misses a change, or applies it with the wrong sign, differs from the correct one.
    #[test]
    fn no_rewrite_is_neutral_to_the_checksum() {
        for from in SRC_PORTS {
            assert!(!NAT_PORTS.contains(&from));
        }
        assert!(*SRC_PORTS.end() < u16::MAX);
        // Twice the difference of the addresses is not a multiple of 65535.
        assert!(u32::from(SECOND - LOCAL) * 2 % 65535 != 0);
    }

    #[test]
    fn causes_have_codes() {
        for (step, errno, code) in [
            (Step::Namespace, 1, Cause::NoPermission),
            (Step::Namespace, 22, Cause::NoNetworkNamespace),
            (Step::Namespace, 28, Cause::SetupFailed),
            (Step::Netlink, 1, Cause::NoPermission),
            (Step::Veth, 95, Cause::NoVeth),
            (Step::Veth, 12, Cause::SetupFailed),
            (Step::Vxlan(Family::Ipv4), 95, Cause::NoVxlan),
            (Step::Vxlan(Family::Ipv6), 95, Cause::NoIpv6),
            (Step::Vxlan(Family::Ipv6), 1, Cause::NoPermission),
            (Step::Nat(Family::Ipv4), 93, Cause::NoNfTables),
            (Step::Nat(Family::Ipv4), 2, Cause::NoNfTables),
            (Step::Nat(Family::Ipv4), 22, Cause::SetupFailed),
            (Step::Nat(Family::Ipv6), 2, Cause::NoIpv6),
            (Step::Underlay(Family::Ipv6), 95, Cause::NoIpv6),
            (Step::Underlay(Family::Ipv6), 13, Cause::NoIpv6),
            (Step::Underlay(Family::Ipv4), 13, Cause::NoPermission),
            (Step::Offload, 95, Cause::FeatureStuck),
            (Step::Capture, 97, Cause::NoPacketSocket),
            (Step::Capture, 1, Cause::NoPermission),
            (Step::Ingress, 95, Cause::NoVeth),
            (Step::Ingress, 22, Cause::SetupFailed),
            (Step::Macvlan, 95, Cause::NoMacvlan),
            (Step::Macvlan, 1, Cause::NoPermission),
            (Step::Inject, 100, Cause::SetupFailed),
        ] {
            let reason = step.failed(Errno::from_raw_os_error(errno));
            assert_eq!(reason.code, code, "{step:?} {errno}");
            let cause = describe_errno(Errno::from_raw_os_error(errno));
            assert!(reason.text.contains(&cause), "{}", reason.text);
        }
    }

    #[test]
    fn every_request_is_acknowledged_and_has_its_step() {
        let (requests, steps) = devices();
        let seqs: Vec<u32> = steps.iter().map(|(seq, _)| *seq).collect();
        assert_eq!(seqs, requests.acks);
        for family in FAMILIES {
            assert_eq!(nat(family).acks, [2, 3, 4, 5]);
        }
    }
}
