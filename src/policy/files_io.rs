//! Reads the policy files.
//!
//! Owns which files are read, in which order, and whether they are trusted. Does not decode them (`policy::parse`
//! does).
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "this file does I/O"
)]

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::fault::{describe_errno, describe_io};
use crate::policy::{self, Fragment, Kind, Policy, PolicyError, PolicyErrors, ProblemKind};
use crate::text::escape;

/// The policy directories, the most important first.
pub const DIRECTORIES: [&str; 4] = [
    "etc/vxcsum",
    "run/vxcsum",
    "usr/local/lib/vxcsum",
    "usr/lib/vxcsum",
];
/// The main file of a policy directory, and its directory of drop-ins.
pub const MAIN: &str = "policy.toml";
pub const DROP_INS: &str = "policy.d";

/// Bytes. A policy is a page of text; a longer file is a mistake.
const MAX_BYTES: u64 = 1 << 20;

/// The uid that must own default files.
const ROOT: u32 = 0;

/// Which policy to read.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// The first `policy.toml` of the four directories below the root, and the drop-ins of all four.
    Default,
    /// This file alone, without drop-ins. The path is not below the root, because a user who names a file means that
    /// file. `/dev/null` is the built-in default. The version may be missing, as in a drop-in.
    Path(&'a Path),
}

/// Reads and merges the policy. Values that no file sets are built in.
///
/// With `euid_is_root` and the root `/`, default files and directories that another user owns or that everybody can
/// write are refused: their writers would decide what root does. Below another root, which is an image or a test, files
/// belong to its builder. A path on the command line is the user's own choice.
///
/// # Errors
/// All problems of all files.
pub fn load(root: &Path, wanted: Wanted, euid_is_root: bool) -> Result<Policy, PolicyErrors> {
    let owner = (euid_is_root && root == Path::new("/")).then_some(ROOT);
    load_owned(root, wanted, owner)
}

/// With an owner, accepts only files and directories that nobody else can write.
fn load_owned(root: &Path, wanted: Wanted, owner: Option<u32>) -> Result<Policy, PolicyErrors> {
    let loaded = match wanted {
        Wanted::Path(path) => one(path),
        Wanted::Default => Loader {
            root,
            owner,
            loaded: Loaded::default(),
        }
        .run(),
    };
    match PolicyErrors::new(loaded.errors) {
        Some(errors) => Err(errors),
        None => Ok(Policy {
            ignored: loaded.ignored,
            ..policy::merge(loaded.fragments)
        }),
    }
}

/// The content of the files, their problems, and the ignored files of policy.d.
#[derive(Default)]
struct Loaded {
    fragments: Vec<Fragment>,
    errors: Vec<PolicyError>,
    ignored: Vec<String>,
}

/// Opening a FIFO must not block, and a terminal must not become the controlling terminal.
const FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

fn one(path: &Path) -> Loaded {
    let opened = fs::open(path, FLAGS, Mode::empty()).map_err(|errno| Problem::io("open", errno));
    let mut loaded = Loaded::default();
    add(
        &mut loaded,
        path,
        Kind::DropIn,
        opened.and_then(|fd| contents(fd, None)),
    );
    loaded
}

/// Adds the content of a file, or its problems. `None` is a masked file.
fn add(loaded: &mut Loaded, path: &Path, kind: Kind, bytes: Result<Option<Vec<u8>>, Problem>) {
    let name = path.to_string_lossy();
    match bytes {
        Ok(None) => {}
        Ok(Some(bytes)) => match policy::parse(&name, kind, &bytes) {
            Ok(fragment) => loaded.fragments.push(fragment),
            Err(errors) => loaded.errors.extend(errors),
        },
        Err(problem) => loaded.errors.push(problem.of(&name)),
    }
}

struct Loader<'a> {
    root: &'a Path,
    owner: Option<u32>,
    loaded: Loaded,
}

