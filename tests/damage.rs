//! The files that vxcsum keeps and its policy, damaged: cut short, zeroed, and with one byte changed, at every place. No verb panics, each
//! ends with the right exit code, a record that cannot be read is never taken for "nothing was changed", and the next run repairs it.
//!
//! `make test` takes 2 places of each file. `VXCSUM_DAMAGE=100000 cargo test --test damage -- --nocapture` takes all of them, and counts. The
//! unit tests of the decoders take all of them every time.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Netns, Run, VXCSUM, device, run};
use serde_json::Value;

const DEVICES: [&str; 3] = ["a0", "b0", "c0"];

struct Node(Netns);

impl Node {
    fn new() -> Self {
        Self(Netns::with_three())
    }

    fn file(&self, name: &str) -> PathBuf {
        Path::new(self.0.remembering_root()).join(name)
    }

    fn vxcsum(&self, words: &str) -> Run {
        let mut command = self.0.command(VXCSUM);
        command.args(words.split_whitespace());
        let ended = run(command.args(["--root", self.0.remembering_root()]));
        let said = ended.errors().to_owned() + ended.text();
        assert!(!said.contains("panicked") && ended.code < 128, "{said}");
        ended
    }

    fn on(&self) -> [bool; 3] {
        DEVICES.map(|device| self.0.is_on(device))
    }
}

/// Each way, at places evenly spread.
fn damaged(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let wanted = std::env::var("VXCSUM_DAMAGE").map_or(2, |n| n.parse().expect("a number"));
    let step = bytes.len().div_ceil(wanted).max(1);
    let mut out = Vec::new();
    // Not always the same kind of place.
    for at in (0..bytes.len())
        .step_by(step)
        .map(|at| at + at / step * 7 % step)
    {
        if at >= bytes.len() {
            continue;
        }
        let changed = |new: u8| {
            let mut all = bytes.to_vec();
            all[at] = new;
            all
        };
        let zeroed = [&bytes[..at], &vec![0; bytes.len() - at]].concat();
        out.push((format!("cut at {at}"), bytes[..at].to_vec()));
        out.push((format!("zeroes from {at}"), zeroed));
        out.push((format!("a bit of byte {at}"), changed(bytes[at] ^ 1)));
        out.push((format!("byte {at} is 0xff"), changed(0xff)));
    }
    out
}

#[test]
fn a_damaged_record_is_never_no_record() {
    let node = Node::new();
    node.vxcsum("apply").expect(0);
    let record = node.file("run/vxcsum/state.json");
    let aside = node.file("run/vxcsum/state.json.damaged");
    let good = fs::read(&record).expect("read the record");
    let cases = damaged(&good);
    for (how, bytes) in &cases {
        let said = |run: &Run| {
            assert!(
                run.errors().contains("state.json is damaged"),
                "{how}: {}",
                run.errors()
            );
        };
        fs::write(&record, bytes).expect("damage the record");
        for verb in ["status", "explain a0"] {
            said(&node.vxcsum(verb).expect(0));
        }
        said(&node.vxcsum("doctor"));
        let reverted = node.vxcsum("revert").expect(1);
        said(&reverted);
        assert!(aside.exists(), "{how}");
        let again = node.vxcsum("revert").expect(1);
        assert!(
            again.errors().contains("an earlier record that is damaged"),
            "{how}: {}",
            again.errors()
        );
        // The next run works, with a record of its own.
        fs::remove_file(&aside).expect("the damaged record");
        for device in DEVICES {
            node.0.set(device, true);
        }
        node.vxcsum("apply").expect(0);
        assert_eq!(node.on(), [false; 3], "{how}");
        node.vxcsum("revert").expect(0);
        assert_eq!(node.on(), [true; 3], "{how}");
        node.vxcsum("apply").expect(0);
    }
    println!("state.json: {} tried, 0 lost", cases.len());
}

/// Without it the table of kernels or the rules decide, so packets are as safe as before.
#[test]
fn a_damaged_measurement_or_answer_changes_no_decision() {
    let node = Node::new();
    // An answer is kept if it depends on rules.
    let rules = "add table ip t; add chain ip t post { type nat hook postrouting priority 100; }; \
                 add rule ip t post masquerade fully-random";
    run(node.0.command("nft").arg(rules)).expect(0);
    node.vxcsum("apply").expect(0);
    node.vxcsum("probe");
    for name in ["probe.json", "exposure.json"] {
        let file = node.file("run/vxcsum").join(name);
        let good = fs::read(&file).unwrap_or_else(|e| panic!("read {name}: {e}"));
        let wanted = node.vxcsum("status --json").expect(0).json();
        let cases = damaged(&good);
        for (how, bytes) in &cases {
            fs::write(&file, bytes).expect("damage the file");
            let status = node.vxcsum("status --json").expect(0);
            let decided = |report: &Value| {
                let device = device(report, "a0");
                (
                    device["action"].clone(),
                    device["verdict"]["status"].clone(),
                )
            };
            assert_eq!(decided(&status.json()), decided(&wanted), "{name}, {how}");
            for verb in ["apply", "explain a0", "doctor"] {
                node.vxcsum(verb);
            }
            assert_eq!(node.on(), [false; 3], "{name}, {how}");
        }
        println!("{name}: {} tried, 0 lost", cases.len());
        fs::write(&file, &good).expect("repair it");
    }
}

/// A policy that was cut can be a valid shorter one, and it is what the file says. Every other one is an error that names the file.
#[test]
fn a_damaged_policy_is_an_error_or_a_policy() {
    let node = Node::new();
    let file = node.file("etc/vxcsum/policy.toml");
    let good = fs::read(&file).expect("read the policy");
    let mut refused = 0;
    let cases = damaged(&good);
    for (how, bytes) in &cases {
        fs::write(&file, bytes).expect("damage the policy");
        let checked = node.vxcsum("policy check");
        let applied = node.vxcsum("apply");
        if checked.code == 0 {
            applied.expect(0);
        } else {
            refused += 1;
            assert!(
                applied.errors().contains("policy.toml"),
                "{how}: {}",
                applied.errors()
            );
            applied.expect(78);
        }
        node.vxcsum("revert").expect(0);
        assert_eq!(node.on(), [true; 3], "{how}");
    }
    println!(
        "policy.toml: {} tried, {refused} refused, 0 lost",
        cases.len()
    );
}
