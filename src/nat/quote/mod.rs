//! Rules as iptables-save(8) and nft(8) print them, safe for a terminal.
//!
//! Owns the quoting. Leaves out what the model does not have: counters, and the options of an unknown match. Pure.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::fmt::Write as _;

use crate::nat::rules::{
    Chain, Expr, IpsetUpdate, Match, NAT_PERSISTENT, NAT_RANDOM, NAT_RANDOM_FULLY, Nat, NatKind,
    NatRules, Reg, Rule, RuleStore, Side, Source, Table, TableFamily,
};
use crate::text::escape;

mod iptables;
mod nft;

use iptables::Iptables;
use nft::Nft;

/// One rule of a chain, in the syntax of the tool that most likely created it.
pub fn rule(table: &Table, chain: &Chain, index: usize, rules: &NatRules) -> String {
    let Some(rule) = chain.rules.get(index) else {
        return String::new();
    };
    if let Some(text) = iptables(table, rule, rules) {
        return format!("-A {}{text}", escape(&chain.name));
    }
    let text = Nft::new(table, rules).rule(rule);
    format!(
        "{} {} {}{text}",
        table.family.word(),
        escape(&table.name),
        escape(&chain.name)
    )
}

/// A rule in iptables syntax, without its chain. `None` if iptables did not create it.
pub fn iptables(table: &Table, rule: &Rule, rules: &NatRules) -> Option<String> {
    if table.backend != RuleStore::Legacy && !made_by_iptables(table) {
        return None;
    }
    Iptables::new(table, rules).rule(rule)
}

fn made_by_iptables(table: &Table) -> bool {
    let name = [&b"nat"[..], b"mangle", b"raw", b"filter", b"security"];
    matches!(table.family, TableFamily::Ip | TableFamily::Ip6) && name.contains(&&*table.name)
}

fn chain_name(table: &Table, n: u32) -> String {
    let chain = table.chains.get(n as usize);
    chain.map_or_else(|| n.to_string(), |c| escape(&c.name))
}

fn not(invert: bool) -> &'static str {
    if invert { " !" } else { "" }
}

/// Text in double quotes, as iptables quotes a comment.
fn quoted(bytes: &[u8]) -> String {
    let text = escape(bytes);
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("\"{}\"", text.replace('"', "\\\"").replace('\'', "\\'"))
    }
}

fn prefix(address: IpAddr, mask: IpAddr) -> String {
    let (ones, len, plain) = match mask {
        IpAddr::V4(m) => {
            let n = m.to_bits().leading_ones();
            (n, 32, m.to_bits().checked_shl(n).unwrap_or(0) == 0)
        }
        IpAddr::V6(m) => {
            let n = m.to_bits().leading_ones();
            (n, 128, m.to_bits().checked_shl(n).unwrap_or(0) == 0)
        }
    };
    if plain && ones <= len {
        format!("{address}/{ones}")
    } else {
        format!("{address}/{mask}")
    }
}

fn ports((low, high): (u16, u16), between: &str) -> String {
    if low == high {
        low.to_string()
    } else {
        format!("{low}{between}{high}")
    }
}

fn protocol(n: u8) -> String {
    match n {
        1 => "icmp".into(),
        6 => "tcp".into(),
        17 => "udp".into(),
        50 => "esp".into(),
        51 => "ah".into(),
        58 => "ipv6-icmp".into(),
        132 => "sctp".into(),
        n => n.to_string(),
    }
}

fn address_types(mask: u16) -> String {
    const NAMES: [&str; 12] = [
        "UNSPEC",
        "UNICAST",
        "LOCAL",
        "BROADCAST",
        "ANYCAST",
        "MULTICAST",
        "BLACKHOLE",
        "UNREACHABLE",
        "PROHIBIT",
        "THROW",
        "NAT",
        "XRESOLVE",
    ];
    let on = NAMES.iter().enumerate().filter(|(n, _)| mask >> n & 1 == 1);
    on.map(|(_, s)| *s).collect::<Vec<_>>().join(",")
}

fn states(mask: u16) -> String {
    const NAMES: [(u16, &str); 7] = [
        (1, "INVALID"),
        (8, "NEW"),
        (4, "RELATED"),
        (2, "ESTABLISHED"),
        (0x100, "UNTRACKED"),
        (0x40, "SNAT"),
        (0x80, "DNAT"),
    ];
    let on = NAMES.iter().filter(|(bit, _)| mask & bit != 0);
    on.map(|(_, s)| *s).collect::<Vec<_>>().join(",")
}

