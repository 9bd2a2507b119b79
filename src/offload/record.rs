//! What vxcsum turned off since boot: for `revert`, and for noticing that somebody else turns it back on.
//!
//! Owns the contents of `/run/vxcsum/state.json` and what they mean. Pure: times and boot id are handed in.

use std::borrow::Cow;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

/// Increased when an older vxcsum could misread the file.
const VERSION: u32 = 1;
/// This many times within [`WINDOW`] somebody may turn the feature back on before vxcsum stops.
const FLIPS: usize = 3;
/// Seconds.
const WINDOW: u64 = 60;
/// Seconds after which vxcsum tries again: whoever it was may have been taught better.
pub const TRUCE: u64 = 3600;
/// Entries of other network namespaces: whether those still exist cannot be asked, so the oldest make room.
const FOREIGN: usize = 4096;

/// The file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    version: u32,
    boot_id: String,
    /// By namespace and ifindex.
    devices: Vec<Entry>,
}

/// One device whose feature vxcsum turned off. Written before the kernel is asked, so that no kill can come between.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The inode of the network namespace: ifindexes mean nothing without it.
    pub netns: u64,
    /// Its ifindex, which no other device of this namespace gets during this boot.
    pub ifindex: u32,
    /// Its name at that time, escaped; for people.
    pub name: String,
    /// The code of the reason.
    pub reason: Cow<'static, str>,
    /// What went off with it.
    pub also_off: Rc<Vec<String>>,
    /// When, in seconds since 1970.
    pub since: u64,
    /// When somebody turned it back on, in seconds since boot, the last few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    flips: Vec<u64>,
    /// Until when (seconds since boot) vxcsum leaves it to the other program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    truce_until: Option<u64>,
}

/// What is to be written down of one device.
#[derive(Clone, Debug)]
pub struct Turned {
    /// Its ifindex.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// The code of the reason.
    pub reason: &'static str,
    /// What goes off with it.
    pub also_off: Rc<Vec<String>>,
}

/// When something happens.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Seconds since boot.
    pub boot: u64,
    /// Seconds since 1970.
    pub unix: u64,
}

impl State {
    /// Nothing turned off yet.
    pub fn new(boot_id: &str) -> Self {
        Self {
            version: VERSION,
            boot_id: boot_id.to_owned(),
            devices: Vec::new(),
        }
    }

    /// Reads the file.
    ///
    /// # Errors
    /// What is wrong with it, as part of a sentence: damaged, or of another boot or version.
    pub fn parse(text: &str, boot_id: &str) -> Result<Self, String> {
        let mut state: Self = serde_json::from_str(text).map_err(|e| format!("is damaged: {e}"))?;
        if state.version != VERSION {
            return Err(format!("has version {}, not {VERSION}", state.version));
        }
        if state.boot_id != boot_id {
            return Err("is of another boot".to_owned());
        }
        state.devices.sort_by_key(Entry::key);
        state.devices.dedup_by_key(|entry| entry.key());
        Ok(state)
    }

    /// The device's entry.
    pub fn entry(&self, netns: u64, ifindex: u32) -> Option<&Entry> {
        self.find(netns, ifindex).ok().map(|at| &self.devices[at])
    }

    /// The ifindexes of this namespace's entries.
    pub fn ifindexes(&self, netns: u64) -> impl Iterator<Item = u32> {
        self.devices
            .iter()
            .filter(move |entry| entry.netns == netns)
            .map(|entry| entry.ifindex)
    }

    /// How often somebody has lately turned the feature back on, if it is too often to go on: asked when the feature is
    /// found on, which itself counts if vxcsum had turned it off.
    pub fn contested(&self, netns: u64, ifindex: u32, now: Now) -> Option<usize> {
        let entry = self.entry(netns, ifindex)?;
        if entry.truce_until.is_some_and(|until| now.boot < until) {
            return Some(entry.flips.len().max(FLIPS));
        }
        let flips = entry.recent_flips(now).count() + 1;
        (flips >= FLIPS).then_some(flips)
    }

