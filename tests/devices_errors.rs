//! Errors on real devices: wrong names, missing privileges, a kernel that refuses, files that cannot be read.

mod common;

use std::fs;
use std::path::Path;

use common::{BACKENDS, NOBODY, Netns, Request, VXCSUM, device, names, public_binary, run};
use serde_json::{Value, json};

fn all_on(netns: &Netns) -> Vec<bool> {
    ["a0", "b0", "c0"].map(|name| netns.is_on(name)).to_vec()
}

fn outcomes(report: &Value) -> Vec<&str> {
    let devices = report["devices"].as_array().expect("a report has devices");
    devices
        .iter()
        .map(|device| device["outcome"].as_str().expect("an outcome"))
        .collect()
}

#[test]
fn an_error_names_the_kind_of_a_wrong_device() {
    let netns = Netns::with_three();
    netns.batch("link add veth0 type veth peer name veth1\nlink add br0 type bridge\n");
    for (words, code, error) in [
        (
            "--device a1",
            1,
            "a1: there is no such device in this network namespace; its VXLAN devices are a0, b0, c0",
        ),
        (
            "--device veth0",
            1,
            "veth0: not a VXLAN or Geneve device but a veth",
        ),
        (
            "--device br0",
            1,
            "br0: not a VXLAN or Geneve device but a bridge",
        ),
        (
            "--device lo",
            1,
            "lo: not a VXLAN or Geneve device but a plain network device",
        ),
        (
            "--device a0 --device br0",
            1,
            "br0: not a VXLAN or Geneve device but a bridge",
        ),
        ("--device abcdefghijklmnop", 64, "1 to 15 bytes"),
        ("--device a/b", 64, "1 to 15 bytes"),
        ("--device=", 64, "1 to 15 bytes"),
    ] {
        for backend in BACKENDS {
            let words = format!("apply {words} --backend {backend}");
            let run = netns.vxcsum(&words).expect(code);
            assert!(run.errors().contains(error), "{words}: {}", run.errors());
            assert!(run.out.is_empty(), "{words}: {}", run.text());
            let json = netns.vxcsum(&format!("{words} --json")).expect(code);
            assert!(json.err.is_empty(), "{words}: {}", json.errors());
            let said = &json.json()["error"];
            assert_eq!(said["exit_code"], code, "{words}");
            assert_eq!(
                said["code"],
                if code == 64 { "usage" } else { "device" },
                "{words}"
            );
            assert!(
                said["text"].as_str().expect("a text").contains(error),
                "{words}: {said}"
            );
        }
    }
    assert_eq!(
        all_on(&netns),
        [true; 3],
        "a wrong name among right ones changes nothing"
    );
}

#[test]
fn a_named_device_that_may_be_absent() {
    let netns = Netns::with_three();
    for (words, answer) in [
        (
            "apply --if-exists vx9",
            "OK  there is no VXLAN or Geneve device vx9 here, so there is nothing to do",
        ),
        (
            "apply --if-exists vx9 eth0",
            "OK  there are no VXLAN or Geneve devices vx9, eth0 here, so there is nothing to do",
        ),
        (
            "apply --dry-run --if-exists a0 vx9",
            "\nthere is no VXLAN or Geneve device vx9 here, so there is nothing to do",
        ),
    ] {
        let run = netns.vxcsum(words).expect(0);
        assert!(run.text().contains(answer), "{words}: {}", run.text());
    }
    let report = netns
        .vxcsum("apply --json --if-exists vx9")
        .expect(0)
        .json();
    assert_eq!(report["absent"], serde_json::json!(["vx9"]));
}

#[test]
fn no_device_is_no_error() {
    let netns = Netns::with_underlay();
    for backend in BACKENDS {
        for words in ["apply", "apply --dry-run --exit-code", "status --exit-code"] {
            let run = netns
                .vxcsum(&format!("{words} --backend {backend}"))
                .expect(0);
            assert!(
                run.text()
                    .starts_with("OK  no VXLAN or Geneve devices here"),
                "{}",
                run.text()
            );
            let json = netns
                .vxcsum(&format!("{words} --json --backend {backend}"))
                .expect(0)
                .json();
            assert_eq!(json["devices"], json!([]));
        }
    }
}

