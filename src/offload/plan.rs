//! Deciding for each VXLAN device whether a feature must be off, and why.
//!
//! Owns the decision and its reasons. Pure: values in, values out. Does not know how a decision is carried out or
//! shown.

use std::fmt;
use std::rc::Rc;

use serde::{Serialize, Serializer};

use super::facts::{Device, Exposure, Facts, History};
use super::untrack::{self, Cured, RulePlan, RuleStep};
use crate::ethtool::{Feature, FeatureState, FeatureTable};
use crate::kernel::{BugId, KernelVerdict, Status, Trigger};
use crate::link::OuterChecksum;
use crate::link::segmentation::{OwnFeatures, Segmentation};
use crate::policy::{AssumeExposure, AssumeKernel, Policy, PolicyRule, Subject, When};
use crate::text::IfName;

codes! {
    /// The action for a device.
    pub enum Action {
        /// Turn the feature off.
        TurnOff = "turn-off",
        /// Turn the feature on again: vxcsum turned it off, and it need not be off any more, or `revert` asks for it.
        TurnOn = "turn-on",
        /// Add a rule that leaves its outer packets untracked, so no NAT sees them. The feature stays on.
        AddRule = "add-rule",
        /// Remove that rule: it is not needed any more, or `revert` asks for it.
        RemoveRule = "remove-rule",
        /// Do nothing.
        Leave = "leave",
    }
}

codes! {
    /// The reason of a decision. The codes are stable; docs/troubleshooting.md lists them.
    pub enum ReasonCode {
        /// The kernel has the bug, and the policy has no further condition.
        KernelAffected = "kernel-affected",
        /// It is not known whether the kernel has the bug, and the policy treats such a kernel as affected.
        KernelUnknown = "kernel-unknown",
        /// As `kernel-affected` or `kernel-unknown`, and NAT on this node can rewrite the outer packets, or the node
        /// can segment them twice.
        Exposed = "exposed",
        /// The kernel has the bug or may have it, but NAT on this node cannot rewrite the outer packets, and they are
        /// not segmented twice: the bug is latent.
        NotExposed = "not-exposed",
        /// As `kernel-affected` or `kernel-unknown`, and it is not known whether NAT on this node can rewrite the outer
        /// packets or whether they are segmented twice. That counts as yes.
        ExposureUnknown = "exposure-unknown",
        /// As `kernel-affected` or `kernel-unknown`, but the device has no peers yet. No packet leaves, so the offload
        /// stays as it is.
        NoPeersYet = "no-peers-yet",
        /// A rule says `always`.
        RuleAlways = "rule-always",
        /// A rule says `never`.
        RuleNever = "rule-never",
        /// `[bugs]` says `never`.
        BugNever = "bug-never",
        /// The kernel does not have the bug.
        KernelNotAffected = "kernel-not-affected",
        /// It is not known whether the kernel has the bug, and the policy treats such a kernel as fixed.
        KernelUnknownFixed = "kernel-unknown-fixed",
        /// It is not known whether NAT on this node can rewrite the outer packets or whether they are segmented twice,
        /// and the policy treats that as no.
        ExposureUnknownNotExposed = "exposure-unknown-not-exposed",
        /// The feature should be off, and it is.
        AlreadyOff = "already-off",
        /// NAT on this node would rewrite the outer packets, but vxcsum's notrack rule prevents that: the feature need
        /// not be off.
        AlreadyUntracked = "already-untracked",
        /// The feature should be off, and the kernel lets nobody change it on this device.
        FeatureFixed = "feature-fixed",
        /// The feature should be off, and this kernel has no feature with this name.
        NoSuchFeature = "no-such-feature",
        /// The feature should be off, and its state could not be read.
        NotReadable = "not-readable",
        /// The feature should be off, and another program keeps turning it on again.
        Contested = "contested",
        /// `revert`: vxcsum turned the feature off since boot.
        TurnedOffByVxcsum = "turned-off-by-vxcsum",
        /// `revert`: vxcsum turned the feature off since boot, and it is on again.
        AlreadyOn = "already-on",
        /// `revert`: vxcsum added a rule for the outer packets since boot.
        UntrackedByVxcsum = "untracked-by-vxcsum",
        /// `revert`: vxcsum did not turn the feature off since boot.
        NotTurnedOffByVxcsum = "not-turned-off-by-vxcsum",
    }
}

/// A reason, with one sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Reason {
    /// For programs.
    pub code: ReasonCode,
    /// For users. Many devices share one text.
    #[serde(serialize_with = "as_text")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub text: Rc<str>,
}

fn as_text<S: Serializer>(text: &Rc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

/// What the bugs of the kernel mean for one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DeviceVerdict {
    /// The worst status of the bugs that the packets of the device can meet.
    pub status: Status,
    /// The bugs with that status. Empty for `not-affected`.
    pub bugs: Vec<BugId>,
}

