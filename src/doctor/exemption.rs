//! How to keep VXLAN packets out of NAT: a rule before the NAT rule lets them leave the table.
//!
//! Owns the names of programs that own rules, and the commands in the syntax of each tool. Never edits a rule or chain
//! that a program owns. Pure.

use crate::nat::exposure::{Exposed, NatChange};
use crate::nat::rules::{Chain, Hook, NatRules, RuleStore, Table, TableFamily};
use crate::text::escape;

/// Owners of rules, by the beginning of the name of a chain or table.
const OWNERS: [(&str, &str); 12] = [
    ("KUBE-", "kube-proxy"),
    ("kube-proxy", "kube-proxy"),
    ("FLANNEL-", "flannel"),
    ("flannel", "flannel"),
    ("cali", "Calico"),
    ("CILIUM", "Cilium"),
    ("CNI-", "a CNI plugin"),
    ("DOCKER", "Docker"),
    ("docker", "Docker"),
    ("NETAVARK", "netavark"),
    ("netavark", "netavark"),
    ("firewalld", "firewalld"),
];

/// The program that owns a rule. `None` if it is not known.
pub fn owner(rules: &NatRules, found: &Exposed) -> Option<&'static str> {
    let table = rules.tables.get(found.rule.at.table)?;
    let of = |name: &[u8]| {
        let mut owners = OWNERS.iter();
        owners.find(|(prefix, _)| name.starts_with(prefix.as_bytes()))
    };
    of(&found.rule.chain)
        .or_else(|| of(&table.name))
        .map(|(_, owner)| *owner)
}

/// The commands that let packets to this port leave the table before the rule. Empty if the rule's table belongs to a
/// program, or if a name is not safe in a command.
pub fn commands(rules: &NatRules, found: &Exposed, port: Option<u16>) -> Vec<String> {
    let (Some(table), Some(port)) = (rules.tables.get(found.rule.at.table), port) else {
        return Vec::new();
    };
    let hook = match found.change {
        NatChange::Destination => Hook::Output,
        _ => Hook::Postrouting,
    };
    let chains = table.chains.iter().filter(|chain| {
        let base = chain.base.as_ref();
        base.is_some_and(|base| base.nat && base.hook == hook)
    });
    chains
        .filter_map(|chain| command(table, chain, found, owner(rules, found), port))
        .collect()
}

fn command(
    table: &Table,
    chain: &Chain,
    found: &Exposed,
    owner: Option<&str>,
    port: u16,
) -> Option<String> {
    let (name, at) = (escape(&table.name), escape(&chain.name));
    let plain = |text: &str| {
        let mut chars = text.chars();
        !text.starts_with('-') && chars.all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    if !plain(&name) || !plain(&at) {
        return None;
    }
    // iptables names its chains after the hooks. All programs add rules to those; no program owns them.
    let iptables = name == "nat" && matches!(at.as_str(), "POSTROUTING" | "OUTPUT");
    let tool = match (table.family, table.backend, iptables) {
        (TableFamily::Ip, RuleStore::Legacy, _) => "iptables-legacy",
        (TableFamily::Ip6, RuleStore::Legacy, _) => "ip6tables-legacy",
        (TableFamily::Ip, RuleStore::NfTables, true) => "iptables-nft",
        (TableFamily::Ip6, RuleStore::NfTables, true) => "ip6tables-nft",
        (family, RuleStore::NfTables, _) if owner.is_none() => {
            let v6 = match family {
                TableFamily::Inet if found.v6 => "meta nfproto ipv6 ",
                TableFamily::Inet => "meta nfproto ipv4 ",
                _ => "",
            };
            let family = family.word();
            return Some(format!(
                "nft insert rule {family} {name} {at} {v6}udp dport {port} return"
            ));
        }
        _ => return None,
    };
    Some(format!(
        "{tool} -t {name} -I {at} 1 -p udp --dport {port} -j RETURN"
    ))
}
