//! `status --format prometheus`: metrics in the text format, for node_exporter's textfile collector.
//!
//! Owns the names and help texts of the metrics. Writes no timestamps: node_exporter ignores a whole file that has one.
//! <https://github.com/prometheus/docs/blob/main/docs/instrumenting/exposition_formats.md>

use std::fmt::Write as _;

use crate::ethtool::Feature;
use crate::nat::exposure::Exposure;
use crate::offload::plan::{Plan, ReasonCode};
use crate::offload::report::{Outcome, Report};

/// Metrics of a report, of its plan, of `(Udp, Udp6) InCsumErrors`, and of the time in seconds since 1970.
#[allow(clippy::too_many_lines, reason = "a table of metrics")]
pub fn prometheus(
    report: &Report<'_>,
    plan: &Plan<'_>,
    checksum_errors: Option<(u64, u64)>,
    now: u64,
) -> String {
    let mut out = String::new();
    let flag = |value: bool| u64::from(value);
    let devices: Vec<_> = report.devices.iter().zip(&plan.devices).collect();
    let name = |name: &dyn std::fmt::Display| format!("device=\"{}\"", quoted(&name.to_string()));

    let mut series = |metric: &str, kind: &str, help: &str, samples: Vec<(String, u64)>| {
        if !samples.is_empty() {
            let _ = writeln!(out, "# HELP {metric} {help}\n# TYPE {metric} {kind}");
        }
        for (labels, value) in samples {
            let (open, close) = if labels.is_empty() {
                ("", "")
            } else {
                ("{", "}")
            };
            let _ = writeln!(out, "{metric}{open}{labels}{close} {value}");
        }
    };
    let of_devices = |value: &dyn Fn(usize) -> Option<bool>| {
        let all = devices.iter().enumerate();
        all.filter_map(|(n, (device, _))| Some((name(device.name), flag(value(n)?))))
            .collect::<Vec<_>>()
    };

    series(
        "vxcsum_build_info",
        "gauge",
        "The version of vxcsum; always 1.",
        vec![(format!("version=\"{}\"", env!("CARGO_PKG_VERSION")), 1)],
    );
    series(
        "vxcsum_last_run_timestamp_seconds",
        "gauge",
        "When vxcsum last looked at the devices.",
        vec![(String::new(), now)],
    );
    series(
        "vxcsum_device_offload_enabled",
        "gauge",
        "Whether tx-checksum-ip-generic is on. Absent where it cannot be read.",
        of_devices(&|n| devices[n].0.feature.map(|feature| feature.active)),
    );
    series(
        "vxcsum_device_offload_must_be_off",
        "gauge",
        "Whether policy, kernel and NAT rules ask for the offload to be off.",
        of_devices(&|n| Some(devices[n].1.must_be_off)),
    );
    let exposures = devices.iter().flat_map(|(device, _)| {
        let now = match device.exposure {
            Exposure::Exposed(_) => "exposed",
            Exposure::NotExposed(_) => "not-exposed",
            Exposure::Unknown(_) => "unknown",
        };
        ["exposed", "not-exposed", "unknown"].map(|exposure| {
            let labels = format!("{},exposure=\"{exposure}\"", name(device.name));
            (labels, flag(exposure == now))
        })
    });
    series(
        "vxcsum_device_exposure",
        "gauge",
        "Whether NAT on this node can rewrite the outer packets: 1 for the state that holds. Unknown also where no decision \
         depends on it.",
        exposures.collect(),
    );
    series(
        "vxcsum_device_turned_off_by_vxcsum",
        "gauge",
        "Whether vxcsum turned the offload off since boot, and revert would give it back.",
        of_devices(&|n| {
            Some(
                Feature::ALL
                    .iter()
                    .any(|f| devices[n].1.device.history[*f].owned),
            )
        }),
    );
    series(
        "vxcsum_device_contested",
        "gauge",
        "Whether another program keeps turning the offload on, so that vxcsum has stopped for an hour.",
        of_devices(&|n| Some(devices[n].0.reason.code == ReasonCode::Contested)),
    );
    series(
        "vxcsum_device_failed",
        "gauge",
        "Whether the offload could not be read, or must be off and cannot be turned off.",
        of_devices(&|n| {
            let outcome = devices[n].0.outcome;
            Some(matches!(outcome, Outcome::Failed | Outcome::Refused))
        }),
    );
    let verdicts = report.kernel.bugs.iter().flat_map(|bug| {
        crate::kernel::Status::ALL.map(|status| {
            let labels = format!("bug=\"{}\",status=\"{}\"", bug.id.as_str(), status.as_str());
            (labels, flag(status == bug.status))
        })
    });
    series(
        "vxcsum_kernel_bug",
        "gauge",
        "What is known of a bug of the running kernel: 1 for the status that holds.",
        verdicts.collect(),
    );
    let errors = checksum_errors.map(|(udp, udp6)| {
        [("ipv4", udp), ("ipv6", udp6)]
            .map(|(family, errors)| (format!("family=\"{family}\""), errors))
            .to_vec()
    });
    series(
        "vxcsum_udp_checksum_errors_total",
        "counter",
        "UDP packets received with a wrong checksum (InCsumErrors). They grow on the receiver: the sender is another node.",
        errors.unwrap_or_default(),
    );
    out
}

/// The value of a label, in quotes.
fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_quoted() {
        for (text, expected) in [
            ("flannel.1", "flannel.1"),
            ("a\"b", "a\\\"b"),
            ("a\\x1b", "a\\\\x1b"),
            ("a\nb", "a\\nb"),
        ] {
            assert_eq!(quoted(text), expected);
        }
    }
}
