//! Deciding, for each VXLAN device, whether the feature must be off, and why.
//!
//! Owns the decision and its reasons. Pure: values in, values out. May not know how a decision is carried out or shown.

use std::rc::Rc;

use serde::{Serialize, Serializer};

use super::facts::{Device, Exposure, Facts, History};
use crate::ethtool::{Feature, FeatureState, FeatureTable};
use crate::kernel::{BugId, KernelVerdict, Status, Trigger};
use crate::link::OuterChecksum;
use crate::policy::{AssumeExposure, AssumeKernel, Policy, PolicyRule, Subject, When};
use crate::text::IfName;

codes! {
    /// What to do with a device.
    pub enum Action {
        /// Turn the feature off.
        TurnOff = "turn-off",
        /// Give the feature back: vxcsum turned it off, and it is not needed any more, or `revert` asks for it.
        TurnOn = "turn-on",
        /// Nothing.
        Leave = "leave",
    }
}

codes! {
    /// Why. The codes are stable; docs/troubleshooting.md lists them.
    pub enum ReasonCode {
        /// The kernel has the bug, and the policy asks for no more.
        KernelAffected = "kernel-affected",
        /// It is not known whether the kernel has the bug, and the policy counts that as affected.
        KernelUnknown = "kernel-unknown",
        /// As one of the above, and NAT on this node can rewrite the outer packets.
        Exposed = "exposed",
        /// The kernel has or may have the bug, and NAT on this node cannot rewrite the outer packets: it is latent.
        NotExposed = "not-exposed",
        /// As one of the first two, and whether NAT on this node can rewrite the outer packets is not known, which counts as yes.
        ExposureUnknown = "exposure-unknown",
        /// As one of the first two, and the device has no peers yet: no packet leaves, so the offload stays as it is.
        NoPeersYet = "no-peers-yet",
        /// A rule says `always`.
        RuleAlways = "rule-always",
        /// A rule says `never`.
        RuleNever = "rule-never",
        /// `[bugs]` says `never`.
        BugNever = "bug-never",
        /// The kernel does not have the bug.
        KernelNotAffected = "kernel-not-affected",
        /// It is not known whether the kernel has the bug, and the policy counts that as fixed.
        KernelUnknownFixed = "kernel-unknown-fixed",
        /// It is not known whether NAT on this node can rewrite the outer packets, and the policy counts that as no.
        ExposureUnknownNotExposed = "exposure-unknown-not-exposed",
        /// It should be off, and is.
        AlreadyOff = "already-off",
        /// It should be off, and the kernel does not let anybody change it on this device.
        FeatureFixed = "feature-fixed",
        /// It should be off, and this kernel has no feature of this name.
        NoSuchFeature = "no-such-feature",
        /// It should be off, and its state could not be read.
        NotReadable = "not-readable",
        /// It should be off, and another program keeps turning it back on.
        Contested = "contested",
        /// `revert`: vxcsum turned it off since boot.
        TurnedOffByVxcsum = "turned-off-by-vxcsum",
        /// `revert`: vxcsum turned it off since boot, and it is on again.
        AlreadyOn = "already-on",
        /// `revert`: vxcsum did not turn it off since boot.
        NotTurnedOffByVxcsum = "not-turned-off-by-vxcsum",
    }
}

/// A reason with one sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Reason {
    /// For programs.
    pub code: ReasonCode,
    /// For people; the same for many devices.
    #[serde(serialize_with = "as_text")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub text: Rc<str>,
}

fn as_text<S: Serializer>(text: &Rc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

/// What the kernel's bugs mean for one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DeviceVerdict {
    /// The worst of the bugs that its outer checksum makes it susceptible to.
    pub status: Status,
    /// The bugs with that status; empty if it is `not-affected`.
    pub bugs: Vec<BugId>,
}

/// The decision about one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePlan<'a> {
    /// What it was decided on.
    pub device: &'a Device,
    /// What the kernel's bugs mean for it.
    pub verdict: DeviceVerdict,
    /// Whether the feature must be off on it, whatever its state.
    pub must_be_off: bool,
    /// The feature that this is about.
    pub feature: Feature,
    /// What to do.
    pub action: Action,
    /// Why.
    pub reason: Reason,
    /// The name and the place of the rule that decided.
    pub rule: Option<Rc<str>>,
    /// What the kernel will turn off or on with the feature, as bits.
    pub also: u128,
    /// What the record does not say yet.
    pub note: Option<Note>,
    /// In how many seconds the feature is given back if nothing changes.
    pub give_back_in: Option<u64>,
}

impl DevicePlan<'_> {
    /// What this decision is the only one about: the device, by ifindex, and the feature.
    pub fn key(&self) -> (u32, Feature) {
        (self.device.link.ifindex, self.feature)
    }
}

