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
use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use log::warn;
use sd_notify::NotifyState;

use crate::fault::describe_io;

/// A service manager that reads nothing for longer is stuck. Devices do not wait for it.
const MAX_WAIT: Duration = Duration::from_secs(2);

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
    match tell(&format!("STATUS={status}"), false) {
        Err(e) if e.kind() != ErrorKind::WouldBlock => warn(&e),
        _ => {}
    }
}

/// Does nothing without a service manager.
pub(super) fn notify(states: &[NotifyState<'_>]) {
    let lines: Vec<String> = states.iter().map(ToString::to_string).collect();
    if let Err(e) = tell(&lines.join("\n"), true) {
        warn(&e);
    }
}

fn warn(e: &io::Error) {
    warn!("tell the service manager: {}", describe_io(e));
}

/// The socket is not connected: vxcsum's units forbid `connect`, which is the way to every other server of the machine.
fn tell(text: &str, wait: bool) -> io::Result<()> {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        path => SocketAddr::from_pathname(OsStr::from_bytes(path)),
    }?;
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(!wait)?;
    socket.set_write_timeout(Some(MAX_WAIT))?;
    let end = Instant::now() + MAX_WAIT;
    loop {
        match socket.send_to_addr(text.as_bytes(), &address) {
            Err(e) if e.kind() == ErrorKind::Interrupted && Instant::now() < end => {}
            told => return told.map(|_| ()),
        }
    }
}