/// The decision about one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePlan<'a> {
    /// The facts about the device.
    pub device: &'a Device,
    /// What the bugs of the kernel mean for the device.
    pub verdict: DeviceVerdict,
    /// The danger from each trigger. `None` if the packets cannot meet a bug with that trigger.
    pub dangers: PerTrigger<Option<Danger>>,
    /// A decision waits for the first peer.
    pub waits: bool,
    /// The feature must be off, whatever its state.
    pub must_be_off: bool,
    /// The feature of this decision.
    pub feature: Feature,
    pub action: Action,
    pub reason: Reason,
    /// The name and the place of the policy rule that decided. `None` if `[bugs]` decided.
    pub rule: Option<Rc<str>>,
    /// The bits of the features that the kernel will turn off or on together with this feature.
    pub also: u128,
    /// What to do about a rule for the packets.
    pub untrack: RulePlan,
    /// A change of the record.
    pub note: Option<Note>,
    /// In how many seconds the feature is turned on again if nothing changes.
    pub give_back_in: Option<u64>,
}

impl DevicePlan<'_> {
    /// Identifies the decision: the ifindex of the device, and the feature.
    pub fn key(&self) -> (u32, Feature) {
        (self.device.link.ifindex, self.feature)
    }
}

/// A change in the record of a device whose feature vxcsum turned off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// NAT cannot rewrite the outer packets, from now on.
    NotExposed,
    /// NAT can rewrite the outer packets again, or that is not known.
    MayBeExposed,
    /// The feature is on and need not be off. Later changes are not vxcsum's.
    NotOwned,
}

/// The decisions about all devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan<'a> {
    /// The names of the features in the bit sets of the devices.
    pub table: &'a FeatureTable,
    /// By ifindex. Each device has one decision. Decisions about further features that vxcsum turned off and that must
    /// stay off or be turned on again follow it.
    pub devices: Vec<DevicePlan<'a>>,
}

impl Plan<'_> {
    /// True if carrying out the plan changes a device or the record.
    pub fn changes_anything(&self) -> bool {
        self.devices.iter().any(|device| {
            device.action != Action::Leave
                || device.reason.code == ReasonCode::Contested
                || device.note.is_some()
                || device.untrack.step != RuleStep::Leave
                || device.untrack.note.is_some()
        })
    }

    /// The first decision about each device, without those about further features.
    pub fn first_rows(&self) -> impl Iterator<Item = &DevicePlan<'_>> {
        let rows = self
            .devices
            .chunk_by(|a, b| a.device.link.ifindex == b.device.link.ifindex);
        rows.filter_map(<[_]>::first)
    }

    /// In how many seconds the next feature is turned on again if nothing changes.
    pub fn next_give_back(&self) -> Option<u64> {
        self.devices.iter().filter_map(|d| d.give_back_in).min()
    }
}

/// The features that the kernel drops from a device without any transmit checksum: TSO of both families with its
/// variants, and USO.
///
/// <https://github.com/torvalds/linux/blob/v6.12/net/core/dev.c#L10056> (`netdev_fix_features`)
const NEEDS_CHECKSUM: [&str; 5] = [
    "tx-tcp-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-tcp-mangleid-segmentation",
    "tx-tcp6-segmentation",
    "tx-udp-segmentation",
];

/// The features that the kernel turns off together with a feature.
fn dependents(table: &FeatureTable, feature: Feature) -> u128 {
    match feature {
        Feature::Checksum => table.bits(|name| NEEDS_CHECKSUM.contains(&name)),
        Feature::Fraglist => 0,
    }
}

/// Decides about every device.
pub fn decide<'a>(policy: &Policy, facts: &'a Facts, kernel: &KernelVerdict) -> Plan<'a> {
    let table = &facts.table;
    let mut judged: Vec<Judged<'_>> = Vec::new();
    let devices = facts.devices.iter().map(|device| {
        let rule = policy.deciding_rule(&subject(device));
        // Most devices of a node are alike.
        let known = judged
            .iter()
            .position(|known| known.is_of(rule, device))
            .unwrap_or_else(|| {
                judged.push(judge(policy, rule, device, kernel));
                judged.len() - 1
            });
        let judged = &judged[known];
        let ruled = ruled(policy, rule, facts, device, judged);
        match &ruled.judged {
            Some(judged) => rows(policy, device, table, judged, &ruled),
            None => rows(policy, device, table, judged, &ruled),
        }
    });
    Plan {
        table,
        devices: devices.flatten().collect(),
    }
}

/// A judgement, after a rule that leaves the packets of the device untracked was taken into account.
struct Ruled<'a> {
    untrack: RulePlan,
    /// The judgement, if the rule or an objection to it changes it.
    judged: Option<Judged<'a>>,
    /// The judgement about NAT without the rule.
    why: Reason,
    /// How long a rule that is not needed stays.
    wait: Option<Wait>,
}

