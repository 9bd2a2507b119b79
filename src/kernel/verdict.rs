//! The verdict: measurements, declarations of the administrator and the table, combined for one kernel.
//!
//! Owns the order of evidence. Pure.

use super::release::Kernel;
use super::{
    Basis, BugId, BugVerdict, Evidence, EvidenceSource, KernelFacts, KernelOverride, KernelVerdict,
    Status, Trigger, Why, bugs,
};

use super::{Measured, Measurements};

/// Judges a kernel by its strings and by the measurements of this boot. A measurement decides first, then the last
/// matching `[[kernel]]` entry, then the table. Weaker evidence stays in the list.
pub fn judge(
    facts: &KernelFacts,
    overrides: &[KernelOverride],
    measurements: &Measurements,
) -> KernelVerdict {
    let kernel = Kernel::identify(facts);
    KernelVerdict::new(|id| {
        let verdict = by_table(id, &kernel);
        let verdict = overrides
            .iter()
            .rev()
            .find(|o| o.bug == id && o.release.matches(facts.release.as_bytes()))
            .map_or_else(|| verdict.clone(), |o| declared(o, &verdict));
        match measurements[id] {
            Some(result) => measured(result, verdict),
            None => verdict,
        }
    })
}

fn measured(result: Measured, weaker: BugVerdict) -> BugVerdict {
    let (status, seen) = match (weaker.id.describe().trigger, result.affected) {
        (Trigger::Nat, true) => (
            Status::Affected,
            "packets that NAT had rewritten left with a wrong outer checksum",
        ),
        (Trigger::Nat, false) => (
            Status::NotAffected,
            "packets that NAT had rewritten left with a right outer checksum",
        ),
        (Trigger::Segmentation, true) => (
            Status::Affected,
            "forwarded packets that were segmented twice left with a wrong outer checksum",
        ),
        (Trigger::Segmentation, false) => (
            Status::NotAffected,
            "no forwarded packet that was segmented twice left with a wrong outer checksum",
        ),
    };
    let cures = weaker.id.describe().cures.iter().map(|feature| {
        let name = feature.as_str();
        match result.cured_by(*feature) {
            Some(true) => format!(", and with a right one while {name} was off"),
            Some(false) => format!(", even while {name} was off"),
            None => String::new(),
        }
    });
    let overrules = weaker.status != Status::Unknown && weaker.status != status;
    let text = format!(
        "measured on this boot: {seen}{}{}",
        cures.collect::<String>(),
        if overrules {
            "; this overrules policy and table"
        } else {
            ""
        }
    );
    let evidence = Evidence {
        source: EvidenceSource::Probe,
        mark: Basis::Measured,
        text,
        url: None,
    };
    BugVerdict {
        status,
        why: weaker.why.filter(|_| status == Status::NotAffected),
        evidence: std::iter::once(evidence).chain(weaker.evidence).collect(),
        ..weaker
    }
}

fn by_table(id: BugId, kernel: &Kernel) -> BugVerdict {
    let says = bugs::rows(id, kernel).next().map(|row| row.says);
    BugVerdict {
        id,
        status: says.map_or(Status::Unknown, bugs::RowStatus::status),
        why: says.and_then(bugs::RowStatus::why),
        evidence: bugs::rows(id, kernel)
            .map(|row| Evidence {
                source: EvidenceSource::Table,
                mark: row.basis_for(kernel),
                text: row.text.to_owned(),
                url: row.url.map(str::to_owned),
            })
            .collect(),
    }
}

