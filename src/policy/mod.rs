//! The policy: the administrator's settings, merged from files, and the rule that decides about a device.
//!
//! Owns the values of the policy, their merging, and the matching of rules. Pure: `policy::files_io` reads the files.
//! Does not read the kernel or devices.

mod diagnose;
pub(crate) mod files_io;
mod parse;
#[cfg(test)]
pub(crate) mod schema;
mod show;
mod value;

use core::time::Duration;
use std::fmt;
use std::ops::RangeInclusive;

use serde::Serialize;

use crate::glob::Glob;
use crate::kernel::{KernelOverride, PerBug};
use crate::link::{OuterChecksum, TunnelKind};
use crate::text::{IfName, escape};

pub use diagnose::{PolicyError, PolicyErrors, ProblemKind};
#[allow(unused_imports, reason = "a test compares it with the man page")]
pub use parse::TABLES;
pub use parse::{Kind, parse};

/// The origin of a value that no file sets.
pub const BUILT_IN: &str = "built-in";

codes! {
    /// When the feature is turned off.
    pub enum When {
        /// On every kernel.
        Always = "always",
        /// On a kernel with the bug.
        Affected = "affected",
        /// On a kernel with the bug, if NAT can rewrite the outer packets or if the exposure is not known.
        Exposed = "exposed",
        /// On no kernel.
        Never = "never",
    }
}

codes! {
    /// How to treat a kernel whose status is unknown.
    pub enum AssumeKernel {
        /// The kernel has the bug: safe.
        Affected = "affected",
        /// The kernel does not have the bug: fast.
        Fixed = "fixed",
    }
}

codes! {
    /// How to treat an unknown exposure.
    pub enum AssumeExposure {
        /// NAT can rewrite the outer packets: safe.
        Exposed = "exposed",
        /// NAT cannot rewrite them: for underlays that their owner knows.
        NotExposed = "not-exposed",
    }
}

codes! {
    /// What to do about NAT that would corrupt the packets of a device.
    pub enum Cure {
        /// Turn the offload off.
        Offload = "offload",
        /// Leave the outer packets untracked, so no NAT sees them, and keep the offload on. If that is not enough, turn
        /// the offload off.
        Notrack = "notrack",
    }
}

/// A value and its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sourced<T> {
    pub value: T,
    /// Such as `/etc/vxcsum/policy.toml:4`, or `built-in`. All origins are safe to print.
    pub origin: String,
}

/// The merged policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub unknown_kernel: Sourced<AssumeKernel>,
    /// Rules can override it.
    pub unknown_exposure: Sourced<AssumeExposure>,
    /// What to do about NAT. Rules can override it.
    pub cure: Sourced<Cure>,
    /// A device gets the offload back after it was not exposed for this long, in every look. `None` means never.
    pub give_back_after: Sourced<Option<Duration>>,
    /// `[bugs]`: when each bug is a reason to turn the feature off. Never `Always`.
    pub bugs: PerBug<Sourced<When>>,
    /// In order. The last rule that matches a device decides.
    pub rules: Vec<PolicyRule>,
    /// In order. The last entry that matches a kernel decides.
    pub kernels: Vec<KernelOverride>,
    /// The files that were read, in order. Empty if only the built-in default applies.
    pub files: Vec<String>,
    /// Files in a policy.d whose names do not end in `.toml`. Reported, because they look as if they were read.
    pub ignored: Vec<String>,
}

