//! The result of every verb that looks at devices.
//!
//! Owns the form of the JSON output (its codes are stable), the outcomes and the exit code. Pure.

use core::fmt::Display;
use std::collections::HashMap;

use serde::{Serialize, Serializer};

use super::facts::Exposure;
use super::health::{Limit, Summary};
use super::judge::{Danger, DeviceVerdict, PerTrigger, Reason, ReasonCode, cures};
use super::plan::{Action, DevicePlan, Plan};
use crate::error::ExitCode;
use crate::ethtool::{BackendName, Feature, FeatureState};
use crate::fault::Fault;
use crate::kernel::{KernelFacts, KernelVerdict, OsRelease, Trigger};
use crate::link::segmentation::Segmentation;
use crate::link::{OuterChecksum, TunnelKind, Underlay};
use crate::nat::exposure::ExposureCode;
use crate::text::IfName;

/// Increased if a field changes its meaning or is removed. New fields can appear at any time.
pub const SCHEMA_VERSION: u32 = 1;

codes! {
    /// The outcome for a device.
    pub enum Outcome {
        /// It would be changed.
        Planned = "planned",
        /// It was changed, and reads back as changed.
        Changed = "changed",
        /// There was nothing to do.
        Unchanged = "unchanged",
        /// The kernel did not make the change: the feature is `[fixed]`, or the kernel accepted the request and did
        /// nothing.
        Refused = "refused",
        /// The device was deleted, renamed or replaced in the meantime.
        Gone = "gone",
        /// Reading or setting failed.
        Failed = "failed",
    }
}

/// The result of `apply` for one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub outcome: Outcome,
    /// The feature as it was read back.
    pub feature: Option<FeatureState>,
    /// The bits of the features that the kernel turned off or on together with it.
    pub also: u128,
    pub error: Option<Fault>,
}

/// The result for each device and feature, by [`DevicePlan::key`].
pub type Changes = HashMap<(u32, Feature), Change>;

/// The kernel in a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct KernelReport {
    /// `uname -r`.
    pub release: String,
    /// `uname -v`.
    pub version: String,
    /// The distribution, from os-release(5).
    pub distribution: OsRelease,
    /// The verdict on each bug.
    pub bugs: KernelVerdict,
}

impl KernelReport {
    /// Joins the strings of a kernel with the verdict on it.
    pub fn new(facts: &KernelFacts, verdict: KernelVerdict) -> Self {
        Self {
            release: facts.release.clone(),
            version: facts.version.clone(),
            distribution: facts.os.clone(),
            bugs: verdict,
        }
    }
}

/// A rule in vxcsum's own table of nf_tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NotrackRule {
    /// The rule in the syntax of nft(8).
    pub rule: String,
    /// True if a read has found the rule.
    pub in_place: bool,
}

/// One device in a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DeviceReport<'a> {
    /// The ifindex. It identifies the device as long as it exists.
    #[cfg_attr(test, schemars(range(min = 1)))]
    pub ifindex: u32,
    /// Bytes that are not UTF-8 are written as `\xNN`.
    pub name: &'a IfName,
    pub kind: TunnelKind,
    /// Null on an `external` device, where the sender of each packet chooses.
    #[cfg_attr(test, schemars(range(max = 16_777_215)))]
    pub vni: Option<u32>,
    /// The UDP destination port.
    pub dst_port: Option<u16>,
    /// The outer UDP checksum of the packets.
    pub outer_checksum: OuterChecksum,
    /// The device through which the packets leave. Null if it is not known.
    pub underlay: Option<&'a Underlay>,
    /// The feature of this entry. If vxcsum turned off another feature, the device has a second entry for it.
    pub feature_name: Feature,
    /// The state of the feature, read back after a change. Null if it could not be read.
    pub feature: Option<FeatureState>,
    /// What the bugs of the kernel mean for the device.
    pub verdict: &'a DeviceVerdict,
    /// Whether NAT can rewrite the outer packets.
    #[cfg_attr(test, schemars(with = "ExposureCode"))]
    pub exposure: &'a Exposure,
    /// The reason of the exposure.
    #[serde(serialize_with = "text")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub exposure_text: &'a Exposure,
    /// The NAT rule of the exposure, as iptables-save(8) or nft(8) prints it. Null if the exposure is not about a rule.
    pub exposure_rule: Option<&'a str>,
    /// The table of that rule, such as `ip nat (nf_tables)`. Null unless the rule rewrites the packets.
    pub exposure_table: Option<&'a str>,
    /// Whether the packets can be segmented twice.
    pub segmentation: ExposureCode,
    /// The reason.
    #[serde(serialize_with = "text")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub segmentation_text: &'a Segmentation,
    /// The danger from each trigger.
    #[serde(skip)]
    pub dangers: &'a PerTrigger<Option<Danger>>,
    /// For each trigger, whether a feature that cures its bugs is off. `None` if that is not known.
    #[serde(skip)]
    pub cured: PerTrigger<Option<bool>>,
    /// The device has no peers yet, and a decision waits for the first.
    #[serde(skip)]
    pub waits: bool,
    /// The rule that keeps NAT off the outer packets. Absent if vxcsum keeps none and would add none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notrack: Option<NotrackRule>,
    /// The decision.
    pub action: Action,
    /// The reason of the decision.
    pub reason: &'a Reason,
    /// The policy rule that decided. Null if `[bugs]` decided.
    pub rule: Option<&'a str>,
    /// The features that the kernel turns off, or turned off, together with the feature.
    pub also_off: Vec<&'a str>,
    /// The features that the kernel turns on, or turned on, together with the feature. Only if it is turned on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub also_on: Vec<&'a str>,
    /// vxcsum turned the feature off since boot, and it is off.
    #[serde(skip)]
    pub ours: bool,
    /// How often another program turned the feature on again: once since the last look, and before it within a minute.
    /// Absent if none did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turned_on_again: Option<usize>,
    /// The seconds until vxcsum turns the feature off again. Only with the reason `contested`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause_seconds: Option<u64>,
    /// The result.
    pub outcome: Outcome,
    /// The error of a failed request. Null if nothing failed.
    pub error: Option<Fault>,
}

