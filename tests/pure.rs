//! The pure modules do no I/O: none of them names anything that could.

use std::fs;
use std::path::{Path, PathBuf};

const FORBIDDEN: [&str; 16] = [
    "std::fs",
    "std::net",
    "std::process",
    "std::env",
    "std::time",
    "std::os::fd",
    "std::thread",
    "libc",
    "neli",
    "rustix::fs",
    "rustix::net",
    "rustix::system",
    "rustix::thread",
    "io::stdout",
    "io::stderr",
    "log::",
];

fn files(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            files(&entry.unwrap().path(), found);
        }
    } else {
        found.push(path.to_owned());
    }
}

/// What a reviewer would call the code: without comments, and without the tests at the end.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]").unwrap_or(text.len());
    text[..end]
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// A file may do I/O if its name says so, or if its folder is one that joins both sides.
fn may_do_io(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_string_lossy();
    let joins = |folder: &str| path.components().any(|part| part.as_os_str() == folder);
    name.ends_with("_io.rs") || name == "main.rs" || joins("commands") || joins("watch")
}

#[test]
fn pure_files_do_no_io() {
    let mut found = Vec::new();
    files(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut found,
    );
    found.retain(|path| !may_do_io(path));
    assert!(found.len() >= 40, "only {} files", found.len());
    for path in found {
        let code = code(&fs::read_to_string(&path).unwrap());
        for forbidden in FORBIDDEN.iter().chain(&["println!", "unsafe"]) {
            let lines = code.lines().filter(|line| line.contains(forbidden));
            let bad: Vec<_> = lines.collect();
            assert!(
                bad.is_empty(),
                "{} names {forbidden}: {bad:?}",
                path.display()
            );
        }
    }
}

#[test]
fn unsafe_code_lives_in_one_file() {
    let mut found = Vec::new();
    files(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut found,
    );
    let with: Vec<_> = found
        .iter()
        .filter(|path| code(&fs::read_to_string(path).unwrap()).contains("unsafe "))
        .collect();
    assert_eq!(with.len(), 1, "{with:?}");
    assert!(with[0].ends_with("ethtool/ioctl_io.rs"), "{with:?}");
}
