//! Writes the shipped JSON Schemas from the types.
//!
//! `VXCSUM_BLESS=1 cargo test --lib schema` writes them. Without the variable, the test fails if they differ from the
//! types.

use std::fs;
use std::path::Path;

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde_json::Value;

use super::export::Exported;
use super::policy::{PolicyChecked, PolicyShown};
use crate::doctor::Diagnosis;
use crate::offload::report::Report;
use crate::output::{ErrorObject, Explanation, NodeSummary};
use crate::probe::ProbeRun;

/// The output of `vxcsum --json`: `Report` for status, apply, revert, watch (one on each line) and `explain` without a
/// device, and another part for each other verb. `schema_version` is increased if a field changes its meaning or is
/// removed. New fields and codes can appear at any time.
#[derive(JsonSchema)]
#[schemars(untagged, title = "Output of vxcsum", extend("$id" = "urn:vxcsum:schema:report:1"))]
#[allow(
    dead_code,
    clippy::large_enum_variant,
    reason = "only its schema is used"
)]
enum Output {
    Report(Report<'static>),
    Explanation(Explanation<'static>),
    Nodes(NodeSummary),
    Diagnosis(Diagnosis<'static>),
    Probe(ProbeRun),
    Exported(Exported<'static>),
    PolicyChecked(PolicyChecked<'static>),
    PolicyShown(PolicyShown<'static>),
    Error(ErrorObject<'static>),
}

/// Removes what readers of JSON do not need: the line breaks and links of comments, the widths of integers, and that
/// vxcsum itself accepts no other keys.
fn tidy(schema: &mut Schema) {
    schema.remove("format");
    schema.remove("additionalProperties");
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = text
            .replace('\n', " ")
            .replace("[`", "`")
            .replace("`]", "`");
    }
}

fn committed(name: &str, schema: &impl Serialize) {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("packaging/schema/{name}.schema.json"));
    let text = serde_json::to_string_pretty(schema).expect("a schema is JSON") + "\n";
    if std::env::var_os("VXCSUM_BLESS").is_some() {
        fs::write(&path, &text).expect("write the schema");
    }
    assert!(
        fs::read_to_string(&path).expect("a schema") == text,
        "{name}.schema.json is not what the types say: VXCSUM_BLESS=1 cargo test --lib schema"
    );
}

#[test]
fn the_schemas_match_the_types() {
    let settings = SchemaSettings::draft2020_12()
        .for_serialize()
        .with_transform(RecursiveTransform(tidy));
    let output = settings.into_generator().into_root_schema_for::<Output>();
    committed("report", &output);
    committed("policy", &crate::policy::schema::schema());
}
