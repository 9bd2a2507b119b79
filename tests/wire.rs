//! The wire formats compared with real messages of the kernel, captured from Linux 6.18 on x86-64, in both directions.
//!
//! Each file in `fixtures/wire` holds one or more datagrams in hex, with an empty line between them.
#![cfg(target_endian = "little")]

use proptest::prelude::*;
use vxcsum::ethtool::{Feature, Features, netlink as ethnl, structs};
use vxcsum::fault::Malformed;
use vxcsum::link::{OuterChecksum, TunnelKind, UnderlayLink, route, rtnl};
use vxcsum::netlink::{self, DumpReader, Message, Writer};
use vxcsum::text::IfName;

const FEATURE: &str = Feature::Checksum.as_str();

const FAMILY: u16 = 21;
const FLANNEL: u32 = 4;

fn datagrams(name: &str) -> Vec<Vec<u8>> {
    let path = format!(
        "{}/tests/fixtures/wire/{name}.hex",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let hex = |block: &str| -> Vec<u8> {
        let digits: Vec<u8> = block.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    };
    text.split("\n\n")
        .filter(|block| !block.trim().is_empty())
        .map(hex)
        .collect()
}

fn dump<T>(name: &str, read: impl Fn(&Message<'_>) -> Result<Option<T>, Malformed>) -> Vec<T> {
    let (mut reader, mut found, mut complete) = (DumpReader::new(1), Vec::new(), false);
    for datagram in datagrams(name) {
        complete = reader
            .feed(&datagram, |message| {
                found.extend(read(&message)?);
                Ok(())
            })
            .unwrap();
    }
    assert!(complete, "{name} has no end");
    found
}

fn name(text: &str) -> IfName {
    IfName::new(text.as_bytes()).unwrap()
}

#[test]
fn requests_are_what_was_sent() {
    let written = |write: &dyn Fn(&mut Writer)| {
        let mut w = Writer::default();
        write(&mut w);
        w.bytes().to_vec()
    };
    let flannel = name("flannel.1");
    let device = (FLANNEL, &flannel);
    let ack = netlink::NLM_F_ACK;
    for (fixture, request) in [
        (
            "getlink-dump.request",
            written(&|w| rtnl::dump_kind(w, 1, TunnelKind::Vxlan)),
        ),
        (
            "getlink-veth.request",
            written(&|w| rtnl::get_by_name(w, 1, &name("eth0"))),
        ),
        (
            "getaddr-dump.request",
            written(&|w| rtnl::dump_addresses(w, 1)),
        ),
        (
            "getneigh-dump.request",
            written(&|w| rtnl::dump_forwarding(w, 1, 0)),
        ),
        ("family.request", written(&|w| ethnl::get_family(w, 1))),
        (
            "strset.request",
            written(&|w| ethnl::get_feature_names(w, FAMILY, 1)),
        ),
        (
            "features-dump.request",
            written(&|w| ethnl::dump_features(w, FAMILY, 1)),
        ),
        (
            "features-get.request",
            written(&|w| ethnl::get_features(w, FAMILY, 1, device)),
        ),
        (
            "features-set.request",
            written(&|w| ethnl::set_feature(w, FAMILY, (1, ack), device, FEATURE, false)),
        ),
    ] {
        assert_eq!(request, datagrams(fixture)[0], "{fixture}");
    }
}

#[test]
fn the_link_dump_describes_every_vxlan_device() {
    let links = dump("getlink-dump.answer", |m| {
        Ok(rtnl::link(m)?.and_then(|link| link.tunnel))
    });
    let seen: Vec<_> = links
        .iter()
        .map(|l| {
            (
                l.name.to_string(),
                l.vni,
                l.dst_port,
                l.local.map(|a| a.to_string()),
                l.outer_checksum,
                l.underlay,
            )
        })
        .collect();
    let v4 = || Some("192.0.2.10".to_owned());
    let (on_eth0, unset) = (UnderlayLink::Ifindex(3), UnderlayLink::NotSet);
    assert_eq!(
        seen,
        [
            (
                "flannel.1".to_owned(),
                Some(1),
                Some(8472),
                v4(),
                OuterChecksum::Present,
                on_eth0
            ),
            (
                "v6".to_owned(),
                Some(4096),
                Some(4789),
                Some("2001:db8::1".to_owned()),
                OuterChecksum::Zero,
                unset
            ),
            (
                "vx.zero".to_owned(),
                Some(7),
                Some(8472),
                v4(),
                OuterChecksum::Zero,
                unset
            ),
            (
                "ext0".to_owned(),
                None,
                Some(4790),
                None,
                OuterChecksum::External,
                unset
            ),
        ]
    );
    assert_eq!(
        links
            .iter()
            .map(|l| l.udp_zero_csum6_tx)
            .collect::<Vec<_>>(),
        [false, true, false, false]
    );
}

#[test]
fn a_link_of_another_kind_is_named_and_is_no_vxlan_device() {
    let datagram = &datagrams("getlink-veth.answer")[0];
    let message = netlink::messages(datagram).next().unwrap().unwrap();
    let link = rtnl::link(&message).unwrap().unwrap();
    assert_eq!(
        (link.name, link.kind.as_deref(), link.tunnel),
        (name("eth0"), Some("veth"), None)
    );
}

#[test]
fn addresses_have_owners() {
    let owners: Vec<_> = dump("getaddr-dump.answer", rtnl::own_address)
        .into_iter()
        .map(|own| (own.address, own.ifindex))
        .collect();
    assert!(
        owners.contains(&("192.0.2.10".parse().unwrap(), 3)),
        "{owners:?}"
    );
    assert!(
        owners.contains(&("127.0.0.1".parse().unwrap(), 1)),
        "{owners:?}"
    );
}

#[test]
fn forwarding_entries_say_where_packets_go() {
    let all = dump("getneigh-dump.answer", rtnl::forwarding);
    // The other messages are about other devices.
    let seen: Vec<_> = all
        .iter()
        .filter(|e| (4..=7).contains(&e.ifindex))
        .collect();
    let none = |ifindex| rtnl::Forwarding {
        ifindex,
        remote: None,
        port: None,
        underlay: None,
        nexthops: false,
    };
    let to = |ifindex, remote: &str| rtnl::Forwarding {
        remote: Some(remote.parse().unwrap()),
        ..none(ifindex)
    };
    let expected = [
        // The entries of the bridge that has flannel.1 as a port.
        none(FLANNEL),
        rtnl::Forwarding {
            port: Some(4789),
            underlay: Some(3),
            ..to(FLANNEL, "192.0.2.12")
        },
        to(FLANNEL, "192.0.2.11"),
        to(5, "2001:db8::2"),
        rtnl::Forwarding {
            nexthops: true,
            ..none(6)
        },
    ];
    assert_eq!(seen, expected.iter().collect::<Vec<_>>());
    assert!(all.len() > seen.len() && all.iter().all(|e| e.ifindex != 7));
}

/// The same attributes in an entry of the neighbour table are addresses inside the tunnel.
#[test]
fn other_messages_are_no_forwarding_entries() {
    let mut payload = vec![7, 0, 0, 0, 4, 0, 0, 0, 128, 0, 2, 0, 8, 0, 1, 0];
    payload.extend([192, 0, 2, 11]);
    let read = |kind, payload: &[u8]| {
        rtnl::forwarding(&Message {
            kind,
            flags: 0,
            seq: 1,
            payload,
        })
        .map(|entry| entry.map(|entry| entry.remote.map(|a| a.to_string())))
    };
    assert_eq!(read(28, &payload), Ok(Some(Some("192.0.2.11".to_owned()))));
    assert_eq!(read(30, &payload), Ok(None));
    for cut in [1, 11, 13, 15, 19] {
        assert!(read(28, &payload[..cut]).is_err(), "cut at {cut}");
    }
    let mut neighbour = payload.clone();
    neighbour[0] = 2;
    assert_eq!(read(28, &neighbour), Ok(None));
    payload[16..].fill(0);
    assert_eq!(read(28, &payload), Ok(Some(None)), "no machine's address");
}

#[test]
fn the_family_and_its_commands() {
    let datagram = &datagrams("family.answer")[0];
    let message = netlink::messages(datagram).next().unwrap().unwrap();
    assert_eq!(
        ethnl::family(&message),
        Ok(ethnl::GenlFamily {
            id: FAMILY,
            has_features: true
        })
    );
    // A kernel without FEATURES_SET, such as 5.6: operation 12 is renamed to 99.
    let mut without = datagram.clone();
    let op = [8, 0, 1, 0, 12, 0, 0, 0];
    let at = without
        .windows(8)
        .position(|window| window == op)
        .expect("the operation is in the capture");
    without[at + 4] = 99;
    let message = netlink::messages(&without).next().unwrap().unwrap();
    assert_eq!(
        ethnl::family(&message),
        Ok(ethnl::GenlFamily {
            id: FAMILY,
            has_features: false
        })
    );
}

#[test]
fn the_names_of_the_features() {
    let datagram = &datagrams("strset.answer")[0];
    let message = netlink::messages(datagram).next().unwrap().unwrap();
    let names = ethnl::feature_names(&message).unwrap();
    assert_eq!(names.iter().position(|name| name == FEATURE), Some(3));
    assert_eq!(names[0], "tx-scatter-gather");
}

#[test]
fn features_of_one_device_and_of_all() {
    let datagram = &datagrams("features-get.answer")[0];
    let message = netlink::messages(datagram).next().unwrap().unwrap();
    let device = ethnl::features(&message, |_, _| true).unwrap().unwrap();
    assert_eq!((device.ifindex, device.name), (FLANNEL, &b"flannel.1"[..]));
    let state = device.features.state(3);
    assert!(state.hw && state.wanted && state.active && !state.nochange);
    assert_eq!(
        ethnl::features(&message, |ifindex, _| ifindex != FLANNEL),
        Ok(None),
        "not the wanted one"
    );

    let all = dump("features-dump.answer", |m| {
        Ok(ethnl::features(m, |_, _| true)?.map(|d| (d.ifindex, d.name.to_vec(), d.features)))
    });
    let lo: &(u32, Vec<u8>, Features) = all.iter().find(|(_, name, _)| name == b"lo").unwrap();
    assert!(
        lo.2.state(3).fixed() && lo.2.state(3).active,
        "lo has it [fixed] and on"
    );
    assert_eq!(all.len(), 7);
}

#[test]
fn acknowledgements_and_refusals() {
    let read = |fixture| {
        let datagram = &datagrams(fixture)[0];
        let message = netlink::messages(datagram).next().unwrap().unwrap();
        assert!(netlink::is_acknowledgement(&message));
        netlink::acknowledgement(&message).unwrap()
    };
    assert_eq!(read("features-set.answer"), Ok(()));
    let refused = read("features-set-renamed.answer").unwrap_err();
    assert_eq!(
        (refused.errno, refused.extack.as_deref()),
        (19, Some("ifindex and name do not match"))
    );
    let missing = read("getlink-nodev.answer").unwrap_err();
    assert_eq!((missing.errno, missing.extack), (19, None));
}

/// Every truncation of a capture and every changed byte gives an error or a value, never a panic. A truncated datagram
/// is never a complete dump.
#[test]
fn damaged_captures() {
    for fixture in [
        "getlink-dump.answer",
        "features-dump.answer",
        "strset.answer",
        "family.answer",
        "getaddr-dump.answer",
        "getneigh-dump.answer",
    ] {
        for datagram in datagrams(fixture) {
            for cut in 0..datagram.len() {
                let complete = DumpReader::new(1).feed(&datagram[..cut], |m| {
                    read_all(&m);
                    Ok(())
                });
                assert_ne!(complete, Ok(true), "{fixture} cut at {cut}");
            }
            for at in 0..datagram.len() {
                for value in [0, 1, 0x7f, 0xff] {
                    let mut damaged = datagram.clone();
                    damaged[at] = value;
                    let _ = DumpReader::new(1).feed(&damaged, |m| {
                        read_all(&m);
                        Ok(())
                    });
                }
            }
        }
    }
}

fn read_all(message: &Message<'_>) {
    let _ = (
        rtnl::link(message),
        rtnl::own_address(message),
        rtnl::forwarding(message),
        route::route(message),
        route::routing_rule(message),
        ethnl::family(message),
    );
    let _ = (
        ethnl::feature_names(message),
        ethnl::features(message, |_, _| true),
    );
}

proptest! {
    #[test]
    fn any_payload_is_read_without_a_panic(
        kind in prop_oneof![Just(16u16), Just(20), Just(24), Just(28), Just(32), Just(FAMILY), any::<u16>()],
        payload in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let message = Message { kind, flags: 0, seq: 1, payload: &payload };
        read_all(&message);
        let _ = structs::sset_info(&payload);
        let _ = structs::gstrings(&payload);
        let _ = structs::gfeatures(&payload);
        let _ = structs::drvinfo_driver(&payload);
    }
}
