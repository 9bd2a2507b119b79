//! `/run/vxcsum`: the files that vxcsum keeps until the next boot.
//!
//! Owns reading such a file and replacing it in one step. Does not know what the files contain.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Bytes. The record of ten thousand devices is smaller.
const LIMIT: u64 = 16 << 20;

/// The directory for what is true until the next boot.
pub fn run_dir(root: &Path) -> PathBuf {
    root.join("run/vxcsum")
}

/// Reads a file of this directory. Follows no symbolic link and never waits for a pipe.
pub fn read_text(path: &Path) -> io::Result<String> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    // One more than the size, so that one read finds the content and the next one its end.
    let capacity = metadata.len().min(LIMIT) + 1;
    let mut bytes = Vec::with_capacity(usize::try_from(capacity).unwrap_or(0));
    file.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Replaces a file in one step: a reader sees the old content or the new content, even if a process is killed at any
/// moment.
pub fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let new = dir.join(format!("{name}.new"));
    let create = || OpenOptions::new().write(true).create_new(true).open(&new);
    let mut file = match create() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => make_dir(dir).and_then(|()| create()),
        // Replace, and never follow, what a killed run left behind.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(&new).and_then(|()| create())
        }
        done => done,
    }?;
    // Readable by everybody under any umask: `status` needs no privilege.
    let done = file
        .set_permissions(fs::Permissions::from_mode(0o644))
        .and_then(|()| file.write_all(bytes))
        .and_then(|()| fs::rename(&new, dir.join(name)));
    if done.is_err() {
        let _ = fs::remove_file(&new);
    }
    done
}

/// Removes what a killed run did not complete of this file. Only with the lock, because another run may write it now.
pub fn remove_unfinished(dir: &Path, name: &str) {
    let _ = fs::remove_file(dir.join(format!("{name}.new")));
}

pub fn make_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
}
