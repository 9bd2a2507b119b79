//! `/run/vxcsum/state.json` and its lock.
//!
//! Owns reading, locking and replacing the file. `offload::record` decodes it.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use std::cell::Cell;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use log::warn;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, socket};
use rustix::time::{ClockId, clock_gettime};

use super::record::{Netns, Now, OTHER_BOOT, State};
use crate::ethtool::ioctl_io::get_option;
use crate::fault::{describe_errno, describe_io};
use crate::kernel::read_io::{boot_id, proc_own};
use crate::run_dir_io::{make_dir, read_text, remove_unfinished, replace, run_dir};

/// A run takes milliseconds. A process that holds the lock longer is stuck.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

const NAME: &str = "state.json";
const DAMAGED: &str = "state.json.damaged";
const FOLLOW_UP: &str = "no-peers";

pub struct StateFile {
    dir: PathBuf,
    boot_id: String,
    /// The last read failed, and the file may be good: it must not be replaced.
    unread: Cell<bool>,
}

/// While a process holds it, no other vxcsum process changes devices or the record. The kernel releases it when the
/// process ends.
pub struct Lock(#[allow(dead_code, reason = "closing the file releases the lock")] Option<File>);

impl StateFile {
    pub fn new(root: &Path) -> Self {
        Self {
            dir: run_dir(root),
            boot_id: boot_id(),
            unread: Cell::new(false),
        }
    }

    /// Waits for other vxcsum processes. If a lock file is impossible (a read-only system, no permission), continues
    /// without one: packets are more important than the record.
    ///
    /// # Errors
    /// Another process holds the lock for 10 seconds.
    pub fn lock(&self) -> Result<Lock, String> {
        let path = self.dir.join("lock");
        let opened = self.make_dir().and_then(|()| {
            // Not for writing: closing such a file is an event for the `watch` that listens to this directory.
            let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?;
            Ok(File::from(file))
        });
        let file = match opened {
            Ok(file) => file,
            Err(e) => {
                warn!(
                    "open {}: {}; going on without a lock",
                    path.display(),
                    describe_io(&e)
                );
                return Ok(Lock(None));
            }
        };
        let end = Instant::now() + LOCK_TIMEOUT;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lock(Some(file))),
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(e) => {
                    return Err(format!(
                        "lock {0}: {1}; another vxcsum holds it for more than {2} seconds: `fuser -v {0}` shows which",
                        path.display(),
                        describe_errno(e),
                        LOCK_TIMEOUT.as_secs()
                    ));
                }
            }
        }
    }

    /// The state of this boot; an empty one if there is none. With the lock held, a damaged file is moved aside and
    /// reported; without the lock it is only reported. A file that cannot be read now stays where it is.
    pub fn load(&self, lock: Option<&Lock>) -> State {
        if lock.is_some() {
            remove_unfinished(&self.dir, NAME);
        }
        let path = self.path();
        // What is turned off without the record is forgotten, so one failure is not believed.
        let read = match read_text(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => read_text(&path),
            read => read,
        };
        let text = match read {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return State::new(&self.boot_id),
            Err(e) => {
                let problem = format!("cannot be read: {}", describe_io(&e));
                // A directory, a link or a FIFO is no record at any time.
                let a_file = fs::symlink_metadata(&path).map_or(true, |meta| meta.is_file());
                self.unread.set(a_file);
                return self.set_aside(lock.filter(|_| !a_file), &problem);
            }
        };
        self.unread.set(false);
        let mut state = State::parse(&text, &self.boot_id).unwrap_or_else(|problem| {
            let lock = lock.filter(|_| problem != OTHER_BOOT);
            self.set_aside(lock, &problem)
        });
        state.forget_future(now());
        state
    }

    fn set_aside(&self, lock: Option<&Lock>, problem: &str) -> State {
        let path = self.path();
        let aside = self.dir.join(DAMAGED);
        let moved = lock.is_some() && fs::rename(&path, &aside).is_ok();
        let action = if moved {
            format!("moved to {}", aside.display())
        } else {
            "ignored".to_owned()
        };
        warn!(
            "{} {problem}; {action}. It is not known what vxcsum turned off before",
            path.display()
        );
        State::new(&self.boot_id)
    }

    /// Why it is not known which devices vxcsum turned off since boot, if a record was lost or cannot be read now.
    pub fn lost(&self) -> Option<String> {
        let aside = self.dir.join(DAMAGED);
        if self.unread.get() {
            Some(format!("{} cannot be read", self.path().display()))
        } else if aside.symlink_metadata().is_ok() {
            Some(format!(
                "{} is an earlier record that is damaged",
                aside.display()
            ))
        } else {
            None
        }
    }

    /// Replaces the file in one step.
    pub fn save(&self, state: &State, _: &Lock) {
        if self.unread.get() {
            return;
        }
        let written = state
            .to_text()
            .map_err(io::Error::from)
            .and_then(|text| replace(&self.dir, NAME, text.as_bytes()));
        if let Err(e) = written {
            warn!(
                "write {}: {}; revert will not know what was turned off",
                self.path().display(),
                describe_io(&e)
            );
        }
    }

    /// While this file exists, `vxcsum-followup.path` soon starts another run.
    pub fn set_follow_up(&self, wanted: bool) {
        let path = self.dir.join(FOLLOW_UP);
        let done = match (wanted, path.exists()) {
            (true, false) => replace(&self.dir, FOLLOW_UP, b""),
            (false, true) => fs::remove_file(&path),
            (true, true) | (false, false) => Ok(()),
        };
        if let Err(e) = done {
            warn!(
                "{}: {}; the timer looks at devices without peers",
                path.display(),
                describe_io(&e)
            );
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.join(NAME)
    }

    fn make_dir(&self) -> io::Result<()> {
        make_dir(&self.dir)
    }
}

/// The current time on both clocks.
pub fn now() -> Now {
    let boot = clock_gettime(ClockId::Boottime).tv_sec;
    let unix = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    Now {
        boot: u64::try_from(boot).unwrap_or(0),
        unix,
    }
}

/// The network namespace of this process.
pub fn netns() -> Netns {
    // https://github.com/torvalds/linux/blob/v6.12/include/uapi/asm-generic/socket.h
    const SO_NETNS_COOKIE: i32 = 71;
    let inode = || fs::metadata(proc_own("ns/net")).map(|m| m.ino());
    let cookie = || {
        let mut cookie = [0; 8];
        let socket = socket(AddressFamily::UNIX, SocketType::DGRAM, None).ok()?;
        let asked = get_option(
            socket.as_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            &mut cookie,
        );
        asked.ok().map(|()| u64::from_ne_bytes(cookie))
    };
    // Without them the whole record would be another namespace's, so one failure is not believed.
    Netns {
        inode: inode().or_else(|_| inode()).unwrap_or(0),
        cookie: cookie().or_else(cookie),
    }
}
