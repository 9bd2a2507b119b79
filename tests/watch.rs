//! `vxcsum watch` on real devices: its actions and delays, its messages to the service manager, and that it sleeps
//! during unrelated events.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{BACKENDS, Netns, VXCSUM, VXLAN, Watch, device, run};
use rustix::process::Signal;

fn policy(netns: &Netns) -> PathBuf {
    Path::new(netns.remembering_root()).join("etc/vxcsum/policy.toml")
}

fn calls(log: &str, name: &str) -> usize {
    let call = format!("{name}(");
    log.lines().filter(|line| line.starts_with(&call)).count()
}

#[test]
fn with_json_each_change_is_a_report_on_a_line() {
    let netns = Netns::with_three();
    let watch = Watch::start(&netns, "--json");
    netns.ip(&format!("link add flannel.1 type vxlan id 10 {VXLAN}"));
    watch.off("flannel.1");
    watch.settle();
    let printed = watch.printed();
    let reports: Vec<serde_json::Value> = printed
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line is JSON"))
        .collect();
    let changed = |report: &serde_json::Value| -> Vec<String> {
        let devices = report["devices"].as_array().expect("devices");
        let changed = devices.iter().filter(|d| d["outcome"] == "changed");
        changed.map(|d| d["name"].to_string()).collect()
    };
    let changed: Vec<_> = reports.iter().map(changed).collect();
    let first = ["a0", "b0", "c0"].map(|name| format!("{name:?}")).to_vec();
    // The last device comes from `settle`.
    assert_eq!(changed[..2], [first, vec!["\"flannel.1\"".to_owned()]]);
}

#[test]
fn reports_say_whether_a_watch_keeps_the_devices() {
    let (netns, other) = (Netns::with_three(), Netns::with_three());
    let kept = |netns: &Netns| {
        let words = ["status", "--json", "--root", netns.remembering_root()];
        run(netns.command(VXCSUM).args(words)).json()["persistent"].clone()
    };
    assert_eq!(kept(&netns), false);
    let (first, second) = (Watch::start(&netns, ""), Watch::start(&netns, ""));
    assert_eq!((kept(&netns), kept(&other)), (true.into(), false.into()));
    first.stop();
    assert_eq!(kept(&netns), true, "one of two ended");
    second.stop();
    assert_eq!(kept(&netns), false);
}

#[test]
fn devices_are_handled_when_they_come_change_or_drift() {
    for backend in BACKENDS {
        let netns = Netns::with_three();
        let other = Netns::new();
        other.ip(&format!("link add moved0 type vxlan id 50 {VXLAN}"));
        let watch = Watch::start(&netns, &format!("--backend {backend}"));
        for name in ["a0", "b0", "c0"] {
            assert!(!netns.is_on(name), "{name} was there before, {backend}");
        }
        netns.ip(&format!("link add flannel.1 type vxlan id 10 {VXLAN}"));
        watch.off("flannel.1");
        netns.set("flannel.1", true);
        watch.off("flannel.1");

        netns.ip(&format!("link add keep0 type vxlan id 11 {VXLAN}"));
        netns.ip("link add br0 type bridge");
        watch.settle();
        assert!(netns.is_on("keep0") && netns.is_on("br0"), "{backend}");
        netns.ip("link set keep0 name vxlan.calico");
        watch.off("vxlan.calico");

        other.ip(&format!("link set moved0 netns {}", netns.name()));
        watch.off("moved0");
        let errors = watch.stop();
        for name in ["a0", "flannel.1", "vxlan.calico", "moved0"] {
            let line = format!("vxcsum: {name}: turned ");
            let times = errors.lines().filter(|l| l.starts_with(&line)).count();
            assert_eq!(
                times,
                if name == "flannel.1" { 2 } else { 1 },
                "{name}, {backend}: {errors}"
            );
        }
        assert!(!errors.contains("keep0"), "{errors}");
    }
}

#[test]
fn a_device_that_is_created_again_and_again_ends_with_the_feature_off() {
    for backend in BACKENDS {
        let netns = Netns::new();
        let create = format!("link add flannel.1 type vxlan id 1 {VXLAN}\n");
        let again = format!("link del flannel.1\n{create}");
        netns.batch(&create);
        // Nobody reads the messages to the service manager. `watch` must not wait for that.
        let watch = Watch::start(&netns, &format!("--backend {backend}"));
        for _ in 0..25 {
            netns.batch(&again);
            watch.off("flannel.1");
        }
        for count in [2, 5, 50] {
            netns.batch(&again.repeat(count));
            watch.off("flannel.1");
        }
        watch.settle();
        assert!(!netns.is_on("flannel.1"), "{backend}");
        let errors = watch.errors();
        assert!(errors.lines().count() >= 30, "{backend}: {errors}");
        // A device that disappears during a look is not a failure.
        assert!(
            errors
                .lines()
                .all(|line| line.contains(": turned ") || line.contains("watching; ")),
            "{backend}: {errors}"
        );
        watch.stop();
    }
}

