//! A netlink socket of one multicast group, with a filter.
//!
//! Owns opening and non-blocking reads. Does not know what messages contain.
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

use crate::ethtool::ioctl_io::{attach_filter, borrow};
use crate::netlink::filter::Instruction;

pub(crate) struct Multicast(NlSocket);

fn errno(e: &std::io::Error) -> Errno {
    Errno::from_io_error(e).unwrap_or(Errno::IO)
}

impl Multicast {
    /// Attaches the filter before it joins the group, so no other message arrives. Works without a filter too, because
    /// the user of the socket checks each message; the process then only wakes up more often.
    ///
    /// # Errors
    /// The errno of the socket.
    pub fn open(family: NlFamily, group: u32, filter: &[Instruction]) -> Result<Self, Errno> {
        let socket = NlSocket::new(family).map_err(|e| errno(&e))?;
        let _ = attach_filter(borrow(&socket), filter);
        let groups = Groups::new_groups(&[group]);
        socket.bind(None, groups).map_err(|e| errno(&e))?;
        Ok(Self(socket))
    }

    /// Replaces the filter.
    pub fn set_filter(&self, filter: &[Instruction]) {
        let _ = attach_filter(borrow(&self.0), filter);
    }

    /// Asks for a larger receive buffer. The kernel can refuse.
    pub fn set_buffer_size(&self, bytes: usize) {
        let _ = self.0.set_recv_buffer_size(bytes);
    }

    /// The length of the next datagram, which may be longer than the buffer. `None` if no datagram is waiting.
    ///
    /// # Errors
    /// The errno of the socket: `ENOBUFS` if messages were lost.
    pub fn receive(&self, buffer: &mut [u8]) -> Result<Option<usize>, Errno> {
        loop {
            match self.0.recv(&mut *buffer, Msg::DONTWAIT | Msg::TRUNC) {
                Ok((len, _)) => return Ok(Some(len)),
                Err(e) => match errno(&e) {
                    Errno::INTR => {}
                    Errno::AGAIN => return Ok(None),
                    e => return Err(e),
                },
            }
        }
    }
}

impl AsFd for Multicast {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(&self.0)
    }
}
