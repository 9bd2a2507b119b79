//! `status`.

use std::path::Path;

use super::{complete, print, print_document, selection};
use crate::cli::{Common, Format, StatusArgs};
use crate::error::{Error, ExitCode};
use crate::offload::health::NodeState;
use crate::offload::node_io::Node;
use crate::offload::report::Report;
use crate::output;
use crate::watch::metrics;

pub fn run(common: &Common, args: &StatusArgs) -> Result<ExitCode, Error> {
    let done = look(common, args);
    match (done, args.format) {
        (Err(e), Some(Format::Npd)) => {
            let line = output::npd_unknown(&e.to_string());
            emit(args.output.as_deref(), &format!("{line}\n"))?;
            // node-problem-detector reads 2 as `unknown`.
            Ok(ExitCode::Pending)
        }
        (done, _) => done,
    }
}

fn look(common: &Common, args: &StatusArgs) -> Result<ExitCode, Error> {
    let mut node = Node::open(common.into())?;
    let facts = node.look(selection(&args.devices))?;
    let plan = node.plan(&facts);
    let mut report = Report::planned(&plan, node.kernel_report(), Some(node.backend()));
    complete(&node, &mut report);
    match args.format {
        None => print(common, &report, |out, color| {
            output::status(out, &report, color)
        })?,
        Some(Format::Prometheus) => {
            let text = metrics::text(&report, &plan);
            emit(args.output.as_deref(), &text)?;
        }
        Some(Format::Npd) => {
            let (line, code) = output::npd(&report);
            emit(args.output.as_deref(), &format!("{line}\n"))?;
            return Ok(code);
        }
    }
    let code = report.exit_code(args.exit_code);
    let corrupt = matches!(report.summary.state, NodeState::AtRisk | NodeState::Broken);
    Ok(if code == ExitCode::Ok && args.exit_code && corrupt {
        ExitCode::Pending
    } else {
        code
    })
}

fn emit(file: Option<&Path>, text: &str) -> Result<(), Error> {
    match file {
        Some(file) => metrics::replace(file, text),
        None => print_document(text).map(|_| ()),
    }
}
