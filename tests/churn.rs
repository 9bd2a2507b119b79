//! Thousands of devices are made, renamed, moved between namespaces and deleted, and NAT rules are replaced, beside eight `apply`, a `watch`
//! and a `revert` with tiny receive buffers. At the end no device is in the wrong state, and the memory of `watch` has not grown.
//!
//! `make test` makes 500 devices. `VXCSUM_CHURN=100000 cargo test --test churn -- --nocapture` makes more, and counts.

mod common;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{FEATURE, Netns, Run, VXCSUM, Watch, device, hex, run};
use rustix::process::Signal;

/// Devices of one round.
const ROUND: usize = 50;
/// So many rounds leave devices behind, and so many of each.
const KEPT_ROUNDS: usize = 20;
const KEPT: usize = 6;
/// A replaced set of rules for each of so many devices.
const DEVICES_PER_RULES: usize = 100;
/// A revert gives everything back, so that `watch` and `apply` start again.
const REVERT_PAUSE: Duration = Duration::from_millis(500);
/// kB. The allocator keeps what the longest list of devices needed.
const GROWTH: u64 = 2048;

/// The smallest buffer that the kernel gives: 2304 bytes, which holds one event.
fn tiny(which: &str) -> String {
    let size = hex(&1u32.to_ne_bytes());
    format!("--inject=setsockopt:poke_enter=@arg4={size}:when={which}")
}

/// The memory of a process in kB: a line of `/proc/PID/status`.
fn memory(watch: &Watch<'_>, line: &str) -> u64 {
    let path = format!("/proc/{}/status", watch.pid().as_raw_nonzero());
    let status = fs::read_to_string(path).expect("watch runs");
    let found = status.lines().find_map(|l| l.strip_prefix(line));
    let number = found.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next());
    number.and_then(|n| n.parse().ok()).expect("a number of kB")
}

/// The exit code, and the first error that the run names.
fn why(ended: &Run) -> String {
    let words = ended.errors().split(|c: char| !c.is_ascii_alphanumeric());
    let errno =
        |word: &&str| word.len() > 3 && word.starts_with('E') && **word == word.to_uppercase();
    let found = words.clone().find(errno);
    let changing = ended.errors().contains("kept changing");
    let found = if changing {
        Some("devices kept changing")
    } else {
        found
    };
    format!("{} {}", ended.code, found.unwrap_or_default())
}

struct Churn {
    here: Netns,
    there: Netns,
    done: AtomicBool,
    moves: AtomicUsize,
    /// The number of runs by verb and by what they ended with.
    runs: Mutex<BTreeMap<String, usize>>,
    wrong: Mutex<Vec<String>>,
}

