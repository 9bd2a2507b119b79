use super::*;

fn name(text: &str) -> IfName {
    IfName::new(text.as_bytes()).unwrap()
}

#[test]
fn counters_are_found_by_their_names() {
    let snmp = "Tcp: InSegs InCsumErrors\nTcp: 5 2\nUdp: InDatagrams InCsumErrors IgnoredMulti\nUdp: 9 7 1\nUdpLite: InCsumErrors\nUdpLite: 3\n";
    let snmp6 = "Ip6InReceives 1\nUdp6InCsumErrors               \t4\n";
    let count = |udp, udp6, tcp| Count { udp, udp6, tcp };
    assert_eq!(Count::parse(snmp, snmp6), Some(count(7, 4, 2)));
    assert_eq!(Count::parse(snmp, ""), Some(count(7, 0, 2)));
    for broken in ["", "Udp: InCsumErrors\n", "Udp: A\nUdp: 1\n"] {
        assert_eq!(Count::parse(broken, snmp6), None, "{broken:?}");
    }
    let after = Some((5, Some(count(9, 4, 1))));
    let counters = Counters::new(Some(count(7, 4, 2)), after);
    assert_eq!(
        (counters.seconds, counters.change),
        (Some(5), Some(count(2, 0, 0)))
    );
}

#[test]
fn flows_that_nat_has_rewritten() {
    let flow = |reply: &str| {
        format!(
            "ipv4     2 udp      17 29 src=10.0.0.1 dst=10.0.0.2 sport=40000 dport=8472 [UNREPLIED] {reply} mark=0 zone=0 use=2"
        )
    };
    for (line, expected) in [
        (
            flow("src=10.0.0.2 dst=10.0.0.1 sport=8472 dport=40000"),
            Some(false),
        ),
        (
            flow("src=10.0.0.2 dst=10.0.0.1 sport=8472 dport=7103"),
            Some(true),
        ),
        (
            flow("src=10.0.0.2 dst=10.0.0.9 sport=8472 dport=40000"),
            Some(true),
        ),
        (
            flow("src=10.0.0.9 dst=10.0.0.1 sport=8472 dport=40000"),
            Some(true),
        ),
        (flow("src=10.0.0.2"), None),
        (flow("").replace("8472", "53"), None),
        (
            flow("src=10.0.0.2 dst=10.0.0.1 sport=8472 dport=1").replace("udp", "tcp"),
            None,
        ),
        (String::new(), None),
    ] {
        assert_eq!(vxlan_flow(&line, &[4789, 8472]), expected, "{line}");
    }
}

#[test]
fn link_files_as_udev_tries_them() {
    let file = |path: &str, text: &str| Candidate {
        kind: "link-file",
        path: path.to_owned(),
        text: text.to_owned(),
    };
    let vxlan = "[Match]\nType=vxlan\n[Link]\nTransmitChecksumOffload=no\n";
    let default = "[Match]\nOriginalName=*\n[Link]\nNamePolicy=keep\n";
    let other = "[Match]\nOriginalName=eth* vx*\nMACAddress=00:11:22:33:44:55\n[Link]\nTransmitChecksumOffload=no\n";
    let negated = "[Match]\nType=!vxlan\n[Link]\nTransmitChecksumOffload=no\n";
    let empty = "# [Match]\n[Match]\n#Type=vxlan\n[Link]\nTransmitChecksumOffload=no\n";
    let sets = "TransmitChecksumOffload=no for flannel.1";
    let shadowed = "is shadowed for flannel.1";
    for (name_of, texts, expected) in [
        ("sets", vec![vxlan], vec![sets]),
        ("first wins", vec![vxlan, default], vec![sets]),
        ("shadowed", vec![default, vxlan], vec![shadowed]),
        (
            "no condition of a VXLAN device",
            vec![other, vxlan],
            vec![sets],
        ),
        ("negated", vec![negated], vec![]),
        ("no condition at all", vec![empty], vec![]),
        ("nothing to do with it", vec![default], vec![]),
    ] {
        let files: Vec<_> = texts.iter().map(|text| file("/x.link", text)).collect();
        let found = managers(&files, &[name("flannel.1")]);
        assert_eq!(found.len(), expected.len(), "{name_of}: {found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.text.contains(expected), "{name_of}: {found:?}");
        }
    }
}

