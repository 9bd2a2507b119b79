//! The probe on the running kernel: its results, the same results from other programs, and no leftovers.
//!
//! Needs root, tcpdump(8), setpriv(1), mount(8) and unshare(1); fails without them. Runs in namespaces of its own. Needs a kernel
//! with VXLAN, veth, macvlan and `nf_tables` NAT.

use std::collections::HashSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use vxcsum::kernel::BugId;
use vxcsum::link::OuterChecksum;
use vxcsum::probe::burst::{Below, Burst, Forwarding};
use vxcsum::probe::frame::{Checksum, parse};
use vxcsum::probe::run_io::{host, run};
use vxcsum::probe::{
    BugOutcome, BugResult, CaseNat, Cause, Family, Hex, Limits, Observed, Place, ProbeRun,
};

/// The file for the result of [`child`]. Only a child has this variable.
const OUT: &str = "VXCSUM_TEST_PROBE_OUT";

/// The other tests run this in a process of its own, with other privileges. It leaves no resources behind.
#[test]
#[ignore = "run by the other tests"]
fn child() {
    let out = std::env::var_os(OUT).expect("only to be run by the other tests");
    let files = || fs::read_dir("/proc/self/fd").unwrap().count();
    let (files_before, namespaces_before) = (files(), namespaces_of("self"));
    let run = run(&Limits::default(), Place::NewNamespace);
    assert_eq!(files(), files_before);
    // The kernel needs a moment to remove a thread that has ended.
    let begun = Instant::now();
    while namespaces_of("self") != namespaces_before {
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
    fs::write(out, run.to_json().unwrap()).unwrap();
}

/// A command that runs [`child`] by way of `wrapper`.
fn child_command(wrapper: &[&str], out: &Path) -> Command {
    let exe = std::env::current_exe().unwrap();
    let mut words = wrapper.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    words.push(exe.to_str().unwrap().to_owned());
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env(OUT, out)
        .stdout(Stdio::null());
    command
}

/// The result of [`child`] run by way of `wrapper`.
fn run_child(wrapper: &[&str]) -> ProbeRun {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run.json");
    let status = child_command(wrapper, &out).status();
    let status = status.unwrap_or_else(|e| panic!("{wrapper:?}: {e}"));
    assert!(status.success(), "{wrapper:?}: {status}");
    ProbeRun::from_json(&fs::read(out).unwrap()).unwrap()
}

fn codes(run: &ProbeRun) -> Vec<Option<Cause>> {
    let code = |result: &BugResult| match &result.outcome {
        BugOutcome::Inconclusive(reason) => Some(reason.code),
        BugOutcome::Affected | BugOutcome::NotAffected => None,
    };
    run.results.iter().map(code).collect()
}

/// Every bug has an answer, the same over IPv4 and IPv6. Every packet was seen, and turning a feature off cures each
/// bug.
fn assert_conclusive(run: &ProbeRun) {
    for result in &run.results {
        let fraglist = (result.id == BugId::GsoLcoCsum).then_some(true);
        match (&result.outcome, result.cured, result.cured_by_fraglist_off) {
            (BugOutcome::NotAffected, None, None) => {}
            (BugOutcome::Affected, Some(true), by_fraglist) if by_fraglist == fraglist => {}
            other => panic!("{}: {other:?} ({:?})", result.id.as_str(), run.failed),
        }
        assert_eq!(result.other, None, "{}", result.id.as_str());
    }
    let Some(Forwarding::Bursts(bursts)) = &run.forwarding else {
        panic!("nothing was forwarded: {:?}", run.forwarding);
    };
    for burst in bursts {
        let counts = burst.counts().expect("nothing captured");
        assert!(
            counts.whole() && counts.none + counts.unfinished == 0,
            "{burst:?}"
        );
        match (burst.below, burst.off) {
            (Below::Macvlan, None) => assert!(counts.segmented_twice(), "{burst:?}"),
            _ => assert_eq!(counts.wrong, 0, "{burst:?}"),
        }
    }
    for case in &run.cases {
        let Observed::Frame { outer, inner, .. } = &case.observed else {
            panic!("nothing captured: {case:?}");
        };
        assert_eq!(*inner, Checksum::Valid, "{case:?}");
        if case.nat == CaseNat::None || !case.feature_on {
            let expected = match case.outer_checksum {
                OuterChecksum::Zero => Checksum::Absent,
                _ => Checksum::Valid,
            };
            assert_eq!(*outer, expected, "{case:?}");
        }
    }
}

#[test]
fn the_running_kernel() {
    let run = run(&Limits::default(), Place::NewNamespace);
    assert_conclusive(&run);
    assert!(run.is_of(&host()));
    let text = run.to_json().unwrap();
    let again = ProbeRun::from_json(text.as_bytes()).unwrap();
    assert_eq!(again.to_json().unwrap(), text);
}

/// tcpdump reads the same frames, and its verdict on each checksum counts.
#[test]
fn tcpdump_agrees() {
    let run = run(&Limits::default(), Place::NewNamespace);
    assert_conclusive(&run);
    // <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html>: LINKTYPE_ETHERNET is 1.
    let mut pcap = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 0xffff, 1] {
        pcap.extend_from_slice(&word.to_ne_bytes());
    }
    let mut add = |frame: &Hex| {
        let len = u32::try_from(frame.0.len()).unwrap();
        for word in [0, 0, len, len] {
            pcap.extend_from_slice(&word.to_ne_bytes());
        }
        pcap.extend_from_slice(&frame.0);
    };
    let mut seen = Vec::new();
    for case in &run.cases {
        let Observed::Frame {
            outer,
            inner,
            frame,
            ..
        } = &case.observed
        else {
            panic!("nothing captured: {case:?}");
        };
        add(frame);
        seen.push((*outer, *inner));
    }
    let Some(Forwarding::Bursts(bursts)) = &run.forwarding else {
        panic!("nothing was forwarded");
    };
    for counts in bursts.iter().filter_map(Burst::counts) {
        let parsed = parse(&counts.frame.0).unwrap();
        add(&counts.frame);
        seen.push((parsed.outer.checksum, parsed.inner.checksum));
    }
    let mut tcpdump = Command::new("tcpdump")
        .args(["-nn", "-vv", "-t", "-r", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("run tcpdump");
    tcpdump.stdin.take().unwrap().write_all(&pcap).unwrap();
    let mut text = String::new();
    let mut stdout = tcpdump.stdout.take().unwrap();
    stdout.read_to_string(&mut text).unwrap();
    assert!(tcpdump.wait().unwrap().success());
    // The words before "VXLAN" are about the outer packet, the words after it about the inner packet.
    let packets = records(&text);
    assert_eq!(packets.len(), seen.len(), "{text}");
    for (packet, (outer, inner)) in packets.iter().zip(seen) {
        let (before, after) = packet.split_once("VXLAN").expect(packet);
        assert_eq!(checksum(before), outer, "{packet}");
        assert_eq!(checksum(after), inner, "{packet}");
    }
}

/// The text of tcpdump, one string for each packet. The first line of a packet begins with its protocol, and other
/// lines follow. The inner packet begins in the same way, and its line comes after the line with "VXLAN".
fn records(text: &str) -> Vec<String> {
    let mut records: Vec<String> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        let header = line.starts_with("IP ") || line.starts_with("IP6 ");
        if header && !inside {
            records.push(String::new());
        }
        if header {
            inside = false;
        }
        inside |= line.contains("VXLAN");
        let record = records.last_mut().expect("text before the first packet");
        record.push_str(line);
        record.push('\n');
    }
    records
}

/// The checksum of one packet according to tcpdump.
fn checksum(text: &str) -> Checksum {
    let hex = |text: &str| u16::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    let words: Vec<&str> = text
        .split([' ', ',', '\n', '[', ']', '(', ')', '!'])
        .collect();
    let at = |run: &[&str]| words.windows(run.len()).position(|w| w == run);
    if at(&["no", "cksum"]).is_some() {
        return Checksum::Absent;
    }
    // UDP: "[bad udp cksum 0x1234 -> 0x5678!]"; TCP: "cksum 0x1234 (incorrect -> 0x5678)".
    if let Some(at) = at(&["bad", "udp", "cksum"]) {
        // tcpdump does not know that tunnels over IPv6 may omit the checksum (RFC 6935).
        return match hex(words[at + 3]) {
            0 if text.starts_with("IP6") => Checksum::Absent,
            found => Checksum::Invalid {
                found,
                expected: hex(words[at + 5]),
            },
        };
    }
    assert!(
        at(&["udp", "sum", "ok"]).is_some() || at(&["correct"]).is_some(),
        "no checksum in {text}"
    );
    Checksum::Valid
}

/// The network namespaces of all processes, threads and open files of this machine.
fn namespaces_of(pid: &str) -> HashSet<u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let tasks = tasks.into_iter().flatten().flatten();
    let net = tasks.map(|task| task.path().join("ns/net"));
    let files = fs::read_dir(format!("/proc/{pid}/fd"));
    let files = files.into_iter().flatten().flatten().map(|fd| fd.path());
    net.chain(files.filter(|fd| fs::read_link(fd).is_ok_and(|to| to.starts_with("net:"))))
        .filter_map(|path| fs::metadata(path).ok())
        .map(|meta| meta.ino())
        .collect()
}