    /// Writes down that these are about to be turned off. One that already has an entry was turned back on meanwhile.
    pub fn turned_off(&mut self, netns: u64, devices: Vec<Turned>, now: Now) {
        for device in devices {
            let mut flips: Vec<u64> = Vec::new();
            let (mut since, mut also_off) = (now.unix, Rc::clone(&device.also_off));
            if let Some(old) = self.take(netns, device.ifindex) {
                flips.extend(old.recent_flips(now));
                flips.push(now.boot);
                since = old.since;
                if device.also_off.is_empty() {
                    also_off = old.also_off;
                }
            }
            let at = self.find(netns, device.ifindex).unwrap_or_else(|at| at);
            let entry = Entry {
                netns,
                ifindex: device.ifindex,
                name: device.name,
                reason: Cow::Borrowed(device.reason),
                also_off,
                since,
                flips,
                truce_until: None,
            };
            self.devices.insert(at, entry);
        }
    }

    /// Stops turning this device's feature off for a while; true if that is new.
    pub fn give_way(&mut self, netns: u64, ifindex: u32, now: Now) -> bool {
        let Some(entry) = self.entry_mut(netns, ifindex) else {
            return false;
        };
        if entry.truce_until.is_some_and(|until| now.boot < until) {
            return false;
        }
        entry.flips.push(now.boot);
        entry.truce_until = Some(now.boot + TRUCE);
        true
    }

    /// The device's feature is found off, or as it should be: whatever quarrel there was is over. True if there was one. Not in
    /// its first minute: a program that turns the feature off and on again has not given in.
    pub fn settled(&mut self, netns: u64, ifindex: u32, now: Now) -> bool {
        let over = |until: u64| now.boot + TRUCE >= until + WINDOW;
        let Some(entry) = self
            .entry_mut(netns, ifindex)
            .filter(|entry| entry.truce_until.is_some_and(over))
        else {
            return false;
        };
        entry.truce_until = None;
        entry.flips.clear();
        true
    }

    /// The kernel did not turn it off, or it is given back.
    pub fn forget(&mut self, netns: u64, ifindex: u32) {
        self.take(netns, ifindex);
    }

    /// What really went off with the feature; true if that is not what was expected.
    pub fn went_off(&mut self, netns: u64, ifindex: u32, also_off: &[&str]) -> bool {
        let Some(entry) = self.entry_mut(netns, ifindex) else {
            return false;
        };
        if also_off.is_empty() || entry.also_off.iter().eq(also_off.iter()) {
            return false;
        }
        entry.also_off = Rc::new(also_off.iter().map(|name| (*name).to_owned()).collect());
        true
    }

    /// Whether nothing is turned off.
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    /// Drops this namespace's entries of devices that are gone, and the oldest of other namespaces if there are too many.
    /// True if there were any.
    pub fn prune(&mut self, netns: u64, exists: impl Fn(u32) -> bool) -> bool {
        let before = self.devices.len();
        self.devices
            .retain(|entry| entry.netns != netns || exists(entry.ifindex));
        let mut surplus = self
            .devices
            .iter()
            .filter(|e| e.netns != netns)
            .count()
            .saturating_sub(FOREIGN);
        self.devices.retain(|entry| {
            let drop = entry.netns != netns && surplus > 0;
            surplus -= usize::from(drop);
            !drop
        });
        self.devices.len() != before
    }

    fn take(&mut self, netns: u64, ifindex: u32) -> Option<Entry> {
        self.find(netns, ifindex)
            .ok()
            .map(|at| self.devices.remove(at))
    }

    fn entry_mut(&mut self, netns: u64, ifindex: u32) -> Option<&mut Entry> {
        self.find(netns, ifindex)
            .ok()
            .map(|at| &mut self.devices[at])
    }

    fn find(&self, netns: u64, ifindex: u32) -> Result<usize, usize> {
        self.devices
            .binary_search_by_key(&(netns, ifindex), Entry::key)
    }
}

impl Entry {
    fn key(&self) -> (u64, u32) {
        (self.netns, self.ifindex)
    }

