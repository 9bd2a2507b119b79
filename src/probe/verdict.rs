//! From the cases of a run to what they say about each bug.
//!
//! Owns the rules of proof: what counts as seen, what proves nothing. Pure.

use super::burst::Forwarding;
use super::frame::Checksum;
use super::{
    BugOutcome, BugResult, Case, CaseNat, Cause, Family, Inconclusive, Observed, OtherFamily,
    burst_verdict, plan,
};
use crate::kernel::{BugId, Trigger};
use crate::link::OuterChecksum;

/// What one case shows.
enum Shown<'a> {
    /// A packet as it should be.
    Intact,
    /// A packet that a receiver drops.
    Corrupt,
    /// Nothing.
    Nothing(&'a Case, Cause),
}

/// What the packets over one family say about a bug.
#[derive(Debug)]
pub(super) struct Shows {
    /// Whether it is there.
    pub outcome: BugOutcome,
    /// Whether the control was as it should be.
    pub controlled: bool,
    /// As in [`BugResult`].
    pub cured: Option<bool>,
    /// As in [`BugResult`].
    pub cured_by_fraglist_off: Option<bool>,
}

impl Shows {
    /// That the scene is not to be trusted.
    pub(super) fn flaw(reason: Inconclusive) -> Self {
        Self {
            outcome: BugOutcome::Inconclusive(reason),
            controlled: false,
            cured: None,
            cured_by_fraglist_off: None,
        }
    }
}

/// The result for each bug that the run is about.
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
            Forwarding::NoFraglist => shown(id, BugOutcome::NotAffected),
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

/// Whether these are all the cases there are, once each and in order: no case may be missed silently.
fn complete(cases: &[Case]) -> bool {
    let key = |c: &Case| (c.outer_checksum, c.feature_on, c.family, c.nat, c.inner);
    let all = [plan::cases(true), plan::cases(false)].concat();
    cases.iter().map(key).eq(all.iter().map(key))
}

fn inconclusive(id: BugId, reason: Inconclusive) -> BugResult {
    shown(id, BugOutcome::Inconclusive(reason))
}

/// A result that says no more than its outcome.
fn shown(id: BugId, outcome: BugOutcome) -> BugResult {
    BugResult {
        id,
        outcome,
        cured: None,
        cured_by_fraglist_off: None,
        other: None,
    }
}

/// One family is enough to show a bug. IPv4, and IPv6 if it works, have to show that there is none.
fn joined(id: BugId, over: impl Fn(Family) -> Shows) -> BugResult {
    let (v4, v6) = (over(Family::Ipv4), over(Family::Ipv6));
    let affected: Vec<&Shows> = [&v4, &v6]
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
    let cure = |of: fn(&Shows) -> Option<bool>| {
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
        ..shown(id, outcome)
    }
}

/// What the packets that NAT is to rewrite say about a bug over one family.
fn rewritten(id: BugId, family: Family, cases: &[Case]) -> Shows {
    let own: Vec<&Case> = cases
        .iter()
        .filter(|c| c.tests(id) && c.family == family)
        .collect();
    let controls = own.iter().filter(|c| c.nat == CaseNat::None);
    if let Some((case, code)) = first_flaw(controls) {
        return Shows::flaw(reason(case, code));
    }
    let (outcome, cured) = judge(&own);
    Shows {
        outcome,
        controlled: true,
        cured,
        cured_by_fraglist_off: None,
    }
}

/// The first control that does not show an intact packet.
fn first_flaw<'a>(controls: impl Iterator<Item = &'a &'a Case>) -> Option<(&'a Case, Cause)> {
    let mut controls = controls.peekable();
    controls.find_map(|case| match show(case) {
        Shown::Intact => None,
        Shown::Corrupt => Some((*case, Cause::WrongWithoutNat)),
        Shown::Nothing(case, code) => Some((case, code)),
    })
}

/// What the cases of one bug and one family say, and whether the feature being off is a cure.
fn judge(cases: &[&Case]) -> (BugOutcome, Option<bool>) {
    let half = |feature_on: bool| {
        let (mut corrupt, mut nothing) = (None, None);
        for case in cases {
            if case.nat == CaseNat::None || case.feature_on != feature_on {
                continue;
            }
            match show(case) {
                Shown::Intact => {}
                Shown::Corrupt => corrupt = corrupt.or(Some(*case)),
                Shown::Nothing(case, code) => nothing = nothing.or(Some(reason(case, code))),
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

fn show(case: &Case) -> Shown<'_> {
    let (rewritten, outer, inner) = match &case.observed {
        Observed::Missing(reason) => return Shown::Nothing(case, reason.code),
        Observed::Frame {
            rewritten,
            outer,
            inner,
            ..
        } => (*rewritten, *outer, *inner),
    };
    let nothing = |code| Shown::Nothing(case, code);
    if inner != Checksum::Valid {
        // The underlay was to finish all checksums. If the inner one is not right, it did not, and the outer one says
        // nothing either.
        return nothing(Cause::Unfinished);
    }
    match (case.nat, rewritten) {
        (CaseNat::None, true) => return nothing(Cause::RewrittenWithoutNat),
        (CaseNat::Address | CaseNat::Port, false) => return nothing(Cause::NotRewritten),
        _ => {}
    }
    match (case.outer_checksum, outer) {
        (_, Checksum::Invalid { .. }) => Shown::Corrupt,
        (OuterChecksum::Zero, Checksum::Absent) | (OuterChecksum::Present, Checksum::Valid) => {
            Shown::Intact
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

    /// What happens to one packet: nothing arrives, or rewritten, outer and inner checksum.
    type Seen = Option<(bool, Checksum, Checksum)>;

    #[allow(clippy::unnecessary_wraps, reason = "one of many of this type")]
    fn intact(case: &Case) -> Seen {
        let outer = match case.outer_checksum {
            OuterChecksum::Zero => Checksum::Absent,
            _ => Checksum::Valid,
        };
        Some((case.nat != CaseNat::None, outer, Checksum::Valid))
    }

    fn run(seen: impl Fn(&Case) -> Seen) -> Vec<Case> {
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

    /// The results of the NAT bugs that the rows below are about.
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

    /// Name, which packets of an intact run are changed, what becomes of them, and both results.
    type VerdictCase = (
        &'static str,
        fn(&Case) -> bool,
        fn(&Case) -> Seen,
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
        // Corrupt over IPv4 and cured there, the cure over IPv6 not seen.
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
