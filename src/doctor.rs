//! The diagnosis of one node: three lines of defence, the evidence, who else is at work, and what to do.
//!
//! Owns what follows from the facts, and how the texts that hold them are understood. Pure: `sys::node_evidence` reads those
//! texts, `render` writes the diagnosis.

use std::collections::HashMap;

use serde::Serialize;

use crate::exposure::{quoted_chains, rules::NatRules};
use crate::facts::{IfName, escape};
use crate::glob::Glob;
use crate::kernel::{BugId, KernelVerdict, Status};
use crate::probe::{BugResult, Hex, Observed, Outcome, Outer, ProbeRun};
use crate::report::{DeviceReport, Report};
use crate::wire::frame::Sum;

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

/// The three lines of defence of one device; any that holds is enough. None where it is not known.
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
            "exposed" => Some(false),
            "not-exposed" => Some(true),
            _ => None,
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

/// What kube-proxy's rules do with the mark of a packet that they masquerade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KubeProxy {
    /// There are no rules of kube-proxy, or none could be read.
    Absent,
    /// They take it away first, as since 1.16.13, 1.17.9 and 1.18.6.
    ClearsMark,
    /// They leave it, and the outer packet has it too.
    KeepsMark,
}

/// What kube-proxy's rules do, in every table where there are any: leftovers of an old version count.
fn kube_proxy(rules: &NatRules) -> KubeProxy {
    let masquerades = |rule: &String| rule.to_lowercase().contains("masquerade");
    let clears = |rule: &String| rule.contains("--set-xmark") || rule.contains("meta mark set");
    let mut found = KubeProxy::Absent;
    for name in [&b"KUBE-POSTROUTING"[..], b"masquerading"] {
        for chain in quoted_chains(rules, name) {
            if !chain.iter().any(masquerades) {
                continue;
            }
            if !chain.iter().any(clears) {
                return KubeProxy::KeepsMark;
            }
            found = KubeProxy::ClearsMark;
        }
    }
    found
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
            let measured = match run.bug(bug).outcome {
                Outcome::Affected => Status::Affected,
                Outcome::NotAffected => Status::NotAffected,
                Outcome::Inconclusive(_) => return None,
            };
            let said = table.bug(bug).status;
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
    let mode = match bug {
        BugId::NatZeroCsum => Outer::Zero,
        BugId::NatLcoCsum => Outer::Present,
    };
    let mut cases = run.cases.iter().filter(|case| case.outer_checksum == mode);
    cases.find_map(|case| match &case.observed {
        Observed::Frame {
            rewritten: true,
            outer,
            frame,
            ..
        } if matches!(outer, Sum::Wrong { .. }) == (status == Status::Affected) => Some(frame),
        _ => None,
    })
}

/// `InCsumErrors` of the receiving side, since boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// UDP over IPv4: outer packets with a wrong checksum end here.
    pub udp: u64,
    /// UDP over IPv6.
    pub udp6: u64,
    /// TCP, of both families.
    pub tcp: u64,
}

impl Count {
    /// From the texts of `/proc/net/snmp` and `/proc/net/snmp6`; none where the first is not as it should be.
    pub fn parse(snmp: &str, snmp6: &str) -> Option<Self> {
        let of = |protocol: &str| {
            let mut lines = snmp
                .lines()
                .filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(": "));
            let (names, values) = (lines.next()?, lines.next()?);
            let at = names.split(' ').position(|name| name == "InCsumErrors")?;
            values.split(' ').nth(at)?.parse().ok()
        };
        let udp6 = snmp6
            .lines()
            .find_map(|line| line.strip_prefix("Udp6InCsumErrors")?.trim().parse().ok());
        Some(Self {
            udp: of("Udp")?,
            udp6: udp6.unwrap_or(0),
            tcp: of("Tcp")?,
        })
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            udp: self.udp.saturating_sub(before.udp),
            udp6: self.udp6.saturating_sub(before.udp6),
            tcp: self.tcp.saturating_sub(before.tcp),
        }
    }
}

/// The counters, and how they changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Since boot, as of the beginning; null if they could not be read.
    pub since_boot: Option<Count>,
    /// How many seconds were waited.
    pub seconds: Option<u32>,
    /// The change in that time.
    pub change: Option<Count>,
}

impl Counters {
    /// Of one reading, or two with the seconds between them.
    pub fn new(before: Option<Count>, after: Option<(u32, Option<Count>)>) -> Self {
        let change = after.as_ref().and_then(|(_, after)| {
            let (before, after) = (before.as_ref()?, after.as_ref()?);
            Some(after.since(before))
        });
        Self {
            since_boot: before,
            seconds: after.map(|(seconds, _)| seconds),
            change,
        }
    }
}

