//! Undo: vxcsum turns on again what it turned off, and nothing else. And the record that it uses, in every condition.

mod common;

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{BACKENDS, Netns, Request, Run, VXCSUM, device, names, run};
use rustix::fs::{FileType, FlockOperation, Mode, flock, mknodat};
use serde_json::{Value, json};

const THREE: [&str; 3] = ["a0", "b0", "c0"];

/// Puts something in the place of the record.
type Make<'a> = Box<dyn Fn(&Path) + 'a>;

fn command(netns: &Netns, words: &str) -> Command {
    let mut command = netns.command(VXCSUM);
    command
        .args(words.split_whitespace())
        .args(["--root", netns.remembering_root()]);
    command
}

/// Runs vxcsum with the record of the run before.
#[track_caller]
fn vxcsum(netns: &Netns, words: &str) -> Run {
    run(&mut command(netns, words))
}

fn record_path(netns: &Netns) -> PathBuf {
    Path::new(netns.remembering_root()).join("run/vxcsum/state.json")
}

/// A record that a test may edit: its sum, the first key, shows every change.
fn without_sum(record: &str) -> String {
    let (sum, rest) = record.split_once(',').expect("a record has several keys");
    assert!(sum.starts_with("{\"sum\":"), "{record}");
    format!("{{{rest}")
}

/// The names in the record. The record must be a valid one of this boot.
#[track_caller]
fn recorded(netns: &Netns) -> Vec<String> {
    let text = fs::read_to_string(record_path(netns)).expect("read the record");
    let state: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e} in {text}"));
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("read the boot id");
    assert_eq!(state["boot_id"], boot_id.trim());
    let name = |entry: &Value| entry["name"].as_str().expect("a name").to_owned();
    let devices = state["devices"].as_array().expect("an array");
    devices.iter().map(name).collect()
}

fn on(netns: &Netns) -> [bool; 3] {
    THREE.map(|name| netns.is_on(name))
}

/// Works for every feature in the record, through both interfaces of the kernel.
#[test]
fn revert_gives_back_the_feature_that_the_record_names() {
    use vxcsum::ethtool::backend_io::{Backend, Choice};
    use vxcsum::ethtool::{BackendName, Feature, FeatureTable};
    use vxcsum::text::IfName;

    const FRAGLIST: &str = "tx-scatter-gather-fraglist";
    for backend in BACKENDS {
        let netns = Netns::with_three();
        let before = netns.everything();
        vxcsum(&netns, "apply --device a0").expect(0);
        netns.set("a0", true);
        assert_eq!(netns.everything(), before);
        let path = record_path(&netns);
        let text = fs::read_to_string(&path).expect("read the record");
        let mut state: Value = serde_json::from_str(&without_sum(&text)).expect("a record");
        state["devices"][0]["feature"] = json!(FRAGLIST);
        state["devices"][0]["also_off"] = json!([]);
        fs::write(&path, state.to_string()).expect("write the record");

        let ifindex = netns.links()["a0"]["ifindex"].as_u64();
        let ifindex = u32::try_from(ifindex.expect("a number")).expect("an ifindex");
        netns.enter(|| {
            let name = IfName::new(b"a0").expect("a name");
            let interface = if backend == "ioctl" {
                BackendName::Ioctl
            } else {
                BackendName::Netlink
            };
            let mut backend = Backend::open(Choice::Only(interface)).expect("open the backend");
            let names = backend.feature_names(&name).expect("read the names");
            let count = u32::try_from(names.len()).expect("few features");
            let table = FeatureTable { names };
            let index = table.index(Feature::Fraglist).expect("VXLAN has it");
            let set = backend.set(
                &[(ifindex, &name)],
                Feature::Fraglist,
                (index, count),
                false,
            );
            assert!(set[0].is_ok(), "{set:?}");
        });
        assert!(!netns.ethtool("a0")[FRAGLIST].active, "{backend}");
        assert!(netns.is_on("a0"), "no other feature goes with it");

        let said = vxcsum(&netns, &format!("revert --backend {backend}")).expect(0);
        let title = format!("{FRAGLIST} was turned on:");
        assert!(said.text().contains(&title), "{}", said.text());
        assert_eq!(netns.everything(), before, "{backend}");
        assert!(recorded(&netns).is_empty());
    }
}

