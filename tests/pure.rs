//! The rules that the compiler does not check: which files may do I/O, where `unsafe` is, and that no module imports
//! upwards.
//!
//! clippy.toml names the types, functions and macros that do I/O, src/lib.rs denies them, and the files that do I/O
//! allow them at their top. This test knows which files may, and checks whole modules (`std::fs`, `rustix::net`), which
//! clippy cannot.

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use source::paths::{lines_with_word, named};
use source::{read, sources};

/// Paths that a pure file must not use, nor anything below them. `core::net` has the addresses.
const IO: [&str; 24] = [
    "std",
    "std::env",
    "std::fs",
    "std::net",
    "std::os::fd",
    "std::os::unix::net",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::io::stderr",
    "std::io::stdin",
    "std::io::stdout",
    "libc",
    "log",
    "neli",
    "rustix",
    "sd_notify",
    "signal_hook",
    "systemd_journal_logger",
    "print!",
    "println!",
    "eprint!",
    "eprintln!",
];
/// Exceptions: types without I/O.
const DATA: [&str; 2] = ["rustix::io::Errno", "std::process::ExitCode"];

/// A file may do I/O if its name says so, or if its module joins pure code and I/O.
fn may_do_io(file: &str) -> bool {
    file.ends_with("_io.rs")
        || file == "main.rs"
        || file.starts_with("commands/")
        || file.starts_with("watch/")
}

/// The place of a file in the crate, such as `["nat", "nft"]`.
fn module(file: &str) -> Vec<&str> {
    let path = file.trim_end_matches(".rs");
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop_if(|last| matches!(*last, "mod" | "lib" | "main"));
    parts
}

/// The violations in one file.
fn impurities(file: &str, text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut fail = |line: usize, what: String| out.push(format!("src/{file}:{line}: {what}"));
    let pure = !may_do_io(file);
    for found in named(text, &module(file)) {
        // `std` only as a whole, because everything is below it.
        let is_io = |io: &str| found.text() == io || (io != "std" && found.is_in(io));
        let forbidden = IO.iter().any(|io| is_io(io)) && !DATA.iter().any(|data| found.is_in(data));
        if pure && forbidden {
            fail(found.line, format!("{} in a pure file", found.text()));
        }
        if pure && found.text().starts_with("clippy::disallowed_") && file != "lib.rs" {
            fail(found.line, format!("{} in a pure file", found.text()));
        }
    }
    if file != "ethtool/ioctl_io.rs" {
        for line in lines_with_word(text, "unsafe") {
            fail(line, "unsafe outside of ethtool/ioctl_io.rs".into());
        }
    }
    out
}

