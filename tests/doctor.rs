//! `probe` and `doctor` on real devices, with the two rule sets of the article, installed by the real tools.
//!
//! Needs root, ip, ethtool and iptables (both variants). Runs in network namespaces of its own.

mod common;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use common::{Netns, Run, VXCSUM, device, run};

/// A node with one device with the kernel's default settings.
fn node() -> Netns {
    let netns = Netns::with_underlay();
    // No rule in the policy of this root is about this device.
    netns.ip("link add flannel.1 type vxlan id 1 dstport 8472 local 192.0.2.1 dev eth0 udpcsum nolearning");
    netns.add_peer("flannel.1");
    netns
}

/// Runs vxcsum with the files of earlier runs.
fn again(netns: &Netns, words: &str) -> Run {
    run(netns
        .command(VXCSUM)
        .args(words.split_whitespace())
        .args(["--root", netns.remembering_root()]))
}

/// Installs a rule set of `tests/cases/exposure`.
fn install(netns: &Netns, tool: &str, case: &str) {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/cases/exposure/{case}.rules"));
    let text = fs::read(&path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()));
    let lines = std::str::from_utf8(&text).expect("UTF-8").lines();
    for words in lines.filter_map(|line| line.strip_prefix("# ipset: ")) {
        run(netns.command("ipset").args(words.split(' '))).expect(0);
    }
    restore(netns, tool, &text);
}

fn restore(netns: &Netns, tool: &str, text: &[u8]) {
    let mut child = netns
        .command(format!("{tool}-restore"))
        .stdin(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("run {tool}-restore: {e}"));
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(text).expect("write the rules");
    drop(stdin);
    assert!(child.wait().expect("wait").success(), "{tool}-restore");
}

const KEPT: &str = "-A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully";

#[test]
fn the_rules_of_the_article() {
    for tool in ["iptables-legacy", "iptables-nft"] {
        let netns = node();
        install(&netns, tool, "shell-1-mark-kept");
        let report = netns.vxcsum("doctor --json").expect(2).json();
        assert_eq!(report["summary"]["state"], "broken", "{tool}");
        assert_eq!(report["health"], "broken", "{tool}: {report}");
        assert_eq!(report["kube_proxy"], "keeps-mark", "{tool}");
        let flannel = device(&report, "flannel.1");
        assert_eq!(flannel["exposure"], "exposed", "{tool}");
        assert_eq!(flannel["exposure_rule"], KEPT, "{tool}");
        assert_eq!(flannel["reason"]["code"], "exposed", "{tool}");
        let run = netns.vxcsum("doctor").expect(2);
        let text = run.text().split_whitespace().collect::<Vec<_>>().join(" ");
        for part in [
            "BROKEN flannel.1: NAT on this node corrupts VXLAN packets (kernel bug nat-lco-csum). Fix: vxcsum apply what to do 1. turn the offload off",
            "pod --> NAT --> flannel.1 --> NAT --> eth0 --> other node",
            "^ breaks the outer checksum here",
            KEPT,
            "kube-proxy: not patched",
            "vxcsum apply --dry-run",
            "update kube-proxy to 1.16.13",
        ] {
            assert!(text.contains(part), "{tool}: {part} not in\n{}", run.text());
        }
        // The mark stands below the second NAT.
        let lines: Vec<&str> = run.text().lines().collect();
        let way = lines
            .iter()
            .position(|l| l.contains("pod -->"))
            .expect("a diagram");
        assert_eq!(
            lines[way].rfind("NAT"),
            lines[way + 2].find('^'),
            "{}",
            run.text()
        );
        assert!(netns.is_on("flannel.1"), "doctor changes nothing");

        // The first step is always a cure.
        again(&netns, "apply").expect(0);
        let report = again(&netns, "doctor --json").expect(0).json();
        assert_eq!(report["health"], "safe", "{tool}");
        assert_eq!(report["defence"][0]["offload"], true, "{tool}");

        let netns = node();
        install(&netns, tool, "shell-2-patched");
        let report = netns.vxcsum("doctor --json").expect(2).json();
        // Behind a veth there may be NAT that this node cannot see.
        assert_eq!(report["health"], "at-risk", "{tool}: {report}");
        assert_eq!(report["kube_proxy"], "clears-mark", "{tool}");
        assert_eq!(
            device(&report, "flannel.1")["exposure"],
            "unknown",
            "{tool}"
        );
    }
}

