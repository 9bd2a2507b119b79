//! The filters of the sockets for link events and forwarding entries.
//!
//! Owns the programs, in classic BPF. Pure.

use std::collections::BTreeSet;

use super::rtnl::{
    AF_BRIDGE, IFLA_INFO_KIND, IFLA_LINKINFO, RTM_DELLINK, RTM_NEWLINK, RTM_NEWNEIGH,
};
use crate::netlink::filter::{
    Instruction, LD_B_ABS, LD_H_ABS, LD_H_IND, LD_IMM, LD_W_ABS, LD_W_IND, LDX_IMM, NLMSG_HDRLEN,
    NLMSG_TYPE, RET, TAX, jump_if_eq, jump_unless_eq, stmt,
};

/// Accepts `RTM_NEWLINK` and `RTM_DELLINK` messages about VXLAN and Geneve devices and drops everything else.
///
/// Reads `nlmsg_type`, lets the kernel find `IFLA_LINKINFO` and inside it `IFLA_INFO_KIND`, and compares the kind. Either
/// beginning may have either end: no kind is called `vxlave` or `genen`, and the reader looks at the kind again.
/// <https://github.com/torvalds/linux/blob/v6.12/net/core/filter.c#L129> (`bpf_skb_get_nlattr`)
pub fn tunnel_events() -> [Instruction; 19] {
    const SKF_AD_OFF: u32 = 0xffff_f000;
    const SKF_AD_NLATTR: u32 = SKF_AD_OFF + 12;
    const SKF_AD_NLATTR_NEST: u32 = SKF_AD_OFF + 16;
    [
        stmt(LD_H_ABS, NLMSG_TYPE),
        jump_if_eq(u32::from(RTM_NEWLINK.to_be()), 1),
        jump_unless_eq(u32::from(RTM_DELLINK.to_be()), 15),
        stmt(LDX_IMM, u32::from(IFLA_LINKINFO)),
        stmt(LD_IMM, NLMSG_HDRLEN + 16),
        stmt(LD_W_ABS, SKF_AD_NLATTR),
        jump_if_eq(0, 11),
        stmt(LDX_IMM, u32::from(IFLA_INFO_KIND)),
        stmt(LD_W_ABS, SKF_AD_NLATTR_NEST),
        jump_if_eq(0, 8),
        stmt(TAX, 0),
        stmt(LD_W_IND, 4),
        jump_if_eq(u32::from_be_bytes(*b"gene"), 1),
        jump_unless_eq(u32::from_be_bytes(*b"vxla"), 4),
        stmt(LD_H_IND, 8),
        jump_if_eq(u32::from(u16::from_be_bytes(*b"n\0")), 1),
        jump_unless_eq(u32::from(u16::from_be_bytes(*b"ve")), 1),
        stmt(RET, u32::MAX),
        stmt(RET, 0),
    ]
}

/// With more devices than this, the filter accepts the entries of all devices.
const MAX_IFINDEXES: u8 = 64;

/// Accepts new forwarding entries of these devices and drops everything else: bridges learn entries all the time.
pub fn forwarding_events(ifindexes: &BTreeSet<u32>) -> Vec<Instruction> {
    const NDM_FAMILY: u32 = NLMSG_HDRLEN;
    const NDM_IFINDEX: u32 = NLMSG_HDRLEN + 4;
    let count = u8::try_from(ifindexes.len())
        .ok()
        .filter(|count| *count <= MAX_IFINDEXES);
    let skipped = count.unwrap_or(0);
    let mut program = vec![
        stmt(LD_H_ABS, NLMSG_TYPE),
        jump_unless_eq(u32::from(RTM_NEWNEIGH.to_be()), skipped + 3),
        stmt(LD_B_ABS, NDM_FAMILY),
        jump_unless_eq(u32::from(AF_BRIDGE), skipped + 1),
    ];
    if count.is_some() {
        program.push(stmt(LD_W_ABS, NDM_IFINDEX));
        let jumps = (0..skipped).rev();
        program.extend(
            ifindexes
                .iter()
                .zip(jumps)
                .map(|(ifindex, left)| jump_if_eq(ifindex.to_be(), left + 1)),
        );
        program.extend([stmt(RET, 0), stmt(RET, u32::MAX)]);
    } else {
        program.extend([stmt(RET, u32::MAX), stmt(RET, 0)]);
    }
    program
}
