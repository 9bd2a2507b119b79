//! Events about changes of `nf_tables` rules.
//!
//! Owns the socket of the multicast group. Does not read what changed: an event is a hint to read the rules again.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use std::os::fd::{AsFd, BorrowedFd};

use neli::consts::socket::NlFamily;
use rustix::io::Errno;

use super::nft::NEWGEN;
use crate::link::multicast_io::Multicast;
use crate::netlink::filter::{Instruction, LD_H_ABS, NLMSG_TYPE, RET, jump_unless_eq, stmt};

/// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/netfilter/nfnetlink.h#L15>
const NFNLGRP_NFTABLES: u32 = 7;

/// A socket that receives one event for each commit of rules.
pub struct NftEvents {
    socket: Multicast,
}

impl NftEvents {
    /// # Errors
    /// The errno of the socket: `EPROTONOSUPPORT` in a kernel without netfilter.
    pub fn open() -> Result<Self, Errno> {
        // The kernel announces each rule of a commit, and then the new generation. The filter drops everything but the
        // generation.
        let socket = Multicast::open(NlFamily::Netfilter, NFNLGRP_NFTABLES, &new_generations())?;
        Ok(Self { socket })
    }

    /// Reads all waiting events. True if there was an event or events were lost.
    pub fn drain(&mut self) -> bool {
        let mut received = false;
        let mut buffer = [0; 4096];
        loop {
            match self.socket.receive(&mut buffer) {
                Ok(None) => return received,
                Ok(Some(_)) | Err(Errno::NOBUFS) => received = true,
                Err(_) => return true,
            }
        }
    }
}

impl AsFd for NftEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Accepts the event for a new generation of `nf_tables` rules and drops everything else.
fn new_generations() -> [Instruction; 4] {
    [
        stmt(LD_H_ABS, NLMSG_TYPE),
        jump_unless_eq(u32::from(NEWGEN.to_be()), 1),
        stmt(RET, u32::MAX),
        stmt(RET, 0),
    ]
}
