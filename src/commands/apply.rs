//! `apply` and `revert`: gather facts, plan, carry out, render.

use std::collections::HashMap;
use std::io::IsTerminal as _;

use log::{error, info};

use super::{complete, print, selection};
use crate::cli::{Apply, Common, Revert};
use crate::error::{Error, ExitCode};
use crate::ethtool::Feature;
use crate::offload::discover_io::Selection;
use crate::offload::facts::{Device, Facts};
use crate::offload::node_io::{Node, require_net_admin};
use crate::offload::plan::{self, Action, Plan};
use crate::offload::report::{Changes, DeviceReport, Outcome, Report};
use crate::offload::untrack::RuleStep;
use crate::output::{self, journal_io};
use crate::text::IfName;

/// Upper bound on rescans by `apply --if-exists`.
const MAX_ROUNDS: usize = 10;

/// Runs `apply`. A missing right to change devices is an error only if there is something to change.
pub fn apply(common: &Common, args: &Apply) -> Result<ExitCode, Error> {
    let which = if let Some(ifindex) = &args.uevent {
        Selection::ByIfindex(std::slice::from_ref(ifindex))
    } else if args.if_exists {
        Selection::NamedIfPresent(&args.devices)
    } else {
        selection(&args.devices)
    };
    let mut node = Node::open(common.into())?;
    // Only for units: a user who runs it by hand wants it now.
    if common.log && node.another_is_in_charge() {
        info!("a vxcsum watch --exclusive is in charge of this node: nothing was done");
        return Ok(ExitCode::Ok);
    }
    let permitted = require_net_admin();
    if args.dry_run || permitted.is_err() {
        let pending = |plan: &Plan<'_>| {
            let mut devices = plan.devices.iter();
            devices.any(|d| d.action != Action::Leave || d.untrack.step != RuleStep::Leave)
        };
        let facts = node.look(which)?;
        let plan = node.plan(&facts);
        if !args.dry_run && pending(&plan) {
            permitted?;
        }
        return show_planned(common, &node, which, &plan, (args.dry_run, args.exit_code));
    }
    // A user who names a device ends its backoff. Units and the udev rule do not.
    let by_hand = !common.log && !args.if_exists && !args.devices.is_empty();
    change(common, &mut node, which, by_hand, Node::plan)
}

pub fn revert(common: &Common, args: &Revert) -> Result<ExitCode, Error> {
    let mut node = Node::open_to_revert(common.into())?;
    let which = node.widened(selection(&args.devices));
    if args.dry_run {
        let facts = node.look(which)?;
        let plan = plan::decide_revert(&facts, &node.verdict);
        return show_planned(common, &node, which, &plan, (true, args.exit_code));
    }
    require_net_admin()?;
    let code = change(common, &mut node, which, false, |node, facts| {
        plan::decide_revert(facts, &node.verdict)
    })?;
    let Some(lost) = node.record_lost() else {
        return Ok(code);
    };
    error!(
        "{lost}. Devices that revert left alone may still be off because of vxcsum: `ethtool -K DEVICE {} on` turns the offload on",
        Feature::Checksum.as_str()
    );
    Ok(ExitCode::Failed)
}

fn show_planned<'a>(
    common: &Common,
    node: &Node,
    which: Selection<'a>,
    plan: &'a Plan<'a>,
    (dry_run, exit_code): (bool, bool),
) -> Result<ExitCode, Error> {
    let mut report = Report::planned(plan, node.kernel_report(), Some(node.backend()));
    report.dry_run = dry_run;
    show(common, node, which, &mut report)?;
    Ok(report.exit_code(exit_code))
}

/// Plans and carries out under the lock, so that no other vxcsum changes the devices in between.
fn change(
    common: &Common,
    node: &mut Node,
    which: Selection<'_>,
    by_hand: bool,
    planner: impl for<'f> Fn(&Node, &'f Facts) -> Plan<'f>,
) -> Result<ExitCode, Error> {
    let backend = node.backend();
    let ifindexes =
        |facts: &Facts| -> Vec<u32> { facts.devices.iter().map(|d| d.link.ifindex).collect() };
    // The devices that earlier rounds changed, as they were before the change.
    let mut done: HashMap<u32, (Device, Changes)> = HashMap::new();
    let mut round = 1;
    loop {
        let mut locked = node.lock()?;
        let mut facts = node.look_locked(which, &locked)?;
        if by_hand {
            node.end_backoffs(&mut facts, &mut locked);
        }
        node.settle(&mut facts, &mut locked, which, &planner);
        let mut plan = planner(node, &facts);
        let mut applied = node.carry_out(&plan, &mut locked, which);
        drop(locked);
        journal_io::conflicts(&plan, &applied.conflicts);
        if common.log {
            let changes = applied.changes.clone();
            let report = Report::applied(&plan, node.kernel_report(), backend, changes);
            journal_io::changes(&report);
        }
        // Another run may have created a device with this name since, while this run held the lock.
        if matches!(which, Selection::NamedIfPresent(_))
            && round < MAX_ROUNDS
            && ifindexes(&node.look(which)?) != ifindexes(&facts)
        {
            for device in &facts.devices {
                let ifindex = device.link.ifindex;
                let own = applied.changes.extract_if(|key, _| key.0 == ifindex);
                let own: Changes = own.collect();
                if !own.is_empty() {
                    done.insert(ifindex, (device.clone(), own));
                }
            }
            round += 1;
            continue;
        }
        if !done.is_empty() {
            for device in &mut facts.devices {
                let ifindex = device.link.ifindex;
                if let Some((before, changes)) = done.remove(&ifindex)
                    && !applied.changes.keys().any(|key| key.0 == ifindex)
                {
                    *device = before;
                    applied.changes.extend(changes);
                }
            }
            plan = planner(node, &facts);
        }
        let mut report = Report::applied(&plan, node.kernel_report(), backend, applied.changes);
        show(common, node, which, &mut report)?;
        return Ok(report.exit_code(false));
    }
}

fn show<'a>(
    common: &Common,
    node: &Node,
    which: Selection<'a>,
    report: &mut Report<'a>,
) -> Result<(), Error> {
    if let Selection::NamedIfPresent(names) = which {
        let here = |name: &IfName| report.devices.iter().any(|device| device.name == name);
        report.absent = names.iter().filter(|name| !here(name)).collect();
    }
    if common.log && !common.json {
        return Ok(());
    }
    complete(node, report);
    // Report failures on stderr too, for a caller that discards the report, such as cron.
    if !common.json && !common.log && !std::io::stdout().is_terminal() {
        let failed =
            |d: &&DeviceReport<'_>| matches!(d.outcome, Outcome::Failed | Outcome::Refused);
        for device in report.devices.iter().filter(failed) {
            if let Some(error) = &device.error {
                error!("{}: {error}", device.name);
            }
        }
    }
    let report = &*report;
    print(common, report, |out, color| {
        output::apply(out, report, color)
    })
}
