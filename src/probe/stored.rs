//! A run as JSON, for `/run/vxcsum/probe.json` and for `--json`.
//!
//! Owns the written form and its check: reading gives exactly the run that was written, or an error. Pure: opens no
//! files.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::burst::{Burst, Forwarding};
use super::{Hex, Observed, ProbeRun, SCHEMA_VERSION, frame, observe, verdict};
use crate::text::escape;

/// Why bytes are not a stored run.
#[derive(Debug)]
pub enum StoredError {
    /// Not JSON, or JSON of another form.
    Json(serde_json::Error),
    /// A version of the form that this program does not know.
    Version(u64),
    /// Parts contradict each other: the frames do not show the stored observations, or the results do not follow from
    /// the cases.
    Contradiction(&'static str),
}

impl fmt::Display for StoredError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(error) => write!(
                f,
                "not a stored probe run: {}",
                escape(error.to_string().as_bytes())
            ),
            Self::Version(found) => write!(
                f,
                "stored probe run has schema version {found}, this program knows {SCHEMA_VERSION}"
            ),
            Self::Contradiction(what) => write!(f, "stored probe run contradicts itself: {what}"),
        }
    }
}

impl std::error::Error for StoredError {}

/// The only field that is read of a run of another version.
#[derive(Deserialize)]
struct Versioned {
    schema_version: u64,
}

impl ProbeRun {
    /// Writes one line.
    ///
    /// # Errors
    /// The types allow none.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }

    /// Reads the output of [`Self::to_json`]. Makes every observation again from its frame and every result again from
    /// the cases, and compares both with the stored values.
    ///
    /// # Errors
    /// [`StoredError`] for anything else.
    pub fn from_json(bytes: &[u8]) -> Result<Self, StoredError> {
        let Versioned { schema_version } =
            serde_json::from_slice(bytes).map_err(StoredError::Json)?;
        if schema_version != u64::from(SCHEMA_VERSION) {
            return Err(StoredError::Version(schema_version));
        }
        let run: Self = serde_json::from_slice(bytes).map_err(StoredError::Json)?;
        for case in &run.cases {
            if let Observed::Frame { frame, .. } = &case.observed {
                let parsed = frame::parse(&frame.0)
                    .map_err(|_| StoredError::Contradiction("a frame is no VXLAN frame"))?;
                if observe(case.family, &parsed, &frame.0) != case.observed {
                    return Err(StoredError::Contradiction(
                        "a frame does not show what is said of it",
                    ));
                }
            }
        }
        if let Some(Forwarding::Bursts(bursts)) = &run.forwarding {
            for counts in bursts.iter().filter_map(Burst::counts) {
                let parsed = frame::parse(&counts.frame.0)
                    .map_err(|_| StoredError::Contradiction("a frame is no VXLAN frame"))?;
                if !counts.shows(&parsed) {
                    return Err(StoredError::Contradiction(
                        "a frame does not show what is said of it",
                    ));
                }
            }
        }
        if verdict::results(&run.cases, run.failed.as_ref(), run.forwarding.as_ref()) != run.results
        {
            return Err(StoredError::Contradiction(
                "the results do not follow from the packets",
            ));
        }
        Ok(run)
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digit = |c: u8| {
            char::from(c)
                .to_digit(16)
                .and_then(|d| u8::try_from(d).ok())
        };
        let pairs = text.as_bytes().chunks(2);
        pairs
            .map(|pair| match pair {
                [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
                _ => None,
            })
            .collect::<Option<_>>()
            .map(Hex)
            .ok_or_else(|| D::Error::custom("not pairs of hexadecimal digits"))
    }
}

/// A duration in whole microseconds.
pub mod micros {
    use core::time::Duration;

    use super::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_micros)
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::super::{BugOutcome, Host};
    use super::*;
    use crate::kernel::BugId;
    use crate::sealed::tests::damaged;

    /// A run on Linux 6.18.44, written by a vxcsum that did not know gso-lco-csum.
    const RUN: &str = include_str!("../../tests/cases/probe-6.18.44.json");
    /// A run on the same kernel with forwarded packets.
    const FORWARDED: &str = include_str!("../../tests/cases/probe-6.18.44-forwarded.json");

