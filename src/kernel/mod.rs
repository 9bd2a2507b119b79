//! The kernel bugs, and the strings that identify a kernel.
//!
//! Owns the types that the table (`bugs`), the release parser (`release`) and the verdict (`verdict`) share. Pure.

pub mod bugs;
pub(crate) mod nodes;
pub(crate) mod os_release;
pub(crate) mod read_io;
pub mod release;
pub mod verdict;

use std::ops::{Index, IndexMut};

use serde::{Deserialize, Serialize};

use crate::ethtool::Feature;

/// The strings that identify a kernel: the running one, or one named on the command line. Not parsed yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelFacts {
    /// `uname -r`, such as `4.18.0-147.5.1.el8_1.x86_64`.
    pub release: String,
    /// `uname -v`, such as `#1 SMP Debian 4.19.132-1 (2020-07-24)`. Empty if not known.
    pub version: String,
    /// `/proc/version_signature`, such as `Ubuntu 5.4.0-104.118-generic 5.4.166`. Only Ubuntu has it.
    pub version_signature: Option<String>,
    /// `/etc/os-release`.
    pub os: OsRelease,
}

/// The keys of os-release(5) that matter here. Empty if the file or the key is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct OsRelease {
    /// `ID`, such as `rhel`.
    pub id: String,
    /// `VERSION_ID`, such as `8.1`.
    pub version_id: String,
}

codes! {
    /// A kernel bug that corrupts the outer UDP checksum of VXLAN packets.
    #[derive(PartialOrd, Ord, Deserialize)]
    pub enum BugId {
        /// NAT updates an outer checksum of zero, which means "no checksum". Fixed by ea64d8d6c675 in 5.7 and in
        /// backports.
        NatZeroCsum = "nat-zero-csum",
        /// Local checksum offload fills in the outer checksum, and NAT updates it as if it were unfinished. Not fixed.
        NatLcoCsum = "nat-lco-csum",
        /// Local checksum offload finishes the outer checksum, and a second segmentation treats it as unfinished. Not
        /// fixed.
        GsoLcoCsum = "gso-lco-csum",
    }
}

codes! {
    /// The event on the path of outer packets that lets a bug corrupt them.
    pub enum Trigger {
        /// NAT rewrites their addresses or ports.
        Nat = "nat",
        /// Software segments them twice on their way out.
        Segmentation = "segmentation",
    }
}

codes! {
    /// Whether a kernel has a bug, or whether a bug affects a device.
    pub enum Status {
        Affected = "affected",
        /// Fixed, or older than the bug.
        NotAffected = "not-affected",
        /// There is no evidence for either.
        Unknown = "unknown",
    }
}

codes! {
    /// Why a kernel is not affected.
    pub enum Why {
        /// The release has the fix.
        Fixed = "fixed",
        /// The kernel is older than the code with the bug.
        PredatesBug = "predates-bug",
    }
}

codes! {
    /// How a fact was learnt: the strength of a piece of evidence.
    pub enum Basis {
        /// Packets were sent and checked.
        Measured = "measured",
        /// The source code of that kernel was read.
        SourceRead = "source-read",
        /// The changelog or announcement of that kernel was read.
        ChangelogRead = "changelog-read",
        /// Follows from facts that were read. Not seen itself.
        Inferred = "inferred",
        /// Somebody claims it. The claim was read, not checked.
        Reported = "reported",
        /// The administrator states it in a `[[kernel]]` entry.
        Declared = "declared",
    }
}

codes! {
    /// Where a piece of evidence comes from.
    pub enum EvidenceSource {
        /// Packets that this kernel sent on this boot.
        Probe = "probe",
        /// A `[[kernel]]` entry of the policy.
        Policy = "policy",
        /// The built-in table.
        Table = "table",
    }
}

/// One reason for the status of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Evidence {
    pub source: EvidenceSource,
    /// How the fact was learnt.
    pub mark: Basis,
    /// One sentence.
    pub text: String,
    /// The source of the fact.
    pub url: Option<String>,
}

/// The verdict on one bug in one kernel, with its evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct BugVerdict {
    pub id: BugId,
    /// Whether the kernel has the bug.
    pub status: Status,
    /// Present if the status is `not-affected` and the reason is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<Why>,
    /// Sorted by strength, the strongest first. Never empty.
    pub evidence: Vec<Evidence>,
}

/// One value for each bug, in the order of [`BugId::ALL`]. Index it by [`BugId`].
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(inline))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PerBug<T>(#[cfg_attr(test, schemars(with = "Vec<T>"))] [T; BugId::ALL.len()]);

impl<T> PerBug<T> {
    pub fn new(make: impl FnMut(BugId) -> T) -> Self {
        Self(BugId::ALL.map(make))
    }

    /// In the order of [`BugId::ALL`].
    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.0.iter()
    }
}

impl<T> Index<BugId> for PerBug<T> {
    type Output = T;

    // The order of `BugId::ALL` is the order of the enum, as a test checks.
    fn index(&self, bug: BugId) -> &T {
        &self.0[bug as usize]
    }
}

impl<T> IndexMut<BugId> for PerBug<T> {
    fn index_mut(&mut self, bug: BugId) -> &mut T {
        &mut self.0[bug as usize]
    }
}

impl<'a, T> IntoIterator for &'a PerBug<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// The verdict on every bug in one kernel.
pub type KernelVerdict = PerBug<BugVerdict>;

/// The packets of one bug on this boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// They had a wrong outer checksum.
    pub affected: bool,
    /// They had a correct outer checksum while `tx-checksum-ip-generic` was off. `None` if that was not tried.
    pub cured: Option<bool>,
    /// They had a correct outer checksum while `tx-scatter-gather-fraglist` was off. `None` if that was not tried.
    pub cured_by_fraglist_off: Option<bool>,
}

impl Measured {
    /// Whether the packets had a correct outer checksum while this feature was off. `None` if that was not tried.
    pub fn cured_by(self, feature: Feature) -> Option<bool> {
        match feature {
            Feature::Checksum => self.cured,
            Feature::Fraglist => self.cured_by_fraglist_off,
        }
    }
}

/// `None` if the measurement was inconclusive.
pub type Measurements = PerBug<Option<Measured>>;

/// A `[[kernel]]` entry of the policy: knowledge of this site that replaces the built-in table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelOverride {
    /// A glob (`*`, `?`, `[a-z]`) over the whole of `uname -r`.
    pub release: crate::glob::Glob,
    pub bug: BugId,
    /// `affected` or `not-affected` (written `fixed`).
    pub status: Status,
    /// The place of the entry, such as `/etc/vxcsum/policy.toml:12`.
    pub origin: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_of_a_bug_is_found_by_it() {
        let each = PerBug::new(|id| id);
        for id in BugId::ALL {
            assert_eq!(each[id], id);
        }
        assert!(each.iter().eq(&BugId::ALL));
    }
}
