//! Reports as text and JSON.
//!
//! Owns every text on stdout. Writes into any `Write`, decides nothing, reads nothing. Escapes the names of devices
//! (see `text::escape`), so no device name can control a terminal.

mod explain;
pub(crate) mod journal_io;
pub mod message_ids;
mod nodes;
mod npd;
mod prometheus;

use std::borrow::Cow;
use std::io::{self, Write};

use anstyle::Style;
use serde::Serialize;

pub use explain::{Explanation, RuleOutcome, explain_device, explain_kernel};
pub use nodes::{NodeSummary, nodes};
pub use npd::{npd, npd_unknown};
pub use prometheus::prometheus;

use crate::error::{Error, ErrorCode};
use crate::ethtool::{Feature, FeatureState};
use crate::kernel::{BugVerdict, Status, Why};
use crate::link::TunnelKind;
use crate::offload::health::{self, NodeState, named};
use crate::offload::judge::{Danger, ReasonCode};
use crate::offload::plan::Action;
use crate::offload::report::{DeviceReport, KernelReport, Outcome, Report, SCHEMA_VERSION};
use crate::policy::PolicyError;
use crate::term::table::{Cell, write_rows};
use crate::term::{GREEN, RED, YELLOW, paint, width, wrapped, wrapped_around};

/// The most devices that a paragraph names. It counts the rest, and the table names all.
const MAX_NAMED: usize = 8;

/// Writes one JSON object and a newline.
///
/// # Errors
/// Those of the writer.
pub fn json(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// Why the command could do nothing.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ErrorObject<'a> {
    /// See the report.
    #[cfg_attr(test, schemars(extend("const" = SCHEMA_VERSION)))]
    schema_version: u32,
    error: ErrorBody<'a>,
}

#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct ErrorBody<'a> {
    /// For programs.
    code: ErrorCode,
    /// The exit code of the process.
    #[cfg_attr(test, schemars(extend("enum" = [1, 64, 77, 78])))]
    exit_code: u8,
    /// For users.
    text: String,
    /// Only with the code `policy`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<&'a PolicyError>,
}

/// Writes `{"error": {...}}` for programs that asked for JSON.
///
/// # Errors
/// Those of the writer.
pub fn json_error(out: &mut impl Write, error: &Error) -> io::Result<()> {
    let problems = match error {
        Error::Policy(errors) => errors.items().collect(),
        _ => Vec::new(),
    };
    let body = ErrorBody {
        code: error.code(),
        exit_code: error.exit_code() as u8,
        text: error.to_string(),
        problems,
    };
    json(
        out,
        &ErrorObject {
            schema_version: SCHEMA_VERSION,
            error: body,
        },
    )
}

/// The first line: the answer.
///
/// # Errors
/// Those of the writer.
pub(crate) fn headline(out: &mut impl Write, report: &Report<'_>, color: bool) -> io::Result<()> {
    answer(out, report, &health::answer(report), color)
}

/// The first line, with this answer.
pub(crate) fn answer(
    out: &mut impl Write,
    report: &Report<'_>,
    answer: &str,
    color: bool,
) -> io::Result<()> {
    let state = report.summary.state;
    let style = match state {
        NodeState::Ok => GREEN,
        NodeState::AtRisk => YELLOW,
        NodeState::Broken | NodeState::Failed => RED,
    };
    let word = paint(state.word(), style, color);
    wrapped(out, "", &format!("{word}  {answer}"))
}

/// What the answer does not cover, and how long it is valid.
pub(crate) fn footers(out: &mut impl Write, report: &Report<'_>) -> io::Result<()> {
    for limit in &report.limited {
        let text = format!(
            "vxcsum could not read the NAT rules, so this answer assumes the worst case ({}). {}",
            limit.why, limit.advice
        );
        writeln!(out)?;
        wrapped(out, "", &text)?;
    }
    if !report.absent.is_empty() && !report.devices.is_empty() {
        writeln!(out)?;
        wrapped(out, "", &health::absent(report))?;
    }
    if report.exclusive {
        writeln!(out)?;
        wrapped(
            out,
            "",
            "vxcsum watch --exclusive runs on this node, as in the container image. While it runs, the units change nothing",
        )?;
    }
    let off = |device: &DeviceReport<'_>| match device.outcome {
        Outcome::Changed => device.action == Action::TurnOff,
        Outcome::Unchanged => device.reason.code == ReasonCode::AlreadyOff,
        _ => false,
    };
    if report.persistent == Some(false) && report.devices.iter().any(off) {
        writeln!(out)?;
        wrapped(
            out,
            "",
            "the offload stays off until the device is created again or the node reboots. With the package or `make install`, this \
             keeps it off:",
        )?;
        writeln!(out, "  systemctl enable --now vxcsum.service vxcsum.timer")?;
    }
    let untracked = |device: &DeviceReport<'_>| {
        device.action != Action::RemoveRule
            && device.notrack.as_ref().is_some_and(|rule| rule.in_place)
    };
    if report.persistent == Some(false) && report.devices.iter().any(untracked) {
        writeln!(out)?;
        wrapped(
            out,
            "",
            "the rule notrack stays until a `flush ruleset` or a reboot. To make it again after that:",
        )?;
        writeln!(out, "  systemctl enable --now vxcsum.service vxcsum.timer")?;
    }
    Ok(())
}

