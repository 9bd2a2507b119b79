//! The log: the fields that reach journald, and the lines without a journal.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{FEATURE, Netns, Run, VXCSUM, run};

type Entry = BTreeMap<String, String>;

/// A datagram of <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>.
fn entry(mut datagram: &[u8]) -> Entry {
    let mut fields = Entry::new();
    while let Some(end) = datagram.iter().position(|byte| *byte == b'\n') {
        let line = std::str::from_utf8(&datagram[..end]).expect("UTF-8");
        datagram = &datagram[end + 1..];
        let (key, value) = if let Some((key, value)) = line.split_once('=') {
            (key, value.to_owned())
        } else {
            let (len, rest) = datagram.split_at(8);
            let len = u64::from_le_bytes(len.try_into().expect("eight bytes"));
            let (value, rest) = rest.split_at(usize::try_from(len).expect("a length"));
            assert_eq!(rest.first(), Some(&b'\n'));
            datagram = &rest[1..];
            (line, String::from_utf8(value.to_vec()).expect("UTF-8"))
        };
        let twice = fields.insert(key.to_owned(), value);
        assert_eq!(twice, None, "{key}");
    }
    assert_eq!(datagram, b"", "every field ends with a line feed");
    fields
}

/// Runs vxcsum in a mount namespace whose only journald is a socket of this test.
fn with_journal(netns: &Netns, words: &str) -> (Run, String, Vec<Entry>) {
    let directory = tempfile::tempdir().expect("make a directory");
    let path = directory.path();
    fs::create_dir_all(path.join("systemd/journal")).expect("make a directory");
    let socket = UnixDatagram::bind(path.join("systemd/journal/socket")).expect("bind a socket");
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .expect("set a time limit");
    let stderr = File::create(path.join("stderr")).expect("make a file");
    let meta = stderr.metadata().expect("read its inode");
    let mut command = netns.command("unshare");
    command
        .args([
            "--mount",
            "sh",
            "-ec",
            "mount --bind \"$1\" /run; shift; exec \"$@\"",
            "sh",
        ])
        .arg(path)
        .arg(VXCSUM)
        .args(words.split_whitespace())
        .args(["--log", "--root", netns.remembering_root()])
        .env("JOURNAL_STREAM", format!("{}:{}", meta.dev(), meta.ino()))
        .stderr(stderr);
    let ended = run(&mut command);
    let mut entries = Vec::new();
    let mut datagram = vec![0; 1 << 16];
    while let Ok(len) = socket.recv(&mut datagram) {
        entries.extend((len > 0).then(|| entry(&datagram[..len])));
    }
    let errors = fs::read_to_string(path.join("stderr")).expect("read stderr");
    (ended, errors, entries)
}

fn ids() -> BTreeMap<&'static str, &'static str> {
    vxcsum::output::message_ids::ALL.into_iter().collect()
}

#[track_caller]
fn check(entry: &Entry, expected: &[(&str, &str)]) {
    for (key, value) in expected {
        assert_eq!(
            entry.get(*key).map(String::as_str),
            Some(*value),
            "{key} in {entry:#?}"
        );
    }
    for key in ["CODE_FILE", "CODE_LINE", "CODE_MODULE", "SYSLOG_PID"] {
        assert!(entry.contains_key(key), "{key} in {entry:#?}");
    }
    assert!(entry["CODE_FILE"].contains("src/"));
}

fn ifindex(netns: &Netns, device: &str) -> String {
    netns.links()[device]["ifindex"].to_string()
}

#[test]
fn one_entry_a_change_with_all_fields_and_silence_after_it() {
    let netns = Netns::with_three();
    netns.ip("link add keep0 type vxlan id 9 dstport 8472 udpcsum");
    let (run, errors, entries) = with_journal(&netns, "apply");
    run.expect(0);
    assert_eq!((errors.as_str(), entries.len()), ("", 3), "{entries:#?}");
    for (entry, (device, vni)) in entries.iter().zip([("a0", "1"), ("b0", "2"), ("c0", "3")]) {
        let ifindex = ifindex(&netns, device);
        check(
            entry,
            &[
                ("MESSAGE_ID", ids()["changed"]),
                ("VXCSUM_DEVICE", device),
                ("VXCSUM_IFINDEX", &ifindex),
                ("VXCSUM_VNI", vni),
                ("VXCSUM_ACTION", "turn-off"),
                ("VXCSUM_OUTCOME", "changed"),
                ("VXCSUM_REASON", "exposure-unknown"),
                ("VXCSUM_BUG", "nat-lco-csum"),
                ("PRIORITY", "5"),
                ("SYSLOG_IDENTIFIER", "vxcsum"),
            ],
        );
        assert_eq!(
            entry["MESSAGE"],
            format!("{device}: turned {FEATURE} off: exposure-unknown: nat-lco-csum")
        );
        let also = entry["VXCSUM_ALSO_OFF"].split(' ');
        assert!(also.clone().count() > 3 && also.clone().any(|f| f == "tx-tcp-segmentation"));
        assert!(entry["VXCSUM_EXPOSURE"].contains("the underlay is not known"));
    }
    let (run, errors, entries) = with_journal(&netns, "apply");
    run.expect(0);
    assert_eq!((errors.as_str(), entries), ("", Vec::new()), "second apply");

    let (run, _, entries) = with_journal(&netns, "revert --device b0");
    run.expect(0);
    assert_eq!(entries.len(), 1, "{entries:#?}");
    check(
        &entries[0],
        &[
            ("MESSAGE_ID", ids()["reverted"]),
            ("VXCSUM_DEVICE", "b0"),
            ("VXCSUM_ACTION", "turn-on"),
            ("PRIORITY", "5"),
        ],
    );
}

