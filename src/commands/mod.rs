//! The verbs, one file each.
//!
//! Owns the steps from arguments to an exit code: gather, decide, apply or not, render. The only module that uses both
//! pure code and I/O. Logic belongs to one of the two.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

mod apply;
mod doctor;
mod explain;
mod export;
mod nodes;
mod policy;
mod probe;
#[cfg(test)]
mod schema;
mod status;

use std::ffi::OsString;
use std::io::{self, BufWriter, IsTerminal, Write};

use clap::Parser;
use log::error;

use crate::cli::{Cli, ColorArg, Command, Common, PolicyCommand};
use crate::error::{Error, ExitCode};
use crate::fault::describe_io;
use crate::offload::discover_io::Selection;
use crate::offload::node_io::{Node, Options};
use crate::offload::report::Report;
use crate::output::{self, journal_io};
use crate::policy::ProblemKind;
use crate::text::IfName;
use crate::{docs, term, watch};

/// Runs the command and returns the exit code.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    // Before the arguments are parsed, because errors in them are logged too.
    let log = args.iter().any(|arg| arg == "--log");
    let stderr = args.iter().any(|arg| arg == "--log-target=stderr")
        || args
            .windows(2)
            .any(|two| two[0] == "--log-target" && two[1] == "stderr");
    journal_io::init(log, !stderr);
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(e) => return usage(&e, args.iter().any(|arg| arg == "--json")),
    };
    let (json, color) = (cli.common.json, cli.common.color);
    match run(cli) {
        Ok(code) => code,
        Err(e) => fail(&e, json, log, color),
    }
}

/// Help and version are not errors. Everything else ends with the exit code of sysexits.h instead of clap's.
fn usage(e: &clap::Error, json: bool) -> ExitCode {
    if !e.use_stderr() {
        return match e.print() {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => fail(
                &Error::Io(format!("write the help: {}", describe_io(&e))),
                json,
                false,
                ColorArg::Auto,
            ),
            _ => ExitCode::Ok,
        };
    }
    if json {
        fail(
            &Error::Usage(e.render().to_string().trim_end().to_owned()),
            true,
            false,
            ColorArg::Auto,
        )
    } else {
        let _ = e.print();
        ExitCode::Usage
    }
}

fn fail(e: &Error, json: bool, log: bool, color: ColorArg) -> ExitCode {
    if json {
        if output::json_error(&mut io::stdout().lock(), e).is_err() {
            error!("{e}");
        }
    } else if let (Error::Policy(_), true) = (e, log) {
        journal_io::policy_rejected(e, "nothing was done");
    } else if let Error::Policy(errors) = e {
        let text = errors.render(colored(&io::stderr(), color));
        let what = match errors.kind() {
            ProblemKind::Content => "the policy is not valid",
            ProblemKind::Missing
            | ProblemKind::Denied
            | ProblemKind::Root
            | ProblemKind::System => "the policy cannot be read",
        };
        let _ = writeln!(io::stderr(), "vxcsum: {what}, and nothing was done\n{text}");
    } else {
        error!("{e}");
    }
    e.exit_code()
}

fn run(cli: Cli) -> Result<ExitCode, Error> {
    let common = &cli.common.clone();
    match cli.into_command().map_err(Error::Usage)? {
        Command::Apply(args) => apply::apply(common, &args),
        Command::Revert(args) => apply::revert(common, &args),
        Command::Watch(args) => watch::run(common.into(), args, common.json),
        Command::Status(args) => status::run(common, &args),
        Command::Explain(args) => explain::run(common, &args),
        Command::Probe(args) => probe::run(common, &args),
        Command::Doctor(args) => doctor::run(common, &args),
        Command::Export(args) => export::run(common, &args),
        Command::Policy(PolicyCommand::Check { file }) => policy::check(common, file.as_deref()),
        Command::Policy(PolicyCommand::Show) => policy::show(common),
        Command::Completions { shell } => print_document(docs::completions(shell)),
        Command::Man { page } => print_document(docs::man(page)),
    }
}

impl From<&Common> for Options {
    fn from(common: &Common) -> Self {
        Self {
            root: common.root.clone(),
            policy: common.policy.clone(),
            backend: common.backend.into(),
        }
    }
}

fn selection(names: &[IfName]) -> Selection<'_> {
    if names.is_empty() {
        Selection::All
    } else {
        Selection::Named(names)
    }
}

/// Adds to a report what concerns the whole node.
fn complete(node: &Node, report: &mut Report<'_>) {
    report.limited = node.limit().into_iter().collect();
    report.exclusive = node.another_is_in_charge();
    report.persistent = Some(node.persistent());
}

fn print_document(text: &str) -> Result<ExitCode, Error> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Error::Io(format!(
            "write the document: {}",
            describe_io(&e)
        ))),
        _ => Ok(ExitCode::Ok),
    }
}

fn print(
    common: &Common,
    value: &impl serde::Serialize,
    text: impl FnOnce(&mut BufWriter<io::StdoutLock<'_>>, bool) -> io::Result<()>,
) -> Result<(), Error> {
    if common.quiet && !common.json {
        return Ok(());
    }
    let color = colored(&io::stdout(), common.color);
    if io::stdout().is_terminal()
        && let Ok(size) = rustix::termios::tcgetwinsize(io::stdout())
        && size.ws_col > 0
    {
        term::set_width(size.ws_col.into());
    }
    let mut out = BufWriter::with_capacity(64 * 1024, io::stdout().lock());
    let written = if common.json {
        output::json(&mut out, value)
    } else {
        text(&mut out, color)
    };
    match written.and_then(|()| out.flush()) {
        // `vxcsum status | head` is not a failure.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(e) => Err(Error::Io(format!("write the report: {}", describe_io(&e)))),
        Ok(()) => Ok(()),
    }
}

/// <https://no-color.org>
fn colored(stream: &impl IsTerminal, when: ColorArg) -> bool {
    match when {
        ColorArg::Always => return true,
        ColorArg::Never => return false,
        ColorArg::Auto => {}
    }
    let is = |name, value: &str| std::env::var_os(name).is_some_and(|found| found == *value);
    stream.is_terminal()
        && !is("TERM", "dumb")
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
