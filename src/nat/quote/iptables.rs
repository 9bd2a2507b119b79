//! Rules in iptables syntax.
//!
//! Owns the form of iptables-save, also for the native expressions that iptables-nft puts into `nf_tables`. Pure.

use std::fmt::Write as _;

use super::{
    Symbol, What, chain_name, condition, follow, interface, masked, native, network, not, ports,
    protocol, set_target, target,
};
use crate::nat::rules::{
    Connmark, Expr, Nat, NatRules, Op, Queue, Rule, Source, Table, TableFamily, Verdict,
};
use crate::nat::uapi::{
    IPPROTO_TCP, IPPROTO_UDP, NFT_META_IIFNAME, NFT_META_L4PROTO, NFT_META_MARK, NFT_META_OIFNAME,
};
use crate::text::escape;

/// Writes a rule in iptables syntax, as iptables-nft does for the native expressions that it uses.
pub(super) struct Iptables<'a> {
    table: &'a Table,
    rules: &'a NatRules,
    symbols: Vec<Symbol>,
    module: &'static str,
}

impl<'a> Iptables<'a> {
    pub(super) fn new(table: &'a Table, rules: &'a NatRules) -> Self {
        Self {
            table,
            rules,
            symbols: Vec::new(),
            module: "",
        }
    }

    /// `None` if iptables has no syntax for a part of the rule.
    pub(super) fn rule(mut self, rule: &Rule) -> Option<String> {
        // iptables-save prints the parts of the header first, in this order.
        let mut header: [String; 5] = Default::default();
        let mut out = String::new();
        let mut put = |out: &mut String, text: String| {
            let flag = text.trim_start_matches(" !").get(..4).unwrap_or("");
            match [" -s ", " -d ", " -i ", " -o ", " -p "]
                .iter()
                .position(|f| *f == flag)
            {
                Some(n) => header[n] = text,
                None => out.push_str(&text),
            }
        };
        for e in &rule.exprs {
            match e {
                Expr::Match(m) => put(&mut out, condition(m, self.rules)),
                Expr::Verdict(v) => {
                    let text = match v {
                        Verdict::Accept => " -j ACCEPT".to_string(),
                        Verdict::Drop => " -j DROP".to_string(),
                        Verdict::Queue(None) => " -j QUEUE".to_string(),
                        Verdict::Queue(Some(q)) => nfqueue(*q),
                        Verdict::Return => " -j RETURN".to_string(),
                        Verdict::Continue => String::new(),
                        Verdict::Jump(n) => format!(" -j {}", chain_name(self.table, *n)),
                        Verdict::Goto(n) => format!(" -g {}", chain_name(self.table, *n)),
                    };
                    out.push_str(&text);
                }
                Expr::Mark { value, mask } => {
                    let _ = write!(out, " -j MARK --set-xmark {value:#x}/{mask:#x}");
                }
                Expr::Connmark(c) => match c {
                    Connmark::Set { value, ctmask } => {
                        let _ = write!(out, " -j CONNMARK --set-xmark {value:#x}/{ctmask:#x}");
                    }
                    Connmark::Save { ctmask, nfmask } => {
                        let _ = write!(
                            out,
                            " -j CONNMARK --save-mark --nfmask {nfmask:#x} --ctmask {ctmask:#x}"
                        );
                    }
                    Connmark::Restore { ctmask, mask } => {
                        let _ = write!(
                            out,
                            " -j CONNMARK --restore-mark --nfmask {mask:#x} --ctmask {ctmask:#x}"
                        );
                    }
                },
                Expr::UpdateIpsets { updates, options } => {
                    out.push_str(&set_target(updates, options, self.rules));
                }
                Expr::Nat(nat) => out.push_str(&target(nat)),
                Expr::NatRegs(n)
                    if rule
                        .exprs
                        .iter()
                        .all(|e| !matches!(e, Expr::Immediate { .. })) =>
                {
                    out.push_str(&target(&Nat {
                        kind: n.kind,
                        flags: n.flags,
                        addresses: None,
                        ports: None,
                    }));
                }
                Expr::Untrack => out.push_str(" -j CT --notrack"),
                Expr::Template => out.push_str(" -j CT [...]"),
                Expr::Neutral(name) if &**name == "counter" => {}
                Expr::Neutral(name) | Expr::Opaque(name) | Expr::Copy(name) | Expr::Write(name) => {
                    let _ = write!(out, " -j {}", escape(name.as_bytes()));
                }
                Expr::Maybe(name) if &**name == "limit" => out.push_str(" -m limit [...]"),
                Expr::Load { .. } | Expr::Bitwise { .. } => follow(&mut self.symbols, e),
                Expr::Compare {
                    from,
                    op: op @ (Op::Eq | Op::Ne),
                    data,
                } => {
                    let s = self.symbols.iter().find(|s| s.reg == *from)?.clone();
                    put(&mut out, self.compare(&s, *op == Op::Ne, data)?);
                }
                Expr::Range {
                    from,
                    invert,
                    low,
                    high,
                } => {
                    let s = self.symbols.iter().find(|s| s.reg == *from)?;
                    let What::From(Source::Transport(at @ (0 | 2))) = s.what else {
                        return None;
                    };
                    let number = |b: &[u8]| Some(u16::from_be_bytes(b.try_into().ok()?));
                    let flag = if at == 0 { "--sport" } else { "--dport" };
                    let range = ports((number(low)?, number(high)?), ":");
                    let _ = write!(out, " -m {}{} {flag} {range}", self.module, not(*invert));
                }
                _ => return None,
            }
        }
        Some(header.concat() + &out)
    }

