//! Every system call of a verb fails once, in each way that its manual page allows: no panic, the right exit code, a message
//! that names the error, nothing half-written, and the next run repairs it. And every call is the last of a killed process.
//!
//! `make test` takes 10 of each verb. `VXCSUM_FAULTS=100000 cargo test --test faults -- --nocapture` takes all of them, and counts them.

mod common;
#[path = "faults/watch.rs"]
mod watch;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Output;

use common::{Netns, VXCSUM, run};

/// What may come back from a call, by its section 2 manual page. Calls that are not here belong to the loader, to memory and to
/// threads: no program survives without them, or they cannot fail. ENODEV says that the device is gone, and a device that is
/// there does not answer with it.
const ERRORS: &[(&[&str], &[&str])] = &[
    (
        &["openat", "openat2", "open"],
        &[
            "EACCES", "EMFILE", "ENFILE", "ENOMEM", "ENOENT", "ELOOP", "ENOTDIR", "EPERM", "EROFS",
            "ENOSPC",
        ],
    ),
    (&["read", "pread64"], &["EIO", "EINTR", "EISDIR", "ENOMEM"]),
    (
        &["write", "pwrite64"],
        &["ENOSPC", "EIO", "EINTR", "EDQUOT", "EFBIG"],
    ),
    // Not close: it closes in spite of the error, and after an injected one it has not.
    (
        &["statx", "fstat", "newfstatat", "stat", "lstat"],
        &["EACCES", "ENOMEM", "ENOENT"],
    ),
    (
        &["readlink", "readlinkat"],
        &["EACCES", "EINVAL", "EIO", "ENOENT"],
    ),
    (&["getdents64"], &["ENOENT", "EIO"]),
    (
        &["mkdir", "mkdirat"],
        &["EACCES", "ENOSPC", "EROFS", "EDQUOT"],
    ),
    (
        &["rename", "renameat", "renameat2"],
        &["EACCES", "ENOSPC", "EROFS", "EIO"],
    ),
    (&["unlink", "unlinkat"], &["EACCES", "EBUSY", "EROFS"]),
    (&["flock"], &["EINTR", "ENOLCK"]),
    (&["fsync", "fdatasync"], &["EIO", "ENOSPC"]),
    (&["fchmod", "chmod", "fchmodat"], &["EPERM", "EROFS", "EIO"]),
    (
        &["socket"],
        &[
            "EMFILE",
            "ENFILE",
            "ENOBUFS",
            "ENOMEM",
            "EACCES",
            "EAFNOSUPPORT",
            "EPROTONOSUPPORT",
        ],
    ),
    (&["bind"], &["EADDRINUSE", "EACCES", "ENOMEM", "EPERM"]),
    (&["connect"], &["ECONNREFUSED", "EACCES", "ENOENT"]),
    (&["setsockopt"], &["ENOPROTOOPT", "ENOMEM", "EPERM"]),
    (
        &["getsockopt", "getsockname"],
        &["ENOPROTOOPT", "ENOBUFS", "ENOMEM", "EPERM"],
    ),
    (
        &["sendto", "sendmsg", "sendmmsg"],
        &[
            "ENOBUFS",
            "ENOMEM",
            "EINTR",
            "EAGAIN",
            "EPERM",
            "ECONNREFUSED",
        ],
    ),
    (
        &["recvfrom", "recvmsg", "recvmmsg"],
        &["ENOBUFS", "ENOMEM", "EINTR"],
    ),
    (
        &["ioctl"],
        &["EPERM", "EOPNOTSUPP", "EIO", "ENOMEM", "EINTR"],
    ),
    (&["poll", "ppoll"], &["EINTR", "ENOMEM"]),
    (&["capget"], &["EPERM"]),
    (&["inotify_init1"], &["EMFILE", "ENFILE", "ENOMEM"]),
    (
        &["inotify_add_watch"],
        &["EACCES", "ENOENT", "ENOSPC", "ENOMEM"],
    ),
    // Of a descriptor that is copied, and of the pair for signals.
    (&["fcntl", "socketpair"], &["EMFILE", "ENFILE"]),
    (&["unshare", "setns"], &["EPERM", "ENOMEM", "ENOSPC"]),
];

