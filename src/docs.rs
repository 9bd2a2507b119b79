//! The documents that ship with the binary: manual pages and completions.
//!
//! Owns their paths in the source. A test compares them with the command line.

use crate::cli::{Page, Shell};

/// A script that completes commands, options and the names of existing devices.
pub const fn completions(shell: Shell) -> &'static str {
    match shell {
        Shell::Bash => include_str!("../packaging/completions/vxcsum.bash"),
        Shell::Zsh => include_str!("../packaging/completions/_vxcsum"),
        Shell::Fish => include_str!("../packaging/completions/vxcsum.fish"),
    }
}

/// A manual page in mdoc(7).
pub const fn man(page: Page) -> &'static str {
    match page {
        Page::Vxcsum => include_str!("../docs/man/vxcsum.8"),
        Page::VxcsumPolicy => include_str!("../docs/man/vxcsum-policy.5"),
    }
}
