//! rtnetlink: links, addresses, forwarding entries, and whether devices forward.
//!
//! Owns the bytes of `RTM_GETLINK`, `RTM_GETADDR`, `RTM_GETNEIGH` of forwarding entries, `RTM_GETNETCONF`, and their
//! answers. Pure.

use core::net::IpAddr;

use super::{OuterChecksum, OwnAddress, TunnelKind, TunnelLink, UnderlayLink};
use crate::fault::Malformed;
use crate::netlink::{Attr, Message, NLM_F_DUMP, Open, Writer, attrs, get_u32};
use crate::text::IfName;

/// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/rtnetlink.h#L24>
pub const RTM_NEWLINK: u16 = 16;
pub const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
pub(crate) const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
pub(crate) const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
const RTM_NEWNETCONF: u16 = 80;
const RTM_GETNETCONF: u16 = 82;

pub(crate) const IFLA_ADDRESS: u16 = 1;
pub(crate) const IFLA_IFNAME: u16 = 3;
pub(crate) const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
pub(crate) const IFLA_LINKINFO: u16 = 18;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_PARENT_DEV_BUS_NAME: u16 = 57;
const IFLA_MACVLAN_MODE: u16 = 1;
pub(crate) const IFLA_INFO_KIND: u16 = 1;
pub(crate) const IFLA_INFO_DATA: u16 = 2;

// https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/if_link.h#L1390
pub(crate) const IFLA_VXLAN_ID: u16 = 1;
pub(crate) const IFLA_VXLAN_GROUP: u16 = 2;
pub(crate) const IFLA_VXLAN_LINK: u16 = 3;
pub(crate) const IFLA_VXLAN_LOCAL: u16 = 4;
pub(crate) const IFLA_VXLAN_LEARNING: u16 = 7;
pub(crate) const IFLA_VXLAN_PORT: u16 = 15;
pub(crate) const IFLA_VXLAN_GROUP6: u16 = 16;
pub(crate) const IFLA_VXLAN_LOCAL6: u16 = 17;
pub(crate) const IFLA_VXLAN_UDP_CSUM: u16 = 18;
pub(crate) const IFLA_VXLAN_UDP_ZERO_CSUM6_TX: u16 = 19;
const IFLA_VXLAN_UDP_ZERO_CSUM6_RX: u16 = 20;
const IFLA_VXLAN_COLLECT_METADATA: u16 = 25;

// https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/if_link.h#L1451
const IFLA_GENEVE_ID: u16 = 1;
const IFLA_GENEVE_REMOTE: u16 = 2;
const IFLA_GENEVE_PORT: u16 = 5;
const IFLA_GENEVE_COLLECT_METADATA: u16 = 6;
const IFLA_GENEVE_REMOTE6: u16 = 7;
const IFLA_GENEVE_UDP_CSUM: u16 = 8;
const IFLA_GENEVE_UDP_ZERO_CSUM6_TX: u16 = 9;
const IFLA_GENEVE_UDP_ZERO_CSUM6_RX: u16 = 10;

pub(crate) const IFA_ADDRESS: u16 = 1;
pub(crate) const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;

// https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/neighbour.h
pub(crate) const NDA_DST: u16 = 1;
const NDA_PORT: u16 = 6;
const NDA_IFINDEX: u16 = 8;
const NDA_NH_ID: u16 = 13;

// https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/netconf.h
const NETCONFA_IFINDEX: u16 = 1;
const NETCONFA_FORWARDING: u16 = 2;
/// The settings of `conf/all`.
const NETCONFA_IFINDEX_ALL: u32 = (-1_i32).cast_unsigned();
/// The settings of `conf/default`: the initial values of new devices.
const NETCONFA_IFINDEX_DEFAULT: u32 = (-2_i32).cast_unsigned();

pub(super) const AF_INET: u8 = 2;
pub(crate) const AF_BRIDGE: u8 = 7;
pub(super) const AF_INET6: u8 = 10;

const IFINFOMSG_LEN: usize = 16;
const IFADDRMSG_LEN: usize = 8;
const NDMSG_LEN: usize = 12;

