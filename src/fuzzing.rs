//! The decoders of bytes from outside, each as one function from bytes, for the fuzzer and for `cargo test`.
//!
//! Owns what must hold whatever the bytes are: no panic, no more elements than bytes, written and read again is equal,
//! no control character in a text for users. Only in builds for tests. tests/fuzz runs it.

use crate::doctor::managers::ManagerKind;
use crate::doctor::{Candidate, Count, Flows, managers};
use crate::ethtool::{netlink as ethnl, structs};
use crate::kernel::nodes::{Nodes, groups};
use crate::kernel::os_release::parse_os_release;
use crate::kernel::verdict::judge;
use crate::kernel::{KernelFacts, Measurements, OsRelease};
use crate::link::{OuterChecksum, TunnelKind, route, rtnl};
use crate::nat::exposure::{Doubt, Exposure, OuterFlow, analyze, quoted};
use crate::nat::nft::{self, Get, Ruleset, own};
use crate::nat::partial;
use crate::nat::rules::{
    Base, Chain, Data, Expr, Hook, Match, NatRules, Need, Rule, RuleStore, Side, Table,
    TableFamily, Verdict,
};
use crate::nat::{kube_proxy, read_io, xt};
use crate::netlink::{
    Attr, DumpReader, Message, Writer, acknowledgement, attrs, is_acknowledgement, messages,
};
use crate::offload::answers_io::AnswerFile;
use crate::offload::record::{Identity, Netns, Now, State};
use crate::output::{self, NodeSummary};
use crate::policy::{self, Policy, Subject};
use crate::probe::{ProbeRun, frame};
use crate::sealed::unseal;
use crate::text::IfName;

type Decoder = (&'static str, fn(&[u8]));

/// The decoders by name.
pub const DECODERS: [Decoder; 19] = [
    ("netlink", netlink),
    ("rtnl", rtnl_messages),
    ("route", routes),
    ("ethtool", ethtool),
    ("ioctl", ioctl),
    ("nft", nft_messages),
    ("xt-table", xt_table),
    ("xt-extension", xt_extension),
    ("ipset", ipset),
    ("proc", proc_files),
    ("policy", policy_file),
    ("state", state_file),
    ("probe", probe_file),
    ("answers", answers_file),
    ("os-release", os_release),
    ("release", release),
    ("nodes", nodes),
    ("managers", other_managers),
    ("frame", vxlan_frame),
];

/// The messages of a datagram that can be read.
fn readable(data: &[u8]) -> Vec<Message<'_>> {
    messages(data).flatten().collect()
}

/// A text for users, in one or more lines.
fn printable(text: &str) {
    let bad = text.chars().find(|c| c.is_control() && *c != '\n');
    assert_eq!(bad, None, "{text:?}");
}

fn all_printable(texts: &[String]) {
    for text in texts {
        printable(text);
    }
}

