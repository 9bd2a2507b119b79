//! The diagnosis of one node: three lines of defence, the evidence, other programs that set the feature, and next
//! steps.
//!
//! Owns the conclusions. Pure: `doctor::read_io` reads the texts that `evidence` and `managers` decode, and `output`
//! writes the diagnosis.

mod evidence;
mod exemption;
pub(crate) mod managers;
pub(crate) mod read_io;
pub(crate) mod render;

pub use crate::offload::health::{Defence, Health};
pub use evidence::{Count, Counters, Flows};
#[cfg(any(test, fuzzing))]
pub(crate) use exemption::commands as exemption_commands;
pub use managers::{Candidate, Manager, managers};

use serde::Serialize;

use crate::ethtool::Feature;
use crate::kernel::{BugId, KernelVerdict, Status, Trigger};
use crate::nat::exposure::{CitedRule, Doubt, Exposure, ExposureCode, Untracked};
use crate::nat::kube_proxy::{self, KubeProxy, kube_proxy};
use crate::nat::rules::NatRules;
use crate::offload::health::{NodeState, named, pause};
use crate::offload::judge::ReasonCode;
use crate::offload::plan::Action;
use crate::offload::report::{DeviceReport, Report, by_device};
use crate::probe::{BugOutcome, BugResult, ProbeRun};

/// A bug for which the table and the probe disagree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Disagreement {
    pub bug: BugId,
    /// The verdict of the table.
    pub table: Status,
    /// The result of the probe.
    pub measured: Status,
    /// The first frame that shows the bug, in hexadecimal.
    pub frame: Option<String>,
}

fn disagreements(table: &KernelVerdict, run: &ProbeRun) -> Vec<Disagreement> {
    BugId::ALL
        .into_iter()
        .filter_map(|bug| {
            let measured = match run.result(bug)?.outcome {
                BugOutcome::Affected => Status::Affected,
                BugOutcome::NotAffected => Status::NotAffected,
                BugOutcome::Inconclusive(_) => return None,
            };
            let said = table[bug].status;
            let contradicts = said != Status::Unknown && said != measured;
            contradicts.then(|| Disagreement {
                bug,
                table: said,
                measured,
                frame: run
                    .telling_frame(bug, measured == Status::Affected)
                    .map(ToString::to_string),
            })
        })
        .collect()
}

/// The most devices that a step names.
const MAX_NAMED: usize = 8;

/// One step for the administrator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NextStep {
    /// What to do, and why.
    pub text: String,
    /// The NAT rule that the step is about, as its tool prints it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Shell commands that are safe to paste.
    pub commands: Vec<String>,
}

impl NextStep {
    fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            rule: None,
            commands: Vec::new(),
        }
    }
}

/// For each rule that rewrites packets, says who owns it and how to keep the packets out of it. Never removes a rule,
/// because other packets need it.
fn exempt(rules: &NatRules, devices: &[&DeviceReport<'_>], steps: &mut Vec<NextStep>) {
    const RULE: &str = ". The rule in ";
    const MORE: &str = ". Repeat it for each other port";
    let leftovers = kube_proxy::leftovers(rules);
    let mut done: Vec<(&CitedRule, Option<u16>)> = Vec::new();
    for device in devices {
        let Exposure::Exposed(found) = device.exposure else {
            continue;
        };
        if done.contains(&(&found.rule, device.dst_port)) || leftovers.contains(&found.rule.at) {
            continue;
        }
        let known = done.iter().any(|(rule, _)| *rule == &found.rule);
        done.push((&found.rule, device.dst_port));
        let commands = exemption::commands(rules, found, device.dst_port);
        if known {
            // One step for all ports of a rule. A node has one or two ports.
            let step = steps
                .iter_mut()
                .find(|step| step.rule.as_deref() == Some(&found.rule.text));
            if let Some(step) = step {
                if step.commands.len() + commands.len() <= MAX_NAMED {
                    step.commands.extend(commands);
                } else if !step.text.contains(MORE) {
                    step.text = step.text.replacen(RULE, &format!("{MORE}{RULE}"), 1);
                }
            }
            continue;
        }
        let whose = exemption::owner(rules, found).map_or_else(String::new, |owner| {
            format!(". Do not edit the rule, because {owner} owns it")
        });
        let how = if commands.is_empty() {
            "only the owner of this rule can exclude the outer packets from it"
        } else {
            "exclude the outer packets from NAT. The command holds until a reboot, or until the rules are loaded again"
        };
        steps.push(NextStep {
            rule: Some(found.rule.text.clone()),
            text: format!("{how}{whose}{RULE}{}:", found.rule.table),
            commands,
        });
    }
}

/// A bug without a result of the probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NotMeasured {
    pub bug: BugId,
    /// One sentence.
    pub why: String,
}

