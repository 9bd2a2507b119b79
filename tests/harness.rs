//! The test harness itself: what it deletes, and what it must not touch.

mod common;

use std::path::Path;
use std::process::Command;

use common::{PREFIXES, VXCSUM, run, sweep};

/// A killed run deletes nothing. The next run deletes its namespaces.
#[test]
fn namespaces_of_dead_processes_are_swept_and_no_others() {
    let mut child = Command::new("true").spawn().expect("run true");
    let dead = child.id();
    child.wait().expect("wait for true");
    let there = |name: &str| Path::new("/run/netns").join(name).exists();
    let living = std::process::id();
    for prefix in PREFIXES {
        let (swept, kept) = (
            format!("{prefix}{dead}-sweep"),
            format!("{prefix}{living}-sweep"),
        );
        for name in [&swept, &kept] {
            run(Command::new("ip").args(["netns", "add", name])).expect(0);
        }
        sweep();
        let left = (there(&swept), there(&kept));
        run(Command::new("ip").args(["netns", "del", &kept])).expect(0);
        assert_eq!(left, (false, true), "{prefix}");
    }
}

/// Runs a command on a machine with this record. Returns the exit code, and the record afterwards.
fn with_a_record(command: &[&str]) -> (i32, String) {
    let script = "mount -t tmpfs tmpfs /run; mkdir /run/vxcsum; echo kept > /run/vxcsum/state.json
        \"$@\" > /dev/null || code=$?
        ls -R /run/vxcsum; cat /run/vxcsum/*; exit ${code-0}";
    let run = run(Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            "sh",
        ])
        .args(command)
        .current_dir(env!("CARGO_MANIFEST_DIR")));
    (run.code, run.text().to_owned())
}

const KEPT: &str = "/run/vxcsum:\nstate.json\nkept\n";

#[test]
fn the_demo_leaves_the_record_of_the_machine_alone() {
    assert_eq!(with_a_record(&["tests/demo", VXCSUM]), (0, KEPT.into()));
}

/// `make test` runs all tests below this check.
#[test]
fn a_command_that_changes_the_record_of_the_machine_is_found() {
    let untouched = |script| with_a_record(&["tests/untouched", "sh", "-c", script]);
    assert_eq!(untouched("true"), (0, KEPT.into()));
    assert_eq!(untouched("exit 7"), (7, KEPT.into()));
    for script in [
        "echo kept > /run/vxcsum/state.json",
        "touch /run/vxcsum/x",
        "rm -r /run/vxcsum/*",
    ] {
        assert_eq!(untouched(script).0, 1, "{script}");
    }
}
