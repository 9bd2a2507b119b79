//! Device names chosen to do harm, on real devices: in the table, in JSON, in errors and in proposed rules.

mod common;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use common::{BACKENDS, Netns, VXCSUM, names, run};

/// Creates a VXLAN device with any name that needs a change.
fn add(netns: &Netns, vni: u32, name: &[u8]) {
    let vni = vni.to_string();
    let kind = ["type", "vxlan", "id", &vni, "dstport", "8472", "udpcsum"].map(OsStr::new);
    let words = ["link", "add"].map(OsStr::new).into_iter();
    netns.ip_bytes(words.chain([OsStr::from_bytes(name)]).chain(kind));
}

#[test]
fn hostile_names_are_exact_in_json_and_harmless_on_a_terminal() {
    let hostile: [(&[u8], &str, &str); 6] = [
        (b"\x1b[31m", r"\x1b[31m", "\u{1b}[31m"),
        ("🦀🦀🦀".as_bytes(), "🦀🦀🦀", "🦀🦀🦀"),
        (b"vxlan_sys_47890", "vxlan_sys_47890", "vxlan_sys_47890"),
        (b"a\\b", r"a\\b", r"a\b"),
        (b"x\"y", "x\"y", "x\"y"),
        (b"\xffbad", r"\xffbad", r"\xffbad"),
    ];
    for backend in BACKENDS {
        let netns = Netns::new();
        for (vni, (name, ..)) in (1..).zip(&hostile) {
            add(&netns, vni, name);
        }
        for (words, code) in [
            ("status", 0),
            ("--dry-run --exit-code", 2),
            ("apply", 0),
            ("apply", 0),
        ] {
            let run = netns
                .vxcsum(&format!("{words} --backend {backend}"))
                .expect(code);
            let drawing = |c: char| c.is_control() && c != '\n';
            assert!(
                !run.text().contains(drawing) && run.err.is_empty(),
                "{words}: {run:?}"
            );
            for (_, shown, _) in hostile {
                assert!(
                    run.text().contains(shown),
                    "{words}: {shown} in {}",
                    run.text()
                );
            }
        }
        let report = netns
            .vxcsum(&format!("status --json --backend {backend}"))
            .expect(0)
            .json();
        let expected: Vec<_> = hostile.iter().map(|(.., json)| *json).collect();
        assert_eq!(names(&report), expected);
        for (bytes, shown, _) in hostile {
            let name = OsStr::from_bytes(bytes);
            assert!(!netns.is_on(name), "{shown}");
            let explain = |name: &OsStr| {
                run(netns
                    .command(VXCSUM)
                    .args(["explain", "--backend", backend, "--root", netns.root()])
                    .arg(name))
            };
            let explained = explain(name).expect(0);
            assert!(
                explained.text().starts_with(&format!("{shown}: leave")),
                "{}",
                explained.text()
            );
            // The same names in errors.
            netns.ip_bytes([OsStr::new("link"), OsStr::new("del"), name]);
            let gone = explain(name).expect(1);
            let error =
                format!("vxcsum: {shown}: there is no such device in this network namespace");
            assert!(gone.errors().starts_with(&error), "{}", gone.errors());
        }
    }
}

#[test]
fn the_kernel_takes_no_name_with_a_format() {
    // Users can type `%n`, but no device has that name: the kernel reads it as a format.
    let netns = Netns::new();
    let add = run(std::process::Command::new("ip").args([
        "-n",
        netns.name(),
        "link",
        "add",
        "%n",
        "type",
        "vxlan",
        "id",
        "1",
    ]));
    assert_ne!(add.code, 0);
    let status = netns.vxcsum("status --device %n%s").expect(1);
    assert_eq!(
        status.errors(),
        "vxcsum: %n%s: there is no such device in this network namespace, which has no VXLAN or Geneve device\n"
    );
}

#[test]
fn the_rule_that_explain_proposes_does_what_it_says() {
    let hostile: [&[u8]; 8] = [
        b"flannel.1",
        b"a*",
        b"abc",
        b"a[b]",
        b"a\\b",
        b"x\"y",
        "🦀\u{202e}".as_bytes(),
        b"\x1b\xff",
    ];
    let netns = Netns::new();
    for (vni, name) in (1..).zip(hostile) {
        add(&netns, vni, name);
    }
    for (n, name) in hostile.into_iter().enumerate() {
        let root = tempfile::tempdir().expect("make a directory");
        let vxcsum = |words: &[&str], device: &[&OsStr]| {
            run(netns
                .command(VXCSUM)
                .args(words)
                .args(device)
                .arg("--root")
                .arg(root.path()))
            .expect(0)
        };
        let explained = vxcsum(&["explain"], &[OsStr::from_bytes(name)]);
        let (_, advice) = explained
            .text()
            .split_once("50-local.toml:\n")
            .expect("a rule is proposed");
        let rule: Vec<_> = advice
            .lines()
            .take_while(|line| line.starts_with("      "))
            .collect();
        let rule = rule.join("\n");
        assert!(rule.trim_start().starts_with("[[rule]]"), "{rule}");
        let directory = root.path().join("etc/vxcsum/policy.d");
        std::fs::create_dir_all(&directory).expect("make the directory");
        std::fs::write(directory.join("50-local.toml"), &rule).expect("write the rule");
        let report = vxcsum(&["status", "--json"], &[]).json();
        for (other, said) in report["devices"]
            .as_array()
            .expect("devices")
            .iter()
            .enumerate()
        {
            let expected = if other == n {
                ("leave", "rule-never")
            } else {
                ("turn-off", "exposure-unknown")
            };
            let found = (said["action"].as_str(), said["reason"]["code"].as_str());
            assert_eq!(
                found,
                (Some(expected.0), Some(expected.1)),
                "{rule}: {}",
                said["name"]
            );
        }
    }
}
