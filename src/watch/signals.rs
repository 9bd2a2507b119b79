//! The signals that `watch` handles.
//!
//! Owns their handlers.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use std::io::Read;
use std::os::unix::net::UnixStream;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// SIGHUP, SIGTERM and SIGINT, as bytes in a socket that poll can wait for.
pub(super) struct Signals {
    pub(super) receiver: UnixStream,
    reload: std::sync::Arc<std::sync::atomic::AtomicBool>,
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

/// What the signals since the last call ask for.
pub(super) enum Signal {
    None,
    Reload,
    Stop,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        let (receiver, sender) = UnixStream::pair()?;
        receiver.set_nonblocking(true)?;
        let signals = Self {
            receiver,
            reload: std::sync::Arc::default(),
            stop: std::sync::Arc::default(),
        };
        for (signal, flag) in [
            (SIGHUP, &signals.reload),
            (SIGTERM, &signals.stop),
            (SIGINT, &signals.stop),
        ] {
            // In this order: when the byte wakes the loop, the flag must be set.
            signal_hook::flag::register(signal, std::sync::Arc::clone(flag))?;
            signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
        }
        Ok(signals)
    }

    /// A signal is not taken yet: its wake-up may be lost, so the loop must not wait.
    pub(super) fn pending(&self) -> bool {
        use std::sync::atomic::Ordering::SeqCst;
        self.stop.load(SeqCst) || self.reload.load(SeqCst)
    }

    /// The socket has bytes if it is `readable`. Without memory the kernel takes none: then the signal has only ended
    /// the wait.
    pub(super) fn take(&self, readable: bool) -> Signal {
        use std::sync::atomic::Ordering::SeqCst;
        let mut bytes = [0; 64];
        while readable && (&self.receiver).read(&mut bytes).is_ok_and(|n| n > 0) {}
        if self.stop.load(SeqCst) {
            Signal::Stop
        } else if self.reload.swap(false, SeqCst) {
            Signal::Reload
        } else {
            Signal::None
        }
    }
}
