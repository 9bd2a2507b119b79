//! Batches that change tables of `nf_tables`. The kernel carries out a whole batch or nothing.
//!
//! Owns the bytes of the messages and their numbering. Pure: sends nothing. Values and layout:
//! `linux/netfilter/nf_tables.h`,
//! <https://github.com/torvalds/linux/blob/v6.1/include/uapi/linux/netfilter/nf_tables.h>.

use core::net::IpAddr;
use core::ops::RangeInclusive;

#[allow(clippy::wildcard_imports)] // The kernel's names, dozens of them.
use crate::nat::uapi::*;
use crate::netlink::requests::Requests;
use crate::netlink::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, Writer};
use crate::text::octets;

/// A random port from a range.
const PORT_FULLY_RANDOM: u32 = NF_NAT_RANGE_PROTO_SPECIFIED | NF_NAT_RANGE_PROTO_RANDOM_FULLY;
/// The type of a comment in the data that nft(8) stores with tables and rules.
const COMMENT: u8 = 0;

/// A chain that a hook calls.
#[derive(Clone, Copy, Debug)]
pub struct BaseChain<'a> {
    pub name: &'a [u8],
    /// `filter` or `nat`.
    pub kind: &'a [u8],
    /// `NF_INET_*`.
    pub hook: u32,
    /// Lower values run earlier.
    pub priority: i32,
}

/// A batch for one table.
#[derive(Debug)]
pub struct Batch<'a> {
    requests: Requests,
    family: u8,
    table: &'a [u8],
}

impl<'a> Batch<'a> {
    /// Starts a batch for this table of this family (`NFPROTO_*`). Names have no trailing NUL here.
    pub fn of(family: u8, table: &'a [u8]) -> Self {
        let mut out = Self {
            requests: Requests::default(),
            family,
            table,
        };
        // A failure is answered even without NLM_F_ACK. An acknowledged BEGIN would be answered twice.
        out.frame(NFNL_MSG_BATCH_BEGIN);
        out
    }

    fn frame(&mut self, kind: u16) {
        let header = [0, 0, 0, NFNL_SUBSYS_NFTABLES.to_be_bytes()[1]];
        self.requests.message(kind, 0, &header, |_| {});
    }

    fn message(&mut self, message: u16, flags: u16, body: impl FnOnce(&mut Writer)) {
        // struct nfgenmsg: family, version, resource id in network byte order.
        let header = [self.family, 0, 0, 0];
        let kind = NFNL_SUBSYS_NFTABLES << 8 | message;
        self.requests.acked(kind, flags, &header, body);
    }

    /// Creates the table, which must not exist.
    pub fn create(&mut self, comment: Option<&str>) {
        let table = self.table;
        self.message(NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, |b| {
            b.put_string(NFTA_TABLE_NAME, table);
            if let Some(comment) = comment {
                b.put(NFTA_TABLE_USERDATA, &userdata(comment));
            }
        });
    }

    /// Deletes the table, whether it exists or not: the batch creates it first.
    pub fn delete(&mut self) {
        let table = self.table;
        let name = |b: &mut Writer| b.put_string(NFTA_TABLE_NAME, table);
        self.message(NFT_MSG_NEWTABLE, NLM_F_CREATE, name);
        self.message(NFT_MSG_DELTABLE, 0, name);
    }

    /// Adds a chain.
    pub fn chain(&mut self, chain: &BaseChain<'_>) {
        let table = self.table;
        self.message(NFT_MSG_NEWCHAIN, NLM_F_CREATE | NLM_F_EXCL, |b| {
            b.put_string(NFTA_CHAIN_TABLE, table);
            b.put_string(NFTA_CHAIN_NAME, chain.name);
            b.put_nest(NFTA_CHAIN_HOOK, |b| {
                put_be32(b, NFTA_HOOK_HOOKNUM, chain.hook);
                put_be32(b, NFTA_HOOK_PRIORITY, chain.priority.cast_unsigned());
            });
            b.put_string(NFTA_CHAIN_TYPE, chain.kind);
        });
    }

    /// Appends a rule to a chain.
    pub fn rule(
        &mut self,
        chain: &[u8],
        comment: Option<&str>,
        write: impl FnOnce(&mut Expressions<'_>),
    ) {
        let table = self.table;
        self.message(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, |b| {
            b.put_string(NFTA_RULE_TABLE, table);
            b.put_string(NFTA_RULE_CHAIN, chain);
            b.put_nest(NFTA_RULE_EXPRESSIONS, |b| write(&mut Expressions(b)));
            if let Some(comment) = comment {
                b.put(NFTA_RULE_USERDATA, &userdata(comment));
            }
        });
    }

    /// Ends the batch and returns the messages.
    pub fn end(mut self) -> Requests {
        self.frame(NFNL_MSG_BATCH_END);
        self.requests
    }
}

/// Type, length, value, and a NUL after the text. The kernel accepts 256 bytes, nft(8) a comment of 128.
fn userdata(comment: &str) -> Vec<u8> {
    let text: Vec<u8> = comment.bytes().take(127).chain([0]).collect();
    [&[COMMENT, text.len().to_le_bytes()[0]], &text[..]].concat()
}

/// The expressions of one rule, from left to right. Comparisons use the first register.
pub struct Expressions<'w>(&'w mut Writer);