fn ruled<'a>(
    policy: &Policy,
    rule: Option<&PolicyRule>,
    facts: &Facts,
    device: &Device,
    judged: &Judged<'a>,
) -> Ruled<'a> {
    const NAT: usize = Trigger::Nat as usize;
    let (asks, why) = match &judged.asked[NAT] {
        Some((asks, why)) => (*asks, why),
        None => (false, judged.why(Feature::Checksum, None, false)),
    };
    let asked = asks
        .then(|| untrack::asked(policy, rule, &device.exposure, why.code))
        .flatten();
    let history = &device.rule;
    let wait = wait_before_give_back(policy, history.not_exposed_for, why.code);
    let off = state(device, &facts.table, Feature::Checksum).is_some_and(FeatureState::off);
    let open = asks && !off;
    let (untrack, cured) = untrack::decide_rule(facts, history, &asked, &wait, why.code, open);
    let otherwise = |asks: bool, why: Reason| {
        let mut judged = judged.clone();
        judged.asked[NAT] = Some((asks, why));
        judged
    };
    let with_rule = match &cured {
        Cured::Yes => {
            let mut judged = otherwise(false, untrack::cured(&untrack, why));
            if let Some(danger) = judged.dangers[NAT].as_mut().filter(|_| untrack.in_place) {
                // This decision is about the packets without the rule.
                let found = device.exposure.exposed();
                let suffices = found.is_some_and(|found| found.notrack.is_ok());
                danger.happens = suffices.then_some(false);
                danger.accepted = true;
            }
            Some(judged)
        }
        Cured::No(Some(refusal)) => {
            let text = format!("{}; {refusal}", why.text).into();
            let code = why.code;
            Some(otherwise(asks, Reason { code, text }))
        }
        Cured::No(None) => None,
    };
    Ruled {
        untrack,
        judged: with_rule,
        why: why.clone(),
        wait: (!asks).then_some(wait),
    }
}

/// The decision about a device, followed by one about each other feature that vxcsum turned off.
fn rows<'a>(
    policy: &Policy,
    device: &'a Device,
    table: &FeatureTable,
    judged: &Judged<'_>,
    ruled: &Ruled<'_>,
) -> Vec<DevicePlan<'a>> {
    let needed = judged.needed(device, table);
    let first = needed
        .or_else(|| owned(device).next())
        .unwrap_or(Feature::Checksum);
    let others = owned(device).filter(|feature| *feature != first);
    let features = std::iter::once(first).chain(others);
    features
        .map(|feature| {
            let ruled = (ruled, feature == first);
            row(policy, device, table, judged, ruled, feature, needed)
        })
        .collect()
}

fn row<'a>(
    policy: &Policy,
    device: &'a Device,
    table: &FeatureTable,
    judged: &Judged<'_>,
    // The second value is true for the first entry of the device.
    (ruled, first): (&Ruled<'_>, bool),
    feature: Feature,
    needed: Option<Feature>,
) -> DevicePlan<'a> {
    let history = device.history[feature];
    let state = state(device, table, feature);
    let is_off = state.is_some_and(FeatureState::off);
    let why = judged.why(feature, needed, history.owned).clone();
    // Another feature also cures the bug. But turning this one on, and off again after the other is turned on, would be
    // useless.
    let kept = needed.is_some() && is_off && judged.asks(feature);
    let must_be_off = needed == Some(feature) || kept;
    let note = note(history, state, must_be_off, why.code);
    let mut give_back_in = None;
    // If a rule will protect the packets, no feature must be off because of NAT. But the rule must exist first.
    let waits = matches!(why.code, ReasonCode::NoPeersYet | ReasonCode::Exposed);
    let (action, reason) = if must_be_off {
        act(device, table, feature, why)
    } else if history.owned && is_off && !waits {
        let wait = wait_before_give_back(policy, history.not_exposed_for, why.code);
        give_back_in = wait.seconds();
        give_back(&why, &wait)
    } else if first {
        let (action, reason, seconds) = untrack::act(
            &device.rule,
            &ruled.untrack,
            ruled.wait.as_ref(),
            &ruled.why,
            why,
        );
        give_back_in = seconds;
        (action, reason)
    } else {
        (Action::Leave, why)
    };
    // Only features that vxcsum turned off are turned on again.
    let dependents = dependents(table, feature);
    let also = match (&device.features, action) {
        (Ok(features), Action::TurnOff) => features.active & dependents,
        (Ok(features), Action::TurnOn) => features.wanted & !features.active & dependents,
        _ => 0,
    };
    DevicePlan {
        device,
        verdict: judged.verdict.clone(),
        dangers: judged.dangers.clone(),
        waits: judged.waits(),
        must_be_off,
        feature,
        action,
        reason,
        rule: judged.label.clone(),
        also,
        untrack: ruled.untrack.clone(),
        note,
        give_back_in,
    }
}

/// The features that vxcsum turned off on a device.
fn owned(device: &Device) -> impl Iterator<Item = Feature> {
    let mut features = Feature::ALL.into_iter();
    std::iter::from_fn(move || features.find(|feature| device.history[*feature].owned))
}

