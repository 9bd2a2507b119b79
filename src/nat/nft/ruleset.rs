//! Combines the messages of several dumps into tables.
//!
//! Owns the names: rules name chains and sets, and the model has indices. Pure.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};

use super::{Get, Message, Names, TableKey, expr, sets};
use crate::fault::Malformed;
use crate::nat::rules::{Chain, Expr, RuleStore, Table, TableFamily};

/// The tables so far. Dormant tables are left out, because no packet passes them.
#[derive(Default)]
pub struct Ruleset {
    tables: Vec<Table>,
    index: HashMap<TableKey, Index>,
    partial: bool,
}

/// The names of one table.
#[derive(Default)]
struct Index {
    table: usize,
    chains: RefCell<HashMap<Box<[u8]>, u32>>,
    /// An unknown name belongs to a chain that was not read.
    partial: bool,
    /// Unread chains that the table does not have yet, in the order of their indices.
    unread: RefCell<Vec<Chain>>,
    next: Cell<u32>,
    sets: HashMap<Box<[u8]>, u32>,
    /// Sets that rules name and that were not added.
    unknown: RefCell<BTreeSet<Box<[u8]>>>,
}

impl Index {
    fn known(&self, chain: &[u8]) -> Option<u32> {
        self.chains.borrow().get(chain).copied()
    }
}

impl Names for Index {
    fn chain(&self, name: &[u8]) -> Option<u32> {
        let known = self.known(name);
        if known.is_some() || !self.partial {
            return known;
        }
        let number = self.next.get();
        self.next.set(number.checked_add(1)?);
        self.chains.borrow_mut().insert(name.into(), number);
        let mut chain = Chain {
            name: name.into(),
            base: None,
            devices: Box::default(),
            rules: Vec::new(),
        };
        chain.leave_unread();
        self.unread.borrow_mut().push(chain);
        Some(number)
    }

    fn set(&self, name: &[u8]) -> Option<u32> {
        let set = self.sets.get(name).copied();
        if set.is_none() {
            self.unknown.borrow_mut().insert(name.into());
        }
        set
    }
}

/// A chain whose rules are to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainOf {
    pub key: TableKey,
    pub name: Box<[u8]>,
}

/// A set that a rule uses, so its elements are needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetOf {
    pub key: TableKey,
    /// The index in the table.
    pub set: u32,
    pub name: Box<[u8]>,
}

fn number(n: usize) -> Result<u32, Malformed> {
    u32::try_from(n).map_err(|_| Malformed("number of chains"))
}

impl Ruleset {
    /// Starts with the base chains, none of them read. Chains that the rules name are added later.
    pub fn partial() -> Self {
        Self {
            partial: true,
            ..Self::default()
        }
    }

