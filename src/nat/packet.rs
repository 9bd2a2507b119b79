//! A partly known packet at a hook, and whether a condition of a rule holds for it.
//!
//! Owns the conditions that do not test the mark. The machine tests the mark. Pure.

use core::net::IpAddr;

use super::bits::{Byte, Tri, between, equal};
use super::rules::{Element, IpSet, Match, Member, NatRules, Set, Side, Source};
use super::uapi::{
    IPPROTO_UDP, NFPROTO_IPV4, NFPROTO_IPV6, NFT_CT_MARK, NFT_CT_STATE, NFT_CT_STATUS,
    NFT_META_L4PROTO, NFT_META_NFPROTO, NFT_META_OIF, NFT_META_OIFNAME, NFT_META_PROTOCOL,
};
use crate::text::octets;

/// `RTN_LOCAL`.
const RTN_LOCAL: u32 = 2;
/// `NF_CT_STATE_BIT(IP_CT_NEW)`, the same bit in xtables.
const NEW: u16 = 8;
/// `NF_CT_STATE_UNTRACKED_BIT`.
const UNTRACKED: u32 = 1 << 6;
/// The states of tracked packets and `INVALID`. The higher bits differ between the matches `state` and `conntrack`.
const TRACKED_OR_INVALID: u16 = 0xf;

/// A partly known packet. `None` means not known.
#[derive(Clone, Debug)]
pub struct Packet<'a> {
    pub v6: bool,
    /// The name of the outgoing device.
    pub oif: Option<&'a [u8]>,
    pub oif_index: Option<u32>,
    pub source: Option<IpAddr>,
    pub destinations: Destinations,
    /// The packet is an outer packet: UDP, from this machine to another machine, the first packet of its connection.
    pub outer: bool,
    /// The destination port of an outer packet.
    pub port: Option<u16>,
    /// Bits that the mark of the connection can have.
    pub ct_bits: u32,
}

/// The possible destinations of a packet. There can be thousands, and thousands of rules that test them.
#[derive(Clone, Debug)]
pub struct Destinations {
    /// All addresses, sorted. Empty if not known.
    all: Vec<IpAddr>,
    /// The bytes that all addresses have in common, from the first byte on.
    common: [Byte; 16],
}

impl Destinations {
    /// Takes addresses of one family. An empty list means any address.
    pub fn of(mut all: Vec<IpAddr>) -> Self {
        all.sort_unstable();
        all.dedup();
        let mut common = [Byte::ANY; 16];
        for (n, a) in all.iter().enumerate() {
            for (slot, b) in common.iter_mut().zip(octets(*a)) {
                let b = Byte::exact(b);
                *slot = if n == 0 { b } else { slot.join(b) };
            }
        }
        Self { all, common }
    }

    /// The truth value for a condition that holds for `n` of the addresses.
    fn among(&self, n: usize) -> Tri {
        match n {
            _ if self.all.is_empty() => Tri::Maybe,
            0 => Tri::No,
            n if n == self.all.len() => Tri::Yes,
            _ => Tri::Maybe,
        }
    }

    fn between(&self, low: IpAddr, high: IpAddr) -> Tri {
        let below = self.all.partition_point(|a| *a < low);
        let upto = self.all.partition_point(|a| *a <= high);
        self.among(upto.saturating_sub(below))
    }

    fn in_network(&self, address: IpAddr, mask: IpAddr) -> Tri {
        match (address, mask) {
            (IpAddr::V4(a), IpAddr::V4(m))
                if u32::from(!m).wrapping_add(1) & u32::from(!m) == 0 =>
            {
                self.between((a & m).into(), (a | !m).into())
            }
            (IpAddr::V6(a), IpAddr::V6(m))
                if u128::from(!m).wrapping_add(1) & u128::from(!m) == 0 =>
            {
                self.between((a & m).into(), (a | !m).into())
            }
            // A mask with holes.
            _ => {
                let inside = |a: &&IpAddr| masked(**a, mask) == masked(address, mask);
                self.among(self.all.iter().filter(inside).count())
            }
        }
    }
}