/// True if a decision is valid only as long as NAT rules, forwarding and devices do not change.
fn rests_on_rules(code: ReasonCode) -> bool {
    matches!(
        code,
        ReasonCode::NotExposed | ReasonCode::ExposureUnknownNotExposed
    )
}

fn note(
    history: History,
    state: Option<FeatureState>,
    must_be_off: bool,
    why: ReasonCode,
) -> Option<Note> {
    let off = state?.off();
    let not_needed = !must_be_off && why != ReasonCode::NoPeersYet;
    match (rests_on_rules(why), history.not_exposed_for) {
        _ if !history.owned => None,
        _ if not_needed && !off => Some(Note::NotOwned),
        (true, None) => Some(Note::NotExposed),
        (false, Some(_)) => Some(Note::MayBeExposed),
        (true, Some(_)) | (false, None) => None,
    }
}

/// How long a feature that need not be off stays off.
pub(super) enum Wait {
    /// It is turned on again now.
    Over,
    /// The remaining seconds, and all seconds of the wait.
    Seconds(u64, u64),
    /// The policy says `never`.
    ForEver,
}

impl Wait {
    pub(super) fn seconds(&self) -> Option<u64> {
        match self {
            Self::Seconds(left, _) => Some(*left),
            Self::Over | Self::ForEver => None,
        }
    }
}

/// The wait is for NAT rules, which a firewall reload removes and adds again. The policy and the kernel do not change
/// like that.
fn wait_before_give_back(policy: &Policy, not_exposed_for: Option<u64>, why: ReasonCode) -> Wait {
    if !rests_on_rules(why) {
        return Wait::Over;
    }
    let Some(whole) = policy.give_back_after.value else {
        return Wait::ForEver;
    };
    let so_far = not_exposed_for.unwrap_or(0);
    let whole = whole.as_secs();
    match whole.saturating_sub(so_far) {
        0 => Wait::Over,
        left => Wait::Seconds(left, whole),
    }
}

fn give_back(why: &Reason, wait: &Wait) -> (Action, Reason) {
    let (action, ours) = match wait {
        Wait::Over => (
            Action::TurnOn,
            "vxcsum turned it off, and it need not be off any more".to_owned(),
        ),
        Wait::Seconds(_, whole) => (
            Action::Leave,
            format!(
                "vxcsum turned it off, and gives it back when it has not been needed for {}",
                duration(*whole)
            ),
        ),
        Wait::ForEver => (
            Action::Leave,
            "vxcsum turned it off, and the policy says give-back-after = \"never\"".to_owned(),
        ),
    };
    let text = format!("{ours}: {}", why.text).into();
    let code = why.code;
    (action, Reason { code, text })
}

pub(super) fn duration(seconds: u64) -> String {
    match (seconds / 60, seconds % 60) {
        (1, 0) => "1 minute".to_owned(),
        (minutes, 0) if minutes > 0 => format!("{minutes} minutes"),
        _ => format!("{seconds} seconds"),
    }
}

/// The conclusions about one device from the kernel and the path of its packets, for the bugs with one trigger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Danger {
    /// What these bugs mean for the device.
    pub verdict: DeviceVerdict,
    /// Whether the trigger can happen. `None` if that is not known.
    pub happens: Option<bool>,
    /// The policy treats unknown facts as harmless, or says `never`.
    pub accepted: bool,
}

/// One value for each trigger, in the order of [`Trigger::ALL`].
pub type PerTrigger<T> = [T; Trigger::ALL.len()];

/// The part of a decision that depends only on the policy rule, the outer checksum and the exposure of a device.
#[derive(Clone)]
struct Judged<'a> {
    rule: Option<&'a PolicyRule>,
    outer_checksum: OuterChecksum,
    exposure: Rc<Exposure>,
    segmentation: Segmentation,
    no_peers: bool,
    verdict: DeviceVerdict,
    dangers: PerTrigger<Option<Danger>>,
    /// Whether the bugs with a trigger need a feature to be off, and why. `None` if packets of the device cannot meet
    /// them.
    asked: PerTrigger<Option<(bool, Reason)>>,
    label: Option<Rc<str>>,
}

