//! vxcsum keeps Linux nodes from sending VXLAN packets with a broken outer UDP checksum.
//!
//! The flow, and the order of the modules: `policy` and `facts` go into `plan::decide`, which is pure; `apply` carries a
//! plan out and cannot decide; `report` joins both; `render` writes a report. Only `sys` talks to the kernel.

pub mod apply;
pub mod cli;
pub mod commands;
pub mod discover;
pub mod docs;
pub mod doctor;
pub mod error;
pub mod ethtool;
pub mod facts;
pub mod fault;
pub mod glob;
pub mod kernel;
pub mod link;
pub mod nat;
pub mod netlink;
pub mod node;
pub mod plan;
pub mod policy;
pub mod probe;
pub mod render;
pub mod report;
pub mod run_dir_io;
pub mod state;
pub mod sys;
pub mod text;
pub mod watch;
pub mod wire;
