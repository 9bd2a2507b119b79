//! The log: the systemd journal with structured fields, or stderr.
//!
//! Owns where log records go. The report never goes here: it goes to stdout.

use std::io::Write;

use log::{LevelFilter, Log, Metadata, Record};
use systemd_journal_logger::{JournalLog, connected_to_journal};

/// Sends log records to the journal if stderr is connected to it, else to stderr.
///
/// A journal that cannot be reached is no reason to fail: then stderr it is, which systemd collects too.
pub fn init() {
    let to_journal = connected_to_journal()
        && JournalLog::new().is_ok_and(|log| {
            log.with_syslog_identifier("vxcsum".to_owned())
                .install()
                .is_ok()
        });
    if !to_journal {
        // Fails only if there is a logger already, as in a test.
        let _ = log::set_logger(&Stderr);
    }
    log::set_max_level(LevelFilter::Info);
}

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // A closed stderr is nothing to die of.
        let _ = writeln!(std::io::stderr(), "vxcsum: {}", record.args());
    }

    fn flush(&self) {}
}
