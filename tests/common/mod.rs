//! Network namespaces for tests, and observation of vxcsum.
//!
//! Owns devices that exist only for one test, and every other program that a test runs. A test without its requirements
//! (root, ip, ethtool, strace) fails and says why. No test is skipped.
#![allow(
    dead_code,
    reason = "each test program uses its own part of this module"
)]

mod trace;
mod watch;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;

#[allow(unused_imports, reason = "see above")]
pub use trace::Request;
#[allow(unused_imports, reason = "see above")]
pub use watch::{MAX_WAIT, VXLAN, Watch};

pub const VXCSUM: &str = env!("CARGO_BIN_EXE_vxcsum");
pub const FEATURE: &str = "tx-checksum-ip-generic";
pub const BACKENDS: [&str; 2] = ["netlink", "ioctl"];
/// A root with its own os-release and a policy that makes the verdict the same on every kernel: `nat-lco-csum`
/// affected, `nat-zero-csum` fixed.
pub const ROOT: &str = "tests/fixtures/root";

/// Runs a command as nobody, without capabilities.
pub const NOBODY: [&str; 7] = [
    "setpriv",
    "--reuid",
    "65534",
    "--regid",
    "65534",
    "--clear-groups",
    "--",
];

const PREFIX: &str = "vxcsum-test-";
/// Prefixes of the names of namespaces, before the process id: of tests (`vxe` in older ones), of the demo, and of
/// benchmarks.
pub const PREFIXES: [&str; 5] = [
    PREFIX,
    "vxcsum-demo-",
    "vxcsum-bench-",
    "vxcsum-react-",
    "vxe",
];

/// The result of a program.
#[derive(Debug)]
pub struct Run {
    /// 128 plus the signal number if a signal ended the program.
    pub code: i32,
    pub out: Vec<u8>,
    pub err: Vec<u8>,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let signal = || 128 + output.status.signal().unwrap_or_default();
        Self {
            code: output.status.code().unwrap_or_else(signal),
            out: output.stdout,
            err: output.stderr,
        }
    }
}

impl Run {
    /// Panics with the whole output if the program did not end with this code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            code,
            "stdout: {}\nstderr: {}",
            self.text(),
            self.errors()
        );
        self
    }

    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.out).expect("stdout is UTF-8")
    }

    #[track_caller]
    pub fn errors(&self) -> &str {
        std::str::from_utf8(&self.err).expect("stderr is UTF-8")
    }

    /// The output must be exactly one JSON value.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.out)
            .unwrap_or_else(|e| panic!("{e} in: {}\nstderr: {}", self.text(), self.errors()))
    }
}

/// One device of a JSON report.
#[track_caller]
pub fn device<'a>(report: &'a Value, name: &str) -> &'a Value {
    let devices = report["devices"].as_array().expect("a report has devices");
    devices
        .iter()
        .find(|device| device["name"] == name)
        .unwrap_or_else(|| panic!("no {name} in {devices:#?}"))
}

/// The names of the devices in a JSON report, in the same order.
pub fn names(report: &Value) -> Vec<&str> {
    report["devices"]
        .as_array()
        .expect("a report has devices")
        .iter()
        .map(|device| device["name"].as_str().expect("a name"))
        .collect()
}

/// A feature as ethtool(8) shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EthtoolFeature {
    pub active: bool,
    pub requested: bool,
    pub fixed: bool,
}

/// The features of one device, by name.
pub type EthtoolFeatures = BTreeMap<String, EthtoolFeature>;

/// A network namespace that is deleted when the test ends, also by a panic.
pub struct Netns {
    name: String,
    root: tempfile::TempDir,
}