fn printed(write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> String {
    let mut out = Vec::new();
    write(&mut out).expect("memory is a writer without errors");
    String::from_utf8(out).expect("text is UTF-8")
}

fn netlink(data: &[u8]) {
    let found = readable(data);
    assert!(found.len() * 16 <= data.len());
    for message in &found {
        let mut written = Writer::default();
        let open = written.message(message.kind, message.flags, message.seq, &[]);
        let list: Vec<Attr<'_>> = attrs(message.payload).map_while(Result::ok).collect();
        assert!(list.len() * 4 <= message.payload.len());
        for attr in &list {
            written.put(attr.kind, attr.payload);
            let _ = attr.nested().count();
        }
        written.end_message(&open);
        let [again] = readable(written.bytes())[..] else {
            panic!("one message was written")
        };
        assert_eq!((again.kind, again.seq), (message.kind, message.seq));
        assert!(attrs(again.payload).eq(list.iter().map(|attr| Ok(*attr))));
        if is_acknowledgement(message)
            && let Ok(Err(refused)) = acknowledgement(message)
        {
            printable(&refused.extack.unwrap_or_default());
        }
    }
    let seq = found.first().map_or(0, |message| message.seq);
    let mut reader = DumpReader::new(seq);
    let mut given = 0;
    for datagram in [data, data] {
        let _ = reader.feed(datagram, |_| {
            given += 1;
            Ok(())
        });
    }
    assert!(given <= 2 * found.len());
}

fn rtnl_messages(data: &[u8]) {
    for message in readable(data) {
        if let Ok(Some(link)) = rtnl::link(&message) {
            assert!(link.ifindex != 0 && IfName::new(link.name.as_bytes()) == Some(link.name));
            printable(&link.name.to_string());
            printable(&link.kind.unwrap_or_default());
            printable(&link.bus.unwrap_or_default());
            if let Some(tunnel) = link.tunnel {
                assert_eq!((tunnel.ifindex, tunnel.name), (link.ifindex, link.name));
            }
        }
        let _ = rtnl::own_address(&message);
        let _ = rtnl::forwarding(&message);
    }
}

fn routes(data: &[u8]) {
    for message in readable(data) {
        if let Ok(Some(route)) = route::route(&message) {
            assert!(route.ifindexes.len() * 8 <= message.payload.len());
        }
        let _ = route::routing_rule(&message);
    }
}

fn ethtool(data: &[u8]) {
    for message in readable(data) {
        let _ = ethnl::family(&message);
        let names = ethnl::feature_names(&message).unwrap_or_default();
        assert!(names.len() * 4 <= message.payload.len());
        all_printable(&names);
        let _ = ethnl::features(&message, |_, _| true);
    }
}

fn ioctl(data: &[u8]) {
    if let Ok(count) = structs::sset_info(data) {
        let names = structs::gstrings(&structs::gstrings_request(count));
        assert_eq!(names.map(|names| names.len()), Ok(count as usize));
        assert!(structs::gfeatures(&structs::gfeatures_request(count)).is_ok());
    }
    all_printable(&structs::gstrings(data).unwrap_or_default());
    let _ = structs::gfeatures(data);
    printable(&structs::drvinfo_driver(data).unwrap_or_default());
}

/// Devices with a fixed and with a chosen source, over both families, and one about which nothing is known.
fn devices() -> [OuterFlow; 3] {
    let address = |text: &str| text.parse().expect("an address");
    let own = |text: &str| crate::link::OwnAddress {
        ifindex: 2,
        address: address(text),
        prefix_len: 24,
        scope: 0,
        flags: 0x80,
    };
    let known = OuterFlow {
        device: IfName::new(b"flannel.1").expect("a name"),
        ifindex: 9,
        enslaved: false,
        underlay: IfName::new(b"eth0"),
        underlay_ifindex: Some(2),
        underlay_driver: Some("virtio_net".into()),
        underlay_finishes: true,
        underlay_addresses: vec![own("192.168.77.1"), own("fd00:77::1")],
        other_egress: None,
        local: Some(address("192.168.77.1")),
        routed: None,
        remotes: vec![address("192.168.77.2")],
        dst_port: Some(8472),
        vni: Some(1),
    };
    let v6 = OuterFlow {
        local: None,
        remotes: vec![address("fd00:77::2"), address("fd00:77::3")],
        ..known.clone()
    };
    let unknown = OuterFlow {
        enslaved: true,
        underlay: None,
        underlay_ifindex: None,
        underlay_addresses: Vec::new(),
        local: None,
        remotes: Vec::new(),
        dst_port: None,
        ..known.clone()
    };
    [known, v6, unknown]
}

/// Decides about devices with these rules, and prints everything about the rules.
fn decide(rules: &NatRules) {
    all_printable(&quoted(rules));
    kube_proxy::kube_proxy(rules);
    for (rule, command) in kube_proxy::leftovers_quoted(rules) {
        printable(&rule);
        printable(&command.unwrap_or_default());
    }
    for device in devices() {
        let exposure = analyze(rules, &device);
        printable(exposure.rule().unwrap_or_default());
        match &exposure {
            Exposure::Exposed(found) => {
                printable(&found.to_string());
                if let Err(why) = &found.notrack {
                    printable(&why.to_string());
                }
                let commands = crate::doctor::exemption_commands(rules, found, device.dst_port);
                all_printable(&commands);
            }
            Exposure::NotExposed(rule) => rule.iter().for_each(|rule| printable(&rule.text)),
            Exposure::Unknown(doubt) => printable(&doubt.to_string()),
        }
        if !rules.is_partial() {
            in_part(rules, &device, &exposure);
        }
    }
}

/// Without the rules of the chains that only other chains call, an answer is the answer for all rules. Reads them as
/// [`crate::nat::partial_io::RulesInUse`] does.
fn in_part(rules: &NatRules, device: &OuterFlow, whole: &Exposure) {
    let mut part = rules.clone();
    for chain in part.tables.iter_mut().flat_map(|t| &mut t.chains) {
        if chain.base.is_none() {
            chain.rules.clear();
            chain.leave_unread();
        }
    }
    let answer = loop {
        let mut needs = partial::first(&part);
        if needs.is_empty() {
            match partial::answer(&part, device) {
                Ok(answer) => break answer,
                Err(open) if open.needs.is_empty() => return,
                Err(open) => needs = open.needs,
            }
        }
        for need in needs {
            let Need::Chain(table, chain) = need else {
                return;
            };
            let chain = chain as usize;
            let of = &rules.tables[table].chains[chain];
            part.tables[table].chains[chain] = of.clone();
        }
    };
    if answer.code() == whole.code() || matches!(whole, Exposure::Unknown(Doubt::BudgetExceeded)) {
        return;
    }
    // The whole analysis leaves out base chains that change nothing, even if they drop the packet. That is the more
    // careful answer. Without what drops, both must be the same.
    let mut passed = rules.clone();
    let drops = let_pass(&mut passed);
    let more_careful =
        !matches!(answer, Exposure::Exposed(_)) && !matches!(whole, Exposure::NotExposed(_));
    assert!(drops && more_careful, "{answer:?}, in full {whole:?}");
    in_part(&passed, device, &analyze(&passed, device));
}

/// Makes every policy and verdict that drops a packet let it pass. False if there was none.
fn let_pass(rules: &mut NatRules) -> bool {
    let mut found = false;
    let mut pass = |verdict: &mut Verdict| {
        if *verdict == Verdict::Drop {
            *verdict = Verdict::Accept;
            found = true;
        }
    };
    for table in &mut rules.tables {
        for rule in table.chains.iter_mut().flat_map(|c| &mut c.rules) {
            for expr in &mut rule.exprs {
                if let Expr::Verdict(verdict) = expr {
                    pass(verdict);
                }
            }
        }
        for element in table
            .sets
            .iter_mut()
            .flat_map(|s| &mut s.elements)
            .flatten()
        {
            if let Data::Verdict(verdict) = &mut element.data {
                pass(verdict);
            }
        }
    }
    let bases = rules.tables.iter_mut().flat_map(|t| &mut t.chains);
    for base in bases.filter_map(|c| c.base.as_mut()) {
        found |= base.drops;
        base.drops = false;
    }
    found
}

fn nft_messages(data: &[u8]) {
    use crate::nat::uapi::NFNL_SUBSYS_NFTABLES;
    const NEW: [(Get, u16); 4] = [
        (Get::Tables, 0),
        (Get::Chains, 3),
        (Get::Sets, 9),
        (Get::Rules, 6),
    ];
    const NEW_ELEMENTS: u16 = 12;
    const NEW_GENERATION: u16 = 15;
    let all = readable(data);
    let of = |kind: u16| {
        all.iter()
            .filter(move |m| m.kind == NFNL_SUBSYS_NFTABLES << 8 | kind)
    };
    let is_about = |m: &Message<'_>, set: &[u8]| {
        m.body().is_ok_and(|(_, body)| {
            attrs(body)
                .flatten()
                .any(|a| a.kind == 2 && a.string() == set)
        })
    };
    for message in of(NEW_GENERATION) {
        let _ = nft::generation(message);
    }
    for mut rules in [Ruleset::default(), Ruleset::partial()] {
        for (get, kind) in NEW {
            for message in of(kind) {
                let _ = rules.add(get, message);
                let _ = nft::objects(message);
            }
        }
        for wanted in rules.wanted() {
            rules.begin_elements(&wanted);
            for message in of(NEW_ELEMENTS).filter(|m| is_about(m, &wanted.name)) {
                let _ = rules.add_elements(&wanted, message);
            }
        }
        let mut tables = rules.finish();
        own::leave_out(&mut tables);
        let rules = NatRules {
            tables,
            ..NatRules::default()
        };
        let _ = partial::first(&rules);
        let count = |chains: &[Chain]| chains.iter().map(|c| c.rules.len()).sum::<usize>();
        let rules_in = rules.tables.iter().map(|t| count(&t.chains)).sum::<usize>();
        assert!(rules_in <= all.len());
        decide(&rules);
    }
}

