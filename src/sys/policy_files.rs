//! Reads the policy files.
//!
//! Owns which files are read, in which order, and whether they can be trusted. May not understand their contents
//! (`policy::parse` does).

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::facts::escape;
use crate::policy::{self, Fragment, Kind, Policy, PolicyError, PolicyErrors};

/// Where policies are, the most important first.
const DIRECTORIES: [&str; 4] = [
    "etc/vxcsum",
    "run/vxcsum",
    "usr/local/lib/vxcsum",
    "usr/lib/vxcsum",
];

/// A policy is a page of text; what is longer is a mistake and not read on.
const MOST: u64 = 1 << 20;

/// Which policy to read.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// The first `policy.toml` of the four directories below the root, and the drop-ins of all four.
    Default,
    /// This file alone, without drop-ins: a path of this machine, not below the root, for whoever names a file means that
    /// file. `/dev/null` is the built-in default. A file in a directory `policy.d` is read as a drop-in, which may leave out
    /// the version.
    Path(&'a Path),
}

/// Reads and merges the policy. What no file says is built in.
///
/// With `euid_is_root` and the root `/`, default files and directories that somebody else than root owns or that everybody can
/// write are refused: whoever can write them would decide what root does. Below another root, which is an image or a test,
/// files belong to its builder, and a path that was given was chosen by whoever runs vxcsum.
///
/// # Errors
/// All problems of all files.
pub fn load(root: &Path, wanted: Wanted, euid_is_root: bool) -> Result<Policy, PolicyErrors> {
    let (fragments, errors) = match wanted {
        Wanted::Path(path) => one(path),
        Wanted::Default => Loader {
            root,
            checked: euid_is_root && root == Path::new("/"),
            loaded: (Vec::new(), Vec::new()),
        }
        .run(),
    };
    match PolicyErrors::new(errors) {
        Some(errors) => Err(errors),
        None => Ok(policy::merge(fragments)),
    }
}

/// What the files say, and what is wrong with them.
type Loaded = (Vec<Fragment>, Vec<PolicyError>);

/// A FIFO must not block, and a terminal must not become the controlling one.
const FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

fn one(path: &Path) -> Loaded {
    let directory = path.parent().and_then(Path::file_name);
    let kind = if directory == Some(OsStr::new("policy.d")) {
        Kind::DropIn
    } else {
        Kind::Main
    };
    let opened = fs::open(path, FLAGS, Mode::empty()).map_err(|errno| Problem::io("open", errno));
    let mut loaded = (Vec::new(), Vec::new());
    add(
        &mut loaded,
        path,
        kind,
        opened.and_then(|fd| contents(fd, false)),
    );
    loaded
}

/// Adds what a file says, or what is wrong with it. None is a file that masks.
fn add(loaded: &mut Loaded, path: &Path, kind: Kind, bytes: Result<Option<Vec<u8>>, Problem>) {
    let name = path.to_string_lossy();
    match bytes {
        Ok(None) => {}
        Ok(Some(bytes)) => match policy::parse(&name, kind, &bytes) {
            Ok(fragment) => loaded.0.push(fragment),
            Err(errors) => loaded.1.extend(errors),
        },
        Err(problem) => loaded.1.push(problem.of(&name)),
    }
}

struct Loader<'a> {
    root: &'a Path,
    checked: bool,
    loaded: Loaded,
}

impl Loader<'_> {
    fn run(mut self) -> Loaded {
        let root = match fs::open(self.root, FLAGS | OFlags::DIRECTORY, Mode::empty()) {
            Ok(fd) => fd,
            Err(errno) => {
                let problem = Problem::io("open the root directory", errno);
                self.loaded.1.push(problem.of(&self.root.to_string_lossy()));
                return self.loaded;
            }
        };
        let mut main = None;
        let mut drop_ins = BTreeMap::new();
        for directory in DIRECTORIES.map(Path::new) {
            let Some(fd) = self.directory(root.as_fd(), directory) else {
                continue;
            };
            if main.is_none() && present(fd.as_fd(), OsStr::new("policy.toml")) {
                main = Some((directory.join("policy.toml"), Kind::Main));
            }
            let directory = directory.join("policy.d");
            for name in self.toml_files(root.as_fd(), &directory) {
                let path = directory.join(&name);
                drop_ins.entry(name).or_insert(path);
            }
        }
        let drop_ins = drop_ins.into_values().map(|path| (path, Kind::DropIn));
        for (path, kind) in main.into_iter().chain(drop_ins) {
            let bytes = self.bytes(root.as_fd(), &path);
            add(&mut self.loaded, &self.root.join(path), kind, bytes);
        }
        self.loaded
    }

    fn problem(&mut self, path: &Path, problem: Problem) {
        let path = self.root.join(path);
        self.loaded.1.push(problem.of(&path.to_string_lossy()));
    }

    /// Opens a directory below the root that may be missing and has to be trusted.
    fn directory(&mut self, root: BorrowedFd, path: &Path) -> Option<OwnedFd> {
        let opened = match open_below(root, path, FLAGS | OFlags::DIRECTORY, self.root) {
            Err(Errno::NOENT) if !present(root, path.as_os_str()) => return None,
            Err(Errno::NOENT) => Err(Problem::dangling(root, path)),
            Err(errno) => Err(Problem::io("open the directory", errno)),
            Ok(fd) => Ok(fd),
        };
        let trusted = opened.and_then(|fd| {
            let stat = fs::fstat(&fd).map_err(|errno| Problem::io("stat", errno))?;
            self.checked.then(|| trust(&stat)).transpose()?;
            Ok(fd)
        });
        trusted.map_err(|problem| self.problem(path, problem)).ok()
    }

    /// The names of a directory's policy files. Hidden files are an editor's.
    fn toml_files(&mut self, root: BorrowedFd, path: &Path) -> Vec<OsString> {
        let Some(fd) = self.directory(root, path) else {
            return Vec::new();
        };
        let names = fs::Dir::new(fd).and_then(|entries| {
            entries
                .map(|entry| Ok(OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned()))
                .collect::<Result<Vec<_>, Errno>>()
        });
        let mut names = names.unwrap_or_else(|errno| {
            self.problem(path, Problem::io("list the directory", errno));
            Vec::new()
        });
        names.retain(|n| n.as_bytes().ends_with(b".toml") && !n.as_bytes().starts_with(b"."));
        names
    }

    fn bytes(&self, root: BorrowedFd, path: &Path) -> Result<Option<Vec<u8>>, Problem> {
        let target = fs::readlinkat(root, path, Vec::new());
        if target.is_ok_and(|target| target.as_bytes() == b"/dev/null") {
            return Ok(None);
        }
        match open_below(root, path, FLAGS, self.root) {
            Ok(fd) => contents(fd, self.checked),
            Err(Errno::NOENT) => Err(Problem::dangling(root, path)),
            Err(errno) => Err(Problem::io("open", errno)),
        }
    }
}

