//! `explain`: the facts behind a decision.
//!
//! Owns the long texts. Decides nothing.

use core::net::IpAddr;
use std::fmt;
use std::io::{self, Write};

use serde::Serialize;

use super::{action, feature, footers, head, kernel_line, status_word, wrapped, wrapped_around};
use crate::ethtool::Feature;
use crate::kernel::{Basis, BugVerdict, EvidenceSource, Status, Trigger};
use crate::link::{OuterChecksum, TunnelKind, UnderlayLink};
use crate::nat::exposure::{ExposureCode, NoCure};
use crate::offload::facts::Device;
use crate::offload::health::Defence;
use crate::offload::judge::{ReasonCode, susceptible};
use crate::offload::plan::Action;
use crate::offload::report::{DeviceReport, KernelReport, Report};
use crate::policy::{Cure, Policy, When};
use crate::text::{IfName, escape};

/// One policy rule, and whether it matches the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RuleOutcome {
    /// The name of the rule and its place.
    pub rule: String,
    /// The value of its key `when`.
    pub when: When,
    /// True if all keys of the rule match the device.
    pub matched: bool,
    /// True if the rule is the last that matches.
    pub decided: bool,
    /// The first key that does not match, and why. Null if all keys match.
    pub because: Option<String>,
}

/// A report with one device, and the policy rules that were tried for it.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Explanation<'a> {
    #[serde(flatten)]
    pub report: Report<'a>,
    /// In the order of the policy.
    pub rules: Vec<RuleOutcome>,
}

/// Explains the decision for one device.
///
/// # Errors
/// Those of the writer.
pub fn explain_device(
    out: &mut impl Write,
    explanation: &Explanation<'_>,
    facts: &Device,
    policy: &Policy,
    color: bool,
) -> io::Result<()> {
    let report = &explanation.report;
    let Some(device) = report.devices.first() else {
        return Ok(());
    };
    writeln!(
        out,
        "{}: {} ({})",
        device.name,
        action(device),
        device.reason.code.as_str()
    )?;
    wrapped_around(out, "  ", &device.reason.text, device.exposure_rule)?;
    writeln!(out, "\ninputs")?;
    inputs(out, device, facts)?;
    writeln!(out)?;
    head(out, report, color)?;
    writeln!(
        out,
        "  bugs that matter with this outer checksum ({}):",
        device.outer_checksum.as_str()
    )?;
    for bug in susceptible(device.outer_checksum) {
        evidence(out, &report.kernel.bugs[bug])?;
    }
    writeln!(out, "\npolicy")?;
    policy_text(out, explanation, facts, policy, device)?;
    writeln!(out, "\nto change the outcome")?;
    remedies(out, device, report)?;
    footers(out, report)
}

/// Explains the verdict on a kernel.
///
/// # Errors
/// Those of the writer.
pub fn explain_kernel(out: &mut impl Write, kernel: &KernelReport, color: bool) -> io::Result<()> {
    kernel_line(out, kernel, color)?;
    for bug in &kernel.bugs {
        evidence(out, bug)?;
    }
    Ok(())
}

