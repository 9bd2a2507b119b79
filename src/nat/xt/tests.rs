//! Decoding of captured tables (kernel 6.18, created by iptables-legacy 1.8.9), and of any other bytes.

use proptest::prelude::*;

use super::*;
use crate::nat::rules::NatRules;

fn captured(tag: &str) -> Vec<u8> {
    let line = include_str!("../fixtures/xt.hex")
        .lines()
        .find_map(|l| l.strip_prefix(tag))
        .unwrap();
    let digits = line.trim().as_bytes().chunks(2);
    digits
        .map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap())
        .collect()
}

fn decode(family: TableFamily, info: &[u8], entries: &[u8]) -> Result<NatRules, Malformed> {
    let answer = [&[0; ENTRIES_HEADER][..], entries].concat();
    let (mut table, entries) = open_table(family, b"nat", &decode_info(info)?, answer)?;
    entries.decode_all(&mut table)?;
    Ok(NatRules {
        tables: vec![table],
        ..NatRules::default()
    })
}

#[test]
fn captured_tables_read_as_iptables_save_prints_them() {
    for (family, info, entries, rules) in [
        (
            TableFamily::Ip,
            "ipinfo",
            "ipentries",
            &[
                r#"-A OUTPUT ! -s 10.244.0.0/16 -d 10.96.0.10/32 -p tcp -m comment --comment "a \"b\"" -m tcp --dport 80 -j KUBE-MARK-MASQ"#,
                "-A POSTROUTING -g KUBE-POSTROUTING",
                "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
                "-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0",
                "-A KUBE-POSTROUTING ! -i docker0 -o eth+ -p udp -m addrtype ! --src-type LOCAL --limit-iface-out -m multiport --dports 1:100,8472 -j MASQUERADE --random-fully",
                "-A KUBE-POSTROUTING -p udp -m conntrack --ctstate NEW,RELATED -m statistic --mode nth --every 3 --packet 1 -j SNAT --to-source 192.0.2.1-192.0.2.9:1000-2000 --persistent",
                "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
            ][..],
        ),
        (
            TableFamily::Ip6,
            "ip6info",
            "ip6entries",
            &[
                "-A POSTROUTING -s fd00::/8 ! -d fd00::/8 -o eth0 -p udp -m udp --sport 1:2 ! --dport 8472 -j X",
                "-A X -p udp -j MASQUERADE --to-ports 5-6",
            ],
        ),
    ] {
        let read = decode(family, &captured(info), &captured(entries)).unwrap();
        let mut ours = crate::nat::exposure::quoted(&read);
        let mut theirs = rules.to_vec();
        ours.sort_unstable();
        theirs.sort_unstable();
        assert_eq!(ours, theirs);
        let policies: Vec<_> = read.tables[0]
            .chains
            .iter()
            .filter_map(|c| Some((c.base?.hook, c.base?.priority, c.base?.drops)))
            .collect();
        assert_eq!(
            policies,
            [
                (Hook::Prerouting, -100, false),
                (Hook::Input, 100, false),
                (Hook::Output, -100, false),
                (Hook::Postrouting, 100, family == TableFamily::Ip),
            ]
        );
    }
}

#[test]
fn a_table_that_is_cut_short_is_an_error() {
    let (info, entries) = (captured("ipinfo"), captured("ipentries"));
    for len in 1..entries.len() {
        // A cut between two entries leaves whole entries.
        if let Ok(rules) = decode(TableFamily::Ip, &info, &entries[..len]) {
            assert!(rules.tables[0].chains.len() < 7, "{len}");
        }
    }
    for len in 0..INFO_LEN {
        assert!(
            decode_info(&info[..len.min(83)]).is_err() || len >= 80,
            "{len}"
        );
    }
}

proptest! {
    #[test]
    fn damaged_tables_do_no_harm(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..10)) {
        let (info, mut entries) = (captured("ipinfo"), captured("ipentries"));
        for (at, byte) in changes {
            let at = at.index(entries.len());
            entries[at] = byte;
        }
        for family in [TableFamily::Ip, TableFamily::Ip6] {
            if let Ok(rules) = decode(family, &info, &entries) {
                let _ = crate::nat::exposure::quoted(&rules);
                let _ = crate::nat::exposure::analyze(&rules, &crate::nat::exposure::tests::flow());
            }
        }
    }

    #[test]
    fn any_bytes_do_no_harm(info in prop::collection::vec(any::<u8>(), 84), entries in prop::collection::vec(any::<u8>(), 0..600), name in "[a-zA-Z]{2,10}", rev in 0u8..5) {
        let _ = decode(TableFamily::Ip, &info, &entries);
        let _ = decode(TableFamily::Ip6, &info, &entries);
        let _ = (decode_match(name.as_bytes(), rev, &entries), decode_target(name.as_bytes(), rev, &entries, TableFamily::Ip6));
        for known in ["comment", "mark", "addrtype", "conntrack", "state", "tcp", "udp", "multiport", "set", "statistic"] {
            let _ = decode_match(known.as_bytes(), rev, &entries);
        }
        for known in ["MARK", "CONNMARK", "MASQUERADE", "SNAT", "DNAT", "REDIRECT", "NETMAP", "CT", "SET", "TPROXY"] {
            let _ = decode_target(known.as_bytes(), rev, &entries, TableFamily::Ip);
        }
    }
}