#[test]
fn revert_gives_back_what_apply_turned_off_and_nothing_else() {
    for backend in BACKENDS {
        let netns = Netns::with_three();
        netns.ip("link add keep0 type vxlan id 9 dstport 8472 udpcsum");
        // Turned off by other means: the feature itself, a dependent feature, and the feature of a device that vxcsum
        // leaves alone.
        netns.set("b0", false);
        netns.set("keep0", false);
        let tso = ["-K", "c0", "tx-tcp-segmentation", "off"];
        run(netns.command("ethtool").args(tso)).expect(0);
        let before = netns.everything();

        vxcsum(&netns, &format!("apply --backend {backend}")).expect(0);
        assert_eq!(on(&netns), [false; 3]);
        assert_eq!(recorded(&netns), ["a0", "c0"]);
        let applied = netns.everything();

        let dry = vxcsum(
            &netns,
            &format!("revert --dry-run --json --backend {backend}"),
        );
        let report = dry.expect(0).json();
        assert_eq!(device(&report, "a0")["action"], "turn-on");
        assert_eq!(device(&report, "b0")["action"], "leave");
        assert_eq!(netns.everything(), applied, "a dry run, {backend}");
        assert_eq!(recorded(&netns), ["a0", "c0"]);

        vxcsum(&netns, &format!("revert --device b0 --backend {backend}")).expect(0);
        assert_eq!(netns.everything(), applied, "{backend}");
        vxcsum(&netns, &format!("revert --device a0 --backend {backend}")).expect(0);
        assert_eq!(on(&netns), [true, false, false]);
        assert_eq!(recorded(&netns), ["c0"]);

        let run = vxcsum(&netns, &format!("revert --json --backend {backend}"));
        let report = run.expect(0).json();
        assert_eq!(device(&report, "c0")["outcome"], "changed");
        assert_eq!(netns.everything(), before, "{backend}");
        assert!(recorded(&netns).is_empty());
        // A second revert has nothing to do.
        vxcsum(&netns, &format!("revert --backend {backend}")).expect(0);
        assert_eq!(netns.everything(), before, "{backend}");
    }
}

#[test]
fn without_a_record_there_is_nothing_to_do() {
    let netns = Netns::with_three();
    netns.set("b0", false);
    let before = netns.everything();
    let report = vxcsum(&netns, "revert --json").expect(0).json();
    assert_eq!(names(&report), THREE);
    for name in THREE {
        let said = device(&report, name);
        assert_eq!(
            (&said["action"], &said["outcome"]),
            (&json!("leave"), &json!("unchanged"))
        );
    }
    assert_eq!(netns.everything(), before);
    assert!(!record_path(&netns).exists());
    let empty = Netns::new();
    vxcsum(&empty, "revert").expect(0);
    vxcsum(&netns, "revert --device gone0").expect(1);
}

#[test]
fn a_device_is_identified_by_its_ifindex() {
    for backend in BACKENDS {
        let netns = Netns::with_three();
        vxcsum(&netns, &format!("apply --backend {backend}")).expect(0);
        netns.batch(
            "link set a0 name x0\n\
             link del b0\n\
             link add b0 type vxlan id 2 dstport 8472 udpcsum\n\
             link del c0\n",
        );
        netns.set("b0", false);
        let report = vxcsum(&netns, &format!("revert --json --backend {backend}"))
            .expect(0)
            .json();
        assert_eq!(device(&report, "x0")["outcome"], "changed", "{backend}");
        assert_eq!(
            device(&report, "b0")["reason"]["code"],
            "not-turned-off-by-vxcsum",
            "{backend}"
        );
        assert!(netns.is_on("x0") && !netns.is_on("b0"), "{backend}");
        assert!(recorded(&netns).is_empty());
    }
}

#[test]
fn revert_forgets_features_that_others_turned_on() {
    let netns = Netns::with_three();
    vxcsum(&netns, "apply").expect(0);
    netns.set("b0", true);
    let report = vxcsum(&netns, "revert --json").expect(0).json();
    assert_eq!(device(&report, "b0")["reason"]["code"], "already-on");
    assert!(recorded(&netns).is_empty());
    // A user turned it off later, so it does not belong to vxcsum any more.
    netns.set("b0", false);
    vxcsum(&netns, "revert").expect(0);
    assert_eq!(on(&netns), [true, false, true]);
}

