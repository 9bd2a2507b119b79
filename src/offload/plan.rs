//! Deciding on an action for each VXLAN device and feature.
//!
//! Owns the decision, from the judgement, the record and the state of the features. Pure: values in, values out. Does
//! not know how a decision is carried out or shown.

use std::rc::Rc;

use super::facts::{Device, Facts, History};
use super::judge::{
    Danger, DeviceVerdict, Judged, PerTrigger, Reason, ReasonCode, dangers, judge, verdict,
};
use super::untrack::{self, Cured, RulePlan, RuleStep};
use crate::ethtool::{Feature, FeatureState, FeatureTable};
use crate::kernel::{KernelVerdict, Trigger};
use crate::link::segmentation::OwnFeatures;
use crate::policy::{Policy, PolicyRule};
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

impl Action {
    /// True if it undoes what vxcsum did before.
    pub(crate) fn gives_back(self) -> bool {
        matches!(self, Self::TurnOn | Self::RemoveRule)
    }
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
        let rule = policy.deciding_rule(&device.subject());
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
    let off = device
        .state(&facts.table, Feature::Checksum)
        .is_some_and(FeatureState::off);
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
            let text = format!("{}. {refusal}", why.text).into();
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
    let state = device.state(table, feature);
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
    let also = match (&device.features, action) {
        (Ok(features), Action::TurnOff) => features.active & dependents(table, feature),
        (Ok(features), Action::TurnOn) => {
            features.wanted & !features.active & dependents(table, feature)
        }
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
                "vxcsum turned it off. vxcsum turns it on again after {} without need",
                duration(*whole)
            ),
        ),
        Wait::ForEver => (
            Action::Leave,
            "vxcsum turned it off. It stays off, because the policy says give-back-after = \"never\"".to_owned(),
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
            let text = "vxcsum turned it off. The next apply, also that of the timer, turns it off again if it still must be off";
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
            let text = "vxcsum made a rule notrack for its packets. The next apply, also that of the timer, makes it again if they still need it";
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

/// The possible action for a feature that must be off.
fn act(device: &Device, table: &FeatureTable, feature: Feature, why: Reason) -> (Action, Reason) {
    let leave = |code, text: &str| {
        (
            Action::Leave,
            Reason {
                code,
                text: format!("{text}. It should be off: {}", why.text).into(),
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
                text: format!("it is off, and it must be off: {}", why.text).into(),
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
    } else if let Some(conflict) = device.history[feature].contested {
        let owner = likely_owner(&device.link.name);
        let text = format!(
            "another program turned it on again {} times within a minute. vxcsum turns it off again {conflict}. {owner}",
            conflict.times
        );
        leave(ReasonCode::Contested, &text)
    } else {
        (Action::TurnOff, why)
    }
}

/// The creator of the device most likely sets the feature. Guesses it from the name.
pub fn likely_owner(name: &IfName) -> &'static str {
    let begins = |prefix: &[u8]| name.as_bytes().starts_with(prefix);
    if begins(b"vxlan.calico") || begins(b"vxlan-v6.calico") {
        "The device's name points to Calico's Felix. A script, a udev rule or a network manager can do it too"
    } else if begins(b"flannel") {
        "The device's name points to flannel. A script, a udev rule or a network manager can do it too"
    } else {
        "It can be the CNI agent, a script that calls ethtool, a udev rule or a network manager"
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