/// Opens a path below the root. Absolute links stay below it too, where the kernel can do that (5.6 and newer).
fn open_below(
    root: BorrowedFd,
    path: &Path,
    flags: OFlags,
    root_path: &Path,
) -> Result<OwnedFd, Errno> {
    if root_path != Path::new("/") {
        match fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
            Err(Errno::NOSYS) => {}
            done => return done,
        }
    }
    fs::openat(root, path, flags, Mode::empty())
}

/// Whether there is such a name, be it a link to nothing.
fn present(directory: BorrowedFd, path: &OsStr) -> bool {
    !matches!(
        fs::statat(directory, path, AtFlags::SYMLINK_NOFOLLOW),
        Err(Errno::NOENT)
    )
}

/// The bytes of an open file; none if it is /dev/null, which masks.
fn contents(fd: OwnedFd, checked: bool) -> Result<Option<Vec<u8>>, Problem> {
    // What is open cannot be exchanged any more, so it is judged instead of its name.
    let stat = fs::fstat(&fd).map_err(|errno| Problem::io("stat", errno))?;
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => None,
        FileType::CharacterDevice if stat.st_rdev == fs::makedev(1, 3) => return Ok(None),
        FileType::Directory => Some("a directory"),
        FileType::Fifo => Some("a FIFO"),
        _ => Some("a device or socket"),
    };
    if let Some(what) = what {
        let help =
            "a policy is a regular file, or a link to /dev/null to mask one of the same name";
        return Err(Problem::new(format!("this is {what}, not a file"), help));
    }
    if checked {
        trust(&stat)?;
    }
    let mut bytes = Vec::new();
    let read = File::from(fd).take(MOST + 1).read_to_end(&mut bytes);
    read.map_err(|error| Problem::new(format!("read: {error}"), ""))?;
    if bytes.len() as u64 > MOST {
        let help = "a policy is a page of text: is this the right file?";
        return Err(Problem::new(
            "the file is larger than 1 MiB".to_owned(),
            help,
        ));
    }
    Ok(Some(bytes))
}

/// Whether only root can write it.
fn trust(stat: &Stat) -> Result<(), Problem> {
    let mode = stat.st_mode & 0o7777;
    let everybody = mode & 0o002 != 0;
    let (message, command) = match (stat.st_uid, everybody) {
        (0, false) => return Ok(()),
        (0, true) => ("everybody can write it".to_owned(), "chmod o-w {}"),
        (uid, false) => (
            format!("it belongs to uid {uid}, not to root"),
            "chown root {}",
        ),
        (uid, true) => (
            format!("it belongs to uid {uid}, not to root, and everybody can write it"),
            "chown root {} && chmod o-w {}",
        ),
    };
    Err(Problem::new(
        format!("refused: {message} (mode {mode:04o})"),
        &format!("run `{command}`"),
    ))
}

/// What is wrong with a file that is not named yet. In the help, `{}` stands for its name.
struct Problem {
    message: String,
    help: String,
}

impl Problem {
    fn new(message: String, help: &str) -> Self {
        Self {
            message,
            help: help.to_owned(),
        }
    }

    fn io(verb: &str, errno: Errno) -> Self {
        let help = if errno == Errno::ACCESS {
            "run as a user who may read it"
        } else {
            ""
        };
        Self::new(format!("{verb}: {}", io::Error::from(errno)), help)
    }

    fn dangling(directory: BorrowedFd, path: &Path) -> Self {
        match fs::readlinkat(directory, path, Vec::new()) {
            Ok(target) => Self::new(
                format!(
                    "the link leads to {}, which does not exist",
                    escape(target.as_bytes())
                ),
                "remove the link, or link it to /dev/null to mask the file",
            ),
            // Gone since it was listed.
            Err(_) => Self::io("open", Errno::NOENT),
        }
    }

    fn of(self, name: &str) -> PolicyError {
        let help = self.help.replace("{}", &escape(name.as_bytes()));
        PolicyError::of_file(name, self.message, (!help.is_empty()).then_some(help))
    }
}
