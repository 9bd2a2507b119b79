//! The binary rules of xtables: `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES` of iptables-legacy, and the matches and
//! targets that iptables-nft puts into `nf_tables` rules.
//!
//! Owns these layouts, which depend on the machine's byte order and, in padding, on its word size. Does no I/O and
//! never panics, whatever the bytes are.
//!
//! <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/netfilter_ipv4/ip_tables.h#L74>
//! <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/netfilter_ipv6/ip6_tables.h#L81>

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::HashMap;
use std::fmt::Write as _;

use super::rules::{
    Base, Chain, Connmark, Expr, Hook, IpsetUpdate, Match, Nat, NatKind, Queue, Rule, RuleStore,
    Side, Table, TableFamily, Verdict,
};
#[allow(clippy::wildcard_imports)] // The kernel's names, dozens of them.
use super::uapi::*;
use crate::fault::Malformed;

/// `sizeof(struct ipt_getinfo)`, the same for ip6t.
pub const INFO_LEN: usize = 84;
/// `sizeof(struct ipt_get_entries)`: the header before the entries.
pub const ENTRIES_HEADER: usize = 40;
/// `XT_TABLE_MAXNAMELEN`.
pub const TABLE_NAME: usize = 32;

/// The fields of `struct ipt_getinfo` that are needed here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Bit n is set if the table is at the hook `NF_INET_*` n.
    pub valid_hooks: u32,
    /// The offset of the first entry of each hook.
    pub hook_entry: [u32; 5],
    /// The offset of the policy of each hook.
    pub underflow: [u32; 5],
    /// The number of entries.
    pub entries: u32,
    /// The length of all entries in bytes.
    pub size: u32,
}

/// Reads the answer to `IPT_SO_GET_INFO`.
pub fn decode_info(bytes: &[u8]) -> Result<Info, Malformed> {
    let word = |n: usize| u32_at(bytes, TABLE_NAME + 4 * n).ok_or(Malformed("table information"));
    Ok(Info {
        valid_hooks: word(0)?,
        hook_entry: [word(1)?, word(2)?, word(3)?, word(4)?, word(5)?],
        underflow: [word(6)?, word(7)?, word(8)?, word(9)?, word(10)?],
        entries: word(11)?,
        size: word(12)?,
    })
}

/// The request for `IPT_SO_GET_ENTRIES`, with space for the answer.
pub fn entries_request(name: &[u8], info: &Info) -> Vec<u8> {
    let mut out = vec![0; ENTRIES_HEADER + info.size as usize];
    let n = name.len().min(TABLE_NAME - 1);
    out[..n].copy_from_slice(&name[..n]);
    out[TABLE_NAME..TABLE_NAME + 4].copy_from_slice(&info.size.to_ne_bytes());
    out
}

fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(b.get(at..at + 2)?.try_into().ok()?))
}

fn be16_at(b: &[u8], at: usize) -> Option<u16> {
    u16_at(b, at).map(u16::from_be)
}

fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(b.get(at..at + 4)?.try_into().ok()?))
}

fn v4_at(b: &[u8], at: usize) -> Option<IpAddr> {
    let a: [u8; 4] = b.get(at..at + 4)?.try_into().ok()?;
    Some(Ipv4Addr::from(a).into())
}

fn v6_at(b: &[u8], at: usize) -> Option<IpAddr> {
    let a: [u8; 16] = b.get(at..at + 16)?.try_into().ok()?;
    Some(Ipv6Addr::from(a).into())
}

fn text(b: &[u8]) -> &[u8] {
    &b[..b.iter().position(|&c| c == 0).unwrap_or(b.len())]
}

/// The offsets that differ between `struct ipt_entry` and `struct ip6t_entry`.
struct Layout {
    addr: usize,
    ifaces: usize,
    proto: usize,
    flags: usize,
    target_offset: usize,
    header: usize,
}

const V4: Layout = Layout {
    addr: 4,
    ifaces: 16,
    proto: 80,
    flags: 82,
    target_offset: 88,
    header: 112,
};

const V6: Layout = Layout {
    addr: 16,
    ifaces: 64,
    proto: 128,
    flags: 131,
    target_offset: 140,
    header: 168,
};

