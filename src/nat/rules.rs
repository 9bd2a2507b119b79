//! The packet-filter rules of one network namespace, as far as they decide about NAT and marks.
//!
//! Owns the model that `nat::nft`, `nat::xt` and `nat::read_io` fill and the analysis reads. Names are bytes as the kernel
//! has them: the code that prints them escapes them. Pure.

use core::net::IpAddr;

use super::uapi::{
    NFPROTO_ARP, NFPROTO_BRIDGE, NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6, NFPROTO_NETDEV,
    XT_CONNMARK_RESTORE, XT_CONNMARK_SAVE, XT_CONNMARK_SET,
};

/// Everything that was read, and what could not be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatRules {
    /// Tables of both back ends.
    pub tables: Vec<Table>,
    /// The contents of the ipsets, if a rule names one.
    pub ipsets: Vec<IpSet>,
    /// Whether the ipsets above are all there are.
    pub ipsets_known: bool,
    /// An answer, or what a socket that accepted a connection sends, keeps the mark of the packet that it goes back to:
    /// `fwmark_reflect`, `tcp_fwmark_accept`.
    ///
    /// <https://docs.kernel.org/networking/ip-sysctl.html>
    pub marks_are_answered: bool,
    /// Shown without the rules: none copies packets (TEE, or nft's `dup`).
    pub no_copies: bool,
    /// Parts that could not be read: while there is one, nothing is shown harmless.
    pub unread: Vec<Unread>,
}

impl NatRules {
    /// Marks the ipsets that a rule changes. To be called once everything is read.
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

    /// Whether rules were left open, or sets that rules ask. A set that no rule asks is never read, and changes nothing.
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

    /// Whether something of it changes with no announcement: iptables-legacy, tables that a process owns, and ipsets do.
    pub fn changes_unannounced(&self) -> bool {
        let unannounced = |t: &Table| t.backend == RuleStore::Legacy || t.goes_unannounced;
        self.tables.iter().any(unannounced) || self.asks_ipsets()
    }

    /// Whether a rule asks an ipset.
    pub fn asks_ipsets(&self) -> bool {
        let chains = self.tables.iter().flat_map(|t| &t.chains);
        let mut exprs = chains.flat_map(|c| &c.rules).flat_map(|r| &r.exprs);
        exprs.any(|e| matches!(e, Expr::Match(Match::Set { .. })))
    }
}

/// A part of the rules that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// Which part, such as `nf_tables`.
    pub what: String,
    /// Why, such as `EPERM: needs CAP_NET_ADMIN`.
    pub why: String,
}

/// Who holds a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RuleStore {
    /// The tables of `iptables-legacy`.
    Legacy,
    /// `nf_tables`, which also holds the tables of `iptables-nft`.
    NfTables,
}

/// Which packets a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TableFamily {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Both.
    Inet,
    /// arp, bridge, netdev (`NFPROTO_*`): no NAT, but they can set marks.
    Other(u8),
}

impl TableFamily {
    /// From `NFPROTO_*`.
    pub fn from_nfproto(n: u8) -> Self {
        match n {
            NFPROTO_IPV4 => Self::Ip,
            NFPROTO_IPV6 => Self::Ip6,
            NFPROTO_INET => Self::Inet,
            n => Self::Other(n),
        }
    }

    /// The word that nft(8) uses.
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

/// One table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Who holds it.
    pub backend: RuleStore,
    /// Which packets it sees.
    pub family: TableFamily,
    /// Its name.
    pub name: Box<[u8]>,
    /// Its chains; jumps name them by their index here.
    pub chains: Vec<Chain>,
    /// Its sets and maps; lookups name them by their index here.
    pub sets: Vec<Set>,
    /// It is gone once the process that owns it closes its socket. There is no message of that, and no new generation.
    ///
    /// <https://github.com/torvalds/linux/blob/v6.12/net/netfilter/nf_tables_api.c> (`nft_rcv_nl_event`)
    pub goes_unannounced: bool,
}

/// One chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: Box<[u8]>,
    /// Where the stack calls it; `None` if only other chains do.
    pub base: Option<Base>,
    /// The devices of a chain of the family netdev, as [`Match::Interface`] has them; empty for any.
    pub devices: Box<[Box<[u8]>]>,
    /// Its rules in order.
    pub rules: Vec<Rule>,
}

/// What stands for the rules of a chain that was not read: it may do anything.
const NOT_READ: &str = "a chain that was not read";

impl Chain {
    /// Leaves its rules open.
    pub fn leave_unread(&mut self) {
        self.rules = vec![Rule {
            exprs: [Expr::Opaque(NOT_READ.into())].into(),
            comment: None,
        }];
    }

    /// Takes all its rules out.
    pub fn clear(&mut self) {
        self.rules.clear();
    }

    /// Whether its rules were left open.
    pub fn is_unread(&self) -> bool {
        matches!(&self.rules[..], [Rule { exprs, .. }] if matches!(&exprs[..], [Expr::Opaque(name)] if **name == *NOT_READ))
    }
}

