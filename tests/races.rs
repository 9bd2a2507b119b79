//! Devices that appear, disappear and change during a run. Each race is made, by stopping vxcsum at the deciding
//! request, and not waited for.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::{BACKENDS, Netns, Request, VXCSUM, device, names};
use serde_json::{Value, json};

/// Applies to `a0`, `b0` and `c0`, and calls `interfere` when vxcsum has read and decided everything and set nothing.
fn with_interference(netns: &Netns, backend: &str, interfere: impl Fn()) -> Value {
    let mut done = false;
    let (run, requests) = netns.stepped(&format!("apply --json --backend {backend}"), |requests| {
        // The last read before the first set.
        let reads = |read| requests.iter().filter(|request| **request == read).count();
        let all_read = reads(Request::Netlink(11)) == 3 || reads(Request::Ioctl(0x3a)) == 3;
        if all_read && !done {
            assert!(
                !requests.iter().any(|request| request.is_set()),
                "{requests:?}"
            );
            interfere();
            done = true;
        }
    });
    assert!(done, "vxcsum was never stopped: {requests:?}");
    // A deleted device is not a failure.
    run.expect(0).json()
}

/// `b0` is gone, the others are changed, and the report says so.
fn only_b0_is_gone(netns: &Netns, report: &Value, backend: &str, text: &str) {
    for name in ["a0", "c0"] {
        assert_eq!(
            device(report, name)["outcome"],
            "changed",
            "{name}, {backend}"
        );
        assert!(!netns.is_on(name), "{name}, {backend}");
    }
    let b0 = device(report, "b0");
    assert_eq!(b0["outcome"], "gone", "{backend}: {b0:#}");
    let error = &b0["error"];
    assert_eq!(error["errno"], "ENODEV", "{backend}: {error}");
    assert!(
        error["text"].as_str().expect("a text").contains(text),
        "{backend}: {error}"
    );
}

/// The ioctl asks one device for the names of all features, so a race on this device is different from the others.
#[test]
fn a_device_deleted_at_any_moment_is_no_failure() {
    for backend in BACKENDS {
        for only in [false, true] {
            let mut moment = 1;
            loop {
                let netns = Netns::with_three();
                if only {
                    netns.batch("link del b0\nlink del c0\n");
                }
                let mut done = false;
                let words = format!("apply --json --backend {backend}");
                let (run, _) = netns.stepped(&words, |requests| {
                    if requests.len() == moment && !done {
                        netns.ip("link del a0");
                        done = true;
                    }
                });
                run.expect(0);
                if !only {
                    assert!(
                        !netns.is_on("b0") && !netns.is_on("c0"),
                        "{moment}, {backend}"
                    );
                }
                if !done {
                    break;
                }
                moment += 1;
            }
            assert!(moment > 4, "{moment}");
        }
    }
}

#[test]
fn a_device_deleted_before_the_set_is_gone() {
    for (backend, text) in [
        ("netlink", "no device matches"),
        ("ioctl", "does not exist any more"),
    ] {
        let netns = Netns::with_three();
        let report = with_interference(&netns, backend, || {
            netns.ip("link del b0");
        });
        only_b0_is_gone(&netns, &report, backend, text);
    }
}

#[test]
fn a_device_renamed_before_the_set_is_gone_and_untouched() {
    for (backend, text) in [("netlink", "do not match"), ("ioctl", "is now called b1")] {
        let netns = Netns::with_three();
        let report = with_interference(&netns, backend, || {
            netns.ip("link set b0 name b1");
        });
        assert!(netns.is_on("b1"), "{backend}");
        only_b0_is_gone(&netns, &report, backend, text);
        // The next run finds the device under its new name.
        let again = netns
            .vxcsum(&format!("apply --json --backend {backend}"))
            .expect(0)
            .json();
        assert_eq!(device(&again, "b1")["outcome"], "changed");
    }
}

#[test]
fn a_new_device_under_the_old_name_is_not_touched() {
    for (backend, text) in [
        ("netlink", "no device matches"),
        ("ioctl", "does not exist any more"),
    ] {
        let netns = Netns::with_three();
        let report = with_interference(&netns, backend, || {
            netns.ip("link del b0");
            netns.ip("link add b0 type vxlan id 99 dstport 8472 udpcsum");
        });
        assert!(netns.is_on("b0"), "{backend}");
        only_b0_is_gone(&netns, &report, backend, text);
    }
}

#[test]
fn two_devices_that_swap_names_are_both_gone_and_untouched() {
    for backend in BACKENDS {
        let netns = Netns::with_three();
        let report = with_interference(&netns, backend, || {
            netns.batch("link set b0 name x0\nlink set c0 name b0\nlink set x0 name c0\n");
        });
        let outcome = |name| device(&report, name)["outcome"].clone();
        assert_eq!(
            ["a0", "b0", "c0"].map(outcome),
            [json!("changed"), json!("gone"), json!("gone")],
            "{backend}"
        );
        assert_eq!(
            ["a0", "b0", "c0"].map(|name| netns.is_on(name)),
            [false, true, true],
            "{backend}"
        );
    }
}

