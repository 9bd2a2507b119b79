//! The command line: exit codes, streams, colour, and the commands that need no devices, network or privileges.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use common::{NOBODY, Netns, ROOT, Run, VXCSUM, public_binary, run};
use serde_json::json;

/// Runs vxcsum in a namespace without devices.
fn vxcsum(words: &str) -> Run {
    run(Command::new(VXCSUM)
        .args(words.split_whitespace())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null()))
}

/// The exit code follows the cause. Only an invalid policy gives the exit code of an invalid policy.
#[test]
fn what_cannot_be_read_has_the_exit_code_of_its_cause() {
    let files = tempfile::tempdir().expect("make a directory");
    let policy_d = files.path().join("etc/vxcsum/policy.d");
    fs::create_dir_all(&policy_d).expect("make the policy's directory");
    for (name, text) in [
        ("x.conf", "unread"),
        ("README", ""),
        (".x.toml.swp", ""),
        ("x.toml~", ""),
    ] {
        fs::write(policy_d.join(name), text).expect("write a file");
    }
    let root = files.path().to_str().expect("a path in UTF-8");
    let check = vxcsum(&format!("--root {root} policy check")).expect(0);
    let ignored =
        format!("ignored: {root}/etc/vxcsum/policy.d/x.conf: only names in *.toml are read");
    assert_eq!(check.text().lines().nth(1), Some(&*ignored));
    assert_eq!(check.text().lines().count(), 2, "{}", check.text());

    let (_kept, binary) = public_binary();
    let secret = files.path().join("secret.toml");
    fs::write(&secret, "").expect("write a file");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("hide it");
    fs::set_permissions(files.path(), fs::Permissions::from_mode(0o755))
        .expect("show the directory");
    let secret = secret.to_str().expect("a path in UTF-8");
    for (words, nobody, code, text) in [
        (
            "--root /nonexistent policy check",
            false,
            64,
            "the policy cannot be read",
        ),
        (
            "--policy /nonexistent policy check",
            false,
            78,
            "No such file or directory (ENOENT)",
        ),
        (
            &*format!("--policy {secret} policy check"),
            true,
            77,
            "Permission denied (EACCES)",
        ),
    ] {
        let mut command = Command::new(if nobody { "setpriv" } else { "env" });
        if nobody {
            command.args(&NOBODY[1..]);
        }
        let run = run(command.arg(&binary).args(words.split_whitespace())).expect(code);
        assert!(run.errors().contains(text), "{words}: {}", run.errors());
        assert!(run.out.is_empty(), "{words}: {}", run.text());
    }
}

#[test]
fn wrong_usage_is_64_in_words_and_in_json() {
    for (words, text) in [
        ("", "give a command, or --dry-run"),
        ("frobnicate", "unrecognized subcommand 'frobnicate'"),
        ("--frobnicate", "unexpected argument '--frobnicate'"),
        ("status --dry-run", "unexpected argument '--dry-run'"),
        ("--dry-run status", "--dry-run belongs to apply"),
        (
            "--dry-run explain --kernel 5.4.0",
            "--dry-run belongs to apply",
        ),
        ("--exit-code", "--dry-run"),
        ("apply --exit-code", "--dry-run"),
        ("apply --device", "--device <NAME>"),
        ("apply --if-exists", "name one"),
        ("apply a/b", "no device can have this name"),
        (
            "status --backend sysfs",
            "[possible values: auto, netlink, ioctl]",
        ),
        ("explain a b", "unexpected argument 'b'"),
        ("explain a --kernel 5.4.0", "cannot be used with"),
        ("explain --uname-version x", "--kernel <RELEASE>"),
        ("policy", "check"),
        (
            "explain --kernel garbage",
            "--kernel 'garbage' does not begin with a version",
        ),
        ("doctor --watch ten", "a number of seconds from 1 to 3600"),
        ("policy frobnicate", "unrecognized subcommand 'frobnicate'"),
    ] {
        let plain = vxcsum(words).expect(64);
        assert!(plain.errors().contains(text), "{words}: {}", plain.errors());
        assert!(
            plain.out.is_empty() && !plain.err.contains(&0x1b),
            "{words}: {plain:?}"
        );
        let json = vxcsum(&format!("--json {words}")).expect(64);
        assert!(json.err.is_empty(), "{words}: {}", json.errors());
        let error = json.json()["error"].clone();
        assert_eq!(
            (&error["code"], &error["exit_code"]),
            (&json!("usage"), &json!(64)),
            "{words}"
        );
        assert!(
            error["text"]
                .as_str()
                .is_some_and(|said| said.contains(text)),
            "{words}: {error}"
        );
    }
}