impl NotMeasured {
    fn of(result: &BugResult) -> Option<Self> {
        match &result.outcome {
            BugOutcome::Inconclusive(reason) => Some(Self {
                bug: result.id,
                why: reason.text.clone(),
            }),
            BugOutcome::Affected | BugOutcome::NotAffected => None,
        }
    }
}

/// The facts for a diagnosis, besides the report.
#[derive(Debug)]
pub struct Findings<'a> {
    /// The verdict of the table alone.
    pub table: KernelVerdict,
    /// The probe of this boot.
    pub probe: Option<&'a ProbeRun>,
    pub rules: Option<&'a NatRules>,
    pub counters: Counters,
    pub flows: Flows,
    pub managers: Vec<Manager>,
}

/// A diagnosis: the report and the conclusions.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Diagnosis<'a> {
    #[serde(flatten)]
    pub report: Report<'a>,
    /// The worst health of all devices.
    pub health: Health,
    /// The lines of defence of each device, in the order of the report.
    pub defence: Vec<Defence>,
    /// What the rules of kube-proxy do with the mark.
    pub kube_proxy: KubeProxy,
    /// Parts of the NAT rules that could not be read.
    pub unread_rules: Vec<String>,
    /// True if the probe of this boot has a result for every bug.
    pub measured: bool,
    /// The bugs for which a probe of this boot has no result.
    pub inconclusive: Vec<NotMeasured>,
    /// The bugs for which the table and the probe disagree.
    pub disagreements: Vec<Disagreement>,
    pub counters: Counters,
    pub flows: Flows,
    pub managers: Vec<Manager>,
    /// In the order in which to do them.
    pub steps: Vec<NextStep>,
}

impl<'a> Diagnosis<'a> {
    pub fn new(report: Report<'a>, findings: Findings<'_>) -> Self {
        let defence: Vec<Defence> = report.devices.iter().map(Defence::of).collect();
        let unread = findings.rules.map_or(&[][..], |rules| &rules.unread);
        let inconclusive: Vec<NotMeasured> = findings
            .probe
            .map(|run| run.results.iter().filter_map(NotMeasured::of).collect())
            .unwrap_or_default();
        let mut diagnosis = Self {
            health: defence
                .iter()
                .map(|defence| defence.health)
                .max()
                .unwrap_or(Health::Safe),
            defence,
            kube_proxy: findings.rules.map_or(KubeProxy::Absent, kube_proxy),
            unread_rules: unread.iter().map(ToString::to_string).collect(),
            measured: findings.probe.is_some() && inconclusive.is_empty(),
            inconclusive,
            disagreements: findings
                .probe
                .map(|run| disagreements(&findings.table, run))
                .unwrap_or_default(),
            counters: findings.counters,
            flows: findings.flows,
            managers: findings.managers,
            steps: Vec::new(),
            report,
        };
        let leftovers = findings.rules.map(kube_proxy::leftovers_quoted);
        diagnosis.steps = diagnosis.steps(leftovers.unwrap_or_default(), findings.rules);
        diagnosis
    }

    /// The device with the worst health, and its lines of defence.
    pub fn worst(&self) -> Option<(&DeviceReport<'a>, Defence)> {
        let devices = self.report.devices.iter().zip(self.defence.iter().copied());
        // The first of those that are equally bad.
        devices.rev().max_by_key(|(_, defence)| defence.health)
    }

