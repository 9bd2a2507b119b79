//! vxcsum's own table, which leaves the outer packets of devices untracked.
//!
//! Owns its name and its contents, and recognises a table that another program changed. Pure: `nat::own_io` creates and
//! reads the table.
//!
//! The table is not bound to a socket (`NFT_TABLE_F_OWNER`), because it must outlive the process.

use std::collections::BTreeSet;

use super::write::{BaseChain, Batch, Expressions, nfproto};
use super::{Names, expr};
use crate::nat::exposure::Untracked;
use crate::nat::rules::{Base, Chain, Expr, Hook, Op, RuleStore, Source, Table, TableFamily};
#[allow(clippy::wildcard_imports)] // The kernel's names, dozens of them.
use crate::nat::uapi::*;
use crate::netlink::messages;
use crate::netlink::requests::Requests;
use crate::text::octets;

/// One table for IPv4 and IPv6.
pub const FAMILY: u8 = NFPROTO_INET;
pub const NAME: &[u8] = b"vxcsum";
/// The name as nft(8) and users write it.
pub const TEXT: &str = "inet vxcsum";
/// The only chain of the table.
pub const CHAIN: &[u8] = b"output";
/// Notes for people who read the rules. nft(8) shows both. Kernels before 5.10 store only the comment of a rule.
const TABLE_COMMENT: &str = "made and kept by vxcsum: NAT on the outer packets of a tunnel corrupts them. See vxcsum explain";
const COMMENT: &str = "by vxcsum: no NAT on tunnel packets";

/// The packets of the rules in the table.
pub type Packets = BTreeSet<Untracked>;

/// The state of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnTable {
    /// The table does not exist, or this kernel has no `nf_tables`.
    Absent,
    /// The table is as vxcsum creates it, for these packets.
    Made(Packets),
    /// A table with this name has other contents, so its effect is not known.
    Changed,
}

/// A batch that creates the table and replaces an existing one. The kernel applies the old rules to packets until it
/// applies the new rules.
pub fn replace(packets: &Packets) -> Requests {
    let mut batch = Batch::of(FAMILY, NAME);
    batch.delete();
    batch.create(Some(TABLE_COMMENT));
    batch.chain(&BaseChain {
        name: CHAIN,
        kind: b"filter",
        hook: NF_INET_LOCAL_OUT,
        priority: NF_IP_PRI_RAW,
    });
    for of in packets {
        batch.rule(CHAIN, Some(COMMENT), |e| rule(e, of));
    }
    batch.end()
}

/// A batch that removes the table, whether it exists or not.
pub fn remove() -> Requests {
    let mut batch = Batch::of(FAMILY, NAME);
    batch.delete();
    batch.end()
}

/// Writes the rule of [`Untracked::rule`].
fn rule(e: &mut Expressions<'_>, of: &Untracked) {
    let mut lo = [0; IFNAMSIZ];
    lo[..2].copy_from_slice(b"lo");
    e.meta(NFT_META_OIFNAME, NFT_CMP_NEQ, &lo);
    if let Some(v6) = of.local.map(|a| a.is_ipv6()).or(of.v6) {
        e.meta(NFT_META_NFPROTO, NFT_CMP_EQ, &[nfproto(v6)]);
    }
    if let Some(local) = of.local {
        let offset = if local.is_ipv6() { 8 } else { 12 };
        e.payload(NFT_PAYLOAD_NETWORK_HEADER, offset, &octets(local));
    }
    e.meta(NFT_META_L4PROTO, NFT_CMP_EQ, &[IPPROTO_UDP]);
    e.payload(NFT_PAYLOAD_TRANSPORT_HEADER, 2, &of.port.to_be_bytes());
    e.notrack();
}

/// True if a table has the name of this one.
pub fn has_its_name(table: &Table) -> bool {
    table.backend == RuleStore::NfTables
        && table.family == TableFamily::Inet
        && *table.name == *NAME
}

/// The packets of a table that is exactly as [`replace`] creates it. `None` for a table with this name and other
/// contents: another program changed it, and it counts by its rules.
pub fn recognise(table: &Table) -> Option<Packets> {
    let base = Base {
        hook: Hook::Output,
        priority: NF_IP_PRI_RAW,
        nat: false,
        drops: false,
    };
    let [chain] = &table.chains[..] else {
        return None;
    };
    let as_made = has_its_name(table)
        && table.sets.is_empty()
        && *chain.name == *CHAIN
        && chain.base == Some(base)
        && chain.devices.is_empty();
    let packets: Packets = chain
        .rules
        .iter()
        .map(|rule| packets_of(&rule.exprs))
        .collect::<Option<_>>()?;
    (as_made && chain.rules == rules(&packets)).then_some(packets)
}

/// The packets of a rule. `None` unless the rule is exactly one that vxcsum writes for them.
fn packets_of(exprs: &[Expr]) -> Option<Untracked> {
    let mut loads = exprs.windows(2).filter_map(|two| match two {
        [
            Expr::Load { source, .. },
            Expr::Compare {
                op: Op::Eq, data, ..
            },
        ] => Some((*source, &**data)),
        _ => None,
    });
    let mut out = Untracked {
        v6: None,
        local: None,
        port: 0,
    };
    loads.try_for_each(|(source, data)| {
        match (source, data.len()) {
            (Source::Meta(NFT_META_NFPROTO), 1) => out.v6 = Some(data[0] == NFPROTO_IPV6),
            (Source::Network(_), 4) => out.local = Some(<[u8; 4]>::try_from(data).ok()?.into()),
            (Source::Network(_), 16) => out.local = Some(<[u8; 16]>::try_from(data).ok()?.into()),
            (Source::Transport(_), 2) => out.port = u16::from_be_bytes(data.try_into().ok()?),
            _ => {}
        }
        Some(())
    })?;
    Some(out)
}

