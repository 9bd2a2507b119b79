//! Decisions about rules written as values: rules that a test cannot install, and details on which the decision must
//! not depend.

use super::rewrite::IFA_F_SECONDARY;
use super::*;
use crate::nat::rules::*;

/// An address of the underlay, global and preferred.
pub(crate) fn own(address: &str) -> OwnAddress {
    OwnAddress {
        ifindex: 2,
        address: address.parse().unwrap(),
        prefix_len: 24,
        scope: 0,
        flags: 0,
    }
}

/// The device of flannel on a physical NIC.
pub(crate) fn flow() -> OuterFlow {
    OuterFlow {
        device: IfName::new(b"flannel.1").unwrap(),
        ifindex: 9,
        enslaved: false,
        underlay: IfName::new(b"eth0"),
        underlay_ifindex: Some(2),
        underlay_driver: Some("ixgbe".into()),
        underlay_finishes: true,
        underlay_addresses: vec![own("192.0.2.1"), own("fe80::1")],
        other_egress: None,
        local: Some("192.0.2.1".parse().unwrap()),
        routed: None,
        remotes: vec!["192.0.2.2".parse().unwrap()],
        dst_port: Some(8472),
        vni: Some(1),
    }
}

fn masquerade(flags: u32) -> Expr {
    Expr::Nat(Nat {
        kind: NatKind::Masquerade,
        flags,
        addresses: None,
        ports: None,
    })
}

fn rules_at(hook: Hook, nat: bool, bodies: &[&[Expr]]) -> NatRules {
    let rules = bodies
        .iter()
        .map(|b| Rule {
            exprs: (*b).into(),
            comment: None,
        })
        .collect();
    NatRules {
        tables: vec![Table {
            backend: RuleStore::Legacy,
            family: TableFamily::Ip,
            name: b"nat"[..].into(),
            chains: vec![Chain {
                name: b"POSTROUTING"[..].into(),
                base: Some(Base {
                    hook,
                    priority: 100,
                    nat,
                    drops: false,
                }),
                devices: Box::default(),
                rules,
            }],
            sets: Vec::new(),
            goes_unannounced: false,
        }],
        ..NatRules::default()
    }
}

fn word(e: &Exposure) -> &'static str {
    e.code().as_str()
}

#[test]
fn a_bare_masquerade_depends_on_the_addresses() {
    let rules = rules_at(Hook::Postrouting, true, &[&[masquerade(0)]]);
    let two = vec![own("192.0.2.1"), own("198.51.100.3")];
    let others = |change: fn(&mut OwnAddress)| {
        let mut a = own("192.0.2.1");
        change(&mut a);
        OuterFlow {
            underlay_addresses: vec![a],
            ..flow()
        }
    };
    let routed = |sources: &[&str], nexthop: &str| {
        Some(Routed {
            sources: sources.iter().map(|a| a.parse().unwrap()).collect(),
            nexthops: vec![nexthop.parse().unwrap()],
            chosen_ipv6: vec![],
        })
    };
    let both = |routed| OuterFlow {
        underlay_addresses: two.clone(),
        routed,
        ..flow()
    };
    let without = |routed| OuterFlow {
        local: None,
        routed,
        ..flow()
    };
    for (change, want) in [
        (flow(), "not-exposed"),
        (
            OuterFlow {
                local: None,
                ..flow()
            },
            "exposed",
        ),
        (
            OuterFlow {
                underlay_addresses: vec![],
                ..flow()
            },
            "exposed",
        ),
        (
            OuterFlow {
                underlay_addresses: two.clone(),
                ..flow()
            },
            "exposed",
        ),
        (both(routed(&[], "192.0.2.2")), "not-exposed"),
        (both(routed(&[], "203.0.113.1")), "not-exposed"),
        (both(routed(&[], "198.51.100.1")), "exposed"),
        (without(routed(&["192.0.2.1"], "192.0.2.2")), "not-exposed"),
        (without(routed(&["192.0.2.9"], "192.0.2.2")), "exposed"),
        (
            without(routed(&["192.0.2.1", "192.0.2.9"], "192.0.2.2")),
            "exposed",
        ),
        (others(|a| a.scope = 253), "exposed"),
        (others(|a| a.flags = IFA_F_SECONDARY), "exposed"),
        (
            OuterFlow {
                local: Some("192.0.2.9".parse().unwrap()),
                ..flow()
            },
            "exposed",
        ),
        // The rule is for IPv4, the outer packets are IPv6.
        (
            OuterFlow {
                local: Some("2001:db8::1".parse().unwrap()),
                ..flow()
            },
            "not-exposed",
        ),
    ] {
        assert_eq!(word(&analyze(&rules, &change)), want, "{change:?}");
    }
}

