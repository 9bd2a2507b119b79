//! Rules in nft syntax.
//!
//! Owns the form of `nft list`: registers become the expressions that filled them. Pure.

use std::fmt::Write as _;

use super::{
    Symbol, What, address_types, chain_name, condition, follow, interface, native, network,
    protocol, states, target,
};
use crate::nat::rules::{
    Data, Element, Expr, MapTo, NAT_PERSISTENT, NAT_RANDOM, NAT_RANDOM_FULLY, NatKind, NatRegs,
    NatRules, Op, Reg, Rule, Set, Source, Table, TableFamily, Verdict,
};
#[allow(clippy::wildcard_imports)] // The kernel's names.
use crate::nat::uapi::*;
use crate::text::escape;

/// Writes a rule in nft syntax.
pub(super) struct Nft<'a> {
    table: &'a Table,
    rules: &'a NatRules,
    symbols: Vec<Symbol>,
}

impl<'a> Nft<'a> {
    pub(super) fn new(table: &'a Table, rules: &'a NatRules) -> Self {
        Self {
            table,
            rules,
            symbols: Vec::new(),
        }
    }

    pub(super) fn rule(&mut self, rule: &Rule) -> String {
        let mut out = String::new();
        let mut exprs = rule.exprs.iter().peekable();
        while let Some(e) = exprs.next() {
            let (from, low, high) = match (e, exprs.peek()) {
                (
                    Expr::Compare {
                        from,
                        op: Op::Ge,
                        data: low,
                    },
                    Some(Expr::Compare {
                        from: same,
                        op: Op::Le,
                        data: high,
                    }),
                ) if same == from => (from, low, high),
                _ => {
                    out.push_str(&self.statement(e));
                    continue;
                }
            };
            exprs.next();
            let (left, kind) = self.left(*from, low.len());
            let _ = write!(out, " {left} {}-{}", value(kind, low), value(kind, high));
        }
        // nft does not write the conditions that a field implies.
        for (implied, fields, by) in [
            ("meta nfproto ipv4 ", "ip ", "ip "),
            ("meta nfproto ipv6 ", "ip6 ", "ip6 "),
            ("meta l4proto udp ", "th ", "udp "),
            ("meta l4proto tcp ", "th ", "tcp "),
        ] {
            if let Some((before, after)) = out.split_once(implied)
                && ["sport", "dport", "saddr", "daddr"]
                    .iter()
                    .any(|f| after.contains(&format!("{fields}{f}")))
            {
                out = format!("{before}{}", after.replace(fields, by));
            }
        }
        if let Some(comment) = &rule.comment {
            let _ = write!(out, " comment \"{}\"", escape(comment).replace('"', "\\\""));
        }
        out
    }

    /// One statement with a space before it. Empty if it only fills registers.
    fn statement(&mut self, e: &Expr) -> String {
        let text = match e {
            Expr::Load { .. } | Expr::Immediate { .. } | Expr::Bitwise { .. } => {
                follow(&mut self.symbols, e);
                String::new()
            }
            Expr::Match(m) => format!("xt match{}", condition(m, self.rules)),
            Expr::Nat(nat) => format!("xt target{}", target(nat)),
            Expr::Mark { value, mask } => {
                format!("xt target -j MARK --set-xmark {value:#x}/{mask:#x}")
            }
            Expr::Connmark(_) | Expr::SetConnmark { .. } => "ct mark set ...".into(),
            Expr::UpdateIpsets { updates, options } => {
                format!(
                    "xt target{}",
                    super::set_target(updates, options, self.rules)
                )
            }
            Expr::UpdateSet { set } => match set.and_then(|n| self.table.sets.get(n as usize)) {
                Some(set) => format!("update @{} {{ ... }}", escape(&set.name)),
                None => "update @... { ... }".into(),
            },
            Expr::Verdict(v) => self.verdict(*v),
            Expr::NatRegs(n) => self.nat(n),
            Expr::Untrack => "notrack".into(),
            Expr::Template => "ct zone set [...]".into(),
            Expr::Neutral(name)
            | Expr::Maybe(name)
            | Expr::Opaque(name)
            | Expr::Copy(name)
            | Expr::Write(name)
            | Expr::Forward(name) => escape(name.as_bytes()),
            Expr::Compare { from, op, data } => {
                let word = match op {
                    Op::Eq => "",
                    Op::Ne => "!= ",
                    Op::Lt => "< ",
                    Op::Le => "<= ",
                    Op::Gt => "> ",
                    Op::Ge => ">= ",
                };
                let (left, kind) = self.left(*from, data.len());
                if let (Some(Source::Ct(NFT_CT_STATE)), Op::Ne, Some(mask)) =
                    (kind, op, self.mask(*from))
                {
                    return format!(
                        " ct state {}",
                        states(u16::try_from(mask).unwrap_or(0)).to_lowercase()
                    );
                }
                // A comparison with a masked value is written in full.
                let word = if word.is_empty() && left.contains('&') {
                    "== "
                } else {
                    word
                };
                format!("{left} {word}{}", value(kind, data))
            }
            Expr::Range {
                from,
                invert,
                low,
                high,
            } => {
                let (left, kind) = self.left(*from, low.len());
                let word = if *invert { "!= " } else { "" };
                format!("{left} {word}{}-{}", value(kind, low), value(kind, high))
            }
            Expr::Lookup {
                from,
                set,
                to,
                invert,
            } => self.lookup(*from, *set, *to, *invert),
            Expr::SetMark { from } => format!("meta mark set {}", self.assigned(*from)),
        };
        if text.is_empty() {
            text
        } else {
            format!(" {text}")
        }
    }

