//! New forwarding entries of devices that have none yet.
//!
//! Owns the multicast socket and its filter. Reports which device to look at, never its peers.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};

use neli::consts::socket::NlFamily;
use rustix::io::Errno;

use super::multicast_io::Multicast;
use super::{filter, rtnl};
use crate::netlink;

/// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/rtnetlink.h#L696>
const RTNLGRP_NEIGH: u32 = 3;

/// A socket that receives the new forwarding entries of some devices.
pub struct PeerEvents {
    socket: Multicast,
}

impl PeerEvents {
    /// # Errors
    /// The errno of the socket.
    pub fn open(ifindexes: &BTreeSet<u32>) -> Result<Self, Errno> {
        let filter = filter::forwarding_events(ifindexes);
        let socket = Multicast::open(NlFamily::Route, RTNLGRP_NEIGH, &filter)?;
        Ok(Self { socket })
    }

    /// Listens for other devices from now on.
    pub fn set_devices(&self, ifindexes: &BTreeSet<u32>) {
        self.socket
            .set_filter(&filter::forwarding_events(ifindexes));
    }

    /// The devices with new entries. `None` if messages were lost: then every device can have new entries.
    pub fn drain(&self) -> Option<BTreeSet<u32>> {
        let mut buffer = [0; 4096];
        let mut changed = BTreeSet::new();
        loop {
            let len = match self.socket.receive(&mut buffer) {
                Ok(Some(len)) => len,
                Ok(None) => return Some(changed),
                Err(Errno::NOBUFS) => {
                    // Drop the remaining messages: they add nothing.
                    while let Ok(Some(_)) = self.socket.receive(&mut buffer) {}
                    return None;
                }
                Err(_) => return None,
            };
            for message in netlink::messages(buffer.get(..len)?) {
                let entry = message.and_then(|message| rtnl::forwarding(&message));
                changed.extend(entry.ok()?.map(|entry| entry.ifindex));
            }
        }
    }
}

impl AsFd for PeerEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
