//! Whether NAT in this network namespace can rewrite the outer packets of a VXLAN device.
//!
//! Owns the question and the answer. The inner packet passes POSTROUTING with any mark that it can have. The outer
//! packet keeps the resulting mark and, because this machine sends it, passes OUTPUT and POSTROUTING. Only the first
//! packet of a connection passes nat chains, so later inner packets have only the marks that other chains set. Pure:
//! `nat::read_io` reads the rules.
//!
//! <https://github.com/torvalds/linux/blob/v6.12/net/ipv4/ip_tunnel_core.c#L50> (`iptunnel_xmit`: the mark stays within one
//! namespace, connection tracking does not)

mod notrack;
mod rewrite;
#[cfg(test)]
pub(crate) mod tests;

use core::fmt;
use core::net::IpAddr;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize, Serializer};

use notrack::untracked;
pub use notrack::{NoCure, Untracked};
pub use rewrite::NatChange;
use rewrite::changes;

use super::bits::Mark;
use super::machine::{BudgetExceeded, Finding, Machine, RuleRef};
use super::packet::{Destinations, Packet};
use super::rules::{Hook, NatRules, Need, Table};
use super::settable::{Assume, settable};
use super::state::{PathState, add};
use crate::fault::Fault;
use crate::link::OwnAddress;
use crate::text::{IfName, escape};

/// The properties of a VXLAN device that determine which rules its outer packets match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OuterFlow {
    /// The VXLAN device. Inner packets leave through it.
    pub device: IfName,
    pub ifindex: u32,
    /// The device is a port of a bridge or another master (`IFLA_MASTER`), and inner packets can leave through that
    /// instead.
    pub enslaved: bool,
    /// The device through which outer packets leave. `None` if only routing determines it, or if it is in another
    /// namespace.
    pub underlay: Option<IfName>,
    pub underlay_ifindex: Option<u32>,
    /// `ETHTOOL_GDRVINFO` of the underlay.
    pub underlay_driver: Option<String>,
    /// Packets leave the underlay with finished checksums, so NAT outside this kernel cannot corrupt them.
    pub underlay_finishes: bool,
    /// The addresses of the underlay, in the order of the kernel.
    pub underlay_addresses: Vec<OwnAddress>,
    /// Why some outer packets may leave through another device than the underlay. `None` if all leave through the
    /// underlay.
    pub other_egress: Option<OtherEgress>,
    /// The source of outer packets, if the device has a fixed one.
    pub local: Option<IpAddr>,
    /// The routing of the packets to the remotes. `None` if routing was not asked, or if the answer is not certain.
    pub routed: Option<Routed>,
    /// The destinations of outer packets, from the forwarding entries, the group and the remote. Empty if they can go
    /// anywhere.
    pub remotes: Vec<IpAddr>,
    /// The destination port. `None` if the sender chooses it for each packet.
    pub dst_port: Option<u16>,
    /// The VNI. Only messages use it.
    pub vni: Option<u32>,
}

/// The routing of packets that leave through the underlay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routed {
    pub sources: BTreeSet<IpAddr>,
    pub nexthops: Vec<IpAddr>,
    /// The source that the kernel chooses for each IPv6 destination without a given source. `MASQUERADE` uses the same
    /// source. `None` if the route names a source, or if there was no answer.
    ///
    /// <https://github.com/torvalds/linux/blob/v6.12/include/net/ip6_route.h> (`ip6_route_get_saddr`)
    pub chosen_ipv6: Vec<Option<IpAddr>>,
}

/// Why some outer packets may leave through another device than the underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OtherEgress {
    /// A forwarding entry or a route names the device with this ifindex.
    Device(u32),
    /// A routing rule sends some packets to another table, by their mark, ports or TOS.
    Diverted,
    /// Routing gave no answer.
    NotKnown,
}

impl OuterFlow {
    /// The device through which all outer packets leave. `None` if they can leave through several, for example because
    /// the destinations are not known.
    pub fn certain_egress(&self) -> Option<(IfName, Option<u32>)> {
        let sure = self.other_egress.is_none() && !self.remotes.is_empty();
        Some((self.underlay?, self.underlay_ifindex)).filter(|_| sure)
    }

