//! The state of the devices of a node: the lines of defence of each device, and the answer for all devices.
//!
//! Owns the states, the counts and the first sentence of every report. Pure.

use rustix::io::Errno;
use serde::Serialize;

use super::judge::ReasonCode;
use super::plan::Action;
use super::report::{DeviceReport, Outcome, Report, by_device};
use crate::fault::Fault;
use crate::kernel::{Status, Trigger};
use crate::link::TunnelKind;
use crate::nat::exposure::{Exposure, ExposureCode};

/// The most devices that the sentence names. It counts the rest, and the table names all.
const MAX_NAMED: usize = 3;

codes! {
    /// How well NAT rules, kernel and offload protect the packets of one device.
    #[derive(PartialOrd, Ord)]
    pub enum Health {
        /// At least one line of defence certainly protects the packets.
        Safe = "safe",
        /// No line of defence certainly protects the packets, and not all certainly fail.
        AtRisk = "at-risk",
        /// All three lines of defence fail: packets that NAT rewrites leave corrupt.
        Broken = "broken",
    }
}

/// The lines of defence of one device. One that holds is enough against one kind of bug. Null for a line that is not
/// known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Defence {
    /// No NAT rule can rewrite the outer packets.
    pub nat_rules: Option<bool>,
    /// The outer packets are not segmented twice.
    pub segmentation: Option<bool>,
    /// The trigger of the bugs against which the device is protected worst. The other fields are about these bugs.
    pub trigger: Trigger,
    /// The kernel does not have the bugs with this trigger that the packets can meet.
    pub kernel: Option<bool>,
    /// A feature that cures these bugs is off.
    pub offload: Option<bool>,
    /// The result of the three.
    pub health: Health,
}

impl Defence {
    /// Of one device. A device without peers sends no packets that could be corrupted.
    pub fn of(device: &DeviceReport<'_>) -> Self {
        let all = Trigger::ALL.into_iter().rev();
        // The first of those that are equally bad.
        all.filter_map(|trigger| Self::against(device, trigger))
            .max_by_key(|defence| defence.health)
            .expect("every outer checksum is susceptible to a bug")
    }

    /// The lines of defence against the bugs with one trigger. `None` if the packets cannot meet any.
    pub fn against(device: &DeviceReport<'_>, trigger: Trigger) -> Option<Self> {
        let harmless = |trigger: Trigger| {
            let danger = device.dangers[trigger as usize].as_ref()?;
            danger.happens.map(|happens| !happens)
        };
        let kernel = match device.dangers[trigger as usize].as_ref()?.verdict.status {
            Status::Affected => Some(false),
            Status::NotAffected => Some(true),
            Status::Unknown => None,
        };
        let offload = device.cured[trigger as usize];
        let lines = [harmless(trigger), kernel, offload];
        let health = if lines.contains(&Some(true)) || device.waits {
            Health::Safe
        } else if lines == [Some(false); 3] {
            Health::Broken
        } else {
            Health::AtRisk
        };
        Some(Self {
            nat_rules: harmless(Trigger::Nat),
            segmentation: match device.segmentation {
                ExposureCode::Exposed => Some(false),
                ExposureCode::NotExposed => Some(true),
                ExposureCode::Unknown => None,
            },
            trigger,
            kernel,
            offload,
            health,
        })
    }
}

codes! {
    /// The answer for a device, or the worst answer of a node.
    pub enum NodeState {
        /// Corrupt packets are impossible, or the policy accepts what is not known.
        Ok = "ok",
        /// Packets may be corrupted, or it is not known whether they can be.
        AtRisk = "at-risk",
        /// Packets are corrupted.
        Broken = "broken",
        /// A device could not be read, or a necessary change failed.
        Failed = "failed",
    }
}

