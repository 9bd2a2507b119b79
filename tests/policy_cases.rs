//! The policy compared with its case files, and with properties that hold for any policy.

use std::collections::BTreeSet;
use std::path::Path;

use proptest::prelude::*;
use serde::Deserialize;
use vxcsum::kernel::BugId;
use vxcsum::link::{OuterChecksum, TunnelKind};
use vxcsum::policy::{
    BUILT_IN, Fragment, Kind, Policy, PolicyError, PolicyErrors, Subject, merge, parse,
};
use vxcsum::text::IfName;

/// `tests/cases/policy/*.toml`: policy files and the expected result.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Case {
    file: Vec<File>,
    /// Devices, and the rule that decides about each.
    #[serde(default)]
    device: Vec<Device>,
    /// The output of `vxcsum policy show`.
    show: Option<String>,
    /// The output for an invalid policy.
    errors: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// A drop-in if the name begins with `policy.d/`.
    name: String,
    text: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Device {
    name: String,
    kind: Option<String>,
    vni: Option<u32>,
    dst_port: Option<u16>,
    underlay_driver: Option<String>,
    outer_checksum: String,
    /// `None` if `[bugs]` decides.
    rule: Option<String>,
    /// Why the rules do not match, in order.
    #[serde(default)]
    misses: Vec<String>,
}

fn read(files: &[File]) -> Result<Policy, Vec<PolicyError>> {
    let mut fragments = Vec::new();
    let mut errors = Vec::new();
    for file in files {
        let kind = if file.name.starts_with("policy.d/") {
            Kind::DropIn
        } else {
            Kind::Main
        };
        match parse(&file.name, kind, file.text.as_bytes()) {
            Ok(fragment) => fragments.push(fragment),
            Err(found) => errors.extend(found),
        }
    }
    if errors.is_empty() {
        Ok(merge(fragments))
    } else {
        Err(errors)
    }
}

impl Device {
    fn check(&self, policy: &Policy, case: &str) {
        let name = IfName::new(self.name.as_bytes()).expect("a legal name");
        let subject = Subject {
            name: &name,
            kind: match self.kind.as_deref() {
                None => TunnelKind::Vxlan,
                Some("geneve") => TunnelKind::Geneve,
                Some(other) => panic!("{case}: kind {other}"),
            },
            vni: self.vni,
            dst_port: self.dst_port,
            underlay_driver: self.underlay_driver.as_deref(),
            outer_checksum: match self.outer_checksum.as_str() {
                "present" => OuterChecksum::Present,
                "zero" => OuterChecksum::Zero,
                "external" => OuterChecksum::External,
                "unknown" => OuterChecksum::Unknown,
                other => panic!("{case}: outer-checksum {other}"),
            },
        };
        let decided = policy.deciding_rule(&subject).map(|rule| &rule.name);
        assert_eq!(decided, self.rule.as_ref(), "{case}: {}", self.name);
        let misses: Vec<_> = policy
            .consider(&subject)
            .iter()
            .filter_map(|considered| considered.miss.as_ref())
            .map(ToString::to_string)
            .collect();
        assert_eq!(misses, self.misses, "{case}: {}", self.name);
    }
}

#[test]
fn case_files() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/policy");
    let mut ran = 0;
    let mut failed = Vec::new();
    let paths = std::fs::read_dir(directory).expect("the case directory");
    let paths: BTreeSet<_> = paths.map(|entry| entry.expect("an entry").path()).collect();
    for path in paths {
        let case = path.file_name().expect("a name").to_string_lossy();
        let text = std::fs::read_to_string(&path).expect("a readable case");
        let expected: Case = toml::from_str(&text).unwrap_or_else(|e| panic!("{case}: {e}"));
        assert!(
            expected.errors.is_some() || expected.show.is_some() || !expected.device.is_empty(),
            "{case} expects nothing"
        );
        let (policy, errors) = match read(&expected.file) {
            Ok(policy) => (Some(policy), None),
            Err(errors) => (
                None,
                PolicyErrors::new(errors).map(|e| e.render(false) + "\n"),
            ),
        };
        let show = expected.show.as_ref();
        let shown = show.and(policy.as_ref()).map(Policy::show);
        if errors != expected.errors || shown.as_ref() != show {
            let actual = errors.or(shown).unwrap_or_default();
            failed.push(format!("{case}, which gives:\n{actual}"));
        } else if let Some(policy) = &policy {
            for device in &expected.device {
                device.check(policy, &case);
            }
        }
        ran += 1;
    }
    assert!(failed.is_empty(), "failed: {}", failed.join("\n"));
    assert_eq!(ran, CASES, "case files that ran");
}