/// `status`: the answer, the table and the kernel.
///
/// # Errors
/// Those of the writer.
pub fn status(out: &mut impl Write, report: &Report<'_>, color: bool) -> io::Result<()> {
    headline(out, report, color)?;
    devices(out, report, color)?;
    writeln!(out)?;
    kernel_line(out, &report.kernel, color)?;
    paragraphs(out, report, &[Section::Failed])?;
    let mut devices = report.devices.iter();
    if let Some(device) = devices.find(|device| device.outcome == Outcome::Planned) {
        writeln!(out)?;
        // A change that rests on rules that could not be read is not advised.
        let change = if report.limited.is_empty() {
            "To change: vxcsum apply. "
        } else {
            ""
        };
        let text = format!(
            "{}. {change}For details: vxcsum explain {}",
            totals(report),
            device.name.in_command()
        );
        wrapped(out, "", &text)?;
    }
    footers(out, report)
}

/// `apply`: the answer, the table, the kernel, and sentences about what was done or, with --dry-run, what would be
/// done.
///
/// # Errors
/// Those of the writer.
pub fn apply(out: &mut impl Write, report: &Report<'_>, color: bool) -> io::Result<()> {
    // After `revert`, the answer would be to run `apply`, which undoes it.
    let reverted = report.devices.iter().any(reverted);
    let suffix = if report.dry_run {
        ". This was a dry run: nothing was changed"
    } else {
        ""
    };
    let totals = format!("{}{suffix}", totals(report));
    if reverted {
        wrapped(out, "", &totals)?;
    } else {
        headline(out, report, color)?;
    }
    devices(out, report, color)?;
    writeln!(out)?;
    kernel_line(out, &report.kernel, color)?;
    paragraphs(
        out,
        report,
        &[
            Section::Changed(Feature::Checksum, "off"),
            Section::Changed(Feature::Fraglist, "off"),
            Section::Changed(Feature::Checksum, "on"),
            Section::Changed(Feature::Fraglist, "on"),
            Section::Rule("made"),
            Section::Rule("removed"),
            Section::LeftAlone,
            Section::Gone,
            Section::Failed,
        ],
    )?;
    if !report.devices.is_empty() && !reverted {
        writeln!(out)?;
        wrapped(out, "", &totals)?;
    }
    footers(out, report)
}

fn head(out: &mut impl Write, report: &Report<'_>, color: bool) -> io::Result<()> {
    kernel_line(out, &report.kernel, color)?;
    if let Some(backend) = report.backend {
        writeln!(out, "interface: {}", backend.as_str())?;
    }
    Ok(())
}

fn kernel_line(out: &mut impl Write, kernel: &KernelReport, color: bool) -> io::Result<()> {
    let start = format!("kernel {}:", crate::text::escape(kernel.release.as_bytes()));
    let words: Vec<String> = kernel
        .bugs
        .iter()
        .map(|bug| format!("{} {}", bug.id.as_str(), status_word(bug)))
        .collect();
    // The codes of colours have no width.
    let whole = start.len() + words.iter().map(|word| word.len() + 2).sum::<usize>();
    let between = if whole > width() { "\n " } else { "" };
    write!(out, "{start}")?;
    for (n, bug) in kernel.bugs.iter().enumerate() {
        let comma = if n == 0 { "" } else { "," };
        write!(
            out,
            "{comma}{between} {} {}",
            bug.id.as_str(),
            paint(&status_word(bug), status_style(bug.status), color)
        )?;
    }
    writeln!(out)
}

pub(crate) fn status_word(bug: &BugVerdict) -> String {
    let why = match bug.why {
        Some(Why::Fixed) => " (fixed)",
        Some(Why::PredatesBug) => " (older than the bug)",
        None => "",
    };
    format!("{}{why}", bug.status.as_str())
}

pub(crate) fn status_style(status: Status) -> Style {
    match status {
        Status::Affected => RED,
        Status::NotAffected => GREEN,
        Status::Unknown => YELLOW,
    }
}

