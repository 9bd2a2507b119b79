//! vxcsum's own table: created, read back, left out of the analysis, and changed by other programs.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use vxcsum::nat::exposure::{Untracked, analyze};
use vxcsum::nat::nft::own::{OwnTable, Packets};
use vxcsum::nat::own_io;
use vxcsum::nat::partial_io::RulesInUse;
use vxcsum::nat::read_io;

use crate::common::{self, Netns, Run, VXCSUM, Watch, feed, run};
use crate::{Lab, device, word};

const KUBE_PROXY: &str = "*nat\n-A POSTROUTING -o eth0 -j MASQUERADE --random-fully\nCOMMIT\n";

fn packets() -> Packets {
    let of = |v6, local: &str| Untracked {
        v6: Some(v6),
        local: Some(local.parse().unwrap()),
        port: 8472,
    };
    [of(false, "192.168.77.1"), of(true, "fd00:77::1")].into()
}

/// The table according to nft(8).
fn ruleset(lab: &Lab) -> String {
    let list = ["list", "ruleset"];
    lab.within("a", || {
        run(Command::new("nft").args(list))
            .expect(0)
            .text()
            .to_owned()
    })
}

#[test]
fn the_table_is_made_and_removed_in_one_step_and_read_back() {
    let lab = Lab::new();
    let (read, set) = (
        || lab.within("a", own_io::read).unwrap(),
        |packets: &Packets| lab.within("a", || own_io::set(packets)).unwrap(),
    );
    let nft = |text: &str| lab.within("a", || feed("nft", &["-f", "-"], text));
    assert_eq!(read(), OwnTable::Absent);
    // Removing a missing table is not an error, and creates nothing.
    set(&Packets::new());
    assert_eq!(ruleset(&lab), "");
    for _ in 0..2 {
        set(&packets());
        assert_eq!(read(), OwnTable::Made(packets()));
    }
    let seen = ruleset(&lab);
    for part in [
        "table inet vxcsum {",
        "comment \"made and kept by vxcsum: NAT",
        "type filter hook output priority raw; policy accept;",
        "oifname != \"lo\" ip saddr 192.168.77.1 udp dport 8472 notrack comment \"by vxcsum: no NAT on tunnel packets\"",
        "oifname != \"lo\" ip6 saddr fd00:77::1 udp dport 8472 notrack comment",
    ] {
        assert!(seen.contains(part), "no {part} in {seen}");
    }
    assert_eq!(seen.matches("notrack").count(), 2, "{seen}");
    // vxcsum finds and repairs changes by other programs.
    for change in [
        "add rule inet vxcsum output accept",
        "add set inet vxcsum more { type ipv4_addr; }",
        "add chain inet vxcsum more",
        "flush chain inet vxcsum output",
        "add table inet vxcsum { flags dormant; }",
        "delete table inet vxcsum; add table inet vxcsum",
    ] {
        nft(change);
        let found = match change {
            "flush chain inet vxcsum output" => OwnTable::Made(Packets::new()),
            _ => OwnTable::Changed,
        };
        assert_eq!(read(), found, "{change}: {}", ruleset(&lab));
        set(&packets());
        assert_eq!(ruleset(&lab), seen, "{change}");
    }
    nft("flush ruleset");
    assert_eq!(read(), OwnTable::Absent);
    set(&packets());
    set(&Packets::new());
    assert_eq!(ruleset(&lab), "");
}

#[test]
fn need_is_decided_as_if_the_table_were_not_there_unless_it_was_changed() {
    let lab = Lab::new();
    lab.within("a", || feed("iptables-nft-restore", &[], KUBE_PROXY));
    let device = device(&lab, "virtio_net");
    let both = || {
        lab.within("a", || {
            let whole = analyze(&read_io::read(), &device);
            let root = tempfile::tempdir().unwrap();
            let mut part = RulesInUse::some(root.path());
            let [part] = part
                .decide(std::slice::from_ref(&device))
                .try_into()
                .unwrap();
            (word(&whole), word(&part))
        })
    };
    assert_eq!(both(), ("exposed", "exposed"));
    lab.within("a", || own_io::set(&packets())).unwrap();
    assert_eq!(lab.packets(), "fine");
    assert_eq!(both(), ("exposed", "exposed"));
    // The same rule in a changed table counts as any other rule.
    let more = "add rule inet vxcsum output udp dport 53 accept";
    lab.within("a", || feed("nft", &["-f", "-"], more));
    assert_eq!(both(), ("not-exposed", "not-exposed"));
    lab.within("a", || {
        feed("nft", &["-f", "-"], "flush chain inet vxcsum output");
    });
    assert_eq!(both(), ("exposed", "exposed"));
    assert_eq!(lab.packets(), "corrupt");
}