/// What a look adds to the record of a device that vxcsum turned off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// From now on NAT cannot rewrite its outer packets.
    NotExposed,
    /// That is no longer so, or not known.
    MayBeExposed,
    /// It is on and need not be off: what happens to it from now on is not vxcsum's doing.
    NotOwned,
}

/// The decisions about all devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan<'a> {
    /// The names of the features, to read the sets of the devices.
    pub table: &'a FeatureTable,
    /// By ifindex.
    pub devices: Vec<DevicePlan<'a>>,
}

impl Plan<'_> {
    /// Whether carrying it out changes a device or the record of this boot.
    pub fn changes_anything(&self) -> bool {
        self.devices.iter().any(|device| {
            device.action != Action::Leave
                || device.reason.code == ReasonCode::Contested
                || device.note.is_some()
        })
    }

    /// In how many seconds the next feature is given back if nothing changes.
    pub fn next_give_back(&self) -> Option<u64> {
        self.devices.iter().filter_map(|d| d.give_back_in).min()
    }
}

/// What the kernel drops from a device without any transmit checksum: TSO of both families with its variants, and USO.
///
/// <https://github.com/torvalds/linux/blob/v6.12/net/core/dev.c#L10056> (`netdev_fix_features`)
const NEEDS_CHECKSUM: [&str; 5] = [
    "tx-tcp-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-tcp-mangleid-segmentation",
    "tx-tcp6-segmentation",
    "tx-udp-segmentation",
];

/// What every decision is about so far; only a record can name another feature.
const FOR_NAT: Feature = Feature::Checksum;

/// What the kernel turns off with a feature.
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
        // Most devices of a node are of a kind.
        let known = judged
            .iter()
            .position(|known| known.is_of(rule, device))
            .unwrap_or_else(|| {
                judged.push(judge(policy, rule, device, &device.exposure, kernel));
                judged.len() - 1
            });
        let judged = &judged[known];
        let why = judged.reason.clone();
        // Only what vxcsum turned off is given back.
        let feature = if judged.must_be_off {
            FOR_NAT
        } else {
            owned(device).unwrap_or(FOR_NAT)
        };
        let history = device.history[feature];
        let state = state(device, table, feature);
        let note = note(history, state, judged.must_be_off, why.code);
        let mut give_back_in = None;
        let is_off = state.is_some_and(FeatureState::off);
        let (action, reason) = if judged.must_be_off {
            act(device, table, why)
        } else if history.owned && is_off && why.code != ReasonCode::NoPeersYet {
            let wait = wait_before_give_back(policy, history, why.code);
            give_back_in = wait.seconds();
            give_back(&why, &wait)
        } else {
            (Action::Leave, why)
        };
        let dependents = dependents(table, feature);
        let also = match (&device.features, action) {
            (Ok(features), Action::TurnOff) => features.active & dependents,
            (Ok(features), Action::TurnOn) => features.wanted & !features.active & dependents,
            _ => 0,
        };
        let (verdict, must_be_off, rule) = (
            judged.verdict.clone(),
            judged.must_be_off,
            judged.label.clone(),
        );
        DevicePlan {
            device,
            verdict,
            must_be_off,
            feature,
            action,
            reason,
            rule,
            also,
            note,
            give_back_in,
        }
    });
    Plan {
        table,
        devices: devices.collect(),
    }
}

/// The first feature that vxcsum turned off on a device.
fn owned(device: &Device) -> Option<Feature> {
    let mut features = Feature::ALL.into_iter();
    features.find(|feature| device.history[*feature].owned)
}

/// Whether a decision holds only as long as the NAT rules are as they are.
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

/// How long a feature that is not needed stays off.
enum Wait {
    /// It is given back now.
    Over,
    /// For so many more of so many seconds.
    Seconds(u64, u64),
    /// The policy says never.
    ForEver,
}

impl Wait {
    fn seconds(&self) -> Option<u64> {
        match self {
            Self::Seconds(left, _) => Some(*left),
            Self::Over | Self::ForEver => None,
        }
    }
}

/// NAT rules come and go, as in the reload of a firewall; the policy and the kernel do not.
fn wait_before_give_back(policy: &Policy, history: History, why: ReasonCode) -> Wait {
    if !rests_on_rules(why) {
        return Wait::Over;
    }
    let Some(whole) = policy.give_back_after.value else {
        return Wait::ForEver;
    };
    let so_far = history.not_exposed_for.unwrap_or(0);
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

fn duration(seconds: u64) -> String {
    match (seconds / 60, seconds % 60) {
        (1, 0) => "1 minute".to_owned(),
        (minutes, 0) if minutes > 0 => format!("{minutes} minutes"),
        _ => format!("{seconds} seconds"),
    }
}

/// What depends on nothing but the rule, the outer checksum and the exposure of a device.
struct Judged<'a> {
    rule: Option<&'a PolicyRule>,
    outer_checksum: OuterChecksum,
    exposure: Rc<Exposure>,
    no_peers: bool,
    verdict: DeviceVerdict,
    must_be_off: bool,
    reason: Reason,
    label: Option<Rc<str>>,
}

