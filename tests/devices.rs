//! Real devices: the changes of vxcsum and its report.
//!
//! The witnesses are ethtool(8), ip(8) and the `ethtool` crate. vxcsum's own report is only compared with them.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{BACKENDS, FEATURE, Netns, ROOT, VXCSUM, device, hex, names, run, uname_says};
use serde_json::{Value, json};

/// VXLAN devices that need a change (`flannel.1`, `ext0`) and one that does not, beside devices of other kinds.
fn node() -> Netns {
    let netns = Netns::with_underlay();
    netns.batch(
        "link add flannel.1 type vxlan id 1 dstport 8472 local 192.0.2.1 dev eth0 udpcsum nolearning\n\
         link add vxlan.calico type vxlan id 4096 dstport 4789 local 192.0.2.1 dev eth0 noudpcsum nolearning\n\
         link add keep0 type vxlan id 7 dstport 4790 local 192.0.2.1 dev eth0 udpcsum\n\
         link add ext0 type vxlan external dstport 4791\n\
         link add br0 type bridge\n\
         link add ifb9 type ifb\n",
    );
    netns.ip("tuntap add tap0 mode tap");
    netns.add_peer("flannel.1");
    netns
}

/// The features according to the `ethtool` crate: wanted and active, by device.
fn crate_view(netns: &Netns) -> BTreeMap<String, (bool, bool)> {
    use ethtool::{EthtoolAttr, EthtoolFeatureAttr, EthtoolFeatureBit, EthtoolHeader};
    use futures::StreamExt;

    let bit = |bits: &[EthtoolFeatureBit]| bits.iter().any(|bit| bit.name == FEATURE && bit.value);
    let read = async {
        let (connection, mut handle, _) = ethtool::new_connection().expect("open ethtool netlink");
        tokio::spawn(connection);
        let answers = handle
            .feature()
            .get(None)
            .execute()
            .await
            .expect("the kernel takes the request");
        let mut answers = std::pin::pin!(answers);
        let mut found = BTreeMap::new();
        while let Some(answer) = answers.next().await {
            let message = answer.expect("the kernel answers");
            let (mut name, mut wanted, mut active) = (None, None, None);
            for attr in message.payload.nlas {
                let EthtoolAttr::Feature(attr) = attr else {
                    continue;
                };
                match attr {
                    EthtoolFeatureAttr::Header(header) => {
                        name = header.into_iter().find_map(|attr| match attr {
                            EthtoolHeader::DevName(name) => Some(name),
                            _ => None,
                        });
                    }
                    EthtoolFeatureAttr::Wanted(bits) => wanted = Some(bit(&bits)),
                    EthtoolFeatureAttr::Active(bits) => active = Some(bit(&bits)),
                    _ => {}
                }
            }
            found.insert(
                name.expect("a device has a name"),
                (
                    wanted.expect("a device has wanted features"),
                    active.expect("a device has active features"),
                ),
            );
        }
        found
    };
    netns.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .expect("make a runtime");
        runtime.block_on(read)
    })
}

#[test]
fn apply_changes_the_feature_and_what_depends_on_it_and_nothing_else_anywhere() {
    for backend in BACKENDS {
        let netns = node();
        let before = netns.everything();
        let crate_before = crate_view(&netns);
        let report = netns
            .vxcsum(&format!("apply --json --backend {backend}"))
            .expect(0)
            .json();
        let after = netns.everything();
        let crate_after = crate_view(&netns);

        assert_eq!(report["backend"], format!("ethtool-{backend}"));
        assert_eq!(
            names(&report),
            ["flannel.1", "vxlan.calico", "keep0", "ext0"]
        );
        assert!(
            before.len() >= 10,
            "lo, eth0, peer0, four of vxlan and three others: {:?}",
            before.keys()
        );
        for (name, features) in &before {
            let changed: BTreeSet<&str> = features
                .keys()
                .filter(|feature| features[*feature] != after[name][*feature])
                .map(String::as_str)
                .collect();
            if !["flannel.1", "ext0"].contains(&name.as_str()) {
                assert_eq!(changed, BTreeSet::new(), "{name}, {backend}");
                assert_eq!(crate_before[name], crate_after[name], "{name}, {backend}");
                continue;
            }
            let said = device(&report, name);
            let also_off = said["also_off"].as_array().expect("an array");
            let mut expected: BTreeSet<&str> = also_off
                .iter()
                .map(|name| name.as_str().expect("a name"))
                .collect();
            assert!(expected.contains("tx-tcp-segmentation"), "{expected:?}");
            expected.insert(FEATURE);
            assert_eq!(changed, expected, "{name}, {backend}");
            for feature in &changed {
                let (before, after) = (features[*feature], after[name][*feature]);
                assert!(
                    before.active && !after.active,
                    "{name}, {backend}: {feature}"
                );
                // Dependent features stay wanted, so they come back together with the feature.
                assert_eq!(
                    after.requested,
                    *feature != FEATURE,
                    "{name}, {backend}: {feature}"
                );
            }
            assert_eq!(
                (crate_before[name], crate_after[name]),
                ((true, true), (false, false)),
                "{name}, {backend}"
            );
            assert_eq!(said["outcome"], "changed");
            assert_eq!(
                said["feature"],
                json!({"hw": true, "wanted": false, "active": false, "nochange": false})
            );
        }
        // Features that went off with the feature come back with it.
        netns.set("flannel.1", true);
        netns.set("ext0", true);
        assert_eq!(netns.everything(), before, "{backend}");
    }
}

