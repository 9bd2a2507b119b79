//! vxcsum without room, memory, descriptors or a steady clock: a full disk, a `/run` that nobody can write, 16 MiB of memory, 16 open files,
//! files that may not grow, and a clock that jumps. Packets are more important than the record: what can be done is done, what cannot is said.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{Netns, Run, VXCSUM, VXLAN, Watch, run};
use serde_json::Value;

const DEVICES: [&str; 3] = ["a0", "b0", "c0"];
const VERBS: [&str; 9] = [
    "apply",
    "apply --backend ioctl",
    "apply --dry-run",
    "status",
    "explain a0",
    "doctor",
    "probe",
    "policy check",
    "revert",
];

/// Mounts that only commands below `nsenter` see. They vanish with this process.
struct Mounts(Child);

impl Mounts {
    /// Runs a script in a new mount namespace, with the directory for files of this boot as `$1`, and keeps the namespace.
    fn new(netns: &Netns, script: &str) -> Self {
        let run_dir = run_dir(netns);
        fs::create_dir_all(&run_dir).expect("make a directory");
        let script = format!("{script}; echo ready; exec cat");
        let mut holder = Command::new("unshare")
            .args(["--mount", "sh", "-ec", &script, "sh"])
            .arg(&run_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("run unshare");
        let mut line = String::new();
        let said = holder.stdout.as_mut().expect("a pipe");
        BufReader::new(said).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n", "{script}");
        Self(holder)
    }

    fn enter(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.0.id()));
        command.arg(program);
        command
    }

    fn sh(&self, script: &str) -> String {
        run(self.enter("sh").args(["-ec", script]))
            .expect(0)
            .text()
            .to_owned()
    }

    fn vxcsum(&self, netns: &Netns, words: &str) -> Run {
        let mut command = self.enter("ip");
        command.args(["netns", "exec", netns.name(), VXCSUM]);
        command.args(words.split_whitespace());
        checked(run(command.args(["--root", netns.remembering_root()])))
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn run_dir(netns: &Netns) -> PathBuf {
    Path::new(netns.remembering_root()).join("run/vxcsum")
}

/// No panic, and no exit code of another kind.
#[track_caller]
fn checked(run: Run) -> Run {
    let said = format!("{}: {}{}", run.code, run.errors(), run.text());
    assert!(!said.contains("panicked"), "{said}");
    assert!([0, 1, 2, 77, 78].contains(&run.code), "{said}");
    run
}

fn vxcsum(netns: &Netns, words: &str) -> Run {
    let mut command = netns.command(VXCSUM);
    command.args(words.split_whitespace());
    checked(run(command.args(["--root", netns.remembering_root()])))
}

/// Below prlimit(1), with these limits.
fn limited(netns: &Netns, limits: &[String], words: &str) -> Run {
    let mut command = netns.command("prlimit");
    command.args(limits).arg(VXCSUM);
    command.args(words.split_whitespace());
    run(command.args(["--root", netns.remembering_root()]))
}

fn on(netns: &Netns) -> [bool; 3] {
    DEVICES.map(|device| netns.is_on(device))
}

fn all_on(netns: &Netns) {
    for device in DEVICES {
        netns.set(device, true);
    }
}

fn recorded(text: &str) -> Vec<String> {
    let record: Value = serde_json::from_str(text).expect("the record is whole");
    let devices = record["devices"].as_array().expect("an array").iter();
    devices
        .map(|d| d["name"].as_str().expect("a name").to_owned())
        .collect()
}

/// There is room for no file, for an empty one, for a part of one, and so on.
#[test]
fn on_a_full_disk_packets_are_fixed_and_the_record_stays_whole() {
    let (mut tried, mut told) = (0, 0);
    // Pages that are left, and names.
    for (pages, names) in [(0, 9), (1, 9), (2, 9), (9, 0), (9, 1), (9, 2), (9, 3)] {
        let netns = Netns::with_three();
        // Longer than a page, so that a part of the record fits.
        for n in 0..30 {
            netns.ip(&format!(
                "link add many{n} type vxlan id {} {VXLAN}",
                100 + n
            ));
        }
        let disk = Mounts::new(
            &netns,
            "mount -t tmpfs -o size=256k,nr_inodes=64 tmpfs \"$1\"",
        );
        disk.vxcsum(&netns, "apply").expect(0);
        let record = run_dir(&netns).join("state.json");
        let before = disk.sh(&format!("cat {}", record.display()));
        netns.ip(&format!("link add late0 type vxlan id 10 {VXLAN}"));
        all_on(&netns);
        disk.sh(&format!(
            "cd {}; for n in $(seq 60); do : > f$n || break; done 2>/dev/null; n={names}; while [ $n -gt 0 ]; do rm -f f$n; n=$((n - 1)); done
             dd if=/dev/zero of=f20 bs=4096 2>/dev/null || true; truncate -s $(($(stat -c %s f20) - 4096 * {pages})) f20",
            run_dir(&netns).display()
        ));
        for words in ["apply", "status", "doctor", "explain a0", "probe"] {
            let ended = disk.vxcsum(&netns, words);
            tried += 1;
            told += usize::from(ended.errors().contains("ENOSPC"));
            assert!(words != "apply" || ended.code == 0, "{}", ended.errors());
            let after = disk.sh(&format!("cat {}", record.display()));
            let whole = recorded(&after);
            // If it was not written, it says so, and the old record stays.
            assert!(
                whole.contains(&"late0".to_owned())
                    || words != "apply"
                    || (after == before && ended.errors().contains("revert will not know")),
                "{pages} pages, {names} names: {words}: {}",
                ended.errors()
            );
            let left = disk.sh(&format!("ls {}", run_dir(&netns).display()));
            assert!(!left.contains(".new"), "{left}");
        }
        assert_eq!(on(&netns), [false; 3]);
        assert!(!netns.is_on("late0"));
        disk.vxcsum(&netns, "revert").expect(0);
        assert_eq!(on(&netns), [true; 3], "{pages} pages, {names} names");
        // With room again.
        disk.sh(&format!("rm {}/f*", run_dir(&netns).display()));
        disk.vxcsum(&netns, "apply").expect(0);
        assert_eq!(on(&netns), [false; 3]);
        disk.vxcsum(&netns, "revert").expect(0);
        assert_eq!(on(&netns), [true; 3]);
    }
    println!("full disk: {tried} tried, {told} said ENOSPC, 0 lost");
    assert!(told > 5, "{told}");
}

#[test]
fn a_record_that_cannot_be_written_is_still_read() {
    let netns = Netns::with_three();
    vxcsum(&netns, "apply").expect(0);
    netns.ip(&format!("link add late0 type vxlan id 10 {VXLAN}"));
    let mounts = Mounts::new(
        &netns,
        "mount --bind \"$1\" \"$1\"; mount -o remount,bind,ro \"$1\"",
    );
    let record = run_dir(&netns).join("state.json");
    let before = fs::read(&record).expect("read the record");
    for words in VERBS {
        let ended = mounts.vxcsum(&netns, words);
        // The second `apply` has nothing to change.
        let changes = ["apply", "revert"].contains(&words);
        assert_eq!(
            ended.errors().contains("EROFS"),
            changes || (words == "probe" && ended.code == 0),
            "{words}: {}",
            ended.errors()
        );
        assert_eq!(
            fs::read(&record).expect("read the record"),
            before,
            "{words}"
        );
        if words == "apply" {
            assert!(!netns.is_on("late0"));
        }
    }
    // The record knew these.
    assert_eq!(on(&netns), [true; 3]);
    drop(mounts);
    vxcsum(&netns, "apply").expect(0);
    assert_eq!(on(&netns), [false; 3]);
    vxcsum(&netns, "revert").expect(0);
    assert_eq!(on(&netns), [true; 3]);
}

/// 16 MiB of data are enough. With less, an allocation fails at some moment: as if it had been killed there.
#[test]
fn sixteen_megabytes_are_enough() {
    let netns = Netns::with_three();
    for words in VERBS {
        let ended = checked(limited(&netns, &["--data=16777216".to_owned()], words));
        assert!(
            words == "doctor" || words == "probe" || ended.code == 0,
            "{words}: {}",
            ended.errors()
        );
        if words.starts_with("apply") && !words.contains("dry") {
            assert_eq!(on(&netns), [false; 3], "{words}");
        }
    }
    assert_eq!(on(&netns), [true; 3]);
    let (mut tried, mut survived) = (0, 0);
    for kib in (64..1600).step_by(192) {
        let ended = limited(&netns, &[format!("--data={}", kib << 10)], "apply");
        tried += 1;
        survived += usize::from(ended.code == 0);
        let said = ended.errors();
        // 134: it aborts. 139: the loader has no memory.
        assert!(
            [0, 1, 127, 134, 139].contains(&ended.code),
            "{kib} KiB: {}: {said}",
            ended.code
        );
        assert!(
            ended.code == 0 || !said.is_empty() || ended.code == 139,
            "{kib} KiB: {}",
            ended.code
        );
        vxcsum(&netns, "apply").expect(0);
        assert_eq!(on(&netns), [false; 3], "{kib} KiB");
        vxcsum(&netns, "revert").expect(0);
        assert_eq!(on(&netns), [true; 3], "{kib} KiB");
    }
    println!("memory: {tried} tried, {survived} survived, 0 lost");
    assert!(survived > 0 && survived < tried, "{survived}");
}

#[test]
fn sixteen_open_files_are_enough() {
    let netns = Netns::with_three();
    let (mut tried, mut survived) = (0, 0);
    for files in [4, 6, 8, 10, 16] {
        for words in VERBS {
            let ended = limited(&netns, &[format!("--nofile={files}")], words);
            if files < 8 && ended.code == 127 {
                // Not even the loader.
                continue;
            }
            let ended = checked(ended);
            let said = ended.errors().to_owned() + ended.text();
            // 2 is the finding of doctor.
            let done = ended.code == 0 || (ended.code == 2 && words == "doctor");
            tried += 1;
            survived += usize::from(done);
            assert!(
                done || (files < 16 && said.contains("EMFILE")),
                "{files} files: {words}: {}: {said}",
                ended.code
            );
            // What is off now is on the record, or it said that it is not.
            let lost = said.contains("revert will not know") || said.contains("is not known");
            if words.starts_with("apply") && !lost {
                vxcsum(&netns, "revert").expect(0);
                assert_eq!(on(&netns), [true; 3], "{files} files: {words}");
            }
            let _ = fs::remove_dir_all(run_dir(&netns));
            all_on(&netns);
            if words == "revert" {
                vxcsum(&netns, "apply").expect(0);
                assert_eq!(on(&netns), [false; 3], "{files} files");
                vxcsum(&netns, "revert").expect(0);
            }
        }
    }
    println!("open files: {tried} tried, {survived} survived, 0 lost");
    let watch = Watch::start_with(&netns, "", &["-f", "-e", "trace=none"], &[]);
    run(Command::new("prlimit").args([
        "--nofile=16",
        "--pid",
        &watch.pid().as_raw_nonzero().to_string(),
    ]))
    .expect(0);
    netns.ip(&format!("link add late0 type vxlan id 10 {VXLAN}"));
    watch.off("late0");
    watch.stop();
}

/// The kernel ends a process whose file grows too much (SIGXFSZ), if it may not.
#[test]
fn a_file_that_may_not_grow_does_no_harm() {
    let netns = Netns::with_three();
    let mut tried = 0;
    vxcsum(&netns, "apply").expect(0);
    let whole = fs::metadata(run_dir(&netns).join("state.json"))
        .expect("the record")
        .len();
    vxcsum(&netns, "revert").expect(0);
    for bytes in (0..whole + 2).step_by(167) {
        for ignored in [true, false] {
            let mut command = netns.command("prlimit");
            command.arg(format!("--fsize={bytes}"));
            if ignored {
                command.args(["env", "--ignore-signal=XFSZ"]);
            }
            command.args([VXCSUM, "apply", "--root", netns.remembering_root()]);
            let ended = run(&mut command);
            tried += 1;
            if ignored {
                let ended = checked(ended).expect(0);
                assert_eq!(on(&netns), [false; 3], "{bytes} bytes");
                assert!(
                    bytes > whole || ended.errors().contains("EFBIG"),
                    "{bytes} bytes: {}",
                    ended.errors()
                );
            }
            let record = run_dir(&netns).join("state.json");
            if let Ok(text) = fs::read_to_string(&record) {
                recorded(&text);
            }
            all_on(&netns);
            vxcsum(&netns, "apply").expect(0);
            assert_eq!(on(&netns), [false; 3], "{bytes} bytes");
            vxcsum(&netns, "revert").expect(0);
            assert_eq!(on(&netns), [true; 3], "{bytes} bytes");
        }
    }
    println!("files that may not grow: {tried} tried, 0 lost");
}

/// In a time namespace the time since boot is another. The wall clock jumps in a guest (tests/vm/units).
#[test]
fn a_clock_that_jumps_starts_and_ends_no_conflict() {
    let at = |netns: &Netns, offset: &str, words: &str| {
        let mut command = netns.command("unshare");
        command.args([
            "--time",
            "--fork",
            "--boottime",
            offset,
            "--monotonic",
            offset,
            VXCSUM,
        ]);
        command.args(words.split_whitespace());
        checked(run(command.args(["--root", netns.remembering_root()])))
    };
    let contested = |run: &Run| run.text().contains("contested");
    for backend in common::BACKENDS {
        let netns = Netns::with_three();
        let apply = format!("apply --backend {backend}");
        // Another program turns it on three times, by a clock that is a day ahead.
        for _ in 0..4 {
            at(&netns, "86400", &apply);
            netns.set("a0", true);
        }
        assert!(contested(&at(&netns, "86400", &apply)));
        assert!(netns.is_on("a0"));
        // The clock goes back: the pause would last for a day and an hour.
        let back = vxcsum(&netns, &apply).expect(0);
        assert!(!contested(&back), "{}", back.text());
        assert_eq!(on(&netns), [false; 3], "{backend}");
        // It jumps ahead and back between all runs.
        for n in 0..8 {
            netns.set("a0", true);
            let offset = if n % 2 == 0 { "1000000" } else { "0" };
            at(&netns, offset, &apply).expect(0);
            assert!(!netns.is_on("a0"), "{backend}, {n}");
        }
        let watch = Watch::start(&netns, &format!("--backend {backend}"));
        netns.ip(&format!("link add late0 type vxlan id 10 {VXLAN}"));
        watch.off("late0");
        watch.stop();
        vxcsum(&netns, &format!("revert --backend {backend}")).expect(0);
        assert_eq!(on(&netns), [true; 3], "{backend}");
    }
}
