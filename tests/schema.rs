//! The JSON Schemas that ship fit what vxcsum prints and accepts, and name exactly the codes that the types have.
//!
//! The checker below knows the keywords that the schemas use and fails on any other, so that none is silently left unchecked.

mod common;
mod source;

use std::fs;

use serde_json::{Value, json};
use source::read;
use vxcsum::kernel::{Basis, BugId, EvidenceSource, Status, Why};
use vxcsum::link::OuterChecksum;
use vxcsum::offload::plan::{Action, ReasonCode};
use vxcsum::offload::report::Outcome;
use vxcsum::policy::When;
use vxcsum::probe::{CaseNat, Cause};

fn schema(name: &str) -> Value {
    let text = read(&format!("packaging/schema/{name}.schema.json"));
    serde_json::from_str(&text).expect("the schema is JSON")
}

/// What is wrong with a value. `strict`: a property that the schema does not name is wrong even where the schema allows it:
/// what vxcsum prints is documented.
fn errors(root: &Value, schema: &Value, value: &Value, at: &str, strict: bool) -> Vec<String> {
    let mut found = Vec::new();
    let mut wrong = |what: String| found.push(format!("{at}: {what}"));
    let mut inner = Vec::new();
    for (keyword, wanted) in schema.as_object().expect("a schema is an object") {
        let many = || wanted.as_array().expect("a list").iter();
        match keyword.as_str() {
            "$ref" => {
                let pointer = wanted.as_str().and_then(|to| to.strip_prefix('#'));
                let target = pointer.and_then(|to| root.pointer(to));
                let target = target.unwrap_or_else(|| panic!("{wanted} leads nowhere"));
                inner.extend(errors(root, target, value, at, strict));
            }
            "anyOf" => {
                let all: Vec<_> = many()
                    .map(|one| errors(root, one, value, at, strict))
                    .collect();
                if all.iter().all(|errors| !errors.is_empty()) {
                    inner.extend(all.into_iter().flatten());
                }
            }
            "type" if !is_of(value, wanted) => wrong(format!("{value} is not of type {wanted}")),
            "enum" if !many().any(|one| one == value) => {
                wrong(format!("{value} is none of {wanted}"));
            }
            "const" if wanted != value => wrong(format!("{value} is not {wanted}")),
            "minimum" if value.as_u64().is_some_and(|n| n < wanted.as_u64().unwrap()) => {
                wrong(format!("{value} is below {wanted}"));
            }
            "maximum" if value.as_u64().is_some_and(|n| n > wanted.as_u64().unwrap()) => {
                wrong(format!("{value} is above {wanted}"));
            }
            "minItems"
                if value
                    .as_array()
                    .is_some_and(|all| (all.len() as u64) < wanted.as_u64().unwrap()) =>
            {
                wrong(format!("fewer than {wanted} items"));
            }
            "maxItems"
                if value
                    .as_array()
                    .is_some_and(|all| all.len() as u64 > wanted.as_u64().unwrap()) =>
            {
                wrong(format!("more than {wanted} items"));
            }
            "items" => {
                for (n, item) in value.as_array().into_iter().flatten().enumerate() {
                    inner.extend(errors(root, wanted, item, &format!("{at}/{n}"), strict));
                }
            }
            "required" => {
                if let Some(object) = value.as_object() {
                    for key in many().filter_map(Value::as_str) {
                        if !object.contains_key(key) {
                            wrong(format!("{key} is missing"));
                        }
                    }
                }
            }
            "properties" => {
                let closed = strict || schema.get("additionalProperties") == Some(&json!(false));
                for (key, item) in value.as_object().into_iter().flatten() {
                    match wanted.get(key) {
                        Some(schema) => {
                            inner.extend(errors(
                                root,
                                schema,
                                item,
                                &format!("{at}/{key}"),
                                strict,
                            ));
                        }
                        None if closed => wrong(format!("{key} is not in the schema")),
                        None => {}
                    }
                }
            }
            "additionalProperties" => assert_eq!(wanted, false),
            // Met, or only there to be read.
            "type" | "enum" | "const" | "minimum" | "maximum" | "minItems" | "maxItems"
            | "$schema" | "$defs" | "title" | "description" => {}
            other => panic!("{at}: the checker does not know {other}"),
        }
    }
    found.extend(inner);
    found
}

