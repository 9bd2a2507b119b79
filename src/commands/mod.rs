//! The verbs.
//!
//! Owns the way from arguments to an exit code: gather, decide, apply or not, render. The one place that sees both the pure
//! side and the I/O side; logic belongs to either of them.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;

use clap::{CommandFactory, Parser};
use log::{error, warn};

use crate::cli::{
    Apply, Cli, Command, Common, Doctor, Explain, PolicyCommand, Probe, Revert, Status,
};
use crate::error::{Error, ExitCode};
use crate::ethtool::FeatureTable;
use crate::kernel::os_release::parse_os_release;
use crate::kernel::verdict::judge;
use crate::kernel::{self, KernelFacts};
use crate::offload::discover_io::Which;
use crate::offload::facts::{Device, Facts};
use crate::offload::node_io::{
    Node, Options, load_policy, load_probe, measurements, require_net_admin,
};
use crate::offload::plan::{self, Action, Plan};
use crate::offload::report::{Change, KernelReport, Report};
use crate::output::{self, Explanation, RuleOutcome, journal_io};
use crate::probe::render::Kept;
use crate::probe::{self, Code, Limits, Outcome, Place, ProbeRun, file_io, run_io};
use crate::text::{IfName, escape};
use crate::{docs, doctor, watch};

/// Upper bound on rescans by `apply --if-exists`.
const MAX_ROUNDS: usize = 10;

/// Runs the command and says what to exit with.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    // Before the arguments are understood: what is wrong with them is said there too.
    let log = args.iter().any(|arg| arg == "--log");
    journal_io::init(log);
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(e) => return usage(&e, args.iter().any(|arg| arg == "--json")),
    };
    let json = cli.common.json;
    match run(cli) {
        Ok(code) => code,
        Err(e) => fail(&e, json, log),
    }
}

/// Help and version are no errors; all else is, with the exit code of sysexits.h and not clap's.
fn usage(e: &clap::Error, json: bool) -> ExitCode {
    if !e.use_stderr() {
        return match e.print() {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
                fail(&Error::Io(format!("write the help: {e}")), json, false)
            }
            _ => ExitCode::Ok,
        };
    }
    if json {
        fail(
            &Error::Usage(e.render().to_string().trim_end().to_owned()),
            true,
            false,
        )
    } else {
        let _ = e.print();
        ExitCode::Usage
    }
}

fn fail(e: &Error, json: bool, log: bool) -> ExitCode {
    if json {
        if output::json_error(&mut io::stdout().lock(), e).is_err() {
            error!("{e}");
        }
    } else if let (Error::Policy(_), true) = (e, log) {
        journal_io::policy_rejected(e, "the policy is not valid and nothing was done");
    } else if let Error::Policy(errors) = e {
        let _ = write!(io::stderr(), "{}", errors.render(colored(&io::stderr())));
    } else {
        error!("{e}");
    }
    e.exit_code()
}

