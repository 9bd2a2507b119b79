//! A running `vxcsum watch`: its messages to the service manager and, with strace, its requests to the kernel.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{Netns, VXCSUM};

pub const VXLAN: &str = "dstport 8472 udpcsum";
/// The longest wait of a test. Waits usually take a thousandth of it.
pub const MAX_WAIT: Duration = Duration::from_secs(10);

/// A running `vxcsum watch` that does not outlive its test.
pub struct Watch<'a> {
    netns: &'a Netns,
    /// vxcsum, or strace with vxcsum below it.
    child: Child,
    notify: UnixDatagram,
    directory: tempfile::TempDir,
}

impl<'a> Watch<'a> {
    /// Starts `watch` and waits until it is ready.
    #[track_caller]
    pub fn start(netns: &'a Netns, words: &str) -> Self {
        Self::start_with(netns, words, &[], &[])
    }

    /// Starts `watch` with optional arguments for strace, and with environment variables.
    #[track_caller]
    pub fn start_with(
        netns: &'a Netns,
        words: &str,
        strace: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let directory = tempfile::tempdir().expect("make a directory");
        let path = |name: &str| directory.path().join(name);
        let notify = UnixDatagram::bind(path("notify")).expect("bind a socket");
        notify
            .set_read_timeout(Some(MAX_WAIT))
            .expect("set a time limit");
        let mut command: Command = if strace.is_empty() {
            netns.command(VXCSUM)
        } else {
            let mut command = netns.command("strace");
            command.arg("-o").arg(path("log")).args(strace);
            command.arg("--").arg(VXCSUM);
            command
        };
        command
            .arg("watch")
            .args(words.split_whitespace())
            .args(["--root", netns.remembering_root()])
            .env("NOTIFY_SOCKET", path("notify"))
            .env_remove("INVOCATION_ID")
            .env_remove("JOURNAL_STREAM")
            .env_remove("WATCHDOG_USEC")
            .envs(variables.iter().copied())
            .stdout(File::create(path("stdout")).expect("make a file"))
            .stderr(File::create(path("stderr")).expect("make a file"));
        let child = command.spawn().expect("run vxcsum watch");
        let watch = Self {
            netns,
            child,
            notify,
            directory,
        };
        watch.message("READY=1");
        watch
    }

    /// The output on stdout so far.
    pub fn printed(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("stdout")).expect("read stdout")
    }

    /// Traces this system call besides those in which `watch` waits.
    #[track_caller]
    pub fn traced(netns: &'a Netns, call: &str) -> Self {
        let trace = format!("trace=poll,ppoll,{call}");
        Self::start_with(netns, "", &["-f", "-e", &trace], &[])
    }

    /// The whole next message to the service manager that has this line.
    #[track_caller]
    pub fn message(&self, line: &str) -> String {
        let mut buffer = [0; 4096];
        let mut before = String::new();
        loop {
            let len = match self.notify.recv(&mut buffer) {
                Ok(len) => len,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => panic!("no {line}, but {before}: {e}\n{}", self.errors()),
            };
            let text = std::str::from_utf8(&buffer[..len]).expect("UTF-8");
            if text.lines().any(|found| found == line) {
                return text.to_owned();
            }
            before.push_str(text);
        }
    }

    pub fn errors(&self) -> String {
        fs::read_to_string(self.directory.path().join("stderr")).expect("read stderr")
    }

    /// The pid of vxcsum itself, also below strace.
    pub fn pid(&self) -> Pid {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let below = children.ok().and_then(|pids| {
            let first = pids.split_whitespace().next()?;
            Pid::from_raw(first.parse().ok()?)
        });
        below.unwrap_or_else(|| Pid::from_child(&self.child))
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("send a signal");
    }

    /// Waits until the feature is off on a device.
    #[track_caller]
    pub fn off(&self, device: &str) {
        self.until(&format!("{device} is still on"), || {
            !self.netns.is_on(device)
        });
    }

    #[track_caller]
    pub fn until(&self, what: &str, done: impl Fn() -> bool) {
        let deadline = Instant::now() + MAX_WAIT;
        while !done() {
            assert!(Instant::now() < deadline, "{what}\n{}", self.errors());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until `watch` has handled all earlier events, by creating a device and waiting for its change.
    #[track_caller]
    pub fn settle(&self) {
        self.netns
            .ip(&format!("link add settle0 type vxlan id 4000 {VXLAN}"));
        self.off("settle0");
        self.netns.ip("link del settle0");
    }

    /// The output of strace so far.
    #[track_caller]
    pub fn written(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).expect("read the log")
    }

    /// The output of strace after vxcsum has been waiting for a while.
    #[track_caller]
    pub fn log(&self) -> String {
        // strace writes the result of a call and the end of its line when the call ends.
        let waits = |text: &str| {
            let last = text.rsplit('\n').next();
            last.is_some_and(|line| line.contains("poll("))
        };
        let mut text = self.written();
        let deadline = Instant::now() + MAX_WAIT;
        loop {
            std::thread::sleep(Duration::from_millis(300));
            let now = self.written();
            if now == text && waits(&now) {
                return now;
            }
            text = now;
            assert!(
                Instant::now() < deadline,
                "it does not come to rest: {}",
                self.errors()
            );
        }
    }

    /// How often `watch` has read the NAT rules, according to the output of strace so far.
    pub fn reads(&self) -> usize {
        self.written().matches("NFT_MSG_GETTABLE").count()
    }

    /// How often `watch` has started to wait, according to the output of strace so far.
    pub fn waits(&self) -> usize {
        let log = self.written();
        log.lines().filter(|line| line.contains("poll(")).count()
    }

    /// Waits until the NAT rules were read this often.
    #[track_caller]
    pub fn has_read(&self, times: usize) {
        self.until(&format!("not read {times} times"), || self.reads() >= times);
    }

    /// The current wait.
    #[track_caller]
    pub fn wait(&self) -> String {
        let log = self.log();
        let mut waits = log.lines().filter(|line| line.contains("poll("));
        waits.next_back().expect("a wait").to_owned()
    }

    /// Ends `watch`. Returns the wait that the signal ended.
    #[track_caller]
    pub fn last_wait(self) -> String {
        let last = self.wait();
        self.stop();
        last
    }

    #[track_caller]
    pub fn stop(mut self) -> String {
        self.signal(Signal::TERM);
        self.message("STOPPING=1");
        let status = self.child.wait().expect("wait for vxcsum");
        assert_eq!(status.code(), Some(0), "{}", self.errors());
        self.errors()
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // Kill vxcsum below strace first: strace ends with it.
            let _ = kill_process(self.pid(), Signal::KILL);
            std::thread::sleep(Duration::from_millis(20));
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
