//! The files that say which kernel and which distribution this is.
//!
//! Owns reading them below a root directory, bounded. They are understood in `kernel`.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::OFlags;
use rustix::system::uname;

use super::KernelFacts;
use super::os_release::parse_os_release;
use crate::fault::describe_io;

/// No such file is longer; a longer one is not one.
const LIMIT: u64 = 64 * 1024;

/// The running kernel. A file that cannot be read is as good as none: the verdict says what it was decided on. `note` gets
/// a sentence for each file that is there and cannot be read.
pub fn kernel_facts(root: &Path, mut note: impl FnMut(String)) -> KernelFacts {
    let uname = uname();
    let mut read = |path: &str| {
        let path = root.join(path);
        match read_text(&path) {
            Ok(text) => Some(text),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => {
                note(format!(
                    "read {}: {}; the kernel is judged without it",
                    path.display(),
                    describe_io(&e)
                ));
                None
            }
        }
    };
    let os = read("etc/os-release").or_else(|| read("usr/lib/os-release"));
    KernelFacts {
        release: uname.release().to_string_lossy().into_owned(),
        version: uname.version().to_string_lossy().into_owned(),
        version_signature: read("proc/version_signature").map(|text| text.trim().to_owned()),
        os: os.map(|text| parse_os_release(&text)).unwrap_or_default(),
    }
}

/// A small text file; bytes that are not UTF-8 are replaced.
///
/// # Errors
/// Whatever opening and reading says, not a regular file, or longer than 64 KiB.
pub fn read_text(path: &Path) -> io::Result<String> {
    // A pipe in somebody's image must not block.
    let flags = OFlags::NONBLOCK.union(OFlags::NOCTTY).bits();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.cast_signed())
        .open(path)?;
    let kind = file.metadata()?.file_type();
    if !kind.is_file() && !kind.is_dir() {
        return Err(io::Error::new(
            ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    let mut bytes = Vec::new();
    // Reading a directory says that it is one.
    file.take(LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LIMIT {
        let text = format!("longer than {} KiB", LIMIT / 1024);
        return Err(io::Error::new(ErrorKind::FileTooLarge, text));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A file that `/proc` has for each thread, such as `net/snmp`. Kernels before 3.17, RHEL 7's among them, have them only for
/// the process: there a thread in a namespace of its own cannot be told from the others.
pub fn proc_own(file: &str) -> PathBuf {
    static DIR: OnceLock<&str> = OnceLock::new();
    let dir = DIR.get_or_init(|| match std::fs::symlink_metadata("/proc/thread-self") {
        Err(e) if e.kind() == ErrorKind::NotFound => "/proc/self",
        _ => "/proc/thread-self",
    });
    Path::new(dir).join(file)
}

/// What this boot is called; empty where /proc does not say. It does not change while a process lives.
pub fn boot_id() -> String {
    static READ: OnceLock<String> = OnceLock::new();
    let read = || {
        let path = Path::new("/proc/sys/kernel/random/boot_id");
        let text = read_text(path).unwrap_or_default();
        text.trim().to_owned()
    };
    READ.get_or_init(read).clone()
}
