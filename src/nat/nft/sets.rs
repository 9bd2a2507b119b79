//! Sets and maps of `nf_tables`, and ipsets.
//!
//! Owns the layout of their elements. Pure.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::expr::verdict;
use super::{Fields, Message, Names, TableKey, attrs};
use crate::fault::Malformed;
use crate::nat::rules::{Data, Element, IpSet, Member, Set};
#[allow(clippy::wildcard_imports)] // The kernel's names, dozens of them.
use crate::nat::uapi::*;

/// A set without its elements, and the table it is in.
pub fn set(msg: &Message<'_>) -> Result<(TableKey, Set), Malformed> {
    const BAD: Malformed = Malformed("set");
    let (family, body) = msg.body()?;
    let f = Fields::<20>::read(body)?;
    let flags = f.be32(NFTA_SET_FLAGS).unwrap_or(0);
    let mut fields = Vec::new();
    if let Some(desc) = f.bytes(NFTA_SET_DESC) {
        let d = Fields::<3>::read(desc)?;
        for field in attrs(d.bytes(NFTA_SET_DESC_CONCAT).unwrap_or(&[])) {
            let field = Fields::<2>::read(field?.payload)?;
            fields.push(field.be32(NFTA_SET_FIELD_LEN).ok_or(BAD)?);
        }
    }
    let name = f.name(NFTA_SET_TABLE).ok_or(BAD)?.into();
    Ok((
        TableKey { family, name },
        Set {
            name: f.name(NFTA_SET_NAME).ok_or(BAD)?.into(),
            anonymous: flags & NFT_SET_ANONYMOUS != 0,
            interval: flags & NFT_SET_INTERVAL != 0,
            dynamic: flags & (NFT_SET_TIMEOUT | NFT_SET_EVAL) != 0
                || conditional(f.bytes(NFTA_SET_EXPR), f.bytes(NFTA_SET_EXPRESSIONS))?,
            key_len: f.be32(NFTA_SET_KEY_LEN).ok_or(BAD)?,
            fields: fields.into(),
            elements: None,
        },
    ))
}