/// One `[[rule]]`. An absent key matches every device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// The name in the file, else `rule N`, the Nth of all rules. Safe to print.
    pub name: String,
    /// Matches the name of the device.
    pub device: Option<Vec<Glob>>,
    pub kind: Option<Vec<TunnelKind>>,
    /// A device without a VNI matches no range.
    pub vni: Option<Vec<RangeInclusive<u32>>>,
    /// A device without a port matches no range.
    pub dst_port: Option<Vec<RangeInclusive<u16>>>,
    /// A device with an unknown underlay or driver matches no glob.
    pub underlay_driver: Option<Vec<Glob>>,
    /// `Present` and `Zero` only. A device with `External` or `Unknown` matches if both are listed; see also
    /// [`PolicyRule::outer_checksum_of`].
    pub outer_checksum: Option<Vec<OuterChecksum>>,
    /// How to treat an unknown exposure of these devices.
    pub unknown_exposure: Option<AssumeExposure>,
    /// What to do about NAT for these devices.
    pub cure: Option<Cure>,
    pub when: When,
    /// The place of the header, such as `/etc/vxcsum/policy.toml:9`.
    pub origin: String,
}

/// The properties of a device that rules can match.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub name: &'a IfName,
    pub kind: TunnelKind,
    pub vni: Option<u32>,
    /// Host byte order.
    pub dst_port: Option<u16>,
    /// `None` if it is not known.
    pub underlay_driver: Option<&'a str>,
    pub outer_checksum: OuterChecksum,
}

/// A rule that was tried for a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Considered<'a> {
    pub rule: &'a PolicyRule,
    /// `None` if the rule matches, else the first key that does not match.
    pub miss: Option<Miss>,
}

/// Why a rule does not match a device. The texts are safe to print.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Miss {
    /// The key of the rule, such as `dst-port`.
    pub key: &'static str,
    /// The value in the rule, in policy syntax, such as `4789, 8472`.
    pub wanted: String,
    /// The value of the device, such as `4790`, or `none`.
    pub found: String,
}

/// Such as `dst-port is 4790, not 4789, 8472`.
impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, not {}", self.key, self.found, self.wanted)
    }
}

/// The content of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    unknown_kernel: Option<Sourced<AssumeKernel>>,
    unknown_exposure: Option<Sourced<AssumeExposure>>,
    cure: Option<Sourced<Cure>>,
    give_back_after: Option<Sourced<Option<Duration>>>,
    bugs: PerBug<Option<Sourced<When>>>,
    /// A rule and its name in the file. Merging numbers rules without a name.
    rules: Vec<(Option<String>, PolicyRule)>,
    kernels: Vec<KernelOverride>,
    files: Vec<String>,
}

impl Fragment {
    /// Appends the next file: later values replace earlier ones, and later rules and kernel entries follow.
    #[must_use]
    pub fn then(mut self, mut later: Self) -> Self {
        self.rules.extend(later.rules);
        self.kernels.extend(later.kernels);
        self.files.extend(later.files);
        Self {
            unknown_kernel: later.unknown_kernel.or(self.unknown_kernel),
            unknown_exposure: later.unknown_exposure.or(self.unknown_exposure),
            cure: later.cure.or(self.cure),
            give_back_after: later.give_back_after.or(self.give_back_after),
            bugs: PerBug::new(|id| later.bugs[id].take().or_else(|| self.bugs[id].take())),
            ..self
        }
    }
}

/// Makes one policy of the files, in the order in which they were read. Values that no file sets are built in.
pub fn merge(fragments: Vec<Fragment>) -> Policy {
    let mut all = fragments
        .into_iter()
        .fold(Fragment::default(), Fragment::then);
    let default = Policy::built_in();
    let named = |(index, (name, rule)): (usize, (Option<String>, PolicyRule))| PolicyRule {
        name: name.unwrap_or_else(|| format!("rule {}", index + 1)),
        ..rule
    };
    Policy {
        unknown_kernel: all.unknown_kernel.unwrap_or(default.unknown_kernel),
        unknown_exposure: all.unknown_exposure.unwrap_or(default.unknown_exposure),
        cure: all.cure.unwrap_or(default.cure),
        give_back_after: all.give_back_after.unwrap_or(default.give_back_after),
        bugs: PerBug::new(|id| {
            all.bugs[id]
                .take()
                .unwrap_or_else(|| default.bugs[id].clone())
        }),
        rules: all.rules.into_iter().enumerate().map(named).collect(),
        kernels: all.kernels,
        files: all.files,
        ignored: Vec::new(),
    }
}