/// A part of the rules that an analysis came upon and that was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Need {
    /// The rules of a chain.
    Chain(usize, u32),
    /// The elements of a set.
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
    /// `NF_NETDEV_EGRESS`: after the IP stack, on the way into a device.
    Egress,
    /// Ingress, and hooks of other families.
    Other,
}

impl Hook {
    /// From `NF_INET_*`.
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

/// How a base chain is hooked in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// Where.
    pub hook: Hook,
    /// Lower runs earlier.
    pub priority: i32,
    /// Of type nat: consulted for the first packet of a connection only, and the only type that can rewrite.
    pub nat: bool,
    /// What falls through is dropped.
    pub drops: bool,
}

/// One rule: expressions from left to right, each of which can end it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The expressions.
    pub exprs: Box<[Expr]>,
    /// The comment that nft keeps beside a rule; iptables has [`Match::Comment`].
    pub comment: Option<Box<[u8]>>,
}

/// A byte offset into the 64 bytes of `nf_tables` registers.
pub type Reg = u8;

/// One step of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// An iptables match.
    Match(Match),
    /// What happens to the packet.
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
    /// nft's `snat`, `dnat`, `masquerade`, `redirect`, whose address and ports are in registers.
    NatRegs(NatRegs),
    /// The packet is not tracked, so no nat chain sees it.
    Untrack,
    /// nft's `ct mark set`.
    SetConnmark {
        /// Where from.
        from: Reg,
    },
    /// nft's `add`, `update` or `delete` of an element: may end the rule, and fills no register.
    UpdateSet {
        /// Index of the set in the table; `None` if it was not read.
        set: Option<u32>,
    },
    /// The iptables target SET, which changes ipsets.
    UpdateIpsets {
        /// Which.
        updates: Box<[IpsetUpdate]>,
        /// What else iptables-save(8) prints of it.
        options: Box<str>,
    },
    /// TEE, or nft's `dup`: always goes on, and a copy with the same mark goes its own way, which no nat chain sees.
    Copy(Box<str>),
    /// nft's `fwd`: the packet leaves through another device.
    Forward(Box<str>),
    /// Always goes on and changes nothing that matters: counter, log.
    Neutral(Box<str>),
    /// May end the rule and changes neither mark nor addresses, but may fill registers: limit, numgen, socket.
    Maybe(Box<str>),
    /// Writes into the packet where a checksum covers it, which is address translation by hand.
    Write(Box<str>),
    /// Not known here: may do anything.
    Opaque(Box<str>),
    /// Registers from the packet.
    Load {
        /// Where to.
        to: Reg,
        /// What.
        source: Source,
        /// How many bytes.
        len: u8,
    },
    /// Registers from a constant.
    Immediate {
        /// Where to.
        to: Reg,
        /// What.
        data: Box<[u8]>,
    },
    /// to = (from & mask) ^ xor.
    Bitwise {
        /// Where from.
        from: Reg,
        /// Where to.
        to: Reg,
        /// As long as `xor`.
        mask: Box<[u8]>,
        /// As long as `mask`.
        xor: Box<[u8]>,
    },
    /// Ends the rule unless it holds; bytes compare as memcmp(3) does.
    Compare {
        /// The left side.
        from: Reg,
        /// How.
        op: Op,
        /// The right side.
        data: Box<[u8]>,
    },
    /// Ends the rule unless the register is within (or, inverted, outside).
    Range {
        /// What is looked at.
        from: Reg,
        /// Outside instead of within.
        invert: bool,
        /// The first value in range.
        low: Box<[u8]>,
        /// The last value in range.
        high: Box<[u8]>,
    },
    /// Ends the rule unless the register is in the set; a map also gives a value or a verdict.
    Lookup {
        /// Where the key is.
        from: Reg,
        /// Index of the set in the table; `None` if it was not read.
        set: Option<u32>,
        /// Where the value of a map goes.
        to: MapTo,
        /// Not in the set instead.
        invert: bool,
    },
    /// `meta mark set`.
    SetMark {
        /// Where from.
        from: Reg,
    },
}

/// What a lookup does with what it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapTo {
    /// It is a set.
    Nothing,
    /// Into registers.
    Reg(Reg),
    /// The value is a verdict.
    Verdict,
}

/// What a packet brings that `nf_tables` can load.
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
    /// The type of the source address, as `fib saddr type`.
    SourceType,
    /// The type of the destination address, as `fib daddr type`.
    DestinationType,
    /// Anything else, such as `fib saddr . iif oif`.
    Other(&'static str),
}

/// `NFT_CMP_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Leaves this base chain; the next one sees the packet.
    Accept,
    /// Dropped or stolen: no longer our packet.
    Drop,
    /// A program gets it and gives it back with any mark, or it goes on at once if no program listens (`bypass`). The next
    /// base chain sees it. Without a number it is the iptables target QUEUE.
    Queue(Option<Queue>),
    /// Back to the calling chain, or the policy.
    Return,
    /// On to the next rule.
    Continue,
    /// Call this chain.
    Jump(u32),
    /// Go to this chain without coming back to this one.
    Goto(u32),
}

