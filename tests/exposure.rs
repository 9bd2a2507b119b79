//! Real rules in real namespaces: the decision of the analysis compared with packets. Needs root, iptables (legacy and
//! nft), nft, ipset and ethtool.
//!
//! Two namespaces are two nodes, joined by a veth pair that finishes checksums. A third and a fourth are pods. Each
//! case is a file of tests/cases/exposure: the comments at its top state the expected result, and the named tools load
//! the rest.

mod common;
#[path = "exposure/dice.rs"]
mod dice;
#[path = "exposure/notrack.rs"]
mod notrack;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Netns, feed};
use dice::Dice;
use vxcsum::ethtool::backend_io::{Backend, Choice};
use vxcsum::nat::exposure::{Exposed, Exposure, NoCure, OuterFlow, Untracked, analyze};
use vxcsum::nat::partial_io::RulesInUse;
use vxcsum::nat::read_io;
use vxcsum::offload::discover_io::{Discovery, Selection};

/// Two nodes and a pod on each.
struct Lab {
    a: Netns,
    b: Netns,
    pa: Netns,
    pb: Netns,
    /// The host of the container that node a runs in, see [`Lab::contain`].
    h: Option<Netns>,
}

impl Lab {
    fn new() -> Self {
        Self::over("192.168.77.", 24)
    }

    /// Nodes with addresses that begin with `net`.
    fn over(net: &str, len: u8) -> Self {
        let [a, b, pa, pb] = [(); 4].map(|()| Netns::new());
        let lab = Self {
            a,
            b,
            pa,
            pb,
            h: None,
        };
        for (from, device, to) in [("a", "eth0", "b"), ("a", "cni0", "pa"), ("b", "cni0", "pb")] {
            lab.node(from).ip(&format!(
                "link add {device} type veth peer name eth0 netns {}",
                lab.node(to).name()
            ));
        }
        for (node, pod, me, other) in [("a", "pa", 1, 2), ("b", "pb", 2, 1)] {
            let (mine, theirs) = (me - 1, other - 1);
            lab.node(node).batch(
                &format!(
                    "addr add 192.168.77.{me}/24 dev eth0\n\
                     addr replace {net}{me}/{len} dev eth0 nodad\n\
                     link set eth0 up\n\
                     addr add 10.244.{mine}.1/24 dev cni0\n\
                     link set cni0 up\n\
                     link add flannel.1 type vxlan id 1 local {net}{me} dev eth0 dstport 8472 nolearning udpcsum\n\
                     link set flannel.1 address 02:00:00:00:00:0{me}\n\
                     addr add 10.244.{mine}.0/32 dev flannel.1\n\
                     link set flannel.1 up\n\
                     route add default via 192.168.77.{other}\n\
                     route add 10.244.{theirs}.0/24 via 10.244.{theirs}.0 dev flannel.1 onlink\n\
                     neigh add 10.244.{theirs}.0 lladdr 02:00:00:00:00:0{other} dev flannel.1 nud permanent\n"
                ),
            );
            let fdb = format!("fdb append 02:00:00:00:00:0{other} dev flannel.1 dst {net}{other}");
            lab.within(node, || feed("bridge", &["-batch", "-"], &fdb));
            lab.node(pod).batch(
                &format!(
                    "addr add 10.244.{mine}.2/24 dev eth0\nlink set eth0 up\nroute add default via 10.244.{mine}.1\n"
                ),
            );
            lab.within(node, || {
                feed("ethtool", &["-K", "eth0", "tx", "off"], "");
                fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            });
        }
        lab
    }

