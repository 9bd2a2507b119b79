//! Runs the rules on a partly known packet, and collects what may happen to it.
//!
//! Owns the abstract interpretation. It follows every path that a packet may take, splits a path at a test of the mark,
//! and merges paths that meet again. A rule that is not understood may do anything, so the result errs towards "can be
//! rewritten". Pure.
//!
//! <https://github.com/torvalds/linux/blob/v6.12/net/netfilter/nf_tables_core.c#L248> (`nft_do_chain`)
//! <https://github.com/torvalds/linux/blob/v6.12/net/netfilter/nf_nat_core.c#L919> (`nf_nat_inet_fn`: after the first
//! nat chain that rewrites, the others are skipped)

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use super::bits::{Byte, Mark, Tri, between};
use super::packet::{Packet, find};
use super::registers::{Origin, Registers, compare, fill, word};
use super::rules::{
    Base, Connmark, Data, Element, Expr, Hook, MapTo, Match, Nat, NatRegs, NatRules, Need, Op, Reg,
    Set, TableFamily, Verdict,
};

use super::settable::is_about_marks;
use super::state::{PathState, add};
use super::uapi::NFPROTO_NETDEV;

/// A reference to a rule. Valid for one reading of the rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleRef {
    /// Index of the table.
    pub table: usize,
    /// Index of the chain in the table.
    pub chain: u32,
    /// Index of the rule in the chain.
    pub rule: usize,
}

/// A NAT statement, as far as its operands are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translation {
    /// Has no addresses if they are not known.
    pub nat: Nat,
    /// The statement has addresses that are not known.
    pub hidden: bool,
}

/// Something that a packet may meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A NAT statement, and the mark bits that tests on the path needed.
    Nat(Translation, u32),
    /// A part of a nat chain that is not understood.
    Opaque(String),
}

/// The rules are too many or too complex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetExceeded;

/// How many rules the interpreter visits for one packet.
const MAX_STEPS: u64 = 20_000_000;
/// The kernel allows 16 jumps in `nf_tables`. xtables allows more and detects loops itself.
const MAX_DEPTH: u32 = 128;
/// How many steps at one hook and priority are tried in all orders.
const MAX_PEERS: usize = 8;

/// The packets that leave a chain.
#[derive(Debug, Default)]
struct ChainOutcome {
    fell_through: Vec<PathState>,
    accepted: Vec<PathState>,
}

/// A base chain at a hook, ordered as the kernel runs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct BaseChain {
    /// The priority at which the kernel calls the chain. All nat chains run at the priority of NAT.
    ///
    /// <https://github.com/torvalds/linux/blob/v6.12/net/netfilter/nf_nat_core.c#L1138> (`nf_nat_register_fn`)
    place: i32,
    nat: bool,
    /// The chain's own priority, which orders nat chains among themselves.
    priority: i32,
    table: usize,
    chain: u32,
}

/// The interpreter for one packet.
pub struct Machine<'a> {
    rules: &'a NatRules,
    packet: &'a Packet<'a>,
    base: Base,
    memo: HashMap<(usize, u32, PathState), Rc<ChainOutcome>>,
    /// The rules of a chain that the packet never matches, tracked or untracked, whatever its mark is. Most of the rules of
    /// a cluster are about other packets.
    never: HashMap<(usize, u32, bool), Vec<bool>>,
    steps: u64,
    /// What the packet met, once for each rule.
    pub findings: Vec<(RuleRef, Finding)>,
    /// Parts of the rules that the packet reached and that were not read.
    pub needs: BTreeSet<Need>,
    /// Rules that translate packets, and the mark bits that the packets can have there.
    pub kept: Vec<(RuleRef, u32)>,
    /// Rules that can drop the packet. Base chains whose policy drops it have no rule index. `None` if the caller does
    /// not ask.
    pub drops: Option<BTreeSet<(usize, u32, Option<usize>)>>,
}

impl<'a> Machine<'a> {
    pub fn new(rules: &'a NatRules, packet: &'a Packet<'a>) -> Self {
        Self {
            rules,
            packet,
            base: Base {
                hook: Hook::Other,
                priority: 0,
                nat: false,
                drops: false,
            },
            memo: HashMap::new(),
            never: HashMap::new(),
            steps: 0,
            findings: Vec::new(),
            needs: BTreeSet::new(),
            kept: Vec::new(),
            drops: None,
        }
    }

