//! Both directions, on real devices. vxcsum turns features on again that it turned off and that need not be off any
//! more, whatever came first: rules, device or peers. Features that another program turned off stay off.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{BACKENDS, FEATURE, Netns, VXCSUM, Watch, device, run};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Over a veth no device is ever `not-exposed`, so the policy says how to treat an unknown exposure.
const POLICY: &str = "version = 1\nunknown-exposure = \"not-exposed\"\ngive-back-after = \"2s\"\n\
    [[rule]]\nname = \"of the harness\"\ndevice = [\"settle*\"]\nwhen = \"always\"\n\
    [[kernel]]\nrelease = \"*\"\nbug = \"nat-zero-csum\"\nstatus = \"fixed\"\n\
    [[kernel]]\nrelease = \"*\"\nbug = \"nat-lco-csum\"\nstatus = \"affected\"\n";
const NEVER: &str = "[[rule]]\nname = \"off\"\nwhen = \"never\"\n";
const GIVE_BACK_AFTER: Duration = Duration::from_secs(2);

fn policy_path(netns: &Netns) -> PathBuf {
    Path::new(netns.remembering_root()).join("etc/vxcsum/policy.toml")
}

/// A node with an underlay and this policy.
fn node(policy: &str) -> Netns {
    let netns = Netns::with_underlay();
    fs::write(policy_path(&netns), policy).expect("write the policy");
    netns
}

fn add(netns: &Netns, name: &str, vni: u32) {
    netns.ip(&format!(
        "link add {name} type vxlan id {vni} local 192.0.2.1 dev eth0 dstport 8472 nolearning udpcsum"
    ));
}

fn add_rules(netns: &Netns) {
    for words in [
        "add table ip t",
        "add chain ip t post { type nat hook postrouting priority 100 ; }",
        "add rule ip t post oifname eth0 masquerade fully-random",
    ] {
        run(netns.command("nft").args(words.split(' '))).expect(0);
    }
}

fn delete_rules(netns: &Netns) {
    run(netns.command("nft").args(["delete", "table", "ip", "t"])).expect(0);
}

/// A node whose device a0 is exposed to NAT.
fn exposed() -> Netns {
    let netns = node(POLICY);
    add(&netns, "a0", 1);
    netns.add_peer("a0");
    add_rules(&netns);
    netns
}

/// Runs vxcsum with the record of the run before.
#[track_caller]
fn vxcsum(netns: &Netns, words: &str) -> Value {
    let root = ["--json", "--root", netns.remembering_root()];
    let mut command = netns.command(VXCSUM);
    run(command.args(words.split(' ')).args(root))
        .expect(0)
        .json()
}

#[track_caller]
fn check(report: &Value, name: &str, action: &str, code: &str, outcome: &str) {
    let said = device(report, name);
    assert_eq!(
        [&said["action"], &said["reason"]["code"], &said["outcome"]],
        [action, code, outcome],
        "{said:#}"
    );
}

fn record(netns: &Netns) -> Value {
    let path = Path::new(netns.remembering_root()).join("run/vxcsum/state.json");
    let text = fs::read_to_string(path).expect("read the record");
    serde_json::from_str(&text).expect("JSON")
}

fn has_follow_up(netns: &Netns) -> bool {
    let root = Path::new(netns.remembering_root());
    root.join("run/vxcsum/no-peers").exists()
}

/// A node after vxcsum has turned the offload of a0 off.
fn turned_off() -> Netns {
    let netns = exposed();
    check(
        &vxcsum(&netns, "apply"),
        "a0",
        "turn-off",
        "exposed",
        "changed",
    );
    netns
}

/// On a node without the bug, nothing advises a cure.
#[test]
fn what_is_not_needed_any_more_is_called_that() {
    let netns = turned_off();
    let fixed = POLICY.replace("affected", "fixed");
    fs::write(policy_path(&netns), fixed).expect("write the policy");
    let answer = "OK  1 VXLAN device: no packet can be corrupted. The change of a0 is not needed any more. Undo it: vxcsum apply\n";
    for verb in ["status", "doctor"] {
        let mut command = netns.command(VXCSUM);
        let ended = run(command.args([verb, "--root", netns.remembering_root()])).expect(0);
        let text = ended.text();
        assert!(text.starts_with(answer), "{text}");
        if verb == "doctor" {
            assert!(
                text.contains("1. undo what is not needed any more"),
                "{text}"
            );
            assert!(!text.contains("\n  2. "), "{text}");
        }
    }
    let mut command = netns.command(VXCSUM);
    let ended = run(command.args(["revert", "--root", netns.remembering_root()])).expect(0);
    assert!(
        ended.text().contains("if it still must be off"),
        "{}",
        ended.text()
    );
    check(
        &vxcsum(&netns, "apply"),
        "a0",
        "leave",
        "not-exposed",
        "unchanged",
    );
}

