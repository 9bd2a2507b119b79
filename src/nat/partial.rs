//! Decides by rules of which only some were read, and says which to read next.
//!
//! A chain that was not read counts as one that may do anything, so what is harmless with it is harmless whatever is in it. What
//! is exposed has to be so with the chains that were read alone, on a way through nothing else. Pure.

use std::collections::BTreeSet;

use super::exposure::{Doubt, Exposure, OuterFlow, examine};
use super::machine::reach;
use super::rules::{Data, Expr, Hook, MapTo, NatRules, Need, Verdict};
use super::settable::Assume;

/// Of one chain so many of the chains that it calls are looked at for one that sets a bit of the mark.
const CALLED: usize = 2;

/// What an answer that is still open depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenAnswer {
    /// What the packets meet next, or where a bit that they are asked for may be set; nothing if only all rules can tell.
    pub needs: BTreeSet<Need>,
}

/// The answer, if it is the same whatever is in the rules that were not read.
pub fn answer(rules: &NatRules, device: &OuterFlow) -> Result<Exposure, OpenAnswer> {
    let most = examine(rules, device, Assume::Anything);
    let by_rules = matches!(
        most.exposure,
        Exposure::Exposed(_) | Exposure::Unknown(Doubt::NotUnderstood(..) | Doubt::BudgetExceeded)
    );
    if !by_rules {
        return Ok(most.exposure);
    }
    let mut needs = most.needs;
    if needs.is_empty() && most.foreign == 0 {
        let least = examine(rules, device, Assume::Nothing);
        if matches!(least.exposure, Exposure::Exposed(_)) && least.needs.is_empty() {
            return Ok(least.exposure);
        }
    }
    if most.foreign != 0 {
        needs.extend(called(rules));
    }
    Err(OpenAnswer { needs })
}

/// What has to be read in any case: all that packets after the first of a connection meet, and where first ones begin.
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

/// Some chains that were not read and are called by others that were.
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
                if found.len() >= CALLED {
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
                            found.extend(verdicts.take(CALLED));
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

/// Whether what is in this set may be changed by rules that were not read: those can change any set but a map of verdicts and
/// one that is part of a rule.
pub fn can_change(rules: &NatRules, table: usize, set: u32) -> bool {
    let Some(table) = rules.tables.get(table) else {
        return false;
    };
    if table.sets.get(set as usize).is_none_or(|s| s.anonymous) {
        return false;
    }
    // The kernel lets no packet change a map of verdicts (`nft_dynset_init`), be it empty or not.
    let gives_verdicts =
        |e: &Expr| matches!(e, Expr::Lookup { set: Some(n), to: MapTo::Verdict, .. } if *n == set);
    let rules = table.chains.iter().flat_map(|c| &c.rules);
    !rules.flat_map(|r| &r.exprs).any(gives_verdicts)
}