/// The queues of a [`Verdict::Queue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Queue {
    /// The first of them.
    pub first: u16,
    /// The last of them.
    pub last: u16,
    /// The packet is accepted if no program listens.
    pub bypass: bool,
    /// The CPU chooses the queue.
    pub fanout: bool,
}

/// One change that the iptables target SET makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpsetUpdate {
    /// `--add-set`, `--del-set` or `--map-set`.
    pub option: &'static str,
    /// The set's number in the kernel.
    pub index: u16,
    /// Which side each of its dimensions looks at.
    pub sides: Box<[Side]>,
}

/// What moves between the mark of a packet and that of its connection.
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

/// What a NAT statement does.
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
    /// What it does.
    pub kind: NatKind,
    /// `NF_NAT_RANGE_*`.
    pub flags: u32,
    /// First and last address, if it gives any.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// First and last port, if it gives any.
    pub ports: Option<(u16, u16)>,
}

/// A NAT statement with registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatRegs {
    /// What it does.
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

/// Which side of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where it comes from.
    Source,
    /// Where it goes to.
    Destination,
}

/// An iptables condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// `-s`, `-d`.
    Address {
        /// Which one.
        side: Side,
        /// The network.
        address: IpAddr,
        /// Its mask, of the same family.
        mask: IpAddr,
        /// `!`.
        invert: bool,
    },
    /// `-i`, `-o`: the first bytes of the name, with the NUL if the whole name is meant.
    Interface {
        /// `-i` is the source.
        side: Side,
        /// What the name must begin with.
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
    /// `-f`, `--tos` and other parts of the header that are not looked at.
    Header(&'static str),
    /// `-m comment`.
    Comment(Box<[u8]>),
    /// `-m mark`.
    Mark {
        /// What the masked mark must be.
        value: u32,
        /// The mask.
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
        /// The states.
        states: u16,
        /// `!`.
        invert: bool,
    },
    /// `-m tcp`, `-m udp`, or another with ports.
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
        /// There is more that is not looked at, such as TCP flags.
        more: bool,
    },
    /// `-m multiport`.
    Multiport {
        /// Which ports; none is either.
        side: Option<Side>,
        /// Inclusive ranges.
        ranges: Box<[(u16, u16)]>,
        /// `!`.
        invert: bool,
    },
    /// `-m set`.
    Set {
        /// The set's number in the kernel.
        index: u16,
        /// Which side each of its dimensions looks at.
        sides: Box<[Side]>,
        /// `!`.
        invert: bool,
        /// There is more that is not looked at, such as counters.
        more: bool,
    },
    /// Any other, as it is written: it may hold or not.
    Other(Box<str>),
}

/// A set or map of `nf_tables`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: Box<[u8]>,
    /// Keys are ranges.
    pub interval: bool,
    /// Made for one rule: printed in place.
    pub anonymous: bool,
    /// A packet can change it, or its elements time out or have conditions of their own: what was read is not what it will be.
    pub dynamic: bool,
    /// Bytes of a key.
    pub key_len: u32,
    /// The bytes of each part of a concatenated key, if the kernel says.
    pub fields: Box<[u32]>,
    /// `None` if they were not read.
    pub elements: Option<Vec<Element>>,
}

/// An element of a set of `nf_tables`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// The key, or the first of a range; empty for the catch-all.
    pub key: Box<[u8]>,
    /// The last key of a range, where a set of ranges has it in one element.
    pub key_end: Option<Box<[u8]>>,
    /// `NFT_SET_ELEM_INTERVAL_END`: the first key that is no longer in the range before it.
    pub interval_end: bool,
    /// It can time out, or has a limit or another condition of its own: a packet with this key may not match it.
    pub uncertain: bool,
    /// What a map gives.
    pub data: Data,
}

/// What a map gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// It is a set, or an object that changes nothing here.
    Nothing,
    /// Register bytes.
    Value(Box<[u8]>),
    /// A verdict.
    Verdict(Verdict),
}

/// An ipset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpSet {
    /// Its number in the kernel, which rules hold.
    pub index: u16,
    /// Its name.
    pub name: Box<[u8]>,
    /// Its type, such as `hash:ip,port`.
    pub kind: String,
    /// A rule adds or deletes members, or members time out: what was read is not what it will be.
    pub dynamic: bool,
    /// `netmask`: addresses are compared by so many bits.
    pub netmask: Option<u8>,
    /// Its members, in the order of the type's dimensions.
    pub members: Vec<Member>,
}

/// A member of an ipset; what a type does not have is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// First address and last, of the first address dimension.
    pub ip: Option<(IpAddr, IpAddr)>,
    /// The same of the second.
    pub ip2: Option<(IpAddr, IpAddr)>,
    /// First port and last, in host byte order.
    pub port: Option<(u16, u16)>,
    /// `IPPROTO_*`.
    pub protocol: Option<u8>,
    /// `nomatch`.
    pub excluded: bool,
    /// It times out.
    pub times_out: bool,
}