/// A long record delays every new device.
#[test]
fn devices_that_go_leave_the_record_at_once() {
    for backend in BACKENDS {
        let (netns, other) = (Netns::with_three(), Netns::new());
        let watch = Watch::start(&netns, &format!("--backend {backend}"));
        let record = Path::new(netns.remembering_root()).join("run/vxcsum/state.json");
        let recorded = || -> Vec<String> {
            let text = fs::read_to_string(&record).expect("read the record");
            let state: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            let devices = state["devices"].as_array().expect("an array");
            devices.iter().map(|d| d["name"].to_string()).collect()
        };
        let has = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| format!("{name:?}")).collect();
            watch.until(&format!("the record is not {names:?}"), || {
                recorded() == names
            });
        };
        has(&["a0", "b0", "c0"]);
        netns.ip("link del b0");
        has(&["a0", "c0"]);
        netns.ip(&format!("link set a0 netns {}", other.name()));
        has(&["c0"]);
        netns.ip(&format!("link add flannel.1 type vxlan id 10 {VXLAN}"));
        has(&["c0", "flannel.1"]);
        netns.ip("link set flannel.1 name renamed0");
        watch.settle();
        has(&["c0", "flannel.1"]);
        watch.stop();
        let revert = ["revert", "--root", netns.remembering_root()];
        run(netns.command(VXCSUM).args(revert)).expect(0);
        assert!(netns.is_on("renamed0") && netns.is_on("c0"), "{backend}");
        assert!(!other.is_on("a0"), "it went as it was, {backend}");
    }
}

#[test]
fn the_policy_is_read_anew_on_sighup_unless_it_is_bad() {
    let netns = Netns::with_three();
    let watch = Watch::start(&netns, "");
    let good = fs::read_to_string(policy(&netns)).expect("read the policy");
    let more =
        format!("{good}\n[[rule]]\nname = \"others\"\ndevice = [\"other*\"]\nwhen = \"never\"\n");
    let reload = |text: &str| {
        fs::write(policy(&netns), text).expect("write the policy");
        watch.signal(Signal::HUP);
        let reloading = watch.message("RELOADING=1");
        let usec = reloading
            .lines()
            .find_map(|line| line.strip_prefix("MONOTONIC_USEC="))
            .expect("Type=notify-reload wants the time");
        assert!(usec.parse::<u64>().expect("a number") > 0);
        watch.message("READY=1")
    };
    let stays_on = |name: &str, vni: u32| {
        netns.ip(&format!("link add {name} type vxlan id {vni} {VXLAN}"));
        watch.settle();
        assert!(netns.is_on(name), "{name}");
    };
    reload(&more);
    stays_on("other0", 20);
    assert!(!watch.errors().contains("refused"));
    for bad in ["version = 1\nnonsense = 1\n", "", "version = 9"] {
        if bad.is_empty() {
            fs::remove_file(policy(&netns)).expect("remove the policy");
            fs::create_dir(policy(&netns)).expect("make a directory");
            watch.signal(Signal::HUP);
            watch.message("READY=1");
            fs::remove_dir(policy(&netns)).expect("remove a directory");
        } else {
            reload(bad);
        }
    }
    stays_on("other1", 21);
    let refused = watch
        .errors()
        .matches("the new policy is refused and the old one stays in force")
        .count();
    assert_eq!(refused, 3, "{}", watch.errors());
    // The new policy changes an existing device.
    let ready = reload(&good);
    assert!(
        ready.contains("STATUS=watching; turned the feature off "),
        "{ready}"
    );
    assert!(!netns.is_on("other0") && !netns.is_on("other1"));
    watch.stop();
}

#[test]
fn the_service_manager_gets_states_and_pings() {
    let netns = Netns::with_three();
    let watch = Watch::start_with(&netns, "", &[], &[("WATCHDOG_USEC", "200000")]);
    let began = Instant::now();
    for _ in 0..5 {
        watch.message("WATCHDOG=1");
    }
    // Half of the time that the service manager allows, and not more often.
    assert!(
        began.elapsed() >= Duration::from_millis(380),
        "{:?}",
        began.elapsed()
    );
    netns.set("b0", true);
    watch.message("STATUS=watching; turned the feature off 4 times");
    watch.stop();

    let watch = Watch::start_with(&netns, "--log", &[], &[]);
    netns.set("b0", true);
    watch.off("b0");
    let errors = watch.stop();
    assert!(
        errors.starts_with("<5>watching; turned the feature off 0 times\n<5>b0: turned "),
        "{errors}"
    );
    assert_eq!(errors.lines().count(), 2, "{errors}");
}

#[test]
fn a_program_that_keeps_turning_it_on_is_left_alone() {
    for backend in BACKENDS {
        let netns = Netns::with_three();
        let watch = Watch::start(&netns, &format!("--backend {backend}"));
        for _ in 0..2 {
            netns.set("b0", true);
            watch.off("b0");
        }
        netns.set("b0", true);
        let said = "vxcsum: b0: another program turned ";
        watch.until("nothing is said", || watch.errors().contains(said));
        assert!(netns.is_on("b0"), "{backend}");
        for on in [false, true] {
            netns.set("b0", on);
            watch.settle();
        }
        assert!(netns.is_on("b0"), "{backend}");
        let mut status = netns.command(VXCSUM);
        status.args(["status", "--json", "--root", netns.remembering_root()]);
        let report = run(&mut status).expect(1).json();
        assert_eq!(device(&report, "b0")["reason"]["code"], "contested");
        // `watch` still handles the other devices.
        netns.set("c0", true);
        watch.off("c0");
        let errors = watch.stop();
        assert_eq!(errors.matches(said).count(), 1, "{backend}: {errors}");
    }
}

