//! The kernel bugs, and what is known about a kernel.
//!
//! Owns the vocabulary shared by the table (`bugs`), the release parser (`release`) and the verdict (`verdict`). Pure.

pub mod bugs;
pub mod nodes;
pub mod os_release;
pub mod read_io;
pub mod release;
pub mod verdict;

use std::ops::{Index, IndexMut};

use serde::{Deserialize, Serialize};

/// The strings that identify the running (or a named) kernel. Nothing here is parsed yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelFacts {
    /// `uname -r`, such as `4.18.0-147.5.1.el8_1.x86_64`.
    pub release: String,
    /// `uname -v`, such as `#1 SMP Debian 4.19.132-1 (2020-07-24)`; empty if not known.
    pub version: String,
    /// `/proc/version_signature`, which only Ubuntu has, such as `Ubuntu 5.4.0-104.118-generic 5.4.166`.
    pub version_signature: Option<String>,
    /// `/etc/os-release`.
    pub os: OsRelease,
}

/// The keys of os-release(5) that matter here; empty where the file or the key is missing.
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
        /// NAT updates an outer checksum of zero, which means "none": fixed by ea64d8d6c675 in 5.7 and backports.
        NatZeroCsum = "nat-zero-csum",
        /// NAT updates an outer checksum that local checksum offload filled in as if it were unfinished: not fixed.
        NatLcoCsum = "nat-lco-csum",
        /// A second segmentation takes an outer checksum that local checksum offload finished for an unfinished one: not fixed.
        GsoLcoCsum = "gso-lco-csum",
    }
}

codes! {
    /// What has to happen to the outer packets of a device so that a bug can corrupt them.
    pub enum Trigger {
        /// NAT rewrites their addresses or ports.
        Nat = "nat",
        /// They are segmented twice in software on their way out.
        Segmentation = "segmentation",
    }
}

codes! {
    /// Whether a kernel has a bug, or a device suffers from one.
    pub enum Status {
        /// It does.
        Affected = "affected",
        /// It does not: fixed, or older than the bug.
        NotAffected = "not-affected",
        /// Nobody has shown it either way.
        Unknown = "unknown",
    }
}

codes! {
    /// Why a kernel is not affected.
    pub enum Why {
        /// A release carries the fix.
        Fixed = "fixed",
        /// The kernel is older than the code that has the bug.
        PredatesBug = "predates-bug",
    }
}

codes! {
    /// What a piece of evidence is worth: how the fact was learnt.
    pub enum Basis {
        /// Packets were sent and looked at.
        Measured = "measured",
        /// The source of that kernel was read.
        SourceRead = "source-read",
        /// The changelog or announcement of that kernel was read.
        ChangelogRead = "changelog-read",
        /// Follows from facts that were read, not itself seen.
        Inferred = "inferred",
        /// Somebody's claim that was read, not checked.
        Reported = "reported",
        /// The administrator says so, in a `[[kernel]]` entry.
        Declared = "declared",
    }
}

codes! {
    /// Where a piece of evidence comes from.
    pub enum EvidenceSource {
        /// Packets that this kernel sent, on this boot.
        Probe = "probe",
        /// A `[[kernel]]` entry of the policy.
        Policy = "policy",
        /// The built-in table.
        Table = "table",
    }
}

/// One reason for a kernel's status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Evidence {
    /// Who says so.
    pub source: EvidenceSource,
    /// How it was learnt.
    pub mark: Basis,
    /// One sentence.
    pub text: String,
    /// Where to read it.
    pub url: Option<String>,
}

/// What is known about one bug in one kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct BugVerdict {
    /// Which bug.
    pub id: BugId,
    /// Whether the kernel has it.
    pub status: Status,
    /// Set when the status is `not-affected` and the reason is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<Why>,
    /// The strongest first; never empty.
    pub evidence: Vec<Evidence>,
}

/// One value for each bug, in the order of [`BugId::ALL`]. Index it by [`BugId`].
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(inline))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PerBug<T>(#[cfg_attr(test, schemars(with = "Vec<T>"))] [T; BugId::ALL.len()]);

impl<T> PerBug<T> {
    /// Makes each value from its bug.
    pub fn new(make: impl FnMut(BugId) -> T) -> Self {
        Self(BugId::ALL.map(make))
    }

    /// Every value, in the order of [`BugId::ALL`].
    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.0.iter()
    }
}

impl<T> Index<BugId> for PerBug<T> {
    type Output = T;

    // The order of `BugId::ALL` is the order of the enum, which a test proves.
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

/// What is known about every bug in one kernel.
pub type KernelVerdict = PerBug<BugVerdict>;

/// What packets showed about one bug on this boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// They left with a wrong outer checksum.
    pub affected: bool,
    /// They left with a right one while the feature was off; `None` if that was not tried.
    pub cured: Option<bool>,
}

/// What was measured; `None` where packets showed nothing.
pub type Measurements = PerBug<Option<Measured>>;

/// A `[[kernel]]` entry of the policy: what this site knows better than the built-in table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelOverride {
    /// A glob (`*`, `?`, `[a-z]`) over the whole of `uname -r`.
    pub release: crate::glob::Glob,
    /// Which bug.
    pub bug: BugId,
    /// `affected` or `not-affected` (written `fixed`).
    pub status: Status,
    /// Where it stands, such as `/etc/vxcsum/policy.toml:12`.
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
