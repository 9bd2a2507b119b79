//! Which NAT rules vxcsum reads, and when it uses the answers of an earlier run. Needs root, strace, nft and iptables.
//!
//! Runs in network namespaces of its own.

mod common;

use std::fs;
use std::os::unix::fs::chown;

use common::{Netns, feed, run};
use vxcsum::nat::partial_io::RulesVersion;

/// A node with the rules of kube-proxy for 50 services, in a kernel without anything that copies packets.
fn node(marks: &str) -> Netns {
    let netns = Netns::with_underlay();
    // An IPv6 address becomes usable a second after its device appears, and answers may depend on it.
    run(netns
        .command("sysctl")
        .args(["-qw", "net.ipv6.conf.all.disable_ipv6=1"]))
    .expect(0);
    netns.ip("link add a0 type vxlan id 1 local 192.0.2.1 dev eth0 dstport 8472 udpcsum");
    netns.add_peer("a0");
    let rules = run(netns.command("benches/services").args(["nft", marks, "50"])).expect(0);
    netns.enter(|| feed("nft", &["-f", "-"], rules.text()));
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let modules = format!("{}/lib/modules/{}", netns.root(), release.trim());
    fs::create_dir_all(&modules).unwrap();
    fs::write(
        format!("{modules}/modules.builtin"),
        "kernel/net/ipv4/tunnel4.ko\n",
    )
    .unwrap();
    netns
}

/// A table disappears with the process that owns it, without an event and without a new generation.
#[test]
fn answers_that_rest_on_a_table_with_an_owner_are_not_kept() {
    let netns = node("kept");
    let exposure = |words: &str| {
        let mut command = netns.command(env!("CARGO_BIN_EXE_vxcsum"));
        command.args(words.split(' '));
        let report = run(command.args(["--root", netns.remembering_root()]))
            .text()
            .to_owned();
        let line = report.lines().find(|line| line.contains("exposure"));
        line.unwrap_or(&report).trim().to_owned()
    };
    // Behind a veth there may always be NAT that this node cannot see.
    let (exposed, untracked) = (r#""exposure": "exposed","#, r#""exposure": "unknown","#);
    assert_eq!(exposure("apply --json"), exposed);
    let table = netns.own_table(
        "add chain ip owned out { type filter hook output priority -300; }\n\
         add rule ip owned out udp dport 8472 notrack",
    );
    let generation = netns.enter(RulesVersion::now);
    assert_eq!(exposure("apply --json"), untracked);
    assert_eq!(exposure("status --json"), untracked);
    drop(table);
    assert_eq!(
        netns.enter(RulesVersion::now),
        generation,
        "the kernel announces it"
    );
    assert_eq!(exposure("status --json"), exposed);
}

/// The requests of vxcsum in a run with these arguments.
fn requests(netns: &Netns, words: &str) -> String {
    let mut command = netns.command("strace");
    command.args(["-f", "-e", "trace=sendto", "-e", "signal=none", "--"]);
    command
        .arg(env!("CARGO_BIN_EXE_vxcsum"))
        .args(words.split(' '));
    run(command.args(["--root", netns.remembering_root()]))
        .errors()
        .to_owned()
}

/// The number of requests for the rules of all chains, which consist of headers only, and for single chains.
fn rules_asked_for(log: &str) -> (usize, usize) {
    let asked = log.lines().filter(|l| l.contains("NFT_MSG_GETRULE"));
    let (all, some): (Vec<_>, Vec<_>) = asked.partition(|l| l.contains("nlmsg_len=20,"));
    (all.len(), some.len())
}

#[test]
fn only_chains_on_the_path_of_packets_are_read() {
    for marks in ["cleared", "kept"] {
        let netns = node(marks);
        let (all, some) = rules_asked_for(&requests(&netns, "status"));
        assert_eq!(all, 0, "{marks}");
        // The rule set has 160 chains.
        assert!((3..30).contains(&some), "{marks}: {some}");
    }
    // If a chain may copy a packet with the mark that it sets, vxcsum reads all chains.
    let netns = node("cleared");
    fs::remove_dir_all(format!("{}/lib", netns.root())).unwrap();
    assert_eq!(rules_asked_for(&requests(&netns, "status")).0, 1);
}

#[test]
fn answers_are_kept_for_the_next_run_as_long_as_they_hold() {
    let netns = node("cleared");
    let reads = |words: &str| rules_asked_for(&requests(&netns, words)) != (0, 0);
    let file = format!("{}/run/vxcsum/exposure.json", netns.root());
    assert!(reads("status") && reads("status"), "it only looks");
    assert!(reads("apply") && !reads("apply") && !reads("status"));
    let exposure = |words: &str| {
        run(netns
            .command(env!("CARGO_BIN_EXE_vxcsum"))
            .args(words.split(' '))
            .args(["--root", netns.remembering_root()]))
        .text()
        .to_owned()
    };
    let kept = exposure("explain a0");
    let text = fs::read_to_string(&file).unwrap();
    for damaged in [
        "",
        &text[..text.len() / 2],
        &text.replace("\"generation\":", "\"generation\":9"),
    ] {
        fs::write(&file, damaged).unwrap();
        assert!(reads("status"), "{damaged}");
        assert_eq!(exposure("explain a0"), kept);
    }
    fs::write(&file, &text).unwrap();
    chown(&file, Some(65534), None).unwrap();
    assert!(reads("status"), "it is not root's");
    chown(&file, Some(0), None).unwrap();
    assert!(!reads("status"));
    // The answer depends on the device, the rules and a sysctl.
    netns.ip("link add a1 type vxlan id 2 local 192.0.2.1 remote 192.0.2.9 dev eth0 dstport 8472 udpcsum");
    assert!(reads("apply") && !reads("status"));
    netns.enter(|| feed("nft", &["-f", "-"], "add table ip another\n"));
    assert!(reads("apply") && !reads("status"));
    run(netns
        .command("sysctl")
        .args(["-qw", "net.ipv4.fwmark_reflect=1"]))
    .expect(0);
    assert!(reads("apply") && !reads("status"));
    // The kernel does not announce changes of these.
    run(netns.command("iptables-legacy").args(["-t", "nat", "-L"])).expect(0);
    assert!(reads("status") && reads("apply") && reads("status"));
}
