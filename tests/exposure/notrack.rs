//! vxcsum's own table: created, read back, left out of the analysis, and changed by other programs.

use std::process::Command;

use vxcsum::nat::exposure::{Untracked, analyze};
use vxcsum::nat::nft::own::Packets;
use vxcsum::nat::own_io::{self, OwnTable};
use vxcsum::nat::partial_io::RulesInUse;
use vxcsum::nat::read_io;

use crate::common::{feed, run};
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
        "oifname != \"lo\" ip saddr 192.168.77.1 udp dport 8472 notrack comment \"by vxcsum: no NAT on VXLAN packets\"",
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