/// The priority of each legacy table at each hook. Base chains of `nat` rewrite at the priorities `NF_IP_PRI_NAT_*`.
fn priority(table: &[u8], hook: Hook) -> i32 {
    match (table, hook) {
        (b"raw", _) => NF_IP_PRI_RAW,
        (b"mangle", _) => NF_IP_PRI_MANGLE,
        (b"nat", Hook::Prerouting | Hook::Output) => NF_IP_PRI_NAT_DST,
        (b"nat", _) => NF_IP_PRI_NAT_SRC,
        (b"security", _) => NF_IP_PRI_SECURITY,
        _ => NF_IP_PRI_FILTER,
    }
}

/// The entries of a table as the kernel sends them. A cluster has tens of thousands of chains, and few are ever
/// decoded.
pub struct Entries {
    family: TableFamily,
    /// The answer of the kernel. The entries begin after [`ENTRIES_HEADER`] bytes.
    answer: Vec<u8>,
    /// In the order of their chains.
    all: Vec<XtEntry>,
    /// Chains by the offset of their first entry.
    starts: HashMap<usize, u32>,
}

impl Entries {
    /// Decodes the rules of a chain.
    pub fn decode(&self, table: &mut Table, chain: u32) -> Result<(), Malformed> {
        let into = table.chains.get_mut(chain as usize).ok_or(BAD)?;
        into.rules.clear();
        let first = self.all.partition_point(|e| e.chain < chain);
        for e in self.all[first..].iter().take_while(|e| e.chain == chain) {
            let l = layout(self.family);
            let entry = &self.answer[ENTRIES_HEADER..][e.at..e.end];
            let exprs = decode_entry(self.family, l, entry, e.target, e.at, &self.starts);
            let exprs = exprs.ok_or(BAD)??;
            if !e.tail {
                into.rules.push(Rule {
                    exprs: exprs.into(),
                    comment: None,
                });
            } else if let Some(base) = &mut into.base {
                base.drops = exprs.last() == Some(&Expr::Verdict(Verdict::Drop));
            }
        }
        Ok(())
    }

    /// Decodes the rules of all chains.
    pub fn decode_all(&self, table: &mut Table) -> Result<(), Malformed> {
        (0u32..)
            .zip(0..table.chains.len())
            .try_for_each(|(chain, _)| self.decode(table, chain))
    }
}

const BAD: Malformed = Malformed("table entry");

fn layout(family: TableFamily) -> &'static Layout {
    if family == TableFamily::Ip6 { &V6 } else { &V4 }
}

/// Finds the chains of a table. The entries begin after [`ENTRIES_HEADER`] bytes of the answer. Base chains are
/// decoded, and other chains are marked as not read.
pub fn open_table(
    family: TableFamily,
    name: &[u8],
    info: &Info,
    answer: Vec<u8>,
) -> Result<(Table, Entries), Malformed> {
    let l = layout(family);
    let blob = answer.get(ENTRIES_HEADER..).ok_or(BAD)?;
    // Entries by offset, and the chain of each entry. A chain begins at the entry of a hook or after an ERROR target.
    let mut chains: Vec<Chain> = Vec::new();
    let mut starts: HashMap<usize, u32> = HashMap::new();
    let mut entries: Vec<XtEntry> = Vec::new();
    let mut at = 0;
    let mut current: Option<u32> = None;
    let index = |n: usize| u32::try_from(n).map_err(|_| BAD);
    while at < blob.len() {
        let target = usize::from(u16_at(blob, at + l.target_offset).ok_or(BAD)?);
        let next = usize::from(u16_at(blob, at + l.target_offset + 2).ok_or(BAD)?);
        if next < l.header
            || target < l.header
            || target + XT_ENTRY_DATA > next
            || at + next > blob.len()
        {
            return Err(BAD);
        }
        let hook = (0..5).find(|&h| {
            info.valid_hooks >> h & 1 == 1 && info.hook_entry[h as usize] as usize == at
        });
        let error =
            text(&blob[at + target + XT_ENTRY_NAME..at + target + XT_ENTRY_REVISION]) == b"ERROR";
        // The last entry of a chain is its policy, or the RETURN that iptables adds to every chain.
        if (hook.is_some() || error)
            && let Some(last) = entries.last_mut()
        {
            last.tail = true;
        }
        if let Some(h) = hook {
            let hook = Hook::from_number(h);
            let name_of = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"][h as usize];
            current = Some(index(chains.len())?);
            starts.insert(at, index(chains.len())?);
            chains.push(Chain {
                name: name_of.as_bytes().into(),
                base: Some(Base {
                    hook,
                    priority: priority(name, hook),
                    nat: name == b"nat",
                    drops: false,
                }),
                devices: Box::default(),
                rules: Vec::new(),
            });
        }
        if error {
            let label = blob
                .get(at + target + XT_ENTRY_DATA..at + next)
                .ok_or(BAD)?;
            if at + next < blob.len() {
                current = Some(index(chains.len())?);
                starts.insert(at + next, index(chains.len())?);
                let mut chain = Chain {
                    name: text(label).into(),
                    base: None,
                    devices: Box::default(),
                    rules: Vec::new(),
                };
                chain.leave_unread();
                chains.push(chain);
            }
        } else {
            entries.push(XtEntry {
                at,
                target,
                end: at + next,
                chain: current.ok_or(BAD)?,
                tail: false,
            });
        }
        at += next;
    }
    let mut table = Table {
        backend: RuleStore::Legacy,
        family,
        name: name.into(),
        chains,
        sets: Vec::new(),
        goes_unannounced: false,
    };
    let entries = Entries {
        family,
        answer,
        all: entries,
        starts,
    };
    for (n, chain) in (0u32..).zip(0..table.chains.len()) {
        if table.chains[chain].base.is_some() {
            entries.decode(&mut table, n)?;
        }
    }
    Ok((table, entries))
}

