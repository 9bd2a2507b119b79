//! What is known about the machine and its VXLAN devices, as values.
//!
//! Owns the types that discovery fills and `plan::decide` reads. May not do I/O, decide, or render.

use core::net::IpAddr;
use std::rc::Rc;

use serde::Serialize;

use crate::ethtool::{FeatureTable, Features};
pub use crate::exposure::Exposure;
use crate::fault::Fault;
use crate::link::{Underlay, VxlanLink};

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
pub struct OsRelease {
    /// `ID`, such as `rhel`.
    pub id: String,
    /// `VERSION_ID`, such as `8.1`.
    pub version_id: String,
}

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
    /// Where the outer packets go, as the exposure was decided on; empty if that is not known.
    pub remotes: Vec<IpAddr>,
    /// What the record of this boot says.
    pub past: Past,
}

/// What vxcsum has done to a device since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// vxcsum turned the feature off.
    pub turned_off: bool,
    /// How often somebody has lately turned it back on, if it is too often to go on.
    pub contested: Option<usize>,
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
}