/// The rule for the packets of node a's device.
const RULE: &str = "oifname != \"lo\" ip saddr 192.168.77.1 udp dport 8472 notrack";

fn policy(node: &Netns, more: &str) {
    let text = format!(
        "version = 1\ngive-back-after = \"1s\"\n{more}\n\
         [[kernel]]\nrelease = \"*\"\nbug = \"nat-lco-csum\"\nstatus = \"affected\"\n\
         [[kernel]]\nrelease = \"*\"\nbug = \"nat-zero-csum\"\nstatus = \"fixed\"\n"
    );
    let file = Path::new(node.remembering_root()).join("etc/vxcsum/policy.toml");
    fs::write(file, text).unwrap();
}

/// Runs vxcsum on node a, with the record of the run before.
fn vxcsum(lab: &Lab, words: &str) -> Run {
    let mut command = lab.a.command(VXCSUM);
    command.args(words.split_whitespace());
    run(command.args(["--root", lab.a.remembering_root()]))
}

fn json(lab: &Lab, words: &str) -> Value {
    let report = vxcsum(lab, &format!("{words} --json")).expect(0).json();
    common::device(&report, "flannel.1").clone()
}

/// The action, the reason, the outcome, and whether the rule exists.
fn summary(device: &Value) -> [String; 4] {
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    [
        word(&device["action"]),
        word(&device["reason"]["code"]),
        word(&device["outcome"]),
        device["notrack"]["in_place"].to_string(),
    ]
}

fn rules(lab: &Lab, tool: &str, text: &str) {
    lab.within("a", || match tool {
        "nft" => feed("nft", &["-f", "-"], text),
        _ => feed(&format!("{tool}-restore"), &[], text),
    });
}

/// The rules of the table as nft(8) lists them, without the comments.
fn table(lab: &Lab) -> Vec<String> {
    let text = ruleset(lab);
    let own = text
        .split("table ")
        .find(|t| t.starts_with("inet vxcsum {"));
    let lines = own
        .unwrap_or_default()
        .lines()
        .filter(|l| l.contains("notrack"));
    lines
        .map(|l| l.trim().split(" comment ").next().unwrap().to_owned())
        .collect()
}

