//! What is known about the machine and its VXLAN devices, as values.
//!
//! Owns the types that discovery fills and `offload::plan::decide` reads. May not do I/O, decide, or render.

use core::net::IpAddr;
use std::rc::Rc;

use crate::ethtool::{FeatureTable, Features, PerFeature};
use crate::fault::Fault;
use crate::kernel::KernelFacts;
use crate::link::segmentation::Segmentation;
use crate::link::{Underlay, VxlanLink};
pub use crate::nat::exposure::Exposure;
use crate::nat::exposure::Untracked;
use crate::nat::nft::own::OwnTable;

/// One VXLAN device and all that was learnt about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// From rtnetlink.
    pub link: VxlanLink,
    /// The underlay, if it is known and in this network namespace.
    pub underlay: Option<Rc<Underlay>>,
    /// From the backend: a device whose features could not be read is still reported.
    pub features: Result<Features, Fault>,
    /// From the NAT rules; the same for many devices.
    pub exposure: Rc<Exposure>,
    /// Whether the outer packets can be segmented twice.
    pub segmentation: Segmentation,
    /// Where the outer packets go, as the exposure was decided on; empty if that is not known.
    pub remotes: Vec<IpAddr>,
    /// It is known that there is no destination yet.
    pub no_peers: bool,
    /// What the record of this boot says of each feature.
    pub history: PerFeature<History>,
    /// And of a rule for its packets.
    pub rule: RuleHistory,
}

/// What vxcsum has done to one feature of a device since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// vxcsum turned the feature off.
    pub owned: bool,
    /// How often somebody has lately turned it back on, if it is too often to go on.
    pub contested: Option<usize>,
    /// For how many seconds every look has found that NAT cannot rewrite the outer packets; `None` if the last one did not.
    pub not_exposed_for: Option<u64>,
}

/// What vxcsum has done since boot about a rule that leaves the packets of a device untracked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleHistory {
    /// It keeps one for these packets, or tried to.
    pub packets: Option<Untracked>,
    /// Why it does not try now.
    pub unusable: Option<Unusable>,
    /// That was written down before, so that it is no news.
    pub in_backoff: bool,
    /// As in [`History`].
    pub not_exposed_for: Option<u64>,
    /// This run has made or removed the rule.
    pub changed: bool,
}

/// Why no rule is tried that would suffice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// Another program has taken it away so often.
    Contested(usize),
    /// The kernel does not take it, and said this.
    Refused(String),
}

/// All that a decision needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The running kernel.
    pub kernel: KernelFacts,
    /// Its features; empty if there was no device to ask for.
    pub table: FeatureTable,
    /// The VXLAN devices, by ifindex.
    pub devices: Vec<Device>,
    /// vxcsum's own table of `nf_tables`, where it was asked for; an error says why nothing is known of it.
    pub own_table: Option<Result<OwnTable, Fault>>,
}
