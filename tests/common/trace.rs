//! vxcsum one request at a time.
//!
//! Owns a run under strace(1) that stops vxcsum after each request to the kernel. The test reads the request from the
//! memory of the stopped process, independently of vxcsum and strace.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{Netns, Run, VXCSUM};

/// One request, after the kernel has answered it and before vxcsum continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// A message to the generic netlink family `ethtool`. Holds the command.
    Netlink(u8),
    /// A SIOCETHTOOL. Holds the command.
    Ioctl(u32),
    /// capget. vxcsum asks for its capabilities after it has decided to change something, and before the first change.
    Capabilities,
    /// A message to netfilter, the dump of addresses or of forwarding entries, or the question which devices forward.
    /// vxcsum sends these after it has read the devices.
    Exposure,
    OtherIoctl,
    /// Any other request.
    Other,
}

impl Request {
    /// True for `ETHTOOL_MSG_FEATURES_SET`, `ETHTOOL_SFEATURES`, and the older set commands (`ETHTOOL_S*` below it).
    pub fn is_set(self) -> bool {
        // https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/ethtool.h#L1891
        const OLD_SETS: [u32; 8] = [0x15, 0x17, 0x19, 0x1f, 0x22, 0x24, 0x26, 0x2c];
        match self {
            Self::Netlink(command) => command == 12,
            Self::Ioctl(command) => command == 0x3b || OLD_SETS.contains(&command),
            Self::Capabilities | Self::Exposure | Self::OtherIoctl | Self::Other => false,
        }
    }
}

/// A traced process that does not outlive the test.
struct Traced {
    strace: Child,
    pid: Option<Pid>,
}

impl Drop for Traced {
    fn drop(&mut self) {
        if let Ok(None) = self.strace.try_wait() {
            // Only after a panic. A stopped process would stay for ever.
            if let Some(pid) = self.pid {
                let _ = kill_process(pid, Signal::KILL);
            }
            let _ = self.strace.kill();
            let _ = self.strace.wait();
        }
    }
}

impl Netns {
    /// Runs vxcsum with the root of the fixtures. While vxcsum is stopped, calls `at` after each request with all
    /// requests so far. Returns the result of the run and all requests.
    #[track_caller]
    pub fn stepped(&self, words: &str, at: impl FnMut(&[Request])) -> (Run, Vec<Request>) {
        let words = words.split_whitespace();
        self.step(
            &[VXCSUM]
                .into_iter()
                .chain(words)
                .chain(["--root", self.root()])
                .collect::<Vec<_>>(),
            at,
        )
    }

    /// As [`Self::stepped`], for any command that ends in vxcsum.
    #[track_caller]
    pub fn step(&self, command: &[&str], mut at: impl FnMut(&[Request])) -> (Run, Vec<Request>) {
        let directory = tempfile::tempdir().expect("make a directory");
        let file = |name: &str| File::create(directory.path().join(name)).expect("make a file");
        let log = directory.path().join("log");
        let strace = self
            .command("strace")
            .args([
                "-f",
                "-e",
                "trace=socket,close,sendto,sendmsg,sendmmsg,write,writev,ioctl,capget",
                "-e",
                "raw=all",
            ])
            .args([
                "--inject=sendto,sendmsg,sendmmsg,ioctl,capget:signal=SIGSTOP",
                "-o",
            ])
            .arg(&log)
            .arg("--")
            .args(command)
            .stdout(Stdio::from(file("out")))
            .stderr(Stdio::from(file("err")))
            .spawn()
            .expect("run strace");
        let mut traced = Traced { strace, pid: None };
        let mut requests = Vec::new();
        let mut netlink = Sockets::default();
        let (mut done, mut last) = (0, String::new());
        let deadline = Instant::now() + Duration::from_secs(60);
        let status = loop {
            let ended = traced.strace.try_wait().expect("wait for strace");
            let text = fs::read_to_string(&log).unwrap_or_default();
            let complete = text.rfind('\n').map_or(0, |end| end + 1);
            for line in text[done..complete].lines() {
                let (pid, line) = line
                    .split_once(' ')
                    .expect("strace -f -o writes the process before each line");
                let pid = pid
                    .parse()
                    .ok()
                    .and_then(Pid::from_raw)
                    .expect("a process id");
                traced.pid = Some(pid);
                let line = line.trim_start();
                if line.starts_with("--- stopped by SIGSTOP") {
                    requests.extend(netlink.requests(pid, &last));
                    at(&requests);
                    kill_process(pid, Signal::CONT).expect("let vxcsum go on");
                } else if !line.starts_with("---") && !line.starts_with("+++") {
                    netlink.note(line);
                    line.clone_into(&mut last);
                }
            }
            done = complete;
            if let Some(status) = ended {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "vxcsum did not end in a minute: {text}"
            );
            std::thread::sleep(Duration::from_millis(1));
        };
        let read =
            |name: &str| fs::read(directory.path().join(name)).expect("read what vxcsum wrote");
        let output = std::process::Output {
            status,
            stdout: read("out"),
            stderr: read("err"),
        };
        (output.into(), requests)
    }