impl NodeState {
    /// Of one device. Unknown facts that the policy treats as harmless do not count. A rule that certainly corrupts
    /// packets counts, whatever the policy says.
    pub fn of(device: &DeviceReport<'_>) -> Self {
        if matches!(device.outcome, Outcome::Failed | Outcome::Refused) {
            return Self::Failed;
        }
        let of = |trigger: Trigger| {
            let defence = Defence::against(device, trigger)?;
            let accepted = device.dangers[trigger as usize].as_ref()?.accepted;
            Some(match defence.health {
                Health::Broken => Self::Broken,
                Health::AtRisk if !accepted => Self::AtRisk,
                Health::AtRisk | Health::Safe => Self::Ok,
            })
        };
        let states: Vec<_> = Trigger::ALL.into_iter().filter_map(of).collect();
        let worst = [Self::Broken, Self::AtRisk];
        let found = worst.into_iter().find(|state| states.contains(state));
        found.unwrap_or(Self::Ok)
    }

    /// Of one device with all its entries, and the entry with the problem: a further entry can have failed.
    pub fn of_all<'r, 'a>(
        first: &'r DeviceReport<'a>,
        others: &'r [DeviceReport<'a>],
    ) -> (&'r DeviceReport<'a>, Self) {
        let failed = |entry: &&DeviceReport<'_>| Self::of(entry) == Self::Failed;
        let mut entries = std::iter::once(first).chain(others);
        let telling = entries.find(failed).unwrap_or(first);
        (telling, Self::of(telling))
    }

    /// The first word of a report.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::AtRisk => "AT RISK",
            Self::Broken => "BROKEN",
            Self::Failed => "FAILED",
        }
    }
}

/// The answer and the counts of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Summary {
    /// The worst state of all devices.
    pub state: NodeState,
    /// The number of devices.
    pub devices: usize,
    /// The number of devices in the state `ok`.
    pub ok: usize,
    /// The number of devices in the state `at-risk`.
    pub at_risk: usize,
    /// The number of devices in the state `broken`.
    pub broken: usize,
    /// The number of devices in the state `failed`.
    pub failed: usize,
    /// The number of devices that would be changed.
    pub pending: usize,
    /// The number of devices that were changed.
    pub changed: usize,
}

impl Summary {
    /// Of all devices in a report.
    pub fn of(devices: &[DeviceReport<'_>]) -> Self {
        let states: Vec<_> = by_device(devices)
            .map(|(first, others)| NodeState::of_all(first, others).1)
            .collect();
        let in_state = |state| states.iter().filter(|s| **s == state).count();
        let with = |outcome| {
            let any = |(first, others): &(&DeviceReport<'_>, &[DeviceReport<'_>])| {
                let mut entries = std::iter::once(*first).chain(*others);
                entries.any(|entry| entry.outcome == outcome)
            };
            by_device(devices).filter(any).count()
        };
        let worst = [NodeState::Failed, NodeState::Broken, NodeState::AtRisk]
            .into_iter()
            .find(|state| in_state(*state) > 0);
        Self {
            state: worst.unwrap_or(NodeState::Ok),
            devices: states.len(),
            ok: in_state(NodeState::Ok),
            at_risk: in_state(NodeState::AtRisk),
            broken: in_state(NodeState::Broken),
            failed: in_state(NodeState::Failed),
            pending: with(Outcome::Planned),
            changed: with(Outcome::Changed),
        }
    }
}