impl Judged<'_> {
    fn is_of(&self, rule: Option<&PolicyRule>, device: &Device) -> bool {
        same_rule(self.rule, rule)
            && self.outer_checksum == device.link.outer_checksum
            && self.exposure == device.exposure
            && self.no_peers == device.no_peers
    }
}

fn judge<'a>(
    policy: &Policy,
    rule: Option<&'a PolicyRule>,
    device: &Device,
    exposure: &Rc<Exposure>,
    kernel: &KernelVerdict,
) -> Judged<'a> {
    let found = device.link.outer_checksum;
    let outer_checksum = rule.map_or(found, |rule| rule.outer_checksum_of(found));
    let verdict = verdict(outer_checksum, kernel);
    let decide = |exposure: &Exposure| match rule {
        Some(rule) => by_rule(policy, rule, &verdict, exposure),
        None => by_bugs(policy, outer_checksum, exposure, kernel),
    };
    let (mut must_be_off, mut reason) = decide(exposure);
    if device.no_peers && decide(&Exposure::assumed()).0 != decide(&Exposure::NotExposed(None)).0 {
        let bugs: Vec<_> = verdict.bugs.iter().map(|bug| bug.as_str()).collect();
        let text = format!(
            "NAT decides about {} here, and the device has no peers yet: no packet leaves, so the offload stays as it is until \
             the first peer is there",
            bugs.join(" and ")
        );
        must_be_off = false;
        reason = Reason {
            code: ReasonCode::NoPeersYet,
            text: text.into(),
        };
    }
    let label = rule.map(|rule| rule.label().into());
    Judged {
        rule,
        outer_checksum: found,
        exposure: Rc::clone(exposure),
        no_peers: device.no_peers,
        verdict,
        must_be_off,
        reason,
        label,
    }
}

/// Plans to give back what vxcsum turned off since boot, and nothing else.
pub fn decide_revert<'a>(facts: &'a Facts, kernel: &KernelVerdict) -> Plan<'a> {
    let table = &facts.table;
    let devices = facts.devices.iter().map(|device| {
        let feature = owned(device).unwrap_or(FOR_NAT);
        let dependents = dependents(table, feature);
        let leave = |code, text: &str| (Action::Leave, Reason { code, text: text.into() }, 0);
        let (action, reason, also) = match (device.history[feature].owned, &device.features, table.index(feature)) {
            (false, _, _) => leave(ReasonCode::NotTurnedOffByVxcsum, "vxcsum did not turn it off since boot"),
            (true, Ok(features), Some(index)) if features.state(index).off() => {
                let text = "vxcsum turned it off; the next apply does so again unless the policy says otherwise";
                let reason = Reason { code: ReasonCode::TurnedOffByVxcsum, text: text.into() };
                (Action::TurnOn, reason, features.wanted & !features.active & dependents)
            }
            (true, Ok(_), Some(_)) => leave(ReasonCode::AlreadyOn, "vxcsum turned it off, and it is on again"),
            (true, _, _) => leave(ReasonCode::NotReadable, "vxcsum turned it off, and its state could not be read"),
        };
        let verdict = verdict(device.link.outer_checksum, kernel);
        DevicePlan { device, verdict, must_be_off: false, feature, action, reason, rule: None, also, note: None, give_back_in: None }
    });
    Plan {
        table,
        devices: devices.collect(),
    }
}

/// What a rule is matched against.
pub fn subject(device: &Device) -> Subject<'_> {
    Subject {
        name: &device.link.name,
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
        .filter(move |bug| bug.describe().trigger == Trigger::Nat && bug.meets(outer_checksum))
}

