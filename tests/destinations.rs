//! The destinations of outer packets of real devices: discovery compared with bridge(8). Needs root, ip and bridge.

mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use common::{Netns, run};
use vxcsum::ethtool::backend_io::{Backend, Choice};
use vxcsum::nat::exposure::{OtherEgress, OuterFlow};
use vxcsum::offload::discover_io::{Discovery, Selection};
use vxcsum::text::IfName;

/// With `only`, the kernel is asked for the entries of one device, else for the entries of all.
fn flows(netns: &Netns, only: Option<&str>) -> BTreeMap<String, OuterFlow> {
    let names = only.map(|name| [IfName::new(name.as_bytes()).unwrap()]);
    let which = names
        .as_ref()
        .map_or(Selection::All, |n| Selection::Named(n));
    let flows = netns.enter(|| {
        let mut backend = Backend::open(Choice::Auto).expect("open ethtool");
        let mut discovery = Discovery::open().expect("open rtnetlink");
        let (_, devices) = discovery.devices(&mut backend, which).expect("discover");
        discovery.outer_flows(&devices).expect("look at flows")
    });
    let by_name = flows.into_iter().map(|(f, _)| (f.device.to_string(), f));
    by_name.collect()
}

fn bridge(netns: &Netns, words: &str) -> String {
    let run = run(netns.command("bridge").args(words.split_whitespace())).expect(0);
    run.text().to_owned()
}

/// The destinations according to bridge(8).
fn bridge_destinations(netns: &Netns, device: &str) -> Vec<IpAddr> {
    let text = bridge(netns, &format!("fdb show dev {device}"));
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut found: Vec<IpAddr> = words
        .windows(2)
        .filter(|pair| pair[0] == "dst")
        .map(|pair| pair[1].parse().expect("an address"))
        .collect();
    found.sort();
    found.dedup();
    found
}

#[test]
fn destinations_are_those_that_bridge_shows() {
    let netns = Netns::with_underlay();
    netns.batch(
        "link add flannel.1 type vxlan id 1 local 192.0.2.1 dev eth0 dstport 8472 nolearning\n\
         link add one type vxlan id 2 local 192.0.2.1 dev eth0 dstport 8472 nolearning\n\
         link add none type vxlan id 3 local 192.0.2.1 dev eth0 dstport 8472 nolearning\n\
         link add v6 type vxlan id 4 local fd00::1 dev eth0 dstport 8472 nolearning\n\
         link add remote type vxlan id 5 remote 192.0.2.5 dev eth0 dstport 8472 nolearning\n\
         link add group6 type vxlan id 6 group ff02::6 dev eth0 dstport 8472 nolearning\n\
         link add learns type vxlan id 7 remote 192.0.2.5 dev eth0 dstport 8472 learning\n\
         link add external type vxlan external dstport 8473 nolearning\n\
         link add nexthops type vxlan id 9 dstport 8472 nolearning\n\
         link add port type vxlan id 10 local 192.0.2.1 dev eth0 dstport 8472 nolearning\n\
         link add via type vxlan id 11 local 192.0.2.1 dev eth0 dstport 8472 nolearning\n\
         link add br0 type bridge\n\
         link set none master br0\n\
         neigh add 10.244.1.0 lladdr 02:00:00:00:00:02 dev none nud permanent\n\
         nexthop add id 7 via 192.0.2.13 fdb\n\
         nexthop add id 8 group 7 fdb\n",
    );
    let entries = [
        "flannel.1 dst 192.0.2.3",
        "flannel.1 dst 192.0.2.2",
        "one dst 192.0.2.2",
        "v6 dst fd00::2",
        "remote dst 192.0.2.6",
        "learns dst 192.0.2.6",
        "external dst 192.0.2.2 src_vni 3",
        "nexthops nhid 8",
        "port dst 192.0.2.2 port 4789",
        "via dst 192.0.2.2 via peer0",
    ];
    for (n, entry) in (10..).zip(entries) {
        bridge(
            &netns,
            &format!("fdb append 02:00:00:00:00:{n} dev {entry}"),
        );
    }
    // An entry with an address beside the nexthop group.
    bridge(
        &netns,
        "fdb append 02:00:00:00:00:09 dev nexthops dst 192.0.2.2",
    );
    let all = flows(&netns, None);
    for (device, remotes, closed) in [
        ("flannel.1", &["192.0.2.2", "192.0.2.3"][..], true),
        ("one", &["192.0.2.2"], true),
        ("none", &[], false),
        ("v6", &["fd00::2"], true),
        ("remote", &["192.0.2.5", "192.0.2.6"], true),
        ("group6", &["ff02::6"], true),
        ("learns", &[], false),
        ("external", &[], false),
        ("nexthops", &[], false),
        ("port", &["192.0.2.2"], true),
        ("via", &["192.0.2.2"], true),
    ] {
        let found: Vec<String> = all[device].remotes.iter().map(IpAddr::to_string).collect();
        assert_eq!(found, remotes, "{device}");
        if closed {
            assert_eq!(
                all[device].remotes,
                bridge_destinations(&netns, device),
                "{device}"
            );
        }
        // The kernel filters.
        assert_eq!(flows(&netns, Some(device))[device], all[device]);
    }
    assert_eq!(all.len(), 11);
    for (device, port, underlay) in [
        ("flannel.1", Some(8472), Some("eth0")),
        ("remote", Some(8472), Some("eth0")),
        // One entry has another port.
        ("port", None, Some("eth0")),
        // The sender chooses the port of each packet.
        ("external", None, None),
        ("via", Some(8472), Some("eth0")),
    ] {
        let flow = &all[device];
        let name = flow.underlay.map(|name| name.to_string());
        assert_eq!(
            (flow.dst_port, name.as_deref()),
            (port, underlay),
            "{device}"
        );
        // One entry has another underlay.
        let other = (device == "via").then(|| ifindex(&netns, "peer0"));
        assert_eq!(
            flow.other_egress,
            other.map(OtherEgress::Device),
            "{device}"
        );
    }
}

