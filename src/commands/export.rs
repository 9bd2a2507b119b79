//! `export`.

use std::io::Write as _;

use serde::Serialize;

use super::print;
use crate::cli::{Common, Export, ExportFormat};
use crate::error::{Error, ExitCode};
use crate::export::{Target, text};
use crate::offload::discover_io::Selection;
use crate::offload::node_io::Node;
use crate::offload::report::SCHEMA_VERSION;
use crate::text::IfName;

/// The output of `export`.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Exported<'a> {
    /// See the report.
    #[cfg_attr(test, schemars(extend("const" = SCHEMA_VERSION)))]
    schema_version: u32,
    /// The program that reads the file.
    format: ExportFormat,
    /// The devices in the file.
    devices: Vec<&'a str>,
    /// The devices are examples, because this machine has no VXLAN or Geneve device.
    examples: bool,
    /// The content of the file.
    text: &'a str,
}

/// The names in the file if this machine has no device and the user names none.
const EXAMPLES: [&str; 2] = ["flannel.1", "vxlan.calico"];

pub fn run(common: &Common, args: &Export) -> Result<ExitCode, Error> {
    let mut node = Node::open(common.into())?;
    let facts = node.look_at_all(Selection::All)?;
    let here = |name: &IfName| facts.devices.iter().find(|d| d.link.name == *name);
    let mut names: Vec<IfName> = args.devices.clone();
    if names.is_empty() {
        names.extend(facts.devices.iter().map(|device| device.link.name));
    }
    let examples = names.is_empty();
    if examples {
        names.extend(
            EXAMPLES
                .iter()
                .filter_map(|name| IfName::new(name.as_bytes())),
        );
    }
    let target = |name: &IfName| {
        let target = match here(name) {
            Some(device) => Target::of(device),
            // The file is for another machine.
            None => Target::named(name),
        };
        target.ok_or_else(|| {
            Error::Device(format!(
                "export for {name}: its name has characters that mean something else in such a file; name the other devices"
            ))
        })
    };
    // Devices that the user did not name may be left out, as long as one remains.
    let may_be_left_out = args.devices.is_empty() && names.iter().any(|name| target(name).is_ok());
    let (mut targets, mut left_out) = (Vec::new(), Vec::new());
    for name in &names {
        match target(name) {
            Err(_) if may_be_left_out => left_out.push(name.to_string()),
            target => targets.push(target?),
        }
    }
    let text = text(args.format, &targets, &left_out, examples);
    let exported = Exported {
        schema_version: SCHEMA_VERSION,
        format: args.format,
        devices: targets.iter().map(|target| target.name.as_str()).collect(),
        examples,
        text: &text,
    };
    print(common, &exported, |out, _| out.write_all(text.as_bytes()))?;
    Ok(ExitCode::Ok)
}
