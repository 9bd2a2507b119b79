//! What is known about the machine and its VXLAN devices, as values.
//!
//! Owns the types that discovery fills and `plan::decide` reads. May not do I/O, decide, or render.

use core::net::IpAddr;
use std::rc::Rc;

use serde::Serialize;

use crate::ethtool::{FeatureTable, Features};
pub use crate::exposure::Exposure;
use crate::fault::Fault;
use crate::text::IfName;

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

/// One VXLAN device as rtnetlink describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "the kernel has these, each on its own"
)]
pub struct VxlanLink {
    /// The device's identity for as long as it exists.
    pub ifindex: u32,
    /// Its name when it was read.
    pub name: IfName,
    /// `IFLA_VXLAN_ID`; none on an `external` device, whose VNI is chosen per packet.
    pub vni: Option<u32>,
    /// `IFLA_VXLAN_PORT`, host byte order.
    pub dst_port: Option<u16>,
    /// `IFLA_VXLAN_LOCAL` or `IFLA_VXLAN_LOCAL6`.
    pub local: Option<IpAddr>,
    /// `IFLA_VXLAN_GROUP` or `IFLA_VXLAN_GROUP6`: a multicast group or another machine.
    pub remote: Option<IpAddr>,
    /// `IFLA_VXLAN_LEARNING`: it sends to whoever it received from.
    pub learning: bool,
    /// The outer UDP checksum of its packets: `IFLA_VXLAN_UDP_CSUM`, or over IPv6 `udp_zero_csum6_tx`.
    pub outer_checksum: OuterChecksum,
    /// `IFLA_VXLAN_UDP_ZERO_CSUM6_TX`: zero outer checksum over IPv6 allowed when sending.
    pub udp_zero_csum6_tx: bool,
    /// `IFLA_VXLAN_UDP_ZERO_CSUM6_RX`: zero outer checksum over IPv6 accepted when receiving.
    pub udp_zero_csum6_rx: bool,
    /// Where its packets leave.
    pub underlay: UnderlayLink,
    /// It is a port of a bridge or another master (`IFLA_MASTER`).
    pub enslaved: bool,
}

/// How the underlay of a VXLAN device is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnderlayLink {
    /// `IFLA_VXLAN_LINK`, an ifindex of this network namespace.
    Ifindex(u32),
    /// The device was moved here: its underlay is in another network namespace and its ifindex means nothing here.
    OtherNamespace,
    /// No `IFLA_VXLAN_LINK`: the owner of the local address, if there is one, else whatever routing says.
    NotSet,
}

/// The device through which a VXLAN device's packets leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Underlay {
    /// Its ifindex.
    #[serde(skip)]
    pub ifindex: u32,
    /// Its name.
    pub name: IfName,
    /// `ETHTOOL_GDRVINFO`, such as `virtio_net`; none if the device does not say.
    pub driver: Option<String>,
}

/// The outer UDP checksum that a VXLAN device gives its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OuterChecksum {
    /// A real one: `udpcsum`, or over IPv6 `noudp6zerocsumtx`.
    Present,
    /// Zero, which means none: `noudpcsum`, or over IPv6 `udp6zerocsumtx`.
    Zero,
    /// `IFLA_VXLAN_COLLECT_METADATA`: whoever sends a packet chooses.
    External,
    /// The kernel did not say.
    Unknown,
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
