//! `doctor`: the diagnosis on one page.
//!
//! Owns its texts and the diagram. Decides nothing.

use std::io::{self, Write};

use anstyle::Style;
use unicode_width::UnicodeWidthStr;

use super::{Defence, Diagnosis, Health};
use crate::kernel::{EvidenceSource, Trigger};
use crate::nat::exposure::ExposureCode;
use crate::nat::kube_proxy::KubeProxy;
use crate::offload::health::{self, NodeState, named};
use crate::offload::report::DeviceReport;
use crate::output::{answer, feature, footers, status_style, status_word};
use crate::term::{GREEN, RED, YELLOW, paint, wrapped, wrapped_around};
use crate::text::escape;

/// The most devices that a line names.
const MAX_NAMED: usize = 4;

/// Writes the diagnosis.
///
/// # Errors
/// Those of the writer.
pub fn doctor(out: &mut impl Write, diagnosis: &Diagnosis<'_>, color: bool) -> io::Result<()> {
    let text = health::answer(&diagnosis.report).replace("See: vxcsum doctor", "See below");
    answer(out, &diagnosis.report, &text, color)?;
    let flows = &diagnosis.flows;
    if flows.rewritten > 0 && diagnosis.report.summary.state != NodeState::Ok {
        let text = format!(
            "NAT rewrites {} of {} tunnel flows now, see below",
            flows.rewritten, flows.seen
        );
        wrapped(out, "", &text)?;
    }
    writeln!(out, "\nwhat to do")?;
    if diagnosis.steps.is_empty() {
        writeln!(out, "  nothing")?;
    }
    for (n, step) in diagnosis.steps.iter().enumerate() {
        wrapped(out, "  ", &format!("{}. {}", n + 1, step.text))?;
        if let Some(rule) = &step.rule {
            writeln!(out, "       {rule}")?;
        }
        for command in &step.commands {
            writeln!(out, "       {command}")?;
        }
    }
    if diagnosis.report.devices.is_empty() {
        return Ok(());
    }
    if let Some((device, defence)) = diagnosis.worst() {
        writeln!(out)?;
        diagram(out, device, defence, color)?;
    }
    writeln!(out, "\n1. NAT rules, and the devices below")?;
    nat_rules(out, diagnosis, color)?;
    writeln!(
        out,
        "\n2. kernel {}",
        escape(diagnosis.report.kernel.release.as_bytes())
    )?;
    kernel(out, diagnosis, color)?;
    writeln!(out, "\n3. offload")?;
    let alike = |a: &DeviceReport<'_>, b: &DeviceReport<'_>| {
        a.feature_name == b.feature_name
            && (a.feature, a.outer_checksum, a.action, a.reason.code)
                == (b.feature, b.outer_checksum, b.action, b.reason.code)
    };
    for group in groups(diagnosis, alike) {
        let device = group[0];
        let text = format!(
            "{}: {} {}; outer checksum {}; {} ({})",
            named(&group, MAX_NAMED),
            device.feature_name.as_str(),
            feature(device.feature),
            device.outer_checksum.as_str(),
            device.action.as_str(),
            device.reason.code.as_str()
        );
        wrapped(out, "  ", &text)?;
    }
    writeln!(out, "\nevidence")?;
    evidence(out, diagnosis)?;
    writeln!(out, "\nother programs that set the offload")?;
    if diagnosis.managers.is_empty() {
        writeln!(out, "  none found")?;
    }
    for manager in &diagnosis.managers {
        let path = manager.path.as_deref().unwrap_or(manager.kind.as_str());
        wrapped(out, "  ", &format!("{path}: {}", manager.text))?;
    }
    footers(out, &diagnosis.report)
}

fn nat_rules(out: &mut impl Write, diagnosis: &Diagnosis<'_>, color: bool) -> io::Result<()> {
    let kube_proxy = match diagnosis.kube_proxy {
        KubeProxy::Absent if !diagnosis.unread_rules.is_empty() => {
            "kube-proxy: not known, because vxcsum could not read the NAT rules"
        }
        KubeProxy::Absent => "kube-proxy: no rules found",
        KubeProxy::ClearsMark => "kube-proxy: patched, it clears the mark before it masquerades",
        KubeProxy::KeepsMark => {
            "kube-proxy: not patched, or old rules were left behind. They keep the mark, so outer packets are masqueraded too"
        }
    };
    wrapped(out, "  ", kube_proxy)?;
    let alike = |a: &DeviceReport<'_>, b: &DeviceReport<'_>| {
        a.exposure_text.to_string() == b.exposure_text.to_string()
    };
    for group in groups(diagnosis, alike) {
        let device = group[0];
        let style = exposure_style(device.exposure.code());
        let text = format!(
            "{}: {}: {}",
            named(&group, MAX_NAMED),
            paint(device.exposure.code().as_str(), style, color),
            device.exposure_text
        );
        wrapped_around(out, "  ", &text, device.exposure_rule)?;
    }
    let alike = |a: &DeviceReport<'_>, b: &DeviceReport<'_>| {
        a.segmentation_text.to_string() == b.segmentation_text.to_string()
    };
    for group in groups(diagnosis, alike) {
        let device = group[0];
        let style = exposure_style(device.segmentation);
        let text = format!(
            "{}: segmented twice: {}: {}",
            named(&group, MAX_NAMED),
            paint(device.segmentation.as_str(), style, color),
            device.segmentation_text
        );
        wrapped(out, "  ", &text)?;
    }
    for part in &diagnosis.unread_rules {
        wrapped(out, "  ", &format!("failed: {part}"))?;
    }
    Ok(())
}

