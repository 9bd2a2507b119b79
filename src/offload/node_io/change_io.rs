//! The changes of one pass, under the lock.
//!
//! Owns the order: write the record, set, correct the record; the rules before the features. Decides nothing.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use log::warn;

use super::{Locked, Node};
use crate::ethtool::{FeatureState, FeatureTable};
use crate::nat::nft::own::{self, OwnTable};
use crate::nat::own_io;
use crate::offload::apply_io::apply;
use crate::offload::discover_io::Selection;
use crate::offload::facts::Facts;
use crate::offload::judge::ReasonCode;
use crate::offload::plan::{Action, DevicePlan, Note, Plan};
use crate::offload::record::{Identity, NewEntry};
use crate::offload::record_io;
use crate::offload::report::{Changes, Outcome};
use crate::offload::untrack::{RuleNote, RulePlan, RuleStep};

/// The result of carrying out a plan.
pub struct Applied {
    /// By ifindex and feature.
    pub changes: Changes,
    /// The devices whose conflict began in this run.
    pub conflicts: HashSet<u32>,
}

impl Node {
    /// Brings vxcsum's own table into the state that the plan requires. The caller makes its plan after that.
    pub fn settle(
        &mut self,
        facts: &mut Facts,
        locked: &mut Locked,
        which: Selection<'_>,
        planner: impl for<'p> Fn(&Self, &'p Facts) -> Plan<'p>,
    ) {
        // Without the table no decision needs a rule.
        if facts.own_table.is_none() {
            return;
        }
        let asks = |rule: &RulePlan| rule.step != RuleStep::Leave || rule.note.is_some();
        let plan = planner(self, facts);
        let devices = plan.devices.iter().filter(|d| asks(&d.untrack));
        let plans: HashMap<u32, RulePlan> = devices
            .map(|d| (d.device.link.ifindex, d.untrack.clone()))
            .collect();
        let whole = matches!(which, Selection::All);
        if whole || !plans.is_empty() || self.has_deleted(facts, locked, which) {
            self.settle_rules(facts, &plans, locked, which);
        }
    }

    /// Brings vxcsum's own table into the state that the plans for these devices require, and adds the result to the
    /// facts. The features are decided after that: if the kernel refuses a rule, the offload goes off instead. The
    /// record is written before, as for the features.
    fn settle_rules(
        &mut self,
        facts: &mut Facts,
        plans: &HashMap<u32, RulePlan>,
        locked: &mut Locked,
        which: Selection<'_>,
    ) {
        let now = record_io::now();
        let had_rules = locked.state.has_rules(self.netns);
        let mut dirty = false;
        let mut after = locked.state.clone();
        for device in &facts.devices {
            let identity = self.identity(device);
            let Some(plan) = plans.get(&device.link.ifindex) else {
                continue;
            };
            dirty |= plan.note.is_some() || plan.step != RuleStep::Leave;
            for state in [&mut locked.state, &mut after] {
                match plan.note {
                    Some(RuleNote::NotExposed) => state.set_rule_not_exposed(&identity, Some(now)),
                    Some(RuleNote::MayBeExposed) => state.set_rule_not_exposed(&identity, None),
                    Some(RuleNote::GiveUp) => state.give_up_rule(&identity, None, now),
                    None => {}
                }
                if let RuleStep::Add(packets) = plan.step {
                    let reason = ReasonCode::Exposed.as_str();
                    state.record_rule(identity, packets, reason, now);
                }
            }
            match plan.step {
                RuleStep::Add(_) => after.confirm_rule(&identity),
                RuleStep::Remove => after.remove_rule(&identity),
                RuleStep::Leave => {}
            }
        }
        if had_rules {
            let there = self.identities(facts);
            dirty |= after.prune(self.netns, &there, |ifindex| which.covers(ifindex));
        }
        let wanted = after.packets(self.netns, now);
        let differs = match &facts.own_table {
            Some(Ok(OwnTable::Made(found))) => *found != wanted,
            Some(Ok(OwnTable::Absent)) => !wanted.is_empty(),
            // If vxcsum keeps no rules, this is the table of another program.
            Some(Ok(OwnTable::Changed)) => !wanted.is_empty() || had_rules,
            Some(Err(_)) | None => false,
        };
        if dirty {
            self.record.save(&locked.state, &locked.lock);
        }
        if differs && !had_rules && wanted.is_empty() {
            warn!(
                "nf_tables table {} is removed: the record of this boot does not know it",
                own::TEXT
            );
        }
        let set = if differs {
            own_io::set(&wanted)
        } else {
            Ok(())
        };
        if differs {
            facts.own_table = Some(own_io::read());
        }
        match &set {
            Ok(()) => locked.state = after,
            Err(fault) => {
                warn!("{fault}");
                for device in &facts.devices {
                    let plan = plans.get(&device.link.ifindex);
                    if plan.is_some_and(|plan| matches!(plan.step, RuleStep::Add(_))) {
                        let said = Some(fault.text.clone());
                        let identity = self.identity(device);
                        locked.state.give_up_rule(&identity, said, now);
                    }
                }
            }
        }
        if dirty {
            self.record.save(&locked.state, &locked.lock);
        }
        self.kept_packets = locked.state.packets(self.netns, now);
        for device in &mut facts.devices {
            let plan = plans.get(&device.link.ifindex);
            let stepped = plan.is_some_and(|plan| plan.step != RuleStep::Leave);
            device.rule = locked.state.rule_history(&self.identity(device), now);
            device.rule.changed = stepped && set.is_ok();
        }
    }

    /// Carries out a plan and keeps the record correct. The record is written before a feature is turned off, so if the
    /// process is killed in between, the record has too many entries, which `revert` detects, and never too few.
    pub fn carry_out(
        &mut self,
        plan: &Plan<'_>,
        locked: &mut Locked,
        which: Selection<'_>,
    ) -> Applied {
        let mut conflicts = HashSet::new();
        if self.write_down(plan, locked, which, &mut conflicts) {
            self.record.save(&locked.state, &locked.lock);
        }
        let changes = apply(plan, &mut self.backend);
        if self.correct(plan, locked, &changes) {
            self.record.save(&locked.state, &locked.lock);
        }
        Applied { changes, conflicts }
    }

    /// Updates the record before the changes. True if it changed.
    fn write_down(
        &self,
        plan: &Plan<'_>,
        locked: &mut Locked,
        which: Selection<'_>,
        conflicts: &mut HashSet<u32>,
    ) -> bool {
        let now = record_io::now();
        let mut dirty = false;
        let mut names: (u128, Rc<Vec<String>>) = (0, Rc::default());
        for device in &plan.devices {
            let (identity, feature) = (self.identity(device.device), device.feature);
            let state = &mut locked.state;
            match device.note {
                Some(Note::NotExposed) => state.set_not_exposed(&identity, feature, Some(now)),
                Some(Note::MayBeExposed) => state.set_not_exposed(&identity, feature, None),
                Some(Note::NotOwned) => state.remove(&identity, feature),
                None => {}
            }
            dirty |= device.note.is_some();
            if device.action == Action::TurnOff {
                if names.0 != device.also {
                    let also = plan.table.named(device.also).into_iter().map(str::to_owned);
                    names = (device.also, Rc::new(also.collect()));
                }
                let new = NewEntry {
                    identity,
                    feature,
                    reason: device.reason.code.as_str(),
                    also_off: Rc::clone(&names.1),
                };
                state.record_off(new, now);
                dirty = true;
            } else if device.reason.code == ReasonCode::Contested {
                if state.start_backoff(&identity, feature, now) {
                    conflicts.insert(device.device.link.ifindex);
                    dirty = true;
                }
            } else if device.device.history[feature].owned && is_off(device, plan.table) {
                dirty |= state.end_backoff(&identity, feature, now);
            }
        }
        let looked_at: Vec<(Identity, bool)> = plan
            .first_rows()
            .map(|device| (self.identity(device.device), device.waits))
            .collect();
        let covers = |ifindex| which.covers(ifindex);
        dirty |= locked
            .state
            .set_waiting(self.netns, &looked_at, covers, now);
        self.record.set_follow_up(locked.state.follow_up(now));
        let there: Vec<Identity> = looked_at.iter().map(|(device, _)| *device).collect();
        dirty | locked.state.prune(self.netns, &there, covers)
    }

    /// Updates the record after the changes. True if it changed.
    fn correct(&self, plan: &Plan<'_>, locked: &mut Locked, changes: &Changes) -> bool {
        let mut dirty = false;
        for device in &plan.devices {
            let (identity, feature) = (self.identity(device.device), device.feature);
            let Some(change) = changes.get(&device.key()) else {
                // Only `revert` gives this reason: the feature is on already.
                if device.reason.code == ReasonCode::AlreadyOn {
                    locked.state.remove(&identity, feature);
                    dirty = true;
                }
                continue;
            };
            match (device.action, change.outcome) {
                (Action::TurnOff, Outcome::Changed) => {
                    let also = plan.table.named(change.also);
                    locked.state.confirm(&identity, feature);
                    locked.state.set_also_off(&identity, feature, &also);
                }
                // Another program turned it on again at once. That counts too, or the conflict would never end.
                (Action::TurnOff, Outcome::Refused) => locked.state.confirm(&identity, feature),
                // A feature that could not be turned on still belongs to vxcsum, unless another program turned it off
                // again at once: `revert` must end, and everything else would repeat forever.
                // A device that is gone may only have another name: the next look finds it, or forgets it.
                (Action::TurnOn, Outcome::Failed) | (_, Outcome::Gone) => continue,
                (Action::TurnOn, Outcome::Refused)
                    if device.reason.code == ReasonCode::TurnedOffByVxcsum =>
                {
                    continue;
                }
                // It is not known whether the kernel made the change, so `revert` must try.
                (Action::TurnOff, Outcome::Failed) if change.feature.is_none() => continue,
                _ => locked.state.remove(&identity, feature),
            }
            dirty = true;
        }
        dirty
    }

    /// True if the record has a device that this look covered and did not find.
    pub fn has_deleted(&self, facts: &Facts, locked: &Locked, which: Selection<'_>) -> bool {
        let covers = |ifindex| which.covers(ifindex);
        let there = self.identities(facts);
        locked.state.has_deleted(self.netns, &there, covers)
    }

    fn identities(&self, facts: &Facts) -> Vec<Identity> {
        facts.devices.iter().map(|d| self.identity(d)).collect()
    }
}

fn is_off(plan: &DevicePlan<'_>, table: &FeatureTable) -> bool {
    plan.device
        .state(table, plan.feature)
        .is_some_and(FeatureState::off)
}