fn run(cli: Cli) -> Result<ExitCode, Error> {
    let common = &cli.common;
    if cli.dry_run
        && !matches!(
            cli.command,
            None | Some(Command::Apply(_) | Command::Revert(_))
        )
    {
        return Err(Error::Usage(
            "--dry-run belongs to apply and revert: this command changes nothing anyway".to_owned(),
        ));
    }
    match cli.command {
        Some(Command::Apply(args)) => run_apply(
            common,
            &Apply {
                dry_run: args.dry_run || cli.dry_run,
                ..args
            },
        ),
        Some(Command::Revert(args)) => run_revert(
            common,
            &Revert {
                dry_run: args.dry_run || cli.dry_run,
                ..args
            },
        ),
        Some(Command::Watch) => watch::run(common.into()),
        Some(Command::Status(args)) => run_status(common, &args),
        Some(Command::Explain(args)) => run_explain(common, &args),
        Some(Command::Probe(args)) => run_probe(common, &args),
        Some(Command::Doctor(args)) => run_doctor(common, &args),
        Some(Command::Policy(PolicyCommand::Check { file })) => {
            check_policy(common, file.as_deref())
        }
        Some(Command::Policy(PolicyCommand::Show)) => show_policy(common),
        Some(Command::Completions { shell }) => print_document(docs::completions(shell)),
        Some(Command::Man { page }) => print_document(docs::man(page)),
        None if cli.dry_run => run_apply(
            common,
            &Apply {
                dry_run: true,
                devices: Vec::new(),
                if_exists: false,
                uevent: None,
                exit_code: cli.exit_code,
            },
        ),
        None => {
            let help = Cli::command().render_help();
            Err(Error::Usage(format!(
                "a command is needed, or --dry-run to see what apply would do\n\n{help}"
            )))
        }
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

fn which(names: &[IfName]) -> Which<'_> {
    if names.is_empty() {
        Which::All
    } else {
        Which::Named(names)
    }
}

fn run_apply(common: &Common, args: &Apply) -> Result<ExitCode, Error> {
    let which = if let Some(ifindex) = &args.uevent {
        Which::Ifindexes(std::slice::from_ref(ifindex))
    } else if args.if_exists {
        Which::IfExists(&args.devices)
    } else {
        which(&args.devices)
    };
    let mut node = Node::open(common.into())?;
    let backend = node.backend();
    let permitted = require_net_admin();
    if args.dry_run || permitted.is_err() {
        let facts = node.look(which)?;
        let plan = node.plan(&facts);
        if !args.dry_run
            && plan
                .devices
                .iter()
                .any(|device| device.action == Action::TurnOff)
        {
            permitted?;
        }
        let mut report = Report::planned(&plan, node.kernel_report(), Some(backend));
        report.dry_run = args.dry_run;
        return finish_apply(common, &report, args.exit_code);
    }
    // What earlier rounds changed, as it was before.
    let mut done: HashMap<u32, (Device, Change)> = HashMap::new();
    let mut round = 1;
    loop {
        let mut turn = node.turn()?;
        let mut facts = node.look_in_turn(which, &turn)?;
        let plan = node.plan(&facts);
        let mut applied = node.carry_out(&plan, &mut turn, matches!(which, Which::All));
        drop(turn);
        journal_io::conflicts(&plan, &applied.conflicts);
        if common.log {
            let changes = applied.changes.clone();
            let report = Report::applied(&plan, node.kernel_report(), backend, changes);
            journal_io::changes(&report);
        }
        // A device may have been created again under this name meanwhile, by an event that found this run at work.
        let ifindexes =
            |facts: &Facts| -> Vec<u32> { facts.devices.iter().map(|d| d.link.ifindex).collect() };
        if args.if_exists
            && round < MAX_ROUNDS
            && ifindexes(&node.look(which)?) != ifindexes(&facts)
        {
            for device in &facts.devices {
                let ifindex = device.link.ifindex;
                if let Some(change) = applied.changes.remove(&ifindex) {
                    done.insert(ifindex, (device.clone(), change));
                }
            }
            round += 1;
            continue;
        }
        for device in &mut facts.devices {
            let ifindex = device.link.ifindex;
            if !applied.changes.contains_key(&ifindex)
                && let Some((before, change)) = done.remove(&ifindex)
            {
                *device = before;
                applied.changes.insert(ifindex, change);
            }
        }
        let plan = node.plan(&facts);
        let report = Report::applied(&plan, node.kernel_report(), backend, applied.changes);
        return finish_apply(common, &report, false);
    }
}

fn finish_apply(common: &Common, report: &Report<'_>, pending: bool) -> Result<ExitCode, Error> {
    if !common.log || common.json {
        print(common, report, |out, color| {
            output::apply(out, report, color)
        })?;
    }
    Ok(report.exit_code(pending))
}

fn run_revert(common: &Common, args: &Revert) -> Result<ExitCode, Error> {
    let which = which(&args.devices);
    let mut node = Node::open_to_revert(common.into())?;
    let backend = node.backend();
    if args.dry_run {
        let facts = node.look(which)?;
        let plan = plan::decide_revert(&facts, &node.verdict);
        let report = Report::planned(&plan, node.kernel_report(), Some(backend));
        return finish_apply(common, &report, false);
    }
    require_net_admin()?;
    let mut turn = node.turn()?;
    let facts = node.look_in_turn(which, &turn)?;
    let plan = plan::decide_revert(&facts, &node.verdict);
    let applied = node.carry_out(&plan, &mut turn, matches!(which, Which::All));
    drop(turn);
    let report = Report::applied(&plan, node.kernel_report(), backend, applied.changes);
    if common.log {
        journal_io::changes(&report);
    }
    finish_apply(common, &report, false)
}

fn run_status(common: &Common, args: &Status) -> Result<ExitCode, Error> {
    let mut node = Node::open(common.into())?;
    let facts = node.look(which(&args.devices))?;
    let plan = node.plan(&facts);
    let report = Report::planned(&plan, node.kernel_report(), Some(node.backend()));
    print(common, &report, |out, color| {
        output::status(out, &report, color)
    })?;
    Ok(report.exit_code(args.exit_code))
}

fn run_explain(common: &Common, args: &Explain) -> Result<ExitCode, Error> {
    if let Some(device) = &args.device {
        return explain_device(common, device);
    }
    let policy = load_policy(&common.root, common.policy.as_deref())?;
    let (kernel, probe) = if let Some(release) = &args.kernel {
        (named_kernel(release, args)?, None)
    } else {
        let kernel = kernel::read_io::kernel_facts(&common.root, |note| warn!("{note}"));
        (kernel, load_probe(&common.root))
    };
    let verdict = judge(&kernel, &policy.kernels, &measurements(probe.as_ref()));
    let table = FeatureTable::default();
    let nothing = Plan {
        table: &table,
        devices: Vec::new(),
    };
    let report = Report::planned(&nothing, KernelReport::new(&kernel, verdict), None);
    print(common, &report, |out, color| {
        output::explain_kernel(out, &report.kernel, color)
    })?;
    Ok(ExitCode::Ok)
}

fn named_kernel(release: &str, args: &Explain) -> Result<KernelFacts, Error> {
    let os = match &args.os_release {
        Some(path) => {
            let text = kernel::read_io::read_text(path)
                .map_err(|e| Error::Io(format!("read {}: {e}", path.display())))?;
            parse_os_release(&text)
        }
        None => crate::kernel::OsRelease::default(),
    };
    Ok(KernelFacts {
        release: release.to_owned(),
        version: args.uname_version.clone().unwrap_or_default(),
        version_signature: args.version_signature.clone(),
        os,
    })
}

fn explain_device(common: &Common, device: &IfName) -> Result<ExitCode, Error> {
    let mut node = Node::open(common.into())?;
    let all = node.look(Which::Named(std::slice::from_ref(device)))?;
    let plan = node.plan(&all);
    let report = Report::planned(&plan, node.kernel_report(), Some(node.backend()));
    let code = report.exit_code(false);
    let Some(facts) = all.devices.first() else {
        return Err(Error::Device(format!("{device}: gone in the meantime")));
    };
    let subject = plan::subject(facts);
    let deciding = node.policy.deciding_rule(&subject);
    let rules = node
        .policy
        .consider(&subject)
        .into_iter()
        .map(|considered| RuleOutcome {
            rule: format!("{} ({})", considered.rule.name, considered.rule.origin),
            when: considered.rule.when.as_str().to_owned(),
            matched: considered.miss.is_none(),
            decided: deciding.is_some_and(|rule| std::ptr::eq(rule, considered.rule)),
            because: considered
                .miss
                .map(|miss| format!("{} is {}, not {}", miss.key, miss.found, miss.wanted)),
        })
        .collect();
    let explanation = Explanation { report, rules };
    print(common, &explanation, |out, color| {
        output::explain_device(out, &explanation, facts, &node.policy, color)
    })?;
    Ok(code)
}

fn run_probe(common: &Common, args: &Probe) -> Result<ExitCode, Error> {
    let place = if args.private_network {
        Place::PrivateNetwork
    } else {
        Place::NewNamespace
    };
    let run = run_io::run(&Limits::default(), place);
    // What was measured is not forgotten because somebody without the rights tried again.
    let earlier = || file_io::load(&common.root, &run_io::machine(), |_| ());
    let kept = if !run.answers() && earlier().is_some_and(|earlier| earlier.answers()) {
        Kept::Earlier
    } else {
        match file_io::save(&common.root, &run) {
            Ok(()) => Kept::This,
            Err(e) => {
                warn!("{e}; apply and status will not know of this run");
                Kept::Nothing
            }
        }
    };
    if common.log {
        journal_io::probed(&run);
    }
    if !common.log || common.json {
        print(common, &run, |out, color| {
            probe::render::probe(out, &run, kept, color)
        })?;
    }
    Ok(probe_exit_code(&run))
}

fn run_doctor(common: &Common, args: &Doctor) -> Result<ExitCode, Error> {
    let mut node = Node::open(common.into())?;
    let before = doctor::read_io::counters();
    let facts = node.look_at_all()?;
    let plan = node.plan(&facts);
    let report = Report::planned(&plan, node.kernel_report(), Some(node.backend()));
    let code = report.exit_code(false);
    let names: Vec<IfName> = facts
        .devices
        .iter()
        .map(|device| device.link.name)
        .collect();
    let ports: Vec<u16> = facts
        .devices
        .iter()
        .filter_map(|device| device.link.dst_port)
        .collect();
    let counters = args.watch.map_or_else(
        || doctor::Counters::new(before.clone(), None),
        |seconds| {
            std::thread::sleep(std::time::Duration::from_secs(seconds.into()));
            let after = doctor::read_io::counters();
            doctor::Counters::new(before.clone(), Some((seconds, after)))
        },
    );
    let diagnosis = doctor::Diagnosis::new(
        report,
        doctor::Findings {
            table: judge(&node.kernel, &[], &measurements(None)),
            probe: node.probe.as_ref(),
            rules: node.rules.as_ref(),
            counters,
            flows: doctor::read_io::rewritten_flows(&ports),
            managers: doctor::read_io::managers(&common.root, &names),
        },
    );
    print(common, &diagnosis, |out, color| {
        doctor::render::doctor(out, &diagnosis, color)
    })?;
    Ok(code)
}

fn check_policy(common: &Common, file: Option<&Path>) -> Result<ExitCode, Error> {
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
    let summary = serde_json::json!({ "valid": true, "files": read, "rules": policy.rules.len(), "kernels": policy.kernels.len() });
    print(&common, &summary, |out, _| {
        let read: Vec<_> = read.iter().map(|path| escape(path.as_bytes())).collect();
        let count =
            |n: usize, one: &str, more: &str| format!("{n} {}", if n == 1 { one } else { more });
        let rules = count(policy.rules.len(), "rule", "rules");
        let kernels = count(policy.kernels.len(), "kernel entry", "kernel entries");
        writeln!(out, "valid: {}: {rules}, {kernels}", read.join(", "))
    })?;
    Ok(ExitCode::Ok)
}

fn show_policy(common: &Common) -> Result<ExitCode, Error> {
    let policy = load_policy(&common.root, common.policy.as_deref())?;
    print(
        common,
        &serde_json::json!({ "files": policy.files, "toml": policy.show() }),
        |out, _| write!(out, "{}", policy.show()),
    )?;
    Ok(ExitCode::Ok)
}

fn print_document(text: &str) -> Result<ExitCode, Error> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::Io(format!("write the document: {e}")))
        }
        _ => Ok(ExitCode::Ok),
    }
}

fn print(
    common: &Common,
    value: &impl serde::Serialize,
    text: impl FnOnce(&mut BufWriter<io::StdoutLock<'_>>, bool) -> io::Result<()>,
) -> Result<(), Error> {
    let color = colored(&io::stdout());
    let mut out = BufWriter::with_capacity(64 * 1024, io::stdout().lock());
    let written = if common.json {
        output::json(&mut out, value)
    } else {
        text(&mut out, color)
    };
    match written.and_then(|()| out.flush()) {
        // `vxcsum status | head` is no failure.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(e) => Err(Error::Io(format!("write the report: {e}"))),
        Ok(()) => Ok(()),
    }
}

/// <https://no-color.org>
fn colored(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// What `vxcsum probe` ends with: an answer for both bugs is all that is asked of it.
fn probe_exit_code(run: &ProbeRun) -> ExitCode {
    let reasons = run
        .results
        .iter()
        .filter_map(|result| match &result.outcome {
            Outcome::Inconclusive(reason) => Some(reason.code),
            _ => None,
        });
    match reasons.max_by_key(|code| *code == Code::NoPermission) {
        None => ExitCode::Ok,
        Some(Code::NoPermission) => ExitCode::Permission,
        Some(_) => ExitCode::Failed,
    }
}