#[test]
fn a_device_of_another_kind_under_the_old_name_is_not_touched() {
    for backend in BACKENDS {
        let netns = Netns::with_three();
        let report = with_interference(&netns, backend, || {
            netns.ip("link del b0");
            netns.ip("link add b0 type bridge");
        });
        assert!(netns.is_on("b0"), "{backend}");
        only_b0_is_gone(&netns, &report, backend, "");
    }
}

#[test]
fn a_device_deleted_after_the_set_is_gone() {
    for backend in BACKENDS {
        let netns = Netns::with_three();
        let mut sets = 0;
        let (run, _) = netns.stepped(&format!("apply --json --backend {backend}"), |requests| {
            let now = requests.iter().filter(|request| request.is_set()).count();
            if sets < 3 && now == 3 {
                netns.ip("link del b0");
            }
            sets = now;
        });
        let report = run.expect(0).json();
        assert_eq!(sets, 3, "{backend}");
        only_b0_is_gone(&netns, &report, backend, "");
    }
}

/// It is gone under its old name, and the record still knows it.
#[test]
fn a_device_renamed_after_the_set_is_given_back() {
    for backend in BACKENDS {
        let netns = Netns::with_three();
        let words = |verb, device| {
            let root = netns.remembering_root();
            [
                VXCSUM,
                verb,
                "--backend",
                backend,
                "--device",
                device,
                "--root",
                root,
            ]
        };
        for (verb, old, new) in [("apply", "b0", "b1"), ("revert", "b1", "b2")] {
            let mut renamed = false;
            netns.step(&words(verb, old), |requests| {
                if !renamed && requests.iter().any(|request| request.is_set()) {
                    netns.ip(&format!("link set {old} name {new}"));
                    renamed = true;
                }
            });
            assert!(renamed, "{verb}, {backend}");
            assert_eq!(netns.is_on(new), verb == "revert", "{verb}, {backend}");
        }
        // Again off, with nothing of the first half left.
        netns.step(&words("apply", "b2"), |_| ());
        let mut renamed = false;
        netns.step(&words("revert", "b2"), |requests| {
            if !renamed && requests.contains(&Request::Capabilities) {
                netns.ip("link set b2 name b3");
                renamed = true;
            }
        });
        assert!(renamed && !netns.is_on("b3"), "{backend}");
        netns.step(&words("revert", "b3"), |_| ());
        assert!(netns.is_on("b3"), "{backend}");
    }
}

#[test]
fn a_feature_that_is_turned_on_again_at_once_is_refused() {
    for backend in BACKENDS {
        let netns = Netns::with_three();
        let drift = |words: &str| {
            let mut sets = 0;
            let (run, _) = netns.stepped(&format!("{words} --backend {backend}"), |requests| {
                let now = requests.iter().filter(|request| request.is_set()).count();
                if sets < 3 && now == 3 {
                    netns.set("b0", true);
                }
                sets = now;
            });
            assert_eq!(sets, 3, "{backend}");
            run.expect(1)
        };
        let report = drift("apply --json").json();
        let outcome = |name| device(&report, name)["outcome"].clone();
        assert_eq!(
            ["a0", "b0", "c0"].map(outcome),
            [json!("changed"), json!("refused"), json!("changed")],
            "{backend}"
        );
        let b0 = device(&report, "b0");
        assert_eq!(
            b0["feature"]["active"], true,
            "the state that was read back, {backend}"
        );
        assert_eq!(b0["also_off"], json!([]), "{backend}");
        assert!(
            b0["error"]["advice"]
                .as_str()
                .expect("advice")
                .contains("ethtool --monitor"),
            "{b0:#}"
        );
        assert_eq!(
            ["a0", "b0", "c0"].map(|name| netns.is_on(name)),
            [false, true, false],
            "{backend}"
        );

        for name in ["a0", "c0"] {
            netns.set(name, true);
        }
        let text = drift("apply");
        assert!(
            text.text().contains("\n2 changed, 1 failed\n"),
            "{}",
            text.text()
        );
        assert!(
            text.text()
                .contains("the kernel accepted it and the feature is still on"),
            "{}",
            text.text()
        );
    }
}

#[test]
fn another_program_that_is_faster_causes_no_failure() {
    for backend in BACKENDS {
        let netns = Netns::with_three();
        let report = with_interference(&netns, backend, || netns.set("b0", false));
        // The kernel accepts a set that changes nothing.
        assert_eq!(device(&report, "b0")["feature"]["active"], false);
        assert_eq!(device(&report, "b0")["error"], Value::Null);
        assert_eq!(
            ["a0", "b0", "c0"].map(|name| netns.is_on(name)),
            [false; 3],
            "{backend}"
        );
    }
}

#[test]
fn devices_that_come_during_a_run_are_left_to_the_next() {
    for backend in BACKENDS {
        let netns = Netns::with_three();
        let report = with_interference(&netns, backend, || {
            netns.ip("link add d0 type vxlan id 4 dstport 8472 udpcsum");
        });
        assert_eq!(names(&report), ["a0", "b0", "c0"]);
        assert!(netns.is_on("d0"), "{backend}");
    }
}