impl Netns {
    /// An empty namespace, with `lo` up.
    #[track_caller]
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        static PREPARED: Once = Once::new();
        PREPARED.call_once(prepare);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let netns = Self {
            name: format!("{PREFIX}{}-{number}", std::process::id()),
            root: copied_root(),
        };
        checked(Command::new("ip").args(["netns", "add", &netns.name]));
        netns.ip("link set lo up");
        netns
    }

    /// A typical node: a veth pair, with an address on one end as the underlay.
    #[track_caller]
    pub fn with_underlay() -> Self {
        let netns = Self::new();
        netns.batch(
            "link add eth0 type veth peer name peer0\n\
             addr add 192.0.2.1/24 dev eth0\n\
             addr add fd00::1/64 dev eth0 nodad\n\
             link set eth0 up\n\
             link set peer0 up\n",
        );
        netns
    }

    /// Three VXLAN devices that need a change (`a0`, `b0`, `c0`).
    #[track_caller]
    pub fn with_three() -> Self {
        let netns = Self::new();
        for (vni, name) in [(1, "a0"), (2, "b0"), (3, "c0")] {
            netns.ip(&format!(
                "link add {name} type vxlan id {vni} dstport 8472 udpcsum"
            ));
        }
        netns
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A copy of the fixtures' root for this namespace, with the files of earlier runs.
    pub fn remembering_root(&self) -> &str {
        self.root
            .path()
            .to_str()
            .expect("a temporary directory has a plain name")
    }

    /// The same root without a record, so every run starts in the same state.
    pub fn root(&self) -> &str {
        let run = self.root.path().join("run");
        if run.exists() {
            fs::remove_dir_all(&run).expect("remove the record");
        }
        self.remembering_root()
    }

    /// Runs `ip` with these arguments.
    #[track_caller]
    pub fn ip(&self, words: &str) -> Run {
        self.ip_bytes(words.split_whitespace())
    }

    /// Runs `ip` with arguments of any bytes.
    #[track_caller]
    pub fn ip_bytes(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Run {
        checked(Command::new("ip").args(["-n", &self.name]).args(args))
    }

    /// Adds a peer, 192.0.2.2, to this device.
    #[track_caller]
    pub fn add_peer(&self, device: &str) {
        let words = format!("fdb append 02:00:00:00:00:09 dev {device} dst 192.0.2.2");
        run(self.command("bridge").args(words.split(' '))).expect(0);
    }

    /// Runs `ip -batch`: one process for many devices.
    #[track_caller]
    pub fn batch(&self, lines: &str) {
        feed_command(
            Command::new("ip").args(["-n", &self.name, "-batch", "-"]),
            lines,
        );
    }

    /// A command that runs a program inside the namespace.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name])
            .arg(program)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::null());
        command
    }

    /// Creates a table `ip owned` of `nf_tables` with these commands. The table exists as long as the process that owns
    /// it.
    #[track_caller]
    pub fn own_table(&self, commands: &str) -> OwnedTable {
        let mut command = self.command("nft");
        let owner = command
            .arg("-i")
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        let mut owner = owner.spawn().expect("run nft");
        let input = owner.stdin.as_mut().expect("a pipe");
        let last = "add chain ip owned last";
        write!(
            input,
            "add table ip owned {{ flags owner; }}\n{commands}\n{last}\n"
        )
        .expect("write to nft");
        let mut look = self.command("nft");
        look.args(["list", "chain", "ip", "owned", "last"]);
        let deadline = Instant::now() + Duration::from_secs(10);
        while !look.output().is_ok_and(|output| output.status.success()) {
            assert!(Instant::now() < deadline, "nft -i makes no table");
            thread::sleep(Duration::from_millis(5));
        }
        OwnedTable { owner }
    }

    /// Runs vxcsum inside the namespace, with these arguments and the root of the fixtures.
    #[track_caller]
    pub fn vxcsum(&self, words: &str) -> Run {
        run(self
            .command(VXCSUM)
            .args(words.split_whitespace())
            .args(["--root", self.root()]))
    }

    /// Runs vxcsum under strace, with faults injected as strace(1) describes them. Discards the output of strace.
    #[track_caller]
    pub fn with_faults(&self, faults: &[&str], words: &str) -> Run {
        let mut command = self.command("strace");
        // The same path in every run, because reports quote it.
        command.current_dir(self.root());
        command.args(["-f", "-o", "/dev/null"]);
        for fault in faults {
            command.arg(format!("--inject={fault}"));
        }
        command.arg("--").arg(VXCSUM).args(words.split_whitespace());
        run(command.args(["--root", "."]))
    }

    /// Runs vxcsum with these arguments as nobody, with the record of the run before. It must fail for lack of
    /// privileges and say so.
    #[track_caller]
    pub fn denied(&self, words: &str) {
        let (_directory, binary) = public_binary();
        let mut command = self.command(NOBODY[0]);
        command
            .args(&NOBODY[1..])
            .arg(binary)
            .args(words.split_whitespace());
        let denied = run(command
            .args(["--root", self.remembering_root()])
            .current_dir("/"))
        .expect(77);
        assert!(
            denied.errors().contains("CAP_NET_ADMIN"),
            "{}",
            denied.errors()
        );
    }

    /// The features of a device according to ethtool(8).
    #[track_caller]
    pub fn ethtool(&self, device: impl AsRef<OsStr>) -> EthtoolFeatures {
        let run = run(self.command("ethtool").args(["--json", "-k"]).arg(device)).expect(0);
        // Without the line with the name, which ethtool does not escape.
        let lines = run.out.split(|byte| *byte == b'\n');
        let lines: Vec<_> = lines
            .filter(|line| !line.trim_ascii_start().starts_with(b"\"ifname\""))
            .collect();
        let json: Value = serde_json::from_slice(&lines.concat()).expect("ethtool prints JSON");
        let features = json[0]
            .as_object()
            .expect("ethtool prints an array with one object");
        let bit = |value: &Value, key: &str| value[key].as_bool().expect("ethtool prints booleans");
        features
            .iter()
            // Combined features of ethtool have nulls here.
            .filter(|(_, value)| !value["fixed"].is_null())
            .map(|(name, value)| {
                let seen = EthtoolFeature {
                    active: bit(value, "active"),
                    requested: bit(value, "requested"),
                    fixed: bit(value, "fixed"),
                };
                (name.clone(), seen)
            })
            .collect()
    }

    /// True if the feature is active on a device, according to ethtool(8).
    #[track_caller]
    pub fn is_on(&self, device: impl AsRef<OsStr>) -> bool {
        self.ethtool(device)[FEATURE].active
    }

    /// Turns the feature on or off with ethtool(8).
    #[track_caller]
    pub fn set(&self, device: &str, on: bool) {
        let value = if on { "on" } else { "off" };
        run(self.command("ethtool").args(["-K", device, FEATURE, value])).expect(0);
    }

    /// `ip -d -j link`, by name.
    #[track_caller]
    pub fn links(&self) -> BTreeMap<String, Value> {
        let json = self.ip("-d -j link show").json();
        let links = json.as_array().expect("ip prints an array");
        links
            .iter()
            .map(|link| {
                (
                    link["ifname"].as_str().expect("a name").to_owned(),
                    link.clone(),
                )
            })
            .collect()
    }

    /// The features of every device of the namespace, according to ethtool(8).
    #[track_caller]
    pub fn everything(&self) -> BTreeMap<String, EthtoolFeatures> {
        self.links()
            .into_keys()
            .map(|name| {
                let seen = self.ethtool(&name);
                (name, seen)
            })
            .collect()
    }

    /// Runs a function in a thread inside the namespace.
    #[track_caller]
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        let file =
            File::open(Path::new("/run/netns").join(&self.name)).expect("open the namespace");
        let body = || {
            use std::os::fd::AsFd;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("enter the namespace");
            inside()
        };
        std::thread::scope(|scope| scope.spawn(body).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // A drop must not panic. The next run deletes a leftover, see `sweep`.
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .output();
    }
}

