//! The JSON Schema of a policy file, for editors: from the same tables as the parser.
//!
//! It cannot be derived from types, because the parser reads every value with its place.

use serde_json::{Map, Value, json};

use super::parse::{BUG_WHENS, BUGS, CHECKSUMS, KERNEL, RULE, STATUSES, TOP, VERSION, VNI_MAX};
use super::{AssumeExposure, AssumeKernel, Cure, When};
use crate::kernel::BugId;
use crate::link::TunnelKind;

fn words<T>(words: &[(&str, T)]) -> Value {
    let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
    json!({ "enum": words })
}

fn one_or_more(one: &Value) -> Value {
    json!({ "anyOf": [one, { "type": "array", "minItems": 1, "items": one }] })
}

fn ranges(first: u32, last: u32) -> Value {
    let range = json!({ "type": "string", "pattern": "^[0-9]+-[0-9]+$" });
    one_or_more(
        &json!({ "anyOf": [{ "type": "integer", "minimum": first, "maximum": last }, range] }),
    )
}

/// A table with only these keys.
fn table(keys: &[&str], required: &[&str], key: impl Fn(&str) -> (&'static str, Value)) -> Value {
    let mut properties = Map::new();
    for name in keys {
        let (description, mut schema) = key(name);
        schema["description"] = description.into();
        properties.insert((*name).to_owned(), schema);
    }
    json!({ "type": "object", "required": required, "properties": properties, "additionalProperties": false })
}

fn rule_key(key: &str) -> (&'static str, Value) {
    let globs = one_or_more(&json!({ "type": "string" }));
    match key {
        "name" => ("For reports and errors.", json!({ "type": "string" })),
        "device" => ("Globs for the device's name.", globs),
        "kind" => ("Kinds of devices.", one_or_more(&words(&TunnelKind::WORDS))),
        "vni" => ("VNIs, or ranges such as \"4096-8191\".", ranges(0, VNI_MAX)),
        "dst-port" => (
            "UDP destination ports, or ranges such as \"4789-4799\".",
            ranges(1, u16::MAX.into()),
        ),
        "underlay-driver" => (
            "Globs for the driver of the device through which the packets leave.",
            globs,
        ),
        "outer-checksum" => (
            "The outer UDP checksum of its packets.",
            one_or_more(&words(&CHECKSUMS)),
        ),
        "unknown-exposure" => unknown_exposure(),
        "cure" => cure(),
        "when" => ("When the offload is turned off.", words(&When::WORDS)),
        new => panic!("the schema does not know the key {new} of [[rule]]"),
    }
}

fn kernel_key(key: &str) -> (&'static str, Value) {
    match key {
        "release" => ("A glob for uname -r.", json!({ "type": "string" })),
        "bug" => ("Which bug.", words(&BugId::WORDS)),
        "status" => ("Whether these kernels have it.", words(&STATUSES)),
        new => panic!("the schema does not know the key {new} of [[kernel]]"),
    }
}

fn unknown_exposure() -> (&'static str, Value) {
    (
        "How to treat a device whose exposure is unknown.",
        words(&AssumeExposure::WORDS),
    )
}

fn cure() -> (&'static str, Value) {
    (
        "What is done about NAT that would break the packets of a device: the offload goes off, or the packets are left untracked where that suffices.",
        words(&Cure::WORDS),
    )
}

fn top_key(key: &str) -> (&'static str, Value) {
    match key {
        "version" => (
            "The version of the format; files in policy.d may leave it out.",
            json!({ "const": VERSION }),
        ),
        "unknown-kernel" => (
            "How to treat a kernel whose status is unknown.",
            words(&AssumeKernel::WORDS),
        ),
        "unknown-exposure" => unknown_exposure(),
        "cure" => cure(),
        "give-back-after" => (
            "How long a device must be not exposed, in every look, before its offload is turned on again, such as 10min; 24h at most, or never.",
            json!({ "type": "string", "pattern": "^([0-9]+(s|min|h)|never)$" }),
        ),
        "bugs" => (
            "When a bug of the kernel is reason enough.",
            table(&BUGS, &[], |_| {
                (
                    "Only on kernels with the bug, only where NAT can also rewrite the packets, or not at all.",
                    words(&BUG_WHENS),
                )
            }),
        ),
        "rule" => (
            "The last rule that matches decides. Every key of a rule must match.",
            json!({ "type": "array", "items": table(&RULE, &["when"], rule_key) }),
        ),
        "kernel" => (
            "What this site knows better than the built-in table.",
            json!({ "type": "array", "items": table(&KERNEL, &KERNEL, kernel_key) }),
        ),
        new => panic!("the schema does not know the key {new}"),
    }
}

pub fn schema() -> Value {
    let mut schema = table(&TOP, &[], top_key);
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["$id"] = "urn:vxcsum:schema:policy:1".into();
    schema["title"] = "Policy of vxcsum".into();
    schema["description"] =
        "See vxcsum-policy(5). A schema cannot say all: `vxcsum policy check` does.".into();
    schema
}
