//! The verbs.
//!
//! Owns the way from arguments to an exit code: gather, decide, apply or not, render. The one place that sees both the pure
//! side and the I/O side; logic belongs to either of them.

use std::ffi::OsString;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;

use clap::{CommandFactory, Parser};
use log::{error, info, warn};

use crate::cli::{Apply, Cli, Command, Common, Explain, PolicyCommand, Status};
use crate::error::Error;
use crate::facts::{Facts, FeatureTable, IfName, KernelFacts, escape};
use crate::kernel::KernelVerdict;
use crate::kernel::os_release::parse_os_release;
use crate::kernel::verdict::judge;
use crate::plan::{self, Action, Plan};
use crate::policy::Policy;
use crate::render::{self, Explanation, RuleOutcome};
use crate::report::{ExitCode, KernelReport, Outcome, Report};
use crate::sys::features::Backend;
use crate::sys::policy_files::{self, Wanted};
use crate::sys::{files, journal};
use crate::{apply, discover};

/// Runs the command and says what to exit with.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    journal::init();
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(e) => return usage(&e, args.iter().any(|arg| arg == "--json")),
    };
    let json = cli.common.json;
    match run(cli) {
        Ok(code) => code,
        Err(e) => fail(&e, json),
    }
}

/// Help and version are no errors; all else is, with the exit code of sysexits.h and not clap's.
fn usage(e: &clap::Error, json: bool) -> ExitCode {
    if !e.use_stderr() {
        return if e.print().is_ok() {
            ExitCode::Ok
        } else {
            ExitCode::Failed
        };
    }
    if json {
        fail(
            &Error::Usage(e.render().to_string().trim_end().to_owned()),
            true,
        )
    } else {
        let _ = e.print();
        ExitCode::Usage
    }
}

fn fail(e: &Error, json: bool) -> ExitCode {
    if json {
        // Nothing is left to do if even this cannot be written.
        let _ = render::json_error(&mut io::stdout().lock(), e);
    } else if let Error::Policy(errors) = e {
        let _ = write!(io::stderr(), "{}", errors.render(colored(&io::stderr())));
    } else {
        error!("{e}");
    }
    e.exit_code()
}