#[test]
fn help_and_version_are_0() {
    for words in [
        "--help",
        "-h",
        "help",
        "apply --help",
        "status -h",
        "explain --help",
        "policy --help",
        "help policy check",
    ] {
        let run = vxcsum(words).expect(0);
        assert!(
            run.text().contains("Usage: vxcsum") && run.err.is_empty(),
            "{words}: {run:?}"
        );
        let widest = run.text().lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(100), "{words}: {widest:?}");
    }
    let version = vxcsum("--version").expect(0);
    let build = option_env!("VXCSUM_COMMIT").filter(|commit| !commit.is_empty());
    let build = build.map_or(String::new(), |commit| format!("commit {commit}, "));
    let build = format!("{build}kernel table {}", vxcsum::kernel::bugs::TABLE_DATE);
    assert_eq!(
        version.text(),
        format!("vxcsum {} ({build})\n", env!("CARGO_PKG_VERSION"))
    );
    let help = vxcsum("--help");
    for code in [
        "0 fine",
        "1 a device failed",
        "2 changes are pending",
        "64 wrong usage",
        "77 not permitted",
        "78 the policy",
    ] {
        let text = help.text().split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(code), "{code}: {text}");
    }
}

#[test]
fn an_argument_cannot_control_the_terminal() {
    for args in [
        ["apply", "--device", "\u{1b}[31mred/"],
        ["explain", "--kernel", "\u{1b}[31m5.4"],
        ["\u{1b}]0;x\u{7}", "", ""],
    ] {
        let run = run(Command::new(VXCSUM).args(args));
        let drawing = |c: char| c.is_control() && c != '\n';
        assert!(
            !run.text().contains(drawing) && !run.errors().contains(drawing),
            "{args:?}: {run:?}"
        );
    }
}

