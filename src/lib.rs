//! vxcsum keeps Linux nodes from sending VXLAN packets with a broken outer UDP checksum.
//!
//! The modules from the bottom up, one level on each line:
//!
//! ```text
//! text, codes, glob, term, fault
//! netlink, run_dir_io, sealed
//! ethtool
//! link
//! kernel
//! policy, nat
//! probe
//! error
//! offload
//! output
//! doctor
//! cli
//! docs, export, watch
//! commands
//! fuzzing (only in builds for tests)
//! ```
//!
//! A module imports only modules of levels above. A file does no I/O unless it is named `*_io.rs` or main.rs, or is in
//! `commands` or `watch`. docs/ARCHITECTURE.md is the map.

#![deny(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a file is pure by default: the I/O that clippy.toml lists is for the files that allow it"
)]

#[macro_use]
mod codes;

pub mod cli;
pub mod commands;
pub(crate) mod docs;
pub(crate) mod doctor;
pub mod error;
pub mod ethtool;
pub mod export;
pub mod fault;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub(crate) mod glob;
pub mod kernel;
pub mod link;
pub mod nat;
pub mod netlink;
pub mod offload;
pub mod output;
pub mod policy;
pub mod probe;
pub(crate) mod run_dir_io;
pub(crate) mod sealed;
mod term;
pub mod text;
pub(crate) mod watch;
