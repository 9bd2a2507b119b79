//! The features that vxcsum turned off since boot: to turn them on again, and to notice that another program does.
//!
//! Owns the content of `/run/vxcsum/state.json` and its meaning. Pure: the caller passes times and the boot id.

mod rules;

use std::borrow::Cow;
use std::collections::HashSet;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use self::rules::RuleEntry;
use super::facts::{Conflict, History};
use crate::ethtool::{Feature, PerFeature};
use crate::link::TunnelLink;
use crate::sealed::{seal, unseal};
use crate::text::{IfName, escape};

/// The problem of a valid record of an earlier boot.
pub const OTHER_BOOT: &str = "is of another boot";
/// Increased if an older vxcsum could misread the file.
const VERSION: u32 = 1;
/// If another program turns the feature on again this many times within [`WINDOW_SECS`], vxcsum stops.
const MAX_FLIPS: usize = 3;
const WINDOW_SECS: u64 = 60;
/// Seconds after which vxcsum tries again: the other program may have been fixed.
pub const BACKOFF_SECS: u64 = 3600;
/// The most entries of other network namespaces. Whether such a namespace still exists is not known, so the oldest
/// entries are dropped first.
const MAX_OTHER_NETNS: usize = 4096;
/// After this many seconds, a device without peers is taken for that of a node on its own, and the timer is fast
/// enough.
const FOLLOW_UP_SECS: u64 = 600;

/// The content of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    version: u32,
    boot_id: String,
    /// Sorted by namespace, ifindex and feature.
    devices: Vec<Entry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    waiting: Vec<Waiting>,
    /// The devices whose packets vxcsum leaves untracked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rules: Vec<RuleEntry>,
}

/// A device without peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Waiting {
    netns: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    netns_cookie: Option<u64>,
    ifindex: u32,
    /// Seconds since boot.
    since: u64,
}

impl Waiting {
    fn is_in(&self, netns: Netns) -> bool {
        (self.netns, self.netns_cookie) == (netns.inode, netns.cookie)
    }
}

/// A network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Netns {
    /// The inode of the namespace. A later namespace can get the same inode. 0 if /proc does not have it.
    pub inode: u64,
    /// `SO_NETNS_COOKIE`, which the kernel never reuses during a boot. `None` before 5.14.
    pub cookie: Option<u64>,
}

/// Identifies a device of one namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    netns: Netns,
    ifindex: u32,
    name: IfName,
    vni: Option<u32>,
    mac: Option<[u8; 6]>,
}

impl Identity {
    pub fn new(netns: Netns, link: &TunnelLink) -> Self {
        Self {
            netns,
            ifindex: link.ifindex,
            name: link.name,
            vni: link.vni,
            mac: link.mac,
        }
    }

    /// As the file has it.
    fn mac(&self) -> Option<String> {
        Some(self.mac?.map(|byte| format!("{byte:02x}")).join(":"))
    }

    fn key(&self, feature: Feature) -> Key {
        (self.netns.inode, self.ifindex, feature)
    }
}

/// The sort key of entries.
type Key = (u64, u32, Feature);

/// A feature of one device that vxcsum turned off. Written before the request to the kernel, so that a kill between
/// them loses nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The inode of the network namespace. Ifindexes are meaningless without it.
    netns: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    netns_cookie: Option<u64>,
    ifindex: u32,
    /// The name at that time, escaped.
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vni: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
    /// Older versions turned off only the checksum feature.
    #[serde(default, skip_serializing_if = "is_checksum")]
    feature: Feature,
    /// The code of the reason.
    reason: Cow<'static, str>,
    /// The features that the kernel turned off together with it.
    also_off: Rc<Vec<String>>,
    /// The time in seconds since 1970.
    since: u64,
    /// The kernel has turned the feature off. Without this, no other program can have turned it on again.
    #[serde(default = "yes")]
    confirmed: bool,
    /// The last times at which another program turned the feature on again, in seconds since boot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    flips: Vec<u64>,
    /// The end of the backoff, in seconds since boot.
    #[serde(
        default,
        alias = "truce_until",
        skip_serializing_if = "Option::is_none"
    )]
    backoff_until: Option<u64>,
    /// The start of the unbroken series of looks that found that NAT cannot rewrite the outer packets, in seconds since
    /// boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_exposed_since: Option<u64>,
}

/// Left out for older versions, which do not know it.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_checksum(feature: &Feature) -> bool {
    *feature == Feature::Checksum
}

/// Records of older versions do not have the field.
fn yes() -> bool {
    true
}

/// A new entry for one device.
#[derive(Clone, Debug)]
pub struct NewEntry {
    pub identity: Identity,
    pub feature: Feature,
    /// The code of the reason.
    pub reason: &'static str,
    /// The features that the kernel will turn off together with it.
    pub also_off: Rc<Vec<String>>,
}

