//! Files of the checkout, for tests that compare documents with the source.

#![allow(
    dead_code,
    reason = "each test program uses its own part of this module"
)]

pub mod paths;

use std::fs;
use std::path::PathBuf;

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The text of a file of the checkout.
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
