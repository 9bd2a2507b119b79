//! The packet-filter rules of one network namespace, as far as NAT and marks depend on them.
//!
//! Owns the model. `nat::nft`, `nat::xt` and `nat::read_io` fill it, and the analysis reads it. Names are bytes of the
//! kernel; code that prints them escapes them. Pure.

use core::net::IpAddr;

use super::uapi::{
    NFPROTO_ARP, NFPROTO_BRIDGE, NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6, NFPROTO_NETDEV,
    XT_CONNMARK_RESTORE, XT_CONNMARK_SAVE, XT_CONNMARK_SET,
};
use crate::fault::Fault;

/// The rules that were read, and the parts that could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatRules {
    /// Tables of `nf_tables` and of xtables.
    pub tables: Vec<Table>,
    /// The contents of the ipsets, if a rule names one.
    pub ipsets: Vec<IpSet>,
    /// `ipsets` has all ipsets.
    pub ipsets_known: bool,
    /// Replies, and packets of a socket that accepted a connection, get the mark of the packet that they answer:
    /// `fwmark_reflect`, `tcp_fwmark_accept`.
    ///
    /// <https://docs.kernel.org/networking/ip-sysctl.html>
    pub marks_are_answered: bool,
    /// No rule copies packets (TEE, or nft's `dup`). Known without reading the rules.
    pub no_copies: bool,
    /// Parts that could not be read. If there is one, no device is not-exposed.
    pub unread: Vec<Fault>,
}

impl NatRules {
    /// Marks the ipsets that a rule changes. Call it when everything is read.
    pub fn mark_updated_ipsets(&mut self) {
        let mut updated: Vec<u16> = Vec::new();
        for e in self
            .tables
            .iter()
            .flat_map(|t| &t.chains)
            .flat_map(|c| &c.rules)
            .flat_map(|r| &r.exprs)
        {
            if let Expr::UpdateIpsets { updates, .. } = e {
                updated.extend(updates.iter().map(|u| u.index));
            }
        }
        for set in &mut self.ipsets {
            set.dynamic |= updated.contains(&set.index);
        }
    }

    /// True if rules, or sets that rules use, were not read. A set that no rule uses is never read, and does not matter.
    pub fn is_partial(&self) -> bool {
        let open = |t: &Table| {
            let unread = |set: &Option<u32>| {
                let set = set.and_then(|set| t.sets.get(set as usize));
                set.is_some_and(|set| set.elements.is_none())
            };
            let mut exprs = t
                .chains
                .iter()
                .flat_map(|c| &c.rules)
                .flat_map(|r| &r.exprs);
            t.chains.iter().any(Chain::is_unread)
                || exprs.any(|e| matches!(e, Expr::Lookup { set, .. } if unread(set)))
        };
        self.tables.iter().any(open)
    }

    /// True if a part of the rules changes without an event: iptables-legacy, tables that a process owns, and ipsets.
    pub fn changes_unannounced(&self) -> bool {
        let unannounced = |t: &Table| t.backend == RuleStore::Legacy || t.goes_unannounced;
        self.tables.iter().any(unannounced) || self.uses_ipsets()
    }

    /// True if a rule tests an ipset.
    pub fn uses_ipsets(&self) -> bool {
        let chains = self.tables.iter().flat_map(|t| &t.chains);
        let mut exprs = chains.flat_map(|c| &c.rules).flat_map(|r| &r.exprs);
        exprs.any(|e| matches!(e, Expr::Match(Match::Set { .. })))
    }
}

/// The kernel interface of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RuleStore {
    /// The tables of `iptables-legacy`.
    Legacy,
    /// `nf_tables`, which also holds the tables of `iptables-nft`.
    NfTables,
}

/// The packets that pass a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TableFamily {
    Ip,
    Ip6,
    /// IPv4 and IPv6.
    Inet,
    /// arp, bridge, netdev (`NFPROTO_*`): no NAT, but they can set marks.
    Other(u8),
}

impl TableFamily {
    /// Takes `NFPROTO_*`.
    pub fn from_nfproto(n: u8) -> Self {
        match n {
            NFPROTO_IPV4 => Self::Ip,
            NFPROTO_IPV6 => Self::Ip6,
            NFPROTO_INET => Self::Inet,
            n => Self::Other(n),
        }
    }