#[test]
fn pending_changes_are_2_only_if_asked_for() {
    let netns = Netns::with_three();
    for (words, code) in [
        ("status", 0),
        ("status --exit-code", 2),
        ("apply --dry-run", 0),
        ("apply --dry-run --exit-code", 2),
        ("--dry-run --exit-code", 2),
        ("--dry-run apply --exit-code", 2),
        ("--dry-run --exit-code apply", 2),
        ("apply --exit-code", 64),
        ("status --exit-code --json", 2),
        ("apply", 0),
        ("status --exit-code", 0),
        ("--dry-run --exit-code", 0),
    ] {
        netns.vxcsum(words).expect(code);
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure_and_a_full_disk_is() {
    let netns = Netns::with_three();
    for words in [
        "status",
        "status --json",
        "explain a0",
        "apply",
        "apply --json",
        "policy show",
        "policy check",
    ] {
        let (reader, writer) = std::io::pipe().expect("make a pipe");
        drop(reader);
        let mut command = netns.command(VXCSUM);
        command
            .args(words.split(' '))
            .args(["--root", netns.root()]);
        let closed = command
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .and_then(std::process::Child::wait_with_output);
        let closed = Run::from(closed.expect("run vxcsum")).expect(0);
        assert!(closed.err.is_empty(), "{words}: {}", closed.errors());

        let full = File::options()
            .write(true)
            .open("/dev/full")
            .expect("open /dev/full");
        let full = command
            .stdout(full)
            .spawn()
            .and_then(std::process::Child::wait_with_output);
        let full = Run::from(full.expect("run vxcsum")).expect(1);
        assert_eq!(
            full.errors(),
            "vxcsum: write the report: No space left on device (ENOSPC)\n",
            "{words}"
        );
    }
    assert!(
        !netns.is_on("a0"),
        "a report that cannot be written does not undo the work"
    );
    let (reader, writer) = std::io::pipe().expect("make a pipe");
    drop(reader);
    let help = Command::new(VXCSUM)
        .arg("--help")
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .expect("run vxcsum");
    assert_eq!((help.status.code(), help.stderr), (Some(0), Vec::new()));
    let full = File::options()
        .write(true)
        .open("/dev/full")
        .expect("open /dev/full");
    let help = Run::from(
        Command::new(VXCSUM)
            .arg("--help")
            .stdout(full)
            .output()
            .expect("run vxcsum"),
    )
    .expect(1);
    assert_eq!(
        help.errors(),
        "vxcsum: write the help: No space left on device (ENOSPC)\n"
    );
}

#[test]
fn colour_is_for_terminals_without_no_color() {
    let netns = Netns::with_three();
    let line = format!("{VXCSUM} status --root {}", netns.root());
    let terminal = |no_color: Option<&str>| {
        let mut command = netns.command("script");
        command
            .args(["-q", "-e", "-c", &line, "/dev/null"])
            .env_remove("NO_COLOR")
            .env("TERM", "xterm");
        if let Some(value) = no_color {
            command.env("NO_COLOR", value);
        }
        run(&mut command).expect(0)
    };
    let (red, escape) = ("\u{1b}[31maffected\u{1b}[0m", '\u{1b}');
    assert!(
        terminal(None).text().contains(red),
        "{}",
        terminal(None).text()
    );
    assert!(
        terminal(Some("")).text().contains(red),
        "an empty NO_COLOR is none"
    );
    assert!(!terminal(Some("1")).text().contains(escape));
    let piped = netns.vxcsum("status").expect(0);
    assert!(piped.text().contains("affected") && !piped.text().contains(escape));
    // The columns are the same without colour.
    let plain: String = anstream_free(terminal(None).text());
    assert_eq!(plain.replace('\r', ""), piped.text());
}

/// The text without its colours.
fn anstream_free(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |plain, part| {
        plain + part.split_once('m').expect("a colour").1
    })
}

/// The output of vxcsum on a terminal with this many columns, without the colours.
fn on_a_terminal(netns: &Netns, columns: usize, term: &str, words: &str) -> String {
    let line = format!(
        "stty cols {columns}; {VXCSUM} {words} --root {}",
        netns.remembering_root()
    );
    let typescript = run(netns
        .command("script")
        .args(["-qec", &line, "/dev/null"])
        .env("TERM", term)
        .env_remove("NO_COLOR"))
    .expect(0);
    let text = typescript.text().replace('\r', "");
    let colored = text.contains('\u{1b}');
    assert!(!colored || term != "dumb", "{term}: {text}");
    let mut plain = String::new();
    for (n, part) in text.split("\u{1b}[").enumerate() {
        let rest = part.split_once('m').filter(|_| n > 0);
        plain += rest.map_or(part, |(_, rest)| rest);
    }
    plain
}

#[test]
fn a_dumb_terminal_gets_no_colours_and_a_pipe_whole_lines() {
    let netns = Netns::with_three();
    let text = on_a_terminal(&netns, 80, "dumb", "status");
    assert!(text.starts_with("AT RISK  a0, b0, c0: "), "{text}");
    let piped = netns.vxcsum("apply --dry-run").expect(0);
    let whole =
        |line: &str| line.contains("why: ") && line.contains("outside this network namespace");
    assert!(piped.text().lines().any(whole), "{}", piped.text());
}

#[test]
fn devices_can_be_named_as_arguments_and_as_options() {
    let netns = Netns::with_three();
    for words in [
        "status a0 b0",
        "status --device a0 --device b0",
        "doctor a0 --device b0",
    ] {
        let run = netns.vxcsum(&format!("{words} --json"));
        let report = run.json();
        assert_eq!(common::names(&report), ["a0", "b0"], "{words}");
        assert_eq!(report["summary"]["devices"], 2, "{words}");
    }
    let explained = netns.vxcsum("explain --device a0").expect(0);
    assert!(explained.text().starts_with("a0: "), "{}", explained.text());
    netns.vxcsum("apply a0").expect(0);
    assert_eq!(["a0", "b0"].map(|name| netns.is_on(name)), [false, true]);
    let quiet = netns.vxcsum("status --exit-code --quiet").expect(2);
    assert!(quiet.out.is_empty() && quiet.err.is_empty(), "{quiet:?}");
}

#[test]
fn reports_fit_a_terminal_with_the_names_people_have() {
    let netns = Netns::with_underlay();
    netns.batch(
        "link add flannel.1 type vxlan id 1 dstport 8472 local 192.0.2.1 dev eth0 udpcsum\n\
         link add flannel-v6.1 type vxlan id 1 dstport 8472 local fd00::1 dev eth0\n\
         link add vxlan.calico type vxlan id 4096 dstport 4789 local 192.0.2.1 dev eth0 udpcsum\n\
         link add vxlan-v6.calico type vxlan id 4096 dstport 4789 local fd00::1 dev eth0\n",
    );
    let status = netns.vxcsum("status").expect(0);
    let header = status
        .text()
        .lines()
        .find(|line| line.starts_with("DEVICE"))
        .expect("a header");
    let columns: Vec<_> = header.split_whitespace().collect();
    assert_eq!(
        columns,
        [
            "DEVICE", "VNI", "PORT", "UNDERLAY", "OUTER", "OFFLOAD", "VERDICT", "ACTION", "REASON"
        ]
    );
    netns.batch(
        "link add cilium_vxlan type vxlan external dstport 8473 udpcsum\n\
         link add vxlan_sys_4790 type vxlan external dstport 4790\n\
         link add keep-16777215 type vxlan id 16777215 dstport 65535 local 192.0.2.1 dev eth0 udpcsum\n\
         link add antrea-tun0 type vxlan id 2 dstport 4791 noudpcsum\n",
    );
    for words in [
        "status",
        "--dry-run",
        "explain vxlan-v6.calico",
        "explain keep-16777215",
        "apply",
        "apply",
        "status",
    ] {
        let run = netns.vxcsum(words).expect(0);
        for line in run.text().lines() {
            assert_eq!(line.trim_end(), line, "{words}: trailing spaces");
        }
        for columns in [80, 100] {
            let text = on_a_terminal(&netns, columns, "xterm", words);
            let links = |line: &&str| !line.trim_start().starts_with("https://");
            for line in text.lines().filter(links) {
                assert!(line.chars().count() <= columns, "{words}: {line}");
            }
            let header = text.lines().find(|line| line.starts_with("DEVICE"));
            if let Some(header) = header {
                assert!(
                    header.contains("ACTION") && header.contains("REASON"),
                    "{header}"
                );
                assert_eq!(header.contains("UNDERLAY"), columns == 100, "{header}");
            }
        }
    }
}

#[test]
fn a_named_kernel_is_judged_without_privileges_and_network() {
    let _root_only = Netns::new();
    let (directory, binary) = public_binary();
    let os_release = directory.path().join("os-release");
    fs::write(&os_release, "ID=rhel\nVERSION_ID=\"8.1\"\n").expect("write");
    let mut command = Command::new("unshare");
    command
        .arg("-n")
        .args(NOBODY)
        .args(["strace", "-f", "-e", "trace=network", "--"])
        .arg(&binary)
        .args([
            "explain",
            "--kernel",
            "4.18.0-147.5.1.el8_1.x86_64",
            "--json",
            "--os-release",
        ])
        .arg(&os_release);
    let explained = run(&mut command).expect(0);
    assert_eq!(
        explained.errors(),
        "+++ exited with 0 +++\n",
        "no socket at all"
    );
    let report = explained.json();
    assert_eq!(report["backend"], json!(null));
    assert_eq!(report["devices"], json!([]));
    assert_eq!(report["kernel"]["release"], "4.18.0-147.5.1.el8_1.x86_64");
    assert_eq!(
        report["kernel"]["distribution"],
        json!({"id": "rhel", "version_id": "8.1"})
    );
    let statuses: Vec<_> = report["kernel"]["bugs"]
        .as_array()
        .expect("bugs")
        .iter()
        .map(|bug| &bug["status"])
        .collect();
    assert_eq!(statuses, ["affected", "affected", "not-affected"]);

    // The os-release of this machine must not matter.
    let bare = vxcsum("explain --kernel 5.4.0-33-generic --json")
        .expect(0)
        .json();
    assert_eq!(
        bare["kernel"]["distribution"],
        json!({"id": "", "version_id": ""})
    );
    for nonsense in ["", "x", "-", "999999999999.1.1", "5", "🦀"] {
        let run =
            run(Command::new(VXCSUM).args(["explain", "--json", "--kernel", nonsense])).expect(64);
        assert_eq!(run.json()["error"]["code"], "usage", "{nonsense:?}");
    }
    let missing = vxcsum("explain --kernel 5.4.0 --os-release /nonexistent/os-release").expect(1);
    assert_eq!(
        missing.errors(),
        "vxcsum: read /nonexistent/os-release: No such file or directory (ENOENT)\n"
    );
}

#[test]
fn a_policy_is_checked_and_shown() {
    let check = vxcsum("policy check packaging/policy.toml").expect(0);
    assert!(
        check
            .text()
            .starts_with("valid: packaging/policy.toml: 0 rules"),
        "{}",
        check.text()
    );
    let installed = vxcsum(&format!("policy check --root {ROOT}")).expect(0);
    assert!(
        installed.text().contains("1 rule, 2 kernel entries"),
        "{}",
        installed.text()
    );
    let json = vxcsum(&format!("policy check --json --root {ROOT}"))
        .expect(0)
        .json();
    assert_eq!(
        (&json["valid"], &json["rules"], &json["kernels"]),
        (&json!(true), &json!(1), &json!(2))
    );

    // The printed policy has the same meaning.
    let shown = vxcsum(&format!("policy show --root {ROOT}")).expect(0);
    let file = tempfile::Builder::new()
        .suffix(".toml")
        .tempfile()
        .expect("make a file");
    fs::write(file.path(), &shown.out).expect("write");
    let path = file.path().to_str().expect("UTF-8");
    let again = vxcsum(&format!("policy check {path} --json"))
        .expect(0)
        .json();
    assert_eq!(
        (&again["rules"], &again["kernels"]),
        (&json["rules"], &json["kernels"])
    );
    let json = vxcsum(&format!("policy show --json --root {ROOT}"))
        .expect(0)
        .json();
    assert_eq!(json["toml"], shown.text());

    fs::write(
        file.path(),
        "version = 1\n[bugs]\nnat-lco-csum = \"sometimes\"\n",
    )
    .expect("write");
    let bad = vxcsum(&format!("policy check {path}")).expect(78);
    assert!(
        bad.out.is_empty() && !bad.errors().contains('\u{1b}'),
        "{bad:?}"
    );
    for part in [
        &format!("{path}:3:16") as &str,
        "^^^",
        "accepted values: \"affected\", \"exposed\", \"never\"",
    ] {
        assert!(bad.errors().contains(part), "{part} in {}", bad.errors());
    }
    let error = vxcsum(&format!("policy check {path} --json"))
        .expect(78)
        .json()["error"]
        .clone();
    assert_eq!(
        (&error["code"], &error["exit_code"]),
        (&json!("policy"), &json!(78))
    );
    assert_eq!(error["problems"].as_array().map(Vec::len), Some(1));
    for (text, answer) in [
        ("[[rule]]\nwhen = never\n", "write text in quotes"),
        ("rule:\n  - when: never\n", "this looks like YAML"),
    ] {
        fs::write(file.path(), text).expect("write");
        let bad = vxcsum(&format!("policy check {path}")).expect(78);
        assert!(bad.errors().contains(answer), "{text}: {}", bad.errors());
        assert!(bad.errors().ends_with('\n'), "{text}");
    }
    fs::write(file.path(), "[bugs]\nnat-lco-csum = \"never\"\n").expect("write");
    vxcsum(&format!("policy check {path}")).expect(0);
    let missing = vxcsum("policy check /nonexistent/policy.toml").expect(78);
    assert!(
        missing.errors().contains("/nonexistent/policy.toml"),
        "{}",
        missing.errors()
    );
}
