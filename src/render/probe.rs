//! `probe`: what was measured, as text.
//!
//! Owns the matrix. As every renderer it decides nothing.

use std::io::{self, Write};

use super::table::{Cell, Table};
use super::{GREEN, RED, WIDTH, YELLOW, paint, wrapped};
use crate::probe::{Case, Nat, Observed, Outcome, Outer, ProbeRun};
use crate::wire::frame::Sum;

/// The result for each bug, and the matrix behind it. `kept` says whether the run is stored for the rest of the boot.
///
/// # Errors
/// Those of the writer.
pub fn probe(out: &mut impl Write, run: &ProbeRun, kept: bool, color: bool) -> io::Result<()> {
    writeln!(
        out,
        "kernel {}: measured in {} ms",
        crate::facts::escape(run.release.as_bytes()),
        run.elapsed.as_millis()
    )?;
    for result in &run.results {
        let style = match result.outcome {
            Outcome::Affected => RED,
            Outcome::NotAffected => GREEN,
            Outcome::Inconclusive(_) => YELLOW,
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
        matrix(run).write(out, WIDTH, color)?;
    }
    if kept {
        writeln!(
            out,
            "\nkept until the next boot; apply, status and explain decide by it"
        )?;
    }
    Ok(())
}

fn matrix(run: &ProbeRun) -> Table<5> {
    let mut table = Table::new(["OUTER", "OFFLOAD", "NO NAT", "NEW ADDRESS", "NEW PORT"]);
    for outer in [Outer::Zero, Outer::Present] {
        for on in [true, false] {
            let cell = |nat: Nat| {
                let of = |case: &&Case| {
                    (case.outer_checksum, case.feature_on, case.nat) == (outer, on, nat)
                };
                let (mut seen, mut wrong) = (0, 0);
                for case in run.cases.iter().filter(of) {
                    if let Observed::Frame { outer, .. } = &case.observed {
                        seen += 1;
                        wrong += usize::from(matches!(outer, Sum::Wrong { .. }));
                    }
                }
                match (seen, wrong) {
                    (0, _) => Cell::styled("not seen", YELLOW),
                    (seen, 0) => Cell::styled(format!("{seen} intact"), GREEN),
                    (seen, wrong) => Cell::styled(format!("{wrong} of {seen} corrupt"), RED),
                }
            };
            table.row([
                Cell::plain(match outer {
                    Outer::Zero => "zero",
                    Outer::Present => "present",
                }),
                Cell::plain(if on { "on" } else { "off" }),
                cell(Nat::None),
                cell(Nat::Address),
                cell(Nat::Port),
            ]);
        }
    }
    table
}