impl Expressions<'_> {
    /// Tests that `meta` with this key (`NFT_META_*`) equals the value or, with `NFT_CMP_NEQ`, differs from it.
    pub fn meta(&mut self, key: u32, op: u32, value: &[u8]) {
        self.expression(b"meta\0", |b| {
            put_be32(b, NFTA_META_DREG, NFT_REG_1);
            put_be32(b, NFTA_META_KEY, key);
        });
        self.compare(op, value);
    }

    /// Tests that a header (`NFT_PAYLOAD_*`) has these bytes at this offset.
    pub fn payload(&mut self, header: u32, offset: u32, value: &[u8]) {
        let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
        self.expression(b"payload\0", |b| {
            put_be32(b, NFTA_PAYLOAD_DREG, NFT_REG_1);
            put_be32(b, NFTA_PAYLOAD_BASE, header);
            put_be32(b, NFTA_PAYLOAD_OFFSET, offset);
            put_be32(b, NFTA_PAYLOAD_LEN, len);
        });
        self.compare(NFT_CMP_EQ, value);
    }

    fn compare(&mut self, op: u32, value: &[u8]) {
        self.expression(b"cmp\0", |b| {
            put_be32(b, NFTA_CMP_SREG, NFT_REG_1);
            put_be32(b, NFTA_CMP_OP, op);
            b.put_nest(NFTA_CMP_DATA, |b| b.put(NFTA_DATA_VALUE, value));
        });
    }

    fn immediate(&mut self, register: u32, value: &[u8]) {
        self.expression(b"immediate\0", |b| {
            put_be32(b, NFTA_IMMEDIATE_DREG, register);
            b.put_nest(NFTA_IMMEDIATE_DATA, |b| b.put(NFTA_DATA_VALUE, value));
        });
    }

    /// Sets the source address, of the family of the table. The port stays if it is free.
    pub fn source_address(&mut self, address: IpAddr) {
        self.immediate(NFT_REG_1, &octets(address));
        self.source(address.is_ipv6(), |b| {
            put_be32(b, NFTA_NAT_REG_ADDR_MIN, NFT_REG_1);
        });
    }

    /// Sets a source port from this range, chosen as `random-fully` does. The address stays.
    pub fn source_port(&mut self, v6: bool, range: &RangeInclusive<u16>) {
        self.immediate(NFT_REG_1, &range.start().to_be_bytes());
        self.immediate(NFT_REG_2, &range.end().to_be_bytes());
        self.source(v6, |b| {
            put_be32(b, NFTA_NAT_REG_PROTO_MIN, NFT_REG_1);
            put_be32(b, NFTA_NAT_REG_PROTO_MAX, NFT_REG_2);
            put_be32(b, NFTA_NAT_FLAGS, PORT_FULLY_RANDOM);
        });
    }

    fn source(&mut self, v6: bool, rest: impl FnOnce(&mut Writer)) {
        self.expression(b"nat\0", |b| {
            put_be32(b, NFTA_NAT_TYPE, NFT_NAT_SNAT);
            put_be32(b, NFTA_NAT_FAMILY, nfproto(v6).into());
            rest(b);
        });
    }

    /// Excludes the packet from connection tracking, and so from NAT.
    pub fn notrack(&mut self) {
        self.0.put_nest(NFTA_LIST_ELEM, |b| {
            b.put(NFTA_EXPR_NAME, b"notrack\0");
        });
    }

    fn expression(&mut self, name: &[u8], data: impl FnOnce(&mut Writer)) {
        self.0.put_nest(NFTA_LIST_ELEM, |b| {
            b.put(NFTA_EXPR_NAME, name);
            b.put_nest(NFTA_EXPR_DATA, data);
        });
    }
}

/// `NFPROTO_*` of IPv4 or IPv6.
pub fn nfproto(v6: bool) -> u8 {
    if v6 { NFPROTO_IPV6 } else { NFPROTO_IPV4 }
}

fn put_be32(buf: &mut Writer, kind: u16, value: u32) {
    buf.put(kind, &value.to_be_bytes());
}
