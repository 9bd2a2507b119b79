//! Decoding of captured messages (kernel 6.18, created by nft 1.0.6, iptables-nft 1.8.9 and ipset 7.17), and of any
//! other bytes.

use proptest::prelude::*;

use super::*;
use crate::nat::rules::{Data, Element, IpSet, Member, NatRules, Table};
use crate::netlink::messages;

/// Lines of `tag type payload`.
fn fixture(text: &str) -> Vec<(String, u16, Vec<u8>)> {
    text.lines()
        .map(|l| {
            let f: Vec<&str> = l.split(' ').collect();
            let digits = f[2].as_bytes().chunks(2);
            let bytes =
                digits.map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap());
            (
                f[0].into(),
                u16::from_str_radix(f[1], 16).unwrap(),
                bytes.collect(),
            )
        })
        .collect()
}

fn captured() -> Vec<(String, u16, Vec<u8>)> {
    fixture(include_str!("../fixtures/nft.hex"))
}

fn message(kind: u16, payload: &[u8]) -> Message<'_> {
    Message {
        kind,
        flags: 0,
        seq: 0,
        payload,
    }
}

fn assemble(messages: &[(String, u16, Vec<u8>)]) -> Result<Vec<Table>, Malformed> {
    let mut rules = Ruleset::default();
    for (get, tag) in [
        (Get::Tables, "table"),
        (Get::Chains, "chain"),
        (Get::Sets, "set"),
        (Get::Rules, "rule"),
    ] {
        for (_, kind, payload) in messages.iter().filter(|m| m.0 == tag) {
            rules.add(get, &message(*kind, payload))?;
        }
    }
    for wanted in rules.wanted() {
        rules.begin_elements(&wanted);
        let tag = format!("elements:{}", String::from_utf8_lossy(&wanted.name));
        for (_, kind, payload) in messages.iter().filter(|m| m.0 == tag) {
            rules.add_elements(&wanted, &message(*kind, payload))?;
        }
    }
    Ok(rules.finish())
}

#[test]
fn captured_rules_read_as_their_tools_print_them() {
    let tables = assemble(&captured()).unwrap();
    let names: Vec<_> = tables
        .iter()
        .map(|t| String::from_utf8_lossy(&t.name))
        .collect();
    assert_eq!(names, ["nat", "t"], "the dormant table is left out");
    let rules = NatRules {
        tables,
        ..NatRules::default()
    };
    assert_eq!(
        crate::nat::exposure::quoted(&rules),
        [
            "-A POSTROUTING -m set ! --match-set [0] src,dst -m comment --comment x -j CONNMARK --save-mark --nfmask 0xff --ctmask 0xff",
            "inet t c meta mark set meta mark | 0x00004000 comment \"why not\"",
            "inet t p meta mark & 0x00004000 == 0x00000000 return",
            "inet t p th dport vmap @v",
            "inet t p ip saddr . udp dport @i masquerade fully-random,persistent",
            "inet t p ip saddr != @r meta l4proto udp snat to 192.0.2.1:5-9",
            "inet t p fib saddr type local notrack",
            "inet t p ct state new limit meta l4proto udp payload set",
        ]
    );
}

#[test]
fn captured_sets_keep_their_elements() {
    let tables = assemble(&captured()).unwrap();
    let sets = &tables[1].sets;
    let value = |key: &[u8], end: bool| Element {
        key: key.into(),
        key_end: None,
        interval_end: end,
        uncertain: false,
        data: Data::Nothing,
    };
    assert_eq!(&*sets[0].fields, [4, 2]);
    let pairs = sets[0].elements.as_ref().unwrap();
    assert_eq!(*pairs[0].key, [10, 0, 0, 0, 0, 1, 0, 0]);
    assert_eq!(
        pairs[0].key_end.as_deref(),
        Some(&[10, 255, 255, 255, 0, 5, 0, 0][..])
    );
    assert_eq!(
        sets[1].elements.as_deref().unwrap(),
        [
            value(&[192, 168, 1, 0], true),
            value(&[192, 168, 0, 0], false),
            value(&[11, 0, 0, 0], true),
            value(&[10, 0, 0, 0], false),
            value(&[0, 0, 0, 0], true),
        ]
    );
    let verdicts: Vec<_> = sets[2]
        .elements
        .iter()
        .flatten()
        .map(|e| (&*e.key, &e.data))
        .collect();
    assert_eq!(
        verdicts,
        [
            (
                &[0, 81][..],
                &Data::Verdict(crate::nat::rules::Verdict::Accept)
            ),
            (
                &[0, 80],
                &Data::Verdict(crate::nat::rules::Verdict::Jump(0))
            ),
        ]
    );
}

