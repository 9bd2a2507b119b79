//! Filters of multicast sockets, in classic BPF.
//!
//! Owns the instructions. Each module holds the programs for its own messages, and `ethtool::ioctl_io` attaches them.
//! Pure. Loads read big-endian words, but the header of a netlink message is in host byte order.

/// `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// `BPF_*` class, size and mode.
    pub code: u16,
    /// How many instructions to skip if the condition of a jump holds.
    pub jt: u8,
    /// How many instructions to skip if the condition does not hold.
    pub jf: u8,
    pub k: u32,
}

/// Load a word at an offset.
pub const LD_W_ABS: u16 = 0x20;
/// Load a half-word at an offset.
pub const LD_H_ABS: u16 = 0x28;
/// Load a word at an offset from X.
pub const LD_W_IND: u16 = 0x40;
/// Load a byte at an offset.
pub const LD_B_ABS: u16 = 0x30;
/// Load a half-word at an offset from X.
pub const LD_H_IND: u16 = 0x48;
/// Load `k`.
pub const LD_IMM: u16 = 0x00;
/// Load `k` into X.
pub const LDX_IMM: u16 = 0x01;
/// Jump if the accumulator equals `k`.
pub const JEQ: u16 = 0x15;
/// Copy the accumulator to X.
pub const TAX: u16 = 0x07;
/// Accept this many bytes. 0 drops the message.
pub const RET: u16 = 0x06;

/// The offset of `nlmsg_type` in a message.
pub const NLMSG_TYPE: u32 = 4;
/// `sizeof(struct nlmsghdr)`.
pub const NLMSG_HDRLEN: u32 = 16;

/// An instruction without a jump.
pub fn stmt(code: u16, k: u32) -> Instruction {
    let (jt, jf) = (0, 0);
    Instruction { code, jt, jf, k }
}

/// Continues if the accumulator equals `k`, else skips `jf` instructions.
pub fn jump_unless_eq(k: u32, jf: u8) -> Instruction {
    let (code, jt) = (JEQ, 0);
    Instruction { code, jt, jf, k }
}

/// Skips `jt` instructions if the accumulator equals `k`.
pub fn jump_if_eq(k: u32, jt: u8) -> Instruction {
    let (code, jf) = (JEQ, 0);
    Instruction { code, jt, jf, k }
}