impl Judged<'_> {
    fn is_of(&self, rule: Option<&PolicyRule>, device: &Device) -> bool {
        same_rule(self.rule, rule)
            && self.outer_checksum == device.link.outer_checksum
            && self.exposure == device.exposure
            && self.segmentation == device.segmentation
            && self.no_peers == device.no_peers
    }

    fn waits(&self) -> bool {
        let mut asked = self.asked.iter().flatten();
        asked.any(|(_, reason)| reason.code == ReasonCode::NoPeersYet)
    }

    fn asking(&self) -> impl Iterator<Item = Trigger> {
        Trigger::ALL.into_iter().filter(|t| self.asked_by(*t))
    }

    /// The feature that must be off: the cheapest of those that cure every bug that needs one.
    fn needed(&self, device: &Device, table: &FeatureTable) -> Option<Feature> {
        let cures_all = |cure: &Feature| self.asking().all(|t| cures(t).any(|c| c == *cure));
        let candidates = || {
            self.asking()
                .last()
                .into_iter()
                .flat_map(cures)
                .filter(cures_all)
        };
        let state = |cure: &Feature| state(device, table, *cure);
        // Another program turned it off: nothing more is needed.
        let is_off = |cure: &Feature| {
            !device.history[*cure].owned && state(cure).is_some_and(FeatureState::off)
        };
        let fixed_on = |cure: &Feature| state(cure).is_some_and(|s| s.active && s.fixed());
        candidates()
            .find(is_off)
            .or_else(|| candidates().find(|cure| !fixed_on(cure)))
            .or_else(|| candidates().next())
    }

    fn asked_by(&self, trigger: Trigger) -> bool {
        matches!(self.asked[trigger as usize], Some((true, _)))
    }

    /// True if this feature is the cheapest cure of a bug that needs one.
    fn asks(&self, feature: Feature) -> bool {
        let mut triggers = Trigger::ALL.into_iter();
        triggers.any(|t| self.asked_by(t) && cures(t).next() == Some(feature))
    }

    /// The reason why a feature must or need not be off.
    fn why(&self, feature: Feature, needed: Option<Feature>, owned: bool) -> &Reason {
        let of = |trigger: Trigger| self.asked[trigger as usize].as_ref();
        let all = || Trigger::ALL.into_iter();
        let found = if needed == Some(feature) {
            self.asking().find_map(of)
        } else if owned {
            all()
                .filter(|t| cures(*t).next() == Some(feature))
                .find_map(of)
        } else {
            None
        };
        let told = || all().filter_map(of).reduce(more_telling);
        let (_, reason) = found
            .or_else(told)
            .expect("every outer checksum is susceptible to a bug");
        reason
    }
}

/// The features that cure the bugs with a trigger, the cheapest first.
pub fn cures(trigger: Trigger) -> impl Iterator<Item = Feature> {
    let bug = BugId::ALL
        .into_iter()
        .find(move |bug| bug.describe().trigger == trigger);
    bug.into_iter()
        .flat_map(|bug| bug.describe().cures.iter().copied())
}

/// The reason that says more. The first if both say as much.
fn more_telling<'r>(first: &'r (bool, Reason), next: &'r (bool, Reason)) -> &'r (bool, Reason) {
    let weight = |(off, reason): &(bool, Reason)| match (off, reason.code) {
        (true, _) => 3,
        // These reasons occur only if a rule exists or will exist.
        (false, ReasonCode::NoPeersYet | ReasonCode::AlreadyUntracked | ReasonCode::Exposed) => 2,
        // `latent` says more than that another bug is absent.
        (false, ReasonCode::NotExposed | ReasonCode::ExposureUnknownNotExposed) => 1,
        (false, _) => 0,
    };
    if weight(next) > weight(first) {
        next
    } else {
        first
    }
}

/// Whether a trigger can happen to the packets of a device, as a decision uses it.
#[derive(Clone, Copy)]
struct Way<'d> {
    trigger: Trigger,
    happens: Option<bool>,
    text: &'d dyn fmt::Display,
}

impl<'d> Way<'d> {
    fn of(trigger: Trigger, exposure: &'d Exposure, segmentation: &'d Segmentation) -> Self {
        let (happens, text): (_, &dyn fmt::Display) = match trigger {
            Trigger::Nat => (happens(exposure), exposure),
            Trigger::Segmentation => (segmentation.twice(), segmentation),
        };
        Self {
            trigger,
            happens,
            text,
        }
    }

    /// Assumes an answer, to compare the decisions.
    fn assumed(trigger: Trigger, happens: bool) -> Self {
        Self {
            trigger,
            happens: Some(happens),
            text: &"",
        }
    }

    /// A part of a sentence.
    fn clause(&self) -> String {
        let what = match (self.trigger, self.happens) {
            (Trigger::Nat, Some(true)) => "and NAT on this node can rewrite the outer packets",
            (Trigger::Nat, Some(false)) => {
                "but latent: NAT on this node cannot rewrite the outer packets"
            }
            (Trigger::Nat, None) => {
                "and whether NAT on this node rewrites the outer packets is not known"
            }
            (Trigger::Segmentation, Some(true)) => {
                "and this node can segment the outer packets twice"
            }
            (Trigger::Segmentation, Some(false)) => {
                "but latent: this node does not segment the outer packets twice"
            }
            (Trigger::Segmentation, None) => {
                "and whether this node segments the outer packets twice is not known"
            }
        };
        what.to_owned()
    }
}