fn verdict(outer_checksum: OuterChecksum, kernel: &KernelVerdict) -> DeviceVerdict {
    for status in [Status::Affected, Status::Unknown] {
        let bugs: Vec<BugId> = susceptible(outer_checksum)
            .filter(|bug| kernel[*bug].status == status)
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

fn by_rule(
    policy: &Policy,
    rule: &PolicyRule,
    verdict: &DeviceVerdict,
    exposure: &Exposure,
) -> (bool, Reason) {
    let rule_says = |code, text: &str| Reason {
        code,
        text: format!("rule \"{}\" says {}{text}", rule.name, rule.when.as_str()).into(),
    };
    match rule.when {
        When::Always => (true, rule_says(ReasonCode::RuleAlways, "")),
        When::Never => (false, rule_says(ReasonCode::RuleNever, "")),
        When::Affected | When::Exposed => {
            let (off, reason) = by_status(
                policy,
                Some(rule),
                rule.when,
                verdict.status,
                &verdict.bugs,
                exposure,
            );
            (
                off,
                Reason {
                    text: format!("{}: {}", rule_says(reason.code, "").text, reason.text).into(),
                    ..reason
                },
            )
        }
    }
}

/// Without a rule each bug has its own condition; the first that asks for the feature to be off decides.
fn by_bugs(
    policy: &Policy,
    outer_checksum: OuterChecksum,
    exposure: &Exposure,
    kernel: &KernelVerdict,
) -> (bool, Reason) {
    let judged = susceptible(outer_checksum).map(|bug| {
        let (when, status) = (policy.bugs[bug].value, kernel[bug].status);
        by_status(policy, None, when, status, &[bug], exposure)
    });
    let telling = |(off, reason): &(bool, Reason)| match (off, reason.code) {
        (true, _) => 2,
        // That it is latent says more than that another bug is not there.
        (false, ReasonCode::NotExposed | ReasonCode::ExposureUnknownNotExposed) => 1,
        (false, _) => 0,
    };
    judged
        .reduce(|first, next| {
            if telling(&next) > telling(&first) {
                next
            } else {
                first
            }
        })
        .expect("every outer checksum is susceptible to a bug")
}

/// Whether a decision comes out differently if NAT can rewrite the outer packets of a device and if it cannot: only then the
/// rules need to be read.
pub fn depends_on_exposure(policy: &Policy, devices: &[Device], kernel: &KernelVerdict) -> bool {
    let (exposed, not_exposed) = (
        Rc::new(Exposure::assumed()),
        Rc::new(Exposure::NotExposed(None)),
    );
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
        let off = |exposure| judge(policy, rule, device, exposure, kernel).must_be_off;
        off(&exposed) != off(&not_exposed)
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
    exposure: &Exposure,
) -> (bool, Reason) {
    let bugs: Vec<&str> = bugs.iter().map(|bug| bug.as_str()).collect();
    let bug = if bugs.is_empty() {
        "the bug".to_owned()
    } else {
        bugs.join(" and ")
    };
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
    let text = |what: &str| format!("{}, {what}: {}", counts.1, exposure);
    match exposure {
        Exposure::Exposed(_) => {
            let what = text("and NAT on this node can rewrite the outer packets");
            (true, reason(ReasonCode::Exposed, what))
        }
        Exposure::NotExposed(_) => {
            let what = text("but latent: NAT on this node cannot rewrite the outer packets");
            (false, reason(ReasonCode::NotExposed, what))
        }
        Exposure::Unknown(_) => match policy.unknown_exposure_for(rule).0 {
            AssumeExposure::Exposed => {
                let what =
                    text("and whether NAT on this node rewrites the outer packets is not known");
                (true, reason(ReasonCode::ExposureUnknown, what))
            }
            AssumeExposure::NotExposed => {
                let what = text(
                    "and whether NAT on this node rewrites the outer packets is not known, which the policy counts as \
                     not exposed",
                );
                (false, reason(ReasonCode::ExposureUnknownNotExposed, what))
            }
        },
    }
}

/// What can be done about a feature that must be off.
fn act(device: &Device, table: &FeatureTable, why: Reason) -> (Action, Reason) {
    let leave = |code, text: &str| {
        (
            Action::Leave,
            Reason {
                code,
                text: format!("{text}; it should be off: {}", why.text).into(),
            },
        )
    };
    let Some(index) = table.index(FOR_NAT) else {
        return leave(
            ReasonCode::NoSuchFeature,
            &format!("this kernel has no feature {}", FOR_NAT.as_str()),
        );
    };
    let Ok(features) = &device.features else {
        return leave(
            ReasonCode::NotReadable,
            &format!("the state of {} could not be read", FOR_NAT.as_str()),
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
                FOR_NAT.as_str()
            ),
        )
    } else if let Some(flips) = device.history[FOR_NAT].contested {
        let owner = likely_owner(&device.link.name);
        let text = format!(
            "another program has turned it back on {flips} times in a short while: {owner}"
        );
        leave(ReasonCode::Contested, &text)
    } else {
        (Action::TurnOff, why)
    }
}

/// The creator most likely sets the feature; guess it from the name.
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

/// The state of the feature on a device, if it could be read.
pub fn state(device: &Device, table: &FeatureTable, feature: Feature) -> Option<FeatureState> {
    Some(device.features.as_ref().ok()?.state(table.index(feature)?))
}