/// One moment, on two clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Seconds since boot.
    pub boot: u64,
    /// Seconds since 1970.
    pub unix: u64,
}

impl State {
    /// A record without entries.
    pub fn new(boot_id: &str) -> Self {
        Self {
            version: VERSION,
            boot_id: boot_id.to_owned(),
            devices: Vec::new(),
            waiting: Vec::new(),
            rules: Vec::new(),
        }
    }

    /// Reads the content of the file.
    ///
    /// # Errors
    /// A part of a sentence that says what is wrong: damaged, or of another boot or version.
    pub fn parse(text: &str, boot_id: &str) -> Result<Self, String> {
        let text = unseal(text)?;
        let mut state: Self = serde_json::from_str(&text)
            .map_err(|e| format!("is damaged: {}", escape(e.to_string().as_bytes())))?;
        if state.version != VERSION {
            return Err(format!("has version {}, not {VERSION}", state.version));
        }
        if state.boot_id != boot_id {
            return Err(OTHER_BOOT.to_owned());
        }
        state.devices.sort_by_key(Entry::key);
        state.devices.dedup_by_key(|entry| entry.key());
        Ok(state)
    }

    /// Takes back times that are still to come, so that no backoff lasts for ever: a process in a time namespace, or
    /// before a guest was restored, can have had another clock.
    pub fn forget_future(&mut self, now: Now) {
        let rules = self.rules.iter_mut().map(|rule| &mut rule.entry);
        for entry in self.devices.iter_mut().chain(rules) {
            entry.flips.retain(|at| *at <= now.boot);
            entry.backoff_until = entry
                .backoff_until
                .filter(|until| until.saturating_sub(BACKOFF_SECS) <= now.boot);
            entry.not_exposed_since = entry.not_exposed_since.map(|since| since.min(now.boot));
        }
        for waiting in &mut self.waiting {
            waiting.since = waiting.since.min(now.boot);
        }
    }

    /// Writes the content of the file.
    ///
    /// # Errors
    /// The types allow none.
    pub fn to_text(&self) -> serde_json::Result<String> {
        seal(self)
    }

    /// The history of a device.
    pub fn history(&self, device: &Identity, now: Now) -> PerFeature<History> {
        PerFeature::new(|feature| self.history_of(device, feature, now))
    }

    fn history_of(&self, device: &Identity, feature: Feature, now: Now) -> History {
        let Some(entry) = self.entry(device, feature) else {
            return History::default();
        };
        History {
            owned: true,
            undone: entry.undone(now),
            contested: entry.contested(now),
            not_exposed_for: entry
                .not_exposed_since
                .map(|since| now.boot.saturating_sub(since)),
        }
    }

    fn entry(&self, device: &Identity, feature: Feature) -> Option<&Entry> {
        let at = self.find(device.key(feature)).ok()?;
        Some(&self.devices[at]).filter(|entry| entry.is_of(device))
    }

    fn entry_mut(&mut self, device: &Identity, feature: Feature) -> Option<&mut Entry> {
        let at = self.find(device.key(feature)).ok()?;
        Some(&mut self.devices[at]).filter(|entry| entry.is_of(device))
    }

    /// Adds the entry for a feature that is about to be turned off. If an earlier change was confirmed, another program
    /// has turned the feature on again since.
    pub fn record_off(&mut self, device: NewEntry, now: Now) {
        let at = self.find(device.identity.key(device.feature));
        let old = self.entry(&device.identity, device.feature);
        let entry = Entry::new(device, old, now);
        match at {
            Ok(at) => self.devices[at] = entry,
            Err(at) => self.devices.insert(at, entry),
        }
    }

    /// Notes that the kernel has turned the feature off.
    pub fn confirm(&mut self, device: &Identity, feature: Feature) {
        if let Some(entry) = self.entry_mut(device, feature) {
            entry.confirmed = true;
        }
    }

    /// Starts or ends the time in which every look finds that NAT cannot rewrite the outer packets.
    pub fn set_not_exposed(&mut self, device: &Identity, feature: Feature, since: Option<Now>) {
        if let Some(entry) = self.entry_mut(device, feature) {
            entry.not_exposed_since = since.map(|now| now.boot);
        }
    }

    /// Starts a backoff: vxcsum stops turning the feature off for a while. True if the backoff is new.
    pub fn start_backoff(&mut self, device: &Identity, feature: Feature, now: Now) -> bool {
        let Some(entry) = self.entry_mut(device, feature) else {
            return false;
        };
        if entry.in_backoff(now) {
            return false;
        }
        entry.flips.push(now.boot);
        entry.backoff_until = Some(now.boot + BACKOFF_SECS);
        true
    }