    /// The source of all outer packets of a family, if it is certain.
    fn source(&self, v6: bool) -> Option<IpAddr> {
        let sources = self.routed.iter().flat_map(|routed| &routed.sources);
        let mut sources = sources.filter(|a| a.is_ipv6() == v6);
        let chosen = || sources.next().copied().filter(|_| sources.next().is_none());
        self.local.or_else(chosen)
    }
}

/// Whether NAT can rewrite the outer packets. `Display` writes it as text that is safe to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exposure {
    Exposed(Box<Exposed>),
    /// No path leads to a rewrite. Holds a rule that the packets can match and that keeps their address and port, if
    /// there is one.
    NotExposed(Option<CitedRule>),
    /// Not decided. Counts as exposed.
    Unknown(Doubt),
}

/// How NAT can rewrite the outer packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exposed {
    /// The rule that rewrites them.
    pub rule: CitedRule,
    /// The outer packets are IPv6.
    pub v6: bool,
    /// What the rule changes.
    pub change: NatChange,
    /// The mark bits of the inner packet that let the outer packet match the rule.
    pub marks: u32,
    /// A rule that translates inner packets before another rule clears these mark bits. `None` if the bits stay set
    /// without it.
    pub kept_by: Option<CitedRule>,
    /// Rules without tracking that protect the packets, or why such rules are not enough.
    pub notrack: Result<Untracked, NoCure>,
}

/// A reference to a rule, with its texts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CitedRule {
    /// The place in the analysed rules.
    #[serde(skip)]
    pub at: RuleRef,
    pub chain: Box<[u8]>,
    /// The table, such as `ip nat (xtables)` for iptables-legacy.
    pub table: String,
    /// The rule as iptables-save(8) or nft(8) prints it, safe to print.
    pub text: String,
}

impl CitedRule {
    fn new(rules: &NatRules, at: RuleRef) -> Self {
        let table = &rules.tables[at.table];
        let chain = &table.chains[at.chain as usize];
        Self {
            at,
            chain: chain.name.clone(),
            table: table_text(table),
            text: super::quote::rule(table, chain, at.rule, rules),
        }
    }
}

codes! {
    /// Whether NAT can rewrite the outer packets of a device.
    pub enum ExposureCode {
        /// NAT can rewrite them.
        Exposed = "exposed",
        /// NAT cannot rewrite them.
        NotExposed = "not-exposed",
        /// Not known.
        Unknown = "unknown",
    }
}

/// Why the exposure is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Doubt {
    /// The rules were not read, because no decision depends on them.
    NotRead,
    /// The device certainly has no peers yet.
    NoPeers,
    /// There are more paths than the analysis follows.
    BudgetExceeded,
    /// The packets can match this rule, and the analysis does not understand this part of it.
    NotUnderstood(CitedRule, String),
    /// Part of the rules could not be read.
    #[serde(skip)]
    Unread(Fault),
    /// Some packets may leave through another device than the underlay.
    OtherEgress(OtherEgress),
    /// Packets can leave the underlay (name, driver) unfinished, and NAT outside this kernel may rewrite them.
    Underlay(Option<(IfName, Option<String>)>),
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRead => {
                f.write_str("vxcsum did not read the NAT rules, because no decision depends on them")
            }
            Self::NoPeers => f.write_str("the device has no peers yet, so no packet leaves"),
            Self::BudgetExceeded => {
                f.write_str("the rules have too many paths for vxcsum to follow them all")
            }
            Self::NotUnderstood(rule, what) => write!(
                f,
                "vxcsum does not understand \"{}\" in a rule that the outer packets can match: `{}`",
                escape(what.as_bytes()),
                rule.text
            ),
            Self::Unread(fault) => fault.fmt(f),
            Self::OtherEgress(other_egress) => {
                f.write_str("no rule here rewrites the outer packets. But ")?;
                match other_egress {
                    OtherEgress::Device(ifindex) => write!(
                        f,
                        "some leave through another device than the underlay (ifindex {ifindex})"
                    ),
                    OtherEgress::Diverted => f.write_str(
                        "a routing rule can send some of them elsewhere, by mark, port or TOS",
                    ),
                    OtherEgress::NotKnown => {
                        f.write_str("vxcsum could not look up the routes to all destinations")
                    }
                }
            }
            Self::Underlay(Some((name, driver))) => write!(
                f,
                "no rule here rewrites the outer packets. But the underlay {name} (driver {}) can pass them on with \
                 unfinished checksums. vxcsum cannot see NAT outside this network namespace",
                driver.as_ref().map_or("unknown".into(), |d| escape(d.as_bytes())),
            ),
            Self::Underlay(None) => f.write_str(
                "no rule here rewrites the outer packets. But the underlay is not known. vxcsum cannot see NAT outside \
                 this network namespace",
            ),
        }
    }
}

