//! From the cases of a run to the result for each bug.
//!
//! Owns the rules of proof. Pure.

use super::burst::Forwarding;
use super::frame::Checksum;
use super::{
    BugOutcome, BugResult, Case, CaseNat, Cause, Family, Inconclusive, Observed, OtherFamily,
    burst_verdict, plan,
};
use crate::kernel::{BugId, Trigger};
use crate::link::OuterChecksum;

/// What one case shows.
enum CaseResult<'a> {
    /// A correct packet.
    Intact,
    /// A packet that a receiver drops.
    Corrupt,
    /// No packet, or a packet that proves nothing.
    Nothing(&'a Case, Cause),
}

/// The result of the packets over one family for one bug.
#[derive(Debug)]
pub(super) struct FamilyResult {
    /// Whether the kernel has the bug.
    pub outcome: BugOutcome,
    /// True if the control worked.
    pub controlled: bool,
    /// As in [`BugResult`].
    pub cured: Option<bool>,
    /// As in [`BugResult`].
    pub cured_by_fraglist_off: Option<bool>,
}

impl FamilyResult {
    /// The result for a control that did not work.
    pub(super) fn flaw(reason: Inconclusive) -> Self {
        Self {
            outcome: BugOutcome::Inconclusive(reason),
            controlled: false,
            cured: None,
            cured_by_fraglist_off: None,
        }
    }
}

/// The result for each bug of the run.
pub fn results(
    cases: &[Case],
    failed: Option<&Inconclusive>,
    forwarding: Option<&Forwarding>,
) -> Vec<BugResult> {
    let whole = |what: &str, complete: bool| {
        (!complete).then(|| Inconclusive {
            code: Cause::SetupFailed,
            text: format!("probe: not all {what} were tried"),
        })
    };
    let of = |id: BugId| match id.describe().trigger {
        Trigger::Nat => {
            let complete = whole("packets of the matrix", complete(cases));
            let reason = failed.or(complete.as_ref()).cloned();
            Some(match reason {
                Some(reason) => inconclusive(id, reason),
                None => joined(id, |family| rewritten(id, family, cases)),
            })
        }
        Trigger::Segmentation => Some(match forwarding? {
            Forwarding::Failed(reason) => inconclusive(id, reason.clone()),
            Forwarding::NoFraglist => plain(id, BugOutcome::NotAffected),
            Forwarding::Bursts(bursts) => {
                match whole("packets to forward", burst_verdict::complete(bursts)) {
                    Some(reason) => inconclusive(id, reason),
                    None => joined(id, |family| burst_verdict::forwarded(family, bursts)),
                }
            }
        }),
    };
    BugId::ALL.into_iter().filter_map(of).collect()
}

/// True if the list has every case once and in order, so no case is missed silently.
fn complete(cases: &[Case]) -> bool {
    let key = |c: &Case| (c.outer_checksum, c.feature_on, c.family, c.nat, c.inner);
    let all = [plan::cases(true), plan::cases(false)].concat();
    cases.iter().map(key).eq(all.iter().map(key))
}

fn inconclusive(id: BugId, reason: Inconclusive) -> BugResult {
    plain(id, BugOutcome::Inconclusive(reason))
}

/// A result with only its outcome.
fn plain(id: BugId, outcome: BugOutcome) -> BugResult {
    BugResult {
        id,
        outcome,
        cured: None,
        cured_by_fraglist_off: None,
        other: None,
    }
}