fn run(cli: Cli) -> Result<ExitCode, Error> {
    let common = &cli.common;
    if cli.dry_run && !matches!(cli.command, None | Some(Command::Apply(_))) {
        return Err(Error::Usage(
            "--dry-run belongs to apply: this command changes nothing anyway".to_owned(),
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
        Some(Command::Status(args)) => run_status(common, &args),
        Some(Command::Explain(args)) => run_explain(common, &args),
        Some(Command::Policy(PolicyCommand::Check { file })) => {
            check_policy(common, file.as_deref())
        }
        Some(Command::Policy(PolicyCommand::Show)) => show_policy(common),
        None if cli.dry_run => run_apply(
            common,
            &Apply {
                dry_run: true,
                devices: Vec::new(),
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

/// All that was found out.
struct Gathered {
    policy: Policy,
    facts: Facts,
    verdict: KernelVerdict,
    backend: Backend,
}

impl Gathered {
    fn kernel(&self) -> KernelReport {
        KernelReport::new(&self.facts.kernel, self.verdict.clone())
    }

    fn plan(&self) -> Plan<'_> {
        plan::decide(&self.policy, &self.facts, &self.verdict)
    }

    fn planned<'a>(&self, plan: &'a Plan<'a>) -> Report<'a> {
        Report::planned(plan, self.kernel(), Some(self.backend.name()))
    }
}

/// The policy first: a bad one ends everything before any device is looked at.
fn gather(common: &Common, only: &[IfName]) -> Result<Gathered, Error> {
    let policy = load_policy(common)?;
    let kernel = kernel_facts(&common.root);
    let verdict = judge(&kernel, &policy.kernels);
    let mut backend = Backend::open(common.backend.into())?;
    let (table, devices) = discover::devices(&mut backend, only)?;
    Ok(Gathered {
        policy,
        facts: Facts {
            kernel,
            table,
            devices,
        },
        verdict,
        backend,
    })
}

fn load_policy(common: &Common) -> Result<Policy, Error> {
    let wanted = common
        .policy
        .as_deref()
        .map_or(Wanted::Default, Wanted::Path);
    policy_files::load(&common.root, wanted, rustix::process::geteuid().is_root())
        .map_err(Error::Policy)
}

fn kernel_facts(root: &Path) -> KernelFacts {
    files::kernel_facts(root, |note| warn!("{note}"))
}

fn run_apply(common: &Common, args: &Apply) -> Result<ExitCode, Error> {
    let Gathered {
        policy,
        facts,
        verdict,
        mut backend,
    } = gather(common, &args.devices)?;
    let plan = plan::decide(&policy, &facts, &verdict);
    let kernel = KernelReport::new(&facts.kernel, verdict);
    let report = if args.dry_run {
        Report::planned(&plan, kernel, Some(backend.name()))
    } else {
        if plan
            .devices
            .iter()
            .any(|device| device.action == Action::TurnOff)
        {
            require_net_admin()?;
        }
        let changes = apply::apply(&plan, &mut backend);
        let report = Report::applied(&plan, kernel, backend.name(), changes);
        log_changes(&report);
        report
    };
    print(common, &report, |out, color| {
        render::apply(out, &report, color)
    })?;
    Ok(report.exit_code(args.exit_code))
}

fn run_status(common: &Common, args: &Status) -> Result<ExitCode, Error> {
    let gathered = gather(common, &args.devices)?;
    let plan = gathered.plan();
    let report = gathered.planned(&plan);
    print(common, &report, |out, color| {
        render::status(out, &report, color)
    })?;
    Ok(report.exit_code(args.exit_code))
}

fn run_explain(common: &Common, args: &Explain) -> Result<ExitCode, Error> {
    if let Some(device) = &args.device {
        return explain_device(common, device);
    }
    let kernel = match &args.kernel {
        Some(release) => named_kernel(release, args)?,
        None => kernel_facts(&common.root),
    };
    let verdict = judge(&kernel, &load_policy(common)?.kernels);
    let table = FeatureTable::default();
    let nothing = Plan {
        table: &table,
        devices: Vec::new(),
    };
    let report = Report::planned(&nothing, KernelReport::new(&kernel, verdict), None);
    print(common, &report, |out, color| {
        render::explain_kernel(out, &report.kernel, color)
    })?;
    Ok(ExitCode::Ok)
}

fn named_kernel(release: &str, args: &Explain) -> Result<KernelFacts, Error> {
    let os = match &args.os_release {
        Some(path) => {
            let text = files::read_text(path)
                .map_err(|e| Error::Io(format!("read {}: {e}", path.display())))?;
            parse_os_release(&text)
        }
        None => crate::facts::OsRelease::default(),
    };
    Ok(KernelFacts {
        release: release.to_owned(),
        version: args.uname_version.clone().unwrap_or_default(),
        version_signature: args.version_signature.clone(),
        os,
    })
}

fn explain_device(common: &Common, device: &IfName) -> Result<ExitCode, Error> {
    let gathered = gather(common, std::slice::from_ref(device))?;
    let plan = gathered.plan();
    let report = gathered.planned(&plan);
    let code = report.exit_code(false);
    let Some(facts) = gathered.facts.devices.first() else {
        return Err(Error::Device(format!("{device}: gone in the meantime")));
    };
    let subject = plan::subject(facts);
    let deciding = gathered.policy.deciding_rule(&subject);
    let rules = gathered
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
        render::explain_device(out, &explanation, facts, &gathered.policy, color)
    })?;
    Ok(code)
}

fn check_policy(common: &Common, file: Option<&Path>) -> Result<ExitCode, Error> {
    let common = Common {
        policy: file.map(Path::to_owned).or(common.policy.clone()),
        ..common.clone()
    };
    let policy = load_policy(&common)?;
    let read = if policy.files.is_empty() {
        vec!["built-in".to_owned()]
    } else {
        policy.files.clone()
    };
    let summary = serde_json::json!({ "valid": true, "files": read, "rules": policy.rules.len(), "kernels": policy.kernels.len() });
    print(&common, &summary, |out, _| {
        let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let read: Vec<_> = read.iter().map(|path| escape(path.as_bytes())).collect();
        let (rules, kernels) = (
            count(policy.rules.len(), "rule"),
            count(policy.kernels.len(), "kernel entry"),
        );
        writeln!(
            out,
            "valid: {}: {rules}, {}",
            read.join(", "),
            kernels.replace("entrys", "entries")
        )
    })?;
    Ok(ExitCode::Ok)
}

fn show_policy(common: &Common) -> Result<ExitCode, Error> {
    let policy = load_policy(common)?;
    print(
        common,
        &serde_json::json!({ "files": policy.files, "toml": policy.show() }),
        |out, _| write!(out, "{}", policy.show()),
    )?;
    Ok(ExitCode::Ok)
}

/// One sentence, before anything is tried on any device.
fn require_net_admin() -> Result<(), Error> {
    use rustix::thread::{CapabilitySet, capabilities};
    match capabilities(None) {
        Ok(sets) if !sets.effective.contains(CapabilitySet::NET_ADMIN) => Err(Error::Permission(
            "changing a device needs CAP_NET_ADMIN: run it as root, or add --dry-run to see what would be done".to_owned(),
        )),
        // If the kernel does not even say, it will say when a device is set.
        _ => Ok(()),
    }
}

/// One record a change, with fields for the journal; silence where nothing changed.
fn log_changes(report: &Report<'_>) {
    if !systemd_journal_logger::connected_to_journal() {
        // On a terminal the report says the same.
        return;
    }
    for device in &report.devices {
        let name = device.name.to_string();
        let bug = device.verdict.bugs.first().map_or("", |bug| bug.as_str());
        let (action, reason) = (device.outcome.as_str(), device.reason.code.as_str());
        let (ifindex, vni) = (
            device.ifindex,
            device.vni.map(|vni| vni.to_string()).unwrap_or_default(),
        );
        match (device.outcome, &device.error) {
            (Outcome::Changed, _) => info!(
                VXCSUM_DEVICE = name, VXCSUM_IFINDEX = ifindex, VXCSUM_VNI = vni, VXCSUM_ACTION = action,
                VXCSUM_REASON = reason, VXCSUM_BUG = bug;
                "{name}: turned tx-checksum-ip-generic off: {}", device.reason.text
            ),
            (Outcome::Refused | Outcome::Failed, Some(e)) => error!(
                VXCSUM_DEVICE = name, VXCSUM_IFINDEX = ifindex, VXCSUM_VNI = vni, VXCSUM_ACTION = action,
                VXCSUM_REASON = reason, VXCSUM_BUG = bug;
                "{name}: {e}"
            ),
            _ => {}
        }
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
        render::json(&mut out, value)
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
