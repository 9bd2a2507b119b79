//! `/run/vxcsum/probe.json`: the last probe of this boot.
//!
//! Owns reading and replacing the file. `probe` checks the content.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use std::io;
use std::path::Path;

use crate::fault::describe_io;

use super::{Host, ProbeRun};
use crate::run_dir_io::{read_text, replace, run_dir};

const NAME: &str = "probe.json";

/// The stored run of this boot of this kernel, if there is one. `note` gets a sentence about a file that exists and is
/// not used.
pub fn load(root: &Path, host: &Host, mut note: impl FnMut(String)) -> Option<ProbeRun> {
    let path = run_dir(root).join(NAME);
    let text = match read_text(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
        Err(e) => {
            note(format!(
                "read {}: {}; going on without a measurement",
                path.display(),
                describe_io(&e)
            ));
            return None;
        }
    };
    match ProbeRun::from_json(text.as_bytes()) {
        Ok(run) if run.is_of(host) => Some(run),
        Ok(_) => {
            note(format!(
                "{} is of another boot or kernel; ignored: run vxcsum probe",
                path.display()
            ));
            None
        }
        Err(e) => {
            note(format!(
                "{}: {e}; ignored: run vxcsum probe",
                path.display()
            ));
            None
        }
    }
}

/// Replaces the file in one step.
///
/// # Errors
/// One sentence.
pub fn save(root: &Path, run: &ProbeRun) -> Result<(), String> {
    let dir = run_dir(root);
    run.to_json()
        .map_err(io::Error::from)
        .and_then(|text| replace(&dir, NAME, text.as_bytes()))
        .map_err(|e| format!("write {}: {}", dir.join(NAME).display(), describe_io(&e)))
}