    /// The set requests of a run. Fails if no request was seen at all.
    #[track_caller]
    pub fn sets(&self, words: &str) -> (Run, usize) {
        let (run, requests) = self.stepped(words, |_| ());
        let reads = [Request::Netlink(11), Request::Ioctl(0x3a)];
        assert!(
            requests.iter().any(|request| reads.contains(request)),
            "not even a request for the features was seen: {requests:?}"
        );
        (
            run,
            requests.iter().filter(|request| request.is_set()).count(),
        )
    }
}

/// The descriptors of netlink sockets.
#[derive(Default)]
struct Sockets {
    all: BTreeSet<u64>,
    generic: BTreeSet<u64>,
    netfilter: BTreeSet<u64>,
}

impl Sockets {
    /// Reads lines such as `socket(0x10, 0x80003, 0x10) = 0x3`, and checks that `requests` misses no request.
    fn note(&mut self, line: &str) {
        let (name, args, result) = parse(line);
        if name == "socket" && args.first() == Some(&0x10) {
            self.all.extend(result);
            match args.get(2) {
                Some(0x10) => self.generic.extend(result),
                Some(0xc) => self.netfilter.extend(result),
                _ => {}
            }
        } else if name == "close" {
            // The next file gets the same number.
            let fd = args.first().copied().unwrap_or_default();
            for sockets in [&mut self.all, &mut self.generic, &mut self.netfilter] {
                sockets.remove(&fd);
            }
        } else if matches!(name, "sendmsg" | "sendmmsg" | "write" | "writev") {
            let fd = args.first().copied().unwrap_or_default();
            assert!(
                !self.all.contains(&fd),
                "a netlink request that these tests do not decode: {line}"
            );
        }
    }

    fn requests(&self, pid: Pid, line: &str) -> Vec<Request> {
        let (name, args, _) = parse(line);
        match (name, &args[..]) {
            ("capget", _) => vec![Request::Capabilities],
            ("ioctl", [_, 0x8946, ifreq]) => {
                let pointer = word(&read(pid, ifreq + 16, 8));
                let command = read(pid, pointer, 4);
                vec![Request::Ioctl(u32::from_ne_bytes(
                    command.try_into().expect("four bytes"),
                ))]
            }
            ("ioctl", _) => vec![Request::OtherIoctl],
            ("sendto", [fd, buffer, len, ..]) if self.generic.contains(fd) => {
                messages(&read(pid, *buffer, *len))
            }
            ("sendto", [fd, ..]) if self.netfilter.contains(fd) => vec![Request::Exposure],
            ("sendto", [fd, buffer, ..]) if self.all.contains(fd) => {
                const RTM_GETADDR: [u8; 2] = 22u16.to_ne_bytes();
                const RTM_GETNEIGH: [u8; 2] = 30u16.to_ne_bytes();
                const RTM_GETNETCONF: [u8; 2] = 82u16.to_ne_bytes();
                let kind = read(pid, buffer + 4, 2);
                if [RTM_GETADDR, RTM_GETNEIGH, RTM_GETNETCONF]
                    .iter()
                    .any(|of| kind == of)
                {
                    vec![Request::Exposure]
                } else {
                    vec![Request::Other]
                }
            }
            _ => vec![Request::Other],
        }
    }
}

fn parse(line: &str) -> (&str, Vec<u64>, Option<u64>) {
    let number = |text: &str| {
        let text = text.trim();
        match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        }
    };
    let (name, rest) = line.split_once('(').unwrap_or((line, ""));
    let (args, result) = rest.split_once(')').unwrap_or((rest, ""));
    let result = result.trim_start().trim_start_matches('=').trim_start();
    let result = number(result.split(' ').next().unwrap_or_default());
    (name, args.split(',').filter_map(number).collect(), result)
}

fn read(pid: Pid, address: u64, len: u64) -> Vec<u8> {
    let path = format!("/proc/{}/mem", pid.as_raw_nonzero());
    let memory = File::open(Path::new(&path)).expect("open the memory of vxcsum");
    let mut bytes = vec![0; usize::try_from(len).expect("a length")];
    memory
        .read_exact_at(&mut bytes, address)
        .expect("read the memory of vxcsum");
    bytes
}

fn word(bytes: &[u8]) -> u64 {
    u64::from_ne_bytes(bytes.try_into().expect("eight bytes"))
}

/// The messages of one send: `struct nlmsghdr`, then `struct genlmsghdr`, whose first byte is the command.
fn messages(mut bytes: &[u8]) -> Vec<Request> {
    const GENL_ID_CTRL: u16 = 0x10;
    let mut found = Vec::new();
    while bytes.len() > 16 {
        let len = u32::from_ne_bytes(bytes[..4].try_into().expect("four bytes")) as usize;
        let kind = u16::from_ne_bytes(bytes[4..6].try_into().expect("two bytes"));
        found.push(if kind == GENL_ID_CTRL {
            Request::Other
        } else {
            Request::Netlink(bytes[16])
        });
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}
