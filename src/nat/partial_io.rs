//! Reads the part of the rules on which an answer depends.
//!
//! Owns the rules read so far, and whether they are still valid. A cluster has tens of thousands of chains, and the
//! packets of a device pass only a few of them. Chains and sets are read one by one while no other process changes
//! rules. If the answer stays open, everything is read.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::exposure::{Exposure, OuterFlow, analyze};
use super::nft::{self, Get, Ruleset};
use super::partial::{answer, can_change, first};
use super::read_io::{self, Dumps};
use super::rules::{NatRules, Need};
use super::xt;
use crate::netlink::DumpError;

/// How often more is read before everything is read.
const MAX_ROUNDS: usize = 24;
/// Reading this many chains one by one takes as long as reading everything.
const MAX_NEEDS: usize = 4096;

/// The version of rules that change only with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesVersion {
    generation: u32,
    marks_are_answered: bool,
}

impl RulesVersion {
    /// `None` if other rules exist, or if the version cannot be read.
    pub fn now() -> Option<Self> {
        if read_io::has_legacy() {
            return None;
        }
        Some(Self {
            generation: Dumps::open().ok()?.generation().ok()?,
            marks_are_answered: read_io::marks_are_answered(),
        })
    }
}

/// The rules of this thread's network namespace, as far as they were needed.
pub struct RulesInUse {
    rules: NatRules,
    /// The number of `nf_tables` tables. They come first.
    nf_tables: usize,
    /// `None` once everything was read.
    partial: Option<(Dumps, Ruleset)>,
    /// The undecoded chains of the iptables-legacy tables, which come after the `nf_tables` tables.
    legacy: Vec<xt::Entries>,
    /// The generation of `nf_tables`. `None` if it could not be read.
    generation: Option<u32>,
}

impl RulesInUse {
    /// Reads all rules.
    pub fn all() -> Self {
        let generation = Dumps::open().ok().and_then(|mut d| d.generation().ok());
        Self {
            rules: read_io::read(),
            nf_tables: 0,
            partial: None,
            legacy: Vec::new(),
            generation,
        }
    }

    /// Reads the base chains, and the parts that are needed in any case.
    pub fn some(root: &Path) -> Self {
        Self::try_some(root).unwrap_or_else(|_| Self::all())
    }

    fn try_some(root: &Path) -> Result<Self, DumpError> {
        let mut dumps = Dumps::open()?;
        let generation = dumps.generation()?;
        let mut set = Ruleset::partial();
        for get in [Get::Tables, Get::Chains] {
            dumps.dump(|w, seq| nft::request(w, seq, get), |m| set.add(get, m))?;
        }
        let mut rules = NatRules {
            tables: set.take_tables(),
            marks_are_answered: read_io::marks_are_answered(),
            no_copies: read_io::no_copies(root),
            ..NatRules::default()
        };
        let nf_tables = rules.tables.len();
        let legacy = read_io::read_legacy(&mut rules, false);
        let mut out = Self {
            rules,
            nf_tables,
            partial: Some((dumps, set)),
            legacy,
            generation: Some(generation),
        };
        for _ in 0..MAX_ROUNDS {
            let needs = first(&out.rules);
            if needs.is_empty() {
                nft::own::leave_out(&mut out.rules.tables);
                return Ok(out);
            }
            out.read_more(&needs)?;
        }
        Err(DumpError::Interrupted)
    }

    pub fn rules(&self) -> &NatRules {
        &self.rules
    }

    /// True if the rules have not changed since. False if a part of them changes without an event.
    pub fn still_hold(&self) -> bool {
        !self.rules.changes_unannounced()
            && self.rules.unread.is_empty()
            && self.version().is_some()
            && self.version() == RulesVersion::now()
    }

    /// The version of the rules. `None` as for [`RulesVersion::now`].
    pub fn version(&self) -> Option<RulesVersion> {
        Some(RulesVersion {
            generation: self.generation?,
            marks_are_answered: self.rules.marks_are_answered,
        })
    }

    /// Decides for these devices. Reads more rules if the answers need them.
    pub fn decide(&mut self, devices: &[OuterFlow]) -> Vec<Exposure> {
        for _ in 0..MAX_ROUNDS {
            if self.partial.is_none() || self.rules.uses_ipsets() {
                break;
            }
            let answers = devices.iter().map(|device| answer(&self.rules, device));
            let mut done = Vec::new();
            let mut needs = BTreeSet::new();
            let mut open = false;
            for answer in answers {
                match answer {
                    Ok(exposure) => done.push(exposure),
                    Err(more) => {
                        open = true;
                        needs.extend(more.needs);
                    }
                }
            }
            if !open {
                return done;
            }
            if needs.is_empty() || needs.len() > MAX_NEEDS || self.read_more(&needs).is_err() {
                break;
            }
        }
        if self.partial.is_some() {
            *self = Self::all();
        }
        let rules = &self.rules;
        devices
            .iter()
            .map(|device| analyze(rules, device))
            .collect()
    }

    /// Reads these parts too. After an error, for example because the rules changed, the caller reads everything.
    fn read_more(&mut self, needs: &BTreeSet<Need>) -> Result<(), DumpError> {
        let Some((dumps, set)) = &mut self.partial else {
            return Ok(());
        };
        let mut legacy = self.rules.tables.split_off(self.nf_tables);
        set.put_tables(std::mem::take(&mut self.rules.tables));
        for need in needs {
            match *need {
                Need::Chain(table, chain) if table >= self.nf_tables => {
                    let n = table - self.nf_tables;
                    if let Some((entries, table)) = self.legacy.get(n).zip(legacy.get_mut(n)) {
                        entries.decode(table, chain)?;
                    }
                }
                Need::Chain(table, chain) => read_chain(dumps, set, table, chain)?,
                Need::Set(table, n) => read_elements(dumps, set, table, n)?,
            }
        }
        if dumps.interrupted || Some(dumps.generation()?) != self.generation {
            return Err(DumpError::Interrupted);
        }
        self.rules.tables = set.take_tables();
        self.rules.tables.extend(legacy);
        let shaky = |need: &Need| matches!(*need, Need::Set(t, n) if can_change(&self.rules, t, n));
        if needs.iter().any(shaky) {
            return Err(DumpError::Interrupted);
        }
        Ok(())
    }
}

/// Reads the rules of a chain, and reads them again if they name sets that were not known.
fn read_chain(
    dumps: &mut Dumps,
    rules: &mut Ruleset,
    table: usize,
    chain: u32,
) -> Result<(), DumpError> {
    for _ in 0..2 {
        let Some(of) = rules.begin_rules(table, chain) else {
            break;
        };
        dumps.dump(
            |w, seq| nft::chain_rules_request(w, seq, (of.key.family, &of.key.name, &of.name)),
            |m| rules.add_rule_of(&of, m),
        )?;
        let unknown = rules.take_unknown_sets(table);
        if unknown.is_empty() {
            break;
        }
        for name in unknown {
            dumps.one(
                |w, seq| nft::set_request(w, seq, (of.key.family, &of.key.name, &name)),
                |m| rules.add(Get::Sets, m),
            )?;
        }
    }
    Ok(())
}

fn read_elements(
    dumps: &mut Dumps,
    rules: &mut Ruleset,
    table: usize,
    set: u32,
) -> Result<(), DumpError> {
    match rules.set(table, set) {
        Some(wanted) => read_io::elements(dumps, rules, &wanted),
        None => Ok(()),
    }
}
