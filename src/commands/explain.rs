//! `explain`: a device, this kernel, or a kernel of another machine.

use log::warn;

use super::{complete, print};
use crate::cli::{Common, Explain};
use crate::error::{Error, ExitCode};
use crate::ethtool::FeatureTable;
use crate::fault::describe_io;
use crate::kernel::os_release::parse_os_release;
use crate::kernel::release::{Kernel, KernelFamily};
use crate::kernel::verdict::judge;
use crate::kernel::{self, KernelFacts};
use crate::offload::discover_io::Selection;
use crate::offload::node_io::{Node, load_policy, load_probe, measurements};
use crate::offload::plan::Plan;
use crate::offload::report::{KernelReport, Report};
use crate::output::{self, Explanation, RuleOutcome};
use crate::text::{IfName, escape};

pub fn run(common: &Common, args: &Explain) -> Result<ExitCode, Error> {
    if let Some(device) = &args.device {
        return explain_device(common, device);
    }
    if let Some(file) = &args.nodes {
        return super::nodes::run(common, file);
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
                .map_err(|e| Error::Io(format!("read {}: {}", path.display(), describe_io(&e))))?;
            parse_os_release(&text)
        }
        None => crate::kernel::OsRelease::default(),
    };
    let facts = KernelFacts {
        release: release.to_owned(),
        version: args.uname_version.clone().unwrap_or_default(),
        version_signature: args.version_signature.clone(),
        os,
    };
    if Kernel::identify(&facts).family == KernelFamily::Unreadable {
        return Err(Error::Usage(format!(
            "--kernel '{}' does not begin with a version such as 6.1.0: `uname -r` prints it",
            escape(release.as_bytes())
        )));
    }
    Ok(facts)
}

fn explain_device(common: &Common, device: &IfName) -> Result<ExitCode, Error> {
    let mut node = Node::open(common.into())?;
    let all = node.look(Selection::Named(std::slice::from_ref(device)))?;
    let plan = node.plan(&all);
    let mut report = Report::planned(&plan, node.kernel_report(), Some(node.backend()));
    complete(&node, &mut report);
    let code = report.exit_code(false);
    let Some(facts) = all.devices.first() else {
        return Err(Error::Device(format!("{device}: gone in the meantime")));
    };
    let subject = facts.subject();
    let deciding = node.policy.deciding_rule(&subject);
    let rules = node
        .policy
        .consider(&subject)
        .into_iter()
        .map(|considered| RuleOutcome {
            rule: considered.rule.label(),
            when: considered.rule.when,
            matched: considered.miss.is_none(),
            decided: deciding.is_some_and(|rule| std::ptr::eq(rule, considered.rule)),
            because: considered.miss.map(|miss| miss.to_string()),
        })
        .collect();
    let explanation = Explanation { report, rules };
    print(common, &explanation, |out, color| {
        output::explain_device(out, &explanation, facts, &node.policy, color)
    })?;
    Ok(code)
}
