//! The diagnosis of one node: three lines of defence, the evidence, who else is at work, and what to do.
//!
//! Owns what follows from the facts. Pure: `doctor::read_io` reads the texts that `evidence` and `managers` understand, `output`
//! writes the diagnosis.

mod evidence;
mod managers;
pub mod read_io;
pub mod render;

pub use evidence::{Count, Counters, Flows};
pub use managers::{Candidate, Manager, managers};

use serde::Serialize;

use crate::kernel::{BugId, KernelVerdict, Status};
use crate::nat::exposure::{CitedRule, Exposure};
use crate::nat::kube_proxy::{self, KubeProxy, kube_proxy};
use crate::nat::rules::NatRules;
use crate::offload::plan::Action;
use crate::offload::report::{DeviceReport, Report};
use crate::probe::frame::Checksum;
use crate::probe::{BugResult, Hex, Observed, Outcome, ProbeRun};

/// How one device stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// At least one line of defence holds for certain.
    Safe,
    /// None holds for certain, and not all are known to fail.
    AtRisk,
    /// All three fail: packets that NAT rewrites leave corrupt.
    Broken,
}

/// The three lines of defence of one device; any that holds is enough. `None` where it is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Defence {
    /// No NAT rule can rewrite its outer packets.
    pub nat_rules: Option<bool>,
    /// The kernel does not have the bugs that it can meet.
    pub kernel: Option<bool>,
    /// The feature is off.
    pub offload: Option<bool>,
    /// What follows.
    pub health: Health,
}

impl Defence {
    /// Of one device.
    pub fn of(device: &DeviceReport<'_>) -> Self {
        let nat_rules = match device.exposure {
            Exposure::Exposed(_) => Some(false),
            Exposure::NotExposed(_) => Some(true),
            Exposure::Unknown(_) => None,
        };
        let kernel = match device.verdict.status {
            Status::Affected => Some(false),
            Status::NotAffected => Some(true),
            Status::Unknown => None,
        };
        let offload = device.feature.map(|feature| !feature.active);
        let lines = [nat_rules, kernel, offload];
        let health = if lines.contains(&Some(true)) {
            Health::Safe
        } else if lines == [Some(false); 3] {
            Health::Broken
        } else {
            Health::AtRisk
        };
        Self {
            nat_rules,
            kernel,
            offload,
            health,
        }
    }
}

/// A bug of which the table says one thing and the probe another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Disagreement {
    /// Which bug.
    pub bug: BugId,
    /// What the table says.
    pub table: Status,
    /// What was measured.
    pub measured: Status,
    /// The first frame that shows it, in hexadecimal.
    pub frame: Option<String>,
}

fn disagreements(table: &KernelVerdict, run: &ProbeRun) -> Vec<Disagreement> {
    BugId::ALL
        .into_iter()
        .filter_map(|bug| {
            let measured = match run.results[bug].outcome {
                Outcome::Affected => Status::Affected,
                Outcome::NotAffected => Status::NotAffected,
                Outcome::Inconclusive(_) => return None,
            };
            let said = table[bug].status;
            let contradicts = said != Status::Unknown && said != measured;
            contradicts.then(|| Disagreement {
                bug,
                table: said,
                measured,
                frame: telling_frame(run, bug, measured).map(ToString::to_string),
            })
        })
        .collect()
}

fn telling_frame(run: &ProbeRun, bug: BugId, status: Status) -> Option<&Hex> {
    let mut cases = run.cases.iter().filter(|case| case.tests(bug));
    cases.find_map(|case| match &case.observed {
        Observed::Frame {
            rewritten: true,
            outer,
            frame,
            ..
        } if matches!(outer, Checksum::Invalid { .. }) == (status == Status::Affected) => {
            Some(frame)
        }
        _ => None,
    })
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What, and why.
    pub text: String,
    /// How.
    pub commands: Vec<String>,
}

/// A bug that could not be measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inconclusive {
    /// Which.
    pub bug: BugId,
    /// Why not.
    pub why: String,
}

impl Inconclusive {
    fn of(result: &BugResult) -> Option<Self> {
        match &result.outcome {
            Outcome::Inconclusive(reason) => Some(Self {
                bug: result.id,
                why: reason.text.clone(),
            }),
            Outcome::Affected | Outcome::NotAffected => None,
        }
    }
}

/// What a diagnosis is made of, besides the report.
#[derive(Debug)]
pub struct Findings<'a> {
    /// What the table alone says of this kernel.
    pub table: KernelVerdict,
    /// What was measured on this boot.
    pub probe: Option<&'a ProbeRun>,
    /// The NAT rules.
    pub rules: Option<&'a NatRules>,
    /// The receiver's counters.
    pub counters: Counters,
    /// What connection tracking knows.
    pub flows: Flows,
    /// Who else sets the feature.
    pub managers: Vec<Manager>,
}

