//! The devices for whose packets vxcsum keeps a rule in its own table of `nf_tables`.
//!
//! Owns the required content of the table, and the backoff from programs that remove a rule too often. Pure.

use serde::{Deserialize, Serialize};

use super::{BACKOFF_SECS, Entry, Identity, Netns, NewEntry, Now, State};
use crate::ethtool::Feature;
use crate::nat::exposure::Untracked;
use crate::nat::nft::own::Packets;
use crate::offload::facts::{RuleHistory, Unusable};

/// The rule of one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleEntry {
    /// The device, and how often the rule was removed.
    pub(super) entry: Entry,
    packets: Untracked,
    /// The kernel's message when it refused such a rule. vxcsum does not try again before the backoff is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

impl State {
    /// The history of the rule for a device.
    pub fn rule_history(&self, device: &Identity, now: Now) -> RuleHistory {
        let Some(at) = self.rule(device) else {
            return RuleHistory::default();
        };
        let rule = &self.rules[at];
        let since = rule.entry.not_exposed_since;
        let in_backoff = rule.entry.in_backoff(now);
        let refused = rule.refused.clone().filter(|_| in_backoff);
        RuleHistory {
            packets: Some(rule.packets),
            unusable: refused
                .map(Unusable::Refused)
                .or_else(|| rule.entry.contested(now).map(Unusable::Contested)),
            in_backoff,
            not_exposed_for: since.map(|since| now.boot.saturating_sub(since)),
            changed: false,
        }
    }

    fn rule(&self, device: &Identity) -> Option<usize> {
        self.rules.iter().position(|rule| rule.entry.is_of(device))
    }

    /// Adds an entry for a rule that is about to be added. If an earlier rule was confirmed, another program has
    /// removed it since.
    pub fn record_rule(
        &mut self,
        identity: Identity,
        packets: Untracked,
        reason: &'static str,
        now: Now,
    ) {
        let old = self.rule(&identity).map(|at| self.rules.remove(at));
        // Another address or port is another rule, which nobody has removed.
        let old = old.filter(|old| old.packets == packets);
        let new = NewEntry {
            identity,
            feature: Feature::default(),
            reason,
            also_off: std::rc::Rc::default(),
        };
        self.rules.push(RuleEntry {
            entry: Entry::new(new, old.as_ref().map(|old| &old.entry), now),
            packets,
            refused: None,
        });
    }

    /// Notes that the rule exists.
    pub fn confirm_rule(&mut self, device: &Identity) {
        if let Some(at) = self.rule(device) {
            self.rules[at].entry.confirmed = true;
        }
    }

    /// Removes the entry: the rule is not needed any more.
    pub fn remove_rule(&mut self, device: &Identity) {
        if let Some(at) = self.rule(device) {
            self.rules.remove(at);
        }
    }

    /// Starts or ends the time in which every look finds that NAT cannot rewrite the outer packets.
    pub fn set_rule_not_exposed(&mut self, device: &Identity, since: Option<Now>) {
        if let Some(at) = self.rule(device) {
            self.rules[at].entry.not_exposed_since = since.map(|now| now.boot);
        }
    }

    /// Starts a backoff: the kernel refuses the rule, or other programs have removed it too often.
    pub fn give_up_rule(&mut self, device: &Identity, refused: Option<String>, now: Now) {
        if let Some(at) = self.rule(device) {
            let rule = &mut self.rules[at];
            rule.entry.backoff_until = Some(now.boot + BACKOFF_SECS);
            rule.refused = refused;
        }
    }

    /// A user named the device: earlier events do not count any more.
    pub fn retry_rule(&mut self, device: &Identity) {
        if let Some(at) = self.rule(device) {
            self.rules[at].entry.forget_flips();
            self.rules[at].refused = None;
        }
    }

    /// The required content of the table in this namespace. Leaves out devices whose rule is in backoff.
    pub fn packets(&self, netns: Netns, now: Now) -> Packets {
        let here = |rule: &&RuleEntry| rule.entry.is_in(netns) && !rule.entry.in_backoff(now);
        let rules = self.rules.iter().filter(here);
        rules.map(|rule| rule.packets).collect()
    }

