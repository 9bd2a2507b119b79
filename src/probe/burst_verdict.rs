//! The verdict about gso-lco-csum, from the bursts of a run.
//!
//! Owns the rules of proof: when the counts show a second segmentation, and when they prove nothing. Pure.

use super::burst::{self, Below, Burst, BurstObserved, Counts};
use super::verdict::FamilyResult;
use super::{BugOutcome, Cause, Family, Inconclusive};
use crate::ethtool::Feature;

/// Whether every burst is there, once and in order.
pub(super) fn complete(bursts: &[Burst]) -> bool {
    let key = |b: &Burst| (b.family, b.below, b.off);
    bursts.iter().map(key).eq(burst::bursts().iter().map(key))
}

/// The conclusion from the bursts over one family.
pub(super) fn forwarded(family: Family, bursts: &[Burst]) -> FamilyResult {
    let (mut outcome, mut by_checksum, mut by_fraglist) = (None, None, None);
    for burst in bursts.iter().filter(|b| b.family == family) {
        match (burst.below, burst.off) {
            (Below::Underlay, _) => {
                if let Some(reason) = flaw(burst) {
                    return FamilyResult::flaw(reason);
                }
            }
            (Below::Macvlan, None) => outcome = Some(judge(burst)),
            (Below::Macvlan, Some(Feature::Checksum)) => by_checksum = arrived_intact(burst).ok(),
            (Below::Macvlan, Some(Feature::Fraglist)) => by_fraglist = arrived_intact(burst).ok(),
        }
    }
    let outcome = outcome.unwrap_or_else(|| {
        BugOutcome::Inconclusive(Inconclusive {
            code: Cause::SetupFailed,
            text: "probe: nothing was forwarded".to_owned(),
        })
    });
    let affected = outcome == BugOutcome::Affected;
    FamilyResult {
        outcome,
        controlled: true,
        cured: by_checksum.filter(|_| affected),
        cured_by_fraglist_off: by_fraglist.filter(|_| affected),
    }
}

/// The reason why a control fails. In a good control GRO merges the segments, and all of them arrive with correct checksums.
fn flaw(control: &Burst) -> Option<Inconclusive> {
    match arrived_intact(control) {
        Err(reason) => Some(reason),
        Ok(false) => Some(reason(control, Cause::WrongSegmentedOnce)),
        Ok(true) if !control.counts().is_some_and(Counts::merged) => {
            Some(reason(control, Cause::NotMerged))
        }
        Ok(true) => None,
    }
}

fn judge(burst: &Burst) -> BugOutcome {
    match arrived_intact(burst) {
        Err(reason) => BugOutcome::Inconclusive(reason),
        Ok(_) if !burst.counts().is_some_and(Counts::segmented_twice) => {
            BugOutcome::Inconclusive(reason(burst, Cause::NotSegmentedTwice))
        }
        Ok(true) => BugOutcome::NotAffected,
        Ok(false) => BugOutcome::Affected,
    }
}

/// Whether every outer checksum of the burst was right. One wrong checksum is enough for no. For yes, all packets have to arrive.
fn arrived_intact(burst: &Burst) -> Result<bool, Inconclusive> {
    let counts = match &burst.observed {
        BurstObserved::Counted(counts) => counts,
        BurstObserved::Missing(missing) => {
            return Err(Inconclusive {
                code: missing.code,
                text: format!("{} ({})", missing.text, describe(burst)),
            });
        }
    };
    match counts {
        // The underlay has to finish all checksums. A wrong inner checksum shows that it did not.
        _ if counts.unfinished > 0 => Err(reason(burst, Cause::Unfinished)),
        _ if counts.none > 0 => Err(reason(burst, Cause::ModeNotKept)),
        _ if counts.wrong > 0 => Ok(false),
        _ if !counts.whole() => Err(reason(burst, Cause::NoPacket)),
        _ => Ok(true),
    }
}

fn reason(burst: &Burst, code: Cause) -> Inconclusive {
    let what = match code {
        Cause::Unfinished => "a packet was captured before its checksums were finished",
        Cause::ModeNotKept => "the VXLAN device does not keep to the outer checksum it was told",
        Cause::WrongSegmentedOnce => {
            "an outer checksum is wrong though packets were segmented only once"
        }
        Cause::NotMerged => {
            "segments were forwarded one by one: GRO on veth, which kernels have since 5.13, did not merge them"
        }
        Cause::NotSegmentedTwice => "packets were not segmented twice on their way",
        _ => "not all segments arrived",
    };
    Inconclusive {
        code,
        text: format!("probe: {what} ({})", describe(burst)),
    }
}

