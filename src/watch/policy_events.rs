//! Changes of the policy files.
//!
//! Owns which files and directories are listened to, and when the policy is read again. Does not read it.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use log::warn;
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::POLL_INTERVAL;
use crate::fault::describe_errno;
use crate::offload::node_io::Options;
use crate::policy::files_io::{DIRECTORIES, DROP_INS, MAIN};
use crate::run_dir_io::{make_dir, run_dir};

/// An editor or kubelet changes files in several steps. `watch` waits this long for the change to be complete.
const SETTLE: Duration = Duration::from_millis(500);

const CHANGES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF);

/// When to read the policy again.
pub(super) struct PolicyEvents {
    root: PathBuf,
    /// The policy file from the command line.
    file: Option<PathBuf>,
    /// `None` if the kernel has no more of them. The files are then read every minute.
    pub(super) inotify: Option<OwnedFd>,
    due: Option<Instant>,
}

impl PolicyEvents {
    pub(super) fn open(options: &Options) -> Self {
        let file = options.policy.as_deref();
        // Its first change makes it. Made before, it is no event.
        let _ = make_dir(&run_dir(&options.root));
        let mut events = Self {
            root: options.root.clone(),
            file: file.map(|file| std::path::absolute(file).unwrap_or_else(|_| file.to_owned())),
            inotify: None,
            due: None,
        };
        match inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK) {
            Ok(inotify) => events.inotify = Some(inotify),
            Err(errno) => events.give_up(errno),
        }
        events.listen();
        events
    }

    fn give_up(&mut self, errno: Errno) {
        let said = describe_errno(errno);
        warn!("listen for changes of the policy files: {said}; they are read every minute");
        self.inotify = None;
        self.due = Some(Instant::now() + POLL_INTERVAL);
    }

    /// Listens to the places that exist now. The kernel takes a place only once.
    fn listen(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        let failed = self.places().iter().find_map(|place| {
            // What is missing appears in the directory above it.
            for place in place.ancestors() {
                match inotify::add_watch(inotify, place, CHANGES) {
                    Err(Errno::NOENT | Errno::NOTDIR) => {}
                    Err(errno) => return Some(errno),
                    Ok(_) => break,
                }
            }
            None
        });
        if let Some(errno) = failed {
            self.give_up(errno);
        }
    }

    /// The directories of the policy, and the files to which links in them lead.
    fn places(&self) -> Vec<PathBuf> {
        if let Some(file) = &self.file {
            let directory = file.parent().map(Path::to_owned);
            return directory
                .into_iter()
                .chain(leads_to_file(file.clone()))
                .collect();
        }
        let mut places = Vec::new();
        for directory in DIRECTORIES {
            let directory = self.root.join(directory);
            let drop_ins = directory.join(DROP_INS);
            let files = std::fs::read_dir(&drop_ins).into_iter().flatten().flatten();
            let files = files.map(|entry| entry.path());
            places.extend(
                files
                    .chain([directory.join(MAIN)])
                    .filter_map(leads_to_file),
            );
            places.extend([directory, drop_ins]);
        }
        places
    }

    /// Reads the events.
    pub(super) fn on_event(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(inotify, &mut buffer);
        let mut concerned = false;
        let ended = loop {
            match reader.next() {
                Ok(event) => concerned |= event.file_name().is_none_or(|name| self.concerns(name)),
                Err(Errno::INTR) => {}
                Err(errno) => break errno,
            }
        };
        if ended != Errno::AGAIN {
            self.give_up(ended);
        } else if concerned {
            self.due.get_or_insert(Instant::now() + SETTLE);
        }
    }

    /// Whether a file of this name can be part of the policy. `/run/vxcsum` has files that vxcsum writes itself.
    fn concerns(&self, name: &CStr) -> bool {
        let name = name.to_bytes();
        let above = |path: &str| path.split('/').any(|part| part.as_bytes() == name);
        let given = self.file.as_deref().and_then(Path::file_name);
        // kubelet exchanges all files of a ConfigMap by this link.
        let kubelet = b"..data";
        name.ends_with(b".toml")
            || name == kubelet
            || name == DROP_INS.as_bytes()
            || given.is_some_and(|given| given.as_encoded_bytes() == name)
            || DIRECTORIES.into_iter().any(above)
    }

    pub(super) fn time_left(&self) -> Option<Duration> {
        self.due
            .map(|due| due.saturating_duration_since(Instant::now()))
    }

    /// True if the policy must be read now. Listens again before that, because the places may be others.
    pub(super) fn take(&mut self) -> bool {
        if self.time_left().is_none_or(|left| !left.is_zero()) {
            return false;
        }
        self.due = None;
        if self.inotify.is_none() {
            self.due = Some(Instant::now() + POLL_INTERVAL);
        }
        self.listen();
        true
    }
}

/// The path, if it is a link to a regular file. Never `/dev/null`, which every program opens.
fn leads_to_file(path: PathBuf) -> Option<PathBuf> {
    let leads = path.is_symlink() && path.is_file();
    leads.then_some(path)
}
