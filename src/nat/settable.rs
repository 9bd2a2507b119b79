//! The mark bits that the rules of this namespace can set, and the bits that they test.
//!
//! Owns the assumptions about the mark of a packet before the first rule. Pure.

use super::bits::Mark;
use super::machine::reach;
use super::packet::Packet;
use super::registers::{Origin, Registers, fill, word};
use super::rules::{
    Connmark, Data, Expr, MapTo, Match, NatRules, Op, Source, Table, TableFamily, Verdict,
};
use super::state::PathState;
use super::uapi::NFT_META_MARK;

/// The bits of a mark that rules can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settable {
    /// In a packet, by any rule.
    pub anywhere: u32,
    /// In a packet, by chains that every packet passes, not only the first of a connection.
    pub by_filter_chains: u32,
    /// In the mark of a connection.
    pub connection: u32,
    /// The bits of a packet's mark that rules test.
    pub tested: u32,
}

/// The assumption about chains that were not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assume {
    Anything,
    Nothing,
}

/// The bits that rules can set in packets of one family.
pub fn settable(rules: &NatRules, v6: bool, unread: Assume) -> Settable {
    let about = about_marks(rules, v6, unread);
    // A mark saved from one packet can be restored into another packet and saved again.
    let mut connection = 0;
    loop {
        let found = with_connection(&about, v6, unread, connection);
        let held = found.anywhere | found.tested;
        for rule in &about {
            connection |= saves(rule.table, unread, rule.exprs, held, found.anywhere);
        }
        if connection == found.connection {
            return found;
        }
    }
}

/// A rule that can set or test a mark, or that decides where a mark goes.
struct AboutMarks<'a> {
    table: &'a Table,
    exprs: &'a [Expr],
    /// Packets reach the rule without a nat chain.
    outside: bool,
    /// The rule makes copies of packets, or can.
    copies: bool,
}

/// The rules about marks. A cluster has tens of thousands of other rules.
fn about_marks(rules: &NatRules, v6: bool, unread: Assume) -> Vec<AboutMarks<'_>> {
    let mut out = Vec::new();
    for (t, table) in tables(rules, v6) {
        let mut seen = vec![false; table.chains.len()];
        for (c, chain) in (0u32..).zip(&table.chains) {
            if chain.base.is_some_and(|b| !b.nat) {
                reach(rules, t, c, &mut seen, &mut |_| {});
            }
        }
        for (chain, outside) in table.chains.iter().zip(seen) {
            if unread == Assume::Nothing && chain.is_unread() {
                continue;
            }
            let rules_here = chain.rules.iter().map(|rule| &*rule.exprs);
            out.extend(
                rules_here
                    .filter(|e| e.iter().any(is_about_marks))
                    .map(|exprs| AboutMarks {
                        table,
                        exprs,
                        outside,
                        copies: exprs.iter().any(|e| matches!(e, Expr::Copy(_)))
                            || chain.is_unread() && !rules.no_copies,
                    }),
            );
        }
    }
    out
}

/// True if the functions below look at a rule because of this expression. A rule without such expressions sets and
/// tests no bit.
pub(super) fn is_about_marks(e: &Expr) -> bool {
    matches!(
        e,
        Expr::Match(Match::Mark { .. })
            | Expr::Mark { .. }
            | Expr::Connmark(_)
            | Expr::SetMark { .. }
            | Expr::SetConnmark { .. }
            | Expr::Load {
                source: Source::Meta(NFT_META_MARK),
                ..
            }
            | Expr::Verdict(Verdict::Queue(_))
            | Expr::Lookup {
                to: MapTo::Verdict,
                ..
            }
            | Expr::Copy(_)
            | Expr::Opaque(_)
    )
}

