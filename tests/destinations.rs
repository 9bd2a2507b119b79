//! Where the outer packets of real devices go, as discovery finds it and as bridge(8) shows it. Needs root, ip and bridge.

mod common;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use common::{Netns, run};
use vxcsum::discover::{Discovery, Which};
use vxcsum::exposure::OuterFlow;
use vxcsum::facts::IfName;
use vxcsum::sys::features::{Backend, Choice};

/// With `only` the kernel is asked for the entries of one device, else for those of all.
fn flows(netns: &Netns, only: Option<&str>) -> BTreeMap<String, OuterFlow> {
    let names = only.map(|name| [IfName::new(name.as_bytes()).unwrap()]);
    let which = names.as_ref().map_or(Which::All, |n| Which::Named(n));
    let flows = netns.enter(|| {
        let mut backend = Backend::open(Choice::Auto).expect("open ethtool");
        let mut discovery = Discovery::open().expect("open rtnetlink");
        let (_, devices) = discovery.devices(&mut backend, which).expect("discover");
        discovery.outer_flows(&devices).expect("look at flows")
    });
    let by_name = flows.into_iter().map(|f| (f.device.to_string(), f));
    by_name.collect()
}

fn bridge(netns: &Netns, words: &str) -> String {
    let run = run(netns.command("bridge").args(words.split_whitespace())).expect(0);
    run.text().to_owned()
}

/// Somebody else's answer.
fn shown(netns: &Netns, device: &str) -> Vec<IpAddr> {
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
    // Beside the nexthops an entry that can be seen.
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
            assert_eq!(all[device].remotes, shown(&netns, device), "{device}");
        }
        // The kernel filters.
        assert_eq!(flows(&netns, Some(device))[device], all[device]);
    }
    assert_eq!(all.len(), 11);
    for (device, port, underlay) in [
        ("flannel.1", Some(8472), Some("eth0")),
        ("remote", Some(8472), Some("eth0")),
        // Another port for one of them, another way out for one of them.
        ("port", None, Some("eth0")),
        ("via", Some(8472), None),
    ] {
        let flow = &all[device];
        let name = flow.underlay.map(|name| name.to_string());
        assert_eq!(
            (flow.dst_port, name.as_deref()),
            (port, underlay),
            "{device}"
        );
    }
}

/// flanneld makes the device first, and an entry for each node as it learns of it.
#[test]
fn entries_come_and_go() {
    let netns = Netns::with_underlay();
    netns.ip("link add flannel.1 type vxlan id 1 local 192.0.2.1 dev eth0 dstport 8472 nolearning");
    let remotes = || flows(&netns, None).remove("flannel.1").unwrap().remotes;
    assert!(remotes().is_empty());
    // More than fit into one part of a dump.
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
    assert_eq!(remotes(), shown(&netns, "flannel.1"));
    netns.ip("link set flannel.1 down");
    netns.ip("link del flannel.1");
    netns.ip("link add flannel.1 type vxlan id 1 local 192.0.2.1 dev eth0 dstport 8472 nolearning");
    assert!(remotes().is_empty());
}

/// What is decided on is shown, a bounded part of it.
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
        "not known"
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