    /// Call it if the feature is off. Ends the conflict, except within its first minute: a program that toggles the
    /// feature has not stopped. True if there was a conflict.
    pub fn end_backoff(&mut self, device: &Identity, feature: Feature, now: Now) -> bool {
        let over = |until: u64| now.boot + BACKOFF_SECS >= until + WINDOW_SECS;
        let Some(entry) = self
            .entry_mut(device, feature)
            .filter(|entry| entry.backoff_until.is_some_and(over))
        else {
            return false;
        };
        entry.backoff_until = None;
        entry.flips.clear();
        true
    }

    /// A user named the device: earlier changes by other programs do not count any more.
    pub fn forget_flips(&mut self, device: &Identity, feature: Feature) {
        if let Some(entry) = self.entry_mut(device, feature) {
            entry.forget_flips();
        }
    }

    /// Removes an entry: the kernel did not turn the feature off, or it was turned on again.
    pub fn remove(&mut self, device: &Identity, feature: Feature) {
        if self.entry(device, feature).is_some()
            && let Ok(at) = self.find(device.key(feature))
        {
            self.devices.remove(at);
        }
    }

    /// Notes which features the kernel turned off together with it.
    pub fn set_also_off(&mut self, device: &Identity, feature: Feature, also_off: &[&str]) {
        if let Some(entry) = self.entry_mut(device, feature)
            && !also_off.is_empty()
            && !entry.also_off.iter().eq(also_off.iter())
        {
            entry.also_off = Rc::new(also_off.iter().map(|name| (*name).to_owned()).collect());
        }
    }

    /// Sets which of the given devices, by ifindex, have no peers yet. A device of which `covers` is true and that is not
    /// among them does not exist. True if a device is new.
    pub fn set_waiting(
        &mut self,
        netns: Netns,
        looked_at: &[(Identity, bool)],
        covers: impl Fn(u32) -> bool,
        now: Now,
    ) -> bool {
        let before = self.waiting.clone();
        let waits = |ifindex: u32| {
            let found = looked_at.binary_search_by_key(&ifindex, |(device, _)| device.ifindex);
            found.ok().map(|at| looked_at[at].1)
        };
        self.waiting.retain(|old| {
            if old.is_in(netns) {
                waits(old.ifindex).unwrap_or(!covers(old.ifindex))
            } else {
                old.netns != netns.inode && now.boot < old.since + FOLLOW_UP_SECS
            }
        });
        let here = self.waiting.iter().filter(|old| old.is_in(netns));
        let known: HashSet<u32> = here.map(|old| old.ifindex).collect();
        let new = looked_at
            .iter()
            .filter(|(device, waits)| *waits && !known.contains(&device.ifindex));
        self.waiting.extend(new.map(|(device, _)| Waiting {
            netns: netns.inode,
            netns_cookie: netns.cookie,
            ifindex: device.ifindex,
            since: now.boot,
        }));
        self.waiting != before
    }

    /// True if a device has had no peers for a short time. Then another look follows soon.
    pub fn follow_up(&self, now: Now) -> bool {
        let recent = |waiting: &Waiting| now.boot < waiting.since + FOLLOW_UP_SECS;
        self.waiting.iter().any(recent)
    }

    /// True if an entry is of a deleted device, or of an earlier namespace with the same inode. `devices` are by ifindex.
    pub fn has_deleted(
        &self,
        netns: Netns,
        devices: &[Identity],
        covers: impl Fn(u32) -> bool,
    ) -> bool {
        let rules = self.rules.iter().map(|rule| &rule.entry);
        let mut entries = self.devices.iter().chain(rules);
        entries.any(|entry| entry.is_deleted(netns, devices, &covers))
    }

    /// Drops entries of deleted devices, entries of an earlier namespace with the same inode, and the oldest entries of
    /// other namespaces above the limit. True if an entry was dropped. `devices` are by ifindex; a device of which `covers`
    /// is true and that is not among them does not exist.
    pub fn prune(
        &mut self,
        netns: Netns,
        devices: &[Identity],
        covers: impl Fn(u32) -> bool,
    ) -> bool {
        let before = self.devices.len() + self.rules.len();
        let stays = |entry: &Entry| !entry.is_deleted(netns, devices, &covers);
        let elsewhere = |entry: &Entry| entry.netns != netns.inode;
        keep(&mut self.devices, |entry| entry, stays, elsewhere);
        keep(&mut self.rules, |rule| &rule.entry, stays, elsewhere);
        self.devices.len() + self.rules.len() != before
    }

