//! The log: the systemd journal with structured fields, or stderr.
//!
//! Owns the destination of log records and their fields. Reports never go here: they go to stdout.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::io::Write;

use log::{Level, LevelFilter, Log, Metadata, Record, log};
use systemd_journal_logger::{JournalLog, connected_to_journal};

use super::message_ids;
use crate::error::Error;
use crate::ethtool::Feature;
use crate::kernel::BugId;
use crate::offload::facts::Exposure;
use crate::offload::judge::ReasonCode;
use crate::offload::plan::{Action, DevicePlan, Plan, likely_owner};
use crate::offload::report::{DeviceReport, Outcome, Report};
use crate::policy::PolicyError;
use crate::text::escape;

/// Sends log records to the journal if stderr is connected to it, else to stderr.
///
/// An unreachable journal is not an error: the records then go to stderr, which systemd collects too.
///
/// `for_units`: lines on stderr get the priorities of sd-daemon(3). vxcsum cannot detect a service manager itself,
/// because terminals inherit the variables that it sets.
pub fn init(for_units: bool, journal: bool) {
    let to_journal = journal
        && connected_to_journal()
        && JournalLog::new().is_ok_and(|log| {
            log.with_syslog_identifier("vxcsum".to_owned())
                .install()
                .is_ok()
        });
    if !to_journal {
        let logger: &'static dyn Log = if for_units { &PREFIXED } else { &PLAIN };
        // Fails only if a logger is already set, as in a test.
        let _ = log::set_logger(logger);
    }
    log::set_max_level(LevelFilter::Info);
}

/// Logs one record for each change and each failure. Logs nothing if nothing changed.
pub fn changes(report: &Report<'_>) {
    for device in &report.devices {
        let feature = device.feature_name.as_str();
        let (id, text) = match (device.action, device.outcome, &device.error) {
            (Action::TurnOff, Outcome::Changed, _) => (
                message_ids::CHANGED,
                match device.turned_on_again {
                    None => format!("turned {feature} off: {}", why(device)),
                    Some(times) => format!(
                        "turned {feature} off again: {}",
                        super::turned_on_again(times)
                    ),
                },
            ),
            (Action::TurnOn, Outcome::Changed, _) => (
                if device.reason.code == ReasonCode::TurnedOffByVxcsum {
                    message_ids::REVERTED
                } else {
                    message_ids::GIVEN_BACK
                },
                format!("turned {feature} on again: {}", device.reason.text),
            ),
            (Action::AddRule, Outcome::Changed, _) => (
                message_ids::UNTRACKED,
                format!("made a rule notrack: {}", device.reason.text),
            ),
            (Action::RemoveRule, Outcome::Changed, _) => (
                message_ids::TRACKED,
                format!("removed the rule notrack: {}", device.reason.text),
            ),
            // `conflicts` logged this when the conflict began.
            (_, Outcome::Refused, _) if device.reason.code == ReasonCode::Contested => continue,
            (_, Outcome::Refused, Some(e)) => (message_ids::REFUSED, e.to_string()),
            (_, Outcome::Failed, Some(e)) => (message_ids::FAILED, e.to_string()),
            _ => continue,
        };
        let level = if device.outcome == Outcome::Changed {
            Level::Info
        } else {
            Level::Error
        };
        record(device, level, id, &text);
    }
}

/// The reason in a line. The fields `VXCSUM_RULE` and `VXCSUM_EXPOSURE` have the rest.
fn why(device: &DeviceReport<'_>) -> String {
    let code = device.reason.code.as_str();
    let bugs = bugs(&device.verdict.bugs, device.feature_name);
    match (device.reason.code, device.exposure) {
        (ReasonCode::Exposed, Exposure::Exposed(found))
            if device.feature_name == Feature::Checksum =>
        {
            let chain = escape(&found.rule.chain);
            format!("{code}: {bugs}; a rule of {chain} in {}", found.rule.table)
        }
        (ReasonCode::Exposed | ReasonCode::ExposureUnknown, _) => format!("{code}: {bugs}"),
        _ => device.reason.text.to_string(),
    }
}