/// The test notices a lost case.
const CASES: usize = 24;

#[test]
fn the_shipped_file_is_the_built_in_default() {
    let text = include_bytes!("../packaging/policy.toml");
    let shipped = merge(vec![parse("F", Kind::Main, text).unwrap()]);
    let built_in = Policy::built_in();
    assert_eq!(values(&shipped), values(&built_in));
    assert_eq!(built_in.unknown_kernel.origin, BUILT_IN);
    assert_eq!(shipped.unknown_kernel.origin, "F:4");
}

/// The example in the shipped policy file is a working rule.
#[test]
fn the_shipped_example_is_valid() {
    let text = include_str!("../packaging/policy.toml");
    let (head, example) = text.split_once("# [[rule]]").expect("an example");
    let text = format!("{head}[[rule]]{}", example.replace("\n# ", "\n"));
    let policy = merge(vec![parse("F", Kind::Main, text.as_bytes()).unwrap()]);
    assert_eq!(policy.rules.len(), 1);
    assert_eq!(policy.rules[0].name, "vmxnet3 underlay");
}

/// The whole policy as text, except origins and files.
fn values(policy: &Policy) -> String {
    let show = policy.show();
    let lines = show.lines().map(|line| {
        let comment = line.rfind("  # ").filter(|_| !line.starts_with("name = "));
        comment.map_or(line, |at| &line[..at])
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn hostile_files_end_in_an_error_soon() {
    let many = |n: usize, line: fn(usize) -> String| (0..n).map(line).collect::<String>();
    let rows = [
        (
            "arrays",
            format!("version = 1\na = {}", "[".repeat(100_000)),
            "nested too deeply",
        ),
        (
            "array headers",
            "[".repeat(100_000),
            "unquoted keys cannot be empty",
        ),
        (
            "inline tables",
            format!("a = {}", "{a=".repeat(100_000)),
            "nested too deeply",
        ),
        (
            "dotted keys",
            format!("{}a = 1", "a.".repeat(100_000)),
            "nested too deeply",
        ),
        (
            "dotted headers",
            format!("[{}a]", "a.".repeat(100_000)),
            "nested too deeply",
        ),
        (
            "control characters",
            "\x1b\n".repeat(100_000),
            "key with no value",
        ),
        (
            "keys",
            many(50_000, |n| format!("k{n} = 1\n")),
            "the key `version` is missing",
        ),
        (
            "a long line",
            format!("a = \"{}\" b", "é".repeat(400_000)),
            "unexpected key or value",
        ),
        (
            "a long glob",
            format!(
                "version = 1\nrule = [{{when = \"never\", device = \"[{}]\"}}]",
                "a".repeat(500_000)
            ),
            "the glob for `device` is longer than 255 bytes",
        ),
        (
            "a long word",
            format!("version = 1\nunknown-kernel = \"{}\"", "a".repeat(900_000)),
            "`unknown-kernel` cannot be \"aaaaaa",
        ),
    ];
    for (what, text, message) in rows {
        let errors = parse("F", Kind::Main, text.as_bytes()).expect_err(what);
        let rendered = errors.render(false);
        let first = errors.items().next().unwrap();
        assert!(
            first.message.starts_with(message),
            "{what}: {}",
            first.message
        );
        assert!(
            first.line.is_some() && errors.items().count() <= 21,
            "{what}"
        );
        assert!(rendered.len() < 20_000, "{what}: {} bytes", rendered.len());
    }
}

#[test]
fn bytes_that_are_not_text_are_placed_and_never_printed() {
    let errors = parse(
        "F\x1b",
        Kind::Main,
        b"version = 1\nx = \"\xc3\xa9\xff\x1b[31m\"\n",
    )
    .unwrap_err();
    let error = errors.items().next().unwrap();
    assert_eq!((error.line, error.column), (Some(2), Some(7)));
    assert_eq!(error.message, "the byte 0xff is not UTF-8 text");
    assert_eq!(error.file, r"F\x1b");
    assert!(errors.render(false).contains("x = \"é\u{fffd}␛[31m\""));
    assert_eq!(
        serde_json::to_string(error).unwrap(),
        r#"{"file":"F\\x1b","line":2,"column":7,"message":"the byte 0xff is not UTF-8 text","help":"a policy is a TOML file in UTF-8"}"#
    );
}

#[test]
fn colour_only_when_asked_for() {
    let errors = parse("F", Kind::Main, b"x = 1").unwrap_err();
    assert!(!errors.render(false).contains('\x1b'));
    assert!(errors.render(true).contains("\x1b["));
}

/// A valid policy file.
fn valid() -> impl Strategy<Value = String> {
    let word = |words: &'static [&'static str]| prop::sample::select(words);
    let whens = word(&["always", "affected", "exposed", "never"]);
    let bug_whens = word(&["affected", "exposed", "never"]);
    let key = prop_oneof![
        word(&["a", "b", "*", "[ab]", "a*", "?"])
            .prop_map(|g| format!("device = [\"{g}\", 'x\\y']\n")),
        (0_u32..9, 0_u32..9).prop_map(|(a, b)| format!("vni = [{a}, \"{a}-{}\"]\n", a + b)),
        word(&["\"geneve\"", "[\"vxlan\", \"geneve\"]"]).prop_map(|k| format!("kind = {k}\n")),
        (1_u16..9).prop_map(|p| format!("dst-port = {p}\n")),
        word(&["vmxnet3", "v*"]).prop_map(|d| format!("underlay-driver = \"{d}\"\n")),
        word(&["\"zero\"", "[\"zero\", \"present\"]"])
            .prop_map(|c| format!("outer-checksum = {c}\n")),
        word(&["offload", "notrack"]).prop_map(|c| format!("cure = \"{c}\"\n")),
        word(&["a", "é \\\" \\\\ # b", "rule 9"]).prop_map(|n| format!("name = \"{n}\"\n")),
    ];
    let name = |key: &String| key.split(' ').next().map(str::to_owned);
    let keys = prop::collection::vec(key, 0..5).prop_map(move |mut keys| {
        keys.sort_by_key(name);
        keys.dedup_by_key(|key| name(key));
        keys.concat()
    });
    let rule =
        (keys, whens).prop_map(|(keys, when)| format!("[[rule]]\n{keys}when = \"{when}\"\n"));
    let kernel =
        (word(&["5.*", "6.1"]), word(&["affected", "fixed"])).prop_map(|(release, status)| {
            format!(
                "[[kernel]]\nrelease = '{release}'\nbug = 'nat-lco-csum'\nstatus = '{status}'\n"
            )
        });
    let bugs = BugId::ALL.map(|_| prop::option::of(bug_whens.clone()));
    let bugs = bugs.prop_map(|whens| {
        let lines = BugId::ALL.iter().zip(whens);
        let lines = lines.filter_map(|(id, when)| Some(format!("{} = '{}'\n", id.as_str(), when?)));
        format!("[bugs]\n{}", lines.collect::<String>())
    });
    let unknown = prop::option::of(word(&["affected", "fixed"]));
    let entries = prop::collection::vec(prop_oneof![3 => rule, 1 => kernel], 0..5);
    (unknown, bugs, entries).prop_map(|(unknown, bugs, entries)| {
        let unknown = unknown.map(|u| format!("unknown-kernel = '{u}'\n"));
        format!(
            "version = 1\n{}{bugs}{}",
            unknown.unwrap_or_default(),
            entries.concat()
        )
    })
}

fn fragment(text: &str) -> Fragment {
    parse("F", Kind::Main, text.as_bytes()).unwrap_or_else(|e| panic!("{text}\n{e}"))
}

/// Pieces of policies, which reach deeper into a parser than random bytes.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let pieces: &[&[u8]] = &[
        b"version = 1\n",
        b"version",
        b"[bugs]\n",
        b"[[rule]]\n",
        b"[[kernel]]\n",
        b"rule",
        b"bugs",
        b"kernel",
        b"vni = ",
        b"dst-port = ",
        b"when = ",
        b"device = ",
        b"name = ",
        b"release = ",
        b"status = ",
        b"bug = ",
        b"unknown-kernel = ",
        b"outer-checksum = ",
        b"kind = ",
        b"\"geneve\"",
        b"\"affected\"",
        b"'a-b'",
        b"\"1-2\"",
        b"-1",
        b"0x10",
        b"1.5",
        b"99999999999999999999999999999999999999999",
        b"[",
        b"]",
        b"{",
        b"}",
        b"=",
        b",",
        b".",
        b"\n",
        b"\r\n",
        b" ",
        b"\t",
        b"#",
        b"\"",
        b"'''",
        b"\\",
        b"\xff",
        b"\xc3\xa9",
        b"\x1b",
        b"\xe2\x80\xae",
        b"\0",
        b"\xef\xbb\xbf",
        b"\"[\\u0000]\"",
        b"\"*[!-~]\"",
        b"1979-05-27",
        b"true",
    ];
    let piece = prop::sample::select(pieces);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn never_panics_and_never_prints_raw(bytes: &[u8]) {
    for kind in [Kind::Main, Kind::DropIn] {
        match parse("F", kind, bytes) {
            Ok(fragment) => drop(merge(vec![fragment]).show()),
            Err(errors) => {
                let text = errors.render(false);
                let raw = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
                assert!(!text.contains(raw), "{text:?}");
                assert!(errors.items().all(|e| e.line.is_none_or(|line| line >= 1)));
            }
        }
    }
}

proptest! {
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        never_panics_and_never_prints_raw(&bytes);
    }

    #[test]
    fn any_pieces(bytes in soup()) {
        never_panics_and_never_prints_raw(&bytes);
    }

    #[test]
    fn show_parses_back(texts in prop::collection::vec(valid(), 0..4)) {
        let policy = merge(texts.iter().map(|text| fragment(text)).collect());
        let again = merge(vec![fragment(&policy.show())]);
        prop_assert_eq!(values(&policy), values(&again));
        prop_assert_eq!(policy.rules.len(), again.rules.len());
    }

    #[test]
    fn merging_is_associative(a in valid(), b in valid(), c in valid()) {
        let [a, b, c] = [a, b, c].map(|text| fragment(&text));
        let left = a.clone().then(b.clone()).then(c.clone());
        let right = a.clone().then(b.clone().then(c.clone()));
        prop_assert_eq!(&left, &right);
        prop_assert_eq!(merge(vec![left]), merge(vec![a, b, c]));
    }

    #[test]
    fn the_last_matching_rule_wins(
        texts in prop::collection::vec(valid(), 1..4),
        name in prop::sample::select(&[b"a", b"b", b"c"][..]),
        vni in prop::option::of(0_u32..12),
        dst_port in prop::option::of(1_u16..9),
        underlay_driver in prop::option::of(prop::sample::select(&["vmxnet3", "virtio_net"][..])),
    ) {
        let policy = merge(texts.iter().map(|text| fragment(text)).collect());
        let name = IfName::new(name).unwrap();
        for outer_checksum in [OuterChecksum::Present, OuterChecksum::Zero, OuterChecksum::External] {
            let subject = Subject { name: &name, kind: TunnelKind::Vxlan, vni, dst_port, underlay_driver, outer_checksum };
            let mut last = None;
            for (rule, considered) in policy.rules.iter().zip(policy.consider(&subject)) {
                prop_assert_eq!(rule, considered.rule);
                prop_assert_eq!(considered.miss.is_none(), rule.matches(&subject));
                if rule.matches(&subject) {
                    last = Some(rule);
                }
            }
            prop_assert_eq!(policy.deciding_rule(&subject), last);
        }
    }
}