fn xt_table(data: &[u8]) {
    let Some((&[family, name], rest)) = data.split_first_chunk::<2>() else {
        return;
    };
    let family = [TableFamily::Ip, TableFamily::Ip6][usize::from(family % 2)];
    let name = [&b"nat"[..], b"mangle", b"filter", b"raw"][usize::from(name % 4)];
    let Some((info, entries)) = rest.split_at_checked(xt::INFO_LEN) else {
        return;
    };
    let info = xt::decode_info(info).expect("the length is right");
    let answer = [&[0; xt::ENTRIES_HEADER], entries].concat();
    let Ok((mut table, entries)) = xt::open_table(family, name, &info, answer) else {
        return;
    };
    assert!(table.chains.len() * 100 <= data.len());
    let all = entries.decode_all(&mut table);
    let rules = NatRules {
        tables: vec![table],
        ..NatRules::default()
    };
    if all.is_ok() {
        decide(&rules);
    }
}

/// A rule in POSTROUTING with these expressions.
fn one_rule(backend: RuleStore, family: TableFamily, exprs: Vec<Expr>) -> NatRules {
    let chain = Chain {
        name: b"POSTROUTING"[..].into(),
        base: Some(Base {
            hook: Hook::Postrouting,
            priority: 100,
            nat: true,
            drops: false,
        }),
        devices: Box::default(),
        rules: vec![Rule {
            exprs: exprs.into(),
            comment: None,
        }],
    };
    NatRules {
        tables: vec![Table {
            backend,
            family,
            name: b"nat"[..].into(),
            chains: vec![chain],
            sets: Vec::new(),
            goes_unannounced: false,
        }],
        ..NatRules::default()
    }
}