impl Exposure {
    /// For devices on which no decision depends. The rules are not read for them.
    pub const fn not_asked() -> Self {
        Self::Unknown(Doubt::NotRead)
    }

    /// How NAT can rewrite the outer packets. `None` unless the answer is `Exposed`.
    pub fn exposed(&self) -> Option<&Exposed> {
        match self {
            Self::Exposed(found) => Some(found),
            Self::NotExposed(_) | Self::Unknown(_) => None,
        }
    }

    pub fn code(&self) -> ExposureCode {
        match self {
            Self::Exposed(_) => ExposureCode::Exposed,
            Self::NotExposed(_) => ExposureCode::NotExposed,
            Self::Unknown(_) => ExposureCode::Unknown,
        }
    }

    /// The text of the rule in the answer.
    pub fn rule(&self) -> Option<&str> {
        match self {
            Self::Exposed(found) => Some(&found.rule.text),
            Self::Unknown(Doubt::NotUnderstood(rule, _)) => Some(&rule.text),
            Self::NotExposed(_) | Self::Unknown(_) => None,
        }
    }

    /// The table of the rule that rewrites, such as `ip nat (xtables)`.
    pub fn table(&self) -> Option<&str> {
        match self {
            Self::Exposed(found) => Some(&found.rule.table),
            Self::NotExposed(_) | Self::Unknown(_) => None,
        }
    }
}

/// Writes the stable code.
impl Serialize for Exposure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.code().serialize(serializer)
    }
}

/// The reason, for users.
impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exposed(found) => found.fmt(f),
            Self::NotExposed(Some(rule)) => write!(
                f,
                "the outer packets can match `{}`, which keeps their address and port. They match no other NAT rule",
                rule.text
            ),
            Self::NotExposed(None) => f.write_str("the outer packets match no NAT rule"),
            Self::Unknown(doubt) => doubt.fmt(f),
        }
    }
}