    /// Runs all chains of a hook in the order of priorities. Returns the states in which the packet leaves the hook.
    pub fn hook(
        &mut self,
        hook: Hook,
        states: &[PathState],
    ) -> Result<Vec<PathState>, BudgetExceeded> {
        let mut live: Vec<PathState> = Vec::new();
        for s in states {
            add(
                &mut live,
                PathState {
                    translated: false,
                    ..*s
                },
            );
        }
        let chains = self.chains(hook);
        for peers in chains.chunk_by(|a, b| a.place == b.place) {
            // The kernel calls all nat chains from one place, one after another, so they are one step among the filter
            // chains.
            let filters = peers.partition_point(|chain| !chain.nat);
            let (filters, nat) = peers.split_at(filters);
            let steps: Vec<&[BaseChain]> = filters
                .chunks(1)
                .chain((!nat.is_empty()).then_some(nat))
                .collect();
            live = self.in_any_order(&steps, &live, |machine, step, s| {
                let mut live = vec![s];
                for peers in step.chunk_by(|a, b| a.priority == b.priority) {
                    live = machine.in_any_order(peers, &live, |machine, chain, s| {
                        machine.base_chain(chain.table, chain.chain, s)
                    })?;
                }
                Ok(live)
            })?;
        }
        Ok(live)
    }

    /// The base chains that the packet passes at a hook and that can change something, in the order of the kernel.
    fn chains(&self, hook: Hook) -> Vec<BaseChain> {
        let family = if self.packet.v6 {
            TableFamily::Ip6
        } else {
            TableFamily::Ip
        };
        let mut chains = Vec::new();
        for (table, t) in self.rules.tables.iter().enumerate() {
            let sees = match hook {
                Hook::Egress => t.family == TableFamily::from_nfproto(NFPROTO_NETDEV),
                _ => t.family == family || t.family == TableFamily::Inet,
            };
            if !sees {
                continue;
            }
            for (chain, c) in (0u32..).zip(&t.chains) {
                if let Some(base) = c.base.filter(|b| b.hook == hook)
                    && self.packet.may_leave_through(&c.devices)
                    && (self.drops.is_some() || is_relevant(self.rules, table, chain))
                {
                    chains.push(BaseChain {
                        place: match (base.nat, hook) {
                            (false, _) => base.priority,
                            (true, Hook::Output | Hook::Prerouting) => -100,
                            (true, _) => 100,
                        },
                        nat: base.nat,
                        priority: base.priority,
                        table,
                        chain,
                    });
                }
            }
        }
        chains.sort_unstable();
        chains
    }

    /// Chains of equal priority run in the order of their creation, which is not known. All orders are tried, as paths
    /// through the sets of steps already taken. With too many steps, the analysis assumes that each step can run any
    /// number of times, and one of them last.
    fn in_any_order<T>(
        &mut self,
        steps: &[T],
        states: &[PathState],
        mut take: impl FnMut(&mut Self, &T, PathState) -> Result<Vec<PathState>, BudgetExceeded>,
    ) -> Result<Vec<PathState>, BudgetExceeded> {
        if steps.len() > MAX_PEERS {
            let mut reached: Vec<PathState> = Vec::new();
            let mut todo = states.to_vec();
            while let Some(s) = todo.pop() {
                let before = reached.clone();
                add(&mut reached, s);
                if reached == before {
                    continue;
                }
                for step in steps {
                    todo.extend(take(self, step, s)?);
                }
            }
            // Each step can be the last.
            let mut remaining = Vec::new();
            for step in steps {
                for &s in &reached {
                    for t in take(self, step, s)? {
                        add(&mut remaining, t);
                    }
                }
            }
            return Ok(remaining);
        }
        let full = (1usize << steps.len()) - 1;
        let mut at: Vec<Vec<PathState>> = vec![Vec::new(); full + 1];
        at[0] = states.to_vec();
        for done in 0..full {
            let here = std::mem::take(&mut at[done]);
            for (n, step) in steps.iter().enumerate() {
                if done >> n & 1 == 1 {
                    continue;
                }
                for &s in &here {
                    for t in take(self, step, s)? {
                        add(&mut at[done | 1 << n], t);
                    }
                }
            }
        }
        Ok(at.swap_remove(full))
    }

