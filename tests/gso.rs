//! gso-lco-csum on real devices: packets that a node forwards into a VXLAN device over a macvlan are segmented twice.
//!
//! The witness is the receiver: its `InCsumErrors`. Needs root, ip, ethtool and nft. The kernel needs macvlan.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use common::{BACKENDS, EthtoolFeatures, FEATURE, Netns, Watch, run};
use serde_json::Value;

const FRAGLIST: &str = "tx-scatter-gather-fraglist";
/// The length of one stream.
const STREAM: Duration = Duration::from_millis(700);

/// A client behind a node that forwards into VXLAN over a macvlan, and the receiver at the other end of the tunnel.
struct Tunnel {
    client: Netns,
    node: Netns,
    receiver: Netns,
}

impl Tunnel {
    fn new() -> Self {
        let (client, node, receiver) = (Netns::new(), Netns::new(), Netns::new());
        let root = Path::new(node.remembering_root());
        let drop_ins = root.join("etc/vxcsum/policy.d");
        fs::create_dir_all(&drop_ins).expect("make the directory of drop-ins");
        // Makes the decisions the same on every kernel.
        let policy = "version = 1\ngive-back-after = \"0s\"\n[[kernel]]\nrelease = \"*\"\nbug = \"gso-lco-csum\"\nstatus = \"affected\"\n";
        fs::write(drop_ins.join("50-gso.toml"), policy).expect("write the drop-in");
        let tunnel = |local: &str, remote: &str, under: &str, mac: &str| {
            format!(
                "link add vx0 mtu 1400 address 02:00:00:00:00:{mac} type vxlan id 1 dstport 8472 local {local} remote {remote} \
                 dev {under} udpcsum nolearning\nlink set vx0 addrgenmode none\nlink set vx0 up\n"
            )
        };
        node.batch(&format!(
            "link add eth0 type veth peer name eth0 netns {}\nlink add cni0 mtu 1400 type veth peer name eth0 mtu 1400 netns {}\n",
            receiver.name(),
            client.name()
        ));
        // The features of a plain NIC.
        for end in [&node, &receiver] {
            let words = ["-K", "eth0", "tx", "off", FRAGLIST, "off"];
            run(end.command("ethtool").args(words)).expect(0);
        }
        node.batch(&format!(
            "link set eth0 up\nlink add link eth0 name macvlan0 type macvlan mode vepa\nlink set macvlan0 up\n\
             addr add 192.0.2.1/24 dev macvlan0\naddr add 10.244.0.1/24 dev cni0\nlink set cni0 up\n{}\
             addr add 10.244.0.0/32 dev vx0\nroute add 10.244.1.0/24 via 10.244.1.1 dev vx0 onlink\n\
             neigh add 10.244.1.1 lladdr 02:00:00:00:00:0b dev vx0\n",
            tunnel("192.0.2.1", "192.0.2.2", "macvlan0", "0a")
        ));
        receiver.batch(&format!(
            "link set eth0 up\naddr add 192.0.2.2/24 dev eth0\n{}\
             addr add 10.244.1.1/32 dev vx0\nroute add 10.244.0.0/24 via 10.244.0.0 dev vx0 onlink\n\
             neigh add 10.244.0.0 lladdr 02:00:00:00:00:0a dev vx0\n",
            tunnel("192.0.2.2", "192.0.2.1", "eth0", "0b")
        ));
        // One packet at a time, as from a wire, so GRO can merge them.
        let words = ["-K", "eth0", "gso", "off", "tso", "off"];
        run(client.command("ethtool").args(words)).expect(0);
        run(node.command("ethtool").args(["-K", "cni0", "gro", "on"])).expect(0);
        client.batch(
            "addr add 10.244.0.2/24 dev eth0\nlink set eth0 up\nroute add default via 10.244.0.1\n",
        );
        let this = Self {
            client,
            node,
            receiver,
        };
        this.forward(true);
        this
    }

    fn forward(&self, on: bool) {
        let value = format!("net.ipv4.ip_forward={}", u8::from(on));
        run(self.node.command("sysctl").args(["-qw", &value])).expect(0);
    }