fn inputs(out: &mut impl Write, device: &DeviceReport<'_>, facts: &Device) -> io::Result<()> {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "none".to_owned());
    let underlay = match (&device.underlay, facts.link.underlay) {
        (Some(underlay), from) => {
            let driver = underlay.driver.as_deref().unwrap_or("unknown");
            let how = match (from, facts.link.local) {
                (UnderlayLink::NotSet, Some(_)) => "has the local address",
                (UnderlayLink::NotSet, None) => "from the route to the destination",
                _ => "set on the tunnel device",
            };
            format!("{} (driver {driver}; {how})", underlay.name)
        }
        (None, UnderlayLink::OtherNamespace) if device.kind == TunnelKind::Geneve => {
            "not known: the device may come from another network namespace".to_owned()
        }
        (None, UnderlayLink::OtherNamespace) => "in another network namespace".to_owned(),
        (None, UnderlayLink::Ifindex(ifindex)) => format!("ifindex {ifindex}, which is gone"),
        (None, UnderlayLink::NotSet) => "not set: routing decides".to_owned(),
    };
    let csum6 = match (facts.link.udp_zero_csum6_tx, facts.link.udp_zero_csum6_rx) {
        (false, false) => "none",
        (true, false) => "udp6zerocsumtx",
        (false, true) => "udp6zerocsumrx",
        (true, true) => "udp6zerocsumtx udp6zerocsumrx",
    };
    let sets = device
        .feature
        .map_or("not read", |state| feature(Some(state)))
        .to_owned();
    let exposure = format!(
        "{}: {}",
        device.exposure.code().as_str(),
        device.exposure_text
    );
    let segmentation = format!(
        "{}: {}",
        device.segmentation.as_str(),
        device.segmentation_text
    );
    for (label, text) in [
        ("ifindex", device.ifindex.to_string()),
        ("kind", device.kind.as_str().to_owned()),
        ("VNI", or_none(device.vni.map(|vni| vni.to_string()))),
        (
            "destination port",
            or_none(device.dst_port.map(|port| port.to_string())),
        ),
        (
            "local address",
            or_none(facts.link.local.map(|local| local.to_string())),
        ),
        ("underlay", underlay),
        (
            "destinations",
            if facts.no_peers {
                "none yet".to_owned()
            } else {
                destinations(&facts.remotes)
            },
        ),
        ("outer checksum", device.outer_checksum.as_str().to_owned()),
        ("IPv6 zero-checksum flags", csum6.to_owned()),
        (device.feature_name.as_str(), sets),
        ("exposure to NAT", exposure),
        ("segmented twice", segmentation),
    ] {
        wrapped_around(out, "  ", &format!("{label}: {text}"), device.exposure_rule)?;
    }
    if let Some(text) = notrack(device) {
        wrapped(out, "  ", &format!("rule notrack: {text}"))?;
    }
    if let Some(error) = &device.error {
        wrapped(out, "  ", &format!("error: {error}"))?;
    }
    Ok(())
}

/// The state or the possibility of a rule that keeps NAT off the packets. `None` if no decision asks.
fn notrack(device: &DeviceReport<'_>) -> Option<String> {
    let suffices = device.exposure.exposed().map(|found| &found.notrack);
    Some(match (&device.notrack, suffices) {
        (Some(own), _) if own.in_place => format!("in place: {}", own.rule),
        (_, Some(Ok(packets))) => format!("would suffice: {}", packets.rule()),
        (_, Some(Err(NoCure::NotAsked))) | (None, None) => return None,
        (_, Some(Err(why))) => why.to_string(),
        (Some(own), None) => format!("not in place: {}", own.rule),
    })
}

/// The first addresses and the number of the rest: a large cluster has thousands.
fn destinations(remotes: &[IpAddr]) -> String {
    const MAX_SHOWN: usize = 4;
    let first: Vec<String> = remotes
        .iter()
        .take(MAX_SHOWN)
        .map(IpAddr::to_string)
        .collect();
    match remotes.len() {
        0 => "not known".to_owned(),
        n if n > MAX_SHOWN => format!("{} and {} more", first.join(", "), n - MAX_SHOWN),
        _ => first.join(", "),
    }
}

fn evidence(out: &mut impl Write, bug: &BugVerdict) -> io::Result<()> {
    writeln!(out, "  {}: {}", bug.id.as_str(), status_word(bug))?;
    for evidence in &bug.evidence {
        let mark = match (evidence.source, evidence.mark) {
            (EvidenceSource::Probe, _) => "probe",
            (EvidenceSource::Policy, _) => "policy",
            (_, Basis::Measured) => "measured",
            (_, Basis::SourceRead) => "source read",
            (_, Basis::ChangelogRead) => "changelog read",
            (_, Basis::Inferred) => "inferred",
            (_, Basis::Reported) => "reported",
            (_, Basis::Declared) => "declared",
        };
        wrapped(
            out,
            "    ",
            &format!("[{mark}] {}", escape(evidence.text.as_bytes())),
        )?;
        if let Some(url) = &evidence.url {
            writeln!(out, "      {url}")?;
        }
    }
    Ok(())
}