/// The result of `status`, `apply`, `revert` and `explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Report<'a> {
    /// Increased if a field changes its meaning or is removed.
    #[cfg_attr(test, schemars(extend("const" = SCHEMA_VERSION)))]
    pub schema_version: u32,
    /// The answer and the counts.
    pub summary: Summary,
    /// The facts that could not be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limited: Vec<Limit>,
    /// True if units or `watch` keep the offload off after this run. Null if vxcsum did not check.
    pub persistent: Option<bool>,
    /// True if a `vxcsum watch --exclusive` runs: units and other watches leave the devices to it.
    #[serde(skip_serializing_if = "core::ops::Not::not")]
    pub exclusive: bool,
    /// The named devices that are not there, or are no VXLAN or Geneve devices. Only with `--if-exists`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<&'a IfName>,
    /// The run changed nothing.
    pub dry_run: bool,
    /// The interface of the kernel that was used. Null if no device was looked at.
    pub backend: Option<BackendName>,
    pub kernel: KernelReport,
    /// Sorted by ifindex.
    pub devices: Vec<DeviceReport<'a>>,
}

/// The text for users.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// The first entry of each device, and the entries after it about further features.
pub fn by_device<'r, 'a>(
    devices: &'r [DeviceReport<'a>],
) -> impl Iterator<Item = (&'r DeviceReport<'a>, &'r [DeviceReport<'a>])> {
    devices
        .chunk_by(|a, b| a.ifindex == b.ifindex)
        .filter_map(<[_]>::split_first)
}

impl<'a> Report<'a> {
    /// The report of a plan that is not carried out.
    pub fn planned(plan: &'a Plan<'a>, kernel: KernelReport, backend: Option<BackendName>) -> Self {
        let devices = plan
            .devices
            .iter()
            .map(|device| report(device, plan, unchanged(device, plan)));
        Self::new(true, backend, kernel, devices.collect())
    }

    /// The report of a plan that was carried out.
    pub fn applied(
        plan: &'a Plan<'a>,
        kernel: KernelReport,
        backend: BackendName,
        mut changes: Changes,
    ) -> Self {
        let devices = plan.devices.iter().map(|device| {
            let change = changes.remove(&device.key());
            report(
                device,
                plan,
                change.unwrap_or_else(|| unchanged(device, plan)),
            )
        });
        Self::new(false, Some(backend), kernel, devices.collect())
    }

    fn new(
        dry_run: bool,
        backend: Option<BackendName>,
        kernel: KernelReport,
        devices: Vec<DeviceReport<'a>>,
    ) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            summary: Summary::of(&devices),
            limited: Vec::new(),
            persistent: None,
            exclusive: false,
            absent: Vec::new(),
            dry_run,
            backend,
            kernel,
            devices,
        }
    }

    /// The exit code. A failed device, or a device that should be off and cannot be, makes the whole run fail. A
    /// deleted device does not. `pending` stands for `--exit-code`.
    pub fn exit_code(&self, pending: bool) -> ExitCode {
        let any = |outcomes: &[Outcome]| {
            self.devices
                .iter()
                .any(|device| outcomes.contains(&device.outcome))
        };
        if any(&[Outcome::Failed, Outcome::Refused]) {
            let all_forbidden = self
                .devices
                .iter()
                .filter_map(|d| d.error.as_ref())
                .all(Fault::forbidden);
            if all_forbidden {
                ExitCode::Permission
            } else {
                ExitCode::Failed
            }
        } else if pending && any(&[Outcome::Planned]) {
            ExitCode::Pending
        } else {
            ExitCode::Ok
        }
    }
}