/// The place of one entry in the answer.
struct XtEntry {
    at: usize,
    target: usize,
    end: usize,
    chain: u32,
    tail: bool,
}

/// The expressions of one entry. `None` if a length is wrong.
fn decode_entry(
    family: TableFamily,
    l: &Layout,
    entry: &[u8],
    target: usize,
    at: usize,
    starts: &HashMap<usize, u32>,
) -> Option<Result<Vec<Expr>, Malformed>> {
    let mut out = header(family, l, entry)?;
    let mut pos = l.header;
    while pos < target {
        let size = usize::from(u16_at(entry, pos)?);
        if size < XT_ENTRY_DATA || pos + size > target {
            return None;
        }
        let (name, revision, data) = extension(entry.get(pos..pos + size)?)?;
        out.push(Expr::Match(decode_match(name, revision, data)));
        pos += size;
    }
    let (name, revision, data) = extension(entry.get(target..)?)?;
    if !name.is_empty() {
        out.push(decode_target(name, revision, data, family));
        return Some(Ok(out));
    }
    let v6 = family == TableFamily::Ip6;
    let goto = entry.get(l.flags)? & if v6 { IP6T_F_GOTO } else { IPT_F_GOTO } != 0;
    let verdict = match u32_at(data, 0)?.cast_signed() {
        XT_RETURN => Verdict::Return,
        // -NF_ACCEPT - 1 and so on.
        code if code < 0 => match code.unsigned_abs() - 1 {
            NF_ACCEPT => Verdict::Accept,
            NF_QUEUE => Verdict::Queue(None),
            _ => Verdict::Drop,
        },
        offset => {
            let to = usize::try_from(offset).ok()?;
            if to == at + entry.len() {
                Verdict::Continue
            } else {
                match (starts.get(&to), goto) {
                    (None, _) => return Some(Err(Malformed("jump"))),
                    (Some(&c), true) => Verdict::Goto(c),
                    (Some(&c), false) => Verdict::Jump(c),
                }
            }
        }
    };
    out.push(Expr::Verdict(verdict));
    Some(Ok(out))
}

/// The name, the revision and the data of a match or target.
fn extension(bytes: &[u8]) -> Option<(&[u8], u8, &[u8])> {
    Some((
        text(bytes.get(XT_ENTRY_NAME..XT_ENTRY_REVISION)?),
        *bytes.get(XT_ENTRY_REVISION)?,
        bytes.get(XT_ENTRY_DATA..)?,
    ))
}