#[test]
fn a_second_apply_and_every_reading_command_send_no_set_request() {
    for backend in BACKENDS {
        let netns = node();
        let before = netns.everything();
        for words in [
            "apply --dry-run",
            "--dry-run",
            "status",
            "explain flannel.1",
            "apply --device keep0",
        ] {
            let (run, sets) = netns.sets(&format!("{words} --backend {backend}"));
            run.expect(0);
            assert_eq!(sets, 0, "{words}, {backend}");
        }
        assert_eq!(netns.everything(), before, "{backend}");

        let (run, sets) = netns.sets(&format!("apply --json --backend {backend}"));
        run.expect(0);
        assert_eq!(sets, 2, "the counter counts, {backend}");
        let changed = netns.everything();
        assert_ne!(changed, before);

        let (run, sets) = netns.sets(&format!("apply --json --backend {backend}"));
        let report = run.expect(0).json();
        assert_eq!(sets, 0, "second apply, {backend}");
        for name in ["flannel.1", "ext0"] {
            let device = device(&report, name);
            assert_eq!(
                (&device["outcome"], &device["reason"]["code"]),
                (&json!("unchanged"), &json!("already-off"))
            );
        }
        assert_eq!(netns.everything(), changed, "{backend}");
    }
}

#[test]
fn the_report_matches_ip() {
    for backend in BACKENDS {
        let netns = node();
        netns.batch(
            "link add v6sum type vxlan id 60 dstport 4800 local fd00::1 dev eth0\n\
             link add v6zero type vxlan id 61 dstport 4801 local fd00::1 dev eth0 udp6zerocsumtx udp6zerocsumrx\n\
             link add byaddr4 type vxlan id 62 dstport 4802 local 192.0.2.1 udpcsum\n\
             link add byaddr6 type vxlan id 63 dstport 4803 local fd00::1\n\
             link add group0 type vxlan id 64 dstport 4804 group 239.1.1.1 dev eth0\n\
             link add nowhere type vxlan id 65 dstport 4805 local 198.51.100.1\n\
             link add max0 type vxlan id 16777215 dstport 65535 remote 192.0.2.9\n",
        );
        let report = netns
            .vxcsum(&format!("status --json --backend {backend}"))
            .expect(0)
            .json();
        let links = netns.links();
        let expected: BTreeSet<&str> = links
            .iter()
            .filter(|(_, link)| link["linkinfo"]["info_kind"] == "vxlan")
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(
            names(&report).into_iter().collect::<BTreeSet<_>>(),
            expected
        );
        assert_eq!(expected.len(), 11);
        for name in &expected {
            let (link, said) = (&links[*name], device(&report, name));
            let data = &link["linkinfo"]["info_data"];
            let external = data["external"] == true;
            assert_eq!(said["ifindex"], link["ifindex"], "{name}");
            assert_eq!(said["dst_port"], data["port"], "{name}");
            assert_eq!(
                said["vni"],
                if external {
                    Value::Null
                } else {
                    data["id"].clone()
                },
                "{name}"
            );
            let v6 = data.get("local6").is_some();
            let checksum = match (external, v6) {
                (true, _) => "external",
                (false, true) if data["udp_zero_csum6_tx"] == true => "zero",
                (false, false) if data["udp_csum"] == false => "zero",
                (false, _) => "present",
            };
            assert_eq!(said["outer_checksum"], checksum, "{name}: {data}");
            let by_address = name.starts_with("byaddr").then_some(json!("eth0"));
            let underlay = data.get("link").cloned().or(by_address).unwrap_or_default();
            assert_eq!(said["underlay"]["name"], underlay, "{name}");
            let driver = if underlay.is_null() {
                Value::Null
            } else {
                json!("veth")
            };
            assert_eq!(said["underlay"]["driver"], driver, "{name}");
        }
        for (name, status) in [("v6sum", "affected"), ("v6zero", "not-affected")] {
            assert_eq!(device(&report, name)["verdict"]["status"], status, "{name}");
        }
        let explained = |name: &str| {
            let run = netns
                .vxcsum(&format!("explain {name} --backend {backend}"))
                .expect(0);
            run.text().to_owned()
        };
        for (name, text) in [
            (
                "byaddr4",
                "underlay: eth0 (driver veth; has the local address)",
            ),
            (
                "flannel.1",
                "underlay: eth0 (driver veth; set on the tunnel device)",
            ),
            (
                "group0",
                "underlay: eth0 (driver veth; set on the tunnel device)",
            ),
            ("nowhere", "underlay: not set: routing decides"),
            (
                "v6zero",
                "IPv6 zero-checksum flags: udp6zerocsumtx udp6zerocsumrx",
            ),
            ("v6sum", "IPv6 zero-checksum flags: none"),
            ("v6sum", "local address: fd00::1"),
        ] {
            let said = explained(name);
            assert!(said.contains(text), "{name}: {text} in {said}");
        }
    }
}

