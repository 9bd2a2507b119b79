//! `watch`: every system call of its start, of a new device, of a reload, of a drift, of new rules and of its end fails once, and is the
//! last of a killed process. Afterwards the devices are right: by `watch` itself, or by its next start if it has ended with a message.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::common::{Netns, VXCSUM, VXLAN, run};
use super::{Count, DEVICES, ERRORS, errors_of, report, sample};

/// What happens while `watch` runs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Story {
    /// A device comes, the policy is read anew, a device drifts.
    Devices,
    /// Rules come that expose a device. `watch` lets 10 seconds pass between two looks at rules.
    Rules,
}

/// The longest wait for one step: `watch` repeats a failed look after a second.
const MAX_STEP: Duration = Duration::from_secs(20);

/// A `watch` below strace that does not outlive its case.
struct Traced {
    strace: Child,
    directory: tempfile::TempDir,
}

impl Traced {
    fn start(netns: &Netns, strace: &[String]) -> Self {
        let directory = tempfile::tempdir().expect("make a directory");
        let file = |name: &str| File::create(directory.path().join(name)).expect("make a file");
        let mut command = netns.command("strace");
        command
            .args(["-f", "-qq", "-o"])
            .arg(directory.path().join("log"))
            .args(strace)
            .args(["--", VXCSUM, "watch", "--root", netns.remembering_root()])
            .env_remove("NOTIFY_SOCKET")
            .env_remove("JOURNAL_STREAM")
            .stdout(file("stdout"))
            .stderr(file("stderr"));
        let strace = command.spawn().expect("run strace");
        Self { strace, directory }
    }

    fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.directory.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// `None` before strace has started it.
    fn pid(&self) -> Option<Pid> {
        let id = self.strace.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
        Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            let _ = kill_process(pid, signal);
        }
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.strace.try_wait().expect("wait for strace")
    }

    /// Waits for a step. False if `watch` ended.
    fn until(&mut self, done: impl Fn(&Self) -> bool) -> Result<bool, ()> {
        let deadline = Instant::now() + MAX_STEP;
        while !done(self) {
            if self.ended().is_some() {
                return Ok(false);
            }
            if Instant::now() > deadline {
                return Err(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(true)
    }

    fn calls(&self) -> usize {
        self.read("log").lines().count()
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let deadline = Instant::now() + Duration::from_secs(2);
        while self.ended().is_none() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

/// A namespace of its own for each case, because several run at once.
fn node(story: Story) -> Netns {
    let netns = Netns::with_three();
    if story == Story::Rules {
        let policy = Path::new(netns.remembering_root()).join("etc/vxcsum/policy.toml");
        let text = fs::read_to_string(&policy).expect("read the policy");
        let rule = "\n[[rule]]\nname = \"rules\"\ndevice = [\"late*\"]\nwhen = \"exposed\"\nunknown-exposure = \"not-exposed\"\n";
        fs::write(&policy, text + rule).expect("write the policy");
        netns.batch(&format!(
            "link add eth0 type veth peer name peer0\naddr add 192.0.2.1/24 dev eth0\nlink set eth0 up\nlink set peer0 up\n\
             link add late0 type vxlan id 10 {VXLAN} local 192.0.2.1 remote 192.0.2.2\n"
        ));
        nft(
            &netns,
            "add table ip t; add chain ip t post { type nat hook postrouting priority 100; }",
        );
    }
    netns
}

fn nft(netns: &Netns, words: &str) {
    run(netns.command("nft").arg(words)).expect(0);
}

/// Plays the story. `Ok(true)`: `watch` did all of it and ended when it was told. `Ok(false)`: it ended before. `Err`: a step did not come.
/// `between` is called before the rules change.
fn play(
    netns: &Netns,
    story: Story,
    watch: &mut Traced,
    mut between: impl FnMut(&Traced),
) -> Result<bool, String> {
    let late = |step: &'static str| move |()| format!("no step came after this one: {step}");
    let off = |name: &'static str| move |_: &Traced| !netns.is_on(name);
    let all_off = |_: &Traced| DEVICES.iter().all(|name| !netns.is_on(name));
    if !watch.until(all_off).map_err(late("the start"))? {
        return Ok(false);
    }
    match story {
        Story::Devices => {
            netns.ip(&format!("link add late0 type vxlan id 10 {VXLAN}"));
            if !watch.until(off("late0")).map_err(late("a new device"))? {
                return Ok(false);
            }
            watch.signal(Signal::HUP);
            let reloaded = |watch: &Traced| {
                let said = watch.read("stderr");
                // The message itself may be what could not be written.
                let log = watch.read("log");
                let unsaid = log
                    .lines()
                    .any(|l| l.contains("write(2") && l.contains("(INJECTED)"));
                said.contains("policy reloaded") || said.contains("stays in force") || unsaid
            };
            if !watch.until(reloaded).map_err(late("a reload"))? {
                return Ok(false);
            }
            netns.set("a0", true);
            if !watch.until(off("a0")).map_err(late("a drift"))? {
                return Ok(false);
            }
        }
        Story::Rules => {
            between(watch);
            nft(netns, "add rule ip t post masquerade fully-random");
            if !watch.until(off("late0")).map_err(late("new rules"))? {
                return Ok(false);
            }
        }
    }
    watch.signal(Signal::TERM);
    match watch.until(|_| false) {
        Ok(_) => Ok(true),
        Err(()) => Err("SIGTERM does not end it".to_owned()),
    }
}

/// The next start repairs: everything is off, the record is whole, and `revert` gives everything back.
/// `known`: the record was there all the time.
fn repaired(netns: &Netns, story: Story, known: bool) -> Option<String> {
    let mut next = Traced::start(netns, &["-e".to_owned(), "trace=none".to_owned()]);
    if let Err(e) = play(netns, story, &mut next, |_| ()) {
        return Some(format!("the next start: {e}: {}", next.read("stderr")));
    }
    let status = next.ended();
    if status.and_then(|status| status.code()) != Some(0) {
        return Some(format!(
            "the next start ends with {status:?}: {}",
            next.read("stderr")
        ));
    }
    let mut revert = netns.command(VXCSUM);
    revert.args(["revert", "--root", netns.remembering_root()]);
    let reverted = run(&mut revert);
    let lost = DEVICES
        .into_iter()
        .find(|device| known && !netns.is_on(device));
    match (reverted.code, lost) {
        (0, None) => None,
        (code, lost) => Some(format!("revert: {code}, {lost:?}: {}", reverted.errors())),
    }
}

/// One fault or, without an error, a kill.
#[derive(Clone)]
struct Case {
    story: Story,
    call: String,
    n: usize,
    error: Option<&'static str>,
}

impl Case {
    fn inject(&self) -> String {
        let Self { call, n, error, .. } = self;
        match error {
            Some(error) => format!("--inject={call}:error={error}:when={n}"),
            None => format!("--inject={call}:signal=KILL:when={n}"),
        }
    }

    /// What is wrong after it; `None` if the fault was not met.
    fn run(&self, count: &Mutex<Count>) {
        let netns = node(self.story);
        if self.story == Story::Devices {
            // Each start finds the same.
            let _ = fs::remove_dir_all(Path::new(netns.remembering_root()).join("run"));
        }
        let strace = [
            "-e".to_owned(),
            format!("trace={}", self.call),
            self.inject(),
        ];
        let mut watch = Traced::start(&netns, &strace);
        let played = play(&netns, self.story, &mut watch, |_| ());
        let said = watch.read("stderr") + &watch.read("stdout");
        let met = match self.error {
            Some(_) => watch.read("log").contains("(INJECTED)"),
            None => watch
                .ended()
                .is_some_and(|status| status.signal().is_some()),
        };
        let mut wrong = Vec::new();
        let mut survived = false;
        if said.contains("panicked") {
            wrong.push("it panicked".to_owned());
        }
        let status = watch.ended();
        match (&played, status.and_then(|status| status.code())) {
            (Err(e), _) => wrong.push(e.clone()),
            (Ok(true), Some(0)) => survived = true,
            (Ok(_), None) if self.error.is_none() => {}
            (Ok(_), Some(1 | 64 | 77 | 78)) => {
                if !self.error.is_some_and(|error| said.contains(error))
                    && !said.contains("this kernel has no")
                {
                    wrong.push("it ends without naming the error".to_owned());
                }
            }
            (Ok(_), code) => wrong.push(format!("it ends with {code:?}, {status:?}")),
        }
        drop(watch);
        // A kill can leave the second file of a replacement.
        let record = Path::new(netns.remembering_root()).join("run/vxcsum/state.json");
        if let Ok(text) = fs::read(&record)
            && serde_json::from_slice::<serde_json::Value>(&text).is_err()
        {
            wrong.push("the record is half-written".to_owned());
        }
        let _ = run(netns.command("ip").args(["link", "del", "late0"]));
        if self.story == Story::Devices {
            // By ENOENT the record had vanished.
            let known = self.error != Some("ENOENT");
            wrong.extend(repaired(&netns, self.story, known));
        }
        let mut count = count.lock().expect("no thread panicked");
        if !met && wrong.is_empty() {
            return;
        }
        count.tried += 1;
        if survived {
            count.survived += 1;
        } else {
            count.told += 1;
        }
        if !wrong.is_empty() {
            let inject = self.inject();
            count
                .lost
                .push(format!("{inject}: {}: {said}", wrong.join("; ")));
        }
    }
}

/// All calls of this story that can fail, with their numbers. Those of the loader are left out, and with new rules those before them.
fn points(story: Story) -> Vec<(String, usize)> {
    let netns = node(story);
    let all: BTreeSet<&str> = ERRORS
        .iter()
        .flat_map(|(calls, _)| *calls)
        .copied()
        .collect();
    // This architecture may not have all of them.
    let names: Vec<String> = all.into_iter().map(|name| format!("?{name}")).collect();
    let strace = ["-e".to_owned(), format!("trace={}", names.join(","))];
    let mut watch = Traced::start(&netns, &strace);
    let mut first = 0;
    let played = play(&netns, story, &mut watch, |watch| first = watch.calls());
    assert_eq!(played, Ok(true), "{}", watch.read("stderr"));
    let log = watch.read("log");
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    let mut out = Vec::new();
    let mut loaded = false;
    for (at, line) in log.lines().enumerate() {
        let line = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        let Some((call, _)) = line.split_once('(') else {
            continue;
        };
        loaded |= call == "poll" || call == "ppoll";
        let n = seen.entry(call.to_owned()).or_default();
        *n += 1;
        if loaded && at >= first && !errors_of(call).is_empty() {
            out.push((call.to_owned(), *n));
        }
    }
    assert!(out.len() > 10, "{story:?}: {out:?}");
    out
}

/// Several at once, because each mostly waits.
fn run_all(what: &str, cases: Vec<Case>) {
    let count = Mutex::new(Count::default());
    let next = Mutex::new(sample(cases));
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                loop {
                    let case = next.lock().expect("no thread panicked").next();
                    let Some(case) = case else { break };
                    case.run(&count);
                }
            });
        }
    });
    report(what, &count.into_inner().expect("no thread panicked"));
}