/// 2,000 events of devices that do not concern `watch`.
fn churn(netns: &Netns) {
    use std::fmt::Write;
    let mut lines = String::new();
    for n in 0..100 {
        writeln!(lines, "link add v{n} type veth peer name w{n}").expect("write to a string");
    }
    for round in 0..18 {
        for n in 0..100 {
            writeln!(lines, "link set v{n} mtu {}", 1400 + round).expect("write to a string");
        }
    }
    netns.batch(&lines);
}

#[test]
fn it_sleeps_while_nothing_concerns_it() {
    let netns = Netns::with_three();
    let watch = Watch::start_with(&netns, "", &["-s", "0"], &[]);
    let before = watch.log();
    churn(&netns);
    assert_eq!(watch.log(), before, "a system call");
    // `watch` still reacts after that.
    netns.ip(&format!("link add flannel.1 type vxlan id 10 {VXLAN}"));
    watch.off("flannel.1");
    assert!(calls(&watch.log(), "recvfrom") > calls(&before, "recvfrom"));
    watch.stop();

    // Without the filter it receives all events, and does the same.
    let setsockopts: Vec<_> = before
        .lines()
        .filter(|line| line.starts_with("setsockopt("))
        .collect();
    let filter = setsockopts
        .iter()
        .position(|line| line.contains("SO_ATTACH_FILTER"))
        .expect("a filter is attached")
        + 1;
    let fault = format!("--inject=setsockopt:error=EPERM:when={filter}");
    let netns = Netns::with_three();
    let watch = Watch::start_with(&netns, "", &["-s", "0", &fault], &[]);
    let before = calls(&watch.log(), "recvfrom");
    churn(&netns);
    netns.ip(&format!("link add flannel.1 type vxlan id 10 {VXLAN}"));
    watch.off("flannel.1");
    let received = calls(&watch.log(), "recvfrom") - before;
    assert!(received >= 100, "{received}");
    watch.stop();
}

#[test]
fn lost_events_mean_a_look_at_everything() {
    let netns = Netns::with_three();
    let watch = Watch::start(&netns, "");
    let mut lines = String::new();
    for n in 0..4000 {
        lines.push_str(if n % 2 == 0 {
            "link set a0 mtu 1400\n"
        } else {
            "link set a0 mtu 1300\n"
        });
    }
    // The socket has no room for the last events.
    lines.extend([format!("link add late0 type vxlan id 10 {VXLAN}\n")]);
    watch.signal(Signal::STOP);
    netns.batch(&lines);
    netns.set("c0", true);
    watch.signal(Signal::CONT);
    watch.off("late0");
    watch.off("c0");
    let errors = watch.stop();
    let said = "link events came faster than they could be read";
    assert_eq!(errors.matches(said).count(), 1, "{errors}");
}

/// The expected counts come from a run without faults.
#[test]
fn a_failed_look_is_repeated() {
    let netns = Netns::with_three();
    let watch = Watch::start_with(&netns, "", &["-s", "0"], &[]);
    let calm = watch.log();
    watch.stop();
    // The last is about the features of one device, after the list: the look as a whole did not fail.
    for (call, later, error, said) in [
        ("recvfrom", 0, "ENOBUFS", "link events came faster"),
        ("recvfrom", 0, "ENOMEM", "read link events"),
        ("sendto", 0, "ENOMEM", "trying again"),
        ("sendto", 1, "ENOMEM", "read the features"),
    ] {
        let next = calls(&calm, call) + 1;
        let fault = format!("--inject={call}:error={error}:when={}", next + later);
        // On a busy machine the answers of the kernel may come in more parts. Then the fault hit another call.
        let met = (0..20).any(|_| {
            let netns = Netns::with_three();
            let watch = Watch::start_with(&netns, "", &["-s", "0", &fault], &[]);
            if calls(&watch.log(), call) + 1 != next {
                return false;
            }
            netns.ip(&format!("link add flannel.1 type vxlan id 10 {VXLAN}"));
            watch.off("flannel.1");
            let errors = watch.stop();
            assert_eq!(errors.matches(said).count(), 1, "{call}, {error}: {errors}");
            true
        });
        assert!(met, "{call}");
    }
}

#[test]
fn watch_starts_only_if_it_can_work() {
    let netns = Netns::with_three();
    fs::write(policy(&netns), "nonsense").expect("write the policy");
    let mut command = netns.command(VXCSUM);
    command.args(["watch", "--root", netns.remembering_root()]);
    run(&mut command).expect(78);
    netns.denied("watch");
}