/// A patched kube-proxy clears the mark in a nat chain, and only the first packet of a connection passes it. A reply
/// that keeps the mark of the packet that it answers passes no nat chain.
#[test]
fn an_answer_that_keeps_a_mark_is_a_later_packet_with_it() {
    let marked = Expr::Match(Match::Mark {
        value: 0x4000,
        mask: 0x4000,
        invert: false,
    });
    let set = |value| Expr::Mark {
        value,
        mask: 0x4000,
    };
    let patched = [marked, set(0), masquerade(NAT_RANDOM_FULLY)];
    let mut rules = rules_at(Hook::Postrouting, true, &[&patched]);
    let mut services = rules_at(Hook::Prerouting, true, &[&[set(0x4000)]]);
    rules.tables[0]
        .chains
        .append(&mut services.tables[0].chains);
    assert_eq!(word(&analyze(&rules, &flow())), "not-exposed");
    rules.marks_are_answered = true;
    assert_eq!(word(&analyze(&rules, &flow())), "exposed");
}

fn to(address: &str, mask: &str, invert: bool) -> Expr {
    Expr::Match(Match::Address {
        side: Side::Destination,
        address: address.parse().unwrap(),
        mask: mask.parse().unwrap(),
        invert,
    })
}

/// The rules of flannel: from the nodes to the pods.
#[test]
fn a_rule_for_some_destinations_depends_on_the_remotes() {
    let pods = || to("10.244.0.0", "255.255.0.0", false);
    let other_network = to("192.0.2.0", "255.255.255.0", true);
    // The addresses of each subnet that end in 7.
    let holes = to("192.0.0.7", "255.255.0.255", false);
    for (condition, remotes, want) in [
        (pods(), &["192.0.2.2"][..], "not-exposed"),
        (pods(), &["192.0.2.2", "198.51.100.1"], "not-exposed"),
        (pods(), &["10.243.255.255", "10.245.0.0"], "not-exposed"),
        (pods(), &["192.0.2.2", "10.244.3.1", "192.0.2.3"], "exposed"),
        (pods(), &["10.244.0.0"], "exposed"),
        (pods(), &["10.244.255.255"], "exposed"),
        // The destinations are not known, so they can match.
        (pods(), &[], "exposed"),
        (
            other_network.clone(),
            &["192.0.2.2", "192.0.2.3"],
            "not-exposed",
        ),
        (other_network, &["192.0.2.2", "192.0.3.2"], "exposed"),
        (holes.clone(), &["192.0.2.2", "192.0.7.8"], "not-exposed"),
        (holes, &["192.0.2.2", "192.0.3.7"], "exposed"),
    ] {
        let body: &[Expr] = &[condition, masquerade(NAT_RANDOM_FULLY)];
        let rules = rules_at(Hook::Postrouting, true, &[body]);
        let device = OuterFlow {
            remotes: remotes.iter().map(|a| a.parse().unwrap()).collect(),
            ..flow()
        };
        assert_eq!(word(&analyze(&rules, &device)), want, "{device:?}");
    }
}

/// The rule is for IPv4.
#[test]
fn destinations_of_one_family_exclude_the_other() {
    let rules = rules_at(Hook::Postrouting, true, &[&[masquerade(NAT_RANDOM_FULLY)]]);
    let (v4, v6) = ("192.0.2.2", "2001:db8::2");
    for (local, remotes, want) in [
        (None, &[v6][..], "not-exposed"),
        (None, &[v4], "exposed"),
        (None, &[v4, v6], "exposed"),
        (None, &[], "exposed"),
        (Some("2001:db8::1"), &[], "not-exposed"),
        // A contradiction does not prove not-exposed.
        (Some("192.0.2.1"), &[v6], "exposed"),
    ] {
        let device = OuterFlow {
            local: local.map(|a| a.parse().unwrap()),
            remotes: remotes.iter().map(|a| a.parse().unwrap()).collect(),
            ..flow()
        };
        assert_eq!(word(&analyze(&rules, &device)), want, "{device:?}");
    }
}