    fn verdict(&self, v: Verdict) -> String {
        match v {
            Verdict::Accept => "accept".into(),
            Verdict::Drop => "drop".into(),
            Verdict::Queue(None) => "queue".into(),
            Verdict::Queue(Some(q)) => {
                let flags = [(q.bypass, "bypass"), (q.fanout, "fanout")];
                let on: Vec<&str> = flags.iter().filter(|f| f.0).map(|f| f.1).collect();
                let flags = if on.is_empty() { "" } else { " flags " };
                let to = super::ports((q.first, q.last), "-");
                format!("queue{flags}{} to {to}", on.join(","))
            }
            Verdict::Return => "return".into(),
            Verdict::Continue => String::new(),
            Verdict::Jump(n) => format!("jump {}", chain_name(self.table, n)),
            Verdict::Goto(n) => format!("goto {}", chain_name(self.table, n)),
        }
    }

    /// The source of the registers from here on, joined by dots if there are several.
    fn left(&self, from: Reg, len: usize) -> (String, Option<Source>) {
        let mut parts = Vec::new();
        let mut kind = None;
        let mut at = usize::from(from);
        let end = at + len.max(1);
        while at < end {
            let Some(s) = self.symbols.iter().find(|s| usize::from(s.reg) == at) else {
                break;
            };
            if let What::From(source) = s.what {
                kind = Some(source);
            }
            parts.push(self.expression(s));
            at += usize::from(s.len.max(1)).next_multiple_of(4);
        }
        if parts.len() > 1 {
            kind = None;
        }
        if parts.is_empty() {
            parts.push("...".into());
        }
        (parts.join(" . "), kind)
    }

    fn mask(&self, reg: Reg) -> Option<u32> {
        let s = self.symbols.iter().find(|s| s.reg == reg)?;
        native(s.mask.as_deref()?)
    }

    fn expression(&self, s: &Symbol) -> String {
        let name = match &s.what {
            What::From(source) => source_words(*source, self.table.family),
            What::Value(v) => hex(v),
            What::Mapped(text) => text.clone(),
        };
        let is_address = matches!(s.what, What::From(Source::Network(_)));
        match &s.mask {
            Some(mask) if !is_address => match native(mask) {
                Some(m) => format!("{name} & {m:#010x}"),
                None => format!("{name} & {}", hex(mask)),
            },
            _ => name,
        }
    }

