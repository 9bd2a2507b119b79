//! New forwarding entries of devices that have none yet.
//!
//! Owns the multicast socket and its filter. Tells which device to look at, never where it sends.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};

use neli::consts::socket::{Msg, NlFamily};
use neli::socket::NlSocket;
use neli::utils::Groups;
use rustix::io::Errno;

use super::{filter, rtnl};
use crate::ethtool::ioctl_io::{attach_filter, borrow};
use crate::netlink;

/// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/rtnetlink.h#L696>
const RTNLGRP_NEIGH: u32 = 3;

/// A socket that hears of the entries of some devices.
pub struct PeerEvents {
    socket: NlSocket,
}

impl PeerEvents {
    /// # Errors
    /// The errno of the socket.
    pub fn open(ifindexes: &BTreeSet<u32>) -> Result<Self, Errno> {
        let to_errno = |e: std::io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
        let socket = NlSocket::new(NlFamily::Route).map_err(to_errno)?;
        // Before the group is joined. A filter that is refused costs wake-ups and nothing else.
        let _ = attach_filter(borrow(&socket), &filter::forwarding_events(ifindexes));
        socket
            .bind(None, Groups::new_groups(&[RTNLGRP_NEIGH]))
            .map_err(to_errno)?;
        Ok(Self { socket })
    }

    /// Listens for other devices from now on.
    pub fn set_devices(&self, ifindexes: &BTreeSet<u32>) {
        let _ = attach_filter(borrow(&self.socket), &filter::forwarding_events(ifindexes));
    }

    /// The devices that were heard of by now; `None` if nobody knows which.
    pub fn drain(&self) -> Option<BTreeSet<u32>> {
        let mut buffer = [0; 4096];
        let mut heard = BTreeSet::new();
        loop {
            let received = self
                .socket
                .recv(&mut buffer[..], Msg::DONTWAIT | Msg::TRUNC);
            let len = match received.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO)) {
                Ok((len, _)) => len,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Some(heard),
                Err(Errno::NOBUFS) => {
                    heard.clear();
                    // What is left says no more than that.
                    while self
                        .socket
                        .recv(&mut buffer[..], Msg::DONTWAIT | Msg::TRUNC)
                        .is_ok()
                    {}
                    return None;
                }
                Err(_) => return None,
            };
            for message in netlink::messages(buffer.get(..len)?) {
                let entry = message.and_then(|message| rtnl::forwarding(&message));
                heard.extend(entry.ok()?.map(|entry| entry.ifindex));
            }
        }
    }
}

impl AsFd for PeerEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow(&self.socket)
    }
}