    /// True if vxcsum keeps a rule in this namespace, or has tried to.
    pub fn has_rules(&self, netns: Netns) -> bool {
        self.rules.iter().any(|rule| rule.entry.is_in(netns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::facts::Conflict;
    use crate::offload::record::tests::{NETNS, at, device, is_empty};

    fn packets(port: u16) -> Untracked {
        Untracked {
            v6: Some(false),
            local: None,
            port,
        }
    }

    fn made(state: &mut State, ifindex: u32, port: u16, boot: u64) {
        state.record_rule(device(NETNS, ifindex), packets(port), "exposed", at(boot));
        state.confirm_rule(&device(NETNS, ifindex));
    }

    fn unusable(state: &State, boot: u64) -> Option<Unusable> {
        state.rule_history(&device(NETNS, 4), at(boot)).unusable
    }

    #[test]
    fn the_table_holds_the_packets_of_all_devices_once() {
        let mut state = State::new("b");
        for (ifindex, port) in [(4, 8472), (5, 8472), (6, 4789)] {
            made(&mut state, ifindex, port, 1);
        }
        let both: Packets = [packets(8472), packets(4789)].into();
        assert_eq!(state.packets(NETNS, at(1)), both);
        state.remove_rule(&device(NETNS, 4));
        assert_eq!(state.packets(NETNS, at(1)), both);
        assert!(state.prune(NETNS, &[device(NETNS, 6)], |_| true));
        assert_eq!(state.packets(NETNS, at(1)), [packets(4789)].into());
        let elsewhere = Netns {
            inode: 1,
            cookie: Some(9),
        };
        assert!(state.packets(elsewhere, at(1)).is_empty() && !state.has_rules(elsewhere));
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(State::parse(&text, "b").as_ref(), Ok(&state));
        assert!(state.prune(NETNS, &[], |_| true) && is_empty(&state));
    }

    #[test]
    fn a_rule_that_others_take_away_is_not_made_for_ever() {
        let mut state = State::new("b");
        for boot in [1, 2] {
            made(&mut state, 4, 8472, boot);
            assert_eq!(unusable(&state, boot + 1), None);
        }
        made(&mut state, 4, 8472, 3);
        assert!(matches!(
            unusable(&state, 4),
            Some(Unusable::Contested(Conflict { times: 3, .. }))
        ));
        state.give_up_rule(&device(NETNS, 4), None, at(4));
        assert!(matches!(
            unusable(&state, 500),
            Some(Unusable::Contested(Conflict { times: 3, .. }))
        ));
        assert!(state.packets(NETNS, at(500)).is_empty());
        let again = 4 + BACKOFF_SECS;
        assert_eq!(unusable(&state, again), None);
        assert_eq!(state.packets(NETNS, at(again)).len(), 1);
        state.retry_rule(&device(NETNS, 4));
        assert_eq!(unusable(&state, 500), None);
    }

    #[test]
    fn another_address_is_no_conflict() {
        let mut state = State::new("b");
        for boot in 0..9 {
            made(&mut state, 4, 8472 + u16::from(boot % 2 == 0), boot);
        }
        assert_eq!(unusable(&state, 9), None);
    }

    #[test]
    fn a_kernel_that_takes_no_rule_is_asked_again_after_an_hour() {
        let mut state = State::new("b");
        state.record_rule(device(NETNS, 4), packets(8472), "exposed", at(1));
        state.give_up_rule(&device(NETNS, 4), Some("EOPNOTSUPP".to_owned()), at(1));
        let refused = Unusable::Refused("EOPNOTSUPP".to_owned());
        assert_eq!(unusable(&state, 9), Some(refused));
        assert_eq!(unusable(&state, 1 + BACKOFF_SECS), None);
        state.record_rule(device(NETNS, 4), packets(8472), "exposed", at(5000));
        assert_eq!(unusable(&state, 5001), None);
    }
}