fn assert_no_device() {
    let devices = fs::read_to_string("/proc/net/dev").unwrap();
    assert!(!devices.contains("vxprobe"), "{devices}");
}

#[test]
fn nothing_is_left() {
    // The child checks itself.
    assert_conclusive(&run_child(&["setpriv"]));
    assert_no_device();
}

/// Kills the process at many moments of a run. No namespace and no device stays behind.
#[test]
fn killed_at_any_moment() {
    let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
    let dir = tempfile::tempdir().unwrap();
    let mut private = 0;
    for step in 0..24 {
        let mut child = child_command(&["setpriv"], &dir.path().join("run.json"))
            .spawn()
            .unwrap();
        let namespace = await_namespace(&mut child, own);
        thread::sleep(Duration::from_millis(step));
        child.kill().unwrap();
        child.wait().unwrap();
        let Some(namespace) = namespace else {
            continue;
        };
        private += 1;
        assert_gone(namespace);
        assert_no_device();
    }
    assert!(
        private > 12,
        "only {private} runs were seen in their namespace"
    );
}

/// The namespace of a thread of the child, other than the namespace of this process. `None` if the child ended first.
fn await_namespace(child: &mut Child, own: u64) -> Option<u64> {
    let pid = child.id().to_string();
    while child.try_wait().unwrap().is_none() {
        if let Some(other) = namespaces_of(&pid).into_iter().find(|ns| *ns != own) {
            return Some(other);
        }
    }
    None
}