/// Readable for everybody, because some tests run vxcsum without privileges.
fn copied_root() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().expect("make a directory");
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755))
        .expect("open it to everybody");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(ROOT);
    for file in ["etc/os-release", "etc/vxcsum/policy.toml"] {
        let target = root.path().join(file);
        fs::create_dir_all(target.parent().expect("a directory")).expect("make a directory");
        fs::copy(source.join(file), target).expect("copy a fixture");
    }
    root
}

/// The setup that each process needs once.
#[track_caller]
fn prepare() {
    assert!(
        rustix::process::geteuid().is_root(),
        "these tests make network namespaces and devices: run them as root"
    );
    for (program, version, package) in [
        ("ip", "-V", "iproute2"),
        ("ethtool", "--version", "ethtool"),
        ("strace", "-V", "strace"),
    ] {
        let found = Command::new(program).arg(version).output();
        assert!(
            found.is_ok(),
            "these tests need {program}: install the package {package}"
        );
    }
    sweep();
}

/// Deletes the namespaces of processes that were killed.
pub fn sweep() {
    let Ok(entries) = fs::read_dir("/run/netns") else {
        return;
    };
    for name in entries.flatten().map(|entry| entry.file_name()) {
        let owner = name.to_str().and_then(owner);
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = Command::new("ip")
                .args(["netns", "del"])
                .arg(&name)
                .output();
        }
    }
}