fn describe(burst: &Burst) -> String {
    let family = match burst.family {
        Family::Ipv4 => "IPv4",
        Family::Ipv6 => "IPv6",
    };
    let below = match burst.below {
        Below::Underlay => "straight on the underlay",
        Below::Macvlan => "over macvlan",
    };
    let off = burst
        .off
        .map(|feature| format!(", {} off", feature.as_str()));
    let counts = burst.counts().map(|counts| {
        let (vxlan, below, arrived) = (counts.vxlan, counts.below, counts.arrived());
        format!(": {vxlan} packets, then {below}, then {arrived}")
    });
    let (off, counts) = (off.unwrap_or_default(), counts.unwrap_or_default());
    format!("forwarded into VXLAN {below}, {family}{off}{counts}")
}

#[cfg(test)]
mod tests {
    use super::super::verdict::results;
    use super::super::{Family, Hex};
    use super::*;
    use crate::kernel::BugId;
    use crate::probe::burst::{Forwarding, SEGMENTS};

    const ALL: u64 = SEGMENTS as u64;

    /// The counts: vxlan, below, right, wrong, none, unfinished.
    type Counted = [u64; 6];
    /// The observation on a kernel with the bug.
    const ONCE: Counted = [2, ALL, ALL, 0, 0, 0];
    const TWICE_WRONG: Counted = [2, 5, 1, ALL - 1, 0, 0];
    const TWICE_RIGHT: Counted = [2, 5, ALL, 0, 0, 0];
    const FRAGLIST_OFF: Counted = [5, 5, ALL, 0, 0, 0];
    const CHECKSUM_OFF: Counted = [ALL, ALL, ALL, 0, 0, 0];
    const NOTHING: Counted = [0; 6];

    fn counted([vxlan, below, right, wrong, none, unfinished]: Counted) -> BurstObserved {
        let counts = Counts {
            vxlan,
            below,
            right,
            wrong,
            none,
            unfinished,
            frame: Hex(Vec::new()),
        };
        if counts.arrived() == 0 {
            return burst::bursts()[0].observed.clone();
        }
        BurstObserved::Counted(counts)
    }

    /// The control, the bug and the cures, for each family.
    fn run(seen: &[[Counted; 4]; 2]) -> Vec<Burst> {
        let mut bursts = burst::bursts();
        for (burst, seen) in bursts.iter_mut().zip(seen.concat()) {
            burst.observed = counted(seen);
        }
        bursts
    }

    fn short(forwarding: &Forwarding) -> String {
        let results = results(&[], None, Some(forwarding));
        let result = results.iter().find(|r| r.id == BugId::GsoLcoCsum).unwrap();
        let word = |outcome: &BugOutcome| match outcome {
            BugOutcome::Affected => "affected".to_owned(),
            BugOutcome::NotAffected => "not-affected".to_owned(),
            BugOutcome::Inconclusive(reason) => reason.code.as_str().to_owned(),
        };
        let cure = |name: &str, cured: Option<bool>| match cured {
            Some(cured) => format!(" {name}={cured}"),
            None => String::new(),
        };
        let other = result
            .other
            .as_ref()
            .map(|other| format!(", {} {}", other.family.as_str(), word(&other.outcome)));
        [
            word(&result.outcome),
            cure("checksum", result.cured),
            cure("fraglist", result.cured_by_fraglist_off),
            other.unwrap_or_default(),
        ]
        .concat()
    }

    const AFFECTED: [Counted; 4] = [ONCE, TWICE_WRONG, FRAGLIST_OFF, CHECKSUM_OFF];
    const FIXED: [Counted; 4] = [ONCE, TWICE_RIGHT, FRAGLIST_OFF, CHECKSUM_OFF];