/// The first names, and the number of further devices.
pub fn named(devices: &[&DeviceReport<'_>], max: usize) -> String {
    let more = devices.len().saturating_sub(max);
    let names: Vec<_> = devices[..devices.len() - more]
        .iter()
        .map(|device| device.name.to_string())
        .collect();
    match more {
        0 => names.join(", "),
        _ => format!("{} and {more} more", names.join(", ")),
    }
}

/// The sentence after the first word: the devices, the reason, and the command to run.
pub fn answer(report: &Report<'_>) -> String {
    let state = report.summary.state;
    if report.devices.is_empty() {
        return if report.absent.is_empty() {
            "no VXLAN or Geneve devices here (in a container? run it on the host)".to_owned()
        } else {
            absent(report)
        };
    }
    let of = |state: NodeState| -> Vec<&DeviceReport<'_>> {
        by_device(&report.devices)
            .map(|(first, others)| NodeState::of_all(first, others))
            .filter(|(_, found)| *found == state)
            .map(|(device, _)| device)
            .collect()
    };
    let devices = of(state);
    if state == NodeState::Ok {
        return all_ok(report);
    }
    let first = devices[0];
    let trigger = Defence::of(first).trigger;
    let verdict = first.dangers[trigger as usize]
        .as_ref()
        .map_or(first.verdict, |danger| &danger.verdict);
    let bugs: Vec<_> = verdict.bugs.iter().map(|b| b.as_str()).collect();
    let bugs = match verdict.status {
        Status::Unknown => format!(
            "it is not known whether this kernel has {}",
            bugs.join(", ")
        ),
        _ => format!("kernel bug {}", bugs.join(", ")),
    };
    let kinds = TunnelKind::names(devices.iter().map(|device| device.kind));
    let why = match (state, trigger) {
        (NodeState::Broken, Trigger::Nat) => {
            format!("NAT on this node corrupts {kinds} packets ({bugs})")
        }
        (NodeState::AtRisk, Trigger::Nat) => format!("NAT may corrupt {kinds} packets ({bugs})"),
        (NodeState::Broken, Trigger::Segmentation) => {
            format!(
                "forwarded packets are segmented twice, which corrupts {kinds} packets ({bugs})"
            )
        }
        (NodeState::AtRisk, Trigger::Segmentation) => format!(
            "forwarded packets may be segmented twice, which corrupts {kinds} packets ({bugs})"
        ),
        _ => failure(first),
    };
    format!(
        "{}: {why}. {}",
        named(&devices, MAX_NAMED),
        next(report, &devices)
    )
}

/// The named devices that are not there.
pub fn absent(report: &Report<'_>) -> String {
    let names: Vec<_> = report.absent.iter().map(ToString::to_string).collect();
    let (are, s) = if names.len() == 1 {
        ("is", "")
    } else {
        ("are", "s")
    };
    let names = names.join(", ");
    format!(
        "there {are} no VXLAN or Geneve device{s} {names} here, so there is nothing to do (--if-exists)"
    )
}

fn all_ok(report: &Report<'_>) -> String {
    let safe = |device: &DeviceReport<'_>| Defence::of(device).health == Health::Safe;
    let not_read = |device: &DeviceReport<'_>| *device.exposure == Exposure::not_asked();
    let what = if report.devices.iter().all(safe) {
        "no packet can be corrupted"
    } else if report
        .devices
        .iter()
        .all(|device| safe(device) || not_read(device))
    {
        "nothing to change, because the policy says never. vxcsum doctor also looks at NAT"
    } else {
        "nothing to fix, because the policy accepts what is not known"
    };
    let kinds = TunnelKind::names(report.devices.iter().map(|device| device.kind));
    let count = match report.summary.devices {
        1 => format!("1 {kinds} device"),
        n => format!("{n} {kinds} devices"),
    };
    let pending: Vec<_> = planned(report).collect();
    let ours: Vec<_> = by_device(&report.devices)
        .filter(|(first, others)| {
            std::iter::once(*first)
                .chain(*others)
                .any(|entry| entry.ours)
        })
        .map(|(first, _)| first)
        .collect();
    if pending.is_empty() && ours.is_empty() {
        format!("{count}: {what}")
    } else if pending.is_empty() {
        let names = named(&ours, MAX_NAMED);
        format!("{count}: {what}. vxcsum turned an offload off on {names}")
    } else {
        let names = named(&pending, MAX_NAMED);
        if pending.iter().all(|device| device.action.gives_back()) {
            format!(
                "{count}: {what}. The change of {names} is not needed any more. Undo it: vxcsum apply"
            )
        } else {
            format!("{count}: {what}. The policy asks for a change of {names}: vxcsum apply")
        }
    }
}