impl Loader<'_> {
    fn run(mut self) -> Loaded {
        let root = match fs::open(self.root, FLAGS | OFlags::DIRECTORY, Mode::empty()) {
            Ok(fd) => fd,
            Err(errno) => {
                let problem = Problem {
                    kind: ProblemKind::Root,
                    ..Problem::io("open the root directory", errno)
                };
                let problem = problem.of(&self.root.to_string_lossy());
                self.loaded.errors.push(problem);
                return self.loaded;
            }
        };
        let mut main = None;
        let mut drop_ins = BTreeMap::new();
        for directory in DIRECTORIES.map(Path::new) {
            let Some(fd) = self.directory(root.as_fd(), directory) else {
                continue;
            };
            // A name that cannot be looked up is opened, and that says what is wrong.
            let named = present(fd.as_fd(), OsStr::new(MAIN)).unwrap_or(true);
            if main.is_none() && named {
                main = Some((directory.join(MAIN), Kind::Main));
            }
            let directory = directory.join(DROP_INS);
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
        self.loaded.errors.push(problem.of(&path.to_string_lossy()));
    }

    /// Opens a directory below the root. It may be missing, and must be trusted.
    fn directory(&mut self, root: BorrowedFd, path: &Path) -> Option<OwnedFd> {
        let opened = match open_below(root, path, FLAGS | OFlags::DIRECTORY, self.root) {
            Err(Errno::NOENT) => match present(root, path.as_os_str()) {
                Ok(false) => return None,
                Ok(true) => Err(Problem::dangling(root, path)),
                Err(errno) => Err(Problem::io("stat", errno)),
            },
            Err(errno) => Err(Problem::io("open the directory", errno)),
            Ok(fd) => Ok(fd),
        };
        let trusted = opened.and_then(|fd| {
            let stat = fs::fstat(&fd).map_err(|errno| Problem::io("stat", errno))?;
            trust(&stat, self.owner)?;
            Ok(fd)
        });
        trusted.map_err(|problem| self.problem(path, problem)).ok()
    }

    /// The names of the policy files in a directory.
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
        // Hidden files and backups belong to an editor.
        names.retain(|n| !n.as_bytes().starts_with(b".") && !n.as_bytes().ends_with(b"~"));
        let (names, others): (Vec<_>, Vec<_>) = names
            .into_iter()
            .partition(|n| n.as_bytes().ends_with(b".toml"));
        let others = others
            .into_iter()
            .filter(|n| !n.as_bytes().starts_with(b"README"))
            .map(|n| self.root.join(path).join(n).to_string_lossy().into_owned());
        self.loaded.ignored.extend(others);
        names
    }

    fn bytes(&self, root: BorrowedFd, path: &Path) -> Result<Option<Vec<u8>>, Problem> {
        let target = fs::readlinkat(root, path, Vec::new());
        if target.is_ok_and(|target| target.as_bytes() == b"/dev/null") {
            return Ok(None);
        }
        match open_below(root, path, FLAGS, self.root) {
            Ok(fd) => contents(fd, self.owner),
            Err(Errno::NOENT) => Err(Problem::dangling(root, path)),
            Err(errno) => Err(Problem::io("open", errno)),
        }
    }
}

/// Opens a path below the root. Absolute links stay below it too, if the kernel supports that (5.6 and newer).
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