/// One family is enough to show a bug. IPv4, and IPv6 if it works, have to show that there is none.
fn joined(id: BugId, over: impl Fn(Family) -> FamilyResult) -> BugResult {
    let (v4, v6) = (over(Family::Ipv4), over(Family::Ipv6));
    let affected: Vec<&FamilyResult> = [&v4, &v6]
        .into_iter()
        .filter(|shows| shows.outcome == BugOutcome::Affected)
        .collect();
    let outcome = match (&v4.outcome, &v6.outcome) {
        _ if !affected.is_empty() => BugOutcome::Affected,
        (BugOutcome::Inconclusive(reason), _) => BugOutcome::Inconclusive(reason.clone()),
        (_, BugOutcome::Inconclusive(reason)) if v6.controlled => {
            BugOutcome::Inconclusive(reason.clone())
        }
        _ => BugOutcome::NotAffected,
    };
    // One affected family without a cure is enough for no. For yes, each affected family has to show the cure.
    let cure = |of: fn(&FamilyResult) -> Option<bool>| {
        let each: Vec<Option<bool>> = affected.iter().map(|shows| of(shows)).collect();
        let all = || each.iter().copied().collect::<Option<Vec<bool>>>();
        if each.contains(&Some(false)) {
            Some(false)
        } else {
            all().filter(|all| !all.is_empty()).map(|_| true)
        }
    };
    let (cured, cured_by_fraglist_off) = (cure(|s| s.cured), cure(|s| s.cured_by_fraglist_off));
    let other = [(Family::Ipv4, v4.outcome), (Family::Ipv6, v6.outcome)]
        .into_iter()
        .filter(|_| !matches!(outcome, BugOutcome::Inconclusive(_)))
        .find(|(_, seen)| *seen != outcome)
        .map(|(family, outcome)| OtherFamily { family, outcome });
    BugResult {
        cured,
        cured_by_fraglist_off,
        other,
        ..plain(id, outcome)
    }
}

/// The result of the packets that NAT should rewrite, for one bug and one family.
fn rewritten(id: BugId, family: Family, cases: &[Case]) -> FamilyResult {
    let own: Vec<&Case> = cases
        .iter()
        .filter(|c| c.tests(id) && c.family == family)
        .collect();
    let controls = own.iter().filter(|c| c.nat == CaseNat::None);
    if let Some((case, code)) = first_flaw(controls) {
        return FamilyResult::flaw(reason(case, code));
    }
    let (outcome, cured) = judge(&own);
    FamilyResult {
        outcome,
        controlled: true,
        cured,
        cured_by_fraglist_off: None,
    }
}

/// The first control case without an intact packet.
fn first_flaw<'a>(controls: impl Iterator<Item = &'a &'a Case>) -> Option<(&'a Case, Cause)> {
    let mut controls = controls.peekable();
    controls.find_map(|case| match show(case) {
        CaseResult::Intact => None,
        CaseResult::Corrupt => Some((*case, Cause::WrongWithoutNat)),
        CaseResult::Nothing(case, code) => Some((case, code)),
    })
}

/// The outcome of the cases of one bug and one family, and whether turning the feature off cures the bug.
fn judge(cases: &[&Case]) -> (BugOutcome, Option<bool>) {
    let half = |feature_on: bool| {
        let (mut corrupt, mut nothing) = (None, None);
        for case in cases {
            if case.nat == CaseNat::None || case.feature_on != feature_on {
                continue;
            }
            match show(case) {
                CaseResult::Intact => {}
                CaseResult::Corrupt => corrupt = corrupt.or(Some(*case)),
                CaseResult::Nothing(case, code) => nothing = nothing.or(Some(reason(case, code))),
            }
        }
        (corrupt, nothing)
    };
    let (corrupt_on, nothing_on) = half(true);
    let (corrupt_off, nothing_off) = half(false);
    let outcome = match (corrupt_on, nothing_on, corrupt_off) {
        (Some(_), _, _) => BugOutcome::Affected,
        (None, Some(reason), _) => BugOutcome::Inconclusive(reason),
        (None, None, Some(case)) => {
            BugOutcome::Inconclusive(reason(case, Cause::WrongWithFeatureOff))
        }
        (None, None, None) => BugOutcome::NotAffected,
    };
    let cured = match (&outcome, corrupt_off, nothing_off) {
        (BugOutcome::Affected, Some(_), _) => Some(false),
        (BugOutcome::Affected, None, None) => Some(true),
        _ => None,
    };
    (outcome, cured)
}

