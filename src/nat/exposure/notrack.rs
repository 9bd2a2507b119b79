//! Whether it is enough to leave the outer packets of a device untracked, and the rule that does so.
//!
//! Owns the description of these packets, and why a rule is not enough. Pure: `nat::nft::own` writes the rule for the
//! kernel.

use core::fmt;
use core::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{CitedRule, Collected, Drops, Exposure, OuterFlow, run, table_text};
use crate::nat::machine::RuleRef;
use crate::nat::rules::{Expr, NatRules};
use crate::nat::settable::Assume;
use crate::text::escape;

/// The outer packets of a device, as a notrack rule must describe them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Untracked {
    /// True for IPv6. `None` if both families occur.
    pub v6: Option<bool>,
    /// The source address, if the device has a fixed one.
    pub local: Option<IpAddr>,
    pub port: u16,
}

impl Untracked {
    /// The rule in the syntax of nft(8). Packets to this machine itself stay tracked.
    pub fn rule(&self) -> String {
        let packets = match (self.local, self.v6) {
            (Some(a), _) if a.is_ipv6() => format!("ip6 saddr {a} "),
            (Some(a), _) => format!("ip saddr {a} "),
            (None, Some(true)) => "meta nfproto ipv6 ".to_owned(),
            (None, Some(false)) => "meta nfproto ipv4 ".to_owned(),
            (None, None) => String::new(),
        };
        format!("oifname != \"lo\" {packets}udp dport {} notrack", self.port)
    }

    /// The commands that add rules for these packets. Running them again is safe.
    pub fn commands(all: &[Self]) -> Vec<String> {
        let mut commands = vec![
            "nft add table inet vxlan-notrack".to_owned(),
            "nft 'add chain inet vxlan-notrack output { type filter hook output priority -300; }'"
                .to_owned(),
            "nft flush chain inet vxlan-notrack output".to_owned(),
        ];
        let add = |of: &Self| format!("nft 'add rule inet vxlan-notrack output {}'", of.rule());
        commands.extend(all.iter().map(add));
        commands
    }
}

/// Why it is not enough to leave the outer packets untracked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoCure {
    /// The device has no fixed destination port, so a rule cannot recognise its packets.
    NoPort,
    /// The caller did not ask.
    NotAsked,
    /// Rules copy packets (TEE, `dup`). In tests with such rules, untracked packets were lost that arrive with the
    /// offload off.
    Copied,
    /// Untracked packets can still be rewritten. Holds the analysis as text.
    StillExposed(String),
    /// No rule here rewrites untracked packets, but it is not known whether others do. Holds the analysis as text.
    NotKnown(Untracked, String),
    /// A rule, or the policy of a chain, would drop untracked packets but not tracked packets.
    Dropped(String),
}

impl fmt::Display for NoCure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPort => f.write_str("the device has no fixed destination port"),
            Self::NotAsked => f.write_str("vxcsum did not look at it"),
            Self::Copied => {
                f.write_str("rules here copy packets, and tests with such rules lost packets")
            }
            Self::StillExposed(why) => write!(f, "it is not enough: {why}"),
            Self::NotKnown(_, why) => write!(f, "it is not known whether it is enough: {why}"),
            Self::Dropped(by) => write!(f, "{by} can drop untracked packets"),
        }
    }
}

/// Whether it is enough to leave the outer packets untracked. Needs all rules.
pub(super) fn untracked(rules: &NatRules, device: &OuterFlow) -> Result<Untracked, NoCure> {
    if rules.is_partial() {
        return Err(NoCure::NotAsked);
    }
    let port = device.dst_port.ok_or(NoCure::NoPort)?;
    let chains = rules.tables.iter().flat_map(|t| &t.chains);
    let mut exprs = chains.flat_map(|c| &c.rules).flat_map(|r| &r.exprs);
    if exprs.any(|e| matches!(e, Expr::Copy(_))) {
        return Err(NoCure::Copied);
    }
    let watched = |untracked| {
        let mut collected = Collected {
            untracked,
            drops: Some(Drops::new()),
            ..Collected::default()
        };
        let exposure = run(rules, device, Assume::Anything, &mut collected);
        (exposure, collected.drops.unwrap_or_default())
    };
    let (exposure, drops) = watched(true);
    if let Exposure::Exposed(_) = exposure {
        return Err(NoCure::StillExposed(exposure.to_string()));
    }
    if let Some(&(table, chain, rule)) = drops.difference(&watched(false).1).next() {
        let of = &rules.tables[table];
        let by = match rule {
            Some(rule) => CitedRule::new(rules, RuleRef { table, chain, rule }).text,
            None => format!(
                "the policy of chain {}",
                escape(&of.chains[chain as usize].name)
            ),
        };
        return Err(NoCure::Dropped(format!("`{by}` in {}", table_text(of))));
    }
    let family = |v6: bool| {
        device
            .remotes
            .iter()
            .all(|a| a.is_ipv6() == v6)
            .then_some(v6)
    };
    let packets = Untracked {
        // A fixed source has a family, also if the destinations are not known.
        v6: device.local.map(|a| a.is_ipv6()).or_else(|| {
            let remotes = family(false).or(family(true));
            remotes.filter(|_| !device.remotes.is_empty())
        }),
        local: device.local,
        port,
    };
    match exposure {
        Exposure::Unknown(doubt) => Err(NoCure::NotKnown(packets, doubt.to_string())),
        Exposure::NotExposed(_) | Exposure::Exposed(_) => Ok(packets),
    }
}