fn xt_extension(data: &[u8]) {
    let Some((&[which, revision], rest)) = data.split_first_chunk::<2>() else {
        return;
    };
    let Some(end) = rest.iter().position(|b| *b == 0) else {
        return;
    };
    let (name, data) = (&rest[..end], &rest[end + 1..]);
    let family = [TableFamily::Ip, TableFamily::Ip6][usize::from(which & 1)];
    let backend = [RuleStore::Legacy, RuleStore::NfTables][usize::from(which >> 1 & 1)];
    let expr = match which & 4 {
        0 => Expr::Match(xt::decode_match(name, revision, data)),
        _ => xt::decode_target(name, revision, data, family),
    };
    let rules = one_rule(backend, family, vec![expr]);
    decide(&rules);
    let at = crate::nat::machine::RuleRef::default();
    if let Some(command) = kube_proxy::deletion(&rules, at) {
        printable(&command);
        let outside: String = command.split('\'').step_by(2).collect();
        let harmful = |c: char| "\"$&()*;<>?[]\\`{|}~#\n".contains(c);
        assert!(!outside.contains(harmful), "{command}");
    }
}

fn ipset(data: &[u8]) {
    let mut sets = Vec::new();
    for message in readable(data) {
        let _ = nft::sets::add_ipset(&mut sets, &message);
    }
    let members: usize = sets.iter().map(|set| set.members.len()).sum();
    assert!(members * 4 <= data.len() && sets.len() * 16 <= data.len());
    for index in sets.iter().take(4).map(|set| set.index) {
        for side in [Side::Source, Side::Destination] {
            let found = Match::Set {
                index,
                sides: [side; 2].into(),
                invert: side == Side::Source,
                more: false,
            };
            let nat = xt::decode_target(b"REDIRECT", 0, &[1, 0, 0, 0], TableFamily::Ip);
            let mut rules = one_rule(
                RuleStore::Legacy,
                TableFamily::Ip,
                vec![Expr::Match(found), nat],
            );
            rules.ipsets.clone_from(&sets);
            rules.ipsets_known = true;
            rules.mark_updated_ipsets();
            decide(&rules);
        }
    }
}

/// Two texts, as two files of /proc.
fn proc_files(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (first, second) = text.split_once('\0').unwrap_or((&text, ""));
    let _ = Count::parse(first, second);
    let _ = read_io::shows_no_copies(first, second);
    let _ = crate::probe::first_foreign_device(first);
    let mut flows = Flows::default();
    for line in first.lines() {
        flows.add(line, &[8472, 4789]);
    }
    assert!(flows.rewritten <= flows.seen && flows.examples.len() <= flows.rewritten);
    all_printable(&flows.examples);
}

