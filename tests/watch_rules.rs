//! `watch` and the NAT rules: when it reads them again, and that it sleeps otherwise.
//!
//! Needs root, strace and nft; everything happens in a network namespace of its own.

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{Netns, VXCSUM, run};
use rustix::process::{Pid, Signal, kill_process};

/// `vxcsum watch` under strace, which does not outlive the test.
struct Watch {
    strace: Child,
    directory: tempfile::TempDir,
}

impl Watch {
    fn start(netns: &Netns) -> Self {
        let directory = tempfile::tempdir().expect("make a directory");
        let strace = netns
            .command("strace")
            .args(["-f", "-e", "trace=poll,ppoll,sendto", "-o"])
            .arg(directory.path().join("log"))
            .args(["--", VXCSUM, "watch", "--root", netns.root()])
            .stderr(Stdio::null())
            .spawn()
            .expect("run strace");
        Self { strace, directory }
    }

    fn log(&self) -> String {
        let path: PathBuf = self.directory.path().join("log");
        fs::read_to_string(path).unwrap_or_default()
    }

    /// How often the rules were read.
    fn reads(&self) -> usize {
        self.log().matches("NFT_MSG_GETRULE").count()
    }

    /// Waits until they were read so often, and says whether they were.
    fn has_read(&self, times: usize, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        while self.reads() < times && Instant::now() < end {
            sleep(Duration::from_millis(50));
        }
        self.reads() >= times
    }

    /// Ends it as the service manager does, and gives its last wait.
    fn last_wait(mut self) -> String {
        let log = self.log();
        let pid = log.split_whitespace().next().expect("a process id");
        let pid = pid.parse().ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process id"), Signal::TERM).expect("end it");
        assert!(self.strace.wait().expect("wait for strace").success());
        let log = self.log();
        let mut waits = log.lines().filter(|line| line.contains("poll("));
        waits.next_back().expect("a wait").to_owned()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Ok(None) = self.strace.try_wait() {
            let _ = self.strace.kill();
            let _ = self.strace.wait();
        }
    }
}

fn nft(netns: &Netns, words: &str) {
    run(netns.command("nft").args(words.split_whitespace())).expect(0);
}

fn waits(log: &str) -> usize {
    log.lines().filter(|line| line.contains("poll(")).count()
}

#[test]
fn rules_are_read_again_when_they_change_and_not_more_often() {
    let netns = Netns::with_three();
    let watch = Watch::start(&netns);
    // Once to begin with (twice, if there was something to do), and once more when somebody listens.
    assert!(
        watch.has_read(2, Duration::from_secs(10)),
        "{}",
        watch.log()
    );
    sleep(Duration::from_secs(1));
    let (reads, asleep) = (watch.reads(), waits(&watch.log()));
    sleep(Duration::from_secs(2));
    assert_eq!(waits(&watch.log()), asleep, "it woke up: {}", watch.log());
    // A storm of changes.
    for n in 0..30 {
        nft(&netns, &format!("add table ip t{n}"));
    }
    assert!(
        watch.has_read(reads + 1, Duration::from_secs(15)),
        "{}",
        watch.log()
    );
    sleep(Duration::from_secs(1));
    assert_eq!(watch.reads(), reads + 1, "{}", watch.log());
    assert!(
        waits(&watch.log()) <= asleep + 4,
        "it woke up more than once for the storm: {}",
        watch.log()
    );
    // Nothing is due: it sleeps until something happens.
    let last = watch.last_wait();
    assert!(last.contains("NULL"), "{last}");
}

/// Nobody announces a change of these.
#[test]
fn rules_of_iptables_legacy_are_looked_at_on_a_timer() {
    let netns = Netns::with_three();
    run(netns.command("iptables-legacy").args(["-t", "nat", "-L"])).expect(0);
    let watch = Watch::start(&netns);
    assert!(
        watch.has_read(2, Duration::from_secs(10)),
        "{}",
        watch.log()
    );
    sleep(Duration::from_secs(1));
    let last = watch.last_wait();
    assert!(
        last.contains("tv_sec=59") || last.contains("tv_sec=58"),
        "{last}"
    );
}

/// Where no decision depends on the rules, they are not read and nobody listens.
#[test]
fn rules_that_decide_nothing_are_not_read() {
    let netns = Netns::new();
    // The policy of this root says that the kernel does not have the bug of this one.
    netns.ip("link add z0 type vxlan id 1 dstport 8472 noudpcsum");
    let watch = Watch::start(&netns);
    sleep(Duration::from_secs(2));
    assert_eq!(watch.reads(), 0, "{}", watch.log());
    // One of them is the standard library's look at the standard streams.
    assert!(waits(&watch.log()) <= 2, "{}", watch.log());
    let last = watch.last_wait();
    assert!(last.contains("NULL"), "{last}");
}