fn report<'a>(plan: &'a DevicePlan<'a>, whole: &'a Plan<'a>, change: Change) -> DeviceReport<'a> {
    let link = &plan.device.link;
    let also = whole.table.named(change.also);
    let (also_off, also_on) = if plan.action == Action::TurnOn {
        (Vec::new(), also)
    } else {
        (also, Vec::new())
    };
    let cured = Trigger::ALL.map(|trigger| {
        let active = |cure| {
            let state = if cure == plan.feature {
                change.feature
            } else {
                plan.device.state(whole.table, cure)
            };
            state.map(|state| state.active)
        };
        let active: Vec<_> = cures(trigger).map(active).collect();
        if active.contains(&Some(false)) {
            Some(true)
        } else {
            (!active.contains(&None)).then_some(false)
        }
    });
    let segmentation = &plan.device.segmentation;
    let history = &plan.device.history[plan.feature];
    DeviceReport {
        ifindex: link.ifindex,
        name: &link.name,
        kind: link.kind,
        vni: link.vni,
        dst_port: link.dst_port,
        outer_checksum: link.outer_checksum,
        underlay: plan.device.underlay.as_deref(),
        feature_name: plan.feature,
        feature: change.feature,
        verdict: &plan.verdict,
        exposure: &plan.device.exposure,
        exposure_text: &plan.device.exposure,
        exposure_rule: plan.device.exposure.rule(),
        exposure_table: plan.device.exposure.table(),
        segmentation: match segmentation.twice() {
            Some(true) => ExposureCode::Exposed,
            Some(false) => ExposureCode::NotExposed,
            None => ExposureCode::Unknown,
        },
        segmentation_text: segmentation,
        dangers: &plan.dangers,
        cured,
        waits: plan.waits,
        notrack: plan.untrack.packets.map(|packets| NotrackRule {
            rule: packets.rule(),
            in_place: plan.untrack.in_place,
        }),
        action: plan.action,
        reason: &plan.reason,
        rule: plan.rule.as_deref(),
        also_off,
        also_on,
        ours: change.feature.is_some_and(FeatureState::off)
            && (history.owned || change.outcome == Outcome::Changed),
        turned_on_again: Some(history.undone)
            .filter(|times| *times > 0 && plan.action == Action::TurnOff),
        pause_seconds: history
            .contested
            .filter(|_| plan.reason.code == ReasonCode::Contested)
            .map(|conflict| conflict.left),
        outcome: change.outcome,
        error: change.error,
    }
}

fn advice(plan: &DevicePlan<'_>) -> String {
    let conflict = plan.device.history[plan.feature].contested;
    let again = conflict.map(|conflict| format!(". vxcsum tries again {conflict}"));
    let again = again.unwrap_or_default();
    format!("stop that program, then end the pause: vxcsum apply DEVICE{again}")
}

/// The result for a device that was not changed.
fn unchanged(plan: &DevicePlan<'_>, whole: &Plan<'_>) -> Change {
    let refused = |text: &str| Fault::other(plan.feature.set(false), text);
    let (outcome, error) = match (plan.action, plan.reason.code, &plan.device.features) {
        // Report a failed read even if the policy leaves the device alone, unless the device was deleted.
        (_, _, Err(fault)) if fault.gone() => (Outcome::Gone, Some(fault.clone())),
        (_, _, Err(fault)) => (Outcome::Failed, Some(fault.clone())),
        (Action::AddRule | Action::RemoveRule, _, _) if plan.device.rule.changed => {
            (Outcome::Changed, None)
        }
        (Action::TurnOff | Action::TurnOn | Action::AddRule | Action::RemoveRule, _, _) => {
            (Outcome::Planned, None)
        }
        (Action::Leave, ReasonCode::Contested, _) => (
            Outcome::Refused,
            Some(refused("another program keeps turning it on").advise(advice(plan))),
        ),
        (Action::Leave, ReasonCode::FeatureFixed, _) => (
            Outcome::Refused,
            Some(
                refused("the kernel lets nobody change it on this device ([fixed])")
                    .advise("keep NAT away from the outer packets instead: vxcsum doctor says how"),
            ),
        ),
        (Action::Leave, ReasonCode::NoSuchFeature, _) => (
            Outcome::Failed,
            Some(refused("this kernel has no feature of this name")),
        ),
        (Action::Leave, _, _) => (Outcome::Unchanged, None),
    };
    Change {
        outcome,
        feature: plan.device.state(whole.table, plan.feature),
        also: plan.also,
        error,
    }
}
