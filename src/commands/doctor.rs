//! `doctor`.

use super::{complete, print, selection};
use crate::cli::{Common, Doctor};
use crate::doctor;
use crate::error::{Error, ExitCode};
use crate::kernel::verdict::judge;
use crate::nat::partial_io::RulesInUse;
use crate::offload::health::NodeState;
use crate::offload::node_io::{Node, measurements};
use crate::offload::report::Report;

pub fn run(common: &Common, args: &Doctor) -> Result<ExitCode, Error> {
    let mut node = Node::open(common.into())?;
    let before = doctor::read_io::counters();
    let facts = node.look_at_all(selection(&args.devices))?;
    let plan = node.plan(&facts);
    let mut report = Report::planned(&plan, node.kernel_report(), Some(node.backend()));
    complete(&node, &mut report);
    let code = match report.summary.state {
        NodeState::AtRisk | NodeState::Broken => ExitCode::Pending,
        NodeState::Ok | NodeState::Failed => report.exit_code(false),
    };
    let devices: Vec<_> = facts
        .devices
        .iter()
        .map(|device| (device.link.name, device.link.kind))
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
            rules: node.rules.as_ref().map(RulesInUse::rules),
            counters,
            flows: doctor::read_io::rewritten_flows(&ports),
            managers: doctor::read_io::managers(&common.root, &devices),
        },
    );
    print(common, &diagnosis, |out, color| {
        doctor::render::doctor(out, &diagnosis, color)
    })?;
    Ok(code)
}
