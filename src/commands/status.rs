//! `status`.

use super::{print, selection};
use crate::cli::{Common, Status};
use crate::error::{Error, ExitCode};
use crate::offload::node_io::Node;
use crate::offload::report::Report;
use crate::output;

pub fn run(common: &Common, args: &Status) -> Result<ExitCode, Error> {
    let mut node = Node::open(common.into())?;
    let facts = node.look(selection(&args.devices))?;
    let plan = node.plan(&facts);
    let report = Report::planned(&plan, node.kernel_report(), Some(node.backend()));
    print(common, &report, |out, color| {
        output::status(out, &report, color)
    })?;
    Ok(report.exit_code(args.exit_code))
}
