//! Requests that create devices and addresses in an empty network namespace, for rtnetlink.
//!
//! Owns the bytes for veth pairs, VXLAN and macvlan devices, addresses, forwarding and neighbours. Pure: sends nothing.
//! Values and layout: `linux/if_link.h`, `linux/if_addr.h`, `linux/neighbour.h`.

use core::net::IpAddr;
use core::ops::RangeInclusive;

use crate::link::rtnl::{
    AF_BRIDGE, IFA_ADDRESS, IFA_LOCAL, IFLA_ADDRESS, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND,
    IFLA_LINK, IFLA_LINKINFO, IFLA_VXLAN_GROUP, IFLA_VXLAN_GROUP6, IFLA_VXLAN_ID,
    IFLA_VXLAN_LEARNING, IFLA_VXLAN_LINK, IFLA_VXLAN_LOCAL, IFLA_VXLAN_LOCAL6, IFLA_VXLAN_PORT,
    IFLA_VXLAN_UDP_CSUM, IFLA_VXLAN_UDP_ZERO_CSUM6_TX, NDA_DST, RTM_NEWADDR, RTM_NEWLINK,
    RTM_NEWNEIGH, family,
};
use crate::netlink::requests::Requests;
use crate::netlink::{NLM_F_CREATE, NLM_F_EXCL};
use crate::text::octets;

const AF_UNSPEC: u8 = 0;

/// `IFF_UP | IFF_NOARP`. Without ARP the kernel treats every neighbour of the device as known, with the device's own MAC address.
/// No address must be resolved before the first packet, and IPv6 addresses need no duplicate detection.
const UP_WITHOUT_ARP: u32 = 0x1 | 0x80;

/// `linux/if_link.h`, `linux/ip.h`.
const IFLA_MTU: u16 = 4;
const IFLA_AF_SPEC: u16 = 26;
const AF_INET: u16 = 2;
const IFLA_INET_CONF: u16 = 1;
const IPV4_DEVCONF_FORWARDING: u16 = 1;

const VETH_INFO_PEER: u16 = 1;
const IFLA_VXLAN_PORT_RANGE: u16 = 10;

const IFA_F_NODAD: u8 = 0x02;

const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const NTF_SELF: u8 = 0x02;

/// A device to create: its name and its ifindex, which must be free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewDevice<'a> {
    /// 1 to 15 bytes.
    pub name: &'a str,
    /// Greater than 0.
    pub ifindex: u32,
}

/// A VXLAN device to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan<'a> {
    pub device: NewDevice<'a>,
    /// 24 bits.
    pub vni: u32,
    /// The ifindex of the device through which its packets leave.
    pub underlay: u32,
    /// The outer source address.
    pub local: IpAddr,
    /// The outer destination of packets whose inner MAC address has no forwarding entry. Same family as `local`.
    pub remote: IpAddr,
    /// The outer destination port.
    pub dst_port: u16,
    /// The range from which the kernel chooses the outer source port.
    pub src_ports: RangeInclusive<u16>,
    /// Whether outer packets get a UDP checksum. Always stated, because the default differs between kernels.
    pub udp_csum: bool,
}

/// Creates a veth pair with both ends down.
pub fn veth(requests: &mut Requests, device: NewDevice, peer: NewDevice) -> u32 {
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    requests.acked(RTM_NEWLINK, flags, &ifinfomsg(device.ifindex, 0), |b| {
        b.put(IFLA_IFNAME, &nul_terminated(device.name));
        b.put_nest(IFLA_LINKINFO, |b| {
            b.put(IFLA_INFO_KIND, b"veth");
            b.put_nest(IFLA_INFO_DATA, |b| {
                b.put_nest(VETH_INFO_PEER, |b| {
                    b.header(&ifinfomsg(peer.ifindex, 0));
                    b.put(IFLA_IFNAME, &nul_terminated(peer.name));
                });
            });
        });
    })
}

/// Sets a device up, without ARP.
pub fn up(requests: &mut Requests, ifindex: u32) -> u32 {
    requests.acked(RTM_NEWLINK, 0, &ifinfomsg(ifindex, UP_WITHOUT_ARP), |_| {})
}

/// Sets a device up, without ARP, with this MAC address, and enables IPv4 forwarding for it. By netlink, because a
/// sandbox makes `/proc/sys` read-only.
pub fn router(requests: &mut Requests, ifindex: u32, mac: [u8; 6]) -> u32 {
    let header = ifinfomsg(ifindex, UP_WITHOUT_ARP);
    requests.acked(RTM_NEWLINK, 0, &header, |b| {
        b.put(IFLA_ADDRESS, &mac);
        b.put_nest(IFLA_AF_SPEC, |b| {
            b.put_nest(AF_INET, |b| {
                b.put_nest(IFLA_INET_CONF, |b| {
                    b.put(IPV4_DEVCONF_FORWARDING, &1u32.to_ne_bytes());
                });
            });
        });
    })
}

