//! The reports of one node, word for word: `tests/fixtures/*.txt` and `*.json`.
//!
//! The test hides what belongs to the machine: it replaces the answer of `uname` and leaves out ifindexes. After an
//! intended change, `VXCSUM_BLESS=1 cargo test --test devices_reports` writes the files anew. It also fails, so it
//! cannot pass by accident.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use common::{Netns, Run, uname_says};
use serde_json::Value;

fn node() -> Netns {
    let netns = Netns::with_underlay();
    netns.batch(
        "link add flannel.1 type vxlan id 1 dstport 8472 local 192.0.2.1 dev eth0 udpcsum nolearning\n\
         link add vxlan.calico type vxlan id 4096 dstport 4789 local 192.0.2.1 noudpcsum nolearning\n\
         link add keep0 type vxlan id 7 dstport 4790 local fd00::1 dev eth0\n\
         link add cilium_vxlan type vxlan external dstport 8473\n",
    );
    netns.add_peer("flannel.1");
    netns.add_peer("vxlan.calico");
    netns
}

/// Every verb, in an order in which each verb has something to report.
const VERBS: [(&str, &str, i32); 15] = [
    ("status", "status", 0),
    ("status.json", "status --json", 0),
    ("dry-run", "apply --dry-run", 0),
    ("explain-turn-off", "explain flannel.1", 0),
    ("explain-turn-off.json", "explain flannel.1 --json", 0),
    ("explain-rule", "explain keep0", 0),
    ("explain-not-affected", "explain vxlan.calico", 0),
    ("apply", "apply --device flannel.1", 0),
    ("apply.json", "apply --json", 0),
    ("apply-again", "apply", 0),
    ("explain-off", "explain cilium_vxlan", 0),
    ("error-device.json", "apply --device eth0 --json", 1),
    (
        "explain-kernel",
        "explain --kernel 4.18.0-147.5.1.el8_1.x86_64",
        0,
    ),
    (
        "explain-kernel.json",
        "explain --kernel 4.18.0-147.5.1.el8_1.x86_64 --json",
        0,
    ),
    ("policy-show", "policy show", 0),
];

fn without_ifindexes(run: &Run) -> String {
    let lines = run
        .text()
        .lines()
        .map(|line| match line.split_once("ifindex") {
            Some((before, number)) => {
                let number = number.replace(|c: char| c.is_ascii_digit(), "");
                format!("{before}ifindex{}\n", number.replace(": ", ": 0"))
            }
            None => format!("{line}\n"),
        });
    lines.collect()
}

#[test]
fn the_reports_are_the_committed_ones() {
    let netns = node();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let uname = uname_says("6.18.44", "#1 SMP PREEMPT_DYNAMIC");
    let bless = std::env::var_os("VXCSUM_BLESS").is_some();
    let mut differing = Vec::new();
    for (name, words, code) in VERBS {
        let run = netns.with_faults(&[&uname], words).expect(code);
        assert!(run.err.is_empty(), "{words}: {}", run.errors());
        let found = without_ifindexes(&run);
        let name = if name.contains('.') {
            name.to_owned()
        } else {
            format!("{name}.txt")
        };
        let path = directory.join(&name);
        if bless {
            fs::write(&path, &found).expect("write the fixture");
        }
        let expected =
            fs::read_to_string(&path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()));
        if found != expected {
            println!("--- {name}, expected:\n{expected}--- found:\n{found}");
            differing.push(name);
        }
    }
    assert!(differing.is_empty(), "reports differ: {differing:?}");
    assert!(
        !bless,
        "the fixtures are written: read the difference, and run the tests without VXCSUM_BLESS"
    );
    let known: BTreeSet<_> = VERBS
        .iter()
        .map(|(name, ..)| name.split('.').next())
        .collect();
    for file in fs::read_dir(directory)
        .expect("list the fixtures")
        .flatten()
    {
        if file.path().is_dir() {
            continue;
        }
        let name = file.file_name().into_string().expect("UTF-8");
        assert!(
            name == "root" || known.contains(&name.split('.').next()),
            "{name} is of no test"
        );
    }
}

/// The keys of an object.
fn keys(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect()
}

#[test]
fn the_json_report_has_these_keys() {
    let netns = node();
    for words in [
        "status --json",
        "apply --dry-run --json",
        "apply --json",
        "explain flannel.1 --json",
    ] {
        let report = netns.vxcsum(words).expect(0).json();
        let mut top = vec![
            "backend",
            "devices",
            "dry_run",
            "kernel",
            "persistent",
            "schema_version",
            "summary",
        ];
        if words.starts_with("explain") {
            top.insert(5, "rules");
        }
        assert_eq!(keys(&report), top, "{words}");
        assert_eq!(report["schema_version"], 1);
        assert_eq!(report["dry_run"], words != "apply --json", "{words}");
        assert_eq!(
            keys(&report["kernel"]),
            ["bugs", "distribution", "release", "version"],
            "{words}"
        );
        let uname = rustix::system::uname();
        assert_eq!(
            report["kernel"]["release"],
            *uname.release().to_string_lossy()
        );
        assert_eq!(
            report["kernel"]["version"],
            *uname.version().to_string_lossy()
        );
        for bug in report["kernel"]["bugs"].as_array().expect("bugs") {
            let required: BTreeSet<_> = ["evidence", "id", "status"].into();
            assert!(
                required.is_subset(&keys(bug).into_iter().collect()),
                "{words}: {bug}"
            );
            for evidence in bug["evidence"].as_array().expect("evidence") {
                assert_eq!(keys(evidence), ["mark", "source", "text", "url"], "{words}");
            }
        }
        for device in report["devices"].as_array().expect("devices") {
            let expected = [
                "action",
                "also_off",
                "dst_port",
                "error",
                "exposure",
                "exposure_rule",
                "exposure_table",
                "exposure_text",
                "feature",
                "feature_name",
                "ifindex",
                "kind",
                "name",
                "outcome",
                "outer_checksum",
                "reason",
                "rule",
                "segmentation",
                "segmentation_text",
                "underlay",
                "verdict",
                "vni",
            ];
            assert_eq!(keys(device), expected, "{words}");
            assert_eq!(
                keys(&device["feature"]),
                ["active", "hw", "nochange", "wanted"],
                "{words}"
            );
            assert_eq!(keys(&device["verdict"]), ["bugs", "status"], "{words}");
            assert_eq!(keys(&device["reason"]), ["code", "text"], "{words}");
            if !device["underlay"].is_null() {
                assert_eq!(keys(&device["underlay"]), ["driver", "name"], "{words}");
            }
        }
    }
}