fn show(case: &Case) -> CaseResult<'_> {
    let (rewritten, outer, inner) = match &case.observed {
        Observed::Missing(reason) => return CaseResult::Nothing(case, reason.code),
        Observed::Frame {
            rewritten,
            outer,
            inner,
            ..
        } => (*rewritten, *outer, *inner),
    };
    let nothing = |code| CaseResult::Nothing(case, code);
    if inner != Checksum::Valid {
        // The underlay should finish all checksums. If the inner checksum is wrong, it did not, and then the outer
        // checksum proves nothing.
        return nothing(Cause::Unfinished);
    }
    match (case.nat, rewritten) {
        (CaseNat::None, true) => return nothing(Cause::RewrittenWithoutNat),
        (CaseNat::Address | CaseNat::Port, false) => return nothing(Cause::NotRewritten),
        _ => {}
    }
    match (case.outer_checksum, outer) {
        (_, Checksum::Invalid { .. }) => CaseResult::Corrupt,
        (OuterChecksum::Zero, Checksum::Absent) | (OuterChecksum::Present, Checksum::Valid) => {
            CaseResult::Intact
        }
        _ => nothing(Cause::ModeNotKept),
    }
}

fn reason(case: &Case, code: Cause) -> Inconclusive {
    if let Observed::Missing(reason) = &case.observed {
        return Inconclusive {
            code: reason.code,
            text: format!("{} ({})", reason.text, describe(case)),
        };
    }
    let what = match code {
        Cause::Unfinished => "a packet was captured before its checksums were finished",
        Cause::NotRewritten => "NAT left a packet alone that it should have rewritten",
        Cause::RewrittenWithoutNat => "a packet was rewritten that no rule is for",
        Cause::ModeNotKept => "the VXLAN device does not keep to the outer checksum it was told",
        Cause::WrongWithoutNat => "an outer checksum is wrong without any NAT",
        Cause::WrongWithFeatureOff => {
            "an outer checksum is wrong with tx-checksum-ip-generic off and right with it on"
        }
        _ => "nothing was seen",
    };
    Inconclusive {
        code,
        text: format!("probe: {what} ({})", describe(case)),
    }
}

