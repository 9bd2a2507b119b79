//! `policy check` and `policy show`.

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use super::print;
use crate::cli::Common;
use crate::error::{Error, ExitCode};
use crate::offload::node_io::load_policy;
use crate::offload::report::SCHEMA_VERSION;
use crate::text::escape;

/// The output of `policy check` for a valid policy.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct PolicyChecked<'a> {
    /// See the report.
    #[cfg_attr(test, schemars(extend("const" = SCHEMA_VERSION)))]
    schema_version: u32,
    /// Always true: an invalid policy is an error.
    #[cfg_attr(test, schemars(extend("const" = true)))]
    valid: bool,
    /// The files that were read, in order.
    files: &'a [String],
    /// Files in a policy.d that are ignored, because their names do not end in .toml.
    ignored: &'a [String],
    /// The number of rules.
    rules: usize,
    /// The number of entries for kernels.
    kernels: usize,
}

/// The output of `policy show`.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct PolicyShown<'a> {
    /// See the report.
    #[cfg_attr(test, schemars(extend("const" = SCHEMA_VERSION)))]
    schema_version: u32,
    /// The files that were read, in order.
    files: &'a [String],
    /// The merged policy as one TOML file.
    toml: &'a str,
}

pub fn check(common: &Common, file: Option<&Path>) -> Result<ExitCode, Error> {
    let common = Common {
        policy: file.map(Path::to_owned).or(common.policy.clone()),
        ..common.clone()
    };
    let policy = load_policy(&common.root, common.policy.as_deref())?;
    let read = if policy.files.is_empty() {
        vec!["built-in".to_owned()]
    } else {
        policy.files.clone()
    };
    let summary = PolicyChecked {
        schema_version: SCHEMA_VERSION,
        valid: true,
        files: &read,
        ignored: &policy.ignored,
        rules: policy.rules.len(),
        kernels: policy.kernels.len(),
    };
    print(&common, &summary, |out, _| {
        let read: Vec<_> = read.iter().map(|path| escape(path.as_bytes())).collect();
        let count =
            |n: usize, one: &str, more: &str| format!("{n} {}", if n == 1 { one } else { more });
        let rules = count(policy.rules.len(), "rule", "rules");
        let kernels = count(policy.kernels.len(), "kernel entry", "kernel entries");
        writeln!(out, "valid: {}: {rules}, {kernels}", read.join(", "))?;
        for path in &policy.ignored {
            let path = escape(path.as_bytes());
            writeln!(out, "ignored: {path}: only names in *.toml are read")?;
        }
        Ok(())
    })?;
    Ok(ExitCode::Ok)
}

pub fn show(common: &Common) -> Result<ExitCode, Error> {
    let policy = load_policy(&common.root, common.policy.as_deref())?;
    let toml = policy.show();
    let shown = PolicyShown {
        schema_version: SCHEMA_VERSION,
        files: &policy.files,
        toml: &toml,
    };
    print(common, &shown, |out, _| out.write_all(toml.as_bytes()))?;
    Ok(ExitCode::Ok)
}