    /// The word in nft(8).
    pub fn word(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
            Self::Other(NFPROTO_ARP) => "arp",
            Self::Other(NFPROTO_NETDEV) => "netdev",
            Self::Other(NFPROTO_BRIDGE) => "bridge",
            Self::Other(_) => "unknown",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub backend: RuleStore,
    pub family: TableFamily,
    pub name: Box<[u8]>,
    /// Jumps name chains by their index here.
    pub chains: Vec<Chain>,
    /// Sets and maps. Lookups name them by their index here.
    pub sets: Vec<Set>,
    /// The table disappears when the process that owns it closes its socket. The kernel sends no message for that, and
    /// the generation stays the same.
    ///
    /// <https://github.com/torvalds/linux/blob/v6.12/net/netfilter/nf_tables_api.c> (`nft_rcv_nl_event`)
    pub goes_unannounced: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub name: Box<[u8]>,
    /// The hook that calls the chain. `None` if only other chains call it.
    pub base: Option<Base>,
    /// The devices of a chain in the family netdev, as in [`Match::Interface`]. Empty for any device.
    pub devices: Box<[Box<[u8]>]>,
    pub rules: Vec<Rule>,
}

/// Stands for the rules of a chain that was not read and may do anything.
const NOT_READ: &str = "a chain that was not read";

impl Chain {
    /// Marks the rules of the chain as not read.
    pub fn leave_unread(&mut self) {
        self.rules = vec![Rule {
            exprs: [Expr::Opaque(NOT_READ.into())].into(),
            comment: None,
        }];
    }

    /// Removes all rules.
    pub fn clear(&mut self) {
        self.rules.clear();
    }

    /// True if the rules of the chain were not read.
    pub fn is_unread(&self) -> bool {
        matches!(&self.rules[..], [Rule { exprs, .. }] if matches!(&exprs[..], [Expr::Opaque(name)] if **name == *NOT_READ))
    }
}

/// A part of the rules that an analysis reached and that was not read. Index of the table, index in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Need {
    Chain(usize, u32),
    Set(usize, u32),
}

/// The hooks of the IP stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// `NF_INET_PRE_ROUTING`.
    Prerouting,
    /// `NF_INET_LOCAL_IN`.
    Input,
    /// `NF_INET_FORWARD`.
    Forward,
    /// `NF_INET_LOCAL_OUT`.
    Output,
    /// `NF_INET_POST_ROUTING`.
    Postrouting,
    /// `NF_NETDEV_EGRESS`: after the IP stack, on the path into a device.
    Egress,
    /// Ingress, and hooks of other families.
    Other,
}

impl Hook {
    /// Takes `NF_INET_*`.
    pub fn from_number(n: u32) -> Self {
        [
            Self::Prerouting,
            Self::Input,
            Self::Forward,
            Self::Output,
            Self::Postrouting,
        ]
        .get(n as usize)
        .copied()
        .unwrap_or(Self::Other)
    }
}

/// The hook of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    pub hook: Hook,
    /// Lower values run earlier.
    pub priority: i32,
    /// The chain has the type nat. Only such chains rewrite, and only the first packet of a connection passes them.
    pub nat: bool,
    /// The policy is drop.
    pub drops: bool,
}

/// One rule: expressions from left to right. Each can end the rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub exprs: Box<[Expr]>,
    /// The comment that nft stores with a rule. iptables has [`Match::Comment`].
    pub comment: Option<Box<[u8]>>,
}

/// A byte offset into the 64 bytes of `nf_tables` registers.
pub type Reg = u8;

