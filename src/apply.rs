//! Carrying out a plan.
//!
//! Owns the order set, read back, compare. May not decide: what is not in the plan is not touched.

use std::collections::HashMap;

use crate::discover::read_features;
use crate::error::Fault;
use crate::facts::{Features, SET_OFF};
use crate::plan::{Action, Plan};
use crate::report::{Change, Outcome};
use crate::sys::features::Backend;

/// Turns the feature off on every device for which the plan says so, reads it back, and says of each (by ifindex) what came
/// of it. A device that fails stops no other.
pub fn apply(plan: &Plan<'_>, backend: &mut Backend) -> HashMap<u32, Change> {
    let chosen: Vec<_> = plan
        .devices
        .iter()
        .filter(|device| device.action == Action::TurnOff)
        .collect();
    let Some(index) = plan.table.index() else {
        return HashMap::new();
    };
    if chosen.is_empty() {
        return HashMap::new();
    }
    let count = u32::try_from(plan.table.names.len()).unwrap_or(u32::MAX);
    let refs: Vec<_> = chosen
        .iter()
        .map(|d| (d.device.link.ifindex, &d.device.link.name))
        .collect();
    let sets = backend.set(&refs, (index, count), false);
    // All are read back, also those whose set failed: it may have failed after the kernel did it.
    let now = read_features(backend, chosen.iter().map(|d| &d.device.link), plan.table);
    chosen
        .iter()
        .zip(sets.into_iter().zip(now))
        .map(|(device, (set, now))| {
            let before = device.device.features.as_ref().ok();
            (device.device.link.ifindex, change(before, set, now, index))
        })
        .collect()
}

fn change(
    before: Option<&Features>,
    set: Result<(), Fault>,
    now: Result<Features, Fault>,
    index: u32,
) -> Change {
    let failed = |fault: Fault| {
        let outcome = if fault.gone() {
            Outcome::Gone
        } else {
            Outcome::Failed
        };
        Change {
            outcome,
            feature: None,
            also_off: 0,
            error: Some(fault),
        }
    };
    match (set, now) {
        // Somebody else was faster.
        (Err(_), Ok(now)) if now.state(index).off() => Change {
            outcome: Outcome::Unchanged,
            feature: Some(now.state(index)),
            also_off: 0,
            error: None,
        },
        (Ok(()), Ok(now)) if now.state(index).off() => {
            let also_off = before.map_or(0, |before| before.active) & !now.active & !(1 << index);
            Change {
                outcome: Outcome::Changed,
                feature: Some(now.state(index)),
                also_off,
                error: None,
            }
        }
        (Ok(()), Ok(now)) => Change {
            outcome: Outcome::Refused,
            feature: Some(now.state(index)),
            also_off: 0,
            error: Some(
                Fault::other(
                    SET_OFF,
                    "the kernel accepted it and the feature is still on",
                )
                .advise("see whether another program turns it back on: ethtool --monitor"),
            ),
        },
        (Err(fault), _) | (_, Err(fault)) => failed(fault),
    }
}