fn is_of(value: &Value, types: &Value) -> bool {
    let is = |name: &Value| match name.as_str().expect("a type") {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("unknown type {other}"),
    };
    types
        .as_array()
        .map_or_else(|| is(types), |types| types.iter().any(is))
}

#[test]
fn committed_reports_fit() {
    let schema = schema("report");
    let mut seen = 0;
    for entry in fs::read_dir(source::root().join("tests/fixtures")).expect("fixtures") {
        let path = entry.expect("an entry").path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            let text = fs::read_to_string(&path).expect("a fixture");
            let mut value: Value = serde_json::from_str(&text).expect("a fixture is JSON");
            // Written as 0, because it is another in every run.
            let devices = value.pointer_mut("/devices").and_then(Value::as_array_mut);
            for device in devices.into_iter().flatten() {
                device["ifindex"] = json!(1);
            }
            let none: [String; 0] = [];
            assert_eq!(
                errors(&schema, &schema, &value, "", true),
                none,
                "{}",
                path.display()
            );
            seen += 1;
        }
    }
    assert!(seen >= 5, "only {seen} fixtures were found");
}

#[test]
fn what_it_prints_fits() {
    let schema = schema("report");
    let kernel = [
        "explain",
        "--kernel",
        "4.18.0-147.5.1.el8_1.x86_64",
        "--json",
    ];
    let usage = ["apply", "--device", "a/b", "--json"];
    let policy = ["status", "--json", "--policy", "/does/not/exist"];
    let check = ["policy", "check", "packaging/policy.toml", "--json"];
    let show = [
        "policy",
        "show",
        "--policy",
        "packaging/policy.toml",
        "--json",
    ];
    for args in [&kernel[..], &usage, &policy, &check, &show] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_vxcsum"))
            .args(args)
            .current_dir(source::root())
            .output()
            .expect("vxcsum runs");
        let value = serde_json::from_slice(&output.stdout).expect("vxcsum prints JSON");
        let none: [String; 0] = [];
        assert_eq!(errors(&schema, &schema, &value, "", true), none, "{args:?}");
    }
}

#[test]
fn what_doctor_prints_fits() {
    let schema = schema("report");
    let netns = common::Netns::with_three();
    let value = netns.vxcsum("doctor --watch 1 --json").json();
    let none: [String; 0] = [];
    assert_eq!(errors(&schema, &schema, &value, "", true), none);
    assert_eq!(value["defence"].as_array().expect("a list").len(), 3);
}

#[test]
fn a_stored_run_of_the_probe_fits() {
    let schema = schema("report");
    let run: Value =
        serde_json::from_str(&read("tests/cases/probe-6.18.44.json")).expect("a run is JSON");
    let none: [String; 0] = [];
    assert_eq!(errors(&schema, &schema, &run, "", true), none);
    for (pointer, bad) in [
        ("/results/0/id", json!("nat-more-csum")),
        ("/results/1/outcome", json!("maybe")),
        ("/cases/0/observed", json!({})),
        ("/cases/0/inner", json!("sctp")),
        ("/elapsed_us", json!("1")),
    ] {
        let mut wrong = run.clone();
        *wrong.pointer_mut(pointer).expect(pointer) = bad;
        assert_ne!(
            errors(&schema, &schema, &wrong, "", false).len(),
            0,
            "{pointer}"
        );
    }
}

#[test]
fn a_report_that_does_not_fit_is_found() {
    let schema = schema("report");
    let text = read("tests/fixtures/status.json");
    let good: Value = serde_json::from_str(&text).expect("JSON");
    for (pointer, bad) in [
        ("/schema_version", json!(2)),
        ("/backend", json!("ioctl")),
        ("/dry_run", json!(null)),
        ("/kernel/bugs", json!([])),
        ("/devices/0/ifindex", json!(0)),
        ("/devices/0/action", json!("turnoff")),
        ("/devices/0/reason/code", json!("because")),
        ("/devices/0/feature", json!({"hw": true})),
        ("/devices/0/error", json!({"text": "no operation"})),
        ("/devices/0/vni", json!(1 << 24)),
    ] {
        let mut value = good.clone();
        *value
            .pointer_mut(pointer)
            .unwrap_or_else(|| panic!("no {pointer}")) = bad;
        assert_ne!(
            errors(&schema, &schema, &value, "", false).len(),
            0,
            "{pointer}"
        );
    }
}