fn policy_text(
    out: &mut impl Write,
    explanation: &Explanation<'_>,
    facts: &Device,
    policy: &Policy,
    device: &DeviceReport<'_>,
) -> io::Result<()> {
    let decided = policy.deciding_rule(&facts.subject());
    let safe = |text: &str| escape(text.as_bytes());
    let files = if policy.files.is_empty() {
        "the built-in default".to_owned()
    } else {
        policy.files.join(", ")
    };
    wrapped(out, "  ", &format!("read from: {}", safe(&files)))?;
    if explanation.rules.is_empty() {
        writeln!(out, "  rules: none")?;
    }
    for rule in &explanation.rules {
        let result = match (&rule.because, rule.decided) {
            (Some(because), _) => format!("does not match: {}", safe(because)),
            (None, true) => "matches, and decides: it is the last rule that matches".to_owned(),
            (None, false) => "matches, but a later rule matches too".to_owned(),
        };
        wrapped(
            out,
            "  ",
            &format!(
                "rule {} says {}: {result}",
                safe(&rule.rule),
                rule.when.as_str()
            ),
        )?;
    }
    if device.rule.is_none() {
        for bug in susceptible(device.outer_checksum) {
            let condition = &policy.bugs[bug];
            let text = format!(
                "no rule matches, so [bugs] decides: {} = \"{}\" ({})",
                bug.as_str(),
                condition.value.as_str(),
                safe(&condition.origin)
            );
            wrapped(out, "  ", &text)?;
        }
    }
    if device.verdict.status == Status::Unknown {
        let unknown = &policy.unknown_kernel;
        let text = format!(
            "unknown-kernel = \"{}\" ({})",
            unknown.value.as_str(),
            safe(&unknown.origin)
        );
        wrapped(out, "  ", &text)?;
    }
    if matches!(
        device.reason.code,
        ReasonCode::ExposureUnknown | ReasonCode::ExposureUnknownNotExposed
    ) {
        let (value, origin) = policy.unknown_exposure_for(decided);
        let text = format!(
            "unknown-exposure = \"{}\" ({})",
            value.as_str(),
            safe(origin)
        );
        wrapped(out, "  ", &text)?;
    }
    let (cure, origin) = policy.cure_for(decided);
    if cure != Cure::Offload {
        let text = format!("cure = \"{}\" ({})", cure.as_str(), safe(origin));
        wrapped(out, "  ", &text)?;
    }
    Ok(())
}

/// What an administrator can do, the remedy with the smallest effect first.
fn remedies(
    out: &mut impl Write,
    device: &DeviceReport<'_>,
    report: &Report<'_>,
) -> io::Result<()> {
    let rule = |when: &str| {
        format!(
            "add a rule to /etc/vxcsum/policy.d/50-local.toml:\n      [[rule]]\n      device = {}\n      when = \"{when}\"",
            toml_literal(device.name)
        )
    };
    if let Some(limit) = report.limited.first()
        && device.reason.code == ReasonCode::ExposureUnknown
    {
        // The decision rests on rules that could not be read.
        return wrapped(
            out,
            "  ",
            &format!("let vxcsum read the NAT rules. {}", limit.advice),
        );
    }
    let mut remedies = Vec::new();
    match device.reason.code {
        // A policy rule does not end a conflict.
        ReasonCode::Contested => remedies.push(format!(
            "stop the program that turns it on. `ethtool --monitor {0}` shows when it does. Then: vxcsum apply {0}",
            device.name.in_command()
        )),
        ReasonCode::RuleNever | ReasonCode::BugNever => remedies.push(
            "the policy says never: remove that from the policy, then: vxcsum policy check, vxcsum apply".to_owned(),
        ),
        ReasonCode::NotReadable => remedies.push("fix the error above first, then: vxcsum apply".to_owned()),
        _ => {}
    }
    let off = device.feature.is_some_and(|feature| !feature.active);
    let wants_off =
        device.action == Action::TurnOff || device.reason.code == ReasonCode::AlreadyOff;
    // The bug without NAT remains under a setting about NAT.
    let segmented = Defence::against(device, Trigger::Segmentation)
        .is_some_and(|defence| defence.kernel != Some(true) && defence.segmentation != Some(true));
    let leaves = if segmented {
        " (packets that are segmented twice then leave corrupt: gso-lco-csum)"
    } else {
        ""
    };
    if wants_off {
        remedies.push(format!(
            "to keep the offload on{leaves}, {}\n    then run vxcsum apply: it turns the offload on again if vxcsum turned it off",
            rule("never")
        ));
        if device.verdict.status == Status::Unknown {
            remedies.push(
                "to measure this kernel: vxcsum probe; at every boot: systemctl enable vxcsum-probe.service"
                    .to_owned(),
            );
            remedies.push("if you know whether this kernel has the bug: add a [[kernel]] entry with release, bug and status to the policy".to_owned());
        }
        let for_nat = device.feature_name == Feature::Checksum;
        // If vxcsum has tried such a rule, the reason says why it is not in place.
        if let Some(Ok(_)) = device.exposure.exposed().map(|found| &found.notrack)
            && for_nat
            && device.notrack.is_none()
        {
            remedies.push(
                "to keep the offload on and NAT off the packets: set cure = \"notrack\", in a rule for this device or for all \
                 devices. A rule notrack in nf_tables suffices here"
                    .to_owned(),
            );
        }
        if device.reason.code == ReasonCode::Exposed && for_nat {
            remedies.push(
                "to exclude the outer packets from the NAT rule: vxcsum doctor prints the commands"
                    .to_owned(),
            );
        }
        if device.reason.code == ReasonCode::ExposureUnknown {
            let known = if !for_nat {
                "this node does not segment its packets twice"
            } else if device.segmentation == ExposureCode::Unknown && segmented {
                "no NAT rewrites its packets and this node does not segment them twice"
            } else {
                "no NAT rewrites its packets"
            };
            remedies.push(format!(
                "if you know that {known}: set unknown-exposure = \"not-exposed\", in a rule for this device or for all devices"
            ));
        }
        if device.outer_checksum == OuterChecksum::External {
            remedies.push(
                "if its packets have no outer checksum, as those of Cilium and of Calico's eBPF over IPv4: set \
                 outer-checksum = \"zero\" in a rule for this device"
                    .to_owned(),
            );
        }
    } else if device.reason.code != ReasonCode::Contested {
        remedies.push(format!(
            "to {} the offload off, {}",
            if off { "keep" } else { "turn" },
            rule("always")
        ));
    }
    if off {
        remedies.push(format!(
            "to turn the offload on by hand, until the next look of vxcsum: ethtool -K {} {} on",
            device.name.in_command(),
            device.feature_name.as_str()
        ));
    }
    list(out, &remedies)
}

