//! A netlink socket of one multicast group, with a filter.
//!
//! Owns opening it and reading without waiting. Knows no message contents.
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

/// The socket.
pub(crate) struct Multicast(NlSocket);

fn errno(e: &std::io::Error) -> Errno {
    Errno::from_io_error(e).unwrap_or(Errno::IO)
}

impl Multicast {
    /// The filter is there before the group is joined, so that nothing else is ever heard. One that is refused costs wake-ups and
    /// nothing else, for its user looks at each message.
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

    /// Another filter from now on.
    pub fn set_filter(&self, filter: &[Instruction]) {
        let _ = attach_filter(borrow(&self.0), filter);
    }

    /// A larger buffer, where the kernel allows it.
    pub fn set_buffer_size(&self, bytes: usize) {
        let _ = self.0.set_recv_buffer_size(bytes);
    }

    /// The length of the next datagram, which may be longer than the buffer; `None` if there is none now.
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