    fn find(&self, key: Key) -> Result<usize, usize> {
        self.devices.binary_search_by_key(&key, Entry::key)
    }
}

/// Keeps the entries that stay, and the newest entries of other namespaces.
fn keep<T>(
    all: &mut Vec<T>,
    entry: impl Fn(&T) -> &Entry,
    stays: impl Fn(&Entry) -> bool,
    elsewhere: impl Fn(&Entry) -> bool,
) {
    all.retain(|one| stays(entry(one)));
    let others = all.iter().filter(|one| elsewhere(entry(one))).count();
    let mut surplus = others.saturating_sub(MAX_OTHER_NETNS);
    all.retain(|one| {
        let drop = elsewhere(entry(one)) && surplus > 0;
        surplus -= usize::from(drop);
        !drop
    });
}

impl Entry {
    /// The entry for a change that is about to be made, with the history of the old entry.
    fn new(device: NewEntry, old: Option<&Self>, now: Now) -> Self {
        let identity = device.identity;
        let mut flips: Vec<u64> = Vec::new();
        let (mut since, mut also_off) = (now.unix, device.also_off);
        if let Some(old) = old {
            flips.extend(old.recent_flips(now));
            flips.extend(old.confirmed.then_some(now.boot));
            since = old.since;
            if also_off.is_empty() {
                also_off = Rc::clone(&old.also_off);
            }
        }
        Self {
            netns: identity.netns.inode,
            netns_cookie: identity.netns.cookie,
            ifindex: identity.ifindex,
            name: identity.name.to_string(),
            vni: identity.vni,
            mac: identity.mac(),
            feature: device.feature,
            reason: Cow::Borrowed(device.reason),
            also_off,
            since,
            confirmed: false,
            flips,
            backoff_until: None,
            not_exposed_since: None,
        }
    }

    fn is_in(&self, netns: Netns) -> bool {
        (self.netns, self.netns_cookie) == (netns.inode, netns.cookie)
    }

    fn is_deleted(&self, netns: Netns, devices: &[Identity], covers: impl Fn(u32) -> bool) -> bool {
        let exists = |at: usize| self.is_of(&devices[at]);
        self.netns == netns.inode
            && covers(self.ifindex)
            && !devices
                .binary_search_by_key(&self.ifindex, |device| device.ifindex)
                .is_ok_and(exists)
    }

    fn forget_flips(&mut self) {
        self.backoff_until = None;
        self.flips.clear();
        self.confirmed = false;
    }

    fn in_backoff(&self, now: Now) -> bool {
        self.backoff_until.is_some_and(|until| now.boot < until)
    }

    fn key(&self) -> Key {
        (self.netns, self.ifindex, self.feature)
    }

    /// True if the entry belongs to this device, and not to an earlier device with the same numbers.
    ///
    /// The kernel reuses inodes and ifindexes. With the namespace's cookie, only the ifindex can be reused (`ip link
    /// add index N`). Then the name or the MAC address must be the same; each of the two can change, for example by
    /// udev. Without a cookie the MAC address must be the same, because every new namespace can have a device with this
    /// name.
    fn is_of(&self, device: &Identity) -> bool {
        let same_name = || self.name == device.name.escaped();
        let same_mac = || self.mac.is_some() && self.mac == device.mac();
        (self.netns, self.ifindex) == (device.netns.inode, device.ifindex)
            && match (self.netns_cookie, device.netns.cookie) {
                (Some(old), Some(new)) => {
                    old == new && self.vni == device.vni && (same_name() || same_mac())
                }
                (None, None) => self.vni == device.vni && same_mac(),
                // Records of older versions have only the name.
                (None, Some(_)) => self.mac.is_none() && same_name(),
                (Some(_), None) => false,
            }
    }

    /// `Some` if another program turned the feature on again too often.
    fn contested(&self, now: Now) -> Option<Conflict> {
        let backoff = self.backoff_until.filter(|_| self.in_backoff(now));
        let (times, left) = match backoff {
            Some(until) => (self.flips.len().max(MAX_FLIPS), until - now.boot),
            None => (self.undone(now), BACKOFF_SECS),
        };
        let end = now.unix + left;
        (times >= MAX_FLIPS).then_some(Conflict { times, left, end })
    }

    /// How often another program lately turned the feature on again. Call it if the feature is on: if vxcsum had turned
    /// it off, that counts too.
    fn undone(&self, now: Now) -> usize {
        self.recent_flips(now).count() + usize::from(self.confirmed)
    }

    fn recent_flips(&self, now: Now) -> impl Iterator<Item = u64> {
        self.flips
            .iter()
            .copied()
            .filter(move |at| now.boot < at + WINDOW_SECS)
    }
}

#[cfg(test)]
pub(super) mod tests;
