//! Routes: the devices through which packets to an address leave.
//!
//! Owns the bytes of `RTM_GETROUTE`, `RTM_GETRULE` and their answers. Pure.

use core::net::IpAddr;

use super::rtnl::{AF_INET6, address, family};
use crate::fault::Malformed;
use crate::netlink::{Message, NLM_F_DUMP, Writer, attrs, get_u16, get_u32};
use crate::text::octets;

// https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/rtnetlink.h
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWRULE: u16 = 32;
const RTM_GETRULE: u16 = 34;
const RTM_F_FIB_MATCH: u32 = 0x2000;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;

// https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/fib_rules.h
const FRA_FWMARK: u16 = 10;
const FRA_TUN_ID: u16 = 12;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_UID_RANGE: u16 = 20;
const FRA_IP_PROTO: u16 = 22;
const FRA_SPORT_RANGE: u16 = 23;
const FRA_DPORT_RANGE: u16 = 24;
const FR_ACT_TO_TBL: u8 = 1;
const FR_ACT_BLACKHOLE: u8 = 6;
const FR_ACT_PROHIBIT: u8 = 8;

/// The length of `struct rtmsg` and of `struct fib_rule_hdr`, which have the same first fields.
const HEADER_LEN: usize = 12;
/// The length of `struct rtnexthop` without its attributes.
const NEXTHOP_LEN: usize = 8;

/// Asks where the kernel would send a packet to `destination`.
///
/// With `whole`, the kernel answers since 4.13 with the whole route, before that with one of its next hops. Without
/// `whole` it answers with one next hop and the source that it chose (`rt_fill_info`). `oif` is the device through
/// which the packet must leave.
///
/// <https://github.com/torvalds/linux/blob/v6.12/net/ipv4/route.c> (`inet_rtm_getroute`)
pub fn look_up(
    w: &mut Writer,
    seq: u32,
    destination: IpAddr,
    source: Option<IpAddr>,
    oif: Option<u32>,
    whole: bool,
) {
    let source = source.filter(|source| source.is_ipv6() == destination.is_ipv6());
    let bits = if destination.is_ipv6() { 128 } else { 32 };
    let mut header = [0; HEADER_LEN];
    header[..3].copy_from_slice(&[family(destination), bits, source.map_or(0, |_| bits)]);
    if whole {
        header[8..].copy_from_slice(&RTM_F_FIB_MATCH.to_ne_bytes());
    }
    let open = w.message(RTM_GETROUTE, 0, seq, &header);
    w.put(RTA_DST, &octets(destination));
    if let Some(source) = source {
        w.put(RTA_SRC, &octets(source));
    }
    if let Some(oif) = oif {
        w.put(RTA_OIF, &oif.to_ne_bytes());
    }
    w.end_message(&open);
}

/// The device and next hop of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The devices through which packets can leave. Empty if the answer names none.
    pub ifindexes: Vec<u32>,
    /// The routing table of the route.
    pub table: u32,
    /// The source address that the kernel chose. `None` if the answer has none.
    pub source: Option<IpAddr>,
    /// The next hop. `None` if the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The next hop has the other address family.
    pub via: bool,
}

/// Reads an answer to [`look_up`]. `None` if the message is not an `RTM_NEWROUTE`.
///
/// # Errors
/// Malformed bytes.
pub fn route(message: &Message<'_>) -> Result<Option<Route>, Malformed> {
    if message.kind != RTM_NEWROUTE {
        return Ok(None);
    }
    let (header, attributes) = split(message.payload, "route")?;
    let mut route = Route {
        ifindexes: Vec::new(),
        table: header[4].into(),
        source: None,
        gateway: None,
        via: false,
    };
    for attr in attrs(attributes) {
        let attr = attr?;
        match attr.kind {
            RTA_OIF => route.ifindexes.push(attr.u32()?),
            RTA_MULTIPATH => nexthops(attr.payload, &mut route.ifindexes)?,
            RTA_TABLE => route.table = attr.u32()?,
            RTA_PREFSRC => route.source = address(attr.payload)?,
            RTA_GATEWAY => route.gateway = address(attr.payload)?,
            RTA_VIA => route.via = true,
            _ => {}
        }
    }
    Ok(Some(route))
}