/// A kernel that does not know the kind in the filter answers with every link: old kernels, and kernels without the
/// vxlan module. The test changes the request to a kind that no kernel knows.
#[test]
fn a_kernel_that_does_not_filter_is_no_reason_to_take_every_device_for_vxlan() {
    // struct nlmsghdr of a RTM_GETLINK dump with sequence number 1, then struct ifinfomsg.
    let mut request = [
        48u32.to_ne_bytes(),
        [18, 0, 1, 3],
        1u32.to_ne_bytes(),
        [0; 4],
    ]
    .concat();
    request.extend([0; 16]);
    // IFLA_LINKINFO with IFLA_INFO_KIND.
    request.extend(b"\x10\0\x12\x80\x0a\0\x01\0nokin\0\0\0");
    let request = hex(&request);
    for (backend, number) in [("netlink", 2), ("ioctl", 1)] {
        let netns = node();
        let log = tempfile::NamedTempFile::new().expect("make a file");
        let apply = run(netns
            .command("strace")
            .args([
                "-f",
                "-e",
                "trace=sendto,recvfrom",
                "-e",
                "abbrev=none",
                "-s",
                "65536",
                "-o",
            ])
            .arg(log.path())
            .arg(format!(
                "--inject=sendto:poke_enter=@arg2={request}:when={number}"
            ))
            .args([
                "--",
                VXCSUM,
                "apply",
                "--json",
                "--root",
                ROOT,
                "--backend",
                backend,
            ]));
        let report = apply.expect(0).json();
        let log = std::fs::read_to_string(log.path()).expect("read the log");
        for name in ["lo", "br0", "eth0", "ifb9"] {
            let answered = format!("ifi_index=if_nametoindex(\"{name}\")");
            assert!(
                log.contains(&answered),
                "{backend}: {name} was not in the answer: {log}"
            );
        }
        assert_eq!(
            names(&report),
            ["flannel.1", "vxlan.calico", "keep0", "ext0"],
            "{backend}"
        );
        let on: Vec<_> = netns
            .everything()
            .into_iter()
            .filter(|(_, seen)| seen[FEATURE].active)
            .map(|(name, _)| name)
            .collect();
        assert_eq!(
            on,
            [
                "br0",
                "eth0",
                "ifb9",
                "keep0",
                "lo",
                "peer0",
                "vxlan.calico"
            ],
            "{backend}"
        );
    }
}

