//! The table of bugs and the table of facts about them. A row is one fact, with its basis and its source.
//!
//! Owns the facts and how a row is found. Every fact was read, measured, or inferred from such facts. If nobody has
//! looked, the row says `Unknown`. Pure.

use super::release::{Kernel, KernelFamily, Version};
use super::{Basis, BugId, Status, Trigger, Why};
use crate::ethtool::Feature;
use crate::link::OuterChecksum;

/// The date of the last change of the table, for `vxcsum --version`.
pub const TABLE_DATE: &str = "2026-11-26";

/// The properties of a bug that the rest of the program uses. A new bug gets its row here.
#[derive(Clone, Copy, Debug)]
pub struct Bug {
    /// The outer UDP checksum of the packets that the bug corrupts.
    pub outer_checksum: OuterChecksum,
    /// The event that lets the bug corrupt the packets.
    pub trigger: Trigger,
    /// The features that cure the bug if one of them is off on the VXLAN device, the cheapest first.
    pub cures: &'static [Feature],
    /// The built-in policy acts only on devices that the trigger can reach, because most kernels have the bug.
    pub only_if_exposed: bool,
    /// The first upstream versions with the fix, as text. `None` if no version has the fix.
    pub fixed_in: Option<&'static str>,
}

impl BugId {
    pub const fn describe(self) -> Bug {
        match self {
            NatZeroCsum => Bug {
                outer_checksum: OuterChecksum::Zero,
                trigger: Trigger::Nat,
                cures: &[Feature::Checksum],
                only_if_exposed: false,
                fixed_in: Some("5.7, 5.6.13, 5.4.41, 4.19.123, 4.14.181 and newer of each"),
            },
            NatLcoCsum => Bug {
                outer_checksum: OuterChecksum::Present,
                trigger: Trigger::Nat,
                cures: &[Feature::Checksum],
                only_if_exposed: true,
                fixed_in: None,
            },
            GsoLcoCsum => Bug {
                outer_checksum: OuterChecksum::Present,
                trigger: Trigger::Segmentation,
                cures: &[Feature::Fraglist, Feature::Checksum],
                only_if_exposed: true,
                fixed_in: None,
            },
        }
    }

    /// True if the bug can corrupt packets with this outer checksum. An unknown checksum counts as one that it can
    /// corrupt.
    pub fn meets(self, outer_checksum: OuterChecksum) -> bool {
        match outer_checksum {
            OuterChecksum::Zero | OuterChecksum::Present => {
                outer_checksum == self.describe().outer_checksum
            }
            OuterChecksum::External | OuterChecksum::Unknown => true,
        }
    }
}

/// The status of the kernels in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowStatus {
    Affected,
    /// The kernels have the fix.
    Fixed,
    /// The kernels are older than the code with the bug.
    Predates,
    /// Not known. The text of the row says what is missing.
    Unknown,
}

impl RowStatus {
    pub const fn status(self) -> Status {
        match self {
            Self::Affected => Status::Affected,
            Self::Fixed | Self::Predates => Status::NotAffected,
            Self::Unknown => Status::Unknown,
        }
    }

    /// The reason for `not-affected`. `None` for other values.
    pub const fn why(self) -> Option<Why> {
        match self {
            Self::Fixed => Some(Why::Fixed),
            Self::Predates => Some(Why::PredatesBug),
            Self::Affected | Self::Unknown => None,
        }
    }
}

/// The range of build numbers (`Kernel::build`) of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// All numbers, and kernels whose number is not known.
    Any,
    /// From the first (included) to the second (not included).
    In(&'static [u32], &'static [u32]),
    /// As `In`, but only builds of at most two numbers: `193.10.el8` is a build of the main line, not of a z-stream.
    MainLineIn(&'static [u32], &'static [u32]),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Names the row in tests.
    pub id: &'static str,
    pub bug: BugId,
    /// The builder of the kernels. `Upstream` rows also hold for kernels of other builders without a matching row of
    /// their own.
    pub family: KernelFamily,
    /// From the first upstream version (included) to the second (not included).
    pub base: (Version, Version),
    pub build: Build,
    pub says: RowStatus,
    /// How the fact was learnt.
    pub mark: Basis,
    /// One sentence.
    pub text: &'static str,
    /// The source of the fact.
    pub url: Option<&'static str>,
}

impl Row {
    fn fits(&self, kernel: &Kernel) -> bool {
        let within = |from: &[u32], below: &[u32]| {
            let build = &*kernel.build;
            !build.is_empty() && from <= build && build < below
        };
        (self.family == kernel.family
            || self.family == KernelFamily::Upstream && kernel.family != KernelFamily::Unreadable)
            && (self.base.0..self.base.1).contains(&kernel.base)
            && match self.build {
                Build::Any => true,
                Build::In(from, below) => within(from, below),
                Build::MainLineIn(from, below) => kernel.build.len() < 3 && within(from, below),
            }
    }

    /// How certain the row is for this kernel. A fact about an upstream release is only inferred for a build of that
    /// release by somebody else.
    ///
    /// A measurement is also valid for a kernel with another local suffix, which is only a label, but not with the
    /// patches of another builder.
    pub fn basis_for(&self, kernel: &Kernel) -> Basis {
        match self.mark {
            Basis::SourceRead | Basis::ChangelogRead
                if self.family == KernelFamily::Upstream && !kernel.plain =>
            {
                Basis::Inferred
            }
            Basis::Measured if self.family != kernel.family => Basis::Inferred,
            mark => mark,
        }
    }
}

/// The rows for a kernel. The first decides; the others support it with less weight.
///
/// Never empty. If the family of the kernel has a matching row, upstream's rows are left out.
pub fn rows(bug: BugId, kernel: &Kernel) -> impl Iterator<Item = &'static Row> {
    let fitting = move || {
        TABLE
            .iter()
            .filter(move |row| row.bug == bug && row.fits(kernel))
    };
    let first = fitting().next();
    fitting().filter(move |row| {
        first.is_some_and(|first| (first.family, first.says) == (row.family, row.says))
    })
}

use Basis::{ChangelogRead, Inferred, Measured, Reported, SourceRead};
use BugId::{GsoLcoCsum, NatLcoCsum, NatZeroCsum};
use Build::{Any, In, MainLineIn};
use KernelFamily::{
    Amazon, Cos, Debian, DebianUnversioned, El7, El8, El9, El10, ElOther, Suse, Ubuntu,
    UbuntuFlavour, UbuntuFlavourSigned, Uek, Unreadable, Upstream, Vz7, Vz8,
};
use RowStatus::{Affected, Fixed, Predates, Unknown};

type Range = (Version, Version);