impl Policy {
    /// The policy without files: word for word the shipped `packaging/policy.toml`, as a test checks.
    pub fn built_in() -> Self {
        fn built_in<T>(value: T) -> Sourced<T> {
            Sourced {
                value,
                origin: BUILT_IN.to_owned(),
            }
        }
        Self {
            unknown_kernel: built_in(AssumeKernel::Affected),
            unknown_exposure: built_in(AssumeExposure::Exposed),
            cure: built_in(Cure::Offload),
            give_back_after: built_in(Some(GIVE_BACK_AFTER)),
            bugs: PerBug::new(|id| {
                built_in(if id.describe().only_if_exposed {
                    When::Exposed
                } else {
                    When::Affected
                })
            }),
            rules: Vec::new(),
            kernels: Vec::new(),
            files: Vec::new(),
            ignored: Vec::new(),
        }
    }

    /// The last rule that matches the device. `None` if no rule matches: then `[bugs]` decides.
    pub fn deciding_rule(&self, subject: &Subject) -> Option<&PolicyRule> {
        self.rules.iter().rev().find(|rule| rule.matches(subject))
    }

    /// How to treat an unknown exposure of the devices of a rule, with the origin of the value.
    pub fn unknown_exposure_for<'a>(
        &'a self,
        rule: Option<&'a PolicyRule>,
    ) -> (AssumeExposure, &'a str) {
        rule.and_then(|rule| Some((rule.unknown_exposure?, rule.origin.as_str())))
            .unwrap_or((self.unknown_exposure.value, &self.unknown_exposure.origin))
    }

    /// What to do about NAT for the devices of a rule, with the origin of the value.
    pub fn cure_for<'a>(&'a self, rule: Option<&'a PolicyRule>) -> (Cure, &'a str) {
        rule.and_then(|rule| Some((rule.cure?, rule.origin.as_str())))
            .unwrap_or((self.cure.value, &self.cure.origin))
    }

    /// Every rule in order, with the reason if it does not match.
    pub fn consider(&self, subject: &Subject) -> Vec<Considered<'_>> {
        let miss = |rule: &PolicyRule| rule.missed_key(subject).map(|key| rule.miss(key, subject));
        self.rules
            .iter()
            .map(|rule| Considered {
                rule,
                miss: miss(rule),
            })
            .collect()
    }
}

/// The keys that a rule compares with a device, in the order of comparison.
#[derive(Clone, Copy)]
enum Key {
    Device,
    Kind,
    Vni,
    DstPort,
    UnderlayDriver,
    OuterChecksum,
}

impl PolicyRule {
    /// The name and place for users: `vmxnet3 (/etc/vxcsum/policy.toml:9)`.
    pub fn label(&self) -> String {
        format!("{} ({})", self.name, self.origin)
    }

    /// True if every key in the rule matches.
    pub fn matches(&self, subject: &Subject) -> bool {
        self.missed_key(subject).is_none()
    }

    /// The outer checksum of a device that this rule matches. The kernel does not know the checksum of an `External`
    /// device, because the sender of each packet chooses it. A rule that names the device and one checksum states the
    /// choice of the sender.
    pub fn outer_checksum_of(&self, found: OuterChecksum) -> OuterChecksum {
        match (found, self.outer_checksum.as_deref()) {
            (OuterChecksum::External, Some([stated])) if self.device.is_some() => *stated,
            _ => found,
        }
    }