/// `-m addrtype`.
fn addrtype(m: &Match) -> String {
    let Match::Addrtype {
        source,
        destination,
        invert_source,
        invert_destination,
        limit,
    } = m
    else {
        return String::new();
    };
    let mut out = " -m addrtype".to_string();
    for (mask, invert, flag) in [
        (source, invert_source, "--src-type"),
        (destination, invert_destination, "--dst-type"),
    ] {
        if *mask != 0 {
            let _ = write!(out, "{} {flag} {}", not(*invert), address_types(*mask));
        }
    }
    match limit {
        Some(Side::Source) => out.push_str(" --limit-iface-in"),
        Some(Side::Destination) => out.push_str(" --limit-iface-out"),
        None => {}
    }
    out
}

fn condition(m: &Match, rules: &NatRules) -> String {
    match m {
        Match::Address {
            side,
            address,
            mask,
            invert,
        } => {
            let flag = if *side == Side::Source { "-s" } else { "-d" };
            format!("{} {flag} {}", not(*invert), prefix(*address, *mask))
        }
        Match::Interface {
            side,
            prefix,
            invert,
        } => {
            let flag = if *side == Side::Source { "-i" } else { "-o" };
            let name = match prefix.strip_suffix(&[0]) {
                Some(name) => escape(name),
                None => format!("{}+", escape(prefix)),
            };
            format!("{} {flag} {name}", not(*invert))
        }
        Match::Protocol { number, invert } => format!("{} -p {}", not(*invert), protocol(*number)),
        Match::Header(what) => format!(" [{what}]"),
        Match::Comment(text) => format!(" -m comment --comment {}", quoted(text)),
        Match::Mark {
            value,
            mask,
            invert,
        } => {
            format!(" -m mark{} --mark {}", not(*invert), masked(*value, *mask))
        }
        Match::Addrtype { .. } => addrtype(m),
        Match::State {
            states: mask,
            invert,
        } => {
            format!(" -m conntrack{} --ctstate {}", not(*invert), states(*mask))
        }
        Match::Ports {
            protocol: p,
            source,
            destination,
            invert_source,
            invert_destination,
            more,
        } => {
            let mut out = format!(" -m {}", protocol(*p));
            for (range, invert, flag) in [
                (source, invert_source, "--sport"),
                (destination, invert_destination, "--dport"),
            ] {
                if *range != (0, u16::MAX) || *invert {
                    let _ = write!(out, "{} {flag} {}", not(*invert), ports(*range, ":"));
                }
            }
            if *more {
                out.push_str(" [...]");
            }
            out
        }
        Match::Multiport {
            side,
            ranges,
            invert,
        } => {
            let flag = match side {
                Some(Side::Source) => "--sports",
                Some(Side::Destination) => "--dports",
                None => "--ports",
            };
            let list: Vec<String> = ranges.iter().map(|&r| ports(r, ":")).collect();
            format!(" -m multiport{} {flag} {}", not(*invert), list.join(","))
        }
        Match::Set {
            index,
            sides,
            invert,
            ..
        } => {
            let set = ipset(*index, sides, rules);
            format!(" -m set{} --match-set {set}", not(*invert))
        }
        Match::Other(text) => format!(" -m {}", escape(text.as_bytes())),
    }
}

/// An ipset, and the sides that are compared with its members.
fn ipset(index: u16, sides: &[Side], rules: &NatRules) -> String {
    let name = rules.ipsets.iter().find(|s| s.index == index);
    let name = name.map_or_else(|| format!("[{index}]"), |s| escape(&s.name));
    let sides: Vec<&str> = sides
        .iter()
        .map(|s| if *s == Side::Source { "src" } else { "dst" })
        .collect();
    format!("{name} {}", sides.join(","))
}

/// The target SET.
fn set_target(updates: &[IpsetUpdate], options: &str, rules: &NatRules) -> String {
    let mut out = String::from(" -j SET");
    for u in updates {
        let _ = write!(out, " {} {}", u.option, ipset(u.index, &u.sides, rules));
    }
    out + options
}