/// A dump of the links of a kind.
///
/// Without `IFLA_EXT_MASK`: `RTEXT_FILTER_SKIP_STATS` only affects virtual functions, and a dump without a mask does
/// not list those. Any mask makes the kernel first compute the size of every link of the namespace, of whatever kind.
/// <https://git.kernel.org/pub/scm/linux/kernel/git/stable/linux.git/tree/net/core/rtnetlink.c?h=v6.1.192#n3890> (`rtnl_calcit`)
///
/// The kernel filters since 4.6, and only if the module of the kind is loaded: check the answers again.
/// <https://github.com/torvalds/linux/blob/v6.12/net/core/rtnetlink.c#L2238> (`link_kind_filtered`)
pub fn dump_kind(w: &mut Writer, seq: u32, kind: TunnelKind) {
    let open = begin_getlink(w, NLM_F_DUMP, seq, 0);
    let info = w.nest(IFLA_LINKINFO);
    w.put_string(IFLA_INFO_KIND, kind.as_str().as_bytes());
    w.end(&info);
    w.end_message(&open);
}

/// A dump of the ports of a master device. The kernel filters since 4.6: check the answers again.
pub(crate) fn dump_ports(w: &mut Writer, seq: u32, master: u32) {
    let open = begin_getlink(w, NLM_F_DUMP, seq, 0);
    w.put(IFLA_MASTER, &master.to_ne_bytes());
    w.end_message(&open);
}

/// One link by its ifindex.
pub fn get_by_index(w: &mut Writer, seq: u32, ifindex: u32) {
    let open = begin_getlink(w, 0, seq, ifindex);
    w.end_message(&open);
}

/// One link by its name.
pub fn get_by_name(w: &mut Writer, seq: u32, name: &IfName) {
    let open = begin_getlink(w, 0, seq, 0);
    w.put_string(IFLA_IFNAME, name.as_bytes());
    w.end_message(&open);
}

