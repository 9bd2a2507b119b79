//! What a NAT statement changes in the outer packets of a device.
//!
//! Owns the kernel's choice of a source address for `MASQUERADE`. Pure.

use core::fmt;
use core::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::OuterFlow;
use crate::link::OwnAddress;
use crate::nat::machine::Translation;
use crate::nat::rules::{NAT_PROTO_SPECIFIED, NAT_RANDOM, NAT_RANDOM_FULLY, NatKind};

/// `RT_SCOPE_UNIVERSE`.
const RT_SCOPE_UNIVERSE: u8 = 0;
/// `IFA_F_SECONDARY`.
pub(super) const IFA_F_SECONDARY: u32 = 0x01;
/// `IFA_F_OPTIMISTIC`, `IFA_F_DADFAILED`, `IFA_F_DEPRECATED`, `IFA_F_TENTATIVE`.
const IFA_F_NOT_PREFERRED: u32 = 0x04 | 0x08 | 0x20 | 0x40;
/// `IFA_F_PERMANENT`.
const IFA_F_PERMANENT: u32 = 0x80;

/// The change that a rule makes to an outer packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NatChange {
    Destination,
    /// The address, mapped to another network (NETMAP).
    Network,
    /// The source port: `--random-fully`.
    RandomPortFully,
    /// The source port: `--random`.
    RandomPort,
    /// The source port, to a port in the rule.
    GivenPort,
    /// The source address, from the first to the second.
    Source(IpAddr, IpAddr),
    /// The source address, perhaps.
    MaybeSource(SourceDoubt),
}

/// Why a rule may change the source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceDoubt {
    /// The device has no fixed local address.
    NoLocal,
    /// The address in the rule is not known.
    Hidden,
    /// Routing chooses the outgoing device.
    Routed,
    /// The address of the underlay is not known.
    AddressNotKnown,
    /// The underlay has several addresses.
    Several,
    /// The address of the underlay is deprecated or tentative.
    NotPreferred,
}

impl fmt::Display for NatChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Destination => "The rule changes the destination",
            Self::Network => "The rule changes the address",
            Self::RandomPortFully => "The rule changes the source port (fully random)",
            Self::RandomPort => "The rule changes the source port (random)",
            Self::GivenPort => "The rule changes the source port (to given ports)",
            Self::Source(from, to) => {
                return write!(f, "The rule changes the source address from {from} to {to}");
            }
            Self::MaybeSource(doubt) => {
                f.write_str("The rule can change the source address")?;
                match doubt {
                    SourceDoubt::NoLocal => ": the device has no fixed local address",
                    SourceDoubt::Hidden => "",
                    SourceDoubt::Routed => ": routing chooses the outgoing device",
                    SourceDoubt::AddressNotKnown => ": the address of the underlay is not known",
                    SourceDoubt::Several => ": the underlay has several addresses",
                    SourceDoubt::NotPreferred => {
                        ": the address of the underlay is deprecated or tentative"
                    }
                }
            }
        };
        f.write_str(text)
    }
}

/// The change that a NAT statement makes to an outer packet. `None` if it makes no change.
pub(super) fn changes(t: &Translation, device: &OuterFlow, v6: bool) -> Option<NatChange> {
    let nat = &t.nat;
    let maybe = |doubt| Some(NatChange::MaybeSource(doubt));
    match nat.kind {
        NatKind::Dnat | NatKind::Redirect => return Some(NatChange::Destination),
        NatKind::Netmap => return Some(NatChange::Network),
        NatKind::Masquerade | NatKind::Snat => {}
    }
    if nat.flags & NAT_RANDOM_FULLY != 0 {
        return Some(NatChange::RandomPortFully);
    }
    if nat.flags & NAT_RANDOM != 0 {
        return Some(NatChange::RandomPort);
    }
    if nat.flags & NAT_PROTO_SPECIFIED != 0 || nat.ports.is_some() {
        return Some(NatChange::GivenPort);
    }
    let Some(local) = device.source(v6) else {
        return maybe(SourceDoubt::NoLocal);
    };
    if nat.kind == NatKind::Snat {
        return match nat.addresses {
            Some((low, high)) if low == local && high == local => None,
            Some((low, _)) => Some(NatChange::Source(local, low)),
            None if t.hidden => maybe(SourceDoubt::Hidden),
            None => None,
        };
    }
    if device.certain_egress().is_none() {
        return maybe(SourceDoubt::Routed);
    }
    if v6 {
        masquerade_ipv6(local, device)
    } else {
        masquerade_ipv4(local, device)
    }
}