#[test]
fn whoever_calls_ethtool_and_felix() {
    let file = |kind, path: &str, text: &str| Candidate {
        kind,
        path: path.to_owned(),
        text: text.to_owned(),
    };
    let files = [
        file(
            "udev-rule",
            "/etc/udev/rules.d/90-flannel.rules",
            "# ethtool tx-checksum\nSUBSYSTEM==\"net\", RUN+=\"/sbin/ethtool -K $name tx-checksum-ip-generic off\"\n",
        ),
        file(
            "systemd-unit",
            "/etc/systemd/system/flannel-ethtool.service",
            "ExecStart=/sbin/ethtool -K flannel.1 tx-checksum-ip-generic off\n",
        ),
        file(
            "systemd-unit",
            "/etc/systemd/system/kops.service",
            "After=sys-devices-virtual-net-flannel.1.device\nExecStart=/sbin/ethtool -K flannel.1 tx-checksum-ip-generic off\n",
        ),
        file(
            "dispatcher",
            "/etc/NetworkManager/dispatcher.d/99-x",
            "ethtool -K ens192 rx off\n",
        ),
        file(
            "udev-rule",
            "/etc/udev/rules.d/1.rules",
            "#ethtool -K x tx off\n",
        ),
    ];
    let found = managers(&files, &[name("vxlan.calico"), name("flannel.1")]);
    let seen: Vec<_> = found.iter().map(|m| (m.kind, m.path.as_deref())).collect();
    assert_eq!(
        seen,
        [
            ("felix", None),
            ("udev-rule", Some("/etc/udev/rules.d/90-flannel.rules")),
            (
                "systemd-unit",
                Some("/etc/systemd/system/flannel-ethtool.service")
            ),
            ("systemd-unit", Some("/etc/systemd/system/kops.service")),
        ]
    );
    assert!(found[1].text.starts_with("SUBSYSTEM"), "{found:?}");
    assert!(
        found[2].text.contains("kURL") && found[3].text.contains("kops"),
        "{found:?}"
    );
}

#[test]
fn a_contradiction_of_table_and_probe_is_told_with_a_frame() {
    let run = include_bytes!("../../tests/cases/probe-6.18.44.json");
    let run = ProbeRun::from_json(run).unwrap();
    let verdict = |release: &str| {
        let facts = crate::facts::KernelFacts {
            release: release.to_owned(),
            ..crate::facts::KernelFacts::default()
        };
        crate::kernel::verdict::judge(&facts, &[], None)
    };
    assert_eq!(disagreements(&verdict("6.18.44"), &run), []);
    assert_eq!(disagreements(&verdict("my-kernel"), &run), []);
    let found = disagreements(&verdict("5.4.38"), &run);
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].bug, found[0].table, found[0].measured),
        (BugId::NatZeroCsum, Status::Affected, Status::NotAffected)
    );
    assert!(found[0].frame.as_ref().is_some_and(|hex| hex.len() > 100));
}

#[test]
fn how_a_rule_is_taken_away() {
    for (rule, table, expected) in [
        (
            "-A POSTROUTING -j MASQUERADE",
            "ip nat (xtables)",
            Some("iptables-legacy -t nat -D POSTROUTING -j MASQUERADE"),
        ),
        (
            "-A POSTROUTING -j MASQUERADE",
            "ip6 nat (nf_tables)",
            Some("ip6tables-nft -t nat -D POSTROUTING -j MASQUERADE"),
        ),
        ("masquerade random", "ip kube-proxy (nf_tables)", None),
        ("-A c -j X", "ip my table (nf_tables)", None),
    ] {
        assert_eq!(
            deletion(rule, table).as_deref(),
            expected,
            "{rule} in {table}"
        );
    }
}