#[test]
fn devices_that_are_gone_leave_the_record() {
    let netns = Netns::with_three();
    vxcsum(&netns, "apply").expect(0);
    netns.batch("link del a0\nlink del b0\nlink del c0\n");
    vxcsum(&netns, "apply --device c0 --if-exists").expect(0);
    assert_eq!(recorded(&netns), THREE, "only who looks at all can tell");
    vxcsum(&netns, "apply").expect(0);
    assert!(recorded(&netns).is_empty());
}

/// Removing the package must work with any policy.
#[test]
fn a_policy_that_is_not_valid_keeps_nothing_from_being_given_back() {
    let netns = Netns::with_three();
    vxcsum(&netns, "apply").expect(0);
    let policy = Path::new(netns.remembering_root()).join("etc/vxcsum/policy.toml");
    fs::write(policy, "nonsense").expect("write the policy");
    vxcsum(&netns, "apply").expect(78);
    let reverted = vxcsum(&netns, "revert").expect(0);
    assert!(
        reverted.errors().contains("the policy is not valid"),
        "{}",
        reverted.errors()
    );
    for name in ["a0", "b0", "c0"] {
        assert!(netns.is_on(name), "{name}");
    }
    assert!(recorded(&netns).is_empty());
}

#[test]
fn without_privileges_nothing_is_given_back() {
    let netns = Netns::with_three();
    vxcsum(&netns, "apply").expect(0);
    netns.denied("revert");
    assert_eq!(on(&netns), [false; 3]);
    assert_eq!(recorded(&netns), THREE);
}

/// The set succeeded and the read-back failed: the record must have the device.
#[test]
fn a_change_whose_result_is_not_known_is_given_back() {
    let netns = Netns::with_three();
    let words = "--device b0 --backend ioctl";
    let log = tempfile::NamedTempFile::new().expect("make a file");
    let mut command = netns.command("strace");
    command
        .args(["-f", "-e", "trace=ioctl", "-o"])
        .arg(log.path());
    command.args([VXCSUM, "apply"]).args(words.split(' '));
    run(command.args(["--root", netns.root()])).expect(0);
    let text = fs::read_to_string(log.path()).expect("read the log");
    let calls: Vec<_> = text
        .lines()
        .filter(|line| line.contains("ioctl("))
        .collect();
    let last = calls.iter().rposition(|call| call.contains("SIOCETHTOOL"));
    let last = last.expect("vxcsum asks by ioctl") + 1;
    vxcsum(&netns, "revert").expect(0);

    // The last ioctl is the read-back.
    let fault = format!("ioctl:error=ENOMEM:when={last}");
    let report = netns
        .with_faults(&[&fault], &format!("apply --json {words}"))
        .expect(1)
        .json();
    assert_eq!(device(&report, "b0")["outcome"], "failed");
    assert_eq!(on(&netns), [true, false, true]);
    vxcsum(&netns, "revert").expect(0);
    assert_eq!(on(&netns), [true; 3]);
}

/// vxcsum also backs off from a program that turns the feature on again immediately, every time.
#[test]
fn a_change_undone_at_once_counts_as_a_flip() {
    let netns = Netns::with_three();
    let root = netns.remembering_root();
    for round in 0..4 {
        let mut sets = 0;
        // Runs as a unit does: a user who names a device gets it changed once more.
        let command = [
            VXCSUM, "apply", "--json", "--log", "--device", "b0", "--root", root,
        ];
        let (run, _) = netns.step(&command, |requests| {
            let now = requests.iter().filter(|request| request.is_set()).count();
            if now > sets {
                netns.set("b0", true);
            }
            sets = now;
        });
        let report = run.expect(1).json();
        let b0 = device(&report, "b0");
        assert_eq!(b0["outcome"], "refused");
        assert_eq!(
            (sets, b0["reason"]["code"] == "contested"),
            if round < 3 { (1, false) } else { (0, true) },
            "round {round}: {b0:#}"
        );
    }
}