    fn base_chain(
        &mut self,
        table: usize,
        chain: u32,
        s: PathState,
    ) -> Result<Vec<PathState>, BudgetExceeded> {
        let Some(base) = self.rules.tables[table].chains[chain as usize].base else {
            return Ok(vec![s]);
        };
        if base.nat && (s.untracked || s.translated) {
            return Ok(vec![s]);
        }
        if self.base != base {
            self.base = base;
            self.memo.clear();
        }
        let out = self.chain(table, chain, s, 0)?;
        let mut remaining = out.accepted.clone();
        if !base.drops {
            for &s in &out.fell_through {
                add(&mut remaining, s);
            }
        } else if let Some(drops) = &mut self.drops
            && !out.fell_through.is_empty()
        {
            drops.insert((table, chain, None));
        }
        Ok(remaining)
    }

    fn chain(
        &mut self,
        table: usize,
        chain: u32,
        s: PathState,
        depth: u32,
    ) -> Result<Rc<ChainOutcome>, BudgetExceeded> {
        if let Some(known) = self.memo.get(&(table, chain, s)) {
            return Ok(Rc::clone(known));
        }
        if depth > MAX_DEPTH {
            return Err(BudgetExceeded);
        }
        let rules = self.rules;
        let mut out = ChainOutcome::default();
        let mut live = vec![s];
        let mut next = Vec::new();
        let body = rules.tables[table]
            .chains
            .get(chain as usize)
            .ok_or(BudgetExceeded)?;
        if body.is_unread() {
            self.needs.insert(Need::Chain(table, chain));
        }
        let key = (table, chain, s.untracked);
        let mut never = self.never.remove(&key).unwrap_or_default();
        never.resize(body.rules.len(), false);
        for (rule, never) in never.iter_mut().enumerate() {
            if live.is_empty() {
                break;
            }
            let same = live.iter().all(|live| live.untracked == s.untracked);
            if same && *never {
                continue;
            }
            let at = RuleRef { table, chain, rule };
            for s in live.drain(..) {
                self.steps += 1;
                if self.steps > MAX_STEPS {
                    return Err(BudgetExceeded);
                }
                let matches = self.rule(at, s, &mut next, &mut out, depth)?;
                *never |= same && !matches;
            }
            std::mem::swap(&mut live, &mut next);
        }
        self.never.insert(key, never);
        for s in live {
            add(&mut out.fell_through, s);
        }
        let out = Rc::new(out);
        self.memo.insert((table, chain, s), Rc::clone(&out));
        Ok(out)
    }

    fn record(&mut self, at: RuleRef, event: Finding) {
        if !self.findings.iter().any(|(p, e)| *p == at && *e == event) {
            self.findings.push((at, event));
        }
    }

    fn verdict(
        &mut self,
        at: RuleRef,
        v: Verdict,
        s: PathState,
        next: &mut Vec<PathState>,
        out: &mut ChainOutcome,
        depth: u32,
    ) -> Result<(), BudgetExceeded> {
        match v {
            Verdict::Accept => add(&mut out.accepted, s),
            Verdict::Drop => {
                if let Some(drops) = &mut self.drops {
                    drops.insert((at.table, at.chain, Some(at.rule)));
                }
            }
            Verdict::Queue(_) => {
                // A program can make the hook run again (NF_REPEAT). The analysis does not follow that for nat chains.
                if self.base.nat {
                    self.record(at, Finding::Opaque("queue".into()));
                }
                let mark = Mark::ANY;
                add(&mut out.accepted, PathState { mark, ..s });
            }
            Verdict::Return => add(&mut out.fell_through, s),
            Verdict::Continue => add(next, s),
            Verdict::Jump(to) | Verdict::Goto(to) => {
                let called = self.chain(at.table, to, s, depth + 1)?;
                for &s in &called.accepted {
                    add(&mut out.accepted, s);
                }
                for &s in &called.fell_through {
                    if matches!(v, Verdict::Jump(_)) {
                        add(next, s);
                    } else {
                        add(&mut out.fell_through, s);
                    }
                }
            }
        }
        Ok(())
    }