fn begin_getlink(w: &mut Writer, flags: u16, seq: u32, ifindex: u32) -> Open {
    let mut ifinfomsg = [0; IFINFOMSG_LEN];
    ifinfomsg[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    w.message(RTM_GETLINK, flags, seq, &ifinfomsg)
}

/// A dump of all addresses.
pub fn dump_addresses(w: &mut Writer, seq: u32) {
    let open = w.message(RTM_GETADDR, NLM_F_DUMP, seq, &[0; IFADDRMSG_LEN]);
    w.end_message(&open);
}

/// A dump of the forwarding entries of one device, or with ifindex 0 of all devices.
///
/// The kernel takes a filter from an `ndmsg` only on a socket with strict checks, and on other sockets only from an
/// `ifinfomsg`. Old kernels do not filter: check the answers again.
/// <https://github.com/torvalds/linux/blob/v6.12/net/core/rtnetlink.c> (`valid_fdb_dump_legacy`)
pub fn dump_forwarding(w: &mut Writer, seq: u32, ifindex: u32) {
    let mut ifinfomsg = [0; IFINFOMSG_LEN];
    ifinfomsg[0] = AF_BRIDGE;
    ifinfomsg[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    let open = w.message(RTM_GETNEIGH, NLM_F_DUMP, seq, &ifinfomsg);
    w.end_message(&open);
}

/// The settings of `conf/all` of an address family.
pub fn get_settings_of_all(w: &mut Writer, seq: u32, family: u8) {
    let open = w.message(RTM_GETNETCONF, 0, seq, &[family]);
    w.put(NETCONFA_IFINDEX, &NETCONFA_IFINDEX_ALL.to_ne_bytes());
    w.end_message(&open);
}

/// A dump of the settings of each device in an address family, since 3.9.
pub fn dump_settings(w: &mut Writer, seq: u32, family: u8) {
    let open = w.message(RTM_GETNETCONF, NLM_F_DUMP, seq, &[family]);
    w.end_message(&open);
}

/// Reads an answer to a request for settings: true if packets that arrive at the device are forwarded. `None` if the
/// message is not an `RTM_NEWNETCONF`, or if it is about `conf/default`.
///
/// <https://github.com/torvalds/linux/blob/v6.12/net/ipv4/devinet.c> (`inet_netconf_fill_devconf`)
///
/// # Errors
/// Malformed bytes, or no such setting.
pub fn forwards(message: &Message<'_>) -> Result<Option<bool>, Malformed> {
    if message.kind != RTM_NEWNETCONF {
        return Ok(None);
    }
    // `struct netconfmsg` is one byte, padded to four.
    let bad = Malformed("settings of a device");
    let attributes = message.payload.get(4..).ok_or(bad)?;
    let (mut ifindex, mut forwards) = (None, None);
    for attr in attrs(attributes) {
        let attr = attr?;
        match attr.kind {
            NETCONFA_IFINDEX => ifindex = Some(attr.u32()?),
            NETCONFA_FORWARDING => forwards = Some(attr.u32()? != 0),
            _ => {}
        }
    }
    let (ifindex, forwards) = ifindex.zip(forwards).ok_or(bad)?;
    Ok(Some(forwards).filter(|_| ifindex != NETCONFA_IFINDEX_DEFAULT))
}

/// The properties of a link of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub ifindex: u32,
    pub name: IfName,
    /// `IFLA_INFO_KIND`, such as `veth`. `None` for a physical device and for `lo`.
    pub kind: Option<String>,
    /// `IFLA_MASTER`.
    pub master: Option<u32>,
    /// `IFLA_LINK`, if that device is in this namespace.
    pub below: Option<u32>,
    /// `IFLA_PARENT_DEV_BUS_NAME`, such as `pci`, since 5.14. `None` if the device has no parent.
    pub bus: Option<String>,
    /// `IFLA_MACVLAN_MODE`, if the kind is `macvlan`.
    pub macvlan_mode: Option<u32>,
    /// `Some` if the kind is one of [`TunnelKind`].
    pub tunnel: Option<TunnelLink>,
}

/// Reads an answer to a link request, or a link event. `None` if the message is another one.
///
/// # Errors
/// Malformed bytes, or a link without an ifindex, a legal name or, for a VXLAN or Geneve device, its data.
pub fn link(message: &Message<'_>) -> Result<Option<Link>, Malformed> {
    if ![RTM_NEWLINK, RTM_DELLINK].contains(&message.kind) {
        return Ok(None);
    }
    let (ifindex, attributes) = split_header(message.payload, IFINFOMSG_LEN, "link message")?;
    let (mut name, mut info, mut mac) = (None, None, None);
    let (mut other_namespace, mut master) = (false, None);
    let (mut below, mut bus, mut macvlan_mode) = (None, None, None);
    for attr in attrs(attributes) {
        let attr = attr?;
        match attr.kind {
            IFLA_IFNAME => name = Some(IfName::new(attr.string()).ok_or(Malformed("link name"))?),
            IFLA_LINKINFO => info = Some(attr),
            IFLA_ADDRESS => mac = attr.payload.try_into().ok(),
            IFLA_MASTER => master = Some(attr.u32()?).filter(|master| *master != 0),
            IFLA_LINK => below = Some(attr.u32()?).filter(|below| *below != 0 && *below != ifindex),
            IFLA_PARENT_DEV_BUS_NAME => bus = Some(crate::text::escape(attr.string())),
            IFLA_LINK_NETNSID => other_namespace = true,
            _ => {}
        }
    }
    let name = name.ok_or(Malformed("link without a name"))?;
    let (mut kind, mut data) = (None, None);
    for attr in info.iter().flat_map(Attr::nested) {
        let attr = attr?;
        match attr.kind {
            IFLA_INFO_KIND => kind = Some(attr.string()),
            IFLA_INFO_DATA => data = Some(attr),
            _ => {}
        }
    }
    let is_of = |of: &TunnelKind| kind == Some(of.as_str().as_bytes());
    let tunnel = match TunnelKind::ALL.into_iter().find(is_of) {
        Some(kind) => {
            let data = data.ok_or(Malformed("link without the data of its kind"))?;
            let link = tunnel(
                (ifindex, name, kind),
                (other_namespace, master.is_some()),
                &data,
            )?;
            Some(TunnelLink { mac, ..link })
        }
        None => None,
    };
    if kind == Some(b"macvlan".as_slice()) {
        for attr in data.iter().flat_map(Attr::nested) {
            let attr = attr?;
            if attr.kind == IFLA_MACVLAN_MODE {
                macvlan_mode = Some(attr.u32()?);
            }
        }
    }
    Ok(Some(Link {
        ifindex,
        name,
        master,
        below: below.filter(|_| !other_namespace),
        bus,
        macvlan_mode,
        kind: kind.map(crate::text::escape),
        tunnel,
    }))
}

fn tunnel(
    (ifindex, name, kind): (u32, IfName, TunnelKind),
    (other_namespace, enslaved): (bool, bool),
    data: &Attr<'_>,
) -> Result<TunnelLink, Malformed> {
    let (mut vni, mut dst_port, mut local, mut underlay) = (None, None, None, None);
    let (mut udp_csum, mut csum6_tx, mut csum6_rx) = (None, None, false);
    // The kernel's default for a missing attribute. A Geneve device never learns: it has one remote.
    let (mut remote, mut learning) = (None, kind == TunnelKind::Vxlan);
    let (mut ipv6, mut collect_metadata) = (false, false);
    for attr in data.nested() {
        let attr = attr?;
        let of = match kind {
            TunnelKind::Vxlan => attr.kind,
            TunnelKind::Geneve => as_vxlan(attr.kind),
        };
        ipv6 |= matches!(of, IFLA_VXLAN_GROUP6 | IFLA_VXLAN_LOCAL6);
        match of {
            IFLA_VXLAN_ID => vni = Some(attr.u32()?),
            IFLA_VXLAN_LINK => underlay = Some(attr.u32()?).filter(|ifindex| *ifindex != 0),
            IFLA_VXLAN_LOCAL | IFLA_VXLAN_LOCAL6 => local = address(attr.payload)?,
            IFLA_VXLAN_GROUP | IFLA_VXLAN_GROUP6 => remote = address(attr.payload)?,
            IFLA_VXLAN_LEARNING => learning = attr.u8()? != 0,
            // Ports are the only numbers here in network byte order.
            IFLA_VXLAN_PORT => dst_port = Some(u16::from_be(attr.u16()?)),
            IFLA_VXLAN_UDP_CSUM => udp_csum = Some(attr.u8()? != 0),
            IFLA_VXLAN_UDP_ZERO_CSUM6_TX => csum6_tx = Some(attr.u8()? != 0),
            IFLA_VXLAN_UDP_ZERO_CSUM6_RX => csum6_rx = attr.u8()? != 0,
            // Geneve's is a flag without a value.
            IFLA_VXLAN_COLLECT_METADATA => {
                collect_metadata = attr.payload.is_empty() || attr.u8()? != 0;
            }
            _ => {}
        }
    }
    // A device uses one address family, that of its local or remote address. Over IPv6 another attribute states the
    // checksum.
    // https://github.com/torvalds/linux/blob/v6.12/drivers/net/vxlan/vxlan_core.c#L2589
    // https://github.com/torvalds/linux/blob/v6.12/drivers/net/geneve.c#L1735 (geneve_fill_info)
    let checksum = if ipv6 {
        csum6_tx.map(|zero| !zero)
    } else {
        udp_csum
    };
    Ok(TunnelLink {
        kind,
        ifindex,
        name,
        mac: None,
        vni: vni.filter(|_| !collect_metadata),
        dst_port,
        local: local.filter(|address| !address.is_unspecified()),
        remote: remote.filter(|address| !address.is_unspecified()),
        learning,
        outer_checksum: match (collect_metadata, checksum) {
            (true, _) => OuterChecksum::External,
            (false, Some(true)) => OuterChecksum::Present,
            (false, Some(false)) => OuterChecksum::Zero,
            (false, None) => OuterChecksum::Unknown,
        },
        udp_zero_csum6_tx: csum6_tx == Some(true),
        udp_zero_csum6_rx: csum6_rx,
        enslaved,
        underlay: match (other_namespace, underlay) {
            (true, _) => UnderlayLink::OtherNamespace,
            (false, Some(ifindex)) => UnderlayLink::Ifindex(ifindex),
            (false, None) => UnderlayLink::NotSet,
        },
    })
}

/// The number that VXLAN has for a property of a Geneve device.
fn as_vxlan(geneve: u16) -> u16 {
    match geneve {
        IFLA_GENEVE_ID => IFLA_VXLAN_ID,
        IFLA_GENEVE_REMOTE => IFLA_VXLAN_GROUP,
        IFLA_GENEVE_REMOTE6 => IFLA_VXLAN_GROUP6,
        IFLA_GENEVE_PORT => IFLA_VXLAN_PORT,
        IFLA_GENEVE_COLLECT_METADATA => IFLA_VXLAN_COLLECT_METADATA,
        IFLA_GENEVE_UDP_CSUM => IFLA_VXLAN_UDP_CSUM,
        IFLA_GENEVE_UDP_ZERO_CSUM6_TX => IFLA_VXLAN_UDP_ZERO_CSUM6_TX,
        IFLA_GENEVE_UDP_ZERO_CSUM6_RX => IFLA_VXLAN_UDP_ZERO_CSUM6_RX,
        _ => 0,
    }
}

/// Reads an answer to an address request.
///
/// # Errors
/// Malformed bytes.
pub fn own_address(message: &Message<'_>) -> Result<Option<OwnAddress>, Malformed> {
    if message.kind != RTM_NEWADDR {
        return Ok(None);
    }
    let (ifindex, attributes) = split_header(message.payload, IFADDRMSG_LEN, "address message")?;
    let (mut found, mut flags) = (None, u32::from(message.payload[2]));
    for attr in attrs(attributes) {
        let attr = attr?;
        // On a point-to-point device IFA_ADDRESS is the address of the peer. IFA_LOCAL, if it is there, is always our
        // own.
        match attr.kind {
            IFA_LOCAL => found = address(attr.payload)?,
            IFA_ADDRESS if found.is_none() => found = address(attr.payload)?,
            // All flags, since 3.14. The header has only the first 8 bits.
            IFA_FLAGS => flags = attr.u32()?,
            _ => {}
        }
    }
    Ok(found.map(|address| OwnAddress {
        ifindex,
        address,
        prefix_len: message.payload[1],
        scope: message.payload[3],
        flags,
    }))
}

/// A forwarding entry, and where it sends packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// The device with the entry.
    pub ifindex: u32,
    /// `NDA_DST`. `None` if the entry names no other machine, as entries of a bridge do.
    pub remote: Option<IpAddr>,
    /// `NDA_PORT`: the destination port, if it is not the port of the device.
    pub port: Option<u16>,
    /// `NDA_IFINDEX`: the device through which the packets leave.
    pub underlay: Option<u32>,
    /// `NDA_NH_ID`: the entry sends to a nexthop group, which another dump lists.
    pub nexthops: bool,
}

