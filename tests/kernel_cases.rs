//! Runs the verdict on every case file in `tests/cases/kernel`. A file is one kernel.
//!
//! A case has the strings of a kernel and, for each bug, the status, the deciding row of the table, and its basis.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::Deserialize;
use vxcsum::kernel::release::Kernel;
use vxcsum::kernel::verdict::judge;
use vxcsum::kernel::{BugId, KernelFacts, Measurements, OsRelease, bugs};

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Case {
    release: String,
    #[serde(default)]
    uname_version: String,
    version_signature: Option<String>,
    #[serde(default)]
    os_release: Os,
    /// The expected result, by the code of the bug.
    #[serde(flatten)]
    bugs: BTreeMap<String, Expected>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Os {
    id: String,
    #[serde(default)]
    version_id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    status: String,
    why: Option<String>,
    mark: String,
    row: String,
}

fn cases() -> BTreeMap<String, Case> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/kernel");
    fs::read_dir(&dir)
        .expect("the directory of cases")
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).expect(&name);
            let case = toml::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
            (name, case)
        })
        .collect()
}

fn facts(case: &Case) -> KernelFacts {
    KernelFacts {
        release: case.release.clone(),
        version: case.uname_version.clone(),
        version_signature: case.version_signature.clone(),
        os: OsRelease {
            id: case.os_release.id.clone(),
            version_id: case.os_release.version_id.clone(),
        },
    }
}

/// The code in JSON.
fn code(value: impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).unwrap();
    value.as_str().unwrap().to_owned()
}

#[test]
fn every_case_is_judged_as_it_says() {
    let cases = cases();
    let mut wrong = Vec::new();
    for (name, case) in &cases {
        let facts = facts(case);
        let verdict = judge(&facts, &[], &Measurements::default());
        let kernel = Kernel::identify(&facts);
        for (bug_id, expected) in &case.bugs {
            let id = BugId::ALL.into_iter().find(|id| id.as_str() == bug_id);
            let id = id.unwrap_or_else(|| panic!("{name}: {bug_id} is no bug"));
            let bug = &verdict[id];
            let row = bugs::rows(id, &kernel).next().unwrap();
            let found = (
                bug.status.as_str(),
                bug.why.map(code),
                code(bug.evidence[0].mark),
                row.id,
            );
            let wanted = (
                &*expected.status,
                expected.why.clone(),
                expected.mark.clone(),
                &*expected.row,
            );
            if found != wanted {
                wrong.push(format!(
                    "{name}: {} is {found:?}, not {wanted:?}",
                    id.as_str()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(cases.len() >= 60, "only {} cases were run", cases.len());
}

/// A row in no case is either wrong, or hidden behind earlier rows.
#[test]
fn every_row_of_the_table_decides_in_a_case() {
    let mut idle: BTreeSet<&str> = bugs::TABLE.iter().map(|row| row.id).collect();
    for case in cases().values() {
        let kernel = Kernel::identify(&facts(case));
        let named = |id: &BugId| case.bugs.contains_key(id.as_str());
        for id in BugId::ALL.into_iter().filter(named) {
            for row in bugs::rows(id, &kernel) {
                idle.remove(row.id);
            }
        }
    }
    assert!(idle.is_empty(), "no case for {idle:?}");
}