    /// Runs one rule in one state. States that do not match, or that reach the end of the rule, go to `next`. Returns false
    /// if the packet fails a test of the rule whatever its mark is.
    fn rule(
        &mut self,
        at: RuleRef,
        s: PathState,
        next: &mut Vec<PathState>,
        out: &mut ChainOutcome,
        depth: u32,
    ) -> Result<bool, BudgetExceeded> {
        let rules = self.rules;
        let mut by_packet_alone = true;
        let mut walk = RuleWalk {
            at,
            s,
            regs: Registers::new(),
            next,
            out,
            depth,
        };
        for e in &rules.tables[at.table].chains[at.chain as usize].rules[at.rule].exprs {
            match self.step(e, &mut walk)? {
                Step::Go | Step::Test(Tri::Yes) => {}
                Step::Test(Tri::Maybe) => add(walk.next, walk.s),
                Step::Test(Tri::No) => {
                    add(walk.next, walk.s);
                    return Ok(!by_packet_alone);
                }
                Step::Stop => return Ok(true),
            }
            by_packet_alone &= !is_about_marks(e) && !matches!(e, Expr::Untrack | Expr::Template);
        }
        add(walk.next, walk.s);
        Ok(true)
    }

    fn step(&mut self, e: &Expr, walk: &mut RuleWalk<'_>) -> Result<Step, BudgetExceeded> {
        Ok(match e {
            Expr::Match(Match::Mark {
                value,
                mask,
                invert,
            }) => walk.split(*value, *mask, *invert),
            Expr::Match(m) => Step::Test(self.packet.holds(m, self.rules, !walk.s.untracked)),
            Expr::Verdict(v) => {
                self.verdict(walk.at, *v, walk.s, walk.next, walk.out, walk.depth)?;
                Step::Stop
            }
            Expr::Mark { value, mask } => {
                walk.s.set_mark(walk.s.mark.and_xor(!mask, *value));
                Step::Go
            }
            Expr::Connmark(Connmark::Restore { ctmask, mask }) => {
                let kept = walk.s.mark.and_xor(!mask, 0);
                let open = Mark::only(self.packet.ct_bits & ctmask);
                walk.s.set_mark(Mark {
                    known: kept.known & open.known,
                    value: kept.value & open.known,
                });
                Step::Go
            }
            Expr::Connmark(_)
            | Expr::SetConnmark { .. }
            | Expr::UpdateIpsets { .. }
            | Expr::Copy(_)
            | Expr::Neutral(_) => Step::Go,
            Expr::Forward(name) => {
                if self.base.hook == Hook::Egress {
                    self.record(walk.at, Finding::Opaque(name.to_string()));
                }
                Step::Stop
            }
            Expr::Untrack => {
                // After connection tracking it has no effect.
                walk.s.untracked |= self.base.priority < -200 && !walk.s.template;
                Step::Go
            }
            Expr::Template => {
                // CT leaves an untracked packet as it is. But where other rules or vxcsum's own leave it untracked, their
                // order is not known.
                (walk.s.untracked, walk.s.template) = (false, true);
                Step::Go
            }
            Expr::Nat(nat) => self.translate(
                Translation {
                    nat: nat.clone(),
                    hidden: false,
                },
                walk,
            ),
            Expr::NatRegs(nat) => self.translate(translation(nat, &walk.regs), walk),
            Expr::Opaque(name) => {
                if self.base.nat || self.base.hook == Hook::Egress {
                    self.record(walk.at, Finding::Opaque(name.to_string()));
                }
                add(walk.next, walk.s);
                walk.s.mark = Mark::ANY;
                add(&mut walk.out.accepted, walk.s);
                walk.regs = Registers::new();
                Step::Go
            }
            Expr::UpdateSet { .. } => Step::Test(Tri::Maybe),
            Expr::Maybe(_) => {
                walk.regs = Registers::new();
                Step::Test(Tri::Maybe)
            }
            Expr::Load { .. } | Expr::Immediate { .. } | Expr::Bitwise { .. } => {
                fill(&mut walk.regs, self.packet, walk.s, e);
                Step::Go
            }
            Expr::Write(what) => {
                self.record(walk.at, Finding::Opaque(what.to_string()));
                Step::Go
            }
            Expr::Compare { from, op, data } => self.compare(*from, *op, data, walk),
            Expr::Range {
                from,
                invert,
                low,
                high,
            } => Step::Test(between(walk.regs.get(*from, low.len()), low, high).flip(*invert)),
            Expr::Lookup {
                from,
                set,
                to,
                invert,
            } => match self.known_set(walk.at.table, *set) {
                Some(set) => self.look_up(*from, set, *to, *invert, walk)?,
                None => self.look_up_unread(*to, walk),
            },
            Expr::SetMark { from } => {
                walk.s.set_mark(walk.regs.as_mark(*from, walk.s.mark));
                walk.regs.forget_mark();
                Step::Go
            }
        })
    }

