//! Which bits of marks the rules of this namespace can set, and which they ask for.
//!
//! Owns what is assumed of a packet's mark before its way begins. Pure.

use super::bits::Mark;
use super::machine::reach;
use super::packet::{Destinations, Packet};
use super::registers::{Origin, Registers, fill, word};
use super::rules::{Chain, Connmark, Data, Expr, Family, MapTo, Match, NatRules, Table, Verdict};
use super::state::State;

/// Which bits of a mark rules can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settable {
    /// In a packet, by any rule.
    pub anywhere: u32,
    /// In a packet, by rules that every packet meets, not only the first of a connection.
    pub outside_nat: u32,
    /// In a connection.
    pub connection: u32,
    /// And which bits of a packet's mark rules ask for.
    pub asked: u32,
}

/// What is assumed of chains that were not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assume {
    /// They can do anything.
    Anything,
    /// They do nothing.
    Nothing,
}

/// What rules can set in the marks of packets of one family.
pub fn settable(rules: &NatRules, v6: bool, unread: Assume) -> Settable {
    let other = if v6 { Family::Ip } else { Family::Ip6 };
    let tables = || {
        rules
            .tables
            .iter()
            .enumerate()
            .filter(|(_, t)| t.family != other)
    };
    let known = |c: &&Chain| unread == Assume::Anything || !c.is_unread();
    let mut connection = 0;
    let mut copied = false;
    for (_, table) in tables() {
        for rule in table.chains.iter().filter(known).flat_map(|c| &c.rules) {
            for e in &rule.exprs {
                match e {
                    Expr::Connmark(
                        Connmark::Set { value: bits, .. } | Connmark::Save { nfmask: bits, .. },
                    ) => connection |= bits,
                    Expr::SetConnmark { .. } | Expr::Opaque(_) => connection = u32::MAX,
                    Expr::Copy(_) => copied = true,
                    _ if queues(table, e) => connection = u32::MAX,
                    _ => {}
                }
            }
        }
    }
    let packet = Packet {
        v6,
        oif: None,
        oif_index: None,
        source: None,
        destinations: Destinations::of(Vec::new()),
        outer: false,
        port: None,
        ct_bits: connection,
    };
    let (mut anywhere, mut outside_nat, mut asked) = (0, 0, 0);
    for (t, table) in tables() {
        let mut seen = vec![false; table.chains.len()];
        for (c, chain) in (0u32..).zip(&table.chains) {
            if chain.base.is_some_and(|b| !b.nat) {
                reach(rules, t, c, &mut seen, &mut |_| {});
            }
        }
        for (chain, outside) in table.chains.iter().zip(seen).filter(|(c, _)| known(c)) {
            for rule in &chain.rules {
                let (mut bits, asks) = sets_and_asks(&rule.exprs, &packet);
                if rule.exprs.iter().any(|e| queues(table, e)) {
                    bits = u32::MAX;
                }
                anywhere |= bits;
                asked |= asks;
                if outside {
                    outside_nat |= bits;
                }
            }
        }
    }
    Settable {
        anywhere,
        // A copy of a first packet has what nat chains set, and meets none itself that could take it away.
        outside_nat: if copied { anywhere } else { outside_nat },
        connection,
        asked,
    }
}

/// Whether it gives packets to a program, which can set any mark of theirs and of their connections.
fn queues(table: &Table, e: &Expr) -> bool {
    let queued = |v: &Verdict| matches!(v, Verdict::Queue(_));
    match e {
        Expr::Verdict(v) => queued(v),
        Expr::Lookup {
            set: Some(set),
            to: MapTo::Verdict,
            ..
        } => {
            let set = table.sets.get(*set as usize);
            let mut elements = set.iter().flat_map(|s| s.elements.iter().flatten());
            elements.any(|e| matches!(&e.data, Data::Verdict(v) if queued(v)))
        }
        _ => false,
    }
}

/// The bits that a rule can set in a mark that is zero, and those that it asks for.
fn sets_and_asks(exprs: &[Expr], packet: &Packet<'_>) -> (u32, u32) {
    let mut regs = Registers::new();
    let zero = State::new(Mark::only(0));
    let (mut out, mut asks) = (0, 0);
    // A test for zero asks for what it then excludes; one of the whole mark for zero asks for nothing in particular.
    let asked = |value, mask| match (value, mask) {
        (0, u32::MAX) => 0,
        (0, mask) => mask,
        (value, _) => value,
    };
    for e in exprs {
        match e {
            Expr::Match(Match::Mark { value, mask, .. }) => asks |= asked(*value, *mask),
            Expr::Compare { from, data, .. } => {
                if let (Origin::Mark(and, xor), Some(d)) = (regs.origin(*from), word(data)) {
                    asks |= asked((d ^ xor) & and, and);
                }
            }
            Expr::Lookup { from, .. } | Expr::Range { from, .. }
                if matches!(regs.origin(*from), Origin::Mark(..)) =>
            {
                asks = u32::MAX;
            }
            _ => {}
        }
        match e {
            Expr::Mark { value, .. } => out |= value,
            Expr::Connmark(Connmark::Restore { ctmask, .. }) => out |= packet.ct_bits & ctmask,
            Expr::Opaque(_) => out = u32::MAX,
            Expr::SetMark { from } => out |= regs.as_mark(*from, zero.mark).possible(),
            Expr::Lookup {
                to: MapTo::Reg(r), ..
            } => {
                regs.set(*r, 16, Origin::Unknown);
            }
            Expr::Maybe(_) => regs = Registers::new(),
            _ => fill(&mut regs, packet, zero, e),
        }
    }
    (out, asks)
}