/// The rules after writing and decoding.
fn rules(packets: &Packets) -> Vec<crate::nat::rules::Rule> {
    const NEWRULE: u16 = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWRULE;
    let written = replace(packets);
    messages(written.bytes())
        .flatten()
        .filter(|message| message.kind == NEWRULE)
        .filter_map(|message| expr::rule(&message, &NoNames).ok())
        .collect()
}

/// These rules refer to no chains and sets.
struct NoNames;

impl Names for NoNames {
    fn chain(&self, _: &[u8]) -> Option<u32> {
        None
    }

    fn set(&self, _: &[u8]) -> Option<u32> {
        None
    }
}

/// Removes the rules of this table from the analysis if vxcsum wrote them: the decision must be made as if the table
/// did not exist. Otherwise a device that the table cures would not need the table.
pub fn leave_out(tables: &mut [Table]) {
    for table in tables {
        if recognise(table).is_some() {
            // The table itself stays, because indices refer to tables.
            table.chains.iter_mut().for_each(Chain::clear);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::nft::{Get, Ruleset};

    type Spoil = fn(&mut Table);

    fn of(v6: Option<bool>, local: Option<&str>, port: u16) -> Untracked {
        Untracked {
            v6,
            local: local.map(|a| a.parse().unwrap()),
            port,
        }
    }

    fn all() -> Packets {
        [
            of(Some(false), Some("192.0.2.1"), 8472),
            of(Some(true), Some("2001:db8::1"), 8472),
            of(Some(false), None, 4789),
            of(Some(true), None, 4789),
            of(None, None, 4790),
        ]
        .into()
    }

    /// The table as a read returns it.
    fn read(requests: &Requests) -> Table {
        let mut rules = Ruleset::default();
        for message in messages(requests.bytes()).map(Result::unwrap) {
            let flags_of_creation = message.flags & crate::netlink::NLM_F_EXCL != 0;
            let get = match message.kind & 0xff {
                NFT_MSG_NEWTABLE if flags_of_creation => Get::Tables,
                NFT_MSG_NEWCHAIN => Get::Chains,
                NFT_MSG_NEWRULE => Get::Rules,
                _ => continue,
            };
            rules.add(get, &message).unwrap();
        }
        let [table] = rules.finish().try_into().unwrap();
        table
    }

    #[test]
    fn only_our_own_table_is_recognised() {
        let made = read(&replace(&all()));
        assert_eq!(recognise(&made), Some(all()));
        assert_eq!(
            recognise(&read(&replace(&Packets::new()))),
            Some(Packets::new())
        );
        let ways: [(&str, Spoil); 10] = [
            ("name", |t| t.name = b"other"[..].into()),
            ("family", |t| t.family = TableFamily::Ip),
            ("backend", |t| t.backend = RuleStore::Legacy),
            ("chain", |t| t.chains.push(t.chains[0].clone())),
            ("policy", |t| {
                t.chains[0].base.as_mut().unwrap().drops = true;
            }),
            ("priority", |t| {
                t.chains[0].base.as_mut().unwrap().priority = 0;
            }),
            ("rule twice", |t| {
                let rule = t.chains[0].rules[0].clone();
                t.chains[0].rules.push(rule);
            }),
            ("comment", |t| t.chains[0].rules[0].comment = None),
            ("no notrack", |t| {
                let exprs = &mut t.chains[0].rules[0].exprs;
                *exprs = exprs[..exprs.len() - 1].into();
            }),
            ("another match", |t| {
                let mut exprs = t.chains[0].rules[0].exprs.to_vec();
                exprs.insert(0, Expr::Maybe("limit".into()));
                t.chains[0].rules[0].exprs = exprs.into();
            }),
        ];
        for (what, spoil) in ways {
            let mut changed = made.clone();
            spoil(&mut changed);
            assert_eq!(recognise(&changed), None, "{what}");
        }
    }

    #[test]
    fn a_table_that_was_changed_stays_in_the_way() {
        let made = read(&replace(&all()));
        let mut changed = made.clone();
        changed.chains[0].rules.truncate(1);
        changed.chains[0].rules[0].exprs = [Expr::Untrack].into();
        let mut tables = [made, changed.clone()];
        leave_out(&mut tables);
        assert!(tables[0].chains[0].rules.is_empty());
        assert_eq!(tables[1], changed);
    }

    /// The rules match the commands for users.
    #[test]
    fn a_rule_is_quoted_as_the_command_that_makes_it() {
        let rules = crate::nat::rules::NatRules {
            tables: vec![read(&replace(&all()))],
            ..Default::default()
        };
        let quoted = crate::nat::exposure::quoted(&rules);
        let wanted: Vec<String> = all()
            .iter()
            .map(|of| format!("inet vxcsum output {} comment \"{COMMENT}\"", of.rule()))
            .collect();
        assert_eq!(quoted, wanted);
    }
}