    fn translate(&mut self, translation: Translation, walk: &mut RuleWalk<'_>) -> Step {
        self.record(walk.at, Finding::Nat(translation, walk.s.relied));
        self.kept.push((walk.at, walk.s.mark.possible()));
        walk.s.translated = true;
        add(&mut walk.out.accepted, walk.s);
        Step::Stop
    }

    fn compare(&self, from: Reg, op: Op, data: &[u8], walk: &mut RuleWalk<'_>) -> Step {
        Step::Test(match (walk.regs.origin(from), op, word(data)) {
            (Origin::Mark(and, xor), Op::Eq | Op::Ne, Some(d)) => {
                // A bit that the mask clears gets the value of xor.
                let possible = (d ^ xor) & !and == 0;
                let (value, mask) = if possible {
                    ((d ^ xor) & and, and)
                } else {
                    (1, 0)
                };
                return walk.split(value, mask, op == Op::Ne);
            }
            (Origin::Loaded(source), Op::Eq, _) if self.packet.never(source, data) => Tri::No,
            (Origin::Loaded(source), Op::Ne, _) if self.packet.never(source, data) => Tri::Yes,
            _ => compare(walk.regs.get(from, data.len()), op, data),
        })
    }

    /// The set and its elements. Notes a need if the elements have not been read.
    fn known_set(&mut self, table: usize, set: Option<u32>) -> Option<(&'a Set, &'a [Element])> {
        let n = set?;
        let set = self.rules.tables[table].sets.get(n as usize)?;
        if set.elements.is_none() {
            self.needs.insert(Need::Set(table, n));
        }
        Some((set, set.elements.as_deref()?))
    }

    fn look_up_unread(&mut self, to: MapTo, walk: &mut RuleWalk<'_>) -> Step {
        match to {
            MapTo::Verdict if self.base.nat => {
                self.record(walk.at, Finding::Opaque("a map that was not read".into()));
            }
            MapTo::Reg(r) => {
                walk.regs.set(r, 16, Origin::Unknown);
            }
            _ => {}
        }
        add(walk.next, walk.s);
        if to != MapTo::Verdict {
            return Step::Go;
        }
        walk.s.mark = Mark::ANY;
        add(&mut walk.out.accepted, walk.s);
        add(walk.next, walk.s);
        Step::Stop
    }

    fn look_up(
        &mut self,
        from: Reg,
        (set, elements): (&Set, &[Element]),
        to: MapTo,
        invert: bool,
        walk: &mut RuleWalk<'_>,
    ) -> Result<Step, BudgetExceeded> {
        let (found, holds) = find(set, elements, walk.regs.get(from, set.key_len as usize));
        match to {
            MapTo::Nothing => {}
            MapTo::Reg(r) => {
                let value = match &found[..] {
                    [one] if !set.dynamic => Some(&one.data),
                    _ => None,
                };
                let len = if let Some(Data::Value(v)) = value {
                    v.len()
                } else {
                    16
                };
                let slot = walk.regs.set(r, len, Origin::Unknown);
                if let Some(Data::Value(v)) = value {
                    for (b, &v) in slot.iter_mut().zip(v) {
                        *b = Byte::exact(v);
                    }
                }
            }
            MapTo::Verdict => {
                if holds != Tri::Yes {
                    add(walk.next, walk.s);
                }
                let mut seen: Vec<Verdict> = Vec::new();
                for e in found {
                    if let Data::Verdict(v) = e.data
                        && !seen.contains(&v)
                    {
                        seen.push(v);
                        self.verdict(walk.at, v, walk.s, walk.next, walk.out, walk.depth)?;
                    }
                }
                return Ok(Step::Stop);
            }
        }
        Ok(Step::Test(holds.flip(invert)))
    }
}