fn masked(value: u32, mask: u32) -> String {
    if mask == u32::MAX {
        format!("{value:#x}")
    } else {
        format!("{value:#x}/{mask:#x}")
    }
}

fn bracketed(a: IpAddr, port: bool) -> String {
    match a {
        IpAddr::V6(a) if port => format!("[{a}]"),
        a => a.to_string(),
    }
}

fn to_address(nat: &Nat) -> String {
    let mut out = String::new();
    if let Some((low, high)) = nat.addresses {
        out = bracketed(low, nat.ports.is_some());
        if high != low {
            let _ = write!(out, "-{}", bracketed(high, nat.ports.is_some()));
        }
    }
    if let Some(p) = nat.ports {
        let _ = write!(out, ":{}", ports(p, "-"));
    }
    out
}

/// The text after `-j` for a NAT target.
fn target(nat: &Nat) -> String {
    let mut out = match nat.kind {
        NatKind::Masquerade => " -j MASQUERADE".to_string(),
        NatKind::Redirect => " -j REDIRECT".to_string(),
        NatKind::Snat => format!(" -j SNAT --to-source {}", to_address(nat)),
        NatKind::Dnat => format!(" -j DNAT --to-destination {}", to_address(nat)),
        NatKind::Netmap => " -j NETMAP".to_string(),
    };
    if let (NatKind::Masquerade | NatKind::Redirect, Some(p)) = (nat.kind, nat.ports) {
        let _ = write!(out, " --to-ports {}", ports(p, "-"));
    }
    for (flag, word) in [
        (NAT_RANDOM, " --random"),
        (NAT_RANDOM_FULLY, " --random-fully"),
        (NAT_PERSISTENT, " --persistent"),
    ] {
        if nat.flags & flag != 0 {
            out.push_str(word);
        }
    }
    out
}

/// The source of the value in a register.
#[derive(Clone)]
struct Symbol {
    reg: Reg,
    len: u8,
    what: What,
    mask: Option<Box<[u8]>>,
    xor: Box<[u8]>,
}

#[derive(Clone)]
enum What {
    From(Source),
    Value(Box<[u8]>),
    Mapped(String),
}

fn follow(symbols: &mut Vec<Symbol>, e: &Expr) {
    let fresh = |reg, len, what| Symbol {
        reg,
        len,
        what,
        mask: None,
        xor: Box::default(),
    };
    let symbol = match e {
        Expr::Load { to, source, len } => fresh(*to, *len, What::From(*source)),
        Expr::Immediate { to, data } => fresh(
            *to,
            u8::try_from(data.len()).unwrap_or(u8::MAX),
            What::Value(data.clone()),
        ),
        Expr::Bitwise {
            from,
            to,
            mask,
            xor,
        } => {
            let Some(mut s) = symbols.iter().find(|s| s.reg == *from).cloned() else {
                return;
            };
            s.reg = *to;
            s.mask = Some(mask.clone());
            s.xor.clone_from(xor);
            s
        }
        _ => return,
    };
    symbols.retain(|s| s.reg != symbol.reg);
    symbols.push(symbol);
}

/// The name of an interface in a comparison. A name without its NUL is the beginning of a name; the text then ends in
/// `any`.
fn interface(data: &[u8], any: &str) -> String {
    let name = data.split(|b| *b == 0).next().unwrap_or_default();
    let any = if name.len() == data.len() && data.len() < 16 {
        any
    } else {
        ""
    };
    format!("{}{any}", escape(name))
}

fn native(data: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(data.try_into().ok()?))
}

/// An address whose prefix is compared, with a mask or with fewer bytes.
fn network(data: &[u8], mask: Option<&[u8]>, v6: bool) -> Option<String> {
    fn fill<const N: usize>(from: &[u8]) -> Option<[u8; N]> {
        let mut out = [0; N];
        out.get_mut(..from.len())?.copy_from_slice(from);
        Some(out)
    }
    let mask = mask.map_or_else(|| vec![255; data.len()], <[u8]>::to_vec);
    Some(if v6 {
        prefix(
            Ipv6Addr::from(fill::<16>(data)?).into(),
            Ipv6Addr::from(fill::<16>(&mask)?).into(),
        )
    } else {
        prefix(
            Ipv4Addr::from(fill::<4>(data)?).into(),
            Ipv4Addr::from(fill::<4>(&mask)?).into(),
        )
    })
}