    #[test]
    #[allow(clippy::too_many_lines, reason = "a table")]
    fn what_follows_from_what_was_forwarded() {
        let with = |n: usize, seen: Counted, of: [Counted; 4]| {
            let mut of = of;
            of[n] = seen;
            of
        };
        let both = |of: [Counted; 4]| [of, of];
        let lost = [2, 5, ALL - 1, 0, 0, 0];
        for (name, seen, expected) in [
            (
                "today's kernels",
                both(AFFECTED),
                "affected checksum=true fraglist=true",
            ),
            ("a fixed kernel", both(FIXED), "not-affected"),
            (
                "one packet is enough",
                both(with(1, [2, 5, ALL - 1, 1, 0, 0], AFFECTED)),
                "affected checksum=true fraglist=true",
            ),
            (
                "one packet is enough, others being lost",
                both(with(1, [2, 5, 20, 20, 0, 0], AFFECTED)),
                "affected checksum=true fraglist=true",
            ),
            (
                "corrupt over IPv6 only",
                [FIXED, AFFECTED],
                "affected checksum=true fraglist=true, ipv4 not-affected",
            ),
            (
                "corrupt over IPv4, and no IPv6",
                [AFFECTED, [NOTHING; 4]],
                "affected checksum=true fraglist=true, ipv6 no-packet",
            ),
            (
                "fine, and no IPv6",
                [FIXED, [NOTHING; 4]],
                "not-affected, ipv6 no-packet",
            ),
            ("no IPv4", [[NOTHING; 4], FIXED], "no-packet"),
            (
                "the mild cure is none",
                both(with(2, [5, 5, 1, ALL - 1, 0, 0], AFFECTED)),
                "affected checksum=true fraglist=false",
            ),
            (
                "the mild cure is none over IPv6",
                [AFFECTED, with(2, [5, 5, 1, ALL - 1, 0, 0], AFFECTED)],
                "affected checksum=true fraglist=false",
            ),
            (
                "a cure not shown over IPv6",
                [AFFECTED, with(3, NOTHING, AFFECTED)],
                "affected fraglist=true",
            ),
            (
                "a cure with a lost packet",
                both(with(2, lost, AFFECTED)),
                "affected checksum=true",
            ),
            (
                "wrong without a second segmentation",
                both(with(0, [2, ALL, ALL - 1, 1, 0, 0], AFFECTED)),
                "wrong-segmented-once",
            ),
            (
                "GRO does not merge",
                both(with(0, [ALL, ALL, ALL, 0, 0, 0], AFFECTED)),
                "not-merged",
            ),
            (
                "a packet of the control is lost",
                both(with(0, lost, AFFECTED)),
                "no-packet",
            ),
            (
                "macvlan does not split",
                both(with(1, [2, 2, ALL, 0, 0, 0], AFFECTED)),
                "not-segmented-twice",
            ),
            (
                "macvlan does not split, and the kernel sends two packets of its own",
                both(with(1, [2, 4, ALL, 0, 0, 0], AFFECTED)),
                "not-segmented-twice",
            ),
            (
                "macvlan segments all",
                both(with(1, [2, ALL, ALL, 0, 0, 0], AFFECTED)),
                "not-segmented-twice",
            ),
            (
                "corrupt packets that were not segmented twice prove nothing",
                both(with(1, [2, ALL, 1, ALL - 1, 0, 0], AFFECTED)),
                "not-segmented-twice",
            ),
            (
                "a packet is lost, the others are fine",
                both(with(1, lost, AFFECTED)),
                "no-packet",
            ),
            (
                "no outer checksums",
                both(with(1, [2, 5, 0, 0, ALL, 0], AFFECTED)),
                "mode-not-kept",
            ),
            (
                "unfinished inner checksums",
                both(with(1, [2, 5, 0, ALL - 1, 0, 1], AFFECTED)),
                "unfinished",
            ),
        ] {
            assert_eq!(short(&Forwarding::Bursts(run(&seen))), expected, "{name}");
        }
    }

    #[test]
    fn what_was_not_forwarded() {
        let failed = Inconclusive {
            code: Cause::NoMacvlan,
            text: "x".to_owned(),
        };
        assert_eq!(short(&Forwarding::Failed(failed)), "no-macvlan");
        assert_eq!(short(&Forwarding::NoFraglist), "not-affected");
        let whole = run(&[FIXED, FIXED]);
        for lost in 0..whole.len() {
            let mut bursts = whole.clone();
            bursts.remove(lost);
            assert_eq!(short(&Forwarding::Bursts(bursts.clone())), "setup-failed");
            bursts.insert(lost, whole[(lost + 1) % whole.len()].clone());
            assert_eq!(short(&Forwarding::Bursts(bursts)), "setup-failed");
        }
        // A run of a vxcsum that did not know the bug.
        assert!(
            results(&[], None, None)
                .iter()
                .all(|r| r.id != BugId::GsoLcoCsum)
        );
    }

    /// A reason names the counts.
    #[test]
    fn a_reason_has_the_counts() {
        let bursts = run(&[[ONCE, [2, 2, ALL, 0, 0, 0], FRAGLIST_OFF, CHECKSUM_OFF]; 2]);
        let BugOutcome::Inconclusive(reason) = forwarded(Family::Ipv6, &bursts).outcome else {
            panic!("there is an answer");
        };
        assert_eq!(
            reason.text,
            "probe: packets were not segmented twice on their way (forwarded into VXLAN over macvlan, IPv6: 2 packets, then 2, \
             then 64)"
        );
    }
}
