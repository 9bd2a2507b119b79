//! `status --format npd`: one line for node-problem-detector.
//!
//! node-problem-detector shows at most 80 bytes of a plugin's output.
//! <https://github.com/kubernetes/node-problem-detector/blob/master/docs/custom_plugin_monitor.md>

use crate::error::ExitCode;
use crate::offload::report::{DeviceReport, Outcome, Report};

const MAX: usize = 80;

/// The line, and the exit code: 0 for no problem, 1 for a problem.
pub fn npd(report: &Report<'_>) -> (String, ExitCode) {
    let wrong: Vec<&DeviceReport<'_>> = report
        .devices
        .iter()
        .filter(|device| match device.outcome {
            Outcome::Failed | Outcome::Refused => true,
            // A feature that waits to be turned on again is not a problem.
            Outcome::Planned => {
                device.also_on.is_empty() && device.feature.is_some_and(|f| f.active)
            }
            Outcome::Changed | Outcome::Unchanged | Outcome::Gone => false,
        })
        .collect();
    let line = match &wrong[..] {
        [] => match report.devices.len() {
            1 => "1 VXLAN device is as it should be".to_owned(),
            n => format!("{n} VXLAN devices are as they should be"),
        },
        [device] => about(device),
        [device, others @ ..] => {
            let more = format!(" (and {} more)", others.len());
            cut(about(device), MAX - more.len()) + &more
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

fn about(device: &DeviceReport<'_>) -> String {
    let what = match device.outcome {
        Outcome::Failed => "offload cannot be read or set",
        _ => "offload is on and must be off",
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