/// If the outgoing device is not certain, a rule for any device can match, and a masquerade can choose any address.
#[test]
fn the_outgoing_device_decides_rules_for_a_device() {
    let through = |name: &[u8]| {
        Expr::Match(Match::Interface {
            side: Side::Destination,
            prefix: name.into(),
            invert: false,
        })
    };
    let (here, other) = (through(b"eth0\0"), through(b"eth1\0"));
    let (random, bare) = (masquerade(NAT_RANDOM_FULLY), masquerade(0));
    let sure = None;
    let detour = Some(OtherEgress::Device(7));
    for (body, other_egress, known, want) in [
        (&[][..], sure, true, "not-exposed"),
        (&[], detour, true, "unknown"),
        (&[], Some(OtherEgress::Diverted), true, "unknown"),
        (&[], Some(OtherEgress::NotKnown), true, "unknown"),
        (&[], sure, false, "not-exposed"),
        (&[here.clone(), random.clone()], sure, true, "exposed"),
        (&[other.clone(), random.clone()], sure, true, "not-exposed"),
        (&[other.clone(), random.clone()], detour, true, "exposed"),
        (&[other, random], sure, false, "exposed"),
        (&[here.clone(), bare.clone()], sure, true, "not-exposed"),
        (&[here.clone(), bare.clone()], detour, true, "exposed"),
        (&[here, bare], sure, false, "exposed"),
    ] {
        let rules = rules_at(Hook::Postrouting, true, &[body]);
        let mut device = OuterFlow {
            other_egress,
            ..flow()
        };
        if !known {
            device.remotes.clear();
        }
        assert_eq!(word(&analyze(&rules, &device)), want, "{body:?} {device:?}");
    }
}

#[test]
fn an_underlay_that_does_not_finish_checksums_is_never_not_exposed() {
    let rules = NatRules::default();
    for (driver, finishes, want) in [
        (Some("ixgbe"), true, "not-exposed"),
        (Some("veth"), false, "unknown"),
        (None, true, "not-exposed"),
        (None, false, "unknown"),
    ] {
        let device = OuterFlow {
            underlay_driver: driver.map(String::from),
            underlay_finishes: finishes,
            ..flow()
        };
        let got = analyze(&rules, &device);
        assert_eq!(word(&got), want, "{driver:?}");
        if want == "unknown" {
            assert!(
                matches!(got, Exposure::Unknown(Doubt::Underlay(Some(_)))),
                "{got:?}"
            );
        }
    }
    assert_eq!(
        word(&analyze(
            &rules,
            &OuterFlow {
                underlay: None,
                ..flow()
            }
        )),
        "unknown"
    );
}

#[test]
fn unread_or_opaque_rules_are_unknown() {
    let unread = NatRules {
        unread: vec![Fault::other("read nf_tables", "what came made no sense")],
        ..NatRules::default()
    };
    let got = analyze(&unread, &flow());
    assert_eq!(got.to_string(), "read nf_tables: what came made no sense");
    assert_eq!(
        got,
        Exposure::Unknown(Doubt::Unread(unread.unread[0].clone()))
    );
    let opaque = rules_at(
        Hook::Postrouting,
        true,
        &[&[Expr::Opaque("FULLCONENAT".into())]],
    );
    let got = analyze(&opaque, &flow());
    assert_eq!(
        (word(&got), got.rule(), got.to_string().as_str()),
        (
            "unknown",
            Some("-A POSTROUTING -j FULLCONENAT"),
            "vxcsum does not understand \"FULLCONENAT\" in a rule that the outer packets can match: `-A POSTROUTING -j FULLCONENAT`"
        )
    );
    // At another hook it cannot rewrite.
    let other_hook = rules_at(
        Hook::Postrouting,
        false,
        &[&[Expr::Opaque("FULLCONENAT".into())]],
    );
    assert_eq!(word(&analyze(&other_hook, &flow())), "not-exposed");
    // A rule that rewrites and was read decides, whatever was not read.
    let mut both = rules_at(Hook::Postrouting, true, &[&[masquerade(NAT_RANDOM_FULLY)]]);
    both.unread = unread.unread;
    assert_eq!(word(&analyze(&both, &flow())), "exposed");
}