    /// The right side of `meta mark set`. nft writes `mark | bits` and `mark ^ bits` for the kernel's mask and xor.
    fn assigned(&self, from: Reg) -> String {
        let Some(s) = self.symbols.iter().find(|s| s.reg == from) else {
            return "...".into();
        };
        match (&s.what, s.mask.as_deref().and_then(native), native(&s.xor)) {
            (What::Value(v), ..) => native(v).map_or_else(|| hex(v), |v| format!("{v:#010x}")),
            (What::From(source), Some(mask), Some(xor)) => {
                let name = source_words(*source, self.table.family);
                if xor == 0 {
                    format!("{name} & {mask:#010x}")
                } else if mask == u32::MAX {
                    format!("{name} ^ {xor:#010x}")
                } else if mask == !xor {
                    format!("{name} | {xor:#010x}")
                } else {
                    format!("{name} & {mask:#010x} ^ {xor:#010x}")
                }
            }
            _ => self.expression(s),
        }
    }

    fn lookup(&mut self, from: Reg, set: Option<u32>, to: MapTo, invert: bool) -> String {
        let found = set.and_then(|n| self.table.sets.get(n as usize));
        let (left, kind) = self.left(from, found.map_or(1, |s| s.key_len as usize));
        let name = match found {
            Some(s) if s.anonymous => self.members(s, kind),
            Some(s) => format!("@{}", escape(&s.name)),
            None => "@...".into(),
        };
        match to {
            MapTo::Nothing if invert => format!("{left} != {name}"),
            MapTo::Nothing => format!("{left} {name}"),
            MapTo::Verdict => format!("{left} vmap {name}"),
            MapTo::Reg(r) => {
                let what = What::Mapped(format!("{left} map {name}"));
                self.symbols.retain(|s| s.reg != r);
                self.symbols.push(Symbol {
                    reg: r,
                    len: 4,
                    what,
                    mask: None,
                    xor: Box::default(),
                });
                String::new()
            }
        }
    }

    /// The first members of an anonymous set.
    fn members(&self, set: &Set, kind: Option<Source>) -> String {
        const MAX_SHOWN: usize = 4;
        let mut all: Vec<&Element> = set.elements.iter().flatten().collect();
        all.sort_by_key(|e| &e.key);
        let mut words: Vec<String> = all
            .iter()
            .take(MAX_SHOWN)
            .map(|e| {
                let key = value(kind, &e.key);
                match &e.data {
                    Data::Verdict(v) => format!("{key} : {}", self.verdict(*v)),
                    _ => key,
                }
            })
            .collect();
        if all.len() > MAX_SHOWN || set.elements.is_none() {
            words.push("...".into());
        }
        format!("{{ {} }}", words.join(", "))
    }

    fn nat(&self, n: &NatRegs) -> String {
        let mut out = match n.kind {
            NatKind::Masquerade => "masquerade",
            NatKind::Redirect => "redirect",
            NatKind::Snat => "snat",
            NatKind::Dnat => "dnat",
            NatKind::Netmap => "netmap",
        }
        .to_string();
        let of = |reg: Reg| self.symbols.iter().find(|s| s.reg == reg);
        if let Some((low, high)) = n.address {
            let one = |r| match of(r) {
                Some(Symbol {
                    what: What::Value(v),
                    ..
                }) => network(v, None, v.len() == 16)
                    .map(|a| a.split('/').next().unwrap_or("").to_string()),
                Some(s) => Some(self.expression(s)),
                None => None,
            };
            let low_text = one(low).unwrap_or_else(|| "...".into());
            let _ = write!(out, " to {low_text}");
            if low != high {
                let _ = write!(out, "-{}", one(high).unwrap_or_else(|| "...".into()));
            }
        }
        if let Some((low, high)) = n.port {
            let one = |r| match of(r) {
                Some(Symbol {
                    what: What::Value(v),
                    ..
                }) if v.len() == 2 => u16::from_be_bytes([v[0], v[1]]).to_string(),
                _ => "...".into(),
            };
            let to = if n.address.is_some() { ":" } else { " to :" };
            let _ = write!(out, "{to}{}", one(low));
            if low != high {
                let _ = write!(out, "-{}", one(high));
            }
        }
        let flags = [
            (NAT_RANDOM, "random"),
            (NAT_RANDOM_FULLY, "fully-random"),
            (NAT_PERSISTENT, "persistent"),
        ];
        let on: Vec<&str> = flags
            .iter()
            .filter(|(f, _)| n.flags & f != 0)
            .map(|f| f.1)
            .collect();
        if !on.is_empty() {
            let _ = write!(out, " {}", on.join(","));
        }
        out
    }
}

