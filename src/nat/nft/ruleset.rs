//! Puts the messages of several dumps together into tables.
//!
//! Owns the names: rules name chains and sets, the model has indices. Pure.

use std::collections::HashMap;

use super::{Get, Message, Names, TableKey, expr, sets};
use crate::fault::Malformed;
use crate::nat::rules::{Backend, Chain, Expr, Family, Table};

/// The tables so far. Dormant tables are left out: no packet sees them.
#[derive(Default)]
pub struct Ruleset {
    tables: Vec<Table>,
    index: HashMap<TableKey, Index>,
}

/// The names of one table.
#[derive(Default)]
struct Index {
    table: usize,
    chains: HashMap<Box<[u8]>, u32>,
    sets: HashMap<Box<[u8]>, u32>,
}

impl Names for Index {
    fn chain(&self, name: &[u8]) -> Option<u32> {
        self.chains.get(name).copied()
    }

    fn set(&self, name: &[u8]) -> Option<u32> {
        self.sets.get(name).copied()
    }
}

/// A set that a rule uses, so that its elements matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The table it is in.
    pub key: TableKey,
    /// Its index there.
    pub set: u32,
    /// Its name.
    pub name: Box<[u8]>,
}

fn number(n: usize) -> Result<u32, Malformed> {
    u32::try_from(n).map_err(|_| Malformed("number of chains"))
}

impl Ruleset {
    /// One message of the answer to a request. Tables come first, then chains and sets, then rules.
    pub fn add(&mut self, get: Get, m: &Message<'_>) -> Result<(), Malformed> {
        match get {
            Get::Tables => {
                let (family, name, dormant) = super::table(m)?;
                if !dormant {
                    let key = TableKey {
                        family,
                        name: name.clone(),
                    };
                    let table = self.tables.len();
                    self.index.insert(
                        key,
                        Index {
                            table,
                            ..Index::default()
                        },
                    );
                    self.tables.push(Table {
                        backend: Backend::NfTables,
                        family: Family::from_nfproto(family),
                        name,
                        chains: Vec::new(),
                        sets: Vec::new(),
                    });
                }
            }
            Get::Chains => {
                let super::ChainHead {
                    key,
                    name,
                    base,
                    devices,
                } = super::chain(m)?;
                if let Some(i) = self.index.get_mut(&key) {
                    let chains = &mut self.tables[i.table].chains;
                    i.chains.insert(name.clone(), number(chains.len())?);
                    chains.push(Chain {
                        name,
                        base,
                        devices,
                        rules: Vec::new(),
                    });
                }
            }
            Get::Sets => {
                let (key, set) = sets::set(m)?;
                if let Some(i) = self.index.get_mut(&key) {
                    let sets = &mut self.tables[i.table].sets;
                    i.sets.insert(set.name.clone(), number(sets.len())?);
                    sets.push(set);
                }
            }
            Get::Rules => {
                let (key, chain) = expr::rule_place(m)?;
                // What came between two dumps is not known here; the generation tells.
                if let Some(i) = self.index.get(&key)
                    && let Some(&chain) = i.chains.get(chain)
                {
                    let rule = expr::rule(m, i)?;
                    let table = &mut self.tables[i.table];
                    for e in &rule.exprs {
                        if let Expr::UpdateSet { set: Some(set) } = e
                            && let Some(set) = table.sets.get_mut(*set as usize)
                        {
                            set.dynamic = true;
                        }
                    }
                    table.chains[chain as usize].rules.push(rule);
                }
            }
            Get::Generation | Get::IpSets => {}
        }
        Ok(())
    }

    /// The sets whose elements are to be asked for.
    pub fn wanted(&self) -> Vec<Wanted> {
        let mut out = Vec::new();
        for (key, i) in &self.index {
            let table = &self.tables[i.table];
            let exprs = table
                .chains
                .iter()
                .flat_map(|c| &c.rules)
                .flat_map(|r| &r.exprs);
            let mut used: Vec<u32> = exprs
                .filter_map(|e| match e {
                    Expr::Lookup { set, .. } => *set,
                    _ => None,
                })
                .collect();
            used.sort_unstable();
            used.dedup();
            out.extend(used.into_iter().filter_map(|set| {
                Some(Wanted {
                    key: key.clone(),
                    set,
                    name: table.sets.get(set as usize)?.name.clone(),
                })
            }));
        }
        out
    }

    /// Begins the elements of a set: it has been asked for.
    pub fn begin_elements(&mut self, of: &Wanted) {
        if let Some(i) = self.index.get(&of.key)
            && let Some(set) = self.tables[i.table].sets.get_mut(of.set as usize)
        {
            set.elements = Some(Vec::new());
        }
    }

    /// One message with elements of a set.
    pub fn add_elements(&mut self, of: &Wanted, m: &Message<'_>) -> Result<(), Malformed> {
        if let Some(i) = self.index.get(&of.key)
            && let Some(set) = self.tables[i.table].sets.get_mut(of.set as usize)
        {
            sets::elements(m, i, set.elements.get_or_insert_default())?;
        }
        Ok(())
    }

    /// Forgets the elements of a set that could not be read to the end.
    pub fn forget_elements(&mut self, of: &Wanted) {
        if let Some(i) = self.index.get(&of.key)
            && let Some(set) = self.tables[i.table].sets.get_mut(of.set as usize)
        {
            set.elements = None;
        }
    }

    /// All tables.
    pub fn finish(self) -> Vec<Table> {
        self.tables
    }
}