#[test]
fn without_rules_and_without_devices() {
    let netns = Netns::new();
    let report = netns.vxcsum("doctor --json").expect(0).json();
    assert_eq!(report["health"], "safe");
    assert_eq!(report["kube_proxy"], "absent");
    let run = netns.vxcsum("doctor").expect(0);
    assert!(
        run.text().starts_with("OK  no VXLAN or Geneve devices"),
        "{}",
        run.text()
    );
}

#[test]
fn other_managers_and_the_length_of_the_sample() {
    let netns = node();
    let dir = Path::new(netns.root()).join("etc/systemd/network");
    fs::create_dir_all(&dir).expect("make a directory");
    let link = "[Match]\nType=vxlan\n[Link]\nTransmitChecksumOffload=no\n";
    fs::write(dir.join("10-vxlan.link"), link).expect("write a .link file");
    let report = again(&netns, "doctor --watch 1 --json").expect(2).json();
    let managers = report["managers"].as_array().expect("managers");
    assert_eq!(managers.len(), 1, "{managers:?}");
    assert_eq!(managers[0]["kind"], "link-file");
    assert_eq!(report["counters"]["seconds"], 1);
    assert_eq!(report["counters"]["change"]["udp"], 0);
}

/// Over a bridge without rules NAT corrupts nothing. A device that the policy turns off is not latent, and it is
/// something to do.
#[test]
fn a_device_without_outer_checksum_beside_one_with_it() {
    let netns = Netns::new();
    netns.batch(
        "link add br0 type bridge\n\
         link set br0 up\n\
         addr add 192.0.2.1/24 dev br0\n\
         link add zero type vxlan id 1 dstport 8472 local 192.0.2.1 dev br0 noudpcsum nolearning\n\
         link add present type vxlan id 2 dstport 8473 local 192.0.2.1 dev br0 udpcsum nolearning\n",
    );
    netns.add_peer("zero");
    netns.add_peer("present");
    let dir = Path::new(netns.root()).join("etc/vxcsum/policy.d");
    fs::create_dir_all(&dir).expect("make a directory");
    let affected = "[[kernel]]\nrelease = \"*\"\nbug = \"nat-zero-csum\"\nstatus = \"affected\"\n";
    fs::write(dir.join("10-affected.toml"), affected).expect("write a drop-in");
    let status = again(&netns, "status").expect(0);
    let line = |name: &str| {
        let lines = status.text().lines();
        let mut found = lines.filter(|line| line.starts_with(name));
        found.next().expect("a line").to_owned()
    };
    assert!(line("zero").contains(" affected "), "{}", status.text());
    assert!(line("zero").contains("turn-off"), "{}", status.text());
    assert!(line("present").contains(" latent "), "{}", status.text());
    let report = again(&netns, "doctor --json").expect(0).json();
    let steps = report["steps"].as_array().expect("steps");
    let applies = |step: &serde_json::Value| {
        let commands = step["commands"].as_array().expect("commands");
        commands.iter().any(|command| command == "vxcsum apply")
    };
    assert!(steps.iter().any(applies), "{steps:?}");
    again(&netns, "apply").expect(0);
    let report = again(&netns, "doctor --json").expect(0).json();
    let steps = report["steps"].as_array().expect("steps");
    assert!(!steps.iter().any(applies), "{steps:?}");
}