#[test]
fn a_new_policy_gives_features_back_at_once() {
    for backend in BACKENDS {
        let netns = node(POLICY);
        for (name, vni) in [("a0", 1), ("b0", 2)] {
            add(&netns, name, vni);
            netns.add_peer(name);
        }
        add_rules(&netns);
        netns.set("b0", false);
        let before = netns.everything();
        let apply = format!("apply --backend {backend}");
        let report = vxcsum(&netns, &apply);
        check(&report, "a0", "turn-off", "exposed", "changed");
        check(&report, "b0", "leave", "already-off", "unchanged");

        fs::write(policy_path(&netns), format!("{POLICY}{NEVER}")).expect("write the policy");
        let off = netns.everything();
        for words in ["apply --dry-run", "status"] {
            let report = vxcsum(&netns, &format!("{words} --backend {backend}"));
            check(&report, "a0", "turn-on", "rule-never", "planned");
            check(&report, "b0", "leave", "rule-never", "unchanged");
            let also = &device(&report, "a0")["also_on"];
            assert!(
                also.as_array().is_some_and(|also| !also.is_empty()),
                "{also}"
            );
        }
        let root = ["--root", netns.remembering_root()];
        let mut dry = netns.command(VXCSUM);
        let dry = run(dry.args(["apply", "--dry-run", "--exit-code"]).args(root)).expect(2);
        assert!(
            dry.text()
                .contains(&format!("{FEATURE} would be turned on:"))
                && dry.text().contains("vxcsum turned it off"),
            "{}",
            dry.text()
        );
        assert_eq!(netns.everything(), off, "these change nothing");

        let report = vxcsum(&netns, &apply);
        check(&report, "a0", "turn-on", "rule-never", "changed");
        assert_eq!(netns.everything(), before, "{backend}");
        assert_eq!(record(&netns)["devices"], json!([]));
        let report = vxcsum(&netns, &apply);
        check(&report, "a0", "leave", "rule-never", "unchanged");
    }
}

#[test]
fn an_unexposed_device_is_given_back_after_a_quiet_time() {
    let netns = turned_off();
    // A firewall reloads.
    delete_rules(&netns);
    let quiet = |report: &Value| {
        check(
            report,
            "a0",
            "leave",
            "exposure-unknown-not-exposed",
            "unchanged",
        );
    };
    quiet(&vxcsum(&netns, "apply"));
    add_rules(&netns);
    std::thread::sleep(GIVE_BACK_AFTER);
    check(
        &vxcsum(&netns, "apply"),
        "a0",
        "leave",
        "already-off",
        "unchanged",
    );
    delete_rules(&netns);
    let report = vxcsum(&netns, "apply");
    quiet(&report);
    let text = device(&report, "a0")["reason"]["text"].to_string();
    assert!(text.contains("turns it on again after 2 seconds"), "{text}");
    quiet(&vxcsum(&netns, "status"));
    assert!(!netns.is_on("a0"));
    std::thread::sleep(GIVE_BACK_AFTER);
    let report = vxcsum(&netns, "status");
    check(
        &report,
        "a0",
        "turn-on",
        "exposure-unknown-not-exposed",
        "planned",
    );
    let report = vxcsum(&netns, "apply");
    check(
        &report,
        "a0",
        "turn-on",
        "exposure-unknown-not-exposed",
        "changed",
    );
    assert!(netns.is_on("a0"));

    let never = POLICY.replace("\"2s\"", "\"never\"");
    fs::write(policy_path(&netns), never).expect("write the policy");
    add_rules(&netns);
    check(
        &vxcsum(&netns, "apply"),
        "a0",
        "turn-off",
        "exposed",
        "changed",
    );
    delete_rules(&netns);
    for _ in 0..2 {
        quiet(&vxcsum(&netns, "apply"));
        std::thread::sleep(GIVE_BACK_AFTER);
    }
    assert!(!netns.is_on("a0"));
}

#[test]
fn giving_back_is_no_flip() {
    let netns = exposed();
    for _ in 0..5 {
        fs::write(policy_path(&netns), POLICY).expect("write the policy");
        check(
            &vxcsum(&netns, "apply"),
            "a0",
            "turn-off",
            "exposed",
            "changed",
        );
        fs::write(policy_path(&netns), format!("{POLICY}{NEVER}")).expect("write the policy");
        check(
            &vxcsum(&netns, "apply"),
            "a0",
            "turn-on",
            "rule-never",
            "changed",
        );
    }
}

/// A user turns the feature on while it need not be off. From then on vxcsum leaves it alone.
#[test]
fn later_changes_by_others_are_not_touched() {
    let netns = exposed();
    vxcsum(&netns, "apply");
    delete_rules(&netns);
    netns.set("a0", true);
    vxcsum(&netns, "apply");
    netns.set("a0", false);
    std::thread::sleep(GIVE_BACK_AFTER);
    for _ in 0..2 {
        let report = vxcsum(&netns, "apply");
        check(
            &report,
            "a0",
            "leave",
            "exposure-unknown-not-exposed",
            "unchanged",
        );
    }
    assert!(!netns.is_on("a0"));
}