    fn missed_key(&self, subject: &Subject) -> Option<Key> {
        fn fits<T>(wanted: Option<&Vec<T>>, test: impl Fn(&T) -> bool) -> bool {
            wanted.is_none_or(|list| list.iter().any(test))
        }
        let checksum = |wanted: &Vec<OuterChecksum>| match subject.outer_checksum {
            known @ (OuterChecksum::Present | OuterChecksum::Zero) => wanted.contains(&known),
            // Packets can have either checksum, so only a rule for both certainly fits the device.
            OuterChecksum::External if self.device.is_some() => true,
            OuterChecksum::External | OuterChecksum::Unknown => {
                wanted.contains(&OuterChecksum::Present) && wanted.contains(&OuterChecksum::Zero)
            }
        };
        if !fits(self.device.as_ref(), |g| g.matches(subject.name.as_bytes())) {
            Some(Key::Device)
        } else if !fits(self.kind.as_ref(), |kind| *kind == subject.kind) {
            Some(Key::Kind)
        } else if !fits(self.vni.as_ref(), |r| {
            subject.vni.is_some_and(|vni| r.contains(&vni))
        }) {
            Some(Key::Vni)
        } else if !fits(self.dst_port.as_ref(), |r| {
            subject.dst_port.is_some_and(|port| r.contains(&port))
        }) {
            Some(Key::DstPort)
        } else if !fits(self.underlay_driver.as_ref(), |g| {
            subject
                .underlay_driver
                .is_some_and(|d| g.matches(d.as_bytes()))
        }) {
            Some(Key::UnderlayDriver)
        } else if !self.outer_checksum.as_ref().is_none_or(checksum) {
            Some(Key::OuterChecksum)
        } else {
            None
        }
    }

    fn miss(&self, key: Key, subject: &Subject) -> Miss {
        fn or_none<T: fmt::Display>(found: Option<T>) -> String {
            found.map_or_else(|| "none".to_owned(), |value| value.to_string())
        }
        fn list<T>(wanted: Option<&Vec<T>>, text: impl Fn(&T) -> String) -> String {
            let texts: Vec<_> = wanted.into_iter().flatten().map(text).collect();
            texts.join(", ")
        }
        let glob = |g: &Glob| diagnose::printable(g.as_str());
        match key {
            Key::Device => Miss {
                key: "device",
                wanted: list(self.device.as_ref(), glob),
                found: subject.name.to_string(),
            },
            Key::Kind => Miss {
                key: "kind",
                wanted: list(self.kind.as_ref(), |kind| kind.as_str().to_owned()),
                found: subject.kind.as_str().to_owned(),
            },
            Key::Vni => Miss {
                key: "vni",
                wanted: list(self.vni.as_ref(), range_text),
                found: or_none(subject.vni),
            },
            Key::DstPort => Miss {
                key: "dst-port",
                wanted: list(self.dst_port.as_ref(), range_text),
                found: or_none(subject.dst_port),
            },
            Key::UnderlayDriver => Miss {
                key: "underlay-driver",
                wanted: list(self.underlay_driver.as_ref(), glob),
                found: or_none(subject.underlay_driver.map(|d| escape(d.as_bytes()))),
            },
            Key::OuterChecksum => Miss {
                key: "outer-checksum",
                wanted: list(self.outer_checksum.as_ref(), |c| c.as_str().to_owned()),
                found: subject.outer_checksum.as_str().to_owned(),
            },
        }
    }
}

/// The units of a duration, in seconds.
const UNITS: [(&str, u64); 3] = [("s", 1), ("min", 60), ("h", 3600)];

/// A firewall reload takes seconds, and the restart of an agent a minute. This is longer than both.
const GIVE_BACK_AFTER: Duration = Duration::from_secs(600);

/// A range in policy syntax without quotes: `1` or `4096-8191`.
fn range_text<T: fmt::Display + PartialEq>(range: &RangeInclusive<T>) -> String {
    if range.start() == range.end() {
        range.start().to_string()
    } else {
        format!("{}-{}", range.start(), range.end())
    }
}

/// A duration in policy syntax, in the largest unit that divides it.
fn duration_text(duration: Option<Duration>) -> String {
    let Some(seconds) = duration.map(|d| d.as_secs()) else {
        return "never".to_owned();
    };
    let (unit, size) = UNITS
        .into_iter()
        .rev()
        .find(|(_, size)| seconds.is_multiple_of(*size))
        .unwrap_or(UNITS[0]);
    format!("{}{unit}", seconds / size)
}