/// Creates a macvlan device in the default mode (VEPA: all packets go to the device `below`) and sets it up.
pub fn macvlan(requests: &mut Requests, device: NewDevice, below: u32, mtu: u32) -> u32 {
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    let header = ifinfomsg(device.ifindex, UP_WITHOUT_ARP);
    requests.acked(RTM_NEWLINK, flags, &header, |b| {
        b.put(IFLA_IFNAME, &nul_terminated(device.name));
        b.put(IFLA_MTU, &mtu.to_ne_bytes());
        b.put(IFLA_LINK, &below.to_ne_bytes());
        b.put_nest(IFLA_LINKINFO, |b| b.put(IFLA_INFO_KIND, b"macvlan"));
    })
}

/// Creates a VXLAN device and sets it up.
pub fn vxlan(requests: &mut Requests, vxlan: &Vxlan) -> u32 {
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    let header = ifinfomsg(vxlan.device.ifindex, UP_WITHOUT_ARP);
    requests.acked(RTM_NEWLINK, flags, &header, |b| {
        b.put(IFLA_IFNAME, &nul_terminated(vxlan.device.name));
        b.put_nest(IFLA_LINKINFO, |b| {
            b.put(IFLA_INFO_KIND, b"vxlan");
            b.put_nest(IFLA_INFO_DATA, |b| {
                b.put(IFLA_VXLAN_ID, &vxlan.vni.to_ne_bytes());
                b.put(IFLA_VXLAN_LINK, &vxlan.underlay.to_ne_bytes());
                let (local, remote) = match vxlan.local {
                    IpAddr::V4(_) => (IFLA_VXLAN_LOCAL, IFLA_VXLAN_GROUP),
                    IpAddr::V6(_) => (IFLA_VXLAN_LOCAL6, IFLA_VXLAN_GROUP6),
                };
                b.put(local, &octets(vxlan.local));
                b.put(remote, &octets(vxlan.remote));
                b.put(IFLA_VXLAN_LEARNING, &[0]);
                b.put(IFLA_VXLAN_PORT, &vxlan.dst_port.to_be_bytes());
                let [low, high] = [vxlan.src_ports.start(), vxlan.src_ports.end()];
                let range = [low.to_be_bytes(), high.to_be_bytes()].concat();
                b.put(IFLA_VXLAN_PORT_RANGE, &range);
                b.put(IFLA_VXLAN_UDP_CSUM, &[u8::from(vxlan.udp_csum)]);
                b.put(IFLA_VXLAN_UDP_ZERO_CSUM6_TX, &[u8::from(!vxlan.udp_csum)]);
            });
        });
    })
}

/// Adds an address to a device.
pub fn address(requests: &mut Requests, ifindex: u32, address: IpAddr, prefix_len: u8) -> u32 {
    // struct ifaddrmsg: family, prefix length, flags, scope, index.
    let [a, b, c, d] = ifindex.to_ne_bytes();
    let header = [family(address), prefix_len, IFA_F_NODAD, 0, a, b, c, d];
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    requests.acked(RTM_NEWADDR, flags, &header, |b| {
        b.put(IFA_LOCAL, &octets(address));
        b.put(IFA_ADDRESS, &octets(address));
    })
}

/// Adds a permanent entry to the neighbour table.
pub fn neighbour(requests: &mut Requests, ifindex: u32, address: IpAddr, mac: [u8; 6]) -> u32 {
    new_neighbour(requests, ifindex, family(address), 0, address, mac)
}

/// Adds a permanent forwarding entry to a VXLAN device: packets to this MAC address go to this outer destination.
pub fn forwarding(requests: &mut Requests, ifindex: u32, mac: [u8; 6], remote: IpAddr) -> u32 {
    new_neighbour(requests, ifindex, AF_BRIDGE, NTF_SELF, remote, mac)
}

fn new_neighbour(
    requests: &mut Requests,
    ifindex: u32,
    family: u8,
    flags: u8,
    address: IpAddr,
    mac: [u8; 6],
) -> u32 {
    // struct ndmsg: family, padding, index, state, flags, type.
    let mut header = vec![family, 0, 0, 0];
    header.extend_from_slice(&ifindex.to_ne_bytes());
    header.extend_from_slice(&NUD_PERMANENT.to_ne_bytes());
    header.extend_from_slice(&[flags, 0]);
    requests.acked(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_EXCL, &header, |b| {
        b.put(NDA_DST, &octets(address));
        b.put(NDA_LLADDR, &mac);
    })
}

