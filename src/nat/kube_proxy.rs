//! What the rules of kube-proxy do with the mark of masqueraded packets.
//!
//! Owns the detection of these rules, and the command that removes a rule of an old version. Pure.

use super::machine::RuleRef;
use super::quote;
use super::rules::{
    Chain, Expr, Match, NAT_PERSISTENT, NAT_PROTO_SPECIFIED, NAT_RANDOM, NAT_RANDOM_FULLY, NatKind,
    NatRules, Rule, RuleStore, Source, TableFamily,
};
use crate::text::escape;

/// `NF_NAT_RANGE_MAP_IPS`: the target gives addresses.
const NAT_MAP_ADDRESSES: u32 = 1;
/// `NFT_META_MARK`.
const META_MARK: u32 = 3;
/// The chain in which kube-proxy masquerades, with iptables and with nft.
const CHAINS: [&[u8]; 2] = [b"KUBE-POSTROUTING", b"masquerading"];

codes! {
    /// What the rules of kube-proxy do with the mark of masqueraded packets.
    pub enum KubeProxy {
        /// No rules of kube-proxy exist, or none could be read.
        Absent = "absent",
        /// They clear the mark first, as since 1.16.13, 1.17.9 and 1.18.6.
        ClearsMark = "clears-mark",
        /// They keep the mark, so the outer packet has it too.
        KeepsMark = "keeps-mark",
    }
}

/// Looks at every table with rules of kube-proxy, so rules that an old version left behind count.
pub fn kube_proxy(rules: &NatRules) -> KubeProxy {
    let mut found = KubeProxy::Absent;
    for (_, chain) in chains(rules) {
        let masquerades = masquerades(chain);
        if masquerades.iter().any(|(_, cleared)| !cleared) {
            return KubeProxy::KeepsMark;
        }
        if !masquerades.is_empty() {
            found = KubeProxy::ClearsMark;
        }
    }
    found
}

/// Rules that an old kube-proxy left behind: they masquerade and keep the mark, in a chain in which a newer version
/// clears it.
pub fn leftovers(rules: &NatRules) -> Vec<RuleRef> {
    let mut out = Vec::new();
    for ((table, number), chain) in chains(rules) {
        let masquerades = masquerades(chain);
        if masquerades.iter().any(|(_, cleared)| *cleared) {
            let kept = masquerades.iter().filter(|(_, cleared)| !cleared);
            out.extend(kept.map(|(rule, _)| RuleRef {
                table,
                chain: number,
                rule: *rule,
            }));
        }
    }
    out
}

/// The leftovers as text, each with the command that removes it, if there is one.
pub fn leftovers_quoted(rules: &NatRules) -> Vec<(String, Option<String>)> {
    let quoted = |at: RuleRef| {
        let table = &rules.tables[at.table];
        let chain = &table.chains[at.chain as usize];
        (
            quote::rule(table, chain, at.rule, rules),
            deletion(rules, at),
        )
    };
    leftovers(rules).into_iter().map(quoted).collect()
}

fn chains(rules: &NatRules) -> impl Iterator<Item = ((usize, u32), &Chain)> {
    rules.tables.iter().enumerate().flat_map(|(t, table)| {
        (0..)
            .zip(&table.chains)
            .filter(|(_, chain)| CHAINS.contains(&&*chain.name))
            .map(move |(c, chain)| ((t, c), chain))
    })
}

/// The rules of a chain that masquerade and test only the mark, and whether a rule before clears the mark.
fn masquerades(chain: &Chain) -> Vec<(usize, bool)> {
    let mut cleared = false;
    let mut out = Vec::new();
    for (n, rule) in chain.rules.iter().enumerate() {
        if !only_mark_decides(rule) {
            continue;
        }
        let mut here = cleared;
        for e in &rule.exprs {
            match e {
                Expr::Mark { .. } | Expr::SetMark { .. } => here = true,
                Expr::Nat(nat) if nat.kind == NatKind::Masquerade => out.push((n, here)),
                Expr::NatRegs(nat) if nat.kind == NatKind::Masquerade => out.push((n, here)),
                _ => {}
            }
        }
        cleared = here;
    }
    out
}

