//! The log: the systemd journal with structured fields, or stderr.
//!
//! Owns where log records go. The report never goes here: it goes to stdout.

use std::io::{IsTerminal, Write};

use log::{LevelFilter, Log, Metadata, Record, warn};
use systemd_journal_logger::{JournalLog, connected_to_journal};

use crate::facts::FEATURE;
use crate::plan::{Action, DevicePlan, ReasonCode};
use crate::report::{DeviceReport, Outcome, Report};

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

/// One record a change or failure; silence where nothing changed.
pub fn changes(report: &Report<'_>) {
    if std::io::stderr().is_terminal() {
        // The report on stdout says the same to whoever sits there.
        return;
    }
    for device in &report.devices {
        let text = match (device.action, device.outcome, &device.error) {
            (Action::TurnOff, Outcome::Changed, _) => {
                format!("turned {FEATURE} off: {}", device.reason.text)
            }
            (Action::TurnOn, Outcome::Changed, _) => {
                format!("turned {FEATURE} on again: {}", device.reason.text)
            }
            (_, Outcome::Refused | Outcome::Failed, Some(e))
                if device.reason.code != ReasonCode::Contested =>
            {
                e.to_string()
            }
            _ => continue,
        };
        record(device, &text);
    }
}

fn record(device: &DeviceReport<'_>, text: &str) {
    let name = device.name.to_string();
    let vni = device.vni.map(|vni| vni.to_string()).unwrap_or_default();
    let bug = device.verdict.bugs.first().map_or("", |bug| bug.as_str());
    let level = if device.outcome == Outcome::Changed {
        log::Level::Info
    } else {
        log::Level::Error
    };
    log::log!(
        level,
        VXCSUM_DEVICE = name, VXCSUM_IFINDEX = device.ifindex, VXCSUM_VNI = vni,
        VXCSUM_ACTION = device.outcome.as_str(), VXCSUM_REASON = device.reason.code.as_str(), VXCSUM_BUG = bug;
        "{name}: {text}"
    );
}

/// Another program keeps turning the feature of this device back on: said once.
pub fn contested(plan: &DevicePlan<'_>) {
    let name = plan.device.link.name.to_string();
    warn!(
        VXCSUM_DEVICE = name, VXCSUM_IFINDEX = plan.device.link.ifindex, VXCSUM_REASON = plan.reason.code.as_str();
        "{name}: leaving {FEATURE} alone for an hour: {}", plan.reason.text
    );
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
