//! One pass over the devices: the path that the verbs and `watch` share.
//!
//! Owns the sockets, the policy and the record of one process, and the order: write the record, set, correct the
//! record. Does not decide: `offload::plan` does. Does not print or log its changes: the caller has the report.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use log::warn;

use super::answers_io::KeptAnswers;
use super::apply_io::apply;
use super::charge_io::{self, Charge};
use super::discover_io::{Discovery, Selection};
use super::facts::{Device, Facts};
use super::health::Limit;
use super::judge::{ReasonCode, depends_on};
use super::plan::{Action, DevicePlan, Note, Plan, decide, own_features};
use super::record::{Identity, Netns, NewEntry, State};
use super::record_io::{self, Lock, StateFile};
use super::report::{Changes, KernelReport, Outcome};
use super::units_io;
use super::untrack::{RuleNote, RulePlan, RuleStep};
use crate::error::Error;
use crate::ethtool::backend_io::{Backend, Choice};
use crate::ethtool::{Feature, FeatureTable};
use crate::kernel::verdict::judge;
use crate::kernel::{self, KernelFacts, KernelVerdict, Measurements, Trigger};
use crate::link::segmentation::{Segmentation, segmentation};
use crate::nat::exposure::{Doubt, Exposure, NoCure, OuterFlow};
use crate::nat::nft::own::{self, OwnTable, Packets};
use crate::nat::own_io;
use crate::nat::partial_io::RulesInUse;
use crate::policy::files_io::{self, Wanted};
use crate::policy::{Cure, Policy};
use crate::probe::{ProbeRun, file_io, run_io};

/// The measurements of a probe. Empty without a probe.
pub fn measurements(probe: Option<&ProbeRun>) -> Measurements {
    probe.map(ProbeRun::measurements).unwrap_or_default()
}

/// The options of a process.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory below which all files are read.
    pub root: PathBuf,
    /// The policy file from the command line.
    pub policy: Option<PathBuf>,
    pub backend: Choice,
}

/// The facts and sockets of one process.
pub struct Node {
    options: Options,
    pub policy: Policy,
    pub kernel: KernelFacts,
    /// The verdict on the running kernel.
    pub verdict: KernelVerdict,
    /// The probe of this boot.
    pub probe: Option<ProbeRun>,
    /// The NAT rules. `None` if no decision needed them yet.
    pub rules: Option<RulesInUse>,
    /// The dependencies of the last decisions.
    pub depends_on: Dependencies,
    keep_rules: bool,
    ignore_rules: bool,
    backend: Backend,
    discovery: Discovery,
    record: StateFile,
    answers: KeptAnswers,
    /// Answers that are not stored yet.
    new_answers: Vec<(OuterFlow, Exposure)>,
    netns: Netns,
    /// The required content of vxcsum's own table, according to the record of the last look.
    kept_packets: Packets,
}

/// What decisions depend on, besides the devices themselves.
#[derive(Clone, Debug, Default)]
pub struct Dependencies {
    /// The decisions depend on the NAT rules.
    pub rules: bool,
    /// The decisions depend on destinations: a device that is not exposed can become exposed with a new destination.
    pub destinations: bool,
    /// The decisions depend on forwarding and the devices below: after a change, packets can be segmented twice.
    pub segmentation: bool,
    /// The devices whose first peer changes a decision.
    pub waiting: BTreeSet<u32>,
}

/// The result of carrying out a plan.
pub struct Applied {
    /// By ifindex and feature.
    pub changes: Changes,
    /// The devices whose conflict began in this run.
    pub conflicts: HashSet<u32>,
}

/// The right to change devices and their record.
pub struct Locked {
    lock: Lock,
    state: State,
}

impl Node {
    /// Reads the policy first: with an invalid policy, no device is looked at.
    ///
    /// # Errors
    /// The policy is not valid, or a request to the kernel fails.
    pub fn open(options: Options) -> Result<Self, Error> {
        let policy = load_policy(&options.root, options.policy.as_deref())?;
        Self::with_policy(options, policy)
    }

    /// For `revert`, which needs neither the policy nor the NAT rules. Giving back must work with any policy, above all
    /// when the package is removed.
    ///
    /// # Errors
    /// A request to the kernel fails.
    pub fn open_to_revert(options: Options) -> Result<Self, Error> {
        let policy = load_policy(&options.root, options.policy.as_deref()).unwrap_or_else(|_| {
            warn!("the policy is not valid: ignored by revert; see `vxcsum policy check`");
            Policy::built_in()
        });
        Ok(Self {
            ignore_rules: true,
            ..Self::with_policy(options, policy)?
        })
    }