/// Rules, device and peers in any order. Before the first peer the offload stays as it is, and the final state is the
/// same.
#[test]
fn every_order_of_events_ends_the_same() {
    type Step = fn(&Netns);
    let steps: [(&str, Step); 3] = [
        ("rules", add_rules),
        ("device", |netns| add(netns, "a0", 1)),
        ("peers", |netns| netns.add_peer("a0")),
    ];
    for order in [[0, 1, 2], [1, 0, 2], [1, 2, 0]] {
        for by_watch in [false, true] {
            let names = order.map(|n| steps[n].0);
            let netns = node(POLICY);
            let watch = by_watch.then(|| Watch::start(&netns, ""));
            for n in order {
                let (name, step) = steps[n];
                step(&netns);
                match &watch {
                    Some(watch) => watch.settle(),
                    None => {
                        vxcsum(&netns, "apply");
                    }
                }
                let peers = name == "peers" || order[..2].contains(&2) && name == "rules";
                let known = netns.links().contains_key("a0");
                if known && !peers {
                    assert!(
                        netns.is_on("a0"),
                        "{names:?}, watch {by_watch}, after {name}"
                    );
                    let report = vxcsum(&netns, "status");
                    check(&report, "a0", "leave", "no-peers-yet", "unchanged");
                    if !by_watch {
                        assert!(has_follow_up(&netns), "{names:?}");
                    }
                }
            }
            if let Some(watch) = &watch {
                watch.off("a0");
            }
            assert!(!netns.is_on("a0"), "{names:?}, watch {by_watch}");
            if !by_watch {
                assert!(!has_follow_up(&netns), "{names:?}");
            }
        }
    }
}

/// vxcsum reacts faster than a person notices, without waiting for the timer.
#[test]
fn watch_sees_the_first_peer_at_once_and_sleeps_before_and_after() {
    let netns = node(POLICY);
    add_rules(&netns);
    add(&netns, "a0", 1);
    let watch = Watch::traced(&netns, "poll,ppoll");
    netns.batch(
        "link add br0 type bridge\nlink add p0 type veth peer name p1\nlink set p0 master br0\n",
    );
    // vxcsum reads the rules once more when it starts to listen for changes.
    std::thread::sleep(Duration::from_secs(1));
    let _ = watch.log();
    let asleep = watch.waits();
    for n in 0..20 {
        let words = format!("fdb add 02:00:00:00:01:{n:02x} dev p0 master");
        run(netns.command("bridge").args(words.split(' '))).expect(0);
    }
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(watch.waits(), asleep, "entries of a bridge woke it up");
    assert!(netns.is_on("a0"));
    let begin = Instant::now();
    netns.add_peer("a0");
    watch.off("a0");
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    // vxcsum reads the rules once more when it starts to listen for changes.
    std::thread::sleep(Duration::from_secs(1));
    let _ = watch.log();
    let asleep = watch.waits();
    for n in 0..20 {
        let words = format!("fdb append 02:00:00:00:02:{n:02x} dev a0 dst 192.0.2.3");
        run(netns.command("bridge").args(words.split(' '))).expect(0);
    }
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(watch.waits(), asleep, "nobody listens any more");
}

#[test]
fn watch_gives_back_when_the_time_is_over() {
    let netns = exposed();
    let watch = Watch::start(&netns, "");
    assert!(!netns.is_on("a0"));
    delete_rules(&netns);
    // The look for the change of rules comes within ten seconds, and the next look when the delay is over.
    let end = Instant::now() + Duration::from_secs(30);
    while !netns.is_on("a0") {
        assert!(Instant::now() < end, "{}", watch.errors());
        std::thread::sleep(Duration::from_millis(50));
    }
    // A new policy takes effect immediately.
    add_rules(&netns);
    let end = Instant::now() + Duration::from_secs(30);
    while netns.is_on("a0") {
        assert!(Instant::now() < end, "{}", watch.errors());
        std::thread::sleep(Duration::from_millis(50));
    }
    fs::write(policy_path(&netns), format!("{POLICY}{NEVER}")).expect("write the policy");
    watch.signal(Signal::HUP);
    watch.until("a0 is still off", || netns.is_on("a0"));
    let errors = watch.stop();
    let on = errors
        .lines()
        .filter(|line| line.contains("a0: turned tx-checksum-ip-generic on again"));
    assert_eq!(on.count(), 2, "{errors}");
}

/// A device with unknown destinations keeps its state.
#[test]
fn only_a_device_without_peers_waits() {
    let netns = node(POLICY);
    add_rules(&netns);
    for (name, words) in [
        ("learn0", "id 1 local 192.0.2.1 dev eth0 learning"),
        ("group0", "id 2 group 239.1.1.1 dev eth0 nolearning"),
        (
            "remote0",
            "id 3 remote 192.0.2.2 local 192.0.2.1 dev eth0 nolearning",
        ),
        ("ext0", "external nolearning"),
    ] {
        netns.ip(&format!("link add {name} type vxlan {words} dstport 8472"));
        let report = vxcsum(&netns, "status");
        assert_ne!(
            device(&report, name)["reason"]["code"],
            "no-peers-yet",
            "{name}"
        );
    }
}
