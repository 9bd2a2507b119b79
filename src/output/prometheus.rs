//! `status --format prometheus`: metrics in the text format, for node_exporter's textfile collector.
//!
//! Owns the names and help texts of the metrics. Writes no timestamps: node_exporter ignores a whole file that has one.
//! <https://github.com/prometheus/docs/blob/main/docs/instrumenting/exposition_formats.md>

use std::collections::HashSet;
use std::fmt::Write as _;

use crate::ethtool::Feature;
use crate::nat::exposure::ExposureCode;
use crate::offload::judge::ReasonCode;
use crate::offload::plan::{DevicePlan, Plan};
use crate::offload::report::{DeviceReport, Outcome, Report, by_device};

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
    let devices: Vec<_> = by_device(&report.devices).collect();
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
    // A value for each device: true if it is true for one of its entries.
    let of_devices = |value: &dyn Fn(&DeviceReport<'_>) -> bool| {
        let any = |(first, others): &(&DeviceReport<'_>, &[DeviceReport<'_>])| {
            let holds = value(first) || others.iter().any(value);
            (name(first.name), flag(holds))
        };
        devices.iter().map(any).collect::<Vec<_>>()
    };
    let of_features = |value: &dyn Fn(&DevicePlan<'_>, Feature) -> Option<bool>| {
        let rows = plan.first_rows();
        let each = rows.flat_map(|row| Feature::ALL.map(|feature| (row, feature)));
        let sample = |(row, feature): (&DevicePlan<'_>, Feature)| {
            let device = name(&row.device.link.name);
            let labels = format!("{device},feature=\"{}\"", feature.as_str());
            Some((labels, flag(value(row, feature)?)))
        };
        each.filter_map(sample).collect::<Vec<_>>()
    };
    let must_be_off: HashSet<(u32, Feature)> = plan
        .devices
        .iter()
        .filter(|row| row.must_be_off)
        .map(DevicePlan::key)
        .collect();
    let of_exposure = |value: &dyn Fn(&DeviceReport<'_>) -> ExposureCode| {
        let each = devices.iter().flat_map(|(device, _)| {
            ExposureCode::ALL.map(|exposure| {
                let labels = format!("{},exposure=\"{}\"", name(device.name), exposure.as_str());
                (labels, flag(exposure == value(device)))
            })
        });
        each.collect::<Vec<_>>()
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
        "Whether a feature is on. Absent where it cannot be read.",
        of_features(&|row, feature| Some(row.device.state(plan.table, feature)?.active)),
    );
    series(
        "vxcsum_device_offload_must_be_off",
        "gauge",
        "Whether policy, kernel, NAT rules and the devices below require a feature to be off.",
        of_features(&|row, feature| {
            Some(must_be_off.contains(&(row.device.link.ifindex, feature)))
        }),
    );
    series(
        "vxcsum_device_exposure",
        "gauge",
        "Whether NAT on this node can rewrite the outer packets: 1 for the state that holds. Unknown also where no decision \
         depends on it.",
        of_exposure(&|device| device.exposure.code()),
    );
    series(
        "vxcsum_device_segmentation",
        "gauge",
        "Whether the outer packets can be segmented twice: 1 for the state that holds. Unknown also where no decision depends \
         on it.",
        of_exposure(&|device| device.segmentation),
    );
    series(
        "vxcsum_device_turned_off_by_vxcsum",
        "gauge",
        "Whether vxcsum turned a feature off since boot, and revert would give it back.",
        of_features(&|row, feature| Some(row.device.history[feature].owned)),
    );
    series(
        "vxcsum_device_notrack",
        "gauge",
        "Whether the rule that keeps NAT off its packets is in the table inet vxcsum.",
        of_devices(&|device| device.notrack.as_ref().is_some_and(|rule| rule.in_place)),
    );
    series(
        "vxcsum_device_contested",
        "gauge",
        "Whether another program keeps turning a feature on, so that vxcsum has stopped for an hour.",
        of_devices(&|entry| entry.reason.code == ReasonCode::Contested),
    );
    series(
        "vxcsum_device_failed",
        "gauge",
        "Whether a feature could not be read, or must be off and cannot be turned off.",
        of_devices(&|entry| matches!(entry.outcome, Outcome::Failed | Outcome::Refused)),
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