    /// Sends one TCP stream from the client to the receiver. Returns the number of arrived packets, and of packets with
    /// a wrong outer checksum.
    fn stream(&self) -> (u64, u64) {
        let before = self.counters();
        let listener = self
            .receiver
            .enter(|| TcpListener::bind("10.244.1.1:5001").expect("listen"));
        let sink = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut buffer = vec![0; 1 << 16];
            while stream.read(&mut buffer).is_ok_and(|n| n > 0) {}
        });
        self.client.enter(|| {
            let mut stream = TcpStream::connect("10.244.1.1:5001").expect("connect");
            let timeout = Some(STREAM);
            stream.set_write_timeout(timeout).expect("set a timeout");
            let (begun, block) = (Instant::now(), vec![0; 1 << 16]);
            while begun.elapsed() < STREAM && stream.write_all(&block).is_ok() {}
        });
        sink.join().expect("the receiver");
        let after = self.counters();
        (after.0 - before.0, after.1 - before.1)
    }

    /// `InDatagrams` and `InCsumErrors` of UDP.
    fn counters(&self) -> (u64, u64) {
        let text = run(self.receiver.command("cat").arg("/proc/net/snmp")).expect(0);
        let mut lines = text.text().lines().filter(|line| line.starts_with("Udp: "));
        let names = lines.next().expect("names").split(' ');
        let values = lines.next().expect("values").split(' ');
        let of = |wanted: &str| {
            let mut pairs = names.clone().zip(values.clone());
            let (_, value) = pairs.find(|(name, _)| *name == wanted).expect("a counter");
            value.parse().expect("a number")
        };
        (of("InDatagrams"), of("InCsumErrors"))
    }

    /// Runs vxcsum on the node, with the record of earlier runs.
    fn vxcsum(&self, words: &str) -> common::Run {
        let mut command = self.node.command(common::VXCSUM);
        command.args(words.split(' '));
        run(command.args(["--root", self.node.remembering_root()]))
    }

    fn features(&self) -> EthtoolFeatures {
        self.node.ethtool("vx0")
    }

    fn set(&self, feature: &str, on: bool) {
        let words = ["-K", "vx0", feature, if on { "on" } else { "off" }];
        run(self.node.command("ethtool").args(words)).expect(0);
    }

    /// The state of the two features.
    fn on(&self) -> (bool, bool) {
        let features = self.features();
        (features[FEATURE].active, features[FRAGLIST].active)
    }
}

/// Feature, action, reason and outcome of each entry.
fn entries(report: &Value) -> Vec<[String; 4]> {
    let devices = report["devices"].as_array().expect("devices");
    let entry = |d: &Value| {
        let reason = &d["reason"]["code"];
        [&d["feature_name"], &d["action"], reason, &d["outcome"]]
            .map(|value| value.as_str().expect("text").to_owned())
    };
    devices.iter().map(entry).collect()
}

#[test]
fn forwarded_packets_are_right_after_apply_and_only_fraglist_is_off() {
    let path = Tunnel::new();
    let probe = path.vxcsum("probe --json").expect(0).json();
    let results = probe["results"].as_array().expect("results");
    let measured = results
        .iter()
        .find(|r| r["id"] == "gso-lco-csum")
        .expect("a result");
    let affected = measured["outcome"] == "affected";
    fs::remove_file(Path::new(path.node.remembering_root()).join("run/vxcsum/probe.json"))
        .expect("forget what was measured");
    // GRO builds such packets only by chance.
    let mut bad = 0;
    for _ in 0..5 {
        let (packets, errors) = path.stream();
        assert!(packets > 0);
        bad += errors;
        if bad > 0 || !affected {
            break;
        }
    }
    assert_eq!(bad > 0, affected, "{bad} bad packets; {measured}");
    for backend in BACKENDS {
        let before = path.features();
        let words = format!("--backend {backend} apply");
        let planned = path.vxcsum(&format!("{words} --dry-run")).expect(0);
        let said = "tx-scatter-gather-fraglist would be turned off:\n  vx0\n";
        assert!(planned.text().contains(said), "{}", planned.text());
        assert_eq!(path.features(), before, "{backend}: a dry run");
        let report = path.vxcsum(&format!("{words} --json")).expect(0).json();
        assert_eq!(
            entries(&report),
            [[FRAGLIST, "turn-off", "exposed", "changed"]]
        );
        let device = &report["devices"][0];
        assert_eq!(device["also_off"], serde_json::json!([]));
        assert_eq!(
            (&device["exposure"], &device["segmentation"]),
            (&"not-exposed".into(), &"exposed".into())
        );
        let after = path.features();
        let differs = |name: &&String| after[*name] != before[*name];
        assert_eq!(
            before.keys().filter(differs).collect::<Vec<_>>(),
            [FRAGLIST]
        );
        let (packets, errors) = path.stream();
        assert!(
            packets > 100 && errors == 0,
            "{backend}: {errors} of {packets}"
        );
        let again = path.vxcsum(&format!("{words} --json")).expect(0).json();
        assert_eq!(
            entries(&again),
            [[FRAGLIST, "leave", "already-off", "unchanged"]]
        );
        let reverted = path
            .vxcsum(&format!("--backend {backend} revert --json"))
            .expect(0)
            .json();
        assert_eq!(
            entries(&reverted),
            [[FRAGLIST, "turn-on", "turned-off-by-vxcsum", "changed"]]
        );
        assert_eq!(path.features(), before, "{backend}: revert");
    }
}