/// The codes of an enum.
fn all<const N: usize, T>(words: [(&'static str, T); N]) -> Vec<&'static str> {
    words.into_iter().map(|(code, _)| code).collect()
}

/// Every list of codes in the schema is that of a type.
#[test]
fn the_codes_are_those_of_the_types() {
    let schema = schema("report");
    let device = "/$defs/device/properties";
    let evidence = "/$defs/evidence/properties";
    for (pointer, codes) in [
        ("/$defs/bug_id".to_owned(), all(BugId::WORDS)),
        ("/$defs/status".to_owned(), all(Status::WORDS)),
        ("/$defs/bug/properties/why".to_owned(), all(Why::WORDS)),
        (format!("{evidence}/mark"), all(Basis::WORDS)),
        (format!("{evidence}/source"), all(EvidenceSource::WORDS)),
        (
            format!("{device}/outer_checksum"),
            all(OuterChecksum::WORDS),
        ),
        (format!("{device}/action"), all(Action::WORDS)),
        (format!("{device}/outcome"), all(Outcome::WORDS)),
        ("/$defs/reason_code".to_owned(), all(ReasonCode::WORDS)),
        (
            "/$defs/probe_cause/properties/code".to_owned(),
            all(Cause::WORDS),
        ),
        (
            "/$defs/probe_case/properties/nat".to_owned(),
            all(CaseNat::WORDS),
        ),
        ("/$defs/rule/properties/when".to_owned(), all(When::WORDS)),
    ] {
        let listed = schema.pointer(&pointer).and_then(|at| at.get("enum"));
        let listed: Vec<_> = listed
            .and_then(Value::as_array)
            .unwrap_or_else(|| panic!("no enum at {pointer}"))
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert_eq!(listed, codes, "{pointer}");
    }
}

#[test]
fn policies_fit_as_vxcsum_accepts_them() {
    let schema = schema("policy");
    let example = read("packaging/policy.toml").replace("# [[rule]]", "[[rule]]");
    // The example in the comments of the default policy, taken out of them.
    let (head, rule) = example
        .split_once("[[rule]]")
        .expect("the default policy has an example");
    let example = format!("{head}[[rule]]{}", rule.replace("\n# ", "\n"));
    let kernel = "version = 1\n[[kernel]]\nrelease = \"5.3.*\"\nbug = \"nat-zero-csum\"\nstatus = \"fixed\"\n";
    for (text, good) in [
        (read("packaging/policy.toml").as_str(), true),
        (example.as_str(), true),
        (kernel, true),
        ("version = 1\n[[rule]]\nvni = 7\nwhen = \"never\"\n", true),
        (
            "version = 1\n[[rule]]\ndevice = \"flannel.*\"\nwhen = \"always\"\n",
            true,
        ),
        ("version = 2\n", false),
        ("version = 1\nunknown = 1\n", false),
        ("version = 1\nunknown-kernel = \"maybe\"\n", false),
        ("version = 1\n[bugs]\nnat-lco-csum = \"always\"\n", false),
        ("version = 1\n[[rule]]\ndevice = [\"a\"]\n", false),
        (
            "version = 1\n[[rule]]\ndevice = []\nwhen = \"never\"\n",
            false,
        ),
        (
            "version = 1\n[[rule]]\nvni = [16777216]\nwhen = \"never\"\n",
            false,
        ),
        ("version = 1\n[[kernel]]\nrelease = \"5.3.*\"\n", false),
    ] {
        let accepted = vxcsum::policy::parse("x", vxcsum::policy::Kind::Main, text.as_bytes());
        assert_eq!(accepted.is_ok(), good, "vxcsum on {text}");
        let value: Value = toml::from_str(text).expect("TOML");
        let errors = errors(&schema, &schema, &value, "", false);
        assert_eq!(errors.is_empty(), good, "the schema on {text}: {errors:?}");
    }
}
