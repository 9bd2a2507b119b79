//! Link events: what rtnetlink says to everybody.
//!
//! Owns the multicast socket and its filter. Tells which device to look at, never what it is like.
//!
//! A feature change arrives as `RTM_NEWLINK` too, also from kernels that have no ethtool netlink.
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

use super::{filter, rtnl};
use crate::ethtool::ioctl_io::{attach_filter, borrow};
use crate::netlink;

const RTNLGRP_LINK: u32 = 1;

/// A socket that hears of VXLAN devices.
pub struct LinkEvents {
    socket: NlSocket,
    buffer: Vec<u8>,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something about the device with this ifindex.
    Link(u32),
    /// Events were lost.
    Overrun,
    /// No more, for now.
    Nothing,
}

impl LinkEvents {
    /// # Errors
    /// The errno of the socket.
    pub fn open() -> Result<Self, Errno> {
        let to_errno = |e: std::io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
        let socket = NlSocket::new(NlFamily::Route).map_err(to_errno)?;
        // Before the group is joined, so that nothing else is ever heard. A node can have thousands of veth changes a
        // second: the kernel drops them here, and this process sleeps on. If the filter is refused, `next_event` does its work.
        let _ = attach_filter(borrow(&socket), &filter::vxlan_events());
        let _ = socket.set_recv_buffer_size(1 << 20);
        socket
            .bind(None, Groups::new_groups(&[RTNLGRP_LINK]))
            .map_err(to_errno)?;
        Ok(Self {
            socket,
            buffer: vec![0; 64 * 1024],
        })
    }

    /// What comes next, without waiting.
    ///
    /// # Errors
    /// The errno of the socket.
    pub fn next_event(&mut self) -> Result<Event, Errno> {
        loop {
            let received = self
                .socket
                .recv(&mut self.buffer, Msg::DONTWAIT | Msg::TRUNC);
            let len = match received.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO)) {
                Ok((len, _)) => len,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Ok(Event::Nothing),
                Err(Errno::NOBUFS) => return Ok(Event::Overrun),
                Err(e) => return Err(e),
            };
            let Some(datagram) = self.buffer.get(..len) else {
                return Ok(Event::Overrun);
            };
            // One message a datagram; one that cannot be read may be about any device.
            for message in netlink::messages(datagram) {
                match message.and_then(|message| rtnl::link(&message)) {
                    Ok(Some(link)) if link.vxlan.is_some() => return Ok(Event::Link(link.ifindex)),
                    Ok(_) => {}
                    Err(_) => return Ok(Event::Overrun),
                }
            }
        }
    }
}

impl AsFd for LinkEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(&self.socket)
    }
}
