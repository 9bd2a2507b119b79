//! `probe`: what was measured, as text.
//!
//! Owns the matrix. As every renderer it decides nothing.

use std::io::{self, Write};

use super::frame::Checksum;
use super::{BugOutcome, Case, CaseNat, Observed, ProbeRun};
use crate::link::OuterChecksum;
use crate::term::table::{Cell, TextTable};
use crate::term::{GREEN, RED, YELLOW, paint, width, wrapped};

/// What is stored for the rest of the boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// This run.
    ThisRun,
    /// An earlier one, which has an answer where this has none.
    EarlierRun,
    /// It could not be written.
    NotStored,
}

/// The result for each bug, and the matrix behind it.
///
/// # Errors
/// Those of the writer.
pub fn probe(out: &mut impl Write, run: &ProbeRun, stored: Stored, color: bool) -> io::Result<()> {
    writeln!(
        out,
        "kernel {}: measured in {} ms",
        crate::text::escape(run.release.as_bytes()),
        run.elapsed.as_millis()
    )?;
    for result in &run.results {
        let style = match result.outcome {
            BugOutcome::Affected => RED,
            BugOutcome::NotAffected => GREEN,
            BugOutcome::Inconclusive(_) => YELLOW,
        };
        let text = format!(
            "{}: {}: {}",
            result.id.as_str(),
            paint(result.word(), style, color),
            result.meaning()
        );
        wrapped(out, "  ", &text)?;
    }
    if !run.cases.is_empty() {
        writeln!(out)?;
        matrix(run).write(out, width(), &[], color)?;
    }
    let after = match (run.answers(), stored) {
        (true, Stored::NotStored) => return Ok(()),
        (true, _) => "kept until the next boot; apply, status and explain decide by it",
        (false, Stored::EarlierRun) => {
            "an earlier run of this boot has an answer: apply, status and explain decide by that"
        }
        // Stored as well, but what it is kept for would mislead.
        (false, _) => {
            "nothing is decided by it: apply, status and explain go by the policy and the table"
        }
    };
    writeln!(out, "\n{after}")
}

fn matrix(run: &ProbeRun) -> TextTable<5> {
    let mut table = TextTable::new(["OUTER", "OFFLOAD", "NO NAT", "NEW ADDRESS", "NEW PORT"]);
    for outer in [OuterChecksum::Zero, OuterChecksum::Present] {
        for on in [true, false] {
            let cell = |nat: CaseNat| {
                let of = |case: &&Case| {
                    (case.outer_checksum, case.feature_on, case.nat) == (outer, on, nat)
                };
                let (mut seen, mut wrong) = (0, 0);
                for case in run.cases.iter().filter(of) {
                    if let Observed::Frame { outer, .. } = &case.observed {
                        seen += 1;
                        wrong += usize::from(matches!(outer, Checksum::Invalid { .. }));
                    }
                }
                match (seen, wrong) {
                    (0, _) => Cell::styled("not seen", YELLOW),
                    (seen, 0) => Cell::styled(format!("{seen} intact"), GREEN),
                    (seen, wrong) => Cell::styled(format!("{wrong} of {seen} corrupt"), RED),
                }
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
                "nothing is decided by it: apply, status and explain go by the policy and the table",
            ),
            (
                Stored::NotStored,
                "nothing is decided by it: apply, status and explain go by the policy and the table",
            ),
            (
                Stored::EarlierRun,
                "an earlier run of this boot has an answer: apply, status and explain decide by that",
            ),
        ] {
            let mut out = Vec::new();
            probe(&mut out, &run, stored, false).unwrap();
            let text = String::from_utf8(out).unwrap();
            assert!(text.contains("nat-zero-csum: inconclusive: probe: install IPv4 NAT: no"));
            assert!(text.ends_with(&format!("\n\n{after}\n")), "{text}");
        }
    }
}