fn devices(out: &mut impl Write, report: &Report<'_>, color: bool) -> io::Result<()> {
    if report.devices.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let header = [
        "DEVICE", "VNI", "PORT", "UNDERLAY", "OUTER", "OFFLOAD", "VERDICT", "ACTION", "REASON",
    ];
    let number = |n: Option<u32>| n.map_or(Cow::Borrowed("-"), |n| Cow::Owned(n.to_string()));
    let rows = report.devices.iter().map(|device| {
        [
            Cell::plain(device.name.escaped()),
            Cell::plain(match device.kind {
                TunnelKind::Vxlan => number(device.vni),
                TunnelKind::Geneve => Cow::Owned(format!("geneve {}", number(device.vni))),
            }),
            Cell::plain(number(device.dst_port.map(u32::from))),
            Cell::plain(
                device
                    .underlay
                    .as_ref()
                    .map_or(Cow::Borrowed("-"), |u| u.name.escaped()),
            ),
            Cell::plain(device.outer_checksum.as_str()),
            Cell::plain(offload(device)),
            verdict(device),
            Cell::styled(action(device), action_style(device)),
            Cell::plain(device.reason.code.as_str()),
        ]
    });
    let rows = std::iter::once(header.map(Cell::plain)).chain(rows);
    // The columns for the decision stay. `explain` and JSON show the others too.
    write_rows(out, rows, width(), &[1, 2, 3], color)
}