fn dangers(
    device: &Device,
    outer_checksum: OuterChecksum,
    kernel: &KernelVerdict,
    asked: Option<&PerTrigger<Option<(bool, Reason)>>>,
) -> PerTrigger<Option<Danger>> {
    Trigger::ALL.map(|trigger| {
        let of = |bug: BugId| bug.describe().trigger == trigger;
        let accepted = |reason: &Reason| {
            matches!(
                reason.code,
                ReasonCode::RuleNever
                    | ReasonCode::BugNever
                    | ReasonCode::KernelUnknownFixed
                    | ReasonCode::ExposureUnknownNotExposed
            )
        };
        let asked = asked.and_then(|asked| asked[trigger as usize].as_ref());
        let meets = susceptible(outer_checksum).any(of);
        meets.then(|| Danger {
            verdict: verdict(outer_checksum, kernel, of),
            happens: Way::of(trigger, &device.exposure, &device.segmentation).happens,
            accepted: asked.is_some_and(|(_, reason)| accepted(reason)),
        })
    })
}

fn happens(exposure: &Exposure) -> Option<bool> {
    match exposure {
        Exposure::Exposed(_) => Some(true),
        Exposure::NotExposed(_) => Some(false),
        Exposure::Unknown(_) => None,
    }
}

fn judge<'a>(
    policy: &Policy,
    rule: Option<&'a PolicyRule>,
    device: &Device,
    kernel: &KernelVerdict,
) -> Judged<'a> {
    let found = device.link.outer_checksum;
    let outer_checksum = rule.map_or(found, |rule| rule.outer_checksum_of(found));
    let way = |trigger| Way::of(trigger, &device.exposure, &device.segmentation);
    let asked = Trigger::ALL.map(|trigger| {
        let decide = |way| asked_by(policy, rule, outer_checksum, kernel, way);
        let depends = || {
            let off = |happens| decide(Way::assumed(trigger, happens)).map(|(off, _)| off);
            off(true) != off(false)
        };
        if device.no_peers && depends() {
            let bugs = names(&verdict(outer_checksum, kernel, |bug| bug.describe().trigger == trigger).bugs);
            let text = match trigger {
                Trigger::Nat => format!("NAT decides about {bugs} here"),
                Trigger::Segmentation => format!("the way of the packets decides about {bugs} here"),
            };
            let text = format!(
                "{text}, and the device has no peers yet: no packet leaves, so the offload stays as it is until the first peer \
                 is there"
            );
            let code = ReasonCode::NoPeersYet;
            return Some((false, Reason { code, text: text.into() }));
        }
        decide(way(trigger))
    });
    Judged {
        rule,
        outer_checksum: found,
        exposure: Rc::clone(&device.exposure),
        segmentation: device.segmentation.clone(),
        no_peers: device.no_peers,
        verdict: verdict(outer_checksum, kernel, |_| true),
        dangers: dangers(device, outer_checksum, kernel, Some(&asked)),
        asked,
        label: rule.map(|rule| rule.label().into()),
    }
}

/// Plans to turn on what vxcsum turned off since boot, and nothing else.
pub fn decide_revert<'a>(facts: &'a Facts, kernel: &KernelVerdict) -> Plan<'a> {
    let table = &facts.table;
    let devices = facts.devices.iter().flat_map(|device| {
        let mut features: Vec<Feature> = owned(device).collect();
        if features.is_empty() {
            features.push(Feature::Checksum);
        }
        let row = move |feature| revert_row(facts, device, feature, kernel);
        features.into_iter().map(row)
    });
    Plan {
        table,
        devices: devices.collect(),
    }
}

fn revert_row<'a>(
    facts: &'a Facts,
    device: &'a Device,
    feature: Feature,
    kernel: &KernelVerdict,
) -> DevicePlan<'a> {
    let table = &facts.table;
    let dependents = dependents(table, feature);
    let leave = |code, text: &str| {
        let text = text.into();
        (Action::Leave, Reason { code, text }, 0)
    };
    let owned = device.history[feature].owned;
    let (action, reason, also) = match (owned, &device.features, table.index(feature)) {
        (false, _, _) => leave(
            ReasonCode::NotTurnedOffByVxcsum,
            "vxcsum did not turn it off since boot",
        ),
        (true, Ok(features), Some(index)) if features.state(index).off() => {
            let code = ReasonCode::TurnedOffByVxcsum;
            let text = "vxcsum turned it off; the next apply does so again unless the policy says otherwise";
            let text = text.into();
            let also = features.wanted & !features.active & dependents;
            (Action::TurnOn, Reason { code, text }, also)
        }
        (true, Ok(_), Some(_)) => leave(
            ReasonCode::AlreadyOn,
            "vxcsum turned it off, and it is on again",
        ),
        (true, _, _) => leave(
            ReasonCode::NotReadable,
            "vxcsum turned it off, and its state could not be read",
        ),
    };
    let rule = &device.rule;
    let (action, reason) = match reason.code {
        ReasonCode::NotTurnedOffByVxcsum if rule.changed || rule.packets.is_some() => {
            let code = ReasonCode::UntrackedByVxcsum;
            let text = "vxcsum made a rule notrack for its packets; the next apply does so again unless the policy says otherwise";
            let text = text.into();
            (Action::RemoveRule, Reason { code, text })
        }
        _ => (action, reason),
    };
    DevicePlan {
        device,
        verdict: verdict(device.link.outer_checksum, kernel, |_| true),
        dangers: dangers(device, device.link.outer_checksum, kernel, None),
        waits: false,
        must_be_off: false,
        feature,
        action,
        reason,
        rule: None,
        also,
        untrack: untrack::revert(facts, rule),
        note: None,
        give_back_in: None,
    }
}