#[test]
fn an_underlay_in_another_namespace_is_not_taken_for_one_of_this() {
    for backend in BACKENDS {
        let (here, there) = (Netns::with_underlay(), Netns::with_underlay());
        // Many devices, so the foreign ifindex also belongs to a device here.
        for n in 0..8 {
            there.ip(&format!("link add filler{n} type bridge"));
        }
        here.ip("link add moved0 type vxlan id 5 dstport 8472 local 192.0.2.1 dev eth0 udpcsum");
        here.ip(&format!("link set moved0 netns {}", there.name()));
        let report = there
            .vxcsum(&format!("apply --json --backend {backend}"))
            .expect(0)
            .json();
        let moved = device(&report, "moved0");
        assert_eq!(
            (&moved["underlay"], &moved["outcome"]),
            (&Value::Null, &json!("changed"))
        );
        assert!(!there.is_on("moved0"));
        let explained = there
            .vxcsum(&format!("explain moved0 --backend {backend}"))
            .expect(0);
        assert!(
            explained
                .text()
                .contains("underlay: in another network namespace"),
            "{}",
            explained.text()
        );
        let empty = here
            .vxcsum(&format!("status --json --backend {backend}"))
            .expect(0);
        assert_eq!(names(&empty.json()), Vec::<&str>::new());
    }
}

#[test]
fn only_the_named_devices_are_looked_at() {
    for backend in BACKENDS {
        let netns = node();
        let before = netns.everything();
        let run = netns.vxcsum(&format!(
            "apply --json --device ext0 --device keep0 --device ext0 --backend {backend}"
        ));
        assert_eq!(names(&run.expect(0).json()), ["keep0", "ext0"]);
        let after = netns.everything();
        let changed: Vec<_> = before
            .keys()
            .filter(|name| before[*name] != after[*name])
            .collect();
        assert_eq!(changed, ["ext0"], "{backend}");
    }
}

#[test]
fn without_a_policy_the_built_in_one_decides() {
    let netns = node();
    let root = tempfile::tempdir().expect("make a directory");
    let apply = run(netns
        .command(VXCSUM)
        .args(["apply", "--json", "--root"])
        .arg(root.path()))
    .expect(0);
    let report = apply.json();
    // Every kernel since 4.6 has nat-lco-csum; the built-in policy counts an unknown exposure as exposed.
    assert_eq!(
        device(&report, "flannel.1")["reason"]["code"],
        "exposure-unknown"
    );
    assert_eq!(device(&report, "keep0")["outcome"], "changed");
    assert_eq!(
        report["kernel"]["distribution"],
        json!({"id": "", "version_id": ""})
    );
    assert!(!netns.is_on("flannel.1") && !netns.is_on("keep0"));
    // No kernel with the features of ethtool netlink has nat-zero-csum, and the test before this one showed that this
    // kernel has them.
    assert_eq!(device(&report, "vxlan.calico")["outcome"], "unchanged");
    assert!(netns.is_on("vxlan.calico"));
}

#[test]
fn a_thousand_devices_are_all_changed_in_one_run() {
    const COUNT: usize = 1000;
    let netns = Netns::new();
    let lines =
        (0..COUNT).map(|n| format!("link add v{n} type vxlan id {n} dstport 8472 udpcsum\n"));
    netns.batch(&lines.collect::<String>());
    netns.batch("link add veth0 type veth peer name veth1\nlink add other type vxlan id 9999 dstport 9 noudpcsum\n");
    for backend in BACKENDS {
        let before = crate_view(&netns);
        let on = |view: &BTreeMap<String, (bool, bool)>| {
            view.values().filter(|seen| **seen == (true, true)).count()
        };
        assert_eq!(
            (before.len(), before["v0"]),
            (COUNT + 4, (true, true)),
            "v0 to v999, lo, two veths, one other"
        );
        let report = netns
            .vxcsum(&format!("apply --json --backend {backend}"))
            .expect(0)
            .json();
        assert_eq!(names(&report).len(), COUNT + 1);
        let after = crate_view(&netns);
        // On lo the feature is [fixed], and vxcsum does not want it off.
        assert_eq!((on(&before), on(&after)), (COUNT + 3, 3), "{backend}");
        for said in report["devices"].as_array().expect("an array") {
            let name = said["name"].as_str().expect("a name");
            let expected = if name == "other" {
                ("unchanged", (true, true))
            } else {
                ("changed", (false, false))
            };
            assert_eq!(
                (said["outcome"].as_str().expect("an outcome"), after[name]),
                expected,
                "{name}, {backend}"
            );
        }
        let text = netns
            .vxcsum(&format!("apply --backend {backend}"))
            .expect(0);
        assert!(
            text.text().contains(" and 992 more\n"),
            "a paragraph does not name a thousand devices"
        );
        for n in 0..COUNT {
            assert!(
                text.text().contains(&format!("\nv{n} ")),
                "the table does: v{n}"
            );
        }
        if backend == BACKENDS[0] {
            let script = format!(
                "for n in $(seq 0 {}); do ethtool -K v$n {FEATURE} on || exit 1; done",
                COUNT - 1
            );
            run(netns.command("sh").args(["-c", &script])).expect(0);
        }
    }
}

