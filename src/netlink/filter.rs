//! Filters of multicast sockets, in classic BPF.
//!
//! Owns the instructions. The programs stand in the rooms whose messages they filter, and `ethtool::ioctl_io` attaches them.
//! Pure. Loads are big-endian, and a netlink message's header is in host order.

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
/// Load a constant.
pub const LD_IMM: u16 = 0x00;
/// Load a constant into X.
pub const LDX_IMM: u16 = 0x01;
/// Jump if equal.
pub const JEQ: u16 = 0x15;
/// Copy the accumulator to X.
pub const TAX: u16 = 0x07;
/// Accept so many bytes; none refuses.
pub const RET: u16 = 0x06;

/// Where a message's `nlmsg_type` is.
pub const NLMSG_TYPE: u32 = 4;
/// `sizeof(struct nlmsghdr)`.
pub const NLMSG_HDRLEN: u32 = 16;

/// An instruction that does not jump.
pub fn stmt(code: u16, k: u32) -> Instruction {
    let (jt, jf) = (0, 0);
    Instruction { code, jt, jf, k }
}

/// Goes on if the two are equal, else skips `jf` instructions.
pub fn jump_unless_eq(k: u32, jf: u8) -> Instruction {
    let (code, jt) = (JEQ, 0);
    Instruction { code, jt, jf, k }
}

/// Skips `jt` instructions if the two are equal.
pub fn jump_if_eq(k: u32, jt: u8) -> Instruction {
    let (code, jf) = (JEQ, 0);
    Instruction { code, jt, jf, k }
}
