//! `probe`: the result as text.
//!
//! Owns the matrix. Decides nothing.

use std::io::{self, Write};

use super::burst::{Below, Burst, Forwarding};
use super::frame::Checksum;
use super::{BugOutcome, BugResult, Case, CaseNat, Family, Observed, ProbeRun};
use crate::ethtool::Feature;
use crate::link::OuterChecksum;
use crate::term::table::{Cell, TextTable};
use crate::term::{GREEN, RED, YELLOW, paint, width, wrapped};

/// The run that is stored for the rest of the boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    ThisRun,
    /// An earlier run, which has an answer that this run does not have.
    EarlierRun,
    /// The file could not be written.
    Nothing,
}

/// The result for each bug, and the matrix of cases.
///
/// # Errors
/// Those of the writer.
pub fn probe(out: &mut impl Write, run: &ProbeRun, stored: Stored, color: bool) -> io::Result<()> {
    let release = crate::text::escape(run.release.as_bytes());
    if run.answers() {
        let ms = run.elapsed.as_millis();
        writeln!(out, "kernel {release}: measured in {ms} ms")?;
    } else {
        writeln!(out, "kernel {release}: not measured")?;
    }
    // Several bugs without an answer share a line if they share the reason.
    let share = |a: &BugResult, b: &BugResult| {
        matches!(a.outcome, BugOutcome::Inconclusive(_)) && a.outcome == b.outcome
    };
    for same in run.results.chunk_by(share) {
        let Some(result) = same.first() else { continue };
        let style = match result.outcome {
            BugOutcome::Affected => RED,
            BugOutcome::NotAffected => GREEN,
            BugOutcome::Inconclusive(_) => YELLOW,
        };
        let ids: Vec<&str> = same.iter().map(|result| result.id.as_str()).collect();
        let text = format!(
            "{}: {}: {}",
            ids.join(", "),
            paint(result.word(), style, color),
            result.meaning()
        );
        wrapped(out, "  ", &text)?;
    }
    if !run.cases.is_empty() {
        writeln!(out)?;
        matrix(run).write(out, width(), &[], color)?;
    }
    if let Some(Forwarding::Bursts(bursts)) = &run.forwarding {
        writeln!(out)?;
        forwarded(bursts).write(out, width(), &[], color)?;
    }
    let after = match (run.answers(), stored) {
        (true, Stored::Nothing) => return Ok(()),
        (true, _) => "saved until the next boot: apply, status and explain use this result",
        (false, Stored::EarlierRun) => {
            "apply, status and explain use the answer of an earlier run of this boot"
        }
        // This run is stored too, but the sentence about storing would mislead.
        (false, _) => "it decides nothing: apply, status and explain use the policy and the table",
    };
    writeln!(out, "\n{after}")
}

fn forwarded(bursts: &[Burst]) -> TextTable<4> {
    let mut table = TextTable::new(["FORWARDED INTO", "OFF", "OVER IPV4", "OVER IPV6"]);
    for kind in bursts.iter().filter(|burst| burst.family == Family::Ipv4) {
        let cell = |family: Family| {
            let mut of = bursts
                .iter()
                .filter(|b| (b.family, b.below, b.off) == (family, kind.below, kind.off));
            let counts = of.find_map(Burst::counts);
            counts.map_or((0, 0), |counts| (counts.arrived(), counts.wrong))
        };
        table.row([
            Cell::plain(match kind.below {
                Below::Underlay => "vxlan",
                Below::Macvlan => "vxlan, macvlan",
            }),
            Cell::plain(kind.off.map_or("-", Feature::as_str)),
            seen(cell(Family::Ipv4)),
            seen(cell(Family::Ipv6)),
        ]);
    }
    table
}

/// The number of packets that arrived, and the number with a wrong outer checksum.
fn seen((arrived, wrong): (u64, u64)) -> Cell<'static> {
    match (arrived, wrong) {
        (0, _) => Cell::styled("not seen", YELLOW),
        (arrived, 0) => Cell::styled(format!("{arrived} intact"), GREEN),
        (arrived, wrong) => Cell::styled(format!("{wrong} of {arrived} corrupt"), RED),
    }
}