/// vxcsum's own failures do not count as changes by another program.
#[test]
fn a_change_that_failed_is_no_flip() {
    let netns = Netns::with_three();
    let words = "apply --json --device b0 --backend ioctl";
    let root = netns.remembering_root();
    let (_, requests) = netns.stepped("apply --device b0 --backend ioctl", |_| ());
    netns.set("b0", true);
    // The set, and the calls after it.
    let mut ioctls = requests
        .iter()
        .filter(|request| matches!(request, Request::Ioctl(_) | Request::OtherIoctl));
    let set = ioctls.position(|request| request.is_set());
    let set = set.expect("vxcsum sets by ioctl") + 1;
    for round in 0..4 {
        let fault = format!("--inject=ioctl:error=ENOMEM:when={set}+");
        let mut command = netns.command("strace");
        command.args(["-f", "-o", "/dev/null", &fault, "--", VXCSUM]);
        let failed = run(command.args(words.split(' ')).args(["--root", root])).expect(1);
        let report = failed.json();
        let b0 = device(&report, "b0");
        assert_eq!(b0["outcome"], "failed", "round {round}: {b0:#}");
    }
    assert!(netns.is_on("b0"));
    let report = vxcsum(&netns, words).expect(0).json();
    assert_eq!(device(&report, "b0")["outcome"], "changed");
}

/// The network namespaces of containers, one after the other, with the same name, the same ifindex and often the same
/// inode.
#[test]
fn a_new_namespace_is_not_taken_for_the_one_before() {
    let root = Netns::new();
    for (kernel, fault) in [
        ("this", None),
        ("before 5.14", Some("getsockopt:error=ENOPROTOOPT")),
    ] {
        let _ = fs::remove_file(record_path(&root));
        for round in 0..5 {
            let netns = Netns::with_three();
            let mut command = netns.command("strace");
            command.args(["-f", "-o", "/dev/null"]);
            command.args(fault.map(|fault| format!("--inject={fault}")));
            command.args([
                "--",
                VXCSUM,
                "apply",
                "--json",
                "--root",
                root.remembering_root(),
            ]);
            let report = run(&mut command).expect(0).json();
            for name in THREE {
                let said = device(&report, name);
                assert_eq!(
                    said["outcome"], "changed",
                    "{kernel} kernel, round {round}: {said:#}"
                );
            }
        }
    }
}

/// The kernel reuses inodes and ifindexes. Here the record says so.
#[test]
fn a_record_of_another_namespace_gives_nothing_back() {
    let netns = Netns::with_three();
    vxcsum(&netns, "apply").expect(0);
    let text = fs::read_to_string(record_path(&netns)).expect("read the record");
    let text = without_sum(&text);
    let mut state: Value = serde_json::from_str(&text).expect("JSON");
    for (name, key, value) in [("a0", "netns_cookie", json!(1)), ("b0", "vni", json!(77))] {
        let devices = state["devices"].as_array_mut().expect("an array");
        let entry = devices.iter_mut().find(|entry| entry["name"] == name);
        entry.expect("an entry")[key] = value;
    }
    fs::write(record_path(&netns), state.to_string()).expect("write the record");
    let report = vxcsum(&netns, "revert --json").expect(0).json();
    for (name, code) in [
        ("a0", "not-turned-off-by-vxcsum"),
        ("b0", "not-turned-off-by-vxcsum"),
        ("c0", "turned-off-by-vxcsum"),
    ] {
        assert_eq!(device(&report, name)["reason"]["code"], code, "{name}");
    }
    assert_eq!(on(&netns), [false, false, true]);
    assert!(recorded(&netns).is_empty(), "stale entries are dropped");
}

/// udev gives a new device another MAC address, and a script gives it another name.
#[test]
fn a_device_keeps_its_record_under_another_name_or_address() {
    let netns = Netns::with_three();
    vxcsum(&netns, "apply").expect(0);
    netns.batch("link set a0 address 02:00:00:00:00:77\nlink set b0 name x0\n");
    vxcsum(&netns, "revert").expect(0);
    assert!(["a0", "x0", "c0"].iter().all(|name| netns.is_on(name)));
}