#[test]
fn a_device_is_cured_by_a_rule_and_keeps_its_offload() {
    const NFT: &str = "table ip nat { chain post { type nat hook postrouting priority srcnat; \
                       oifname \"eth0\" masquerade fully-random; }; }";
    for (tool, text) in [
        ("nft", NFT),
        ("iptables-nft", KUBE_PROXY),
        ("iptables-legacy", KUBE_PROXY),
    ] {
        let lab = Lab::new();
        policy(&lab.a, "cure = \"notrack\"");
        rules(&lab, tool, text);
        assert_eq!(lab.packets(), "corrupt", "{tool}");
        let planned = ["add-rule", "exposed", "planned", "false"];
        assert_eq!(summary(&json(&lab, "status")), planned, "{tool}");
        let dry = vxcsum(&lab, "apply --dry-run").expect(0);
        assert!(
            dry.text().contains("a rule notrack would be made:"),
            "{}",
            dry.text()
        );
        assert!(table(&lab).is_empty(), "{tool}");
        let made = ["add-rule", "already-untracked", "changed", "true"];
        assert_eq!(summary(&json(&lab, "apply")), made, "{tool}");
        assert_eq!(table(&lab), [RULE], "{tool}");
        assert!(lab.a.is_on("flannel.1"), "{tool}");
        assert_eq!(lab.packets(), "fine", "{tool}");
        // The rule stays, and nothing more is needed.
        let kept = ["leave", "already-untracked", "unchanged", "true"];
        let before = ruleset(&lab);
        for words in ["apply", "apply", "status --exit-code", "apply flannel.1"] {
            assert_eq!(summary(&json(&lab, words)), kept, "{tool}: {words}");
        }
        assert_eq!(ruleset(&lab), before, "{tool}");
        let status = vxcsum(&lab, "status").expect(0);
        assert!(
            status.text().starts_with("OK "),
            "{tool}: {}",
            status.text()
        );
        let doctor = vxcsum(&lab, "doctor").expect(0);
        assert!(!doctor.text().contains("nft "), "{tool}: {}", doctor.text());
        // `revert` removes it, and a dry run announces that.
        let gone = ["remove-rule", "untracked-by-vxcsum", "planned", "true"];
        assert_eq!(summary(&json(&lab, "revert --dry-run")), gone, "{tool}");
        let gone = ["remove-rule", "untracked-by-vxcsum", "changed", "null"];
        assert_eq!(summary(&json(&lab, "revert")), gone, "{tool}");
        assert!(!ruleset(&lab).contains("vxcsum"), "{tool}");
        assert!(lab.a.is_on("flannel.1"), "{tool}");
    }
}

/// The record is lost, as by `rm -r /run/vxcsum`. The table goes when no device can need it.
#[test]
fn a_table_without_a_record_goes_with_the_last_device() {
    let lab = exposed_lab("cure = \"notrack\"");
    let made_and_forgotten = || {
        vxcsum(&lab, "apply").expect(0);
        assert_eq!(table(&lab), [RULE]);
        fs::remove_dir_all(Path::new(lab.a.remembering_root()).join("run")).unwrap();
    };
    made_and_forgotten();
    let said = vxcsum(&lab, "revert flannel.1").expect(0);
    let why = "the record of this boot does not know it";
    assert!(said.errors().contains(why), "{}", said.errors());
    assert!(!ruleset(&lab).contains("vxcsum"));
    // Another device may need it.
    lab.a
        .ip("link add other0 type vxlan id 9 dstport 4789 local 192.168.77.1 noudpcsum");
    made_and_forgotten();
    vxcsum(&lab, "revert flannel.1").expect(0);
    assert_eq!(table(&lab), [RULE]);
    vxcsum(&lab, "revert").expect(0);
    assert!(!ruleset(&lab).contains("vxcsum"));
}

fn exposed_lab(cure: &str) -> Lab {
    let lab = Lab::new();
    policy(&lab.a, cure);
    rules(&lab, "iptables-nft", KUBE_PROXY);
    lab
}

/// Its destinations are not known.
#[test]
fn a_device_that_learns_its_peers_is_cured_too() {
    let lab = exposed_lab("cure = \"notrack\"");
    lab.a.ip("link set flannel.1 type vxlan learning");
    let made = ["add-rule", "already-untracked", "changed", "true"];
    assert_eq!(summary(&json(&lab, "apply")), made);
    assert_eq!(table(&lab), [RULE]);
    assert_eq!(lab.packets(), "fine");
}

#[test]
fn the_policy_changes_the_cure_in_both_directions() {
    let lab = exposed_lab("");
    let off = ["turn-off", "exposed", "changed", "null"];
    assert_eq!(summary(&json(&lab, "apply")), off);
    // The rule comes first, and then the offload is turned on again, in one run.
    policy(&lab.a, "cure = \"notrack\"");
    let back = ["turn-on", "already-untracked", "changed", "true"];
    assert_eq!(summary(&json(&lab, "apply")), back);
    assert!(lab.a.is_on("flannel.1"));
    assert_eq!(table(&lab), [RULE]);
    assert_eq!(lab.packets(), "fine");
    // The offload goes off first, and the rule at the next look.
    policy(
        &lab.a,
        "cure = \"notrack\"\n[[rule]]\ndevice = \"flannel.*\"\ncure = \"offload\"\nwhen = \"exposed\"",
    );
    let off = ["turn-off", "exposed", "changed", "true"];
    assert_eq!(summary(&json(&lab, "apply")), off);
    let off = ["leave", "already-off", "unchanged", "null"];
    assert_eq!(summary(&json(&lab, "apply")), off);
    assert!(table(&lab).is_empty());
    assert_eq!(lab.packets(), "fine");
}