    fn with_policy(options: Options, policy: Policy) -> Result<Self, Error> {
        let kernel = kernel::read_io::kernel_facts(&options.root, |note| warn!("{note}"));
        let probe = load_probe(&options.root);
        let verdict = judge(&kernel, &policy.kernels, &measurements(probe.as_ref()));
        let backend = Backend::open(options.backend)?;
        let discovery = Discovery::open()?;
        let record = StateFile::new(&options.root);
        let answers = KeptAnswers::new(&options.root);
        Ok(Self {
            options,
            policy,
            kernel,
            verdict,
            probe,
            rules: None,
            depends_on: Dependencies::default(),
            keep_rules: false,
            ignore_rules: false,
            backend,
            discovery,
            record,
            answers,
            new_answers: Vec::new(),
            netns: record_io::netns(),
            kept_packets: Packets::new(),
        })
    }

    /// From now on the NAT rules are read again only after [`Self::forget_rules`], because the caller listens for
    /// changes.
    pub fn keep_rules(&mut self) {
        self.keep_rules = true;
    }

    /// Notes that the NAT rules may have changed.
    pub fn forget_rules(&mut self) {
        self.rules = self.rules.take().filter(RulesInUse::still_hold);
    }

    /// True if some of the NAT rules change without an event.
    pub fn rules_change_unannounced(&self) -> bool {
        let rules = self.rules.as_ref().map(RulesInUse::rules);
        rules.is_some_and(|rules| rules.changes_unannounced() || rules.marks_are_answered)
    }

    /// Reads the policy and the probe again. True if the policy is another one.
    ///
    /// # Errors
    /// The policy is not valid. The old policy stays.
    pub fn reload(&mut self) -> Result<bool, Error> {
        let policy = load_policy(&self.options.root, self.options.policy.as_deref())?;
        let changed = policy != self.policy;
        self.policy = policy;
        self.probe = load_probe(&self.options.root);
        self.verdict = judge(
            &self.kernel,
            &self.policy.kernels,
            &measurements(self.probe.as_ref()),
        );
        self.forget_rules();
        Ok(changed)
    }

    /// Takes charge of the devices: units and other watches leave them alone while it is held.
    ///
    /// # Errors
    /// Another process is in charge.
    pub fn take_charge(&self) -> Result<Charge, Error> {
        charge_io::take(&self.options.root, self.netns)
    }

    /// True if a unit or a `watch` keeps the devices as they must be after this process.
    pub fn persistent(&self) -> bool {
        let root = &self.options.root;
        units_io::enabled(root) || charge_io::announced(root, self.netns)
    }

    /// True if a `watch --exclusive` is in charge.
    pub fn another_is_in_charge(&self) -> bool {
        charge_io::taken(&self.options.root, self.netns)
    }

    /// The interface in use.
    pub fn backend(&self) -> crate::ethtool::BackendName {
        self.backend.name()
    }

    /// Why the record of what vxcsum turned off is incomplete, if it is.
    pub fn record_lost(&self) -> Option<String> {
        self.record.lost()
    }

    pub fn kernel_report(&self) -> KernelReport {
        KernelReport::new(&self.kernel, self.verdict.clone())
    }

    /// The parts of the NAT rules that could not be read. `None` if all could be read, or if no decision needed the
    /// rules.
    pub fn limit(&self) -> Option<Limit> {
        let rules = self.rules.as_ref()?.rules();
        Limit::of_rules(&rules.unread, rustix::process::geteuid().is_root())
    }

    /// Ends the conflicts of these devices, because a user named them.
    pub fn end_backoffs(&self, facts: &mut Facts, locked: &mut Locked) {
        for device in &mut facts.devices {
            let identity = self.identity(device);
            for feature in Feature::ALL {
                if device.history[feature].contested.take().is_some() {
                    locked.state.forget_flips(&identity, feature);
                }
            }
            if device.rule.unusable.take().is_some() {
                device.rule.in_backoff = false;
                locked.state.retry_rule(&identity);
            }
        }
    }

    /// Looks without the intention to change anything.
    ///
    /// # Errors
    /// A request to the kernel fails, or a named device is not a VXLAN or Geneve device.
    pub fn look(&mut self, selection: Selection<'_>) -> Result<Facts, Error> {
        let state = self.record.load(None);
        self.facts(selection, &state, false)
    }