#[test]
fn marks_from_other_programs() {
    let wants = |value| {
        Expr::Match(Match::Mark {
            value,
            mask: value,
            invert: false,
        })
    };
    let sets = |value| Expr::Mark { value, mask: value };
    let random = masquerade(NAT_RANDOM_FULLY);
    for (what, exprs, want) in [
        (
            "no rule sets it, so a socket may",
            vec![vec![wants(8), random.clone()]],
            "exposed",
        ),
        (
            "a rule sets it",
            vec![vec![sets(8)], vec![wants(8), random.clone()]],
            "exposed",
        ),
        (
            "taken back before",
            vec![
                vec![Expr::Mark { value: 0, mask: 8 }],
                vec![wants(8), random.clone()],
            ],
            "not-exposed",
        ),
    ] {
        let bodies: Vec<&[Expr]> = exprs.iter().map(Vec::as_slice).collect();
        let rules = rules_at(Hook::Postrouting, true, &bodies);
        assert_eq!(word(&analyze(&rules, &flow())), want, "{what}");
    }
}

#[test]
fn a_hostile_name_does_not_reach_a_terminal() {
    let comment = Expr::Match(Match::Comment(b"\x1b[2J\n-A fake \"x".as_slice().into()));
    let mut rules = rules_at(
        Hook::Postrouting,
        true,
        &[&[comment, masquerade(NAT_RANDOM)]],
    );
    rules.tables[0].name = b"n\x07at"[..].into();
    let Exposure::Exposed(found) = analyze(&rules, &flow()) else {
        panic!("not exposed");
    };
    assert_eq!(
        found.rule.text,
        r#"-A POSTROUTING -m comment --comment "\x1b[2J\x0a-A fake \"x" -j MASQUERADE --random"#
    );
    assert_eq!(found.rule.table, r"ip n\x07at (xtables)");
}

#[test]
fn loops_and_many_paths_end() {
    let jump = |n| Rule {
        exprs: [
            Expr::Match(Match::Other("x".into())),
            Expr::Verdict(Verdict::Jump(n)),
        ]
        .into(),
        comment: None,
    };
    let mut rules = rules_at(Hook::Postrouting, true, &[]);
    let first = rules.tables[0].chains[0].clone();
    // Every chain calls the next chain twice. Without memory that would be 2^100 paths.
    rules.tables[0].chains = (0..100)
        .map(|n| Chain {
            name: b"c"[..].into(),
            base: first.base.filter(|_| n == 0),
            devices: Box::default(),
            rules: if n < 99 {
                vec![jump(n + 1), jump(n + 1)]
            } else {
                vec![Rule {
                    exprs: [masquerade(0)].into(),
                    comment: None,
                }]
            },
        })
        .collect();
    assert_eq!(word(&analyze(&rules, &flow())), "not-exposed");
    rules.tables[0].chains[99].rules = vec![
        jump(0),
        Rule {
            exprs: [masquerade(0)].into(),
            comment: None,
        },
    ];
    assert_eq!(word(&analyze(&rules, &flow())), "unknown");
}

#[test]
fn inner_packets_of_a_bridge_port_leave_through_the_bridge() {
    let out = |name: &[u8]| {
        Expr::Match(Match::Interface {
            side: Side::Destination,
            prefix: name.into(),
            invert: false,
        })
    };
    let marked = |invert| {
        Expr::Match(Match::Mark {
            value: 0x4000,
            mask: 0x4000,
            invert,
        })
    };
    // A masquerade for br0 comes before the mark is restored.
    let bodies: [&[Expr]; 4] = [
        &[out(b"br0\0"), masquerade(0)],
        &[marked(true), Expr::Verdict(Verdict::Return)],
        &[Expr::Mark {
            value: 0x4000,
            mask: 0,
        }],
        &[masquerade(NAT_RANDOM_FULLY)],
    ];
    let rules = rules_at(Hook::Postrouting, true, &bodies);
    assert_eq!(word(&analyze(&rules, &flow())), "not-exposed");
    assert_eq!(
        word(&analyze(
            &rules,
            &OuterFlow {
                enslaved: true,
                ..flow()
            }
        )),
        "exposed"
    );
}