fn policy_file(data: &[u8]) {
    for kind in [policy::Kind::Main, policy::Kind::DropIn] {
        match policy::parse("policy.toml", kind, data) {
            Ok(fragment) => {
                let read = policy::merge(vec![fragment]);
                let text = read.show();
                printable(&text);
                let again = policy::parse("policy.toml", policy::Kind::Main, text.as_bytes());
                let again = policy::merge(vec![again.expect("what `policy show` writes is valid")]);
                same_policy(&read, &again);
            }
            Err(errors) => {
                let lines = data.split(|b| *b == b'\n').count();
                for error in errors.items() {
                    assert!(error.line.is_none_or(|line| (1..=lines).contains(&line)));
                    printable(&error.line_for_logs());
                }
                printable(&errors.render(false));
            }
        }
    }
}

fn same_policy(one: &Policy, other: &Policy) {
    let names = [&b"flannel.1"[..], b"vxlan.calico", b"a", b"\xff\x1b"];
    for name in names.map(|name| IfName::new(name).expect("a name")) {
        for (vni, port, driver) in [
            (Some(1), Some(8472), Some("virtio_net")),
            (Some(4096), Some(4789), None),
            (None, None, Some("veth")),
        ] {
            let subject = Subject {
                name: &name,
                kind: TunnelKind::Vxlan,
                vni,
                dst_port: port,
                underlay_driver: driver,
                outer_checksum: OuterChecksum::Present,
            };
            for (rule, again) in one.consider(&subject).iter().zip(other.consider(&subject)) {
                assert_eq!(rule.miss, again.miss);
                printable(&rule.rule.label());
                if let Some(miss) = &rule.miss {
                    printable(&miss.found);
                    printable(&miss.wanted);
                }
            }
            let when = |of: &Policy| of.deciding_rule(&subject).map(|rule| rule.when);
            assert_eq!(when(one), when(other));
        }
    }
    assert_eq!(one.rules.len(), other.rules.len());
    assert_eq!(one.kernels.len(), other.kernels.len());
    assert_eq!(one.cure.value, other.cure.value);
    assert_eq!(one.give_back_after.value, other.give_back_after.value);
}

/// The texts in a JSON value.
fn texts<'v>(value: &'v serde_json::Value, out: &mut Vec<&'v str>) {
    match value {
        serde_json::Value::String(text) => out.push(text),
        serde_json::Value::Array(list) => list.iter().for_each(|value| texts(value, out)),
        serde_json::Value::Object(map) => map.values().for_each(|value| texts(value, out)),
        _ => {}
    }
}

/// A record of this boot. Whatever it says is used at three times.
fn state_file(data: &[u8]) {
    const BOOT: &str = "b";
    let text = String::from_utf8_lossy(data);
    let state = match State::parse(&text, BOOT) {
        Ok(state) => state,
        Err(why) => return printable(&why),
    };
    let json = serde_json::to_value(&state).expect("a record is JSON");
    let written = state.to_text().expect("a record is JSON");
    assert_eq!(State::parse(&written, BOOT).as_ref(), Ok(&state));
    let given = unseal(&text).expect("its sum was right before");
    let given = serde_json::from_str(&given).expect("it was JSON before");
    let (mut was, mut is) = (Vec::new(), Vec::new());
    texts(&given, &mut was);
    texts(&json, &mut is);
    assert!(is.iter().all(|text| was.contains(text)));
    used(state);
}