fn source_words(source: Source, family: TableFamily) -> String {
    let v6 = family == TableFamily::Ip6;
    match source {
        Source::Meta(key) => match key {
            NFT_META_PROTOCOL => "meta protocol".into(),
            NFT_META_MARK => "meta mark".into(),
            NFT_META_IIF => "iif".into(),
            NFT_META_OIF => "oif".into(),
            NFT_META_IIFNAME => "iifname".into(),
            NFT_META_OIFNAME => "oifname".into(),
            NFT_META_SKUID => "meta skuid".into(),
            NFT_META_SKGID => "meta skgid".into(),
            NFT_META_NFPROTO => "meta nfproto".into(),
            NFT_META_L4PROTO => "meta l4proto".into(),
            NFT_META_PKTTYPE => "meta pkttype".into(),
            NFT_META_OIFGROUP => "oifgroup".into(),
            NFT_META_CGROUP => "meta cgroup".into(),
            n => format!("meta [{n}]"),
        },
        Source::Ct(NFT_CT_STATE) => "ct state".into(),
        Source::Ct(NFT_CT_STATUS) => "ct status".into(),
        Source::Ct(NFT_CT_MARK) => "ct mark".into(),
        Source::Ct(n) => format!("ct [{n}]"),
        Source::Network(9) if !v6 => "ip protocol".into(),
        Source::Network(12) if !v6 => "ip saddr".into(),
        Source::Network(16) if !v6 => "ip daddr".into(),
        Source::Network(6) => "ip6 nexthdr".into(),
        Source::Network(8) => "ip6 saddr".into(),
        Source::Network(24) => "ip6 daddr".into(),
        Source::Network(n) => format!("@nh,{},...", u32::from(n) * 8),
        Source::Transport(0) => "th sport".into(),
        Source::Transport(2) => "th dport".into(),
        Source::Transport(n) => format!("@th,{},...", u32::from(n) * 8),
        Source::FibSaddrType => "fib saddr type".into(),
        Source::FibDaddrType => "fib daddr type".into(),
        Source::Other(what) => what.into(),
    }
}

fn hex(data: &[u8]) -> String {
    data.iter().fold("0x".to_string(), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

/// The right side of a comparison.
fn value(kind: Option<Source>, data: &[u8]) -> String {
    let number = || native(data);
    match kind {
        Some(Source::Meta(NFT_META_IIFNAME | NFT_META_OIFNAME)) => {
            format!("\"{}\"", interface(data, "*").replace('"', "\\\""))
        }
        Some(Source::Meta(NFT_META_MARK) | Source::Ct(NFT_CT_MARK)) => {
            number().map_or_else(|| hex(data), |n| format!("{n:#010x}"))
        }
        Some(Source::Meta(NFT_META_NFPROTO)) => match data {
            [NFPROTO_IPV4] => "ipv4".into(),
            [NFPROTO_IPV6] => "ipv6".into(),
            _ => hex(data),
        },
        Some(Source::Meta(NFT_META_L4PROTO) | Source::Network(6 | 9)) if data.len() == 1 => {
            protocol(data[0])
        }
        Some(Source::Meta(_) | Source::Ct(_)) => {
            number().map_or_else(|| hex(data), |n| n.to_string())
        }
        Some(Source::FibSaddrType | Source::FibDaddrType) => match number() {
            Some(n @ 0..12) => address_types(1 << n).to_lowercase(),
            _ => hex(data),
        },
        Some(Source::Network(12 | 16)) if data.len() <= 4 => {
            let text = network(data, None, false).unwrap_or_else(|| hex(data));
            text.strip_suffix("/32").map(String::from).unwrap_or(text)
        }
        Some(Source::Network(8 | 24)) => {
            let text = network(data, None, true).unwrap_or_else(|| hex(data));
            text.strip_suffix("/128").map(String::from).unwrap_or(text)
        }
        Some(Source::Transport(0 | 2)) if data.len() == 2 => {
            u16::from_be_bytes([data[0], data[1]]).to_string()
        }
        _ => hex(data),
    }
}