/// One expression of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    Match(Match),
    Verdict(Verdict),
    /// mark = (mark & !mask) ^ value: the iptables target MARK.
    Mark {
        /// Bits to flip after clearing.
        value: u32,
        /// Bits to clear.
        mask: u32,
    },
    /// The iptables target CONNMARK.
    Connmark(Connmark),
    /// An iptables target that rewrites.
    Nat(Nat),
    /// nft's `snat`, `dnat`, `masquerade` and `redirect`, with address and ports in registers.
    NatRegs(NatRegs),
    /// The packet is not tracked, so it passes no nat chain.
    Untrack,
    /// nft's `ct zone set`, and the target CT with an option: gives the packet a template of connection tracking. The
    /// packet is tracked, also after `notrack` before it (nft), and `notrack` behind it has no effect.
    ///
    /// <https://github.com/torvalds/linux/blob/v6.12/net/netfilter/nft_ct.c> (`nft_ct_set_zone_eval`, `nft_notrack_eval`)
    Template,
    /// nft's `ct mark set`.
    SetConnmark {
        from: Reg,
    },
    /// nft's `add`, `update` or `delete` of an element. It may end the rule, and it fills no register.
    UpdateSet {
        /// Index of the set in the table; `None` if it was not read.
        set: Option<u32>,
    },
    /// The iptables target SET, which changes ipsets.
    UpdateIpsets {
        updates: Box<[IpsetUpdate]>,
        /// The other options that iptables-save(8) prints.
        options: Box<str>,
    },
    /// TEE, or nft's `dup`. It never ends the rule. The copy has the same mark and passes no nat chain.
    Copy(Box<str>),
    /// nft's `fwd`: the packet leaves through another device.
    Forward(Box<str>),
    /// Never ends the rule, and changes nothing that the analysis needs: counter, log.
    Neutral(Box<str>),
    /// May end the rule. Changes neither mark nor addresses, but may fill registers: limit, numgen, socket.
    Maybe(Box<str>),
    /// Writes into a part of the packet that a checksum covers: address translation without NAT.
    Write(Box<str>),
    /// Not known here. It may do anything.
    Opaque(Box<str>),
    /// Loads a part of the packet into registers.
    Load {
        to: Reg,
        source: Source,
        /// In bytes.
        len: u8,
    },
    /// Loads a constant into registers.
    Immediate {
        to: Reg,
        data: Box<[u8]>,
    },
    /// to = (from & mask) ^ xor.
    Bitwise {
        from: Reg,
        to: Reg,
        /// As long as `xor`.
        mask: Box<[u8]>,
        /// As long as `mask`.
        xor: Box<[u8]>,
    },
    /// Ends the rule unless the comparison holds. Compares bytes as memcmp(3) does.
    Compare {
        from: Reg,
        op: Op,
        data: Box<[u8]>,
    },
    /// Ends the rule unless the register is inside the range, or outside with `invert`.
    Range {
        from: Reg,
        invert: bool,
        /// The first value in range.
        low: Box<[u8]>,
        /// The last value in range.
        high: Box<[u8]>,
    },
    /// Ends the rule unless the register is in the set. A map also gives a value or a verdict.
    Lookup {
        from: Reg,
        /// Index of the set in the table; `None` if it was not read.
        set: Option<u32>,
        to: MapTo,
        /// Ends the rule if the register is in the set.
        invert: bool,
    },
    /// `meta mark set`.
    SetMark {
        from: Reg,
    },
}

/// The destination of the value that a lookup finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapTo {
    /// None: the set is not a map.
    Nothing,
    Reg(Reg),
    /// The value is a verdict.
    Verdict,
}

/// A part of a packet that `nf_tables` can load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// `meta` with this key (`NFT_META_*`).
    Meta(u32),
    /// `ct` with this key (`NFT_CT_*`).
    Ct(u32),
    /// Bytes of the network header at this offset.
    Network(u16),
    /// Bytes of the transport header at this offset.
    Transport(u16),
    /// The type of the source address: `fib saddr type`.
    FibSaddrType,
    /// The type of the destination address: `fib daddr type`.
    FibDaddrType,
    /// Another expression, such as `fib saddr . iif oif`.
    Other(&'static str),
}

/// `NFT_CMP_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// The verdict on a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Leaves this base chain. The next base chain gets the packet.
    Accept,
    /// Dropped or stolen: the packet does not continue.
    Drop,
    /// A program gets the packet and returns it with any mark. If no program listens, `bypass` lets it continue at
    /// once. The next base chain gets the packet. Without a number it is the iptables target QUEUE.
    Queue(Option<Queue>),
    /// Continues in the calling chain, or with the policy.
    Return,
    /// Continues with the next rule.
    Continue,
    /// Calls this chain.
    Jump(u32),
    /// Continues in this chain, without a return to the current chain.
    Goto(u32),
}