/// The tests in `struct ipt_ip` and `struct ip6t_ip6`.
fn header(family: TableFamily, l: &Layout, entry: &[u8]) -> Option<Vec<Expr>> {
    let v6 = family == TableFamily::Ip6;
    let flags = *entry.get(l.flags)?;
    let inverted = *entry.get(l.flags + 1)?;
    let mut out = Vec::new();
    for (n, side, bit) in [
        (0, Side::Source, IPT_INV_SRCIP),
        (1, Side::Destination, IPT_INV_DSTIP),
    ] {
        let address = |k: usize| {
            if v6 {
                v6_at(entry, k * l.addr)
            } else {
                v4_at(entry, k * l.addr)
            }
        };
        let (address, mask) = (address(n)?, address(n + 2)?);
        let invert = inverted & bit != 0;
        if invert || !mask.is_unspecified() {
            out.push(Match::Address {
                side,
                address,
                mask,
                invert,
            });
        }
    }
    for (n, side, bit) in [
        (0, Side::Source, IPT_INV_VIA_IN),
        (1, Side::Destination, IPT_INV_VIA_OUT),
    ] {
        let part = |k: usize| entry.get(l.ifaces + IFNAMSIZ * k..l.ifaces + IFNAMSIZ * (k + 1));
        let (name, mask) = (part(n)?, part(n + 2)?);
        let len = mask.iter().take_while(|&&m| m != 0).count();
        let invert = inverted & bit != 0;
        if len > 0 || invert {
            out.push(Match::Interface {
                side,
                prefix: name[..len].into(),
                invert,
            });
        }
    }
    let number = u16_at(entry, l.proto)?;
    let invert = inverted & IPT_INV_PROTO != 0;
    if number != 0 || invert {
        out.push(match u8::try_from(number) {
            Ok(number) => Match::Protocol { number, invert },
            Err(_) => Match::Header("protocol"),
        });
    }
    if !v6 && (flags & IPT_F_FRAG != 0 || inverted & IPT_INV_FRAG != 0) {
        out.push(Match::Header("fragment"));
    }
    if inverted & IPT_INV_TOS != 0 || v6 && flags & IP6T_F_TOS != 0 {
        out.push(Match::Header("tos"));
    }
    Some(out.into_iter().map(Expr::Match).collect())
}

/// Decodes a match by name and revision. An unknown match may hold or not.
pub fn decode_match(name: &[u8], revision: u8, data: &[u8]) -> Match {
    known_match(name, revision, data)
        .unwrap_or_else(|| Match::Other(format!("{} [...]", String::from_utf8_lossy(name)).into()))
}

/// The syntax of `-m statistic`, which may always hold.
fn statistic(d: &[u8]) -> Option<String> {
    let not = if u16_at(d, 2)? & XT_STATISTIC_INVERT != 0 {
        " !"
    } else {
        ""
    };
    Some(match u16_at(d, 0)? {
        XT_STATISTIC_MODE_RANDOM => {
            let probability = f64::from(u32_at(d, 4)?) / f64::from(1u32 << 31);
            format!("statistic --mode random{not} --probability {probability:.11}")
        }
        _ => format!(
            "statistic --mode nth{not} --every {} --packet {}",
            u64::from(u32_at(d, 4)?) + 1,
            u32_at(d, 8)?
        ),
    })
}

fn known_match(name: &[u8], revision: u8, d: &[u8]) -> Option<Match> {
    let byte = |at: usize| d.get(at).copied();
    Some(match (name, revision) {
        (b"comment", 0) => Match::Comment(text(d.get(..256.min(d.len()))?).into()),
        (b"mark", 1) => Match::Mark {
            value: u32_at(d, 0)?,
            mask: u32_at(d, 4)?,
            invert: byte(8)? != 0,
        },
        (b"addrtype", 0 | 1) => addrtype(revision, d)?,
        (b"conntrack", 1..=3) => conntrack(revision, d)?,
        (b"statistic", 0) => Match::Other(statistic(d)?.into()),
        (b"state", 0) => Match::State {
            states: u16::try_from(u32_at(d, 0)?).ok()?,
            invert: false,
        },
        (b"tcp", 0) => port_match(IPPROTO_TCP, d, byte(11)?, byte(8)? != 0 || byte(9)? != 0)?,
        (b"udp", 0) => port_match(IPPROTO_UDP, d, byte(8)?, false)?,
        (b"multiport", 1) => multiport(d)?,
        (b"set", 1..=4) => {
            let (dim, flags) = (byte(2)?, byte(3)?);
            Match::Set {
                index: u16_at(d, 0)?,
                sides: set_sides(dim, flags),
                invert: flags & IPSET_INV_MATCH != 0,
                more: revision >= 3 && set_options(revision, d)?,
            }
        }
        _ => return None,
    })
}