/// The source that `MASQUERADE` chooses: the first primary address of global scope, or the first of those with the next
/// hop in its subnet. Without such an address, an address of another device.
///
/// <https://github.com/torvalds/linux/blob/v6.12/net/ipv4/devinet.c> (`inet_select_addr`)
fn masquerade_ipv4(local: IpAddr, device: &OuterFlow) -> Option<NatChange> {
    let own = device.underlay_addresses.iter();
    let eligible = |a: &&OwnAddress| {
        a.address.is_ipv4() && a.scope == RT_SCOPE_UNIVERSE && a.flags & IFA_F_SECONDARY == 0
    };
    let eligible: Vec<&OwnAddress> = own.filter(eligible).collect();
    let chosen = |nexthop: &IpAddr| {
        let near = |a: &&&OwnAddress| in_subnet(*nexthop, a);
        let found = eligible.iter().find(near).or(eligible.first());
        found.map(|a| a.address)
    };
    match (&eligible[..], &device.routed) {
        ([], _) => Some(NatChange::MaybeSource(SourceDoubt::AddressNotKnown)),
        ([one], _) if one.address == local => None,
        ([one], _) => Some(NatChange::Source(local, one.address)),
        (_, None) => Some(NatChange::MaybeSource(SourceDoubt::Several)),
        (_, Some(routed)) => {
            let nexthops = routed.nexthops.iter().filter(|a| a.is_ipv4());
            let other = nexthops.filter_map(chosen).find(|a| *a != local);
            other.map(|a| NatChange::Source(local, a))
        }
    }
}

fn in_subnet(address: IpAddr, own: &OwnAddress) -> bool {
    match (address, own.address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let mask = u32::MAX
                .checked_shl(32 - u32::from(own.prefix_len).min(32))
                .unwrap_or(0);
            (a.to_bits() ^ b.to_bits()) & mask == 0
        }
        _ => false,
    }
}

/// As [`masquerade_ipv4`], for IPv6. IPv6 chooses among the addresses of all devices, and prefers an address of the
/// outgoing device that is valid and not deprecated. If there are several such addresses, routing names the chosen one.
/// A choice among addresses with a limited lifetime does not last, and counts as not known.
///
/// <https://github.com/torvalds/linux/blob/v6.12/net/ipv6/addrconf.c> (`ipv6_get_saddr_eval`)
fn masquerade_ipv6(local: IpAddr, device: &OuterFlow) -> Option<NatChange> {
    // A link-local address is chosen only for link-local destinations.
    let link_local = |a: IpAddr| matches!(a, IpAddr::V6(a) if a.is_unicast_link_local());
    let own = device.underlay_addresses.iter();
    let own = own.filter(|a| a.address.is_ipv6() && link_local(a.address) == link_local(local));
    let own: Vec<&OwnAddress> = own.collect();
    let maybe = |doubt| Some(NatChange::MaybeSource(doubt));
    let lasts =
        |a: &&OwnAddress| a.flags & (IFA_F_PERMANENT | IFA_F_NOT_PREFERRED) == IFA_F_PERMANENT;
    match (&own[..], &device.routed) {
        ([], _) => maybe(SourceDoubt::AddressNotKnown),
        ([a], _) if a.address != local => Some(NatChange::Source(local, a.address)),
        ([a], _) if a.flags & IFA_F_NOT_PREFERRED != 0 => maybe(SourceDoubt::NotPreferred),
        ([_], _) => None,
        (_, Some(routed)) if own.iter().all(lasts) => {
            let mut chosen = routed.chosen_ipv6.iter();
            match chosen.find(|a| **a != Some(local))? {
                Some(other) => Some(NatChange::Source(local, *other)),
                None => maybe(SourceDoubt::Several),
            }
        }
        _ => maybe(SourceDoubt::Several),
    }
}
