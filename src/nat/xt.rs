//! The binary rules of xtables: `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES` of iptables-legacy, and the matches and targets that
//! iptables-nft puts into `nf_tables` rules.
//!
//! Owns these layouts, which depend on the machine's byte order and (in padding) its word size. May not do I/O; never panics,
//! whatever the bytes are.
//!
//! <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/netfilter_ipv4/ip_tables.h#L74>
//! <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/netfilter_ipv6/ip6_tables.h#L81>

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::collections::HashMap;
use std::fmt::Write as _;

use super::rules::{
    Backend, Base, Chain, Connmark, Expr, Family, Hook, IpsetUpdate, Match, Nat, NatKind, Queue,
    Rule, Side, Table, Verdict,
};
use super::uapi::{
    IPSET_FLAG_EXIST, IPSET_FLAG_MAP_SKBMARK, IPSET_FLAG_MAP_SKBPRIO, IPSET_FLAG_MAP_SKBQUEUE,
    IPSET_INVALID_ID, NFQ_FLAG_BYPASS, NFQ_FLAG_CPU_FANOUT,
};
use crate::fault::Malformed;

/// `sizeof(struct ipt_getinfo)`, and of ip6t.
pub const INFO_LEN: usize = 84;
/// `sizeof(struct ipt_get_entries)`: what comes before the entries.
pub const ENTRIES_HEADER: usize = 40;
/// `XT_TABLE_MAXNAMELEN`.
pub const TABLE_NAME: usize = 32;

/// `struct ipt_getinfo`, the parts needed here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Bit n: the table hangs at `NF_INET_*` n.
    pub valid_hooks: u32,
    /// Offset of each hook's first entry.
    pub hook_entry: [u32; 5],
    /// Offset of each hook's policy.
    pub underflow: [u32; 5],
    /// How many entries follow.
    pub entries: u32,
    /// How many bytes they have.
    pub size: u32,
}

/// Reads what `IPT_SO_GET_INFO` gave.
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

/// The request for `IPT_SO_GET_ENTRIES`, with room for the answer.
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

/// The offsets in `struct ipt_entry` and `struct ip6t_entry`, where they differ.
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

/// Where each legacy table is hooked in: base chains of `nat` rewrite at the priorities of `NF_IP_PRI_NAT_*`.
fn priority(table: &[u8], hook: Hook) -> i32 {
    match (table, hook) {
        (b"raw", _) => -300,
        (b"mangle", _) => -150,
        (b"nat", Hook::Prerouting | Hook::Output) => -100,
        (b"nat", _) => 100,
        (b"security", _) => 50,
        _ => 0,
    }
}

/// Reads the entries of one table, which begin after [`ENTRIES_HEADER`] bytes of the kernel's answer.
pub fn decode_table(
    family: Family,
    name: &[u8],
    info: &Info,
    blob: &[u8],
) -> Result<Table, Malformed> {
    const BAD: Malformed = Malformed("table entry");
    let l = if family == Family::Ip6 { &V6 } else { &V4 };
    // Entries by offset, and which chain each belongs to: a chain begins at a hook's entry or after an ERROR target.
    let mut chains: Vec<Chain> = Vec::new();
    let mut starts: HashMap<usize, u32> = HashMap::new();
    let mut entries: Vec<Entry> = Vec::new();
    let mut at = 0;
    let mut current: Option<u32> = None;
    let index = |n: usize| u32::try_from(n).map_err(|_| BAD);
    while at < blob.len() {
        let target = usize::from(u16_at(blob, at + l.target_offset).ok_or(BAD)?);
        let next = usize::from(u16_at(blob, at + l.target_offset + 2).ok_or(BAD)?);
        if next < l.header || target < l.header || target + 32 > next || at + next > blob.len() {
            return Err(BAD);
        }
        let hook = (0..5).find(|&h| {
            info.valid_hooks >> h & 1 == 1 && info.hook_entry[h as usize] as usize == at
        });
        let error = text(&blob[at + target + 2..at + target + 31]) == b"ERROR";
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
            let label = blob.get(at + target + 32..at + next).ok_or(BAD)?;
            if at + next < blob.len() {
                current = Some(index(chains.len())?);
                starts.insert(at + next, index(chains.len())?);
                chains.push(Chain {
                    name: text(label).into(),
                    base: None,
                    devices: Box::default(),
                    rules: Vec::new(),
                });
            }
        } else {
            entries.push(Entry {
                at,
                target,
                end: at + next,
                chain: current.ok_or(BAD)?,
                tail: false,
            });
        }
        at += next;
    }
    for e in entries {
        let chain = chains.get_mut(e.chain as usize).ok_or(BAD)?;
        let exprs =
            decode_entry(family, l, &blob[e.at..e.end], e.target, e.at, &starts).ok_or(BAD)??;
        if !e.tail {
            chain.rules.push(Rule {
                exprs: exprs.into(),
                comment: None,
            });
        } else if let Some(base) = &mut chain.base {
            base.drops = exprs.last() == Some(&Expr::Verdict(Verdict::Drop));
        }
    }
    Ok(Table {
        backend: Backend::Legacy,
        family,
        name: name.into(),
        chains,
        sets: Vec::new(),
    })
}