#[test]
fn without_capabilities_reading_works_and_changing_ends_before_anything_is_tried() {
    let (_directory, binary) = public_binary();
    let binary = binary.to_str().expect("UTF-8");
    let netns = Netns::with_three();
    for backend in BACKENDS {
        let as_nobody = |words: &str| {
            let command: Vec<&str> = NOBODY
                .into_iter()
                .chain([binary])
                .chain(words.split(' '))
                .chain(["--root", netns.root(), "--backend", backend])
                .collect();
            netns.step(&command, |_| ())
        };
        for (words, code) in [
            ("status", 0),
            ("apply --dry-run", 0),
            ("apply --dry-run --exit-code", 2),
            ("explain a0", 0),
        ] {
            let (run, requests) = as_nobody(words);
            let run = run.expect(code);
            assert!(
                run.text().contains("a0") && run.err.is_empty(),
                "{words}: {run:?}"
            );
            assert!(
                !requests.iter().any(|request| request.is_set()),
                "{words}: {requests:?}"
            );
        }
        let (run, requests) = as_nobody("apply");
        let run = run.expect(77);
        assert_eq!(
            (run.text(), run.errors()),
            (
                "",
                "vxcsum: changing a device needs CAP_NET_ADMIN: run it as root. To look first: vxcsum --dry-run\n"
            )
        );
        assert!(requests.contains(&Request::Capabilities), "{requests:?}");
        assert!(
            !requests.iter().any(|request| request.is_set()),
            "{requests:?}"
        );
        let (run, _) = as_nobody("apply --json");
        assert_eq!(run.expect(77).json()["error"]["code"], "permission");
        assert_eq!(all_on(&netns), [true; 3]);
    }
    for name in ["a0", "b0", "c0"] {
        netns.set(name, false);
    }
    // A run without changes needs no privilege.
    let done = run(netns.command(NOBODY[0]).args(&NOBODY[1..]).args([
        binary,
        "apply",
        "--root",
        netns.root(),
    ]));
    assert!(done.expect(0).text().contains("0 changed"));
}

#[test]
fn a_capability_that_does_not_count_for_this_namespace_is_found_out_by_the_kernel() {
    let netns = Netns::with_three();
    for backend in BACKENDS {
        // A new user namespace gives every capability, but not over a network namespace of the old user namespace.
        let command = [
            "unshare",
            "-U",
            "-r",
            VXCSUM,
            "apply",
            "--json",
            "--root",
            netns.root(),
            "--backend",
            backend,
        ];
        let (run, requests) = netns.step(&command, |_| ());
        let report = run.expect(77).json();
        assert!(
            requests.iter().any(|request| request.is_set()),
            "{requests:?}"
        );
        assert_eq!(outcomes(&report), ["failed"; 3]);
        for device in report["devices"].as_array().expect("an array") {
            let error = &device["error"];
            assert_eq!(
                (&error["errno"], &error["operation"]),
                (&json!("EPERM"), &json!("set tx-checksum-ip-generic off"))
            );
            assert!(
                error["advice"]
                    .as_str()
                    .is_some_and(|advice| advice.contains("CAP_NET_ADMIN")),
                "{error}"
            );
        }
        assert_eq!(all_on(&netns), [true; 3]);
    }
}

#[test]
fn auto_falls_back_only_because_the_interface_is_missing() {
    const MISSING: &str = "socket:error=EPROTONOSUPPORT:when=1";
    let netns = Netns::with_three();
    let report = netns
        .with_faults(&[MISSING], "apply --json")
        .expect(0)
        .json();
    assert_eq!(report["backend"], "ethtool-ioctl");
    assert_eq!(outcomes(&report), ["changed"; 3]);
    assert_eq!(all_on(&netns), [false; 3]);

    let netns = Netns::with_three();
    for (faults, words, error) in [
        (
            &[MISSING][..],
            "apply --backend netlink",
            "no ethtool netlink with features (it came with 5.7); use --backend ioctl or auto",
        ),
        (
            &["socket:error=EPERM:when=1"],
            "apply",
            "look up the ethtool netlink family: Operation not permitted (EPERM)",
        ),
        (&["socket:error=EACCES:when=1"], "apply", "(EACCES)"),
        (&["socket:error=EMFILE:when=1"], "apply", "(EMFILE)"),
        (
            &["sendto:error=EPERM:when=1"],
            "apply",
            "look up the ethtool netlink family: Operation not permitted (EPERM)",
        ),
        // Neither interface works.
        (
            &[MISSING, "ioctl:error=EOPNOTSUPP"],
            "apply",
            "read the names of the features: Operation not supported (EOPNOTSUPP)",
        ),
        (
            &["socket:error=EAFNOSUPPORT"],
            "apply",
            "open a socket for SIOCETHTOOL",
        ),
    ] {
        let run = netns.with_faults(faults, words);
        let forbidden = ["(EPERM)", "(EACCES)"]
            .iter()
            .any(|errno| error.ends_with(errno));
        assert_eq!(
            run.code,
            if forbidden { 77 } else { 1 },
            "{faults:?}: {run:?}"
        );
        assert!(
            run.errors().starts_with("vxcsum: ") && run.errors().contains(error),
            "{faults:?}: {}",
            run.errors()
        );
        assert!(
            run.errors().trim_end().lines().count() == 1 && run.out.is_empty(),
            "{faults:?}: {run:?}"
        );
        assert_eq!(all_on(&netns), [true; 3], "{faults:?}");
    }
}