#[test]
fn files_are_pure_unless_their_name_says_otherwise() {
    let sources = sources();
    let pure = sources.iter().filter(|(file, _)| !may_do_io(file)).count();
    assert!(pure >= 40, "only {pure} files");
    let wrong: Vec<String> = sources
        .iter()
        .flat_map(|(file, text)| impurities(file, text))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Each of these lines makes a pure file impure, also after its tests.
#[test]
fn a_planted_violation_is_found() {
    let pure = read("src/nat/exposure.rs");
    assert_eq!(impurities("nat/exposure.rs", &pure), [""; 0]);
    for planted in [
        "use std::{fs, io};",
        "use std::{io::{self, Write}, fs as files};",
        "use std as s;",
        "use std::process::{Command, ExitCode};",
        "fn f() { std::fs::read_to_string(\"/etc/passwd\"); }",
        "fn f() { ::std::env::var(\"X\"); }",
        "mod m { use std::net::UdpSocket; }",
        "fn f() { let c = 'x'; let t = std::time::Instant::now(); }",
        "fn f() { let s = \"\\\"\"; rustix::fs::open(r#\"a\"b\"#); }",
        "fn f() { println!(\"x\"); }",
        "fn f() { log::warn!(\"x\"); }",
        "fn f() { unsafe {} }",
        "#![allow(clippy::disallowed_types)]",
    ] {
        for text in [format!("{planted}\n{pure}"), format!("{pure}\n{planted}\n")] {
            let found = impurities("nat/exposure.rs", &text);
            assert_eq!(found.len(), 1, "{planted}: {found:?}");
        }
        // The name of the file alone decides.
        let new = impurities("nat/new.rs", planted);
        assert_eq!(new.len(), 1, "{planted}: {new:?}");
    }
    for harmless in [
        "// std::fs\n/* std::fs /* nested */ unsafe */",
        "const S: &str = \"std::fs unsafe\"; const R: &str = r##\"std::fs\"##;",
        "use core::net::{IpAddr, Ipv4Addr};\nuse std::time::Duration;",
        "use rustix::io::Errno;",
        "fn f<'a>(x: &'a str) -> &'a str { x }",
    ] {
        assert_eq!(impurities("nat/new.rs", harmless), [""; 0], "{harmless}");
    }
    assert_eq!(impurities("nat/new_io.rs", "use std::fs;"), [""; 0]);
}

/// Uses the project's own clippy.toml, in a crate with one file.
#[test]
fn clippy_finds_a_planted_violation() {
    let directory = tempfile::tempdir().expect("make a directory");
    let path = |name: &str| directory.path().join(name);
    let write = |name: &str, text: &str| std::fs::write(path(name), text).expect("write a file");
    write("clippy.toml", &read("clippy.toml"));
    write(
        "Cargo.toml",
        "[package]\nname = \"planted\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[lib]\npath = \"lib.rs\"\n",
    );
    let head = read("src/lib.rs");
    let denied = &head[head.find("#![deny(").expect("lib.rs denies I/O")..];
    let denied = &denied[..denied.find(")]").expect("the end of it") + 2];
    let clippy = |code: &str| {
        write("lib.rs", &format!("{denied}\n{code}\n"));
        let output = Command::new(env!("CARGO"))
            .args(["clippy", "--offline", "--quiet"])
            .current_dir(directory.path())
            .env("CARGO_TARGET_DIR", path("target"))
            .output()
            .expect("run cargo clippy");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), errors)
    };
    for code in [
        "pub fn f() -> Vec<u8> { std::fs::read(\"/etc/passwd\").unwrap_or_default() }",
        "use std::{fs as files}; pub fn f() -> bool { files::File::open(\"/\").is_ok() }",
        "pub fn f(p: &std::path::Path) -> bool { p.exists() }",
        "pub fn f() { println!(\"x\"); }",
        "pub fn f() -> std::time::Duration { std::time::Instant::now().elapsed() }",
    ] {
        let (passed, errors) = clippy(code);
        assert!(
            !passed && errors.contains("use of a disallowed"),
            "{code}: {errors}"
        );
    }
    let (passed, errors) = clippy("pub fn f(x: &str) -> usize { x.len() }");
    assert!(passed, "{errors}");
}

/// The top-level modules, from the bottom up. Modules in one line do not import each other.
const LEVELS: [&[&str]; 15] = [
    &["text", "codes", "fault", "glob", "term"],
    &["netlink", "run_dir_io", "sealed"],
    &["ethtool"],
    &["link"],
    &["kernel"],
    &["policy", "nat"],
    &["probe"],
    &["error"],
    &["offload"],
    &["output"],
    &["doctor"],
    &["cli"],
    &["docs", "export", "watch"],
    &["commands"],
    &["fuzzing"],
];

/// Imports upwards that are allowed, with the reason.
const EXCEPTIONS: [(&str, &str, &str); 1] = [(
    "kernel",
    "probe",
    "tests of the verdict read a recorded run of the probe",
)];

type Imports = BTreeMap<(String, String), BTreeSet<String>>;