fn errors_of(call: &str) -> &'static [&'static str] {
    let row = ERRORS.iter().find(|(calls, _)| calls.contains(&call));
    row.map_or(&[], |(_, errors)| errors)
}

/// The number of runs by outcome.
#[derive(Debug, Default)]
struct Count {
    /// Runs with a fault.
    tried: usize,
    /// Runs that succeeded in spite of the fault.
    survived: usize,
    /// Runs that named the error and ended with its exit code.
    told: usize,
    /// Everything else.
    lost: Vec<String>,
}

struct Node {
    netns: Netns,
}

/// The devices are on before a run.
const DEVICES: [&str; 3] = ["a0", "b0", "c0"];

impl Node {
    fn new() -> Self {
        let netns = Netns::with_three();
        let rules = "add table ip t; add chain ip t post { type nat hook postrouting priority 100; }; \
                     add rule ip t post masquerade fully-random";
        run(netns.command("nft").arg(rules)).expect(0);
        Self { netns }
    }

    fn run_dir(&self) -> std::path::PathBuf {
        Path::new(self.netns.remembering_root()).join("run/vxcsum")
    }

    /// All devices on, and no record; for `revert`, off and recorded.
    fn reset(&self, applied: bool) {
        let _ = fs::remove_dir_all(self.run_dir());
        for device in DEVICES {
            self.netns.set(device, true);
        }
        if applied {
            self.vxcsum(&[], "apply");
        }
    }

    fn vxcsum(&self, strace: &[&str], words: &str) -> Output {
        let mut command = if strace.is_empty() {
            self.netns.command(VXCSUM)
        } else {
            let mut command = self.netns.command("strace");
            command
                .args(["-f", "-qq"])
                .args(strace)
                .arg("--")
                .arg(VXCSUM);
            command
        };
        command
            .args(words.split_whitespace())
            .args(["--root", self.netns.remembering_root()])
            .env("TMPDIR", self.run_dir().parent().expect("a parent"))
            .output()
            .expect("run vxcsum")
    }

    /// How often a run of this verb makes each call that can fail, without those that the loader makes before.
    fn calls(&self, words: &str) -> BTreeMap<String, std::ops::RangeInclusive<usize>> {
        let log = tempfile::NamedTempFile::new().expect("make a file");
        let path = log.path().to_str().expect("a path in UTF-8").to_owned();
        self.vxcsum(&["-o", &path], words);
        let text = fs::read_to_string(&path).expect("read the log");
        let mut seen: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        // The runtime of Rust checks its first three descriptors after the loader.
        let mut loaded = false;
        for line in text.lines() {
            let line = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
            let Some((call, _)) = line.split_once('(') else {
                continue;
            };
            loaded |= call == "poll" || call == "ppoll";
            let (first, last) = seen.entry(call.to_owned()).or_default();
            *last += 1;
            if !loaded {
                *first += 1;
            }
        }
        seen.into_iter()
            .filter(|(call, _)| !errors_of(call).is_empty())
            .map(|(call, (first, last))| (call, first + 1..=last))
            .filter(|(_, range)| !range.is_empty())
            .collect()
    }

    /// A half-written file: malformed JSON, or an unknown file.
    fn half_written(&self) -> Option<String> {
        let entries = fs::read_dir(self.run_dir()).into_iter().flatten();
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if Path::new(&name).extension().is_some_and(|e| e == "json") {
                let text = fs::read(entry.path()).unwrap_or_default();
                if serde_json::from_slice::<serde_json::Value>(&text).is_err() {
                    return Some(format!("{name} is no JSON"));
                }
            } else if !["lock", "no-peers"].contains(&&*name) {
                return Some(format!("{name} was left"));
            }
        }
        None
    }

    /// The problem after a run without faults. `known`: what was off before is on the record.
    fn repaired(&self, revert: bool, known: bool) -> Option<String> {
        let words = if revert { "revert" } else { "apply" };
        let next = self.vxcsum(&[], words);
        if next.status.code() != Some(0) {
            return Some(format!("the next run ends with {:?}", next.status));
        }
        let wrong = DEVICES
            .into_iter()
            .find(|device| self.netns.is_on(device) != revert);
        if let Some(device) = wrong {
            return Some(format!("{device} is not repaired"));
        }
        if revert || !known {
            return None;
        }
        self.vxcsum(&[], "revert");
        let lost = DEVICES.into_iter().find(|device| !self.netns.is_on(device));
        lost.map(|device| format!("nobody knows who turned {device} off"))
    }
}