    /// The steps that stop the corruption now come first, then the steps that prevent it.
    fn steps(
        &self,
        leftovers: Vec<(String, Option<String>)>,
        rules: Option<&NatRules>,
    ) -> Vec<NextStep> {
        let mut steps = Vec::new();
        for limit in &self.report.limited {
            steps.push(NextStep::new(format!(
                "read the NAT rules: {}. {}",
                limit.why, limit.advice
            )));
        }
        self.refused(&mut steps);
        self.apply(&mut steps);
        let bad = |device: &&DeviceReport<'_>| {
            let off = device.reason.code == ReasonCode::AlreadyOff;
            nat_threatens(device) && (off || NodeState::of(device) != NodeState::Ok)
        };
        let no_leftovers = leftovers.is_empty();
        for (rule, command) in leftovers {
            steps.push(NextStep {
                text: "delete this rule, which an older kube-proxy left behind. It keeps the mark, and nothing needs it:".to_owned(),
 rule: Some(rule),
 commands: command.into_iter().collect(),
            });
        }
        if self.kube_proxy == KubeProxy::KeepsMark
            && no_leftovers
            && self.report.devices.iter().any(nat_threatens)
        {
            steps.push(NextStep::new(
                "update kube-proxy to 1.16.13, 1.17.9, 1.18.6 or newer. These versions clear the mark before they masquerade. Its version is in the name of its image, or `kube-proxy --version` on the node prints it",
            ));
        }
        if let Some(rules) = rules {
            let devices: Vec<_> = self.report.devices.iter().filter(bad).collect();
            exempt(rules, &devices, &mut steps);
        }
        let (tracked, names) = self.cured_by_notrack();
        if !tracked.is_empty() {
            let text = format!(
                "or keep connection tracking, and so NAT, off the outer packets of {}. Then the offload stays on. These commands \
                 hold until the next boot or `nft flush ruleset`. vxcsum makes such rules itself with cure = \"notrack\" in the \
                 policy",
                names.join(", ")
            );
            steps.push(NextStep {
                rule: None,
                text,
                commands: Untracked::commands(&tracked),
            });
        }
        self.by_hand(&mut steps);
        self.unseen_nat(&mut steps);
        for bug in BugId::ALL.into_iter().filter(|bug| self.bug_matters(*bug)) {
            if let Some(versions) = bug.describe().fixed_in {
                steps.push(NextStep {
                    rule: None,
                    text: format!("update the kernel: {} is fixed in {versions}", bug.as_str()),
                    commands: vec!["vxcsum explain".to_owned()],
                });
            }
        }
        let unknown = |device: &DeviceReport<'_>| device.verdict.status == Status::Unknown;
        if !self.measured && self.report.devices.iter().any(unknown) {
            steps.push(NextStep {
                rule: None,
                text: "measure this kernel, because the table of vxcsum does not have it"
                    .to_owned(),
                commands: vec!["vxcsum probe".to_owned()],
            });
        }
        if !self.disagreements.is_empty() {
            steps.push(NextStep {
                rule: None,
                text:
                    "report that table and measurement disagree. Include the lines below and the output of this command"
                        .to_owned(),
                commands: vec!["vxcsum probe --json".to_owned()],
            });
        }
        steps
    }

    /// The devices for which rules without tracking are enough, and how those rules describe their packets.
    fn cured_by_notrack(&self) -> (Vec<Untracked>, Vec<String>) {
        let (mut tracked, mut names) = (Vec::new(), Vec::new());
        for (device, _) in by_device(&self.report.devices) {
            if nat_threatens(device)
                && device.notrack.is_none()
                && let Some(Ok(packets)) = device.exposure.exposed().map(|found| &found.notrack)
            {
                names.push(device.name.to_string());
                if !tracked.contains(packets) {
                    tracked.push(*packets);
                }
            }
        }
        (tracked, names)
    }

    /// Devices that `apply` cannot or may not change. Each reason has its remedy.
    fn refused(&self, steps: &mut Vec<NextStep>) {
        for device in &self.report.devices {
            let (name, rule) = (device.name, device.rule.unwrap_or("[bugs]"));
            let (text, command) = match device.reason.code {
                ReasonCode::Contested => (
                    format!(
                        "{name}: another program turns the offload on again and again{}. Find and stop it: the first command shows when it acts, and \"other programs\" below names candidates. The second command ends the pause",
                        pause(device)
                    ),
                    vec![
                        format!("ethtool --monitor {}", name.in_command()),
                        format!("vxcsum apply {}", name.in_command()),
                    ],
                ),
                ReasonCode::RuleNever | ReasonCode::BugNever
                    if NodeState::of(device) != NodeState::Ok =>
                {
                    (
                        format!(
                            "{name}: the policy says never, in {}. Remove that, then run:",
                            crate::text::escape(rule.as_bytes())
                        ),
                        vec![
                            "vxcsum policy check".to_owned(),
                            format!("vxcsum apply {}", name.in_command()),
                        ],
                    )
                }
                ReasonCode::FeatureFixed | ReasonCode::NoSuchFeature => (
                    format!(
                        "{name}: the kernel lets nobody turn its offload off. Keep NAT away from its packets: see the next steps"
                    ),
                    Vec::new(),
                ),
                ReasonCode::NotReadable => (
                    format!(
                        "{name}: vxcsum could not read its offload: {}",
                        device
                            .error
                            .as_ref()
                            .map_or_else(String::new, ToString::to_string)
                    ),
                    Vec::new(),
                ),
                _ => continue,
            };
            steps.push(NextStep {
                rule: None,
                text,
                commands: command,
            });
        }
    }

    fn apply(&self, steps: &mut Vec<NextStep>) {
        let changes = |device: &DeviceReport<'_>| device.action != Action::Leave;
        if !self.report.limited.is_empty() || !self.report.devices.iter().any(changes) {
            return;
        }
        let pending = || self.report.devices.iter().filter(|device| changes(device));
        let text = if pending().all(|device| device.action == Action::AddRule) {
            "make the rule notrack of the policy (cure = \"notrack\"). This helps at once, and the offload stays on"
        } else if pending().all(|device| device.action.gives_back()) {
            "undo what is not needed any more. With its offload off a device is slower"
        } else if self.health == Health::Safe {
            "apply the policy. It asks for more than the packets of this node need now"
        } else if self.report.persistent == Some(false) {
            "turn the offload off where it is needed. This helps at once, until the device is created again or the node reboots. The last command keeps it off, and needs the package or `make install`"
        } else {
            "turn the offload off where it is needed. This helps at once"
        };
        let mut commands = vec![
            "vxcsum apply --dry-run".to_owned(),
            "vxcsum apply".to_owned(),
        ];
        if self.report.persistent == Some(false) {
            commands.push("systemctl enable --now vxcsum.service vxcsum.timer".to_owned());
        }
        steps.push(NextStep {
            rule: None,
            text: text.to_owned(),
            commands,
        });
    }

    /// The cure of double segmentation, for users who set it themselves.
    fn by_hand(&self, steps: &mut Vec<NextStep>) {
        let entries = by_device(&self.report.devices).map(|(first, _)| first);
        let devices: Vec<_> = entries
            .filter(|d| threatens(d, Trigger::Segmentation))
            .collect();
        if devices.is_empty() {
            return;
        }
        let feature = Feature::Fraglist.as_str();
        let commands = devices
            .iter()
            .take(MAX_NAMED)
            .map(|device| format!("ethtool -K {} {feature} off", device.name.in_command()));
        steps.push(NextStep {
            rule: None,
            text: format!(
                "or turn off only {feature} on {}. That is enough against packets that are segmented twice, and it keeps checksum \
                 offload and TSO. It holds until the device is created again",
                named(&devices, MAX_NAMED)
            ),
            commands: commands.collect(),
        });
    }

    /// What this node cannot see.
    fn unseen_nat(&self, steps: &mut Vec<NextStep>) {
        let doubtful = |device: &&DeviceReport<'_>| {
            matches!(
                device.exposure,
                Exposure::Unknown(Doubt::Underlay(_) | Doubt::OtherEgress(_))
            ) && threatens(device, Trigger::Nat)
                && NodeState::of(device) == NodeState::AtRisk
        };
        let entries = by_device(&self.report.devices).map(|(first, _)| first);
        let devices: Vec<_> = entries.filter(doubtful).collect();
        if !devices.is_empty() {
            let segmented = |device: &&DeviceReport<'_>| {
                device.segmentation == ExposureCode::Unknown
                    && threatens(device, Trigger::Segmentation)
            };
            let and = if devices.iter().any(segmented) {
                " and that forwarded packets are not segmented twice (vxcsum explain DEVICE)"
            } else {
                ""
            };
            steps.push(NextStep::new(format!(
                "{}: no rule here rewrites its packets, but vxcsum cannot see NAT outside this network namespace. In a container, run vxcsum doctor on the host too. If you know that no NAT rewrites them{and}: set unknown-exposure = \"not-exposed\" in the policy",
                named(&devices, MAX_NAMED)
            )));
        }
    }

    fn bug_matters(&self, bug: BugId) -> bool {
        self.report
            .devices
            .iter()
            .zip(&self.defence)
            .any(|(device, defence)| {
                defence.trigger == bug.describe().trigger
                    && device.verdict.status == Status::Affected
                    && device.verdict.bugs.contains(&bug)
                    && defence.health != Health::Safe
            })
    }
}

/// True if the kernel may have a bug that needs NAT and that the packets of the device can meet.
fn nat_threatens(device: &DeviceReport<'_>) -> bool {
    let defence = Defence::against(device, Trigger::Nat);
    defence.is_some_and(|defence| defence.kernel != Some(true))
}

/// True if no line of defence certainly protects against the bugs with one trigger.
fn threatens(device: &DeviceReport<'_>, trigger: Trigger) -> bool {
    let defence = Defence::against(device, trigger);
    defence.is_some_and(|defence| defence.health != Health::Safe)
}

#[cfg(test)]
mod tests;
