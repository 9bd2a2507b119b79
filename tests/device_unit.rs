//! `apply --device NAME --if-exists`, as the unit of one device runs it: the device may be deleted or replaced by then.

mod common;

use common::{BACKENDS, Netns, Request, device, names};

const NEW_B0: &str = "link del b0\nlink add b0 type vxlan id 99 dstport 8472 udpcsum\n";

fn sets(requests: &[Request]) -> usize {
    requests.iter().filter(|request| request.is_set()).count()
}

#[test]
fn missing_devices_and_other_links_are_no_error() {
    for backend in BACKENDS {
        let netns = Netns::with_three();
        netns.ip("link add br0 type bridge");
        let before = netns.everything();
        for device in ["gone0", "br0"] {
            let words = format!("apply --json --device {device} --backend {backend}");
            let (run, requests) = netns.stepped(&format!("{words} --if-exists"), |_| ());
            let report = run.expect(0).json();
            assert_eq!(names(&report), [""; 0], "{device}");
            assert!(!requests.is_empty() && sets(&requests) == 0, "{requests:?}");
            // Without the flag, a missing device is a usage error.
            netns.vxcsum(&words).expect(1);
        }
        assert_eq!(netns.everything(), before, "{backend}");
    }
}

#[test]
fn a_device_created_again_during_the_run_is_changed_too() {
    for backend in BACKENDS {
        let netns = Netns::with_three();
        let mut done = false;
        let words = format!("apply --json --device b0 --if-exists --backend {backend}");
        let (run, requests) = netns.stepped(&words, |requests| {
            if !done && sets(requests) == 1 {
                netns.batch(NEW_B0);
                done = true;
            }
        });
        let report = run.expect(0).json();
        assert!(done && sets(&requests) == 2, "{requests:?}");
        let b0 = device(&report, "b0");
        assert_eq!(
            (&b0["outcome"], &b0["vni"]),
            (&"changed".into(), &99.into()),
            "{backend}"
        );
        assert_eq!(
            ["a0", "b0", "c0"].map(|name| netns.is_on(name)),
            [true, false, true],
            "{backend}"
        );
    }
}

#[test]
fn a_device_that_comes_during_the_run_is_changed_too() {
    let netns = Netns::with_three();
    netns.ip("link del b0");
    let mut done = false;
    let (run, _) = netns.stepped(
        "apply --json --device b0 --if-exists --backend netlink",
        |requests| {
            // The requests for the ethtool family, the capabilities, and b0.
            if !done && requests.len() == 3 {
                netns.ip("link add b0 type vxlan id 99 dstport 8472 udpcsum");
                done = true;
            }
        },
    );
    assert!(done);
    assert_eq!(device(&run.expect(0).json(), "b0")["outcome"], "changed");
    assert!(!netns.is_on("b0"));
}

#[test]
fn a_device_that_is_replaced_every_time_ends_the_run() {
    let netns = Netns::with_three();
    let mut before = 0;
    let (run, requests) = netns.stepped(
        "apply --device b0 --if-exists --backend netlink",
        |requests| {
            if sets(requests) > before {
                before = sets(requests);
                netns.batch(NEW_B0);
            }
        },
    );
    run.expect(0);
    assert_eq!(sets(&requests), 10);
}

/// A device replaces another during the run. The report still shows the change to the first one.
#[test]
fn changes_of_earlier_rounds_are_reported() {
    let netns = Netns::with_three();
    let mut done = false;
    let (run, _) = netns.stepped(
        "apply --json --device a0 --device b0 --if-exists --backend netlink",
        |requests| {
            if !done && sets(requests) > 0 {
                netns.batch(NEW_B0);
                done = true;
            }
        },
    );
    let report = run.expect(0).json();
    let a0 = device(&report, "a0");
    assert_eq!(
        (&a0["outcome"], &a0["action"], &a0["feature"]["active"]),
        (&"changed".into(), &"turn-off".into(), &false.into()),
        "{a0:#}"
    );
    let b0 = device(&report, "b0");
    assert_eq!(
        (&b0["outcome"], &b0["vni"]),
        (&"changed".into(), &99.into())
    );
    assert_eq!(names(&report).len(), 2);
}
