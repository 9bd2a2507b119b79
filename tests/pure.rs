//! The pure modules do no I/O: none of them names anything that could.

use std::fs;
use std::path::{Path, PathBuf};

const PURE: [&str; 13] = [
    "doctor.rs",
    "error.rs",
    "exposure",
    "facts.rs",
    "glob.rs",
    "kernel",
    "plan.rs",
    "policy",
    "probe",
    "render",
    "report.rs",
    "wire",
    "cli.rs",
];

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

/// `cli.rs` names a type of `sys`, and no function: what the user asked for.
const ALLOWED: [(&str, &str); 1] = [("cli.rs", "crate::ethtool::backend_io::Choice")];

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

#[test]
fn pure_modules_do_no_io() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    for module in PURE {
        let path = src.join(module);
        assert!(
            path.exists(),
            "{} is gone: bring this list up to date",
            path.display()
        );
        files(&path, &mut found);
    }
    assert!(found.len() >= 15, "only {} files", found.len());
    for path in found {
        let code = code(&fs::read_to_string(&path).unwrap());
        let name = path.file_name().unwrap().to_string_lossy();
        for forbidden in FORBIDDEN
            .iter()
            .chain(&["crate::sys", "println!", "unsafe"])
        {
            let lines = code.lines().filter(|line| line.contains(forbidden));
            let bad: Vec<_> = lines
                .filter(|l| {
                    !ALLOWED
                        .iter()
                        .any(|(f, use_)| *f == name && l.contains(use_))
                })
                .collect();
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
    assert!(with[0].ends_with("sys/ioctl.rs"), "{with:?}");
}
