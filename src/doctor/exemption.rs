//! How VXLAN packets are kept out of NAT: a rule that lets them leave the table of the rule that rewrites them.
//!
//! Owns whose a rule is, and the command in the syntax of its tool. It never edits a rule, nor a chain, that a program keeps.
//! Pure.

use crate::nat::exposure::{Exposed, NatChange};
use crate::nat::rules::{Chain, Hook, NatRules, RuleStore, Table, TableFamily};
use crate::text::escape;

/// Who keeps a rule, by the beginning of its chain's or its table's name.
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

/// The program that keeps a rule, if it is one that is known.
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

/// The commands that keep packets to this port out of the table of a rule; none where that would edit the table of a program
/// that keeps it, or where a name does not fit a command.
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
    // iptables calls the chains of its tables by the hooks' names. Everybody puts rules into those; nobody owns them.
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