/// A sample of these, evenly spread: 10, or as many as `VXCSUM_FAULTS` says.
fn sample<T>(all: Vec<T>) -> impl Iterator<Item = T> {
    let wanted = std::env::var("VXCSUM_FAULTS").map_or(10, |n| n.parse().expect("a number"));
    let step = all.len().div_ceil(wanted).max(1);
    all.into_iter().step_by(step)
}

fn sweep(node: &Node, words: &str, count: &mut Count) {
    let revert = words.starts_with("revert");
    let changes = revert || words.starts_with("apply");
    node.reset(revert);
    let mut faults = Vec::new();
    for (call, range) in node.calls(words) {
        for n in range {
            faults.extend(
                errors_of(&call)
                    .iter()
                    .map(|error| (call.clone(), n, *error)),
            );
        }
    }
    assert!(faults.len() > 30, "{words}: {faults:?}");
    for (call, n, error) in sample(faults) {
        if changes {
            node.reset(revert);
        }
        let inject = format!("--inject={call}:error={error}:when={n}");
        let ended = node.vxcsum(&["-o", "/dev/null", &inject], words);
        let said = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
        let code = ended.status.code();
        count.tried += 1;
        let mut wrong = Vec::new();
        match code {
            _ if ended.status.signal().is_some() || said.contains("panicked") => {
                wrong.push(format!("it died: {:?}", ended.status));
            }
            Some(0) => count.survived += 1,
            Some(1 | 2 | 64 | 77 | 78) if said.trim().is_empty() && error != "EPIPE" => {
                wrong.push("it says nothing".to_owned());
            }
            Some(1 | 2 | 64 | 77 | 78) => count.told += 1,
            code => wrong.push(format!("it ends with {code:?}")),
        }
        // Exit code 2 of doctor is its finding, whatever failed.
        let others = ["this kernel has no", "inconclusive: "];
        let explained = said.contains(error) || others.iter().any(|text| said.contains(text));
        if matches!(code, Some(1 | 64 | 77 | 78)) && !explained {
            wrong.push(format!("it does not name {error}: {said}"));
        }
        wrong.extend(node.half_written());
        if changes {
            // By ENOENT the record had vanished. It says so if it cannot keep one.
            let known = error != "ENOENT" && !said.contains("revert will not know");
            wrong.extend(node.repaired(revert, known));
        }
        if !wrong.is_empty() {
            count
                .lost
                .push(format!("{words}: {inject}: {}", wrong.join("; ")));
        }
    }
}

fn killed(node: &Node, words: &str, count: &mut Count) {
    let revert = words.starts_with("revert");
    node.reset(revert);
    let mut points = Vec::new();
    for (call, range) in node.calls(words) {
        points.extend(range.map(|n| (call.clone(), n)));
    }
    for (call, n) in sample(points) {
        node.reset(revert);
        let inject = format!("--inject={call}:signal=KILL:when={n}");
        let ended = node.vxcsum(&["-o", "/dev/null", &inject], words);
        count.tried += 1;
        let mut wrong = Vec::new();
        // The last call of the process may come after its last output.
        if ended.status.code() == Some(0) {
            count.survived += 1;
        } else {
            count.told += 1;
        }
        let kept = node
            .half_written()
            .filter(|what| !what.contains("was left"));
        wrong.extend(kept);
        wrong.extend(node.repaired(revert, true));
        if let Some(left) = node.half_written() {
            wrong.push(format!("after the next run {left}"));
        }
        if !wrong.is_empty() {
            count
                .lost
                .push(format!("{words}: {inject}: {}", wrong.join("; ")));
        }
    }
}