#[test]
fn captured_ipsets() {
    let mut sets: Vec<IpSet> = Vec::new();
    for (_, kind, payload) in fixture(include_str!("../fixtures/ipset.hex")) {
        sets::add_ipset(&mut sets, &message(kind, &payload)).unwrap();
    }
    let kinds: Vec<_> = sets.iter().map(|s| (s.index, &*s.name, &*s.kind)).collect();
    assert_eq!(
        kinds,
        [
            (0, &b"A"[..], "hash:net"),
            (1, b"B", "hash:ip,port,ip"),
            (2, b"C", "bitmap:port"),
            (3, b"D", "hash:ip"),
        ]
    );
    let a = |n: [u8; 4]| core::net::IpAddr::from(n);
    let mut nets = sets[0].members.clone();
    nets.sort_by_key(|m| m.ip);
    assert_eq!(
        nets,
        [
            Member {
                ip: Some((a([10, 1, 0, 0]), a([10, 1, 0, 255]))),
                excluded: true,
                ..Member::default()
            },
            Member {
                ip: Some((a([10, 244, 0, 0]), a([10, 244, 255, 255]))),
                ..Member::default()
            },
        ]
    );
    let one = Some((a([10, 0, 0, 1]), a([10, 0, 0, 1])));
    let pair = Member {
        ip: one,
        ip2: one,
        port: Some((80, 80)),
        protocol: Some(6),
        ..Member::default()
    };
    assert_eq!(sets[1].members, [pair]);
    assert_eq!(
        sets[2].members,
        [Member {
            port: Some((8472, 8472)),
            ..Member::default()
        }]
    );
    assert_eq!(
        sets[3].members[0].ip.unwrap().0,
        "fd00::1".parse::<core::net::IpAddr>().unwrap()
    );
}

#[test]
fn requests_have_the_bytes_the_kernel_wants() {
    for (get, bytes) in [
        (
            Get::Rules,
            &[20, 0, 0, 0, 7, 10, 1, 3, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..],
        ),
        (
            Get::Generation,
            &[
                20, 0, 0, 0, 16, 10, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            ],
        ),
        (
            Get::IpSets,
            &[
                28, 0, 0, 0, 7, 6, 1, 3, 9, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 5, 0, 1, 0, 7, 0, 0, 0,
            ],
        ),
    ] {
        // The headers are in the machine's byte order. These rows are little-endian.
        if cfg!(target_endian = "little") {
            let mut w = Writer::default();
            request(&mut w, 9, get);
            assert_eq!(w.bytes(), bytes, "{get:?}");
        }
    }
    let mut own = Writer::default();
    elements_request(&mut own, 1, (2, b"tab", b"s"));
    let parsed: Vec<_> = messages(own.bytes()).map(Result::unwrap).collect();
    let (family, body) = parsed[0].body().unwrap();
    let found: Vec<_> = attrs(body)
        .map(|a| a.unwrap())
        .map(|a| (a.kind, a.payload))
        .collect();
    assert_eq!((family, found), (2, vec![(1, &b"tab\0"[..]), (2, b"s\0")]));
}

#[test]
fn a_generation() {
    let all = captured();
    let (_, kind, payload) = all.iter().find(|m| m.0 == "gen").unwrap();
    assert_eq!(generation(&message(*kind, payload)).unwrap(), 3);
}

proptest! {
    /// Captured messages with some bytes changed give an error or a value, and the analysis ends.
    #[test]
    fn damaged_messages_do_no_harm(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
        let mut all = captured();
        for (which, at, byte) in changes {
            let n = which.index(all.len());
            let payload = &mut all[n].2;
            let at = at.index(payload.len());
            payload[at] = byte;
        }
        if let Ok(tables) = assemble(&all) {
            let rules = NatRules { tables, ..NatRules::default() };
            let _ = crate::nat::exposure::quoted(&rules);
            let _ = crate::nat::exposure::analyze(&rules, &crate::nat::exposure::tests::flow());
        }
        let _ = generation(&message(0, &all[0].2));
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for m in messages(&bytes).flatten() {
            let _ = m.body();
        }
        for a in attrs(&bytes).flatten() {
            prop_assert!(a.payload.len() + 4 <= bytes.len());
        }
        let m = message(0, &bytes);
        let _ = (table(&m), chain(&m), generation(&m), sets::set(&m), sets::add_ipset(&mut Vec::new(), &m));
        let _ = assemble(&[("rule".into(), 0, bytes.clone())]);
    }
}

#[test]
fn a_table_of_a_process_goes_unannounced() {
    for (flags, dormant, goes_unannounced) in [
        (0, false, false),
        (NFT_TABLE_F_DORMANT, true, false),
        (NFT_TABLE_F_OWNER, false, true),
        (NFT_TABLE_F_OWNER | NFT_TABLE_F_DORMANT, true, true),
        // The table of firewalld stays when the process ends.
        (NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST, false, false),
    ] {
        let mut payload = vec![NFPROTO_IPV4, 0, 0, 0];
        for (kind, value) in [
            (NFTA_TABLE_NAME, *b"tab\0"),
            (NFTA_TABLE_FLAGS, flags.to_be_bytes()),
        ] {
            payload.extend([8_u16.to_ne_bytes(), kind.to_ne_bytes()].concat());
            payload.extend(value);
        }
        let expected = TableHead {
            key: TableKey {
                family: NFPROTO_IPV4,
                name: b"tab"[..].into(),
            },
            dormant,
            goes_unannounced,
        };
        assert_eq!(table(&message(0, &payload)).unwrap(), expected, "{flags}");
    }
}