/// Wraps the first line of each text. The other lines are for copying.
fn list(out: &mut impl Write, texts: &[String]) -> io::Result<()> {
    for text in texts {
        let mut lines = text.lines();
        wrapped(out, "  ", lines.next().unwrap_or_default())?;
        for line in lines {
            writeln!(out, "{line}")?;
        }
    }
    Ok(())
}

/// A glob for this name alone, as a TOML string. `?` stands for a byte that is not UTF-8, because TOML cannot hold it.
fn toml_literal(name: &IfName) -> String {
    let mut out = "\"".to_owned();
    for chunk in name.as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '*' | '?' | '[' => out.extend(["\\\\", c.encode_utf8(&mut [0; 4])]),
                '\\' => out.push_str("\\\\\\\\"),
                '"' => out.push_str("\\\""),
                c if escape(c.encode_utf8(&mut [0; 4]).as_bytes()).starts_with('\\') => {
                    let _ =
                        fmt::Write::write_fmt(&mut out, format_args!("\\U{:08X}", u32::from(c)));
                }
                c => out.push(c),
            }
        }
        out.extend(chunk.invalid().iter().map(|_| '?'));
    }
    out + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_bounded() {
        let some = |n: u8| -> Vec<IpAddr> { (1..=n).map(|b| [192, 0, 2, b].into()).collect() };
        for (n, text) in [
            (0, "not known"),
            (1, "192.0.2.1"),
            (4, "192.0.2.1, 192.0.2.2, 192.0.2.3, 192.0.2.4"),
            (9, "192.0.2.1, 192.0.2.2, 192.0.2.3, 192.0.2.4 and 5 more"),
        ] {
            assert_eq!(destinations(&some(n)), text);
        }
    }

    #[test]
    fn a_name_as_a_glob_in_toml_matches_itself_alone() {
        for (name, literal) in [
            (&b"flannel.1"[..], r#""flannel.1""#),
            (b"a*?[b]", r#""a\\*\\?\\[b]""#),
            (b"a\\b", r#""a\\\\b""#),
            (b"x\"y", r#""x\"y""#),
            (b"\x1b\xff", r#""\U0000001B?""#),
            ("vx🦀".as_bytes(), "\"vx🦀\""),
        ] {
            assert_eq!(toml_literal(&IfName::new(name).unwrap()), literal);
        }
    }
}
