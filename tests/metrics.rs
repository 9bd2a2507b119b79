//! Output for monitoring programs, on real devices. In tests/monitoring those programs read it.

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

use common::{Netns, device, run};

/// Each sample with its labels.
fn samples(text: &str) -> BTreeMap<String, u64> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            (name.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}

#[test]
fn metrics_follow_the_devices() {
    let netns = Netns::with_three();
    let before = netns.vxcsum("status --format prometheus").expect(0);
    let before = samples(before.text());
    let status = netns.vxcsum("status --json").expect(0).json();
    let devices = status["devices"].as_array().expect("devices");
    assert_eq!(devices.len(), 3);
    for device in devices {
        let name = device["name"].as_str().expect("a name");
        let labels = format!("device=\"{name}\",feature=\"{}\"", common::FEATURE);
        let of = |metric: &str| before[&format!("vxcsum_device_{metric}{{{labels}}}")];
        assert_eq!(
            of("offload_enabled"),
            u64::from(netns.is_on(name)),
            "{name}"
        );
        let must_be_off = device["action"] == "turn-off";
        assert_eq!(of("offload_must_be_off"), u64::from(must_be_off), "{name}");
        let exposure = device["exposure"].as_str().expect("an exposure");
        let key = format!("vxcsum_device_exposure{{device=\"{name}\",exposure=\"{exposure}\"}}");
        assert_eq!(before[&key], 1);
    }
    let remembering = |words: &str| {
        let mut command = netns.command(common::VXCSUM);
        command.args(words.split(' '));
        run(command.args(["--root", netns.remembering_root()])).expect(0)
    };
    remembering("apply");
    let after = remembering("status --format prometheus");
    let after = samples(after.text());
    let mut turned_off = 0;
    for device in devices {
        let name = device["name"].as_str().expect("a name");
        let labels = format!("device=\"{name}\",feature=\"{}\"", common::FEATURE);
        let of = |metric: &str| after[&format!("vxcsum_device_{metric}{{{labels}}}")];
        assert_eq!(
            of("offload_enabled"),
            u64::from(netns.is_on(name)),
            "{name}"
        );
        assert!(
            of("offload_must_be_off") == 0 || of("offload_enabled") == 0,
            "{name}"
        );
        turned_off += of("turned_off_by_vxcsum");
    }
    assert!(turned_off > 0, "{after:?}");
    for family in ["ipv4", "ipv6"] {
        assert!(after.contains_key(&format!(
            "vxcsum_udp_checksum_errors_total{{family=\"{family}\"}}"
        )));
    }
    assert!(after["vxcsum_last_run_timestamp_seconds"] > 1_600_000_000);
}

#[test]
fn a_file_is_replaced_in_one_step_and_a_wrong_directory_is_an_error() {
    let netns = Netns::with_three();
    let dir = tempfile::tempdir().expect("make a directory");
    let file = dir.path().join("vxcsum.prom");
    let words = format!("status --format prometheus --output {}", file.display());
    let mut inodes = Vec::new();
    for _ in 0..2 {
        assert!(netns.vxcsum(&words).expect(0).out.is_empty());
        // The old namespace stays open, so the new one gets another inode.
        inodes.push((
            std::fs::metadata(&file).expect("the file").ino(),
            std::fs::File::open(&file),
        ));
        let text = std::fs::read_to_string(&file).expect("read it");
        assert!(samples(&text).contains_key("vxcsum_last_run_timestamp_seconds"));
    }
    assert_ne!(inodes[0].0, inodes[1].0);
    let names: Vec<_> = std::fs::read_dir(&dir)
        .expect("list")
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert_eq!(names, ["vxcsum.prom"]);
    let wrong = netns
        .vxcsum("status --format prometheus --output /nonexistent/x.prom")
        .expect(1);
    assert!(
        wrong.errors().contains("write /nonexistent/x.prom: ") && wrong.errors().contains("ENOENT"),
        "{wrong:?}"
    );
}

#[test]
fn node_problem_detector_gets_a_short_line() {
    let netns = Netns::with_three();
    let problem = netns.vxcsum("status --format npd").expect(1);
    assert!(
        problem.text().contains("offload is on and must be off"),
        "{}",
        problem.text()
    );
    netns.vxcsum("apply").expect(0);
    let fine = netns.vxcsum("status --format npd").expect(0);
    assert_eq!(fine.text(), "3 VXLAN devices are as they should be\n");
    let unknown = netns
        .vxcsum("status --format npd --policy /nonexistent/policy-of-a-long-name-which-does-not-fit-into-eighty-bytes.toml")
        .expect(2);
    assert!(unknown.text().ends_with("...\n"), "{unknown:?}");
    for run in [problem, fine, unknown] {
        assert!(
            run.out.len() <= 81 && run.text().lines().count() == 1,
            "{run:?}"
        );
    }
}

/// A device that the policy leaves alone is a problem too if NAT corrupts its packets, as in every other answer.
#[test]
fn node_problem_detector_says_what_status_says() {
    let netns = Netns::new();
    netns.ip("link add keep0 up type vxlan id 1 dstport 4789 remote 192.0.2.2 local 192.0.2.1");
    // The rules are read because of this device.
    netns.ip("link add vx0 up type vxlan id 2 dstport 4790 remote 192.0.2.2 local 192.0.2.1");
    for (rules, state, code, line) in [
        ("", "ok", 0, "2 VXLAN devices are as they should be\n"),
        (
            "add table ip n; add chain ip n p { type nat hook postrouting priority 100; }; add rule ip n p udp dport 4789-4790 masquerade",
            "broken",
            1,
            "keep0: its packets leave corrupt (rule-never)\n",
        ),
    ] {
        run(netns.command("nft").arg(rules)).expect(0);
        netns.vxcsum("apply").expect(0);
        let status = netns.vxcsum("status --json").json();
        assert_eq!(status["summary"]["state"], state, "{status}");
        assert_eq!(device(&status, "keep0")["outcome"], "unchanged");
        let npd = netns.vxcsum("status --format npd").expect(code);
        assert_eq!(npd.text(), line);
    }
}

#[test]
fn watch_leaves_everything_or_gives_it_back_and_keeps_the_metrics() {
    for give_back in [false, true] {
        let netns = Netns::with_three();
        let before = netns.everything();
        let dir = tempfile::tempdir().expect("make a directory");
        let file = dir.path().join("vxcsum.prom");
        let mut command = netns.command("timeout");
        // SIGTERM ends it, and exit code 0 comes from watch.
        command.args([
            "--preserve-status",
            "5",
            common::VXCSUM,
            "watch",
            "--root",
            netns.root(),
            "--metrics",
        ]);
        command.arg(&file);
        if give_back {
            command.arg("--revert-on-exit");
        }
        run(&mut command).expect(0);
        assert_eq!(netns.everything() == before, give_back);
        let text = std::fs::read_to_string(&file).expect("metrics were written");
        assert!(samples(&text).values().any(|value| *value > 0));
    }
}
