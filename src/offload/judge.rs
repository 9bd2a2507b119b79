//! What the bugs of the kernel ask of one device: whether a feature must be off, and why.
//!
//! Owns the reasons and the judgement by policy, kernel and the way of the packets. Pure. Does not know the record or
//! the state of a feature, except to choose between two cures. Decides on no action.

use std::fmt;
use std::rc::Rc;

use serde::{Serialize, Serializer};

use super::facts::{Device, Exposure};
use crate::ethtool::{Feature, FeatureState, FeatureTable};
use crate::kernel::{BugId, KernelVerdict, Status, Trigger};
use crate::link::OuterChecksum;
use crate::link::segmentation::Segmentation;
use crate::policy::{AssumeExposure, AssumeKernel, Policy, PolicyRule, When};

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

/// A reason, with a text.
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
pub(super) struct Judged<'a> {
    rule: Option<&'a PolicyRule>,
    outer_checksum: OuterChecksum,
    exposure: Rc<Exposure>,
    segmentation: Segmentation,
    no_peers: bool,
    pub(super) verdict: DeviceVerdict,
    pub(super) dangers: PerTrigger<Option<Danger>>,
    /// Whether the bugs with a trigger need a feature to be off, and why. `None` if packets of the device cannot meet
    /// them.
    pub(super) asked: PerTrigger<Option<(bool, Reason)>>,
    pub(super) label: Option<Rc<str>>,
}

impl Judged<'_> {
    pub(super) fn is_of(&self, rule: Option<&PolicyRule>, device: &Device) -> bool {
        same_rule(self.rule, rule)
            && self.outer_checksum == device.link.outer_checksum
            && self.exposure == device.exposure
            && self.segmentation == device.segmentation
            && self.no_peers == device.no_peers
    }

    pub(super) fn waits(&self) -> bool {
        let mut asked = self.asked.iter().flatten();
        asked.any(|(_, reason)| reason.code == ReasonCode::NoPeersYet)
    }

    fn asking(&self) -> impl Iterator<Item = Trigger> {
        Trigger::ALL.into_iter().filter(|t| self.asked_by(*t))
    }

    /// The feature that must be off: the cheapest of those that cure every bug that needs one.
    pub(super) fn needed(&self, device: &Device, table: &FeatureTable) -> Option<Feature> {
        let cures_all = |cure: &Feature| self.asking().all(|t| cures(t).any(|c| c == *cure));
        let candidates = || {
            self.asking()
                .last()
                .into_iter()
                .flat_map(cures)
                .filter(cures_all)
        };
        let state = |cure: &Feature| device.state(table, *cure);
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
    pub(super) fn asks(&self, feature: Feature) -> bool {
        let mut triggers = Trigger::ALL.into_iter();
        triggers.any(|t| self.asked_by(t) && cures(t).next() == Some(feature))
    }

    /// The reason why a feature must or need not be off.
    pub(super) fn why(&self, feature: Feature, needed: Option<Feature>, owned: bool) -> &Reason {
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

    /// A sentence. A colon and the reason follow it.
    fn clause(&self) -> &'static str {
        match (self.trigger, self.happens) {
            (Trigger::Nat, Some(true)) => "A NAT rule on this node can rewrite the outer packets",
            (Trigger::Nat, Some(false)) => {
                "NAT on this node cannot rewrite the outer packets, so the bug is latent"
            }
            (Trigger::Nat, None) => "It is not known whether NAT rewrites the outer packets",
            (Trigger::Segmentation, Some(true)) => "This node can segment the outer packets twice",
            (Trigger::Segmentation, Some(false)) => {
                "This node does not segment the outer packets twice, so the bug is latent"
            }
            (Trigger::Segmentation, None) => {
                "It is not known whether this node segments the outer packets twice"
            }
        }
    }
}

pub(super) fn dangers(
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

pub(super) fn judge<'a>(
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
            let text = format!(
                "the device has no peers yet, so no packet leaves. vxcsum decides about {bugs} when the first peer appears"
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

/// The bugs that packets with this outer checksum can meet.
pub fn susceptible(outer_checksum: OuterChecksum) -> impl Iterator<Item = BugId> {
    BugId::ALL
        .into_iter()
        .filter(move |bug| bug.meets(outer_checksum))
}

/// The verdict on a device by the bugs for which `counts` is true.
pub(super) fn verdict(
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
        let rule = policy.deciding_rule(&device.subject());
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
                "it is not known whether this kernel has {bug}. The policy counts it as fixed"
            );
            return (false, reason(ReasonCode::KernelUnknownFixed, text));
        }
        (Status::Unknown, AssumeKernel::Affected) => (
            ReasonCode::KernelUnknown,
            format!(
                "it is not known whether this kernel has {bug}. The policy counts it as affected"
            ),
        ),
        (Status::Affected, _) => (ReasonCode::KernelAffected, format!("this kernel has {bug}")),
    };
    if when != When::Exposed {
        return (true, reason(counts.0, counts.1));
    }
    let text = |more: &str| format!("{}. {}: {}{more}", counts.1, way.clause(), way.text);
    match (way.happens, policy.unknown_exposure_for(rule).0) {
        (Some(true), _) => (true, reason(ReasonCode::Exposed, text(""))),
        (Some(false), _) => (false, reason(ReasonCode::NotExposed, text(""))),
        (None, AssumeExposure::Exposed) => (true, reason(ReasonCode::ExposureUnknown, text(""))),
        (None, AssumeExposure::NotExposed) => {
            let text = text(". The policy counts that as not exposed");
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