impl Packet<'_> {
    /// A packet about which nothing is known.
    pub fn any() -> Self {
        Self {
            v6: false,
            oif: None,
            oif_index: None,
            source: None,
            destinations: Destinations::of(Vec::new()),
            outer: false,
            port: None,
            ct_bits: u32::MAX,
        }
    }

    fn protocol(&self) -> Option<u8> {
        self.outer.then_some(IPPROTO_UDP)
    }

    /// The bytes that `nf_tables` would load, as far as they are known. Does not load marks.
    pub fn load(&self, source: Source, tracked: bool, out: &mut [Byte]) {
        out.fill(Byte::ANY);
        let mut put = |at: usize, bytes: &[u8]| {
            for (slot, &b) in out.iter_mut().skip(at).zip(bytes) {
                *slot = Byte::exact(b);
            }
        };
        match source {
            Source::Meta(NFT_META_NFPROTO) => {
                put(0, &[if self.v6 { NFPROTO_IPV6 } else { NFPROTO_IPV4 }]);
            }
            Source::Meta(NFT_META_PROTOCOL) => {
                put(0, if self.v6 { &[0x86, 0xdd] } else { &[8, 0] });
            }
            Source::Meta(NFT_META_L4PROTO) if self.outer => put(0, &[IPPROTO_UDP]),
            Source::Meta(NFT_META_OIF) => {
                if let Some(n) = self.oif_index {
                    put(0, &n.to_ne_bytes());
                }
            }
            Source::Meta(NFT_META_OIFNAME) => {
                if let Some(name) = self.oif {
                    put(0, &[0; 16]);
                    put(0, name);
                }
            }
            Source::Ct(NFT_CT_STATE) if self.outer && tracked => {
                put(0, &u32::from(NEW).to_ne_bytes());
            }
            Source::Ct(NFT_CT_STATE) if self.outer => put(0, &UNTRACKED.to_ne_bytes()),
            // IPS_DST_NAT: a rule that changes a destination is reported at that rule.
            Source::Ct(NFT_CT_STATUS) if self.outer && tracked => {
                for (slot, bit) in out.iter_mut().zip(32u32.to_ne_bytes()) {
                    slot.known = bit;
                }
            }
            Source::Ct(NFT_CT_MARK) => {
                for (n, slot) in out.iter_mut().take(4).enumerate() {
                    *slot = Byte {
                        known: !self.ct_bits.to_ne_bytes()[n],
                        value: 0,
                    };
                }
            }
            Source::Network(at) => {
                let header = self.header();
                for (n, slot) in out.iter_mut().enumerate() {
                    *slot = header
                        .get(usize::from(at) + n)
                        .copied()
                        .unwrap_or(Byte::ANY);
                }
            }
            Source::Transport(at) => {
                if let Some(port) = self.port.filter(|_| self.outer) {
                    for (n, slot) in out.iter_mut().enumerate() {
                        match usize::from(at) + n {
                            2 => *slot = Byte::exact(port.to_be_bytes()[0]),
                            3 => *slot = Byte::exact(port.to_be_bytes()[1]),
                            _ => {}
                        }
                    }
                }
            }
            Source::FibSaddrType if self.outer => put(0, &RTN_LOCAL.to_ne_bytes()),
            _ => {}
        }
    }

    /// True if a loaded value certainly differs from `data`.
    pub fn never(&self, source: Source, data: &[u8]) -> bool {
        self.outer && source == Source::FibDaddrType && data == RTN_LOCAL.to_ne_bytes()
    }

    fn header(&self) -> [Byte; 40] {
        let mut out = [Byte::ANY; 40];
        let (at_protocol, at_source) = if self.v6 { (6, 8) } else { (9, 12) };
        // An IPv6 extension header would hide the protocol. An outer packet has no extension header.
        if let Some(p) = self.protocol() {
            out[at_protocol] = Byte::exact(p);
        }
        let mut put = |bytes: &[u8]| {
            for (n, &b) in bytes.iter().enumerate() {
                out[at_source + n] = Byte::exact(b);
            }
        };
        match self.source {
            Some(IpAddr::V4(a)) if !self.v6 => put(&a.octets()),
            Some(IpAddr::V6(a)) if self.v6 => put(&a.octets()),
            _ => {}
        }
        let at = if self.v6 { 24 } else { 16 };
        for (slot, b) in out[at..].iter_mut().zip(self.destinations.common) {
            *slot = b;
        }
        out
    }

    /// True if the packet may leave through one of these devices. A chain without devices is at every device.
    pub fn may_leave_through(&self, devices: &[Box<[u8]>]) -> bool {
        devices.is_empty() || devices.iter().any(|d| self.leaves_through(d) != Tri::No)
    }

    /// Whether the name of the outgoing device begins with `prefix`.
    fn leaves_through(&self, prefix: &[u8]) -> Tri {
        self.oif.map_or(Tri::Maybe, |name| {
            Tri::known(name.iter().chain(&[0]).take(prefix.len()).eq(prefix))
        })
    }

    /// Whether an iptables condition holds. The machine handles [`Match::Mark`].
    pub fn holds(&self, m: &Match, rules: &NatRules, tracked: bool) -> Tri {
        match m {
            Match::Comment(_) => Tri::Yes,
            Match::Address {
                side,
                address,
                mask,
                invert,
            } => match (side, self.source) {
                _ if mask.is_unspecified() => Tri::Yes.flip(*invert),
                (Side::Source, Some(a)) => {
                    Tri::known(masked(a, *mask) == masked(*address, *mask)).flip(*invert)
                }
                (Side::Source, None) => Tri::Maybe,
                (Side::Destination, _) => {
                    self.destinations.in_network(*address, *mask).flip(*invert)
                }
            },
            Match::Interface {
                side: Side::Destination,
                prefix,
                invert,
            } => self.leaves_through(prefix).flip(*invert),
            Match::Protocol { number, invert } => match self.protocol() {
                Some(p) => Tri::known(p == *number).flip(*invert),
                None => Tri::Maybe,
            },
            Match::Ports {
                protocol,
                source,
                destination,
                invert_source,
                invert_destination,
                more,
            } => {
                let Some(p) = self.protocol() else {
                    return Tri::Maybe;
                };
                let far = self.port_in(*destination).flip(*invert_destination);
                let near = any_port(*source).flip(*invert_source);
                Tri::known(p == *protocol).and(far).and(near).and(if *more {
                    Tri::Maybe
                } else {
                    Tri::Yes
                })
            }
            Match::Multiport {
                side: Some(Side::Destination),
                ranges,
                invert,
            } if self.outer && self.port.is_some() => {
                let any = ranges.iter().any(|&r| self.port_in(r) == Tri::Yes);
                Tri::known(any).flip(*invert)
            }
            Match::Addrtype {
                source,
                destination,
                invert_source,
                invert_destination,
                limit,
            } if self.outer => {
                let near = match source {
                    0 => Tri::Yes,
                    mask if limit.is_none() => {
                        Tri::known(mask >> RTN_LOCAL & 1 == 1).flip(*invert_source)
                    }
                    _ => Tri::Maybe,
                };
                let far = match destination {
                    0 => Tri::Yes,
                    // The destination is another machine, so it is not local. Other address types are not known.
                    mask if *mask == 1 << RTN_LOCAL => Tri::No.flip(*invert_destination),
                    _ => Tri::Maybe,
                };
                near.and(far)
            }
            Match::State { states, invert } if self.outer && tracked => {
                Tri::known(states & NEW != 0).flip(*invert)
            }
            Match::State { states, invert }
                if self.outer && !tracked && states & !TRACKED_OR_INVALID == 0 =>
            {
                Tri::No.flip(*invert)
            }
            Match::Set {
                index,
                sides,
                invert,
                more,
            } => match rules.ipsets.iter().find(|s| s.index == *index) {
                Some(set) if rules.ipsets_known && !more && !set.dynamic => {
                    self.in_ipset(set, sides).flip(*invert)
                }
                _ => Tri::Maybe,
            },
            _ => Tri::Maybe,
        }
    }

    fn port_in(&self, (low, high): (u16, u16)) -> Tri {
        match self.port {
            _ if low == 0 && high == u16::MAX => Tri::Yes,
            Some(p) if self.outer => Tri::known((low..=high).contains(&p)),
            _ => Tri::Maybe,
        }
    }

    fn in_ipset(&self, set: &IpSet, sides: &[Side]) -> Tri {
        let Some((_, kinds)) = set.kind.split_once(':') else {
            return Tri::Maybe;
        };
        if set.kind.starts_with("list:") {
            return Tri::Maybe;
        }
        let mut out = Tri::No;
        let partly = set.members.iter().any(|m| m.excluded);
        for member in set.members.iter().filter(|m| !m.excluded) {
            match self.is_member(member, kinds, sides) {
                Tri::No => {}
                Tri::Yes if !partly && !member.times_out => return Tri::Yes,
                _ => out = Tri::Maybe,
            }
        }
        out
    }

    fn is_member(&self, member: &Member, kinds: &str, sides: &[Side]) -> Tri {
        // kube-proxy's loopback set has the pods of this node, each with itself. Packets through a tunnel do not go to
        // such a pod.
        if !self.outer
            && member.ip.is_some()
            && member.ip == member.ip2
            && sides.contains(&Side::Source)
            && sides.contains(&Side::Destination)
            && member.ip.is_some_and(|(low, high)| low == high)
        {
            return Tri::No;
        }
        let mut out = Tri::Yes;
        let mut addresses = [member.ip, member.ip2].into_iter();
        let mut sides = sides.iter();
        for kind in kinds.split(',') {
            let side = sides.next();
            let part = match (kind, side) {
                ("ip" | "net", Some(Side::Source)) => match (addresses.next(), self.source) {
                    (Some(Some((low, high))), Some(a)) => Tri::known(low <= a && a <= high),
                    _ => Tri::Maybe,
                },
                ("ip" | "net", _) => match addresses.next() {
                    Some(Some((low, high))) => self.destinations.between(low, high),
                    _ => Tri::Maybe,
                },
                ("port", Some(side)) => {
                    let protocol = match (member.protocol, self.protocol()) {
                        (Some(p), Some(q)) => Tri::known(p == q),
                        _ => Tri::Maybe,
                    };
                    let port = match (side, member.port) {
                        (Side::Destination, Some(range)) => self.port_in(range),
                        _ => Tri::Maybe,
                    };
                    protocol.and(port)
                }
                _ => Tri::Maybe,
            };
            out = out.and(part);
        }
        out
    }
}

