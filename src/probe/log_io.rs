//! `probe`: the result as log records.
//!
//! Owns the records of a run. `output::journal_io` owns their destination.

#![allow(clippy::disallowed_macros, reason = "this file does I/O")]

use log::{Level, log};

use super::{BugOutcome, ProbeRun};

/// Logs one record for each bug, each with this `MESSAGE_ID`.
pub(crate) fn measured(run: &ProbeRun, message_id: &str) {
    for result in &run.results {
        let level = match result.outcome {
            BugOutcome::Inconclusive(_) => Level::Warn,
            BugOutcome::Affected | BugOutcome::NotAffected => Level::Info,
        };
        log!(
            level,
            MESSAGE_ID = message_id, VXCSUM_BUG = result.id.as_str(), VXCSUM_OUTCOME = result.word();
            "{}: measured: {}: {}", result.id.as_str(), result.word(), result.meaning()
        );
    }
}
