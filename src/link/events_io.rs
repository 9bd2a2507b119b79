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

use neli::consts::socket::NlFamily;
use rustix::io::Errno;

use super::multicast_io::Multicast;
use super::{filter, rtnl};
use crate::netlink;

const RTNLGRP_LINK: u32 = 1;

/// A socket that hears of VXLAN devices.
pub struct LinkEvents {
    socket: Multicast,
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
        // A node can have thousands of veth changes a second: the kernel drops them here, and this process sleeps on.
        let socket = Multicast::open(NlFamily::Route, RTNLGRP_LINK, &filter::vxlan_events())?;
        socket.set_buffer_size(1 << 20);
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
            let len = match self.socket.receive(&mut self.buffer) {
                Ok(Some(len)) => len,
                Ok(None) => return Ok(Event::Nothing),
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
        self.socket.as_fd()
    }
}