#[track_caller]
fn report(what: &str, count: &Count) {
    println!(
        "{what}: {} tried, {} survived, {} told, {} lost",
        count.tried,
        count.survived,
        count.told,
        count.lost.len()
    );
    assert!(count.lost.is_empty(), "{what}:\n{}", count.lost.join("\n"));
}

#[test]
fn every_call_may_fail() {
    let node = Node::new();
    for backend in ["netlink", "ioctl"] {
        for verb in ["apply", "revert", "status", "doctor", "explain a0"] {
            let mut count = Count::default();
            sweep(&node, &format!("{verb} --backend {backend}"), &mut count);
            report(&format!("{verb} by {backend}"), &count);
        }
    }
}

#[test]
fn the_probe_may_fail_at_every_call() {
    let node = Node::new();
    let mut count = Count::default();
    sweep(&node, "probe", &mut count);
    report("probe", &count);
}

#[test]
fn every_call_may_be_the_last() {
    let node = Node::new();
    for backend in ["netlink", "ioctl"] {
        for verb in ["apply", "revert"] {
            let mut count = Count::default();
            killed(&node, &format!("{verb} --backend {backend}"), &mut count);
            report(&format!("{verb} by {backend}, killed"), &count);
        }
    }
}

/// The numbers on x86_64, and the names.
const STREAMS: [(u32, &str); 3] = [(0, "read"), (1, "write"), (17, "pread64")];

/// Netlink and the journal are left out: a datagram is never short.
#[test]
fn every_read_and_write_may_be_short() {
    let node = Node::new();
    let directory = tempfile::tempdir().expect("make a directory");
    let path = |name: &str| directory.path().join(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/short.c");
    let mut cc = std::process::Command::new("cc");
    cc.args(["-O1", "-Wall", "-Werror", "-o"])
        .args([&path("short"), &source]);
    run(&mut cc).expect(0);
    let short = |call: u32, n: usize, length: u32, words: &str| {
        let mut command = node.netns.command(path("short"));
        let numbers = [call.to_string(), n.to_string(), length.to_string()];
        command.args(numbers).arg(VXCSUM).args(words.split(' '));
        command.args(["--root", node.netns.remembering_root()]);
        run(command.env("SHORT_LOG", path("log")))
    };
    let mut count = Count::default();
    let verbs = [
        "apply",
        "revert",
        "status --json",
        "doctor",
        "explain a0",
        "policy show",
    ];
    let mut cases = Vec::new();
    for words in verbs {
        for (number, call) in STREAMS {
            node.reset(words == "revert");
            let last = node.calls(words).get(call).map_or(0, |range| *range.end());
            cases
                .extend((1..=last).flat_map(|n| [1, 100].map(|length| (words, number, n, length))));
        }
    }
    assert!(cases.len() > 100, "{cases:?}");
    for (words, call, n, length) in sample(cases) {
        let changes = ["apply", "revert"].contains(&words);
        node.reset(words == "revert");
        let whole = short(call, usize::MAX >> 1, length, words);
        node.reset(words == "revert");
        let ended = short(call, n, length, words);
        if fs::read_to_string(path("log"))
            .expect("read the log")
            .is_empty()
        {
            continue;
        }
        count.tried += 1;
        count.survived += 1;
        let mut wrong = Vec::new();
        if (ended.code, ended.text(), ended.errors()) != (whole.code, whole.text(), whole.errors())
        {
            wrong.push(format!(
                "{}: {}{}",
                ended.code,
                ended.text(),
                ended.errors()
            ));
        }
        wrong.extend(node.half_written());
        if changes {
            wrong.extend(node.repaired(words == "revert", true));
        }
        if !wrong.is_empty() {
            count.lost.push(format!(
                "{words}, call {call}, {n}, {length}: {}",
                wrong.join("; ")
            ));
        }
    }
    assert!(count.tried > 0);
    report("short", &count);
}