/// `struct xt_addrtype_info` and `struct xt_addrtype_info_v1`.
fn addrtype(revision: u8, d: &[u8]) -> Option<Match> {
    let flags = u32_at(d, 4)?;
    let (invert_source, invert_destination, limit) = if revision == 0 {
        (flags != 0, u32_at(d, 8)? != 0, None)
    } else {
        let limit = if flags & XT_ADDRTYPE_LIMIT_IFACE_OUT != 0 {
            Some(Side::Destination)
        } else if flags & XT_ADDRTYPE_LIMIT_IFACE_IN != 0 {
            Some(Side::Source)
        } else {
            None
        };
        let on = |bit| flags & bit != 0;
        let (source, destination) = (XT_ADDRTYPE_INVERT_SOURCE, XT_ADDRTYPE_INVERT_DEST);
        (on(source), on(destination), limit)
    };
    Some(Match::Addrtype {
        source: u16_at(d, 0)?,
        destination: u16_at(d, 2)?,
        invert_source,
        invert_destination,
        limit,
    })
}

/// `struct xt_conntrack_mtinfo1` to `3`, if it tests only the state.
fn conntrack(revision: u8, d: &[u8]) -> Option<Match> {
    let (flags, inverted, states) = (146, 148, 150);
    // The alias is the form of -m state.
    if u16_at(d, flags)? & !XT_CONNTRACK_STATE_ALIAS != XT_CONNTRACK_STATE {
        return None;
    }
    Some(Match::State {
        states: if revision == 1 {
            (*d.get(states)?).into()
        } else {
            u16_at(d, states)?
        },
        invert: u16_at(d, inverted)? & XT_CONNTRACK_STATE != 0,
    })
}

/// The common beginning of `struct xt_tcp` and `struct xt_udp`.
fn port_match(protocol: u8, d: &[u8], inverted: u8, more: bool) -> Option<Match> {
    Some(Match::Ports {
        protocol,
        source: (u16_at(d, 0)?, u16_at(d, 2)?),
        destination: (u16_at(d, 4)?, u16_at(d, 6)?),
        invert_source: inverted & XT_PORT_INV_SRCPT != 0,
        invert_destination: inverted & XT_PORT_INV_DSTPT != 0,
        more,
    })
}

/// `struct xt_multiport_v1`: flags, count, ports, the starts of ranges, invert.
fn multiport(d: &[u8]) -> Option<Match> {
    let (ports, begins) = (2, 2 + 2 * XT_MULTI_PORTS);
    let side = match *d.first()? {
        XT_MULTIPORT_SOURCE => Some(Side::Source),
        XT_MULTIPORT_DESTINATION => Some(Side::Destination),
        XT_MULTIPORT_EITHER => None,
        _ => return None,
    };
    let mut ranges = Vec::new();
    let mut n = 0;
    let count = usize::from(*d.get(1)?).min(XT_MULTI_PORTS);
    while n < count {
        let low = u16_at(d, ports + 2 * n)?;
        let mut high = low;
        if *d.get(begins + n)? != 0 && n + 1 < count {
            n += 1;
            high = u16_at(d, ports + 2 * n)?;
        }
        ranges.push((low, high));
        n += 1;
    }
    Some(Match::Multiport {
        side,
        ranges: ranges.into(),
        invert: *d.get(begins + XT_MULTI_PORTS)? != 0,
    })
}

/// Bit n of the flags means that dimension n tests the source. Bit 0 is `IPSET_INV_MATCH`.
fn set_sides(dim: u8, flags: u8) -> Box<[Side]> {
    let side = |n| match flags >> n & 1 {
        1 => Side::Source,
        _ => Side::Destination,
    };
    (1..=dim.min(6)).map(side).collect()
}