const ALL: Range = (Version::rc(0, 0, 0), END);
const END: Version = Version::rc(u32::MAX, u32::MAX, u32::MAX);
const TOP: &[u32] = &[u32::MAX];

/// The start of a branch, before its first release candidate.
const fn branch(major: u32, minor: u32) -> Version {
    Version::rc(major, minor, 0)
}

/// One upstream release.
const fn only(major: u32, minor: u32, patch: u32) -> Range {
    (
        Version::new(major, minor, patch),
        Version::new(major, minor, patch + 1),
    )
}

/// All kernels before the first mainline release with the fix.
const fn before_fix(from: Version) -> Range {
    (from, branch(5, 7))
}

const FIX: Option<&str> = Some(
    "https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/commit/?id=ea64d8d6c675c0bb712689b13810301de9d8f77a",
);
const LCO: Option<&str> = Some(
    "https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/commit/?id=179bc67f69b6",
);
const PROPOSAL: Option<&str> =
    Some("https://lore.kernel.org/all/20230401023029.967357-1-chenwei.0515@bytedance.com/");
const FRAGLIST: Option<&str> = Some(
    "https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/commit/?id=cb2c57112432",
);
const GSO_REPORT: Option<&str> = Some("https://github.com/pjknkda/vxlan-gso-csum-bug");
const STABLE: Option<&str> = Some("https://github.com/kubernetes/kubernetes/issues/88986");
const CENTOS: Option<&str> = Some("https://github.com/MafSam/centos");
const ALMA: Option<&str> = Some("https://github.com/mkuron/almalinux-kernel");
const CIQ: Option<&str> = Some("https://github.com/ctrliq/kernel-src-tree");
const BIONIC: Option<&str> = Some("https://github.com/balabit-deps/balabit-os-7-linux");
const FOCAL: Option<&str> = Some("https://github.com/balabit-deps/balabit-os-8-linux");
const XENIAL: Option<&str> = Some("https://github.com/balabit-deps/balabit-os-6-linux");
const VZ: Option<&str> = Some("https://github.com/OpenVZ/vzkernel");
const BOTTLEROCKET: Option<&str> =
    Some("https://github.com/bottlerocket-os/bottlerocket/commit/f46ddba7");
const SUSE: Option<&str> = Some("https://github.com/openSUSE/kernel-source/commit/06b18470");