/// Sends a packet through NAT, and finds its flow in connection tracking.
#[test]
fn a_flow_that_was_rewritten() {
    let netns = node();
    netns.batch(
        "addr add 198.51.100.1/24 dev flannel.1\nlink set flannel.1 up\n\
         neigh add 198.51.100.2 lladdr 02:00:00:00:00:02 dev flannel.1 nud permanent\n\
         neigh add 192.0.2.2 lladdr 02:00:00:00:00:03 dev eth0 nud permanent\n",
    );
    run(netns
        .command("bridge")
        .args("fdb append 02:00:00:00:00:02 dev flannel.1 dst 192.0.2.2".split(' ')))
    .expect(0);
    restore(
        &netns,
        "iptables-nft",
        b"*nat\n-A POSTROUTING -o eth0 -j MASQUERADE --random-fully\nCOMMIT\n",
    );
    netns.enter(|| {
        let socket = std::net::UdpSocket::bind("198.51.100.1:0").expect("bind");
        socket.send_to(b"x", "198.51.100.2:9").expect("send");
    });
    let report = netns.vxcsum("doctor --json").expect(2).json();
    let flows = &report["flows"];
    assert_eq!(flows["unreadable"], serde_json::Value::Null, "{flows}");
    assert_eq!(
        (&flows["seen"], &flows["rewritten"]),
        (&1.into(), &1.into()),
        "{flows}"
    );
    let text = report["steps"].to_string();
    assert!(
        text.contains("iptables-nft -t nat -I POSTROUTING 1 -p udp --dport 8472 -j RETURN")
            && !text.contains(" -D "),
        "{text}"
    );
}

#[test]
fn a_measurement_is_kept_for_this_boot_and_decides() {
    let netns = node();
    let stored = Path::new(netns.root()).join("run/vxcsum/probe.json");
    let before = again(&netns, "status --json").expect(0).json();
    assert_eq!(
        before["kernel"]["bugs"][1]["evidence"][0]["source"],
        "policy"
    );
    let probe = again(&netns, "probe --json").expect(0).json();
    assert_eq!(probe["cases"].as_array().map(Vec::len), Some(48));
    let written = fs::read_to_string(&stored).expect("read what was stored");
    for words in [
        "status --json",
        "explain --json",
        "doctor --json",
        "apply --dry-run --json",
    ] {
        let doctor = words.starts_with("doctor");
        let run = again(&netns, words).expect(if doctor { 2 } else { 0 });
        assert!(run.err.is_empty(), "{words}: {}", run.errors());
        let report = run.json();
        for (n, result) in probe["results"]
            .as_array()
            .expect("results")
            .iter()
            .enumerate()
        {
            let bug = &report["kernel"]["bugs"][n];
            assert_eq!(bug["id"], result["id"], "{words}");
            assert_eq!(bug["evidence"][0]["source"], "probe", "{words}");
            assert_eq!(bug["evidence"][0]["mark"], "measured", "{words}");
            assert_eq!(bug["status"], result["outcome"], "{words}");
        }
    }
    let text = again(&netns, "probe").expect(0);
    assert!(
        text.text().contains("saved until the next boot"),
        "{}",
        text.text()
    );
    for (name, content, said) in [
        (
            "cut",
            written[..written.len() / 2].to_owned(),
            "not a stored probe run",
        ),
        (
            "foreign",
            written.replacen("\"boot_id\":\"", "\"boot_id\":\"f", 1),
            "another boot or kernel",
        ),
        (
            "forged",
            written.replacen("not-affected", "affected", 1),
            "contradicts itself",
        ),
        ("empty", String::new(), "not a stored probe run"),
    ] {
        fs::write(&stored, content).expect("damage it");
        let run = again(&netns, "status --json").expect(0);
        assert!(run.errors().contains(said), "{name}: {}", run.errors());
        assert_eq!(run.json()["kernel"], before["kernel"], "{name}");
    }
}