impl fmt::Display for Exposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` in {}. ", self.rule.text, self.rule.table)?;
        match self.marks {
            0 => f.write_str("No condition on the path excludes the outer packets")?,
            marks => write!(
                f,
                "The outer packets keep the mark {marks:#x} of the inner packets"
            )?,
        }
        if let Some(rule) = &self.kept_by {
            write!(
                f,
                ", because `{}` in {} translates them before the mark is cleared",
                rule.text, rule.table
            )?;
        }
        write!(f, ". {}", self.change)
    }
}

/// The result of an analysis, and the facts behind it.
pub(super) struct Examined {
    pub exposure: Exposure,
    /// Parts of the rules that the packets can reach and that were not read.
    pub needs: BTreeSet<Need>,
    /// Mark bits that rules test and that no rule read so far sets.
    pub external: u32,
}

/// Decides for one device.
pub fn analyze(rules: &NatRules, device: &OuterFlow) -> Exposure {
    examine(rules, device, Assume::Anything).exposure
}

/// Decides for one device, with rules that may be read in part.
pub(super) fn examine(rules: &NatRules, device: &OuterFlow, unread: Assume) -> Examined {
    let mut collected = Collected::default();
    let mut exposure = run(rules, device, unread, &mut collected);
    if let Exposure::Exposed(found) = &mut exposure {
        found.notrack = untracked(rules, device);
    }
    Examined {
        exposure,
        needs: collected.needs,
        external: collected.external,
    }
}

fn run(
    rules: &NatRules,
    device: &OuterFlow,
    unread: Assume,
    collected: &mut Collected,
) -> Exposure {
    match collect(rules, device, unread, collected) {
        Ok(()) => judge(rules, device, collected),
        Err(BudgetExceeded) => Exposure::Unknown(Doubt::BudgetExceeded),
    }
}

type Drops = BTreeSet<(usize, u32, Option<usize>)>;

/// What packets met on their paths.
#[derive(Default)]
struct Collected {
    /// Start with untracked outer packets.
    untracked: bool,
    /// Where outer packets can be dropped. `None` if the caller does not ask.
    drops: Option<Drops>,
    /// Rules that translate inner packets, and the mark bits that the packets can have there.
    kept: Vec<(RuleRef, u32)>,
    /// Mark bits that inner packets can have without being translated.
    kept_anyway: u32,
    /// The first value is true for IPv6 outer packets.
    findings: Vec<(bool, RuleRef, Finding)>,
    needs: BTreeSet<Need>,
    external: u32,
}

fn judge(rules: &NatRules, device: &OuterFlow, collected: &mut Collected) -> Exposure {
    let found = std::mem::take(&mut collected.findings);
    let (mut harmless, mut not_understood) = (None, None);
    let mut rewrites: Option<(bool, RuleRef, NatChange)> = None;
    let mut paths = Vec::new();
    for (v6, at, finding) in found {
        match finding {
            Finding::Nat(nat, marks) => match changes(&nat, device, v6) {
                Some(change) => {
                    let first = rewrites.get_or_insert((v6, at, change));
                    if *first == (v6, at, change) {
                        paths.push(marks);
                    }
                }
                None => harmless = harmless.or(Some(at)),
            },
            Finding::Opaque(name) => not_understood = not_understood.or(Some((at, name))),
        }
    }
    // The path that needs the fewest bits shows which bits matter.
    let marks = paths.into_iter().min_by_key(|marks| marks.count_ones());
    if let Some(((v6, at, change), marks)) = rewrites.zip(marks) {
        return Exposure::Exposed(Box::new(Exposed {
            rule: CitedRule::new(rules, at),
            v6,
            change,
            marks,
            kept_by: kept_by(collected, at, marks).map(|at| CitedRule::new(rules, at)),
            notrack: Err(NoCure::NotAsked),
        }));
    }
    let doubt = not_understood
        .map(|(at, what)| Doubt::NotUnderstood(CitedRule::new(rules, at), what))
        .or_else(|| rules.unread.first().cloned().map(Doubt::Unread))
        .or_else(|| device.other_egress.map(Doubt::OtherEgress))
        .or_else(|| underlay_doubt(device));
    match doubt {
        Some(doubt) => Exposure::Unknown(doubt),
        None => Exposure::NotExposed(harmless.map(|at| CitedRule::new(rules, at))),
    }
}

/// A rule that lets inner packets keep these mark bits, if it is another rule than the one that rewrites the outer
/// packets.
fn kept_by(collected: &Collected, rewrites: RuleRef, marks: u32) -> Option<RuleRef> {
    let mut keeps = collected
        .kept
        .iter()
        .filter(|(_, bits)| bits & marks == marks);
    let itself = keeps.clone().any(|(at, _)| *at == rewrites);
    let wanted = marks != 0 && collected.kept_anyway & marks != marks && !itself;
    keeps.next().filter(|_| wanted).map(|(at, _)| *at)
}

/// The doubt about an underlay whose packets can be unfinished.
fn underlay_doubt(device: &OuterFlow) -> Option<Doubt> {
    if device.underlay.is_some() && device.underlay_finishes {
        return None;
    }
    let named = |name| (name, device.underlay_driver.clone());
    Some(Doubt::Underlay(device.underlay.map(named)))
}

/// Collects what the packets can meet.
fn collect(
    rules: &NatRules,
    device: &OuterFlow,
    unread: Assume,
    collected: &mut Collected,
) -> Result<(), BudgetExceeded> {
    let certain = [false, true].map(|v6| settable(rules, v6, Assume::Nothing));
    let settable = match unread {
        Assume::Anything if rules.is_partial() => {
            [false, true].map(|v6| settable(rules, v6, unread))
        }
        _ => certain,
    };
    // A bit that rules test and no rule sets may come from a socket or from eBPF. For a bit that a rule sets, the
    // analysis assumes that only rules set it.
    let [v4, v6] = certain;
    let external = (v4.tested | v6.tested) & !(v4.anywhere | v6.anywhere);
    collected.external = external;
    let mut marks = Vec::new();
    for v6 in [false, true] {
        let can = settable[usize::from(v6)];
        // A later inner packet passes no nat chain, so other chains determine its mark. If it is a reply to a first
        // packet, it can have the mark of that packet.
        let later = if rules.marks_are_answered {
            can.anywhere
        } else {
            can.by_filter_chains
        } | external;
        collected.kept_anyway |= later;
        add(&mut marks, PathState::new(Mark::only(later)));
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
        let first = PathState::new(Mark::only(can.anywhere | external));
        let mut machine = Machine::new(rules, &inner);
        for s in machine.hook(Hook::Postrouting, &[first])? {
            if !s.translated {
                collected.kept_anyway |= s.mark.possible();
            }
            add(&mut marks, PathState::new(s.mark));
        }
        collected.kept.append(&mut machine.kept);
        collected.needs.append(&mut machine.needs);
    }
    for v6 in [false, true] {
        if device.local.is_some_and(|a| a.is_ipv6() != v6) {
            continue;
        }
        let remotes = device.remotes.iter().copied();
        let destinations: Vec<IpAddr> = remotes.filter(|a| a.is_ipv6() == v6).collect();
        // All packets leave through other devices. With a source of this family that is impossible, so nothing is
        // known.
        if destinations.is_empty() && !device.remotes.is_empty() && device.local.is_none() {
            continue;
        }
        let way_out = device.certain_egress();
        let outer = Packet {
            v6,
            oif: way_out.as_ref().map(|(name, _)| name.as_bytes()),
            oif_index: way_out.and_then(|(_, ifindex)| ifindex),
            source: device.source(v6),
            destinations: Destinations::of(destinations),
            outer: true,
            port: device.dst_port,
            ct_bits: settable[usize::from(v6)].connection,
        };
        let mut machine = Machine::new(rules, &outer);
        machine.drops = collected.drops.as_ref().map(|_| Drops::new());
        let untracked = |s: &PathState| PathState {
            untracked: collected.untracked,
            // The tunnel drops the connection of the inner packet.
            template: false,
            ..*s
        };
        let marks: Vec<PathState> = marks.iter().map(untracked).collect();
        let sent = machine.hook(Hook::Output, &marks)?;
        let sent = machine.hook(Hook::Postrouting, &sent)?;
        machine.hook(Hook::Egress, &sent)?;
        collected.needs.append(&mut machine.needs);
        if let Some(drops) = &mut collected.drops {
            drops.extend(machine.drops.take().into_iter().flatten());
        }
        let findings = machine.findings.into_iter();
        collected
            .findings
            .extend(findings.map(|(at, f)| (v6, at, f)));
    }
    Ok(())
}

/// Every rule as the tools print it, sorted by table.
#[allow(dead_code, reason = "tests compare it with what the tools print")]
pub fn quoted(rules: &NatRules) -> Vec<String> {
    let mut out = Vec::new();
    for table in &rules.tables {
        for chain in &table.chains {
            out.extend((0..chain.rules.len()).map(|n| super::quote::rule(table, chain, n, rules)));
        }
    }
    out
}

fn table_text(table: &Table) -> String {
    let backend = match table.backend {
        super::rules::RuleStore::Legacy => "xtables",
        super::rules::RuleStore::NfTables => "nf_tables",
    };
    format!(
        "{} {} ({backend})",
        table.family.word(),
        escape(&table.name)
    )
}
