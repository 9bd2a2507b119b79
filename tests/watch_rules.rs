//! `watch` and the NAT rules: when it reads them again, and that it sleeps otherwise.
//!
//! Needs root, strace and nft. Runs in a network namespace of its own.

mod common;

use common::{Netns, Watch, run};

fn nft(netns: &Netns, words: &str) {
    run(netns.command("nft").args(words.split_whitespace())).expect(0);
}

#[test]
fn rules_are_read_again_when_they_change_and_not_more_often() {
    let netns = Netns::with_three();
    let watch = Watch::traced(&netns, "sendto");
    // One read at the start. Later looks find the rules unchanged.
    watch.has_read(1);
    // Nothing is due: it sleeps until the next event.
    let wait = watch.wait();
    assert!(!wait.contains("tv_sec"), "{wait}");
    let (reads, asleep) = (watch.reads(), watch.waits());
    // A storm of changes.
    for n in 0..30 {
        nft(&netns, &format!("add table ip t{n}"));
    }
    watch.has_read(reads + 1);
    watch.log();
    assert_eq!(watch.reads(), reads + 1, "{}", watch.written());
    assert!(
        watch.waits() <= asleep + 4,
        "it woke up more than once for the storm: {}",
        watch.written()
    );
    let last = watch.last_wait();
    assert!(!last.contains("tv_sec"), "{last}");
}

/// With nothing heard, `watch` waits for a minute at most.
#[track_caller]
fn looks_each_minute(netns: &Netns) {
    let watch = Watch::traced(netns, "sendto");
    watch.has_read(2);
    let last = watch.last_wait();
    assert!(
        last.contains("tv_sec=59") || last.contains("tv_sec=58"),
        "{last}"
    );
}

/// The kernel does not announce changes of these.
#[test]
fn rules_of_iptables_legacy_are_looked_at_on_a_timer() {
    let netns = Netns::with_three();
    run(netns.command("iptables-legacy").args(["-t", "nat", "-L"])).expect(0);
    looks_each_minute(&netns);
}

/// An ipset changes without an event, and a rule of `nf_tables` can name it.
#[test]
fn rules_that_name_an_ipset_are_looked_at_on_a_timer() {
    let netns = Netns::with_three();
    run(netns.command("ipset").args(["create", "S", "hash:net"])).expect(0);
    let rule = "-t nat -A POSTROUTING -m set --match-set S dst -j MASQUERADE --random-fully";
    run(netns.command("iptables-nft").args(rule.split_whitespace())).expect(0);
    looks_each_minute(&netns);
}

/// The kernel does not announce that a table disappears with its process.
#[test]
fn rules_of_a_table_with_an_owner_are_looked_at_on_a_timer() {
    let netns = Netns::with_three();
    let _table = netns.own_table("");
    looks_each_minute(&netns);
}

/// The kernel does not announce that these sysctls are reset.
#[test]
fn sysctls_that_carry_marks_are_looked_at_on_a_timer() {
    let netns = Netns::with_three();
    run(netns
        .command("sysctl")
        .args(["-qw", "net.ipv4.fwmark_reflect=1"]))
    .expect(0);
    let watch = Watch::traced(&netns, "sendto");
    watch.has_read(1);
    let last = watch.last_wait();
    assert!(
        last.contains("tv_sec=59") || last.contains("tv_sec=58"),
        "{last}"
    );
}

/// If no decision depends on the rules, `watch` neither reads them nor listens for changes.
#[test]
fn rules_that_decide_nothing_are_not_read() {
    let netns = Netns::new();
    // The policy of this root says that this kernel does not have the bug of this device.
    netns.ip("link add z0 type vxlan id 1 dstport 8472 noudpcsum");
    let watch = Watch::traced(&netns, "sendto");
    watch.log();
    assert_eq!(watch.reads(), 0, "{}", watch.written());
    // One wait is the check of the standard streams by the standard library.
    assert!(watch.waits() <= 2, "{}", watch.written());
    let last = watch.last_wait();
    assert!(!last.contains("tv_sec"), "{last}");
}