#[test]
fn a_rule_that_nobody_needs_any_more_goes() {
    let lab = exposed_lab("cure = \"notrack\"");
    vxcsum(&lab, "apply").expect(0);
    rules(&lab, "iptables-nft", "*nat\nCOMMIT\n");
    // Like the offload, the rule is given up only after it was not needed for a while.
    let kept = ["leave", "not-exposed", "unchanged", "true"];
    assert_eq!(summary(&json(&lab, "apply")), kept);
    assert_eq!(table(&lab), [RULE]);
    let gone = ["remove-rule", "not-exposed", "changed", "null"];
    let mut last = summary(&json(&lab, "apply"));
    for _ in 0..50 {
        if last == gone {
            break;
        }
        assert_eq!(last, kept);
        std::thread::sleep(std::time::Duration::from_millis(100));
        last = summary(&json(&lab, "apply"));
    }
    assert_eq!(last, gone);
    assert!(table(&lab).is_empty());
    // A kernel that is declared to be without the bug does not need the rule any more, immediately.
    rules(&lab, "iptables-nft", KUBE_PROXY);
    vxcsum(&lab, "apply").expect(0);
    assert_eq!(table(&lab), [RULE]);
    policy(&lab.a, "[bugs]\nnat-lco-csum = \"never\"");
    let gone = ["remove-rule", "bug-never", "changed", "null"];
    assert_eq!(summary(&json(&lab, "apply")), gone);
    assert!(table(&lab).is_empty());
    // The rule disappears with the device.
    policy(&lab.a, "cure = \"notrack\"");
    vxcsum(&lab, "apply").expect(0);
    assert_eq!(table(&lab), [RULE]);
    lab.a.ip("link del flannel.1");
    vxcsum(&lab, "apply").expect(0);
    assert!(!ruleset(&lab).contains("vxcsum"));
}

/// An underlay that passes packets on unfinished, so NAT behind it can corrupt them.
fn behind_a_veth(lab: &Lab) {
    run(lab.a.command("ethtool").args(["-K", "eth0", "tx", "on"])).expect(0);
}

#[test]
fn where_a_rule_does_not_suffice_the_offload_goes_off_and_the_reason_says_why() {
    type Prepare = fn(&Lab);
    const INVALID: &str =
        "*filter\n-A OUTPUT -o eth0 -m conntrack ! --ctstate NEW,ESTABLISHED -j DROP\nCOMMIT\n";
    let rows: [(Prepare, &str, &str, &str); 3] = [
        (
            |lab| rules(lab, "iptables-nft", INVALID),
            "",
            "exposed",
            "can drop untracked packets",
        ),
        (
            |_| (),
            "[bugs]\nnat-lco-csum = \"affected\"",
            "kernel-affected",
            "vxcsum makes no rule notrack: the policy asks for the offload to be off, whatever NAT does",
        ),
        (
            behind_a_veth,
            "",
            "exposed",
            "vxcsum makes no rule notrack: it is not known whether it is enough: no rule here rewrites the outer packets. But the underlay eth0",
        ),
    ];
    for (prepare, more, code, why) in rows {
        let lab = exposed_lab(&format!("cure = \"notrack\"\n{more}"));
        prepare(&lab);
        let device = json(&lab, "apply");
        assert_eq!(
            summary(&device),
            ["turn-off", code, "changed", "null"],
            "{why}"
        );
        let text = device["reason"]["text"].as_str().unwrap();
        assert!(text.contains(why), "{text}");
        assert!(!lab.a.is_on("flannel.1") && table(&lab).is_empty());
        assert_eq!(lab.packets(), "fine", "{why}");
    }
}

