//! Whether NAT in this network namespace can rewrite the outer packets of a VXLAN device.
//!
//! Owns the question and the answer. The inner packet goes through POSTROUTING with any mark that it can have; the outer packet
//! keeps what mark is left and, being sent by this machine, goes through OUTPUT and POSTROUTING. Only a first packet of a
//! connection meets nat chains, so a later inner packet carries what other chains set. Pure: `nat::read_io` reads the rules.
//!
//! <https://github.com/torvalds/linux/blob/v6.12/net/ipv4/ip_tunnel_core.c#L50> (`iptunnel_xmit`: the mark stays within one
//! namespace, connection tracking does not)

#[cfg(test)]
pub(crate) mod tests;

use core::net::IpAddr;
use std::fmt::Write as _;

use serde::Serialize;

use super::bits::Mark;
use super::machine::{Event, Machine, Place, TooMuch, Translation};
use super::packet::{Destinations, Packet};
use super::rules::{
    Hook, NAT_PROTO_SPECIFIED, NAT_RANDOM, NAT_RANDOM_FULLY, NatKind, NatRules, Table,
};
use super::settable::settable;
use super::state::{State, add};
use crate::text::{IfName, escape};

/// What of a VXLAN device decides which rules its outer packets meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OuterFlow {
    /// The VXLAN device, through which inner packets leave.
    pub device: IfName,
    /// Its ifindex.
    pub ifindex: u32,
    /// It is a port of a bridge or another master (`IFLA_MASTER`), through which inner packets can leave instead.
    pub enslaved: bool,
    /// The device through which outer packets leave; none if only routing knows, or if it is in another namespace.
    pub underlay: Option<IfName>,
    /// Its ifindex.
    pub underlay_ifindex: Option<u32>,
    /// Its driver, as `ETHTOOL_GDRVINFO` says.
    pub underlay_driver: Option<String>,
    /// Its addresses.
    pub underlay_addresses: Vec<IpAddr>,
    /// Why some outer packets may leave through another device than the underlay; none if all go that way.
    pub elsewhere: Option<Elsewhere>,
    /// The source of outer packets, if the device has one.
    pub local: Option<IpAddr>,
    /// Where outer packets go, as the device's forwarding entries and its group or remote say; empty if they can go anywhere.
    pub remotes: Vec<IpAddr>,
    /// Their destination port; none if it is chosen per packet.
    pub dst_port: Option<u16>,
    /// The VNI, which only messages use.
    pub vni: Option<u32>,
}

/// Why some outer packets may leave through another device than the underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// A forwarding entry or a route names the device with this ifindex.
    Device(u32),
    /// A routing rule sends some of them to another table, by their mark, ports or TOS.
    Diverted,
    /// Routing did not say.
    NotKnown,
}

impl OuterFlow {
    /// The device that all outer packets leave through, if there is one: with destinations that are not known there is not.
    fn way_out(&self) -> Option<(IfName, Option<u32>)> {
        let sure = self.elsewhere.is_none() && !self.remotes.is_empty();
        Some((self.underlay?, self.underlay_ifindex)).filter(|_| sure)
    }
}

/// Whether NAT can rewrite the outer packets. Texts are safe to print.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
pub enum Exposure {
    /// It can.
    Exposed {
        /// By this rule, as iptables-save(8) or nft(8) prints it.
        rule: String,
        /// In this table, such as `ip nat (xtables)` for iptables-legacy.
        table: String,
        /// `ip` or `ip6`: of the outer packets.
        family: &'static str,
        /// Why it can meet them, and what it does.
        why: String,
    },
    /// Every path was shown harmless.
    NotExposed {
        /// How.
        why: String,
    },
    /// Not decided, which counts as exposed.
    Unknown {
        /// The rule that was not understood, if it is one.
        rule: Option<String>,
        /// Why.
        why: String,
    },
}

impl Exposure {
    /// No decision asks, so that the rules were not read.
    pub fn not_asked() -> Self {
        Self::Unknown {
            rule: None,
            why: "the NAT rules of this node were not read, for no decision depends on them".into(),
        }
    }