/// The target SET of revision 1 to 3. `None` if it also sets the mark, which only revision 3 can.
fn set_target(revision: u8, d: &[u8]) -> Option<Expr> {
    let mut updates = Vec::new();
    let mut options = String::new();
    let (flags, timeout) = match revision {
        1 => (0, u32::MAX),
        2 => (u32_at(d, 8)?, u32_at(d, 12)?),
        _ => (u32_at(d, 12)?, u32_at(d, 16)?),
    };
    if flags & IPSET_FLAG_MAP_SKBMARK != 0 {
        return None;
    }
    let sets = if revision < 3 { 2 } else { 3 };
    let names = ["--add-set", "--del-set", "--map-set"];
    for (n, option) in names.into_iter().enumerate().take(sets) {
        let index = u16_at(d, 4 * n)?;
        if index != IPSET_INVALID_ID {
            updates.push(IpsetUpdate {
                option,
                index,
                sides: set_sides(*d.get(4 * n + 2)?, *d.get(4 * n + 3)?),
            });
        }
    }
    for (flag, word) in [
        (IPSET_FLAG_EXIST, " --exist"),
        (IPSET_FLAG_MAP_SKBPRIO, " --map-prio"),
        (IPSET_FLAG_MAP_SKBQUEUE, " --map-queue"),
    ] {
        if flags & flag != 0 {
            options.push_str(word);
        }
    }
    if timeout != u32::MAX && updates.iter().any(|u| u.option == "--add-set") {
        let _ = write!(options, " --timeout {timeout}");
    }
    Some(Expr::UpdateIpsets {
        updates: updates.into(),
        options: options.into(),
    })
}

/// The target TEE in iptables syntax: gateway and output device.
fn tee(d: &[u8], v6: bool) -> Option<Box<str>> {
    let gateway = if v6 { v6_at(d, 0) } else { v4_at(d, 0) }?;
    let mut out = format!("TEE --gateway {gateway}");
    let device = text(d.get(16..16 + IFNAMSIZ)?);
    if !device.is_empty() {
        let _ = write!(out, " --oif {}", String::from_utf8_lossy(device));
    }
    Some(out.into())
}

/// The target NFQUEUE of revision 0 to 3.
fn nfqueue(revision: u8, d: &[u8]) -> Option<Verdict> {
    let first = u16_at(d, 0)?;
    let total = if revision == 0 { 1 } else { u16_at(d, 2)? };
    let flags = if revision < 2 { 0 } else { u16_at(d, 4)? };
    Some(Verdict::Queue(Some(Queue {
        first,
        last: first.saturating_add(total.saturating_sub(1)),
        bypass: flags & NFQ_FLAG_BYPASS != 0,
        fanout: flags & NFQ_FLAG_CPU_FANOUT != 0,
    })))
}

/// True if a set match also tests counters or `nomatch`: it has operators or flags that change its result.
fn set_options(revision: u8, d: &[u8]) -> Option<bool> {
    // v3 has {set 4, pad 4, twice {operator 1, pad 7, value 8}, flags 4}; v4 has the operator after the value.
    let (ops, flags) = if revision == 3 {
        ([8, 24], 40)
    } else {
        ([16, 32], 40)
    };
    // These two flags do not change the result.
    let skip = IPSET_FLAG_SKIP_COUNTER_UPDATE | IPSET_FLAG_SKIP_SUBCOUNTER_UPDATE;
    let mut more = u32_at(d, flags)? & !skip != 0;
    for op in ops {
        more |= *d.get(op)? != 0;
    }
    Some(more)
}

/// Decodes a target by name and revision. Does not handle the standard target (an empty name).
pub fn decode_target(name: &[u8], revision: u8, data: &[u8], family: TableFamily) -> Expr {
    known_target(name, revision, data, family)
        .unwrap_or_else(|| Expr::Opaque(String::from_utf8_lossy(name).into()))
}