/// True if the directory has this name, even for a link to nothing.
fn present(directory: BorrowedFd, path: &OsStr) -> Result<bool, Errno> {
    match fs::statat(directory, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// The bytes of an open file. `None` for /dev/null, which masks a file.
fn contents(fd: OwnedFd, owner: Option<u32>) -> Result<Option<Vec<u8>>, Problem> {
    // Checks the open file, because nobody can exchange it any more, unlike its name.
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
    trust(&stat, owner)?;
    let mut bytes = Vec::new();
    let read = File::from(fd).take(MAX_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| Problem {
        kind: ProblemKind::System,
        ..Problem::new(format!("read: {}", describe_io(&error)), "")
    })?;
    if bytes.len() as u64 > MAX_BYTES {
        let help = "a policy is a page of text: is this the right file?";
        return Err(Problem::new(
            "the file is larger than 1 MiB".to_owned(),
            help,
        ));
    }
    Ok(Some(bytes))
}

/// Refuses a file that another user owns or that everybody can write.
fn trust(stat: &Stat, owner: Option<u32>) -> Result<(), Problem> {
    let Some(owner) = owner else { return Ok(()) };
    let (uid, mode) = (stat.st_uid, stat.st_mode & 0o7777);
    let everybody = mode & 0o002 != 0;
    let (message, command) = match (uid == owner, everybody) {
        (true, false) => return Ok(()),
        (true, true) => ("everybody can write it".to_owned(), "chmod o-w {}"),
        (false, false) => (
            format!("it belongs to uid {uid}, not to root"),
            "chown root {}",
        ),
        (false, true) => (
            format!("it belongs to uid {uid}, not to root, and everybody can write it"),
            "chown root {} && chmod o-w {}",
        ),
    };
    Err(Problem::new(
        format!("refused: {message} (mode {mode:04o})"),
        &format!("run `{command}`"),
    ))
}

/// A problem of a file that is not named yet. In the help, `{}` stands for the name.
struct Problem {
    kind: ProblemKind,
    message: String,
    help: String,
}

impl Problem {
    fn new(message: String, help: &str) -> Self {
        Self {
            kind: ProblemKind::Content,
            message,
            help: help.to_owned(),
        }
    }

    fn io(verb: &str, errno: Errno) -> Self {
        let (kind, help) = match errno {
            Errno::ACCESS => (ProblemKind::Denied, "run as a user who may read it"),
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => (ProblemKind::Missing, ""),
            _ => (ProblemKind::System, ""),
        };
        Self {
            kind,
            ..Self::new(format!("{verb}: {}", describe_errno(errno)), help)
        }
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
            // The file was deleted after it was listed.
            Err(_) => Self::io("open", Errno::NOENT),
        }
    }

    fn of(self, name: &str) -> PolicyError {
        let help = self.help.replace("{}", &escape(name.as_bytes()));
        let help = (!help.is_empty()).then_some(help);
        PolicyError::of_file(name, self.kind, self.message, help)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::time::{Duration, Instant};

    use tempfile::TempDir;

    use super::*;
    use crate::policy::{AssumeKernel, BUILT_IN};

    const FIXED: &str = "version = 1\nunknown-kernel = \"fixed\"\n";
    const AFFECTED: &str = "version = 1\nunknown-kernel = \"affected\"\n";

    /// A root directory with these files. A text that begins with `-> ` is a link.
    fn tree(files: &[(&str, &str)]) -> TempDir {
        let root = TempDir::new().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            match text.strip_prefix("-> ") {
                Some(target) => symlink(target, path).unwrap(),
                None => std::fs::write(path, text).unwrap(),
            }
        }
        root
    }

    fn default(root: &TempDir) -> Result<Policy, PolicyErrors> {
        load(root.path(), Wanted::Default, true)
    }

    /// Which files are read, in order, and the resulting value for an unknown kernel.
    #[test]
    fn the_right_files_in_the_right_order() {
        type FileCase<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str], &'a str);
        let rows: &[FileCase] = &[
            ("nothing", &[], &[], BUILT_IN),
            (
                "the first main file alone",
                &[
                    ("usr/lib/vxcsum/policy.toml", AFFECTED),
                    ("run/vxcsum/policy.toml", FIXED),
                ],
                &["run/vxcsum/policy.toml"],
                "run/vxcsum/policy.toml:2",
            ),
            (
                "a masked main file",
                &[
                    ("etc/vxcsum/policy.toml", "-> /dev/null"),
                    ("usr/lib/vxcsum/policy.toml", FIXED),
                ],
                &[],
                BUILT_IN,
            ),
            (
                "drop-ins of all directories by name, /etc before /run before /usr/local/lib before /usr/lib",
                &[
                    ("usr/lib/vxcsum/policy.toml", AFFECTED),
                    ("etc/vxcsum/policy.d/10-a.toml", FIXED),
                    ("usr/lib/vxcsum/policy.d/20-b.toml", AFFECTED),
                    ("usr/local/lib/vxcsum/policy.d/20-b.toml", FIXED),
                    ("run/vxcsum/policy.d/15-c.toml", FIXED),
                    ("etc/vxcsum/policy.d/.hidden.toml", "no"),
                    ("etc/vxcsum/policy.d/backup.toml~", "no"),
                ],
                &[
                    "usr/lib/vxcsum/policy.toml",
                    "etc/vxcsum/policy.d/10-a.toml",
                    "run/vxcsum/policy.d/15-c.toml",
                    "usr/local/lib/vxcsum/policy.d/20-b.toml",
                ],
                "usr/local/lib/vxcsum/policy.d/20-b.toml:2",
            ),
            (
                "a link to /dev/null and an empty file mask a drop-in of a lower directory",
                &[
                    ("run/vxcsum/policy.d/10-a.toml", "-> /dev/null"),
                    ("usr/lib/vxcsum/policy.d/10-a.toml", FIXED),
                    ("etc/vxcsum/policy.d/20-b.toml", ""),
                    ("usr/lib/vxcsum/policy.d/20-b.toml", FIXED),
                ],
                &["etc/vxcsum/policy.d/20-b.toml"],
                BUILT_IN,
            ),
            (
                "a link to a file",
                &[
                    ("etc/vxcsum/policy.toml", "-> site.conf"),
                    ("etc/vxcsum/site.conf", FIXED),
                ],
                &["etc/vxcsum/policy.toml"],
                "etc/vxcsum/policy.toml:2",
            ),
        ];
        for (what, files, read, origin) in rows {
            let root = tree(files);
            let policy = default(&root).unwrap_or_else(|e| panic!("{what}: {e}"));
            let below = |path: &str| path.replace(&format!("{}/", root.path().display()), "");
            let names: Vec<_> = policy.files.iter().map(|f| below(f)).collect();
            assert_eq!(names, *read, "{what}");
            assert_eq!(below(&policy.unknown_kernel.origin), *origin, "{what}");
        }
    }

    #[test]
    fn files_that_cannot_be_read() {
        type TrustCase<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);
        let large = "#".repeat(1 + (1 << 20));
        let rows: &[TrustCase] = &[
            (
                "etc/vxcsum/policy.toml",
                &[("etc/vxcsum/policy.toml", "-> gone.toml")],
                "the link leads to gone.toml, which does not exist",
            ),
            (
                "etc/vxcsum/policy.toml",
                &[("etc/vxcsum/policy.toml/x", "")],
                "this is a directory, not a file",
            ),
            (
                "etc/vxcsum/policy.toml",
                &[("etc/vxcsum/policy.toml", "-> policy.toml")],
                "open: Too many levels of symbolic links (ELOOP)",
            ),
            (
                "etc/vxcsum",
                &[("etc/vxcsum", "")],
                "open the directory: Not a directory (ENOTDIR)",
            ),
            (
                "etc/vxcsum",
                &[("etc/vxcsum", "-> gone")],
                "the link leads to gone, which does not exist",
            ),
            (
                "run/vxcsum/policy.d",
                &[("run/vxcsum/policy.d", "")],
                "open the directory: Not a directory (ENOTDIR)",
            ),
            (
                "etc/vxcsum/policy.d/a.toml",
                &[("etc/vxcsum/policy.d/a.toml", &large)],
                "the file is larger than 1 MiB",
            ),
        ];
        for (path, files, message) in rows {
            let root = tree(files);
            let errors = default(&root).expect_err(message);
            let errors: Vec<_> = errors.items().collect();
            assert_eq!(errors.len(), 1, "{message}: {errors:?}");
            assert_eq!(errors[0].message, *message);
            assert_eq!(errors[0].file, root.path().join(path).to_str().unwrap());
        }
    }

    #[test]
    fn the_errors_of_all_files_come_together() {
        let root = tree(&[
            ("etc/vxcsum/policy.toml", "version = 1\nx = 1\n"),
            ("etc/vxcsum/policy.d/a.toml", "y = 1\nz = 1\n"),
            ("run/vxcsum/policy.d/b.toml", "-> gone"),
        ]);
        let errors = default(&root).unwrap_err();
        let places: Vec<_> = errors
            .items()
            .map(|e| (e.file.rsplit('/').next().unwrap(), e.line))
            .collect();
        let expected = [
            ("policy.toml", Some(2)),
            ("a.toml", Some(1)),
            ("a.toml", Some(2)),
            ("b.toml", None),
        ];
        assert_eq!(places, expected);
    }

    #[test]
    fn absolute_links_stay_below_the_root() {
        let root = tree(&[
            ("etc/vxcsum/policy.toml", "-> /opt/site.toml"),
            ("opt/site.toml", FIXED),
        ]);
        assert_eq!(
            default(&root).unwrap().unknown_kernel.value,
            AssumeKernel::Fixed
        );
    }

    #[test]
    fn a_fifo_does_not_hang() {
        let root = tree(&[("etc/vxcsum/x", "")]);
        let path = root.path().join("etc/vxcsum/policy.toml");
        fs::mkfifoat(fs::CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        let start = Instant::now();
        for wanted in [Wanted::Default, Wanted::Path(&path)] {
            let errors = load(root.path(), wanted, true).unwrap_err();
            let message = &errors.items().next().unwrap().message;
            assert_eq!(message, "this is a FIFO, not a file");
        }
        assert!(start.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_given_path_stands_alone() {
        let root = tree(&[
            ("etc/vxcsum/policy.toml", AFFECTED),
            ("mine.toml", FIXED),
            ("etc/vxcsum/policy.d/a.toml", "unknown-kernel = \"fixed\"\n"),
        ]);
        let read = |path: &Path| load_owned(root.path(), Wanted::Path(path), Some(ROOT));
        let mine = root.path().join("mine.toml");
        std::fs::set_permissions(&mine, std::fs::Permissions::from_mode(0o666)).unwrap();
        let policy = read(&mine).unwrap();
        assert_eq!(policy.files, [mine.to_str().unwrap()]);
        assert_eq!(policy.unknown_kernel.value, AssumeKernel::Fixed);
        let drop_in = read(&root.path().join("etc/vxcsum/policy.d/a.toml")).unwrap();
        assert_eq!(drop_in.unknown_kernel.value, AssumeKernel::Fixed);
        assert_eq!(read(Path::new("/dev/null")).unwrap(), Policy::built_in());
        let missing = read(&root.path().join("none.toml")).unwrap_err();
        let message = &missing.items().next().unwrap().message;
        assert_eq!(message, "open: No such file or directory (ENOENT)");
    }

    #[test]
    fn who_may_write() {
        let mut stat = fs::stat("/").unwrap();
        for (uid, mode, refused) in [
            (0, 0o100_644, None),
            (0, 0o100_664, None),
            (0, 0o040_755, None),
            (
                0,
                0o100_666,
                Some(("everybody can write it (mode 0666)", "chmod o-w F")),
            ),
            (
                0,
                0o041_777,
                Some(("everybody can write it (mode 1777)", "chmod o-w F")),
            ),
            (
                1000,
                0o100_600,
                Some((
                    "it belongs to uid 1000, not to root (mode 0600)",
                    "chown root F",
                )),
            ),
            (
                1000,
                0o100_602,
                Some((
                    "it belongs to uid 1000, not to root, and everybody can write it (mode 0602)",
                    "chown root F && chmod o-w F",
                )),
            ),
        ] {
            stat.st_uid = uid;
            stat.st_mode = mode;
            let error = trust(&stat, Some(ROOT))
                .err()
                .map(|problem| problem.of("F"));
            let expected = refused.map(|(message, command)| {
                let help = Some(format!("run `{command}`"));
                PolicyError::of_file(
                    "F",
                    ProblemKind::Content,
                    format!("refused: {message}"),
                    help,
                )
            });
            assert_eq!(error, expected);
        }
    }

    /// Holds for root and for other users.
    #[test]
    fn files_that_everybody_can_write_are_refused() {
        for path in [
            "etc/vxcsum/policy.toml",
            "etc/vxcsum",
            "usr/lib/vxcsum/policy.d",
            "usr/lib/vxcsum/policy.d/a.toml",
        ] {
            let root = tree(&[
                ("etc/vxcsum/policy.toml", FIXED),
                ("usr/lib/vxcsum/policy.d/a.toml", FIXED),
            ]);
            let own_uid = rustix::process::geteuid().as_raw();
            let full = root.path().join(path);
            let mode = std::fs::metadata(&full).unwrap().permissions().mode();
            std::fs::set_permissions(&full, std::fs::Permissions::from_mode(mode | 0o002)).unwrap();
            let errors = load_owned(root.path(), Wanted::Default, Some(own_uid)).unwrap_err();
            let full = full.to_str().unwrap();
            let refused =
                |e: &PolicyError| e.file == full && e.message.contains("everybody can write it");
            assert!(errors.items().any(refused), "{path}: {errors}");
            assert!(default(&root).is_ok(), "an image's files are its builder's");
        }
    }
}