/// The queues of a [`Verdict::Queue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Queue {
    pub first: u16,
    pub last: u16,
    /// The packet is accepted if no program listens.
    pub bypass: bool,
    /// The CPU determines the queue.
    pub fanout: bool,
}

/// One change by the iptables target SET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpsetUpdate {
    /// `--add-set`, `--del-set` or `--map-set`.
    pub option: &'static str,
    /// The number of the set in the kernel.
    pub index: u16,
    /// The side of the packet for each dimension of the set.
    pub sides: Box<[Side]>,
}

/// A change between the mark of a packet and the mark of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connmark {
    /// connection's mark = (connection's mark & !ctmask) ^ value.
    Set {
        /// Bits to flip after clearing.
        value: u32,
        /// Bits to clear.
        ctmask: u32,
    },
    /// connection's mark = (connection's mark & !ctmask) ^ (mark & nfmask).
    Save {
        /// Bits cleared in the connection.
        ctmask: u32,
        /// Bits taken from the packet.
        nfmask: u32,
    },
    /// mark = (mark & !mask) ^ (connection's mark & ctmask).
    Restore {
        /// Bits taken from the connection.
        ctmask: u32,
        /// Bits cleared in the packet.
        mask: u32,
    },
}

impl Connmark {
    /// From `XT_CONNMARK_SET`, `_SAVE` or `_RESTORE` and the three words of `struct xt_connmark_tginfo1`.
    pub fn of(mode: u8, value: u32, ctmask: u32, nfmask: u32) -> Option<Self> {
        Some(match mode {
            XT_CONNMARK_SET => Self::Set { value, ctmask },
            XT_CONNMARK_SAVE => Self::Save { ctmask, nfmask },
            XT_CONNMARK_RESTORE => Self::Restore {
                ctmask,
                mask: nfmask,
            },
            _ => return None,
        })
    }
}

/// The kind of a NAT statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatKind {
    /// To an address of the outgoing device.
    Masquerade,
    /// To a given source.
    Snat,
    /// To a given destination.
    Dnat,
    /// To this machine.
    Redirect,
    /// One network to another.
    Netmap,
}

/// `NF_NAT_RANGE_PROTO_SPECIFIED`.
pub const NAT_PROTO_SPECIFIED: u32 = 2;
/// `NF_NAT_RANGE_PROTO_RANDOM`.
pub const NAT_RANDOM: u32 = 4;
/// `NF_NAT_RANGE_PERSISTENT`.
pub const NAT_PERSISTENT: u32 = 8;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
pub const NAT_RANDOM_FULLY: u32 = 16;

/// A NAT statement with constants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nat {
    pub kind: NatKind,
    /// `NF_NAT_RANGE_*`.
    pub flags: u32,
    /// First and last address, if the statement has addresses.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// First and last port, if the statement has ports.
    pub ports: Option<(u16, u16)>,
}

/// A NAT statement with registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatRegs {
    pub kind: NatKind,
    /// `NF_NAT_RANGE_*`.
    pub flags: u32,
    /// `NFPROTO_*` of the address.
    pub family: u8,
    /// First and last address.
    pub address: Option<(Reg, Reg)>,
    /// First and last port.
    pub port: Option<(Reg, Reg)>,
}

/// A side of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
}

