//! `probe`.

use log::warn;

use super::print;
use crate::cli::{Common, Probe};
use crate::error::{Error, ExitCode};
use crate::output::message_ids;
use crate::probe::render::Stored;
use crate::probe::{self, BugOutcome, Cause, Limits, Place, ProbeRun, file_io, log_io, run_io};

pub fn run(common: &Common, args: &Probe) -> Result<ExitCode, Error> {
    let place = if args.private_network {
        Place::PrivateNetwork
    } else {
        Place::NewNamespace
    };
    let run = run_io::run(&Limits::default(), place);
    // An attempt without the rights must not discard an earlier measurement.
    let earlier = || file_io::load(&common.root, &run_io::host(), |_| ());
    let kept = if !run.answers() && earlier().is_some_and(|earlier| earlier.answers()) {
        Stored::EarlierRun
    } else {
        match file_io::save(&common.root, &run) {
            Ok(()) => Stored::ThisRun,
            Err(e) => {
                if run.answers() {
                    warn!("{e}; apply and status will not know this result");
                }
                Stored::Nothing
            }
        }
    };
    if common.log {
        log_io::measured(&run, message_ids::PROBED);
    }
    if !common.log || common.json {
        print(common, &run, |out, color| {
            probe::render::probe(out, &run, kept, color)
        })?;
    }
    Ok(exit_code(&run))
}

/// 0 only if every bug has an answer.
fn exit_code(run: &ProbeRun) -> ExitCode {
    let reasons = run
        .results
        .iter()
        .filter_map(|result| match &result.outcome {
            BugOutcome::Inconclusive(reason) => Some(reason.code),
            _ => None,
        });
    match reasons.max_by_key(|code| *code == Cause::NoPermission) {
        None => ExitCode::Ok,
        Some(Cause::NoPermission) => ExitCode::Permission,
        Some(_) => ExitCode::Failed,
    }
}