fn record(device: &DeviceReport<'_>, level: Level, id: &str, text: &str) {
    let name = device.name.to_string();
    let vni = device.vni.map(|vni| vni.to_string()).unwrap_or_default();
    log!(
        level,
        MESSAGE_ID = id, VXCSUM_DEVICE = name, VXCSUM_IFINDEX = device.ifindex, VXCSUM_VNI = vni,
        VXCSUM_FEATURE = device.feature_name.as_str(),
        VXCSUM_ACTION = device.action.as_str(), VXCSUM_OUTCOME = device.outcome.as_str(),
        VXCSUM_REASON = device.reason.code.as_str(), VXCSUM_BUG = bugs(&device.verdict.bugs, device.feature_name),
        VXCSUM_EXPOSURE = device.exposure_text.to_string(), VXCSUM_RULE = device.exposure_rule.unwrap_or_default(),
        VXCSUM_ALSO_OFF = device.also_off.join(" ");
        "{name}: {text}"
    );
}

/// The bugs of a device for which this feature is the cheapest cure.
fn bugs(bugs: &[BugId], feature: Feature) -> String {
    let own = |bug: &&BugId| bug.describe().cures.first() == Some(&feature);
    let bugs: Vec<_> = bugs.iter().filter(own).map(|bug| bug.as_str()).collect();
    bugs.join(" ")
}

/// Logs that another program keeps turning the feature of these devices back on. Called once, when vxcsum stops.
pub fn conflicts(plan: &Plan<'_>, new: &HashSet<u32, impl BuildHasher>) {
    let is_new = |device: &&DevicePlan<'_>| new.contains(&device.device.link.ifindex);
    plan.devices.iter().filter(is_new).for_each(contested);
}

fn contested(plan: &DevicePlan<'_>) {
    let link = &plan.device.link;
    let Some(conflict) = plan.device.history[plan.feature].contested else {
        return;
    };
    let name = link.name.to_string();
    let vni = link.vni.map(|vni| vni.to_string()).unwrap_or_default();
    log!(
        Level::Warn,
        MESSAGE_ID = message_ids::CONFLICT, VXCSUM_DEVICE = name, VXCSUM_IFINDEX = link.ifindex, VXCSUM_VNI = vni,
        VXCSUM_FEATURE = plan.feature.as_str(),
        VXCSUM_ACTION = plan.action.as_str(), VXCSUM_OUTCOME = Outcome::Refused.as_str(),
        VXCSUM_REASON = plan.reason.code.as_str(), VXCSUM_BUG = bugs(&plan.verdict.bugs, plan.feature);
        "{name}: another program turned {} on again {} times within a minute. {}. It stays on: vxcsum tries again {conflict}. To \
         end the pause: vxcsum apply {}",
        plan.feature.as_str(), conflict.times, likely_owner(&link.name), link.name.in_command()
    );
}

/// Logs each problem of an invalid policy. `consequence` says what happens instead.
pub fn policy_rejected(error: &Error, consequence: &str) {
    let lines = match error {
        Error::Policy(errors) => errors.items().map(PolicyError::line_for_logs).collect(),
        other => vec![other.to_string()],
    };
    for line in lines {
        log!(Level::Error, MESSAGE_ID = message_ids::POLICY_REJECTED; "{line} ({consequence})");
    }
}

/// Logs that link events were lost.
pub fn resync() {
    log!(
        Level::Warn,
        MESSAGE_ID = message_ids::RESYNC;
        "link events came faster than they could be read: looking at all devices"
    );
}

/// Lines on stderr for users or, with the priorities of sd-daemon(3), for a service manager without a journal.
struct Stderr {
    prefixed: bool,
}

static PLAIN: Stderr = Stderr { prefixed: false };
static PREFIXED: Stderr = Stderr { prefixed: true };

impl Log for Stderr {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let priority = match record.level() {
            Level::Error => "<3>",
            Level::Warn => "<4>",
            Level::Info => "<5>",
            Level::Debug | Level::Trace => "<7>",
        };
        // A closed stderr must not end the process.
        let _ = if self.prefixed {
            writeln!(
                std::io::stderr(),
                "{priority}{}",
                record.args().to_string().replace('\n', "; ")
            )
        } else {
            writeln!(std::io::stderr(), "vxcsum: {}", record.args())
        };
    }

    fn flush(&self) {}
}