/// If the policy says that there is no NAT behind the underlay, the device gets the rule against the NAT before it.
#[test]
fn what_the_policy_counts_as_harmless_does_not_stand_in_the_way() {
    let lab = exposed_lab("cure = \"notrack\"\nunknown-exposure = \"not-exposed\"");
    behind_a_veth(&lab);
    let made = ["add-rule", "already-untracked", "changed", "true"];
    assert_eq!(summary(&json(&lab, "apply")), made);
    let status = vxcsum(&lab, "status").expect(0);
    let answer = "OK  1 VXLAN device: nothing to fix, because the policy accepts what is not known";
    assert!(status.text().starts_with(answer), "{}", status.text());
}

#[test]
fn an_ipv6_underlay_is_cured_too() {
    let lab = Lab::over("fd00:77::", 64);
    policy(&lab.a, "cure = \"notrack\"");
    rules(&lab, "ip6tables-nft", KUBE_PROXY);
    assert_eq!(lab.packets(), "corrupt");
    vxcsum(&lab, "apply").expect(0);
    assert_eq!(
        table(&lab),
        ["oifname != \"lo\" ip6 saddr fd00:77::1 udp dport 8472 notrack"]
    );
    assert!(lab.a.is_on("flannel.1"));
    assert_eq!(lab.packets(), "fine");
}

/// After three removals within a minute the offload goes off, because the packets need another cure.
#[test]
fn who_deletes_the_table_again_and_again_gets_the_offload_off() {
    let lab = exposed_lab("cure = \"notrack\"");
    for _ in 0..3 {
        let made = ["add-rule", "already-untracked", "changed", "true"];
        assert_eq!(summary(&json(&lab, "apply")), made);
        rules(&lab, "nft", "delete table inet vxcsum");
    }
    let device = json(&lab, "apply");
    assert_eq!(
        summary(&device),
        ["turn-off", "exposed", "changed", "false"]
    );
    let text = device["reason"]["text"].as_str().unwrap();
    assert!(
        text.contains("another program deleted table inet vxcsum 3 times"),
        "{text}"
    );
    let off = ["leave", "already-off", "unchanged", "false"];
    assert_eq!(summary(&json(&lab, "apply")), off);
    assert!(table(&lab).is_empty());
    assert_eq!(lab.packets(), "fine");
    // A user who names the device ends the backoff.
    let back = ["turn-on", "already-untracked", "changed", "true"];
    assert_eq!(summary(&json(&lab, "apply flannel.1")), back);
    assert_eq!(table(&lab), [RULE]);
    vxcsum(&lab, "revert").expect(0);
    assert!(!ruleset(&lab).contains("vxcsum") && lab.a.is_on("flannel.1"));
}

#[test]
fn watch_puts_the_table_back_at_once() {
    let lab = exposed_lab("cure = \"notrack\"");
    let watch = Watch::start(&lab.a, "--revert-on-exit");
    assert_eq!(table(&lab), [RULE]);
    for change in ["flush ruleset", "delete table inet vxcsum"] {
        rules(&lab, "nft", change);
        // Earlier than watch looks at other changes of rules.
        let begun = std::time::Instant::now();
        watch.until("the rule is not back", || table(&lab) == [RULE]);
        println!("{change}: put back after {:?}", begun.elapsed());
    }
    assert!(lab.a.is_on("flannel.1"));
    let errors = watch.stop();
    assert_eq!(errors.matches("made a rule notrack").count(), 2, "{errors}");
    assert!(!ruleset(&lab).contains("vxcsum"));
}

/// Sooner than the next look at all devices, which is up to a minute away.
#[test]
fn watch_removes_the_rule_of_a_deleted_device_at_once() {
    let lab = exposed_lab("cure = \"notrack\"");
    let watch = Watch::start(&lab.a, "");
    assert_eq!(table(&lab), [RULE]);
    let begun = std::time::Instant::now();
    lab.a.ip("link del flannel.1");
    watch.until("the rule is still there", || table(&lab).is_empty());
    println!("removed after {:?}", begun.elapsed());
    watch.stop();
    assert!(!ruleset(&lab).contains("vxcsum"));
}