/// Kills `apply` before each relevant system call, one after another, until a run completes.
fn killed_everywhere(backend: &str) {
    let netns = Netns::with_three();
    let before = netns.everything();
    let mut kills = 0;
    for call in [
        "mkdir,mkdirat",
        "flock",
        "unlink,unlinkat",
        "write",
        "rename,renameat,renameat2",
        "sendto",
        "recvfrom",
        "ioctl",
        "close",
    ] {
        for nth in 1.. {
            let calls: Vec<_> = call.split(',').map(|call| format!("?{call}")).collect();
            let fault = format!("{}:signal=SIGKILL:when={nth}", calls.join(","));
            let killed = netns.with_faults(&[&fault], &format!("apply --backend {backend}"));
            if killed.code == 0 {
                break;
            }
            kills += 1;
            assert_eq!(killed.code, 128 + 9, "{}", killed.errors());
            // Every second time the next run is a revert.
            if kills % 2 == 0 {
                vxcsum(&netns, &format!("apply --backend {backend}")).expect(0);
                assert_eq!(on(&netns), [false; 3], "{fault}");
                assert_eq!(recorded(&netns), THREE, "{fault}");
            }
            let run = vxcsum(&netns, &format!("revert --backend {backend}")).expect(0);
            assert_eq!(run.errors(), "", "{fault}");
            assert_eq!(on(&netns), [true; 3], "{fault}");
            assert!(
                !record_path(&netns).exists() || recorded(&netns).is_empty(),
                "{fault}"
            );
        }
        vxcsum(&netns, &format!("revert --backend {backend}")).expect(0);
        assert_eq!(netns.everything(), before, "{call}");
    }
    assert!(kills >= 15, "only {kills}");
}

#[test]
fn a_kill_anywhere_loses_nothing_netlink() {
    killed_everywhere("netlink");
}

#[test]
fn a_kill_anywhere_loses_nothing_ioctl() {
    killed_everywhere("ioctl");
}

#[test]
fn an_unusable_record_is_reported_and_the_packets_are_fixed() {
    let netns = Netns::with_three();
    vxcsum(&netns, "apply").expect(0);
    let good = without_sum(&fs::read_to_string(record_path(&netns)).expect("read the record"));
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("read the boot id");
    let outside = tempfile::NamedTempFile::new().expect("make a file");
    fs::write(outside.path(), &good).expect("write a file");

    let text = |text: String| -> Make<'_> {
        Box::new(move |path: &Path| fs::write(path, &text).expect("write the record"))
    };
    let cases: [(&str, Make<'_>, &str); 9] = [
        ("empty", text(String::new()), "is damaged"),
        (
            "truncated",
            text(good[..good.len() / 2].to_owned()),
            "is damaged",
        ),
        (
            "not UTF-8",
            Box::new(|path| fs::write(path, [0xff; 9]).expect("write")),
            "is damaged",
        ),
        (
            "of another boot",
            text(good.replace(boot_id.trim(), "0")),
            "is of another boot",
        ),
        (
            "of another version",
            text(good.replace("\"version\":1", "\"version\":9")),
            "version 9",
        ),
        (
            "a directory",
            Box::new(|path| fs::create_dir(path).expect("make a directory")),
            "cannot be read",
        ),
        (
            "a FIFO",
            Box::new(|path| {
                mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::RUSR, 0).expect("make a FIFO");
            }),
            "cannot be read",
        ),
        (
            "a link",
            Box::new(|path| std::os::unix::fs::symlink(outside.path(), path).expect("make a link")),
            "cannot be read",
        ),
        (
            "a link to nowhere",
            Box::new(|path| std::os::unix::fs::symlink("nowhere", path).expect("make a link")),
            "cannot be read",
        ),
    ];
    for (name, make, said) in cases {
        for name in THREE {
            netns.set(name, true);
        }
        let path = record_path(&netns);
        netns.root();
        fs::create_dir_all(path.parent().expect("a directory")).expect("make a directory");
        make(&path);
        for _ in 0..2 {
            // A command that only looks reports it and does not move the file.
            let status = vxcsum(&netns, "status").expect(0);
            assert!(
                status.errors().contains(said),
                "{name}: {}",
                status.errors()
            );
        }
        let applied = vxcsum(&netns, "apply").expect(0);
        let other_boot = name == "of another boot";
        let moved = applied.errors().contains("state.json.damaged");
        assert!(
            applied.errors().contains(said) && moved != other_boot,
            "{name}: {}",
            applied.errors()
        );
        assert_eq!(on(&netns), [false; 3], "{name}");
        assert_eq!(recorded(&netns), THREE, "{name}");
        let aside = path.with_extension("json.damaged");
        assert_eq!(aside.symlink_metadata().is_ok(), !other_boot, "{name}");
        let again = vxcsum(&netns, "apply").expect(0);
        assert_eq!(again.errors(), "", "{name}");
        // The devices that are in the new record get the offload back; the lost record may have had others.
        let reverted = vxcsum(&netns, "revert").expect(i32::from(!other_boot));
        assert_eq!(
            reverted
                .errors()
                .contains("an earlier record that is damaged"),
            !other_boot,
            "{name}"
        );
        assert_eq!(on(&netns), [true; 3], "{name}");
    }
    let kept = fs::read_to_string(outside.path()).expect("read a file");
    assert_eq!(kept, good, "what a link points to is not touched");
}

