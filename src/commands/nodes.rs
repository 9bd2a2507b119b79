//! `explain --nodes`.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use super::print;
use crate::cli::Common;
use crate::error::{Error, ExitCode};
use crate::fault::describe_io;
use crate::kernel::Measurements;
use crate::kernel::nodes::{Nodes, groups};
use crate::kernel::verdict::judge;
use crate::offload::node_io::load_policy;
use crate::output::{self, NodeSummary};

pub fn run(common: &Common, file: &Path) -> Result<ExitCode, Error> {
    let policy = load_policy(&common.root, common.policy.as_deref())?;
    let stdin = file == Path::new("-");
    let read = if stdin {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        fs::read(file)
    };
    let name = if stdin {
        "standard input".to_owned()
    } else {
        crate::text::escape(file.as_os_str().as_encoded_bytes())
    };
    let bytes = read.map_err(|e| Error::Io(format!("read {name}: {}", describe_io(&e))))?;
    let found = Nodes::parse(&String::from_utf8_lossy(&bytes))
        .map_err(|e| Error::Io(format!("read the nodes of {name}: {e}")))?;
    // A measurement on this machine says nothing about other machines.
    let kernels = groups(&found.nodes, |facts| {
        judge(facts, &policy.kernels, &Measurements::default())
    });
    let summary = NodeSummary::new(kernels, found.other_systems);
    print(common, &summary, |out, color| {
        output::nodes(out, &summary, color)
    })?;
    Ok(ExitCode::Ok)
}