    /// Looks at all facts, also at facts on which no decision depends.
    ///
    /// # Errors
    /// As [`Self::look`].
    pub fn look_at_all(&mut self, selection: Selection<'_>) -> Result<Facts, Error> {
        let state = self.record.load(None);
        self.facts(selection, &state, true)
    }

    /// Waits until no other vxcsum process makes changes.
    ///
    /// # Errors
    /// Another process holds the lock too long.
    pub fn lock(&self) -> Result<Locked, Error> {
        let lock = self.record.lock().map_err(Error::Io)?;
        let state = self.record.load(Some(&lock));
        Ok(Locked { lock, state })
    }

    /// Looks with the intention to make changes.
    ///
    /// # Errors
    /// As [`Self::look`].
    pub fn look_locked(
        &mut self,
        selection: Selection<'_>,
        locked: &Locked,
    ) -> Result<Facts, Error> {
        let facts = self.facts(selection, &locked.state, false)?;
        // `watch` keeps the rules in memory instead.
        let new = std::mem::take(&mut self.new_answers);
        if let Some(rules) = self.rules.as_ref().filter(|_| !self.keep_rules) {
            self.answers.save(self.netns, rules, new);
        }
        Ok(facts)
    }

    /// `All` if these are all devices. Without a record of vxcsum's own table, only that tells that no device needs it.
    pub fn widened<'s>(&mut self, which: Selection<'s>) -> Selection<'s> {
        match which {
            Selection::Named(names) if self.discovery.are_all(names) => Selection::All,
            _ => which,
        }
    }

    /// The decision of every command except `revert`.
    pub fn plan<'a>(&self, facts: &'a Facts) -> Plan<'a> {
        decide(&self.policy, facts, &self.verdict)
    }

    fn facts(
        &mut self,
        selection: Selection<'_>,
        state: &State,
        rules: bool,
    ) -> Result<Facts, Error> {
        let (table, mut devices) = self.discovery.devices(&mut self.backend, selection)?;
        let now = record_io::now();
        for device in &mut devices {
            let identity = self.identity(device);
            device.history = state.history(&identity, now);
            device.rule = state.rule_history(&identity, now);
        }
        // Reading many rules takes seconds.
        let needs = |trigger| depends_on(trigger, &self.policy, &devices, &self.verdict);
        let nat = rules || !self.ignore_rules && needs(Trigger::Nat);
        let segmentation = rules || !self.ignore_rules && needs(Trigger::Segmentation);
        if nat || segmentation {
            let flows = self.discovery.outer_flows(&devices)?;
            if segmentation {
                let forwards = self.discovery.forwards();
                for (device, (flow, _)) in devices.iter_mut().zip(&flows) {
                    device.segmentation = segmented(device, &table, forwards, flow);
                }
            }
            if nat {
                self.expose(&mut devices, &flows, rules);
            }
            for (device, (flow, no_peers)) in devices.iter_mut().zip(flows) {
                device.no_peers = no_peers;
                device.remotes = flow.remotes;
            }
        }
        match selection {
            Selection::All => self.depends_on = Dependencies::default(),
            Selection::ByIfindex(gone) => self.depends_on.waiting.retain(|i| !gone.contains(i)),
            Selection::Named(_) | Selection::NamedIfPresent(_) => {}
        }
        let waiting = devices.iter().filter(|d| d.no_peers);
        self.depends_on
            .waiting
            .extend(waiting.map(|d| d.link.ifindex));
        let harmless = |d: &Device| d.no_peers || matches!(*d.exposure, Exposure::NotExposed(_));
        self.depends_on.rules |= nat;
        self.depends_on.destinations |= nat && devices.iter().any(harmless);
        // The cure against NAT also cures this.
        let once = |d: &Device| {
            d.segmentation.twice() == Some(false)
                && (!nat || harmless(d) || d.rule.packets.is_some())
        };
        self.depends_on.segmentation |= segmentation && devices.iter().any(once);
        let whole = matches!(selection, Selection::All);
        let asks = state.has_rules(self.netns)
            || (self.ignore_rules && whole)
            || (nat && self.wants_rules(&devices));
        self.kept_packets = state.packets(self.netns, now);
        Ok(Facts {
            kernel: self.kernel.clone(),
            table,
            devices,
            own_table: asks.then(own_io::read),
        })
    }

    /// True if the policy wants rules instead of turning the offload off.
    fn wants_rules(&self, devices: &[Device]) -> bool {
        let mut rules = devices
            .iter()
            .map(|d| self.policy.deciding_rule(&d.subject()));
        rules.any(|rule| self.policy.cure_for(rule).0 == Cure::Notrack)
    }

    /// True if vxcsum's own table differs from its required content, according to the record of the last look.
    pub fn lost_rules(&self) -> bool {
        let wanted = &self.kept_packets;
        let as_wanted =
            |found: &OwnTable| matches!(found, OwnTable::Made(found) if found == wanted);
        !wanted.is_empty() && !own_io::read().is_ok_and(|found| as_wanted(&found))
    }

    /// True if vxcsum's own table must have rules.
    pub fn keeps_rules(&self) -> bool {
        !self.kept_packets.is_empty()
    }

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

    /// Fills in the exposure of these devices. Reads only the rules that this needs, or all rules with `all`.
    fn expose(&mut self, devices: &mut [Device], flows: &[(OuterFlow, bool)], all: bool) {
        if !self.keep_rules {
            self.forget_rules();
        }
        let open = flows.iter().filter(|(_, no_peers)| !no_peers);
        let open: Vec<_> = open.map(|(flow, _)| flow.clone()).collect();
        let kept = || self.answers.load(self.netns, &open);
        let read = all || self.keep_rules || self.rules.is_some();
        // Only all rules can show that a notrack rule is enough.
        let wants_rules = self.wants_rules(devices);
        let lacks = |exposures: &[Exposure]| {
            let found = exposures.iter().filter_map(Exposure::exposed);
            wants_rules
                && found
                    .into_iter()
                    .any(|found| found.notrack == Err(NoCure::NotAsked))
        };
        let kept = (!read).then(kept).flatten();
        let exposures = if let Some(kept) = kept.filter(|kept| !lacks(kept)) {
            kept
        } else {
            let rules = if all {
                self.rules.insert(RulesInUse::all())
            } else {
                self.rules
                    .get_or_insert_with(|| RulesInUse::some(&self.options.root))
            };
            let mut exposures = rules.decide(&open);
            if lacks(&exposures) {
                exposures = self.rules.insert(RulesInUse::all()).decide(&open);
            }
            self.new_answers = open.into_iter().zip(exposures.iter().cloned()).collect();
            exposures
        };
        let mut exposures = exposures.into_iter();
        for (device, (_, no_peers)) in devices.iter_mut().zip(flows) {
            let decided = if *no_peers { None } else { exposures.next() };
            device.exposure = Rc::new(decided.unwrap_or(Exposure::Unknown(Doubt::NoPeers)));
        }
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

    fn identity(&self, device: &Device) -> Identity {
        Identity::new(self.netns, &device.link)
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
}

fn segmented(
    device: &Device,
    table: &FeatureTable,
    forwards: Option<bool>,
    flow: &OuterFlow,
) -> Segmentation {
    let own = own_features(device, table);
    let underlay = device.underlay.as_deref();
    segmentation(
        &device.link,
        own,
        forwards,
        underlay,
        flow.other_egress.is_some(),
    )
}

fn is_off(plan: &DevicePlan<'_>, table: &FeatureTable) -> bool {
    plan.device
        .state(table, plan.feature)
        .is_some_and(crate::ethtool::FeatureState::off)
}

/// Lets other processes know that this one keeps the devices as they must be, as long as the value lives.
pub fn announce(options: &Options) -> Charge {
    charge_io::announce(&options.root, record_io::netns())
}

/// The probe of this boot. Logs a warning about a file that is not used.
pub fn load_probe(root: &Path) -> Option<ProbeRun> {
    file_io::load(root, &run_io::host(), |note| warn!("{note}"))
}

/// Reads the policy of this machine.
///
/// # Errors
/// The policy is not valid.
pub fn load_policy(root: &Path, path: Option<&Path>) -> Result<Policy, Error> {
    let wanted = path.map_or(Wanted::Default, Wanted::Path);
    files_io::load(root, wanted, rustix::process::geteuid().is_root()).map_err(Error::Policy)
}

/// Checks whether this process may change devices, as far as its own capabilities say.
///
/// # Errors
/// One sentence about what is missing.
pub fn require_net_admin() -> Result<(), Error> {
    use rustix::thread::{CapabilitySet, capabilities};
    match capabilities(None) {
        Ok(sets) if !sets.effective.contains(CapabilitySet::NET_ADMIN) => Err(Error::Permission(
            "changing a device needs CAP_NET_ADMIN: run it as root. To look first: vxcsum --dry-run".to_owned(),
        )),
        // If capabilities cannot be read, the kernel decides when a device is set.
        _ => Ok(()),
    }
}