/// More devices than vxcsum requests one by one.
fn with_many(count: usize) -> Netns {
    let netns = Netns::new();
    let lines =
        (0..count).map(|n| format!("link add p{n} type vxlan id {n} dstport 8472 udpcsum\n"));
    netns.batch(&lines.collect::<String>());
    netns
}

/// The link dump is the first netlink request after the look-up of the family. The kernel creates the first part of the
/// answer at the send and the other parts later, so the dump can see or miss a change in between.
fn is_link_dump(requests: &[Request], backend: &str) -> bool {
    let others = requests
        .iter()
        .filter(|request| **request == Request::Other)
        .count();
    requests.last() == Some(&Request::Other) && others > usize::from(backend == "netlink")
}

#[test]
fn a_dump_during_which_a_device_goes_is_repeated() {
    for backend in BACKENDS {
        let netns = with_many(100);
        let words = format!("status --json --backend {backend}");
        let mut dumps = 0;
        let (run, _) = netns.stepped(&words, |requests| {
            if is_link_dump(requests, backend) {
                if dumps == 0 {
                    netns.ip("link del p50");
                }
                dumps += 1;
            }
        });
        let report = run.expect(0).json();
        assert_eq!(dumps, 2, "{backend}");
        let found = names(&report);
        assert!(
            found.len() == 99 && !found.contains(&"p50"),
            "{backend}: {found:?}"
        );

        // The dump is interrupted every time: vxcsum must give up.
        let mut dumps = 0;
        let (run, requests) = netns.stepped(&words, |requests| {
            if is_link_dump(requests, backend) {
                netns.batch("link add t0 type bridge\nlink del t0\n");
                dumps += 1;
            }
        });
        let error = run.expect(1).json()["error"].clone();
        assert!((2..=64).contains(&dumps), "{backend}: {dumps}");
        assert_eq!(error["code"], "kernel");
        let text = error["text"].as_str().expect("a text");
        assert!(
            text.contains("devices kept changing while they were listed"),
            "{text}"
        );
        assert!(!requests.contains(&Request::Netlink(11)), "{requests:?}");
    }
}

#[test]
fn a_device_that_goes_while_the_features_are_dumped_is_gone_and_no_other() {
    let netns = with_many(100);
    let mut dumped = false;
    let (run, _) = netns.stepped("apply --json --backend netlink", |requests| {
        if !dumped && requests.last() == Some(&Request::Netlink(11)) {
            netns.ip("link del p98");
            dumped = true;
        }
    });
    let report = run.expect(0).json();
    assert!(dumped);
    assert_eq!(names(&report).len(), 100);
    for said in report["devices"].as_array().expect("an array") {
        let gone = said["name"] == "p98";
        assert_eq!(
            said["outcome"],
            if gone { "gone" } else { "changed" },
            "{said:#}"
        );
    }
    assert!(!netns.is_on("p99") && !netns.is_on("p0"));
}

/// The kernel marks a dump during which a device appeared or disappeared, because devices may be missing in it. vxcsum
/// must repeat such a dump and never use it.
#[test]
fn a_list_of_devices_is_whole_or_an_error_while_others_come_and_go() {
    const PERMANENT: usize = 300;
    let netns = with_many(PERMANENT);
    let stop = AtomicBool::new(false);
    let churn = || {
        // A dump can skip devices with low ifindexes and with names that come early in the kernel's tables.
        let mut rounds = 0;
        while !stop.load(Ordering::Relaxed) {
            netns.batch("link add t0 type vxlan id 9000 dstport 8472\nlink add t1 type bridge\nlink del t0\nlink del t1\n");
            rounds += 1;
        }
        rounds
    };
    std::thread::scope(|scope| {
        let churn = scope.spawn(churn);
        let mut whole = 0;
        for n in 0..40 {
            let backend = BACKENDS[n % 2];
            let run = netns.vxcsum(&format!("status --json --backend {backend}"));
            let report = run.json();
            if report.get("error").is_some() {
                assert_eq!(run.code, 1, "{report}");
                continue;
            }
            let found = names(&report)
                .iter()
                .filter(|name| name.starts_with('p'))
                .count();
            assert_eq!(found, PERMANENT, "{backend}");
            let read = |device: &&Value| device["outcome"] == "planned";
            let devices = report["devices"].as_array().expect("an array");
            let permanent = devices.iter().filter(|device| {
                device["name"]
                    .as_str()
                    .is_some_and(|name| name.starts_with('p'))
            });
            let read = permanent.filter(read).count();
            if run.code == 0 {
                assert_eq!(read, PERMANENT, "{backend}");
                whole += 1;
            } else {
                assert_eq!(run.code, 1, "{backend}");
            }
        }
        stop.store(true, Ordering::Relaxed);
        let rounds = churn.join().expect("devices came and went");
        println!("{whole} of 40 lists whole in {rounds} rounds of devices that came and went");
        assert!(rounds >= 10, "{rounds}");
    });
}