    /// Puts node a into a container: its underlay is a veth that finishes no checksums, and the host behind it
    /// masquerades.
    fn contain(&mut self) {
        let h = self.h.insert(Netns::new()).name().to_owned();
        let batch = |node: &str, text: &str| self.node(node).batch(text);
        batch(
            "b",
            &format!(
                "link set eth0 netns {h} name va\nlink add eth0 type veth peer name vb netns {h}\n"
            ),
        );
        batch(
            "h",
            "addr add 192.168.77.254/24 dev va\nlink set va up\naddr add 192.168.78.254/24 dev vb\nlink set vb up\n",
        );
        batch(
            "b",
            "addr add 192.168.78.2/24 dev eth0\nlink set eth0 up\nroute replace default via 192.168.78.254\n\
             link add flannel.1 type vxlan id 1 local 192.168.78.2 dev eth0 dstport 8472 nolearning udpcsum\n\
             link set flannel.1 address 02:00:00:00:00:02\naddr add 10.244.1.0/32 dev flannel.1\nlink set flannel.1 up\n\
             route add 10.244.0.0/24 via 10.244.0.0 dev flannel.1 onlink\n\
             neigh add 10.244.0.0 lladdr 02:00:00:00:00:01 dev flannel.1 nud permanent\n",
        );
        batch("a", "route replace default via 192.168.77.254\n");
        let fdb =
            |node: &str, text: &str| self.within(node, || feed("bridge", &["-batch", "-"], text));
        fdb(
            "a",
            "fdb replace 02:00:00:00:00:02 dev flannel.1 dst 192.168.78.2\n",
        );
        fdb(
            "b",
            "fdb append 02:00:00:00:00:01 dev flannel.1 dst 192.168.77.1\n",
        );
        self.within("h", || {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            feed("ethtool", &["-K", "vb", "tx", "off"], "");
            feed(
                "iptables-nft-restore",
                &[],
                "*nat\n-A POSTROUTING -o vb -j MASQUERADE\nCOMMIT\n",
            );
        });
        self.within("a", || feed("ethtool", &["-K", "eth0", "tx", "on"], ""));
        self.within("b", || feed("ethtool", &["-K", "eth0", "tx", "off"], ""));
    }

    fn node(&self, name: &str) -> &Netns {
        match name {
            "a" => &self.a,
            "b" => &self.b,
            "pa" => &self.pa,
            "pb" => &self.pb,
            "h" => self.h.as_ref().expect("a container"),
            _ => panic!("there is no node {name}"),
        }
    }

    /// Runs a closure in a thread that is in one of the namespaces.
    fn within<T: Send>(&self, name: &str, f: impl FnOnce() -> T + Send) -> T {
        self.node(name).enter(f)
    }

    /// UDP checksum errors over both families.
    fn checksum_errors(&self, node: &str) -> u64 {
        let read =
            |file: &str| fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap();
        let (v4, v6) = self.within(node, || (read("snmp"), read("snmp6")));
        let mut lines = v4.lines().filter(|l| l.starts_with("Udp: "));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let mut found = names.split(' ').zip(values.split(' '));
        let v4 = found.find(|(n, _)| *n == "InCsumErrors").unwrap().1;
        let v6 = v6
            .lines()
            .find_map(|l| l.strip_prefix("Udp6InCsumErrors"))
            .unwrap();
        v4.parse::<u64>().unwrap() + v6.trim().parse::<u64>().unwrap()
    }

    /// Sends packets from a node. The result: corrupt, lost, or fine.
    fn packets(&self) -> &'static str {
        // Only node a has rules, and only what b receives has passed them on its way out.
        let before = self.checksum_errors("b");
        // A process that another thread starts has the old socket until it executes its program.
        let listen = || {
            let deadline = Instant::now() + Duration::from_secs(10);
            loop {
                match TcpListener::bind("0.0.0.0:80") {
                    Ok(listener) => return listener,
                    Err(e) => assert!(Instant::now() < deadline, "{e}"),
                }
                thread::sleep(Duration::from_millis(1));
            }
        };
        let listener = self.within("pb", listen);
        listener.set_nonblocking(true).unwrap();
        let connect = |from: &str, to: &str| -> bool {
            let to: SocketAddr = to.parse().unwrap();
            self.within(from, || {
                let Ok(mut stream) = TcpStream::connect_timeout(&to, Duration::from_millis(400))
                else {
                    return false;
                };
                // A second packet of the flow, which no nat rule sees.
                stream
                    .set_read_timeout(Some(Duration::from_millis(400)))
                    .unwrap();
                let _ = stream.write_all(b"x");
                if let Ok((mut other, _)) = listener.accept() {
                    other.set_nonblocking(false).unwrap();
                    other
                        .set_read_timeout(Some(Duration::from_millis(400)))
                        .unwrap();
                    let _ = other.read(&mut [0]);
                }
                true
            })
        };
        // The service exists only if a rule creates it. The pod itself always answers if packets are intact.
        for from in ["a", "pa"] {
            connect(from, "10.96.0.10:80");
        }
        let mut fine = true;
        for from in ["a", "pa"] {
            fine &= connect(from, "10.244.1.2:80");
        }
        self.within("a", || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            let _ = socket.send_to(b"x", "10.244.1.2:53");
        });
        thread::sleep(Duration::from_millis(20));
        let after = self.checksum_errors("b");
        match (after - before, fine) {
            (0, true) => "fine",
            (0, false) => "lost",
            _ => "corrupt",
        }
    }
}