impl Churn {
    fn over(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    /// Devices `first` and up: made, renamed, moved, moved back and deleted.
    fn round(&self, first: usize, keep: bool) {
        let group = first + 1;
        let mut make = String::new();
        let mut names = Vec::new();
        for at in 0..ROUND {
            let n = first + at;
            // The decision about every fifth device follows the rules.
            let name = format!("{}{n}", if at % 5 == 0 { "rules" } else { "d" });
            let group = if keep && at < KEPT { 0 } else { group };
            writeln!(
                make,
                "link add {name} group {group} type vxlan id {n} dstport 8472 udpcsum local 192.0.2.1 remote 192.0.2.2"
            )
            .expect("write to a string");
            names.push(name);
        }
        self.here.batch(&make);
        let mut rename = String::new();
        let mut away = String::new();
        let mut back = String::new();
        for (at, name) in names.iter().enumerate() {
            match at % 10 {
                2 | 5 => writeln!(rename, "link set {name} name r{name}"),
                3 | 4 => {
                    self.moves.fetch_add(1, Ordering::Relaxed);
                    writeln!(away, "link set {name} netns {}", self.there.name())
                        .and_then(|()| writeln!(back, "link set {name} name m{name}"))
                        .and_then(|()| {
                            if at % 10 == 4 {
                                self.moves.fetch_add(1, Ordering::Relaxed);
                                writeln!(back, "link set m{name} netns {}", self.here.name())
                            } else {
                                Ok(())
                            }
                        })
                }
                // `ip link del` waits for the kernel, so most are deleted together.
                7 if at < 10 => writeln!(rename, "link del {name}"),
                _ => Ok(()),
            }
            .expect("write to a string");
        }
        self.here.batch(&rename);
        self.here.batch(&away);
        self.there.batch(&back);
        self.here.batch(&format!("link del group {group}\n"));
        self.there.batch(&format!("link del group {group}\n"));
    }

    /// The rules are another set each time. The last one rewrites the outer packets.
    fn replace_rules(&self, times: usize) {
        for n in (0..times).rev() {
            let what = ["masquerade fully-random", "masquerade"][n % 2];
            let rules = format!(
                "table ip t {{}}; delete table ip t; table ip t {{ chain post {{ type nat hook postrouting priority 100; \
                 tcp dport {} {what}; {what}; }}; }}",
                n % 60_000 + 1
            );
            run(self.here.command("nft").arg(&rules)).expect(0);
        }
    }

    /// Runs a verb until the end. It may say that devices keep changing, and nothing worse.
    fn repeat(&self, verb: &'static str, netns: &Netns, strace: &[String], pause: Duration) {
        while !self.over() {
            let mut command = netns.command("strace");
            command
                .args([
                    "-f",
                    "--seccomp-bpf",
                    "-qq",
                    "-o",
                    "/dev/null",
                    "-e",
                    "trace=setsockopt",
                ])
                .args(strace)
                .arg("--")
                .arg(VXCSUM)
                .args(verb.split(' '))
                .args(["--root", self.here.remembering_root()]);
            let ended = run(&mut command);
            let said = ended.errors();
            if !matches!(ended.code, 0 | 1)
                || said.contains("panicked")
                || said.is_empty() != (ended.code == 0)
            {
                let mut wrong = self.wrong.lock().expect("no thread panicked");
                wrong.push(format!("{verb} ended with {}: {said}", ended.code));
            }
            let mut runs = self.runs.lock().expect("no thread panicked");
            let ended = format!("{verb}: {}", why(&ended));
            *runs.entry(ended).or_default() += 1;
            drop(runs);
            thread::sleep(pause);
        }
    }
}

/// The names of the VXLAN devices of a namespace.
fn devices(netns: &Netns) -> Vec<String> {
    let links = netns.ip("-j link show type vxlan").json();
    let links = links.as_array().expect("ip prints an array");
    let name = |link: &serde_json::Value| link["ifname"].as_str().expect("a name").to_owned();
    links.iter().map(name).collect()
}

/// Those on which the feature is on.
fn on(netns: &Netns) -> Vec<String> {
    let all = devices(netns).into_iter();
    all.filter(|name| netns.is_on(name)).collect()
}

#[test]
#[allow(clippy::too_many_lines, reason = "one story")]
fn no_device_is_lost_while_thousands_come_and_go() {
    let wanted = std::env::var("VXCSUM_CHURN").map_or(500, |n| n.parse().expect("a number"));
    let began = Instant::now();
    let churn = Churn {
        here: Netns::with_underlay(),
        there: Netns::new(),
        done: AtomicBool::new(false),
        moves: AtomicUsize::new(0),
        runs: Mutex::default(),
        wrong: Mutex::default(),
    };
    let policy = std::path::Path::new(churn.here.remembering_root()).join("etc/vxcsum/policy.toml");
    let text = fs::read_to_string(&policy).expect("read the policy")
        + "\n[[rule]]\nname = \"by rules\"\ndevice = [\"rules*\", \"*rules*\"]\nwhen = \"exposed\"\n\
           \n[[rule]]\nname = \"others\"\ndevice = [\"*\"]\nwhen = \"always\"\n";
    fs::write(&policy, text).expect("write the policy");
    let rounds = wanted / ROUND;
    churn.replace_rules(1);
    // The third option that it sets is the size of the buffer for link events.
    let strace = ["-f", "--seccomp-bpf", "-e", "trace=setsockopt", &tiny("3")];
    let watch = Watch::start_with(&churn.here, "", &strace, &[]);
    let (mut early, mut late) = (0, 0);
    thread::scope(|scope| {
        let mut beside = Vec::new();
        for n in 0..8 {
            let churn = &churn;
            // Of each socket for requests, the second option.
            let strace = if n % 2 == 0 {
                vec![]
            } else {
                vec![tiny("2+2")]
            };
            let verb = ["apply --backend netlink", "apply --backend ioctl"][n / 2 % 2];
            let netns = if n < 6 { &churn.here } else { &churn.there };
            beside.push(scope.spawn(move || churn.repeat(verb, netns, &strace, Duration::ZERO)));
        }
        beside.push(scope.spawn(|| churn.repeat("revert", &churn.here, &[], REVERT_PAUSE)));
        let rules = scope.spawn(|| churn.replace_rules(wanted.div_ceil(DEVICES_PER_RULES)));
        let makers: Vec<_> = (0..2)
            .map(|maker| {
                let (churn, watch) = (&churn, &watch);
                scope.spawn(move || {
                    let mut early = 0;
                    for round in (maker..rounds).step_by(2) {
                        let kept = round % (rounds / KEPT_ROUNDS).max(1) == 0;
                        // It surely loses the events of the first round.
                        if round == 0 {
                            watch.signal(Signal::STOP);
                        }
                        churn.round(round * ROUND + 1, kept);
                        if round == 0 {
                            watch.signal(Signal::CONT);
                        }
                        if round >= rounds / 4 && early == 0 {
                            early = memory(watch, "VmRSS");
                        }
                    }
                    early
                })
            })
            .collect();
        for maker in makers {
            early = maker.join().expect("devices come and go");
        }
        rules.join().expect("rules are replaced");
        late = memory(&watch, "VmRSS");
        churn.done.store(true, Ordering::Relaxed);
        for thread in beside {
            thread.join().expect("a verb runs");
        }
    });

    // From now on `watch` is alone.
    let count = devices(&churn.here).len();
    assert!(count >= KEPT_ROUNDS, "{count}");
    watch.until("devices are still on", || on(&churn.here).is_empty());
    let peak = memory(&watch, "VmHWM");
    let said = watch.stop();
    let resyncs = said.matches("came faster than they could be read").count();
    let turned = said.matches(": turned ").count();
    let retries = said.matches("; trying again").count();
    let alone = churn.there.command(VXCSUM);
    let mut alone = alone;
    alone.args(["apply", "--root", churn.here.remembering_root()]);
    run(&mut alone).expect(0);
    assert_eq!(on(&churn.there), Vec::<String>::new());

    let runs = churn.runs.into_inner().expect("no thread panicked");
    println!(
        "{} devices made in {} s, {} moves, {} sets of rules, {} left: 0 in the wrong state\n\
         watch: {turned} changes, {resyncs} times events were lost, {retries} looks repeated; \
         VmRSS {early} kB after a quarter, {late} kB at the end, VmHWM {peak} kB\n\
         runs: {runs:?}",
        rounds * ROUND,
        began.elapsed().as_secs(),
        churn.moves.into_inner(),
        wanted.div_ceil(DEVICES_PER_RULES),
        count,
    );
    let wrong = churn.wrong.into_inner().expect("no thread panicked");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(resyncs > 0, "no event was lost: {said}");
    assert!(late <= early + GROWTH, "VmRSS: {early} kB, then {late} kB");

    // The record knows what was turned off.
    let mut revert = churn.here.command(VXCSUM);
    revert.args(["revert", "--json", "--root", churn.here.remembering_root()]);
    let report = run(&mut revert).expect(0).json();
    for name in devices(&churn.here) {
        // A device that was in the other namespace left its record there.
        if !name.starts_with('m') {
            assert!(
                churn.here.is_on(&name),
                "{FEATURE} of {name}: {:#}",
                device(&report, &name)
            );
        }
    }
}