    /// The stable code.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Exposed { .. } => "exposed",
            Self::NotExposed { .. } => "not-exposed",
            Self::Unknown { .. } => "unknown",
        }
    }

    /// The rule that it is about.
    pub fn rule(&self) -> Option<&str> {
        match self {
            Self::Exposed { rule, .. } => Some(rule),
            Self::NotExposed { .. } => None,
            Self::Unknown { rule, .. } => rule.as_deref(),
        }
    }

    /// The table that this rule is in, such as `ip nat (xtables)`.
    pub fn table(&self) -> Option<&str> {
        match self {
            Self::Exposed { table, .. } => Some(table),
            _ => None,
        }
    }

    /// Why, for people.
    pub fn text(&self) -> String {
        match self {
            Self::Exposed {
                rule, table, why, ..
            } => format!("by `{rule}` in {table}: {why}"),
            Self::NotExposed { why } | Self::Unknown { why, .. } => why.clone(),
        }
    }
}

/// Drivers of devices that finish the inner checksum, in software if need be, before a packet leaves this kernel. Any other
/// (veth, and what may stack on one: bridge, bonding, 802.1q, macvlan) can hand it on unfinished, to NAT that cannot be seen here.
const FINISHES: &[&str] = &[
    "8139cp",
    "8139too",
    "alx",
    "amd-xgbe",
    "aqc111",
    "atlantic",
    "ax88179_178a",
    "bcmgenet",
    "be2net",
    "bnx2",
    "bnx2x",
    "bnxt_en",
    "cdc_ether",
    "cdc_ncm",
    "cxgb4",
    "dpaa2_eth",
    "e100",
    "e1000",
    "e1000e",
    "ena",
    "enic",
    "fec",
    "forcedeth",
    "fsl_dpa",
    "gianfar",
    "gve",
    "hinic",
    "hns3",
    "hv_netvsc",
    "i40e",
    "iavf",
    "ice",
    "idpf",
    "igb",
    "igbvf",
    "igc",
    "ixgbe",
    "ixgbevf",
    "lan743x",
    "lan78xx",
    "liquidio",
    "macb",
    "mana",
    "mlx4_en",
    "mlx5_core",
    "mvneta",
    "mvpp2",
    "nfp",
    "pcnet32",
    "qede",
    "r8125",
    "r8152",
    "r8169",
    "sfc",
    "sky2",
    "smsc95xx",
    "st_gmac",
    "stmmaceth",
    "tg3",
    "thunderx-nicvf",
    "tulip",
    "vif",
    "virtio_net",
    "vmxnet3",
];

