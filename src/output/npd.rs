//! `status --format npd`: one line for node-problem-detector.
//!
//! node-problem-detector shows at most 80 bytes of a plugin's output.
//! <https://github.com/kubernetes/node-problem-detector/blob/master/docs/custom_plugin_monitor.md>

use crate::error::ExitCode;
use crate::link::TunnelKind;
use crate::offload::health::NodeState;
use crate::offload::plan::Action;
use crate::offload::report::{DeviceReport, Outcome, Report, by_device};

const MAX: usize = 80;

/// The line, and the exit code: 0 for no problem, 1 for a problem.
pub fn npd(report: &Report<'_>) -> (String, ExitCode) {
    let wrong: Vec<_> = by_device(&report.devices)
        .map(|(first, others)| NodeState::of_all(first, others))
        .filter(|(_, state)| *state != NodeState::Ok)
        .collect();
    let kinds = TunnelKind::names(report.devices.iter().map(|device| device.kind));
    let line = match &wrong[..] {
        [] => match report.summary.devices {
            1 => format!("1 {kinds} device is as it should be"),
            n => format!("{n} {kinds} devices are as they should be"),
        },
        [(device, state)] => about(device, *state),
        [(device, state), others @ ..] => {
            let more = format!(" (and {} more)", others.len());
            cut(about(device, *state), MAX - more.len()) + &more
        }
    };
    let code = if wrong.is_empty() {
        ExitCode::Ok
    } else {
        ExitCode::Failed
    };
    (cut(line, MAX), code)
}

/// The line for a look that failed. The exit code is 2.
pub fn npd_unknown(error: &str) -> String {
    let words: Vec<&str> = error.split_whitespace().collect();
    cut(words.join(" "), MAX)
}

fn about(device: &DeviceReport<'_>, state: NodeState) -> String {
    let what = match (device.outcome, state) {
        (Outcome::Failed, _) => "offload cannot be read or set",
        (Outcome::Planned, _) if device.action == Action::AddRule => "a rule notrack is missing",
        (Outcome::Planned | Outcome::Refused, _) => "offload is on and must be off",
        (_, NodeState::Broken) => "its packets leave corrupt",
        _ => "its packets may leave corrupt",
    };
    format!("{}: {what} ({})", device.name, device.reason.code.as_str())
}

/// Cuts a text to at most `max` bytes, between characters.
fn cut(mut text: String, max: usize) -> String {
    if text.len() > max {
        let end = (0..=max.saturating_sub(3))
            .rev()
            .find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_too_long() {
        for (text, expected) in [
            ("short".to_owned(), "short".to_owned()),
            ("x".repeat(80), "x".repeat(80)),
            ("x".repeat(81), "x".repeat(77) + "..."),
            ("x".repeat(76) + &"é".repeat(5), "x".repeat(76) + "..."),
            ("a\n  b".to_owned(), "a b".to_owned()),
        ] {
            assert_eq!(npd_unknown(&text), expected);
        }
    }
}
