use super::*;

#[test]
fn a_contradiction_of_table_and_probe_is_reported_with_a_frame() {
    let run = include_bytes!("../../tests/cases/probe-6.18.44.json");
    let run = ProbeRun::from_json(run).unwrap();
    let verdict = |release: &str| {
        let facts = crate::kernel::KernelFacts {
            release: release.to_owned(),
            ..crate::kernel::KernelFacts::default()
        };
        crate::kernel::verdict::judge(&facts, &[], &crate::kernel::Measurements::default())
    };
    assert_eq!(disagreements(&verdict("6.18.44"), &run), []);
    assert_eq!(disagreements(&verdict("my-kernel"), &run), []);
    let found = disagreements(&verdict("5.4.38"), &run);
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].bug, found[0].table, found[0].measured),
        (BugId::NatZeroCsum, Status::Affected, Status::NotAffected)
    );
    assert!(found[0].frame.as_ref().is_some_and(|hex| hex.len() > 100));
}