fn declared(entry: &KernelOverride, table: &BugVerdict) -> BugVerdict {
    let evidence = Evidence {
        source: EvidenceSource::Policy,
        mark: Basis::Declared,
        text: format!(
            "the [[kernel]] entry for {} in {} says \"{}\"",
            entry.release.as_str(),
            entry.origin,
            if entry.status == Status::Affected {
                "affected"
            } else {
                "fixed"
            }
        ),
        url: None,
    };
    BugVerdict {
        id: entry.bug,
        status: entry.status,
        why: (entry.status == Status::NotAffected).then_some(Why::Fixed),
        evidence: std::iter::once(evidence)
            .chain(table.evidence.iter().cloned())
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::glob::Glob;
    use crate::probe::ProbeRun;
    use proptest::prelude::*;

    fn kernel(release: &str) -> KernelFacts {
        KernelFacts {
            release: release.to_owned(),
            ..KernelFacts::default()
        }
    }

    fn entry(glob: &str, bug: BugId, status: Status, line: u32) -> KernelOverride {
        KernelOverride {
            release: Glob::new(glob).unwrap(),
            bug,
            status,
            origin: format!("/etc/vxcsum/policy.toml:{line}"),
        }
    }

    #[test]
    fn the_last_matching_entry_wins_and_the_table_stays_listed() {
        let facts = kernel("5.3.18-150300.59.93-default");
        let table = judge(&facts, &[], &Measurements::default());
        let overrides = [
            entry("5.3.18-*", BugId::NatZeroCsum, Status::Affected, 1),
            entry(
                "5.3.18-150300.*",
                BugId::NatZeroCsum,
                Status::NotAffected,
                5,
            ),
            entry("5.3.18-22.*", BugId::NatZeroCsum, Status::Affected, 9),
        ];
        let verdict = judge(&facts, &overrides, &Measurements::default());
        let bug = &verdict[BugId::NatZeroCsum];
        assert_eq!(
            (bug.status, bug.why),
            (Status::NotAffected, Some(Why::Fixed))
        );
        assert_eq!(
            bug.evidence[0],
            Evidence {
                source: EvidenceSource::Policy,
                mark: Basis::Declared,
                text:
                    "the [[kernel]] entry for 5.3.18-150300.* in /etc/vxcsum/policy.toml:5 says \"fixed\""
                        .to_owned(),
                url: None,
            }
        );
        assert_eq!(bug.evidence[1..], table[BugId::NatZeroCsum].evidence[..]);
        assert_eq!(table[BugId::NatZeroCsum].status, Status::Unknown);
        for other in BugId::ALL.into_iter().filter(|id| *id != bug.id) {
            assert_eq!(verdict[other], table[other], "the others are untouched");
        }
    }

    #[test]
    fn an_entry_can_judge_what_the_table_cannot_read() {
        let all = entry("*", BugId::NatLcoCsum, Status::Affected, 2);
        let verdict = judge(&kernel("my-kernel"), &[all], &Measurements::default());
        assert_eq!(verdict[BugId::NatLcoCsum].status, Status::Affected);
        assert_eq!(verdict[BugId::NatLcoCsum].why, None);
        assert_eq!(verdict[BugId::NatZeroCsum].status, Status::Unknown);
    }

    /// The stored run on 6.18.44 shows `nat-lco-csum` and not `nat-zero-csum`.
    #[test]
    fn a_measurement_decides_first() {
        let run = include_bytes!("../../tests/cases/probe-6.18.44.json");
        let run = ProbeRun::from_json(run).unwrap();
        let declared = [
            entry("*", BugId::NatZeroCsum, Status::Affected, 1),
            entry("*", BugId::NatLcoCsum, Status::NotAffected, 2),
        ];
        for (release, overrides) in [
            ("4.18.0-147.el8", &[][..]),
            ("my-kernel", &[][..]),
            ("6.18.44", &declared[..]),
        ] {
            let weaker = judge(&kernel(release), overrides, &Measurements::default());
            let verdict = judge(&kernel(release), overrides, &run.measurements());
            let (zero, lco) = (&verdict[BugId::NatZeroCsum], &verdict[BugId::NatLcoCsum]);
            assert_eq!(zero.status, Status::NotAffected, "{release}");
            assert_eq!(lco.status, Status::Affected, "{release}");
            assert_eq!(lco.why, None);
            for (bug, weaker) in
                [BugId::NatZeroCsum, BugId::NatLcoCsum].map(|id| (&verdict[id], &weaker[id]))
            {
                assert_eq!(bug.evidence[0].source, EvidenceSource::Probe);
                assert_eq!(bug.evidence[0].mark, Basis::Measured);
                assert_eq!(bug.evidence[1..], weaker.evidence[..]);
            }
        }
    }

    #[test]
    fn an_inconclusive_probe_is_no_evidence() {
        let reason = crate::probe::plan::Step::Namespace.failed(rustix::io::Errno::PERM);
        let run = ProbeRun::new(
            Err(reason),
            crate::probe::Host::default(),
            core::time::Duration::ZERO,
        );
        let facts = kernel("6.18.44");
        assert_eq!(
            judge(&facts, &[], &run.measurements()),
            judge(&facts, &[], &Measurements::default())
        );
    }

    #[test]
    fn json_has_the_documented_shape() {
        let verdict = judge(&kernel("5.4.41"), &[], &Measurements::default());
        assert_eq!(
            serde_json::to_value(&verdict).unwrap()[0],
            serde_json::json!({
                "id": "nat-zero-csum", "status": "not-affected", "why": "fixed",
                "evidence": [{
                    "source": "table", "mark": "changelog-read", "text": "5.4.41 and newer 5.4 have the fix",
                    "url": "https://github.com/kubernetes/kubernetes/issues/88986"
                }]
            })
        );
    }

    const RELEASES: [&str; 8] = [
        "4.18.0-193.10.1.el8_2.x86_64",
        "3.10.0-1127.8.2.el7.x86_64",
        "4.15.0-108-generic",
        "5.4.0-1020-aws",
        "4.19.0-10-amd64",
        "5.3.18-150300.59.93-default",
        "5.7.0-rc4",
        "5.4.17-2011.1.2.el7uek.x86_64",
    ];

    fn listed(facts: &KernelFacts) -> bool {
        judge(facts, &[], &Measurements::default())
            .iter()
            .all(|bug| !bug.evidence.is_empty())
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(a: Vec<u8>, b: Vec<u8>, c: Option<Vec<u8>>, id: Vec<u8>) {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let mut facts = kernel(&text(&a));
            facts.version = text(&b);
            facts.version_signature = c.as_deref().map(text);
            facts.os.id = text(&id);
            prop_assert!(listed(&facts));
        }

        #[test]
        fn no_release_like_text_makes_it_panic(
            start in proptest::sample::select(&RELEASES[..]), cut in 0usize..30, garbage in ".{0,30}",
            digits in "[-.~+_0-9a-z]{0,40}", version in "#1 SMP (Debian |-Ubuntu )?[-0-9.~+a-z ]{0,20}",
            signature in "Ubuntu [-0-9. a-z]{0,30}",
        ) {
            let start = &start[..cut.min(start.len())];
            for release in [format!("{start}{garbage}"), format!("{start}{digits}")] {
                let mut facts = kernel(&release);
                facts.version.clone_from(&version);
                facts.version_signature = Some(signature.clone());
                prop_assert!(listed(&facts));
            }
        }
    }
}