/// Groups of devices with the same text, in the order of the report.
fn groups<'d, 'a>(
    diagnosis: &'d Diagnosis<'a>,
    alike: impl Fn(&DeviceReport<'a>, &DeviceReport<'a>) -> bool,
) -> Vec<Vec<&'d DeviceReport<'a>>> {
    let mut groups: Vec<Vec<&DeviceReport<'a>>> = Vec::new();
    for device in &diagnosis.report.devices {
        match groups.iter_mut().find(|group| alike(group[0], device)) {
            Some(group) => group.push(device),
            None => groups.push(vec![device]),
        }
    }
    groups
}

fn kernel(out: &mut impl Write, diagnosis: &Diagnosis<'_>, color: bool) -> io::Result<()> {
    for bug in &diagnosis.report.kernel.bugs {
        let status = paint(&status_word(bug), status_style(bug.status), color);
        writeln!(out, "  {}: {status}", bug.id.as_str())?;
        for evidence in &bug.evidence {
            let source = match evidence.source {
                EvidenceSource::Probe => "probe",
                EvidenceSource::Policy => "policy",
                EvidenceSource::Table => "table",
            };
            let text = format!("[{source}] {}", escape(evidence.text.as_bytes()));
            wrapped(out, "    ", &text)?;
        }
        let tried = diagnosis.inconclusive.iter();
        for tried in tried.filter(|tried| tried.bug == bug.id) {
            let text = format!("[probe] inconclusive: {}", escape(tried.why.as_bytes()));
            wrapped(out, "    ", &text)?;
        }
    }
    for found in &diagnosis.disagreements {
        let text = format!(
            "table and measurement disagree about {}: the table says {}, the measurement {}. Kernel: {} {}. Frame: {}",
            found.bug.as_str(),
            found.table.as_str(),
            found.measured.as_str(),
            escape(diagnosis.report.kernel.release.as_bytes()),
            escape(diagnosis.report.kernel.version.as_bytes()),
            found.frame.as_deref().unwrap_or("none"),
        );
        wrapped(out, "  ", &text)?;
    }
    Ok(())
}

fn evidence(out: &mut impl Write, diagnosis: &Diagnosis<'_>) -> io::Result<()> {
    let counters = &diagnosis.counters;
    match &counters.since_boot {
        None => writeln!(out, "  received with a wrong checksum: not readable")?,
        Some(count) => writeln!(
            out,
            "  received with a wrong checksum since boot: {} UDP, {} UDP over IPv6, {} TCP",
            count.udp, count.udp6, count.tcp
        )?,
    }
    if let (Some(seconds), Some(change)) = (counters.seconds, &counters.change) {
        writeln!(
            out,
            "  in {seconds} s: {} UDP, {} UDP over IPv6, {} TCP",
            change.udp, change.udp6, change.tcp
        )?;
    }
    wrapped(
        out,
        "  ",
        "(the receiver counts, so look at the other nodes too)",
    )?;
    let flows = &diagnosis.flows;
    if let Some(why) = &flows.unreadable {
        return wrapped(out, "  ", &format!("connection tracking: {why}"));
    }
    wrapped(
        out,
        "  ",
        &format!(
            "tunnel flows in connection tracking: {}, rewritten by NAT: {}",
            flows.seen, flows.rewritten
        ),
    )?;
    for line in &flows.examples {
        wrapped(out, "    ", line)?;
    }
    Ok(())
}

fn exposure_style(exposure: ExposureCode) -> Style {
    match exposure {
        ExposureCode::Exposed => RED,
        ExposureCode::NotExposed => GREEN,
        ExposureCode::Unknown => YELLOW,
    }
}

/// The path of a packet, with a mark below the step that corrupts it.
fn diagram(
    out: &mut impl Write,
    device: &DeviceReport<'_>,
    defence: Defence,
    color: bool,
) -> io::Result<()> {
    const ARROW: &str = " --> ";
    let name = device.name.to_string();
    let underlay = device
        .underlay
        .map_or_else(|| "underlay".to_owned(), |u| u.name.to_string());
    let offload = match defence.offload {
        Some(true) => "offload off",
        Some(false) => "offload on",
        None => "offload ?",
    };
    let columns = [
        ("pod", ""),
        ("NAT", "inner"),
        (name.as_str(), offload),
        ("NAT", "outer"),
        (underlay.as_str(), ""),
        ("other node", ""),
    ];
    let breaks = match defence.trigger {
        Trigger::Nat => 3,
        Trigger::Segmentation => 4,
    };
    let (mut path, mut below, mut at) = (String::from("  "), String::from("  "), 0);
    for (n, (above, under)) in columns.iter().enumerate() {
        if n == breaks {
            at = path.width();
        }
        let width = above.width().max(under.width());
        let arrow = if n + 1 == columns.len() { "" } else { ARROW };
        let fill = |text: &str| " ".repeat(width - text.width());
        path.extend([above, fill(above).as_str(), arrow]);
        below.extend([under, fill(under).as_str(), &" ".repeat(arrow.len())]);
    }
    writeln!(out, "{}", path.trim_end())?;
    writeln!(out, "{}", below.trim_end())?;
    let (mark, style) = match defence.health {
        Health::Safe => ("^ harmless", GREEN),
        Health::AtRisk => ("^ may break the outer checksum here", YELLOW),
        Health::Broken => (
            "^ breaks the outer checksum here: the other node drops the packet",
            RED,
        ),
    };
    writeln!(out, "{}{}", " ".repeat(at), paint(mark, style, color))
}