#[test]
fn a_probe_without_permission_says_so() {
    let netns = node();
    let out = run(netns
        .command("setpriv")
        .args([
            "--bounding-set=-sys_admin",
            "--inh-caps=-sys_admin",
            VXCSUM,
            "probe",
            "--root",
        ])
        .arg(netns.root()))
    .expect(77);
    assert!(out.text().contains("inconclusive"), "{}", out.text());
    assert!(out.text().contains("CAP_SYS_ADMIN"), "{}", out.text());
    assert!(out.text().contains("it decides nothing"));
    // doctor shows that the probe ran, and why it has no result.
    let report = again(&netns, "doctor --json").expect(2).json();
    assert_eq!(report["measured"], false);
    assert_eq!(report["inconclusive"][1]["bug"], "nat-lco-csum");
    let text = again(&netns, "doctor").expect(2);
    let why = "[probe] inconclusive: probe: create a network namespace";
    assert_eq!(text.text().matches(why).count(), 3, "{}", text.text());

    // An inconclusive probe does not replace a measurement.
    again(&netns, "probe").expect(0);
    let stored = Path::new(netns.remembering_root()).join("run/vxcsum/probe.json");
    let before = fs::read(&stored).expect("read what was stored");
    let retry = run(netns
        .command("setpriv")
        .args(["--bounding-set=-sys_admin", "--inh-caps=-sys_admin"])
        .args([VXCSUM, "probe", "--root"])
        .arg(netns.remembering_root()))
    .expect(77);
    assert!(retry.text().contains("an earlier run of this boot"));
    assert_eq!(fs::read(&stored).expect("read it again"), before);
}

/// No text of a rule reaches a terminal unescaped.
#[test]
fn a_hostile_comment_is_printed_safely() {
    let netns = node();
    let rule = "*nat\n-A POSTROUTING -o eth0 -m comment --comment \"\u{1b}[2J\u{7}x\u{202e}\" -j MASQUERADE --random-fully\nCOMMIT\n";
    for tool in ["iptables-legacy", "iptables-nft"] {
        restore(&netns, tool, rule.as_bytes());
        for words in [
            "doctor",
            "doctor --json",
            "status",
            "explain flannel.1",
            "apply --dry-run",
        ] {
            let doctor = words.starts_with("doctor");
            let run = netns.vxcsum(words).expect(if doctor { 2 } else { 0 });
            let raw = ['\u{1b}', '\u{7}', '\u{202e}'];
            assert!(!run.text().contains(raw), "{tool}, {words}: {}", run.text());
            assert!(
                run.text().contains("exposed"),
                "{tool}, {words}: {}",
                run.text()
            );
        }
    }
}

#[test]
fn without_permission_the_rules_are_not_known() {
    let netns = node();
    install(&netns, "iptables-nft", "shell-1-mark-kept");
    let mut command = netns.command("setpriv");
    command.args(["--bounding-set=-net_admin", "--inh-caps=-net_admin", VXCSUM]);
    command.args(["doctor", "--json", "--root", netns.root()]);
    let report = run(&mut command).expect(2).json();
    assert_eq!(report["health"], "at-risk");
    assert_eq!(report["limited"][0]["what"], "nat-rules");
    assert_eq!(device(&report, "flannel.1")["exposure"], "unknown");
    assert_eq!(
        report["unread_rules"][0],
        "read nf_tables: Operation not permitted (EPERM)"
    );
    let first = report["steps"][0]["text"].as_str().expect("a text");
    assert!(
        first.contains("This container lacks CAP_NET_ADMIN"),
        "{first}"
    );
    let all = report["steps"].to_string();
    assert!(
        !all.contains("vxcsum apply"),
        "nothing rests on rules that were not read: {all}"
    );
}

/// The commands in the steps about this rule set.
fn commands(report: &serde_json::Value) -> Vec<String> {
    let steps = report["steps"].as_array().expect("steps");
    let commands = steps
        .iter()
        .flat_map(|step| step["commands"].as_array().expect("commands"));
    commands
        .map(|c| c.as_str().expect("a command").to_owned())
        .collect()
}