/// The properties of a device that policy rules match.
pub fn subject(device: &Device) -> Subject<'_> {
    Subject {
        name: &device.link.name,
        kind: device.link.kind,
        vni: device.link.vni,
        dst_port: device.link.dst_port,
        underlay_driver: device
            .underlay
            .as_ref()
            .and_then(|underlay| underlay.driver.as_deref()),
        outer_checksum: device.link.outer_checksum,
    }
}

/// The bugs that packets with this outer checksum can meet.
pub fn susceptible(outer_checksum: OuterChecksum) -> impl Iterator<Item = BugId> {
    BugId::ALL
        .into_iter()
        .filter(move |bug| bug.meets(outer_checksum))
}

/// The verdict on a device by the bugs for which `counts` is true.
fn verdict(
    outer_checksum: OuterChecksum,
    kernel: &KernelVerdict,
    counts: impl Fn(BugId) -> bool,
) -> DeviceVerdict {
    for status in [Status::Affected, Status::Unknown] {
        let bugs: Vec<BugId> = susceptible(outer_checksum)
            .filter(|bug| counts(*bug) && kernel[*bug].status == status)
            .collect();
        if !bugs.is_empty() {
            return DeviceVerdict { status, bugs };
        }
    }
    DeviceVerdict {
        status: Status::NotAffected,
        bugs: Vec::new(),
    }
}

/// Whether the bugs with one trigger need a feature to be off, and why. `None` if packets of the device cannot meet
/// them.
fn asked_by(
    policy: &Policy,
    rule: Option<&PolicyRule>,
    outer_checksum: OuterChecksum,
    kernel: &KernelVerdict,
    way: Way<'_>,
) -> Option<(bool, Reason)> {
    let of = |bug: BugId| bug.describe().trigger == way.trigger;
    let mut bugs = susceptible(outer_checksum)
        .filter(|bug| of(*bug))
        .peekable();
    bugs.peek()?;
    match rule {
        Some(rule) => Some(by_rule(
            policy,
            rule,
            &verdict(outer_checksum, kernel, of),
            way,
        )),
        // Without a policy rule each bug has its own condition. The first bug that needs the feature off decides.
        None => bugs
            .map(|bug| {
                let (when, status) = (policy.bugs[bug].value, kernel[bug].status);
                by_status(policy, None, when, status, &[bug], way)
            })
            .reduce(|first, next| more_telling(&first, &next).clone()),
    }
}

fn by_rule(
    policy: &Policy,
    rule: &PolicyRule,
    verdict: &DeviceVerdict,
    way: Way<'_>,
) -> (bool, Reason) {
    let rule_says = |code, text: &str| Reason {
        code,
        text: format!("rule \"{}\" says {}{text}", rule.name, rule.when.as_str()).into(),
    };
    match rule.when {
        When::Always => (true, rule_says(ReasonCode::RuleAlways, "")),
        When::Never => (false, rule_says(ReasonCode::RuleNever, "")),
        When::Affected | When::Exposed => {
            let DeviceVerdict { status, bugs } = verdict;
            let (off, reason) = by_status(policy, Some(rule), rule.when, *status, bugs, way);
            let text = format!("{}: {}", rule_says(reason.code, "").text, reason.text).into();
            (off, Reason { text, ..reason })
        }
    }
}

/// True if a decision is different if a trigger can happen to the outer packets of a device and if it cannot. Only then
/// the facts must be read.
pub fn depends_on(
    trigger: Trigger,
    policy: &Policy,
    devices: &[Device],
    kernel: &KernelVerdict,
) -> bool {
    let mut seen: Vec<(Option<&PolicyRule>, OuterChecksum)> = Vec::new();
    devices.iter().any(|device| {
        let rule = policy.deciding_rule(&subject(device));
        let kind = (rule, device.link.outer_checksum);
        let same = |known: &(Option<&PolicyRule>, OuterChecksum)| {
            same_rule(known.0, rule) && known.1 == kind.1
        };
        if seen.iter().any(same) {
            return false;
        }
        seen.push(kind);
        let checksum = rule.map_or(kind.1, |rule| rule.outer_checksum_of(kind.1));
        let off = |happens| {
            let way = Way::assumed(trigger, happens);
            asked_by(policy, rule, checksum, kernel, way).map(|(off, _)| off)
        };
        off(true) != off(false)
    })
}

