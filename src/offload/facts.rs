//! The facts about the machine and its VXLAN devices.
//!
//! Owns the types that discovery fills and `offload::plan::decide` reads. Does no I/O, decides nothing, renders
//! nothing.

use core::fmt;
use core::net::IpAddr;
use std::rc::Rc;

use crate::ethtool::{Feature, FeatureState, FeatureTable, Features, PerFeature};
use crate::fault::Fault;
use crate::kernel::KernelFacts;
use crate::link::segmentation::Segmentation;
use crate::link::{TunnelLink, Underlay};
pub use crate::nat::exposure::Exposure;
use crate::nat::exposure::Untracked;
use crate::nat::nft::own::OwnTable;
use crate::policy::Subject;

/// The facts about one VXLAN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// From rtnetlink.
    pub link: TunnelLink,
    /// `None` if the underlay is not known or is in another network namespace.
    pub underlay: Option<Rc<Underlay>>,
    /// From the backend. A device whose features could not be read is still reported.
    pub features: Result<Features, Fault>,
    /// From the NAT rules. Many devices share it.
    pub exposure: Rc<Exposure>,
    /// Whether the outer packets can be segmented twice.
    pub segmentation: Segmentation,
    /// The destinations of outer packets on which the exposure is based. Empty if they are not known.
    pub remotes: Vec<IpAddr>,
    /// The device certainly has no destination yet.
    pub no_peers: bool,
    /// The record of this boot for each feature.
    pub history: PerFeature<History>,
    /// The record of this boot for the rule about its packets.
    pub rule: RuleHistory,
}

impl Device {
    /// The properties that policy rules match.
    pub fn subject(&self) -> Subject<'_> {
        Subject {
            name: &self.link.name,
            kind: self.link.kind,
            vni: self.link.vni,
            dst_port: self.link.dst_port,
            underlay_driver: self
                .underlay
                .as_ref()
                .and_then(|underlay| underlay.driver.as_deref()),
            outer_checksum: self.link.outer_checksum,
        }
    }

    /// The state of a feature. `None` if it could not be read.
    pub fn state(&self, table: &FeatureTable, feature: Feature) -> Option<FeatureState> {
        Some(self.features.as_ref().ok()?.state(table.index(feature)?))
    }
}

/// What vxcsum has done to one feature of a device since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// vxcsum turned the feature off.
    pub owned: bool,
    /// How often another program turned the feature on again, lately and since the last look. Only valid if the feature
    /// is on.
    pub undone: usize,
    /// vxcsum leaves the feature alone for a while, because another program turned it on too often.
    pub contested: Option<Conflict>,
    /// How many seconds ago the first of an unbroken series of looks found that NAT cannot rewrite the outer packets.
    /// `None` if the last look found otherwise.
    pub not_exposed_for: Option<u64>,
}

/// A conflict with another program, which undoes a change as often as vxcsum makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// How often the other program undid the change, at least.
    pub times: usize,
    /// The seconds until vxcsum makes the change again.
    pub left: u64,
    /// The time of that, in seconds since 1970.
    pub end: u64,
}

/// When vxcsum tries again, such as `at 18:03 UTC, in 42 minutes`. In UTC, because a static binary does not know the
/// rules of the local time zone.
impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minute = self.end / 60;
        let (hour, minute) = (minute / 60 % 24, minute % 60);
        let (left, s) = match self.left.div_ceil(60) {
            1 => (1, ""),
            minutes => (minutes, "s"),
        };
        write!(f, "at {hour:02}:{minute:02} UTC, in {left} minute{s}")
    }
}

/// The rule that leaves the packets of a device untracked, according to the record of this boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleHistory {
    /// vxcsum keeps a rule for these packets, or has tried to.
    pub packets: Option<Untracked>,
    /// Why vxcsum does not try now.
    pub unusable: Option<Unusable>,
    /// The record already has the backoff.
    pub in_backoff: bool,
    /// As in [`History`].
    pub not_exposed_for: Option<u64>,
    /// This run added or removed the rule.
    pub changed: bool,
}

/// Why vxcsum does not try a rule that would be enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// Another program has removed the rule too often.
    Contested(Conflict),
    /// The kernel refused the rule with this message.
    Refused(String),
}

/// The facts for a decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub kernel: KernelFacts,
    /// The features of the kernel. Empty if there was no device to ask.
    pub table: FeatureTable,
    /// The VXLAN devices, by ifindex.
    pub devices: Vec<Device>,
    /// vxcsum's own table of `nf_tables`. `None` if the decision does not need it. An error says why it could not be
    /// read.
    pub own_table: Option<Result<OwnTable, Fault>>,
}
