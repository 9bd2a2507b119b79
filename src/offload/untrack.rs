//! Deciding for each device about the rule that leaves its outer packets untracked, so no NAT sees them.
//!
//! Owns the decision to use a rule instead of turning the offload off. Pure: `node_io` keeps the table, `nat::nft::own`
//! defines its content.

use super::facts::{Facts, RuleHistory, Unusable};
use super::judge::{Reason, ReasonCode};
use super::plan::{Action, Wait};
use crate::nat::exposure::{Exposure, NoCure, Untracked};
use crate::nat::nft::own::{OwnTable, TEXT};
use crate::policy::{AssumeExposure, Cure, Policy, PolicyRule};

/// What to do about the rule for a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RuleStep {
    /// Nothing: the rule is in place, or none is needed.
    #[default]
    Leave,
    /// Add a rule for these packets.
    Add(Untracked),
    /// Remove the rule.
    Remove,
}

/// A change in the record of a device for which vxcsum keeps a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleNote {
    /// NAT cannot rewrite the outer packets, from now on.
    NotExposed,
    /// NAT can rewrite the outer packets again, or that is not known.
    MayBeExposed,
    /// Other programs have removed the rule too often. vxcsum backs off.
    GiveUp,
}

/// The decision about the rule for a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RulePlan {
    pub step: RuleStep,
    /// A change of the record.
    pub note: Option<RuleNote>,
    /// The packets of the rule that exists or must be added.
    pub packets: Option<Untracked>,
    /// A read has found the rule.
    pub in_place: bool,
}

/// The rule that the policy wants instead of turning the offload off, or why a rule is not enough. `None` if the policy
/// wants no rule.
pub type Asked = Option<Result<Untracked, String>>;

/// For a device that must be off for this reason.
pub fn asked(
    policy: &Policy,
    rule: Option<&PolicyRule>,
    exposure: &Exposure,
    code: ReasonCode,
) -> Asked {
    if policy.cure_for(rule).0 != Cure::Notrack {
        return None;
    }
    let found = exposure
        .exposed()
        .filter(|_| code == ReasonCode::Exposed)
        .map(|found| &found.notrack);
    let unknown_is_harmless = policy.unknown_exposure_for(rule).0 == AssumeExposure::NotExposed;
    Some(match found {
        Some(Ok(packets)) => Ok(*packets),
        Some(Err(NoCure::NotKnown(packets, _))) if unknown_is_harmless => Ok(*packets),
        Some(Err(why)) => Err(why.to_string()),
        None if code == ReasonCode::ExposureUnknown => {
            Err("it is not known that NAT here is the cause".to_owned())
        }
        None => Err("the policy asks for the offload to be off, whatever NAT does".to_owned()),
    })
}

/// The effect of a rule on the decision.
pub enum Cured {
    /// The rule exists or will exist: the offload need not be off.
    Yes,
    /// There is no rule. Holds the reason if the policy wants one.
    No(Option<String>),
}

/// True if a read has found a rule for these packets in the table.
fn held(facts: &Facts, packets: Untracked) -> bool {
    match &facts.own_table {
        Some(Ok(OwnTable::Made(all))) => all.contains(&packets),
        _ => false,
    }
}