fn ifindex(netns: &Netns, device: &str) -> u32 {
    let number = netns.links()[device]["ifindex"].as_u64();
    u32::try_from(number.expect("an ifindex")).expect("of 32 bits")
}

/// The answer of `ip route get`.
fn routed(netns: &Netns, destination: &str) -> Option<String> {
    let words = ["route", "get", destination];
    let said = run(netns.command("ip").args(words));
    let mut words = said.text().split_whitespace();
    words.find(|word| *word == "dev")?;
    words.next().map(str::to_owned)
}

/// An entry without a device: routing chooses the device, and it can be another one than the underlay.
#[test]
fn routing_can_send_packets_another_way() {
    let netns = Netns::with_underlay();
    netns.batch(
        "link add eth1 type veth peer name peer1\n\
         link set eth1 up\n\
         link set peer1 up\n\
         addr add 198.51.100.1/24 dev eth1\n\
         route add 203.0.113.0/25 via 198.51.100.2\n\
         route add 203.0.113.128/25 via 192.0.2.2\n\
         route add 203.0.114.0/24 nexthop via 192.0.2.2 nexthop via 198.51.100.2\n\
         route add unreachable 203.0.115.0/24\n\
         addr add 2001:db8:1::1/64 dev eth1 nodad\n\
         link add flannel.1 type vxlan id 1 local 192.0.2.1 dev eth0 dstport 8472 nolearning\n\
         link add v6 type vxlan id 2 local fd00::1 dev eth0 dstport 8472 nolearning\n\
         link add own type vxlan id 3 remote 203.0.113.9 dev eth0 dstport 8472 nolearning\n\
         link add free type vxlan id 4 remote 203.0.113.9 local 192.0.2.1 dstport 8472 nolearning\n",
    );
    let eth1 = Some(OtherEgress::Device(ifindex(&netns, "eth1")));
    let other_egress = |device: &str| flows(&netns, Some(device))[device].other_egress;
    let through = |device: &str, destination: &str| {
        let entry = format!("02:00:00:00:00:02 dev {device} dst {destination}");
        bridge(&netns, &format!("fdb append {entry}"));
        let found = other_egress(device);
        bridge(&netns, &format!("fdb del {entry}"));
        found
    };
    for (destination, witness, want) in [
        ("192.0.2.2", Some("eth0"), None),
        ("203.0.113.200", Some("eth0"), None),
        ("203.0.113.2", Some("eth1"), eth1),
        // Packets never go there.
        ("203.0.115.2", None, None),
    ] {
        assert_eq!(
            routed(&netns, destination).as_deref(),
            witness,
            "{destination}"
        );
        assert_eq!(through("flannel.1", destination), want, "{destination}");
    }
    // Each packet takes one of two routes by a hash, so one answer of `ip route get` does not show both.
    assert_eq!(through("flannel.1", "203.0.114.2"), eth1);
    assert_eq!(through("v6", "fd00::2"), None);
    assert_eq!(through("v6", "2001:db8:1::2"), eth1);
    // A device with an underlay sends through it; for a device without one, routing decides.
    assert_eq!((other_egress("own"), other_egress("free")), (None, eth1));

    let diverted = Some(OtherEgress::Diverted);
    for (rule, v4, v6) in [
        ("rule add from 10.0.0.0/8 lookup 7", None, None),
        ("rule add fwmark 0x80/0x80 lookup main", None, None),
        ("rule add fwmark 0x4000 unreachable", None, None),
        ("rule add fwmark 0x4000/0x4000 lookup 7", diverted, None),
        ("rule add ipproto udp dport 8472 lookup 7", diverted, None),
        ("-6 rule add fwmark 0x4000/0x4000 lookup 7", None, diverted),
    ] {
        netns.ip(rule);
        let found = (through("flannel.1", "192.0.2.2"), through("v6", "fd00::2"));
        assert_eq!(found, (v4, v6), "{rule}");
        netns.ip(&rule.replace("add", "del"));
    }
}

