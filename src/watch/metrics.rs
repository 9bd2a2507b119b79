//! Metrics for Prometheus in a file.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use log::error;

use crate::doctor::read_io::counters;
use crate::error::Error;
use crate::fault::describe_io;
use crate::offload::discover_io::Selection;
use crate::offload::node_io::Node;
use crate::offload::plan::Plan;
use crate::offload::record_io;
use crate::offload::report::Report;
use crate::{output, run_dir_io};

/// The metrics of a look, with the counters and the time of now.
pub fn text(report: &Report<'_>, plan: &Plan<'_>) -> String {
    let errors = counters().map(|count| (count.udp, count.udp6));
    output::prometheus(report, plan, errors, record_io::now().unix)
}

/// Replaces a file in one step. The directory must exist: in a directory with a mistyped name nobody would read the
/// file.
///
/// # Errors
/// The error of the system, with the name of the file.
pub fn replace(file: &Path, text: &str) -> Result<(), Error> {
    let dir = match file.parent() {
        Some(dir) if dir.as_os_str().is_empty() => Path::new("."),
        Some(dir) => dir,
        None => Path::new("/"),
    };
    let written = match file.file_name().and_then(|name| name.to_str()) {
        None => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        Some(name) => {
            std::fs::metadata(dir).and_then(|_| run_dir_io::replace(dir, name, text.as_bytes()))
        }
    };
    written.map_err(|e| {
        let name = crate::text::escape(file.as_os_str().as_encoded_bytes());
        Error::Io(format!("write {name}: {}", describe_io(&e)))
    })
}

/// Half of the usual time between two scrapes.
const WRITE_INTERVAL: Duration = Duration::from_secs(30);

/// The file that `watch` keeps up to date.
pub(super) struct Metrics {
    file: PathBuf,
    due: Instant,
    /// The last attempt failed. Only the first failure is logged.
    failed: bool,
}

impl Metrics {
    pub(super) fn new(file: PathBuf) -> Self {
        Self {
            file,
            due: Instant::now(),
            failed: false,
        }
    }

    pub(super) fn time_left(&self) -> Duration {
        self.due.saturating_duration_since(Instant::now())
    }

    /// Writes the file if it is due.
    pub(super) fn write(&mut self, node: &mut Node) {
        if !self.time_left().is_zero() {
            return;
        }
        self.due = Instant::now() + WRITE_INTERVAL;
        let written = node.look(Selection::All).and_then(|facts| {
            let plan = node.plan(&facts);
            let report = Report::planned(&plan, node.kernel_report(), Some(node.backend()));
            replace(&self.file, &text(&report, &plan))
        });
        match written {
            Ok(()) => self.failed = false,
            Err(e) if !self.failed => {
                error!("{e}; trying again every {} s", WRITE_INTERVAL.as_secs());
                self.failed = true;
            }
            Err(_) => {}
        }
    }
}
