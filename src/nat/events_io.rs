//! The changes of `nf_tables` rules, as the kernel announces them.
//!
//! Owns the socket of the multicast group. What changed is not looked at: an event is a hint to read the rules anew.
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

/// A socket that hears of every commit of rules, and of nothing else.
pub struct NftEvents {
    socket: Multicast,
}

impl NftEvents {
    /// # Errors
    /// The errno of the socket: `EPROTONOSUPPORT` in a kernel without netfilter.
    pub fn open() -> Result<Self, Errno> {
        // A commit announces each rule of it and then its generation: the kernel drops all but that.
        let socket = Multicast::open(NlFamily::Netfilter, NFNLGRP_NFTABLES, &new_generations())?;
        Ok(Self { socket })
    }

    /// Takes out all there is; true if there was something, or something was lost.
    pub fn drain(&mut self) -> bool {
        let mut heard = false;
        let mut buffer = [0; 4096];
        loop {
            match self.socket.receive(&mut buffer) {
                Ok(None) => return heard,
                Ok(Some(_)) | Err(Errno::NOBUFS) => heard = true,
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

/// A filter that accepts the announcement of a new generation of `nf_tables` rules, and refuses everything else.
fn new_generations() -> [Instruction; 4] {
    [
        stmt(LD_H_ABS, NLMSG_TYPE),
        jump_unless_eq(u32::from(NEWGEN.to_be()), 1),
        stmt(RET, u32::MAX),
        stmt(RET, 0),
    ]
}
