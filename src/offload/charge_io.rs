//! `/run/vxcsum/exclusive-*` and `/run/vxcsum/watch-*`: whether a `vxcsum watch --exclusive`, or any `vxcsum watch`, runs in a
//! network namespace.
//!
//! Owns the files. Only their locks matter, not their content. The kernel releases a lock when the process
//! dies. A container and the host see the same files, if the container mounts `/run/vxcsum`.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use std::fs::{File, OpenOptions};
use std::io;
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

/// A lock that lasts as long as this value. `None` if a file is impossible: then no other process can know.
pub struct Charge(#[allow(dead_code, reason = "closing the file releases the lock")] Option<File>);

/// What a `watch` lets other processes know.
#[derive(Clone, Copy)]
enum Sign {
    /// It is in charge: no other process acts by itself. One process holds it.
    Exclusive,
    /// It runs. Several processes hold it.
    Running,
}

impl Sign {
    fn path(self, root: &Path, netns: Netns) -> PathBuf {
        let name = match self {
            Self::Exclusive => "exclusive",
            Self::Running => "watch",
        };
        run_dir(root).join(format!("{name}-{}", netns.inode))
    }

    /// How a watch locks the file, and the lock that another process cannot get meanwhile.
    fn locks(self) -> (FlockOperation, FlockOperation) {
        let exclusive = FlockOperation::NonBlockingLockExclusive;
        let shared = FlockOperation::NonBlockingLockShared;
        match self {
            Self::Exclusive => (exclusive, shared),
            Self::Running => (shared, exclusive),
        }
    }

    fn open(self, root: &Path, netns: Netns) -> io::Result<File> {
        make_dir(&run_dir(root))?;
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(self.path(root, netns))
    }

    fn lock(self, file: &File) -> Result<(), Errno> {
        let end = Instant::now() + LOCK_WAIT;
        loop {
            match flock(file, self.locks().0) {
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                done => return done,
            }
        }
    }

    fn is_held(self, root: &Path, netns: Netns) -> bool {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(self.path(root, netns));
        // Closing the file releases the lock.
        file.is_ok_and(|file| flock(&file, self.locks().1) == Err(Errno::WOULDBLOCK))
    }
}

/// Takes charge of the devices of this network namespace. If a file is impossible (a read-only system without the
/// mount), no other process can know, and vxcsum continues: packets are more important.
///
/// # Errors
/// Another `watch --exclusive` runs.
pub fn take(root: &Path, netns: Netns) -> Result<Charge, Error> {
    let path = Sign::Exclusive.path(root, netns);
    let failed = |why: &str| Error::Io(format!("lock {}: {why}", path.display()));
    let file = match Sign::Exclusive.open(root, netns) {
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
    match Sign::Exclusive.lock(&file) {
        Ok(()) => Ok(Charge(Some(file))),
        Err(Errno::WOULDBLOCK) => {
            let why = "another vxcsum watch --exclusive runs on this node: stop one of the two";
            Err(failed(why))
        }
        Err(e) => Err(failed(&describe_errno(e))),
    }
}

/// Lets other processes know that a `watch` runs. They only report it, so a failure is no error.
pub fn announce(root: &Path, netns: Netns) -> Charge {
    let file = Sign::Running.open(root, netns).ok();
    Charge(file.filter(|file| Sign::Running.lock(file).is_ok()))
}

/// True if a `watch --exclusive` runs.
pub fn taken(root: &Path, netns: Netns) -> bool {
    Sign::Exclusive.is_held(root, netns)
}

/// True if a `watch` runs.
pub fn announced(root: &Path, netns: Netns) -> bool {
    Sign::Running.is_held(root, netns)
}