/// struct ifinfomsg: family, padding, type, index, flags, change mask.
fn ifinfomsg(ifindex: u32, flags: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[0] = AF_UNSPEC;
    header[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&flags.to_ne_bytes());
    header
}

fn nul_terminated(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::super::nat_setup::text;
    use super::*;

    /// `VETH_INFO_PEER` begins with a struct ifinfomsg.
    fn lines(requests: &Requests, header_len: usize) -> Vec<String> {
        let skip = |path: &[u16]| match path {
            [IFLA_LINKINFO, IFLA_INFO_DATA, VETH_INFO_PEER] => 16,
            _ => 0,
        };
        text::messages(requests.bytes(), header_len, skip)
    }

    #[test]
    fn devices() {
        let mut requests = Requests::default();
        let device = |name, ifindex| NewDevice { name, ifindex };
        veth(&mut requests, device("a", 10), device("b", 11));
        up(&mut requests, 11);
        for (local, remote, udp_csum) in [
            ("192.0.2.1", "192.0.2.2", true),
            ("2001:db8::1", "2001:db8::2", false),
        ] {
            let vxlan_device = Vxlan {
                device: device("v", 12),
                vni: 0x01_0203,
                underlay: 10,
                local: local.parse().unwrap(),
                remote: remote.parse().unwrap(),
                dst_port: 4789,
                src_ports: 40_000..=49_999,
                udp_csum,
            };
            vxlan(&mut requests, &vxlan_device);
        }
        let down = |ifindex| format!("00000000{ifindex:02x}0000000000000000000000");
        let up = |ifindex| format!("00000000{ifindex:02x}0000008100000081000000");
        let vxlan = |from: &str, csum: &str| {
            format!(
                "3=7600 18[ 1=76786c616e 2[ 1=03020100 3=0a000000 {from} 7=00 15=12b5 10=9c40c34f {csum} ] ]"
            )
        };
        assert_eq!(
            lines(&requests, 16),
            [
                format!(
                    "10 605 #1 {} 3=6100 18[ 1=76657468 2[ 1[{} 3=6200 ] ] ]",
                    down(10),
                    down(11)
                ),
                format!("10 5 #2 {}", up(11)),
                format!(
                    "10 605 #3 {} {}",
                    up(12),
                    vxlan("4=c0000201 2=c0000202", "18=01 19=00")
                ),
                format!(
                    "10 605 #4 {} {}",
                    up(12),
                    vxlan(
                        "17=20010db8000000000000000000000001 16=20010db8000000000000000000000002",
                        "18=00 19=01"
                    )
                ),
            ]
        );
        assert_eq!(requests.acks, [1, 2, 3, 4]);
    }

    #[test]
    fn a_router_and_a_macvlan_device() {
        let mut requests = Requests::default();
        router(&mut requests, 10, [2, 0, 0, 0, 0, 1]);
        let device = NewDevice {
            name: "m",
            ifindex: 11,
        };
        macvlan(&mut requests, device, 10, 1340);
        assert_eq!(
            lines(&requests, 16),
            [
                "10 5 #1 000000000a0000008100000081000000 1=020000000001 26[ 2[ 1[ 1=01000000 ] ] ]",
                "10 605 #2 000000000b0000008100000081000000 3=6d00 4=3c050000 5=0a000000 18[ 1=6d6163766c616e ]",
            ]
        );
    }

    #[test]
    fn addresses_and_neighbours() {
        let mut requests = Requests::default();
        address(&mut requests, 10, "192.0.2.1".parse().unwrap(), 24);
        address(&mut requests, 10, "2001:db8::1".parse().unwrap(), 64);
        assert_eq!(
            lines(&requests, 8),
            [
                "14 605 #1 021802000a000000 2=c0000201 1=c0000201",
                "14 605 #2 0a4002000a000000 2=20010db8000000000000000000000001 1=20010db8000000000000000000000001",
            ]
        );
        let mut requests = Requests::default();
        let mac = [2, 0, 0, 0, 0, 3];
        neighbour(&mut requests, 12, "198.18.0.3".parse().unwrap(), mac);
        forwarding(&mut requests, 12, mac, "192.0.2.3".parse().unwrap());
        assert_eq!(
            lines(&requests, 12),
            [
                "1c 605 #1 020000000c00000080000000 1=c6120003 2=020000000003",
                "1c 605 #2 070000000c00000080000200 1=c0000203 2=020000000003",
            ]
        );
    }
}