/// As [`settable`], if the mark of a connection can have these bits.
fn with_connection(
    about: &[AboutMarks<'_>],
    v6: bool,
    unread: Assume,
    connection: u32,
) -> Settable {
    let packet = Packet {
        v6,
        ct_bits: connection,
        ..Packet::any()
    };
    let (mut anywhere, mut by_filter_chains, mut tested) = (0, 0, 0);
    let mut copied = false;
    for rule in about {
        let (mut bits, tests) = sets_and_tests(rule.exprs, &packet);
        if rule.exprs.iter().any(|e| queues(rule.table, unread, e)) {
            bits = u32::MAX;
        }
        copied |= rule.copies;
        anywhere |= bits;
        tested |= tests;
        if rule.outside {
            by_filter_chains |= bits;
        }
    }
    Settable {
        anywhere,
        // A copy of a first packet has the bits that nat chains set, and passes no nat chain that could clear them.
        by_filter_chains: if copied { anywhere } else { by_filter_chains },
        connection,
        tested,
    }
}

/// The tables that packets of a family can pass, with their index.
fn tables(rules: &NatRules, v6: bool) -> impl Iterator<Item = (usize, &Table)> {
    let other = if v6 {
        TableFamily::Ip
    } else {
        TableFamily::Ip6
    };
    let all = rules.tables.iter().enumerate();
    all.filter(move |(_, t)| t.family != other)
}

/// The bits that a rule can set in the mark of a connection, if the mark of a packet has only bits in `held`. Rules set
/// the bits in `by_rules`.
fn saves(table: &Table, unread: Assume, exprs: &[Expr], held: u32, by_rules: u32) -> u32 {
    let packet = Packet::any();
    let mut regs = Registers::new();
    let mut s = PathState::new(Mark::only(held));
    let mut out = 0;
    // A program sets such a value as a whole, and rules set only part of it. The analysis assumes that a bit set by
    // rules is set only by rules.
    let mixed = |value: u32| value & by_rules != 0 && value & !by_rules != 0;
    for e in exprs {
        if queues(table, unread, e) {
            return u32::MAX;
        }
        match e {
            Expr::Match(Match::Mark {
                value,
                mask,
                invert: false,
            }) => match s.mark.assume(*value, *mask) {
                Some(mark) if *mask != u32::MAX || !mixed(*value) => s.mark = mark,
                _ => return out,
            },
            Expr::Compare {
                from,
                op: Op::Eq,
                data,
            } => {
                if let (Origin::Mark(and, xor), Some(d)) = (regs.origin(*from), word(data)) {
                    match s.mark.assume((d ^ xor) & and, and) {
                        Some(mark) if and != u32::MAX || !mixed(d ^ xor) => s.mark = mark,
                        _ => return out,
                    }
                }
            }
            Expr::Mark { value, mask } => s.mark = s.mark.and_xor(!mask, *value),
            Expr::Connmark(Connmark::Restore { .. }) => s.mark = Mark::ANY,
            Expr::SetMark { from } => {
                s.mark = regs.as_mark(*from, s.mark);
                regs.forget_mark();
            }
            Expr::Connmark(Connmark::Set { value, .. }) => out |= value,
            Expr::Connmark(Connmark::Save { nfmask, .. }) => out |= s.mark.possible() & nfmask,
            Expr::SetConnmark { from } => out |= regs.as_mark(*from, s.mark).possible(),
            Expr::Opaque(_) => out = u32::MAX,
            Expr::Lookup {
                to: MapTo::Reg(r), ..
            } => {
                regs.set(*r, 16, Origin::Unknown);
            }
            Expr::Maybe(_) => regs = Registers::new(),
            _ => fill(&mut regs, &packet, s, e),
        }
    }
    out
}

/// True if the expression gives packets to a program, which can set any mark of the packets and their connections. A
/// map that was not read may do so too.
fn queues(table: &Table, unread: Assume, e: &Expr) -> bool {
    let queued = |v: &Verdict| matches!(v, Verdict::Queue(_));
    match e {
        Expr::Verdict(v) => queued(v),
        Expr::Lookup {
            set: Some(set),
            to: MapTo::Verdict,
            ..
        } => {
            let elements = table.sets.get(*set as usize).map(|s| &s.elements);
            let Some(Some(elements)) = elements else {
                return unread == Assume::Anything;
            };
            let mut verdicts = elements.iter().map(|e| &e.data);
            verdicts.any(|d| matches!(d, Data::Verdict(v) if queued(v)))
        }
        _ => false,
    }
}

/// The bits that a rule can set in a mark of zero, and the bits that it tests.
fn sets_and_tests(exprs: &[Expr], packet: &Packet<'_>) -> (u32, u32) {
    let mut regs = Registers::new();
    let zero = PathState::new(Mark::only(0));
    let (mut out, mut tests) = (0, 0);
    // A test for zero tests the bits that it then excludes. A test of the whole mark for zero tests no bit in
    // particular.
    let tested = |value, mask| match (value, mask) {
        (0, u32::MAX) => 0,
        (0, mask) => mask,
        (value, _) => value,
    };
    for e in exprs {
        match e {
            Expr::Match(Match::Mark { value, mask, .. }) => tests |= tested(*value, *mask),
            Expr::Compare { from, data, .. } => {
                if let (Origin::Mark(and, xor), Some(d)) = (regs.origin(*from), word(data)) {
                    tests |= tested((d ^ xor) & and, and);
                }
            }
            Expr::Lookup { from, .. } | Expr::Range { from, .. }
                if matches!(regs.origin(*from), Origin::Mark(..)) =>
            {
                tests = u32::MAX;
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
    (out, tests)
}