/// True if the rule tests nothing but the mark. A rule for pods that call themselves (`KUBE-LOOP-BACK`) is about other
/// packets.
fn only_mark_decides(rule: &Rule) -> bool {
    rule.exprs.iter().all(|e| match e {
        Expr::Match(m) => matches!(m, Match::Mark { .. } | Match::Comment(_)),
        Expr::Load { source, .. } => *source == Source::Meta(META_MARK),
        Expr::Lookup { .. } | Expr::Maybe(_) => false,
        _ => true,
    })
}

/// The command that deletes an iptables rule, safe to paste. `None` if a part of the rule cannot be written.
pub fn deletion(rules: &NatRules, at: RuleRef) -> Option<String> {
    let table = rules.tables.get(at.table)?;
    let chain = table.chains.get(at.chain as usize)?;
    let tool = match (table.family, table.backend) {
        (TableFamily::Ip, RuleStore::Legacy) => "iptables-legacy",
        (TableFamily::Ip6, RuleStore::Legacy) => "ip6tables-legacy",
        (TableFamily::Ip, RuleStore::NfTables) => "iptables-nft",
        (TableFamily::Ip6, RuleStore::NfTables) => "ip6tables-nft",
        _ => return None,
    };
    let rule = chain.rules.get(at.rule)?;
    let (mut bare, mut whole) = (Vec::new(), Vec::new());
    for e in &rule.exprs {
        if let Expr::Match(Match::Comment(text)) = e {
            // The comment must be written exactly.
            let text = format!("comment --comment {}", quoted_for_shell(text)?);
            whole.push(Expr::Match(Match::Other(text.into())));
        } else if written_in_full(e, rules) {
            bare.push(e.clone());
            whole.push(e.clone());
        } else {
            return None;
        }
    }
    let written = |exprs: Vec<Expr>| {
        let (exprs, comment) = (exprs.into(), None);
        quote::iptables(table, &Rule { exprs, comment }, rules)
    };
    let names = format!("{} {}", escape(&table.name), escape(&chain.name));
    if !(written(bare)? + &names).chars().all(plain_for_shell) {
        return None;
    }
    let (table, chain) = (escape(&table.name), escape(&chain.name));
    Some(format!("{tool} -t {table} -D {chain}{}", written(whole)?))
}

/// Characters that no shell changes. `!` is safe only as a word of its own.
fn plain_for_shell(c: char) -> bool {
    c.is_ascii_alphanumeric() || " !+,-./:=_".contains(c)
}

/// A comment in single quotes. `None` if iptables prints a character of it in another form.
fn quoted_for_shell(text: &[u8]) -> Option<String> {
    let text = str::from_utf8(text).ok()?;
    let printable = |c: char| matches!(c, ' '..='~') && !"'\\".contains(c);
    text.chars().all(printable).then(|| format!("'{text}'"))
}