/// Which module imports which, with the files that do. Tests in the files count too.
fn imports(sources: &[(String, String)]) -> Imports {
    let mut out = Imports::new();
    let tops: BTreeSet<&str> = LEVELS
        .iter()
        .flat_map(|level| level.iter().copied())
        .collect();
    for (file, text) in sources {
        let module = module(file);
        let Some(top) = module.first() else { continue };
        for found in named(text, &module) {
            let target = match &*found.path[0] {
                "crate" => found.path.get(1),
                _ => None,
            };
            if let Some(target) = target
                && target != top
                && tops.contains(&**target)
            {
                let import = ((*top).to_owned(), target.clone());
                out.entry(import).or_default().insert(file.clone());
            }
        }
    }
    out
}

fn level(top: &str) -> usize {
    let found = LEVELS.iter().position(|level| level.contains(&top));
    found.unwrap_or_else(|| panic!("the module {top} is at no level"))
}

/// Imports that do not go downwards.
fn upwards(imports: &Imports) -> Vec<(&str, &str)> {
    let all = imports.keys().map(|(from, to)| (&**from, &**to));
    all.filter(|(from, to)| level(from) <= level(to)).collect()
}

/// `--nocapture` prints the imports. Without imports upwards there is no circle.
#[test]
fn no_module_imports_upwards() {
    let sources = sources();
    let imports = imports(&sources);
    for ((from, to), files) in &imports {
        let files: Vec<&str> = files.iter().map(|file| &**file).collect();
        println!("{from} --> {to}: {}", files.join(" "));
    }
    for (file, _) in &sources {
        if let Some(top) = module(file).first() {
            level(top);
        }
    }
    let wrong = upwards(&imports);
    println!("{} imports, {} not downwards", imports.len(), wrong.len());
    let excepted: Vec<_> = EXCEPTIONS
        .iter()
        .map(|(from, to, _)| (*from, *to))
        .collect();
    for (from, to) in &wrong {
        let files = &imports[&((*from).to_owned(), (*to).to_owned())];
        assert!(
            excepted.contains(&(from, to)),
            "{from} imports {to}: {files:?}"
        );
    }
    for exception in excepted {
        assert!(
            wrong.contains(&exception),
            "{exception:?} is no exception any more"
        );
    }
}

/// ARCHITECTURE.md lists every top-level module, in the order of the imports.
#[test]
fn architecture_md_lists_the_modules_from_the_bottom_up() {
    let map = read("docs/ARCHITECTURE.md");
    let (_, table) = map.split_once("## Modules").expect("a chapter Modules");
    let table = table.split("\n## ").next().unwrap_or_default();
    let rows = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    let listed: Vec<String> = rows
        .flat_map(|tops| tops.split(", "))
        .map(|top| {
            top.trim_matches('`')
                .trim_end_matches(".rs")
                .trim_end_matches('/')
                .to_owned()
        })
        .collect();
    let levels: Vec<usize> = listed.iter().map(|top| level(top)).collect();
    assert!(levels.is_sorted(), "{listed:?}: {levels:?}");
    let mut all: Vec<&str> = LEVELS.concat();
    let mut found: Vec<&str> = listed.iter().map(|top| &**top).collect();
    all.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, all);
}

#[test]
fn an_import_that_runs_upwards_is_found() {
    let plant = |file: &str, text: &str| imports(&[(file.to_owned(), text.to_owned())]);
    for text in [
        "use crate::offload::plan;",
        "use crate::{text::IfName, offload::{plan, report}};",
        "fn f() { crate::offload::plan::plan(); }",
        "use super::super::offload::plan;",
        "mod tests { use super::super::super::offload::plan; }",
    ] {
        let found = plant("nat/new.rs", text);
        assert_eq!(upwards(&found), [("nat", "offload")], "{text}");
    }
    assert_eq!(
        upwards(&plant(
            "nat/new.rs",
            "use crate::text::IfName; use super::rules;"
        )),
        []
    );
    assert_eq!(
        upwards(&plant("nat/new.rs", "use crate::policy::Policy;")),
        [("nat", "policy")]
    );
}
