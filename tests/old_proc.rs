//! Kernels before 3.17 have no `/proc/thread-self`. Needs root and strace.

mod common;

use common::{Netns, run};

const OWN: [&str; 9] = [
    "",
    "/ns/net",
    "/net",
    "/net/snmp",
    "/net/snmp6",
    "/net/nf_conntrack",
    "/net/dev",
    "/net/ip_tables_names",
    "/net/ip6_tables_names",
];

#[test]
fn doctor_reads_the_counters_and_conntrack_of_the_process() {
    let netns = Netns::with_underlay();
    netns.ip("link add vx0 type vxlan id 1 dev eth0 remote 192.0.2.2 dstport 4789 udpcsum");
    let doctor = |old: bool| {
        let mut command = netns.command("strace");
        command.current_dir(netns.root());
        command.args(["-f", "-o", "/dev/null", "--inject=%file:error=ENOENT"]);
        for file in OWN.iter().filter(|_| old) {
            command.arg(format!("-P/proc/thread-self{file}"));
        }
        if !old {
            command.arg("-P/proc/thread-self/nothing");
        }
        command.arg("--").arg(common::VXCSUM);
        let mut json = run(command.args(["doctor", "--json", "--root", "."])).json();
        for part in ["counters", "flows"] {
            assert!(!json[part].is_null(), "{part}: {json}");
        }
        let text = json.to_string();
        assert!(!text.contains("the kernel shows no"), "{text}");
        (json["counters"].take(), json["flows"].take())
    };
    assert_eq!(doctor(true), doctor(false));
}