/// Does with a record what apply and watch do.
fn used(mut state: State) {
    let link = crate::link::TunnelLink {
        kind: TunnelKind::Vxlan,
        ifindex: 4,
        name: IfName::new(b"flannel.1").expect("a name"),
        mac: Some([2, 0, 0, 0, 0, 1]),
        vni: Some(1),
        dst_port: Some(8472),
        local: None,
        remote: None,
        learning: false,
        outer_checksum: OuterChecksum::Present,
        udp_zero_csum6_tx: false,
        udp_zero_csum6_rx: false,
        enslaved: false,
        underlay: crate::link::UnderlayLink::NotSet,
    };
    let feature = crate::ethtool::Feature::Checksum;
    for (inode, cookie) in [(1, None), (1, Some(1)), (4_026_531_840, Some(1))] {
        let netns = Netns { inode, cookie };
        let device = Identity::new(netns, &link);
        for boot in [0, 1_000_000, i64::MAX.cast_unsigned()] {
            let now = Now { boot, unix: boot };
            state.forget_future(now);
            let _ = state.history(&device, now);
            let _ = state.rule_history(&device, now);
            let _ = state.packets(netns, now);
            let _ = state.follow_up(now);
            state.set_waiting(netns, &[(device, true)], |_| true, now);
            state.end_backoff(&device, feature, now);
            state.start_backoff(&device, feature, now);
            state.set_not_exposed(&device, feature, Some(now));
            state.confirm(&device, feature);
            state.give_up_rule(&device, None, now);
            state.record_off(
                crate::offload::record::NewEntry {
                    identity: device,
                    feature,
                    reason: "exposed",
                    also_off: std::rc::Rc::default(),
                },
                now,
            );
            state.prune(netns, std::slice::from_ref(&device), |_| true);
        }
    }
}

fn probe_file(data: &[u8]) {
    let run = match ProbeRun::from_json(data) {
        Ok(run) => run,
        Err(error) => return printable(&error.to_string()),
    };
    let text = run.to_json().expect("a run is JSON");
    let again = ProbeRun::from_json(text.as_bytes()).expect("it was read before");
    assert_eq!(again.to_json().expect("a run is JSON"), text);
    let stored = crate::probe::render::Stored::ThisRun;
    printable(&printed(|out| {
        crate::probe::render::probe(out, &run, stored, false)
    }));
    let _ = run.measurements();
}

fn answers_file(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(Ok(file)) = unseal(&text).map(|json| serde_json::from_str::<AnswerFile>(&json)) else {
        return;
    };
    let text = serde_json::to_string(&file).expect("answers are JSON");
    let again: AnswerFile = serde_json::from_str(&text).expect("it was read before");
    assert_eq!(serde_json::to_string(&again).ok(), Some(text));
}

fn os_release(data: &[u8]) {
    let os = parse_os_release(&String::from_utf8_lossy(data));
    assert!(os.id.len() + os.version_id.len() <= 3 * data.len());
}

/// Five lines: `uname -r`, `uname -v`, /proc/version_signature, ID and VERSION_ID.
fn release(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.lines().map(ToOwned::to_owned);
    let mut line = || lines.next().unwrap_or_default();
    let facts = KernelFacts {
        release: line(),
        version: line(),
        version_signature: Some(line()).filter(|text| !text.is_empty()),
        os: OsRelease {
            id: line(),
            version_id: line(),
        },
    };
    let verdict = judge(&facts, &[], &Measurements::default());
    for bug in &verdict {
        assert!(!bug.evidence.is_empty());
        for evidence in &bug.evidence {
            printable(&evidence.text);
        }
    }
}

fn nodes(data: &[u8]) {
    match Nodes::parse(&String::from_utf8_lossy(data)) {
        Ok(found) => {
            let kernels = groups(&found.nodes, |facts| {
                judge(facts, &[], &Measurements::default())
            });
            let counted: usize = kernels.iter().map(|group| group.nodes).sum();
            assert_eq!(counted, found.nodes.len());
            let summary = NodeSummary::new(kernels, found.other_systems);
            printable(&printed(|out| output::nodes(out, &summary, false)));
        }
        Err(error) => printable(&error),
    }
}

fn other_managers(data: &[u8]) {
    let Some((kind, text)) = data.split_first() else {
        return;
    };
    let kind = ManagerKind::ALL[usize::from(*kind) % ManagerKind::ALL.len()];
    let file = Candidate {
        kind,
        path: "/etc/file".to_owned(),
        text: String::from_utf8_lossy(text).into_owned(),
    };
    let names = [&b"flannel.1"[..], b"a\x1b"].map(|name| IfName::new(name).expect("a name"));
    let devices = names.map(|name| (name, TunnelKind::Vxlan));
    for manager in managers(&[file.clone(), file], &devices) {
        printable(&manager.text);
    }
}

fn vxlan_frame(data: &[u8]) {
    if let Ok(parsed) = frame::parse(data) {
        for family in crate::probe::Family::ALL {
            let _ = crate::probe::observe(family, &parsed, data);
        }
    }
}

#[cfg(test)]
mod replay_io;