#[test]
fn every_order_of_chains_of_the_same_priority_counts() {
    let wants = Expr::Match(Match::Mark {
        value: 4,
        mask: 4,
        invert: false,
    });
    let unmarks: &[&[Expr]] = &[&[
        wants.clone(),
        Expr::Mark { value: 0, mask: 4 },
        masquerade(NAT_RANDOM_FULLY),
    ]];
    let keeps: &[&[Expr]] = &[&[wants, masquerade(0)]];
    let marks = || {
        let tcp = Expr::Match(Match::Protocol {
            number: 6,
            invert: false,
        });
        rules_at(
            Hook::Output,
            true,
            &[&[tcp, Expr::Mark { value: 4, mask: 4 }]],
        )
    };
    for (first, second, want) in [
        (unmarks, unmarks, "not-exposed"),
        (unmarks, keeps, "exposed"),
        (keeps, unmarks, "exposed"),
    ] {
        let mut rules = rules_at(Hook::Postrouting, true, first);
        rules
            .tables
            .extend(rules_at(Hook::Postrouting, true, second).tables);
        rules.tables.extend(marks().tables);
        assert_eq!(word(&analyze(&rules, &flow())), want);
    }
    // More chains than are tried in all orders.
    for (ninth, want) in [(unmarks, "not-exposed"), (keeps, "exposed")] {
        let mut rules = rules_at(Hook::Postrouting, true, ninth);
        for _ in 0..8 {
            let more = rules_at(Hook::Postrouting, true, unmarks);
            rules.tables.extend(more.tables);
        }
        rules.tables.extend(marks().tables);
        assert_eq!(word(&analyze(&rules, &flow())), want);
    }
}

#[test]
fn a_rule_for_untracked_packets_is_as_narrow_as_the_device() {
    let rule = |v6, local: Option<&str>| {
        let local = local.map(|a| a.parse().unwrap());
        Untracked {
            v6,
            local,
            port: 8472,
        }
        .rule()
    };
    for (v6, local, want) in [
        (Some(false), Some("192.0.2.1"), "ip saddr 192.0.2.1 "),
        (Some(true), Some("2001:db8::1"), "ip6 saddr 2001:db8::1 "),
        (Some(false), None, "meta nfproto ipv4 "),
        (Some(true), None, "meta nfproto ipv6 "),
        (None, None, ""),
    ] {
        let want = format!("oifname != \"lo\" {want}udp dport 8472 notrack");
        assert_eq!(rule(v6, local), want);
    }
}

#[test]
fn notrack_needs_a_port_and_all_rules_and_helps_only_against_nat() {
    let rules = rules_at(Hook::Postrouting, true, &[&[masquerade(NAT_RANDOM_FULLY)]]);
    let notrack = |rules: &NatRules, flow: &OuterFlow| {
        let found = analyze(rules, flow);
        found.exposed().unwrap().notrack.clone()
    };
    let packets = notrack(&rules, &flow()).unwrap();
    assert_eq!(
        packets.rule(),
        "oifname != \"lo\" ip saddr 192.0.2.1 udp dport 8472 notrack"
    );
    let without_port = OuterFlow {
        dst_port: None,
        ..flow()
    };
    assert_eq!(notrack(&rules, &without_port), Err(NoCure::NoPort));
    let unfinished = OuterFlow {
        underlay_finishes: false,
        ..flow()
    };
    assert!(matches!(
        notrack(&rules, &unfinished),
        Err(NoCure::NotKnown(of, _)) if of == packets
    ));
    let mut copies = rules.clone();
    copies.tables[0].chains[0].rules[0].exprs =
        [Expr::Copy("dup".into()), masquerade(NAT_RANDOM_FULLY)].into();
    assert_eq!(notrack(&copies, &flow()), Err(NoCure::Copied));
}