fn matrix(run: &ProbeRun) -> TextTable<5> {
    let mut table = TextTable::new(["OUTER", "OFFLOAD", "NO NAT", "NEW ADDRESS", "NEW PORT"]);
    for outer in [OuterChecksum::Zero, OuterChecksum::Present] {
        for on in [true, false] {
            let cell = |nat: CaseNat| {
                let of = |case: &&Case| {
                    (case.outer_checksum, case.feature_on, case.nat) == (outer, on, nat)
                };
                let (mut arrived, mut wrong) = (0, 0);
                for case in run.cases.iter().filter(of) {
                    if let Observed::Frame { outer, .. } = &case.observed {
                        arrived += 1;
                        wrong += u64::from(matches!(outer, Checksum::Invalid { .. }));
                    }
                }
                seen((arrived, wrong))
            };
            table.row([
                Cell::plain(outer.as_str()),
                Cell::plain(if on { "on" } else { "off" }),
                cell(CaseNat::None),
                cell(CaseNat::Address),
                cell(CaseNat::Port),
            ]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::probe::{Cause, Host, Inconclusive};

    /// Each bug with an answer has a line of its own, even if the answers are the same.
    #[test]
    fn a_line_for_each_answer() {
        let run = include_bytes!("../../tests/cases/probe-6.18.44.json");
        let mut run = ProbeRun::from_json(run).unwrap();
        for result in &mut run.results {
            result.outcome = BugOutcome::NotAffected;
            result.cured = None;
        }
        let mut out = Vec::new();
        probe(&mut out, &run, Stored::ThisRun, false).unwrap();
        let text = String::from_utf8(out).unwrap();
        for bug in ["nat-zero-csum", "nat-lco-csum"] {
            let line = format!("\n  {bug}: not-affected: packets that NAT rewrites leave intact\n");
            assert!(text.contains(&line), "{text}");
        }
    }

    #[test]
    fn what_was_forwarded() {
        let run = include_bytes!("../../tests/cases/probe-6.18.44-forwarded.json");
        let run = ProbeRun::from_json(run).unwrap();
        let mut out = Vec::new();
        probe(&mut out, &run, Stored::ThisRun, false).unwrap();
        let text = String::from_utf8(out).unwrap();
        let table = "\n\
            FORWARDED INTO  OFF                         OVER IPV4         OVER IPV6\n\
            vxlan           -                           64 intact         64 intact\n\
            vxlan, macvlan  -                           63 of 64 corrupt  63 of 64 corrupt\n\
            vxlan, macvlan  tx-scatter-gather-fraglist  64 intact         64 intact\n\
            vxlan, macvlan  tx-checksum-ip-generic      64 intact         64 intact\n\n";
        assert!(text.contains(table), "{text}");
        // An older run has none.
        let run = include_bytes!("../../tests/cases/probe-6.18.44.json");
        let run = ProbeRun::from_json(run).unwrap();
        let mut out = Vec::new();
        probe(&mut out, &run, Stored::ThisRun, false).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            !text.contains("FORWARDED") && !text.contains("gso-lco-csum"),
            "{text}"
        );
    }

    #[test]
    fn a_run_without_an_answer_does_not_claim_to_decide() {
        let reason = Inconclusive {
            code: Cause::NoNfTables,
            text: "probe: install IPv4 NAT: no".to_owned(),
        };
        let run = ProbeRun::new(Err(reason), Host::default(), Duration::ZERO);
        for (stored, after) in [
            (
                Stored::ThisRun,
                "it decides nothing: apply, status and explain use the policy and the table",
            ),
            (
                Stored::Nothing,
                "it decides nothing: apply, status and explain use the policy and the table",
            ),
            (
                Stored::EarlierRun,
                "apply, status and explain use the answer of an earlier run of this boot",
            ),
        ] {
            let mut out = Vec::new();
            probe(&mut out, &run, stored, false).unwrap();
            let text = String::from_utf8(out).unwrap();
            assert!(text.starts_with("kernel : not measured\n"), "{text}");
            assert!(text.contains(
                "nat-zero-csum, nat-lco-csum, gso-lco-csum: inconclusive: probe: install IPv4 NAT: no"
            ));
            assert!(text.ends_with(&format!("\n\n{after}\n")), "{text}");
        }
    }
}