/// The device of node a as discovery finds it, with another driver for the underlay: over the real veth, no device is
/// not-exposed.
fn device(lab: &Lab, driver: &str) -> OuterFlow {
    let found = lab.within("a", || {
        let mut backend = Backend::open(Choice::Auto).unwrap();
        let mut discovery = Discovery::open().unwrap();
        let (_, devices) = discovery.devices(&mut backend, Selection::All).unwrap();
        discovery.outer_flows(&devices).unwrap()
    });
    let [(found, _)] = found.try_into().unwrap();
    assert_eq!(found.device.as_bytes(), b"flannel.1");
    assert_eq!(found.underlay_driver.as_deref(), Some("veth"));
    assert_eq!(found.remotes.len(), 1, "{found:?}");
    OuterFlow {
        underlay_driver: Some(driver.into()),
        underlay_finishes: driver != "veth",
        ..found
    }
}

fn word(exposure: &Exposure) -> &'static str {
    exposure.code().as_str()
}

struct Case {
    name: String,
    text: String,
}

impl Case {
    fn all() -> Vec<Self> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/exposure");
        let mut paths: Vec<PathBuf> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|p| p.extension().is_some_and(|e| e == "rules"))
            .collect();
        paths.sort();
        assert!(!paths.is_empty());
        paths
            .iter()
            .map(|p| Self {
                name: p.file_stem().unwrap().to_string_lossy().into(),
                text: fs::read_to_string(p).unwrap(),
            })
            .collect()
    }

    fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        let lines = self.text.lines().filter_map(|l| l.strip_prefix("# "));
        lines.filter_map(move |l| l.strip_prefix(key)?.strip_prefix(": "))
    }

    fn value<'a>(&'a self, key: &'a str) -> Option<&'a str> {
        self.values(key).next()
    }

    /// With `inner`, also installs the rules of another case for the inner packets, by the same tool, for IPv4.
    fn install(&self, lab: &Lab, tool: &str) {
        if let Some(inner) = self.value("inner") {
            let all = Self::all();
            let inner = all.iter().find(|c| c.name == inner).unwrap();
            inner.install(lab, &tool.replacen("ip6", "ip", 1));
        }
        lab.within("a", || {
            // Addresses, routes and devices of the case, before its rules.
            let before: Vec<&str> = self.values("sh").collect();
            feed("sh", &["-ex"], &(before.join("\n") + "\n"));
            let sets: Vec<&str> = self.values("ipset").collect();
            if !sets.is_empty() {
                feed("ipset", &["restore"], &(sets.join("\n") + "\n"));
            }
            match tool {
                "nft" => feed("nft", &["-f", "-"], &self.text),
                _ => feed(&format!("{tool}-restore"), &[], &self.text),
            }
        });
    }
}