    fn compare(&mut self, s: &Symbol, invert: bool, data: &[u8]) -> Option<String> {
        let What::From(source) = s.what else {
            return None;
        };
        let n = not(invert);
        Some(match source {
            Source::Meta(NFT_META_MARK) => {
                let mask = s.mask.as_deref().map_or(Some(u32::MAX), native)?;
                format!(" -m mark{n} --mark {}", masked(native(data)?, mask))
            }
            Source::Meta(key @ (NFT_META_IIFNAME | NFT_META_OIFNAME)) => {
                let flag = if key == NFT_META_IIFNAME { "-i" } else { "-o" };
                format!("{n} {flag} {}", interface(data, "+"))
            }
            Source::Meta(NFT_META_L4PROTO) => {
                self.module = match data {
                    [IPPROTO_TCP] => "tcp",
                    [IPPROTO_UDP] => "udp",
                    _ => "",
                };
                format!("{n} -p {}", protocol(*data.first()?))
            }
            Source::Network(at) => {
                let v6 = self.table.family == TableFamily::Ip6;
                let flag = match (v6, at) {
                    (false, 12) | (true, 8) => "-s",
                    (false, 16) | (true, 24) => "-d",
                    _ => return None,
                };
                format!("{n} {flag} {}", network(data, s.mask.as_deref(), v6)?)
            }
            Source::Transport(at @ (0 | 2)) if data.len() == 2 && s.mask.is_none() => {
                let flag = if at == 0 { "--sport" } else { "--dport" };
                let port = u16::from_be_bytes(data.try_into().ok()?);
                format!(" -m {}{n} {flag} {port}", self.module)
            }
            _ => return None,
        })
    }
}

/// The target NFQUEUE.
fn nfqueue(q: Queue) -> String {
    let mut out = if q.first == q.last {
        format!(" -j NFQUEUE --queue-num {}", q.first)
    } else {
        format!(" -j NFQUEUE --queue-balance {}:{}", q.first, q.last)
    };
    for (on, word) in [
        (q.bypass, " --queue-bypass"),
        (q.fanout, " --queue-cpu-fanout"),
    ] {
        if on {
            out.push_str(word);
        }
    }
    out
}
