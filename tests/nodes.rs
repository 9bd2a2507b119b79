//! `explain --nodes`, as the user of a cluster runs it: without privileges and without looking at devices.

mod common;

use std::process::{Command, Stdio};

use common::{Run, VXCSUM, run};
use serde_json::{Value, json};

fn explain(words: &str, text: &str) -> Run {
    let file = tempfile::NamedTempFile::new().expect("make a file");
    std::fs::write(&file, text).expect("write it");
    run(Command::new(VXCSUM)
        .args(words.split(' '))
        .stdin(std::fs::File::open(&file).expect("open it")))
}

/// Nodes as `kubectl get nodes -o json` prints them, with other fields too.
fn cluster(nodes: usize) -> String {
    let kernels = [
        ("5.3.18-default", "SUSE Linux Enterprise Server 15 SP2"),
        ("4.18.0-147.5.1.el8_1.x86_64", "CentOS Linux 8 (Core)"),
        ("5.15.0-91-generic", "Ubuntu 22.04.3 LTS"),
        ("3.2.0", "\u{1b}[31mred"),
    ];
    let node = |n: usize| {
        let (release, image) = kernels[n % kernels.len()];
        json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": format!("node-{n}"), "labels": {"kubernetes.io/os": "linux"}},
            "spec": {"podCIDR": "10.0.0.0/24"},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}], "images": [{"names": ["x"], "sizeBytes": 1}],
                "nodeInfo": {"kernelVersion": release, "osImage": image, "operatingSystem": "linux", "architecture": "amd64"}}})
    };
    let items: Vec<Value> = (0..nodes).map(node).collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

#[test]
fn ten_thousand_nodes_are_counted_by_verdict() {
    let report = explain("explain --nodes - --json", &cluster(10_000))
        .expect(0)
        .json();
    assert_eq!(
        (&report["nodes"], &report["other_systems"]),
        (&json!(10_000), &json!(0))
    );
    assert_eq!(
        report["bugs"][0],
        json!({"id": "nat-zero-csum", "affected": 5000, "not-affected": 2500, "unknown": 2500}),
        "{}",
        report["bugs"]
    );
    let kernels = report["kernels"].as_array().expect("kernels");
    assert_eq!(kernels.len(), 4);
    for kernel in kernels {
        // The verdict is the same as for the kernel alone, unless the distribution matters.
        let release = kernel["release"].as_str().expect("a release");
        let alone = run(Command::new(VXCSUM).args(["explain", "--json", "--kernel", release]));
        assert_eq!(
            kernel["bugs"],
            alone.expect(0).json()["kernel"]["bugs"],
            "{release}"
        );
        assert_eq!(kernel["names"].as_array().map(Vec::len), Some(2500));
    }
}

#[test]
fn the_table_fits_and_names_cannot_control_the_terminal() {
    let run = explain("explain --nodes -", &cluster(9)).expect(0);
    let text = run.text();
    assert!(
        text.starts_with("9 nodes\nnat-zero-csum: 4 affected, 2 not affected, 3 unknown\n"),
        "{text}"
    );
    assert!(
        text.contains("3      5.3.18-default ")
            && text.contains("SUSE Linux Enterprise Server 15 SP2"),
        "{text}"
    );
    assert!(
        !text.contains('\u{1b}') && text.contains("\\x1b[31mred"),
        "{text}"
    );
}

#[test]
fn lists_and_malformed_lists() {
    let run = explain("explain --nodes -", "5.3.18-default\n# b\n\n6.1.0\n").expect(0);
    assert!(run.text().starts_with("2 nodes\n"), "{}", run.text());
    for (text, said) in [
        ("", "there is no node in it"),
        (
            "NAME STATUS\n",
            "line 1: \"NAME STATUS\" is not what `uname -r` prints",
        ),
        (
            "{\"items\": [",
            "it is not what `kubectl get nodes -o json` prints",
        ),
    ] {
        let run = explain("explain --nodes -", text).expect(1);
        assert!(
            run.errors().contains(said) && run.out.is_empty(),
            "{text}: {run:?}"
        );
    }
    let missing = run_missing();
    assert!(
        missing.errors().contains("read /nonexistent/nodes: ")
            && missing.errors().contains("ENOENT"),
        "{missing:?}"
    );
}

fn run_missing() -> Run {
    run(Command::new(VXCSUM)
        .args(["explain", "--nodes", "/nonexistent/nodes"])
        .stdin(Stdio::null()))
    .expect(1)
}