/// flanneld creates the device first, and later an entry for each node.
#[test]
fn entries_come_and_go() {
    let netns = Netns::with_underlay();
    netns.ip("link add flannel.1 type vxlan id 1 local 192.0.2.1 dev eth0 dstport 8472 nolearning");
    let remotes = || flows(&netns, None).remove("flannel.1").unwrap().remotes;
    assert!(remotes().is_empty());
    // More entries than one part of a dump holds.
    let mut batch = String::new();
    for n in 0..2000 {
        let (a, b) = (n / 200, n % 200 + 1);
        let _ = writeln!(
            batch,
            "fdb add 02:00:00:00:{a:02x}:{b:02x} dev flannel.1 dst 198.18.{a}.{b}"
        );
    }
    let file = tempfile::NamedTempFile::new().expect("make a file");
    std::fs::write(file.path(), batch).expect("write it");
    bridge(&netns, &format!("-batch {}", file.path().display()));
    assert_eq!(remotes().len(), 2000);
    assert_eq!(remotes(), bridge_destinations(&netns, "flannel.1"));
    netns.ip("link set flannel.1 down");
    netns.ip("link del flannel.1");
    netns.ip("link add flannel.1 type vxlan id 1 local 192.0.2.1 dev eth0 dstport 8472 nolearning");
    assert!(remotes().is_empty());
}

/// Whichever request the kernel refuses, the list of destinations is complete or `unknown`.
#[test]
fn a_part_of_the_destinations_is_never_taken_for_all() {
    let netns = Netns::with_underlay();
    netns.ip("link add flannel.1 type vxlan id 1 remote 192.0.2.5 local 192.0.2.1 dev eth0 dstport 8472 udpcsum nolearning");
    bridge(
        &netns,
        "fdb append 02:00:00:00:00:06 dev flannel.1 dst 192.0.2.6",
    );
    let mut seen = BTreeMap::new();
    for n in 1..24 {
        let fault = format!("sendto:error=ENOBUFS:when={n}");
        let run = netns.with_faults(&[&fault], "explain flannel.1");
        let lines = run.text().lines();
        let found = lines.filter_map(|l| l.trim().strip_prefix("destinations: "));
        for text in found {
            *seen.entry(text.to_owned()).or_insert(0) += 1;
        }
    }
    let texts: Vec<&str> = seen.keys().map(String::as_str).collect();
    assert_eq!(texts, ["192.0.2.5, 192.0.2.6", "not known"], "{seen:?}");
}

/// The report shows the destinations of the decision, up to a limit.
#[test]
fn explain_shows_destinations() {
    let netns = Netns::with_underlay();
    netns.ip("link add flannel.1 type vxlan id 1 local 192.0.2.1 dev eth0 dstport 8472 udpcsum nolearning");
    let line = |text: &str| {
        let found = text
            .lines()
            .find_map(|l| l.trim().strip_prefix("destinations: "));
        found.expect("a line on destinations").to_owned()
    };
    assert_eq!(
        line(netns.vxcsum("explain flannel.1").expect(0).text()),
        "none yet"
    );
    for n in 2..8 {
        bridge(
            &netns,
            &format!("fdb add 02:00:00:00:00:0{n} dev flannel.1 dst 192.0.2.{n}"),
        );
    }
    assert_eq!(
        line(netns.vxcsum("explain flannel.1").expect(0).text()),
        "192.0.2.2, 192.0.2.3, 192.0.2.4, 192.0.2.5 and 2 more"
    );
}
