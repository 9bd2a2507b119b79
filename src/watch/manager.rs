//! Messages to the service manager.
//!
//! Owns the messages of sd_notify(3) and the watchdog.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use log::warn;
use sd_notify::NotifyState;

use crate::fault::describe_io;

/// The watchdog of the service manager. Without it, `watch` never wakes up while nothing happens.
pub(super) struct Watchdog {
    interval: Option<Duration>,
    last: Instant,
}

impl Watchdog {
    pub(super) fn new() -> Self {
        Self {
            interval: sd_notify::watchdog_enabled().map(|timeout| timeout / 2),
            last: Instant::now(),
        }
    }

    pub(super) fn time_left(&self) -> Option<Duration> {
        self.interval
            .map(|interval| interval.saturating_sub(self.last.elapsed()))
    }

    pub(super) fn ping(&mut self) {
        if self
            .interval
            .is_some_and(|interval| self.last.elapsed() >= interval)
        {
            notify(&[NotifyState::Watchdog]);
            self.last = Instant::now();
        }
    }
}

/// Sends a status for `systemctl status`. The service manager does not read while it is busy, for example during a
/// daemon-reload. Devices must not wait for that: this message is dropped then, and the next message says the same.
pub(super) fn set_status(status: &str) {
    let told = || -> std::io::Result<()> {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
            return Ok(());
        };
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            path => SocketAddr::from_pathname(OsStr::from_bytes(path)),
        }?;
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.send_to_addr(format!("STATUS={status}").as_bytes(), &address)?;
        Ok(())
    };
    match told() {
        Err(e) if e.kind() != ErrorKind::WouldBlock => {
            warn!("tell the service manager: {}", describe_io(&e));
        }
        _ => {}
    }
}

/// Does nothing without a service manager.
pub(super) fn notify(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        warn!("tell the service manager: {}", describe_io(&e));
    }
}