fn planned<'r, 'a>(report: &'r Report<'a>) -> impl Iterator<Item = &'r DeviceReport<'a>> {
    let devices = report.devices.iter();
    devices.filter(|device| device.outcome == Outcome::Planned)
}

/// How long vxcsum leaves a contested device alone.
pub fn pause(device: &DeviceReport<'_>) -> String {
    let minutes = |seconds: u64| seconds.div_ceil(60);
    device.pause_seconds.map_or_else(String::new, |seconds| {
        format!(", so vxcsum pauses ({} min left)", minutes(seconds))
    })
}

fn failure(device: &DeviceReport<'_>) -> String {
    match (device.reason.code, &device.error) {
        (ReasonCode::Contested, _) => {
            format!(
                "another program keeps turning the offload on{}",
                pause(device)
            )
        }
        (ReasonCode::FeatureFixed, _) => "the kernel lets nobody turn its offload off".to_owned(),
        (_, Some(error)) => format!("{}: {}", error.operation, error.text),
        (code, None) => code.as_str().to_owned(),
    }
}

/// The command to run next for these devices.
fn next(report: &Report<'_>, devices: &[&DeviceReport<'_>]) -> String {
    let pending = |device: &&DeviceReport<'_>| {
        device.outcome == Outcome::Planned
            && matches!(device.action, Action::TurnOff | Action::AddRule)
    };
    if report.limited.is_empty() && devices.iter().any(pending) {
        "Fix: vxcsum apply".to_owned()
    } else if matches!(
        devices[0].reason.code,
        ReasonCode::RuleNever | ReasonCode::BugNever
    ) {
        format!(
            "The policy leaves it so. See: vxcsum explain {}",
            devices[0].name.in_command()
        )
    } else if let Some(limit) = report.limited.first() {
        format!("The NAT rules could not be read. {}", limit.advice)
    } else {
        "See: vxcsum doctor".to_owned()
    }
}

codes! {
    /// A fact that could not be read.
    pub enum LimitedPart {
        /// The NAT rules, or a part of them.
        NatRules = "nat-rules",
    }
}

/// A fact that could not be read, so the answer assumes the worst case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Limit {
    /// The part that could not be read.
    pub what: LimitedPart,
    /// The error.
    pub why: String,
    /// What to do about the error.
    pub advice: String,
}

impl Limit {
    /// For parts of the NAT rules that could not be read. The advice fits the cause: root needs no `sudo`.
    pub fn of_rules(unread: &[Fault], root: bool) -> Option<Self> {
        unread.first()?;
        let advice = if unread.iter().any(Fault::forbidden) {
            if root {
                "This container lacks CAP_NET_ADMIN: add the capability, and use the network of the host"
                    .to_owned()
            } else {
                "Run it as root, for example with sudo".to_owned()
            }
        } else if unread
            .iter()
            .any(|part| part.code() == Some(Errno::AFNOSUPPORT))
        {
            "A sandbox forbids these sockets: run it outside of the sandbox, or allow AF_INET, AF_INET6 and AF_NETLINK"
                .to_owned()
        } else {
            "See: vxcsum doctor".to_owned()
        };
        let why: Vec<_> = unread.iter().map(Fault::to_string).collect();
        Some(Self {
            what: LimitedPart::NatRules,
            why: why.join("; "),
            advice,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_follows_the_cause() {
        assert_eq!(Limit::of_rules(&[], true), None);
        for (code, root, expected) in [
            (Some(Errno::PERM), false, "sudo"),
            (Some(Errno::ACCESS), true, "container"),
            (Some(Errno::AFNOSUPPORT), true, "AF_INET"),
            (Some(Errno::NOMEM), true, "vxcsum doctor"),
            (None, true, "vxcsum doctor"),
        ] {
            let fault = code.map_or(Fault::other("read nf_tables", "malformed"), |code| {
                Fault::kernel("read nf_tables", code, None)
            });
            let limit = Limit::of_rules(&[fault], root).expect("a limit");
            assert!(limit.advice.contains(expected), "{code:?}: {limit:?}");
        }
    }
}
