//! Link events from the rtnetlink multicast group.
//!
//! Owns the multicast socket and its filter. Reports which device to look at, never its state.
//!
//! A feature change arrives as `RTM_NEWLINK` too, also from kernels without ethtool netlink.
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

/// A socket that receives events of VXLAN and Geneve devices.
pub struct LinkEvents {
    socket: Multicast,
    buffer: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something happened to the device with this ifindex.
    Link(u32),
    /// Events were lost.
    Overrun,
    /// No event is waiting.
    Nothing,
}

impl LinkEvents {
    /// # Errors
    /// The errno of the socket.
    pub fn open() -> Result<Self, Errno> {
        // A node can have thousands of veth changes a second. The filter drops them in the kernel, so this process does
        // not wake up.
        let socket = Multicast::open(NlFamily::Route, RTNLGRP_LINK, &filter::tunnel_events())?;
        socket.set_buffer_size(1 << 20);
        Ok(Self {
            socket,
            buffer: vec![0; 64 * 1024],
        })
    }

    /// The next event. Does not wait.
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
            // A datagram holds one message. A malformed message may be about any device.
            for message in netlink::messages(datagram) {
                match message.and_then(|message| rtnl::link(&message)) {
                    Ok(Some(link)) if link.tunnel.is_some() => {
                        return Ok(Event::Link(link.ifindex));
                    }
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