/// Reads an answer to a request for forwarding entries. `None` if the message is not an `RTM_NEWNEIGH` about such an
/// entry.
///
/// <https://github.com/torvalds/linux/blob/v6.12/drivers/net/vxlan/vxlan_core.c> (`vxlan_fdb_info`)
///
/// # Errors
/// Malformed bytes.
pub fn forwarding(message: &Message<'_>) -> Result<Option<Forwarding>, Malformed> {
    if message.kind != RTM_NEWNEIGH || message.payload.first() != Some(&AF_BRIDGE) {
        return Ok(None);
    }
    let (ifindex, attributes) = split_header(message.payload, NDMSG_LEN, "forwarding entry")?;
    let mut out = Forwarding {
        ifindex,
        remote: None,
        port: None,
        underlay: None,
        nexthops: false,
    };
    for attr in attrs(attributes) {
        let attr = attr?;
        match attr.kind {
            NDA_DST => out.remote = address(attr.payload)?.filter(|a| !a.is_unspecified()),
            // In network byte order.
            NDA_PORT => out.port = Some(u16::from_be(attr.u16()?)),
            NDA_IFINDEX => out.underlay = Some(attr.u32()?),
            NDA_NH_ID => out.nexthops = true,
            _ => {}
        }
    }
    Ok(Some(out))
}