    #[test]
    fn a_real_run_comes_back_as_it_was() {
        let run = ProbeRun::from_json(RUN.as_bytes()).unwrap();
        assert_eq!(run.to_json().unwrap(), RUN.trim_end());
        assert_eq!(run.cases.len(), 48);
        assert_eq!(
            run.result(BugId::NatZeroCsum).unwrap().outcome,
            BugOutcome::NotAffected
        );
        assert_eq!(run.result(BugId::NatZeroCsum).unwrap().cured, None);
        assert_eq!(
            run.result(BugId::NatLcoCsum).unwrap().outcome,
            BugOutcome::Affected
        );
        assert_eq!(run.result(BugId::NatLcoCsum).unwrap().cured, Some(true));
    }

    /// An older file is still valid for its bugs, and says nothing about the others.
    #[test]
    fn what_an_older_vxcsum_did_not_measure_is_not_measured() {
        let run = ProbeRun::from_json(RUN.as_bytes()).unwrap();
        assert_eq!(run.result(BugId::GsoLcoCsum), None);
        assert_eq!(run.measurements()[BugId::GsoLcoCsum], None);
        assert!(run.measurements()[BugId::NatLcoCsum].is_some_and(|m| m.affected));
    }

    #[test]
    fn a_real_run_with_forwarding_comes_back_as_it_was() {
        let run = ProbeRun::from_json(FORWARDED.as_bytes()).unwrap();
        assert_eq!(run.to_json().unwrap(), FORWARDED.trim_end());
        let result = run.result(BugId::GsoLcoCsum).unwrap();
        assert_eq!(result.outcome, BugOutcome::Affected);
        assert_eq!(
            (result.cured, result.cured_by_fraglist_off, &result.other),
            (Some(true), Some(true), &None)
        );
        let telling = run.telling_frame(BugId::GsoLcoCsum, true).unwrap();
        let telling = frame::parse(&telling.0).unwrap();
        assert!(matches!(
            telling.outer.checksum,
            frame::Checksum::Invalid { .. }
        ));
        assert_eq!(run.telling_frame(BugId::GsoLcoCsum, false), None);
        let swap = |from: &str, to: &str| {
            assert!(FORWARDED.contains(from), "{from}");
            FORWARDED.replacen(from, to, 1)
        };
        for (name, text, message) in [
            (
                "no corrupt packet counted",
                swap("\"right\":1,\"wrong\":63", "\"right\":64,\"wrong\":0"),
                "what is said of it",
            ),
            (
                "another number of packets",
                swap("\"vxlan\":2,\"below\":5", "\"vxlan\":2,\"below\":4"),
                "do not follow",
            ),
            (
                "a packet less",
                swap("\"right\":64,\"wrong\":0", "\"right\":63,\"wrong\":0"),
                "do not follow",
            ),
            (
                "other cure",
                swap(
                    "\"cured_by_fraglist_off\":true",
                    "\"cured_by_fraglist_off\":false",
                ),
                "do not follow",
            ),
            (
                "unknown key in a burst",
                swap(
                    "{\"family\":\"ipv4\",\"below\"",
                    "{\"x\":1,\"family\":\"ipv4\",\"below\"",
                ),
                "unknown field",
            ),
            (
                "control characters",
                swap("{\"vxlan\":", "{\"\\u001b[31m\":1,\"vxlan\":"),
                "unknown field `\\x1b[31m`",
            ),
            (
                "unknown key in its counts",
                swap("{\"vxlan\":", "{\"x\":1,\"vxlan\":"),
                "unknown field",
            ),
        ] {
            let error = ProbeRun::from_json(text.as_bytes())
                .unwrap_err()
                .to_string();
            assert!(error.contains(message), "{name}: {error}");
        }
    }

    #[test]
    fn a_run_is_evidence_for_its_own_boot_and_kernel_only() {
        let run = ProbeRun::from_json(RUN.as_bytes()).unwrap();
        let own = Host {
            release: run.release.clone(),
            version: run.version.clone(),
            boot_id: run.boot_id.clone(),
        };
        assert!(run.is_of(&own));
        for change in [
            |m: &mut Host| m.release.push('x'),
            |m: &mut Host| m.version.push('x'),
            |m: &mut Host| m.boot_id.push('x'),
            |m: &mut Host| m.boot_id.clear(),
        ] {
            let mut other = own.clone();
            change(&mut other);
            assert!(!run.is_of(&other));
        }
        let nameless = ProbeRun {
            boot_id: String::new(),
            ..run
        };
        assert!(!nameless.is_of(&Host {
            boot_id: String::new(),
            ..own
        }));
    }

