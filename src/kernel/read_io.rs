//! Reads the files that identify the kernel and the distribution.
//!
//! Owns reading them below a root directory, with a limit on their size. `kernel` decodes them.
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

/// Bytes. A longer file is an error.
const LIMIT: u64 = 64 * 1024;

/// The strings of the running kernel. A file that cannot be read counts as missing. `note` gets a sentence for each
/// file that exists and cannot be read.
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

/// Reads a small text file. Bytes that are not UTF-8 are replaced.
///
/// # Errors
/// The error of opening or reading. The file is not a regular file, or is longer than 64 KiB.
pub fn read_text(path: &Path) -> io::Result<String> {
    // Opening a pipe must not block.
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
    // Reading a directory fails with `EISDIR`, which names the problem.
    file.take(LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LIMIT {
        let text = format!("longer than {} KiB", LIMIT / 1024);
        return Err(io::Error::new(ErrorKind::FileTooLarge, text));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The path of a file that `/proc` has for each thread, such as `net/snmp`. Kernels before 3.17, also that of RHEL 7,
/// have such files only for the process. There, a thread in a namespace of its own reads the files of the main thread's
/// namespace.
pub fn proc_own(file: &str) -> PathBuf {
    static DIR: OnceLock<&str> = OnceLock::new();
    let dir = DIR.get_or_init(|| match std::fs::symlink_metadata("/proc/thread-self") {
        Err(e) if e.kind() == ErrorKind::NotFound => "/proc/self",
        _ => "/proc/thread-self",
    });
    Path::new(dir).join(file)
}

/// The id of this boot. Empty if /proc does not have it. Constant while a process lives.
pub fn boot_id() -> String {
    static READ: OnceLock<String> = OnceLock::new();
    let read = || {
        let path = Path::new("/proc/sys/kernel/random/boot_id");
        // With another id the record would be another boot's, so one failure is not believed.
        let text = read_text(path).or_else(|_| read_text(path));
        let text = text.unwrap_or_default();
        text.trim().to_owned()
    };
    READ.get_or_init(read).clone()
}
