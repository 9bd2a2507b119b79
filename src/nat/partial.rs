//! Decides with rules that were read in part, and says which part to read next.
//!
//! A chain that was not read may do anything: if the packets are not exposed with such chains, they are not exposed
//! with any content of them. Packets are exposed if the chains that were read are enough to rewrite them. Pure.

use std::collections::BTreeSet;

use super::exposure::{Doubt, Exposure, OuterFlow, examine};
use super::machine::reach;
use super::rules::{Data, Expr, Hook, MapTo, NatRules, Need, Verdict};
use super::settable::Assume;

/// How many of the chains that a chain calls are searched for one that sets a bit of the mark.
const MAX_CALLED: usize = 2;

/// The parts of the rules on which an open answer depends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenAnswer {
    /// Chains and sets to read next: the packets reach them, or they may set a bit that rules test. Empty if only all
    /// rules give the answer.
    pub needs: BTreeSet<Need>,
}

/// The answer, if it does not depend on the rules that were not read.
pub fn answer(rules: &NatRules, device: &OuterFlow) -> Result<Exposure, OpenAnswer> {
    let cautious = examine(rules, device, Assume::Anything);
    let by_rules = matches!(
        cautious.exposure,
        Exposure::Exposed(_) | Exposure::Unknown(Doubt::NotUnderstood(..) | Doubt::BudgetExceeded)
    );
    if !by_rules {
        return Ok(cautious.exposure);
    }
    let mut needs = cautious.needs;
    if needs.is_empty() && cautious.external == 0 {
        let least = examine(rules, device, Assume::Nothing);
        if matches!(least.exposure, Exposure::Exposed(_)) && least.needs.is_empty() {
            return Ok(least.exposure);
        }
    }
    if cautious.external != 0 {
        needs.extend(called(rules));
    }
    Err(OpenAnswer { needs })
}

/// The parts to read in any case: everything that later packets of a connection pass, and the start of the path of
/// first packets.
pub fn first(rules: &NatRules) -> BTreeSet<Need> {
    let mut needs = BTreeSet::new();
    for (t, table) in rules.tables.iter().enumerate() {
        let mut seen = vec![false; table.chains.len()];
        for (c, chain) in (0u32..).zip(&table.chains) {
            match chain.base {
                Some(base) if !base.nat => reach(rules, t, c, &mut seen, &mut |_| {}),
                Some(base)
                    if matches!(base.hook, Hook::Output | Hook::Postrouting)
                        && chain.is_unread() =>
                {
                    needs.insert(Need::Chain(t, c));
                }
                _ => {}
            }
        }
        for ((c, chain), seen) in (0u32..).zip(&table.chains).zip(seen) {
            if seen && chain.is_unread() {
                needs.insert(Need::Chain(t, c));
            }
            let exprs = chain.rules.iter().flat_map(|r| &r.exprs).filter(|_| seen);
            needs.extend(exprs.filter_map(|e| match e {
                Expr::Lookup {
                    set: Some(set),
                    to: MapTo::Verdict,
                    ..
                } => {
                    let unread = table.sets.get(*set as usize)?.elements.is_none();
                    unread.then_some(Need::Set(t, *set))
                }
                _ => None,
            }));
        }
    }
    needs
}

/// Some unread chains that are called by chains that were read.
fn called(rules: &NatRules) -> BTreeSet<Need> {
    let mut needs = BTreeSet::new();
    for (t, table) in rules.tables.iter().enumerate() {
        let unread = |v: &Verdict| match v {
            Verdict::Jump(to) | Verdict::Goto(to) => {
                let chain = table.chains.get(*to as usize)?;
                chain.is_unread().then_some(Need::Chain(t, *to))
            }
            _ => None,
        };
        for chain in &table.chains {
            let mut found = BTreeSet::new();
            for e in chain.rules.iter().flat_map(|r| &r.exprs) {
                if found.len() >= MAX_CALLED {
                    break;
                }
                match e {
                    Expr::Verdict(v) => found.extend(unread(v)),
                    Expr::Lookup {
                        set: Some(set),
                        to: MapTo::Verdict,
                        ..
                    } => match table.sets.get(*set as usize).map(|s| &s.elements) {
                        Some(Some(elements)) => {
                            let verdicts = elements.iter().filter_map(|e| match &e.data {
                                Data::Verdict(v) => unread(v),
                                _ => None,
                            });
                            found.extend(verdicts.take(MAX_CALLED));
                        }
                        Some(None) => {
                            found.insert(Need::Set(t, *set));
                        }
                        None => {}
                    },
                    _ => {}
                }
            }
            needs.append(&mut found);
        }
    }
    needs
}

/// True if an unread rule may change the content of this set. Rules can change any set except a map of verdicts and an
/// anonymous set.
pub fn can_change(rules: &NatRules, table: usize, set: u32) -> bool {
    let Some(table) = rules.tables.get(table) else {
        return false;
    };
    if table.sets.get(set as usize).is_none_or(|s| s.anonymous) {
        return false;
    }
    // The kernel refuses to change a map of verdicts from a packet (`nft_dynset_init`), whether it is empty or not.
    let gives_verdicts =
        |e: &Expr| matches!(e, Expr::Lookup { set: Some(n), to: MapTo::Verdict, .. } if *n == set);
    let rules = table.chains.iter().flat_map(|c| &c.rules);
    !rules.flat_map(|r| &r.exprs).any(gives_verdicts)
}