/// The word `latent` is for a bug that no packet of this node can meet, and `cured` for a bug that packets cannot meet
/// only because of vxcsum's rule. JSON has no such values, because it shows the exposure and the rule in keys of their
/// own.
fn verdict(device: &DeviceReport<'_>) -> Cell<'static> {
    let status = device.verdict.status;
    // If the policy demands more than safety from NAT, an unexposed device is not latent.
    let must_be_off = device.action == Action::TurnOff
        || matches!(
            device.reason.code,
            ReasonCode::AlreadyOff
                | ReasonCode::FeatureFixed
                | ReasonCode::NoSuchFeature
                | ReasonCode::NotReadable
                | ReasonCode::Contested
        );
    let harmless = |danger: &Danger| {
        danger.verdict.status == Status::NotAffected || danger.happens == Some(false)
    };
    let latent = device.dangers.iter().flatten().all(harmless);
    if status != Status::NotAffected && latent && !must_be_off {
        Cell::styled("latent", YELLOW)
    } else if device.reason.code == ReasonCode::AlreadyUntracked {
        Cell::styled("cured", GREEN)
    } else {
        Cell::styled(status.as_str(), status_style(status))
    }
}

/// The state of the feature of the row. Names the feature if it is not checksum offload.
fn offload(device: &DeviceReport<'_>) -> Cow<'static, str> {
    let state = feature(device.feature);
    match device.feature_name {
        Feature::Checksum => Cow::Borrowed(state),
        Feature::Fraglist => Cow::Owned(format!("fraglist {state}")),
    }
}

pub(crate) fn feature(state: Option<FeatureState>) -> &'static str {
    match state {
        None => "?",
        Some(state) => match (state.active, state.fixed(), state.wanted) {
            (true, true, _) => "on [fixed]",
            (true, false, true) => "on",
            (true, false, false) => "on [requested off]",
            (false, true, _) => "off [fixed]",
            (false, false, false) => "off",
            (false, false, true) => "off [requested on]",
        },
    }
}

fn action(device: &DeviceReport<'_>) -> &'static str {
    match device.outcome {
        Outcome::Planned => device.action.as_str(),
        Outcome::Unchanged => Action::Leave.as_str(),
        other => other.as_str(),
    }
}

fn action_style(device: &DeviceReport<'_>) -> Style {
    match device.outcome {
        Outcome::Planned | Outcome::Gone => YELLOW,
        Outcome::Changed => GREEN,
        Outcome::Unchanged => Style::new(),
        Outcome::Refused | Outcome::Failed => RED,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    Changed(Feature, &'static str),
    LeftAlone,
    Rule(&'static str),
    Gone,
    Failed,
}

fn section(device: &DeviceReport<'_>) -> Section {
    match device.outcome {
        Outcome::Planned | Outcome::Changed => match device.action {
            Action::AddRule => Section::Rule("made"),
            Action::RemoveRule => Section::Rule("removed"),
            Action::TurnOn => Section::Changed(device.feature_name, "on"),
            Action::TurnOff | Action::Leave => Section::Changed(device.feature_name, "off"),
        },
        Outcome::Unchanged => Section::LeftAlone,
        Outcome::Gone => Section::Gone,
        Outcome::Refused | Outcome::Failed => Section::Failed,
    }
}

/// One paragraph for all devices with the same text.
fn paragraphs(out: &mut impl Write, report: &Report<'_>, sections: &[Section]) -> io::Result<()> {
    for wanted in sections {
        let mut groups: Vec<Vec<&DeviceReport<'_>>> = Vec::new();
        for device in report
            .devices
            .iter()
            .filter(|device| section(device) == *wanted)
        {
            // Similar devices are usually neighbours, so the last group is nearly always the right one.
            match groups
                .iter_mut()
                .rev()
                .find(|group| same_paragraph(group[0], device))
            {
                Some(group) => group.push(device),
                None => groups.push(vec![device]),
            }
        }
        if groups.is_empty() {
            continue;
        }
        let title = match (wanted, report.dry_run) {
            (Section::Changed(feature, direction), true) => {
                format!("{} would be turned {direction}:", feature.as_str())
            }
            (Section::Changed(feature, direction), false) => {
                format!("{} was turned {direction}:", feature.as_str())
            }
            (Section::Rule(what), true) => format!("a rule notrack would be {what}:"),
            (Section::Rule(what), false) => format!("a rule notrack was {what}:"),
            (Section::LeftAlone, _) => "left alone:".to_owned(),
            (Section::Gone, _) => "gone in the meantime:".to_owned(),
            (Section::Failed, _) => "failed:".to_owned(),
        };
        writeln!(out, "\n{title}")?;
        for group in groups {
            wrapped(out, "  ", &named(&group, MAX_NAMED))?;
            for (label, text) in sentences(group[0]) {
                wrapped_around(
                    out,
                    "    ",
                    &format!("{label}: {text}"),
                    group[0].exposure_rule,
                )?;
            }
        }
    }
    Ok(())
}

fn same_paragraph(a: &DeviceReport<'_>, b: &DeviceReport<'_>) -> bool {
    (a.reason, a.rule, &a.also_off, &a.error) == (b.reason, b.rule, &b.also_off, &b.error)
}

fn sentences(device: &DeviceReport<'_>) -> Vec<(&'static str, String)> {
    let mut facts = vec![("why", device.reason.text.to_string())];
    if let Some(rule) = &device.rule {
        facts.push(("rule", crate::text::escape(rule.as_bytes())));
    }
    if !device.also_off.is_empty() {
        let text = format!(
            "{} (the kernel then segments in software, which costs throughput on a fast link)",
            device.also_off.join(", ")
        );
        facts.push(("also off", text));
    }
    if !device.also_on.is_empty() {
        facts.push(("also on", device.also_on.join(", ")));
    }
    if let Some(times) = device.turned_on_again {
        facts.push(("again", turned_on_again(times)));
    }
    if let Some(error) = &device.error {
        facts.push(("error", error.to_string()));
    }
    facts
}

/// Another program undid the change. vxcsum sees that only at its next look, and never the program.
fn turned_on_again(times: usize) -> String {
    let times = match times {
        1 => String::new(),
        times => format!(" {times} times within a minute, the last time"),
    };
    format!(
        "another program turned it on{times} since the last look. It is not known which program"
    )
}

/// The entry comes from `revert`.
fn reverted(device: &DeviceReport<'_>) -> bool {
    matches!(
        device.reason.code,
        ReasonCode::TurnedOffByVxcsum
            | ReasonCode::AlreadyOn
            | ReasonCode::UntrackedByVxcsum
            | ReasonCode::NotTurnedOffByVxcsum
    )
}

fn totals(report: &Report<'_>) -> String {
    let same = |a: Section, b: Section| {
        let change = |s| matches!(s, Section::Changed(..) | Section::Rule(_));
        a == b || (change(a) && change(b))
    };
    let count = |wanted: Section| {
        report
            .devices
            .iter()
            .filter(|device| same(section(device), wanted))
            .count()
    };
    let any_change = Section::Changed(Feature::Checksum, "");
    let mut parts = Vec::new();
    let undone = report.devices.iter().any(reverted);
    let changed = match (undone, report.dry_run) {
        (false, true) => "to change",
        (false, false) => "changed",
        (true, true) => "to undo",
        (true, false) => "undone",
    };
    for (wanted, word) in [
        (any_change, changed),
        (Section::LeftAlone, "left alone"),
        (Section::Gone, "gone"),
        (Section::Failed, "failed"),
    ] {
        match count(wanted) {
            0 if wanted != any_change => {}
            n => parts.push(format!("{n} {word}")),
        }
    }
    parts.join(", ")
}