    #[test]
    fn a_failed_run_comes_back_as_it_was() {
        let reason = crate::probe::plan::Step::Namespace.failed(rustix::io::Errno::PERM);
        let run = ProbeRun::new(Err(reason.clone()), Host::default(), Duration::ZERO);
        let again = ProbeRun::from_json(run.to_json().unwrap().as_bytes()).unwrap();
        assert_eq!(again, run);
        assert_eq!(
            again.result(BugId::NatLcoCsum).unwrap().outcome,
            BugOutcome::Inconclusive(reason)
        );
    }

    #[test]
    fn damaged_and_foreign_files_are_errors() {
        let swap = |from: &str, to: &str| {
            assert!(RUN.contains(from), "{from}");
            RUN.replacen(from, to, 1)
        };
        let first_case = RUN.find("{\"outer_checksum\"").unwrap();
        let second_case = RUN[first_case + 1..].find("{\"outer_checksum\"").unwrap();
        for (name, text, message) in [
            ("empty", String::new(), "not a stored"),
            ("other", "[]".to_owned(), "not a stored"),
            (
                "version",
                swap("\"schema_version\":1", "\"schema_version\":2"),
                "schema version 2",
            ),
            (
                "unknown key",
                swap("\"failed\":null", "\"failed\":null,\"x\":1"),
                "unknown field",
            ),
            (
                "unknown key in a case",
                swap("{\"outer_checksum\"", "{\"x\":1,\"outer_checksum\""),
                "unknown field",
            ),
            (
                "unknown bug",
                swap("\"id\":\"nat-zero-csum\"", "\"id\":\"nat-more-csum\""),
                "unknown variant `nat-more-csum`",
            ),
            (
                "bugs out of order",
                swap("\"id\":\"nat-zero-csum\"", "\"id\":\"nat-lco-csum\""),
                "do not follow",
            ),
            (
                "other outcome",
                swap("\"outcome\":\"affected\"", "\"outcome\":\"not-affected\""),
                "do not follow",
            ),
            (
                "other cure",
                swap("\"cured\":true", "\"cured\":null"),
                "do not follow",
            ),
            (
                "other observation",
                swap("\"outer\":\"none\"", "\"outer\":\"right\""),
                "what is said of it",
            ),
            ("odd hex", swap("\"frame\":\"", "\"frame\":\"0"), "pairs"),
            ("no hex", swap("\"frame\":\"", "\"frame\":\"+1"), "pairs"),
            (
                "a case less",
                format!(
                    "{}{}",
                    &RUN[..first_case],
                    &RUN[first_case + 1 + second_case..]
                ),
                "do not follow",
            ),
        ] {
            let error = ProbeRun::from_json(text.as_bytes())
                .unwrap_err()
                .to_string();
            assert!(error.contains(message), "{name}: {error}");
        }
    }

    /// A damaged file is refused, or says the same of the bugs, or is not of this boot and kernel. One case in a
    /// thousand: each takes two milliseconds.
    #[test]
    fn a_damaged_file_never_says_something_else() {
        let text = FORWARDED.trim_end();
        let run = ProbeRun::from_json(text.as_bytes()).unwrap();
        let host = Host {
            release: run.release.clone(),
            version: run.version.clone(),
            boot_id: run.boot_id.clone(),
        };
        let (mut tried, mut refused) = (0, 0);
        for (how, text) in damaged(text).step_by(997) {
            tried += 1;
            match ProbeRun::from_json(text.as_bytes()) {
                Ok(other) if other.is_of(&host) => {
                    assert_eq!(other.measurements(), run.measurements(), "{how}");
                }
                _ => refused += 1,
            }
        }
        assert!(refused > tried / 2);
    }

    /// No changed digit of a packet goes unnoticed if a checksum covers it.
    #[test]
    fn a_changed_frame_is_found() {
        let run = ProbeRun::from_json(RUN.as_bytes()).unwrap();
        let Observed::Frame { frame, .. } = &run.cases[7].observed else {
            panic!("no frame");
        };
        // The outer checksum covers everything from the outer addresses on.
        for at in 26..frame.0.len() {
            let mut changed = run.clone();
            let Observed::Frame { frame, .. } = &mut changed.cases[7].observed else {
                panic!("no frame");
            };
            frame.0[at] ^= 0x11;
            let text = changed.to_json().unwrap();
            assert!(ProbeRun::from_json(text.as_bytes()).is_err(), "byte {at}");
        }
    }
}