/// Rules of nft: a rule of the administrator gets an exemption, and a rule of kube-proxy is left alone.
#[test]
fn the_cure_in_the_syntax_of_nft() {
    for (family, owned) in [("inet", false), ("ip", false), ("ip", true)] {
        let netns = node();
        run(netns.command("ethtool").args(["-K", "eth0", "tx", "off"])).expect(0);
        let table = if owned { "kube-proxy" } else { "site" };
        let rules = format!(
            "add table {family} {table}; add chain {family} {table} post {{ type nat hook postrouting priority 100; }}; \
             add rule {family} {table} post oifname eth0 masquerade fully-random"
        );
        run(netns.command("nft").arg(&rules)).expect(0);
        let report = netns.vxcsum("doctor --json").expect(2).json();
        let all = commands(&report);
        let (notrack, cures): (Vec<_>, Vec<_>) = all
            .iter()
            .filter(|c| c.starts_with("nft "))
            .partition(|c| c.contains("vxlan-notrack"));
        assert_eq!(notrack.len(), 4, "{all:?}");
        if owned {
            let text = report["steps"].to_string();
            assert!(
                cures.is_empty() && text.contains("kube-proxy owns it"),
                "{text}"
            );
            // No program owns that table.
            for command in notrack {
                run(netns.command("sh").args(["-c", command])).expect(0);
            }
        } else {
            assert_eq!(cures.len(), 1, "{all:?}");
            run(netns.command("sh").args(["-c", cures[0]])).expect(0);
        }
        let report = netns.vxcsum("doctor --json").expect(0).json();
        assert_eq!(
            device(&report, "flannel.1")["exposure"],
            "not-exposed",
            "{family}"
        );
    }
}

/// `apply` in a unit leaves a contested device alone; a user who names the device gets it changed.
#[test]
fn a_contested_device_that_is_named_is_changed() {
    let netns = node();
    for _ in 0..3 {
        again(&netns, "apply").expect(0);
        netns.set("flannel.1", true);
    }
    let refused = again(&netns, "apply").expect(1);
    assert!(
        refused.text().starts_with("FAILED  flannel.1: another program keeps turning the offload on, so vxcsum pauses (60 min left). See: vxcsum doctor"),
        "{}",
        refused.text()
    );
    let doctor = again(&netns, "doctor --json").expect(1).json();
    let cure = commands(&doctor);
    assert_eq!(
        cure,
        ["ethtool --monitor flannel.1", "vxcsum apply flannel.1"]
    );
    again(&netns, "apply --log").expect(1);
    again(&netns, "apply flannel.1").expect(0);
    assert!(!netns.is_on("flannel.1"));
    let status = again(&netns, "status").expect(0);
    assert!(
        status.text().starts_with("OK  1 VXLAN device: "),
        "{}",
        status.text()
    );
    assert!(
        status.text().contains("systemctl enable --now"),
        "{}",
        status.text()
    );
}

/// 30 similar devices fit on one screen.
#[test]
fn many_devices_fit_one_screen() {
    let netns = Netns::with_underlay();
    let line = |n: u32| {
        let port = 9000 + n;
        format!("link add vx-{n} type vxlan id {n} dstport {port} local 192.0.2.1 dev eth0 udpcsum")
    };
    let lines: Vec<String> = (1..=30).map(line).collect();
    netns.batch(&(lines.join("\n") + "\n"));
    install(&netns, "iptables-nft", "shell-1-mark-kept");
    let run = netns.vxcsum("doctor").expect(2);
    let text = run.text();
    assert!(
        text.starts_with("BROKEN  vx-1, vx-2, vx-3 and 27 more: "),
        "{text}"
    );
    let what = text.lines().position(|line| line == "what to do");
    assert_eq!(what, Some(2), "{text}");
    assert!(text.lines().count() < 60, "{text}");
}
