//! Deciding, for each device, about the rule that leaves its outer packets untracked, so that no NAT sees them.
//!
//! Owns when a rule is used in place of turning the offload off. Pure: `node_io` keeps the table, `nat::nft::own` says what is in it.

use super::facts::{Facts, RuleHistory, Unusable};
use super::plan::{Action, Reason, ReasonCode, Wait};
use crate::nat::exposure::{Exposure, NoCure, Untracked};
use crate::nat::nft::own::{OwnTable, TEXT};
use crate::policy::{AssumeExposure, Cure, Policy, PolicyRule};

/// What is to be done about the rule for a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RuleStep {
    /// It is as it should be, or there is none.
    #[default]
    Leave,
    /// It has to be made, for these packets.
    Add(Untracked),
    /// It is not needed any more.
    Remove,
}

/// What a look adds to the record of a device that vxcsum keeps a rule for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleNote {
    /// From now on NAT cannot rewrite its outer packets.
    NotExposed,
    /// That is no longer so, or not known.
    MayBeExposed,
    /// Others have taken the rule away too often: it is not tried for a while.
    GiveUp,
}

/// The decision about the rule for a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RulePlan {
    /// What to do.
    pub step: RuleStep,
    /// What the record does not say yet.
    pub note: Option<RuleNote>,
    /// The packets of the rule that is there or has to be made.
    pub packets: Option<Untracked>,
    /// It is there: it was read.
    pub in_place: bool,
}

/// Whether a rule is asked for in place of turning the offload off, and suffices, or why not. `None` if the policy asks for none.
pub type Asked = Option<Result<Untracked, String>>;

/// Of a device that must be off for this reason.
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
        None => Err("the policy asks for it whatever NAT does".to_owned()),
    })
}

/// What comes of the wish for a rule.
pub enum Cured {
    /// The rule is there, or will be: the offload need not be off.
    Yes,
    /// There is none; why, if one was asked for.
    No(Option<String>),
}

/// Whether the table was found to hold a rule for these packets.
fn held(facts: &Facts, packets: Untracked) -> bool {
    match &facts.own_table {
        Some(Ok(OwnTable::Made(all))) => all.contains(&packets),
        _ => false,
    }
}

/// Decides about the rule for a device. `wait` says how long one that is not needed stays; `open` that the offload must be off and is
/// not yet.
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
                (Some(Unusable::Contested(times)), _) => {
                    plan.note = (!history.in_backoff).then_some(RuleNote::GiveUp);
                    Some(format!(
                        "a rule notrack would suffice, but another program has taken table {TEXT} away {times} times in a short while"
                    ))
                }
                (Some(Unusable::Refused(said)), _) => Some(format!(
                    "a rule notrack would suffice, but the kernel does not take it: {said}"
                )),
                (None, Some(said)) => Some(format!(
                    "a rule notrack would suffice, but it is not known whether it is there: {said}"
                )),
            }
        }
        Some(Err(why)) => Some(format!("a rule notrack is not used: {why}")),
        None => None,
    };
    // One that is given up is kept in the record: its time is not over.
    let given_up = matches!(asked, Some(Ok(_)));
    if history.packets.is_some() && !given_up && why != ReasonCode::NoPeersYet {
        match (wait, history.not_exposed_for) {
            // First the offload goes off.
            (Wait::Over, _) if open => {}
            (Wait::Over, _) => plan.step = RuleStep::Remove,
            (_, None) => plan.note = Some(RuleNote::NotExposed),
            (_, Some(_)) => {}
        }
    }
    (plan, Cured::No(refusal))
}

/// Why a device is cured by a rule that is there or has to be made.
pub fn cured(plan: &RulePlan, why: &Reason) -> Reason {
    let rule = plan.packets.map(|packets| packets.rule());
    let rule = rule.unwrap_or_default();
    if plan.in_place {
        Reason {
            code: ReasonCode::AlreadyUntracked,
            text: format!(
                "no NAT sees the outer packets, for vxcsum keeps the rule `{rule}` in {TEXT}. Without it: {}",
                why.text
            )
            .into(),
        }
    } else {
        Reason {
            code: why.code,
            text: format!(
                "{}. The policy says cure = \"notrack\": the rule `{rule}` in {TEXT} keeps NAT off them, and the offload stays on",
                why.text
            )
            .into(),
        }
    }
}

/// `revert`: no rule stays.
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

/// What is said of a device about whose feature nothing is to be done: the action, why, and in how many seconds its rule goes. `wait`
/// says how long a rule that is not needed stays, `of_nat` what was judged about NAT.
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

/// Why a rule goes, or stays for now.
fn not_needed(wait: &Wait, why: &Reason) -> Reason {
    let ours = match wait {
        Wait::Over => "the rule notrack that vxcsum made is not needed any more".to_owned(),
        Wait::Seconds(_, whole) => format!(
            "vxcsum keeps a rule notrack, and removes it when it has not been needed for {}",
            super::plan::duration(*whole)
        ),
        Wait::ForEver => {
            "vxcsum keeps a rule notrack, and the policy says give-back-after = \"never\""
                .to_owned()
        }
    };
    Reason {
        code: why.code,
        text: format!("{ours}: {}", why.text).into(),
    }
}