#[test]
fn a_device_that_fails_stops_no_other() {
    let netns = Netns::with_three();
    let reset = || ["a0", "b0", "c0"].map(|name| netns.set(name, true));
    let (run, requests) = netns.stepped("apply --backend ioctl", |_| ());
    run.expect(0);
    // The number of the ioctl that sets b0.
    let ioctls: Vec<_> = requests
        .iter()
        .filter(|r| matches!(r, Request::Ioctl(_) | Request::OtherIoctl))
        .collect();
    let sets: Vec<_> = (1..)
        .zip(&ioctls)
        .filter(|(_, request)| request.is_set())
        .map(|(n, _)| n)
        .collect();
    assert_eq!(sets.len(), 3, "{ioctls:?}");
    for (errno, outcome, code) in [
        ("EOPNOTSUPP", "failed", 1),
        ("EINVAL", "failed", 1),
        ("EBUSY", "failed", 1),
        ("EPERM", "failed", 77),
        ("ENODEV", "gone", 0),
    ] {
        reset();
        let fault = format!("ioctl:error={errno}:when={}", sets[1]);
        let run = netns
            .with_faults(&[&fault], "apply --json --backend ioctl")
            .expect(code);
        let report = run.json();
        assert_eq!(
            outcomes(&report),
            ["changed", outcome, "changed"],
            "{errno}"
        );
        assert_eq!(all_on(&netns), [false, true, false], "{errno}");
        let error = &device(&report, "b0")["error"];
        assert_eq!(
            (&error["errno"], &error["operation"]),
            (&json!(errno), &json!("set tx-checksum-ip-generic off"))
        );
    }
    reset();
    let fault = format!("ioctl:error=EBUSY:when={}", sets[1]);
    let text = netns
        .with_faults(&[&fault], "apply --backend ioctl")
        .expect(1);
    let said = "vxcsum: b0: set tx-checksum-ip-generic off: Device or resource busy (EBUSY)\n";
    assert_eq!(text.errors(), said, "also where the report is thrown away");
    assert!(
        text.text()
            .contains("error: set tx-checksum-ip-generic off: Device or resource busy (EBUSY)"),
        "{}",
        text.text()
    );
    assert!(
        text.text().starts_with("FAILED  b0: ") && text.text().contains("\n2 changed, 1 failed\n"),
        "{}",
        text.text()
    );
}

/// Every receive fails once with each errno that a receive can have, one after the other. The list of devices is
/// complete, or the run fails.
#[test]
fn a_receive_that_fails_never_makes_the_report_short_or_wrong() {
    let netns = Netns::with_three();
    let mut whole = 0;
    for errno in ["ENOBUFS", "EINTR", "EAGAIN", "ENOMEM"] {
        for n in 1..=14 {
            for backend in BACKENDS {
                for name in ["a0", "b0", "c0"] {
                    netns.set(name, true);
                }
                let fault = format!("recvfrom:error={errno}:when={n}");
                let run =
                    netns.with_faults(&[&fault], &format!("apply --json --backend {backend}"));
                let report = run.json();
                let on = all_on(&netns);
                if report.get("error").is_some() {
                    assert_eq!(
                        (run.code, &on[..]),
                        (1, &[true; 3][..]),
                        "{fault}, {backend}: {report}"
                    );
                    continue;
                }
                assert_eq!(names(&report), ["a0", "b0", "c0"], "{fault}, {backend}");
                for (said, on) in report["devices"]
                    .as_array()
                    .expect("an array")
                    .iter()
                    .zip(&on)
                {
                    // The report matches the devices in both directions.
                    let expected: &[&str] = if *on {
                        &["failed", "refused"]
                    } else {
                        &["changed", "failed"]
                    };
                    let outcome = said["outcome"].as_str().expect("an outcome");
                    assert!(expected.contains(&outcome), "{fault}, {backend}: {said:#}");
                }
                let all_done = outcomes(&report) == ["changed"; 3];
                assert_eq!(
                    run.code,
                    i32::from(!all_done),
                    "{fault}, {backend}: {report:#}"
                );
                whole += usize::from(all_done);
                // vxcsum repeats these two calls.
                assert!(
                    all_done || ["EAGAIN", "ENOMEM"].contains(&errno),
                    "{fault}, {backend}: {report:#}"
                );
            }
        }
    }
    assert!(whole >= 56, "{whole}");
}

/// Creates a file that cannot be read.
type Make = fn(&Path);

