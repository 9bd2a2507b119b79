//! VXLAN devices and the links below them, as rtnetlink describes them.
//!
//! Owns what is known of a link, the messages about links, addresses and routes, and the events. May not decide anything.

pub mod events_io;
pub mod filter;
pub(crate) mod multicast_io;
pub mod peer_events_io;
pub mod route;
pub mod rtnl;
pub(crate) mod underlay;
pub(crate) mod underlay_io;

use core::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::text::IfName;

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
    /// `IFLA_ADDRESS`; `None` on a device without Ethernet addresses.
    pub mac: Option<[u8; 6]>,
    /// `IFLA_VXLAN_ID`; `None` on an `external` device, whose VNI is chosen per packet.
    pub vni: Option<u32>,
    /// `IFLA_VXLAN_PORT`, host byte order.
    pub dst_port: Option<u16>,
    /// `IFLA_VXLAN_LOCAL` or `IFLA_VXLAN_LOCAL6`.
    pub local: Option<IpAddr>,
    /// `IFLA_VXLAN_GROUP` or `IFLA_VXLAN_GROUP6`: a multicast group or another machine.
    pub remote: Option<IpAddr>,
    /// `IFLA_VXLAN_LEARNING`: it learns remote VTEPs from received packets.
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
    /// Packets leave it with finished checksums; see `link::underlay`.
    #[serde(skip)]
    pub finishes_checksums: bool,
    /// The VRF that it is a port of. POSTROUTING sees its packets leave through the VRF as well.
    #[serde(skip)]
    pub vrf: Option<u32>,
}

/// An address of this machine, as `ifaddrmsg` describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnAddress {
    /// The device that has it.
    pub ifindex: u32,
    /// The address.
    pub address: IpAddr,
    /// Bits of its subnet.
    pub prefix_len: u8,
    /// `RT_SCOPE_*`: 0 is global.
    pub scope: u8,
    /// `IFA_F_*`.
    pub flags: u32,
}

codes! {
    /// The outer UDP checksum that a VXLAN device gives its packets.
    #[derive(Deserialize)]
    pub enum OuterChecksum {
        /// A real one: `udpcsum`, or over IPv6 `noudp6zerocsumtx`.
        Present = "present",
        /// Zero, which means none: `noudpcsum`, or over IPv6 `udp6zerocsumtx`.
        Zero = "zero",
        /// `IFLA_VXLAN_COLLECT_METADATA`: whoever sends a packet chooses.
        External = "external",
        /// The kernel did not say.
        Unknown = "unknown",
    }
}