#[test]
fn decisions_agree_with_packets() {
    // One case, or all cases with the same beginning: `VXCSUM_CASE=docker`.
    let only = std::env::var("VXCSUM_CASE").unwrap_or_default();
    let cases = Case::all();
    let jobs: Vec<(&Case, &str)> = cases
        .iter()
        .filter(|case| case.name.starts_with(&only))
        .flat_map(|case| {
            let tools = case.value("tools").unwrap().split(' ');
            tools.map(move |tool| (case, tool))
        })
        .collect();
    assert!(
        jobs.len() > 60 || !only.is_empty(),
        "only {} rule sets",
        jobs.len()
    );
    // Most of the time is waiting for packets that do not arrive.
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    thread::scope(|s| {
        for _ in 0..4 {
            let (jobs, next, outcomes) = (&jobs, &next, &outcomes);
            s.spawn(move || {
                while let Some((case, tool)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = compare(case, tool);
                    outcomes.lock().unwrap().push(outcome);
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap();
    outcomes.sort();
    println!("{:26} {:16} {:12} packets", "case", "tool", "decision");
    for (line, _) in &outcomes {
        println!("{line}");
    }
    let wrong: Vec<String> = outcomes.into_iter().flat_map(|(_, wrong)| wrong).collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Installs one rule set and compares the decision with packets. Returns a line of the matrix, and the differences.
fn compare(case: &Case, tool: &str) -> (String, Vec<String>) {
    let want = case.value("expect").unwrap();
    let want_packets = case.value("packets").unwrap();
    let lab = match case.value("underlay") {
        Some("ip6") => Lab::over("fd00:77::", 64),
        _ => Lab::new(),
    };
    case.install(&lab, tool);
    let rules = lab.within("a", read_io::read);
    let got = analyze(&rules, &device(&lab, "virtio_net"));
    let in_part = read_in_part(&lab, &device(&lab, "virtio_net"), &case.text);
    let packets = lab.packets();
    let mut wrong = Vec::new();
    let mut fail = |what: &str| wrong.push(format!("{} {tool}: {what}: {got:?}", case.name));
    if word(&got) != want {
        fail(&format!("decision is not {want}"));
    }
    if word(&in_part) != word(&got) {
        fail(&format!("read in part it is {in_part:?}"));
    }
    if packets != want_packets && want_packets != "any" {
        fail(&format!("packets are {packets}, not {want_packets}"));
    }
    if packets != "fine" && word(&got) == "not-exposed" {
        fail("MISSED");
    }
    if let (Some(rule), Exposure::Exposed(found)) = (case.value("rule"), &got)
        && rule != found.rule.text
    {
        fail(&format!("rule is quoted as {:?}", found.rule.text));
    }
    if let Some(found) = got.exposed() {
        let marks = format!("{:#x}", found.marks);
        if case.value("marks").is_some_and(|want| want != marks) {
            fail(&format!("the mark bits that matter are {marks}"));
        }
        let kept_by = found.kept_by.as_ref().map(|rule| rule.text.as_str());
        if case
            .value("kept-by")
            .is_some_and(|rule| Some(rule) != kept_by)
        {
            fail(&format!("the mark is kept by {kept_by:?}"));
        }
        let notrack = found
            .notrack
            .as_ref()
            .map_or_else(ToString::to_string, |_| "suffices".into());
        if case.value("notrack").is_some_and(|want| want != notrack) {
            fail(&format!("notrack: {notrack}"));
        }
        if let Some(what) = without_tracking(&lab, found) {
            fail(&what);
        }
        for what in cured(&lab, case, tool) {
            fail(&what);
        }
    }
    // Over a veth the same rules never make the device not-exposed.
    let over_veth = analyze(&rules, &device(&lab, "veth"));
    if word(&over_veth) == "not-exposed" {
        fail("not exposed over veth");
    }
    let line = format!("{:26} {tool:16} {:12} {packets}", case.name, word(&got));
    (line, wrong)
}

/// The effect on packets with the notrack rule in place, if the analysis predicts another one.
fn without_tracking(lab: &Lab, found: &Exposed) -> Option<String> {
    let packets = match &found.notrack {
        Ok(packets) => *packets,
        Err(NoCure::Dropped(_)) => Untracked {
            v6: Some(false),
            local: None,
            port: 8472,
        },
        Err(_) => return None,
    };
    let commands = Untracked::commands(&[packets]).join("\n") + "\n";
    // Run twice, because users repeat a command when they are not sure.
    lab.within("a", || feed("sh", &["-e"], &commands.repeat(2)));
    let after = lab.packets();
    match (&found.notrack, after) {
        (Ok(_), "fine") | (Err(_), "lost") => None,
        _ => Some(format!("without tracking packets are {after}")),
    }
}

/// Runs the commands of `doctor` about the rules, or `apply` if it is the only cure. Returns the differences to the
/// case, and packets that are not fine afterwards.
fn cured(lab: &Lab, case: &Case, tool: &str) -> Vec<String> {
    let remove = "nft delete table inet vxlan-notrack 2>/dev/null || true\n";
    lab.within("a", || feed("sh", &["-e"], remove));
    let mut done: Vec<String> = Vec::new();
    // doctor names a second rule only after the first rule is cured.
    while let commands = printed(lab)
        && !commands.is_empty()
        && done.len() < 4
    {
        for command in &commands {
            lab.within("a", || feed("sh", &["-e", "-c", command], ""));
        }
        done.extend(commands);
    }
    let after = lab.within("a", || {
        analyze(&read_io::read(), &device(lab, "virtio_net"))
    });
    if word(&after) != "not-exposed" {
        lab.a.vxcsum("apply").expect(0);
        done.push("apply".to_owned());
    }
    let wanted: Vec<String> = case
        .values("cure")
        .map(|c| c.replace("TOOL", tool))
        .collect();
    let mut wrong = Vec::new();
    if done != wanted {
        wrong.push(format!("the cure is {done:?}, and it is then {after:?}"));
    }
    // A slow machine loses a packet now and then. A corrupt packet stays corrupt.
    let packets = Some(lab.packets()).filter(|packets| *packets != "lost");
    match packets.unwrap_or_else(|| lab.packets()) {
        "fine" => {}
        // With copies some packets are lost whatever the offload is, see `NoCure::Copied`.
        "lost" if case.text.contains("TEE") => {}
        packets => wrong.push(format!("after the cure packets are {packets}")),
    }
    wrong
}

/// The commands about NAT rules in the output of `doctor` on node a, without those for a notrack rule.
fn printed(lab: &Lab) -> Vec<String> {
    let report = lab.a.vxcsum("doctor --json").json();
    let steps = report["steps"].as_array().expect("steps");
    steps
        .iter()
        .flat_map(|step| step["commands"].as_array().expect("commands"))
        .map(|command| command.as_str().expect("a command"))
        .filter(|command| command.starts_with("ip") || command.starts_with("nft "))
        .filter(|command| !command.contains("vxlan-notrack"))
        .map(ToOwned::to_owned)
        .collect()
}

/// The decision with only the rules that it needs, in a kernel where only these rules can copy packets.
fn read_in_part(lab: &Lab, device: &OuterFlow, text: &str) -> Exposure {
    let root = tempfile::tempdir().unwrap();
    if !text.contains("TEE") && !text.contains("dup to") {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let modules = root.path().join("lib/modules").join(release.trim());
        fs::create_dir_all(&modules).unwrap();
        fs::write(
            modules.join("modules.builtin"),
            "kernel/net/ipv4/tunnel4.ko\n",
        )
        .unwrap();
    }
    let devices = std::slice::from_ref(device);
    let mut got = lab.within("a", || RulesInUse::some(root.path()).decide(devices));
    got.pop().unwrap()
}

/// The quoted rule is exactly the rule that the tool prints.
#[test]
fn every_iptables_rule_is_quoted_as_iptables_save_prints_it() {
    for case in Case::all() {
        for tool in case
            .value("tools")
            .unwrap()
            .split(' ')
            .filter(|t| *t != "nft")
        {
            let lab = Lab::new();
            case.install(&lab, tool);
            let (rules, saved) = lab.within("a", || {
                let save = |t: &str| {
                    String::from_utf8(Command::new(format!("{t}-save")).output().unwrap().stdout)
                        .unwrap()
                };
                (
                    read_io::read(),
                    save(&tool.replacen("ip6", "ip", 1))
                        + &save(&tool.replacen("ip6", "ip", 1).replacen("ip", "ip6", 1)),
                )
            });
            assert!(rules.unread.is_empty(), "{:?}", rules.unread);
            let mut theirs: Vec<&str> = saved.lines().filter(|l| l.starts_with("-A ")).collect();
            // iptables-nft writes some matches as nft expressions. Such a rule is quoted in nft syntax.
            let (ours, as_nft): (Vec<_>, Vec<_>) = vxcsum::nat::exposure::quoted(&rules)
                .into_iter()
                .partition(|rule| rule.starts_with("-A "));
            for ours in ours {
                let same = theirs.iter().position(|theirs| quotes(&ours, theirs));
                let same = same.unwrap_or_else(|| panic!("{} {tool}: {ours}", case.name));
                theirs.swap_remove(same);
            }
            let foreign = theirs.iter().filter(|rule| rule.contains("--tcp-flags"));
            let (foreign, all) = (foreign.count(), theirs.len());
            assert_eq!(
                (foreign, all),
                (as_nft.len(), as_nft.len()),
                "{} {tool}: {theirs:?}",
                case.name
            );
        }
    }
}

/// True if a rule is quoted unchanged, except for the parts that `[...]` leaves out and the options of a target that
/// does not matter.
fn quotes(ours: &str, theirs: &str) -> bool {
    let mut rest = Some(theirs);
    for (n, part) in ours.split(" [...]").enumerate() {
        rest = rest.and_then(|rest| match n {
            0 => rest.strip_prefix(part),
            _ => rest.split_once(part).map(|(_, rest)| rest),
        });
    }
    let whole = ours.ends_with("SYNPROXY") || ours.ends_with("[...]");
    rest.is_some_and(|rest| rest.is_empty() || whole)
}

#[test]
fn fifty_thousand_rules() {
    let mut text = String::from(
        "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-SERVICES - [0:0]\n:KUBE-POSTROUTING - [0:0]\n",
    );
    for n in 0..10_000 {
        let _ = writeln!(text, ":KUBE-SVC-{n} - [0:0]");
    }
    text += "-A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\n\
             -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n\
             -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
             -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0\n\
             -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n";
    for n in 0..10_000 {
        let ip = format!("10.{}.{}.{}/32", 96 + n / 65536, n / 256 % 256, n % 256);
        let pod = format!("10.244.{}.{}", n / 256 % 256, n % 256);
        let _ = write!(
            text,
            "-A KUBE-SERVICES ! -s 10.244.0.0/16 -d {ip} -p udp -m comment --comment \"ns/service-{n} cluster IP\" -m udp --dport 53 -j KUBE-MARK-MASQ\n\
             -A KUBE-SERVICES -d {ip} -p udp -m comment --comment \"ns/service-{n} cluster IP\" -m udp --dport 53 -j KUBE-SVC-{n}\n\
             -A KUBE-SVC-{n} -s {pod}/32 -m comment --comment \"ns/service-{n}\" -j KUBE-MARK-MASQ\n\
             -A KUBE-SVC-{n} -m statistic --mode random --probability 0.5 -j RETURN\n\
             -A KUBE-SVC-{n} -p udp -m comment --comment \"ns/service-{n}\" -m udp -j DNAT --to-destination {pod}:53\n"
        );
    }
    text += "COMMIT\n";
    for tool in ["iptables-legacy", "iptables-nft"] {
        let lab = Lab::new();
        lab.within("a", || feed(&format!("{tool}-restore"), &[], &text));
        let device = device(&lab, "virtio_net");
        let before = resident();
        let start = Instant::now();
        let rules = lab.within("a", read_io::read);
        let read = start.elapsed();
        let start = Instant::now();
        let got = analyze(&rules, &device);
        println!(
            "{tool}: read {read:?}, analyze {:?}, {} KiB more resident",
            start.elapsed(),
            resident().saturating_sub(before)
        );
        assert_eq!(word(&got), "not-exposed", "{got:?}");
        // A cluster of five thousand nodes.
        let crowd = OuterFlow {
            remotes: (0..5000)
                .map(|n| Ipv4Addr::from_bits(0xac10_0000 + 13 * n).into())
                .collect(),
            ..device
        };
        let start = Instant::now();
        let got = analyze(&rules, &crowd);
        println!("{tool}: with 5000 destinations {:?}", start.elapsed());
        assert_eq!(word(&got), "not-exposed", "{got:?}");
    }
}

fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// While other programs change the rules, a read is consistent or fails.
#[test]
fn rules_that_change_while_they_are_read() {
    let lab = Lab::new();
    // Either both rules exist or neither, in tables that are far apart in the dump.
    let on = "table ip t0 { chain c { type nat hook postrouting priority 0; }; }\nflush chain ip t0 c\n\
              table ip t9 { chain c { type nat hook postrouting priority 0; }; }\nflush chain ip t9 c\n\
              add rule ip t0 c udp dport 1 masquerade\nadd rule ip t9 c udp dport 1 masquerade\n";
    let off = "flush chain ip t0 c\nflush chain ip t9 c\n";
    lab.within("a", || feed("nft", &["-f", "-"], on));
    let device = device(&lab, "virtio_net");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (mut whole, mut refused) = (0, 0);
    thread::scope(|s| {
        s.spawn(|| {
            lab.within("a", || {
                while !stop.load(Ordering::Relaxed) {
                    feed("nft", &["-f", "-"], off);
                    feed("nft", &["-f", "-"], on);
                }
            });
        });
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            let rules = lab.within("a", read_io::read);
            if rules.unread.is_empty() {
                let counts: Vec<usize> = rules
                    .tables
                    .iter()
                    .map(|t| t.chains.iter().map(|c| c.rules.len()).sum())
                    .collect();
                assert!(counts == [0, 0] || counts == [1, 1], "{counts:?}");
                whole += 1;
            } else {
                assert_eq!(word(&analyze(&rules, &device)), "unknown");
                refused += 1;
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("{whole} whole reads, {refused} refused");
    assert!(whole > 0);
}

/// Random rules. `VXCSUM_RANDOM_RULES` is the number of rule sets, `VXCSUM_RANDOM_SEED` the seed.
#[test]
fn random_rules_are_never_wrongly_harmless() {
    const TOOLS: [&str; 8] = [
        "iptables-legacy",
        "nft",
        "iptables-nft",
        "nft",
        "iptables-legacy",
        "ip6tables-nft",
        "nft ip6",
        "ip6tables-legacy",
    ];
    let number = |name: &str, or: u64| std::env::var(name).map_or(or, |n| n.parse().unwrap());
    let mut dice = Dice(0x2545_f491_4f6c_dd1d ^ number("VXCSUM_RANDOM_SEED", 0));
    let jobs: Vec<(&str, String)> = TOOLS
        .into_iter()
        .cycle()
        .take(usize::try_from(number("VXCSUM_RANDOM_RULES", 12)).unwrap())
        .map(|tool| match tool {
            "nft" => (tool, dice.nft()),
            "nft ip6" => (tool, dice::over_ipv6(&dice.nft())),
            "iptables-legacy" | "iptables-nft" => (tool, dice.iptables()),
            _ => (tool, dice::over_ipv6(&dice.iptables())),
        })
        .collect();
    let next = AtomicUsize::new(0);
    let seen = Mutex::new(BTreeMap::<(&str, &str), Tally>::new());
    let missed = Mutex::new(Vec::new());
    thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                while let Some((tool, text)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let lab = with_random_rules(tool, text);
                    let rules = lab.within("a", read_io::read);
                    assert!(rules.unread.is_empty(), "{:?}", rules.unread);
                    let got = analyze(&rules, &device(&lab, "virtio_net"));
                    let in_part = read_in_part(&lab, &device(&lab, "virtio_net"), text);
                    if word(&in_part) != word(&got) {
                        let differs = format!("{tool}\n{text}{got:?}, read in part {in_part:?}");
                        missed.lock().unwrap().push(differs);
                    }
                    let packets = lab.packets();
                    for target in dice::targets_in(text).chain(["all"]) {
                        let mut seen = seen.lock().unwrap();
                        seen.entry((tool, target)).or_default().count(&got, packets);
                    }
                    if word(&got) == "not-exposed" && packets == "corrupt" {
                        missed
                            .lock()
                            .unwrap()
                            .push(format!("{tool}\n{text}{got:?}"));
                    }
                }
            });
        }
    });
    println!(
        "| tool | target | rule sets | exposed | not-exposed | unknown | corrupt | agreed | more careful |"
    );
    for ((tool, target), t) in seen.into_inner().unwrap() {
        let [exposed, not, unknown] = t.decisions;
        let sets = exposed + not + unknown;
        println!(
            "| {tool} | {target} | {sets} | {exposed} | {not} | {unknown} | {} | {} | {} |",
            t.corrupt, t.agreed, t.careful
        );
    }
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "{}", missed.join("\n\n"));
}

/// Nodes with these rules, and for outer packets over IPv6 with marks from rules for IPv4.
fn with_random_rules(tool: &str, text: &str) -> Lab {
    let v6 = tool.contains("ip6");
    let (lab, sets) = if v6 {
        let lab = Lab::over("fd00:77::", 64);
        (lab, dice::over_ipv6(dice::IPSETS))
    } else {
        (Lab::new(), dice::IPSETS.to_owned())
    };
    lab.within("a", || {
        if v6 {
            let legacy = tool.ends_with("legacy");
            let inner = ["iptables-nft-restore", "iptables-legacy-restore"];
            feed(inner[usize::from(legacy)], &[], dice::SERVICES);
        }
        if tool.starts_with("nft") {
            feed("nft", &["-f", "-"], text);
        } else {
            feed("ipset", &["restore"], &sets);
            feed(&format!("{tool}-restore"), &[], text);
        }
    });
    lab
}

/// Decisions about rule sets, and what happened to packets.
#[derive(Default)]
struct Tally {
    /// Exposed, not exposed, unknown.
    decisions: [u32; 3],
    corrupt: u32,
    /// Packets were corrupt if and only if the device was exposed.
    agreed: u32,
    /// The device was exposed or unknown, and packets were not corrupt.
    careful: u32,
}

impl Tally {
    fn count(&mut self, got: &Exposure, packets: &str) {
        let corrupt = packets == "corrupt";
        let decision = match got {
            Exposure::Exposed(_) => 0,
            Exposure::NotExposed(_) => 1,
            Exposure::Unknown(_) => 2,
        };
        self.decisions[decision] += 1;
        self.corrupt += u32::from(corrupt);
        self.agreed += u32::from(decision < 2 && corrupt == (decision == 0));
        self.careful += u32::from(decision != 1 && !corrupt);
    }
}

/// Every target of this kernel is in the random rules, or in the list of exceptions with a reason.
#[test]
fn random_rules_have_every_target_of_this_kernel() {
    let lab = Lab::new();
    lab.within("a", || {
        feed("iptables-legacy-restore", &[], "*nat\nCOMMIT\n");
    });
    let known = lab.within("a", || {
        fs::read_to_string("/proc/thread-self/net/ip_tables_targets").unwrap()
    });
    let ours = dice::targets();
    let left_out = |name: &str| dice::LEFT_OUT.iter().any(|(n, _)| *n == name);
    // The standard target has no name.
    let missing: Vec<&str> = known
        .lines()
        .filter(|n| !n.is_empty() && !ours.contains(n) && !left_out(n))
        .collect();
    assert!(
        known.lines().count() > 20 && missing.is_empty(),
        "{missing:?}"
    );
}

/// Without `CAP_NET_ADMIN` no device is not-exposed.
#[test]
fn without_permission_it_is_unknown() {
    let lab = Lab::new();
    let device = device(&lab, "virtio_net");
    lab.within("a", || {
        feed("iptables-legacy-restore", &[], "*nat\nCOMMIT\n");
        let none = rustix::thread::CapabilitySet::empty();
        let sets = rustix::thread::CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        };
        rustix::thread::set_capabilities(None, sets).unwrap();
        let rules = read_io::read();
        let what: Vec<&str> = rules.unread.iter().map(|u| &*u.operation).collect();
        assert_eq!(
            what,
            ["read nf_tables", "read legacy ip table nat"],
            "{:?}",
            rules.unread
        );
        let why = analyze(&rules, &device).to_string();
        assert_eq!(why, "read nf_tables: Operation not permitted (EPERM)");
    });
}

/// The NAT that corrupts the packets is in another namespace, whose rules this node cannot see.
#[test]
fn a_node_in_a_container_is_unknown() {
    let mut lab = Lab::new();
    lab.contain();
    let rules = lab.within("a", read_io::read);
    let why = analyze(&rules, &device(&lab, "veth")).to_string();
    assert!(
        why.contains("vxcsum cannot see NAT outside this network namespace"),
        "{why}"
    );
    assert_eq!(lab.packets(), "corrupt");
}