#[test]
fn a_file_that_cannot_be_read_is_named_and_the_verdict_is_made_without_it() {
    use std::os::unix::fs::PermissionsExt;

    let netns = Netns::with_three();
    let (_directory, binary) = public_binary();
    let cases: [(&str, Make, &str); 4] = [
        (
            "a directory",
            |path| fs::create_dir(path).expect("make a directory"),
            "Is a directory",
        ),
        (
            "mode 000",
            |path| {
                fs::write(path, "ID=debian\n").expect("write");
                fs::set_permissions(path, fs::Permissions::from_mode(0o000))
                    .expect("set permissions");
            },
            "Permission denied",
        ),
        (
            "huge",
            |path| fs::write(path, "ID=debian\n".repeat(1 << 17)).expect("write"),
            "64 KiB",
        ),
        (
            "a pipe",
            |path| {
                rustix::fs::mknodat(
                    rustix::fs::CWD,
                    path,
                    rustix::fs::FileType::Fifo,
                    0o644.into(),
                    0,
                )
                .expect("make a pipe");
            },
            "not a regular file",
        ),
    ];
    for (name, make, error) in cases {
        let root = tempfile::tempdir().expect("make a directory");
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755))
            .expect("set permissions");
        fs::create_dir(root.path().join("etc")).expect("make a directory");
        let path = root.path().join("etc/os-release");
        make(&path);
        let mut command = netns.command("timeout");
        command
            .arg("10")
            .args(NOBODY)
            .arg(&binary)
            .args(["status", "--json", "--root"])
            .arg(root.path());
        let run = run(&mut command).expect(0);
        let start = format!("vxcsum: read {}: ", path.display());
        let note = run.errors();
        assert!(
            note.starts_with(&start) && note.contains(error),
            "{name}: {note}"
        );
        assert!(
            note.ends_with("; the kernel is judged without it\n") && note.lines().count() == 1,
            "{name}: {note}"
        );
        let report = run.json();
        assert_eq!(report["kernel"]["distribution"]["id"], "", "{name}");
        assert_eq!(
            device(&report, "a0")["verdict"]["status"],
            "affected",
            "{name}"
        );
    }
}

#[test]
fn a_bad_policy_ends_everything_before_any_device_is_looked_at() {
    let netns = Netns::with_three();
    let file = tempfile::NamedTempFile::new().expect("make a file");
    let path = file.path().to_str().expect("UTF-8");
    for text in [
        "version = 1\nunknown-kernal = \"fixed\"\n",
        "version = 9\n",
        "version = 1\n[[rule]]\nname = \"x\"\nwhen = \"sometimes\"\n",
        "not toml",
        "\u{0}\u{1}",
    ] {
        fs::write(file.path(), text).expect("write");
        for backend in BACKENDS {
            for words in ["apply", "status", "explain a0", "--dry-run"] {
                let words = format!("{words} --policy {path} --backend {backend}");
                let (run, requests) = netns.stepped(&words, |_| ());
                let run = run.expect(78);
                // The check whether stderr is a terminal does not count.
                assert!(
                    requests
                        .iter()
                        .all(|request| *request == Request::OtherIoctl),
                    "{words}: {requests:?}"
                );
                assert!(
                    run.out.is_empty() && run.errors().contains(path),
                    "{words}: {run:?}"
                );
            }
        }
        let error = netns
            .vxcsum(&format!("apply --json --policy {path}"))
            .expect(78)
            .json();
        let problems = error["error"]["problems"].as_array().expect("problems");
        assert!(!problems.is_empty(), "{error}");
    }
    assert_eq!(all_on(&netns), [true; 3]);
}

/// A failed look-up of one device is an error: its unit must fail, so that systemd tries again.
#[test]
fn a_look_up_that_fails_is_not_taken_for_no_device() {
    let netns = Netns::with_three();
    let ifindex = netns.links()["b0"]["ifindex"].to_string();
    for backend in BACKENDS {
        for words in [
            format!("apply --uevent {ifindex}:1 --backend {backend}"),
            format!("apply --device b0 --if-exists --backend {backend}"),
        ] {
            let mut failed = 0;
            for when in 1.. {
                let fault = format!("recvfrom:error=EAGAIN:when={when}");
                let run = netns.with_faults(&[&fault], &words);
                if netns.is_on("b0") {
                    failed += 1;
                    assert_ne!(run.code, 0, "{words}, {fault}: {}", run.text());
                    assert!(!run.err.is_empty() || !run.out.is_empty());
                } else {
                    netns.set("b0", true);
                }
                if when == 12 {
                    break;
                }
            }
            assert!(failed > 0, "no fault was met: {words}");
        }
    }
}
