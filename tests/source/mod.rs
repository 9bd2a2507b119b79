//! For tests that hold documents together with the source: files of the checkout, and the codes of its enums.

#![allow(
    dead_code,
    reason = "each test program uses its own part of this module"
)]

pub mod paths;

use std::fs;
use std::path::PathBuf;

/// The checkout.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the checkout.
pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("read {path}: {e}"))
}

/// Every Rust file below src/, as `nat/nft/mod.rs`, with its text.
pub fn sources() -> Vec<(String, String)> {
    let src = root().join("src");
    let (mut folders, mut out) = (vec![src.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("read a folder of src") {
            let path = entry.expect("read a folder of src").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(&src).expect("below src");
                let name = name.to_str().expect("a plain name").to_owned();
                out.push((name, fs::read_to_string(&path).expect("read a source")));
            }
        }
    }
    out.sort();
    out
}

/// The variants of an enum of the source, in kebab case, in their order. serde names them so.
pub fn codes(path: &str, name: &str) -> Vec<String> {
    let text = read(path);
    let (_, body) = text
        .split_once(&format!("pub enum {name} {{\n"))
        .unwrap_or_else(|| panic!("no enum {name} in {path}"));
    let body = body.split("\n}").next().unwrap_or_default();
    let variants = body.lines().filter_map(|line| {
        // What stands deeper are fields, what begins otherwise comments and attributes.
        let variant = line.strip_prefix("    ")?;
        let word = variant.split(|c: char| !c.is_ascii_alphanumeric()).next()?;
        word.starts_with(|c: char| c.is_ascii_uppercase())
            .then_some(word)
    });
    let codes: Vec<String> = variants.map(kebab).collect();
    assert!(!codes.is_empty(), "no variants of {name} in {path}");
    codes
}

fn kebab(name: &str) -> String {
    let mut out = String::new();
    for (n, c) in name.chars().enumerate() {
        if c.is_ascii_uppercase() && n > 0 {
            out.push('-');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}
