//! One pass over the devices: the path that the verbs and `watch` share.
//!
//! Owns the sockets, the policy and the record of one process, and the look. `change_io` carries a plan out. Does not
//! decide: `offload::plan` does. Does not print or log its changes: the caller has the report.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

mod change_io;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use log::warn;

use super::answers_io::KeptAnswers;
use super::charge_io::{self, Charge};
use super::discover_io::{Discovery, Selection};
use super::facts::{Device, Facts};
use super::health::Limit;
use super::judge::depends_on;
use super::plan::{Plan, decide, own_features};
use super::record::{Identity, Netns, State};
use super::record_io::{self, Lock, StateFile};
use super::report::KernelReport;
use super::units_io;
use crate::error::Error;
use crate::ethtool::backend_io::{Backend, Choice};
use crate::ethtool::{Feature, FeatureTable};
use crate::kernel::verdict::judge;
use crate::kernel::{self, KernelFacts, KernelVerdict, Measurements, Trigger};
use crate::link::segmentation::{Segmentation, segmentation};
use crate::nat::exposure::{Doubt, Exposure, NoCure, OuterFlow};
use crate::nat::nft::own::{OwnTable, Packets};
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

    fn identity(&self, device: &Device) -> Identity {
        Identity::new(self.netns, &device.link)
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