/// What connection tracking knows of VXLAN.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flows {
    /// Why nothing is known.
    pub unreadable: Option<String>,
    /// How many VXLAN flows there are.
    pub seen: usize,
    /// How many of them NAT has rewritten.
    pub rewritten: usize,
    /// The first few of those, as `/proc/net/nf_conntrack` has them.
    pub examples: Vec<String>,
}

impl Flows {
    const EXAMPLES: usize = 3;

    /// Looks at one line of `/proc/net/nf_conntrack`.
    pub fn add(&mut self, line: &str, ports: &[u16]) {
        let Some(rewritten) = vxlan_flow(line, ports) else {
            return;
        };
        self.seen += 1;
        if rewritten {
            self.rewritten += 1;
            if self.examples.len() < Self::EXAMPLES {
                self.examples.push(escape(line.trim().as_bytes()));
            }
        }
    }
}

/// None if it is no flow to one of these UDP ports, else whether NAT rewrites it: then the answer is expected by another
/// address or port than the packet was sent from.
fn vxlan_flow(line: &str, ports: &[u16]) -> Option<bool> {
    line.split_ascii_whitespace().find(|word| *word == "udp")?;
    let values = |key: &str| {
        line.split_ascii_whitespace()
            .filter_map(|word| word.split_once('='))
            .filter(|(k, _)| *k == key)
            .map(|(_, value)| value)
            .collect::<Vec<_>>()
    };
    let (src, dst) = (values("src"), values("dst"));
    let (sport, dport) = (values("sport"), values("dport"));
    let port: u16 = dport.first()?.parse().ok()?;
    if !ports.contains(&port) {
        return None;
    }
    Some(
        dst.get(1)? != src.first()?
            || src.get(1)? != dst.first()?
            || dport.get(1)? != sport.first()?
            || sport.get(1)? != dport.first()?,
    )
}

/// Somebody else who sets the feature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Manager {
    /// `link-file`, `udev-rule`, `dispatcher`, `systemd-unit`, `felix`.
    pub kind: &'static str,
    /// The file, if it is one.
    pub path: Option<String>,
    /// What it does.
    pub text: String,
}

/// A file that may set the feature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its kind, as of [`Manager`].
    pub kind: &'static str,
    /// Its path.
    pub path: String,
    /// What is in it.
    pub text: String,
}

/// Who sets the feature, going by these files and the names of the devices. Link files have to be in the order in which udev
/// tries them.
pub fn managers(files: &[Candidate], devices: &[IfName]) -> Vec<Manager> {
    let mut found = Vec::new();
    let links: Vec<&Candidate> = files.iter().filter(|f| f.kind == "link-file").collect();
    let mut by_text: Vec<(&Candidate, String)> = Vec::new();
    for device in devices {
        let matching = links.iter().filter(|file| link_matches(&file.text, device));
        for (n, file) in matching.enumerate() {
            let Some(value) = link_setting(&file.text) else {
                continue;
            };
            let text = if n == 0 {
                format!("TransmitChecksumOffload={value} for {device}")
            } else {
                format!(
                    "TransmitChecksumOffload={value} is shadowed for {device}: an earlier .link file matches"
                )
            };
            by_text.push((file, text));
        }
        let name = device.as_bytes();
        if name.starts_with(b"vxlan.calico") || name.starts_with(b"vxlan-v6.calico") {
            found.push(Manager {
                kind: "felix",
                path: None,
                text: format!(
                    "Calico's Felix turns it off on {device} every 10 seconds where it takes the kernel to be 5.7.0 or older, or where ChecksumOffloadBroken=true is set"
                ),
            });
        }
    }
    found.extend(by_text.into_iter().map(|(file, text)| Manager {
        kind: file.kind,
        path: Some(escape(file.path.as_bytes())),
        text,
    }));
    for file in files.iter().filter(|file| file.kind != "link-file") {
        if let Some(line) = file.text.lines().find(|line| sets_offload(line)) {
            let known = if file.path.ends_with("/flannel-ethtool.service") {
                " (the name of kURL's unit)"
            } else if file.text.contains("sys-devices-virtual-net-flannel") {
                " (bound to flannel's device, as kops 1.17 and 1.18 did)"
            } else {
                ""
            };
            found.push(Manager {
                kind: file.kind,
                path: Some(escape(file.path.as_bytes())),
                text: format!("{}{known}", escape(line.trim().as_bytes())),
            });
        }
    }
    found
}