/// The diagnosis: the report, and what follows.
#[derive(Debug, Serialize)]
pub struct Diagnosis<'a> {
    /// The report of every verb.
    #[serde(flatten)]
    pub report: Report<'a>,
    /// The worst of the devices.
    pub health: Health,
    /// The lines of defence of each device, in the order of the report.
    pub defence: Vec<Defence>,
    /// What kube-proxy's rules do with the mark.
    pub kube_proxy: KubeProxy,
    /// Parts of the NAT rules that could not be read.
    pub unread_rules: Vec<String>,
    /// Whether there is a measurement of this boot for every bug.
    pub measured: bool,
    /// Where measuring was tried on this boot without a result.
    pub inconclusive: Vec<Inconclusive>,
    /// Where table and measurement contradict each other.
    pub disagreements: Vec<Disagreement>,
    /// The receiver's counters.
    pub counters: Counters,
    /// What connection tracking knows.
    pub flows: Flows,
    /// Who else sets the feature.
    pub managers: Vec<Manager>,
    /// What to do, in order.
    pub steps: Vec<Step>,
}

impl<'a> Diagnosis<'a> {
    /// Draws the conclusions.
    pub fn new(report: Report<'a>, findings: Findings<'_>) -> Self {
        let defence: Vec<Defence> = report.devices.iter().map(Defence::of).collect();
        let unread = findings.rules.map_or(&[][..], |rules| &rules.unread);
        let inconclusive: Vec<Inconclusive> = findings
            .probe
            .map(|run| run.results.iter().filter_map(Inconclusive::of).collect())
            .unwrap_or_default();
        let mut diagnosis = Self {
            health: defence
                .iter()
                .map(|defence| defence.health)
                .max()
                .unwrap_or(Health::Safe),
            defence,
            kube_proxy: findings.rules.map_or(KubeProxy::Absent, kube_proxy),
            unread_rules: unread
                .iter()
                .map(|part| format!("{}: {}", part.what, part.why))
                .collect(),
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
        diagnosis.steps = diagnosis.steps(leftovers.unwrap_or_default());
        diagnosis
    }

    /// The device that stands worst, with its lines of defence.
    pub fn worst(&self) -> Option<(&DeviceReport<'a>, Defence)> {
        let devices = self.report.devices.iter().zip(self.defence.iter().copied());
        // The first of those that are equally bad.
        devices.rev().max_by_key(|(_, defence)| defence.health)
    }

    fn steps(&self, leftovers: Vec<(String, Option<String>)>) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut step = |text: &str, commands: Vec<String>| {
            steps.push(Step {
                text: text.to_owned(),
                commands,
            });
        };
        if !self.unread_rules.is_empty() {
            step(
                "run this as root: not all NAT rules could be read",
                vec!["sudo vxcsum doctor".to_owned()],
            );
        }
        if !self.measured && self.inconclusive.is_empty() {
            step(
                "measure what this kernel does, which is stronger than any table",
                vec!["vxcsum probe".to_owned()],
            );
        }
        if self.health != Health::Safe {
            step(
                "turn the offload off where it is needed: this helps at once",
                vec![
                    "vxcsum apply --dry-run".to_owned(),
                    "vxcsum apply".to_owned(),
                ],
            );
        }
        let changes = |device: &DeviceReport<'_>| device.action != Action::Leave;
        if self.health == Health::Safe && self.report.devices.iter().any(changes) {
            step(
                "apply the policy: it asks for more than packets of this node need now",
                vec![
                    "vxcsum apply --dry-run".to_owned(),
                    "vxcsum apply".to_owned(),
                ],
            );
        }
        if self.kube_proxy == KubeProxy::KeepsMark {
            step(
                "update kube-proxy to 1.16.13, 1.17.9, 1.18.6 or newer, which take the mark away first; after an update in place take out the old rules in KUBE-POSTROUTING as well, or restart the node",
                vec![
                    "kubectl -n kube-system get pods -l k8s-app=kube-proxy -o jsonpath='{..image}'"
                        .to_owned(),
                ],
            );
        }
        for (rule, command) in leftovers {
            let text = format!(
                "an older kube-proxy left this rule behind, which keeps the mark: take it away: {rule}"
            );
            step(&text, command.into_iter().collect());
        }
        let mut others: Vec<&CitedRule> = Vec::new();
        for device in &self.report.devices {
            if let Exposure::Exposed(found) = device.exposure
                && !kube_proxy::owns(&found.rule.chain)
                && !others.contains(&&found.rule)
            {
                others.push(&found.rule);
            }
        }
        for rule in others {
            let text = format!(
                "keep VXLAN packets out of this NAT rule, or take it away: {}",
                rule.text
            );
            step(&text, Vec::new());
        }
        for bug in BugId::ALL.into_iter().filter(|bug| self.bug_matters(*bug)) {
            if let Some(versions) = bug.describe().fixed_in {
                step(
                    &format!("update the kernel: {} is fixed in {versions}", bug.as_str()),
                    vec!["vxcsum explain".to_owned()],
                );
            }
        }
        if !self.disagreements.is_empty() {
            step(
                "report the disagreement of table and measurement, with what is printed above",
                vec!["vxcsum probe --json".to_owned()],
            );
        }
        steps
    }

    fn bug_matters(&self, bug: BugId) -> bool {
        self.report
            .devices
            .iter()
            .zip(&self.defence)
            .any(|(device, defence)| {
                device.verdict.status == Status::Affected
                    && device.verdict.bugs.contains(&bug)
                    && defence.health != Health::Safe
            })
    }
}

#[cfg(test)]
mod tests;