#[test]
fn each_feature_goes_off_and_comes_back_for_its_own_bug() {
    let path = Tunnel::new();
    let apply = || path.vxcsum("apply --json").expect(0).json();
    apply();
    assert_eq!(path.on(), (true, false));
    let rule = "table ip t { chain post { type nat hook postrouting priority 100; oifname macvlan0 masquerade fully-random; }; }";
    let nft = |words: &str| run(path.node.command("nft").arg(words)).expect(0);
    nft(rule);
    let report = apply();
    assert_eq!(
        entries(&report),
        [
            [FEATURE, "turn-off", "exposed", "changed"],
            [FRAGLIST, "leave", "already-off", "unchanged"]
        ]
    );
    assert_eq!(report["summary"]["devices"], 1);
    assert_eq!(path.on(), (false, false));
    nft("delete table ip t");
    apply();
    assert_eq!(path.on(), (true, false), "NAT is gone, forwarding is not");
    path.forward(false);
    let report = apply();
    assert_eq!(
        entries(&report),
        [[FRAGLIST, "turn-on", "not-exposed", "changed"]]
    );
    assert_eq!(path.on(), (true, true));
    // A port of a bridge forwards too.
    path.node
        .batch("link add br0 type bridge\nlink set vx0 master br0\n");
    apply();
    assert_eq!(path.on(), (true, false));
    nft(rule);
    apply();
    let reverted = path.vxcsum("revert --json").expect(0).json();
    assert_eq!(entries(&reverted).len(), 2);
    assert_eq!(path.on(), (true, true));
}

/// A rule against NAT does not help against a second segmentation.
#[test]
fn notrack_and_fraglist_cure_both_and_keep_checksum_offload() {
    let path = Tunnel::new();
    let drop_ins = Path::new(path.node.remembering_root()).join("etc/vxcsum/policy.d");
    fs::write(drop_ins.join("60.toml"), "cure = \"notrack\"\n").expect("write the drop-in");
    let rule = "table ip t { chain post { type nat hook postrouting priority 100; oifname macvlan0 masquerade fully-random; }; }";
    run(path.node.command("nft").arg(rule)).expect(0);
    path.vxcsum("apply").expect(0);
    assert_eq!(path.on(), (true, false));
    let (packets, errors) = path.stream();
    assert!(packets > 100 && errors == 0, "{errors} of {packets}");
    let report = path.vxcsum("status --json").expect(0).json();
    assert_eq!(report["summary"]["state"], "ok", "{report}");
    path.vxcsum("revert").expect(0);
    assert_eq!(path.on(), (true, true));
    let tables = run(path.node.command("nft").args(["list", "tables"])).expect(0);
    assert_eq!(tables.text(), "table ip t\n");
}

#[test]
fn what_others_do_to_it_is_respected_and_counted() {
    let path = Tunnel::new();
    // Another program turned it off: nothing to do, nothing to turn on again.
    path.set(FRAGLIST, false);
    let report = path.vxcsum("apply --json").expect(0).json();
    assert_eq!(
        entries(&report),
        [[FEATURE, "leave", "not-exposed", "unchanged"]]
    );
    path.vxcsum("revert").expect(0);
    assert_eq!(path.on(), (true, false));
    path.set(FRAGLIST, true);
    // The same with the other cure.
    path.set(FEATURE, false);
    let report = path.vxcsum("apply --json").expect(0).json();
    assert_eq!(
        entries(&report),
        [[FEATURE, "leave", "already-off", "unchanged"]]
    );
    path.set(FEATURE, true);
    for _ in 0..3 {
        path.vxcsum("apply").expect(0);
        assert_eq!(path.on(), (true, false));
        path.set(FRAGLIST, true);
    }
    let report = path.vxcsum("apply --json").expect(1).json();
    assert_eq!(
        entries(&report),
        [[FRAGLIST, "leave", "contested", "refused"]]
    );
    assert_eq!(path.on(), (true, true));
}

#[test]
fn watch_turns_it_off_again() {
    let path = Tunnel::new();
    let watch = Watch::start(&path.node, "--backend netlink");
    let off = || path.on() == (true, false);
    watch.until("fraglist is off", off);
    path.set(FRAGLIST, true);
    watch.until("fraglist is off again", off);
    let errors = watch.stop();
    let turned = |how: &str| {
        errors
            .matches(&format!(
                "vxcsum: vx0: turned tx-scatter-gather-fraglist {how}: "
            ))
            .count()
    };
    assert_eq!([turned("off"), turned("off again")], [1, 1], "{errors}");
}