/// True if the iptables syntax of an expression leaves nothing out.
fn written_in_full(e: &Expr, rules: &NatRules) -> bool {
    match e {
        Expr::Match(m) => match m {
            Match::Header(_) | Match::Other(_) => false,
            Match::Ports { more, .. } => !more,
            Match::Set { index, more, .. } => {
                !more && rules.ipsets.iter().any(|set| set.index == *index)
            }
            _ => true,
        },
        Expr::Nat(nat) => {
            let flags = NAT_PROTO_SPECIFIED | NAT_RANDOM | NAT_RANDOM_FULLY | NAT_PERSISTENT;
            nat.kind != NatKind::Netmap && nat.flags & !(flags | NAT_MAP_ADDRESSES) == 0
        }
        Expr::NatRegs(nat) => {
            nat.kind == NatKind::Masquerade
                && nat.port.is_none()
                && nat.flags & !(NAT_RANDOM | NAT_RANDOM_FULLY | NAT_PERSISTENT) == 0
        }
        Expr::Neutral(name) => &**name == "counter",
        Expr::Load { .. } | Expr::Bitwise { .. } | Expr::Compare { .. } | Expr::Range { .. } => {
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::rules::{Base, Hook, Nat, Table};

    fn masquerade() -> Expr {
        Expr::Nat(Nat {
            kind: NatKind::Masquerade,
            flags: NAT_RANDOM_FULLY,
            addresses: None,
            ports: None,
        })
    }

    fn marked(invert: bool) -> Expr {
        Expr::Match(Match::Mark {
            value: 0x4000,
            mask: 0x4000,
            invert,
        })
    }

    fn chain(name: &[u8], bodies: &[&[Expr]]) -> NatRules {
        let rules = bodies.iter().map(|b| Rule {
            exprs: (*b).into(),
            comment: None,
        });
        NatRules {
            tables: vec![Table {
                backend: RuleStore::Legacy,
                family: TableFamily::Ip,
                name: b"nat"[..].into(),
                chains: vec![Chain {
                    name: name.into(),
                    base: Some(Base {
                        hook: Hook::Postrouting,
                        priority: 100,
                        nat: true,
                        drops: false,
                    }),
                    rules: rules.collect(),
                    devices: Box::default(),
                }],
                sets: Vec::new(),
                goes_unannounced: false,
            }],
            ..NatRules::default()
        }
    }

    #[test]
    fn kube_proxy_and_the_mark() {
        let kept: &[Expr] = &[marked(false), masquerade()];
        let unless: &[Expr] = &[
            marked(true),
            Expr::Verdict(crate::nat::rules::Verdict::Return),
        ];
        let clear: &[Expr] = &[Expr::Mark {
            value: 0x4000,
            mask: 0,
        }];
        let all: &[Expr] = &[masquerade()];
        let hairpin: &[Expr] = &[Expr::Match(Match::Other("set".into())), masquerade()];
        for (what, bodies, expected, left) in [
            ("none", &[][..], KubeProxy::Absent, &[][..]),
            ("1.15", &[kept], KubeProxy::KeepsMark, &[]),
            ("patched", &[unless, clear, all], KubeProxy::ClearsMark, &[]),
            (
                "hairpin first",
                &[hairpin, unless, clear, all],
                KubeProxy::ClearsMark,
                &[],
            ),
            ("hairpin alone", &[hairpin], KubeProxy::Absent, &[]),
            (
                "left before",
                &[kept, unless, clear, all],
                KubeProxy::KeepsMark,
                &[0],
            ),
            ("1.29 with nft", &[unless, all], KubeProxy::KeepsMark, &[]),
        ] {
            let rules = chain(b"KUBE-POSTROUTING", bodies);
            assert_eq!(kube_proxy(&rules), expected, "{what}");
            let found: Vec<usize> = leftovers(&rules).iter().map(|at| at.rule).collect();
            assert_eq!(found, left, "{what}");
            assert_eq!(
                kube_proxy(&chain(b"X", bodies)),
                KubeProxy::Absent,
                "{what}"
            );
        }
    }

    #[test]
    fn the_command_that_deletes_a_rule() {
        let comment = |text: &str| Expr::Match(Match::Comment(text.as_bytes().into()));
        let at = RuleRef {
            table: 0,
            chain: 0,
            rule: 0,
        };
        for (name, exprs, expected) in [
            (
                &b"KUBE-POSTROUTING"[..],
                vec![comment("a $(id) `id` \"x\""), marked(false), masquerade()],
                Some(
                    "iptables-legacy -t nat -D KUBE-POSTROUTING -m comment --comment 'a $(id) `id` \"x\"' -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully",
                ),
            ),
            (b"X", vec![comment("it's"), masquerade()], None),
            (b"X", vec![comment("\u{1b}[2J"), masquerade()], None),
            (
                b"X",
                vec![Expr::Match(Match::Other("length".into())), masquerade()],
                None,
            ),
            (
                b"X",
                vec![Expr::Match(Match::Header("tos")), masquerade()],
                None,
            ),
            (b"X;reboot", vec![masquerade()], None),
        ] {
            let rules = chain(name, &[&exprs]);
            assert_eq!(deletion(&rules, at).as_deref(), expected, "{exprs:?}");
        }
        let mut rules = chain(b"POSTROUTING", &[&[masquerade()]]);
        for (family, backend, tool) in [
            (TableFamily::Ip6, RuleStore::NfTables, Some("ip6tables-nft")),
            (TableFamily::Ip, RuleStore::NfTables, Some("iptables-nft")),
            (TableFamily::Inet, RuleStore::NfTables, None),
        ] {
            (rules.tables[0].family, rules.tables[0].backend) = (family, backend);
            let expected = tool
                .map(|tool| format!("{tool} -t nat -D POSTROUTING -j MASQUERADE --random-fully"));
            assert_eq!(deletion(&rules, at), expected);
        }
        rules.tables[0].family = TableFamily::Ip;
        rules.tables[0].name = b"my table"[..].into();
        assert_eq!(
            deletion(&rules, at),
            None,
            "iptables does not make such a table"
        );
    }
}