#[test]
fn giving_back_is_one_entry() {
    let netns = Netns::with_three();
    with_journal(&netns, "apply").0.expect(0);
    let path = std::path::Path::new(netns.remembering_root()).join("etc/vxcsum/policy.toml");
    let policy = fs::read_to_string(&path).expect("read the policy");
    let rule = "[[rule]]\nname = \"kept\"\ndevice = [\"b0\"]\nwhen = \"never\"\n";
    fs::write(&path, format!("{policy}\n{rule}")).expect("write the policy");
    let (run, _, entries) = with_journal(&netns, "apply");
    run.expect(0);
    assert_eq!(entries.len(), 1, "{entries:#?}");
    check(
        &entries[0],
        &[
            ("MESSAGE_ID", ids()["given-back"]),
            ("VXCSUM_DEVICE", "b0"),
            ("VXCSUM_ACTION", "turn-on"),
            ("VXCSUM_OUTCOME", "changed"),
            ("VXCSUM_REASON", "rule-never"),
            ("PRIORITY", "5"),
        ],
    );
    assert!(netns.is_on("b0") && !netns.is_on("a0"));
}

#[test]
fn a_conflict_is_logged_once_with_all_fields() {
    let netns = Netns::with_three();
    for round in 0..5 {
        netns.set("b0", true);
        let (run, _, entries) = with_journal(&netns, "apply --device b0");
        match round {
            0..3 => {
                run.expect(0);
                assert_eq!(entries.len(), 1, "{entries:#?}");
                let message = &entries[0]["MESSAGE"];
                let again = [
                    "off: exposure-unknown",
                    "program turned it on since",
                    "2 times within",
                ][round];
                assert!(message.contains(again), "{message}");
            }
            3 => {
                run.expect(1);
                assert_eq!(entries.len(), 1, "{entries:#?}");
                let message = &entries[0]["MESSAGE"];
                assert!(message.contains(" UTC, in 60 minutes"), "{message}");
                check(
                    &entries[0],
                    &[
                        ("MESSAGE_ID", ids()["conflict"]),
                        ("VXCSUM_DEVICE", "b0"),
                        ("VXCSUM_IFINDEX", &ifindex(&netns, "b0")),
                        ("VXCSUM_VNI", "2"),
                        ("VXCSUM_ACTION", "leave"),
                        ("VXCSUM_OUTCOME", "refused"),
                        ("VXCSUM_REASON", "contested"),
                        ("VXCSUM_BUG", "nat-lco-csum"),
                        ("PRIORITY", "4"),
                    ],
                );
            }
            _ => {
                run.expect(1);
                assert_eq!(entries, Vec::new(), "it is no news");
            }
        }
    }
}

#[test]
fn a_policy_that_is_not_valid_is_one_entry() {
    let netns = Netns::with_three();
    let policy = Path::new(netns.root()).join("etc/vxcsum/policy.toml");
    fs::write(policy, "version = 1\nnonsense = 2\n").expect("write the policy");
    let (run, _, entries) = with_journal(&netns, "apply");
    run.expect(78);
    assert_eq!(entries.len(), 1, "{entries:#?}");
    check(
        &entries[0],
        &[("MESSAGE_ID", ids()["policy-rejected"]), ("PRIORITY", "3")],
    );
    assert!(entries[0]["MESSAGE"].contains("nonsense"));
}

fn service(netns: &Netns, words: &str) -> Command {
    let mut command = netns.command(VXCSUM);
    command
        .args(words.split_whitespace())
        .args(["--log", "--root", netns.remembering_root()])
        .env_remove("JOURNAL_STREAM");
    command
}

#[test]
fn without_a_journal_there_is_one_line_a_change_with_its_priority() {
    let netns = Netns::with_three();
    let first = run(&mut service(&netns, "apply")).expect(0);
    let lines: Vec<_> = first.errors().lines().collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    for (line, device) in lines.iter().zip(["a0", "b0", "c0"]) {
        assert!(line.starts_with(&format!("<5>{device}: turned ")), "{line}");
    }
    let second = run(&mut service(&netns, "apply")).expect(0);
    assert_eq!(second.errors(), "");

    // An unreachable journal is not an error.
    netns.set("b0", true);
    let third = run(service(&netns, "apply").env("JOURNAL_STREAM", "1:1")).expect(0);
    assert_eq!(third.errors().lines().count(), 1);

    // An error about several lines of a policy is one line in the log.
    fs::write(
        Path::new(netns.remembering_root()).join("etc/vxcsum/policy.toml"),
        "nonsense",
    )
    .expect("write the policy");
    let bad = run(&mut service(&netns, "apply")).expect(78);
    assert_eq!(bad.errors().lines().count(), 1, "{}", bad.errors());
    assert!(bad.errors().starts_with("<3>"), "{}", bad.errors());
}

#[test]
fn a_terminal_gets_only_the_report() {
    let netns = Netns::with_three();
    // The terminal of a session inherits the variables of the service manager.
    let first = netns
        .command(VXCSUM)
        .args(["apply", "--root", netns.root()])
        .env("INVOCATION_ID", "0")
        .output();
    let first = common::Run::from(first.expect("run vxcsum")).expect(0);
    assert_eq!(first.errors(), "");
    assert!(first.text().contains("3 changed\n"), "{}", first.text());
}