/// Whether a line calls ethtool to change a transmit checksum.
fn sets_offload(line: &str) -> bool {
    let line = line.trim_start();
    let names = ["tx-checksum", " tx off", " tx on"];
    !line.starts_with(['#', ';'])
        && line.contains("ethtool")
        && names.iter().any(|name| line.contains(name))
}

/// The keys of one section of a .link file.
fn section<'a>(text: &'a str, wanted: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let mut inside = false;
    text.lines().filter_map(move |line| {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            inside = name == wanted;
        }
        let (key, value) = line.split_once('=')?;
        let comment = line.starts_with(['#', ';']);
        (inside && !comment).then(|| (key.trim(), value.trim()))
    })
}

/// Whether every condition of `[Match]` holds for a VXLAN device of this name; one that is not known here is taken not to. A
/// file without any matches nothing (systemd.link(5)).
fn link_matches(text: &str, device: &IfName) -> bool {
    let globs = |value: &str, subject: &[u8]| {
        let (value, wanted) = match value.strip_prefix('!') {
            Some(rest) => (rest, false),
            None => (value, true),
        };
        let any = value
            .split_ascii_whitespace()
            .any(|word| Glob::new(word).is_ok_and(|glob| glob.matches(subject)));
        any == wanted
    };
    let mut conditions = HashMap::new();
    for (key, value) in section(text, "Match") {
        let holds = match key {
            "Type" | "Kind" | "Driver" => globs(value, b"vxlan"),
            "OriginalName" => globs(value, device.as_bytes()),
            _ => false,
        };
        // A key may be given more than once, which adds to its list.
        *conditions.entry(key).or_insert(false) |= holds;
    }
    !conditions.is_empty() && conditions.values().all(|holds| *holds)
}

fn link_setting(text: &str) -> Option<String> {
    section(text, "Link")
        .filter(|(key, _)| *key == "TransmitChecksumOffload")
        .last()
        .map(|(_, value)| escape(value.as_bytes()))
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
        diagnosis.steps = diagnosis.steps();
        diagnosis
    }

    /// The device that stands worst, with its lines of defence.
    pub fn worst(&self) -> Option<(&DeviceReport<'a>, Defence)> {
        let devices = self.report.devices.iter().zip(self.defence.iter().copied());
        // The first of those that are equally bad.
        devices.rev().max_by_key(|(_, defence)| defence.health)
    }

    fn steps(&self) -> Vec<Step> {
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
        if self.kube_proxy == KubeProxy::KeepsMark {
            step(
                "update kube-proxy to 1.16.13, 1.17.9, 1.18.6 or newer, which take the mark away first; after an update in place take out the old rules in KUBE-POSTROUTING as well, or restart the node",
                vec![
                    "kubectl -n kube-system get pods -l k8s-app=kube-proxy -o jsonpath='{..image}'"
                        .to_owned(),
                ],
            );
        }
        let mut rules: Vec<(&str, &str)> = Vec::new();
        for device in &self.report.devices {
            if let (Some(rule), Some(table)) = (device.exposure_rule, device.exposure_table)
                && !rules.contains(&(rule, table))
            {
                rules.push((rule, table));
            }
        }
        for (rule, table) in rules.iter().filter(|(rule, _)| !rule.contains("KUBE-")) {
            let text = format!("keep VXLAN packets out of this NAT rule, or take it away: {rule}");
            step(&text, deletion(rule, table).into_iter().collect());
        }
        if self.bug_matters(BugId::NatZeroCsum) {
            step(
                "update the kernel: nat-zero-csum is fixed in 5.7, 5.6.13, 5.4.41, 4.19.123, 4.14.181 and newer of each",
                vec!["vxcsum explain".to_owned()],
            );
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

/// The command that takes a rule away, if it is one of iptables in a table like `ip nat (xtables)`.
fn deletion(rule: &str, table: &str) -> Option<String> {
    let rest = rule.strip_prefix("-A ")?;
    let [family, name, back_end] = table.split(' ').collect::<Vec<_>>()[..] else {
        return None;
    };
    let tool = match (family, back_end) {
        ("ip", "(xtables)") => "iptables-legacy",
        ("ip6", "(xtables)") => "ip6tables-legacy",
        ("ip", "(nf_tables)") => "iptables-nft",
        ("ip6", "(nf_tables)") => "ip6tables-nft",
        _ => return None,
    };
    Some(format!("{tool} -t {name} -D {rest}"))
}

#[cfg(test)]
mod tests;