fn same_rule(a: Option<&PolicyRule>, b: Option<&PolicyRule>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => std::ptr::eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

fn by_status(
    policy: &Policy,
    rule: Option<&PolicyRule>,
    when: When,
    status: Status,
    bugs: &[BugId],
    way: Way<'_>,
) -> (bool, Reason) {
    let bug = names(bugs);
    let reason = |code, text: String| Reason {
        code,
        text: text.into(),
    };
    if when == When::Never {
        return (
            false,
            reason(ReasonCode::BugNever, format!("[bugs] says never for {bug}")),
        );
    }
    let counts = match (status, policy.unknown_kernel.value) {
        (Status::NotAffected, _) => {
            let text = format!("this kernel does not have {bug}");
            return (false, reason(ReasonCode::KernelNotAffected, text));
        }
        (Status::Unknown, AssumeKernel::Fixed) => {
            let text = format!(
                "nothing is known of this kernel and {bug}, which the policy counts as fixed"
            );
            return (false, reason(ReasonCode::KernelUnknownFixed, text));
        }
        (Status::Unknown, AssumeKernel::Affected) => (
            ReasonCode::KernelUnknown,
            format!(
                "nothing is known of this kernel and {bug}, which the policy counts as affected"
            ),
        ),
        (Status::Affected, _) => (ReasonCode::KernelAffected, format!("this kernel has {bug}")),
    };
    if when != When::Exposed {
        return (true, reason(counts.0, counts.1));
    }
    let text = |more: &str| format!("{}, {}{more}: {}", counts.1, way.clause(), way.text);
    match (way.happens, policy.unknown_exposure_for(rule).0) {
        (Some(true), _) => (true, reason(ReasonCode::Exposed, text(""))),
        (Some(false), _) => (false, reason(ReasonCode::NotExposed, text(""))),
        (None, AssumeExposure::Exposed) => (true, reason(ReasonCode::ExposureUnknown, text(""))),
        (None, AssumeExposure::NotExposed) => {
            let text = text(", which the policy counts as not exposed");
            (false, reason(ReasonCode::ExposureUnknownNotExposed, text))
        }
    }
}

fn names(bugs: &[BugId]) -> String {
    let bugs: Vec<&str> = bugs.iter().map(|bug| bug.as_str()).collect();
    if bugs.is_empty() {
        "the bug".to_owned()
    } else {
        bugs.join(" and ")
    }
}

/// The possible action for a feature that must be off.
fn act(device: &Device, table: &FeatureTable, feature: Feature, why: Reason) -> (Action, Reason) {
    let leave = |code, text: &str| {
        (
            Action::Leave,
            Reason {
                code,
                text: format!("{text}; it should be off: {}", why.text).into(),
            },
        )
    };
    let Some(index) = table.index(feature) else {
        return leave(
            ReasonCode::NoSuchFeature,
            &format!("this kernel has no feature {}", feature.as_str()),
        );
    };
    let Ok(features) = &device.features else {
        return leave(
            ReasonCode::NotReadable,
            &format!("the state of {} could not be read", feature.as_str()),
        );
    };
    let state = features.state(index);
    if state.off() || (state.fixed() && !state.active) {
        (
            Action::Leave,
            Reason {
                code: ReasonCode::AlreadyOff,
                text: format!("already off, as it should be: {}", why.text).into(),
            },
        )
    } else if state.fixed() {
        leave(
            ReasonCode::FeatureFixed,
            &format!(
                "the kernel keeps {} on for this device ([fixed])",
                feature.as_str()
            ),
        )
    } else if let Some(flips) = device.history[feature].contested {
        let owner = likely_owner(&device.link.name);
        let text = format!(
            "another program has turned it back on {flips} times in a short while: {owner}"
        );
        leave(ReasonCode::Contested, &text)
    } else {
        (Action::TurnOff, why)
    }
}

/// The creator of the device most likely sets the feature. Guesses it from the name.
fn likely_owner(name: &IfName) -> &'static str {
    let begins = |prefix: &[u8]| name.as_bytes().starts_with(prefix);
    if begins(b"vxlan.calico") || begins(b"vxlan-v6.calico") {
        "going by the device's name Calico's Felix, or an ethtool call in a script, a udev rule or a network manager"
    } else if begins(b"flannel") {
        "going by the device's name flannel, or an ethtool call in a script, a udev rule or a network manager"
    } else {
        "the CNI agent, or an ethtool call in a script, a udev rule or a network manager"
    }
}

/// The device's own features that matter for double segmentation. `None` if they could not be read. Features that
/// vxcsum turned off count as on, because otherwise vxcsum would turn them on again.
pub fn own_features(device: &Device, table: &FeatureTable) -> Option<OwnFeatures> {
    let features = device.features.as_ref().ok()?;
    let on = features.active | features.wanted;
    let fraglist = device.history[Feature::Fraglist].owned
        || table
            .index(Feature::Fraglist)
            .is_some_and(|index| on >> index & 1 == 1);
    Some(OwnFeatures {
        fraglist,
        segmentation: on & table.bits(|name| NEEDS_CHECKSUM.contains(&name)) != 0,
    })
}

/// The state of the feature on a device. `None` if it could not be read.
pub fn state(device: &Device, table: &FeatureTable, feature: Feature) -> Option<FeatureState> {
    Some(device.features.as_ref().ok()?.state(table.index(feature)?))
}