/// Decides about the rule for a device. `wait` is how long a rule that is not needed stays. `open` is true if the
/// offload must be off and is still on.
pub(super) fn decide_rule(
    facts: &Facts,
    history: &RuleHistory,
    asked: &Asked,
    wait: &Wait,
    why: ReasonCode,
    open: bool,
) -> (RulePlan, Cured) {
    let held = |packets| held(facts, packets);
    let not_read = match &facts.own_table {
        Some(Err(fault)) => Some(format!("{}: {}", fault.operation, fault.text)),
        _ => None,
    };
    let mut plan = RulePlan {
        packets: history.packets,
        in_place: history.packets.is_some_and(held),
        ..RulePlan::default()
    };
    let refusal = match asked {
        Some(Ok(packets)) => {
            let known = history.packets == Some(*packets);
            let in_place = known && held(*packets);
            let unusable = history
                .unusable
                .as_ref()
                .filter(|_| known && (!in_place || history.in_backoff));
            match (unusable, not_read) {
                (None, None) => {
                    plan.packets = Some(*packets);
                    plan.in_place = in_place;
                    if !in_place {
                        plan.step = RuleStep::Add(*packets);
                    }
                    plan.note = history.not_exposed_for.map(|_| RuleNote::MayBeExposed);
                    return (plan, Cured::Yes);
                }
                (Some(Unusable::Contested(conflict)), _) => {
                    plan.note = (!history.in_backoff).then_some(RuleNote::GiveUp);
                    Some(format!(
                        "A rule notrack would suffice, but another program deleted table {TEXT} {} times within a minute. vxcsum \
                         makes it again {conflict}",
                        conflict.times
                    ))
                }
                (Some(Unusable::Refused(said)), _) => Some(format!(
                    "A rule notrack would suffice, but the kernel refuses it: {said}"
                )),
                (None, Some(said)) => Some(format!(
                    "A rule notrack would suffice, but vxcsum could not read whether it is there: {said}"
                )),
            }
        }
        Some(Err(why)) => Some(format!("vxcsum makes no rule notrack: {why}")),
        None => None,
    };
    // An entry in backoff stays in the record until its time is over.
    let given_up = matches!(asked, Some(Ok(_)));
    if history.packets.is_some() && !given_up && why != ReasonCode::NoPeersYet {
        match (wait, history.not_exposed_for) {
            // The offload goes off first.
            (Wait::Over, _) if open => {}
            (Wait::Over, _) => plan.step = RuleStep::Remove,
            (_, None) => plan.note = Some(RuleNote::NotExposed),
            (_, Some(_)) => {}
        }
    }
    (plan, Cured::No(refusal))
}

/// The reason for a device that a rule cures, whether the rule exists or must be added.
pub fn cured(plan: &RulePlan, why: &Reason) -> Reason {
    let rule = plan.packets.map(|packets| packets.rule());
    let rule = rule.unwrap_or_default();
    if plan.in_place {
        Reason {
            code: ReasonCode::AlreadyUntracked,
            text: format!(
                "no NAT sees the outer packets, because vxcsum keeps the rule `{rule}` in table {TEXT}. Without the rule: {}",
                why.text
            )
            .into(),
        }
    } else {
        Reason {
            code: why.code,
            text: format!(
                "{}. The policy says cure = \"notrack\": the rule `{rule}` in table {TEXT} keeps NAT off them, and the offload stays on",
                why.text
            )
            .into(),
        }
    }
}

/// `revert` removes all rules.
pub fn revert(facts: &Facts, history: &RuleHistory) -> RulePlan {
    let step = match history.packets {
        Some(_) => RuleStep::Remove,
        None => RuleStep::Leave,
    };
    RulePlan {
        step,
        packets: history.packets,
        in_place: history.packets.is_some_and(|packets| held(facts, packets)),
        note: None,
    }
}

/// The action, the reason and the seconds until the rule is removed, for a device whose features do not change. `wait`
/// is how long a rule that is not needed stays. `of_nat` is the judgement about NAT.
pub(super) fn act(
    history: &RuleHistory,
    plan: &RulePlan,
    wait: Option<&Wait>,
    of_nat: &Reason,
    why: Reason,
) -> (Action, Reason, Option<u64>) {
    match (plan.step, wait) {
        (RuleStep::Add(_), _) => (Action::AddRule, why, None),
        (RuleStep::Remove, Some(wait)) => (Action::RemoveRule, not_needed(wait, of_nat), None),
        _ if history.changed && plan.in_place => (Action::AddRule, why, None),
        _ if history.changed && history.packets.is_none() => {
            (Action::RemoveRule, not_needed(&Wait::Over, of_nat), None)
        }
        (RuleStep::Leave, Some(wait))
            if history.packets.is_some() && of_nat.code != ReasonCode::NoPeersYet =>
        {
            (Action::Leave, not_needed(wait, of_nat), wait.seconds())
        }
        _ => (Action::Leave, why, None),
    }
}

/// The reason for removing the rule, or for keeping it for now.
fn not_needed(wait: &Wait, why: &Reason) -> Reason {
    let ours = match wait {
        Wait::Over => "the rule notrack that vxcsum made is not needed any more".to_owned(),
        Wait::Seconds(_, whole) => format!(
            "vxcsum keeps a rule notrack. vxcsum removes it after {} without need",
            super::plan::duration(*whole)
        ),
        Wait::ForEver => {
            "vxcsum keeps a rule notrack. It stays, because the policy says give-back-after = \"never\""
                .to_owned()
        }
    };
    Reason {
        code: why.code,
        text: format!("{ours}: {}", why.text).into(),
    }
}