/// Splits a message into a header and attributes, and reads the ifindex: the second 32-bit word of these headers.
fn split_header<'a>(
    payload: &'a [u8],
    len: usize,
    what: &'static str,
) -> Result<(u32, &'a [u8]), Malformed> {
    let attributes = payload.get(len..).ok_or(Malformed(what))?;
    let ifindex = get_u32(payload, 4)
        .filter(|ifindex| *ifindex != 0)
        .ok_or(Malformed(what))?;
    Ok((ifindex, attributes))
}

pub(super) fn address(bytes: &[u8]) -> Result<Option<IpAddr>, Malformed> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        Ok(Some(IpAddr::from(v4)))
    } else if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        Ok(Some(IpAddr::from(v6)))
    } else {
        Err(Malformed("address"))
    }
}

/// `AF_INET` or `AF_INET6`.
pub fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::messages;

    /// As `inet_netconf_fill_devconf` writes them.
    #[test]
    fn settings_say_whether_a_device_forwards() {
        let (all, default) = (NETCONFA_IFINDEX_ALL, NETCONFA_IFINDEX_DEFAULT);
        let bad = Err(Malformed("settings of a device"));
        for (kind, ifindex, forwarding, want) in [
            (RTM_NEWNETCONF, Some(all), Some(1_u32), Ok(Some(true))),
            (RTM_NEWNETCONF, Some(7), Some(0), Ok(Some(false))),
            // Any value but 0 is on.
            (RTM_NEWNETCONF, Some(7), Some(2), Ok(Some(true))),
            (RTM_NEWNETCONF, Some(default), Some(1), Ok(None)),
            (RTM_NEWNETCONF, None, Some(1), bad),
            (RTM_NEWNETCONF, Some(7), None, bad),
            (RTM_NEWLINK, Some(7), Some(1), Ok(None)),
        ] {
            let mut w = Writer::default();
            let open = w.message(kind, 0, 1, &[AF_INET]);
            if let Some(ifindex) = ifindex {
                w.put(NETCONFA_IFINDEX, &ifindex.to_ne_bytes());
            }
            if let Some(forwarding) = forwarding {
                w.put(NETCONFA_FORWARDING, &forwarding.to_ne_bytes());
            }
            w.end_message(&open);
            let message = messages(w.bytes()).next().unwrap().unwrap();
            assert_eq!(
                forwards(&message),
                want,
                "{kind} {ifindex:?} {forwarding:?}"
            );
        }
    }

    /// The attributes as `geneve_fill_info` writes them: only the port is in network byte order, and the last is a flag.
    #[test]
    fn geneve() {
        use OuterChecksum::{External, Present, Unknown, Zero};
        let (v4, v6) = (
            vec![192, 0, 2, 2],
            [[0x20, 1, 0xd, 0xb8], [0; 4], [0; 4], [0, 0, 0, 2]].concat(),
        );
        let sums = |kind, value| (kind, vec![value]);
        let (csum, csum6) = (IFLA_GENEVE_UDP_CSUM, IFLA_GENEVE_UDP_ZERO_CSUM6_TX);
        let to4 = || (IFLA_GENEVE_REMOTE, v4.clone());
        let to6 = || (IFLA_GENEVE_REMOTE6, v6.clone());
        for (attributes, remote, checksum) in [
            (vec![to4(), sums(csum, 0)], Some("192.0.2.2"), Zero),
            (vec![to4(), sums(csum, 1)], Some("192.0.2.2"), Present),
            (vec![to6(), sums(csum6, 0)], Some("2001:db8::2"), Present),
            (vec![to6(), sums(csum6, 1)], Some("2001:db8::2"), Zero),
            (vec![to6(), sums(csum, 1)], Some("2001:db8::2"), Unknown),
            (vec![(IFLA_GENEVE_COLLECT_METADATA, vec![])], None, External),
        ] {
            let mut w = Writer::default();
            let mut header = [0; IFINFOMSG_LEN];
            header[4..8].copy_from_slice(&9_u32.to_ne_bytes());
            let open = w.message(RTM_NEWLINK, 0, 1, &header);
            w.put_string(IFLA_IFNAME, b"genev_sys_6081");
            let info = w.nest(IFLA_LINKINFO);
            w.put_string(IFLA_INFO_KIND, b"geneve");
            let data = w.nest(IFLA_INFO_DATA);
            w.put(IFLA_GENEVE_ID, &7_u32.to_ne_bytes());
            w.put(IFLA_GENEVE_PORT, &6081_u16.to_be_bytes());
            // The number of IFLA_VXLAN_LOCAL: the time to live of Geneve is 3, its type of service 4.
            w.put(4, &[0]);
            for (kind, value) in &attributes {
                w.put(*kind, value);
            }
            w.end(&data);
            w.end(&info);
            w.end_message(&open);
            let message = messages(w.bytes()).next().unwrap().unwrap();
            let found = link(&message).unwrap().unwrap().tunnel.unwrap();
            let vni = (checksum != External).then_some(7);
            assert_eq!(
                (found.kind, found.vni, found.dst_port, found.learning),
                (TunnelKind::Geneve, vni, Some(6081), false)
            );
            assert_eq!((found.local, found.underlay), (None, UnderlayLink::NotSet));
            assert_eq!(found.remote.map(|a| a.to_string()).as_deref(), remote);
            assert_eq!(found.outer_checksum, checksum, "{attributes:?}");
        }
    }
}