/// The id of the process that created a namespace of the project, from its name.
fn owner(name: &str) -> Option<&str> {
    let rest = PREFIXES
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))?;
    let pid = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    (!pid.is_empty()).then_some(pid)
}

/// Runs a program to its end.
/// See [`Netns::own_table`].
pub struct OwnedTable {
    owner: Child,
}

impl Drop for OwnedTable {
    /// nft ends when its input ends, and its table disappears.
    fn drop(&mut self) {
        drop(self.owner.stdin.take());
        let _ = self.owner.wait();
    }
}

#[track_caller]
pub fn run(command: &mut Command) -> Run {
    match command.output() {
        Ok(output) => output.into(),
        Err(e) => panic!("run {}: {e}", command.get_program().display()),
    }
}

/// Runs a program with this input. It must succeed.
#[track_caller]
pub fn feed(program: &str, args: &[&str], input: &str) {
    feed_command(Command::new(program).args(args), input);
}

#[track_caller]
fn feed_command(command: &mut Command, input: &str) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("run {}: {e}", command.get_program().display()));
    let mut stdin = child.stdin.take().expect("a pipe");
    // The exit status decides about a program that does not read its input or ends early.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("wait for it");
    assert!(
        output.status.success(),
        "{command:?}: {}\n{input}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[track_caller]
fn checked(command: &mut Command) -> Run {
    let run = run(command);
    assert_eq!(
        run.code,
        0,
        "{command:?}: {}",
        String::from_utf8_lossy(&run.err)
    );
    run
}

/// Bytes in the syntax of strace(1).
pub fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).expect("a digit");
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)])
        .collect()
}

/// A fault for [`Netns::with_faults`]: `uname` answers this, and vxcsum judges this kernel.
pub fn uname_says(release: &str, version: &str) -> String {
    // https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/utsname.h#L24
    let fields = ["Linux", "node", release, version, "x86_64", "(none)"];
    let utsname = fields.map(|field| {
        let mut bytes = [0; 65];
        bytes[..field.len()].copy_from_slice(field.as_bytes());
        bytes
    });
    format!("uname:poke_exit=@arg1={}", hex(&utsname.concat()))
}

/// A copy of vxcsum that any user can execute, whatever the permissions of the checkout.
pub fn public_binary() -> (tempfile::TempDir, PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().expect("make a directory");
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(directory.path(), open).expect("set permissions");
    let binary = directory.path().join("vxcsum");
    // Another program writes the copy: a child of another thread would inherit the open file, and nobody can execute a
    // file that is open for writing (ETXTBSY).
    checked(
        Command::new("install")
            .args(["-m", "755", VXCSUM])
            .arg(&binary),
    );
    (directory, binary)
}