#[test]
fn without_a_place_for_the_record_the_packets_are_fixed() {
    let netns = Netns::with_three();
    let read_only = |words: &str| {
        let script = "mount --bind \"$1/run\" \"$1/run\"; mount -o remount,bind,ro \"$1/run\"; shift; exec \"$@\"";
        let root = netns.remembering_root();
        let mut command = netns.command("unshare");
        command
            .args(["--mount", "sh", "-ec", script, "sh", root, VXCSUM])
            .args(words.split(' '))
            .args(["--root", root]);
        run(&mut command).expect(0)
    };
    fs::create_dir(Path::new(netns.root()).join("run")).expect("make a directory");
    let applied = read_only("apply");
    let said = [
        "Read-only file system",
        "without a lock",
        "revert will not know",
    ];
    for said in said {
        assert!(applied.errors().contains(said), "{}", applied.errors());
    }
    assert_eq!(on(&netns), [false; 3]);
    read_only("revert");
    assert_eq!(on(&netns), [false; 3], "nobody knows who turned it off");
}

#[test]
fn many_at_once_take_turns() {
    let netns = Netns::with_three();
    let mut children = Vec::new();
    for n in 0..21 {
        let words = match n {
            10 => "revert --json".to_owned(),
            n if n % 2 == 0 => "apply --json".to_owned(),
            n => format!("apply --json --device {}", THREE[n / 2 % 3]),
        };
        let mut command = command(&netns, &words);
        // `ip netns exec` must not outlive the test either.
        command.process_group(0);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        children.push(command.spawn().expect("run vxcsum"));
    }
    let runs: Vec<Run> = children
        .into_iter()
        .map(|child| child.wait_with_output().expect("wait for vxcsum").into())
        .collect();
    for run in runs {
        let run = run.expect(0);
        assert_eq!(run.errors(), "");
        run.json();
    }
    vxcsum(&netns, "apply").expect(0);
    assert_eq!(on(&netns), [false; 3]);
    assert_eq!(recorded(&netns), THREE);
    vxcsum(&netns, "revert").expect(0);
    assert_eq!(on(&netns), [true; 3]);
    assert!(recorded(&netns).is_empty());
}

#[test]
fn a_wait_for_the_lock_ends_with_an_error_that_names_it() {
    let netns = Netns::with_three();
    let path = record_path(&netns).with_file_name("lock");
    fs::create_dir_all(path.parent().expect("a directory")).expect("make a directory");
    let lock = File::create(&path).expect("make the lock");
    flock(&lock, FlockOperation::LockExclusive).expect("hold the lock");
    let began = Instant::now();
    // A command that changes nothing does not wait for the lock.
    vxcsum(&netns, "status").expect(0);
    vxcsum(&netns, "apply --dry-run").expect(0);
    assert!(began.elapsed() < Duration::from_secs(5));
    let began = Instant::now();
    let stuck = vxcsum(&netns, "apply").expect(1);
    assert!((9..15).contains(&began.elapsed().as_secs()));
    assert!(
        stuck
            .errors()
            .contains(path.to_str().expect("a plain path")),
        "{}",
        stuck.errors()
    );
    assert_eq!(on(&netns), [true; 3]);
    drop(lock);
    vxcsum(&netns, "apply").expect(0);
    assert_eq!(on(&netns), [false; 3]);
}