fn nexthops(mut rest: &[u8], out: &mut Vec<u32>) -> Result<(), Malformed> {
    const BAD: Malformed = Malformed("nexthop");
    while !rest.is_empty() {
        let len = usize::from(get_u16(rest, 0).ok_or(BAD)?);
        if len < NEXTHOP_LEN || len > rest.len() {
            return Err(BAD);
        }
        out.push(get_u32(rest, 4).ok_or(BAD)?);
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(())
}

/// A dump of the routing rules of both families.
pub fn dump_rules(w: &mut Writer, seq: u32) {
    let open = w.message(RTM_GETRULE, NLM_F_DUMP, seq, &[0; HEADER_LEN]);
    w.end_message(&open);
}

/// A routing rule that selects packets by more than their addresses: by mark, ports or TOS. [`look_up`] does not apply
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoutingRule {
    /// The rule is for IPv6.
    pub v6: bool,
    /// The table to which the rule sends packets. `None` if the rule jumps to another rule.
    pub table: Option<u32>,
}

/// Reads an answer to [`dump_rules`]. `None` if the message is not an `RTM_NEWRULE`, if the rule selects packets only
/// by addresses and devices, or if the rule only drops packets.
///
/// # Errors
/// Malformed bytes.
pub fn routing_rule(message: &Message<'_>) -> Result<Option<RoutingRule>, Malformed> {
    if message.kind != RTM_NEWRULE {
        return Ok(None);
    }
    let (header, attributes) = split(message.payload, "routing rule")?;
    let (mut table, mut diverts) = (u32::from(header[4]), header[3] != 0);
    for attr in attrs(attributes) {
        let attr = attr?;
        match attr.kind {
            FRA_TABLE => table = attr.u32()?,
            FRA_FWMARK | FRA_FWMASK | FRA_TUN_ID | FRA_UID_RANGE | FRA_IP_PROTO
            | FRA_SPORT_RANGE | FRA_DPORT_RANGE => diverts = true,
            _ => {}
        }
    }
    let action = header[7];
    let drops = (FR_ACT_BLACKHOLE..=FR_ACT_PROHIBIT).contains(&action);
    Ok((diverts && !drops).then_some(RoutingRule {
        v6: header[0] == AF_INET6,
        table: (action == FR_ACT_TO_TBL).then_some(table),
    }))
}

fn split<'a>(
    payload: &'a [u8],
    what: &'static str,
) -> Result<(&'a [u8; HEADER_LEN], &'a [u8]), Malformed> {
    payload.split_first_chunk().ok_or(Malformed(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The payload of a message: a header and attributes.
    fn payload(header: [u8; HEADER_LEN], attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = header.to_vec();
        for (kind, value) in attributes {
            bytes.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(*value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    fn message(kind: u16, payload: &[u8]) -> Message<'_> {
        Message {
            kind,
            flags: 0,
            seq: 1,
            payload,
        }
    }

    fn nexthop(len: u16, ifindex: u32) -> Vec<u8> {
        let mut bytes = len.to_ne_bytes().to_vec();
        bytes.extend([0, 0]);
        bytes.extend(ifindex.to_ne_bytes());
        bytes.resize(usize::from(len).max(8).next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_route_says_where_packets_leave() {
        let header = [2, 32, 0, 0, 254, 0, 0, 1, 0, 0, 0, 0];
        let oif = 2u32.to_ne_bytes();
        let table = 1000u32.to_ne_bytes();
        let both = [nexthop(16, 3), nexthop(8, 4)].concat();
        let (short, long) = (nexthop(4, 3), nexthop(24, 3)[..16].to_vec());
        for (name, attributes, want) in [
            ("nothing said", &[][..], Ok((vec![], 254))),
            ("one device", &[(RTA_OIF, &oif[..])], Ok((vec![2], 254))),
            (
                "another table",
                &[(RTA_OIF, &oif[..]), (RTA_TABLE, &table)],
                Ok((vec![2], 1000)),
            ),
            (
                "several",
                &[(RTA_MULTIPATH, &both[..])],
                Ok((vec![3, 4], 254)),
            ),
            ("cut", &[(RTA_OIF, &oif[..2])], Err("32-bit attribute")),
            (
                "short nexthop",
                &[(RTA_MULTIPATH, &short[..])],
                Err("nexthop"),
            ),
            (
                "long nexthop",
                &[(RTA_MULTIPATH, &long[..])],
                Err("nexthop"),
            ),
        ] {
            let got = route(&message(RTM_NEWROUTE, &payload(header, attributes)));
            let want = want
                .map(|(ifindexes, table)| {
                    Some(Route {
                        ifindexes,
                        table,
                        source: None,
                        gateway: None,
                        via: false,
                    })
                })
                .map_err(Malformed);
            assert_eq!(got, want, "{name}");
        }
        assert_eq!(
            route(&message(RTM_NEWROUTE, &header[..11])),
            Err(Malformed("route"))
        );
        assert_eq!(route(&message(RTM_NEWRULE, &header)), Ok(None));
    }

    #[test]
    fn rules_that_test_more_than_addresses_divert() {
        let word = 1u32.to_ne_bytes();
        let to = |table| Some((false, Some(table)));
        for (name, family, tos, action, attributes, want) in [
            ("main", 2, 0, 1, &[][..], None),
            ("by source", 2, 0, 1, &[(2, &word[..])], None),
            ("by device", 2, 0, 1, &[(17, b"eth0\0")], None),
            ("by mark", 2, 0, 1, &[(FRA_FWMARK, &word[..])], to(254)),
            (
                "to another table",
                2,
                0,
                1,
                &[(FRA_FWMARK, &word[..]), (FRA_TABLE, &word)],
                to(1),
            ),
            ("by no mark", 2, 0, 1, &[(FRA_FWMASK, &word[..])], to(254)),
            ("by port", 2, 0, 1, &[(FRA_DPORT_RANGE, &word[..])], to(254)),
            ("by TOS", 2, 4, 1, &[], to(254)),
            (
                "IPv6",
                10,
                0,
                1,
                &[(FRA_FWMARK, &word[..])],
                Some((true, Some(254))),
            ),
            (
                "goto",
                2,
                0,
                2,
                &[(FRA_FWMARK, &word[..])],
                Some((false, None)),
            ),
            ("drops", 2, 0, 7, &[(FRA_FWMARK, &word[..])], None),
        ] {
            let header = [family, 0, 0, tos, 254, 0, 0, action, 0, 0, 0, 0];
            let got = routing_rule(&message(RTM_NEWRULE, &payload(header, attributes)));
            let want = want.map(|(v6, table)| RoutingRule { v6, table });
            assert_eq!(got, Ok(want), "{name}");
        }
        let cut = message(RTM_NEWRULE, &[2; 11]);
        assert_eq!(routing_rule(&cut), Err(Malformed("routing rule")));
        assert_eq!(routing_rule(&message(RTM_NEWROUTE, &[0; 12])), Ok(None));
    }
}