/// Every row. Distributions come before upstream. Within a family, narrower rows and rows with a stronger basis come
/// first.
#[rustfmt::skip] // a fact stays together: who, which, what, how known, text, link
pub static TABLE: &[Row] = &[
    // Red Hat 8: one row for each line of the changelogs. Below 202.el8 only two z-streams have the backport.
    Row { id: "el8-measured", bug: NatZeroCsum, family: El8, base: ALL, build: In(&[147, 5, 1], &[147, 5, 2]), says: Affected, mark: Measured,
          text: "on RHEL 8.1's 4.18.0-147.5.1 every connection over a noudpcsum VXLAN device began with a packet that arrived corrupt",
          url: None },
    Row { id: "el8-read-147", bug: NatZeroCsum, family: El8, base: ALL, build: In(&[147, 5, 1], &[147, 5, 2]), says: Affected, mark: SourceRead,
          text: "the source of 4.18.0-147.5.1.el8_1 updates a checksum of zero",
          url: Some("https://github.com/cai-fuqiang/linux-4.18.0-147") },
    Row { id: "el8-read-240", bug: NatZeroCsum, family: El8, base: ALL, build: In(&[240], TOP), says: Fixed, mark: SourceRead,
          text: "the sources of RHEL 8.3 (4.18.0-240) to 8.10 (4.18.0-553) have the fix",
          url: ALMA },
    Row { id: "el8-202", bug: NatZeroCsum, family: El8, base: ALL, build: In(&[202], TOP), says: Fixed, mark: ChangelogRead,
          text: "the changelog of 4.18.0-202.el8 lists the fix (BZ 1794714), so RHEL 8.3 and newer have it",
          url: CENTOS },
    Row { id: "el8-193-main", bug: NatZeroCsum, family: El8, base: ALL, build: MainLineIn(&[193], &[193, 11]), says: Affected, mark: ChangelogRead,
          text: "the changelogs of 4.18.0-193.el8 and 193.10.el8 (CentOS Stream) do not list the fix, which came with 202.el8",
          url: CENTOS },
    Row { id: "el8-193-main-later", bug: NatZeroCsum, family: El8, base: ALL, build: MainLineIn(&[193, 11], &[194]), says: Unknown, mark: Inferred,
          text: "no changelog of a main line build between 4.18.0-193.10.el8, which has no fix, and 202.el8, which has it, was found",
          url: CENTOS },
    Row { id: "el8-193-z", bug: NatZeroCsum, family: El8, base: ALL, build: In(&[193, 10, 1], &[194]), says: Fixed, mark: ChangelogRead,
          text: "the changelog of 4.18.0-193.10.1.el8_2 lists the fix (BZ 1847128)",
          url: CENTOS },
    Row { id: "el8-193-z-early", bug: NatZeroCsum, family: El8, base: ALL, build: In(&[193], &[193, 10, 1]), says: Affected, mark: ChangelogRead,
          text: "RHEL 8.2 got the fix with 4.18.0-193.10.1.el8_2, and the changelogs of 193.1.2 and 193.6.3 do not list it",
          url: CENTOS },
    Row { id: "el8-147-eus", bug: NatZeroCsum, family: El8, base: ALL, build: In(&[147, 21, 1], &[148]), says: Fixed, mark: Reported,
          text: "OpenShift's machine-config-operator names 4.18.0-147.21.1.el8_1 as fixed (BZ 1847127), whose source is not public",
          url: Some("https://github.com/openshift/machine-config-operator/pull/1882") },
    Row { id: "el8-80-read", bug: NatZeroCsum, family: El8, base: ALL, build: In(&[80, 7, 1], &[80, 7, 2]), says: Affected, mark: SourceRead,
          text: "the source of 4.18.0-80.7.1.el8_0 updates a checksum of zero",
          url: Some("https://github.com/wuxingyi/centos8-bcache") },
    Row { id: "el8-80", bug: NatZeroCsum, family: El8, base: ALL, build: In(&[80], &[80, 11, 3]), says: Affected, mark: ChangelogRead,
          text: "no changelog of RHEL 8.0's 4.18.0-80 builds lists the fix",
          url: CENTOS },
    Row { id: "el8-80-eus", bug: NatZeroCsum, family: El8, base: ALL, build: In(&[80, 11, 3], &[81]), says: Unknown, mark: Inferred,
          text: "whether a late update of RHEL 8.0 (after 4.18.0-80.11.2.el8_0) got the fix is not known",
          url: CENTOS },
    Row { id: "el8-early", bug: NatZeroCsum, family: El8, base: ALL, build: In(&[0], &[202]), says: Affected, mark: Inferred,
          text: "this build is older than 4.18.0-202.el8 and in no z-stream that is known to have the fix",
          url: CENTOS },
    Row { id: "el8-no-build", bug: NatZeroCsum, family: El8, base: ALL, build: Any, says: Unknown, mark: Inferred,
          text: "this looks like a RHEL 8 kernel, but its build number, which alone tells whether it has the fix, cannot be read",
          url: CENTOS },

    // Red Hat 7
    Row { id: "el7-1160-read", bug: NatZeroCsum, family: El7, base: ALL, build: In(&[1160], TOP), says: Fixed, mark: SourceRead,
          text: "the source of RHEL 7.9's 3.10.0-1160.el7 has the fix",
          url: Some("https://github.com/tremb1e/linux-3.10.0-1160.el7") },
    Row { id: "el7-1160", bug: NatZeroCsum, family: El7, base: ALL, build: In(&[1160], TOP), says: Fixed, mark: ChangelogRead,
          text: "the changelog of 3.10.0-1160.el7 lists the fix",
          url: CIQ },
    Row { id: "el7-1127-z-late", bug: NatZeroCsum, family: El7, base: ALL, build: In(&[1127, 8, 3], &[1160]), says: Unknown, mark: Inferred,
          text: "no source or changelog between 3.10.0-1127.8.2.el7, which is affected, and 3.10.0-1160.el7, which is fixed, was found",
          url: CIQ },
    Row { id: "el7-1127-read", bug: NatZeroCsum, family: El7, base: ALL, build: In(&[1127], &[1127, 0]), says: Affected, mark: SourceRead,
          text: "the source of RHEL 7.8's 3.10.0-1127.el7 updates a checksum of zero",
          url: Some("https://github.com/jiho-dev/linux-3.10.0-1127") },
    Row { id: "el7-1127-z", bug: NatZeroCsum, family: El7, base: ALL, build: In(&[1127, 8, 2], &[1127, 8, 3]), says: Affected, mark: Reported,
          text: "a user of 3.10.0-1127.8.2.el7 saw the problem persist",
          url: STABLE },
    Row { id: "el7-early", bug: NatZeroCsum, family: El7, base: ALL, build: In(&[0], &[1127, 8, 3]), says: Affected, mark: Inferred,
          text: "RHEL 7 is affected up to 3.10.0-1127.8.2.el7 at least and fixed in 3.10.0-1160.el7",
          url: CIQ },
    Row { id: "el7-no-build", bug: NatZeroCsum, family: El7, base: ALL, build: Any, says: Unknown, mark: Inferred,
          text: "this looks like a RHEL 7 kernel, but its build number, which alone tells whether it has the fix, cannot be read",
          url: CIQ },

    // Red Hat 9 and 10, and rebuilds of others
    Row { id: "el9", bug: NatZeroCsum, family: El9, base: ALL, build: Any, says: Fixed, mark: SourceRead,
          text: "the sources of RHEL 9.0 to 9.6 (5.14.0) have the fix, which is older than their base",
          url: ALMA },
    Row { id: "el10", bug: NatZeroCsum, family: El10, base: ALL, build: Any, says: Fixed, mark: SourceRead,
          text: "the source of RHEL 10.0 (6.12.0) has the fix, which is older than its base",
          url: ALMA },
    Row { id: "el-other", bug: NatZeroCsum, family: ElOther, base: before_fix(ALL.0), build: Any, says: Unknown, mark: Inferred,
          text: "this is built for an enterprise distribution on a base that is not Red Hat's main one, and its backports are not known",
          url: None },

    // Virtuozzo names its builds after Red Hat's
    Row { id: "vz7", bug: NatZeroCsum, family: Vz7, base: ALL, build: In(&[1160], TOP), says: Fixed, mark: Inferred,
          text: "the Virtuozzo sources that were read have the fix, and this one is made from a Red Hat build that has it",
          url: VZ },
    Row { id: "vz7-early", bug: NatZeroCsum, family: Vz7, base: ALL, build: Any, says: Unknown, mark: Inferred,
          text: "the Virtuozzo sources that were read have the fix, but which Virtuozzo build was the first is not known",
          url: VZ },
    Row { id: "vz8", bug: NatZeroCsum, family: Vz8, base: ALL, build: In(&[202], TOP), says: Fixed, mark: Inferred,
          text: "the Virtuozzo sources that were read have the fix, and this one is made from a Red Hat build that has it",
          url: VZ },
    Row { id: "vz8-early", bug: NatZeroCsum, family: Vz8, base: ALL, build: Any, says: Unknown, mark: Inferred,
          text: "the Virtuozzo sources that were read have the fix, but which Virtuozzo build was the first is not known",
          url: VZ },

    // Oracle
    Row { id: "uek5", bug: NatZeroCsum, family: Uek, base: only(4, 14, 35), build: Any, says: Unknown, mark: Inferred,
          text: "Oracle's UEK5 keeps the base 4.14.35 whatever is backported, and it is not known whether it has the fix",
          url: None },
    Row { id: "uek6", bug: NatZeroCsum, family: Uek, base: only(5, 4, 17), build: Any, says: Unknown, mark: Inferred,
          text: "Oracle's UEK6 keeps the base 5.4.17 whatever is backported, and it is not known whether it has the fix",
          url: None },
    Row { id: "uek-other", bug: NatZeroCsum, family: Uek, base: before_fix(ALL.0), build: Any, says: Unknown, mark: Inferred,
          text: "Oracle's UEK keeps its base whatever is backported, and it is not known whether this one has the fix",
          url: None },

    // Ubuntu: ABI numbers of the main kernels
    Row { id: "ubuntu-4.15-fixed", bug: NatZeroCsum, family: Ubuntu, base: only(4, 15, 0), build: In(&[109], &[148]), says: Fixed, mark: SourceRead,
          text: "the sources of Ubuntu's 4.15.0-109.110 to 4.15.0-147.151 have the fix",
          url: BIONIC },
    Row { id: "ubuntu-4.15-109", bug: NatZeroCsum, family: Ubuntu, base: only(4, 15, 0), build: In(&[109], TOP), says: Fixed, mark: ChangelogRead,
          text: "the changelog of Ubuntu's 4.15.0-109.110 lists the fix",
          url: Some("https://bugs.launchpad.net/bugs/1880014") },
    Row { id: "ubuntu-4.15-affected", bug: NatZeroCsum, family: Ubuntu, base: only(4, 15, 0), build: In(&[91], &[109]), says: Affected, mark: SourceRead,
          text: "the sources of Ubuntu's 4.15.0-91.92 to 4.15.0-108.109 update a checksum of zero",
          url: BIONIC },
    Row { id: "ubuntu-4.15-early", bug: NatZeroCsum, family: Ubuntu, base: only(4, 15, 0), build: In(&[0], &[91]), says: Affected, mark: Inferred,
          text: "this is older than Ubuntu's 4.15.0-91.92, whose source updates a checksum of zero",
          url: BIONIC },
    Row { id: "ubuntu-5.4-read", bug: NatZeroCsum, family: Ubuntu, base: only(5, 4, 0), build: In(&[216], &[217]), says: Fixed, mark: SourceRead,
          text: "the source of Ubuntu's 5.4.0-216.236 has the fix",
          url: FOCAL },
    Row { id: "ubuntu-5.4-34", bug: NatZeroCsum, family: Ubuntu, base: only(5, 4, 0), build: In(&[34], TOP), says: Fixed, mark: ChangelogRead,
          text: "the changelog of Ubuntu's 5.4.0-34.38 takes in v5.4.41, which has the fix",
          url: Some("https://bugs.launchpad.net/bugs/1878649") },
    Row { id: "ubuntu-5.4-early", bug: NatZeroCsum, family: Ubuntu, base: only(5, 4, 0), build: In(&[0], &[34]), says: Affected, mark: ChangelogRead,
          text: "the changelog of Ubuntu's kernels up to 5.4.0-33.37 does not list the fix, which came with 5.4.0-34.38",
          url: FOCAL },
    Row { id: "ubuntu-4.4-read", bug: NatZeroCsum, family: Ubuntu, base: only(4, 4, 0), build: In(&[187], &[188]), says: Affected, mark: SourceRead,
          text: "the source of Ubuntu's 4.4.0-187.217 updates a checksum of zero",
          url: XENIAL },
    Row { id: "ubuntu-4.4-early", bug: NatZeroCsum, family: Ubuntu, base: only(4, 4, 0), build: In(&[0], &[187]), says: Affected, mark: Inferred,
          text: "this is older than Ubuntu's 4.4.0-187.217, whose source updates a checksum of zero",
          url: XENIAL },
    Row { id: "ubuntu-4.4-late", bug: NatZeroCsum, family: Ubuntu, base: only(4, 4, 0), build: In(&[188], TOP), says: Unknown, mark: Inferred,
          text: "Ubuntu's 4.4.0-187.217 is affected, and no source of a later 4.4.0 was read",
          url: XENIAL },
    Row { id: "ubuntu-5.0-5.3", bug: NatZeroCsum, family: Ubuntu, base: (branch(5, 0), branch(5, 4)), build: Any, says: Unknown, mark: Inferred,
          text: "whether Ubuntu's 5.0 and 5.3 kernels ever got the fix is not known",
          url: None },
    Row { id: "ubuntu-other", bug: NatZeroCsum, family: Ubuntu, base: before_fix(ALL.0), build: Any, says: Unknown, mark: Inferred,
          text: "Ubuntu keeps the base of this kernel whatever is backported, and no source of it was read",
          url: None },
    // Ubuntu: the flavours
    Row { id: "ubuntu-flavour-5.4-41", bug: NatZeroCsum, family: UbuntuFlavourSigned, base: (Version::new(5, 4, 41), branch(5, 5)), build: Any, says: Fixed, mark: Inferred,
          text: "/proc/version_signature says that this Ubuntu flavour has taken in v5.4.41, which has the fix",
          url: STABLE },
    Row { id: "ubuntu-flavour-5.4-early", bug: NatZeroCsum, family: UbuntuFlavourSigned, base: (branch(5, 4), Version::new(5, 4, 41)), build: Any, says: Affected, mark: Inferred,
          text: "/proc/version_signature says that this Ubuntu flavour has not yet taken in v5.4.41, which has the fix",
          url: STABLE },
    Row { id: "ubuntu-flavour-signed", bug: NatZeroCsum, family: UbuntuFlavourSigned, base: before_fix(ALL.0), build: Any, says: Unknown, mark: Inferred,
          text: "this Ubuntu flavour has ABI numbers of its own, and its upstream version stays the same whatever is backported",
          url: None },
    Row { id: "ubuntu-flavour-5.4", bug: NatZeroCsum, family: UbuntuFlavour, base: only(5, 4, 0), build: Any, says: Unknown, mark: Inferred,
          text: "this Ubuntu flavour has ABI numbers of its own, and /proc/version_signature, which gives its upstream version, is not known here",
          url: None },
    Row { id: "ubuntu-flavour", bug: NatZeroCsum, family: UbuntuFlavour, base: before_fix(ALL.0), build: Any, says: Unknown, mark: Inferred,
          text: "this Ubuntu flavour has ABI numbers of its own, and which of them was the first with the fix is not known",
          url: None },

    // Debian: uname -v has the version
    Row { id: "debian-4.19-fixed", bug: NatZeroCsum, family: Debian, base: (Version::new(4, 19, 123), branch(4, 20)), build: Any, says: Fixed, mark: Inferred,
          text: "this Debian kernel is made from 4.19.123 or newer, which has the fix",
          url: STABLE },
    Row { id: "debian-4.19-early", bug: NatZeroCsum, family: Debian, base: (branch(4, 19), Version::new(4, 19, 123)), build: Any, says: Affected, mark: Inferred,
          text: "this Debian kernel is made from a 4.19 older than 4.19.123, which has the fix",
          url: STABLE },
    Row { id: "debian-sid", bug: NatZeroCsum, family: Debian, base: (Version::new(5, 6, 14), END), build: Any, says: Fixed, mark: ChangelogRead,
          text: "the changelog of Debian's linux 5.6.14-1 lists the fix, so Debian 11 and newer have it",
          url: STABLE },
    Row { id: "debian-unversioned", bug: NatZeroCsum, family: DebianUnversioned, base: before_fix(branch(4, 14)), build: Any, says: Unknown, mark: Inferred,
          text: "Debian's uname -r names an ABI that stays the same over the fix, and uname -v, which has the version, is not known here",
          url: None },

    // SUSE
    Row { id: "suse-5.3.18", bug: NatZeroCsum, family: Suse, base: only(5, 3, 18), build: Any, says: Unknown, mark: Inferred,
          text: "SUSE has a backport to 5.3.18 (SLES 15 SP2 and SP3, Leap 15.2 and 15.3, bsc#1176447), but its first build is not known",
          url: SUSE },
    Row { id: "suse-4.12.14", bug: NatZeroCsum, family: Suse, base: only(4, 12, 14), build: Any, says: Unknown, mark: Inferred,
          text: "whether SUSE's 4.12.14 (SLES 12 SP4 and SP5, 15, 15 SP1) ever got the fix is not known",
          url: None },
    Row { id: "suse-other", bug: NatZeroCsum, family: Suse, base: (ALL.0, branch(5, 4)), build: Any, says: Unknown, mark: Inferred,
          text: "SUSE keeps the base of a service pack whatever is backported, and whether this one ever got the fix is not known",
          url: None },

    // Amazon. Its 5.4 kernels between the two builds are compared by their base, as upstream's are.
    Row { id: "amazon-4.14-181", bug: NatZeroCsum, family: Amazon, base: (Version::new(4, 14, 181), branch(4, 15)), build: Any, says: Fixed, mark: Inferred,
          text: "Amazon Linux is made from 4.14.181 or newer, which has the fix, since 4.14.181-140.257.amzn2",
          url: STABLE },
    Row { id: "amazon-4.14-early", bug: NatZeroCsum, family: Amazon, base: (branch(4, 14), Version::new(4, 14, 181)), build: Any, says: Affected, mark: Inferred,
          text: "this Amazon Linux kernel is made from a 4.14 older than 4.14.181, which has the fix",
          url: STABLE },
    Row { id: "amazon-5.4-46", bug: NatZeroCsum, family: Amazon, base: (Version::new(5, 4, 46), branch(5, 5)), build: Any, says: Fixed, mark: Inferred,
          text: "Amazon's kernels for Bottlerocket and Amazon Linux 2 have the fix since 5.4.46-19.75",
          url: BOTTLEROCKET },
    Row { id: "amazon-5.4-38", bug: NatZeroCsum, family: Amazon, base: (branch(5, 4), Version::new(5, 4, 39)), build: Any, says: Affected, mark: Inferred,
          text: "Amazon's 5.4.38-17.76 and older are made from a 5.4 older than 5.4.41, which has the fix",
          url: BOTTLEROCKET },

    // Google
    Row { id: "cos", bug: NatZeroCsum, family: Cos, base: before_fix(ALL.0), build: Any, says: Unknown, mark: Inferred,
          text: "it is not known whether the upstream version of a Container-Optimized OS kernel shows if it has the fix",
          url: None },

    // Upstream: measurements, and single releases whose source was read
    Row { id: "6.18.44-measured", bug: NatZeroCsum, family: Upstream, base: only(6, 18, 44), build: Any, says: Fixed, mark: Measured,
          text: "on 6.18.44 no packet of a noudpcsum VXLAN device arrived corrupt under the NAT rules that break RHEL 8.1",
          url: None },
    Row { id: "3.10.105-read", bug: NatZeroCsum, family: Upstream, base: only(3, 10, 105), build: Any, says: Affected, mark: SourceRead,
          text: "the source of 3.10.105 updates a checksum of zero",
          url: Some("https://github.com/gq213/linux-3.10.105") },
    Row { id: "4.4.178-read", bug: NatZeroCsum, family: Upstream, base: only(4, 4, 178), build: Any, says: Affected, mark: SourceRead,
          text: "the source of 4.4.178 updates a checksum of zero",
          url: Some("https://github.com/MichaelTong/linux-4.4.178") },
    Row { id: "4.5.7-read", bug: NatZeroCsum, family: Upstream, base: only(4, 5, 7), build: Any, says: Affected, mark: SourceRead,
          text: "the source of 4.5.7 updates a checksum of zero",
          url: Some("https://github.com/everestdavid/sound-linux-4.5.7") },
    Row { id: "4.6.2-read", bug: NatZeroCsum, family: Upstream, base: only(4, 6, 2), build: Any, says: Affected, mark: SourceRead,
          text: "the source of 4.6.2 updates a checksum of zero",
          url: Some("https://github.com/xing393939/linux-4.6.2") },
    Row { id: "4.9.337-read", bug: NatZeroCsum, family: Upstream, base: only(4, 9, 337), build: Any, says: Affected, mark: SourceRead,
          text: "the source of 4.9.337, the last 4.9, still updates a checksum of zero",
          url: Some("https://github.com/eugene-rom/linux-4.9.337-sbc2440v4") },
    Row { id: "4.14.134-read", bug: NatZeroCsum, family: Upstream, base: only(4, 14, 134), build: Any, says: Affected, mark: SourceRead,
          text: "the source of 4.14.134 updates a checksum of zero",
          url: Some("https://github.com/guohaoooo/ubuntu1804_rt_kernel") },
    Row { id: "4.14.325-read", bug: NatZeroCsum, family: Upstream, base: only(4, 14, 325), build: Any, says: Fixed, mark: SourceRead,
          text: "the source of 4.14.325 has the fix",
          url: Some("https://github.com/Igorbunow/sstat_linux-4.14.y") },
    Row { id: "4.19.152-read", bug: NatZeroCsum, family: Upstream, base: only(4, 19, 152), build: Any, says: Fixed, mark: SourceRead,
          text: "a source of 4.19.152 (SONiC's) has the fix",
          url: Some("https://github.com/keboliu/sonic-linux-kernel-repo") },
    Row { id: "4.19.191-read", bug: NatZeroCsum, family: Upstream, base: only(4, 19, 191), build: Any, says: Fixed, mark: SourceRead,
          text: "a source of 4.19.191 (Samsung's) has the fix",
          url: Some("https://github.com/Elchanz3/Samsung_Galaxy-S20FE-SM8250") },
    Row { id: "5.4.18-read", bug: NatZeroCsum, family: Upstream, base: only(5, 4, 18), build: Any, says: Affected, mark: SourceRead,
          text: "the source of 5.4.18 updates a checksum of zero",
          url: Some("https://github.com/wuyansky/Linux-5.4.18") },
    Row { id: "5.4.38-read", bug: NatZeroCsum, family: Upstream, base: only(5, 4, 38), build: Any, says: Affected, mark: SourceRead,
          text: "the source of 5.4.38 updates a checksum of zero",
          url: Some("https://github.com/wenhuizhang/llvm-linux-5.4.38") },
    Row { id: "5.4.49-read", bug: NatZeroCsum, family: Upstream, base: only(5, 4, 49), build: Any, says: Fixed, mark: SourceRead,
          text: "the source of 5.4.49 has the fix",
          url: Some("https://github.com/ferry-hhh/linux-5.4.49") },
    Row { id: "5.4.286-read", bug: NatZeroCsum, family: Upstream, base: only(5, 4, 286), build: Any, says: Fixed, mark: SourceRead,
          text: "the source of 5.4.286 has the fix",
          url: Some("https://github.com/KINGFIOX/linux-5.4.286") },
    Row { id: "5.6.4-read", bug: NatZeroCsum, family: Upstream, base: only(5, 6, 4), build: Any, says: Affected, mark: SourceRead,
          text: "the source of 5.6.4 updates a checksum of zero",
          url: Some("https://github.com/shmily1012/linux-5.6.4") },
    Row { id: "5.7.6-read", bug: NatZeroCsum, family: Upstream, base: only(5, 7, 6), build: Any, says: Fixed, mark: SourceRead,
          text: "the source of 5.7.6 has the fix",
          url: Some("https://github.com/HanRunyu/linux-5.7.6-jz2440") },
    Row { id: "5.7.14-read", bug: NatZeroCsum, family: Upstream, base: only(5, 7, 14), build: Any, says: Fixed, mark: SourceRead,
          text: "the source of 5.7.14 has the fix",
          url: Some("https://github.com/a5221985/linux-5.7.14") },
    // Upstream: mainline and the stable branches
    Row { id: "5.7", bug: NatZeroCsum, family: Upstream, base: (Version::rc(5, 7, 5), END), build: Any, says: Fixed, mark: ChangelogRead,
          text: "Linux 5.7-rc5 has the fix, so 5.7 and everything newer has it",
          url: FIX },
    Row { id: "5.7-rc4-past", bug: NatZeroCsum, family: Upstream, base: (Version::rc_past(5, 7, 4), Version::rc(5, 7, 5)), build: Any, says: Unknown, mark: Inferred,
          text: "the fix came between 5.7-rc4 and 5.7-rc5, and the name of this tree does not say whether it has it",
          url: FIX },
    Row { id: "5.7-rc", bug: NatZeroCsum, family: Upstream, base: (branch(5, 7), Version::rc_past(5, 7, 4)), build: Any, says: Affected, mark: ChangelogRead,
          text: "the fix came with 5.7-rc5",
          url: FIX },
    Row { id: "5.6.13", bug: NatZeroCsum, family: Upstream, base: (Version::new(5, 6, 13), branch(5, 7)), build: Any, says: Fixed, mark: ChangelogRead,
          text: "5.6.13 and newer 5.6 have the fix",
          url: STABLE },
    Row { id: "5.6-early", bug: NatZeroCsum, family: Upstream, base: (branch(5, 6), Version::new(5, 6, 13)), build: Any, says: Affected, mark: ChangelogRead,
          text: "5.6 got the fix with 5.6.13",
          url: STABLE },
    Row { id: "5.5", bug: NatZeroCsum, family: Upstream, base: (branch(5, 5), branch(5, 6)), build: Any, says: Affected, mark: Inferred,
          text: "5.5 ended before the fix and never got it",
          url: FIX },
    Row { id: "5.4.41", bug: NatZeroCsum, family: Upstream, base: (Version::new(5, 4, 41), branch(5, 5)), build: Any, says: Fixed, mark: ChangelogRead,
          text: "5.4.41 and newer 5.4 have the fix",
          url: STABLE },
    Row { id: "5.4-early", bug: NatZeroCsum, family: Upstream, base: (branch(5, 4), Version::new(5, 4, 41)), build: Any, says: Affected, mark: ChangelogRead,
          text: "5.4 got the fix with 5.4.41",
          url: STABLE },
    Row { id: "4.20-5.3", bug: NatZeroCsum, family: Upstream, base: (branch(4, 20), branch(5, 4)), build: Any, says: Affected, mark: Inferred,
          text: "4.20 to 5.3 ended before the fix and never got it upstream",
          url: FIX },
    Row { id: "4.19.123", bug: NatZeroCsum, family: Upstream, base: (Version::new(4, 19, 123), branch(4, 20)), build: Any, says: Fixed, mark: ChangelogRead,
          text: "4.19.123 and newer 4.19 have the fix",
          url: STABLE },
    Row { id: "4.19-early", bug: NatZeroCsum, family: Upstream, base: (branch(4, 19), Version::new(4, 19, 123)), build: Any, says: Affected, mark: ChangelogRead,
          text: "4.19 got the fix with 4.19.123",
          url: STABLE },
    Row { id: "4.15-4.18", bug: NatZeroCsum, family: Upstream, base: (branch(4, 15), branch(4, 19)), build: Any, says: Affected, mark: Inferred,
          text: "4.15 to 4.18 ended before the fix and never got it upstream",
          url: FIX },
    Row { id: "4.14.181", bug: NatZeroCsum, family: Upstream, base: (Version::new(4, 14, 181), branch(4, 15)), build: Any, says: Fixed, mark: ChangelogRead,
          text: "4.14.181 and newer 4.14 have the fix",
          url: STABLE },
    Row { id: "4.14-early", bug: NatZeroCsum, family: Upstream, base: (branch(4, 14), Version::new(4, 14, 181)), build: Any, says: Affected, mark: ChangelogRead,
          text: "4.14 got the fix with 4.14.181",
          url: STABLE },
    Row { id: "4.9", bug: NatZeroCsum, family: Upstream, base: (branch(4, 9), branch(4, 10)), build: Any, says: Affected, mark: SourceRead,
          text: "4.9 never got the fix: its last release, 4.9.337, does not have it",
          url: Some("https://github.com/eugene-rom/linux-4.9.337-sbc2440v4") },
    Row { id: "4.4", bug: NatZeroCsum, family: Upstream, base: (branch(4, 4), branch(4, 5)), build: Any, says: Affected, mark: Inferred,
          text: "4.4 shows no sign of the fix: 4.4.178 and a tree made from 4.4.230 do not have it",
          url: Some("https://github.com/MichaelTong/linux-4.4.178") },
    Row { id: "3.16", bug: NatZeroCsum, family: Upstream, base: (branch(3, 16), branch(3, 17)), build: Any, says: Unknown, mark: Inferred,
          text: "no backport to 3.16 was found, and no late 3.16 was read",
          url: None },
    Row { id: "older", bug: NatZeroCsum, family: Upstream, base: before_fix(ALL.0), build: Any, says: Affected, mark: Inferred,
          text: "the faulty test is in NAT from its first day, and no backport to this branch was found",
          url: FIX },
    Row { id: "unreadable-zero", bug: NatZeroCsum, family: Unreadable, base: ALL, build: Any, says: Unknown, mark: Inferred,
          text: "the release does not start with a kernel version",
          url: None },

    // The bug without a fix. Only a kernel without local checksum offload (LCO) does not have it.
    Row { id: "lco-el8-measured", bug: NatLcoCsum, family: El8, base: ALL, build: In(&[147, 5, 1], &[147, 5, 2]), says: Affected, mark: Measured,
          text: "on RHEL 8.1's 4.18.0-147.5.1 every connection over a udpcsum VXLAN device began with a packet that arrived corrupt",
          url: PROPOSAL },
    Row { id: "lco-el7-1160", bug: NatLcoCsum, family: El7, base: ALL, build: In(&[1160], TOP), says: Affected, mark: Inferred,
          text: "RHEL 7.9 (3.10.0-1160) has local checksum offload, though its VXLAN devices have no outer checksum unless asked for",
          url: Some("https://github.com/tremb1e/linux-3.10.0-1160.el7") },
    Row { id: "lco-el7-early", bug: NatLcoCsum, family: El7, base: ALL, build: Any, says: Unknown, mark: Inferred,
          text: "RHEL 7.9 has local checksum offload, and which RHEL 7 kernel was the first to have it is not known",
          url: Some("https://github.com/tremb1e/linux-3.10.0-1160.el7") },
    Row { id: "lco-vz7", bug: NatLcoCsum, family: Vz7, base: ALL, build: Any, says: Unknown, mark: Inferred,
          text: "RHEL 7.9 has local checksum offload, and whether this Virtuozzo kernel made from RHEL 7 has it is not known",
          url: VZ },
    Row { id: "lco-el-other", bug: NatLcoCsum, family: ElOther, base: (ALL.0, branch(4, 6)), build: Any, says: Unknown, mark: Inferred,
          text: "the base is older than local checksum offload (4.6), but whether this builder backported it, as RHEL 7.9 did, is not known",
          url: LCO },
    Row { id: "lco-uek", bug: NatLcoCsum, family: Uek, base: (ALL.0, branch(4, 6)), build: Any, says: Unknown, mark: Inferred,
          text: "the base is older than local checksum offload (4.6), but whether Oracle backported it, as RHEL 7.9 did, is not known",
          url: LCO },
    Row { id: "lco-suse", bug: NatLcoCsum, family: Suse, base: (ALL.0, branch(4, 6)), build: Any, says: Unknown, mark: Inferred,
          text: "the base is older than local checksum offload (4.6), but whether SUSE backported it, as RHEL 7.9 did, is not known",
          url: LCO },
    Row { id: "lco-el10", bug: NatLcoCsum, family: El10, base: ALL, build: Any, says: Affected, mark: Inferred,
          text: "the source of RHEL 10.0 (6.12.0) updates the outer checksum as if it were unfinished, and no fix was merged",
          url: ALMA },
    Row { id: "lco-6.18.44-measured", bug: NatLcoCsum, family: Upstream, base: only(6, 18, 44), build: Any, says: Affected, mark: Measured,
          text: "on 6.18.44 every connection over a udpcsum VXLAN device that NAT rewrote began with a packet that arrived corrupt",
          url: PROPOSAL },
    Row { id: "lco-5.4.286-read", bug: NatLcoCsum, family: Upstream, base: only(5, 4, 286), build: Any, says: Affected, mark: SourceRead,
          text: "the source of 5.4.286 updates the outer checksum as if it were unfinished",
          url: Some("https://github.com/KINGFIOX/linux-5.4.286") },
    Row { id: "lco-4.6", bug: NatLcoCsum, family: Upstream, base: (branch(4, 6), END), build: Any, says: Affected, mark: Inferred,
          text: "every kernel from 4.6 on has local checksum offload and no fix was merged: measured on 6.18.44 and on RHEL 8.1's 4.18.0-147.5.1",
          url: PROPOSAL },
    Row { id: "lco-before", bug: NatLcoCsum, family: Upstream, base: (ALL.0, branch(4, 6)), build: Any, says: Predates, mark: SourceRead,
          text: "local checksum offload came with 4.6, and neither 4.5.7 nor 4.4.178 has it",
          url: LCO },
    Row { id: "unreadable-lco", bug: NatLcoCsum, family: Unreadable, base: ALL, build: Any, says: Unknown, mark: Inferred,
          text: "the release does not start with a kernel version",
          url: None },

    // The bug of a second segmentation: a VXLAN device accepts packets with a frag_list only with NETIF_F_FRAGLIST
    Row { id: "gso-el8-measured", bug: GsoLcoCsum, family: El8, base: ALL, build: In(&[147, 5, 1], &[147, 5, 2]), says: Predates, mark: Measured,
          text: "on RHEL 8.1's 4.18.0-147.5.1 tx-scatter-gather-fraglist of VXLAN devices is off [fixed], and no packet left corrupt",
          url: None },
    Row { id: "gso-el8", bug: GsoLcoCsum, family: El8, base: ALL, build: Any, says: Unknown, mark: Inferred,
          text: "whether Red Hat gave the VXLAN devices of this kernel tx-scatter-gather-fraglist (5.12) is not known",
          url: FRAGLIST },
    Row { id: "gso-el7", bug: GsoLcoCsum, family: El7, base: ALL, build: Any, says: Unknown, mark: Inferred,
          text: "whether Red Hat gave the VXLAN devices of this kernel tx-scatter-gather-fraglist (5.12) is not known",
          url: FRAGLIST },
    Row { id: "gso-vz7", bug: GsoLcoCsum, family: Vz7, base: ALL, build: Any, says: Unknown, mark: Inferred,
          text: "whether the VXLAN devices of this Virtuozzo kernel have tx-scatter-gather-fraglist (5.12) is not known",
          url: FRAGLIST },
    Row { id: "gso-vz8", bug: GsoLcoCsum, family: Vz8, base: ALL, build: Any, says: Unknown, mark: Inferred,
          text: "whether the VXLAN devices of this Virtuozzo kernel have tx-scatter-gather-fraglist (5.12) is not known",
          url: FRAGLIST },
    Row { id: "gso-el-other", bug: GsoLcoCsum, family: ElOther, base: (ALL.0, branch(5, 12)), build: Any, says: Unknown, mark: Inferred,
          text: "whether this builder gave the VXLAN devices of this kernel tx-scatter-gather-fraglist (5.12) is not known",
          url: FRAGLIST },
    Row { id: "gso-uek", bug: GsoLcoCsum, family: Uek, base: (ALL.0, branch(5, 12)), build: Any, says: Unknown, mark: Inferred,
          text: "whether Oracle gave the VXLAN devices of this kernel tx-scatter-gather-fraglist (5.12) is not known",
          url: FRAGLIST },
    Row { id: "gso-suse", bug: GsoLcoCsum, family: Suse, base: (ALL.0, branch(5, 12)), build: Any, says: Unknown, mark: Inferred,
          text: "whether SUSE gave the VXLAN devices of this kernel tx-scatter-gather-fraglist (5.12) is not known",
          url: FRAGLIST },
    Row { id: "gso-debian-6.1.192-measured", bug: GsoLcoCsum, family: Debian, base: only(6, 1, 192), build: Any, says: Affected, mark: Measured,
          text: "on Debian's 6.1.192 2 to 17 % of the packets that it forwarded into VXLAN over macvlan arrived corrupt",
          url: GSO_REPORT },
    Row { id: "gso-ubuntu-5.15", bug: GsoLcoCsum, family: Ubuntu, base: (branch(5, 15), branch(5, 16)), build: Any, says: Affected, mark: Reported,
          text: "it was reproduced on an Ubuntu 5.15",
          url: GSO_REPORT },
    Row { id: "gso-ubuntu-6.8", bug: GsoLcoCsum, family: Ubuntu, base: (branch(6, 8), branch(6, 9)), build: Any, says: Affected, mark: Reported,
          text: "it was reproduced on an Ubuntu 6.8",
          url: GSO_REPORT },
    Row { id: "gso-ubuntu-7.0", bug: GsoLcoCsum, family: Ubuntu, base: (branch(7, 0), branch(7, 1)), build: Any, says: Affected, mark: Reported,
          text: "it was reproduced on an Ubuntu 7.0",
          url: GSO_REPORT },
    Row { id: "gso-6.18.44-measured", bug: GsoLcoCsum, family: Upstream, base: only(6, 18, 44), build: Any, says: Affected, mark: Measured,
          text: "on 6.18.44 40 to 49 % of the packets that it forwarded into VXLAN over macvlan arrived corrupt",
          url: GSO_REPORT },
    Row { id: "gso-5.15", bug: GsoLcoCsum, family: Upstream, base: (Version::new(5, 15, 0), branch(7, 1)), build: Any, says: Affected, mark: Inferred,
          text: "the code is reported to be the same in 5.15 to 7.0: measured on 6.18.44 and on Debian's 6.1.192",
          url: GSO_REPORT },
    Row { id: "gso-newer", bug: GsoLcoCsum, family: Upstream, base: (branch(7, 1), END), build: Any, says: Unknown, mark: Inferred,
          text: "7.0 has the bug, and no kernel newer than that was looked at",
          url: GSO_REPORT },
    Row { id: "gso-5.12", bug: GsoLcoCsum, family: Upstream, base: (branch(5, 12), Version::new(5, 15, 0)), build: Any, says: Unknown, mark: Inferred,
          text: "VXLAN devices have tx-scatter-gather-fraglist since 5.12, and no kernel older than 5.15 was looked at",
          url: FRAGLIST },
    Row { id: "gso-before", bug: GsoLcoCsum, family: Upstream, base: (ALL.0, branch(5, 12)), build: Any, says: Predates, mark: Inferred,
          text: "VXLAN devices got tx-scatter-gather-fraglist with 5.12, and without it no packet is segmented twice",
          url: FRAGLIST },
    Row { id: "unreadable-gso", bug: GsoLcoCsum, family: Unreadable, base: ALL, build: Any, says: Unknown, mark: Inferred,
          text: "the release does not start with a kernel version",
          url: None },
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn the_table_is_well_formed() {
        let mut ids = HashSet::new();
        let mut upstream = HashSet::new();
        for row in TABLE {
            let id = row.id;
            assert!(ids.insert(id), "{id} twice");
            assert!(row.base.0 < row.base.1, "{id} covers no version");
            if let In(from, below) | MainLineIn(from, below) = row.build {
                assert!(from < below, "{id} covers no build");
            }
            if row.family == Upstream {
                upstream.insert(row.bug);
            } else {
                let late = row.family != Unreadable && upstream.contains(&row.bug);
                assert!(!late, "{id} comes after upstream's rows");
            }
            // `Unknown` cannot have been read, and what was read has a link to read again
            assert!(row.says != Unknown || row.mark == Inferred, "{id}");
            let read = matches!(row.mark, SourceRead | ChangelogRead | Reported);
            assert!(row.url.is_some() || !read, "{id} names no source");
            assert!(row.url.is_none_or(|u| u.starts_with("https://")), "{id}");
            assert!(!row.text.ends_with('.') && row.text.len() < 140, "{id}");
        }
    }

    const FAMILIES: [KernelFamily; 18] = [
        El7,
        El8,
        El9,
        El10,
        ElOther,
        Vz7,
        Vz8,
        Uek,
        Amazon,
        Ubuntu,
        UbuntuFlavour,
        UbuntuFlavourSigned,
        Debian,
        DebianUnversioned,
        Suse,
        Cos,
        Upstream,
        Unreadable,
    ];

    fn any_kernel() -> impl Strategy<Value = Kernel> {
        let build = proptest::collection::vec(0u32..1300, 0..4);
        let family = proptest::sample::select(&FAMILIES[..]);
        let base = (0u32..9, 0u32..25, 0u32..400, 0u32..9);
        (family, base, build, any::<bool>()).prop_map(|(family, (a, b, c, rc), build, plain)| {
            let base = match rc {
                0 => Version::new(a, b, c),
                n => Version::rc(a, b, n),
            };
            Kernel {
                family,
                base,
                build,
                plain,
            }
        })
    }

    proptest! {
        #[test]
        fn every_kernel_has_a_row(kernel in any_kernel()) {
            for bug in BugId::ALL {
                let says: Vec<RowStatus> = rows(bug, &kernel).map(|row| row.says).collect();
                prop_assert!(!says.is_empty());
                prop_assert!(says.iter().all(|s| *s == says[0]));
            }
        }

        #[test]
        fn a_fixed_stable_release_stays_fixed(a in 2u32..9, b in 0u32..25, c in 0u32..1000, plain: bool) {
            let says = |c| {
                let kernel = Kernel {
                    family: Upstream,
                    base: Version::new(a, b, c),
                    build: Vec::new(),
                    plain,
                };
                rows(NatZeroCsum, &kernel).next().map(|row| row.says)
            };
            if says(c) == Some(Fixed) {
                prop_assert_eq!(says(c + 1), Some(Fixed));
            }
        }

        #[test]
        fn a_fixed_red_hat_z_stream_stays_fixed(r in 80u32..600, y in 0u32..30, z in 0u32..5) {
            let says = |z| {
                let kernel = Kernel {
                    family: El8,
                    base: Version::new(4, 18, 0),
                    build: vec![r, y, z],
                    plain: false,
                };
                rows(NatZeroCsum, &kernel).next().map(|row| row.says)
            };
            if says(z) == Some(Fixed) {
                prop_assert_eq!(says(z + 1), Some(Fixed));
            }
        }
    }
}
