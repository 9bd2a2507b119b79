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

use neli::consts::socket::{Msg, NlFamily};
use neli::socket::NlSocket;
use neli::utils::Groups;
use rustix::io::Errno;

use super::nft::NEWGEN;
use crate::ethtool::ioctl_io::{attach_filter, borrow};
use crate::netlink::filter::{Instruction, LD_H_ABS, NLMSG_TYPE, RET, jump_unless_eq, stmt};

/// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/netfilter/nfnetlink.h#L15>
const NFNLGRP_NFTABLES: u32 = 7;

/// A socket that hears of every commit of rules, and of nothing else.
pub struct NftEvents {
    socket: NlSocket,
}

impl NftEvents {
    /// # Errors
    /// The errno of the socket: `EPROTONOSUPPORT` in a kernel without netfilter.
    pub fn open() -> Result<Self, Errno> {
        let to_errno = |e: std::io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
        let socket = NlSocket::new(NlFamily::Netfilter).map_err(to_errno)?;
        // A commit announces each rule of it and then its generation: the kernel drops all but that. If it refuses the
        // filter there is only more to drain.
        let _ = attach_filter(borrow(&socket), &new_generations());
        socket
            .bind(None, Groups::new_groups(&[NFNLGRP_NFTABLES]))
            .map_err(to_errno)?;
        Ok(Self { socket })
    }

    /// Takes out all there is; true if there was something, or something was lost.
    pub fn drain(&mut self) -> bool {
        let mut heard = false;
        let mut buffer = [0; 4096];
        loop {
            match self
                .socket
                .recv(&mut buffer[..], Msg::DONTWAIT | Msg::TRUNC)
            {
                Ok(_) => heard = true,
                Err(e) => match Errno::from_io_error(&e) {
                    Some(Errno::INTR) => {}
                    Some(Errno::AGAIN) => return heard,
                    Some(Errno::NOBUFS) => heard = true,
                    _ => return true,
                },
            }
        }
    }
}

impl AsFd for NftEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(&self.socket)
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