/// The elements in one message of the dump of a set.
pub fn elements(
    msg: &Message<'_>,
    names: &impl Names,
    out: &mut Vec<Element>,
) -> Result<(), Malformed> {
    let (_, body) = msg.body()?;
    let f = Fields::<5>::read(body)?;
    for elem in attrs(f.bytes(NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or(&[])) {
        let e = Fields::<12>::read(elem?.payload)?;
        let data = match e.bytes(NFTA_SET_ELEM_DATA) {
            None => Data::Nothing,
            Some(d) => {
                let d = Fields::<3>::read(d)?;
                match (d.bytes(NFTA_DATA_VALUE), d.bytes(NFTA_DATA_VERDICT)) {
                    (Some(v), _) => Data::Value(v.into()),
                    (None, Some(v)) => {
                        Data::Verdict(verdict(v, names).ok_or(Malformed("verdict of an element"))?)
                    }
                    (None, None) => Data::Nothing,
                }
            }
        };
        out.push(Element {
            key: e.value(NFTA_SET_ELEM_KEY).unwrap_or_default(),
            key_end: e.value(NFTA_SET_ELEM_KEY_END),
            interval_end: e
                .be32(NFTA_SET_ELEM_FLAGS)
                .is_some_and(|n| n & NFT_SET_ELEM_INTERVAL_END != 0),
            uncertain: e.bytes(NFTA_SET_ELEM_EXPIRATION).is_some()
                || conditional(
                    e.bytes(NFTA_SET_ELEM_EXPR),
                    e.bytes(NFTA_SET_ELEM_EXPRESSIONS),
                )?,
            data,
        });
    }
    Ok(())
}

/// True if an expression, alone or in a list, can make an element fail. A counter cannot.
fn conditional(one: Option<&[u8]>, list: Option<&[u8]>) -> Result<bool, Malformed> {
    let can = |e: &[u8]| Ok(Fields::<3>::read(e)?.name(NFTA_EXPR_NAME) != Some(b"counter"));
    let mut out = one.map_or(Ok(false), can)?;
    for e in attrs(list.unwrap_or(&[])) {
        out |= can(e?.payload)?;
    }
    Ok(out)
}

/// Adds one message of the list of ipsets. A large set comes in several messages, and only the first describes the set.
pub fn add_ipset(sets: &mut Vec<IpSet>, msg: &Message<'_>) -> Result<(), Malformed> {
    let mut more = ipset(msg)?;
    let known = sets.iter().position(|s| s.name == more.name);
    let netmask = known.map_or(more.netmask, |n| sets[n].netmask);
    if let Some(netmask) = netmask {
        for m in &mut more.members {
            m.ip = m.ip.map(|range| widen(range, netmask));
            m.ip2 = m.ip2.map(|range| widen(range, netmask));
        }
    }
    match known {
        Some(n) => {
            sets[n].members.append(&mut more.members);
            sets[n].dynamic |= more.dynamic;
        }
        None => sets.push(more),
    }
    Ok(())
}

/// All addresses that share the first bits with one of these.
fn widen(range: (IpAddr, IpAddr), bits: u8) -> (IpAddr, IpAddr) {
    match range {
        (IpAddr::V4(low), IpAddr::V4(high)) => {
            let host = u32::MAX.checked_shr(bits.into()).unwrap_or(0);
            (
                Ipv4Addr::from_bits(low.to_bits() & !host).into(),
                Ipv4Addr::from_bits(high.to_bits() | host).into(),
            )
        }
        (IpAddr::V6(low), IpAddr::V6(high)) => {
            let host = u128::MAX.checked_shr(bits.into()).unwrap_or(0);
            (
                Ipv6Addr::from_bits(low.to_bits() & !host).into(),
                Ipv6Addr::from_bits(high.to_bits() | host).into(),
            )
        }
        other => other,
    }
}

/// One message of the list of ipsets.
fn ipset(msg: &Message<'_>) -> Result<IpSet, Malformed> {
    const BAD: Malformed = Malformed("ipset");
    let (_, body) = msg.body()?;
    let f = Fields::<12>::read(body)?;
    // Options of the set. Their numbers are independent of those of members.
    let options = Fields::<21>::read(f.bytes(IPSET_ATTR_DATA).unwrap_or(&[]))?;
    let mut set = IpSet {
        // An old kernel does not say. Then no rule finds this set, and every set match may hold or not.
        index: f.be16(IPSET_ATTR_INDEX).unwrap_or(u16::MAX),
        name: f.name(IPSET_ATTR_SETNAME).ok_or(BAD)?.into(),
        kind: String::from_utf8_lossy(f.name(IPSET_ATTR_TYPENAME).unwrap_or_default()).into(),
        // The analysis does not follow addresses compared with a mask with holes.
        dynamic: options
            .be32(IPSET_ATTR_TIMEOUT)
            .is_some_and(|seconds| seconds != 0)
            || options.bytes(IPSET_ATTR_BITMASK).is_some(),
        netmask: options.byte(IPSET_ATTR_NETMASK),
        members: Vec::new(),
    };
    for entry in attrs(f.bytes(IPSET_ATTR_ADT).unwrap_or(&[])) {
        let e = Fields::<28>::read(entry?.payload)?;
        set.members.push(Member {
            ip: range(&e, IPSET_ATTR_IP, IPSET_ATTR_IP_TO, IPSET_ATTR_CIDR)?,
            ip2: range(&e, IPSET_ATTR_IP2, IPSET_ATTR_IP2_TO, IPSET_ATTR_CIDR2)?,
            port: e
                .be16(IPSET_ATTR_PORT)
                .map(|low| (low, e.be16(IPSET_ATTR_PORT_TO).unwrap_or(low))),
            protocol: e.byte(IPSET_ATTR_PROTO),
            excluded: e
                .be32(IPSET_ATTR_CADT_FLAGS)
                .is_some_and(|n| n & IPSET_FLAG_NOMATCH != 0),
            times_out: e
                .be32(IPSET_ATTR_TIMEOUT)
                .is_some_and(|seconds| seconds != 0),
        });
    }
    Ok(set)
}

fn address(bytes: &[u8]) -> Result<IpAddr, Malformed> {
    let a = Fields::<3>::read(bytes)?;
    let v4 = |b: &[u8]| Some(Ipv4Addr::from(<[u8; 4]>::try_from(b).ok()?).into());
    let v6 = |b: &[u8]| Some(Ipv6Addr::from(<[u8; 16]>::try_from(b).ok()?).into());
    a.bytes(IPSET_ATTR_IPADDR_IPV4)
        .and_then(v4)
        .or_else(|| a.bytes(IPSET_ATTR_IPADDR_IPV6).and_then(v6))
        .ok_or(Malformed("address of an ipset"))
}

/// The first and the last address of a member: with an end, with a prefix length, or alone.
fn range(
    e: &Fields<'_, 28>,
    from: u16,
    to: u16,
    cidr: u16,
) -> Result<Option<(IpAddr, IpAddr)>, Malformed> {
    let Some(low) = e.bytes(from) else {
        return Ok(None);
    };
    let low = address(low)?;
    let high = match (e.bytes(to), e.byte(cidr), low) {
        (Some(high), _, _) => address(high)?,
        (None, Some(n @ 0..32), IpAddr::V4(a)) => {
            Ipv4Addr::from_bits(a.to_bits() | u32::MAX >> n).into()
        }
        (None, Some(n @ 0..128), IpAddr::V6(a)) => {
            Ipv6Addr::from_bits(a.to_bits() | u128::MAX >> n).into()
        }
        _ => low,
    };
    Ok(Some((low, high)))
}