fn known_target(name: &[u8], revision: u8, d: &[u8], family: TableFamily) -> Option<Expr> {
    let v6 = family == TableFamily::Ip6;
    let nat = |kind, v6_revision: bool| {
        let nat = if v6_revision {
            nat_range(kind, d, v6)
        } else {
            nat_compat(kind, d)
        };
        nat.map(Expr::Nat)
    };
    Some(match (name, revision) {
        (b"MARK", 2) => Expr::Mark {
            value: u32_at(d, 0)?,
            mask: u32_at(d, 4)?,
        },
        (b"CONNMARK", 1 | 2) => {
            let (value, from, mask) = (u32_at(d, 0)?, u32_at(d, 4)?, u32_at(d, 8)?);
            let (shift, mode) = if revision == 1 {
                (0, *d.get(12)?)
            } else {
                (*d.get(13)?, *d.get(14)?)
            };
            Expr::Connmark(match mode {
                // The analysis does not follow shifts of the masks.
                _ if shift != 0 => Connmark::of(mode, u32::MAX, u32::MAX, u32::MAX)?,
                _ => Connmark::of(mode, value, from, mask)?,
            })
        }
        // It also accepts, but before all hooks of the analysis.
        (b"TPROXY", 0 | 1) => Expr::Mark {
            value: u32_at(d, 4)?,
            mask: u32_at(d, 0)?,
        },
        (b"MASQUERADE", 0) => nat(NatKind::Masquerade, v6)?,
        (b"REDIRECT", 0) => nat(NatKind::Redirect, v6)?,
        (b"NETMAP", 0) => nat(NatKind::Netmap, v6)?,
        (b"SNAT", 0) => nat(NatKind::Snat, false)?,
        (b"DNAT", 0) => nat(NatKind::Dnat, false)?,
        (b"SNAT", 1 | 2) => nat(NatKind::Snat, true)?,
        (b"DNAT", 1 | 2) => nat(NatKind::Dnat, true)?,
        (b"NOTRACK", 0) => Expr::Untrack,
        (b"CT", 0..=2) if u16_at(d, 0)? & XT_CT_NOTRACK != 0 => Expr::Untrack,
        (b"CT", 0..=2) => Expr::Template,
        (b"SET", 1..=3) => set_target(revision, d)?,
        (b"NFQUEUE", 0..=3) => Expr::Verdict(nfqueue(revision, d)?),
        // An unknown revision queues too.
        (b"NFQUEUE" | b"QUEUE", _) => Expr::Verdict(Verdict::Queue(None)),
        (b"TEE", 1) => Expr::Copy(tee(d, v6)?),
        (b"REJECT" | b"TARPIT", _) => Expr::Verdict(Verdict::Drop),
        (
            b"LOG" | b"NFLOG" | b"ULOG" | b"TRACE" | b"AUDIT" | b"TCPMSS" | b"CHECKSUM"
            | b"CLASSIFY" | b"DSCP" | b"TOS" | b"TTL" | b"HL" | b"ECN" | b"SECMARK"
            | b"CONNSECMARK" | b"TCPOPTSTRIP" | b"RATEEST" | b"IDLETIMER" | b"LED" | b"SYNPROXY",
            _,
        ) => Expr::Neutral(String::from_utf8_lossy(name).into()),
        _ => return None,
    })
}

/// `struct nf_nat_ipv4_multi_range_compat`. The kernel accepts one range in it.
fn nat_compat(kind: NatKind, d: &[u8]) -> Option<Nat> {
    if u32_at(d, 0)? != 1 {
        return None;
    }
    let flags = u32_at(d, 4)?;
    Some(Nat {
        kind,
        flags,
        addresses: (flags & NF_NAT_RANGE_MAP_IPS != 0).then_some((v4_at(d, 8)?, v4_at(d, 12)?)),
        ports: (flags & NF_NAT_RANGE_PROTO_SPECIFIED != 0)
            .then_some((be16_at(d, 16)?, be16_at(d, 18)?)),
    })
}

/// `struct nf_nat_range` and the beginning of `struct nf_nat_range2`.
fn nat_range(kind: NatKind, d: &[u8], v6: bool) -> Option<Nat> {
    let flags = u32_at(d, 0)?;
    let address = |at| if v6 { v6_at(d, at) } else { v4_at(d, at) };
    Some(Nat {
        kind,
        flags,
        addresses: (flags & NF_NAT_RANGE_MAP_IPS != 0).then_some((address(4)?, address(20)?)),
        ports: (flags & NF_NAT_RANGE_PROTO_SPECIFIED != 0)
            .then_some((be16_at(d, 36)?, be16_at(d, 38)?)),
    })
}

#[cfg(test)]
mod tests;