/// The state of a rule between its expressions.
struct RuleWalk<'w> {
    at: RuleRef,
    s: PathState,
    regs: Registers,
    /// States that continue with the next rule.
    next: &'w mut Vec<PathState>,
    /// States that leave the chain.
    out: &'w mut ChainOutcome,
    depth: u32,
}

impl RuleWalk<'_> {
    /// Splits on a test of the mark. States that fail the test go to `next`.
    fn split(&mut self, value: u32, mask: u32, invert: bool) -> Step {
        if test(&mut self.s, value, mask, invert, self.next) {
            Step::Go
        } else {
            Step::Stop
        }
    }
}

/// The effect of an expression on its rule.
enum Step {
    Go,
    /// No state is left for the next expression.
    Stop,
    Test(Tri),
}

/// Splits on a test of the mark. A state that fails the test goes to `next`. True if a state passes the test: then `s`
/// is that state.
fn test(s: &mut PathState, value: u32, mask: u32, invert: bool, next: &mut Vec<PathState>) -> bool {
    let before = *s;
    // A path relies only on bits that the packet had at its start.
    let on = |mark: Mark| PathState {
        mark,
        relied: before.relied | mark.value & mask & !before.set_here,
        ..before
    };
    let yes = before.mark.assume(value, mask).map(on);
    let no = before.mark.assume_not(value, mask).map(on);
    let (pass, fail) = if invert { (no, yes) } else { (yes, no) };
    if let Some(fail) = fail {
        add(next, fail);
    }
    if let Some(pass) = pass {
        *s = pass;
    }
    pass.is_some()
}

fn translation(nat: &NatRegs, regs: &Registers) -> Translation {
    let v6 = nat.family == 10;
    let addresses = nat
        .address
        .and_then(|(low, high)| regs.address(low, v6).zip(regs.address(high, v6)));
    Translation {
        hidden: nat.address.is_some() && addresses.is_none(),
        nat: Nat {
            kind: nat.kind,
            flags: nat.flags,
            addresses,
            // The numbers do not matter: any port in a rule is a new port.
            ports: nat.port.map(|_| (0, 0)),
        },
    }
}

/// True if a base chain, or a chain that it can reach, can change a mark, the tracking or an address.
fn is_relevant(rules: &NatRules, table: usize, chain: u32) -> bool {
    let mut found = false;
    reach(
        rules,
        table,
        chain,
        &mut vec![false; rules.tables[table].chains.len()],
        &mut |e| {
            found |= matches!(
                e,
                Expr::Mark { .. }
                    | Expr::SetMark { .. }
                    | Expr::Connmark(Connmark::Restore { .. })
                    | Expr::Nat(_)
                    | Expr::NatRegs(_)
                    | Expr::Untrack
                    | Expr::Template
                    | Expr::Write(_)
                    | Expr::Forward(_)
                    | Expr::Verdict(Verdict::Queue(_))
                    | Expr::Opaque(_)
            );
        },
    );
    found
}

/// Calls a function for every expression that a chain can reach, once for each chain.
pub(super) fn reach(
    rules: &NatRules,
    table: usize,
    chain: u32,
    seen: &mut [bool],
    visit: &mut dyn FnMut(&Expr),
) {
    let mut todo = vec![chain];
    while let Some(chain) = todo.pop() {
        match seen.get_mut(chain as usize) {
            Some(s) if !*s => *s = true,
            _ => continue,
        }
        let t = &rules.tables[table];
        let mut go = |v: &Verdict| {
            if let Verdict::Jump(to) | Verdict::Goto(to) = v {
                todo.push(*to);
            }
        };
        for e in t.chains[chain as usize].rules.iter().flat_map(|r| &r.exprs) {
            visit(e);
            match e {
                Expr::Verdict(v) => go(v),
                Expr::Lookup {
                    set,
                    to: MapTo::Verdict,
                    ..
                } => match set
                    .and_then(|n| t.sets.get(n as usize))
                    .map(|s| &s.elements)
                {
                    Some(Some(elements)) => {
                        for e in elements {
                            if let Data::Verdict(v) = &e.data {
                                visit(&Expr::Verdict(*v));
                                go(v);
                            }
                        }
                    }
                    _ => visit(&Expr::Opaque("map".into())),
                },
                _ => {}
            }
        }
    }
}
