//! `/run/vxcsum/exclusive-*`: whether a `vxcsum watch --exclusive` runs in a network namespace.
//!
//! Owns the file. Only its lock matters, not its content. The kernel releases the lock when the process
//! dies. A container and the host see the same file, if the container mounts `/run/vxcsum`.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use log::warn;
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::record::Netns;
use crate::error::Error;
use crate::fault::{describe_errno, describe_io};
use crate::run_dir_io::{make_dir, run_dir};

/// The wait for the lock, which [`taken`] also holds for some microseconds.
const LOCK_WAIT: Duration = Duration::from_millis(500);

/// While a process holds it, no other process acts by itself.
pub struct Charge(#[allow(dead_code, reason = "closing the file releases the lock")] Option<File>);

fn path(root: &Path, netns: Netns) -> PathBuf {
    run_dir(root).join(format!("exclusive-{}", netns.inode))
}

/// Takes charge of the devices of this network namespace. If a file is impossible (a read-only system without the
/// mount), no other process can know, and vxcsum continues: packets are more important.
///
/// # Errors
/// Another `watch --exclusive` runs.
pub fn take(root: &Path, netns: Netns) -> Result<Charge, Error> {
    let path = path(root, netns);
    let failed = |why: &str| Error::Io(format!("lock {}: {why}", path.display()));
    let opened = make_dir(&run_dir(root)).and_then(|()| {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)
    });
    let file = match opened {
        Ok(file) => file,
        Err(e) => {
            let why = describe_io(&e);
            warn!(
                "open {}: {why}; the units of this machine are not told to stand back",
                path.display()
            );
            return Ok(Charge(None));
        }
    };
    let end = Instant::now() + LOCK_WAIT;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Charge(Some(file))),
            Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(Errno::WOULDBLOCK) => {
                let why = "another vxcsum watch --exclusive runs on this node: stop one of the two";
                return Err(failed(why));
            }
            Err(e) => return Err(failed(&describe_errno(e))),
        }
    }
}

/// True if a `watch --exclusive` runs.
pub fn taken(root: &Path, netns: Netns) -> bool {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path(root, netns));
    // Closing the file releases the lock.
    file.is_ok_and(|file| {
        flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
    })
}