#[test]
fn a_kernel_with_both_bugs_and_without_ethtool_netlink_is_served() {
    // RHEL 8.1 with the devices and the ioctl of this kernel.
    let uname = uname_says(
        "4.18.0-147.5.1.el8_1.x86_64",
        "#1 SMP Tue Jan 14 15:50:19 UTC 2020",
    );
    let netns = node();
    let root = tempfile::tempdir().expect("make a directory");
    let apply = run(netns
        .command("strace")
        .args([
            "-f",
            "-o",
            "/dev/null",
            "--inject=socket:error=EPROTONOSUPPORT:when=1",
        ])
        .arg(format!("--inject={uname}"))
        .args(["--", VXCSUM, "apply", "--json", "--root"])
        .arg(root.path()));
    let report = apply.expect(0).json();
    assert_eq!(report["backend"], "ethtool-ioctl");
    assert_eq!(report["kernel"]["release"], "4.18.0-147.5.1.el8_1.x86_64");
    for (name, bugs) in [
        ("flannel.1", json!(["nat-lco-csum"])),
        ("vxlan.calico", json!(["nat-zero-csum"])),
        ("ext0", json!(["nat-zero-csum", "nat-lco-csum"])),
    ] {
        let said = device(&report, name);
        assert_eq!(
            (&said["verdict"]["bugs"], &said["outcome"]),
            (&bugs, &json!("changed")),
            "{name}"
        );
        assert!(!netns.is_on(name), "{name}");
    }
}

#[test]
fn an_unknown_kernel_counts_as_affected_and_explains_how_to_know() {
    let netns = node();
    let root = tempfile::tempdir().expect("make a directory");
    let explained = run(netns
        .command("strace")
        .args(["-f", "-o", "/dev/null", "--inject"])
        .arg(uname_says("homemade", "#1 SMP"))
        .args(["--", VXCSUM, "explain", "vxlan.calico", "--root"])
        .arg(root.path()));
    let text = explained.expect(0).text().to_owned();
    assert!(
        text.starts_with("vxlan.calico: turn-off (kernel-unknown)\n"),
        "{text}"
    );
    for way in ["[[kernel]]", "vxcsum probe", "vxcsum-probe.service"] {
        assert!(text.contains(way), "{way}: {text}");
    }
}

#[test]
fn a_fixed_feature_is_seen_as_fixed_and_stays() {
    use vxcsum::ethtool::backend_io::{Backend, Choice};
    use vxcsum::ethtool::{BackendName, Feature, FeatureTable};
    use vxcsum::text::IfName;

    let netns = Netns::new();
    let before = netns.ethtool("lo");
    assert!(
        before[FEATURE].fixed && before[FEATURE].active,
        "lo has it [fixed] on: {:?}",
        before[FEATURE]
    );
    for name in [BackendName::Netlink, BackendName::Ioctl] {
        let (set, states) = netns.enter(|| {
            let lo = IfName::new(b"lo").expect("a name");
            let mut backend = Backend::open(Choice::Only(name)).expect("open the backend");
            let names = backend.feature_names(&lo).expect("read the names");
            let count = u32::try_from(names.len()).expect("few features");
            let index = FeatureTable { names }
                .index(Feature::Checksum)
                .expect("the kernel has the feature");
            let state = |backend: &mut Backend| {
                let read = backend.read(&[(1, &lo)], count).pop().expect("one device");
                read.expect("read the features").state(index)
            };
            let first = state(&mut backend);
            let set = backend
                .set(&[(1, &lo)], Feature::Checksum, (index, count), false)
                .pop()
                .expect("one device");
            (set, [first, state(&mut backend)])
        });
        for state in states {
            assert!(
                state.fixed() && state.active && !state.off(),
                "{name:?}: {state:?}"
            );
        }
        // Netlink and the ioctl may accept or refuse it. The test only demands that nothing changes.
        if let Err(fault) = set {
            assert!(!fault.gone() && !fault.forbidden(), "{name:?}: {fault}");
        }
        assert_eq!(netns.ethtool("lo"), before, "{name:?}");
    }
}
