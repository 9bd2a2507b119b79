//! The filters of the multicast sockets, in classic BPF.
//!
//! Owns the programs; `ethtool::ioctl_io` attaches them. Pure. Loads are big-endian and a netlink message's header is in host order.

use super::nft::NEWGEN;
use super::rtnl::{IFLA_INFO_KIND, IFLA_LINKINFO, RTM_NEWLINK};

/// One instruction: `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// `BPF_*` class, size and mode.
    pub code: u16,
    /// Instructions to skip if a jump's condition holds.
    pub jt: u8,
    /// Instructions to skip if it does not.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

const LD_W_ABS: u16 = 0x20;
const LD_H_ABS: u16 = 0x28;
const LD_W_IND: u16 = 0x40;
const LD_H_IND: u16 = 0x48;
const LD_IMM: u16 = 0x00;
const LDX_IMM: u16 = 0x01;
const JEQ: u16 = 0x15;
const TAX: u16 = 0x07;
const RET: u16 = 0x06;

/// Where a message's `nlmsg_type` is.
const NLMSG_TYPE: u32 = 4;
const NLMSG_HDRLEN: u32 = 16;

fn do_(code: u16, k: u32) -> Instruction {
    let (jt, jf) = (0, 0);
    Instruction { code, jt, jf, k }
}

/// Goes on if the two are equal, else skips `jf` instructions.
fn unless(k: u32, jf: u8) -> Instruction {
    let (code, jt) = (JEQ, 0);
    Instruction { code, jt, jf, k }
}

/// Skips `jt` instructions if the two are equal.
fn when(k: u32, jt: u8) -> Instruction {
    let (code, jf) = (JEQ, 0);
    Instruction { code, jt, jf, k }
}

/// A filter that accepts `RTM_NEWLINK` messages about VXLAN devices, and refuses everything else.
///
/// It reads `nlmsg_type`, lets the kernel find `IFLA_LINKINFO` and in it `IFLA_INFO_KIND`, and compares the kind.
/// <https://github.com/torvalds/linux/blob/v6.12/net/core/filter.c#L129> (`bpf_skb_get_nlattr`)
pub fn vxlan_events() -> [Instruction; 16] {
    const SKF_AD_OFF: u32 = 0xffff_f000;
    const SKF_AD_NLATTR: u32 = SKF_AD_OFF + 12;
    const SKF_AD_NLATTR_NEST: u32 = SKF_AD_OFF + 16;
    [
        do_(LD_H_ABS, NLMSG_TYPE),
        unless(u32::from(RTM_NEWLINK.to_be()), 13),
        do_(LDX_IMM, u32::from(IFLA_LINKINFO)),
        do_(LD_IMM, NLMSG_HDRLEN + 16),
        do_(LD_W_ABS, SKF_AD_NLATTR),
        when(0, 9),
        do_(LDX_IMM, u32::from(IFLA_INFO_KIND)),
        do_(LD_W_ABS, SKF_AD_NLATTR_NEST),
        when(0, 6),
        do_(TAX, 0),
        do_(LD_W_IND, 4),
        unless(u32::from_be_bytes(*b"vxla"), 3),
        do_(LD_H_IND, 8),
        unless(u32::from(u16::from_be_bytes(*b"n\0")), 1),
        do_(RET, u32::MAX),
        do_(RET, 0),
    ]
}

/// A filter that accepts the announcement of a new generation of `nf_tables` rules, and refuses everything else.
pub fn new_generations() -> [Instruction; 4] {
    [
        do_(LD_H_ABS, NLMSG_TYPE),
        unless(u32::from(NEWGEN.to_be()), 1),
        do_(RET, u32::MAX),
        do_(RET, 0),
    ]
}