/// One batch: every reader sees the old rules or the new rules, however often they are replaced.
#[test]
fn no_look_sees_the_table_without_its_rules() {
    let lab = Lab::new();
    let set = |packets: &Packets| lab.within("a", || own_io::set(packets)).unwrap();
    let (both, one) = (
        packets(),
        packets().into_iter().take(1).collect::<Packets>(),
    );
    set(&both);
    let done = std::sync::atomic::AtomicBool::new(false);
    let order = std::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|s| {
        let looks = s.spawn(|| {
            lab.within("a", || {
                let mut looks = 0;
                while !done.load(order) {
                    let rules = read_io::read();
                    // A read that was interrupted five times has no rules.
                    if rules.unread.is_empty() {
                        let found = rules.tables.iter().filter(|t| *t.name == *b"vxcsum");
                        assert_eq!(found.count(), 1);
                    }
                    if let Ok(found) = own_io::read() {
                        assert!(
                            [OwnTable::Made(both.clone()), OwnTable::Made(one.clone())]
                                .contains(&found),
                            "{found:?}"
                        );
                        looks += 1;
                    }
                }
                looks
            })
        });
        for n in 0..300 {
            lab.within("a", || own_io::set(if n % 2 == 0 { &one } else { &both }))
                .unwrap();
        }
        done.store(true, order);
        assert!(looks.join().unwrap() > 0);
    });
}

/// Runs vxcsum on node a under strace with this fault.
fn with_fault(lab: &Lab, fault: &str, words: &str) -> Run {
    let mut command = lab.a.command("strace");
    command.args([
        "-f",
        "-o",
        "/dev/null",
        &format!("--inject={fault}"),
        VXCSUM,
    ]);
    command.args(words.split_whitespace());
    run(command.args(["--root", lab.a.remembering_root()]))
}

/// The number of messages to the kernel that are tested. A run sends fewer.
const MESSAGES: usize = 60;

/// Whichever message is the last, the whole table exists or none of it, and `revert` knows it.
#[test]
fn killed_at_any_message() {
    let lab = exposed_lab("cure = \"notrack\"");
    let (mut with, mut without) = (0, 0);
    for n in 1..MESSAGES {
        let killed = with_fault(&lab, &format!("sendto:signal=KILL:when={n}"), "apply");
        match &table(&lab)[..] {
            [] => without += 1,
            [rule] => {
                assert_eq!(rule, RULE);
                with += 1;
            }
            more => panic!("{more:?}"),
        }
        vxcsum(&lab, "revert").expect(0);
        assert!(!ruleset(&lab).contains("vxcsum"), "message {n}");
        assert!(lab.a.is_on("flannel.1"), "message {n}");
        if killed.code == 0 {
            println!("{n} messages: {with} times with the table, {without} without");
            assert!(with > 1 && without > 1);
            return;
        }
    }
    panic!("it sends more than {MESSAGES} messages");
}

/// Whichever message the kernel refuses, a successful run has cured the device, by the rule or by the offload.
#[test]
fn a_rule_that_the_kernel_does_not_take_is_no_cure() {
    let lab = exposed_lab("cure = \"notrack\"");
    let mut refused = 0;
    for n in 1..MESSAGES {
        let fault = format!("sendto:error=EOPNOTSUPP:when={n}");
        let done = with_fault(&lab, &fault, "apply --json");
        let by_rule = table(&lab) == [RULE];
        if done.code == 0 {
            assert!(by_rule || !lab.a.is_on("flannel.1"), "message {n}");
        }
        if done
            .text()
            .contains("the kernel refuses it: Operation not supported")
        {
            refused += 1;
            // vxcsum does not try again at every look.
            let off = ["leave", "already-off", "unchanged", "false"];
            assert_eq!(summary(&json(&lab, "apply")), off);
            let explained = vxcsum(&lab, "explain flannel.1").expect(0);
            let text = explained.text();
            assert!(!text.contains("set cure ="), "no use: {text}");
        }
        vxcsum(&lab, "revert").expect(0);
        assert!(
            !ruleset(&lab).contains("vxcsum") && lab.a.is_on("flannel.1"),
            "message {n}"
        );
        if done.code == 0 && by_rule && refused > 0 {
            return;
        }
    }
    panic!("refused {refused} times");
}