    /// Adds one message of the answer to a request. Tables come first, then chains and sets, then rules.
    pub fn add(&mut self, get: Get, m: &Message<'_>) -> Result<(), Malformed> {
        match get {
            Get::Tables => {
                let super::TableHead {
                    key,
                    dormant,
                    goes_unannounced,
                } = super::table(m)?;
                if !dormant {
                    let (family, name) = (key.family, key.name.clone());
                    let table = self.tables.len();
                    self.index.insert(
                        key,
                        Index {
                            table,
                            partial: self.partial,
                            ..Index::default()
                        },
                    );
                    self.tables.push(Table {
                        backend: RuleStore::NfTables,
                        family: TableFamily::from_nfproto(family),
                        name,
                        chains: Vec::new(),
                        sets: Vec::new(),
                        goes_unannounced,
                    });
                }
            }
            // A cluster has tens of thousands of other chains.
            Get::Chains if self.partial && !super::is_base(m)? => {}
            Get::Chains => {
                let super::ChainHead {
                    key,
                    name,
                    base,
                    devices,
                } = super::chain(m)?;
                if let Some(i) = self.index.get_mut(&key) {
                    let chains = &mut self.tables[i.table].chains;
                    let n = number(chains.len())?;
                    i.chains.get_mut().insert(name.clone(), n);
                    i.next.set(n + 1);
                    let mut chain = Chain {
                        name,
                        base,
                        devices,
                        rules: Vec::new(),
                    };
                    if self.partial {
                        chain.leave_unread();
                    }
                    chains.push(chain);
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
                // The table may be new since the first dump. The generation shows that.
                if let Some(i) = self.index.get(&key)
                    && let Some(chain) = i.known(chain)
                {
                    let rule = expr::rule(m, i)?;
                    let table = &mut self.tables[i.table];
                    table.chains.append(&mut i.unread.take());
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

    /// The sets whose elements are to be read.
    pub fn wanted(&self) -> Vec<SetOf> {
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
                Some(SetOf {
                    key: key.clone(),
                    set,
                    name: table.sets.get(set as usize)?.name.clone(),
                })
            }));
        }
        out
    }

    fn key(&self, table: usize) -> Option<&TableKey> {
        let mut all = self.index.iter();
        all.find_map(|(key, i)| (i.table == table).then_some(key))
    }

    /// Starts the rules of a chain. Call it before the request.
    pub fn begin_rules(&mut self, table: usize, chain: u32) -> Option<ChainOf> {
        let key = self.key(table)?.clone();
        let chain = self.tables[table].chains.get_mut(chain as usize)?;
        chain.rules.clear();
        let name = chain.name.clone();
        Some(ChainOf { key, name })
    }

    /// Adds one message with a rule of a chain. Old kernels also send rules of other chains.
    pub fn add_rule_of(&mut self, of: &ChainOf, m: &Message<'_>) -> Result<(), Malformed> {
        let (key, chain) = expr::rule_place(m)?;
        if key == of.key && *chain == *of.name {
            self.add(Get::Rules, m)?;
        }
        Ok(())
    }

    /// The sets that rules of a table name and that were not added.
    pub fn take_unknown_sets(&mut self, table: usize) -> BTreeSet<Box<[u8]>> {
        let mut all = self.index.values();
        let index = all.find(|i| i.table == table);
        index.map(|i| i.unknown.take()).unwrap_or_default()
    }

    /// A set by its index.
    pub fn set(&self, table: usize, set: u32) -> Option<SetOf> {
        Some(SetOf {
            key: self.key(table)?.clone(),
            set,
            name: self.tables[table].sets.get(set as usize)?.name.clone(),
        })
    }

    /// Takes the tables out. They must be put back before anything is added.
    pub fn take_tables(&mut self) -> Vec<Table> {
        std::mem::take(&mut self.tables)
    }

    /// Puts the tables back.
    pub fn put_tables(&mut self, tables: Vec<Table>) {
        self.tables = tables;
    }

    /// Starts the elements of a set. Call it after the request.
    pub fn begin_elements(&mut self, of: &SetOf) {
        if let Some(i) = self.index.get(&of.key)
            && let Some(set) = self.tables[i.table].sets.get_mut(of.set as usize)
        {
            set.elements = Some(Vec::new());
        }
    }

    /// Adds one message with elements of a set.
    pub fn add_elements(&mut self, of: &SetOf, m: &Message<'_>) -> Result<(), Malformed> {
        if let Some(i) = self.index.get(&of.key)
            && let table = &mut self.tables[i.table]
            && let Some(set) = table.sets.get_mut(of.set as usize)
        {
            sets::elements(m, i, set.elements.get_or_insert_default())?;
            table.chains.append(&mut i.unread.take());
        }
        Ok(())
    }

    /// Discards the elements of a set that could not be read completely.
    pub fn forget_elements(&mut self, of: &SetOf) {
        if let Some(i) = self.index.get(&of.key)
            && let Some(set) = self.tables[i.table].sets.get_mut(of.set as usize)
        {
            set.elements = None;
        }
    }

    pub fn finish(self) -> Vec<Table> {
        self.tables
    }
}
