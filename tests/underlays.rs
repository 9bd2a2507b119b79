//! Underlays that send packets with finished checksums: the decision of discovery compared with tcpdump(8) at the far
//! end of a veth pair. Needs root, ip, ethtool and tcpdump.

mod common;

use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Netns, run};
use vxcsum::ethtool::backend_io::{Backend, Choice};
use vxcsum::offload::discover_io::{Discovery, Selection};

fn decided(netns: &Netns) -> bool {
    let flows = netns.enter(|| {
        let mut backend = Backend::open(Choice::Auto).expect("open ethtool");
        let mut discovery = Discovery::open().expect("open rtnetlink");
        let (_, devices) = discovery
            .devices(&mut backend, Selection::All)
            .expect("discover");
        discovery.outer_flows(&devices).expect("look at flows")
    });
    let [(flow, _)] = flows.try_into().expect("one device");
    assert!(flow.underlay.is_some());
    flow.underlay_finishes
}

/// True if a datagram through the VXLAN device arrives with a correct inner checksum.
fn arrives_finished(netns: &Netns) -> bool {
    let mut command = netns.command("timeout");
    command.args(["10", "tcpdump", "-i", "peer0", "-c", "1", "-vv", "-nn"]);
    command.args(["udp", "port", "4789"]);
    let mut tcpdump = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("tcpdump");
    let begun = Instant::now();
    while tcpdump.try_wait().expect("wait").is_none() {
        assert!(begun.elapsed() < Duration::from_secs(12), "no packet");
        let send = "echo datagram > /dev/udp/198.18.0.2/9";
        run(netns.command("bash").args(["-c", send])).expect(0);
        std::thread::sleep(Duration::from_millis(50));
    }
    let text = tcpdump.wait_with_output().expect("tcpdump").stdout;
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains("198.18.0.2.9"), "{text}");
    // This is the inner checksum: the outer checksum is correct or absent in every case here.
    text.contains("udp sum ok") && !text.contains("bad udp cksum")
}

#[test]
fn devices_that_finish_checksums_do() {
    let macvlan = "link add top link eth0 type macvlan mode";
    for (name, stack, top, checksums, decision, packets) in [
        ("veth", "", "eth0", true, false, false),
        ("veth without checksums", "", "eth0", false, true, true),
        (
            "bridge",
            "link add top type bridge\nlink set eth0 master top\n",
            "top",
            true,
            true,
            true,
        ),
        (
            "vepa",
            &*format!("{macvlan} vepa\n"),
            "top",
            true,
            false,
            false,
        ),
        (
            "vepa without checksums below",
            &*format!("{macvlan} vepa\n"),
            "top",
            false,
            true,
            true,
        ),
        (
            // It finishes this packet. The splitting of long packets of a forwarding node is another bug than those of
            // NAT.
            "vepa without fraglist below",
            &*format!("{macvlan} vepa\n"),
            "top",
            false,
            true,
            true,
        ),
    ] {
        let netns = Netns::new();
        netns.batch(&format!(
            "link add eth0 type veth peer name peer0\n{stack}\
             addr add 192.0.2.1/24 dev {top}\n\
             link set eth0 up\nlink set peer0 up\nlink set {top} up\n\
             link add vx0 type vxlan id 1 local 192.0.2.1 remote 192.0.2.2 dev {top} dstport 4789 noudpcsum nolearning\n\
             addr add 198.18.0.1/24 dev vx0\nlink set vx0 addrgenmode none\nlink set vx0 up\n\
             neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev {top}\n\
             neigh add 198.18.0.2 lladdr 02:00:00:00:00:03 dev vx0\n"
        ));
        if !checksums {
            run(netns.command("ethtool").args(["-K", "eth0", "tx", "off"])).expect(0);
        }
        if name.contains("fraglist") {
            let off = ["-K", "eth0", "tx-scatter-gather-fraglist", "off"];
            run(netns.command("ethtool").args(off)).expect(0);
        }
        let found = (decided(&netns), arrives_finished(&netns));
        assert_eq!(found, (decision, packets), "{name}");
    }
}

/// In bridge mode a packet for a sibling never reaches the device below.
#[test]
fn a_macvlan_with_siblings_does_not_finish_checksums() {
    let netns = Netns::with_underlay();
    netns.batch(
        "link add top link eth0 type macvlan mode bridge\n\
         link add vx0 type vxlan id 1 dev top remote 192.0.2.2 dstport 4789\n",
    );
    run(netns.command("ethtool").args(["-K", "eth0", "tx", "off"])).expect(0);
    assert!(!decided(&netns));
}
