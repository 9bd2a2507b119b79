//! Carrying out a plan.
//!
//! Owns the order: set, read back, compare. Decides nothing, and changes nothing that is not in the plan.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use super::discover_io::read_features;
use super::plan::{Action, DevicePlan, Plan};
use super::report::{Change, Changes, Outcome};
use crate::ethtool::backend_io::Backend;
use crate::ethtool::{Feature, Features};
use crate::fault::Fault;

/// Sets the feature on every device for which the plan says so, reads it back, and returns the result for each device
/// and feature. A device that fails does not stop the others.
pub fn apply(plan: &Plan<'_>, backend: &mut Backend) -> Changes {
    let mut changes = Changes::new();
    for action in [Action::TurnOff, Action::TurnOn] {
        for feature in Feature::ALL {
            set(plan, backend, action, feature, &mut changes);
        }
    }
    changes
}

fn set(
    plan: &Plan<'_>,
    backend: &mut Backend,
    action: Action,
    feature: Feature,
    changes: &mut Changes,
) {
    let chosen: Vec<&DevicePlan<'_>> = plan
        .devices
        .iter()
        .filter(|device| device.action == action && device.feature == feature)
        .collect();
    let Some(index) = plan.table.index(feature).filter(|_| !chosen.is_empty()) else {
        return;
    };
    let on = action == Action::TurnOn;
    let count = u32::try_from(plan.table.names.len()).unwrap_or(u32::MAX);
    let refs: Vec<_> = chosen
        .iter()
        .map(|d| (d.device.link.ifindex, &d.device.link.name))
        .collect();
    let sets = backend.set(&refs, feature, (index, count), on);
    // Reads back all of them: a set can fail after the kernel made the change.
    let now = read_features(backend, chosen.iter().map(|d| &d.device.link), plan.table);
    let results = chosen.iter().zip(sets.into_iter().zip(now));
    changes.extend(results.map(|(d, (set, now))| (d.key(), change(d, on, set, now, index))));
}

fn change(
    device: &DevicePlan<'_>,
    on: bool,
    set: Result<(), Fault>,
    now: Result<Features, Fault>,
    index: u32,
) -> Change {
    let before = device
        .device
        .features
        .as_ref()
        .map_or(0, |features| features.active);
    let as_asked = |now: &Features| {
        if on {
            now.state(index).wanted
        } else {
            now.state(index).off()
        }
    };
    match (set, now) {
        // Another program made the same change first.
        (Err(fault), Ok(now)) if as_asked(&now) && !fault.lost() => Change {
            outcome: Outcome::Unchanged,
            feature: Some(now.state(index)),
            also: 0,
            error: None,
        },
        (_, Ok(now)) if as_asked(&now) => {
            let differs = if on {
                now.active & !before
            } else {
                before & !now.active
            };
            let also = differs & !(1 << index);
            Change {
                outcome: Outcome::Changed,
                feature: Some(now.state(index)),
                also,
                error: None,
            }
        }
        (Ok(()), Ok(now)) => {
            let still = if on { "off" } else { "on" };
            let fault = Fault::other(
                device.feature.set(on),
                format!("the kernel accepted it and the feature is still {still}"),
            )
            .advise("see whether another program turns it back: ethtool --monitor");
            Change {
                outcome: Outcome::Refused,
                feature: Some(now.state(index)),
                also: 0,
                error: Some(fault),
            }
        }
        (Err(fault), now) => failed(fault, now.ok().map(|now| now.state(index))),
        (Ok(()), Err(fault)) => failed(fault, None),
    }
}

fn failed(fault: Fault, feature: Option<crate::ethtool::FeatureState>) -> Change {
    let outcome = if fault.gone() {
        Outcome::Gone
    } else {
        Outcome::Failed
    };
    Change {
        outcome,
        feature,
        also: 0,
        error: Some(fault),
    }
}