fn faults(story: Story) -> Vec<Case> {
    let points = points(story);
    let errors = points.into_iter().flat_map(|(call, n)| {
        let case = move |error: &'static &'static str| Case {
            story,
            call: call.clone(),
            n,
            error: Some(error),
        };
        errors_of(&case(&"").call).iter().map(case)
    });
    errors.collect()
}

#[test]
fn every_call_of_watch_may_fail() {
    run_all("watch", faults(Story::Devices));
}

#[test]
fn every_call_after_new_rules_may_fail() {
    run_all("watch, new rules", faults(Story::Rules));
}

#[test]
fn every_call_of_watch_may_be_the_last() {
    let points = points(Story::Devices).into_iter();
    let cases = points.map(|(call, n)| Case {
        story: Story::Devices,
        call,
        n,
        error: None,
    });
    run_all("watch, killed", cases.collect());
}

/// Every wait and every request is interrupted at some moment.
#[test]
fn signals_at_any_moment_lose_nothing() {
    let netns = Netns::with_three();
    let mut watch = Traced::start(&netns, &["-e".to_owned(), "trace=none".to_owned()]);
    let all_off = |_: &Traced| DEVICES.iter().all(|name| !netns.is_on(name));
    assert_eq!(watch.until(all_off), Ok(true));
    let mut signals = 0;
    for n in 0..5 {
        let name = format!("s{n}");
        netns.ip(&format!(
            "link add {name} type vxlan id {} {VXLAN}",
            100 + n
        ));
        let deadline = Instant::now() + MAX_STEP;
        loop {
            for _ in 0..200 {
                watch.signal(Signal::HUP);
                signals += 1;
            }
            if !netns.is_on(&name) {
                break;
            }
            assert!(Instant::now() < deadline, "{}", watch.read("stderr"));
        }
    }
    // SIGTERM comes before a SIGHUP that is not yet handled.
    let reloaded = |watch: &Traced| watch.read("stderr").contains("policy reloaded");
    assert_eq!(watch.until(reloaded), Ok(true), "{}", watch.read("stderr"));
    watch.signal(Signal::TERM);
    assert_eq!(watch.until(|_| false), Ok(false));
    assert_eq!(watch.ended().and_then(|status| status.code()), Some(0));
    let said = watch.read("stderr");
    println!("{signals} signals, 0 lost");
    let known = |line: &str| {
        let said = [": turned ", "policy reloaded", "vxcsum: watching; "];
        said.iter().any(|text| line.contains(text))
    };
    assert!(said.lines().all(known), "{said}");
}

/// The queue of a datagram socket holds about ten messages.
#[test]
fn a_service_manager_that_reads_nothing_holds_nothing_up() {
    let netns = Netns::with_three();
    let watch = super::common::Watch::start(&netns, "");
    for n in 0..12 {
        watch.signal(Signal::HUP);
        netns.ip(&format!("link add n{n} type vxlan id {} {VXLAN}", 100 + n));
        watch.off(&format!("n{n}"));
    }
    let said = watch.errors();
    assert!(said.contains("tell the service manager: "), "{said}");
}
