//! VXLAN and Geneve devices and the links below them, as rtnetlink describes them.
//!
//! Owns the properties of a link, the messages about links, addresses and routes, and the events. Decides nothing.

pub(crate) mod events_io;
pub(crate) mod filter;
pub(crate) mod forwarding_io;
pub(crate) mod multicast_io;
pub(crate) mod peer_events_io;
pub mod route;
pub mod rtnl;
pub mod segmentation;
pub(crate) mod underlay;
pub(crate) mod underlay_io;

use core::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::text::IfName;

/// One VXLAN or Geneve device as rtnetlink describes it. Where an attribute of VXLAN is named, Geneve has one of the same meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "the kernel has these, each on its own"
)]
pub struct TunnelLink {
    pub kind: TunnelKind,
    /// Identifies the device as long as it exists.
    pub ifindex: u32,
    /// The name at the time of reading.
    pub name: IfName,
    /// `IFLA_ADDRESS`; `None` on a device without Ethernet addresses.
    pub mac: Option<[u8; 6]>,
    /// `IFLA_VXLAN_ID`. `None` on an `external` device: the sender chooses a VNI for each packet.
    pub vni: Option<u32>,
    /// `IFLA_VXLAN_PORT`, host byte order.
    pub dst_port: Option<u16>,
    /// `IFLA_VXLAN_LOCAL` or `IFLA_VXLAN_LOCAL6`. Geneve has none: routing chooses the source.
    pub local: Option<IpAddr>,
    /// `IFLA_VXLAN_GROUP` or `IFLA_VXLAN_GROUP6`: a multicast group or another machine.
    pub remote: Option<IpAddr>,
    /// `IFLA_VXLAN_LEARNING`: the device learns remote VTEPs from received packets.
    pub learning: bool,
    /// The outer UDP checksum of its packets: `IFLA_VXLAN_UDP_CSUM`, or over IPv6 `udp_zero_csum6_tx`.
    pub outer_checksum: OuterChecksum,
    /// `IFLA_VXLAN_UDP_ZERO_CSUM6_TX`: zero outer checksum over IPv6 allowed when sending.
    pub udp_zero_csum6_tx: bool,
    /// `IFLA_VXLAN_UDP_ZERO_CSUM6_RX`: zero outer checksum over IPv6 accepted when receiving.
    pub udp_zero_csum6_rx: bool,
    /// The device through which the packets leave.
    pub underlay: UnderlayLink,
    /// The device is a port of a bridge or another master (`IFLA_MASTER`).
    pub enslaved: bool,
}

/// What rtnetlink says about the underlay of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnderlayLink {
    /// `IFLA_VXLAN_LINK`, an ifindex of this network namespace.
    Ifindex(u32),
    /// The device was moved to this namespace. Its underlay is in another network namespace, so the ifindex is
    /// meaningless here.
    OtherNamespace,
    /// No `IFLA_VXLAN_LINK`, as for every Geneve device. The underlay is the owner of the local address or, without one,
    /// the device that routing chooses.
    NotSet,
}

/// The device through which the packets of a VXLAN or Geneve device leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Underlay {
    #[serde(skip)]
    pub ifindex: u32,
    pub name: IfName,
    /// `ETHTOOL_GDRVINFO`, such as `virtio_net`. Null if the device does not report a driver.
    pub driver: Option<String>,
    /// Packets leave the device with finished checksums; see `link::underlay`.
    #[serde(skip)]
    pub finishes_checksums: bool,
    /// How the device and the devices below it handle long packets of a forwarding node; see `link::segmentation`.
    #[serde(skip)]
    pub segmentation: segmentation::Segmentation,
    /// The VRF of which the device is a port. Packets then pass POSTROUTING a second time, with the VRF as their output
    /// device.
    #[serde(skip)]
    pub vrf: Option<u32>,
}

/// An address of this machine, as `ifaddrmsg` describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnAddress {
    /// The device with the address.
    pub ifindex: u32,
    pub address: IpAddr,
    /// The length of the subnet prefix in bits.
    pub prefix_len: u8,
    /// `RT_SCOPE_*`: 0 is global.
    pub scope: u8,
    /// `IFA_F_*`.
    pub flags: u32,
}

codes! {
    /// What kind of device it is.
    pub enum TunnelKind {
        /// VXLAN.
        Vxlan = "vxlan",
        /// Geneve.
        Geneve = "geneve",
    }
}

impl TunnelKind {
    /// The names of these kinds for a text: `VXLAN and Geneve`, or that of the only one.
    pub fn names(kinds: impl Iterator<Item = Self>) -> &'static str {
        let kinds: Vec<_> = kinds.collect();
        match (kinds.contains(&Self::Vxlan), kinds.contains(&Self::Geneve)) {
            (true, true) => "VXLAN and Geneve",
            (false, true) => "Geneve",
            (_, false) => "VXLAN",
        }
    }
}

codes! {
    /// The outer UDP checksum that a VXLAN or Geneve device gives its packets.
    #[derive(Deserialize)]
    pub enum OuterChecksum {
        /// A real one: `udpcsum`, or over IPv6 `noudp6zerocsumtx`.
        Present = "present",
        /// Zero, which means none: `noudpcsum`, or over IPv6 `udp6zerocsumtx`.
        Zero = "zero",
        /// `external` (`IFLA_VXLAN_COLLECT_METADATA`): the sender chooses for each packet.
        External = "external",
        /// The kernel did not say.
        Unknown = "unknown",
    }
}