/// Decides for one device.
pub fn analyze(rules: &NatRules, device: &OuterFlow) -> Exposure {
    let mut harmless = Vec::new();
    let found = match meet(rules, device) {
        Ok(events) => events,
        Err(TooMuch) => {
            return Exposure::Unknown {
                rule: None,
                why: "the rules are too many or too tangled to follow every path".into(),
            };
        }
    };
    let mut opaque = None;
    for (v6, place, event) in &found {
        let table = &rules.tables[place.table];
        match event {
            Event::Nat(nat, relied) => match rewrites(nat, device, *v6) {
                Err(what) => {
                    return Exposure::Exposed {
                        rule: rule_text(rules, *place),
                        table: table_text(table),
                        family: if *v6 { "ip6" } else { "ip" },
                        why: why(&what, *relied),
                    };
                }
                Ok(()) => harmless.push(rule_text(rules, *place)),
            },
            Event::Opaque(name) => opaque = opaque.or(Some((*place, name))),
        }
    }
    if let Some((place, name)) = opaque {
        return Exposure::Unknown {
            rule: Some(rule_text(rules, place)),
            why: format!(
                "the outer packet can meet `{}`, which is not understood",
                escape(name.as_bytes())
            ),
        };
    }
    if let Some(part) = rules.unread.first() {
        return Exposure::Unknown {
            rule: None,
            why: format!("read {}: {}", part.what, part.why),
        };
    }
    if let Some(elsewhere) = device.elsewhere {
        let what = match elsewhere {
            Elsewhere::Device(ifindex) => {
                format!("some leave through another device than the underlay (ifindex {ifindex})")
            }
            Elsewhere::Diverted => {
                "a routing rule can send some of them elsewhere, by mark, port or TOS".to_owned()
            }
            Elsewhere::NotKnown => {
                "the routes to all destinations could not be looked up".to_owned()
            }
        };
        return Exposure::Unknown {
            rule: None,
            why: format!("no rule here rewrites the outer packets, but {what}"),
        };
    }
    match (&device.underlay, device.underlay_driver.as_deref()) {
        (Some(_), Some(driver)) if FINISHES.contains(&driver) => {}
        (Some(name), driver) => {
            return Exposure::Unknown {
                rule: None,
                why: format!(
                    "no rule here rewrites the outer packets, but the underlay {name} (driver {}) can hand them on with \
                     unfinished checksums, and NAT beyond the namespace cannot be seen",
                    driver.map_or("unknown".into(), |d| escape(d.as_bytes())),
                ),
            };
        }
        (None, _) => {
            return Exposure::Unknown {
                rule: None,
                why: "no rule here rewrites the outer packets, but the underlay is not known, and NAT beyond the \
                      namespace cannot be seen"
                    .into(),
            };
        }
    }
    let why = match harmless.first() {
        Some(rule) => format!(
            "`{rule}` can meet the outer packets, but keeps their address and port; no other NAT rule can"
        ),
        None => "no NAT rule can meet the outer packets".into(),
    };
    Exposure::NotExposed { why }
}

/// What the outer packets can meet, with whether they are IPv6.
fn meet(rules: &NatRules, device: &OuterFlow) -> Result<Vec<(bool, Place, Event)>, TooMuch> {
    let settable = [settable(rules, false), settable(rules, true)];
    // A bit that a rule asks for and no rule sets may come from a socket or from eBPF. One that a rule sets is taken to be set
    // by rules alone.
    let [v4, v6] = settable;
    let foreign = (v4.asked | v6.asked) & !(v4.anywhere | v6.anywhere);
    let mut marks = Vec::new();
    for v6 in [false, true] {
        let can = settable[usize::from(v6)];
        // A later inner packet meets no nat chain: its mark is what other chains set.
        add(
            &mut marks,
            State::new(Mark::only(can.outside_nat | foreign)),
        );
        let inner = Packet {
            v6,
            oif: Some(device.device.as_bytes()).filter(|_| !device.enslaved),
            oif_index: Some(device.ifindex).filter(|_| !device.enslaved),
            source: None,
            destinations: Destinations::of(Vec::new()),
            outer: false,
            port: None,
            ct_bits: can.connection,
        };
        let first = State::new(Mark::only(can.anywhere | foreign));
        for s in Machine::new(rules, &inner).hook(Hook::Postrouting, &[first])? {
            add(&mut marks, State::new(s.mark));
        }
    }
    let mut out = Vec::new();
    for v6 in [false, true] {
        if device.local.is_some_and(|a| a.is_ipv6() != v6) {
            continue;
        }
        let remotes = device.remotes.iter().copied();
        let destinations: Vec<IpAddr> = remotes.filter(|a| a.is_ipv6() == v6).collect();
        // All go elsewhere. With a source of this family that cannot be, so that nothing is known.
        if destinations.is_empty() && !device.remotes.is_empty() && device.local.is_none() {
            continue;
        }
        let way_out = device.way_out();
        let outer = Packet {
            v6,
            oif: way_out.as_ref().map(|(name, _)| name.as_bytes()),
            oif_index: way_out.and_then(|(_, ifindex)| ifindex),
            source: device.local,
            destinations: Destinations::of(destinations),
            outer: true,
            port: device.dst_port,
            ct_bits: settable[usize::from(v6)].connection,
        };
        let mut machine = Machine::new(rules, &outer);
        let sent = machine.hook(Hook::Output, &marks)?;
        let sent = machine.hook(Hook::Postrouting, &sent)?;
        machine.hook(Hook::Egress, &sent)?;
        out.extend(machine.events.into_iter().map(|(p, e)| (v6, p, e)));
    }
    Ok(out)
}

