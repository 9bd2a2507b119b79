//! The kernel's names for the numbers in netfilter messages and rules.
//!
//! Owns the constants of the headers below, for the decoders and for those who write rules. Pure.
//!
//! <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/netfilter/nf_tables.h>
//! <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/netfilter/ipset/ip_set.h>

/// The family of chains at a device.
pub const NFPROTO_NETDEV: u8 = 5;

/// `ip_set_id_t` of no set.
pub const IPSET_INVALID_ID: u16 = u16::MAX;
/// Add a member that is there already.
pub const IPSET_FLAG_EXIST: u32 = 1;
/// `--map-mark`: the packet's mark is that of the member.
pub const IPSET_FLAG_MAP_SKBMARK: u32 = 1 << 8;
/// `--map-prio`.
pub const IPSET_FLAG_MAP_SKBPRIO: u32 = 1 << 9;
/// `--map-queue`.
pub const IPSET_FLAG_MAP_SKBQUEUE: u32 = 1 << 10;

/// NFQUEUE: accept what no program takes.
pub const NFQ_FLAG_BYPASS: u16 = 1;
/// NFQUEUE: the CPU chooses the queue.
pub const NFQ_FLAG_CPU_FANOUT: u16 = 2;