    fn recent_flips(&self, now: Now) -> impl Iterator<Item = u64> {
        self.flips
            .iter()
            .copied()
            .filter(move |at| now.boot < at + WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NETNS: u64 = 4_026_531_840;

    fn at(boot: u64) -> Now {
        Now {
            boot,
            unix: 1_700_000_000 + boot,
        }
    }

    fn off(state: &mut State, ifindex: u32, boot: u64) {
        let turned = Turned {
            ifindex,
            name: "flannel.1".to_owned(),
            reason: "kernel-affected",
            also_off: Rc::new(vec!["tx-tcp-segmentation".to_owned()]),
        };
        state.turned_off(NETNS, vec![turned], at(boot));
    }

    #[test]
    fn the_file_is_read_back() {
        let mut state = State::new("b");
        off(&mut state, 4, 10);
        off(&mut state, 4, 11);
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(State::parse(&text, "b"), Ok(state));
    }

    #[test]
    fn what_is_not_this_boots_state_is_refused() {
        let text = serde_json::to_string(&State::new("b")).unwrap();
        for (name, text, expected) in [
            (
                "another boot",
                text.replace("\"b\"", "\"a\""),
                "is of another boot",
            ),
            (
                "another version",
                text.replace(":1", ":2"),
                "has version 2, not 1",
            ),
            ("cut", text[..text.len() - 2].to_owned(), "is damaged: "),
            (
                "unknown key",
                text.replace("{\"v", "{\"x\":1,\"v"),
                "is damaged: ",
            ),
            ("empty", String::new(), "is damaged: "),
        ] {
            let error = State::parse(&text, "b").unwrap_err();
            assert!(error.starts_with(expected), "{name}: {error}");
        }
    }

    #[test]
    fn three_flips_in_a_minute_are_too_many() {
        for (name, times, asked, expected) in [
            ("never seen", vec![], 10, None),
            ("first flip", vec![0], 10, None),
            ("second flip", vec![0, 10], 20, None),
            ("third flip", vec![0, 10, 20], 30, Some(3)),
            ("third flip, slowly", vec![0, 40, 80], 120, None),
            ("once an hour", vec![0, 3600, 7200, 10800], 14400, None),
        ] {
            let mut state = State::new("b");
            for time in times {
                off(&mut state, 4, time);
            }
            assert_eq!(state.contested(NETNS, 4, at(asked)), expected, "{name}");
            assert_eq!(
                state.contested(NETNS + 1, 4, at(asked)),
                None,
                "{name}: another namespace"
            );
        }
    }

    #[test]
    fn a_truce_is_said_once_and_ends() {
        let mut state = State::new("b");
        for time in [0, 10, 20] {
            off(&mut state, 4, time);
        }
        assert!(state.give_way(NETNS, 4, at(30)));
        assert!(!state.give_way(NETNS, 4, at(40)), "it is no news");
        assert_eq!(state.contested(NETNS, 4, at(500)), Some(3));
        assert_eq!(
            state.contested(NETNS, 4, at(31 + TRUCE)),
            None,
            "it is over"
        );
        assert!(!state.settled(NETNS, 4, at(89)), "it may be a pause");
        assert_eq!(state.contested(NETNS, 4, at(89)), Some(3));
        assert!(state.settled(NETNS, 4, at(90)));
        assert!(!state.settled(NETNS, 4, at(91)), "it is no news");
        assert_eq!(
            state.contested(NETNS, 4, at(500)),
            None,
            "the other gave in"
        );
    }

    #[test]
    fn entries_go_with_their_devices() {
        let mut state = State::new("b");
        for ifindex in [4, 5] {
            off(&mut state, ifindex, 0);
        }
        let foreign = Turned {
            ifindex: 9,
            name: "v".to_owned(),
            reason: "r",
            also_off: Rc::default(),
        };
        state.turned_off(1, vec![foreign], at(0));
        assert!(state.prune(NETNS, |ifindex| ifindex == 5));
        assert!(!state.prune(NETNS, |ifindex| ifindex == 5), "it is no news");
        assert_eq!(state.ifindexes(NETNS).collect::<Vec<_>>(), [5]);
        assert_eq!(state.ifindexes(1).collect::<Vec<_>>(), [9]);
        state.forget(NETNS, 5);
        assert_eq!(state.entry(NETNS, 5), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,300}") {
            let _ = State::parse(&text, "b");
        }
    }
}