/// An error says what a NAT statement changes in an outer packet.
fn rewrites(t: &Translation, device: &OuterFlow, v6: bool) -> Result<(), String> {
    let nat = &t.nat;
    match nat.kind {
        NatKind::Dnat | NatKind::Redirect => return Err("it changes the destination".into()),
        NatKind::Netmap => return Err("it changes the address".into()),
        NatKind::Masquerade | NatKind::Snat => {}
    }
    if nat.flags & NAT_RANDOM_FULLY != 0 {
        return Err("it changes the source port (fully random)".into());
    }
    if nat.flags & NAT_RANDOM != 0 {
        return Err("it changes the source port (random)".into());
    }
    if nat.flags & NAT_PROTO_SPECIFIED != 0 || nat.ports.is_some() {
        return Err("it changes the source port (to given ports)".into());
    }
    let Some(local) = device.local else {
        return Err(
            "it can change the source address: the device has no fixed local address".into(),
        );
    };
    if nat.kind == NatKind::Snat {
        return match nat.addresses {
            Some((low, high)) if low == local && high == local => Ok(()),
            Some((low, _)) => Err(format!(
                "it changes the source address from {local} to {low}"
            )),
            None if t.hidden => Err("it can change the source address".into()),
            None => Ok(()),
        };
    }
    if device.way_out().is_none() {
        return Err("it can change the source address: routing chooses the way out".into());
    }
    // A link-local address of IPv6 is not chosen for a destination that is not.
    let scope = |a: &&IpAddr| match (a, local) {
        (IpAddr::V6(a), IpAddr::V6(l)) => a.is_unicast_link_local() == l.is_unicast_link_local(),
        _ => a.is_ipv6() == v6,
    };
    let mut candidates = device.underlay_addresses.iter().filter(scope);
    match (candidates.next(), candidates.next()) {
        (Some(a), None) if *a == local => Ok(()),
        (Some(a), None) => Err(format!("it changes the source address from {local} to {a}")),
        (None, _) => Err("it can change the source address: the underlay's is not known".into()),
        _ => Err("it can change the source address: the underlay has several".into()),
    }
}

fn why(what: &str, relied: u32) -> String {
    let mut out = String::new();
    if relied == 0 {
        out.push_str("nothing in its way excludes the outer packets");
    } else {
        let _ = write!(
            out,
            "the outer packets keep the mark {relied:#x} of the inner ones"
        );
    }
    let _ = write!(out, ", and {what}");
    out
}

/// Every rule as the tools print it, table by table.
pub fn quoted(rules: &NatRules) -> Vec<String> {
    let mut out = Vec::new();
    for table in &rules.tables {
        for chain in &table.chains {
            out.extend((0..chain.rules.len()).map(|n| super::quote::rule(table, chain, n, rules)));
        }
    }
    out
}

/// The rules of every chain of this name as the tools print them, one list a chain.
pub fn quoted_chains(rules: &NatRules, name: &[u8]) -> Vec<Vec<String>> {
    let chains = rules
        .tables
        .iter()
        .flat_map(|table| table.chains.iter().map(move |chain| (table, chain)));
    chains
        .filter(|(_, chain)| &*chain.name == name)
        .map(|(table, chain)| {
            (0..chain.rules.len())
                .map(|n| super::quote::rule(table, chain, n, rules))
                .collect()
        })
        .collect()
}

fn rule_text(rules: &NatRules, place: Place) -> String {
    let table = &rules.tables[place.table];
    super::quote::rule(
        table,
        &table.chains[place.chain as usize],
        place.rule,
        rules,
    )
}

fn table_text(table: &Table) -> String {
    let backend = match table.backend {
        super::rules::Backend::Legacy => "xtables",
        super::rules::Backend::NfTables => "nf_tables",
    };
    format!(
        "{} {} ({backend})",
        table.family.word(),
        escape(&table.name)
    )
}
