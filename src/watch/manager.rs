//! What the service manager is told.
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

/// The service manager's watchdog, if it asks for one: the only reason ever to wake up while nothing happens.
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

/// Tells what has been done, for `systemctl status`. The service manager reads nothing while it is busy, as with a
/// daemon-reload. No device waits for that: this message is dropped then, and the next one says it.
pub(super) fn tell(status: &str) {
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

/// Without a service manager there is nobody to tell.
pub(super) fn notify(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        warn!("tell the service manager: {}", describe_io(&e));
    }
}