fn describe(case: &Case) -> String {
    format!(
        "{:?} underlay, outer checksum {:?}, NAT {:?}, inner {:?}, tx-checksum-ip-generic {}",
        case.family,
        case.outer_checksum,
        case.nat,
        case.inner,
        if case.feature_on { "on" } else { "off" }
    )
    .to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::super::{Hex, InnerProtocol};
    use super::*;

    const WRONG: Checksum = Checksum::Invalid {
        found: 1,
        expected: 2,
    };

    /// The observation of one packet: `None` if it did not arrive, else whether it was rewritten, and its outer and
    /// inner checksum.
    type Observation = Option<(bool, Checksum, Checksum)>;

    #[allow(clippy::unnecessary_wraps, reason = "one of many of this type")]
    fn intact(case: &Case) -> Observation {
        let outer = match case.outer_checksum {
            OuterChecksum::Zero => Checksum::Absent,
            _ => Checksum::Valid,
        };
        Some((case.nat != CaseNat::None, outer, Checksum::Valid))
    }

    fn run(seen: impl Fn(&Case) -> Observation) -> Vec<Case> {
        let mut cases = [plan::cases(true), plan::cases(false)].concat();
        for case in &mut cases {
            if let Some((rewritten, outer, inner)) = seen(case) {
                case.observed = Observed::Frame {
                    rewritten,
                    outer,
                    inner,
                    frame: Hex(Vec::new()),
                };
            }
        }
        cases
    }

    /// The results of the NAT bugs in the rows below.
    fn short(results: &[BugResult]) -> [String; 2] {
        [BugId::NatZeroCsum, BugId::NatLcoCsum].map(|id| {
            let result = results.iter().find(|result| result.id == id).unwrap();
            let outcome = match &result.outcome {
                BugOutcome::Affected => "affected".to_owned(),
                BugOutcome::NotAffected => "not-affected".to_owned(),
                BugOutcome::Inconclusive(reason) => format!("{:?}", reason.code),
            };
            match result.cured {
                Some(cured) => format!("{outcome} cured={cured}"),
                None => outcome,
            }
        })
    }

    /// The name, the changed packets of an intact run, their new observation, and both results.
    type VerdictCase = (
        &'static str,
        fn(&Case) -> bool,
        fn(&Case) -> Observation,
        [&'static str; 2],
    );

    #[test]
    #[allow(clippy::too_many_lines, reason = "a table")]
    fn results_of_changed_runs() {
        let v6 = |c: &Case| c.family == Family::Ipv6;
        let nat = |c: &Case| c.nat != CaseNat::None;
        let present = |c: &Case| c.outer_checksum == OuterChecksum::Present;
        let rows: &[VerdictCase] = &[
            (
                "nothing wrong",
                |_| false,
                intact,
                ["not-affected", "not-affected"],
            ),
            (
                "the kernels before ea64d8d6c675",
                |c| c.nat != CaseNat::None && c.feature_on,
                |_| Some((true, WRONG, Checksum::Valid)),
                ["affected cured=true", "affected cured=true"],
            ),
            (
                "today's kernels",
                |c| {
                    c.nat != CaseNat::None
                        && c.feature_on
                        && c.outer_checksum == OuterChecksum::Present
                },
                |_| Some((true, WRONG, Checksum::Valid)),
                ["not-affected", "affected cured=true"],
            ),
            (
                "one packet is enough",
                |c| {
                    c.feature_on
                        && (c.outer_checksum, c.family, c.nat, c.inner)
                            == (
                                OuterChecksum::Zero,
                                Family::Ipv6,
                                CaseNat::Port,
                                InnerProtocol::Tcp,
                            )
                },
                |_| Some((true, WRONG, Checksum::Valid)),
                ["affected cured=true", "not-affected"],
            ),
            (
                "no cure",
                |c| c.nat != CaseNat::None && c.outer_checksum == OuterChecksum::Present,
                |_| Some((true, WRONG, Checksum::Valid)),
                ["not-affected", "affected cured=false"],
            ),
            (
                "cure not seen",
                |c| c.nat == CaseNat::Port && c.outer_checksum == OuterChecksum::Present,
                |c| c.feature_on.then_some((true, WRONG, Checksum::Valid)),
                ["not-affected", "affected"],
            ),
            (
                "wrong only with the feature off",
                |c| c.nat == CaseNat::Port && !c.feature_on,
                |_| Some((true, WRONG, Checksum::Valid)),
                ["WrongWithFeatureOff", "WrongWithFeatureOff"],
            ),
            (
                "wrong without NAT",
                |c| c.outer_checksum == OuterChecksum::Present,
                |c| Some((c.nat != CaseNat::None, WRONG, Checksum::Valid)),
                ["not-affected", "WrongWithoutNat"],
            ),
            (
                "nothing arrives",
                |_| true,
                |_| None,
                ["NoPacket", "NoPacket"],
            ),
            (
                "one packet lost",
                |c| c.feature_on && c.nat == CaseNat::Port && c.inner == InnerProtocol::Udp,
                |_| None,
                ["NoPacket", "NoPacket"],
            ),
            (
                "one packet lost, another corrupt",
                |c| c.feature_on && c.nat == CaseNat::Port,
                |c| (c.inner == InnerProtocol::Udp).then_some((true, WRONG, Checksum::Valid)),
                ["affected cured=true", "affected cured=true"],
            ),
            (
                "NAT does not work",
                |c| c.nat == CaseNat::Address,
                |c| intact(c).map(|(_, outer, inner)| (false, outer, inner)),
                ["NotRewritten", "NotRewritten"],
            ),
            (
                "a corrupt packet that was not rewritten proves nothing",
                |c| c.nat == CaseNat::Address,
                |_| Some((false, WRONG, Checksum::Valid)),
                ["NotRewritten", "NotRewritten"],
            ),
            (
                "NAT of someone else",
                |c| c.nat == CaseNat::None,
                |c| intact(c).map(|(_, outer, inner)| (true, outer, inner)),
                ["RewrittenWithoutNat", "RewrittenWithoutNat"],
            ),
            (
                "the underlay does not finish checksums",
                |c| c.feature_on,
                |c| intact(c).map(|(rewritten, _, _)| (rewritten, WRONG, WRONG)),
                ["Unfinished", "Unfinished"],
            ),
            (
                "never an outer checksum",
                |_| true,
                |c| Some((c.nat != CaseNat::None, Checksum::Absent, Checksum::Valid)),
                ["not-affected", "ModeNotKept"],
            ),
            (
                "always an outer checksum",
                |_| true,
                |c| Some((c.nat != CaseNat::None, Checksum::Valid, Checksum::Valid)),
                ["ModeNotKept", "not-affected"],
            ),
            (
                "no IPv6",
                |c| c.family == Family::Ipv6,
                |_| None,
                ["not-affected", "not-affected"],
            ),
            (
                "IPv6 works and its NAT does not",
                |c| c.family == Family::Ipv6 && c.nat != CaseNat::None,
                |c| intact(c).map(|(_, outer, inner)| (false, outer, inner)),
                ["NotRewritten", "NotRewritten"],
            ),
            (
                "only IPv6 works, and is fine",
                |c| c.family == Family::Ipv4,
                |_| None,
                ["NoPacket", "NoPacket"],
            ),
            (
                "only IPv6 works, and is corrupt",
                |c| c.feature_on || c.family == Family::Ipv4,
                |c| match (c.family, c.nat) {
                    (Family::Ipv4, _) => None,
                    (_, CaseNat::None) => intact(c),
                    _ => Some((true, WRONG, Checksum::Valid)),
                },
                ["affected cured=true", "affected cured=true"],
            ),
        ];
        for (name, changed, change, expected) in rows {
            let cases = run(|c| if changed(c) { change(c) } else { intact(c) });
            assert_eq!(short(&results(&cases, None, None)), *expected, "{name}");
        }
        // Corrupt over IPv4 and cured there; over IPv6 the cure was not seen.
        let cases = run(|c| match (nat(c) && present(c), c.feature_on, v6(c)) {
            (true, true, _) => Some((true, WRONG, Checksum::Valid)),
            (true, false, true) => None,
            _ => intact(c),
        });
        assert_eq!(
            short(&results(&cases, None, None)),
            ["not-affected", "affected"]
        );
    }

    #[test]
    fn a_failed_or_incomplete_run_proves_nothing() {
        let reason = Inconclusive {
            code: Cause::NoVxlan,
            text: "x".to_owned(),
        };
        let whole = run(intact);
        assert_eq!(
            short(&results(&whole, Some(&reason), None)),
            ["NoVxlan", "NoVxlan"]
        );
        assert_eq!(
            short(&results(&[], None, None)),
            ["SetupFailed", "SetupFailed"]
        );
        for lost in 0..whole.len() {
            let mut cases = whole.clone();
            cases.remove(lost);
            assert_eq!(
                short(&results(&cases, None, None)),
                ["SetupFailed", "SetupFailed"]
            );
            cases.insert(lost, whole[(lost + 1) % whole.len()].clone());
            assert_eq!(
                short(&results(&cases, None, None)),
                ["SetupFailed", "SetupFailed"]
            );
        }
    }
}