/// No process, thread or mount holds this namespace. The kernel may give its number to another namespace, but not
/// forever.
fn assert_gone(namespace: u64) {
    let begun = Instant::now();
    loop {
        let pids = fs::read_dir("/proc").unwrap().flatten();
        let holder = pids
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.bytes().all(|b| b.is_ascii_digit()))
            .find(|pid| namespaces_of(pid).contains(&namespace));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounted = mounts.contains(&format!("net:[{namespace}]"));
        if holder.is_none() && !mounted {
            return;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "namespace {namespace} is still held by {holder:?}"
        );
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn many_at_once() {
    let runs: Vec<_> = (0..4)
        .map(|_| thread::spawn(|| run(&Limits::default(), Place::NewNamespace)))
        .collect();
    let mut outcomes = HashSet::new();
    for run in runs {
        let run = run.join().unwrap();
        assert_conclusive(&run);
        outcomes.insert(format!("{:?}", run.results));
    }
    assert_eq!(outcomes.len(), 1, "{outcomes:?}");
}

#[test]
fn without_a_capability() {
    for capability in ["sys_admin", "net_admin", "net_raw"] {
        let drop = format!("--bounding-set=-{capability}");
        let inherit = format!("--inh-caps=-{capability}");
        let run = run_child(&["setpriv", &inherit, &drop]);
        assert_eq!(codes(&run), [Some(Cause::NoPermission); 3], "{capability}");
        let reason = run.failed.unwrap();
        assert!(reason.text.contains("CAP_SYS_ADMIN"), "{reason}");
        assert!(run.cases.is_empty());
    }
}

/// Root of a user namespace, without privileges outside, measures the same.
#[test]
fn in_a_user_namespace() {
    let own = run(&Limits::default(), Place::NewNamespace);
    let run = run_child(&["unshare", "--user", "--map-root-user"]);
    assert_conclusive(&run);
    assert_eq!(run.results, own.results);
}

/// As in vxcsum-probe.service: the service manager creates the namespace, `/proc/sys` is read-only, and two capabilities are enough.
#[test]
fn in_a_namespace_that_was_given() {
    let unprivileged = |script: &str| {
        let root = tempfile::tempdir().unwrap();
        let script = format!(
            "{script}
             mount --bind /proc/sys /proc/sys
             mount -o remount,ro,bind /proc/sys
             ip -o link > $ROOT/before
             setpriv --inh-caps=-all,+net_admin,+net_raw --bounding-set=-all,+net_admin,+net_raw $BIN --json --root $ROOT probe --private-network || code=$?
             echo ${{code:-0}} > $ROOT/code
             ip -o link > $ROOT/after"
        );
        let output = Command::new("unshare")
            .args(["--net", "--mount", "sh", "-euc", &script])
            .env("ROOT", root.path())
            .env("BIN", env!("CARGO_BIN_EXE_vxcsum"))
            .output()
            .expect("run unshare");
        let read = |name| fs::read_to_string(root.path().join(name)).unwrap();
        let run = ProbeRun::from_json(&output.stdout);
        let run =
            run.unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
        (run, read("code"), read("before") == read("after"))
    };
    let (run, code, _) = unprivileged("");
    assert_conclusive(&run);
    assert_eq!(code, "0\n");

    // What a namespace can inherit from the host: strict checks of source addresses, and no IPv6.
    let (strict, code, _) = unprivileged(
        "for d in all default; do
             echo 1 > /proc/sys/net/ipv4/conf/$d/rp_filter
             echo 1 > /proc/sys/net/ipv6/conf/$d/disable_ipv6
         done",
    );
    assert_eq!(code, "0\n");
    for (strict, result) in strict.results.iter().zip(&run.results) {
        assert_eq!(strict.outcome, result.outcome);
        assert_eq!(strict.cured, result.cured);
        assert_eq!(strict.cured_by_fraglist_off, result.cured_by_fraglist_off);
        let other = strict.other.as_ref().expect("IPv6 is told apart");
        let BugOutcome::Inconclusive(reason) = &other.outcome else {
            panic!("{other:?}");
        };
        assert_eq!((other.family, reason.code), (Family::Ipv6, Cause::NoIpv6));
        assert!(strict.meaning().contains("seen over IPv4 only"));
    }

    // A namespace with a device that a user added is refused, whatever the name of the device.
    for device in ["veth9", "lo0", "gre00"] {
        let (run, code, untouched) = unprivileged(&format!("ip link add {device} type bridge"));
        assert_eq!(codes(&run), [Some(Cause::NoNetworkNamespace); 3]);
        assert!(run.failed.unwrap().text.contains(device));
        assert_eq!((code.as_str(), untouched), ("1\n", true));
    }
}

#[test]
fn no_more_namespaces_allowed() {
    let script = "echo 0 > /proc/sys/user/max_net_namespaces && exec \"$@\"";
    let run = run_child(&[
        "unshare",
        "--user",
        "--map-root-user",
        "sh",
        "-c",
        script,
        "sh",
    ]);
    assert_eq!(codes(&run), [Some(Cause::SetupFailed); 3]);
    let reason = run.failed.unwrap();
    assert!(reason.text.contains("(ENOSPC)"), "{reason}");
}

#[test]
fn out_of_time() {
    let limits = Limits {
        total: Duration::from_millis(1),
        packets: Duration::from_millis(1),
    };
    let run = run(&limits, Place::NewNamespace);
    assert_eq!(codes(&run), [Some(Cause::Timeout); 3]);
}
