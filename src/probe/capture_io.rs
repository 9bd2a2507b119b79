//! Packet sockets: one captures at the far end of the probe's underlay, one injects frames.
//!
//! Owns the sockets and waiting for them. Does not judge frames.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

use super::Inconclusive;
use super::frame::{self, VxlanFrame};
use super::plan::Step;
use crate::ethtool::ioctl_io;

/// <https://github.com/torvalds/linux/blob/v6.1/include/uapi/linux/if_ether.h#L132>
const ETH_P_ALL: u16 = 3;
/// <https://github.com/torvalds/linux/blob/v6.1/include/uapi/linux/if_packet.h#L57>
const PACKET_VNET_HDR: i32 = 15;

/// A packet socket for all frames of one device. Not one socket for each kind of frame, because closing a socket takes 10 ms.
pub(super) struct Capture(OwnedFd);

impl Capture {
    pub(super) fn open(ifindex: u32) -> Result<Self, Inconclusive> {
        packet_socket(ifindex, ETH_P_ALL)
            .map(Self)
            .map_err(|errno| Step::Capture.failed(errno))
    }

    /// Calls `wants_more` with every VXLAN frame, until it returns false or the deadline has passed.
    pub(super) fn frames(
        &self,
        deadline: Instant,
        mut wants_more: impl FnMut(&VxlanFrame, &[u8]) -> bool,
    ) -> Result<(), Inconclusive> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let len = match recv(&self.0, &mut buffer[..], RecvFlags::empty()) {
                Ok((len, _)) => len,
                Err(Errno::AGAIN | Errno::INTR) if await_input(self.0.as_fd(), deadline) => {
                    continue;
                }
                Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
                Err(errno) => return Err(Step::Capture.failed(errno)),
            };
            let bytes = &buffer[..len];
            // Other packets of the kernel, such as router solicitations, are no VXLAN frames.
            if frame::parse(bytes).is_ok_and(|parsed| !wants_more(&parsed, bytes)) {
                return Ok(());
            }
        }
    }
}

/// A packet socket that sends frames through one device, each after a `struct virtio_net_hdr`.
pub(super) struct Injector(OwnedFd);

impl Injector {
    pub(super) fn open(ifindex: u32) -> Result<Self, Inconclusive> {
        let failed = |errno| Step::Capture.failed(errno);
        let socket = packet_socket(ifindex, 0).map_err(failed)?;
        ioctl_io::set_option(socket.as_fd(), libc::SOL_PACKET, PACKET_VNET_HDR, 1)
            .map_err(failed)?;
        Ok(Self(socket))
    }

    pub(super) fn send(&self, frame: &[u8]) -> Result<(), Inconclusive> {
        send(&self.0, frame, SendFlags::empty())
            .map(|_| ())
            .map_err(|errno| Step::Inject.failed(errno))
    }
}

fn packet_socket(ifindex: u32, ethertype: u16) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // Without a protocol until it is bound: with one it would capture frames of the other devices as well.
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
    ioctl_io::bind_packet(socket.as_fd(), ifindex, ethertype)?;
    Ok(socket)
}

/// Waits until the socket can be read. False if the deadline is over.
fn await_input(socket: BorrowedFd, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    let Ok(timeout) = left.try_into() else {
        return false;
    };
    let mut fds = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
    match poll(&mut fds, Some(&timeout)) {
        Ok(ready) => ready > 0,
        Err(errno) => errno == Errno::INTR && !left.is_zero(),
    }
}