/// An iptables condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// `-s`, `-d`.
    Address {
        side: Side,
        address: IpAddr,
        /// The network mask, of the same family.
        mask: IpAddr,
        /// `!`.
        invert: bool,
    },
    /// `-i`, `-o`: the first bytes of the name, with the NUL if the whole name is meant.
    Interface {
        /// `-i` is the source.
        side: Side,
        /// The name must begin with these bytes.
        prefix: Box<[u8]>,
        /// `!`.
        invert: bool,
    },
    /// `-p`.
    Protocol {
        /// `IPPROTO_*`.
        number: u8,
        /// `!`.
        invert: bool,
    },
    /// Tests `-f`, `--tos` or other parts of the header that the model does not have.
    Header(&'static str),
    /// `-m comment`.
    Comment(Box<[u8]>),
    /// `-m mark`.
    Mark {
        /// The required value of the masked mark.
        value: u32,
        mask: u32,
        /// `!`.
        invert: bool,
    },
    /// `-m addrtype`: bit n of a mask is the address type n (`RTN_*`).
    Addrtype {
        /// `--src-type`; 0 if not given.
        source: u16,
        /// `--dst-type`; 0 if not given.
        destination: u16,
        /// `! --src-type`.
        invert_source: bool,
        /// `! --dst-type`.
        invert_destination: bool,
        /// `--limit-iface-in` or `--limit-iface-out`: local means local to that interface.
        limit: Option<Side>,
    },
    /// `-m conntrack --ctstate` or `-m state`: `XT_CONNTRACK_STATE_*` bits.
    State {
        states: u16,
        /// `!`.
        invert: bool,
    },
    /// `-m tcp`, `-m udp`, or another match with ports.
    Ports {
        /// `IPPROTO_*`.
        protocol: u8,
        /// `--sport`.
        source: (u16, u16),
        /// `--dport`.
        destination: (u16, u16),
        /// `! --sport`.
        invert_source: bool,
        /// `! --dport`.
        invert_destination: bool,
        /// There are further tests, such as TCP flags, that the model does not have.
        more: bool,
    },
    /// `-m multiport`.
    Multiport {
        /// `None` for either side.
        side: Option<Side>,
        /// Inclusive ranges.
        ranges: Box<[(u16, u16)]>,
        /// `!`.
        invert: bool,
    },
    /// `-m set`.
    Set {
        /// The number of the set in the kernel.
        index: u16,
        /// The side of the packet for each dimension of the set.
        sides: Box<[Side]>,
        /// `!`.
        invert: bool,
        /// There are further tests, such as counters, that the model does not have.
        more: bool,
    },
    /// Another match, in its own syntax. It may hold or not.
    Other(Box<str>),
}

/// A set or map of `nf_tables`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    pub name: Box<[u8]>,
    /// Keys are ranges.
    pub interval: bool,
    /// Belongs to one rule, and is printed inside it.
    pub anonymous: bool,
    /// A packet can change the set, or its elements time out or have conditions of their own: the content read so far
    /// can change.
    pub dynamic: bool,
    /// The length of a key in bytes.
    pub key_len: u32,
    /// The length in bytes of each part of a concatenated key. Empty if the kernel does not say.
    pub fields: Box<[u32]>,
    /// `None` if they were not read.
    pub elements: Option<Vec<Element>>,
}

/// An element of a set of `nf_tables`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// The key, or the first key of a range. Empty for the catch-all.
    pub key: Box<[u8]>,
    /// The last key of a range, if the element has both ends.
    pub key_end: Option<Box<[u8]>>,
    /// `NFT_SET_ELEM_INTERVAL_END`: the first key after the range before it.
    pub interval_end: bool,
    /// The element can time out, or has a limit or another condition: a packet with this key may not match it.
    pub uncertain: bool,
    /// The value in a map.
    pub data: Data,
}

/// The value in a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// None: the set is not a map, or the map has objects that do not matter here.
    Nothing,
    /// The bytes for registers.
    Value(Box<[u8]>),
    Verdict(Verdict),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpSet {
    /// The number in the kernel, which rules refer to.
    pub index: u16,
    pub name: Box<[u8]>,
    /// The type, such as `hash:ip,port`.
    pub kind: String,
    /// A rule adds or deletes members, or members time out: the content read so far can change.
    pub dynamic: bool,
    /// `netmask`: the prefix length with which addresses are compared.
    pub netmask: Option<u8>,
    /// The members, in the order of the dimensions of the type.
    pub members: Vec<Member>,
}

/// A member of an ipset. Dimensions that the type does not have are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// First and last address of the first address dimension.
    pub ip: Option<(IpAddr, IpAddr)>,
    /// First and last address of the second address dimension.
    pub ip2: Option<(IpAddr, IpAddr)>,
    /// First and last port, in host byte order.
    pub port: Option<(u16, u16)>,
    /// `IPPROTO_*`.
    pub protocol: Option<u8>,
    /// `nomatch`.
    pub excluded: bool,
    /// It times out.
    pub times_out: bool,
}
