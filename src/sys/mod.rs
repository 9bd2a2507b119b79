//! Everything that talks to the kernel or to files, as thinly as it can.
//!
//! Owns sockets, ioctls, file reads and the log. May not decide anything: bytes are understood in `wire`, decisions are
//! taken in `plan`.

pub mod journal;
pub mod message_ids;
pub mod node_evidence;
pub mod probe_file;
pub mod probe_ns;
pub mod state_file;