/// Where one entry is in the blob.
struct Entry {
    at: usize,
    target: usize,
    end: usize,
    chain: u32,
    tail: bool,
}

/// The expressions of one entry; None if a length is wrong.
fn decode_entry(
    family: Family,
    l: &Layout,
    entry: &[u8],
    target: usize,
    at: usize,
    starts: &HashMap<usize, u32>,
) -> Option<Result<Vec<Expr>, Malformed>> {
    let v6 = family == Family::Ip6;
    let flags = *entry.get(l.flags)?;
    let inverted = *entry.get(l.flags + 1)?;
    let mut out = Vec::new();
    for (n, side) in [Side::Source, Side::Destination].into_iter().enumerate() {
        let address = |k: usize| {
            if v6 {
                v6_at(entry, k * l.addr)
            } else {
                v4_at(entry, k * l.addr)
            }
        };
        let (address, mask) = (address(n)?, address(n + 2)?);
        let invert = inverted >> (3 + n) & 1 == 1;
        if invert || !mask.is_unspecified() {
            out.push(Expr::Match(Match::Address {
                side,
                address,
                mask,
                invert,
            }));
        }
    }
    for (n, side) in [Side::Source, Side::Destination].into_iter().enumerate() {
        let name = entry.get(l.ifaces + 16 * n..l.ifaces + 16 * n + 16)?;
        let mask = entry.get(l.ifaces + 32 + 16 * n..l.ifaces + 48 + 16 * n)?;
        let len = mask.iter().take_while(|&&m| m != 0).count();
        let invert = inverted >> n & 1 == 1;
        if len > 0 || invert {
            out.push(Expr::Match(Match::Interface {
                side,
                prefix: name[..len].into(),
                invert,
            }));
        }
    }
    let number = u16_at(entry, l.proto)?;
    if number != 0 || inverted & 0x40 != 0 {
        out.push(Expr::Match(match u8::try_from(number) {
            Ok(number) => Match::Protocol {
                number,
                invert: inverted & 0x40 != 0,
            },
            Err(_) => Match::Header("protocol"),
        }));
    }
    // IPT_F_FRAG is 1 and IPT_INV_FRAG 0x20; ip6t's flag 2 is a type of service.
    if !v6 && (flags & 1 != 0 || inverted & 0x20 != 0) {
        out.push(Expr::Match(Match::Header("fragment")));
    }
    if inverted & 4 != 0 || v6 && flags & 2 != 0 {
        out.push(Expr::Match(Match::Header("tos")));
    }
    let goto = flags & if v6 { 4 } else { 2 } != 0;
    let mut pos = l.header;
    while pos < target {
        let size = usize::from(u16_at(entry, pos)?);
        if size < 32 || pos + size > target {
            return None;
        }
        let name = text(entry.get(pos + 2..pos + 31)?);
        out.push(Expr::Match(decode_match(
            name,
            entry[pos + 31],
            &entry[pos + 32..pos + size],
        )));
        pos += size;
    }
    let name = text(entry.get(target + 2..target + 31)?);
    let data = entry.get(target + 32..)?;
    if name.is_empty() {
        let code = u32_at(data, 0)?.cast_signed();
        out.push(Expr::Verdict(match code {
            -2 => Verdict::Accept,
            -4 => Verdict::Queue(None),
            -5 => Verdict::Return,
            // DROP is -1; the kernel takes no other.
            n if n < 0 => Verdict::Drop,
            n => {
                let to = usize::try_from(n).ok()?;
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
        }));
    } else {
        out.push(decode_target(name, entry[target + 31], data, family));
    }
    Some(Ok(out))
}

/// A match by name and revision: whatever is not known here may hold or not.
pub fn decode_match(name: &[u8], revision: u8, data: &[u8]) -> Match {
    known_match(name, revision, data)
        .unwrap_or_else(|| Match::Other(format!("{} [...]", String::from_utf8_lossy(name)).into()))
}

/// `-m statistic` may always hold; this is how it is written.
fn statistic(d: &[u8]) -> Option<String> {
    let not = if u16_at(d, 2)? & 1 != 0 { " !" } else { "" };
    Some(match u16_at(d, 0)? {
        0 => {
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
        (b"addrtype", 0) => Match::Addrtype {
            source: u16_at(d, 0)?,
            destination: u16_at(d, 2)?,
            invert_source: u32_at(d, 4)? != 0,
            invert_destination: u32_at(d, 8)? != 0,
            limit: None,
        },
        (b"addrtype", 1) => {
            let flags = u32_at(d, 4)?;
            Match::Addrtype {
                source: u16_at(d, 0)?,
                destination: u16_at(d, 2)?,
                invert_source: flags & 1 != 0,
                invert_destination: flags & 2 != 0,
                limit: match flags & 0xc {
                    0 => None,
                    4 => Some(Side::Source),
                    _ => Some(Side::Destination),
                },
            }
        }
        // The state and nothing else: XT_CONNTRACK_STATE is 1, XT_CONNTRACK_STATE_ALIAS (the form of -m state) 1 << 13.
        (b"conntrack", 1..=3) => {
            let flags = u16_at(d, 146)?;
            if flags & !0x2000 != 1 {
                return None;
            }
            Match::State {
                states: if revision == 1 {
                    byte(150)?.into()
                } else {
                    u16_at(d, 150)?
                },
                invert: u16_at(d, 148)? & 1 != 0,
            }
        }
        (b"statistic", 0) => Match::Other(statistic(d)?.into()),
        (b"state", 0) => Match::State {
            states: u16::try_from(u32_at(d, 0)?).ok()?,
            invert: false,
        },
        (b"tcp", 0) => Match::Ports {
            protocol: 6,
            source: (u16_at(d, 0)?, u16_at(d, 2)?),
            destination: (u16_at(d, 4)?, u16_at(d, 6)?),
            invert_source: byte(11)? & 1 != 0,
            invert_destination: byte(11)? & 2 != 0,
            more: byte(8)? != 0 || byte(9)? != 0,
        },
        (b"udp", 0) => Match::Ports {
            protocol: 17,
            source: (u16_at(d, 0)?, u16_at(d, 2)?),
            destination: (u16_at(d, 4)?, u16_at(d, 6)?),
            invert_source: byte(8)? & 1 != 0,
            invert_destination: byte(8)? & 2 != 0,
            more: false,
        },
        (b"multiport", 1) => {
            let side = match byte(0)? {
                0 => Some(Side::Source),
                1 => Some(Side::Destination),
                2 => None,
                _ => return None,
            };
            let mut ranges = Vec::new();
            let mut n = 0;
            let count = usize::from(byte(1)?).min(15);
            while n < count {
                let low = u16_at(d, 2 + 2 * n)?;
                let mut high = low;
                if byte(32 + n)? != 0 && n + 1 < count {
                    n += 1;
                    high = u16_at(d, 2 + 2 * n)?;
                }
                ranges.push((low, high));
                n += 1;
            }
            Match::Multiport {
                side,
                ranges: ranges.into(),
                invert: byte(47)? != 0,
            }
        }
        (b"set", 1..=4) => {
            let (dim, flags) = (byte(2)?, byte(3)?);
            Match::Set {
                index: u16_at(d, 0)?,
                sides: set_sides(dim, flags),
                invert: flags & 1 != 0,
                more: revision >= 3 && set_options(revision, d)?,
            }
        }
        _ => return None,
    })
}

/// Bit n of the flags says that dimension n looks at the source; bit 0 is `IPSET_INV_MATCH`.
fn set_sides(dim: u8, flags: u8) -> Box<[Side]> {
    let side = |n| match flags >> n & 1 {
        1 => Side::Source,
        _ => Side::Destination,
    };
    (1..=dim.min(6)).map(side).collect()
}

/// The target SET of revision 1 to 3; `None` if it also sets the mark, which only revision 3 can.
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

/// Whether a set match also looks at counters or `nomatch`: that is, has operators or flags that change its result.
fn set_options(revision: u8, d: &[u8]) -> Option<bool> {
    // v3 has {set 4, pad 4, twice {operator 1, pad 7, value 8}, flags 4}; v4 has the operator after the value.
    let (ops, flags) = if revision == 3 {
        ([8, 24], 40)
    } else {
        ([16, 32], 40)
    };
    // IPSET_FLAG_SKIP_COUNTER_UPDATE and its kin (bits 3 and 4) do not change the result.
    let mut more = u32_at(d, flags)? & !0x18 != 0;
    for op in ops {
        more |= *d.get(op)? != 0;
    }
    Some(more)
}

/// A target by name and revision. The standard target (an empty name) is not handled here.
pub fn decode_target(name: &[u8], revision: u8, data: &[u8], family: Family) -> Expr {
    known_target(name, revision, data, family)
        .unwrap_or_else(|| Expr::Opaque(String::from_utf8_lossy(name).into()))
}

fn known_target(name: &[u8], revision: u8, d: &[u8], family: Family) -> Option<Expr> {
    let v6 = family == Family::Ip6;
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
                // What a shift makes of the masks is not followed.
                _ if shift != 0 => Connmark::of(mode, u32::MAX, u32::MAX, u32::MAX)?,
                _ => Connmark::of(mode, value, from, mask)?,
            })
        }
        // It also accepts, before any hook that is looked at here.
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
        (b"CT", 0..=2) if u16_at(d, 0)? & 1 != 0 => Expr::Untrack,
        (b"CT", 0..=2) => Expr::Neutral("CT".into()),
        (b"SET", 1..=3) => set_target(revision, d)?,
        (b"NFQUEUE", 0..=3) => Expr::Verdict(nfqueue(revision, d)?),
        // A revision that is not known queues all the same.
        (b"NFQUEUE" | b"QUEUE", _) => Expr::Verdict(Verdict::Queue(None)),
        (b"REJECT" | b"TARPIT", _) => Expr::Verdict(Verdict::Drop),
        (
            b"LOG" | b"NFLOG" | b"ULOG" | b"TRACE" | b"AUDIT" | b"TCPMSS" | b"CHECKSUM"
            | b"CLASSIFY" | b"DSCP" | b"TOS" | b"TTL" | b"HL" | b"ECN" | b"SECMARK"
            | b"CONNSECMARK" | b"TCPOPTSTRIP" | b"RATEEST" | b"IDLETIMER" | b"LED" | b"TEE"
            | b"SYNPROXY",
            _,
        ) => Expr::Neutral(String::from_utf8_lossy(name).into()),
        _ => return None,
    })
}

/// `struct nf_nat_ipv4_multi_range_compat`, of which the kernel accepts one range.
fn nat_compat(kind: NatKind, d: &[u8]) -> Option<Nat> {
    if u32_at(d, 0)? != 1 {
        return None;
    }
    let flags = u32_at(d, 4)?;
    Some(Nat {
        kind,
        flags,
        addresses: (flags & 1 != 0).then_some((v4_at(d, 8)?, v4_at(d, 12)?)),
        ports: (flags & 2 != 0).then_some((be16_at(d, 16)?, be16_at(d, 18)?)),
    })
}

/// `struct nf_nat_range` and the beginning of `struct nf_nat_range2`.
fn nat_range(kind: NatKind, d: &[u8], v6: bool) -> Option<Nat> {
    let flags = u32_at(d, 0)?;
    let address = |at| if v6 { v6_at(d, at) } else { v4_at(d, at) };
    Some(Nat {
        kind,
        flags,
        addresses: (flags & 1 != 0).then_some((address(4)?, address(20)?)),
        ports: (flags & 2 != 0).then_some((be16_at(d, 36)?, be16_at(d, 38)?)),
    })
}

#[cfg(test)]
mod tests;