fn any_port((low, high): (u16, u16)) -> Tri {
    if low == 0 && high == u16::MAX {
        Tri::Yes
    } else {
        Tri::Maybe
    }
}

fn masked(a: IpAddr, mask: IpAddr) -> Option<IpAddr> {
    match (a, mask) {
        (IpAddr::V4(a), IpAddr::V4(m)) => Some((a & m).into()),
        (IpAddr::V6(a), IpAddr::V6(m)) => Some((a & m).into()),
        _ => None,
    }
}

/// The elements that can match a key, and whether one of them certainly matches.
pub fn find<'s>(set: &'s Set, elements: &'s [Element], key: &[Byte]) -> (Vec<&'s Element>, Tri) {
    let mut found = Vec::new();
    let mut out = Tri::No;
    let mut add = |e: &'s Element, t: Tri| {
        if t != Tri::No {
            found.push(e);
            if out != Tri::Yes {
                out = if e.uncertain { Tri::Maybe } else { t };
            }
        }
    };
    let plain = |e: &&Element| e.key_end.is_none() && !e.key.is_empty();
    for e in elements {
        match &e.key_end {
            // The catch-all matches if no other element does.
            None if e.key.is_empty() && !e.interval_end => add(e, Tri::Maybe),
            None => {}
            Some(end) => add(e, in_fields(set, key, &e.key, end)),
        }
    }
    if set.interval {
        let mut sorted: Vec<&Element> = elements.iter().filter(plain).collect();
        sorted.sort_by(|a, b| (&a.key, !a.interval_end).cmp(&(&b.key, !b.interval_end)));
        for (n, e) in sorted.iter().enumerate() {
            if e.interval_end {
                continue;
            }
            let t = match sorted.get(n + 1).map(|next| before(&next.key)) {
                Some(Some(last)) => between(key, &e.key, &last),
                Some(None) => Tri::Maybe,
                None => between(key, &e.key, &vec![255; e.key.len()]),
            };
            add(e, t);
        }
    } else {
        for e in elements.iter().filter(plain) {
            add(e, equal(key, &e.key));
        }
    }
    if set.dynamic {
        out = Tri::Maybe;
    }
    (found, out)
}

/// The largest key below this key. `None` for the smallest key.
fn before(key: &[u8]) -> Option<Vec<u8>> {
    let mut out = key.to_vec();
    for b in out.iter_mut().rev() {
        if *b > 0 {
            *b -= 1;
            return Some(out);
        }
        *b = 255;
    }
    None
}

/// A concatenated range is tested field by field. A field takes whole registers of four bytes.
fn in_fields(set: &Set, key: &[Byte], low: &[u8], high: &[u8]) -> Tri {
    if set.fields.is_empty() {
        return between(key, low, high);
    }
    let mut at = 0usize;
    let mut out = Tri::Yes;
    for &len in &set.fields {
        let len = len as usize;
        let part = at..at.saturating_add(len);
        out = out.and(
            match (key.get(part.clone()), low.get(part.clone()), high.get(part)) {
                (Some(k), Some(l), Some(h)) => between(k, l, h),
                _ => Tri::Maybe,
            },
        );
        at = at.saturating_add(len.next_multiple_of(4));
    }
    out
}
